//! Procedures over the topic machine.

use bytes::Bytes;
use proteus_kernel_api::topic::batch::{NewRecord, frame_batch, partition_of_key};
use proteus_kernel_api::topic::read::{self, TopicInfo};
use proteus_kernel_api::topic::{Check, NewOffset, Op};

use super::{Arguments, Calls, Function, Procedure};
use crate::error::{SqlError, sqlstate};

pub(super) fn procedures() -> Vec<Box<dyn Procedure>> {
    let offset = "group, topic, partition, offset";
    let all = [
        Function { name: "kafka.produce", parameters: "topic, key, value", body: produce },
        Function { name: "kafka.commit_offset", parameters: offset, body: commit_offset },
        Function {
            name: "kafka.check_offset",
            parameters: "group, topic, partition, expected_offset (null: none committed)",
            body: check_offset,
        },
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
