//! The `cmsgpack` library.

use mlua::{Lua, MultiValue, Table, Value, Variadic};

/// Arrays and maps within each other: deeper ones become nil, as in Redis.
const DEPTH_MAX: usize = 16;

pub(super) fn library(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let pack = |lua: &Lua, values: Variadic<Value>| {
        if values.is_empty() {
            return Err(mlua::Error::runtime("MessagePack pack needs input."));
        }
        let mut out = Vec::new();
        for value in values.iter() {
            encode(value, &mut out, 0)?;
        }
        lua.create_string(out)
    };
    table.set("pack", lua.create_function(pack)?)?;
    let unpack = |lua: &Lua, text: mlua::LuaString| {
        let bytes = text.as_bytes().to_vec();
        let mut rest = &bytes[..];
        let mut values = MultiValue::new();
        while !rest.is_empty() {
            values.push_back(decode(lua, &mut rest, 0)?);
        }
        Ok(values)
    };
    table.set("unpack", lua.create_function(unpack)?)?;
    let limited = |lua: &Lua, text: &mlua::LuaString, limit: usize, offset: Option<usize>| {
        let bytes = text.as_bytes().to_vec();
        let Some(mut rest) = bytes.get(offset.unwrap_or(0)..) else {
            return Err(mlua::Error::runtime("Start offset greater than input length."));
        };
        let mut values = Vec::new();
        while !rest.is_empty() && values.len() < limit {
            values.push(decode(lua, &mut rest, 0)?);
        }
        let next = if rest.is_empty() { -1.0 } else { (bytes.len() - rest.len()) as f64 };
        let mut all = MultiValue::from_vec(values);
        all.push_front(Value::Number(next));
        Ok(all)
    };
    let one = move |lua: &Lua, (text, offset): (mlua::LuaString, Option<usize>)| {
        limited(lua, &text, 1, offset)
    };
    let several =
        move |lua: &Lua, (text, limit, offset): (mlua::LuaString, usize, Option<usize>)| {
            limited(lua, &text, limit, offset)
        };
    table.set("unpack_one", lua.create_function(one)?)?;
    table.set("unpack_limit", lua.create_function(several)?)?;
    Ok(table)
}

/// A head whose length fits in a small form, one byte, two or four.
fn head(out: &mut Vec<u8>, length: usize, small: Option<(u8, usize)>, forms: [u8; 3]) {
    match (small, length) {
        (Some((base, bound)), length) if length < bound => out.push(base | length as u8),
        (_, length) if length < 256 && forms[0] != 0 => {
            out.extend_from_slice(&[forms[0], length as u8])
        }
        (_, length) if length < 65536 => {
            out.push(forms[1]);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        (_, length) => {
            out.push(forms[2]);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
}

fn encode_integer(number: i64, out: &mut Vec<u8>) {
    match number {
        0..=127 => out.push(number as u8),
        -32..=-1 => out.push(number as i8 as u8),
        128..=255 => out.extend_from_slice(&[0xCC, number as u8]),
        256..=65_535 => {
            out.push(0xCD);
            out.extend_from_slice(&(number as u16).to_be_bytes());
        }
        65_536..=4_294_967_295 => {
            out.push(0xCE);
            out.extend_from_slice(&(number as u32).to_be_bytes());
        }
        4_294_967_296.. => {
            out.push(0xCF);
            out.extend_from_slice(&number.to_be_bytes());
        }
        -128..=-33 => out.extend_from_slice(&[0xD0, number as u8]),
        -32_768..=-129 => {
            out.push(0xD1);
            out.extend_from_slice(&(number as i16).to_be_bytes());
        }
        -2_147_483_648..=-32_769 => {
            out.push(0xD2);
            out.extend_from_slice(&(number as i32).to_be_bytes());
        }
        _ => {
            out.push(0xD3);
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
}

fn encode(value: &Value, out: &mut Vec<u8>, depth: usize) -> mlua::Result<()> {
    match value {
        Value::Boolean(is_true) => out.push(if *is_true { 0xC3 } else { 0xC2 }),
        Value::Integer(number) => encode_integer(*number, out),
        Value::Number(number) if number.trunc() == *number && number.abs() < 9.2e18 => {
            encode_integer(*number as i64, out);
        }
        Value::Number(number) if f64::from(*number as f32) == *number => {
            out.push(0xCA);
            out.extend_from_slice(&(*number as f32).to_be_bytes());
        }
        Value::Number(number) => {
            out.push(0xCB);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::String(text) => {
            head(out, text.as_bytes().len(), Some((0xA0, 32)), [0xD9, 0xDA, 0xDB]);
            out.extend_from_slice(&text.as_bytes());
        }
        Value::Table(table) if depth < DEPTH_MAX => encode_table(table, out, depth)?,
        _ => out.push(0xC0),
    }
    Ok(())
}

fn encode_table(table: &Table, out: &mut Vec<u8>, depth: usize) -> mlua::Result<()> {
    let mut pairs = Vec::new();
    let mut greatest = 0.0f64;
    let mut is_array = true;
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair?;
        match key.as_f64() {
            Some(index) if !key.is_string() && index >= 1.0 && index.trunc() == index => {
                greatest = greatest.max(index);
            }
            _ => is_array = false,
        }
        pairs.push((key, value));
    }
    if is_array && greatest as usize == pairs.len() {
        head(out, pairs.len(), Some((0x90, 16)), [0, 0xDC, 0xDD]);
        for at in 1..=pairs.len() {
            encode(&table.raw_get::<Value>(at)?, out, depth + 1)?;
        }
        return Ok(());
    }
    head(out, pairs.len(), Some((0x80, 16)), [0, 0xDE, 0xDF]);
    for (key, value) in &pairs {
        encode(key, out, depth + 1)?;
        encode(value, out, depth + 1)?;
    }
    Ok(())
}

fn bad() -> mlua::Error {
    mlua::Error::runtime("Bad data format in input.")
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> mlua::Result<&'a [u8]> {
    let (part, after) =
        rest.split_at_checked(length).ok_or(mlua::Error::runtime("Missing bytes in input."))?;
    *rest = after;
    Ok(part)
}

fn unsigned(rest: &mut &[u8], bytes: usize) -> mlua::Result<u64> {
    Ok(take(rest, bytes)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn decode(lua: &Lua, rest: &mut &[u8], depth: usize) -> mlua::Result<Value> {
    if depth > 128 {
        return Err(bad());
    }
    let kind = take(rest, 1)?[0];
    let number = |number: f64| Ok(Value::Number(number));
    let length = |rest: &mut &[u8], bytes: usize| {
        unsigned(rest, bytes).map(|length| usize::try_from(length).unwrap_or(usize::MAX))
    };
    match kind {
        0..=0x7F => number(f64::from(kind)),
        0xE0.. => number(f64::from(kind as i8)),
        0x80..=0x8F => map(lua, rest, usize::from(kind & 15), depth),
        0x90..=0x9F => array(lua, rest, usize::from(kind & 15), depth),
        0xA0..=0xBF => string(lua, rest, usize::from(kind & 31)),
        0xC0 => Ok(Value::Nil),
        0xC2 => Ok(Value::Boolean(false)),
        0xC3 => Ok(Value::Boolean(true)),
        0xC4 | 0xD9 => length(rest, 1).and_then(|length| string(lua, rest, length)),
        0xC5 | 0xDA => length(rest, 2).and_then(|length| string(lua, rest, length)),
        0xC6 | 0xDB => length(rest, 4).and_then(|length| string(lua, rest, length)),
        0xCA => number(f64::from(f32::from_bits(unsigned(rest, 4)? as u32))),
        0xCB => number(f64::from_bits(unsigned(rest, 8)?)),
        0xCC => number(unsigned(rest, 1)? as f64),
        0xCD => number(unsigned(rest, 2)? as f64),
        0xCE => number(unsigned(rest, 4)? as f64),
        0xCF => number(unsigned(rest, 8)? as f64),
        0xD0 => number(f64::from(unsigned(rest, 1)? as i8)),
        0xD1 => number(f64::from(unsigned(rest, 2)? as i16)),
        0xD2 => number(f64::from(unsigned(rest, 4)? as i32)),
        0xD3 => number(unsigned(rest, 8)? as i64 as f64),
        0xDC => length(rest, 2).and_then(|length| array(lua, rest, length, depth)),
        0xDD => length(rest, 4).and_then(|length| array(lua, rest, length, depth)),
        0xDE => length(rest, 2).and_then(|length| map(lua, rest, length, depth)),
        0xDF => length(rest, 4).and_then(|length| map(lua, rest, length, depth)),
        _ => Err(bad()),
    }
}

fn string(lua: &Lua, rest: &mut &[u8], length: usize) -> mlua::Result<Value> {
    lua.create_string(take(rest, length)?).map(Value::String)
}

fn array(lua: &Lua, rest: &mut &[u8], length: usize, depth: usize) -> mlua::Result<Value> {
    let table = lua.create_table()?;
    for at in 1..=length {
        table.raw_set(at, decode(lua, rest, depth + 1)?)?;
    }
    Ok(Value::Table(table))
}

fn map(lua: &Lua, rest: &mut &[u8], length: usize, depth: usize) -> mlua::Result<Value> {
    let table = lua.create_table()?;
    for _ in 0..length {
        let key = decode(lua, rest, depth + 1)?;
        let value = decode(lua, rest, depth + 1)?;
        if key.is_nil() {
            return Err(bad());
        }
        table.raw_set(key, value)?;
    }
    Ok(Value::Table(table))
}
