//! Rows on disk that were used lately, in memory.

use bytes::Bytes;
use foldhash::fast::RandomState;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use crate::short::{Key, Value};
use crate::table::Table;

/// Memory that the rows take at most, in bytes.
const ROWS_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Rows that fit, as a first guess.
const ROWS_GUESS: usize = 100_000;

/// Larger values are read from disk: batches of records, which nobody reads twice soon.
const VALUE_BYTES_MAX: usize = 4 * 1024;

/// Bytes that a row costs beyond what its key and value have apart.
const ROW_OVERHEAD_BYTES: u64 = 120;

/// What the disk says of some keys: their value, or that there is none.
///
/// It stands below the tables: whatever they know of a key hides what is here. So a row here may be older
/// than a change in the tables, and is renewed when that change has reached the disk, before the table that
/// hides it goes.
#[derive(Debug)]
pub(crate) struct Rows(Cache<Key, Value, Weigh, RandomState>);

#[derive(Debug, Clone)]
struct Weigh;

impl Weighter<Key, Value> for Weigh {
    fn weight(&self, key: &Key, value: &Value) -> u64 {
        (key.apart_bytes() + value.apart_bytes()) as u64 + ROW_OVERHEAD_BYTES
    }
}

impl Default for Rows {
    fn default() -> Rows {
        let (hashes, lifecycle) = (RandomState::default(), DefaultLifecycle::default());
        Rows(Cache::with(ROWS_GUESS, ROWS_BYTES_MAX, Weigh, hashes, lifecycle))
    }
}

impl Rows {
    /// What the disk says of `key`, if that is known here.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Value> {
        self.0.get(key)
    }

    /// Remembers what the disk says.
    pub(crate) fn read(&self, key: &[u8], value: Option<&Bytes>) {
        if value.is_none_or(|value| value.len() <= VALUE_BYTES_MAX) {
            // A copy: what was read may keep a whole block of the disk's in memory.
            let value = value.map(|value| Bytes::copy_from_slice(value));
            self.0.insert(Key::from(key), Value::from(value));
        }
    }

    /// Renews what is known, once `changes` are on disk and while they still hide what is here.
    pub(crate) fn renew(&self, changes: &Table) {
        for (key, value) in changes.iter() {
            // Nothing older may stay; to insert is to replace.
            if value.len() <= VALUE_BYTES_MAX {
                self.0.insert(key.clone(), value.clone());
            } else {
                self.0.remove(key);
            }
        }
    }
}
