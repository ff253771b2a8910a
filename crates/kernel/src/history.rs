//! A shard's log outside its shard: on its way out, and applied again to a state that is restored.
//!
//! ```text
//!   state of a backup ──▶ entries behind it, part by part ──▶ up to a moment ──▶ a new cluster's state
//! ```
//! The state goes through what it went through then, and each entry says what its leader's state had come to: so
//! what comes out is what was there at that moment, or it is known not to be.
//!
//! A part's entries are `term u64 │ index u64 │ length u32 │ bytes as in the log`, little-endian, one behind another.

use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use proteus_consensus::{Applied, Replica, applied_entry, begin_after};
use proteus_env::Clock;
use proteus_log::{Log, LogEntry};
use proteus_machine::{Committed, KernelError, ShardMachine, View};
use proteus_types::{CommitTs, EntryId, LogIndex, Member, NodeId, ShardId, Term};

use crate::envelope::Envelope;
use crate::shard::{CommitSink, Shard};
use crate::state::ShardState;
use crate::step::Step;

/// A part is closed once it has this many bytes; a single larger entry makes a larger part.
const PART_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Changes in memory, in bytes, after which a state that is being restored is written to disk.
const CHECKPOINT_BYTES: usize = 48 * 1024 * 1024;

/// Bytes before each entry.
const HEAD_BYTES: usize = 8 + 8 + 4;

/// Consecutive committed entries of a shard's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    /// The entry before the first of them.
    pub previous: EntryId,
    /// The last of them.
    pub last: EntryId,
    /// All that was committed in the shard up to here is in them or before; zero if they commit nothing.
    pub through_ts: CommitTs,
    /// The entries.
    pub entries: Bytes,
}

/// What a shard's log has behind an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogBehind {
    /// These.
    Part(LogPart),
    /// Nothing yet.
    Nothing,
    /// It has let them go.
    Purged,
}

const NOTHING: u8 = 0;
const PURGED: u8 = 1;
const PART: u8 = 2;

/// Bytes before a part's entries in a message.
const PART_HEAD_BYTES: usize = 5 * 8;

impl LogBehind {
    /// As a message: what it is, then a part's `previous term u64 │ index u64 │ last term u64 │ index u64 │ through
    /// ts u64 │ entries`, little-endian.
    pub fn encode(&self) -> Bytes {
        let LogPart { previous, last, through_ts, entries } = match self {
            LogBehind::Nothing => return Bytes::from_static(&[NOTHING]),
            LogBehind::Purged => return Bytes::from_static(&[PURGED]),
            LogBehind::Part(part) => part,
        };
        let mut bytes = BytesMut::with_capacity(1 + PART_HEAD_BYTES + entries.len());
        bytes.put_u8(PART);
        for number in [previous.term.0, previous.index.0, last.term.0, last.index.0, through_ts.0] {
            bytes.put_u64_le(number);
        }
        bytes.put_slice(entries);
        bytes.freeze()
    }

    /// Reads such a message.
    pub fn decode(mut bytes: Bytes) -> Option<LogBehind> {
        match bytes.try_get_u8().ok()? {
            NOTHING => Some(LogBehind::Nothing),
            PURGED => Some(LogBehind::Purged),
            PART if bytes.len() >= PART_HEAD_BYTES => {
                let mut id = || EntryId {
                    term: Term(bytes.get_u64_le()),
                    index: LogIndex(bytes.get_u64_le()),
                };
                let (previous, last) = (id(), id());
                let through_ts = CommitTs(bytes.get_u64_le());
                Some(LogBehind::Part(LogPart { previous, last, through_ts, entries: bytes }))
            }
            _ => None,
        }
    }
}

impl<M: ShardMachine> Shard<M> {
    /// The next entries behind `after` that are committed, as far as this node has applied them.
    ///
    /// # Errors
    /// If the log cannot be read or is damaged.
    pub fn log_behind(&self, after: LogIndex) -> Result<LogBehind, KernelError> {
        let applied = self.state().applied_index();
        let failed = |error: std::io::Error| KernelError::Unavailable(error.to_string());
        if after >= applied {
            return Ok(LogBehind::Nothing);
        }
        let (log, shard) = (self.log(), self.id());
        let previous = match log.bounds(shard).0 {
            Some(purged) if purged.index > after => return Ok(LogBehind::Purged),
            Some(purged) if purged.index == after => purged,
            _ => match log.read(shard, after.0..after.0 + 1, usize::MAX).map_err(failed)?.first() {
                Some(entry) => entry.id,
                None => return Ok(LogBehind::Purged),
            },
        };
        let entries =
            log.read(shard, after.0 + 1..applied.0 + 1, PART_BYTES_MAX).map_err(failed)?;
        // It may have been let go since.
        let Some(last) = entries.last().map(|entry| entry.id) else { return Ok(LogBehind::Purged) };
        let mut through_ts = CommitTs::ZERO;
        let mut bytes = BytesMut::new();
        for entry in &entries {
            if let Some(batch) = applied_entry(entry).map_err(failed)?.payload {
                through_ts = through_ts.max(Envelope::open(&batch)?.last_ts());
            }
            bytes.put_u64_le(entry.id.term.0);
            bytes.put_u64_le(entry.id.index.0);
            bytes.put_u32_le(u32::try_from(entry.payload.len()).unwrap_or(u32::MAX));
            bytes.put_slice(&entry.payload);
        }
        Ok(LogBehind::Part(LogPart { previous, last, through_ts, entries: bytes.freeze() }))
    }
}

/// The entries of a part.
fn entries_of(mut part: Bytes) -> impl Iterator<Item = Result<LogEntry, KernelError>> {
    std::iter::from_fn(move || {
        if part.is_empty() {
            return None;
        }
        let damaged = || KernelError::Unavailable("a part of a log ends in an entry".to_owned());
        if part.len() < HEAD_BYTES {
            part.clear();
            return Some(Err(damaged()));
        }
        let id = EntryId { term: Term(part.get_u64_le()), index: LogIndex(part.get_u64_le()) };
        let length = part.get_u32_le() as usize;
        if part.len() < length {
            part.clear();
            return Some(Err(damaged()));
        }
        Some(Ok(LogEntry { id, payload: part.split_to(length) }))
    })
}

/// Nobody listens while a state is restored.
struct Unheard;

impl<C> CommitSink<C> for Unheard {
    fn on_commit(&self, _commit: Committed<C>) {}

    fn on_gap(&self, _applied_ts: CommitTs) {}
}

/// A state that was restored, while the log behind it is applied, before any node runs on it.
pub struct Replay<M: ShardMachine> {
    shard: ShardId,
    state: Arc<ShardState<M>>,
    log: Log,
    until: CommitTs,
    position: EntryId,
    /// Whether anything was applied.
    has_begun: bool,
    /// Whether all up to the moment was.
    is_over: bool,
}

impl<M: ShardMachine> Replay<M> {
    /// Goes on from the state in `store_directory`, with what was committed up to `until`. `log` is the new
    /// cluster's, which has nothing of the shard.
    ///
    /// # Errors
    /// If the state cannot be read.
    pub fn open(
        shard: ShardId,
        store_directory: &Path,
        log: Log,
        clock: Arc<dyn Clock>,
        until: CommitTs,
    ) -> Result<Replay<M>, KernelError> {
        let (sink, timestamps) = (Arc::new(Unheard), Arc::default());
        let nobody = (shard, NodeId::default());
        let state =
            ShardState::open(nobody, store_directory, clock, timestamps, sink, log.clone())?;
        let (applied, _) = state.applied().map_err(unreadable)?;
        let position = applied.ok_or_else(|| {
            KernelError::Unavailable("there is no state to be restored".to_owned())
        })?;
        Ok(Replay { shard, state, log, until, position, has_begun: false, is_over: false })
    }

    /// Calls `reader` once with the state as it is now.
    ///
    /// # Errors
    /// If there is none any more.
    pub fn read(&self, reader: &mut dyn FnMut(View<'_>)) -> Result<(), KernelError> {
        match self.state.read(&mut |view, _| reader(view)) {
            true => Ok(()),
            false => Err(KernelError::Stopped("the state was given up".to_owned())),
        }
    }

    /// Applies the entries of a part that follow; those that were applied are passed over. False once nothing more
    /// is needed. Blocks on the disk.
    ///
    /// # Errors
    /// If the part is of another history, is damaged, or leads to another state than it did then; or the disk
    /// fails.
    pub fn take(&mut self, part: &Bytes) -> Result<bool, KernelError> {
        for entry in entries_of(part.clone()) {
            let entry = entry?;
            if entry.id.index < self.position.index {
                continue;
            }
            if entry.id.index == self.position.index {
                if entry.id != self.position {
                    return Err(other_history());
                }
                continue;
            }
            if entry.id.index != self.position.index.next() || entry.id.term < self.position.term {
                return Err(other_history());
            }
            if self.is_over || !self.apply(&entry)? {
                self.is_over = true;
                return Ok(false);
            }
            if self.state.active_bytes() >= CHECKPOINT_BYTES {
                self.state.checkpoint()?;
            }
        }
        Ok(true)
    }

    /// Applies what an entry commits up to the moment; false if it commits anything later.
    fn apply(&mut self, entry: &LogEntry) -> Result<bool, KernelError> {
        let damaged = |error: std::io::Error| KernelError::Unavailable(error.to_string());
        let mut applied = applied_entry(entry).map_err(damaged)?;
        let mut is_whole = true;
        if let Some(batch) = &applied.payload {
            let envelope = Envelope::open(batch)?;
            if envelope.last_ts() > self.until {
                is_whole = false;
                let count = (self.until.0 + 1).saturating_sub(envelope.first_ts.0);
                if count == 0 {
                    return Ok(false);
                }
                let mut rest = envelope.commands;
                for _ in 0..count {
                    (_, rest) = Step::decode::<M>(rest)?;
                }
                let bytes = envelope.commands.len() - rest.len();
                let cut = envelope.cut(&envelope.commands[..bytes], count).content();
                applied = Applied { payload: Some(cut), ..applied };
            }
        }
        self.state.apply(applied).map_err(unreadable)?;
        (self.position, self.has_begun) = (entry.id, true);
        if self.state.digests.is_suspect() {
            return Err(KernelError::Unavailable(format!(
                "entry {} leads to another state than it did then; it is of another cluster's log, or was written by \
                 another version",
                entry.id.index
            )));
        }
        Ok(is_whole)
    }

    /// Makes the state that of a group whose only member is `node`, and lays the log out to go on from there.
    /// Returns its last commit.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn finish(self, node: NodeId, member: Member) -> Result<CommitTs, KernelError> {
        let stopped = |error: std::io::Error| KernelError::Stopped(error.to_string());
        let last = self.position;
        let membership =
            begin_after(&self.log, self.shard, last, node, member).await.map_err(stopped)?;
        // Without an entry behind it, what is undecided is what held the shard still for its image.
        self.state.begin_anew(membership, !self.has_begun);
        self.state.close()?;
        Ok(self.state.timestamps.newest())
    }
}

fn unreadable(fault: proteus_consensus::ReplicaFault) -> KernelError {
    KernelError::Stopped(fault.to_string())
}

fn other_history() -> KernelError {
    KernelError::Unavailable("a part of a log does not follow the state".to_owned())
}
