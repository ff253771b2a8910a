//! Recent changes in memory over a checkpoint on disk.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::facts::{self, Facts};
use crate::rows::Rows;
use crate::short::{Key, Value};
use crate::table::{Fetch, Table};
use crate::{Direction, DiskImage, DiskStore, Read, State, StoreError, TellKeys, Visit};

/// An ordered key space: changes since the last checkpoint in memory, older ones on disk.
///
/// Lookup order is active table, frozen table, rows read lately, disk; the first that knows the key wins. While a
/// checkpoint is being written, its changes stand in the frozen table *and* may already be on disk:
/// both say the same.
#[derive(Debug, Default)]
pub struct LayeredStore {
    active: Table,
    frozen: Option<Arc<Table>>,
    disk: Option<Disk>,
    facts: Facts,
    /// Of every change that was ever made and not rolled back, in order.
    digest: u64,
    digest_at_savepoint: u64,
}

/// What is on disk, and what of it is in memory.
#[derive(Debug, Clone)]
struct Disk {
    store: DiskStore,
    rows: Arc<Rows>,
}

/// Changes on their way to disk. Written outside the store's lock, so that a checkpoint pauses
/// nobody.
#[derive(Debug)]
pub struct Checkpoint {
    changes: Arc<Table>,
    disk: Disk,
}

/// Changes that are on disk: memory to be freed.
#[derive(Debug)]
pub struct Frozen(#[allow(dead_code, reason = "held only to be dropped")] Arc<Table>);

impl Checkpoint {
    /// Writes all changes in one atomic step and returns once they are durable.
    ///
    /// # Errors
    /// If the disk fails; nothing of the checkpoint is then visible after a restart.
    pub fn write(&self) -> Result<(), StoreError> {
        self.disk.store.ingest(self.changes.iter())?;
        self.disk.rows.renew(&self.changes);
        Ok(())
    }
}

impl LayeredStore {
    /// A store in memory only.
    pub fn in_memory() -> LayeredStore {
        LayeredStore::default()
    }

    /// A store over what `disk` holds.
    pub fn over(disk: DiskStore) -> LayeredStore {
        let disk = Disk { store: disk, rows: Arc::default() };
        LayeredStore { disk: Some(disk), ..LayeredStore::default() }
    }

    /// The part on disk as it is now, at some checkpoint; `None` in memory.
    pub fn image(&self) -> Option<DiskImage> {
        self.disk.as_ref().map(|disk| disk.store.image())
    }

    /// Begins to fetch what is in memory of some keys for [`Read::get`]: a hint that changes nothing.
    pub fn fetch(&self) -> Fetch<'_> {
        self.active.fetch(self.disk.as_ref().map(|disk| &*disk.rows))
    }

    /// Approximate memory held by changes not yet frozen, in bytes.
    pub fn active_bytes(&self) -> usize {
        self.active.size_bytes()
    }

    /// Stands for every change so far, in order: two stores that went through the same changes have the
    /// same, and others in all likelihood not.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Goes on from a digest that was kept.
    pub fn set_digest(&mut self, digest: u64) {
        self.digest = digest;
    }

    /// True while a checkpoint is under way.
    pub fn is_checkpointing(&self) -> bool {
        self.frozen.is_some()
    }

    /// Sets all changes so far apart to be written to disk. `None` if there is no disk, nothing to
    /// write, or a checkpoint under way. Call between two entries of the log, never within one.
    pub fn freeze(&mut self) -> Option<Checkpoint> {
        let disk = self.disk.clone()?;
        if self.frozen.is_some() || self.active.is_empty() {
            return None;
        }
        let mut changes = std::mem::take(&mut self.active);
        changes.savepoint();
        let changes = Arc::new(changes);
        self.frozen = Some(changes.clone());
        Some(Checkpoint { changes, disk })
    }

    /// Forgets the frozen changes once [`Checkpoint::write`] has succeeded. The returned handle is
    /// the memory to free: drop it outside the lock.
    pub fn release_frozen(&mut self) -> Option<Frozen> {
        self.frozen.take().map(Frozen)
    }
}

impl LayeredStore {
    /// Asks layer after layer.
    fn look_up(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if let Some(value) = self.active.get(key) {
            return Ok(value.bytes());
        }
        if let Some(frozen) = &self.frozen
            && let Some(value) = frozen.get(key)
        {
            return Ok(value.bytes());
        }
        let Some(disk) = &self.disk else { return Ok(None) };
        if let Some(value) = disk.rows.get(key) {
            return Ok(value.bytes());
        }
        let value = disk.store.get(key)?;
        disk.rows.read(key, value.as_ref());
        Ok(value)
    }

    fn change(&mut self, key: &[u8], value: Value) {
        if let Some(code) = facts::code(key) {
            self.facts.change(code, &value);
        }
        self.active.put(key, value);
    }
}

impl Read for LayeredStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let Some(code) = facts::code(key) else { return self.look_up(key) };
        if let Some(value) = self.facts.get(code) {
            return Ok(value.bytes());
        }
        let found = self.look_up(key)?;
        self.facts.learn(code, Value::from(found.clone()));
        Ok(found)
    }

    fn prefetch(&self, tell: &TellKeys<'_>) {
        let mut fetch = self.fetch();
        tell(&mut |key| fetch.add(key));
        fetch.finish();
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        if start >= end {
            return Ok(());
        }
        let bounds = (Bound::Included(start), Bound::Excluded(end));
        let active = in_direction(self.active.range(bounds), direction);
        let frozen =
            self.frozen.as_deref().map(|frozen| in_direction(frozen.range(bounds), direction));
        let disk = self.disk.as_ref().map(|disk| disk.store.range(start, end, direction));
        let mut merge = Merge {
            active: active.peekable(),
            frozen: frozen.into_iter().flatten().peekable(),
            disk: disk.into_iter().flatten().peekable(),
            direction,
        };
        while let Some((key, value)) = merge.next()? {
            if let Some(value) = value.bytes()
                && let ControlFlow::Break(()) = visit(key.as_ref(), &value)
            {
                break;
            }
        }
        Ok(())
    }
}

impl State for LayeredStore {
    fn put(&mut self, key: Bytes, value: Bytes) {
        self.digest = xxh3_64_with_seed(&value, xxh3_64_with_seed(&key, self.digest));
        self.change(&key, Value::from(value));
    }

    fn delete(&mut self, key: Bytes) {
        self.digest = !xxh3_64_with_seed(&key, self.digest);
        self.change(&key, Value::Absent);
    }

    fn savepoint(&mut self) {
        self.digest_at_savepoint = self.digest;
        self.active.savepoint();
    }

    fn rollback(&mut self) {
        self.digest = self.digest_at_savepoint;
        self.active.rollback();
        self.facts.clear();
    }
}

/// A key with its value, or with none if it was deleted.
pub(crate) type Change = (Key, Value);

fn in_direction<'a>(
    range: impl DoubleEndedIterator<Item = (&'a Key, &'a Value)> + 'a,
    direction: Direction,
) -> Box<dyn Iterator<Item = Change> + 'a> {
    let owned = |(key, value): (&Key, &Value)| (key.clone(), value.clone());
    match direction {
        Direction::Ascending => Box::new(range.map(owned)),
        Direction::Descending => Box::new(range.rev().map(owned)),
    }
}

/// Merges three sorted sources; of equal keys the upper source's value counts.
struct Merge<A: Iterator, F: Iterator, D: Iterator> {
    active: Peekable<A>,
    frozen: Peekable<F>,
    disk: Peekable<D>,
    direction: Direction,
}

impl<A, F, D> Merge<A, F, D>
where
    A: Iterator<Item = Change>,
    F: Iterator<Item = Change>,
    D: Iterator<Item = Result<Change, StoreError>>,
{
    fn next(&mut self) -> Result<Option<Change>, StoreError> {
        if self.disk.peek().is_some_and(Result::is_err) {
            return self.disk.next().transpose();
        }
        let disk_key = self.disk.peek().and_then(|item| item.as_ref().ok()).map(|(key, _)| key);
        let keys = [
            self.active.peek().map(|(key, _)| key),
            self.frozen.peek().map(|(key, _)| key),
            disk_key,
        ];
        let direction = self.direction;
        let before = |a: &Key, b: &Key| match direction {
            Direction::Ascending => a.cmp(b),
            Direction::Descending => b.cmp(a),
        };
        let Some(next) = keys.into_iter().flatten().min_by(|a, b| before(a, b)).cloned() else {
            return Ok(None);
        };
        let is_next = |key: &Key| before(key, &next) == Ordering::Equal;
        let active = self.active.next_if(|(key, _)| is_next(key));
        let frozen = self.frozen.next_if(|(key, _)| is_next(key));
        let disk = self.disk.next_if(|item| item.as_ref().is_ok_and(|(key, _)| is_next(key)));
        Ok(active.or(frozen).or(disk.transpose()?))
    }
}

#[cfg(test)]
mod tests;
