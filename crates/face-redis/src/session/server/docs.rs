//! COMMAND.

use bytes::Bytes;
use proteus_kernel_api::cache::Reply;
use proteus_kernel_api::cache::acl::{self, Fact, FindKeys, KeyBegin, KeySpec};

use crate::documentation::documentation;
use crate::errors::{unknown_subcommand, wrong_arity};
use crate::reply::text;
use crate::table::{self, Found, takes};

fn spec(spec: &KeySpec) -> Reply {
    let number = |number: i64| Reply::Integer(number);
    let size = |size: usize| Reply::count(size);
    let part = |kind: &'static str, parts: Vec<(&'static str, Reply)>| {
        let parts = parts.into_iter().map(|(name, value)| (text(name), value)).collect();
        Reply::Map(vec![(text("type"), text(kind)), (text("spec"), Reply::Map(parts))])
    };
    let begin = match spec.begin {
        KeyBegin::Index(at) => part("index", vec![("index", size(at))]),
        KeyBegin::Keyword(word, from) => {
            part("keyword", vec![("keyword", text(word)), ("startfrom", number(from))])
        }
        KeyBegin::Unknown => part("unknown", Vec::new()),
    };
    let find = match spec.find {
        FindKeys::Range(last, step, limit) => part(
            "range",
            vec![("lastkey", number(last)), ("keystep", size(step)), ("limit", size(limit))],
        ),
        FindKeys::Number(at, first, step) => part(
            "keynum",
            vec![("keynumidx", size(at)), ("firstkey", size(first)), ("keystep", size(step))],
        ),
        FindKeys::Unknown => part("unknown", Vec::new()),
    };
    let flags = spec.flags.iter().map(|flag| Reply::status(flag)).collect();
    Reply::Map(vec![
        (text("flags"), Reply::Set(flags)),
        (text("begin_search"), begin),
        (text("find_keys"), find),
    ])
}

fn description(fact: &Fact) -> Reply {
    let (first, last, step) = fact.key_range;
    let categories =
        fact.category_names().map(|name| Reply::Status(format!("@{name}").into())).collect();
    let subcommands = acl::facts().get(fact.subcommands.clone()).unwrap_or_default();
    Reply::Array(vec![
        text(fact.name),
        Reply::Integer(fact.arity.into()),
        Reply::Set(fact.flags.iter().map(|flag| Reply::status(flag)).collect()),
        Reply::Integer(first.into()),
        Reply::Integer(last.into()),
        Reply::Integer(step.into()),
        Reply::Set(categories),
        Reply::Array(fact.tips.iter().map(|tip| text(*tip)).collect()),
        Reply::Array(fact.keys.iter().map(spec).collect()),
        Reply::Array(subcommands.iter().map(description).collect()),
    ])
}

/// What is known of a command that is served here.
fn fact_of(found: Found) -> Option<&'static Fact> {
    acl::find_fact(found.name())
}

/// What is known of a command or subcommand (`config|get`) of this name.
fn fact_by_name(name: &[u8]) -> Option<&'static Fact> {
    let lower = String::from_utf8_lossy(name).to_ascii_lowercase();
    table::find(lower.split('|').next()?.as_bytes())?;
    acl::find_fact(&lower)
}

fn descriptions() -> Reply {
    Reply::Array(table::all().into_iter().filter_map(fact_of).map(description).collect())
}

/// What is known of the command that these arguments call, if it is served here.
fn fact_called(arguments: &[Bytes]) -> Option<&'static Fact> {
    table::find(arguments.first()?)?;
    let fact = acl::resolve(arguments)?;
    let lacks_subcommand = arguments.len() > 1 && !fact.subcommands.is_empty();
    (!lacks_subcommand).then_some(fact)
}

/// Places of the keys among `arguments`, with what is done with each.
fn keys_and_flags(fact: &Fact, arguments: &[Bytes]) -> Vec<(usize, Vec<&'static str>)> {
    let specs: Vec<&KeySpec> =
        fact.keys.iter().filter(|spec| !spec.flags.contains(&"not_key")).collect();
    let varies = |spec: &&KeySpec| spec.flags.contains(&"variable_flags");
    let is_open =
        |spec: &&KeySpec| spec.begin == KeyBegin::Unknown || spec.find == FindKeys::Unknown;
    if !specs.iter().any(|spec| varies(spec) || is_open(spec)) {
        let mut found = Vec::new();
        for spec in specs {
            let places = spec.places(arguments);
            // A number of keys that cannot be spoils the whole command.
            if places.is_empty() && matches!(spec.find, FindKeys::Number(..)) {
                return Vec::new();
            }
            found.extend(places.into_iter().map(|place| (place, spec.flags.clone())));
        }
        return found;
    }
    let uses = acl::key_uses(fact, arguments);
    let flags_of = |place: usize| match uses.iter().find(|found| found.place == place) {
        Some(found) if !found.writes => vec!["RO", "access"],
        Some(found) if found.reads => vec!["RW", "access", "update"],
        // Keys that only the command itself finds are those that it stores to.
        _ => vec!["OW", "update"],
    };
    let places = table::find(fact.name.as_bytes()).map(|found| found.key_places(arguments));
    places.unwrap_or_default().into_iter().map(|place| (place, flags_of(place))).collect()
}

fn keys_of(arguments: &[Bytes], with_flags: bool) -> Reply {
    let inner = arguments.get(2..).unwrap_or_default();
    let Some(fact) = fact_called(inner) else {
        return Reply::error("ERR Invalid command specified");
    };
    if fact.keys.iter().all(|spec| spec.flags.contains(&"not_key")) {
        return Reply::error("ERR The command has no key arguments");
    }
    if !takes(fact.arity, inner.len()) {
        return Reply::error("ERR Invalid number of arguments specified for command");
    }
    let keys = keys_and_flags(fact, inner);
    if keys.is_empty() && !fact.flags.contains(&"no_mandatory_keys") {
        return Reply::error("ERR Invalid arguments specified for command");
    }
    let key = |place: usize| Reply::Bulk(inner.get(place).cloned().unwrap_or_default());
    let one = |(place, flags): (usize, Vec<&'static str>)| match with_flags {
        false => key(place),
        true => {
            let flags = flags.into_iter().map(Reply::status).collect();
            Reply::Array(vec![key(place), Reply::Set(flags)])
        }
    };
    Reply::Array(keys.into_iter().map(one).collect())
}

pub(super) fn command(arguments: &[Bytes]) -> Reply {
    let word = arguments.get(1).map(|word| word.to_ascii_uppercase());
    let names = arguments.get(2..).unwrap_or_default();
    match word.as_deref() {
        None => descriptions(),
        Some(b"COUNT") if names.is_empty() => Reply::count(table::all().len()),
        Some(b"LIST") => list(names),
        Some(b"INFO") if names.is_empty() => descriptions(),
        Some(b"INFO") => Reply::Array(
            names.iter().map(|name| fact_by_name(name).map_or(Reply::Nil, description)).collect(),
        ),
        Some(b"DOCS") => {
            let facts: Vec<&Fact> = match names {
                [] => table::all().into_iter().filter_map(fact_of).collect(),
                names => names.iter().filter_map(|name| fact_by_name(name)).collect(),
            };
            let pair = |fact: &Fact| (text(fact.name), documentation(fact));
            Reply::Map(facts.into_iter().map(pair).collect())
        }
        Some(b"GETKEYS") if names.len() > 1 => keys_of(arguments, false),
        Some(b"GETKEYSANDFLAGS") if names.len() > 1 => keys_of(arguments, true),
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
                b"ACLCAT" => Box::new(move |found| {
                    fact_of(*found)
                        .is_some_and(|fact| fact.category_names().any(|name| name == value_text))
                }),
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
