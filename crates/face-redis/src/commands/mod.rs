//! The commands: one table, one file per family.

mod connection;
mod hashes;
mod keys;
mod server;
mod strings;
mod transactions;

use bytes::Bytes;
use proteus_kernel_api::cache::{Op, Query};

use crate::errors::{NOT_AN_INTEGER, RedisError};
use crate::reply::Reply;

/// What a request asks for, once it is understood.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Request {
    /// A read of the state.
    Read(Query, Shape),
    /// A change of the state.
    Write(Op, Shape),
    /// An answer that needs no state.
    Ready(Reply),
    /// Something about the connection itself.
    Session(SessionRequest),
}

/// What the connection itself is asked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SessionRequest {
    Hello { version: Option<i64>, credentials: Option<(String, Bytes)>, name: Option<Bytes> },
    Auth { user: String, password: Bytes, named: bool },
    SetName(Bytes),
    GetName,
    ClientId,
    ClientInfo,
    ClientList,
    Quit,
    Reset,
    Multi,
    Exec,
    Discard,
    Watch(Vec<Bytes>),
    Unwatch,
    Info(Vec<String>),
    Time,
}

/// How a machine's answer becomes this command's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As it is.
    Plain,
    /// Any success is OK, as HMSET says.
    Ok,
    /// Milliseconds become seconds, rounded as TTL does.
    Seconds,
    /// OK and nil become 1 and 0, as SETNX says.
    OneOrZero,
}

impl Shape {
    pub(crate) fn apply(self, reply: Reply) -> Reply {
        match (self, reply) {
            (_, Reply::Error(error)) => Reply::Error(error),
            (Shape::Ok, _) => Reply::OK,
            (Shape::Seconds, Reply::Integer(ms)) if ms > 0 => Reply::Integer((ms + 500) / 1000),
            (Shape::OneOrZero, Reply::Nil) => Reply::Integer(0),
            (Shape::OneOrZero, Reply::Status(_)) => Reply::Integer(1),
            (_, reply) => reply,
        }
    }
}

type Parse = fn(&Arguments<'_>) -> Result<Request, RedisError>;

/// One command.
pub(crate) struct Spec {
    /// In lower case.
    pub(crate) name: &'static str,
    /// Number of arguments with the name; negative: at least that many.
    pub(crate) arity: i32,
    /// Flags, as COMMAND tells them.
    pub(crate) flags: &'static [&'static str],
    /// First key, last key (negative: from the end), step; zeros for none.
    pub(crate) keys: (i32, i32, i32),
    parse: Parse,
}

/// Arguments after the name.
pub(crate) struct Arguments<'a> {
    pub(crate) spec: &'static Spec,
    pub(crate) rest: &'a [Bytes],
}

const fn spec(
    name: &'static str,
    arity: i32,
    flags: &'static [&'static str],
    keys: (i32, i32, i32),
    parse: Parse,
) -> Spec {
    Spec { name, arity, flags, keys, parse }
}

const READ: &[&str] = &["readonly", "fast"];
const WRITE: &[&str] = &["write", "denyoom", "fast"];
const REMOVE: &[&str] = &["write", "fast"];
const SESSION: &[&str] = &["noscript", "loading", "stale", "fast"];
const ADMIN: &[&str] = &["loading", "stale"];
const ONE_KEY: (i32, i32, i32) = (1, 1, 1);
const ALL_KEYS: (i32, i32, i32) = (1, -1, 1);
const NO_KEYS: (i32, i32, i32) = (0, 0, 0);

/// All commands, sorted by name.
pub(crate) static TABLE: &[Spec] = &[
    spec("append", 3, WRITE, ONE_KEY, strings::append),
    spec("auth", -2, SESSION, NO_KEYS, connection::auth),
    spec("client", -2, SESSION, NO_KEYS, connection::client),
    spec("command", -1, ADMIN, NO_KEYS, server::command),
    spec("config", -2, ADMIN, NO_KEYS, server::config),
    spec("dbsize", 1, READ, NO_KEYS, server::dbsize),
    spec("decr", 2, WRITE, ONE_KEY, strings::decr),
    spec("decrby", 3, WRITE, ONE_KEY, strings::decrby),
    spec("del", -2, REMOVE, ALL_KEYS, keys::del),
    spec("discard", 1, SESSION, NO_KEYS, transactions::discard),
    spec("echo", 2, SESSION, NO_KEYS, connection::echo),
    spec("exec", 1, SESSION, NO_KEYS, transactions::exec),
    spec("exists", -2, READ, ALL_KEYS, keys::exists),
    spec("expire", -3, REMOVE, ONE_KEY, keys::expire),
    spec("expireat", -3, REMOVE, ONE_KEY, keys::expireat),
    spec("expiretime", 2, READ, ONE_KEY, keys::expiretime),
    spec("flushall", -1, REMOVE, NO_KEYS, server::flush),
    spec("flushdb", -1, REMOVE, NO_KEYS, server::flush),
    spec("get", 2, READ, ONE_KEY, strings::get),
    spec("getdel", 2, REMOVE, ONE_KEY, strings::getdel),
    spec("getset", 3, WRITE, ONE_KEY, strings::getset),
    spec("hdel", -3, REMOVE, ONE_KEY, hashes::hdel),
    spec("hello", -1, SESSION, NO_KEYS, connection::hello),
    spec("hexists", 3, READ, ONE_KEY, hashes::hexists),
    spec("hget", 3, READ, ONE_KEY, hashes::hget),
    spec("hgetall", 2, READ, ONE_KEY, hashes::hgetall),
    spec("hincrby", 4, WRITE, ONE_KEY, hashes::hincrby),
    spec("hkeys", 2, READ, ONE_KEY, hashes::hkeys),
    spec("hlen", 2, READ, ONE_KEY, hashes::hlen),
    spec("hmget", -3, READ, ONE_KEY, hashes::hmget),
    spec("hmset", -4, WRITE, ONE_KEY, hashes::hmset),
    spec("hset", -4, WRITE, ONE_KEY, hashes::hset),
    spec("hsetnx", 4, WRITE, ONE_KEY, hashes::hsetnx),
    spec("hvals", 2, READ, ONE_KEY, hashes::hvals),
    spec("incr", 2, WRITE, ONE_KEY, strings::incr),
    spec("incrby", 3, WRITE, ONE_KEY, strings::incrby),
    spec("info", -1, ADMIN, NO_KEYS, server::info),
    spec("mget", -2, READ, ALL_KEYS, strings::mget),
    spec("mset", -3, WRITE, (1, -1, 2), strings::mset),
    spec("msetnx", -3, WRITE, (1, -1, 2), strings::msetnx),
    spec("multi", 1, SESSION, NO_KEYS, transactions::multi),
    spec("persist", 2, REMOVE, ONE_KEY, keys::persist),
    spec("pexpire", -3, REMOVE, ONE_KEY, keys::pexpire),
    spec("pexpireat", -3, REMOVE, ONE_KEY, keys::pexpireat),
    spec("pexpiretime", 2, READ, ONE_KEY, keys::pexpiretime),
    spec("ping", -1, SESSION, NO_KEYS, connection::ping),
    spec("psetex", 4, WRITE, ONE_KEY, strings::psetex),
    spec("pttl", 2, READ, ONE_KEY, keys::pttl),
    spec("quit", -1, SESSION, NO_KEYS, connection::quit),
    spec("reset", 1, SESSION, NO_KEYS, connection::reset),
    spec("select", 2, SESSION, NO_KEYS, connection::select),
    spec("set", -3, WRITE, ONE_KEY, strings::set),
    spec("setex", 4, WRITE, ONE_KEY, strings::setex),
    spec("setnx", 3, WRITE, ONE_KEY, strings::setnx),
    spec("strlen", 2, READ, ONE_KEY, strings::strlen),
    spec("time", 1, ADMIN, NO_KEYS, server::time),
    spec("touch", -2, READ, ALL_KEYS, keys::exists),
    spec("ttl", 2, READ, ONE_KEY, keys::ttl),
    spec("type", 2, READ, ONE_KEY, keys::kind),
    spec("unlink", -2, REMOVE, ALL_KEYS, keys::del),
    spec("unwatch", 1, SESSION, NO_KEYS, transactions::unwatch),
    spec("watch", -2, SESSION, ALL_KEYS, transactions::watch),
];

/// Longest name in the table; a longer one is unknown without being looked up.
const NAME_BYTES_MAX: usize = 16;

/// The command's place in [`TABLE`].
pub(crate) fn find(name: &[u8]) -> Option<usize> {
    let mut lower = [0; NAME_BYTES_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    TABLE.binary_search_by(|spec| spec.name.as_bytes().cmp(lower)).ok()
}

/// Understands a request whose command was found.
pub(crate) fn parse(spec: &'static Spec, arguments: &[Bytes]) -> Result<Request, RedisError> {
    let count = i32::try_from(arguments.len()).unwrap_or(i32::MAX);
    let fits = if spec.arity >= 0 { count == spec.arity } else { count >= -spec.arity };
    if !fits {
        return Err(RedisError::arity(spec.name));
    }
    (spec.parse)(&Arguments { spec, rest: arguments.get(1..).unwrap_or_default() })
}

impl Arguments<'_> {
    /// The argument at `place`, counted from 0 after the name. The arity has been checked, so those
    /// it promises are there.
    fn at(&self, place: usize) -> Result<Bytes, RedisError> {
        self.rest.get(place).cloned().ok_or_else(|| self.wrong_arity())
    }

    fn wrong_arity(&self) -> RedisError {
        RedisError::arity(self.spec.name)
    }

    fn integer(&self, place: usize) -> Result<i64, RedisError> {
        integer(&self.at(place)?)
    }

    fn text(&self, place: usize) -> Result<String, RedisError> {
        Ok(String::from_utf8_lossy(&self.at(place)?).into_owned())
    }

    fn word(&self, place: usize) -> Option<Vec<u8>> {
        self.rest.get(place).map(|word| word.to_ascii_uppercase())
    }

    /// Arguments from `place` on, in pairs; there must be at least one and no odd one.
    fn pairs(&self, place: usize) -> Result<Vec<(Bytes, Bytes)>, RedisError> {
        let rest = self.rest.get(place..).unwrap_or_default();
        if rest.is_empty() || rest.len() % 2 != 0 {
            return Err(self.wrong_arity());
        }
        Ok(rest.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
    }
}

fn integer(bytes: &[u8]) -> Result<i64, RedisError> {
    let parsed = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<i64>().ok());
    // A leading plus or zero, which Rust accepts, Redis does not.
    match parsed {
        Some(number) if number.to_string().as_bytes() == bytes => Ok(number),
        _ => Err(NOT_AN_INTEGER),
    }
}

fn read(query: Query) -> Result<Request, RedisError> {
    Ok(Request::Read(query, Shape::Plain))
}

fn write(op: Op) -> Result<Request, RedisError> {
    Ok(Request::Write(op, Shape::Plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_names_fit() {
        assert!(TABLE.is_sorted_by(|a, b| a.name < b.name));
        assert!(TABLE.iter().all(|spec| spec.name.len() <= NAME_BYTES_MAX));
        for (place, spec) in TABLE.iter().enumerate() {
            assert_eq!(find(spec.name.to_uppercase().as_bytes()), Some(place));
        }
        assert_eq!(find(b"NOSUCHCOMMANDATALLANYWHERE"), None);
    }

    /// docs/faces/redis.md lists every command of Redis; it must agree with the table.
    #[test]
    fn the_support_table_agrees_with_the_code() {
        let document = include_str!("../../../../docs/faces/redis.md");
        let mut listed = Vec::new();
        for line in document.lines() {
            let mut cells = line.split('|').map(str::trim);
            if let (Some(""), Some(name), Some(support)) =
                (cells.next(), cells.next(), cells.next())
                && let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`'))
            {
                let name = name.to_lowercase();
                let is_known = find(name.as_bytes()).is_some();
                let says_known = match support {
                    "supported" | "differs" => true,
                    "refused" => false,
                    other => panic!("{name}: unknown support word {other}"),
                };
                assert_eq!(is_known, says_known, "docs/faces/redis.md about {name}");
                listed.push(name);
            }
        }
        for spec in TABLE {
            assert!(listed.iter().any(|name| name == spec.name), "{} is not listed", spec.name);
        }
    }
}
