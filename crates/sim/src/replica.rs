//! A state machine over a store, without log and consensus: entries go in, bytes come out.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_machine::{Position, ShardMachine, View};
use proteus_shard_machine::{Change, Minitransaction, Outcome};
use proteus_store::{LayeredStore, Read, State, StoreError};
use proteus_types::{CommitTs, LogIndex, Term};

/// Where a replica keeps the index of the last entry it applied: a key of the kernel's space.
const APPLIED_KEY: &[u8] = &[0, 1];

/// What one entry of a log holds: when its first command commits, and its commands.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Commit timestamp of the first command.
    pub first_ts: CommitTs,
    /// Its commands, in order.
    pub commands: Vec<Minitransaction>,
}

impl Entry {
    /// Commit timestamp of the last command.
    pub fn last_ts(&self) -> CommitTs {
        self.first_ts.plus(self.commands.len().saturating_sub(1) as u64)
    }
}

/// What one command came to: its outcome, and what followers of the feed learned.
pub type Applied = (Outcome, Vec<Change>);

/// All keys and values of a store.
pub type Bytewise = BTreeMap<Vec<u8>, Bytes>;

/// Whose commands, outcomes and changes the simulation understands: the composed machine, or it with
/// a planted bug.
pub trait Machine:
    ShardMachine<Command = Minitransaction, Outcome = Outcome, Change = Change>
{
}

impl<M> Machine for M where
    M: ShardMachine<Command = Minitransaction, Outcome = Outcome, Change = Change>
{
}

/// Applies `entry` as the kernel does: through the log's encoding, position and state in one step.
///
/// # Errors
/// If the machine finds its state damaged.
pub fn apply_entry<M: Machine>(
    store: &mut LayeredStore,
    index: LogIndex,
    entry: &Entry,
) -> Result<Vec<Applied>, StoreError> {
    let mut encoded = Vec::new();
    for command in &entry.commands {
        M::encode(command, &mut encoded);
    }
    let mut rest = &encoded[..];
    let mut applied = Vec::new();
    for place in 0..entry.commands.len() as u64 {
        let (command, after) = M::decode(rest)?;
        rest = after;
        let position =
            Position::new(proteus_types::ShardId::META, Term(1), index, entry.first_ts.plus(place));
        let mut changes = Vec::new();
        let outcome = M::apply(store, position, &command, &mut changes)?;
        applied.push((outcome, changes));
    }
    store.savepoint();
    store.put(Bytes::from_static(APPLIED_KEY), index.0.to_be_bytes().to_vec().into());
    Ok(applied)
}

/// Index of the last entry that the store contains.
///
/// # Errors
/// If the store fails.
pub fn applied_index(store: &LayeredStore) -> Result<LogIndex, StoreError> {
    let value = store.get(APPLIED_KEY)?;
    let index = value.and_then(|value| Some(u64::from_be_bytes(*value.first_chunk::<8>()?)));
    Ok(LogIndex(index.unwrap_or(0)))
}

/// What `store` holds.
///
/// # Errors
/// If the store fails.
pub fn bytewise(store: &dyn Read) -> Result<Bytewise, StoreError> {
    let mut found = Bytewise::new();
    store.scan_prefix(&[], &mut |key, value| {
        found.insert(key.to_vec(), value.clone());
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// The state as a reader sees it right after the commit at `applied_ts`.
pub fn view(store: &LayeredStore, applied_ts: CommitTs) -> View<'_> {
    View { state: store, now_ms: applied_ts.physical_ms(), applied_ts }
}

/// The first difference between two states, for people.
pub fn difference(left: &Bytewise, right: &Bytewise) -> Option<String> {
    let keys = left.keys().chain(right.keys());
    let key = keys.filter(|key| left.get(*key) != right.get(*key)).min()?;
    let show = |value: Option<&Bytes>| {
        value.map_or("nothing".to_owned(), |value| format!("\"{}\"", value.escape_ascii()))
    };
    let (left, right) = (show(left.get(key)), show(right.get(key)));
    Some(format!("under \"{}\" {left} and {right}", key.escape_ascii()))
}
