//! Lists.
//!
//! An element's place is its position, a number; positions have no gaps. So both ends and any index cost
//! one look, a range what it returns, and only inserting and removing in the midst move what is behind.
//! The head keeps the first position, and how many bytes the elements have.

use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_store::{Direction, StoreError};

use super::{
    Arguments, Command, Flags, Group, Keys, ONE, READ, READ_FAST, REMOVE, REMOVE_FAST, TWO, WRITE,
    WRITE_FAST, command, index_range, not_negative,
};
use crate::Class;
use crate::collection::Collection;
use crate::exec::{Exec, NO_SUCH_KEY, Result, SYNTAX, error};
use crate::head::Kind;
use crate::number::parse_float;
use crate::reply::Reply;

const G: Group = Group::List;
const BLOCKING: Flags = Flags::WRITE.and(Flags::BLOCKING);
const BLOCKING_WRITE: Flags = WRITE.and(Flags::BLOCKING);
const BUT_LAST: Keys = Keys::Range(1, -2, 1);

pub(super) const TABLE: &[Command] = &[
    command("blmove", 6, BLOCKING_WRITE, TWO, G, |x, a| lmove(x, a, Some(5))),
    command("blmpop", -5, BLOCKING.and(Flags::MOVABLE_KEYS), Keys::Counted(2), G, blmpop),
    command("blpop", -3, BLOCKING, BUT_LAST, G, |x, a| blocking_pop(x, a, End::Left)),
    command("brpop", -3, BLOCKING, BUT_LAST, G, |x, a| blocking_pop(x, a, End::Right)),
    command("brpoplpush", 4, BLOCKING_WRITE, TWO, G, brpoplpush),
    command("lindex", 3, READ, ONE, G, lindex),
    command("linsert", 5, WRITE, ONE, G, linsert),
    command("llen", 2, READ_FAST, ONE, G, llen),
    command("lmove", 5, WRITE, TWO, G, |x, a| lmove(x, a, None)),
    command("lmpop", -4, REMOVE.and(Flags::MOVABLE_KEYS), Keys::Counted(1), G, |x, a| {
        lmpop(x, a, 1)
    }),
    command("lpop", -2, REMOVE_FAST, ONE, G, |x, a| pop(x, a, End::Left)),
    command("lpos", -3, READ, ONE, G, lpos),
    command("lpush", -3, WRITE_FAST, ONE, G, |x, a| push(x, a, End::Left, false)),
    command("lpushx", -3, WRITE_FAST, ONE, G, |x, a| push(x, a, End::Left, true)),
    command("lrange", 4, READ, ONE, G, lrange),
    command("lrem", 4, REMOVE, ONE, G, lrem),
    command("lset", 4, WRITE, ONE, G, lset),
    command("ltrim", 4, REMOVE, ONE, G, ltrim),
    command("rpop", -2, REMOVE_FAST, ONE, G, |x, a| pop(x, a, End::Right)),
    command("rpoplpush", 3, WRITE, TWO, G, rpoplpush),
    command("rpush", -3, WRITE_FAST, ONE, G, |x, a| push(x, a, End::Right, false)),
    command("rpushx", -3, WRITE_FAST, ONE, G, |x, a| push(x, a, End::Right, true)),
];

/// Redis keeps a list as one piece of memory up to so many bytes.
const COMPACT_BYTES_MAX: u64 = 8192;

const FIRST_POSITION: u64 = 1 << 63;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Left,
    Right,
}

impl End {
    fn parse(a: &[Bytes], place: usize) -> Result<End> {
        match a.word(place).as_str() {
            "LEFT" => Ok(End::Left),
            "RIGHT" => Ok(End::Right),
            _ => error(SYNTAX),
        }
    }
}

/// A list under a command.
pub(super) struct List(pub(super) Collection);

impl List {
    pub(super) fn find(x: &Exec<'_>, key: &[u8]) -> Result<Option<List>> {
        Ok(x.collection(key, Kind::List)?.map(List))
    }

    fn find_or_new(x: &Exec<'_>, key: &[u8]) -> Result<List> {
        Ok(List(x.collection_or_new(key, Kind::List)?))
    }

    fn number(&self, at: usize, default: u64) -> u64 {
        let bytes = self.0.meta.get(at..).and_then(|bytes| bytes.first_chunk::<8>());
        bytes.map_or(default, |bytes| u64::from_be_bytes(*bytes))
    }

    fn first(&self) -> u64 {
        self.number(0, FIRST_POSITION)
    }

    fn set_meta(&mut self, first: u64, bytes: u64) {
        self.0.meta.clear();
        self.0.meta.extend_from_slice(&first.to_be_bytes());
        self.0.meta.extend_from_slice(&bytes.to_be_bytes());
    }

    fn grow_bytes(&mut self, by: i64) {
        let (first, bytes) = (self.first(), self.number(8, 0).saturating_add_signed(by));
        if bytes > COMPACT_BYTES_MAX {
            self.0.is_large = true;
        }
        self.set_meta(first, bytes);
    }

    fn push(&mut self, x: &mut Exec<'_>, end: End, value: &Bytes) -> Result<(), StoreError> {
        let mut first = self.first();
        let position = match end {
            End::Left => {
                first -= 1;
                first
            }
            End::Right => first + self.0.count,
        };
        let bytes = self.number(8, 0);
        self.set_meta(first, bytes);
        self.0.count += 1;
        self.0.put(x, &position.to_be_bytes(), value.clone());
        self.grow_bytes(value.len() as i64 + 2);
        self.0.relieve(x)
    }

    /// A list's element at the right, pushed by others.
    pub(super) fn push_right(&mut self, x: &mut Exec<'_>, value: &Bytes) -> Result<(), StoreError> {
        self.push(x, End::Right, value)
    }

    fn pop(&mut self, x: &mut Exec<'_>, end: End) -> Result<Option<Bytes>, StoreError> {
        if self.0.count == 0 {
            return Ok(None);
        }
        let first = self.first();
        let position = match end {
            End::Left => first,
            End::Right => first + self.0.count - 1,
        };
        let value = self.0.get(x, &position.to_be_bytes())?.unwrap_or_default();
        self.0.delete(x, &position.to_be_bytes());
        self.0.count -= 1;
        let bytes = self.number(8, 0);
        self.set_meta(if end == End::Left { first + 1 } else { first }, bytes);
        self.grow_bytes(-(value.len() as i64) - 2);
        Ok(Some(value))
    }

    /// Elements from index `start` to `end` (exclusive).
    fn slice(&self, x: &Exec<'_>, start: u64, end: u64) -> Result<Vec<Bytes>, StoreError> {
        let first = self.first();
        let (from, to) = ((first + start).to_be_bytes(), (first + end).to_be_bytes());
        let mut found = Vec::new();
        self.0.range(x, &from, &to, Direction::Ascending, &mut |_, value| {
            found.push(value.clone());
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    pub(super) fn all(&self, x: &Exec<'_>) -> Result<Vec<Bytes>, StoreError> {
        self.slice(x, 0, self.0.count)
    }

    fn index(&self, index: i64) -> Option<u64> {
        let count = i64::try_from(self.0.count).unwrap_or(i64::MAX);
        let index = if index < 0 { index + count } else { index };
        (0..count).contains(&index).then(|| self.first() + index.unsigned_abs())
    }
}

fn push(x: &mut Exec<'_>, a: &[Bytes], end: End, only_if_present: bool) -> Result {
    let key = a.at(1)?;
    let mut list = List::find_or_new(x, key)?;
    if only_if_present && list.0.is_new() {
        return Ok(Reply::ZERO);
    }
    for value in a.from(2) {
        list.push(x, end, value)?;
    }
    let count = list.0.count;
    x.save(key, list.0)?;
    x.notify(Class::List, if end == End::Left { "lpush" } else { "rpush" }, key);
    Ok(Reply::Integer(i64::try_from(count).unwrap_or(i64::MAX)))
}

fn pop_event(end: End) -> &'static str {
    if end == End::Left { "lpop" } else { "rpop" }
}

/// Takes up to `count` elements and writes the list back.
fn take(x: &mut Exec<'_>, key: &Bytes, mut list: List, end: End, count: u64) -> Result<Vec<Bytes>> {
    let mut taken = Vec::new();
    for _ in 0..count.min(list.0.count) {
        taken.extend(list.pop(x, end)?);
    }
    x.notify(Class::List, pop_event(end), key);
    x.save(key, list.0)?;
    Ok(taken)
}

fn pop(x: &mut Exec<'_>, a: &[Bytes], end: End) -> Result {
    if a.len() > 3 {
        return super::wrong_arity(pop_event(end));
    }
    let key = a.at(1)?;
    if a.len() == 2 {
        let Some(list) = List::find(x, key)? else { return Ok(Reply::Nil) };
        return Ok(Reply::optional(take(x, key, list, end, 1)?.into_iter().next()));
    }
    let count = not_negative(a, 2, "ERR value is out of range, must be positive")?;
    let Some(list) = List::find(x, key)? else { return Ok(Reply::NilArray) };
    if count == 0 {
        return Ok(Reply::Array(Vec::new()));
    }
    Ok(Reply::bulks(take(x, key, list, end, count as u64)?))
}

/// Reads the timeout that a waiting command ends or begins with; waiting is the face's.
pub(super) fn check_timeout(a: &[Bytes], place: usize) -> Result<()> {
    match parse_float(a.at(place)?) {
        Some(seconds) if seconds < 0.0 => error("ERR timeout is negative"),
        Some(seconds) if seconds <= 9_223_372_036_854_775.0 => Ok(()),
        _ => error("ERR timeout is not a float or out of range"),
    }
}

fn blocking_pop(x: &mut Exec<'_>, a: &[Bytes], end: End) -> Result {
    check_timeout(a, a.len() - 1)?;
    for key in &a[1..a.len() - 1] {
        if let Some(list) = List::find(x, key)? {
            let taken = take(x, key, list, end, 1)?;
            let value = taken.into_iter().next().unwrap_or_default();
            return Ok(Reply::bulks([key.clone(), value]));
        }
    }
    Ok(Reply::Blocked)
}

/// What LMPOP and its relatives are asked: keys, an end, how many.
pub(super) struct ManyPop<'a> {
    pub(super) keys: &'a [Bytes],
    pub(super) first_end: bool,
    pub(super) count: u64,
}

/// Reads `numkeys key… LEFT|RIGHT [COUNT n]`, or MIN and MAX.
pub(super) fn many_pop<'a>(a: &'a [Bytes], at: usize, ends: [&str; 2]) -> Result<ManyPop<'a>> {
    let positive = |place: usize, text: &'static str| match a.integer(place) {
        Ok(number) if number > 0 => Ok(number.unsigned_abs()),
        _ => error(text),
    };
    let key_count = positive(at, "ERR numkeys should be greater than 0")?;
    let key_count = usize::try_from(key_count).unwrap_or(usize::MAX);
    let Some(keys) = a.from(at + 1).get(..key_count) else { return error(SYNTAX) };
    let mut place = at + 1 + key_count;
    let first_end = match a.word(place) {
        word if word == ends[0] => true,
        word if word == ends[1] => false,
        _ => return error(SYNTAX),
    };
    place += 1;
    let mut count = None;
    while place < a.len() {
        if a.is(place, "count") && count.is_none() && place + 1 < a.len() {
            count = Some(positive(place + 1, "ERR count should be greater than 0")?);
            place += 2;
        } else {
            return error(SYNTAX);
        }
    }
    Ok(ManyPop { keys, first_end, count: count.unwrap_or(1) })
}

fn lmpop(x: &mut Exec<'_>, a: &[Bytes], at: usize) -> Result {
    let asked = many_pop(a, at, ["LEFT", "RIGHT"])?;
    let end = if asked.first_end { End::Left } else { End::Right };
    for key in asked.keys {
        if let Some(list) = List::find(x, key)? {
            let taken = take(x, key, list, end, asked.count)?;
            return Ok(Reply::Array(vec![Reply::Bulk(key.clone()), Reply::bulks(taken)]));
        }
    }
    Ok(Reply::NilArray)
}

fn blmpop(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    check_timeout(a, 1)?;
    match lmpop(x, a, 2)? {
        Reply::NilArray => Ok(Reply::Blocked),
        reply => Ok(reply),
    }
}

fn move_between(
    x: &mut Exec<'_>,
    from: &Bytes,
    to: &Bytes,
    from_end: End,
    to_end: End,
) -> Result<Option<Bytes>> {
    let Some(mut source) = List::find(x, from)? else { return Ok(None) };
    if from == to {
        let Some(value) = source.pop(x, from_end)? else { return Ok(None) };
        source.push(x, to_end, &value)?;
        x.save(from, source.0)?;
        x.notify(Class::List, pop_event(from_end), from);
        x.notify(Class::List, if to_end == End::Left { "lpush" } else { "rpush" }, to);
        return Ok(Some(value));
    }
    let mut target = List::find_or_new(x, to)?;
    let Some(value) = source.pop(x, from_end)? else { return Ok(None) };
    target.push(x, to_end, &value)?;
    x.save(to, target.0)?;
    x.notify(Class::List, if to_end == End::Left { "lpush" } else { "rpush" }, to);
    x.notify(Class::List, pop_event(from_end), from);
    x.save(from, source.0)?;
    Ok(Some(value))
}

fn lmove(x: &mut Exec<'_>, a: &[Bytes], timeout_at: Option<usize>) -> Result {
    let (from_end, to_end) = (End::parse(a, 3)?, End::parse(a, 4)?);
    if let Some(place) = timeout_at {
        check_timeout(a, place)?;
    }
    match move_between(x, a.at(1)?, a.at(2)?, from_end, to_end)? {
        None if timeout_at.is_some() => Ok(Reply::Blocked),
        value => Ok(Reply::optional(value)),
    }
}

fn rpoplpush(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    Ok(Reply::optional(move_between(x, a.at(1)?, a.at(2)?, End::Right, End::Left)?))
}

fn brpoplpush(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    check_timeout(a, 3)?;
    match move_between(x, a.at(1)?, a.at(2)?, End::Right, End::Left)? {
        None => Ok(Reply::Blocked),
        value => Ok(Reply::optional(value)),
    }
}

fn llen(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let list = List::find(x, a.at(1)?)?;
    Ok(Reply::Integer(list.map_or(0, |list| i64::try_from(list.0.count).unwrap_or(i64::MAX))))
}

fn lindex(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let Some(list) = List::find(x, a.at(1)?)? else { return Ok(Reply::Nil) };
    match list.index(a.integer(2)?) {
        None => Ok(Reply::Nil),
        Some(position) => Ok(Reply::optional(list.0.get(x, &position.to_be_bytes())?)),
    }
}

fn lset(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let (key, value) = (a.at(1)?, a.at(3)?);
    let Some(mut list) = List::find(x, key)? else { return error(NO_SUCH_KEY) };
    let Some(position) = list.index(a.integer(2)?) else {
        return error("ERR index out of range");
    };
    let before = list.0.get(x, &position.to_be_bytes())?.unwrap_or_default();
    list.0.put(x, &position.to_be_bytes(), value.clone());
    list.grow_bytes(value.len() as i64 - before.len() as i64);
    x.save(key, list.0)?;
    x.notify(Class::List, "lset", key);
    Ok(Reply::OK)
}

fn lrange(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let (first, last) = (a.integer(2)?, a.integer(3)?);
    let Some(list) = List::find(x, a.at(1)?)? else { return Ok(Reply::Array(Vec::new())) };
    match index_range(first, last, list.0.count) {
        None => Ok(Reply::Array(Vec::new())),
        Some((start, end)) => Ok(Reply::bulks(list.slice(x, start, end)?)),
    }
}

fn ltrim(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let (first, last) = (a.integer(2)?, a.integer(3)?);
    let key = a.at(1)?;
    let Some(mut list) = List::find(x, key)? else { return Ok(Reply::OK) };
    let (start, end) =
        index_range(first, last, list.0.count).unwrap_or((list.0.count, list.0.count));
    for _ in end..list.0.count {
        list.pop(x, End::Right)?;
    }
    for _ in 0..start {
        list.pop(x, End::Left)?;
    }
    x.notify(Class::List, "ltrim", key);
    x.save(key, list.0)?;
    Ok(Reply::OK)
}

/// Writes `elements` in place of all from index `from` on.
fn rewrite_behind(
    x: &mut Exec<'_>,
    list: &mut List,
    from: u64,
    elements: &[Bytes],
) -> Result<(), StoreError> {
    while list.0.count > from + elements.len() as u64 {
        list.pop(x, End::Right)?;
    }
    let present = list.0.count - from;
    for (position, (index, value)) in (list.first() + from..).zip(elements.iter().enumerate()) {
        if (index as u64) < present {
            let before = list.0.get(x, &position.to_be_bytes())?.unwrap_or_default();
            list.0.put(x, &position.to_be_bytes(), value.clone());
            list.grow_bytes(value.len() as i64 - before.len() as i64);
        } else {
            list.push(x, End::Right, value)?;
        }
    }
    Ok(())
}

fn lrem(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let (count, value) = (a.integer(2)?, a.at(3)?);
    let key = a.at(1)?;
    let Some(mut list) = List::find(x, key)? else { return Ok(Reply::ZERO) };
    let elements = list.all(x)?;
    let wanted = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
    let is_wanted = |(place, element): (usize, &Bytes)| (element == value).then_some(place);
    let mut gone: Vec<usize> = if count < 0 {
        elements.iter().enumerate().rev().filter_map(is_wanted).take(wanted).collect()
    } else {
        elements.iter().enumerate().filter_map(is_wanted).take(wanted).collect()
    };
    gone.sort_unstable();
    let Some(&from) = gone.first() else { return Ok(Reply::ZERO) };
    let kept: Vec<Bytes> = elements
        .into_iter()
        .enumerate()
        .skip(from)
        .filter(|(place, _)| gone.binary_search(place).is_err())
        .map(|(_, element)| element)
        .collect();
    rewrite_behind(x, &mut list, from as u64, &kept)?;
    x.notify(Class::List, "lrem", key);
    x.save(key, list.0)?;
    Ok(Reply::count(gone.len()))
}

fn linsert(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let is_behind = match a.word(2).as_str() {
        "BEFORE" => false,
        "AFTER" => true,
        _ => return error(SYNTAX),
    };
    let (key, pivot, value) = (a.at(1)?, a.at(3)?, a.at(4)?);
    let Some(mut list) = List::find(x, key)? else { return Ok(Reply::ZERO) };
    let elements = list.all(x)?;
    let Some(place) = elements.iter().position(|element| element == pivot) else {
        return Ok(Reply::Integer(-1));
    };
    let place = place + usize::from(is_behind);
    let mut behind = vec![value.clone()];
    behind.extend_from_slice(elements.get(place..).unwrap_or_default());
    rewrite_behind(x, &mut list, place as u64, &behind)?;
    let count = list.0.count;
    x.save(key, list.0)?;
    x.notify(Class::List, "linsert", key);
    Ok(Reply::Integer(i64::try_from(count).unwrap_or(i64::MAX)))
}

fn lpos(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let (mut rank, mut count, mut length_max) = (1, None, 0);
    let mut place = 3;
    while place < a.len() {
        if place + 1 == a.len() {
            return error(SYNTAX);
        }
        match a.word(place).as_str() {
            "RANK" => {
                rank = a.integer(place + 1)?;
                if rank == 0 {
                    return error(
                        "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to start from the end of the list",
                    );
                }
                if rank == i64::MIN {
                    return error(
                        "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807",
                    );
                }
            }
            "COUNT" => {
                count = Some(not_negative(a, place + 1, "ERR COUNT can't be negative")?);
            }
            "MAXLEN" => {
                length_max = not_negative(a, place + 1, "ERR MAXLEN can't be negative")?;
            }
            _ => return error(SYNTAX),
        }
        place += 2;
    }
    let absent = if count.is_some() { Reply::Array(Vec::new()) } else { Reply::Nil };
    let Some(list) = List::find(x, a.at(1)?)? else { return Ok(absent) };
    let elements = list.all(x)?;
    let length_max = if length_max == 0 { elements.len() } else { length_max };
    let wanted = match count {
        None => 1,
        Some(0) => usize::MAX,
        Some(count) => count,
    };
    let is_match = |(place, element): (usize, &Bytes)| (element == &a[2]).then_some(place);
    let skip = (rank.unsigned_abs() - 1) as usize;
    let found: Vec<usize> = if rank > 0 {
        elements
            .iter()
            .enumerate()
            .take(length_max)
            .filter_map(is_match)
            .skip(skip)
            .take(wanted)
            .collect()
    } else {
        elements
            .iter()
            .enumerate()
            .rev()
            .take(length_max)
            .filter_map(is_match)
            .skip(skip)
            .take(wanted)
            .collect()
    };
    Ok(match count {
        Some(_) => Reply::Array(found.into_iter().map(Reply::count).collect()),
        None => found.first().map_or(Reply::Nil, |place| Reply::count(*place)),
    })
}

/// Writes a list in place of whatever was there; without elements nothing stays.
pub(super) fn store(x: &mut Exec<'_>, key: &Bytes, elements: &[Bytes]) -> Result<()> {
    let mut list = List(Collection::fresh(Kind::List));
    for element in elements {
        list.push_right(x, element)?;
    }
    x.replace(key, list.0)?;
    Ok(())
}
