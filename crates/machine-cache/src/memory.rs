//! How much memory keys take, and which could go.
//!
//! What a key is charged follows from what is stored of it alone, in steps, so that the sum of a database
//! changes seldom. The elements of a large collection are estimated: the machine does not look at what an
//! element replaces.

use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_machine::View;
use proteus_store::{Direction, StoreError};

use crate::collection::spread_bytes;
use crate::exec::{Exec, ReadOnly};
use crate::head::{Head, Kind, Revision};
use crate::{DATABASE_COUNT, SPACE, layout};

/// What an entry costs beside its bytes: its share of tables, and handles.
pub(crate) const ENTRY_BYTES: u64 = 56;

/// A key's own entry is charged in steps of this.
const STEP_BYTES: u64 = 64;

/// Elements of a large collection are charged in steps of this.
const SPREAD_STEP_BYTES: u64 = 4096;

/// Bytes that a key with this head is charged.
pub(crate) fn charge(key: &[u8], kind: Kind, body: &[u8]) -> u64 {
    let own = ENTRY_BYTES + key.len() as u64 + body.len() as u64;
    let spread = if kind == Kind::String { 0 } else { spread_bytes(body) };
    own.next_multiple_of(STEP_BYTES) + spread.next_multiple_of(SPREAD_STEP_BYTES)
}

/// Bytes that all keys are charged.
///
/// # Errors
/// If the store fails.
pub fn used_bytes(view: View<'_>) -> Result<u64, StoreError> {
    let mut access = ReadOnly(view);
    let exec = Exec::new(&mut access, 0, 0);
    let mut sum = 0u64;
    for db in 0..DATABASE_COUNT {
        sum = sum.saturating_add(exec.sums(db)?.bytes);
    }
    Ok(sum)
}

/// Bytes that a key and its value are charged, if it is there.
///
/// # Errors
/// If the store fails.
pub fn size_of(view: View<'_>, db: u8, key: &[u8]) -> Result<Option<u64>, StoreError> {
    let mut access = ReadOnly(view);
    let exec = Exec::new(&mut access, db, 0);
    Ok(exec.head(key)?.map(|head| charge(key, head.kind, &head.body)))
}

/// Adds up what the keys of a database are charged, key by key: what [`used_bytes`] must say.
///
/// # Errors
/// If the store fails.
pub fn recount(view: View<'_>, db: u8) -> Result<(u64, u64), StoreError> {
    let (mut keys, mut bytes) = (0, 0);
    each_head(view, db, &[], &mut |key, head| {
        keys += 1;
        bytes += charge(key, head.kind, &head.body);
        ControlFlow::Continue(())
    })?;
    Ok((keys, bytes))
}

/// What the sums of a database say: keys and bytes.
///
/// # Errors
/// If the store fails.
pub fn sums(view: View<'_>, db: u8) -> Result<(u64, u64), StoreError> {
    let mut access = ReadOnly(view);
    let sums = Exec::new(&mut access, db, 0).sums(db)?;
    Ok((sums.keys, sums.bytes))
}

/// A key that could be evicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its database.
    pub db: u8,
    /// The key.
    pub key: Bytes,
    /// What it was when it was looked at.
    pub revision: Revision,
    /// When it expires.
    pub expire_at_ms: Option<u64>,
    /// What goes with it.
    pub bytes: u64,
}

fn each_head(
    view: View<'_>,
    db: u8,
    from: &[u8],
    visit: &mut dyn FnMut(&[u8], Head) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let prefix = [SPACE, layout::KIND_HEAD, db];
    let start = [&prefix[..], from].concat();
    let end = proteus_store::prefix_end(&prefix);
    let mut fault = None;
    view.state.scan(&start, &end, Direction::Ascending, &mut |place, bytes| {
        let Some((_, key)) = layout::split_head(place) else { return ControlFlow::Continue(()) };
        match Head::decode(place, bytes.clone()) {
            Ok(head) => visit(key, head),
            Err(error) => {
                fault = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    fault.map_or(Ok(()), Err)
}

/// Keys of a database that stand behind a place which `random` chooses, at most `count`; only those that
/// expire, if asked. Looks at a bounded number of keys.
///
/// # Errors
/// If the store fails.
pub fn candidates(
    view: View<'_>,
    db: u8,
    random: u64,
    count: usize,
    only_expiring: bool,
) -> Result<Vec<Candidate>, StoreError> {
    let slot = (random >> 32) as u16 % 16_384;
    let place = [&slot.to_be_bytes()[..], &(random as u32).to_be_bytes()].concat();
    let found = candidates_from(view, db, &place, count, only_expiring)?;
    if found.is_empty() { candidates_from(view, db, &[], count, only_expiring) } else { Ok(found) }
}

fn candidates_from(
    view: View<'_>,
    db: u8,
    place: &[u8],
    count: usize,
    only_expiring: bool,
) -> Result<Vec<Candidate>, StoreError> {
    let mut found = Vec::new();
    let mut looked_at = 0;
    let places_max = count.saturating_mul(8);
    each_head(view, db, place, &mut |key, head| {
        looked_at += 1;
        if head.expire_at_ms.is_some() || !only_expiring {
            found.push(Candidate {
                db,
                key: Bytes::copy_from_slice(key),
                revision: head.revision,
                expire_at_ms: head.expire_at_ms,
                bytes: charge(key, head.kind, &head.body),
            });
        }
        if found.len() >= count || looked_at >= places_max {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    Ok(found)
}

/// The keys of all databases that expire next, at most `count`.
///
/// # Errors
/// If the store fails.
pub fn soonest(view: View<'_>, count: usize) -> Result<Vec<Candidate>, StoreError> {
    let mut places = Vec::new();
    view.state.scan_prefix(&[SPACE, layout::KIND_EXPIRY], &mut |place, _| {
        if let Some((_, db, key)) = layout::split_timed(place) {
            places.push((db, Bytes::copy_from_slice(key)));
        }
        if places.len() >= count { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let mut found = Vec::new();
    for (db, key) in places {
        let place = layout::head(db, &key);
        let Some(bytes) = view.state.get(&place)? else { continue };
        let head = Head::decode(&place, bytes)?;
        found.push(Candidate {
            db,
            revision: head.revision,
            expire_at_ms: head.expire_at_ms,
            bytes: charge(&key, head.kind, &head.body),
            key,
        });
    }
    Ok(found)
}
