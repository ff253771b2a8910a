//! A shard's whole state outside its shard: on its way out, and brought back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proteus_consensus::{ImageChunks, ReplicaFault, members_of, purge_to};
use proteus_log::Log;
use proteus_machine::KernelError;
use proteus_store::{DiskImage, DiskStore, IncomingStore, LayeredStore, StoreError};
use proteus_types::{CommitTs, EntryId, Member, NodeId, ShardId};

use crate::digests::{Vouched, clear_difference};
use crate::state::{APPLIED_KEY, AppliedPosition, MEMBERSHIP_KEY, decode_applied};

/// The state at one commit, whatever is committed later.
pub struct StateImage {
    /// The last entry that it contains.
    pub id: EntryId,
    /// The timestamp of its last commit.
    pub commit_ts: CommitTs,
    image: DiskImage,
    vouched: Arc<Vouched>,
}

impl StateImage {
    /// The state at the newest checkpoint of `store`.
    pub(crate) fn open(
        store: &LayeredStore,
        vouched: Arc<Vouched>,
    ) -> Result<StateImage, StoreError> {
        let missing = || StoreError::corrupt(APPLIED_KEY, "there is no checkpoint to be read");
        let image = store.image().ok_or_else(missing)?;
        let applied = image.get(APPLIED_KEY)?.ok_or_else(missing)?;
        let AppliedPosition { id, commit_ts, .. } = decode_applied(&applied).ok_or_else(missing)?;
        Ok(StateImage { id, commit_ts, image, vouched })
    }

    /// The group's membership there.
    pub(crate) fn membership(&self) -> Result<Option<Bytes>, StoreError> {
        self.image.get(MEMBERSHIP_KEY)
    }

    /// The next piece, of about a MiB; `None` at the end. What changes between two images changes few of
    /// their pieces. Blocks on the disk.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, KernelError> {
        Ok(self.image.next_chunk()?)
    }
}

impl ImageChunks for StateImage {
    fn may_leave(&self) -> bool {
        self.vouched.covers(self.id.index)
    }

    fn next_chunk(&mut self) -> Result<Option<Bytes>, ReplicaFault> {
        self.image.next_chunk().map_err(|fault| ReplicaFault(fault.to_string()))
    }
}

/// What a shard's store holds while no node runs on it.
#[derive(Debug, Clone, Copy)]
pub struct StoreReport {
    /// The last entry that the newest checkpoint contains, and its commit timestamp; `None` before the
    /// first checkpoint.
    pub applied: Option<(EntryId, CommitTs)>,
    /// Keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// Reads the whole store in `store_directory`, checking every checksum.
///
/// # Errors
/// If it is damaged or cannot be read.
pub fn examine_store(store_directory: &Path) -> Result<StoreReport, KernelError> {
    let disk = DiskStore::open(store_directory)?;
    let (keys, bytes) = disk.verify()?;
    let value = disk.image().get(APPLIED_KEY)?;
    let applied = value.map(|value| {
        decode_applied(&value)
            .map(|position| (position.id, position.commit_ts))
            .ok_or_else(|| StoreError::corrupt(APPLIED_KEY, "not an applied position"))
    });
    Ok(StoreReport { applied: applied.transpose()?, keys, bytes })
}

/// The members of the shard as the newest checkpoint in `store_directory` knows them.
///
/// # Errors
/// If it cannot be read.
pub fn stored_members(store_directory: &Path) -> Result<BTreeMap<NodeId, Member>, KernelError> {
    let disk = DiskStore::open(store_directory)?;
    let Some(membership) = disk.image().get(MEMBERSHIP_KEY)? else { return Ok(BTreeMap::new()) };
    members_of(&membership)
        .map_err(|error| StoreError::corrupt(MEMBERSHIP_KEY, error.to_string()).into())
}

/// An image that becomes the state of a new cluster, or of a replica.
pub struct RestoredState {
    store: IncomingStore,
}

impl RestoredState {
    /// Begins to build the state in `store_directory`.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn begin(store_directory: &Path) -> Result<RestoredState, KernelError> {
        Ok(RestoredState { store: IncomingStore::begin(store_directory)? })
    }

    /// Takes the next piece. Blocks on the disk.
    ///
    /// # Errors
    /// If it is damaged or does not follow the last, or the disk fails.
    pub fn take_chunk(&mut self, chunk: &[u8]) -> Result<(), KernelError> {
        Ok(self.store.take_chunk(chunk)?)
    }

    fn applied(&mut self) -> Result<AppliedPosition, StoreError> {
        let value = self.store.get(APPLIED_KEY)?;
        value
            .and_then(|value| decode_applied(&value))
            .ok_or_else(|| StoreError::corrupt(APPLIED_KEY, "the image is not of a shard"))
    }

    /// Puts the state in place of one that differs from the other replicas'. The log stays, as does who
    /// voted for whom: what this replica told the others holds. Entries behind the image are applied anew.
    ///
    /// # Errors
    /// If pieces are missing, the image ends before the log begins, or the disk fails.
    pub async fn replace(mut self, log: &Log, shard: ShardId) -> Result<EntryId, KernelError> {
        let AppliedPosition { id, .. } = self.applied()?;
        let (purged, last) = log.bounds(shard);
        if purged.is_some_and(|purged| purged.index > id.index) {
            return Err(KernelError::Unavailable(
                "the image is older than the log here".to_owned(),
            ));
        }
        let directory = self.store.directory().to_owned();
        self.store.install()?;
        if last.is_none_or(|last| last.index < id.index) {
            let failed = |error: std::io::Error| KernelError::Stopped(error.to_string());
            purge_to(log, shard, id).await.map_err(failed)?;
        }
        clear_difference(&directory)?;
        Ok(id)
    }

    /// Puts the state in place, for [`crate::Replay`] to go on from.
    ///
    /// # Errors
    /// If pieces are missing, or the disk fails.
    pub fn install(mut self) -> Result<(), KernelError> {
        self.applied()?;
        self.store.install()?;
        Ok(())
    }
}
