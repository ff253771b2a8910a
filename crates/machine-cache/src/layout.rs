//! Where things stand in the store.
//!
//! ```text
//! 1 db slot hash key        ─▶ head of a key: a string, a small collection whole, or where a large one is
//! 2 id place                ─▶ one element of a large collection
//! 3 expire_at_ms db key     ─▶ nothing: keys by the time they expire
//! 4 db                      ─▶ how many keys, how many of them expire, bytes that they are charged
//! 5                         ─▶ id of the next large collection
//! 6 id                      ─▶ nothing: a collection without a head, whose elements are to be removed
//! 7 expire_at_ms db key     ─▶ nothing: hashes by the earliest time at which a field expires
//! 8 sha1                    ─▶ a script
//! 9 name                    ─▶ a library of functions
//! A name                    ─▶ a function: whether it never writes, and its library's name
//! B name                    ─▶ a setting
//! C                         ─▶ which kinds of declarations there are
//! C kind name               ─▶ a declaration
//! D db slot key             ─▶ when an entry was taken away by its declaration
//! E until_ms db key         ─▶ nothing: how long that is remembered
//! F                         ─▶ which shard has which slots; nothing while one has all
//! G                         ─▶ the slots of this one, first and last of each range
//! ```
//! Heads stand in the order of hash slot and hash, so that a scan's cursor is a number, needs no memory
//! in the server, and meets every key that is there from beginning to end; and a hash slot is a range.
//! A large collection's elements stand under an id of its own, so that renaming costs the head alone
//! and removing can be done piece by piece.

use bytes::Bytes;
use proteus_machine::key::{KeyBuilder, take_u64};
use proteus_store::prefix_end;
use proteus_types::Slot;
use smallvec::SmallVec;

use crate::SPACE;
use crate::random::hash32;

pub(crate) const KIND_HEAD: u8 = 1;
pub(crate) const KIND_ELEMENT: u8 = 2;
pub(crate) const KIND_EXPIRY: u8 = 3;
pub(crate) const KIND_COUNTS: u8 = 4;
pub(crate) const KIND_NEXT_ID: u8 = 5;
pub(crate) const KIND_GARBAGE: u8 = 6;
pub(crate) const KIND_FIELD_EXPIRY: u8 = 7;
pub(crate) const KIND_SCRIPT: u8 = 8;
pub(crate) const KIND_LIBRARY: u8 = 9;
pub(crate) const KIND_FUNCTION: u8 = 10;
pub(crate) const KIND_SETTING: u8 = 11;
pub(crate) const KIND_DECLARATION: u8 = 12;
pub(crate) const KIND_INVALIDATED: u8 = 13;
pub(crate) const KIND_INVALIDATED_UNTIL: u8 = 14;

/// What every shard has, where there are several.
pub(crate) const SHARED_KINDS: &[u8] =
    &[KIND_SCRIPT, KIND_LIBRARY, KIND_FUNCTION, KIND_SETTING, KIND_DECLARATION];

pub(crate) const SLOT_MAP: [u8; 2] = [SPACE, 15];
pub(crate) const OWN_SLOTS: [u8; 2] = [SPACE, 16];

pub(crate) const KIND_CHOSEN_LEADER: u8 = 17;
/// Which nodes have replicas of which shards; how many is under no shard.
pub(crate) const KIND_REPLICAS: u8 = 18;

pub(crate) const DECLARED: [u8; 2] = [SPACE, KIND_DECLARATION];

pub(crate) fn declaration(kind: u8, name: &[u8]) -> Bytes {
    KeyBuilder::new(SPACE, KIND_DECLARATION).raw(&[kind]).raw(name).build()
}

pub(crate) fn invalidated(db: u8, key: &[u8]) -> Bytes {
    let slot = Slot::of_key(key).number().to_be_bytes();
    KeyBuilder::new(SPACE, KIND_INVALIDATED).raw(&[db]).raw(&slot).raw(key).build()
}

/// Where what [`invalidated`] tells of a database's keys begins whose slot is at least `slot`.
pub(crate) fn invalidated_from(db: u8, slot: u16) -> Vec<u8> {
    let slot = slot.to_be_bytes();
    KeyBuilder::new(SPACE, KIND_INVALIDATED).raw(&[db]).raw(&slot).into_vec()
}

/// Slot and key of a place that [`invalidated`] gives.
pub(crate) fn split_invalidated(place: &[u8]) -> Option<(Slot, &[u8])> {
    let (slot, key) = place.get(3..)?.split_first_chunk()?;
    Some((Slot::new(u16::from_be_bytes(*slot))?, key))
}

/// Bytes before the key itself in a head's place: space, kind, database, slot, hash.
pub(crate) const HEAD_PREFIX_BYTES: usize = 9;

/// Where a head stands. Most are looked up and no more, and need no memory of their own.
pub(crate) type HeadPlace = SmallVec<[u8; 64]>;

/// Where the head of `key` stands.
pub(crate) fn head(db: u8, key: &[u8]) -> HeadPlace {
    let mut bytes = HeadPlace::with_capacity(HEAD_PREFIX_BYTES + key.len());
    let [slot_high, slot_low] = Slot::of_key(key).number().to_be_bytes();
    let [a, b, c, d] = hash32(key).to_be_bytes();
    bytes.extend_from_slice(&[SPACE, KIND_HEAD, db, slot_high, slot_low, a, b, c, d]);
    bytes.extend_from_slice(key);
    bytes
}

/// Where the heads of a database begin whose slot and hash, as one number, are at least `position`.
pub(crate) fn heads_from(db: u8, position: u64) -> Vec<u8> {
    let mut bytes = vec![SPACE, KIND_HEAD, db];
    bytes.extend_from_slice(&position.to_be_bytes()[2..]);
    bytes
}

/// Where the heads of a database end whose slot and hash, as one number, are below `position`.
pub(crate) fn heads_until(db: u8, position: u64) -> Vec<u8> {
    if position >= POSITION_END {
        prefix_end(&[SPACE, KIND_HEAD, db])
    } else {
        heads_from(db, position)
    }
}

/// Slot and hash of a head's place, as one number; and the key.
pub(crate) fn split_head(place: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = [0; 8];
    number.get_mut(2..)?.copy_from_slice(place.get(3..HEAD_PREFIX_BYTES)?);
    Some((u64::from_be_bytes(number), place.get(HEAD_PREFIX_BYTES..)?))
}

/// One past the largest number that [`split_head`] gives.
pub(crate) const POSITION_END: u64 = 1 << 46;

pub(crate) fn element(id: u64, place: &[u8]) -> Bytes {
    KeyBuilder::new(SPACE, KIND_ELEMENT).u64(id).raw(place).build()
}

/// Bytes before the place within the collection.
pub(crate) const ELEMENT_PREFIX_BYTES: usize = 10;

pub(crate) fn elements(id: u64, place: &[u8]) -> Vec<u8> {
    KeyBuilder::new(SPACE, KIND_ELEMENT).u64(id).raw(place).into_vec()
}

/// A place in an index by time.
pub(crate) fn timed(kind: u8, at_ms: u64, db: u8, key: &[u8]) -> Bytes {
    KeyBuilder::new(SPACE, kind).u64(at_ms).raw(&[db]).raw(key).build()
}

pub(crate) fn timed_until(kind: u8, at_ms: u64) -> Vec<u8> {
    KeyBuilder::new(SPACE, kind).u64(at_ms).into_vec()
}

/// Time, database and key of a place in an index by time.
pub(crate) fn split_timed(place: &[u8]) -> Option<(u64, u8, &[u8])> {
    let (at_ms, rest) = take_u64(place.get(2..)?)?;
    let (db, key) = rest.split_first()?;
    Some((at_ms, *db, key))
}

pub(crate) fn counts(db: u8) -> [u8; 3] {
    [SPACE, KIND_COUNTS, db]
}

pub(crate) const NEXT_ID: [u8; 2] = [SPACE, KIND_NEXT_ID];

pub(crate) fn garbage(id: u64) -> Bytes {
    KeyBuilder::new(SPACE, KIND_GARBAGE).u64(id).build()
}

pub(crate) fn named(kind: u8, name: &[u8]) -> Bytes {
    KeyBuilder::new(SPACE, kind).raw(name).build()
}
