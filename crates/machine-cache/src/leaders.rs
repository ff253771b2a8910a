//! Which nodes an operator wants to lead which shards, and until when. Only the first shard knows.

use std::ops::ControlFlow;

use proteus_machine::Ctx;
use proteus_machine::key::{KeyBuilder, take_u32, take_u64};
use proteus_store::{Read, StoreError};
use proteus_types::{NodeId, ShardId};

use crate::{Change, SPACE, layout};

/// An operator's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChosenLeader {
    /// Of this shard.
    pub shard: ShardId,
    /// This node shall lead.
    pub node: NodeId,
    /// Until then, in milliseconds since the Unix epoch.
    pub until_ms: u64,
}

/// All choices, also those whose time is over.
///
/// # Errors
/// If the store fails or holds damaged bytes.
pub fn chosen_leaders(state: &dyn Read) -> Result<Vec<ChosenLeader>, StoreError> {
    let mut found = Ok(Vec::new());
    state.scan_prefix(&[SPACE, layout::KIND_CHOSEN_LEADER], &mut |key, value| {
        let chosen = || {
            let (shard, _) = take_u32(key.get(2..)?)?;
            let (node, rest) = take_u64(value)?;
            let (until_ms, _) = take_u64(rest)?;
            Some(ChosenLeader { shard: ShardId(shard), node: NodeId(node), until_ms })
        };
        match (&mut found, chosen()) {
            (Ok(found), Some(chosen)) => found.push(chosen),
            (found, _) => *found = Err(StoreError::corrupt(key, "not a choice of a leader")),
        }
        ControlFlow::Continue(())
    })?;
    found
}

/// Notes a choice that holds for `keep_ms` from now on, in place of an earlier one; for no time at all: none.
/// Those whose time is over are forgotten.
pub(crate) fn choose(
    ctx: &mut Ctx<'_, Change>,
    shard: ShardId,
    node: NodeId,
    keep_ms: u64,
) -> Result<(), StoreError> {
    let key = |shard: ShardId| KeyBuilder::new(SPACE, layout::KIND_CHOSEN_LEADER).u32(shard.0);
    let now_ms = ctx.now_ms();
    for chosen in chosen_leaders(ctx)? {
        if chosen.shard == shard || chosen.until_ms <= now_ms {
            ctx.delete(key(chosen.shard).build());
        }
    }
    if keep_ms > 0 {
        let mut value = node.0.to_be_bytes().to_vec();
        value.extend_from_slice(&now_ms.saturating_add(keep_ms).to_be_bytes());
        ctx.put(key(shard).build(), value);
    }
    Ok(())
}
