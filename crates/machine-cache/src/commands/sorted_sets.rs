//! Sorted sets.
//!
//! A member has two places: `0 hash[4] member` with its score, and `1 score[8] member`, which sorts by
//! score, then by member. Finding a member, a score and either end costs the logarithm; a rank is
//! counted from the end that it is nearer to, where that is known.

use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_store::{Direction, StoreError, prefix_end};

use super::hashes::{COMPACT_BYTES_MAX, choose, member_place, random_count};
use super::lists::{check_timeout, many_pop};
use super::{
    Arguments, Command, Flags, Group, Keys, ONE, READ, READ_FAST, REMOVE, REMOVE_FAST, TWO, WRITE,
    WRITE_FAST, command, index_range, not_negative, wrong_arity,
};
use crate::Class;
use crate::collection::Collection;
use crate::exec::{Exec, NOT_A_FLOAT, Result, SYNTAX, error};
use crate::head::Kind;
use crate::number::{ordered_float, parse_float};
use crate::reply::Reply;

mod combined;

use combined::{How, combine, zintercard};

const G: Group = Group::SortedSet;
const BLOCKING: Flags = REMOVE_FAST.and(Flags::BLOCKING);
const BUT_LAST: Keys = Keys::Range(1, -2, 1);
const MOVABLE_READ: Flags = READ.and(Flags::MOVABLE_KEYS);
const MOVABLE_WRITE: Flags = WRITE.and(Flags::MOVABLE_KEYS);
const COUNTED: Keys = Keys::Counted(1);

pub(super) const TABLE: &[Command] = &[
    command(
        "bzmpop",
        -5,
        REMOVE.and(Flags::BLOCKING).and(Flags::MOVABLE_KEYS),
        Keys::Counted(2),
        G,
        bzmpop,
    ),
    command("bzpopmax", -3, BLOCKING, BUT_LAST, G, |x, a| blocking_pop(x, a, true)),
    command("bzpopmin", -3, BLOCKING, BUT_LAST, G, |x, a| blocking_pop(x, a, false)),
    command("zadd", -4, WRITE_FAST, ONE, G, zadd),
    command("zcard", 2, READ_FAST, ONE, G, zcard),
    command("zcount", 4, READ_FAST, ONE, G, zcount),
    command("zdiff", -3, MOVABLE_READ, COUNTED, G, |x, a| combine(x, a, How::Difference, false)),
    command("zdiffstore", -4, MOVABLE_WRITE, Keys::StoreCounted, G, |x, a| {
        combine(x, a, How::Difference, true)
    }),
    command("zincrby", 4, WRITE_FAST, ONE, G, zincrby),
    command("zinter", -3, MOVABLE_READ, COUNTED, G, |x, a| combine(x, a, How::Intersection, false)),
    command("zintercard", -3, MOVABLE_READ, COUNTED, G, zintercard),
    command("zinterstore", -4, MOVABLE_WRITE, Keys::StoreCounted, G, |x, a| {
        combine(x, a, How::Intersection, true)
    }),
    command("zlexcount", 4, READ_FAST, ONE, G, zlexcount),
    command("zmpop", -4, REMOVE.and(Flags::MOVABLE_KEYS), COUNTED, G, |x, a| zmpop(x, a, 1)),
    command("zmscore", -3, READ_FAST, ONE, G, zmscore),
    command("zpopmax", -2, REMOVE_FAST, ONE, G, |x, a| zpop(x, a, true)),
    command("zpopmin", -2, REMOVE_FAST, ONE, G, |x, a| zpop(x, a, false)),
    command("zrandmember", -2, READ.and(Flags::RANDOM), ONE, G, zrandmember),
    command("zrange", -4, READ, ONE, G, |x, a| range(x, a, 1, By::Rank, false, None)),
    command("zrangebylex", -4, READ, ONE, G, |x, a| range(x, a, 1, By::Lex, false, None)),
    command("zrangebyscore", -4, READ, ONE, G, |x, a| range(x, a, 1, By::Score, false, None)),
    command("zrangestore", -5, WRITE, TWO, G, |x, a| {
        range(x, a, 2, By::Rank, false, Some(a.at(1)?))
    }),
    command("zrank", -3, READ_FAST, ONE, G, |x, a| zrank(x, a, false)),
    command("zrem", -3, REMOVE_FAST, ONE, G, zrem),
    command("zremrangebylex", 4, REMOVE, ONE, G, |x, a| remove_range(x, a, By::Lex)),
    command("zremrangebyrank", 4, REMOVE, ONE, G, |x, a| remove_range(x, a, By::Rank)),
    command("zremrangebyscore", 4, REMOVE, ONE, G, |x, a| remove_range(x, a, By::Score)),
    command("zrevrange", -4, READ, ONE, G, |x, a| range(x, a, 1, By::Rank, true, None)),
    command("zrevrangebylex", -4, READ, ONE, G, |x, a| range(x, a, 1, By::Lex, true, None)),
    command("zrevrangebyscore", -4, READ, ONE, G, |x, a| range(x, a, 1, By::Score, true, None)),
    command("zrevrank", -3, READ_FAST, ONE, G, |x, a| zrank(x, a, true)),
    command("zscore", 3, READ_FAST, ONE, G, zscore),
    command("zunion", -3, MOVABLE_READ, COUNTED, G, |x, a| combine(x, a, How::Union, false)),
    command("zunionstore", -4, MOVABLE_WRITE, Keys::StoreCounted, G, |x, a| {
        combine(x, a, How::Union, true)
    }),
];

const COMPACT_MEMBERS_MAX: u64 = 128;

pub(super) fn stored_score(bytes: &Bytes) -> f64 {
    bytes.first_chunk::<8>().map_or(0.0, |bytes| f64::from_bits(u64::from_be_bytes(*bytes)))
}

fn score_place(score: f64, member: &[u8]) -> Vec<u8> {
    [&[1][..], &ordered_float(score), member].concat()
}

/// Score and member of a place in the order of scores.
fn split_score(place: &[u8]) -> Option<(f64, &[u8])> {
    let (_, rest) = place.split_first()?;
    let (ordered, member) = rest.split_first_chunk::<8>()?;
    let ordered = u64::from_be_bytes(*ordered);
    let bits = if ordered >> 63 == 1 { ordered & !(1 << 63) } else { !ordered };
    Some((f64::from_bits(bits), member))
}

pub(super) fn score_of(
    x: &Exec<'_>,
    held: &Collection,
    member: &[u8],
) -> Result<Option<f64>, StoreError> {
    Ok(held.get(x, &member_place(member))?.map(|bytes| stored_score(&bytes)))
}

/// Gives a member a score; `present` is the one it has.
pub(super) fn set_score(
    x: &mut Exec<'_>,
    held: &mut Collection,
    member: &[u8],
    score: f64,
    present: Option<f64>,
) -> Result<(), StoreError> {
    match present {
        Some(present) if present == score => return Ok(()),
        Some(present) => held.delete(x, &score_place(present, member)),
        None => held.count += 1,
    }
    let bits = Bytes::copy_from_slice(&score.to_bits().to_be_bytes());
    held.put(x, &member_place(member), bits);
    held.put(x, &score_place(score, member), Bytes::new());
    held.is_large |= held.count > COMPACT_MEMBERS_MAX || member.len() > COMPACT_BYTES_MAX;
    held.relieve(x)
}

fn remove_member(x: &mut Exec<'_>, held: &mut Collection, member: &[u8], score: f64) {
    held.delete(x, &member_place(member));
    held.delete(x, &score_place(score, member));
    held.count -= 1;
}

#[derive(Default)]
struct AddOptions {
    only_new: bool,
    only_present: bool,
    only_greater: bool,
    only_less: bool,
    counts_changed: bool,
    increments: bool,
}

fn add_options(a: &[Bytes]) -> Result<(AddOptions, usize)> {
    let mut options = AddOptions::default();
    let mut place = 2;
    loop {
        match a.word(place).as_str() {
            "NX" => options.only_new = true,
            "XX" => options.only_present = true,
            "GT" => options.only_greater = true,
            "LT" => options.only_less = true,
            "CH" => options.counts_changed = true,
            "INCR" => options.increments = true,
            _ => break,
        }
        place += 1;
    }
    let count = a.len() - place;
    if count == 0 || !count.is_multiple_of(2) {
        return error(SYNTAX);
    }
    if options.only_new && options.only_present {
        return error("ERR XX and NX options at the same time are not compatible");
    }
    if (options.only_greater && options.only_less)
        || (options.only_new && (options.only_greater || options.only_less))
    {
        return error("ERR GT, LT, and/or NX options at the same time are not compatible");
    }
    if options.increments && count > 2 {
        return error("ERR INCR option supports a single increment-element pair");
    }
    Ok((options, place))
}

fn zadd(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let (options, first) = add_options(a)?;
    let mut pairs = Vec::with_capacity(a.len() / 2);
    for pair in a.from(first).chunks_exact(2) {
        let Some(score) = parse_float(&pair[0]) else { return error(NOT_A_FLOAT) };
        pairs.push((score, pair[1].clone()));
    }
    add_pairs(x, a.at(1)?, &options, &pairs)
}

fn zincrby(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let options = AddOptions { increments: true, ..AddOptions::default() };
    add_pairs(x, a.at(1)?, &options, &[(a.float(2)?, a.at(3)?.clone())])
}

fn add_pairs(
    x: &mut Exec<'_>,
    key: &Bytes,
    options: &AddOptions,
    pairs: &[(f64, Bytes)],
) -> Result {
    let mut held = x.collection_or_new(key, Kind::SortedSet)?;
    let (mut added, mut changed, mut last) = (0, 0, None);
    for (score, member) in pairs {
        let present = score_of(x, &held, member)?;
        if (options.only_new && present.is_some()) || (options.only_present && present.is_none()) {
            continue;
        }
        let mut score = *score;
        if options.increments {
            score += present.unwrap_or(0.0);
            if score.is_nan() {
                return error("ERR resulting score is not a number (NaN)");
            }
        }
        if present.is_some_and(|present| {
            (options.only_greater && score <= present) || (options.only_less && score >= present)
        }) {
            continue;
        }
        last = Some(score);
        match present {
            None => added += 1,
            Some(present) if present != score => changed += 1,
            Some(_) => {}
        }
        set_score(x, &mut held, member, score, present)?;
    }
    if added + changed > 0 {
        x.save(key, held)?;
        x.notify(Class::SortedSet, if options.increments { "zincr" } else { "zadd" }, key);
    }
    Ok(if options.increments {
        last.map_or(Reply::Nil, Reply::Double)
    } else {
        Reply::Integer(if options.counts_changed { added + changed } else { added })
    })
}

fn zrem(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let key = a.at(1)?;
    let Some(mut held) = x.collection(key, Kind::SortedSet)? else { return Ok(Reply::ZERO) };
    let mut count = 0;
    for member in a.from(2) {
        if let Some(score) = score_of(x, &held, member)? {
            remove_member(x, &mut held, member, score);
            count += 1;
        }
    }
    if count > 0 {
        x.notify(Class::SortedSet, "zrem", key);
        x.save(key, held)?;
    }
    Ok(Reply::Integer(count))
}

fn zcard(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let held = x.collection(a.at(1)?, Kind::SortedSet)?;
    Ok(Reply::Integer(held.map_or(0, |held| i64::try_from(held.count).unwrap_or(i64::MAX))))
}

fn zscore(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let Some(held) = x.collection(a.at(1)?, Kind::SortedSet)? else { return Ok(Reply::Nil) };
    Ok(score_of(x, &held, a.at(2)?)?.map_or(Reply::Nil, Reply::Double))
}

fn zmscore(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let held = x.collection(a.at(1)?, Kind::SortedSet)?;
    let mut replies = Vec::new();
    for member in a.from(2) {
        let score = match &held {
            Some(held) => score_of(x, held, member)?,
            None => None,
        };
        replies.push(score.map_or(Reply::Nil, Reply::Double));
    }
    Ok(Reply::Array(replies))
}

fn zrank(x: &mut Exec<'_>, a: &[Bytes], is_reverse: bool) -> Result {
    let with_score = match a.len() {
        3 => false,
        4 if a.is(3, "withscore") => true,
        _ => return error(SYNTAX),
    };
    let absent = if with_score { Reply::NilArray } else { Reply::Nil };
    let Some(held) = x.collection(a.at(1)?, Kind::SortedSet)? else { return Ok(absent) };
    let member = a.at(2)?;
    let Some(score) = score_of(x, &held, member)? else { return Ok(absent) };
    let mut before = 0;
    let mut visit = |_: &[u8], _: &Bytes| {
        before += 1;
        ControlFlow::Continue(())
    };
    let place = score_place(score, member);
    if is_reverse {
        held.range(x, &place, &prefix_end(&[1]), Direction::Ascending, &mut visit)?;
        before -= 1;
    } else {
        held.range(x, &[1], &place, Direction::Ascending, &mut visit)?;
    }
    Ok(if with_score {
        Reply::Array(vec![Reply::Integer(before), Reply::Double(score)])
    } else {
        Reply::Integer(before)
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Lex,
}

/// A bound of members in their order.
#[derive(Debug, Clone)]
enum LexBound {
    Lowest,
    Highest,
    Inclusive(Bytes),
    Exclusive(Bytes),
}

#[derive(Debug, Clone)]
enum Bounds {
    Rank(i64, i64),
    /// Least and greatest, and whether they are left out.
    Score((f64, bool), (f64, bool)),
    Lex(LexBound, LexBound),
}

impl Bounds {
    /// Reads the two bounds at `place`; with `is_reverse` the greater comes first, except for ranks.
    fn parse(a: &[Bytes], place: usize, by: By, is_reverse: bool) -> Result<Bounds> {
        let (first, second) = (a.at(place)?, a.at(place + 1)?);
        let (least, greatest) = if is_reverse { (second, first) } else { (first, second) };
        match by {
            By::Rank => Ok(Bounds::Rank(a.integer(place)?, a.integer(place + 1)?)),
            By::Score => {
                let bound = |text: &[u8]| {
                    let (text, is_exclusive) = match text {
                        [b'(', rest @ ..] => (rest, true),
                        text => (text, false),
                    };
                    match parse_float(text) {
                        Some(number) => Ok((number, is_exclusive)),
                        None => error("ERR min or max is not a float"),
                    }
                };
                Ok(Bounds::Score(bound(least)?, bound(greatest)?))
            }
            By::Lex => {
                let bound = |text: &Bytes| match text.split_first() {
                    Some((b'-', [])) => Ok(LexBound::Lowest),
                    Some((b'+', [])) => Ok(LexBound::Highest),
                    Some((b'[', _)) => Ok(LexBound::Inclusive(text.slice(1..))),
                    Some((b'(', _)) => Ok(LexBound::Exclusive(text.slice(1..))),
                    _ => error("ERR min or max not valid string range item"),
                };
                Ok(Bounds::Lex(bound(least)?, bound(greatest)?))
            }
        }
    }
}

fn is_above(member: &[u8], least: &LexBound) -> bool {
    match least {
        LexBound::Lowest => true,
        LexBound::Highest => false,
        LexBound::Inclusive(bound) => member >= &bound[..],
        LexBound::Exclusive(bound) => member > &bound[..],
    }
}

fn is_below(member: &[u8], greatest: &LexBound) -> bool {
    match greatest {
        LexBound::Lowest => false,
        LexBound::Highest => true,
        LexBound::Inclusive(bound) => member <= &bound[..],
        LexBound::Exclusive(bound) => member < &bound[..],
    }
}

/// The first member in a direction, and its score.
fn end_member(
    x: &Exec<'_>,
    held: &Collection,
    direction: Direction,
) -> Result<(f64, Bytes), StoreError> {
    let mut found = (0.0, Bytes::new());
    held.prefix(x, &[1], direction, &mut |place, _| {
        if let Some((score, member)) = split_score(place) {
            found = (score, Bytes::copy_from_slice(member));
        }
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// Members within bounds with their scores, in the order asked for, without the first `offset`, at
/// most `count_max`.
fn select(
    x: &Exec<'_>,
    held: &Collection,
    bounds: &Bounds,
    is_reverse: bool,
    offset: usize,
    count_max: usize,
) -> Result<Vec<(Bytes, f64)>> {
    let mut found = Vec::new();
    if count_max == 0 {
        return Ok(found);
    }
    let mut direction = if is_reverse { Direction::Descending } else { Direction::Ascending };
    let (mut start, mut end) = (vec![1], prefix_end(&[1]));
    let (mut skip, mut take) = (offset, count_max);
    let mut is_turned = false;
    let mut has_begun = false;
    let mut lex = None;
    match bounds {
        Bounds::Rank(first, last) => {
            let Some((first, last)) = index_range(*first, *last, held.count) else {
                return Ok(found);
            };
            let (from, to) = (first as usize, last as usize);
            (skip, take) = (from, to - from);
            // From whichever end is nearer.
            let behind = (held.count as usize).saturating_sub(to);
            if behind < from {
                is_turned = true;
                skip = behind;
                direction = match direction {
                    Direction::Ascending => Direction::Descending,
                    Direction::Descending => Direction::Ascending,
                };
            }
        }
        Bounds::Score((least, without_least), (greatest, without_greatest)) => {
            let (low, high) = (score_place(*least, b""), score_place(*greatest, b""));
            start = if *without_least { prefix_end(&low) } else { low };
            end = if *without_greatest { high } else { prefix_end(&high) };
        }
        Bounds::Lex(least, greatest) => {
            let (score, first) = end_member(x, held, Direction::Ascending)?;
            let (last_score, last) = end_member(x, held, Direction::Descending)?;
            if !is_above(&last, least) || !is_below(&first, greatest) {
                return Ok(found);
            }
            if score == last_score {
                match least {
                    LexBound::Inclusive(bound) | LexBound::Exclusive(bound) => {
                        start = score_place(score, bound);
                    }
                    LexBound::Highest => return Ok(found),
                    LexBound::Lowest => {}
                }
                match greatest {
                    LexBound::Inclusive(bound) => {
                        end = score_place(score, bound);
                        end.push(0);
                    }
                    LexBound::Exclusive(bound) => end = score_place(score, bound),
                    LexBound::Lowest => return Ok(found),
                    LexBound::Highest => {}
                }
            }
            lex = Some((least, greatest));
        }
    }
    held.range(x, &start, &end, direction, &mut |place, _| {
        let Some((score, member)) = split_score(place) else { return ControlFlow::Continue(()) };
        if let Some((least, greatest)) = lex {
            // With members of several scores a range by member means nothing; Redis gives those from the
            // first that fits the near bound to the first that does not fit the far one.
            let (above, below) = (is_above(member, least), is_below(member, greatest));
            let (near, far) = if is_reverse { (below, above) } else { (above, below) };
            has_begun = has_begun || near;
            if !has_begun {
                return ControlFlow::Continue(());
            }
            if !far {
                return ControlFlow::Break(());
            }
        }
        if skip > 0 {
            skip -= 1;
            return ControlFlow::Continue(());
        }
        found.push((Bytes::copy_from_slice(member), score));
        if found.len() >= take { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if is_turned {
        found.reverse();
    }
    Ok(found)
}

fn with_scores(found: Vec<(Bytes, f64)>) -> Reply {
    let pair = |(member, score)| (Reply::Bulk(member), Reply::Double(score));
    Reply::Pairs(found.into_iter().map(pair).collect())
}

fn without_scores(found: Vec<(Bytes, f64)>) -> Reply {
    Reply::bulks(found.into_iter().map(|(member, _)| member))
}

/// ZRANGE and its older relatives; with `target` ZRANGESTORE, whose keys stand one later.
fn range(
    x: &mut Exec<'_>,
    a: &[Bytes],
    key_at: usize,
    by: By,
    is_reverse: bool,
    target: Option<&Bytes>,
) -> Result {
    let is_unified = a.is(0, "zrange") || target.is_some();
    let (mut by, mut is_reverse) = (by, is_reverse);
    let (mut scores, mut limit, mut is_by_said) = (false, None, false);
    let mut place = key_at + 3;
    while place < a.len() {
        match a.word(place).as_str() {
            "WITHSCORES" if target.is_none() => scores = true,
            "LIMIT" if place + 2 < a.len() => {
                limit = Some((a.integer(place + 1)?, a.integer(place + 2)?));
                place += 2;
            }
            "REV" if is_unified => is_reverse = true,
            "BYSCORE" if is_unified && !is_by_said => (by, is_by_said) = (By::Score, true),
            "BYLEX" if is_unified && !is_by_said => (by, is_by_said) = (By::Lex, true),
            _ => return error(SYNTAX),
        }
        place += 1;
    }
    if limit.is_some() && by == By::Rank {
        return error(
            "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX",
        );
    }
    if scores && by == By::Lex {
        return error("ERR syntax error, WITHSCORES not supported in combination with BYLEX");
    }
    let bounds = Bounds::parse(a, key_at + 1, by, is_reverse)?;
    let (offset, count_max) = match limit {
        None => (0, usize::MAX),
        Some((offset, _)) if offset < 0 => (0, 0),
        Some((offset, count)) => {
            (offset.unsigned_abs() as usize, usize::try_from(count).unwrap_or(usize::MAX))
        }
    };
    let found = match x.collection(a.at(key_at)?, Kind::SortedSet)? {
        None => Vec::new(),
        Some(held) => select(x, &held, &bounds, is_reverse, offset, count_max)?,
    };
    match target {
        Some(target) => store(x, target, &found, "zrangestore"),
        None if scores => Ok(with_scores(found)),
        None => Ok(without_scores(found)),
    }
}

/// Writes a sorted set in place of whatever was there.
pub(super) fn store(
    x: &mut Exec<'_>,
    key: &Bytes,
    members: &[(Bytes, f64)],
    event: &'static str,
) -> Result {
    let mut held = Collection::fresh(Kind::SortedSet);
    for (member, score) in members {
        set_score(x, &mut held, member, *score, None)?;
    }
    let was_there = x.exists(key)?;
    x.replace(key, held)?;
    if !members.is_empty() {
        x.notify(Class::SortedSet, event, key);
    } else if was_there {
        x.notify(Class::Generic, "del", key);
    }
    Ok(Reply::count(members.len()))
}

fn zcount(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    count_within(x, a, By::Score)
}

fn zlexcount(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    count_within(x, a, By::Lex)
}

fn count_within(x: &mut Exec<'_>, a: &[Bytes], by: By) -> Result {
    let bounds = Bounds::parse(a, 2, by, false)?;
    let Some(held) = x.collection(a.at(1)?, Kind::SortedSet)? else { return Ok(Reply::ZERO) };
    Ok(Reply::count(select(x, &held, &bounds, false, 0, usize::MAX)?.len()))
}

fn remove_range(x: &mut Exec<'_>, a: &[Bytes], by: By) -> Result {
    let bounds = Bounds::parse(a, 2, by, false)?;
    let key = a.at(1)?;
    let Some(mut held) = x.collection(key, Kind::SortedSet)? else { return Ok(Reply::ZERO) };
    let found = select(x, &held, &bounds, false, 0, usize::MAX)?;
    for (member, score) in &found {
        remove_member(x, &mut held, member, *score);
    }
    if !found.is_empty() {
        let event = match by {
            By::Rank => "zremrangebyrank",
            By::Score => "zremrangebyscore",
            By::Lex => "zremrangebylex",
        };
        x.notify(Class::SortedSet, event, key);
        x.save(key, held)?;
    }
    Ok(Reply::count(found.len()))
}

fn take_ends(
    x: &mut Exec<'_>,
    key: &Bytes,
    mut held: Collection,
    from_greatest: bool,
    count: usize,
) -> Result<Vec<(Bytes, f64)>> {
    let last = i64::try_from(count).unwrap_or(i64::MAX).saturating_sub(1);
    let found = select(x, &held, &Bounds::Rank(0, last), from_greatest, 0, usize::MAX)?;
    for (member, score) in &found {
        remove_member(x, &mut held, member, *score);
    }
    let event = if from_greatest { "zpopmax" } else { "zpopmin" };
    x.notify(Class::SortedSet, event, key);
    x.save(key, held)?;
    Ok(found)
}

fn zpop(x: &mut Exec<'_>, a: &[Bytes], from_greatest: bool) -> Result {
    if a.len() > 3 {
        return wrong_arity(if from_greatest { "zpopmax" } else { "zpopmin" });
    }
    let key = a.at(1)?;
    let count = match a.len() {
        2 => None,
        _ => Some(not_negative(a, 2, "ERR value is out of range, must be positive")?),
    };
    let Some(held) = x.collection(key, Kind::SortedSet)? else {
        return Ok(Reply::Array(Vec::new()));
    };
    if count == Some(0) {
        return Ok(Reply::Array(Vec::new()));
    }
    let found = take_ends(x, key, held, from_greatest, count.unwrap_or(1))?;
    Ok(match count {
        Some(_) => with_scores(found),
        None => Reply::Array(
            found
                .into_iter()
                .flat_map(|(member, score)| [Reply::Bulk(member), Reply::Double(score)])
                .collect(),
        ),
    })
}

fn blocking_pop(x: &mut Exec<'_>, a: &[Bytes], from_greatest: bool) -> Result {
    check_timeout(a, a.len() - 1)?;
    for key in &a[1..a.len() - 1] {
        if let Some(held) = x.collection(key, Kind::SortedSet)? {
            let found = take_ends(x, key, held, from_greatest, 1)?;
            let mut reply = vec![Reply::Bulk(key.clone())];
            for (member, score) in found {
                reply.extend([Reply::Bulk(member), Reply::Double(score)]);
            }
            return Ok(Reply::Array(reply));
        }
    }
    Ok(Reply::Blocked)
}

fn zmpop(x: &mut Exec<'_>, a: &[Bytes], at: usize) -> Result {
    let asked = many_pop(a, at, ["MIN", "MAX"])?;
    for key in asked.keys {
        if let Some(held) = x.collection(key, Kind::SortedSet)? {
            let count = usize::try_from(asked.count).unwrap_or(usize::MAX);
            let found = take_ends(x, key, held, !asked.first_end, count)?;
            let pair =
                |(member, score)| Reply::Array(vec![Reply::Bulk(member), Reply::Double(score)]);
            let pairs = found.into_iter().map(pair).collect();
            return Ok(Reply::Array(vec![Reply::Bulk(key.clone()), Reply::Array(pairs)]));
        }
    }
    Ok(Reply::NilArray)
}

fn bzmpop(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    check_timeout(a, 1)?;
    match zmpop(x, a, 2)? {
        Reply::NilArray => Ok(Reply::Blocked),
        reply => Ok(reply),
    }
}

fn zrandmember(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    if a.len() == 2 {
        let Some(held) = x.collection(a.at(1)?, Kind::SortedSet)? else { return Ok(Reply::Nil) };
        let chosen = choose(x, &held, 1)?;
        return Ok(Reply::optional(chosen.into_iter().next().map(|(member, _)| member)));
    }
    let scores = a.is(3, "withscores");
    let count = random_count(a, 2, scores)?;
    if a.len() > 4 || (a.len() == 4 && !scores) {
        return error(SYNTAX);
    }
    let Some(held) = x.collection(a.at(1)?, Kind::SortedSet)? else {
        return Ok(Reply::Array(Vec::new()));
    };
    let chosen = choose(x, &held, count)?;
    let chosen = chosen.into_iter().map(|(member, score)| (member, stored_score(&score))).collect();
    Ok(if scores { with_scores(chosen) } else { without_scores(chosen) })
}

/// Members whose score lies from `least` to `greatest`, `greatest` left out.
pub(super) fn between(
    x: &Exec<'_>,
    held: &Collection,
    least: f64,
    greatest: f64,
) -> Result<Vec<(Bytes, f64)>> {
    select(x, held, &Bounds::Score((least, false), (greatest, true)), false, 0, usize::MAX)
}

/// Members whose score is infinite.
pub(super) fn infinite(x: &Exec<'_>, held: &Collection) -> Result<Vec<(Bytes, f64)>> {
    let bound = (f64::INFINITY, false);
    select(x, held, &Bounds::Score(bound, bound), false, 0, usize::MAX)
}

/// The scores of some members; `None` for those that are not there.
pub(super) fn scores(x: &Exec<'_>, key: &[u8], members: &[Bytes]) -> Result<Vec<Option<f64>>> {
    let Some(held) = x.collection(key, Kind::SortedSet)? else {
        return Ok(vec![None; members.len()]);
    };
    members.iter().map(|member| Ok(score_of(x, &held, member)?)).collect()
}
