//! Keys of any type: DEL, EXISTS, EXPIRE, RENAME, COPY and their relatives.

use bytes::Bytes;
use proteus_store::StoreError;

use super::{
    ALL, Arguments, Command, Flags, Group, Keys, NONE, ONE, READ, READ_FAST, REMOVE, REMOVE_FAST,
    TWO, WRITE, command, failure,
};
use crate::collection::Collection;
use crate::exec::{Before, Exec, NO_SUCH_KEY, Result, SYNTAX, error};
use crate::head::{Head, Kind};
use crate::number::parse_integer;
use crate::reply::Reply;
use crate::{Change, Class, DATABASE_COUNT, layout};

const G: Group = Group::Generic;
const DANGER: Flags = Flags::WRITE.and(Flags::DANGEROUS);

pub(super) const TABLE: &[Command] = &[
    command("copy", -3, WRITE, TWO, G, copy),
    command("dbsize", 1, READ_FAST, NONE, Group::Server, dbsize),
    command("del", -2, REMOVE, ALL, G, del),
    command("exists", -2, READ_FAST, ALL, G, exists),
    command("expire", -3, REMOVE_FAST, ONE, G, |x, a| expire(x, a, 1000, true)),
    command("expireat", -3, REMOVE_FAST, ONE, G, |x, a| expire(x, a, 1000, false)),
    command("expiretime", 2, READ_FAST, ONE, G, |x, a| time_left(x, a, 1000, false)),
    command("flushall", -1, DANGER, NONE, Group::Server, flushall),
    command("flushdb", -1, DANGER, NONE, Group::Server, flushdb),
    command("move", 3, REMOVE_FAST, ONE, G, move_key),
    command("object", -2, READ, Keys::Range(2, 2, 1), G, object),
    command("persist", 2, REMOVE_FAST, ONE, G, persist),
    command("pexpire", -3, REMOVE_FAST, ONE, G, |x, a| expire(x, a, 1, true)),
    command("pexpireat", -3, REMOVE_FAST, ONE, G, |x, a| expire(x, a, 1, false)),
    command("pexpiretime", 2, READ_FAST, ONE, G, |x, a| time_left(x, a, 1, false)),
    command("pttl", 2, READ_FAST, ONE, G, |x, a| time_left(x, a, 1, true)),
    command("rename", 3, REMOVE, TWO, G, |x, a| rename(x, a, false)),
    command("renamenx", 3, REMOVE_FAST, TWO, G, |x, a| rename(x, a, true)),
    command("swapdb", 3, DANGER.and(Flags::FAST), NONE, Group::Server, swapdb),
    command("touch", -2, READ_FAST, ALL, G, exists),
    command("ttl", 2, READ_FAST, ONE, G, |x, a| time_left(x, a, 1000, true)),
    command("type", 2, READ_FAST, ONE, G, kind),
    command("unlink", -2, REMOVE_FAST, ALL, G, del),
];

fn del(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let mut count = 0;
    for key in a.from(1) {
        if x.remove(key)? {
            x.notify(Class::Generic, "del", key);
            count += 1;
        }
    }
    Ok(Reply::Integer(count))
}

fn exists(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let mut count = 0;
    for key in a.from(1) {
        count += i64::from(x.exists(key)?);
    }
    Ok(Reply::Integer(count))
}

fn kind(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    Ok(Reply::status(x.head(a.at(1)?)?.map_or("none", |head| head.kind.name())))
}

fn dbsize(x: &mut Exec<'_>, _a: &[Bytes]) -> Result {
    let (keys, _) = x.counts(x.db)?;
    Ok(Reply::Integer(i64::try_from(keys).unwrap_or(i64::MAX)))
}

fn time_left(x: &mut Exec<'_>, a: &[Bytes], unit_ms: u64, is_relative: bool) -> Result {
    let Some(head) = x.head(a.at(1)?)? else { return Ok(Reply::Integer(-2)) };
    let Some(at_ms) = head.expire_at_ms else { return Ok(Reply::Integer(-1)) };
    let ms = if is_relative { at_ms.saturating_sub(x.now_ms()) } else { at_ms };
    let units = if unit_ms == 1 { ms } else { ms.saturating_add(unit_ms / 2) / unit_ms };
    Ok(Reply::Integer(i64::try_from(units).unwrap_or(i64::MAX)))
}

/// When an EXPIRE applies.
#[derive(Default, Clone, Copy)]
pub(super) struct ExpireConditions {
    pub(super) if_none: bool,
    pub(super) if_some: bool,
    pub(super) if_later: bool,
    pub(super) if_earlier: bool,
}

impl ExpireConditions {
    /// Whether a time may take the place of the present one.
    pub(super) fn hold(self, present_ms: Option<u64>, at_ms: i64) -> bool {
        let present = present_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
        !(self.if_none && present.is_some()
            || self.if_some && present.is_none()
            || self.if_later && present.is_none_or(|present| at_ms <= present)
            || self.if_earlier && present.is_some_and(|present| at_ms >= present))
    }
}

/// The time, in milliseconds since the epoch, that an argument means.
pub(super) fn absolute_ms(
    x: &Exec<'_>,
    number: i64,
    unit_ms: i64,
    is_relative: bool,
    name: &str,
) -> Result<i64> {
    let base = if is_relative { i64::try_from(x.now_ms()).unwrap_or(i64::MAX) } else { 0 };
    match number.checked_mul(unit_ms).and_then(|ms| ms.checked_add(base)) {
        Some(at_ms) => Ok(at_ms),
        None => failure(format!("ERR invalid expire time in '{name}' command")),
    }
}

fn expire(x: &mut Exec<'_>, a: &[Bytes], unit_ms: i64, is_relative: bool) -> Result {
    let mut conditions = ExpireConditions::default();
    for place in 3..a.len() {
        match a.word(place).as_str() {
            "NX" => conditions.if_none = true,
            "XX" => conditions.if_some = true,
            "GT" => conditions.if_later = true,
            "LT" => conditions.if_earlier = true,
            _ => {
                let text = super::shortened(a.at(place)?, 128);
                return failure(format!("ERR Unsupported option {text}"));
            }
        }
    }
    if conditions.if_none && (conditions.if_some || conditions.if_later || conditions.if_earlier) {
        return error("ERR NX and XX, GT or LT options at the same time are not compatible");
    }
    if conditions.if_later && conditions.if_earlier {
        return error("ERR GT and LT options at the same time are not compatible");
    }
    let name = a.word(0).to_ascii_lowercase();
    let at_ms = absolute_ms(x, a.integer(2)?, unit_ms, is_relative, &name)?;
    let key = a.at(1)?;
    let before = x.before(key)?;
    if before.live().is_none() || !conditions.hold(before.expire_at_ms(), at_ms) {
        return Ok(Reply::ZERO);
    }
    match u64::try_from(at_ms) {
        Ok(at_ms) if at_ms > x.now_ms() => {
            set_expiry(x, key, &before, Some(at_ms))?;
            x.notify(Class::Generic, "expire", key);
        }
        _ => {
            x.remove_known(key, &before, false)?;
            x.notify(Class::Generic, "del", key);
        }
    }
    Ok(Reply::Integer(1))
}

fn set_expiry(
    x: &mut Exec<'_>,
    key: &Bytes,
    before: &Before,
    expire_at_ms: Option<u64>,
) -> Result<(), StoreError> {
    let Some(head) = before.live() else { return Ok(()) };
    x.put_head(key, before, head.kind, head.is_large, expire_at_ms, &head.body)
}

fn persist(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let key = a.at(1)?;
    let before = x.before(key)?;
    if before.expire_at_ms().is_none() {
        return Ok(Reply::ZERO);
    }
    set_expiry(x, key, &before, None)?;
    x.notify(Class::Generic, "persist", key);
    Ok(Reply::Integer(1))
}

/// Puts the head of one key under another, perhaps of another database; its elements stay where they
/// are. What was there is gone.
fn put_elsewhere(
    x: &mut Exec<'_>,
    from: &Bytes,
    before: &Before,
    db: u8,
    to: &Bytes,
) -> Result<(), StoreError> {
    let Some(head) = before.live().cloned() else { return Ok(()) };
    x.remove_known(from, before, true)?;
    place_head(x, db, to, &head)
}

fn place_head(x: &mut Exec<'_>, db: u8, to: &Bytes, head: &Head) -> Result<(), StoreError> {
    let own = std::mem::replace(&mut x.db, db);
    let target = x.before(to)?;
    x.remove_known(to, &target, false)?;
    let nothing = Before::ABSENT;
    x.put_head(to, &nothing, head.kind, head.is_large, head.expire_at_ms, &head.body)?;
    if head.kind == Kind::Hash {
        let held = Collection::decode(head.clone(), nothing);
        if let Some(at_ms) = held.and_then(|held| held.field_expiry_ms()) {
            x.access.put(layout::timed(layout::KIND_FIELD_EXPIRY, at_ms, db, to), Bytes::new());
        }
    }
    x.db = own;
    Ok(())
}

fn rename(x: &mut Exec<'_>, a: &[Bytes], only_if_absent: bool) -> Result {
    let (from, to) = (a.at(1)?, a.at(2)?);
    let before = x.before(from)?;
    if before.live().is_none() {
        return error(NO_SUCH_KEY);
    }
    let done = if only_if_absent { Reply::Integer(1) } else { Reply::OK };
    if from == to {
        return Ok(if only_if_absent { Reply::ZERO } else { done });
    }
    if only_if_absent && x.exists(to)? {
        return Ok(Reply::ZERO);
    }
    put_elsewhere(x, from, &before, x.db, to)?;
    x.notify(Class::Generic, "rename_from", from);
    x.notify(Class::Generic, "rename_to", to);
    Ok(done)
}

pub(crate) fn database(number: Option<i64>) -> Option<u8> {
    number.and_then(|number| u8::try_from(number).ok()).filter(|db| *db < DATABASE_COUNT)
}

fn move_key(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let Some(db) = database(Some(a.integer(2)?)) else {
        return error("ERR DB index is out of range");
    };
    if db == x.db {
        return error("ERR source and destination objects are the same");
    }
    let key = a.at(1)?;
    let before = x.before(key)?;
    let own = std::mem::replace(&mut x.db, db);
    let is_taken = x.exists(key)?;
    x.db = own;
    if before.live().is_none() || is_taken {
        return Ok(Reply::ZERO);
    }
    put_elsewhere(x, key, &before, db, key)?;
    x.notify(Class::Generic, "move_from", key);
    x.notify_in(db, Class::Generic, "move_to", key);
    Ok(Reply::Integer(1))
}

fn copy(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let (from, to) = (a.at(1)?, a.at(2)?);
    let (mut db, mut replaces) = (x.db, false);
    let mut place = 3;
    while place < a.len() {
        match a.word(place).as_str() {
            "REPLACE" => replaces = true,
            "DB" if place + 1 < a.len() => {
                db = match database(Some(a.integer(place + 1)?)) {
                    Some(db) => db,
                    None => return error("ERR DB index is out of range"),
                };
                place += 1;
            }
            _ => return error(SYNTAX),
        }
        place += 1;
    }
    if db == x.db && from == to {
        return error("ERR source and destination objects are the same");
    }
    let Some(mut head) = x.head(from)? else { return Ok(Reply::ZERO) };
    let own = std::mem::replace(&mut x.db, db);
    let is_taken = x.exists(to)?;
    x.db = own;
    if is_taken && !replaces {
        return Ok(Reply::ZERO);
    }
    if head.kind != Kind::String
        && let Some(held) = x.collection(from, head.kind)?
        && held.spread_id().is_some()
    {
        let copied = held.copied(x)?;
        head.body = Bytes::from(copied.encode_body());
    }
    place_head(x, db, to, &head)?;
    x.notify_in(db, Class::Generic, "copy_to", to);
    Ok(Reply::Integer(1))
}

fn swapdb(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let number = |place: usize, text: &'static str| match a.get(place).map(|n| parse_integer(n)) {
        Some(Some(number)) => Ok(number),
        _ => error(text),
    };
    let first = number(1, "ERR invalid first DB index")?;
    let second = number(2, "ERR invalid second DB index")?;
    let (Some(first), Some(second)) = (database(Some(first)), database(Some(second))) else {
        return error("ERR DB index is out of range");
    };
    if first == second {
        return Ok(Reply::OK);
    }
    let mut heads = [Vec::new(), Vec::new()];
    let own = x.db;
    for (db, heads) in [first, second].into_iter().zip(&mut heads) {
        x.db = db;
        for key in super::scan::all_keys(x)? {
            let before = x.before(&key)?;
            if let Some(head) = before.live().cloned() {
                x.remove_known(&key, &before, true)?;
                heads.push((key, head));
            }
        }
    }
    for (db, heads) in [second, first].into_iter().zip(&heads) {
        for (key, head) in heads {
            place_head(x, db, key, head)?;
        }
        // Those who wait for a key there must look again, and those who watch one must not trust it.
        x.access.emit(Change::Cleared { db });
        for (key, _) in heads {
            x.notify_in(db, Class::New, "swapdb", key);
        }
    }
    x.db = own;
    Ok(Reply::OK)
}

fn flush_option(a: &[Bytes]) -> Result<()> {
    match (a.len(), a.word(1).as_str()) {
        (1, _) | (2, "SYNC" | "ASYNC") => Ok(()),
        _ => error(SYNTAX),
    }
}

fn flushdb(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    flush_option(a)?;
    x.clear(x.db)?;
    Ok(Reply::OK)
}

fn flushall(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    flush_option(a)?;
    for db in 0..DATABASE_COUNT {
        x.clear(db)?;
    }
    Ok(Reply::OK)
}

/// The encoding that Redis would use.
pub(crate) fn encoding(head: &Head) -> &'static str {
    match (head.kind, head.is_large) {
        (Kind::String, true) => "raw",
        (Kind::String, false) => match head.body.len() {
            0..=20 if parse_integer(&head.body).is_some() => "int",
            0..=44 => "embstr",
            _ => "raw",
        },
        (Kind::List, false) => "listpack",
        (Kind::List, true) => "quicklist",
        (Kind::Set, true) | (Kind::Hash, true) => "hashtable",
        (Kind::Set, false) => {
            let held = Collection::decode(head.clone(), Before::ABSENT);
            if held.is_some_and(|held| held.meta.is_empty()) { "intset" } else { "listpack" }
        }
        (Kind::Hash, false) => {
            let held = Collection::decode(head.clone(), Before::ABSENT);
            if held.is_some_and(|held| held.field_expiry_ms().is_some()) {
                "listpackex"
            } else {
                "listpack"
            }
        }
        (Kind::SortedSet, false) => "listpack",
        (Kind::SortedSet, true) => "skiplist",
        (Kind::Stream, _) => "stream",
    }
}

fn object(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let word = a.word(1);
    match (word.as_str(), a.len()) {
        ("HELP", 2) => Ok(Reply::Array(
            [
                "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "ENCODING <key>",
                "    Return the kind of internal representation used in order to store the value",
                "    associated with a <key>.",
                "FREQ <key>",
                "    Return the access frequency index of the <key>. The returned integer is",
                "    proportional to the logarithm of the recent access frequency of the key.",
                "IDLETIME <key>",
                "    Return the idle time of the <key>, that is the approximated number of",
                "    seconds elapsed since the last access to the key.",
                "REFCOUNT <key>",
                "    Return the number of references of the value associated with the specified",
                "    <key>.",
                "HELP",
                "    Print this help.",
            ]
            .into_iter()
            .map(Reply::status)
            .collect(),
        )),
        ("ENCODING", 3) => {
            Ok(x.head(a.at(2)?)?.map_or(Reply::Nil, |head| Reply::text(encoding(&head))))
        }
        ("REFCOUNT", 3) => Ok(x.head(a.at(2)?)?.map_or(Reply::Nil, |_| Reply::Integer(1))),
        ("IDLETIME", 3) => Ok(x.head(a.at(2)?)?.map_or(Reply::Nil, |head| {
            let idle_ms = x.now_ms().saturating_sub(head.revision.0.physical_ms());
            Reply::Integer(i64::try_from(idle_ms / 1000).unwrap_or(i64::MAX))
        })),
        ("FREQ", 3) => match x.head(a.at(2)?)? {
            None => Ok(Reply::Nil),
            Some(_) => error(
                "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.",
            ),
        },
        ("ENCODING" | "REFCOUNT" | "IDLETIME" | "FREQ" | "HELP", _) => {
            super::wrong_arity(&format!("object|{}", word.to_lowercase()))
        }
        _ => unknown_subcommand("OBJECT", a.at(1)?),
    }
}

/// The error for a word that a command with subcommands does not know.
pub(crate) fn unknown_subcommand<T>(command: &str, word: &[u8]) -> Result<T> {
    let word = super::shortened(word, 128);
    failure(format!("ERR unknown subcommand '{word}'. Try {command} HELP."))
}
