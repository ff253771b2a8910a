//! The layout of this machine's keys. Integers are big-endian, so keys sort by their parts.

use bytes::Bytes;
use proteus_machine::Machine;
use proteus_machine::key::{KeyBuilder, take_string, take_u32, take_u64};

use crate::{Topic, TopicId};

const TOPIC_BY_NAME: u8 = 0x01;
const TOPIC: u8 = 0x02;
const PARTITION: u8 = 0x03;
/// The value is the batch as its producer sent it; its magic byte is its version.
const BATCH: u8 = 0x04;
/// One entry for each batch whose newest timestamp is newer than all before it; no value.
const TIME: u8 = 0x05;
const PRODUCER: u8 = 0x06;
const OFFSET: u8 = 0x07;
const TIMER: u8 = 0x08;
const GARBAGE: u8 = 0x09;
const NEXT_PRODUCER_ID: u8 = 0x0A;

fn key(kind: u8) -> KeyBuilder {
    KeyBuilder::new(Topic::SPACE, kind)
}

pub(crate) fn topic_by_name(name: &str) -> Vec<u8> {
    key(TOPIC_BY_NAME).raw(name.as_bytes()).into_vec()
}

pub(crate) fn topics_by_name() -> Vec<u8> {
    key(TOPIC_BY_NAME).into_vec()
}

pub(crate) fn topic(topic_id: TopicId) -> Vec<u8> {
    key(TOPIC).raw(&topic_id.0).into_vec()
}

fn of_partition(kind: u8, topic_id: TopicId, partition: u32) -> KeyBuilder {
    key(kind).raw(&topic_id.0).u32(partition)
}

pub(crate) fn partition(topic_id: TopicId, partition: u32) -> Vec<u8> {
    of_partition(PARTITION, topic_id, partition).into_vec()
}

/// Offsets are never negative; a negative one sorts as 0.
fn ordered_offset(offset: i64) -> u64 {
    u64::try_from(offset).unwrap_or(0)
}

/// Flips the sign, so that negative timestamps sort before positive ones.
fn ordered_timestamp(timestamp_ms: i64) -> u64 {
    timestamp_ms.cast_unsigned() ^ (1 << 63)
}

pub(crate) fn batch(topic_id: TopicId, partition: u32, base_offset: i64) -> Vec<u8> {
    of_partition(BATCH, topic_id, partition).u64(ordered_offset(base_offset)).into_vec()
}

/// Base offset of a batch's key.
pub(crate) fn batch_base_offset(key: &[u8]) -> Option<i64> {
    let (offset, rest) = take_u64(key.get(2 + 16 + 4..)?)?;
    rest.is_empty().then_some(i64::try_from(offset).ok()?)
}

pub(crate) fn time(
    topic_id: TopicId,
    partition: u32,
    timestamp_ms: i64,
    base_offset: i64,
) -> Vec<u8> {
    of_partition(TIME, topic_id, partition)
        .u64(ordered_timestamp(timestamp_ms))
        .u64(ordered_offset(base_offset))
        .into_vec()
}

/// First key after all time entries of a partition.
pub(crate) fn time_end(topic_id: TopicId, partition: u32) -> Vec<u8> {
    proteus_store::prefix_end(&of_partition(TIME, topic_id, partition).into_vec())
}

/// Timestamp and base offset of a time entry's key.
pub(crate) fn time_parts(key: &[u8]) -> Option<(i64, i64)> {
    let (timestamp, rest) = take_u64(key.get(2 + 16 + 4..)?)?;
    let (offset, _) = take_u64(rest)?;
    Some(((timestamp ^ (1 << 63)).cast_signed(), i64::try_from(offset).ok()?))
}

pub(crate) fn producer(topic_id: TopicId, partition: u32, producer_id: i64) -> Vec<u8> {
    of_partition(PRODUCER, topic_id, partition).u64(producer_id.cast_unsigned()).into_vec()
}

pub(crate) fn offsets_of_group(group: &str) -> Vec<u8> {
    key(OFFSET).string(group.as_bytes()).into_vec()
}

pub(crate) fn offsets() -> Vec<u8> {
    key(OFFSET).into_vec()
}

pub(crate) fn offset(group: &str, topic_id: TopicId, partition: u32) -> Vec<u8> {
    key(OFFSET).string(group.as_bytes()).raw(&topic_id.0).u32(partition).into_vec()
}

/// Group, topic and partition of a committed offset's key.
pub(crate) fn offset_parts(key: &[u8]) -> Option<(String, TopicId, u32)> {
    let (group, rest) = take_string(key.get(2..)?)?;
    let (topic_id, rest) = rest.split_first_chunk::<16>()?;
    let (partition, _) = take_u32(rest)?;
    Some((String::from_utf8(group).ok()?, TopicId(*topic_id), partition))
}

pub(crate) fn timers() -> Vec<u8> {
    key(TIMER).into_vec()
}

/// First key after all timers due at `now_ms` or before.
pub(crate) fn timers_end(now_ms: u64) -> Vec<u8> {
    key(TIMER).u64(now_ms.saturating_add(1)).into_vec()
}

pub(crate) fn timer(due_at_ms: u64, subject: &[u8]) -> Bytes {
    key(TIMER).u64(due_at_ms).raw(subject).build()
}

/// Due time and encoded subject of a timer's key.
pub(crate) fn timer_parts(key: &[u8]) -> Option<(u64, &[u8])> {
    take_u64(key.get(2..)?)
}

pub(crate) fn garbage(topic_id: TopicId) -> Vec<u8> {
    key(GARBAGE).raw(&topic_id.0).into_vec()
}

pub(crate) fn all_garbage() -> Vec<u8> {
    key(GARBAGE).into_vec()
}

pub(crate) fn garbage_topic(key: &[u8]) -> Option<TopicId> {
    Some(TopicId(key.get(2..)?.try_into().ok()?))
}

/// Prefixes of everything that a deleted topic leaves for the sweep.
pub(crate) fn left_by(topic_id: TopicId) -> [Vec<u8>; 4] {
    [BATCH, TIME, PRODUCER, PARTITION].map(|kind| key(kind).raw(&topic_id.0).into_vec())
}

pub(crate) fn next_producer_id() -> Vec<u8> {
    key(NEXT_PRODUCER_ID).into_vec()
}
