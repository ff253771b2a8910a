//! One node with several shards, as its faces see it.

use std::path::Path;
use std::sync::Arc;

use proteus_env::SystemClock;
use proteus_kernel_api::cache::{self, Call, Op, Reply, answer};
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
