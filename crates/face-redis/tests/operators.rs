//! What operators do: users and their rights, memory, parameters, slow commands, the cluster.

#[path = "support/lines.rs"]
mod lines;
#[path = "support/wire.rs"]
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lines::{ask, text};
use proteus_env::SystemClock;
use proteus_face::{Accounts, Metrics};
use proteus_face_redis::RedisFace;
use proteus_kernel_api::{
    ClusterView, Durability, Feed, Kernel, KernelError, Listener, Minitransaction, Op, Outcome,
    Proposal, Reply as AnyReply, View, cache, table, topic,
};
use proteus_testkit::{ServedFace, memory_kernel, serve_face};
use wire::{Client, Reply};

fn serve_over(kernel: Arc<dyn Kernel>) -> ServedFace {
    let clock = Arc::new(SystemClock::new());
    let accounts = Accounts::default();
    serve_face(Arc::new(RedisFace::new(kernel, clock, &Metrics::default(), accounts)))
}

fn serve() -> ServedFace {
    serve_over(memory_kernel())
}

/// A test whose client blocks its thread, so the server has others.
fn field(info: &str, name: &str) -> u64 {
    let line = info.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap_or_else(|| panic!("no {name} in {info}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn users_may_do_what_their_rules_say_on_every_node() {
    let kernel = memory_kernel();
    let (first, second) = (serve_over(kernel.clone()), serve_over(kernel.clone()));
    let mut root = Client::connect(first.address);
    assert_eq!(
        text(
            &mut root,
            "ACL SETUSER ann on >secret ~app:* %R~shared:* &news +@read +set +eval +multi +exec +subscribe +publish +discard"
        ),
        "OK"
    );
    assert_eq!(text(&mut root, "SET shared:1 x"), "OK");
    // Another node knows the user as soon as it is acknowledged.
    let mut ann = Client::connect(second.address);
    assert!(text(&mut ann, "AUTH ann wrong").starts_with("WRONGPASS"));
    assert_eq!(text(&mut ann, "AUTH ann secret"), "OK");
    assert_eq!(text(&mut ann, "SET app:1 v"), "OK");
    assert_eq!(text(&mut ann, "GET shared:1"), "x");
    assert_eq!(text(&mut ann, "SET shared:1 v"), "NOPERM No permissions to access a key");
    assert_eq!(text(&mut ann, "GET other"), "NOPERM No permissions to access a key");
    assert_eq!(text(&mut ann, "PUBLISH other x"), "NOPERM No permissions to access a channel");
    assert_eq!(
        text(&mut ann, "CONFIG SET maxmemory 1"),
        "NOPERM User ann has no permissions to run the 'config|set' command"
    );
    // A script's commands are held against the rights of who runs it.
    let script = |call: &str| vec![b"EVAL".to_vec(), call.as_bytes().to_vec(), b"0".to_vec()];
    assert_eq!(ann.ask(&script("return redis.call('GET', 'app:1')")), Reply::Bulk(b"v".to_vec()));
    for call in ["return redis.call('GET', 'other')", "return redis.call('DEL', 'app:1')"] {
        let Reply::Error(refused) = ann.ask(&script(call)) else {
            panic!("{call} was carried out")
        };
        assert!(refused.contains("ACL failure in script"), "{refused}");
    }
    // In a transaction the refusal spoils it; rights that go before EXEC are missed by it.
    assert_eq!(text(&mut ann, "MULTI"), "OK");
    assert!(text(&mut ann, "GET other").starts_with("NOPERM"));
    assert!(text(&mut ann, "EXEC").starts_with("EXECABORT"));
    assert_eq!(text(&mut ann, "MULTI"), "OK");
    assert_eq!(text(&mut ann, "SET app:2 v"), "QUEUED");
    assert_eq!(text(&mut root, "ACL SETUSER ann -set"), "OK");
    assert!(text(&mut ann, "EXEC").contains("ACLs rules changed"));
    assert_eq!(text(&mut root, "EXISTS app:2"), "0");
    let log = text(&mut Client::connect(second.address), "ACL LOG");
    assert!(log.contains(&format!("{:?}", Reply::Bulk(b"ann".to_vec()))), "{log}");
    // Who is deleted is closed.
    assert_eq!(text(&mut root, "ACL DELUSER ann nobody"), "1");
    assert_eq!(text(&mut root, "ACL WHOAMI"), "default");
    let mut again = Client::connect(second.address);
    assert!(text(&mut again, "AUTH ann secret").starts_with("WRONGPASS"));
    // What is stored is there for a node that starts later.
    assert_eq!(text(&mut root, "ACL SETUSER bob on nopass ~* +get"), "OK");
    let third = serve_over(kernel);
    assert!(text(&mut Client::connect(third.address), "ACL USERS").contains("98, 111, 98"));
    assert_eq!(
        text(&mut Client::connect(third.address), "ACL DRYRUN bob SET k v"),
        "User bob has no permissions to run the 'set' command"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_for_all_is_the_default_users() {
    let served = serve();
    let mut root = Client::connect(served.address);
    assert_eq!(text(&mut root, "CONFIG SET requirepass secret"), "OK");
    let mut other = Client::connect(served.address);
    assert_eq!(text(&mut other, "GET k"), "NOAUTH Authentication required.");
    assert_eq!(text(&mut other, "AUTH secret"), "OK");
    assert_eq!(text(&mut other, "CONFIG SET requirepass "), "OK");
    assert_eq!(text(&mut Client::connect(served.address), "GET k"), "(nil)");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_too_much_in_memory_the_least_used_keys_go() {
    let served = serve();
    let mut client = Client::connect(served.address);
    let value = "x".repeat(1000);
    for (policy, keeps) in [("allkeys-lru", true), ("allkeys-lfu", true), ("allkeys-random", false)]
    {
        assert_eq!(text(&mut client, "CONFIG SET maxmemory 0"), "OK");
        assert_eq!(text(&mut client, "FLUSHALL"), "OK");
        assert_eq!(text(&mut client, &format!("CONFIG SET maxmemory-policy {policy}")), "OK");
        text(&mut client, &format!("SET hot {value}"));
        for _ in 0..50 {
            text(&mut client, "GET hot");
        }
        assert_eq!(text(&mut client, "CONFIG SET maxmemory 200kb maxmemory-samples 20"), "OK");
        for number in 0..1_000 {
            assert_eq!(text(&mut client, &format!("SET k{number} {value}")), "OK");
            text(&mut client, "GET hot");
        }
        let used = field(&text(&mut client, "INFO memory"), "used_memory");
        assert!((100 * 1024..=202 * 1024).contains(&used), "{policy}: {used}");
        if keeps && policy == "allkeys-lfu" {
            assert_eq!(text(&mut client, "EXISTS hot"), "1", "{policy}");
        }
        assert!(field(&text(&mut client, "INFO stats"), "evicted_keys") > 500);
    }
}

/// Another node's kernel over the same state: it does not lead, and tells what it proposes to evict.
struct Other {
    kernel: Arc<dyn Kernel>,
    evictions: AtomicUsize,
}

impl Kernel for Other {
    fn propose_at(&self, _: Durability, minitransactions: Vec<Minitransaction>) -> Proposal {
        let evicts = |op: &Op| matches!(op, Op::Cache(cache::Op::Evict { .. }));
        let count =
            minitransactions.iter().flat_map(|one| &one.ops).filter(|op| evicts(op)).count();
        self.evictions.fetch_add(count, Ordering::Relaxed);
        self.kernel.propose(minitransactions)
    }

    fn cluster(&self) -> ClusterView {
        ClusterView { leader: None, ..self.kernel.cluster() }
    }

    fn read_dyn(&self, reader: &mut dyn FnMut(View<'_>)) -> Result<(), KernelError> {
        self.kernel.read_dyn(reader)
    }

    fn follow(&self, listener: Arc<dyn Listener>) {
        self.kernel.follow(listener);
    }

    fn feed(&self) -> &Feed {
        self.kernel.feed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_alone_chooses_what_goes_and_others_write_once_there_is_room() {
    let kernel = memory_kernel();
    let other = Arc::new(Other { kernel: kernel.clone(), evictions: AtomicUsize::new(0) });
    // Nobody ever connects to the leader.
    let _leader = serve_over(kernel);
    let served = serve_over(other.clone());
    let mut client = Client::connect(served.address);
    let value = "x".repeat(1000);
    text(&mut client, "CONFIG SET maxmemory-policy allkeys-lru maxmemory 200kb");
    for number in 0..1_000 {
        assert_eq!(text(&mut client, &format!("SET k{number} {value}")), "OK");
    }
    let used = field(&text(&mut client, "INFO memory"), "used_memory");
    assert!((100 * 1024..=202 * 1024).contains(&used), "{used}");
    assert!(field(&text(&mut client, "INFO stats"), "evicted_keys") > 500);
    assert_eq!(other.evictions.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_leader_that_makes_room_a_write_is_refused() {
    let other = Arc::new(Other { kernel: memory_kernel(), evictions: AtomicUsize::new(0) });
    let served = serve_over(other.clone());
    let mut client = Client::connect(served.address);
    assert_eq!(text(&mut client, "SET k v"), "OK");
    text(&mut client, "CONFIG SET maxmemory-policy allkeys-lru maxmemory 1");
    assert!(text(&mut client, "SET k w").starts_with("OOM"));
    assert_eq!(text(&mut client, "GET k"), "v");
    assert_eq!(other.evictions.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_of_expiring_keys_spare_the_others_and_noeviction_refuses() {
    let served = serve();
    let mut client = Client::connect(served.address);
    let value = "x".repeat(1000);
    for number in 0..50 {
        text(&mut client, &format!("SET keep{number} {value}"));
    }
    for policy in ["volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"] {
        text(&mut client, "CONFIG SET maxmemory 0");
        text(&mut client, &format!("CONFIG SET maxmemory-policy {policy}"));
        text(&mut client, "CONFIG SET maxmemory 100kb");
        for number in 0..200 {
            let line = format!("SET {policy}{number} {value} EX {}", 1_000_000 - number);
            assert_eq!(text(&mut client, &line), "OK", "{policy}");
        }
        for number in 0..50 {
            assert_eq!(text(&mut client, &format!("EXISTS keep{number}")), "1", "{policy}");
        }
    }
    // Those that expire next have gone first.
    assert_eq!(text(&mut client, "EXISTS volatile-ttl198"), "0");
    text(&mut client, "CONFIG SET maxmemory-policy noeviction maxmemory 10kb");
    assert_eq!(
        text(&mut client, "SET k v"),
        "OOM command not allowed when used memory > 'maxmemory'."
    );
    // Reading, removing and expiring go on.
    assert_eq!(text(&mut client, "GET keep1"), value);
    assert_eq!(text(&mut client, "DEL keep1"), "1");
    text(&mut client, "MULTI");
    assert!(text(&mut client, "SET k v").starts_with("OOM"));
    assert!(text(&mut client, "EXEC").starts_with("EXECABORT"));
}

#[tokio::test(flavor = "multi_thread")]
async fn use_of_keys_is_known_and_a_client_may_look_without_using() {
    let served = serve();
    let mut client = Client::connect(served.address);
    text(&mut client, "SET k v");
    assert_eq!(text(&mut client, "OBJECT IDLETIME k"), "0");
    assert!(text(&mut client, "OBJECT FREQ k").contains("LFU maxmemory policy is not selected"));
    text(&mut client, "CONFIG SET maxmemory-policy allkeys-lfu");
    assert!(text(&mut client, "OBJECT IDLETIME k").contains("idle time not tracked"));
    let before: u64 = text(&mut client, "OBJECT FREQ k").parse().unwrap();
    text(&mut client, "CLIENT NO-TOUCH ON");
    for _ in 0..100 {
        text(&mut client, "GET k");
    }
    assert_eq!(text(&mut client, "OBJECT FREQ k"), before.to_string());
    text(&mut client, "CLIENT NO-TOUCH OFF");
    for _ in 0..100 {
        text(&mut client, "GET k");
    }
    assert!(text(&mut client, "OBJECT FREQ k").parse::<u64>().unwrap() > before);
    assert_eq!(text(&mut client, "OBJECT FREQ nokey"), "(nil)");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_commands_are_logged_and_parameters_hold_for_all_nodes() {
    let kernel = memory_kernel();
    let (first, second) = (serve_over(kernel.clone()), serve_over(kernel));
    let mut client = Client::connect(first.address);
    assert_eq!(text(&mut client, "CONFIG SET slowlog-log-slower-than 0"), "OK");
    assert_eq!(
        text(&mut Client::connect(second.address), "CONFIG GET slowlog-log-slower-than"),
        format!(
            "{:?}",
            [Reply::Bulk(b"slowlog-log-slower-than".to_vec()), Reply::Bulk(b"0".to_vec())]
        )
    );
    text(&mut client, "GET some:key");
    text(&mut client, "SET other:key v");
    let Reply::Array(entries) = ask(&mut client, "SLOWLOG GET 2") else { panic!("no log") };
    let shown = format!("{entries:?}");
    // With nothing too fast to be logged, a fast read is as well.
    assert!(shown.contains(&format!("{:?}", Reply::Bulk(b"some:key".to_vec()))), "{shown}");
    assert!(shown.contains(&format!("{:?}", Reply::Bulk(b"other:key".to_vec()))), "{shown}");
    text(&mut client, "SLOWLOG RESET");
    // The command that empties it is the first that it holds again.
    assert_eq!(text(&mut client, "SLOWLOG LEN"), "1");
    let info = text(&mut client, "INFO commandstats");
    assert!(info.contains("cmdstat_get:calls=1,"), "{info}");
    assert!(text(&mut client, "LATENCY HISTOGRAM set").contains("Integer(1)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_is_the_master_of_every_slot() {
    let served = serve();
    let mut client = Client::connect(served.address);
    let id = text(&mut client, "CLUSTER MYID");
    let nodes = text(&mut client, "CLUSTER NODES");
    assert!(nodes.starts_with(&format!("{id} {}@", served.address)), "{nodes}");
    assert!(nodes.ends_with("myself,master - 0 0 0 connected 0-16383\n"), "{nodes}");
    assert_eq!(field(&text(&mut client, "INFO replication"), "connected_slaves"), 0);
    assert_eq!(text(&mut client, "WAIT 0 0"), "0");
    assert_eq!(text(&mut client, "READONLY"), "OK");
}

#[tokio::test(flavor = "multi_thread")]
async fn libraries_are_dumped_and_restored_all_or_none() {
    let served = serve();
    let mut client = Client::connect(served.address);
    let load = |name: &str, function: &str| {
        let code = format!(
            "#!lua name={name}\nredis.register_function('{function}', function() return '{function}' end)"
        );
        vec![b"FUNCTION".to_vec(), b"LOAD".to_vec(), code.into_bytes()]
    };
    for (name, function) in [("one", "f"), ("two", "g")] {
        client.ask(&load(name, function));
    }
    let Reply::Bulk(payload) = ask(&mut client, "FUNCTION DUMP") else { panic!("no dump") };
    let restore = |policy: &str| {
        vec![b"FUNCTION".to_vec(), b"RESTORE".to_vec(), payload.clone(), policy.as_bytes().to_vec()]
    };
    assert!(
        matches!(client.ask(&restore("APPEND")), Reply::Error(text) if text.contains("already exists"))
    );
    assert_eq!(client.ask(&restore("REPLACE")), Reply::Status("OK".to_owned()));
    text(&mut client, "FUNCTION FLUSH");
    // The second library of the dump is refused, so the first is not there either.
    client.ask(&load("three", "g"));
    assert!(matches!(client.ask(&restore("APPEND")), Reply::Error(_)));
    assert_eq!(text(&mut client, "FCALL g 0"), "g");
    assert!(text(&mut client, "FCALL f 0").contains("Function not found"));
    assert_eq!(client.ask(&restore("FLUSH")), Reply::Status("OK".to_owned()));
    assert_eq!(text(&mut client, "FCALL f 0"), "f");
    assert_eq!(text(&mut client, "DEBUG ERROR WRONG"), "WRONG");
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_rows_that_are_there_are_filled_in() {
    let kernel = memory_kernel();
    let served = serve_over(kernel.clone());
    let column = |name: &str, column_type| table::Column {
        name: name.to_owned(),
        column_type,
        not_null: true,
        default: None,
    };
    let text_type = table::ColumnType::Text { length_max: None };
    let definition = table::Definition {
        schema: "public".to_owned(),
        name: "users".to_owned(),
        columns: vec![column("id", table::ColumnType::BigInt), column("name", text_type)],
        primary_key: vec![0],
        source: table::Source::Rows,
    };
    let create = table::Op::CreateTable { id: None, definition, if_not_exists: false };
    let outcome = kernel.commit(Minitransaction::of(create)).await.unwrap();
    let Outcome::Committed { replies, .. } = outcome else { panic!("{outcome:?}") };
    let [AnyReply::Table(table::Reply::TableCreated { id, .. })] = replies[..] else {
        panic!("{replies:?}")
    };
    let put = |number: i64, name: String| {
        let row = vec![table::Value::Int(number), table::Value::Text(name)];
        let (key, mode) = (table::RowKey::FromColumns, table::PutMode::Upsert);
        Minitransaction::of(table::Op::PutRow { table: id, key, row, mode })
    };
    let rows = (0..600).map(|number| put(number, format!("name{number}"))).collect();
    kernel.propose(rows).await.unwrap();
    let mut client = Client::connect(served.address);
    assert!(text(&mut client, "PROTEUS.CACHE FILL names").starts_with("ERR there is no"));
    let declare = "PROTEUS.CACHE CREATE names TABLE users KEY name:{id} VALUE name";
    assert_eq!(text(&mut client, declare), "OK");
    assert_eq!(text(&mut client, "DBSIZE"), "0");
    assert_eq!(text(&mut client, "PROTEUS.CACHE FILL names"), "600");
    assert_eq!(text(&mut client, "DBSIZE"), "600");
    assert_eq!(text(&mut client, "GET name:599"), "name599");
    kernel.commit(put(7, "other".to_owned())).await.unwrap();
    assert_eq!(text(&mut client, "PROTEUS.CACHE FILL names"), "600");
    assert_eq!(text(&mut client, "GET name:7"), "other");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_keys_are_records_of_a_topic() {
    let kernel = memory_kernel();
    let served = serve_over(kernel.clone());
    let mut client = Client::connect(served.address);
    let declare = "PROTEUS.EVENTS CREATE sessions TOPIC events MATCH s:* CLASSES g$x";
    assert_eq!(text(&mut client, declare), "ERR there is no topic 'events'");
    let topic_id = topic::TopicId([7; 16]);
    let create = topic::Op::CreateTopic {
        name: "events".to_owned(),
        topic_id,
        partition_count: 2,
        config: Default::default(),
    };
    kernel.commit(Minitransaction::of(create)).await.unwrap();
    assert_eq!(text(&mut client, declare), "OK");
    assert!(!text(&mut client, "PROTEUS.EVENTS LIST").starts_with("ERR"));
    assert!(text(&mut client, "PROTEUS.EVENTS CREATE x TOPIC events MAXLEN 5").starts_with("ERR"));
    for line in ["SET s:1 a", "SET other a", "MULTI", "SET s:2 b", "DEL s:1", "EXEC", "FLUSHDB"] {
        text(&mut client, line);
    }
    let mut found = Vec::new();
    for partition in 0..2 {
        let limit = topic::read::ReadLimit::Bytes(usize::MAX);
        let batches = kernel.read(|view| {
            topic::read::read_batches(view.state, topic_id, partition, 0, i64::MAX, limit)
        });
        for batch in batches.unwrap().here().unwrap() {
            for record in topic::batch::decode_records(&batch.bytes, batch.base_offset).unwrap() {
                let record = record.unwrap();
                let part = |bytes: Option<bytes::Bytes>| {
                    String::from_utf8(bytes.unwrap().to_vec()).unwrap()
                };
                found.push(format!("{} {}", part(record.key), part(record.value)));
            }
        }
    }
    found.sort();
    let expected = [
        r#" {"event":"flushdb","db":0}"#,
        r#"s:1 {"event":"del","db":0}"#,
        r#"s:1 {"event":"set","db":0}"#,
        r#"s:2 {"event":"set","db":0}"#,
    ];
    assert_eq!(found, expected);
    // Without the topic the keys go on.
    kernel.commit(Minitransaction::of(topic::Op::DeleteTopic { topic_id })).await.unwrap();
    assert_eq!(text(&mut client, "SET s:3 c"), "OK");
}
