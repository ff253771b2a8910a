//! How keys lie in the store.
//!
//! ```text
//! SPACE 01 key                  → ver u8 │ type u8 │ revision u64 │ expire_at_ms u64 │ string, or field count u64
//! SPACE 02 key-escaped field    → value of a hash field
//! SPACE 03 expire_at_ms u64 key → nothing: the order in which keys expire
//! SPACE 04                      → number of keys u64
//! ```
//! Integers are big-endian; an `expire_at_ms` of 0 means never.

use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_machine::key::{KeyBuilder, take_u64};
use proteus_machine::{Ctx, Machine};
use proteus_store::{Direction, Read, StoreError, prefix_end};
use proteus_types::CommitTs;
use serde::{Deserialize, Serialize};

use crate::{Cache, Change};

const KIND_ENTRY: u8 = 1;
const KIND_FIELD: u8 = 2;
const KIND_EXPIRY: u8 = 3;
const KIND_COUNT: u8 = 4;

const FORMAT_VERSION: u8 = 1;
const TYPE_STRING: u8 = 1;
const TYPE_HASH: u8 = 2;

/// Bytes before a string's value.
const HEADER_BYTES: usize = 2 + 8 + 8;

/// Which change of a key this is: the commit timestamp of the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision(CommitTs);

impl Revision {
    /// Of a key that is not there.
    pub const ABSENT: Revision = Revision(CommitTs::ZERO);
}

/// A key's value, or the head of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    String(Bytes),
    Hash { field_count: u64 },
}

/// A key that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) value: Value,
    pub(crate) revision: Revision,
    pub(crate) expire_at_ms: Option<u64>,
}

fn entry_key(key: &[u8]) -> Bytes {
    KeyBuilder::new(Cache::SPACE, KIND_ENTRY).raw(key).build()
}

fn fields_prefix(key: &[u8]) -> Vec<u8> {
    KeyBuilder::new(Cache::SPACE, KIND_FIELD).string(key).into_vec()
}

fn field_key(key: &[u8], field: &[u8]) -> Bytes {
    KeyBuilder::new(Cache::SPACE, KIND_FIELD).string(key).raw(field).build()
}

fn expiry_key(expire_at_ms: u64, key: &[u8]) -> Bytes {
    KeyBuilder::new(Cache::SPACE, KIND_EXPIRY).u64(expire_at_ms).raw(key).build()
}

fn count_key() -> Bytes {
    KeyBuilder::new(Cache::SPACE, KIND_COUNT).build()
}

impl Entry {
    fn encode(&self) -> Bytes {
        let (kind, tail): (u8, &[u8]) = match &self.value {
            Value::String(value) => (TYPE_STRING, value),
            Value::Hash { field_count } => (TYPE_HASH, &field_count.to_be_bytes()),
        };
        let mut bytes = Vec::with_capacity(HEADER_BYTES + tail.len());
        bytes.extend_from_slice(&[FORMAT_VERSION, kind]);
        bytes.extend_from_slice(&self.revision.0.0.to_be_bytes());
        bytes.extend_from_slice(&self.expire_at_ms.unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(tail);
        Bytes::from(bytes)
    }

    fn decode(bytes: &Bytes) -> Option<Entry> {
        let (&[version, kind], rest) = bytes.split_first_chunk::<2>()?;
        let (revision, rest) = take_u64(rest)?;
        let (expire_at_ms, rest) = take_u64(rest)?;
        let value = match (version, kind) {
            (FORMAT_VERSION, TYPE_STRING) => Value::String(bytes.slice(HEADER_BYTES..)),
            (FORMAT_VERSION, TYPE_HASH) => Value::Hash { field_count: take_u64(rest)?.0 },
            _ => return None,
        };
        let expire_at_ms = (expire_at_ms > 0).then_some(expire_at_ms);
        Some(Entry { value, revision: Revision(CommitTs(revision)), expire_at_ms })
    }

    fn is_expired(&self, now_ms: u64) -> bool {
        self.expire_at_ms.is_some_and(|at_ms| at_ms <= now_ms)
    }
}

fn load_raw(state: &dyn Read, key: &[u8]) -> Result<Option<Entry>, StoreError> {
    let stored_key = entry_key(key);
    let Some(bytes) = state.get(&stored_key)? else { return Ok(None) };
    Entry::decode(&bytes)
        .map(Some)
        .ok_or_else(|| StoreError::corrupt(&stored_key, "not an entry of a version known here"))
}

/// The entry under `key`, unless it is absent or has expired.
pub(crate) fn load(state: &dyn Read, now_ms: u64, key: &[u8]) -> Result<Option<Entry>, StoreError> {
    Ok(load_raw(state, key)?.filter(|entry| !entry.is_expired(now_ms)))
}

/// A field of the hash under `key`; the caller knows that it is a hash.
pub(crate) fn field(
    state: &dyn Read,
    key: &[u8],
    field: &[u8],
) -> Result<Option<Bytes>, StoreError> {
    state.get(&field_key(key, field))
}

/// All fields of the hash under `key`, in their order.
pub(crate) fn fields(state: &dyn Read, key: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    let prefix = fields_prefix(key);
    let mut found = Vec::new();
    state.scan_prefix(&prefix, &mut |stored_key, value| {
        found.push((Bytes::copy_from_slice(&stored_key[prefix.len()..]), value.clone()));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// Number of keys, including those that expired and were not removed yet.
pub(crate) fn key_count(state: &dyn Read) -> Result<u64, StoreError> {
    let value = state.get(&count_key())?;
    Ok(value.and_then(|value| take_u64(&value).map(|(count, _)| count)).unwrap_or(0))
}

/// Keys whose time has come, most overdue first.
pub(crate) fn due(
    state: &dyn Read,
    now_ms: u64,
    count_max: usize,
) -> Result<Vec<(Bytes, u64)>, StoreError> {
    let start = KeyBuilder::new(Cache::SPACE, KIND_EXPIRY).into_vec();
    let end = KeyBuilder::new(Cache::SPACE, KIND_EXPIRY).u64(now_ms.saturating_add(1)).into_vec();
    let mut found = Vec::new();
    state.scan(&start, &end, Direction::Ascending, &mut |stored_key, _| {
        if found.len() == count_max {
            return ControlFlow::Break(());
        }
        if let Some((expire_at_ms, key)) = take_u64(&stored_key[start.len()..]) {
            found.push((Bytes::copy_from_slice(key), expire_at_ms));
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// A key as an op sees and changes it. An expired key counts as absent; its remains go with the
/// next write or removal.
pub(crate) struct Slot<'k> {
    key: &'k Bytes,
    /// What the store holds, expired or not.
    stored: Option<Entry>,
    is_live: bool,
}

impl<'k> Slot<'k> {
    pub(crate) fn open(ctx: &Ctx<'_, Change>, key: &'k Bytes) -> Result<Slot<'k>, StoreError> {
        let stored = load_raw(ctx.read(), key)?;
        let is_live = stored.as_ref().is_some_and(|entry| !entry.is_expired(ctx.now_ms()));
        Ok(Slot { key, stored, is_live })
    }

    /// The entry, unless absent or expired.
    pub(crate) fn entry(&self) -> Option<&Entry> {
        self.stored.as_ref().filter(|_| self.is_live)
    }

    pub(crate) fn expire_at_ms(&self) -> Option<u64> {
        self.entry().and_then(|entry| entry.expire_at_ms)
    }

    /// When what the store holds expires, or was to expire.
    pub(crate) fn stored_expiry_ms(&self) -> Option<u64> {
        self.stored.as_ref().and_then(|entry| entry.expire_at_ms)
    }

    /// Writes the head of a hash whose fields the caller has written, and tells the feed.
    pub(crate) fn write_head(
        self,
        ctx: &mut Ctx<'_, Change>,
        field_count: u64,
        expire_at_ms: Option<u64>,
    ) -> Result<(), StoreError> {
        self.write_entry(ctx, Value::Hash { field_count }, expire_at_ms)
    }

    /// Writes a value, in place of whatever was there, and tells the feed. A live hash that stays one
    /// keeps its fields.
    pub(crate) fn write(
        self,
        ctx: &mut Ctx<'_, Change>,
        value: Value,
        expire_at_ms: Option<u64>,
    ) -> Result<(), StoreError> {
        let was_hash =
            self.stored.as_ref().is_some_and(|entry| matches!(entry.value, Value::Hash { .. }));
        let keeps_fields = self.is_live && matches!(value, Value::Hash { .. });
        if was_hash && !keeps_fields {
            remove_fields(ctx, self.key)?;
        }
        self.write_entry(ctx, value, expire_at_ms)
    }

    fn write_entry(
        self,
        ctx: &mut Ctx<'_, Change>,
        value: Value,
        expire_at_ms: Option<u64>,
    ) -> Result<(), StoreError> {
        match &self.stored {
            None => count_keys(ctx, 1)?,
            Some(before) => {
                if let Some(at_ms) =
                    before.expire_at_ms.filter(|at_ms| Some(*at_ms) != expire_at_ms)
                {
                    ctx.delete(expiry_key(at_ms, self.key));
                }
            }
        }
        let before_ms = self.stored.as_ref().and_then(|before| before.expire_at_ms);
        if let Some(at_ms) = expire_at_ms.filter(|at_ms| Some(*at_ms) != before_ms) {
            ctx.put(expiry_key(at_ms, self.key), Bytes::new());
        }
        let revision = Revision(ctx.commit_ts());
        ctx.put(entry_key(self.key), Entry { value, revision, expire_at_ms }.encode());
        ctx.emit(Change::KeyWritten { key: self.key.clone() });
        Ok(())
    }

    /// Removes the key; says whether it was there to be seen.
    pub(crate) fn remove(self, ctx: &mut Ctx<'_, Change>) -> Result<bool, StoreError> {
        let Some(entry) = self.stored else { return Ok(false) };
        if matches!(entry.value, Value::Hash { .. }) {
            remove_fields(ctx, self.key)?;
        }
        if let Some(at_ms) = entry.expire_at_ms {
            ctx.delete(expiry_key(at_ms, self.key));
        }
        ctx.delete(entry_key(self.key));
        count_keys(ctx, -1)?;
        ctx.emit(Change::KeyRemoved { key: self.key.clone(), expired: !self.is_live });
        Ok(self.is_live)
    }

    /// Forgets remains of an expired hash, so that its fields do not return with a new one.
    pub(crate) fn clear_remains(&self, ctx: &mut Ctx<'_, Change>) -> Result<(), StoreError> {
        match &self.stored {
            Some(Entry { value: Value::Hash { .. }, .. }) if !self.is_live => {
                remove_fields(ctx, self.key)
            }
            _ => Ok(()),
        }
    }
}

pub(crate) fn put_field(ctx: &mut Ctx<'_, Change>, key: &[u8], field: &[u8], value: Bytes) {
    ctx.put(field_key(key, field), value);
}

pub(crate) fn delete_field(ctx: &mut Ctx<'_, Change>, key: &[u8], field: &[u8]) {
    ctx.delete(field_key(key, field));
}

/// Removes every key.
pub(crate) fn clear(ctx: &mut Ctx<'_, Change>) -> Result<(), StoreError> {
    for kind in [KIND_ENTRY, KIND_FIELD, KIND_EXPIRY, KIND_COUNT] {
        remove_prefix(ctx, &[Cache::SPACE, kind])?;
    }
    ctx.emit(Change::Cleared);
    Ok(())
}

fn remove_fields(ctx: &mut Ctx<'_, Change>, key: &[u8]) -> Result<(), StoreError> {
    remove_prefix(ctx, &fields_prefix(key))
}

fn remove_prefix(ctx: &mut Ctx<'_, Change>, prefix: &[u8]) -> Result<(), StoreError> {
    let mut keys = Vec::new();
    ctx.scan(prefix, &prefix_end(prefix), Direction::Ascending, &mut |stored_key, _| {
        keys.push(Bytes::copy_from_slice(stored_key));
        ControlFlow::Continue(())
    })?;
    for key in keys {
        ctx.delete(key);
    }
    Ok(())
}

fn count_keys(ctx: &mut Ctx<'_, Change>, by: i64) -> Result<(), StoreError> {
    let count = key_count(ctx.read())?.saturating_add_signed(by);
    ctx.put(count_key(), Bytes::copy_from_slice(&count.to_be_bytes()));
    Ok(())
}
