//! The handshake.
//!
//! ```text
//!   ConnectRequest   int protocolVersion, long lastZxidSeen, int timeOut, long sessionId,
//!                    buffer passwd, [boolean readOnly]                       44 or 45 bytes
//!   ConnectResponse  int protocolVersion, int timeOut, long sessionId,
//!                    buffer passwd, [boolean readOnly]                       36 or 37 bytes
//! ```
//! Clients before 3.4 leave out `readOnly`; they are answered in kind.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Input, Malformed, Output};

/// What a client opens a connection with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectRequest {
    /// 0 in all versions there are.
    pub protocol_version: i32,
    /// The newest zxid the client has seen; 0 for none.
    pub last_zxid_seen: i64,
    /// The session timeout it asks for, in milliseconds.
    pub timeout_ms: i32,
    /// The session it resumes; 0 for a new one.
    pub session_id: i64,
    /// Its password.
    pub password: Bytes,
    /// Whether a read-only server will do; `None` if the client does not know of such.
    pub read_only: Option<bool>,
}

impl ConnectRequest {
    /// Reads the body of a connection's first frame.
    ///
    /// # Errors
    /// If it is not a handshake.
    pub fn decode(frame: Bytes) -> Result<ConnectRequest, Malformed> {
        let mut input = Input::new(frame);
        let protocol_version = input.int("protocolVersion")?;
        let last_zxid_seen = input.long("lastZxidSeen")?;
        let timeout_ms = input.int("timeOut")?;
        let session_id = input.long("sessionId")?;
        let password = input.buffer("passwd")?.unwrap_or_default();
        let read_only =
            if input.remaining() == 0 { None } else { Some(input.boolean("readOnly")?) };
        Ok(ConnectRequest {
            protocol_version,
            last_zxid_seen,
            timeout_ms,
            session_id,
            password,
            read_only,
        })
    }

    /// Appends the whole frame.
    pub fn encode(&self, into: &mut BytesMut) {
        let length = 28 + self.password.len() + usize::from(self.read_only.is_some());
        into.count(length);
        into.put_i32(self.protocol_version);
        into.put_i64(self.last_zxid_seen);
        into.put_i32(self.timeout_ms);
        into.put_i64(self.session_id);
        into.buffer(Some(&self.password));
        if let Some(read_only) = self.read_only {
            into.boolean(read_only);
        }
    }
}

/// What the server answers: the session, or zeros if there is none to resume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectResponse {
    /// The timeout granted, in milliseconds; 0 if the session has expired.
    pub timeout_ms: i32,
    /// The session; 0 if it has expired.
    pub session_id: i64,
    /// Its password.
    pub password: [u8; 16],
    /// Whether the server serves readers only; `None` to a client that does not know of such.
    pub read_only: Option<bool>,
}

impl ConnectResponse {
    /// To a client whose session has ended, or who cannot prove that it is its own.
    pub fn expired(read_only: Option<bool>) -> ConnectResponse {
        ConnectResponse { timeout_ms: 0, session_id: 0, password: [0; 16], read_only }
    }

    /// Appends the whole frame.
    pub fn encode(&self, into: &mut BytesMut) {
        into.put_i32(if self.read_only.is_some() { 37 } else { 36 });
        into.put_i32(0);
        into.put_i32(self.timeout_ms);
        into.put_i64(self.session_id);
        into.buffer(Some(&self.password));
        if let Some(read_only) = self.read_only {
            into.boolean(read_only);
        }
    }
}
