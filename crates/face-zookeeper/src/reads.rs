//! Reads: what is answered from the state without changing it.

use bytes::{BufMut, BytesMut};
use proteus_kernel_api::tree::acl::permission;
use proteus_kernel_api::tree::{self, AclEntry, Credentials, SessionId, Stat, Zxid};
use proteus_kernel_api::{KernelError, View};

use crate::auth::Access;
use crate::codec::reply::{self, EventType};
use crate::codec::{ChildFilter, Output, ReadOp, Request, WatchSets, WatcherType, encode_acl};
use crate::errors::ErrorCode;
use crate::keeper;
use crate::watches::WatchKind;

/// Where a read registers its watches and fires those that are due.
pub(crate) trait WatchSink {
    /// Sets a watch.
    fn watch(&mut self, kind: WatchKind, path: &str);
    /// Whether one is set.
    fn is_watching(&self, kind: WatchKind, path: &str) -> bool;
    /// Takes one away; false if there was none.
    fn unwatch(&mut self, kind: WatchKind, path: &str) -> bool;
    /// Tells of what a watch would have told.
    fn fire(&mut self, event: EventType, path: &str);
}

/// One read and who asks.
pub(crate) struct Read<'a> {
    pub(crate) xid: i32,
    pub(crate) session: SessionId,
    pub(crate) access: &'a Access,
    pub(crate) request: &'a Request,
}

/// Appends the reply to a read from `view`. Returns the error it tells, or `OK`.
///
/// # Errors
/// If the store fails.
pub(crate) fn answer(
    into: &mut BytesMut,
    read: &Read<'_>,
    view: View<'_>,
    watches: &mut dyn WatchSink,
) -> Result<ErrorCode, KernelError> {
    let zxid = Zxid::from_commit(view.applied_ts).0;
    let start = into.len();
    let mut told = Ok(ErrorCode::OK);
    reply::ok(into, read.xid, zxid, |into| told = answer_body(into, read, view, watches));
    let told = told?;
    if told != ErrorCode::OK {
        into.truncate(start);
        reply::error(into, read.xid, zxid, told);
    }
    Ok(told)
}

/// What became of a read: its body was appended, or it is an error.
type Answered = Result<Result<(), ErrorCode>, KernelError>;

fn answer_body(
    into: &mut BytesMut,
    read: &Read<'_>,
    view: View<'_>,
    watches: &mut dyn WatchSink,
) -> Result<ErrorCode, KernelError> {
    let by = read.access.credentials();
    let answered = match read.request {
        Request::Exists { path, watch } => {
            let answered = exists(into, view, path, by)?;
            // An absent znode is watched too; one that may not be read is not.
            if *watch && answered != Err(ErrorCode::NO_AUTH) {
                watches.watch(WatchKind::Data, path);
            }
            answered
        }
        Request::GetData { path, watch } => {
            let answered = data(into, view, path, by)?;
            if *watch && answered.is_ok() {
                watches.watch(WatchKind::Data, path);
            }
            answered
        }
        Request::GetChildren { path, watch, with_stat } => {
            let answered = children(into, view, path, by, *with_stat)?;
            if *watch && answered.is_ok() {
                watches.watch(WatchKind::Child, path);
            }
            answered
        }
        Request::FilteredList { path, watch, filter } => {
            let answered = filtered_children(into, view, path, by, *filter)?;
            if *watch && answered.is_ok() {
                watches.watch(WatchKind::Child, path);
            }
            answered
        }
        Request::GetAllChildrenNumber { path } => match readable(view, path, by)? {
            Ok(node) => {
                into.put_i32(i32::try_from(node.descendant_count()?).unwrap_or(i32::MAX));
                Ok(())
            }
            Err(code) => Err(code),
        },
        Request::GetAcl { path } => acl(into, view, path, by)?,
        Request::WhoAmI => {
            into.count(read.access.users().count());
            for (scheme, user) in read.access.users() {
                into.string(scheme);
                into.string(user);
            }
            Ok(())
        }
        Request::GetEphemerals { prefix } => {
            let mut paths = tree::ephemerals(view.state, read.session)?;
            if !matches!(prefix.trim(), "" | "/") {
                paths.retain(|path| path.starts_with(prefix.as_str()));
            }
            reply::strings(into, &paths);
            Ok(())
        }
        Request::MultiRead(ops) => {
            multi_read(into, ops, view, by)?;
            Ok(())
        }
        // All earlier writes of the session are answered by now, and reads see every commit.
        Request::Sync { path } => {
            into.string(path);
            Ok(())
        }
        Request::AddWatch { .. }
        | Request::CheckWatches { .. }
        | Request::RemoveWatches { .. }
        | Request::SetWatches(_) => about_watches(into, read.request, view, watches)?,
        Request::Ping | Request::Auth { .. } => Ok(()),
        // Writes are not planned as reads.
        Request::Create(_)
        | Request::Delete(_)
        | Request::DeleteSubtree { .. }
        | Request::SetData { .. }
        | Request::SetAcl { .. }
        | Request::Check { .. }
        | Request::CheckAbsent { .. }
        | Request::Multi(_)
        | Request::Reconfig(_)
        | Request::Sasl { .. }
        | Request::CloseSession => Err(ErrorCode::SYSTEM_ERROR),
    };
    Ok(answered.err().unwrap_or(ErrorCode::OK))
}

fn about_watches(
    into: &mut BytesMut,
    request: &Request,
    view: View<'_>,
    watches: &mut dyn WatchSink,
) -> Answered {
    let is_found = match request {
        Request::AddWatch { path, is_recursive } => {
            let kind =
                if *is_recursive { WatchKind::PersistentRecursive } else { WatchKind::Persistent };
            watches.watch(kind, path);
            into.put_i32(ErrorCode::OK.0);
            true
        }
        Request::CheckWatches { path, watcher_type } => {
            kinds(*watcher_type).iter().any(|kind| watches.is_watching(*kind, path))
        }
        Request::RemoveWatches { path, watcher_type } => {
            let removed = kinds(*watcher_type).iter().filter(|kind| watches.unwatch(**kind, path));
            removed.count() > 0
        }
        Request::SetWatches(sets) => {
            set_watches(sets, view, watches)?;
            true
        }
        _ => return Ok(Err(ErrorCode::SYSTEM_ERROR)),
    };
    Ok(if is_found { Ok(()) } else { Err(ErrorCode::NO_WATCHER) })
}

/// The znode at `path`, if it is there and may be read.
fn readable<'a>(
    view: View<'a>,
    path: &'a str,
    by: &Credentials,
) -> Result<Result<tree::Node<'a>, ErrorCode>, KernelError> {
    Ok(match tree::node(view.state, path)? {
        None => Err(ErrorCode::NO_NODE),
        Some(node) if node.acl().permits(permission::READ, by) => Ok(node),
        Some(_) => Err(ErrorCode::NO_AUTH),
    })
}

fn exists(into: &mut BytesMut, view: View<'_>, path: &str, by: &Credentials) -> Answered {
    if path.contains('\0') {
        return Ok(Err(ErrorCode::BAD_ARGUMENTS));
    }
    Ok(match readable(view, path, by)? {
        Ok(node) => {
            reply::stat(into, &node.stat());
            Ok(())
        }
        Err(ErrorCode::NO_NODE) if keeper::data(path).is_some() => {
            reply::stat(into, &Stat::default());
            Ok(())
        }
        Err(code) => Err(code),
    })
}

fn data(into: &mut BytesMut, view: View<'_>, path: &str, by: &Credentials) -> Answered {
    Ok(match (readable(view, path, by)?, keeper::data(path)) {
        (Ok(node), _) => {
            into.buffer(node.data()?.as_deref());
            reply::stat(into, &node.stat());
            Ok(())
        }
        (Err(ErrorCode::NO_NODE), Some(data)) => {
            into.buffer(Some(&data));
            reply::stat(into, &Stat::default());
            Ok(())
        }
        (Err(code), _) => Err(code),
    })
}

fn children(
    into: &mut BytesMut,
    view: View<'_>,
    path: &str,
    by: &Credentials,
    with_stat: bool,
) -> Answered {
    Ok(match readable(view, path, by)? {
        Ok(node) => {
            reply::strings(into, &node.children()?);
            if with_stat {
                reply::stat(into, &node.stat());
            }
            Ok(())
        }
        Err(code) => Err(code),
    })
}

fn filtered_children(
    into: &mut BytesMut,
    view: View<'_>,
    path: &str,
    by: &Credentials,
    filter: ChildFilter,
) -> Answered {
    let node = match readable(view, path, by)? {
        Ok(node) => node,
        Err(code) => return Ok(Err(code)),
    };
    let mut names = Vec::new();
    for name in node.children()? {
        let is_told = filter == ChildFilter::All || {
            let child = tree::path::join(path, &name);
            let owner = tree::stat(view.state, &child)?.map_or(0, |stat| stat.ephemeral_owner);
            (filter == ChildFilter::Ephemeral) == (owner > 0)
        };
        if is_told {
            names.push(name);
        }
    }
    reply::strings(into, &names);
    reply::stat(into, &node.stat());
    Ok(Ok(()))
}

/// Who may not change the ACL does not see the hashes of passwords in it.
fn acl(into: &mut BytesMut, view: View<'_>, path: &str, by: &Credentials) -> Answered {
    let Some(node) = tree::node(view.state, path)? else {
        return Ok(Err(ErrorCode::NO_NODE));
    };
    if !node.acl().permits(permission::READ | permission::ADMIN, by) {
        return Ok(Err(ErrorCode::NO_AUTH));
    }
    let mut entries: Vec<AclEntry> = node.acl().entries();
    if !node.acl().permits(permission::ADMIN, by) {
        for entry in entries.iter_mut().filter(|entry| entry.scheme == "digest") {
            if let Some((user, _)) = entry.id.split_once(':') {
                entry.id = format!("{user}:x");
            }
        }
    }
    encode_acl(&entries, into);
    reply::stat(into, &node.stat());
    Ok(Ok(()))
}

/// The results are independent: one read that fails leaves the others.
fn multi_read(
    into: &mut BytesMut,
    ops: &[ReadOp],
    view: View<'_>,
    by: &Credentials,
) -> Result<(), KernelError> {
    let mut result = BytesMut::new();
    for op in ops {
        result.clear();
        let answered = match op {
            ReadOp::GetData { path } => data(&mut result, view, path, by)?,
            ReadOp::GetChildren { path } => children(&mut result, view, path, by, false)?,
            ReadOp::GetChildren2 { path } => children(&mut result, view, path, by, true)?,
            ReadOp::Exists { path } => exists(&mut result, view, path, by)?,
            ReadOp::FilteredList { path, filter } => {
                filtered_children(&mut result, view, path, by, *filter)?
            }
        };
        match answered {
            Ok(()) => {
                reply::multi_header(into, op.code(), ErrorCode::OK);
                into.extend_from_slice(&result);
            }
            Err(code) => reply::multi_error(into, code),
        }
    }
    reply::multi_end(into);
    Ok(())
}

fn kinds(watcher_type: WatcherType) -> &'static [WatchKind] {
    match watcher_type {
        WatcherType::Children => &[WatchKind::Child],
        WatcherType::Data => &[WatchKind::Data],
        WatcherType::Any => &WatchKind::ALL,
        WatcherType::Persistent => &[WatchKind::Persistent],
        WatcherType::PersistentRecursive => &[WatchKind::PersistentRecursive],
    }
}

/// Sets again what a client watched before its connection was lost; what has changed since the zxid
/// it has seen fires at once. Source: `DataTree.setWatches`.
fn set_watches(
    sets: &WatchSets,
    view: View<'_>,
    watches: &mut dyn WatchSink,
) -> Result<(), KernelError> {
    let seen = Zxid(sets.relative_zxid);
    let mut set_or_fire = |paths: &[String], kind, judge: &dyn Fn(Option<Stat>) -> _| {
        for path in paths {
            match judge(tree::stat(view.state, path)?) {
                Some(event) => watches.fire(event, path),
                None => watches.watch(kind, path),
            }
        }
        Ok::<(), KernelError>(())
    };
    set_or_fire(&sets.data, WatchKind::Data, &|stat| match stat {
        None => Some(EventType::NodeDeleted),
        Some(stat) if stat.mzxid > seen => Some(EventType::NodeDataChanged),
        Some(_) => None,
    })?;
    set_or_fire(&sets.exist, WatchKind::Data, &|stat| stat.map(|_| EventType::NodeCreated))?;
    set_or_fire(&sets.child, WatchKind::Child, &|stat| match stat {
        None => Some(EventType::NodeDeleted),
        Some(stat) if stat.pzxid > seen => Some(EventType::NodeChildrenChanged),
        Some(_) => None,
    })?;
    if let Some((persistent, recursive)) = &sets.persistent {
        persistent.iter().for_each(|path| watches.watch(WatchKind::Persistent, path));
        recursive.iter().for_each(|path| watches.watch(WatchKind::PersistentRecursive, path));
    }
    Ok(())
}
