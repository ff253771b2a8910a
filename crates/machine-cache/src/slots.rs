//! Which slots are in this shard, and keys on their way from one shard to another.
//!
//! Where keys are spread over several shards, each has the whole map and, from that, its own slots; a
//! command whose keys are elsewhere is refused, so that whoever sent it by an older map sends it again.
//! Without a map all keys are here.

use std::cell::OnceCell;
use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_machine::key::take_u64;
use proteus_machine::{Abort, Ctx};
use proteus_store::{Direction, Read, StoreError};
use proteus_types::{CommitTs, ShardId, Slot, SlotMap};

use crate::collection::Collection;
use crate::declared::invalidated_until;
use crate::exec::{Before, Exec};
use crate::head::Head;
use crate::memory::charge;
use crate::{Change, DATABASE_COUNT, Refusal, SPACE, layout};

/// The map that this shard was given last; that of a single shard if there is none.
///
/// # Errors
/// If the store fails.
pub fn slot_map(state: &dyn Read) -> Result<SlotMap, StoreError> {
    match state.get(&layout::SLOT_MAP)? {
        None => Ok(SlotMap::default()),
        Some(bytes) => postcard::from_bytes(&bytes)
            .map_err(|error| StoreError::corrupt(&layout::SLOT_MAP, error.to_string())),
    }
}

/// Whether a slot is in this shard, as far as this shard was told which has which.
///
/// # Errors
/// If the store fails.
pub fn is_here(state: &dyn Read, slot: Slot) -> Result<bool, StoreError> {
    Ok(OwnSlots::of(state)?.is_some_and(|own| own.has(slot.number())))
}

/// The slots of this shard; `None` if all are here.
#[derive(Debug, Clone)]
pub(crate) struct OwnSlots(Bytes);

impl OwnSlots {
    pub(crate) fn of(state: &dyn Read) -> Result<Option<OwnSlots>, StoreError> {
        Ok(state.get(&layout::OWN_SLOTS)?.map(OwnSlots))
    }

    pub(crate) fn have(&self, key: &[u8]) -> bool {
        self.has(Slot::of_key(key).number())
    }

    fn has(&self, slot: u16) -> bool {
        self.0.chunks_exact(4).any(|range| {
            let first = u16::from_be_bytes([range[0], range[1]]);
            let last = u16::from_be_bytes([range[2], range[3]]);
            (first..=last).contains(&slot)
        })
    }

    /// Refuses what is elsewhere.
    pub(crate) fn hold(&self, key: &[u8]) -> Result<(), Abort<Refusal>> {
        if self.have(key) { Ok(()) } else { Err(Abort::Refused(Refusal::Elsewhere)) }
    }
}

/// Where keys are, as this shard was told: for what follows from its own changes.
pub struct Whereabouts {
    own: Option<OwnSlots>,
    /// Read once it is needed.
    map: OnceCell<SlotMap>,
}

impl Whereabouts {
    /// What `state` says.
    ///
    /// # Errors
    /// If the store fails.
    pub fn of(state: &dyn Read) -> Result<Whereabouts, StoreError> {
        Ok(Whereabouts { own: OwnSlots::of(state)?, map: OnceCell::new() })
    }

    /// The other shard that has a key; `None` if it is here.
    ///
    /// # Errors
    /// If the store fails.
    pub fn elsewhere(&self, state: &dyn Read, key: &[u8]) -> Result<Option<ShardId>, StoreError> {
        match &self.own {
            Some(own) if !own.have(key) => Ok(Some(self.map(state)?.shard_of_key(key))),
            _ => Ok(None),
        }
    }

    /// All shards, if there are several.
    ///
    /// # Errors
    /// If the store fails.
    pub fn shards(&self, state: &dyn Read) -> Result<&[ShardId], StoreError> {
        match &self.own {
            Some(_) => Ok(self.map(state)?.shards()),
            None => Ok(&[]),
        }
    }

    fn map(&self, state: &dyn Read) -> Result<&SlotMap, StoreError> {
        match self.map.get() {
            Some(map) => Ok(map),
            None => {
                let map = slot_map(state)?;
                Ok(self.map.get_or_init(|| map))
            }
        }
    }
}

/// Gives this shard a map.
pub(crate) fn set(ctx: &mut Ctx<'_, Change>, map: &SlotMap) -> Result<(), StoreError> {
    let encoded = postcard::to_stdvec(map)
        .map_err(|error| StoreError::corrupt(&layout::SLOT_MAP, error.to_string()))?;
    ctx.put(Bytes::from_static(&layout::SLOT_MAP), encoded);
    let mut own = Vec::new();
    for (first, last) in map.slots_of(ctx.shard()) {
        own.extend_from_slice(&first.to_be_bytes());
        own.extend_from_slice(&last.to_be_bytes());
    }
    ctx.put(Bytes::from_static(&layout::OWN_SLOTS), own);
    ctx.emit(Change::Slots(Box::new(map.clone())));
    Ok(())
}

type Row = (Bytes, Bytes);

/// A key in a slot: its database, its name, its head, and what of the store is its own.
struct Held {
    db: u8,
    key: Bytes,
    /// None of what is remembered of a key that a declaration took away.
    head: Option<Head>,
    rows: Vec<Row>,
}

fn each_in(
    state: &dyn Read,
    first: u16,
    last: u16,
    visit: &mut dyn FnMut(Held) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let (start, end) = (u64::from(first) << 32, (u64::from(last) + 1) << 32);
    for db in 0..DATABASE_COUNT {
        let (from, until) = (layout::heads_from(db, start), layout::heads_until(db, end));
        let mut heads = Vec::new();
        state.scan(&from, &until, Direction::Ascending, &mut |place, bytes| {
            heads.push((Bytes::copy_from_slice(place), bytes.clone()));
            ControlFlow::Continue(())
        })?;
        for (place, bytes) in heads {
            if let Some(held) = held_at(state, db, place, bytes)? {
                visit(held)?;
            }
        }
        for held in invalidated_in(state, db, first, last)? {
            visit(held)?;
        }
    }
    Ok(())
}

/// What is remembered of keys that a declaration took away: who watches one must learn of it, wherever it is.
fn invalidated_in(
    state: &dyn Read,
    db: u8,
    first: u16,
    last: u16,
) -> Result<Vec<Held>, StoreError> {
    let (from, until) =
        (layout::invalidated_from(db, first), layout::invalidated_from(db, last.saturating_add(1)));
    let mut found = Vec::new();
    state.scan(&from, &until, Direction::Ascending, &mut |place, bytes| {
        if let (Some((_, key)), Some((commit_ts, _))) =
            (layout::split_invalidated(place), take_u64(bytes))
        {
            let until = invalidated_until(CommitTs(commit_ts), db, key);
            let rows = vec![(Bytes::copy_from_slice(place), bytes.clone()), (until, Bytes::new())];
            found.push(Held { db, key: Bytes::copy_from_slice(key), head: None, rows });
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// The key whose head is `bytes` at `place`, with all that belongs to it.
fn held_at(
    state: &dyn Read,
    db: u8,
    place: Bytes,
    bytes: Bytes,
) -> Result<Option<Held>, StoreError> {
    let Some((_, key)) = layout::split_head(&place) else { return Ok(None) };
    let key = Bytes::copy_from_slice(key);
    let head = Head::decode(&place, bytes.clone())?;
    let mut rows = vec![(place, bytes)];
    if let Some(at_ms) = head.expire_at_ms {
        let place = layout::timed(layout::KIND_EXPIRY, at_ms, db, &key);
        rows.push((place, Bytes::new()));
    }
    let held = match head.kind {
        crate::Kind::String => None,
        _ => Collection::decode(head.clone(), Before::ABSENT),
    };
    if let Some(at_ms) = held.as_ref().and_then(Collection::field_expiry_ms) {
        let place = layout::timed(layout::KIND_FIELD_EXPIRY, at_ms, db, &key);
        rows.push((place, Bytes::new()));
    }
    if let Some(id) = held.and_then(|held| held.spread_id()) {
        state.scan_prefix(&layout::elements(id, b""), &mut |place, value| {
            rows.push((Bytes::copy_from_slice(place), value.clone()));
            ControlFlow::Continue(())
        })?;
    }
    Ok(Some(Held { db, key, head: Some(head), rows }))
}

/// All that the store has of some keys of a database; `None` if that is more than `bytes_max`.
pub(crate) fn rows_of_keys(
    state: &dyn Read,
    db: u8,
    keys: &[Bytes],
    bytes_max: usize,
) -> Result<Option<Vec<Row>>, StoreError> {
    let (mut all, mut bytes) = (Vec::new(), 0);
    for key in keys {
        if key.len() > crate::KEY_BYTES_MAX {
            continue;
        }
        let place = Bytes::copy_from_slice(&layout::head(db, key));
        let Some(head) = state.get(&place)? else {
            // That a declaration took it away belongs to its revision.
            let place = layout::invalidated(db, key);
            all.extend(state.get(&place)?.map(|remembered| (place, remembered)));
            continue;
        };
        let Some(held) = held_at(state, db, place, head)? else { continue };
        let sizes = held.rows.iter().map(|(place, value)| place.len() + value.len());
        bytes += sizes.sum::<usize>();
        if bytes > bytes_max {
            return Ok(None);
        }
        all.extend(held.rows);
    }
    Ok(Some(all))
}

fn all_in(state: &dyn Read, first: u16, last: u16) -> Result<Vec<Held>, StoreError> {
    let mut all = Vec::new();
    each_in(state, first, last, &mut |held| {
        all.push(held);
        Ok(())
    })?;
    Ok(all)
}

/// Slots that [`stretch`] looks at first.
const WINDOW: u16 = 64;

/// The last slot of those from `first` to `last`, so that all keys up to it take about `bytes_max`; at
/// least `first`. And how many bytes they take.
///
/// # Errors
/// If the store fails.
pub fn stretch(
    state: &dyn Read,
    first: u16,
    last: u16,
    bytes_max: u64,
) -> Result<(u16, u64), StoreError> {
    let (mut from, mut window, mut sum) = (first, WINDOW, 0);
    loop {
        let until = from.saturating_add(window - 1).min(last);
        let mut sizes = vec![0; usize::from(until - from) + 1];
        each_in(state, from, until, &mut |held| {
            let bytes = held.rows.iter().map(|(place, value)| (place.len() + value.len()) as u64);
            let slot = Slot::of_key(&held.key).number();
            if let Some(size) = sizes.get_mut(usize::from(slot.saturating_sub(from))) {
                *size += bytes.sum::<u64>();
            }
            Ok(())
        })?;
        for (slot, size) in (from..=until).zip(sizes) {
            if slot > first && sum + size > bytes_max {
                return Ok((slot - 1, sum));
            }
            sum += size;
        }
        if until == last {
            return Ok((last, sum));
        }
        from = until + 1;
        window = window.saturating_mul(2);
    }
}

/// All that the store has of the keys of some slots.
///
/// # Errors
/// If the store fails.
pub fn rows_of(state: &dyn Read, first: u16, last: u16) -> Result<Bytes, StoreError> {
    encode_rows(all_in(state, first, last)?.iter().flat_map(|held| &held.rows))
}

/// Stands for rows, so that it can be told whether they have changed.
pub fn digest(rows: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(rows)
}

/// Takes the keys of some slots out of this shard, if they are still what whoever took them along has.
pub(crate) fn take(
    ctx: &mut Ctx<'_, Change>,
    first: u16,
    last: u16,
    expected: u64,
) -> Result<(), Abort<Refusal>> {
    let all = all_in(ctx, first, last)?;
    if digest(&encode_rows(all.iter().flat_map(|held| &held.rows))?) != expected {
        return Err(Abort::Refused(Refusal::RowsChanged));
    }
    for held in all {
        count(ctx, &held, -1)?;
        for (place, _) in held.rows {
            ctx.delete(place);
        }
    }
    Ok(())
}

fn encode_rows<'a>(rows: impl Iterator<Item = &'a Row>) -> Result<Bytes, StoreError> {
    let rows: Vec<(&[u8], &[u8])> = rows.map(|(place, value)| (&place[..], &value[..])).collect();
    postcard::to_stdvec(&rows)
        .map(Bytes::from)
        .map_err(|error| StoreError::corrupt(b"(slots)", error.to_string()))
}

/// What every shard has: settings, scripts and functions.
///
/// # Errors
/// If the store fails.
pub fn shared_rows(state: &dyn Read) -> Result<Bytes, StoreError> {
    let mut rows = Vec::new();
    for kind in layout::SHARED_KINDS {
        state.scan_prefix(&[SPACE, *kind], &mut |place, value| {
            rows.push((Bytes::copy_from_slice(place), value.clone()));
            ControlFlow::Continue(())
        })?;
    }
    encode_rows(rows.iter())
}

pub(crate) fn put_rows(ctx: &mut Ctx<'_, Change>, rows: &[u8]) -> Result<(), StoreError> {
    let rows: Vec<(&[u8], &[u8])> = postcard::from_bytes(rows)
        .map_err(|error| StoreError::corrupt(b"(slots)", error.to_string()))?;
    for (place, value) in rows {
        if place.first() != Some(&SPACE) {
            return Err(StoreError::corrupt(place, "not a key of the cache"));
        }
        ctx.put(Bytes::copy_from_slice(place), Bytes::copy_from_slice(value));
    }
    Ok(())
}

/// Puts what [`rows_of`] told of another shard into this one.
pub(crate) fn give(
    ctx: &mut Ctx<'_, Change>,
    first: u16,
    last: u16,
    rows: &[u8],
) -> Result<(), StoreError> {
    put_rows(ctx, rows)?;
    for held in all_in(ctx, first, last)? {
        count(ctx, &held, 1)?;
    }
    Ok(())
}

fn count(ctx: &mut Ctx<'_, Change>, held: &Held, sign: i64) -> Result<(), StoreError> {
    let Held { db, key, head, .. } = held;
    let Some(head) = head else { return Ok(()) };
    let bytes = charge(key, head.kind, &head.body).cast_signed();
    let expires = i64::from(head.expire_at_ms.is_some());
    Exec::new(ctx, *db, 0).add_to_sums(*db, sign, sign * expires, sign * bytes)
}
