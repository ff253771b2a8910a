//! Kafka's consumers in groups, in a cluster in trouble.
//!
//! ```text
//!   workers   of one group, two at each partition, as if one had lost it and did not know: each consumes a
//!             bit, writes what came of it and commits how far it is, in one minitransaction that checks
//!             where the group was
//!   sharers   of a share group: settle a record at a time, for good or to be delivered again
//! ```
//! Claims: a commit of offsets that was acknowledged is never taken back; what came of a stretch was written
//! once, whoever tried; what was settled for good stays so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proteus_env::task;
use proteus_kernel::Shard;
use proteus_machine::View;
use proteus_shard_machine::topic::batch::{NewRecord, decode_records, frame_batch};
use proteus_shard_machine::topic::read::{self, ReadLimit};
use proteus_shard_machine::topic::shares::{self, Delivery, ShareRange, ShareState};
use proteus_shard_machine::topic::{Check, NewOffset, Op, TopicId};
use proteus_shard_machine::{Minitransaction, Outcome};
use proteus_store::StoreError;

use crate::random::Random;
use crate::replica::Machine;

/// What came of what workers consumed.
pub(crate) const WORK: TopicId = TopicId([0xCC; 16]);
const GROUP: &str = "workers";
const SHARE_GROUP: &str = "sharers";
/// A proposal is answered within this, in simulated time.
const PATIENCE: Duration = Duration::from_secs(120);

/// What consumers were told.
#[derive(Debug, Default)]
struct Known {
    /// The farthest acknowledged commit of the group, by partition.
    committed: BTreeMap<u32, i64>,
    /// Records that were settled for good.
    settled: BTreeSet<(u32, i64)>,
    /// Commits that a check refused: somebody else was there first.
    fenced: u64,
}

/// How a run went.
#[derive(Debug, Default, Clone, Copy)]
pub struct Consumed {
    /// Records whose consumption was acknowledged.
    pub consumed: u64,
    /// Commits that came too late.
    pub fenced: u64,
    /// Records settled for good in the share group.
    pub settled: u64,
}

/// All consumers of a run, of a topic with so many partitions.
pub(crate) struct Consumers {
    topic_id: TopicId,
    partition_count: u32,
    members: Vec<Member>,
    known: Arc<Mutex<Known>>,
}

struct Member {
    partition: u32,
    shares: bool,
    random: Random,
}

/// What a node shows of a partition.
struct Shown {
    committed: Option<i64>,
    /// Stretches that were worked on, in the order of their records.
    worked: Vec<(i64, i64)>,
    share: Option<shares::SharePartition>,
    /// End, exclusive, of what may be consumed.
    end: i64,
}

impl Consumers {
    pub(crate) fn new(topic_id: TopicId, partition_count: u32, random: &mut Random) -> Consumers {
        let members = (0..partition_count)
            .flat_map(|partition| [false, false, true, true].map(|shares| (partition, shares)));
        let members = members
            .map(|(partition, shares)| Member { partition, shares, random: random.fork() })
            .collect();
        Consumers { topic_id, partition_count, members, known: Arc::default() }
    }

    /// Some steps of everybody, on these nodes, all at once.
    pub(crate) async fn work<M: Machine>(
        &mut self,
        shards: &[Arc<Shard<M>>],
    ) -> Result<(), String> {
        let (topic_id, known) = (self.topic_id, &self.known);
        let working = self.members.iter_mut().map(|one| one.work(topic_id, shards, known));
        for done in futures::future::join_all(working).await {
            done?;
        }
        Ok(())
    }

    /// Holds what a node shows behind its barrier against what was told before.
    pub(crate) fn hold(&self, view: View<'_>) -> Result<Result<(), String>, StoreError> {
        let known = self.known.lock();
        for partition in 0..self.partition_count {
            let shown = shown(view, self.topic_id, partition)?;
            if let Err(wrong) = known.hold(partition, &shown) {
                return Ok(Err(format!("partition {partition}: {wrong}")));
            }
        }
        Ok(Ok(()))
    }

    pub(crate) fn consumed(&self) -> Consumed {
        let known = self.known.lock();
        Consumed {
            consumed: known.committed.values().sum::<i64>().unsigned_abs(),
            fenced: known.fenced,
            settled: known.settled.len() as u64,
        }
    }
}

fn shown(view: View<'_>, topic_id: TopicId, partition: u32) -> Result<Shown, StoreError> {
    let committed = read::committed_offset(view.state, GROUP, topic_id, partition)?;
    let share = shares::share_partition(view.state, SHARE_GROUP, topic_id, partition)?;
    let info = read::partition(view.state, topic_id, partition)?;
    let limit = ReadLimit::Bytes(usize::MAX);
    let stretch = read::read_batches(view.state, WORK, partition, 0, i64::MAX, limit)?;
    let mut worked = Vec::new();
    for batch in stretch.here().unwrap_or_default() {
        for record in
            decode_records(&batch.bytes, batch.base_offset).into_iter().flatten().flatten()
        {
            let text = record.value.as_deref().and_then(|value| std::str::from_utf8(value).ok());
            let numbers = text.and_then(|text| text.split_once(' '));
            worked.extend(numbers.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?))));
        }
    }
    let end = info.map_or(0, |info| info.last_stable_offset);
    Ok(Shown { committed: committed.map(|committed| committed.offset), worked, share, end })
}

impl Known {
    fn hold(&self, partition: u32, shown: &Shown) -> Result<(), String> {
        let committed = shown.committed.unwrap_or(0);
        let told = self.committed.get(&partition).copied().unwrap_or(0);
        if committed < told {
            return Err(format!("offset {told} was committed, {committed} is shown"));
        }
        let mut next = 0;
        for (from, upto) in &shown.worked {
            if *from != next || upto <= from {
                return Err(format!("{from} to {upto} was worked on after {next}"));
            }
            next = *upto;
        }
        if next != committed {
            return Err(format!("{next} were worked on, and {committed} committed"));
        }
        let is_final = |offset: i64| {
            shown.share.as_ref().is_some_and(|share| {
                let holds = |range: &ShareRange| {
                    (range.first..=range.last).contains(&offset)
                        && range.delivery.state != ShareState::Available
                };
                offset < share.start_offset || share.ranges.iter().any(holds)
            })
        };
        let lost = self.settled.iter().find(|(of, offset)| *of == partition && !is_final(*offset));
        lost.map_or(Ok(()), |(_, offset)| Err(format!("record {offset} is no longer settled")))
    }
}

impl Member {
    async fn work<M: Machine>(
        &mut self,
        topic_id: TopicId,
        shards: &[Arc<Shard<M>>],
        known: &Mutex<Known>,
    ) -> Result<(), String> {
        for _ in 0..self.random.below(6) {
            let shard = self.random.pick(shards);
            // Without the barrier too: a commit from an old view must be refused, or change nothing.
            if self.random.chance(70)
                && let Some(barrier) = shard.read_barrier()
                && !matches!(task::timeout(PATIENCE, barrier).await, Some(Ok(Ok(()))))
            {
                continue;
            }
            let mut seen = Ok(None);
            let read = shard.read(&mut |view| {
                seen = shown(view, topic_id, self.partition).map(Some);
            });
            let (Ok(()), Ok(Some(seen))) = (read.map(drop), seen) else { continue };
            if self.shares {
                self.share(&shard, topic_id, seen, known).await?;
            } else {
                self.consume(&shard, topic_id, seen, known).await?;
            }
        }
        Ok(())
    }

    async fn consume<M: Machine>(
        &mut self,
        shard: &Shard<M>,
        topic_id: TopicId,
        seen: Shown,
        known: &Mutex<Known>,
    ) -> Result<(), String> {
        let partition = self.partition;
        let from = seen.committed.unwrap_or(0);
        let upto = seen.end.min(from + 1 + self.random.below(3) as i64);
        if upto <= from {
            return Ok(());
        }
        let value = Some(Bytes::from(format!("{from} {upto}")));
        let record = NewRecord { key: None, value, headers: Vec::new() };
        let batch = frame_batch(&[record], 1_700_000_000_000).ok_or("no batch")?;
        let offset = NewOffset {
            topic_id,
            partition,
            offset: upto,
            leader_epoch: -1,
            metadata: String::new(),
        };
        let group = || GROUP.to_owned();
        let expected = seen.committed;
        let step = Minitransaction::default()
            .check(Check::CommittedOffset { group: group(), topic_id, partition, expected })
            .op(Op::Append { topic_id: WORK, partition, batch })
            .op(Op::CommitOffsets { group: group(), offsets: vec![offset] });
        match propose(shard, step).await? {
            Some(Outcome::Committed { .. }) => {
                let mut known = known.lock();
                let told = known.committed.entry(partition).or_default();
                *told = (*told).max(upto);
                Ok(())
            }
            Some(Outcome::CheckFailed { .. }) => {
                known.lock().fenced += 1;
                Ok(())
            }
            Some(Outcome::Refused { refusal, .. }) => {
                Err(format!("a worker is refused: {refusal}"))
            }
            None => Ok(()),
        }
    }

    async fn share<M: Machine>(
        &mut self,
        shard: &Shard<M>,
        topic_id: TopicId,
        seen: Shown,
        known: &Mutex<Known>,
    ) -> Result<(), String> {
        let (group, partition) = (SHARE_GROUP.to_owned(), self.partition);
        let Some(share) = seen.share else {
            let begin = Op::BeginShare { group, topic_id, partition, start_offset: 0 };
            propose(shard, Minitransaction::of(begin)).await?;
            return Ok(());
        };
        let offset = share.start_offset + self.random.below(4) as i64;
        if offset >= seen.end {
            return Ok(());
        }
        let state = self.random.pick(&[
            ShareState::Available,
            ShareState::Acknowledged,
            ShareState::Acknowledged,
            ShareState::Archived,
        ]);
        let delivery = Delivery { state, count: 1 + self.random.below(4) as u16 };
        let ranges = vec![ShareRange { first: offset, last: offset, delivery }];
        let update = Op::UpdateShare { group, topic_id, partition, ranges };
        match propose(shard, Minitransaction::of(update)).await? {
            Some(Outcome::Committed { .. }) if state != ShareState::Available => {
                known.lock().settled.insert((partition, offset));
                Ok(())
            }
            Some(Outcome::Committed { .. }) | None => Ok(()),
            other => Err(format!("a sharer is refused: {other:?}")),
        }
    }
}

/// The outcome; `None`: it may or may not have happened, or happen yet.
async fn propose<M: Machine>(
    shard: &Shard<M>,
    step: Minitransaction,
) -> Result<Option<Outcome>, String> {
    let answer = task::timeout(PATIENCE, shard.propose(&[step])).await;
    let outcomes = answer.ok_or("a consumer was never answered")?;
    Ok(outcomes.ok().and_then(|outcomes| outcomes.into_iter().next()))
}
