//! Ids, positions and timestamps: every number that means something is a type of its own.
//!
//! This crate knows no I/O, no protocol and no data model. Conversions between two kinds of number
//! have a name; none is a bare `as`. The words are those of `docs/glossary.md`.

mod durability;
mod ids;
mod member;
mod positions;
mod slot;
mod slot_map;
mod timestamp;

pub use durability::Durability;
pub use ids::{NodeId, ProposalId, ShardId};
pub use member::Member;
pub use positions::{EntryId, LogIndex, Term};
pub use slot::{SLOT_COUNT, Slot};
pub use slot_map::{SlotMap, SlotRange};
pub use timestamp::{CommitTs, LOGICAL_BITS};
