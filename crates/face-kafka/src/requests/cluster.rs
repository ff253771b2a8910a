//! Metadata, DescribeCluster, DescribeQuorum, FindCoordinator.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::describe_quorum_response as quorum;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    BrokerId, DescribeClusterRequest, DescribeClusterResponse, DescribeQuorumRequest,
    DescribeQuorumResponse, FindCoordinatorRequest, FindCoordinatorResponse, MetadataRequest,
    MetadataResponse, TopicName,
};
use proteus_kernel_api::topic::read::{self, TopicInfo};
use proteus_kernel_api::topic::{self, TopicId};
use uuid::Uuid;

use super::{text, topics};
use crate::acl::{CLUSTER_NAME, Operation, Resource};
use crate::brokers::{Brokers, broker_id};
use crate::errors::Failure;
use crate::session::Session;

/// Topics that one request for metadata creates at most: each is a commit. A client that wants more asks
/// again.
const CREATIONS_MAX: usize = 100;

/// The topic whose replicas are Kafka's controllers.
const METADATA_TOPIC: &str = "__cluster_metadata";
/// Kinds of endpoints of the protocol.
const ENDPOINTS_ARE_BROKERS: i8 = 1;

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
        .with_cluster_authorized_operations(session.operations_told(
            request.include_cluster_authorized_operations,
            Resource::Cluster,
            CLUSTER_NAME,
        ));
    let context = Context {
        session,
        brokers: &brokers,
        is_told: request.include_topic_authorized_operations,
    };
    let wanted = match request.topics {
        // In version 0 an empty list means all topics.
        Some(wanted) if version > 0 || !wanted.is_empty() => wanted,
        _ => return all_topics(&context, response),
    };
    // Before version 4 a request could not say whether to create topics, and did.
    let may_create =
        session.shared.options.creates_topics && (version < 4 || request.allow_auto_topic_creation);
    let mut creations_left = if may_create { Some(CREATIONS_MAX) } else { None };
    let mut described = Vec::with_capacity(wanted.len());
    for topic in wanted {
        described.push(describe_wanted(&context, topic, &mut creations_left).await);
    }
    response.with_topics(described)
}

/// What the topics of one request have in common.
struct Context<'a> {
    session: &'a Arc<Session>,
    brokers: &'a Brokers,
    /// Whether to say what the client may do with each.
    is_told: bool,
}

fn all_topics(context: &Context<'_>, response: MetadataResponse) -> MetadataResponse {
    let session = context.session;
    match topics::all(session) {
        Ok(topics) => {
            let is_seen = |info: &&TopicInfo| {
                let allowed = session.allows(Operation::Describe, Resource::Topic, &info.name);
                allowed.unwrap_or(false)
            };
            let seen = topics.iter().filter(is_seen);
            response.with_topics(seen.map(|info| describe_topic(context, info)).collect())
        }
        Err(failure) => {
            // Only version 13 has a place for the error; before, no topic is the honest answer.
            tracing::warn!(error = %failure.message, "cannot list topics");
            response.with_error_code(failure.code())
        }
    }
}

async fn describe_wanted(
    context: &Context<'_>,
    wanted: MetadataRequestTopic,
    creations_left: &mut Option<usize>,
) -> MetadataResponseTopic {
    let found = match &wanted.name {
        Some(name) => by_name(context.session, name.as_str(), creations_left).await,
        None => by_id(context.session, TopicId(wanted.topic_id.into_bytes())),
    };
    match found {
        Ok(info) => describe_topic(context, &info),
        Err(failure) => MetadataResponseTopic::default()
            .with_error_code(failure.code())
            // Null is for topics asked for by id, and only since version 12.
            .with_name(Some(wanted.name.unwrap_or_default()))
            .with_topic_id(wanted.topic_id)
            .with_topic_authorized_operations(context.session.operations_told(
                false,
                Resource::Topic,
                "",
            )),
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

fn describe_topic(context: &Context<'_>, info: &TopicInfo) -> MetadataResponseTopic {
    let Context { session, brokers, is_told } = *context;
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
        .with_topic_authorized_operations(session.operations_told(
            is_told,
            Resource::Topic,
            &info.name,
        ))
}

pub(crate) fn describe(
    session: &Session,
    request: &DescribeClusterRequest,
) -> DescribeClusterResponse {
    // The only endpoints that there are are brokers: whoever asks for controllers is told so.
    if request.endpoint_type != ENDPOINTS_ARE_BROKERS {
        let message = "this is a broker; ask for brokers";
        return DescribeClusterResponse::default()
            .with_error_code(ResponseError::MismatchedEndpointType.code())
            .with_error_message(Some(text(message)))
            .with_endpoint_type(ENDPOINTS_ARE_BROKERS);
    }
    let brokers = Brokers::of(session);
    let described = brokers.all.iter().map(|broker| {
        DescribeClusterBroker::default()
            .with_broker_id(broker.id)
            .with_host(broker.host.clone())
            .with_port(broker.port)
    });
    DescribeClusterResponse::default()
        .with_endpoint_type(ENDPOINTS_ARE_BROKERS)
        .with_cluster_id(text(session.shared.options.cluster_id.clone()))
        .with_controller_id(brokers.leader_id())
        .with_brokers(described.collect())
        .with_cluster_authorized_operations(session.operations_told(
            request.include_cluster_authorized_operations,
            Resource::Cluster,
            CLUSTER_NAME,
        ))
}

/// The cluster's voters, as replicas of the partition in which Kafka keeps its metadata. Positions are
/// commit timestamps; how far the others are is not known here.
pub(crate) fn describe_quorum(
    session: &Session,
    version: i16,
    request: DescribeQuorumRequest,
) -> DescribeQuorumResponse {
    let response = DescribeQuorumResponse::default();
    let applied = session
        .authorize_cluster(Operation::Describe)
        .and_then(|()| Ok(session.shared.kernel.read(|view| Ok(view.applied_ts.0))?));
    let applied = match applied {
        Ok(applied) => i64::try_from(applied).unwrap_or(i64::MAX),
        Err(failure) => return response.with_error_code(failure.code()),
    };
    let brokers = Brokers::of(session);
    let partition = |index: i32, name: &str| {
        let partition = quorum::PartitionData::default().with_partition_index(index);
        if name != METADATA_TOPIC || index != 0 {
            return partition.with_error_code(ResponseError::UnknownTopicOrPartition.code());
        }
        let (voters, observers) = replicas(session, version, &brokers, applied);
        partition
            .with_leader_id(brokers.leader_id())
            .with_leader_epoch(brokers.leader_epoch)
            .with_high_watermark(applied)
            .with_current_voters(voters)
            .with_observers(observers)
    };
    let topics = request.topics.iter().map(|topic| {
        let indexes = topic.partitions.iter().map(|wanted| wanted.partition_index);
        let partitions = indexes.map(|index| partition(index, topic.topic_name.as_str()));
        quorum::TopicData::default()
            .with_topic_name(topic.topic_name.clone())
            .with_partitions(partitions.collect())
    });
    let nodes = brokers.all.iter().map(|broker| {
        let listener = quorum::Listener::default()
            .with_name(text("CONTROLLER"))
            .with_host(broker.host.clone())
            .with_port(u16::try_from(broker.port).unwrap_or_default());
        quorum::Node::default().with_node_id(broker.id).with_listeners(vec![listener])
    });
    // Before version 2 where they are was not told.
    let nodes = if version >= 2 { nodes.collect() } else { Vec::new() };
    response.with_topics(topics.collect()).with_nodes(nodes)
}

/// Those of the brokers that vote, and the others.
fn replicas(
    session: &Session,
    version: i16,
    brokers: &Brokers,
    applied: i64,
) -> (Vec<quorum::ReplicaState>, Vec<quorum::ReplicaState>) {
    let cluster = session.shared.kernel.cluster();
    let own = broker_id(cluster.node);
    let now_ms = i64::try_from(session.shared.clock.wall_ms()).unwrap_or(i64::MAX);
    let replica = |id: &BrokerId| {
        // Before version 1 when they were heard of was not told.
        let seen_at_ms = if *id == own && version >= 1 { now_ms } else { -1 };
        quorum::ReplicaState::default()
            .with_replica_id(*id)
            .with_log_end_offset(if *id == own { applied } else { -1 })
            .with_last_fetch_timestamp(seen_at_ms)
            .with_last_caught_up_timestamp(seen_at_ms)
    };
    let votes = |id: &BrokerId| {
        cluster.members.is_empty() || cluster.voters.iter().any(|node| broker_id(*node) == *id)
    };
    let (voters, others): (Vec<BrokerId>, Vec<BrokerId>) =
        brokers.ids().into_iter().partition(votes);
    (voters.iter().map(replica).collect(), others.iter().map(replica).collect())
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
