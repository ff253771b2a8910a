//! Keys of several shards brought together in memory, so that a command which needs them all is carried out on them.
//!
//! What all shards have alike, scripts and functions and settings, is read where it is. A key that was not brought
//! looks as if it were not there, and is noted: what comes of it is worth nothing, but all that is needed besides is
//! known then, and can be brought too.

use std::cell::RefCell;
use std::collections::BTreeSet;

use bytes::Bytes;
use proteus_store::{Direction, LayeredStore, Read, State, StoreError, Visit};

use crate::questions::Rows;
use crate::{SPACE, layout};

/// A key of a database.
pub type Place = (u8, Bytes);

/// A state of some keys of several shards.
pub struct Gathered<'a> {
    own: LayeredStore,
    keys: BTreeSet<Place>,
    first: &'a dyn Read,
    missing: RefCell<BTreeSet<Place>>,
}

impl<'a> Gathered<'a> {
    /// `rows` are all that belongs to `keys`; `first` is the first shard's state.
    pub fn new(
        keys: BTreeSet<Place>,
        rows: impl IntoIterator<Item = Rows>,
        first: &'a dyn Read,
    ) -> Gathered<'a> {
        Gathered { own: Rows::state(rows), keys, first, missing: RefCell::default() }
    }

    /// The keys that were brought.
    pub fn keys(&self) -> &BTreeSet<Place> {
        &self.keys
    }

    /// Keys that somebody has looked at and that were not brought.
    pub fn missing(&self) -> BTreeSet<Place> {
        self.missing.borrow().clone()
    }

    /// What a key's own row says, which is another after each change of the key.
    ///
    /// # Errors
    /// If the store fails.
    pub fn head(&self, (db, key): &Place) -> Result<Option<Bytes>, StoreError> {
        self.own.get(&layout::head(*db, key))
    }
}

/// The kind of what is stored under a key of this machine.
fn kind_of(place: &[u8]) -> Option<u8> {
    place.split_first().filter(|(space, _)| **space == SPACE)?.1.first().copied()
}

impl Read for Gathered<'_> {
    fn get(&self, place: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match kind_of(place) {
            None => self.first.get(place),
            // What is declared to follow follows when this is committed.
            Some(layout::KIND_DECLARATION) => Ok(None),
            Some(layout::KIND_HEAD) => {
                let key = layout::split_head(place).map(|(_, key)| key).unwrap_or_default();
                let db = place.get(2).copied().unwrap_or_default();
                let key = (db, Bytes::copy_from_slice(key));
                if self.keys.contains(&key) {
                    return self.own.get(place);
                }
                self.missing.borrow_mut().insert(key);
                Ok(None)
            }
            Some(kind) => match self.own.get(place)? {
                None if layout::SHARED_KINDS.contains(&kind) => self.first.get(place),
                // Which slots a shard has, and what it counts, is not of these keys.
                found => Ok(found),
            },
        }
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        match kind_of(start) {
            None => self.first.scan(start, end, direction, visit),
            // All keys at once are nowhere.
            Some(layout::KIND_HEAD) => Err(StoreError::Away("all keys".to_owned())),
            Some(kind) if layout::SHARED_KINDS.contains(&kind) => {
                self.first.scan(start, end, direction, visit)
            }
            Some(_) => self.own.scan(start, end, direction, visit),
        }
    }
}

impl State for Gathered<'_> {
    fn put(&mut self, key: Bytes, value: Bytes) {
        self.own.put(key, value);
    }

    fn delete(&mut self, key: Bytes) {
        self.own.delete(key);
    }

    fn savepoint(&mut self) {
        self.own.savepoint();
    }

    fn rollback(&mut self) {
        self.own.rollback();
    }
}
