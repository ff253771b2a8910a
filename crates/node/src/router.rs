//! From what faces ask of the kernel to the shards that it concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::try_join_all;
use proteus_env::task;
use proteus_kernel::{Commits, Committing, Shard, Shards, Spread, Spreading, Wide, read_whole};
use proteus_kernel_api::{
    KernelError, Minitransaction, Outcome, Proposal, ReadBarrier, Refusal, StoreError, View, cache,
};
use proteus_shard_machine::{
    Composed, Known, Plan, Split, SpreadState, consequences, is_cross_slot, split,
};
use proteus_types::{Durability, ShardId, Slot, SlotMap};
use tokio::sync::oneshot;

use crate::shards::NodeShards;

/// How often what has moved meanwhile is sent where it is now, or what concerns more shards than was known to all of
/// them.
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
    One(ShardId, Vec<usize>, Outcomes),
    Several(usize, Plan, Spreading<Outcome>),
    Known(usize, Outcome),
}

impl Router {
    /// Commits minitransactions where they belong; those of one proposal that meet keep their order.
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
                if !outcomes.iter().any(|outcome| is_elsewhere(outcome) || is_incomplete(outcome)) {
                    return Ok(outcomes);
                }
                let minitransactions = proposed.commands::<Composed>()?;
                let came = outcomes.into_iter().map(|outcome| Came::to(ShardId::META, outcome));
                let came = came.enumerate().collect();
                router.send_after(durability, &minitransactions, came).await
            });
        }
        let mut runs = self.runs(&minitransactions).into_iter();
        let first: Vec<usize> = runs.next().unwrap_or_default().collect();
        let handed = self.hand_over(durability, &first, &minitransactions, &BTreeMap::new());
        Box::pin(async move {
            let (all, none) = (&minitransactions, BTreeMap::new());
            let mut came = BTreeMap::new();
            router.settle_all(durability, &first, all, handed, &none, &mut came).await?;
            let mut outcomes = router.send_after(durability, all, came).await?;
            for run in runs {
                let places: Vec<usize> = run.collect();
                let handed = router.hand_over(durability, &places, all, &none);
                let mut came = BTreeMap::new();
                router.settle_all(durability, &places, all, handed, &none, &mut came).await?;
                outcomes.extend(router.send_after(durability, all, came).await?);
            }
            Ok(outcomes)
        })
    }

    /// What may be handed over at once, as it keeps its order: what may have to be sent again, because more follows
    /// from it than it says, must not be overtaken by what comes behind it.
    fn runs(&self, minitransactions: &[Minitransaction]) -> Vec<Range<usize>> {
        let count = minitransactions.len();
        let mut runs = Vec::new();
        let mut begun = 0;
        for (place, mini) in minitransactions.iter().enumerate() {
            if count > 1 && self.shards.may_be_recorded(mini) {
                runs.extend((begun < place).then_some(begun..place));
                runs.push(place..place + 1);
                begun = place + 1;
            }
        }
        runs.extend((begun < count).then_some(begun..count));
        runs
    }

    /// Sends what has moved to where it is now, and what concerns more shards to all of them, until all is done.
    async fn send_after(
        &self,
        durability: Durability,
        minitransactions: &[Minitransaction],
        mut came: BTreeMap<usize, Came>,
    ) -> Result<Vec<Outcome>, KernelError> {
        let mut known: BTreeMap<usize, Known> = BTreeMap::new();
        let mut have_moved = false;
        for _ in 0..TRIES_MAX {
            let mut again = Vec::new();
            have_moved = false;
            for (place, came) in &mut came {
                match came {
                    Came::Done(_) => continue,
                    Came::Moved => {
                        // What followed may be elsewhere, too.
                        known.remove(place);
                        have_moved = true;
                    }
                    Came::Incomplete(found) => {
                        learn(known.entry(*place).or_default(), std::mem::take(found));
                    }
                }
                again.push(*place);
            }
            if again.is_empty() {
                return Ok(came.into_values().filter_map(Came::into_outcome).collect());
            }
            if have_moved {
                task::sleep(RETRY).await;
            }
            let all = minitransactions;
            let handed = self.hand_over(durability, &again, all, &known);
            self.settle_all(durability, &again, all, handed, &known, &mut came).await?;
        }
        let reason = match have_moved {
            true => "keys are on their way to another shard",
            false => "what follows from the change in other shards was another each time",
        };
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
        known: &BTreeMap<usize, Known>,
        came: &mut BTreeMap<usize, Came>,
    ) -> Result<(), KernelError> {
        let mut rest = places;
        loop {
            settle(std::mem::take(&mut parts), came).await?;
            let Some((place, behind)) = rest.get(handed_count..).and_then(<[usize]>::split_first)
            else {
                return Ok(());
            };
            if let Some(mini) = all.get(*place) {
                came.insert(*place, Came::Done(self.carry_out_together(mini).await?));
            }
            rest = behind;
            (parts, handed_count) = self.hand_over(durability, rest, all, known);
        }
    }

    /// Hands over the minitransactions in these places, by the newest map, with what is known to follow from them, up
    /// to the first that needs keys of several shards at once; says how many. Those of one shard keep their order. What
    /// concerns several is flushed.
    pub(crate) fn hand_over(
        &self,
        durability: Durability,
        places: &[usize],
        all: &[Minitransaction],
        known: &BTreeMap<usize, Known>,
    ) -> (Vec<Part>, usize) {
        let map = self.shards.map();
        let one = |(shard, (places, minis))| {
            Part::One(shard, places, self.commits.propose(shard, durability, minis))
        };
        let mut parts = Vec::new();
        let mut waiting: BTreeMap<ShardId, (Vec<usize>, Vec<Minitransaction>)> = BTreeMap::new();
        let nothing = Known::new();
        let mut handed_count = 0;
        for (place, mini) in places.iter().filter_map(|place| Some((*place, all.get(*place)?))) {
            handed_count += 1;
            let known = known.get(&place).unwrap_or(&nothing);
            match split(mini.clone(), &map, known) {
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

/// Whether it concerns what is in another shard, as far as whoever answered knew.
fn is_elsewhere(outcome: &Outcome) -> bool {
    let (Outcome::CheckFailed { refusal, .. } | Outcome::Refused { refusal, .. }) = outcome else {
        return false;
    };
    let is_elsewhere =
        |refusal| matches!(refusal, &cache::Refusal::Elsewhere | &cache::Refusal::SlotsMoved);
    matches!(refusal, Refusal::Cache(refusal) if is_elsewhere(refusal))
}

fn is_incomplete(outcome: &Outcome) -> bool {
    consequences(outcome).is_some()
}

/// Adds what was found to follow from parts to what is known.
pub(crate) fn learn(known: &mut Known, mut found: Known) {
    known.append(&mut found);
    known.retain(|_, follows| !follows.is_empty());
}

/// What a minitransaction has come to.
pub(crate) enum Came {
    Done(Outcome),
    /// Nothing: it concerns what is in another shard than it went to.
    Moved,
    /// Nothing: this follows in others from its parts in these.
    Incomplete(Known),
}

impl Came {
    fn to(shard: ShardId, outcome: Outcome) -> Came {
        if is_elsewhere(&outcome) {
            return Came::Moved;
        }
        match consequences(&outcome) {
            Some(all) => Came::Incomplete(Known::from([(shard, all.to_vec())])),
            None => Came::Done(outcome),
        }
    }

    fn into_outcome(self) -> Option<Outcome> {
        match self {
            Came::Done(outcome) => Some(outcome),
            Came::Moved | Came::Incomplete(_) => None,
        }
    }
}

/// Waits for all parts, and puts what they came to in their places.
pub(crate) async fn settle(
    parts: Vec<Part>,
    came: &mut BTreeMap<usize, Came>,
) -> Result<(), KernelError> {
    for part in parts {
        match part {
            Part::One(shard, places, coming) => {
                let outcomes = coming.await?.into_iter().map(|outcome| Came::to(shard, outcome));
                came.extend(places.into_iter().zip(outcomes));
            }
            Part::Known(place, outcome) => _ = came.insert(place, Came::Done(outcome)),
            Part::Several(place, plan, coming) => {
                let all = match coming.await? {
                    Spread::Committed { commit_ts, outcomes } => {
                        Came::Done(plan.join(commit_ts, &outcomes))
                    }
                    Spread::Refused { shard, outcome } => {
                        Came::to(shard, plan.refused(shard, outcome))
                    }
                    Spread::Incomplete { outcomes } => {
                        let all = outcomes.iter().filter_map(|(shard, outcome)| {
                            Some((*shard, consequences(outcome)?.to_vec()))
                        });
                        Came::Incomplete(all.collect())
                    }
                };
                came.insert(place, all);
            }
        }
    }
    Ok(())
}

/// Commands that are due and concern several shards, in one commit over these.
const DUE_TOGETHER: usize = 128;

/// Commits what is due in one shard and concerns others, too: without holding what holds the shards.
pub(crate) struct WideRouter {
    meta: Weak<Shard<Composed>>,
    shards: Weak<NodeShards>,
    commits: Weak<Commits<Composed>>,
}

impl WideRouter {
    pub(crate) fn new(router: &Router) -> Arc<WideRouter> {
        let Router { meta, shards, commits, .. } = router;
        let (meta, shards) = (Arc::downgrade(meta), Arc::downgrade(shards));
        Arc::new(WideRouter { meta, shards, commits: Arc::downgrade(commits) })
    }
}

impl Wide<Composed> for WideRouter {
    fn commit(&self, commands: Vec<Minitransaction>) -> Committing {
        let (meta, shards) = (self.meta.upgrade(), self.shards.upgrade());
        let commits = self.commits.upgrade();
        Box::pin(async move {
            let ended = || KernelError::Unavailable("the node is stopping".to_owned());
            let meta = meta.ok_or_else(ended)?;
            let (shards, commits) = (shards.ok_or_else(ended)?, commits.ok_or_else(ended)?);
            let router = Router { meta, shards, commits, torn_tries: 0 };
            // Each is one op that does nothing if it is not due any more.
            for some in commands.chunks(DUE_TOGETHER) {
                let ops = some.iter().flat_map(|command| command.ops.iter().cloned()).collect();
                let together = Minitransaction { ops, ..Minitransaction::default() };
                for outcome in router.propose(Durability::Flushed, vec![together]).await? {
                    if !matches!(outcome, Outcome::Committed { .. }) {
                        let reason = format!("what is due was refused: {outcome:?}");
                        return Err(KernelError::Unavailable(reason));
                    }
                }
            }
            Ok(())
        })
    }
}
