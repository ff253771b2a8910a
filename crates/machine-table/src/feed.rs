//! Feeds of tables: who wants to be told of each change of a row, in the commit that changes it.
//!
//! The machine does not know what a feed is written to: it remembers an opaque name for each table, and
//! says what the row was and is ([`Change::RowFed`]). The composition of machines does the rest.
//!
//! Rows that stand there when a feed begins are told first, each as it was then, a chunk with each
//! [`Op::TellFeed`](crate::Op::TellFeed). A row that changes before its turn is told just before its change, and
//! passed over afterwards: its version is newer than the beginning. So nobody waits for the whole table, nothing
//! is held back, and of each row comes first what it was at one commit timestamp, and then what became of it.

use std::ops::ControlFlow;

use proteus_machine::key::has_any;
use proteus_machine::{Abort, Ctx, View};
use proteus_store::{Read, StoreError};
use proteus_types::{CommitTs, LogIndex};
use serde::{Deserialize, Serialize};

use crate::catalog::{TableId, TableInfo};
use crate::{Change, Op, Refusal, Reply, Row, layout, rows, write};

/// Rows that one op tells at most, and bytes of them after which it ends, so that it holds up its neighbours
/// for a few milliseconds only.
const ROWS_TOLD_MAX: u32 = 256;
const TOLD_BYTES: usize = 512 * 1024;
/// Rows that are read at once: as much memory as that many rows take.
const ROWS_READ_MAX: usize = 16;

/// Names what a table's feed is written to; known to another machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedTarget(pub [u8; 16]);

/// A change of a row of a table that has a feed.
#[derive(Debug, Clone, PartialEq)]
pub struct FedRow {
    /// Where the feed is written.
    pub target: FeedTarget,
    /// The row's table.
    pub table: TableInfo,
    /// The row as it was; `None` if it was not there.
    pub before: Option<Row>,
    /// The row as it is; `None` if it is gone.
    pub after: Option<Row>,
    /// Said of a row that did not change, but was there when the feed began: when that was.
    pub stood_at: Option<Beginning>,
}

/// When a feed began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beginning {
    /// Timestamp of the commit.
    pub commit_ts: CommitTs,
    /// Its place in the log.
    pub index: LogIndex,
}

/// Rows that are still to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Untold {
    /// As of when.
    since: Beginning,
    /// From which key on (inclusive).
    next_key: Vec<u8>,
}

/// Begins, redirects or ends a table's feed.
pub(crate) fn set(
    ctx: &mut Ctx<'_, Change>,
    table: TableId,
    target: Option<FeedTarget>,
    tells_rows: bool,
) -> Result<Reply, Abort<Refusal>> {
    let mut info = write::existing(ctx, table)?;
    info.feed = target;
    info.tells_rows = tells_rows && target.is_some();
    if info.tells_rows {
        let since = Beginning { commit_ts: ctx.commit_ts(), index: ctx.index() };
        let untold = Untold { since, next_key: Vec::new() };
        ctx.put(layout::untold_key(table), layout::encode(&untold));
    } else {
        ctx.delete(layout::untold_key(table));
    }
    ctx.put(layout::table_key(table), layout::encode(&info));
    Ok(Reply::FeedSet)
}

fn untold(ctx: &Ctx<'_, Change>, table: TableId) -> Result<Option<Untold>, StoreError> {
    let key = layout::untold_key(table);
    let stored = proteus_store::Read::get(ctx, &key)?;
    stored.map(|bytes| layout::decode(&key, &bytes)).transpose()
}

/// Tells the table's feed, if it has one, what a row is to become; called before it does. `newest` is when
/// the row was written last.
pub(crate) fn tell_change(
    ctx: &mut Ctx<'_, Change>,
    info: TableInfo,
    key: &[u8],
    newest: Option<(CommitTs, bool)>,
    after: Option<&Row>,
) -> Result<(), Abort<Refusal>> {
    let Some(target) = info.feed else { return Ok(()) };
    let before = rows::get(ctx, info.id, key, ctx.commit_ts())?;
    if info.tells_rows
        && let Some(row) = &before
        && let Some(untold) = untold(ctx, info.id)?
        && key >= untold.next_key.as_slice()
        && newest.is_some_and(|(commit_ts, _)| commit_ts <= untold.since.commit_ts)
    {
        tell_standing(ctx, &info, target, row.clone(), untold.since);
    }
    let after = after.cloned();
    let fed = FedRow { target, table: info, before, after, stood_at: None };
    ctx.emit(Change::RowFed(Box::new(fed)));
    Ok(())
}

fn tell_standing(
    ctx: &mut Ctx<'_, Change>,
    info: &TableInfo,
    target: FeedTarget,
    row: Row,
    since: Beginning,
) {
    let fed = FedRow {
        target,
        table: info.clone(),
        before: None,
        after: Some(row),
        stood_at: Some(since),
    };
    ctx.emit(Change::RowFed(Box::new(fed)));
}

/// Tells the next rows of those that stood there when the feed began.
pub(crate) fn tell_rows(
    ctx: &mut Ctx<'_, Change>,
    table: TableId,
    rows_max: u32,
) -> Result<Reply, Abort<Refusal>> {
    let mut info = write::existing(ctx, table)?;
    let (Some(target), Some(mut untold)) = (info.feed, untold(ctx, table)?) else {
        return Ok(Reply::FeedTold(0));
    };
    let since = untold.since;
    let (mut told, mut bytes) = (0, 0);
    let mut next_key = Some(untold.next_key);
    while let Some(start) = next_key.take() {
        if told >= rows_max || bytes >= TOLD_BYTES {
            next_key = Some(start);
            break;
        }
        let chunk = rows::scan_chunk(ctx, table, &start, None, since.commit_ts, ROWS_READ_MAX)?;
        for (key, row) in chunk.rows {
            // What has changed since was told with its change.
            let newest = rows::newest(ctx, table, &key)?;
            if newest.is_some_and(|(commit_ts, _)| commit_ts <= since.commit_ts) {
                bytes += layout::encode_version(Some(&row)).len();
                tell_standing(ctx, &info, target, row, since);
                told += 1;
            }
        }
        next_key = chunk.next_key;
    }
    match next_key {
        Some(next_key) => {
            untold.next_key = next_key;
            ctx.put(layout::untold_key(table), layout::encode(&untold));
        }
        None => {
            info.tells_rows = false;
            ctx.delete(layout::untold_key(table));
            ctx.put(layout::table_key(table), layout::encode(&info));
        }
    }
    Ok(Reply::FeedTold(told))
}

/// Whether rows of some table are untold.
pub(crate) fn is_any_untold(state: &dyn Read) -> Result<bool, StoreError> {
    has_any(state, layout::SPACE, layout::KIND_UNTOLD)
}

/// Ops that tell the rows that are untold: as many as are asked for, because most tables have many rows. One
/// that comes too late does nothing.
pub(crate) fn due(view: View<'_>, count_max: usize) -> Result<Vec<Op>, StoreError> {
    let mut first = Ok(None);
    view.state.scan_prefix(&layout::untold_prefix(), &mut |key, _| {
        first = layout::untold_table(key).map(Some);
        ControlFlow::Break(())
    })?;
    let Some(table) = first? else { return Ok(Vec::new()) };
    Ok(vec![Op::TellFeed { table, rows_max: ROWS_TOLD_MAX }; count_max])
}
