//! Reading several shards at one moment.

use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use proteus_env::task;
use proteus_machine::{KernelError, ShardMachine, View};
use proteus_types::{CommitTs, ShardId};

use crate::shard::Shard;
use crate::transaction::{Commits, Way};
use crate::undecided::Standing;

/// What a reader sees of one shard.
#[derive(Clone, Copy)]
struct Seen<'a> {
    shard: ShardId,
    view: View<'a>,
    standing: &'a Standing,
}

impl<'a> Seen<'a> {
    fn stands(&self) -> Stands<'a> {
        Stands { shard: self.shard, applied_ts: self.view.applied_ts, standing: self.standing }
    }
}

/// How one shard's state stands to commits over several.
#[derive(Clone, Copy)]
struct Stands<'a> {
    shard: ShardId,
    applied_ts: CommitTs,
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
        let all: Vec<Stands<'_>> = seen.iter().map(|seen| seen.stands()).collect();
        if is_torn(&all) {
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

/// How often, and with which pause, shards are asked again of which one has carried out its part of a commit and
/// another has not.
const TORN_TRIES: usize = 200;
const TORN_PAUSE: Duration = Duration::from_millis(5);

/// What each of some shards, wherever they are, answers to a question, so that each commit over several of them is in
/// all answers or in none, and so is every commit that was acknowledged before this call. All shards are to be
/// asked: what they stand for tells whether the answers belong together; the question may be one for nothing.
///
/// # Errors
/// If a shard does not answer, or commits go on tearing them apart.
pub async fn ask_whole<M: ShardMachine>(
    commits: &Commits<M>,
    questions: &[(ShardId, Vec<u8>)],
) -> Result<Vec<(ShardId, Vec<u8>)>, KernelError> {
    for _ in 0..TORN_TRIES {
        let asking = questions.iter().map(|(shard, question)| async move {
            let told = match commits.way(*shard)? {
                Way::Away(away) => {
                    let told = away.ask_told(question).await?;
                    let answer = told.answer.to_vec();
                    (told, answer)
                }
                Way::Here(here) => {
                    let stopping = || KernelError::Unavailable("the node is stopping".to_owned());
                    if let Some(barrier) = here.read_barrier() {
                        barrier.await.unwrap_or_else(|_| Err(stopping()))?;
                    }
                    here.told_here(question)?
                }
            };
            Ok::<_, KernelError>((*shard, told))
        });
        let told = try_join_all(asking).await?;
        let stands = told.iter().map(|(shard, (told, _))| Stands {
            shard: *shard,
            applied_ts: told.applied_ts,
            standing: &told.standing,
        });
        if !is_torn(&stands.collect::<Vec<_>>()) {
            return Ok(told.into_iter().map(|(shard, (_, answer))| (shard, answer)).collect());
        }
        task::sleep(TORN_PAUSE).await;
    }
    let reason = "commits over several shards are not carried out in all of them";
    Err(KernelError::Unavailable(reason.to_owned()))
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
fn is_torn(seen: &[Stands<'_>]) -> bool {
    let of = |shard: &ShardId| seen.iter().find(|seen| seen.shard == *shard);
    let has_carried_out = |shard: &ShardId, decided: CommitTs| {
        of(shard).is_none_or(|seen| {
            let tried = seen.standing.undecided.map(|undecided| undecided.tried_ts);
            tried.unwrap_or(seen.applied_ts) > decided
        })
    };
    let has_decided = |shard: &ShardId, carried_out: CommitTs| {
        of(shard).is_none_or(|seen| seen.applied_ts >= carried_out)
    };
    seen.iter().any(|seen| {
        let Standing { participants, coordinators, .. } = seen.standing;
        !participants.iter().all(|(shard, ts)| has_carried_out(shard, *ts))
            || !coordinators.iter().all(|(shard, ts)| has_decided(shard, *ts))
    })
}

#[cfg(test)]
mod tests {
    use proteus_types::NodeId;

    use super::*;
    use crate::step::TransactionId;
    use crate::undecided::Undecided;

    const A: ShardId = ShardId(0);
    const B: ShardId = ShardId(1);

    /// Whether the states of a coordinator and a participant are torn, each at a timestamp; the coordinator
    /// having decided at one, the participant having carried out up to one, and having tried at one.
    fn torn(a: (u64, Option<u64>), b: (u64, Option<u64>, Option<u64>)) -> bool {
        let participants = a.1.map(|ts| (B, CommitTs(ts))).into_iter().collect();
        let coordinators = b.1.map(|ts| (A, CommitTs(ts))).into_iter().collect();
        let transaction = TransactionId { node: NodeId(1), number: 1 };
        let tried =
            |ts| Undecided { transaction, coordinator: A, tried_ts: CommitTs(ts), lease_ms: 1 };
        let of_a = Standing { participants, ..Standing::default() };
        let of_b = Standing { coordinators, undecided: b.2.map(tried), ..Standing::default() };
        is_torn(&[
            Stands { shard: A, applied_ts: CommitTs(a.0), standing: &of_a },
            Stands { shard: B, applied_ts: CommitTs(b.0), standing: &of_b },
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
