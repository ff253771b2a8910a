//! Which nodes have replicas of which shards: what the first shard says they shall, what other nodes say they do, and
//! the steps from the one to the other.
//!
//! Whoever leads the cluster chooses ([`next_place`]), one shard at a time, and writes it into the first shard. Whoever
//! leads a shard makes its members and voters be the chosen ones: new ones follow until they have caught up, then
//! they vote in place of those that are to go, then those go. A node that is no member any more, by the word of who
//! leads, removes what it has of the shard.

use std::collections::{BTreeMap, BTreeSet};

use proteus_kernel_api::cache::Replicas;
use proteus_types::{NodeId, ShardId};

use crate::admin::ShardStanding;

/// Shards whose replicas are placed anew at the same time.
const MOVING_MAX: usize = 2;

/// What is known of a node that may have replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// It answers, and may be given more.
    pub(crate) takes_more: bool,
    /// It has been silent for so long that another takes its place, if there is one.
    pub(crate) is_dead: bool,
    /// It is to be emptied.
    pub(crate) is_to_leave: bool,
}

/// What is to be placed: shards, how many replicas each shall have, nodes, and how things stand.
pub(crate) struct Scene<'a> {
    pub(crate) shards: &'a [ShardId],
    pub(crate) replicas: &'a Replicas,
    pub(crate) nodes: &'a BTreeMap<NodeId, Candidate>,
    pub(crate) standings: &'a BTreeMap<ShardId, ShardStanding>,
}

/// A choice to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) shard: ShardId,
    pub(crate) was: Vec<NodeId>,
    pub(crate) nodes: Vec<NodeId>,
}

/// Whether a shard's voters and members are those that were chosen.
pub(crate) fn is_settled(standing: &ShardStanding, chosen: &[NodeId], count: u32) -> bool {
    let voters: BTreeSet<NodeId> = standing.voters.iter().copied().collect();
    let of_chosen = chosen.iter().copied().collect();
    !standing.is_changing
        && standing.leader.is_some()
        && standing.members == chosen
        && wanted_voters(&of_chosen, &voters, count as usize) == voters
}

impl Scene<'_> {
    fn chosen(&self, shard: ShardId) -> Vec<NodeId> {
        self.replicas.nodes.get(&shard).cloned().unwrap_or_default()
    }

    fn is_settled(&self, shard: ShardId) -> bool {
        let chosen = self.chosen(shard);
        self.standings
            .get(&shard)
            .is_some_and(|standing| is_settled(standing, &chosen, self.replicas.count))
    }

    /// How many shards each node has or is to have.
    fn loads(&self) -> BTreeMap<NodeId, usize> {
        let mut loads: BTreeMap<NodeId, usize> = self.nodes.keys().map(|node| (*node, 0)).collect();
        for shard in self.shards {
            for node in self.replicas.nodes.get(shard).into_iter().flatten() {
                *loads.entry(*node).or_default() += 1;
            }
        }
        loads
    }

    /// Where replicas that a shard has are not, and may be, the emptiest node first.
    fn free(&self, has: &[NodeId], loads: &BTreeMap<NodeId, usize>) -> Vec<NodeId> {
        let may = |(node, candidate): &(&NodeId, &Candidate)| {
            let Candidate { takes_more, is_dead, is_to_leave } = candidate;
            *takes_more && !is_dead && !is_to_leave && !has.contains(node)
        };
        let mut free: Vec<NodeId> = self.nodes.iter().filter(may).map(|(node, _)| *node).collect();
        free.sort_by_key(|node| (loads.get(node).copied().unwrap_or(0), *node));
        free
    }
}

/// What is to be written down next: what is missing or lost first, then what makes nodes have as many as others.
pub(crate) fn next_place(scene: &Scene<'_>) -> Option<Place> {
    let Replicas { count, nodes: chosen } = scene.replicas;
    if *count == 0 {
        // Everywhere again.
        let (shard, was) = chosen.first_key_value()?;
        return Some(Place { shard: *shard, was: was.clone(), nodes: Vec::new() });
    }
    // Those who were never placed are where their members are.
    for shard in scene.shards {
        if !chosen.contains_key(shard)
            && let Some(standing) = scene.standings.get(shard)
            && !standing.members.is_empty()
        {
            let nodes = standing.members.clone();
            return Some(Place { shard: *shard, was: Vec::new(), nodes });
        }
    }
    let moving = scene.shards.iter().filter(|shard| !scene.is_settled(**shard)).count();
    let loads = scene.loads();
    let stays = |node: &NodeId| scene.nodes.get(node).is_some_and(|node| !node.is_to_leave);
    for shard in scene.shards {
        let was = scene.chosen(*shard);
        // One that was chosen and lost before it came is replaced at once, others in their turn.
        if moving >= MOVING_MAX && scene.is_settled(*shard) {
            continue;
        }
        if let Some(nodes) = mended(scene, &was, &stays, &loads) {
            return Some(Place { shard: *shard, was, nodes });
        }
    }
    if moving > 0 {
        return None;
    }
    balanced(scene, &loads)
}

/// A shard's nodes with as many as there shall be, all of which stay; `None` if they are that.
fn mended(
    scene: &Scene<'_>,
    was: &[NodeId],
    stays: &dyn Fn(&NodeId) -> bool,
    loads: &BTreeMap<NodeId, usize>,
) -> Option<Vec<NodeId>> {
    let count = scene.replicas.count as usize;
    let mut nodes: Vec<NodeId> = was.iter().filter(|node| stays(node)).copied().collect();
    let mut leaving: Vec<NodeId> = was.iter().filter(|node| !stays(node)).copied().collect();
    // The fullest go first.
    nodes.sort_by_key(|node| (loads.get(node).copied().unwrap_or(0), *node));
    nodes.truncate(count);
    let mut free = scene.free(was, loads);
    let missing = count.saturating_sub(nodes.len()).min(free.len());
    nodes.extend(free.drain(..missing));
    let is_dead = |node: &NodeId| scene.nodes.get(node).is_some_and(|node| node.is_dead);
    for place in nodes.iter_mut().filter(|node| is_dead(node)) {
        let Some(heir) = free.pop() else { break };
        *place = heir;
    }
    // One that is to be emptied keeps what nobody else can take; one that is no member cannot.
    leaving.retain(|node| scene.nodes.contains_key(node));
    if nodes.is_empty() {
        nodes = leaving;
    }
    nodes.sort_unstable();
    (!nodes.is_empty() && nodes != was).then_some(nodes)
}

/// One replica moved from the fullest node to the emptiest, if that has two less.
fn balanced(scene: &Scene<'_>, loads: &BTreeMap<NodeId, usize>) -> Option<Place> {
    let load = |node: &NodeId| loads.get(node).copied().unwrap_or(0);
    let mut best: Option<(usize, Place)> = None;
    for shard in scene.shards {
        let was = scene.chosen(*shard);
        let Some(from) = was.iter().max_by_key(|node| (load(node), **node)).copied() else {
            continue;
        };
        let Some(to) = scene.free(&was, loads).first().copied() else { continue };
        let gain = load(&from).saturating_sub(load(&to));
        if gain < 2 || best.as_ref().is_some_and(|(best, _)| *best >= gain) {
            continue;
        }
        let mut nodes: Vec<NodeId> = was.iter().filter(|node| **node != from).copied().collect();
        nodes.push(to);
        nodes.sort_unstable();
        best = Some((gain, Place { shard: *shard, was, nodes }));
    }
    best.map(|(_, place)| place)
}

/// Who shall vote in a shard: all that were chosen, once they are ready; of an even number that is not what was asked for
/// one less, as two voters are worse than one. Who votes already goes on.
pub(crate) fn wanted_voters(
    chosen: &BTreeSet<NodeId>,
    voters: &BTreeSet<NodeId>,
    count: usize,
) -> BTreeSet<NodeId> {
    if !chosen.len().is_multiple_of(2) || chosen.len() == count || chosen.is_subset(voters) {
        return chosen.clone();
    }
    let others = chosen.iter().rev().find(|node| !voters.contains(node)).copied();
    let without = others.or_else(|| chosen.last().copied());
    chosen.iter().filter(|node| Some(**node) != without).copied().collect()
}

/// A shard's standings as several nodes tell them: that of its leader, or else of the newest term.
pub(crate) fn newest(told: Vec<(NodeId, ShardStanding)>) -> BTreeMap<ShardId, ShardStanding> {
    let mut newest: BTreeMap<ShardId, (NodeId, ShardStanding)> = BTreeMap::new();
    let rank = |teller: NodeId, standing: &ShardStanding| {
        (standing.term, standing.leader == Some(teller), standing.leader.is_some())
    };
    for (teller, standing) in told {
        match newest.get(&standing.shard) {
            Some((other, known)) if rank(*other, known) >= rank(teller, &standing) => {}
            _ => _ = newest.insert(standing.shard, (teller, standing)),
        }
    }
    newest.into_iter().map(|(shard, (_, standing))| (shard, standing)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Carries choices out until there are none, and says where replicas are then.
    fn settle(
        count: u32,
        shards: u32,
        nodes: &BTreeMap<NodeId, Candidate>,
        mut placed: BTreeMap<ShardId, Vec<NodeId>>,
    ) -> (BTreeMap<ShardId, Vec<NodeId>>, usize) {
        let shards: Vec<ShardId> = (1..=shards).map(ShardId).collect();
        for steps in 0.. {
            assert!(steps < 1_000, "it never ends: {placed:?}");
            let replicas = Replicas { count, nodes: placed.clone() };
            let standing = |(shard, nodes): (&ShardId, &Vec<NodeId>)| {
                let mut standing = ShardStanding::of_members(*shard, nodes.clone());
                let chosen = nodes.iter().copied().collect();
                let voters = wanted_voters(&chosen, &BTreeSet::new(), count as usize);
                standing.voters = voters.into_iter().collect();
                (*shard, standing)
            };
            let standings = placed.iter().map(standing).collect();
            let scene =
                Scene { shards: &shards, replicas: &replicas, nodes, standings: &standings };
            let Some(place) = next_place(&scene) else { return (placed, steps) };
            assert_eq!(placed.get(&place.shard).cloned().unwrap_or_default(), place.was);
            let stays = |node: &NodeId| nodes.get(node).is_some_and(|node| !node.is_to_leave);
            let keeps_some = place.was.iter().any(|node| place.nodes.contains(node));
            assert!(place.nodes.is_empty() || keeps_some || !place.was.iter().any(stays));
            if place.nodes.is_empty() {
                placed.remove(&place.shard);
            } else {
                placed.insert(place.shard, place.nodes);
            }
        }
        unreachable!()
    }

    fn candidates(numbers: &[u64]) -> BTreeMap<NodeId, Candidate> {
        let there = Candidate { takes_more: true, is_dead: false, is_to_leave: false };
        numbers.iter().map(|number| (NodeId(*number), there)).collect()
    }

    fn loads(placed: &BTreeMap<ShardId, Vec<NodeId>>) -> BTreeMap<NodeId, usize> {
        let mut loads = BTreeMap::new();
        for node in placed.values().flatten() {
            *loads.entry(*node).or_default() += 1;
        }
        loads
    }

    fn founded(shards: u32) -> BTreeMap<ShardId, Vec<NodeId>> {
        (1..=shards).map(|shard| (ShardId(shard), vec![NodeId(1)])).collect()
    }

    #[test]
    fn replicas_spread_over_nodes_that_join() {
        let (placed, _) = settle(3, 8, &candidates(&[1, 2, 3]), founded(8));
        assert!(placed.values().all(|nodes| nodes.len() == 3));
        let (placed, _) = settle(3, 8, &candidates(&[1, 2, 3, 4, 5]), placed);
        assert!(placed.values().all(|nodes| nodes.len() == 3));
        assert!(loads(&placed).values().all(|load| (4..=5).contains(load)), "{placed:?}");
    }

    #[test]
    fn a_lost_or_drained_node_is_replaced_and_a_missing_one_is_left_out() {
        let (placed, _) = settle(2, 9, &candidates(&[1, 2, 3, 4]), founded(9));
        let mut nodes = candidates(&[1, 2, 3, 4]);
        nodes.insert(NodeId(2), Candidate { takes_more: true, is_dead: false, is_to_leave: true });
        let (placed, _) = settle(2, 9, &nodes, placed);
        assert_eq!(loads(&placed).get(&NodeId(2)), None, "{placed:?}");
        assert!(placed.values().all(|nodes| nodes.len() == 2));
        // One that is no member any more, though nobody can take its place.
        let (placed, _) = settle(2, 9, &candidates(&[1]), placed);
        assert!(placed.values().all(|nodes| nodes == &[NodeId(1)]));
    }

    #[test]
    fn a_silent_node_is_given_nothing_and_replaced_once_it_is_dead_if_there_is_another() {
        let silent = |is_dead| Candidate { takes_more: false, is_dead, is_to_leave: false };
        let placed = BTreeMap::from([(ShardId(1), vec![NodeId(1), NodeId(3)])]);
        let after = |is_dead, numbers: &[u64]| {
            let mut nodes = candidates(numbers);
            nodes.insert(NodeId(3), silent(is_dead));
            settle(2, 1, &nodes, placed.clone()).0.remove(&ShardId(1)).unwrap()
        };
        assert_eq!(after(false, &[1, 2]), [NodeId(1), NodeId(3)]);
        assert_eq!(after(true, &[1, 2]), [NodeId(1), NodeId(2)]);
        assert_eq!(after(true, &[1]), [NodeId(1), NodeId(3)]);
    }

    #[test]
    fn everywhere_takes_all_choices_back() {
        let (placed, _) = settle(0, 3, &candidates(&[1, 2]), founded(3));
        assert!(placed.is_empty());
    }

    #[test]
    fn an_even_number_votes_only_if_it_was_asked_for() {
        let of = |numbers: &[u64]| numbers.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        assert_eq!(wanted_voters(&of(&[1, 2]), &of(&[1]), 3), of(&[1]));
        assert_eq!(wanted_voters(&of(&[1, 2]), &of(&[2]), 3), of(&[2]));
        assert_eq!(wanted_voters(&of(&[1, 2]), &of(&[1]), 2), of(&[1, 2]));
        assert_eq!(wanted_voters(&of(&[1, 2, 3]), &of(&[1]), 3), of(&[1, 2, 3]));
        assert_eq!(wanted_voters(&of(&[1, 2]), &of(&[1, 2, 3]), 3), of(&[1, 2]));
    }
}
