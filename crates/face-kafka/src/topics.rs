//! What the face remembers of topics between requests, kept right by the feed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use proteus_kernel_api::topic::{self, TopicId, read::TopicInfo};
use proteus_kernel_api::{Change, Commit, Kernel, KernelError, Listener, Waiters};

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
                }
                Change::Topic(topic::Change::TopicChanged { topic_id }) => {
                    self.forget_settings(*topic_id);
                }
                Change::Topic(
                    topic::Change::TopicDeleted { name, topic_id }
                    | topic::Change::TopicCreated { name, topic_id },
                ) => {
                    self.forget(name);
                    self.forget_settings(*topic_id);
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
    }
}
