//! What all stores of a process share: memory for what they read, files that are open, and the thread on which
//! tables are merged. So a store that nobody uses costs next to nothing.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock, Weak};

use lsm_tree::compaction::{CompactionStrategy, Leveled};
use lsm_tree::{Cache, DescriptorTable};
use parking_lot::{Condvar, Mutex};
use proteus_env::task;

use crate::disk::OpenTree;

/// Blocks of all trees kept in memory, in bytes. Hot rows live in the tables above; this serves the rest, and
/// counts against the idle memory only as it fills.
const BLOCK_CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// Files of tables that stay open: a process may often have a thousand, with its connections.
const FILES_MAX: usize = 512;

/// Made when the first store is opened.
pub(crate) static SHARED: LazyLock<Shared> = LazyLock::new(Shared::begin);

pub(crate) struct Shared {
    pub(crate) blocks: Arc<Cache>,
    pub(crate) files: Arc<DescriptorTable>,
    strategy: Arc<Leveled>,
    queue: Arc<Queue>,
}

/// Trees of which tables may have to be merged, each once.
#[derive(Default)]
struct Queue {
    waiting: Mutex<VecDeque<Weak<OpenTree>>>,
    grown: Condvar,
}

impl Shared {
    fn begin() -> Shared {
        let queue: Arc<Queue> = Arc::default();
        let served = queue.clone();
        if let Err(fault) = task::spawn_thread("store", move || serve(&served)) {
            tracing::error!(%fault, "no thread to merge tables on; reads get slower until the next start");
        }
        Shared {
            blocks: Arc::new(Cache::with_capacity_bytes(BLOCK_CACHE_BYTES)),
            files: Arc::new(DescriptorTable::new(FILES_MAX)),
            strategy: Arc::default(),
            queue,
        }
    }
}

pub(crate) fn strategy() -> Arc<dyn CompactionStrategy> {
    SHARED.strategy.clone()
}

/// Has a tree's tables looked at, behind those of others.
pub(crate) fn queue(tree: &Arc<OpenTree>) {
    if !tree.is_queued.swap(true, Ordering::AcqRel) {
        SHARED.queue.waiting.lock().push_back(Arc::downgrade(tree));
        SHARED.queue.grown.notify_one();
    }
}

fn serve(queue: &Queue) {
    loop {
        let mut waiting = queue.waiting.lock();
        let tree = loop {
            match waiting.pop_front() {
                Some(tree) => break tree,
                None => queue.grown.wait(&mut waiting),
            }
        };
        drop(waiting);
        if let Some(tree) = tree.upgrade() {
            // What is written from here on is looked at again.
            tree.is_queued.store(false, Ordering::Release);
            tree.merge();
        }
    }
}

/// Waits until what was queued has been looked at.
#[cfg(test)]
pub(crate) fn until_merged(tree: &OpenTree) {
    while tree.is_queued.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
    tree.merge();
}
