//! Several nodes with several shards each, and accounts that are spread over the shards: money goes from
//! one to another in commits over several shards, in trouble.
//!
//! Held to these claims: whoever reads all accounts at one moment sees the same sum; each commit happens at
//! most once, and those that were acknowledged did; whoever reads behind the barrier sees what was
//! acknowledged; once all is well nothing is left undecided, and all replicas hold the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use proteus_env::sim_disk::SimDisk;
use proteus_env::{RuntimeClock, task};
use proteus_kernel::{
    ChoreOptions, CommitSink, Commits, Shard, ShardOptions, Shards, Spread, Timing, read_whole,
};
use proteus_log::{Log, LogOptions};
use proteus_machine::{Committed, KernelError, View};
use proteus_shard_machine::{
    Change, Composed, Minitransaction, Outcome, Reply, Split, SpreadState, cache, split,
};
use proteus_types::{CommitTs, Durability, Member, NodeId, ShardId, SlotMap};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::cluster::{PATIENCE, POWER_CUT, START_MS, in_paused_time};
use crate::network::{Network, Weather};
use crate::random::Random;
use crate::replica;

const NODES: u64 = 3;
const SHARDS: u32 = 3;
const ACCOUNTS: u64 = 12;
const CLIENTS: u64 = 4;
const TROUBLES: u64 = 10;

/// How one run went.
#[derive(Debug, Default, Clone, Copy)]
pub struct Summary {
    /// Transfers acknowledged.
    pub acknowledged: u64,
    /// Transfers that were refused, as they were meant to be.
    pub refused: u64,
    /// Transfers and reads that were answered with an error.
    pub unanswered: u64,
    /// Reads of all accounts.
    pub reads: u64,
    /// Nodes that crashed.
    pub crashes: u64,
    /// Nodes that were cut off.
    pub cuts: u64,
}

/// How accounts are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// All at one moment.
    Whole,
    /// Shard by shard, as they are there: wrong on purpose.
    Apart,
}

/// Runs the plan of `seed`.
///
/// # Errors
/// What cannot be true of correct shards.
///
/// # Panics
/// If the machine has no temporary directory or runtime.
pub fn run(seed: u64, reading: Reading) -> Result<Summary, String> {
    in_paused_time(seed, async {
        let mut world = World::new(seed, reading);
        let result = world.live().await;
        world.end().await;
        result.map(|()| world.summary)
    })
}

#[derive(Default)]
struct NodeShards(Mutex<BTreeMap<ShardId, Arc<Shard<Composed>>>>);

impl Shards<Composed> for NodeShards {
    fn shard(&self, id: ShardId) -> Option<Arc<Shard<Composed>>> {
        self.0.lock().get(&id).cloned()
    }

    fn all(&self) -> Vec<(ShardId, Arc<Shard<Composed>>)> {
        self.0.lock().iter().map(|(id, shard)| (*id, shard.clone())).collect()
    }
}

/// Nobody follows.
struct NoFeed;

impl CommitSink<Change> for NoFeed {
    fn on_commit(&self, _commit: Committed<Change>) {}

    fn on_gap(&self, _applied_ts: CommitTs) {}
}

/// A node that runs.
#[derive(Clone)]
struct Running {
    node: NodeId,
    shards: Arc<NodeShards>,
    commits: Arc<Commits<Composed>>,
    stop: watch::Sender<bool>,
}

struct Node {
    disk: SimDisk,
    directory: TempDir,
    clock: Arc<RuntimeClock>,
    running: Option<Running>,
}

/// What one client was told, and may have done.
#[derive(Debug, Default, Clone, Copy)]
struct Told {
    /// The count of its transfers in its last answer.
    count: i64,
    /// Transfers without an answer.
    unknown: i64,
}

struct World {
    reading: Reading,
    random: Random,
    network: Network<Composed>,
    map: SlotMap,
    nodes: BTreeMap<NodeId, Node>,
    told: Arc<Mutex<BTreeMap<u64, Told>>>,
    summary: Summary,
}

fn key(kind: &str, number: u64) -> String {
    format!("{kind}:{number}")
}

fn command(words: &[&str]) -> cache::Op {
    cache::Op::command(words)
}

impl World {
    fn new(seed: u64, reading: Reading) -> World {
        let mut random = Random::new(seed);
        let network = Network::new(random.fork(), Weather::random(&mut random));
        World {
            reading,
            random,
            network,
            map: SlotMap::even(SHARDS),
            nodes: BTreeMap::new(),
            told: Arc::default(),
            summary: Summary::default(),
        }
    }

    async fn live(&mut self) -> Result<(), String> {
        for number in 1..=NODES {
            let node = Node {
                disk: SimDisk::new(self.random.number()),
                directory: tempfile::tempdir().expect("a temporary directory"),
                clock: Arc::new(RuntimeClock::new(
                    START_MS + self.random.below(2_000),
                    self.random.below(41) as i64 - 20,
                )),
                running: None,
            };
            self.nodes.insert(NodeId(number), node);
            self.start(NodeId(number)).await?;
        }
        self.form().await?;
        for trouble in 0..TROUBLES {
            self.work().await.map_err(|claim| format!("trouble {trouble}: {claim}"))?;
            self.trouble().await?;
        }
        self.all_well().await?;
        self.settle().await
    }

    async fn start(&mut self, id: NodeId) -> Result<(), String> {
        let run = self.random.number() as u32;
        let look_interval = Duration::from_millis(20 + self.random.below(200));
        let checkpoint_bytes = self.random.pick(&[2_000, 20_000, 10_000_000]);
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        if node.running.is_some() {
            return Ok(());
        }
        let options = LogOptions {
            segment_bytes: 16 * 1024,
            reserve_bytes: 16 * 1024,
            disk_reserve_bytes: 64 * 1024,
            cache_bytes_max: 4 * 1024,
            is_inline: true,
            ..LogOptions::default()
        };
        let log = match Log::open(Arc::new(node.disk.clone()), options) {
            Ok(log) => log,
            Err(error) if error.to_string().contains(POWER_CUT) => {
                node.disk.crash();
                return Ok(());
            }
            Err(error) => return Err(format!("{id}'s log does not open: {error}")),
        };
        let shards = Arc::new(NodeShards::default());
        let timestamps = Arc::default();
        for number in 0..SHARDS {
            let options = ShardOptions {
                shard: ShardId(number),
                node: id,
                member: Member { incarnation: id.0, ..Member::default() },
                found: id == NodeId(1),
                run,
                timing: Timing::default(),
                chores: ChoreOptions {
                    look_interval,
                    checkpoint_bytes,
                    replay_bytes_max: 60_000,
                    checkpoint_interval: Duration::from_secs(60),
                },
                timestamps: Arc::clone(&timestamps),
            };
            let store = node.directory.path().join(format!("store-{number}"));
            let links = self.network.links(id);
            let opened = Shard::open(
                options,
                &store,
                log.clone(),
                node.clock.clone(),
                Arc::new(NoFeed),
                links,
            );
            let opened = task::timeout(PATIENCE, opened).await;
            match opened.ok_or_else(|| format!("opening {id} never ends"))? {
                Ok(shard) => {
                    shards.0.lock().insert(ShardId(number), shard);
                }
                Err(error) if error.to_string().contains(POWER_CUT) => {
                    for (_, shard) in shards.all() {
                        shard.abandon().await;
                    }
                    node.disk.crash();
                    return Ok(());
                }
                Err(error) => return Err(format!("{id} does not open: {error}")),
            }
        }
        for (shard, open) in shards.all() {
            self.network.set_shard(id, shard, Some(open));
        }
        let commits = Commits::new(id, run, node.clock.clone(), shards.clone());
        let (stop, stopping) = watch::channel(false);
        task::spawn(commits.clone().finish_abandoned(stopping));
        node.running = Some(Running { node: id, shards, commits, stop });
        Ok(())
    }

    fn running(&self) -> Vec<Running> {
        self.nodes.values().filter_map(|node| node.running.clone()).collect()
    }

    async fn form(&mut self) -> Result<(), String> {
        let Some(founder) = self.running().into_iter().next() else { return Err("nobody".into()) };
        let members: BTreeMap<NodeId, Member> = (1..=NODES)
            .map(|id| (NodeId(id), Member { incarnation: id, ..Member::default() }))
            .collect();
        let voters = members.keys().copied().collect();
        for (id, shard) in founder.shards.all() {
            let failed = |error: proteus_kernel::ChangeError| format!("{id}: {error}");
            shard.group().set_members(members.clone()).await.map_err(failed)?;
            let joined = task::timeout(PATIENCE, shard.group().set_voters(&voters)).await;
            joined.ok_or("the cluster never forms")?.map_err(failed)?;
            let set = Minitransaction::of(cache::Op::SetSlots { map: self.map.clone() });
            shard.propose(&[set]).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    async fn work(&mut self) -> Result<(), String> {
        let running = self.running();
        if running.is_empty() {
            return Ok(());
        }
        let client = |number| Client {
            number,
            map: self.map.clone(),
            told: self.told.clone(),
            nodes: running.clone(),
            random: Random::new(number),
            reading: self.reading,
            summary: Summary::default(),
        };
        let mut clients: Vec<Client> = (0..CLIENTS).map(client).collect();
        clients.iter_mut().for_each(|client| client.random = self.random.fork());
        for result in join_all(clients.into_iter().map(Client::work)).await {
            let did = result?;
            self.summary.acknowledged += did.acknowledged;
            self.summary.refused += did.refused;
            self.summary.unanswered += did.unanswered;
            self.summary.reads += did.reads;
        }
        Ok(())
    }

    async fn trouble(&mut self) -> Result<(), String> {
        let id = NodeId(1 + self.random.below(NODES));
        match self.random.below(10) {
            0..=1 => {
                self.summary.cuts += 1;
                for other in self.nodes.keys().filter(|other| **other != id) {
                    self.network.cut(id, *other);
                    if self.random.chance(70) {
                        self.network.cut(*other, id);
                    }
                }
            }
            2..=3 => self.network.heal(),
            4..=6 => {
                let writes = self.random.below(30);
                if let Some(node) = self.nodes.get(&id).filter(|node| node.running.is_some()) {
                    node.disk.cut_power_after(writes);
                    self.summary.crashes += 1;
                }
            }
            7 => {
                let by_ms = self.random.below(20_000) as i64 - 10_000;
                if let Some(node) = self.nodes.get(&id) {
                    node.clock.jump(by_ms);
                }
            }
            8 => self.network.set_weather(Weather::random(&mut self.random)),
            _ => {
                // Leaders of different shards on different nodes.
                for running in self.running() {
                    for (_, open) in running.shards.all() {
                        let to = NodeId(1 + self.random.below(NODES));
                        if open.leads() && to != running.node {
                            // Who cannot hand over goes on leading.
                            let _ = task::timeout(PATIENCE, open.group().hand_over(to)).await;
                        }
                    }
                }
            }
        }
        self.bury().await?;
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            if self.random.chance(60) {
                self.start(id).await?;
            }
        }
        task::sleep(Duration::from_millis(self.random.below(4_000))).await;
        Ok(())
    }

    /// Takes down nodes of which a shard has no power any more.
    async fn bury(&mut self) -> Result<(), String> {
        for (id, node) in &mut self.nodes {
            let Some(running) = &node.running else { continue };
            let shards = running.shards.all();
            let Some(reason) = shards.iter().find_map(|(_, shard)| shard.stop_reason()) else {
                continue;
            };
            if !reason.contains(POWER_CUT) {
                return Err(format!("{id} stopped by itself: {reason}"));
            }
            node.disk.cut_power_after(0);
            running.stop.send_replace(true);
            for (shard, open) in shards {
                self.network.set_shard(*id, shard, None);
                open.abandon().await;
            }
            node.running = None;
            node.disk.crash();
        }
        Ok(())
    }

    async fn all_well(&mut self) -> Result<(), String> {
        self.network.heal();
        self.network.set_weather(Weather { delay_ms_max: 2, lost_percent: 0, repeated_percent: 0 });
        self.bury().await?;
        for id in (1..=NODES).map(NodeId) {
            if let Some(node) = self.nodes.get(&id) {
                node.disk.spare_power();
            }
            self.start(id).await?;
        }
        Ok(())
    }

    /// With all well everybody writes and reads again, nothing is left undecided, and all hold the same.
    async fn settle(&mut self) -> Result<(), String> {
        let nodes = self.running();
        for (number, node) in nodes.iter().enumerate() {
            let mut client = Client {
                number: number as u64,
                map: self.map.clone(),
                told: self.told.clone(),
                nodes: vec![node.clone()],
                random: self.random.fork(),
                reading: self.reading,
                summary: Summary::default(),
            };
            let recovering = async {
                while !(client.transfer(node).await? && client.read(node).await?) {
                    task::sleep(Duration::from_millis(100)).await;
                }
                Ok::<(), String>(())
            };
            let recovered = task::timeout(PATIENCE, recovering).await;
            recovered
                .ok_or_else(|| format!("no transfers on {} although all is well", node.node))??;
        }
        let is_settled = |running: &Running| {
            running.shards.all().iter().all(|(_, shard)| !shard.has_unfinished())
        };
        let settled = async {
            loop {
                let applied = |id| {
                    let of = nodes.iter().filter_map(|node| node.shards.shard(ShardId(id)));
                    of.map(|shard| shard.status().applied_index).collect::<Vec<_>>()
                };
                let agree =
                    (0..SHARDS).map(applied).all(|all| all.windows(2).all(|w| w[0] == w[1]));
                if agree && nodes.iter().all(is_settled) {
                    return;
                }
                task::sleep(Duration::from_millis(50)).await;
            }
        };
        task::timeout(PATIENCE, settled).await.ok_or("something is left undecided for ever")?;
        for id in (0..SHARDS).map(ShardId) {
            let dumps = nodes.iter().filter_map(|node| node.shards.shard(id)).map(|shard| {
                let mut dump = Ok(BTreeMap::new());
                let read = shard.read(&mut |view| dump = replica::bytewise(view.state));
                read.map_err(|error| error.to_string())?;
                dump.map_err(|error| error.to_string())
            });
            let dumps: Result<Vec<_>, String> = dumps.collect();
            for pair in dumps?.windows(2) {
                if let Some(difference) = replica::difference(&pair[0], &pair[1]) {
                    return Err(format!("the replicas of shard {id} differ: {difference}"));
                }
            }
        }
        Ok(())
    }

    async fn end(&mut self) {
        for running in self.running() {
            running.stop.send_replace(true);
            for (id, shard) in running.shards.all() {
                self.network.set_shard(running.node, id, None);
                shard.abandon().await;
            }
        }
        self.nodes.clear();
    }
}

/// Somebody who moves money and counts it, on any node.
struct Client {
    number: u64,
    map: SlotMap,
    told: Arc<Mutex<BTreeMap<u64, Told>>>,
    nodes: Vec<Running>,
    random: Random,
    reading: Reading,
    summary: Summary,
}

impl Client {
    async fn work(mut self) -> Result<Summary, String> {
        for _ in 0..1 + self.random.below(8) {
            let node = self.random.pick(&self.nodes);
            let answered = match self.random.chance(60) {
                true => self.transfer(&node).await,
                false => self.read(&node).await,
            };
            let answered = answered.map_err(|claim| format!("{}: {claim}", node.node))?;
            self.summary.unanswered += u64::from(!answered);
            if self.random.chance(30) {
                task::sleep(Duration::from_millis(self.random.below(300))).await;
            }
        }
        Ok(self.summary)
    }

    /// Moves money between two accounts, and counts that; now and then with a part that is refused.
    async fn transfer(&mut self, node: &Running) -> Result<bool, String> {
        let amount = self.random.below(100).to_string();
        let (from, to) = (self.random.below(ACCOUNTS), self.random.below(ACCOUNTS));
        let is_refused = self.random.chance(10);
        let mut mini = Minitransaction::of(command(&["INCR", &key("count", self.number)]))
            .op(command(&["DECRBY", &key("account", from), &amount]))
            .op(command(&["INCRBY", &key("account", to), &amount]));
        if is_refused {
            let call = cache::Call::new(&["LPUSH", &key("account", to), "x"]);
            mini = mini.op(cache::Op::OrRefuse(call));
        }
        self.told.lock().entry(self.number).or_default().unknown += 1;
        let committing = async {
            match split(mini, &self.map) {
                Split::One(shard, mini) => {
                    let outcomes =
                        node.commits.propose(shard, Durability::Flushed, vec![mini]).await?;
                    outcomes
                        .into_iter()
                        .next()
                        .ok_or_else(|| KernelError::Unavailable("no outcome".to_owned()))
                }
                Split::Several(parts, plan) => match node.commits.propose_over(parts).await? {
                    Spread::Committed { commit_ts, outcomes } => {
                        Ok(plan.join(commit_ts, &outcomes))
                    }
                    Spread::Refused { shard, outcome } => Ok(plan.refused(shard, outcome)),
                },
                Split::Refused(outcome) => Ok(outcome),
            }
        };
        let answer = task::timeout(PATIENCE, committing).await;
        let mut told = self.told.lock();
        let told = told.entry(self.number).or_default();
        match answer.ok_or("a transfer was never answered")? {
            Ok(Outcome::Committed { replies, .. }) if !is_refused => {
                let Some(Reply::Cache(cache::Reply::Integer(count))) = replies.first() else {
                    return Err(format!("a transfer was answered with {replies:?}"));
                };
                if *count <= told.count || *count > told.count + told.unknown {
                    return Err(format!("transfer {count} was acknowledged after {told:?}"));
                }
                // Those without an answer that came before it are known now.
                told.unknown -= count - told.count;
                told.count = *count;
                self.summary.acknowledged += 1;
                Ok(true)
            }
            Ok(Outcome::Refused { op_index: 3, .. }) if is_refused => {
                told.unknown -= 1;
                self.summary.refused += 1;
                Ok(true)
            }
            Ok(other) => Err(format!("a transfer came to {other:?}")),
            Err(KernelError::Overloaded(_) | KernelError::DiskFull(_)) => {
                told.unknown -= 1;
                Ok(false)
            }
            Err(_) => Ok(false),
        }
    }

    /// Reads all accounts and the count of its own transfers at one moment.
    async fn read(&mut self, node: &Running) -> Result<bool, String> {
        let begun = self.told.lock().get(&self.number).copied().unwrap_or_default();
        let shards = node.shards.all();
        for (_, shard) in &shards {
            if let Some(barrier) = shard.read_barrier() {
                let passed = task::timeout(PATIENCE, barrier).await;
                if !matches!(passed.ok_or("a read barrier never ends")?, Ok(Ok(()))) {
                    return Ok(false);
                }
            }
        }
        let mut found = Ok((0, 0));
        let mut read_all = |views: &[(ShardId, View<'_>)]| {
            let spread = SpreadState::new(views, &self.map);
            let Some(view) = spread.view() else { return };
            let number = |key: String| match cache::answer(view, &cache::Call::new(&["GET", &key]))
            {
                Ok(cache::Reply::Bulk(text)) => {
                    Ok(String::from_utf8_lossy(&text).parse::<i64>().unwrap_or(i64::MIN))
                }
                Ok(_) => Ok(0),
                Err(error) => Err(error.to_string()),
            };
            let accounts: Result<i64, String> =
                (0..ACCOUNTS).map(|account| number(key("account", account))).sum();
            found = accounts.and_then(|sum| Ok((sum, number(key("count", self.number))?)));
        };
        let read = match self.reading {
            Reading::Whole => read_whole(&shards, &mut read_all),
            Reading::Apart => apart(&shards, &[], &mut read_all),
        };
        if read.is_err() {
            return Ok(false);
        }
        let (sum, count) = found?;
        if sum != 0 {
            return Err(format!("all accounts hold {sum}"));
        }
        let told = self.told.lock().get(&self.number).copied().unwrap_or_default();
        if count < begun.count || count > told.count + told.unknown {
            return Err(format!("{count} transfers are seen, and {begun:?} were told"));
        }
        self.summary.reads += 1;
        Ok(true)
    }
}

/// Who reads all shards.
type WholeReader<'a> = dyn FnMut(&[(ShardId, View<'_>)]) + 'a;

/// All shards as each is, whatever that has to do with the others.
fn apart(
    shards: &[(ShardId, Arc<Shard<Composed>>)],
    before: &[(ShardId, View<'_>)],
    reader: &mut WholeReader<'_>,
) -> Result<(), KernelError> {
    let Some(((id, shard), rest)) = shards.split_first() else {
        reader(before);
        return Ok(());
    };
    let mut result = Ok(());
    shard.read(&mut |view| {
        let mut views = before.to_vec();
        views.push((*id, view));
        result = apart(rest, &views, reader);
    })?;
    result
}
