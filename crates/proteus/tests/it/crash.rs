//! kill -9 under load from real clients: what was acknowledged is there, exactly once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use redis::AsyncCommands;
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{Compression, OffsetAt, UnknownTopicHandling};
use rskafka::record::Record;
use zookeeper_client as zk;

use crate::node::{NodeProcess, runtime};

const WRITERS: usize = 8;
const ROUNDS: u64 = 6;

/// Each writer increments a counter of its own, and sets a key to the number it was told. Whatever
/// number a writer was told last must still be there after the kill, and at most one increment more:
/// the one whose answer the kill took.
#[test]
fn acknowledged_redis_writes_survive_kill_9_exactly_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = NodeProcess::start(directory.path());
    let runtime = runtime();
    let mut acknowledged = [0i64; WRITERS];
    for round in 0..ROUNDS {
        let stop = Arc::new(AtomicBool::new(false));
        let progress = Arc::new(AtomicU64::new(0));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (url, stop, progress) = (node.redis_url(), stop.clone(), progress.clone());
                runtime.spawn(write_until_cut_off(url, writer, stop, progress))
            })
            .collect();
        // A different moment each round; which one does not matter to the invariant.
        while progress.load(Ordering::Relaxed) < 200 + round * 150 {
            std::thread::sleep(Duration::from_millis(1));
        }
        node.kill_and_restart();
        stop.store(true, Ordering::Relaxed);
        for (writer, task) in writers.into_iter().enumerate() {
            let told = runtime.block_on(task).unwrap();
            acknowledged[writer] = acknowledged[writer].max(told);
        }
        runtime.block_on(async {
            let client = redis::Client::open(node.redis_url()).unwrap();
            let mut client = client.get_multiplexed_async_connection().await.unwrap();
            for (writer, told) in acknowledged.iter_mut().enumerate() {
                let found: i64 = client.get(format!("counter:{writer}")).await.unwrap();
                assert!(
                    found == *told || found == *told + 1,
                    "round {round}, writer {writer}: told {told}, found {found}"
                );
                let copy: i64 = client.hget("copies", writer.to_string()).await.unwrap();
                assert_eq!(copy, found, "both changes of one EXEC, or none");
                *told = found;
            }
        });
    }
}

async fn write_until_cut_off(
    url: String,
    writer: usize,
    stop: Arc<AtomicBool>,
    progress: Arc<AtomicU64>,
) -> i64 {
    let client = redis::Client::open(url).unwrap();
    let Ok(mut client) = client.get_multiplexed_async_connection().await else { return 0 };
    let mut told = 0;
    while !stop.load(Ordering::Relaxed) {
        let written: Result<(i64, i64), _> = redis::pipe()
            .atomic()
            .incr(format!("counter:{writer}"), 1)
            .cmd("HINCRBY")
            .arg("copies")
            .arg(writer)
            .arg(1)
            .query_async(&mut client)
            .await;
        match written {
            Ok((number, _)) => told = number,
            Err(_) => break,
        }
        progress.fetch_add(1, Ordering::Relaxed);
    }
    told
}

#[test]
fn acknowledged_records_survive_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = NodeProcess::start(directory.path());
    let runtime = runtime();
    let mut acknowledged: BTreeMap<i64, Vec<u8>> = BTreeMap::new();
    for round in 0..3 {
        runtime.block_on(async {
            let brokers = vec![node.address(9092).to_string()];
            let client = ClientBuilder::new(brokers).build().await.unwrap();
            if round == 0 {
                client.controller_client().unwrap().create_topic("log", 1, 1, 5_000).await.unwrap();
            }
            let partition =
                client.partition_client("log", 0, UnknownTopicHandling::Retry).await.unwrap();
            for number in 0..40 {
                let value = format!("{round}/{number}").into_bytes();
                let record = Record {
                    key: None,
                    value: Some(value.clone()),
                    headers: BTreeMap::new(),
                    timestamp: rskafka::chrono::DateTime::UNIX_EPOCH,
                };
                let offsets = partition.produce(vec![record], Compression::Snappy).await.unwrap();
                acknowledged.insert(offsets[0], value);
            }
        });
        node.kill_and_restart();
        let found = runtime.block_on(async {
            let brokers = vec![node.address(9092).to_string()];
            let client = ClientBuilder::new(brokers).build().await.unwrap();
            let partition =
                client.partition_client("log", 0, UnknownTopicHandling::Retry).await.unwrap();
            let end = partition.get_offset(OffsetAt::Latest).await.unwrap();
            let mut found = BTreeMap::new();
            let mut next = 0;
            while next < end {
                let (records, _) = partition.fetch_records(next, 1..1_000_000, 100).await.unwrap();
                for record in records {
                    next = record.offset + 1;
                    found.insert(record.offset, record.record.value.unwrap());
                }
            }
            found
        });
        assert_eq!(found, acknowledged, "round {round}");
    }
}

#[test]
fn znodes_survive_kill_9_and_a_dead_session_takes_its_ephemerals_along() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = NodeProcess::start(directory.path());
    let runtime = runtime();
    let acls = zk::Acls::anyone_all();
    let cluster = node.address(2181).to_string();
    runtime.block_on(async {
        let client = zk::Client::connector()
            .with_session_timeout(Duration::from_secs(4))
            .with_detached()
            .connect(&cluster)
            .await
            .unwrap();
        client.create("/kept", b"data", &zk::CreateMode::Persistent.with_acls(acls)).await.unwrap();
        client.create("/mine", b"", &zk::CreateMode::Ephemeral.with_acls(acls)).await.unwrap();
        // Detached: dropping the client leaves its session open, as a crash of its process does.
    });
    node.kill_and_restart();
    runtime.block_on(async {
        let client = zk::Client::connect(&cluster).await.unwrap();
        assert_eq!(client.get_data("/kept").await.unwrap().0, b"data");
        let (stat, watcher) = client.check_and_watch_stat("/mine").await.unwrap();
        assert!(stat.is_some(), "the session has its full timeout after a restart");
        let event = watcher.changed().await;
        assert_eq!(event.event_type, zk::EventType::NodeDeleted);
    });
}
