//! Settings of groups, as Kafka's administrators make them. The machine keeps them and heeds none.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use proteus_machine::key::take_string;
use proteus_store::{Read, StoreError};

use crate::{Applied, Change, Reply, TopicCtx, keys, stored};

/// Settings by name.
pub type Settings = BTreeMap<String, String>;

pub(crate) fn configure(
    ctx: &mut TopicCtx<'_>,
    group: &str,
    changes: &BTreeMap<String, Option<String>>,
) -> Applied<Reply> {
    let key = keys::group_settings(group);
    let mut settings: Settings = stored::get(ctx.read(), &key)?.unwrap_or_default();
    for (name, value) in changes {
        match value {
            Some(value) => settings.insert(name.clone(), value.clone()),
            None => settings.remove(name),
        };
    }
    if settings.is_empty() {
        ctx.delete(key);
    } else {
        ctx.put(key, stored::encode(&settings));
    }
    ctx.emit(Change::GroupConfigured { group: group.to_owned() });
    Ok(Reply::Done)
}

/// The settings of a group; none if it was given none.
///
/// # Errors
/// If the store fails.
pub fn settings(state: &dyn Read, group: &str) -> Result<Settings, StoreError> {
    Ok(stored::get(state, &keys::group_settings(group))?.unwrap_or_default())
}

/// Groups that have settings, at most `count_max`, in the order of their names.
///
/// # Errors
/// If the store fails.
pub fn configured(state: &dyn Read, count_max: usize) -> Result<Vec<String>, StoreError> {
    let mut groups = Vec::new();
    state.scan_prefix(&keys::all_group_settings(), &mut |key, _| {
        let name = key.get(2..).and_then(take_string);
        groups.extend(name.and_then(|(name, _)| String::from_utf8(name).ok()));
        if groups.len() < count_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(groups)
}
