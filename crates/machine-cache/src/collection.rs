//! The elements of a collection: an ordered map from places to values, small or large.
//!
//! ```text
//! body = count  meta_bytes meta  0 (place value)*     a small one, whole in its head
//! body = count  meta_bytes meta  1 id bytes           a large one, each element under the id
//! ```
//! Counts and lengths are variable-length integers. What a place is, the type says: a list's index, a
//! member behind its hash, a score. Once large, a collection stays large until it is empty.

use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_store::{Direction, StoreError, Visit, prefix_end};

use crate::exec::{Before, Exec};
use crate::head::{Head, Kind};
use crate::layout;
use crate::memory::ENTRY_BYTES;

/// A small collection has at most this many elements of at most that many bytes together: what it
/// costs to write one whole for a change to an element.
const SMALL_ELEMENTS_MAX: usize = 128;
const SMALL_BYTES_MAX: usize = 4096;

/// A hash's, list's, set's, sorted set's or stream's elements, as a command sees them.
pub(crate) struct Collection {
    kind: Kind,
    /// How many elements the type counts; a sorted set has two places for each.
    pub(crate) count: u64,
    /// What the type keeps beside its elements.
    pub(crate) meta: Vec<u8>,
    pub(crate) is_large: bool,
    pub(crate) expire_at_ms: Option<u64>,
    data: Data,
    before: Before,
    /// The time under which the index of hashes with expiring fields has this one.
    indexed_field_expiry_ms: Option<u64>,
    /// What a large one's elements take, as far as it is known.
    spread: Spread,
}

/// What the elements of a large collection take. Those that are replaced or removed are not looked at;
/// they count as the average.
#[derive(Debug, Clone, Copy, Default)]
struct Spread {
    /// Bytes and elements before the command.
    bytes: u64,
    count: u64,
    /// Bytes and places that the command has written.
    put_bytes: u64,
    put_count: u64,
}

impl Spread {
    /// Bytes now that there are `count` elements of so many places each.
    fn now(self, count: u64, places: u64) -> u64 {
        let average = self.bytes / (self.count * places).max(1);
        let added = (count.cast_signed() - self.count.cast_signed()) * places.cast_signed();
        let replaced = (self.put_count.cast_signed() - added).max(0).unsigned_abs();
        (self.bytes + self.put_bytes).saturating_sub(replaced.saturating_mul(average))
    }
}

/// What the elements of a large collection take, by its head's body; 0 of a small one.
pub(crate) fn spread_bytes(body: &[u8]) -> u64 {
    let mut rest = body;
    let mut bytes = || {
        take_varint(&mut rest)?;
        let meta_bytes = usize::try_from(take_varint(&mut rest)?).ok()?;
        let (form, after) = rest.get(meta_bytes..)?.split_first()?;
        if *form == 0 {
            return None;
        }
        rest = after;
        take_varint(&mut rest)?;
        take_varint(&mut rest)
    };
    bytes().unwrap_or(0)
}

fn element_bytes(place: &[u8], value: &[u8]) -> u64 {
    ENTRY_BYTES + (place.len() + value.len() + layout::ELEMENT_PREFIX_BYTES) as u64
}

enum Data {
    /// In the order of places.
    Small(Vec<(Bytes, Bytes)>),
    Spread(u64),
}

pub(crate) fn put_varint(into: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        into.push(number as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

impl Collection {
    pub(crate) fn new(kind: Kind, before: Before) -> Collection {
        Collection {
            kind,
            count: 0,
            meta: Vec::new(),
            is_large: false,
            expire_at_ms: None,
            data: Data::Small(Vec::new()),
            before,
            indexed_field_expiry_ms: None,
            spread: Spread::default(),
        }
    }

    /// One that stands under no key yet.
    pub(crate) fn fresh(kind: Kind) -> Collection {
        Collection::new(kind, Before::ABSENT)
    }

    pub(crate) fn decode(head: Head, before: Before) -> Option<Collection> {
        let mut rest: &[u8] = &head.body;
        let count = take_varint(&mut rest)?;
        let meta_bytes = usize::try_from(take_varint(&mut rest)?).ok()?;
        let (meta, after) = rest.split_at_checked(meta_bytes)?;
        let (form, after) = after.split_first()?;
        rest = after;
        let mut spread = Spread { count, ..Spread::default() };
        let data = if *form == 0 {
            let mut elements = Vec::with_capacity(usize::try_from(count).ok()?.min(256));
            let part = |rest: &mut &[u8]| {
                let length = usize::try_from(take_varint(rest)?).ok()?;
                let (part, after) = rest.split_at_checked(length)?;
                *rest = after;
                Some(head.body.slice_ref(part))
            };
            while !rest.is_empty() {
                elements.push((part(&mut rest)?, part(&mut rest)?));
            }
            Data::Small(elements)
        } else {
            let id = take_varint(&mut rest)?;
            spread.bytes = take_varint(&mut rest)?;
            Data::Spread(id)
        };
        let mut decoded = Collection {
            kind: head.kind,
            count,
            meta: meta.to_vec(),
            is_large: head.is_large,
            expire_at_ms: head.expire_at_ms,
            data,
            before,
            indexed_field_expiry_ms: None,
            spread,
        };
        decoded.indexed_field_expiry_ms = decoded.field_expiry_ms();
        Some(decoded)
    }

    pub(crate) fn encode_body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(64);
        put_varint(&mut body, self.count);
        put_varint(&mut body, self.meta.len() as u64);
        body.extend_from_slice(&self.meta);
        match &self.data {
            Data::Small(elements) => {
                body.push(0);
                for (place, value) in elements {
                    for part in [place, value] {
                        put_varint(&mut body, part.len() as u64);
                        body.extend_from_slice(part);
                    }
                }
            }
            Data::Spread(id) => {
                body.push(1);
                put_varint(&mut body, *id);
                let places = if self.kind == Kind::SortedSet { 2 } else { 1 };
                put_varint(&mut body, self.spread.now(self.count, places));
            }
        }
        body
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn before(&self) -> &Before {
        &self.before
    }

    pub(crate) fn set_before(&mut self, before: Before) {
        self.before = before;
        self.indexed_field_expiry_ms = None;
    }

    /// Whether no key was there before.
    pub(crate) fn is_new(&self) -> bool {
        !self.before.is_live
    }

    /// Whether nothing is left that a key could stand for; an empty stream is still one.
    pub(crate) fn is_gone(&self) -> bool {
        self.count == 0 && self.kind != Kind::Stream
    }

    pub(crate) fn spread_id(&self) -> Option<u64> {
        match self.data {
            Data::Small(_) => None,
            Data::Spread(id) => Some(id),
        }
    }

    /// The earliest time at which a field of a hash expires.
    pub(crate) fn field_expiry_ms(&self) -> Option<u64> {
        if self.kind != Kind::Hash {
            return None;
        }
        self.meta.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
    }

    pub(crate) fn indexed_field_expiry_ms(&self) -> Option<u64> {
        self.indexed_field_expiry_ms
    }

    pub(crate) fn get(&self, exec: &Exec<'_>, place: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match &self.data {
            Data::Small(elements) => Ok(elements
                .binary_search_by(|(other, _)| other[..].cmp(place))
                .ok()
                .and_then(|at| elements.get(at))
                .map(|(_, value)| value.clone())),
            Data::Spread(id) => exec.read().get(&layout::element(*id, place)),
        }
    }

    pub(crate) fn put(&mut self, exec: &mut Exec<'_>, place: &[u8], value: Bytes) {
        match &mut self.data {
            Data::Small(elements) => {
                match elements.binary_search_by(|(other, _)| other[..].cmp(place)) {
                    Ok(at) => elements[at].1 = value,
                    Err(at) => elements.insert(at, (Bytes::copy_from_slice(place), value)),
                }
            }
            Data::Spread(id) => {
                self.spread.put_bytes += element_bytes(place, &value);
                self.spread.put_count += 1;
                // Of its own, so that it does not keep all that the command brought.
                exec.access.put(layout::element(*id, place), Bytes::copy_from_slice(&value));
            }
        }
    }

    /// Removes what is at `place`, if anything is.
    pub(crate) fn delete(&mut self, exec: &mut Exec<'_>, place: &[u8]) {
        match &mut self.data {
            Data::Small(elements) => {
                if let Ok(at) = elements.binary_search_by(|(other, _)| other[..].cmp(place)) {
                    elements.remove(at);
                }
            }
            Data::Spread(id) => exec.access.delete(layout::element(*id, place)),
        }
    }

    /// Visits places from `start` (inclusive) to `end` (exclusive).
    pub(crate) fn range(
        &self,
        exec: &Exec<'_>,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        if start >= end {
            return Ok(());
        }
        match &self.data {
            Data::Small(elements) => {
                let from = elements.partition_point(|(place, _)| &place[..] < start);
                let to = elements.partition_point(|(place, _)| &place[..] < end);
                let slice = elements.get(from..to).unwrap_or_default();
                let mut step = |(place, value): &(Bytes, Bytes)| visit(place, value).is_break();
                match direction {
                    Direction::Ascending => slice.iter().any(&mut step),
                    Direction::Descending => slice.iter().rev().any(&mut step),
                };
                Ok(())
            }
            Data::Spread(id) => {
                let (start, end) = (layout::elements(*id, start), layout::elements(*id, end));
                exec.read().scan(&start, &end, direction, &mut |place, value| {
                    visit(&place[layout::ELEMENT_PREFIX_BYTES..], value)
                })
            }
        }
    }

    /// Visits places that begin with `prefix`.
    pub(crate) fn prefix(
        &self,
        exec: &Exec<'_>,
        prefix: &[u8],
        direction: Direction,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        let end = if prefix.is_empty() { vec![0xFF; 64] } else { prefix_end(prefix) };
        self.range(exec, prefix, &end, direction, visit)
    }

    /// All elements whose places begin with `prefix`.
    pub(crate) fn all(
        &self,
        exec: &Exec<'_>,
        prefix: &[u8],
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let mut found = Vec::new();
        self.prefix(exec, prefix, Direction::Ascending, &mut |place, value| {
            found.push((Bytes::copy_from_slice(&place[prefix.len()..]), value.clone()));
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// Gives each element a place of its own in the store once there are many.
    pub(crate) fn spread_if_large(&mut self, exec: &mut Exec<'_>) -> Result<(), StoreError> {
        let Data::Small(elements) = &mut self.data else { return Ok(()) };
        let bytes: usize = elements.iter().map(|(place, value)| place.len() + value.len()).sum();
        if elements.len() <= SMALL_ELEMENTS_MAX && bytes <= SMALL_BYTES_MAX {
            return Ok(());
        }
        let elements = std::mem::take(elements);
        let id = exec.next_id()?;
        self.spread = Spread { count: self.count, ..Spread::default() };
        for (place, value) in elements {
            self.spread.bytes += element_bytes(&place, &value);
            // Of its own: it was a part of all of them.
            let value = Bytes::copy_from_slice(&value);
            exec.access.put(layout::element(id, &place), value);
        }
        self.data = Data::Spread(id);
        Ok(())
    }

    /// As [`Collection::spread_if_large`], in the midst of a command that adds many elements: in a small
    /// one each costs a search and a move of those behind it.
    pub(crate) fn relieve(&mut self, exec: &mut Exec<'_>) -> Result<(), StoreError> {
        match &self.data {
            Data::Small(elements) if elements.len() > 2 * SMALL_ELEMENTS_MAX => {
                self.spread_if_large(exec)
            }
            _ => Ok(()),
        }
    }
}

impl Collection {
    /// The same elements under an id of their own.
    pub(crate) fn copied(&self, exec: &mut Exec<'_>) -> Result<Collection, StoreError> {
        let mut copy = Collection::fresh(self.kind);
        copy.count = self.count;
        copy.meta.clone_from(&self.meta);
        copy.is_large = self.is_large;
        copy.expire_at_ms = self.expire_at_ms;
        copy.data = match &self.data {
            Data::Small(elements) => Data::Small(elements.clone()),
            Data::Spread(_) => {
                let id = exec.next_id()?;
                copy.spread = self.spread;
                for (place, value) in self.all(exec, b"")? {
                    exec.access.put(layout::element(id, &place), value);
                }
                Data::Spread(id)
            }
        };
        Ok(copy)
    }
}
