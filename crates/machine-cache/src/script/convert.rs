//! Replies as values of Lua and back, by Redis' rules.

use bytes::Bytes;
use mlua::{Lua, Table, Value};

use crate::exec::{Result, error};
use crate::number::{decimal_float_text, float_text, parse_float};
use crate::reply::Reply;

/// Tables within tables that a reply may have.
const DEPTH_MAX: usize = 128;

/// A command's argument: a string, or a number as text.
pub(super) fn argument(value: &Value) -> Option<Bytes> {
    match value {
        Value::String(text) => Some(Bytes::copy_from_slice(&text.as_bytes())),
        Value::Integer(number) => Some(Bytes::from(number.to_string())),
        Value::Number(number) => Some(Bytes::from(number_text(*number))),
        _ => None,
    }
}

/// A number as C's `%.17g` writes it.
fn number_text(number: f64) -> String {
    if number.trunc() == number && number.abs() < 1e17 {
        return (number as i64).to_string();
    }
    if !number.is_finite() {
        return float_text(number);
    }
    let scientific = format!("{number:.16e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-5..17).contains(&exponent) {
        let digits = usize::try_from(16 - exponent).unwrap_or(0);
        let plain = format!("{number:.digits$}");
        return if plain.contains('.') {
            plain.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            plain
        };
    }
    let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

pub(super) fn to_lua(lua: &Lua, reply: Reply, is_resp3: bool) -> mlua::Result<Value> {
    let string = |bytes: &[u8]| lua.create_string(bytes).map(Value::String);
    let one = |name: &str, value: Value| -> mlua::Result<Value> {
        let table = lua.create_table()?;
        table.raw_set(name, value)?;
        Ok(Value::Table(table))
    };
    let nothing = if is_resp3 { Value::Nil } else { Value::Boolean(false) };
    match reply {
        Reply::Status(text) => one("ok", string(text.as_bytes())?),
        Reply::Error(text) => one("err", string(text.as_bytes())?),
        Reply::Integer(number) => Ok(Value::Number(number as f64)),
        Reply::Bulk(bytes) => string(&bytes),
        Reply::Double(number) if is_resp3 => one("double", Value::Number(number)),
        Reply::Decimal(number) if is_resp3 => one("double", Value::Number(number)),
        Reply::Decimal(number) => string(decimal_float_text(number).as_bytes()),
        Reply::Double(number) => string(float_text(number).as_bytes()),
        Reply::Boolean(is_true) if is_resp3 => Ok(Value::Boolean(is_true)),
        Reply::Boolean(is_true) => Ok(Value::Number(f64::from(u8::from(is_true)))),
        Reply::BigNumber(text) if is_resp3 => one("big_number", string(&text)?),
        Reply::Verbatim(format, text) if is_resp3 => {
            let table = lua.create_table()?;
            table.raw_set("string", string(&text)?)?;
            table.raw_set("format", format)?;
            one("verbatim_string", Value::Table(table))
        }
        Reply::BigNumber(text) | Reply::Verbatim(_, text) => string(&text),
        Reply::Nil | Reply::NilArray | Reply::Blocked => Ok(nothing),
        Reply::Array(items) => sequence(lua, items, is_resp3),
        Reply::Set(items) if is_resp3 => {
            let set = lua.create_table()?;
            for item in items {
                set.raw_set(to_lua(lua, item, true)?, true)?;
            }
            one("set", Value::Table(set))
        }
        Reply::Set(items) => sequence(lua, items, false),
        Reply::Map(pairs) if !is_resp3 => {
            sequence(lua, pairs.into_iter().flat_map(|(a, b)| [a, b]).collect(), false)
        }
        Reply::Pairs(pairs) if !is_resp3 => {
            sequence(lua, pairs.into_iter().flat_map(|(a, b)| [a, b]).collect(), false)
        }
        Reply::PairedMap(pairs) if !is_resp3 => nested(lua, pairs, false),
        Reply::Pairs(pairs) => nested(lua, pairs, true),
        Reply::Map(pairs) | Reply::PairedMap(pairs) => {
            let map = lua.create_table()?;
            for (key, value) in pairs {
                map.raw_set(to_lua(lua, key, true)?, to_lua(lua, value, true)?)?;
            }
            one("map", Value::Table(map))
        }
    }
}

fn sequence(lua: &Lua, items: Vec<Reply>, is_resp3: bool) -> mlua::Result<Value> {
    let table = lua.create_table_with_capacity(items.len(), 0)?;
    for (at, item) in items.into_iter().enumerate() {
        table.raw_set(at + 1, to_lua(lua, item, is_resp3)?)?;
    }
    Ok(Value::Table(table))
}

fn nested(lua: &Lua, pairs: Vec<(Reply, Reply)>, is_resp3: bool) -> mlua::Result<Value> {
    let items = pairs.into_iter().map(|(a, b)| Reply::Array(vec![a, b])).collect();
    sequence(lua, items, is_resp3)
}

/// What a script returns, as a reply.
pub(super) fn to_reply(value: Value, is_resp3: bool, depth: usize) -> Result {
    if depth > DEPTH_MAX {
        return error("ERR reached lua stack limit");
    }
    Ok(match value {
        Value::String(text) => Reply::Bulk(Bytes::copy_from_slice(&text.as_bytes())),
        Value::Integer(number) => Reply::Integer(number),
        Value::Number(number) => Reply::Integer(number as i64),
        Value::Boolean(is_true) if is_resp3 => Reply::Boolean(is_true),
        Value::Boolean(true) => Reply::Integer(1),
        Value::Table(table) => table_reply(&table, is_resp3, depth)?,
        _ => Reply::Nil,
    })
}

fn text_of(table: &Table, name: &str) -> Option<Vec<u8>> {
    let text = table.raw_get::<Value>(name).ok()?;
    text.as_string().map(|text| text.as_bytes().to_vec())
}

fn table_reply(table: &Table, is_resp3: bool, depth: usize) -> Result {
    if let Some(text) = text_of(table, "err") {
        let text = String::from_utf8_lossy(&text).into_owned();
        return Ok(Reply::Error(text.trim_start_matches('-').to_owned().into()));
    }
    if let Some(text) = text_of(table, "ok") {
        return Ok(Reply::Status(String::from_utf8_lossy(&text).into_owned().into()));
    }
    if let Ok(number) = table.raw_get::<Value>("double")
        && let Some(number) = number.as_f64()
    {
        return Ok(Reply::Double(number));
    }
    if let Some(text) = text_of(table, "big_number") {
        return Ok(Reply::BigNumber(Bytes::from(text)));
    }
    if let Ok(Value::Table(verbatim)) = table.raw_get::<Value>("verbatim_string")
        && let Some(text) = text_of(&verbatim, "string")
    {
        let is_markdown = text_of(&verbatim, "format").as_deref() == Some(b"mkd");
        return Ok(Reply::Verbatim(if is_markdown { "mkd" } else { "txt" }, Bytes::from(text)));
    }
    if let Ok(Value::Table(map)) = table.raw_get::<Value>("map") {
        let mut pairs = Vec::new();
        for (key, value) in in_order(&map) {
            pairs
                .push((to_reply(key, is_resp3, depth + 1)?, to_reply(value, is_resp3, depth + 1)?));
        }
        return Ok(Reply::Map(pairs));
    }
    if let Ok(Value::Table(set)) = table.raw_get::<Value>("set") {
        let mut members = Vec::new();
        for (key, _) in in_order(&set) {
            members.push(to_reply(key, is_resp3, depth + 1)?);
        }
        return Ok(Reply::Set(members));
    }
    let mut items = Vec::new();
    loop {
        let item = table.raw_get::<Value>(items.len() + 1).unwrap_or(Value::Nil);
        if item.is_nil() {
            return Ok(Reply::Array(items));
        }
        items.push(to_reply(item, is_resp3, depth + 1)?);
    }
}

/// Keys and values in the order of the keys' texts: their order in the table tells nothing.
fn in_order(table: &Table) -> Vec<(Value, Value)> {
    let mut pairs: Vec<(Vec<u8>, Value, Value)> = table
        .pairs::<Value, Value>()
        .flatten()
        .map(|(key, value)| (argument(&key).unwrap_or_default().to_vec(), key, value))
        .collect();
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    pairs.into_iter().map(|(_, key, value)| (key, value)).collect()
}

/// A number or the text of one.
pub(super) fn number_of(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Number(number) => Some(*number),
        Value::String(text) => parse_float(&text.as_bytes()),
        _ => None,
    }
}
