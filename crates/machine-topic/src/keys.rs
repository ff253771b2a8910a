//! The layout of this machine's keys. Integers are big-endian, so keys sort by their parts.

use bytes::Bytes;
use proteus_machine::Machine;
use proteus_machine::key::{KeyBuilder, take_string, take_u32, take_u64};

use crate::tiering::ObjectId;
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
pub(crate) const TIMER: u8 = 0x08;
pub(crate) const GARBAGE: u8 = 0x09;
const NEXT_PRODUCER_ID: u8 = 0x0A;
/// A transactional producer, by its producer id.
const TRANSACTION: u8 = 0x0B;
/// The producer id of a transactional id.
const TRANSACTIONAL_ID: u8 = 0x0C;
/// One entry for each partition of a transaction that is going on; no value.
const TRANSACTION_PARTITION: u8 = 0x0D;
/// One entry for each transaction that is open in a partition, by its first offset.
const OPEN: u8 = 0x0E;
/// One entry for each transaction that was aborted in a partition, by its marker's offset.
const ABORTED: u8 = 0x0F;
/// An offset that a transaction will commit for a group.
const PENDING_OFFSET: u8 = 0x10;
/// Where a compaction stands.
const COMPACTION: u8 = 0x11;
/// A compaction's note where the newest record of a key stands, by the key's hash.
const NEWEST_OF_KEY: u8 = 0x12;
const CREDENTIAL: u8 = 0x13;
/// A rule, whose value is the rest of the key.
const ACL: u8 = 0x14;
const QUOTA: u8 = 0x15;
/// One entry for each object that has batches of a partition, by the first one's base offset.
const OBJECT: u8 = 0x16;
/// An object that is being written.
const RESERVATION: u8 = 0x17;
/// An object that is to be deleted from the object store.
const GARBAGE_OBJECT: u8 = 0x18;
/// What a share group has consumed of a partition.
const SHARE: u8 = 0x19;
const GROUP_SETTINGS: u8 = 0x1A;

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

pub(crate) fn shares() -> Vec<u8> {
    key(SHARE).into_vec()
}

pub(crate) fn shares_of_group(group: &str) -> Vec<u8> {
    key(SHARE).string(group.as_bytes()).into_vec()
}

pub(crate) fn share(group: &str, topic_id: TopicId, partition: u32) -> Vec<u8> {
    key(SHARE).string(group.as_bytes()).raw(&topic_id.0).u32(partition).into_vec()
}

pub(crate) fn all_group_settings() -> Vec<u8> {
    key(GROUP_SETTINGS).into_vec()
}

pub(crate) fn group_settings(group: &str) -> Vec<u8> {
    key(GROUP_SETTINGS).string(group.as_bytes()).into_vec()
}

/// Group, topic and partition of the key of a committed offset, or of what a share group has consumed.
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
pub(crate) fn left_by(topic_id: TopicId) -> [Vec<u8>; 8] {
    [BATCH, TIME, PRODUCER, OPEN, ABORTED, COMPACTION, NEWEST_OF_KEY, PARTITION]
        .map(|kind| key(kind).raw(&topic_id.0).into_vec())
}

pub(crate) fn next_producer_id() -> Vec<u8> {
    key(NEXT_PRODUCER_ID).into_vec()
}

pub(crate) fn transaction(producer_id: i64) -> Vec<u8> {
    key(TRANSACTION).u64(producer_id.cast_unsigned()).into_vec()
}

pub(crate) fn transactional_id(transactional_id: &str) -> Vec<u8> {
    key(TRANSACTIONAL_ID).raw(transactional_id.as_bytes()).into_vec()
}

pub(crate) fn transactional_ids() -> Vec<u8> {
    key(TRANSACTIONAL_ID).into_vec()
}

pub(crate) fn transaction_partitions(producer_id: i64) -> Vec<u8> {
    key(TRANSACTION_PARTITION).u64(producer_id.cast_unsigned()).into_vec()
}

pub(crate) fn transaction_partition(
    producer_id: i64,
    topic_id: TopicId,
    partition: u32,
) -> Vec<u8> {
    key(TRANSACTION_PARTITION)
        .u64(producer_id.cast_unsigned())
        .raw(&topic_id.0)
        .u32(partition)
        .into_vec()
}

/// Topic and partition of a transaction's partition.
pub(crate) fn transaction_partition_parts(key: &[u8]) -> Option<(TopicId, u32)> {
    let (topic_id, rest) = key.get(2 + 8..)?.split_first_chunk::<16>()?;
    Some((TopicId(*topic_id), take_u32(rest)?.0))
}

pub(crate) fn all_open(topic_id: TopicId, partition: u32) -> Vec<u8> {
    of_partition(OPEN, topic_id, partition).into_vec()
}

pub(crate) fn open(topic_id: TopicId, partition: u32, first_offset: i64) -> Vec<u8> {
    of_partition(OPEN, topic_id, partition).u64(ordered_offset(first_offset)).into_vec()
}

/// The offset at the end of the key of a partition's entry.
pub(crate) fn entry_offset(key: &[u8]) -> Option<i64> {
    batch_base_offset(key)
}

pub(crate) fn aborted(topic_id: TopicId, partition: u32, marker_offset: i64) -> Vec<u8> {
    of_partition(ABORTED, topic_id, partition).u64(ordered_offset(marker_offset)).into_vec()
}

/// First key after all aborted transactions of a partition.
pub(crate) fn aborted_end(topic_id: TopicId, partition: u32) -> Vec<u8> {
    proteus_store::prefix_end(&of_partition(ABORTED, topic_id, partition).into_vec())
}

pub(crate) fn objects_of_topic(topic_id: TopicId) -> Vec<u8> {
    key(OBJECT).raw(&topic_id.0).into_vec()
}

pub(crate) fn objects(topic_id: TopicId, partition: u32) -> Vec<u8> {
    of_partition(OBJECT, topic_id, partition).into_vec()
}

pub(crate) fn object(topic_id: TopicId, partition: u32, base_offset: i64) -> Vec<u8> {
    of_partition(OBJECT, topic_id, partition).u64(ordered_offset(base_offset)).into_vec()
}

/// Partition of the key of a partition's entry.
pub(crate) fn entry_partition(key: &[u8]) -> Option<u32> {
    Some(take_u32(key.get(2 + 16..)?)?.0)
}

pub(crate) fn reservation(object_id: ObjectId) -> Vec<u8> {
    key(RESERVATION).raw(&object_id.0).into_vec()
}

pub(crate) fn garbage_objects() -> Vec<u8> {
    key(GARBAGE_OBJECT).into_vec()
}

pub(crate) fn garbage_object(object_id: ObjectId) -> Vec<u8> {
    key(GARBAGE_OBJECT).raw(&object_id.0).into_vec()
}

pub(crate) fn garbage_object_id(key: &[u8]) -> Option<ObjectId> {
    Some(ObjectId(key.get(2..)?.try_into().ok()?))
}

pub(crate) fn credentials() -> Vec<u8> {
    key(CREDENTIAL).into_vec()
}

pub(crate) fn credential(user: &str, mechanism: i8) -> Vec<u8> {
    key(CREDENTIAL).string(user.as_bytes()).raw(&mechanism.to_be_bytes()).into_vec()
}

/// User of a credential's key.
pub(crate) fn credential_user(key: &[u8]) -> Option<String> {
    String::from_utf8(take_string(key.get(2..)?)?.0).ok()
}

pub(crate) fn acls() -> Vec<u8> {
    key(ACL).into_vec()
}

pub(crate) fn acl(encoded: &[u8]) -> Vec<u8> {
    key(ACL).raw(encoded).into_vec()
}

pub(crate) fn quotas() -> Vec<u8> {
    key(QUOTA).into_vec()
}

pub(crate) fn quota(entity: &[u8]) -> Vec<u8> {
    key(QUOTA).raw(entity).into_vec()
}

pub(crate) fn compaction(topic_id: TopicId, partition: u32) -> Vec<u8> {
    of_partition(COMPACTION, topic_id, partition).into_vec()
}

pub(crate) fn newest_of_keys(topic_id: TopicId, partition: u32) -> Vec<u8> {
    of_partition(NEWEST_OF_KEY, topic_id, partition).into_vec()
}

pub(crate) fn newest_of_key(topic_id: TopicId, partition: u32, hash: &[u8; 32]) -> Vec<u8> {
    of_partition(NEWEST_OF_KEY, topic_id, partition).raw(hash).into_vec()
}

/// First key of a partition's time entries.
pub(crate) fn time_start(topic_id: TopicId, partition: u32) -> Vec<u8> {
    of_partition(TIME, topic_id, partition).into_vec()
}

pub(crate) fn producers(topic_id: TopicId, partition: u32) -> Vec<u8> {
    of_partition(PRODUCER, topic_id, partition).into_vec()
}

/// Producer id of a producer's key.
pub(crate) fn producer_id(key: &[u8]) -> Option<i64> {
    Some(take_u64(key.get(2 + 16 + 4..)?)?.0.cast_signed())
}

pub(crate) fn pending_offsets() -> Vec<u8> {
    key(PENDING_OFFSET).into_vec()
}

pub(crate) fn pending_offsets_of_group(group: &str) -> Vec<u8> {
    key(PENDING_OFFSET).string(group.as_bytes()).into_vec()
}

/// Of all producers.
pub(crate) fn pending_offsets_of_partition(
    group: &str,
    topic_id: TopicId,
    partition: u32,
) -> Vec<u8> {
    key(PENDING_OFFSET).string(group.as_bytes()).raw(&topic_id.0).u32(partition).into_vec()
}

pub(crate) fn pending_offset(
    group: &str,
    topic_id: TopicId,
    partition: u32,
    producer_id: i64,
) -> Vec<u8> {
    let mut key = pending_offsets_of_partition(group, topic_id, partition);
    key.extend_from_slice(&producer_id.to_be_bytes());
    key
}

/// Topic, partition and producer id of a pending offset's key.
pub(crate) fn pending_offset_parts(key: &[u8]) -> Option<(TopicId, u32, i64)> {
    let (_, rest) = take_string(key.get(2..)?)?;
    let (topic_id, rest) = rest.split_first_chunk::<16>()?;
    let (partition, rest) = take_u32(rest)?;
    Some((TopicId(*topic_id), partition, take_u64(rest)?.0.cast_signed()))
}
