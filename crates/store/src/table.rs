//! A sorted table in memory, with an undo record for the minitransaction under way.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Bytes that an entry costs beyond its key and value: tree node share and two handles.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// Changes not yet on disk. `None` under a key means: deleted, whatever lies below.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) entries: BTreeMap<Bytes, Option<Bytes>>,
    undo: Vec<(Bytes, Option<Option<Bytes>>)>,
    size_bytes: usize,
}

impl Table {
    pub(crate) fn put(&mut self, key: Bytes, value: Option<Bytes>) {
        let added = cost(&key, Some(&value));
        let before = self.entries.insert(key.clone(), value);
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
                Some(value) => self.entries.insert(key.clone(), value),
                None => self.entries.remove(&key),
            };
            self.size_bytes = self.size_bytes + added - cost(&key, current.as_ref());
        }
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.size_bytes
    }
}

fn cost(key: &Bytes, entry: Option<&Option<Bytes>>) -> usize {
    match entry {
        None => 0,
        Some(value) => key.len() + value.as_ref().map_or(0, Bytes::len) + ENTRY_OVERHEAD_BYTES,
    }
}
