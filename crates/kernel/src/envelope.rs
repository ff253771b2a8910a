//! What a log entry of a shard contains: a batch of commands, each its own minitransaction.
//!
//! ```text
//! ┌─────────┬──────────┬──────────────┬──────────────┬───────────┬─────────┬─────────┬─ ─
//! │ ver u8  │ node u64 │ proposal u64 │ first ts u64 │ count u32 │ command │ command │
//! └─────────┴──────────┴──────────────┴──────────────┴───────────┴─────────┴─────────┴─ ─
//! ```
//! Little-endian. Command `i` (from 0) commits at timestamp `first ts + i`. Node and proposal tell
//! the leader whose clients wait for the outcomes.

use bytes::Bytes;
use proteus_store::StoreError;
use proteus_types::{CommitTs, NodeId, ProposalId};

const FORMAT_VERSION: u8 = 1;

/// Bytes before the first command.
pub(crate) const ENVELOPE_BYTES: usize = 1 + 8 + 8 + 8 + 4;

/// Everything of a batch but its commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) node: NodeId,
    pub(crate) proposal: ProposalId,
    pub(crate) first_ts: CommitTs,
    pub(crate) command_count: u32,
}

impl Envelope {
    /// Writes the envelope over the first [`ENVELOPE_BYTES`] of a batch.
    pub(crate) fn seal(&self, batch: &mut [u8]) {
        batch[0] = FORMAT_VERSION;
        batch[1..9].copy_from_slice(&self.node.0.to_le_bytes());
        batch[9..17].copy_from_slice(&self.proposal.0.to_le_bytes());
        batch[17..25].copy_from_slice(&self.first_ts.0.to_le_bytes());
        batch[25..29].copy_from_slice(&self.command_count.to_le_bytes());
    }

    /// The envelope and the commands' bytes.
    pub(crate) fn open(batch: &Bytes) -> Result<(Envelope, &[u8]), StoreError> {
        let damaged = |message: String| StoreError::corrupt(b"(log entry)", message);
        let (head, commands) = batch
            .split_first_chunk::<ENVELOPE_BYTES>()
            .ok_or_else(|| damaged(format!("a batch of {} bytes has no envelope", batch.len())))?;
        if head[0] != FORMAT_VERSION {
            return Err(damaged(format!(
                "batch of format version {}, but this binary reads {FORMAT_VERSION}; start the version that wrote it",
                head[0]
            )));
        }
        let number =
            |at: usize| head[at..].first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let count = head[25..].first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let envelope = Envelope {
            node: NodeId(number(1)),
            proposal: ProposalId(number(9)),
            first_ts: CommitTs(number(17)),
            command_count: count,
        };
        Ok((envelope, commands))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_comes_back() {
        let envelope = Envelope {
            node: NodeId(7),
            proposal: ProposalId(8),
            first_ts: CommitTs(9),
            command_count: 10,
        };
        let mut batch = vec![0; ENVELOPE_BYTES];
        batch.push(42);
        envelope.seal(&mut batch);
        let batch = Bytes::from(batch);
        assert_eq!(Envelope::open(&batch).unwrap(), (envelope, &[42u8][..]));
        assert!(Envelope::open(&batch.slice(..5)).is_err());
    }
}
