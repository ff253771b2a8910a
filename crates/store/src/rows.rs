//! Rows on disk that were used lately, in memory: of all stores of the process together.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

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

/// Keys of which it is remembered that they were looked for in vain.
const MISSED_MAX: usize = 16 * 1024;

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

static MISSED: LazyLock<Missed> = LazyLock::new(Missed::default);

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

/// Marks of keys that are not on disk and were looked for: only who is looked for again is worth a row. Most
/// are looked for once, right before they are written for the first time.
struct Missed {
    marks: Box<[AtomicU16]>,
    hashes: RandomState,
}

impl Default for Missed {
    fn default() -> Missed {
        let marks = (0..MISSED_MAX).map(|_| AtomicU16::new(0)).collect();
        Missed { marks, hashes: RandomState::default() }
    }
}

impl Missed {
    /// Marks a key; says whether it was the last one marked in its place.
    fn again(&self, named: &Named<'_>) -> bool {
        let hash = self.hashes.hash_one(named);
        let mark = (hash >> 48) as u16 | 1;
        let place = self.marks.get(hash as usize % MISSED_MAX);
        place.is_some_and(|place| place.swap(mark, Ordering::Relaxed) == mark)
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

    fn named<'a>(&self, key: &'a [u8]) -> Named<'a> {
        Named { store: self.store, key }
    }

    /// What the disk says of `key`, if that is known here.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Value> {
        ROWS.get(&self.named(key))
    }

    /// Remembers what the disk says.
    pub(crate) fn read(&self, key: &[u8], value: Option<&Bytes>) {
        let is_worth_it = match value {
            Some(value) => value.len() <= VALUE_BYTES_MAX,
            None => MISSED.again(&self.named(key)),
        };
        if is_worth_it {
            // A copy: what was read may keep a whole block of the disk's in memory.
            let value = value.map(|value| Bytes::copy_from_slice(value));
            ROWS.insert(self.row(Key::from(key)), Value::from(value));
        }
    }

    /// Renews what is known, once `changes` are on disk and while they still hide what is here; and adds what was
    /// written more than once, and the rest while there is room. What came once and for all, as when keys are
    /// loaded, would drive out what is used.
    pub(crate) fn renew(&self, changes: &Table) {
        // What comes meanwhile is of other keys: the changes hide theirs.
        let knows_some = !ROWS.is_empty();
        let mut room_bytes = ROWS.capacity().saturating_sub(ROWS.weight());
        for (key, value, is_rewritten) in changes.in_memory_order() {
            // Nothing older may stay.
            if value.len() > VALUE_BYTES_MAX {
                if knows_some {
                    ROWS.remove(&self.named(key.as_ref()));
                }
            } else if is_rewritten || room_bytes > 0 {
                let row = self.row(key.clone());
                room_bytes = room_bytes.saturating_sub(Weigh.weight(&row, value));
                ROWS.insert(row, value.clone());
            } else if knows_some {
                // If it is there; an error says that it is not.
                let _ = ROWS.replace(self.row(key.clone()), value.clone(), true);
            }
        }
    }
}
