//! Following what commits: by cursor, or by waiting for one thing to change.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::{Mutex, RwLock};
use proteus_types::CommitTs;
use tokio::sync::{Notify, oneshot};

use crate::{Commit, Listener};

/// Commits that the feed remembers for followers with a cursor.
const COMMITS_MAX: usize = 4096;

/// The recent commits of a shard, in order, and the listeners that learn of each as it happens.
///
/// A cursor is the commit timestamp of the last commit seen (exclusive start of what comes next). A
/// follower that falls behind what is remembered is told so, and reads the state instead.
///
/// With several shards listeners learn of one commit after another, those of one shard in order; cursors
/// follow a single shard only.
pub struct Feed {
    listeners: RwLock<Vec<Arc<dyn Listener>>>,
    /// Held while listeners learn of a commit: shards apply at the same time.
    telling: Mutex<()>,
    recent: Mutex<Recent>,
    grown: Notify,
}

struct Recent {
    commits: VecDeque<Arc<Commit>>,
    /// Commits at or below this are forgotten.
    forgotten_upto: CommitTs,
    /// Followers by cursor; without one nothing is remembered.
    has_followers: bool,
}

/// The cursor stands before what the feed remembers: read the state, then follow from its timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the feed remembers commits after {remembered_after}, and the cursor stands before that; read the state and follow from its timestamp"
)]
pub struct FeedLagged {
    /// The earliest cursor that can be followed.
    pub remembered_after: CommitTs,
}

impl Default for Feed {
    fn default() -> Feed {
        let recent = Recent {
            commits: VecDeque::new(),
            forgotten_upto: CommitTs::ZERO,
            has_followers: false,
        };
        Feed {
            listeners: RwLock::default(),
            telling: Mutex::default(),
            recent: Mutex::new(recent),
            grown: Notify::new(),
        }
    }
}

impl Feed {
    /// Adds a listener for good.
    pub fn follow(&self, listener: Arc<dyn Listener>) {
        self.listeners.write().push(listener);
    }

    /// The kernel's call for each commit that changed something, in order, under the state's lock.
    pub fn publish(&self, commit: Commit) {
        let _telling = self.telling.lock();
        for listener in self.listeners.read().iter() {
            listener.on_commit(&commit);
        }
        let mut recent = self.recent.lock();
        if !recent.has_followers {
            recent.forgotten_upto = commit.commit_ts;
            return;
        }
        recent.commits.push_back(Arc::new(commit));
        if recent.commits.len() > COMMITS_MAX
            && let Some(oldest) = recent.commits.pop_front()
        {
            recent.forgotten_upto = oldest.commit_ts;
        }
        drop(recent);
        self.grown.notify_waiters();
    }

    /// Has all listeners look again, for commits of a shard of which cursors know nothing.
    pub fn tell_gap(&self) {
        let _telling = self.telling.lock();
        for listener in self.listeners.read().iter() {
            listener.on_gap();
        }
    }

    /// The kernel's call when commits up to `applied_ts` happened that nobody is told of one by one.
    pub fn skip(&self, applied_ts: CommitTs) {
        let _telling = self.telling.lock();
        for listener in self.listeners.read().iter() {
            listener.on_gap();
        }
        let mut recent = self.recent.lock();
        recent.commits.clear();
        recent.forgotten_upto = recent.forgotten_upto.max(applied_ts);
        drop(recent);
        self.grown.notify_waiters();
    }

    /// Commits after `cursor`, at most `count_max`; empty if there are none yet. The first call
    /// makes the feed remember from then on.
    ///
    /// # Errors
    /// If commits after `cursor` are already forgotten.
    pub fn after(
        &self,
        cursor: CommitTs,
        count_max: usize,
    ) -> Result<Vec<Arc<Commit>>, FeedLagged> {
        let mut recent = self.recent.lock();
        recent.has_followers = true;
        if cursor < recent.forgotten_upto {
            return Err(FeedLagged { remembered_after: recent.forgotten_upto });
        }
        let start = recent.commits.partition_point(|commit| commit.commit_ts <= cursor);
        Ok(recent.commits.iter().skip(start).take(count_max).cloned().collect())
    }

    /// Waits until there is a commit after `cursor`, and returns as [`Feed::after`] does.
    ///
    /// # Errors
    /// As [`Feed::after`].
    pub async fn wait_after(
        &self,
        cursor: CommitTs,
        count_max: usize,
    ) -> Result<Vec<Arc<Commit>>, FeedLagged> {
        loop {
            let grown = self.grown.notified();
            tokio::pin!(grown);
            grown.as_mut().enable();
            let commits = self.after(cursor, count_max)?;
            if !commits.is_empty() {
                return Ok(commits);
            }
            grown.await;
        }
    }
}

/// Those who wait for one thing to change: a partition to grow, a key to be written.
///
/// A face keeps one, registers with [`Waiters::wait`] *before* it reads the state, and calls
/// [`Waiters::wake`] from its [`Listener`]; so no change falls between the read and the wait.
pub struct Waiters<K> {
    waiting: Mutex<HashMap<K, Vec<oneshot::Sender<()>>>>,
}

impl<K> Default for Waiters<K> {
    fn default() -> Waiters<K> {
        Waiters { waiting: Mutex::default() }
    }
}

impl<K: Eq + Hash + Clone> Waiters<K> {
    /// Registers for the next change of any of `keys`.
    pub fn wait<'a>(&self, keys: impl IntoIterator<Item = &'a K>) -> Waiter
    where
        K: 'a,
    {
        let mut receivers = Vec::new();
        let mut waiting = self.waiting.lock();
        for key in keys {
            let (sender, receiver) = oneshot::channel();
            let senders = waiting.entry(key.clone()).or_default();
            // Those who gave up leave a closed sender behind; clear them when the list has doubled.
            if senders.len().is_power_of_two() {
                senders.retain(|sender| !sender.is_closed());
            }
            senders.push(sender);
            receivers.push(receiver);
        }
        Waiter { receivers }
    }

    /// Wakes all who wait for `key`.
    pub fn wake<Q>(&self, key: &Q)
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let mut waiting = self.waiting.lock();
        if waiting.is_empty() {
            return;
        }
        for sender in waiting.remove(key).unwrap_or_default() {
            // A receiver that is gone has stopped waiting.
            let _ = sender.send(());
        }
    }
}

impl<K: Eq + Hash + Clone> Waiters<K> {
    /// Wakes everybody, for a listener's [`Listener::on_gap`].
    pub fn wake_all(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for sender in waiting.into_values().flatten() {
            let _ = sender.send(());
        }
    }
}

/// Resolves at the next change of what it was registered for.
pub struct Waiter {
    receivers: Vec<oneshot::Receiver<()>>,
}

impl Future for Waiter {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let woken =
            self.receivers.iter_mut().any(|receiver| Pin::new(receiver).poll(context).is_ready());
        if woken { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn commit(number: u64) -> Commit {
        Commit { commit_ts: CommitTs(number), changes: Vec::new() }
    }

    fn timestamps(commits: &[Arc<Commit>]) -> Vec<u64> {
        commits.iter().map(|commit| commit.commit_ts.0).collect()
    }

    #[test]
    fn a_cursor_sees_every_later_commit_once_and_in_order() {
        let feed = Feed::default();
        assert_eq!(feed.after(CommitTs::ZERO, 10).unwrap().len(), 0);
        for number in [3, 5, 9] {
            feed.publish(commit(number));
        }
        assert_eq!(timestamps(&feed.after(CommitTs(3), 10).unwrap()), [5, 9]);
        assert_eq!(timestamps(&feed.after(CommitTs::ZERO, 2).unwrap()), [3, 5]);
        assert_eq!(timestamps(&feed.after(CommitTs(9), 10).unwrap()), [0; 0]);
    }

    #[test]
    fn a_follower_that_fell_behind_is_told_where_it_can_go_on() {
        let feed = Feed::default();
        feed.publish(commit(7));
        assert_eq!(feed.after(CommitTs(6), 1).unwrap_err().remembered_after, CommitTs(7));
        feed.after(CommitTs(7), 1).unwrap();
        for number in 0..=COMMITS_MAX as u64 {
            feed.publish(commit(100 + number));
        }
        assert_eq!(feed.after(CommitTs(7), 1).unwrap_err().remembered_after, CommitTs(100));
        assert_eq!(timestamps(&feed.after(CommitTs(100), 1).unwrap()), [101]);
    }

    #[test]
    fn without_followers_nothing_is_remembered() {
        let feed = Feed::default();
        for number in 1..100 {
            feed.publish(commit(number));
        }
        assert!(feed.recent.lock().commits.is_empty());
    }

    #[tokio::test]
    async fn a_waiting_follower_wakes_at_the_next_commit() {
        let feed = Arc::new(Feed::default());
        feed.after(CommitTs::ZERO, 1).unwrap();
        let waiting = feed.clone();
        let follower = proteus_env::task::spawn(async move {
            waiting.wait_after(CommitTs::ZERO, 10).await.map(|commits| timestamps(&commits))
        });
        tokio::task::yield_now().await;
        feed.publish(commit(4));
        assert_eq!(follower.await.unwrap().unwrap(), [4]);
    }

    #[test]
    fn a_waiter_wakes_for_its_keys_only_and_leaves_nothing_behind() {
        let waiters: Waiters<String> = Waiters::default();
        let mut waiter = waiters.wait([&"a".to_owned(), &"b".to_owned()]);
        let mut context = Context::from_waker(Waker::noop());
        waiters.wake("c");
        assert!(Pin::new(&mut waiter).poll(&mut context).is_pending());
        waiters.wake("b");
        assert!(Pin::new(&mut waiter).poll(&mut context).is_ready());
        for _ in 0..1_000 {
            drop(waiters.wait([&"a".to_owned()]));
        }
        let left = waiters.waiting.lock().get("a").map_or(0, Vec::len);
        assert!(left < 10, "{left} who gave up are still held");
    }
}
