//! One module per family of requests: each turns a request into kernel calls and their outcome into
//! a response. An error belongs into the response; only what cannot be answered ends the connection.

mod acls;
pub(crate) mod api_versions;
mod cluster;
mod config_table;
mod configs;
mod consumer_groups;
mod fetch;
mod fetch_session;
mod followed;
mod group_settings;
mod groups;
mod list_offsets;
mod offsets;
pub(crate) mod produce;
mod quotas;
mod replicas;
pub(crate) mod sasl;
pub(crate) mod share_fetch;
mod share_groups;
mod share_sessions;
pub(crate) mod share_settings;
mod topics;
mod transactions;

use std::sync::Arc;

use kafka_protocol::messages::{RequestKind, ResponseKind};
use kafka_protocol::protocol::StrBytes;
use proteus_face::ConnectionError;
use proteus_kernel_api::topic;

pub(crate) use fetch_session::FetchSession;
pub(crate) use followed::Followed;
pub(crate) use share_sessions::ShareSessions;

use crate::session::Session;

/// Generation of the partitions' leadership, which is the shard's: one node leads all of them.
pub(crate) fn leader_epoch(session: &Session) -> i32 {
    topic::read::leader_epoch(session.shared.kernel.term())
}

/// Answers a request at its turn; `None` if it has no answer.
pub(crate) async fn answer(
    session: &Arc<Session>,
    version: i16,
    client_id: &str,
    body: RequestKind,
) -> Result<Option<ResponseKind>, ConnectionError> {
    use RequestKind as Q;
    use ResponseKind as R;
    if !session.is_authenticated() && !sasl::precedes_authentication(&body) {
        return Err(ConnectionError::Malformed(
            "a request before authentication; this node has accounts, use SASL PLAIN or SCRAM"
                .to_owned(),
        ));
    }
    if let Some(refusal) = acls::refuse(session, version, &body) {
        return Ok(Some(refusal));
    }
    let response = match body {
        Q::DescribeAcls(body) => R::DescribeAcls(acls::describe(session, &body)),
        Q::CreateAcls(body) => R::CreateAcls(acls::create(session, body).await),
        Q::DeleteAcls(body) => R::DeleteAcls(acls::delete(session, body).await),
        Q::ApiVersions(_) => R::ApiVersions(api_versions::answer()),
        Q::SaslHandshake(body) => R::SaslHandshake(sasl::handshake(session, version, &body)),
        Q::SaslAuthenticate(body) => R::SaslAuthenticate(sasl::authenticate(session, &body)),
        Q::AlterUserScramCredentials(body) => {
            R::AlterUserScramCredentials(sasl::alter_credentials(session, body).await)
        }
        Q::DescribeUserScramCredentials(body) => {
            R::DescribeUserScramCredentials(sasl::describe_credentials(session, body))
        }
        Q::DescribeClientQuotas(body) => R::DescribeClientQuotas(quotas::describe(session, &body)),
        Q::AlterClientQuotas(body) => R::AlterClientQuotas(quotas::alter(session, body).await),
        Q::Metadata(body) => R::Metadata(cluster::metadata(session, version, body).await),
        Q::DescribeCluster(body) => R::DescribeCluster(cluster::describe(session, &body)),
        Q::DescribeQuorum(body) => {
            R::DescribeQuorum(cluster::describe_quorum(session, version, body))
        }
        Q::FindCoordinator(body) => {
            R::FindCoordinator(cluster::find_coordinator(session, version, body))
        }
        Q::Produce(body) => return produce::start(session, version, client_id, body).await,
        Q::Fetch(body) => R::Fetch(fetch::answer(session, version, client_id, body).await),
        Q::ListOffsets(body) => R::ListOffsets(list_offsets::answer(session, version, body).await),
        Q::OffsetForLeaderEpoch(body) => {
            R::OffsetForLeaderEpoch(list_offsets::for_leader_epoch(session, body))
        }
        Q::CreateTopics(body) => R::CreateTopics(topics::create(session, body).await),
        Q::DeleteTopics(body) => R::DeleteTopics(topics::delete(session, version, body).await),
        Q::CreatePartitions(body) => R::CreatePartitions(topics::grow(session, body).await),
        Q::DeleteRecords(body) => R::DeleteRecords(topics::delete_records(session, body).await),
        Q::DescribeConfigs(body) => R::DescribeConfigs(configs::describe(session, body)),
        Q::AlterConfigs(body) => R::AlterConfigs(configs::replace(session, body).await),
        Q::ListConfigResources(body) => {
            R::ListConfigResources(configs::list_resources(session, version, &body))
        }
        Q::DescribeLogDirs(body) => R::DescribeLogDirs(replicas::describe_log_dirs(session, body)),
        Q::AlterReplicaLogDirs(body) => {
            R::AlterReplicaLogDirs(replicas::alter_log_dirs(session, body))
        }
        Q::ElectLeaders(body) => R::ElectLeaders(replicas::elect_leaders(session, body)),
        Q::AlterPartitionReassignments(body) => {
            R::AlterPartitionReassignments(replicas::reassign(session, body))
        }
        Q::ListPartitionReassignments(_) => {
            R::ListPartitionReassignments(replicas::list_reassignments())
        }
        Q::DescribeTopicPartitions(body) => {
            R::DescribeTopicPartitions(replicas::describe_topic_partitions(session, body))
        }
        Q::IncrementalAlterConfigs(body) => {
            R::IncrementalAlterConfigs(configs::alter(session, body).await)
        }
        Q::InitProducerId(body) => {
            R::InitProducerId(transactions::init(session, version, body).await)
        }
        Q::AddPartitionsToTxn(body) => {
            R::AddPartitionsToTxn(transactions::add_partitions(session, version, body).await)
        }
        Q::AddOffsetsToTxn(body) => {
            R::AddOffsetsToTxn(transactions::add_offsets(session, version, body).await)
        }
        Q::TxnOffsetCommit(body) => {
            R::TxnOffsetCommit(transactions::commit_offsets(session, version, body).await)
        }
        Q::EndTxn(body) => R::EndTxn(transactions::end(session, version, body).await),
        Q::WriteTxnMarkers(body) => {
            R::WriteTxnMarkers(transactions::write_markers(session, body).await)
        }
        Q::DescribeTransactions(body) => {
            R::DescribeTransactions(transactions::describe(session, body))
        }
        Q::ListTransactions(body) => R::ListTransactions(transactions::list(session, body)),
        Q::DescribeProducers(body) => {
            R::DescribeProducers(transactions::describe_producers(session, body))
        }
        Q::JoinGroup(body) => R::JoinGroup(groups::join(session, version, client_id, body).await),
        Q::SyncGroup(body) => R::SyncGroup(groups::sync(session, body).await),
        Q::Heartbeat(body) => R::Heartbeat(groups::heartbeat(session, &body)),
        Q::LeaveGroup(body) => R::LeaveGroup(groups::leave(session, version, body)),
        Q::ConsumerGroupHeartbeat(body) => {
            R::ConsumerGroupHeartbeat(consumer_groups::heartbeat(session, version, client_id, body))
        }
        Q::ConsumerGroupDescribe(body) => {
            R::ConsumerGroupDescribe(consumer_groups::describe(session, body))
        }
        Q::ShareGroupHeartbeat(body) => {
            R::ShareGroupHeartbeat(share_groups::heartbeat(session, client_id, body))
        }
        Q::ShareGroupDescribe(body) => R::ShareGroupDescribe(share_groups::describe(session, body)),
        Q::ShareFetch(body) => R::ShareFetch(share_fetch::fetch(session, client_id, body).await),
        Q::ShareAcknowledge(body) => {
            R::ShareAcknowledge(share_fetch::acknowledge(session, body).await)
        }
        Q::DescribeShareGroupOffsets(body) => {
            R::DescribeShareGroupOffsets(share_groups::describe_offsets(session, body))
        }
        Q::AlterShareGroupOffsets(body) => {
            R::AlterShareGroupOffsets(share_groups::alter_offsets(session, body).await)
        }
        Q::DeleteShareGroupOffsets(body) => {
            R::DeleteShareGroupOffsets(share_groups::delete_offsets(session, body).await)
        }
        Q::ListGroups(body) => R::ListGroups(groups::list(session, &body)),
        Q::DescribeGroups(body) => R::DescribeGroups(groups::describe(session, version, body)),
        Q::DeleteGroups(body) => R::DeleteGroups(groups::delete(session, body).await),
        Q::OffsetCommit(body) => R::OffsetCommit(offsets::commit(session, body).await),
        Q::OffsetFetch(body) => R::OffsetFetch(offsets::fetch(session, version, body)),
        Q::OffsetDelete(body) => R::OffsetDelete(offsets::delete(session, body).await),
        // The codec lets nothing else through.
        other => {
            return Err(ConnectionError::Malformed(format!("a request without answer: {other:?}")));
        }
    };
    Ok(Some(response))
}

/// Isolation level of those who read only what is committed.
const READ_COMMITTED: i8 = 1;

/// A string of the protocol.
fn text(value: impl Into<String>) -> StrBytes {
    StrBytes::from_string(value.into())
}

/// The partition's number in the protocol as the machine's; `None` if it cannot be one.
fn partition_number(index: i32) -> Option<u32> {
    u32::try_from(index).ok()
}

/// Whether metrics count the response as an error. Only what clients wait for at work is looked at.
pub(crate) fn is_error(response: &ResponseKind) -> bool {
    match response {
        ResponseKind::Produce(response) => {
            let mut partitions = response.responses.iter().flat_map(|t| &t.partition_responses);
            partitions.any(|partition| partition.error_code != 0)
        }
        ResponseKind::Fetch(response) => {
            let mut partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
            response.error_code != 0 || partitions.any(|partition| partition.error_code != 0)
        }
        ResponseKind::OffsetCommit(response) => {
            let mut partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
            partitions.any(|partition| partition.error_code != 0)
        }
        ResponseKind::JoinGroup(response) => response.error_code != 0,
        ResponseKind::SyncGroup(response) => response.error_code != 0,
        ResponseKind::Heartbeat(response) => response.error_code != 0,
        ResponseKind::InitProducerId(response) => response.error_code != 0,
        ResponseKind::EndTxn(response) => response.error_code != 0,
        ResponseKind::SaslAuthenticate(response) => response.error_code != 0,
        _ => false,
    }
}
