//! Reads.

use bytes::Bytes;
use proteus_store::{Read, StoreError};

use crate::entry::{self, Entry, Value};
use crate::{CommandError, Query, Reply};

/// Answers `query` from the state as it is at `now_ms`.
///
/// # Errors
/// If the store fails; a wrong type is an answer.
pub fn answer(state: &dyn Read, now_ms: u64, query: &Query) -> Result<Reply, StoreError> {
    let load = |key: &Bytes| entry::load(state, now_ms, key);
    Ok(match query {
        Query::Get(key) => string(load(key)?, Reply::Nil, Reply::Bulk),
        Query::GetMany(keys) => {
            let values: Result<Vec<_>, StoreError> = keys
                .iter()
                .map(|key| match load(key)? {
                    Some(Entry { value: Value::String(value), .. }) => Ok(Some(value)),
                    _ => Ok(None),
                })
                .collect();
            Reply::Array(values?)
        }
        Query::Length(key) => {
            string(load(key)?, Reply::Integer(0), |value| Reply::Integer(length(value.len())))
        }
        Query::Exists(keys) => {
            let mut count = 0;
            for key in keys {
                count += i64::from(load(key)?.is_some());
            }
            Reply::Integer(count)
        }
        Query::Type(key) => Reply::Status(match load(key)?.map(|entry| entry.value) {
            None => "none",
            Some(Value::String(_)) => "string",
            Some(Value::Hash { .. }) => "hash",
        }),
        Query::TimeToLiveMs(key) => expiry(load(key)?, |at_ms| at_ms.saturating_sub(now_ms)),
        Query::ExpireAtMs(key) => expiry(load(key)?, |at_ms| at_ms),
        Query::HashGet(key, field) => match hash(load(key)?) {
            Err(error) => error,
            Ok(0) => Reply::Nil,
            Ok(_) => entry::field(state, key, field)?.map_or(Reply::Nil, Reply::Bulk),
        },
        Query::HashGetMany(key, fields) => match hash(load(key)?) {
            Err(error) => error,
            Ok(0) => Reply::Array(vec![None; fields.len()]),
            Ok(_) => {
                let values: Result<Vec<_>, StoreError> =
                    fields.iter().map(|field| entry::field(state, key, field)).collect();
                Reply::Array(values?)
            }
        },
        Query::HashGetAll(key) => hash_fields(state, key, load(key)?, Reply::Map)?,
        Query::HashKeys(key) => hash_fields(state, key, load(key)?, |fields| {
            Reply::Array(fields.into_iter().map(|(field, _)| Some(field)).collect())
        })?,
        Query::HashValues(key) => hash_fields(state, key, load(key)?, |fields| {
            Reply::Array(fields.into_iter().map(|(_, value)| Some(value)).collect())
        })?,
        Query::HashLength(key) => match hash(load(key)?) {
            Err(error) => error,
            Ok(count) => Reply::Integer(i64::try_from(count).unwrap_or(i64::MAX)),
        },
        Query::HashExists(key, field) => match hash(load(key)?) {
            Err(error) => error,
            Ok(0) => Reply::Integer(0),
            Ok(_) => Reply::Integer(i64::from(entry::field(state, key, field)?.is_some())),
        },
        Query::KeyCount => {
            Reply::Integer(i64::try_from(entry::key_count(state)?).unwrap_or(i64::MAX))
        }
    })
}

fn length(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn string(entry: Option<Entry>, absent: Reply, present: impl FnOnce(Bytes) -> Reply) -> Reply {
    match entry.map(|entry| entry.value) {
        None => absent,
        Some(Value::String(value)) => present(value),
        Some(Value::Hash { .. }) => Reply::Error(CommandError::WrongType),
    }
}

/// The number of fields, 0 if the key is absent; or the error for another type.
fn hash(entry: Option<Entry>) -> Result<u64, Reply> {
    match entry.map(|entry| entry.value) {
        None => Ok(0),
        Some(Value::Hash { field_count }) => Ok(field_count),
        Some(Value::String(_)) => Err(Reply::Error(CommandError::WrongType)),
    }
}

fn hash_fields(
    state: &dyn Read,
    key: &Bytes,
    entry: Option<Entry>,
    reply: impl FnOnce(Vec<(Bytes, Bytes)>) -> Reply,
) -> Result<Reply, StoreError> {
    Ok(match hash(entry) {
        Err(error) => error,
        Ok(0) => reply(Vec::new()),
        Ok(_) => reply(entry::fields(state, key)?),
    })
}

fn expiry(entry: Option<Entry>, of: impl FnOnce(u64) -> u64) -> Reply {
    Reply::Integer(match entry.map(|entry| entry.expire_at_ms) {
        None => -2,
        Some(None) => -1,
        Some(Some(at_ms)) => i64::try_from(of(at_ms)).unwrap_or(i64::MAX),
    })
}
