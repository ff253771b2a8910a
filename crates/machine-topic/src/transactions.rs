//! Transactions of Kafka producers: several partitions and groups' offsets, decided at once.
//!
//! ```text
//!            first partition or group            end, timeout, a new instance
//!   Empty ───────────────────────────▶ Ongoing ──────────────────────────────▶ Committed / Aborted
//!                                        ▲                                              │
//!                                        └──────────── first partition or group ────────┘
//! ```
//!
//! Batches are appended while the transaction goes on, as in Kafka, and hidden from those who read
//! what is committed by the *last stable offset*. Its end is one op: it writes the markers of all its
//! partitions and sets all its offsets. So there is no prepared state, no marker that is still to be
//! written, and nobody ever meets a transaction half ended.
//!
//! Sources: KIP-98; KIP-360 and KIP-588 (epochs); KIP-890 (a new epoch with every transaction).

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_store::Read;

use crate::append::append_marker;
use crate::batch::Marker;
use crate::stored::{self, StoredOffset, StoredTransaction};
use crate::timers::{self, TRANSACTIONAL_ID_EXPIRY_MS, TimerSubject};
use crate::topics::existing_partition;
use crate::{
    Applied, Change, NewOffset, Refusal, Reply, TopicCtx, TopicId, TransactionState,
    TransactionalProducer, keys, offsets, refuse,
};

/// A transactional producer with the id under which it is stored.
struct Known {
    producer_id: i64,
    stored: StoredTransaction,
}

fn find(ctx: &TopicCtx<'_>, transactional_id: &str) -> Applied<Option<Known>> {
    let key = keys::transactional_id(transactional_id);
    let Some(producer_id) = stored::get::<i64>(ctx.read(), &key)? else {
        return Ok(None);
    };
    let found = stored::get(ctx.read(), &keys::transaction(producer_id))?;
    Ok(found.map(|stored| Known { producer_id, stored }))
}

fn put(ctx: &mut TopicCtx<'_>, known: &mut Known) {
    known.stored.updated_at_ms = ctx.now_ms();
    ctx.put(keys::transaction(known.producer_id), stored::encode(&known.stored));
}

/// The producer, if it is the newest instance of its transactional id.
fn verified(ctx: &TopicCtx<'_>, producer: &TransactionalProducer) -> Applied<Known> {
    let unknown = || Refusal::UnknownTransactionalProducer {
        transactional_id: producer.transactional_id.clone(),
        producer_id: producer.producer_id,
    };
    let Some(known) = find(ctx, &producer.transactional_id)? else {
        return refuse(unknown());
    };
    if known.producer_id != producer.producer_id {
        return refuse(unknown());
    }
    if known.stored.epoch != producer.epoch {
        return refuse(Refusal::ProducerFenced {
            transactional_id: producer.transactional_id.clone(),
            current: known.stored.epoch,
            found: producer.epoch,
        });
    }
    Ok(known)
}

fn as_reply(known: &Known) -> Reply {
    Reply::Producer { producer_id: known.producer_id, epoch: known.stored.epoch }
}

/// A new instance of a producer: ends what the one before left open, and fences it.
pub(crate) fn init(
    ctx: &mut TopicCtx<'_>,
    transactional_id: &str,
    timeout_ms: u64,
    expected: Option<(i64, i16)>,
) -> Applied<Reply> {
    let Some(mut known) = find(ctx, transactional_id)? else {
        if let Some((producer_id, _)) = expected {
            let transactional_id = transactional_id.to_owned();
            return refuse(Refusal::UnknownTransactionalProducer { transactional_id, producer_id });
        }
        let mut known = Known {
            producer_id: crate::append::next_producer_id(ctx)?,
            stored: StoredTransaction {
                transactional_id: transactional_id.to_owned(),
                epoch: 0,
                previous: None,
                timeout_ms,
                state: TransactionState::Empty,
                started_at_ms: 0,
                updated_at_ms: 0,
                groups: BTreeSet::new(),
            },
        };
        ctx.put(keys::transactional_id(transactional_id), stored::encode(&known.producer_id));
        put(ctx, &mut known);
        arm_expiry(ctx, &known);
        return Ok(as_reply(&known));
    };
    if let Some(expected) = expected {
        let current = (known.producer_id, known.stored.epoch);
        if known.stored.previous == Some(expected) && expected != current {
            // It lost the answer to the same request.
            return Ok(as_reply(&known));
        }
        if expected != current {
            return refuse(Refusal::ProducerFenced {
                transactional_id: transactional_id.to_owned(),
                current: known.stored.epoch,
                found: expected.1,
            });
        }
    }
    if known.stored.state == TransactionState::Ongoing {
        end(ctx, &mut known, false, true)?;
    } else {
        bump(ctx, &mut known)?;
    }
    known.stored.timeout_ms = timeout_ms;
    known.stored.state = TransactionState::Empty;
    put(ctx, &mut known);
    Ok(as_reply(&known))
}

/// The producer's next epoch; a new producer id when there is none.
fn bump(ctx: &mut TopicCtx<'_>, known: &mut Known) -> Applied<()> {
    known.stored.previous = Some((known.producer_id, known.stored.epoch));
    if known.stored.epoch < i16::MAX - 1 {
        known.stored.epoch += 1;
        return Ok(());
    }
    ctx.delete(keys::transaction(known.producer_id));
    known.producer_id = crate::append::next_producer_id(ctx)?;
    known.stored.epoch = 0;
    let key = keys::transactional_id(&known.stored.transactional_id);
    ctx.put(key, stored::encode(&known.producer_id));
    arm_expiry(ctx, known);
    Ok(())
}

fn arm_expiry(ctx: &mut TopicCtx<'_>, known: &Known) {
    let due_at_ms = ctx.now_ms().saturating_add(TRANSACTIONAL_ID_EXPIRY_MS);
    let subject = TimerSubject::TransactionalId { producer_id: known.producer_id };
    timers::arm(ctx, due_at_ms, &subject);
}

fn timeout_of(known: &Known) -> (u64, TimerSubject) {
    let started_at_ms = known.stored.started_at_ms;
    let subject = TimerSubject::Transaction { producer_id: known.producer_id, started_at_ms };
    (started_at_ms.saturating_add(known.stored.timeout_ms), subject)
}

/// Starts a transaction unless one goes on.
fn begin(ctx: &mut TopicCtx<'_>, known: &mut Known) {
    if known.stored.state == TransactionState::Ongoing {
        return;
    }
    known.stored.state = TransactionState::Ongoing;
    known.stored.started_at_ms = ctx.now_ms();
    known.stored.groups.clear();
    let (due_at_ms, subject) = timeout_of(known);
    timers::arm(ctx, due_at_ms, &subject);
}

/// Makes partitions and groups part of the producer's transaction, which starts if none goes on.
pub(crate) fn add(
    ctx: &mut TopicCtx<'_>,
    producer: &TransactionalProducer,
    partitions: &[(TopicId, u32)],
    groups: &[String],
) -> Applied<Reply> {
    let mut known = verified(ctx, producer)?;
    begin(ctx, &mut known);
    for (topic_id, partition) in partitions {
        existing_partition(ctx, *topic_id, *partition)?;
        let key = keys::transaction_partition(known.producer_id, *topic_id, *partition);
        ctx.put(key, Bytes::new());
    }
    known.stored.groups.extend(groups.iter().cloned());
    put(ctx, &mut known);
    Ok(Reply::Done)
}

/// Sets offsets aside until the transaction ends.
pub(crate) fn commit_offsets(
    ctx: &mut TopicCtx<'_>,
    producer: &TransactionalProducer,
    group: &str,
    new: &[NewOffset],
    joins: bool,
) -> Applied<Reply> {
    let mut known = verified(ctx, producer)?;
    let is_member =
        known.stored.state == TransactionState::Ongoing && known.stored.groups.contains(group);
    if !is_member && !joins {
        return refuse(Refusal::NotInTransaction { producer_id: known.producer_id });
    }
    if !is_member {
        begin(ctx, &mut known);
        known.stored.groups.insert(group.to_owned());
        put(ctx, &mut known);
    }
    for new in new {
        let pending = offsets::checked(ctx, new)?;
        let key = keys::pending_offset(group, new.topic_id, new.partition, known.producer_id);
        ctx.put(key, stored::encode(&pending));
    }
    Ok(Reply::Done)
}

/// Ends the producer's transaction.
pub(crate) fn finish(
    ctx: &mut TopicCtx<'_>,
    producer: &TransactionalProducer,
    commits: bool,
    bumps_epoch: bool,
) -> Applied<Reply> {
    let ended = if commits { TransactionState::Committed } else { TransactionState::Aborted };
    if bumps_epoch && let Some(known) = find(ctx, &producer.transactional_id)? {
        // The producer lost the answer to the same request, which gave it a new epoch.
        let is_retry = known.stored.previous == Some((producer.producer_id, producer.epoch));
        if is_retry && known.stored.state == ended {
            return Ok(as_reply(&known));
        }
    }
    let mut known = verified(ctx, producer)?;
    match known.stored.state {
        TransactionState::Ongoing => end(ctx, &mut known, commits, bumps_epoch)?,
        // Aborting what has not begun is how a client moves on after an error.
        _ if bumps_epoch && !commits => {
            bump(ctx, &mut known)?;
            known.stored.state = ended;
        }
        state if state == ended && !bumps_epoch => {}
        _ => return refuse(Refusal::NotInTransaction { producer_id: known.producer_id }),
    }
    put(ctx, &mut known);
    Ok(as_reply(&known))
}

/// Writes the markers, decides the offsets.
fn end(ctx: &mut TopicCtx<'_>, known: &mut Known, commits: bool, bumps_epoch: bool) -> Applied<()> {
    let (due_at_ms, subject) = timeout_of(known);
    timers::disarm(ctx, due_at_ms, &subject);
    let producer_id = known.producer_id;
    let mut joined: Vec<Bytes> = Vec::new();
    ctx.scan_prefix(&keys::transaction_partitions(producer_id), &mut |key, _| {
        joined.push(Bytes::copy_from_slice(key));
        ControlFlow::Continue(())
    })?;
    // The markers have the epoch that is valid from now on, which fences the former one.
    let epoch = known.stored.epoch;
    let producer_epoch = if bumps_epoch { epoch.saturating_add(1) } else { epoch };
    let marker = Marker { producer_id, producer_epoch, is_commit: commits };
    for key in joined {
        if let Some((topic_id, partition)) = keys::transaction_partition_parts(&key) {
            append_marker(ctx, topic_id, partition, marker)?;
        }
        ctx.delete(key);
    }
    for group in std::mem::take(&mut known.stored.groups) {
        decide_offsets(ctx, &group, producer_id, commits)?;
    }
    known.stored.state =
        if commits { TransactionState::Committed } else { TransactionState::Aborted };
    if bumps_epoch { bump(ctx, known) } else { Ok(()) }
}

fn decide_offsets(
    ctx: &mut TopicCtx<'_>,
    group: &str,
    producer_id: i64,
    commits: bool,
) -> Applied<()> {
    let mut pending: Vec<(Bytes, TopicId, u32, Bytes)> = Vec::new();
    ctx.scan_prefix(&keys::pending_offsets_of_group(group), &mut |key, value| {
        if let Some((topic_id, partition, of_producer)) = keys::pending_offset_parts(key)
            && of_producer == producer_id
        {
            pending.push((Bytes::copy_from_slice(key), topic_id, partition, value.clone()));
        }
        ControlFlow::Continue(())
    })?;
    let is_change = commits && !pending.is_empty();
    for (key, topic_id, partition, value) in pending {
        if commits {
            let mut offset: StoredOffset = stored::decode(&key, &value)?;
            offset.committed_at_ms = ctx.now_ms();
            ctx.put(keys::offset(group, topic_id, partition), stored::encode(&offset));
        }
        ctx.delete(key);
    }
    if is_change {
        ctx.emit(Change::OffsetsCommitted { group: group.to_owned() });
    }
    Ok(())
}

/// Whether the producer's batch belongs to its transaction in the partition, which it joins if
/// `joins`.
pub(crate) fn admit(
    ctx: &mut TopicCtx<'_>,
    producer_id: i64,
    epoch: i16,
    topic_id: TopicId,
    partition: u32,
    joins: bool,
) -> Applied<()> {
    let Some(stored) = stored::get(ctx.read(), &keys::transaction(producer_id))? else {
        let transactional_id = String::new();
        return refuse(Refusal::UnknownTransactionalProducer { transactional_id, producer_id });
    };
    let mut known: Known = Known { producer_id, stored };
    let current = known.stored.epoch;
    if epoch != current {
        return refuse(Refusal::StaleProducerEpoch { producer_id, current, found: epoch });
    }
    let key = keys::transaction_partition(producer_id, topic_id, partition);
    let is_joined = known.stored.state == TransactionState::Ongoing && ctx.get(&key)?.is_some();
    if is_joined {
        return Ok(());
    }
    if !joins {
        return refuse(Refusal::NotInTransaction { producer_id });
    }
    begin(ctx, &mut known);
    ctx.put(key, Bytes::new());
    put(ctx, &mut known);
    Ok(())
}

/// Aborts a transaction that took too long.
pub(crate) fn time_out(
    ctx: &mut TopicCtx<'_>,
    producer_id: i64,
    started_at_ms: u64,
) -> Applied<()> {
    let Some(stored) =
        stored::get::<StoredTransaction>(ctx.read(), &keys::transaction(producer_id))?
    else {
        return Ok(());
    };
    let is_same =
        stored.state == TransactionState::Ongoing && stored.started_at_ms == started_at_ms;
    if is_same {
        let mut known = Known { producer_id, stored };
        end(ctx, &mut known, false, true)?;
        // Its producer must not take the new epoch for its own.
        known.stored.previous = None;
        put(ctx, &mut known);
    }
    Ok(())
}

/// Forgets a transactional id that nobody has used for long.
pub(crate) fn expire(ctx: &mut TopicCtx<'_>, producer_id: i64) -> Applied<()> {
    let key = keys::transaction(producer_id);
    let Some(stored) = stored::get::<StoredTransaction>(ctx.read(), &key)? else {
        return Ok(());
    };
    let idle_until_ms = stored.updated_at_ms.saturating_add(TRANSACTIONAL_ID_EXPIRY_MS);
    let is_ongoing = stored.state == TransactionState::Ongoing;
    if is_ongoing || idle_until_ms > ctx.now_ms() {
        // A transaction ends by its timeout, so one that goes on was used lately.
        let due_at_ms = idle_until_ms.max(ctx.now_ms().saturating_add(1));
        timers::arm(ctx, due_at_ms, &TimerSubject::TransactionalId { producer_id });
        return Ok(());
    }
    ctx.delete(keys::transactional_id(&stored.transactional_id));
    ctx.delete(key);
    Ok(())
}
