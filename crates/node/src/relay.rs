//! What happens to keys of shards that are not here: told by a node that has a replica, so that who waits for a key
//! here, keeps a copy of one, or wants to be told of changes, learns of it.
//!
//! A node that has the shard remembers what happened lately, for as long as somebody asks. Who asks names the last
//! that it has heard of; if that is not known, or not remembered any more, it is told that there is a gap, and has
//! all who follow look again.
//!
//! ```text
//! question = shard u32 │ epoch u64 │ after u64
//! answer   = epoch u64 │ upto u64 │ has gap u8 │ commits
//! ```
//! Little-endian; the epoch is drawn by the node that has the shard, each time it opens it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use parking_lot::Mutex;
use proteus_env::{Clock, random, task};
use proteus_kernel::Shards;
use proteus_kernel_api::cache::{self, Class};
use proteus_kernel_api::{Change, Commit};
use proteus_types::{CommitTs, ShardId};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use crate::admin::{SERVICE_RELAY, call_within};
use crate::cluster::Cluster;

/// Commits that are remembered, and their bytes.
const REMEMBERED_MAX: usize = 8_192;
const REMEMBERED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of one answer, unless one commit alone has more.
const ANSWER_BYTES: usize = 1024 * 1024;

/// How long a question waits for something to happen.
const WAIT: Duration = Duration::from_secs(5);

/// How long after the last question things are remembered.
const FORGET_AFTER: Duration = Duration::from_secs(20);

/// Pause before a node that did not answer is asked again, and between looks at which shards are not here.
const RETRY: Duration = Duration::from_millis(200);

/// Names of events that a node comes to know from others, at most, and their bytes.
const NAMES_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 64;

/// What happened in a shard that is here, for nodes that do not have it.
pub(crate) struct Relay {
    epoch: u64,
    is_wanted: AtomicBool,
    recent: Mutex<Recent>,
    grown: Notify,
}

#[derive(Default)]
struct Recent {
    commits: VecDeque<Bytes>,
    bytes: usize,
    /// The number of the first that is remembered; they are counted from 1.
    first: u64,
    asked: Duration,
}

/// A commit as it is told.
#[derive(Serialize, Deserialize)]
struct Told {
    commit_ts: CommitTs,
    events: Vec<Event>,
}

#[derive(Serialize, Deserialize)]
enum Event {
    Key { db: u8, key: Bytes, class: Class, event: String, origin: u64 },
    Cleared { db: u8 },
}

impl Recent {
    fn forget(&mut self) {
        // One more than there were, so that everybody who asks is told.
        self.first += self.commits.len() as u64 + 1;
        self.commits.clear();
        self.bytes = 0;
    }
}

impl Default for Relay {
    fn default() -> Relay {
        Relay {
            epoch: random::random_u64() | 1,
            is_wanted: AtomicBool::new(false),
            recent: Mutex::new(Recent { first: 1, ..Recent::default() }),
            grown: Notify::new(),
        }
    }
}

impl Relay {
    /// Remembers a commit, if anybody asks.
    pub(crate) fn note(&self, commit: &Commit) {
        if !self.is_wanted.load(Ordering::Acquire) {
            return;
        }
        let events: Vec<Event> = commit.changes.iter().filter_map(event_of).collect();
        if events.is_empty() {
            return;
        }
        let told = Told { commit_ts: commit.commit_ts, events };
        let Ok(bytes) = postcard::to_stdvec(&told) else { return };
        let mut recent = self.recent.lock();
        recent.bytes += bytes.len();
        recent.commits.push_back(Bytes::from(bytes));
        while recent.commits.len() > REMEMBERED_MAX || recent.bytes > REMEMBERED_BYTES_MAX {
            let Some(oldest) = recent.commits.pop_front() else { break };
            recent.bytes -= oldest.len();
            recent.first += 1;
        }
        drop(recent);
        self.grown.notify_waiters();
    }

    /// What was before is not remembered: the state was replaced.
    pub(crate) fn note_gap(&self) {
        self.recent.lock().forget();
        self.grown.notify_waiters();
    }

    /// Forgets if nobody has asked for long.
    fn look_after(&self, now: Duration) {
        if !self.is_wanted.load(Ordering::Acquire) {
            return;
        }
        let mut recent = self.recent.lock();
        if now.saturating_sub(recent.asked) > FORGET_AFTER {
            self.is_wanted.store(false, Ordering::Release);
            recent.forget();
        }
    }

    async fn answer(&self, clock: &dyn Clock, epoch: u64, after: u64) -> Bytes {
        let give_up_at = clock.elapsed() + WAIT;
        loop {
            let grown = self.grown.notified();
            tokio::pin!(grown);
            grown.as_mut().enable();
            let found = {
                let mut recent = self.recent.lock();
                recent.asked = clock.elapsed();
                let was_wanted = self.is_wanted.swap(true, Ordering::AcqRel);
                let end = recent.first + recent.commits.len() as u64;
                let is_known =
                    was_wanted && epoch == self.epoch && after + 1 >= recent.first && after < end;
                match is_known {
                    false => Some((end - 1, true, Vec::new())),
                    true if after + 1 == end => None,
                    true => {
                        let start = usize::try_from(after + 1 - recent.first).unwrap_or(usize::MAX);
                        let (mut commits, mut bytes) = (Vec::new(), 0);
                        for commit in recent.commits.iter().skip(start) {
                            bytes += commit.len();
                            if bytes > ANSWER_BYTES && !commits.is_empty() {
                                break;
                            }
                            commits.push(commit.clone());
                        }
                        Some((after + commits.len() as u64, false, commits))
                    }
                }
            };
            let left = give_up_at.saturating_sub(clock.elapsed());
            let (upto, has_gap, commits) = match found {
                Some(found) => found,
                None if left.is_zero() => (after, false, Vec::new()),
                None => {
                    task::timeout(left, grown).await;
                    continue;
                }
            };
            let mut answer = Vec::new();
            answer.put_u64_le(self.epoch);
            answer.put_u64_le(upto);
            answer.put_u8(has_gap.into());
            for commit in commits {
                answer.put_u32_le(u32::try_from(commit.len()).unwrap_or(u32::MAX));
                answer.extend_from_slice(&commit);
            }
            return Bytes::from(answer);
        }
    }
}

fn event_of(change: &Change) -> Option<Event> {
    let Change::Cache(change) = change else { return None };
    match change {
        cache::Change::Key { db, key, class, event, origin } => Some(Event::Key {
            db: *db,
            key: key.clone(),
            class: *class,
            event: (*event).to_owned(),
            origin: *origin,
        }),
        cache::Change::Cleared { db } => Some(Event::Cleared { db: *db }),
        // These are told of in the first shard.
        cache::Change::Published { .. }
        | cache::Change::Slots(_)
        | cache::Change::Replicas
        | cache::Change::Declared(_)
        | cache::Change::Setting { .. } => None,
    }
}

/// Names of events, which are few: each is kept once, for good.
fn name_of(name: &str) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock();
    if let Some(known) = names.get(name) {
        return known;
    }
    if names.len() >= NAMES_MAX || name.len() > NAME_BYTES_MAX {
        return "unknown";
    }
    let kept: &'static str = Box::leak(name.to_owned().into_boxed_str());
    names.insert(kept);
    kept
}

fn change_of(event: Event) -> Change {
    Change::Cache(match event {
        Event::Key { db, key, class, event, origin } => {
            cache::Change::Key { db, key, class, event: name_of(&event), origin }
        }
        Event::Cleared { db } => cache::Change::Cleared { db },
    })
}

impl Cluster {
    /// Answers a node that does not have a shard with what happened in it.
    pub(crate) async fn answer_relay(&self, mut message: Bytes) -> Result<Bytes, String> {
        if message.len() != 20 {
            return Err("not a question for what happened".to_owned());
        }
        let shard = ShardId(message.get_u32_le());
        let (epoch, after) = (message.get_u64_le(), message.get_u64_le());
        let relay = self.shards.relay(shard).ok_or("that shard is not on this node")?;
        Ok(relay.answer(&*self.opener.clock, epoch, after).await)
    }

    /// Has those who have shards that are not here tell what happens in them, until `stop` holds true.
    pub(crate) async fn keep_relayed(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut followed: BTreeSet<ShardId> = BTreeSet::new();
        let (ended, mut ending) = tokio::sync::mpsc::unbounded_channel();
        loop {
            tokio::select! {
                () = task::sleep(RETRY) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            while let Ok(shard) = ending.try_recv() {
                followed.remove(&shard);
            }
            let now = self.opener.clock.elapsed();
            for relay in self.shards.relays() {
                relay.look_after(now);
            }
            for shard in self.shards.absent() {
                if !followed.insert(shard) {
                    continue;
                }
                let (cluster, ended, mut stop) = (self.clone(), ended.clone(), stop.clone());
                task::spawn(async move {
                    tokio::select! {
                        () = cluster.follow(shard) => {}
                        _ = stop.wait_for(|stop| *stop) => {}
                    }
                    let _ = ended.send(shard);
                });
            }
        }
    }

    /// Follows one shard as long as it is not here.
    async fn follow(&self, shard: ShardId) {
        let (mut epoch, mut after) = (0, 0);
        while let Some(away) = self.shards.away(shard) {
            let Some((_, member)) = away.holders().into_iter().next() else {
                task::sleep(RETRY).await;
                continue;
            };
            let mut message = vec![SERVICE_RELAY];
            message.put_u32_le(shard.0);
            message.put_u64_le(epoch);
            message.put_u64_le(after);
            let answer = call_within(WAIT * 2, &self.dialer, &member.peer_address, message).await;
            let Some(mut answer) = answer.ok().filter(|answer| answer.len() >= 17) else {
                task::sleep(RETRY).await;
                continue;
            };
            (epoch, after) = (answer.get_u64_le(), answer.get_u64_le());
            if answer.get_u8() != 0 {
                self.opener.feed.tell_gap();
            }
            while answer.len() >= 4 {
                let length = answer.get_u32_le() as usize;
                if length > answer.len() {
                    break;
                }
                let told = postcard::from_bytes::<Told>(&answer.split_to(length));
                if let Ok(Told { commit_ts, events }) = told {
                    let changes = events.into_iter().map(change_of).collect();
                    self.opener.feed.publish(Commit { commit_ts, changes });
                }
            }
        }
        // It is here now: what happened meanwhile was not told by the one nor by the other.
        self.opener.feed.tell_gap();
    }
}

#[cfg(test)]
mod tests {
    use proteus_env::SystemClock;

    use super::*;

    fn commit(number: u64) -> Commit {
        let key = Bytes::from(number.to_string());
        let (class, event) = (Class::String, "set");
        let change = cache::Change::Key { db: 0, key, class, event, origin: 7 };
        Commit { commit_ts: CommitTs(number), changes: vec![Change::Cache(change)] }
    }

    async fn ask(relay: &Relay, epoch: u64, after: u64) -> (u64, u64, bool, usize) {
        let mut answer = relay.answer(&SystemClock::new(), epoch, after).await;
        let (epoch, upto, has_gap) = (answer.get_u64_le(), answer.get_u64_le(), answer.get_u8());
        let mut count = 0;
        while !answer.is_empty() {
            let length = answer.get_u32_le() as usize;
            let told: Told = postcard::from_bytes(&answer.split_to(length)).unwrap();
            assert!(matches!(&told.events[..], [Event::Key { event, .. }] if event == "set"));
            count += 1;
        }
        (epoch, upto, has_gap != 0, count)
    }

    #[tokio::test]
    async fn everything_is_told_once_from_the_first_question_on_or_there_is_a_gap() {
        let relay = Relay::default();
        relay.note(&commit(1));
        let (epoch, upto, has_gap, count) = ask(&relay, 0, 0).await;
        assert!(has_gap && count == 0, "nobody had asked");
        relay.note(&commit(2));
        relay.note(&commit(3));
        let (_, upto, has_gap, count) = ask(&relay, epoch, upto).await;
        assert_eq!((has_gap, count), (false, 2));
        relay.note(&commit(4));
        assert_eq!(ask(&relay, epoch, upto).await, (epoch, upto + 1, false, 1));
        let (_, upto, has_gap, _) = ask(&relay, epoch + 2, upto).await;
        assert!(has_gap, "of another start");
        for number in 0..REMEMBERED_MAX as u64 + 1 {
            relay.note(&commit(number));
        }
        assert!(ask(&relay, epoch, upto).await.2, "more than is remembered");
        let upto = ask(&relay, epoch, upto).await.1;
        relay.note_gap();
        assert!(ask(&relay, epoch, upto).await.2, "another state");
    }
}
