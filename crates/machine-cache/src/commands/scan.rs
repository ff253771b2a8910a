//! Going through keys and elements: SCAN and its relatives, KEYS, RANDOMKEY.
//!
//! A cursor is the place, as a number, where the next call goes on: hash slot and hash of a key, hash
//! of a field or member. So what is there from beginning to end is met, whatever comes and goes, and the
//! server remembers nothing.

use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_store::{Direction, StoreError, prefix_end};

use super::hashes::{live_value, split_member};
use super::sorted_sets::stored_score;
use super::{Arguments, Command, Flags, Group, NONE, ONE, READ, command};
use crate::collection::Collection;
use crate::exec::{Exec, Result, SYNTAX, error};
use crate::head::Kind;
use crate::layout::POSITION_END;
use crate::number::{float_text, parse_integer};
use crate::pattern;
use crate::reply::Reply;

pub(super) const TABLE: &[Command] = &[
    command("hscan", -3, READ, ONE, Group::Hash, hscan),
    command("keys", 2, READ.and(Flags::DANGEROUS), NONE, Group::Generic, keys),
    command("randomkey", 1, READ.and(Flags::RANDOM), NONE, Group::Generic, randomkey),
    command("scan", -2, READ, NONE, Group::Generic, scan),
    command("sscan", -3, READ, ONE, Group::Set, sscan),
    command("zscan", -3, READ, ONE, Group::SortedSet, zscan),
];

/// Most elements that one call goes through, whatever COUNT asks.
const COUNT_MAX: usize = 1 << 20;

struct Options<'a> {
    cursor: u64,
    count: usize,
    pattern: Option<&'a Bytes>,
    kind: Option<String>,
    no_values: bool,
}

fn options<'a>(a: &'a [Bytes], at: usize, of: Option<Kind>) -> Result<Options<'a>> {
    let text = std::str::from_utf8(a.at(at)?).ok();
    let Some(cursor) = text.and_then(|text| text.parse::<u64>().ok()) else {
        return error("ERR invalid cursor");
    };
    let mut options = Options { cursor, count: 10, pattern: None, kind: None, no_values: false };
    let mut place = at + 1;
    while place < a.len() {
        let has_value = place + 1 < a.len();
        match a.word(place).as_str() {
            "COUNT" if has_value => {
                let count = a.integer(place + 1)?;
                if count < 1 {
                    return error(SYNTAX);
                }
                options.count = usize::try_from(count).unwrap_or(COUNT_MAX).min(COUNT_MAX);
                place += 1;
            }
            "MATCH" if has_value => {
                options.pattern = Some(a.at(place + 1)?);
                place += 1;
            }
            "TYPE" if has_value && of.is_none() => {
                options.kind = Some(a.word(place + 1).to_lowercase());
                place += 1;
            }
            "NOVALUES" if of == Some(Kind::Hash) => options.no_values = true,
            _ => return error(SYNTAX),
        }
        place += 1;
    }
    Ok(options)
}

fn page(cursor: u64, found: Vec<Reply>) -> Reply {
    Reply::Array(vec![Reply::text(cursor.to_string()), Reply::Array(found)])
}

fn scan(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let options = options(a, 1, None)?;
    if options.cursor >= POSITION_END {
        return Ok(page(0, Vec::new()));
    }
    let mut found = Vec::new();
    let mut seen = 0;
    let next = x.scan_keys(options.cursor, POSITION_END, &mut |key, head| {
        seen += 1;
        let fits = options.pattern.is_none_or(|pattern| pattern::matches(pattern, key))
            && options.kind.as_deref().is_none_or(|kind| kind == head.kind.name());
        if fits {
            found.push(Reply::Bulk(Bytes::copy_from_slice(key)));
        }
        if seen >= options.count { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(page(next, found))
}

/// All keys of the database.
pub(super) fn all_keys(x: &Exec<'_>) -> Result<Vec<Bytes>, StoreError> {
    let mut found = Vec::new();
    x.scan_keys(0, POSITION_END, &mut |key, _| {
        found.push(Bytes::copy_from_slice(key));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

fn keys(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let wanted = a.at(1)?;
    let mut found = Vec::new();
    x.scan_keys(0, POSITION_END, &mut |key, _| {
        if pattern::matches(wanted, key) {
            found.push(Reply::Bulk(Bytes::copy_from_slice(key)));
        }
        ControlFlow::Continue(())
    })?;
    Ok(Reply::Array(found))
}

/// The key at or behind a place drawn at random: the wider the gap before a key, the likelier it is.
fn randomkey(x: &mut Exec<'_>, _a: &[Bytes]) -> Result {
    let start = x.random.below(POSITION_END);
    for start in [start, 0] {
        let mut found = None;
        x.scan_keys(start, POSITION_END, &mut |key, _| {
            if found.is_none() {
                found = Some(Bytes::copy_from_slice(key));
            }
            ControlFlow::Break(())
        })?;
        if let Some(key) = found {
            return Ok(Reply::Bulk(key));
        }
    }
    Ok(Reply::Nil)
}

/// Members or fields with their values from the cursor on; those with one hash together.
fn scan_elements(
    x: &Exec<'_>,
    held: &Collection,
    options: &Options<'_>,
    visit: &mut dyn FnMut(&[u8], &Bytes),
) -> Result<u64> {
    let Ok(hash) = u32::try_from(options.cursor) else { return Ok(0) };
    let start = [&[0][..], &hash.to_be_bytes()].concat();
    let takes_all = !held.is_large;
    let mut seen = 0;
    let mut last = None;
    let mut next = 0;
    held.range(x, &start, &prefix_end(&[0]), Direction::Ascending, &mut |place, value| {
        let Some((hash, member)) = split_member(place) else { return ControlFlow::Continue(()) };
        if last.is_some_and(|last| last != hash) {
            next = u64::from(hash);
            return ControlFlow::Break(());
        }
        seen += 1;
        if options.pattern.is_none_or(|pattern| pattern::matches(pattern, member)) {
            visit(member, value);
        }
        if seen >= options.count && !takes_all {
            last = Some(hash);
        }
        ControlFlow::Continue(())
    })?;
    Ok(next)
}

/// A page of elements; a small collection is one page, in the order in which its other commands answer.
fn element_scan(
    x: &mut Exec<'_>,
    a: &[Bytes],
    kind: Kind,
    parts: impl Fn(&Options<'_>, Bytes, Bytes) -> Vec<Reply>,
) -> Result {
    let options = options(a, 2, Some(kind))?;
    let Some(held) = x.collection(a.at(1)?, kind)? else { return Ok(page(0, Vec::new())) };
    let mut found = Vec::new();
    let next = scan_elements(x, &held, &options, &mut |member, value| {
        found.push((Bytes::copy_from_slice(member), value.clone()));
    })?;
    if !held.is_large {
        match kind {
            Kind::SortedSet => found.sort_by(|a, b| {
                stored_score(&a.1).total_cmp(&stored_score(&b.1)).then_with(|| a.0.cmp(&b.0))
            }),
            Kind::Set if held.meta.is_empty() => found.sort_by_key(|(m, _)| parse_integer(m)),
            _ => found.sort(),
        }
    }
    let all = found.into_iter().flat_map(|(member, value)| parts(&options, member, value));
    Ok(page(next, all.collect()))
}

fn hscan(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let now_ms = x.now_ms();
    element_scan(x, a, Kind::Hash, |options, field, stored| match live_value(&stored, now_ms) {
        None => Vec::new(),
        Some(_) if options.no_values => vec![Reply::Bulk(field)],
        Some(value) => vec![Reply::Bulk(field), Reply::Bulk(value)],
    })
}

fn sscan(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    element_scan(x, a, Kind::Set, |_, member, _| vec![Reply::Bulk(member)])
}

fn zscan(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    element_scan(x, a, Kind::SortedSet, |_, member, score| {
        vec![Reply::Bulk(member), Reply::text(float_text(stored_score(&score)))]
    })
}
