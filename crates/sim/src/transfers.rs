//! Several nodes with several shards each, and accounts that are spread over the shards: money goes from
//! one to another in commits over several shards, while slots move from shard to shard, in trouble. All of a
//! node is real but its directory, its identity and its connections.
//!
//! Held to these claims: whoever reads all accounts at one moment sees the same sum; each commit happens at
//! most once, and those that were acknowledged did; whoever reads behind the barrier, of all shards or of those
//! of the keys, sees what was acknowledged; two keys that are only changed together are seen to be the same;
//! single objects are linearizable; what is declared to follow from a change is there exactly with it; once all is well nothing is left undecided, all replicas hold the same, and every node leads as
//! many shards as any other.

mod clients;
mod follows;
mod room;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use proteus_env::sim_disk::SimDisk;
use proteus_env::{RuntimeClock, task};
use proteus_kernel::{ChoreOptions, Shard, spread_leaders};
use proteus_kernel_api::Kernel;
use proteus_log::{Log, LogOptions};
use proteus_machine::{KernelError, View};
use proteus_node::{Assembly, AssemblyOptions};
use proteus_shard_machine::{Composed, Minitransaction, cache};
use proteus_store::StoreError;
use proteus_types::{Durability, Member, NodeId, SLOT_COUNT, ShardId, SlotMap};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::backups;
use crate::cluster::{PATIENCE, POWER_CUT, START_MS, in_paused_time};
use crate::network::{Network, Weather};
use crate::objects::{self, Called, Objects};
use crate::random::Random;
use crate::replica;
use clients::Client;
use follows::{Counted, Followed, Follower};

pub(crate) const ACCOUNTS: u64 = 12;
pub(crate) const CLIENTS: u64 = 4;
const FOLLOWERS: usize = 3;
const TROUBLES: u64 = 10;

/// How long a move is waited for in trouble.
const MOVE_PATIENCE: Duration = Duration::from_secs(20);

/// Keys of each client that are only changed together.
pub(crate) const TWINS: [&str; 2] = ["twin", "other"];

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
    /// Times that slots moved.
    pub moves: u64,
    /// Backups that were taken and restored.
    pub backups: u64,
    /// Replicas that were to move.
    pub replicas_moved: u64,
    /// Replicas that were removed by nodes that had them.
    pub retired: u64,
    /// What callers of single objects did.
    pub called: Called,
    /// What followed from changes.
    pub followed: Followed,
}

/// How accounts are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// All at one moment.
    Whole,
    /// Shard by shard, as they are there: wrong on purpose.
    Apart,
    /// All at one moment, but in backups shard by shard: wrong on purpose.
    BackedUpApart,
    /// All at one moment, but what follows from changes shard by shard: wrong on purpose.
    FollowsApart,
    /// All at one moment, where each shard beside the first is on three of five nodes, and replicas move.
    WithRoom,
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

/// A node that runs.
#[derive(Clone)]
struct Running {
    node: NodeId,
    assembly: Arc<Assembly>,
    kernel: Arc<dyn Kernel>,
    stop: watch::Sender<bool>,
}

impl Running {
    fn shards(&self) -> Vec<(ShardId, Arc<Shard<Composed>>)> {
        self.assembly.shards().all()
    }
}

struct Node {
    disk: SimDisk,
    directory: TempDir,
    clock: Arc<RuntimeClock>,
    running: Option<Running>,
    /// It has been started once.
    has_begun: bool,
}

/// What one client was told, and may have done.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Told {
    /// The count of its transfers in its last answer.
    pub(crate) count: i64,
    /// Transfers without an answer.
    pub(crate) unknown: i64,
}

struct World {
    reading: Reading,
    random: Random,
    network: Network<Composed>,
    map: SlotMap,
    nodes: BTreeMap<NodeId, Node>,
    told: Arc<Mutex<BTreeMap<u64, Told>>>,
    objects: Objects,
    counted: Counted,
    summary: Summary,
}

pub(crate) fn key(kind: &str, number: u64) -> String {
    format!("{kind}:{number}")
}

pub(crate) fn command(words: &[&str]) -> cache::Op {
    cache::Op::command(words)
}

/// How logs are kept where all runs on one thread: in small segments, and written by who asks for it.
pub fn log_options() -> LogOptions {
    LogOptions {
        segment_bytes: 16 * 1024,
        reserve_bytes: 16 * 1024,
        disk_reserve_bytes: 64 * 1024,
        cache_bytes_max: 4 * 1024,
        is_inline: true,
        ..LogOptions::default()
    }
}

impl World {
    fn new(seed: u64, reading: Reading) -> World {
        let mut random = Random::new(seed);
        let network = Network::new(random.fork(), Weather::random(&mut random));
        let objects = Objects::new(&mut random, true);
        let mut map = SlotMap::even(reading.shards());
        // Newer than that of a single shard, which nobody has to be told.
        map.version = 1;
        World {
            reading,
            random,
            network,
            map,
            nodes: BTreeMap::new(),
            told: Arc::default(),
            objects,
            counted: Arc::default(),
            summary: Summary::default(),
        }
    }

    async fn live(&mut self) -> Result<(), String> {
        for number in 1..=self.reading.nodes() {
            let node = Node {
                disk: SimDisk::new(self.random.number()),
                directory: tempfile::tempdir().expect("a temporary directory"),
                clock: Arc::new(RuntimeClock::new(
                    START_MS + self.random.below(2_000),
                    self.random.below(41) as i64 - 20,
                )),
                running: None,
                has_begun: false,
            };
            self.nodes.insert(NodeId(number), node);
            self.start(NodeId(number)).await?;
        }
        self.form().await?;
        if let Some(founder) = self.running().first().filter(|_| self.reading.has_follows()) {
            follows::declare(&*founder.kernel).await?;
        }
        for trouble in 0..TROUBLES {
            if self.reading == Reading::WithRoom {
                let shard = 1 + self.random.below(u64::from(self.reading.shards()) - 1) as u32;
                self.place(ShardId(shard)).await;
                self.retire().await;
            }
            self.work().await.map_err(|claim| format!("trouble {trouble}: {claim}"))?;
            self.trouble().await?;
        }
        self.all_well().await?;
        // It takes its time.
        if self.random.chance(20) && self.reading != Reading::WithRoom {
            self.leaders_spread().await?;
        }
        if self.reading == Reading::WithRoom {
            self.all_placed().await?;
        }
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
        let log = match Log::open(Arc::new(node.disk.clone()), log_options()) {
            Ok(log) => log,
            Err(error) if error.to_string().contains(POWER_CUT) => {
                node.disk.crash();
                return Ok(());
            }
            Err(error) => return Err(format!("{id}'s log does not open: {error}")),
        };
        let assembly = Arc::new(Assembly::new(AssemblyOptions {
            directory: node.directory.path().to_owned(),
            log,
            clock: node.clock.clone(),
            links: self.network.links(id),
            node: id,
            member: Member { incarnation: id.0, ..Member::default() },
            run,
            chores: ChoreOptions {
                look_interval,
                checkpoint_bytes,
                replay_bytes_max: 60_000,
                checkpoint_interval: Duration::from_secs(60),
            },
            durability: Durability::Flushed,
            torn_tries: 1,
        }));
        let (stop, stopping) = watch::channel(false);
        let found = id == NodeId(1);
        let (with_room, shard_count) = (self.reading == Reading::WithRoom, self.reading.shards());
        let is_new = !std::mem::replace(&mut node.has_begun, true);
        let opening = async {
            assembly.finish_retiring().await.map_err(|e| KernelError::Stopped(e.to_string()))?;
            // With room a node that is new has the first only.
            let shards = if with_room && !found { 1 } else { shard_count };
            for number in (0..shards).filter(|number| !with_room || *number == 0 || is_new) {
                assembly.open(ShardId(number), found).await?;
            }
            assembly.open_all(found, &stopping).await
        };
        let opened = task::timeout(PATIENCE, opening).await;
        let shards = assembly.shards();
        let kernel = match opened.ok_or_else(|| format!("opening {id} never ends"))? {
            Ok(kernel) => kernel,
            Err(error) => {
                stop.send_replace(true);
                for (_, shard) in shards.all() {
                    shard.abandon().await;
                }
                if error.to_string().contains(POWER_CUT) {
                    node.disk.crash();
                    return Ok(());
                }
                return Err(format!("{id} does not open: {error}"));
            }
        };
        if with_room {
            self.network.set_shards(id, Some(shards.clone()));
            let (assembly, stopping) = (assembly.clone(), stopping.clone());
            task::spawn(async move { assembly.keep_up_shards(stopping).await });
        }
        for (shard, open) in shards.all() {
            self.network.set_shard(id, shard, Some(open));
        }
        let choices = assembly.chosen_leaders();
        let spreading = spread_leaders(id, shards, choices, node.clock.clone(), stopping);
        task::spawn(spreading);
        node.running = Some(Running { node: id, assembly, kernel, stop });
        Ok(())
    }

    fn running(&self) -> Vec<Running> {
        self.nodes.values().filter_map(|node| node.running.clone()).collect()
    }

    async fn form(&mut self) -> Result<(), String> {
        let Some(founder) = self.running().into_iter().next() else { return Err("nobody".into()) };
        let members: BTreeMap<NodeId, Member> = (1..=self.reading.nodes())
            .map(|id| (NodeId(id), Member { incarnation: id, ..Member::default() }))
            .collect();
        let voters = members.keys().copied().collect();
        if self.reading == Reading::WithRoom {
            return self.form_with_room(&founder, members, voters).await;
        }
        for (id, shard) in founder.shards() {
            let failed = |error: proteus_kernel::ChangeError| format!("{id}: {error}");
            shard.group().set_members(members.clone()).await.map_err(failed)?;
            let joined = task::timeout(PATIENCE, shard.group().set_voters(&voters)).await;
            joined.ok_or("the cluster never forms")?.map_err(failed)?;
            let set = Minitransaction::of(cache::Op::SetSlots { map: self.map.clone() });
            shard.propose(&[set]).await.map_err(|error| error.to_string())?;
        }
        let creating = founder.kernel.commit(objects::creation()).await;
        creating.map_err(|error| error.to_string())?;
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
        let kernels: Vec<_> = running.iter().map(|running| running.kernel.clone()).collect();
        let mover = self.random.pick(&running);
        let keeper = self.random.pick(&running);
        let backing_up = back_up(keeper, self.told.clone(), self.random.fork(), self.reading);
        let follower = |random| Follower {
            nodes: running.clone(),
            random,
            counted: self.counted.clone(),
            reading: self.reading,
            map: self.map.clone(),
        };
        let count = if self.reading.has_follows() { FOLLOWERS } else { 0 };
        let followers: Vec<Follower> = (0..count).map(|_| follower(self.random.fork())).collect();
        let (results, called, moved, backed_up, followed) = futures::future::join5(
            join_all(clients.into_iter().map(Client::work)),
            self.objects.work(&kernels),
            move_slots(mover, self.random.fork(), self.reading),
            backing_up,
            join_all(followers.into_iter().map(Follower::work)),
        )
        .await;
        called?;
        for followed in followed {
            self.summary.followed.add(followed?);
        }
        self.summary.backups += u64::from(backed_up.map_err(|claim| format!("a backup, {claim}"))?);
        self.summary.moves += moved;
        for result in results {
            let did = result?;
            self.summary.acknowledged += did.acknowledged;
            self.summary.refused += did.refused;
            self.summary.unanswered += did.unanswered;
            self.summary.reads += did.reads;
        }
        Ok(())
    }

    async fn trouble(&mut self) -> Result<(), String> {
        let id = NodeId(1 + self.random.below(self.reading.nodes()));
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
                    for (_, open) in running.shards() {
                        let to = NodeId(1 + self.random.below(self.reading.nodes()));
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
            let shards = running.shards();
            match shards.iter().find_map(|(_, shard)| shard.stop_reason()) {
                Some(reason) if !reason.contains(POWER_CUT) => {
                    return Err(format!("{id} stopped by itself: {reason}"));
                }
                // It may have failed to write, and not have said so yet.
                None if node.disk.has_power() => continue,
                Some(_) | None => {}
            }
            node.disk.cut_power_after(0);
            running.stop.send_replace(true);
            self.network.set_shards(*id, None);
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
        for id in (1..=self.reading.nodes()).map(NodeId) {
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
        if self.reading.has_follows() {
            follows::settle(&nodes, &self.counted).await?;
        }
        let is_settled =
            |running: &Running| running.shards().iter().all(|(_, shard)| !shard.has_unfinished());
        let settled = async {
            loop {
                let applied = |id| {
                    let of =
                        nodes.iter().filter_map(|node| node.assembly.shards().shard(ShardId(id)));
                    of.map(|shard| shard.status().applied_index).collect::<Vec<_>>()
                };
                let agree = (0..self.reading.shards())
                    .map(applied)
                    .all(|all| all.windows(2).all(|w| w[0] == w[1]));
                if agree && nodes.iter().all(is_settled) {
                    return;
                }
                task::sleep(Duration::from_millis(50)).await;
            }
        };
        task::timeout(PATIENCE, settled).await.ok_or("something is left undecided for ever")?;
        self.summary.called = self.objects.settle()?;
        for id in (0..self.reading.shards()).map(ShardId) {
            let dumps =
                nodes.iter().filter_map(|node| node.assembly.shards().shard(id)).map(|shard| {
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

    /// With all well every node comes to lead as many shards as any other, or one more.
    async fn leaders_spread(&self) -> Result<(), String> {
        let nodes = self.running();
        let spread = async {
            loop {
                let led = |node: &Running| {
                    node.shards().iter().filter(|(_, shard)| shard.leads()).count()
                };
                let led: Vec<usize> = nodes.iter().map(led).collect();
                let (most, fewest) = (led.iter().max(), led.iter().min());
                let is_whole = led.iter().sum::<usize>() == self.reading.shards() as usize;
                if is_whole && most.zip(fewest).is_some_and(|(most, fewest)| most - fewest <= 1) {
                    return;
                }
                task::sleep(Duration::from_millis(100)).await;
            }
        };
        task::timeout(PATIENCE, spread).await.ok_or_else(|| "leaders are never spread".to_owned())
    }

    async fn end(&mut self) {
        for running in self.running() {
            running.stop.send_replace(true);
            self.network.set_shards(running.node, None);
            for (id, shard) in running.shards() {
                self.network.set_shard(running.node, id, None);
                shard.abandon().await;
            }
        }
        self.nodes.clear();
    }
}

/// Takes a backup of all shards through any node, now and then, and restores it; says whether there is one.
async fn back_up(
    through: Running,
    told: Arc<Mutex<BTreeMap<u64, Told>>>,
    mut random: Random,
    reading: Reading,
) -> Result<bool, String> {
    if matches!(reading, Reading::Apart | Reading::WithRoom) || random.chance(85) {
        return Ok(false);
    }
    task::sleep(Duration::from_millis(random.below(300))).await;
    let is_whole = reading != Reading::BackedUpApart;
    backups::take(&through.assembly, is_whole, || told.lock().clone(), random.number()).await
}

/// Has slots moved, through any node, now and then; says how often some were.
async fn move_slots(through: Running, mut random: Random, reading: Reading) -> u64 {
    // Who reads each shard by itself does not ask where a key is.
    if matches!(reading, Reading::Apart | Reading::FollowsApart) || random.chance(40) {
        return 0;
    }
    task::sleep(Duration::from_millis(random.below(100))).await;
    let first = random.below(u64::from(SLOT_COUNT)) as u16;
    let last = (first + random.below(4_000) as u16).min(SLOT_COUNT - 1);
    let to = ShardId(random.below(u64::from(reading.shards())) as u32);
    let moving = through.assembly.move_slots((first, last), to, Duration::from_secs(2));
    // Who asked may lose patience while too few nodes answer; what was begun goes on.
    let moved = task::timeout(MOVE_PATIENCE, moving).await;
    u64::from(moved == Some(Ok(0)))
}

/// A number under a key; none is zero.
pub(crate) fn number_of(view: View<'_>, key: &str) -> Result<i64, StoreError> {
    match cache::answer(view, &cache::Call::new(&["GET", key]))? {
        cache::Reply::Bulk(text) => {
            Ok(String::from_utf8_lossy(&text).parse::<i64>().unwrap_or(i64::MIN))
        }
        _ => Ok(0),
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
