//! COMMAND.

use bytes::Bytes;
use proteus_kernel_api::cache::Reply;
use proteus_kernel_api::cache::commands::{Flags, Group, Keys};

use crate::errors::{unknown_subcommand, wrong_arity};
use crate::reply::text;
use crate::table::{self, Found};

/// The flags of a command, in COMMAND's words.
fn flag_words(found: Found) -> Vec<&'static str> {
    let flags = found.flags();
    let words = [
        (Flags::WRITE, "write"),
        (Flags::READ, "readonly"),
        (Flags::DENY_OOM, "denyoom"),
        (Flags::ADMIN, "admin"),
        (Flags::PUBSUB, "pubsub"),
        (Flags::NO_SCRIPT, "noscript"),
        (Flags::BLOCKING, "blocking"),
        (Flags::LOADING, "loading"),
        (Flags::LOADING, "stale"),
        (Flags::FAST, "fast"),
        (Flags::NO_AUTH, "no_auth"),
        (Flags::NO_MULTI, "no_multi"),
        (Flags::MOVABLE_KEYS, "movablekeys"),
    ];
    words.into_iter().filter(|(flag, _)| flags.has(*flag)).map(|(_, word)| word).collect()
}

/// The ACL categories of a command, without their @.
pub(crate) fn categories(found: Found) -> Vec<&'static str> {
    let flags = found.flags();
    let mut categories = Vec::new();
    match found.group() {
        Group::Generic => categories.push("keyspace"),
        Group::String => categories.push("string"),
        Group::Bitmap => categories.push("bitmap"),
        Group::List => categories.push("list"),
        Group::Set => categories.push("set"),
        Group::SortedSet => categories.push("sortedset"),
        Group::Hash => categories.push("hash"),
        Group::Stream => categories.push("stream"),
        Group::HyperLogLog => categories.push("hyperloglog"),
        Group::Geo => categories.push("geo"),
        Group::PubSub => categories.push("pubsub"),
        Group::Scripting => categories.push("scripting"),
        Group::Connection => categories.push("connection"),
        Group::Transactions => categories.push("transaction"),
        Group::Server | Group::Cluster => {}
    }
    if flags.has(Flags::READ) {
        categories.push("read");
    }
    if flags.has(Flags::WRITE) && found.group() != Group::PubSub {
        categories.push("write");
    }
    if flags.has(Flags::ADMIN) {
        categories.push("admin");
    }
    if flags.has(Flags::DANGEROUS) {
        categories.push("dangerous");
    }
    if flags.has(Flags::BLOCKING) {
        categories.push("blocking");
    }
    categories.push(if flags.has(Flags::FAST) { "fast" } else { "slow" });
    categories
}

fn positions(keys: Keys) -> (i32, i32, i32) {
    match keys {
        Keys::Range(first, last, step) => (first, last, step),
        Keys::StoreCounted | Keys::OneAndStore => (1, 1, 1),
        Keys::None | Keys::Counted(_) | Keys::Streams | Keys::Migrate => (0, 0, 0),
    }
}

fn description(found: Found) -> Reply {
    let (first, last, step) = positions(found.keys());
    let words = |words: Vec<&'static str>| words.into_iter().map(Reply::status).collect();
    let categories: Vec<Reply> = categories(found)
        .into_iter()
        .map(|category| Reply::Status(format!("@{category}").into()))
        .collect();
    Reply::Array(vec![
        text(found.name()),
        Reply::Integer(found.arity().into()),
        Reply::Set(words(flag_words(found))),
        Reply::Integer(first.into()),
        Reply::Integer(last.into()),
        Reply::Integer(step.into()),
        Reply::Set(categories),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
    ])
}

fn documentation(found: Found) -> (Reply, Reply) {
    let group = match found.group() {
        Group::Generic => "generic",
        Group::String => "string",
        Group::Bitmap => "bitmap",
        Group::List => "list",
        Group::Set => "set",
        Group::SortedSet => "sorted-set",
        Group::Hash => "hash",
        Group::Stream => "stream",
        Group::HyperLogLog => "hyperloglog",
        Group::Geo => "geo",
        Group::PubSub => "pubsub",
        Group::Scripting => "scripting",
        Group::Connection => "connection",
        Group::Transactions => "transactions",
        Group::Server => "server",
        Group::Cluster => "cluster",
    };
    let about = Reply::Map(vec![
        (text("summary"), text(format!("The Redis command {}.", found.name().to_uppercase()))),
        (text("since"), text("1.0.0")),
        (text("group"), text(group)),
        (text("complexity"), text("As in Redis; docs/faces/redis.md says where it differs.")),
    ]);
    (text(found.name()), about)
}

fn keys_of(arguments: &[Bytes], with_flags: bool) -> Reply {
    let inner = arguments.get(2..).unwrap_or_default();
    let Some(found) = inner.first().and_then(|name| table::find(name)) else {
        return Reply::error("ERR Invalid command specified");
    };
    if found.keys() == Keys::None {
        return Reply::error("ERR The command has no key arguments");
    }
    if !found.takes(inner.len()) {
        return Reply::error("ERR Invalid number of arguments specified for command");
    }
    let places = found.key_places(inner);
    if places.is_empty() {
        return Reply::error("ERR Invalid arguments specified for command");
    }
    let keys = places.into_iter().filter_map(|at| inner.get(at).cloned());
    if with_flags {
        let access = if found.flags().has(Flags::WRITE) {
            ["RW", "access", "update"]
        } else {
            ["RO", "access", ""]
        };
        let flags: Vec<Reply> =
            access.into_iter().filter(|flag| !flag.is_empty()).map(Reply::status).collect();
        let pair = |key| Reply::Array(vec![Reply::Bulk(key), Reply::Set(flags.clone())]);
        return Reply::Array(keys.map(pair).collect());
    }
    Reply::bulks(keys)
}

pub(super) fn command(arguments: &[Bytes]) -> Reply {
    let word = arguments.get(1).map(|word| word.to_ascii_uppercase());
    let names = arguments.get(2..).unwrap_or_default();
    match word.as_deref() {
        None => Reply::Array(table::all().into_iter().map(description).collect()),
        Some(b"COUNT") if names.is_empty() => Reply::count(table::all().len()),
        Some(b"LIST") => list(names),
        Some(b"INFO") if names.is_empty() => {
            Reply::Array(table::all().into_iter().map(description).collect())
        }
        Some(b"INFO") => Reply::Array(
            names
                .iter()
                .map(|name| table::find(name).map_or(Reply::NilArray, description))
                .collect(),
        ),
        Some(b"DOCS") => Reply::Map(if names.is_empty() {
            table::all().into_iter().map(documentation).collect()
        } else {
            names.iter().filter_map(|name| table::find(name)).map(documentation).collect()
        }),
        Some(b"GETKEYS") if !names.is_empty() => keys_of(arguments, false),
        Some(b"GETKEYSANDFLAGS") if !names.is_empty() => keys_of(arguments, true),
        Some(b"HELP") if names.is_empty() => super::help(&[
            "COMMAND <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            "(no subcommand)",
            "    Return details about all Redis commands.",
            "COUNT",
            "    Return the total number of commands in this Redis server.",
            "LIST",
            "    Return a list of all commands in this Redis server.",
            "INFO [<command-name> ...]",
            "    Return details about multiple Redis commands.",
            "    If no command names are given, documentation details for all",
            "    commands are returned.",
            "DOCS [<command-name> ...]",
            "    Return documentation details about multiple Redis commands.",
            "    If no command names are given, documentation details for all",
            "    commands are returned.",
            "GETKEYS <full-command>",
            "    Return the keys from a full Redis command.",
            "GETKEYSANDFLAGS <full-command>",
            "    Return the keys and the access flags from a full Redis command.",
            "HELP",
            "    Print this help.",
        ]),
        Some(word @ (b"COUNT" | b"GETKEYS" | b"GETKEYSANDFLAGS" | b"HELP")) => {
            wrong_arity(&format!("command|{}", String::from_utf8_lossy(word).to_lowercase()))
        }
        Some(_) => unknown_subcommand("command", arguments.get(1).map_or(b"", |word| &word[..])),
    }
}

fn list(options: &[Bytes]) -> Reply {
    let all = table::all();
    let chosen: Vec<Reply> = match options {
        [] => all.into_iter().map(|found| text(found.name())).collect(),
        [by, kind, value] if by.eq_ignore_ascii_case(b"FILTERBY") => {
            let value_text = String::from_utf8_lossy(value).to_lowercase();
            let fits: Box<dyn Fn(&Found) -> bool> = match kind.to_ascii_uppercase().as_slice() {
                b"ACLCAT" => {
                    Box::new(move |found| categories(*found).contains(&value_text.as_str()))
                }
                b"PATTERN" => {
                    let pattern = value.clone();
                    Box::new(move |found| {
                        proteus_kernel_api::cache::matches(&pattern, found.name().as_bytes())
                    })
                }
                b"MODULE" => Box::new(|_| false),
                _ => return crate::errors::SYNTAX,
            };
            all.into_iter().filter(|found| fits(found)).map(|found| text(found.name())).collect()
        }
        _ => return crate::errors::SYNTAX,
    };
    Reply::Array(chosen)
}
