//! Streams: entries by id. What consumer groups do is in `groups`.
//!
//! ```text
//! 0 id[16]                     ─▶ an entry's fields and values
//! 1 group                      ─▶ last delivered id, how many entries were read
//! 2 group id[16]               ─▶ a pending entry: consumer, when delivered, how often
//! 3 group consumer             ─▶ when seen, when active, how many pending
//! 4 group consumer id[16]      ─▶ nothing: a consumer's pending entries
//! ```
//! The head keeps the last id, the greatest deleted one, and how many entries were ever added.

use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_store::{Direction, StoreError};

use super::keys::unknown_subcommand;
use super::{
    Arguments, Command, Flags, Group as Family, Keys, ONE, READ, READ_FAST, REMOVE, REMOVE_FAST,
    WRITE, WRITE_FAST, command, failure, wrong_arity,
};
use crate::Class;
use crate::collection::{Collection, put_varint, take_varint};
use crate::exec::{Exec, Result, SYNTAX, error};
use crate::head::Kind;
use crate::number::parse_integer;
use crate::reply::Reply;

mod dumped;
mod groups;
mod info;

const G: Family = Family::Stream;
const READ_GROUP: Flags = Flags::WRITE.and(Flags::BLOCKING).and(Flags::MOVABLE_KEYS);
const SECOND: Keys = Keys::Range(2, 2, 1);

pub(super) const TABLE: &[Command] = &[
    command("xack", -4, REMOVE_FAST, ONE, G, groups::xack),
    command("xadd", -5, WRITE_FAST, ONE, G, xadd),
    command("xautoclaim", -6, REMOVE_FAST, ONE, G, groups::xautoclaim),
    command("xclaim", -6, REMOVE_FAST, ONE, G, groups::xclaim),
    command("xdel", -3, REMOVE_FAST, ONE, G, xdel),
    command("xgroup", -2, WRITE, SECOND, G, groups::xgroup),
    command("xinfo", -2, READ, SECOND, G, info::xinfo),
    command("xlen", 2, READ_FAST, ONE, G, xlen),
    command("xpending", -3, READ, ONE, G, groups::xpending),
    command("xrange", -4, READ, ONE, G, |x, a| xrange(x, a, false)),
    command(
        "xread",
        -4,
        READ.and(Flags::BLOCKING).and(Flags::MOVABLE_KEYS),
        Keys::Streams,
        G,
        xread,
    ),
    command("xreadgroup", -7, READ_GROUP, Keys::Streams, G, groups::xreadgroup),
    command("xrevrange", -4, READ, ONE, G, |x, a| xrange(x, a, true)),
    command("xsetid", -3, WRITE_FAST, ONE, G, xsetid),
    command("xtrim", -4, REMOVE, ONE, G, xtrim),
];

const INVALID_ID: &str = "ERR Invalid stream ID specified as stream command argument";

/// An entry's id: milliseconds and a sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Id(u64, u64);

impl Id {
    const MAX: Id = Id(u64::MAX, u64::MAX);

    fn bytes(self) -> [u8; 16] {
        (u128::from(self.0) << 64 | u128::from(self.1)).to_be_bytes()
    }

    fn of_bytes(bytes: &[u8]) -> Id {
        let number = bytes.first_chunk::<16>().map_or(0, |bytes| u128::from_be_bytes(*bytes));
        Id((number >> 64) as u64, number as u64)
    }

    fn text(self) -> Reply {
        Reply::text(format!("{}-{}", self.0, self.1))
    }

    fn next(self) -> Option<Id> {
        match self.1.checked_add(1) {
            Some(sequence) => Some(Id(self.0, sequence)),
            None => self.0.checked_add(1).map(|ms| Id(ms, 0)),
        }
    }

    fn previous(self) -> Option<Id> {
        match self.1.checked_sub(1) {
            Some(sequence) => Some(Id(self.0, sequence)),
            None => self.0.checked_sub(1).map(|ms| Id(ms, u64::MAX)),
        }
    }

    /// Reads `ms-sequence` or `ms`, to which `sequence` is added.
    fn parse(text: &[u8], sequence: u64) -> Result<Id> {
        let number = |bytes: &[u8]| {
            let is_plain = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
            let text = std::str::from_utf8(bytes).ok().filter(|_| is_plain)?;
            text.parse::<u64>().ok()
        };
        let parsed = match text.iter().position(|byte| *byte == b'-') {
            None => number(text).map(|ms| Id(ms, sequence)),
            Some(at) => {
                number(&text[..at]).zip(number(&text[at + 1..])).map(|(ms, seq)| Id(ms, seq))
            }
        };
        match parsed {
            Some(id) => Ok(id),
            None => error(INVALID_ID),
        }
    }

    /// Reads the bound of a range: an id, `-`, `+`, or an id behind `(`, which is left out.
    fn bound(text: &[u8], is_start: bool) -> Result<Id> {
        let default = if is_start { 0 } else { u64::MAX };
        match text {
            b"-" => Ok(Id::default()),
            b"+" => Ok(Id::MAX),
            [b'(', rest @ ..] => {
                if matches!(rest, b"-" | b"+") {
                    return error(INVALID_ID);
                }
                let id = Id::parse(rest, default)?;
                let moved = if is_start { id.next() } else { id.previous() };
                match moved {
                    Some(id) => Ok(id),
                    None if is_start => error("ERR invalid start ID for the interval"),
                    None => error("ERR invalid end ID for the interval"),
                }
            }
            text => Id::parse(text, default),
        }
    }
}

/// A stream under a command.
pub(super) struct Stream(pub(super) Collection);

type Fields = Vec<Bytes>;

fn entry_place(id: Id) -> Vec<u8> {
    [&[0][..], &id.bytes()].concat()
}

fn encode_fields(fields: &[Bytes]) -> Bytes {
    let mut bytes = Vec::with_capacity(fields.iter().map(|field| field.len() + 2).sum());
    for field in fields {
        put_varint(&mut bytes, field.len() as u64);
        bytes.extend_from_slice(field);
    }
    Bytes::from(bytes)
}

fn decode_fields(stored: &Bytes) -> Fields {
    let mut fields = Vec::new();
    let mut rest: &[u8] = stored;
    while let Some(length) = take_varint(&mut rest).and_then(|length| usize::try_from(length).ok())
    {
        let Some((field, after)) = rest.split_at_checked(length) else { break };
        fields.push(stored.slice_ref(field));
        rest = after;
    }
    fields
}

fn entry_reply(id: Id, fields: Fields) -> Reply {
    Reply::Array(vec![id.text(), Reply::bulks(fields)])
}

impl Stream {
    fn find(x: &Exec<'_>, key: &[u8]) -> Result<Option<Stream>> {
        Ok(x.collection(key, Kind::Stream)?.map(Stream))
    }

    fn id_at(&self, at: usize) -> Id {
        Id::of_bytes(self.0.meta.get(at..at + 16).unwrap_or_default())
    }

    fn last_id(&self) -> Id {
        self.id_at(0)
    }

    fn max_deleted_id(&self) -> Id {
        self.id_at(16)
    }

    fn entries_added(&self) -> u64 {
        let bytes = self.0.meta.get(32..).and_then(|bytes| bytes.first_chunk::<8>());
        bytes.map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    fn set_meta(&mut self, last_id: Id, max_deleted_id: Id, entries_added: u64) {
        self.0.meta =
            [&last_id.bytes()[..], &max_deleted_id.bytes(), &entries_added.to_be_bytes()].concat();
    }

    /// Entries from `start` to `end`, both included.
    fn range(
        &self,
        x: &Exec<'_>,
        start: Id,
        end: Id,
        is_reverse: bool,
        count_max: usize,
    ) -> Result<Vec<(Id, Fields)>, StoreError> {
        let mut found = Vec::new();
        if count_max == 0 || start > end {
            return Ok(found);
        }
        let direction = if is_reverse { Direction::Descending } else { Direction::Ascending };
        let mut behind = entry_place(end);
        behind.push(0);
        self.0.range(x, &entry_place(start), &behind, direction, &mut |place, stored| {
            found.push((Id::of_bytes(&place[1..]), decode_fields(stored)));
            if found.len() >= count_max {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        Ok(found)
    }

    fn first_id(&self, x: &Exec<'_>) -> Result<Id, StoreError> {
        let first = self.range(x, Id::default(), Id::MAX, false, 1)?;
        Ok(first.first().map_or(Id::default(), |(id, _)| *id))
    }

    fn entry(&self, x: &Exec<'_>, id: Id) -> Result<Option<Fields>, StoreError> {
        Ok(self.0.get(x, &entry_place(id))?.map(|stored| decode_fields(&stored)))
    }

    fn remove(&mut self, x: &mut Exec<'_>, id: Id) -> Result<bool, StoreError> {
        let place = entry_place(id);
        if self.0.get(x, &place)?.is_none() {
            return Ok(false);
        }
        self.0.delete(x, &place);
        self.0.count -= 1;
        Ok(true)
    }

    /// The sequence number of an entry among all that were ever added, where that can be known.
    fn distance(&self, x: &Exec<'_>, id: Id) -> Result<Option<u64>, StoreError> {
        let (added, length) = (self.entries_added(), self.0.count);
        if added == 0 {
            return Ok(Some(0));
        }
        if (length == 0 && id <= self.last_id()) || id == self.last_id() {
            return Ok(Some(added));
        }
        if id > self.last_id() {
            return Ok(None);
        }
        let first = self.first_id(x)?;
        let max_deleted = self.max_deleted_id();
        if max_deleted == Id::default() || max_deleted < first {
            if id < first {
                return Ok(Some(added.saturating_sub(length)));
            }
            if id == first {
                return Ok(Some(added.saturating_sub(length) + 1));
            }
        }
        Ok(None)
    }

    /// Whether an entry behind `start` may have been deleted.
    fn has_tombstones_from(&self, start: Id) -> bool {
        self.0.count > 0 && self.max_deleted_id() != Id::default() && start <= self.max_deleted_id()
    }
}

/// How a stream is to be cut.
struct Trim {
    by: TrimBy,
    is_approximate: bool,
    limit: Option<u64>,
}

enum TrimBy {
    Length(u64),
    MinId(Id),
}

/// What XADD and XTRIM are asked before the id.
#[derive(Default)]
struct AddOptions {
    no_make: bool,
    trim: Option<Trim>,
    /// Place of the first argument that is no option.
    rest: usize,
}

fn add_options(a: &[Bytes], is_add: bool) -> Result<AddOptions> {
    let mut options = AddOptions::default();
    let mut limit = None;
    let mut place = 2;
    while place < a.len() {
        let word = a.word(place);
        match word.as_str() {
            "*" if is_add => break,
            "MAXLEN" | "MINID" if place + 1 < a.len() => {
                if options.trim.is_some() {
                    return error(
                        "ERR syntax error, MAXLEN and MINID options at the same time are not compatible",
                    );
                }
                let mut at = place + 1;
                let mut is_approximate = false;
                if place + 2 < a.len() && matches!(&a[at][..], b"~" | b"=") {
                    is_approximate = &a[at][..] == b"~";
                    at += 1;
                }
                let by = if word == "MAXLEN" {
                    let length = a.integer(at)?;
                    match u64::try_from(length) {
                        Ok(length) => TrimBy::Length(length),
                        Err(_) => return error("ERR The MAXLEN argument must be >= 0."),
                    }
                } else {
                    TrimBy::MinId(Id::parse(a.at(at)?, 0)?)
                };
                options.trim = Some(Trim { by, is_approximate, limit: None });
                place = at;
            }
            "LIMIT" if place + 1 < a.len() => {
                match u64::try_from(a.integer(place + 1)?) {
                    Ok(number) => limit = Some(number),
                    Err(_) => return error("ERR The LIMIT argument must be >= 0."),
                }
                place += 1;
            }
            "NOMKSTREAM" if is_add => options.no_make = true,
            _ if is_add => break,
            _ => return error(SYNTAX),
        }
        place += 1;
    }
    options.rest = place;
    match (&mut options.trim, limit) {
        (Some(trim), Some(limit)) if trim.is_approximate => trim.limit = Some(limit),
        (Some(_), Some(_)) => {
            return error("ERR syntax error, LIMIT cannot be used without the special ~ option");
        }
        (None, Some(_)) => {
            return error(
                "ERR syntax error, LIMIT cannot be used without specifying a trimming strategy",
            );
        }
        (Some(trim), None) if trim.is_approximate => trim.limit = Some(100 * NODE_ENTRIES),
        _ => {}
    }
    Ok(options)
}

/// Redis keeps so many entries in a node, and cuts whole nodes where it may.
const NODE_ENTRIES: u64 = 100;

fn trim(x: &mut Exec<'_>, stream: &mut Stream, trim: &Trim) -> Result<u64, StoreError> {
    let bound = match trim.by {
        TrimBy::Length(length) => stream.0.count.saturating_sub(length),
        TrimBy::MinId(_) => u64::MAX,
    };
    let last = match trim.by {
        TrimBy::Length(_) => Some(Id::MAX),
        TrimBy::MinId(id) => id.previous(),
    };
    let (Some(last), true) = (last, bound > 0) else { return Ok(0) };
    let mut count_max = bound;
    if let Some(limit) = trim.limit.filter(|limit| *limit > 0) {
        count_max = count_max.min(limit);
    }
    let count_max = usize::try_from(count_max).unwrap_or(usize::MAX);
    let mut gone = stream.range(x, Id::default(), last, false, count_max)?;
    // The last node may go although it is not full.
    if trim.is_approximate && (gone.len() as u64) < stream.0.count {
        let whole = gone.len() as u64 / NODE_ENTRIES * NODE_ENTRIES;
        gone.truncate(whole as usize);
    }
    for (id, _) in &gone {
        stream.remove(x, *id)?;
    }
    Ok(gone.len() as u64)
}

/// The id that a new entry gets.
fn new_id(x: &Exec<'_>, text: &[u8], last: Id) -> Result<Id> {
    const EXHAUSTED: &str =
        "ERR The stream has exhausted the last possible ID, unable to add more items";
    const TOO_SMALL: &str =
        "ERR The ID specified in XADD is equal or smaller than the target stream top item";
    if text == b"*" {
        let now = Id(x.now_ms(), 0);
        return match last.next() {
            _ if now > last => Ok(now),
            Some(next) => Ok(next),
            None => error(EXHAUSTED),
        };
    }
    if let Some(ms) = text.strip_suffix(b"-*") {
        let id = Id::parse(ms, 0)?;
        return match (id.0.cmp(&last.0), last.1.checked_add(1)) {
            (std::cmp::Ordering::Less, _) => error(TOO_SMALL),
            (std::cmp::Ordering::Greater, _) => Ok(id),
            (std::cmp::Ordering::Equal, Some(sequence)) => Ok(Id(id.0, sequence)),
            (std::cmp::Ordering::Equal, None) => error(TOO_SMALL),
        };
    }
    let id = Id::parse(text, 0)?;
    if id == Id::default() {
        return error("ERR The ID specified in XADD must be greater than 0-0");
    }
    if last == Id::MAX {
        return error(EXHAUSTED);
    }
    if id <= last { error(TOO_SMALL) } else { Ok(id) }
}

fn xadd(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let options = add_options(a, true)?;
    let fields = a.from(options.rest + 1);
    if fields.len() < 2 || !fields.len().is_multiple_of(2) {
        return wrong_arity("xadd");
    }
    let text = a.at(options.rest)?;
    if text != "*" {
        let ms = text.strip_suffix(b"-*").unwrap_or(text);
        if Id::parse(ms, 0)? == Id::default() && ms == text {
            return error("ERR The ID specified in XADD must be greater than 0-0");
        }
    }
    let key = a.at(1)?;
    let mut stream = Stream(x.collection_or_new(key, Kind::Stream)?);
    if stream.0.is_new() && options.no_make {
        return Ok(Reply::Nil);
    }
    let id = new_id(x, text, stream.last_id())?;
    stream.0.put(x, &entry_place(id), encode_fields(fields));
    stream.0.count += 1;
    stream.set_meta(id, stream.max_deleted_id(), stream.entries_added() + 1);
    let trimmed = match &options.trim {
        Some(how) => trim(x, &mut stream, how)?,
        None => 0,
    };
    x.save(key, stream.0)?;
    x.notify(Class::Stream, "xadd", key);
    if trimmed > 0 {
        x.notify(Class::Stream, "xtrim", key);
    }
    Ok(id.text())
}

fn xtrim(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let options = add_options(a, false)?;
    let Some(how) = &options.trim else { return error(SYNTAX) };
    let key = a.at(1)?;
    let Some(mut stream) = Stream::find(x, key)? else { return Ok(Reply::ZERO) };
    let trimmed = trim(x, &mut stream, how)?;
    if trimmed > 0 {
        x.save(key, stream.0)?;
        x.notify(Class::Stream, "xtrim", key);
    }
    Ok(Reply::count(trimmed as usize))
}

fn xdel(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let mut ids = Vec::new();
    for text in a.from(2) {
        ids.push(Id::parse(text, 0)?);
    }
    let key = a.at(1)?;
    let Some(mut stream) = Stream::find(x, key)? else { return Ok(Reply::ZERO) };
    let mut count = 0;
    for id in ids {
        if stream.remove(x, id)? {
            count += 1;
            let max_deleted = stream.max_deleted_id().max(id);
            stream.set_meta(stream.last_id(), max_deleted, stream.entries_added());
        }
    }
    if count > 0 {
        x.save(key, stream.0)?;
        x.notify(Class::Stream, "xdel", key);
    }
    Ok(Reply::Integer(count))
}

fn xlen(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let stream = Stream::find(x, a.at(1)?)?;
    Ok(Reply::count(stream.map_or(0, |stream| stream.0.count as usize)))
}

fn xrange(x: &mut Exec<'_>, a: &[Bytes], is_reverse: bool) -> Result {
    let (start_at, end_at) = if is_reverse { (3, 2) } else { (2, 3) };
    let start = Id::bound(a.at(start_at)?, true)?;
    let end = Id::bound(a.at(end_at)?, false)?;
    let mut count = None;
    let mut place = 4;
    while place < a.len() {
        if a.is(place, "count") && place + 1 < a.len() {
            count = Some(a.integer(place + 1)?.max(0));
            place += 2;
        } else {
            return error(SYNTAX);
        }
    }
    let Some(stream) = Stream::find(x, a.at(1)?)? else { return Ok(Reply::Array(Vec::new())) };
    if count == Some(0) {
        return Ok(Reply::NilArray);
    }
    let count_max = count.map_or(usize::MAX, |count| count as usize);
    let found = stream.range(x, start, end, is_reverse, count_max)?;
    Ok(Reply::Array(found.into_iter().map(|(id, fields)| entry_reply(id, fields)).collect()))
}

fn xsetid(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let id = Id::parse(a.at(2)?, 0)?;
    let (mut added, mut max_deleted) = (None, None);
    let mut place = 3;
    while place < a.len() {
        match a.word(place).as_str() {
            "ENTRIESADDED" if place + 1 < a.len() => {
                added = match u64::try_from(a.integer(place + 1)?) {
                    Ok(added) => Some(added),
                    Err(_) => return error("ERR entries_added must be positive"),
                };
            }
            "MAXDELETEDID" if place + 1 < a.len() => {
                let deleted = Id::parse(a.at(place + 1)?, 0)?;
                if id < deleted {
                    return error(
                        "ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id",
                    );
                }
                max_deleted = Some(deleted);
            }
            _ => return error(SYNTAX),
        }
        place += 2;
    }
    let key = a.at(1)?;
    let Some(mut stream) = Stream::find(x, key)? else { return error(crate::exec::NO_SUCH_KEY) };
    if id < stream.max_deleted_id() {
        return error(
            "ERR The ID specified in XSETID is smaller than current max_deleted_entry_id",
        );
    }
    if stream.0.count > 0 {
        let last = stream.range(x, Id::default(), Id::MAX, true, 1)?;
        if last.first().is_some_and(|(last, _)| id < *last) {
            return error(
                "ERR The ID specified in XSETID is smaller than the target stream top item",
            );
        }
        if added.is_some_and(|added| added < stream.0.count) {
            return error(
                "ERR The entries_added specified in XSETID is smaller than the target stream length",
            );
        }
    }
    stream.set_meta(
        id,
        max_deleted.unwrap_or(stream.max_deleted_id()),
        added.unwrap_or(stream.entries_added()),
    );
    x.save(key, stream.0)?;
    x.notify(Class::Stream, "xsetid", key);
    Ok(Reply::OK)
}

/// What XREAD and XREADGROUP are asked.
struct ReadOptions<'a> {
    count: usize,
    blocks: bool,
    no_ack: bool,
    group: Option<(&'a Bytes, &'a Bytes)>,
    keys: &'a [Bytes],
    ids: &'a [Bytes],
}

fn read_options(a: &[Bytes], is_group: bool) -> Result<ReadOptions<'_>> {
    let mut options = ReadOptions {
        count: usize::MAX,
        blocks: false,
        no_ack: false,
        group: None,
        keys: &[],
        ids: &[],
    };
    let mut place = 1;
    while place < a.len() {
        let left = a.len() - place - 1;
        match a.word(place).as_str() {
            "BLOCK" if left >= 1 => {
                match parse_integer(a.at(place + 1)?) {
                    None => return error("ERR timeout is not an integer or out of range"),
                    Some(ms) if ms < 0 => return error("ERR timeout is negative"),
                    Some(_) => options.blocks = true,
                }
                place += 1;
            }
            "COUNT" if left >= 1 => {
                let count = a.integer(place + 1)?;
                options.count = if count <= 0 { usize::MAX } else { count as usize };
                place += 1;
            }
            "STREAMS" if left >= 1 => {
                let rest = a.from(place + 1);
                if !rest.len().is_multiple_of(2) {
                    return error(if is_group {
                        "ERR Unbalanced 'xreadgroup' list of streams: for each stream key an ID or '>' must be specified."
                    } else {
                        "ERR Unbalanced 'xread' list of streams: for each stream key an ID, '+', or '$' must be specified."
                    });
                }
                (options.keys, options.ids) = rest.split_at(rest.len() / 2);
                break;
            }
            "GROUP" if left >= 2 && is_group => {
                options.group = Some((a.at(place + 1)?, a.at(place + 2)?));
                place += 2;
            }
            "GROUP" if left >= 2 => {
                return error(
                    "ERR The GROUP option is only supported by XREADGROUP. You called XREAD instead.",
                );
            }
            "NOACK" if is_group => options.no_ack = true,
            "NOACK" => {
                return error(
                    "ERR The NOACK option is only supported by XREADGROUP. You called XREAD instead.",
                );
            }
            _ => return error(SYNTAX),
        }
        place += 1;
    }
    if options.keys.is_empty() {
        return error(SYNTAX);
    }
    if is_group && options.group.is_none() {
        return error("ERR Missing GROUP option for XREADGROUP");
    }
    Ok(options)
}

fn nothing_read(options: &ReadOptions<'_>) -> Reply {
    if options.blocks { Reply::Blocked } else { Reply::NilArray }
}

fn xread(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let options = read_options(a, false)?;
    let mut after = Vec::with_capacity(options.keys.len());
    for (key, text) in options.keys.iter().zip(options.ids) {
        let stream = Stream::find(x, key)?;
        let id = match &text[..] {
            b"$" => stream.as_ref().map_or(Id::default(), Stream::last_id),
            b"+" => match &stream {
                None => Id::default(),
                Some(stream) => {
                    let last = stream.range(x, Id::default(), Id::MAX, true, 1)?;
                    let last = last.first().and_then(|(id, _)| id.previous());
                    last.unwrap_or(stream.last_id())
                }
            },
            b">" => {
                return error(
                    "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> option.",
                );
            }
            text => Id::parse(text, 0)?,
        };
        after.push((key, stream, id, text));
    }
    let mut found = Vec::new();
    for (key, stream, id, text) in after {
        let (Some(stream), Some(start)) = (stream, id.next()) else { continue };
        let count = if &text[..] == b"+" { 1 } else { options.count };
        let entries = stream.range(x, start, Id::MAX, false, count)?;
        if !entries.is_empty() {
            let entries = entries.into_iter().map(|(id, fields)| entry_reply(id, fields)).collect();
            found.push((Reply::Bulk(key.clone()), Reply::Array(entries)));
        }
    }
    Ok(if found.is_empty() { nothing_read(&options) } else { Reply::PairedMap(found) })
}

/// The arguments of an XREAD that is about to wait, with `$` and `+` replaced by what they mean now.
pub(crate) fn resolve_read(x: &Exec<'_>, a: &[Bytes]) -> Result<Vec<Bytes>> {
    let mut resolved = a.to_vec();
    let options = read_options(a, false)?;
    let (keys, ids) = (options.keys.len(), a.len() - options.ids.len());
    for at in 0..keys {
        if matches!(&options.ids[at][..], b"$" | b"+") {
            let stream = Stream::find(x, &options.keys[at])?;
            let Id(ms, sequence) = stream.map_or(Id::default(), |stream| stream.last_id());
            resolved[ids + at] = Bytes::from(format!("{ms}-{sequence}"));
        }
    }
    Ok(resolved)
}
