//! Holding a producer's records to what its batch says of them.

use super::decode::{DECOMPRESSED_BYTES_MAX, decompress};
use super::{BATCH_HEADER_BYTES, BatchError, BatchHeader};
use bytes::Bytes;

/// What a topic demands of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRules {
    /// Offsets may be missing between records, as compaction leaves them.
    pub may_have_gaps: bool,
    /// Every record must have a key: the topic is compacted.
    pub needs_keys: bool,
    /// Oldest and newest timestamp allowed, in milliseconds since the Unix epoch, inclusive; `None`
    /// where the broker assigns timestamps anyway.
    pub timestamps_ms: Option<(i64, i64)>,
}

/// The timestamp of a record that has none.
const NO_TIMESTAMP_MS: i64 = -1;

/// Walks through the records of a batch, which is decompressed if it must be: lengths must add up,
/// offsets count from 0 without gap, their number be what the header says, keys and timestamps be as
/// the topic demands.
///
/// # Errors
/// What is wrong with the first record that does not do.
pub fn validate_records(
    batch: &Bytes,
    header: &BatchHeader,
    rules: &RecordRules,
) -> Result<(), BatchError> {
    check_timestamp(header.max_timestamp_ms, rules)?;
    let body = batch.slice(BATCH_HEADER_BYTES.min(batch.len())..);
    let plain = decompress(header.codec(), body, DECOMPRESSED_BYTES_MAX)?;
    let mut rest = &plain[..];
    let mut next_delta = 0;
    for index in 0..header.record_count {
        let malformed = || BatchError::Invalid(format!("record {index} is malformed"));
        let length = varint(&mut rest).ok_or_else(malformed)?;
        let mut record = take(&mut rest, length).ok_or_else(malformed)?;
        let head = head_of(&mut record).ok_or_else(malformed)?;
        if !record.is_empty() {
            return Err(BatchError::Invalid(format!(
                "record {index} is {} bytes shorter than its length says",
                record.len()
            )));
        }
        let may_stand = match rules.may_have_gaps {
            true => {
                let rest = i64::from(header.last_offset_delta);
                (next_delta..=rest).contains(&head.offset_delta)
            }
            false => head.offset_delta == i64::from(index),
        };
        next_delta = head.offset_delta.saturating_add(1);
        if !may_stand {
            return Err(BatchError::Invalid(format!(
                "record {index} has offset delta {}",
                head.offset_delta
            )));
        }
        if rules.needs_keys && !head.has_key {
            return Err(BatchError::Invalid(format!(
                "record {index} has no key, which a compacted topic demands"
            )));
        }
        let timestamp_ms =
            header.base_timestamp_ms.checked_add(head.timestamp_delta_ms).ok_or_else(malformed)?;
        check_timestamp(timestamp_ms, rules)?;
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(BatchError::Invalid(format!(
            "{} bytes follow the {} records",
            rest.len(),
            header.record_count
        )))
    }
}

fn check_timestamp(timestamp_ms: i64, rules: &RecordRules) -> Result<(), BatchError> {
    match rules.timestamps_ms {
        Some((oldest_ms, newest_ms))
            if timestamp_ms != NO_TIMESTAMP_MS
                && !(oldest_ms..=newest_ms).contains(&timestamp_ms) =>
        {
            Err(BatchError::Timestamp { timestamp_ms, oldest_ms, newest_ms })
        }
        _ => Ok(()),
    }
}

struct Head {
    timestamp_delta_ms: i64,
    offset_delta: i64,
    has_key: bool,
}

/// What stands in a record, which is taken as a whole.
fn head_of(record: &mut &[u8]) -> Option<Head> {
    let _attributes = take(record, 1)?;
    let timestamp_delta_ms = varint(record)?;
    let offset_delta = varint(record)?;
    let has_key = skip_bytes(record)?;
    skip_bytes(record)?;
    let header_count = varint(record)?;
    if header_count < 0 {
        return None;
    }
    // Each header takes two bytes at least, so the loop is bounded by what is there.
    for _ in 0..header_count {
        if !skip_bytes(record)? {
            return None;
        }
        skip_bytes(record)?;
    }
    Some(Head { timestamp_delta_ms, offset_delta, has_key })
}

/// Whether it is not null.
fn skip_bytes(bytes: &mut &[u8]) -> Option<bool> {
    match varint(bytes)? {
        -1 => Some(false),
        length => take(bytes, length).map(|_| true),
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: i64) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(head)
}

fn varint(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for place in 0..10 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7F).checked_shl(7 * place)?;
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::{NewRecord, frame_batch, rebuild_batch};
    use super::*;

    const RULES: RecordRules =
        RecordRules { may_have_gaps: false, needs_keys: true, timestamps_ms: Some((10, 20)) };

    fn framed(keys: &[Option<&'static str>], timestamp_ms: i64) -> Bytes {
        let record = |key: &Option<&'static str>| NewRecord {
            key: key.map(Bytes::from),
            value: Some(Bytes::from_static(b"value")),
            headers: vec![("h".into(), None), ("i".into(), Some("x".into()))],
        };
        frame_batch(&keys.iter().map(record).collect::<Vec<_>>(), timestamp_ms).unwrap()
    }

    fn validated(batch: &[u8]) -> Result<(), BatchError> {
        let batch = Bytes::copy_from_slice(batch);
        validate_records(&batch, &BatchHeader::parse(&batch)?, &RULES)
    }

    #[test]
    fn good_batches_pass_in_every_codec() {
        let plain = framed(&[Some("a"), Some("b"), Some("c")], 15);
        for codec in 0..5 {
            let header = BatchHeader { attributes: codec, ..BatchHeader::parse(&plain).unwrap() };
            let records: Vec<_> =
                super::super::decode_records(&plain, 0).unwrap().map(Result::unwrap).collect();
            let batch = rebuild_batch(&header, 0, &records, None).unwrap();
            assert_eq!(validated(&batch), Ok(()), "codec {codec}");
        }
        assert_eq!(validated(&framed(&[Some("a")], NO_TIMESTAMP_MS)), Ok(()));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let good = framed(&[Some("a"), Some("b")], 15);
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.to_vec();
            change(&mut bytes);
            let length = bytes.len() as i32 - 12;
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            validated(&bytes).unwrap_err().to_string()
        };
        let set_count = |bytes: &mut Vec<u8>, count: i32| {
            bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
            bytes[57..61].copy_from_slice(&count.to_be_bytes());
        };
        assert!(with(&|bytes| set_count(bytes, 3)).contains("record 2 is malformed"));
        assert!(with(&|bytes| set_count(bytes, 1)).contains("bytes follow the 1 records"));
        assert!(with(&|bytes| bytes.push(0)).contains("1 bytes follow"));
        assert!(with(&|bytes| bytes[64] = 2).contains("record 0 has offset delta 1"));
        assert!(with(&|bytes| bytes[65] = 99).contains("record 0 is malformed"));
        assert!(with(&|bytes| bytes[22] = 4).contains("does not decompress"));
        let no_key = validated(&framed(&[Some("a"), None], 15)).unwrap_err();
        assert!(no_key.to_string().contains("record 1 has no key"), "{no_key}");
        for timestamp_ms in [9, 21, i64::MAX] {
            let refused = validated(&framed(&[Some("a")], timestamp_ms));
            assert!(matches!(refused, Err(BatchError::Timestamp { .. })), "{refused:?}");
        }
    }

    /// Whatever a producer sends: it is judged without a panic, and what passes decodes.
    #[test]
    fn fuzz_validation() {
        let corpus = [framed(&[Some("a"), Some("b")], 15).to_vec(), framed(&[None], 3).to_vec()];
        let lax = RecordRules { may_have_gaps: true, needs_keys: false, timestamps_ms: None };
        proteus_testkit::fuzz::run("records of a batch", &corpus, |input| {
            let input = Bytes::copy_from_slice(input);
            let Ok(header) = BatchHeader::parse(&input) else { return };
            if validate_records(&input, &header, &lax).is_ok() {
                let records = super::super::decode_records(&input, 0).expect("it decompressed");
                let records: Result<Vec<_>, _> = records.collect();
                assert_eq!(records.expect("it was walked").len(), header.record_count as usize);
            }
        });
    }
}
