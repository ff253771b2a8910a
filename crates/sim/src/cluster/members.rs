//! Nodes that join and leave, come to vote and cease to, as a node's upkeep and an operator have it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proteus_env::task;
use proteus_kernel::Shard;
use proteus_types::{Member, NodeId};

use super::{PATIENCE, World};
use crate::replica::Machine;

/// Nodes there are at most.
const NODES_MAX: usize = 6;

/// How long a change may take before whoever asked for it goes on without an answer.
const CHANGE_PATIENCE: Duration = Duration::from_secs(3);

fn member_of(id: NodeId) -> BTreeMap<NodeId, Member> {
    BTreeMap::from([(id, Member { incarnation: id.0, ..Member::default() })])
}

impl<M: Machine> World<M> {
    /// Asks for one change of members or voters, whatever goes on. It may come to nothing, or be done
    /// without anybody being told.
    pub(super) async fn change_members(&mut self) -> Result<(), String> {
        let kind = self.random.below(6);
        if kind <= 1 && self.nodes.len() < NODES_MAX {
            self.add_node(NodeId(self.newest.0 + 1)).await?;
        }
        let Some((leader, shard)) = self.leader() else { return Ok(()) };
        let group = shard.group();
        let membership = group.membership();
        let members: Vec<NodeId> = membership.members.keys().copied().collect();
        let node = self.random.pick(&members);
        self.summary.changes_asked += 1;
        let change = async {
            match kind {
                0..=1 => {
                    let missing = self.nodes.keys().find(|id| {
                        !membership.members.contains_key(id) && !self.leaving.contains(id)
                    });
                    match missing {
                        Some(id) => group.set_members(member_of(*id)).await,
                        None => Ok(()),
                    }
                }
                2 => group.remove_members(&BTreeSet::from([node])).await,
                3 if node == leader => match membership.voters.iter().find(|id| **id != leader) {
                    Some(heir) => group.hand_over(*heir).await,
                    None => Ok(()),
                },
                _ => {
                    let mut voters = membership.voters.clone();
                    if kind == 3 {
                        voters.remove(&node);
                    } else {
                        voters.insert(node);
                    }
                    if kind == 5 {
                        // One for another.
                        let old = voters.iter().find(|id| **id != node).copied();
                        old.map(|old| voters.remove(&old));
                    }
                    group.set_voters(&voters).await
                }
            }
        };
        let changed = task::timeout(CHANGE_PATIENCE, change).await;
        if changed.is_some_and(|changed| changed.is_ok()) {
            self.summary.changes_done += 1;
        }
        if kind == 2 && !membership.voters.contains(&node) {
            // Whether it is gone already is not known here.
            self.leaving.insert(node);
        }
        Ok(())
    }

    /// What was begun is brought to its end, whoever leads: every node that runs is a member, those that
    /// were to leave are gone.
    pub(super) async fn settle_members(&mut self) -> Result<(), String> {
        let settled = task::timeout(PATIENCE, async {
            loop {
                let Some((leader, shard)) = self.leader() else {
                    task::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                match self.next_to_settle(leader, &shard).await {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(_) => task::sleep(Duration::from_millis(300)).await,
                }
            }
        })
        .await;
        settled
            .ok_or_else(|| format!("the members are never as they are to be{}", self.describe()))?;
        for id in std::mem::take(&mut self.leaving) {
            self.stop(id).await?;
            self.nodes.remove(&id);
        }
        Ok(())
    }

    /// Does one thing; true if there is nothing left to do.
    async fn next_to_settle(&self, leader: NodeId, shard: &Shard<M>) -> Result<bool, String> {
        let group = shard.group();
        let membership = group.membership();
        let is_gone = |id: &NodeId| self.leaving.contains(id);
        let mut staying = membership.voters.clone();
        staying.retain(|id| !is_gone(id));
        if membership.is_changing || staying != membership.voters {
            if staying.is_empty() {
                staying = self.nodes.keys().filter(|id| !is_gone(id)).copied().collect();
            }
            if let (true, Some(heir)) = (is_gone(&leader), staying.first()) {
                group.hand_over(*heir).await.map_err(|error| error.to_string())?;
                return Ok(false);
            }
            group.set_voters(&staying).await.map_err(|error| error.to_string())?;
            return Ok(false);
        }
        let gone: BTreeSet<NodeId> =
            membership.members.keys().filter(|id| is_gone(id)).copied().collect();
        if !gone.is_empty() {
            group.remove_members(&gone).await.map_err(|error| error.to_string())?;
            return Ok(false);
        }
        let missing = |id: &&NodeId| !membership.members.contains_key(id) && !is_gone(id);
        if let Some(id) = self.nodes.keys().find(missing) {
            group.set_members(member_of(*id)).await.map_err(|error| error.to_string())?;
            return Ok(false);
        }
        Ok(true)
    }
}
