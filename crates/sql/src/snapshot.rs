//! What one statement reads: committed rows at a timestamp, and over them the transaction's own
//! writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use proteus_kernel_api::table::{self, Row, TableId, TableInfo, rows};
use proteus_kernel_api::{CommitTs, Kernel};

use crate::error::{SqlError, sqlstate};

/// Rows of a chunk: bounds how long one read holds up commits.
pub const CHUNK_ROWS: usize = 2048;

/// A transaction's write of one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// The row as the transaction leaves it; `None` if it removes it.
    pub row: Option<Row>,
    /// Whether the row was there at the read timestamp, so that the write builds on it.
    pub is_based: bool,
    /// Whether the row gets a row id of its own when it commits; its key is a placeholder.
    pub is_new_row_id: bool,
}

/// A row with its encoded key.
pub type KeyedRow = (Vec<u8>, Row);

/// Writes of one table by key, in key order.
pub type Writes = BTreeMap<Vec<u8>, Write>;

/// What one statement reads. Cloning is cheap.
#[derive(Clone)]
pub struct Snapshot {
    kernel: Arc<dyn Kernel>,
    /// What it reads at.
    pub read_ts: CommitTs,
    writes: BTreeMap<TableId, Arc<Writes>>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("read_ts", &self.read_ts).finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Reads at `read_ts` under `writes`.
    pub fn new(
        kernel: Arc<dyn Kernel>,
        read_ts: CommitTs,
        writes: BTreeMap<TableId, Arc<Writes>>,
    ) -> Snapshot {
        Snapshot { kernel, read_ts, writes }
    }

    /// The rows under `keys`, and whether each was there at the read timestamp.
    ///
    /// # Errors
    /// 40001 if the snapshot is too old to be read.
    pub fn get_many(
        &self,
        table: TableId,
        keys: &[Vec<u8>],
    ) -> Result<Vec<(Option<Row>, bool)>, SqlError> {
        let writes = self.writes.get(&table);
        let mut found = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(CHUNK_ROWS) {
            let rows = self.kernel.read(|view| {
                if rows::horizon(view.state)? > self.read_ts {
                    return Ok(None);
                }
                let mut rows = Vec::with_capacity(chunk.len());
                for key in chunk {
                    let own = writes.and_then(|writes| writes.get(key));
                    rows.push(match own {
                        Some(write) => (write.row.clone(), write.is_based),
                        None => {
                            let row = rows::get(view.state, table, key, self.read_ts)?;
                            let is_there = row.is_some();
                            (row, is_there)
                        }
                    });
                }
                Ok(Some(rows))
            })?;
            found.extend(rows.ok_or_else(too_old)?);
        }
        Ok(found)
    }

    /// A scan of the keys from `start` (inclusive) to `end` (exclusive; `None` for all).
    pub fn scan(&self, table: &Arc<TableInfo>, start: Vec<u8>, end: Option<Vec<u8>>) -> Scan {
        Scan { snapshot: self.clone(), table: table.id, next: Some(start), end }
    }
}

fn too_old() -> SqlError {
    SqlError::new(sqlstate::SERIALIZATION_FAILURE, "snapshot too old: row versions were collected")
        .hint("Repeat the transaction, and keep it shorter than five minutes.")
}

/// A scan under way.
pub struct Scan {
    snapshot: Snapshot,
    table: TableId,
    next: Option<Vec<u8>>,
    end: Option<Vec<u8>>,
}

impl Scan {
    /// The next rows in order of their keys, possibly none; `None` at the end.
    ///
    /// # Errors
    /// As [`Snapshot::get_many`].
    pub fn next_chunk(&mut self) -> Result<Option<Vec<KeyedRow>>, SqlError> {
        let Some(start) = self.next.take() else { return Ok(None) };
        let (read_ts, end) = (self.snapshot.read_ts, self.end.as_deref());
        let chunk: Option<table::Chunk> = self.snapshot.kernel.read(|view| {
            if rows::horizon(view.state)? > read_ts {
                return Ok(None);
            }
            rows::scan_chunk(view.state, self.table, &start, end, read_ts, CHUNK_ROWS).map(Some)
        })?;
        let chunk = chunk.ok_or_else(too_old)?;
        self.next = chunk.next_key;
        let Some(writes) = self.snapshot.writes.get(&self.table) else {
            return Ok(Some(chunk.rows));
        };
        let upto = self.next.as_deref().or(end);
        Ok(Some(merge(chunk.rows, writes, &start, upto)))
    }
}

/// Rows under the transaction's own writes from `start` (inclusive) to `end` (exclusive).
fn merge(rows: Vec<KeyedRow>, writes: &Writes, start: &[u8], end: Option<&[u8]>) -> Vec<KeyedRow> {
    use std::ops::Bound;
    let is_empty = end.is_some_and(|end| end <= start);
    let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
    let mut own = (!is_empty)
        .then(|| writes.range::<[u8], _>((Bound::Included(start), upper)))
        .into_iter()
        .flatten()
        .peekable();
    if own.peek().is_none() {
        return rows;
    }
    let mut merged: BTreeMap<Vec<u8>, Row> = rows.into_iter().collect();
    for (key, write) in own {
        match &write.row {
            Some(row) => merged.insert(key.clone(), row.clone()),
            None => merged.remove(key),
        };
    }
    merged.into_iter().collect()
}
