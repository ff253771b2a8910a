//! One commit, left in all four machines at once.
//!
//! Each commit counts in a cache key, appends its id to a topic, inserts it as a row, and sets it as
//! a znode's data. So a commit that was lost, applied twice or applied in part makes them disagree.

use bytes::Bytes;
use proteus_machine::View;
use proteus_shard_machine::{Minitransaction, Op, cache, table, topic, tree};
use proteus_store::StoreError;

use crate::commands::FIRST_TABLE;
use crate::history::CommitId;

const COUNT_KEY: &[u8] = b"ledger";
const PATH: &str = "/ledger";
const TOPIC: topic::TopicId = topic::TopicId([0xAA; 16]);
const TABLE: table::TableId = table::TableId(FIRST_TABLE);

/// Creates the ledger, in one commit.
pub fn creation() -> Minitransaction {
    let column = table::Column {
        name: "id".to_owned(),
        column_type: table::ColumnType::BigInt,
        not_null: true,
        default: None,
    };
    let definition = table::Definition {
        schema: "public".to_owned(),
        name: "ledger".to_owned(),
        columns: vec![column],
        // Without a key of its own a row that is inserted twice stands there twice.
        primary_key: Vec::new(),
        source: table::Source::Rows,
    };
    let path = PATH.to_owned();
    Minitransaction::default()
        .op(table::Op::CreateTable { id: None, definition, if_not_exists: false })
        .op(tree::Op::Create(tree::NewNode::persistent(path, None)))
        .op(topic::Op::CreateTopic {
            name: "ledger".to_owned(),
            topic_id: TOPIC,
            partition_count: 1,
            // Its records have no time: none may be too old to be kept.
            config: [(topic::settings::RETENTION_MS.to_owned(), "-1".to_owned())].into(),
        })
}

/// The ops that leave `id` in every machine.
pub fn ops(id: CommitId) -> Vec<Op> {
    let text = Bytes::from(id.to_string());
    let record =
        topic::batch::NewRecord { key: None, value: Some(text.clone()), headers: Vec::new() };
    let batch = topic::batch::frame_batch(&[record], 0).unwrap_or_default();
    let row = vec![table::Value::Int(id.cast_signed())];
    vec![
        Op::Cache(cache::Op::OrRefuse(cache::Call::new(&[b"INCR", COUNT_KEY]))),
        Op::Topic(topic::Op::Append { topic_id: TOPIC, partition: 0, batch }),
        Op::Table(table::Op::PutRow {
            table: TABLE,
            key: table::RowKey::NewRowId,
            row,
            mode: table::PutMode::InsertOnly,
        }),
        Op::Tree(tree::Op::SetData {
            path: PATH.to_owned(),
            data: Some(text),
            version: None,
            by: tree::Credentials::TRUSTED,
        }),
    ]
}

/// The ids in the ledger, in the order of their commits; `None` before it was created.
///
/// # Errors
/// How the machines disagree.
pub fn read(view: View<'_>) -> Result<Option<Vec<CommitId>>, String> {
    read_all(view).unwrap_or_else(|fault| Err(format!("the ledger cannot be read: {fault}")))
}

fn read_all(view: View<'_>) -> Result<Result<Option<Vec<CommitId>>, String>, StoreError> {
    let znode = tree::data(view.state, PATH)?;
    let topic = topic::read::topic(view.state, TOPIC)?;
    let table = table::catalog::table(view.state, TABLE)?;
    let present = [znode.is_some(), topic.is_some(), table.is_some()];
    let Some((data, stat)) = znode else {
        return Ok(if present == [false; 3] {
            Ok(None)
        } else {
            Err(format!("the ledger was created in part: {present:?}"))
        });
    };
    let count = match cache::answer(view, &cache::Call::new(&[b"GET", COUNT_KEY]))? {
        cache::Reply::Bulk(text) => parse(&text),
        _ => 0,
    };
    let in_topic = topic_ids(view)?;
    let chunk = table::rows::scan_chunk(view.state, TABLE, &[], None, view.applied_ts, usize::MAX)?;
    let in_table: Vec<CommitId> = chunk
        .rows
        .iter()
        .map(|(_, row)| match row.first() {
            Some(table::Value::Int(id)) => id.cast_unsigned(),
            _ => 0,
        })
        .collect();
    let last = data.map_or(0, |data| parse(&data));
    let agrees = count == in_topic.len() as u64
        && in_topic == in_table
        && i64::from(stat.version) == in_topic.len() as i64
        && last == in_topic.last().copied().unwrap_or(0);
    Ok(if agrees {
        Ok(Some(in_topic))
    } else {
        Err(format!(
            "the machines disagree: the cache counts {count}, the topic holds {in_topic:?}, the table {in_table:?}, the znode has version {} and data {last}",
            stat.version
        ))
    })
}

fn topic_ids(view: View<'_>) -> Result<Vec<CommitId>, StoreError> {
    let limit = topic::read::ReadLimit::Bytes(usize::MAX);
    let mut ids = Vec::new();
    let stretch = topic::read::read_batches(view.state, TOPIC, 0, 0, i64::MAX, limit)?;
    for batch in stretch.here().unwrap_or_default() {
        let records = topic::batch::decode_records(&batch.bytes, batch.base_offset);
        for record in records.into_iter().flatten().flatten() {
            ids.push(record.value.map_or(0, |value| parse(&value)));
        }
    }
    Ok(ids)
}

fn parse(text: &[u8]) -> u64 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Whether `minitransaction` leaves an id in the ledger, if it commits.
pub fn holds(minitransaction: &Minitransaction) -> bool {
    minitransaction
        .ops
        .iter()
        .any(|op| matches!(op, Op::Topic(topic::Op::Append { topic_id, .. }) if *topic_id == TOPIC))
}
