//! What holds for all nodes and is no data: users, parameters, declarations. A setting is bytes under a
//! name; what they mean, those who read them know.

use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_machine::{Abort, Ctx};
use proteus_store::{Read, StoreError};

use crate::{Change, KEY_BYTES_MAX, Refusal, Reply, layout};

/// Longest value of a setting, in bytes.
pub const SETTING_BYTES_MAX: usize = 1024 * 1024;

/// The value of a setting.
///
/// # Errors
/// If the store fails.
pub fn setting(state: &dyn Read, name: &str) -> Result<Option<Bytes>, StoreError> {
    if name.len() > KEY_BYTES_MAX {
        return Ok(None);
    }
    state.get(&layout::named(layout::KIND_SETTING, name.as_bytes()))
}

/// All settings whose names begin with `prefix`, in their order.
///
/// # Errors
/// If the store fails.
pub fn settings(state: &dyn Read, prefix: &str) -> Result<Vec<(String, Bytes)>, StoreError> {
    let own_bytes = layout::named(layout::KIND_SETTING, b"").len();
    let mut found = Vec::new();
    state.scan_prefix(
        &layout::named(layout::KIND_SETTING, prefix.as_bytes()),
        &mut |place, value| {
            let name = place.get(own_bytes..).unwrap_or_default();
            found.push((String::from_utf8_lossy(name).into_owned(), value.clone()));
            ControlFlow::Continue(())
        },
    )?;
    Ok(found)
}

pub(crate) fn check(
    ctx: &Ctx<'_, Change>,
    name: &str,
    expected: Option<&Bytes>,
) -> Result<(), Abort<Refusal>> {
    if setting(ctx, name)?.as_ref() == expected {
        Ok(())
    } else {
        Err(Abort::Refused(Refusal::SettingChanged { name: name.to_owned() }))
    }
}

pub(crate) fn put(ctx: &mut Ctx<'_, Change>, name: &str, value: Option<&Bytes>) -> Reply {
    if name.len() > KEY_BYTES_MAX || value.is_some_and(|value| value.len() > SETTING_BYTES_MAX) {
        return Reply::error("ERR a setting is longer than it may be");
    }
    let place = layout::named(layout::KIND_SETTING, name.as_bytes());
    match value {
        Some(value) => ctx.put(place, value.clone()),
        None => ctx.delete(place),
    }
    ctx.emit(Change::Setting { name: name.to_owned(), value: value.cloned() });
    Reply::OK
}
