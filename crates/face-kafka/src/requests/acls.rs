//! DescribeAcls, CreateAcls, DeleteAcls; and what is refused because of them before it is looked at.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_acls_response::AclCreationResult;
use kafka_protocol::messages::delete_acls_response::{
    DeleteAclsFilterResult, DeleteAclsMatchingAcl,
};
use kafka_protocol::messages::describe_acls_response::{AclDescription, DescribeAclsResource};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use proteus_kernel_api::topic;
use proteus_kernel_api::topic::acls::{self, Acl};

use super::{text, topics};
use crate::acl::{ALLOW, CLUSTER_NAME, DENY, LITERAL, Operation, PREFIXED, Resource};
use crate::errors::Failure;
use crate::session::Session;

/// In filters: any; in those of names also: every rule about this name.
const ANY: i8 = 1;
const MATCH: i8 = 2;
/// Kinds of resources and operations of the protocol, inclusive.
const RESOURCE_TYPES: std::ops::RangeInclusive<i8> = 2..=7;
const OPERATIONS: std::ops::RangeInclusive<i8> = 2..=14;
/// Longest name in a rule, in bytes.
const NAME_BYTES_MAX: usize = 1024;

/// What rules are looked for.
struct Filter<'a> {
    resource_type: i8,
    name: Option<&'a StrBytes>,
    pattern_type: i8,
    principal: Option<&'a StrBytes>,
    host: Option<&'a StrBytes>,
    operation: i8,
    permission: i8,
}

impl Filter<'_> {
    fn finds(&self, acl: &Acl) -> bool {
        let is_number = |wanted: i8, found: i8| wanted == ANY || wanted == found;
        let is_text = |wanted: Option<&StrBytes>, found: &str| wanted.is_none_or(|w| **w == *found);
        let is_name = match (self.name, self.pattern_type) {
            (None, _) => true,
            (Some(name), MATCH) => match acl.pattern_type {
                PREFIXED => name.starts_with(&acl.resource_name),
                _ => **name == *acl.resource_name || acl.resource_name == "*",
            },
            (Some(name), _) => **name == *acl.resource_name,
        };
        is_number(self.resource_type, acl.resource_type)
            && is_name
            && (matches!(self.pattern_type, ANY | MATCH) || self.pattern_type == acl.pattern_type)
            && is_text(self.principal, &acl.principal)
            && is_text(self.host, &acl.host)
            && is_number(self.operation, acl.operation)
            && is_number(self.permission, acl.permission)
    }
}

fn all(session: &Session) -> Result<Vec<Acl>, Failure> {
    Ok(session.shared.kernel.read(|view| acls::acls(view.state))?)
}

pub(crate) fn describe(session: &Session, request: &DescribeAclsRequest) -> DescribeAclsResponse {
    let filter = Filter {
        resource_type: request.resource_type_filter,
        name: request.resource_name_filter.as_ref(),
        pattern_type: request.pattern_type_filter,
        principal: request.principal_filter.as_ref(),
        host: request.host_filter.as_ref(),
        operation: request.operation,
        permission: request.permission_type,
    };
    let response = DescribeAclsResponse::default();
    let found = session.authorize_cluster(Operation::Describe).and_then(|()| all(session));
    let found = match found {
        Ok(found) => found,
        Err(failure) => {
            return response
                .with_error_code(failure.code())
                .with_error_message(Some(text(failure.message)));
        }
    };
    let mut by_resource: BTreeMap<(i8, String, i8), Vec<AclDescription>> = BTreeMap::new();
    for acl in found.into_iter().filter(|acl| filter.finds(acl)) {
        let description = AclDescription::default()
            .with_principal(text(acl.principal))
            .with_host(text(acl.host))
            .with_operation(acl.operation)
            .with_permission_type(acl.permission);
        let resource = (acl.resource_type, acl.resource_name, acl.pattern_type);
        by_resource.entry(resource).or_default().push(description);
    }
    let resources = by_resource.into_iter().map(|((resource_type, name, pattern_type), acls)| {
        DescribeAclsResource::default()
            .with_resource_type(resource_type)
            .with_resource_name(text(name))
            .with_pattern_type(pattern_type)
            .with_acls(acls)
    });
    response.with_resources(resources.collect())
}

pub(crate) async fn create(
    session: &Arc<Session>,
    request: CreateAclsRequest,
) -> CreateAclsResponse {
    let mut results = Vec::with_capacity(request.creations.len());
    for creation in request.creations {
        let acl = Acl {
            resource_type: creation.resource_type,
            resource_name: creation.resource_name.to_string(),
            pattern_type: creation.resource_pattern_type,
            principal: creation.principal.to_string(),
            host: creation.host.to_string(),
            operation: creation.operation,
            permission: creation.permission_type,
        };
        let created = async {
            session.authorize_cluster(Operation::Alter)?;
            check(&acl)?;
            topics::commit(session, topic::Op::PutAcls { acls: vec![acl] }).await
        };
        let result = AclCreationResult::default();
        results.push(match created.await {
            Ok(_) => result,
            Err(failure) => result
                .with_error_code(failure.code())
                .with_error_message(Some(text(failure.message))),
        });
    }
    CreateAclsResponse::default().with_results(results)
}

fn check(acl: &Acl) -> Result<(), Failure> {
    let invalid = |message: &str| Err(Failure::new(ResponseError::InvalidRequest, message));
    if !RESOURCE_TYPES.contains(&acl.resource_type) || !OPERATIONS.contains(&acl.operation) {
        return invalid("a rule names one kind of resource and one operation");
    }
    if !matches!(acl.pattern_type, LITERAL | PREFIXED) || !matches!(acl.permission, ALLOW | DENY) {
        return invalid("a rule's name is literal or prefixed, and it allows or denies");
    }
    if acl.resource_name.is_empty() || acl.host.is_empty() {
        return invalid("a rule has the name of a resource and a host");
    }
    let is_user = acl.principal.strip_prefix("User:").is_some_and(|user| !user.is_empty());
    let is_long = [&acl.resource_name, &acl.host, &acl.principal]
        .iter()
        .any(|part| part.len() > NAME_BYTES_MAX);
    if !is_user || is_long {
        return invalid("a principal is User:NAME, and nothing is longer than 1024 bytes");
    }
    if acl.resource_type == Resource::Cluster as i8 && acl.resource_name != CLUSTER_NAME {
        return invalid("the cluster is called kafka-cluster");
    }
    Ok(())
}

pub(crate) async fn delete(
    session: &Arc<Session>,
    request: DeleteAclsRequest,
) -> DeleteAclsResponse {
    let mut results = Vec::with_capacity(request.filters.len());
    for wanted in &request.filters {
        let filter = Filter {
            resource_type: wanted.resource_type_filter,
            name: wanted.resource_name_filter.as_ref(),
            pattern_type: wanted.pattern_type_filter,
            principal: wanted.principal_filter.as_ref(),
            host: wanted.host_filter.as_ref(),
            operation: wanted.operation,
            permission: wanted.permission_type,
        };
        let deleted = async {
            session.authorize_cluster(Operation::Alter)?;
            let found: Vec<Acl> =
                all(session)?.into_iter().filter(|acl| filter.finds(acl)).collect();
            topics::commit(session, topic::Op::RemoveAcls { acls: found.clone() }).await?;
            Ok::<_, Failure>(found)
        };
        let result = DeleteAclsFilterResult::default();
        results.push(match deleted.await {
            Ok(found) => result.with_matching_acls(found.into_iter().map(matching).collect()),
            Err(failure) => result
                .with_error_code(failure.code())
                .with_error_message(Some(text(failure.message))),
        });
    }
    DeleteAclsResponse::default().with_filter_results(results)
}

fn matching(acl: Acl) -> DeleteAclsMatchingAcl {
    DeleteAclsMatchingAcl::default()
        .with_resource_type(acl.resource_type)
        .with_resource_name(text(acl.resource_name))
        .with_pattern_type(acl.pattern_type)
        .with_principal(text(acl.principal))
        .with_host(text(acl.host))
        .with_operation(acl.operation)
        .with_permission_type(acl.permission)
}

/// The answer to a request about one thing that the client may not do; `None` if it may, or if each
/// part of the request is judged by itself.
pub(crate) fn refuse(session: &Session, version: i16, body: &RequestKind) -> Option<ResponseKind> {
    use RequestKind as Q;
    use ResponseKind as R;
    let group = |id: &str, operation| session.authorize(operation, Resource::Group, id).err();
    let transaction =
        |id: &str| session.authorize(Operation::Write, Resource::TransactionalId, id).err();
    let cluster = |operation| session.authorize_cluster(operation).err();
    macro_rules! coded {
        ($kind:ident, $response:ident, $failure:expr) => {
            $failure.map(|failure| R::$kind($response::default().with_error_code(failure.code())))
        };
    }
    match body {
        Q::JoinGroup(body) => group(&body.group_id, Operation::Read).map(|failure| {
            R::JoinGroup(
                JoinGroupResponse::default()
                    .with_error_code(failure.code())
                    .with_generation_id(-1)
                    .with_protocol_name(Some(StrBytes::default())),
            )
        }),
        Q::SyncGroup(body) => {
            coded!(SyncGroup, SyncGroupResponse, group(&body.group_id, Operation::Read))
        }
        Q::Heartbeat(body) => {
            coded!(Heartbeat, HeartbeatResponse, group(&body.group_id, Operation::Read))
        }
        Q::LeaveGroup(body) => {
            coded!(LeaveGroup, LeaveGroupResponse, group(&body.group_id, Operation::Read))
        }
        Q::ConsumerGroupHeartbeat(body) => coded!(
            ConsumerGroupHeartbeat,
            ConsumerGroupHeartbeatResponse,
            group(&body.group_id, Operation::Read)
        ),
        Q::ShareGroupHeartbeat(body) => coded!(
            ShareGroupHeartbeat,
            ShareGroupHeartbeatResponse,
            group(&body.group_id, Operation::Read)
        ),
        Q::OffsetDelete(body) => {
            coded!(OffsetDelete, OffsetDeleteResponse, group(&body.group_id, Operation::Delete))
        }
        Q::OffsetFetch(body) if version < 8 => {
            coded!(OffsetFetch, OffsetFetchResponse, group(&body.group_id, Operation::Describe))
        }
        Q::InitProducerId(body) => {
            let failure = body.transactional_id.as_ref().and_then(|id| transaction(id));
            failure.map(|failure| {
                R::InitProducerId(
                    InitProducerIdResponse::default()
                        .with_error_code(failure.code())
                        .with_producer_id(ProducerId(-1))
                        .with_producer_epoch(-1),
                )
            })
        }
        Q::AddOffsetsToTxn(body) => {
            let failure = transaction(&body.transactional_id)
                .or_else(|| group(&body.group_id, Operation::Read));
            coded!(AddOffsetsToTxn, AddOffsetsToTxnResponse, failure)
        }
        Q::EndTxn(body) => coded!(EndTxn, EndTxnResponse, transaction(&body.transactional_id)),
        Q::DescribeLogDirs(_) => {
            coded!(DescribeLogDirs, DescribeLogDirsResponse, cluster(Operation::Describe))
        }
        Q::ElectLeaders(_) => {
            coded!(ElectLeaders, ElectLeadersResponse, cluster(Operation::Alter))
        }
        Q::AlterPartitionReassignments(_) => coded!(
            AlterPartitionReassignments,
            AlterPartitionReassignmentsResponse,
            cluster(Operation::Alter)
        ),
        Q::ListPartitionReassignments(_) => coded!(
            ListPartitionReassignments,
            ListPartitionReassignmentsResponse,
            cluster(Operation::Describe)
        ),
        Q::ListConfigResources(_) => coded!(
            ListConfigResources,
            ListConfigResourcesResponse,
            cluster(Operation::DescribeConfigs)
        ),
        Q::DescribeUserScramCredentials(_) => coded!(
            DescribeUserScramCredentials,
            DescribeUserScramCredentialsResponse,
            cluster(Operation::Describe)
        ),
        _ => None,
    }
}
