//! What one machine's changes mean to another, in the same minitransaction.
//!
//! Machines do not know each other. After the ops of a minitransaction were applied, their changes are
//! looked through here, and ops of other machines are applied that follow from them; if one of these
//! refuses, nothing of the minitransaction has happened.
//!
//! - A row changed: cache entries that are declared to follow from it are removed or written anew.
//! - A row of a table with a feed changed: its envelope is appended to the feed's topic.
//! - A key changed: the event is written to the streams that are declared to keep it.
//!
//! Where keys are spread over shards, some of this is to happen in others: it is not applied but told, and
//! [`Composed`](crate::Composed) refuses what does not say the same.

use proteus_machine::{Abort, Position};
use proteus_store::{State, StoreError};
use proteus_types::ShardId;

use crate::cache::slots::Whereabouts;
use crate::cache::{Consequence, Effect};
use crate::{Change, Op, Refusal, apply_op, cache, entries, events, feeds};

/// Applying what follows from the changes of one minitransaction.
pub(crate) struct Deriving<'a> {
    pub(crate) state: &'a mut dyn State,
    pub(crate) position: Position,
    pub(crate) changes: &'a mut Vec<Change>,
    /// The first change of this minitransaction.
    pub(crate) from: usize,
    whereabouts: Whereabouts,
    /// What is to happen in other shards.
    elsewhere: Vec<Consequence>,
}

impl Deriving<'_> {
    /// The changes so far.
    pub(crate) fn changed(&self) -> &[Change] {
        self.changes.get(self.from..).unwrap_or_default()
    }

    pub(crate) fn apply(&mut self, op: &Op) -> Result<(), Abort<Refusal>> {
        apply_op(self.state, self.position, op, self.changes).map(drop)
    }

    /// The other shard that has a key of the cache; `None` if it is here.
    pub(crate) fn shard_of_key(&self, key: &[u8]) -> Result<Option<ShardId>, StoreError> {
        self.whereabouts.elsewhere(self.state, key)
    }

    /// All shards, if there are several.
    pub(crate) fn shards(&self) -> Result<&[ShardId], StoreError> {
        self.whereabouts.shards(self.state)
    }

    pub(crate) fn tell(&mut self, shard: ShardId, effect: Effect) {
        self.elsewhere.push(Consequence { shard, effect });
    }
}

/// Applies what follows from the changes from `from` on, and returns what follows in other shards.
pub(crate) fn derive(
    state: &mut dyn State,
    position: Position,
    changes: &mut Vec<Change>,
    from: usize,
) -> Result<Vec<Consequence>, Abort<Refusal>> {
    feeds::derive(state, position, changes, from)?;
    let is_about_data = |change: &Change| matches!(change, Change::Table(_) | Change::Cache(_));
    if !changes.get(from..).is_some_and(|changes| changes.iter().any(is_about_data)) {
        return Ok(Vec::new());
    }
    let (has_entries, has_events) = cache::declared_kinds(state)?;
    if !has_entries && !has_events {
        return Ok(Vec::new());
    }
    let whereabouts = Whereabouts::of(state)?;
    let elsewhere = Vec::new();
    let mut deriving = Deriving { state, position, changes, from, whereabouts, elsewhere };
    if has_entries {
        entries::derive(&mut deriving)?;
    }
    if has_events {
        events::derive(&mut deriving)?;
    }
    Ok(deriving.elsewhere)
}
