//! Runs a script.
//!
//! ```text
//!   # a comment
//!   ann connect 6000             opens a connection with a session
//!   ann create /a data 0 open    a request, in words
//!   = ok /a                      what was answered; recorded
//! ```
//! A line `~ …` after an answer is what ZooKeeper 3.8 answers instead; why is said in the face's
//! documentation. Before a reply stand the events that arrived before it. Words cannot hold spaces; `-` is null data,
//! `""` is empty data. An ACL is `open` or entries `31:scheme:id`, separated by commas.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::{Buf, Bytes, BytesMut};
use proteus_face_zookeeper::codec::{
    ConnectRequest, CreateRequest, DeleteRequest, MultiOp, ReadKind, ReadRequest, ReconfigRequest,
    Request, WatchSets, WatcherType,
};
use proteus_kernel_api::tree::AclEntry;

use tokio::io::AsyncWriteExt;

use crate::answer::{self, Names};
use crate::served::{Raw, fresh};

struct Client {
    raw: Raw,
    session_id: i64,
    password: Bytes,
    last_zxid: i64,
}

/// Runs `script` against the server at `address`: the script again, with its answers.
pub async fn run(script: &str, address: SocketAddr) -> String {
    let (mut clients, mut names) = (BTreeMap::new(), Names::default());
    let mut told = String::new();
    for line in script.lines().filter(|line| !line.starts_with("= ")) {
        told.push_str(line);
        told.push('\n');
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first().is_none_or(|word| word.starts_with(['#', '~'])) {
            continue;
        }
        for answer in carry_out(&words, address, &mut clients, &mut names).await {
            told.push_str(&format!("= {answer}\n"));
        }
    }
    told
}

async fn carry_out(
    words: &[&str],
    address: SocketAddr,
    clients: &mut BTreeMap<String, Client>,
    names: &mut Names,
) -> Vec<String> {
    let (name, command) = (words[0], words[1]);
    match (command, &words[2..]) {
        ("connect", [timeout_ms]) => {
            let request = fresh(timeout_ms.parse().expect("a timeout"));
            connect(name, &request, address, clients, names).await
        }
        // The session of another connection, with its password or another one.
        ("resume", [other, password]) => {
            let other = &clients[*other];
            let request = ConnectRequest {
                session_id: other.session_id,
                password: match *password {
                    "right" => other.password.clone(),
                    _ => Bytes::from_static(&[7; 16]),
                },
                last_zxid_seen: other.last_zxid,
                ..fresh(6_000)
            };
            connect(name, &request, address, clients, names).await
        }
        // The connection breaks; its session lives on.
        ("drop", []) => {
            let client = clients.get_mut(name).expect("a client");
            client.raw.stop().await;
            Vec::new()
        }
        ("ended", []) => {
            let client = clients.get_mut(name).expect("a client");
            vec![if client.raw.frame().await.is_none() { "yes" } else { "no" }.to_owned()]
        }
        // Waits for so many events.
        ("events", [count]) => {
            let client = clients.get_mut(name).expect("a client");
            let mut told = Vec::new();
            for _ in 0..count.parse().expect("a count") {
                let Some(mut frame) = client.raw.frame().await else {
                    told.push("closed".to_owned());
                    break;
                };
                let (xid, _zxid, _error) = (frame.get_i32(), frame.get_i64(), frame.get_i32());
                assert_eq!(xid, -1, "not an event");
                told.push(answer::event(&mut frame));
            }
            told
        }
        _ => ask(clients.get_mut(name).expect("a client"), &words[1..], names).await,
    }
}

async fn connect(
    name: &str,
    request: &ConnectRequest,
    address: SocketAddr,
    clients: &mut BTreeMap<String, Client>,
    names: &mut Names,
) -> Vec<String> {
    let (raw, greeted) = Raw::connect(address, request).await;
    let answer = match greeted.session_id {
        0 => format!("expired, timeout {}", greeted.timeout_ms),
        id => {
            let owner = names.sessions.entry(id).or_insert_with(|| name.to_owned());
            format!("session of {owner}, timeout {}", greeted.timeout_ms)
        }
    };
    let (session_id, password) = (greeted.session_id, greeted.password);
    let last_zxid = request.last_zxid_seen;
    clients.insert(name.to_owned(), Client { raw, session_id, password, last_zxid });
    vec![answer]
}

async fn ask(client: &mut Client, words: &[&str], names: &mut Names) -> Vec<String> {
    let request = parse(words);
    let (mut bytes, mut told) = (BytesMut::new(), Vec::new());
    request.encode(1, &mut bytes);
    // An end shows when the answer is read.
    let _ = client.raw.stream.write_all(&bytes).await;
    loop {
        let Some(mut frame) = client.raw.frame().await else {
            told.push("closed".to_owned());
            return told;
        };
        let (xid, zxid, error) = (frame.get_i32(), frame.get_i64(), frame.get_i32());
        client.last_zxid = client.last_zxid.max(zxid);
        if xid == -1 {
            told.push(answer::event(&mut frame));
            continue;
        }
        told.push(match error {
            0 => answer::body(&request, &mut frame, names),
            error => format!("error {error}"),
        });
        return told;
    }
}

fn parse(words: &[&str]) -> Request {
    let path = || words[1].to_owned();
    let version = |at: usize| words.get(at).map_or(-1, |word| word.parse().expect("a version"));
    let watch = words.get(2) == Some(&"watch");
    match words[0] {
        "create" | "create2" | "container" | "ttl" => Request::Create(create(words)),
        "delete" => {
            Request::Delete(DeleteRequest { path: path(), version: version(2), is_tolerant: false })
        }
        "set" => Request::SetData { path: path(), data: data(words[2]), version: version(3) },
        "get" => Request::read(ReadKind::Data, words[1], watch),
        "exists" => Request::read(ReadKind::Exists, words[1], watch),
        "ls" => Request::read(ReadKind::Children, words[1], watch),
        "ls2" => Request::read(ReadKind::ChildrenAndStat, words[1], watch),
        "getacl" => Request::GetAcl { path: path() },
        "setacl" => Request::SetAcl { path: path(), acl: acl(words[2]), version: version(3) },
        "check" => Request::Check { path: path(), version: version(2) },
        "sync" => Request::Sync { path: path() },
        "count" => Request::GetAllChildrenNumber { path: path() },
        "whoami" => Request::WhoAmI,
        "ephemerals" => {
            Request::GetEphemerals { prefix: words.get(1).copied().unwrap_or("").into() }
        }
        "auth" => {
            Request::Auth { scheme: path(), secret: Bytes::copy_from_slice(words[2].as_bytes()) }
        }
        "reconfig" => Request::Reconfig(ReconfigRequest { config_id: -1, ..Default::default() }),
        "addwatch" => Request::AddWatch { path: path(), is_recursive: words[2] == "recursive" },
        "checkwatches" => {
            Request::CheckWatches { path: path(), watcher_type: watcher_type(words[2]) }
        }
        "removewatches" => {
            Request::RemoveWatches { path: path(), watcher_type: watcher_type(words[2]) }
        }
        "setwatches" => Request::SetWatches(watch_sets(&words[1..])),
        "ping" => Request::Ping,
        "close" => Request::CloseSession,
        "multi" => Request::Multi(words[1..].split(|word| *word == ";").map(multi_op).collect()),
        "multiread" => {
            Request::MultiRead(words[1..].split(|word| *word == ";").map(read_op).collect())
        }
        other => panic!("no request is called {other}"),
    }
}

fn create(words: &[&str]) -> CreateRequest {
    let code = match words[0] {
        "create" => 1,
        "create2" => 15,
        "container" => 19,
        _ => 21,
    };
    CreateRequest {
        code,
        path: words[1].to_owned(),
        data: data(words[2]),
        flags: words[3].parse().expect("flags"),
        acl: acl(words.get(4).copied().unwrap_or("open")),
        ttl_ms: words.get(5).filter(|_| code == 21).map(|word| word.parse().expect("a time")),
    }
}

fn multi_op(words: &[&str]) -> MultiOp {
    match parse(words) {
        Request::Create(create) => MultiOp::Create(create),
        Request::Delete(delete) => MultiOp::Delete(delete),
        Request::SetData { path, data, version } => MultiOp::SetData { path, data, version },
        Request::Check { path, version } => MultiOp::Check { path, version },
        _ => panic!("{words:?} is no part of a multi"),
    }
}

fn read_op(words: &[&str]) -> ReadRequest {
    let kind = if words[0] == "get" { ReadKind::Data } else { ReadKind::Children };
    ReadRequest { kind, path: words[1].to_owned(), watch: false }
}

fn watcher_type(word: &str) -> WatcherType {
    match word {
        "children" => WatcherType::Children,
        "data" => WatcherType::Data,
        "persistent" => WatcherType::Persistent,
        "recursive" => WatcherType::PersistentRecursive,
        _ => WatcherType::Any,
    }
}

/// `data=/a,/b child=/c`, all of a client that has seen nothing since the beginning or, with `seen`,
/// everything.
fn watch_sets(words: &[&str]) -> WatchSets {
    let mut sets = WatchSets::default();
    for word in words {
        let (kind, paths) = word.split_once('=').expect("a kind and paths");
        let paths: Vec<String> = paths.split(',').map(str::to_owned).collect();
        match kind {
            "seen" => sets.relative_zxid = if paths[0] == "all" { i64::MAX } else { 0 },
            "data" => sets.data = paths,
            "exist" => sets.exist = paths,
            "child" => sets.child = paths,
            "persistent" => sets.persistent.get_or_insert_default().0 = paths,
            _ => sets.persistent.get_or_insert_default().1 = paths,
        }
    }
    sets
}

fn data(word: &str) -> Option<Bytes> {
    match word {
        "-" => None,
        "\"\"" => Some(Bytes::new()),
        text => Some(Bytes::copy_from_slice(text.as_bytes())),
    }
}

fn acl(word: &str) -> Vec<AclEntry> {
    match word {
        "open" => vec![AclEntry::open()],
        "none" => Vec::new(),
        entries => entries
            .split(',')
            .map(|entry| {
                let mut parts = entry.splitn(3, ':');
                AclEntry {
                    permissions: parts.next().expect("bits").parse().expect("bits"),
                    scheme: parts.next().expect("a scheme").to_owned(),
                    id: parts.next().expect("an id").to_owned(),
                }
            })
            .collect(),
    }
}
