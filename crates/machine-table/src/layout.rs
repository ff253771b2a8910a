//! Keys and values in the store. Nobody outside this crate knows them.
//!
//! ```text
//! SPACE 01                                          next table id
//! SPACE 02 table_id                                 TableInfo
//! SPACE 03 string(schema) string(name)              table id
//! SPACE 04 table_id primary_key !commit_ts          one version of one row
//! SPACE 05 table_id                                 next row id
//! SPACE 06 commit_ts 00|01 row version's key        garbage: superseded (00), or a tombstone (01)
//! SPACE 07                                          horizon: reads before it are refused
//! SPACE 08 commit_ts table_id                       a dropped table, whose rows are to be collected
//! SPACE 09 table_id                                 which rows a feed that began is still to be told
//! ```
//! Integers are big-endian. `!commit_ts` is inverted, so the newest version of a row comes first.
//! Every value begins with the version of its format.

use bytes::Bytes;
use proteus_machine::key::KeyBuilder;
use proteus_store::StoreError;
use proteus_types::CommitTs;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Row, TableId};

pub(crate) const SPACE: u8 = 0x40;
pub(crate) const KIND_NEXT_TABLE: u8 = 1;
pub(crate) const KIND_TABLE: u8 = 2;
pub(crate) const KIND_NAME: u8 = 3;
pub(crate) const KIND_ROW: u8 = 4;
pub(crate) const KIND_NEXT_ROW: u8 = 5;
pub(crate) const KIND_GARBAGE: u8 = 6;
pub(crate) const KIND_HORIZON: u8 = 7;
pub(crate) const KIND_DROPPED: u8 = 8;
pub(crate) const KIND_UNTOLD: u8 = 9;

/// First table id; PostgreSQL's tools take smaller object ids for the system's own.
pub(crate) const TABLE_FIRST: TableId = TableId(16384);

/// Length of the timestamp at the end of a row version's key.
pub(crate) const TS_BYTES: usize = 8;
/// Length of what precedes the primary key in a row version's key.
pub(crate) const ROW_PREFIX_BYTES: usize = 6;

const VALUE_VERSION: u8 = 1;
const TOMBSTONE: u8 = 0;
const ROW: u8 = 1;

pub(crate) fn next_table_key() -> Bytes {
    KeyBuilder::new(SPACE, KIND_NEXT_TABLE).build()
}

pub(crate) fn table_key(id: TableId) -> Bytes {
    KeyBuilder::new(SPACE, KIND_TABLE).u32(id.0).build()
}

pub(crate) fn name_key(schema: &str, name: &str) -> Bytes {
    KeyBuilder::new(SPACE, KIND_NAME).string(schema.as_bytes()).string(name.as_bytes()).build()
}

pub(crate) fn next_row_key(id: TableId) -> Bytes {
    KeyBuilder::new(SPACE, KIND_NEXT_ROW).u32(id.0).build()
}

pub(crate) fn horizon_key() -> Bytes {
    KeyBuilder::new(SPACE, KIND_HORIZON).build()
}

pub(crate) fn dropped_key(commit_ts: CommitTs, id: TableId) -> Bytes {
    KeyBuilder::new(SPACE, KIND_DROPPED).u64(commit_ts.0).u32(id.0).build()
}

/// What the keys of all tables with untold rows begin with.
pub(crate) fn untold_prefix() -> Vec<u8> {
    KeyBuilder::new(SPACE, KIND_UNTOLD).into_vec()
}

pub(crate) fn untold_key(id: TableId) -> Bytes {
    KeyBuilder::new(SPACE, KIND_UNTOLD).u32(id.0).build()
}

/// The table of such a key.
pub(crate) fn untold_table(key: &[u8]) -> Result<TableId, StoreError> {
    let id = key.get(2..).and_then(|rest| rest.first_chunk());
    let id = id.ok_or_else(|| StoreError::corrupt(key, "key of untold rows is too short"))?;
    Ok(TableId(u32::from_be_bytes(*id)))
}

/// What all versions of all rows of a table begin with.
pub(crate) fn rows_prefix(id: TableId) -> Vec<u8> {
    KeyBuilder::new(SPACE, KIND_ROW).u32(id.0).into_vec()
}

/// What all versions of a row begin with. No row's key is a prefix of another's, since key parts
/// have a fixed length or end with a terminator.
pub(crate) fn row_prefix(id: TableId, key: &[u8]) -> Vec<u8> {
    KeyBuilder::new(SPACE, KIND_ROW).u32(id.0).raw(key).into_vec()
}

pub(crate) fn version_key(id: TableId, key: &[u8], commit_ts: CommitTs) -> Vec<u8> {
    let mut bytes = row_prefix(id, key);
    bytes.extend_from_slice(&(!commit_ts.0).to_be_bytes());
    bytes
}

/// Splits a row version's key into the row's key and the version's timestamp.
pub(crate) fn split_version_key(key: &[u8]) -> Result<(&[u8], CommitTs), StoreError> {
    let damaged = || StoreError::corrupt(key, "key of a row version is too short");
    let after = key.get(ROW_PREFIX_BYTES..).ok_or_else(damaged)?;
    let (row_key, ts) = after.split_last_chunk::<TS_BYTES>().ok_or_else(damaged)?;
    Ok((row_key, CommitTs(!u64::from_be_bytes(*ts))))
}

pub(crate) fn garbage_key(commit_ts: CommitTs, is_tombstone: bool, version_key: &[u8]) -> Bytes {
    // The tombstone after what it hides: were it collected first, the row would rise again.
    KeyBuilder::new(SPACE, KIND_GARBAGE)
        .u64(commit_ts.0)
        .raw(&[u8::from(is_tombstone)])
        .raw(version_key)
        .build()
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Encoding plain data into a growing buffer has no way to fail.
    postcard::to_extend(value, vec![VALUE_VERSION]).expect("plain data encodes")
}

pub(crate) fn decode<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((&VALUE_VERSION, rest)) => {
            postcard::from_bytes(rest).map_err(|error| StoreError::corrupt(key, error.to_string()))
        }
        Some((version, _)) => {
            Err(StoreError::corrupt(key, format!("unknown format version {version}")))
        }
        None => Err(StoreError::corrupt(key, "empty value")),
    }
}

pub(crate) fn encode_version(row: Option<&Row>) -> Vec<u8> {
    match row {
        None => vec![VALUE_VERSION, TOMBSTONE],
        // As in `encode`: plain data.
        Some(row) => {
            postcard::to_extend(row, vec![VALUE_VERSION, ROW]).expect("plain data encodes")
        }
    }
}

pub(crate) fn decode_version(key: &[u8], bytes: &[u8]) -> Result<Option<Row>, StoreError> {
    match bytes {
        [VALUE_VERSION, TOMBSTONE] => Ok(None),
        [VALUE_VERSION, ROW, rest @ ..] => postcard::from_bytes(rest)
            .map(Some)
            .map_err(|error| StoreError::corrupt(key, error.to_string())),
        _ => Err(StoreError::corrupt(key, "unknown format of a row version")),
    }
}

pub(crate) fn is_tombstone(bytes: &[u8]) -> bool {
    bytes == [VALUE_VERSION, TOMBSTONE]
}
