//! Bugs on purpose. A checker that does not report them has gone blind.
//!
//! Nothing outside this crate can be built with them: they are wrappers around the real machine and
//! the simulated disk.

use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proteus_env::disk::{Disk, DiskFile};
use proteus_machine::{Position, ShardMachine, View};
use proteus_shard_machine::{Change, Composed, Minitransaction, Outcome};
use proteus_store::{Read, State, StoreError};
use proteus_types::{CommitTs, LogIndex};

use crate::ledger;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// After a start, the first ledger commit that is applied is passed over.
    SkipsOneAtReplay,
    /// After a start, the first ledger commit that is applied is applied twice.
    RepeatsOneAtReplay,
    /// What an aborted minitransaction wrote last stays.
    KeepsWhatAborted,
    /// The state depends on how often this process has applied something.
    CountsItsOwnCalls,
}

thread_local! {
    /// The bug under way. A run applies on the thread that drives it, so runs do not disturb each other.
    static BUG: Cell<Option<Bug>> = const { Cell::new(None) };
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// Makes [`Buggy`] show `bug` on this thread, from here on.
pub fn plant(bug: Bug) {
    BUG.set(Some(bug));
}

/// The composed machine with the bug that [`plant`] chose.
#[derive(Debug, Clone, Copy)]
pub struct Buggy;

impl ShardMachine for Buggy {
    type Command = Minitransaction;
    type Outcome = Outcome;
    type Change = Change;

    fn encode(command: &Minitransaction, into: &mut Vec<u8>) {
        Composed::encode(command, into);
    }

    fn decode(bytes: &[u8]) -> Result<(Minitransaction, &[u8]), StoreError> {
        Composed::decode(bytes)
    }

    fn apply(
        state: &mut dyn State,
        position: Position,
        command: &Minitransaction,
        changes: &mut Vec<Change>,
    ) -> Result<Outcome, StoreError> {
        let in_ledger = ledger::holds(command);
        match BUG.get() {
            Some(Bug::SkipsOneAtReplay) if in_ledger => {
                BUG.set(None);
                Ok(Outcome::Committed { commit_ts: position.commit_ts, replies: Vec::new() })
            }
            Some(Bug::RepeatsOneAtReplay) if in_ledger => {
                BUG.set(None);
                Composed::apply(state, position, command, &mut Vec::new())?;
                Composed::apply(state, position, command, changes)
            }
            Some(Bug::KeepsWhatAborted) => {
                let outcome = Composed::apply(state, position, command, changes)?;
                if matches!(outcome, Outcome::Refused { .. }) {
                    state.put(vec![0x30, 9].into(), vec![1].into());
                }
                Ok(outcome)
            }
            Some(Bug::CountsItsOwnCalls) => {
                CALLS.set(CALLS.get() + 1);
                let outcome = Composed::apply(state, position, command, changes)?;
                state.put(vec![0x30, 9].into(), CALLS.get().to_be_bytes().to_vec().into());
                Ok(outcome)
            }
            _ => Composed::apply(state, position, command, changes),
        }
    }

    fn has_happened(outcome: &Outcome) -> bool {
        Composed::has_happened(outcome)
    }

    fn due(view: View<'_>, count_max: usize) -> Result<Vec<Minitransaction>, StoreError> {
        Composed::due(view, count_max)
    }

    fn next_due_ms(state: &dyn Read) -> Result<Option<u64>, StoreError> {
        Composed::next_due_ms(state)
    }
}

thread_local! {
    /// The command applied last on this thread, by whichever node.
    static LAST: Cell<Option<(LogIndex, CommitTs)>> = const { Cell::new(None) };
    /// The command to be computed otherwise, if it is the next.
    static OTHERWISE: Cell<Option<(LogIndex, CommitTs)>> = const { Cell::new(None) };
}

/// Makes [`Deviating`] compute the next command otherwise, if it stands in the same entry as the last.
/// Called by the feed of one node while that applies an entry, so it is that node which deviates.
pub fn compute_next_otherwise() {
    OTHERWISE.set(LAST.get().map(|(index, ts)| (index, ts.plus(1))));
}

/// The composed machine, which now and then computes otherwise on one of several nodes: it leaves a
/// key that nobody reads.
#[derive(Debug, Clone, Copy)]
pub struct Deviating;

impl ShardMachine for Deviating {
    type Command = Minitransaction;
    type Outcome = Outcome;
    type Change = Change;

    fn encode(command: &Minitransaction, into: &mut Vec<u8>) {
        Composed::encode(command, into);
    }

    fn decode(bytes: &[u8]) -> Result<(Minitransaction, &[u8]), StoreError> {
        Composed::decode(bytes)
    }

    fn apply(
        state: &mut dyn State,
        position: Position,
        command: &Minitransaction,
        changes: &mut Vec<Change>,
    ) -> Result<Outcome, StoreError> {
        let here = Some((position.index, position.commit_ts));
        let deviates = OTHERWISE.take() == here;
        LAST.set(here);
        let outcome = Composed::apply(state, position, command, changes)?;
        if deviates {
            state.put(vec![0x30, 9].into(), position.commit_ts.0.to_be_bytes().to_vec().into());
        }
        Ok(outcome)
    }

    fn has_happened(outcome: &Outcome) -> bool {
        Composed::has_happened(outcome)
    }

    fn due(view: View<'_>, count_max: usize) -> Result<Vec<Minitransaction>, StoreError> {
        Composed::due(view, count_max)
    }

    fn next_due_ms(state: &dyn Read) -> Result<Option<u64>, StoreError> {
        Composed::next_due_ms(state)
    }
}

/// A disk that says it has flushed when it has not, once told to.
#[derive(Clone)]
pub struct LyingDisk<D> {
    disk: D,
    lies: Arc<AtomicBool>,
}

impl<D> LyingDisk<D> {
    /// An honest one.
    pub fn new(disk: D) -> LyingDisk<D> {
        LyingDisk { disk, lies: Arc::default() }
    }

    /// From here on it lies.
    pub fn lie(&self) {
        self.lies.store(true, Ordering::SeqCst);
    }
}

impl<D: Disk> Disk for LyingDisk<D> {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(LyingFile { file: self.disk.open(name)?, lies: self.lies.clone() }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn flush_directory(&self) -> io::Result<()> {
        self.disk.flush_directory()
    }

    fn available_bytes(&self) -> io::Result<u64> {
        self.disk.available_bytes()
    }

    fn location(&self) -> PathBuf {
        self.disk.location()
    }
}

struct LyingFile {
    file: Arc<dyn DiskFile>,
    lies: Arc<AtomicBool>,
}

impl DiskFile for LyingFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, byte_offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_at(byte_offset, buffer)
    }

    fn write_at(&self, byte_offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(byte_offset, bytes)
    }

    fn reserve(&self, length_bytes: u64) -> io::Result<()> {
        self.file.reserve(length_bytes)
    }

    fn truncate(&self, length_bytes: u64) -> io::Result<()> {
        self.file.truncate(length_bytes)
    }

    fn flush(&self) -> io::Result<()> {
        if self.lies.load(Ordering::SeqCst) { Ok(()) } else { self.file.flush() }
    }
}
