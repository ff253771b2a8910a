//! The PostgreSQL protocol's messages, version 3 (PostgreSQL documentation, chapter "Frontend/Backend
//! Protocol", "Message Formats").
//!
//! ```text
//!   startup:  length:i32 code:i32 body          length counts itself
//!   others:   type:u8 length:i32 body           length counts itself, not the type
//! ```
//! No socket here: [`decode_startup`] and [`decode`] take from a buffer what is complete, the
//! `put_*` functions append to one. Lengths are checked before anything waits for their bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Longest startup message, in bytes, as in PostgreSQL.
pub const STARTUP_BYTES_MAX: usize = 10_000;

/// Longest message before the client has authenticated, in bytes.
pub const PASSWORD_BYTES_MAX: usize = 64 * 1024;

/// Longest message, in bytes: the text of a large multi-row INSERT, or its parameters.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

const CODE_SSL: u32 = 80_877_103;
const CODE_GSS: u32 = 80_877_104;
const CODE_CANCEL: u32 = 80_877_102;

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

/// What a connection begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Startup {
    /// The client asks for TLS.
    Ssl,
    /// The client asks for GSSAPI encryption.
    Gss,
    /// The client asks to cancel the query of another connection.
    Cancel {
        /// The other session's number, as BackendKeyData told it.
        session: u32,
        /// The secret that was told with it.
        secret: u32,
    },
    /// The client begins a session.
    Session {
        /// Minor version of the protocol that it asks for; the major is 3.
        minor: u16,
        /// Its parameters, in order.
        parameters: Vec<(String, String)>,
    },
}

/// A message of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A password, or another authentication message.
    Password(Bytes),
    /// Simple query.
    Query(String),
    /// Prepares a statement.
    Parse {
        /// The statement's name; empty for the unnamed.
        name: String,
        /// Its text.
        query: String,
        /// Types of its first parameters; 0 where the server is to find out.
        parameter_oids: Vec<u32>,
    },
    /// Makes a portal of a statement and parameters.
    Bind {
        /// The portal's name.
        portal: String,
        /// The statement's name.
        statement: String,
        /// Formats of the parameters: none, one for all, or one each.
        parameter_formats: Vec<i16>,
        /// The parameters; `None` is null.
        parameters: Vec<Option<Bytes>>,
        /// Formats of the result's columns, likewise.
        result_formats: Vec<i16>,
    },
    /// Asks what a statement or portal returns.
    Describe(Named),
    /// Forgets a statement or portal.
    Close(Named),
    /// Runs a portal.
    Execute {
        /// The portal's name.
        portal: String,
        /// Most rows to return; 0 for all.
        rows_max: u32,
    },
    /// Asks for what is waiting to be sent.
    Flush,
    /// Ends a series of messages and its implicit transaction.
    Sync,
    /// The client leaves.
    Terminate,
    /// Data of a COPY, its end or its failure.
    Copy,
    /// The fast-path function call.
    FunctionCall,
}

/// A statement's or a portal's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// A prepared statement.
    Statement(String),
    /// A portal.
    Portal(String),
}

/// Names of all requests of the protocol, as in the support table.
pub const REQUESTS: [&str; 17] = [
    "SSLRequest",
    "GSSENCRequest",
    "CancelRequest",
    "StartupMessage",
    "PasswordMessage",
    "Query",
    "Parse",
    "Bind",
    "Describe",
    "Close",
    "Execute",
    "Flush",
    "Sync",
    "Terminate",
    "CopyData/CopyDone/CopyFail",
    "FunctionCall",
    "SASLInitialResponse/SASLResponse",
];

/// Takes a startup message from the front of `buffer`; `None` if it is not complete.
///
/// # Errors
/// If it is none.
pub fn decode_startup(buffer: &mut BytesMut) -> Result<Option<Startup>, Malformed> {
    let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*head) as usize;
    if !(8..=STARTUP_BYTES_MAX).contains(&length) {
        return Err(Malformed(format!(
            "a startup message of {length} bytes; is this client for PostgreSQL?"
        )));
    }
    if buffer.len() < length {
        return Ok(None);
    }
    let mut body = Body(buffer.split_to(length).freeze());
    body.0.advance(4);
    let code = body.u32()?;
    match code {
        CODE_SSL => Ok(Some(Startup::Ssl)),
        CODE_GSS => Ok(Some(Startup::Gss)),
        CODE_CANCEL => Ok(Some(Startup::Cancel { session: body.u32()?, secret: body.u32()? })),
        _ if code >> 16 == 3 => {
            let mut parameters = Vec::new();
            loop {
                let name = body.string()?;
                if name.is_empty() {
                    break;
                }
                parameters.push((name, body.string()?));
            }
            let minor = (code & 0xFFFF) as u16;
            Ok(Some(Startup::Session { minor, parameters }))
        }
        _ => Err(Malformed(format!("protocol version {}.{}", code >> 16, code & 0xFFFF))),
    }
}

/// Takes a message from the front of `buffer`; `None` if it is not complete.
///
/// # Errors
/// If it is none, or longer than `bytes_max`.
pub fn decode(buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<Request>, Malformed> {
    let Some([kind, length @ ..]) = buffer.first_chunk::<5>() else { return Ok(None) };
    let (kind, length) = (*kind, u32::from_be_bytes(*length) as usize);
    if !b"pQPBDCEHSXdcfF".contains(&kind) {
        return Err(Malformed(format!("unknown message type {:?}", char::from(kind))));
    }
    if !(4..=bytes_max).contains(&length) {
        return Err(Malformed(format!(
            "a message of {length} bytes, where {bytes_max} are accepted"
        )));
    }
    if buffer.len() <= length {
        return Ok(None);
    }
    let mut body = Body(buffer.split_to(length + 1).freeze());
    body.0.advance(5);
    let request = decode_body(kind, &mut body)?;
    if !body.0.is_empty() {
        return Err(Malformed(format!("{} bytes after a message's end", body.0.len())));
    }
    Ok(Some(request))
}

fn decode_body(kind: u8, body: &mut Body) -> Result<Request, Malformed> {
    Ok(match kind {
        b'p' => Request::Password(body.rest()),
        b'Q' => Request::Query(body.string()?),
        b'P' => Request::Parse {
            name: body.string()?,
            query: body.string()?,
            parameter_oids: body.list(4, Body::u32)?,
        },
        b'B' => Request::Bind {
            portal: body.string()?,
            statement: body.string()?,
            parameter_formats: body.list(2, Body::i16)?,
            parameters: body.list(4, Body::value)?,
            result_formats: body.list(2, Body::i16)?,
        },
        b'D' => Request::Describe(body.named()?),
        b'C' => Request::Close(body.named()?),
        b'E' => Request::Execute { portal: body.string()?, rows_max: body.u32()? },
        b'H' => Request::Flush,
        b'S' => Request::Sync,
        b'X' => Request::Terminate,
        b'F' => {
            body.rest();
            Request::FunctionCall
        }
        _ => {
            body.rest();
            Request::Copy
        }
    })
}

/// What is left of a message.
struct Body(Bytes);

impl Body {
    fn short() -> Malformed {
        Malformed("a message ends too early".to_owned())
    }

    fn take(&mut self, count: usize) -> Result<Bytes, Malformed> {
        if self.0.len() < count { Err(Body::short()) } else { Ok(self.0.split_to(count)) }
    }

    fn rest(&mut self) -> Bytes {
        self.0.split_to(self.0.len())
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.take(4).map(|mut bytes| bytes.get_u32())
    }

    fn i16(&mut self) -> Result<i16, Malformed> {
        self.take(2).map(|mut bytes| bytes.get_i16())
    }

    fn string(&mut self) -> Result<String, Malformed> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or_else(Body::short)?;
        let text = self.0.split_to(end);
        self.0.advance(1);
        String::from_utf8(text.to_vec()).map_err(|_| Malformed("text that is not UTF-8".to_owned()))
    }

    fn named(&mut self) -> Result<Named, Malformed> {
        let kind = self.take(1)?;
        let name = self.string()?;
        match kind.as_ref() {
            b"S" => Ok(Named::Statement(name)),
            b"P" => Ok(Named::Portal(name)),
            _ => Err(Malformed("neither statement nor portal".to_owned())),
        }
    }

    fn value(&mut self) -> Result<Option<Bytes>, Malformed> {
        match self.u32()? {
            u32::MAX => Ok(None),
            length => self.take(length as usize).map(Some),
        }
    }

    /// A list that begins with its count in 16 bits, of parts of at least `bytes_min`.
    fn list<T>(
        &mut self,
        bytes_min: usize,
        part: fn(&mut Body) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = usize::from(self.i16()?.cast_unsigned());
        if count * bytes_min > self.0.len() {
            return Err(Body::short());
        }
        (0..count).map(|_| part(self)).collect()
    }
}

/// Appends a message: its type, and what `body` appends, with the length between.
pub fn put_message(into: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    into.put_u8(kind);
    let start = into.len();
    into.put_u32(0);
    body(into);
    let length = u32::try_from(into.len() - start).unwrap_or(u32::MAX);
    if let Some(place) = into.get_mut(start..start + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends a string and its final zero.
pub fn put_string(into: &mut BytesMut, text: &str) {
    // A zero within would end the string early and shift all that follows.
    into.extend(text.bytes().filter(|byte| *byte != 0));
    into.put_u8(0);
}

#[cfg(test)]
mod tests {
    use proteus_testkit::fuzz;

    use super::*;

    fn message(kind: u8, body: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::new();
        put_message(&mut bytes, kind, |into| into.put_slice(body));
        bytes
    }

    fn bind() -> BytesMut {
        message(b'B', b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x01x\xFF\xFF\xFF\xFF\0\0")
    }

    #[test]
    fn messages_are_taken_when_complete() {
        let whole = bind();
        for cut in 0..whole.len() {
            let mut part = BytesMut::from(&whole[..cut]);
            assert_eq!(decode(&mut part, MESSAGE_BYTES_MAX), Ok(None));
            assert_eq!(part.len(), cut);
        }
        let mut two = whole.clone();
        two.extend_from_slice(&message(b'S', b""));
        let expected = Request::Bind {
            portal: "p".to_owned(),
            statement: "s".to_owned(),
            parameter_formats: vec![1],
            parameters: vec![Some(Bytes::from_static(b"x")), None],
            result_formats: vec![],
        };
        assert_eq!(decode(&mut two, MESSAGE_BYTES_MAX), Ok(Some(expected)));
        assert_eq!(decode(&mut two, MESSAGE_BYTES_MAX), Ok(Some(Request::Sync)));
        assert!(two.is_empty());
    }

    #[test]
    fn lengths_are_refused_before_their_bytes_come() {
        assert!(decode(&mut BytesMut::from(&b"Q\xFF\xFF\xFF\xFF"[..]), MESSAGE_BYTES_MAX).is_err());
        assert!(decode(&mut BytesMut::from(&b"Q\0\0\0\x03"[..]), MESSAGE_BYTES_MAX).is_err());
        assert!(decode_startup(&mut BytesMut::from(&b"GET / HTTP/1.1\r\n"[..])).is_err());
    }

    #[test]
    fn decoders_survive_anything() {
        let corpus = vec![
            bind().to_vec(),
            message(b'P', b"s\0SELECT $1\0\0\x01\0\0\0\x17").to_vec(),
            message(b'Q', b"SELECT 1\0").to_vec(),
            message(b'D', b"Ss\0").to_vec(),
            message(b'E', b"\0\0\0\0\0").to_vec(),
            b"\0\0\0\x10\0\x03\0\0user\0x\0\0".to_vec(),
        ];
        fuzz::run("postgres_request", &corpus, |input| {
            let mut buffer = BytesMut::from(input);
            while let Ok(Some(_)) = decode(&mut buffer, MESSAGE_BYTES_MAX) {}
        });
        fuzz::run("postgres_startup", &corpus, |input| {
            let mut buffer = BytesMut::from(input);
            while let Ok(Some(_)) = decode_startup(&mut buffer) {}
        });
    }
}
