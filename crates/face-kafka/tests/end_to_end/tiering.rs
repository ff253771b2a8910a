//! Old records in the object store: moved there, read from there as if they were here, and deleted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proteus_env::{Clock, SystemClock, disk, task};
use proteus_face::{Accounts, Metrics};
use proteus_face_kafka::{KafkaFace, KafkaOptions};
use proteus_kernel_api::topic::{Op, TopicId, read};
use proteus_kernel_api::{Kernel, Minitransaction, Outcome};
use proteus_objects::Objects;
use proteus_testkit::{ServedFace, memory_kernel, serve_face};
use rskafka::chrono::DateTime;
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::record::Record;

const TOPIC: TopicId = TopicId([3; 16]);
/// Of all waiting in these tests: what does not happen within it does not happen.
const PATIENCE: Duration = Duration::from_secs(60);

fn serve(kernel: &Arc<dyn Kernel>, directory: &Path) -> ServedFace {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let objects = Objects::open(&directory.to_string_lossy()).expect("a directory");
    let options = KafkaOptions {
        objects: Some(objects),
        tiering_interval: Duration::from_millis(5),
        ..KafkaOptions::default()
    };
    let metrics = Metrics::default();
    serve_face(KafkaFace::new(kernel.clone(), clock, &metrics, Accounts::default(), options))
}

async fn commit(kernel: &Arc<dyn Kernel>, op: Op) {
    let outcome = kernel.commit(Minitransaction::of(op)).await.expect("a kernel");
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
}

fn local_start(kernel: &Arc<dyn Kernel>) -> i64 {
    let info = kernel.read(|view| read::partition(view.state, TOPIC, 0)).unwrap();
    info.map_or(-1, |info| info.local_start_offset)
}

async fn wait_until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            task::sleep(Duration::from_millis(2)).await;
        }
    };
    task::timeout(PATIENCE, waiting).await.expect("it happens");
}

async fn partition(face: &ServedFace) -> PartitionClient {
    let client = ClientBuilder::new(vec![face.address.to_string()]).build().await.unwrap();
    client.partition_client("old", 0, UnknownTopicHandling::Error).await.unwrap()
}

async fn read_all(partition: &PartitionClient) -> Vec<(i64, String)> {
    let mut found = Vec::new();
    loop {
        let offset = found.last().map_or(0, |(offset, _)| offset + 1);
        let (records, high_watermark) =
            partition.fetch_records(offset, 1..3_000, 1_000).await.unwrap();
        for record in records {
            let value = record.record.value.unwrap_or_default();
            found.push((record.offset, String::from_utf8(value).unwrap()));
        }
        if found.len() as i64 == high_watermark {
            return found;
        }
    }
}

fn object_files(directory: &Path) -> usize {
    disk::files_under(directory).expect("a directory").len()
}

#[tokio::test]
async fn old_records_move_and_nobody_notices() {
    let directory = tempfile::tempdir().unwrap();
    let kernel: Arc<dyn Kernel> = memory_kernel();
    let config = [
        ("remote.storage.enable", "true"),
        ("retention.ms", "-1"),
        ("local.retention.ms", "1000"),
        ("segment.bytes", "2000"),
    ];
    let config = config.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config: BTreeMap<_, _> = config.into_iter().collect();
    let name = "old".to_owned();
    commit(&kernel, Op::CreateTopic { name, topic_id: TOPIC, partition_count: 1, config }).await;
    let face = serve(&kernel, directory.path());
    let writer = partition(&face).await;
    let mut sent = Vec::new();
    for batch in 0..40i64 {
        let records = (0..10).map(|index| {
            let number = batch * 10 + index;
            sent.push((number, format!("record {number} {}", "x".repeat(20))));
            Record {
                key: None,
                value: sent.last().map(|(_, value)| value.clone().into_bytes()),
                headers: BTreeMap::new(),
                timestamp: DateTime::from_timestamp_millis(number * 1_000).unwrap(),
            }
        });
        let codec = if batch % 2 == 0 { Compression::NoCompression } else { Compression::Lz4 };
        writer.produce(records.collect(), codec).await.unwrap();
    }
    wait_until(|| local_start(&kernel) == 400).await;
    assert!(object_files(directory.path()) > 4);

    // Another node finds them, too.
    let other = serve(&kernel, directory.path());
    for face in [&face, &other] {
        let reader = partition(face).await;
        assert_eq!(read_all(&reader).await, sent);
        let middle = reader.fetch_records(237, 1..100, 1_000).await.unwrap().0;
        assert_eq!(middle.first().map(|record| record.offset), Some(237));
        for (at_s, expected) in [(0, 0), (123, 123), (399, 399)] {
            let at = DateTime::from_timestamp_millis(at_s * 1_000).unwrap();
            assert_eq!(reader.get_offset(OffsetAt::Timestamp(at)).await.unwrap(), expected);
        }
        assert_eq!(reader.get_offset(OffsetAt::Earliest).await.unwrap(), 0);
        assert_eq!(reader.get_offset(OffsetAt::Latest).await.unwrap(), 400);
    }

    commit(&kernel, Op::DeleteTopic { topic_id: TOPIC }).await;
    commit(&kernel, Op::SweepTopic { topic_id: TOPIC }).await;
    wait_until(|| object_files(directory.path()) == 0).await;
}

#[tokio::test]
async fn an_object_that_is_gone_is_an_error_and_not_an_end() {
    let directory = tempfile::tempdir().unwrap();
    let kernel: Arc<dyn Kernel> = memory_kernel();
    let config = [
        ("remote.storage.enable", "true"),
        ("retention.ms", "-1"),
        ("local.retention.ms", "0"),
        ("segment.bytes", "50"),
    ];
    let config = config.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config: BTreeMap<_, _> = config.into_iter().collect();
    let name = "old".to_owned();
    commit(&kernel, Op::CreateTopic { name, topic_id: TOPIC, partition_count: 1, config }).await;
    let face = serve(&kernel, directory.path());
    let client = partition(&face).await;
    let record = Record {
        key: None,
        value: Some(vec![b'x'; 100]),
        headers: BTreeMap::new(),
        timestamp: DateTime::from_timestamp_millis(1_000).unwrap(),
    };
    client.produce(vec![record], Compression::NoCompression).await.unwrap();
    wait_until(|| local_start(&kernel) == 1).await;
    for file in disk::files_under(directory.path()).unwrap() {
        disk::remove_file(&file).unwrap();
    }
    let mut bare = crate::client::Client::connect(face.address).await;
    use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
    use kafka_protocol::messages::{FetchRequest, TopicName};
    let wanted = FetchPartition::default().with_fetch_offset(0).with_partition_max_bytes(1_000);
    let topic = FetchTopic::default()
        .with_topic(TopicName(crate::client::text("old")))
        .with_partitions(vec![wanted]);
    let request = FetchRequest::default().with_max_bytes(1_000).with_topics(vec![topic]);
    let response = crate::call!(bare, Fetch, 11, request);
    let partition = &response.responses[0].partitions[0];
    assert_eq!(partition.error_code, 56, "KAFKA_STORAGE_ERROR");
}
