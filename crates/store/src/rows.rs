//! Rows on disk that were used lately, in memory: of all stores of the process together.

use std::hash::{Hash, Hasher};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use foldhash::fast::RandomState;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{Equivalent, Weighter};

use crate::short::{Key, Value};
use crate::table::Table;

/// Memory that the rows take at most, in bytes, whichever stores they are of.
const ROWS_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Rows that fit, as a first guess.
const ROWS_GUESS: usize = 100_000;

/// Larger values are read from disk: batches of records, which nobody reads twice soon.
const VALUE_BYTES_MAX: usize = 4 * 1024;

/// Bytes that a row costs beyond what its key and value have apart.
const ROW_OVERHEAD_BYTES: u64 = 128;

/// What the disk says of some keys: their value, or that there is none.
///
/// It stands below the tables: whatever they know of a key hides what is here. So a row here may be older
/// than a change in the tables, and is renewed when that change has reached the disk, before the table that
/// hides it goes.
#[derive(Debug)]
pub(crate) struct Rows {
    /// Which store's.
    store: u32,
}

static ROWS: LazyLock<Cache<RowKey, Value, Weigh, RandomState>> = LazyLock::new(|| {
    let (hashes, lifecycle) = (RandomState::default(), DefaultLifecycle::default());
    Cache::with(ROWS_GUESS, ROWS_BYTES_MAX, Weigh, hashes, lifecycle)
});

/// Numbers are not given twice: rows of a store that was closed are found by nobody, and go as others come.
static STORES: AtomicU32 = AtomicU32::new(0);

#[derive(Debug, Clone, PartialEq, Eq)]
struct RowKey {
    store: u32,
    key: Key,
}

/// As [`RowKey`], to be looked for.
struct Named<'a> {
    store: u32,
    key: &'a [u8],
}

impl Hash for RowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Named { store: self.store, key: self.key.as_ref() }.hash(state);
    }
}

impl Hash for Named<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u32(self.store);
        state.write(self.key);
    }
}

impl Equivalent<RowKey> for Named<'_> {
    fn equivalent(&self, other: &RowKey) -> bool {
        self.store == other.store && self.key == other.key.as_ref()
    }
}

#[derive(Debug, Clone)]
struct Weigh;

impl Weighter<RowKey, Value> for Weigh {
    fn weight(&self, key: &RowKey, value: &Value) -> u64 {
        (key.key.apart_bytes() + value.apart_bytes()) as u64 + ROW_OVERHEAD_BYTES
    }
}

impl Default for Rows {
    fn default() -> Rows {
        Rows { store: STORES.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Rows {
    fn row(&self, key: Key) -> RowKey {
        RowKey { store: self.store, key }
    }

    /// What the disk says of `key`, if that is known here.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Value> {
        ROWS.get(&Named { store: self.store, key })
    }

    /// Remembers what the disk says.
    pub(crate) fn read(&self, key: &[u8], value: Option<&Bytes>) {
        if value.is_none_or(|value| value.len() <= VALUE_BYTES_MAX) {
            // A copy: what was read may keep a whole block of the disk's in memory.
            let value = value.map(|value| Bytes::copy_from_slice(value));
            ROWS.insert(self.row(Key::from(key)), Value::from(value));
        }
    }

    /// Renews what is known, once `changes` are on disk and while they still hide what is here.
    pub(crate) fn renew(&self, changes: &Table) {
        for (key, value) in changes.iter() {
            // Nothing older may stay; to insert is to replace.
            if value.len() <= VALUE_BYTES_MAX {
                ROWS.insert(self.row(key.clone()), value.clone());
            } else {
                ROWS.remove(&Named { store: self.store, key: key.as_ref() });
            }
        }
    }
}
