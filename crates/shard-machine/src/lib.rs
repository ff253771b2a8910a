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
mod events;
mod text;

use proteus_machine::{Abort, Ctx, Machine, Position, ShardMachine, View};
use proteus_store::{State, StoreError};
use proteus_types::CommitTs;
use serde::{Deserialize, Serialize};

pub use proteus_machine_cache as cache;
pub use proteus_machine_table as table;
pub use proteus_machine_topic as topic;
pub use proteus_machine_tree as tree;

/// First byte of an encoded minitransaction: the version of the format.
const FORMAT_VERSION: u8 = 1;

/// A change that one commit applies all or not at all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Minitransaction {
    /// Predicates on current state; all must hold.
    pub checks: Vec<Check>,
    /// Changes, applied in order.
    pub ops: Vec<Op>,
}

impl Minitransaction {
    /// One op, no checks.
    pub fn of(op: impl Into<Op>) -> Minitransaction {
        Minitransaction { checks: Vec::new(), ops: vec![op.into()] }
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
        let bytes = std::mem::take(into);
        *into = postcard::to_extend(command, bytes).expect("plain data encodes");
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
        match derive::derive(state, position, changes, change_count) {
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

    fn due(view: View<'_>, count_max: usize) -> Result<Vec<Minitransaction>, StoreError> {
        Ok(due_ops(view, count_max)?.into_iter().map(Minitransaction::of).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
