//! Reading several shards at one moment.

use std::sync::Arc;

use proteus_machine::{KernelError, ShardMachine, View};
use proteus_types::ShardId;

use crate::shard::Shard;
use crate::undecided::Standing;

/// What a reader sees of one shard.
#[derive(Clone, Copy)]
struct Seen<'a> {
    shard: ShardId,
    view: View<'a>,
    standing: &'a Standing,
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
///
/// A participant that has not carried out all that a coordinator has decided for it has applied nothing
/// later than the decision: what it applies until it has tried its part has earlier timestamps, nothing
/// comes in between, and what finishes it has a later one. And a coordinator that has not decided here
/// what a participant has carried out has not applied that timestamp.
fn is_torn(seen: &[Seen<'_>]) -> bool {
    let applied = |shard: &ShardId| {
        let of_shard = seen.iter().find(|seen| seen.shard == *shard);
        of_shard.map(|seen| seen.view.applied_ts)
    };
    seen.iter().any(|seen| {
        let Standing { participants, coordinators, .. } = seen.standing;
        participants.iter().any(|(shard, ts)| applied(shard).is_some_and(|applied| applied <= *ts))
            || coordinators
                .iter()
                .any(|(shard, ts)| applied(shard).is_some_and(|applied| applied < *ts))
    })
}
