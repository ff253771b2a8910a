//! Consumer groups.

use std::ops::ControlFlow;

use bytes::Bytes;
use proteus_machine::key::{push_string, take_u64};
use proteus_store::{Direction, StoreError};

use super::{
    Arguments, Exec, Id, Reply, Result, SYNTAX, Stream, entry_reply, error, failure, nothing_read,
    read_options, unknown_subcommand, wrong_arity,
};
use crate::Class;
use crate::head::Kind;
use crate::number::parse_integer;

/// A consumer group as it is stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    pub(super) last_id: Id,
    /// `None` where it cannot be known.
    pub(super) entries_read: Option<u64>,
}

/// A consumer as it is stored.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Consumer {
    pub(super) seen_ms: u64,
    /// `None` until it gets an entry.
    pub(super) active_ms: Option<u64>,
    pub(super) pending: u64,
}

/// A pending entry as it is stored.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) consumer: Bytes,
    pub(super) delivered_ms: u64,
    pub(super) deliveries: u64,
}

fn place(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![kind];
    for part in parts {
        push_string(&mut bytes, part);
    }
    bytes
}

fn group_place(group: &[u8]) -> Vec<u8> {
    [&[1], group].concat()
}

fn pending_place(group: &[u8], id: Id) -> Vec<u8> {
    [&place(2, &[group])[..], &id.bytes()].concat()
}

pub(super) fn consumers_prefix(group: &[u8]) -> Vec<u8> {
    place(3, &[group])
}

fn consumer_place(group: &[u8], consumer: &[u8]) -> Vec<u8> {
    [&place(3, &[group])[..], consumer].concat()
}

fn owned_prefix(group: &[u8], consumer: &[u8]) -> Vec<u8> {
    place(4, &[group, consumer])
}

fn owned_place(group: &[u8], consumer: &[u8], id: Id) -> Vec<u8> {
    [&place(4, &[group, consumer])[..], &id.bytes()].concat()
}

fn decode_group(bytes: &[u8]) -> Group {
    let entries_read = bytes.get(16..).and_then(take_u64).map(|(read, _)| read);
    Group { last_id: Id::of_bytes(bytes), entries_read }
}

fn encode_group(group: Group) -> Bytes {
    let mut bytes = group.last_id.bytes().to_vec();
    if let Some(read) = group.entries_read {
        bytes.extend_from_slice(&read.to_be_bytes());
    }
    Bytes::from(bytes)
}

pub(super) fn decode_consumer(bytes: &[u8]) -> Consumer {
    let number = |at: usize| bytes.get(at..).and_then(take_u64).map(|(number, _)| number);
    Consumer {
        seen_ms: number(0).unwrap_or(0),
        active_ms: number(8).filter(|ms| *ms > 0),
        pending: number(16).unwrap_or(0),
    }
}

fn encode_consumer(consumer: Consumer) -> Bytes {
    let parts = [consumer.seen_ms, consumer.active_ms.unwrap_or(0), consumer.pending];
    Bytes::from(parts.map(u64::to_be_bytes).concat())
}

pub(super) fn decode_pending(bytes: &Bytes) -> Pending {
    let number = |at: usize| bytes.get(at..).and_then(take_u64).map_or(0, |(number, _)| number);
    Pending {
        delivered_ms: number(0),
        deliveries: number(8),
        consumer: bytes.slice(bytes.len().min(16)..),
    }
}

fn encode_pending(pending: &Pending) -> Bytes {
    let head = [pending.delivered_ms, pending.deliveries].map(u64::to_be_bytes).concat();
    Bytes::from([&head[..], &pending.consumer].concat())
}

impl Stream {
    pub(super) fn group(&self, x: &Exec<'_>, name: &[u8]) -> Result<Option<Group>, StoreError> {
        Ok(self.0.get(x, &group_place(name))?.map(|bytes| decode_group(&bytes)))
    }

    pub(super) fn put_group(&mut self, x: &mut Exec<'_>, name: &[u8], group: Group) {
        self.0.put(x, &group_place(name), encode_group(group));
    }

    pub(super) fn groups(&self, x: &Exec<'_>) -> Result<Vec<(Bytes, Group)>, StoreError> {
        let all = self.0.all(x, &[1])?;
        Ok(all.into_iter().map(|(name, bytes)| (name, decode_group(&bytes))).collect())
    }

    pub(super) fn consumers(
        &self,
        x: &Exec<'_>,
        group: &[u8],
    ) -> Result<Vec<(Bytes, Consumer)>, StoreError> {
        let all = self.0.all(x, &consumers_prefix(group))?;
        Ok(all.into_iter().map(|(name, bytes)| (name, decode_consumer(&bytes))).collect())
    }

    fn consumer(
        &self,
        x: &Exec<'_>,
        group: &[u8],
        consumer: &[u8],
    ) -> Result<Option<Consumer>, StoreError> {
        let stored = self.0.get(x, &consumer_place(group, consumer))?;
        Ok(stored.map(|bytes| decode_consumer(&bytes)))
    }

    pub(super) fn put_consumer(
        &mut self,
        x: &mut Exec<'_>,
        group: &[u8],
        name: &[u8],
        consumer: Consumer,
    ) {
        self.0.put(x, &consumer_place(group, name), encode_consumer(consumer));
    }

    /// The consumer, made if it is not there; says whether it was made.
    fn consumer_or_new(
        &mut self,
        x: &mut Exec<'_>,
        group: &[u8],
        name: &[u8],
    ) -> Result<(Consumer, bool), StoreError> {
        let present = self.consumer(x, group, name)?;
        let is_new = present.is_none();
        let consumer = Consumer { seen_ms: x.now_ms(), ..present.unwrap_or_default() };
        self.put_consumer(x, group, name, consumer);
        Ok((consumer, is_new))
    }

    fn pending(&self, x: &Exec<'_>, group: &[u8], id: Id) -> Result<Option<Pending>, StoreError> {
        Ok(self.0.get(x, &pending_place(group, id))?.map(|bytes| decode_pending(&bytes)))
    }

    pub(super) fn pending_between(
        &self,
        x: &Exec<'_>,
        group: &[u8],
        start: Id,
        end: Id,
        visit: &mut dyn FnMut(Id, Pending) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut behind = pending_place(group, end);
        behind.push(0);
        let start = pending_place(group, start);
        let head = start.len() - 16;
        self.0.range(x, &start, &behind, Direction::Ascending, &mut |place, bytes| {
            visit(Id::of_bytes(&place[head..]), decode_pending(bytes))
        })
    }

    /// Makes an entry pending for a consumer, whoever had it before.
    pub(super) fn assign(
        &mut self,
        x: &mut Exec<'_>,
        group: &[u8],
        id: Id,
        pending: &Pending,
        before: Option<&Pending>,
    ) -> Result<(), StoreError> {
        let owner = before.map(|before| &before.consumer);
        if owner != Some(&pending.consumer) {
            if let Some(owner) = owner {
                self.disown(x, group, owner, id)?;
            }
            self.0.put(x, &owned_place(group, &pending.consumer, id), Bytes::new());
            let mut consumer = self.consumer(x, group, &pending.consumer)?.unwrap_or_default();
            consumer.pending += 1;
            self.put_consumer(x, group, &pending.consumer, consumer);
        }
        self.0.put(x, &pending_place(group, id), encode_pending(pending));
        self.0.relieve(x)
    }

    fn disown(
        &mut self,
        x: &mut Exec<'_>,
        group: &[u8],
        owner: &[u8],
        id: Id,
    ) -> Result<(), StoreError> {
        self.0.delete(x, &owned_place(group, owner, id));
        if let Some(mut consumer) = self.consumer(x, group, owner)? {
            consumer.pending = consumer.pending.saturating_sub(1);
            self.put_consumer(x, group, owner, consumer);
        }
        Ok(())
    }

    fn acknowledge(&mut self, x: &mut Exec<'_>, group: &[u8], id: Id) -> Result<bool, StoreError> {
        let Some(pending) = self.pending(x, group, id)? else { return Ok(false) };
        self.0.delete(x, &pending_place(group, id));
        self.disown(x, group, &pending.consumer, id)?;
        Ok(true)
    }

    fn delete_prefix(&mut self, x: &mut Exec<'_>, prefix: &[u8]) -> Result<(), StoreError> {
        for (rest, _) in self.0.all(x, prefix)? {
            self.0.delete(x, &[prefix, &rest].concat());
        }
        Ok(())
    }
}

fn no_group<T>(key: &[u8], group: &[u8], tail: &str) -> Result<T> {
    let (key, group) = (super::super::shortened(key, 128), super::super::shortened(group, 128));
    failure(format!("NOGROUP No such key '{key}' or consumer group '{group}'{tail}"))
}

/// The stream and group that a command names at 1 and 2.
fn found_group(x: &Exec<'_>, a: &[Bytes]) -> Result<(Stream, Group)> {
    let (key, name) = (a.at(1)?, a.at(2)?);
    let Some(stream) = Stream::find(x, key)? else { return no_group(key, name, "") };
    match stream.group(x, name)? {
        None => no_group(key, name, ""),
        Some(group) => Ok((stream, group)),
    }
}

pub(super) fn xreadgroup(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let options = read_options(a, true)?;
    let Some((group_name, consumer_name)) = options.group else { return error(SYNTAX) };
    let mut asked = Vec::new();
    for (key, text) in options.keys.iter().zip(options.ids) {
        const TAIL: &str = " in XREADGROUP with GROUP option";
        let Some(stream) = Stream::find(x, key)? else { return no_group(key, group_name, TAIL) };
        if stream.group(x, group_name)?.is_none() {
            return no_group(key, group_name, TAIL);
        }
        let after = match &text[..] {
            b">" => None,
            b"$" => {
                return error(
                    "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would just return an empty result set.",
                );
            }
            b"+" => {
                return error(
                    "ERR The + ID is meaningless in the context of XREADGROUP: you want to read the history of this consumer by specifying a proper ID, or use the > ID to get new messages. The + ID would just return an empty result set.",
                );
            }
            text => Some(Id::parse(text, 0)?),
        };
        asked.push((key, after));
    }
    let mut found = Vec::new();
    for (key, after) in asked {
        // Found again: two names may be one stream.
        let Some(mut stream) = Stream::find(x, key)? else { continue };
        let Some(group) = stream.group(x, group_name)? else { continue };
        let entries = match after {
            Some(after) => {
                let (_, is_new) = stream.consumer_or_new(x, group_name, consumer_name)?;
                let history = history(x, &stream, group_name, consumer_name, after, options.count)?;
                x.save(key, stream.0)?;
                if is_new {
                    x.notify(Class::Stream, "xgroup-createconsumer", key);
                }
                found.push((Reply::Bulk(key.clone()), Reply::Array(history)));
                continue;
            }
            None => match group.last_id.next() {
                None => Vec::new(),
                Some(start) => stream.range(x, start, Id::MAX, false, options.count)?,
            },
        };
        let (_, is_new) = stream.consumer_or_new(x, group_name, consumer_name)?;
        if !entries.is_empty() {
            deliver(x, &mut stream, group_name, consumer_name, group, &entries, options.no_ack)?;
            let entries = entries.into_iter().map(|(id, fields)| entry_reply(id, fields)).collect();
            found.push((Reply::Bulk(key.clone()), Reply::Array(entries)));
        }
        x.save(key, stream.0)?;
        if is_new {
            x.notify(Class::Stream, "xgroup-createconsumer", key);
        }
    }
    Ok(if found.is_empty() { nothing_read(&options) } else { Reply::PairedMap(found) })
}

/// Entries pending for a consumer behind an id; those that were deleted without fields.
fn history(
    x: &Exec<'_>,
    stream: &Stream,
    group: &[u8],
    consumer: &[u8],
    after: Id,
    count_max: usize,
) -> Result<Vec<Reply>> {
    let Some(start) = after.next() else { return Ok(Vec::new()) };
    let mut ids = Vec::new();
    let prefix = owned_prefix(group, consumer);
    let end = proteus_store::prefix_end(&prefix);
    let start = owned_place(group, consumer, start);
    stream.0.range(x, &start, &end, Direction::Ascending, &mut |place, _| {
        ids.push(Id::of_bytes(&place[prefix.len()..]));
        if ids.len() >= count_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let mut entries = Vec::with_capacity(ids.len());
    for id in ids {
        entries.push(match stream.entry(x, id)? {
            Some(fields) => entry_reply(id, fields),
            None => Reply::Array(vec![id.text(), Reply::NilArray]),
        });
    }
    Ok(entries)
}

/// Delivers new entries to a consumer.
fn deliver(
    x: &mut Exec<'_>,
    stream: &mut Stream,
    group_name: &[u8],
    consumer_name: &Bytes,
    mut group: Group,
    entries: &[(Id, Vec<Bytes>)],
    no_ack: bool,
) -> Result<()> {
    let now_ms = x.now_ms();
    for (id, _) in entries {
        group.entries_read = match group.entries_read {
            Some(read) if !stream.has_tombstones_from(group.last_id) => Some(read + 1),
            _ => stream.distance(x, *id)?,
        };
        group.last_id = *id;
        if !no_ack {
            let before = stream.pending(x, group_name, *id)?;
            let pending =
                Pending { consumer: consumer_name.clone(), delivered_ms: now_ms, deliveries: 1 };
            stream.assign(x, group_name, *id, &pending, before.as_ref())?;
        }
    }
    stream.put_group(x, group_name, group);
    let mut consumer = stream.consumer(x, group_name, consumer_name)?.unwrap_or_default();
    consumer.active_ms = Some(now_ms);
    stream.put_consumer(x, group_name, consumer_name, consumer);
    Ok(())
}

pub(super) fn xack(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let (key, group) = (a.at(1)?, a.at(2)?);
    let mut ids = Vec::new();
    let stream = Stream::find(x, key)?;
    let Some(mut stream) = stream else { return Ok(Reply::ZERO) };
    if stream.group(x, group)?.is_none() {
        return Ok(Reply::ZERO);
    }
    for text in a.from(3) {
        ids.push(Id::parse(text, 0)?);
    }
    let mut count = 0;
    for id in ids {
        count += i64::from(stream.acknowledge(x, group, id)?);
    }
    if count > 0 {
        x.save(key, stream.0)?;
        // Redis announces nothing; those who watch the key must learn of it all the same.
        x.notify(Class::Stream, "xack", key);
    }
    Ok(Reply::Integer(count))
}

fn group_start(stream: &Stream, text: &[u8]) -> Result<Id> {
    if text == b"$" { Ok(stream.last_id()) } else { Id::parse(text, 0) }
}

fn entries_read(a: &[Bytes], place: usize) -> Result<Option<u64>> {
    match a.integer(place)? {
        -1 => Ok(None),
        read => match u64::try_from(read) {
            Ok(read) => Ok(Some(read)),
            Err(_) => error("ERR value for ENTRIESREAD must be positive or -1"),
        },
    }
}

const HELP: &[&str] = &[
    "XGROUP <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CREATE <key> <groupname> <id|$> [option]",
    "    Create a new consumer group. Options are:",
    "    * MKSTREAM",
    "      Create the empty stream if it does not exist.",
    "    * ENTRIESREAD entries_read",
    "      Set the group's entries_read counter (internal use).",
    "CREATECONSUMER <key> <groupname> <consumer>",
    "    Create a new consumer in the specified group.",
    "DELCONSUMER <key> <groupname> <consumer>",
    "    Remove the specified consumer.",
    "DESTROY <key> <groupname>",
    "    Remove the specified group.",
    "SETID <key> <groupname> <id|$> [ENTRIESREAD entries_read]",
    "    Set the current group ID and entries_read counter.",
    "HELP",
    "    Print this help.",
];

pub(super) fn xgroup(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let word = a.word(1);
    let fits = match word.as_str() {
        "HELP" => a.len() == 2,
        "CREATE" | "SETID" => (5..=8).contains(&a.len()),
        "DESTROY" => a.len() == 4,
        "CREATECONSUMER" | "DELCONSUMER" => a.len() == 5,
        _ => return unknown_subcommand("XGROUP", a.at(1)?),
    };
    if !fits {
        return wrong_arity(&format!("xgroup|{}", word.to_lowercase()));
    }
    if word == "HELP" {
        return Ok(Reply::Array(HELP.iter().map(|line| Reply::status(line)).collect()));
    }
    let (key, name) = (a.at(2)?, a.at(3)?);
    let (mut makes_stream, mut read) = (false, None);
    if matches!(word.as_str(), "CREATE" | "SETID") {
        let mut place = 5;
        while place < a.len() {
            if word == "CREATE" && a.is(place, "mkstream") {
                makes_stream = true;
                place += 1;
            } else if a.is(place, "entriesread") && place + 1 < a.len() {
                read = entries_read(a, place + 1)?;
                place += 2;
            } else {
                return error(SYNTAX);
            }
        }
    }
    let found = Stream::find(x, key)?;
    let is_new = found.is_none();
    let mut stream = match found {
        Some(stream) => stream,
        None if makes_stream => Stream(x.collection_or_new(key, Kind::Stream)?),
        None => {
            return error(
                "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the MKSTREAM option to create an empty stream automatically.",
            );
        }
    };
    let group = stream.group(x, name)?;
    match (word.as_str(), group) {
        ("CREATE", None) => {
            let last_id = group_start(&stream, a.at(4)?)?;
            if is_new {
                stream.set_meta(Id::default(), Id::default(), 0);
            }
            stream.put_group(x, name, Group { last_id, entries_read: read });
            x.save(key, stream.0)?;
            x.notify(Class::Stream, "xgroup-create", key);
            Ok(Reply::OK)
        }
        ("CREATE", Some(_)) => error("BUSYGROUP Consumer Group name already exists"),
        ("DESTROY", None) => Ok(Reply::ZERO),
        ("DESTROY", Some(_)) => {
            stream.0.delete(x, &group_place(name));
            for kind in [2, 3, 4] {
                stream.delete_prefix(x, &place(kind, &[name]))?;
            }
            x.save(key, stream.0)?;
            x.notify(Class::Stream, "xgroup-destroy", key);
            Ok(Reply::Integer(1))
        }
        (_, None) => {
            let (key, name) =
                (super::super::shortened(key, 128), super::super::shortened(name, 128));
            failure(format!("NOGROUP No such consumer group '{name}' for key name '{key}'"))
        }
        ("SETID", Some(_)) => {
            let last_id = group_start(&stream, a.at(4)?)?;
            stream.put_group(x, name, Group { last_id, entries_read: read });
            x.save(key, stream.0)?;
            x.notify(Class::Stream, "xgroup-setid", key);
            Ok(Reply::OK)
        }
        ("CREATECONSUMER", Some(_)) => {
            let is_new = stream.consumer(x, name, a.at(4)?)?.is_none();
            if is_new {
                stream.consumer_or_new(x, name, a.at(4)?)?;
                x.save(key, stream.0)?;
                x.notify(Class::Stream, "xgroup-createconsumer", key);
            }
            Ok(Reply::Integer(i64::from(is_new)))
        }
        (_, Some(_)) => {
            let consumer = a.at(4)?;
            let Some(stored) = stream.consumer(x, name, consumer)? else { return Ok(Reply::ZERO) };
            let prefix = owned_prefix(name, consumer);
            for (id, _) in stream.0.all(x, &prefix)? {
                let id = Id::of_bytes(&id);
                stream.0.delete(x, &pending_place(name, id));
            }
            stream.delete_prefix(x, &prefix)?;
            stream.0.delete(x, &consumer_place(name, consumer));
            x.save(key, stream.0)?;
            x.notify(Class::Stream, "xgroup-delconsumer", key);
            Ok(Reply::count(stored.pending as usize))
        }
    }
}

pub(super) fn xpending(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let mut first = 3;
    let mut idle_min_ms = 0;
    if a.len() > 3 && a.is(3, "idle") {
        if a.len() < 8 {
            return error(SYNTAX);
        }
        idle_min_ms = u64::try_from(a.integer(4)?).unwrap_or(0);
        first = 5;
    }
    if a.len() > 3 && !(first + 3..=first + 4).contains(&a.len()) {
        return error(SYNTAX);
    }
    if a.len() == 3 {
        let (stream, _) = found_group(x, a)?;
        return summary(x, &stream, a.at(2)?);
    }
    let count = a.integer(first + 2)?.max(0) as usize;
    let start = Id::bound(a.at(first)?, true)?;
    let end = Id::bound(a.at(first + 1)?, false)?;
    let consumer = a.get(first + 3);
    let (stream, _) = found_group(x, a)?;
    let now_ms = x.now_ms();
    let mut rows = Vec::new();
    if count == 0 {
        return Ok(Reply::Array(rows));
    }
    stream.pending_between(x, a.at(2)?, start, end, &mut |id, pending| {
        let idle_ms = now_ms.saturating_sub(pending.delivered_ms);
        if idle_ms < idle_min_ms || consumer.is_some_and(|consumer| *consumer != pending.consumer) {
            return ControlFlow::Continue(());
        }
        rows.push(Reply::Array(vec![
            id.text(),
            Reply::Bulk(pending.consumer),
            Reply::Integer(i64::try_from(idle_ms).unwrap_or(i64::MAX)),
            Reply::Integer(i64::try_from(pending.deliveries).unwrap_or(i64::MAX)),
        ]));
        if rows.len() >= count { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(Reply::Array(rows))
}

fn summary(x: &Exec<'_>, stream: &Stream, group: &[u8]) -> Result {
    let (mut count, mut least, mut greatest) = (0i64, None, Id::default());
    stream.pending_between(x, group, Id::default(), Id::MAX, &mut |id, _| {
        count += 1;
        least = least.or(Some(id));
        greatest = id;
        ControlFlow::Continue(())
    })?;
    let Some(least) = least else {
        return Ok(Reply::Array(vec![Reply::ZERO, Reply::Nil, Reply::Nil, Reply::NilArray]));
    };
    let consumers = stream.consumers(x, group)?;
    let row = |(name, consumer): (Bytes, Consumer)| {
        Reply::Array(vec![Reply::Bulk(name), Reply::text(consumer.pending.to_string())])
    };
    let consumers = consumers.into_iter().filter(|(_, c)| c.pending > 0).map(row).collect();
    Ok(Reply::Array(vec![
        Reply::Integer(count),
        least.text(),
        greatest.text(),
        Reply::Array(consumers),
    ]))
}

struct ClaimOptions {
    just_ids: bool,
    force: bool,
    delivered_ms: u64,
    deliveries: Option<u64>,
    last_id: Option<Id>,
}

fn idle_min(a: &[Bytes], text: &'static str) -> Result<u64> {
    match parse_integer(a.at(4)?) {
        Some(ms) => Ok(u64::try_from(ms).unwrap_or(0)),
        None => error(text),
    }
}

pub(super) fn xclaim(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let (key, group_name, consumer_name) = (a.at(1)?, a.at(2)?, a.at(3)?);
    let (mut stream, mut group) = found_group(x, a)?;
    let idle_min_ms = idle_min(a, "ERR Invalid min-idle-time argument for XCLAIM")?;
    let now_ms = x.now_ms();
    let mut ids = Vec::new();
    let mut place = 5;
    while place < a.len() {
        match Id::parse(a.at(place)?, 0) {
            Ok(id) => ids.push(id),
            Err(_) if place > 5 => break,
            Err(stop) => return Err(stop),
        }
        place += 1;
    }
    let mut options = ClaimOptions {
        just_ids: false,
        force: false,
        delivered_ms: now_ms,
        deliveries: None,
        last_id: None,
    };
    while place < a.len() {
        let has_value = place + 1 < a.len();
        match a.word(place).as_str() {
            "FORCE" => options.force = true,
            "JUSTID" => options.just_ids = true,
            "IDLE" if has_value => {
                let Some(ms) = parse_integer(a.at(place + 1)?) else {
                    return error("ERR Invalid IDLE option argument for XCLAIM");
                };
                options.delivered_ms = now_ms.saturating_sub(u64::try_from(ms).unwrap_or(0));
                place += 1;
            }
            "TIME" if has_value => {
                let Some(ms) = parse_integer(a.at(place + 1)?) else {
                    return error("ERR Invalid TIME option argument for XCLAIM");
                };
                options.delivered_ms = u64::try_from(ms).unwrap_or(now_ms).min(now_ms);
                place += 1;
            }
            "RETRYCOUNT" if has_value => {
                let Some(count) = parse_integer(a.at(place + 1)?) else {
                    return error("ERR Invalid RETRYCOUNT option argument for XCLAIM");
                };
                options.deliveries = u64::try_from(count).ok();
                place += 1;
            }
            "LASTID" if has_value => {
                options.last_id = Some(Id::parse(a.at(place + 1)?, 0)?);
                place += 1;
            }
            _ => {
                let word = super::super::shortened(a.at(place)?, 128);
                return failure(format!("ERR Unrecognized XCLAIM option '{word}'"));
            }
        }
        place += 1;
    }
    if let Some(last_id) = options.last_id.filter(|id| *id > group.last_id) {
        group.last_id = last_id;
        stream.put_group(x, group_name, group);
    }
    stream.consumer_or_new(x, group_name, consumer_name)?;
    let mut claimed = Vec::new();
    for id in ids {
        let fields = stream.entry(x, id)?;
        let before = stream.pending(x, group_name, id)?;
        let Some(fields) = fields else {
            if before.is_some() {
                stream.acknowledge(x, group_name, id)?;
            }
            continue;
        };
        let is_idle = before
            .as_ref()
            .is_none_or(|before| now_ms.saturating_sub(before.delivered_ms) >= idle_min_ms);
        if (before.is_none() && !options.force) || !is_idle {
            continue;
        }
        let deliveries = before.as_ref().map_or(0, |before| before.deliveries);
        let pending = Pending {
            consumer: consumer_name.clone(),
            delivered_ms: options.delivered_ms,
            deliveries: options.deliveries.unwrap_or(deliveries + u64::from(!options.just_ids)),
        };
        stream.assign(x, group_name, id, &pending, before.as_ref())?;
        claimed.push(if options.just_ids { id.text() } else { entry_reply(id, fields) });
    }
    mark_active(x, &mut stream, group_name, consumer_name, !claimed.is_empty())?;
    x.save(key, stream.0)?;
    x.notify(Class::Stream, "xclaim", key);
    Ok(Reply::Array(claimed))
}

fn mark_active(
    x: &mut Exec<'_>,
    stream: &mut Stream,
    group: &[u8],
    name: &[u8],
    is_active: bool,
) -> Result<(), StoreError> {
    if is_active && let Some(mut consumer) = stream.consumer(x, group, name)? {
        consumer.active_ms = Some(x.now_ms());
        stream.put_consumer(x, group, name, consumer);
    }
    Ok(())
}

pub(super) fn xautoclaim(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let (key, group_name, consumer_name) = (a.at(1)?, a.at(2)?, a.at(3)?);
    let idle_min_ms = idle_min(a, "ERR Invalid min-idle-time argument for XAUTOCLAIM")?;
    let start = Id::bound(a.at(5)?, true)?;
    let (mut count, mut just_ids) = (100usize, false);
    let mut place = 6;
    while place < a.len() {
        match a.word(place).as_str() {
            "COUNT" if place + 1 < a.len() => {
                count = match parse_integer(a.at(place + 1)?) {
                    Some(count @ 1..=0xFFFF_FFFF) => count as usize,
                    _ => return error("ERR COUNT must be > 0"),
                };
                place += 1;
            }
            "JUSTID" => just_ids = true,
            _ => return error(SYNTAX),
        }
        place += 1;
    }
    let (mut stream, _) = found_group(x, a)?;
    let now_ms = x.now_ms();
    // Redis looks at ten times as many as it may claim.
    let attempts = count.saturating_mul(10);
    let mut seen = Vec::new();
    stream.pending_between(x, group_name, start, Id::MAX, &mut |id, pending| {
        seen.push((id, pending));
        if seen.len() > attempts { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    stream.consumer_or_new(x, group_name, consumer_name)?;
    let (mut claimed, mut deleted, mut next) = (Vec::new(), Vec::new(), Id::default());
    for (place, (id, before)) in seen.into_iter().enumerate() {
        if place >= attempts || claimed.len() + deleted.len() >= count {
            next = id;
            break;
        }
        let Some(fields) = stream.entry(x, id)? else {
            stream.acknowledge(x, group_name, id)?;
            deleted.push(id.text());
            continue;
        };
        if now_ms.saturating_sub(before.delivered_ms) < idle_min_ms {
            continue;
        }
        let pending = Pending {
            consumer: consumer_name.clone(),
            delivered_ms: now_ms,
            deliveries: before.deliveries + u64::from(!just_ids),
        };
        stream.assign(x, group_name, id, &pending, Some(&before))?;
        claimed.push(if just_ids { id.text() } else { entry_reply(id, fields) });
    }
    mark_active(x, &mut stream, group_name, consumer_name, !claimed.is_empty())?;
    x.save(key, stream.0)?;
    x.notify(Class::Stream, "xautoclaim", key);
    Ok(Reply::Array(vec![next.text(), Reply::Array(claimed), Reply::Array(deleted)]))
}
