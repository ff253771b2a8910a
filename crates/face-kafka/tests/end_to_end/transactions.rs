//! Transactions on the wire: old clients that announce what they write to, new ones that do not.

use bytes::Bytes;
use kafka_protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::*;

use crate::client::{Client, text};
use crate::wire::{crc32c, ensure_topic, fetch, numbered, produce, produced, values};
use crate::{call, served};

const INVALID_TXN_STATE: i16 = 48;
const INVALID_PRODUCER_ID_MAPPING: i16 = 49;
const INVALID_TRANSACTION_TIMEOUT: i16 = 50;
const OPERATION_NOT_ATTEMPTED: i16 = 55;
const UNSTABLE_OFFSET_COMMIT: i16 = 88;
const PRODUCER_FENCED: i16 = 90;
const TRANSACTIONAL_ID_NOT_FOUND: i16 = 105;

fn id() -> TransactionalId {
    TransactionalId(text("tx"))
}

fn init() -> InitProducerIdRequest {
    InitProducerIdRequest::default()
        .with_transactional_id(Some(id()))
        .with_transaction_timeout_ms(60_000)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1)
}

/// A batch of the producer's transaction.
fn batch(value: &'static str, producer: (i64, i16), sequence: i32) -> Bytes {
    let mut bytes = numbered(value, producer.0, producer.1, sequence).to_vec();
    bytes[22] |= 0x10;
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    Bytes::from(bytes)
}

fn transactional(records: Bytes) -> ProduceRequest {
    produce("t", 0, -1, records).with_transactional_id(Some(id()))
}

fn committed(offset: i64) -> FetchRequest {
    fetch("t", offset).with_isolation_level(1)
}

fn end(producer: (i64, i16), commits: bool) -> EndTxnRequest {
    EndTxnRequest::default()
        .with_transactional_id(id())
        .with_producer_id(ProducerId(producer.0))
        .with_producer_epoch(producer.1)
        .with_committed(commits)
}

fn topics(partition: i32) -> Vec<AddPartitionsToTxnTopic> {
    let topic = AddPartitionsToTxnTopic::default().with_name(TopicName(text("t")));
    vec![topic.with_partitions(vec![0, partition])]
}

#[tokio::test]
async fn a_client_that_announces_its_partitions_commits_and_aborts() {
    let face = served();
    let mut client = Client::connect(face.address).await;
    ensure_topic(&mut client, "t").await;
    let given = call!(client, InitProducerId, 2, init());
    let producer = (given.producer_id.0, given.producer_epoch);
    assert_eq!((given.error_code, producer.1), (0, 0));
    let early = call!(client, Produce, 9, transactional(batch("a", producer, 0)));
    assert_eq!(produced(&early).0, INVALID_TXN_STATE);
    let mut add = AddPartitionsToTxnRequest::default()
        .with_v3_and_below_transactional_id(id())
        .with_v3_and_below_producer_id(given.producer_id)
        .with_v3_and_below_producer_epoch(producer.1)
        .with_v3_and_below_topics(topics(7));
    let refused = call!(client, AddPartitionsToTxn, 3, add.clone());
    let results = &refused.results_by_topic_v3_and_below[0].results_by_partition;
    let codes: Vec<i16> = results.iter().map(|result| result.partition_error_code).collect();
    assert_eq!(codes, [OPERATION_NOT_ATTEMPTED, 3], "all or none");
    add.v3_and_below_topics = topics(0);
    let added = call!(client, AddPartitionsToTxn, 3, add.clone());
    let results = &added.results_by_topic_v3_and_below[0].results_by_partition;
    assert_eq!(results[0].partition_error_code, 0);
    let first = call!(client, Produce, 9, transactional(batch("a", producer, 0)));
    assert_eq!(produced(&first), (0, 0));

    let undecided = call!(client, Fetch, 12, committed(0));
    let partition = &undecided.responses[0].partitions[0];
    assert_eq!((partition.high_watermark, partition.last_stable_offset), (1, 0));
    assert_eq!(values(&undecided), Vec::<String>::new());
    assert_eq!(values(&call!(client, Fetch, 12, fetch("t", 0))), ["a"]);

    assert_eq!(call!(client, EndTxn, 3, end(producer, true)).error_code, 0);
    assert_eq!(call!(client, EndTxn, 3, end(producer, true)).error_code, 0, "asked again");
    assert_eq!(call!(client, EndTxn, 3, end(producer, false)).error_code, INVALID_TXN_STATE);
    call!(client, AddPartitionsToTxn, 3, add);
    call!(client, Produce, 9, transactional(batch("b", producer, 1)));
    assert_eq!(call!(client, EndTxn, 3, end(producer, false)).error_code, 0);
    let decided = call!(client, Fetch, 12, committed(0));
    let partition = &decided.responses[0].partitions[0];
    assert_eq!((partition.high_watermark, partition.last_stable_offset), (4, 4));
    let aborted = partition.aborted_transactions.as_ref().unwrap();
    assert_eq!(
        (aborted.len(), aborted[0].producer_id, aborted[0].first_offset),
        (1, given.producer_id, 2)
    );

    let stranger = end((producer.0 + 1, 0), true);
    assert_eq!(call!(client, EndTxn, 3, stranger).error_code, INVALID_PRODUCER_ID_MAPPING);
    let again = call!(client, InitProducerId, 4, init());
    assert_eq!((again.producer_id.0, again.producer_epoch), (producer.0, 1));
    assert_eq!(call!(client, EndTxn, 3, end(producer, true)).error_code, PRODUCER_FENCED);
    let endless = call!(client, InitProducerId, 4, init().with_transaction_timeout_ms(i32::MAX));
    assert_eq!(endless.error_code, INVALID_TRANSACTION_TIMEOUT);
}

#[tokio::test]
async fn a_client_that_announces_nothing_gets_an_epoch_for_each_transaction() {
    let face = served();
    let mut client = Client::connect(face.address).await;
    let topic_id = ensure_topic(&mut client, "t").await;
    let versions = call!(client, ApiVersions, 4, ApiVersionsRequest::default());
    let feature = versions.finalized_features.iter().find(|f| &*f.name == "transaction.version");
    assert_eq!(feature.map(|feature| feature.max_version_level), Some(2));
    let given = call!(client, InitProducerId, 5, init());
    let first = (given.producer_id.0, given.producer_epoch);
    let mut request = transactional(batch("a", first, 0));
    request.topic_data[0].name = TopicName::default();
    request.topic_data[0].topic_id = topic_id;
    assert_eq!(produced(&call!(client, Produce, 13, request)), (0, 0));

    // Offsets of a group, in the same transaction.
    let partition = TxnOffsetCommitRequestPartition::default().with_committed_offset(42);
    let topic = TxnOffsetCommitRequestTopic::default().with_name(TopicName(text("t")));
    let commit = TxnOffsetCommitRequest::default()
        .with_transactional_id(id())
        .with_group_id(GroupId(text("g")))
        .with_producer_id(given.producer_id)
        .with_producer_epoch(first.1)
        .with_topics(vec![topic.with_partitions(vec![partition])]);
    let response = call!(client, TxnOffsetCommit, 4, commit.clone());
    assert_eq!(response.topics[0].partitions[0].error_code, INVALID_TXN_STATE, "an old client");
    let response = call!(client, TxnOffsetCommit, 5, commit);
    assert_eq!(response.topics[0].partitions[0].error_code, 0);
    let wanted = OffsetFetchRequestTopics::default().with_name(TopicName(text("t")));
    let wanted = OffsetFetchRequestGroup::default()
        .with_group_id(GroupId(text("g")))
        .with_topics(Some(vec![wanted.with_partition_indexes(vec![0])]));
    let fetch_offset =
        OffsetFetchRequest::default().with_groups(vec![wanted]).with_require_stable(true);
    let pending = call!(client, OffsetFetch, 8, fetch_offset.clone());
    assert_eq!(pending.groups[0].topics[0].partitions[0].error_code, UNSTABLE_OFFSET_COMMIT);

    // What is known of it, by its id, by its partition, and in the list.
    let wanted = DescribeTransactionsRequest::default()
        .with_transactional_ids(vec![id(), TransactionalId(text("nobody"))]);
    let described = call!(client, DescribeTransactions, 0, wanted).transaction_states;
    assert_eq!((&*described[0].transaction_state, described[0].topics.len()), ("Ongoing", 1));
    assert_eq!(described[1].error_code, TRANSACTIONAL_ID_NOT_FOUND);
    let wanted = TopicRequest::default().with_name(TopicName(text("t")));
    let wanted = DescribeProducersRequest::default()
        .with_topics(vec![wanted.with_partition_indexes(vec![0])]);
    let producers = call!(client, DescribeProducers, 0, wanted);
    let producer = &producers.topics[0].partitions[0].active_producers[0];
    assert_eq!((producer.producer_id, producer.current_txn_start_offset), (given.producer_id, 0));
    for (pattern, state, expected) in
        [("t.*", "Ongoing", 1), ("t", "Ongoing", 0), ("tx", "Empty", 0)]
    {
        let wanted = ListTransactionsRequest::default()
            .with_state_filters(vec![text(state), text("Nonsense")])
            .with_duration_filter(-1)
            .with_transactional_id_pattern(Some(text(pattern)));
        let listed = call!(client, ListTransactions, 2, wanted);
        assert_eq!(listed.transaction_states.len(), expected, "{pattern} {state}");
        assert_eq!(listed.unknown_state_filters, [text("Nonsense")]);
    }

    let ended = call!(client, EndTxn, 5, end(first, true));
    let second = (ended.producer_id.0, ended.producer_epoch);
    assert_eq!((ended.error_code, second), (0, (first.0, 1)));
    let again = call!(client, EndTxn, 5, end(first, true));
    assert_eq!((again.error_code, again.producer_epoch), (0, 1), "the answer was lost");
    let committed_offset = call!(client, OffsetFetch, 8, fetch_offset);
    assert_eq!(committed_offset.groups[0].topics[0].partitions[0].committed_offset, 42);
    let zombie = call!(client, Produce, 12, transactional(batch("z", first, 1)));
    assert_eq!(produced(&zombie).0, 47, "INVALID_PRODUCER_EPOCH");
    assert_eq!(produced(&call!(client, Produce, 12, transactional(batch("b", second, 0)))), (0, 2));

    // Brokers verify for one another; a client of version 4 may ask the same.
    let transaction = AddPartitionsToTxnTransaction::default()
        .with_transactional_id(id())
        .with_producer_id(ended.producer_id)
        .with_producer_epoch(second.1)
        .with_verify_only(true)
        .with_topics(topics(0));
    let verify = AddPartitionsToTxnRequest::default().with_transactions(vec![transaction]);
    let verified = call!(client, AddPartitionsToTxn, 5, verify);
    let result = &verified.results_by_transaction[0].topic_results[0].results_by_partition[0];
    assert_eq!(result.partition_error_code, 0);
    let ended = call!(client, EndTxn, 5, end(second, false));
    assert_eq!((ended.error_code, ended.producer_epoch), (0, 2));
    assert_eq!(values(&call!(client, Fetch, 12, committed(0)))[..1], ["a"]);
}
