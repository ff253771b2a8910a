//! The state machine as the library sees it.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, SnapshotMeta};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::{EntryPayload, RaftSnapshotBuilder, Snapshot};
use proteus_types::EntryId;

use crate::config::{
    LogId, Payload, StoredMembership, TypeConfig, entry_id, from_bytes, log_id, to_bytes,
};

/// Why a replica cannot go on: its disk failed, or its state is damaged.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ReplicaFault(pub String);

/// One committed entry.
#[derive(Debug)]
pub struct Applied<'a> {
    /// Its name; to be stored with the state it leads to.
    pub id: EntryId,
    /// The group's membership from here on, if it changes; to be stored likewise.
    pub membership: Option<Bytes>,
    /// Minitransactions, unless the entry is consensus' own.
    pub payload: Option<&'a Bytes>,
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
    fn apply(&self, entry: Applied<'_>) -> Result<(), ReplicaFault>;

    /// Name of the last entry that the newest checkpoint on disk contains, and the membership there:
    /// the log up to it is no longer needed. `None` before the first.
    fn checkpointed(&self) -> Option<(EntryId, Option<Bytes>)>;
}

/// Names a checkpoint that lies in the replica's own store.
#[derive(Debug, Clone)]
pub struct SnapshotHandle;

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
            let id = entry_id(&entry.log_id);
            let applied = match &entry.payload {
                EntryPayload::Blank => Applied { id, membership: None, payload: None },
                EntryPayload::Normal(Payload(payload)) => {
                    Applied { id, membership: None, payload: Some(payload) }
                }
                EntryPayload::Membership(membership) => {
                    let stored = StoredMembership::new(Some(entry.log_id), membership.clone());
                    Applied { id, membership: Some(to_bytes(&stored)?), payload: None }
                }
            };
            self.replica.apply(applied).map_err(fault)?;
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
        _meta: &SnapshotMetaOf<TypeConfig>,
        _snapshot: SnapshotHandle,
    ) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "groups have one voter in this version"))
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotHandle>>> {
        let Some((id, membership)) = self.replica.checkpointed() else { return Ok(None) };
        let (last_log_id, last_membership) = stored(Some(id), membership)?;
        let meta = SnapshotMeta { last_log_id, last_membership };
        Ok(Some(Snapshot { meta, snapshot: SnapshotHandle }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for ReplicaMachine {
    type SnapshotData = SnapshotHandle;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, SnapshotHandle>> {
        let checkpointed = self.replica.checkpointed();
        let (id, membership) =
            checkpointed.map_or((None, None), |(id, members)| (Some(id), members));
        let (last_log_id, last_membership) = stored(id, membership)?;
        let meta = SnapshotMeta { last_log_id, last_membership };
        Ok(Snapshot { meta, snapshot: SnapshotHandle })
    }
}
