//! Reading several shards at one moment.

use std::sync::Arc;

use proteus_machine::{KernelError, ShardMachine, View};
use proteus_types::{CommitTs, ShardId};

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
/// A participant that has not carried out all that a coordinator has decided for it has carried out nothing
/// later than the decision: what it applies until it has tried its part has earlier timestamps, and what
/// finishes that has a later one. What comes in between carries nothing out, whatever its timestamp: it
/// finishes what was finished before. And a coordinator that has not decided here what a participant has
/// carried out has not applied that timestamp.
fn is_torn(seen: &[Seen<'_>]) -> bool {
    let of = |shard: &ShardId| seen.iter().find(|seen| seen.shard == *shard);
    let has_carried_out = |shard: &ShardId, decided: CommitTs| {
        of(shard).is_none_or(|seen| {
            let tried = seen.standing.undecided.map(|undecided| undecided.tried_ts);
            tried.unwrap_or(seen.view.applied_ts) > decided
        })
    };
    let has_decided = |shard: &ShardId, carried_out: CommitTs| {
        of(shard).is_none_or(|seen| seen.view.applied_ts >= carried_out)
    };
    seen.iter().any(|seen| {
        let Standing { participants, coordinators, .. } = seen.standing;
        !participants.iter().all(|(shard, ts)| has_carried_out(shard, *ts))
            || !coordinators.iter().all(|(shard, ts)| has_decided(shard, *ts))
    })
}

#[cfg(test)]
mod tests {
    use proteus_store::LayeredStore;
    use proteus_types::NodeId;

    use super::*;
    use crate::step::TransactionId;
    use crate::undecided::Undecided;

    const A: ShardId = ShardId(0);
    const B: ShardId = ShardId(1);

    /// Whether the states of a coordinator and a participant are torn, each at a timestamp; the coordinator
    /// having decided at one, the participant having carried out up to one, and having tried at one.
    fn torn(a: (u64, Option<u64>), b: (u64, Option<u64>, Option<u64>)) -> bool {
        let store = LayeredStore::in_memory();
        let view = |ts| View { state: &store, now_ms: 0, applied_ts: CommitTs(ts) };
        let participants = a.1.map(|ts| (B, CommitTs(ts))).into_iter().collect();
        let coordinators = b.1.map(|ts| (A, CommitTs(ts))).into_iter().collect();
        let transaction = TransactionId { node: NodeId(1), number: 1 };
        let tried =
            |ts| Undecided { transaction, coordinator: A, tried_ts: CommitTs(ts), lease_ms: 1 };
        let of_a = Standing { participants, ..Standing::default() };
        let of_b = Standing { coordinators, undecided: b.2.map(tried), ..Standing::default() };
        is_torn(&[
            Seen { shard: A, view: view(a.0), standing: &of_a },
            Seen { shard: B, view: view(b.0), standing: &of_b },
        ])
    }

    #[test]
    fn a_commit_is_seen_in_all_states_or_in_none() {
        // Tried at 10, decided at 20, carried out at 30.
        assert!(!torn((5, None), (10, None, Some(10))), "not decided yet");
        assert!(torn((20, Some(20)), (9, None, None)), "decided, and not even tried here");
        assert!(torn((20, Some(20)), (10, None, Some(10))), "decided, and not carried out");
        assert!(torn((20, Some(20)), (25, None, Some(10))), "something older was finished again");
        assert!(!torn((20, Some(20)), (30, Some(20), None)), "carried out");
        assert!(torn((19, None), (30, Some(20), None)), "carried out, and not decided here");
        assert!(!torn((20, Some(20)), (40, Some(20), Some(40))), "the next is tried");
    }
}
