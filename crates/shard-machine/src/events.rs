//! Events of keys, written to the streams and topics that are declared to keep them: whoever follows one from
//! a cursor misses none, however long it was away.

use std::collections::BTreeMap;

use bytes::Bytes;
use proteus_machine::{Abort, Position};
use proteus_store::State;

use crate::cache::{self, Call, Class, Declaration, DeclarationKind, EventTarget};
use crate::topic::batch::{NewRecord, frame_batch, partition_of_key};
use crate::{Change, Op, Refusal, apply_op, topic};

/// What is inside, and no client of Redis knows.
const INTERNAL: &[&str] = &["xack", "swapdb", "invalidated"];

/// Events are appended to a topic in batches of about so many bytes, or half of what it takes.
const BATCH_BYTES: usize = 256 * 1024;

/// Bytes of a record beside its key.
const RECORD_BYTES: usize = 128;

/// Something that happened to a key, or to all of a database.
struct Event {
    db: u8,
    key: Bytes,
    name: &'static str,
}

/// Writes down the events among the changes from `from` on.
pub(crate) fn derive(
    state: &mut dyn State,
    position: Position,
    changes: &mut Vec<Change>,
    from: usize,
) -> Result<(), Abort<Refusal>> {
    let mut all = Vec::new();
    for (_, declaration) in cache::declarations(state, DeclarationKind::Events)? {
        let Declaration::Events(declared) = declaration else { continue };
        let changes = changes.get(from..).unwrap_or_default();
        let events: Vec<Event> =
            changes.iter().filter_map(|change| covered(&declared, change)).collect();
        if !events.is_empty() {
            all.push((declared.target, events));
        }
    }
    for (target, events) in all {
        match target {
            EventTarget::Stream { key, db, length_max } => {
                for event in events {
                    // A stream's key that holds something else, or a stream at its last id, takes no more:
                    // an error is the op's reply, and the change itself goes on.
                    let op = entry(&key, db, length_max, event);
                    apply_op(state, position, &op, changes)?;
                }
            }
            EventTarget::Topic(name) => append(state, position, changes, &name, events)?,
        }
    }
    Ok(())
}

fn covered(declared: &cache::RecordedEvents, change: &Change) -> Option<Event> {
    match change {
        Change::Cache(cache::Change::Key { db, key, class, event, .. })
            if declared.covers(*db, key, *class) && !INTERNAL.contains(event) =>
        {
            Some(Event { db: *db, key: key.clone(), name: event })
        }
        // All keys at once are no events of each; who follows must know all the same.
        Change::Cache(cache::Change::Cleared { db })
            if declared.db.is_none_or(|wanted| wanted == *db)
                && declared.classes.contains(&Class::Generic.letter()) =>
        {
            Some(Event { db: *db, key: Bytes::new(), name: "flushdb" })
        }
        _ => None,
    }
}

fn entry(stream: &[u8], stream_db: u8, length_max: Option<u64>, event: Event) -> Op {
    let word = Bytes::from_static;
    let mut arguments = vec![word(b"XADD"), Bytes::copy_from_slice(stream)];
    if let Some(length_max) = length_max {
        arguments.extend([word(b"MAXLEN"), word(b"~"), Bytes::from(length_max.to_string())]);
    }
    let Event { db, key, name } = event;
    arguments.extend([word(b"*"), word(b"event"), word(name.as_bytes()), word(b"key"), key]);
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
    events: Vec<Event>,
) -> Result<(), Abort<Refusal>> {
    // Whoever deletes the topic has ended this; the change goes on.
    let Some(found) = topic::read::topic_by_name(state, name)? else { return Ok(()) };
    let said =
        found.config.get(topic::settings::MAX_MESSAGE_BYTES).and_then(|text| text.parse().ok());
    let batch_bytes = said.map_or(BATCH_BYTES, |bytes_max: usize| BATCH_BYTES.min(bytes_max / 2));
    let mut partitions: BTreeMap<u32, Vec<(Vec<NewRecord>, usize)>> = BTreeMap::new();
    for Event { db, key, name } in events {
        let bytes = key.len() + RECORD_BYTES;
        let batches =
            partitions.entry(partition_of_key(Some(&key), found.partition_count)).or_default();
        let value = Bytes::from(format!("{{\"event\":\"{name}\",\"db\":{db}}}"));
        let record = NewRecord { key: Some(key), value: Some(value), headers: Vec::new() };
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
