//! What one command of a log entry is: a minitransaction of the machine's, or one step of a commit over
//! several shards.
//!
//! ```text
//! command  = 0 │ the machine's command
//! prepare  = 1 │ transaction 16 │ coordinator u32 │ the machine's command
//! decide   = 2 │ transaction 16 │ until ms u64 │ count u32 │ participant u32 … │ the machine's command
//! finish   = 3 │ transaction 16 │ commit timestamp u64, 0 if it is aborted
//! ask      = 4 │ transaction 16 │ until ms u64
//! forget   = 5 │ transaction 16
//! ```
//! Little-endian. See `transaction` for what they are for.

use bytes::Bytes;
use proteus_machine::ShardMachine;
use proteus_store::StoreError;
use proteus_types::{CommitTs, LogIndex, NodeId, ShardId};

/// Shards that one commit may concern, at most.
pub(crate) const PARTICIPANTS_MAX: usize = 4_096;

/// A commit over several shards; unique in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId {
    /// The node that drives it.
    pub node: NodeId,
    /// Unique on that node, over restarts too.
    pub number: u64,
}

/// One command of an entry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step<C> {
    /// A minitransaction of this shard alone.
    Command(C),
    /// Tries this shard's part, and lets nothing else happen here until the commit is finished.
    Prepare { transaction: TransactionId, coordinator: ShardId, lease_ms: u32, part: C },
    /// Commits the coordinator's own part, if log time is before `until_ms`, and with it the whole.
    Decide { transaction: TransactionId, until_ms: u64, participants: Vec<ShardId>, part: C },
    /// Carries out what was prepared, at the timestamp of the decision, or lets go of it.
    Finish { transaction: TransactionId, commit_ts: Option<CommitTs> },
    /// Asks the coordinator what was decided, and has it decide nothing that it has not by now; from log
    /// time `until_ms` on it would not anyway.
    Ask { transaction: TransactionId, until_ms: u64 },
    /// Forgets a decision that all participants have carried out.
    Forget { transaction: TransactionId },
}

/// What a step came to.
#[derive(Debug)]
pub(crate) enum StepOutcome<O> {
    /// Of a command.
    Command(O),
    /// Of a part that was tried at this timestamp. It holds if it has happened, by the machine's word.
    Prepared { outcome: O, tried_ts: CommitTs },
    /// Of the coordinator's part; `None` if it came too late.
    Decided(Option<(O, CommitTs)>),
    /// What is known.
    Known(Knowledge),
    /// Of finishing: whether the part was still tried, and not finished before.
    Finished(bool),
    /// Of a step that answers nothing.
    Done,
}

impl<O> StepOutcome<O> {
    pub(crate) fn into_command(self) -> Option<O> {
        match self {
            StepOutcome::Command(outcome) => Some(outcome),
            _ => None,
        }
    }
}

/// What a coordinator knows of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Knowledge {
    Committed(CommitTs),
    Aborted,
}

impl<C> Step<C> {
    pub(crate) fn encode<M: ShardMachine<Command = C>>(&self, into: &mut Vec<u8>) {
        match self {
            Step::Command(command) => encode_command::<M>(command, into),
            Step::Prepare { transaction, coordinator, lease_ms, part } => {
                put_head(into, 1, *transaction);
                into.extend_from_slice(&coordinator.0.to_le_bytes());
                into.extend_from_slice(&lease_ms.to_le_bytes());
                M::encode(part, into);
            }
            Step::Decide { transaction, until_ms, participants, part } => {
                put_head(into, 2, *transaction);
                into.extend_from_slice(&until_ms.to_le_bytes());
                put_shards(into, participants);
                M::encode(part, into);
            }
            Step::Finish { transaction, commit_ts } => {
                put_head(into, 3, *transaction);
                into.extend_from_slice(&commit_ts.map_or(0, |ts| ts.0).to_le_bytes());
            }
            Step::Ask { transaction, until_ms } => {
                put_head(into, 4, *transaction);
                into.extend_from_slice(&until_ms.to_le_bytes());
            }
            Step::Forget { transaction } => put_head(into, 5, *transaction),
        }
    }

    /// Reads one from the front of `bytes`, and returns it with what follows.
    pub(crate) fn decode<M: ShardMachine<Command = C>>(
        bytes: &[u8],
    ) -> Result<(Step<C>, &[u8]), StoreError> {
        let (&kind, bytes) = bytes.split_first().ok_or_else(|| damaged("a step without bytes"))?;
        if kind == 0 {
            let (command, rest) = M::decode(bytes)?;
            return Ok((Step::Command(command), rest));
        }
        let (node, bytes) = take_u64(bytes)?;
        let (number, bytes) = take_u64(bytes)?;
        let transaction = TransactionId { node: NodeId(node), number };
        Ok(match kind {
            1 => {
                let (coordinator, bytes) = take_shard(bytes)?;
                let (lease_ms, bytes) = take_u32(bytes)?;
                let (part, rest) = M::decode(bytes)?;
                (Step::Prepare { transaction, coordinator, lease_ms, part }, rest)
            }
            2 => {
                let (until_ms, bytes) = take_u64(bytes)?;
                let (participants, bytes) = take_shards(bytes)?;
                let (part, rest) = M::decode(bytes)?;
                (Step::Decide { transaction, until_ms, participants, part }, rest)
            }
            3 => {
                let (ts, rest) = take_u64(bytes)?;
                let commit_ts = (ts != 0).then_some(CommitTs(ts));
                (Step::Finish { transaction, commit_ts }, rest)
            }
            4 => {
                let (until_ms, rest) = take_u64(bytes)?;
                (Step::Ask { transaction, until_ms }, rest)
            }
            5 => (Step::Forget { transaction }, bytes),
            _ => return Err(damaged("a step that is not known here; start the newer version")),
        })
    }
}

/// What is asked of a shard's leader: to finish what was tried.
///
/// ```text
/// ver u8 │ node u64 │ number u64 │ commit timestamp u64, 0 if it is aborted │ newest timestamp seen u64
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FinishMessage {
    pub(crate) transaction: TransactionId,
    pub(crate) commit_ts: Option<CommitTs>,
    /// What follows is later than this.
    pub(crate) newest: CommitTs,
}

impl FinishMessage {
    const VERSION: u8 = 1;

    pub(crate) fn encode(self) -> Bytes {
        let mut bytes = vec![FinishMessage::VERSION];
        let TransactionId { node, number } = self.transaction;
        for number in [node.0, number, self.commit_ts.map_or(0, |ts| ts.0), self.newest.0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        Bytes::from(bytes)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<FinishMessage> {
        let (version, rest) = bytes.split_first()?;
        let ([node, number, ts, newest], []) = rest.as_chunks::<8>() else { return None };
        let number_of = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        let transaction =
            TransactionId { node: NodeId(number_of(node)), number: number_of(number) };
        let ts = number_of(ts);
        let commit_ts = (ts != 0).then_some(CommitTs(ts));
        let newest = CommitTs(number_of(newest));
        let message = FinishMessage { transaction, commit_ts, newest };
        (*version == FinishMessage::VERSION).then_some(message)
    }
}

/// The answer: an index at which it has been done, and whether it had not been before.
///
/// ```text
/// index u64 │ was tried u8
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Finished {
    pub(crate) index: LogIndex,
    pub(crate) was_tried: bool,
}

impl Finished {
    pub(crate) fn encode(self) -> Bytes {
        let mut bytes = self.index.0.to_le_bytes().to_vec();
        bytes.push(u8::from(self.was_tried));
        Bytes::from(bytes)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Finished> {
        let (index, [was_tried]) = bytes.split_first_chunk()? else { return None };
        let index = LogIndex(u64::from_le_bytes(*index));
        Some(Finished { index, was_tried: *was_tried != 0 })
    }
}

/// As [`Step::encode`] of a command that the caller keeps.
pub(crate) fn encode_command<M: ShardMachine>(command: &M::Command, into: &mut Vec<u8>) {
    into.push(0);
    M::encode(command, into);
}

fn damaged(what: &str) -> StoreError {
    StoreError::corrupt(b"(log entry)", what)
}

fn put_head(into: &mut Vec<u8>, kind: u8, transaction: TransactionId) {
    into.push(kind);
    into.extend_from_slice(&transaction.node.0.to_le_bytes());
    into.extend_from_slice(&transaction.number.to_le_bytes());
}

pub(crate) fn put_shards(into: &mut Vec<u8>, shards: &[ShardId]) {
    into.extend_from_slice(&(shards.len() as u32).to_le_bytes());
    for shard in shards {
        into.extend_from_slice(&shard.0.to_le_bytes());
    }
}

pub(crate) fn take_u64(bytes: &[u8]) -> Result<(u64, &[u8]), StoreError> {
    let (head, rest) = bytes.split_first_chunk().ok_or_else(|| damaged("a step cut short"))?;
    Ok((u64::from_le_bytes(*head), rest))
}

pub(crate) fn take_u32(bytes: &[u8]) -> Result<(u32, &[u8]), StoreError> {
    let (head, rest) = bytes.split_first_chunk().ok_or_else(|| damaged("a step cut short"))?;
    Ok((u32::from_le_bytes(*head), rest))
}

pub(crate) fn take_shard(bytes: &[u8]) -> Result<(ShardId, &[u8]), StoreError> {
    let (shard, rest) = take_u32(bytes)?;
    Ok((ShardId(shard), rest))
}

pub(crate) fn take_shards(bytes: &[u8]) -> Result<(Vec<ShardId>, &[u8]), StoreError> {
    let (count, mut rest) = take_u32(bytes)?;
    if count as usize > PARTICIPANTS_MAX {
        return Err(damaged("a commit over more shards than there may be"));
    }
    let mut shards = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let (shard, after) = take_shard(rest)?;
        shards.push(shard);
        rest = after;
    }
    Ok((shards, rest))
}
