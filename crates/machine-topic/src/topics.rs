//! Topics: made, grown, configured, removed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_store::Read;

use crate::read::{self, ConfigReader};
use crate::stored::{self, StoredPartition, StoredTopic};
use crate::{
    Applied, Change, PARTITIONS_MAX, Refusal, Reply, TopicCtx, TopicId, keys, refuse, shares,
    tiering, timers,
};

/// Longest name of a topic, in characters, as in Kafka.
const NAME_CHARS_MAX: usize = 249;
/// Entries that one sweep removes, so that a large topic's end does not hold up the log.
const SWEEP_COUNT_MAX: usize = 1_000;

/// What is wrong with a topic's name, if anything. Source: Kafka's `Topic.validate`.
pub fn name_problem(name: &str) -> Option<String> {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() {
        Some("a topic's name must not be empty".to_owned())
    } else if name == "." || name == ".." {
        Some(format!("'{name}' is not a name"))
    } else if name.len() > NAME_CHARS_MAX {
        Some(format!("{} characters are more than the {NAME_CHARS_MAX} allowed", name.len()))
    } else if !name.chars().all(is_legal) {
        Some(format!(
            "'{}' has characters other than ASCII letters, digits, '.', '_' and '-'",
            name.escape_debug()
        ))
    } else {
        None
    }
}

pub(crate) fn create(
    ctx: &mut TopicCtx<'_>,
    name: &str,
    topic_id: TopicId,
    partition_count: u32,
    config: &BTreeMap<String, String>,
) -> Applied<Reply> {
    if let Some(problem) = name_problem(name) {
        return refuse(Refusal::InvalidName(problem));
    }
    if partition_count == 0 || partition_count > PARTITIONS_MAX {
        return refuse(Refusal::InvalidPartitions(format!(
            "a topic has 1 to {PARTITIONS_MAX} partitions, not {partition_count}"
        )));
    }
    if let Some(problem) = ConfigReader(config).problem() {
        return refuse(Refusal::InvalidConfig(problem));
    }
    let is_taken = ctx.get(&keys::topic_by_name(name))?.is_some();
    let is_known = ctx.get(&keys::topic(topic_id))?.is_some();
    if is_taken || is_known || ctx.get(&keys::garbage(topic_id))?.is_some() {
        return refuse(Refusal::TopicExists(name.to_owned()));
    }
    let topic = StoredTopic {
        name: name.to_owned(),
        partition_count,
        config: config.clone(),
        created_at_ms: ctx.now_ms(),
        config_changes: 0,
    };
    ctx.put(keys::topic_by_name(name), stored::encode(&topic_id));
    put_topic(ctx, topic_id, &topic);
    put_empty_partitions(ctx, topic_id, 0..partition_count);
    ctx.emit(Change::TopicCreated { name: name.to_owned(), topic_id });
    Ok(Reply::Done)
}

fn put_topic(ctx: &mut TopicCtx<'_>, topic_id: TopicId, topic: &StoredTopic) {
    ctx.put(keys::topic(topic_id), stored::encode(topic));
}

fn put_empty_partitions(
    ctx: &mut TopicCtx<'_>,
    topic_id: TopicId,
    partitions: std::ops::Range<u32>,
) {
    let empty = stored::encode(&StoredPartition::empty());
    for partition in partitions {
        ctx.put(keys::partition(topic_id, partition), empty.clone());
    }
}

pub(crate) fn existing(ctx: &TopicCtx<'_>, topic_id: TopicId) -> Applied<StoredTopic> {
    match stored::get(ctx.read(), &keys::topic(topic_id))? {
        Some(topic) => Ok(topic),
        None => refuse(Refusal::UnknownTopic(topic_id)),
    }
}

/// The topic and one of its partitions.
pub(crate) fn existing_partition(
    ctx: &TopicCtx<'_>,
    topic_id: TopicId,
    partition: u32,
) -> Applied<(StoredTopic, StoredPartition)> {
    let topic = existing(ctx, topic_id)?;
    match stored::get(ctx.read(), &keys::partition(topic_id, partition))? {
        Some(stored) => Ok((topic, stored)),
        None => {
            refuse(Refusal::UnknownPartition { partition, partition_count: topic.partition_count })
        }
    }
}

pub(crate) fn grow(
    ctx: &mut TopicCtx<'_>,
    topic_id: TopicId,
    partition_count: u32,
) -> Applied<Reply> {
    let mut topic = existing(ctx, topic_id)?;
    let before = topic.partition_count;
    if partition_count <= before || partition_count > PARTITIONS_MAX {
        return refuse(Refusal::InvalidPartitions(format!(
            "topic '{}' has {before} partitions; it can have more, up to {PARTITIONS_MAX}, but not {partition_count}",
            topic.name
        )));
    }
    topic.partition_count = partition_count;
    put_topic(ctx, topic_id, &topic);
    put_empty_partitions(ctx, topic_id, before..partition_count);
    ctx.emit(Change::TopicChanged { topic_id });
    Ok(Reply::Done)
}

pub(crate) fn configure(
    ctx: &mut TopicCtx<'_>,
    topic_id: TopicId,
    config: &BTreeMap<String, Option<String>>,
) -> Applied<Reply> {
    let mut topic = existing(ctx, topic_id)?;
    for (name, value) in config {
        match value {
            Some(value) => topic.config.insert(name.clone(), value.clone()),
            None => topic.config.remove(name),
        };
    }
    if let Some(problem) = ConfigReader(&topic.config).problem() {
        return refuse(Refusal::InvalidConfig(problem));
    }
    topic.config_changes += 1;
    put_topic(ctx, topic_id, &topic);
    for partition in 0..topic.partition_count {
        timers::schedule_retention(ctx, topic_id, partition, &topic)?;
    }
    ctx.emit(Change::TopicChanged { topic_id });
    Ok(Reply::Done)
}

pub(crate) fn delete(ctx: &mut TopicCtx<'_>, topic_id: TopicId) -> Applied<Reply> {
    let topic = existing(ctx, topic_id)?;
    ctx.delete(keys::topic_by_name(&topic.name));
    ctx.delete(keys::topic(topic_id));
    ctx.put(keys::garbage(topic_id), stored::encode(&()));
    let mut committed: Vec<Bytes> = Vec::new();
    read::each_offset(ctx.read(), &keys::offsets(), &mut |key, of_topic| {
        if of_topic == topic_id {
            committed.push(Bytes::copy_from_slice(key));
        }
    })?;
    ctx.scan_prefix(&keys::pending_offsets(), &mut |key, _| {
        if keys::pending_offset_parts(key).is_some_and(|(of_topic, _, _)| of_topic == topic_id) {
            committed.push(Bytes::copy_from_slice(key));
        }
        ControlFlow::Continue(())
    })?;
    for key in committed {
        ctx.delete(key);
    }
    shares::remove_of_topic(ctx, topic_id)?;
    ctx.emit(Change::TopicDeleted { name: topic.name, topic_id });
    Ok(Reply::Done)
}

/// Removes the next entries that a deleted topic left. Timers are left alone: they find nothing.
pub(crate) fn sweep(ctx: &mut TopicCtx<'_>, topic_id: TopicId) -> Applied<Reply> {
    if ctx.get(&keys::garbage(topic_id))?.is_none() {
        return Ok(Reply::Removed(0));
    }
    let discarded = tiering::discard_of_topic(ctx, topic_id, SWEEP_COUNT_MAX)?;
    if discarded > 0 {
        // The next sweep goes on.
        return Ok(Reply::Removed(discarded as u64));
    }
    let mut found: Vec<Bytes> = Vec::new();
    for prefix in keys::left_by(topic_id) {
        ctx.scan_prefix(&prefix, &mut |key, _| {
            if found.len() == SWEEP_COUNT_MAX {
                return ControlFlow::Break(());
            }
            found.push(Bytes::copy_from_slice(key));
            ControlFlow::Continue(())
        })?;
    }
    let count = found.len();
    for key in found {
        ctx.delete(key);
    }
    if count < SWEEP_COUNT_MAX {
        ctx.delete(keys::garbage(topic_id));
    }
    Ok(Reply::Removed(count as u64))
}
