//! MVCC rows under order-preserving keys and their catalog: a pure state machine.
//!
//! Every write adds a version of a row, stamped with its commit timestamp; a reader at a timestamp
//! sees, of each row, the newest version at or before it. [`Check::RowUnchangedSince`] over every row
//! that a transaction wrote is snapshot isolation, first committer wins. Versions that no reader at
//! or after the horizon can see are collected, a bounded number at a time, by [`Op::CollectVersions`].
//!
//! The machine knows no SQL: values arrive typed, keys are encodings of values. Reading order:
//! [`Op`], [`Definition`], [`Value`], [`rows`], [`catalog`].

pub mod catalog;
mod collect;
pub mod feed;
mod layout;
pub mod rows;
mod text;
mod value;
mod write;

#[cfg(test)]
mod tests;

use proteus_machine::{Abort, Ctx, Machine, View};
use proteus_store::{Read, StoreError};
use proteus_types::CommitTs;
use serde::{Deserialize, Serialize};

pub use catalog::{Column, Definition, Source, TableId, TableInfo};
pub use collect::VERSION_RETENTION_MS;
pub use feed::{Beginning, FedRow, FeedTarget};
pub use proteus_store::prefix_end;
pub use rows::Chunk;
pub use text::{format_numeric, format_value, scale_of};
pub use value::{ColumnType, NUMERIC_PRECISION_MAX, Row, Value, civil_from_days};

/// Most columns of a table, as in PostgreSQL.
pub const COLUMNS_MAX: usize = 1600;

/// Longest encoded primary key, in bytes; leaves room for the rest of a garbage record's key.
pub const KEY_BYTES_MAX: usize = proteus_store::KEY_BYTES_MAX - 64;

/// The machine: rows and the catalog.
#[derive(Debug, Clone, Copy)]
pub struct Table;

/// A predicate on current state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Check {
    /// No version of the row is newer than `read_ts`. Of a row that never existed this holds.
    RowUnchangedSince {
        /// The row's table.
        table: TableId,
        /// The row's encoded key.
        key: Vec<u8>,
        /// What the transaction read at.
        read_ts: CommitTs,
    },
    /// The table still exists. Its definition never changes under one id.
    TableUnchanged {
        /// The table.
        table: TableId,
    },
}

/// Which key a row is stored under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowKey {
    /// The values of the primary key's columns.
    FromColumns,
    /// This row id, of a table without a primary key.
    RowId(u64),
    /// The next row id of the table.
    NewRowId,
}

/// What storing a row does about one that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PutMode {
    /// Refuses.
    InsertOnly,
    /// Replaces it.
    Upsert,
}

/// A change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// Takes a table id out of use, for a table that a transaction will create when it commits.
    ReserveTableId,
    /// Adds a table to the catalog.
    CreateTable {
        /// A reserved id, or `None` for the next one.
        id: Option<TableId>,
        /// What the table is.
        definition: Definition,
        /// Whether a table of this name is no error.
        if_not_exists: bool,
    },
    /// Removes a table. Its rows are collected later, so that readers under way finish.
    DropTable {
        /// The table.
        table: TableId,
    },
    /// Stores a row.
    PutRow {
        /// The row's table.
        table: TableId,
        /// The key it is stored under.
        key: RowKey,
        /// All its values.
        row: Row,
        /// What to do if it is there already.
        mode: PutMode,
    },
    /// Removes a row; removing what is not there is no error.
    DeleteRow {
        /// The row's table.
        table: TableId,
        /// The row's encoded key.
        key: Vec<u8>,
    },
    /// Says of a row that is there that it changed, and changes nothing: what follows from it is made anew.
    /// Its feed is told nothing.
    TellRow {
        /// The row's table.
        table: TableId,
        /// The row's encoded key.
        key: Vec<u8>,
    },
    /// Begins, redirects or ends (`None`) a table's feed.
    SetFeed {
        /// The table.
        table: TableId,
        /// Where changes of its rows are told from now on.
        target: Option<FeedTarget>,
        /// Whether the rows that are there are told first.
        tells_rows: bool,
    },
    /// Tells the next rows of those that stood there when the feed began.
    TellFeed {
        /// The table.
        table: TableId,
        /// About how many.
        rows_max: u32,
    },
    /// Collects versions that no reader at or after `horizon` can see.
    CollectVersions {
        /// What readers may still read at (inclusive).
        horizon: CommitTs,
        /// Most keys to remove.
        count_max: u32,
    },
}

/// What an op answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Of `ReserveTableId`.
    TableIdReserved(TableId),
    /// Of `CreateTable`.
    TableCreated {
        /// The table's id.
        id: TableId,
        /// Whether it was there already.
        existed: bool,
    },
    /// Of `DropTable`.
    TableDropped,
    /// Of `PutRow`.
    RowPut {
        /// Whether another row stood under the key.
        replaced: bool,
    },
    /// Of `DeleteRow`.
    RowDeleted {
        /// Whether it was there.
        existed: bool,
    },
    /// Of `TellRow`.
    RowTold {
        /// Whether it was there.
        existed: bool,
    },
    /// Of `SetFeed`.
    FeedSet,
    /// Of `TellFeed`: how many rows were told.
    FeedTold(u32),
    /// Of `CollectVersions`: how many keys were removed.
    VersionsCollected(u32),
}

/// Why a check or an op refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A row was written after the transaction's read timestamp.
    #[error("a row of table {} was changed by another transaction", table.0)]
    RowChanged {
        /// The row's table.
        table: TableId,
        /// The row's encoded key.
        key: Vec<u8>,
    },
    /// The read timestamp is before the horizon: what was read may be gone, so it cannot be checked.
    #[error("the transaction is older than the versions that are kept; repeat it")]
    ReadTooOld,
    /// There is no such table, or no longer.
    #[error("table {} does not exist", .0.0)]
    TableMissing(TableId),
    /// A table of this name exists.
    #[error("relation \"{0}\" already exists")]
    TableExists(String),
    /// The definition contradicts itself.
    #[error("{0}")]
    DefinitionInvalid(String),
    /// A row stands under this key.
    #[error("duplicate key value violates the primary key of table {}", table.0)]
    DuplicateKey {
        /// The row's table.
        table: TableId,
        /// The row's encoded key.
        key: Vec<u8>,
    },
    /// The row does not fit the table's columns.
    #[error("row does not fit table {}: {message}", table.0)]
    RowInvalid {
        /// The row's table.
        table: TableId,
        /// What does not fit.
        message: String,
    },
}

/// What followers of the feed learn.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A table was added to the catalog.
    TableCreated(TableId),
    /// A table was removed from it.
    TableDropped(TableId),
    /// A row was stored or removed.
    RowChanged {
        /// The row's table.
        table: TableId,
        /// The row's encoded key.
        key: Vec<u8>,
    },
    /// The same, of a table that has a feed; or a row that its feed is told of because it was there. For the composition of machines; followers do not see it.
    RowFed(Box<FedRow>),
}

impl Machine for Table {
    const SPACE: u8 = layout::SPACE;
    type Check = Check;
    type Op = Op;
    type Reply = Reply;
    type Refusal = Refusal;
    type Change = Change;

    fn check(ctx: &mut Ctx<'_, Change>, check: &Check) -> Result<(), Abort<Refusal>> {
        match check {
            Check::RowUnchangedSince { table, key, read_ts } => {
                write::check_row_unchanged(ctx, *table, key, *read_ts)
            }
            Check::TableUnchanged { table } => write::existing(ctx, *table).map(|_| ()),
        }
    }

    fn apply(ctx: &mut Ctx<'_, Change>, op: &Op) -> Result<Reply, Abort<Refusal>> {
        match op {
            Op::ReserveTableId => write::reserve_table_id(ctx),
            Op::CreateTable { id, definition, if_not_exists } => {
                write::create_table(ctx, *id, definition, *if_not_exists)
            }
            Op::DropTable { table } => write::drop_table(ctx, *table),
            Op::PutRow { table, key, row, mode } => write::put_row(ctx, *table, *key, row, *mode),
            Op::DeleteRow { table, key } => write::delete_row(ctx, *table, key),
            Op::TellRow { table, key } => write::tell_row(ctx, *table, key),
            Op::SetFeed { table, target, tells_rows } => {
                feed::set(ctx, *table, *target, *tells_rows)
            }
            Op::TellFeed { table, rows_max } => feed::tell_rows(ctx, *table, *rows_max),
            Op::CollectVersions { horizon, count_max } => {
                collect::collect(ctx, *horizon, *count_max)
            }
        }
    }

    fn due(view: View<'_>, count_max: usize) -> Result<Vec<Op>, StoreError> {
        let mut ops = collect::due(view, count_max)?;
        ops.extend(feed::due(view, count_max.saturating_sub(ops.len()))?);
        Ok(ops)
    }

    fn next_due_ms(state: &dyn Read) -> Result<Option<u64>, StoreError> {
        if feed::is_any_untold(state)? { Ok(Some(0)) } else { collect::next_due_ms(state) }
    }
}
