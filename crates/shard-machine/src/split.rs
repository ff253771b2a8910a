//! A minitransaction over several shards: its parts, and their answers as one.
//!
//! Keys of the cache are in the shards of their slots; everything else is in [`ShardId::META`]. A command
//! whose keys are in several shards is divided where that changes nothing to it, and refused otherwise as
//! Redis Cluster refuses it; commands of one minitransaction may be in different shards.
//!
//! What is declared to follow from a part in another shard is not known before the part is applied. It is refused
//! then, with what follows; whoever proposes splits the whole again with that, until no part says that more follows.

use std::collections::BTreeMap;

use proteus_types::{CommitTs, ShardId, SlotMap};

use crate::cache::Consequence;
use crate::cache::spread::{self, Joining, Reach};
use crate::{Check, Minitransaction, Op, Outcome, Refusal, Reply, Ties, cache};

const CROSS_SLOT: &str = "CROSSSLOT Keys in request don't hash to the same slot";

/// The refusal of an op whose keys are in several shards.
pub fn cross_slot(op_index: usize) -> Outcome {
    let refusal = Refusal::Cache(cache::Refusal::Command(CROSS_SLOT.to_owned()));
    Outcome::Refused { op_index, refusal }
}

/// Whether an outcome says that an op's keys are, or may be, in several shards.
pub fn is_cross_slot(outcome: &Outcome) -> bool {
    let Outcome::Refused { refusal: Refusal::Cache(cache::Refusal::Command(text)), .. } = outcome
    else {
        return false;
    };
    text == CROSS_SLOT || text == spread::SORT_ELSEWHERE
}

/// Where a minitransaction goes.
#[derive(Debug)]
pub enum Split {
    /// To one shard, as it is or nearly so.
    One(ShardId, Minitransaction),
    /// To several.
    Several(Vec<(ShardId, Minitransaction)>, Plan),
    /// Nowhere: this is the answer.
    Refused(Outcome),
}

/// How the answers of the parts become one.
#[derive(Debug, Default)]
pub struct Plan {
    /// For each op: how, and from which ops of which shards' parts.
    ops: Vec<(Joining, Vec<(ShardId, usize)>)>,
    /// For each shard: which ops and checks of the whole its own are.
    own_ops: BTreeMap<ShardId, Vec<usize>>,
    own_checks: BTreeMap<ShardId, Vec<usize>>,
}

/// What is known to follow from parts of a minitransaction, by the shards of these.
pub type Known = BTreeMap<ShardId, Vec<Consequence>>;

/// Splits a minitransaction among the shards of `map`.
pub fn split(minitransaction: Minitransaction, map: &SlotMap, known: &Known) -> Split {
    let mut parts = Parts::default();
    for (index, check) in minitransaction.checks.into_iter().enumerate() {
        let key = match &check {
            Check::Cache(check) => spread::checked_key(check),
            Check::Tree(_) | Check::Topic(_) | Check::Table(_) => None,
        };
        let shard = key.map_or(ShardId::META, |key| map.shard_of_key(key));
        parts.of.entry(shard).or_default().checks.push(check);
        parts.plan.own_checks.entry(shard).or_default().push(index);
    }
    for (op_index, op) in minitransaction.ops.into_iter().enumerate() {
        if let Err(text) = parts.add(op_index, op, map) {
            let refusal = Refusal::Cache(cache::Refusal::Command(text.to_owned()));
            return Split::Refused(Outcome::Refused { op_index, refusal });
        }
    }
    for (shard, follows) in known {
        parts.tie(*shard, follows);
    }
    if parts.is_everywhere && map.shards().len() > 1 {
        // There may be a shard that whoever proposes does not know of.
        let check = cache::Check::SlotMapIs { version: map.version };
        parts.of.entry(ShardId::META).or_default().checks.push(check.into());
    }
    let Parts { of, plan, .. } = parts;
    let is_plain = plan.ops.iter().all(|(_, from)| from.len() == 1);
    let mut of: Vec<(ShardId, Minitransaction)> = of.into_iter().collect();
    match of.pop() {
        None => Split::One(ShardId::META, Minitransaction::default()),
        Some((shard, part)) if of.is_empty() && is_plain => Split::One(shard, part),
        Some(last) => {
            of.push(last);
            Split::Several(of, plan)
        }
    }
}

#[derive(Default)]
struct Parts {
    of: BTreeMap<ShardId, Minitransaction>,
    plan: Plan,
    /// An op is for every shard that there is.
    is_everywhere: bool,
}

impl Parts {
    fn add(&mut self, op_index: usize, op: Op, map: &SlotMap) -> Result<(), &'static str> {
        let Op::Cache(op) = op else {
            self.place(op_index, Joining::First, vec![(ShardId::META, op)]);
            return Ok(());
        };
        let of_key = |key: &bytes::Bytes| map.shard_of_key(key);
        let placed = match spread::reach(&op) {
            Reach::Nothing => vec![(ShardId::META, op)],
            Reach::Whole(text) => return Err(text),
            Reach::Everywhere => {
                self.is_everywhere = true;
                map.shards().iter().map(|shard| (*shard, op.clone())).collect()
            }
            Reach::Keys(keys) => {
                let mut shards = keys.iter().map(|key| of_key(key));
                let first = shards.next().unwrap_or(ShardId::META);
                if shards.any(|shard| shard != first) {
                    let same = |a: &bytes::Bytes, b: &bytes::Bytes| of_key(a) == of_key(b);
                    let (joining, divided) = spread::divide(&op, &same).ok_or(CROSS_SLOT)?;
                    let at_home = |op: cache::Op| {
                        let shard = match spread::reach(&op) {
                            Reach::Keys(keys) => keys.first().map(|key| of_key(key)),
                            _ => None,
                        };
                        (shard.unwrap_or(ShardId::META), Op::Cache(op))
                    };
                    self.place(op_index, joining, divided.into_iter().map(at_home).collect());
                    return Ok(());
                }
                vec![(first, op)]
            }
        };
        let placed = placed.into_iter().map(|(shard, op)| (shard, Op::Cache(op))).collect();
        self.place(op_index, Joining::First, placed);
        Ok(())
    }

    /// Gives what follows from one part to those in which it is to happen.
    fn tie(&mut self, shard: ShardId, follows: &[Consequence]) {
        self.ties_of(shard).told = follows.to_vec();
        for Consequence { shard, effect } in follows {
            self.ties_of(*shard).effects.push(effect.clone());
        }
    }

    fn ties_of(&mut self, shard: ShardId) -> &mut Ties {
        self.of.entry(shard).or_default().ties.get_or_insert_default()
    }

    fn place(&mut self, op_index: usize, joining: Joining, placed: Vec<(ShardId, Op)>) {
        let mut from = Vec::with_capacity(placed.len());
        for (shard, op) in placed {
            let part = self.of.entry(shard).or_default();
            from.push((shard, part.ops.len()));
            part.ops.push(op);
            self.plan.own_ops.entry(shard).or_default().push(op_index);
        }
        self.plan.ops.push((joining, from));
    }
}

impl Plan {
    /// The answer of the whole, if every part has happened at `commit_ts`.
    pub fn join(&self, commit_ts: CommitTs, parts: &[(ShardId, Outcome)]) -> Outcome {
        let reply_of = |(shard, index): &(ShardId, usize)| {
            let (_, outcome) = parts.iter().find(|(of, _)| of == shard)?;
            match outcome {
                Outcome::Committed { replies, .. } => replies.get(*index).cloned(),
                _ => None,
            }
        };
        let replies = self.ops.iter().filter_map(|(joining, from)| match joining {
            Joining::First => from.first().and_then(reply_of),
            Joining::Sum => {
                let of_cache = |from| match reply_of(from) {
                    Some(Reply::Cache(reply)) => Some(reply),
                    _ => None,
                };
                let replies: Option<Vec<cache::Reply>> = from.iter().map(of_cache).collect();
                spread::sum_replies(&replies?).map(Reply::Cache)
            }
        });
        Outcome::Committed { commit_ts, replies: replies.collect() }
    }

    /// The answer of the whole, if a part was refused.
    pub fn refused(&self, shard: ShardId, outcome: Outcome) -> Outcome {
        let of_whole = |own: &BTreeMap<ShardId, Vec<usize>>, index: usize| {
            own.get(&shard).and_then(|own| own.get(index)).copied().unwrap_or(index)
        };
        match outcome {
            Outcome::CheckFailed { check_index, refusal } => {
                let check_index = of_whole(&self.own_checks, check_index);
                Outcome::CheckFailed { check_index, refusal }
            }
            Outcome::Refused { op_index, refusal } => {
                Outcome::Refused { op_index: of_whole(&self.own_ops, op_index), refusal }
            }
            committed @ Outcome::Committed { .. } => committed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(words: &[&str]) -> Op {
        Op::Cache(cache::Op::command(words))
    }

    /// Keys of two shards: `{a}` and `{b}` hash to slots of different halves.
    fn map() -> SlotMap {
        let map = SlotMap::even(2);
        assert_ne!(map.shard_of_key(b"{a}"), map.shard_of_key(b"{b}"));
        map
    }

    fn committed(replies: &[i64]) -> Outcome {
        let replies = replies.iter().map(|n| Reply::Cache(cache::Reply::Integer(*n))).collect();
        Outcome::Committed { commit_ts: CommitTs(7), replies }
    }

    #[test]
    fn what_is_in_one_shard_stays_whole() {
        let map = map();
        let mini = Minitransaction::of(op(&["SET", "{a}1", "x"])).op(op(&["DEL", "{a}2"]));
        let Split::One(shard, part) = split(mini.clone(), &map, &Known::new()) else {
            panic!("split")
        };
        assert_eq!((shard, part), (map.shard_of_key(b"{a}"), mini));
        let reserve = Minitransaction::of(crate::table::Op::ReserveTableId);
        assert!(matches!(split(reserve, &map, &Known::new()), Split::One(ShardId::META, _)));
    }

    #[test]
    fn answers_of_parts_are_put_in_their_places() {
        let map = map();
        let (a, b) = (map.shard_of_key(b"{a}"), map.shard_of_key(b"{b}"));
        let mini = Minitransaction::of(op(&["INCR", "{a}"]))
            .op(op(&["INCR", "{b}"]))
            .op(op(&["DEL", "{a}1", "{b}1", "{b}2"]))
            .op(op(&["FLUSHALL"]));
        let Split::Several(parts, plan) = split(mini, &map, &Known::new()) else { panic!("whole") };
        let of = |shard| &parts.iter().find(|(of, _)| *of == shard).unwrap().1.ops;
        assert_eq!(of(a)[..], [op(&["INCR", "{a}"]), op(&["DEL", "{a}1"]), op(&["FLUSHALL"])]);
        let deleted = op(&["DEL", "{b}1", "{b}2"]);
        assert_eq!(of(b)[..], [op(&["INCR", "{b}"]), deleted, op(&["FLUSHALL"])]);
        let outcomes = [(a, committed(&[10, 1, 0])), (b, committed(&[20, 2, 0]))];
        assert_eq!(plan.join(CommitTs(7), &outcomes), committed(&[10, 20, 3, 0]));
        let refusal = Refusal::Cache(cache::Refusal::Command("no".to_owned()));
        let refused = Outcome::Refused { op_index: 1, refusal: refusal.clone() };
        let expected = Outcome::Refused { op_index: 2, refusal };
        assert_eq!(plan.refused(b, refused), expected);
    }

    #[test]
    fn what_follows_from_one_part_is_given_to_another() {
        let map = map();
        let (a, b) = (map.shard_of_key(b"{a}"), map.shard_of_key(b"{b}"));
        let invalidate = cache::Op::Invalidate { db: 0, key: "{b}".into() };
        let effect = cache::Effect::Entry(invalidate);
        let follows = vec![Consequence { shard: b, effect: effect.clone() }];
        let known = Known::from([(a, follows.clone())]);
        let mini = Minitransaction::of(op(&["SET", "{a}", "1"]));
        let Split::Several(parts, _) = split(mini, &map, &known) else { panic!("whole") };
        let ties = |shard| {
            parts.iter().find(|(of, _)| *of == shard).and_then(|(_, part)| part.ties.clone())
        };
        let telling = Ties { effects: Vec::new(), told: follows };
        assert_eq!(ties(a).as_deref(), Some(&telling));
        let told = Ties { effects: vec![effect], told: Vec::new() };
        assert_eq!(ties(b).as_deref(), Some(&told));
    }

    #[test]
    fn what_is_for_every_shard_is_for_those_of_the_map_as_it_is() {
        let map = map();
        let split = split(Minitransaction::of(op(&["FLUSHALL"])), &map, &Known::new());
        let Split::Several(parts, _) = split else { panic!("whole") };
        let check = Check::Cache(cache::Check::SlotMapIs { version: map.version });
        for (shard, part) in parts {
            assert_eq!(part.checks.contains(&check), shard == ShardId::META);
        }
    }

    #[test]
    fn what_cannot_be_divided_is_refused() {
        let map = map();
        for (words, text) in [
            (&["RENAME", "{a}", "{b}"][..], CROSS_SLOT),
            (&["EVAL", "return 1", "2", "{a}", "{b}"], CROSS_SLOT),
            (&["KEYS", "*"], "ERR this command needs all keys"),
        ] {
            let mini = Minitransaction::of(op(&["INCR", "{a}"])).op(op(words));
            let Split::Refused(Outcome::Refused { op_index: 1, refusal }) =
                split(mini, &map, &Known::new())
            else {
                panic!("{words:?}")
            };
            assert!(refusal.to_string().starts_with(text), "{refusal}");
        }
    }
}
