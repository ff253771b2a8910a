//! The state machine contract.
//!
//! Two levels. A [`Machine`] is one data model (znodes, partitions, Redis types, rows). A
//! [`ShardMachine`] composes machines and applies a whole minitransaction to them atomically; it is
//! what the kernel drives, without knowing any data model.
//!
//! # Rules
//! `apply` is a pure function of state, command and position: no wall clock, no randomness, no
//! hash-order dependence, no thread, no network. Time is `ctx.now_ms()`, which the leader stamped
//! into the log entry. Two replicas that apply the same entries hold the same bytes.
//!
//! # Errors are of two kinds
//! [`Abort::Refused`] is part of the answer: deterministic, the same on every replica, and it undoes
//! the whole minitransaction. [`Abort::Fault`] is a broken disk or damaged state: the replica stops
//! and answers nobody.

pub mod key;
mod shard;

use bytes::Bytes;
use proteus_store::{Direction, Read, State, StoreError, Visit};
use proteus_types::{CommitTs, LogIndex, ShardId, Term};

pub use shard::{Committed, KernelError, ShardMachine};

/// Where in the order of all things a minitransaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The shard that applies it.
    pub shard: ShardId,
    /// Term of the leader that proposed it; never less than that of what stands before.
    pub term: Term,
    /// Index of its entry in the shard's log.
    pub index: LogIndex,
    /// Its commit timestamp; unique to it in this shard. All parts of a commit over several shards have
    /// the same.
    pub commit_ts: CommitTs,
    /// The time that it happens at, in milliseconds since the Unix epoch: the timestamp's, or, in a
    /// commit over several shards, that of trying the part, so that carrying it out does the same.
    pub now_ms: u64,
}

impl Position {
    /// Where a minitransaction of one shard stands.
    pub fn new(shard: ShardId, term: Term, index: LogIndex, commit_ts: CommitTs) -> Position {
        Position { shard, term, index, commit_ts, now_ms: commit_ts.physical_ms() }
    }
}

/// What `apply` may see and change: state, its position, and a sink for changes.
///
/// `C` is the machine's own change type: what followers of the feed learn.
pub struct Ctx<'a, C> {
    state: &'a mut dyn State,
    position: Position,
    emit: &'a mut dyn FnMut(C),
}

impl<'a, C> Ctx<'a, C> {
    /// A context for one op.
    pub fn new(
        state: &'a mut dyn State,
        position: Position,
        emit: &'a mut dyn FnMut(C),
    ) -> Ctx<'a, C> {
        Ctx { state, position, emit }
    }

    /// Leader-stamped time, in milliseconds since the Unix epoch. The only clock there is.
    pub fn now_ms(&self) -> u64 {
        self.position.now_ms
    }

    /// The shard that applies the op.
    pub fn shard(&self) -> ShardId {
        self.position.shard
    }

    /// The commit timestamp of the minitransaction this op belongs to.
    pub fn commit_ts(&self) -> CommitTs {
        self.position.commit_ts
    }

    /// Index of the log entry being applied.
    pub fn index(&self) -> LogIndex {
        self.position.index
    }

    /// Term of the leader that proposed the log entry being applied.
    pub fn term(&self) -> Term {
        self.position.term
    }

    /// Sets the value under `key`.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.state.put(key.into(), value.into());
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.state.delete(key.into());
    }

    /// Tells followers of the feed what changed. Dropped if the minitransaction aborts.
    pub fn emit(&mut self, change: C) {
        (self.emit)(change);
    }

    /// The state, read-only.
    pub fn read(&self) -> &dyn Read {
        self
    }
}

impl<C> Read for Ctx<'_, C> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.state.get(key)
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        self.state.scan(start, end, direction, visit)
    }
}

/// Why an op or check did not hold.
#[derive(Debug)]
pub enum Abort<R> {
    /// A deterministic refusal, which undoes the minitransaction and is its answer.
    Refused(R),
    /// This replica cannot go on.
    Fault(StoreError),
}

impl<R> From<StoreError> for Abort<R> {
    fn from(error: StoreError) -> Abort<R> {
        Abort::Fault(error)
    }
}

/// State as a reader sees it: at the last applied commit, at the reader's time.
///
/// `now_ms` hides what has expired but whose removal has not been proposed yet.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The key space.
    pub state: &'a dyn Read,
    /// Time of the read, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Commit timestamp of the last minitransaction applied: what a snapshot read may read at.
    pub applied_ts: CommitTs,
}

/// One deterministic state machine with one data model.
///
/// Implementations are zero-sized: all state lives in the key space, under keys whose first byte is
/// [`Machine::SPACE`].
pub trait Machine {
    /// First byte of every key of this machine; no two machines of a shard share one.
    const SPACE: u8;
    /// A predicate on current state.
    type Check;
    /// A change, or an operation whose reply is computed when it is applied.
    type Op;
    /// What an op answers.
    type Reply;
    /// Why a check or op refused.
    type Refusal;
    /// What followers of the feed learn.
    type Change;

    /// Holds `check` against the state.
    ///
    /// # Errors
    /// `Refused` if the predicate is false.
    fn check(
        ctx: &mut Ctx<'_, Self::Change>,
        check: &Self::Check,
    ) -> Result<(), Abort<Self::Refusal>>;

    /// Applies `op`.
    ///
    /// # Errors
    /// `Refused` undoes the whole minitransaction; an error that should not (a Redis command's
    /// error inside EXEC) is a reply.
    fn apply(
        ctx: &mut Ctx<'_, Self::Change>,
        op: &Self::Op,
    ) -> Result<Self::Reply, Abort<Self::Refusal>>;

    /// Ops that are due at `view.now_ms` because time passed (expiry, retention), at most
    /// `count_max`, most overdue first. The leader proposes them; each must do nothing if it is no
    /// longer due when applied.
    ///
    /// # Errors
    /// If the store fails.
    fn due(view: View<'_>, count_max: usize) -> Result<Vec<Self::Op>, StoreError>;

    /// The earliest time, in milliseconds since the Unix epoch, at which [`Machine::due`] can name ops while the
    /// state stays as it is; it may be earlier than that. `None` if there is no such time.
    ///
    /// # Errors
    /// If the store fails.
    fn next_due_ms(state: &dyn Read) -> Result<Option<u64>, StoreError>;
}
