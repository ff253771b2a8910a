//! One consumer group of the newer protocol (KIP-848): the coordinator assigns, and brings members
//! there one by one, without stopping the others.
//!
//! A pure state machine: heartbeats with the time in, answers out.
//!
//! The group's *epoch* grows when members, subscriptions or topics change; then a *target* is computed.
//! Every member goes from what it has to its target by itself: first it gives up what the target gives
//! to others (it is told a smaller assignment, and keeps its epoch until it reports that it has
//! dropped the rest); then it advances to the target's epoch and gets what is new, as far as nobody
//! else still has it. So no partition ever has two owners, and whoever keeps its partitions is not
//! interrupted. Membership is soft state, as that of the classic protocol is.

mod assignor;

use std::collections::{BTreeMap, BTreeSet};

use proteus_kernel_api::topic::TopicId;

use crate::group::{GroupError, GroupOptions};
use crate::pattern::Pattern;

use assignor::Assignments;
pub(crate) use assignor::{Assignor, Partition};

/// Epochs with a meaning of their own.
const JOINING: i32 = 0;
const LEAVING: i32 = -1;
const LEAVING_FOR_A_WHILE: i32 = -2;

/// A heartbeat; what is `None` has not changed.
#[derive(Debug, Clone)]
pub(crate) struct Heartbeat {
    /// After how much silence the member is given up.
    pub session_timeout_ms: u64,
    pub member_id: String,
    pub epoch: i32,
    pub instance_id: Option<String>,
    pub rack_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: Option<u64>,
    pub topics: Option<BTreeSet<String>>,
    /// The pattern as text and parsed; an empty text takes it back.
    pub pattern: Option<(String, Option<Pattern>)>,
    pub assignor: Option<Assignor>,
    /// What the member has.
    pub owned: Option<BTreeSet<Partition>>,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Beat {
    pub member_id: String,
    pub epoch: i32,
    /// What the member is to have, if it must be told.
    pub assignment: Option<BTreeSet<Partition>>,
}

/// Topics as they are: ids and numbers of partitions, by name.
pub(crate) type Topics = BTreeMap<String, (TopicId, u32)>;

#[derive(Debug, Clone)]
struct Member {
    instance_id: Option<String>,
    rack_id: Option<String>,
    client_id: String,
    client_host: String,
    rebalance_timeout_ms: u64,
    topics: BTreeSet<String>,
    pattern_text: String,
    pattern: Option<Pattern>,
    assignor: Option<Assignor>,
    epoch: i32,
    previous_epoch: i32,
    /// What it has been told to have.
    assigned: BTreeSet<Partition>,
    /// What it had and has not reported to have dropped yet.
    revoking: BTreeSet<Partition>,
    revokes_until_ms: Option<u64>,
    expires_at_ms: u64,
}

/// A consumer group.
#[derive(Debug)]
pub(crate) struct ConsumerGroup {
    options: GroupOptions,
    epoch: i32,
    /// The group's epoch when the target was computed.
    target_epoch: i32,
    target: Assignments,
    members: BTreeMap<String, Member>,
    instances: BTreeMap<String, String>,
    /// Topics as they were when the target was computed.
    topics: Topics,
}

/// The group for those who describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConsumerDescription {
    pub state: &'static str,
    pub epoch: i32,
    pub target_epoch: i32,
    pub assignor: &'static str,
    pub members: Vec<DescribedConsumer>,
}

/// A member of a [`ConsumerDescription`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DescribedConsumer {
    pub member_id: String,
    pub instance_id: Option<String>,
    pub rack_id: Option<String>,
    pub epoch: i32,
    pub client_id: String,
    pub client_host: String,
    pub topics: BTreeSet<String>,
    pub pattern: String,
    pub assigned: BTreeSet<Partition>,
    pub target: BTreeSet<Partition>,
}

impl ConsumerGroup {
    pub(crate) fn new(options: GroupOptions) -> ConsumerGroup {
        ConsumerGroup {
            options,
            epoch: 0,
            target_epoch: 0,
            target: Assignments::new(),
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            topics: Topics::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// When [`ConsumerGroup::pass_time`] will change something at the earliest.
    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        let deadlines = self.members.values().flat_map(|member| {
            [Some(member.expires_at_ms), member.revokes_until_ms].into_iter().flatten()
        });
        deadlines.min()
    }

    /// Drops members that are silent, or do not give up what they should.
    pub(crate) fn pass_time(&mut self, now_ms: u64) {
        let is_lost = |member: &Member| {
            member.expires_at_ms <= now_ms || member.revokes_until_ms.is_some_and(|at| at <= now_ms)
        };
        let lost: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| is_lost(member))
            .map(|(id, _)| id.clone())
            .collect();
        for member_id in lost {
            self.remove(&member_id);
        }
    }

    /// Whether a member may commit offsets, or ask for them, with this epoch.
    pub(crate) fn may_commit(&self, member_id: &str, epoch: i32) -> Result<(), GroupError> {
        if epoch < 0 && member_id.is_empty() && self.members.is_empty() {
            return Ok(());
        }
        let member = self.members.get(member_id).ok_or(GroupError::UnknownMemberId)?;
        if member.epoch == epoch { Ok(()) } else { Err(GroupError::StaleMemberEpoch) }
    }

    /// Takes one heartbeat. `resolve` says which topics of these names and patterns there are.
    pub(crate) fn heartbeat<E: From<GroupError>>(
        &mut self,
        now_ms: u64,
        beat: Heartbeat,
        resolve: impl FnOnce(&BTreeSet<String>, &[Pattern]) -> Result<Topics, E>,
    ) -> Result<Beat, E> {
        if beat.epoch == LEAVING || beat.epoch == LEAVING_FOR_A_WHILE {
            return Ok(self.leave(now_ms, &beat)?);
        }
        let member_count = self.members.len();
        let member_id = self.admit(now_ms, &beat)?;
        let is_new = self.members.len() > member_count;
        let must_tell = beat.epoch == JOINING || beat.topics.is_some();
        let has_changed = self.update(now_ms, &member_id, beat.clone()) || is_new;
        let (names, patterns) = self.subscriptions();
        let topics = resolve(&names, &patterns)?;
        if has_changed || topics != self.topics {
            self.topics = topics;
            self.epoch += 1;
        }
        if self.target_epoch < self.epoch {
            self.compute_target();
        }
        Ok(self.reconcile(now_ms, &member_id, beat.owned, must_tell)?)
    }

    /// The member that a heartbeat is from, which is made if it joins.
    fn admit(&mut self, now_ms: u64, beat: &Heartbeat) -> Result<String, GroupError> {
        let member_id = beat.member_id.clone();
        if let Some(instance_id) = &beat.instance_id
            && let Some(known_as) = self.instances.get(instance_id).cloned()
            && known_as != member_id
        {
            if beat.epoch != JOINING {
                return Err(GroupError::FencedInstanceId);
            }
            let has_left = self
                .members
                .get(&known_as)
                .is_some_and(|member| member.epoch == LEAVING_FOR_A_WHILE);
            if !has_left {
                return Err(GroupError::UnreleasedInstanceId);
            }
            self.take_over(&known_as, &member_id, instance_id);
            return Ok(member_id);
        }
        match (self.members.get(&member_id), beat.epoch) {
            (None, JOINING) => {
                if self.members.len() >= self.options.members_max {
                    return Err(GroupError::GroupMaxSizeReached);
                }
                self.members.insert(member_id.clone(), Member::new(now_ms, beat));
                if let Some(instance_id) = &beat.instance_id {
                    self.instances.insert(instance_id.clone(), member_id.clone());
                }
                Ok(member_id)
            }
            (None, _) => Err(GroupError::UnknownMemberId),
            // It lost the answer, or everything it had.
            (Some(_), JOINING) => Ok(member_id),
            (Some(member), epoch) => {
                let is_late = epoch == member.previous_epoch
                    && beat.owned.as_ref().is_some_and(|owned| owned.is_subset(&member.assigned));
                if epoch == member.epoch || is_late {
                    Ok(member_id)
                } else {
                    Err(GroupError::FencedMemberEpoch)
                }
            }
        }
    }

    /// A static member is back under a new id, and has what its former self had.
    fn take_over(&mut self, old_id: &str, member_id: &str, instance_id: &str) {
        if let Some(mut member) = self.members.remove(old_id) {
            member.epoch = JOINING;
            member.previous_epoch = JOINING;
            self.members.insert(member_id.to_owned(), member);
        }
        if let Some(target) = self.target.remove(old_id) {
            self.target.insert(member_id.to_owned(), target);
        }
        self.instances.insert(instance_id.to_owned(), member_id.to_owned());
    }

    fn leave(&mut self, now_ms: u64, beat: &Heartbeat) -> Result<Beat, GroupError> {
        let known_as = beat.instance_id.as_ref().and_then(|id| self.instances.get(id));
        if beat.instance_id.is_some() && known_as.is_some_and(|id| *id != beat.member_id) {
            return Err(GroupError::FencedInstanceId);
        }
        let timeout_ms = beat.session_timeout_ms;
        let member = self.members.get_mut(&beat.member_id).ok_or(GroupError::UnknownMemberId)?;
        if beat.epoch == LEAVING_FOR_A_WHILE && member.instance_id.is_some() {
            member.epoch = LEAVING_FOR_A_WHILE;
            member.expires_at_ms = now_ms + timeout_ms;
            member.revoking.clear();
            member.revokes_until_ms = None;
        } else {
            self.remove(&beat.member_id);
        }
        Ok(Beat { member_id: beat.member_id.clone(), epoch: beat.epoch, assignment: None })
    }

    fn remove(&mut self, member_id: &str) {
        if let Some(member) = self.members.remove(member_id) {
            if let Some(instance_id) = member.instance_id {
                self.instances.remove(&instance_id);
            }
            self.target.remove(member_id);
            self.epoch += 1;
        }
    }

    /// Whether the member's subscription is another one.
    fn update(&mut self, now_ms: u64, member_id: &str, beat: Heartbeat) -> bool {
        let timeout_ms = beat.session_timeout_ms;
        let Some(member) = self.members.get_mut(member_id) else {
            return false;
        };
        member.expires_at_ms = now_ms + timeout_ms;
        member.client_id = beat.client_id;
        member.client_host = beat.client_host;
        member.rebalance_timeout_ms =
            beat.rebalance_timeout_ms.unwrap_or(member.rebalance_timeout_ms);
        if beat.rack_id.is_some() {
            member.rack_id = beat.rack_id;
        }
        let mut has_changed = false;
        if let Some(topics) = beat.topics {
            has_changed |= member.topics != topics;
            member.topics = topics;
        }
        if let Some((text, pattern)) = beat.pattern {
            has_changed |= member.pattern_text != text;
            member.pattern_text = text;
            member.pattern = pattern;
        }
        if beat.assignor.is_some() {
            has_changed |= member.assignor != beat.assignor;
            member.assignor = beat.assignor;
        }
        has_changed
    }

    fn subscriptions(&self) -> (BTreeSet<String>, Vec<Pattern>) {
        let names =
            self.members.values().flat_map(|member| member.topics.iter().cloned()).collect();
        let mut patterns = BTreeMap::new();
        for member in self.members.values() {
            if let Some(pattern) = &member.pattern {
                patterns.insert(&member.pattern_text, pattern.clone());
            }
        }
        (names, patterns.into_values().collect())
    }

    /// The strategy that most members ask for.
    fn assignor(&self) -> Assignor {
        let mut votes: BTreeMap<Assignor, usize> = BTreeMap::new();
        for assignor in self.members.values().filter_map(|member| member.assignor) {
            *votes.entry(assignor).or_default() += 1;
        }
        let elected = votes.iter().rev().max_by_key(|(_, count)| **count);
        elected.map_or(Assignor::Uniform, |(assignor, _)| *assignor)
    }

    fn compute_target(&mut self) {
        let wants = |member: &Member| -> BTreeSet<TopicId> {
            let is_wanted = |name: &String| {
                member.topics.contains(name)
                    || member.pattern.as_ref().is_some_and(|pattern| pattern.matches(name))
            };
            let wanted = self.topics.iter().filter(|(name, _)| is_wanted(name));
            wanted.map(|(_, (topic_id, _))| *topic_id).collect()
        };
        let subscribers: BTreeMap<String, BTreeSet<TopicId>> =
            self.members.iter().map(|(id, member)| (id.clone(), wants(member))).collect();
        let topics: BTreeMap<TopicId, u32> = self.topics.values().copied().collect();
        self.target = self.assignor().assign(&topics, &subscribers, &self.target);
        self.target_epoch = self.epoch;
    }

    /// Brings a member nearer to its target.
    fn reconcile(
        &mut self,
        now_ms: u64,
        member_id: &str,
        owned: Option<BTreeSet<Partition>>,
        must_tell: bool,
    ) -> Result<Beat, GroupError> {
        let target = self.target.get(member_id).cloned().unwrap_or_default();
        let of_others: BTreeSet<Partition> = self
            .members
            .iter()
            .filter(|(id, _)| *id != member_id)
            .flat_map(|(_, member)| member.assigned.union(&member.revoking).copied())
            .collect();
        let target_epoch = self.target_epoch;
        let member = self.members.get_mut(member_id).ok_or(GroupError::UnknownMemberId)?;
        let before = member.assigned.clone();
        if member.epoch == JOINING {
            // It has nothing, whatever it had before.
            member.revoking.clear();
            member.revokes_until_ms = None;
        }
        if let Some(owned) = &owned
            && owned.is_disjoint(&member.revoking)
        {
            member.revoking.clear();
            member.revokes_until_ms = None;
        }
        if member.revoking.is_empty() {
            let given_up: BTreeSet<Partition> =
                member.assigned.difference(&target).copied().collect();
            if !given_up.is_empty() {
                member.assigned = member.assigned.intersection(&target).copied().collect();
                if member.epoch != JOINING {
                    member.revokes_until_ms = Some(now_ms + member.rebalance_timeout_ms);
                    member.revoking = given_up;
                }
            }
        }
        if member.revoking.is_empty() {
            if member.epoch != target_epoch {
                member.previous_epoch = member.epoch;
                member.epoch = target_epoch;
            }
            member.assigned.extend(target.difference(&of_others));
        }
        let assignment = (must_tell || member.assigned != before).then(|| member.assigned.clone());
        Ok(Beat { member_id: member_id.to_owned(), epoch: member.epoch, assignment })
    }

    fn is_settled(&self) -> bool {
        let nothing = BTreeSet::new();
        self.members.iter().all(|(id, member)| {
            let target = self.target.get(id).unwrap_or(&nothing);
            member.revoking.is_empty()
                && member.assigned == *target
                && member.epoch == self.target_epoch
        })
    }

    pub(crate) fn describe(&self) -> ConsumerDescription {
        let members = self.members.iter().map(|(member_id, member)| DescribedConsumer {
            member_id: member_id.clone(),
            instance_id: member.instance_id.clone(),
            rack_id: member.rack_id.clone(),
            epoch: member.epoch,
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            topics: member.topics.clone(),
            pattern: member.pattern_text.clone(),
            assigned: member.assigned.clone(),
            target: self.target.get(member_id).cloned().unwrap_or_default(),
        });
        ConsumerDescription {
            state: match () {
                () if self.members.is_empty() => "Empty",
                () if self.target_epoch < self.epoch => "Assigning",
                () if !self.is_settled() => "Reconciling",
                () => "Stable",
            },
            epoch: self.epoch,
            target_epoch: self.target_epoch,
            assignor: self.assignor().name(),
            members: members.collect(),
        }
    }
}

impl Member {
    fn new(now_ms: u64, beat: &Heartbeat) -> Member {
        Member {
            instance_id: beat.instance_id.clone(),
            rack_id: beat.rack_id.clone(),
            client_id: beat.client_id.clone(),
            client_host: beat.client_host.clone(),
            rebalance_timeout_ms: beat.rebalance_timeout_ms.unwrap_or(0),
            topics: BTreeSet::new(),
            pattern_text: String::new(),
            pattern: None,
            assignor: None,
            epoch: JOINING,
            previous_epoch: JOINING,
            assigned: BTreeSet::new(),
            revoking: BTreeSet::new(),
            revokes_until_ms: None,
            expires_at_ms: now_ms,
        }
    }
}

#[cfg(test)]
mod tests;
