//! ConsumerGroupHeartbeat, ConsumerGroupDescribe: groups whose coordinator assigns (KIP-848).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::consumer_group_describe_response::{
    Assignment as DescribedAssignment, DescribedGroup, Member, TopicPartitions as DescribedTopic,
};
use kafka_protocol::messages::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse, GroupId, TopicName,
};
use proteus_env::random;
use proteus_kernel_api::topic::{TopicId, read};
use uuid::Uuid;

use super::group_settings::GroupSettings;
use super::groups::error_of;
use super::{text, topics};
use crate::acl::{Operation, Resource};
use crate::consumer_group::{Assignor, Beat, DescribedConsumer, Heartbeat, Partition, Topics};
use crate::errors::Failure;
use crate::group::GroupError;
use crate::pattern::Pattern;
use crate::session::Session;

/// First version whose members choose their ids themselves.
const OWN_MEMBER_ID_SINCE: i16 = 1;
/// Describes a member of this protocol, as opposed to one of the classic.
const MEMBER_TYPE_CONSUMER: i8 = 1;

impl From<GroupError> for Failure {
    fn from(error: GroupError) -> Failure {
        Failure::new(error_of(error), format!("{error:?}"))
    }
}

fn invalid(message: &str) -> Failure {
    Failure::new(ResponseError::InvalidRequest, message)
}

pub(crate) fn heartbeat(
    session: &Arc<Session>,
    version: i16,
    client_id: &str,
    request: ConsumerGroupHeartbeatRequest,
) -> ConsumerGroupHeartbeatResponse {
    let group_id = request.group_id.to_string();
    let answer = GroupSettings::of(session, &group_id).and_then(|settings| {
        let beat = beat_of(session, version, client_id, request, settings.session_timeout_ms)?;
        let resolve =
            |names: &BTreeSet<String>, patterns: &[Pattern]| resolve(session, names, patterns);
        let beat = session.shared.coordinator.heartbeat(&group_id, beat, resolve)?;
        Ok((beat, settings.heartbeat_interval_ms))
    });
    let response = ConsumerGroupHeartbeatResponse::default();
    match answer {
        Ok((Beat { member_id, epoch, assignment }, interval_ms)) => response
            .with_member_id(Some(text(member_id)))
            .with_member_epoch(epoch)
            .with_heartbeat_interval_ms(i32::try_from(interval_ms).unwrap_or(i32::MAX))
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

/// The request as the group takes it, if it makes sense.
fn beat_of(
    session: &Session,
    version: i16,
    client_id: &str,
    request: ConsumerGroupHeartbeatRequest,
    session_timeout_ms: u64,
) -> Result<Heartbeat, Failure> {
    let joins = request.member_epoch == 0;
    let mut member_id = request.member_id.to_string();
    if request.group_id.trim().is_empty() {
        return Err(invalid("the group has no id"));
    }
    if member_id.is_empty() {
        if version >= OWN_MEMBER_ID_SINCE || !joins {
            return Err(invalid("the member has no id"));
        }
        member_id =
            uuid::Builder::from_random_bytes(random::random_bytes()).into_uuid().to_string();
    }
    if request.member_epoch < -2 {
        return Err(invalid("no such member epoch"));
    }
    if request.member_epoch == -2 && request.instance_id.is_none() {
        return Err(invalid("only a static member leaves for a while"));
    }
    let topics: Option<BTreeSet<String>> = request
        .subscribed_topic_names
        .map(|names| names.iter().map(|name| name.to_string()).collect());
    let pattern = match request.subscribed_topic_regex.as_deref() {
        None => None,
        Some("") => Some((String::new(), None)),
        Some(regex) => {
            let parsed = Pattern::parse(regex).map_err(|problem| {
                Failure::new(ResponseError::InvalidRegularExpression, problem)
            })?;
            Some((regex.to_owned(), Some(parsed)))
        }
    };
    let assignor = match request.server_assignor.as_deref() {
        None => None,
        Some(name) => Some(Assignor::parse(name).ok_or_else(|| {
            let message = format!("assignor '{name}'; uniform and range are supported");
            Failure::new(ResponseError::UnsupportedAssignor, message)
        })?),
    };
    if joins && (topics.is_none() && pattern.is_none() || request.rebalance_timeout_ms < 0) {
        return Err(invalid("who joins says what it subscribes, and its rebalance timeout"));
    }
    let owned = request.topic_partitions.map(|topics| {
        let partitions = topics.iter().flat_map(|topic| {
            let topic_id = TopicId(topic.topic_id.into_bytes());
            topic
                .partitions
                .iter()
                .filter_map(move |index| Some((topic_id, super::partition_number(*index)?)))
        });
        partitions.collect::<BTreeSet<Partition>>()
    });
    if joins && owned.as_ref().is_some_and(|owned| !owned.is_empty()) {
        return Err(invalid("who joins owns nothing"));
    }
    Ok(Heartbeat {
        session_timeout_ms,
        member_id,
        epoch: request.member_epoch,
        instance_id: request.instance_id.map(|id| id.to_string()),
        rack_id: request.rack_id.map(|id| id.to_string()),
        client_id: client_id.to_owned(),
        client_host: format!("/{}", session.peer.ip().to_canonical()),
        rebalance_timeout_ms: u64::try_from(request.rebalance_timeout_ms).ok(),
        topics,
        pattern,
        assignor,
        owned,
    })
}

/// The topics of these names, and those that match a pattern.
pub(super) fn resolve(
    session: &Session,
    names: &BTreeSet<String>,
    patterns: &[Pattern],
) -> Result<Topics, Failure> {
    // Who may not describe a topic does not learn that it is there.
    let is_seen =
        |name: &str| session.allows(Operation::Describe, Resource::Topic, name).unwrap_or(false);
    if !patterns.is_empty() {
        let is_wanted = |name: &str| {
            names.contains(name) || patterns.iter().any(|pattern| pattern.matches(name))
        };
        let all = topics::all(session)?.into_iter().filter(|info| is_wanted(&info.name));
        let all = all.map(|info| (info.name, (info.topic_id, info.partition_count)));
        return Ok(all.filter(|(name, _)| is_seen(name)).collect());
    }
    Ok(session.shared.kernel.read(|view| {
        let mut found = Topics::new();
        for name in names.iter().filter(|name| is_seen(name)) {
            if let Some(info) = read::topic_by_name(view.state, name)? {
                found.insert(info.name, (info.topic_id, info.partition_count));
            }
        }
        Ok(found)
    })?)
}

pub(super) fn by_topic(partitions: &BTreeSet<Partition>) -> BTreeMap<TopicId, Vec<i32>> {
    let mut topics: BTreeMap<TopicId, Vec<i32>> = BTreeMap::new();
    for (topic_id, partition) in partitions {
        let index = i32::try_from(*partition).unwrap_or(i32::MAX);
        topics.entry(*topic_id).or_default().push(index);
    }
    topics
}

pub(crate) fn describe(
    session: &Session,
    request: ConsumerGroupDescribeRequest,
) -> ConsumerGroupDescribeResponse {
    let is_told = request.include_authorized_operations;
    let describe = |group_id| describe_one(session, group_id, is_told);
    let groups = request.group_ids.into_iter().map(describe);
    ConsumerGroupDescribeResponse::default().with_groups(groups.collect())
}

fn describe_one(session: &Session, group_id: GroupId, is_told: bool) -> DescribedGroup {
    let described = DescribedGroup::default()
        .with_group_id(group_id.clone())
        .with_authorized_operations(session.operations_told(is_told, Resource::Group, &group_id));
    let allowed = session.authorize(Operation::Describe, Resource::Group, group_id.as_str());
    if let Err(failure) = allowed {
        return described.with_error_code(failure.code());
    }
    let Some(description) = session.shared.coordinator.describe_consumer(group_id.as_str()) else {
        let message = format!("there is no consumer group '{}' with members", group_id.as_str());
        return described
            .with_error_code(ResponseError::GroupIdNotFound.code())
            .with_error_message(Some(text(message)));
    };
    let members = description.members.into_iter().map(|member| describe_member(session, member));
    described
        .with_group_state(text(description.state))
        .with_group_epoch(description.epoch)
        .with_assignment_epoch(description.target_epoch)
        .with_assignor_name(text(description.assignor))
        .with_members(members.collect())
}

fn describe_member(session: &Session, member: DescribedConsumer) -> Member {
    let pattern = Some(member.pattern).filter(|pattern| !pattern.is_empty());
    Member::default()
        .with_member_id(text(member.member_id))
        .with_instance_id(member.instance_id.map(text))
        .with_rack_id(member.rack_id.map(text))
        .with_member_epoch(member.epoch)
        .with_client_id(text(member.client_id))
        .with_client_host(text(member.client_host))
        .with_subscribed_topic_names(
            member.topics.into_iter().map(|name| TopicName(text(name))).collect(),
        )
        .with_subscribed_topic_regex(pattern.map(text))
        .with_assignment(describe_assignment(session, &member.assigned))
        .with_target_assignment(describe_assignment(session, &member.target))
        .with_member_type(MEMBER_TYPE_CONSUMER)
}

fn describe_assignment(session: &Session, partitions: &BTreeSet<Partition>) -> DescribedAssignment {
    let named = by_topic(partitions).into_iter().filter_map(|(topic_id, indexes)| {
        let read = session.shared.kernel.read(|view| read::topic(view.state, topic_id));
        // A topic that is gone since is not described.
        let name = read.ok().flatten()?.name;
        Some(
            DescribedTopic::default()
                .with_topic_id(Uuid::from_bytes(topic_id.0))
                .with_topic_name(TopicName(text(name)))
                .with_partitions(indexes),
        )
    });
    DescribedAssignment::default().with_topic_partitions(named.collect())
}
