//! Append-only partitions and consumer groups' offsets: a pure state machine.

use proteus_machine::{Abort, Ctx, Machine, View};
use proteus_store::StoreError;
use serde::{Deserialize, Serialize};

/// The machine: partitions of record batches, producer state, committed offsets.
#[derive(Debug, Clone, Copy)]
pub struct Topic;

/// A predicate on current state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Check {}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {}

/// What an op answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {}

/// Why a check or an op refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {}

/// What followers of the feed learn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {}

impl Machine for Topic {
    const SPACE: u8 = 0x20;
    type Check = Check;
    type Op = Op;
    type Reply = Reply;
    type Refusal = Refusal;
    type Change = Change;

    fn check(_ctx: &mut Ctx<'_, Change>, check: &Check) -> Result<(), Abort<Refusal>> {
        match *check {}
    }

    fn apply(_ctx: &mut Ctx<'_, Change>, op: &Op) -> Result<Reply, Abort<Refusal>> {
        match *op {}
    }

    fn due(_view: View<'_>, _count_max: usize) -> Result<Vec<Op>, StoreError> {
        Ok(Vec::new())
    }
}
