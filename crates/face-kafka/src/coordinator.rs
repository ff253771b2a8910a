//! All consumer groups of this node: brings events, time and answers to and from [`Group`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use proteus_env::{Clock, task};
use proteus_kernel_api::Kernel;
use tokio::sync::{Notify, oneshot};

use crate::consumer_group::{
    Beat, ConsumerDescription, ConsumerGroup, Heartbeat, Topics as ConsumedTopics,
};
use crate::group::{
    Answer, Description, Effect, Event, Group, GroupError, GroupOptions, Identity, Ticket,
};
use crate::pattern::Pattern;
use crate::share::group::{ShareAnswer, ShareBeat, ShareGroup};

/// Most groups with members at once.
const GROUPS_MAX: usize = 100_000;
/// How long the keeper of time sleeps when no group waits for anything.
const IDLE: Duration = Duration::from_secs(3600);

/// The groups.
pub(crate) struct Coordinator {
    kernel: Arc<dyn Kernel>,
    clock: Arc<dyn Clock>,
    options: GroupOptions,
    groups: Mutex<Groups>,
    /// A deadline came nearer than the one the keeper sleeps for.
    nearer: Notify,
    keeps_time: AtomicBool,
}

#[derive(Default)]
struct Groups {
    by_id: BTreeMap<String, Group>,
    /// Those of the newer protocol. No id is in both.
    consumers: BTreeMap<String, ConsumerGroup>,
    /// Share groups. Their ids are in none of the others.
    shares: BTreeMap<String, ShareGroup>,
    waiting: HashMap<Ticket, oneshot::Sender<Answer>>,
    next_ticket: Ticket,
    /// When the keeper wakes by itself.
    wakes_at_ms: Option<u64>,
}

impl Coordinator {
    pub(crate) fn new(
        kernel: Arc<dyn Kernel>,
        clock: Arc<dyn Clock>,
        options: GroupOptions,
    ) -> Arc<Coordinator> {
        Arc::new(Coordinator {
            kernel,
            clock,
            options,
            groups: Mutex::default(),
            nearer: Notify::new(),
            keeps_time: AtomicBool::new(false),
        })
    }

    /// The groups, if this node coordinates. One that does not, or does not any more, knows of none:
    /// their members meet elsewhere.
    fn groups(&self) -> Result<MutexGuard<'_, Groups>, GroupError> {
        let mut groups = self.groups.lock();
        if self.kernel.leads() {
            return Ok(groups);
        }
        groups.by_id.clear();
        groups.consumers.clear();
        groups.shares.clear();
        for (_, waiting) in groups.waiting.drain() {
            // Who stopped waiting has found out already.
            let _ = waiting.send(Answer::Refused(GroupError::NotCoordinator));
        }
        Err(GroupError::NotCoordinator)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Gives an event to a group, which is made if it is not there; the answer comes when the group
    /// gets there.
    pub(crate) fn submit(
        self: &Arc<Self>,
        group_id: &str,
        event: impl FnOnce(Ticket) -> Event,
    ) -> oneshot::Receiver<Answer> {
        let (sender, receiver) = oneshot::channel();
        let now_ms = self.now_ms();
        let mut groups = match self.groups() {
            Ok(groups) => groups,
            Err(error) => {
                let _ = sender.send(Answer::Refused(error));
                return receiver;
            }
        };
        if groups.by_id.len() >= GROUPS_MAX && !groups.by_id.contains_key(group_id) {
            let _ = sender.send(Answer::Refused(GroupError::GroupMaxSizeReached));
            return receiver;
        }
        if groups.consumers.contains_key(group_id) || groups.shares.contains_key(group_id) {
            let _ = sender.send(Answer::Refused(GroupError::OtherProtocol));
            return receiver;
        }
        let ticket = groups.next_ticket;
        groups.next_ticket += 1;
        groups.waiting.insert(ticket, sender);
        let group = groups
            .by_id
            .entry(group_id.to_owned())
            .or_insert_with(|| Group::new(self.options.clone()));
        let effects = group.step(now_ms, event(ticket));
        let deadline_ms = group.next_deadline_ms();
        if group.is_empty() {
            groups.by_id.remove(group_id);
        }
        groups.carry_out(effects);
        let is_nearer = groups.is_nearer(deadline_ms);
        drop(groups);
        self.keep_deadline(is_nearer);
        receiver
    }

    /// Sees to it that the keeper of time runs, and knows of a deadline that came nearer.
    fn keep_deadline(self: &Arc<Self>, is_nearer: bool) {
        if !self.keeps_time.swap(true, Ordering::AcqRel) {
            let keeper = Arc::downgrade(self);
            task::spawn(keep_time(keeper));
        } else if is_nearer {
            self.nearer.notify_one();
        }
    }

    /// Gives a heartbeat to a group of the newer protocol, which is made if somebody joins.
    pub(crate) fn heartbeat<E: From<GroupError>>(
        self: &Arc<Self>,
        group_id: &str,
        beat: Heartbeat,
        resolve: impl FnOnce(&BTreeSet<String>, &[Pattern]) -> Result<ConsumedTopics, E>,
    ) -> Result<Beat, E> {
        let now_ms = self.now_ms();
        let mut groups = self.groups()?;
        if groups.by_id.contains_key(group_id) || groups.shares.contains_key(group_id) {
            return Err(GroupError::OtherProtocol.into());
        }
        if groups.consumers.len() >= GROUPS_MAX && !groups.consumers.contains_key(group_id) {
            return Err(GroupError::GroupMaxSizeReached.into());
        }
        let group = groups
            .consumers
            .entry(group_id.to_owned())
            .or_insert_with(|| ConsumerGroup::new(self.options.clone()));
        group.pass_time(now_ms);
        let answer = group.heartbeat(now_ms, beat, resolve);
        let deadline_ms = group.next_deadline_ms();
        if group.is_empty() {
            groups.consumers.remove(group_id);
        }
        let is_nearer = groups.is_nearer(deadline_ms);
        drop(groups);
        self.keep_deadline(is_nearer);
        answer
    }

    /// Gives a heartbeat to a share group, which is made if somebody joins.
    pub(crate) fn share_heartbeat<E: From<GroupError>>(
        self: &Arc<Self>,
        group_id: &str,
        limits: (u64, usize),
        beat: ShareBeat,
        resolve: impl FnOnce(&BTreeSet<String>) -> Result<ConsumedTopics, E>,
    ) -> Result<ShareAnswer, E> {
        let now_ms = self.now_ms();
        let mut groups = self.groups()?;
        if groups.by_id.contains_key(group_id) || groups.consumers.contains_key(group_id) {
            return Err(GroupError::OtherProtocol.into());
        }
        if groups.shares.len() >= GROUPS_MAX && !groups.shares.contains_key(group_id) {
            return Err(GroupError::GroupMaxSizeReached.into());
        }
        let group = groups.shares.entry(group_id.to_owned()).or_default();
        group.pass_time(now_ms);
        let answer = group.heartbeat(now_ms, limits, beat, resolve);
        let deadline_ms = group.next_deadline_ms();
        if group.is_empty() {
            groups.shares.remove(group_id);
        }
        let is_nearer = groups.is_nearer(deadline_ms);
        drop(groups);
        self.keep_deadline(is_nearer);
        answer
    }

    /// A share group with members.
    pub(crate) fn describe_share(&self, group_id: &str) -> Option<ShareGroup> {
        self.groups.lock().shares.get(group_id).cloned()
    }

    /// The names of all share groups with members.
    pub(crate) fn list_shares(&self) -> Vec<String> {
        self.groups.lock().shares.keys().cloned().collect()
    }

    /// A group of the newer protocol with members.
    pub(crate) fn describe_consumer(&self, group_id: &str) -> Option<ConsumerDescription> {
        self.groups.lock().consumers.get(group_id).map(ConsumerGroup::describe)
    }

    /// All groups of the newer protocol with members.
    pub(crate) fn list_consumers(&self) -> Vec<(String, ConsumerDescription)> {
        let groups = self.groups.lock();
        groups.consumers.iter().map(|(id, group)| (id.clone(), group.describe())).collect()
    }

    /// Whether the group has members, of any protocol.
    pub(crate) fn has_members(&self, group_id: &str) -> bool {
        let groups = self.groups.lock();
        groups.by_id.contains_key(group_id)
            || groups.consumers.contains_key(group_id)
            || groups.shares.contains_key(group_id)
    }

    /// Whether a member of the newer protocol has the epoch it says; others need none.
    pub(crate) fn may_fetch(
        &self,
        group_id: &str,
        member_id: &str,
        epoch: i32,
    ) -> Result<(), GroupError> {
        match self.groups()?.consumers.get(group_id) {
            Some(group) if !member_id.is_empty() || epoch >= 0 => {
                group.may_commit(member_id, epoch)
            }
            _ => Ok(()),
        }
    }

    /// Whether offsets may be committed for the group in this name.
    pub(crate) fn may_commit(
        &self,
        group_id: &str,
        identity: &Identity,
        generation: i32,
    ) -> Result<(), GroupError> {
        let now_ms = self.now_ms();
        let mut groups = self.groups()?;
        if let Some(group) = groups.consumers.get(group_id) {
            return group.may_commit(&identity.member_id, generation);
        }
        match groups.by_id.get_mut(group_id) {
            Some(group) => group.may_commit(now_ms, identity, generation),
            None => Group::new(self.options.clone()).may_commit(now_ms, identity, generation),
        }
    }

    /// A group with members; `None` if it has none.
    pub(crate) fn describe(&self, group_id: &str) -> Option<Description> {
        self.groups.lock().by_id.get(group_id).map(Group::describe)
    }

    /// All groups with members.
    pub(crate) fn list(&self) -> Vec<(String, Description)> {
        let groups = self.groups.lock();
        groups.by_id.iter().map(|(id, group)| (id.clone(), group.describe())).collect()
    }

    /// Moves every group on whose time has come; when to do so again.
    fn tick(&self) -> Duration {
        let now_ms = self.now_ms();
        let mut groups = self.groups.lock();
        let is_due = |group: &Group| group.next_deadline_ms().is_some_and(|at| at <= now_ms);
        let mut effects = Vec::new();
        groups.by_id.retain(|_, group| {
            if is_due(group) {
                effects.extend(group.step(now_ms, Event::Tick));
            }
            !group.is_empty()
        });
        groups.carry_out(effects);
        groups.consumers.retain(|_, group| {
            group.pass_time(now_ms);
            !group.is_empty()
        });
        groups.shares.retain(|_, group| {
            group.pass_time(now_ms);
            !group.is_empty()
        });
        let shares = groups.shares.values().filter_map(ShareGroup::next_deadline_ms);
        let classic = groups.by_id.values().filter_map(Group::next_deadline_ms);
        let consumers = groups.consumers.values().filter_map(ConsumerGroup::next_deadline_ms);
        groups.wakes_at_ms = classic.chain(consumers).chain(shares).min();
        match groups.wakes_at_ms {
            // At least a millisecond, so that a deadline that just passed does not spin.
            Some(at_ms) => Duration::from_millis(at_ms.saturating_sub(now_ms).max(1)),
            None => IDLE,
        }
    }
}

impl Groups {
    fn is_nearer(&self, deadline_ms: Option<u64>) -> bool {
        match (deadline_ms, self.wakes_at_ms) {
            (Some(deadline_ms), Some(wakes_at_ms)) => deadline_ms < wakes_at_ms,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for Effect::Answer { ticket, answer } in effects {
            if let Some(sender) = self.waiting.remove(&ticket) {
                // A client that is gone needs no answer.
                let _ = sender.send(answer);
            }
        }
    }
}

async fn keep_time(coordinator: std::sync::Weak<Coordinator>) {
    while let Some(coordinator) = coordinator.upgrade() {
        let sleep = coordinator.tick();
        // Held across the wait, or nobody could notify it; a face lives as long as its node.
        let _ = task::timeout(sleep, coordinator.nearer.notified()).await;
    }
}
