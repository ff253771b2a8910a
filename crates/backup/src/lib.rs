//! Backups in a directory or an object store.
//!
//! ```text
//! place/
//! ├── pieces/3f/3fa9…      a piece of a state, compressed, named by the SHA-256 of what it holds
//! ├── backups/000065….json  one backup: where in time, and of each shard its pieces in their order
//! └── log/00000002/0000…    what was committed in a shard behind a backup
//! ```
//! A piece that several backups share is kept once, so each backup after the first costs what has
//! changed, and every one of them is whole by itself. A backup's own file is written last: what is
//! interrupted leaves pieces that the next backup finds, and nothing that looks like a backup.
//!
//! The crate knows shards, pieces and timestamps; what is in a piece is the store's affair.
//!
//! Reading order: [`Backup`], [`LogSegment`], [`Repository`].

mod log;
mod repository;

use proteus_objects::ObjectsError;
use proteus_types::{CommitTs, EntryId, LogIndex, ShardId, Term};
use serde::{Deserialize, Serialize};

pub use log::{LogSegment, chain};
pub use repository::{Added, Pruned, Repository};

/// Version of the format of a backup's own file.
const FORMAT_VERSION: u32 = 2;

/// Largest piece, in bytes: a piece ends with a value, which may be as large as an entry of the log.
const PIECE_BYTES_MAX: usize = 160 * 1024 * 1024;

/// The states of all shards at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Version of this format.
    pub format: u32,
    /// The last commit that it contains: it has every one up to here, and none after.
    pub commit_ts: CommitTs,
    /// When it was taken, in milliseconds of Unix time.
    pub taken_at_ms: u64,
    /// The shards, ascending.
    pub shards: Vec<ShardBackup>,
}

/// The state of one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardBackup {
    /// Its number.
    pub shard: ShardId,
    /// Term of the last entry of its log that it contains.
    pub term: u64,
    /// Index of that entry.
    pub index: u64,
    /// Its pieces, in order.
    pub pieces: Vec<Piece>,
}

impl ShardBackup {
    /// The last entry that it contains.
    pub fn last(&self) -> EntryId {
        EntryId { term: Term(self.term), index: LogIndex(self.index) }
    }
}

impl Backup {
    /// A backup of which nothing has been kept yet.
    pub fn new(commit_ts: CommitTs, taken_at_ms: u64) -> Backup {
        Backup { format: FORMAT_VERSION, commit_ts, taken_at_ms, shards: Vec::new() }
    }

    /// The pieces of all shards.
    pub fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.shards.iter().flat_map(|shard| &shard.pieces)
    }

    /// Bytes of the states, uncompressed.
    pub fn bytes(&self) -> u64 {
        self.pieces().map(|piece| piece.bytes).sum()
    }
}

/// A piece of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// SHA-256 of the piece, in hexadecimal.
    pub sha256: String,
    /// Its length, uncompressed.
    pub bytes: u64,
}

/// Why backups cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The place cannot be used, or reading or writing failed.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    /// A piece cannot be compressed, or a backup not be written down.
    #[error("cannot encode a backup: {0}")]
    Encoding(String),
    /// What was read is not what was written.
    #[error(
        "{what} is damaged: {reason}; restore from another backup, and keep this one for inquiry"
    )]
    Damaged {
        /// Which file.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no such backup.
    #[error("{0}")]
    Missing(String),
}
