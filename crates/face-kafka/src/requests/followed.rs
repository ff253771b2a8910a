//! What the fetches of one connection follow, and what is known of it as long as nothing has changed.
//!
//! A consumer asks for the same partitions again and again, mostly to learn that nothing is new. So each is
//! looked up once, and again after the feed says that it has changed.

use std::collections::HashMap;
use std::sync::Arc;

use proteus_kernel_api::topic::TopicId;
use proteus_kernel_api::topic::read::PartitionInfo;

use crate::topics::{Changed, Follower, Topics};

/// A partition of a topic.
pub(crate) type Key = (TopicId, u32);

/// Partitions that no request has asked for lately may be this many more than those that one has.
const UNASKED_MAX: usize = 1_000;

/// The partitions that a connection follows.
pub(crate) struct Followed {
    topics: Arc<Topics>,
    follower: Arc<Follower>,
    known: HashMap<Key, Known>,
    /// Counts requests.
    round: u64,
}

#[derive(Default)]
struct Known {
    /// The partition as it was when it was looked at, since when it has not changed.
    info: Option<PartitionInfo>,
    asked_in: u64,
}

impl Followed {
    pub(crate) fn new(topics: &Arc<Topics>) -> Followed {
        Followed {
            topics: topics.clone(),
            follower: Arc::default(),
            known: HashMap::new(),
            round: 0,
        }
    }

    /// What is told of changes.
    pub(crate) fn follower(&self) -> Arc<Follower> {
        self.follower.clone()
    }

    /// Begins a request that names all `count` partitions that it asks for. Those that the last one did not
    /// ask for may be given up: whether that happened.
    pub(crate) fn begin(&mut self, count: usize) -> bool {
        let last = self.round;
        self.round += 1;
        if self.known.len() <= count.saturating_mul(2).saturating_add(UNASKED_MAX) {
            return false;
        }
        let unasked = self.known.iter().filter(|(_, known)| known.asked_in != last);
        let unasked: Vec<Key> = unasked.map(|(key, _)| *key).collect();
        self.unfollow(&unasked);
        true
    }

    /// What has changed since it was asked last; it is followed again when it is looked at.
    pub(crate) fn take_changed(&mut self) -> Changed {
        let changed = self.follower.take();
        match &changed {
            Changed::Some(keys) => {
                for key in keys {
                    self.known.remove(key);
                }
            }
            // Nobody is told twice, so nothing is followed any more.
            Changed::All => self.known.clear(),
        }
        changed
    }

    /// What is known of a partition; if that is nothing, it is followed from now on, so that whoever reads
    /// its state after this call may [`Followed::note`] it.
    pub(crate) fn known(&mut self, key: Key) -> Option<PartitionInfo> {
        let (topics, follower, round) = (&self.topics, &self.follower, self.round);
        let known = self.known.entry(key).or_insert_with(|| {
            topics.follow(key, follower);
            Known::default()
        });
        known.asked_in = round;
        known.info
    }

    /// Remembers a partition as it was read.
    pub(crate) fn note(&mut self, key: Key, info: PartitionInfo) {
        if let Some(known) = self.known.get_mut(&key) {
            known.info = Some(info);
        }
    }

    /// Gives partitions up.
    pub(crate) fn unfollow(&mut self, keys: &[Key]) {
        for key in keys {
            self.known.remove(key);
        }
        self.topics.unfollow(keys, &self.follower);
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let keys: Vec<Key> = self.known.keys().copied().collect();
        self.topics.unfollow(&keys, &self.follower);
    }
}
