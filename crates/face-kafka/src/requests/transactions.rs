//! Transactions of producers: InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn, TxnOffsetCommit,
//! EndTxn; DescribeTransactions, ListTransactions, DescribeProducers.
//!
//! There is no state here: the topic machine ends a transaction in one minitransaction, so nothing
//! of it can be left half done, and CONCURRENT_TRANSACTIONS is never answered.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::describe_transactions_response::{
    TopicData, TransactionState as DescribedTransaction,
};
use kafka_protocol::messages::list_transactions_response::TransactionState as ListedTransaction;
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::write_txn_markers_request::WritableTxnMarker;
use kafka_protocol::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse, DescribeProducersRequest, DescribeProducersResponse,
    DescribeTransactionsRequest, DescribeTransactionsResponse, EndTxnRequest, EndTxnResponse,
    InitProducerIdRequest, InitProducerIdResponse, ListTransactionsRequest,
    ListTransactionsResponse, ProducerId, TopicName, TransactionalId, TxnOffsetCommitRequest,
    TxnOffsetCommitResponse, WriteTxnMarkersRequest, WriteTxnMarkersResponse,
};
use proteus_kernel_api::topic::read::{self, TransactionInfo};
use proteus_kernel_api::topic::{
    self, NewOffset, OFFSET_METADATA_BYTES_MAX, TopicId, TransactionState, TransactionalProducer,
};

use super::groups::{error_of, identity};
use super::{partition_number, text, topics};
use crate::acl::{Operation, Resource};
use crate::errors::{Failure, unexpected_reply};
use crate::session::Session;

/// Longest that a transaction may ask to take, as Kafka's `transaction.max.timeout.ms`: 15 minutes.
pub(crate) const TIMEOUT_MS_MAX: i32 = 15 * 60 * 1000;
/// Producers of a partition that are described at most.
const PRODUCERS_MAX: usize = 10_000;
/// Transactions listed at most, and those that one look at the state collects.
const TRANSACTIONS_MAX: usize = 100_000;
const TRANSACTIONS_PER_READ_MAX: usize = 500;
/// First version of EndTxn whose client knows that each transaction has an epoch of its own.
const END_BUMPS_EPOCH_SINCE: i16 = 5;
/// First version of TxnOffsetCommit that needs no AddOffsetsToTxn before.
const OFFSETS_JOIN_SINCE: i16 = 5;
/// The protocol's value for no time, and for no offset.
const NONE: i64 = -1;

/// Before version 2 of most of these requests, clients did not know of PRODUCER_FENCED.
fn fenced_as(failure: Failure, knows_fencing: bool) -> Failure {
    match failure.error {
        ResponseError::ProducerFenced if !knows_fencing => {
            Failure::new(ResponseError::InvalidProducerEpoch, failure.message)
        }
        _ => failure.of_coordinator(),
    }
}

fn producer(
    transactional_id: &TransactionalId,
    producer_id: ProducerId,
    epoch: i16,
) -> TransactionalProducer {
    TransactionalProducer {
        transactional_id: transactional_id.to_string(),
        producer_id: producer_id.0,
        epoch,
    }
}

pub(crate) async fn init(
    session: &Arc<Session>,
    version: i16,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let response = InitProducerIdResponse::default();
    match new_producer(session, &request).await {
        Ok((producer_id, epoch)) => {
            response.with_producer_id(ProducerId(producer_id)).with_producer_epoch(epoch)
        }
        Err(failure) => response
            .with_error_code(fenced_as(failure, version >= 4).code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1),
    }
}

async fn new_producer(
    session: &Arc<Session>,
    request: &InitProducerIdRequest,
) -> Result<(i64, i16), Failure> {
    let current = (request.producer_id.0, request.producer_epoch);
    let Some(transactional_id) = &request.transactional_id else {
        // A producer that lost track of its sequences asks for its next epoch (KIP-360).
        if current.0 >= 0 && (0..i16::MAX - 1).contains(&current.1) {
            return Ok((current.0, current.1 + 1));
        }
        return match topics::commit(session, topic::Op::AllocateProducerId).await? {
            topic::Reply::ProducerId(producer_id) => Ok((producer_id, 0)),
            _ => Err(unexpected_reply()),
        };
    };
    if transactional_id.is_empty() {
        return Err(Failure::new(ResponseError::InvalidRequest, "an empty transactional id"));
    }
    if !(1..=TIMEOUT_MS_MAX).contains(&request.transaction_timeout_ms) {
        let message = format!(
            "a transaction's timeout is 1 to {TIMEOUT_MS_MAX} ms, not {}",
            request.transaction_timeout_ms
        );
        return Err(Failure::new(ResponseError::InvalidTransactionTimeout, message));
    }
    let op = topic::Op::InitTransactions {
        transactional_id: transactional_id.to_string(),
        timeout_ms: u64::try_from(request.transaction_timeout_ms).unwrap_or(0),
        expected: (current.0 >= 0).then_some(current),
    };
    as_producer(topics::commit(session, op).await?)
}

fn as_producer(reply: topic::Reply) -> Result<(i64, i16), Failure> {
    match reply {
        topic::Reply::Producer { producer_id, epoch } => Ok((producer_id, epoch)),
        _ => Err(unexpected_reply()),
    }
}

pub(crate) async fn add_partitions(
    session: &Arc<Session>,
    version: i16,
    request: AddPartitionsToTxnRequest,
) -> AddPartitionsToTxnResponse {
    if version < 4 {
        let producer = producer(
            &request.v3_and_below_transactional_id,
            request.v3_and_below_producer_id,
            request.v3_and_below_producer_epoch,
        );
        let topics = &request.v3_and_below_topics;
        let results = add_to_one(session, version, producer, topics, false).await;
        return AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(results);
    }
    let mut results = Vec::with_capacity(request.transactions.len());
    for wanted in request.transactions {
        let id = &wanted.transactional_id;
        let producer = producer(id, wanted.producer_id, wanted.producer_epoch);
        let topic_results =
            add_to_one(session, version, producer, &wanted.topics, wanted.verify_only).await;
        results.push(
            AddPartitionsToTxnResult::default()
                .with_transactional_id(wanted.transactional_id)
                .with_topic_results(topic_results),
        );
    }
    AddPartitionsToTxnResponse::default().with_results_by_transaction(results)
}

/// All partitions are added, or none: one that does not exist leaves the others unattempted.
async fn add_to_one(
    session: &Arc<Session>,
    version: i16,
    producer: TransactionalProducer,
    wanted: &[AddPartitionsToTxnTopic],
    verifies_only: bool,
) -> Vec<AddPartitionsToTxnTopicResult> {
    let mut partitions = Vec::new();
    let mut is_complete = true;
    let found: Vec<Vec<Result<(TopicId, u32), Failure>>> = wanted
        .iter()
        .map(|topic| {
            let info = topics::permitted(session, Operation::Write, topic.name.as_str());
            let find = |index: &i32| {
                let info = info.clone()?;
                let number = partition_number(*index).filter(|n| *n < info.partition_count);
                let number = number.ok_or_else(super::list_offsets::unknown_partition)?;
                Ok((info.topic_id, number))
            };
            topic.partitions.iter().map(find).collect()
        })
        .collect();
    for one in found.iter().flatten() {
        match one {
            Ok(partition) => partitions.push(*partition),
            Err(_) => is_complete = false,
        }
    }
    let id = producer.transactional_id.as_str();
    let allowed = session.authorize(Operation::Write, Resource::TransactionalId, id);
    let outcome = if let Err(failure) = allowed {
        Err(failure)
    } else if !is_complete {
        let message = "another partition of the request does not exist";
        Err(Failure::new(ResponseError::OperationNotAttempted, message))
    } else if verifies_only {
        verify(session, &producer, &partitions)
    } else {
        let op = topic::Op::AddToTransaction { producer, partitions, groups: Vec::new() };
        topics::commit(session, op).await.map(|_| ())
    };
    let error = outcome.err().map(|failure| fenced_as(failure, version >= 2).code());
    let results = wanted.iter().zip(found).map(|(topic, found)| {
        let partitions = topic.partitions.iter().zip(found).map(|(index, found)| {
            let code = found.err().map(|failure| failure.code()).or(error).unwrap_or(0);
            AddPartitionsToTxnPartitionResult::default()
                .with_partition_index(*index)
                .with_partition_error_code(code)
        });
        AddPartitionsToTxnTopicResult::default()
            .with_name(topic.name.clone())
            .with_results_by_partition(partitions.collect())
    });
    results.collect()
}

/// Whether the partitions are part of the producer's transaction.
fn verify(
    session: &Session,
    producer: &TransactionalProducer,
    partitions: &[(TopicId, u32)],
) -> Result<(), Failure> {
    let id = producer.transactional_id.as_str();
    let found = session.shared.kernel.read(|view| read::transaction(view.state, id))?;
    let found = found.filter(|found| found.producer_id == producer.producer_id);
    let found = found.ok_or_else(|| {
        Failure::new(ResponseError::InvalidProducerIdMapping, "no such transactional producer")
    })?;
    if found.epoch != producer.epoch {
        return Err(Failure::new(ResponseError::ProducerFenced, "another epoch"));
    }
    let is_member = |partition: &(TopicId, u32)| found.partitions.contains(partition);
    if partitions.iter().all(is_member) {
        Ok(())
    } else {
        Err(Failure::new(ResponseError::TransactionAbortable, "not a part of the transaction"))
    }
}

pub(crate) async fn add_offsets(
    session: &Arc<Session>,
    version: i16,
    request: AddOffsetsToTxnRequest,
) -> AddOffsetsToTxnResponse {
    let id = &request.transactional_id;
    let op = topic::Op::AddToTransaction {
        producer: producer(id, request.producer_id, request.producer_epoch),
        partitions: Vec::new(),
        groups: vec![request.group_id.to_string()],
    };
    let error = topics::commit(session, op).await.err();
    let code = error.map_or(0, |failure| fenced_as(failure, version >= 2).code());
    AddOffsetsToTxnResponse::default().with_error_code(code)
}

pub(crate) async fn end(
    session: &Arc<Session>,
    version: i16,
    request: EndTxnRequest,
) -> EndTxnResponse {
    let id = &request.transactional_id;
    let op = topic::Op::EndTransaction {
        producer: producer(id, request.producer_id, request.producer_epoch),
        commits: request.committed,
        bumps_epoch: version >= END_BUMPS_EPOCH_SINCE,
    };
    let response = EndTxnResponse::default();
    match topics::commit(session, op).await.and_then(as_producer) {
        Ok((producer_id, epoch)) if version >= END_BUMPS_EPOCH_SINCE => {
            response.with_producer_id(ProducerId(producer_id)).with_producer_epoch(epoch)
        }
        Ok(_) => response,
        Err(failure) => response
            .with_error_code(fenced_as(failure, version >= 2).code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1),
    }
}

pub(crate) async fn commit_offsets(
    session: &Arc<Session>,
    version: i16,
    request: TxnOffsetCommitRequest,
) -> TxnOffsetCommitResponse {
    let group = request.group_id.as_str();
    let member = identity(&request.member_id, request.group_instance_id.as_ref());
    // A producer that says nothing of its consumer is believed, as with Kafka.
    let is_anonymous = request.generation_id < 0 && member.member_id.is_empty();
    let refusal = if is_anonymous {
        None
    } else {
        session.shared.coordinator.may_commit(group, &member, request.generation_id).err()
    };
    let mut offsets = Vec::new();
    let mut errors: Vec<Option<ResponseError>> = Vec::new();
    let id = request.transactional_id.as_str();
    let allowed = session
        .authorize(Operation::Write, Resource::TransactionalId, id)
        .and_then(|()| session.authorize(Operation::Read, Resource::Group, group));
    for topic in &request.topics {
        let info = allowed
            .clone()
            .and_then(|()| topics::permitted(session, Operation::Read, topic.name.as_str()));
        for partition in &topic.partitions {
            let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
            let number = partition_number(partition.partition_index);
            let found = info.as_ref().map_err(|failure| failure.clone().of_coordinator().error);
            let found = found.and_then(|info| {
                let number = number.filter(|number| *number < info.partition_count);
                number
                    .map(|number| (info.topic_id, number))
                    .ok_or(ResponseError::UnknownTopicOrPartition)
            });
            errors.push(match (refusal, found) {
                (Some(refusal), _) => Some(error_of(refusal)),
                (None, Err(error)) => Some(error),
                (None, Ok(_)) if metadata.len() > OFFSET_METADATA_BYTES_MAX => {
                    Some(ResponseError::OffsetMetadataTooLarge)
                }
                (None, Ok((topic_id, partition_number))) => {
                    offsets.push(NewOffset {
                        topic_id,
                        partition: partition_number,
                        offset: partition.committed_offset,
                        leader_epoch: partition.committed_leader_epoch,
                        metadata: metadata.to_owned(),
                    });
                    None
                }
            });
        }
    }
    let failure = if offsets.is_empty() {
        None
    } else {
        let id = &request.transactional_id;
        let op = topic::Op::CommitOffsetsInTransaction {
            producer: producer(id, request.producer_id, request.producer_epoch),
            group: group.to_owned(),
            offsets,
            joins: version >= OFFSETS_JOIN_SINCE,
        };
        let failure = topics::commit(session, op).await.err();
        failure.map(|failure| fenced_as(failure, false).error)
    };
    let mut errors = errors.into_iter().map(|error| error.or(failure));
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().zip(&mut errors).map(|(partition, error)| {
            TxnOffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(error.map_or(0, |error| error.code()))
        });
        let partitions = partitions.collect();
        TxnOffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions)
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}

/// What an administrator sends to abort a transaction that hangs (`kafka-transactions abort`). It is aborted in
/// all its partitions: here it cannot end in one alone.
pub(crate) async fn write_markers(
    session: &Arc<Session>,
    request: WriteTxnMarkersRequest,
) -> WriteTxnMarkersResponse {
    let mut results = Vec::with_capacity(request.markers.len());
    for marker in request.markers {
        let error = abort_by_marker(session, &marker).await.err();
        let code = error.map_or(0, |failure| failure.code());
        let topics = marker.topics.into_iter().map(|topic| {
            let partitions = topic.partition_indexes.into_iter().map(|index| {
                WritableTxnMarkerPartitionResult::default()
                    .with_partition_index(index)
                    .with_error_code(code)
            });
            let partitions = partitions.collect();
            WritableTxnMarkerTopicResult::default()
                .with_name(topic.name)
                .with_partitions(partitions)
        });
        results.push(
            WritableTxnMarkerResult::default()
                .with_producer_id(marker.producer_id)
                .with_topics(topics.collect()),
        );
    }
    WriteTxnMarkersResponse::default().with_markers(results)
}

async fn abort_by_marker(session: &Session, marker: &WritableTxnMarker) -> Result<(), Failure> {
    session.authorize_cluster(Operation::Alter)?;
    if marker.transaction_result {
        let message = "only its producer commits a transaction";
        return Err(Failure::new(ResponseError::InvalidRequest, message));
    }
    let found = all(session)?.into_iter().find(|info| info.producer_id == marker.producer_id.0);
    let found = found.filter(|info| info.state == TransactionState::Ongoing).ok_or_else(|| {
        let message = format!("producer {} has no open transaction", marker.producer_id.0);
        Failure::new(ResponseError::InvalidTxnState, message)
    })?;
    let op = topic::Op::EndTransaction {
        producer: TransactionalProducer {
            transactional_id: found.transactional_id,
            producer_id: found.producer_id,
            epoch: marker.producer_epoch,
        },
        commits: false,
        // Its producer must find out.
        bumps_epoch: true,
    };
    topics::commit(session, op).await.map(|_| ()).map_err(|failure| fenced_as(failure, false))
}

/// The protocol's word.
fn state_name(state: TransactionState) -> &'static str {
    match state {
        TransactionState::Empty => "Empty",
        TransactionState::Ongoing => "Ongoing",
        TransactionState::Committed => "CompleteCommit",
        TransactionState::Aborted => "CompleteAbort",
    }
}

pub(crate) fn describe(
    session: &Session,
    request: DescribeTransactionsRequest,
) -> DescribeTransactionsResponse {
    let states = request.transactional_ids.into_iter().map(|id| {
        let described = DescribedTransaction::default().with_transactional_id(id.clone());
        let allowed =
            session.authorize(Operation::Describe, Resource::TransactionalId, id.as_str());
        match allowed.and_then(|()| describe_one(session, id.as_str())) {
            Ok((info, topics)) => described
                .with_transaction_state(text(state_name(info.state)))
                .with_transaction_timeout_ms(i32::try_from(info.timeout_ms).unwrap_or(i32::MAX))
                .with_transaction_start_time_ms(
                    info.started_at_ms.map_or(NONE, |at_ms| i64::try_from(at_ms).unwrap_or(NONE)),
                )
                .with_producer_id(ProducerId(info.producer_id))
                .with_producer_epoch(info.epoch)
                .with_topics(topics),
            Err(failure) => described.with_error_code(failure.of_coordinator().code()),
        }
    });
    DescribeTransactionsResponse::default().with_transaction_states(states.collect())
}

fn describe_one(session: &Session, id: &str) -> Result<(TransactionInfo, Vec<TopicData>), Failure> {
    let found = session.shared.kernel.read(|view| {
        let Some(info) = read::transaction(view.state, id)? else {
            return Ok(None);
        };
        let mut topics: Vec<TopicData> = Vec::new();
        let mut last = None;
        for (topic_id, partition) in &info.partitions {
            if last != Some(*topic_id) {
                let Some(topic) = read::topic(view.state, *topic_id)? else {
                    continue;
                };
                topics.push(TopicData::default().with_topic(TopicName(text(topic.name))));
                last = Some(*topic_id);
            }
            if let Some(topic) = topics.last_mut() {
                topic.partitions.push(i32::try_from(*partition).unwrap_or(i32::MAX));
            }
        }
        Ok(Some((info, topics)))
    })?;
    found.ok_or_else(|| {
        let message = format!("there is no transactional id '{id}'");
        Failure::new(ResponseError::TransactionalIdNotFound, message)
    })
}

/// The states that a client may ask for; some are never found here.
const STATES: [&str; 8] = [
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "Dead",
    "PrepareEpochFence",
];

pub(crate) fn list(
    session: &Session,
    request: ListTransactionsRequest,
) -> ListTransactionsResponse {
    let response = ListTransactionsResponse::default();
    let pattern = match request.transactional_id_pattern.as_deref().unwrap_or_default() {
        "" => None,
        pattern => match crate::pattern::Pattern::parse(pattern) {
            Ok(pattern) => Some(pattern),
            Err(_) => {
                return response.with_error_code(ResponseError::InvalidRegularExpression.code());
            }
        },
    };
    let known = |state: &&kafka_protocol::protocol::StrBytes| STATES.contains(&&***state);
    let unknown = request.state_filters.iter().filter(|state| !known(state)).cloned().collect();
    let found = match all(session) {
        Ok(found) => found,
        Err(failure) => return response.with_error_code(failure.of_coordinator().code()),
    };
    let now_ms = session.shared.clock.wall_ms();
    let is_wanted = |info: &TransactionInfo| {
        let states = &request.state_filters;
        let producers = &request.producer_id_filters;
        let took_ms = info.started_at_ms.map(|at_ms| now_ms.saturating_sub(at_ms));
        let is_long = match u64::try_from(request.duration_filter) {
            Ok(wanted_ms) => took_ms.is_some_and(|took_ms| took_ms > wanted_ms),
            Err(_) => true,
        };
        (states.is_empty() || states.iter().any(|state| **state == *state_name(info.state)))
            && (producers.is_empty() || producers.contains(&ProducerId(info.producer_id)))
            && is_long
            && session
                .allows(Operation::Describe, Resource::TransactionalId, &info.transactional_id)
                .unwrap_or(false)
            && pattern.as_ref().is_none_or(|pattern| pattern.matches(&info.transactional_id))
    };
    let listed = found.into_iter().filter(is_wanted).map(|info| {
        ListedTransaction::default()
            .with_transactional_id(TransactionalId(text(info.transactional_id)))
            .with_producer_id(ProducerId(info.producer_id))
            .with_transaction_state(text(state_name(info.state)))
    });
    response.with_unknown_state_filters(unknown).with_transaction_states(listed.collect())
}

fn all(session: &Session) -> Result<Vec<TransactionInfo>, Failure> {
    let mut found: Vec<TransactionInfo> = Vec::new();
    while found.len() < TRANSACTIONS_MAX {
        let after = found.last().map(|info| info.transactional_id.clone());
        let more = session.shared.kernel.read(|view| {
            let count_max = TRANSACTIONS_PER_READ_MAX;
            let ids = read::transactional_ids_after(view.state, after.as_deref(), count_max)?;
            let mut infos = Vec::with_capacity(ids.len());
            for id in ids {
                infos.extend(read::transaction(view.state, &id)?);
            }
            Ok(infos)
        })?;
        let is_last = more.len() < TRANSACTIONS_PER_READ_MAX;
        found.extend(more);
        if is_last {
            break;
        }
    }
    Ok(found)
}

pub(crate) fn describe_producers(
    session: &Session,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let info = topics::permitted(session, Operation::Read, topic.name.as_str());
        let partitions = topic.partition_indexes.iter().map(|index| {
            let response = PartitionResponse::default().with_partition_index(*index);
            let found = info.clone().and_then(|info| {
                let number = partition_number(*index).filter(|n| *n < info.partition_count);
                let number = number.ok_or_else(super::list_offsets::unknown_partition)?;
                Ok(session.shared.kernel.read(|view| {
                    read::producers(view.state, info.topic_id, number, PRODUCERS_MAX)
                })?)
            });
            match found {
                Ok(producers) => response
                    .with_active_producers(producers.into_iter().map(producer_state).collect()),
                Err(failure) => response
                    .with_error_code(failure.code())
                    .with_error_message(Some(text(failure.message))),
            }
        });
        let partitions = partitions.collect();
        TopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions)
    });
    DescribeProducersResponse::default().with_topics(topics.collect())
}

fn producer_state(info: read::ProducerInfo) -> ProducerState {
    ProducerState::default()
        .with_producer_id(ProducerId(info.producer_id))
        .with_producer_epoch(i32::from(info.epoch))
        .with_last_sequence(info.last_sequence)
        .with_last_timestamp(i64::try_from(info.last_append_at_ms).unwrap_or(NONE))
        .with_coordinator_epoch(0)
        .with_current_txn_start_offset(info.open_since.unwrap_or(NONE))
}
