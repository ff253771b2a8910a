//! What a shard keeps of commits over several shards: the part that it tried and may not carry out yet,
//! and what it decided as a coordinator.
//!
//! A part is tried by applying it and taking that back. Nothing else is applied until it is finished, so
//! carrying it out does what trying it did; only the commit timestamp is another, which is the
//! coordinator's.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_machine::{Position, ShardMachine};
use proteus_store::{LayeredStore, Read, State, StoreError};
use proteus_types::{CommitTs, NodeId, ShardId};

use crate::step::{
    Knowledge, Step, StepOutcome, TransactionId, put_shards, take_shard, take_shards, take_u32,
    take_u64,
};

/// Keys of the kernel's own facts, in space 0.
pub(crate) const UNDECIDED_KEY: &[u8] = &[0, 3];
const DECISION_PREFIX: &[u8] = &[0, 4];
/// Commits that somebody was told will not be decided, with the log time from which on they could not be
/// anyway.
const ABORTED_PREFIX: &[u8] = &[0, 5];
/// By participant: the timestamp of the last decision that has a part there.
const PARTICIPANT_PREFIX: &[u8] = &[0, 6];
/// By coordinator: the timestamp of its last decision that was carried out here.
const COORDINATOR_PREFIX: &[u8] = &[0, 7];

/// A part that was tried, and whose commit is not known to be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undecided {
    /// The commit.
    pub transaction: TransactionId,
    /// The shard that decides.
    pub coordinator: ShardId,
    /// When the part was tried.
    pub tried_ts: CommitTs,
    /// How long after that the commit may be decided, in milliseconds.
    pub lease_ms: u32,
}

/// A commit that a coordinator decided, and that it was not told yet to be carried out everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The commit.
    pub transaction: TransactionId,
    /// Its timestamp.
    pub commit_ts: CommitTs,
    /// The other shards that have a part in it.
    pub participants: Vec<ShardId>,
}

/// How a state stands to commits over several shards. It is in the store, too.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    pub(crate) undecided: Option<Undecided>,
    /// What this shard decided and was not told yet to forget.
    pub(crate) decisions: Vec<Decision>,
    /// By participant: the timestamp of the last decision that has a part there.
    pub(crate) participants: BTreeMap<ShardId, CommitTs>,
    /// By coordinator: the timestamp of its last decision that was carried out here.
    pub(crate) coordinators: BTreeMap<ShardId, CommitTs>,
}

/// What followers of the feed are to learn of a step.
pub(crate) struct Changed<C> {
    pub(crate) commit_ts: CommitTs,
    pub(crate) changes: Vec<C>,
}

/// Applies a step that stands at `position`.
pub(crate) fn apply_step<M: ShardMachine>(
    store: &mut LayeredStore,
    standing: &mut Standing,
    position: Position,
    step: &Step<M::Command>,
    changed: &mut Changed<M::Change>,
) -> Result<StepOutcome<M::Outcome>, StoreError> {
    let commit_ts = position.commit_ts;
    let Standing { undecided, decisions, participants: decided_for, coordinators } = standing;
    let changes = &mut changed.changes;
    if matches!(step, Step::Command(_) | Step::Prepare { .. } | Step::Decide { .. }) {
        assert!(undecided.is_none(), "nothing follows a part that was tried until it is finished");
    }
    match step {
        Step::Command(command) => {
            Ok(StepOutcome::Command(M::apply(store, position, command, changes)?))
        }
        Step::Prepare { transaction, coordinator, lease_ms, part } => {
            let outcome = M::apply(store, position, part, &mut Vec::new())?;
            if M::has_happened(&outcome) {
                store.rollback();
                let tried = Undecided {
                    transaction: *transaction,
                    coordinator: *coordinator,
                    tried_ts: commit_ts,
                    lease_ms: *lease_ms,
                };
                let mut bytes = encode_undecided(&tried);
                M::encode(part, &mut bytes);
                store.savepoint();
                store.put(Bytes::from_static(UNDECIDED_KEY), Bytes::from(bytes));
                *undecided = Some(tried);
            }
            Ok(StepOutcome::Prepared { outcome, tried_ts: commit_ts })
        }
        Step::Decide { transaction, until_ms, participants, part } => {
            let is_aborted = store.get(&key_of(ABORTED_PREFIX, *transaction))?.is_some();
            if is_aborted || position.now_ms >= *until_ms {
                return Ok(StepOutcome::Decided(None));
            }
            let outcome = M::apply(store, position, part, changes)?;
            if M::has_happened(&outcome) {
                let decision = encode_decision(commit_ts, participants);
                store.put(key_of(DECISION_PREFIX, *transaction), decision);
                for shard in participants {
                    note(store, PARTICIPANT_PREFIX, decided_for, *shard, commit_ts);
                }
                let (transaction, participants) = (*transaction, participants.clone());
                decisions.push(Decision { transaction, commit_ts, participants });
            }
            Ok(StepOutcome::Decided(Some((outcome, commit_ts))))
        }
        Step::Finish { transaction, commit_ts: decided } => {
            if undecided.is_none_or(|tried| tried.transaction != *transaction) {
                return Ok(StepOutcome::Finished(false));
            }
            let stored = store.get(UNDECIDED_KEY)?;
            let stored = stored.ok_or_else(|| StoreError::corrupt(UNDECIDED_KEY, "missing"))?;
            let (tried, part) = decode_undecided(&stored)?;
            *undecided = None;
            if let Some(decided) = decided {
                let (part, _) = M::decode(part)?;
                let now_ms = tried.tried_ts.physical_ms();
                let position = Position { now_ms, commit_ts: *decided, ..position };
                changed.commit_ts = *decided;
                let done = M::apply(store, position, &part, changes)?;
                assert!(M::has_happened(&done), "what was tried and held can be carried out");
                note(store, COORDINATOR_PREFIX, coordinators, tried.coordinator, *decided);
            } else {
                store.savepoint();
            }
            store.delete(Bytes::from_static(UNDECIDED_KEY));
            Ok(StepOutcome::Finished(true))
        }
        Step::Ask { transaction, until_ms } => {
            store.savepoint();
            forget_aborted(store, position.now_ms)?;
            if let Some(decision) = decisions.iter().find(|d| d.transaction == *transaction) {
                return Ok(StepOutcome::Known(Knowledge::Committed(decision.commit_ts)));
            }
            if position.now_ms < *until_ms {
                let until = Bytes::copy_from_slice(&until_ms.to_le_bytes());
                store.put(key_of(ABORTED_PREFIX, *transaction), until);
            }
            Ok(StepOutcome::Known(Knowledge::Aborted))
        }
        Step::Forget { transaction } => {
            store.savepoint();
            store.delete(key_of(DECISION_PREFIX, *transaction));
            decisions.retain(|decision| decision.transaction != *transaction);
            Ok(StepOutcome::Done)
        }
    }
}

impl Standing {
    /// What the state holds.
    pub(crate) fn stored(store: &LayeredStore) -> Result<Standing, StoreError> {
        // A state that was restored says that nothing is any more by an empty value.
        let undecided = store.get(UNDECIDED_KEY)?.filter(|bytes| !bytes.is_empty());
        let undecided =
            undecided.map(|bytes| decode_undecided(&bytes).map(|(tried, _)| tried)).transpose()?;
        Ok(Standing {
            undecided,
            decisions: stored_decisions(store)?,
            participants: noted(store, PARTICIPANT_PREFIX)?,
            coordinators: noted(store, COORDINATOR_PREFIX)?,
        })
    }
}

fn stored_decisions(state: &dyn Read) -> Result<Vec<Decision>, StoreError> {
    let (mut found, mut fault) = (Vec::new(), None);
    state.scan_prefix(DECISION_PREFIX, &mut |key, value| match transaction_of(key)
        .and_then(|id| decode_decision(id, value))
    {
        Ok(decision) => {
            found.push(decision);
            ControlFlow::Continue(())
        }
        Err(error) => {
            fault = Some(error);
            ControlFlow::Break(())
        }
    })?;
    fault.map_or(Ok(found), Err)
}

/// Forgets what could not be decided any more, were it not aborted.
fn forget_aborted(store: &mut LayeredStore, now_ms: u64) -> Result<(), StoreError> {
    let mut past = Vec::new();
    store.scan_prefix(ABORTED_PREFIX, &mut |key, until| {
        let until_ms = until.first_chunk().map_or(0, |until| u64::from_le_bytes(*until));
        if until_ms <= now_ms {
            past.push(Bytes::copy_from_slice(key));
        }
        ControlFlow::Continue(())
    })?;
    for key in past {
        store.delete(key);
    }
    Ok(())
}

fn key_of(prefix: &[u8], transaction: TransactionId) -> Bytes {
    let mut key = prefix.to_vec();
    key.extend_from_slice(&transaction.node.0.to_be_bytes());
    key.extend_from_slice(&transaction.number.to_be_bytes());
    Bytes::from(key)
}

/// Notes a timestamp for another shard, in the store and beside it.
fn note(
    store: &mut LayeredStore,
    prefix: &[u8],
    noted: &mut BTreeMap<ShardId, CommitTs>,
    shard: ShardId,
    commit_ts: CommitTs,
) {
    let key = Bytes::from([prefix, &shard.0.to_be_bytes()].concat());
    store.put(key, Bytes::copy_from_slice(&commit_ts.0.to_le_bytes()));
    noted.insert(shard, commit_ts);
}

fn noted(state: &dyn Read, prefix: &[u8]) -> Result<BTreeMap<ShardId, CommitTs>, StoreError> {
    let mut noted = BTreeMap::new();
    state.scan_prefix(prefix, &mut |key, ts| {
        let shard = key.last_chunk().map(|shard| ShardId(u32::from_be_bytes(*shard)));
        let ts = ts.first_chunk().map(|ts| CommitTs(u64::from_le_bytes(*ts)));
        noted.extend(shard.zip(ts));
        ControlFlow::Continue(())
    })?;
    Ok(noted)
}

fn transaction_of(key: &[u8]) -> Result<TransactionId, StoreError> {
    let numbers = key.strip_prefix(DECISION_PREFIX).map(<[u8]>::as_chunks::<8>);
    let Some(([node, number], [])) = numbers else {
        return Err(StoreError::corrupt(key, "not the key of a decision"));
    };
    Ok(TransactionId {
        node: NodeId(u64::from_be_bytes(*node)),
        number: u64::from_be_bytes(*number),
    })
}

fn encode_decision(commit_ts: CommitTs, participants: &[ShardId]) -> Bytes {
    let mut bytes = commit_ts.0.to_le_bytes().to_vec();
    put_shards(&mut bytes, participants);
    Bytes::from(bytes)
}

fn decode_decision(transaction: TransactionId, bytes: &[u8]) -> Result<Decision, StoreError> {
    let (commit_ts, rest) = take_u64(bytes)?;
    let (participants, _) = take_shards(rest)?;
    Ok(Decision { transaction, commit_ts: CommitTs(commit_ts), participants })
}

fn encode_undecided(tried: &Undecided) -> Vec<u8> {
    let Undecided { transaction, coordinator, tried_ts, lease_ms } = tried;
    let mut bytes = Vec::new();
    for number in [transaction.node.0, transaction.number, tried_ts.0] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&coordinator.0.to_le_bytes());
    bytes.extend_from_slice(&lease_ms.to_le_bytes());
    bytes
}

fn decode_undecided(bytes: &[u8]) -> Result<(Undecided, &[u8]), StoreError> {
    let (node, rest) = take_u64(bytes)?;
    let (number, rest) = take_u64(rest)?;
    let (tried_ts, rest) = take_u64(rest)?;
    let (coordinator, rest) = take_shard(rest)?;
    let (lease_ms, rest) = take_u32(rest)?;
    let transaction = TransactionId { node: NodeId(node), number };
    let tried_ts = CommitTs(tried_ts);
    Ok((Undecided { transaction, coordinator, tried_ts, lease_ms }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_decision_is_said_to_be_one() {
        let transaction = |number| TransactionId { node: NodeId(1), number };
        let decision = encode_decision(CommitTs(7), &[ShardId(2)]);
        let mut store = LayeredStore::in_memory();
        store.put(key_of(DECISION_PREFIX, transaction(2)), decision.clone());
        let whole = Standing::stored(&store).unwrap();
        assert_eq!(whole.decisions[0].participants, [ShardId(2)]);
        store.put(key_of(DECISION_PREFIX, transaction(1)), decision.slice(..9));
        assert!(Standing::stored(&store).is_err(), "whatever stands behind it");
    }
}
