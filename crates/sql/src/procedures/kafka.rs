//! Procedures over the topic machine.

use std::collections::BTreeMap;

use bytes::Bytes;
use proteus_env::random;
use proteus_kernel_api::table::{self, FeedTarget, TableInfo};
use proteus_kernel_api::topic::batch::{NewRecord, frame_batch, partition_of_key};
use proteus_kernel_api::topic::read::{self, TopicInfo};
use proteus_kernel_api::topic::{self, Check, NewOffset, Op, TopicId};

use super::{Arguments, Calls, Function, Procedure};
use crate::error::{SqlError, sqlstate};
use crate::names::PUBLIC;

pub(super) fn procedures() -> Vec<Box<dyn Procedure>> {
    const FEED: &str = "table, topic[, 'initial' or 'no_data']";
    let offset = "group, topic, partition, offset";
    let all = [
        Function { name: "kafka.produce", parameters: "topic, key, value", body: produce },
        Function { name: "kafka.commit_offset", parameters: offset, body: commit_offset },
        Function {
            name: "kafka.check_offset",
            parameters: "group, topic, partition, expected_offset (null: none committed)",
            body: check_offset,
        },
        Function { name: "kafka.feed_table", parameters: FEED, body: feed_table },
        Function { name: "kafka.end_feed", parameters: "table", body: end_feed },
    ];
    all.into_iter().map(|function| -> Box<dyn Procedure> { Box::new(function) }).collect()
}

fn topic(arguments: &mut Arguments<'_>, calls: &Calls<'_>) -> Result<TopicInfo, SqlError> {
    let name = arguments.text()?;
    let found = calls.kernel.read(|view| read::topic_by_name(view.state, &name))?;
    found.ok_or_else(|| {
        SqlError::new(sqlstate::UNDEFINED_TABLE, format!("topic \"{name}\" does not exist"))
    })
}

fn partition(arguments: &mut Arguments<'_>, topic: &TopicInfo) -> Result<u32, SqlError> {
    let partition = u32::try_from(arguments.int()?).ok();
    partition.filter(|partition| *partition < topic.partition_count).ok_or_else(|| {
        arguments
            .mismatch(&format!("topic {} has {} partitions", topic.name, topic.partition_count))
    })
}

/// Appends a record; its key chooses the partition as Kafka's Java client does.
fn produce(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let topic = topic(arguments, calls)?;
    let key = arguments.optional_bytes()?.map(Bytes::from);
    let value = arguments.optional_bytes()?.map(Bytes::from);
    let partition = partition_of_key(key.as_deref(), topic.partition_count);
    let timestamp_ms = i64::try_from(calls.now_ms).unwrap_or(i64::MAX);
    let record = NewRecord { key, value, headers: Vec::new() };
    let batch = frame_batch(&[record], timestamp_ms)
        .ok_or_else(|| arguments.mismatch("the record is too large"))?;
    let what = format!("kafka.produce('{}')", topic.name);
    calls.cross_face.op(Op::Append { topic_id: topic.topic_id, partition, batch }, what);
    Ok(())
}

fn commit_offset(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let group = arguments.text()?;
    let topic = topic(arguments, calls)?;
    let partition = partition(arguments, &topic)?;
    let offset = arguments.int()?;
    if offset < 0 {
        return Err(arguments.mismatch("the offset is negative"));
    }
    let what = format!("kafka.commit_offset('{group}', '{}', {partition})", topic.name);
    let offset = NewOffset {
        topic_id: topic.topic_id,
        partition,
        offset,
        leader_epoch: -1,
        metadata: String::new(),
    };
    calls.cross_face.op(Op::CommitOffsets { group, offsets: vec![offset] }, what);
    Ok(())
}

fn check_offset(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let group = arguments.text()?;
    let topic = topic(arguments, calls)?;
    let partition = partition(arguments, &topic)?;
    let expected = arguments.optional_int()?;
    let what = format!("kafka.check_offset('{group}', '{}', {partition})", topic.name);
    let check = Check::CommittedOffset { group, topic_id: topic.topic_id, partition, expected };
    calls.cross_face.check(check, what);
    Ok(())
}

/// A table with rows of its own, by its name or `schema.name`.
fn table(arguments: &mut Arguments<'_>, calls: &Calls<'_>) -> Result<TableInfo, SqlError> {
    let name = arguments.text()?;
    let (schema, own) = name.split_once('.').unwrap_or((PUBLIC, &name));
    let found = calls.kernel.read(|view| table::catalog::table_by_name(view.state, schema, own))?;
    let found = found.ok_or_else(|| SqlError::undefined_table(&name))?;
    match found.definition.source {
        table::Source::Rows => Ok(found),
        table::Source::Topic { .. } => {
            Err(arguments.mismatch(&format!("{name} is a topic already")))
        }
    }
}

/// From the commit on, each change of a row is a record of the topic, which is made if it is not there. The rows
/// that there are come first, as with Debezium's `snapshot.mode`, unless that is `no_data`.
fn feed_table(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let info = table(arguments, calls)?;
    let name = arguments.text()?;
    let tells_rows = match arguments.is_empty() {
        true => true,
        false => match arguments.text()?.as_str() {
            "initial" => true,
            "no_data" => false,
            _ => return Err(arguments.mismatch("rows are told ('initial') or not ('no_data')")),
        },
    };
    let what = format!("kafka.feed_table('{}', '{name}')", info.definition.name);
    let found = calls.kernel.read(|view| read::topic_by_name(view.state, &name))?;
    let topic_id = match found {
        Some(topic) => topic.topic_id,
        None => {
            if let Some(problem) = topic::name_problem(&name) {
                return Err(arguments.mismatch(&problem));
            }
            let topic_id = TopicId(random::random_bytes());
            let config = BTreeMap::new();
            let create = Op::CreateTopic { name, topic_id, partition_count: 1, config };
            calls.cross_face.op(create, what.clone());
            topic_id
        }
    };
    let target = Some(FeedTarget(topic_id.0));
    calls.cross_face.op(table::Op::SetFeed { table: info.id, target, tells_rows }, what);
    Ok(())
}

/// From the commit on, changes of the table's rows are told no more. What was told stays.
fn end_feed(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let info = table(arguments, calls)?;
    let what = format!("kafka.end_feed('{}')", info.definition.name);
    let end = table::Op::SetFeed { table: info.id, target: None, tells_rows: false };
    calls.cross_face.op(end, what);
    Ok(())
}
