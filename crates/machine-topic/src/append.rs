//! Appending a batch, exactly once for producers that number theirs.
//!
//! Source: KIP-98 and KIP-360; Kafka's `ProducerAppendInfo`.

use bytes::Bytes;
use proteus_store::Read;

use crate::batch::{BatchHeader, NO_PRODUCER_ID};
use crate::read::ConfigReader;
use crate::stored::{self, PRODUCER_BATCHES_MAX, ProducedBatch, StoredPartition, StoredProducer};
use crate::timers::{self, PRODUCER_EXPIRY_MS, TimerSubject};
use crate::topics::existing_partition;
use crate::{Appended, Applied, Change, Refusal, Reply, TopicCtx, TopicId, keys, refuse};

/// What the partition makes of a producer's numbers.
enum Sequence {
    /// The batch comes next; the producer's state after it.
    Next(Option<StoredProducer>),
    /// It stands there already, from this offset.
    Duplicate(i64),
}

pub(crate) fn append(
    ctx: &mut TopicCtx<'_>,
    topic_id: TopicId,
    partition: u32,
    batch: &Bytes,
) -> Applied<Appended> {
    let (topic, mut stored) = existing_partition(ctx, topic_id, partition)?;
    let header = match BatchHeader::parse(batch) {
        Ok(header) => header,
        Err(error) => return refuse(Refusal::InvalidBatch(error)),
    };
    let bytes_max = ConfigReader(&topic.config).batch_bytes_max();
    if batch.len() > bytes_max {
        return refuse(Refusal::BatchTooLarge { bytes: batch.len(), bytes_max });
    }
    let base_offset = stored.next_offset;
    let log_start_offset = stored.log_start_offset;
    match sequence(ctx, topic_id, partition, &header, base_offset)? {
        Sequence::Duplicate(base_offset) => {
            return Ok(Appended { base_offset, log_start_offset, is_duplicate: true });
        }
        Sequence::Next(Some(producer)) => {
            put_producer(ctx, topic_id, partition, header.producer_id, &producer)?;
        }
        Sequence::Next(None) => {}
    }
    ctx.put(keys::batch(topic_id, partition, base_offset), batch.clone());
    index_time(ctx, topic_id, partition, &mut stored, &header);
    stored.next_offset = base_offset + i64::from(header.record_count);
    stored.bytes += batch.len() as u64;
    let high_watermark = stored.next_offset;
    timers::arm_retention(ctx, topic_id, partition, &topic, &mut stored);
    ctx.put(keys::partition(topic_id, partition), stored::encode(&stored));
    ctx.emit(Change::Appended { topic_id, partition, high_watermark, bytes: batch.len() as u64 });
    Ok(Appended { base_offset, log_start_offset, is_duplicate: false })
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
    let key = keys::next_producer_id();
    let producer_id: i64 = stored::get(ctx.read(), &key)?.unwrap_or(0);
    ctx.put(key, stored::encode(&(producer_id + 1)));
    Ok(Reply::ProducerId(producer_id))
}
