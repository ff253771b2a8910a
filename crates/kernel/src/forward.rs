//! Proposals from nodes that do not lead.
//!
//! A node that does not lead hands its callers' commands to the leader, and learns their outcomes from
//! its own replica when that applies them. What it hands over within one term of a leader is one
//! stream: each batch names the one before it, so that the leader takes each exactly once and in order,
//! however often messages are lost, repeated or overtake each other.
//!
//! ```text
//! request = ver u8 │ term u64 │ node u64 │ proposal u64 │ previous u64 │ newest ts u64 │ gates u8
//!           │ command count u32 │ commands
//! answer  = ver u8 │ code u8 │ reason, text
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::Mutex;
use proteus_types::{CommitTs, NodeId, ProposalId, Term};
use tokio::sync::Notify;

const FORMAT_VERSION: u8 = 2;
const HEAD_BYTES: usize = 1 + 8 * 5 + 1 + 4;

/// A batch of another node's commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forward {
    /// The term in which the receiver is to lead.
    pub(crate) term: Term,
    /// Whose callers wait.
    pub(crate) node: NodeId,
    pub(crate) proposal: ProposalId,
    /// The batch before it in this term; 0 if it is the first.
    pub(crate) previous: ProposalId,
    /// The newest timestamp that the sender has seen; the batch is committed later.
    pub(crate) newest: CommitTs,
    /// Whether its last command gates the shard.
    pub(crate) gates: bool,
    pub(crate) command_count: u32,
    pub(crate) commands: Bytes,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ForwardAnswer {
    /// The leader has applied it.
    Applied,
    /// It is on its way, or one before it has not arrived; ask again.
    TryAgain,
    /// The receiver does not lead in that term any more: it is in the log already, or never will be.
    NotLeading,
    /// It was refused for good: the leader's disk is full.
    DiskFull(String),
}

impl Forward {
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.commands.len());
        bytes.push(FORMAT_VERSION);
        let Forward { term, node, proposal, previous, newest, .. } = self;
        for number in [term.0, node.0, proposal.0, previous.0, newest.0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.push(u8::from(self.gates));
        bytes.extend_from_slice(&self.command_count.to_le_bytes());
        bytes.extend_from_slice(&self.commands);
        Bytes::from(bytes)
    }

    pub(crate) fn decode(bytes: &Bytes) -> Option<Forward> {
        let (head, _) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        if head[0] != FORMAT_VERSION {
            return None;
        }
        let number = |at: usize| {
            head.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |n| u64::from_le_bytes(*n))
        };
        let count = head.last_chunk::<4>().map_or(0, |n| u32::from_le_bytes(*n));
        Some(Forward {
            term: Term(number(1)),
            node: NodeId(number(9)),
            proposal: ProposalId(number(17)),
            previous: ProposalId(number(25)),
            newest: CommitTs(number(33)),
            gates: head.get(41).is_some_and(|gates| *gates != 0),
            command_count: count,
            commands: bytes.slice(HEAD_BYTES..),
        })
    }
}

impl ForwardAnswer {
    pub(crate) fn encode(&self) -> Bytes {
        let (code, reason) = match self {
            ForwardAnswer::Applied => (0, ""),
            ForwardAnswer::TryAgain => (1, ""),
            ForwardAnswer::NotLeading => (2, ""),
            ForwardAnswer::DiskFull(reason) => (3, reason.as_str()),
        };
        let mut bytes = vec![FORMAT_VERSION, code];
        bytes.extend_from_slice(reason.as_bytes());
        Bytes::from(bytes)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<ForwardAnswer> {
        match bytes {
            [FORMAT_VERSION, 0] => Some(ForwardAnswer::Applied),
            [FORMAT_VERSION, 1] => Some(ForwardAnswer::TryAgain),
            [FORMAT_VERSION, 2] => Some(ForwardAnswer::NotLeading),
            [FORMAT_VERSION, 3, reason @ ..] => {
                Some(ForwardAnswer::DiskFull(String::from_utf8_lossy(reason).into_owned()))
            }
            _ => None,
        }
    }
}

/// The leader's memory of what other nodes have handed over in its term.
#[derive(Default)]
pub(crate) struct Intake {
    streams: Mutex<Streams>,
    /// Wakes those who wait for a batch to be applied.
    pub(crate) changed: Notify,
}

#[derive(Default)]
struct Streams {
    term: Term,
    /// By node and the number of the stream: a node begins another when it is started, and when it has
    /// given up on the one before.
    of: BTreeMap<(NodeId, u64), Stream>,
}

#[derive(Clone, Copy, Default)]
struct Stream {
    taken: ProposalId,
    applied: ProposalId,
}

/// What the leader does with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is new, and next.
    Now,
    /// It was taken before.
    Before,
    /// One before it is missing.
    TooEarly,
}

impl Intake {
    /// Takes a batch into its stream. The caller knows that this node leads in the batch's term.
    pub(crate) fn take(&self, forward: &Forward) -> Taken {
        let mut streams = self.streams.lock();
        if streams.term < forward.term {
            *streams = Streams { term: forward.term, of: BTreeMap::new() };
        }
        let stream = streams.of.entry((forward.node, stream_of(forward.proposal))).or_default();
        if forward.proposal <= stream.taken {
            return Taken::Before;
        }
        if forward.previous != stream.taken {
            return Taken::TooEarly;
        }
        stream.taken = forward.proposal;
        Taken::Now
    }

    /// Notes that a batch was applied.
    pub(crate) fn applied(&self, term: Term, node: NodeId, proposal: ProposalId) {
        let mut streams = self.streams.lock();
        if streams.term == term
            && let Some(stream) = streams.of.get_mut(&(node, stream_of(proposal)))
        {
            stream.applied = proposal;
            drop(streams);
            self.changed.notify_waiters();
        }
    }

    /// A batch that was taken was not proposed. Nothing more is taken from its stream: what follows
    /// must not come before it. Its node gives up on the stream and begins another.
    pub(crate) fn reject(&self, term: Term, node: NodeId, proposal: ProposalId) {
        let mut streams = self.streams.lock();
        if streams.term == term
            && let Some(stream) = streams.of.get_mut(&(node, stream_of(proposal)))
        {
            stream.taken = ProposalId(u64::MAX);
        }
    }

    /// Whether a batch that was taken has been applied.
    pub(crate) fn is_applied(&self, forward: &Forward) -> bool {
        let streams = self.streams.lock();
        let stream = streams.of.get(&(forward.node, stream_of(forward.proposal)));
        streams.term == forward.term
            && stream.is_some_and(|stream| stream.applied >= forward.proposal)
    }
}

/// Bits of a proposal's number that count within one stream; those above tell the stream.
const COUNT_BITS: u32 = 40;

/// The number of a stream's first proposal.
pub(crate) fn first_proposal(stream: u32) -> ProposalId {
    ProposalId((u64::from(stream & 0xFF_FFFF) << COUNT_BITS) | 1)
}

fn stream_of(proposal: ProposalId) -> u64 {
    proposal.0 >> COUNT_BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(term: u64, proposal: u64, previous: u64) -> Forward {
        Forward {
            term: Term(term),
            node: NodeId(2),
            proposal: ProposalId(proposal),
            previous: ProposalId(previous),
            newest: CommitTs(9),
            gates: true,
            command_count: 3,
            commands: Bytes::from_static(b"commands"),
        }
    }

    #[test]
    fn requests_and_answers_come_back() {
        let request = forward(1, 2, 3);
        let bytes = request.encode();
        assert_eq!(Forward::decode(&bytes), Some(request));
        assert_eq!(Forward::decode(&bytes.slice(..HEAD_BYTES - 1)), None);
        for answer in [
            ForwardAnswer::Applied,
            ForwardAnswer::TryAgain,
            ForwardAnswer::NotLeading,
            ForwardAnswer::DiskFull("full".to_owned()),
        ] {
            assert_eq!(ForwardAnswer::decode(&answer.encode()), Some(answer));
        }
    }

    #[test]
    fn each_batch_is_taken_once_and_in_order() {
        let intake = Intake::default();
        assert_eq!(intake.take(&forward(1, 11, 10)), Taken::TooEarly);
        assert_eq!(intake.take(&forward(1, 10, 0)), Taken::Now);
        assert_eq!(intake.take(&forward(1, 10, 0)), Taken::Before);
        assert_eq!(intake.take(&forward(1, 12, 11)), Taken::TooEarly);
        assert_eq!(intake.take(&forward(1, 11, 10)), Taken::Now);
        assert_eq!(intake.take(&forward(1, 12, 11)), Taken::Now);
        assert_eq!(intake.take(&forward(1, 11, 10)), Taken::Before);
        intake.applied(Term(1), NodeId(2), ProposalId(11));
        assert!(intake.is_applied(&forward(1, 10, 0)) && intake.is_applied(&forward(1, 11, 10)));
        assert!(!intake.is_applied(&forward(1, 12, 11)));
        assert_eq!(intake.take(&forward(2, 12, 0)), Taken::Now, "a new term, a new stream");
        let restarted = first_proposal(7);
        assert_eq!(intake.take(&forward(2, restarted.0, 0)), Taken::Now);
        assert_eq!(intake.take(&forward(2, restarted.0 + 1, restarted.0)), Taken::Now);
        assert_eq!(intake.take(&forward(2, 12, 0)), Taken::Before, "late, of the stream before");
    }
}
