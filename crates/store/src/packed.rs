//! Rows in memory, each in one piece, as many as fit.
//!
//! A key with its value takes one allocation and a place in a hash table, so that many small rows take little
//! more than their bytes, and a lookup waits for memory three times at most. When they are too many those
//! go that were not used since they were last looked at, as a clock's hand comes round (second chance).

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use parking_lot::{Mutex, MutexGuard};

use crate::short::Value;
use crate::table::FETCHED_MAX;

/// Parts of the whole, each with a lock and a table of its own: growing moves the rows of one.
const PARTS: usize = 1024;

/// What a row costs beyond its bytes: its place in a table that is two thirds full, and the allocation's rounding.
const ROW_OVERHEAD_BYTES: usize = 36;

/// A value takes this part of its part's memory at most.
const VALUE_PART: u64 = 8;

/// Marks of a row, in its first byte: it was used since the hand came by, and there is no value.
const USED: u8 = 1;
const ABSENT: u8 = 2;

/// Then come its store's number, the length of its key, the key, and the value.
const STORE_AT: usize = 1;
const LENGTH_AT: usize = 5;
const KEY_AT: usize = 7;

/// A key with what is known of it.
#[derive(Debug)]
pub(crate) struct Row(Box<[u8]>);

impl Row {
    /// A row; `None` says that there is no value.
    pub(crate) fn new(store: u32, key: &[u8], value: Option<&[u8]>) -> Row {
        let value_bytes = value.map_or(0, <[u8]>::len);
        let mut packed = Vec::with_capacity(KEY_AT + key.len() + value_bytes);
        packed.push(if value.is_none() { ABSENT } else { 0 });
        packed.extend_from_slice(&store.to_le_bytes());
        // A store's keys are shorter.
        let key_bytes = u16::try_from(key.len()).unwrap_or(u16::MAX);
        packed.extend_from_slice(&key_bytes.to_le_bytes());
        packed.extend_from_slice(key);
        packed.extend_from_slice(value.unwrap_or_default());
        Row(packed.into_boxed_slice())
    }

    /// Memory that it takes, about, in bytes.
    pub(crate) fn size_bytes(&self) -> u64 {
        (self.0.len() + ROW_OVERHEAD_BYTES) as u64
    }

    fn key_end(&self) -> usize {
        let length = self.0.get(LENGTH_AT..KEY_AT).and_then(|bytes| bytes.try_into().ok());
        KEY_AT + length.map_or(0, |bytes| usize::from(u16::from_le_bytes(bytes)))
    }

    /// Its store's number with the key's length, and the key.
    fn named(&self) -> (&[u8], &[u8]) {
        let named = self.0.get(STORE_AT..self.key_end()).unwrap_or_default();
        named.split_at_checked(KEY_AT - STORE_AT).unwrap_or_default()
    }

    fn is(&self, name: &[u8; KEY_AT - STORE_AT], key: &[u8]) -> bool {
        self.named() == (name, key)
    }

    fn value(&self) -> Value {
        if self.has(ABSENT) {
            return Value::Absent;
        }
        Value::from(self.0.get(self.key_end()..).unwrap_or_default())
    }

    fn has(&self, mark: u8) -> bool {
        self.0.first().is_some_and(|marks| marks & mark != 0)
    }

    fn set(&mut self, mark: u8, is_set: bool) {
        // Not written if it is so already: others may have it in their processor's cache.
        if self.has(mark) != is_set
            && let Some(marks) = self.0.first_mut()
        {
            *marks ^= mark;
        }
    }
}

/// What every row of this key begins with.
fn name(store: u32, key: &[u8]) -> [u8; KEY_AT - STORE_AT] {
    let [a, b, c, d] = store.to_le_bytes();
    let [low, high] = u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes();
    [a, b, c, d, low, high]
}

/// See the module.
#[derive(Debug)]
pub(crate) struct PackedRows {
    parts: Box<[Mutex<Part>]>,
    part_bytes_max: AtomicU64,
    hashes: RandomState,
}

#[derive(Debug, Default)]
struct Part {
    rows: HashTable<Row>,
    size_bytes: u64,
    /// The place in the table that is looked at next.
    hand: usize,
}

impl PackedRows {
    pub(crate) fn new(bytes_max: u64) -> PackedRows {
        let rows = PackedRows {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            part_bytes_max: AtomicU64::new(0),
            hashes: RandomState::default(),
        };
        rows.set_bytes_max(bytes_max);
        rows
    }

    /// Changes how much memory the rows may take. If that is less, they go as others come.
    pub(crate) fn set_bytes_max(&self, bytes_max: u64) {
        self.part_bytes_max.store(bytes_max / PARTS as u64, Ordering::Relaxed);
    }

    /// Memory that is left for further rows, in bytes.
    pub(crate) fn room_bytes(&self) -> u64 {
        let part_bytes_max = self.part_bytes_max.load(Ordering::Relaxed);
        let room = |part: &Mutex<Part>| part_bytes_max.saturating_sub(part.lock().size_bytes);
        self.parts.iter().map(room).sum()
    }

    /// The longest value that drives out only a small part of the others, in bytes.
    pub(crate) fn value_bytes_max(&self) -> usize {
        let part_bytes_max = self.part_bytes_max.load(Ordering::Relaxed);
        usize::try_from(part_bytes_max / VALUE_PART).unwrap_or(usize::MAX)
    }

    pub(crate) fn hash(&self, store: u32, key: &[u8]) -> u64 {
        hash(&self.hashes, &name(store, key), key)
    }

    /// The part of a hash, by bits that its table does not use.
    fn part(&self, hash: u64) -> &Mutex<Part> {
        let number = (hash >> 40) as usize % PARTS;
        // There are as many.
        self.parts.get(number).unwrap_or_else(|| unreachable!("{number} of {PARTS} parts"))
    }

    /// Whether anything is known of `key`.
    pub(crate) fn has(&self, store: u32, key: &[u8]) -> bool {
        let name = name(store, key);
        let hash = hash(&self.hashes, &name, key);
        self.part(hash).lock().rows.find(hash, |row| row.is(&name, key)).is_some()
    }

    pub(crate) fn get(&self, store: u32, key: &[u8]) -> Option<Value> {
        let name = name(store, key);
        let hash = hash(&self.hashes, &name, key);
        let mut part = self.part(hash).lock();
        let row = part.rows.find_mut(hash, |row| row.is(&name, key))?;
        row.set(USED, true);
        Some(row.value())
    }

    /// Has the processor fetch the rows with these hashes, [`FETCHED_MAX`] of them at most.
    pub(crate) fn fetch(&self, hashes: &[u64]) {
        // All locks first: taking one waits for what was read before it, and rows are to be waited for together.
        // Tried only, so that two who fetch cannot wait for each other.
        let mut parts: [Option<MutexGuard<'_, Part>>; FETCHED_MAX] = [const { None }; FETCHED_MAX];
        for (part, hash) in parts.iter_mut().zip(hashes) {
            *part = self.part(*hash).try_lock();
        }
        for (part, hash) in parts.iter().zip(hashes) {
            let row = part.as_ref().and_then(|part| part.rows.iter_hash(*hash).next());
            std::hint::black_box(row.map(|row| row.has(USED)));
        }
    }

    pub(crate) fn insert(&self, row: Row) {
        self.put(row, true);
    }

    /// Puts a row in place of what is known of its key, if anything is.
    pub(crate) fn replace(&self, row: Row) {
        self.put(row, false);
    }

    fn put(&self, row: Row, adds: bool) {
        let (name, key) = row.named();
        let hash = hash(&self.hashes, name, key);
        let mut part = self.part(hash).lock();
        let part = &mut *part;
        match part.rows.find_mut(hash, |other| other.named() == row.named()) {
            Some(present) => {
                part.size_bytes = part.size_bytes + row.size_bytes() - present.size_bytes();
                let is_used = present.has(USED);
                *present = row;
                present.set(USED, is_used);
            }
            None if adds => {
                part.size_bytes += row.size_bytes();
                let hash_again = |row: &Row| {
                    let (name, key) = row.named();
                    self::hash(&self.hashes, name, key)
                };
                part.rows.insert_unique(hash, row, hash_again);
            }
            None => return,
        }
        part.evict(self.part_bytes_max.load(Ordering::Relaxed));
    }

    pub(crate) fn remove(&self, store: u32, key: &[u8]) {
        let name = name(store, key);
        let hash = hash(&self.hashes, &name, key);
        let mut part = self.part(hash).lock();
        if let Ok(entry) = part.rows.find_entry(hash, |row| row.is(&name, key)) {
            let (row, _) = entry.remove();
            part.size_bytes -= row.size_bytes();
        }
    }
}

/// The bytes of a name and a key, one after the other.
fn hash(hashes: &RandomState, name: &[u8], key: &[u8]) -> u64 {
    let mut hasher = hashes.build_hasher();
    hasher.write(name);
    hasher.write(key);
    hasher.finish()
}

impl Part {
    /// Lets rows go until the rest takes no more than `bytes_max`.
    fn evict(&mut self, bytes_max: u64) {
        while self.size_bytes > bytes_max && !self.rows.is_empty() {
            let place = self.hand % self.rows.num_buckets();
            self.hand = place + 1;
            match self.rows.get_bucket_mut(place) {
                Some(row) if row.has(USED) => row.set(USED, false),
                Some(_) => {
                    if let Ok(entry) = self.rows.get_bucket_entry(place) {
                        let (row, _) = entry.remove();
                        self.size_bytes -= row.size_bytes();
                    }
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn text(value: Option<Value>) -> Option<Option<Bytes>> {
        value.map(|value| value.bytes())
    }

    #[test]
    fn each_store_has_its_rows_and_what_is_put_last_counts() {
        let rows = PackedRows::new(PARTS as u64 * 8_192);
        let long = [7; 4_000];
        rows.insert(Row::new(1, b"a", Some(b"one")));
        rows.insert(Row::new(2, b"a", Some(&long)));
        rows.insert(Row::new(1, b"ab", Some(b"")));
        rows.insert(Row::new(1, b"gone", None));
        rows.replace(Row::new(1, b"b", Some(b"not known before")));
        rows.fetch(&[rows.hash(1, b"a"), rows.hash(3, b"a")]);
        assert_eq!(text(rows.get(1, b"a")), Some(Some(Bytes::from_static(b"one"))));
        assert_eq!(text(rows.get(2, b"a")), Some(Some(Bytes::copy_from_slice(&long))));
        assert_eq!(text(rows.get(1, b"ab")), Some(Some(Bytes::new())));
        assert_eq!(text(rows.get(1, b"gone")), Some(None), "known not to be there");
        assert_eq!(text(rows.get(1, b"b")), None);
        rows.replace(Row::new(1, b"a", None));
        assert_eq!(text(rows.get(1, b"a")), Some(None));
        for (store, key) in [(1, &b"a"[..]), (2, b"a"), (1, b"ab"), (1, b"gone"), (1, b"b")] {
            rows.remove(store, key);
            assert_eq!(text(rows.get(store, key)), None);
        }
        let parts = rows.parts.iter().map(|part| part.lock().size_bytes);
        assert_eq!(parts.sum::<u64>(), 0, "nothing is left");
    }

    #[test]
    fn rows_that_are_used_stay_and_memory_is_bounded() {
        let bytes_max = 64 * PARTS as u64 * 20;
        let rows = PackedRows::new(bytes_max);
        let key = |number: u32| format!("key {number:08}");
        let used: Vec<String> = (0..PARTS as u32).map(key).collect();
        for key in &used {
            rows.insert(Row::new(1, key.as_bytes(), Some(b"value")));
        }
        for number in 0..200_000 {
            rows.insert(Row::new(1, key(1_000_000 + number).as_bytes(), Some(b"value")));
            if number % 2_000 == 0 {
                for key in &used {
                    rows.get(1, key.as_bytes());
                }
            }
        }
        let size: u64 = rows.parts.iter().map(|part| part.lock().size_bytes).sum();
        assert!(size <= bytes_max && size > bytes_max / 2, "{size} of {bytes_max}");
        let kept = used.iter().filter(|key| rows.get(1, key.as_bytes()).is_some()).count();
        assert!(kept > used.len() * 9 / 10, "{kept} of {}", used.len());
        rows.set_bytes_max(0);
        rows.insert(Row::new(1, b"key", Some(b"value")));
        assert!(rows.get(1, b"key").is_none(), "there is no room");
        assert_eq!(rows.room_bytes(), 0);
    }
}
