//! Events of keys, written to the streams that are declared to keep them: whoever follows a stream from a
//! cursor misses none, however long it was away.

use bytes::Bytes;
use proteus_machine::{Abort, Position};
use proteus_store::State;

use crate::cache::{self, Call, Class, Declaration, DeclarationKind};
use crate::{Change, Op, Refusal, apply_op};

/// What is inside, and no client of Redis knows.
const INTERNAL: &[&str] = &["xack", "swapdb", "invalidated"];

/// Writes down the events among the changes from `from` on.
pub(crate) fn derive(
    state: &mut dyn State,
    position: Position,
    changes: &mut Vec<Change>,
    from: usize,
) -> Result<(), Abort<Refusal>> {
    let mut records = Vec::new();
    for (_, declaration) in cache::declarations(state, DeclarationKind::Events)? {
        let Declaration::Events(declared) = declaration else { continue };
        for change in changes.get(from..).unwrap_or_default() {
            let (db, key, event) = match change {
                Change::Cache(cache::Change::Key { db, key, class, event, .. })
                    if declared.covers(*db, key, *class) && !INTERNAL.contains(event) =>
                {
                    (*db, key.clone(), *event)
                }
                // All keys at once are no events of each; who follows must know all the same.
                Change::Cache(cache::Change::Cleared { db })
                    if declared.db.is_none_or(|wanted| wanted == *db)
                        && declared.classes.contains(&Class::Generic.letter()) =>
                {
                    (*db, Bytes::new(), "flushdb")
                }
                _ => continue,
            };
            records.push(append(&declared, db, key, event));
        }
    }
    for op in records {
        // A stream's key that holds something else, or a stream at its last id, takes no more: an error
        // is the op's reply, and the change itself goes on.
        apply_op(state, position, &op, changes)?;
    }
    Ok(())
}

fn append(declared: &cache::RecordedEvents, db: u8, key: Bytes, event: &'static str) -> Op {
    let word = Bytes::from_static;
    let mut arguments = vec![word(b"XADD"), Bytes::copy_from_slice(&declared.stream)];
    if let Some(length_max) = declared.length_max {
        arguments.extend([word(b"MAXLEN"), word(b"~"), Bytes::from(length_max.to_string())]);
    }
    arguments.extend([word(b"*"), word(b"event"), word(event.as_bytes()), word(b"key"), key]);
    arguments.extend([word(b"db"), Bytes::from(db.to_string())]);
    let call = Call { db: declared.stream_db, seed: 0, origin: 0, arguments };
    Op::Cache(cache::Op::Command(call))
}
