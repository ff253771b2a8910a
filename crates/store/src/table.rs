//! A table in memory, with an undo record for the minitransaction under way.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use bytes::Bytes;
use foldhash::fast::RandomState;

/// Bytes that an entry costs beyond its key and value: its share of tree and hash table, and three
/// handles.
const ENTRY_OVERHEAD_BYTES: usize = 152;

/// Changes not yet on disk. `None` under a key means: deleted, whatever lies below.
///
/// Point reads and overwrites, most of what state machines do, find their entry by hash: a descent
/// through a tree of keys costs a miss of the processor's cache for nearly every comparison. The
/// order of keys is kept beside it and changes only when a key is new. Nothing is ever visited in
/// the order of the hash table, which is not the same on any two nodes.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// The keys of `values`, no more and no less.
    keys: BTreeSet<Bytes>,
    values: HashMap<Bytes, Option<Bytes>, RandomState>,
    undo: Vec<(Bytes, Option<Option<Bytes>>)>,
    size_bytes: usize,
}

impl Table {
    /// What the table knows of `key`: nothing, its value, or that it was deleted.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Option<Bytes>> {
        self.values.get(key)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// All changes in the order of their keys.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&Bytes, &Option<Bytes>)> {
        self.keys.iter().filter_map(|key| self.values.get_key_value(key))
    }

    /// Changes of keys within `bounds`, in the order of their keys.
    pub(crate) fn range(
        &self,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
    ) -> impl DoubleEndedIterator<Item = (&Bytes, &Option<Bytes>)> {
        self.keys.range::<[u8], _>(bounds).filter_map(|key| self.values.get_key_value(key))
    }

    pub(crate) fn put(&mut self, key: Bytes, value: Option<Bytes>) {
        let added = cost(&key, Some(&value));
        let before = self.set(&key, value);
        let freed = cost(&key, before.as_ref());
        self.size_bytes = self.size_bytes + added - freed;
        self.undo.push((key, before));
    }

    pub(crate) fn savepoint(&mut self) {
        self.undo.clear();
    }

    pub(crate) fn rollback(&mut self) {
        while let Some((key, before)) = self.undo.pop() {
            let added = cost(&key, before.as_ref());
            let current = match before {
                Some(value) => self.set(&key, value),
                None => {
                    self.keys.remove(&key);
                    self.values.remove(&key)
                }
            };
            self.size_bytes = self.size_bytes + added - cost(&key, current.as_ref());
        }
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    fn set(&mut self, key: &Bytes, value: Option<Bytes>) -> Option<Option<Bytes>> {
        if let Some(present) = self.values.get_mut(key) {
            return Some(std::mem::replace(present, value));
        }
        self.keys.insert(key.clone());
        self.values.insert(key.clone(), value);
        None
    }
}

fn cost(key: &Bytes, entry: Option<&Option<Bytes>>) -> usize {
    match entry {
        None => 0,
        Some(value) => key.len() + value.as_ref().map_or(0, Bytes::len) + ENTRY_OVERHEAD_BYTES,
    }
}
