//! Numbers of nodes: none is given twice, not even one of a node that was removed. What others still say of a
//! number, as a feed or a lagging node may, must never be taken for another node's.
//!
//! Each member remembers the greatest number that had been given when it was last written; whoever is removed
//! hands what it knew to one that stays.

use std::collections::BTreeMap;

use proteus_types::{Member, NodeId};

/// The greatest number that was ever given, as these members know.
fn greatest<'a>(members: impl Iterator<Item = (&'a NodeId, &'a Member)>) -> u64 {
    members.map(|(node, member)| node.0.max(member.greatest_number)).max().unwrap_or(0)
}

/// The number of the next node that joins.
pub(crate) fn next(members: &BTreeMap<NodeId, Member>) -> NodeId {
    NodeId(greatest(members.iter()) + 1)
}

/// Which member has to be written, and how, before `leaving` is removed, so that its number is remembered.
pub(crate) fn heir(
    members: &BTreeMap<NodeId, Member>,
    leaving: NodeId,
) -> Option<(NodeId, Member)> {
    let staying = || members.iter().filter(|(node, _)| **node != leaving);
    let greatest_number = greatest(members.iter());
    if greatest(staying()) >= greatest_number {
        return None;
    }
    let (node, member) = staying().next()?;
    Some((*node, Member { greatest_number, ..member.clone() }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_number_is_given_twice() {
        // Some order of joining and leaving: whoever leaves is now the newest, now the oldest, now both.
        for plan in 0u32..1 << 12 {
            let mut members = BTreeMap::from([(NodeId(1), Member::default())]);
            let mut given = BTreeSet::from([NodeId(1)]);
            for step in 0..6 {
                match plan >> (step * 2) & 3 {
                    0 | 1 => {
                        let node = next(&members);
                        assert!(given.insert(node), "{node} is given again in plan {plan:b}");
                        members.insert(node, Member::default());
                    }
                    which => {
                        let ends = [members.keys().next(), members.keys().last()];
                        let Some(leaving) = ends[which as usize - 2].copied() else { continue };
                        if members.len() > 1 {
                            members.extend(heir(&members, leaving));
                            members.remove(&leaving);
                        }
                    }
                }
            }
        }
    }
}
