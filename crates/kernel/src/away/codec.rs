//! How nodes write to each other what is for shards that they do not have; see `away`.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};
use proteus_machine::{KernelError, ShardMachine};
use proteus_types::{CommitTs, Durability, NodeId, ShardId};

use super::{FAILED, PROPOSALS_MAX, Results, SHARDS_MAX, TAKEN, Told};
use crate::pending::Kind;
use crate::step::{Knowledge, StepOutcome, TransactionId};
use crate::undecided::{Standing, Undecided};

pub(super) fn put_proposal(
    into: &mut Vec<u8>,
    (kind, durability): (Kind, Durability),
    count: u32,
    steps: &[u8],
) {
    into.put_u8(match kind {
        Kind::Plain => 0,
        Kind::Gates => 1,
        Kind::Finishes => 2,
    });
    into.put_u8(u8::from(durability == Durability::Relaxed));
    into.put_u32_le(count);
    into.put_u32_le(u32::try_from(steps.len()).unwrap_or(u32::MAX));
    into.extend_from_slice(steps);
}

/// One caller's proposal: what it is, how durable it shall be, how many steps it has, and these.
pub(super) type Proposed = (Kind, Durability, u32, Vec<u8>);

pub(super) fn take_proposals(mut message: Bytes) -> Option<Vec<Proposed>> {
    let count = take_u32(&mut message)? as usize;
    if count > PROPOSALS_MAX {
        return None;
    }
    let mut proposals = Vec::with_capacity(count);
    for _ in 0..count {
        let kind = match take_u8(&mut message)? {
            0 => Kind::Plain,
            1 => Kind::Gates,
            2 => Kind::Finishes,
            _ => return None,
        };
        let is_relaxed = take_u8(&mut message)? != 0;
        let durability = if is_relaxed { Durability::Relaxed } else { Durability::Flushed };
        let commands = take_u32(&mut message)?;
        proposals.push((kind, durability, commands, take_bytes(&mut message)?.to_vec()));
    }
    message.is_empty().then_some(proposals)
}

pub(super) fn put_result<M: ShardMachine>(
    into: &mut Vec<u8>,
    result: Result<Vec<StepOutcome<M::Outcome>>, KernelError>,
) {
    let encoded = result.and_then(|outcomes| {
        let mut bytes = Vec::new();
        bytes.put_u32_le(u32::try_from(outcomes.len()).unwrap_or(u32::MAX));
        for outcome in outcomes {
            put_outcome::<M>(&mut bytes, outcome).ok_or_else(|| {
                let reason = "it happened, and its answer can be told on this node only";
                KernelError::Unavailable(reason.to_owned())
            })?;
        }
        Ok(bytes)
    });
    match encoded {
        Ok(bytes) => {
            into.put_u8(0);
            into.extend_from_slice(&bytes);
        }
        Err(error) => {
            into.put_u8(1);
            put_error(into, &error);
        }
    }
}

pub(super) fn take_results<M: ShardMachine>(mut bytes: Bytes) -> Option<Results<M>> {
    let count = take_u32(&mut bytes)? as usize;
    if count > PROPOSALS_MAX {
        return None;
    }
    let mut results = Vec::with_capacity(count);
    for _ in 0..count {
        if take_u8(&mut bytes)? != 0 {
            results.push(Err(take_error(&mut bytes)?));
            continue;
        }
        let mut outcomes = Vec::new();
        for _ in 0..take_u32(&mut bytes)? {
            outcomes.push(take_outcome::<M>(&mut bytes)?);
        }
        results.push(Ok(outcomes));
    }
    Some(results)
}

pub(super) fn put_outcome<M: ShardMachine>(
    into: &mut Vec<u8>,
    outcome: StepOutcome<M::Outcome>,
) -> Option<()> {
    let mut put = |code: u8, outcome: Option<&M::Outcome>, number: u64| {
        into.put_u8(code);
        into.put_u64_le(number);
        let bytes = outcome.map_or(Some(Vec::new()), M::encode_outcome)?;
        into.put_u32_le(u32::try_from(bytes.len()).ok()?);
        into.extend_from_slice(&bytes);
        Some(())
    };
    match outcome {
        StepOutcome::Command(outcome) => put(0, Some(&outcome), 0),
        StepOutcome::Prepared { outcome, tried_ts } => put(1, Some(&outcome), tried_ts.0),
        StepOutcome::Decided(None) => put(2, None, 0),
        StepOutcome::Decided(Some((outcome, ts))) => put(3, Some(&outcome), ts.0),
        StepOutcome::Known(Knowledge::Committed(ts)) => put(4, None, ts.0),
        StepOutcome::Known(Knowledge::Aborted) => put(5, None, 0),
        StepOutcome::Finished(was_tried) => put(6, None, was_tried.into()),
        StepOutcome::Done => put(7, None, 0),
    }
}

pub(super) fn take_outcome<M: ShardMachine>(bytes: &mut Bytes) -> Option<StepOutcome<M::Outcome>> {
    let (code, number) = (take_u8(bytes)?, take_u64(bytes)?);
    let encoded = take_bytes(bytes)?;
    let outcome = || M::decode_outcome(&encoded);
    Some(match code {
        0 => StepOutcome::Command(outcome()?),
        1 => StepOutcome::Prepared { outcome: outcome()?, tried_ts: CommitTs(number) },
        2 => StepOutcome::Decided(None),
        3 => StepOutcome::Decided(Some((outcome()?, CommitTs(number)))),
        4 => StepOutcome::Known(Knowledge::Committed(CommitTs(number))),
        5 => StepOutcome::Known(Knowledge::Aborted),
        6 => StepOutcome::Finished(number != 0),
        7 => StepOutcome::Done,
        _ => return None,
    })
}

pub(super) fn encode_told(told: &Told, answer: &[u8], newest: CommitTs) -> Bytes {
    let mut bytes = vec![TAKEN];
    bytes.put_u64_le(newest.0);
    bytes.put_u64_le(told.applied_ts.0);
    bytes.put_u64_le(told.standing.undecided.map_or(0, |tried| tried.tried_ts.0));
    for noted in [&told.standing.participants, &told.standing.coordinators] {
        bytes.put_u32_le(u32::try_from(noted.len()).unwrap_or(u32::MAX));
        for (shard, ts) in noted {
            bytes.put_u32_le(shard.0);
            bytes.put_u64_le(ts.0);
        }
    }
    bytes.extend_from_slice(answer);
    Bytes::from(bytes)
}

pub(super) fn take_told(mut bytes: Bytes) -> Option<Told> {
    let applied_ts = CommitTs(take_u64(&mut bytes)?);
    let tried_ts = CommitTs(take_u64(&mut bytes)?);
    let mut noted = || {
        let count = take_u32(&mut bytes)? as usize;
        let mut noted = BTreeMap::new();
        for _ in 0..Some(count).filter(|count| *count <= SHARDS_MAX)? {
            noted.insert(ShardId(take_u32(&mut bytes)?), CommitTs(take_u64(&mut bytes)?));
        }
        Some(noted)
    };
    let (participants, coordinators) = (noted()?, noted()?);
    // Of what is tried there only the time matters here.
    let transaction = TransactionId { node: NodeId(0), number: 0 };
    let undecided = (tried_ts != CommitTs::ZERO).then_some(Undecided {
        transaction,
        coordinator: ShardId::META,
        tried_ts,
        lease_ms: 0,
    });
    let standing = Standing { undecided, decisions: Vec::new(), participants, coordinators };
    Some(Told { applied_ts, standing, answer: bytes })
}

pub(super) fn encode_failed(error: &KernelError) -> Bytes {
    let mut bytes = vec![FAILED];
    put_error(&mut bytes, error);
    Bytes::from(bytes)
}

pub(super) fn put_error(into: &mut Vec<u8>, error: &KernelError) {
    let (code, text, numbers) = match error {
        KernelError::DiskFull(text) => (0, text.as_str(), (0, 0)),
        KernelError::TooLarge { bytes, bytes_max } => (1, "", (*bytes as u64, *bytes_max as u64)),
        KernelError::Overloaded(text) => (2, text.as_str(), (0, 0)),
        KernelError::Unavailable(text) => (3, text.as_str(), (0, 0)),
        KernelError::Stopped(text) => (4, text.as_str(), (0, 0)),
    };
    into.put_u8(code);
    into.put_u64_le(numbers.0);
    into.put_u64_le(numbers.1);
    into.put_u32_le(u32::try_from(text.len()).unwrap_or(u32::MAX));
    into.extend_from_slice(text.as_bytes());
}

pub(super) fn take_error(bytes: &mut Bytes) -> Option<KernelError> {
    let (code, first, second) = (take_u8(bytes)?, take_u64(bytes)?, take_u64(bytes)?);
    let text = String::from_utf8_lossy(&take_bytes(bytes)?).into_owned();
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Some(match code {
        0 => KernelError::DiskFull(text),
        1 => KernelError::TooLarge { bytes: size(first), bytes_max: size(second) },
        2 => KernelError::Overloaded(text),
        // A replica elsewhere that has stopped has not stopped this node.
        _ => KernelError::Unavailable(text),
    })
}

pub(super) fn take_u8(bytes: &mut Bytes) -> Option<u8> {
    bytes.try_get_u8().ok()
}

pub(super) fn take_u32(bytes: &mut Bytes) -> Option<u32> {
    bytes.try_get_u32_le().ok()
}

pub(super) fn take_u64(bytes: &mut Bytes) -> Option<u64> {
    bytes.try_get_u64_le().ok()
}

pub(super) fn take_bytes(bytes: &mut Bytes) -> Option<Bytes> {
    let length = take_u32(bytes)? as usize;
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use proteus_store::{State, StoreError};

    use super::*;

    struct Words;

    impl ShardMachine for Words {
        type Command = u8;
        type Outcome = String;
        type Change = ();

        fn encode(command: &u8, into: &mut Vec<u8>) {
            into.push(*command);
        }

        fn decode(bytes: &[u8]) -> Result<(u8, &[u8]), StoreError> {
            let (first, rest) =
                bytes.split_first().ok_or_else(|| StoreError::corrupt(b"", "cut short"))?;
            Ok((*first, rest))
        }

        fn apply(
            _: &mut dyn State,
            _: proteus_machine::Position,
            _: &u8,
            _: &mut Vec<()>,
        ) -> Result<String, StoreError> {
            Ok(String::new())
        }

        fn has_happened(_: &String) -> bool {
            true
        }

        fn encode_outcome(outcome: &String) -> Option<Vec<u8>> {
            (outcome != "secret").then(|| outcome.as_bytes().to_vec())
        }

        fn decode_outcome(bytes: &[u8]) -> Option<String> {
            String::from_utf8(bytes.to_vec()).ok()
        }

        fn due(_: proteus_machine::View<'_>, _: usize) -> Result<Vec<u8>, StoreError> {
            Ok(Vec::new())
        }

        fn next_due_ms(_: &dyn proteus_store::Read) -> Result<Option<u64>, StoreError> {
            Ok(None)
        }
    }

    fn results() -> Vec<u8> {
        let ts = CommitTs(9);
        let outcome = || "done".to_owned();
        let mut bytes = Vec::new();
        bytes.put_u32_le(3);
        put_result::<Words>(
            &mut bytes,
            Ok(vec![
                StepOutcome::Command(outcome()),
                StepOutcome::Prepared { outcome: outcome(), tried_ts: ts },
                StepOutcome::Decided(None),
                StepOutcome::Decided(Some((outcome(), ts))),
                StepOutcome::Known(Knowledge::Committed(ts)),
                StepOutcome::Known(Knowledge::Aborted),
                StepOutcome::Finished(true),
                StepOutcome::Done,
            ]),
        );
        put_result::<Words>(&mut bytes, Err(KernelError::TooLarge { bytes: 7, bytes_max: 5 }));
        put_result::<Words>(&mut bytes, Ok(vec![StepOutcome::Command("secret".to_owned())]));
        bytes
    }

    fn told() -> Bytes {
        let transaction = TransactionId { node: NodeId(1), number: 2 };
        let (coordinator, tried_ts) = (ShardId(0), CommitTs(4));
        let standing = Standing {
            undecided: Some(Undecided { transaction, coordinator, tried_ts, lease_ms: 1 }),
            decisions: Vec::new(),
            participants: BTreeMap::from([(ShardId(3), CommitTs(5))]),
            coordinators: BTreeMap::from([(ShardId(0), CommitTs(6)), (ShardId(1), CommitTs(7))]),
        };
        let told = Told { applied_ts: CommitTs(8), standing, answer: Bytes::new() };
        encode_told(&told, b"answer", CommitTs(9))
    }

    fn proposals() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.put_u32_le(2);
        put_proposal(&mut bytes, (Kind::Gates, Durability::Flushed), 1, b"one");
        put_proposal(&mut bytes, (Kind::Plain, Durability::Relaxed), 2, b"");
        bytes
    }

    #[test]
    fn what_nodes_tell_each_other_comes_back() {
        let found = take_results::<Words>(Bytes::from(results())).unwrap();
        assert_eq!(found[0].as_ref().unwrap().len(), 8);
        let Ok(StepOutcome::Prepared { outcome, tried_ts }) =
            found[0].as_ref().map(|outcomes| &outcomes[1])
        else {
            panic!("{found:?}")
        };
        assert_eq!((outcome.as_str(), *tried_ts), ("done", CommitTs(9)));
        let too_large = KernelError::TooLarge { bytes: 7, bytes_max: 5 };
        assert_eq!(found[1].as_ref().unwrap_err(), &too_large);
        assert!(matches!(found[2], Err(KernelError::Unavailable(_))), "not to be told");
        let told = take_told(told().slice(9..)).unwrap();
        assert_eq!((told.applied_ts, &told.answer[..]), (CommitTs(8), &b"answer"[..]));
        assert_eq!(told.standing.undecided.map(|tried| tried.tried_ts), Some(CommitTs(4)));
        assert_eq!(told.standing.coordinators.get(&ShardId(1)), Some(&CommitTs(7)));
        let proposals = take_proposals(Bytes::from(proposals())).unwrap();
        assert_eq!(proposals[0], (Kind::Gates, Durability::Flushed, 1, b"one".to_vec()));
        assert_eq!(proposals[1], (Kind::Plain, Durability::Relaxed, 2, Vec::new()));
    }

    #[test]
    fn whatever_a_node_sends_is_decoded_or_refused() {
        let corpus = [results(), told().to_vec(), proposals()];
        proteus_testkit::fuzz::run("away", &corpus, |input| {
            let bytes = Bytes::copy_from_slice(input);
            let _ = take_results::<Words>(bytes.clone());
            let _ = take_told(bytes.clone());
            let _ = take_proposals(bytes.clone());
            let _ = take_error(&mut bytes.clone());
        });
    }
}
