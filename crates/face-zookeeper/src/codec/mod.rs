//! ZooKeeper's wire format: bytes to requests, replies to bytes. No socket, no clock.
//!
//! ```text
//!   frame    int length, then that many bytes
//!   client   first frame: ConnectRequest; then { int xid, int type, body }
//!   server   first frame: ConnectResponse; then { int xid, long zxid, int err, body if err is 0 }
//! ```
//! Source: ZooKeeper 3.9, `zookeeper.jute`, `ZooDefs`, `ConnectRequest`, `MultiOperationRecord`.

pub mod connect;
mod decode;
mod encode;
pub mod jute;
pub mod kinds;
pub mod reply;
pub mod request;

use bytes::{Buf, Bytes, BytesMut};

pub use connect::{ConnectRequest, ConnectResponse};
pub use decode::Decoded;
pub(crate) use encode::encode_acl;
pub use jute::{Input, Malformed, Output};
pub use request::{
    CheckStat, ChildDetails, ChildFilter, CreateRequest, DeleteRequest, MultiOp, ReadKind,
    ReadRequest, ReconfigRequest, Request, RequestHeader, WatchSets, WatcherType,
};

/// ZooKeeper's default `jute.maxbuffer`: the longest frame a client may send, in bytes.
pub const FRAME_BYTES_MAX_DEFAULT: usize = 1024 * 1024 - 1;

/// Takes one frame's body from the front of what was received; `None` if it is not all there yet.
///
/// # Errors
/// If its length is negative or above `frame_bytes_max`; judged as soon as the length is there.
pub fn take_frame(
    received: &mut BytesMut,
    frame_bytes_max: usize,
) -> Result<Option<Bytes>, Malformed> {
    let Some(prefix) = received.first_chunk::<4>() else {
        return Ok(None);
    };
    let claimed = i32::from_be_bytes(*prefix);
    let length = match usize::try_from(claimed) {
        Ok(length) if length <= frame_bytes_max => length,
        _ => return Err(Malformed::Length { what: "frame", claimed, left: frame_bytes_max }),
    };
    if received.len() < 4 + length {
        return Ok(None);
    }
    received.advance(4);
    Ok(Some(received.split_to(length).freeze()))
}

#[cfg(test)]
mod tests;
