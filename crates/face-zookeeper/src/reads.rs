//! Reads: what is answered from the state without changing it.

use bytes::{BufMut, BytesMut};
use proteus_kernel_api::tree::{self, SessionId, Stat, Zxid};
use proteus_kernel_api::{KernelError, View};

use crate::codec::reply::{self, EventType};
use crate::codec::request::{GET_CHILDREN, GET_DATA};
use crate::codec::{Output, ReadOp, Request, WatchSets, WatcherType};
use crate::errors::ErrorCode;
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

fn answer_body(
    into: &mut BytesMut,
    read: &Read<'_>,
    view: View<'_>,
    watches: &mut dyn WatchSink,
) -> Result<ErrorCode, KernelError> {
    match read.request {
        Request::Exists { path, watch } => {
            let stat = tree::stat(view.state, path)?;
            if *watch {
                watches.watch(WatchKind::Data, path);
            }
            let Some(stat) = stat else {
                return Ok(ErrorCode::NO_NODE);
            };
            reply::stat(into, &stat);
        }
        Request::GetData { path, watch } => {
            let Some((data, stat)) = tree::data(view.state, path)? else {
                return Ok(ErrorCode::NO_NODE);
            };
            if *watch {
                watches.watch(WatchKind::Data, path);
            }
            into.buffer(data.as_deref());
            reply::stat(into, &stat);
        }
        Request::GetChildren { path, watch, with_stat } => {
            let Some((names, stat)) = tree::children(view.state, path)? else {
                return Ok(ErrorCode::NO_NODE);
            };
            if *watch {
                watches.watch(WatchKind::Child, path);
            }
            reply::strings(into, &names);
            if *with_stat {
                reply::stat(into, &stat);
            }
        }
        Request::GetAcl { path } => {
            let Some(stat) = tree::stat(view.state, path)? else {
                return Ok(ErrorCode::NO_NODE);
            };
            reply::open_acl(into);
            reply::stat(into, &stat);
        }
        Request::GetEphemerals { prefix } => {
            let mut paths = tree::ephemerals(view.state, read.session)?;
            paths.retain(|path| path.starts_with(prefix.as_str()));
            reply::strings(into, &paths);
        }
        Request::MultiRead(ops) => multi_read(into, ops, view)?,
        // All earlier writes of the session are answered by now, and reads see every commit.
        Request::Sync { path } => into.string(path),
        Request::AddWatch { path, is_recursive } => {
            let kind =
                if *is_recursive { WatchKind::PersistentRecursive } else { WatchKind::Persistent };
            watches.watch(kind, path);
            into.put_i32(ErrorCode::OK.0);
        }
        Request::CheckWatches { path, watcher_type } => {
            if !kinds(*watcher_type).iter().any(|kind| watches.is_watching(*kind, path)) {
                return Ok(ErrorCode::NO_WATCHER);
            }
        }
        Request::RemoveWatches { path, watcher_type } => {
            let removed = kinds(*watcher_type).iter().filter(|kind| watches.unwatch(**kind, path));
            if removed.count() == 0 {
                return Ok(ErrorCode::NO_WATCHER);
            }
        }
        Request::SetWatches(sets) => set_watches(sets, view, watches)?,
        Request::Ping | Request::Auth { .. } => {}
        // Writes are not planned as reads.
        Request::Create(_)
        | Request::Delete { .. }
        | Request::SetData { .. }
        | Request::SetAcl { .. }
        | Request::Check { .. }
        | Request::Multi(_)
        | Request::CloseSession => return Ok(ErrorCode::SYSTEM_ERROR),
    }
    Ok(ErrorCode::OK)
}

/// The results are independent: one read that fails leaves the others.
fn multi_read(into: &mut BytesMut, ops: &[ReadOp], view: View<'_>) -> Result<(), KernelError> {
    for op in ops {
        match op {
            ReadOp::GetData { path } => match tree::data(view.state, path)? {
                Some((data, stat)) => {
                    reply::multi_header(into, GET_DATA, ErrorCode::OK);
                    into.buffer(data.as_deref());
                    reply::stat(into, &stat);
                }
                None => reply::multi_error(into, ErrorCode::NO_NODE),
            },
            ReadOp::GetChildren { path } => match tree::children(view.state, path)? {
                Some((names, _)) => {
                    reply::multi_header(into, GET_CHILDREN, ErrorCode::OK);
                    reply::strings(into, &names);
                }
                None => reply::multi_error(into, ErrorCode::NO_NODE),
            },
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
