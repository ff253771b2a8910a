//! What the face remembers of topics between requests, kept right by the feed.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use proteus_kernel_api::topic::{self, TopicId, read::TopicInfo};
use proteus_kernel_api::{Change, Commit, Kernel, KernelError, Listener, Waiters};

/// Names remembered at most; beyond that they are read each time.
const NAMES_MAX: usize = 100_000;

/// Ids by name, and those who wait for partitions to grow.
#[derive(Default)]
pub(crate) struct Topics {
    ids: RwLock<HashMap<String, TopicId>>,
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
                Change::Topic(
                    topic::Change::TopicDeleted { name, .. }
                    | topic::Change::TopicCreated { name, .. },
                ) => self.forget(name),
                _ => {}
            }
        }
    }
}
