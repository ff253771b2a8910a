//! Reading rows at a timestamp.

use std::ops::ControlFlow;

use proteus_store::{Direction, Read, StoreError, prefix_end};
use proteus_types::CommitTs;

use crate::layout;
use crate::{Row, TableId};

/// Part of a table, in order of its keys.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Rows with their encoded keys.
    pub rows: Vec<(Vec<u8>, Row)>,
    /// Where the next chunk starts (inclusive); `None` after the last.
    pub next_key: Option<Vec<u8>>,
}

/// Versions, visible or not, that one chunk may visit for each row it is asked for. Keeps the time
/// bounded where many versions of few rows stand.
const VERSIONS_PER_ROW_MAX: usize = 8;

/// Reads at or after this timestamp see everything; before it, versions may have been collected.
///
/// # Errors
/// If the store fails or its bytes are damaged.
pub fn horizon(read: &dyn Read) -> Result<CommitTs, StoreError> {
    let key = layout::horizon_key();
    match read.get(&key)? {
        Some(bytes) => layout::decode(&key, &bytes),
        None => Ok(CommitTs::ZERO),
    }
}

/// The row under the encoded `key` as of `read_ts` (inclusive).
///
/// # Errors
/// As [`horizon`].
pub fn get(
    read: &dyn Read,
    table: TableId,
    key: &[u8],
    read_ts: CommitTs,
) -> Result<Option<Row>, StoreError> {
    let start = layout::version_key(table, key, read_ts);
    let end = prefix_end(&layout::row_prefix(table, key));
    let mut found = Ok(None);
    read.scan(&start, &end, Direction::Ascending, &mut |key, bytes| {
        found = layout::decode_version(key, bytes);
        ControlFlow::Break(())
    })?;
    found
}

/// The commit timestamp of the row's newest version and whether that is a row, not a tombstone.
pub(crate) fn newest(
    read: &dyn Read,
    table: TableId,
    key: &[u8],
) -> Result<Option<(CommitTs, bool)>, StoreError> {
    let prefix = layout::row_prefix(table, key);
    let mut found = Ok(None);
    read.scan_prefix(&prefix, &mut |key, bytes| {
        found = layout::split_version_key(key)
            .map(|(_, commit_ts)| Some((commit_ts, !layout::is_tombstone(bytes))));
        ControlFlow::Break(())
    })?;
    found
}

/// Rows from `start` (inclusive) to `end` (exclusive; `None` for the table's end) as of `read_ts`,
/// at most about `rows_max` of them. A chunk may hold fewer rows, even none, and still have a
/// successor.
///
/// # Errors
/// As [`horizon`].
pub fn scan_chunk(
    read: &dyn Read,
    table: TableId,
    start: &[u8],
    end: Option<&[u8]>,
    read_ts: CommitTs,
    rows_max: usize,
) -> Result<Chunk, StoreError> {
    let mut scan =
        Scan { read_ts, rows_max, rows: Vec::new(), visited: 0, current: None, next: None };
    let from = layout::row_prefix(table, start);
    let upto = match end {
        Some(end) => layout::row_prefix(table, end),
        None => prefix_end(&layout::rows_prefix(table)),
    };
    let mut failed = None;
    read.scan(
        &from,
        &upto,
        Direction::Ascending,
        &mut |key, bytes| match scan.visit(key, bytes) {
            Ok(flow) => flow,
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        },
    )?;
    match failed {
        Some(error) => Err(error),
        None => Ok(Chunk { rows: scan.rows, next_key: scan.next }),
    }
}

struct Scan {
    read_ts: CommitTs,
    rows_max: usize,
    rows: Vec<(Vec<u8>, Row)>,
    visited: usize,
    /// The row under visit, and whether its visible version was met: older ones are passed over.
    current: Option<(Vec<u8>, bool)>,
    next: Option<Vec<u8>>,
}

impl Scan {
    fn visit(&mut self, key: &[u8], bytes: &[u8]) -> Result<ControlFlow<()>, StoreError> {
        let (row_key, commit_ts) = layout::split_version_key(key)?;
        self.visited += 1;
        let is_full = self.is_full();
        match &mut self.current {
            Some((current, is_settled)) if current == row_key => {
                if *is_settled {
                    return Ok(ControlFlow::Continue(()));
                }
            }
            // A chunk ends between two rows, never within one, and moves by one row at least.
            Some(_) if is_full => {
                self.next = Some(row_key.to_vec());
                return Ok(ControlFlow::Break(()));
            }
            _ => self.current = Some((row_key.to_vec(), false)),
        }
        if commit_ts <= self.read_ts {
            if let Some((_, is_settled)) = &mut self.current {
                *is_settled = true;
            }
            if let Some(row) = layout::decode_version(key, bytes)? {
                self.rows.push((row_key.to_vec(), row));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= self.rows_max
            || self.visited > self.rows_max.saturating_mul(VERSIONS_PER_ROW_MAX)
    }
}
