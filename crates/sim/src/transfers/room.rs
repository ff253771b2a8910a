//! The part of the world in which each shard beside the first is on some nodes only, and replicas move.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proteus_env::task;
use proteus_kernel_api::Kernel;
use proteus_machine::KernelError;
use proteus_shard_machine::{Minitransaction, Outcome, cache};
use proteus_types::{Member, NodeId, ShardId};

use super::{MOVE_PATIENCE, Reading, Running, World};
use crate::cluster::PATIENCE;
use crate::objects;

const NODES: u64 = 3;
const SHARDS: u32 = 3;

/// Nodes and shards where not every node has every shard.
const NODES_WITH_ROOM: u64 = 5;
const SHARDS_WITH_ROOM: u32 = 4;

/// Replicas of each shard beside the first, there.
const REPLICAS: usize = 3;

impl Reading {
    pub(super) fn nodes(self) -> u64 {
        if self == Reading::WithRoom { NODES_WITH_ROOM } else { NODES }
    }

    pub(super) fn shards(self) -> u32 {
        if self == Reading::WithRoom { SHARDS_WITH_ROOM } else { SHARDS }
    }

    /// Whether something is declared to follow from changes.
    pub(super) fn has_follows(self) -> bool {
        matches!(self, Reading::Whole | Reading::FollowsApart | Reading::WithRoom)
    }
}

impl World {
    /// The first shard on every node, each other on some: they are told so before they have members.
    pub(super) async fn form_with_room(
        &mut self,
        founder: &Running,
        members: BTreeMap<NodeId, Member>,
        voters: BTreeSet<NodeId>,
    ) -> Result<(), String> {
        let set = cache::Op::SetSlots { map: self.map.clone() };
        let count = cache::Op::SetReplicaCount { count: REPLICAS as u32 };
        let mut placing = Minitransaction::of(count).op(set.clone());
        for number in 1..self.reading.shards() {
            let nodes = vec![founder.node];
            let shard = ShardId(number);
            placing = placing.op(cache::Op::PlaceReplicas { shard, was: Vec::new(), nodes });
        }
        for (id, shard) in founder.shards() {
            let first = if id == ShardId::META {
                placing.clone()
            } else {
                Minitransaction::of(set.clone())
            };
            shard.propose(&[first]).await.map_err(|error| error.to_string())?;
            if id == ShardId::META {
                let failed = |error: proteus_kernel::ChangeError| format!("{id}: {error}");
                shard.group().set_members(members.clone()).await.map_err(failed)?;
                let joined = task::timeout(PATIENCE, shard.group().set_voters(&voters)).await;
                joined.ok_or("the cluster never forms")?.map_err(failed)?;
            }
        }
        let creating = founder.kernel.commit(objects::creation()).await;
        creating.map_err(|error| error.to_string())?;
        for number in 1..self.reading.shards() {
            self.place(ShardId(number)).await;
        }
        Ok(())
    }

    /// Chooses other nodes for a shard's replicas, most of which stay.
    pub(super) async fn place(&mut self, shard: ShardId) {
        let running = self.running();
        if running.is_empty() {
            return;
        }
        let through = self.random.pick(&running);
        let was = through.assembly.replicas().nodes.get(&shard).cloned().unwrap_or_default();
        let mut nodes: BTreeSet<NodeId> = was.iter().copied().collect();
        if nodes.len() >= REPLICAS {
            nodes.remove(&self.random.pick(&was));
        }
        while nodes.len() < REPLICAS {
            nodes.insert(NodeId(1 + self.random.below(self.reading.nodes())));
        }
        let nodes = nodes.into_iter().collect();
        let op = cache::Op::PlaceReplicas { shard, was, nodes };
        // Who is refused knew of an older choice.
        let placing = through.kernel.commit(Minitransaction::of(op));
        if let Some(Ok(Outcome::Committed { .. })) = task::timeout(MOVE_PATIENCE, placing).await {
            self.summary.replicas_moved += 1;
        }
    }

    /// Has nodes remove shards that are not to be there, as who leads these says; says how many are left.
    pub(super) async fn retire(&mut self) -> usize {
        let running = self.running();
        let mut left = 0;
        for node in &running {
            let replicas = node.assembly.replicas();
            for (shard, _) in node.shards() {
                if shard == ShardId::META || replicas.are_on(shard, node.node) {
                    continue;
                }
                left += 1;
                let is_out = async || {
                    for other in &running {
                        let asked = other.assembly.is_member(shard, node.node);
                        if let Some(Ok(is_member)) = task::timeout(MOVE_PATIENCE, asked).await {
                            return !is_member;
                        }
                    }
                    false
                };
                if !is_out().await {
                    continue;
                }
                // One without power has not ended, and is buried.
                if node.assembly.retire(shard, is_out()).await.is_ok() {
                    self.summary.retired += 1;
                }
            }
        }
        left
    }

    /// With all well each shard comes to be on the nodes that were chosen, and on no other.
    pub(super) async fn all_placed(&mut self) -> Result<(), String> {
        for _ in 0..600 {
            let left = self.retire().await;
            let nodes = self.running();
            let Some(first) = nodes.first() else { return Err("nobody runs".to_owned()) };
            let replicas = first.assembly.replicas();
            let is_placed = |shard: &ShardId| {
                let has_it = |node: &&Running| node.assembly.shards().shard(*shard).is_some();
                let on: Vec<NodeId> = nodes.iter().filter(has_it).map(|node| node.node).collect();
                replicas.nodes.get(shard) == Some(&on)
            };
            if left == 0 && (1..self.reading.shards()).map(ShardId).all(|shard| is_placed(&shard)) {
                return Ok(());
            }
            task::sleep(Duration::from_millis(500)).await;
        }
        let mut how = String::new();
        for node in self.running() {
            how.push_str(&format!("\n{} by {:?}:", node.node, node.assembly.replicas().nodes));
            for (id, shard) in node.shards() {
                let status = shard.group_status();
                how.push_str(&format!(
                    " {id} {:?} {:?};",
                    status.leadership, status.membership.voters
                ));
            }
        }
        Err(format!("replicas never come to be where they were chosen to be: {how}"))
    }
}

/// Numbers under keys, wherever they are, at one moment; none is zero.
pub(super) async fn numbers_of(
    kernel: &dyn Kernel,
    keys: &[String],
) -> Result<Vec<i64>, KernelError> {
    let words: Vec<&str> = ["MGET"].into_iter().chain(keys.iter().map(String::as_str)).collect();
    let call = cache::Call::new(&words);
    let unknown = || KernelError::Unavailable("another answer".to_owned());
    let answer = kernel.ask(cache::Question::Command(call)).await?;
    let cache::Answer::Reply(cache::Reply::Array(found)) = answer else { return Err(unknown()) };
    let number = |reply: &cache::Reply| match reply {
        cache::Reply::Bulk(text) => String::from_utf8_lossy(text).parse().unwrap_or(i64::MIN),
        _ => 0,
    };
    Ok(found.iter().map(number).collect())
}
