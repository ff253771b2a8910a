//! All consumer groups of this node: brings events, time and answers to and from [`Group`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use proteus_env::{Clock, task};
use tokio::sync::{Notify, oneshot};

use crate::group::{
    Answer, Description, Effect, Event, Group, GroupError, GroupOptions, Identity, Ticket,
};

/// Most groups with members at once.
const GROUPS_MAX: usize = 100_000;
/// How long the keeper of time sleeps when no group waits for anything.
const IDLE: Duration = Duration::from_secs(3600);

/// The groups.
pub(crate) struct Coordinator {
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
    waiting: HashMap<Ticket, oneshot::Sender<Answer>>,
    next_ticket: Ticket,
    /// When the keeper wakes by itself.
    wakes_at_ms: Option<u64>,
}

impl Coordinator {
    pub(crate) fn new(clock: Arc<dyn Clock>, options: GroupOptions) -> Arc<Coordinator> {
        Arc::new(Coordinator {
            clock,
            options,
            groups: Mutex::default(),
            nearer: Notify::new(),
            keeps_time: AtomicBool::new(false),
        })
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
        let mut groups = self.groups.lock();
        if groups.by_id.len() >= GROUPS_MAX && !groups.by_id.contains_key(group_id) {
            let _ = sender.send(Answer::Refused(GroupError::GroupMaxSizeReached));
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
        let is_nearer = match (deadline_ms, groups.wakes_at_ms) {
            (Some(deadline_ms), Some(wakes_at_ms)) => deadline_ms < wakes_at_ms,
            (Some(_), None) => true,
            (None, _) => false,
        };
        drop(groups);
        if !self.keeps_time.swap(true, Ordering::AcqRel) {
            let keeper = Arc::downgrade(self);
            task::spawn(keep_time(keeper));
        } else if is_nearer {
            self.nearer.notify_one();
        }
        receiver
    }

    /// Whether offsets may be committed for the group in this name.
    pub(crate) fn may_commit(
        &self,
        group_id: &str,
        identity: &Identity,
        generation: i32,
    ) -> Result<(), GroupError> {
        let now_ms = self.now_ms();
        match self.groups.lock().by_id.get_mut(group_id) {
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
        groups.wakes_at_ms = groups.by_id.values().filter_map(Group::next_deadline_ms).min();
        match groups.wakes_at_ms {
            // At least a millisecond, so that a deadline that just passed does not spin.
            Some(at_ms) => Duration::from_millis(at_ms.saturating_sub(now_ms).max(1)),
            None => IDLE,
        }
    }
}

impl Groups {
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
