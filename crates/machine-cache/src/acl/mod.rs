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

pub use catalog::{CATEGORIES, Fact, FindKeys, KeyBegin, KeySpec, facts, find_fact, resolve};
pub use check::{Denied, key_uses};
pub use rules::{BadRule, Pattern, Selector, User, password_hash};

#[cfg(test)]
mod tests;
