//! Events of keys, written to the streams and topics that are declared to keep them: whoever follows one from
//! a cursor misses none, however long it was away.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use proteus_machine::{Abort, Position};
use proteus_store::{State, StoreError};
use proteus_types::ShardId;

use crate::cache::spread::{self, Reach};
use crate::cache::{self, Call, Class, Effect, EventTarget, KeyEvent};
use crate::derive::Deriving;
use crate::topic::batch::{NewRecord, frame_batch, partition_of_key};
use crate::{Change, Minitransaction, Op, Refusal, apply_op, topic};

/// What is inside, and no client of Redis knows.
const INTERNAL: &[&str] = &["xack", "swapdb", "invalidated"];

/// Events are appended to a topic in batches of about so many bytes, or half of what it takes.
const BATCH_BYTES: usize = 256 * 1024;

/// Bytes of a record beside its key.
const RECORD_BYTES: usize = 128;

/// Whether events of a minitransaction may be written down, as far as that can be told without applying it.
pub fn may_be_recorded(mini: &Minitransaction, declared: &[cache::RecordedEvents]) -> bool {
    let is_covered =
        |key: &Bytes| declared.iter().any(|declared| cache::matches(&declared.pattern, key));
    let may_be = |op: &Op| match op {
        Op::Cache(op) => match spread::reach(op) {
            Reach::Keys(keys) => spread::is_script(op) || keys.into_iter().any(is_covered),
            Reach::Nothing => spread::is_script(op),
            Reach::Everywhere | Reach::Whole(_) => true,
        },
        // Of entries that follow from rows.
        Op::Table(_) => true,
        Op::Tree(_) | Op::Topic(_) => false,
    };
    !declared.is_empty() && mini.ops.iter().any(may_be)
}

/// Writes down, or tells, the events among the changes.
pub(crate) fn derive(deriving: &mut Deriving<'_>) -> Result<(), Abort<Refusal>> {
    // Each shard clears its own keys, and one of them says so.
    let is_cleared = |change| matches!(change, &Change::Cache(cache::Change::Cleared { .. }));
    let tells_clearing = deriving.changed().iter().any(is_cleared)
        && deriving.shards()?.first().is_none_or(|first| *first == deriving.position.shard);
    let mut all = Vec::new();
    for declared in cache::recorded_events(deriving.state)? {
        let covered = |change: &Change| covered(&declared, change, tells_clearing);
        let events: Vec<KeyEvent> = deriving.changed().iter().filter_map(covered).collect();
        if !events.is_empty() {
            all.push((declared.target, events));
        }
    }
    for (target, events) in all {
        match shard_of(deriving, &target)? {
            None => write(deriving.state, deriving.position, deriving.changes, &target, &events)?,
            Some(shard) => deriving.tell(shard, Effect::Events { target, events }),
        }
    }
    Ok(())
}

/// The other shard in which a target is; `None` if it is here.
fn shard_of(deriving: &Deriving<'_>, target: &EventTarget) -> Result<Option<ShardId>, StoreError> {
    match target {
        EventTarget::Stream { key, .. } => deriving.shard_of_key(key),
        EventTarget::Topic(_) => {
            Ok(Some(ShardId::META).filter(|meta| *meta != deriving.position.shard))
        }
    }
}

/// Writes events to a target that is here.
pub(crate) fn write(
    state: &mut dyn State,
    position: Position,
    changes: &mut Vec<Change>,
    target: &EventTarget,
    events: &[KeyEvent],
) -> Result<(), Abort<Refusal>> {
    match target {
        EventTarget::Stream { key, db, length_max } => {
            for event in events {
                // A stream's key that holds something else, or a stream at its last id, takes no more:
                // an error is the op's reply, and the change itself goes on.
                let op = entry(key, *db, *length_max, event);
                apply_op(state, position, &op, changes)?;
            }
            Ok(())
        }
        EventTarget::Topic(name) => append(state, position, changes, name, events),
    }
}

fn covered(
    declared: &cache::RecordedEvents,
    change: &Change,
    tells_clearing: bool,
) -> Option<KeyEvent> {
    match change {
        Change::Cache(cache::Change::Key { db, key, class, event, .. })
            if declared.covers(*db, key, *class) && !INTERNAL.contains(event) =>
        {
            Some(KeyEvent { db: *db, key: key.clone(), name: Cow::Borrowed(event) })
        }
        // All keys at once are no events of each; who follows must know all the same.
        Change::Cache(cache::Change::Cleared { db })
            if tells_clearing
                && declared.db.is_none_or(|wanted| wanted == *db)
                && declared.classes.contains(&Class::Generic.letter()) =>
        {
            Some(KeyEvent { db: *db, key: Bytes::new(), name: Cow::Borrowed("flushdb") })
        }
        _ => None,
    }
}

fn entry(stream: &[u8], stream_db: u8, length_max: Option<u64>, event: &KeyEvent) -> Op {
    let word = Bytes::from_static;
    let mut arguments = vec![word(b"XADD"), Bytes::copy_from_slice(stream)];
    if let Some(length_max) = length_max {
        arguments.extend([word(b"MAXLEN"), word(b"~"), Bytes::from(length_max.to_string())]);
    }
    let KeyEvent { db, key, name } = event;
    let name = match name {
        Cow::Borrowed(name) => word(name.as_bytes()),
        Cow::Owned(name) => Bytes::copy_from_slice(name.as_bytes()),
    };
    arguments.extend([word(b"*"), word(b"event"), name, word(b"key"), key.clone()]);
    arguments.extend([word(b"db"), Bytes::from(db.to_string())]);
    let call = Call { db: stream_db, seed: 0, origin: 0, arguments };
    Op::Cache(cache::Op::Command(call))
}

/// Appends events to a topic: those of one key keep their order, in one partition.
fn append(
    state: &mut dyn State,
    position: Position,
    changes: &mut Vec<Change>,
    name: &str,
    events: &[KeyEvent],
) -> Result<(), Abort<Refusal>> {
    // Whoever deletes the topic has ended this; the change goes on.
    let Some(found) = topic::read::topic_by_name(state, name)? else { return Ok(()) };
    let said =
        found.config.get(topic::settings::MAX_MESSAGE_BYTES).and_then(|text| text.parse().ok());
    let batch_bytes = said.map_or(BATCH_BYTES, |bytes_max: usize| BATCH_BYTES.min(bytes_max / 2));
    let mut partitions: BTreeMap<u32, Vec<(Vec<NewRecord>, usize)>> = BTreeMap::new();
    for KeyEvent { db, key, name } in events {
        let bytes = key.len() + RECORD_BYTES;
        let batches =
            partitions.entry(partition_of_key(Some(key), found.partition_count)).or_default();
        let value = Bytes::from(format!("{{\"event\":\"{name}\",\"db\":{db}}}"));
        let record = NewRecord { key: Some(key.clone()), value: Some(value), headers: Vec::new() };
        match batches.last_mut() {
            Some((records, so_far)) if *so_far + bytes <= batch_bytes => {
                records.push(record);
                *so_far += bytes;
            }
            _ => batches.push((vec![record], bytes)),
        }
    }
    let timestamp_ms = position.commit_ts.physical_ms().cast_signed();
    for (partition, batches) in partitions {
        for (records, _) in batches {
            let Some(batch) = frame_batch(&records, timestamp_ms) else { continue };
            let op = Op::Topic(topic::Op::Append { topic_id: found.topic_id, partition, batch });
            match apply_op(state, position, &op, changes) {
                // A topic that does not take it, because it is a copy of another or its batches must be
                // smaller, has said so before it changed anything.
                Ok(_) | Err(Abort::Refused(_)) => {}
                Err(fault) => return Err(fault),
            }
        }
    }
    Ok(())
}
