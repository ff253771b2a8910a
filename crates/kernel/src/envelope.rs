//! What a log entry of a shard contains: a batch of commands, each its own minitransaction.
//!
//! ```text
//! ┌────────┬──────────────┬────────────────────┬──────────────────┬─────────────┬─────────┬─ ─┬────────┬─ ─
//! │ ver u8 │ first ts u64 │ commands bytes u32 │ origin count u32 │ checked 8+8 │ command │   │ origin │
//! └────────┴──────────────┴────────────────────┴──────────────────┴─────────────┴─────────┴─ ─┴────────┴─ ─
//! checked = index u64 │ digest u64        origin = node u64 │ proposal u64 │ command count u32
//! ```
//! Little-endian. Command `i` (from 0) commits at timestamp `first ts + i`. Origins tell, in the order
//! of the commands, on which node somebody waits for the outcomes of how many of them. `checked` is what the leader's state
//! had come to when it proposed, for the others to compare theirs with.

use bytes::Bytes;
use proteus_consensus::{PAYLOAD_ROOM_BYTES, Payload};
use proteus_store::StoreError;
use proteus_types::{CommitTs, LogIndex, NodeId, ProposalId};

const FORMAT_VERSION: u8 = 3;

/// Bytes before the first command.
pub(crate) const ENVELOPE_BYTES: usize = 1 + 8 + 4 + 4 + 16;

/// Bytes that a batch which is being gathered leaves free before its first command.
pub(crate) const ROOM_BYTES: usize = PAYLOAD_ROOM_BYTES + ENVELOPE_BYTES;

/// Bytes that an origin takes behind the last command.
pub(crate) const ORIGIN_BYTES: usize = 8 + 8 + 4;

/// Consecutive commands of one batch that one node waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) node: NodeId,
    pub(crate) proposal: ProposalId,
    pub(crate) command_count: u32,
}

/// What a state had come to: the last entry applied, and the digest of all changes up to there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) index: LogIndex,
    pub(crate) digest: u64,
}

/// A batch as it is read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Envelope<'a> {
    pub(crate) first_ts: CommitTs,
    pub(crate) checked: Checked,
    pub(crate) commands: &'a [u8],
    pub(crate) origins: Vec<Origin>,
}

/// Makes a batch of commands behind [`ROOM_BYTES`] of room.
pub(crate) fn seal(
    mut batch: Vec<u8>,
    first_ts: CommitTs,
    checked: Checked,
    origins: &[Origin],
) -> Payload {
    let commands_bytes = (batch.len() - ROOM_BYTES) as u32;
    let head = &mut batch[PAYLOAD_ROOM_BYTES..ROOM_BYTES];
    head[0] = FORMAT_VERSION;
    head[1..9].copy_from_slice(&first_ts.0.to_le_bytes());
    head[9..13].copy_from_slice(&commands_bytes.to_le_bytes());
    head[13..17].copy_from_slice(&(origins.len() as u32).to_le_bytes());
    head[17..25].copy_from_slice(&checked.index.0.to_le_bytes());
    head[25..33].copy_from_slice(&checked.digest.to_le_bytes());
    for origin in origins {
        batch.extend_from_slice(&origin.node.0.to_le_bytes());
        batch.extend_from_slice(&origin.proposal.0.to_le_bytes());
        batch.extend_from_slice(&origin.command_count.to_le_bytes());
    }
    Payload::behind_room(batch)
}

impl Envelope<'_> {
    /// Reads a batch.
    pub(crate) fn open(batch: &Bytes) -> Result<Envelope<'_>, StoreError> {
        let damaged = |message: String| StoreError::corrupt(b"(log entry)", message);
        let (head, rest) = batch
            .split_first_chunk::<ENVELOPE_BYTES>()
            .ok_or_else(|| damaged(format!("a batch of {} bytes has no envelope", batch.len())))?;
        if head[0] != FORMAT_VERSION {
            return Err(damaged(format!(
                "batch of format version {}, but this binary reads {FORMAT_VERSION}; start the version that wrote it",
                head[0]
            )));
        }
        let first_ts = CommitTs(u64_at(head, 1));
        let (commands_bytes, origin_count) = (u32_at(head, 9) as usize, u32_at(head, 13) as usize);
        let split = rest.split_at_checked(commands_bytes);
        let (commands, origins) =
            split.ok_or_else(|| damaged("commands are missing from a batch".to_owned()))?;
        if origins.len() != origin_count.saturating_mul(ORIGIN_BYTES) {
            return Err(damaged("a batch does not end with its origins".to_owned()));
        }
        let origin = |bytes: &[u8]| Origin {
            node: NodeId(u64_at(bytes, 0)),
            proposal: ProposalId(u64_at(bytes, 8)),
            command_count: u32_at(bytes, 16),
        };
        let origins = origins.chunks_exact(ORIGIN_BYTES).map(origin).collect();
        let checked = Checked { index: LogIndex(u64_at(head, 17)), digest: u64_at(head, 25) };
        Ok(Envelope { first_ts, checked, commands, origins })
    }

    /// Timestamp of its last command; that before the first if there is none.
    pub(crate) fn last_ts(&self) -> CommitTs {
        CommitTs((self.first_ts.0 + self.command_count()).saturating_sub(1))
    }

    /// The same batch without what commits after its first `count` commands, which are `commands`.
    pub(crate) fn cut(&self, commands: &[u8], count: u64) -> Payload {
        let mut batch = vec![0; ROOM_BYTES];
        batch.extend_from_slice(commands);
        let mut left = count;
        let origins = self.origins.iter().map(|origin| {
            let command_count = origin.command_count.min(u32::try_from(left).unwrap_or(u32::MAX));
            left -= u64::from(command_count);
            Origin { command_count, ..*origin }
        });
        let origins: Vec<Origin> = origins.collect();
        seal(batch, self.first_ts, self.checked, &origins)
    }

    /// Commands in the batch.
    pub(crate) fn command_count(&self) -> u64 {
        self.origins.iter().map(|origin| u64::from(origin.command_count)).sum()
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_comes_back() {
        let origins = [
            Origin { node: NodeId(7), proposal: ProposalId(8), command_count: 10 },
            Origin { node: NodeId(2), proposal: ProposalId(1), command_count: 1 },
        ];
        let mut batch = vec![0; ROOM_BYTES];
        batch.extend_from_slice(&[42, 43]);
        let checked = Checked { index: LogIndex(5), digest: 6 };
        let batch = seal(batch, CommitTs(9), checked, &origins).content();
        let envelope = Envelope::open(&batch).unwrap();
        assert_eq!(envelope.command_count(), 11);
        let expected = Envelope {
            first_ts: CommitTs(9),
            checked,
            commands: &[42, 43],
            origins: origins.to_vec(),
        };
        assert_eq!(envelope, expected);
        for length in 0..batch.len() {
            assert!(Envelope::open(&batch.slice(..length)).is_err(), "{length} bytes");
        }
    }
}
