//! From what faces ask of the kernel to the shards that it concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use proteus_env::task;
use proteus_kernel::{Commits, Shard, Shards, Spread, Spreading, read_whole};
use proteus_kernel_api::{
    KernelError, Minitransaction, Outcome, Proposal, ReadBarrier, Refusal, StoreError, View, cache,
};
use proteus_shard_machine::{Composed, Plan, Split, SpreadState, is_cross_slot, split};
use proteus_types::{Durability, ShardId, Slot, SlotMap};
use tokio::sync::oneshot;

use crate::shards::NodeShards;

/// How often what has moved meanwhile is sent where it is now.
pub(crate) const TRIES_MAX: usize = 200;

/// Pause before that: until this node has heard where it is.
pub(crate) const RETRY: Duration = Duration::from_millis(10);

/// The way to the shards.
#[derive(Clone)]
pub(crate) struct Router {
    pub(crate) meta: Arc<Shard<Composed>>,
    pub(crate) shards: Arc<NodeShards>,
    pub(crate) commits: Arc<Commits<Composed>>,
    /// How often a reader looks again at shards of which one has carried out its part of a commit and
    /// another has not, letting other threads go on in between.
    pub(crate) torn_tries: u32,
}

/// A shard's read barrier.
type Barrier = oneshot::Receiver<Result<(), KernelError>>;

type Outcomes = Pin<Box<dyn Future<Output = Result<Vec<Outcome>, KernelError>> + Send>>;

/// Who reads the states of all shards as one.
type SpreadReader<'a> = dyn FnMut(&SlotMap, View<'_>) + 'a;

/// Minitransactions on their way, by their places in the proposal.
pub(crate) enum Part {
    One(Vec<usize>, Outcomes),
    Several(usize, Plan, Spreading<Outcome>),
    Known(usize, Outcome),
}

impl Router {
    pub(crate) fn propose(
        &self,
        durability: Durability,
        minitransactions: Vec<Minitransaction>,
    ) -> Proposal {
        let router = self.clone();
        if self.shards.is_whole() {
            let proposal = self.meta.propose_returning(durability, &minitransactions);
            return Box::pin(async move {
                let (outcomes, proposed) = proposal.await?;
                // As far as this node knew.
                if !outcomes.iter().any(is_elsewhere) {
                    return Ok(outcomes);
                }
                let minitransactions = proposed.commands::<Composed>()?;
                let outcomes = outcomes.into_iter().enumerate().collect();
                router.send_after(durability, &minitransactions, outcomes).await
            });
        }
        let all: Vec<usize> = (0..minitransactions.len()).collect();
        let handed = self.hand_over(durability, &all, &minitransactions);
        Box::pin(async move {
            let mut outcomes = BTreeMap::new();
            router.settle_all(durability, &all, &minitransactions, handed, &mut outcomes).await?;
            router.send_after(durability, &minitransactions, outcomes).await
        })
    }

    /// Sends what has moved to where it is now, until all is done.
    async fn send_after(
        &self,
        durability: Durability,
        minitransactions: &[Minitransaction],
        mut outcomes: BTreeMap<usize, Outcome>,
    ) -> Result<Vec<Outcome>, KernelError> {
        for _ in 0..TRIES_MAX {
            let moved =
                |(place, outcome): (&usize, &Outcome)| is_elsewhere(outcome).then_some(*place);
            let moved: Vec<usize> = outcomes.iter().filter_map(moved).collect();
            if moved.is_empty() {
                return Ok(outcomes.into_values().collect());
            }
            task::sleep(RETRY).await;
            let handed = self.hand_over(durability, &moved, minitransactions);
            self.settle_all(durability, &moved, minitransactions, handed, &mut outcomes).await?;
        }
        let reason = "keys are on their way to another shard";
        Err(KernelError::Overloaded(reason.to_owned()))
    }

    /// Waits for what was handed over of these places, carries out what needs keys of several shards at once, and
    /// hands over what is behind that.
    async fn settle_all(
        &self,
        durability: Durability,
        places: &[usize],
        all: &[Minitransaction],
        (mut parts, mut handed_count): (Vec<Part>, usize),
        outcomes: &mut BTreeMap<usize, Outcome>,
    ) -> Result<(), KernelError> {
        let mut rest = places;
        loop {
            settle(std::mem::take(&mut parts), outcomes).await?;
            let Some((place, behind)) = rest.get(handed_count..).and_then(<[usize]>::split_first)
            else {
                return Ok(());
            };
            if let Some(mini) = all.get(*place) {
                outcomes.insert(*place, self.carry_out_together(mini).await?);
            }
            rest = behind;
            (parts, handed_count) = self.hand_over(durability, rest, all);
        }
    }

    /// Hands over the minitransactions in these places, by the newest map, up to the first that needs keys of several
    /// shards at once; says how many. Those of one shard keep their order. What concerns several is flushed.
    pub(crate) fn hand_over(
        &self,
        durability: Durability,
        places: &[usize],
        all: &[Minitransaction],
    ) -> (Vec<Part>, usize) {
        let map = self.shards.map();
        let one = |(shard, (places, minis))| {
            Part::One(places, self.commits.propose(shard, durability, minis))
        };
        let mut parts = Vec::new();
        let mut waiting: BTreeMap<ShardId, (Vec<usize>, Vec<Minitransaction>)> = BTreeMap::new();
        let mut handed_count = 0;
        for (place, mini) in places.iter().filter_map(|place| Some((*place, all.get(*place)?))) {
            handed_count += 1;
            match split(mini.clone(), &map) {
                Split::One(shard, mini) => {
                    let (places, minis) = waiting.entry(shard).or_default();
                    places.push(place);
                    minis.push(mini);
                }
                Split::Several(own, plan) => {
                    // What comes before it in any of its shards goes first.
                    parts.extend(std::mem::take(&mut waiting).into_iter().map(one));
                    parts.push(Part::Several(place, plan, self.commits.propose_over(own)));
                }
                Split::Refused(outcome) if is_cross_slot(&outcome) => {
                    handed_count -= 1;
                    break;
                }
                Split::Refused(outcome) => parts.push(Part::Known(place, outcome)),
            }
        }
        parts.extend(waiting.into_iter().map(one));
        (parts, handed_count)
    }

    pub(crate) fn read(&self, reader: &mut dyn FnMut(View<'_>)) -> Result<(), KernelError> {
        if self.shards.is_whole() {
            return self.meta.read(reader);
        }
        self.read_with(&mut |_, view| reader(view))
    }

    /// Reads the states of all shards as one, with the map by which they are.
    fn read_with(&self, reader: &mut SpreadReader<'_>) -> Result<(), KernelError> {
        let mut tries = 0;
        loop {
            let mut result = Ok(());
            let read = read_whole(&self.shards.all(), &mut |views| {
                result = read_spread(views, reader);
            });
            match read {
                Ok(()) => return result,
                Err(KernelError::Unavailable(_)) if tries < self.torn_tries => tries += 1,
                Err(error) => return Err(error),
            }
            // A part of a commit is about to be carried out on another thread.
            std::thread::yield_now();
        }
    }

    /// As [`Router::read`], of nothing but what is in one slot and in every shard.
    pub(crate) fn read_slot(
        &self,
        slot: &dyn Fn() -> Slot,
        reader: &mut dyn FnMut(View<'_>),
    ) -> Result<(), KernelError> {
        if self.shards.is_whole() {
            return self.meta.read(reader);
        }
        let slot = slot();
        let shard = self.shards.map().shard_of(slot);
        let missing = || KernelError::Unavailable(format!("shard {shard} is not on this node"));
        let here = self.shards.shard(shard).ok_or_else(missing)?;
        let mut result = Ok(true);
        here.read(&mut |view| {
            result = cache::slots::is_here(view.state, slot);
            if let Ok(true) = result {
                reader(view);
            }
        })?;
        // It has moved meanwhile, or is about to.
        if result? { Ok(()) } else { self.read(reader) }
    }

    /// As [`Router::read`], of nothing but what is in `slots`, if these are all in `shards`.
    pub(crate) fn read_slots(
        &self,
        slots: &[Slot],
        shards: &BTreeSet<ShardId>,
        reader: &mut dyn FnMut(View<'_>),
    ) -> Result<bool, KernelError> {
        if self.shards.is_whole() {
            return self.meta.read(reader).map(|()| true);
        }
        let mut are_there: Result<bool, StoreError> = Ok(true);
        let mut shards_left = shards.iter();
        if let (Some(shard), None) = (shards_left.next(), shards_left.next()) {
            let missing = || KernelError::Unavailable(format!("shard {shard} is not on this node"));
            let here = self.shards.shard(*shard).ok_or_else(missing)?;
            here.read(&mut |view| {
                are_there = slots.iter().try_fold(true, |are_there, slot| {
                    Ok(are_there && cache::slots::is_here(view.state, *slot)?)
                });
                if let Ok(true) = are_there {
                    reader(view);
                }
            })?;
            return Ok(are_there?);
        }
        self.read_with(&mut |map, view| {
            let are_all_there = slots.iter().all(|slot| shards.contains(&map.shard_of(*slot)));
            if are_all_there {
                reader(view);
            }
            are_there = Ok(are_all_there);
        })?;
        Ok(are_there?)
    }

    pub(crate) fn read_barrier(&self) -> Option<ReadBarrier> {
        let version = self.shards.map().version;
        let barrier = match self.shards.is_whole() {
            true => self.first_barrier(),
            false => barrier_of(self.shards.all().into_iter().map(|(_, shard)| shard)),
        };
        let (barrier, router) = (barrier?, self.clone());
        Some(Box::pin(async move {
            barrier.await?;
            // There may be more shards than this node knew of when it asked.
            match router.shards.map().version == version {
                true => Ok(()),
                false => router.pass_read_barrier().await,
            }
        }))
    }

    fn pass_read_barrier(&self) -> ReadBarrier {
        self.read_barrier().unwrap_or_else(|| Box::pin(std::future::ready(Ok(()))))
    }

    /// As [`Router::read_barrier`], for reads of nothing but what is in the first shard.
    pub(crate) fn first_barrier(&self) -> Option<ReadBarrier> {
        Some(Box::pin(passed(self.meta.read_barrier()?)))
    }

    /// As [`Router::read_barrier`], for who is content with what was acknowledged `staleness_max` ago.
    pub(crate) fn read_barrier_within(&self, staleness_max: Duration) -> Option<ReadBarrier> {
        let all = self.shards.all().into_iter();
        let passing: Vec<_> =
            all.filter_map(|(_, shard)| shard.read_barrier_within(staleness_max)).collect();
        all_passed(passing)
    }

    /// As [`Router::read_barrier_within`], for reads of nothing but what is in the first shard.
    pub(crate) fn first_barrier_within(&self, staleness_max: Duration) -> Option<ReadBarrier> {
        Some(Box::pin(passed(self.meta.read_barrier_within(staleness_max)?)))
    }

    /// As [`Router::read_barrier_within`], for reads of nothing but what is in `slots`.
    pub(crate) fn slots_barrier_within(
        &self,
        slots: &[Slot],
        staleness_max: Duration,
    ) -> Option<ReadBarrier> {
        let map = self.shards.map();
        let shards: BTreeSet<ShardId> = slots.iter().map(|slot| map.shard_of(*slot)).collect();
        let open = shards.into_iter().filter_map(|shard| self.shards.shard(shard));
        all_passed(open.filter_map(|shard| shard.read_barrier_within(staleness_max)).collect())
    }

    /// As [`Router::read_barrier`], for [`Router::read_slots`], with the shards that it is of.
    pub(crate) fn slots_barrier(&self, slots: &[Slot]) -> (BTreeSet<ShardId>, Option<ReadBarrier>) {
        let map = self.shards.map();
        let shards: BTreeSet<ShardId> = slots.iter().map(|slot| map.shard_of(*slot)).collect();
        // Who reads in one that is not here is told so.
        let barrier = barrier_of(shards.iter().filter_map(|shard| self.shards.shard(*shard)));
        (shards, barrier)
    }
}

/// Reads the states of all shards as one.
fn read_spread(
    views: &[(ShardId, View<'_>)],
    reader: &mut SpreadReader<'_>,
) -> Result<(), KernelError> {
    let missing = || KernelError::Unavailable("a shard is not open on this node yet".to_owned());
    let (_, first) = views.first().ok_or_else(missing)?;
    // As of this moment: what this node knows besides may be older or newer.
    let map = cache::slots::slot_map(first.state)?;
    // Whoever looks at what is in a shard that is not here is told so.
    reader(&map, SpreadState::new(views, &map).view().ok_or_else(missing)?);
    Ok(())
}

fn barrier_of(shards: impl Iterator<Item = Arc<Shard<Composed>>>) -> Option<ReadBarrier> {
    all_passed(shards.filter_map(|shard| shard.read_barrier()).collect())
}

fn all_passed(barriers: Vec<Barrier>) -> Option<ReadBarrier> {
    if barriers.is_empty() {
        return None;
    }
    let passing = try_join_all(barriers.into_iter().map(passed));
    Some(Box::pin(async move { passing.await.map(drop) }))
}

async fn passed(barrier: Barrier) -> Result<(), KernelError> {
    let stopping = || KernelError::Unavailable("the node is stopping".to_owned());
    barrier.await.unwrap_or_else(|_| Err(stopping()))
}

pub(crate) fn is_elsewhere(outcome: &Outcome) -> bool {
    let (Outcome::CheckFailed { refusal, .. } | Outcome::Refused { refusal, .. }) = outcome else {
        return false;
    };
    matches!(refusal, Refusal::Cache(cache::Refusal::Elsewhere))
}

/// Waits for all parts, and puts their outcomes in their places.
pub(crate) async fn settle(
    parts: Vec<Part>,
    outcomes: &mut BTreeMap<usize, Outcome>,
) -> Result<(), KernelError> {
    for part in parts {
        match part {
            Part::One(places, coming) => outcomes.extend(places.into_iter().zip(coming.await?)),
            Part::Known(place, outcome) => _ = outcomes.insert(place, outcome),
            Part::Several(place, plan, coming) => {
                let outcome = match coming.await? {
                    Spread::Committed { commit_ts, outcomes } => plan.join(commit_ts, &outcomes),
                    Spread::Refused { shard, outcome } => plan.refused(shard, outcome),
                };
                outcomes.insert(place, outcome);
            }
        }
    }
    Ok(())
}
