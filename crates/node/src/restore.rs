//! A data directory made from a backup, before any node runs on it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proteus_env::disk::{DirectoryLock, Disk, RealDisk};
use proteus_kernel::RestoredState;
use proteus_kernel_api::KernelError;
use proteus_log::{Log, LogOptions};
use proteus_types::{CommitTs, Member, ShardId};

use crate::identity::Identity;
use crate::shards::store_directory;
use crate::{FORMAT_FILE, NodeError, check_format, take_lock};

/// Says that a restore into the directory has not ended.
pub(crate) const RESTORING_FILE: &str = "RESTORING";

/// A restore under way.
pub struct Restore {
    directory: PathBuf,
    /// The shards, as they arrive.
    states: Vec<(ShardId, RestoredState)>,
    _lock: DirectoryLock,
}

impl Restore {
    /// Begins to restore into `directory`, which holds no data, or what an interrupted restore left.
    ///
    /// # Errors
    /// If it holds data, is in use, or cannot be written.
    pub fn begin(directory: &Path) -> Result<Restore, NodeError> {
        let lock = take_lock(directory)?;
        let io = |source| NodeError::Io { path: directory.to_owned(), source };
        let disk = RealDisk::open(directory).map_err(io)?;
        let names = disk.list().map_err(io)?;
        if names.iter().any(|name| name == FORMAT_FILE)
            && !names.iter().any(|name| name == RESTORING_FILE)
        {
            return Err(NodeError::NotEmpty(directory.to_owned()));
        }
        let mark = disk.open(RESTORING_FILE).map_err(io)?;
        mark.flush().map_err(io)?;
        disk.flush_directory().map_err(io)?;
        check_format(directory)?;
        // Stores that are left are removed as their shards begin.
        remove(&directory.join("log")).map_err(io)?;
        Ok(Restore { directory: directory.to_owned(), states: Vec::new(), _lock: lock })
    }

    /// Begins with the next shard: the pieces that are taken from now on are of its state.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn begin_shard(&mut self, shard: ShardId) -> Result<(), NodeError> {
        let store = store_directory(&self.directory, shard);
        let io = |source| NodeError::Io { path: self.directory.clone(), source };
        remove(&store).map_err(io)?;
        self.states.push((shard, RestoredState::begin(&store)?));
        Ok(())
    }

    /// Takes the next piece of the shard's state. Blocks on the disk.
    ///
    /// # Errors
    /// If no shard was begun, the piece is damaged or out of order, or the disk fails.
    pub fn take_chunk(&mut self, chunk: &[u8]) -> Result<(), NodeError> {
        let none = || KernelError::Unavailable("a piece of no shard".to_owned());
        let (_, state) = self.states.last_mut().ok_or_else(none)?;
        Ok(state.take_chunk(chunk)?)
    }

    /// Makes the directory one of a new cluster's first node. Returns the timestamp of the last commit
    /// that it holds.
    ///
    /// # Errors
    /// If pieces are missing, or the disk fails.
    pub async fn finish(self) -> Result<CommitTs, NodeError> {
        let Restore { directory, states, _lock } = self;
        let io = |source| NodeError::Io { path: directory.clone(), source };
        let identity = Identity::founder();
        let log_directory = directory.join("log");
        let log_disk = RealDisk::open(&log_directory).map_err(io)?;
        let log = Log::open(Arc::new(log_disk), LogOptions::default())?;
        let mut last_ts = CommitTs::ZERO;
        for (shard, state) in states {
            let (_, commit_ts) =
                state.finish(&log, shard, identity.node, Member::default()).await?;
            last_ts = last_ts.max(commit_ts);
        }
        drop(log);
        identity.keep(&directory).map_err(io)?;
        let disk = RealDisk::open(&directory).map_err(io)?;
        disk.remove(RESTORING_FILE).map_err(io)?;
        disk.flush_directory().map_err(io)?;
        Ok(last_ts)
    }
}

/// Removes a directory, if it is there.
fn remove(directory: &Path) -> io::Result<()> {
    match proteus_env::disk::is_directory(directory) {
        true => proteus_env::disk::remove_directory(directory),
        false => Ok(()),
    }
}
