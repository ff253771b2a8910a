//! Framing plain records, for producers that are not Kafka clients.

use std::io::Write;

use bytes::Bytes;

use super::{BATCH_HEADER_BYTES, BatchHeader, Codec, MAGIC, NO_PRODUCER_ID, Record};

/// A record to be framed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewRecord {
    /// What it is about.
    pub key: Option<Bytes>,
    /// What it says; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Names and values beside the record.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// Frames `records` as one uncompressed batch with one timestamp and no producer, ready for
/// [`Op::Append`](crate::Op::Append). `None` if there are no records, or more than a batch's 32-bit
/// length can hold.
pub fn frame_batch(records: &[NewRecord], timestamp_ms: i64) -> Option<Bytes> {
    let record_count = i32::try_from(records.len()).ok().filter(|count| *count > 0)?;
    let mut batch = Vec::with_capacity(BATCH_HEADER_BYTES + records.len() * 64);
    batch.extend_from_slice(&0i64.to_be_bytes());
    batch.extend_from_slice(&0i32.to_be_bytes());
    batch.extend_from_slice(&(-1i32).to_be_bytes());
    batch.push(MAGIC as u8);
    batch.extend_from_slice(&0u32.to_be_bytes());
    batch.extend_from_slice(&0i16.to_be_bytes());
    batch.extend_from_slice(&(record_count - 1).to_be_bytes());
    batch.extend_from_slice(&timestamp_ms.to_be_bytes());
    batch.extend_from_slice(&timestamp_ms.to_be_bytes());
    batch.extend_from_slice(&NO_PRODUCER_ID.to_be_bytes());
    batch.extend_from_slice(&(-1i16).to_be_bytes());
    batch.extend_from_slice(&(-1i32).to_be_bytes());
    batch.extend_from_slice(&record_count.to_be_bytes());
    let mut body = Vec::new();
    for (offset_delta, record) in (0i64..).zip(records) {
        body.clear();
        put_record(&mut body, 0, offset_delta, &record.key, &record.value, &record.headers);
        put_varint(&mut batch, body.len() as i64);
        batch.extend_from_slice(&body);
    }
    let batch_length = i32::try_from(batch.len() - 12).ok()?;
    batch[8..12].copy_from_slice(&batch_length.to_be_bytes());
    put_checksum(&mut batch);
    Some(Bytes::from(batch))
}

/// A batch that was framed here, as a producer with this id and epoch numbers it.
pub fn with_producer(
    batch: &[u8],
    (producer_id, epoch): (i64, i16),
    base_sequence: i32,
    is_transactional: bool,
) -> Bytes {
    let mut batch = batch.to_vec();
    if batch.len() < BATCH_HEADER_BYTES {
        return Bytes::from(batch);
    }
    if is_transactional {
        let attributes = i16::from_be_bytes([batch[21], batch[22]]) | super::TRANSACTIONAL_FLAG;
        batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    }
    batch[43..51].copy_from_slice(&producer_id.to_be_bytes());
    batch[51..53].copy_from_slice(&epoch.to_be_bytes());
    batch[53..57].copy_from_slice(&base_sequence.to_be_bytes());
    put_checksum(&mut batch);
    Bytes::from(batch)
}

/// The batch of `header`, which stands at `base_offset`, with only the records that compaction kept:
/// the same offsets, timestamps, producer and codec. With a delete horizon it says when its
/// tombstones may go. `None` if no record is left, or the batch cannot be made.
pub fn rebuild_batch(
    header: &BatchHeader,
    base_offset: i64,
    records: &[Record],
    delete_horizon_ms: Option<i64>,
) -> Option<Bytes> {
    let record_count = i32::try_from(records.len()).ok().filter(|count| *count > 0)?;
    let newest_ms = records.iter().map(|record| record.timestamp_ms).max()?;
    let oldest_ms = records.first()?.timestamp_ms;
    let base_timestamp_ms = delete_horizon_ms.unwrap_or(oldest_ms);
    let mut plain = Vec::new();
    let mut body = Vec::new();
    for record in records {
        body.clear();
        let timestamp_delta_ms = record.timestamp_ms.wrapping_sub(base_timestamp_ms);
        let offset_delta = record.offset - base_offset;
        let Record { key, value, headers, .. } = record;
        put_record(&mut body, timestamp_delta_ms, offset_delta, key, value, headers);
        put_varint(&mut plain, body.len() as i64);
        plain.extend_from_slice(&body);
    }
    let horizon_flag = if delete_horizon_ms.is_some() { super::DELETE_HORIZON_FLAG } else { 0 };
    let attributes = (header.attributes & !super::DELETE_HORIZON_FLAG) | horizon_flag;
    let records = compress(header.codec()?, plain)?;
    let mut batch = Vec::with_capacity(BATCH_HEADER_BYTES + records.len());
    batch.extend_from_slice(&0i64.to_be_bytes());
    let batch_length = i32::try_from(BATCH_HEADER_BYTES - 12 + records.len()).ok()?;
    batch.extend_from_slice(&batch_length.to_be_bytes());
    batch.extend_from_slice(&(-1i32).to_be_bytes());
    batch.push(MAGIC as u8);
    batch.extend_from_slice(&0u32.to_be_bytes());
    batch.extend_from_slice(&attributes.to_be_bytes());
    batch.extend_from_slice(&header.last_offset_delta.to_be_bytes());
    batch.extend_from_slice(&base_timestamp_ms.to_be_bytes());
    batch.extend_from_slice(&newest_ms.to_be_bytes());
    batch.extend_from_slice(&header.producer_id.to_be_bytes());
    batch.extend_from_slice(&header.producer_epoch.to_be_bytes());
    batch.extend_from_slice(&header.base_sequence.to_be_bytes());
    batch.extend_from_slice(&record_count.to_be_bytes());
    batch.extend_from_slice(&records);
    put_checksum(&mut batch);
    Some(Bytes::from(batch))
}

/// Compresses records as one. Writing into memory has no way to fail; `None` only says that the
/// compressor thinks otherwise.
fn compress(codec: Codec, plain: Vec<u8>) -> Option<Vec<u8>> {
    match codec {
        Codec::None => Some(plain),
        Codec::Gzip => {
            let level = flate2::Compression::default();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(&plain).ok()?;
            encoder.finish().ok()
        }
        Codec::Snappy => snap::raw::Encoder::new().compress_vec(&plain).ok(),
        Codec::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(&plain).ok()?;
            encoder.finish().ok()
        }
        Codec::Zstd => zstd::stream::encode_all(&plain[..], 0).ok(),
    }
}

/// The batch with `append_time_ms` as the timestamp of every record
/// (`message.timestamp.type=LogAppendTime`). What is no batch stays as it is.
pub fn stamp_append_time(batch: &Bytes, append_time_ms: i64) -> Bytes {
    let mut stamped = batch.to_vec();
    if stamped.len() < BATCH_HEADER_BYTES {
        return batch.clone();
    }
    let attributes = i16::from_be_bytes([stamped[21], stamped[22]]) | super::APPEND_TIME_FLAG;
    stamped[21..23].copy_from_slice(&attributes.to_be_bytes());
    stamped[35..43].copy_from_slice(&append_time_ms.to_be_bytes());
    put_checksum(&mut stamped);
    Bytes::from(stamped)
}

/// Puts the checksum of a batch into it. What is shorter than a header stays as it is.
pub fn put_checksum(batch: &mut [u8]) {
    if batch.len() >= BATCH_HEADER_BYTES {
        let crc = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
    }
}

/// The partition of `key` among `partition_count`, as the Java client's default partitioner chooses
/// it (murmur2). Partition 0 for a record without key.
pub fn partition_of_key(key: Option<&[u8]>, partition_count: u32) -> u32 {
    match key {
        Some(key) if partition_count > 0 => (murmur2(key) & 0x7FFF_FFFF) % partition_count,
        _ => 0,
    }
}

type Headers = [(Bytes, Option<Bytes>)];

fn put_record(
    body: &mut Vec<u8>,
    timestamp_delta_ms: i64,
    offset_delta: i64,
    key: &Option<Bytes>,
    value: &Option<Bytes>,
    headers: &Headers,
) {
    body.push(0);
    put_varint(body, timestamp_delta_ms);
    put_varint(body, offset_delta);
    put_bytes(body, key.as_deref());
    put_bytes(body, value.as_deref());
    put_varint(body, headers.len() as i64);
    for (name, value) in headers {
        put_bytes(body, Some(name));
        put_bytes(body, value.as_deref());
    }
}

fn put_bytes(into: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => put_varint(into, -1),
        Some(bytes) => {
            put_varint(into, bytes.len() as i64);
            into.extend_from_slice(bytes);
        }
    }
}

/// Zigzag, seven bits a byte, least significant first.
pub(super) fn put_varint(into: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        into.push((rest as u8 & 0x7F) | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}

/// MurmurHash2, 32 bits, with the seed that the Java client uses.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_B28C;
    const M: u32 = 0x5BD1_E995;
    let mut hash = SEED ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let tail = words.remainder();
    if !tail.is_empty() {
        let tail = tail.iter().rev().fold(0u32, |sum, byte| (sum << 8) | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_gives_the_values_of_the_java_client() {
        // From the Java client's own UtilsTest.
        let expected: [(&[u8], i32); 4] = [
            (b"21", -973932308),
            (b"foobar", -790332482),
            (b"a-little-bit-long-string", -985981536),
            (b"abc", 479470107),
        ];
        for (key, hash) in expected {
            assert_eq!(murmur2(key) as i32, hash, "{}", key.escape_ascii());
        }
    }
}
