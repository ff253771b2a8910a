//! A shard: one consensus group, one log, one state machine, and the way through them.
//!
//! ```text
//!   propose ─▶ proposer ─▶ consensus ─▶ log ─▶ apply ─▶ sink (feed), then outcomes
//!              batches what has arrived         │
//!   read ◀──────────────────── state ◀──────────┘ ─▶ checkpoint ─▶ store, log purged behind it
//! ```
//!
//! The kernel knows no data model: it is generic over a [`ShardMachine`] and moves its bytes. It
//! knows no protocol either; `proteus-kernel-api` is what faces see of it.
//!
//! # Invariants
//! - Every durable change is a command in the log; nothing else writes the state.
//! - The state is always at a prefix of the log, and carries the name of its last entry with it.
//! - A commit is published to the sink before any reader sees it, and before its proposer is
//!   answered.
//! - Commit timestamps only grow, across restarts, leaders and clock jumps.
//! - A proposal is answered once it is applied both here and on the leader; or it is proposed again
//!   under a later leader, if it cannot be in the log.
//!
//! Reading order: [`Shard`], `envelope`, `proposer`, `pending`, `forward`, `state`, `reads`, `image`, `history`, `digests`, `chores`; for several shards
//! `transaction`, `undecided`, `whole`, `whole_image`, `leaders`.

mod away;
mod chores;
mod digests;
mod envelope;
mod forward;
mod history;
mod image;
mod lanes;
mod leaders;
mod links;
mod pending;
mod proposer;
mod reads;
mod shard;
mod state;
mod step;
mod timestamps;
mod transaction;
mod undecided;
mod whole;
mod whole_image;

pub use away::Away;
pub use chores::{CheckpointTurns, ChoreOptions};
pub use digests::differs;
pub use history::{LogBehind, LogPart, Replay};
pub use image::{RestoredState, StateImage, StoreReport, examine_store, stored_members};
pub use leaders::{ChosenLeaders, spread_leaders};
pub use links::{Alone, Links, Route, Service};
pub use proteus_consensus::{
    Call, ChangeError, GroupStatus, Leadership, Membership, Timing, TransportError,
};
pub use proteus_store::set_rows_memory;
pub use shard::{
    Answering, CommitSink, Committing, Proposed, Shard, ShardOptions, ShardStatus, Wide,
};
pub use step::TransactionId;
pub use timestamps::Timestamps;
pub use transaction::{Commits, Shards, Spread, Spreading, Way};
pub use whole::{ask_whole, read_whole};
pub use whole_image::{Aside, AsideElsewhere, Imaged, image_spread, image_whole};

/// Largest minitransaction with its parameters, in bytes. A log entry holds one or more.
pub const PROPOSAL_BYTES_MAX: usize = 64 * 1024 * 1024;

const _: () = assert!(PROPOSAL_BYTES_MAX + 1024 < proteus_log::ENTRY_BYTES_MAX);
