//! Rows on disk that were used lately, in memory: of all stores of the process together.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use bytes::Bytes;
use foldhash::fast::RandomState;

use crate::packed::{PackedRows, Row};
use crate::short::Value;
use crate::table::{FETCHED_MAX, Table};

/// Memory that the rows take at most until [`set_rows_memory`] says otherwise, in bytes, whichever stores they
/// are of.
const ROWS_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Longer values come into memory only once they are read or written again: most are batches of records, with
/// which nobody does that soon.
const SHORT_BYTES_MAX: usize = 4 * 1024;

/// Keys of which it is remembered that they were looked for.
const LOOKED_FOR_MAX: usize = 16 * 1024;

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

static ROWS: LazyLock<PackedRows> = LazyLock::new(|| PackedRows::new(ROWS_BYTES_MAX));

/// Numbers are not given twice: rows of a store that was closed are found by nobody, and go as others come.
static STORES: AtomicU32 = AtomicU32::new(0);

static LOOKED_FOR: LazyLock<LookedFor> = LazyLock::new(LookedFor::default);

/// Bounds the memory of the rows on disk that stay in memory, of all stores of the process together, in bytes.
/// Rows come as they are used, so a small store takes no more of it than before.
pub fn set_rows_memory(bytes_max: u64) {
    ROWS.set_bytes_max(bytes_max);
}

/// A key of a store, to be marked.
struct Named<'a> {
    store: u32,
    key: &'a [u8],
}

impl Hash for Named<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u32(self.store);
        state.write(self.key);
    }
}

/// Marks of keys that were looked for and are not on disk, or have a long value: only who is looked for again is
/// worth a row. Most that are not there are looked for once, right before they are written for the first time.
struct LookedFor {
    marks: Box<[AtomicU16]>,
    hashes: RandomState,
}

impl Default for LookedFor {
    fn default() -> LookedFor {
        let marks = (0..LOOKED_FOR_MAX).map(|_| AtomicU16::new(0)).collect();
        LookedFor { marks, hashes: RandomState::default() }
    }
}

impl LookedFor {
    /// Marks a key; says whether it was the last one marked in its place.
    fn again(&self, named: &Named<'_>) -> bool {
        let hash = self.hashes.hash_one(named);
        let mark = (hash >> 48) as u16 | 1;
        let place = self.marks.get(hash as usize % LOOKED_FOR_MAX);
        place.is_some_and(|place| place.swap(mark, Ordering::Relaxed) == mark)
    }
}

impl Default for Rows {
    fn default() -> Rows {
        Rows { store: STORES.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Rows {
    /// What the disk says of `key`, if that is known here.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Value> {
        ROWS.get(self.store, key)
    }

    /// Says by what number [`Rows::fetch`] knows a key.
    pub(crate) fn number(&self, key: &[u8]) -> u64 {
        ROWS.hash(self.store, key)
    }

    /// Has the processor fetch the rows with these numbers.
    pub(crate) fn fetch(numbers: &[u64]) {
        ROWS.fetch(numbers);
    }

    /// Remembers what the disk says.
    pub(crate) fn read(&self, key: &[u8], value: Option<&Bytes>) {
        let is_worth_it = match value {
            Some(value) if value.len() <= SHORT_BYTES_MAX => true,
            Some(value) if value.len() > ROWS.value_bytes_max() => false,
            _ => LOOKED_FOR.again(&Named { store: self.store, key }),
        };
        if is_worth_it {
            ROWS.insert(Row::new(self.store, key, value.map(AsRef::as_ref)));
        }
    }

    /// Renews what is known, once `changes` are on disk and while they still hide what is here; and adds what was
    /// written more than once, and the rest while there is room. What came once and for all, as when keys are
    /// loaded, would drive out what is used.
    pub(crate) fn renew(&self, changes: &Table) {
        // What comes meanwhile is of other keys: the changes hide theirs.
        let mut room_bytes = ROWS.room_bytes();
        let mut changes = changes.in_memory_order();
        loop {
            let some: Vec<_> = changes.by_ref().take(FETCHED_MAX).collect();
            if some.is_empty() {
                return;
            }
            let numbers: Vec<u64> =
                some.iter().map(|(key, ..)| self.number(key.as_ref())).collect();
            Rows::fetch(&numbers);
            for (key, value, is_rewritten) in some {
                room_bytes = self.renew_row(key.as_ref(), value, is_rewritten, room_bytes);
            }
        }
    }

    /// The same for one row; says how much room there is then.
    fn renew_row(&self, key: &[u8], value: &Value, is_rewritten: bool, room_bytes: u64) -> u64 {
        let is_long = value.len() > SHORT_BYTES_MAX;
        let is_used = || is_rewritten || ROWS.has(self.store, key);
        if is_long && (value.len() > ROWS.value_bytes_max() || !is_used()) {
            // Nothing older may stay.
            ROWS.remove(self.store, key);
            return room_bytes;
        }
        let row = value.with_bytes(|value| Row::new(self.store, key, value));
        if !is_rewritten && room_bytes == 0 {
            ROWS.replace(row);
            return 0;
        }
        let room_bytes = room_bytes.saturating_sub(row.size_bytes());
        ROWS.insert(row);
        room_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_comes_into_memory_once_it_is_used_again() {
        let rows = Rows::default();
        let known =
            |key: &str| rows.get(key.as_bytes()).map(|value| value.bytes().map(|v| v.len()));
        let value = |length: usize| Bytes::from(vec![1; length]);
        let long = SHORT_BYTES_MAX + 1;
        rows.read(b"long", Some(&value(long)));
        assert_eq!(known("long"), None, "read once");
        rows.read(b"long", Some(&value(long)));
        assert_eq!(known("long"), Some(Some(long)));
        let mut changes = Table::default();
        for (key, length) in [("long", long + 1), ("once", long), ("twice", 1), ("twice", long)] {
            changes.put(key.as_bytes(), Value::from(value(length)));
        }
        rows.renew(&changes);
        assert_eq!(known("long"), Some(Some(long + 1)), "renewed, since it is used");
        assert_eq!(known("once"), None);
        assert_eq!(known("twice"), Some(Some(long)));
        let too_long = ROWS.value_bytes_max() + 1;
        let mut changes = Table::default();
        for length in [1, too_long] {
            changes.put(b"twice", Value::from(value(length)));
        }
        rows.renew(&changes);
        assert_eq!(known("twice"), None, "nothing older stays");
        (0..2).for_each(|_| rows.read(b"too long", Some(&value(too_long))));
        assert_eq!(known("too long"), None);
    }
}
