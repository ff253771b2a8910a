//! Cache entries that follow from rows: removed or written anew in the very commit that changes the row,
//! whichever face it came through. So no reader behind that commit sees what was there before.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proteus_machine::{Abort, Position};
use proteus_store::{State, StoreError};
use proteus_types::CommitTs;

use crate::cache::{
    self, Call, Declaration, DeclarationKind, DerivedEntry, Effect, KeyPart, Refresh,
};
use crate::derive::Deriving;
use crate::table::{self, Definition, Row, TableId};
use crate::text::{json_object, text_of};
use crate::{Change, Op, Refusal};

/// Applies, or tells, what the changes of rows mean to entries.
pub(crate) fn derive(deriving: &mut Deriving<'_>) -> Result<(), Abort<Refusal>> {
    let mut rows: BTreeMap<TableId, BTreeSet<Vec<u8>>> = BTreeMap::new();
    let mut some_dropped = false;
    let mut created = BTreeSet::new();
    for change in deriving.changed() {
        match change {
            Change::Table(table::Change::RowChanged { table, key }) => {
                rows.entry(*table).or_default().insert(key.clone());
            }
            Change::Table(table::Change::TableDropped(_)) => some_dropped = true,
            Change::Table(table::Change::TableCreated(table)) => _ = created.insert(*table),
            _ => {}
        }
    }
    if rows.is_empty() && !some_dropped {
        return Ok(());
    }
    let position = deriving.position;
    let declared = cache::declarations(deriving.state, DeclarationKind::Entry)?;
    let mut ops = Vec::new();
    for (_, declaration) in declared {
        let Declaration::Entry(entry) = declaration else { continue };
        let state: &dyn State = deriving.state;
        let found = table::catalog::table_by_name(state, &entry.schema, &entry.table)?;
        // A table of that name that is gone, or another since, has left entries behind.
        let is_replaced = found.as_ref().is_none_or(|found| created.contains(&found.id));
        if some_dropped && is_replaced {
            invalidate_all(deriving, &entry)?;
        }
        let Some(info) = found else { continue };
        let state: &dyn State = deriving.state;
        for key in rows.get(&info.id).into_iter().flatten() {
            row_changed(state, position, (&entry, &info.definition, info.id), key, &mut ops)?;
        }
    }
    for (key, op) in ops {
        match deriving.shard_of_key(&key)? {
            None => deriving.apply(&Op::Cache(op))?,
            Some(shard) => deriving.tell(shard, Effect::Entry(op)),
        }
    }
    Ok(())
}

/// Ops with the keys that they are about.
type KeyedOps = Vec<(Bytes, cache::Op)>;

/// The ops that one changed row means to entries of one declaration.
fn row_changed(
    state: &dyn State,
    position: Position,
    (entry, definition, id): (&DerivedEntry, &Definition, TableId),
    key: &[u8],
    ops: &mut KeyedOps,
) -> Result<(), StoreError> {
    let before_ts = CommitTs(position.commit_ts.0.saturating_sub(1));
    let before = table::rows::get(state, id, key, before_ts)?;
    let after = table::rows::get(state, id, key, position.commit_ts)?;
    let key_of = |row: &Option<Row>| row.as_ref().and_then(|row| key_text(entry, definition, row));
    let (old_key, new_key) = (key_of(&before), key_of(&after));
    if let Some(old_key) = old_key
        && new_key.as_ref() != Some(&old_key)
    {
        ops.push((old_key.clone(), cache::Op::Invalidate { db: entry.db, key: old_key }));
    }
    if let (Some(key), Some(row)) = (new_key, after) {
        refresh(entry, definition, key, &row, ops);
    }
    Ok(())
}

fn refresh(
    entry: &DerivedEntry,
    definition: &Definition,
    key: Bytes,
    row: &Row,
    ops: &mut KeyedOps,
) {
    let db = entry.db;
    let mut push = |op| ops.push((key.clone(), op));
    let word = Bytes::from_static;
    let command =
        |arguments: Vec<Bytes>| cache::Op::Command(Call { db, seed: 0, origin: 0, arguments });
    let value_of = |column: &str| {
        let at = definition.column_index(column)?;
        text_of(row.get(at)?, definition.columns.get(at)?.column_type)
    };
    let set = |value: Bytes| {
        let mut arguments = vec![word(b"SET"), key.clone(), value];
        if let Some(expire_ms) = entry.expire_ms {
            arguments.extend([word(b"PX"), Bytes::from(expire_ms.to_string())]);
        }
        command(arguments)
    };
    let invalidate = cache::Op::Invalidate { db, key: key.clone() };
    match &entry.refresh {
        Refresh::Invalidate => push(invalidate),
        Refresh::Column(column) => push(value_of(column).map_or(invalidate, set)),
        Refresh::Json => push(set(Bytes::from(json_object(definition, row)))),
        Refresh::Hash(columns) => {
            let all = definition.columns.iter().map(|column| column.name.as_str());
            let wanted: Vec<&str> = match columns.is_empty() {
                true => all.collect(),
                false => columns.iter().map(String::as_str).collect(),
            };
            let mut arguments = vec![word(b"HSET"), key.clone()];
            for column in wanted {
                if let Some(value) = value_of(column) {
                    arguments.extend([Bytes::copy_from_slice(column.as_bytes()), value]);
                }
            }
            push(invalidate);
            if arguments.len() > 2 {
                push(command(arguments));
                if let Some(expire_ms) = entry.expire_ms {
                    let expire_ms = Bytes::from(expire_ms.to_string());
                    push(command(vec![word(b"PEXPIRE"), key.clone(), expire_ms]));
                }
            }
        }
    }
}

/// The key of a row's entry; `None` if a column of it is null.
fn key_text(entry: &DerivedEntry, definition: &Definition, row: &Row) -> Option<Bytes> {
    let mut key = Vec::new();
    for part in &entry.key {
        match part {
            KeyPart::Text(text) => key.extend_from_slice(text),
            KeyPart::Column(column) => {
                let at = definition.column_index(column)?;
                let text = text_of(row.get(at)?, definition.columns.get(at)?.column_type)?;
                key.extend_from_slice(&text);
            }
        }
    }
    Some(Bytes::from(key))
}

/// Takes away every entry that a declaration may have, as the rows that it followed from are all gone.
fn invalidate_all(deriving: &mut Deriving<'_>, entry: &DerivedEntry) -> Result<(), Abort<Refusal>> {
    let mut pattern = Vec::new();
    for part in &entry.key {
        match part {
            KeyPart::Column(_) => pattern.push(b'*'),
            KeyPart::Text(text) => {
                for byte in text {
                    if b"*?[]\\^".contains(byte) {
                        pattern.push(b'\\');
                    }
                    pattern.push(*byte);
                }
            }
        }
    }
    let op = cache::Op::InvalidateMatching { db: entry.db, pattern: Bytes::from(pattern) };
    let own = deriving.position.shard;
    for shard in deriving.shards()?.to_vec() {
        if shard != own {
            deriving.tell(shard, Effect::Entry(op.clone()));
        }
    }
    deriving.apply(&Op::Cache(op))
}
