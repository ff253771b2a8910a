//! The `cjson` library.

use bytes::Bytes;
use mlua::{Lua, Table, Value};

/// Arrays and objects within each other: fewer than in Redis, since each takes a frame of the thread's
/// stack, on which the whole replica depends.
const DEPTH_MAX: usize = 256;

pub(super) fn library(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let encode_value = |lua: &Lua, value: Value| {
        let mut out = Vec::new();
        encode(&value, &mut out, 0)?;
        lua.create_string(out)
    };
    let decode_text = |lua: &Lua, text: mlua::LuaString| {
        let text = Bytes::copy_from_slice(&text.as_bytes());
        let mut reader = Reader { lua, text: &text, at: 0 };
        let value = reader.value(0)?;
        reader.skip_space();
        if reader.at < text.len() { Err(reader.unexpected("the end")) } else { Ok(value) }
    };
    table.set("encode", lua.create_function(encode_value)?)?;
    table.set("decode", lua.create_function(decode_text)?)?;
    table.set("null", Value::NULL)?;
    // Settings belong to the interpreter, which runs share: they are accepted where they change nothing.
    for name in [
        "encode_sparse_array",
        "encode_max_depth",
        "decode_max_depth",
        "encode_number_precision",
        "encode_keep_buffer",
        "encode_invalid_numbers",
        "decode_invalid_numbers",
        "decode_array_with_array_mt",
    ] {
        table.set(name, lua.create_function(|_, value: Value| Ok(value))?)?;
    }
    Ok(table)
}

/// A number as C's `%.14g` writes it.
fn number_text(number: f64) -> String {
    if number == number.trunc() && number.abs() < 1e14 {
        return if number == 0.0 && number.is_sign_negative() {
            "-0".to_owned()
        } else {
            (number as i64).to_string()
        };
    }
    let scientific = format!("{number:.13e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-5..14).contains(&exponent) {
        let digits = usize::try_from(13 - exponent).unwrap_or(0);
        let plain = format!("{number:.digits$}");
        return plain.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// The length of a table that is an array; `None` for one that is not.
fn array_length(table: &Table) -> mlua::Result<Option<usize>> {
    let (mut greatest, mut count) = (0usize, 0usize);
    for pair in table.pairs::<Value, Value>() {
        let (key, _) = pair?;
        let index = match key {
            Value::Integer(index) if index > 0 => index as f64,
            Value::Number(index) if index > 0.0 && index == index.trunc() => index,
            _ => return Ok(None),
        };
        greatest = greatest.max(index as usize);
        count += 1;
    }
    if greatest > 10 && greatest > count.saturating_mul(2) {
        return Err(mlua::Error::runtime("Cannot serialise table: excessively sparse array"));
    }
    Ok((count > 0).then_some(greatest))
}

fn encode(value: &Value, out: &mut Vec<u8>, depth: usize) -> mlua::Result<()> {
    if depth > DEPTH_MAX {
        return Err(mlua::Error::runtime(format!("Cannot serialise, excessive depth ({depth})")));
    }
    match value {
        Value::Nil => out.extend_from_slice(b"null"),
        Value::LightUserData(pointer) if pointer.0.is_null() => out.extend_from_slice(b"null"),
        Value::Boolean(true) => out.extend_from_slice(b"true"),
        Value::Boolean(false) => out.extend_from_slice(b"false"),
        Value::Integer(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Value::Number(number) if !number.is_finite() => {
            return Err(mlua::Error::runtime("Cannot serialise number: must not be NaN or Inf"));
        }
        Value::Number(number) => out.extend_from_slice(number_text(*number).as_bytes()),
        Value::String(text) => encode_text(&text.as_bytes(), out),
        Value::Table(table) => match array_length(table)? {
            Some(length) => {
                out.push(b'[');
                for at in 1..=length {
                    if at > 1 {
                        out.push(b',');
                    }
                    encode(&table.raw_get::<Value>(at)?, out, depth + 1)?;
                }
                out.push(b']');
            }
            None => encode_object(table, out, depth)?,
        },
        other => {
            return Err(mlua::Error::runtime(format!(
                "Cannot serialise {}: type not supported",
                other.type_name()
            )));
        }
    }
    Ok(())
}

fn encode_object(table: &Table, out: &mut Vec<u8>, depth: usize) -> mlua::Result<()> {
    out.push(b'{');
    let mut is_first = true;
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair?;
        if !is_first {
            out.push(b',');
        }
        is_first = false;
        match &key {
            Value::String(text) => encode_text(&text.as_bytes(), out),
            Value::Integer(number) => encode_text(number.to_string().as_bytes(), out),
            Value::Number(number) => encode_text(number_text(*number).as_bytes(), out),
            _ => {
                return Err(mlua::Error::runtime(
                    "Cannot serialise table: table key must be a number or string",
                ));
            }
        }
        out.push(b':');
        encode(&value, out, depth + 1)?;
    }
    out.push(b'}');
    Ok(())
}

fn encode_text(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'/' => out.extend_from_slice(b"\\/"),
            8 => out.extend_from_slice(b"\\b"),
            12 => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 | 0x7F => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            byte => out.push(*byte),
        }
    }
    out.push(b'"');
}

struct Reader<'a> {
    lua: &'a Lua,
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn unexpected(&self, wanted: &str) -> mlua::Error {
        mlua::Error::runtime(format!(
            "Expected {wanted} but found invalid token at character {}",
            self.at + 1
        ))
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn word(&mut self, word: &str, value: Value) -> mlua::Result<Value> {
        if self.text.get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes())) {
            self.at += word.len();
            Ok(value)
        } else {
            Err(self.unexpected("value"))
        }
    }

    fn value(&mut self, depth: usize) -> mlua::Result<Value> {
        if depth > DEPTH_MAX {
            return Err(mlua::Error::runtime(format!(
                "Found too many nested data structures ({depth})"
            )));
        }
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => {
                let text = self.string()?;
                Ok(Value::String(self.lua.create_string(text)?))
            }
            Some(b't') => self.word("true", Value::Boolean(true)),
            Some(b'f') => self.word("false", Value::Boolean(false)),
            Some(b'n') => self.word("null", Value::NULL),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.unexpected("value")),
        }
    }

    fn number(&mut self) -> mlua::Result<Value> {
        let start = self.at;
        while matches!(self.peek(), Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
            self.at += 1;
        }
        let text = std::str::from_utf8(&self.text[start..self.at]).unwrap_or_default();
        text.parse().map(Value::Number).map_err(|_| {
            self.at = start;
            self.unexpected("value")
        })
    }

    fn array(&mut self, depth: usize) -> mlua::Result<Value> {
        self.at += 1;
        let table = self.lua.create_table()?;
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Table(table));
        }
        for index in 1.. {
            let value = self.value(depth + 1)?;
            table.raw_set(index, value)?;
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.unexpected("comma or array end")),
            }
        }
        self.at += 1;
        Ok(Value::Table(table))
    }

    fn object(&mut self, depth: usize) -> mlua::Result<Value> {
        self.at += 1;
        let table = self.lua.create_table()?;
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Table(table));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("object key string"));
            }
            let key = self.string()?;
            self.skip_space();
            if self.peek() != Some(b':') {
                return Err(self.unexpected("colon"));
            }
            self.at += 1;
            let value = self.value(depth + 1)?;
            table.raw_set(self.lua.create_string(key)?, value)?;
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.unexpected("comma or object end")),
            }
        }
        self.at += 1;
        Ok(Value::Table(table))
    }

    fn code_unit(&mut self) -> mlua::Result<u32> {
        let digits =
            self.text.get(self.at..self.at + 4).and_then(|text| std::str::from_utf8(text).ok());
        let unit = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        self.at += 4;
        unit.ok_or_else(|| self.unexpected("unicode escape"))
    }

    fn string(&mut self) -> mlua::Result<Vec<u8>> {
        self.at += 1;
        let mut out = Vec::new();
        loop {
            let Some(byte) = self.peek() else { return Err(self.unexpected("string end")) };
            self.at += 1;
            match byte {
                b'"' => return Ok(out),
                b'\\' => {
                    let Some(escaped) = self.peek() else { return Err(self.unexpected("escape")) };
                    self.at += 1;
                    match escaped {
                        b'n' => out.push(b'\n'),
                        b'r' => out.push(b'\r'),
                        b't' => out.push(b'\t'),
                        b'b' => out.push(8),
                        b'f' => out.push(12),
                        b'"' | b'\\' | b'/' => out.push(escaped),
                        b'u' => {
                            let mut unit = self.code_unit()?;
                            if (0xD800..0xDC00).contains(&unit) {
                                if self.text.get(self.at..self.at + 2) != Some(b"\\u") {
                                    return Err(self.unexpected("unicode escape"));
                                }
                                self.at += 2;
                                let low = self.code_unit()?;
                                unit = 0x10000
                                    + ((unit - 0xD800) << 10)
                                    + (low.wrapping_sub(0xDC00) & 0x3FF);
                            }
                            let Some(letter) = char::from_u32(unit) else {
                                return Err(self.unexpected("unicode escape"));
                            };
                            out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                        }
                        _ => return Err(self.unexpected("escape")),
                    }
                }
                0..0x20 => return Err(self.unexpected("string")),
                byte => out.push(byte),
            }
        }
    }
}
