//! Which shard has which slots, and who leads and votes in the shards beside the first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use proteus_env::task;
use proteus_kernel::{Commits, Shards, Spread};
use proteus_kernel_api::{KernelError, Minitransaction, Op, Outcome, Read, StoreError, cache};
use proteus_shard_machine::Composed;
use proteus_types::{Durability, NodeId, SLOT_COUNT, ShardId, SlotMap, SlotRange};
use tracing::info;

use crate::admin::{AdminRequest, ask_through};
use crate::cluster::Cluster;
use crate::shards::{NodeShards, Opener};

/// Keys that move in one commit, in bytes: what their shard waits for meanwhile.
const MOVE_BYTES: u64 = 1024 * 1024;

/// Keys of one slot that can move, in bytes: they do in one commit.
const SLOT_BYTES_MAX: u64 = 48 * 1024 * 1024;

/// How often a commit is tried that others got in the way of, and the pause before it is tried again.
const TRIES_MAX: usize = 20;
const RETRY: Duration = Duration::from_millis(5);

/// Such pauses until this node has heard of what it has committed.
const PATIENCE_ROUNDS: usize = 2_000;

/// Shards that a cluster may have.
const SHARDS_MAX: usize = 1_024;

/// Changes which shard has which slots. Whoever leads the cluster does so, one change at a time.
pub(crate) struct Placement {
    opener: Arc<Opener>,
    shards: Arc<NodeShards>,
    pub(crate) commits: Arc<Commits<Composed>>,
    changing: tokio::sync::Mutex<()>,
    /// How much moves in one commit now: less while the keys are written to a lot.
    move_bytes: AtomicU64,
}

impl Placement {
    pub(crate) fn new(
        opener: Arc<Opener>,
        shards: Arc<NodeShards>,
        commits: Arc<Commits<Composed>>,
    ) -> Placement {
        let (changing, move_bytes) = (tokio::sync::Mutex::default(), AtomicU64::new(MOVE_BYTES));
        Placement { opener, shards, commits, changing, move_bytes }
    }

    /// Spreads the slots evenly over so many shards, adding those that are missing.
    pub(crate) async fn spread(&self, shard_count: u32) -> Result<(), String> {
        if let Err(reason) = self.spread_empty(shard_count).await {
            info!(reason, "shards are added one by one");
        }
        while self.shards.map().shards().len() < shard_count as usize {
            self.add_shard().await?;
        }
        for range in SlotMap::even(shard_count).ranges() {
            self.move_slots((range.first, range.last), range.shard, Duration::MAX).await?;
        }
        Ok(())
    }

    /// As [`Placement::spread`], with one commit in each shard and none over several, if there is one shard so
    /// far, which has no keys.
    async fn spread_empty(&self, shard_count: u32) -> Result<(), String> {
        let _one = self.changing.lock().await;
        let map = self.shards.map();
        let mut spread = SlotMap::even(shard_count);
        spread.version = map.version + 1;
        let Some(own) = spread.ranges().find(|range| range.shard == ShardId::META) else {
            return Ok(());
        };
        if map.shards().len() > 1 || shard_count < 2 || shard_count as usize > SHARDS_MAX {
            return Ok(());
        }
        let (first, last) = (own.last + 1, SLOT_COUNT - 1);
        let new: Vec<ShardId> = (1..shard_count).map(ShardId).collect();
        self.opener.open_each(&new, true).await.map_err(|error| error.to_string())?;
        let set = set_slots(&spread);
        let stretch = |state: &dyn Read| cache::slots::stretch(state, first, last, 1);
        if self.read(ShardId::META, stretch)? != (last, 0) {
            return Err("there are keys".to_owned());
        }
        let nothing =
            self.read(ShardId::META, |state| cache::slots::rows_of(state, first, last))?;
        let digest = cache::slots::digest(&nothing);
        let rows = self.read(ShardId::META, |state| cache::slots::shared_rows(state))?;
        let mut guard = Minitransaction::of(cache::Op::TakeSlots { first, last, digest });
        for shard in &new {
            guard.ops.extend(self.begins_here(*shard));
        }
        let guard = guard
            .op(set.clone())
            .check(cache::Check::SlotMapIs { version: map.version })
            .check(cache::Check::SharedIs { digest: cache::slots::digest(&rows) });
        // Nobody asks the new ones before the first says that there are more.
        let given = Minitransaction::of(cache::Op::GiveShared { rows }).op(set);
        let giving = new
            .iter()
            .map(|shard| self.commits.propose(*shard, Durability::Flushed, vec![given.clone()]));
        for given in join_all(giving).await {
            happened(&given.map_err(|error| error.to_string())?)?;
        }
        let guarded = self.commits.propose(ShardId::META, Durability::Flushed, vec![guard]).await;
        happened(&guarded.map_err(|error| error.to_string())?)?;
        self.wait_for_newer(&map).await
    }

    /// Adds a shard without slots. It begins on this node; the others follow.
    pub(crate) async fn add_shard(&self) -> Result<ShardId, String> {
        let _one = self.changing.lock().await;
        let map = self.shards.map();
        if map.shards().len() >= SHARDS_MAX {
            return Err(format!("there are {SHARDS_MAX} shards, and may be no more"));
        }
        let last = map.shards().last().map_or(0, |last| last.0);
        let shard = ShardId(last + 1);
        self.opener.open(shard, true).await.map_err(|error| error.to_string())?;
        let with_shard = map.with_shard(shard);
        let set = set_slots(&with_shard);
        self.commit(&map, || {
            async {
                // What every shard has; if it changes meanwhile it is read again.
                let rows = self.read(ShardId::META, |state| cache::slots::shared_rows(state))?;
                let mut guard = Minitransaction::of(set.clone())
                    .check(cache::Check::SlotMapIs { version: map.version })
                    .check(cache::Check::SharedIs { digest: cache::slots::digest(&rows) });
                guard.ops.extend(self.begins_here(shard));
                let given = Minitransaction::of(cache::Op::GiveShared { rows }).op(set.clone());
                let mut parts = vec![(ShardId::META, guard), (shard, given)];
                for other in map.shards().iter().filter(|other| **other != ShardId::META) {
                    parts.push((*other, Minitransaction::of(set.clone())));
                }
                Ok(parts)
            }
            .boxed()
        })
        .await?;
        info!(%shard, "a shard was added");
        Ok(shard)
    }

    /// What says that a shard has a replica on this node and no other yet, where not every node has one of every shard.
    fn begins_here(&self, shard: ShardId) -> Option<Op> {
        let replicas = self.shards.replicas();
        if replicas.count == 0 {
            return None;
        }
        let was = replicas.nodes.get(&shard).cloned().unwrap_or_default();
        let nodes = vec![self.opener.node];
        Some(cache::Op::PlaceReplicas { shard, was, nodes }.into())
    }

    /// Commits in the first shard what all nodes are to know, and knows it then.
    pub(crate) async fn commit_first(&self, op: cache::Op) -> Result<(), String> {
        let op = vec![Minitransaction::of(op)];
        let noted = self.commits.propose(ShardId::META, Durability::Flushed, op).await;
        happened(&noted.map_err(|error| error.to_string())?)?;
        self.shards.read_map().map_err(|error| error.to_string())
    }

    /// Says how many replicas each shard but the first shall have; 0: one on every node.
    pub(crate) async fn choose_count(&self, count: u32) -> Result<(), String> {
        self.commit_first(cache::Op::SetReplicaCount { count }).await
    }

    /// Moves slots to a shard, a few at a time, for `time` at most; says how many are left. Safe to
    /// repeat, and to be interrupted: what has moved has moved.
    pub(crate) async fn move_slots(
        &self,
        (first, last): (u16, u16),
        to: ShardId,
        time: Duration,
    ) -> Result<u16, String> {
        if first > last || last >= SLOT_COUNT {
            let end = SLOT_COUNT - 1;
            return Err(format!("there are slots 0 to {end}, and {first} to {last} are none"));
        }
        let _one = self.changing.lock().await;
        let began = self.opener.clock.elapsed();
        loop {
            let map = self.shards.map();
            if !map.shards().contains(&to) {
                return Err(format!("there is no shard {to}; add it first"));
            }
            let elsewhere: Vec<SlotRange> = map
                .ranges()
                .filter(|range| range.shard != to && range.last >= first && range.first <= last)
                .collect();
            let count = |range: &SlotRange| range.last.min(last) - range.first.max(first) + 1;
            let left = elsewhere.iter().map(count).sum();
            let is_time_over = self.opener.clock.elapsed().saturating_sub(began) >= time;
            match elsewhere.first() {
                Some(range) if !is_time_over => {
                    let slots = (range.first.max(first), range.last.min(last));
                    self.move_some(&map, range.shard, slots, to).await?;
                }
                _ => return Ok(left),
            }
        }
    }

    /// Moves as many slots as fit one commit, and as stay unchanged meanwhile.
    async fn move_some(
        &self,
        map: &Arc<SlotMap>,
        from: ShardId,
        (first, until): (u16, u16),
        to: ShardId,
    ) -> Result<(), String> {
        let bytes_max = self.move_bytes.load(Ordering::Relaxed);
        let question = cache::Question::Stretch { first, last: until, bytes_max };
        let cache::Answer::Stretch { last, bytes } = self.ask(from, question).await? else {
            return Err("an answer to another question".to_owned());
        };
        if bytes > SLOT_BYTES_MAX {
            return Err(format!(
                "slot {first} holds {} MiB, and at most {} MiB can move at once",
                bytes >> 20,
                SLOT_BYTES_MAX >> 20
            ));
        }
        let moved = map.moved(first, last, to).ok_or("no such slots")?;
        let set = set_slots(&moved);
        let result = self
            .commit(map, || {
                async {
                    // Read here, which may lack what was committed lately; then it is read again.
                    let question = cache::Question::SlotRows { first, last };
                    let cache::Answer::SlotRows(rows) = self.ask(from, question).await? else {
                        return Err("an answer to another question".to_owned());
                    };
                    let digest = cache::slots::digest(&rows);
                    let part = |shard: &ShardId| {
                        let mut part = Minitransaction::of(set.clone());
                        if *shard == from {
                            part = part.op(cache::Op::TakeSlots { first, last, digest });
                        }
                        if *shard == to {
                            part =
                                part.op(cache::Op::GiveSlots { first, last, rows: rows.clone() });
                        }
                        if *shard == ShardId::META {
                            part = part.check(cache::Check::SlotMapIs { version: map.version });
                        }
                        (*shard, part)
                    };
                    Ok(map.shards().iter().map(part).collect())
                }
                .boxed()
            })
            .await;
        match result {
            Ok(()) => {
                self.move_bytes.store((bytes_max * 2).min(MOVE_BYTES), Ordering::Relaxed);
                // The bound on states that are sent holds for keys that move, too.
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                if let Some(meta) = self.shards.shard(ShardId::META) {
                    meta.group().snapshot_pace().pass(bytes).await;
                }
                Ok(())
            }
            // Fewer keys are written to less often while they move.
            Err(_) if last > first => {
                self.move_bytes.store((bytes / 4).max(1), Ordering::Relaxed);
                Ok(())
            }
            Err(reason) => Err(reason),
        }
    }

    fn read<T>(
        &self,
        shard: ShardId,
        reader: impl Fn(&dyn Read) -> Result<T, StoreError>,
    ) -> Result<T, String> {
        let missing = || format!("shard {} is not on this node", shard.0);
        let mut found = None;
        let shard = self.shards.shard(shard).ok_or_else(missing)?;
        let read = shard.read(&mut |view| found = Some(reader(view.state)));
        read.map_err(|error| error.to_string())?;
        let found = found.ok_or("the shard was not read")?;
        found.map_err(|error| error.to_string())
    }

    /// Reads a shard's keys here, or asks a node that has them.
    async fn ask(
        &self,
        shard: ShardId,
        question: cache::Question,
    ) -> Result<cache::Answer, String> {
        let Some(away) = self.shards.shard(shard).is_none().then(|| self.shards.away(shard)) else {
            return self.read(shard, |state| question.answer_of_slots(state));
        };
        let away = away.ok_or_else(|| format!("shard {} is not known here", shard.0))?;
        let answer = away.ask(&question.encode()).await.map_err(|error| error.to_string())?;
        cache::Answer::decode(&answer).ok_or_else(|| "an unknown answer".to_owned())
    }

    /// Commits a change of the map, or finds that it has happened.
    async fn commit<'a>(
        &self,
        before: &SlotMap,
        parts: impl Fn() -> BoxFuture<'a, Result<Vec<(ShardId, Minitransaction)>, String>>,
    ) -> Result<(), String> {
        let mut reason = String::new();
        for _ in 0..TRIES_MAX {
            match self.commits.propose_over(parts().await?).await {
                Ok(Spread::Committed { .. }) => return self.wait_for_newer(before).await,
                Ok(Spread::Refused { outcome, .. }) => {
                    reason = format!("the keys are written to, or moved by others: {outcome:?}");
                }
                Ok(Spread::Incomplete { .. }) => reason = "more follows from the move".to_owned(),
                Err(KernelError::TooLarge { bytes, bytes_max }) => {
                    return Err(format!("{bytes} bytes move at once, and {bytes_max} may"));
                }
                Err(error) => reason = error.to_string(),
            }
            if self.shards.map().version > before.version {
                return Ok(());
            }
            task::sleep(RETRY).await;
        }
        Err(reason)
    }

    /// The map changes as soon as this node has applied the commit.
    async fn wait_for_newer(&self, before: &SlotMap) -> Result<(), String> {
        for _ in 0..PATIENCE_ROUNDS {
            if self.shards.map().version > before.version {
                return Ok(());
            }
            task::sleep(RETRY).await;
        }
        Err("this node does not hear of what it has moved; ask again".to_owned())
    }
}

fn happened(outcomes: &[Outcome]) -> Result<(), String> {
    match outcomes {
        [Outcome::Committed { .. }] => Ok(()),
        other => Err(format!("it could not be written down: {other:?}")),
    }
}

fn set_slots(map: &SlotMap) -> cache::Op {
    cache::Op::SetSlots { map: map.clone() }
}

impl Cluster {
    /// Hands leadership of one shard to a node, through whichever leads it, and has it led there for a while,
    /// whenever that node can.
    pub(crate) async fn lead_shard(
        &self,
        shard: ShardId,
        node: NodeId,
        keep_ms: u64,
    ) -> Result<(), String> {
        let leader =
            self.shards.leader_of(shard).ok_or("the shard has no leader now; try again")?;
        if leader == self.node || leader == node {
            self.note_chosen(shard, node, keep_ms).await?;
        }
        if leader == node {
            return Ok(());
        }
        if let Some(here) = self.shards.shard(shard).filter(|_| leader == self.node) {
            return here.group().hand_over(node).await.map_err(|error| error.to_string());
        }
        let member = self.shard.group().member(leader).ok_or("the leader is not known here")?;
        let request = AdminRequest::LeadShard { shard, node, keep_ms };
        ask_through(&self.dialer, &member.peer_address, &request).await.map(drop)?;
        Ok(())
    }

    /// Writes a choice down where all nodes find it, or takes an earlier one back.
    async fn note_chosen(&self, shard: ShardId, node: NodeId, keep_ms: u64) -> Result<(), String> {
        if shard == ShardId::META || (keep_ms == 0 && !self.shards.choices().contains_key(&shard)) {
            return Ok(());
        }
        let op = Minitransaction::of(cache::Op::ChooseLeader { shard, node, keep_ms });
        let commits = &self.placement.commits;
        let noted = commits.propose(ShardId::META, Durability::Flushed, vec![op]).await;
        match noted.map_err(|error| error.to_string())?.as_slice() {
            [Outcome::Committed { .. }] => Ok(()),
            other => Err(format!("the choice could not be written down: {other:?}")),
        }
    }

    /// Takes leadership of shards beside the first from a node, and gives it to those that lead fewest.
    pub(crate) async fn lead_shards_elsewhere(&self, node: NodeId) -> Result<(), String> {
        let all = self.shard_standings();
        let mut led: BTreeMap<NodeId, usize> = BTreeMap::new();
        for leader in all.iter().filter_map(|standing| standing.leader) {
            *led.entry(leader).or_default() += 1;
        }
        let members = self.shard.group().membership().members;
        for standing in all {
            let id = standing.shard;
            if id == ShardId::META || self.shards.leader_of(id) != Some(node) {
                continue;
            }
            let may_lead = |voter: &NodeId| {
                *voter != node && members.get(voter).is_some_and(|member| !member.follows_only)
            };
            if !standing.placed.is_empty() && !standing.voters.iter().any(may_lead) {
                // Another is to have a replica first.
                continue;
            }
            let heir = standing
                .voters
                .into_iter()
                .filter(may_lead)
                .min_by_key(|voter| led.get(voter).copied().unwrap_or(0));
            let heir = heir.ok_or_else(|| format!("{node} is the only voter of shard {id}"))?;
            self.lead_shard(id, heir, 0).await?;
            *led.entry(heir).or_default() += 1;
        }
        Ok(())
    }
}
