//! Bytes of a segment.
//!
//! ```text
//! segment   ┌──────────────┬─────────┬────────────┬────────┬────────┬─ ─ ─┐
//!           │ "PROTEUSL" 8 │ ver u32 │ crc32c u32 │ record │ record │ 0 0 0│
//!           └──────────────┴─────────┴────────────┴────────┴────────┴─ ─ ─┘
//! record    ┌────────────────┬───────────┬─────────┬───────────────┐
//!           │ body bytes u32 │ crc32c u32│ kind u8 │ by kind …     │   little-endian
//!           └────────────────┴───────────┴─────────┴───────────────┘
//! ```
//! A segment's checksum covers what stands before it; every version has the three fields, so that one which is
//! not known is told from damage. A record's checksum covers the length and the body. A length of zero ends the segment: what follows was
//! reserved and not written.

use bytes::Bytes;
use proteus_types::{EntryId, LogIndex, ShardId, Term};

use crate::{ENTRY_BYTES_MAX, MetaKey};

pub(crate) const FORMAT_VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"PROTEUSL";

/// Bytes before the first record of a segment.
pub const SEGMENT_HEADER_BYTES: usize = 16;

/// Length and checksum before a record's body.
pub(crate) const RECORD_HEADER_BYTES: usize = 8;

/// Kind, shard, term and index before an entry's payload.
pub(crate) const ENTRY_HEADER_BYTES: usize = 1 + 4 + 8 + 8;

const BODY_BYTES_MAX: usize = ENTRY_BYTES_MAX + ENTRY_HEADER_BYTES;

const KIND_ENTRY: u8 = 1;
const KIND_META: u8 = 2;
const KIND_TRUNCATE: u8 = 3;
const KIND_PURGE: u8 = 4;
const KIND_FLUSHED: u8 = 5;
const KIND_FORGET: u8 = 6;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// An entry of a shard's log.
    Entry { shard: ShardId, id: EntryId, payload: Bytes },
    /// The newest value of a small fact that consensus keeps beside the log.
    Meta { shard: ShardId, key: MetaKey, value: Bytes },
    /// Entries after `last` are gone (`last` itself stays).
    Truncate { shard: ShardId, last: LogIndex },
    /// Entries up to and including `upto` are gone.
    Purge { shard: ShardId, upto: EntryId },
    /// All that stands before this of the shard is gone: the node has no replica of it any more.
    Forget { shard: ShardId },
    /// Bytes of this segment before `byte_offset` are on stable storage.
    Flushed { byte_offset: u64 },
}

/// What stands at a place in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// A whole record and how many bytes it takes.
    Record(Record, usize),
    /// Reserved space: nothing was written here.
    End,
    /// Bytes that are no record.
    Broken(String),
}

pub(crate) fn segment_header() -> [u8; SEGMENT_HEADER_BYTES] {
    segment_header_of(FORMAT_VERSION)
}

pub(crate) fn segment_header_of(version: u32) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&version.to_le_bytes());
    let checksum = crc32c::crc32c(&header[..12]);
    header[12..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// The version in a segment's header; `None` if the header is not whole.
pub(crate) fn segment_version(bytes: &[u8]) -> Option<u32> {
    let (head, rest) = bytes.split_first_chunk::<12>()?;
    let checksum = u32::from_le_bytes(*rest.first_chunk::<4>()?);
    let version = head.strip_prefix(MAGIC)?.first_chunk::<4>()?;
    (checksum == crc32c::crc32c(head)).then(|| u32::from_le_bytes(*version))
}

impl Record {
    /// Appends the record's bytes.
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        let start = into.len();
        into.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
        match self {
            Record::Entry { shard, id, payload } => {
                into.truncate(start);
                put_entry_head(*shard, *id, payload, into);
                into.extend_from_slice(payload);
                return;
            }
            Record::Meta { shard, key, value } => {
                into.push(KIND_META);
                push_u32(into, shard.0);
                into.push(key.code());
                into.extend_from_slice(value);
            }
            Record::Truncate { shard, last } => {
                into.push(KIND_TRUNCATE);
                push_u32(into, shard.0);
                push_u64(into, last.0);
            }
            Record::Purge { shard, upto } => {
                into.push(KIND_PURGE);
                push_u32(into, shard.0);
                push_id(into, *upto);
            }
            Record::Forget { shard } => {
                into.push(KIND_FORGET);
                push_u32(into, shard.0);
            }
            Record::Flushed { byte_offset } => {
                into.push(KIND_FLUSHED);
                push_u64(into, *byte_offset);
            }
        }
        put_header(into, start, &[]);
    }

    /// Reads what stands at the front of `bytes`, which reach to the end of the segment.
    pub(crate) fn decode(bytes: &[u8]) -> Decoded {
        let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
            return if bytes.iter().all(|byte| *byte == 0) {
                Decoded::End
            } else {
                Decoded::Broken("the file ends within a record's length".to_owned())
            };
        };
        let body_bytes = u32::from_le_bytes(*length) as usize;
        if body_bytes == 0 {
            return Decoded::End;
        }
        if body_bytes > BODY_BYTES_MAX {
            return Decoded::Broken(format!("a record of {body_bytes} bytes is longer than any"));
        }
        let Some((checksum, rest)) = rest.split_first_chunk::<4>() else {
            return Decoded::Broken("the file ends within a record's checksum".to_owned());
        };
        let Some(body) = rest.get(..body_bytes) else {
            return Decoded::Broken(format!(
                "a record of {body_bytes} bytes is cut off by the end of the file"
            ));
        };
        if crc32c::crc32c_append(crc32c::crc32c(length), body) != u32::from_le_bytes(*checksum) {
            return Decoded::Broken("the checksum does not match".to_owned());
        }
        match decode_body(body) {
            Some(record) => Decoded::Record(record, RECORD_HEADER_BYTES + body_bytes),
            None => Decoded::Broken(
                "the checksum matches, but the record is of no known form".to_owned(),
            ),
        }
    }
}

/// Appends the bytes of an entry's record that stand before its payload.
pub(crate) fn put_entry_head(shard: ShardId, id: EntryId, payload: &[u8], into: &mut Vec<u8>) {
    let start = into.len();
    into.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
    into.push(KIND_ENTRY);
    push_u32(into, shard.0);
    push_id(into, id);
    put_header(into, start, payload);
}

/// Puts length and checksum before the record that begins at `start` of `into`, and that `rest` belongs to, too.
fn put_header(into: &mut [u8], start: usize, rest: &[u8]) {
    let (header, body) = into[start..].split_at_mut(RECORD_HEADER_BYTES);
    let body_bytes = body.len() + rest.len();
    assert!(body_bytes <= BODY_BYTES_MAX, "the kernel bounds an entry before it comes here");
    let length = u32::try_from(body_bytes).unwrap_or(u32::MAX).to_le_bytes();
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&length), body);
    header[..4].copy_from_slice(&length);
    header[4..].copy_from_slice(&crc32c::crc32c_append(checksum, rest).to_le_bytes());
}

fn decode_body(body: &[u8]) -> Option<Record> {
    let (kind, rest) = body.split_first()?;
    if *kind == KIND_FLUSHED {
        let (byte_offset, rest) = take_u64(rest)?;
        return rest.is_empty().then_some(Record::Flushed { byte_offset });
    }
    let (shard, rest) = rest.split_first_chunk::<4>()?;
    let shard = ShardId(u32::from_le_bytes(*shard));
    match *kind {
        KIND_ENTRY => {
            let (id, payload) = take_id(rest)?;
            Some(Record::Entry { shard, id, payload: Bytes::copy_from_slice(payload) })
        }
        KIND_META => {
            let (code, value) = rest.split_first()?;
            Some(Record::Meta {
                shard,
                key: MetaKey::of_code(*code)?,
                value: Bytes::copy_from_slice(value),
            })
        }
        KIND_TRUNCATE => {
            let (last, rest) = take_u64(rest)?;
            rest.is_empty().then_some(Record::Truncate { shard, last: LogIndex(last) })
        }
        KIND_PURGE => {
            let (upto, rest) = take_id(rest)?;
            rest.is_empty().then_some(Record::Purge { shard, upto })
        }
        KIND_FORGET => rest.is_empty().then_some(Record::Forget { shard }),
        _ => None,
    }
}

fn push_u32(into: &mut Vec<u8>, number: u32) {
    into.extend_from_slice(&number.to_le_bytes());
}

fn push_u64(into: &mut Vec<u8>, number: u64) {
    into.extend_from_slice(&number.to_le_bytes());
}

fn push_id(into: &mut Vec<u8>, id: EntryId) {
    push_u64(into, id.term.0);
    push_u64(into, id.index.0);
}

fn take_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*head), rest))
}

fn take_id(bytes: &[u8]) -> Option<(EntryId, &[u8])> {
    let (term, rest) = take_u64(bytes)?;
    let (index, rest) = take_u64(rest)?;
    Some((EntryId { term: Term(term), index: LogIndex(index) }, rest))
}

/// Fuzz target: whatever the bytes, decoding neither panics nor reads past them, and a decoded
/// record encodes to the bytes it came from.
///
/// # Panics
/// If the property does not hold.
pub fn fuzz_decode(bytes: &[u8]) {
    if let Decoded::Record(record, used) = Record::decode(bytes) {
        let mut encoded = Vec::new();
        record.encode(&mut encoded);
        assert_eq!(encoded, bytes[..used]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> impl Strategy<Value = Record> {
        let id = (any::<u64>(), any::<u64>())
            .prop_map(|(term, index)| EntryId { term: Term(term), index: LogIndex(index) });
        let payload = prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        let shard = any::<u32>().prop_map(ShardId);
        let key = prop_oneof![Just(MetaKey::Vote), Just(MetaKey::Committed), Just(MetaKey::Purged)];
        prop_oneof![
            (shard.clone(), id.clone(), payload.clone())
                .prop_map(|(shard, id, payload)| Record::Entry { shard, id, payload }),
            (shard.clone(), key, payload).prop_map(|(shard, key, value)| Record::Meta {
                shard,
                key,
                value
            }),
            (shard.clone(), any::<u64>())
                .prop_map(|(shard, last)| Record::Truncate { shard, last: LogIndex(last) }),
            (shard, id).prop_map(|(shard, upto)| Record::Purge { shard, upto }),
            any::<u32>().prop_map(|shard| Record::Forget { shard: ShardId(shard) }),
            any::<u64>().prop_map(|byte_offset| Record::Flushed { byte_offset }),
        ]
    }

    proptest! {
        #[test]
        fn records_come_back(record in record(), rest in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            let used = bytes.len();
            bytes.extend(rest);
            prop_assert_eq!(Record::decode(&bytes), Decoded::Record(record, used));
        }

        #[test]
        fn a_flipped_bit_is_found(record in record(), place in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
            prop_assert_ne!(Record::decode(&bytes), Decoded::Record(record, bytes.len()));
        }
    }

    #[test]
    fn fuzz() {
        let mut corpus = Vec::new();
        let id = EntryId { term: Term(1), index: LogIndex(2) };
        for record in [
            Record::Entry { shard: ShardId(0), id, payload: Bytes::from_static(b"hello") },
            Record::Flushed { byte_offset: 99 },
        ] {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            corpus.push(bytes);
        }
        proteus_testkit::fuzz::run("log record", &corpus, fuzz_decode);
    }
}
