//! Old batches in the object store.
//!
//! ```text
//!   reserve ──▶ upload (outside) ──▶ move ──▶ expire or delete ──▶ delete object (outside) ──▶ forget
//!      └── too late, or refused ─────────────────▲
//! ```
//! The machine never touches an object: it says which may exist. One is reserved before a byte of it
//! is written, so that whatever a crash leaves behind is known; its batches are deleted here in the
//! commit that says they stand there. So each batch stands in one place, and none in neither.
//!
//! An object is batches one after the other, as a consumer is sent them: offsets filled in.

use std::ops::{ControlFlow, Range};

use bytes::Bytes;
use proteus_store::{Direction, Read, StoreError};
use serde::{Deserialize, Serialize};

use crate::batch::{BatchError, BatchHeader, LENGTH_PREFIX_BYTES, split_batches};
use crate::read::{ConfigReader, StoredBatch, first_batch_key};
use crate::stored::{
    self, StoredGarbageObject, StoredObject, StoredPartition, StoredReservation, StoredTopic,
};
use crate::timers::{self, TimerSubject};
use crate::topics::existing_partition;
use crate::{Applied, Change, Refusal, Reply, TopicCtx, TopicId, keys, refuse};

/// Longest object, in bytes, but for one that has a single larger batch. `segment.bytes` of a topic may
/// make them shorter. So much is read at once, while commits wait.
pub const OBJECT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most batches of an object.
pub const OBJECT_BATCHES_MAX: usize = 4_000;
/// How long an upload may take, in milliseconds; then its object is garbage, whatever became of it.
pub const UPLOAD_MS_MAX: u64 = 15 * 60 * 1000;
/// Bytes between two entries of an object's index: what a reader reads in vain at most.
const INDEX_STEP_BYTES: u64 = 64 * 1024;
/// How long the oldest batches may be overdue before they make a short object, in milliseconds.
const SHORT_OBJECT_AFTER_MS: u64 = 60_000;
/// Objects that one firing of retention lets go.
const EXPIRED_OBJECTS_MAX: usize = 100;

/// Names an object for good; chosen at random by the proposer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectId(pub [u8; 16]);

/// An object, and whose batches it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectName {
    /// The topic.
    pub topic_id: TopicId,
    /// Partition of the topic, from 0.
    pub partition: u32,
    /// Which.
    pub object_id: ObjectId,
}

impl ObjectName {
    /// Where it stands in the object store.
    pub fn path(&self) -> String {
        let id: String = self.object_id.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("topics/v1/{}/{}/{id}", self.topic_id, self.partition)
    }
}

/// Batches that stand in an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewObject {
    /// Reserved before.
    pub object_id: ObjectId,
    /// Base offsets of its batches, in order.
    pub base_offsets: Vec<i64>,
    /// First offset after the first batch.
    pub first_end_offset: i64,
    /// First offset after the last batch.
    pub end_offset: i64,
    /// Its length.
    pub bytes: u64,
    /// Where batches stand in it.
    pub index: Vec<IndexEntry>,
}

/// Where in an object a batch stands, of one in so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexEntry {
    /// Base offset of the batch.
    pub base_offset: i64,
    /// Bytes before it.
    pub position: u64,
    /// Newest timestamp from there to the next entry, in milliseconds since the Unix epoch.
    pub max_timestamp_ms: i64,
}

impl NewObject {
    /// Of batches that follow one another, none of which is nothing.
    pub fn of(object_id: ObjectId, batches: &[StoredBatch]) -> NewObject {
        let mut object = NewObject {
            object_id,
            base_offsets: batches.iter().map(|batch| batch.base_offset).collect(),
            first_end_offset: batches.first().map_or(0, StoredBatch::end_offset),
            end_offset: batches.last().map_or(0, StoredBatch::end_offset),
            bytes: 0,
            index: Vec::new(),
        };
        for batch in batches {
            let newest_ms =
                BatchHeader::parse(&batch.bytes).map_or(i64::MIN, |header| header.max_timestamp_ms);
            match object.index.last_mut() {
                Some(last) if object.bytes < last.position + INDEX_STEP_BYTES => {
                    last.max_timestamp_ms = last.max_timestamp_ms.max(newest_ms);
                }
                _ => object.index.push(IndexEntry {
                    base_offset: batch.base_offset,
                    position: object.bytes,
                    max_timestamp_ms: newest_ms,
                }),
            }
            object.bytes += batch.bytes.len() as u64;
        }
        object
    }
}

/// A part of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRange {
    /// The object.
    pub name: ObjectName,
    /// Which bytes; they begin and end with a batch.
    pub bytes: Range<u64>,
}

/// The batches of a part of an object from the one that holds `offset` on.
///
/// # Errors
/// If these are not whole batches, or a checksum differs.
pub fn batches_of_part(part: &Bytes, offset: i64) -> Result<Vec<StoredBatch>, BatchError> {
    let mut found = Vec::new();
    for batch in split_batches(part)? {
        let header = BatchHeader::parse(&batch)?;
        header.check_crc(&batch)?;
        let base_offset = header.base_offset;
        let last_offset = header.end_offset(base_offset) - 1;
        if last_offset >= offset {
            let epoch = batch.get(LENGTH_PREFIX_BYTES..LENGTH_PREFIX_BYTES + 4);
            let epoch = epoch.and_then(|bytes| bytes.try_into().ok());
            let leader_epoch = epoch.map_or(0, i32::from_be_bytes);
            found.push(StoredBatch { base_offset, last_offset, leader_epoch, bytes: batch });
        }
    }
    Ok(found)
}

/// Promises that an object may come to be.
pub(crate) fn reserve(
    ctx: &mut TopicCtx<'_>,
    topic_id: TopicId,
    partition: u32,
    object_id: ObjectId,
) -> Applied<Reply> {
    let (topic, _) = existing_partition(ctx, topic_id, partition)?;
    let key = keys::reservation(object_id);
    if !ConfigReader(&topic.config).has_remote_storage() || ctx.get(&key)?.is_some() {
        return refuse(Refusal::NotMovable);
    }
    let reservation =
        StoredReservation { topic_id, partition, config_changes: topic.config_changes };
    ctx.put(key, stored::encode(&reservation));
    let due_at_ms = ctx.now_ms().saturating_add(UPLOAD_MS_MAX);
    timers::arm(ctx, due_at_ms, &TimerSubject::Upload { object_id });
    Ok(Reply::Done)
}

/// The batches stand in the object from now on, and no longer here.
///
/// Nothing else can have happened to them since they were read: only retention and another move take
/// batches from the front, both of which show in the partition; compaction is refused to a topic with
/// remote storage, and a change of settings voids the reservation.
pub(crate) fn move_to_object(ctx: &mut TopicCtx<'_>, object: &NewObject) -> Applied<Reply> {
    let NewObject { object_id, .. } = *object;
    let key = keys::reservation(object_id);
    let Some(reservation) = stored::get::<StoredReservation>(ctx.read(), &key)? else {
        return refuse(Refusal::NotMovable);
    };
    let StoredReservation { topic_id, partition, config_changes } = reservation;
    let (topic, mut stored) = existing_partition(ctx, topic_id, partition)?;
    let (Some(&base_offset), Some(&last)) =
        (object.base_offsets.first(), object.base_offsets.last())
    else {
        return refuse(Refusal::NotMovable);
    };
    let is_sound = object.base_offsets.len() <= OBJECT_BATCHES_MAX
        && object.base_offsets.is_sorted()
        && last < object.end_offset
        && object.index.first().is_some_and(|first| first.base_offset == base_offset);
    let is_still_there = topic.config_changes == config_changes
        && stored.log_start_offset < object.first_end_offset
        && stored.local_start_offset <= base_offset
        && object.end_offset <= stored.last_stable_offset();
    if !is_sound || !is_still_there {
        return refuse(Refusal::NotMovable);
    }
    for base_offset in &object.base_offsets {
        ctx.delete(keys::batch(topic_id, partition, *base_offset));
    }
    let entry = StoredObject {
        object_id,
        end_offset: object.end_offset,
        bytes: object.bytes,
        index: object.index.clone(),
    };
    ctx.put(keys::object(topic_id, partition, base_offset), stored::encode(&entry));
    ctx.delete(key);
    stored.bytes = stored.bytes.saturating_sub(object.bytes);
    stored.dirty_bytes = stored.dirty_bytes.saturating_sub(object.bytes);
    stored.object_bytes += object.bytes;
    stored.local_start_offset = object.end_offset;
    ctx.put(keys::partition(topic_id, partition), stored::encode(&stored));
    ctx.emit(Change::MovedToObject { topic_id, partition, local_start_offset: object.end_offset });
    Ok(Reply::Done)
}

/// An upload has taken too long: its object is garbage.
pub(crate) fn give_up(ctx: &mut TopicCtx<'_>, object_id: ObjectId) -> Applied<()> {
    let key = keys::reservation(object_id);
    if let Some(reservation) = stored::get::<StoredReservation>(ctx.read(), &key)? {
        ctx.delete(key);
        let StoredReservation { topic_id, partition, .. } = reservation;
        discard(ctx, ObjectName { topic_id, partition, object_id });
    }
    Ok(())
}

fn discard(ctx: &mut TopicCtx<'_>, name: ObjectName) {
    let ObjectName { topic_id, partition, object_id } = name;
    let garbage = StoredGarbageObject { topic_id, partition };
    ctx.put(keys::garbage_object(object_id), stored::encode(&garbage));
}

/// Objects that were deleted from the object store.
pub(crate) fn forget(ctx: &mut TopicCtx<'_>, object_ids: &[ObjectId]) -> Applied<Reply> {
    for object_id in object_ids {
        ctx.delete(keys::garbage_object(*object_id));
    }
    Ok(Reply::Removed(object_ids.len() as u64))
}

/// What retention found of a partition's objects.
pub(crate) struct ObjectRetention {
    /// When the oldest that stays is due; `None` if none stays, or not by time.
    pub(crate) next_due_at_ms: Option<u64>,
    /// Some stay: they are older than every batch here.
    pub(crate) has_objects: bool,
    /// There may be more to let go at once.
    pub(crate) has_more: bool,
}

/// Lets go of objects that need not be kept, the oldest first.
pub(crate) fn retain(
    ctx: &mut TopicCtx<'_>,
    topic_id: TopicId,
    partition: u32,
    topic: &StoredTopic,
    stored: &mut StoredPartition,
) -> Applied<ObjectRetention> {
    let mut found = ObjectRetention { next_due_at_ms: None, has_objects: false, has_more: false };
    if stored.object_bytes == 0 {
        return Ok(found);
    }
    let config = ConfigReader(&topic.config);
    let mut objects = objects(ctx.read(), topic_id, partition, EXPIRED_OBJECTS_MAX + 1)?;
    found.has_more = objects.len() > EXPIRED_OBJECTS_MAX;
    objects.truncate(EXPIRED_OBJECTS_MAX);
    for object in objects {
        let due_at_ms = config.retention_ms().map(|retention_ms| {
            u64::try_from(object.max_timestamp_ms()).unwrap_or(0).saturating_add(retention_ms)
        });
        let kept_bytes = stored.bytes + stored.object_bytes;
        let is_beyond_size = config
            .retention_bytes()
            .is_some_and(|bytes_max| kept_bytes.saturating_sub(object.bytes) >= bytes_max);
        let is_expired = object.end_offset <= stored.log_start_offset
            || due_at_ms.is_some_and(|due_at_ms| due_at_ms <= ctx.now_ms())
            || is_beyond_size;
        if !is_expired {
            found.next_due_at_ms = due_at_ms;
            found.has_objects = true;
            found.has_more = false;
            break;
        }
        ctx.delete(keys::object(topic_id, partition, object.base_offset));
        discard(ctx, object.name);
        stored.object_bytes = stored.object_bytes.saturating_sub(object.bytes);
        stored.log_start_offset = stored.log_start_offset.max(object.end_offset);
    }
    found.has_objects |= found.has_more;
    Ok(found)
}

/// Discards objects of a deleted topic, at most `count_max`: how many.
pub(crate) fn discard_of_topic(
    ctx: &mut TopicCtx<'_>,
    topic_id: TopicId,
    count_max: usize,
) -> Applied<usize> {
    let mut found: Vec<(Bytes, ObjectName)> = Vec::new();
    let mut damaged = None;
    ctx.scan_prefix(&keys::objects_of_topic(topic_id), &mut |key, value| {
        match (keys::entry_partition(key), stored::decode::<StoredObject>(key, value)) {
            (Some(partition), Ok(StoredObject { object_id, .. })) => {
                let name = ObjectName { topic_id, partition, object_id };
                found.push((Bytes::copy_from_slice(key), name));
            }
            (_, Err(error)) => damaged = Some(error),
            (None, _) => damaged = Some(StoreError::corrupt(key, "not an object")),
        }
        let may_go_on = found.len() < count_max && damaged.is_none();
        if may_go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if let Some(error) = damaged {
        return Err(error.into());
    }
    let count = found.len();
    for (key, name) in found {
        ctx.delete(key);
        discard(ctx, name);
    }
    Ok(count)
}

/// An object that has batches of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// It.
    pub name: ObjectName,
    /// Of its first batch.
    pub base_offset: i64,
    /// First offset after its last batch.
    pub end_offset: i64,
    /// Its length.
    pub bytes: u64,
    /// Never empty.
    index: Vec<IndexEntry>,
}

impl ObjectInfo {
    fn of(
        topic_id: TopicId,
        partition: u32,
        key: &[u8],
        value: &[u8],
    ) -> Result<ObjectInfo, StoreError> {
        let StoredObject { object_id, end_offset, bytes, index } = stored::decode(key, value)?;
        let base_offset =
            keys::entry_offset(key).ok_or_else(|| StoreError::corrupt(key, "not an object"))?;
        let name = ObjectName { topic_id, partition, object_id };
        Ok(ObjectInfo { name, base_offset, end_offset, bytes, index })
    }

    fn max_timestamp_ms(&self) -> i64 {
        self.index.iter().map(|entry| entry.max_timestamp_ms).max().unwrap_or(i64::MIN)
    }

    /// From the batch that holds `offset`, or before, about `bytes_max`, but at least one batch after
    /// the start.
    pub fn range_from(&self, offset: i64, bytes_max: u64) -> ObjectRange {
        let after = self.index.partition_point(|entry| entry.base_offset <= offset);
        self.range_at(after.saturating_sub(1), bytes_max)
    }

    /// Where the first batch stands that has a record at or after a time.
    pub(crate) fn range_at_time(&self, timestamp_ms: i64) -> Option<ObjectRange> {
        let place = self.index.iter().position(|entry| entry.max_timestamp_ms >= timestamp_ms)?;
        Some(self.range_at(place, 0))
    }

    fn range_at(&self, place: usize, bytes_max: u64) -> ObjectRange {
        let start = self.index.get(place).map_or(0, |entry| entry.position);
        let rest = self.index.get(place + 1..).unwrap_or_default();
        // The last entry that is still within the bound, or else the first: entries are whole batches.
        let within = rest.partition_point(|entry| entry.position - start <= bytes_max);
        let end = match rest.get(within.saturating_sub(1)) {
            _ if self.bytes - start <= bytes_max => self.bytes,
            Some(entry) => entry.position,
            None => self.bytes,
        };
        ObjectRange { name: self.name, bytes: start..end }
    }
}

fn objects(
    state: &dyn Read,
    topic_id: TopicId,
    partition: u32,
    count_max: usize,
) -> Result<Vec<ObjectInfo>, StoreError> {
    let mut objects = Vec::new();
    let mut damaged = None;
    state.scan_prefix(&keys::objects(topic_id, partition), &mut |key, value| {
        match ObjectInfo::of(topic_id, partition, key, value) {
            Ok(object) => objects.push(object),
            Err(error) => damaged = Some(error),
        }
        let may_go_on = objects.len() < count_max && damaged.is_none();
        if may_go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    damaged.map_or(Ok(objects), Err)
}

/// The object with the batch that holds `offset`, or, if none does, with the next one; `None` if that
/// is not in an object.
pub(crate) fn object_at(
    state: &dyn Read,
    topic_id: TopicId,
    partition: u32,
    offset: i64,
) -> Result<Option<ObjectInfo>, StoreError> {
    let first = keys::objects(topic_id, partition);
    let end = proteus_store::prefix_end(&first);
    let after = keys::object(topic_id, partition, offset.saturating_add(1));
    let looks = [(&first, &after, Direction::Descending), (&after, &end, Direction::Ascending)];
    for (start, end, direction) in looks {
        let mut found = None;
        state.scan(start, end, direction, &mut |key, value| {
            found = Some(ObjectInfo::of(topic_id, partition, key, value));
            ControlFlow::Break(())
        })?;
        if let Some(object) = found.transpose()?
            && object.end_offset > offset
        {
            return Ok(Some(object));
        }
    }
    Ok(None)
}

/// Batches of a partition that are to move to an object, from the first on, about `bytes_max` of them:
/// none while they would make a short object that can wait.
///
/// # Errors
/// If the store fails.
pub fn movable_batches(
    state: &dyn Read,
    topic_id: TopicId,
    partition: u32,
    now_ms: u64,
) -> Result<Vec<StoredBatch>, StoreError> {
    let Some(topic) = stored::get::<StoredTopic>(state, &keys::topic(topic_id))? else {
        return Ok(Vec::new());
    };
    let key = keys::partition(topic_id, partition);
    let Some(stored) = stored::get::<StoredPartition>(state, &key)? else {
        return Ok(Vec::new());
    };
    let config = ConfigReader(&topic.config);
    let (local_ms, local_bytes) = (config.local_retention_ms(), config.local_retention_bytes());
    if !config.has_remote_storage() || (local_ms.is_none() && local_bytes.is_none()) {
        return Ok(Vec::new());
    }
    let object_bytes = config.segment_bytes().min(OBJECT_BYTES_MAX);
    let start = stored.local_start_offset.max(stored.log_start_offset);
    let mut batches: Vec<StoredBatch> = Vec::new();
    let (mut bytes, mut overdue_ms, mut is_full) = (0u64, 0u64, false);
    let mut damaged = None;
    state.scan(
        &first_batch_key(state, topic_id, partition, start)?,
        &keys::batch(topic_id, partition, stored.last_stable_offset()),
        Direction::Ascending,
        &mut |key, value| {
            let parsed = (keys::batch_base_offset(key), BatchHeader::parse(value));
            let (Some(base_offset), Ok(header)) = parsed else {
                damaged = Some(StoreError::corrupt(key, "not a record batch"));
                return ControlFlow::Break(());
            };
            if header.end_offset(base_offset) <= start {
                // Retention is about to take it.
                return ControlFlow::Continue(());
            }
            let length = value.len() as u64;
            let newest_ms = u64::try_from(header.max_timestamp_ms).unwrap_or(0);
            let due_at_ms = local_ms.map(|local_ms| newest_ms.saturating_add(local_ms));
            let late_ms = due_at_ms.and_then(|due_at_ms| now_ms.checked_sub(due_at_ms));
            let left_bytes = stored.bytes.saturating_sub(bytes + length);
            let is_beyond_size = local_bytes.is_some_and(|bytes_max| left_bytes >= bytes_max);
            if late_ms.is_none() && !is_beyond_size {
                return ControlFlow::Break(());
            }
            overdue_ms = overdue_ms.max(late_ms.unwrap_or(0));
            bytes += length;
            batches.push(StoredBatch {
                base_offset,
                last_offset: header.end_offset(base_offset) - 1,
                leader_epoch: stored.epoch_at(base_offset),
                bytes: value.clone(),
            });
            is_full = bytes >= object_bytes || batches.len() == OBJECT_BATCHES_MAX;
            if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        },
    )?;
    if !is_full && overdue_ms < SHORT_OBJECT_AFTER_MS {
        batches.clear();
    }
    damaged.map_or(Ok(batches), Err)
}

/// Objects that are to be deleted from the object store, at most `count_max`.
///
/// # Errors
/// If the store fails.
pub fn garbage_objects(state: &dyn Read, count_max: usize) -> Result<Vec<ObjectName>, StoreError> {
    let mut garbage = Vec::new();
    let mut damaged = None;
    state.scan_prefix(&keys::garbage_objects(), &mut |key, value| {
        match (keys::garbage_object_id(key), stored::decode::<StoredGarbageObject>(key, value)) {
            (Some(object_id), Ok(StoredGarbageObject { topic_id, partition })) => {
                garbage.push(ObjectName { topic_id, partition, object_id });
            }
            (_, Err(error)) => damaged = Some(error),
            (None, _) => damaged = Some(StoreError::corrupt(key, "not an object")),
        }
        let may_go_on = garbage.len() < count_max && damaged.is_none();
        if may_go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    damaged.map_or(Ok(garbage), Err)
}
