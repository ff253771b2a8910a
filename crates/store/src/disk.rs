//! The part of a store that is on disk: an LSM tree fed by whole checkpoints.

use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions};

use crate::image::{self, DiskImage};
use crate::layered::Change;
use crate::short::{Key, Value};
use crate::{Direction, KEY_BYTES_MAX, StoreError};

/// Blocks of the tree kept in memory, in bytes. Hot rows live in the tables above; this serves the
/// rest, and counts against the idle memory only as it fills.
const BLOCK_CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// Values from this length on stand in files of their own, which merges of the tree do not rewrite.
/// They are mostly record batches, which never change and go in the order in which they came.
const VALUE_APART_BYTES_MIN: u32 = 4 * 1024;

/// The name of the one key space inside the tree.
const KEYSPACE: &str = "state";

/// An ordered key space on disk. Clones share it.
///
/// It is written only by [`DiskStore::ingest`]: sorted changes become a table of the tree at once,
/// without passing the tree's own journal, because the shard's log is the journal.
#[derive(Clone)]
pub struct DiskStore {
    database: Database,
    keyspace: Keyspace,
    location: PathBuf,
}

impl fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskStore").field("location", &self.location).finish_non_exhaustive()
    }
}

impl DiskStore {
    /// Opens the store in `directory`, creating it if it is not there. A replacement that a crash
    /// interrupted is ended first.
    ///
    /// # Errors
    /// If the disk fails or holds damaged files.
    pub fn open(directory: &Path) -> Result<DiskStore, StoreError> {
        let io = |error: fjall::Error| StoreError::Io {
            location: directory.display().to_string(),
            message: error.to_string(),
        };
        image::settle(directory)?;
        let database = Database::builder(directory)
            .cache_size(BLOCK_CACHE_BYTES)
            .worker_threads(1)
            .open()
            .map_err(io)?;
        let options = || {
            // Large values are record batches above all, which stand as their producers compressed them: trying
            // again costs a fifteenth of the processor's time, and as much again when they are read.
            let apart = KvSeparationOptions::default()
                .separation_threshold(VALUE_APART_BYTES_MIN)
                .compression(CompressionType::None);
            KeyspaceCreateOptions::default().with_kv_separation(Some(apart))
        };
        let keyspace = database.keyspace(KEYSPACE, options).map_err(io)?;
        Ok(DiskStore { database, keyspace, location: directory.to_owned() })
    }

    /// Bytes that the store's files take.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.database.disk_space().map_err(|error| self.io(&error))
    }

    /// Reads every key and value, each of which the tree checks against its checksum, and says how many
    /// keys there are and how many bytes they and their values have.
    ///
    /// # Errors
    /// If the disk fails or holds damaged bytes.
    pub fn verify(&self) -> Result<(u64, u64), StoreError> {
        let (mut keys, mut bytes) = (0, 0);
        for guard in self.keyspace.iter() {
            let (key, value) = guard.into_inner().map_err(|error| self.io(&error))?;
            keys += 1;
            bytes += (key.len() + value.len()) as u64;
        }
        Ok((keys, bytes))
    }

    /// The store as it is now, to be sent to another node.
    pub fn image(&self) -> DiskImage {
        DiskImage::new(self.database.clone(), self.keyspace.clone(), self.location.clone())
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.keyspace.get(key).map_err(|error| self.io(&error))?;
        Ok(value.map(Bytes::from))
    }

    /// Keys from `start` (inclusive) to `end` (exclusive), as the upper layers present theirs.
    pub(crate) fn range<'a>(
        &'a self,
        start: &[u8],
        end: &[u8],
        direction: Direction,
    ) -> Box<dyn Iterator<Item = Result<Change, StoreError>> + 'a> {
        // The tree takes no bound longer than a key, such as the end of a prefix that has none.
        let end = &end[..end.len().min(KEY_BYTES_MAX)];
        let range = self.keyspace.range::<&[u8], _>(start..end);
        let open = move |guard: fjall::Guard| {
            let (key, value) = guard.into_inner().map_err(|error| self.io(&error))?;
            Ok((Key::from(&key[..]), Value::from(Bytes::from(value))))
        };
        match direction {
            Direction::Ascending => Box::new(range.map(open)),
            Direction::Descending => Box::new(range.rev().map(open)),
        }
    }

    /// Writes changes, which come in the order of their keys, in one atomic step.
    pub(crate) fn ingest<'a>(
        &self,
        changes: impl Iterator<Item = (&'a Key, &'a Value)>,
    ) -> Result<(), StoreError> {
        let io = |error: fjall::Error| self.io(&error);
        let mut ingestion = self.keyspace.start_ingestion().map_err(io)?;
        for (key, value) in changes {
            let key: &[u8] = key.as_ref();
            match value.bytes() {
                Some(value) => ingestion.write(key, value).map_err(io)?,
                None => ingestion.write_tombstone(key).map_err(io)?,
            }
        }
        ingestion.finish().map_err(io)
    }

    fn io(&self, error: &fjall::Error) -> StoreError {
        StoreError::Io { location: self.location.display().to_string(), message: error.to_string() }
    }
}
