//! XINFO.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::groups::{Consumer, Group};
use super::{
    Arguments, Exec, Id, NODE_ENTRIES, Reply, Result, SYNTAX, Stream, entry_reply, error, failure,
    unknown_subcommand, wrong_arity,
};

const HELP: &[&str] = &[
    "XINFO <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CONSUMERS <key> <groupname>",
    "    Show consumers of <groupname>.",
    "GROUPS <key>",
    "    Show the stream consumer groups.",
    "STREAM <key> [FULL [COUNT <count>]",
    "    Show information about the stream.",
    "HELP",
    "    Print this help.",
];

fn number(number: u64) -> Reply {
    Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

fn pair(name: &'static str, value: Reply) -> (Reply, Reply) {
    (Reply::text(name), value)
}

pub(super) fn xinfo(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let word = a.word(1);
    let fits = match word.as_str() {
        "HELP" => a.len() == 2,
        "STREAM" => a.len() >= 3,
        "GROUPS" => a.len() == 3,
        "CONSUMERS" => a.len() == 4,
        _ => return unknown_subcommand("XINFO", a.at(1)?),
    };
    if !fits {
        return wrong_arity(&format!("xinfo|{}", word.to_lowercase()));
    }
    if word == "HELP" {
        return Ok(Reply::Array(HELP.iter().map(|line| Reply::status(line)).collect()));
    }
    let Some(stream) = Stream::find(x, a.at(2)?)? else { return error(crate::exec::NO_SUCH_KEY) };
    match word.as_str() {
        "GROUPS" => groups(x, &stream),
        "CONSUMERS" => consumers(x, &stream, a),
        _ => stream_info(x, &stream, a),
    }
}

fn lag(x: &Exec<'_>, stream: &Stream, group: &Group) -> Result<Reply> {
    let added = stream.entries_added();
    if added == 0 {
        return Ok(Reply::ZERO);
    }
    let (first, max_deleted) = (stream.first_id(x)?, stream.max_deleted_id());
    if stream.0.count > 0 && group.last_id < first && max_deleted < first {
        // All that there is; a counter that was set by hand may be ahead.
        return Ok(number(stream.0.count));
    }
    let read = match group.entries_read {
        Some(read) if !stream.has_tombstones_from(group.last_id) => Some(read),
        _ => stream.distance(x, group.last_id)?,
    };
    // A counter that was set by hand may be ahead.
    let behind = |read: u64| Reply::Integer(added.wrapping_sub(read).cast_signed());
    Ok(read.map_or(Reply::Nil, behind))
}

fn pending_count(consumers: &[(Bytes, Consumer)]) -> u64 {
    consumers.iter().map(|(_, consumer)| consumer.pending).sum()
}

fn groups(x: &Exec<'_>, stream: &Stream) -> Result {
    let mut rows = Vec::new();
    for (name, group) in stream.groups(x)? {
        let consumers = stream.consumers(x, &name)?;
        rows.push(Reply::Map(vec![
            pair("name", Reply::Bulk(name)),
            pair("consumers", Reply::count(consumers.len())),
            pair("pending", number(pending_count(&consumers))),
            pair("last-delivered-id", group.last_id.text()),
            pair("entries-read", group.entries_read.map_or(Reply::Nil, number)),
            pair("lag", lag(x, stream, &group)?),
        ]));
    }
    Ok(Reply::Array(rows))
}

fn consumers(x: &Exec<'_>, stream: &Stream, a: &[Bytes]) -> Result {
    let (key, group) = (a.at(2)?, a.at(3)?);
    if stream.group(x, group)?.is_none() {
        let (key, group) = (super::super::shortened(key, 128), super::super::shortened(group, 128));
        return failure(format!("NOGROUP No such consumer group '{group}' for key name '{key}'"));
    }
    let now_ms = x.now_ms();
    let row = |(name, consumer): (Bytes, Consumer)| {
        let inactive = match consumer.active_ms {
            None => Reply::Integer(-1),
            Some(ms) => number(now_ms.saturating_sub(ms)),
        };
        Reply::Map(vec![
            pair("name", Reply::Bulk(name)),
            pair("pending", number(consumer.pending)),
            pair("idle", number(now_ms.saturating_sub(consumer.seen_ms))),
            pair("inactive", inactive),
        ])
    };
    Ok(Reply::Array(stream.consumers(x, group)?.into_iter().map(row).collect()))
}

fn stream_info(x: &Exec<'_>, stream: &Stream, a: &[Bytes]) -> Result {
    let is_full = a.len() > 3;
    let mut count = 10usize;
    if is_full {
        match (a.is(3, "full"), a.len()) {
            (true, 4) => {}
            (true, 6) if a.is(4, "count") => {
                count = match a.integer(5)? {
                    0 => usize::MAX,
                    number => usize::try_from(number).unwrap_or(10),
                };
            }
            _ => return error(SYNTAX),
        }
    }
    let nodes = stream.0.count.div_ceil(NODE_ENTRIES);
    let mut rows = vec![
        pair("length", number(stream.0.count)),
        pair("radix-tree-keys", number(nodes)),
        pair("radix-tree-nodes", number(nodes + 1)),
        pair("last-generated-id", stream.last_id().text()),
        pair("max-deleted-entry-id", stream.max_deleted_id().text()),
        pair("entries-added", number(stream.entries_added())),
        pair("recorded-first-entry-id", stream.first_id(x)?.text()),
    ];
    if is_full {
        let entries = stream.range(x, Id::default(), Id::MAX, false, count)?;
        let entries = entries.into_iter().map(|(id, fields)| entry_reply(id, fields)).collect();
        rows.push(pair("entries", Reply::Array(entries)));
        let mut groups = Vec::new();
        for (name, group) in stream.groups(x)? {
            groups.push(full_group(x, stream, name, &group, count)?);
        }
        rows.push(pair("groups", Reply::Array(groups)));
        return Ok(Reply::Map(rows));
    }
    rows.push(pair("groups", Reply::count(stream.groups(x)?.len())));
    for (name, is_reverse) in [("first-entry", false), ("last-entry", true)] {
        let found = stream.range(x, Id::default(), Id::MAX, is_reverse, 1)?;
        let entry = found.into_iter().next().map(|(id, fields)| entry_reply(id, fields));
        rows.push(pair(name, entry.unwrap_or(Reply::Nil)));
    }
    Ok(Reply::Map(rows))
}

fn full_group(
    x: &Exec<'_>,
    stream: &Stream,
    name: Bytes,
    group: &Group,
    count: usize,
) -> Result<Reply> {
    let consumers = stream.consumers(x, &name)?;
    let (mut pel, mut owned) = (Vec::new(), Vec::new());
    stream.pending_between(x, &name, Id::default(), Id::MAX, &mut |id, pending| {
        let (delivered, deliveries) = (number(pending.delivered_ms), number(pending.deliveries));
        if pel.len() < count {
            pel.push(Reply::Array(vec![
                id.text(),
                Reply::Bulk(pending.consumer.clone()),
                delivered.clone(),
                deliveries.clone(),
            ]));
        }
        owned.push((pending.consumer, Reply::Array(vec![id.text(), delivered, deliveries])));
        ControlFlow::Continue(())
    })?;
    let row = |(consumer_name, consumer): &(Bytes, Consumer)| {
        let own = owned.iter().filter(|(owner, _)| owner == consumer_name);
        let active = consumer.active_ms.map_or(Reply::Integer(-1), number);
        Reply::Map(vec![
            pair("name", Reply::Bulk(consumer_name.clone())),
            pair("seen-time", number(consumer.seen_ms)),
            pair("active-time", active),
            pair("pel-count", number(consumer.pending)),
            pair("pel", Reply::Array(own.take(count).map(|(_, row)| row.clone()).collect())),
        ])
    };
    Ok(Reply::Map(vec![
        pair("name", Reply::Bulk(name)),
        pair("last-delivered-id", group.last_id.text()),
        pair("entries-read", group.entries_read.map_or(Reply::Nil, number)),
        pair("lag", lag(x, stream, group)?),
        pair("pel-count", number(pending_count(&consumers))),
        pair("pel", Reply::Array(pel)),
        pair("consumers", Reply::Array(consumers.iter().map(row).collect())),
    ]))
}
