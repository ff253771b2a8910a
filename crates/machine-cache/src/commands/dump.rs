//! DUMP and RESTORE.

use bytes::Bytes;
use proteus_store::StoreError;

use super::hashes::{self, split_value};
use super::{
    Arguments, Command, GROUP_BYTES_MAX, Group, ONE, READ, WRITE, command, failure, lists, sets,
    sorted_sets, streams,
};
use crate::collection::Collection;
use crate::exec::{Exec, Result, SYNTAX, error};
use crate::head::Kind;
use crate::number::parse_integer;
use crate::rdb::{self, Dumped};
use crate::reply::Reply;
use crate::{Class, KEY_BYTES_MAX};

pub(super) const TABLE: &[Command] = &[
    command("dump", 2, READ, ONE, Group::Generic, dump),
    command("restore", -4, WRITE, ONE, Group::Generic, restore),
    command("restore-asking", -4, WRITE, ONE, Group::Server, restore),
];

/// A key's value apart from the store.
pub(crate) fn value_of(x: &Exec<'_>, key: &[u8]) -> Result<Option<Dumped>> {
    let Some(head) = x.head(key)? else { return Ok(None) };
    if head.kind == Kind::String {
        return Ok(Some(Dumped::String(head.body)));
    }
    let Some(held) = x.collection(key, head.kind)? else { return Ok(None) };
    Ok(Some(match head.kind {
        Kind::String => Dumped::String(head.body),
        Kind::List => Dumped::List(lists::List(held).all(x)?),
        Kind::Set => Dumped::Set(sets::members(x, &held)?),
        Kind::SortedSet => {
            let mut members = sorted_sets::between(x, &held, f64::NEG_INFINITY, f64::INFINITY)?;
            members.extend(sorted_sets::infinite(x, &held)?);
            Dumped::SortedSet(members)
        }
        Kind::Hash => {
            let fields = held.all(x, &[0])?.into_iter().map(|(place, stored)| {
                let (value, at_ms) = split_value(&stored);
                (place.slice(place.len().min(4)..), value, at_ms)
            });
            Dumped::Hash(fields.collect())
        }
        Kind::Stream => Dumped::Stream(streams::Stream(held).dumped(x)?),
    }))
}

fn dump(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    Ok(match value_of(x, a.at(1)?)? {
        None => Reply::Nil,
        Some(value) => Reply::Bulk(Bytes::from(rdb::dump(&value))),
    })
}

fn restore(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let (mut replaces, mut is_absolute) = (false, false);
    let mut place = 4;
    while place < a.len() {
        match a.word(place).as_str() {
            "REPLACE" => replaces = true,
            "ABSTTL" => is_absolute = true,
            "IDLETIME" if place + 1 < a.len() => {
                if a.integer(place + 1)? < 0 {
                    return error("ERR Invalid IDLETIME value, must be >= 0");
                }
                place += 1;
            }
            "FREQ" if place + 1 < a.len() => {
                if !(0..=255).contains(&a.integer(place + 1)?) {
                    return error("ERR Invalid FREQ value, must be >= 0 and <= 255");
                }
                place += 1;
            }
            _ => return error(SYNTAX),
        }
        place += 1;
    }
    let key = a.at(1)?;
    if !replaces && x.exists(key)? {
        return error("BUSYKEY Target key name already exists.");
    }
    let ttl = match parse_integer(a.at(2)?) {
        None => return error(crate::exec::NOT_AN_INTEGER),
        Some(ttl) => match u64::try_from(ttl) {
            Ok(ttl) => ttl,
            Err(_) => return error("ERR Invalid TTL value, must be >= 0"),
        },
    };
    let value = match rdb::restore(a.at(3)?) {
        Ok(value) => value,
        Err(bad) => return failure(format!("ERR {bad}")),
    };
    if has_long_names(&value) {
        return error("ERR a member or name is longer than 60 KiB");
    }
    let expire_at_ms = match ttl {
        0 => None,
        ttl if is_absolute => Some(ttl),
        ttl => Some(x.now_ms().saturating_add(ttl)),
    };
    if expire_at_ms.is_some_and(|at_ms| at_ms <= x.now_ms()) {
        if x.remove(key)? {
            x.notify(Class::Generic, "del", key);
        }
        return Ok(Reply::OK);
    }
    put_value(x, key, value, expire_at_ms)?;
    x.notify(Class::Generic, "restore", key);
    Ok(Reply::OK)
}

/// Whether a value has a member, field or name that the store could not hold.
fn has_long_names(value: &Dumped) -> bool {
    let is_long = |name: &Bytes| name.len() > KEY_BYTES_MAX;
    match value {
        Dumped::String(_) | Dumped::List(_) => false,
        Dumped::Set(members) => members.iter().any(is_long),
        Dumped::SortedSet(members) => members.iter().any(|(member, _)| is_long(member)),
        Dumped::Hash(fields) => fields.iter().any(|(field, _, _)| is_long(field)),
        Dumped::Stream(stream) => stream.groups.iter().any(|group| {
            let is_long = |name: &Bytes| name.len() > GROUP_BYTES_MAX;
            is_long(&group.name) || group.consumers.iter().any(|consumer| is_long(&consumer.name))
        }),
    }
}

/// Writes a value in place of whatever was there.
pub(crate) fn put_value(
    x: &mut Exec<'_>,
    key: &Bytes,
    value: Dumped,
    expire_at_ms: Option<u64>,
) -> Result<(), StoreError> {
    let mut held = match value {
        Dumped::String(text) => {
            let before = x.before(key)?;
            return x.set_string(key, &before, &text, expire_at_ms);
        }
        Dumped::List(items) => {
            let mut list = lists::List(Collection::fresh(Kind::List));
            for item in &items {
                list.push_right(x, item)?;
            }
            list.0
        }
        Dumped::Set(members) => {
            let mut held = Collection::fresh(Kind::Set);
            for member in &members {
                sets::add(x, &mut held, member)?;
            }
            held
        }
        Dumped::SortedSet(members) => {
            let mut held = Collection::fresh(Kind::SortedSet);
            for (member, score) in &members {
                sorted_sets::set_score(x, &mut held, member, *score, None)?;
            }
            held
        }
        Dumped::Hash(fields) => {
            let mut held = Collection::fresh(Kind::Hash);
            for (field, value, at_ms) in &fields {
                hashes::put_field(x, &mut held, field, value, *at_ms)?;
            }
            held
        }
        Dumped::Stream(stream) => streams::Stream::of_dumped(x, stream)?.0,
    };
    held.expire_at_ms = expire_at_ms;
    x.replace(key, held)
}
