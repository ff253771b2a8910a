//! Feeds of tables: who wants to be told of each change of a row, in the commit that changes it.
//!
//! The machine does not know what a feed is written to: it remembers an opaque name for each table, and
//! says what the row was and is ([`Change::RowFed`]). The composition of machines does the rest.

use proteus_machine::{Abort, Ctx};
use serde::{Deserialize, Serialize};

use crate::catalog::{TableId, TableInfo};
use crate::{Change, Refusal, Reply, Row, layout, write};

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
}

/// Begins, redirects or ends a table's feed.
pub(crate) fn set(
    ctx: &mut Ctx<'_, Change>,
    table: TableId,
    target: Option<FeedTarget>,
) -> Result<Reply, Abort<Refusal>> {
    let mut info = write::existing(ctx, table)?;
    info.feed = target;
    ctx.put(layout::table_key(table), layout::encode(&info));
    Ok(Reply::FeedSet)
}
