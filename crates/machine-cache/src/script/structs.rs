//! The `struct` library: values as bytes by a format.

use mlua::{Lua, MultiValue, Table, Value, Variadic};

use super::convert::number_of;

/// Bytes of the widest integer.
const INTEGER_BYTES_MAX: usize = 32;

#[derive(Debug, Clone, Copy)]
enum Field {
    Integer {
        bytes: usize,
        is_signed: bool,
        is_little: bool,
    },
    Float {
        is_little: bool,
    },
    Double {
        is_little: bool,
    },
    Pad,
    /// Bytes of a fixed length; 0: all of the string, or as many as the value before says.
    Bytes(usize),
    /// Up to a zero.
    ZeroEnded,
}

fn wrong(text: impl Into<String>) -> mlua::Error {
    mlua::Error::runtime(text.into())
}

fn fields(format: &[u8]) -> mlua::Result<Vec<(Field, usize)>> {
    let (mut is_little, mut align) = (cfg!(target_endian = "little"), 1usize);
    let mut found = Vec::new();
    let mut at = 0;
    let number = |at: &mut usize, default: usize| {
        let start = *at;
        while format.get(*at).is_some_and(u8::is_ascii_digit) {
            *at += 1;
        }
        let digits = std::str::from_utf8(&format[start..*at]).unwrap_or_default();
        if digits.is_empty() { Some(default) } else { digits.parse().ok() }
    };
    while let Some(letter) = format.get(at) {
        at += 1;
        let integer = |bytes, is_signed| Field::Integer { bytes, is_signed, is_little };
        let field = match letter {
            b'>' => {
                is_little = false;
                continue;
            }
            b'<' => {
                is_little = true;
                continue;
            }
            b'=' => {
                is_little = cfg!(target_endian = "little");
                continue;
            }
            b'!' => {
                align = number(&mut at, 8)
                    .filter(|n| n.is_power_of_two())
                    .ok_or(wrong("alignment is not a power of 2"))?;
                continue;
            }
            b' ' => continue,
            b'b' => integer(1, true),
            b'B' => integer(1, false),
            b'h' => integer(2, true),
            b'H' => integer(2, false),
            b'l' | b'j' => integer(8, true),
            b'L' | b'J' | b'T' => integer(8, false),
            b'i' | b'I' => {
                let bytes = number(&mut at, 4).filter(|n| (1..=INTEGER_BYTES_MAX).contains(n));
                let bytes = bytes.ok_or(wrong("integral size out of limits [1,32]"))?;
                integer(bytes, *letter == b'i')
            }
            b'f' => Field::Float { is_little },
            b'd' | b'n' => Field::Double { is_little },
            b'x' => Field::Pad,
            b's' => Field::ZeroEnded,
            b'c' => Field::Bytes(number(&mut at, 1).ok_or(wrong("integral size overflow"))?),
            other => return Err(wrong(format!("invalid format option '{}'", *other as char))),
        };
        let size = match field {
            Field::Integer { bytes, .. } => bytes,
            Field::Float { .. } => 4,
            Field::Double { .. } => 8,
            _ => 1,
        };
        found.push((field, if size.is_power_of_two() { size.min(align) } else { 1 }));
    }
    Ok(found)
}

fn padding(at: usize, align: usize) -> usize {
    if align > 1 { at.next_multiple_of(align) - at } else { 0 }
}

fn ordered(mut bytes: Vec<u8>, is_little: bool) -> Vec<u8> {
    if !is_little {
        bytes.reverse();
    }
    bytes
}

fn pack(
    lua: &Lua,
    (format, values): (mlua::LuaString, Variadic<Value>),
) -> mlua::Result<mlua::LuaString> {
    let mut out: Vec<u8> = Vec::new();
    let mut values = values.iter();
    let mut next = || values.next().ok_or(wrong("bad argument: value expected"));
    for (field, align) in fields(&format.as_bytes())? {
        out.resize(out.len() + padding(out.len(), align), 0);
        match field {
            Field::Pad => out.push(0),
            Field::Integer { bytes, is_little, .. } => {
                let number = number_of(next()?).ok_or(wrong("number expected"))?;
                let number = if number < 0.0 { number as i64 as u64 } else { number as u64 };
                let fill = if (number as i64) < 0 { 0xFF } else { 0 };
                let mut parts = number.to_le_bytes().to_vec();
                parts.resize(bytes.max(8), fill);
                parts.truncate(bytes);
                out.extend(ordered(parts, is_little));
            }
            Field::Float { is_little } => {
                let number = number_of(next()?).ok_or(wrong("number expected"))? as f32;
                out.extend(ordered(number.to_le_bytes().to_vec(), is_little));
            }
            Field::Double { is_little } => {
                let number = number_of(next()?).ok_or(wrong("number expected"))?;
                out.extend(ordered(number.to_le_bytes().to_vec(), is_little));
            }
            Field::ZeroEnded | Field::Bytes(_) => {
                let text = super::convert::argument(next()?).ok_or(wrong("string expected"))?;
                match field {
                    Field::Bytes(length) if length > 0 => {
                        out.extend_from_slice(text.get(..length).ok_or(wrong("string too short"))?);
                    }
                    Field::Bytes(_) => out.extend_from_slice(&text),
                    _ => {
                        out.extend_from_slice(&text);
                        out.push(0);
                    }
                }
            }
        }
    }
    lua.create_string(out)
}

fn unpack(
    lua: &Lua,
    (format, text, start): (mlua::LuaString, mlua::LuaString, Option<f64>),
) -> mlua::Result<MultiValue> {
    let bytes = text.as_bytes().to_vec();
    let start = start.unwrap_or(1.0);
    if start < 1.0 {
        return Err(wrong("offset must be 1 or greater"));
    }
    let mut at = start as usize - 1;
    let mut found: Vec<Value> = Vec::new();
    let short = || wrong("data string too short");
    for (field, align) in fields(&format.as_bytes())? {
        at += padding(at, align);
        let take = |at: &mut usize, length: usize| {
            let end = at.checked_add(length).ok_or_else(short)?;
            let part = bytes.get(*at..end).ok_or_else(short)?;
            *at = end;
            Ok::<Vec<u8>, mlua::Error>(part.to_vec())
        };
        match field {
            Field::Pad => {
                take(&mut at, 1)?;
            }
            Field::Integer { bytes, is_signed, is_little } => {
                let mut parts = ordered(take(&mut at, bytes)?, is_little);
                let is_negative = is_signed && parts.last().is_some_and(|byte| byte & 0x80 != 0);
                parts.resize(parts.len().max(8), if is_negative { 0xFF } else { 0 });
                let raw = parts.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                found.push(Value::Number(if is_signed { raw as i64 as f64 } else { raw as f64 }));
            }
            Field::Float { is_little } => {
                let parts = ordered(take(&mut at, 4)?, is_little);
                let number = f32::from_le_bytes(parts.try_into().unwrap_or_default());
                found.push(Value::Number(number.into()));
            }
            Field::Double { is_little } => {
                let parts = ordered(take(&mut at, 8)?, is_little);
                found.push(Value::Number(f64::from_le_bytes(parts.try_into().unwrap_or_default())));
            }
            Field::Bytes(length) => {
                let length = if length > 0 {
                    length
                } else {
                    let before = found.pop().and_then(|value| value.as_f64());
                    before.ok_or(wrong("format 'c0' needs a previous size"))? as usize
                };
                let part = take(&mut at, length)?;
                found.push(Value::String(lua.create_string(part)?));
            }
            Field::ZeroEnded => {
                let rest = bytes.get(at..).ok_or_else(short)?;
                let length = rest.iter().position(|byte| *byte == 0);
                let length = length.ok_or(wrong("unfinished string in data"))?;
                found.push(Value::String(lua.create_string(&rest[..length])?));
                at += length + 1;
            }
        }
    }
    found.push(Value::Number(at as f64 + 1.0));
    Ok(MultiValue::from_vec(found))
}

fn size(_: &Lua, format: mlua::LuaString) -> mlua::Result<f64> {
    let mut total = 0usize;
    for (field, align) in fields(&format.as_bytes())? {
        total += padding(total, align);
        total = total.saturating_add(match field {
            Field::Pad => 1,
            Field::Integer { bytes, .. } => bytes,
            Field::Float { .. } => 4,
            Field::Double { .. } => 8,
            Field::Bytes(0) => return Err(wrong("variable-size format in 'size'")),
            Field::Bytes(length) => length,
            Field::ZeroEnded => return Err(wrong("variable-size format in 'size'")),
        });
    }
    Ok(total as f64)
}

pub(super) fn library(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.set("pack", lua.create_function(pack)?)?;
    table.set("unpack", lua.create_function(unpack)?)?;
    table.set("size", lua.create_function(size)?)?;
    Ok(table)
}
