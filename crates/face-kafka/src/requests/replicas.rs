//! What administrators ask of replicas: DescribeLogDirs, AlterReplicaLogDirs, ElectLeaders,
//! AlterPartitionReassignments, ListPartitionReassignments, DescribeTopicPartitions. Every partition
//! has one replica, on the only broker, which leads it.

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_partition_reassignments_request::ReassignablePartition;
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
};
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse,
    AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse, DescribeLogDirsRequest,
    DescribeLogDirsResponse, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
    ElectLeadersRequest, ElectLeadersResponse, ListPartitionReassignmentsResponse, TopicName,
};
use proteus_kernel_api::topic::read::{self, TopicInfo};
use uuid::Uuid;

use super::{partition_number, text, topics};
use crate::acl::{Operation, Resource};
use crate::brokers::Brokers;
use crate::errors::Failure;
use crate::session::Session;

/// The name of the only log directory. Where the data really are is the node's business.
const LOG_DIR: &str = "proteus";
/// Most partitions of one DescribeTopicPartitions response, as Kafka's
/// `max.request.partition.size.limit`.
const PARTITIONS_DESCRIBED_MAX: usize = 2_000;

/// Whether the topic has the partition.
fn exists(session: &Session, name: &str, index: i32) -> Result<(), Failure> {
    let info = topics::existing(session, name)?;
    let number = partition_number(index).filter(|number| *number < info.partition_count);
    number.map(|_| ()).ok_or_else(super::list_offsets::unknown_partition)
}

pub(crate) fn describe_log_dirs(
    session: &Session,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    let response = DescribeLogDirsResponse::default();
    let wanted: Result<Vec<(TopicInfo, Vec<u32>)>, Failure> = match request.topics {
        None => topics::all(session).map(|topics| {
            let all = |info: TopicInfo| {
                let partitions = (0..info.partition_count).collect();
                (info, partitions)
            };
            topics.into_iter().map(all).collect()
        }),
        Some(topics) => Ok(topics
            .iter()
            .filter_map(|topic| {
                // What is not there has no place in a directory.
                let info = topics::existing(session, topic.topic.as_str()).ok()?;
                let count = info.partition_count;
                let partitions =
                    topic.partitions.iter().filter_map(|index| partition_number(*index));
                let partitions = partitions.filter(|number| *number < count).collect();
                Some((info, partitions))
            })
            .collect()),
    };
    let described = wanted.and_then(|wanted| {
        let topics =
            wanted.into_iter().map(|(info, partitions)| sizes(session, &info, &partitions));
        topics.collect::<Result<Vec<_>, Failure>>()
    });
    match described {
        Ok(topics) => response.with_results(vec![
            DescribeLogDirsResult::default()
                .with_log_dir(text(LOG_DIR))
                .with_topics(topics)
                // Unknown: other data share the disk.
                .with_total_bytes(-1)
                .with_usable_bytes(-1),
        ]),
        Err(failure) => response.with_error_code(failure.code()),
    }
}

fn sizes(
    session: &Session,
    info: &TopicInfo,
    partitions: &[u32],
) -> Result<DescribeLogDirsTopic, Failure> {
    let sizes = session.shared.kernel.read(|view| {
        let mut sizes = Vec::with_capacity(partitions.len());
        for number in partitions {
            let found = read::partition(view.state, info.topic_id, *number)?;
            sizes.push((*number, found.map_or(0, |found| found.bytes)));
        }
        Ok(sizes)
    })?;
    let partitions = sizes.into_iter().map(|(number, bytes)| {
        DescribeLogDirsPartition::default()
            .with_partition_index(i32::try_from(number).unwrap_or(i32::MAX))
            .with_partition_size(i64::try_from(bytes).unwrap_or(i64::MAX))
    });
    Ok(DescribeLogDirsTopic::default()
        .with_name(TopicName(text(info.name.clone())))
        .with_partitions(partitions.collect()))
}

pub(crate) fn alter_log_dirs(
    session: &Session,
    request: AlterReplicaLogDirsRequest,
) -> AlterReplicaLogDirsResponse {
    let mut results: BTreeMap<TopicName, Vec<AlterReplicaLogDirPartitionResult>> = BTreeMap::new();
    for dir in &request.dirs {
        for topic in &dir.topics {
            for index in &topic.partitions {
                let is_there = &*dir.path == LOG_DIR;
                let code = match exists(session, topic.name.as_str(), *index) {
                    Ok(()) if is_there => 0,
                    Ok(()) => ResponseError::LogDirNotFound.code(),
                    Err(failure) => failure.code(),
                };
                results.entry(topic.name.clone()).or_default().push(
                    AlterReplicaLogDirPartitionResult::default()
                        .with_partition_index(*index)
                        .with_error_code(code),
                );
            }
        }
    }
    let results = results.into_iter().map(|(name, partitions)| {
        AlterReplicaLogDirTopicResult::default().with_topic_name(name).with_partitions(partitions)
    });
    AlterReplicaLogDirsResponse::default().with_results(results.collect())
}

/// The preferred replica leads already. Asked for all partitions, that needs not be said of each.
pub(crate) fn elect_leaders(
    session: &Session,
    request: ElectLeadersRequest,
) -> ElectLeadersResponse {
    let topics = request.topic_partitions.unwrap_or_default().into_iter().map(|topic| {
        let results = topic.partitions.iter().map(|index| {
            let (code, message) = match exists(session, topic.topic.as_str(), *index) {
                Ok(()) => {
                    (ResponseError::ElectionNotNeeded.code(), "the leader is elected".to_owned())
                }
                Err(failure) => (failure.code(), failure.message),
            };
            PartitionResult::default()
                .with_partition_id(*index)
                .with_error_code(code)
                .with_error_message(Some(text(message)))
        });
        let results = results.collect();
        ReplicaElectionResult::default().with_topic(topic.topic).with_partition_result(results)
    });
    ElectLeadersResponse::default().with_replica_election_results(topics.collect())
}

pub(crate) fn reassign(
    session: &Session,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let allows_change = request.allow_replication_factor_change;
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let response = ReassignablePartitionResponse::default()
                .with_partition_index(partition.partition_index);
            match reassign_one(session, topic.name.as_str(), partition) {
                Ok(()) => response,
                Err(failure) => response
                    .with_error_code(failure.code())
                    .with_error_message(Some(text(failure.message))),
            }
        });
        let partitions = partitions.collect();
        ReassignableTopicResponse::default().with_name(topic.name).with_partitions(partitions)
    });
    AlterPartitionReassignmentsResponse::default()
        .with_allow_replication_factor_change(allows_change)
        .with_responses(topics.collect())
}

fn reassign_one(
    session: &Session,
    name: &str,
    partition: &ReassignablePartition,
) -> Result<(), Failure> {
    exists(session, name, partition.partition_index)?;
    match &partition.replicas {
        None => Err(Failure::new(
            ResponseError::NoReassignmentInProgress,
            "no reassignment is in progress",
        )),
        Some(replicas) if **replicas == Brokers::of(session).ids() => Ok(()),
        Some(_) => Err(Failure::new(
            ResponseError::InvalidReplicaAssignment,
            "every broker has every partition; nodes are added and removed by `proteus cluster`",
        )),
    }
}

/// Nothing is ever being reassigned.
pub(crate) fn list_reassignments() -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse::default()
}

pub(crate) fn describe_topic_partitions(
    session: &Session,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let response = DescribeTopicPartitionsResponse::default();
    let limit = usize::try_from(request.response_partition_limit).unwrap_or(0);
    let mut left = limit.clamp(1, PARTITIONS_DESCRIBED_MAX);
    let mut names: Vec<String> = if request.topics.is_empty() {
        match topics::all(session) {
            Ok(topics) => topics.into_iter().map(|topic| topic.name).collect(),
            // The response has no place for an error of its own.
            Err(_) => Vec::new(),
        }
    } else {
        request.topics.iter().map(|topic| topic.name.to_string()).collect()
    };
    names.sort_unstable();
    names.dedup();
    let cursor = request.cursor.as_ref();
    let first_name = cursor.map(|cursor| cursor.topic_name.to_string()).unwrap_or_default();
    let mut described = Vec::new();
    let mut next_cursor = None;
    for name in names.into_iter().filter(|name| *name >= first_name) {
        let first = match cursor {
            Some(cursor) if *cursor.topic_name == *name => {
                partition_number(cursor.partition_index).unwrap_or(0)
            }
            _ => 0,
        };
        if left == 0 {
            next_cursor = Some(cursor_at(&name, first));
            break;
        }
        let info = match topics::permitted(session, Operation::Describe, &name) {
            Ok(info) => info,
            Err(failure) => {
                described.push(
                    DescribeTopicPartitionsResponseTopic::default()
                        .with_name(Some(TopicName(text(name))))
                        .with_error_code(failure.code())
                        .with_topic_authorized_operations(session.operations_told(
                            false,
                            Resource::Topic,
                            "",
                        )),
                );
                continue;
            }
        };
        let count = usize::try_from(info.partition_count.saturating_sub(first)).unwrap_or(0);
        let taken = count.min(left);
        left -= taken;
        let end = first + u32::try_from(taken).unwrap_or(0);
        described.push(describe_partitions(session, &info, first..end));
        if taken < count {
            next_cursor = Some(cursor_at(&info.name, end));
            break;
        }
    }
    response.with_topics(described).with_next_cursor(next_cursor)
}

fn cursor_at(name: &str, partition: u32) -> Cursor {
    Cursor::default()
        .with_topic_name(TopicName(text(name)))
        .with_partition_index(i32::try_from(partition).unwrap_or(i32::MAX))
}

fn describe_partitions(
    session: &Session,
    info: &TopicInfo,
    partitions: std::ops::Range<u32>,
) -> DescribeTopicPartitionsResponseTopic {
    let brokers = Brokers::of(session);
    let operations = session.operations_told(true, Resource::Topic, &info.name);
    let partitions = partitions.map(|number| {
        DescribeTopicPartitionsResponsePartition::default()
            .with_partition_index(i32::try_from(number).unwrap_or(i32::MAX))
            .with_leader_id(brokers.leader_id())
            .with_leader_epoch(brokers.leader_epoch)
            .with_replica_nodes(brokers.ids())
            .with_isr_nodes(brokers.ids())
            .with_eligible_leader_replicas(Some(Vec::new()))
            .with_last_known_elr(Some(Vec::new()))
    });
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(TopicName(text(info.name.clone()))))
        .with_topic_id(Uuid::from_bytes(info.topic_id.0))
        .with_partitions(partitions.collect())
        .with_topic_authorized_operations(operations)
}
