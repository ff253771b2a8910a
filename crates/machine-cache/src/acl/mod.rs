//! Who may do what: Redis' ACL.
//!
//! A user is a list of [`Selector`]s; a command is allowed if one of them allows it with all its keys and
//! channels. A user is stored as the line that ACL LIST shows, under the name of a setting, and is made of
//! it by applying its rules again. Scripts are checked command by command where they are applied, so all
//! of this is pure.
//!
//! Source: "ACL" (redis.io); which command is of which category and where its keys stand is what COMMAND
//! answers of Redis 7, in `commands.txt`.

mod catalog;
mod check;
mod rules;

use proteus_store::{Read, StoreError};

use crate::settings::setting;

pub use catalog::{CATEGORIES, Fact, FindKeys, KeyBegin, KeySpec, facts, find_fact, resolve};
pub use check::{Denied, key_uses};
pub use rules::{BadRule, Pattern, Selector, User, password_hash};

/// What the name of a setting begins with that holds a user.
pub const SETTING_PREFIX: &str = "user/";

/// Whether the password is that of a user who is stored, and who may do everything: other faces than Redis'
/// know no rules. `None` of a user who is not stored.
///
/// # Errors
/// If the store fails.
pub fn admits_unrestricted(
    state: &dyn Read,
    name: &str,
    password: &[u8],
) -> Result<Option<bool>, StoreError> {
    let Some(rules) = setting(state, &format!("{SETTING_PREFIX}{name}"))? else { return Ok(None) };
    let user = User::from_rules(name, &String::from_utf8_lossy(&rules));
    Ok(Some(user.is_ok_and(|user| user.is_unrestricted && user.admits(password))))
}

#[cfg(test)]
mod tests;
