//! SORT.

use std::cmp::Ordering;

use bytes::Bytes;

use super::hashes::{live_value, member_place};
use super::lists::{self, List};
use super::{Arguments, Command, Flags, Group, Keys, ONE, READ, WRITE, command};
use crate::Class;
use crate::exec::{Exec, Result, SYNTAX, WRONG_TYPE, error};
use crate::head::Kind;
use crate::number::parse_float;
use crate::reply::Reply;

pub(super) const TABLE: &[Command] = &[
    command(
        "sort",
        -2,
        WRITE.and(Flags::MOVABLE_KEYS),
        Keys::OneAndStore,
        Group::Generic,
        |x, a| sort(x, a, true),
    ),
    command("sort_ro", -2, READ.and(Flags::MOVABLE_KEYS), ONE, Group::Generic, |x, a| {
        sort(x, a, false)
    }),
];

#[derive(Default)]
struct Options<'a> {
    is_descending: bool,
    is_alphabetical: bool,
    limit: Option<(i64, i64)>,
    by: Option<&'a Bytes>,
    get: Vec<&'a Bytes>,
    store: Option<&'a Bytes>,
}

fn options(a: &[Bytes], may_store: bool) -> Result<Options<'_>> {
    let mut options = Options::default();
    let mut place = 2;
    while place < a.len() {
        let left = a.len() - place - 1;
        match a.word(place).as_str() {
            "ASC" => options.is_descending = false,
            "DESC" => options.is_descending = true,
            "ALPHA" => options.is_alphabetical = true,
            "LIMIT" if left >= 2 => {
                options.limit = Some((a.integer(place + 1)?, a.integer(place + 2)?));
                place += 2;
            }
            "STORE" if left >= 1 && may_store => {
                options.store = Some(a.at(place + 1)?);
                place += 1;
            }
            "BY" if left >= 1 => {
                options.by = Some(a.at(place + 1)?);
                place += 1;
            }
            "GET" if left >= 1 => {
                options.get.push(a.at(place + 1)?);
                place += 1;
            }
            _ => return error(SYNTAX),
        }
        place += 1;
    }
    Ok(options)
}

/// What a pattern means for an element: the string under the key that it makes, or a field there.
fn look_up(x: &Exec<'_>, pattern: &[u8], element: &Bytes) -> Result<Option<Bytes>> {
    if pattern == b"#" {
        return Ok(Some(element.clone()));
    }
    let Some(star) = pattern.iter().position(|byte| *byte == b'*') else { return Ok(None) };
    let behind = &pattern[star + 1..];
    let arrow = behind.windows(2).position(|pair| pair == b"->").filter(|at| at + 2 < behind.len());
    let (suffix, field) = match arrow {
        Some(at) => (&behind[..at], Some(&behind[at + 2..])),
        None => (behind, None),
    };
    let key = [&pattern[..star], element, suffix].concat();
    let Some(head) = x.head(&key)? else { return Ok(None) };
    match (field, head.kind) {
        (None, Kind::String) => Ok(Some(head.body)),
        (Some(field), Kind::Hash) => {
            let Some(held) = x.collection(&key, Kind::Hash)? else { return Ok(None) };
            let stored = held.get(x, &member_place(field))?;
            Ok(stored.and_then(|stored| live_value(&stored, x.now_ms())))
        }
        _ => Ok(None),
    }
}

fn elements(
    x: &mut Exec<'_>,
    key: &Bytes,
    is_descending: bool,
    in_order: bool,
) -> Result<Vec<Bytes>> {
    let Some(head) = x.head(key)? else { return Ok(Vec::new()) };
    match head.kind {
        Kind::List => match List::find(x, key)? {
            None => Ok(Vec::new()),
            Some(list) => Ok(list.all(x)?),
        },
        Kind::Set => match x.collection(key, Kind::Set)? {
            None => Ok(Vec::new()),
            Some(held) => Ok(super::sets::members(x, &held)?),
        },
        Kind::SortedSet => match x.collection(key, Kind::SortedSet)? {
            None => Ok(Vec::new()),
            Some(held) => {
                let all = super::sorted_sets::between(x, &held, f64::NEG_INFINITY, f64::INFINITY)?;
                let last = super::sorted_sets::infinite(x, &held)?;
                let mut all: Vec<Bytes> = all.into_iter().chain(last).map(|(m, _)| m).collect();
                if is_descending && in_order {
                    all.reverse();
                }
                Ok(all)
            }
        },
        _ => error(WRONG_TYPE),
    }
}

fn sort(x: &mut Exec<'_>, a: &[Bytes], may_store: bool) -> Result {
    let options = options(a, may_store)?;
    let is_unsorted = options.by.is_some_and(|by| !by.contains(&b'*'));
    let mut elements = elements(x, a.at(1)?, options.is_descending, is_unsorted)?;
    if !is_unsorted {
        elements = sorted(x, elements, &options)?;
    }
    let count = i64::try_from(elements.len()).unwrap_or(i64::MAX);
    if let Some((offset, limit)) = options.limit {
        let start = offset.clamp(0, count);
        let end = if limit < 0 { count } else { start.saturating_add(limit).min(count) };
        elements = elements.get(start as usize..end as usize).unwrap_or_default().to_vec();
    }
    let mut found = Vec::new();
    for element in elements {
        if options.get.is_empty() {
            found.push(Some(element));
            continue;
        }
        for pattern in &options.get {
            found.push(look_up(x, pattern, &element)?);
        }
    }
    let Some(target) = options.store else {
        return Ok(Reply::Array(found.into_iter().map(Reply::optional).collect()));
    };
    let found: Vec<Bytes> = found.into_iter().map(Option::unwrap_or_default).collect();
    let was_there = x.exists(target)?;
    lists::store(x, target, &found)?;
    if !found.is_empty() {
        x.notify(Class::List, "sortstore", target);
    } else if was_there {
        x.notify(Class::Generic, "del", target);
    }
    Ok(Reply::count(found.len()))
}

fn sorted(x: &Exec<'_>, elements: Vec<Bytes>, options: &Options<'_>) -> Result<Vec<Bytes>> {
    let mut weighted = Vec::with_capacity(elements.len());
    for element in elements {
        let weight = match options.by {
            Some(by) => look_up(x, by, &element)?,
            None => Some(element.clone()),
        };
        let number = match &weight {
            _ if options.is_alphabetical => 0.0,
            None => 0.0,
            Some(text) => match parse_float(text) {
                Some(number) => number,
                None => {
                    return error("ERR One or more scores can't be converted into double");
                }
            },
        };
        weighted.push((element, weight, number));
    }
    weighted.sort_by(|a, b| {
        let order = if options.is_alphabetical {
            a.1.cmp(&b.1)
        } else {
            a.2.partial_cmp(&b.2).unwrap_or(Ordering::Equal).then_with(|| a.0.cmp(&b.0))
        };
        if options.is_descending { order.reverse() } else { order }
    });
    Ok(weighted.into_iter().map(|(element, _, _)| element).collect())
}
