//! What one write to the log consists of.

use std::io;

use bytes::Bytes;
use proteus_env::disk::DiskFile;
use proteus_types::{EntryId, ShardId};

use crate::record::{Record, put_entry_head};

/// Payloads from this length on are written from where they are: copying one takes longer than a write of
/// its own.
const APART_BYTES_MIN: usize = 16 * 1024;

/// Room for records beyond this is given back.
const BYTES_KEPT_MAX: usize = 1024 * 1024;

/// Records that are written one behind the other.
#[derive(Default)]
pub(crate) struct Pieces {
    bytes: Vec<u8>,
    /// Long payloads, each with the place in `bytes` before which it stands.
    apart: Vec<(usize, Bytes)>,
    apart_bytes: usize,
}

impl Pieces {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes it takes, all in all.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.apart_bytes
    }

    pub(crate) fn clear(&mut self) {
        if self.bytes.capacity() > BYTES_KEPT_MAX {
            self.bytes = Vec::new();
        }
        self.bytes.clear();
        self.apart.clear();
        self.apart_bytes = 0;
    }

    /// Adds a record.
    pub(crate) fn push(&mut self, record: &Record) {
        record.encode(&mut self.bytes);
    }

    /// Adds an entry; says how many bytes stand before its payload.
    pub(crate) fn push_entry(&mut self, shard: ShardId, id: EntryId, payload: Bytes) -> usize {
        put_entry_head(shard, id, &payload, &mut self.bytes);
        let before = self.len();
        if payload.len() < APART_BYTES_MIN {
            self.bytes.extend_from_slice(&payload);
        } else {
            self.apart_bytes += payload.len();
            self.apart.push((self.bytes.len(), payload));
        }
        before
    }

    /// Writes all of it to `file`, from `byte_offset` on.
    pub(crate) fn write(&self, file: &dyn DiskFile, mut byte_offset: u64) -> io::Result<()> {
        let mut write = |bytes: &[u8]| {
            file.write_at(byte_offset, bytes)?;
            byte_offset += bytes.len() as u64;
            io::Result::Ok(())
        };
        let mut rest = &self.bytes[..];
        let mut written = 0;
        for (place, payload) in &self.apart {
            let (before, after) = rest.split_at(place - written);
            write(before)?;
            write(payload)?;
            (rest, written) = (after, *place);
        }
        if !rest.is_empty() {
            write(rest)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proteus_env::disk::{Disk, RealDisk};
    use proteus_types::{LogIndex, Term};

    use super::*;
    use crate::record::Decoded;

    #[test]
    fn records_with_long_and_short_payloads_stand_one_behind_the_other() {
        let directory = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(directory.path()).unwrap();
        let file = disk.open("log").unwrap();
        let entry = |index: u64, length: usize| Record::Entry {
            shard: ShardId(1),
            id: EntryId { term: Term(1), index: LogIndex(index) },
            payload: Bytes::from(vec![index as u8; length]),
        };
        let records = [
            Record::Flushed { byte_offset: 3 },
            entry(1, APART_BYTES_MIN),
            entry(2, APART_BYTES_MIN * 3),
            entry(3, APART_BYTES_MIN - 1),
            Record::Forget { shard: ShardId(9) },
            entry(4, APART_BYTES_MIN + 1),
        ];
        let mut pieces = Pieces::default();
        let mut expected = Vec::new();
        for record in &records {
            match record.clone() {
                Record::Entry { shard, id, payload } => {
                    let length = payload.len();
                    let before = pieces.push_entry(shard, id, payload);
                    record.encode(&mut expected);
                    assert_eq!(before + length, expected.len());
                }
                _ => {
                    pieces.push(record);
                    record.encode(&mut expected);
                }
            }
            assert_eq!(pieces.len(), expected.len());
        }
        pieces.write(&*file, 7).unwrap();
        let mut found = vec![0; expected.len()];
        file.read_at(7, &mut found).unwrap();
        assert_eq!(found, expected);
        let mut rest = &found[..];
        for record in records {
            let Decoded::Record(decoded, used) = Record::decode(rest) else { panic!() };
            assert_eq!(decoded, record);
            rest = &rest[used..];
        }
        pieces.clear();
        assert!(pieces.is_empty());
        assert_eq!(pieces.len(), 0);
    }
}
