//! From what faces ask of the kernel to the shards that it concerns.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use proteus_env::task;
use proteus_kernel::{Commits, Shard, Shards, Spread, Spreading, read_whole};
use proteus_kernel_api::{
    KernelError, Minitransaction, Outcome, Proposal, ReadBarrier, Refusal, View, cache,
};
use proteus_shard_machine::{Composed, Plan, Split, SpreadState, split};
use proteus_types::{ShardId, Slot, SlotMap};

use crate::shards::NodeShards;

/// How often what has moved meanwhile is sent where it is now.
const TRIES_MAX: usize = 200;

/// Pause before that: until this node has heard where it is.
const RETRY: Duration = Duration::from_millis(10);

/// How often a reader looks again at shards of which one has carried out its part of a commit and another
/// has not, letting other threads go on in between.
const TORN_TRIES: u32 = 1_000;

/// The way to the shards.
#[derive(Clone)]
pub(crate) struct Router {
    pub(crate) meta: Arc<Shard<Composed>>,
    pub(crate) shards: Arc<NodeShards>,
    pub(crate) commits: Arc<Commits<Composed>>,
}

type Outcomes = Pin<Box<dyn Future<Output = Result<Vec<Outcome>, KernelError>> + Send>>;

/// Minitransactions on their way, by their places in the proposal.
enum Part {
    One(Vec<usize>, Outcomes),
    Several(usize, Plan, Spreading<Outcome>),
    Known(usize, Outcome),
}

impl Router {
    pub(crate) fn propose(&self, minitransactions: Vec<Minitransaction>) -> Proposal {
        if self.shards.is_whole() {
            return Box::pin(self.meta.propose(&minitransactions));
        }
        let all: Vec<usize> = (0..minitransactions.len()).collect();
        let parts = self.hand_over(&all, &minitransactions);
        let router = self.clone();
        Box::pin(async move {
            let mut outcomes = BTreeMap::new();
            settle(parts, &mut outcomes).await?;
            for _ in 0..TRIES_MAX {
                let moved =
                    |(place, outcome): (&usize, &Outcome)| is_elsewhere(outcome).then_some(*place);
                let moved: Vec<usize> = outcomes.iter().filter_map(moved).collect();
                if moved.is_empty() {
                    return Ok(outcomes.into_values().collect());
                }
                task::sleep(RETRY).await;
                settle(router.hand_over(&moved, &minitransactions), &mut outcomes).await?;
            }
            let reason = "keys are on their way to another shard";
            Err(KernelError::Overloaded(reason.to_owned()))
        })
    }

    /// Hands over the minitransactions in these places, by the newest map. Those of one shard keep their
    /// order.
    fn hand_over(&self, places: &[usize], all: &[Minitransaction]) -> Vec<Part> {
        let map = self.shards.map();
        let mut parts = Vec::new();
        let mut waiting: BTreeMap<ShardId, (Vec<usize>, Vec<Minitransaction>)> = BTreeMap::new();
        for (place, mini) in places.iter().filter_map(|place| Some((*place, all.get(*place)?))) {
            match split(mini.clone(), &map) {
                Split::One(shard, mini) => {
                    let (places, minis) = waiting.entry(shard).or_default();
                    places.push(place);
                    minis.push(mini);
                }
                Split::Several(own, plan) => {
                    // What comes before it in any of its shards goes first.
                    for (shard, (places, minis)) in std::mem::take(&mut waiting) {
                        parts.push(Part::One(places, self.commits.propose(shard, minis)));
                    }
                    parts.push(Part::Several(place, plan, self.commits.propose_over(own)));
                }
                Split::Refused(outcome) => parts.push(Part::Known(place, outcome)),
            }
        }
        for (shard, (places, minis)) in waiting {
            parts.push(Part::One(places, self.commits.propose(shard, minis)));
        }
        parts
    }

    pub(crate) fn read(&self, reader: &mut dyn FnMut(View<'_>)) -> Result<(), KernelError> {
        if self.shards.is_whole() {
            return self.meta.read(reader);
        }
        let mut tries = 0;
        loop {
            let (mut fault, mut missing) = (None, false);
            let read = read_whole(&self.shards.all(), &mut |views| {
                // As of this moment: what this node knows besides may be older or newer.
                let map = views.first().map(|(_, view)| cache::slots::slot_map(view.state));
                match map {
                    Some(Ok(map)) if !has_all(&map, views) => missing = true,
                    Some(Ok(map)) => {
                        if let Some(view) = SpreadState::new(views, &map).view() {
                            reader(view);
                        }
                    }
                    Some(Err(error)) => fault = Some(error),
                    None => {}
                }
            });
            match (read, fault) {
                (_, Some(fault)) => return Err(fault.into()),
                (Ok(()), None) if missing => {
                    let reason = "a shard is not open on this node yet";
                    return Err(KernelError::Unavailable(reason.to_owned()));
                }
                (Err(KernelError::Unavailable(_)), None) if tries < TORN_TRIES => tries += 1,
                (read, None) => return read,
            }
            // A part of a commit is about to be carried out on another thread.
            std::thread::yield_now();
        }
    }

    /// As [`Router::read`], of nothing but what is in one slot and in every shard.
    pub(crate) fn read_slot(
        &self,
        slot: Slot,
        reader: &mut dyn FnMut(View<'_>),
    ) -> Result<(), KernelError> {
        if self.shards.is_whole() {
            return self.meta.read(reader);
        }
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

    pub(crate) fn read_barrier(&self) -> Option<ReadBarrier> {
        if self.shards.is_whole() {
            let barrier = self.meta.read_barrier()?;
            return Some(Box::pin(
                async move { barrier.await.unwrap_or_else(|_| Err(stopping())) },
            ));
        }
        let shards = self.shards.all();
        let barriers: Vec<_> =
            shards.iter().filter_map(|(_, shard)| shard.read_barrier()).collect();
        if barriers.is_empty() {
            return None;
        }
        let passing = barriers
            .into_iter()
            .map(|barrier| async move { barrier.await.unwrap_or_else(|_| Err(stopping())) });
        Some(Box::pin(async move { try_join_all(passing).await.map(drop) }))
    }
}

fn has_all(map: &SlotMap, views: &[(ShardId, View<'_>)]) -> bool {
    map.shards().iter().all(|shard| views.iter().any(|(open, _)| open == shard))
}

fn stopping() -> KernelError {
    KernelError::Unavailable("the node is stopping".to_owned())
}

fn is_elsewhere(outcome: &Outcome) -> bool {
    let (Outcome::CheckFailed { refusal, .. } | Outcome::Refused { refusal, .. }) = outcome else {
        return false;
    };
    matches!(refusal, Refusal::Cache(cache::Refusal::Elsewhere))
}

/// Waits for all parts, and puts their outcomes in their places.
async fn settle(
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
