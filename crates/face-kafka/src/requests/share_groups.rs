//! ShareGroupHeartbeat, ShareGroupDescribe, and what administrators ask of share groups' offsets (KIP-932).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_share_group_offsets_response::{
    AlterShareGroupOffsetsResponsePartition, AlterShareGroupOffsetsResponseTopic,
};
use kafka_protocol::messages::delete_share_group_offsets_response::DeleteShareGroupOffsetsResponseTopic;
use kafka_protocol::messages::describe_share_group_offsets_request::DescribeShareGroupOffsetsRequestGroup;
use kafka_protocol::messages::describe_share_group_offsets_response::{
    DescribeShareGroupOffsetsResponseGroup, DescribeShareGroupOffsetsResponsePartition,
    DescribeShareGroupOffsetsResponseTopic,
};
use kafka_protocol::messages::share_group_describe_response as described;
use kafka_protocol::messages::share_group_heartbeat_response::{Assignment, TopicPartitions};
use kafka_protocol::messages::{
    AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsResponse, DeleteShareGroupOffsetsRequest,
    DeleteShareGroupOffsetsResponse, DescribeShareGroupOffsetsRequest,
    DescribeShareGroupOffsetsResponse, GroupId, ShareGroupDescribeRequest,
    ShareGroupDescribeResponse, ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse, TopicName,
};
use proteus_kernel_api::topic::read;
use proteus_kernel_api::topic::shares::{share_partition, shared_partitions};
use proteus_kernel_api::topic::{self, TopicId};
use uuid::Uuid;

use super::consumer_groups::{by_topic, resolve};
use super::share_settings::ShareSettings;
use super::{partition_number, text, topics};
use crate::acl::{Operation, Resource};
use crate::errors::Failure;
use crate::session::Session;
use crate::share::group::{ShareBeat, ShareMember};

/// Where a group has not begun to consume a partition.
const NO_OFFSET: i64 = -1;

pub(crate) fn heartbeat(
    session: &Arc<Session>,
    client_id: &str,
    request: ShareGroupHeartbeatRequest,
) -> ShareGroupHeartbeatResponse {
    let member_id = request.member_id.clone();
    let answer = heartbeat_of(session, client_id, request);
    let response = ShareGroupHeartbeatResponse::default();
    match answer {
        Ok((settings, (epoch, assignment))) => response
            .with_member_id(Some(member_id))
            .with_member_epoch(epoch)
            .with_heartbeat_interval_ms(
                i32::try_from(settings.heartbeat_interval_ms).unwrap_or(i32::MAX),
            )
            .with_assignment(assignment.map(|assigned| {
                let topics = by_topic(&assigned).into_iter().map(|(topic_id, partitions)| {
                    TopicPartitions::default()
                        .with_topic_id(Uuid::from_bytes(topic_id.0))
                        .with_partitions(partitions)
                });
                Assignment::default().with_topic_partitions(topics.collect())
            })),
        Err(failure) => response
            .with_error_code(failure.clone().of_coordinator().code())
            .with_error_message(Some(text(failure.message))),
    }
}

fn heartbeat_of(
    session: &Arc<Session>,
    client_id: &str,
    request: ShareGroupHeartbeatRequest,
) -> Result<(ShareSettings, crate::share::group::ShareAnswer), Failure> {
    let group = request.group_id.as_str();
    let invalid = |message: &str| Failure::new(ResponseError::InvalidRequest, message);
    if group.trim().is_empty() || request.member_id.is_empty() {
        return Err(invalid("a heartbeat names its group and member"));
    }
    if request.member_epoch < -1 {
        return Err(invalid("no such member epoch"));
    }
    if request.member_epoch == 0 && request.subscribed_topic_names.is_none() {
        return Err(invalid("who joins says what it subscribes"));
    }
    let settings = ShareSettings::of(session, group)?;
    let topics = request
        .subscribed_topic_names
        .map(|names| names.iter().map(|name| name.to_string()).collect::<BTreeSet<String>>());
    let beat = ShareBeat {
        member_id: request.member_id.to_string(),
        epoch: request.member_epoch,
        rack_id: request.rack_id.map(|id| id.to_string()),
        client_id: client_id.to_owned(),
        client_host: format!("/{}", session.peer.ip().to_canonical()),
        topics,
    };
    let limits = (settings.session_timeout_ms, session.shared.options.group.share_members_max);
    let resolve = |names: &BTreeSet<String>| resolve(session, names, &[]);
    let answer = session.shared.coordinator.share_heartbeat(group, limits, beat, resolve)?;
    Ok((settings, answer))
}

pub(crate) fn describe(
    session: &Session,
    request: ShareGroupDescribeRequest,
) -> ShareGroupDescribeResponse {
    let is_told = request.include_authorized_operations;
    let describe = |group_id| describe_one(session, group_id, is_told);
    let groups = request.group_ids.into_iter().map(describe);
    ShareGroupDescribeResponse::default().with_groups(groups.collect())
}

fn describe_one(session: &Session, group_id: GroupId, is_told: bool) -> described::DescribedGroup {
    let answer = described::DescribedGroup::default()
        .with_group_id(group_id.clone())
        .with_assignor_name(text("simple"))
        .with_authorized_operations(session.operations_told(is_told, Resource::Group, &group_id));
    let group = group_id.as_str();
    if let Err(failure) = session.authorize(Operation::Describe, Resource::Group, group) {
        return answer.with_error_code(failure.code());
    }
    if let Some(group) = session.shared.coordinator.describe_share(group) {
        let members = group.members.into_iter().map(|(id, one)| describe_member(session, id, one));
        return answer
            .with_group_state(text("Stable"))
            .with_group_epoch(group.epoch)
            .with_assignment_epoch(group.epoch)
            .with_members(members.collect());
    }
    match session.shared.kernel.read(|view| shared_partitions(view.state, group)) {
        Ok(partitions) if !partitions.is_empty() => answer.with_group_state(text("Empty")),
        Ok(_) => answer
            .with_error_code(ResponseError::GroupIdNotFound.code())
            .with_error_message(Some(text(format!("there is no share group '{group}'")))),
        Err(error) => answer.with_error_code(Failure::from(error).of_coordinator().code()),
    }
}

fn describe_member(session: &Session, member_id: String, member: ShareMember) -> described::Member {
    let assigned = by_topic(&member.assigned).into_iter().filter_map(|(topic_id, indexes)| {
        let found = session.shared.kernel.read(|view| read::topic(view.state, topic_id));
        Some(
            described::TopicPartitions::default()
                .with_topic_id(Uuid::from_bytes(topic_id.0))
                // A topic that is gone since is not described.
                .with_topic_name(TopicName(text(found.ok().flatten()?.name)))
                .with_partitions(indexes),
        )
    });
    let assignment = described::Assignment::default().with_topic_partitions(assigned.collect());
    described::Member::default()
        .with_member_id(text(member_id))
        .with_rack_id(member.rack_id.map(text))
        .with_member_epoch(member.epoch)
        .with_client_id(text(member.client_id))
        .with_client_host(text(member.client_host))
        .with_subscribed_topic_names(
            member.topics.into_iter().map(|name| TopicName(text(name))).collect(),
        )
        .with_assignment(assignment)
}

pub(crate) fn describe_offsets(
    session: &Session,
    request: DescribeShareGroupOffsetsRequest,
) -> DescribeShareGroupOffsetsResponse {
    let groups = request.groups.into_iter().map(|group| {
        let response =
            DescribeShareGroupOffsetsResponseGroup::default().with_group_id(group.group_id.clone());
        match offsets_of(session, group) {
            Ok(topics) => response.with_topics(topics),
            Err(failure) => response
                .with_error_code(failure.clone().of_coordinator().code())
                .with_error_message(Some(text(failure.message))),
        }
    });
    DescribeShareGroupOffsetsResponse::default().with_groups(groups.collect())
}

fn offsets_of(
    session: &Session,
    request: DescribeShareGroupOffsetsRequestGroup,
) -> Result<Vec<DescribeShareGroupOffsetsResponseTopic>, Failure> {
    let group = request.group_id.as_str();
    session.authorize(Operation::Describe, Resource::Group, group)?;
    let kernel = &session.shared.kernel;
    let mut wanted: BTreeMap<String, (Option<TopicId>, Vec<u32>)> = BTreeMap::new();
    match request.topics {
        Some(topics) => {
            for topic in topics {
                let info = session.shared.topics.info(&**kernel, topic.topic_name.as_str())?;
                let indexes = topic.partitions.iter().filter_map(|index| partition_number(*index));
                let entry = (info.map(|info| info.topic_id), indexes.collect());
                wanted.insert(topic.topic_name.to_string(), entry);
            }
        }
        None => {
            for (topic_id, partition) in kernel.read(|view| shared_partitions(view.state, group))? {
                if let Some(info) = kernel.read(|view| read::topic(view.state, topic_id))? {
                    let entry = wanted.entry(info.name).or_insert((Some(topic_id), Vec::new()));
                    entry.1.push(partition);
                }
            }
        }
    }
    let mut topics = Vec::with_capacity(wanted.len());
    for (name, (topic_id, indexes)) in wanted {
        if !session.allows(Operation::Describe, Resource::Topic, &name)? {
            continue;
        }
        let partitions = indexes.into_iter().map(|partition| {
            let index = i32::try_from(partition).unwrap_or(i32::MAX);
            let answer =
                DescribeShareGroupOffsetsResponsePartition::default().with_partition_index(index);
            let Some(topic_id) = topic_id else {
                return Ok(answer
                    .with_start_offset(NO_OFFSET)
                    .with_error_code(ResponseError::UnknownTopicOrPartition.code()));
            };
            let share = kernel.read(|view| share_partition(view.state, group, topic_id, partition));
            let start_offset = share?.map_or(NO_OFFSET, |share| share.start_offset);
            Ok(answer
                .with_start_offset(start_offset)
                .with_leader_epoch(super::leader_epoch(session)))
        });
        let partitions = partitions.collect::<Result<Vec<_>, Failure>>()?;
        topics.push(
            DescribeShareGroupOffsetsResponseTopic::default()
                .with_topic_name(TopicName(text(name)))
                .with_topic_id(Uuid::from_bytes(topic_id.unwrap_or_default().0))
                .with_partitions(partitions),
        );
    }
    Ok(topics)
}

/// Only while nobody consumes are offsets changed.
fn check_empty(session: &Session, group: &str) -> Result<(), Failure> {
    if session.shared.coordinator.has_members(group) {
        let message = format!("group '{group}' has members");
        return Err(Failure::new(ResponseError::NonEmptyGroup, message));
    }
    Ok(())
}

pub(crate) async fn alter_offsets(
    session: &Arc<Session>,
    request: AlterShareGroupOffsetsRequest,
) -> AlterShareGroupOffsetsResponse {
    let group = request.group_id.as_str();
    let allowed = session.authorize(Operation::Read, Resource::Group, group);
    if let Err(failure) = allowed.and_then(|()| check_empty(session, group)) {
        return AlterShareGroupOffsetsResponse::default()
            .with_error_code(failure.code())
            .with_error_message(Some(text(failure.message)));
    }
    let mut responses = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let info = topics::permitted(session, Operation::Read, topic.topic_name.as_str());
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in &topic.partitions {
            let reset = async {
                let info = info.clone()?;
                let partition = partition_number(wanted.partition_index)
                    .ok_or_else(super::list_offsets::unknown_partition)?;
                let op = topic::Op::ResetShares {
                    group: group.to_owned(),
                    offsets: vec![(info.topic_id, partition, wanted.start_offset)],
                };
                topics::commit(session, op).await
            };
            let failure = reset.await.err();
            partitions.push(
                AlterShareGroupOffsetsResponsePartition::default()
                    .with_partition_index(wanted.partition_index)
                    .with_error_code(failure.as_ref().map_or(0, Failure::code))
                    .with_error_message(failure.map(|failure| text(failure.message))),
            );
        }
        let topic_id = info.as_ref().map(|info| info.topic_id).unwrap_or_default();
        responses.push(
            AlterShareGroupOffsetsResponseTopic::default()
                .with_topic_name(topic.topic_name.clone())
                .with_topic_id(Uuid::from_bytes(topic_id.0))
                .with_partitions(partitions),
        );
    }
    session.shared.shares.forget_group(group);
    AlterShareGroupOffsetsResponse::default().with_responses(responses)
}

pub(crate) async fn delete_offsets(
    session: &Arc<Session>,
    request: DeleteShareGroupOffsetsRequest,
) -> DeleteShareGroupOffsetsResponse {
    let group = request.group_id.as_str();
    let allowed = session.authorize(Operation::Delete, Resource::Group, group);
    if let Err(failure) = allowed.and_then(|()| check_empty(session, group)) {
        return DeleteShareGroupOffsetsResponse::default()
            .with_error_code(failure.code())
            .with_error_message(Some(text(failure.message)));
    }
    let mut responses = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let info = topics::permitted(session, Operation::Read, topic.topic_name.as_str());
        let removed = async {
            let topics = Some(vec![info.clone()?.topic_id]);
            topics::commit(session, topic::Op::RemoveShares { group: group.to_owned(), topics })
                .await
        };
        let failure = removed.await.err();
        let topic_id = info.as_ref().map(|info| info.topic_id).unwrap_or_default();
        responses.push(
            DeleteShareGroupOffsetsResponseTopic::default()
                .with_topic_name(topic.topic_name.clone())
                .with_topic_id(Uuid::from_bytes(topic_id.0))
                .with_error_code(failure.as_ref().map_or(0, Failure::code))
                .with_error_message(failure.map(|failure| text(failure.message))),
        );
    }
    session.shared.shares.forget_group(group);
    DeleteShareGroupOffsetsResponse::default().with_responses(responses)
}
