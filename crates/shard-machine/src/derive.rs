//! What one machine's changes mean to another, in the same minitransaction.
//!
//! Machines do not know each other. After the ops of a minitransaction were applied, their changes are
//! looked through here, and ops of other machines are applied that follow from them; if one of these
//! refuses, nothing of the minitransaction has happened.
//!
//! - A row changed: cache entries that are declared to follow from it are removed or written anew.
//! - A row of a table with a feed changed: its envelope is appended to the feed's topic.
//! - A key changed: the event is written to the streams that are declared to keep it.

use proteus_machine::{Abort, Position};
use proteus_store::State;

use crate::{Change, Refusal, cache, entries, events, feeds};

/// Applies what follows from the changes from `from` on.
pub(crate) fn derive(
    state: &mut dyn State,
    position: Position,
    changes: &mut Vec<Change>,
    from: usize,
) -> Result<(), Abort<Refusal>> {
    feeds::derive(state, position, changes, from)?;
    let is_about_data = |change: &Change| matches!(change, Change::Table(_) | Change::Cache(_));
    if !changes.get(from..).is_some_and(|changes| changes.iter().any(is_about_data)) {
        return Ok(());
    }
    let (has_entries, has_events) = cache::declared_kinds(state)?;
    if has_entries {
        entries::derive(state, position, changes, from)?;
    }
    if has_events {
        events::derive(state, position, changes, from)?;
    }
    Ok(())
}
