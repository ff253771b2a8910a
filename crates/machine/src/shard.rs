//! What the kernel drives.

use proteus_store::{Read, State, StoreError};
use proteus_types::CommitTs;

use crate::{Position, View};

/// The composed state machine of a shard, as the kernel sees it.
///
/// A command is one minitransaction: it happens entirely or not at all.
pub trait ShardMachine: Send + Sync + 'static {
    /// A minitransaction.
    type Command: Send + 'static;
    /// Its answer.
    type Outcome: Send + 'static;
    /// What followers of the feed learn.
    type Change: Send + Sync + 'static;

    /// Appends the command's bytes, in the current version of the format.
    fn encode(command: &Self::Command, into: &mut Vec<u8>);

    /// Reads one command from the front of `bytes` and returns it with what follows.
    ///
    /// # Errors
    /// If the bytes are not a command of a version known here: the log is damaged or newer.
    fn decode(bytes: &[u8]) -> Result<(Self::Command, &[u8]), StoreError>;

    /// Applies one command at `position`. Changes of an aborted command are not appended.
    ///
    /// # Errors
    /// Only if this replica cannot go on; a refusal is an outcome.
    fn apply(
        state: &mut dyn State,
        position: Position,
        command: &Self::Command,
        changes: &mut Vec<Self::Change>,
    ) -> Result<Self::Outcome, StoreError>;

    /// Tells a key of the store that applying the command most likely begins by looking up: a hint.
    fn first_key(command: &Self::Command, tell: &mut dyn FnMut(&[u8])) {
        let _ = (command, tell);
    }

    /// Whether the command that this is the answer to has happened, and was not refused.
    fn has_happened(outcome: &Self::Outcome) -> bool;

    /// Whether the command that this is the answer to was refused only because more follows from it in other
    /// shards: it has to be committed over these, too.
    fn concerns_others(outcome: &Self::Outcome) -> bool {
        let _ = outcome;
        false
    }

    /// The bytes of an answer for another node, which proposed the command and has no replica of the shard; `None`
    /// if no such node can have proposed it.
    fn encode_outcome(outcome: &Self::Outcome) -> Option<Vec<u8>> {
        let _ = outcome;
        None
    }

    /// Reads what [`ShardMachine::encode_outcome`] wrote.
    fn decode_outcome(bytes: &[u8]) -> Option<Self::Outcome> {
        let _ = bytes;
        None
    }

    /// Answers a question that another node asks, which has no replica of the shard. Both are the machine's own bytes.
    ///
    /// # Errors
    /// If the store fails, or this is no question known here.
    fn answer(view: View<'_>, question: &[u8]) -> Result<Vec<u8>, StoreError> {
        let _ = (view, question);
        Err(StoreError::corrupt(b"(question)", "this machine answers none"))
    }

    /// Commands that are due because time passed, at most about `count_max`.
    ///
    /// # Errors
    /// If the store fails.
    fn due(view: View<'_>, count_max: usize) -> Result<Vec<Self::Command>, StoreError>;

    /// The earliest time, in milliseconds since the Unix epoch, at which commands can be due while the state
    /// stays as it is; it may be earlier than that. `None` if there is no such time.
    ///
    /// # Errors
    /// If the store fails.
    fn next_due_ms(state: &dyn Read) -> Result<Option<u64>, StoreError>;
}

/// One applied minitransaction as followers of the feed see it.
#[derive(Debug, Clone)]
pub struct Committed<C> {
    /// When it became visible on every face.
    pub commit_ts: CommitTs,
    /// What it changed, in order of its ops. Never empty.
    pub changes: Vec<C>,
}

/// Why the kernel could not answer. Each face maps these to its protocol's words in `errors.rs`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// The disk is full: nothing was changed, reads go on, writes succeed again once there is space.
    #[error("the disk is full: {0}; free some space, the node goes on by itself")]
    DiskFull(String),
    /// The proposal is larger than a log entry may be; nothing was changed.
    #[error(
        "a commit of {bytes} bytes is larger than the {bytes_max} that a log entry may have; split it"
    )]
    TooLarge {
        /// Size of the proposal.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Too much is waiting to be committed; nothing was changed, try again.
    #[error("the node is overloaded: {0}; try again")]
    Overloaded(String),
    /// This node does not lead the shard, or is stopping. Nothing is known of the proposal: it may
    /// still commit.
    #[error("the shard is unavailable on this node: {0}; try again")]
    Unavailable(String),
    /// The replica stopped because its disk failed or its state is damaged.
    #[error("this node stopped serving the shard: {0}")]
    Stopped(String),
}

impl KernelError {
    /// Another node, or another part of this one, answered something else than it was asked for.
    pub fn unknown_answer() -> KernelError {
        KernelError::Unavailable("a node answered what is not known here".to_owned())
    }
}

impl From<StoreError> for KernelError {
    fn from(error: StoreError) -> KernelError {
        match error {
            StoreError::Away(_) => KernelError::Unavailable(error.to_string()),
            StoreError::Io { .. } | StoreError::Corrupt { .. } => {
                KernelError::Stopped(error.to_string())
            }
        }
    }
}
