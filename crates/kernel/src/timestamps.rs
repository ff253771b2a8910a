//! The newest timestamp that a node knows of, over all its shards.
//!
//! Every shard's leader stamps later than whatever its node has seen, and every message that carries
//! commits from one node to another says what its sender has seen. So what one caller learnt of before it
//! proposes has an earlier timestamp, whichever shards the two are in: timestamps follow cause and effect.
//!
//! Source: Kulkarni et al., "Logical Physical Clocks" (OPODIS 2014).

use std::sync::atomic::{AtomicU64, Ordering};

use proteus_types::CommitTs;

/// Shared by the shards of a node.
#[derive(Debug, Default)]
pub struct Timestamps(AtomicU64);

impl Timestamps {
    /// Notes a timestamp that was seen.
    pub fn observe(&self, seen: CommitTs) {
        self.0.fetch_max(seen.0, Ordering::AcqRel);
    }

    /// The newest that was seen.
    pub fn newest(&self) -> CommitTs {
        CommitTs(self.0.load(Ordering::Acquire))
    }
}
