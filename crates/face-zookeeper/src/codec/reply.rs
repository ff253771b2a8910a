//! Replies and watch events.

use bytes::{BufMut, BytesMut};
use proteus_kernel_api::tree::Stat;

use super::Output;
use crate::errors::ErrorCode;

/// The xid of watch events.
const XID_EVENT: i32 = -1;

/// The zxid of an event whose change is not known: of a watch that was set again too late.
pub const NO_ZXID: i64 = -1;

/// What happened to what a watch watches, numbered as on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// The znode came to be.
    NodeCreated = 1,
    /// The znode is gone.
    NodeDeleted = 2,
    /// Its data was set.
    NodeDataChanged = 3,
    /// A child came or went.
    NodeChildrenChanged = 4,
}

/// The state of the session that a watch event tells: connected.
const STATE_SYNC_CONNECTED: i32 = 3;

/// Appends a frame: its length, what `body` writes.
fn frame(into: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = into.len();
    into.put_i32(0);
    body(into);
    let length = i32::try_from(into.len() - start - 4).unwrap_or(i32::MAX);
    if let Some(prefix) = into.get_mut(start..start + 4) {
        prefix.copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends a successful reply with what `body` writes.
pub fn ok(into: &mut BytesMut, xid: i32, zxid: i64, body: impl FnOnce(&mut BytesMut)) {
    frame(into, |into| {
        header(into, xid, zxid, ErrorCode::OK);
        body(into);
    });
}

/// Appends a reply that is an error.
pub fn error(into: &mut BytesMut, xid: i32, zxid: i64, code: ErrorCode) {
    frame(into, |into| header(into, xid, zxid, code));
}

/// Appends a watch event, with the zxid of the change that caused it, or [`NO_ZXID`].
pub fn event(into: &mut BytesMut, event: EventType, path: &str, zxid: i64) {
    frame(into, |into| {
        header(into, XID_EVENT, zxid, ErrorCode::OK);
        into.put_i32(event as i32);
        into.put_i32(STATE_SYNC_CONNECTED);
        into.string(path);
    });
}

fn header(into: &mut BytesMut, xid: i32, zxid: i64, code: ErrorCode) {
    into.put_i32(xid);
    into.put_i64(zxid);
    into.put_i32(code.0);
}

/// Writes a stat: 68 bytes.
pub fn stat(into: &mut BytesMut, stat: &Stat) {
    into.put_i64(stat.czxid.0);
    into.put_i64(stat.mzxid.0);
    into.put_i64(stat.ctime_ms);
    into.put_i64(stat.mtime_ms);
    into.put_i32(stat.version);
    into.put_i32(stat.cversion);
    into.put_i32(stat.aversion);
    into.put_i64(stat.ephemeral_owner);
    into.put_i32(stat.data_length);
    into.put_i32(stat.num_children);
    into.put_i64(stat.pzxid.0);
}

/// Writes a vector of strings.
pub fn strings(into: &mut BytesMut, strings: &[String]) {
    into.count(strings.len());
    for text in strings {
        into.string(text);
    }
}

/// Writes the header before one result of a `multi`.
pub fn multi_header(into: &mut BytesMut, request_type: i32, code: ErrorCode) {
    into.put_i32(request_type);
    into.boolean(false);
    into.put_i32(code.0);
}

/// Writes one result of a `multi` that failed.
pub fn multi_error(into: &mut BytesMut, code: ErrorCode) {
    multi_header(into, -1, code);
    into.put_i32(code.0);
}

/// Writes the end of a `multi`'s results.
pub fn multi_end(into: &mut BytesMut) {
    into.put_i32(-1);
    into.boolean(true);
    into.put_i32(-1);
}
