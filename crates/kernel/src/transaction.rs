//! Commits over several shards.
//!
//! ```text
//!   participant (gated)      ── prepare ──▶ tried, taken back ───────────── finish ──▶ carried out
//!   coordinator (not gated)                        └── decide: own part, decision ──┘
//! ```
//! Each shard has one part. The highest are tried first, one after the other, so that no two commits wait
//! for each other; a node that has no others tries them together. Each is then gated: nothing else happens there until the commit is finished, and reads
//! wait. The lowest shard is the coordinator: the one entry that applies its part *is* the decision. It
//! is never gated, and meta, which is the lowest of all, is always the coordinator where it has a part.
//! Then the others carry out what was tried, at the decision's timestamp.
//!
//! A driver that dies leaves a gated shard behind for its lease at most: then the shard's leader asks the
//! coordinator, which decides nothing any more that somebody asked about, so that all who ask are told the
//! same. Nor does it decide what comes later than that by log time, so it need not remember long what
//! it was asked about.
//!
//! Sources: Gray and Lamport, "Consensus on Transaction Commit" (2006), of which this is the two-phase
//! case with replicated participants; the decision by the last participant is Gray's "nested" two-phase
//! commit (1978); gating is the blocking scheme of Jones, Abadi and Madden, "Low Overhead Concurrency
//! Control for Partitioned Main Memory Databases" (SIGMOD 2010).

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{FuturesOrdered, StreamExt};
use proteus_env::{Clock, task};
use proteus_machine::{KernelError, ShardMachine};
use proteus_types::{CommitTs, Durability, NodeId, ShardId};
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};

use crate::away::Away;
use crate::lanes::{Lanes, Turn};
use crate::pending::Kind;
use crate::shard::Shard;
use crate::step::{Knowledge, PARTICIPANTS_MAX, Step, StepOutcome, TransactionId};
use crate::undecided::{Decision, Undecided};

/// How long after its first part was tried a commit may be decided, unless it has very many parts.
const LEASE: Duration = Duration::from_secs(2);

/// How long trying one part of a commit takes at most, on average.
const LEASE_OF_PART: Duration = Duration::from_millis(20);

/// How long a caller waits for a decided commit to be carried out everywhere.
const FINISH_PATIENCE: Duration = Duration::from_secs(10);

/// Pause before a shard that could not be told is told again.
const RETRY: Duration = Duration::from_millis(20);

/// How often the leaders of shards look for what others left behind.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How long a decision stands before its shard's leader makes sure itself that it is carried out.
const DECISION_AGE: Duration = Duration::from_secs(5);

/// The shards of a node.
pub trait Shards<M: ShardMachine>: Send + Sync + 'static {
    /// The shard, if it is here.
    fn shard(&self, id: ShardId) -> Option<Arc<Shard<M>>>;

    /// All that are here.
    fn all(&self) -> Vec<(ShardId, Arc<Shard<M>>)>;

    /// The way to a shard that is on other nodes only.
    fn away(&self, id: ShardId) -> Option<Arc<Away<M>>> {
        let _ = id;
        None
    }

    /// Who leads which shard, as far as this node knows, also of those that are not here.
    fn leaders(&self) -> BTreeMap<ShardId, Option<NodeId>> {
        let leader = |shard: &Shard<M>| shard.group().leadership().leader;
        self.all().into_iter().map(|(id, shard)| (id, leader(&shard))).collect()
    }
}

/// The way to a shard, which is here or elsewhere.
pub enum Way<M: ShardMachine> {
    /// Its replica here.
    Here(Arc<Shard<M>>),
    /// On other nodes.
    Away(Arc<Away<M>>),
}

/// What a step comes to.
type Stepping<O> = Pin<Box<dyn Future<Output = Result<StepOutcome<O>, KernelError>> + Send>>;

impl<M: ShardMachine> Way<M> {
    /// As [`Shard::propose_at`].
    fn propose_at(&self, durability: Durability, commands: &[M::Command]) -> Outcomes<M::Outcome> {
        match self {
            Way::Here(here) => Box::pin(here.propose_at(durability, commands)),
            Way::Away(away) => Box::pin(away.propose(durability, commands)),
        }
    }

    /// Proposes one step; it is on its way when this returns.
    fn step(&self, kind: Kind, step: &Step<M::Command>) -> Stepping<M::Outcome> {
        match self {
            Way::Here(here) => Box::pin(here.step(kind, step)),
            Way::Away(away) => Box::pin(away.step(kind, step)),
        }
    }

    /// Tries the shard's part of a commit over several; if it holds nothing else happens there until
    /// that is finished; `lease` after it was tried nothing comes of it any more. On its way when this returns.
    /// Answers with when it was tried.
    fn prepare(
        &self,
        transaction: TransactionId,
        coordinator: ShardId,
        lease: Duration,
        part: M::Command,
    ) -> impl Future<Output = Result<(M::Outcome, CommitTs), KernelError>> + Send + use<M> {
        let lease_ms = u32::try_from(lease.as_millis()).unwrap_or(u32::MAX);
        let step = Step::Prepare { transaction, coordinator, lease_ms, part };
        let outcome = self.step(Kind::Gates, &step);
        async move {
            match outcome.await? {
                StepOutcome::Prepared { outcome, tried_ts } => Ok((outcome, tried_ts)),
                _ => Err(KernelError::unknown_answer()),
            }
        }
    }

    /// Commits the coordinator's part, and with it the whole, if log time is before `until_ms`: `None` if
    /// it is not. On its way when this returns.
    fn decide(
        &self,
        transaction: TransactionId,
        until_ms: u64,
        participants: Vec<ShardId>,
        part: M::Command,
    ) -> impl Future<Output = Result<Option<(M::Outcome, CommitTs)>, KernelError>> + Send + use<M>
    {
        let step = Step::Decide { transaction, until_ms, participants, part };
        let outcome = self.step(Kind::Plain, &step);
        async move {
            match outcome.await? {
                StepOutcome::Decided(decided) => Ok(decided),
                _ => Err(KernelError::unknown_answer()),
            }
        }
    }

    async fn finish(
        &self,
        transaction: TransactionId,
        commit_ts: Option<CommitTs>,
    ) -> Result<bool, KernelError> {
        match self {
            Way::Here(here) => here.finish(transaction, commit_ts).await,
            Way::Away(away) => away.finish(transaction, commit_ts).await,
        }
    }

    /// Asks the shard, the coordinator, what it decided; what it did not decide by then it will not.
    /// From log time `until_ms` on it could not anyway.
    async fn ask(
        &self,
        transaction: TransactionId,
        until_ms: u64,
    ) -> Result<Knowledge, KernelError> {
        match self.step(Kind::Plain, &Step::Ask { transaction, until_ms }).await? {
            StepOutcome::Known(known) => Ok(known),
            _ => Err(KernelError::unknown_answer()),
        }
    }

    /// Lets the shard, the coordinator, forget what it decided.
    async fn forget(&self, transaction: TransactionId) -> Result<(), KernelError> {
        self.step(Kind::Plain, &Step::Forget { transaction }).await.map(drop)
    }
}

/// What became of a commit over several shards.
#[derive(Debug)]
pub enum Spread<O> {
    /// It happened, everywhere.
    Committed {
        /// At this time.
        commit_ts: CommitTs,
        /// What each part came to. All but the coordinator's, which is the last, are as of when they
        /// were tried.
        outcomes: Vec<(ShardId, O)>,
    },
    /// It happened nowhere.
    Refused {
        /// Because of this shard's part.
        shard: ShardId,
        /// What that came to.
        outcome: O,
    },
    /// It happened nowhere, because more follows from these parts in other shards.
    Incomplete {
        /// What they came to.
        outcomes: Vec<(ShardId, O)>,
    },
}

/// What a commit over several shards comes to.
pub type Spreading<O> = Pin<Box<dyn Future<Output = Result<Spread<O>, KernelError>> + Send>>;

type Outcomes<O> = Pin<Box<dyn Future<Output = Result<Vec<O>, KernelError>> + Send>>;

/// What came of trying the parts of a commit.
struct Tried<O> {
    /// Where a part may have been tried.
    shards: Vec<ShardId>,
    outcomes: Vec<(ShardId, O)>,
    /// What parts came to from which more follows in other shards.
    incomplete: Vec<(ShardId, O)>,
    /// Log time until which it may be decided.
    until_ms: u64,
    /// What it comes to, if one did not hold.
    failure: Option<Result<Spread<O>, KernelError>>,
}

/// The commits that a node drives, over one shard or several.
pub struct Commits<M: ShardMachine> {
    shards: Arc<dyn Shards<M>>,
    clock: Arc<dyn Clock>,
    lanes: Arc<Lanes>,
    node: NodeId,
    /// The number of the next commit over several shards.
    next_number: AtomicU64,
}

impl<M: ShardMachine> Commits<M> {
    /// `run` is drawn anew at each start of the node, so that no number is given twice.
    pub fn new(
        node: NodeId,
        run: u32,
        clock: Arc<dyn Clock>,
        shards: Arc<dyn Shards<M>>,
    ) -> Arc<Commits<M>> {
        let next_number = AtomicU64::new(u64::from(run) << 32);
        Arc::new(Commits { shards, clock, lanes: Arc::default(), node, next_number })
    }

    /// Commits commands in one shard: consecutive, each atomic by itself. They are on their way, or stand
    /// behind what this node proposed to the shard before, when this returns.
    pub fn propose(
        &self,
        shard: ShardId,
        durability: Durability,
        commands: Vec<M::Command>,
    ) -> Outcomes<M::Outcome> {
        let way = match self.way(shard) {
            Ok(way) => way,
            Err(error) => return Box::pin(std::future::ready(Err(error))),
        };
        let hand_over = move || way.propose_at(durability, &commands);
        match self.lanes.pass(shard, hand_over) {
            Ok(Ok(proposal)) => proposal,
            Ok(Err((hand_over, mut turn))) => {
                let (sender, receiver) = oneshot::channel();
                task::spawn(async move {
                    turn.come().await;
                    let proposal = hand_over();
                    turn.leave(shard);
                    // Who stopped waiting has its commit all the same.
                    let _ = sender.send(proposal.await);
                });
                Box::pin(async move { receiver.await.unwrap_or_else(|_| Err(ended())) })
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    /// Commits parts in several shards, at most one in each, all or none. They stand behind what this
    /// node proposed to these shards before when this returns, and are driven to an end whether or not
    /// the result is awaited.
    pub fn propose_over(
        self: &Arc<Self>,
        mut parts: Vec<(ShardId, M::Command)>,
    ) -> Spreading<M::Outcome> {
        parts.sort_by_key(|(shard, _)| std::cmp::Reverse(*shard));
        let shards: Vec<ShardId> = parts.iter().map(|(shard, _)| *shard).collect();
        let turn = if shards.len() > PARTICIPANTS_MAX {
            Err(KernelError::Overloaded("a commit over too many shards".to_owned()))
        } else {
            self.lanes.enter(shards)
        };
        let turn = match turn {
            Ok(turn) => turn,
            Err(error) => return Box::pin(std::future::ready(Err(error))),
        };
        let (sender, receiver) = oneshot::channel();
        let commits = self.clone();
        task::spawn(async move {
            // Who stopped waiting has its commit all the same.
            let _ = sender.send(commits.drive(turn, parts).await);
        });
        Box::pin(async move { receiver.await.unwrap_or_else(|_| Err(ended())) })
    }

    /// The way to a shard.
    ///
    /// # Errors
    /// If this node does not know of any.
    pub fn way(&self, shard: ShardId) -> Result<Way<M>, KernelError> {
        if let Some(here) = self.shards.shard(shard) {
            return Ok(Way::Here(here));
        }
        let missing = || KernelError::Unavailable(format!("shard {shard} is not on this node"));
        self.shards.away(shard).map(Way::Away).ok_or_else(missing)
    }

    async fn drive(
        self: Arc<Self>,
        mut turn: Turn,
        mut parts: Vec<(ShardId, M::Command)>,
    ) -> Result<Spread<M::Outcome>, KernelError> {
        turn.come().await;
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let transaction = TransactionId { node: self.node, number };
        let Some((coordinator, own_part)) = parts.pop() else {
            return Err(KernelError::Unavailable("a commit without parts".to_owned()));
        };
        let deciding = (coordinator, transaction);
        let Tried { shards: tried, mut outcomes, incomplete, until_ms, failure } =
            self.try_parts(deciding, &mut turn, parts).await;
        if failure.is_some() || !incomplete.is_empty() {
            self.let_go(transaction, tried);
            return failure.unwrap_or(Ok(Spread::Incomplete { outcomes: incomplete }));
        }
        let decided = self
            .way(coordinator)
            .map(|way| way.decide(transaction, until_ms, tried.clone(), own_part));
        turn.leave(coordinator);
        let decided = match decided {
            Ok(decided) => decided.await,
            Err(error) => Err(error),
        };
        match decided {
            Ok(Some((outcome, commit_ts))) if M::has_happened(&outcome) => {
                outcomes.push((coordinator, outcome));
                let decision = Decision { transaction, commit_ts, participants: tried };
                match self.carry_out(coordinator, decision).await {
                    Ok(()) => Ok(Spread::Committed { commit_ts, outcomes }),
                    Err(_) => Err(KernelError::Unavailable(
                        "the commit happened, and not all of its shards show it yet".to_owned(),
                    )),
                }
            }
            Ok(Some((outcome, _))) => {
                self.let_go(transaction, tried);
                Ok(match M::concerns_others(&outcome) {
                    true => Spread::Incomplete { outcomes: vec![(coordinator, outcome)] },
                    false => Spread::Refused { shard: coordinator, outcome },
                })
            }
            Ok(None) => {
                self.let_go(transaction, tried);
                let reason = "a commit over several shards took too long, and nothing was changed";
                Err(KernelError::Overloaded(reason.to_owned()))
            }
            // It may have been decided: whoever leads the gated shards finds out.
            Err(error) => Err(error),
        }
    }

    /// Tries parts where they belong, the highest shard's first, until one is refused.
    async fn try_parts(
        &self,
        (coordinator, transaction): (ShardId, TransactionId),
        turn: &mut Turn,
        parts: Vec<(ShardId, M::Command)>,
    ) -> Tried<M::Outcome> {
        let at_once = self.at_once(coordinator);
        let lease = lease_of(parts.len());
        let mut parts = parts.into_iter();
        let mut trying = FuturesOrdered::new();
        let mut tried = Tried {
            shards: Vec::new(),
            outcomes: Vec::new(),
            incomplete: Vec::new(),
            until_ms: u64::MAX,
            failure: None,
        };
        loop {
            while trying.len() < at_once && tried.failure.is_none() {
                let Some((shard, part)) = parts.next() else { break };
                let prepared =
                    self.way(shard).map(|way| way.prepare(transaction, coordinator, lease, part));
                turn.leave(shard);
                // It may be tried from here on, even if that does not come to be known.
                tried.shards.push(shard);
                trying.push_back(async move {
                    match prepared {
                        Ok(prepared) => (shard, prepared.await),
                        Err(error) => (shard, Err(error)),
                    }
                });
            }
            // What is on its way is awaited in any case: it could not be let go before it was tried.
            let Some((shard, prepared)) = trying.next().await else { return tried };
            match prepared {
                Ok((outcome, tried_ts)) if M::has_happened(&outcome) => {
                    tried.until_ms = tried.until_ms.min(decidable_until(tried_ts, lease));
                    tried.outcomes.push((shard, outcome));
                }
                // The others are tried all the same, to learn at once what follows from all of them.
                Ok((outcome, _)) if M::concerns_others(&outcome) => {
                    tried.incomplete.push((shard, outcome));
                }
                Ok((outcome, _)) => {
                    tried.failure.get_or_insert(Ok(Spread::Refused { shard, outcome }));
                }
                Err(error) => _ = tried.failure.get_or_insert(Err(error)),
            }
        }
    }

    /// How many parts may be tried at once. Those of two nodes' commits could come to the same shards in another
    /// order, and each then wait for the other. Commits of one node come to all in the order of its lanes.
    fn at_once(&self, coordinator: ShardId) -> usize {
        let is_alone = |here: Arc<Shard<M>>| here.group().membership().members.len() == 1;
        // The first has all nodes of the cluster as members.
        let of_cluster =
            if self.shards.shard(ShardId::META).is_some() { ShardId::META } else { coordinator };
        let is_alone = self.shards.shard(of_cluster).is_some_and(is_alone);
        if is_alone { PARTICIPANTS_MAX } else { 1 }
    }

    /// Awaits `look` while nothing happens in any of `shards`: each tries a part that does nothing and of
    /// which nothing comes, as if it were to decide that itself. Returns the last timestamp before which
    /// everything is there, and after which nothing is, while `look` is awaited.
    ///
    /// # Errors
    /// If a shard cannot be held, or was let go before `look` had ended; or what `look` says.
    pub(crate) async fn hold_still<T: Send + 'static>(
        self: &Arc<Self>,
        mut shards: Vec<ShardId>,
        nothing: fn() -> M::Command,
        look: impl Future<Output = Result<T, KernelError>> + Send + 'static,
    ) -> Result<(CommitTs, T), KernelError> {
        shards.sort_by_key(|shard| std::cmp::Reverse(*shard));
        let mut turn = self.lanes.enter(shards.clone())?;
        let commits = self.clone();
        let (sender, receiver) = oneshot::channel();
        task::spawn(async move {
            turn.come().await;
            let number = commits.next_number.fetch_add(1, Ordering::Relaxed);
            let transaction = TransactionId { node: commits.node, number };
            let looked = async {
                let mut last_ts = CommitTs::ZERO;
                let lease = lease_of(shards.len());
                let at_once = shards.last().map_or(1, |lowest| commits.at_once(*lowest));
                for some in shards.chunks(at_once) {
                    let mut trying = Vec::new();
                    for shard in some {
                        let way = commits.way(*shard)?;
                        trying.push(way.prepare(transaction, *shard, lease, nothing()));
                        turn.leave(*shard);
                    }
                    for tried in join_all(trying).await {
                        last_ts = last_ts.max(tried?.1);
                    }
                }
                look.await.map(|found| (last_ts, found))
            };
            let looked = looked.await;
            let letting_go = shards.iter().map(|shard| commits.let_go_of(*shard, transaction));
            let were_held = join_all(letting_go).await.into_iter().all(|was_held| was_held);
            // Who stopped waiting needs no answer.
            let _ = sender.send(looked.and_then(|found| {
                let moved_on = "a shard could not be held still for long enough; try again";
                let moved_on = || KernelError::Unavailable(moved_on.to_owned());
                if were_held { Ok(found) } else { Err(moved_on()) }
            }));
        });
        receiver.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Lets a shard go that was held still, and says whether it was until now.
    async fn let_go_of(&self, shard: ShardId, transaction: TransactionId) -> bool {
        match self.way(shard) {
            Ok(way) => match way.finish(transaction, None).await {
                Ok(was_tried) => was_tried,
                Err(_) => {
                    self.tell(shard, transaction, None).await;
                    false
                }
            },
            Err(_) => false,
        }
    }

    /// Lets participants go on without what they tried.
    fn let_go(self: &Arc<Self>, transaction: TransactionId, tried: Vec<ShardId>) {
        let commits = self.clone();
        task::spawn(async move {
            let telling = tried.iter().map(|shard| commits.tell(*shard, transaction, None));
            join_all(telling).await;
        });
    }

    /// Has participants carry out what was decided, and the coordinator forget it then. What it returns
    /// resolves once all those have done so that can be reached.
    fn carry_out(
        self: &Arc<Self>,
        coordinator: ShardId,
        decision: Decision,
    ) -> oneshot::Receiver<()> {
        let (sender, done) = oneshot::channel();
        let commits = self.clone();
        task::spawn(async move {
            let Decision { transaction, commit_ts, participants } = decision;
            let telling =
                participants.iter().map(|shard| commits.tell(*shard, transaction, Some(commit_ts)));
            if !join_all(telling).await.into_iter().all(|told| told) {
                return;
            }
            // The caller may have given up.
            let _ = sender.send(());
            if let Ok(way) = commits.way(coordinator)
                && let Err(error) = way.forget(transaction).await
            {
                info!(%error, "a decision is forgotten later");
            }
        });
        done
    }

    /// Tells a participant until it has heard, within limits; its leader asks otherwise.
    async fn tell(
        &self,
        shard: ShardId,
        transaction: TransactionId,
        commit_ts: Option<CommitTs>,
    ) -> bool {
        let give_up_at = self.clock.elapsed() + FINISH_PATIENCE;
        loop {
            let told = match self.way(shard) {
                Ok(way) => way.finish(transaction, commit_ts).await,
                Err(error) => Err(error),
            };
            match told {
                Ok(_) => return true,
                Err(KernelError::Stopped(_)) => return false,
                Err(_) if self.clock.elapsed() > give_up_at => return false,
                Err(_) => task::sleep(RETRY).await,
            }
        }
    }

    /// Finishes what others left behind in the shards that this node leads, until `stop` holds true.
    pub async fn finish_abandoned(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut tried: BTreeMap<ShardId, (Undecided, Duration)> = BTreeMap::new();
        let mut decided: BTreeMap<(ShardId, TransactionId), Duration> = BTreeMap::new();
        loop {
            tokio::select! {
                biased;
                () = task::sleep(LOOK_INTERVAL) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let now = self.clock.elapsed();
            for (id, shard) in self.shards.all() {
                if !shard.leads() {
                    tried.remove(&id);
                    decided.retain(|(of, _), _| *of != id);
                    continue;
                }
                self.look_at_tried(id, &shard, now, &mut tried).await;
                self.look_at_decided(id, &shard, now, &mut decided);
            }
        }
    }

    async fn look_at_tried(
        &self,
        id: ShardId,
        shard: &Arc<Shard<M>>,
        now: Duration,
        tried: &mut BTreeMap<ShardId, (Undecided, Duration)>,
    ) {
        let Some(undecided) = shard.undecided() else {
            tried.remove(&id);
            return;
        };
        let seen = tried.entry(id).or_insert((undecided, now));
        if seen.0 != undecided {
            *seen = (undecided, now);
        }
        let Undecided { transaction, coordinator, tried_ts, lease_ms } = undecided;
        let lease = Duration::from_millis(lease_ms.into());
        if now.saturating_sub(seen.1) < lease {
            return;
        }
        if coordinator == id {
            // It only held the shard still, and nothing was to come of it.
            if let Err(error) = shard.finish(transaction, None).await {
                info!(%error, "a shard that is held still is let go later");
            }
            return;
        }
        let Ok(way) = self.way(coordinator) else { return };
        let answer = match way.ask(transaction, decidable_until(tried_ts, lease)).await {
            Ok(Knowledge::Committed(commit_ts)) => Some(commit_ts),
            Ok(Knowledge::Aborted) => None,
            Err(_) => return,
        };
        warn!(shard = %id, ?transaction, is_committed = answer.is_some(), "an abandoned commit is finished");
        if let Err(error) = shard.finish(transaction, answer).await {
            info!(%error, "an abandoned commit is finished later");
        }
    }

    fn look_at_decided(
        self: &Arc<Self>,
        id: ShardId,
        shard: &Arc<Shard<M>>,
        now: Duration,
        decided: &mut BTreeMap<(ShardId, TransactionId), Duration>,
    ) {
        let Ok(decisions) = shard.decisions() else { return };
        decided.retain(|(of, transaction), _| {
            *of != id || decisions.iter().any(|decision| decision.transaction == *transaction)
        });
        for decision in decisions {
            let since = *decided.entry((id, decision.transaction)).or_insert(now);
            if now.saturating_sub(since) >= DECISION_AGE {
                decided.insert((id, decision.transaction), now);
                // Nobody waits; if its participants are not reached it is tried again.
                drop(self.carry_out(id, decision));
            }
        }
    }
}

/// Log time until which a commit may be decided of which a part was tried then. Who asks about an earlier
/// part has to wait no longer than for a later one.
fn decidable_until(tried_ts: CommitTs, lease: Duration) -> u64 {
    tried_ts.physical_ms().saturating_add(lease.as_millis() as u64)
}

/// How long shards may be gated by a commit with so many parts: they are tried one after the other.
fn lease_of(part_count: usize) -> Duration {
    LEASE.max(LEASE_OF_PART * u32::try_from(part_count).unwrap_or(u32::MAX))
}

fn ended() -> KernelError {
    KernelError::Unavailable(
        "the node is stopping; what was sent may still be committed".to_owned(),
    )
}

#[cfg(test)]
mod tests;
