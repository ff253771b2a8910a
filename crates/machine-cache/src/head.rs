//! The head of a key: type, expiry, revision, and the value or where it is.
//!
//! ```text
//! version  type | flags << 4  revision[8]  expire_at_ms[8] if there is one  body
//! ```

use bytes::{Buf, Bytes};
use proteus_machine::key::take_u64;
use proteus_store::StoreError;
use proteus_types::CommitTs;
use serde::{Deserialize, Serialize};

const FORMAT_VERSION: u8 = 3;
const FLAG_EXPIRES: u8 = 1;
const FLAG_LARGE: u8 = 2;

/// Which change of a key this is: the commit timestamp of its last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision(pub CommitTs);

impl Revision {
    /// Of a key that is not there.
    pub const ABSENT: Revision = Revision(CommitTs::ZERO);
}

/// Type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Bytes.
    String,
    /// A sequence.
    List,
    /// Members without order.
    Set,
    /// Members by score.
    SortedSet,
    /// Fields and values.
    Hash,
    /// Entries by id.
    Stream,
}

impl Kind {
    /// As TYPE says it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::List => "list",
            Kind::Set => "set",
            Kind::SortedSet => "zset",
            Kind::Hash => "hash",
            Kind::Stream => "stream",
        }
    }

    fn from_number(number: u8) -> Option<Kind> {
        Some(match number {
            0 => Kind::String,
            1 => Kind::List,
            2 => Kind::Set,
            3 => Kind::SortedSet,
            4 => Kind::Hash,
            5 => Kind::Stream,
            _ => return None,
        })
    }
}

/// What the store holds for a key.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    /// The encoding that Redis would have left behind for good.
    pub(crate) is_large: bool,
    pub(crate) revision: Revision,
    pub(crate) expire_at_ms: Option<u64>,
    pub(crate) body: Bytes,
}

impl Head {
    pub(crate) fn encode(
        kind: Kind,
        is_large: bool,
        revision: CommitTs,
        expire_at_ms: Option<u64>,
        body: &[u8],
    ) -> Bytes {
        // As long as it will be: bytes that are handed over with room to spare are kept in two pieces.
        let length = 10 + if expire_at_ms.is_some() { 8 } else { 0 } + body.len();
        let mut bytes = Vec::with_capacity(length);
        let flags = if expire_at_ms.is_some() { FLAG_EXPIRES } else { 0 }
            | if is_large { FLAG_LARGE } else { 0 };
        bytes.extend_from_slice(&[FORMAT_VERSION, kind as u8 | flags << 4]);
        bytes.extend_from_slice(&revision.0.to_be_bytes());
        if let Some(at_ms) = expire_at_ms {
            bytes.extend_from_slice(&at_ms.to_be_bytes());
        }
        bytes.extend_from_slice(body);
        Bytes::from(bytes)
    }

    pub(crate) fn decode(place: &[u8], bytes: Bytes) -> Result<Head, StoreError> {
        Head::try_decode(bytes)
            .ok_or_else(|| StoreError::corrupt(place, "not a head of a version known here"))
    }

    fn try_decode(mut bytes: Bytes) -> Option<Head> {
        let (&[version, kind], rest) = bytes.split_first_chunk::<2>()?;
        if version != FORMAT_VERSION {
            return None;
        }
        let flags = kind >> 4;
        let (revision, mut rest) = take_u64(rest)?;
        let mut expire_at_ms = None;
        if flags & FLAG_EXPIRES != 0 {
            let (at_ms, after) = take_u64(rest)?;
            (expire_at_ms, rest) = (Some(at_ms), after);
        }
        let body_start = bytes.len() - rest.len();
        bytes.advance(body_start);
        Some(Head {
            kind: Kind::from_number(kind & 0x0F)?,
            is_large: flags & FLAG_LARGE != 0,
            revision: Revision(CommitTs(revision)),
            expire_at_ms,
            body: bytes,
        })
    }

    pub(crate) fn is_expired(&self, now_ms: u64) -> bool {
        self.expire_at_ms.is_some_and(|at_ms| at_ms <= now_ms)
    }
}
