//! ACL, as far as it tells: users are the node's accounts, and each may do everything.

use bytes::Bytes;
use proteus_kernel_api::cache::{Reply, parse_integer};

use super::{unknown, word};
use crate::errors::wrong_arity;
use crate::reply::text;
use crate::session::Session;
use crate::session::server::docs::categories;
use crate::table;

/// All categories, in the order in which Redis lists them.
const CATEGORIES: &[&str] = &[
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

impl Session {
    pub(super) fn acl(&self, arguments: &[Bytes]) -> Reply {
        match (word(arguments).as_slice(), arguments.len()) {
            (b"WHOAMI", 2) => text(self.user.clone()),
            (b"CAT", 2) => Reply::Array(CATEGORIES.iter().map(|name| text(*name)).collect()),
            (b"CAT", 3) => {
                let wanted = String::from_utf8_lossy(&arguments[2]).to_lowercase();
                if !CATEGORIES.contains(&wanted.as_str()) {
                    return Reply::Error(format!("ERR Unknown category '{wanted}'").into());
                }
                let fits = |found: &table::Found| categories(*found).contains(&wanted.as_str());
                Reply::Array(
                    table::all().into_iter().filter(fits).map(|found| text(found.name())).collect(),
                )
            }
            (b"GENPASS", 2 | 3) => {
                let bits = match arguments.get(2).map(|bits| parse_integer(bits)) {
                    None => 256,
                    Some(Some(bits @ 1..=4096)) => bits.unsigned_abs() as usize,
                    Some(_) => {
                        return Reply::error(
                            "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096",
                        );
                    }
                };
                let random: [u8; 512] = proteus_env::random::random_bytes();
                let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
                text(&digits[..bits.div_ceil(4)])
            }
            (
                b"SETUSER" | b"DELUSER" | b"GETUSER" | b"USERS" | b"LIST" | b"LOAD" | b"SAVE"
                | b"LOG" | b"DRYRUN",
                _,
            ) => Reply::error(
                "ERR users are the accounts in the node's configuration; see `proteus config`",
            ),
            (b"WHOAMI" | b"CAT" | b"GENPASS", _) => {
                let word = String::from_utf8_lossy(&word(arguments)).to_lowercase();
                wrong_arity(&format!("acl|{word}"))
            }
            _ => unknown("acl", arguments),
        }
    }
}
