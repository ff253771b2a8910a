//! Reading the records of a batch, with bounds on what they may expand to.

use std::io::Read;

use bytes::Bytes;

use super::{BATCH_HEADER_BYTES, BatchError, BatchHeader, Codec, Record};

/// Most bytes that the records of one batch may decompress to. A producer's own batch is at most a
/// request long; what expands further is an attack on whoever reads it.
pub const DECOMPRESSED_BYTES_MAX: usize = 128 * 1024 * 1024;

/// First bytes of the framing that Java clients put around snappy blocks.
const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
/// The magic, a version and a compatible version.
const XERIAL_HEADER_BYTES: usize = 16;
/// Largest zstd window, as a power of two, that a decoder accepts: the format's recommended 8 MiB
/// would refuse what `zstd --long` producers send, and 128 MiB is the library's own default.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// The records of a batch, in order. After an error it ends.
#[derive(Debug)]
pub struct Records {
    bytes: Bytes,
    base_offset: i64,
    base_timestamp_ms: i64,
    /// Of every record, if the broker assigned it.
    append_time_ms: Option<i64>,
    left: i32,
}

/// Reads the records of `batch`, whose first record has `base_offset` in its partition.
///
/// # Errors
/// If the header is not that of a batch, or the records do not decompress within
/// [`DECOMPRESSED_BYTES_MAX`].
pub fn decode_records(batch: &Bytes, base_offset: i64) -> Result<Records, BatchError> {
    let header = BatchHeader::parse(batch)?;
    let body = batch.slice(BATCH_HEADER_BYTES..);
    let bytes = decompress(header.codec(), body, DECOMPRESSED_BYTES_MAX)?;
    Ok(Records {
        bytes,
        base_offset,
        base_timestamp_ms: header.base_timestamp_ms,
        append_time_ms: header.has_append_time().then_some(header.max_timestamp_ms),
        left: header.record_count,
    })
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Result<Record, BatchError>> {
        if self.left <= 0 {
            return None;
        }
        self.left -= 1;
        let record = self.record().ok_or_else(|| {
            self.left = 0;
            BatchError::Invalid("a record is malformed".to_owned())
        });
        Some(record)
    }
}

impl Records {
    fn record(&mut self) -> Option<Record> {
        let length = usize::try_from(take_varint(&mut self.bytes)?).ok()?;
        let mut body = take(&mut self.bytes, length)?;
        let _attributes = take(&mut body, 1)?;
        let timestamp_delta_ms = take_varint(&mut body)?;
        let offset_delta = take_varint(&mut body)?;
        let key = take_bytes(&mut body)?;
        let value = take_bytes(&mut body)?;
        let header_count = take_varint(&mut body)?;
        let mut headers = Vec::new();
        // Each header takes two bytes at least, so the loop is bounded by what is there.
        for _ in 0..header_count {
            headers.push((take_bytes(&mut body)??, take_bytes(&mut body)?));
        }
        Some(Record {
            offset: self.base_offset.checked_add(offset_delta)?,
            timestamp_ms: match self.append_time_ms {
                Some(append_time_ms) => append_time_ms,
                None => self.base_timestamp_ms.checked_add(timestamp_delta_ms)?,
            },
            key,
            value,
            headers,
        })
    }
}

fn take(bytes: &mut Bytes, length: usize) -> Option<Bytes> {
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

/// `None` if malformed, `Some(None)` for a null.
fn take_bytes(bytes: &mut Bytes) -> Option<Option<Bytes>> {
    match take_varint(bytes)? {
        -1 => Some(None),
        length => take(bytes, usize::try_from(length).ok()?).map(Some),
    }
}

fn take_varint(bytes: &mut Bytes) -> Option<i64> {
    let mut value = 0u64;
    for place in 0..10 {
        let byte = *bytes.get(place)?;
        value |= u64::from(byte & 0x7F).checked_shl(7 * place as u32)?;
        if byte & 0x80 == 0 {
            let _varint = bytes.split_to(place + 1);
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

pub(super) fn decompress(
    codec: Option<Codec>,
    body: Bytes,
    bytes_max: usize,
) -> Result<Bytes, BatchError> {
    match codec {
        Some(Codec::None) => Ok(body),
        Some(Codec::Gzip) => read_bounded(flate2::read::MultiGzDecoder::new(&body[..]), bytes_max),
        Some(Codec::Snappy) => snappy(&body, bytes_max).map(Bytes::from),
        Some(Codec::Lz4) => read_bounded(lz4_flex::frame::FrameDecoder::new(&body[..]), bytes_max),
        Some(Codec::Zstd) => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(&body[..])
                .map_err(|error| BatchError::Compression(error.to_string()))?;
            decoder
                .window_log_max(ZSTD_WINDOW_LOG_MAX)
                .map_err(|error| BatchError::Compression(error.to_string()))?;
            read_bounded(decoder, bytes_max)
        }
        None => Err(BatchError::Compression("the codec is unknown".to_owned())),
    }
}

fn read_bounded(decoder: impl Read, bytes_max: usize) -> Result<Bytes, BatchError> {
    let mut bytes = Vec::new();
    decoder
        .take(bytes_max as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| BatchError::Compression(error.to_string()))?;
    if bytes.len() > bytes_max {
        return Err(too_long(bytes_max));
    }
    Ok(Bytes::from(bytes))
}

fn too_long(bytes_max: usize) -> BatchError {
    BatchError::Compression(format!("it expands to more than {bytes_max} bytes"))
}

/// Java clients frame blocks as xerial does: magic, versions, then length and block, repeated.
/// librdkafka and others send one bare block.
fn snappy(body: &[u8], bytes_max: usize) -> Result<Vec<u8>, BatchError> {
    let mut bytes = Vec::new();
    if !body.starts_with(XERIAL_MAGIC) {
        snappy_block(body, &mut bytes, bytes_max)?;
        return Ok(bytes);
    }
    let truncated = || BatchError::Compression("a snappy block is truncated".to_owned());
    let mut rest = body.get(XERIAL_HEADER_BYTES..).ok_or_else(truncated)?;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let block = after.get(..length).ok_or_else(truncated)?;
        snappy_block(block, &mut bytes, bytes_max)?;
        rest = after.get(length..).unwrap_or_default();
    }
    Ok(bytes)
}

fn snappy_block(block: &[u8], into: &mut Vec<u8>, bytes_max: usize) -> Result<(), BatchError> {
    let failed = |error: snap::Error| BatchError::Compression(error.to_string());
    let length = snap::raw::decompress_len(block).map_err(failed)?;
    // A byte of a block expands to at most 64; a header that says more lies.
    if length > bytes_max.saturating_sub(into.len()) || length / 64 > block.len() {
        return Err(too_long(bytes_max));
    }
    let start = into.len();
    into.resize(start + length, 0);
    let written =
        snap::raw::Decoder::new().decompress(block, &mut into[start..]).map_err(failed)?;
    into.truncate(start + written);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::encode::put_varint;
    use super::*;

    #[test]
    fn varints_come_back() {
        for value in [0, 1, -1, 63, 64, -64, -65, 300, i64::from(i32::MIN), i64::MAX, i64::MIN] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let mut bytes = Bytes::from(bytes);
            assert_eq!(take_varint(&mut bytes), Some(value));
            assert!(bytes.is_empty());
        }
    }

    #[test]
    fn what_expands_too_far_is_refused() {
        let zeros = vec![0u8; 1 << 20];
        let gzip = {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            std::io::Write::write_all(&mut encoder, &zeros).unwrap();
            encoder.finish().unwrap()
        };
        let snappy = snap::raw::Encoder::new().compress_vec(&zeros).unwrap();
        let zstd = zstd::stream::encode_all(&zeros[..], 3).unwrap();
        let lz4 = {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            std::io::Write::write_all(&mut encoder, &zeros).unwrap();
            encoder.finish().unwrap()
        };
        for (codec, body) in
            [(Codec::Gzip, gzip), (Codec::Snappy, snappy), (Codec::Zstd, zstd), (Codec::Lz4, lz4)]
        {
            let body = Bytes::from(body);
            let whole = decompress(Some(codec), body.clone(), zeros.len());
            assert_eq!(whole, Ok(Bytes::from(zeros.clone())), "{codec:?}");
            let bomb = decompress(Some(codec), body, zeros.len() - 1);
            assert!(matches!(bomb, Err(BatchError::Compression(_))), "{codec:?}");
        }
    }

    #[test]
    fn xerial_framing_is_read() {
        let mut body = XERIAL_MAGIC.to_vec();
        body.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
        for part in [&b"hello "[..], b"world"] {
            let block = snap::raw::Encoder::new().compress_vec(part).unwrap();
            body.extend_from_slice(&(block.len() as u32).to_be_bytes());
            body.extend_from_slice(&block);
        }
        assert_eq!(snappy(&body, 100).unwrap(), b"hello world");
        assert!(snappy(&body[..body.len() - 1], 100).is_err());
        assert!(snappy(&body, 10).is_err());
    }
}
