//! Members and voters of the shards beside the first: what they are to be, and the steps to that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proteus_env::task;
use proteus_kernel::{Shard, Shards};
use proteus_kernel_api::Minitransaction;
use proteus_shard_machine::Composed;
use proteus_types::{Member, NodeId, ShardId};
use tokio::sync::watch;
use tracing::warn;

use crate::cluster::{BEHIND_MAX, SILENCE_MAX, behind, next_round};
use crate::replicas;
use crate::shards::NodeShards;

/// How long a change of one shard's members keeps those of the others waiting.
const CHANGE_PATIENCE: Duration = Duration::from_secs(10);

/// Looks after the shards that a node leads.
#[derive(Clone)]
pub(crate) struct Upkeep {
    pub(crate) node: NodeId,
    /// The first shard: its members are the cluster's.
    pub(crate) meta: Arc<Shard<Composed>>,
    pub(crate) shards: Arc<NodeShards>,
}

impl Upkeep {
    /// Looks after the shards beside the first that this node leads, until `stop` holds true: they have
    /// the members and voters of the first.
    pub(crate) async fn keep_up(self, mut stop: watch::Receiver<bool>) {
        while next_round(&mut stop).await {
            for (id, shard) in self.shards.all() {
                if id == ShardId::META || !shard.leads() {
                    continue;
                }
                let changing = self.keep_up_shard(id, &shard);
                // Who is removed meanwhile never hears what became of a change, and has other shards to look after.
                let changed = task::timeout(CHANGE_PATIENCE, changing).await;
                let late = || Err("it takes long".to_owned());
                if let Err(reason) = changed.unwrap_or_else(late) {
                    warn!(shard = %id, reason, "the shard's members could not be changed; it is tried again");
                }
            }
        }
    }

    async fn keep_up_shard(&self, id: ShardId, shard: &Shard<Composed>) -> Result<(), String> {
        let mut wanted = self.meta.group().membership();
        let is_changing = wanted.is_changing;
        let group = shard.group();
        let status = shard.group_status();
        let known = &status.membership;
        let replicas = self.shards.replicas();
        if let Some(chosen) = replicas.nodes.get(&id) {
            let chosen: BTreeSet<NodeId> =
                chosen.iter().filter(|node| wanted.members.contains_key(node)).copied().collect();
            if chosen.is_empty() {
                return Ok(());
            }
            // Those that have one and are to go stay until others vote in their place.
            let leaving = known.voters.iter().filter(|node| wanted.members.contains_key(node));
            let stay: BTreeSet<NodeId> = chosen.iter().chain(leaving).copied().collect();
            wanted.members.retain(|node, _| stay.contains(node));
            wanted.voters =
                replicas::wanted_voters(&chosen, &known.voters, replicas.count as usize);
        }
        let failed = |error: proteus_kernel::ChangeError| error.to_string();
        let other = |(node, member): &(&NodeId, &Member)| known.members.get(*node) != Some(*member);
        let new = wanted.members.iter().filter(other);
        let new: BTreeMap<NodeId, Member> =
            new.map(|(node, member)| (*node, member.clone())).collect();
        if !new.is_empty() {
            return group.set_members(new).await.map_err(failed);
        }
        if is_changing && !replicas.nodes.contains_key(&id) {
            return Ok(());
        }
        // It has been replaced as a voter.
        let is_left = |node: &NodeId| {
            !known.voters.contains(node)
                && replicas.nodes.get(&id).is_some_and(|chosen| !chosen.contains(node))
        };
        let is_ready = |node: &NodeId| {
            *node == self.node
                || known.voters.contains(node)
                || (behind(&status, *node).is_some_and(|behind| behind <= BEHIND_MAX)
                    && status.silent_for.get(node).is_some_and(|silence| *silence < SILENCE_MAX))
        };
        if (known.is_changing || wanted.voters != known.voters)
            && wanted.voters.iter().all(is_ready)
        {
            if !wanted.voters.contains(&self.node)
                && let Some(heir) = wanted.voters.iter().find(|node| known.voters.contains(node))
            {
                return group.hand_over(*heir).await.map_err(failed);
            }
            return group.set_voters(&wanted.voters).await.map_err(failed);
        }
        let gone: BTreeSet<NodeId> = known
            .members
            .keys()
            .filter(|node| !wanted.members.contains_key(node) || is_left(node))
            .copied()
            .collect();
        if !gone.is_empty() && gone.is_disjoint(&known.voters) {
            return group.remove_members(&gone).await.map_err(failed);
        }
        Ok(())
    }

    /// Whether a node is a member of a shard that this node leads, by what is committed there.
    pub(crate) async fn is_member(&self, shard: ShardId, node: NodeId) -> Result<bool, String> {
        let open = self.shards.shard(shard).ok_or("that shard is not on this node")?;
        let says = |open: &Shard<Composed>| {
            let membership = open.group().membership();
            membership.is_changing || membership.members.contains_key(&node)
        };
        if !open.leads() {
            return Err("this node does not lead the shard".to_owned());
        }
        if says(&open) {
            return Ok(true);
        }
        // What was said before this is committed, is too.
        let nothing = [Minitransaction::default()];
        open.propose(&nothing).await.map_err(|error| error.to_string())?;
        Ok(!open.leads() || says(&open) || self.shards.replicas().are_on(shard, node))
    }
}
