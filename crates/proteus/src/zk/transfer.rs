//! Whole subtrees: walking, deleting, writing out, reading in, copying.

use std::io::{BufRead, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::{join_all, try_join};
use serde::{Deserialize, Serialize};
use zookeeper_client as zk;

use super::at;
use crate::cli::print;

/// Requests under way at once.
const PARALLEL_MAX: usize = 64;

/// How many znodes are done between two words about it.
const PROGRESS_EVERY: u64 = 1_000;

/// A znode as it is written out. ZooKeeper tells no client whether a znode is a container or has a time
/// to live, so it becomes a persistent one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Exported {
    path: String,
    /// Base64.
    data: String,
    /// Permission bits, scheme, id.
    acl: Vec<(u32, String, String)>,
}

/// Visits a znode and all below it, parents before children. Ephemerals have none.
pub(super) struct Walk {
    ahead: Vec<String>,
}

impl Walk {
    pub(super) fn from(path: &str) -> Walk {
        Walk { ahead: vec![path.to_owned()] }
    }

    /// The next path; `None` at the end. What vanishes meanwhile is passed over.
    pub(super) async fn next(&mut self, client: &zk::Client) -> Result<Option<String>, String> {
        let Some(path) = self.ahead.pop() else {
            return Ok(None);
        };
        let mut names = match client.list_children(&path).await {
            Ok(names) => names,
            Err(zk::Error::NoNode) => return Box::pin(self.next(client)).await,
            Err(error) => return Err(at(&path, &error)),
        };
        names.sort_unstable_by(|a, b| b.cmp(a));
        self.ahead.extend(names.iter().map(|name| join(&path, name)));
        Ok(Some(path))
    }

    /// As many paths as may be asked about at once.
    async fn next_some(&mut self, client: &zk::Client) -> Result<Vec<String>, String> {
        let mut some = Vec::new();
        while some.len() < PARALLEL_MAX {
            match self.next(client).await? {
                Some(path) => some.push(path),
                None => break,
            }
        }
        Ok(some)
    }
}

fn join(parent: &str, name: &str) -> String {
    match parent {
        "/" => format!("/{name}"),
        parent => format!("{parent}/{name}"),
    }
}

/// ZooKeeper's own znodes are everywhere, and belong to the ensemble.
fn is_own(path: &str) -> bool {
    path == "/" || path == "/zookeeper" || path.starts_with("/zookeeper/")
}

pub(super) async fn delete(client: &zk::Client, path: &str) -> Result<(), String> {
    let mut found = Vec::new();
    let mut walk = Walk::from(path);
    while let Some(path) = walk.next(client).await? {
        found.push(path);
    }
    if found.is_empty() {
        return Err(at(path, &zk::Error::NoNode));
    }
    for path in found.iter().rev().filter(|path| !is_own(path)) {
        match client.delete(path, None).await {
            Ok(()) | Err(zk::Error::NoNode) => {}
            Err(error) => return Err(at(path, &error)),
        }
    }
    Ok(())
}

/// What is to be known of a znode to make it again; `None` for ephemerals and what has vanished.
async fn read(client: &zk::Client, path: &str) -> Result<Option<Exported>, String> {
    let read = try_join(client.get_data(path), client.get_acl(path)).await;
    let ((data, stat), (acl, _)) = match read {
        Ok(read) => read,
        Err(zk::Error::NoNode) => return Ok(None),
        Err(error) => return Err(at(path, &error)),
    };
    if stat.ephemeral_owner != 0 {
        return Ok(None);
    }
    let acl = acl.iter().map(|acl| {
        let bits = [
            zk::Permission::READ,
            zk::Permission::WRITE,
            zk::Permission::CREATE,
            zk::Permission::DELETE,
            zk::Permission::ADMIN,
        ];
        let given = bits.iter().enumerate().filter(|(_, bit)| acl.permission().has(**bit));
        let bits = given.map(|(position, _)| 1 << position).sum();
        (bits, acl.scheme().to_owned(), acl.id().to_owned())
    });
    Ok(Some(Exported { path: path.to_owned(), data: STANDARD.encode(data), acl: acl.collect() }))
}

pub(super) async fn export(client: &zk::Client, path: &str) -> Result<(), String> {
    let (mut walk, mut progress) = (Walk::from(path), Progress::default());
    loop {
        let paths = walk.next_some(client).await?;
        if paths.is_empty() {
            return progress.end("exported");
        }
        let paths: Vec<String> = paths.into_iter().filter(|path| !is_own(path)).collect();
        for znode in join_all(paths.iter().map(|path| read(client, path))).await {
            match znode? {
                Some(znode) => {
                    let line = serde_json::to_string(&znode).map_err(|error| error.to_string())?;
                    print(&format!("{line}\n"))?;
                    progress.done();
                }
                None => progress.left_out += 1,
            }
        }
    }
}

pub(super) async fn import(client: &zk::Client, open: bool) -> Result<(), String> {
    let mut progress = Progress::default();
    let mut lines = std::io::stdin().lock().lines();
    loop {
        let mut znodes: Vec<Exported> = Vec::new();
        for line in lines.by_ref().take(PARALLEL_MAX) {
            let line = line.map_err(|error| format!("cannot read standard input: {error}"))?;
            let znode = serde_json::from_str(&line)
                .map_err(|error| format!("{line:?} was not written by export: {error}"))?;
            znodes.push(znode);
        }
        if znodes.is_empty() {
            return progress.end("imported");
        }
        write_all(client, znodes, open, &mut progress).await?;
    }
}

pub(super) async fn copy(
    source: &zk::Client,
    target: &zk::Client,
    path: &str,
    open: bool,
) -> Result<(), String> {
    super::create_parents(target, path).await?;
    let (mut walk, mut progress) = (Walk::from(path), Progress::default());
    loop {
        let paths = walk.next_some(source).await?;
        if paths.is_empty() {
            return progress.end("copied");
        }
        let paths: Vec<String> = paths.into_iter().filter(|path| !is_own(path)).collect();
        let mut znodes = Vec::with_capacity(paths.len());
        for znode in join_all(paths.iter().map(|path| read(source, path))).await {
            match znode? {
                Some(znode) => znodes.push(znode),
                None => progress.left_out += 1,
            }
        }
        write_all(target, znodes, open, &mut progress).await?;
    }
}

/// Writes znodes, those of one depth at once: a parent must be there before its children.
async fn write_all(
    client: &zk::Client,
    znodes: Vec<Exported>,
    open: bool,
    progress: &mut Progress,
) -> Result<(), String> {
    let depth = |znode: &Exported| znode.path.matches('/').count();
    let mut rest = znodes.as_slice();
    while let Some(first) = rest.first() {
        let count = rest.iter().take_while(|znode| depth(znode) == depth(first)).count();
        let (level, after) = rest.split_at(count);
        for written in join_all(level.iter().map(|znode| write(client, znode, open))).await {
            match written? {
                true => progress.done(),
                false => progress.unchanged += 1,
            }
        }
        rest = after;
    }
    Ok(())
}

/// Makes a znode what `znode` says; false if it was that already.
async fn write(client: &zk::Client, znode: &Exported, open: bool) -> Result<bool, String> {
    let path = &znode.path;
    let failed = |error: zk::Error| at(path, &error);
    let data = STANDARD.decode(&znode.data).map_err(|error| format!("{path}: {error}"))?;
    let acls: Vec<zk::Acl> = znode.acl.iter().map(acl).collect();
    let acls = if open { zk::Acls::anyone_all() } else { zk::Acls::new(&acls) };
    let options = zk::CreateMode::Persistent.with_acls(acls);
    match client.create(path, &data, &options).await {
        Ok(_) => return Ok(true),
        Err(zk::Error::NodeExists) => {}
        Err(error) => return Err(failed(error)),
    }
    let found = read(client, path).await?;
    let is_same = found
        .as_ref()
        .is_some_and(|found| found.data == znode.data && (open || found.acl == znode.acl));
    if is_same {
        return Ok(false);
    }
    client.set_data(path, &data, None).await.map_err(failed)?;
    if !open {
        let acls: Vec<zk::Acl> = znode.acl.iter().map(acl).collect();
        client.set_acl(path, &acls, None).await.map_err(failed)?;
    }
    Ok(true)
}

fn acl((bits, scheme, id): &(u32, String, String)) -> zk::Acl {
    let all = [
        zk::Permission::READ,
        zk::Permission::WRITE,
        zk::Permission::CREATE,
        zk::Permission::DELETE,
        zk::Permission::ADMIN,
    ];
    let given = all.iter().enumerate().filter(|(position, _)| bits & (1 << position) != 0);
    let permission = given.fold(zk::Permission::NONE, |all, (_, bit)| all | *bit);
    zk::Acl::new(permission, zk::AuthId::new(scheme, id))
}

/// What has been done, told on stderr now and then and at the end.
#[derive(Default)]
struct Progress {
    done: u64,
    unchanged: u64,
    left_out: u64,
}

impl Progress {
    fn done(&mut self) {
        self.done += 1;
        if self.done.is_multiple_of(PROGRESS_EVERY) {
            // Whether anybody reads stderr is not ours to know.
            let _ = writeln!(std::io::stderr(), "{} znodes", self.done);
        }
    }

    fn end(&self, verb: &str) -> Result<(), String> {
        let Progress { done, unchanged, left_out } = self;
        // As above.
        let _ = writeln!(
            std::io::stderr(),
            "{verb} {done} znodes; {unchanged} were the same already, {left_out} ephemerals were left out"
        );
        Ok(())
    }
}
