//! A data directory made from a backup, before any node runs on it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use proteus_env::Clock;
use proteus_env::disk::{DirectoryLock, Disk, RealDisk};
use proteus_kernel::{Replay, RestoredState};
use proteus_kernel_api::{KernelError, cache};
use proteus_log::{Log, LogOptions};
use proteus_shard_machine::Composed;
use proteus_types::{CommitTs, Member, ShardId, SlotMap};

use crate::identity::Identity;
use crate::shards::store_directory;
use crate::{FORMAT_FILE, NodeError, check_format, take_lock};

/// Says that a restore into the directory has not ended.
pub(crate) const RESTORING_FILE: &str = "RESTORING";

/// A restore under way. Of each shard in turn: [`Restore::begin_shard`], its state's pieces, [`Restore::begin_log`],
/// the parts of its log that follow, [`Restore::end_shard`].
pub struct Restore {
    directory: PathBuf,
    identity: Identity,
    log: Log,
    clock: Arc<dyn Clock>,
    until: CommitTs,
    shard: ShardId,
    arriving: Option<RestoredState>,
    replay: Option<Replay<Composed>>,
    last_ts: CommitTs,
    /// Those that were restored, and those that there were then.
    restored: BTreeSet<ShardId>,
    map: SlotMap,
    _lock: DirectoryLock,
}

impl Restore {
    /// Begins to restore what was committed up to `until` into `directory`, which holds no data, or what an
    /// interrupted restore left.
    ///
    /// # Errors
    /// If it holds data, is in use, or cannot be written.
    pub fn begin(
        directory: &Path,
        clock: Arc<dyn Clock>,
        until: CommitTs,
    ) -> Result<Restore, NodeError> {
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
        let log_directory = directory.join("log");
        remove(&log_directory).map_err(io)?;
        let log_disk = RealDisk::open(&log_directory).map_err(io)?;
        let log = Log::open(Arc::new(log_disk), LogOptions::default())?;
        Ok(Restore {
            directory: directory.to_owned(),
            identity: Identity::founder(),
            log,
            clock,
            until,
            shard: ShardId::META,
            arriving: None,
            replay: None,
            last_ts: CommitTs::ZERO,
            restored: BTreeSet::new(),
            map: SlotMap::default(),
            _lock: lock,
        })
    }

    /// Begins with the next shard: the pieces that are taken from now on are of its state.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn begin_shard(&mut self, shard: ShardId) -> Result<(), NodeError> {
        let store = store_directory(&self.directory, shard);
        let io = |source| NodeError::Io { path: self.directory.clone(), source };
        remove(&store).map_err(io)?;
        (self.shard, self.arriving) = (shard, Some(RestoredState::begin(&store)?));
        Ok(())
    }

    /// Takes the next piece of the shard's state. Blocks on the disk.
    ///
    /// # Errors
    /// If no shard was begun, the piece is damaged or out of order, or the disk fails.
    pub fn take_chunk(&mut self, chunk: &[u8]) -> Result<(), NodeError> {
        let arriving = self.arriving.as_mut().ok_or_else(|| unasked("a piece of no shard"))?;
        Ok(arriving.take_chunk(chunk)?)
    }

    /// The shard's state is there; what follows is its log. Blocks on the disk.
    ///
    /// # Errors
    /// If pieces are missing, or the disk fails.
    pub fn begin_log(&mut self) -> Result<(), NodeError> {
        let arrived = self.arriving.take().ok_or_else(|| unasked("a log of no shard"))?;
        arrived.install()?;
        let store = store_directory(&self.directory, self.shard);
        let (log, clock) = (self.log.clone(), self.clock.clone());
        self.replay = Some(Replay::open(self.shard, &store, log, clock, self.until)?);
        Ok(())
    }

    /// Takes the next part of the shard's log; false once nothing more of it is needed. Blocks on the disk.
    ///
    /// # Errors
    /// If it does not follow, is damaged, or does not lead to what was there then; or the disk fails.
    pub fn take_log(&mut self, part: &Bytes) -> Result<bool, NodeError> {
        let replay = self.replay.as_mut().ok_or_else(|| unasked("a log of no shard"))?;
        Ok(replay.take(part)?)
    }

    /// The shard is whole.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn end_shard(&mut self) -> Result<(), NodeError> {
        let replay = self.replay.take().ok_or_else(|| unasked("the end of no shard"))?;
        if self.shard == ShardId::META {
            let mut found = Ok(SlotMap::default());
            replay.read(&mut |view| found = cache::slots::slot_map(view.state))?;
            self.map = found.map_err(KernelError::from)?;
        }
        let last_ts = replay.finish(self.identity.node, Member::default()).await?;
        self.last_ts = self.last_ts.max(last_ts);
        self.restored.insert(self.shard);
        Ok(())
    }

    /// Makes the directory one of a new cluster's first node. Returns the timestamp of the last commit
    /// that it holds.
    ///
    /// # Errors
    /// If there were other shards at that moment, or the disk fails.
    pub fn finish(self) -> Result<CommitTs, NodeError> {
        let Restore { directory, identity, log, last_ts, restored, map, _lock, .. } = self;
        if let Some(missing) = map.shards().iter().find(|shard| !restored.contains(*shard)) {
            return Err(unasked(&format!(
                "shard {missing} had been added since the backup before that moment; choose one before that, or \
                 after the next backup"
            ))
            .into());
        }
        let io = |source| NodeError::Io { path: directory.clone(), source };
        drop(log);
        identity.keep(&directory).map_err(io)?;
        let disk = RealDisk::open(&directory).map_err(io)?;
        disk.remove(RESTORING_FILE).map_err(io)?;
        disk.flush_directory().map_err(io)?;
        Ok(last_ts)
    }
}

fn unasked(what: &str) -> KernelError {
    KernelError::Unavailable(what.to_owned())
}

/// Removes a directory, if it is there.
fn remove(directory: &Path) -> io::Result<()> {
    match proteus_env::disk::is_directory(directory) {
        true => proteus_env::disk::remove_directory(directory),
        false => Ok(()),
    }
}
