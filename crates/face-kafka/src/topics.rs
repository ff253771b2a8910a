//! What the face remembers of topics between requests, kept right by the feed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use proteus_kernel_api::topic::{self, TopicId, read::TopicInfo};
use proteus_kernel_api::{Change, Commit, Kernel, KernelError, Listener, Waiters};
use tokio::sync::Notify;

/// Names remembered at most; beyond that they are read each time.
const NAMES_MAX: usize = 100_000;

/// Settings of a topic, by name.
pub(crate) type Settings = Arc<BTreeMap<String, String>>;

/// Ids by name, settings by id, and those who wait for partitions to grow.
#[derive(Default)]
pub(crate) struct Topics {
    ids: RwLock<HashMap<String, TopicId>>,
    settings: RwLock<HashMap<TopicId, Settings>>,
    /// Counts what made `settings` forget, so that nothing is put there that was read before.
    changes: AtomicU64,
    pub(crate) growing: Waiters<(TopicId, u32)>,
    followers: Mutex<HashMap<TopicId, Followers>>,
}

/// Who follows a topic's partitions.
type Followers = HashMap<u32, Vec<Arc<Follower>>>;

/// Is told once of each partition that it follows and that changes; then it must follow it anew. So what it
/// was told of is never more than what it followed.
#[derive(Default)]
pub(crate) struct Follower {
    changed: Mutex<Changed>,
    told: Notify,
}

/// What a [`Follower`] was told of.
#[derive(Debug)]
pub(crate) enum Changed {
    Some(Vec<(TopicId, u32)>),
    /// Anything may have.
    All,
}

impl Default for Changed {
    fn default() -> Changed {
        Changed::Some(Vec::new())
    }
}

impl Follower {
    /// What has changed since this was asked last.
    pub(crate) fn take(&self) -> Changed {
        std::mem::take(&mut *self.changed.lock())
    }

    /// Waits for the next change, or for one that came after the last wait.
    pub(crate) async fn told(&self) {
        self.told.notified().await;
    }

    fn tell(&self, key: Option<(TopicId, u32)>) {
        match (&mut *self.changed.lock(), key) {
            (Changed::Some(keys), Some(key)) => keys.push(key),
            (changed, None) => *changed = Changed::All,
            (Changed::All, Some(_)) => {}
        }
        self.told.notify_one();
    }
}

impl Topics {
    /// Follows the kernel's feed from now on.
    pub(crate) fn following(kernel: &Arc<dyn Kernel>) -> Arc<Topics> {
        let topics = Arc::new(Topics::default());
        kernel.follow(topics.clone());
        topics
    }

    /// The id of the topic called `name`. It may have been deleted meanwhile; then the machine
    /// refuses, and [`Topics::forget`] must be told.
    pub(crate) fn id_of(
        &self,
        kernel: &dyn Kernel,
        name: &str,
    ) -> Result<Option<TopicId>, KernelError> {
        if let Some(topic_id) = self.ids.read().get(name) {
            return Ok(Some(*topic_id));
        }
        let found = self.info(kernel, name)?;
        if let Some(info) = &found {
            let mut ids = self.ids.write();
            if ids.len() < NAMES_MAX {
                ids.insert(name.to_owned(), info.topic_id);
            }
        }
        Ok(found.map(|info| info.topic_id))
    }

    /// The settings of a topic; none if there is no such topic.
    pub(crate) fn settings_of(
        &self,
        kernel: &dyn Kernel,
        topic_id: TopicId,
    ) -> Result<Option<Settings>, KernelError> {
        if let Some(settings) = self.settings.read().get(&topic_id) {
            return Ok(Some(settings.clone()));
        }
        let changes = self.changes.load(Ordering::Acquire);
        let found = kernel.read(|view| topic::read::topic(view.state, topic_id))?;
        let found = found.map(|info| Arc::new(info.config));
        if let Some(found) = &found {
            let mut settings = self.settings.write();
            if settings.len() < NAMES_MAX && self.changes.load(Ordering::Acquire) == changes {
                settings.insert(topic_id, found.clone());
            }
        }
        Ok(found)
    }

    /// Tells `follower` of the partition's next change.
    pub(crate) fn follow(&self, (topic_id, partition): (TopicId, u32), follower: &Arc<Follower>) {
        let mut followers = self.followers.lock();
        let of_topic = followers.entry(topic_id).or_default();
        of_topic.entry(partition).or_default().push(follower.clone());
    }

    /// Takes back [`Topics::follow`].
    pub(crate) fn unfollow(&self, keys: &[(TopicId, u32)], follower: &Arc<Follower>) {
        let mut followers = self.followers.lock();
        for (topic_id, partition) in keys {
            let Some(of_topic) = followers.get_mut(topic_id) else { continue };
            let Some(of_partition) = of_topic.get_mut(partition) else { continue };
            of_partition.retain(|one| !Arc::ptr_eq(one, follower));
            if of_partition.is_empty() {
                of_topic.remove(partition);
            }
            if of_topic.is_empty() {
                followers.remove(topic_id);
            }
        }
    }

    /// The partition has changed, or with `None` all of the topic's.
    fn tell(&self, topic_id: TopicId, partition: Option<u32>) {
        let mut followers = self.followers.lock();
        let Some(partition) = partition else {
            for (partition, told) in followers.remove(&topic_id).unwrap_or_default() {
                told.iter().for_each(|follower| follower.tell(Some((topic_id, partition))));
            }
            return;
        };
        let Some(of_topic) = followers.get_mut(&topic_id) else { return };
        for follower in of_topic.remove(&partition).unwrap_or_default() {
            follower.tell(Some((topic_id, partition)));
        }
        if of_topic.is_empty() {
            followers.remove(&topic_id);
        }
    }

    fn forget_settings(&self, topic_id: TopicId) {
        let mut settings = self.settings.write();
        self.changes.fetch_add(1, Ordering::AcqRel);
        settings.remove(&topic_id);
    }

    /// What there is to know of the topic called `name`.
    pub(crate) fn info(
        &self,
        kernel: &dyn Kernel,
        name: &str,
    ) -> Result<Option<TopicInfo>, KernelError> {
        kernel.read(|view| topic::read::topic_by_name(view.state, name))
    }

    /// The name may mean another topic by now.
    pub(crate) fn forget(&self, name: &str) {
        self.ids.write().remove(name);
    }
}

impl Listener for Topics {
    fn on_commit(&self, commit: &Commit) {
        for change in &commit.changes {
            match change {
                Change::Topic(topic::Change::Appended { topic_id, partition, .. }) => {
                    self.growing.wake(&(*topic_id, *partition));
                    self.tell(*topic_id, Some(*partition));
                }
                Change::Topic(
                    topic::Change::LogStartMoved { topic_id, partition, .. }
                    | topic::Change::MovedToObject { topic_id, partition, .. },
                ) => self.tell(*topic_id, Some(*partition)),
                Change::Topic(topic::Change::TopicChanged { topic_id }) => {
                    self.forget_settings(*topic_id);
                    self.tell(*topic_id, None);
                }
                Change::Topic(
                    topic::Change::TopicDeleted { name, topic_id }
                    | topic::Change::TopicCreated { name, topic_id },
                ) => {
                    self.forget(name);
                    self.forget_settings(*topic_id);
                    self.tell(*topic_id, None);
                }
                _ => {}
            }
        }
    }

    fn on_gap(&self) {
        self.ids.write().clear();
        let mut settings = self.settings.write();
        self.changes.fetch_add(1, Ordering::AcqRel);
        settings.clear();
        drop(settings);
        self.growing.wake_all();
        let followers = std::mem::take(&mut *self.followers.lock());
        for follower in followers.into_values().flat_map(HashMap::into_values).flatten() {
            follower.tell(None);
        }
    }
}
