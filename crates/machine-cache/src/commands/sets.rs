//! Sets.
//!
//! A member's place is `0 hash[4] member`. The head says which encoding Redis would use: nothing while
//! all members are numbers, one byte otherwise.

use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_store::{Direction, StoreError};

use super::hashes::{COMPACT_BYTES_MAX, choose, member_place, random_count, split_member};
use super::{
    ALL, Arguments, Command, Flags, Group, Keys, ONE, READ, READ_FAST, REMOVE_FAST, TWO, WRITE,
    WRITE_FAST, command, not_negative,
};
use crate::Class;
use crate::collection::Collection;
use crate::exec::{Exec, Result, SYNTAX, error};
use crate::head::Kind;
use crate::number::parse_integer;
use crate::reply::Reply;

const G: Group = Group::Set;

pub(super) const TABLE: &[Command] = &[
    command("sadd", -3, WRITE_FAST, ONE, G, sadd),
    command("scard", 2, READ_FAST, ONE, G, scard),
    command("sdiff", -2, READ, ALL, G, |x, a| answer(x, a.from(1), Combine::Difference)),
    command("sdiffstore", -3, WRITE, ALL, G, |x, a| store(x, a, Combine::Difference)),
    command("sinter", -2, READ, ALL, G, |x, a| answer(x, a.from(1), Combine::Intersection)),
    command("sintercard", -3, READ.and(Flags::MOVABLE_KEYS), Keys::Counted(1), G, sintercard),
    command("sinterstore", -3, WRITE, ALL, G, |x, a| store(x, a, Combine::Intersection)),
    command("sismember", 3, READ_FAST, ONE, G, sismember),
    command("smembers", 2, READ, ONE, G, |x, a| answer(x, a.from(1), Combine::Union)),
    command("smismember", -3, READ_FAST, ONE, G, smismember),
    command("smove", 4, REMOVE_FAST, TWO, G, smove),
    command("spop", -2, REMOVE_FAST.and(Flags::RANDOM), ONE, G, spop),
    command("srandmember", -2, READ.and(Flags::RANDOM), ONE, G, srandmember),
    command("srem", -3, REMOVE_FAST, ONE, G, srem),
    command("sunion", -2, READ, ALL, G, |x, a| answer(x, a.from(1), Combine::Union)),
    command("sunionstore", -3, WRITE, ALL, G, |x, a| store(x, a, Combine::Union)),
];

/// Redis keeps a set of numbers, and one of short members, as one piece of memory up to so many.
const NUMBERS_MAX: u64 = 512;
const COMPACT_MEMBERS_MAX: u64 = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Combine {
    Union,
    Intersection,
    Difference,
}

/// Adds a member; says whether it was absent.
pub(super) fn add(
    x: &mut Exec<'_>,
    held: &mut Collection,
    member: &[u8],
) -> Result<bool, StoreError> {
    let place = member_place(member);
    if held.count > 0 && held.get(x, &place)?.is_some() {
        return Ok(false);
    }
    held.put(x, &place, Bytes::new());
    held.count += 1;
    if held.meta.is_empty() && parse_integer(member).is_none() {
        held.meta.push(1);
        held.is_large |= held.count > COMPACT_MEMBERS_MAX + 1;
    }
    let count_max = if held.meta.is_empty() { NUMBERS_MAX } else { COMPACT_MEMBERS_MAX };
    held.is_large |= held.count > count_max || member.len() > COMPACT_BYTES_MAX;
    held.relieve(x)?;
    Ok(true)
}

/// Removes a member; says whether it was there.
fn remove(x: &mut Exec<'_>, held: &mut Collection, member: &[u8]) -> Result<bool, StoreError> {
    let place = member_place(member);
    if held.get(x, &place)?.is_none() {
        return Ok(false);
    }
    held.delete(x, &place);
    held.count -= 1;
    Ok(true)
}

/// All members: numbers in their order, as Redis has them, others in order of their hashes.
pub(super) fn members(x: &Exec<'_>, held: &Collection) -> Result<Vec<Bytes>, StoreError> {
    let mut found = Vec::new();
    held.prefix(x, &[0], Direction::Ascending, &mut |place, _| {
        if let Some((_, member)) = split_member(place) {
            found.push(Bytes::copy_from_slice(member));
        }
        ControlFlow::Continue(())
    })?;
    if held.meta.is_empty() && !held.is_large {
        found.sort_by_key(|member| parse_integer(member));
    }
    Ok(found)
}

fn contains(x: &Exec<'_>, held: &Option<Collection>, member: &[u8]) -> Result<bool, StoreError> {
    match held {
        None => Ok(false),
        Some(held) => Ok(held.get(x, &member_place(member))?.is_some()),
    }
}

fn sadd(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let key = a.at(1)?;
    let mut held = x.collection_or_new(key, Kind::Set)?;
    let mut added = 0;
    for member in a.from(2) {
        added += i64::from(add(x, &mut held, member)?);
    }
    if added > 0 {
        x.save(key, held)?;
        x.notify(Class::Set, "sadd", key);
    }
    Ok(Reply::Integer(added))
}

fn srem(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let key = a.at(1)?;
    let Some(mut held) = x.collection(key, Kind::Set)? else { return Ok(Reply::ZERO) };
    let mut removed = 0;
    for member in a.from(2) {
        removed += i64::from(remove(x, &mut held, member)?);
    }
    if removed > 0 {
        x.notify(Class::Set, "srem", key);
        x.save(key, held)?;
    }
    Ok(Reply::Integer(removed))
}

fn scard(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let held = x.collection(a.at(1)?, Kind::Set)?;
    Ok(Reply::Integer(held.map_or(0, |held| i64::try_from(held.count).unwrap_or(i64::MAX))))
}

fn sismember(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let held = x.collection(a.at(1)?, Kind::Set)?;
    Ok(Reply::Integer(i64::from(contains(x, &held, a.at(2)?)?)))
}

fn smismember(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let held = x.collection(a.at(1)?, Kind::Set)?;
    let mut replies = Vec::new();
    for member in a.from(2) {
        replies.push(Reply::Integer(i64::from(contains(x, &held, member)?)));
    }
    Ok(Reply::Array(replies))
}

fn smove(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let (from, to, member) = (a.at(1)?, a.at(2)?, a.at(3)?);
    let Some(mut source) = x.collection(from, Kind::Set)? else {
        return Ok(Reply::ZERO);
    };
    let mut target = x.collection_or_new(to, Kind::Set)?;
    if from == to {
        return Ok(Reply::Integer(i64::from(contains(x, &Some(source), member)?)));
    }
    if !remove(x, &mut source, member)? {
        return Ok(Reply::ZERO);
    }
    x.notify(Class::Set, "srem", from);
    x.save(from, source)?;
    if add(x, &mut target, member)? {
        x.save(to, target)?;
        x.notify(Class::Set, "sadd", to);
    }
    Ok(Reply::Integer(1))
}

fn spop(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    if a.len() > 3 {
        return error(SYNTAX);
    }
    let key = a.at(1)?;
    let count = match a.len() {
        2 => None,
        _ => Some(not_negative(a, 2, "ERR value is out of range, must be positive")?),
    };
    let Some(mut held) = x.collection(key, Kind::Set)? else {
        return Ok(if count.is_some() { Reply::Set(Vec::new()) } else { Reply::Nil });
    };
    let wanted = i64::try_from(count.unwrap_or(1)).unwrap_or(i64::MAX);
    if wanted == 0 {
        return Ok(Reply::Set(Vec::new()));
    }
    let chosen: Vec<Bytes> =
        choose(x, &held, wanted)?.into_iter().map(|(member, _)| member).collect();
    for member in &chosen {
        remove(x, &mut held, member)?;
    }
    x.notify(Class::Set, "spop", key);
    x.save(key, held)?;
    Ok(match count {
        None => Reply::optional(chosen.into_iter().next()),
        Some(_) => Reply::Set(chosen.into_iter().map(Reply::Bulk).collect()),
    })
}

fn srandmember(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    if a.len() > 3 {
        return error(SYNTAX);
    }
    let count = if a.len() == 3 { Some(random_count(a, 2, false)?) } else { None };
    let Some(held) = x.collection(a.at(1)?, Kind::Set)? else {
        return Ok(if count.is_some() { Reply::Array(Vec::new()) } else { Reply::Nil });
    };
    let chosen = choose(x, &held, count.unwrap_or(1))?.into_iter().map(|(member, _)| member);
    Ok(match count {
        None => Reply::optional(chosen.into_iter().next()),
        Some(_) => Reply::bulks(chosen),
    })
}

fn combined(x: &Exec<'_>, keys: &[Bytes], how: Combine, count_max: usize) -> Result<Vec<Bytes>> {
    let mut sets = Vec::with_capacity(keys.len());
    for key in keys {
        sets.push(x.collection(key, Kind::Set)?);
    }
    match how {
        Combine::Union => {
            if let [Some(only)] = &sets[..] {
                return Ok(members(x, only)?);
            }
            let mut all = std::collections::BTreeSet::new();
            for held in sets.iter().flatten() {
                all.extend(members(x, held)?);
            }
            let mut all: Vec<Bytes> = all.into_iter().collect();
            if all.iter().all(|member| parse_integer(member).is_some()) {
                all.sort_by_key(|member| parse_integer(member));
            }
            Ok(all)
        }
        Combine::Intersection => {
            if sets.iter().any(Option::is_none) {
                return Ok(Vec::new());
            }
            sets.sort_by_key(|held| held.as_ref().map_or(0, |held| held.count));
            let Some((Some(smallest), others)) = sets.split_first() else { return Ok(Vec::new()) };
            let mut found = Vec::new();
            for member in members(x, smallest)? {
                let mut is_in_all = true;
                for other in others {
                    is_in_all = is_in_all && contains(x, other, &member)?;
                }
                if is_in_all {
                    found.push(member);
                    if found.len() == count_max {
                        break;
                    }
                }
            }
            Ok(found)
        }
        Combine::Difference => {
            let Some((Some(first), others)) = sets.split_first() else { return Ok(Vec::new()) };
            let mut found = Vec::new();
            for member in members(x, first)? {
                let mut is_in_other = false;
                for other in others {
                    is_in_other = is_in_other || contains(x, other, &member)?;
                }
                if !is_in_other {
                    found.push(member);
                }
            }
            Ok(found)
        }
    }
}

fn answer(x: &mut Exec<'_>, keys: &[Bytes], how: Combine) -> Result {
    let found = combined(x, keys, how, usize::MAX)?;
    Ok(Reply::Set(found.into_iter().map(Reply::Bulk).collect()))
}

fn store(x: &mut Exec<'_>, a: &[Bytes], how: Combine) -> Result {
    let found = combined(x, a.from(2), how, usize::MAX)?;
    let key = a.at(1)?;
    let mut held = Collection::fresh(Kind::Set);
    for member in &found {
        add(x, &mut held, member)?;
    }
    let was_there = x.exists(key)?;
    x.replace(key, held)?;
    if !found.is_empty() {
        let event = match how {
            Combine::Union => "sunionstore",
            Combine::Intersection => "sinterstore",
            Combine::Difference => "sdiffstore",
        };
        x.notify(Class::Set, event, key);
    } else if was_there {
        x.notify(Class::Generic, "del", key);
    }
    Ok(Reply::count(found.len()))
}

fn sintercard(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let (keys, limit) = counted_keys(a, 1)?;
    Ok(Reply::count(combined(x, keys, Combine::Intersection, limit)?.len()))
}

/// Reads `numkeys key… [LIMIT n]`.
pub(super) fn counted_keys(a: &[Bytes], at: usize) -> Result<(&[Bytes], usize)> {
    let key_count = match parse_integer(a.at(at)?) {
        Some(count) if count > 0 => usize::try_from(count).unwrap_or(usize::MAX),
        _ => return error("ERR numkeys should be greater than 0"),
    };
    let Some(keys) = a.from(at + 1).get(..key_count) else {
        return error("ERR Number of keys can't be greater than number of args");
    };
    let mut limit = usize::MAX;
    let mut place = at + 1 + key_count;
    while place < a.len() {
        if a.is(place, "limit") && place + 1 < a.len() {
            limit = match not_negative(a, place + 1, "ERR LIMIT can't be negative")? {
                0 => usize::MAX,
                limit => limit,
            };
            place += 2;
        } else {
            return error(SYNTAX);
        }
    }
    Ok((keys, limit))
}
