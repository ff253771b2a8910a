//! Compaction: of the records of one key only the newest is kept (`cleanup.policy=compact`).
//!
//! ```text
//!   index ──▶ sweep ──▶ prune ──▶ forget ──▶ (waits until enough is dirty)
//! ```
//!
//! A pass covers the partition up to a bound. *Index* notes for every key of what was appended since
//! the last pass where its newest record stands; *sweep* goes through all batches below the bound and
//! leaves out records of which a newer one was noted; *prune* removes entries of the time index that
//! are of no use any more; *forget* removes the notes. Each step handles
//! a bounded number of bytes and is an op of its own, so that nobody waits long; what a reader finds
//! in between is complete: a record is left out only when a newer one of its key stands already.
//!
//! Offsets never change. The last batch is never touched, so that whoever reads to the end gets there.
//! Nothing at or after the last stable offset is touched; records of aborted transactions are left
//! out, and so are the markers of transactions that have ended before the bound.
//!
//! Sources: Kafka's documentation, "Log Compaction"; KIP-58 and KIP-354 (lags), KIP-534 (tombstones).

use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_store::{Direction, Read, StoreError};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::batch::{BatchHeader, Record, decode_records, rebuild_batch};
use crate::read::{self, AbortedTransaction, ConfigReader};
use crate::stored::{self, StoredPartition, StoredTopic};
use crate::timers::{self, TimerSubject};
use crate::{Applied, TopicCtx, TopicId, keys};

/// How long after enough is dirty a pass begins, as Kafka's `log.cleaner.backoff.ms`.
const BACKOFF_MS: u64 = 15_000;
/// How soon a partition of which nothing may be compacted yet is looked at again.
const RETRY_MS: u64 = 60_000;
/// Bytes of batches that one step handles, or one batch.
const STEP_BYTES_MAX: usize = 1024 * 1024;
/// Batches that one step handles.
const STEP_BATCHES_MAX: usize = 1_000;
/// Notes that one step forgets.
const FORGET_COUNT_MAX: usize = 2_000;
/// Records that one pass indexes; what is beyond waits for the next.
const PASS_RECORDS_MAX: u64 = 5_000_000;

/// A pass under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pass {
    step: Step,
    /// First offset that the pass leaves alone.
    bound: i64,
    /// Bytes of what was indexed.
    dirty_bytes: u64,
    record_count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Step {
    /// Goes on from this offset.
    Index(i64),
    Sweep(i64),
    /// Goes on after this entry of the time index: timestamp and offset.
    Prune(i64, i64),
    Forget,
    /// The pass was given up, because the topic is no longer compacted.
    GiveUp,
}

/// A batch of the partition.
struct Found {
    base_offset: i64,
    header: BatchHeader,
    bytes: Bytes,
}

/// Sees to it that a pass begins when enough is dirty. The caller stores the partition.
pub(crate) fn arm(
    ctx: &mut TopicCtx<'_>,
    topic_id: TopicId,
    partition: u32,
    topic: &StoredTopic,
    stored: &mut StoredPartition,
) {
    let config = ConfigReader(&topic.config);
    if !config.compacts() || stored.dirty_bytes == 0 {
        return;
    }
    let wait_ms = if config.is_dirty_enough(stored.dirty_bytes, stored.bytes) {
        Some(BACKOFF_MS)
    } else {
        config.compaction_lag_ms_max()
    };
    if let Some(wait_ms) = wait_ms {
        arm_in(ctx, topic_id, partition, stored, wait_ms);
    }
}

/// Sets the timer, unless it is set to an earlier time.
fn arm_in(
    ctx: &mut TopicCtx<'_>,
    topic_id: TopicId,
    partition: u32,
    stored: &mut StoredPartition,
    wait_ms: u64,
) {
    let due_at_ms = ctx.now_ms().saturating_add(wait_ms).max(1);
    let subject = TimerSubject::Compaction { topic_id, partition };
    if stored.compaction_due_at_ms != 0 {
        if stored.compaction_due_at_ms <= due_at_ms {
            return;
        }
        timers::disarm(ctx, stored.compaction_due_at_ms, &subject);
    }
    stored.compaction_due_at_ms = due_at_ms;
    timers::arm(ctx, due_at_ms, &subject);
}

/// Does one step, and sets the timer for the next.
pub(crate) fn step(ctx: &mut TopicCtx<'_>, topic_id: TopicId, partition: u32) -> Applied<()> {
    let topic = stored::get::<StoredTopic>(ctx.read(), &keys::topic(topic_id))?;
    let key = keys::partition(topic_id, partition);
    let stored = stored::get::<StoredPartition>(ctx.read(), &key)?;
    let (Some(topic), Some(mut stored)) = (topic, stored) else {
        return Ok(());
    };
    stored.compaction_due_at_ms = 0;
    let mut cleaner = Cleaner { topic_id, partition, topic: &topic, stored: &mut stored };
    cleaner.step(ctx)?;
    ctx.put(key, stored::encode(&stored));
    Ok(())
}

struct Cleaner<'a> {
    topic_id: TopicId,
    partition: u32,
    topic: &'a StoredTopic,
    stored: &'a mut StoredPartition,
}

impl Cleaner<'_> {
    fn step(&mut self, ctx: &mut TopicCtx<'_>) -> Applied<()> {
        let key = keys::compaction(self.topic_id, self.partition);
        let compacts = ConfigReader(&self.topic.config).compacts();
        let mut pass = match stored::get::<Pass>(ctx.read(), &key)? {
            Some(pass) => pass,
            None if !compacts => return Ok(()),
            None => match self.begin(ctx)? {
                Some(pass) => pass,
                None => return Ok(()),
            },
        };
        if !compacts {
            pass.step = Step::GiveUp;
        }
        let is_done = match pass.step {
            Step::Index(from) => self.index(ctx, &mut pass, from)?,
            Step::Sweep(from) => self.sweep(ctx, &mut pass, from)?,
            Step::Prune(timestamp_ms, offset) => {
                self.prune(ctx, &mut pass, timestamp_ms, offset)?
            }
            Step::Forget | Step::GiveUp => self.forget(ctx)?,
        };
        if !is_done {
            ctx.put(key, stored::encode(&pass));
            self.arm_in(ctx, 0);
            return Ok(());
        }
        ctx.delete(key);
        if pass.step == Step::Forget {
            self.stored.cleaned_upto = pass.bound;
            self.stored.dirty_bytes = self.stored.dirty_bytes.saturating_sub(pass.dirty_bytes);
            arm(ctx, self.topic_id, self.partition, self.topic, self.stored);
        }
        Ok(())
    }

    fn arm_in(&mut self, ctx: &mut TopicCtx<'_>, wait_ms: u64) {
        arm_in(ctx, self.topic_id, self.partition, self.stored, wait_ms);
    }

    /// A pass over what may be compacted now; `None` if that is nothing, or not worth it.
    fn begin(&mut self, ctx: &mut TopicCtx<'_>) -> Applied<Option<Pass>> {
        let config = ConfigReader(&self.topic.config);
        let (dirty_bytes, bytes) = (self.stored.dirty_bytes, self.stored.bytes);
        let lag_ms_max = config.compaction_lag_ms_max();
        if !config.is_dirty_enough(dirty_bytes, bytes) && lag_ms_max.is_none() {
            return Ok(None);
        }
        let from = self.stored.cleaned_upto.max(self.stored.log_start_offset);
        let bound = self.last_batch(ctx)?.min(self.stored.last_stable_offset());
        let bound = match config.compaction_lag_ms_min() {
            0 => bound,
            lag_ms => self.first_younger_than(ctx, from, bound, lag_ms)?,
        };
        if bound <= from {
            let wait_ms = config.compaction_lag_ms_min().max(RETRY_MS);
            self.arm_in(ctx, wait_ms);
            return Ok(None);
        }
        Ok(Some(Pass { step: Step::Index(from), bound, dirty_bytes: 0, record_count: 0 }))
    }

    /// Base offset of the last batch.
    fn last_batch(&self, ctx: &TopicCtx<'_>) -> Applied<i64> {
        let mut last = 0;
        ctx.scan(
            &keys::batch(self.topic_id, self.partition, 0),
            &keys::batch(self.topic_id, self.partition, self.stored.next_offset),
            Direction::Descending,
            &mut |key, _| {
                last = keys::batch_base_offset(key).unwrap_or(0);
                ControlFlow::Break(())
            },
        )?;
        Ok(last)
    }

    fn first_younger_than(
        &self,
        ctx: &TopicCtx<'_>,
        from: i64,
        bound: i64,
        lag_ms: u64,
    ) -> Applied<i64> {
        let now_ms = ctx.now_ms();
        let mut first = bound;
        self.each_batch(ctx, from, bound, usize::MAX, &mut |found| {
            let newest_ms = u64::try_from(found.header.max_timestamp_ms).unwrap_or(0);
            if newest_ms.saturating_add(lag_ms) > now_ms {
                first = found.base_offset;
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        Ok(first)
    }

    fn each_batch(
        &self,
        ctx: &TopicCtx<'_>,
        from: i64,
        bound: i64,
        count_max: usize,
        visit: &mut dyn FnMut(Found) -> ControlFlow<()>,
    ) -> Applied<()> {
        let mut damaged = None;
        let mut count = 0;
        ctx.scan(
            &keys::batch(self.topic_id, self.partition, from),
            &keys::batch(self.topic_id, self.partition, bound),
            Direction::Ascending,
            &mut |key, value| {
                let parsed = (keys::batch_base_offset(key), BatchHeader::parse(value));
                let (Some(base_offset), Ok(header)) = parsed else {
                    damaged = Some(StoreError::corrupt(key, "not a record batch"));
                    return ControlFlow::Break(());
                };
                count += 1;
                let flow = visit(Found { base_offset, header, bytes: value.clone() });
                if count >= count_max { ControlFlow::Break(()) } else { flow }
            },
        )?;
        damaged.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Batches of one step, and whether there are more before the bound.
    fn some_batches(
        &self,
        ctx: &TopicCtx<'_>,
        from: i64,
        bound: i64,
    ) -> Applied<(Vec<Found>, bool)> {
        let mut batches: Vec<Found> = Vec::new();
        let mut bytes = 0usize;
        let mut has_more = false;
        self.each_batch(ctx, from, bound, STEP_BATCHES_MAX + 1, &mut |found| {
            let is_full = batches.len() >= STEP_BATCHES_MAX || bytes >= STEP_BYTES_MAX;
            if is_full {
                has_more = true;
                return ControlFlow::Break(());
            }
            bytes = bytes.saturating_add(found.bytes.len());
            batches.push(found);
            ControlFlow::Continue(())
        })?;
        Ok((batches, has_more))
    }

    /// Aborted transactions with records from `from` to before `bound`.
    fn aborted(
        &self,
        ctx: &TopicCtx<'_>,
        from: i64,
        bound: i64,
    ) -> Applied<Vec<AbortedTransaction>> {
        let (topic_id, partition) = (self.topic_id, self.partition);
        Ok(read::aborted_transactions(ctx.read(), topic_id, partition, from, bound)?)
    }

    fn index(&mut self, ctx: &mut TopicCtx<'_>, pass: &mut Pass, from: i64) -> Applied<bool> {
        let (batches, has_more) = self.some_batches(ctx, from, pass.bound)?;
        let end = batches.last().map_or(from, |last| last.header.end_offset(last.base_offset));
        let aborted = self.aborted(ctx, from, end)?;
        for Found { base_offset, header, bytes } in batches {
            pass.dirty_bytes += bytes.len() as u64;
            let covers = |one: &AbortedTransaction| one.covers(&header, base_offset);
            if header.is_control() || aborted.iter().any(covers) {
                continue;
            }
            for record in records_of(&bytes, base_offset).unwrap_or_default() {
                pass.record_count += 1;
                if let Some(key) = &record.key {
                    let key = keys::newest_of_key(self.topic_id, self.partition, &hash(key));
                    ctx.put(key, stored::encode(&record.offset));
                }
            }
        }
        let is_full = pass.record_count >= PASS_RECORDS_MAX;
        pass.step = if has_more && !is_full {
            Step::Index(end)
        } else {
            if is_full {
                pass.bound = end;
            }
            Step::Sweep(0)
        };
        Ok(false)
    }

    fn sweep(&mut self, ctx: &mut TopicCtx<'_>, pass: &mut Pass, from: i64) -> Applied<bool> {
        let (batches, has_more) = self.some_batches(ctx, from, pass.bound)?;
        let end = batches.last().map_or(from, |last| last.header.end_offset(last.base_offset));
        let aborted = self.aborted(ctx, from, end)?;
        for found in batches {
            let covers = |one: &AbortedTransaction| one.covers(&found.header, found.base_offset);
            if found.header.is_control() || aborted.iter().any(covers) {
                // The records of the transaction stood before its marker and are gone by now.
                let aborted = keys::aborted(self.topic_id, self.partition, found.base_offset);
                if ctx.get(&aborted)?.is_some() {
                    ctx.delete(aborted);
                }
                self.replace(ctx, &found, None);
                continue;
            }
            // A batch that cannot be read is its producer's doing, and stays.
            if let Some(records) = records_of(&found.bytes, found.base_offset) {
                self.clean(ctx, &found, records)?;
            }
        }
        pass.step = if has_more { Step::Sweep(end) } else { Step::Prune(i64::MIN, 0) };
        Ok(false)
    }

    /// Leaves out of one batch what is superseded, and tombstones that have done their work.
    fn clean(
        &mut self,
        ctx: &mut TopicCtx<'_>,
        found: &Found,
        records: Vec<Record>,
    ) -> Applied<()> {
        let retention_ms = ConfigReader(&self.topic.config).delete_retention_ms();
        let now_ms = ctx.now_ms().cast_signed();
        let horizon_ms = found.header.delete_horizon_ms();
        let is_past_horizon = horizon_ms.is_some_and(|horizon_ms| horizon_ms <= now_ms);
        let before = records.len();
        let mut has_tombstone = false;
        let mut kept = Vec::with_capacity(before);
        for record in records {
            let Some(key) = &record.key else {
                kept.push(record);
                continue;
            };
            let newest = keys::newest_of_key(self.topic_id, self.partition, &hash(key));
            let newest: Option<i64> = stored::get(ctx.read(), &newest)?;
            let is_superseded = newest.is_some_and(|newest| newest > record.offset);
            let is_tombstone = record.value.is_none();
            if is_superseded || (is_tombstone && is_past_horizon) {
                continue;
            }
            has_tombstone |= is_tombstone;
            kept.push(record);
        }
        let gets_horizon = has_tombstone && horizon_ms.is_none();
        if kept.len() == before && !gets_horizon {
            return Ok(());
        }
        let horizon_ms = if gets_horizon {
            Some(now_ms.saturating_add_unsigned(retention_ms))
        } else {
            horizon_ms.filter(|_| has_tombstone)
        };
        let rebuilt = rebuild_batch(&found.header, found.base_offset, &kept, horizon_ms);
        // One that cannot be made again stays as it is: only what is superseded may go.
        if rebuilt.is_some() || kept.is_empty() {
            self.replace(ctx, found, rebuilt);
        }
        Ok(())
    }

    fn replace(&mut self, ctx: &mut TopicCtx<'_>, found: &Found, by: Option<Bytes>) {
        let key = keys::batch(self.topic_id, self.partition, found.base_offset);
        let bytes = by.as_ref().map_or(0, Bytes::len) as u64;
        match by {
            Some(batch) => ctx.put(key, batch),
            None => ctx.delete(key),
        }
        self.stored.bytes = self.stored.bytes.saturating_sub(found.bytes.len() as u64) + bytes;
    }

    /// Removes entries of the time index that lead to nothing any more: a search goes from an entry
    /// on, so one is of no use if no batch stands before the next.
    fn prune(
        &mut self,
        ctx: &mut TopicCtx<'_>,
        pass: &mut Pass,
        timestamp_ms: i64,
        offset: i64,
    ) -> Applied<bool> {
        let (topic_id, partition) = (self.topic_id, self.partition);
        let mut entries: Vec<(i64, i64)> = Vec::new();
        ctx.scan(
            &keys::time(topic_id, partition, timestamp_ms, offset),
            &keys::time_end(topic_id, partition),
            Direction::Ascending,
            &mut |key, _| {
                entries.extend(keys::time_parts(key));
                if entries.len() < STEP_BATCHES_MAX {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            },
        )?;
        for pair in entries.windows(2) {
            let [(timestamp_ms, offset), (_, next_offset)] = *pair else { continue };
            let mut is_used = false;
            self.each_batch(ctx, offset, next_offset, 1, &mut |_| {
                is_used = true;
                ControlFlow::Break(())
            })?;
            if !is_used {
                ctx.delete(keys::time(topic_id, partition, timestamp_ms, offset));
            }
        }
        pass.step = match entries.last() {
            Some((timestamp_ms, offset)) if entries.len() == STEP_BATCHES_MAX => {
                Step::Prune(*timestamp_ms, *offset)
            }
            _ => Step::Forget,
        };
        Ok(false)
    }

    /// Whether all notes are forgotten.
    fn forget(&mut self, ctx: &mut TopicCtx<'_>) -> Applied<bool> {
        let mut notes: Vec<Bytes> = Vec::new();
        let prefix = keys::newest_of_keys(self.topic_id, self.partition);
        ctx.scan_prefix(&prefix, &mut |key, _| {
            notes.push(Bytes::copy_from_slice(key));
            if notes.len() < FORGET_COUNT_MAX {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        let is_done = notes.len() < FORGET_COUNT_MAX;
        for key in notes {
            ctx.delete(key);
        }
        Ok(is_done)
    }
}

/// The records of a batch, if all of them can be read.
fn records_of(batch: &Bytes, base_offset: i64) -> Option<Vec<Record>> {
    decode_records(batch, base_offset).ok()?.collect::<Result<Vec<Record>, _>>().ok()
}

/// Stands for a key of whatever length. Nobody can find two keys with one hash.
fn hash(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}
