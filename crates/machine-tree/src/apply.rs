//! Checks and ops: which function carries out what, and what they share.

use bytes::Bytes;
use proteus_machine::{Abort, Ctx};

use crate::record::{self, Lifetime, NodeRecord};
use crate::{
    Change, Check, Credentials, Op, Refusal, Reply, Session, SessionId, lifetimes, nodes,
    path as paths,
};

pub(crate) type Context<'a> = Ctx<'a, Change>;
pub(crate) type Applied<T> = Result<T, Abort<Refusal>>;

pub(crate) fn refuse<T>(refusal: Refusal) -> Applied<T> {
    Err(Abort::Refused(refusal))
}

pub(crate) fn check(ctx: &mut Context<'_>, check: &Check) -> Applied<()> {
    match check {
        Check::NodeExists { path, czxid, owner } => {
            let node = existing(ctx, path)?;
            let is_created_then = czxid.is_none_or(|czxid| node.created_zxid == czxid);
            let is_owned = owner.is_none_or(|owner| node.lifetime == Lifetime::Ephemeral(owner));
            if is_created_then && is_owned {
                Ok(())
            } else {
                refuse(Refusal::NodeReplaced { path: path.clone() })
            }
        }
        Check::NodeAbsent { path } => match record::node(ctx.read(), path)? {
            Some(_) => refuse(Refusal::NodeExists { path: path.clone() }),
            None => Ok(()),
        },
        Check::NodeVersion { path, version } => {
            let node = existing(ctx, path)?;
            expect_version(path, node.data_version, Some(*version))
        }
        Check::SessionAlive { session } => open_session(ctx, *session).map(|_| ()),
    }
}

pub(crate) fn apply(ctx: &mut Context<'_>, op: &Op) -> Applied<Reply> {
    match op {
        Op::Create(new_node) => nodes::create(ctx, new_node),
        Op::Delete { path, version, by } => nodes::delete(ctx, path, *version, by),
        Op::DeleteIfPresent { path, version, by } => match record::node(ctx.read(), path)? {
            Some(_) => nodes::delete(ctx, path, *version, by),
            None => Ok(Reply::Deleted),
        },
        Op::DeleteSubtree { path, count_max, by } => {
            nodes::delete_subtree(ctx, path, *count_max, by)
        }
        Op::SetData { path, data, version, by } => {
            nodes::set_data(ctx, path, data.as_ref(), *version, by)
        }
        Op::SetAcl { path, acl, version, by } => nodes::set_acl(ctx, path, acl, *version, by),
        Op::CheckNode { path, expected, by } => nodes::check(ctx, path, expected, by),
        Op::CheckAbsent { path, version, by } => nodes::check_absent(ctx, path, *version, by),
        Op::CreateSession { session, password, timeout_ms } => {
            let stored = Session { password: *password, timeout_ms: *timeout_ms };
            lifetimes::create_session(ctx, *session, &stored)
        }
        Op::SetSessionTimeout { session, timeout_ms } => {
            let stored = open_session(ctx, *session)?;
            let stored = Session { timeout_ms: *timeout_ms, ..stored };
            lifetimes::put_session(ctx, *session, &stored);
            Ok(Reply::SessionOpen)
        }
        Op::CloseSession { session } => lifetimes::close_session(ctx, *session),
        Op::TouchSessions { sessions } => {
            ctx.emit(Change::SessionsHeard { sessions: sessions.clone() });
            Ok(Reply::SessionOpen)
        }
        Op::MoveSession { session, to } => lifetimes::move_session(ctx, *session, *to),
        Op::RemoveOverdue { path, due_ms } => lifetimes::remove_overdue(ctx, path, *due_ms),
        Op::SetMembers { servers } => nodes::set_members(ctx, servers),
    }
}

pub(crate) fn existing(ctx: &Context<'_>, path: &str) -> Applied<NodeRecord> {
    match record::node(ctx.read(), path)? {
        Some(node) => Ok(node),
        None => {
            // Only of what does not exist must be known whether it could.
            paths::validate(path).map_err(Abort::Refused)?;
            refuse(Refusal::NoNode { path: path.to_owned() })
        }
    }
}

pub(crate) fn open_session(ctx: &Context<'_>, session: SessionId) -> Applied<Session> {
    match record::session(ctx.read(), session)? {
        Some(stored) => Ok(stored),
        None => refuse(Refusal::SessionExpired { session }),
    }
}

pub(crate) fn expect_version(path: &str, actual: i32, expected: Option<i32>) -> Applied<()> {
    match expected {
        Some(expected) if expected != actual => {
            refuse(Refusal::BadVersion { path: path.to_owned(), expected, actual })
        }
        _ => Ok(()),
    }
}

/// Refuses unless `node` permits `needed` to `by`.
pub(crate) fn expect_permission(
    path: &str,
    node: &NodeRecord,
    needed: i32,
    by: &Credentials,
) -> Applied<()> {
    if node.acl.permits(needed, by) {
        Ok(())
    } else {
        refuse(Refusal::NotPermitted { path: path.to_owned() })
    }
}

/// The version after `version`. Never -1, which clients send for "any".
pub(crate) fn next_version(version: i32) -> i32 {
    match version.wrapping_add(1) {
        -1 => 0,
        next => next,
    }
}

pub(crate) fn put_node(ctx: &mut Context<'_>, path: &str, node: &NodeRecord) {
    ctx.put(record::node_key(path), record::encode_node(node));
}

pub(crate) fn put_data(
    ctx: &mut Context<'_>,
    path: &str,
    node: &mut NodeRecord,
    data: Option<&Bytes>,
) {
    let was_apart = node.is_data_apart();
    match (node.take_data(data), data) {
        (true, Some(data)) => ctx.put(record::data_key(path), record::encode_data(data)),
        _ if was_apart => ctx.delete(record::data_key(path)),
        _ => {}
    }
}

pub(crate) fn put_totals(ctx: &mut Context<'_>, totals: record::Totals) {
    match record::totals_entry(totals) {
        (key, Some(value)) => ctx.put(key, value),
        (key, None) => ctx.delete(key),
    }
}
