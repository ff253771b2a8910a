//! Requests to bytes, as a client sends them.

use bytes::{BufMut, BytesMut};
use proteus_kernel_api::tree::AclEntry;

use super::reply;
use super::{CheckStat, CreateRequest, MultiOp, Output, ReadKind, ReadRequest, Request, WatchSets};

impl Request {
    /// Appends the whole frame.
    pub fn encode(&self, xid: i32, into: &mut BytesMut) {
        let mut body = BytesMut::new();
        body.put_i32(xid);
        body.put_i32(self.code());
        self.encode_body(&mut body);
        into.count(body.len());
        into.extend_from_slice(&body);
    }

    fn encode_body(&self, into: &mut BytesMut) {
        match self {
            Request::Create(create) => create.encode(into),
            Request::Delete(delete) => versioned(&delete.path, delete.version, into),
            Request::Check { path, version } | Request::CheckAbsent { path, version } => {
                versioned(path, *version, into);
            }
            Request::DeleteSubtree { path, count_max }
            | Request::ListRecursive { path, count_max } => {
                into.string(path);
                into.put_u32(*count_max);
            }
            Request::Read(read) => read.encode(into),
            Request::CheckStat(check) => check.encode(into),
            Request::SetData { path, data, version } => {
                into.string(path);
                into.buffer(data.as_deref());
                into.put_i32(*version);
            }
            Request::GetAcl { path }
            | Request::GetAllChildrenNumber { path }
            | Request::Sync { path }
            | Request::GetEphemerals { prefix: path } => into.string(path),
            Request::AddWatch { path, is_recursive } => {
                into.string(path);
                into.put_i32(i32::from(*is_recursive));
            }
            Request::CheckWatches { path, watcher_type }
            | Request::RemoveWatches { path, watcher_type } => {
                into.string(path);
                into.put_i32(*watcher_type as i32);
            }
            Request::SetAcl { path, acl, version } => {
                into.string(path);
                encode_acl(acl, into);
                into.put_i32(*version);
            }
            Request::Multi(ops) => encode_multi(ops, into),
            Request::MultiRead(ops) => encode_multi_read(ops, into),
            Request::Reconfig(reconfig) => {
                for servers in [&reconfig.joining, &reconfig.leaving, &reconfig.new_members] {
                    into.buffer(servers.as_ref().map(String::as_bytes));
                }
                into.put_i64(reconfig.config_id);
            }
            Request::Auth { scheme, secret } => {
                into.put_i32(0);
                into.string(scheme);
                into.buffer(Some(secret));
            }
            Request::Sasl { token } => into.buffer(Some(token)),
            Request::SetWatches(sets) => sets.encode(into),
            Request::Ping | Request::WhoAmI | Request::CloseSession => {}
        }
    }
}

fn versioned(path: &str, version: i32, into: &mut BytesMut) {
    into.string(path);
    into.put_i32(version);
}

impl CreateRequest {
    fn encode(&self, into: &mut BytesMut) {
        into.string(&self.path);
        into.buffer(self.data.as_deref());
        encode_acl(&self.acl, into);
        into.put_i32(self.flags);
        if let Some(ttl_ms) = self.ttl_ms {
            into.put_i64(ttl_ms);
        }
    }
}

/// Writes a list of who may do what.
pub(crate) fn encode_acl(acl: &[AclEntry], into: &mut BytesMut) {
    into.count(acl.len());
    for entry in acl {
        into.put_i32(entry.permissions);
        into.string(&entry.scheme);
        into.string(&entry.id);
    }
}

fn encode_multi(ops: &[MultiOp], into: &mut BytesMut) {
    for op in ops {
        op_header(op.code(), into);
        match op {
            MultiOp::Create(create) => create.encode(into),
            MultiOp::Delete(delete) => versioned(&delete.path, delete.version, into),
            MultiOp::Check { path, version } | MultiOp::CheckAbsent { path, version } => {
                versioned(path, *version, into);
            }
            MultiOp::CheckStat(check) => check.encode(into),
            MultiOp::DeleteSubtree { path, count_max } => {
                into.string(path);
                into.put_u32(*count_max);
            }
            MultiOp::SetData { path, data, version } => {
                into.string(path);
                into.buffer(data.as_deref());
                into.put_i32(*version);
            }
        }
    }
    reply::multi_end(into);
}

fn encode_multi_read(ops: &[ReadRequest], into: &mut BytesMut) {
    for op in ops {
        op_header(op.kind.code(), into);
        op.encode(into);
    }
    reply::multi_end(into);
}

impl ReadRequest {
    fn encode(&self, into: &mut BytesMut) {
        into.string(&self.path);
        into.boolean(self.watch);
        if let ReadKind::FilteredList(filter, details) = self.kind {
            into.put_u8(filter as u8);
            if let Some(details) = details {
                into.boolean(details.stat);
                into.boolean(details.data);
            }
        }
    }
}

impl CheckStat {
    fn encode(&self, into: &mut BytesMut) {
        versioned(&self.path, self.version, into);
        reply::stat(into, &self.stat);
    }
}

fn op_header(code: i32, into: &mut BytesMut) {
    into.put_i32(code);
    into.boolean(false);
    into.put_i32(-1);
}

impl WatchSets {
    fn encode(&self, into: &mut BytesMut) {
        into.put_i64(self.relative_zxid);
        for paths in [&self.data, &self.exist, &self.child] {
            reply::strings(into, paths);
        }
        if let Some((persistent, recursive)) = &self.persistent {
            reply::strings(into, persistent);
            reply::strings(into, recursive);
        }
    }
}
