//! Placing the replicas of shards on nodes, and telling where they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use proteus_env::task;
use proteus_kernel::{Shard, Shards};
use proteus_kernel_api::cache;
use proteus_shard_machine::Composed;
use proteus_types::{Member, NodeId, ShardId};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::admin::{AdminAnswer, AdminRequest, ShardStanding, ask_through};
use crate::cluster::{Cluster, SILENCE_MAX, UpkeepOptions, next_round};
use crate::replicas::{Candidate, Place, Scene, newest, next_place};

/// How long a node may take to tell how its shards stand.
const TELL_PATIENCE: Duration = Duration::from_secs(1);

/// Replicas that each shard may have at most, if not one on every node.
pub(crate) const REPLICAS_MAX: u32 = 7;

impl Cluster {
    /// How the shards that are open here stand.
    pub(crate) fn own_standings(&self) -> Vec<ShardStanding> {
        let (map, choices) = (self.shards.map(), self.shards.choices());
        let replicas = self.shards.replicas();
        let standing = |(id, shard): (ShardId, Arc<Shard<Composed>>)| {
            let (leadership, membership) = (shard.group().leadership(), shard.group().membership());
            let chosen = choices.get(&id);
            ShardStanding {
                shard: id,
                leader: leadership.leader,
                chosen: chosen.map(|(node, _)| *node),
                kept_ms: chosen.map(|(_, left_ms)| *left_ms),
                term: leadership.term.0,
                applied_index: shard.status().applied_index.0,
                voters: membership.voters.into_iter().collect(),
                members: membership.members.into_keys().collect(),
                placed: replicas.nodes.get(&id).cloned().unwrap_or_default(),
                is_changing: membership.is_changing,
                slots: map.slots_of(id),
            }
        };
        self.shards.all().into_iter().map(standing).collect()
    }

    /// How all shards stand, as this node sees them, or others have told it.
    pub(crate) fn shard_standings(&self) -> Vec<ShardStanding> {
        let mut all: BTreeMap<ShardId, ShardStanding> = (*self.shards.told.read().clone()).clone();
        for own in self.own_standings() {
            let is_newer = all.get(&own.shard).is_none_or(|told| {
                told.term < own.term || told.term == own.term && own.leader == Some(self.node)
            });
            match all.get_mut(&own.shard) {
                Some(told) if !is_newer => told.applied_index = own.applied_index,
                _ => _ = all.insert(own.shard, own),
            }
        }
        let (map, replicas) = (self.shards.map(), self.shards.replicas());
        all.retain(|shard, _| map.shards().contains(shard));
        for standing in all.values_mut() {
            standing.slots = map.slots_of(standing.shard);
            standing.placed = replicas.nodes.get(&standing.shard).cloned().unwrap_or_default();
        }
        all.into_values().collect()
    }

    /// Has other nodes tell how their shards stand, until `stop` holds true: while some are not here, or replicas are
    /// placed.
    pub(crate) async fn keep_told(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        while next_round(&mut stop).await {
            if self.shards.has_all() && self.shards.replicas().are_everywhere() {
                // It is not renewed from here on, and this node knows by itself.
                if !self.shards.told.read().is_empty() {
                    *self.shards.told.write() = Arc::default();
                }
                continue;
            }
            self.hear().await;
            self.opener.look_for_others();
        }
    }

    /// Asks all nodes how their shards stand.
    async fn hear(&self) {
        let members = self.shard.group().membership().members;
        let others = members.iter().filter(|(node, _)| **node != self.node);
        let asking = others.map(|(node, member)| async move {
            let asked = ask_through(&self.dialer, &member.peer_address, &AdminRequest::Standings);
            match task::timeout(TELL_PATIENCE, asked).await {
                Some(Ok(AdminAnswer::Standings(standings))) => Some((*node, standings)),
                _ => None,
            }
        });
        let answers = join_all(asking).await;
        let told: Vec<(NodeId, ShardStanding)> = answers
            .into_iter()
            .flatten()
            .chain([(self.node, self.own_standings())])
            .flat_map(|(node, standings)| standings.into_iter().map(move |told| (node, told)))
            .collect();
        let newest = newest(told);
        // What nobody tells of now is as it was.
        let mut all = (*self.shards.told.read().clone()).clone();
        for (shard, standing) in newest {
            if all.get(&shard).is_none_or(|known| known.term <= standing.term) {
                all.insert(shard, standing);
            }
        }
        *self.shards.told.write() = Arc::new(all);
    }

    /// What is to be placed next, as this node sees things; it leads the cluster.
    pub(crate) fn next_place(&self, options: UpkeepOptions) -> Option<Place> {
        let status = self.shard.group_status();
        let candidate = |(node, member): (&NodeId, &Member)| {
            let silence = status.silent_for.get(node).copied();
            let is_own = *node == self.node;
            let candidate = Candidate {
                takes_more: is_own || silence.is_some_and(|silence| silence < SILENCE_MAX),
                is_dead: !is_own && silence.is_some_and(|silence| silence > options.dead_after),
                is_to_leave: member.follows_only,
            };
            (*node, candidate)
        };
        let nodes = status.membership.members.iter().map(candidate).collect();
        let (map, replicas) = (self.shards.map(), self.shards.replicas());
        let shards: Vec<ShardId> =
            map.shards().iter().filter(|shard| **shard != ShardId::META).copied().collect();
        let standings: BTreeMap<ShardId, ShardStanding> =
            self.shard_standings().into_iter().map(|told| (told.shard, told)).collect();
        next_place(&Scene {
            shards: &shards,
            replicas: &replicas,
            nodes: &nodes,
            standings: &standings,
        })
    }

    /// Chooses nodes for the shards' replicas while this node leads the cluster, until `stop` holds true.
    pub(crate) async fn keep_placing(
        self: Arc<Self>,
        options: UpkeepOptions,
        mut stop: watch::Receiver<bool>,
    ) {
        while next_round(&mut stop).await {
            if !self.shard.leads() || self.shards.replicas().are_everywhere() {
                continue;
            }
            if let Some(place) = self.next_place(options)
                && let Err(reason) = self.write_down(&place).await
            {
                warn!(reason, "replicas could not be placed; it is tried again");
            }
        }
    }

    async fn write_down(&self, place: &Place) -> Result<(), String> {
        let Place { shard, was, nodes } = place.clone();
        info!(%shard, from = ?was, to = ?nodes, "the shard's replicas are placed");
        self.placement.commit_first(cache::Op::PlaceReplicas { shard, was, nodes }).await
    }

    /// Says how many replicas each shard but the first shall have.
    pub(crate) async fn set_replicas(&self, count: u32) -> Result<(), String> {
        if count > REPLICAS_MAX {
            return Err(format!("a shard may have {REPLICAS_MAX} replicas, or one on every node"));
        }
        self.placement.choose_count(count).await
    }

    /// Chooses another node for one replica of a shard.
    pub(crate) async fn move_replica(
        &self,
        shard: ShardId,
        from: NodeId,
        to: NodeId,
    ) -> Result<(), String> {
        let replicas = self.shards.replicas();
        let was = match replicas.nodes.get(&shard) {
            Some(was) => was.clone(),
            None => return Err("every node has a replica of that shard".to_owned()),
        };
        if was.contains(&to) && !was.contains(&from) {
            return Ok(());
        }
        if !was.contains(&from) {
            return Err(format!("{from} has no replica of shard {shard}"));
        }
        if was.contains(&to) {
            return Err(format!("{to} has a replica of shard {shard} already"));
        }
        let members = self.shard.group().membership().members;
        if members.get(&to).is_none_or(|member| member.follows_only) {
            return Err(format!("{to} is no node that takes replicas"));
        }
        let mut nodes: Vec<NodeId> = was.iter().filter(|node| **node != from).copied().collect();
        nodes.push(to);
        nodes.sort_unstable();
        self.write_down(&Place { shard, was, nodes }).await
    }

    /// How many replicas a node has or is to have, of shards of which not every node has one.
    pub(crate) fn replicas_on(&self, node: NodeId) -> usize {
        let replicas = self.shards.replicas();
        let standings = self.shard_standings();
        let is_on = |shard: &&ShardId| {
            replicas.nodes.get(shard).is_some_and(|nodes| nodes.contains(&node))
                || standings
                    .iter()
                    .any(|told| told.shard == **shard && told.members.contains(&node))
        };
        replicas.nodes.keys().filter(is_on).count()
    }

    /// Whether whoever leads a shard says that this node has no replica of it.
    async fn is_out(&self, shard: ShardId) -> bool {
        let leader = self.shards.leader_of(shard);
        let told = self.shards.told.read().get(&shard).and_then(|told| told.leader);
        let members = self.shard.group().membership().members;
        for leader in BTreeSet::from([leader, told]).into_iter().flatten() {
            let Some(member) = members.get(&leader).filter(|_| leader != self.node) else {
                continue;
            };
            let request = AdminRequest::IsMember { shard, node: self.node };
            if let Ok(AdminAnswer::Answer(is_member)) =
                ask_through(&self.dialer, &member.peer_address, &request).await
            {
                return !is_member;
            }
        }
        false
    }

    /// Removes what this node has of shards of which it shall have no replica any more, until `stop` holds true.
    pub(crate) async fn keep_retiring(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        while next_round(&mut stop).await {
            let replicas = self.shards.replicas();
            for (id, open) in self.shards.all() {
                if id == ShardId::META || replicas.are_on(id, self.node) {
                    continue;
                }
                let told = self.shards.told.read().clone();
                let is_told = told.get(&id).is_some_and(|told| !told.members.contains(&self.node));
                if !is_told || !self.is_out(id).await {
                    continue;
                }
                if let Err(reason) = self.opener.retire(id, &open, self.is_out(id)).await {
                    warn!(shard = %id, reason, "it is tried again");
                }
            }
        }
    }
}
