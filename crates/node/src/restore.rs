//! A data directory made from a backup, before any node runs on it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proteus_env::disk::{DirectoryLock, Disk, RealDisk};
use proteus_kernel::RestoredState;
use proteus_log::{Log, LogOptions};
use proteus_types::{CommitTs, Member, ShardId};

use crate::identity::Identity;
use crate::{FORMAT_FILE, NodeError, check_format, take_lock};

/// Says that a restore into the directory has not ended.
pub(crate) const RESTORING_FILE: &str = "RESTORING";

/// A restore under way.
pub struct Restore {
    directory: PathBuf,
    state: RestoredState,
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
        for left in ["store", "log"] {
            let left = directory.join(left);
            if proteus_env::disk::is_directory(&left) {
                proteus_env::disk::remove_directory(&left).map_err(io)?;
            }
        }
        let state = RestoredState::begin(&directory.join("store"))?;
        Ok(Restore { directory: directory.to_owned(), state, _lock: lock })
    }

    /// Takes the next piece of the state. Blocks on the disk.
    ///
    /// # Errors
    /// If it is damaged or out of order, or the disk fails.
    pub fn take_chunk(&mut self, chunk: &[u8]) -> Result<(), NodeError> {
        Ok(self.state.take_chunk(chunk)?)
    }

    /// Makes the directory one of a new cluster's first node. Returns the timestamp of the last commit
    /// that it holds.
    ///
    /// # Errors
    /// If pieces are missing, or the disk fails.
    pub async fn finish(self) -> Result<CommitTs, NodeError> {
        let Restore { directory, state, _lock } = self;
        let io = |source| NodeError::Io { path: directory.clone(), source };
        let identity = Identity::founder();
        let log_directory = directory.join("log");
        let log_disk = RealDisk::open(&log_directory).map_err(io)?;
        let log = Log::open(Arc::new(log_disk), LogOptions::default())?;
        let (_, commit_ts) =
            state.finish(&log, ShardId::META, identity.node, Member::default()).await?;
        drop(log);
        identity.keep(&directory).map_err(io)?;
        let disk = RealDisk::open(&directory).map_err(io)?;
        disk.remove(RESTORING_FILE).map_err(io)?;
        disk.flush_directory().map_err(io)?;
        Ok(commit_ts)
    }
}
