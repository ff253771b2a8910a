//! Which nodes are to have replicas of which shards, and how many of each there shall be. Only the first shard
//! knows, and is itself on every node.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_machine::key::{KeyBuilder, take_u32};
use proteus_machine::{Abort, Ctx};
use proteus_store::{Read, StoreError};
use proteus_types::{NodeId, ShardId};

use crate::{Change, Refusal, SPACE, layout};

/// Where replicas are to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replicas {
    /// How many each shard but the first shall have; 0: one on every node.
    pub count: u32,
    /// Of each shard for which nodes were chosen, these, ascending. The others are on every node.
    pub nodes: BTreeMap<ShardId, Vec<NodeId>>,
}

impl Replicas {
    /// Whether every node is to have every shard, and no choice of others is left to be taken back.
    pub fn are_everywhere(&self) -> bool {
        self.count == 0 && self.nodes.is_empty()
    }

    /// Whether a node is to have a replica of a shard.
    pub fn are_on(&self, shard: ShardId, node: NodeId) -> bool {
        self.nodes.get(&shard).is_none_or(|nodes| nodes.contains(&node))
    }
}

fn count_key() -> Bytes {
    KeyBuilder::new(SPACE, layout::KIND_REPLICAS).build()
}

fn key_of(shard: ShardId) -> Bytes {
    KeyBuilder::new(SPACE, layout::KIND_REPLICAS).u32(shard.0).build()
}

/// What was chosen.
///
/// # Errors
/// If the store fails or holds damaged bytes.
pub fn replicas(state: &dyn Read) -> Result<Replicas, StoreError> {
    let mut found = Ok(Replicas::default());
    state.scan_prefix(&[SPACE, layout::KIND_REPLICAS], &mut |key, value| {
        let damaged = || StoreError::corrupt(key, "not a choice of replicas");
        let Ok(all) = &mut found else { return ControlFlow::Break(()) };
        let behind = key.get(2..).unwrap_or_default();
        match (behind.is_empty(), take_u32(behind), decode(value)) {
            (true, ..) => match take_u32(value) {
                Some((count, _)) => all.count = count,
                None => found = Err(damaged()),
            },
            (false, Some((shard, _)), Some(nodes)) => {
                all.nodes.insert(ShardId(shard), nodes);
            }
            _ => found = Err(damaged()),
        }
        ControlFlow::Continue(())
    })?;
    found
}

fn encode(nodes: &[NodeId]) -> Vec<u8> {
    nodes.iter().flat_map(|node| node.0.to_be_bytes()).collect()
}

fn decode(value: &[u8]) -> Option<Vec<NodeId>> {
    let (nodes, rest) = value.as_chunks::<8>();
    rest.is_empty().then(|| nodes.iter().map(|node| NodeId(u64::from_be_bytes(*node))).collect())
}

/// Notes how many replicas each shard shall have.
pub(crate) fn set_count(ctx: &mut Ctx<'_, Change>, count: u32) -> Result<(), StoreError> {
    ctx.put(count_key(), count.to_be_bytes().to_vec());
    ctx.emit(Change::Replicas);
    Ok(())
}

/// Notes which nodes shall have a shard's replicas, if what was noted before is still `was`; none: every node.
pub(crate) fn place(
    ctx: &mut Ctx<'_, Change>,
    shard: ShardId,
    was: &[NodeId],
    nodes: &[NodeId],
) -> Result<(), Abort<Refusal>> {
    let key = key_of(shard);
    let before = ctx.get(&key)?;
    if before.as_deref().and_then(decode).unwrap_or_default() != was {
        return Err(Abort::Refused(Refusal::ReplicasPlaced));
    }
    if nodes.is_empty() {
        ctx.delete(key);
    } else {
        ctx.put(key, encode(nodes));
    }
    ctx.emit(Change::Replicas);
    Ok(())
}
