//! OffsetCommit, OffsetFetch, OffsetDelete: what groups have consumed.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
    OffsetFetchRequest, OffsetFetchResponse, TopicName,
};
use proteus_kernel_api::topic::read::{self, CommittedOffset};
use proteus_kernel_api::topic::{self, NewOffset, OFFSET_METADATA_BYTES_MAX, TopicId};

use super::groups::{error_of, identity};
use super::list_offsets::unknown_partition;
use super::{partition_number, text, topics};
use crate::acl::{Operation, Resource};
use crate::errors::Failure;
use crate::session::Session;

/// The protocol's value for "nothing was committed".
const NO_OFFSET: i64 = -1;

pub(crate) async fn commit(
    session: &Arc<Session>,
    request: OffsetCommitRequest,
) -> OffsetCommitResponse {
    let group = request.group_id.as_str();
    let member = identity(&request.member_id, request.group_instance_id.as_ref());
    let generation = request.generation_id_or_member_epoch;
    let refusal = match session.shared.coordinator.may_commit(group, &member, generation) {
        Ok(()) => None,
        Err(error) => Some(error_of(error)),
    };
    let allowed = session.authorize(Operation::Read, Resource::Group, group);
    let refusal = allowed.err().map(|failure| failure.error).or(refusal);
    // What can be committed is, in one minitransaction; the others have errors of their own.
    let mut offsets = Vec::new();
    let mut errors: Vec<Option<ResponseError>> = Vec::new();
    for topic in &request.topics {
        let allowed = session.authorize(Operation::Read, Resource::Topic, topic.name.as_str());
        let refusal = refusal.or(allowed.err().map(|failure| failure.error));
        let info = session.shared.topics.info(&*session.shared.kernel, topic.name.as_str());
        for partition in &topic.partitions {
            let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
            let found = match &info {
                Ok(Some(info)) => partition_number(partition.partition_index)
                    .filter(|number| *number < info.partition_count)
                    .map(|number| (info.topic_id, number))
                    .ok_or(ResponseError::UnknownTopicOrPartition),
                Ok(None) => Err(ResponseError::UnknownTopicOrPartition),
                Err(error) => Err(Failure::from(error.clone()).of_coordinator().error),
            };
            let is_too_long = metadata.len() > OFFSET_METADATA_BYTES_MAX;
            errors.push(match (refusal, found) {
                (Some(error), _) | (None, Err(error)) => Some(error),
                (None, Ok(_)) if is_too_long => Some(ResponseError::OffsetMetadataTooLarge),
                (None, Ok((topic_id, number))) => {
                    offsets.push(NewOffset {
                        topic_id,
                        partition: number,
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
        let op = topic::Op::CommitOffsets { group: group.to_owned(), offsets };
        topics::commit(session, op).await.err().map(|failure| failure.of_coordinator().error)
    };
    let mut errors = errors.into_iter().map(|error| error.or(failure));
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().zip(&mut errors).map(|(partition, error)| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(error.map_or(0, |error| error.code()))
        });
        let partitions = partitions.collect();
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions)
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// Partitions of topics by name, each with what was committed, or why that is not known.
type Fetched = Vec<(TopicName, Vec<(i32, Result<Option<CommittedOffset>, Failure>)>)>;

pub(crate) fn fetch(
    session: &Session,
    version: i16,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    let needs_stable = request.require_stable;
    if version >= 8 {
        let groups = request.groups.into_iter().map(|group| {
            let wanted = group.topics.map(|topics| {
                topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect()
            });
            let response =
                OffsetFetchResponseGroup::default().with_group_id(group.group_id.clone());
            let member_id = group.member_id.as_deref().unwrap_or_default();
            let coordinator = &session.shared.coordinator;
            let may_fetch =
                coordinator.may_fetch(group.group_id.as_str(), member_id, group.member_epoch);
            let allowed =
                session.authorize(Operation::Describe, Resource::Group, group.group_id.as_str());
            if let Err(failure) = allowed {
                return response.with_error_code(failure.code());
            }
            if let Err(error) = may_fetch {
                return response.with_error_code(error_of(error).code());
            }
            match fetch_group(session, group.group_id.as_str(), wanted, needs_stable) {
                Ok(fetched) => response.with_topics(many_groups(fetched)),
                Err(failure) => response.with_error_code(failure.of_coordinator().code()),
            }
        });
        return OffsetFetchResponse::default().with_groups(groups.collect());
    }
    let wanted = request.topics.map(|topics| {
        topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect()
    });
    match fetch_group(session, request.group_id.as_str(), wanted, needs_stable) {
        Ok(fetched) => OffsetFetchResponse::default().with_topics(one_group(fetched)),
        Err(failure) => {
            OffsetFetchResponse::default().with_error_code(failure.of_coordinator().code())
        }
    }
}

fn fetch_group(
    session: &Session,
    group: &str,
    wanted: Option<Vec<(TopicName, Vec<i32>)>>,
    needs_stable: bool,
) -> Result<Fetched, Failure> {
    let wanted = match wanted {
        Some(wanted) => wanted,
        None => everything_committed(session, group)?,
    };
    let topics = wanted.into_iter().map(|(name, indexes)| {
        // Not from memory: a group must not be told that it has committed nothing because the name
        // meant another topic a moment ago.
        let info = session.shared.topics.info(&*session.shared.kernel, name.as_str());
        let partitions = indexes.into_iter().map(|index| {
            let committed = match (&info, partition_number(index)) {
                (Ok(Some(info)), Some(partition)) => {
                    committed(session, group, info.topic_id, partition, needs_stable)
                }
                // Nothing was committed for what is not there.
                (Ok(_), _) => Ok(None),
                (Err(error), _) => Err(Failure::from(error.clone())),
            };
            (index, committed)
        });
        let partitions = partitions.collect();
        (name, partitions)
    });
    Ok(topics.collect())
}

fn committed(
    session: &Session,
    group: &str,
    topic_id: TopicId,
    partition: u32,
    needs_stable: bool,
) -> Result<Option<CommittedOffset>, Failure> {
    let (is_pending, committed) = session.shared.kernel.read(|view| {
        let is_pending =
            needs_stable && read::has_pending_offset(view.state, group, topic_id, partition)?;
        Ok((is_pending, read::committed_offset(view.state, group, topic_id, partition)?))
    })?;
    if is_pending {
        let message = "a transaction is about to commit an offset";
        return Err(Failure::new(ResponseError::UnstableOffsetCommit, message));
    }
    Ok(committed)
}

/// All partitions for which the group has committed, by topic name.
fn everything_committed(
    session: &Session,
    group: &str,
) -> Result<Vec<(TopicName, Vec<i32>)>, Failure> {
    let named = session.shared.kernel.read(|view| {
        let mut by_name: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for (topic_id, partition) in read::committed_partitions(view.state, group)? {
            if let Some(info) = read::topic(view.state, topic_id)? {
                let index = i32::try_from(partition).unwrap_or(i32::MAX);
                by_name.entry(info.name).or_default().push(index);
            }
        }
        Ok(by_name)
    })?;
    Ok(named.into_iter().map(|(name, indexes)| (TopicName(text(name)), indexes)).collect())
}

fn one_group(fetched: Fetched) -> Vec<OffsetFetchResponseTopic> {
    let topics = fetched.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|(index, committed)| {
            let response = OffsetFetchResponsePartition::default().with_partition_index(index);
            match committed {
                Ok(Some(committed)) => response
                    .with_committed_offset(committed.offset)
                    .with_committed_leader_epoch(committed.leader_epoch)
                    .with_metadata(Some(text(committed.metadata))),
                Ok(None) => response
                    .with_committed_offset(NO_OFFSET)
                    .with_committed_leader_epoch(-1)
                    .with_metadata(Some(text(""))),
                Err(failure) => response
                    .with_committed_offset(NO_OFFSET)
                    .with_metadata(Some(text("")))
                    .with_error_code(failure.of_coordinator().code()),
            }
        });
        let partitions = partitions.collect();
        OffsetFetchResponseTopic::default().with_name(name).with_partitions(partitions)
    });
    topics.collect()
}

/// The same in the shape that versions from 8 on have, where a response is about several groups.
fn many_groups(fetched: Fetched) -> Vec<OffsetFetchResponseTopics> {
    let topics = one_group(fetched).into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| {
            OffsetFetchResponsePartitions::default()
                .with_partition_index(partition.partition_index)
                .with_committed_offset(partition.committed_offset)
                .with_committed_leader_epoch(partition.committed_leader_epoch)
                .with_metadata(partition.metadata)
                .with_error_code(partition.error_code)
        });
        let partitions = partitions.collect();
        OffsetFetchResponseTopics::default().with_name(topic.name).with_partitions(partitions)
    });
    topics.collect()
}

pub(crate) async fn delete(
    session: &Arc<Session>,
    request: OffsetDeleteRequest,
) -> OffsetDeleteResponse {
    let group = request.group_id.as_str();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let index = partition.partition_index;
            let error = delete_one(session, group, topic.name.as_str(), index).await.err();
            let response = OffsetDeleteResponsePartition::default()
                .with_partition_index(index)
                .with_error_code(error.map_or(0, |failure| failure.code()));
            partitions.push(response);
        }
        let response = OffsetDeleteResponseTopic::default().with_name(topic.name.clone());
        topics.push(response.with_partitions(partitions));
    }
    OffsetDeleteResponse::default().with_topics(topics)
}

async fn delete_one(session: &Session, group: &str, name: &str, index: i32) -> Result<(), Failure> {
    if session.shared.coordinator.has_members(group) {
        // Which topics its members have subscribed is between them and their leader.
        let message = format!("group '{group}' has members");
        return Err(Failure::new(ResponseError::GroupSubscribedToTopic, message));
    }
    let info = topics::existing(session, name)?;
    let partition = partition_number(index).ok_or_else(unknown_partition)?;
    let op = topic::Op::RemoveOffsets {
        group: group.to_owned(),
        partitions: Some(vec![(info.topic_id, partition)]),
    };
    topics::commit(session, op).await.map_err(Failure::of_coordinator)?;
    Ok(())
}
