//! Leaders of shards, spread over the nodes by themselves.
//!
//! Every node sees who leads which shard. One that leads two more than another voter hands it some, a few at
//! a time. The first shard stays where it is, and counts. Nobody is asked: all nodes see the same within a
//! heartbeat, and act one after the other, who leads most first. Each change of a leader, whatever it comes
//! from, makes all of them wait anew, so that nothing is handed over while nodes come and go, and each
//! acts on what the one before has done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proteus_env::{Clock, task};
use proteus_machine::ShardMachine;
use proteus_types::{NodeId, ShardId};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::shard::Shard;
use crate::transaction::Shards;

/// How often to look.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How long nothing must have changed before leadership is handed over, and how much longer for each node
/// that leads more, or as many and has a smaller number.
const QUIET: Duration = Duration::from_secs(3);
const STEP: Duration = Duration::from_secs(1);

/// Leaderships that are handed over at once.
const AT_ONCE: usize = 4;

/// What failed is tried again after twice the time, so many times.
const DOUBLINGS_MAX: u32 = 4;

/// A voter may lead that is at most so many entries behind, and has answered within this time.
const BEHIND_MAX: u64 = 1_000;
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// Leaders that an operator chose, for a while.
pub trait ChosenLeaders: Send + Sync + 'static {
    /// Those whose time is not over.
    fn chosen(&self) -> BTreeMap<ShardId, NodeId>;
}

/// Hands leadership of shards that `node` leads to voters that lead fewer, until `stop` holds true.
pub async fn spread_leaders<M: ShardMachine>(
    node: NodeId,
    shards: Arc<dyn Shards<M>>,
    choices: Arc<dyn ChosenLeaders>,
    clock: Arc<dyn Clock>,
    mut stop: watch::Receiver<bool>,
) {
    let mut seen = BTreeMap::new();
    let (mut since, mut failures) = (clock.elapsed(), 0);
    loop {
        tokio::select! {
            biased;
            () = task::sleep(LOOK_INTERVAL) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let all = shards.all();
        let now = clock.elapsed();
        let leaders = shards.leaders();
        if leaders != seen {
            (seen, since) = (leaders, now);
            continue;
        }
        if seen.len() < 2 || seen.values().any(Option::is_none) {
            continue;
        }
        let mut led = led(&all, &seen);
        let quiet = (QUIET + STEP * rank(node, &led)) * (1 << failures);
        if now.saturating_sub(since) < quiet {
            continue;
        }
        since = now;
        let choices = choices.chosen();
        let mut heirs = heirs(node, &all);
        let mut chosen = take_chosen(node, &choices, &mut heirs);
        for _ in 0..AT_ONCE {
            let next = chosen.pop_first().or_else(|| next(node, &led, &heirs));
            let Some((id, heir)) = next else { break };
            heirs.remove(&id);
            let Some((_, shard)) = all.iter().find(|(of, _)| *of == id) else { break };
            info!(shard = %id, to = %heir, "leadership is handed over, as the operator chose or so that all nodes lead as many shards");
            if let Err(error) = shard.group().hand_over(heir).await {
                warn!(shard = %id, to = %heir, %error, "leadership was not handed over");
                failures = (failures + 1).min(DOUBLINGS_MAX);
                break;
            }
            failures = 0;
            *led.entry(node).or_default() -= 1;
            *led.entry(heir).or_default() += 1;
        }
    }
}

/// How many shards each node leads that votes in any that is here.
fn led<M: ShardMachine>(
    all: &[(ShardId, Arc<Shard<M>>)],
    leaders: &BTreeMap<ShardId, Option<NodeId>>,
) -> BTreeMap<NodeId, usize> {
    let voters = all.iter().flat_map(|(_, shard)| shard.group().membership().voters);
    let mut led: BTreeMap<NodeId, usize> = voters.map(|voter| (voter, 0)).collect();
    for leader in leaders.values().flatten() {
        *led.entry(*leader).or_default() += 1;
    }
    led
}

/// How many nodes lead more than this one, or as many and have a smaller number.
fn rank(node: NodeId, led: &BTreeMap<NodeId, usize>) -> u32 {
    let own = led.get(&node).copied().unwrap_or(0);
    let is_before =
        |(other, count): &(&NodeId, &usize)| **count > own || (**count == own && **other < node);
    u32::try_from(led.iter().filter(is_before).count()).unwrap_or(u32::MAX)
}

/// The shards whose leadership `node` may hand over, and to whom: to those that are not to be emptied, are
/// there, and have what it has.
fn heirs<M: ShardMachine>(
    node: NodeId,
    all: &[(ShardId, Arc<Shard<M>>)],
) -> BTreeMap<ShardId, BTreeSet<NodeId>> {
    let Some((first, of_first)) = all.first() else { return BTreeMap::new() };
    let members = of_first.group().membership();
    let may_lead =
        |voter: &NodeId| members.members.get(voter).is_some_and(|member| !member.follows_only);
    let mut heirs = BTreeMap::new();
    for (id, shard) in all {
        if id == first || !shard.leads() {
            continue;
        }
        let status = shard.group_status();
        let is_ready = |voter: &NodeId| {
            let matched = status.matched.get(voter).map_or(0, |matched| matched.0);
            status.last_index.0.saturating_sub(matched) <= BEHIND_MAX
                && status.silent_for.get(voter).is_some_and(|silence| *silence <= SILENCE_MAX)
        };
        if !status.membership.is_changing {
            let mut ready = status.membership.voters.clone();
            ready.retain(|voter| *voter != node && may_lead(voter) && is_ready(voter));
            heirs.insert(*id, ready);
        }
    }
    heirs
}

/// Takes from what `node` may hand over that for which a leader was chosen: it stays if that is this node, goes
/// there if that one is ready, and is for the rule if not.
fn take_chosen(
    node: NodeId,
    choices: &BTreeMap<ShardId, NodeId>,
    heirs: &mut BTreeMap<ShardId, BTreeSet<NodeId>>,
) -> BTreeMap<ShardId, NodeId> {
    let mut taken = BTreeMap::new();
    for (shard, chosen) in choices {
        if *chosen == node {
            heirs.remove(shard);
        } else if heirs.get(shard).is_some_and(|ready| ready.contains(chosen)) {
            heirs.remove(shard);
            taken.insert(*shard, *chosen);
        }
    }
    taken
}

/// What `node` hands over next, and to whom: to the one that leads fewest, if that is two less than it does.
fn next(
    node: NodeId,
    led: &BTreeMap<NodeId, usize>,
    heirs: &BTreeMap<ShardId, BTreeSet<NodeId>>,
) -> Option<(ShardId, NodeId)> {
    let count = |node: &NodeId| led.get(node).copied().unwrap_or(0);
    let pairs = heirs.iter().flat_map(|(shard, heirs)| heirs.iter().map(|heir| (*shard, *heir)));
    let (shard, heir) = pairs.min_by_key(|(shard, heir)| (count(heir), *heir, *shard))?;
    (count(&node) >= count(&heir) + 2).then_some((shard, heir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: &[u64]) -> BTreeSet<NodeId> {
        numbers.iter().copied().map(NodeId).collect()
    }

    fn counts(counts: &[(u64, usize)]) -> BTreeMap<NodeId, usize> {
        counts.iter().map(|(node, count)| (NodeId(*node), *count)).collect()
    }

    #[test]
    fn who_leads_two_more_hands_over_to_who_leads_fewest() {
        let heirs = BTreeMap::from([(ShardId(1), ids(&[2])), (ShardId(2), ids(&[2, 3]))]);
        let next = |led: &[(u64, usize)]| next(NodeId(1), &counts(led), &heirs);
        assert_eq!(next(&[(1, 3), (2, 0), (3, 0)]), Some((ShardId(1), NodeId(2))));
        assert_eq!(next(&[(1, 3), (2, 1), (3, 0)]), Some((ShardId(2), NodeId(3))));
        assert_eq!(next(&[(1, 2), (2, 1), (3, 1)]), None, "it would only change places");
        assert_eq!(next(&[(1, 1), (2, 0), (3, 2)]), None);
    }

    #[test]
    fn nodes_act_one_after_the_other() {
        let led = counts(&[(1, 2), (2, 5), (3, 2), (4, 0)]);
        assert_eq!([1, 2, 3, 4].map(|node| rank(NodeId(node), &led)), [1, 0, 2, 3]);
    }

    #[test]
    fn repeated_turns_end_with_the_same_number_everywhere() {
        let mut led = counts(&[(1, 100), (2, 31), (3, 0), (4, 0), (5, 1)]);
        let nodes: Vec<NodeId> = led.keys().copied().collect();
        for _ in 0..200 {
            let Some(first) = nodes.iter().find(|node| rank(**node, &led) == 0) else { panic!() };
            let others = nodes.iter().filter(|node| *node != first).copied().collect();
            let Some((_, heir)) = next(*first, &led, &BTreeMap::from([(ShardId(1), others)]))
            else {
                break;
            };
            *led.get_mut(first).unwrap() -= 1;
            *led.get_mut(&heir).unwrap() += 1;
        }
        assert!(led.values().all(|count| (26..=27).contains(count)), "{led:?}");
    }

    #[test]
    fn what_was_chosen_stays_or_goes_where_it_was_chosen_to_be() {
        let shard = ShardId;
        let choices = [(1, 1), (2, 2), (3, 3), (9, 2)];
        let choices = choices.map(|(id, node)| (shard(id), NodeId(node))).into();
        let ready = [(1, ids(&[2, 3])), (2, ids(&[2, 3])), (3, ids(&[2])), (4, ids(&[2]))];
        let mut heirs = ready.map(|(id, ready)| (shard(id), ready)).into();
        let taken = take_chosen(NodeId(1), &choices, &mut heirs);
        assert_eq!(taken, BTreeMap::from([(shard(2), NodeId(2))]));
        assert_eq!(heirs.keys().copied().collect::<Vec<_>>(), [shard(3), shard(4)]);
    }
}
