//! The values under this machine's keys: a version byte, then the value in postcard.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use proteus_store::{Read, StoreError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::tiering::{IndexEntry, ObjectId};
use crate::{TopicId, TransactionState};

/// Version of every value below.
const FORMAT_VERSION: u8 = 1;

/// Batches that a producer may send again and be told where they stand; Kafka clients keep at most
/// so many in flight.
pub(crate) const PRODUCER_BATCHES_MAX: usize = 5;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredTopic {
    pub name: String,
    pub partition_count: u32,
    pub config: BTreeMap<String, String>,
    pub created_at_ms: u64,
    /// How often its settings were changed.
    pub config_changes: u64,
}

/// log_start_offset ≤ next_offset. Batches below the log start may remain for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredPartition {
    /// First offset that may be read, inclusive.
    pub log_start_offset: i64,
    /// First offset not yet there.
    pub next_offset: i64,
    /// Of all batches kept.
    pub bytes: u64,
    /// Newest timestamp of all batches ever appended; `i64::MIN` before the first.
    pub max_timestamp_ms: i64,
    /// When retention looks at the partition next; 0 if nothing is to be retained.
    pub retention_due_at_ms: u64,
    /// First offset of the earliest transaction that is open here.
    pub first_open_offset: Option<i64>,
    /// Where the last compaction ended.
    pub cleaned_upto: i64,
    /// Bytes appended since.
    pub dirty_bytes: u64,
    /// When compaction looks at the partition next; 0 if it need not.
    pub compaction_due_at_ms: u64,
    /// First offset that is in no object.
    pub local_start_offset: i64,
    /// Of all objects.
    pub object_bytes: u64,
    /// Where batches of a leader's term begin, by both; at most [`EPOCHS_MAX`].
    pub epochs: Vec<EpochStart>,
}

/// Where the batches of one leader epoch begin: it is the term of who proposed them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EpochStart {
    pub epoch: i32,
    /// Of its first batch.
    pub start_offset: i64,
}

/// Leader epochs of a partition that are told apart; of more, the oldest count as one.
pub(crate) const EPOCHS_MAX: usize = 64;

impl StoredPartition {
    pub(crate) fn empty() -> StoredPartition {
        StoredPartition {
            log_start_offset: 0,
            next_offset: 0,
            bytes: 0,
            max_timestamp_ms: i64::MIN,
            retention_due_at_ms: 0,
            first_open_offset: None,
            cleaned_upto: 0,
            dirty_bytes: 0,
            compaction_due_at_ms: 0,
            local_start_offset: 0,
            object_bytes: 0,
            epochs: Vec::new(),
        }
    }

    /// Notes that a batch of this epoch is about to be appended.
    pub(crate) fn note_epoch(&mut self, epoch: i32) {
        if self.epochs.last().is_some_and(|last| last.epoch >= epoch) {
            return;
        }
        let log_start_offset = self.log_start_offset;
        let before = self.epochs.partition_point(|one| one.start_offset <= log_start_offset);
        // Of what is before the log start one entry is enough: that of the first batch.
        self.epochs.drain(..before.saturating_sub(1));
        if self.epochs.len() == EPOCHS_MAX {
            let oldest = self.epochs.remove(0);
            if let Some(first) = self.epochs.first_mut() {
                first.start_offset = oldest.start_offset;
            }
        }
        self.epochs.push(EpochStart { epoch, start_offset: self.next_offset });
    }

    /// The leader epoch of the batch at an offset.
    pub(crate) fn epoch_at(&self, offset: i64) -> i32 {
        let after = self.epochs.partition_point(|one| one.start_offset <= offset);
        let found = self.epochs.get(after.saturating_sub(1));
        found.map_or(0, |one| one.epoch)
    }

    /// End, exclusive, of what is decided: everything before belongs to no transaction, or to one
    /// that has ended.
    pub(crate) fn last_stable_offset(&self) -> i64 {
        self.first_open_offset.map_or(self.next_offset, |first| first.max(self.log_start_offset))
    }
}

/// What is known of a producer in one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredProducer {
    pub epoch: i16,
    /// The newest last; at most [`PRODUCER_BATCHES_MAX`]. Empty after the marker of a new epoch.
    pub batches: VecDeque<ProducedBatch>,
    pub last_append_at_ms: u64,
    /// First offset of its transaction that is open here.
    pub open_since: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProducedBatch {
    /// Inclusive, as is the last.
    pub first_sequence: i32,
    pub last_sequence: i32,
    pub base_offset: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredOffset {
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
    pub committed_at_ms: u64,
}

/// A transactional producer. Under its producer id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredTransaction {
    pub transactional_id: String,
    pub epoch: i16,
    /// Producer id and epoch before the last bump, so that a request sent again is recognised.
    pub previous: Option<(i64, i16)>,
    pub timeout_ms: u64,
    pub state: TransactionState,
    /// Of the transaction that goes on, or went on last.
    pub started_at_ms: u64,
    pub updated_at_ms: u64,
    /// Groups whose offsets it will commit.
    pub groups: BTreeSet<String>,
}

/// A transaction that was aborted in a partition. Under the offset of its marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredAborted {
    pub producer_id: i64,
    pub first_offset: i64,
    /// The last stable offset once it had ended: all transactions that began before it had ended.
    pub last_stable_offset: i64,
}

/// An object with batches of a partition. Under the base offset of the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredObject {
    pub object_id: ObjectId,
    /// First offset after its last batch.
    pub end_offset: i64,
    pub bytes: u64,
    /// By base offset; never empty.
    pub index: Vec<IndexEntry>,
}

/// An object that may come to be. Under its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredReservation {
    pub topic_id: TopicId,
    pub partition: u32,
    /// Of the topic, when it was made.
    pub config_changes: u64,
}

/// An object that nobody needs. Under its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredGarbageObject {
    pub topic_id: TopicId,
    pub partition: u32,
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Bytes {
    // Encoding plain data into a growing buffer has no way to fail.
    Bytes::from(postcard::to_extend(value, vec![FORMAT_VERSION]).expect("plain data encodes"))
}

pub(crate) fn decode<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, StoreError> {
    match value.split_first() {
        Some((&FORMAT_VERSION, rest)) => postcard::from_bytes(rest)
            .map_err(|error| StoreError::corrupt(key, format!("not readable: {error}"))),
        Some((version, _)) => Err(StoreError::corrupt(
            key,
            format!("version {version} of the format, but this binary reads {FORMAT_VERSION}"),
        )),
        None => Err(StoreError::corrupt(key, "empty")),
    }
}

pub(crate) fn get<T: DeserializeOwned>(
    state: &dyn Read,
    key: &[u8],
) -> Result<Option<T>, StoreError> {
    state.get(key)?.map(|value| decode(key, &value)).transpose()
}

/// The topic id under a topic's name.
pub(crate) fn decode_topic_id(key: &[u8], value: &[u8]) -> Result<TopicId, StoreError> {
    decode::<TopicId>(key, value)
}
