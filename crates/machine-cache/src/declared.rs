//! Declarations: entries that follow from rows of tables, and events that are written down.
//!
//! The machine keeps them and knows neither tables nor other machines; the composition looks at every
//! commit's changes, and applies what follows from them in the same commit.

use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_machine::{Abort, Ctx};
use proteus_store::{Read, StoreError};
use proteus_types::CommitTs;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::exec::Exec;
use crate::head::Revision;
use crate::{Change, Class, KEY_BYTES_MAX, Refusal, Reply, layout};

/// Declarations of each kind that there may be.
pub const DECLARATIONS_MAX: usize = 256;

/// How long it is remembered that an entry was taken away, in milliseconds: a WATCH of an absent key must
/// not be older.
pub const INVALIDATED_MS: u64 = 60 * 60 * 1000;

/// A piece of a key made of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyPart {
    /// These bytes.
    Text(Vec<u8>),
    /// The text of a column's value.
    Column(String),
}

/// What becomes of the entry when its row changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refresh {
    /// It is removed.
    Invalidate,
    /// It becomes a string: the text of this column.
    Column(String),
    /// It becomes a string: the row as a JSON object.
    Json,
    /// It becomes a hash of these columns; of all if there are none.
    Hash(Vec<String>),
}

/// An entry that follows from a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DerivedEntry {
    /// The table's schema.
    pub schema: String,
    /// The table.
    pub table: String,
    /// The database of the entries.
    pub db: u8,
    /// Their keys.
    pub key: Vec<KeyPart>,
    /// What becomes of them.
    pub refresh: Refresh,
    /// After how many milliseconds a refreshed entry expires.
    pub expire_ms: Option<u64>,
}

/// Where events are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventTarget {
    /// To a stream.
    Stream {
        /// Its key.
        key: Vec<u8>,
        /// Its database.
        db: u8,
        /// About how many entries it keeps.
        length_max: Option<u64>,
    },
    /// To the topic of this name.
    Topic(String),
}

/// Events that are written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedEvents {
    /// Of keys that fit this.
    pub pattern: Vec<u8>,
    /// Of this database only.
    pub db: Option<u8>,
    /// Of these classes, by their letters.
    pub classes: Vec<u8>,
    /// Where to.
    pub target: EventTarget,
}

/// A declaration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Declaration {
    /// Of entries that follow from rows.
    Entry(DerivedEntry),
    /// Of events that are written down.
    Events(RecordedEvents),
}

/// Kinds of declarations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeclarationKind {
    /// [`Declaration::Entry`].
    Entry,
    /// [`Declaration::Events`].
    Events,
}

impl RecordedEvents {
    /// Whether an event is written down.
    pub fn covers(&self, db: u8, key: &[u8], class: Class) -> bool {
        self.db.is_none_or(|wanted| wanted == db)
            && self.classes.contains(&class.letter())
            && crate::matches(&self.pattern, key)
            && !self.is_of_target(db, key)
    }
}

impl RecordedEvents {
    /// A stream tells nothing of itself.
    fn is_of_target(&self, db: u8, key: &[u8]) -> bool {
        match &self.target {
            EventTarget::Stream { key: stream, db: stream_db, .. } => {
                db == *stream_db && *key == **stream
            }
            EventTarget::Topic(_) => false,
        }
    }
}

impl DeclarationKind {
    fn number(self) -> u8 {
        match self {
            DeclarationKind::Entry => 1,
            DeclarationKind::Events => 2,
        }
    }
}

/// Which kinds of declarations there are at all: what every commit asks.
///
/// # Errors
/// If the store fails.
pub fn declared_kinds(state: &dyn Read) -> Result<(bool, bool), StoreError> {
    let bits = state.get(&layout::DECLARED)?.and_then(|bytes| bytes.first().copied()).unwrap_or(0);
    Ok((bits & 1 != 0, bits & 2 != 0))
}

fn decoded<T: DeserializeOwned>(place: &[u8], bytes: &[u8]) -> Result<T, StoreError> {
    postcard::from_bytes(bytes).map_err(|error| StoreError::corrupt(place, error.to_string()))
}

/// All declarations of a kind, by their names.
///
/// # Errors
/// If the store fails.
pub fn declarations(
    state: &dyn Read,
    kind: DeclarationKind,
) -> Result<Vec<(String, Declaration)>, StoreError> {
    let prefix = layout::declaration(kind.number(), b"");
    let mut found = Vec::new();
    let mut fault = None;
    state.scan_prefix(&prefix, &mut |place, bytes| match decoded(place, bytes) {
        Ok(declaration) => {
            let name = place.get(prefix.len()..).unwrap_or_default();
            found.push((String::from_utf8_lossy(name).into_owned(), declaration));
            ControlFlow::Continue(())
        }
        Err(error) => {
            fault = Some(error);
            ControlFlow::Break(())
        }
    })?;
    fault.map_or(Ok(found), Err)
}

/// The events that are written down.
///
/// # Errors
/// If the store fails.
pub fn recorded_events(state: &dyn Read) -> Result<Vec<RecordedEvents>, StoreError> {
    let events = |(_, declaration)| match declaration {
        Declaration::Events(events) => Some(events),
        Declaration::Entry(_) => None,
    };
    Ok(declarations(state, DeclarationKind::Events)?.into_iter().filter_map(events).collect())
}

pub(crate) fn declare(
    ctx: &mut Ctx<'_, Change>,
    name: &str,
    declaration: &Declaration,
) -> Result<Reply, Abort<Refusal>> {
    let kind = match declaration {
        Declaration::Entry(_) => DeclarationKind::Entry,
        Declaration::Events(_) => DeclarationKind::Events,
    };
    let place = layout::declaration(kind.number(), name.as_bytes());
    if name.is_empty() || name.len() > KEY_BYTES_MAX {
        return Ok(Reply::error("ERR a declaration needs a name of at most 60 KiB"));
    }
    if Read::get(ctx, &place)?.is_some() {
        return Ok(Reply::Error(format!("ERR there is a declaration '{name}' already").into()));
    }
    if declarations(ctx, kind)?.len() >= DECLARATIONS_MAX {
        return Ok(Reply::error("ERR there are as many declarations as there may be"));
    }
    match postcard::to_stdvec(declaration) {
        Ok(bytes) => ctx.put(place, bytes),
        Err(error) => return Err(Abort::Fault(StoreError::corrupt(&place, error.to_string()))),
    }
    mark(ctx)?;
    Ok(Reply::OK)
}

pub(crate) fn revoke(
    ctx: &mut Ctx<'_, Change>,
    name: &str,
    kind: DeclarationKind,
) -> Result<Reply, Abort<Refusal>> {
    let place = layout::declaration(kind.number(), name.as_bytes());
    if name.len() > KEY_BYTES_MAX || Read::get(ctx, &place)?.is_none() {
        return Ok(Reply::ZERO);
    }
    ctx.delete(place);
    mark(ctx)?;
    Ok(Reply::Integer(1))
}

/// Writes down which kinds of declarations there are.
fn mark(ctx: &mut Ctx<'_, Change>) -> Result<(), StoreError> {
    let mut bits = 0;
    for kind in [DeclarationKind::Entry, DeclarationKind::Events] {
        let mut has_any = false;
        ctx.scan_prefix(&layout::declaration(kind.number(), b""), &mut |_, _| {
            has_any = true;
            ControlFlow::Break(())
        })?;
        if has_any {
            bits |= kind.number();
        }
    }
    ctx.emit(Change::Declared(recorded_events(ctx)?));
    if bits == 0 {
        ctx.delete(Bytes::from_static(&layout::DECLARED));
    } else {
        ctx.put(Bytes::from_static(&layout::DECLARED), vec![bits]);
    }
    Ok(())
}

/// When an absent key was last taken away by its declaration, if that is remembered.
pub(crate) fn invalidated(
    state: &dyn Read,
    db: u8,
    key: &[u8],
) -> Result<Option<Revision>, StoreError> {
    let stored = state.get(&layout::invalidated(db, key))?;
    let commit_ts = stored.and_then(|bytes| proteus_machine::key::take_u64(&bytes).map(|(n, _)| n));
    Ok(commit_ts.map(|commit_ts| Revision(CommitTs(commit_ts))))
}

/// Where it stands until when is remembered that an entry was taken away at `commit_ts`. By that, and not by the
/// time at which it is applied: a part of a commit over several shards is applied at an earlier time.
pub(crate) fn invalidated_until(commit_ts: CommitTs, db: u8, key: &[u8]) -> Bytes {
    let until_ms = commit_ts.physical_ms().saturating_add(INVALIDATED_MS);
    layout::timed(layout::KIND_INVALIDATED_UNTIL, until_ms, db, key)
}

/// Takes all entries away whose keys fit a pattern.
pub(crate) fn invalidate_matching(
    ctx: &mut Ctx<'_, Change>,
    db: u8,
    pattern: &[u8],
) -> Result<Reply, StoreError> {
    let mut keys = Vec::new();
    Exec::new(ctx, db, 0).scan_keys(0, layout::POSITION_END, &mut |key, _| {
        if crate::matches(pattern, key) {
            keys.push(Bytes::copy_from_slice(key));
        }
        ControlFlow::Continue(())
    })?;
    for key in &keys {
        invalidate(ctx, db, key)?;
    }
    Ok(Reply::Integer(i64::try_from(keys.len()).unwrap_or(i64::MAX)))
}

/// Takes an entry away, and remembers that, so that who looked for it before notices.
pub(crate) fn invalidate(
    ctx: &mut Ctx<'_, Change>,
    db: u8,
    key: &Bytes,
) -> Result<Reply, StoreError> {
    if key.len() > KEY_BYTES_MAX {
        return Ok(Reply::ZERO);
    }
    let commit_ts = ctx.commit_ts();
    if let Some(before) = invalidated(ctx, db, key)? {
        ctx.delete(invalidated_until(before.0, db, key));
    }
    ctx.put(layout::invalidated(db, key), Bytes::copy_from_slice(&commit_ts.0.to_be_bytes()));
    ctx.put(invalidated_until(commit_ts, db, key), Bytes::new());
    let mut exec = Exec::new(ctx, db, 0);
    let was_there = exec.remove(key)?;
    if was_there {
        exec.notify(Class::Generic, "del", key);
    } else {
        // Who waits or keeps a copy of its absence must learn of it too.
        exec.notify(Class::Generic, "invalidated", key);
    }
    Ok(Reply::Integer(i64::from(was_there)))
}

/// Forgets that an entry was taken away, once that is long ago.
pub(crate) fn forget(
    ctx: &mut Ctx<'_, Change>,
    db: u8,
    key: &Bytes,
    until_ms: u64,
) -> Result<Reply, StoreError> {
    if until_ms > ctx.now_ms() {
        return Ok(Reply::ZERO);
    }
    ctx.delete(layout::timed(layout::KIND_INVALIDATED_UNTIL, until_ms, db, key));
    let remembered = invalidated(ctx, db, key)?;
    if remembered.is_some_and(|at| at.0.physical_ms().saturating_add(INVALIDATED_MS) == until_ms) {
        ctx.delete(layout::invalidated(db, key));
    }
    Ok(Reply::OK)
}
