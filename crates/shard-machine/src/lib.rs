//! The composed state machine of a shard: four data models, one minitransaction.
//!
//! A [`Minitransaction`] is checks + ops over any of the machines (Sinfonia, SOSP'07). All checks
//! are held first, in order; then all ops are applied, in order, each computing its reply. If any
//! refuses, nothing happened. This crate knows no protocol and no runtime.
//!
//! What one machine's changes mean to another is in `derive.rs`.
//!
//! Adding a machine is adding one line to [`compose!`](self) below.

mod derive;
mod entries;
mod envelope;
mod events;
mod feeds;
mod split;
mod spread_state;
mod text;
mod together;

use proteus_machine::{Abort, Ctx, Machine, Position, ShardMachine, View};
use proteus_store::{Read, State, StoreError};
use proteus_types::{CommitTs, ShardId};
use serde::{Deserialize, Serialize};

use cache::{Consequence, Effect};

pub use events::may_be_recorded;
pub use proteus_machine_cache as cache;
pub use proteus_machine_table as table;
pub use proteus_machine_topic as topic;
pub use proteus_machine_tree as tree;
pub use split::{Known, Plan, Split, cross_slot, is_cross_slot, split};
pub use spread_state::SpreadState;
pub use together::{Carried, Together, carry_out, keys_together};

/// First byte of an encoded minitransaction: the version of the format.
const FORMAT_VERSION: u8 = 2;

/// A change that one commit applies all or not at all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Minitransaction {
    /// Predicates on current state; all must hold.
    pub checks: Vec<Check>,
    /// Changes, applied in order.
    pub ops: Vec<Op>,
    /// What ties it to the other parts of a commit over several shards, if anything does.
    pub ties: Option<Box<Ties>>,
}

/// What ties a part of a commit over several shards to the others, because something is declared to follow from
/// a change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ties {
    /// What follows here from other parts. Applied after the ops.
    pub effects: Vec<Effect>,
    /// What follows from this part in others, which have it among their effects. If something else follows by
    /// the time that it is applied it is refused.
    pub told: Vec<Consequence>,
}

impl Minitransaction {
    /// One op, no checks.
    pub fn of(op: impl Into<Op>) -> Minitransaction {
        Minitransaction { checks: Vec::new(), ops: vec![op.into()], ties: None }
    }

    /// Adds a check.
    #[must_use]
    pub fn check(mut self, check: impl Into<Check>) -> Minitransaction {
        self.checks.push(check.into());
        self
    }

    /// Adds an op.
    #[must_use]
    pub fn op(mut self, op: impl Into<Op>) -> Minitransaction {
        self.ops.push(op.into());
        self
    }
}

/// What became of a minitransaction.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It happened, at this time, with one reply per op.
    Committed {
        /// When it became visible on every face.
        commit_ts: CommitTs,
        /// What each op answered, in order.
        replies: Vec<Reply>,
    },
    /// Nothing happened, because a check did not hold.
    CheckFailed {
        /// Which check, counted from 0.
        check_index: usize,
        /// Why.
        refusal: Refusal,
    },
    /// Nothing happened, because an op refused, or one that follows from the ops.
    Refused {
        /// Which op, counted from 0; the last one if it was none of them.
        op_index: usize,
        /// Why.
        refusal: Refusal,
    },
}

/// The machine that the kernel runs in every shard.
#[derive(Debug, Clone, Copy)]
pub struct Composed;

macro_rules! compose {
    ($($variant:ident => $machine:ident :: $name:ident),+ $(,)?) => {
        /// A predicate on the state of one machine.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub enum Check { $(#[doc = concat!("Of the ", stringify!($machine), " machine.")] $variant($machine::Check)),+ }

        /// A change to the state of one machine.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub enum Op { $(#[doc = concat!("Of the ", stringify!($machine), " machine.")] $variant($machine::Op)),+ }

        /// What an op answered.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Reply { $(#[doc = concat!("Of the ", stringify!($machine), " machine.")] $variant($machine::Reply)),+ }

        /// Why a check or an op refused.
        #[derive(Debug, Clone, PartialEq, thiserror::Error)]
        pub enum Refusal { $(#[doc = concat!("Of the ", stringify!($machine), " machine.")] #[error(transparent)] $variant($machine::Refusal)),+ }

        /// What followers of the feed learn.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Change { $(#[doc = concat!("Of the ", stringify!($machine), " machine.")] $variant($machine::Change)),+ }

        $(
            impl From<$machine::Check> for Check { fn from(part: $machine::Check) -> Check { Check::$variant(part) } }
            impl From<$machine::Op> for Op { fn from(part: $machine::Op) -> Op { Op::$variant(part) } }
        )+

        fn hold(
            state: &mut dyn State,
            position: Position,
            check: &Check,
            changes: &mut Vec<Change>,
        ) -> Result<(), Abort<Refusal>> {
            match check {
                $(Check::$variant(check) => {
                    let mut emit = |change| changes.push(Change::$variant(change));
                    let mut ctx = Ctx::new(state, position, &mut emit);
                    $machine::$name::check(&mut ctx, check).map_err(|abort| lift(abort, Refusal::$variant))
                })+
            }
        }

        fn apply_op(
            state: &mut dyn State,
            position: Position,
            op: &Op,
            changes: &mut Vec<Change>,
        ) -> Result<Reply, Abort<Refusal>> {
            match op {
                $(Op::$variant(op) => {
                    let mut emit = |change| changes.push(Change::$variant(change));
                    let mut ctx = Ctx::new(state, position, &mut emit);
                    $machine::$name::apply(&mut ctx, op)
                        .map(Reply::$variant)
                        .map_err(|abort| lift(abort, Refusal::$variant))
                })+
            }
        }

        fn due_ops(view: View<'_>, count_max: usize) -> Result<Vec<Op>, StoreError> {
            let mut ops = Vec::new();
            $(ops.extend($machine::$name::due(view, count_max)?.into_iter().map(Op::$variant));)+
            Ok(ops)
        }

        fn next_due_ms_of_any(state: &dyn Read) -> Result<Option<u64>, StoreError> {
            let mut next: Option<u64> = None;
            $(if let Some(at_ms) = $machine::$name::next_due_ms(state)? {
                next = Some(next.map_or(at_ms, |next| next.min(at_ms)));
            })+
            Ok(next)
        }

        /// First bytes of the machines' keys.
        pub const SPACES: &[u8] = &[$($machine::$name::SPACE),+];
    };
}

compose! {
    Tree => tree::Tree,
    Topic => topic::Topic,
    Cache => cache::Cache,
    Table => table::Table,
}

/// Applies what follows from changes of this part from `from` on, and of others, if what follows in others is what
/// they have been given.
fn follow(
    state: &mut dyn State,
    position: Position,
    command: &Minitransaction,
    changes: &mut Vec<Change>,
    from: usize,
) -> Result<(), Abort<Refusal>> {
    let is_declared = |change| matches!(change, &Change::Cache(cache::Change::Declared(_)));
    if position.shard == ShardId::META
        && changes.get(from..).is_some_and(|changes| changes.iter().any(is_declared))
        && !names_map(command)
        && cache::slots::slot_map(state)?.shards().len() > 1
    {
        // Whoever proposed did not know of the others, which are to have it, too.
        return Err(Abort::Refused(Refusal::Cache(cache::Refusal::Elsewhere)));
    }
    let ties = command.ties.as_deref();
    let effects = ties.map_or(&[][..], |ties| &ties.effects);
    for effect in effects {
        if let Effect::Entry(op) = effect {
            apply_op(state, position, &Op::Cache(op.clone()), changes)?;
        }
    }
    let follows = derive::derive(state, position, changes, from)?;
    if follows != ties.map_or(&[][..], |ties| &ties.told) {
        return Err(Abort::Refused(Refusal::Cache(cache::Refusal::Consequences(follows))));
    }
    // Last, so that no events follow from them.
    for effect in effects {
        if let Effect::Events { target, events } = effect {
            events::write(state, position, changes, target, events)?;
        }
    }
    Ok(())
}

/// Whether it holds by one map of slots only, so that it is given to every shard of that.
fn names_map(command: &Minitransaction) -> bool {
    let is_map = |check: &Check| matches!(check, Check::Cache(cache::Check::SlotMapIs { .. }));
    command.checks.iter().any(is_map)
}

fn lift<A, B>(abort: Abort<A>, wrap: impl FnOnce(A) -> B) -> Abort<B> {
    match abort {
        Abort::Refused(refusal) => Abort::Refused(wrap(refusal)),
        Abort::Fault(error) => Abort::Fault(error),
    }
}

impl ShardMachine for Composed {
    type Command = Minitransaction;
    type Outcome = Outcome;
    type Change = Change;

    fn encode(command: &Minitransaction, into: &mut Vec<u8>) {
        into.push(FORMAT_VERSION);
        // Encoding plain data into a growing buffer has no way to fail.
        postcard::serialize_with_flavor(command, Appending(into)).expect("plain data encodes");
    }

    fn decode(bytes: &[u8]) -> Result<(Minitransaction, &[u8]), StoreError> {
        let damaged = |message: String| StoreError::corrupt(b"(log entry)", message);
        match bytes.split_first() {
            Some((&FORMAT_VERSION, rest)) => {
                postcard::take_from_bytes(rest).map_err(|error| damaged(error.to_string()))
            }
            Some((version, _)) => Err(damaged(format!(
                "command of format version {version}, but this binary reads {FORMAT_VERSION}; start the version that wrote it"
            ))),
            None => Err(damaged("command without bytes".to_owned())),
        }
    }

    fn apply(
        state: &mut dyn State,
        position: Position,
        command: &Minitransaction,
        changes: &mut Vec<Change>,
    ) -> Result<Outcome, StoreError> {
        let change_count = changes.len();
        state.savepoint();
        for (check_index, check) in command.checks.iter().enumerate() {
            match hold(state, position, check, changes) {
                Ok(()) => {}
                Err(Abort::Fault(error)) => return Err(error),
                Err(Abort::Refused(refusal)) => {
                    state.rollback();
                    changes.truncate(change_count);
                    return Ok(Outcome::CheckFailed { check_index, refusal });
                }
            }
        }
        let mut replies = Vec::with_capacity(command.ops.len());
        for (op_index, op) in command.ops.iter().enumerate() {
            match apply_op(state, position, op, changes) {
                Ok(reply) => replies.push(reply),
                Err(Abort::Fault(error)) => return Err(error),
                Err(Abort::Refused(refusal)) => {
                    state.rollback();
                    changes.truncate(change_count);
                    return Ok(Outcome::Refused { op_index, refusal });
                }
            }
        }
        match follow(state, position, command, changes, change_count) {
            Ok(()) => Ok(Outcome::Committed { commit_ts: position.commit_ts, replies }),
            Err(Abort::Fault(error)) => Err(error),
            Err(Abort::Refused(refusal)) => {
                state.rollback();
                changes.truncate(change_count);
                let op_index = command.ops.len().saturating_sub(1);
                Ok(Outcome::Refused { op_index, refusal })
            }
        }
    }

    fn concerns_others(outcome: &Outcome) -> bool {
        consequences(outcome).is_some()
    }

    fn first_key(command: &Minitransaction, tell: &mut dyn FnMut(&[u8])) {
        if let Some(Op::Cache(op)) = command.ops.first() {
            cache::first_key(op, tell);
        }
    }

    fn has_happened(outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Committed { .. })
    }

    fn encode_outcome(outcome: &Outcome) -> Option<Vec<u8>> {
        postcard::to_stdvec(&Told::of(outcome)?).ok()
    }

    fn decode_outcome(bytes: &[u8]) -> Option<Outcome> {
        postcard::from_bytes::<Told>(bytes).ok().map(Told::into_outcome)
    }

    fn answer(view: View<'_>, question: &[u8]) -> Result<Vec<u8>, StoreError> {
        let unknown = || StoreError::corrupt(b"(question)", "not a question known here");
        let question = cache::Question::decode(question).ok_or_else(unknown)?;
        Ok(question.answer_of_shard(view)?.encode())
    }

    fn due(view: View<'_>, count_max: usize) -> Result<Vec<Minitransaction>, StoreError> {
        Ok(due_ops(view, count_max)?.into_iter().map(Minitransaction::of).collect())
    }

    fn next_due_ms(state: &dyn Read) -> Result<Option<u64>, StoreError> {
        next_due_ms_of_any(state)
    }
}

/// What follows in other shards from a minitransaction that was refused because of it.
pub fn consequences(outcome: &Outcome) -> Option<&[Consequence]> {
    match outcome {
        Outcome::Refused { refusal: Refusal::Cache(cache::Refusal::Consequences(all)), .. } => {
            Some(all)
        }
        _ => None,
    }
}

/// An outcome in a shard that has nothing but keys of the cache, for a node that has no replica of it.
#[derive(Serialize, Deserialize)]
enum Told {
    Committed { commit_ts: CommitTs, replies: Vec<cache::Reply> },
    CheckFailed { check_index: u32, refusal: cache::Refusal },
    Refused { op_index: u32, refusal: cache::Refusal },
}

impl Told {
    fn of(outcome: &Outcome) -> Option<Told> {
        let index = |index: usize| u32::try_from(index).ok();
        Some(match outcome {
            Outcome::Committed { commit_ts, replies } => {
                let of_cache = |reply: &Reply| match reply {
                    Reply::Cache(reply) => Some(reply.clone()),
                    _ => None,
                };
                let replies = replies.iter().map(of_cache).collect::<Option<Vec<_>>>()?;
                Told::Committed { commit_ts: *commit_ts, replies }
            }
            Outcome::CheckFailed { check_index, refusal: Refusal::Cache(refusal) } => {
                Told::CheckFailed { check_index: index(*check_index)?, refusal: refusal.clone() }
            }
            Outcome::Refused { op_index, refusal: Refusal::Cache(refusal) } => {
                Told::Refused { op_index: index(*op_index)?, refusal: refusal.clone() }
            }
            Outcome::CheckFailed { .. } | Outcome::Refused { .. } => return None,
        })
    }

    fn into_outcome(self) -> Outcome {
        match self {
            Told::Committed { commit_ts, replies } => Outcome::Committed {
                commit_ts,
                replies: replies.into_iter().map(Reply::Cache).collect(),
            },
            Told::CheckFailed { check_index, refusal } => Outcome::CheckFailed {
                check_index: check_index as usize,
                refusal: Refusal::Cache(refusal),
            },
            Told::Refused { op_index, refusal } => {
                Outcome::Refused { op_index: op_index as usize, refusal: Refusal::Cache(refusal) }
            }
        }
    }
}

/// Appends what postcard encodes. Its own flavor for that copies byte by byte, and a record batch is a
/// mebibyte of them.
struct Appending<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Appending<'_> {
    type Output = ();

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(ms: u64) -> Position {
        Position::new(
            proteus_types::ShardId::META,
            proteus_types::Term(1),
            proteus_types::LogIndex(ms),
            CommitTs::from_physical_ms(ms),
        )
    }

    /// Applies at `ms` and returns the outcome and the changes that followers learn.
    fn apply(
        store: &mut proteus_store::LayeredStore,
        ms: u64,
        minitransaction: &Minitransaction,
    ) -> (Outcome, Vec<Change>) {
        let mut changes = Vec::new();
        let outcome =
            Composed::apply(store, position(ms), minitransaction, &mut changes).expect("a store");
        (outcome, changes)
    }

    const FEED: topic::TopicId = topic::TopicId([5; 16]);

    /// A table with a feed of two partitions, which takes batches of so many bytes.
    fn fed_table(bytes_max: usize) -> (proteus_store::LayeredStore, table::TableId) {
        let mut store = proteus_store::LayeredStore::in_memory();
        let column = |name: &str| table::Column {
            name: name.to_owned(),
            column_type: table::ColumnType::BigInt,
            not_null: true,
            default: None,
        };
        let definition = table::Definition {
            schema: "public".to_owned(),
            name: "t".to_owned(),
            columns: vec![column("id"), column("n")],
            primary_key: vec![0],
            source: table::Source::Rows,
        };
        let create = table::Op::CreateTable { id: None, definition, if_not_exists: false };
        let config = [("max.message.bytes".to_owned(), bytes_max.to_string())].into();
        let topic = topic::Op::CreateTopic {
            name: "feed".to_owned(),
            topic_id: FEED,
            partition_count: 2,
            config,
        };
        let (outcome, _) = apply(&mut store, 1, &Minitransaction::of(create).op(topic));
        let Outcome::Committed { replies, .. } = outcome else { panic!("{outcome:?}") };
        let Some(Reply::Table(table::Reply::TableCreated { id, .. })) = replies.first() else {
            panic!("{replies:?}")
        };
        let target = Some(table::FeedTarget(FEED.0));
        let set = Minitransaction::of(table::Op::SetFeed { table: *id, target, tells_rows: true });
        assert!(matches!(apply(&mut store, 2, &set).0, Outcome::Committed { .. }));
        (store, *id)
    }

    fn put(table: table::TableId, id: i64, n: i64) -> table::Op {
        let row = vec![table::Value::Int(id), table::Value::Int(n)];
        let (key, mode) = (table::RowKey::FromColumns, table::PutMode::Upsert);
        table::Op::PutRow { table, key, row, mode }
    }

    /// What each record of the feed says: the row's id, what happened, and its number before and after.
    fn fed(store: &proteus_store::LayeredStore) -> Vec<String> {
        let mut fed = fed_in_order(store);
        fed.sort();
        fed
    }

    /// The same, partition by partition in the order of their offsets.
    fn fed_in_order(store: &proteus_store::LayeredStore) -> Vec<String> {
        let mut fed = Vec::new();
        for partition in 0..2 {
            let limit = topic::read::ReadLimit::Bytes(usize::MAX);
            let found = topic::read::read_batches(store, FEED, partition, 0, i64::MAX, limit);
            for batch in found.unwrap().here().unwrap() {
                for record in topic::batch::decode_records(&batch.bytes, batch.base_offset).unwrap()
                {
                    let record = record.unwrap();
                    let key: serde_json::Value =
                        serde_json::from_slice(&record.key.unwrap()).unwrap();
                    let value = record.value.unwrap_or_else(|| "{}".into());
                    let value: serde_json::Value = serde_json::from_slice(&value).unwrap();
                    fed.push(format!(
                        "{} {} {} {}",
                        key["id"], value["op"], value["before"]["n"], value["after"]["n"]
                    ));
                }
            }
        }
        fed
    }

    #[test]
    fn a_fed_table_tells_each_change_in_the_commit_that_makes_it() {
        let (mut store, table) = fed_table(1_000_000);
        let both =
            Minitransaction::of(put(table, 1, 10)).op(put(table, 2, 20)).op(put(table, 1, 11));
        let (_, changes) = apply(&mut store, 3, &both);
        let is_fed = |change: &Change| matches!(change, Change::Table(table::Change::RowFed(_)));
        assert!(!changes.iter().any(is_fed), "followers are not told twice");
        let appends = changes.iter().filter(|change| matches!(change, Change::Topic(_))).count();
        assert!(appends >= 1, "but of the topic: {changes:?}");
        let mut key = Vec::new();
        table::Value::Int(2).encode_key(&mut key);
        let delete = Minitransaction::of(table::Op::DeleteRow { table, key });
        apply(&mut store, 4, &delete);
        let expected = [
            "1 \"c\" null 10",
            "1 \"u\" 10 11",
            "2 \"c\" null 20",
            "2 \"d\" 20 null",
            "2 null null null",
        ];
        assert_eq!(fed(&store), expected);

        // What aborts tells nothing.
        let check = table::Check::TableUnchanged { table: table::TableId(9) };
        let refused = Minitransaction::of(put(table, 3, 1)).check(check);
        assert!(matches!(apply(&mut store, 5, &refused).0, Outcome::CheckFailed { .. }));
        assert_eq!(fed(&store), expected);

        // A feed whose topic is gone has ended; the table goes on.
        let delete = Minitransaction::of(topic::Op::DeleteTopic { topic_id: FEED });
        apply(&mut store, 6, &delete);
        let (outcome, _) = apply(&mut store, 7, &Minitransaction::of(put(table, 4, 1)));
        assert!(matches!(outcome, Outcome::Committed { .. }));
    }

    #[test]
    fn a_feed_begins_with_the_rows_that_are_there_each_before_its_changes() {
        let (mut store, table) = fed_table(1_000_000);
        let end = table::Op::SetFeed { table, target: None, tells_rows: false };
        apply(&mut store, 3, &Minitransaction::of(end));
        for id in 1..=40 {
            apply(&mut store, 3 + id, &Minitransaction::of(put(table, id as i64, 0)));
        }
        let target = Some(table::FeedTarget(FEED.0));
        let begin = table::Op::SetFeed { table, target, tells_rows: true };
        apply(&mut store, 50, &Minitransaction::of(begin));
        let key = |id: i64| {
            let mut key = Vec::new();
            table::Value::Int(id).encode_key(&mut key);
            key
        };
        let chunk = || Minitransaction::of(table::Op::TellFeed { table, rows_max: 16 });
        let told = |outcome: Outcome| match outcome {
            Outcome::Committed { replies, .. } => match replies.as_slice() {
                [Reply::Table(table::Reply::FeedTold(told))] => *told,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        assert_eq!(told(apply(&mut store, 51, &chunk()).0), 16);
        // Changes of rows before and after that place, of one twice, of one that is new.
        let changes = Minitransaction::of(put(table, 1, 7))
            .op(put(table, 30, 7))
            .op(put(table, 30, 8))
            .op(table::Op::DeleteRow { table, key: key(31) })
            .op(put(table, 99, 7));
        apply(&mut store, 52, &changes);
        apply(&mut store, 53, &Minitransaction::of(put(table, 31, 9)));
        let mut more = 0;
        for at in 54..60 {
            more += told(apply(&mut store, at, &chunk()).0);
        }
        assert_eq!(more, 40 - 16 - 2, "two were told with their changes");
        let fed = fed(&store);
        assert_eq!(fed.iter().filter(|line| line.contains("\"r\" null 0")).count(), 40);
        let of = |id: i64| {
            let of = fed_in_order(&store).into_iter();
            of.filter(|line| line.starts_with(&format!("{id} "))).collect::<Vec<_>>()
        };
        assert_eq!(of(1), ["1 \"r\" null 0", "1 \"u\" 0 7"]);
        assert_eq!(of(30), ["30 \"r\" null 0", "30 \"u\" 0 7", "30 \"u\" 7 8"]);
        let again = ["31 \"r\" null 0", "31 \"d\" 0 null", "31 null null null", "31 \"c\" null 9"];
        assert_eq!(of(31), again);
        assert_eq!(of(99), ["99 \"c\" null 7"]);
        let view = View { state: &store, now_ms: 0, applied_ts: CommitTs::ZERO };
        assert!(Composed::due(view, 8).unwrap().is_empty(), "nothing is left to tell");
    }

    /// A shard of two, and what it was told to follow from its changes: events of `k*` in a stream of the other's.
    fn shard_of_two() -> (proteus_store::LayeredStore, cache::EventTarget) {
        let mut store = proteus_store::LayeredStore::in_memory();
        let mut map = proteus_types::SlotMap::even(2);
        map.version = 1;
        let own = |key: &[u8]| map.shard_of_key(key) == proteus_types::ShardId::META;
        assert!(own(b"{b}k") && own(b"{b}t") && !own(b"{a}s"));
        let target = cache::EventTarget::Stream { key: b"{a}s".into(), db: 0, length_max: None };
        let events = cache::RecordedEvents {
            pattern: b"{b}k*".into(),
            db: None,
            classes: b"$g".into(),
            target: target.clone(),
        };
        let declaration = cache::Declaration::Events(events);
        let declare = cache::Op::Declare { name: "e".to_owned(), declaration };
        let check = cache::Check::SlotMapIs { version: map.version };
        let set = Minitransaction::of(cache::Op::SetSlots { map });
        assert!(matches!(apply(&mut store, 1, &set).0, Outcome::Committed { .. }));
        let found = Minitransaction::of(declare);
        let (outcome, _) = apply(&mut store, 1, &found);
        let elsewhere = Refusal::Cache(cache::Refusal::Elsewhere);
        let unknown = Outcome::Refused { op_index: 0, refusal: elsewhere };
        assert_eq!(outcome, unknown, "the other shard is to have it, too");
        let found = found.check(check);
        assert!(matches!(apply(&mut store, 1, &found).0, Outcome::Committed { .. }));
        (store, target)
    }

    #[test]
    fn what_follows_elsewhere_must_be_told_as_it_is_by_then() {
        let (mut store, target) = shard_of_two();
        let event = |name: &'static str| cache::KeyEvent {
            db: 0,
            key: "{b}k".into(),
            name: std::borrow::Cow::Borrowed(name),
        };
        let follows = |names: &[&'static str]| {
            let events = names.iter().map(|name| event(name)).collect();
            let effect = Effect::Events { target: target.clone(), events };
            vec![Consequence { shard: proteus_types::ShardId(1), effect }]
        };
        let with = |words: &[&str], told| Minitransaction {
            ties: Some(Box::new(Ties { effects: Vec::new(), told })),
            ..Minitransaction::of(cache::Op::command(words))
        };
        let set = Minitransaction::of(cache::Op::command(&["SET", "{b}k", "1"]));
        let (outcome, changes) = apply(&mut store, 2, &set);
        assert_eq!(consequences(&outcome), Some(&follows(&["set"])[..]));
        assert!(changes.is_empty() && Composed::concerns_others(&outcome));
        let (outcome, _) = apply(&mut store, 3, &with(&["SET", "{b}k", "1"], follows(&["set"])));
        assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");

        // What follows is another by the time that it is applied.
        let rename = ["RENAME", "{b}k", "{b}t"];
        let (outcome, _) = apply(&mut store, 4, &with(&rename, follows(&["set"])));
        assert_eq!(consequences(&outcome), Some(&follows(&["rename_from"])[..]));
        let delete = Minitransaction::of(cache::Op::command(&["DEL", "{b}k"]));
        let (outcome, _) = apply(&mut store, 5, &delete);
        assert_eq!(consequences(&outcome), Some(&follows(&["del"])[..]), "it is still there");
        // Nothing follows, and something was told.
        let other = ["SET", "{b}t", "1"];
        let (outcome, _) = apply(&mut store, 6, &with(&other, follows(&["set"])));
        assert_eq!(consequences(&outcome), Some(&[][..]));
        assert!(matches!(
            apply(&mut store, 7, &with(&other, Vec::new())).0,
            Outcome::Committed { .. }
        ));
    }

    #[test]
    fn effects_of_other_parts_have_events_if_they_are_of_entries() {
        let (mut store, _) = shard_of_two();
        let events = |key: &'static str| Effect::Events {
            target: cache::EventTarget::Stream { key: "{b}k".into(), db: 0, length_max: None },
            events: vec![cache::KeyEvent { db: 0, key: key.into(), name: "set".into() }],
        };
        let tied = |effect| Minitransaction {
            ties: Some(Box::new(Ties { effects: vec![effect], told: Vec::new() })),
            ..Minitransaction::default()
        };
        let entry = Effect::Entry(cache::Op::command(&["SET", "{b}k", "1"]));
        let (outcome, _) = apply(&mut store, 2, &tied(entry));
        assert_eq!(consequences(&outcome).map(<[_]>::len), Some(1));
        let (outcome, changes) = apply(&mut store, 3, &tied(events("x")));
        assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
        assert!(!changes.is_empty(), "followers are told of the stream");
        // The keys that effects name may have moved.
        let effect = Effect::Entry(cache::Op::command(&["SET", "{a}s", "1"]));
        let (outcome, _) = apply(&mut store, 4, &tied(effect));
        let elsewhere = Refusal::Cache(cache::Refusal::Elsewhere);
        assert_eq!(outcome, Outcome::Refused { op_index: 0, refusal: elsewhere });
    }

    #[test]
    fn a_feed_that_refuses_undoes_the_commit() {
        let (mut store, table) = fed_table(100);
        let (outcome, changes) = apply(&mut store, 3, &Minitransaction::of(put(table, 1, 10)));
        assert!(matches!(outcome, Outcome::Refused { refusal: Refusal::Topic(_), .. }));
        assert!(changes.is_empty());
        let ts = CommitTs::from_physical_ms(3);
        let rows = table::rows::scan_chunk(&store, table, &[], None, ts, 10).unwrap().rows;
        assert!(rows.is_empty(), "{rows:?}");
    }

    #[test]
    fn machines_do_not_share_a_space() {
        let mut spaces = SPACES.to_vec();
        spaces.sort_unstable();
        spaces.dedup();
        assert_eq!(spaces.len(), SPACES.len());
        assert!(!spaces.contains(&0), "space 0 is the kernel's own");
    }

    /// Whatever stands in a log entry: decoding neither panics nor allocates on its word, and what
    /// decodes encodes to bytes that decode to the same.
    #[test]
    fn fuzz_commands() {
        let minitransaction = Minitransaction::of(cache::Op::command(&["DEL", "k"]))
            .op(table::Op::ReserveTableId)
            .op(topic::Op::AllocateProducerId);
        let mut encoded = Vec::new();
        Composed::encode(&minitransaction, &mut encoded);
        assert_eq!(Composed::decode(&encoded).unwrap().0, minitransaction);
        proteus_testkit::fuzz::run("command", &[encoded], |input| {
            if let Ok((command, _)) = Composed::decode(input) {
                let mut again = Vec::new();
                Composed::encode(&command, &mut again);
                let (decoded, rest) = Composed::decode(&again).expect("our own encoding decodes");
                // Not compared as values: a NaN that the fuzzer found is not equal to itself.
                let mut third = Vec::new();
                Composed::encode(&decoded, &mut third);
                assert_eq!(again, third);
                assert!(rest.is_empty());
            }
        });
    }
}
