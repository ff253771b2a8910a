//! What ends by itself: sessions with their ephemerals, containers, znodes with a time to live.

use crate::apply::{Applied, Context, existing, refuse};
use crate::record;
use crate::{Change, Refusal, Reply, Session, SessionId, nodes, read};

pub(crate) fn create_session(
    ctx: &mut Context<'_>,
    session: SessionId,
    stored: &Session,
) -> Applied<Reply> {
    if session.0 == 0 {
        return refuse(Refusal::BadArguments { why: "a session's id is not 0".to_owned() });
    }
    if record::session(ctx.read(), session)?.is_some() {
        return refuse(Refusal::SessionExists { session });
    }
    put_session(ctx, session, stored);
    Ok(Reply::SessionOpen)
}

pub(crate) fn put_session(ctx: &mut Context<'_>, session: SessionId, stored: &Session) {
    ctx.put(record::session_key(session), record::encode(stored));
    ctx.emit(Change::SessionOpened { session, timeout_ms: stored.timeout_ms });
}

pub(crate) fn move_session(ctx: &mut Context<'_>, session: SessionId, to: u64) -> Applied<Reply> {
    if record::session(ctx.read(), session)?.is_none() {
        return refuse(Refusal::SessionExpired { session });
    }
    ctx.emit(Change::SessionMoved { session, to });
    Ok(Reply::SessionOpen)
}

pub(crate) fn close_session(ctx: &mut Context<'_>, session: SessionId) -> Applied<Reply> {
    if record::session(ctx.read(), session)?.is_none() {
        return Ok(Reply::SessionClosed { was_open: false });
    }
    for path in read::ephemerals(ctx.read(), session)? {
        let node = existing(ctx, &path)?;
        assert_eq!(node.child_count, 0, "an ephemeral has no children");
        nodes::remove(ctx, &path, &node)?;
    }
    ctx.delete(record::session_key(session));
    ctx.emit(Change::SessionClosed { session });
    Ok(Reply::SessionClosed { was_open: true })
}

/// Removes a container or a znode with a time to live whose time has come. One that has children is
/// looked at again when they are gone.
pub(crate) fn remove_overdue(ctx: &mut Context<'_>, path: &str, due_ms: u64) -> Applied<Reply> {
    let key = record::due_key(due_ms, path);
    if due_ms > ctx.now_ms() || ctx.read().get(&key)?.is_none() {
        return Ok(Reply::OverdueVisited { removed: false });
    }
    ctx.delete(key);
    let removed = match record::node(ctx.read(), path)? {
        Some(node) if node.child_count == 0 && node.due_ms().is_some_and(|due| due <= due_ms) => {
            nodes::remove(ctx, path, &node)?;
            true
        }
        _ => false,
    };
    Ok(Reply::OverdueVisited { removed })
}
