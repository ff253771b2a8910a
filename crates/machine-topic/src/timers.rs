//! What happens because time passed: retention, compaction, and forgetting idle producers.
//!
//! A timer is a key that sorts by when it is due. The leader proposes those that are; firing removes
//! the key, acts, and may set the next. One whose key is gone does nothing.

use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_machine::key::{first_u64, has_any};
use proteus_machine::{Machine, View};
use proteus_store::{Read, StoreError};
use serde::{Deserialize, Serialize};

use crate::Topic;
use crate::batch::BatchHeader;
use crate::read::ConfigReader;
use crate::stored::{self, StoredPartition, StoredProducer, StoredTopic};
use crate::tiering::ObjectRetention;
use crate::topics::existing_partition;
use crate::{
    Applied, Change, Op, Refusal, Reply, TopicCtx, TopicId, compaction, keys, refuse, tiering,
    transactions,
};

/// How long an idle producer's numbers are remembered, as Kafka's
/// `transactional.id.expiration`-independent `producer.id.expiration.ms`: one day.
pub(crate) const PRODUCER_EXPIRY_MS: u64 = 24 * 60 * 60 * 1000;
/// How long a transactional id that nobody uses is remembered, as Kafka's
/// `transactional.id.expiration.ms`: seven days.
pub(crate) const TRANSACTIONAL_ID_EXPIRY_MS: u64 = 7 * PRODUCER_EXPIRY_MS;
/// How often retention looks at a partition at least, as Kafka's `log.retention.check.interval.ms`.
const RETENTION_INTERVAL_MS: u64 = 5 * 60 * 1000;
/// How long it waits at most: a timer outlives its topic.
const RETENTION_INTERVAL_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// How soon it looks again at the earliest, so that a stream of small batches is deleted in bunches.
const RETENTION_INTERVAL_MS_MIN: u64 = 1_000;
/// Batches that one firing removes, so that it does not hold up the log.
const RETENTION_COUNT_MAX: usize = 500;

/// What a timer is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimerSubject {
    /// Delete what a partition need not keep.
    Retention {
        /// The topic.
        topic_id: TopicId,
        /// The partition.
        partition: u32,
    },
    /// Forget a producer that has been idle.
    Producer {
        /// The topic.
        topic_id: TopicId,
        /// The partition.
        partition: u32,
        /// The producer.
        producer_id: i64,
    },
    /// Compact a partition, a bit at a time.
    Compaction {
        /// The topic.
        topic_id: TopicId,
        /// The partition.
        partition: u32,
    },
    /// Abort a transaction that takes too long.
    Transaction {
        /// Its producer.
        producer_id: i64,
        /// Which of its transactions.
        started_at_ms: u64,
    },
    /// Forget a transactional id that nobody has used.
    TransactionalId {
        /// Its producer.
        producer_id: i64,
    },
    /// Give up an object that was not written in time.
    Upload {
        /// It.
        object_id: tiering::ObjectId,
    },
}

pub(crate) fn due(view: View<'_>, count_max: usize) -> Result<Vec<Op>, StoreError> {
    let mut ops = Vec::new();
    let mut damaged = None;
    view.state.scan(
        &keys::timers(),
        &keys::timers_end(view.now_ms),
        proteus_store::Direction::Ascending,
        &mut |key, _| {
            if ops.len() >= count_max {
                return ControlFlow::Break(());
            }
            let subject = keys::timer_parts(key)
                .and_then(|(due_at_ms, subject)| Some((due_at_ms, decode_subject(subject)?)));
            match subject {
                Some((due_at_ms, subject)) => ops.push(Op::FireTimer { due_at_ms, subject }),
                None => damaged = Some(StoreError::corrupt(key, "not a timer")),
            }
            ControlFlow::Continue(())
        },
    )?;
    view.state.scan_prefix(&keys::all_garbage(), &mut |key, _| {
        if ops.len() >= count_max {
            return ControlFlow::Break(());
        }
        if let Some(topic_id) = keys::garbage_topic(key) {
            ops.push(Op::SweepTopic { topic_id });
        }
        ControlFlow::Continue(())
    })?;
    damaged.map_or(Ok(ops), Err)
}

pub(crate) fn next_due_ms(state: &dyn Read) -> Result<Option<u64>, StoreError> {
    if has_any(state, Topic::SPACE, keys::GARBAGE)? {
        return Ok(Some(0));
    }
    first_u64(state, Topic::SPACE, keys::TIMER)
}

fn encode_subject(subject: &TimerSubject) -> Bytes {
    stored::encode(subject)
}

fn decode_subject(bytes: &[u8]) -> Option<TimerSubject> {
    stored::decode(&[], bytes).ok()
}

pub(crate) fn arm(ctx: &mut TopicCtx<'_>, due_at_ms: u64, subject: &TimerSubject) {
    ctx.put(keys::timer(due_at_ms, &encode_subject(subject)), Bytes::new());
}

pub(crate) fn disarm(ctx: &mut TopicCtx<'_>, due_at_ms: u64, subject: &TimerSubject) {
    ctx.delete(keys::timer(due_at_ms, &encode_subject(subject)));
}

pub(crate) fn fire(
    ctx: &mut TopicCtx<'_>,
    due_at_ms: u64,
    subject: &TimerSubject,
) -> Applied<Reply> {
    let key = keys::timer(due_at_ms, &encode_subject(subject));
    if due_at_ms > ctx.now_ms() || ctx.get(&key)?.is_none() {
        return Ok(Reply::Done);
    }
    ctx.delete(key);
    match subject {
        TimerSubject::Retention { topic_id, partition } => retain(ctx, *topic_id, *partition)?,
        TimerSubject::Producer { topic_id, partition, producer_id } => {
            forget_idle_producer(ctx, *topic_id, *partition, *producer_id)?;
        }
        TimerSubject::Compaction { topic_id, partition } => {
            compaction::step(ctx, *topic_id, *partition)?;
        }
        TimerSubject::Transaction { producer_id, started_at_ms } => {
            transactions::time_out(ctx, *producer_id, *started_at_ms)?;
        }
        TimerSubject::TransactionalId { producer_id } => {
            transactions::expire(ctx, *producer_id)?;
        }
        TimerSubject::Upload { object_id } => tiering::give_up(ctx, *object_id)?,
    }
    Ok(Reply::Done)
}

fn forget_idle_producer(
    ctx: &mut TopicCtx<'_>,
    topic_id: TopicId,
    partition: u32,
    producer_id: i64,
) -> Applied<()> {
    let key = keys::producer(topic_id, partition, producer_id);
    let Some(producer) = stored::get::<StoredProducer>(ctx.read(), &key)? else {
        return Ok(());
    };
    let mut expires_at_ms = producer.last_append_at_ms.saturating_add(PRODUCER_EXPIRY_MS);
    if ctx.get(&keys::topic(topic_id))?.is_none() {
        // The sweep removes it.
        return Ok(());
    }
    if producer.open_since.is_some() {
        // Until its transaction has ended, by its timeout at last.
        expires_at_ms = expires_at_ms.max(ctx.now_ms().saturating_add(PRODUCER_EXPIRY_MS));
    }
    if expires_at_ms <= ctx.now_ms() {
        ctx.delete(key);
    } else {
        arm(ctx, expires_at_ms, &TimerSubject::Producer { topic_id, partition, producer_id });
    }
    Ok(())
}

/// Sets the partition's retention timer, if its topic retains only so much and none is set.
pub(crate) fn arm_retention(
    ctx: &mut TopicCtx<'_>,
    topic_id: TopicId,
    partition: u32,
    topic: &StoredTopic,
    stored: &mut StoredPartition,
) {
    let config = ConfigReader(&topic.config);
    if stored.retention_due_at_ms != 0 || !config.has_retention() {
        return;
    }
    let wait_ms = config
        .retention_ms()
        .map_or(RETENTION_INTERVAL_MS, |retention_ms| retention_ms.min(RETENTION_INTERVAL_MS))
        .max(RETENTION_INTERVAL_MS_MIN);
    arm_retention_at(ctx, topic_id, partition, stored, wait_ms);
}

fn arm_retention_at(
    ctx: &mut TopicCtx<'_>,
    topic_id: TopicId,
    partition: u32,
    stored: &mut StoredPartition,
    wait_ms: u64,
) {
    let subject = TimerSubject::Retention { topic_id, partition };
    if stored.retention_due_at_ms != 0 {
        ctx.delete(keys::timer(stored.retention_due_at_ms, &encode_subject(&subject)));
    }
    stored.retention_due_at_ms = ctx.now_ms().saturating_add(wait_ms).max(1);
    arm(ctx, stored.retention_due_at_ms, &subject);
}

/// Looks at the partition at once, because its topic's settings changed.
pub(crate) fn schedule_retention(
    ctx: &mut TopicCtx<'_>,
    topic_id: TopicId,
    partition: u32,
    topic: &StoredTopic,
) -> Applied<()> {
    let (_, mut stored) = existing_partition(ctx, topic_id, partition)?;
    if ConfigReader(&topic.config).has_retention() {
        arm_retention_at(ctx, topic_id, partition, &mut stored, 0);
    }
    compaction::arm(ctx, topic_id, partition, topic, &mut stored);
    ctx.put(keys::partition(topic_id, partition), stored::encode(&stored));
    Ok(())
}

pub(crate) fn delete_records(
    ctx: &mut TopicCtx<'_>,
    topic_id: TopicId,
    partition: u32,
    before_offset: Option<i64>,
) -> Applied<Reply> {
    let (_, mut stored) = existing_partition(ctx, topic_id, partition)?;
    let offset = before_offset.unwrap_or(stored.next_offset);
    if offset < 0 || offset > stored.next_offset {
        return refuse(Refusal::OffsetOutOfRange { offset, next_offset: stored.next_offset });
    }
    if offset > stored.log_start_offset {
        stored.log_start_offset = offset;
        ctx.emit(Change::LogStartMoved { topic_id, partition, log_start_offset: offset });
        arm_retention_at(ctx, topic_id, partition, &mut stored, 0);
        ctx.put(keys::partition(topic_id, partition), stored::encode(&stored));
    }
    Ok(Reply::LogStart(stored.log_start_offset))
}

/// The oldest batches of a partition that need not be kept, and what is known of the one after.
struct Expired {
    /// Keys, base offset after the batch, newest timestamp, length.
    batches: Vec<ExpiredBatch>,
    /// When the oldest batch that stays is due; `None` if none stays or none is due by time.
    next_due_at_ms: Option<u64>,
    has_more: bool,
}

struct ExpiredBatch {
    base_offset: i64,
    end_offset: i64,
    bytes: u64,
}

fn retain(ctx: &mut TopicCtx<'_>, topic_id: TopicId, partition: u32) -> Applied<()> {
    let Some(topic) = stored::get::<StoredTopic>(ctx.read(), &keys::topic(topic_id))? else {
        return Ok(());
    };
    let key = keys::partition(topic_id, partition);
    let Some(mut stored) = stored::get::<StoredPartition>(ctx.read(), &key)? else {
        return Ok(());
    };
    stored.retention_due_at_ms = 0;
    let log_start_before = stored.log_start_offset;
    let objects = tiering::retain(ctx, topic_id, partition, &topic, &mut stored)?;
    let expired = if objects.has_objects {
        let ObjectRetention { next_due_at_ms, has_more, .. } = objects;
        Expired { batches: Vec::new(), next_due_at_ms, has_more }
    } else {
        find_expired(ctx, topic_id, partition, &topic, &stored)?
    };
    for batch in &expired.batches {
        ctx.delete(keys::batch(topic_id, partition, batch.base_offset));
        stored.bytes = stored.bytes.saturating_sub(batch.bytes);
        if batch.base_offset >= stored.cleaned_upto {
            stored.dirty_bytes = stored.dirty_bytes.saturating_sub(batch.bytes);
        }
        stored.log_start_offset = stored.log_start_offset.max(batch.end_offset);
    }
    if expired.has_more {
        arm_retention_at(ctx, topic_id, partition, &mut stored, 0);
    } else if stored.bytes + stored.object_bytes > 0 && ConfigReader(&topic.config).has_retention()
    {
        let now_ms = ctx.now_ms();
        // By time nothing is due before the oldest batch is; by size something may be at any time.
        let has_bytes_max = ConfigReader(&topic.config).retention_bytes().is_some();
        let wait_ms_max =
            if has_bytes_max { RETENTION_INTERVAL_MS } else { RETENTION_INTERVAL_MS_MAX };
        let wait_ms = expired
            .next_due_at_ms
            .map_or(RETENTION_INTERVAL_MS, |due_at_ms| due_at_ms.saturating_sub(now_ms))
            .clamp(RETENTION_INTERVAL_MS_MIN, wait_ms_max);
        arm_retention_at(ctx, topic_id, partition, &mut stored, wait_ms);
    }
    forget_before(ctx, topic_id, partition, stored.log_start_offset)?;
    if stored.log_start_offset > log_start_before {
        let log_start_offset = stored.log_start_offset;
        ctx.emit(Change::LogStartMoved { topic_id, partition, log_start_offset });
    }
    ctx.put(key, stored::encode(&stored));
    Ok(())
}

/// What is known of the time before the log start concerns no reader: aborted transactions, and
/// entries of the time index, whose offsets grow with their timestamps.
fn forget_before(
    ctx: &mut TopicCtx<'_>,
    topic_id: TopicId,
    partition: u32,
    log_start_offset: i64,
) -> Applied<()> {
    let mut ended: Vec<Bytes> = Vec::new();
    ctx.scan(
        &keys::aborted(topic_id, partition, 0),
        &keys::aborted(topic_id, partition, log_start_offset),
        proteus_store::Direction::Ascending,
        &mut |key, _| {
            ended.push(Bytes::copy_from_slice(key));
            if ended.len() < RETENTION_COUNT_MAX {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        },
    )?;
    ctx.scan(
        &keys::time_start(topic_id, partition),
        &keys::time_end(topic_id, partition),
        proteus_store::Direction::Ascending,
        &mut |key, _| {
            let is_before =
                keys::time_parts(key).is_none_or(|(_, offset)| offset < log_start_offset);
            if !is_before || ended.len() > 2 * RETENTION_COUNT_MAX {
                return ControlFlow::Break(());
            }
            ended.push(Bytes::copy_from_slice(key));
            ControlFlow::Continue(())
        },
    )?;
    for key in ended {
        ctx.delete(key);
    }
    Ok(())
}

fn find_expired(
    ctx: &TopicCtx<'_>,
    topic_id: TopicId,
    partition: u32,
    topic: &StoredTopic,
    stored: &StoredPartition,
) -> Applied<Expired> {
    let config = ConfigReader(&topic.config);
    let now_ms = ctx.now_ms();
    let mut expired = Expired { batches: Vec::new(), next_due_at_ms: None, has_more: false };
    let mut bytes_left = stored.bytes;
    let mut damaged = None;
    ctx.scan(
        &keys::batch(topic_id, partition, 0),
        &keys::batch(topic_id, partition, stored.next_offset),
        proteus_store::Direction::Ascending,
        &mut |key, value| {
            let parsed = (keys::batch_base_offset(key), BatchHeader::parse(value));
            let (Some(base_offset), Ok(header)) = parsed else {
                damaged = Some(StoreError::corrupt(key, "not a record batch"));
                return ControlFlow::Break(());
            };
            let end_offset = header.end_offset(base_offset);
            let due_at_ms = config.retention_ms().map(|retention_ms| {
                let newest_ms = u64::try_from(header.max_timestamp_ms).unwrap_or(0);
                newest_ms.saturating_add(retention_ms)
            });
            let bytes = value.len() as u64;
            let is_beyond_size = config
                .retention_bytes()
                .is_some_and(|bytes_max| bytes_left.saturating_sub(bytes) >= bytes_max);
            let is_expired = end_offset <= stored.log_start_offset
                || due_at_ms.is_some_and(|due_at_ms| due_at_ms <= now_ms)
                || is_beyond_size;
            if !is_expired {
                expired.next_due_at_ms = due_at_ms;
                return ControlFlow::Break(());
            }
            if expired.batches.len() == RETENTION_COUNT_MAX {
                expired.has_more = true;
                return ControlFlow::Break(());
            }
            bytes_left -= bytes.min(bytes_left);
            expired.batches.push(ExpiredBatch { base_offset, end_offset, bytes });
            ControlFlow::Continue(())
        },
    )?;
    damaged.map_or(Ok(expired), |error| Err(error.into()))
}
