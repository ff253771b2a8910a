//! Who is in a share group, and which partitions each looks at. A pure state machine.
//!
//! Partitions are shared: a member is told its new assignment at once, and gives up nothing to anybody.

use std::collections::{BTreeMap, BTreeSet};

use proteus_kernel_api::topic::TopicId;

use crate::consumer_group::{Partition, Topics};
use crate::group::GroupError;

/// Epochs with a meaning of their own.
const JOINING: i32 = 0;
const LEAVING: i32 = -1;

/// A heartbeat; what is `None` has not changed.
#[derive(Debug, Clone)]
pub(crate) struct ShareBeat {
    pub member_id: String,
    pub epoch: i32,
    pub rack_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub topics: Option<BTreeSet<String>>,
}

/// The answer: the member's epoch, and its assignment if it must be told.
pub(crate) type ShareAnswer = (i32, Option<BTreeSet<Partition>>);

/// A member, for those who describe the group too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShareMember {
    pub rack_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub topics: BTreeSet<String>,
    pub epoch: i32,
    pub assigned: BTreeSet<Partition>,
    expires_at_ms: u64,
}

/// A share group.
#[derive(Debug, Clone, Default)]
pub(crate) struct ShareGroup {
    pub epoch: i32,
    pub members: BTreeMap<String, ShareMember>,
    /// Topics as they were when partitions were assigned.
    topics: Topics,
}

impl ShareGroup {
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// When [`ShareGroup::pass_time`] will change something at the earliest.
    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        self.members.values().map(|member| member.expires_at_ms).min()
    }

    /// Drops members that are silent.
    pub(crate) fn pass_time(&mut self, now_ms: u64) {
        let count = self.members.len();
        self.members.retain(|_, member| member.expires_at_ms > now_ms);
        if self.members.len() != count {
            self.assign();
        }
    }

    /// Takes one heartbeat. `resolve` says which topics of these names there are.
    pub(crate) fn heartbeat<E: From<GroupError>>(
        &mut self,
        now_ms: u64,
        (session_timeout_ms, members_max): (u64, usize),
        beat: ShareBeat,
        resolve: impl FnOnce(&BTreeSet<String>) -> Result<Topics, E>,
    ) -> Result<ShareAnswer, E> {
        if beat.epoch == LEAVING {
            self.members.remove(&beat.member_id).ok_or(GroupError::UnknownMemberId)?;
            self.assign();
            return Ok((LEAVING, None));
        }
        let joins = beat.epoch == JOINING;
        match self.members.get(&beat.member_id) {
            None if !joins => return Err(GroupError::UnknownMemberId.into()),
            None if self.members.len() >= members_max => {
                return Err(GroupError::GroupMaxSizeReached.into());
            }
            // It may not have got the answer that told it a newer one.
            Some(member) if beat.epoch > member.epoch => {
                return Err(GroupError::FencedMemberEpoch.into());
            }
            _ => {}
        }
        let before = self.members.get(&beat.member_id);
        let topics = beat.topics.or_else(|| before.map(|member| member.topics.clone()));
        let topics = topics.unwrap_or_default();
        let has_changed = before.is_none_or(|member| member.topics != topics);
        let member = ShareMember {
            rack_id: beat.rack_id.or_else(|| before.and_then(|member| member.rack_id.clone())),
            client_id: beat.client_id,
            client_host: beat.client_host,
            topics,
            epoch: before.map_or(JOINING, |member| member.epoch),
            assigned: before.map(|member| member.assigned.clone()).unwrap_or_default(),
            expires_at_ms: now_ms + session_timeout_ms,
        };
        self.members.insert(beat.member_id.clone(), member);
        let names = self.members.values().flat_map(|member| member.topics.iter().cloned());
        let topics = resolve(&names.collect())?;
        if has_changed || topics != self.topics {
            self.topics = topics;
            self.assign();
        }
        let member = self.members.get(&beat.member_id).ok_or(GroupError::UnknownMemberId)?;
        let must_tell = joins || beat.epoch != member.epoch;
        Ok((member.epoch, must_tell.then(|| member.assigned.clone())))
    }

    /// Spreads each topic's partitions over those who subscribe it: every partition has a member, and every
    /// member a partition, of which some are shared if there are more members.
    fn assign(&mut self) {
        self.epoch += 1;
        let mut assigned: BTreeMap<&String, BTreeSet<Partition>> = BTreeMap::new();
        // Of every topic another member is the first, or few would have most.
        let mut turn = 0;
        for (name, (topic_id, partition_count)) in &self.topics {
            let subscribers = self.members.iter().filter(|(_, one)| one.topics.contains(name));
            let subscribers: Vec<&String> = subscribers.map(|(id, _)| id).collect();
            let partition_count = *partition_count as usize;
            if subscribers.is_empty() || partition_count == 0 {
                continue;
            }
            for place in 0..subscribers.len().max(partition_count) {
                let member = subscribers[(turn + place) % subscribers.len()];
                let partition = (*topic_id, (place % partition_count) as u32);
                assigned.entry(member).or_default().insert(partition);
            }
            turn += partition_count;
        }
        let mut assigned: BTreeMap<String, BTreeSet<(TopicId, u32)>> =
            assigned.into_iter().map(|(id, partitions)| (id.clone(), partitions)).collect();
        for (id, member) in &mut self.members {
            let assigned = assigned.remove(id).unwrap_or_default();
            if member.assigned != assigned || member.epoch == JOINING {
                member.assigned = assigned;
                member.epoch = self.epoch;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(member_id: &str, epoch: i32, topics: Option<&[&str]>) -> ShareBeat {
        ShareBeat {
            member_id: member_id.to_owned(),
            epoch,
            rack_id: None,
            client_id: "c".to_owned(),
            client_host: "/h".to_owned(),
            topics: topics.map(|topics| topics.iter().map(|t| (*t).to_owned()).collect()),
        }
    }

    fn send(
        group: &mut ShareGroup,
        now_ms: u64,
        beat: ShareBeat,
    ) -> Result<ShareAnswer, GroupError> {
        group.heartbeat(now_ms, (100, 3), beat, |names| {
            let all = Topics::from([
                ("two".to_owned(), (TopicId([2; 16]), 2)),
                ("one".to_owned(), (TopicId([1; 16]), 1)),
            ]);
            Ok(all.into_iter().filter(|(name, _)| names.contains(name)).collect())
        })
    }

    #[test]
    fn members_share_partitions_and_learn_of_each_other() {
        let mut group = ShareGroup::default();
        let (epoch, all) = send(&mut group, 0, beat("a", 0, Some(&["two"]))).unwrap();
        assert_eq!(all.unwrap().len(), 2);
        let (later, half) = send(&mut group, 0, beat("b", 0, Some(&["two"]))).unwrap();
        assert_eq!(half.unwrap().len(), 1);
        let (_, shared) = send(&mut group, 0, beat("c", 0, Some(&["two"]))).unwrap();
        assert_eq!(shared.unwrap().len(), 1, "three members, two partitions");
        assert_eq!(
            send(&mut group, 0, beat("d", 0, Some(&["two"]))),
            Err(GroupError::GroupMaxSizeReached)
        );
        let (newer, told) = send(&mut group, 50, beat("a", epoch, None)).unwrap();
        assert!(newer > epoch && later > epoch && told.is_some());
        assert_eq!(send(&mut group, 50, beat("a", newer, None)), Ok((newer, None)));
        assert_eq!(
            send(&mut group, 50, beat("a", newer + 9, None)),
            Err(GroupError::FencedMemberEpoch)
        );
        assert_eq!(send(&mut group, 50, beat("x", 1, None)), Err(GroupError::UnknownMemberId));
        group.pass_time(120);
        assert_eq!(group.members.len(), 1, "the silent ones are gone");
        let (_, all) = send(&mut group, 120, beat("a", newer, None)).unwrap();
        assert_eq!(all.unwrap().len(), 2);
        assert_eq!(send(&mut group, 120, beat("a", -1, None)), Ok((-1, None)));
        assert!(group.is_empty());
    }

    #[test]
    fn topics_are_spread() {
        let mut group = ShareGroup::default();
        send(&mut group, 0, beat("a", 0, Some(&["one", "two"]))).unwrap();
        send(&mut group, 0, beat("b", 0, Some(&["one", "two"]))).unwrap();
        let counts: Vec<usize> = group.members.values().map(|one| one.assigned.len()).collect();
        assert_eq!(counts.iter().sum::<usize>(), 4, "of the single partition both are members");
        assert_eq!(counts, [2, 2]);
    }
}
