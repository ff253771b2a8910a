//! Who may do what, as Kafka's administrators say it. The machine keeps the rules and judges nothing.

use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_store::{Read, StoreError};
use serde::{Deserialize, Serialize};

use crate::{Applied, Change, Refusal, Reply, TopicCtx, keys, refuse, stored};

/// Most rules that there may be.
pub const ACLS_MAX: usize = 100_000;

/// One rule. The numbers are those of Kafka's protocol.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Acl {
    /// What kind of thing it is about.
    pub resource_type: i8,
    /// Its name, or the beginning of it.
    pub resource_name: String,
    /// Whether the name is one or a beginning.
    pub pattern_type: i8,
    /// For whom.
    pub principal: String,
    /// From where.
    pub host: String,
    /// What is done.
    pub operation: i8,
    /// Whether it is allowed or denied.
    pub permission: i8,
}

pub(crate) fn put(ctx: &mut TopicCtx<'_>, acls: &[Acl]) -> Applied<Reply> {
    let mut count = 0;
    ctx.scan_prefix(&keys::acls(), &mut |_, _| {
        count += 1;
        ControlFlow::Continue(())
    })?;
    if count + acls.len() > ACLS_MAX {
        return refuse(Refusal::TooManyAcls);
    }
    for acl in acls {
        ctx.put(keys::acl(&stored::encode(acl)), Bytes::new());
    }
    ctx.emit(Change::AclsChanged);
    Ok(Reply::Done)
}

pub(crate) fn remove(ctx: &mut TopicCtx<'_>, acls: &[Acl]) -> Applied<Reply> {
    let mut count = 0;
    for acl in acls {
        let key = keys::acl(&stored::encode(acl));
        if ctx.get(&key)?.is_some() {
            ctx.delete(key);
            count += 1;
        }
    }
    ctx.emit(Change::AclsChanged);
    Ok(Reply::Removed(count))
}

/// All rules.
///
/// # Errors
/// If the store fails.
pub fn acls(state: &dyn Read) -> Result<Vec<Acl>, StoreError> {
    let prefix = keys::acls();
    let mut found = Vec::new();
    let mut damaged = None;
    state.scan_prefix(&prefix, &mut |key, _| {
        match stored::decode::<Acl>(key, key.get(prefix.len()..).unwrap_or_default()) {
            Ok(acl) => found.push(acl),
            Err(error) => damaged = Some(error),
        }
        ControlFlow::Continue(())
    })?;
    damaged.map_or(Ok(found), Err)
}
