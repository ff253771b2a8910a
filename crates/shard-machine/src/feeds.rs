//! A table's feed: rows that changed, as records of a topic, in the commit that changed them.

use std::collections::BTreeMap;

use bytes::Bytes;
use proteus_machine::{Abort, Position};
use proteus_store::State;

use crate::envelope;
use crate::topic::batch::{NewRecord, frame_batch, partition_of_key};
use crate::{Change, Op, Refusal, apply_op, table, topic};

/// Records of a feed are appended in batches of about so many bytes, so that a large transaction makes
/// several that fit their topic's `max.message.bytes`.
const BATCH_BYTES: usize = 256 * 1024;

/// Appends the envelopes of the rows among the changes from `from` on that a feed is declared for.
pub(crate) fn derive(
    state: &mut dyn State,
    position: Position,
    changes: &mut Vec<Change>,
    from: usize,
) -> Result<(), Abort<Refusal>> {
    let is_fed = |change: &Change| matches!(change, Change::Table(table::Change::RowFed(_)));
    if !changes.get(from..).is_some_and(|changes| changes.iter().any(is_fed)) {
        return Ok(());
    }
    let mut rows = Vec::new();
    let mut others = Vec::new();
    for change in changes.drain(from..) {
        match change {
            // For nobody but this function.
            Change::Table(table::Change::RowFed(row)) => rows.push(row),
            other => others.push(other),
        }
    }
    changes.append(&mut others);
    feed(state, position, changes, &rows)
}

/// Records of one partition that are to be appended together.
#[derive(Default)]
struct Pending {
    records: Vec<NewRecord>,
    bytes: usize,
}

/// Appends the rows' envelopes to their topics. Rows of one key keep their order: they meet in one
/// partition.
fn feed(
    state: &mut dyn State,
    position: Position,
    changes: &mut Vec<Change>,
    rows: &[Box<table::FedRow>],
) -> Result<(), Abort<Refusal>> {
    let mut partition_counts: BTreeMap<topic::TopicId, Option<u32>> = BTreeMap::new();
    let mut pending: BTreeMap<(topic::TopicId, u32), Pending> = BTreeMap::new();
    for row in rows {
        let topic_id = topic::TopicId(row.target.0);
        let partition_count = match partition_counts.get(&topic_id) {
            Some(known) => *known,
            None => {
                let found = topic::read::topic(state, topic_id)?.map(|info| info.partition_count);
                partition_counts.insert(topic_id, found);
                found
            }
        };
        // Whoever deletes the topic has ended the feed; the table goes on.
        let Some(partition_count) = partition_count else { continue };
        for record in envelope::records(row, position) {
            let partition = partition_of_key(record.key.as_deref(), partition_count);
            let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
            let bytes = 64 + length(&record.key) + length(&record.value);
            let of_partition = pending.entry((topic_id, partition)).or_default();
            if of_partition.bytes + bytes > BATCH_BYTES && !of_partition.records.is_empty() {
                let full = std::mem::take(of_partition);
                append(state, position, changes, (topic_id, partition), &full.records)?;
            }
            let of_partition = pending.entry((topic_id, partition)).or_default();
            of_partition.records.push(record);
            of_partition.bytes += bytes;
        }
    }
    for (place, rest) in pending {
        append(state, position, changes, place, &rest.records)?;
    }
    Ok(())
}

fn append(
    state: &mut dyn State,
    position: Position,
    changes: &mut Vec<Change>,
    (topic_id, partition): (topic::TopicId, u32),
    records: &[NewRecord],
) -> Result<(), Abort<Refusal>> {
    let timestamp_ms = position.commit_ts.physical_ms().cast_signed();
    let Some(batch) = frame_batch(records, timestamp_ms) else { return Ok(()) };
    let append = Op::Topic(topic::Op::Append { topic_id, partition, batch });
    apply_op(state, position, &append, changes).map(drop)
}
