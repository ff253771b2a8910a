//! One minitransaction that consumes and publishes, as another face commits it, seen by a client.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proteus_env::{Clock, SystemClock};
use proteus_face::{Accounts, Metrics};
use proteus_face_kafka::{KafkaFace, KafkaOptions};
use proteus_kernel_api::topic::batch::{NewRecord, frame_batch};
use proteus_kernel_api::topic::{Check, NewOffset, Op, Refusal as TopicRefusal, TopicId};
use proteus_kernel_api::{Minitransaction, Outcome, Refusal};
use proteus_testkit::{memory_kernel, serve_face};
use rskafka::client::ClientBuilder;
use rskafka::client::partition::UnknownTopicHandling;

const INPUT: TopicId = TopicId([1; 16]);
const OUTPUT: TopicId = TopicId([2; 16]);

fn create(name: &str, topic_id: TopicId) -> Minitransaction {
    let config = BTreeMap::new();
    let name = name.to_owned();
    Minitransaction::of(Op::CreateTopic { name, topic_id, partition_count: 1, config })
}

/// Consumes the input from `expected` to `offset`, and publishes what came of it.
fn step(expected: Option<i64>, offset: i64) -> Minitransaction {
    let value = Some(Bytes::from(format!("up to {offset}")));
    let batch = frame_batch(&[NewRecord { value, ..NewRecord::default() }], 1).expect("a record");
    let group = || "worker".to_owned();
    let consumed = NewOffset {
        topic_id: INPUT,
        partition: 0,
        offset,
        leader_epoch: -1,
        metadata: String::new(),
    };
    Minitransaction::default()
        .check(Check::CommittedOffset { group: group(), topic_id: INPUT, partition: 0, expected })
        .op(Op::Append { topic_id: OUTPUT, partition: 0, batch })
        .op(Op::CommitOffsets { group: group(), offsets: vec![consumed] })
}

#[tokio::test]
async fn a_step_that_is_repeated_happens_once() {
    let kernel = memory_kernel();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let options = KafkaOptions::default();
    let face = serve_face(KafkaFace::new(
        kernel.clone(),
        clock,
        &Metrics::default(),
        Accounts::default(),
        options,
    ));
    for outcome in kernel.propose(vec![create("in", INPUT), create("out", OUTPUT)]).await.unwrap() {
        assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
    }
    for step in [step(None, 10), step(Some(10), 20)] {
        assert!(matches!(kernel.commit(step).await, Ok(Outcome::Committed { .. })));
    }
    // A worker that did not hear the answer tries again: nothing of it happens.
    let differs = TopicRefusal::CommittedOffsetDiffers { expected: Some(10), found: Some(20) };
    let refusal = Refusal::Topic(differs);
    let again = kernel.commit(step(Some(10), 20)).await;
    assert_eq!(again, Ok(Outcome::CheckFailed { check_index: 0, refusal }));

    let client = ClientBuilder::new(vec![face.address.to_string()]).build().await.unwrap();
    let partition = client.partition_client("out", 0, UnknownTopicHandling::Error).await.unwrap();
    let (records, high_watermark) = partition.fetch_records(0, 1..1_000_000, 0).await.unwrap();
    let values: Vec<Vec<u8>> = records.into_iter().filter_map(|found| found.record.value).collect();
    assert_eq!(values, [b"up to 10", b"up to 20"]);
    assert_eq!(high_watermark, 2);
}
