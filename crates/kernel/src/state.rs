//! The state of a shard, and applying entries to it.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use proteus_consensus::{Applied, Image, ReceivedImage, Replica, ReplicaFault};
use proteus_env::Clock;
use proteus_log::Log;
use proteus_machine::{Committed, KernelError, Position, ShardMachine, View};
use proteus_store::{
    Checkpoint, DiskStore, FETCHED_MAX, IncomingStore, LayeredStore, Read, State, StoreError,
};
use proteus_types::{CommitTs, EntryId, LogIndex, NodeId, ShardId, Term};
use tokio::sync::Notify;
use tracing::{error, info};

use crate::digests::Digests;
use crate::envelope::{Checked, Envelope};
use crate::forward::Intake;
use crate::image::StateImage;
use crate::pending::Pending;
use crate::shard::CommitSink;
use crate::step::{Step, StepOutcome};
use crate::timestamps::Timestamps;
use crate::undecided::{Changed, Decision, Standing, UNDECIDED_KEY, Undecided, apply_step};

/// Keys of the kernel's own facts, in space 0.
pub(crate) const APPLIED_KEY: &[u8] = &[0, 1];
pub(crate) const MEMBERSHIP_KEY: &[u8] = &[0, 2];

/// A shard's state machine with its storage: what consensus drives.
pub(crate) struct ShardState<M: ShardMachine> {
    shard: ShardId,
    node: NodeId,
    /// Itself, for what it hands to others.
    own: Weak<ShardState<M>>,
    store_directory: PathBuf,
    clock: Arc<dyn Clock>,
    sink: Arc<dyn CommitSink<M::Change>>,
    log: Log,
    state: RwLock<Stored>,
    /// The newest checkpoint on disk.
    checkpointed: Mutex<Option<(EntryId, Option<Bytes>)>>,
    /// Changes frozen for a checkpoint that has not succeeded yet.
    writing: Mutex<Option<Frozen>>,
    /// The newest that the node has seen.
    pub(crate) timestamps: Arc<Timestamps>,
    pub(crate) pending: Pending<StepOutcome<M::Outcome>>,
    pub(crate) intake: Intake,
    pub(crate) digests: Digests,
    /// Index and term of the last entry applied, for those who hold no lock.
    applied_index: AtomicU64,
    applied_term: AtomicU64,
    /// The part of a commit over several shards that was tried here and is not finished.
    gate: Mutex<Option<Undecided>>,
    /// Whether there is one.
    is_gated: AtomicBool,
    /// How many such parts were finished.
    gates_passed: AtomicU64,
    /// Wakes who waits for an entry to be applied.
    pub(crate) applied_changed: Notify,
    /// Commands applied since start, for operators.
    pub(crate) applied_count: AtomicU64,
}

/// Changes that are frozen, with the last entry and the membership among them.
type Frozen = (Checkpoint, EntryId, Option<Bytes>);

struct Stored {
    store: LayeredStore,
    applied: Option<EntryId>,
    applied_ts: CommitTs,
    membership: Option<Bytes>,
    standing: Standing,
    /// The store has been given up, or holds a half applied entry: there is nothing to read.
    is_closed: bool,
}

impl<M: ShardMachine> ShardState<M> {
    /// The state as the store in `store_directory` holds it.
    pub(crate) fn open(
        (shard, node): (ShardId, NodeId),
        store_directory: &Path,
        clock: Arc<dyn Clock>,
        timestamps: Arc<Timestamps>,
        sink: Arc<dyn CommitSink<M::Change>>,
        log: Log,
    ) -> Result<Arc<ShardState<M>>, StoreError> {
        let stored = Stored::over(DiskStore::open(store_directory)?)?;
        let checkpointed = stored.applied.map(|id| (id, stored.membership.clone()));
        let applied = stored.applied.unwrap_or_default();
        let digests = Digests::default();
        digests.begin(stored.checked());
        timestamps.observe(stored.applied_ts);
        let undecided = stored.standing.undecided;
        Ok(Arc::new_cyclic(|own| ShardState {
            shard,
            node,
            own: own.clone(),
            store_directory: store_directory.to_owned(),
            clock,
            sink,
            log,
            state: RwLock::new(stored),
            checkpointed: Mutex::new(checkpointed),
            writing: Mutex::new(None),
            timestamps,
            pending: Pending::default(),
            intake: Intake::default(),
            digests,
            applied_index: AtomicU64::new(applied.index.0),
            applied_term: AtomicU64::new(applied.term.0),
            gate: Mutex::new(undecided),
            is_gated: AtomicBool::new(undecided.is_some()),
            gates_passed: AtomicU64::new(0),
            applied_changed: Notify::new(),
            applied_count: AtomicU64::new(0),
        }))
    }

    /// Calls `reader` with the state at the last applied commit, and how that stands to commits over
    /// several shards; says whether there still is one.
    pub(crate) fn read(&self, reader: &mut dyn FnMut(View<'_>, &Standing)) -> bool {
        let stored = self.state.read();
        if stored.is_closed {
            return false;
        }
        // A wall clock behind the last commit would show what that commit's time already hid.
        let now_ms = self.clock.wall_ms().max(stored.applied_ts.physical_ms());
        let Stored { store, applied_ts, standing, .. } = &*stored;
        reader(View { state: store, now_ms, applied_ts: *applied_ts }, standing);
        true
    }

    /// Makes the state durable and lets go of the store, whoever still holds a handle to the shard.
    pub(crate) fn close(&self) -> Result<(), StoreError> {
        let result = self.checkpoint();
        self.abandon();
        result
    }

    /// Lets go of the store, whoever still holds a handle to the shard.
    pub(crate) fn abandon(&self) {
        *self.writing.lock() = None;
        let mut stored = self.state.write();
        stored.is_closed = true;
        let store = std::mem::replace(&mut stored.store, LayeredStore::in_memory());
        drop(stored);
        drop(store);
    }

    pub(crate) fn store_directory(&self) -> &Path {
        &self.store_directory
    }

    pub(crate) fn applied_ts(&self) -> CommitTs {
        self.state.read().applied_ts
    }

    pub(crate) fn applied_index(&self) -> LogIndex {
        LogIndex(self.applied_index.load(Ordering::Acquire))
    }

    /// Term of the last entry applied.
    pub(crate) fn applied_term(&self) -> Term {
        Term(self.applied_term.load(Ordering::Acquire))
    }

    /// Resolves once the entry has been applied.
    pub(crate) async fn wait_applied(&self, index: LogIndex) {
        loop {
            let changed = self.applied_changed.notified();
            if self.applied_index() >= index {
                return;
            }
            changed.await;
        }
    }

    /// Whether a part of a commit over several shards was tried here and is not finished, so that
    /// nothing else can happen.
    pub(crate) fn is_gated(&self) -> bool {
        self.is_gated.load(Ordering::Acquire)
    }

    /// Resolves once what was tried when this was called is finished.
    pub(crate) async fn wait_finished(&self) {
        let passed = self.gates_passed.load(Ordering::Acquire);
        loop {
            let changed = self.applied_changed.notified();
            if !self.is_gated() || self.gates_passed.load(Ordering::Acquire) != passed {
                return;
            }
            changed.await;
        }
    }

    /// The part that was tried here and is not finished.
    pub(crate) fn undecided(&self) -> Option<Undecided> {
        *self.gate.lock()
    }

    /// What was decided here and is not known to be carried out everywhere.
    pub(crate) fn decisions(&self) -> Result<Vec<Decision>, StoreError> {
        let stored = self.state.read();
        if stored.is_closed {
            return Err(closed());
        }
        Ok(stored.standing.decisions.clone())
    }

    /// Tells those who hold no lock how far the state is, and what may happen next.
    fn announce(&self, id: EntryId, undecided: Option<Undecided>) {
        let mut gate = self.gate.lock();
        if *gate != undecided {
            if gate.is_some() {
                self.gates_passed.fetch_add(1, Ordering::AcqRel);
            }
            *gate = undecided;
            self.is_gated.store(undecided.is_some(), Ordering::Release);
        }
        drop(gate);
        let began = self.applied_term.swap(id.term.0, Ordering::AcqRel) != id.term.0;
        self.applied_index.store(id.index.0, Ordering::Release);
        if began {
            self.pending.term_began(id.term);
        }
        self.applied_changed.notify_waiters();
    }

    /// Approximate memory of changes that no checkpoint contains, in bytes.
    pub(crate) fn active_bytes(&self) -> usize {
        self.state.read().store.active_bytes()
    }

    /// Makes the state durable as it is now. Blocks on the disk; commits go on meanwhile.
    pub(crate) fn checkpoint(&self) -> Result<(), StoreError> {
        let mut writing = self.writing.lock();
        self.freeze(&mut writing);
        self.write_frozen(&mut writing)
    }

    /// Freezes the state as it is now, unless what was frozen before has not been written yet.
    fn freeze(&self, writing: &mut Option<Frozen>) {
        if writing.is_none() {
            let mut stored = self.state.write();
            // Half an entry must not become durable: the next start applies the whole of it.
            if !stored.is_closed
                && let (Some(checkpoint), Some(id)) = (stored.store.freeze(), stored.applied)
            {
                *writing = Some((checkpoint, id, stored.membership.clone()));
            }
        }
    }

    fn write_frozen(&self, writing: &mut Option<Frozen>) -> Result<(), StoreError> {
        let Some((checkpoint, id, membership)) = writing.as_ref() else { return Ok(()) };
        // What it contains must not be missing from the log, which goes on behind it.
        self.log.flush_now().map_err(log_fault)?;
        checkpoint.write()?;
        *self.checkpointed.lock() = Some((*id, membership.clone()));
        *writing = None;
        let frozen = self.state.write().store.release_frozen();
        // Freed here, after the lock: a large table takes its time.
        drop(frozen);
        Ok(())
    }

    /// Sets the state aside as it is now, for [`ShardState::image_set_aside`]. Waits for a checkpoint that is
    /// being written, and writes nothing itself unless the last one failed.
    pub(crate) fn set_aside(&self) -> Result<EntryId, StoreError> {
        let mut writing = self.writing.lock();
        self.write_frozen(&mut writing)?;
        self.freeze(&mut writing);
        let frozen = writing.as_ref().map(|(_, id, _)| *id);
        let newest = || self.checkpointed.lock().as_ref().map(|(id, _)| *id);
        frozen.or_else(newest).ok_or_else(closed)
    }

    /// The state that was set aside, unless another checkpoint was taken since. Blocks on the disk.
    pub(crate) fn image_set_aside(&self, id: EntryId) -> Result<Option<StateImage>, StoreError> {
        let mut writing = self.writing.lock();
        self.write_frozen(&mut writing)?;
        let image = self.newest_image()?;
        Ok((image.id == id).then_some(image))
    }

    /// The state as it is now, and makes it durable for that. Blocks on the disk; commits go on
    /// meanwhile.
    pub(crate) fn image(&self) -> Result<StateImage, StoreError> {
        let upto = self.applied_index();
        loop {
            self.checkpoint()?;
            let image = self.newest_image()?;
            // A checkpoint that was under way contains less.
            if image.id.index >= upto {
                return Ok(image);
            }
        }
    }

    fn newest_image(&self) -> Result<StateImage, StoreError> {
        StateImage::open(&self.state.read().store, self.digests.vouched().clone())
    }

    fn apply_batch(&self, id: EntryId, batch: &Bytes) -> Result<(), StoreError> {
        let envelope = Envelope::open(batch)?;
        let command_count = envelope.command_count();
        let mut commands = envelope.commands;
        let mut outcomes = Vec::with_capacity(command_count.min(65_536) as usize);
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
        let mut steps = Vec::with_capacity(command_count.min(FETCHED_MAX as u64) as usize);
        let mut place = 0;
        while place < command_count {
            while steps.len() < FETCHED_MAX && place + (steps.len() as u64) < command_count {
                let (step, rest) = Step::decode::<M>(commands)?;
                commands = rest;
                steps.push(step);
            }
            fetch::<M>(&stored.store, &steps);
            for step in steps.drain(..) {
                let commit_ts = envelope.first_ts.plus(place);
                let position = Position::new(self.shard, id.term, id.index, commit_ts);
                let mut changed = Changed { commit_ts, changes: Vec::new() };
                let Stored { store, standing, .. } = stored;
                outcomes.push(apply_step::<M>(store, standing, position, &step, &mut changed)?);
                stored.applied_ts = commit_ts;
                let Changed { commit_ts, changes } = changed;
                if !changes.is_empty() {
                    self.sink.on_commit(Committed { commit_ts, changes });
                }
                place += 1;
            }
        }
        if !commands.is_empty() {
            return Err(StoreError::corrupt(b"(log entry)", "bytes follow the last command"));
        }
        let checked = stored.advance(id);
        stored.is_closed = false;
        let (applied_ts, undecided) = (stored.applied_ts, stored.standing.undecided);
        drop(guard);
        self.timestamps.observe(applied_ts);
        self.digests.compare(envelope.checked);
        self.digests.push(checked);
        self.applied_count.fetch_add(command_count, Ordering::Relaxed);
        self.announce(id, undecided);
        let mut outcomes = outcomes.into_iter();
        for origin in &envelope.origins {
            let own = outcomes.by_ref().take(origin.command_count as usize);
            if origin.node == self.node {
                self.pending.applied(origin.proposal, own.collect());
            } else {
                own.for_each(drop);
                self.intake.applied(id.term, origin.node, origin.proposal);
            }
        }
        self.pending.entry_applied(id.term);
        Ok(())
    }

    /// Gives the state, as restored, to a group of other members: outside the log, and so outside the digest.
    pub(crate) fn begin_anew(&self, membership: Bytes, forgets_undecided: bool) {
        let mut guard = self.state.write();
        let stored = &mut *guard;
        let digest = stored.store.digest();
        stored.store.put(Bytes::from_static(MEMBERSHIP_KEY), membership.clone());
        stored.membership = Some(membership);
        if forgets_undecided && stored.standing.undecided.take().is_some() {
            stored.store.put(Bytes::from_static(UNDECIDED_KEY), Bytes::new());
        }
        stored.store.set_digest(digest);
    }

    /// Puts a log snapshot in place of the state. What it contains was committed, but the outcomes of
    /// what is on its way are not in it.
    fn install(&self, mut image: IncomingStore, id: EntryId) -> Result<(), StoreError> {
        let found = image.get(APPLIED_KEY)?.and_then(|value| decode_applied(&value));
        if found.map(|position| position.id) != Some(id) {
            return Err(StoreError::corrupt(APPLIED_KEY, format!("the image is not of {id:?}")));
        }
        // A checkpoint of the present state would be written into the new one.
        let mut writing = self.writing.lock();
        *writing = None;
        let mut stored = self.state.write();
        if stored.is_closed {
            return Err(closed());
        }
        // Until the new one is there: a fault below leaves nothing to be read.
        stored.is_closed = true;
        stored.store = LayeredStore::in_memory();
        *stored = Stored::over(image.install()?)?;
        *self.checkpointed.lock() = Some((id, stored.membership.clone()));
        let (applied_ts, checked) = (stored.applied_ts, stored.checked());
        let undecided = stored.standing.undecided;
        drop(stored);
        self.timestamps.observe(applied_ts);
        self.digests.begin(checked);
        // Whoever sent it has asked.
        self.digests.vouched().extend(id.index);
        info!(index = %id.index, "state taken over from the leader");
        self.announce(id, undecided);
        self.sink.on_gap(applied_ts);
        self.pending.fail(&KernelError::Unavailable(
            "this node was brought up to date, and the answer is not known here".to_owned(),
        ));
        Ok(())
    }
}

impl Stored {
    fn over(disk: DiskStore) -> Result<Stored, StoreError> {
        let mut store = LayeredStore::over(disk);
        let (mut applied, mut applied_ts) = (None, CommitTs::ZERO);
        if let Some(value) = store.get(APPLIED_KEY)? {
            let position = decode_applied(&value)
                .ok_or_else(|| StoreError::corrupt(APPLIED_KEY, "not an applied position"))?;
            (applied, applied_ts) = (Some(position.id), position.commit_ts);
            store.set_digest(position.digest);
        }
        let membership = store.get(MEMBERSHIP_KEY)?;
        let standing = Standing::stored(&store)?;
        Ok(Stored { store, applied, applied_ts, membership, standing, is_closed: false })
    }

    /// What the state has come to.
    fn checked(&self) -> Checked {
        let index = self.applied.map_or(LogIndex::default(), |id| id.index);
        Checked { index, digest: self.store.digest() }
    }

    /// Records `id` as applied, in the same step as the state it led to.
    fn advance(&mut self, id: EntryId) -> Checked {
        assert!(self.applied.is_none_or(|applied| applied.index < id.index), "entries apply once");
        self.applied = Some(id);
        let digest = self.store.digest();
        let value = encode_applied(AppliedPosition { id, commit_ts: self.applied_ts, digest });
        self.store.savepoint();
        self.store.put(Bytes::from_static(APPLIED_KEY), value);
        // The record of the digest is no part of it.
        self.store.set_digest(digest);
        self.checked()
    }
}

impl<M: ShardMachine> Replica for ShardState<M> {
    fn applied(&self) -> Result<(Option<EntryId>, Option<Bytes>), ReplicaFault> {
        let stored = self.state.read();
        Ok((stored.applied, stored.membership.clone()))
    }

    fn apply(&self, entry: Applied) -> Result<(), ReplicaFault> {
        if let Some(batch) = entry.payload {
            // A broken invariant is a fault of this replica, no reason to take the process along.
            let applied = catch_unwind(AssertUnwindSafe(|| self.apply_batch(entry.id, &batch)));
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
        let checked = stored.advance(entry.id);
        let undecided = stored.standing.undecided;
        drop(stored);
        self.digests.push(checked);
        self.announce(entry.id, undecided);
        Ok(())
    }

    fn open_image(&self) -> Result<Option<Image>, ReplicaFault> {
        let faulty = |fault: StoreError| ReplicaFault(fault.to_string());
        if self.checkpointed().is_none() {
            return Ok(None);
        }
        let image = self.newest_image().map_err(faulty)?;
        let membership = image.membership().map_err(faulty)?;
        Ok(Some(Image { id: image.id, membership, chunks: Box::new(image) }))
    }

    fn receive_image(&self) -> Result<Box<dyn ReceivedImage>, ReplicaFault> {
        let stopping = || ReplicaFault(closed().to_string());
        let state = self.own.upgrade().ok_or_else(stopping)?;
        let store = IncomingStore::begin(&self.store_directory)
            .map_err(|fault| ReplicaFault(fault.to_string()))?;
        Ok(Box::new(Incoming { state, store }))
    }

    fn checkpointed(&self) -> Option<(EntryId, Option<Bytes>)> {
        self.checkpointed.lock().clone()
    }

    fn purgeable(&self) -> Option<(EntryId, Option<Bytes>)> {
        self.checkpointed().filter(|(id, _)| self.digests.vouched().covers(id.index))
    }
}

struct Incoming<M: ShardMachine> {
    state: Arc<ShardState<M>>,
    store: IncomingStore,
}

impl<M: ShardMachine> ReceivedImage for Incoming<M> {
    fn take_chunk(&mut self, chunk: &[u8]) -> Result<(), ReplicaFault> {
        self.store.take_chunk(chunk).map_err(|fault| ReplicaFault(fault.to_string()))
    }

    fn install(self: Box<Self>, id: EntryId) -> Result<(), ReplicaFault> {
        let Incoming { state, store } = *self;
        state.install(store, id).map_err(|fault| ReplicaFault(fault.to_string()))
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("unknown")
}

/// Has the processor fetch the rows with which these steps begin.
fn fetch<M: ShardMachine>(store: &LayeredStore, steps: &[Step<M::Command>]) {
    if steps.len() > 1 {
        let mut fetch = store.fetch();
        for step in steps {
            if let Step::Command(command) = step {
                M::first_key(command, &mut |key| fetch.add(key));
            }
        }
        fetch.finish();
    }
}

fn closed() -> StoreError {
    StoreError::Io { location: "(closed)".to_owned(), message: "the node is stopping".to_owned() }
}

fn log_fault(fault: io::Error) -> StoreError {
    StoreError::Io { location: "(log)".to_owned(), message: fault.to_string() }
}

/// How far a state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AppliedPosition {
    /// The last entry that it contains.
    pub(crate) id: EntryId,
    /// The timestamp of its last commit.
    pub(crate) commit_ts: CommitTs,
    /// The digest of all its changes.
    pub(crate) digest: u64,
}

fn encode_applied(position: AppliedPosition) -> Bytes {
    let AppliedPosition { id, commit_ts, digest } = position;
    let mut value = Vec::with_capacity(32);
    for number in [id.term.0, id.index.0, commit_ts.0, digest] {
        value.extend_from_slice(&number.to_le_bytes());
    }
    Bytes::from(value)
}

pub(crate) fn decode_applied(value: &[u8]) -> Option<AppliedPosition> {
    let (numbers, []) = value.as_chunks::<8>() else { return None };
    let &[term, index, commit_ts, digest] = numbers else { return None };
    let id = EntryId {
        term: Term(u64::from_le_bytes(term)),
        index: LogIndex(u64::from_le_bytes(index)),
    };
    let commit_ts = CommitTs(u64::from_le_bytes(commit_ts));
    Some(AppliedPosition { id, commit_ts, digest: u64::from_le_bytes(digest) })
}
