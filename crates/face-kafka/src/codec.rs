//! Bytes to requests and responses to bytes. No socket, no clock.
//!
//! ```text
//! length i32 │ api_key i16 │ api_version i16 │ correlation_id i32 │ client_id │ [tags] │ body
//! ```
//!
//! Message bodies are the `kafka-protocol` crate's business. It allocates what an array's length
//! says before it has seen an element, so every request is first walked along its [`Shape`]: lengths
//! and counts must be covered by bytes that are there. Only then it is decoded.

mod table;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader, RequestKind, ResponseHeader, ResponseKind};
use kafka_protocol::protocol::{Decodable, Encodable};

use crate::api;

/// Longest request, as Kafka's `socket.request.max.bytes`.
pub(crate) const FRAME_BYTES_MAX: usize = 100 * 1024 * 1024;
/// Longest request of a client that has not authenticated yet.
pub(crate) const STRANGERS_FRAME_BYTES_MAX: usize = 64 * 1024;
/// Most array elements and tagged fields in one request: they take far more memory decoded than
/// encoded. A fetch of every partition of a large cluster has some ten thousand.
const ELEMENTS_MAX: usize = 1 << 20;
/// Bytes of the length before a frame.
const LENGTH_BYTES: usize = 4;

/// Why bytes are not a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    /// The length before the frame is impossible or beyond the limit.
    #[error("a request of {said} bytes; 1 to {bytes_max} are accepted")]
    FrameLength {
        /// The length.
        said: i64,
        /// The limit.
        bytes_max: usize,
    },
    /// Kafka has no such request, or this face does not serve it.
    #[error("request with API key {0}, which is not served")]
    ApiKey(i16),
    /// The request is served, but not in this version.
    #[error("{api_key:?} version {version}, which is not served")]
    Version {
        /// Which request.
        api_key: ApiKey,
        /// The version asked for.
        version: i16,
        /// To be echoed in the answer.
        correlation_id: i32,
    },
    /// The bytes are not what the request's fields need.
    #[error("malformed {0}")]
    Malformed(String),
}

/// A decoded request.
#[derive(Debug)]
pub(crate) struct Request {
    pub api_key: ApiKey,
    pub version: i16,
    pub correlation_id: i32,
    pub client_id: String,
    pub body: RequestKind,
}

/// Takes one frame of at most `bytes_max` from the front of `buffer`; `None` if it is not complete
/// yet. The length is checked as soon as it is there; space is taken only as bytes arrive.
pub(crate) fn take_frame(
    buffer: &mut BytesMut,
    bytes_max: usize,
) -> Result<Option<Bytes>, CodecError> {
    let Some(length) = buffer.first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let said = i32::from_be_bytes(*length);
    let length = usize::try_from(said)
        .ok()
        .filter(|length| (1..=bytes_max).contains(length))
        .ok_or(CodecError::FrameLength { said: i64::from(said), bytes_max })?;
    if buffer.len() < LENGTH_BYTES + length {
        return Ok(None);
    }
    let _length = buffer.split_to(LENGTH_BYTES);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Bytes that the frame at the front of `buffer` lacks; 0 if its length is not there yet or no length.
pub(crate) fn missing_bytes(buffer: &BytesMut) -> usize {
    let length = buffer.first_chunk::<LENGTH_BYTES>().map(|length| i32::from_be_bytes(*length));
    let length = length.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    length.saturating_add(LENGTH_BYTES).saturating_sub(buffer.len())
}

/// Decodes a frame without its length.
pub(crate) fn decode_request(frame: Bytes) -> Result<Request, CodecError> {
    let malformed = |what: &str| CodecError::Malformed(what.to_owned());
    let head = frame.first_chunk::<8>().ok_or_else(|| malformed("request header"))?;
    let api_code = i16::from_be_bytes([head[0], head[1]]);
    let version = i16::from_be_bytes([head[2], head[3]]);
    let correlation_id = i32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    let api_key = ApiKey::try_from(api_code).map_err(|()| CodecError::ApiKey(api_code))?;
    let (Some(served), Some(shape)) = (api::served(api_key), table::shape_of(api_key)) else {
        return Err(CodecError::ApiKey(api_code));
    };
    if !served.decodes(version) {
        return Err(CodecError::Version { api_key, version, correlation_id });
    }
    let is_flexible = version >= shape.flexible_since;
    let mut walk = Walk { rest: &frame[8..], version, is_flexible, elements_left: ELEMENTS_MAX };
    // The client id of the header is never compact; header and body have the same tags.
    walk.header().ok_or_else(|| malformed("request header"))?;
    walk.fields(shape.fields)
        .ok_or_else(|| CodecError::Malformed(format!("{api_key:?} request")))?;
    let mut rest = frame;
    let header = RequestHeader::decode(&mut rest, api_key.request_header_version(version))
        .map_err(|error| CodecError::Malformed(error.to_string()))?;
    let body = RequestKind::decode(api_key, &mut rest, version)
        .map_err(|error| CodecError::Malformed(error.to_string()))?;
    let client_id = header.client_id.map(|id| id.to_string()).unwrap_or_default();
    Ok(Request { api_key, version, correlation_id, client_id, body })
}

/// Encodes a response as a frame with its length.
pub(crate) fn encode_response(
    api_key: ApiKey,
    version: i16,
    correlation_id: i32,
    body: &ResponseKind,
) -> Result<Bytes, CodecError> {
    let failed = |error: &dyn std::fmt::Display| CodecError::Malformed(error.to_string());
    // Records are nearly all of a long response; the rest finds room behind them or makes it.
    let mut bytes = BytesMut::with_capacity(256 + record_bytes(body));
    bytes.put_i32(0);
    let header = ResponseHeader::default().with_correlation_id(correlation_id);
    header
        .encode(&mut bytes, api_key.response_header_version(version))
        .map_err(|error| failed(&error))?;
    body.encode(&mut bytes, version).map_err(|error| failed(&error))?;
    let length = i32::try_from(bytes.len() - LENGTH_BYTES)
        .map_err(|_| CodecError::Malformed("a response longer than 2 GiB".to_owned()))?;
    bytes[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    Ok(bytes.freeze())
}

fn record_bytes(body: &ResponseKind) -> usize {
    let ResponseKind::Fetch(response) = body else { return 0 };
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|data| 64 + data.records.as_ref().map_or(0, Bytes::len)).sum()
}

/// What a request looks like.
pub(crate) struct Shape {
    /// From this version on lengths are compact and structures end with tagged fields.
    flexible_since: i16,
    fields: &'static [Field],
}

/// One field: in which versions, and what.
struct Field {
    since: i16,
    upto: i16,
    /// Its tag, if it stands among the tagged fields.
    tag: Option<u32>,
    kind: Kind,
}

enum Kind {
    /// So many bytes.
    Fixed(usize),
    /// A string or null: length of 16 bits, or compact.
    Text,
    /// Bytes or null: length of 32 bits, or compact.
    Blob,
    /// A count, and plain values.
    List(&'static Kind),
    /// A count, and structures.
    Array(&'static [Field]),
    /// A structure.
    Struct(&'static [Field]),
    /// A byte that says whether there is one (1) or null (-1), and a structure.
    Nullable(&'static [Field]),
}

const fn always(kind: Kind) -> Field {
    Field { since: 0, upto: i16::MAX, tag: None, kind }
}

const fn since(since: i16, kind: Kind) -> Field {
    Field { since, upto: i16::MAX, tag: None, kind }
}

const fn within(since: i16, upto: i16, kind: Kind) -> Field {
    Field { since, upto, tag: None, kind }
}

const fn tagged(tag: u32, since: i16, kind: Kind) -> Field {
    Field { since, upto: i16::MAX, tag: Some(tag), kind }
}

/// Follows a request's fields without keeping anything. `None` means malformed. Recursion is as deep
/// as the tables are.
struct Walk<'a> {
    rest: &'a [u8],
    version: i16,
    is_flexible: bool,
    elements_left: usize,
}

impl Walk<'_> {
    /// The client id and tags of the header.
    fn header(&mut self) -> Option<()> {
        let is_flexible = std::mem::replace(&mut self.is_flexible, false);
        self.kind(&Kind::Text)?;
        self.is_flexible = is_flexible;
        if is_flexible { self.tags(&[]) } else { Some(()) }
    }

    fn fields(&mut self, fields: &[Field]) -> Option<()> {
        for field in fields {
            let is_present = (field.since..=field.upto).contains(&self.version);
            if is_present && field.tag.is_none() {
                self.kind(&field.kind)?;
            }
        }
        if self.is_flexible { self.tags(fields) } else { Some(()) }
    }

    fn kind(&mut self, kind: &Kind) -> Option<()> {
        match kind {
            Kind::Fixed(bytes) => self.skip(*bytes),
            Kind::Text if self.is_flexible => self.compact_bytes(),
            Kind::Blob if self.is_flexible => self.compact_bytes(),
            Kind::Text => match i16::from_be_bytes(self.take()?) {
                -1 => Some(()),
                length => self.skip(usize::try_from(length).ok()?),
            },
            Kind::Blob => match i32::from_be_bytes(self.take()?) {
                -1 => Some(()),
                length => self.skip(usize::try_from(length).ok()?),
            },
            Kind::List(kind) => (0..self.count()?).try_for_each(|_| self.kind(kind)),
            Kind::Array(fields) => (0..self.count()?).try_for_each(|_| self.fields(fields)),
            Kind::Struct(fields) => self.fields(fields),
            Kind::Nullable(fields) => match i8::from_be_bytes(self.take()?) {
                1 => self.fields(fields),
                -1 => Some(()),
                _ => None,
            },
        }
    }

    /// Known tags are decoded by what they are, not by the length before them; both must agree, or
    /// the decoder would run out of step with this walk.
    fn tags(&mut self, fields: &[Field]) -> Option<()> {
        for _ in 0..self.varint()? {
            self.elements_left = self.elements_left.checked_sub(1)?;
            let tag = self.varint()?;
            let length = usize::try_from(self.varint()?).ok()?;
            let known = fields.iter().find(|field| field.tag == Some(tag));
            match known {
                Some(field) => {
                    let before = self.rest.len();
                    self.kind(&field.kind)?;
                    (before - self.rest.len() == length).then_some(())?;
                }
                None => self.skip(length)?,
            }
        }
        Some(())
    }

    /// A number of elements, each of which takes one byte at least.
    fn count(&mut self) -> Option<usize> {
        let count = if self.is_flexible {
            usize::try_from(self.varint()?).ok()?.saturating_sub(1)
        } else {
            match i32::from_be_bytes(self.take()?) {
                -1 => 0,
                count => usize::try_from(count).ok()?,
            }
        };
        self.elements_left = self.elements_left.checked_sub(count)?;
        (count <= self.rest.len()).then_some(count)
    }

    /// The length is one more than the bytes; 0 is null.
    fn compact_bytes(&mut self) -> Option<()> {
        let length = usize::try_from(self.varint()?).ok()?.saturating_sub(1);
        self.skip(length)
    }

    fn varint(&mut self) -> Option<u32> {
        let mut value = 0u32;
        for place in 0..5 {
            let [byte] = self.take::<1>()?;
            value |= u32::from(byte & 0x7F) << (7 * place);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.rest = self.rest.get(bytes..)?;
        Some(())
    }
}

#[cfg(test)]
mod tests;
