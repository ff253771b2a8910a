//! The part of a store that is on disk: an LSM tree fed by whole checkpoints.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use lsm_tree::config::{
    BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry,
    RestartIntervalPolicy,
};
use lsm_tree::{
    AbstractTree, AnyTree, CompressionType, Config, Guard, KvSeparationOptions, SeqNo,
    SequenceNumberCounter,
};
use parking_lot::Mutex;
use proteus_env::disk::{Disk, RealDisk, is_directory};

use crate::image::{self, DiskImage};
use crate::layered::Change;
use crate::merges::{self, SHARED};
use crate::short::{Key, Value};
use crate::{Direction, KEY_BYTES_MAX, StoreError};

/// Values from this length on stand in files of their own, which merges of the tree do not rewrite.
/// They are mostly record batches, which never change and go in the order in which they came.
const VALUE_APART_BYTES_MIN: u32 = 4 * 1024;

/// An ordered key space on disk. Clones share it.
///
/// It is written only by [`DiskStore::ingest`]: sorted changes become a table of the tree at once, because the
/// shard's log is the journal. Tables are merged on a thread that all stores of the process share.
#[derive(Clone)]
pub struct DiskStore(Arc<Handle>);

/// Once the last of them is gone nothing of the process touches the store's files.
struct Handle(Arc<OpenTree>);

impl Drop for Handle {
    fn drop(&mut self) {
        // Waits for a merge under way.
        *self.0.may_merge.lock() = false;
        // And for the thread to let go of the tree: what goes last removes files that are merged, which the next to
        // open the store would find.
        while Arc::strong_count(&self.0) > 1 {
            std::thread::yield_now();
        }
    }
}

/// A tree, as the thread that merges sees it.
pub(crate) struct OpenTree {
    /// Made with the first changes: a shard that has written no checkpoint has no files.
    tree: OnceLock<AnyTree>,
    /// Held while it is made.
    making: Mutex<()>,
    /// The number of the next change, and before which they can be seen.
    next: SequenceNumberCounter,
    visible: SequenceNumberCounter,
    /// As of when images are open, and how many.
    images: Mutex<BTreeMap<SeqNo, usize>>,
    /// Held while tables are merged; false once the store is closed.
    may_merge: Mutex<bool>,
    /// Whether it waits for that already.
    pub(crate) is_queued: AtomicBool,
    location: PathBuf,
}

impl OpenTree {
    fn at(location: &Path) -> OpenTree {
        OpenTree {
            tree: OnceLock::new(),
            making: Mutex::default(),
            next: SequenceNumberCounter::default(),
            visible: SequenceNumberCounter::default(),
            images: Mutex::default(),
            may_merge: Mutex::new(true),
            is_queued: AtomicBool::new(false),
            location: location.to_owned(),
        }
    }

    /// The tree, which is opened or made if it is not open yet.
    fn opened(&self) -> Result<&AnyTree, StoreError> {
        let _one = self.making.lock();
        if let Some(tree) = self.tree.get() {
            return Ok(tree);
        }
        let is_new = !is_directory(&self.location);
        let tree = config(&self.location, self.next.clone(), self.visible.clone()).open();
        let tree = tree.map_err(|error| self.failed(&error))?;
        if let (true, Some(parent)) = (is_new, self.location.parent()) {
            let flushed = RealDisk::open(parent).and_then(|parent| parent.flush_directory());
            flushed.map_err(|error| self.failed(&error))?;
        }
        let first = tree.get_highest_seqno().map_or(0, |highest| highest + 1);
        self.next.fetch_max(first);
        self.visible.fetch_max(self.next.get());
        Ok(self.tree.get_or_init(|| tree))
    }

    /// Merges tables, if enough of them have come together.
    pub(crate) fn merge(&self) {
        let may_merge = self.may_merge.lock();
        let (Some(tree), true) = (self.tree.get(), *may_merge) else { return };
        loop {
            let before = tree.current_version().id();
            // What no image and no later reader can see may go.
            let images = self.images.lock();
            // Images that are opened from here on show no less than that.
            let visible = self.visible.get();
            let oldest = images.keys().next().map_or(visible, |oldest| visible.min(*oldest));
            drop(images);
            if let Err(fault) = tree.compact(merges::strategy(), oldest.saturating_sub(1)) {
                let location = self.location.display();
                tracing::error!(%location, %fault, "tables cannot be merged; it is tried again with the next checkpoint");
                return;
            }
            if tree.current_version().id() == before {
                return;
            }
        }
    }

    fn failed(&self, error: &dyn fmt::Display) -> StoreError {
        let location = self.location.display().to_string();
        StoreError::Io { location, message: error.to_string() }
    }
}

impl fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskStore").field("location", &self.0.0.location).finish_non_exhaustive()
    }
}

impl DiskStore {
    /// Opens the store in `directory`, which is made with the first changes if it is not there. A replacement
    /// that a crash interrupted is ended first.
    ///
    /// # Errors
    /// If the disk fails or holds damaged files.
    pub fn open(directory: &Path) -> Result<DiskStore, StoreError> {
        image::settle(directory)?;
        let open = Arc::new(OpenTree::at(directory));
        if is_directory(directory) {
            open.opened()?;
            merges::queue(&open);
        }
        Ok(DiskStore(Arc::new(Handle(open))))
    }

    /// Makes the store's files, if they are not there.
    pub(crate) fn make(&self) -> Result<(), StoreError> {
        self.0.0.opened().map(drop)
    }

    /// The tree, once anything was written.
    fn tree(&self) -> Option<&AnyTree> {
        self.0.0.tree.get()
    }

    /// Reads every key and value, each of which the tree checks against its checksum, and says how many
    /// keys there are and how many bytes they and their values have.
    ///
    /// # Errors
    /// If the disk fails or holds damaged bytes.
    pub fn verify(&self) -> Result<(u64, u64), StoreError> {
        let (mut keys, mut bytes) = (0, 0);
        let Some(tree) = self.tree() else { return Ok((0, 0)) };
        for guard in tree.iter(SeqNo::MAX, None) {
            let (key, value) = guard.into_inner().map_err(|error| self.io(&error))?;
            keys += 1;
            bytes += (key.len() + value.len()) as u64;
        }
        Ok((keys, bytes))
    }

    /// The store as it is now, to be sent to another node.
    pub fn image(&self) -> DiskImage {
        DiskImage::new(self.clone())
    }

    /// Keeps what is there now, for as long as that is held.
    pub(crate) fn keep(&self) -> Kept {
        let at = self.tree().is_some().then(|| {
            let mut images = self.0.0.images.lock();
            let at = self.0.0.visible.get();
            *images.entry(at).or_default() += 1;
            at
        });
        Kept { store: self.clone(), at }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let Some(tree) = self.tree() else { return Ok(None) };
        let value = tree.get(key, SeqNo::MAX).map_err(|error| self.io(&error))?;
        Ok(value.map(Bytes::from))
    }

    /// Keys from `start` (inclusive) to `end` (exclusive), as the upper layers present theirs.
    pub(crate) fn range<'a>(
        &'a self,
        start: &[u8],
        end: &[u8],
        direction: Direction,
    ) -> Box<dyn Iterator<Item = Result<Change, StoreError>> + 'a> {
        // The tree takes no bound longer than a key, such as the end of a prefix that has none.
        let end = &end[..end.len().min(KEY_BYTES_MAX)];
        let Some(tree) = self.tree() else { return Box::new(std::iter::empty()) };
        let range = tree.range::<&[u8], _>(start..end, SeqNo::MAX, None);
        let open = move |guard: lsm_tree::IterGuardImpl| {
            let (key, value) = guard.into_inner().map_err(|error| self.io(&error))?;
            Ok((Key::from(&key[..]), Value::from(Bytes::from(value))))
        };
        match direction {
            Direction::Ascending => Box::new(range.map(open)),
            Direction::Descending => Box::new(range.rev().map(open)),
        }
    }

    /// Writes changes, which come in the order of their keys, in one atomic step.
    pub(crate) fn ingest<'a>(
        &self,
        changes: impl Iterator<Item = (&'a Key, &'a Value)>,
    ) -> Result<(), StoreError> {
        let io = |error: lsm_tree::Error| self.io(&error);
        let mut ingestion = self.0.0.opened()?.ingestion().map_err(io)?;
        for (key, value) in changes {
            let key: &[u8] = key.as_ref();
            match value.bytes() {
                Some(value) => ingestion.write(key, value).map_err(io)?,
                None => ingestion.write_tombstone(key).map_err(io)?,
            }
        }
        ingestion.finish().map_err(io)?;
        merges::queue(&self.0.0);
        Ok(())
    }

    fn io(&self, error: &lsm_tree::Error) -> StoreError {
        self.0.0.failed(error)
    }
}

/// A store as it was at one moment. It stays as it is, and open, while this is held.
pub(crate) struct Kept {
    store: DiskStore,
    /// `None`: nothing was written by then.
    at: Option<SeqNo>,
}

impl Kept {
    fn tree(&self) -> Option<(&AnyTree, SeqNo)> {
        self.store.tree().zip(self.at)
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let Some((tree, at)) = self.tree() else { return Ok(None) };
        let value = tree.get(key, at);
        Ok(value.map_err(|error| self.store.io(&error))?.map(Bytes::from))
    }

    /// Keys from `start` on, with their values.
    pub(crate) fn from(
        &self,
        start: &[u8],
    ) -> impl Iterator<Item = Result<(Bytes, Bytes), StoreError>> {
        let range = self.tree().map(|(tree, at)| tree.range(start.., at, None));
        range.into_iter().flatten().map(|guard| {
            let (key, value) = guard.into_inner().map_err(|error| self.store.io(&error))?;
            Ok((Bytes::from(key), Bytes::from(value)))
        })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let Some(at) = self.at else { return };
        let mut images = self.store.0.0.images.lock();
        if let Some(count) = images.get_mut(&at) {
            *count -= 1;
            if *count == 0 {
                images.remove(&at);
            }
        }
    }
}

/// How a tree is laid out. Newer levels are read most: they have the finer filters, and are not compressed.
fn config(directory: &Path, next: SequenceNumberCounter, visible: SequenceNumberCounter) -> Config {
    // Large values are record batches above all, which stand as their producers compressed them: trying
    // again costs a fifteenth of the processor's time, and as much again when they are read.
    let apart = KvSeparationOptions::default()
        .separation_threshold(VALUE_APART_BYTES_MIN)
        .compression(CompressionType::None);
    let (plain, packed) = (CompressionType::None, CompressionType::Lz4);
    let bloom = FilterPolicyEntry::Bloom;
    Config::new(directory, next, visible)
        .use_cache(SHARED.blocks.clone())
        .use_descriptor_table(Some(SHARED.files.clone()))
        .data_block_restart_interval_policy(RestartIntervalPolicy::new([10, 16]))
        .data_block_compression_policy(CompressionPolicy::new([plain, plain, packed]))
        .filter_policy(FilterPolicy::new([
            bloom(BloomConstructionPolicy::FalsePositiveRate(0.0001)),
            bloom(BloomConstructionPolicy::BitsPerKey(10.0)),
        ]))
        .with_kv_separation(Some(apart))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merges::until_merged;

    fn rows(round: usize) -> Vec<(Key, Value)> {
        let row = |at: usize| {
            let value =
                Bytes::from(vec![round as u8; if at.is_multiple_of(50) { 5_000 } else { 20 }]);
            (Key::from(format!("{at:06}").as_bytes()), Value::from(value))
        };
        (0..500).map(row).collect()
    }

    #[test]
    fn tables_are_merged_and_an_image_stays_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("store");
        let store = DiskStore::open(&place).unwrap();
        let mut empty = store.image();
        let write = |round| {
            let rows = rows(round);
            store.ingest(rows.iter().map(|(key, value)| (key, value))).unwrap();
        };
        assert!(!is_directory(&place), "nothing was written");
        (1..=3).for_each(write);
        assert_eq!((empty.get(b"000000").unwrap(), empty.next_chunk().unwrap()), (None, None));
        drop(empty);
        let mut image = store.image();
        (4..=40).for_each(write);
        until_merged(&store.0.0);
        let table_count = store.tree().unwrap().table_count();
        assert!(table_count < 20, "{table_count} tables");
        let expected = rows(3);
        for (key, value) in &expected {
            assert_eq!(image.get(key.as_ref()).unwrap(), value.bytes());
        }
        let chunk = image.next_chunk().unwrap().unwrap();
        let (store_bytes, pairs) = (chunk.len(), expected.len());
        let bytes: usize =
            expected.iter().map(|(key, value)| 8 + key.as_ref().len() + value.len()).sum();
        assert_eq!((store_bytes, pairs), (bytes, 500));
        drop(image);
        drop(store);
        let store = DiskStore::open(&place).unwrap();
        assert_eq!(store.get(b"000050").unwrap(), rows(40)[50].1.bytes());
        assert_eq!(store.verify().unwrap().0, 500);
        let written = rows(41);
        store.ingest(written.iter().map(|(key, value)| (key, value))).unwrap();
        assert_eq!(store.get(b"000051").unwrap(), written[51].1.bytes(), "newer than before");
    }
}
