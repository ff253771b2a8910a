//! The shards of a node: which are open, and which has which slots.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use futures::FutureExt;
use futures::stream::{self, StreamExt};
use parking_lot::{Mutex, RwLock};
use proteus_env::{Clock, task};
use proteus_kernel::{
    Away, CheckpointTurns, ChoreOptions, ChosenLeaders, CommitSink, Links, Shard, ShardOptions,
    Shards, Timestamps, Timing, Wide,
};
use proteus_kernel_api::cache::{RecordedEvents, Replicas};
use proteus_kernel_api::{Change, Commit, Feed, KernelError, Minitransaction, cache};
use proteus_log::Log;
use proteus_shard_machine::{Composed, may_be_recorded};
use proteus_types::{CommitTs, Member, NodeId, ShardId, SlotMap};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use crate::admin::ShardStanding;
use crate::relay::Relay;

/// The shards that are open here, and the newest map that this node knows.
pub(crate) struct NodeShards {
    open: RwLock<BTreeMap<ShardId, Arc<Shard<Composed>>>>,
    map: RwLock<Arc<SlotMap>>,
    /// The ways to shards that are on other nodes only.
    away: RwLock<BTreeMap<ShardId, Arc<Away<Composed>>>>,
    /// What happened lately in those that are here, for nodes that do not have them.
    relays: RwLock<BTreeMap<ShardId, Arc<Relay>>>,
    /// Which nodes shall have replicas of which shards, as this node knows.
    replicas: RwLock<Arc<Replicas>>,
    /// The events that are written down, as this node knows, and whether there are any: whoever proposes asks.
    events: RwLock<Arc<Vec<RecordedEvents>>>,
    has_events: AtomicBool,
    /// How shards stand, as other nodes tell.
    pub(crate) told: RwLock<Arc<BTreeMap<ShardId, ShardStanding>>>,
    /// Whether every shard of the map is open: everybody who reads asks.
    has_all: AtomicBool,
    /// Whether the map says that there is one shard only.
    is_whole: AtomicBool,
    /// How often the first shard's state was replaced, and up to which of these times the map was read
    /// since: otherwise it may be older than the state.
    gaps: AtomicU64,
    gaps_read: AtomicU64,
    changed: Notify,
    /// They were read since.
    is_read: Notify,
}

impl Default for NodeShards {
    fn default() -> NodeShards {
        NodeShards {
            open: RwLock::default(),
            map: RwLock::default(),
            away: RwLock::default(),
            relays: RwLock::default(),
            replicas: RwLock::default(),
            events: RwLock::default(),
            has_events: AtomicBool::new(false),
            told: RwLock::default(),
            has_all: AtomicBool::new(true),
            is_whole: AtomicBool::new(true),
            gaps: AtomicU64::new(0),
            gaps_read: AtomicU64::new(0),
            changed: Notify::new(),
            is_read: Notify::new(),
        }
    }
}

impl Shards<Composed> for NodeShards {
    fn shard(&self, id: ShardId) -> Option<Arc<Shard<Composed>>> {
        self.open.read().get(&id).cloned()
    }

    fn all(&self) -> Vec<(ShardId, Arc<Shard<Composed>>)> {
        self.open.read().iter().map(|(id, shard)| (*id, shard.clone())).collect()
    }

    fn away(&self, id: ShardId) -> Option<Arc<Away<Composed>>> {
        self.away.read().get(&id).cloned()
    }

    fn leaders(&self) -> BTreeMap<ShardId, Option<NodeId>> {
        let away = self.away.read();
        let mut leaders: BTreeMap<ShardId, Option<NodeId>> =
            away.iter().map(|(id, away)| (*id, away.leader())).collect();
        drop(away);
        for (id, shard) in self.all() {
            leaders.insert(id, shard.group().leadership().leader);
        }
        leaders
    }
}

impl ChosenLeaders for NodeShards {
    fn chosen(&self) -> BTreeMap<ShardId, NodeId> {
        self.choices().into_iter().map(|(shard, (node, _))| (shard, node)).collect()
    }
}

impl NodeShards {
    /// Whether there is one shard only.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Acquire) && !self.may_be_old()
    }

    fn may_be_old(&self) -> bool {
        self.gaps.load(Ordering::Acquire) != self.gaps_read.load(Ordering::Acquire)
    }

    /// Whether more may follow from a minitransaction than what it says, in other shards, so that what comes behind
    /// it has to wait.
    pub(crate) fn may_be_recorded(&self, mini: &Minitransaction) -> bool {
        if self.may_be_old() {
            return true;
        }
        self.has_events.load(Ordering::Acquire) && may_be_recorded(mini, &self.events.read())
    }

    fn learn_events(&self, events: Vec<RecordedEvents>) {
        let mut known = self.events.write();
        self.has_events.store(!events.is_empty(), Ordering::Release);
        *known = Arc::new(events);
    }

    /// Whether every shard of the map is open here.
    pub(crate) fn has_all(&self) -> bool {
        self.has_all.load(Ordering::Acquire)
    }

    /// Changes what is open, or learns that the map has; what was open under a number before.
    fn change_open(
        &self,
        change: impl FnOnce(
            &mut BTreeMap<ShardId, Arc<Shard<Composed>>>,
        ) -> Option<Arc<Shard<Composed>>>,
    ) -> Option<Arc<Shard<Composed>>> {
        // The lock orders those who look at both, so that the last of them has seen all.
        let mut open = self.open.write();
        let before = change(&mut open);
        let has_all = self.map().shards().iter().all(|shard| open.contains_key(shard));
        self.has_all.store(has_all, Ordering::Release);
        before
    }

    /// The shards that are on other nodes only.
    pub(crate) fn absent(&self) -> Vec<ShardId> {
        self.away.read().keys().copied().collect()
    }

    /// What happened in a shard that is here.
    pub(crate) fn relay(&self, shard: ShardId) -> Option<Arc<Relay>> {
        let relays = self.relays.read();
        relays.get(&shard).filter(|_| self.open.read().contains_key(&shard)).cloned()
    }

    pub(crate) fn relays(&self) -> Vec<Arc<Relay>> {
        self.relays.read().values().cloned().collect()
    }

    /// Which nodes shall have replicas of which shards.
    pub(crate) fn replicas(&self) -> Arc<Replicas> {
        self.replicas.read().clone()
    }

    /// Who leads a shard, wherever it is, as far as this node knows.
    pub(crate) fn leader_of(&self, shard: ShardId) -> Option<NodeId> {
        match self.shard(shard) {
            Some(here) => here.group().leadership().leader,
            None => self.away(shard)?.leader(),
        }
    }

    /// The nodes that have a replica of a shard, or are to have one, as far as this node knows.
    pub(crate) fn holders(&self, shard: ShardId) -> BTreeSet<NodeId> {
        match self.shard(shard) {
            Some(here) => here.group().membership().members.into_keys().collect(),
            None => {
                let holders = self.away(shard).map(|away| away.holders()).unwrap_or_default();
                holders.into_iter().map(|(node, _)| node).collect()
            }
        }
    }

    /// Takes a shard out of service here, for good or for a while.
    pub(crate) fn close(&self, shard: ShardId) -> Option<Arc<Shard<Composed>>> {
        self.change_open(|open| open.remove(&shard))
    }

    fn note_placed(&self) {
        self.changed.notify_one();
    }

    pub(crate) fn map(&self) -> Arc<SlotMap> {
        self.map.read().clone()
    }

    /// Whom an operator chose to lead which shard, and for how much longer, in milliseconds. None while the first
    /// shard cannot be read.
    pub(crate) fn choices(&self) -> BTreeMap<ShardId, (NodeId, u64)> {
        let mut choices = BTreeMap::new();
        let Some(meta) = self.shard(ShardId::META) else { return choices };
        let read = meta.read(&mut |view| match cache::chosen_leaders(view.state) {
            Ok(chosen) => choices.extend(chosen.into_iter().filter_map(|chosen| {
                let left_ms = chosen.until_ms.checked_sub(view.now_ms).filter(|left| *left > 0)?;
                Some((chosen.shard, (chosen.node, left_ms)))
            })),
            Err(fault) => warn!(%fault, "what an operator chose cannot be read"),
        });
        if read.is_err() {
            choices.clear();
        }
        choices
    }

    /// Notes a map, if it is newer than what is known.
    fn learn(&self, map: &SlotMap) {
        let mut known = self.map.write();
        if map.version > known.version {
            *known = Arc::new(map.clone());
            self.is_whole.store(map.is_whole(), Ordering::Release);
            drop(known);
            self.change_open(|_| None);
            self.changed.notify_one();
        }
    }

    fn forget_map(&self) {
        self.gaps.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_one();
    }

    /// Reads the map from what is applied here.
    pub(crate) fn read_map(&self) -> Result<(), KernelError> {
        let Some(meta) = self.shard(ShardId::META) else { return Ok(()) };
        let gaps = self.gaps.load(Ordering::Acquire);
        let (mut found, mut placed) = (Ok(SlotMap::default()), Ok(Replicas::default()));
        let mut events = Ok(());
        meta.read(&mut |view| {
            found = cache::slots::slot_map(view.state);
            placed = cache::replicas(view.state);
            // While nothing else is applied: what is declared next is learnt after this.
            events = cache::recorded_events(view.state).map(|events| self.learn_events(events));
        })?;
        events?;
        self.learn(&found?);
        *self.replicas.write() = Arc::new(placed?);
        self.gaps_read.store(gaps, Ordering::Release);
        Ok(())
    }
}

/// The feed at the end of every shard's commit path.
pub(crate) struct FeedSink {
    shard: ShardId,
    feed: Arc<Feed>,
    shards: Arc<NodeShards>,
    relay: Arc<Relay>,
}

impl CommitSink<Change> for FeedSink {
    fn on_commit(&self, commit: Commit) {
        if self.shard == ShardId::META {
            for change in &commit.changes {
                match change {
                    Change::Cache(cache::Change::Slots(map)) => self.shards.learn(map),
                    Change::Cache(cache::Change::Replicas) => self.shards.note_placed(),
                    Change::Cache(cache::Change::Declared(events)) => {
                        self.shards.learn_events(events.clone());
                    }
                    _ => {}
                }
            }
        }
        self.relay.note(&commit);
        self.feed.publish(commit);
    }

    fn on_gap(&self, applied_ts: CommitTs) {
        if self.shard == ShardId::META {
            self.shards.forget_map();
        }
        self.relay.note_gap();
        self.feed.skip(applied_ts);
    }
}

/// How often the ways to shards that are not here are looked after.
const LOOK_INTERVAL: std::time::Duration = std::time::Duration::from_millis(500);

/// Pause before what failed is tried again.
const RETRY_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// Shards that are opened at once.
const OPENING_MAX: usize = 64;

/// All that it takes to open a shard.
pub(crate) struct Opener {
    pub(crate) directory: PathBuf,
    pub(crate) log: Log,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) feed: Arc<Feed>,
    pub(crate) links: Arc<dyn Links>,
    pub(crate) node: NodeId,
    pub(crate) member: Member,
    pub(crate) run: u32,
    pub(crate) chores: ChoreOptions,
    pub(crate) timestamps: Arc<Timestamps>,
    pub(crate) checkpoints: Arc<CheckpointTurns>,
    pub(crate) shards: Arc<NodeShards>,
    /// How fast whole states are sent to other nodes, in bytes a second; 0 is no bound.
    pub(crate) pace: AtomicU64,
    /// Who commits what is due in one shard and concerns others, once there is somebody.
    pub(crate) wide: OnceLock<Arc<dyn Wide<Composed>>>,
    /// Each shard once at a time.
    pub(crate) opening: Mutex<BTreeMap<ShardId, Arc<tokio::sync::Mutex<()>>>>,
}

/// Where a shard's checkpoints are.
pub fn store_directory(directory: &Path, shard: ShardId) -> PathBuf {
    match shard {
        ShardId::META => directory.join("store"),
        shard => directory.join(format!("store-{}", shard.0)),
    }
}

impl Opener {
    /// Opens a shard, if it is not open. `found` says whether it begins here, if it has not begun.
    pub(crate) async fn open(
        &self,
        shard: ShardId,
        found: bool,
    ) -> Result<Arc<Shard<Composed>>, KernelError> {
        let opening = self.opening.lock().entry(shard).or_default().clone();
        let _once = opening.lock().await;
        if let Some(open) = self.shards.shard(shard) {
            return Ok(open);
        }
        let options = ShardOptions {
            shard,
            node: self.node,
            member: self.member.clone(),
            found,
            run: self.run,
            timing: Timing::default(),
            chores: self.chores.clone(),
            timestamps: self.timestamps.clone(),
            checkpoints: self.checkpoints.clone(),
        };
        let (feed, shards) = (self.feed.clone(), self.shards.clone());
        let relay = Arc::new(Relay::default());
        let sink = Arc::new(FeedSink { shard, feed, shards, relay: relay.clone() });
        let directory = store_directory(&self.directory, shard);
        let (log, clock, links) = (self.log.clone(), self.clock.clone(), self.links.clone());
        let opened = Shard::open(options, &directory, log, clock, sink, links).await?;
        if let Some(wide) = self.wide.get() {
            opened.set_wide(wide.clone());
        }
        opened.group().snapshot_pace().set(self.pace.load(Ordering::Relaxed));
        self.shards.relays.write().insert(shard, relay);
        self.shards.change_open(|open| open.insert(shard, opened.clone()));
        if shard == ShardId::META {
            self.shards.read_map()?;
        } else {
            info!(%shard, "a shard is open");
        }
        Ok(opened)
    }

    /// Opens all shards of the map that are not, and shall have a replica here, or have left something here.
    pub(crate) async fn open_all(&self) -> Result<(), KernelError> {
        let (map, replicas, left) = (self.shards.map(), self.shards.replicas(), self.log.shards());
        let is_for_here = |shard: &&ShardId| {
            **shard == ShardId::META || replicas.are_on(**shard, self.node) || left.contains(shard)
        };
        let wanted: Vec<ShardId> = map.shards().iter().filter(is_for_here).copied().collect();
        let opened = self.open_each(&wanted, false).await;
        self.look_for_others();
        opened
    }

    /// Learns the ways to shards that are not here, and to the nodes that have them.
    pub(crate) fn look_for_others(&self) {
        let Some(meta) = self.shards.shard(ShardId::META) else { return };
        let (map, replicas) = (self.shards.map(), self.shards.replicas());
        let open = self.shards.open.read();
        let mut away = self.shards.away.write();
        away.retain(|shard, _| !open.contains_key(shard));
        let absent = map.shards().iter().filter(|shard| !open.contains_key(shard));
        let mut members = None;
        for shard in absent {
            let members = members.get_or_insert_with(|| meta.group().membership().members);
            let way = away.entry(*shard).or_insert_with(|| {
                let (links, clock) = (self.links.clone(), self.clock.clone());
                Away::new(*shard, links, clock, self.timestamps.clone())
            });
            let told = self.shards.told.read().clone();
            let has_it = |node: &NodeId| {
                replicas.are_on(*shard, *node)
                    || told.get(shard).is_some_and(|told| told.members.contains(node))
            };
            let holders = members.iter().filter(|(node, _)| **node != self.node && has_it(node));
            way.set_holders(holders.map(|(node, member)| (*node, member.clone())).collect());
            if let Some(standing) = told.get(shard).filter(|told| told.leader.is_some()) {
                way.set_leader(standing.leader);
            }
        }
    }

    /// Opens shards that are not, many at a time: what each waits for is the disk, and they share its flushes.
    pub(crate) async fn open_each(
        &self,
        shards: &[ShardId],
        found: bool,
    ) -> Result<(), KernelError> {
        let missing = shards.iter().filter(|shard| self.shards.shard(**shard).is_none());
        let opening: Vec<_> = missing.map(|shard| self.open(*shard, found).boxed()).collect();
        // All to the end: one that is half open would be in the way of the next try.
        let opened: Vec<_> = stream::iter(opening).buffer_unordered(OPENING_MAX).collect().await;
        opened.into_iter().try_for_each(|opened| opened.map(drop))
    }

    /// Says who commits what is due in one shard and concerns others, too.
    pub(crate) fn set_wide(&self, wide: Arc<dyn Wide<Composed>>) {
        let wide = self.wide.get_or_init(|| wide);
        for (_, shard) in self.shards.all() {
            shard.set_wide(wide.clone());
        }
    }

    /// Bounds how fast whole states leave this node, of all shards that are open and those to come.
    pub(crate) fn set_pace(&self, bytes_per_second_max: u64) {
        self.pace.store(bytes_per_second_max, Ordering::Relaxed);
        for (_, shard) in self.shards.all() {
            shard.group().snapshot_pace().set(bytes_per_second_max);
        }
    }

    /// Opens shards as the map gets more, until `stop` holds true.
    pub(crate) async fn follow_map(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        task::spawn(self.clone().open_as_read(stop.clone()));
        loop {
            tokio::select! {
                biased;
                () = self.shards.changed.notified() => {}
                () = task::sleep(LOOK_INTERVAL) => {
                    if !self.shards.has_all() {
                        self.look_for_others();
                    }
                    continue;
                }
                _ = stop.wait_for(|stop| *stop) => return,
            }
            match self.shards.read_map() {
                Ok(()) => self.shards.is_read.notify_one(),
                Err(error) => {
                    warn!(%error, "which shards there are cannot be read; it is tried again");
                    task::sleep(RETRY_PAUSE).await;
                    self.shards.changed.notify_one();
                }
            }
        }
    }

    /// Opens shards that are to be here, whenever that may have changed, until `stop` holds true. Apart from reading
    /// where shards are to be: whoever looks after them must not go by what is old while one takes its time to open.
    async fn open_as_read(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                biased;
                () = self.shards.is_read.notified() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            if let Err(error) = self.open_all().await {
                warn!(%error, "a shard cannot be opened; it is tried again");
                task::sleep(RETRY_PAUSE).await;
                self.shards.is_read.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_that_may_be_old_is_not_taken_for_that_of_one_shard() {
        let shards = NodeShards::default();
        assert!(shards.is_whole());
        shards.forget_map();
        assert!(!shards.is_whole(), "until it was read again");
        shards.learn(&SlotMap::even(1).with_shard(ShardId(1)));
        assert_eq!(shards.map().shards().len(), 2);
    }
}
