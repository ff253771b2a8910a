//! Strings.

use bytes::Bytes;

use super::{
    ALL, Arguments, Command, Group, Keys, ONE, READ, READ_FAST, REMOVE_FAST, TWO, WRITE,
    WRITE_FAST, command, failure, wrong_arity,
};
use crate::exec::{Before, Exec, NOT_A_FLOAT, NOT_AN_INTEGER, Result, SYNTAX, TOO_LONG, error};
use crate::head::Kind;
use crate::number::{NoSum, add_floats, integer_digits, parse_integer};
use crate::reply::Reply;
use crate::{Class, STRING_BYTES_MAX};

const G: Group = Group::String;
const PAIRS: Keys = Keys::Range(1, -1, 2);

pub(super) const TABLE: &[Command] = &[
    command("append", 3, WRITE_FAST, ONE, G, append),
    command("decr", 2, WRITE_FAST, ONE, G, |x, a| add(x, a, -1)),
    command("decrby", 3, WRITE_FAST, ONE, G, decrby),
    command("get", 2, READ_FAST, ONE, G, get),
    command("getdel", 2, REMOVE_FAST, ONE, G, getdel),
    command("getex", -2, REMOVE_FAST, ONE, G, getex),
    command("getrange", 4, READ, ONE, G, getrange),
    command("getset", 3, WRITE_FAST, ONE, G, getset),
    command("incr", 2, WRITE_FAST, ONE, G, |x, a| add(x, a, 1)),
    command("incrby", 3, WRITE_FAST, ONE, G, |x, a| add(x, a, a.integer(2)?)),
    command("incrbyfloat", 3, WRITE_FAST, ONE, G, incrbyfloat),
    command("lcs", -3, READ, TWO, G, lcs),
    command("mget", -2, READ_FAST, ALL, G, mget),
    command("mset", -3, WRITE, PAIRS, G, mset),
    command("msetnx", -3, WRITE, PAIRS, G, msetnx),
    command("psetex", 4, WRITE, ONE, G, |x, a| setex(x, a, 1)),
    command("set", -3, WRITE, ONE, G, set),
    command("setex", 4, WRITE, ONE, G, |x, a| setex(x, a, 1000)),
    command("setnx", 3, WRITE_FAST, ONE, G, setnx),
    command("setrange", 4, WRITE, ONE, G, setrange),
    command("strlen", 2, READ_FAST, ONE, G, strlen),
    command("substr", 4, READ, ONE, G, getrange),
];

fn get(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    Ok(Reply::optional(x.string(a.at(1)?)?))
}

fn mget(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let mut values = Vec::with_capacity(a.len() - 1);
    for key in a.from(1) {
        let head = x.head(key)?.filter(|head| head.kind == Kind::String);
        values.push(Reply::optional(head.map(|head| head.body)));
    }
    Ok(Reply::Array(values))
}

fn strlen(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    Ok(Reply::count(x.string(a.at(1)?)?.map_or(0, |value| value.len())))
}

/// Until when a key lives, as SET and GETEX say it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lifetime {
    /// For good, unless said otherwise.
    Unsaid,
    Keep,
    Persist,
    Until(u64),
}

/// The time that an expiry option with its number means.
pub(super) fn expire_time(
    x: &Exec<'_>,
    a: &[Bytes],
    place: usize,
    unit_ms: i64,
    is_absolute: bool,
    name: &str,
) -> Result<u64> {
    let number = a.integer(place)?;
    let invalid = || failure(format!("ERR invalid expire time in '{name}' command"));
    if number <= 0 {
        return invalid();
    }
    let Some(ms) = number.checked_mul(unit_ms) else { return invalid() };
    let base = if is_absolute { 0 } else { i64::try_from(x.now_ms()).unwrap_or(i64::MAX) };
    match ms.checked_add(base) {
        Some(at_ms) => Ok(at_ms.unsigned_abs()),
        None => invalid(),
    }
}

#[derive(Default)]
struct SetOptions {
    only_if_absent: bool,
    only_if_present: bool,
    get: bool,
}

fn set(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let (key, value) = (a.at(1)?, a.at(2)?);
    if a.len() == 3 {
        let before = x.before(key)?;
        x.set_string(key, &before, value, None)?;
        x.notify(Class::String, "set", key);
        return Ok(Reply::OK);
    }
    let mut options = SetOptions::default();
    let lifetime = set_options(x, a, 3, &mut options, "set")?;
    let before = x.before(key)?;
    let reply = if options.get { Some(Reply::optional(before.string()?)) } else { None };
    let is_present = before.is_live;
    if (options.only_if_absent && is_present) || (options.only_if_present && !is_present) {
        return Ok(reply.unwrap_or(Reply::Nil));
    }
    let expire_at_ms = match lifetime {
        Lifetime::Unsaid | Lifetime::Persist => None,
        Lifetime::Keep => before.expire_at_ms(),
        Lifetime::Until(at_ms) => Some(at_ms),
    };
    if expire_at_ms.is_some_and(|at_ms| at_ms <= x.now_ms()) {
        x.remove_known(key, &before, false)?;
        x.notify(Class::String, "set", key);
        x.notify(Class::Generic, "del", key);
        return Ok(reply.unwrap_or(Reply::OK));
    }
    x.set_string(key, &before, value, expire_at_ms)?;
    x.notify(Class::String, "set", key);
    if matches!(lifetime, Lifetime::Until(_)) {
        x.notify(Class::Generic, "expire", key);
    }
    Ok(reply.unwrap_or(Reply::OK))
}

/// Reads the options of SET and GETEX; those of GETEX are a subset with PERSIST.
fn set_options(
    x: &Exec<'_>,
    a: &[Bytes],
    first: usize,
    options: &mut SetOptions,
    name: &str,
) -> Result<Lifetime> {
    let is_set = name == "set";
    let mut lifetime = Lifetime::Unsaid;
    let mut number_at = None;
    let mut place = first;
    while place < a.len() {
        let is_free = lifetime == Lifetime::Unsaid && number_at.is_none();
        match a.word(place).as_str() {
            "NX" if is_set && !options.only_if_present => options.only_if_absent = true,
            "XX" if is_set && !options.only_if_absent => options.only_if_present = true,
            "GET" if is_set => options.get = true,
            "KEEPTTL" if is_set && number_at.is_none() && lifetime != Lifetime::Persist => {
                lifetime = Lifetime::Keep;
            }
            "PERSIST" if !is_set && number_at.is_none() => lifetime = Lifetime::Persist,
            word @ ("EX" | "PX" | "EXAT" | "PXAT") if is_free && place + 1 < a.len() => {
                let unit_ms = if word.starts_with('E') { 1000 } else { 1 };
                number_at = Some((place + 1, unit_ms, word.ends_with("AT")));
                place += 1;
            }
            _ => return error(SYNTAX),
        }
        place += 1;
    }
    if let Some((at, unit_ms, is_absolute)) = number_at {
        lifetime = Lifetime::Until(expire_time(x, a, at, unit_ms, is_absolute, name)?);
    }
    Ok(lifetime)
}

fn setex(x: &mut Exec<'_>, a: &[Bytes], unit_ms: i64) -> Result {
    let name = if unit_ms == 1 { "psetex" } else { "setex" };
    let at_ms = expire_time(x, a, 2, unit_ms, false, name)?;
    let key = a.at(1)?;
    let before = x.before(key)?;
    x.set_string(key, &before, a.at(3)?, Some(at_ms))?;
    x.notify(Class::String, "set", key);
    x.notify(Class::Generic, "expire", key);
    Ok(Reply::OK)
}

fn setnx(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let key = a.at(1)?;
    let before = x.before(key)?;
    if before.is_live {
        return Ok(Reply::ZERO);
    }
    x.set_string(key, &before, a.at(2)?, None)?;
    x.notify(Class::String, "set", key);
    Ok(Reply::Integer(1))
}

fn getset(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let key = a.at(1)?;
    let before = x.before(key)?;
    let value = before.string()?;
    x.set_string(key, &before, a.at(2)?, None)?;
    x.notify(Class::String, "set", key);
    Ok(Reply::optional(value))
}

fn getdel(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let key = a.at(1)?;
    let before = x.before(key)?;
    let value = before.string()?;
    if value.is_some() {
        x.remove_known(key, &before, false)?;
        x.notify(Class::Generic, "del", key);
    }
    Ok(Reply::optional(value))
}

fn getex(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let lifetime = set_options(x, a, 2, &mut SetOptions::default(), "getex")?;
    let key = a.at(1)?;
    let before = x.before(key)?;
    let Some(value) = before.string()? else { return Ok(Reply::Nil) };
    match lifetime {
        Lifetime::Until(at_ms) if at_ms <= x.now_ms() => {
            x.remove_known(key, &before, false)?;
            x.notify(Class::Generic, "del", key);
        }
        Lifetime::Until(at_ms) => {
            x.set_string(key, &before, &value, Some(at_ms))?;
            x.notify(Class::Generic, "expire", key);
        }
        Lifetime::Persist if before.expire_at_ms().is_some() => {
            x.set_string(key, &before, &value, None)?;
            x.notify(Class::Generic, "persist", key);
        }
        _ => {}
    }
    Ok(Reply::Bulk(value))
}

fn mset(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    if a.len().is_multiple_of(2) {
        return wrong_arity("mset");
    }
    set_pairs(x, a)?;
    Ok(Reply::OK)
}

fn msetnx(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    if a.len().is_multiple_of(2) {
        return wrong_arity("msetnx");
    }
    for pair in a.from(1).chunks_exact(2) {
        if x.exists(&pair[0])? {
            return Ok(Reply::ZERO);
        }
    }
    set_pairs(x, a)?;
    Ok(Reply::Integer(1))
}

fn set_pairs(x: &mut Exec<'_>, a: &[Bytes]) -> Result<()> {
    for pair in a.from(1).chunks_exact(2) {
        let before = x.before(&pair[0])?;
        x.set_string(&pair[0], &before, &pair[1], None)?;
        x.notify(Class::String, "set", &pair[0]);
    }
    Ok(())
}

/// Writes a string that a command has changed, its expiry kept.
pub(super) fn rewrite(
    x: &mut Exec<'_>,
    key: &Bytes,
    before: &Before,
    value: &[u8],
    event: &'static str,
) -> Result<()> {
    // Redis leaves a string that was changed in place in an encoding of its own.
    let is_raw = matches!(event, "append" | "setrange" | "setbit");
    x.discard(key, before, false)?;
    x.put_head(key, before, Kind::String, is_raw, before.expire_at_ms(), value)?;
    x.notify(Class::String, event, key);
    Ok(())
}

fn append(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let (key, added) = (a.at(1)?, a.at(2)?);
    let before = x.before(key)?;
    let present = before.string()?.unwrap_or_default();
    if present.len() + added.len() > STRING_BYTES_MAX {
        return error(TOO_LONG);
    }
    let value = [&present[..], added].concat();
    rewrite(x, key, &before, &value, "append")?;
    Ok(Reply::count(value.len()))
}

fn decrby(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let Some(by) = a.integer(2)?.checked_neg() else {
        return error("ERR decrement would overflow");
    };
    add(x, a, by)
}

fn add(x: &mut Exec<'_>, a: &[Bytes], by: i64) -> Result {
    let key = a.at(1)?;
    let before = x.before(key)?;
    let number = match before.string()? {
        None => 0,
        Some(value) => match parse_integer(&value) {
            Some(number) => number,
            None => return error(NOT_AN_INTEGER),
        },
    };
    let Some(sum) = number.checked_add(by) else {
        return error("ERR increment or decrement would overflow");
    };
    rewrite(x, key, &before, integer_digits(sum, &mut [0; 20]), "incrby")?;
    Ok(Reply::Integer(sum))
}

fn incrbyfloat(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let key = a.at(1)?;
    let before = x.before(key)?;
    let present = before.string()?.unwrap_or(Bytes::from_static(b"0"));
    match add_floats(&present, a.at(2)?) {
        Err(NoSum::NotAFloat) => error(NOT_A_FLOAT),
        Err(NoSum::NotFinite) => error("ERR increment would produce NaN or Infinity"),
        Ok(sum) => {
            rewrite(x, key, &before, sum.as_bytes(), "incrbyfloat")?;
            Ok(Reply::text(sum))
        }
    }
}

fn getrange(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let (first, last) = (a.integer(2)?, a.integer(3)?);
    let value = x.string(a.at(1)?)?.unwrap_or_default();
    let count = i64::try_from(value.len()).unwrap_or(i64::MAX);
    if count == 0 || (first < 0 && last < 0 && first > last) {
        return Ok(Reply::Bulk(Bytes::new()));
    }
    let place = |at: i64| if at < 0 { (at.saturating_add(count)).max(0) } else { at };
    let (first, last) = (place(first), place(last).min(count - 1));
    if first > last {
        return Ok(Reply::Bulk(Bytes::new()));
    }
    Ok(Reply::Bulk(value.slice(first as usize..last as usize + 1)))
}

fn setrange(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let start = a.integer(2)?;
    let Ok(start) = usize::try_from(start) else { return error("ERR offset is out of range") };
    let (key, part) = (a.at(1)?, a.at(3)?);
    let before = x.before(key)?;
    let present = before.string()?.unwrap_or_default();
    if part.is_empty() {
        return Ok(Reply::count(present.len()));
    }
    let end = start.saturating_add(part.len());
    if end > STRING_BYTES_MAX {
        return error(TOO_LONG);
    }
    let mut value = present.to_vec();
    if value.len() < end {
        value.resize(end, 0);
    }
    value[start..end].copy_from_slice(part);
    rewrite(x, key, &before, &value, "setrange")?;
    Ok(Reply::count(value.len()))
}

fn lcs(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    const WRONG: &str = "ERR The specified keys must contain string values";
    let string = |x: &Exec<'_>, key: &Bytes| match x.head(key)? {
        None => Ok(Bytes::new()),
        Some(head) if head.kind == Kind::String => Ok(head.body),
        Some(_) => error(WRONG),
    };
    let (first, second) = (string(x, a.at(1)?)?, string(x, a.at(2)?)?);
    let (mut asks_length, mut asks_places, mut with_lengths, mut length_min) =
        (false, false, false, 0);
    let mut place = 3;
    while place < a.len() {
        match a.word(place).as_str() {
            "IDX" => asks_places = true,
            "LEN" => asks_length = true,
            "WITHMATCHLEN" => with_lengths = true,
            "MINMATCHLEN" if place + 1 < a.len() => {
                length_min = a.integer(place + 1)?.max(0) as usize;
                place += 1;
            }
            _ => return error(SYNTAX),
        }
        place += 1;
    }
    if asks_length && asks_places {
        return error("ERR If you want both the length and indexes, please just use IDX.");
    }
    let width = second.len() + 1;
    // The table of the textbook; what it takes is bounded as Redis bounds it by memory.
    let Some(cells) = (first.len() + 1).checked_mul(width).filter(|cells| *cells <= 1 << 26) else {
        return error("ERR Insufficient memory, failed allocating transient memory for LCS");
    };
    let mut table = vec![0u32; cells];
    for i in 1..=first.len() {
        for j in 1..=second.len() {
            table[i * width + j] = if first[i - 1] == second[j - 1] {
                table[(i - 1) * width + j - 1] + 1
            } else {
                table[(i - 1) * width + j].max(table[i * width + j - 1])
            };
        }
    }
    let total = table[first.len() * width + second.len()] as usize;
    if asks_length {
        return Ok(Reply::count(total));
    }
    let (mut i, mut j) = (first.len(), second.len());
    let mut common = Vec::with_capacity(total);
    let mut matches = Vec::new();
    // The run of equal bytes under way: its last places, and its length.
    let mut run: Option<(usize, usize, usize)> = None;
    let mut close = |run: &mut Option<(usize, usize, usize)>| {
        if let Some((i_last, j_last, length)) = run.take()
            && length >= length_min
        {
            let range = |last: usize| {
                Reply::Array(vec![Reply::count(last + 1 - length), Reply::count(last)])
            };
            let mut entry = vec![range(i_last), range(j_last)];
            if with_lengths {
                entry.push(Reply::count(length));
            }
            matches.push(Reply::Array(entry));
        }
    };
    while i > 0 && j > 0 {
        if first[i - 1] == second[j - 1] {
            common.push(first[i - 1]);
            run = match run {
                Some((i_last, j_last, length)) => Some((i_last, j_last, length + 1)),
                None => Some((i - 1, j - 1, 1)),
            };
            (i, j) = (i - 1, j - 1);
            continue;
        }
        close(&mut run);
        if table[(i - 1) * width + j] > table[i * width + j - 1] {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    close(&mut run);
    if asks_places {
        return Ok(Reply::Map(vec![
            (Reply::text("matches"), Reply::Array(matches)),
            (Reply::text("len"), Reply::count(total)),
        ]));
    }
    common.reverse();
    Ok(Reply::Bulk(Bytes::from(common)))
}
