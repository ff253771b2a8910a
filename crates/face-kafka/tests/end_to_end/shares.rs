//! Share groups: records are held, settled, given back, and known after the node that led is gone.

use std::sync::Arc;

use kafka_protocol::messages::share_acknowledge_request::{
    AcknowledgePartition, AcknowledgeTopic, AcknowledgementBatch,
};
use kafka_protocol::messages::share_fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::share_fetch_response::PartitionData;
use kafka_protocol::messages::{
    GroupId, ShareAcknowledgeRequest, ShareFetchRequest, ShareFetchResponse,
    ShareGroupHeartbeatRequest, TopicName,
};
use proteus_env::{Clock, SystemClock};
use proteus_face::{Accounts, Metrics};
use proteus_face_kafka::{KafkaFace, KafkaOptions};
use proteus_kernel_api::{Kernel, Minitransaction, topic};
use proteus_testkit::{ServedFace, memory_kernel, serve_face};
use uuid::Uuid;

use crate::call;
use crate::client::{Client, text};
use crate::wire::{batch, ensure_topic, produce};

const ACCEPT: i8 = 1;
const RELEASE: i8 = 2;
const INVALID_RECORD_STATE: i16 = 121;
const SHARE_SESSION_NOT_FOUND: i16 = 122;
const INVALID_SHARE_SESSION_EPOCH: i16 = 123;

fn serve(kernel: &Arc<dyn Kernel>) -> ServedFace {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let options = KafkaOptions::default();
    serve_face(KafkaFace::new(
        kernel.clone(),
        clock,
        &Metrics::default(),
        Accounts::default(),
        options,
    ))
}

/// A topic with so many records, of which the group `g` begins with the first.
async fn shared_topic(kernel: &Arc<dyn Kernel>, client: &mut Client, count: usize) -> Uuid {
    let topic_id = ensure_topic(client, "t").await;
    let configure = topic::Op::ConfigureGroup {
        group: "g".to_owned(),
        config: [("share.auto.offset.reset".to_owned(), Some("earliest".to_owned()))].into(),
    };
    kernel.commit(Minitransaction::of(configure)).await.unwrap();
    for _ in 0..count {
        call!(client, Produce, 9, produce("t", 0, -1, batch("value")));
    }
    topic_id
}

fn fetch(member: &str, epoch: i32, topic_id: Uuid) -> ShareFetchRequest {
    let partition = FetchPartition::default().with_partition_index(0);
    let topic = FetchTopic::default().with_topic_id(topic_id).with_partitions(vec![partition]);
    ShareFetchRequest::default()
        .with_group_id(Some(GroupId(text("g"))))
        .with_member_id(Some(text(member)))
        .with_share_session_epoch(epoch)
        .with_max_wait_ms(0)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_max_records(500)
        .with_batch_size(500)
        .with_topics(vec![topic])
}

fn acknowledge(
    member: &str,
    epoch: i32,
    topic_id: Uuid,
    (first, last): (i64, i64),
    types: &[i8],
) -> ShareAcknowledgeRequest {
    let batch = AcknowledgementBatch::default()
        .with_first_offset(first)
        .with_last_offset(last)
        .with_acknowledge_types(types.to_vec());
    let partition = AcknowledgePartition::default().with_acknowledgement_batches(vec![batch]);
    let topic =
        AcknowledgeTopic::default().with_topic_id(topic_id).with_partitions(vec![partition]);
    ShareAcknowledgeRequest::default()
        .with_group_id(Some(GroupId(text("g"))))
        .with_member_id(Some(text(member)))
        .with_share_session_epoch(epoch)
        .with_topics(vec![topic])
}

fn partition(response: &ShareFetchResponse) -> Option<&PartitionData> {
    response.responses.first()?.partitions.first()
}

/// First and last offset and delivery count of what was handed out.
fn acquired(response: &ShareFetchResponse) -> Vec<(i64, i64, i16)> {
    assert_eq!(response.error_code, 0, "{response:?}");
    let ranges = partition(response).map(|data| data.acquired_records.clone()).unwrap_or_default();
    let range = |range: &kafka_protocol::messages::share_fetch_response::AcquiredRecords| {
        (range.first_offset, range.last_offset, range.delivery_count)
    };
    ranges.iter().map(range).collect()
}

#[tokio::test]
async fn what_is_settled_is_known_to_the_next_leader_and_what_is_held_comes_again() {
    let kernel = memory_kernel();
    let face = serve(&kernel);
    let mut ann = Client::connect(face.address).await;
    let topic_id = shared_topic(&kernel, &mut ann, 5).await;
    let got = call!(ann, ShareFetch, 1, fetch("ann", 0, topic_id));
    assert_eq!(acquired(&got), [(0, 4, 1)]);
    assert!(partition(&got).unwrap().records.as_ref().is_some_and(|records| !records.is_empty()));
    let mut bob = Client::connect(face.address).await;
    assert_eq!(acquired(&call!(bob, ShareFetch, 1, fetch("bob", 0, topic_id))), []);
    let said = acknowledge("ann", 1, topic_id, (0, 2), &[ACCEPT, ACCEPT, RELEASE]);
    let settled = call!(ann, ShareAcknowledge, 1, said);
    assert_eq!(settled.responses[0].partitions[0].error_code, 0);
    assert_eq!(acquired(&call!(bob, ShareFetch, 1, fetch("bob", 1, topic_id))), [(2, 2, 2)]);
    let late = call!(bob, ShareAcknowledge, 1, acknowledge("bob", 2, topic_id, (3, 3), &[ACCEPT]));
    assert_eq!(late.responses[0].partitions[0].error_code, INVALID_RECORD_STATE);

    // Another node leads: it knows what was settled, and nothing of who held the rest.
    let other = serve(&kernel);
    let mut eve = Client::connect(other.address).await;
    let got = call!(eve, ShareFetch, 1, fetch("eve", 0, topic_id));
    assert_eq!(acquired(&got), [(2, 2, 2), (3, 4, 1)]);
}

#[tokio::test]
async fn a_connection_that_ends_gives_back_what_its_member_holds() {
    let kernel = memory_kernel();
    let face = serve(&kernel);
    let mut ann = Client::connect(face.address).await;
    let topic_id = shared_topic(&kernel, &mut ann, 3).await;
    assert_eq!(acquired(&call!(ann, ShareFetch, 1, fetch("ann", 0, topic_id))), [(0, 2, 1)]);
    let mut bob = Client::connect(face.address).await;
    assert_eq!(acquired(&call!(bob, ShareFetch, 1, fetch("bob", 0, topic_id))), []);
    let waiting = fetch("bob", 1, topic_id).with_max_wait_ms(30_000);
    drop(ann);
    assert_eq!(acquired(&call!(bob, ShareFetch, 1, waiting)), [(0, 2, 1)], "as if never delivered");
    // The last request of a session settles, and gives back the rest.
    let last = acknowledge("bob", -1, topic_id, (0, 0), &[ACCEPT]);
    assert_eq!(call!(bob, ShareAcknowledge, 1, last).error_code, 0);
    assert_eq!(acquired(&call!(bob, ShareFetch, 1, fetch("bob", 0, topic_id))), [(1, 2, 1)]);
}

#[tokio::test]
async fn sessions_and_requests_are_held_to_the_protocol() {
    let kernel = memory_kernel();
    let face = serve(&kernel);
    let mut client = Client::connect(face.address).await;
    let topic_id = shared_topic(&kernel, &mut client, 1).await;
    let none = call!(client, ShareFetch, 1, fetch("ann", 5, topic_id));
    assert_eq!(none.error_code, SHARE_SESSION_NOT_FOUND);
    call!(client, ShareFetch, 1, fetch("ann", 0, topic_id));
    let wrong = call!(client, ShareFetch, 1, fetch("ann", 2, topic_id));
    assert_eq!(wrong.error_code, INVALID_SHARE_SESSION_EPOCH);
    let nonsense = [((1, 0), vec![ACCEPT]), ((0, 0), vec![9]), ((0, 4), vec![ACCEPT, ACCEPT])];
    for (epoch, (offsets, types)) in (1..).zip(nonsense) {
        let said = acknowledge("ann", epoch, topic_id, offsets, &types);
        let answer = call!(client, ShareAcknowledge, 1, said);
        assert_eq!(answer.responses[0].partitions[0].error_code, 42, "{offsets:?} {types:?}");
    }
    let unknown = call!(client, ShareFetch, 1, fetch("bob", 0, Uuid::from_bytes([9; 16])));
    assert_eq!(partition(&unknown).unwrap().error_code, 100);
    let stranger = ShareGroupHeartbeatRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_member_id(text("nobody"))
        .with_member_epoch(3);
    assert_eq!(call!(client, ShareGroupHeartbeat, 1, stranger).error_code, 25);
    let join = ShareGroupHeartbeatRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_member_id(text("ann"))
        .with_subscribed_topic_names(Some(vec![TopicName(text("t"))]));
    let joined = call!(client, ShareGroupHeartbeat, 1, join);
    assert_eq!(joined.assignment.unwrap().topic_partitions[0].partitions, [0]);
}
