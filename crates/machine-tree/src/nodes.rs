//! Ops on znodes. Each refuses in the order in which ZooKeeper judges.

use bytes::Bytes;
use proteus_machine::Abort;

use crate::acl::permission;
use crate::apply::{
    Applied, Context, existing, expect_permission, expect_version, next_version, open_session,
    put_data, put_node, put_totals, refuse,
};
use crate::quota::{self, Growth};
use crate::record::{self, Lifetime, NodeRecord};
use crate::{
    Acl, Change, Credentials, Expected, NewNode, NodeKind, Refusal, Reply, TTL_MS_MAX, Zxid,
    path as paths, read,
};

/// What stands between the members and their version.
const MEMBERS_VERSION: &str = "\nversion=";

/// Most znodes that one op deletes. The shard does nothing else meanwhile.
pub(crate) const DELETED_MAX: u32 = 100_000;

pub(crate) fn create(ctx: &mut Context<'_>, new_node: &NewNode) -> Applied<Reply> {
    let NewNode { path, data, acl, kind, sequential, keep_existing, by } = new_node;
    if let NodeKind::TimeToLive(ttl_ms) = kind
        && !(1..=TTL_MS_MAX).contains(ttl_ms)
    {
        let why = format!("a time to live is 1 to {TTL_MS_MAX} ms, not {ttl_ms}");
        return refuse(Refusal::BadArguments { why });
    }
    paths::validate_length(path).map_err(Abort::Refused)?;
    let Some((parent_path, name)) = path.rsplit_once('/') else {
        return refuse(Refusal::BadArguments { why: "a path begins with /".to_owned() });
    };
    let parent_path = if parent_path.is_empty() { "/" } else { parent_path };
    let Some(mut parent) = record::node(ctx.read(), parent_path)? else {
        // Whether the path is one at all is judged after this, as in ZooKeeper.
        return refuse(Refusal::NoNode { path: parent_path.to_owned() });
    };
    expect_permission(path, &parent, permission::CREATE, by)?;
    if path == "/" && !sequential {
        return refuse(Refusal::NodeExists { path: path.clone() });
    }
    let name =
        if *sequential { format!("{name}{:010}", parent.created_count) } else { name.to_owned() };
    let path = paths::join(parent_path, &name);
    paths::validate(&path).map_err(Abort::Refused)?;
    if let Some(node) = record::node(ctx.read(), &path)? {
        return if *keep_existing {
            Ok(Reply::Created { path, stat: node.stat() })
        } else {
            refuse(Refusal::NodeExists { path })
        };
    }
    if matches!(parent.lifetime, Lifetime::Ephemeral(_)) {
        return refuse(Refusal::NoChildrenForEphemerals { path: parent_path.to_owned() });
    }
    let mut totals = record::totals(ctx.read())?;
    let growth = Growth { count: 1, bytes: length(data.as_ref()) };
    quota::charge(ctx, totals, &path, growth)?;

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
        lifetime: begin_lifetime(ctx, &path, *kind)?,
        acl: acl.clone(),
        data_inline: Bytes::new(),
    };
    put_data(ctx, &path, &mut node, data.as_ref());
    parent.created_count = parent.created_count.wrapping_add(1);
    parent.child_count += 1;
    parent.children_zxid = zxid;
    totals.stored_count += 1;
    count_if_built_in(ctx, parent_path, &mut totals)?;
    put_node(ctx, parent_path, &parent);
    put_node(ctx, &path, &node);
    ctx.put(record::child_key(parent_path, &name), record::marker());
    quota::on_created(ctx, &mut totals, parent_path, &name)?;
    put_totals(ctx, totals);
    ctx.emit(Change::NodeCreated { path: path.clone(), acl: node.acl.clone() });
    ctx.emit(Change::ChildrenChanged { path: parent_path.to_owned(), acl: parent.acl });
    Ok(Reply::Created { path, stat: node.stat() })
}

fn begin_lifetime(ctx: &mut Context<'_>, path: &str, kind: NodeKind) -> Applied<Lifetime> {
    Ok(match kind {
        NodeKind::Persistent => Lifetime::Persistent,
        NodeKind::Container => Lifetime::Container,
        NodeKind::Ephemeral(session) => {
            open_session(ctx, session)?;
            ctx.put(record::ephemeral_key(session, path), record::marker());
            Lifetime::Ephemeral(session)
        }
        NodeKind::TimeToLive(ttl_ms) => {
            let due_ms = ctx.now_ms().saturating_add(ttl_ms);
            ctx.put(record::due_key(due_ms, path), record::marker());
            Lifetime::TimeToLive(ttl_ms)
        }
    })
}

pub(crate) fn delete(
    ctx: &mut Context<'_>,
    path: &str,
    version: Option<i32>,
    by: &Credentials,
) -> Applied<Reply> {
    refuse_built_in(path)?;
    expect_parent_permission(ctx, path, by)?;
    let node = existing(ctx, path)?;
    expect_version(path, node.data_version, version)?;
    if node.child_count > 0 {
        return refuse(Refusal::NotEmpty { path: path.to_owned() });
    }
    remove(ctx, path, &node)?;
    Ok(Reply::Deleted)
}

/// Deletes a znode and all below it, if they are not more than `count_max`.
pub(crate) fn delete_subtree(
    ctx: &mut Context<'_>,
    path: &str,
    count_max: u32,
    by: &Credentials,
) -> Applied<Reply> {
    refuse_built_in(path)?;
    expect_parent_permission(ctx, path, by)?;
    existing(ctx, path)?;
    let count_max = count_max.min(DELETED_MAX) as usize;
    let mut found = vec![path.to_owned()];
    let mut next = 0;
    while let Some(at) = found.get(next).cloned() {
        next += 1;
        let Some(node) = record::node(ctx.read(), &at)? else { continue };
        if node.child_count > 0 {
            expect_permission(&at, &node, permission::DELETE, by)?;
        }
        if found.len() + node.child_count as usize > count_max {
            return refuse(Refusal::NotEmpty { path: path.to_owned() });
        }
        for name in read::child_names(ctx.read(), &at)? {
            found.push(paths::join(&at, &name));
        }
    }
    if found.len() > count_max {
        return refuse(Refusal::NotEmpty { path: path.to_owned() });
    }
    for path in found.iter().rev() {
        // A quota's stats may have changed the record since.
        let node = existing(ctx, path)?;
        remove(ctx, path, &node)?;
    }
    Ok(Reply::Deleted)
}

fn refuse_built_in(path: &str) -> Applied<()> {
    if record::built_in_children(path).is_some() {
        return refuse(Refusal::BadArguments { why: format!("{path} cannot be deleted") });
    }
    Ok(())
}

fn expect_parent_permission(ctx: &Context<'_>, path: &str, by: &Credentials) -> Applied<()> {
    match paths::split(path) {
        Some((parent_path, _)) => {
            let parent = existing(ctx, parent_path)?;
            expect_permission(path, &parent, permission::DELETE, by)
        }
        None => {
            let why = format!("{path:?} is no path of a znode that can be deleted");
            refuse(Refusal::BadArguments { why })
        }
    }
}

/// Takes a znode without children out of the tree.
pub(crate) fn remove(ctx: &mut Context<'_>, path: &str, node: &NodeRecord) -> Applied<()> {
    let Some((parent_path, name)) = paths::split(path) else {
        return Ok(());
    };
    let mut totals = record::totals(ctx.read())?;
    assert!(totals.stored_count > 0, "the deleted znode was counted");
    totals.stored_count -= 1;
    let mut parent = existing(ctx, parent_path)?;
    assert!(parent.child_count > 0, "a znode is among its parent's children");
    parent.child_count -= 1;
    parent.children_zxid = Zxid::from_commit(ctx.commit_ts());
    put_node(ctx, parent_path, &parent);
    if parent.child_count == 0
        && let Some(due_ms) = parent.due_ms()
    {
        ctx.put(record::due_key(due_ms, parent_path), record::marker());
    }
    ctx.delete(record::child_key(parent_path, name));
    ctx.delete(record::node_key(path));
    if node.is_data_apart() {
        ctx.delete(record::data_key(path));
    }
    match node.lifetime {
        Lifetime::Ephemeral(session) => ctx.delete(record::ephemeral_key(session, path)),
        Lifetime::Container | Lifetime::TimeToLive(_) => {
            if let Some(due_ms) = node.due_ms() {
                ctx.delete(record::due_key(due_ms, path));
            }
        }
        Lifetime::Persistent => {}
    }
    quota::on_removed(ctx, &mut totals, parent_path, name);
    put_totals(ctx, totals);
    let growth = Growth { count: -1, bytes: -i64::from(node.data_bytes) };
    quota::charge(ctx, totals, path, growth)?;
    ctx.emit(Change::NodeDeleted { path: path.to_owned(), acl: node.acl.clone() });
    ctx.emit(Change::ChildrenChanged { path: parent_path.to_owned(), acl: parent.acl });
    Ok(())
}

pub(crate) fn set_data(
    ctx: &mut Context<'_>,
    path: &str,
    data: Option<&Bytes>,
    version: Option<i32>,
    by: &Credentials,
) -> Applied<Reply> {
    let mut node = existing(ctx, path)?;
    expect_permission(path, &node, permission::WRITE, by)?;
    let mut totals = record::totals(ctx.read())?;
    let growth = Growth { count: 0, bytes: length(data) - i64::from(node.data_bytes) };
    quota::charge(ctx, totals, path, growth)?;
    expect_version(path, node.data_version, version)?;
    if count_if_built_in(ctx, path, &mut totals)? {
        put_totals(ctx, totals);
    }
    if let (Lifetime::TimeToLive(_), Some(due_ms)) = (node.lifetime, node.due_ms()) {
        ctx.delete(record::due_key(due_ms, path));
    }
    node.data_version = next_version(node.data_version);
    node.modified_zxid = Zxid::from_commit(ctx.commit_ts());
    node.modified_ms = ctx.now_ms();
    if let (Lifetime::TimeToLive(_), Some(due_ms)) = (node.lifetime, node.due_ms()) {
        ctx.put(record::due_key(due_ms, path), record::marker());
    }
    put_data(ctx, path, &mut node, data);
    put_node(ctx, path, &node);
    ctx.emit(Change::NodeDataChanged { path: path.to_owned(), acl: node.acl.clone() });
    Ok(Reply::Changed { stat: node.stat() })
}

/// The members' znode is ZooKeeper's own: nobody but the node itself writes it.
pub(crate) fn set_members(ctx: &mut Context<'_>, servers: &str) -> Applied<Reply> {
    let node = existing(ctx, record::CONFIG)?;
    let before = record::data(ctx.read(), record::CONFIG, &node)?;
    let is_same = before
        .strip_prefix(servers.as_bytes())
        .is_some_and(|version| version.starts_with(MEMBERS_VERSION.as_bytes()));
    if is_same {
        return Ok(Reply::Changed { stat: node.stat() });
    }
    let zxid = Zxid::from_commit(ctx.commit_ts()).0;
    let text = Bytes::from(format!("{servers}{MEMBERS_VERSION}{zxid:x}"));
    set_data(ctx, record::CONFIG, Some(&text), None, &Credentials::TRUSTED)
}

pub(crate) fn set_acl(
    ctx: &mut Context<'_>,
    path: &str,
    acl: &Acl,
    version: Option<i32>,
    by: &Credentials,
) -> Applied<Reply> {
    let mut node = existing(ctx, path)?;
    expect_permission(path, &node, permission::ADMIN, by)?;
    expect_version(path, node.acl_version, version)?;
    let mut totals = record::totals(ctx.read())?;
    if count_if_built_in(ctx, path, &mut totals)? {
        put_totals(ctx, totals);
    }
    node.acl_version = next_version(node.acl_version);
    node.acl = acl.clone();
    put_node(ctx, path, &node);
    Ok(Reply::Changed { stat: node.stat() })
}

/// Counts `path` if it is built in and about to be stored for the first time.
fn count_if_built_in(ctx: &Context<'_>, path: &str, totals: &mut record::Totals) -> Applied<bool> {
    let is_new = record::built_in_children(path).is_some()
        && ctx.read().get(&record::node_key(path))?.is_none();
    totals.stored_count += u64::from(is_new);
    Ok(is_new)
}

pub(crate) fn check(
    ctx: &Context<'_>,
    path: &str,
    expected: &Expected,
    by: &Credentials,
) -> Applied<Reply> {
    let node = existing(ctx, path)?;
    expect_permission(path, &node, permission::READ, by)?;
    expect_version(path, node.data_version, expected.version)?;
    match &expected.stat {
        Some(stat) if !stat.is_met(&node.stat()) => {
            refuse(Refusal::StatDiffers { path: path.to_owned() })
        }
        _ => Ok(Reply::Checked),
    }
}

pub(crate) fn check_absent(
    ctx: &Context<'_>,
    path: &str,
    version: Option<i32>,
    by: &Credentials,
) -> Applied<Reply> {
    let Some(node) = record::node(ctx.read(), path)? else {
        paths::validate(path).map_err(Abort::Refused)?;
        return Ok(Reply::Checked);
    };
    expect_permission(path, &node, permission::READ, by)?;
    if version.is_none_or(|version| version == node.data_version) {
        return refuse(Refusal::NodeExists { path: path.to_owned() });
    }
    Ok(Reply::Checked)
}

fn length(data: Option<&Bytes>) -> i64 {
    data.map_or(0, |data| i64::try_from(data.len()).unwrap_or(i64::MAX))
}
