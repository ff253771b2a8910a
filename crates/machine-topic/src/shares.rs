//! What share groups have consumed (KIP-932): which records of a partition are done with, and how often
//! the others were delivered.
//!
//! Who holds a record now, and until when, is not here: that is soft state of whoever leads, and a record
//! whose holder is lost with it is delivered again.

use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_store::{Read, StoreError};
use serde::{Deserialize, Serialize};

use crate::ranges::Ranges;
use crate::topics::existing_partition;
use crate::{Applied, Change, Refusal, Reply, TopicCtx, TopicId, keys, refuse, stored};

/// Stretches of one partition that are told apart at most.
pub const SHARE_RANGES_MAX: usize = 10_000;

/// What has become of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShareState {
    /// It can be delivered, perhaps again.
    Available,
    /// It was delivered and accepted. For good.
    Acknowledged,
    /// It was rejected, delivered too often, or is no record. For good.
    Archived,
}

/// A state and how often the record was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// What has become of it.
    pub state: ShareState,
    /// How often it was delivered.
    pub count: u16,
}

impl Delivery {
    fn is_final(self) -> bool {
        self.state != ShareState::Available
    }
}

/// Records of a partition with the same fate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareRange {
    /// Offset of the first.
    pub first: i64,
    /// Offset of the last, inclusive.
    pub last: i64,
    /// Their fate.
    pub delivery: Delivery,
}

/// A partition as a share group has consumed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharePartition {
    /// All before is done with.
    pub start_offset: i64,
    /// What is known of offsets from there on; in order, and apart from each other. Others are available
    /// and were never delivered, or delivered for the first time when their holder was lost.
    pub ranges: Vec<ShareRange>,
}

fn existing(ctx: &TopicCtx<'_>, key: &[u8], group: &str) -> Applied<SharePartition> {
    match stored::get(ctx.read(), key)? {
        Some(share) => Ok(share),
        None => refuse(Refusal::UnknownShare { group: group.to_owned() }),
    }
}

/// Begins to keep what a group has consumed of a partition, unless that is kept already.
pub(crate) fn begin(
    ctx: &mut TopicCtx<'_>,
    group: &str,
    topic_id: TopicId,
    partition: u32,
    start_offset: i64,
) -> Applied<Reply> {
    let key = keys::share(group, topic_id, partition);
    if ctx.get(&key)?.is_none() {
        put(ctx, group, (topic_id, partition), start_offset)?;
    }
    Ok(Reply::Done)
}

/// Lets a group consume partitions from these offsets on, whatever it has consumed.
pub(crate) fn reset(
    ctx: &mut TopicCtx<'_>,
    group: &str,
    offsets: &[(TopicId, u32, i64)],
) -> Applied<Reply> {
    for (topic_id, partition, start_offset) in offsets {
        put(ctx, group, (*topic_id, *partition), *start_offset)?;
    }
    Ok(Reply::Done)
}

fn put(
    ctx: &mut TopicCtx<'_>,
    group: &str,
    (topic_id, partition): (TopicId, u32),
    start_offset: i64,
) -> Applied<()> {
    let (_, stored) = existing_partition(ctx, topic_id, partition)?;
    let start_offset = start_offset.clamp(stored.log_start_offset, stored.next_offset);
    let share = SharePartition { start_offset, ranges: Vec::new() };
    ctx.put(keys::share(group, topic_id, partition), stored::encode(&share));
    ctx.emit(Change::OffsetsCommitted { group: group.to_owned() });
    Ok(())
}

/// Notes the fate of records. What is done with stays so, so a leader that was deposed meanwhile cannot
/// take it back.
pub(crate) fn update(
    ctx: &mut TopicCtx<'_>,
    group: &str,
    topic_id: TopicId,
    partition: u32,
    changes: &[ShareRange],
) -> Applied<Reply> {
    let (_, of_partition) = existing_partition(ctx, topic_id, partition)?;
    let key = keys::share(group, topic_id, partition);
    let share = existing(ctx, &key, group)?;
    let start_offset = share.start_offset.max(of_partition.log_start_offset);
    let mut ranges = Ranges::default();
    for range in &share.ranges {
        ranges.set(range.first, range.last, Some(range.delivery));
    }
    ranges.remove_before(start_offset);
    for change in changes {
        let first = change.first.max(start_offset);
        let last = change.last.min(of_partition.next_offset - 1);
        for (first, last, before) in ranges.pieces(first, last) {
            if !before.is_some_and(Delivery::is_final) {
                let is_as_new = change.delivery.count == 0 && !change.delivery.is_final();
                ranges.set(first, last, (!is_as_new).then_some(change.delivery));
            }
        }
    }
    let start_offset = first_undone(start_offset, &ranges);
    ranges.remove_before(start_offset);
    if ranges.len() > SHARE_RANGES_MAX {
        return refuse(Refusal::TooManyShareRanges);
    }
    let ranges = ranges.iter().map(|(first, last, delivery)| ShareRange {
        first,
        last,
        delivery: *delivery,
    });
    let share = SharePartition { start_offset, ranges: ranges.collect() };
    ctx.put(key, stored::encode(&share));
    Ok(Reply::Done)
}

/// First offset from `start_offset` on that is not done with.
fn first_undone(start_offset: i64, ranges: &Ranges<Delivery>) -> i64 {
    let mut next = start_offset;
    for (first, last, delivery) in ranges.iter() {
        if first > next || !delivery.is_final() {
            break;
        }
        next = last + 1;
    }
    next
}

/// Forgets what a group has consumed of topics, of all if `topics` is `None`.
pub(crate) fn remove(
    ctx: &mut TopicCtx<'_>,
    group: &str,
    topics: Option<&[TopicId]>,
) -> Applied<Reply> {
    let is_meant = |topic_id: &TopicId| topics.is_none_or(|topics| topics.contains(topic_id));
    let removed = remove_under(ctx, &keys::shares_of_group(group), is_meant)?;
    if removed > 0 {
        ctx.emit(Change::OffsetsCommitted { group: group.to_owned() });
    }
    Ok(Reply::Removed(removed))
}

/// Forgets what all groups have consumed of a topic.
pub(crate) fn remove_of_topic(ctx: &mut TopicCtx<'_>, topic_id: TopicId) -> Applied<()> {
    remove_under(ctx, &keys::shares(), |of_topic| *of_topic == topic_id)?;
    Ok(())
}

fn remove_under(
    ctx: &mut TopicCtx<'_>,
    prefix: &[u8],
    is_meant: impl Fn(&TopicId) -> bool,
) -> Applied<u64> {
    let mut found: Vec<Bytes> = Vec::new();
    ctx.scan_prefix(prefix, &mut |key, _| {
        if keys::offset_parts(key).is_some_and(|(_, topic_id, _)| is_meant(&topic_id)) {
            found.push(Bytes::copy_from_slice(key));
        }
        ControlFlow::Continue(())
    })?;
    let count = found.len() as u64;
    for key in found {
        ctx.delete(key);
    }
    Ok(count)
}

/// What a group has consumed of a partition; `None` if it has not begun.
///
/// # Errors
/// If the store fails.
pub fn share_partition(
    state: &dyn Read,
    group: &str,
    topic_id: TopicId,
    partition: u32,
) -> Result<Option<SharePartition>, StoreError> {
    stored::get(state, &keys::share(group, topic_id, partition))
}

/// The partitions of which a share group has consumed.
///
/// # Errors
/// If the store fails.
pub fn shared_partitions(state: &dyn Read, group: &str) -> Result<Vec<(TopicId, u32)>, StoreError> {
    let mut found = Vec::new();
    state.scan_prefix(&keys::shares_of_group(group), &mut |key, _| {
        found.extend(keys::offset_parts(key).map(|(_, topic_id, partition)| (topic_id, partition)));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// Share groups that have consumed something, whose names come after `after` (exclusive), at most
/// `count_max`, in the order of their names.
///
/// # Errors
/// If the store fails.
pub fn share_groups_after(
    state: &dyn Read,
    after: Option<&str>,
    count_max: usize,
) -> Result<Vec<String>, StoreError> {
    crate::read::groups_under(state, &keys::shares(), keys::shares_of_group, after, count_max)
}
