//! What readers may ask. Each function reads at one moment and touches no more than it says.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_store::{Direction, Read, StoreError, prefix_end};
use proteus_types::Term;

use crate::batch::{BatchHeader, decode_records};
use crate::stored::{
    self, StoredAborted, StoredOffset, StoredPartition, StoredProducer, StoredTopic,
    StoredTransaction,
};
use crate::tiering::{self, ObjectRange};
use crate::{TopicId, TransactionState, keys};

pub use crate::config::ConfigReader;

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its id.
    pub topic_id: TopicId,
    /// Its name.
    pub name: String,
    /// Partitions are numbered from 0 to below this.
    pub partition_count: u32,
    /// Settings by name; those not set have their defaults.
    pub config: BTreeMap<String, String>,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: u64,
}

/// A partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionInfo {
    /// First offset that may be read, inclusive.
    pub log_start_offset: i64,
    /// First offset not yet there: the end, exclusive, of what may be read.
    pub high_watermark: i64,
    /// The end, exclusive, of what is decided: no transaction that is open began before.
    pub last_stable_offset: i64,
    /// First offset that is in no object.
    pub local_start_offset: i64,
    /// Of all batches kept here.
    pub bytes: u64,
    /// Of all batches kept in objects.
    pub object_bytes: u64,
}

/// A batch and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBatch {
    /// Offset of its first record.
    pub base_offset: i64,
    /// Offset of its last record.
    pub last_offset: i64,
    /// Under which leader it was appended.
    pub leader_epoch: i32,
    /// As its producer sent it; see [`put_batch`](crate::batch::put_batch).
    pub bytes: Bytes,
}

impl StoredBatch {
    /// First offset after the batch.
    pub fn end_offset(&self) -> i64 {
        self.last_offset.saturating_add(1)
    }
}

/// A group's committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// Offset of the next record to consume.
    pub offset: i64,
    /// Leader epoch of the last record consumed; -1 if unknown.
    pub leader_epoch: i32,
    /// The consumer's own note.
    pub metadata: String,
}

/// How much [`read_batches`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadLimit {
    /// Whole batches that together have at most so many bytes.
    Bytes(usize),
    /// Likewise, but the first batch whatever its length, so that a reader always gets on.
    BytesOrFirst(usize),
}

/// Entries of the time index, and batches after one, that a search looks at: more than one only
/// where compaction has been at work.
const TIME_ENTRIES_MAX: usize = 64;
const TIME_BATCHES_MAX: usize = 1_000;

/// The topic called `name`.
///
/// # Errors
/// If the store fails.
pub fn topic_by_name(state: &dyn Read, name: &str) -> Result<Option<TopicInfo>, StoreError> {
    let key = keys::topic_by_name(name);
    let Some(value) = state.get(&key)? else {
        return Ok(None);
    };
    topic(state, stored::decode_topic_id(&key, &value)?)
}

/// The topic with this id.
///
/// # Errors
/// If the store fails.
pub fn topic(state: &dyn Read, topic_id: TopicId) -> Result<Option<TopicInfo>, StoreError> {
    let stored: Option<StoredTopic> = stored::get(state, &keys::topic(topic_id))?;
    Ok(stored.map(|stored| TopicInfo {
        topic_id,
        name: stored.name,
        partition_count: stored.partition_count,
        config: stored.config,
        created_at_ms: stored.created_at_ms,
    }))
}

/// All topics, by name. For a reader that holds up nobody: others take [`topics_after`] in turns.
///
/// # Errors
/// If the store fails.
pub fn topics(state: &dyn Read) -> Result<Vec<TopicInfo>, StoreError> {
    topics_after(state, None, usize::MAX)
}

/// Topics whose names come after `after` (exclusive), by name, at most `count_max`.
///
/// # Errors
/// If the store fails.
pub fn topics_after(
    state: &dyn Read,
    after: Option<&str>,
    count_max: usize,
) -> Result<Vec<TopicInfo>, StoreError> {
    let prefix = keys::topics_by_name();
    let mut start = after.map_or(prefix.clone(), keys::topic_by_name);
    if after.is_some() {
        // The first key after the name itself.
        start.push(0);
    }
    let mut ids = Vec::new();
    let mut damaged = None;
    state.scan(&start, &prefix_end(&prefix), Direction::Ascending, &mut |key, value| {
        if ids.len() >= count_max {
            return ControlFlow::Break(());
        }
        match stored::decode_topic_id(key, value) {
            Ok(topic_id) => ids.push(topic_id),
            Err(error) => damaged = Some(error),
        }
        ControlFlow::Continue(())
    })?;
    if let Some(error) = damaged {
        return Err(error);
    }
    let mut topics = Vec::with_capacity(ids.len());
    for topic_id in ids {
        topics.extend(topic(state, topic_id)?);
    }
    Ok(topics)
}

/// One partition; `None` if there is no such topic or partition.
///
/// # Errors
/// If the store fails.
pub fn partition(
    state: &dyn Read,
    topic_id: TopicId,
    partition: u32,
) -> Result<Option<PartitionInfo>, StoreError> {
    // A deleted topic's partitions remain until they are swept.
    if state.get(&keys::topic(topic_id))?.is_none() {
        return Ok(None);
    }
    let stored: Option<StoredPartition> =
        stored::get(state, &keys::partition(topic_id, partition))?;
    Ok(stored.map(|stored| PartitionInfo {
        log_start_offset: stored.log_start_offset,
        high_watermark: stored.next_offset,
        last_stable_offset: stored.last_stable_offset(),
        local_start_offset: stored.local_start_offset.max(stored.log_start_offset),
        bytes: stored.bytes,
        object_bytes: stored.object_bytes,
    }))
}

/// A term of the shard as the protocol's leader epoch.
pub fn leader_epoch(term: Term) -> i32 {
    i32::try_from(term.0).unwrap_or(i32::MAX)
}

/// The last leader epoch up to `epoch`, and where it ended (exclusive), when `current` is the one that
/// goes on; `None` if the partition knows none.
///
/// # Errors
/// If the store fails.
pub fn end_of_epoch(
    state: &dyn Read,
    topic_id: TopicId,
    partition: u32,
    epoch: i32,
    current: i32,
) -> Result<Option<(i32, i64)>, StoreError> {
    let key = keys::partition(topic_id, partition);
    let Some(stored) = stored::get::<StoredPartition>(state, &key)? else {
        return Ok(None);
    };
    if epoch < 0 || epoch > current {
        return Ok(None);
    }
    if epoch == current {
        return Ok(Some((epoch, stored.next_offset)));
    }
    let after = stored.epochs.partition_point(|one| one.epoch <= epoch);
    let end_offset = stored.epochs.get(after).map_or(stored.next_offset, |next| next.start_offset);
    let last = after.checked_sub(1).and_then(|before| stored.epochs.get(before));
    Ok(Some((last.map_or(epoch, |last| last.epoch), end_offset)))
}

/// What stands in a partition from an offset on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stretch {
    /// It is here.
    Here(Vec<StoredBatch>),
    /// It is in an object, which may also have batches before the offset.
    InObject(ObjectRange),
}

impl Stretch {
    /// The batches that are here; `None` if they are in an object.
    pub fn here(self) -> Option<Vec<StoredBatch>> {
        match self {
            Stretch::Here(batches) => Some(batches),
            Stretch::InObject(_) => None,
        }
    }
}

/// Batches of a partition from the one that holds `offset` to before `end_offset`, as `limit` says.
/// None if `offset` is at or after the end. Records before `offset` in the first batch are the reader's to skip.
///
/// # Errors
/// If the store fails.
pub fn read_batches(
    state: &dyn Read,
    topic_id: TopicId,
    partition: u32,
    offset: i64,
    end_offset: i64,
    limit: ReadLimit,
) -> Result<Stretch, StoreError> {
    let (bytes_max, takes_first) = match limit {
        ReadLimit::Bytes(bytes_max) => (bytes_max, false),
        ReadLimit::BytesOrFirst(bytes_max) => (bytes_max, true),
    };
    let key = keys::partition(topic_id, partition);
    let stored: Option<StoredPartition> = stored::get(state, &key)?;
    let Some(stored) = stored else {
        return Ok(Stretch::Here(Vec::new()));
    };
    if offset < stored.local_start_offset
        && offset < end_offset
        && let Some(object) = tiering::object_at(state, topic_id, partition, offset)?
    {
        return Ok(Stretch::InObject(object.range_from(offset, bytes_max as u64)));
    }
    let mut batches: Vec<StoredBatch> = Vec::new();
    let mut bytes = 0usize;
    let mut damaged = None;
    let start = first_batch_key(state, topic_id, partition, offset)?;
    let end = keys::batch(topic_id, partition, end_offset);
    state.scan(&start, &end, Direction::Ascending, &mut |key, value| {
        let fits = bytes.saturating_add(value.len()) <= bytes_max;
        let is_first = takes_first && batches.is_empty();
        if !fits && !is_first {
            return ControlFlow::Break(());
        }
        match (keys::batch_base_offset(key), BatchHeader::parse(value)) {
            (Some(base_offset), Ok(header)) => {
                // Where the batch that held the offset was deleted, the next one follows.
                let end_offset = header.end_offset(base_offset);
                if end_offset > offset {
                    bytes += value.len();
                    let last_offset = end_offset - 1;
                    let leader_epoch = stored.epoch_at(base_offset);
                    let bytes = value.clone();
                    batches.push(StoredBatch { base_offset, last_offset, leader_epoch, bytes });
                }
                ControlFlow::Continue(())
            }
            _ => {
                damaged = Some(StoreError::corrupt(key, "not a record batch"));
                ControlFlow::Break(())
            }
        }
    })?;
    damaged.map_or(Ok(Stretch::Here(batches)), Err)
}

/// A transaction that was aborted in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Its producer.
    pub producer_id: i64,
    /// Offset of its first record.
    pub first_offset: i64,
    /// Offset of its marker.
    pub marker_offset: i64,
}

impl AbortedTransaction {
    /// Whether the batch with this header at `base_offset` belongs to it.
    pub fn covers(&self, header: &BatchHeader, base_offset: i64) -> bool {
        header.is_transactional()
            && header.producer_id == self.producer_id
            && (self.first_offset..self.marker_offset).contains(&base_offset)
    }
}

/// Aborted transactions that have records from `offset` (inclusive) to `end_offset` (exclusive), in
/// the order of their ends.
///
/// # Errors
/// If the store fails.
pub fn aborted_transactions(
    state: &dyn Read,
    topic_id: TopicId,
    partition: u32,
    offset: i64,
    end_offset: i64,
) -> Result<Vec<AbortedTransaction>, StoreError> {
    let mut aborted = Vec::new();
    let mut damaged = None;
    let start = keys::aborted(topic_id, partition, offset);
    let end = keys::aborted_end(topic_id, partition);
    state.scan(&start, &end, Direction::Ascending, &mut |key, value| {
        let decoded = stored::decode::<StoredAborted>(key, value);
        let (Some(marker_offset), Ok(found)) = (keys::entry_offset(key), decoded) else {
            damaged = Some(StoreError::corrupt(key, "not an aborted transaction"));
            return ControlFlow::Break(());
        };
        let StoredAborted { producer_id, first_offset, last_stable_offset } = found;
        if first_offset < end_offset {
            aborted.push(AbortedTransaction { producer_id, first_offset, marker_offset });
        }
        // Whatever ends later began later than all that was wanted.
        if last_stable_offset >= end_offset {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    damaged.map_or(Ok(aborted), Err)
}

/// Key of the last batch that begins at or before `offset`, or of where it would stand.
pub(crate) fn first_batch_key(
    state: &dyn Read,
    topic_id: TopicId,
    partition: u32,
    offset: i64,
) -> Result<Vec<u8>, StoreError> {
    let mut first = keys::batch(topic_id, partition, offset);
    let start = keys::batch(topic_id, partition, 0);
    let end = keys::batch(topic_id, partition, offset.saturating_add(1));
    state.scan(&start, &end, Direction::Descending, &mut |key, _| {
        first = key.to_vec();
        ControlFlow::Break(())
    })?;
    Ok(first)
}

/// Where a record stands that was looked for by its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AtTime {
    /// It has this offset and timestamp.
    Record(i64, i64),
    /// It is the first in this part of an object that is at or after a time.
    InObject(ObjectRange, i64),
}

/// The first record, by offset, that is at or after `timestamp_ms`. `None` if there is none.
/// Decompresses one batch at most.
///
/// # Errors
/// If the store fails.
pub fn offset_at_time(
    state: &dyn Read,
    topic_id: TopicId,
    partition: u32,
    timestamp_ms: i64,
) -> Result<Option<AtTime>, StoreError> {
    let start = keys::time(topic_id, partition, timestamp_ms, 0);
    time_entry(state, topic_id, partition, &start, Direction::Ascending, timestamp_ms)
}

/// The newest record, by timestamp. `None` if the partition is empty.
///
/// # Errors
/// If the store fails.
pub fn offset_of_newest(
    state: &dyn Read,
    topic_id: TopicId,
    partition: u32,
) -> Result<Option<AtTime>, StoreError> {
    let start = keys::time(topic_id, partition, i64::MIN, 0);
    time_entry(state, topic_id, partition, &start, Direction::Descending, i64::MIN)
}

/// The first record at or after `timestamp_ms` that a time entry leads to, or, descending, the
/// newest. Where compaction took the batch of an entry away, what follows it is looked at.
fn time_entry(
    state: &dyn Read,
    topic_id: TopicId,
    partition: u32,
    start: &[u8],
    direction: Direction,
    timestamp_ms: i64,
) -> Result<Option<AtTime>, StoreError> {
    let key = keys::partition(topic_id, partition);
    let Some(stored) = stored::get::<StoredPartition>(state, &key)? else {
        return Ok(None);
    };
    let mut entries = Vec::new();
    state.scan(start, &keys::time_end(topic_id, partition), direction, &mut |key, _| {
        entries.extend(keys::time_parts(key));
        if entries.len() < TIME_ENTRIES_MAX {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    for (max_timestamp_ms, base_offset) in entries {
        let wanted_ms = match direction {
            Direction::Ascending => timestamp_ms,
            Direction::Descending => max_timestamp_ms,
        };
        if base_offset < stored.local_start_offset
            && let Some(object) = tiering::object_at(state, topic_id, partition, base_offset)?
            && let Some(range) = object.range_at_time(wanted_ms)
        {
            return Ok(Some(AtTime::InObject(range, wanted_ms)));
        }
        let found = record_at_time(state, topic_id, partition, base_offset, wanted_ms)?;
        if let Some((offset, timestamp_ms)) = found {
            return Ok(Some(AtTime::Record(offset, timestamp_ms)));
        }
    }
    Ok(None)
}

/// The first record at or after `wanted_ms` among the batches from `base_offset` on, as far as one
/// look goes.
fn record_at_time(
    state: &dyn Read,
    topic_id: TopicId,
    partition: u32,
    base_offset: i64,
    wanted_ms: i64,
) -> Result<Option<(i64, i64)>, StoreError> {
    let start = keys::batch(topic_id, partition, base_offset);
    let end = keys::batch(topic_id, partition, i64::MAX);
    let mut found = None;
    let mut count = 0;
    state.scan(&start, &end, Direction::Ascending, &mut |key, batch| {
        count += 1;
        let parsed = (keys::batch_base_offset(key), BatchHeader::parse(batch));
        if let (Some(base_offset), Ok(header)) = parsed {
            found = record_of_batch(batch, &header, base_offset, wanted_ms);
            if found.is_some() {
                return ControlFlow::Break(());
            }
        }
        if count < TIME_BATCHES_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(found)
}

/// The first record of a batch that is at or after a time: its offset and timestamp.
pub fn record_of_batch(
    batch: &Bytes,
    header: &BatchHeader,
    base_offset: i64,
    wanted_ms: i64,
) -> Option<(i64, i64)> {
    if header.max_timestamp_ms < wanted_ms {
        return None;
    }
    // Records that cannot be read are their producer's doing; the batch's own start stands for them.
    let record = decode_records(batch, base_offset).ok().and_then(|mut records| {
        records.find_map(|record| {
            let record = record.ok()?;
            let is_found = record.timestamp_ms >= wanted_ms;
            is_found.then_some((record.offset, record.timestamp_ms))
        })
    });
    Some(record.unwrap_or((base_offset, header.max_timestamp_ms)))
}

/// What a group committed for a partition.
///
/// # Errors
/// If the store fails.
pub fn committed_offset(
    state: &dyn Read,
    group: &str,
    topic_id: TopicId,
    partition: u32,
) -> Result<Option<CommittedOffset>, StoreError> {
    let stored: Option<StoredOffset> =
        stored::get(state, &keys::offset(group, topic_id, partition))?;
    Ok(stored.map(|stored| CommittedOffset {
        offset: stored.offset,
        leader_epoch: stored.leader_epoch,
        metadata: stored.metadata,
    }))
}

/// Whether a transaction that goes on may set the group's offset.
///
/// # Errors
/// If the store fails.
pub fn has_pending_offset(
    state: &dyn Read,
    group: &str,
    topic_id: TopicId,
    partition: u32,
) -> Result<bool, StoreError> {
    let mut is_pending = false;
    let prefix = keys::pending_offsets_of_partition(group, topic_id, partition);
    state.scan_prefix(&prefix, &mut |_, _| {
        is_pending = true;
        ControlFlow::Break(())
    })?;
    Ok(is_pending)
}

/// A producer that writes to a partition, as far as it numbers its batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerInfo {
    /// Its id.
    pub producer_id: i64,
    /// Its newest epoch.
    pub epoch: i16,
    /// Of its newest record; -1 if it has written none in this epoch.
    pub last_sequence: i32,
    /// Milliseconds since the Unix epoch.
    pub last_append_at_ms: u64,
    /// First offset of its transaction that is open here.
    pub open_since: Option<i64>,
}

/// Producers of a partition, at most `count_max`, by their ids.
///
/// # Errors
/// If the store fails.
pub fn producers(
    state: &dyn Read,
    topic_id: TopicId,
    partition: u32,
    count_max: usize,
) -> Result<Vec<ProducerInfo>, StoreError> {
    let mut producers = Vec::new();
    let mut damaged = None;
    state.scan_prefix(&keys::producers(topic_id, partition), &mut |key, value| {
        let decoded = stored::decode::<StoredProducer>(key, value);
        let (Some(producer_id), Ok(found)) = (keys::producer_id(key), decoded) else {
            damaged = Some(StoreError::corrupt(key, "not a producer"));
            return ControlFlow::Break(());
        };
        producers.push(ProducerInfo {
            producer_id,
            epoch: found.epoch,
            last_sequence: found.batches.back().map_or(-1, |batch| batch.last_sequence),
            last_append_at_ms: found.last_append_at_ms,
            open_since: found.open_since,
        });
        if producers.len() < count_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    damaged.map_or(Ok(producers), Err)
}

/// A transactional producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionInfo {
    /// Names it across its restarts.
    pub transactional_id: String,
    /// Its id.
    pub producer_id: i64,
    /// Its newest epoch.
    pub epoch: i16,
    /// What has become of its newest transaction.
    pub state: TransactionState,
    /// Milliseconds after which a transaction is aborted.
    pub timeout_ms: u64,
    /// When the transaction that goes on began, in milliseconds since the Unix epoch.
    pub started_at_ms: Option<u64>,
    /// Partitions of the transaction that goes on.
    pub partitions: Vec<(TopicId, u32)>,
}

/// The transactional producer called `transactional_id`.
///
/// # Errors
/// If the store fails.
pub fn transaction(
    state: &dyn Read,
    transactional_id: &str,
) -> Result<Option<TransactionInfo>, StoreError> {
    let key = keys::transactional_id(transactional_id);
    let Some(producer_id) = stored::get::<i64>(state, &key)? else {
        return Ok(None);
    };
    let found: Option<StoredTransaction> = stored::get(state, &keys::transaction(producer_id))?;
    let Some(found) = found else {
        return Ok(None);
    };
    let mut partitions = Vec::new();
    state.scan_prefix(&keys::transaction_partitions(producer_id), &mut |key, _| {
        partitions.extend(keys::transaction_partition_parts(key));
        ControlFlow::Continue(())
    })?;
    let is_ongoing = found.state == TransactionState::Ongoing;
    Ok(Some(TransactionInfo {
        transactional_id: found.transactional_id,
        producer_id,
        epoch: found.epoch,
        state: found.state,
        timeout_ms: found.timeout_ms,
        started_at_ms: is_ongoing.then_some(found.started_at_ms),
        partitions,
    }))
}

/// Transactional ids after `after` (exclusive), in order, at most `count_max`.
///
/// # Errors
/// If the store fails.
pub fn transactional_ids_after(
    state: &dyn Read,
    after: Option<&str>,
    count_max: usize,
) -> Result<Vec<String>, StoreError> {
    let prefix = keys::transactional_ids();
    let mut start = after.map_or(prefix.clone(), keys::transactional_id);
    if after.is_some() {
        // The first key after the id itself.
        start.push(0);
    }
    let mut ids = Vec::new();
    state.scan(&start, &prefix_end(&prefix), Direction::Ascending, &mut |key, _| {
        if ids.len() >= count_max {
            return ControlFlow::Break(());
        }
        let id = key.get(prefix.len()..).unwrap_or_default();
        ids.push(String::from_utf8_lossy(id).into_owned());
        ControlFlow::Continue(())
    })?;
    Ok(ids)
}

/// All partitions for which a group committed an offset.
///
/// # Errors
/// If the store fails.
pub fn committed_partitions(
    state: &dyn Read,
    group: &str,
) -> Result<Vec<(TopicId, u32)>, StoreError> {
    let mut partitions = Vec::new();
    each_offset(state, &keys::offsets_of_group(group), &mut |key, _| {
        if let Some((_, topic_id, partition)) = keys::offset_parts(key) {
            partitions.push((topic_id, partition));
        }
    })?;
    Ok(partitions)
}

/// Groups that have committed offsets and whose names come after `after` (exclusive), at most
/// `count_max`, in the order of their names.
///
/// # Errors
/// If the store fails.
pub fn groups_after(
    state: &dyn Read,
    after: Option<&str>,
    count_max: usize,
) -> Result<Vec<String>, StoreError> {
    groups_under(state, &keys::offsets(), keys::offsets_of_group, after, count_max)
}

/// Groups with keys under `prefix`, each of which has its own under `of_group`.
pub(crate) fn groups_under(
    state: &dyn Read,
    prefix: &[u8],
    of_group: fn(&str) -> Vec<u8>,
    after: Option<&str>,
    count_max: usize,
) -> Result<Vec<String>, StoreError> {
    let mut groups: Vec<String> = Vec::new();
    let end = prefix_end(prefix);
    let past = |group: &str| prefix_end(&of_group(group));
    let mut start = after.map_or(prefix.to_vec(), past);
    while groups.len() < count_max {
        let mut found = None;
        state.scan(&start, &end, Direction::Ascending, &mut |key, _| {
            found = keys::offset_parts(key);
            ControlFlow::Break(())
        })?;
        let Some((group, _, _)) = found else {
            break;
        };
        start = past(&group);
        groups.push(group);
    }
    Ok(groups)
}

/// Calls `visit` with the key and topic of each committed offset under `prefix`.
pub(crate) fn each_offset(
    state: &dyn Read,
    prefix: &[u8],
    visit: &mut dyn FnMut(&[u8], TopicId),
) -> Result<(), StoreError> {
    state.scan_prefix(prefix, &mut |key, _| {
        if let Some((_, topic_id, _)) = keys::offset_parts(key) {
            visit(key, topic_id);
        }
        ControlFlow::Continue(())
    })
}
