//! The state of a shard, and applying entries to it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use proteus_consensus::{Applied, Replica, ReplicaFault};
use proteus_env::Clock;
use proteus_machine::{Committed, Position, ShardMachine, View};
use proteus_store::{Checkpoint, DiskStore, LayeredStore, Read, State, StoreError};
use proteus_types::{CommitTs, EntryId, LogIndex, NodeId, Term};
use tracing::error;

use crate::envelope::Envelope;
use crate::proposer::Pending;
use crate::shard::CommitSink;

/// Keys of the kernel's own facts, in space 0.
const APPLIED_KEY: &[u8] = &[0, 1];
const MEMBERSHIP_KEY: &[u8] = &[0, 2];

/// A shard's state machine with its storage: what consensus drives.
pub(crate) struct ShardState<M: ShardMachine> {
    node: NodeId,
    clock: Arc<dyn Clock>,
    sink: Arc<dyn CommitSink<M::Change>>,
    state: RwLock<Stored>,
    /// The newest checkpoint on disk.
    checkpointed: Mutex<Option<(EntryId, Option<Bytes>)>>,
    /// Changes frozen for a checkpoint that has not succeeded yet.
    writing: Mutex<Option<(Checkpoint, EntryId, Option<Bytes>)>>,
    pub(crate) pending: Pending<M::Outcome>,
    /// Commands applied since start, for operators.
    pub(crate) applied_count: AtomicU64,
}

struct Stored {
    store: LayeredStore,
    applied: Option<EntryId>,
    applied_ts: CommitTs,
    membership: Option<Bytes>,
    /// The store has been given up, or holds a half applied entry: there is nothing to read.
    is_closed: bool,
}

impl<M: ShardMachine> ShardState<M> {
    /// The state as `disk` holds it.
    pub(crate) fn open(
        node: NodeId,
        disk: DiskStore,
        clock: Arc<dyn Clock>,
        sink: Arc<dyn CommitSink<M::Change>>,
    ) -> Result<ShardState<M>, StoreError> {
        let store = LayeredStore::over(disk);
        let (applied, applied_ts) = match store.get(APPLIED_KEY)? {
            Some(value) => {
                let (id, ts) = decode_applied(&value)
                    .ok_or_else(|| StoreError::corrupt(APPLIED_KEY, "not an applied position"))?;
                (Some(id), ts)
            }
            None => (None, CommitTs::ZERO),
        };
        let membership = store.get(MEMBERSHIP_KEY)?;
        let checkpointed = applied.map(|id| (id, membership.clone()));
        Ok(ShardState {
            node,
            clock,
            sink,
            state: RwLock::new(Stored { store, applied, applied_ts, membership, is_closed: false }),
            checkpointed: Mutex::new(checkpointed),
            writing: Mutex::new(None),
            pending: Pending::default(),
            applied_count: AtomicU64::new(0),
        })
    }

    /// Calls `reader` with the state at the last applied commit; says whether there still is one.
    pub(crate) fn read(&self, reader: &mut dyn FnMut(View<'_>)) -> bool {
        let stored = self.state.read();
        if stored.is_closed {
            return false;
        }
        // A wall clock behind the last commit would show what that commit's time already hid.
        let now_ms = self.clock.wall_ms().max(stored.applied_ts.physical_ms());
        reader(View { state: &stored.store, now_ms, applied_ts: stored.applied_ts });
        true
    }

    /// Makes the state durable and lets go of the store, whoever still holds a handle to the shard.
    pub(crate) fn close(&self) -> Result<(), StoreError> {
        let result = self.checkpoint();
        *self.writing.lock() = None;
        let mut stored = self.state.write();
        stored.is_closed = true;
        let store = std::mem::replace(&mut stored.store, LayeredStore::in_memory());
        drop(stored);
        drop(store);
        result
    }

    pub(crate) fn applied_ts(&self) -> CommitTs {
        self.state.read().applied_ts
    }

    pub(crate) fn applied_index(&self) -> LogIndex {
        self.state.read().applied.map_or(LogIndex(0), |id| id.index)
    }

    /// Approximate memory of changes that no checkpoint contains, in bytes.
    pub(crate) fn active_bytes(&self) -> usize {
        self.state.read().store.active_bytes()
    }

    /// Makes the state durable as it is now. Blocks on the disk; commits go on meanwhile.
    pub(crate) fn checkpoint(&self) -> Result<(), StoreError> {
        let mut writing = self.writing.lock();
        if writing.is_none() {
            let mut stored = self.state.write();
            // Half an entry must not become durable: the next start applies the whole of it.
            if !stored.is_closed
                && let (Some(checkpoint), Some(id)) = (stored.store.freeze(), stored.applied)
            {
                *writing = Some((checkpoint, id, stored.membership.clone()));
            }
        }
        let Some((checkpoint, id, membership)) = writing.as_ref() else { return Ok(()) };
        checkpoint.write()?;
        *self.checkpointed.lock() = Some((*id, membership.clone()));
        *writing = None;
        let frozen = self.state.write().store.release_frozen();
        // Freed here, after the lock: a large table takes its time.
        drop(frozen);
        Ok(())
    }

    fn apply_batch(&self, id: EntryId, batch: &Bytes) -> Result<(), StoreError> {
        let (envelope, mut commands) = Envelope::open(batch)?;
        let mut outcomes = Vec::with_capacity(envelope.command_count.min(65_536) as usize);
        let mut guard = self.state.write();
        let stored = &mut *guard;
        if stored.is_closed {
            return Err(closed());
        }
        // Until the whole entry is applied: a fault below leaves it so before anybody has the lock.
        stored.is_closed = true;
        assert!(
            envelope.first_ts > stored.applied_ts,
            "commit timestamps only grow: {} after {}",
            envelope.first_ts,
            stored.applied_ts
        );
        for place in 0..u64::from(envelope.command_count) {
            let (command, rest) = M::decode(commands)?;
            commands = rest;
            let commit_ts = envelope.first_ts.plus(place);
            let position = Position { index: id.index, commit_ts };
            let mut changes = Vec::new();
            outcomes.push(M::apply(&mut stored.store, position, &command, &mut changes)?);
            stored.applied_ts = commit_ts;
            if !changes.is_empty() {
                self.sink.on_commit(Committed { commit_ts, changes });
            }
        }
        if !commands.is_empty() {
            return Err(StoreError::corrupt(b"(log entry)", "bytes follow the last command"));
        }
        stored.advance(id);
        stored.is_closed = false;
        drop(guard);
        self.applied_count.fetch_add(u64::from(envelope.command_count), Ordering::Relaxed);
        if envelope.node == self.node {
            self.pending.complete(envelope.proposal, outcomes);
        }
        Ok(())
    }
}

impl Stored {
    /// Records `id` as applied, in the same step as the state it led to.
    fn advance(&mut self, id: EntryId) {
        assert!(self.applied.is_none_or(|applied| applied.index < id.index), "entries apply once");
        self.applied = Some(id);
        let value = encode_applied(id, self.applied_ts);
        self.store.savepoint();
        self.store.put(Bytes::from_static(APPLIED_KEY), value);
    }
}

impl<M: ShardMachine> Replica for ShardState<M> {
    fn applied(&self) -> Result<(Option<EntryId>, Option<Bytes>), ReplicaFault> {
        let stored = self.state.read();
        Ok((stored.applied, stored.membership.clone()))
    }

    fn apply(&self, entry: Applied<'_>) -> Result<(), ReplicaFault> {
        if let Some(batch) = entry.payload {
            // A broken invariant is a fault of this replica, no reason to take the process along.
            let applied = catch_unwind(AssertUnwindSafe(|| self.apply_batch(entry.id, batch)));
            let fault = match applied {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(fault)) => fault.to_string(),
                Err(panic) => format!("a broken invariant: {}", panic_message(&*panic)),
            };
            // The entry may be half applied; nobody may read that.
            self.state.write().is_closed = true;
            error!(entry = %entry.id.index, fault, "this replica stops");
            return Err(ReplicaFault(fault));
        }
        let mut stored = self.state.write();
        if stored.is_closed {
            return Err(ReplicaFault(closed().to_string()));
        }
        if let Some(membership) = entry.membership {
            stored.membership = Some(membership.clone());
            stored.store.put(Bytes::from_static(MEMBERSHIP_KEY), membership);
        }
        stored.advance(entry.id);
        Ok(())
    }

    fn checkpointed(&self) -> Option<(EntryId, Option<Bytes>)> {
        self.checkpointed.lock().clone()
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("unknown")
}

fn closed() -> StoreError {
    StoreError::Io { location: "(closed)".to_owned(), message: "the node is stopping".to_owned() }
}

fn encode_applied(id: EntryId, ts: CommitTs) -> Bytes {
    let mut value = Vec::with_capacity(24);
    for number in [id.term.0, id.index.0, ts.0] {
        value.extend_from_slice(&number.to_le_bytes());
    }
    Bytes::from(value)
}

fn decode_applied(value: &[u8]) -> Option<(EntryId, CommitTs)> {
    let (term, rest) = value.split_first_chunk::<8>()?;
    let (index, rest) = rest.split_first_chunk::<8>()?;
    let ts = rest.first_chunk::<8>()?;
    let id = EntryId {
        term: Term(u64::from_le_bytes(*term)),
        index: LogIndex(u64::from_le_bytes(*index)),
    };
    Some((id, CommitTs(u64::from_le_bytes(*ts))))
}
