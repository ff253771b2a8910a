//! A table in memory, with an undo record for the minitransaction under way.

use std::hash::BuildHasher;
use std::ops::Bound;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::order::Order;
use crate::rows::Rows as RowsRead;
use crate::short::{Key, Value};

/// Bytes that an entry costs beyond what its key and value have apart: its row, and its share of order and
/// hash table.
const ENTRY_OVERHEAD_BYTES: usize = 136;

/// Rows of a piece: growing by one copies nothing, and wastes little.
const PIECE_ROWS: usize = 4096;

/// Rows fetched at once, at most: the processor does not wait for many more at a time.
pub const FETCHED_MAX: usize = 32;

/// Has the processor fetch what reads of some keys will look at, as far as it is in memory. Looked up one after
/// the other, with work between, each row is waited for; together they are waited for once.
pub struct Fetch<'t> {
    table: &'t Table,
    /// What is known of the disk, where there is one.
    below: Option<&'t RowsRead>,
    hashes: [u64; FETCHED_MAX],
    numbers_below: [u64; FETCHED_MAX],
    count: usize,
}

impl Fetch<'_> {
    /// Adds a key; what is beyond [`FETCHED_MAX`] of them is passed over.
    pub fn add(&mut self, key: &[u8]) {
        if let Some(hash) = self.hashes.get_mut(self.count) {
            *hash = self.table.hashes.hash_one(key);
            if let (Some(below), Some(number)) =
                (self.below, self.numbers_below.get_mut(self.count))
            {
                *number = below.number(key);
            }
            self.count += 1;
        }
    }

    /// Fetches the rows.
    pub fn finish(self) {
        // Each loop does nothing else, so that the processor waits for several places at a time.
        let mut numbers = [u32::MAX; FETCHED_MAX];
        for (number, hash) in numbers.iter_mut().zip(self.hashes).take(self.count) {
            // Not compared: whatever has that hash is most likely it.
            *number = self.table.by_hash.iter_hash(hash).next().copied().unwrap_or(u32::MAX);
        }
        for number in numbers.iter().copied().take(self.count) {
            let row = self.table.rows.get(number);
            std::hint::black_box(row.map(|row| (row.key.as_ref().first(), row.value.len())));
        }
        if self.below.is_some() {
            let mut missing = [0; FETCHED_MAX];
            let mut count = 0;
            for (number, below) in numbers.into_iter().zip(self.numbers_below).take(self.count) {
                if number == u32::MAX
                    && let Some(place) = missing.get_mut(count)
                {
                    *place = below;
                    count += 1;
                }
            }
            RowsRead::fetch(missing.get(..count).unwrap_or_default());
        }
    }
}

/// Changes not yet on disk. [`Value::Absent`] under a key means: deleted, whatever lies below.
///
/// Rows stand in the order in which their keys came. Point reads and overwrites, most of what state
/// machines do, find theirs by hash, in a table of numbers that is small enough to stay in the
/// processor's cache for long; a descent through a tree of keys would miss it at nearly every node. The
/// order of keys is kept beside it and changes only when a key is new. Nothing is ever visited in
/// the order of the hash table, which is not the same on any two nodes.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Rows,
    /// Numbers of all rows, by the hash of their keys.
    by_hash: HashTable<u32>,
    hashes: RandomState,
    /// Numbers of all rows, in the order of their keys.
    order: Order,
    /// Which rows were written more than once, by their numbers.
    rewritten: Vec<u64>,
    undo: Vec<Undo>,
    size_bytes: usize,
}

#[derive(Debug)]
struct Row {
    key: Key,
    value: Value,
}

#[derive(Debug)]
enum Undo {
    /// The row had this value.
    Replaced(u32, Value),
    /// The last row was not there.
    Added,
}

impl Table {
    /// What the table knows of `key`: nothing, its value, or that it was deleted.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Value> {
        let number = self.find(self.hashes.hash_one(key), key)?;
        self.rows.get(number).map(|row| &row.value)
    }

    /// Begins to fetch rows for [`Table::get`], and those `below` of keys that are not here.
    pub(crate) fn fetch<'t>(&'t self, below: Option<&'t RowsRead>) -> Fetch<'t> {
        let (hashes, numbers_below) = ([0; FETCHED_MAX], [0; FETCHED_MAX]);
        Fetch { table: self, below, hashes, numbers_below, count: 0 }
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        let is_it =
            |number: &u32| self.rows.get(*number).is_some_and(|row| row.key.as_ref() == key);
        self.by_hash.find(hash, is_it).copied()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.end() == 0
    }

    /// All changes in the order of their keys.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&Key, &Value)> {
        self.order.iter().filter_map(|number| self.row(number))
    }

    /// All changes in the order in which their keys came, and whether they were written more than once.
    pub(crate) fn in_memory_order(&self) -> impl Iterator<Item = (&Key, &Value, bool)> {
        self.rows.pieces.iter().flatten().enumerate().map(|(number, row)| {
            let bits = self.rewritten.get(number / 64).copied().unwrap_or(0);
            (&row.key, &row.value, bits >> (number % 64) & 1 == 1)
        })
    }

    /// Changes of keys within `bounds`, in the order of their keys.
    pub(crate) fn range(
        &self,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
    ) -> impl DoubleEndedIterator<Item = (&Key, &Value)> {
        let numbers = self.order.range(bounds, |number| self.rows.key(number));
        numbers.filter_map(|number| self.row(number))
    }

    fn row(&self, number: u32) -> Option<(&Key, &Value)> {
        self.rows.get(number).map(|row| (&row.key, &row.value))
    }

    pub(crate) fn put(&mut self, key: &[u8], value: Value) {
        let hash = self.hashes.hash_one(key);
        let present = self.find(hash, key);
        if let Some(number) = present
            && let Some(row) = self.rows.get_mut(number)
        {
            self.size_bytes += value.apart_bytes();
            let before = std::mem::replace(&mut row.value, value);
            self.size_bytes -= before.apart_bytes();
            if let Some(bits) = self.rewritten.get_mut(number as usize / 64) {
                *bits |= 1 << (number % 64);
            }
            self.undo.push(Undo::Replaced(number, before));
            return;
        }
        let key = Key::from(key);
        self.size_bytes += cost(&key, &value);
        let number = self.rows.push(Row { key, value });
        match self.rewritten.get_mut(number as usize / 64) {
            None => self.rewritten.push(0),
            Some(bits) => *bits &= !(1 << (number % 64)),
        }
        let (rows, hashes) = (&self.rows, &self.hashes);
        self.order.insert(number, |number| rows.key(number));
        let hash_again =
            |number: &u32| rows.get(*number).map_or(0, |row| hashes.hash_one(row.key.as_ref()));
        self.by_hash.insert_unique(hash, number, hash_again);
        self.undo.push(Undo::Added);
    }

    pub(crate) fn savepoint(&mut self) {
        self.undo.clear();
    }

    pub(crate) fn rollback(&mut self) {
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Replaced(number, before) => {
                    if let Some(row) = self.rows.get_mut(number) {
                        self.size_bytes += before.apart_bytes();
                        let after = std::mem::replace(&mut row.value, before);
                        self.size_bytes -= after.apart_bytes();
                    }
                }
                Undo::Added => self.remove_last(),
            }
        }
    }

    /// Removes the row that was added last.
    fn remove_last(&mut self) {
        let Some(number) = self.rows.last() else { return };
        self.order.remove(number, |number| self.rows.key(number));
        let Some(row) = self.rows.pop() else { return };
        self.size_bytes -= cost(&row.key, &row.value);
        let hash = self.hashes.hash_one(row.key.as_ref());
        if let Ok(entry) = self.by_hash.find_entry(hash, |other| *other == number) {
            entry.remove();
        }
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.size_bytes
    }
}

fn cost(key: &Key, value: &Value) -> usize {
    key.apart_bytes() + value.apart_bytes() + ENTRY_OVERHEAD_BYTES
}

/// Rows by number, in pieces.
#[derive(Debug, Default)]
struct Rows {
    /// All full but the last.
    pieces: Vec<Vec<Row>>,
}

impl Rows {
    fn get(&self, number: u32) -> Option<&Row> {
        let number = number as usize;
        self.pieces.get(number / PIECE_ROWS)?.get(number % PIECE_ROWS)
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut Row> {
        let number = number as usize;
        self.pieces.get_mut(number / PIECE_ROWS)?.get_mut(number % PIECE_ROWS)
    }

    /// The number that the next row gets.
    fn end(&self) -> usize {
        let last = self.pieces.last().map_or(0, Vec::len);
        self.pieces.len().saturating_sub(1) * PIECE_ROWS + last
    }

    fn push(&mut self, row: Row) -> u32 {
        let number = u32::try_from(self.end()).expect("rows that memory has no room for");
        match self.pieces.last_mut() {
            Some(piece) if piece.len() < PIECE_ROWS => piece.push(row),
            // A table may stay small.
            None => self.pieces.push(vec![row]),
            Some(_) => {
                let mut piece = Vec::with_capacity(PIECE_ROWS);
                piece.push(row);
                self.pieces.push(piece);
            }
        }
        number
    }

    /// The key of a row that is there.
    fn key(&self, number: u32) -> &[u8] {
        self.get(number).map_or(&[], |row| row.key.as_ref())
    }

    /// The number of the row that was added last.
    fn last(&self) -> Option<u32> {
        u32::try_from(self.end().checked_sub(1)?).ok()
    }

    fn pop(&mut self) -> Option<Row> {
        let piece = self.pieces.last_mut()?;
        let row = piece.pop()?;
        if piece.is_empty() {
            self.pieces.pop();
        }
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap as Model;

    use bytes::Bytes;

    use super::*;

    fn told(table: &Table) -> Vec<(Vec<u8>, Option<Bytes>)> {
        table.iter().map(|(key, value)| (key.as_ref().to_vec(), value.bytes())).collect()
    }

    /// Keys and values short and long, more rows than a piece has, and undone steps between.
    #[test]
    fn steps_are_as_in_a_map_and_undone_as_if_they_had_not_been() {
        let mut table = Table::default();
        let mut model: Model<Vec<u8>, Option<Bytes>> = Model::new();
        let mut seed = 7u64;
        let mut draw = |end: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % end
        };
        for step in 0..6_000 {
            table.savepoint();
            let is_undone = draw(20) == 0;
            let kept = is_undone.then(|| (model.clone(), table.size_bytes()));
            for _ in 0..=draw(3) {
                let number = draw(9_000);
                let key =
                    format!("{number}{}", "k".repeat(draw(2) as usize * number as usize % 60));
                let value = match draw(4) {
                    0 => None,
                    kind => Some(Bytes::from("v".repeat(kind as usize * 20))),
                };
                table.put(key.as_bytes(), Value::from(value.clone()));
                model.insert(key.into_bytes(), value);
            }
            if let Some((kept, size_bytes)) = kept {
                table.rollback();
                assert_eq!(table.size_bytes(), size_bytes);
                model = kept;
            }
            if step % 1_000 == 0 {
                assert_eq!(told(&table), model.clone().into_iter().collect::<Vec<_>>());
            }
        }
        assert!(model.len() > PIECE_ROWS, "{} rows", model.len());
        assert_eq!(told(&table), model.clone().into_iter().collect::<Vec<_>>());
        for (key, value) in &model {
            assert_eq!(table.get(key).and_then(Value::bytes), *value);
        }
        assert!(table.get(b"no such key").is_none());
        // A hint, whatever is asked for and however much.
        let mut fetch = table.fetch(None);
        fetch.add(b"no such key");
        model.keys().for_each(|key| fetch.add(key));
        fetch.finish();
    }
}
