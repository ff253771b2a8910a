//! Which member of a group gets which partitions.

use std::collections::{BTreeMap, BTreeSet};

use proteus_kernel_api::topic::TopicId;

/// A partition of a topic.
pub(crate) type Partition = (TopicId, u32);
/// The partitions of each member.
pub(super) type Assignments = BTreeMap<String, BTreeSet<Partition>>;

/// The strategies that a member may ask for; the first is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Assignor {
    /// As many to everyone as possible, moving as few as possible.
    Uniform,
    /// Of each topic neighbouring partitions to each member, so that topics with the same number of
    /// partitions are assigned alike.
    Range,
}

impl Assignor {
    pub(crate) fn parse(name: &str) -> Option<Assignor> {
        match name {
            "uniform" => Some(Assignor::Uniform),
            "range" => Some(Assignor::Range),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }

    /// Assigns every partition of `topics`, which are those subscribed, to one of `subscribers`, given
    /// by the topics that each has subscribed, in the order of their ids.
    pub(super) fn assign(
        self,
        topics: &BTreeMap<TopicId, u32>,
        subscribers: &BTreeMap<String, BTreeSet<TopicId>>,
        before: &Assignments,
    ) -> Assignments {
        match self {
            Assignor::Uniform => uniform(topics, subscribers, before),
            Assignor::Range => range(topics, subscribers),
        }
    }
}

fn range(
    topics: &BTreeMap<TopicId, u32>,
    subscribers: &BTreeMap<String, BTreeSet<TopicId>>,
) -> Assignments {
    let mut assigned = empty(subscribers);
    for (topic_id, count) in topics {
        let members: Vec<&String> = subscribers
            .iter()
            .filter(|(_, wants)| wants.contains(topic_id))
            .map(|(id, _)| id)
            .collect();
        let Ok(member_count) = u32::try_from(members.len()) else { continue };
        if member_count == 0 {
            continue;
        }
        let (each, more) = (count / member_count, count % member_count);
        let mut next = 0;
        for (place, member) in (0u32..).zip(members) {
            let end = next + each + u32::from(place < more);
            let own = assigned.entry(member.clone()).or_default();
            own.extend((next..end).map(|partition| (*topic_id, partition)));
            next = end;
        }
    }
    assigned
}

fn uniform(
    topics: &BTreeMap<TopicId, u32>,
    subscribers: &BTreeMap<String, BTreeSet<TopicId>>,
    before: &Assignments,
) -> Assignments {
    let mut assigned = empty(subscribers);
    let total: u64 = topics.values().map(|count| u64::from(*count)).sum();
    let member_count = subscribers.len().max(1) as u64;
    let quota = usize::try_from(total.div_ceil(member_count)).unwrap_or(usize::MAX);
    // How many may have the whole quota, where it does not divide evenly.
    let mut may_be_full = match total % member_count {
        0 => usize::MAX,
        more => usize::try_from(more).unwrap_or(usize::MAX),
    };
    let mut taken: BTreeSet<Partition> = BTreeSet::new();
    for (member, wants) in subscribers {
        let own = assigned.entry(member.clone()).or_default();
        for partition in before.get(member).into_iter().flatten() {
            let is_there = topics.get(&partition.0).is_some_and(|count| partition.1 < *count);
            let limit = if may_be_full > 0 { quota } else { quota.saturating_sub(1) };
            if own.len() < limit
                && is_there
                && wants.contains(&partition.0)
                && taken.insert(*partition)
            {
                own.insert(*partition);
            }
        }
        if own.len() == quota {
            may_be_full = may_be_full.saturating_sub(1);
        }
    }
    for (topic_id, count) in topics {
        for partition in (0..*count).map(|number| (*topic_id, number)) {
            if taken.contains(&partition) {
                continue;
            }
            let wanting = assigned.iter_mut().filter(|(member, _)| {
                subscribers.get(*member).is_some_and(|wants| wants.contains(topic_id))
            });
            // The one that has least, by id if equal.
            if let Some((_, own)) = wanting.min_by_key(|(_, own)| own.len()) {
                own.insert(partition);
            }
        }
    }
    assigned
}

fn empty(subscribers: &BTreeMap<String, BTreeSet<TopicId>>) -> Assignments {
    subscribers.keys().map(|member| (member.clone(), BTreeSet::new())).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every partition that somebody wants is assigned once, to one who wants it; with equal
        /// subscriptions nobody has two more than another, and nothing moves without need.
        #[test]
        fn everything_is_assigned_once(
            counts in proptest::collection::vec(0u32..9, 1..4),
            wants in proptest::collection::vec(any::<u8>(), 1..6),
            is_equal in any::<bool>(),
            leaves in any::<bool>(),
        ) {
            let topics: BTreeMap<TopicId, u32> =
                (0u8..).map(|number| TopicId([number; 16])).zip(counts.clone()).collect();
            let subscribers: BTreeMap<String, BTreeSet<TopicId>> = wants.iter().enumerate().map(|(at, bits)| {
                let wanted = topics.keys().enumerate()
                    .filter(|(place, _)| is_equal || bits & (1 << place) != 0)
                    .map(|(_, id)| *id).collect();
                (format!("m{at}"), wanted)
            }).collect();
            for assignor in [Assignor::Uniform, Assignor::Range] {
                let first = assignor.assign(&topics, &subscribers, &Assignments::new());
                let mut fewer = subscribers.clone();
                if leaves && fewer.len() > 1 {
                    fewer.remove("m0");
                }
                let second = assignor.assign(&topics, &fewer, &first);
                for (of, assigned) in [(&subscribers, &first), (&fewer, &second)] {
                    let mut seen = BTreeSet::new();
                    for (member, own) in assigned {
                        for partition in own {
                            prop_assert!(of[member].contains(&partition.0));
                            prop_assert!(seen.insert(*partition));
                        }
                    }
                    let wanted: u32 = topics.iter()
                        .filter(|(id, _)| of.values().any(|wants| wants.contains(id)))
                        .map(|(_, count)| *count).sum();
                    prop_assert_eq!(seen.len(), wanted as usize);
                    if is_equal && assignor == Assignor::Uniform {
                        let sizes: Vec<usize> = assigned.values().map(BTreeSet::len).collect();
                        prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
                    }
                }
                if is_equal && assignor == Assignor::Uniform {
                    for (member, own) in &second {
                        prop_assert!(first[member].is_subset(own), "what stays subscribed is kept");
                    }
                }
            }
        }
    }
}
