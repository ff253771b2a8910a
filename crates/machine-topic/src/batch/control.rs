//! Control batches: the broker's own records about transactions (KIP-98).

use bytes::Bytes;

use super::encode::{NewRecord, frame_batch, put_checksum};
use super::{BatchHeader, CONTROL_FLAG, TRANSACTIONAL_FLAG, decode_records};

/// Versions of a marker's key and value.
const VERSION: i16 = 0;
const ABORT: i16 = 0;
const COMMIT: i16 = 1;
/// Generation of the transactions' coordinator: there is one for good.
const COORDINATOR_EPOCH: i32 = 0;

/// How a producer's transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// The producer.
    pub producer_id: i64,
    /// Its epoch from the marker on.
    pub producer_epoch: i16,
    /// Whether it was committed; otherwise it was aborted.
    pub is_commit: bool,
}

/// The control batch that ends a transaction in one partition.
pub fn frame_marker(marker: Marker, timestamp_ms: i64) -> Bytes {
    let kind = if marker.is_commit { COMMIT } else { ABORT };
    let key = [VERSION.to_be_bytes(), kind.to_be_bytes()].concat();
    let value = [&VERSION.to_be_bytes()[..], &COORDINATOR_EPOCH.to_be_bytes()].concat();
    let record =
        NewRecord { key: Some(key.into()), value: Some(value.into()), headers: Vec::new() };
    // One record is neither none nor too many.
    let mut batch = frame_batch(&[record], timestamp_ms).unwrap_or_default().to_vec();
    let attributes = TRANSACTIONAL_FLAG | CONTROL_FLAG;
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    batch[43..51].copy_from_slice(&marker.producer_id.to_be_bytes());
    batch[51..53].copy_from_slice(&marker.producer_epoch.to_be_bytes());
    put_checksum(&mut batch);
    Bytes::from(batch)
}

/// The marker in a batch; `None` if it is another batch.
pub fn read_marker(batch: &Bytes) -> Option<Marker> {
    let header = BatchHeader::parse(batch).ok().filter(BatchHeader::is_control)?;
    let record = decode_records(batch, 0).ok()?.next()?.ok()?;
    let kind = i16::from_be_bytes(record.key?.get(2..4)?.try_into().ok()?);
    matches!(kind, ABORT | COMMIT).then_some(Marker {
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        is_commit: kind == COMMIT,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_come_back() {
        for is_commit in [true, false] {
            let marker = Marker { producer_id: 7, producer_epoch: 3, is_commit };
            let batch = frame_marker(marker, 1_000);
            let header = BatchHeader::parse(&batch).unwrap();
            assert!(header.is_control() && header.is_transactional());
            assert_eq!(crc32c::crc32c(&batch[21..]), header.crc);
            assert_eq!(read_marker(&batch), Some(marker));
            assert!(BatchHeader::parse_produced(&batch).is_err(), "a producer's it cannot be");
        }
        assert_eq!(read_marker(&frame_batch(&[NewRecord::default()], 1).unwrap()), None);
    }
}
