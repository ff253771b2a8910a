//! Commands that need keys of several shards at once, which no shard has: they are carried out on what belongs to
//! these keys, brought together in memory, and what comes of it is committed, if none of the keys has changed since.
//!
//! ```text
//!   keys of all ops ──▶ their rows ──▶ carried out ──▶ commit: every key as it was read │ RESTORE or DEL of the changed
//!        ▲                                  │                           │
//!        └── a script looks at another ─────┴──── one has changed ──────┘
//! ```
//! Ops that need no key, or what every shard has, are committed as they are, before the others.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proteus_machine::{Position, ShardMachine, View};
use proteus_store::StoreError;
use proteus_types::{CommitTs, LogIndex, ShardId, Term};

use crate::cache::spread::{self, Reach};
use crate::cache::{self, Call, Gathered, Parceled, Place, Question};
use crate::{Check, Composed, Minitransaction, Op, Outcome, Reply};

/// A shard that nobody has: ids that are given here are given by no other, and stay here.
const NOWHERE: ShardId = ShardId(0x00FF_FFFF);

/// What becomes of an op.
enum Fate {
    /// It is committed as it is.
    Kept,
    /// It is kept, and empties a database here too, or all.
    Clears(Option<u8>),
    /// It is carried out here.
    CarriedOut,
}

/// What carrying out came to.
pub enum Carried {
    /// These keys are needed too.
    Missing(BTreeSet<Place>),
    /// It was refused, or a check does not hold.
    Refused(Outcome),
    /// It is done once this is committed.
    Ready(Together),
}

/// What is to be committed, and what the answer is then.
pub struct Together {
    /// What is to be committed.
    pub commit: Minitransaction,
    /// So many of its checks say that keys are as they were read; the others are at these places in the whole.
    guard_count: usize,
    kept_checks: Vec<usize>,
    /// So many of its ops are of the whole, as they were.
    kept_ops: Vec<usize>,
    /// What was answered here, by place.
    replies: BTreeMap<usize, Reply>,
}

fn fate_of(op: &Op) -> Option<Fate> {
    let Op::Cache(op) = op else { return Some(Fate::Kept) };
    let call = match op {
        cache::Op::Command(call)
        | cache::Op::OrRefuse(call)
        | cache::Op::Restricted { call, .. } => call,
        _ => return matches!(spread::reach(op), Reach::Nothing).then_some(Fate::Kept),
    };
    match spread::reach_of_call(call) {
        Reach::Keys(_) => Some(Fate::CarriedOut),
        Reach::Nothing => Some(Fate::Kept),
        // What its patterns name is found out by trying.
        Reach::Whole(spread::SORT_ELSEWHERE) => Some(Fate::CarriedOut),
        Reach::Whole(_) => None,
        Reach::Everywhere => match call.arguments.first()?.to_ascii_lowercase().as_slice() {
            b"flushall" => Some(Fate::Clears(None)),
            b"flushdb" => Some(Fate::Clears(Some(call.db))),
            // Keys of which nobody knows change their database.
            b"swapdb" => None,
            _ => Some(Fate::Kept),
        },
    }
}

/// The keys that ops and checks name; `None` if it cannot be carried out on some keys alone.
pub fn keys_together(whole: &Minitransaction) -> Option<BTreeSet<Place>> {
    let mut keys = BTreeSet::new();
    for check in &whole.checks {
        if let Check::Cache(cache::Check::Unchanged { db, key, .. }) = check {
            keys.insert((*db, key.clone()));
        }
    }
    for op in &whole.ops {
        fate_of(op)?;
        let Op::Cache(
            cache::Op::Command(call)
            | cache::Op::OrRefuse(call)
            | cache::Op::Restricted { call, .. },
        ) = op
        else {
            continue;
        };
        let named = match spread::reach_of_call(call) {
            Reach::Keys(named) => named,
            Reach::Whole(_) => spread::named_keys(call),
            Reach::Nothing | Reach::Everywhere => Vec::new(),
        };
        keys.extend(named.into_iter().map(|key| (call.db, key.clone())));
    }
    Some(keys)
}

/// Carries out `whole` on the keys in `state`, at the time of `commit_ts` and `now_ms`.
///
/// # Errors
/// If the store fails; [`StoreError::Away`] if it needs all keys.
pub fn carry_out(
    whole: &Minitransaction,
    state: &mut Gathered<'_>,
    (commit_ts, now_ms): (CommitTs, u64),
) -> Result<Carried, StoreError> {
    let before = heads(state)?;
    let guards = guards(state, (commit_ts, now_ms))?;
    let guard_count = guards.len();
    let mut together = Together {
        commit: Minitransaction { checks: guards, ..Minitransaction::default() },
        guard_count,
        kept_checks: Vec::new(),
        kept_ops: Vec::new(),
        replies: BTreeMap::new(),
    };
    let position =
        Position { shard: NOWHERE, term: Term(0), index: LogIndex(0), commit_ts, now_ms };
    for (place, check) in whole.checks.iter().enumerate() {
        if !matches!(check, Check::Cache(cache::Check::Unchanged { .. })) {
            together.kept_checks.push(place);
            together.commit.checks.push(check.clone());
            continue;
        }
        let held = Minitransaction::default().check(check.clone());
        if let Outcome::CheckFailed { refusal, .. } =
            Composed::apply(state, position, &held, &mut Vec::new())?
        {
            let refused = Outcome::CheckFailed { check_index: place, refusal };
            return Ok(Carried::Refused(refused));
        }
    }
    let (mut messages, mut is_cleared) = (Vec::new(), BTreeSet::new());
    for (place, op) in whole.ops.iter().enumerate() {
        match fate_of(op).ok_or_else(|| StoreError::Away("all keys".to_owned()))? {
            Fate::CarriedOut => {}
            kept => {
                if let Fate::Clears(db) = kept {
                    is_cleared.extend(clear(state, position, db)?);
                }
                together.kept_ops.push(place);
                together.commit.ops.push(op.clone());
                continue;
            }
        }
        let (mut changes, own) = (Vec::new(), Minitransaction::of(op.clone()));
        let applied = Composed::apply(state, position, &own, &mut changes);
        let missing = state.missing();
        if !missing.is_empty() {
            return Ok(Carried::Missing(missing));
        }
        match applied? {
            Outcome::Committed { replies, .. } => {
                together.replies.extend(replies.into_iter().next().map(|reply| (place, reply)));
            }
            Outcome::Refused { refusal, .. } | Outcome::CheckFailed { refusal, .. } => {
                return Ok(Carried::Refused(Outcome::Refused { op_index: place, refusal }));
            }
        }
        messages.extend(changes.into_iter().filter_map(message));
    }
    let view = View { state: &*state, now_ms, applied_ts: commit_ts };
    for key in state.keys() {
        if before.get(key) != state.head(key)?.as_ref() || is_cleared.contains(key) {
            together.commit.ops.push(installing(view, key)?);
        }
    }
    together.commit.ops.extend(messages);
    Ok(Carried::Ready(together))
}

fn heads(state: &Gathered<'_>) -> Result<BTreeMap<Place, Bytes>, StoreError> {
    let mut heads = BTreeMap::new();
    for key in state.keys() {
        heads.extend(state.head(key)?.map(|head| (key.clone(), head)));
    }
    Ok(heads)
}

/// That all keys are as they were read.
fn guards(state: &Gathered<'_>, (_, now_ms): (CommitTs, u64)) -> Result<Vec<Check>, StoreError> {
    let guard = |(db, key): &Place| {
        let revision = cache::revision(state, now_ms, *db, key)?;
        Ok(cache::Check::Unchanged { db: *db, key: key.clone(), revision }.into())
    };
    state.keys().iter().map(guard).collect()
}

/// Empties a database, or all; says which keys may have been in it.
fn clear(
    state: &mut Gathered<'_>,
    position: Position,
    db: Option<u8>,
) -> Result<Vec<Place>, StoreError> {
    let is_in = |key: &&Place| db.is_none_or(|db| key.0 == db);
    let keys: Vec<Place> = state.keys().iter().filter(is_in).cloned().collect();
    for (db, key) in &keys {
        let arguments = vec![Bytes::from_static(b"DEL"), key.clone()];
        let op = cache::Op::Command(Call { db: *db, seed: 0, origin: 0, arguments });
        Composed::apply(state, position, &Minitransaction::of(op), &mut Vec::new())?;
    }
    Ok(keys)
}

/// What makes a key what it is in `view`.
fn installing(view: View<'_>, (db, key): &Place) -> Result<Op, StoreError> {
    let question = Question::Parcels { db: *db, keys: vec![key.clone()] };
    let parcels = question.answer(view)?.into_parcels(1).unwrap_or_default();
    let word = Bytes::from_static;
    let arguments = match parcels.into_iter().next() {
        Some(Parceled::There(parcel)) => {
            let at_ms = Bytes::from(parcel.expire_at_ms.unwrap_or(0).to_string());
            let (restore, key) = (word(b"RESTORE"), key.clone());
            vec![restore, key, at_ms, parcel.payload, word(b"REPLACE"), word(b"ABSTTL")]
        }
        _ => vec![word(b"DEL"), key.clone()],
    };
    Ok(cache::Op::Command(Call { db: *db, seed: 0, origin: 0, arguments }).into())
}

/// A message that a script has published, as an op.
fn message(change: crate::Change) -> Option<Op> {
    let crate::Change::Cache(cache::Change::Published { channel, message, is_sharded }) = change
    else {
        return None;
    };
    let name: &[u8] = if is_sharded { b"SPUBLISH" } else { b"PUBLISH" };
    let arguments = vec![Bytes::copy_from_slice(name), channel, message];
    Some(cache::Op::Command(Call { db: 0, seed: 0, origin: 0, arguments }).into())
}

impl Together {
    /// What the whole came to, now that its commit came to this; `None` if a key has changed since it was read.
    pub fn outcome(self, committed: Outcome) -> Option<Outcome> {
        let Together { guard_count, kept_checks, kept_ops, mut replies, .. } = self;
        match committed {
            Outcome::Committed { commit_ts, replies: of_commit } => {
                replies.extend(kept_ops.into_iter().zip(of_commit));
                Some(Outcome::Committed { commit_ts, replies: replies.into_values().collect() })
            }
            Outcome::CheckFailed { check_index, refusal } => {
                let kept = check_index.checked_sub(guard_count)?;
                let check_index = kept_checks.get(kept).copied().unwrap_or(kept);
                Some(Outcome::CheckFailed { check_index, refusal })
            }
            Outcome::Refused { op_index, refusal } => {
                let op_index = kept_ops.get(op_index).copied().unwrap_or(op_index);
                Some(Outcome::Refused { op_index, refusal })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proteus_store::LayeredStore;

    use super::*;

    const NOW: (CommitTs, u64) = (CommitTs(77_000 << 16), 77_000);

    fn apply(store: &mut LayeredStore, ts: u64, whole: &Minitransaction) -> Outcome {
        let position = Position {
            shard: ShardId::META,
            term: Term(1),
            index: LogIndex(ts),
            commit_ts: CommitTs(ts << 16),
            now_ms: ts,
        };
        Composed::apply(store, position, whole, &mut Vec::new()).expect("a store")
    }

    fn mini(lines: &[&[&str]]) -> Minitransaction {
        lines
            .iter()
            .fold(Minitransaction::default(), |mini, line| mini.op(cache::Op::command(line)))
    }

    fn filled() -> LayeredStore {
        let mut store = LayeredStore::in_memory();
        let big: Vec<String> = (0..600).map(|number| format!("member:{number}")).collect();
        let mut wide = vec!["SADD", "wide"];
        wide.extend(big.iter().map(String::as_str));
        let fill = mini(&[
            &["SET", "a", "1"],
            &["SET", "e", "soon", "PXAT", "99000"],
            &["RPUSH", "l", "x", "y"],
            &["SADD", "s", "m", "n"],
            &wide,
            &["HSET", "h", "f", "v"],
            &["XADD", "st", "1-1", "f", "v"],
            &["MSET", "weight:x", "b", "weight:y", "a", "name:x", "Ex"],
        ]);
        assert!(matches!(apply(&mut store, 5, &fill), Outcome::Committed { .. }));
        store
    }

    /// Brings keys together until none is missing, as a node does; says how many tries it took.
    fn together(store: &LayeredStore, whole: &Minitransaction) -> (Carried, usize) {
        let mut keys = keys_together(whole).expect("some keys");
        for tries in 1..10 {
            let of_db =
                |db: u8| keys.iter().filter(move |key| key.0 == db).map(|key| key.1.clone());
            let rows = (0..2).map(|db| {
                let question = Question::Rows { db, keys: of_db(db).collect() };
                let view = View { state: store, now_ms: NOW.1, applied_ts: NOW.0 };
                match question.answer(view) {
                    Ok(cache::Answer::Rows(rows)) => rows,
                    other => panic!("{other:?}"),
                }
            });
            let mut state = Gathered::new(keys.clone(), rows.collect::<Vec<_>>(), store);
            match carry_out(whole, &mut state, NOW).expect("a store") {
                Carried::Missing(missing) => keys.extend(missing),
                carried => return (carried, tries),
            }
        }
        panic!("keys are always missing");
    }

    /// What all keys hold, as DUMP tells.
    fn contents(store: &LayeredStore) -> Vec<(cache::Reply, Option<cache::Reply>, cache::Reply)> {
        let view = View { state: store, now_ms: NOW.1, applied_ts: NOW.0 };
        let ask = |words: &[Bytes]| {
            let call = Call { db: 0, seed: 0, origin: 0, arguments: words.to_vec() };
            cache::answer(view, &call).expect("a store")
        };
        let word = Bytes::from_static;
        let cache::Reply::Array(keys) = ask(&[word(b"KEYS"), word(b"*")]) else { panic!() };
        let of = |key: cache::Reply| {
            let cache::Reply::Bulk(name) = &key else { panic!() };
            let dump = ask(&[word(b"DUMP"), name.clone()]);
            let at = ask(&[word(b"PEXPIRETIME"), name.clone()]);
            (key, Some(dump), at)
        };
        keys.into_iter().map(of).collect()
    }

    #[test]
    fn what_is_carried_out_together_is_what_one_shard_would_do() {
        let cases: &[&[&[&str]]] = &[
            &[&["RENAME", "a", "b"]],
            &[&["RENAME", "e", "b"], &["COPY", "b", "c"]],
            &[&["SUNIONSTORE", "all", "s", "wide"], &["SCARD", "all"]],
            &[&["SMOVE", "wide", "s", "member:3"]],
            &[&["LMOVE", "l", "other", "LEFT", "RIGHT"], &["LMOVE", "l", "other", "LEFT", "RIGHT"]],
            &[&["MSETNX", "a", "2", "new", "3"]],
            &[&["RENAMENX", "a", "l"], &["SET", "a", "4"]],
            &[&["BLPOP", "none", "l", "0"]],
            &[
                &["SET", "b", "1"],
                &["FLUSHALL"],
                &["SET", "a", "9"],
                &["MSETNX", "x", "1", "y", "2"],
            ],
            &[&[
                "EVAL",
                "redis.call('SET', KEYS[1], redis.call('GET', 'a')) return redis.call('LLEN', 'l') + redis.call('EXISTS', 'nowhere')",
                "2",
                "to",
                "s",
            ]],
            &[&[
                "EVAL",
                "redis.call('SELECT', 1) redis.call('SET', 'q', 'p') return redis.call('GET', 'q')",
                "2",
                "to",
                "s",
            ]],
            &[&[
                "SORT", "l", "BY", "weight:*", "GET", "#", "GET", "name:*", "ALPHA", "STORE", "out",
            ]],
            &[&["XREAD", "STREAMS", "st", "gone", "0", "0"]],
            &[&["INCR", "l"], &["RENAME", "gone", "b"], &["DEL", "h", "s"]],
            &[&["PFMERGE", "hll", "a"], &["BITOP", "OR", "bits", "a", "e"]],
        ];
        for lines in cases {
            let whole = mini(lines);
            let (mut direct, mut spread) = (filled(), filled());
            let expected = apply(&mut direct, NOW.1, &whole);
            let (Carried::Ready(ready), tries) = together(&spread, &whole) else {
                panic!("{lines:?} is refused");
            };
            assert!(tries <= 4, "{lines:?}");
            let committed = apply(&mut spread, NOW.1, &ready.commit.clone());
            let outcome = ready.outcome(committed).expect("nothing has changed");
            assert_eq!(outcome, expected, "{lines:?}");
            assert_eq!(contents(&spread), contents(&direct), "{lines:?}");
        }
    }

    #[test]
    fn it_is_done_only_if_no_key_has_changed_since_it_was_read() {
        let whole = mini(&[&["RENAME", "a", "b"]]);
        for change in [&["SET", "a", "2"], &["SET", "b", "1"]] {
            let mut store = filled();
            let (Carried::Ready(ready), _) = together(&store, &whole) else { panic!() };
            apply(&mut store, 6, &mini(&[change]));
            let before = contents(&store);
            let committed = apply(&mut store, NOW.1, &ready.commit.clone());
            assert!(ready.outcome(committed).is_none());
            assert_eq!(contents(&store), before);
        }
    }

    #[test]
    fn what_needs_all_keys_or_does_not_hold_is_refused() {
        assert!(keys_together(&mini(&[&["SWAPDB", "0", "1"], &["RENAME", "a", "b"]])).is_none());
        assert!(keys_together(&mini(&[&["DBSIZE"], &["RENAME", "a", "b"]])).is_none());
        let store = filled();
        let keys = || Gathered::new(BTreeSet::new(), Vec::new(), &store);
        let script = mini(&[&["EVAL", "return redis.call('KEYS', '*')", "2", "a", "b"]]);
        assert!(matches!(carry_out(&script, &mut keys(), NOW), Err(StoreError::Away(_))));
        let failing = Minitransaction::default()
            .check(cache::Check::Unchanged {
                db: 0,
                key: Bytes::from_static(b"a"),
                revision: cache::Revision::ABSENT,
            })
            .op(cache::Op::command(&["RENAME", "a", "b"]));
        let (carried, _) = together(&store, &failing);
        assert!(matches!(carried, Carried::Refused(Outcome::CheckFailed { check_index: 0, .. })));
        let refused = Minitransaction::of(cache::Op::OrRefuse(Call::new(&["LPUSH", "a", "x"])));
        let (carried, _) = together(&store, &refused.op(cache::Op::command(&["RENAME", "a", "b"])));
        assert!(matches!(carried, Carried::Refused(Outcome::Refused { op_index: 0, .. })));
    }
}
