//! JoinGroup, SyncGroup, Heartbeat, LeaveGroup; ListGroups, DescribeGroups, DeleteGroups.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    GroupId, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, SyncGroupRequest,
    SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;
use proteus_env::random;
use proteus_kernel_api::topic::{self, read, shares};
use proteus_kernel_api::{Read, StoreError};
use tokio::sync::oneshot;

use super::{text, topics};
use crate::acl::{Operation, Resource};
use crate::errors::Failure;
use crate::group::{Answer, Event, GroupError, Identity, Join, Sync};
use crate::session::Session;

/// Groups that one look at the state collects, so that commits do not wait for a long list.
const GROUPS_PER_READ_MAX: usize = 500;
/// First version of DescribeGroups in which a group that is not there is an error (KIP-1043); before, it is
/// one in this state.
const MISSING_IS_AN_ERROR_SINCE: i16 = 6;
const DEAD: &str = "Dead";
/// Most groups listed.
const GROUPS_LISTED_MAX: usize = 100_000;
/// Types of groups, by their protocol.
const CLASSIC: &str = "classic";
const CONSUMER: &str = "consumer";
const SHARE: &str = "share";
/// A member has this id before it has one.
const NO_GENERATION: i32 = -1;

/// The protocol's word for a refusal.
pub(crate) fn error_of(error: GroupError) -> ResponseError {
    match error {
        GroupError::UnknownMemberId => ResponseError::UnknownMemberId,
        GroupError::MemberIdRequired => ResponseError::MemberIdRequired,
        GroupError::IllegalGeneration => ResponseError::IllegalGeneration,
        GroupError::RebalanceInProgress => ResponseError::RebalanceInProgress,
        GroupError::InconsistentGroupProtocol => ResponseError::InconsistentGroupProtocol,
        GroupError::FencedInstanceId => ResponseError::FencedInstanceId,
        GroupError::InvalidSessionTimeout => ResponseError::InvalidSessionTimeout,
        GroupError::GroupMaxSizeReached => ResponseError::GroupMaxSizeReached,
        GroupError::FencedMemberEpoch => ResponseError::FencedMemberEpoch,
        GroupError::StaleMemberEpoch => ResponseError::StaleMemberEpoch,
        GroupError::UnreleasedInstanceId => ResponseError::UnreleasedInstanceId,
        GroupError::OtherProtocol => ResponseError::InconsistentGroupProtocol,
        GroupError::NotCoordinator => ResponseError::NotCoordinator,
    }
}

pub(crate) fn identity(member_id: &StrBytes, instance_id: Option<&StrBytes>) -> Identity {
    Identity {
        member_id: member_id.to_string(),
        instance_id: instance_id.map(|instance_id| instance_id.to_string()),
    }
}

/// An answer, or that the coordinator is gone, which only a stopping node says.
async fn answered(receiver: oneshot::Receiver<Answer>) -> Result<Answer, ResponseError> {
    match receiver.await {
        Ok(Answer::Refused(error)) => Err(error_of(error)),
        Ok(answer) => Ok(answer),
        Err(_) => Err(ResponseError::CoordinatorNotAvailable),
    }
}

/// Of an event that is answered at once.
fn answered_now(mut receiver: oneshot::Receiver<Answer>) -> Result<(), ResponseError> {
    match receiver.try_recv() {
        Ok(Answer::Refused(error)) => Err(error_of(error)),
        Ok(_) => Ok(()),
        Err(_) => Err(ResponseError::CoordinatorNotAvailable),
    }
}

fn milliseconds(value: i32) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(crate) async fn join(
    session: &Arc<Session>,
    version: i16,
    client_id: &str,
    request: JoinGroupRequest,
) -> JoinGroupResponse {
    let refused = |error: ResponseError, member_id: StrBytes| {
        JoinGroupResponse::default()
            .with_error_code(error.code())
            .with_generation_id(NO_GENERATION)
            // Null is possible from version 7 on only.
            .with_protocol_name(Some(StrBytes::default()))
            .with_member_id(member_id)
    };
    if request.group_id.is_empty() {
        return refused(ResponseError::InvalidGroupId, request.member_id);
    }
    let session_timeout_ms = milliseconds(request.session_timeout_ms);
    let prefix = if client_id.is_empty() { "member" } else { client_id };
    let join = Join {
        identity: identity(&request.member_id, request.group_instance_id.as_ref()),
        new_member_id: format!("{prefix}-{:032x}", u128::from_le_bytes(random::random_bytes())),
        needs_known_id: version >= 4,
        client_id: client_id.to_owned(),
        client_host: format!("/{}", session.peer.ip().to_canonical()),
        session_timeout_ms,
        // Before version 1 there was one timeout for both.
        rebalance_timeout_ms: match version {
            0 => session_timeout_ms,
            _ => milliseconds(request.rebalance_timeout_ms),
        },
        protocol_type: request.protocol_type.to_string(),
        // Copied: they are kept as long as the member, and would hold on to the whole frame.
        protocols: request
            .protocols
            .iter()
            .map(|protocol| (protocol.name.to_string(), Bytes::copy_from_slice(&protocol.metadata)))
            .collect(),
    };
    let event = |ticket| Event::Join { ticket, join };
    let receiver = session.shared.coordinator.submit(request.group_id.as_str(), event);
    let joined = match answered(receiver).await {
        Ok(Answer::Joined(joined)) => joined,
        Ok(Answer::NotJoined { error, member_id }) => {
            return refused(error_of(error), text(member_id));
        }
        Ok(_) => return refused(ResponseError::UnknownServerError, request.member_id),
        Err(error) => return refused(error, request.member_id),
    };
    let members = joined.members.into_iter().map(|(member_id, instance_id, metadata)| {
        JoinGroupResponseMember::default()
            .with_member_id(text(member_id))
            .with_group_instance_id(instance_id.map(text))
            .with_metadata(metadata)
    });
    JoinGroupResponse::default()
        .with_generation_id(joined.generation)
        .with_protocol_type(Some(text(joined.protocol_type)))
        .with_protocol_name(Some(text(joined.protocol_name)))
        .with_leader(text(joined.leader))
        .with_member_id(text(joined.member_id))
        .with_members(members.collect())
}

pub(crate) async fn sync(session: &Arc<Session>, request: SyncGroupRequest) -> SyncGroupResponse {
    let sync = Sync {
        identity: identity(&request.member_id, request.group_instance_id.as_ref()),
        generation: request.generation_id,
        protocol_type: request.protocol_type.map(|protocol_type| protocol_type.to_string()),
        protocol_name: request.protocol_name.map(|protocol_name| protocol_name.to_string()),
        assignments: request
            .assignments
            .iter()
            .map(|part| (part.member_id.to_string(), Bytes::copy_from_slice(&part.assignment)))
            .collect(),
    };
    let event = |ticket| Event::Sync { ticket, sync };
    let receiver = session.shared.coordinator.submit(request.group_id.as_str(), event);
    match answered(receiver).await {
        Ok(Answer::Synced { protocol_type, protocol_name, assignment }) => {
            SyncGroupResponse::default()
                .with_protocol_type(Some(text(protocol_type)))
                .with_protocol_name(Some(text(protocol_name)))
                .with_assignment(assignment)
        }
        Ok(Answer::NotJoined { error, .. }) => {
            SyncGroupResponse::default().with_error_code(error_of(error).code())
        }
        Ok(_) => {
            SyncGroupResponse::default().with_error_code(ResponseError::UnknownServerError.code())
        }
        Err(error) => SyncGroupResponse::default().with_error_code(error.code()),
    }
}

pub(crate) fn heartbeat(session: &Session, request: &HeartbeatRequest) -> HeartbeatResponse {
    let identity = identity(&request.member_id, request.group_instance_id.as_ref());
    let generation = request.generation_id;
    let event = |ticket| Event::Heartbeat { ticket, identity, generation };
    let receiver = session.shared.coordinator.submit(request.group_id.as_str(), event);
    let error = answered_now(receiver).err();
    HeartbeatResponse::default().with_error_code(error.map_or(0, |error| error.code()))
}

pub(crate) fn leave(
    session: &Session,
    version: i16,
    request: LeaveGroupRequest,
) -> LeaveGroupResponse {
    let leave = |identity: Identity| {
        let event = |ticket| Event::Leave { ticket, identity };
        let receiver = session.shared.coordinator.submit(request.group_id.as_str(), event);
        answered_now(receiver).err().map_or(0, |error| error.code())
    };
    if version < 3 {
        let error_code = leave(identity(&request.member_id, None));
        return LeaveGroupResponse::default().with_error_code(error_code);
    }
    let members = request.members.iter().map(|member| {
        let error_code = leave(identity(&member.member_id, member.group_instance_id.as_ref()));
        MemberResponse::default()
            .with_member_id(member.member_id.clone())
            .with_group_instance_id(member.group_instance_id.clone())
            .with_error_code(error_code)
    });
    LeaveGroupResponse::default().with_members(members.collect())
}

pub(crate) fn list(session: &Session, request: &ListGroupsRequest) -> ListGroupsResponse {
    let with_offsets = match groups_with_offsets(session) {
        Ok(groups) => groups,
        Err(failure) => {
            let code = failure.of_coordinator().code();
            return ListGroupsResponse::default().with_error_code(code);
        }
    };
    let mut groups: BTreeMap<String, (String, &'static str, &'static str)> = BTreeMap::new();
    for group_id in with_offsets {
        groups.insert(group_id, ("consumer".to_owned(), "Empty", CLASSIC));
    }
    match share_groups(session) {
        Ok(shares) => {
            groups.extend(shares.into_iter().map(|id| (id, (String::new(), "Empty", SHARE))))
        }
        Err(failure) => {
            let code = failure.of_coordinator().code();
            return ListGroupsResponse::default().with_error_code(code);
        }
    }
    for group_id in session.shared.coordinator.list_shares() {
        groups.insert(group_id, (String::new(), "Stable", SHARE));
    }
    for (group_id, description) in session.shared.coordinator.list() {
        groups.insert(group_id, (description.protocol_type, description.state, CLASSIC));
    }
    for (group_id, description) in session.shared.coordinator.list_consumers() {
        groups.insert(group_id, ("consumer".to_owned(), description.state, CONSUMER));
    }
    let allows = |filter: &[StrBytes], word: &str| {
        filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(word))
    };
    let listed = groups
        .into_iter()
        .filter(|(group_id, _)| {
            session.allows(Operation::Describe, Resource::Group, group_id).unwrap_or(false)
        })
        .filter(|(_, (_, state, _))| allows(&request.states_filter, state))
        .filter(|(_, (_, _, kind))| allows(&request.types_filter, kind))
        .map(|(group_id, (protocol_type, state, kind))| {
            ListedGroup::default()
                .with_group_id(GroupId(text(group_id)))
                .with_protocol_type(text(protocol_type))
                .with_group_state(text(state))
                .with_group_type(text(kind))
        });
    ListGroupsResponse::default().with_groups(listed.collect())
}

fn groups_with_offsets(session: &Session) -> Result<Vec<String>, Failure> {
    all_groups(session, read::groups_after)
}

fn share_groups(session: &Session) -> Result<Vec<String>, Failure> {
    all_groups(session, shares::share_groups_after)
}

/// Groups after one, at most so many.
type GroupsAfter = fn(&dyn Read, Option<&str>, usize) -> Result<Vec<String>, StoreError>;

/// All groups that `groups_after` knows of, read in pieces.
fn all_groups(session: &Session, groups_after: GroupsAfter) -> Result<Vec<String>, Failure> {
    let mut groups: Vec<String> = Vec::new();
    while groups.len() < GROUPS_LISTED_MAX {
        let after = groups.last().cloned();
        let more = session
            .shared
            .kernel
            .read(|view| groups_after(view.state, after.as_deref(), GROUPS_PER_READ_MAX))?;
        let is_last = more.len() < GROUPS_PER_READ_MAX;
        groups.extend(more);
        if is_last {
            break;
        }
    }
    Ok(groups)
}

pub(crate) fn describe(
    session: &Session,
    version: i16,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let is_told = request.include_authorized_operations;
    let says_missing = version >= MISSING_IS_AN_ERROR_SINCE;
    let groups = request.groups.into_iter().map(|group| {
        let described = describe_one(session, group, is_told);
        if !says_missing || &*described.group_state != DEAD {
            return described;
        }
        let message = format!("Group {} not found.", described.group_id.as_str());
        described
            .with_error_code(ResponseError::GroupIdNotFound.code())
            .with_error_message(Some(text(message)))
    });
    DescribeGroupsResponse::default().with_groups(groups.collect())
}

fn describe_one(session: &Session, group_id: GroupId, is_told: bool) -> DescribedGroup {
    let described = DescribedGroup::default()
        .with_group_id(group_id.clone())
        .with_authorized_operations(session.operations_told(is_told, Resource::Group, &group_id));
    let allowed = session.authorize(Operation::Describe, Resource::Group, group_id.as_str());
    if let Err(failure) = allowed {
        return described.with_error_code(failure.code());
    }
    if let Some(description) = session.shared.coordinator.describe(group_id.as_str()) {
        let members = description.members.into_iter().map(|member| {
            DescribedGroupMember::default()
                .with_member_id(text(member.member_id))
                .with_group_instance_id(member.instance_id.map(text))
                .with_client_id(text(member.client_id))
                .with_client_host(text(member.client_host))
                .with_member_metadata(member.metadata)
                .with_member_assignment(member.assignment)
        });
        return described
            .with_group_state(text(description.state))
            .with_protocol_type(text(description.protocol_type))
            .with_protocol_data(text(description.protocol_name))
            .with_members(members.collect());
    }
    let kernel = &session.shared.kernel;
    match kernel.read(|view| read::committed_partitions(view.state, group_id.as_str())) {
        Ok(partitions) if partitions.is_empty() => described.with_group_state(text(DEAD)),
        Ok(_) => described.with_group_state(text("Empty")).with_protocol_type(text("consumer")),
        Err(error) => described.with_error_code(Failure::from(error).of_coordinator().code()),
    }
}

pub(crate) async fn delete(
    session: &Arc<Session>,
    request: DeleteGroupsRequest,
) -> DeleteGroupsResponse {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for group_id in request.groups_names {
        let error = delete_one(session, group_id.as_str()).await.err();
        let result = DeletableGroupResult::default()
            .with_group_id(group_id)
            .with_error_code(error.map_or(0, |failure| failure.code()));
        results.push(result);
    }
    DeleteGroupsResponse::default().with_results(results)
}

async fn delete_one(session: &Session, group_id: &str) -> Result<(), Failure> {
    session.authorize(Operation::Delete, Resource::Group, group_id)?;
    if session.shared.coordinator.has_members(group_id) {
        let message = format!("group '{group_id}' has members");
        return Err(Failure::new(ResponseError::NonEmptyGroup, message));
    }
    let group = group_id.to_owned();
    let ops = [
        topic::Op::RemoveOffsets { group: group.clone(), partitions: None },
        topic::Op::RemoveShares { group, topics: None },
    ];
    let mut removed = 0;
    for op in ops {
        if let topic::Reply::Removed(count) =
            topics::commit(session, op).await.map_err(Failure::of_coordinator)?
        {
            removed += count;
        }
    }
    session.shared.shares.forget_group(group_id);
    match removed {
        0 => {
            let message = format!("there is no group '{group_id}'");
            Err(Failure::new(ResponseError::GroupIdNotFound, message))
        }
        _ => Ok(()),
    }
}
