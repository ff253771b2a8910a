//! One consumer group: who its members are and which generation of them shares the work.
//!
//! A pure state machine of Kafka's classic group protocol: events with the time in, answers out; no
//! socket, no clock, no storage.
//!
//! ```text
//!            first join                all joined, or time is up          leader's assignment
//!   Empty ─────────────▶ Preparing ──────────────────────▶ Completing ──────────────────▶ Stable
//!     ▲                  │  ▲  ▲                               │                            │
//!     └── nobody is left ┘  │  └── join, leave, lost member ───┘                            │
//!                           └───────────────── join, leave, lost member ────────────────────┘
//! ```
//!
//! A member's request to join or sync is answered when the group gets there; meanwhile the member
//! counts as alive. Source: Kafka's protocol guide, "Group Membership API"; KIP-62 (rebalance
//! timeout), KIP-134 (initial delay), KIP-345 (static members), KIP-394 (member ids).

mod messages;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

pub(crate) use messages::{
    Answer, DescribedMember, Description, Effect, Event, GroupError, Identity, Join, Joined, Sync,
    Ticket,
};

/// How groups behave where Kafka's broker has a setting. Durations in milliseconds.
#[derive(Debug, Clone)]
pub struct GroupOptions {
    /// Shortest session timeout that a member may ask for (`group.min.session.timeout.ms`).
    pub session_timeout_ms_min: u64,
    /// Longest (`group.max.session.timeout.ms`).
    pub session_timeout_ms_max: u64,
    /// How long the first member of an empty group waits for others
    /// (`group.initial.rebalance.delay.ms`; Kafka's is 3000).
    pub initial_delay_ms: u64,
    /// How long a member of the newer protocol may be silent (`group.consumer.session.timeout.ms`).
    pub consumer_session_timeout_ms: u64,
    /// How often it is to report (`group.consumer.heartbeat.interval.ms`).
    pub heartbeat_interval_ms: u64,
    /// How long offsets of a group without members are kept (`offsets.retention.minutes`).
    pub offsets_retention_ms: u64,
    /// Most members of one group (`group.max.size`).
    pub members_max: usize,
    /// How long a member of a share group may be silent (`group.share.session.timeout.ms`).
    pub share_session_timeout_ms: u64,
    /// How often it is to report (`group.share.heartbeat.interval.ms`).
    pub share_heartbeat_interval_ms: u64,
    /// How long it holds a record (`group.share.record.lock.duration.ms`).
    pub share_record_lock_ms: u64,
    /// How often a record is delivered at most (`group.share.delivery.count.limit`).
    pub share_delivery_count_max: u16,
    /// Records of a partition from the first that is not done with, beyond which none is handed out
    /// (`group.share.partition.max.record.locks`).
    pub share_records_max: i64,
    /// Most members of one share group (`group.share.max.size`).
    pub share_members_max: usize,
}

impl Default for GroupOptions {
    fn default() -> GroupOptions {
        GroupOptions {
            session_timeout_ms_min: 6_000,
            session_timeout_ms_max: 1_800_000,
            initial_delay_ms: 100,
            consumer_session_timeout_ms: 45_000,
            heartbeat_interval_ms: 5_000,
            offsets_retention_ms: 7 * 24 * 60 * 60 * 1000,
            members_max: 10_000,
            share_session_timeout_ms: 45_000,
            share_heartbeat_interval_ms: 5_000,
            share_record_lock_ms: 30_000,
            share_delivery_count_max: 5,
            share_records_max: 2_000,
            share_members_max: 200,
        }
    }
}

/// Where the group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Empty,
    /// Members join. `ends_at_ms` is when those who have not are dropped. An initial rebalance
    /// waits until then even if all have joined, for others yet unknown.
    Preparing {
        ends_at_ms: u64,
        initial_since_ms: Option<u64>,
    },
    /// Members wait for the leader's assignment, who has until `ends_at_ms`.
    Completing {
        ends_at_ms: u64,
    },
    Stable,
}

#[derive(Debug, Clone)]
struct Member {
    instance_id: Option<String>,
    client_id: String,
    client_host: String,
    session_timeout_ms: u64,
    rebalance_timeout_ms: u64,
    protocols: Vec<(String, Bytes)>,
    assignment: Bytes,
    /// Its request to join that waits for an answer.
    joining: Option<Ticket>,
    /// Its request to sync that waits for an answer.
    syncing: Option<Ticket>,
    /// When it counts as lost, unless it waits for an answer.
    expires_at_ms: u64,
}

/// A consumer group.
#[derive(Debug)]
pub(crate) struct Group {
    options: GroupOptions,
    state: State,
    /// Counts completed joins.
    generation: i32,
    protocol_type: String,
    protocol_name: String,
    leader: String,
    members: BTreeMap<String, Member>,
    /// Ids given out to those who must come back with them, and until when.
    promised: BTreeMap<String, u64>,
    /// Static members' ids.
    instances: BTreeMap<String, String>,
}

impl Group {
    pub(crate) fn new(options: GroupOptions) -> Group {
        Group {
            options,
            state: State::Empty,
            generation: 0,
            protocol_type: String::new(),
            protocol_name: String::new(),
            leader: String::new(),
            members: BTreeMap::new(),
            promised: BTreeMap::new(),
            instances: BTreeMap::new(),
        }
    }

    /// Takes the group one step further.
    pub(crate) fn step(&mut self, now_ms: u64, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Join { ticket, join } => self.on_join(now_ms, ticket, join, &mut effects),
            Event::Sync { ticket, sync } => self.on_sync(now_ms, ticket, sync, &mut effects),
            Event::Heartbeat { ticket, identity, generation } => {
                let answer = match self.heartbeat(now_ms, &identity, generation) {
                    Ok(()) => Answer::Done,
                    Err(error) => Answer::Refused(error),
                };
                effects.push(Effect::Answer { ticket, answer });
            }
            Event::Leave { ticket, identity } => {
                let answer = match self.leave(now_ms, &identity, &mut effects) {
                    Ok(()) => Answer::Done,
                    Err(error) => Answer::Refused(error),
                };
                effects.push(Effect::Answer { ticket, answer });
            }
            Event::Tick => {}
        }
        self.pass_time(now_ms, &mut effects);
        effects
    }

    /// When [`Event::Tick`] will change something at the earliest.
    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        let members = self.members.values().filter(|member| !member.is_waiting());
        let expiries = members.map(|member| member.expires_at_ms);
        let phase = match self.state {
            State::Preparing { ends_at_ms, .. } | State::Completing { ends_at_ms } => {
                Some(ends_at_ms)
            }
            State::Empty | State::Stable => None,
        };
        expiries.chain(self.promised.values().copied()).chain(phase).min()
    }

    /// Whether nothing would be lost by forgetting the group.
    pub(crate) fn is_empty(&self) -> bool {
        self.state == State::Empty && self.promised.is_empty()
    }

    /// Whether a member, or a consumer that manages its partitions itself, may commit offsets.
    pub(crate) fn may_commit(
        &mut self,
        now_ms: u64,
        identity: &Identity,
        generation: i32,
    ) -> Result<(), GroupError> {
        if generation < 0 && identity.member_id.is_empty() {
            let is_unmanaged = self.state == State::Empty;
            return if is_unmanaged { Ok(()) } else { Err(GroupError::UnknownMemberId) };
        }
        let state = self.state;
        let current = self.generation;
        let member = self.member(identity)?;
        if generation != current {
            return Err(GroupError::IllegalGeneration);
        }
        member.refresh(now_ms);
        match state {
            State::Completing { .. } => Err(GroupError::RebalanceInProgress),
            State::Empty | State::Preparing { .. } | State::Stable => Ok(()),
        }
    }

    pub(crate) fn describe(&self) -> Description {
        let members = self.members.iter().map(|(member_id, member)| DescribedMember {
            member_id: member_id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: member.metadata(&self.protocol_name),
            assignment: member.assignment.clone(),
        });
        Description {
            state: match self.state {
                State::Empty => "Empty",
                State::Preparing { .. } => "PreparingRebalance",
                State::Completing { .. } => "CompletingRebalance",
                State::Stable => "Stable",
            },
            protocol_type: self.protocol_type.clone(),
            protocol_name: match self.state {
                State::Stable => self.protocol_name.clone(),
                _ => String::new(),
            },
            members: members.collect(),
        }
    }

    fn on_join(&mut self, now_ms: u64, ticket: Ticket, join: Join, effects: &mut Vec<Effect>) {
        let came_as = join.identity.member_id.clone();
        if let Err((error, member_id)) = self.join(now_ms, ticket, join, effects) {
            let answer = Answer::NotJoined { error, member_id: member_id.unwrap_or(came_as) };
            effects.push(Effect::Answer { ticket, answer });
        }
    }

    fn join(
        &mut self,
        now_ms: u64,
        ticket: Ticket,
        join: Join,
        effects: &mut Vec<Effect>,
    ) -> Result<(), (GroupError, Option<String>)> {
        let refuse = |error| Err((error, None));
        let timeouts = self.options.session_timeout_ms_min..=self.options.session_timeout_ms_max;
        if !timeouts.contains(&join.session_timeout_ms) {
            return refuse(GroupError::InvalidSessionTimeout);
        }
        if !self.has_common_protocol(&join) {
            return refuse(GroupError::InconsistentGroupProtocol);
        }
        let known_as = join.identity.instance_id.as_ref().and_then(|id| self.instances.get(id));
        let known_as = known_as.cloned();
        if join.identity.member_id.is_empty() {
            if let Some(old_id) = known_as {
                self.replace_static(now_ms, ticket, &old_id, join, effects);
                return Ok(());
            }
            if self.members.len() + self.promised.len() >= self.options.members_max {
                return refuse(GroupError::GroupMaxSizeReached);
            }
            let member_id = join.new_member_id.clone();
            if join.needs_known_id && join.identity.instance_id.is_none() {
                self.promised.insert(member_id.clone(), now_ms + join.session_timeout_ms);
                return Err((GroupError::MemberIdRequired, Some(member_id)));
            }
            self.add(now_ms, ticket, member_id, join, effects);
            return Ok(());
        }
        let member_id = join.identity.member_id.clone();
        if known_as.is_some_and(|known_as| known_as != member_id) {
            return refuse(GroupError::FencedInstanceId);
        }
        if self.promised.remove(&member_id).is_some() {
            self.add(now_ms, ticket, member_id, join, effects);
            return Ok(());
        }
        if !self.members.contains_key(&member_id) {
            return refuse(GroupError::UnknownMemberId);
        }
        self.rejoin(now_ms, ticket, member_id, join, effects);
        Ok(())
    }

    /// The members' protocol type, and at least one strategy that all of them have.
    fn has_common_protocol(&self, join: &Join) -> bool {
        if join.protocols.is_empty() || join.protocol_type.is_empty() {
            return false;
        }
        let mut others = self
            .members
            .iter()
            .filter(|(member_id, _)| **member_id != join.identity.member_id)
            .map(|(_, member)| member)
            .peekable();
        if others.peek().is_none() {
            return true;
        }
        let others: Vec<&Member> = others.collect();
        let is_common =
            |name: &String| others.iter().all(|other| other.protocols.iter().any(|p| p.0 == *name));
        self.protocol_type == join.protocol_type
            && join.protocols.iter().any(|(name, _)| is_common(name))
    }

    fn add(
        &mut self,
        now_ms: u64,
        ticket: Ticket,
        member_id: String,
        join: Join,
        effects: &mut Vec<Effect>,
    ) {
        if self.members.is_empty() {
            self.protocol_type = join.protocol_type.clone();
        }
        if let Some(instance_id) = &join.identity.instance_id {
            self.instances.insert(instance_id.clone(), member_id.clone());
        }
        self.members.insert(member_id, Member::new(now_ms, ticket, join));
        match &mut self.state {
            State::Preparing { ends_at_ms, initial_since_ms: Some(since_ms) } => {
                // Each newcomer extends the wait for further ones, within the rebalance timeout.
                let last_ms = *since_ms + longest_rebalance_ms(&self.members);
                *ends_at_ms = (now_ms + self.options.initial_delay_ms).min(last_ms);
            }
            State::Preparing { .. } => {}
            State::Empty | State::Completing { .. } | State::Stable => {
                self.prepare_rebalance(now_ms, effects);
            }
        }
    }

    fn rejoin(
        &mut self,
        now_ms: u64,
        ticket: Ticket,
        member_id: String,
        join: Join,
        effects: &mut Vec<Effect>,
    ) {
        let is_leader = self.leader == member_id;
        let state = self.state;
        let Some(member) = self.members.get_mut(&member_id) else {
            return;
        };
        let is_unchanged = member.protocols == join.protocols;
        // A request sent again replaces the one before, whose client no longer waits for it.
        if let Some(before) = member.joining.take() {
            let error = GroupError::RebalanceInProgress;
            let answer = Answer::NotJoined { error, member_id: member_id.clone() };
            effects.push(Effect::Answer { ticket: before, answer });
        }
        member.update(now_ms, join);
        let has_answer = match state {
            // It lost the answer: the generation is the same.
            State::Completing { .. } => is_unchanged,
            // A leader that joins again has seen something that the others have not.
            State::Stable => is_unchanged && !is_leader,
            State::Empty | State::Preparing { .. } => false,
        };
        if has_answer {
            let answer = Answer::Joined(self.joined(&member_id));
            effects.push(Effect::Answer { ticket, answer });
            return;
        }
        member.joining = Some(ticket);
        if !matches!(state, State::Preparing { .. }) {
            self.prepare_rebalance(now_ms, effects);
        }
    }

    /// A static member is back under a new id and takes the place of its former self.
    fn replace_static(
        &mut self,
        now_ms: u64,
        ticket: Ticket,
        old_id: &str,
        join: Join,
        effects: &mut Vec<Effect>,
    ) {
        let Some(mut member) = self.members.remove(old_id) else {
            return;
        };
        let member_id = join.new_member_id.clone();
        for before in [member.joining.take(), member.syncing.take()].into_iter().flatten() {
            let error = GroupError::FencedInstanceId;
            let answer = Answer::NotJoined { error, member_id: old_id.to_owned() };
            effects.push(Effect::Answer { ticket: before, answer });
        }
        let old_leader = self.leader.clone();
        if self.leader == old_id {
            self.leader = member_id.clone();
        }
        if let Some(instance_id) = &join.identity.instance_id {
            self.instances.insert(instance_id.clone(), member_id.clone());
        }
        let is_unchanged = member.protocols == join.protocols;
        member.update(now_ms, join);
        if self.state == State::Stable && is_unchanged {
            self.members.insert(member_id.clone(), member);
            // It keeps its assignment. Naming the former leader makes it sync as a follower.
            let joined =
                Joined { leader: old_leader, members: Vec::new(), ..self.joined(&member_id) };
            effects.push(Effect::Answer { ticket, answer: Answer::Joined(joined) });
            return;
        }
        member.joining = Some(ticket);
        self.members.insert(member_id, member);
        if !matches!(self.state, State::Preparing { .. }) {
            self.prepare_rebalance(now_ms, effects);
        }
    }

    fn prepare_rebalance(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        for member in self.members.values_mut() {
            if let Some(ticket) = member.syncing.take() {
                let answer = Answer::Refused(GroupError::RebalanceInProgress);
                effects.push(Effect::Answer { ticket, answer });
            }
        }
        self.state = match self.state {
            State::Empty => State::Preparing {
                ends_at_ms: now_ms + self.options.initial_delay_ms,
                initial_since_ms: Some(now_ms),
            },
            _ => State::Preparing {
                ends_at_ms: now_ms + longest_rebalance_ms(&self.members),
                initial_since_ms: None,
            },
        };
    }

    /// Does whatever the time, or the last member's joining, makes due.
    fn pass_time(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        self.promised.retain(|_, until_ms| *until_ms > now_ms);
        let is_lost = |member: &Member| !member.is_waiting() && member.expires_at_ms <= now_ms;
        let lost: Vec<String> = self.ids_of(is_lost);
        self.remove_all(now_ms, &lost, effects);
        if let State::Completing { ends_at_ms } = self.state
            && ends_at_ms <= now_ms
        {
            let silent = self.ids_of(|member| member.syncing.is_none());
            self.remove_all(now_ms, &silent, effects);
            if matches!(self.state, State::Completing { .. }) {
                self.prepare_rebalance(now_ms, effects);
            }
        }
        if let State::Preparing { ends_at_ms, initial_since_ms } = self.state {
            let have_all_joined = self.promised.is_empty()
                && self.members.values().all(|member| member.joining.is_some());
            let is_early = initial_since_ms.is_none() && have_all_joined;
            if is_early || ends_at_ms <= now_ms || self.members.is_empty() {
                self.complete_join(now_ms, effects);
            }
        }
    }

    fn ids_of(&self, is_wanted: impl Fn(&Member) -> bool) -> Vec<String> {
        let wanted = self.members.iter().filter(|(_, member)| is_wanted(member));
        wanted.map(|(member_id, _)| member_id.clone()).collect()
    }

    fn remove_all(&mut self, now_ms: u64, member_ids: &[String], effects: &mut Vec<Effect>) {
        for member_id in member_ids {
            self.remove(member_id, effects);
        }
        let is_running = matches!(self.state, State::Completing { .. } | State::Stable);
        if !member_ids.is_empty() && is_running {
            self.prepare_rebalance(now_ms, effects);
        }
    }

    fn remove(&mut self, member_id: &str, effects: &mut Vec<Effect>) {
        let Some(member) = self.members.remove(member_id) else {
            return;
        };
        if let Some(instance_id) = &member.instance_id {
            self.instances.remove(instance_id);
        }
        let error = GroupError::UnknownMemberId;
        if let Some(ticket) = member.joining {
            let answer = Answer::NotJoined { error, member_id: member_id.to_owned() };
            effects.push(Effect::Answer { ticket, answer });
        }
        if let Some(ticket) = member.syncing {
            effects.push(Effect::Answer { ticket, answer: Answer::Refused(error) });
        }
    }

    /// A new generation of those who have joined; the others are dropped, except static members,
    /// whose place is kept until their session ends.
    fn complete_join(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        let absent = self.ids_of(|member| member.joining.is_none() && member.instance_id.is_none());
        for member_id in &absent {
            self.remove(member_id, effects);
        }
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        if self.members.is_empty() {
            self.state = State::Empty;
            self.protocol_name.clear();
            self.leader.clear();
            return;
        }
        if self.members.values().all(|member| member.joining.is_none()) {
            // Static members only, and none is back: there is nobody to lead yet.
            let ends_at_ms = now_ms + longest_rebalance_ms(&self.members);
            self.state = State::Preparing { ends_at_ms, initial_since_ms: None };
            return;
        }
        self.protocol_name = self.elect_protocol();
        let leads = |member: Option<&Member>| member.is_some_and(|member| member.joining.is_some());
        if !leads(self.members.get(&self.leader)) {
            let first = self.members.iter().find(|(_, member)| member.joining.is_some());
            self.leader = first.map(|(member_id, _)| member_id.clone()).unwrap_or_default();
        }
        let ends_at_ms = now_ms + longest_rebalance_ms(&self.members);
        self.state = State::Completing { ends_at_ms };
        let member_ids: Vec<String> = self.members.keys().cloned().collect();
        for member_id in member_ids {
            let joined = self.joined(&member_id);
            if let Some(member) = self.members.get_mut(&member_id) {
                member.assignment = Bytes::new();
                member.refresh(now_ms);
                if let Some(ticket) = member.joining.take() {
                    effects.push(Effect::Answer { ticket, answer: Answer::Joined(joined) });
                }
            }
        }
    }

    /// Of the strategies that all members have, the one that most of them prefer; by name if equal.
    fn elect_protocol(&self) -> String {
        let mut common: Option<BTreeSet<&String>> = None;
        for member in self.members.values() {
            let names: BTreeSet<&String> = member.protocols.iter().map(|p| &p.0).collect();
            common = Some(match common {
                Some(common) => common.intersection(&names).copied().collect(),
                None => names,
            });
        }
        let common = common.unwrap_or_default();
        let mut votes: BTreeMap<&String, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|p| common.contains(&p.0)) {
                *votes.entry(name).or_default() += 1;
            }
        }
        let elected = votes.iter().rev().max_by_key(|(_, count)| **count);
        elected.map(|(name, _)| (*name).clone()).unwrap_or_default()
    }

    fn joined(&self, member_id: &str) -> Joined {
        let members = if self.leader == member_id {
            let members = self.members.iter().map(|(id, member)| {
                (id.clone(), member.instance_id.clone(), member.metadata(&self.protocol_name))
            });
            members.collect()
        } else {
            Vec::new()
        };
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            leader: self.leader.clone(),
            member_id: member_id.to_owned(),
            members,
        }
    }

    fn on_sync(&mut self, now_ms: u64, ticket: Ticket, sync: Sync, effects: &mut Vec<Effect>) {
        match self.sync(now_ms, ticket, sync, effects) {
            Ok(Some(answer)) => effects.push(Effect::Answer { ticket, answer }),
            Ok(None) => {}
            Err(error) => {
                effects.push(Effect::Answer { ticket, answer: Answer::Refused(error) });
            }
        }
    }

    fn sync(
        &mut self,
        now_ms: u64,
        ticket: Ticket,
        sync: Sync,
        effects: &mut Vec<Effect>,
    ) -> Result<Option<Answer>, GroupError> {
        let (state, generation) = (self.state, self.generation);
        let is_leader = self.leader == sync.identity.member_id;
        let is_same = |said: &Option<String>, is: &String| said.as_ref().is_none_or(|s| s == is);
        let has_same_protocol = is_same(&sync.protocol_type, &self.protocol_type)
            && is_same(&sync.protocol_name, &self.protocol_name);
        let member = self.member(&sync.identity)?;
        if sync.generation != generation {
            return Err(GroupError::IllegalGeneration);
        }
        if !has_same_protocol {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        member.refresh(now_ms);
        match state {
            State::Empty => Err(GroupError::UnknownMemberId),
            State::Preparing { .. } => Err(GroupError::RebalanceInProgress),
            State::Stable => {
                let assignment = member.assignment.clone();
                Ok(Some(self.synced(assignment)))
            }
            State::Completing { .. } => {
                if let Some(before) = member.syncing.replace(ticket) {
                    let answer = Answer::Refused(GroupError::RebalanceInProgress);
                    effects.push(Effect::Answer { ticket: before, answer });
                }
                if is_leader {
                    self.become_stable(now_ms, sync.assignments, effects);
                }
                Ok(None)
            }
        }
    }

    fn become_stable(
        &mut self,
        now_ms: u64,
        assignments: Vec<(String, Bytes)>,
        effects: &mut Vec<Effect>,
    ) {
        for (member_id, assignment) in assignments {
            if let Some(member) = self.members.get_mut(&member_id) {
                member.assignment = assignment;
            }
        }
        self.state = State::Stable;
        let mut waiting = Vec::new();
        for member in self.members.values_mut() {
            if let Some(ticket) = member.syncing.take() {
                member.refresh(now_ms);
                waiting.push((ticket, member.assignment.clone()));
            }
        }
        for (ticket, assignment) in waiting {
            let answer = self.synced(assignment);
            effects.push(Effect::Answer { ticket, answer });
        }
    }

    fn synced(&self, assignment: Bytes) -> Answer {
        Answer::Synced {
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol_name.clone(),
            assignment,
        }
    }

    fn heartbeat(
        &mut self,
        now_ms: u64,
        identity: &Identity,
        generation: i32,
    ) -> Result<(), GroupError> {
        let (state, current) = (self.state, self.generation);
        let member = self.member(identity)?;
        if generation != current {
            return Err(GroupError::IllegalGeneration);
        }
        member.refresh(now_ms);
        match state {
            State::Empty => Err(GroupError::UnknownMemberId),
            State::Preparing { .. } => Err(GroupError::RebalanceInProgress),
            State::Completing { .. } | State::Stable => Ok(()),
        }
    }

    fn leave(
        &mut self,
        now_ms: u64,
        identity: &Identity,
        effects: &mut Vec<Effect>,
    ) -> Result<(), GroupError> {
        if self.promised.remove(&identity.member_id).is_some() {
            return Ok(());
        }
        let member_id = match (&identity.instance_id, identity.member_id.is_empty()) {
            // An administrator removes a static member by its instance alone.
            (Some(instance_id), true) => {
                self.instances.get(instance_id).cloned().ok_or(GroupError::UnknownMemberId)?
            }
            _ => {
                self.member(identity)?;
                identity.member_id.clone()
            }
        };
        self.remove_all(now_ms, &[member_id], effects);
        Ok(())
    }

    /// The member that `identity` names, if it is still the one that its instance means.
    fn member(&mut self, identity: &Identity) -> Result<&mut Member, GroupError> {
        if let Some(instance_id) = &identity.instance_id {
            match self.instances.get(instance_id) {
                Some(member_id) if *member_id != identity.member_id => {
                    return Err(GroupError::FencedInstanceId);
                }
                Some(_) => {}
                None => return Err(GroupError::UnknownMemberId),
            }
        }
        self.members.get_mut(&identity.member_id).ok_or(GroupError::UnknownMemberId)
    }
}

fn longest_rebalance_ms(members: &BTreeMap<String, Member>) -> u64 {
    members.values().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0)
}

impl Member {
    fn new(now_ms: u64, ticket: Ticket, join: Join) -> Member {
        Member {
            instance_id: join.identity.instance_id,
            client_id: join.client_id,
            client_host: join.client_host,
            session_timeout_ms: join.session_timeout_ms,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            protocols: join.protocols,
            assignment: Bytes::new(),
            joining: Some(ticket),
            syncing: None,
            expires_at_ms: now_ms + join.session_timeout_ms,
        }
    }

    fn update(&mut self, now_ms: u64, join: Join) {
        self.client_id = join.client_id;
        self.client_host = join.client_host;
        self.session_timeout_ms = join.session_timeout_ms;
        self.rebalance_timeout_ms = join.rebalance_timeout_ms;
        self.protocols = join.protocols;
        self.refresh(now_ms);
    }

    fn refresh(&mut self, now_ms: u64) {
        self.expires_at_ms = now_ms + self.session_timeout_ms;
    }

    fn is_waiting(&self) -> bool {
        self.joining.is_some() || self.syncing.is_some()
    }

    fn metadata(&self, protocol_name: &str) -> Bytes {
        let found = self.protocols.iter().find(|(name, _)| name == protocol_name);
        found.map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
