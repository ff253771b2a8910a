//! Several nodes with one replicated shard, on a network that fails, in time that does not wait.
//!
//! ```text
//!   callers ─▶ any node ─▶ its shard ─▶ leader's log ─▶ every node's log and state
//!   readers ◀─ any node, behind its read barrier
//!   trouble: ways cut, one or both; power cut at any write; nodes stopped; clocks set; disks full;
//!            nodes that join, leave, come to vote and cease to
//! ```
//! Time is the runtime's, paused: it moves when nothing else can happen, so hours of trouble take
//! seconds. Everything runs on one thread but the disks' background work.

mod decay;
mod deviation;
mod members;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use proteus_env::sim_disk::SimDisk;
use proteus_env::simulation::Simulation;
use proteus_env::{RuntimeClock, task};
use proteus_kernel::{ChoreOptions, Shard, ShardOptions, Timing};
use proteus_kernel_api::Kernel;
use proteus_log::{Log, LogError, LogOptions};
use proteus_machine::KernelError;
use proteus_shard_machine::{Minitransaction, Outcome};
use proteus_types::{Member, NodeId, ShardId};
use tempfile::TempDir;

use crate::history::{History, ReplicaFeed};
use crate::kernel::ShardKernel;
use crate::ledger;
use crate::network::{Network, Traffic, Weather};
use crate::objects::{self, Called, Objects};
use crate::producers::{self, Produced, Producers};
use crate::random::Random;
use crate::replica::{self, Machine};
use crate::transactions::{self, Transacted, Transactions};

pub use deviation::run_with_deviation;

pub(crate) const START_MS: u64 = 1_700_000_000_000;

/// What a disk says that has no power, or no space.
pub(crate) const POWER_CUT: &str = "simulated power cut";
const DISK_FULL: &str = "no storage space";

/// Troubles in one run.
const TROUBLES: u64 = 15;

/// Longer than any write of a slow disk.
const SLOWEST_WRITE: Duration = Duration::from_millis(500);

/// Nothing takes this long, in simulated time, once all is well again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What is wrong with the kernel on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// Nothing.
    Nothing,
    /// Readers do not wait for the read barrier.
    UnguardedReads,
    /// Disks say that they flushed what they did not.
    LyingDisks,
    /// Transactions do not have checked what they only read.
    WriteSkew,
    /// A replica computes otherwise; see [`run_with_deviation`].
    Deviation,
}

/// How one run went.
#[derive(Debug, Default, Clone, Copy)]
pub struct Summary {
    /// Commits acknowledged.
    pub acknowledged: usize,
    /// Reads that were served.
    pub reads: u64,
    /// Calls and reads that were answered with an error.
    pub unanswered: u64,
    /// Nodes that crashed.
    pub crashes: u64,
    /// Times that some way was cut.
    pub cuts: u64,
    /// Times that a node took its state over from another.
    pub gaps: u64,
    /// Elections won, but for the first.
    pub terms: u64,
    /// Changes of members and voters asked for in trouble.
    pub changes_asked: u64,
    /// Those that were done.
    pub changes_done: u64,
    /// Times that a disk became slow.
    pub slow_disks: u64,
    /// Bits flipped in logs.
    pub flipped_bits: u64,
    /// Nodes whose log was found damaged, and which others took the place of.
    pub damaged: u64,
    /// Replicas taken out of service because they differed.
    pub condemned: u64,
    /// Of those, replicas that led then.
    pub condemned_leading: u64,
    /// What the network did.
    pub traffic: Traffic,
    /// A digest of all commits, in the order in which each replica announced them, of all that callers and
    /// readers were told, and of all messages with their times. The same seed has the same.
    pub digest: u64,
    /// What Kafka's producers did, if they were there.
    pub produced: Produced,
    /// What callers of single objects did, likewise.
    pub called: Called,
    /// What clients with transactions did, likewise.
    pub transacted: Transacted,
}

/// Who calls and reads in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callers {
    /// Those of the ledger.
    Ledger,
    /// Those, and Kafka's producers and consumers.
    Kafka,
    /// Those, and callers of single objects, and clients that make transactions.
    Objects,
}

/// Runs the plan of `seed`.
///
/// # Errors
/// What cannot be true of a correct cluster.
///
/// # Panics
/// If the machine has no temporary directory or runtime.
pub fn run<M: Machine>(seed: u64, planted: Planted) -> Result<Summary, String> {
    run_with::<M>(seed, planted, Callers::Ledger)
}

/// Runs the plan of `seed` with these callers.
///
/// # Errors
/// As [`run`].
///
/// # Panics
/// As [`run`].
pub fn run_with<M: Machine>(
    seed: u64,
    planted: Planted,
    callers: Callers,
) -> Result<Summary, String> {
    in_paused_time(seed, async {
        let mut world = World::<M>::new(seed, planted);
        match callers {
            Callers::Ledger => {}
            Callers::Kafka => world.producers = Some(Producers::new(&mut world.random)),
            Callers::Objects => {
                let is_guarded = planted != Planted::UnguardedReads;
                world.objects = Some(Objects::new(&mut world.random, is_guarded));
                let checks_reads = planted != Planted::WriteSkew;
                world.transactions = Some(Transactions::new(&mut world.random, checks_reads));
            }
        }
        let result = world.live().await;
        world.end(result).await
    })
}

/// Runs `future` on this thread, in time that moves when nothing else can happen, so that all follows from
/// `seed`.
pub(crate) fn in_paused_time<T>(seed: u64, future: impl Future<Output = T>) -> T {
    let _simulation = Simulation::begin(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime for a run");
    runtime.block_on(future)
}

struct Node<M: Machine> {
    id: NodeId,
    disk: SimDisk,
    directory: TempDir,
    clock: Arc<RuntimeClock>,
    /// `None` while it is down.
    shard: Option<Arc<Shard<M>>>,
    is_founder: bool,
    /// Whether it is to compute otherwise than the others.
    deviates: Arc<AtomicBool>,
    /// Milliseconds that its disk takes for each write.
    disk_pause_ms: Arc<AtomicU64>,
    /// Whether a bit of its log has flipped.
    is_decayed: bool,
    /// Whether its log was found damaged, so that another node has to take its place.
    is_damaged: bool,
}

struct World<M: Machine> {
    random: Random,
    planted: Planted,
    network: Network<M>,
    nodes: BTreeMap<NodeId, Node<M>>,
    history: Arc<History>,
    producers: Option<Producers>,
    objects: Option<Objects>,
    transactions: Option<Transactions>,
    /// The greatest number that a node was given; none is given twice.
    newest: NodeId,
    /// Nodes that were told to leave and may still be members.
    leaving: BTreeSet<NodeId>,
    summary: Summary,
}

impl<M: Machine> World<M> {
    fn new(seed: u64, planted: Planted) -> World<M> {
        let mut random = Random::new(seed);
        let network = Network::new(random.fork(), Weather::random(&mut random));
        World {
            random,
            planted,
            network,
            nodes: BTreeMap::new(),
            history: Arc::default(),
            producers: None,
            objects: None,
            transactions: None,
            newest: NodeId(0),
            leaving: BTreeSet::new(),
            summary: Summary::default(),
        }
    }

    async fn live(&mut self) -> Result<(), String> {
        let voters = self.random.pick(&[3, 3, 3, 5]);
        for number in 1..=voters {
            self.add_node(NodeId(number)).await?;
        }
        self.form_cluster().await?;
        for trouble in 0..TROUBLES {
            self.work().await.map_err(|claim| format!("trouble {trouble}: {claim}"))?;
            self.trouble().await?;
            if self.random.chance(20) {
                self.all_well().await?;
                if self.planted == Planted::Nothing && self.random.chance(30) {
                    self.decay().await?;
                }
            }
        }
        self.all_well().await?;
        self.settle_members().await?;
        self.recovers().await
    }

    async fn add_node(&mut self, id: NodeId) -> Result<(), String> {
        let random = &mut self.random;
        let start_ms = START_MS + random.below(2_000);
        let drift_permille = random.below(41) as i64 - 20;
        let node = Node {
            id,
            disk: SimDisk::new(random.number()),
            directory: tempfile::tempdir().expect("a temporary directory"),
            clock: Arc::new(RuntimeClock::new(start_ms, drift_permille)),
            shard: None,
            is_founder: id == NodeId(1),
            deviates: Arc::default(),
            disk_pause_ms: Arc::default(),
            is_decayed: false,
            is_damaged: false,
        };
        self.nodes.insert(id, node);
        self.newest = self.newest.max(id);
        self.start(id).await
    }

    async fn start(&mut self, id: NodeId) -> Result<(), String> {
        let random = &mut self.random;
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        if node.shard.is_some() || node.is_damaged {
            return Ok(());
        }
        let log_options = LogOptions {
            segment_bytes: 16 * 1024,
            reserve_bytes: 16 * 1024,
            disk_reserve_bytes: 64 * 1024,
            cache_bytes_max: 4 * 1024,
            flush_interval: Duration::from_secs(1),
            is_inline: true,
            inline_pause_ms: node.disk_pause_ms.clone(),
        };
        let log = match Log::open(Arc::new(node.disk.clone()), log_options) {
            Ok(log) => log,
            Err(error) if error.to_string().contains(POWER_CUT) => {
                node.disk.crash();
                return Ok(());
            }
            Err(LogError::Damaged { .. } | LogError::UnknownVersion { .. }) if node.is_decayed => {
                node.is_damaged = true;
                return Ok(());
            }
            Err(error) => return Err(format!("{id}'s log does not open: {error}")),
        };
        let options = ShardOptions {
            shard: ShardId::META,
            node: id,
            member: Member { incarnation: id.0, ..Member::default() },
            found: node.is_founder,
            run: random.number() as u32,
            timing: Timing::default(),
            chores: ChoreOptions {
                look_interval: Duration::from_millis(20 + random.below(200)),
                checkpoint_bytes: random.pick(&[2_000, 20_000, 10_000_000]),
                replay_bytes_max: random.pick(&[20_000, 60_000, 10_000_000]),
                checkpoint_interval: Duration::from_secs(60),
            },
            timestamps: Arc::default(),
            checkpoints: Arc::default(),
        };
        let store = node.directory.path().join("store");
        if proteus_kernel::differs(&store) {
            let leader = self.leader();
            let Some(node) = self.nodes.get(&id) else { return Ok(()) };
            if !deviation::rebuild(node, leader, &store, &log).await? {
                return Ok(());
            }
        }
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        let feed = Arc::new(ReplicaFeed::new(self.history.clone(), node.deviates.clone()));
        let links = self.network.links(id);
        let opened = Shard::open(options, &store, log, node.clock.clone(), feed.clone(), links);
        let opened = task::timeout(PATIENCE, opened).await;
        let shard = match opened.ok_or_else(|| format!("opening {id} never ends"))? {
            Ok(shard) => shard,
            Err(error) if error.to_string().contains(POWER_CUT) => {
                node.disk.crash();
                return Ok(());
            }
            Err(error) => return Err(format!("{id} does not open: {error}")),
        };
        node.shard = Some(shard.clone());
        self.network.set_node(id, Some(shard));
        Ok(())
    }

    fn running(&self) -> Vec<(NodeId, Arc<Shard<M>>)> {
        let running = self.nodes.values();
        running.filter_map(|node| Some((node.id, node.shard.clone()?))).collect()
    }

    fn leader(&self) -> Option<(NodeId, Arc<Shard<M>>)> {
        // One that was removed while it led may not have learned of the next.
        let leading = self.running().into_iter().filter(|(_, shard)| shard.leads());
        leading.max_by_key(|(_, shard)| shard.group().leadership().term)
    }

    /// From a cluster of one to one of all.
    async fn form_cluster(&mut self) -> Result<(), String> {
        let Some((_, founder)) = self.leader() else { return Err("no founder".to_owned()) };
        let mut creations = vec![ledger::creation()];
        if self.producers.is_some() {
            creations.push(producers::creation());
        }
        if self.objects.is_some() {
            creations.push(objects::creation());
            creations.push(transactions::creation());
        }
        let outcomes = founder.propose(&creations).await;
        let is_committed = |outcome: &Outcome| matches!(outcome, Outcome::Committed { .. });
        if !outcomes.as_ref().is_ok_and(|outcomes| outcomes.iter().all(is_committed)) {
            return Err(format!("the ledger cannot be created: {outcomes:?}"));
        }
        let members =
            self.nodes.keys().map(|id| (*id, Member { incarnation: id.0, ..Member::default() }));
        founder.group().set_members(members.collect()).await.map_err(|error| error.to_string())?;
        let voters = self.nodes.keys().copied().collect();
        let joined = task::timeout(PATIENCE, founder.group().set_voters(&voters)).await;
        joined.ok_or("the cluster never forms")?.map_err(|error| error.to_string())
    }

    /// Callers and readers on any node, for some time.
    async fn work(&mut self) -> Result<(), String> {
        let running = self.running();
        let mut clients = Vec::new();
        for _ in 0..2 + self.random.below(4) {
            let client = Client {
                history: self.history.clone(),
                shards: running.clone(),
                random: self.random.fork(),
                planted: self.planted,
                reads: 0,
                unanswered: 0,
            };
            clients.push(client.work());
        }
        let shards: Vec<_> = running.iter().map(|(_, shard)| shard.clone()).collect();
        let producing = async {
            match &mut self.producers {
                Some(producers) => producers.work(&shards).await,
                None => Ok(()),
            }
        };
        let calling = async {
            match &mut self.objects {
                Some(objects) => {
                    let kernels: Vec<Arc<dyn Kernel>> = shards
                        .iter()
                        .map(|shard| ShardKernel::new(shard.clone()) as Arc<dyn Kernel>)
                        .collect();
                    objects.work(&kernels).await
                }
                None => Ok(()),
            }
        };
        let transacting = async {
            match &mut self.transactions {
                Some(transactions) => transactions.work(&shards).await,
                None => Ok(()),
            }
        };
        let (results, produced, called, transacted) =
            futures::future::join4(join_all(clients), producing, calling, transacting).await;
        produced?;
        called?;
        transacted?;
        for result in results {
            let (reads, unanswered) = result?;
            self.summary.reads += reads;
            self.summary.unanswered += unanswered;
        }
        Ok(())
    }

    async fn trouble(&mut self) -> Result<(), String> {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        let (a, b) = (self.random.pick(&ids), self.random.pick(&ids));
        match self.random.below(22) {
            0..=1 => self.isolate(a, &ids),
            2 => {
                self.network.cut(a, b);
                self.summary.cuts += 1;
            }
            3..=5 => self.network.heal(),
            6..=7 => self.crash(a).await,
            8 => self.stop(a).await?,
            9 => {
                if let Some((leader, _)) = self.leader() {
                    self.crash(leader).await;
                }
            }
            10 => {
                let forward_ms = self.random.below(200_000) as i64 - 100_000;
                if let Some(node) = self.nodes.get(&a) {
                    node.clock.jump(forward_ms);
                }
            }
            11..=15 => self.change_members().await?,
            16 => self.network.set_weather(Weather::random(&mut self.random)),
            17..=18 => {
                if let Some(node) = self.nodes.get(&a) {
                    let pause_ms = self.random.pick(&[0, 3, 30, 300]);
                    node.disk_pause_ms.store(pause_ms, Ordering::Relaxed);
                    self.summary.slow_disks += u64::from(pause_ms > 0);
                }
            }
            19 => {
                // The disk of one node is full for a while.
                if let Some(node) = self.nodes.get(&a) {
                    node.disk.set_capacity(Some(self.random.below(150_000)));
                }
            }
            _ => {
                for node in self.nodes.values() {
                    node.disk.set_capacity(None);
                }
            }
        }
        self.bury_and_revive().await?;
        task::sleep(Duration::from_millis(self.random.below(3_000))).await;
        Ok(())
    }

    fn isolate(&mut self, node: NodeId, all: &[NodeId]) {
        self.summary.cuts += 1;
        for other in all.iter().filter(|other| **other != node) {
            self.network.cut(node, *other);
            self.network.cut(*other, node);
        }
    }

    /// Cuts the power of a node after some more writes.
    async fn crash(&mut self, id: NodeId) {
        let writes = self.random.below(30);
        if let Some(node) = self.nodes.get(&id).filter(|node| node.shard.is_some()) {
            node.disk.cut_power_after(writes);
            self.summary.crashes += 1;
        }
    }

    async fn stop(&mut self, id: NodeId) -> Result<(), String> {
        let Some(shard) = self.nodes.get_mut(&id).and_then(|node| node.shard.take()) else {
            return Ok(());
        };
        self.network.set_node(id, None);
        let stopped = task::timeout(PATIENCE, shard.shutdown()).await;
        stopped.ok_or_else(|| format!("{id} never stops"))
    }

    /// Takes down nodes whose power is gone, and starts some of those that are down.
    async fn bury_and_revive(&mut self) -> Result<(), String> {
        let dead: Vec<NodeId> = self
            .running()
            .into_iter()
            .filter(|(_, shard)| shard.stop_reason().is_some())
            .map(|(id, _)| id)
            .collect();
        for id in dead {
            self.bury(id).await?;
        }
        let down: Vec<NodeId> =
            self.nodes.values().filter(|node| node.shard.is_none()).map(|node| node.id).collect();
        for id in down {
            if self.random.chance(60) {
                self.start(id).await?;
            }
        }
        Ok(())
    }

    async fn bury(&mut self, id: NodeId) -> Result<(), String> {
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        let Some(shard) = node.shard.take() else { return Ok(()) };
        self.network.set_node(id, None);
        let reason = shard.stop_reason().unwrap_or_default();
        let is_condemned = reason.contains(deviation::DIFFERS);
        self.summary.condemned += u64::from(is_condemned);
        let is_planted = self.planted == Planted::Deviation && is_condemned;
        let is_expected = is_planted || (reason.is_empty() && !node.disk.has_power());
        if !is_expected && ![POWER_CUT, DISK_FULL].iter().any(|words| reason.contains(words)) {
            return Err(format!("{id} stopped by itself: {reason}"));
        }
        node.disk.cut_power_after(0);
        shard.abandon().await;
        node.disk.set_capacity(None);
        if self.planted == Planted::LyingDisks {
            node.disk.forget_flushes();
        }
        node.disk.crash();
        Ok(())
    }

    /// Everybody runs, everything passes, every disk has space.
    async fn all_well(&mut self) -> Result<(), String> {
        self.network.heal();
        self.network.set_weather(Weather { delay_ms_max: 2, lost_percent: 0, repeated_percent: 0 });
        for node in self.nodes.values() {
            node.disk.set_capacity(None);
            node.disk_pause_ms.store(0, Ordering::Relaxed);
        }
        // What had just failed to write comes to say so.
        task::sleep(SLOWEST_WRITE).await;
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            // One without power may have failed to write, and not have said so yet.
            let has_stopped = self.nodes.get(&id).is_some_and(|node| {
                let shard = node.shard.as_ref();
                shard.is_some_and(|shard| shard.stop_reason().is_some() || !node.disk.has_power())
            });
            if has_stopped {
                self.bury(id).await?;
            }
            if let Some(node) = self.nodes.get(&id) {
                node.disk.spare_power();
            }
            self.start(id).await?;
        }
        Ok(())
    }

    /// With all well every node takes writes again, and all come to hold the same.
    async fn recovers(&mut self) -> Result<(), String> {
        for (id, shard) in self.running() {
            let mut client = Client {
                history: self.history.clone(),
                shards: vec![(id, shard)],
                random: self.random.fork(),
                planted: self.planted,
                reads: 0,
                unanswered: 0,
            };
            let recovered = task::timeout(PATIENCE, client.write_until_acknowledged()).await;
            recovered.ok_or_else(|| {
                format!("no writes on {id} although nothing is wrong{}", self.describe())
            })??;
        }
        let applied = |(_, shard): &(NodeId, Arc<Shard<M>>)| shard.status().applied_index;
        let caught_up = async {
            loop {
                let indexes: Vec<_> = self.running().iter().map(applied).collect();
                if indexes.windows(2).all(|pair| pair[0] == pair[1]) {
                    return;
                }
                task::sleep(Duration::from_millis(50)).await;
            }
        };
        task::timeout(PATIENCE, caught_up)
            .await
            .ok_or("the replicas never agree how far they are")?;
        let mut ledgers = Vec::new();
        for (id, shard) in self.running() {
            self.summary.terms = self.summary.terms.max(shard.group_status().leadership.term.0);
            let mut read = Err("no state".to_owned());
            let floor = self.history.read_begins();
            let _ = shard.read(&mut |view| read = ledger::read(view));
            let ledger = read.map_err(|claim| format!("{id}: {claim}"))?.unwrap_or_default();
            self.history
                .shown_by_replica(&floor, &ledger)
                .map_err(|claim| format!("{id}: {claim}"))?;
            ledgers.push(ledger);
        }
        if ledgers.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err("the replicas hold different ledgers".to_owned());
        }
        if let Some(difference) = self.difference() {
            return Err(format!("the replicas differ: {difference}"));
        }
        let shards: Vec<_> = self.running().into_iter().map(|(_, shard)| shard).collect();
        if let Some(producers) = &mut self.producers {
            self.summary.produced = producers.settle(&shards).await?;
        }
        if let (Some(objects), Some(transactions)) = (&self.objects, &self.transactions) {
            self.summary.called = objects.settle()?;
            self.summary.transacted = transactions.settle(&shards)?;
        }
        Ok(())
    }

    /// How each node stands, for a report.
    fn describe(&self) -> String {
        let describe = |(id, shard): (NodeId, Arc<Shard<M>>)| {
            let stopped = shard.stop_reason();
            format!("\n{id}: {:?} {:?} {stopped:?}", shard.status(), shard.group_status())
        };
        self.running().into_iter().map(describe).collect()
    }

    async fn end(mut self, result: Result<(), String>) -> Result<Summary, String> {
        for (id, shard) in self.running() {
            self.network.set_node(id, None);
            shard.abandon().await;
        }
        self.nodes.clear();
        self.summary.acknowledged = self.history.acknowledged_count();
        self.summary.gaps = self.history.gap_count();
        self.summary.traffic = self.network.traffic();
        self.summary.digest = self.history.digest() ^ self.network.digest();
        result.map(|()| self.summary)
    }
}

impl Weather {
    pub(crate) fn random(random: &mut Random) -> Weather {
        Weather {
            delay_ms_max: random.pick(&[1, 5, 40]),
            lost_percent: random.pick(&[0, 0, 2, 10]),
            repeated_percent: random.pick(&[0, 0, 5]),
        }
    }
}

/// Somebody who calls and reads, on any node.
struct Client<M: Machine> {
    history: Arc<History>,
    shards: Vec<(NodeId, Arc<Shard<M>>)>,
    random: Random,
    planted: Planted,
    reads: u64,
    unanswered: u64,
}

impl<M: Machine> Client<M> {
    async fn work(mut self) -> Result<(u64, u64), String> {
        if self.shards.is_empty() {
            return Ok((0, 0));
        }
        for _ in 0..1 + self.random.below(8) {
            let (node, shard) = self.random.pick(&self.shards);
            let result = if self.random.chance(60) {
                self.write(&shard).await.map(drop)
            } else {
                self.read(&shard).await
            };
            result.map_err(|claim| format!("{node}: {claim}"))?;
            if self.random.chance(30) {
                task::sleep(Duration::from_millis(self.random.below(300))).await;
            }
        }
        Ok((self.reads, self.unanswered))
    }

    /// Proposes one to three commits together; says whether they were acknowledged.
    async fn write(&mut self, shard: &Shard<M>) -> Result<bool, String> {
        let ids: Vec<_> = (0..=self.random.below(3)).map(|_| self.history.proposed()).collect();
        let commands: Vec<_> = ids
            .iter()
            .map(|id| Minitransaction { ops: ledger::ops(*id), ..Minitransaction::default() })
            .collect();
        let answer = task::timeout(PATIENCE, shard.propose(&commands)).await;
        match answer.ok_or("a proposal was never answered")? {
            Ok(outcomes) => {
                if outcomes.len() != ids.len() {
                    return Err(format!("{} commands had {} outcomes", ids.len(), outcomes.len()));
                }
                for (id, outcome) in ids.into_iter().zip(outcomes) {
                    match outcome {
                        Outcome::Committed { commit_ts, .. } => {
                            self.history.acknowledged(id, commit_ts)?;
                        }
                        other => return Err(format!("commit {id} did not commit: {other:?}")),
                    }
                }
                Ok(true)
            }
            Err(
                KernelError::DiskFull(_)
                | KernelError::Overloaded(_)
                | KernelError::TooLarge { .. },
            ) => {
                ids.into_iter().for_each(|id| self.history.refused(id));
                self.unanswered += 1;
                Ok(false)
            }
            Err(KernelError::Unavailable(_) | KernelError::Stopped(_)) => {
                self.unanswered += 1;
                Ok(false)
            }
        }
    }

    async fn read(&mut self, shard: &Shard<M>) -> Result<(), String> {
        let floor = self.history.read_begins();
        if self.planted != Planted::UnguardedReads
            && let Some(barrier) = shard.read_barrier()
        {
            let passed =
                task::timeout(PATIENCE, barrier).await.ok_or("a read barrier never ends")?;
            if !matches!(passed, Ok(Ok(()))) {
                self.unanswered += 1;
                return Ok(());
            }
        }
        let mut result = Ok(());
        let read = shard.read(&mut |view| {
            result = ledger::read(view).and_then(|ledger| {
                self.history.shown_by_replica(&floor, &ledger.unwrap_or_default())
            });
        });
        match read {
            Ok(()) => self.reads += 1,
            Err(_) => self.unanswered += 1,
        }
        result
    }

    async fn write_until_acknowledged(&mut self) -> Result<(), String> {
        let (_, shard) = self.shards[0].clone();
        while !self.write(&shard).await? {
            task::sleep(Duration::from_millis(100)).await;
        }
        self.read(&shard).await
    }
}
