//! An ordered key space: what state machines keep their state in.
//!
//! ```text
//!   apply ──put/delete──▶ active table ──freeze──▶ frozen table ──one ingestion──▶ disk
//!   read  ──get/scan────▶ active, then frozen, then (get) rows read lately, then disk
//! ```
//!
//! A store is always at a prefix of its shard's log. [`LayeredStore`] holds recent changes in memory
//! and moves them to disk in one atomic step together with the index of the last entry they contain;
//! what a crash takes is replayed from the log. It knows no data model: keys and values are bytes.
//!
//! Reading order: [`Read`], [`State`], [`LayeredStore`], [`disk`].

mod disk;
mod facts;
mod image;
mod layered;
mod merges;
mod order;
mod packed;
mod rows;
mod short;
mod table;

use std::ops::ControlFlow;

use bytes::Bytes;

pub use disk::DiskStore;
pub use image::{DiskImage, IncomingStore};
pub use layered::{Checkpoint, Frozen, LayeredStore};
pub use rows::set_rows_memory;
pub use table::{FETCHED_MAX, Fetch};

/// Longest key, in bytes. A key is held in memory and in every index block, so it stays small.
pub const KEY_BYTES_MAX: usize = 64 * 1024 - 1;

/// Why the store could not do what it was asked. Each stops the replica: it is never the answer to
/// a client's command.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk or the file system failed.
    #[error("the store at {location} failed: {message}; check the disk, then restart the node")]
    Io {
        /// Where the store's files are.
        location: String,
        /// What the storage engine said.
        message: String,
    },
    /// Bytes in the store are not what was written.
    #[error(
        "damaged value under key {key}: {message}; restore this node from a backup or another replica"
    )]
    Corrupt {
        /// The key, escaped.
        key: String,
        /// What is wrong with the value.
        message: String,
    },
    /// A reader of several shards' states looks at what is in one that this node has no replica of. It is never the
    /// error of a replica's own store.
    #[error("{0} has no replica on this node")]
    Away(String),
}

impl StoreError {
    /// A value that cannot be decoded.
    pub fn corrupt(key: &[u8], message: impl Into<String>) -> StoreError {
        StoreError::Corrupt { key: key.escape_ascii().to_string(), message: message.into() }
    }
}

/// Order in which a scan visits keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Smallest key first.
    Ascending,
    /// Largest key first.
    Descending,
}

/// What a scan calls for each key and value; `Break` ends the scan.
pub type Visit<'a> = dyn FnMut(&[u8], &Bytes) -> ControlFlow<()> + 'a;

/// Tells keys, one after the other, to whom it is handed.
pub type TellKeys<'a> = dyn Fn(&mut dyn FnMut(&[u8])) + 'a;

/// Read access to an ordered key space at one moment.
pub trait Read {
    /// The value under `key`, if there is one. Cloning it copies no bytes.
    ///
    /// # Errors
    /// If the disk fails or holds damaged bytes.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Visits keys from `start` (inclusive) to `end` (exclusive) in `direction`.
    ///
    /// # Errors
    /// If the disk fails or holds damaged bytes.
    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError>;

    /// Has the processor fetch what reads of the told keys will look at, as far as it is in memory: a hint that
    /// changes nothing. Told are at most [`FETCHED_MAX`] of them.
    fn prefetch(&self, tell: &TellKeys<'_>) {
        let _ = tell;
    }

    /// Visits every key that begins with `prefix`, smallest first.
    ///
    /// # Errors
    /// As [`Read::scan`].
    fn scan_prefix(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.scan(prefix, &prefix_end(prefix), Direction::Ascending, visit)
    }
}

/// Read and write access, for one entry of the log being applied.
pub trait State: Read {
    /// Sets the value under `key`.
    fn put(&mut self, key: Bytes, value: Bytes);
    /// Removes `key`; removing what is not there is no error.
    fn delete(&mut self, key: Bytes);
    /// Marks a point to which [`State::rollback`] returns. Savepoints do not nest.
    fn savepoint(&mut self);
    /// Undoes every put and delete since the last savepoint.
    fn rollback(&mut self);
}

/// The first key after all keys that begin with `prefix`. For a prefix of only 0xFF bytes there is
/// none, and the result is longer than any key.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xFF {
            end.push(last + 1);
            return end;
        }
    }
    vec![0xFF; KEY_BYTES_MAX + 1]
}
