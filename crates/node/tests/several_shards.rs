//! One node with several shards, as its faces see it.

use std::path::Path;
use std::sync::Arc;

use proteus_env::SystemClock;
use proteus_kernel_api::cache::{
    self, Call, Declaration, DerivedEntry, EventTarget, KeyPart, Op, RecordedEvents, Refresh,
    Reply, answer,
};
use proteus_kernel_api::{Durability, Kernel, Minitransaction, Outcome, table};
use proteus_node::{Node, NodeOptions};

async fn start(directory: &Path, shard_count: u32) -> Node {
    let options = NodeOptions {
        data_directory: directory.to_owned(),
        durability: Durability::Flushed,
        disk_reserve_bytes: 0,
        cluster: None,
        shard_count,
        replica_count: 0,
    };
    Node::start(&options, Arc::new(SystemClock::new())).await.unwrap()
}

fn op(line: &str) -> Op {
    Op::command(&line.split(' ').collect::<Vec<_>>())
}

async fn commit(kernel: &Arc<dyn Kernel>, mini: Minitransaction) -> Vec<Reply> {
    match kernel.commit(mini).await.unwrap() {
        Outcome::Committed { replies, .. } => {
            let of_cache = |reply| match reply {
                proteus_kernel_api::Reply::Cache(reply) => reply,
                other => panic!("{other:?}"),
            };
            replies.into_iter().map(of_cache).collect()
        }
        other => panic!("{other:?}"),
    }
}

async fn run(kernel: &Arc<dyn Kernel>, line: &str) -> Reply {
    commit(kernel, Minitransaction::of(op(line))).await.remove(0)
}

async fn read(kernel: &Arc<dyn Kernel>, line: &str) -> Reply {
    kernel.pass_read_barrier().await.unwrap();
    let call = Call::new(&line.split(' ').collect::<Vec<_>>());
    kernel.read(|view| answer(view, &call)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_spread_and_commits_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path(), 4).await;
    let kernel = node.kernel();
    for number in 0..100 {
        assert_eq!(run(&kernel, &format!("SET k{number} {number} EX 1000")).await, Reply::OK);
    }
    let shards = node.shard_statuses();
    assert_eq!(shards.len(), 4);
    assert!(shards.iter().all(|(_, status)| status.applied_count > 10), "{shards:?}");
    assert_eq!(read(&kernel, "DBSIZE").await, Reply::Integer(100));
    let all: Vec<String> = (0..100).map(|number| format!("k{number}")).collect();
    let values = read(&kernel, &format!("MGET {}", all.join(" "))).await;
    let expected = (0..100).map(|number| Reply::Bulk(number.to_string().into())).collect();
    assert_eq!(values, Reply::Array(expected));
    assert_eq!(run(&kernel, &format!("DEL {}", all[..50].join(" "))).await, Reply::Integer(50));
    assert_eq!(read(&kernel, "DBSIZE").await, Reply::Integer(50));

    // One minitransaction over all shards and another machine.
    let mut mini = Minitransaction::of(table::Op::ReserveTableId);
    for number in 50..100 {
        mini = mini.op(op(&format!("INCR k{number}")));
    }
    let Outcome::Committed { replies, .. } = kernel.commit(mini).await.unwrap() else {
        panic!("refused")
    };
    assert_eq!(replies.len(), 51);
    assert_eq!(replies[50], proteus_kernel_api::Reply::Cache(Reply::Integer(100)));

    // Refused by one of its parts.
    let mut mini = Minitransaction::default();
    for number in 50..99 {
        mini = mini.op(op(&format!("INCR k{number}")));
    }
    let refusing = Call::new(&["LPUSH", "k99", "x"]);
    let outcome = kernel.commit(mini.op(Op::OrRefuse(refusing))).await.unwrap();
    assert!(matches!(outcome, Outcome::Refused { op_index: 49, .. }), "{outcome:?}");
    assert_eq!(read(&kernel, "GET k50").await, Reply::Bulk("51".into()));

    // What every shard must know.
    let script = run(&kernel, "SCRIPT LOAD return(redis.call('get',KEYS[1]))").await;
    let Reply::Bulk(sha) = script else { panic!("{script:?}") };
    let sha = String::from_utf8_lossy(&sha).into_owned();
    for number in 50..60 {
        let reply = run(&kernel, &format!("EVALSHA {sha} 1 k{number}")).await;
        assert_eq!(reply, Reply::Bulk((number + 1).to_string().into()));
    }
    let elsewhere = run(
        &kernel,
        "EVAL return(redis.call('get','k50')..redis.call('get','k51')..redis.call('get','k52')) 0",
    )
    .await;
    assert!(matches!(elsewhere, Reply::Error(_)), "{elsewhere:?}");
    node.shutdown().await;

    let node = start(directory.path(), 4).await;
    let kernel = node.kernel();
    assert_eq!(read(&kernel, "DBSIZE").await, Reply::Integer(50));
    assert_eq!(read(&kernel, "GET k98").await, Reply::Bulk("99".into()));
    assert_eq!(run(&kernel, "FLUSHALL").await, Reply::OK);
    assert_eq!(read(&kernel, "DBSIZE").await, Reply::Integer(0));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_shards_are_founded_in_one_commit() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path(), 32).await;
    let led = node.kernel().slots_led();
    assert_eq!(led.len(), 32);
    assert!(led.iter().all(|range| range.last - range.first >= 511), "{led:?}");
    let commits = node.shard_statuses().into_iter().map(|(_, status)| status.applied_count);
    assert!(commits.clone().all(|count| count < 20), "{:?}", commits.collect::<Vec<_>>());
    let kernel = node.kernel();
    assert_eq!(run(&kernel, "SET k 1").await, Reply::OK);
    assert_eq!(read(&kernel, "GET k").await, Reply::Bulk("1".into()));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_while_keys_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path(), 1).await;
    let kernel = node.kernel();
    for number in 0..2_000 {
        run(&kernel, &format!("SET k{number} 0")).await;
    }
    let library = "#!lua name=l\nredis.register_function('f', function(k) return redis.call('get', k[1]) end)";
    let load = Minitransaction::of(Op::command(&["FUNCTION", "LOAD", library]));
    assert_eq!(commit(&kernel, load).await, [Reply::Bulk("l".into())]);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let kernel = kernel.clone();
            proteus_env::task::spawn(async move {
                for round in 1..=150 {
                    let minis = (0..10).map(|at| {
                        let key = (writer * 500 + round * 7 + at) % 500 + writer * 500;
                        Minitransaction::of(op(&format!("INCR k{key}")))
                    });
                    for outcome in kernel.propose(minis.collect()).await.unwrap() {
                        assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
                    }
                }
            })
        })
        .collect();
    node.spread(3).await.unwrap();
    for writer in writers {
        writer.await.unwrap();
    }
    let mut sum = 0;
    for number in 0..2_000 {
        let Reply::Bulk(value) = read(&kernel, &format!("GET k{number}")).await else {
            panic!("k{number} is gone")
        };
        sum += std::str::from_utf8(&value).unwrap().parse::<u64>().unwrap();
    }
    assert_eq!(sum, 4 * 150 * 10);
    assert_eq!(read(&kernel, "DBSIZE").await, Reply::Integer(2_000));
    let counts = node.shard_statuses();
    assert_eq!(counts.len(), 3);
    for number in 0..10 {
        assert_eq!(
            run(&kernel, &format!("FCALL f 1 k{number}")).await,
            read(&kernel, &format!("GET k{number}")).await
        );
    }
    let keys = kernel.read(|view| cache::recount(view, 0)).unwrap();
    assert_eq!(keys, kernel.read(|view| cache::sums(view, 0)).unwrap());
    node.shutdown().await;
}

/// A table of ids and names, and its number.
async fn create_table(kernel: &Arc<dyn Kernel>) -> table::TableId {
    let column = |name: &str, column_type, not_null| table::Column {
        name: name.to_owned(),
        column_type,
        not_null,
        default: None,
    };
    let definition = table::Definition {
        schema: "public".to_owned(),
        name: "users".to_owned(),
        columns: vec![
            column("id", table::ColumnType::BigInt, true),
            column("name", table::ColumnType::Text { length_max: None }, false),
        ],
        primary_key: vec![0],
        source: table::Source::Rows,
    };
    let create = table::Op::CreateTable { id: None, definition, if_not_exists: false };
    let Outcome::Committed { replies, .. } =
        kernel.commit(Minitransaction::of(create)).await.unwrap()
    else {
        panic!("refused")
    };
    match replies.first() {
        Some(proteus_kernel_api::Reply::Table(table::Reply::TableCreated { id, .. })) => *id,
        other => panic!("{other:?}"),
    }
}

fn put_user(table: table::TableId, id: i64, name: &str) -> table::Op {
    let row = vec![table::Value::Int(id), table::Value::Text(name.to_owned())];
    let (key, mode) = (table::RowKey::FromColumns, table::PutMode::Upsert);
    table::Op::PutRow { table, key, row, mode }
}

async fn happens(kernel: &Arc<dyn Kernel>, mini: Minitransaction) {
    let outcome = kernel.commit(mini).await.unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
}

async fn declare_entry(kernel: &Arc<dyn Kernel>, name: &str, prefix: &str, refresh: Refresh) {
    let key = vec![KeyPart::Text(prefix.into()), KeyPart::Column("id".to_owned())];
    let (schema, table) = ("public".to_owned(), "users".to_owned());
    let entry = DerivedEntry { schema, table, db: 0, key, refresh, expire_ms: None };
    let (name, declaration) = (name.to_owned(), Declaration::Entry(entry));
    let declare = Op::Declare { name, declaration };
    assert_eq!(commit(kernel, Minitransaction::of(declare)).await, [Reply::OK]);
}

async fn declare_events(kernel: &Arc<dyn Kernel>, name: &str, pattern: &str, target: EventTarget) {
    let (pattern, classes) = (pattern.into(), b"g$lshzxetd".to_vec());
    let events = RecordedEvents { pattern, db: None, classes, target };
    let (name, declaration) = (name.to_owned(), Declaration::Events(events));
    let declare = Op::Declare { name, declaration };
    assert_eq!(commit(kernel, Minitransaction::of(declare)).await, [Reply::OK]);
}

fn stream(key: &str) -> EventTarget {
    EventTarget::Stream { key: key.into(), db: 0, length_max: None }
}

/// The events in a stream, each as its name and key.
async fn recorded(kernel: &Arc<dyn Kernel>, key: &str) -> Vec<String> {
    let Reply::Array(entries) = read(kernel, &format!("XRANGE {key} - +")).await else {
        panic!("no stream")
    };
    let text = |reply: &Reply| match reply {
        Reply::Bulk(text) => String::from_utf8_lossy(text).into_owned(),
        other => panic!("{other:?}"),
    };
    let event = |entry: Reply| match entry {
        Reply::Array(entry) => match &entry[1] {
            Reply::Array(fields) => format!("{} {}", text(&fields[1]), text(&fields[3])),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    entries.into_iter().map(event).collect()
}

fn bulk(text: &str) -> Reply {
    Reply::Bulk(text.to_owned().into())
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_follow_rows_whichever_shard_has_them() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path(), 4).await;
    let kernel = node.kernel();
    let users = create_table(&kernel).await;
    declare_entry(&kernel, "pages", "page:", Refresh::Invalidate).await;
    declare_entry(&kernel, "names", "name:", Refresh::Column("name".to_owned())).await;
    // Many rows in one commit, each with entries in two shards.
    let all = (0..40).fold(Minitransaction::default(), |mini, id| {
        mini.op(put_user(users, id, &format!("of {id}")))
    });
    happens(&kernel, all).await;
    for id in 0..40 {
        assert_eq!(read(&kernel, &format!("GET name:{id}")).await, bulk(&format!("of {id}")));
        assert_eq!(run(&kernel, &format!("SET page:{id} x")).await, Reply::OK);
    }
    for id in 0..40 {
        happens(&kernel, Minitransaction::of(put_user(users, id, "new"))).await;
        assert_eq!(read(&kernel, &format!("GET name:{id}")).await, bulk("new"));
        assert_eq!(read(&kernel, &format!("EXISTS page:{id}")).await, Reply::Integer(0));
    }
    // What is refused in one shard leaves the others as they were.
    let refusing = Call::new(&["LPUSH", "name:7", "x"]);
    let refused = Minitransaction::of(put_user(users, 8, "no")).op(Op::OrRefuse(refusing));
    let outcome = kernel.commit(refused).await.unwrap();
    assert!(matches!(outcome, Outcome::Refused { op_index: 1, .. }), "{outcome:?}");
    assert_eq!(read(&kernel, "GET name:8").await, bulk("new"));

    // A watch of an absent entry fails if its row has changed, even if its slot has moved since.
    let revision = |kernel: &Arc<dyn Kernel>, key: &str| {
        kernel.read(|view| cache::revision(view.state, view.now_ms, 0, key.as_bytes())).unwrap()
    };
    let mut watched = Vec::new();
    for id in 0..40 {
        watched.push((id, revision(&kernel, &format!("page:{id}"))));
    }
    happens(&kernel, Minitransaction::of(put_user(users, 3, "newer"))).await;
    node.spread(5).await.unwrap();
    for (id, revision) in watched {
        let key = bytes::Bytes::from(format!("page:{id}"));
        let check = cache::Check::Unchanged { db: 0, key: key.clone(), revision };
        let set = Minitransaction::of(op(&format!("SET page:{id} y"))).check(check);
        let outcome = kernel.commit(set).await.unwrap();
        let is_late = matches!(outcome, Outcome::CheckFailed { .. });
        assert_eq!(is_late, id == 3, "{outcome:?}");
    }

    // A table that goes takes all entries along.
    happens(&kernel, Minitransaction::of(table::Op::DropTable { table: users })).await;
    assert_eq!(read(&kernel, "DBSIZE").await, Reply::Integer(0));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_all_shards_are_in_one_stream_in_their_order() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path(), 4).await;
    let kernel = node.kernel();
    declare_events(&kernel, "all", "k*", stream("events")).await;
    let mut expected = Vec::new();
    for number in 0..20 {
        run(&kernel, &format!("SET k{number} 1")).await;
        run(&kernel, &format!("SET other{number} 1")).await;
        expected.push(format!("set k{number}"));
    }
    assert_eq!(recorded(&kernel, "events").await, expected);

    // One commit over all shards, and none that is refused.
    let mut mini = (0..20)
        .fold(Minitransaction::default(), |mini, number| mini.op(op(&format!("INCR k{number}"))));
    let refusing = Call::new(&["LPUSH", "k3", "x"]);
    let refused = mini.clone().op(Op::OrRefuse(refusing));
    let outcome = kernel.commit(refused).await.unwrap();
    assert!(matches!(outcome, Outcome::Refused { op_index: 20, .. }), "{outcome:?}");
    mini = mini.op(op("DEL k0 k1 other1"));
    let replies = commit(&kernel, mini).await;
    assert_eq!(replies[20], Reply::Integer(3));
    let mut all = recorded(&kernel, "events").await.split_off(20);
    all.sort();
    let mut wanted: Vec<String> = (0..20).map(|number| format!("incrby k{number}")).collect();
    wanted.extend(["del k0".to_owned(), "del k1".to_owned()]);
    wanted.sort();
    assert_eq!(all, wanted);

    // What one proposal has keeps its order, whether or not events follow from it.
    run(&kernel, "DEL events").await;
    let minis = ["SET k5 a", "EVAL return(redis.call('copy','k5','{k5}x')) 2 k5 {k5}x", "SET k5 b"];
    let minis = minis.iter().map(|line| Minitransaction::of(op(line))).collect();
    for outcome in kernel.propose(minis).await.unwrap() {
        assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    }
    assert_eq!(read(&kernel, "GET {k5}x").await, bulk("a"));
    assert_eq!(recorded(&kernel, "events").await, ["set k5", "set k5"]);

    // Each shard expires its own keys.
    for number in 0..20 {
        run(&kernel, &format!("SET k{number} 1 PX 1")).await;
    }
    loop {
        let expired = recorded(&kernel, "events").await;
        let expired = expired.iter().filter(|event| event.starts_with("expired"));
        if expired.count() == 20 {
            break;
        }
        tokio::task::yield_now().await;
    }
    run(&kernel, "FLUSHDB").await;
    assert_eq!(recorded(&kernel, "events").await, ["flushdb "]);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_from_a_command_over_several_shards_is_in_its_commit() {
    let directory = tempfile::tempdir().unwrap();
    let node = start(directory.path(), 4).await;
    let kernel = node.kernel();
    let users = create_table(&kernel).await;
    declare_entry(&kernel, "pages", "page:", Refresh::Invalidate).await;
    declare_events(&kernel, "all", "k*", stream("events")).await;
    run(&kernel, "SET k0 v").await;
    for number in 1..12 {
        let (from, to) = (format!("k{}", number - 1), format!("k{number}"));
        assert_eq!(run(&kernel, &format!("RENAME {from} {to}")).await, Reply::OK);
        let told = recorded(&kernel, "events").await.split_off(number * 2 - 1);
        let keys = |event: &str| told.iter().filter(|told| told.ends_with(event)).count();
        assert_eq!((told.len(), keys(&format!(" {from}")), keys(&format!(" {to}"))), (2, 1, 1));
    }
    assert_eq!(read(&kernel, "GET k11").await, bulk("v"));
    // Where an entry was taken away, and that is remembered, another key may come.
    for id in 0..8 {
        happens(&kernel, Minitransaction::of(put_user(users, id, "new"))).await;
        run(&kernel, &format!("SET other{id} {id}")).await;
        assert_eq!(run(&kernel, &format!("RENAME other{id} page:{id}")).await, Reply::OK);
        assert_eq!(read(&kernel, &format!("GET page:{id}")).await, bulk(&id.to_string()));
    }
    // And the entry goes again in the commit that changes its row, if a command of several shards is beside it.
    let both = Minitransaction::of(put_user(users, 5, "newer")).op(op("RENAME k11 k0"));
    happens(&kernel, both).await;
    assert_eq!(read(&kernel, "GET k0").await, bulk("v"));
    assert_eq!(read(&kernel, "EXISTS page:5").await, Reply::Integer(0));
    node.shutdown().await;
}
