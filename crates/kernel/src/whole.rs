//! Reading several shards at one moment.

use std::sync::Arc;

use proteus_machine::{KernelError, ShardMachine, View};
use proteus_types::{CommitTs, ShardId};

use crate::shard::Shard;
use crate::undecided::{Decision, Standing};

/// What a reader sees of one shard.
#[derive(Clone, Copy)]
struct Seen<'a> {
    shard: ShardId,
    view: View<'a>,
    standing: Standing<'a>,
}

/// Who reads several shards.
type WholeReader<'a> = dyn FnMut(&[(ShardId, View<'_>)]) + 'a;

/// Calls `reader` once with the states of all `shards`, which are in ascending order, as they are at one
/// moment: each commit over several of them is in all or in none.
///
/// # Errors
/// If a shard has stopped; or if this node has carried out a part of a commit and not another yet, which
/// it will have in a moment.
pub fn read_whole<M: ShardMachine>(
    shards: &[(ShardId, Arc<Shard<M>>)],
    reader: &mut WholeReader<'_>,
) -> Result<(), KernelError> {
    nested(shards, &[], &mut |seen| {
        if is_torn(seen) {
            return Err(KernelError::Unavailable(
                "a commit over several shards is not carried out in all of them here yet"
                    .to_owned(),
            ));
        }
        let views: Vec<(ShardId, View<'_>)> =
            seen.iter().map(|seen| (seen.shard, seen.view)).collect();
        reader(&views);
        Ok(())
    })
}

type Reader<'a> = dyn FnMut(&[Seen<'_>]) -> Result<(), KernelError> + 'a;

/// Holds the state of the first shard while those of the others are read. All readers take them in the
/// same order, and who applies holds one only.
fn nested<M: ShardMachine>(
    shards: &[(ShardId, Arc<Shard<M>>)],
    before: &[Seen<'_>],
    reader: &mut Reader<'_>,
) -> Result<(), KernelError> {
    let Some(((id, shard), rest)) = shards.split_first() else { return reader(before) };
    let mut result = Ok(());
    shard.read_standing(&mut |view, standing| {
        let mut seen: Vec<Seen<'_>> = before.to_vec();
        seen.push(Seen { shard: *id, view, standing });
        result = nested(rest, &seen, reader);
    })?;
    result
}

/// Whether a commit is to be seen in one of these states and not in another.
fn is_torn(seen: &[Seen<'_>]) -> bool {
    seen.iter().flat_map(|seen| seen.standing.decisions).any(|decision| {
        let participants = seen.iter().filter(|seen| decision.participants.contains(&seen.shard));
        let mut states = participants.map(|seen| {
            let tried = seen.standing.undecided.map(|undecided| undecided.transaction);
            has_carried_out(decision, tried, seen.view.applied_ts)
        });
        states.any(|has| !has)
    })
}

/// Whether a participant that has applied all up to `applied_ts`, and has this commit tried, has carried
/// out what was decided. What it applies until it has tried its part has timestamps before the
/// decision's; what finishes that has a later one.
fn has_carried_out(
    decision: &Decision,
    tried: Option<crate::TransactionId>,
    applied_ts: CommitTs,
) -> bool {
    tried != Some(decision.transaction) && applied_ts > decision.commit_ts
}
