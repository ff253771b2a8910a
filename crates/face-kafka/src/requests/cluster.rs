//! Metadata, DescribeCluster, FindCoordinator.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    BrokerId, DescribeClusterResponse, FindCoordinatorRequest, FindCoordinatorResponse,
    MetadataRequest, MetadataResponse, TopicName,
};
use proteus_kernel_api::topic::read::{self, TopicInfo};
use proteus_kernel_api::topic::{self, TopicId};
use uuid::Uuid;

use super::{OPERATIONS_NOT_TOLD, text, topics};
use crate::acl::{Operation, Resource};
use crate::brokers::Brokers;
use crate::errors::Failure;
use crate::session::Session;

/// Topics that one request for metadata creates at most: each is a commit. A client that wants more asks
/// again.
const CREATIONS_MAX: usize = 100;

/// Coordinators of consumer groups and of transactions.
const KEY_TYPES: [i8; 2] = [0, 1];

pub(crate) async fn metadata(
    session: &Arc<Session>,
    version: i16,
    request: MetadataRequest,
) -> MetadataResponse {
    let brokers = Brokers::of(session);
    let described = brokers.all.iter().map(|broker| {
        MetadataResponseBroker::default()
            .with_node_id(broker.id)
            .with_host(broker.host.clone())
            .with_port(broker.port)
    });
    let response = MetadataResponse::default()
        .with_brokers(described.collect())
        .with_cluster_id(Some(text(session.shared.options.cluster_id.clone())))
        .with_controller_id(brokers.leader_id())
        .with_cluster_authorized_operations(OPERATIONS_NOT_TOLD);
    let wanted = match request.topics {
        // In version 0 an empty list means all topics.
        Some(wanted) if version > 0 || !wanted.is_empty() => wanted,
        _ => return all_topics(session, &brokers, response),
    };
    // Before version 4 a request could not say whether to create topics, and did.
    let may_create =
        session.shared.options.creates_topics && (version < 4 || request.allow_auto_topic_creation);
    let mut creations_left = if may_create { Some(CREATIONS_MAX) } else { None };
    let mut described = Vec::with_capacity(wanted.len());
    for topic in wanted {
        described.push(describe_wanted(session, &brokers, topic, &mut creations_left).await);
    }
    response.with_topics(described)
}

fn all_topics(
    session: &Session,
    brokers: &Brokers,
    response: MetadataResponse,
) -> MetadataResponse {
    match topics::all(session) {
        Ok(topics) => {
            let is_seen = |info: &&TopicInfo| {
                let allowed = session.allows(Operation::Describe, Resource::Topic, &info.name);
                allowed.unwrap_or(false)
            };
            let seen = topics.iter().filter(is_seen);
            response.with_topics(seen.map(|info| describe_topic(brokers, info)).collect())
        }
        Err(failure) => {
            // Only version 13 has a place for the error; before, no topic is the honest answer.
            tracing::warn!(error = %failure.message, "cannot list topics");
            response.with_error_code(failure.code())
        }
    }
}

async fn describe_wanted(
    session: &Arc<Session>,
    brokers: &Brokers,
    wanted: MetadataRequestTopic,
    creations_left: &mut Option<usize>,
) -> MetadataResponseTopic {
    let found = match &wanted.name {
        Some(name) => by_name(session, name.as_str(), creations_left).await,
        None => by_id(session, TopicId(wanted.topic_id.into_bytes())),
    };
    match found {
        Ok(info) => describe_topic(brokers, &info),
        Err(failure) => MetadataResponseTopic::default()
            .with_error_code(failure.code())
            // Null is for topics asked for by id, and only since version 12.
            .with_name(Some(wanted.name.unwrap_or_default()))
            .with_topic_id(wanted.topic_id)
            .with_topic_authorized_operations(OPERATIONS_NOT_TOLD),
    }
}

fn by_id(session: &Session, topic_id: TopicId) -> Result<TopicInfo, Failure> {
    let found = session.shared.kernel.read(|view| read::topic(view.state, topic_id))?;
    let found = found.ok_or_else(|| {
        Failure::new(ResponseError::UnknownTopicId, format!("no topic {topic_id}"))
    })?;
    session.authorize(Operation::Describe, Resource::Topic, &found.name)?;
    Ok(found)
}

/// The topic of this name, which is made if it is not there; `None` left means that none may be.
async fn by_name(
    session: &Arc<Session>,
    name: &str,
    creations_left: &mut Option<usize>,
) -> Result<TopicInfo, Failure> {
    session.authorize(Operation::Describe, Resource::Topic, name)?;
    if let Some(info) = session.shared.topics.info(&*session.shared.kernel, name)? {
        return Ok(info);
    }
    if let Some(problem) = topic::name_problem(name) {
        return Err(Failure::new(ResponseError::InvalidTopicException, problem));
    }
    let unknown = || {
        let message = format!("there is no topic '{name}'");
        Failure::new(ResponseError::UnknownTopicOrPartition, message)
    };
    let Some(left) = creations_left else {
        return Err(unknown());
    };
    let Some(fewer) = left.checked_sub(1) else {
        let message = format!("a request creates {CREATIONS_MAX} topics at most; ask again");
        return Err(Failure::new(ResponseError::LeaderNotAvailable, message));
    };
    *left = fewer;
    let partition_count = session.shared.options.partition_count;
    match topics::create_one(session, name, partition_count, BTreeMap::new()).await {
        Ok(_) => {}
        // Another client was first.
        Err(failure) if failure.error == ResponseError::TopicAlreadyExists => {}
        Err(failure) => return Err(failure),
    }
    session.shared.topics.info(&*session.shared.kernel, name)?.ok_or_else(unknown)
}

fn describe_topic(brokers: &Brokers, info: &TopicInfo) -> MetadataResponseTopic {
    let leader_id = brokers.leader_id();
    let error = (leader_id.0 < 0).then_some(ResponseError::LeaderNotAvailable);
    let partitions = (0..info.partition_count).map(|partition| {
        MetadataResponsePartition::default()
            .with_error_code(error.map_or(0, |error| error.code()))
            .with_partition_index(i32::try_from(partition).unwrap_or(i32::MAX))
            .with_leader_id(leader_id)
            .with_leader_epoch(brokers.leader_epoch)
            .with_replica_nodes(brokers.ids())
            .with_isr_nodes(brokers.ids())
    });
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(text(info.name.clone()))))
        .with_topic_id(Uuid::from_bytes(info.topic_id.0))
        .with_partitions(partitions.collect())
        .with_topic_authorized_operations(OPERATIONS_NOT_TOLD)
}

pub(crate) fn describe(session: &Session) -> DescribeClusterResponse {
    let brokers = Brokers::of(session);
    let described = brokers.all.iter().map(|broker| {
        DescribeClusterBroker::default()
            .with_broker_id(broker.id)
            .with_host(broker.host.clone())
            .with_port(broker.port)
    });
    DescribeClusterResponse::default()
        .with_endpoint_type(1)
        .with_cluster_id(text(session.shared.options.cluster_id.clone()))
        .with_controller_id(brokers.leader_id())
        .with_brokers(described.collect())
        .with_cluster_authorized_operations(OPERATIONS_NOT_TOLD)
}

pub(crate) fn find_coordinator(
    session: &Session,
    version: i16,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let refusal = (!KEY_TYPES.contains(&request.key_type)).then(|| {
        let message = format!("key type {}; 0 (group) and 1 (transaction) are", request.key_type);
        Failure::new(ResponseError::InvalidRequest, message)
    });
    let brokers = Brokers::of(session);
    let refusal = refusal.or_else(|| {
        brokers.coordinator().is_none().then(|| {
            let message = "the cluster has no leader now; try again";
            Failure::new(ResponseError::CoordinatorNotAvailable, message)
        })
    });
    let code = refusal.as_ref().map_or(0, Failure::code);
    let message = refusal.as_ref().map(|failure| text(failure.message.clone()));
    let (node_id, host, port) = match brokers.coordinator().filter(|_| refusal.is_none()) {
        Some(broker) => (broker.id, broker.host.clone(), broker.port),
        None => (BrokerId(-1), text(""), -1),
    };
    if version < 4 {
        return FindCoordinatorResponse::default()
            .with_error_code(code)
            .with_error_message(message)
            .with_node_id(node_id)
            .with_host(host)
            .with_port(port);
    }
    let coordinators = request.coordinator_keys.into_iter().map(|key| {
        Coordinator::default()
            .with_key(key)
            .with_node_id(node_id)
            .with_host(host.clone())
            .with_port(port)
            .with_error_code(code)
            .with_error_message(message.clone())
    });
    FindCoordinatorResponse::default().with_coordinators(coordinators.collect())
}
