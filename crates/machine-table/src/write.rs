//! Checks, and the ops that change the catalog and rows.

use proteus_machine::{Abort, Ctx};
use proteus_types::CommitTs;

use crate::catalog::{self, Definition, TableId, TableInfo};
use crate::feed;
use crate::layout;
use crate::rows;
use crate::{Change, KEY_BYTES_MAX, PutMode, Refusal, Reply, Row, RowKey};

type Applied<T = Reply> = Result<T, Abort<Refusal>>;

pub(crate) fn existing(ctx: &Ctx<'_, Change>, table: TableId) -> Applied<TableInfo> {
    catalog::table(ctx, table)?.ok_or(Abort::Refused(Refusal::TableMissing(table)))
}

pub(crate) fn check_row_unchanged(
    ctx: &Ctx<'_, Change>,
    table: TableId,
    key: &[u8],
    read_ts: CommitTs,
) -> Applied<()> {
    // Below the horizon a tombstone may be collected, and its absence would look like no change.
    if read_ts < rows::horizon(ctx)? {
        return Err(Abort::Refused(Refusal::ReadTooOld));
    }
    match rows::newest(ctx, table, key)? {
        Some((commit_ts, _)) if commit_ts > read_ts => {
            Err(Abort::Refused(Refusal::RowChanged { table, key: key.to_vec() }))
        }
        _ => Ok(()),
    }
}

pub(crate) fn reserve_table_id(ctx: &mut Ctx<'_, Change>) -> Applied {
    let id = catalog::next_table_id(ctx)?;
    ctx.put(layout::next_table_key(), layout::encode(&TableId(id.0 + 1)));
    Ok(Reply::TableIdReserved(id))
}

pub(crate) fn create_table(
    ctx: &mut Ctx<'_, Change>,
    reserved: Option<TableId>,
    definition: &Definition,
    if_not_exists: bool,
) -> Applied {
    if let Some(fault) = definition.fault() {
        return Err(Abort::Refused(Refusal::DefinitionInvalid(fault)));
    }
    if let Some(table) = catalog::table_by_name(ctx, &definition.schema, &definition.name)? {
        if if_not_exists {
            return Ok(Reply::TableCreated { id: table.id, existed: true });
        }
        return Err(Abort::Refused(Refusal::TableExists(definition.name.clone())));
    }
    let next = catalog::next_table_id(ctx)?;
    let id = reserved.unwrap_or(next);
    if reserved.is_none() {
        ctx.put(layout::next_table_key(), layout::encode(&TableId(id.0 + 1)));
    } else if id >= next || catalog::table(ctx, id)?.is_some() {
        let message = format!("table id {} is not reserved", id.0);
        return Err(Abort::Refused(Refusal::DefinitionInvalid(message)));
    }
    let table = TableInfo { id, definition: definition.clone(), feed: None, tells_rows: false };
    ctx.put(layout::table_key(id), layout::encode(&table));
    ctx.put(layout::name_key(&definition.schema, &definition.name), layout::encode(&id));
    ctx.emit(Change::TableCreated(id));
    Ok(Reply::TableCreated { id, existed: false })
}

pub(crate) fn drop_table(ctx: &mut Ctx<'_, Change>, table: TableId) -> Applied {
    let info = existing(ctx, table)?;
    ctx.delete(layout::table_key(table));
    ctx.delete(layout::name_key(&info.definition.schema, &info.definition.name));
    ctx.delete(layout::next_row_key(table));
    ctx.delete(layout::untold_key(table));
    ctx.put(layout::dropped_key(ctx.commit_ts(), table), layout::encode(&()));
    ctx.emit(Change::TableDropped(table));
    Ok(Reply::TableDropped)
}

pub(crate) fn put_row(
    ctx: &mut Ctx<'_, Change>,
    table: TableId,
    row_key: RowKey,
    row: &Row,
    mode: PutMode,
) -> Applied {
    let info = existing(ctx, table)?;
    let definition = &info.definition;
    if let Some(message) = definition.misfit(row) {
        return Err(Abort::Refused(Refusal::RowInvalid { table, message }));
    }
    let key = resolve_key(ctx, table, definition, row_key, row)?;
    let before = rows::newest(ctx, table, &key)?;
    let replaced = matches!(before, Some((_, true)));
    if replaced && mode == PutMode::InsertOnly {
        return Err(Abort::Refused(Refusal::DuplicateKey { table, key }));
    }
    feed::tell_change(ctx, info, &key, before, Some(row))?;
    put_version(ctx, table, &key, before, Some(row));
    ctx.emit(Change::RowChanged { table, key });
    Ok(Reply::RowPut { replaced })
}

pub(crate) fn delete_row(ctx: &mut Ctx<'_, Change>, table: TableId, key: &[u8]) -> Applied {
    let info = existing(ctx, table)?;
    let before = rows::newest(ctx, table, key)?;
    let existed = matches!(before, Some((_, true)));
    if existed {
        feed::tell_change(ctx, info, key, before, None)?;
        put_version(ctx, table, key, before, None);
        ctx.emit(Change::RowChanged { table, key: key.to_vec() });
    }
    Ok(Reply::RowDeleted { existed })
}

pub(crate) fn tell_row(ctx: &mut Ctx<'_, Change>, table: TableId, key: &[u8]) -> Applied {
    existing(ctx, table)?;
    let existed = matches!(rows::newest(ctx, table, key)?, Some((_, true)));
    if existed {
        ctx.emit(Change::RowChanged { table, key: key.to_vec() });
    }
    Ok(Reply::RowTold { existed })
}

fn resolve_key(
    ctx: &mut Ctx<'_, Change>,
    table: TableId,
    definition: &Definition,
    row_key: RowKey,
    row: &Row,
) -> Applied<Vec<u8>> {
    let invalid =
        |message: &str| Abort::Refused(Refusal::RowInvalid { table, message: message.to_owned() });
    match (row_key, definition.has_row_ids()) {
        (RowKey::FromColumns, false) => {
            let key = definition.key_of(row).ok_or_else(|| invalid("key columns are missing"))?;
            if key.len() > KEY_BYTES_MAX {
                return Err(invalid("the primary key is too long"));
            }
            Ok(key)
        }
        (RowKey::RowId(id), true) => Ok(id.to_be_bytes().to_vec()),
        (RowKey::NewRowId, true) => {
            let counter = layout::next_row_key(table);
            let id: u64 = match proteus_store::Read::get(ctx, &counter)? {
                Some(bytes) => layout::decode(&counter, &bytes)?,
                None => 1,
            };
            ctx.put(counter, layout::encode(&(id + 1)));
            Ok(id.to_be_bytes().to_vec())
        }
        _ => Err(invalid("the kind of key is not the table's")),
    }
}

/// Adds a version and remembers what it makes garbage.
fn put_version(
    ctx: &mut Ctx<'_, Change>,
    table: TableId,
    key: &[u8],
    before: Option<(CommitTs, bool)>,
    row: Option<&Row>,
) {
    let commit_ts = ctx.commit_ts();
    let version_key = layout::version_key(table, key, commit_ts);
    // Two ops of one minitransaction on one row share a timestamp: the later replaces the earlier.
    if let Some((superseded_ts, _)) = before
        && superseded_ts < commit_ts
    {
        let superseded = layout::version_key(table, key, superseded_ts);
        ctx.put(layout::garbage_key(commit_ts, false, &superseded), layout::encode(&()));
    }
    if before == Some((commit_ts, false)) {
        ctx.delete(layout::garbage_key(commit_ts, true, &version_key));
    }
    if row.is_none() {
        ctx.put(layout::garbage_key(commit_ts, true, &version_key), layout::encode(&()));
    }
    ctx.put(version_key, layout::encode_version(row));
}
