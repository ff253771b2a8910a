//! Checks and ops.

use bytes::Bytes;
use proteus_machine::{Abort, Ctx};
use proteus_types::CommitTs;

use crate::record::{self, Lifetime, NodeRecord};
use crate::{
    CONTAINER_LINGER_MS, Change, Check, NodeKind, Op, Refusal, Reply, Session, SessionId, Zxid,
    path as paths, read,
};

type Context<'a> = Ctx<'a, Change>;
type Applied<T> = Result<T, Abort<Refusal>>;

fn refuse<T>(refusal: Refusal) -> Applied<T> {
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
        Op::Create { path, data, kind, sequential } => {
            create(ctx, path, data.as_ref(), *kind, *sequential)
        }
        Op::Delete { path, version } => delete(ctx, path, *version),
        Op::SetData { path, data, version } => set_data(ctx, path, data.as_ref(), *version),
        Op::SetOpenAcl { path, version } => set_open_acl(ctx, path, *version),
        Op::CheckVersion { path, version } => {
            let node = existing(ctx, path)?;
            expect_version(path, node.data_version, *version)?;
            Ok(Reply::Checked)
        }
        Op::CreateSession { session, password, timeout_ms } => {
            if session.0 == 0 {
                let why = "a session's id is not 0".to_owned();
                return refuse(Refusal::BadArguments { why });
            }
            if record::session(ctx.read(), *session)?.is_some() {
                return refuse(Refusal::SessionExists { session: *session });
            }
            put_session(ctx, *session, &Session { password: *password, timeout_ms: *timeout_ms });
            Ok(Reply::SessionOpen)
        }
        Op::SetSessionTimeout { session, timeout_ms } => {
            let stored = open_session(ctx, *session)?;
            put_session(ctx, *session, &Session { timeout_ms: *timeout_ms, ..stored });
            Ok(Reply::SessionOpen)
        }
        Op::CloseSession { session } => close_session(ctx, *session),
        Op::RemoveContainer { path, due_ms } => remove_container(ctx, path, *due_ms),
    }
}

fn create(
    ctx: &mut Context<'_>,
    path: &str,
    data: Option<&Bytes>,
    kind: NodeKind,
    sequential: bool,
) -> Applied<Reply> {
    // A sequential path may end with "/": the counter is then the whole name. So what is judged is
    // the path with a digit.
    let judged =
        if sequential { paths::validate(&format!("{path}0")) } else { paths::validate(path) };
    judged.map_err(Abort::Refused)?;
    let Some((parent_path, name)) = path.rsplit_once('/') else {
        return refuse(Refusal::BadArguments { why: "a path begins with /".to_owned() });
    };
    let parent_path = if parent_path.is_empty() { "/" } else { parent_path };
    if name.is_empty() && !sequential {
        return refuse(Refusal::NodeExists { path: "/".to_owned() });
    }
    let Some(mut parent) = record::node(ctx.read(), parent_path)? else {
        return refuse(Refusal::NoNode { path: parent_path.to_owned() });
    };
    let name =
        if sequential { format!("{name}{:010}", parent.created_count) } else { name.to_owned() };
    let path = paths::join(parent_path, &name);
    if record::node(ctx.read(), &path)?.is_some() {
        return refuse(Refusal::NodeExists { path });
    }
    if matches!(parent.lifetime, Lifetime::Ephemeral(_)) {
        return refuse(Refusal::NoChildrenForEphemerals { path: parent_path.to_owned() });
    }
    let lifetime = match kind {
        NodeKind::Persistent => Lifetime::Persistent,
        NodeKind::Container => Lifetime::Container,
        NodeKind::Ephemeral(session) => {
            open_session(ctx, session)?;
            ctx.put(record::ephemeral_key(session, &path), record::marker());
            Lifetime::Ephemeral(session)
        }
    };

    let zxid = Zxid::from_commit(ctx.commit_ts());
    let mut node = NodeRecord {
        created_zxid: zxid,
        modified_zxid: zxid,
        children_zxid: zxid,
        created_ms: ctx.now_ms(),
        modified_ms: ctx.now_ms(),
        data_version: 0,
        acl_version: 0,
        created_count: 0,
        child_count: 0,
        data_bytes: 0,
        has_data: false,
        lifetime,
    };
    put_data(ctx, &path, &mut node, data);
    parent.created_count = parent.created_count.wrapping_add(1);
    parent.child_count += 1;
    parent.children_zxid = zxid;
    count_stored(ctx, parent_path, &path)?;
    put_node(ctx, parent_path, &parent);
    put_node(ctx, &path, &node);
    ctx.put(record::child_key(parent_path, &name), record::marker());
    ctx.emit(Change::NodeCreated { path: path.clone() });
    ctx.emit(Change::ChildrenChanged { path: parent_path.to_owned() });
    Ok(Reply::Created { path, stat: node.stat() })
}

/// Keeps the count of stored znodes while `created` and perhaps its built-in parent are stored for
/// the first time.
fn count_stored(ctx: &mut Context<'_>, parent: &str, created: &str) -> Applied<()> {
    debug_assert_ne!(parent, created);
    let is_parent_new = ctx.read().get(&record::node_key(parent))?.is_none();
    let count = record::stored_count(ctx.read())? + 1 + u64::from(is_parent_new);
    ctx.put(record::node_count_key(), record::encode(&count));
    Ok(())
}

fn delete(ctx: &mut Context<'_>, path: &str, version: Option<i32>) -> Applied<Reply> {
    let node = existing(ctx, path)?;
    if record::built_in_children(path).is_some() {
        let why = format!("{path} cannot be deleted");
        return refuse(Refusal::BadArguments { why });
    }
    expect_version(path, node.data_version, version)?;
    if node.child_count > 0 {
        return refuse(Refusal::NotEmpty { path: path.to_owned() });
    }
    remove(ctx, path, &node)?;
    Ok(Reply::Deleted)
}

/// Takes a znode without children out of the tree.
fn remove(ctx: &mut Context<'_>, path: &str, node: &NodeRecord) -> Applied<()> {
    let Some((parent_path, name)) = paths::split(path) else {
        return Ok(());
    };
    let mut parent = existing(ctx, parent_path)?;
    assert!(parent.child_count > 0, "a znode is among its parent's children");
    parent.child_count -= 1;
    parent.children_zxid = Zxid::from_commit(ctx.commit_ts());
    put_node(ctx, parent_path, &parent);
    ctx.delete(record::child_key(parent_path, name));
    ctx.delete(record::node_key(path));
    if node.has_data {
        ctx.delete(record::data_key(path));
    }
    if let Lifetime::Ephemeral(session) = node.lifetime {
        ctx.delete(record::ephemeral_key(session, path));
    }
    if parent.lifetime == Lifetime::Container && parent.child_count == 0 {
        let due_ms = ctx.now_ms().saturating_add(CONTAINER_LINGER_MS);
        ctx.put(record::container_key(due_ms, parent_path), record::marker());
    }
    let count = record::stored_count(ctx.read())?;
    assert!(count > 0, "the deleted znode was counted");
    ctx.put(record::node_count_key(), record::encode(&(count - 1)));
    ctx.emit(Change::NodeDeleted { path: path.to_owned() });
    ctx.emit(Change::ChildrenChanged { path: parent_path.to_owned() });
    Ok(())
}

fn set_data(
    ctx: &mut Context<'_>,
    path: &str,
    data: Option<&Bytes>,
    version: Option<i32>,
) -> Applied<Reply> {
    let mut node = existing(ctx, path)?;
    expect_version(path, node.data_version, version)?;
    count_if_built_in(ctx, path)?;
    node.data_version = node.data_version.wrapping_add(1);
    node.modified_zxid = Zxid::from_commit(ctx.commit_ts());
    node.modified_ms = ctx.now_ms();
    put_data(ctx, path, &mut node, data);
    put_node(ctx, path, &node);
    ctx.emit(Change::NodeDataChanged { path: path.to_owned() });
    Ok(Reply::Changed { stat: node.stat() })
}

fn set_open_acl(ctx: &mut Context<'_>, path: &str, version: Option<i32>) -> Applied<Reply> {
    let mut node = existing(ctx, path)?;
    expect_version(path, node.acl_version, version)?;
    count_if_built_in(ctx, path)?;
    node.acl_version = node.acl_version.wrapping_add(1);
    put_node(ctx, path, &node);
    Ok(Reply::Changed { stat: node.stat() })
}

/// A built-in znode is stored from its first change on, and counted from then.
fn count_if_built_in(ctx: &mut Context<'_>, path: &str) -> Applied<()> {
    if record::built_in_children(path).is_some()
        && ctx.read().get(&record::node_key(path))?.is_none()
    {
        let count = record::stored_count(ctx.read())? + 1;
        ctx.put(record::node_count_key(), record::encode(&count));
    }
    Ok(())
}

fn close_session(ctx: &mut Context<'_>, session: SessionId) -> Applied<Reply> {
    if record::session(ctx.read(), session)?.is_none() {
        return Ok(Reply::SessionClosed { was_open: false });
    }
    for path in read::ephemerals(ctx.read(), session)? {
        let node = existing(ctx, &path)?;
        assert_eq!(node.child_count, 0, "an ephemeral has no children");
        remove(ctx, &path, &node)?;
    }
    ctx.delete(record::session_key(session));
    ctx.emit(Change::SessionClosed { session });
    Ok(Reply::SessionClosed { was_open: true })
}

fn remove_container(ctx: &mut Context<'_>, path: &str, due_ms: u64) -> Applied<Reply> {
    let key = record::container_key(due_ms, path);
    if due_ms > ctx.now_ms() || ctx.read().get(&key)?.is_none() {
        return Ok(Reply::ContainerVisited { removed: false });
    }
    ctx.delete(key);
    let removed = match record::node(ctx.read(), path)? {
        Some(node)
            if node.lifetime == Lifetime::Container
                && node.child_count == 0
                && node.created_count != 0
                && lingered_until(&node) <= due_ms =>
        {
            remove(ctx, path, &node)?;
            true
        }
        _ => false,
    };
    Ok(Reply::ContainerVisited { removed })
}

/// When an empty container goes, in milliseconds since the Unix epoch: its children last changed when
/// the last of them went.
fn lingered_until(node: &NodeRecord) -> u64 {
    let emptied_ms = CommitTs(node.children_zxid.0.cast_unsigned()).physical_ms();
    emptied_ms.saturating_add(CONTAINER_LINGER_MS)
}

fn existing(ctx: &Context<'_>, path: &str) -> Applied<NodeRecord> {
    match record::node(ctx.read(), path)? {
        Some(node) => Ok(node),
        None => {
            // Only of what does not exist must be known whether it could.
            paths::validate(path).map_err(Abort::Refused)?;
            refuse(Refusal::NoNode { path: path.to_owned() })
        }
    }
}

fn open_session(ctx: &Context<'_>, session: SessionId) -> Applied<Session> {
    match record::session(ctx.read(), session)? {
        Some(stored) => Ok(stored),
        None => refuse(Refusal::SessionExpired { session }),
    }
}

fn expect_version(path: &str, actual: i32, expected: Option<i32>) -> Applied<()> {
    match expected {
        Some(expected) if expected != actual => {
            refuse(Refusal::BadVersion { path: path.to_owned(), expected, actual })
        }
        _ => Ok(()),
    }
}

fn put_session(ctx: &mut Context<'_>, session: SessionId, stored: &Session) {
    ctx.put(record::session_key(session), record::encode(stored));
    ctx.emit(Change::SessionOpened { session, timeout_ms: stored.timeout_ms });
}

fn put_node(ctx: &mut Context<'_>, path: &str, node: &NodeRecord) {
    ctx.put(record::node_key(path), record::encode(node));
}

fn put_data(ctx: &mut Context<'_>, path: &str, node: &mut NodeRecord, data: Option<&Bytes>) {
    match data {
        Some(data) => ctx.put(record::data_key(path), record::encode_data(data)),
        None if node.has_data => ctx.delete(record::data_key(path)),
        None => {}
    }
    node.has_data = data.is_some();
    node.data_bytes = data.map_or(0, |data| u32::try_from(data.len()).unwrap_or(u32::MAX));
}
