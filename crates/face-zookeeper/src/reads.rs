//! Reads: what is answered from the state without changing it.

use bytes::{BufMut, Bytes, BytesMut};
use proteus_kernel_api::tree::acl::permission;
use proteus_kernel_api::tree::{self, AclEntry, Credentials, SessionId, Stat, Zxid};
use proteus_kernel_api::{KernelError, View};

use crate::auth::Access;
use crate::child_lists::ChildLists;
use crate::codec::reply::{self, EventType};
use crate::codec::{
    ChildDetails, ChildFilter, Output, ReadKind, ReadRequest, Request, WatchSets, WatcherType,
    encode_acl,
};
use crate::errors::ErrorCode;
use crate::keeper;
use crate::watches::WatchKind;

/// Most znodes that one listing of a subtree tells. The shard does nothing else meanwhile.
const LISTED_COUNT_MAX: u32 = 100_000;

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
    pub(crate) child_lists: &'a ChildLists,
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
        Request::Read(one) => read_one(into, one, view, read, watches)?,
        Request::ListRecursive { path, count_max } => {
            list_recursive(into, view, path, *count_max, by)?
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
            multi_read(into, ops, view, read, watches)?;
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
        | Request::CheckStat(_)
        | Request::CheckAbsent { .. }
        | Request::Multi(_)
        | Request::Reconfig(_)
        | Request::Sasl { .. }
        | Request::CloseSession => Err(ErrorCode::SYSTEM_ERROR),
    };
    Ok(answered.err().unwrap_or(ErrorCode::OK))
}

/// Reads one znode and sets the watch that is asked for.
fn read_one(
    into: &mut BytesMut,
    ReadRequest { kind, path, watch }: &ReadRequest,
    view: View<'_>,
    read: &Read<'_>,
    watches: &mut dyn WatchSink,
) -> Answered {
    let by = read.access.credentials();
    let answered = match kind {
        ReadKind::Exists => exists(into, view, path, by)?,
        ReadKind::Data => data(into, view, path, by)?,
        ReadKind::Children => children(into, view, path, read, false)?,
        ReadKind::ChildrenAndStat => children(into, view, path, read, true)?,
        ReadKind::FilteredList(filter, details) => {
            filtered_children(into, view, path, by, *filter, *details)?
        }
    };
    if *watch {
        match (kind, answered) {
            // An absent znode is watched too; one that may not be read is not.
            (ReadKind::Exists, Ok(()) | Err(ErrorCode::NO_NODE)) | (ReadKind::Data, Ok(())) => {
                watches.watch(WatchKind::Data, path);
            }
            (ReadKind::Exists | ReadKind::Data, _) | (_, Err(_)) => {}
            (_, Ok(())) => watches.watch(WatchKind::Child, path),
        }
    }
    Ok(answered)
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
    read: &Read<'_>,
    with_stat: bool,
) -> Answered {
    let node = match readable(view, path, read.access.credentials())? {
        Ok(node) => node,
        Err(code) => return Ok(Err(code)),
    };
    let stat = node.stat();
    match read.child_lists.get(path, &stat) {
        Some(encoded) => into.extend_from_slice(&encoded),
        None => {
            let start = into.len();
            all_children(into, &node)?;
            if let Some(encoded) = into.get(start..) {
                read.child_lists.keep(path, &stat, Bytes::copy_from_slice(encoded));
            }
        }
    }
    if with_stat {
        reply::stat(into, &stat);
    }
    Ok(Ok(()))
}

/// Writes the vector of a znode's children as the scan brings them.
fn all_children(into: &mut BytesMut, node: &tree::Node<'_>) -> Result<(), KernelError> {
    let start = into.len();
    let mut count = 0_i32;
    into.put_i32(count);
    node.visit_children(&mut |name| {
        into.string(name);
        count = count.saturating_add(1);
    })?;
    if let Some(written) = into.get_mut(start..start + 4) {
        written.copy_from_slice(&count.to_be_bytes());
    }
    Ok(())
}

fn filtered_children(
    into: &mut BytesMut,
    view: View<'_>,
    path: &str,
    by: &Credentials,
    filter: ChildFilter,
    details: Option<ChildDetails>,
) -> Answered {
    let node = match readable(view, path, by)? {
        Ok(node) => node,
        Err(code) => return Ok(Err(code)),
    };
    let (mut names, mut stats, mut data) = (Vec::new(), Vec::new(), Vec::new());
    for name in node.children()? {
        let child_path = tree::path::join(path, &name);
        // One that is built in may have no record.
        let child = tree::node(view.state, &child_path)?;
        let owner = child.as_ref().map_or(0, |child| child.stat().ephemeral_owner);
        if filter != ChildFilter::All && (filter == ChildFilter::Ephemeral) != (owner != 0) {
            continue;
        }
        names.push(name);
        let (Some(details), Some(child)) = (details, child) else { continue };
        if (details.stat || details.data) && !child.acl().permits(permission::READ, by) {
            return Ok(Err(ErrorCode::NO_AUTH));
        }
        if details.stat {
            stats.push(child.stat());
        }
        if details.data {
            data.push(child.data()?);
        }
    }
    reply::strings(into, &names);
    reply::stat(into, &node.stat());
    if details.is_some() {
        into.count(stats.len());
        stats.iter().for_each(|stat| reply::stat(into, stat));
        into.count(data.len());
        data.iter().for_each(|data| into.buffer(data.as_deref()));
    }
    Ok(Ok(()))
}

/// Paths of what is below a znode and may be read, level by level; the first `count_max` of them.
fn list_recursive(
    into: &mut BytesMut,
    view: View<'_>,
    path: &str,
    count_max: u32,
    by: &Credentials,
) -> Answered {
    if let Err(code) = readable(view, path, by)? {
        return Ok(Err(code));
    }
    let count_max = count_max.min(LISTED_COUNT_MAX) as usize;
    let mut found: Vec<String> = Vec::new();
    let mut next: Option<usize> = None;
    loop {
        let above = match next {
            None => path,
            Some(index) => match found.get(index) {
                Some(above) => above.as_str(),
                None => break,
            },
        };
        let mut below = Vec::new();
        if let Some(node) = tree::node(view.state, above)? {
            for name in node.children()? {
                let child = tree::path::join(above, &name);
                if readable(view, &child, by)?.is_ok() {
                    below.push(child);
                }
            }
        }
        found.extend(below);
        if found.len() >= count_max {
            found.truncate(count_max);
            break;
        }
        next = Some(next.map_or(0, |index| index + 1));
    }
    reply::strings(into, &found);
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
    ops: &[ReadRequest],
    view: View<'_>,
    read: &Read<'_>,
    watches: &mut dyn WatchSink,
) -> Result<(), KernelError> {
    let mut result = BytesMut::new();
    for op in ops {
        result.clear();
        match read_one(&mut result, op, view, read, watches)? {
            Ok(()) => {
                reply::multi_header(into, op.kind.code(), ErrorCode::OK);
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
