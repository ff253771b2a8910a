//! A group that goes on from a state which was brought here without its log.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::Bytes;
use openraft::Membership;
use openraft::impls::Vote;
use openraft::impls::leader_id_std::LeaderId;
use openraft::storage::RaftLogStorage;
use proteus_env::random::random_u64;
use proteus_log::{Log, LogEntry};
use proteus_types::{EntryId, Member, NodeId, ShardId};

use crate::config::{StoredMembership, decode_entry, from_bytes, log_id, to_bytes};
use crate::log_storage::LogStorage;
use crate::replica::{Applied, applied};

/// Leaves 24 random bits: some million terms.
const TERM_LEAP_SHIFT: u32 = 40;

/// Lays `log` out as if it had held a shard's entries up to `id` and they had been purged. Returns the
/// membership to be stored with the state: `node` alone, whoever the members were before.
///
/// # Errors
/// If the log fails.
pub async fn begin_after(
    log: &Log,
    shard: ShardId,
    id: EntryId,
    node: NodeId,
    member: Member,
) -> io::Result<Bytes> {
    let mut storage = LogStorage::new(log.clone(), shard);
    // Later than the term of what the state contains, and than any that its old cluster may yet have: entries of
    // both are never taken for each other.
    let term = id.term.0 + (random_u64() >> TERM_LEAP_SHIFT);
    let leader = LeaderId { term, voted_for: node.0 };
    storage.save_vote(&Vote { leader_id: leader, committed: false }).await?;
    storage.purge(log_id(id)).await?;
    let members = BTreeMap::from([(node.0, member)]);
    let membership =
        Membership::new(vec![BTreeSet::from([node.0])], members).map_err(io::Error::other)?;
    to_bytes(&StoredMembership::new(Some(log_id(id)), membership))
}

/// Drops all entries up to `id`, which the state contains.
///
/// # Errors
/// If the log fails.
pub async fn purge_to(log: &Log, shard: ShardId, id: EntryId) -> io::Result<()> {
    LogStorage::new(log.clone(), shard).purge(log_id(id)).await
}

/// The members in a membership as it is stored with the state.
///
/// # Errors
/// If it is damaged.
pub fn members_of(membership: &[u8]) -> io::Result<BTreeMap<NodeId, Member>> {
    let stored: StoredMembership = from_bytes(membership)?;
    Ok(stored.nodes().map(|(id, member)| (NodeId(*id), member.clone())).collect())
}

/// An entry of a log as a [`crate::Replica`] is given it.
///
/// # Errors
/// If it is damaged.
pub fn applied_entry(entry: &LogEntry) -> io::Result<Applied> {
    applied(&decode_entry(entry.id, &entry.payload)?)
}
