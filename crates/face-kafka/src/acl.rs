//! Whether a client may do what it asks: Kafka's ACLs.
//!
//! What no rule is about is allowed to everyone who is admitted
//! (`allow.everyone.if.no.acl.found=true`); a rule about a resource closes it for those whom no rule
//! lets in. Source: Kafka's `StandardAuthorizer`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kafka_protocol::error::ResponseError;
use parking_lot::RwLock;
use proteus_kernel_api::topic::acls::{self, Acl};
use proteus_kernel_api::{Change, Commit, Kernel, KernelError, Listener, topic};

use crate::errors::Failure;
use crate::session::Session;

/// The only name of a cluster in rules.
pub(crate) const CLUSTER_NAME: &str = "kafka-cluster";
/// Where a protocol says that allowed operations are not told.
const OPERATIONS_NOT_TOLD: i32 = i32::MIN;
const ANY_NAME: &str = "*";
const ANY_PRINCIPAL: &str = "User:*";
/// Patterns of names.
pub(crate) const LITERAL: i8 = 3;
pub(crate) const PREFIXED: i8 = 4;
/// Permissions.
pub(crate) const DENY: i8 = 2;
pub(crate) const ALLOW: i8 = 3;

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    Topic = 2,
    Group = 3,
    Cluster = 4,
    TransactionalId = 5,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    All = 2,
    Read = 3,
    Write = 4,
    Create = 5,
    Delete = 6,
    Alter = 7,
    Describe = 8,
    ClusterAction = 9,
    DescribeConfigs = 10,
    AlterConfigs = 11,
    IdempotentWrite = 12,
}

impl Resource {
    /// What there is to be done with it.
    fn operations(self) -> &'static [Operation] {
        use Operation::*;
        match self {
            Resource::Topic => {
                &[Read, Write, Create, Describe, Delete, Alter, DescribeConfigs, AlterConfigs]
            }
            Resource::Group => &[Read, Describe, Delete, DescribeConfigs, AlterConfigs],
            Resource::Cluster => &[
                Create,
                ClusterAction,
                DescribeConfigs,
                AlterConfigs,
                IdempotentWrite,
                Alter,
                Describe,
            ],
            Resource::TransactionalId => &[Describe, Write],
        }
    }

    fn refusal(self) -> ResponseError {
        match self {
            Resource::Topic => ResponseError::TopicAuthorizationFailed,
            Resource::Group => ResponseError::GroupAuthorizationFailed,
            Resource::Cluster => ResponseError::ClusterAuthorizationFailed,
            Resource::TransactionalId => ResponseError::TransactionalIdAuthorizationFailed,
        }
    }
}

/// The rules, remembered until they change.
#[derive(Default)]
pub(crate) struct Authorizer {
    rules: RwLock<Option<Arc<Vec<Acl>>>>,
    /// Counts changes, so that nothing is remembered that was read before one.
    changes: AtomicU64,
}

impl Authorizer {
    /// Follows the kernel's feed from now on.
    pub(crate) fn following(kernel: &Arc<dyn Kernel>) -> Arc<Authorizer> {
        let authorizer = Arc::new(Authorizer::default());
        kernel.follow(authorizer.clone());
        authorizer
    }

    /// Grows when the rules change.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn rules(&self, kernel: &dyn Kernel) -> Result<Arc<Vec<Acl>>, KernelError> {
        if let Some(rules) = &*self.rules.read() {
            return Ok(rules.clone());
        }
        let changes = self.changes.load(Ordering::Acquire);
        let rules = Arc::new(kernel.read(|view| acls::acls(view.state))?);
        let mut known = self.rules.write();
        if self.changes.load(Ordering::Acquire) == changes {
            *known = Some(rules.clone());
        }
        Ok(rules)
    }
}

impl Listener for Authorizer {
    fn on_commit(&self, commit: &Commit) {
        let is_change = |change: &Change| *change == Change::Topic(topic::Change::AclsChanged);
        if commit.changes.iter().any(is_change) {
            self.on_gap();
        }
    }

    fn on_gap(&self) {
        let mut rules = self.rules.write();
        self.changes.fetch_add(1, Ordering::AcqRel);
        *rules = None;
    }
}

/// Whether `operation` on a resource is allowed by the rules.
fn judge(
    rules: &[Acl],
    (principal, host): (&str, &str),
    operation: Operation,
    (resource, name): (Resource, &str),
) -> bool {
    let is_about = |rule: &&Acl| {
        rule.resource_type == resource as i8
            && match rule.pattern_type {
                PREFIXED => name.starts_with(&rule.resource_name),
                _ => rule.resource_name == name || rule.resource_name == ANY_NAME,
            }
    };
    let about: Vec<&Acl> = rules.iter().filter(is_about).collect();
    if about.is_empty() {
        return true;
    }
    let is_for = |rule: &&&Acl| {
        (rule.principal == principal || rule.principal == ANY_PRINCIPAL)
            && (rule.host == host || rule.host == ANY_NAME)
    };
    let mut is_allowed = false;
    for rule in about.iter().filter(is_for) {
        let is_same = rule.operation == operation as i8 || rule.operation == Operation::All as i8;
        if rule.permission == DENY && is_same {
            return false;
        }
        is_allowed |= rule.permission == ALLOW && (is_same || implies(rule.operation, operation));
    }
    is_allowed
}

/// Whether who may do one thing may do the other, too.
fn implies(allowed: i8, wanted: Operation) -> bool {
    use Operation::{Alter, AlterConfigs, Delete, Describe, DescribeConfigs, Read, Write};
    match wanted {
        Describe => [Read, Write, Delete, Alter].iter().any(|one| *one as i8 == allowed),
        DescribeConfigs => allowed == AlterConfigs as i8,
        _ => false,
    }
}

impl Session {
    /// Whether the client may do this.
    pub(crate) fn allows(
        &self,
        operation: Operation,
        resource: Resource,
        name: &str,
    ) -> Result<bool, Failure> {
        let rules = self.shared.authorizer.rules(&*self.shared.kernel)?;
        if rules.is_empty() {
            return Ok(true);
        }
        let principal = self.principal();
        if self.shared.options.super_users.iter().any(|user| principal == format!("User:{user}")) {
            return Ok(true);
        }
        let host = self.peer.ip().to_canonical().to_string();
        Ok(judge(&rules, (&principal, &host), operation, (resource, name)))
    }

    /// Refuses what the client may not do, in the words for that kind of thing.
    pub(crate) fn authorize(
        &self,
        operation: Operation,
        resource: Resource,
        name: &str,
    ) -> Result<(), Failure> {
        if self.allows(operation, resource, name)? {
            return Ok(());
        }
        let message = format!("{} may not {operation:?} {resource:?} '{name}'", self.principal());
        Err(Failure::new(resource.refusal(), message))
    }

    /// What of all that there is for such a resource the client may do with this one, a bit each, if it
    /// wants to know.
    pub(crate) fn operations_told(&self, is_wanted: bool, resource: Resource, name: &str) -> i32 {
        if !is_wanted {
            return OPERATIONS_NOT_TOLD;
        }
        let allows = |one: &&Operation| self.allows(**one, resource, name).unwrap_or(false);
        resource.operations().iter().filter(allows).fold(0, |bits, one| bits | 1 << (*one as i8))
    }

    /// [`Session::authorize`] for the cluster as a whole.
    pub(crate) fn authorize_cluster(&self, operation: Operation) -> Result<(), Failure> {
        self.authorize(operation, Resource::Cluster, CLUSTER_NAME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(
        name: &str,
        pattern_type: i8,
        principal: &str,
        operation: Operation,
        permission: i8,
    ) -> Acl {
        Acl {
            resource_type: Resource::Topic as i8,
            resource_name: name.to_owned(),
            pattern_type,
            principal: principal.to_owned(),
            host: "*".to_owned(),
            operation: operation as i8,
            permission,
        }
    }

    #[test]
    fn rules_close_and_open() {
        let rules = [
            rule("pay", PREFIXED, "User:ann", Operation::Read, ALLOW),
            rule("payments", LITERAL, "User:bob", Operation::All, ALLOW),
            rule("payments", LITERAL, "User:*", Operation::Delete, DENY),
            Acl {
                host: "10.0.0.1".to_owned(),
                ..rule("*", LITERAL, "User:eve", Operation::Write, ALLOW)
            },
        ];
        let judged = |who: &str, operation, name: &str| {
            judge(&rules, (who, "10.0.0.1"), operation, (Resource::Topic, name))
        };
        assert!(judged("User:ann", Operation::Read, "payments"));
        assert!(judged("User:ann", Operation::Describe, "payroll"), "who reads may describe");
        assert!(!judged("User:ann", Operation::Write, "payments"));
        assert!(judged("User:bob", Operation::Write, "payments"));
        assert!(!judged("User:bob", Operation::Delete, "payments"), "denied to everyone");
        assert!(!judged("User:bob", Operation::Read, "payroll"));
        assert!(judged("User:eve", Operation::Write, "anything"));
        assert!(!judge(&rules, ("User:eve", "10.0.0.2"), Operation::Write, (Resource::Topic, "x")));
        let group = (Resource::Group, "payments");
        assert!(judge(&rules, ("User:eve", "h"), Operation::Read, group), "no rule is about it");
    }
}
