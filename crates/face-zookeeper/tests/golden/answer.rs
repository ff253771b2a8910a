//! Answers as text, without what differs from run to run: zxids, times, session ids.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::{Buf, Bytes};
use proteus_face_zookeeper::codec::{MultiOp, ReadKind, Request};

/// Length of a stat on the wire.
const STAT_BYTES: usize = 68;

/// Names for what has been seen, so that equal things have equal names in every run.
#[derive(Default)]
pub struct Names {
    zxids: BTreeMap<i64, usize>,
    /// Whose sessions are known.
    pub sessions: BTreeMap<i64, String>,
}

impl Names {
    /// The n-th different zxid that was told; later ones need not have larger numbers.
    fn zxid(&mut self, zxid: i64) -> String {
        if zxid == 0 {
            return "0".to_owned();
        }
        let next = self.zxids.len() + 1;
        format!("z{}", self.zxids.entry(zxid).or_insert(next))
    }

    fn owner(&self, owner: i64) -> String {
        match self.sessions.get(&owner) {
            Some(name) => name.clone(),
            None if owner == 0 => "nobody".to_owned(),
            None => "somebody".to_owned(),
        }
    }
}

/// An event, if `xid` says that it is one.
pub fn event(body: &mut Bytes) -> String {
    let (kind, state) = (body.get_i32(), body.get_i32());
    let kind = match kind {
        1 => "created",
        2 => "deleted",
        3 => "changed",
        4 => "children",
        _ => "unknown",
    };
    let path = string(body);
    match state {
        3 => format!("event {kind} {path}"),
        state => format!("event {kind} {path} in state {state}"),
    }
}

/// The body of a reply without error.
pub fn body(request: &Request, body: &mut Bytes, names: &mut Names) -> String {
    let mut text = "ok".to_owned();
    match request {
        Request::Create(create) => created(create.code, body, names, &mut text),
        Request::SetData { .. } | Request::SetAcl { .. } => stat(body, names, &mut text),
        Request::Read(read) => read_body(read.kind, body, names, &mut text),
        Request::GetAcl { .. } => {
            for _ in 0..body.get_i32() {
                let permissions = body.get_i32();
                let (scheme, id) = (string(body), string(body));
                put(&mut text, format_args!(" {permissions}:{scheme}:{id}"));
            }
            stat(body, names, &mut text);
        }
        Request::GetEphemerals { .. } => sorted(body, &mut text),
        Request::GetAllChildrenNumber { .. } => put(&mut text, format_args!(" {}", body.get_i32())),
        Request::WhoAmI => {
            let users = (0..body.get_i32()).map(|_| (string(body), string(body)));
            let mut users: Vec<_> = users.collect();
            users.sort();
            for (scheme, user) in users {
                put(&mut text, format_args!(" {scheme}:{user}"));
            }
        }
        Request::Sync { .. } => put(&mut text, format_args!(" {}", string(body))),
        Request::AddWatch { .. } => put(&mut text, format_args!(" {}", body.get_i32())),
        Request::Multi(ops) => {
            for op in ops {
                text.push_str(" |");
                let (code, _) = multi_header(body);
                put(&mut text, format_args!(" {code}"));
                match (code, op) {
                    (-1, _) => put(&mut text, format_args!(" {}", body.get_i32())),
                    (_, MultiOp::Create(_)) => created(code, body, names, &mut text),
                    (_, MultiOp::SetData { .. }) => stat(body, names, &mut text),
                    _ => {}
                }
            }
            multi_header(body);
        }
        Request::MultiRead(ops) => {
            for op in ops {
                text.push_str(" |");
                let (code, _) = multi_header(body);
                put(&mut text, format_args!(" {code}"));
                match (code, op) {
                    (-1, _) => put(&mut text, format_args!(" {}", body.get_i32())),
                    (_, read) => read_body(read.kind, body, names, &mut text),
                }
            }
            multi_header(body);
        }
        _ => {}
    }
    if body.has_remaining() {
        put(&mut text, format_args!(" and {} bytes", body.remaining()));
    }
    text
}

fn read_body(kind: ReadKind, body: &mut Bytes, names: &mut Names, text: &mut String) {
    match kind {
        ReadKind::Exists => {}
        ReadKind::Data => data(body, text),
        ReadKind::Children => return sorted(body, text),
        ReadKind::ChildrenAndStat | ReadKind::FilteredList(..) => sorted(body, text),
    }
    stat(body, names, text);
}

fn multi_header(body: &mut Bytes) -> (i32, i32) {
    let code = body.get_i32();
    body.get_u8();
    (code, body.get_i32())
}

fn created(code: i32, body: &mut Bytes, names: &mut Names, text: &mut String) {
    put(text, format_args!(" {}", string(body)));
    if code != 1 {
        stat(body, names, text);
    }
}

fn put(text: &mut String, part: std::fmt::Arguments<'_>) {
    text.write_fmt(part).expect("text");
}

fn string(body: &mut Bytes) -> String {
    let length = usize::try_from(body.get_i32()).expect("a string");
    String::from_utf8(body.split_to(length).to_vec()).expect("text")
}

fn data(body: &mut Bytes, text: &mut String) {
    match usize::try_from(body.get_i32()) {
        Err(_) => text.push_str(" null"),
        Ok(length) => {
            let data = body.split_to(length);
            put(text, format_args!(" \"{}\"", String::from_utf8_lossy(&data)));
        }
    }
}

fn sorted(body: &mut Bytes, text: &mut String) {
    let mut names: Vec<String> = (0..body.get_i32()).map(|_| string(body)).collect();
    names.sort();
    put(text, format_args!(" [{}]", names.join(" ")));
}

fn stat(body: &mut Bytes, names: &mut Names, text: &mut String) {
    if body.remaining() < STAT_BYTES {
        text.push_str(" (no stat)");
        return;
    }
    let (czxid, mzxid) = (body.get_i64(), body.get_i64());
    let (_ctime, _mtime) = (body.get_i64(), body.get_i64());
    let (version, cversion, aversion) = (body.get_i32(), body.get_i32(), body.get_i32());
    let (owner, length, children) = (body.get_i64(), body.get_i32(), body.get_i32());
    let pzxid = body.get_i64();
    let (czxid, mzxid, pzxid) = (names.zxid(czxid), names.zxid(mzxid), names.zxid(pzxid));
    let owner = names.owner(owner);
    put(
        text,
        format_args!(
            " (c={czxid} m={mzxid} p={pzxid} v={version} cv={cversion} av={aversion} {owner} \
             length={length} children={children})"
        ),
    );
}
