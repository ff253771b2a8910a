//! Collecting versions that nobody can see any more.

use std::ops::ControlFlow;

use proteus_machine::key::{KeyBuilder, first_u64, take_u32, take_u64};
use proteus_machine::{Abort, Ctx, View};
use proteus_store::{Direction, Read, StoreError, prefix_end};
use proteus_types::CommitTs;

use crate::layout::{self, KIND_DROPPED, KIND_GARBAGE};
use crate::rows;
use crate::{Change, Op, Refusal, Reply, TableId};

/// How long a superseded version stays readable, in milliseconds: the longest a transaction or a
/// query at one read timestamp may last.
pub const VERSION_RETENTION_MS: u64 = 5 * 60 * 1000;

/// Most keys that one op removes, so that it holds up its neighbours for a few milliseconds only.
const COLLECT_COUNT_MAX: u32 = 4096;

pub(crate) fn due(view: View<'_>, count_max: usize) -> Result<Vec<Op>, StoreError> {
    let horizon = CommitTs::from_physical_ms(view.now_ms.saturating_sub(VERSION_RETENTION_MS));
    let mut is_due = false;
    for kind in [KIND_GARBAGE, KIND_DROPPED] {
        let (start, end) = range_upto(kind, horizon);
        view.state.scan(&start, &end, Direction::Ascending, &mut |_, _| {
            is_due = true;
            ControlFlow::Break(())
        })?;
    }
    let count_max = u32::try_from(count_max).unwrap_or(u32::MAX).min(1) * COLLECT_COUNT_MAX;
    Ok(is_due.then_some(Op::CollectVersions { horizon, count_max }).into_iter().collect())
}

/// From when on there is something to collect.
pub(crate) fn next_due_ms(state: &dyn Read) -> Result<Option<u64>, StoreError> {
    let mut next: Option<u64> = None;
    for kind in [KIND_GARBAGE, KIND_DROPPED] {
        if let Some(first) = first_u64(state, layout::SPACE, kind)? {
            // The horizon is the first timestamp of its millisecond.
            let due_ms = CommitTs(first).physical_ms() + VERSION_RETENTION_MS + 1;
            next = Some(next.map_or(due_ms, |next| next.min(due_ms)));
        }
    }
    Ok(next)
}

/// Keys of `kind` whose timestamp is at or below `horizon`.
fn range_upto(kind: u8, horizon: CommitTs) -> (Vec<u8>, Vec<u8>) {
    let start = KeyBuilder::new(layout::SPACE, kind).into_vec();
    let end = prefix_end(&KeyBuilder::new(layout::SPACE, kind).u64(horizon.0).into_vec());
    (start, end)
}

pub(crate) fn collect(
    ctx: &mut Ctx<'_, Change>,
    horizon: CommitTs,
    count_max: u32,
) -> Result<Reply, Abort<Refusal>> {
    if horizon > rows::horizon(ctx)? {
        ctx.put(layout::horizon_key(), layout::encode(&horizon));
    }
    let mut budget = count_max;
    let (start, end) = range_upto(KIND_GARBAGE, horizon);
    let garbage = keys(ctx, &start, &end, budget)?;
    for key in garbage {
        // SPACE, kind, timestamp, tombstone flag; then the version's own key.
        let version_key = key.get(2 + layout::TS_BYTES + 1..).unwrap_or_default().to_vec();
        ctx.delete(version_key);
        ctx.delete(key);
        budget -= 1;
    }
    let (start, end) = range_upto(KIND_DROPPED, horizon);
    for key in keys(ctx, &start, &end, budget)? {
        let table = dropped_table(&key)?;
        let prefix = layout::rows_prefix(table);
        let versions = keys(ctx, &prefix, &prefix_end(&prefix), budget)?;
        budget -= u32::try_from(versions.len()).unwrap_or(budget).min(budget);
        for version in versions {
            ctx.delete(version);
        }
        if budget == 0 {
            break;
        }
        ctx.delete(key);
    }
    Ok(Reply::VersionsCollected(count_max - budget))
}

fn dropped_table(key: &[u8]) -> Result<TableId, StoreError> {
    let after_kind = key.get(2..).unwrap_or_default();
    take_u64(after_kind)
        .and_then(|(_, rest)| take_u32(rest))
        .map(|(id, _)| TableId(id))
        .ok_or_else(|| StoreError::corrupt(key, "key of a dropped table is too short"))
}

fn keys(
    read: &dyn Read,
    start: &[u8],
    end: &[u8],
    count_max: u32,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut keys = Vec::new();
    if count_max == 0 {
        return Ok(keys);
    }
    read.scan(start, end, Direction::Ascending, &mut |key, _| {
        keys.push(key.to_vec());
        if keys.len() >= count_max as usize {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    Ok(keys)
}
