//! Record batches, format version 2 (KIP-98).
//!
//! ```text
//!  0  base_offset            i64   assigned by the broker
//!  8  batch_length           i32   bytes after this field
//! 12  partition_leader_epoch i32   assigned by the broker
//! 16  magic                  i8    2
//! 17  crc                    u32   CRC32C of everything after this field
//! 21  attributes             i16   0-2 codec, 3 append time, 4 transactional, 5 control,
//!                                  6 delete horizon
//! 23  last_offset_delta      i32
//! 27  base_timestamp         i64   ms since the Unix epoch
//! 35  max_timestamp          i64
//! 43  producer_id            i64   -1: none
//! 51  producer_epoch         i16
//! 53  base_sequence          i32
//! 57  record_count           i32
//! 61  records, compressed as one
//! ```
//!
//! The checksum starts behind what the broker assigns, so a batch is stored and served as its
//! producer framed and compressed it. Source: Kafka protocol guide, "Record Batch".

mod control;
mod decode;
mod encode;
mod validate;

use bytes::{Bytes, BytesMut};

pub use control::{Marker, frame_marker, read_marker};
pub use decode::{DECOMPRESSED_BYTES_MAX, Records, decode_records};
pub use encode::{
    NewRecord, frame_batch, partition_of_key, put_checksum, rebuild_batch, stamp_append_time,
    with_producer,
};
pub use validate::{RecordRules, validate_records};

/// Length of the header, and so of the smallest batch.
pub const BATCH_HEADER_BYTES: usize = 61;
/// What `batch_length` does not count.
pub const LENGTH_PREFIX_BYTES: usize = 12;
/// The only format that is stored.
pub const MAGIC: i8 = 2;
/// The `producer_id` of a batch without one.
pub const NO_PRODUCER_ID: i64 = -1;

const CODEC_MASK: i16 = 0x07;
/// The timestamp of every record is `max_timestamp`, assigned by the broker.
const APPEND_TIME_FLAG: i16 = 0x08;
/// `base_timestamp` is when tombstones may go (KIP-534).
const DELETE_HORIZON_FLAG: i16 = 0x40;
const TRANSACTIONAL_FLAG: i16 = 0x10;
const CONTROL_FLAG: i16 = 0x20;

/// Why bytes are not a batch that can be kept or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The format is older than version 2, which has been the only one since Kafka 0.11 produces.
    #[error("message format {0} is not supported; only record batches of format 2 are")]
    Magic(i8),
    /// Truncated, or with something behind its end.
    #[error("the batch says {said} bytes but is {found}")]
    Length {
        /// What its header says.
        said: i64,
        /// How many bytes there are.
        found: usize,
    },
    /// The checksum does not match.
    #[error("the batch's CRC32C is {said:#010x} but its bytes give {computed:#010x}")]
    Checksum {
        /// What its header says.
        said: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// A record is too old or from the future.
    #[error(
        "timestamp {timestamp_ms} is outside {oldest_ms} to {newest_ms}, which the topic allows"
    )]
    Timestamp {
        /// Of the record.
        timestamp_ms: i64,
        /// Earliest allowed.
        oldest_ms: i64,
        /// Latest allowed.
        newest_ms: i64,
    },
    /// A field has a value that no batch can have.
    #[error("invalid record batch: {0}")]
    Invalid(String),
    /// The records do not decompress, or to more than is allowed.
    #[error("the batch does not decompress: {0}")]
    Compression(String),
}

/// The header of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// As in the bytes: what the producer put there, usually 0.
    pub base_offset: i64,
    /// CRC32C as in the bytes.
    pub crc: u32,
    /// Codec and flags.
    pub attributes: i16,
    /// Offset of the last record, relative to the first.
    pub last_offset_delta: i32,
    /// Milliseconds since the Unix epoch, by the producer's clock; -1 if unknown.
    pub base_timestamp_ms: i64,
    /// The latest of the records' timestamps.
    pub max_timestamp_ms: i64,
    /// Who produced it, or [`NO_PRODUCER_ID`].
    pub producer_id: i64,
    /// Generation of the producer.
    pub producer_epoch: i16,
    /// The producer's number for the first record.
    pub base_sequence: i32,
    /// Records in the batch, at least 1.
    pub record_count: i32,
}

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy blocks, bare or in xerial's framing.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// RFC 8878.
    Zstd,
}

impl BatchHeader {
    /// Reads the header and checks all that can be checked without touching the records: format,
    /// length, counts. Cheap, deterministic.
    ///
    /// # Errors
    /// If `batch` is not exactly one batch of format 2.
    pub fn parse(batch: &[u8]) -> Result<BatchHeader, BatchError> {
        // The magic byte stands at the same place in every format, so old ones can be named.
        if let Some(magic) = batch.get(16).map(|byte| *byte as i8)
            && magic != MAGIC
        {
            return Err(BatchError::Magic(magic));
        }
        let mut fields = Fields { bytes: batch, found: batch.len() };
        let base_offset = i64::from_be_bytes(fields.take()?);
        let batch_length = i32::from_be_bytes(fields.take()?);
        let said = i64::from(batch_length) + LENGTH_PREFIX_BYTES as i64;
        if usize::try_from(said) != Ok(batch.len()) {
            return Err(BatchError::Length { said, found: batch.len() });
        }
        let _partition_leader_epoch: [u8; 4] = fields.take()?;
        let _magic: [u8; 1] = fields.take()?;
        let header = BatchHeader {
            base_offset,
            crc: u32::from_be_bytes(fields.take()?),
            attributes: i16::from_be_bytes(fields.take()?),
            last_offset_delta: i32::from_be_bytes(fields.take()?),
            base_timestamp_ms: i64::from_be_bytes(fields.take()?),
            max_timestamp_ms: i64::from_be_bytes(fields.take()?),
            producer_id: i64::from_be_bytes(fields.take()?),
            producer_epoch: i16::from_be_bytes(fields.take()?),
            base_sequence: i32::from_be_bytes(fields.take()?),
            record_count: i32::from_be_bytes(fields.take()?),
        };
        header.check()?;
        Ok(header)
    }

    /// [`BatchHeader::parse`], and what must hold of a batch that a producer sends.
    ///
    /// # Errors
    /// As [`BatchHeader::parse`], or if a producer cannot have made the batch.
    pub fn parse_produced(batch: &[u8]) -> Result<BatchHeader, BatchError> {
        let header = BatchHeader::parse(batch)?;
        header.check_produced()?;
        Ok(header)
    }

    /// [`BatchHeader::parse`], and what must hold of a batch that was copied with its offsets: it may
    /// have fewer records than offsets, and be a marker, but has neither producer nor transaction.
    ///
    /// # Errors
    /// As [`BatchHeader::parse`], or if the batch is none of these.
    pub fn parse_mirrored(batch: &[u8]) -> Result<BatchHeader, BatchError> {
        let header = BatchHeader::parse(batch)?;
        if header.producer_id > NO_PRODUCER_ID || header.is_transactional() {
            let why = "a copy with offsets has neither producer nor transaction";
            return Err(BatchError::Invalid(why.to_owned()));
        }
        Ok(header)
    }

    /// [`BatchHeader::parse_produced`], and the checksum.
    ///
    /// # Errors
    /// As [`BatchHeader::parse_produced`], or if the checksum does not match.
    pub fn parse_checked(batch: &[u8]) -> Result<BatchHeader, BatchError> {
        let header = BatchHeader::parse_produced(batch)?;
        header.check_crc(batch)?;
        Ok(header)
    }

    /// Holds the checksum against the bytes.
    ///
    /// # Errors
    /// If it does not match.
    pub fn check_crc(&self, batch: &[u8]) -> Result<(), BatchError> {
        let header = self;
        let computed = crc32c::crc32c(batch.get(21..).unwrap_or_default());
        if computed != header.crc {
            return Err(BatchError::Checksum { said: header.crc, computed });
        }
        Ok(())
    }

    /// What holds of every batch: compaction leaves fewer records than offsets.
    fn check(&self) -> Result<(), BatchError> {
        let invalid = |why: String| Err(BatchError::Invalid(why));
        let spans = i64::from(self.last_offset_delta) + 1;
        if self.record_count < 1 || i64::from(self.record_count) > spans {
            return invalid(format!(
                "{} records with last offset delta {}",
                self.record_count, self.last_offset_delta
            ));
        }
        if self.codec().is_none() {
            return invalid(format!("unknown codec {}", self.attributes & CODEC_MASK));
        }
        Ok(())
    }

    fn check_produced(&self) -> Result<(), BatchError> {
        let invalid = |why: String| Err(BatchError::Invalid(why));
        if self.last_offset_delta != self.record_count - 1 {
            return invalid(format!(
                "{} records with last offset delta {}",
                self.record_count, self.last_offset_delta
            ));
        }
        if self.producer_id >= 0 && (self.producer_epoch < 0 || self.base_sequence < 0) {
            return invalid(format!(
                "producer {} with epoch {} and sequence {}",
                self.producer_id, self.producer_epoch, self.base_sequence
            ));
        }
        if self.is_control() {
            return invalid("control batches are a broker's to write".to_owned());
        }
        if self.is_transactional() && self.producer_id <= NO_PRODUCER_ID {
            return invalid("part of a transaction, but of no producer".to_owned());
        }
        Ok(())
    }

    /// First offset after a batch that stands at `base_offset`.
    pub fn end_offset(&self, base_offset: i64) -> i64 {
        base_offset.saturating_add(i64::from(self.last_offset_delta)).saturating_add(1)
    }

    /// From when on its tombstones may go, once compaction has decided that.
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON_FLAG != 0).then_some(self.base_timestamp_ms)
    }

    /// Whether its records have the time at which they were appended.
    pub fn has_append_time(&self) -> bool {
        self.attributes & APPEND_TIME_FLAG != 0
    }

    /// How the records are compressed; `None` for a codec that does not exist.
    pub fn codec(&self) -> Option<Codec> {
        match self.attributes & CODEC_MASK {
            0 => Some(Codec::None),
            1 => Some(Codec::Gzip),
            2 => Some(Codec::Snappy),
            3 => Some(Codec::Lz4),
            4 => Some(Codec::Zstd),
            _ => None,
        }
    }

    /// Part of a Kafka transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_FLAG != 0
    }

    /// Written by a broker about a transaction; never by a producer.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_FLAG != 0
    }

    /// The producer's number for the last record. Sequences wrap at `i32::MAX` to 0.
    pub fn last_sequence(&self) -> i32 {
        let last = i64::from(self.base_sequence) + i64::from(self.last_offset_delta);
        let wrapped = last % (i64::from(i32::MAX) + 1);
        i32::try_from(wrapped).unwrap_or(i32::MAX)
    }
}

struct Fields<'a> {
    bytes: &'a [u8],
    found: usize,
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BatchError> {
        let (head, rest) = self
            .bytes
            .split_first_chunk::<N>()
            .ok_or(BatchError::Length { said: BATCH_HEADER_BYTES as i64, found: self.found })?;
        self.bytes = rest;
        Ok(*head)
    }
}

/// Splits concatenated batches, as a produce request may carry them.
///
/// # Errors
/// If the last one is truncated.
pub fn split_batches(bytes: &Bytes) -> Result<Vec<Bytes>, BatchError> {
    let mut batches = Vec::new();
    let mut rest = bytes.clone();
    while !rest.is_empty() {
        let length = rest.get(8..LENGTH_PREFIX_BYTES).and_then(|field| field.try_into().ok());
        let said = length.map_or(-1, |length| i64::from(i32::from_be_bytes(length)))
            + LENGTH_PREFIX_BYTES as i64;
        match usize::try_from(said) {
            Ok(length) if length > LENGTH_PREFIX_BYTES && length <= rest.len() => {
                batches.push(rest.split_to(length));
            }
            _ => return Err(BatchError::Length { said, found: rest.len() }),
        }
    }
    Ok(batches)
}

/// Appends `batch` with what the broker assigns filled in.
pub fn put_batch(into: &mut BytesMut, base_offset: i64, leader_epoch: i32, batch: &[u8]) {
    let start = into.len();
    into.extend_from_slice(batch);
    let head = &mut into[start..];
    if let Some(field) = head.get_mut(0..8) {
        field.copy_from_slice(&base_offset.to_be_bytes());
    }
    if let Some(field) = head.get_mut(12..16) {
        field.copy_from_slice(&leader_epoch.to_be_bytes());
    }
}

/// One record of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its offset in the partition.
    pub offset: i64,
    /// Milliseconds since the Unix epoch, by the producer's clock; -1 if unknown.
    pub timestamp_ms: i64,
    /// What it is about; records of one key keep their order.
    pub key: Option<Bytes>,
    /// What it says; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Names and values beside the record, in the producer's order.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

#[cfg(test)]
mod tests;
