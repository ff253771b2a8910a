//! What only a bare client can try: every version, pipelines, bad input, authentication.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::*;
use proteus_face::Accounts;
use proteus_face_kafka::KafkaOptions;
use proteus_kernel_api::topic::batch::{NewRecord, decode_records, frame_batch, split_batches};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use crate::client::{Client, text};
use crate::{call, served, served_with};

const CORRUPT_MESSAGE: i16 = 2;
const OFFSET_OUT_OF_RANGE: i16 = 1;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const INVALID_TOPIC: i16 = 17;
const UNSUPPORTED_VERSION: i16 = 35;
const UNSUPPORTED_FOR_MESSAGE_FORMAT: i16 = 43;
const OUT_OF_ORDER_SEQUENCE: i16 = 45;
const INVALID_PRODUCER_EPOCH: i16 = 47;
const INVALID_TIMESTAMP: i16 = 32;
const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
const INVALID_FETCH_SESSION_EPOCH: i16 = 71;
const INVALID_RECORD: i16 = 87;
const SASL_AUTHENTICATION_FAILED: i16 = 58;
const UNKNOWN_TOPIC_ID: i16 = 100;

pub fn batch(value: &'static str) -> Bytes {
    let record =
        NewRecord { value: Some(Bytes::from_static(value.as_bytes())), ..NewRecord::default() };
    frame_batch(&[record], 1).expect("one record")
}

/// The batch as an idempotent producer numbers it.
pub fn numbered(value: &'static str, producer_id: i64, epoch: i16, sequence: i32) -> Bytes {
    let mut bytes = batch(value).to_vec();
    bytes[43..51].copy_from_slice(&producer_id.to_be_bytes());
    bytes[51..53].copy_from_slice(&epoch.to_be_bytes());
    bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    Bytes::from(bytes)
}

/// Bit by bit: slow, short, and not the implementation under test.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 }
        })
    })
}

pub fn produce(topic: &str, partition: i32, acks: i16, records: Bytes) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(records));
    let topic = TopicProduceData::default()
        .with_name(TopicName(text(topic)))
        .with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(1_000).with_topic_data(vec![topic])
}

pub fn produced(response: &ProduceResponse) -> (i16, i64) {
    let partition = &response.responses[0].partition_responses[0];
    (partition.error_code, partition.base_offset)
}

pub fn fetch(topic: &str, offset: i64) -> FetchRequest {
    let partition = FetchPartition::default()
        .with_partition(0)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(1 << 20);
    let topic =
        FetchTopic::default().with_topic(TopicName(text(topic))).with_partitions(vec![partition]);
    FetchRequest::default()
        .with_max_wait_ms(0)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_topics(vec![topic])
}

pub fn values(response: &FetchResponse) -> Vec<String> {
    let records = response.responses[0].partitions[0].records.clone().unwrap_or_default();
    let batches = split_batches(&records).expect("whole batches");
    let records = batches.iter().flat_map(|batch| decode_records(batch, 0).expect("a batch"));
    let value = |record: proteus_kernel_api::topic::batch::Record| record.value.expect("a value");
    records
        .map(|record| String::from_utf8(value(record.expect("a record")).to_vec()).unwrap())
        .collect()
}

fn not_transactional() -> InitProducerIdRequest {
    InitProducerIdRequest::default().with_transactional_id(None)
}

/// Asks for metadata, which creates the topic; its id.
pub async fn ensure_topic(client: &mut Client, name: &str) -> Uuid {
    let topic = MetadataRequestTopic::default().with_name(Some(TopicName(text(name))));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![topic]))
        .with_allow_auto_topic_creation(true);
    let response = call!(client, Metadata, 12, request);
    assert_eq!(response.topics[0].error_code, 0);
    response.topics[0].topic_id
}

#[tokio::test]
async fn every_advertised_version_is_answered() {
    let face = served();
    let mut client = Client::connect(face.address).await;
    let topic_id = ensure_topic(&mut client, "t").await;
    let advertised = call!(client, ApiVersions, 0, ApiVersionsRequest::default());
    assert!(advertised.api_keys.len() > 20);
    for range in advertised.api_keys {
        let api_key = ApiKey::try_from(range.api_key).unwrap();
        let version_min = if api_key == ApiKey::Produce { 3 } else { range.min_version };
        for version in version_min..=range.max_version {
            let body = request_of(api_key, version, topic_id);
            client.call(api_key, version, body).await;
        }
    }
}

/// A request that names a topic, a group or whatever its kind is about.
fn request_of(api_key: ApiKey, version: i16, topic_id: Uuid) -> RequestKind {
    let group = || GroupId(text("g"));
    match api_key {
        ApiKey::Produce => {
            let mut request = produce("t", 0, -1, batch("x"));
            if version >= 13 {
                request.topic_data[0].name = TopicName::default();
                request.topic_data[0].topic_id = topic_id;
            }
            RequestKind::Produce(request)
        }
        ApiKey::Fetch => {
            let mut request = fetch("t", 0);
            if version >= 13 {
                request.topics[0].topic = TopicName::default();
                request.topics[0].topic_id = topic_id;
            }
            RequestKind::Fetch(request)
        }
        ApiKey::ListOffsets => {
            let partition = ListOffsetsPartition::default().with_timestamp(-1);
            let topic = ListOffsetsTopic::default()
                .with_name(TopicName(text("t")))
                .with_partitions(vec![partition]);
            RequestKind::ListOffsets(ListOffsetsRequest::default().with_topics(vec![topic]))
        }
        ApiKey::Metadata => {
            let topic = MetadataRequestTopic::default().with_name(Some(TopicName(text("t"))));
            let unknown = MetadataRequestTopic::default().with_name(Some(TopicName(text("a b"))));
            RequestKind::Metadata(
                MetadataRequest::default().with_topics(Some(vec![topic, unknown])),
            )
        }
        ApiKey::FindCoordinator => {
            let request = FindCoordinatorRequest::default();
            RequestKind::FindCoordinator(match version {
                ..4 => request.with_key(text("g")),
                4.. => request.with_coordinator_keys(vec![text("g")]),
            })
        }
        ApiKey::CreateTopics => {
            let topic = |name: &str| {
                CreatableTopic::default()
                    .with_name(TopicName(text(name)))
                    .with_num_partitions(1)
                    .with_replication_factor(1)
            };
            let topics = vec![topic(&format!("created-{version}")), topic("a b")];
            RequestKind::CreateTopics(CreateTopicsRequest::default().with_topics(topics))
        }
        ApiKey::DescribeGroups => {
            RequestKind::DescribeGroups(DescribeGroupsRequest::default().with_groups(vec![group()]))
        }
        ApiKey::JoinGroup => {
            RequestKind::JoinGroup(JoinGroupRequest::default().with_group_id(group()))
        }
        ApiKey::LeaveGroup => {
            let request = LeaveGroupRequest::default().with_group_id(group());
            let member = leave_group_request::MemberIdentity::default().with_member_id(text("m"));
            RequestKind::LeaveGroup(match version {
                ..3 => request.with_member_id(text("m")),
                3.. => request.with_members(vec![member]),
            })
        }
        ApiKey::OffsetCommit => {
            let partition = offset_commit_request::OffsetCommitRequestPartition::default()
                .with_committed_offset(1);
            let topic = offset_commit_request::OffsetCommitRequestTopic::default()
                .with_name(TopicName(text("t")))
                .with_partitions(vec![partition]);
            RequestKind::OffsetCommit(
                OffsetCommitRequest::default().with_group_id(group()).with_topics(vec![topic]),
            )
        }
        ApiKey::OffsetFetch if version < 8 => {
            let topic = offset_fetch_request::OffsetFetchRequestTopic::default()
                .with_name(TopicName(text("t")))
                .with_partition_indexes(vec![0, 5]);
            RequestKind::OffsetFetch(
                OffsetFetchRequest::default().with_group_id(group()).with_topics(Some(vec![topic])),
            )
        }
        ApiKey::OffsetFetch => {
            let wanted =
                offset_fetch_request::OffsetFetchRequestGroup::default().with_group_id(group());
            RequestKind::OffsetFetch(
                OffsetFetchRequest::default().with_groups(vec![wanted.with_topics(None)]),
            )
        }
        ApiKey::DescribeConfigs => {
            let resource = describe_configs_request::DescribeConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text("t"))
                .with_configuration_keys(None);
            RequestKind::DescribeConfigs(
                DescribeConfigsRequest::default().with_resources(vec![resource]),
            )
        }
        other => default_request(other),
    }
}

macro_rules! default_requests {
    ($($kind:ident => $request:ident),+ $(,)?) => {
        /// A request of one kind that asks for nothing.
        fn default_request(api_key: ApiKey) -> RequestKind {
            match api_key {
                $(ApiKey::$kind => RequestKind::$kind($request::default()),)+
                other => panic!("{other:?} is advertised, but this test does not know it"),
            }
        }
    };
}

default_requests! {
    AddOffsetsToTxn => AddOffsetsToTxnRequest,
    AddPartitionsToTxn => AddPartitionsToTxnRequest,
    AlterClientQuotas => AlterClientQuotasRequest,
    AlterConfigs => AlterConfigsRequest,
    AlterPartitionReassignments => AlterPartitionReassignmentsRequest,
    AlterReplicaLogDirs => AlterReplicaLogDirsRequest,
    AlterShareGroupOffsets => AlterShareGroupOffsetsRequest,
    AlterUserScramCredentials => AlterUserScramCredentialsRequest,
    ApiVersions => ApiVersionsRequest,
    ConsumerGroupDescribe => ConsumerGroupDescribeRequest,
    ConsumerGroupHeartbeat => ConsumerGroupHeartbeatRequest,
    CreateAcls => CreateAclsRequest,
    CreatePartitions => CreatePartitionsRequest,
    DeleteAcls => DeleteAclsRequest,
    DeleteGroups => DeleteGroupsRequest,
    DeleteRecords => DeleteRecordsRequest,
    DeleteShareGroupOffsets => DeleteShareGroupOffsetsRequest,
    DeleteTopics => DeleteTopicsRequest,
    DescribeAcls => DescribeAclsRequest,
    DescribeClientQuotas => DescribeClientQuotasRequest,
    DescribeCluster => DescribeClusterRequest,
    DescribeLogDirs => DescribeLogDirsRequest,
    DescribeProducers => DescribeProducersRequest,
    DescribeQuorum => DescribeQuorumRequest,
    DescribeShareGroupOffsets => DescribeShareGroupOffsetsRequest,
    DescribeTopicPartitions => DescribeTopicPartitionsRequest,
    DescribeTransactions => DescribeTransactionsRequest,
    DescribeUserScramCredentials => DescribeUserScramCredentialsRequest,
    ElectLeaders => ElectLeadersRequest,
    EndTxn => EndTxnRequest,
    Heartbeat => HeartbeatRequest,
    IncrementalAlterConfigs => IncrementalAlterConfigsRequest,
    InitProducerId => InitProducerIdRequest,
    ListConfigResources => ListConfigResourcesRequest,
    ListGroups => ListGroupsRequest,
    ListPartitionReassignments => ListPartitionReassignmentsRequest,
    ListTransactions => ListTransactionsRequest,
    OffsetDelete => OffsetDeleteRequest,
    OffsetForLeaderEpoch => OffsetForLeaderEpochRequest,
    SaslAuthenticate => SaslAuthenticateRequest,
    SaslHandshake => SaslHandshakeRequest,
    ShareAcknowledge => ShareAcknowledgeRequest,
    ShareFetch => ShareFetchRequest,
    ShareGroupDescribe => ShareGroupDescribeRequest,
    ShareGroupHeartbeat => ShareGroupHeartbeatRequest,
    SyncGroup => SyncGroupRequest,
    TxnOffsetCommit => TxnOffsetCommitRequest,
    WriteTxnMarkers => WriteTxnMarkersRequest,
}

#[tokio::test]
async fn metadata_names_the_address_that_was_reached() {
    let face = served();
    let mut client = Client::connect(face.address).await;
    let response = call!(client, Metadata, 1, MetadataRequest::default().with_topics(None));
    let broker = &response.brokers[0];
    assert_eq!(format!("{}:{}", &*broker.host, broker.port), face.address.to_string());
    assert!(response.topics.is_empty());
}

#[tokio::test]
async fn a_pipeline_is_answered_in_order() {
    let face = served();
    let mut client = Client::connect(face.address).await;
    ensure_topic(&mut client, "t").await;
    let mut sent = Vec::new();
    for number in 0..200 {
        if number % 10 == 9 {
            let body = RequestKind::Fetch(fetch("t", 0));
            sent.push((ApiKey::Fetch, client.send(ApiKey::Fetch, 12, body).await));
        } else {
            let body = RequestKind::Produce(produce("t", 0, -1, batch("x")));
            sent.push((ApiKey::Produce, client.send(ApiKey::Produce, 9, body).await));
        }
    }
    let mut end = 0;
    for (api_key, correlation_id) in sent {
        let version = if api_key == ApiKey::Fetch { 12 } else { 9 };
        match client.receive(api_key, version, correlation_id).await {
            ResponseKind::Produce(response) => {
                assert_eq!(produced(&response), (0, end));
                end += 1;
            }
            // It sees what was acknowledged before it, and nothing that was sent after it.
            ResponseKind::Fetch(response) => {
                assert_eq!(response.responses[0].partitions[0].high_watermark, end);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn without_acks_nothing_is_answered_but_everything_is_written() {
    let face = served();
    let mut client = Client::connect(face.address).await;
    ensure_topic(&mut client, "t").await;
    for _ in 0..3 {
        client.send(ApiKey::Produce, 9, RequestKind::Produce(produce("t", 0, 0, batch("x")))).await;
    }
    assert_eq!(values(&call!(client, Fetch, 12, fetch("t", 0))), ["x", "x", "x"]);
}

#[tokio::test]
async fn an_idempotent_producer_writes_once() {
    let face = served();
    let mut client = Client::connect(face.address).await;
    ensure_topic(&mut client, "t").await;
    let given = call!(client, InitProducerId, 4, not_transactional());
    assert_eq!(given.error_code, 0);
    let id = given.producer_id.0;
    let next = call!(client, InitProducerId, 4, not_transactional());
    assert_ne!(next.producer_id.0, id);
    for (records, expected) in [
        (numbered("a", id, 0, 0), (0, 0)),
        (numbered("b", id, 0, 1), (0, 1)),
        (numbered("b", id, 0, 1), (0, 1)),
        (numbered("d", id, 0, 3), (OUT_OF_ORDER_SEQUENCE, -1)),
        (numbered("a", id, 0, 0), (0, 0)),
        (numbered("c", id, 1, 0), (0, 2)),
        (numbered("z", id, 0, 2), (INVALID_PRODUCER_EPOCH, -1)),
        (numbered("e", next.producer_id.0, 0, 0), (0, 3)),
    ] {
        let response = call!(client, Produce, 9, produce("t", 0, -1, records));
        assert_eq!(produced(&response), expected);
    }
    assert_eq!(values(&call!(client, Fetch, 12, fetch("t", 0))), ["a", "b", "c", "e"]);
}

/// The partitions of a response, each with its values.
fn by_partition(response: &FetchResponse) -> Vec<(i32, Vec<String>)> {
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    let partitions = partitions.map(|data| {
        let topic =
            fetch_response::FetchableTopicResponse::default().with_partitions(vec![data.clone()]);
        let one = FetchResponse::default().with_responses(vec![topic]);
        (data.partition_index, values(&one))
    });
    partitions.collect()
}

#[tokio::test]
async fn a_fetch_session_says_only_what_changes() {
    let face = served();
    let mut client = Client::connect(face.address).await;
    let topic = CreatableTopic::default().with_name(TopicName(text("t"))).with_num_partitions(3);
    let request =
        CreateTopicsRequest::default().with_topics(vec![topic.with_replication_factor(1)]);
    assert_eq!(call!(client, CreateTopics, 5, request).topics[0].error_code, 0);
    let of = |partition: i32, offset: i64| {
        FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(offset)
            .with_partition_max_bytes(1 << 20)
    };
    let asks = |id: i32, epoch: i32, partitions: Vec<FetchPartition>| {
        let topic = FetchTopic::default().with_topic(TopicName(text("t")));
        let topics = match partitions.is_empty() {
            true => Vec::new(),
            false => vec![topic.with_partitions(partitions)],
        };
        fetch("t", 0).with_topics(topics).with_session_id(id).with_session_epoch(epoch)
    };
    let first = call!(client, Fetch, 12, asks(0, 0, vec![of(0, 0), of(1, 0), of(2, 0)]));
    let id = first.session_id;
    assert!(first.error_code == 0 && id != 0);
    assert_eq!(first.responses[0].partitions.len(), 3);
    // Nothing is new.
    assert!(call!(client, Fetch, 12, asks(id, 1, vec![])).responses.is_empty());
    call!(client, Produce, 9, produce("t", 1, -1, batch("x")));
    let news = call!(client, Fetch, 12, asks(id, 2, vec![]));
    assert_eq!((by_partition(&news), news.session_id), (vec![(1, vec!["x".to_owned()])], id));
    // Only what moved is said; another partition is forgotten.
    call!(client, Produce, 9, produce("t", 2, -1, batch("y")));
    let forgotten = fetch_request::ForgottenTopic::default().with_topic(TopicName(text("t")));
    let moved = asks(id, 3, vec![of(1, 1)])
        .with_forgotten_topics_data(vec![forgotten.with_partitions(vec![2])]);
    assert!(call!(client, Fetch, 12, moved).responses.is_empty());
    let back = call!(client, Fetch, 12, asks(id, 4, vec![of(2, 0)]));
    assert_eq!(by_partition(&back), [(2, vec!["y".to_owned()])]);
    // An error is told every time.
    let error_of_0 = |response: &FetchResponse| {
        let mut partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
        partitions.find(|data| data.partition_index == 0).map(|data| data.error_code)
    };
    let beyond = call!(client, Fetch, 12, asks(id, 5, vec![of(0, 9)]));
    assert_eq!(error_of_0(&beyond), Some(OFFSET_OUT_OF_RANGE));
    let beyond = call!(client, Fetch, 12, asks(id, 6, vec![]));
    assert_eq!(error_of_0(&beyond), Some(OFFSET_OUT_OF_RANGE));
    // Epochs and ids must fit; a session ends with its connection, or when its client says so.
    let skipped = call!(client, Fetch, 12, asks(id, 9, vec![]));
    assert_eq!(skipped.error_code, INVALID_FETCH_SESSION_EPOCH);
    let mut other = Client::connect(face.address).await;
    let foreign = call!(other, Fetch, 12, asks(id, 7, vec![]));
    assert_eq!(foreign.error_code, FETCH_SESSION_ID_NOT_FOUND);
    let last = call!(client, Fetch, 12, asks(id, -1, vec![of(1, 0)]));
    assert_eq!((last.session_id, by_partition(&last).len()), (0, 1));
    let gone = call!(client, Fetch, 12, asks(id, 7, vec![]));
    assert_eq!(gone.error_code, FETCH_SESSION_ID_NOT_FOUND);
}

#[tokio::test]
async fn a_fetch_session_learns_of_every_change_whatever_is_fetched_between() {
    let face = served();
    let mut client = Client::connect(face.address).await;
    ensure_topic(&mut client, "t").await;
    let next = |id: i32, epoch: i32| {
        fetch("t", 0).with_topics(Vec::new()).with_session_id(id).with_session_epoch(epoch)
    };
    let first = call!(client, Fetch, 12, fetch("t", 0).with_session_id(0).with_session_epoch(0));
    let id = first.session_id;
    assert!(id != 0 && by_partition(&first) == [(0, Vec::new())]);
    assert!(call!(client, Fetch, 12, next(id, 1)).responses.is_empty());
    // A fetch without the session sees the record first; the session has it all the same, and again
    // as long as its client does not go on.
    let mut other = Client::connect(face.address).await;
    call!(other, Produce, 9, produce("t", 0, -1, batch("a")));
    assert_eq!(values(&call!(client, Fetch, 12, fetch("t", 0))), ["a"]);
    for epoch in 2..4 {
        assert_eq!(
            by_partition(&call!(client, Fetch, 12, next(id, epoch))),
            [(0, vec!["a".to_owned()])]
        );
    }
    // A waiting request wakes for what another connection writes.
    let moved = fetch("t", 1).with_session_id(id).with_session_epoch(4).with_max_wait_ms(60_000);
    let waiting = client.send(ApiKey::Fetch, 12, RequestKind::Fetch(moved.with_min_bytes(1))).await;
    call!(other, Produce, 9, produce("t", 0, -1, batch("b")));
    let ResponseKind::Fetch(woken) = client.receive(ApiKey::Fetch, 12, waiting).await else {
        panic!("a fetch is answered by a fetch");
    };
    assert_eq!(by_partition(&woken), [(0, vec!["b".to_owned()])]);
    let moved = fetch("t", 2).with_session_id(id).with_session_epoch(5);
    assert!(call!(client, Fetch, 12, moved).responses.is_empty());
    // That the start moved is news, and that the topic is gone.
    let partition = delete_records_request::DeleteRecordsPartition::default().with_offset(1);
    let topic = delete_records_request::DeleteRecordsTopic::default()
        .with_name(TopicName(text("t")))
        .with_partitions(vec![partition]);
    call!(other, DeleteRecords, 1, DeleteRecordsRequest::default().with_topics(vec![topic]));
    let started = call!(client, Fetch, 12, next(id, 6));
    assert_eq!(started.responses[0].partitions[0].log_start_offset, 1);
    assert!(call!(client, Fetch, 12, next(id, 7)).responses.is_empty());
    let request = DeleteTopicsRequest::default().with_topic_names(vec![TopicName(text("t"))]);
    call!(other, DeleteTopics, 4, request);
    let gone = call!(client, Fetch, 12, next(id, 8));
    assert_eq!(gone.responses[0].partitions[0].error_code, UNKNOWN_TOPIC_OR_PARTITION);
    // By name it is there again when another has that name.
    ensure_topic(&mut other, "t").await;
    call!(other, Produce, 9, produce("t", 0, -1, batch("c")));
    let begun = fetch("t", 0).with_session_id(id).with_session_epoch(9);
    assert_eq!(by_partition(&call!(client, Fetch, 12, begun)), [(0, vec!["c".to_owned()])]);
}

#[tokio::test]
async fn records_are_held_to_what_their_batch_and_topic_say() {
    let face = served();
    let mut client = Client::connect(face.address).await;
    let config = |name: &str, value: &str| {
        create_topics_request::CreatableTopicConfig::default()
            .with_name(text(name))
            .with_value(Some(text(value)))
    };
    let topic = |name: &str, configs| {
        CreatableTopic::default()
            .with_name(TopicName(text(name)))
            .with_num_partitions(1)
            .with_replication_factor(1)
            .with_configs(configs)
    };
    let topics = vec![
        topic("compacted", vec![config("cleanup.policy", "compact")]),
        topic("strict", vec![config("message.timestamp.before.max.ms", "1000")]),
        topic("stamped", vec![config("message.timestamp.type", "LogAppendTime")]),
        topic("plain", vec![]),
    ];
    let created =
        call!(client, CreateTopics, 5, CreateTopicsRequest::default().with_topics(topics));
    assert!(created.topics.iter().all(|topic| topic.error_code == 0));
    let recount = |count: i32| {
        let mut bytes = batch("x").to_vec();
        bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        bytes[57..61].copy_from_slice(&count.to_be_bytes());
        sealed(bytes)
    };
    let mut bomb = batch("x").to_vec();
    bomb.truncate(61);
    // A snappy block that says it expands to 4 GiB.
    bomb.extend([0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0]);
    bomb[22] = 2;
    let length = bomb.len() as i32 - 12;
    bomb[8..12].copy_from_slice(&length.to_be_bytes());
    for (topic, records, expected) in [
        ("compacted", batch("x"), INVALID_RECORD),
        ("strict", batch("x"), INVALID_TIMESTAMP),
        ("plain", recount(2), INVALID_RECORD),
        ("plain", sealed(bomb), CORRUPT_MESSAGE),
        ("plain", Bytes::new(), INVALID_RECORD),
        ("plain", Bytes::from([batch("x"), batch("y")].concat()), INVALID_RECORD),
    ] {
        let refused = call!(client, Produce, 9, produce(topic, 0, -1, records));
        assert_eq!(produced(&refused), (expected, -1), "{topic}");
        assert_eq!(values(&call!(client, Fetch, 12, fetch(topic, 0))), Vec::<String>::new());
    }
    let stamped = call!(client, Produce, 9, produce("stamped", 0, -1, batch("x")));
    assert!(stamped.responses[0].partition_responses[0].log_append_time_ms > 1);
}

/// With the checksum that belongs to it.
fn sealed(mut bytes: Vec<u8>) -> Bytes {
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    Bytes::from(bytes)
}

#[tokio::test]
async fn errors_are_the_protocols_own() {
    let face = served();
    let mut client = Client::connect(face.address).await;
    let topic_id = ensure_topic(&mut client, "t").await;
    let mut damaged = batch("x").to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let mut old = batch("x").to_vec();
    old[16] = 1;
    for (request, expected) in [
        (produce("t", 0, -1, Bytes::from(damaged)), CORRUPT_MESSAGE),
        (produce("t", 0, -1, batch("x").slice(..40)), CORRUPT_MESSAGE),
        (produce("t", 0, -1, Bytes::from(old)), UNSUPPORTED_FOR_MESSAGE_FORMAT),
        (produce("t", 5, -1, batch("x")), UNKNOWN_TOPIC_OR_PARTITION),
        (produce("nowhere", 0, -1, batch("x")), UNKNOWN_TOPIC_OR_PARTITION),
    ] {
        assert_eq!(produced(&call!(client, Produce, 9, request)), (expected, -1));
    }
    let beyond = call!(client, Fetch, 12, fetch("t", 7));
    assert_eq!(beyond.responses[0].partitions[0].error_code, OFFSET_OUT_OF_RANGE);
    let mut by_id = fetch("t", 0);
    by_id.topics[0].topic = TopicName::default();
    by_id.topics[0].topic_id = Uuid::from_u128(topic_id.as_u128() ^ 1);
    let unknown = call!(client, Fetch, 13, by_id);
    assert_eq!(unknown.responses[0].partitions[0].error_code, UNKNOWN_TOPIC_ID);
    let mut by_id = fetch("t", 0);
    by_id.topics[0].topic = TopicName::default();
    by_id.topics[0].topic_id = topic_id;
    by_id.topics[0].partitions[0].partition = 5;
    let unknown = call!(client, Fetch, 13, by_id);
    assert_eq!(unknown.responses[0].partitions[0].error_code, UNKNOWN_TOPIC_OR_PARTITION);
    let topic = MetadataRequestTopic::default().with_name(Some(TopicName(text("no good"))));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![topic]))
        .with_allow_auto_topic_creation(true);
    assert_eq!(call!(client, Metadata, 12, request).topics[0].error_code, INVALID_TOPIC);
}

#[tokio::test]
async fn a_version_from_the_future_is_told_what_there_is() {
    let face = served();
    let mut client = Client::connect(face.address).await;
    // ApiVersions 99, correlation id 5, in a form that nobody knows yet.
    client.stream.write_all(&[0, 0, 0, 10, 0, 18, 0, 99, 0, 0, 0, 5, 1, 2]).await.unwrap();
    let response = client.receive(ApiKey::ApiVersions, 0, 5).await;
    let ResponseKind::ApiVersions(response) = response else { panic!("{response:?}") };
    assert_eq!(response.error_code, UNSUPPORTED_VERSION);
    assert!(response.api_keys.iter().any(|range| range.api_key == 18 && range.max_version == 4));
}

#[tokio::test]
async fn garbage_closes_its_connection_and_no_other() {
    let face = served();
    let mut other = Client::connect(face.address).await;
    ensure_topic(&mut other, "t").await;
    let garbage: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xFF; 16],
        &[0, 0, 0, 0],
        &[0, 0, 0, 8, 0x7F, 0xFF, 0, 0, 0, 0, 0, 1],
        // Metadata with 2^31 - 1 topics.
        &[0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 1, 0xFF, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF],
    ];
    for bytes in garbage {
        let mut client = Client::connect(face.address).await;
        client.stream.write_all(bytes).await.unwrap();
        assert!(client.is_closed().await, "{}", bytes.escape_ascii());
    }
    assert_eq!(values(&call!(other, Fetch, 12, fetch("t", 0))), Vec::<String>::new());
}

#[tokio::test]
async fn with_accounts_only_the_right_password_admits() {
    let accounts = Accounts::new(BTreeMap::from([("ann".to_owned(), "secret".to_owned())]));
    let face = served_with(accounts, KafkaOptions::default());
    let mut stranger = Client::connect(face.address).await;
    let versions = call!(stranger, ApiVersions, 3, ApiVersionsRequest::default());
    assert_eq!(versions.error_code, 0);
    stranger.send(ApiKey::Metadata, 1, RequestKind::Metadata(MetadataRequest::default())).await;
    assert!(stranger.is_closed().await);

    let mut client = Client::connect(face.address).await;
    let request = SaslHandshakeRequest::default().with_mechanism(text("PLAIN"));
    assert_eq!(call!(client, SaslHandshake, 1, request).error_code, 0);
    for (token, expected) in
        [(&b"\0ann\0wrong"[..], SASL_AUTHENTICATION_FAILED), (b"\0ann\0secret", 0)]
    {
        let request = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from_static(token));
        assert_eq!(call!(client, SaslAuthenticate, 2, request).error_code, expected);
    }
    ensure_topic(&mut client, "t").await;
    // Nothing more comes of the first connection.
    let mut rest = Vec::new();
    assert!(matches!(stranger.stream.read_to_end(&mut rest).await, Ok(0) | Err(_)));
}
