//! Hashes, with fields that may expire.
//!
//! A field's place is `0 hash[4] field`; its value `0 value`, or `1 expire_at_ms[8] value`. The head
//! keeps the earliest time at which a field expires. A field whose time has come is invisible at once;
//! HLEN counts it until its removal, as in Redis.

use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_machine::key::take_u64;
use proteus_store::{Direction, StoreError, prefix_end};

use super::keys::{ExpireConditions, absolute_ms};
use super::{
    Arguments, Command, Flags, Group, ONE, READ, READ_FAST, REMOVE_FAST, WRITE_FAST, command,
    failure, wrong_arity,
};
use crate::Class;
use crate::collection::Collection;
use crate::exec::{Exec, NOT_A_FLOAT, Result, SYNTAX, error};
use crate::head::Kind;
use crate::number::{NoSum, add_floats, integer_text, parse_integer};
use crate::random::hash32;
use crate::reply::Reply;

const G: Group = Group::Hash;

pub(super) const TABLE: &[Command] = &[
    command("hdel", -3, REMOVE_FAST, ONE, G, hdel),
    command("hexists", 3, READ_FAST, ONE, G, hexists),
    command("hexpire", -6, WRITE_FAST, ONE, G, |x, a| expire(x, a, 1000, true)),
    command("hexpireat", -6, WRITE_FAST, ONE, G, |x, a| expire(x, a, 1000, false)),
    command("hexpiretime", -5, READ_FAST, ONE, G, |x, a| time_left(x, a, 1000, false)),
    command("hget", 3, READ_FAST, ONE, G, hget),
    command("hgetall", 2, READ, ONE, G, hgetall),
    command("hincrby", 4, WRITE_FAST, ONE, G, hincrby),
    command("hincrbyfloat", 4, WRITE_FAST, ONE, G, hincrbyfloat),
    command("hkeys", 2, READ, ONE, G, hkeys),
    command("hlen", 2, READ_FAST, ONE, G, hlen),
    command("hmget", -3, READ_FAST, ONE, G, hmget),
    command("hmset", -4, WRITE_FAST, ONE, G, hset),
    command("hpersist", -5, WRITE_FAST, ONE, G, hpersist),
    command("hpexpire", -6, WRITE_FAST, ONE, G, |x, a| expire(x, a, 1, true)),
    command("hpexpireat", -6, WRITE_FAST, ONE, G, |x, a| expire(x, a, 1, false)),
    command("hpexpiretime", -5, READ_FAST, ONE, G, |x, a| time_left(x, a, 1, false)),
    command("hpttl", -5, READ_FAST, ONE, G, |x, a| time_left(x, a, 1, true)),
    command("hrandfield", -2, READ.and(Flags::RANDOM), ONE, G, hrandfield),
    command("hset", -4, WRITE_FAST, ONE, G, hset),
    command("hsetnx", 4, WRITE_FAST, ONE, G, hsetnx),
    command("hstrlen", 3, READ_FAST, ONE, G, hstrlen),
    command("httl", -5, READ_FAST, ONE, G, |x, a| time_left(x, a, 1000, true)),
    command("hvals", 2, READ, ONE, G, hvals),
];

/// Redis keeps a hash as one piece of memory up to so many fields, of so many bytes each.
const COMPACT_FIELDS_MAX: u64 = 512;
pub(super) const COMPACT_BYTES_MAX: usize = 64;

/// Where a member or field stands: behind its hash, so that a scan's cursor is a number.
pub(super) fn member_place(member: &[u8]) -> Vec<u8> {
    let mut place = Vec::with_capacity(5 + member.len());
    place.push(0);
    place.extend_from_slice(&hash32(member).to_be_bytes());
    place.extend_from_slice(member);
    place
}

/// Hash and member of a place.
pub(super) fn split_member(place: &[u8]) -> Option<(u32, &[u8])> {
    let (_, rest) = place.split_first()?;
    let (hash, member) = rest.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*hash), member))
}

/// A field's value as it is stored.
fn stored_value(value: &[u8], expire_at_ms: Option<u64>) -> Bytes {
    let mut bytes = Vec::with_capacity(9 + value.len());
    match expire_at_ms {
        None => bytes.push(0),
        Some(at_ms) => {
            bytes.push(1);
            bytes.extend_from_slice(&at_ms.to_be_bytes());
        }
    }
    bytes.extend_from_slice(value);
    Bytes::from(bytes)
}

/// A stored field's value and when it expires.
pub(super) fn split_value(stored: &Bytes) -> (Bytes, Option<u64>) {
    match stored.first() {
        Some(1) => {
            let at_ms = stored.get(1..).and_then(take_u64).map(|(at_ms, _)| at_ms);
            (stored.slice(stored.len().min(9)..), at_ms)
        }
        Some(_) => (stored.slice(1..), None),
        None => (Bytes::new(), None),
    }
}

/// The value, unless its time has come.
pub(super) fn live_value(stored: &Bytes, now_ms: u64) -> Option<Bytes> {
    let (value, expire_at_ms) = split_value(stored);
    expire_at_ms.is_none_or(|at_ms| at_ms > now_ms).then_some(value)
}

fn field(x: &Exec<'_>, held: &Collection, field: &[u8]) -> Result<Option<Bytes>, StoreError> {
    let stored = held.get(x, &member_place(field))?;
    Ok(stored.and_then(|stored| live_value(&stored, x.now_ms())))
}

/// Sets a field; its expiry goes, unless it is kept. Says whether it was absent.
pub(super) fn set_field(
    x: &mut Exec<'_>,
    held: &mut Collection,
    field: &[u8],
    value: &[u8],
    keeps_expiry: bool,
) -> Result<bool, StoreError> {
    let place = member_place(field);
    let stored = held.get(x, &place)?;
    let mut expire_at_ms = None;
    let mut was_live = false;
    if let Some(stored) = &stored {
        let (_, at_ms) = split_value(stored);
        was_live = at_ms.is_none_or(|at_ms| at_ms > x.now_ms());
        if keeps_expiry && was_live {
            expire_at_ms = at_ms;
        }
    } else {
        held.count += 1;
    }
    if value.len() > COMPACT_BYTES_MAX
        || field.len() > COMPACT_BYTES_MAX
        || held.count > COMPACT_FIELDS_MAX
    {
        held.is_large = true;
    }
    held.put(x, &place, stored_value(value, expire_at_ms));
    held.relieve(x)?;
    Ok(!was_live)
}

/// Sets a field with its expiry.
pub(super) fn put_field(
    x: &mut Exec<'_>,
    held: &mut Collection,
    field: &[u8],
    value: &[u8],
    expire_at_ms: Option<u64>,
) -> Result<(), StoreError> {
    set_field(x, held, field, value, false)?;
    if let Some(at_ms) = expire_at_ms {
        held.put(x, &member_place(field), stored_value(value, expire_at_ms));
        let earliest = held.field_expiry_ms().map_or(at_ms, |ms| ms.min(at_ms));
        held.meta = earliest.to_be_bytes().to_vec();
    }
    Ok(())
}

fn visit_live(
    x: &Exec<'_>,
    held: &Collection,
    visit: &mut dyn FnMut(&[u8], Bytes),
) -> Result<(), StoreError> {
    let now_ms = x.now_ms();
    held.prefix(x, &[0], Direction::Ascending, &mut |place, stored| {
        if let (Some((_, field)), Some(value)) = (split_member(place), live_value(stored, now_ms)) {
            visit(field, value);
        }
        ControlFlow::Continue(())
    })
}

fn hset(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let is_hmset = a.is(0, "hmset");
    if !a.len().is_multiple_of(2) {
        return wrong_arity(if is_hmset { "hmset" } else { "hset" });
    }
    let key = a.at(1)?;
    let mut held = x.collection_or_new(key, Kind::Hash)?;
    let mut added = 0;
    for pair in a.from(2).chunks_exact(2) {
        added += i64::from(set_field(x, &mut held, &pair[0], &pair[1], false)?);
    }
    x.save(key, held)?;
    x.notify(Class::Hash, "hset", key);
    Ok(if is_hmset { Reply::OK } else { Reply::Integer(added) })
}

fn hsetnx(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let key = a.at(1)?;
    let mut held = x.collection_or_new(key, Kind::Hash)?;
    if field(x, &held, a.at(2)?)?.is_some() {
        return Ok(Reply::ZERO);
    }
    set_field(x, &mut held, a.at(2)?, a.at(3)?, false)?;
    x.save(key, held)?;
    x.notify(Class::Hash, "hset", key);
    Ok(Reply::Integer(1))
}

fn hget(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    match x.collection(a.at(1)?, Kind::Hash)? {
        None => Ok(Reply::Nil),
        Some(held) => Ok(Reply::optional(field(x, &held, a.at(2)?)?)),
    }
}

fn hmget(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let held = x.collection(a.at(1)?, Kind::Hash)?;
    let value = |name: &Bytes| match &held {
        None => Ok(Reply::Nil),
        Some(held) => Ok(Reply::optional(field(x, held, name)?)),
    };
    Ok(Reply::Array(a.from(2).iter().map(value).collect::<Result<_>>()?))
}

/// Fields and values: in the order of the fields' bytes while there are few, of their hashes later.
fn live_fields(x: &Exec<'_>, key: &[u8]) -> Result<Vec<(Bytes, Bytes)>> {
    let mut found = Vec::new();
    if let Some(held) = x.collection(key, Kind::Hash)? {
        visit_live(x, &held, &mut |field, value| {
            found.push((Bytes::copy_from_slice(field), value));
        })?;
        if !held.is_large {
            found.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
    }
    Ok(found)
}

fn hgetall(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let pair = |(field, value)| (Reply::Bulk(field), Reply::Bulk(value));
    Ok(Reply::Map(live_fields(x, a.at(1)?)?.into_iter().map(pair).collect()))
}

fn hkeys(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    Ok(Reply::bulks(live_fields(x, a.at(1)?)?.into_iter().map(|(field, _)| field)))
}

fn hvals(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    Ok(Reply::bulks(live_fields(x, a.at(1)?)?.into_iter().map(|(_, value)| value)))
}

fn hlen(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let held = x.collection(a.at(1)?, Kind::Hash)?;
    Ok(Reply::Integer(held.map_or(0, |held| i64::try_from(held.count).unwrap_or(i64::MAX))))
}

fn hexists(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    match x.collection(a.at(1)?, Kind::Hash)? {
        None => Ok(Reply::ZERO),
        Some(held) => Ok(Reply::Integer(i64::from(field(x, &held, a.at(2)?)?.is_some()))),
    }
}

fn hstrlen(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    match x.collection(a.at(1)?, Kind::Hash)? {
        None => Ok(Reply::ZERO),
        Some(held) => Ok(Reply::count(field(x, &held, a.at(2)?)?.map_or(0, |value| value.len()))),
    }
}

fn hdel(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let key = a.at(1)?;
    let Some(mut held) = x.collection(key, Kind::Hash)? else { return Ok(Reply::ZERO) };
    let mut count = 0;
    for name in a.from(2) {
        let place = member_place(name);
        if let Some(stored) = held.get(x, &place)? {
            count += i64::from(live_value(&stored, x.now_ms()).is_some());
            held.delete(x, &place);
            held.count -= 1;
        }
    }
    if count > 0 {
        x.notify(Class::Hash, "hdel", key);
        x.save(key, held)?;
    }
    Ok(Reply::Integer(count))
}

fn hincrby(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let (key, by) = (a.at(1)?, a.integer(3)?);
    let mut held = x.collection_or_new(key, Kind::Hash)?;
    let number = match field(x, &held, a.at(2)?)? {
        None => 0,
        Some(value) => match parse_integer(&value) {
            Some(number) => number,
            None => return error("ERR hash value is not an integer"),
        },
    };
    let Some(sum) = number.checked_add(by) else {
        return error("ERR increment or decrement would overflow");
    };
    set_field(x, &mut held, a.at(2)?, &integer_text(sum), true)?;
    x.save(key, held)?;
    x.notify(Class::Hash, "hincrby", key);
    Ok(Reply::Integer(sum))
}

fn hincrbyfloat(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let key = a.at(1)?;
    match crate::number::parse_float(a.at(3)?) {
        None => return error(NOT_A_FLOAT),
        Some(by) if !by.is_finite() => return error("ERR value is NaN or Infinity"),
        Some(_) => {}
    }
    let mut held = x.collection_or_new(key, Kind::Hash)?;
    let present = field(x, &held, a.at(2)?)?.unwrap_or(Bytes::from_static(b"0"));
    let sum = match add_floats(&present, a.at(3)?) {
        Err(NoSum::NotAFloat) => return error("ERR hash value is not a float"),
        Err(NoSum::NotFinite) => return error("ERR increment would produce NaN or Infinity"),
        Ok(sum) => sum,
    };
    set_field(x, &mut held, a.at(2)?, sum.as_bytes(), true)?;
    x.save(key, held)?;
    x.notify(Class::Hash, "hincrbyfloat", key);
    Ok(Reply::text(sum))
}

/// Chooses places of members: `count` different ones, or any if negative, in no order.
pub(super) fn choose(
    x: &mut Exec<'_>,
    held: &Collection,
    count: i64,
) -> Result<Vec<(Bytes, Bytes)>> {
    /// Up to here choosing is exact: all members are looked at.
    const EXACT_MAX: u64 = 4096;
    let wanted = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    if held.count <= EXACT_MAX || (count > 0 && count.unsigned_abs() * 4 >= held.count) {
        let mut all = held.all(x, &[0])?;
        if count >= 0 {
            let wanted = wanted.min(all.len());
            for place in 0..wanted {
                let other = place + x.random.below((all.len() - place) as u64) as usize;
                all.swap(place, other);
            }
            all.truncate(wanted);
            return Ok(unhashed(all));
        }
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let chosen =
            (0..wanted).map(|_| all[x.random.below(all.len() as u64) as usize].clone()).collect();
        return Ok(unhashed(chosen));
    }
    // The member at or behind a hash drawn at random.
    let mut chosen: Vec<(Bytes, Bytes)> = Vec::new();
    let mut taken = std::collections::BTreeSet::new();
    let mut tries = 0;
    while chosen.len() < wanted && tries < wanted.saturating_mul(8) + 64 {
        tries += 1;
        let hash = x.random.next() as u32;
        for start in [hash, 0] {
            let start = [&[0][..], &start.to_be_bytes()].concat();
            let mut found = None;
            held.range(x, &start, &prefix_end(&[0]), Direction::Ascending, &mut |place, value| {
                found = split_member(place)
                    .map(|(_, member)| (Bytes::copy_from_slice(member), value.clone()));
                ControlFlow::Break(())
            })?;
            if let Some((member, value)) = found {
                if count < 0 || taken.insert(member.clone()) {
                    chosen.push((member, value));
                }
                break;
            }
        }
    }
    Ok(chosen)
}

fn unhashed(elements: Vec<(Bytes, Bytes)>) -> Vec<(Bytes, Bytes)> {
    elements.into_iter().map(|(place, value)| (place.slice(place.len().min(4)..), value)).collect()
}

/// The count of HRANDFIELD and its relatives, within what an answer may hold.
pub(super) fn random_count(a: &[Bytes], place: usize, with_values: bool) -> Result<i64> {
    let count = a.integer(place)?;
    let bound = if with_values { i64::MAX / 2 } else { i64::MAX };
    if !(-bound..=bound).contains(&count) {
        return error("ERR value is out of range");
    }
    // What nobody could take.
    Ok(count.max(-(1 << 24)))
}

fn hrandfield(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let now_ms = x.now_ms();
    if a.len() == 2 {
        let Some(held) = x.collection(a.at(1)?, Kind::Hash)? else { return Ok(Reply::Nil) };
        let chosen = choose(x, &held, 1)?;
        return Ok(Reply::optional(chosen.into_iter().next().map(|(field, _)| field)));
    }
    let with_values = a.is(3, "withvalues");
    let count = random_count(a, 2, with_values)?;
    if a.len() > 4 || (a.len() == 4 && !with_values) {
        return error(SYNTAX);
    }
    let Some(held) = x.collection(a.at(1)?, Kind::Hash)? else {
        return Ok(Reply::Array(Vec::new()));
    };
    let live = choose(x, &held, count)?
        .into_iter()
        .filter_map(|(field, stored)| Some((field, live_value(&stored, now_ms)?)));
    Ok(if with_values {
        Reply::Pairs(live.map(|(field, value)| (Reply::Bulk(field), Reply::Bulk(value))).collect())
    } else {
        Reply::bulks(live.map(|(field, _)| field))
    })
}

/// The fields that `FIELDS count field…` at `place` names.
fn fields_at(a: &[Bytes], place: usize) -> Result<&[Bytes]> {
    if !a.is(place, "fields") {
        return error("ERR Mandatory argument FIELDS is missing or not at the right position");
    }
    match parse_integer(a.at(place + 1)?) {
        Some(count) if count > 0 => {
            let fields = a.from(place + 2);
            if usize::try_from(count) != Ok(fields.len()) {
                return error("ERR The `numfields` parameter must match the number of arguments");
            }
            Ok(fields)
        }
        _ => error("ERR Parameter `numFields` should be greater than 0"),
    }
}

fn expire(x: &mut Exec<'_>, a: &[Bytes], unit_ms: i64, is_relative: bool) -> Result {
    let name = a.word(0).to_ascii_lowercase();
    let number = a.integer(2)?;
    if number < 0 {
        return failure("ERR invalid expire time, must be >= 0");
    }
    let at_ms = absolute_ms(x, number, unit_ms, is_relative, &name)?;
    if at_ms >= 1 << 46 {
        return failure(format!("ERR invalid expire time in '{name}' command"));
    }
    let mut conditions = ExpireConditions::default();
    let mut fields_place = 3;
    match a.word(3).as_str() {
        "NX" => conditions.if_none = true,
        "XX" => conditions.if_some = true,
        "GT" => conditions.if_later = true,
        "LT" => conditions.if_earlier = true,
        _ => fields_place -= 1,
    }
    let fields = fields_at(a, fields_place + 1)?;
    let key = a.at(1)?;
    let Some(mut held) = x.collection(key, Kind::Hash)? else {
        return Ok(Reply::Array(vec![Reply::Integer(-2); fields.len()]));
    };
    let is_past = at_ms.unsigned_abs() <= x.now_ms();
    let (mut replies, mut has_set, mut has_removed) = (Vec::new(), false, false);
    for name in fields {
        let place = member_place(name);
        let stored = held.get(x, &place)?;
        let Some(value) = stored.as_ref().and_then(|stored| live_value(stored, x.now_ms())) else {
            replies.push(Reply::Integer(-2));
            continue;
        };
        let present_ms = stored.and_then(|stored| split_value(&stored).1);
        if !conditions.hold(present_ms, at_ms) {
            replies.push(Reply::ZERO);
        } else if is_past {
            held.delete(x, &place);
            held.count -= 1;
            has_removed = true;
            replies.push(Reply::Integer(2));
        } else {
            held.put(x, &place, stored_value(&value, Some(at_ms.unsigned_abs())));
            has_set = true;
            replies.push(Reply::Integer(1));
        }
    }
    if has_set {
        let earliest =
            held.field_expiry_ms().map_or(at_ms.unsigned_abs(), |ms| ms.min(at_ms.unsigned_abs()));
        held.meta = earliest.to_be_bytes().to_vec();
    }
    if has_set || has_removed {
        x.notify(Class::Hash, if has_set { "hexpire" } else { "hdel" }, key);
        x.save(key, held)?;
    }
    Ok(Reply::Array(replies))
}

fn hpersist(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let fields = fields_at(a, 2)?;
    let key = a.at(1)?;
    let Some(mut held) = x.collection(key, Kind::Hash)? else {
        return Ok(Reply::Array(vec![Reply::Integer(-2); fields.len()]));
    };
    let (mut replies, mut has_changed) = (Vec::new(), false);
    for name in fields {
        let place = member_place(name);
        let stored = held.get(x, &place)?;
        let live = stored.as_ref().and_then(|stored| live_value(stored, x.now_ms()));
        replies.push(Reply::Integer(match (stored.map(|s| split_value(&s).1), live) {
            (Some(Some(_)), Some(value)) => {
                held.put(x, &place, stored_value(&value, None));
                has_changed = true;
                1
            }
            (Some(None), Some(_)) => -1,
            _ => -2,
        }));
    }
    if has_changed {
        refresh_earliest(x, &mut held)?;
        x.notify(Class::Hash, "hpersist", key);
        x.save(key, held)?;
    }
    Ok(Reply::Array(replies))
}

/// Finds the earliest expiry among the fields anew.
fn refresh_earliest(x: &Exec<'_>, held: &mut Collection) -> Result<(), StoreError> {
    let mut earliest: Option<u64> = None;
    held.prefix(x, &[0], Direction::Ascending, &mut |_, stored| {
        if let (_, Some(at_ms)) = split_value(stored) {
            earliest = Some(earliest.map_or(at_ms, |ms| ms.min(at_ms)));
        }
        ControlFlow::Continue(())
    })?;
    held.meta = earliest.map(|at_ms| at_ms.to_be_bytes().to_vec()).unwrap_or_default();
    Ok(())
}

fn time_left(x: &mut Exec<'_>, a: &[Bytes], unit_ms: u64, is_relative: bool) -> Result {
    let fields = fields_at(a, 2)?;
    let held = x.collection(a.at(1)?, Kind::Hash)?;
    let mut replies = Vec::with_capacity(fields.len());
    for name in fields {
        let stored = match &held {
            Some(held) => held.get(x, &member_place(name))?,
            None => None,
        };
        let now_ms = x.now_ms();
        let live = stored.filter(|stored| live_value(stored, now_ms).is_some());
        replies.push(Reply::Integer(match live.map(|stored| split_value(&stored).1) {
            None => -2,
            Some(None) => -1,
            Some(Some(at_ms)) => {
                let ms = if is_relative { at_ms.saturating_sub(now_ms) } else { at_ms };
                i64::try_from(ms.div_ceil(unit_ms)).unwrap_or(i64::MAX)
            }
        }));
    }
    Ok(Reply::Array(replies))
}

/// Removes the fields of a hash whose time has come.
pub(crate) fn expire_fields(x: &mut Exec<'_>, key: &Bytes) -> Result {
    let Some(mut held) = x.collection(key, Kind::Hash)? else { return Ok(Reply::OK) };
    let now_ms = x.now_ms();
    if held.field_expiry_ms().is_none_or(|at_ms| at_ms > now_ms) {
        return Ok(Reply::OK);
    }
    let mut expired = Vec::new();
    held.prefix(x, &[0], Direction::Ascending, &mut |place, stored| {
        if live_value(stored, now_ms).is_none() {
            expired.push(Bytes::copy_from_slice(place));
        }
        ControlFlow::Continue(())
    })?;
    for place in &expired {
        held.delete(x, place);
        held.count -= 1;
    }
    refresh_earliest(x, &mut held)?;
    if !expired.is_empty() {
        x.notify(Class::Hash, "hexpired", key);
    }
    x.save(key, held)?;
    Ok(Reply::OK)
}
