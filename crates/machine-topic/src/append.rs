//! Appending a batch, exactly once for producers that number theirs.
//!
//! Source: KIP-98 and KIP-360; Kafka's `ProducerAppendInfo`.

use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_store::Read;

use crate::batch::{BatchHeader, Marker, NO_PRODUCER_ID, frame_marker, stamp_append_time};
use crate::read::{ConfigReader, leader_epoch};
use crate::stored::{
    self, PRODUCER_BATCHES_MAX, ProducedBatch, StoredAborted, StoredPartition, StoredProducer,
    StoredTopic,
};
use crate::timers::{self, PRODUCER_EXPIRY_MS, TimerSubject};
use crate::topics::existing_partition;
use crate::{
    Appended, Applied, Change, Refusal, Reply, TopicCtx, TopicId, compaction, keys, refuse,
    transactions,
};

/// What the partition makes of a producer's numbers.
enum Sequence {
    /// The batch comes next; the producer's state after it.
    Next(Option<StoredProducer>),
    /// It stands there already, from this offset.
    Duplicate(i64),
}

/// How a batch belongs to a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Membership {
    /// To none.
    None,
    /// To that of its producer, of which the partition is a part already.
    Joined,
    /// To that of its producer, of which the partition becomes a part.
    Joins,
}

pub(crate) fn append(
    ctx: &mut TopicCtx<'_>,
    topic_id: TopicId,
    partition: u32,
    batch: &Bytes,
    membership: Membership,
) -> Applied<Appended> {
    let (topic, mut stored) = existing_partition(ctx, topic_id, partition)?;
    let config = ConfigReader(&topic.config);
    let parsed = match config.mirrors() {
        true => BatchHeader::parse_mirrored(batch),
        false => BatchHeader::parse_produced(batch),
    };
    let mut header = match parsed {
        Ok(header) => header,
        Err(error) => return refuse(Refusal::InvalidBatch(error)),
    };
    let bytes_max = config.batch_bytes_max();
    if batch.len() > bytes_max {
        return refuse(Refusal::BatchTooLarge { bytes: batch.len(), bytes_max });
    }
    if header.is_transactional() != (membership != Membership::None) {
        return refuse(Refusal::NotInTransaction { producer_id: header.producer_id });
    }
    if config.mirrors() {
        place_copy(&mut stored, &header)?;
    }
    let base_offset = stored.next_offset;
    let log_start_offset = stored.log_start_offset;
    let append_time_ms = config.has_append_time().then(|| ctx.now_ms().cast_signed());
    match sequence(ctx, topic_id, partition, &header, base_offset)? {
        Sequence::Duplicate(base_offset) => {
            return Ok(Appended {
                base_offset,
                log_start_offset,
                append_time_ms,
                is_duplicate: true,
            });
        }
        Sequence::Next(Some(mut producer)) => {
            let producer_id = header.producer_id;
            if membership == Membership::None && producer.open_since.is_some() {
                return refuse(Refusal::NotInTransaction { producer_id });
            }
            if membership != Membership::None && producer.open_since.is_none() {
                let epoch = header.producer_epoch;
                let joins = membership == Membership::Joins;
                transactions::admit(ctx, producer_id, epoch, topic_id, partition, joins)?;
                producer.open_since = Some(base_offset);
                stored.first_open_offset = stored.first_open_offset.or(Some(base_offset));
                let key = keys::open(topic_id, partition, base_offset);
                ctx.put(key, stored::encode(&producer_id));
            }
            put_producer(ctx, topic_id, partition, producer_id, &producer)?;
        }
        Sequence::Next(None) => {}
    }
    let batch = match append_time_ms {
        Some(append_time_ms) => {
            header.max_timestamp_ms = append_time_ms;
            stamp_append_time(batch, append_time_ms)
        }
        None => batch.clone(),
    };
    put_batch(ctx, topic_id, partition, &topic, &mut stored, &header, batch);
    Ok(Appended { base_offset, log_start_offset, append_time_ms, is_duplicate: false })
}

/// Goes on to where a copied batch stands; the first one is where the partition begins.
fn place_copy(stored: &mut StoredPartition, header: &BatchHeader) -> Applied<()> {
    let is_sound =
        header.base_offset.checked_add(i64::from(header.last_offset_delta) + 1).is_some();
    if header.base_offset < stored.next_offset || !is_sound {
        return refuse(Refusal::NotNextInMirror {
            offset: header.base_offset,
            next_offset: stored.next_offset,
        });
    }
    if stored.log_start_offset == stored.next_offset {
        stored.log_start_offset = header.base_offset;
    }
    stored.next_offset = header.base_offset;
    Ok(())
}

/// Puts a batch at the end of the partition.
fn put_batch(
    ctx: &mut TopicCtx<'_>,
    topic_id: TopicId,
    partition: u32,
    topic: &StoredTopic,
    stored: &mut StoredPartition,
    header: &BatchHeader,
    batch: Bytes,
) {
    let bytes = batch.len() as u64;
    stored.note_epoch(leader_epoch(ctx.term()));
    ctx.put(keys::batch(topic_id, partition, stored.next_offset), batch);
    index_time(ctx, topic_id, partition, stored, header);
    stored.next_offset = header.end_offset(stored.next_offset);
    stored.bytes += bytes;
    let high_watermark = stored.next_offset;
    stored.dirty_bytes += bytes;
    timers::arm_retention(ctx, topic_id, partition, topic, stored);
    compaction::arm(ctx, topic_id, partition, topic, stored);
    ctx.put(keys::partition(topic_id, partition), stored::encode(stored));
    ctx.emit(Change::Appended { topic_id, partition, high_watermark, bytes });
}

/// Ends a transaction in one partition; nothing if the topic is gone.
pub(crate) fn append_marker(
    ctx: &mut TopicCtx<'_>,
    topic_id: TopicId,
    partition: u32,
    marker: Marker,
) -> Applied<()> {
    let topic = stored::get::<StoredTopic>(ctx.read(), &keys::topic(topic_id))?;
    let key = keys::partition(topic_id, partition);
    let (Some(topic), Some(mut stored)) =
        (topic, stored::get::<StoredPartition>(ctx.read(), &key)?)
    else {
        return Ok(());
    };
    let marker_offset = stored.next_offset;
    let producer_id = marker.producer_id;
    let producer_key = keys::producer(topic_id, partition, producer_id);
    if let Some(mut producer) = stored::get::<StoredProducer>(ctx.read(), &producer_key)? {
        if marker.producer_epoch > producer.epoch {
            producer.epoch = marker.producer_epoch;
            producer.batches.clear();
        }
        if let Some(first_offset) = producer.open_since.take() {
            ctx.delete(keys::open(topic_id, partition, first_offset));
            stored.first_open_offset = first_open(ctx, topic_id, partition)?;
            if !marker.is_commit {
                let last_stable_offset = stored.first_open_offset.unwrap_or(marker_offset + 1);
                let aborted = StoredAborted { producer_id, first_offset, last_stable_offset };
                let key = keys::aborted(topic_id, partition, marker_offset);
                ctx.put(key, stored::encode(&aborted));
            }
        }
        producer.last_append_at_ms = ctx.now_ms();
        ctx.put(producer_key, stored::encode(&producer));
    }
    let batch = frame_marker(marker, ctx.now_ms().cast_signed());
    match BatchHeader::parse(&batch) {
        Ok(header) => put_batch(ctx, topic_id, partition, &topic, &mut stored, &header, batch),
        Err(error) => return refuse(Refusal::InvalidBatch(error)),
    }
    Ok(())
}

fn first_open(ctx: &TopicCtx<'_>, topic_id: TopicId, partition: u32) -> Applied<Option<i64>> {
    let mut first = None;
    ctx.scan_prefix(&keys::all_open(topic_id, partition), &mut |key, _| {
        first = keys::entry_offset(key);
        ControlFlow::Break(())
    })?;
    Ok(first)
}

/// The time index holds a batch only if it is newer than all before it: so it is ordered both ways,
/// and its first entry at or after a time is the first batch that has such a record.
fn index_time(
    ctx: &mut TopicCtx<'_>,
    topic_id: TopicId,
    partition: u32,
    stored: &mut StoredPartition,
    header: &BatchHeader,
) {
    if header.max_timestamp_ms > stored.max_timestamp_ms {
        stored.max_timestamp_ms = header.max_timestamp_ms;
        let key = keys::time(topic_id, partition, header.max_timestamp_ms, stored.next_offset);
        ctx.put(key, Bytes::new());
    }
}

fn sequence(
    ctx: &TopicCtx<'_>,
    topic_id: TopicId,
    partition: u32,
    header: &BatchHeader,
    base_offset: i64,
) -> Applied<Sequence> {
    let producer_id = header.producer_id;
    if producer_id <= NO_PRODUCER_ID {
        return Ok(Sequence::Next(None));
    }
    let produced = ProducedBatch {
        first_sequence: header.base_sequence,
        last_sequence: header.last_sequence(),
        base_offset,
    };
    let key = keys::producer(topic_id, partition, producer_id);
    let Some(mut producer) = stored::get::<StoredProducer>(ctx.read(), &key)? else {
        // Unknown here, or forgotten since: any number may come first (KIP-360).
        return Ok(Sequence::Next(Some(StoredProducer {
            epoch: header.producer_epoch,
            batches: [produced].into(),
            last_append_at_ms: ctx.now_ms(),
            open_since: None,
        })));
    };
    let out_of_order = |expected| {
        refuse(Refusal::OutOfOrderSequence {
            producer_id,
            partition,
            expected,
            found: header.base_sequence,
        })
    };
    if header.producer_epoch < producer.epoch {
        return refuse(Refusal::StaleProducerEpoch {
            producer_id,
            current: producer.epoch,
            found: header.producer_epoch,
        });
    }
    if header.producer_epoch > producer.epoch {
        if header.base_sequence != 0 {
            return out_of_order(0);
        }
        producer.epoch = header.producer_epoch;
        producer.batches.clear();
    } else {
        let same = |batch: &&ProducedBatch| {
            batch.first_sequence == produced.first_sequence
                && batch.last_sequence == produced.last_sequence
        };
        if let Some(before) = producer.batches.iter().find(same) {
            return Ok(Sequence::Duplicate(before.base_offset));
        }
        let expected = producer.batches.back().map_or(0, |last| next_sequence(last.last_sequence));
        if header.base_sequence != expected {
            return out_of_order(expected);
        }
    }
    if producer.batches.len() == PRODUCER_BATCHES_MAX {
        producer.batches.pop_front();
    }
    producer.batches.push_back(produced);
    producer.last_append_at_ms = ctx.now_ms();
    Ok(Sequence::Next(Some(producer)))
}

fn next_sequence(last: i32) -> i32 {
    last.checked_add(1).unwrap_or(0)
}

fn put_producer(
    ctx: &mut TopicCtx<'_>,
    topic_id: TopicId,
    partition: u32,
    producer_id: i64,
    producer: &StoredProducer,
) -> Applied<()> {
    let key = keys::producer(topic_id, partition, producer_id);
    if ctx.get(&key)?.is_none() {
        let subject = TimerSubject::Producer { topic_id, partition, producer_id };
        timers::arm(ctx, ctx.now_ms().saturating_add(PRODUCER_EXPIRY_MS), &subject);
    }
    ctx.put(key, stored::encode(producer));
    Ok(())
}

pub(crate) fn allocate_producer_id(ctx: &mut TopicCtx<'_>) -> Applied<Reply> {
    next_producer_id(ctx).map(Reply::ProducerId)
}

pub(crate) fn next_producer_id(ctx: &mut TopicCtx<'_>) -> Applied<i64> {
    let key = keys::next_producer_id();
    let producer_id: i64 = stored::get(ctx.read(), &key)?.unwrap_or(0);
    ctx.put(key, stored::encode(&(producer_id + 1)));
    Ok(producer_id)
}
