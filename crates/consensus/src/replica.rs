//! The state machine as the library sees it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, SnapshotMeta};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::{EntryPayload, RaftSnapshotBuilder, Snapshot};
use proteus_env::task;
use proteus_types::EntryId;

use crate::config::{
    Entry, LogId, StoredMembership, TypeConfig, entry_id, from_bytes, log_id, to_bytes,
};

/// Why a replica cannot go on: its disk failed, or its state is damaged.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ReplicaFault(pub String);

/// One committed entry.
#[derive(Debug)]
pub struct Applied {
    /// Its name; to be stored with the state it leads to.
    pub id: EntryId,
    /// The group's membership from here on, if it changes; to be stored likewise.
    pub membership: Option<Bytes>,
    /// Minitransactions, unless the entry is consensus' own.
    pub payload: Option<Bytes>,
}

/// What a consensus group drives: the kernel's side.
pub trait Replica: Send + Sync + 'static {
    /// Name of the last entry that the stored state contains, and the membership stored with it.
    ///
    /// # Errors
    /// If the store fails.
    fn applied(&self) -> Result<(Option<EntryId>, Option<Bytes>), ReplicaFault>;

    /// Applies the next committed entry. State, its name and membership change in one atomic step.
    ///
    /// # Errors
    /// If this replica cannot go on; the group then stops.
    fn apply(&self, entry: Applied) -> Result<(), ReplicaFault>;

    /// Name of the last entry that the newest checkpoint on disk contains, and the membership there. `None`
    /// before the first.
    fn checkpointed(&self) -> Option<(EntryId, Option<Bytes>)>;

    /// The same of a checkpoint that makes the log up to it needless, here and for others, to whom it may be
    /// sent instead; `None` if the newest does not.
    fn purgeable(&self) -> Option<(EntryId, Option<Bytes>)>;

    /// An image of the newest checkpoint on disk, to be sent to another replica. It stays as it is
    /// while it is held. `None` before the first checkpoint.
    ///
    /// # Errors
    /// If the store fails.
    fn open_image(&self) -> Result<Option<Image>, ReplicaFault>;

    /// Begins to receive such an image, beside the present state, which stays until the image is
    /// installed. One begun before and not installed is given up.
    ///
    /// # Errors
    /// If the store fails.
    fn receive_image(&self) -> Result<Box<dyn ReceivedImage>, ReplicaFault>;
}

/// A log snapshot on its way out.
pub struct Image {
    /// Name of the last entry that it contains.
    pub id: EntryId,
    /// The membership there.
    pub membership: Option<Bytes>,
    /// Its bytes.
    pub chunks: Box<dyn ImageChunks>,
}

/// The bytes of a log snapshot, in pieces of a size that a message may have.
pub trait ImageChunks: Send + 'static {
    /// The next piece; `None` at the end. Blocks on the disk.
    ///
    /// # Errors
    /// If the store fails.
    fn next_chunk(&mut self) -> Result<Option<Bytes>, ReplicaFault>;

    /// Whether another replica may take it over yet.
    fn may_leave(&self) -> bool;
}

/// A log snapshot on its way in.
pub trait ReceivedImage: Send + 'static {
    /// Takes the next piece. Blocks on the disk.
    ///
    /// # Errors
    /// If it is damaged, or the store fails.
    fn take_chunk(&mut self, chunk: &[u8]) -> Result<(), ReplicaFault>;

    /// Puts the image in place of the replica's state. It must say of itself that it ends with `id`.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// If it does not, or the store fails.
    fn install(self: Box<Self>, id: EntryId) -> Result<(), ReplicaFault>;
}

/// What the library passes about as a log snapshot.
pub enum SnapshotHandle {
    /// A checkpoint in the replica's own store, named so that the log before it can go.
    Own,
    /// To be sent.
    Outgoing(Box<dyn ImageChunks>),
    /// Received whole, to be installed.
    Received(Box<dyn ReceivedImage>),
}

/// Bounds how fast log snapshots leave this node, so that feeding a replica does not harm the rest.
#[derive(Debug, Default)]
pub struct SnapshotPace {
    bytes_per_second_max: AtomicU64,
}

impl SnapshotPace {
    /// A bound in bytes a second; 0 is none.
    pub fn new(bytes_per_second_max: u64) -> SnapshotPace {
        SnapshotPace { bytes_per_second_max: AtomicU64::new(bytes_per_second_max) }
    }

    /// Changes the bound, also for snapshots under way.
    pub fn set(&self, bytes_per_second_max: u64) {
        self.bytes_per_second_max.store(bytes_per_second_max, Ordering::Relaxed);
    }

    /// Waits as long as so many bytes may take.
    pub async fn pass(&self, bytes: usize) {
        let rate = self.bytes_per_second_max.load(Ordering::Relaxed);
        if rate > 0 {
            task::sleep(Duration::from_secs_f64(bytes as f64 / rate as f64)).await;
        }
    }
}

/// An entry as a replica is given it.
pub(crate) fn applied(entry: &Entry) -> io::Result<Applied> {
    let id = entry_id(&entry.log_id);
    Ok(match &entry.payload {
        EntryPayload::Blank => Applied { id, membership: None, payload: None },
        EntryPayload::Normal(payload) => {
            Applied { id, membership: None, payload: Some(payload.content()) }
        }
        EntryPayload::Membership(membership) => {
            let stored = StoredMembership::new(Some(entry.log_id), membership.clone());
            Applied { id, membership: Some(to_bytes(&stored)?), payload: None }
        }
    })
}

/// Wires a replica to the library.
#[derive(Clone)]
pub(crate) struct ReplicaMachine {
    pub(crate) replica: Arc<dyn Replica>,
}

fn fault(error: ReplicaFault) -> io::Error {
    io::Error::other(error.to_string())
}

fn stored(
    id: Option<EntryId>,
    membership: Option<Bytes>,
) -> io::Result<(Option<LogId>, StoredMembership)> {
    let membership = match membership {
        Some(bytes) => from_bytes(&bytes)?,
        None => StoredMembership::default(),
    };
    Ok((id.map(log_id), membership))
}

impl RaftStateMachine<TypeConfig> for ReplicaMachine {
    type SnapshotData = SnapshotHandle;
    type SnapshotBuilder = ReplicaMachine;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let (id, membership) = self.replica.applied().map_err(fault)?;
        stored(id, membership)
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            self.replica.apply(applied(&entry)?).map_err(fault)?;
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> ReplicaMachine {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig>,
        snapshot: SnapshotHandle,
    ) -> io::Result<()> {
        let (SnapshotHandle::Received(image), Some(last)) = (snapshot, &meta.last_log_id) else {
            return Err(io::Error::other("only a received log snapshot can be installed"));
        };
        let id = entry_id(last);
        let installed = task::spawn_blocking(move || image.install(id)).await;
        installed.map_err(io::Error::other)?.map_err(fault)
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotHandle>>> {
        let Some(image) = self.replica.open_image().map_err(fault)? else { return Ok(None) };
        let (last_log_id, last_membership) = stored(Some(image.id), image.membership)?;
        let meta = SnapshotMeta { last_log_id, last_membership };
        Ok(Some(Snapshot { meta, snapshot: SnapshotHandle::Outgoing(image.chunks) }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for ReplicaMachine {
    type SnapshotData = SnapshotHandle;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, SnapshotHandle>> {
        let purgeable = self.replica.purgeable();
        let (id, membership) = purgeable.map_or((None, None), |(id, members)| (Some(id), members));
        let (last_log_id, last_membership) = stored(id, membership)?;
        let meta = SnapshotMeta { last_log_id, last_membership };
        Ok(Snapshot { meta, snapshot: SnapshotHandle::Own })
    }
}
