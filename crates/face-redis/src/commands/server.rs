//! The server: INFO, COMMAND, CONFIG and their relatives.

use proteus_kernel_api::cache::{Op, Query};

use super::{Arguments, Request, SessionRequest, Spec, TABLE, find, read, write};
use crate::errors::{RedisError, SYNTAX, fixed};
use crate::reply::Reply;

type Parsed = Result<Request, RedisError>;

/// Parameters that clients and load generators ask for, and what holds here.
const PARAMETERS: &[(&str, &str)] = &[
    ("appendfsync", "always"),
    ("appendonly", "yes"),
    ("databases", "1"),
    ("maxmemory", "0"),
    ("maxmemory-policy", "noeviction"),
    ("notify-keyspace-events", ""),
    ("proto-max-bulk-len", "33554432"),
    ("save", ""),
    ("timeout", "0"),
];

pub(super) fn dbsize(_arguments: &Arguments<'_>) -> Parsed {
    read(Query::KeyCount)
}

pub(super) fn flush(arguments: &Arguments<'_>) -> Parsed {
    match arguments.word(0).as_deref() {
        None | Some(b"SYNC" | b"ASYNC") if arguments.rest.len() <= 1 => write(Op::Clear),
        _ => Err(SYNTAX),
    }
}

pub(super) fn info(arguments: &Arguments<'_>) -> Parsed {
    let sections = arguments
        .rest
        .iter()
        .map(|section| String::from_utf8_lossy(section).to_lowercase())
        .collect();
    Ok(Request::Session(SessionRequest::Info(sections)))
}

pub(super) fn time(_arguments: &Arguments<'_>) -> Parsed {
    Ok(Request::Session(SessionRequest::Time))
}

pub(super) fn config(arguments: &Arguments<'_>) -> Parsed {
    match arguments.word(0).unwrap_or_default().as_slice() {
        b"GET" if arguments.rest.len() >= 2 => {
            let patterns = &arguments.rest[1..];
            let pairs = PARAMETERS
                .iter()
                .filter(|(name, _)| patterns.iter().any(|pattern| matches(pattern, name)))
                .map(|(name, value)| (Reply::text(*name), Reply::text(*value)))
                .collect();
            Ok(Request::Ready(Reply::Map(pairs)))
        }
        b"RESETSTAT" if arguments.rest.len() == 1 => Ok(Request::Ready(Reply::OK)),
        b"GET" | b"RESETSTAT" => Err(arguments.wrong_arity()),
        b"SET" => Err(fixed(
            "ERR CONFIG SET failed - the node's configuration is set at start; see `proteus config`",
        )),
        _ => Err(RedisError::unknown_subcommand("config", &arguments.at(0)?)),
    }
}

/// Whether a name fits a pattern with `*` for any characters, ignoring case.
fn matches(pattern: &[u8], name: &str) -> bool {
    let pattern = String::from_utf8_lossy(pattern).to_lowercase();
    let mut rest = name;
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(after) = rest.strip_prefix(first) else { return false };
    rest = after;
    let mut is_open = false;
    for piece in pieces {
        is_open = true;
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.is_empty() || (is_open && pattern.ends_with('*'))
}

pub(super) fn command(arguments: &Arguments<'_>) -> Parsed {
    let all = || TABLE.iter();
    let reply = match arguments.word(0).as_deref() {
        None => Reply::Array(all().map(description).collect()),
        Some(b"COUNT") => Reply::Integer(i64::try_from(TABLE.len()).unwrap_or(i64::MAX)),
        Some(b"LIST") => Reply::Array(all().map(|spec| Reply::text(spec.name)).collect()),
        Some(b"INFO") if arguments.rest.len() == 1 => {
            Reply::Array(all().map(description).collect())
        }
        Some(b"INFO") => {
            let describe = |name: &bytes::Bytes| match find(name) {
                Some(place) => description(&TABLE[place]),
                None => Reply::NilArray,
            };
            Reply::Array(arguments.rest[1..].iter().map(describe).collect())
        }
        Some(b"DOCS") => {
            let names = &arguments.rest[1..];
            let is_asked = |spec: &&Spec| {
                names.is_empty()
                    || names.iter().any(|name| name.eq_ignore_ascii_case(spec.name.as_bytes()))
            };
            Reply::Map(all().filter(is_asked).map(documentation).collect())
        }
        Some(b"GETKEYS") => keys_of(arguments)?,
        Some(_) => return Err(RedisError::unknown_subcommand("command", &arguments.at(0)?)),
    };
    Ok(Request::Ready(reply))
}

fn description(spec: &Spec) -> Reply {
    let flags = spec.flags.iter().map(|flag| Reply::Status(flag)).collect();
    let (first, last, step) = spec.keys;
    Reply::Array(vec![
        Reply::text(spec.name),
        Reply::Integer(spec.arity.into()),
        Reply::Set(flags),
        Reply::Integer(first.into()),
        Reply::Integer(last.into()),
        Reply::Integer(step.into()),
        Reply::Set(Vec::new()),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
    ])
}

fn documentation(spec: &Spec) -> (Reply, Reply) {
    let summary = format!("{} as in Redis; see docs/faces/redis.md", spec.name.to_uppercase());
    let entry = vec![
        (Reply::text("summary"), Reply::text(summary)),
        (Reply::text("since"), Reply::text("1.0.0")),
        (Reply::text("group"), Reply::text("generic")),
    ];
    (Reply::text(spec.name), Reply::Map(entry))
}

fn keys_of(arguments: &Arguments<'_>) -> Result<Reply, RedisError> {
    let command = arguments.rest.get(1..).unwrap_or_default();
    let name = command.first().ok_or_else(|| RedisError::arity("command|getkeys"))?;
    let invalid = || fixed("ERR Invalid command specified");
    let spec = &TABLE[find(name).ok_or_else(invalid)?];
    let (first, last, step) = spec.keys;
    if first == 0 {
        return Err(fixed("ERR The command has no key arguments"));
    }
    let count = i32::try_from(command.len()).unwrap_or(i32::MAX);
    let last = if last < 0 { count + last } else { last };
    let keys: Vec<Reply> = (first..=last)
        .step_by(usize::try_from(step).unwrap_or(1).max(1))
        .filter_map(|place| command.get(usize::try_from(place).ok()?).cloned().map(Reply::Bulk))
        .collect();
    if keys.is_empty() {
        Err(fixed("ERR Invalid number of arguments specified for command"))
    } else {
        Ok(Reply::Array(keys))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        assert!(matches(b"save", "save"));
        assert!(matches(b"MAX*", "maxmemory"));
        assert!(matches(b"*", "save"));
        assert!(matches(b"*memory*", "maxmemory-policy"));
        assert!(!matches(b"sav", "save"));
        assert!(!matches(b"*x", "save"));
    }
}
