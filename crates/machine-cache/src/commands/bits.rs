//! Bitmaps and bit fields: strings bit by bit, the most significant first.

use bytes::Bytes;

use super::strings::rewrite;
use super::{
    Arguments, Command, Group, Keys, ONE, READ, READ_FAST, WRITE, WRITE_FAST, command, failure,
};
use crate::exec::{Exec, NOT_AN_INTEGER, Result, SYNTAX, error};
use crate::number::parse_integer;
use crate::reply::Reply;
use crate::{Class, STRING_BYTES_MAX};

const G: Group = Group::Bitmap;

pub(super) const TABLE: &[Command] = &[
    command("bitcount", -2, READ, ONE, G, bitcount),
    command("bitfield", -2, WRITE, ONE, G, |x, a| bitfield(x, a, false)),
    command("bitfield_ro", -2, READ_FAST, ONE, G, |x, a| bitfield(x, a, true)),
    command("bitop", -4, WRITE, Keys::Range(2, -1, 1), G, bitop),
    command("bitpos", -3, READ, ONE, G, bitpos),
    command("getbit", 3, READ_FAST, ONE, G, getbit),
    command("setbit", 4, WRITE_FAST, ONE, G, setbit),
];

const OFFSET_ERROR: &str = "ERR bit offset is not an integer or out of range";

fn bit_offset(argument: &[u8], width: Option<u64>) -> Result<u64> {
    let (digits, factor) = match (argument, width) {
        ([b'#', rest @ ..], Some(width)) => (rest, width),
        (digits, _) => (digits, 1),
    };
    let offset = parse_integer(digits)
        .and_then(|offset| u64::try_from(offset).ok())
        .and_then(|offset| offset.checked_mul(factor))
        .filter(|offset| offset / 8 < STRING_BYTES_MAX as u64);
    match offset {
        Some(offset) => Ok(offset),
        None => error(OFFSET_ERROR),
    }
}

fn bit(bytes: &[u8], offset: u64) -> bool {
    let byte = usize::try_from(offset / 8).ok().and_then(|at| bytes.get(at)).copied().unwrap_or(0);
    byte >> (7 - offset % 8) & 1 == 1
}

fn getbit(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let offset = bit_offset(a.at(2)?, None)?;
    let value = x.string(a.at(1)?)?.unwrap_or_default();
    Ok(Reply::Integer(i64::from(bit(&value, offset))))
}

fn setbit(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let offset = bit_offset(a.at(2)?, None)?;
    let on = match parse_integer(a.at(3)?) {
        Some(0) => false,
        Some(1) => true,
        _ => return error("ERR bit is not an integer or out of range"),
    };
    let key = a.at(1)?;
    let before = x.before(key)?;
    let mut value = before.string()?.unwrap_or_default().to_vec();
    let at = (offset / 8) as usize;
    if value.len() <= at {
        value.resize(at + 1, 0);
    }
    let was = bit(&value, offset);
    let mask = 1 << (7 - offset % 8);
    if on {
        value[at] |= mask
    } else {
        value[at] &= !mask
    }
    rewrite(x, key, &before, &value, "setbit")?;
    Ok(Reply::Integer(i64::from(was)))
}

/// A range of bits, first and last, from the arguments; `None` if it is empty. The unit is the byte
/// unless BIT says otherwise.
fn bit_range(a: &[Bytes], at: usize, bytes: usize) -> Result<Option<(u64, u64)>> {
    let is_bits = match a.word(at + 2).as_str() {
        "" | "BYTE" => false,
        "BIT" => true,
        _ => return error(SYNTAX),
    };
    let total = (bytes as i64).saturating_mul(if is_bits { 8 } else { 1 });
    let first = a.integer(at)?;
    let last = if a.len() > at + 1 { a.integer(at + 1)? } else { -1 };
    if first < 0 && last < 0 && first > last {
        return Ok(None);
    }
    let place = |place: i64| if place < 0 { place.saturating_add(total).max(0) } else { place };
    let (first, last) = (place(first), place(last).min(total - 1));
    if first > last {
        return Ok(None);
    }
    let (first, last) = (first.unsigned_abs(), last.unsigned_abs());
    Ok(Some(if is_bits { (first, last) } else { (first * 8, last * 8 + 7) }))
}

fn bitcount(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    if a.len() == 3 || a.len() > 5 {
        return error(SYNTAX);
    }
    if a.len() > 2 {
        // Wrong numbers are told even where there is no key.
        bit_range(a, 2, 0)?;
    }
    let value = x.string(a.at(1)?)?.unwrap_or_default();
    let range = if a.len() > 2 {
        bit_range(a, 2, value.len())?
    } else {
        (!value.is_empty()).then(|| (0, value.len() as u64 * 8 - 1))
    };
    let Some((first, last)) = range else { return Ok(Reply::ZERO) };
    let whole = value.get((first / 8) as usize..=(last / 8) as usize).unwrap_or_default();
    let mut count: i64 = whole.iter().map(|byte| i64::from(byte.count_ones())).sum();
    count -= (first / 8 * 8..first).filter(|at| bit(&value, *at)).count() as i64;
    count -= (last + 1..(last / 8 + 1) * 8).filter(|at| bit(&value, *at)).count() as i64;
    Ok(Reply::Integer(count))
}

fn bitpos(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let wanted = match parse_integer(a.at(2)?) {
        Some(0) => false,
        Some(1) => true,
        Some(_) => return error("ERR The bit argument must be 1 or 0."),
        None => return error(NOT_AN_INTEGER),
    };
    if a.len() > 6 {
        return error(SYNTAX);
    }
    if a.len() > 3 {
        bit_range(a, 3, 0)?;
    }
    let Some(value) = x.string(a.at(1)?)? else {
        return Ok(Reply::Integer(if wanted { -1 } else { 0 }));
    };
    let has_end = a.len() > 4;
    let range = if a.len() > 3 {
        bit_range(a, 3, value.len())?
    } else {
        (!value.is_empty()).then(|| (0, value.len() as u64 * 8 - 1))
    };
    let Some((first, last)) = range else { return Ok(Reply::Integer(-1)) };
    let skipped = if wanted { 0x00 } else { 0xFF };
    let mut at = first;
    while at <= last {
        if at % 8 == 0 && value.get((at / 8) as usize) == Some(&skipped) {
            at += 8;
            continue;
        }
        if bit(&value, at) == wanted {
            return Ok(Reply::Integer(i64::try_from(at).unwrap_or(i64::MAX)));
        }
        at += 1;
    }
    // Behind a string without a given end there are zeros.
    Ok(Reply::Integer(if wanted || has_end { -1 } else { value.len() as i64 * 8 }))
}

fn bitop(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let how = a.word(1);
    if !matches!(how.as_str(), "AND" | "OR" | "XOR" | "NOT") {
        return error(SYNTAX);
    }
    if how == "NOT" && a.len() != 4 {
        return error("ERR BITOP NOT must be called with a single source key.");
    }
    let mut inputs = Vec::new();
    for key in a.from(3) {
        inputs.push(x.string(key)?.unwrap_or_default());
    }
    let length = inputs.iter().map(Bytes::len).max().unwrap_or(0);
    let mut result = vec![0u8; length];
    for (at, byte) in result.iter_mut().enumerate() {
        let mut parts = inputs.iter().map(|input| input.get(at).copied().unwrap_or(0));
        let first = parts.next().unwrap_or(0);
        *byte = match how.as_str() {
            "AND" => parts.fold(first, |a, b| a & b),
            "OR" => parts.fold(first, |a, b| a | b),
            "XOR" => parts.fold(first, |a, b| a ^ b),
            _ => !first,
        };
    }
    let key = a.at(2)?;
    let before = x.before(key)?;
    if length == 0 {
        if x.remove_known(key, &before, false)? {
            x.notify(Class::Generic, "del", key);
        }
    } else {
        x.set_string(key, &before, &result, None)?;
        x.notify(Class::String, "set", key);
    }
    Ok(Reply::count(length))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FieldOp {
    Get,
    Set(i64),
    Increment(i64),
}

struct Field {
    is_signed: bool,
    width: u64,
    offset: u64,
    op: FieldOp,
    overflow: Overflow,
}

impl Field {
    fn parse(kind: &[u8], offset: &[u8], op: FieldOp, overflow: Overflow) -> Result<Field> {
        const WRONG: &str = "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.";
        let (is_signed, digits) = match kind {
            [b'i', rest @ ..] => (true, rest),
            [b'u', rest @ ..] => (false, rest),
            _ => return error(WRONG),
        };
        let width = match parse_integer(digits) {
            Some(width @ 1..=63) => width.unsigned_abs(),
            Some(64) if is_signed => 64,
            _ => return error(WRONG),
        };
        Ok(Field { is_signed, width, offset: bit_offset(offset, Some(width))?, op, overflow })
    }

    fn read(&self, bytes: &[u8]) -> i64 {
        let raw = (0..self.width)
            .fold(0u64, |raw, at| raw << 1 | u64::from(bit(bytes, self.offset + at)));
        if self.is_signed && self.width < 64 && raw >> (self.width - 1) & 1 == 1 {
            (raw | !0 << self.width) as i64
        } else {
            raw as i64
        }
    }

    fn write(&self, bytes: &mut Vec<u8>, value: i64) {
        let end = ((self.offset + self.width).div_ceil(8)) as usize;
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        for at in 0..self.width {
            let on = value as u64 >> (self.width - 1 - at) & 1 == 1;
            let place = self.offset + at;
            let mask = 1u8 << (7 - place % 8);
            if on {
                bytes[(place / 8) as usize] |= mask;
            } else {
                bytes[(place / 8) as usize] &= !mask;
            }
        }
    }

    /// The sum as the field can hold it; `None` if it cannot and shall not.
    fn fit(&self, value: i128) -> Option<i64> {
        let (least, greatest) = if self.is_signed {
            (-(1i128 << (self.width - 1)), (1i128 << (self.width - 1)) - 1)
        } else {
            (0, (1i128 << self.width) - 1)
        };
        if (least..=greatest).contains(&value) {
            return Some(value as i64);
        }
        match self.overflow {
            Overflow::Fail => None,
            Overflow::Saturate => Some(if value < least { least } else { greatest } as i64),
            Overflow::Wrap => {
                let modulus = 1i128 << self.width;
                let wrapped = value.rem_euclid(modulus);
                Some(if wrapped > greatest { wrapped - modulus } else { wrapped } as i64)
            }
        }
    }
}

fn fields(a: &[Bytes]) -> Result<Vec<Field>> {
    let mut found = Vec::new();
    let mut overflow = Overflow::Wrap;
    let mut place = 2;
    while place < a.len() {
        let left = a.len() - place - 1;
        match a.word(place).as_str() {
            "GET" if left >= 2 => {
                found.push(Field::parse(
                    a.at(place + 1)?,
                    a.at(place + 2)?,
                    FieldOp::Get,
                    overflow,
                )?);
                place += 3;
            }
            word @ ("SET" | "INCRBY") if left >= 3 => {
                let mut field =
                    Field::parse(a.at(place + 1)?, a.at(place + 2)?, FieldOp::Get, overflow)?;
                let number = a.integer(place + 3)?;
                field.op =
                    if word == "SET" { FieldOp::Set(number) } else { FieldOp::Increment(number) };
                found.push(field);
                place += 4;
            }
            "OVERFLOW" if left >= 1 => {
                overflow = match a.word(place + 1).as_str() {
                    "WRAP" => Overflow::Wrap,
                    "SAT" => Overflow::Saturate,
                    "FAIL" => Overflow::Fail,
                    _ => return error("ERR Invalid OVERFLOW type specified"),
                };
                place += 2;
            }
            _ => return error(SYNTAX),
        }
    }
    Ok(found)
}

fn bitfield(x: &mut Exec<'_>, a: &[Bytes], reads_only: bool) -> Result {
    let fields = fields(a)?;
    let is_reader = fields.iter().all(|field| field.op == FieldOp::Get);
    if reads_only && !is_reader {
        return failure("ERR BITFIELD_RO only supports the GET subcommand");
    }
    let key = a.at(1)?;
    let before = x.before(key)?;
    let mut value = before.string()?.unwrap_or_default().to_vec();
    let mut replies = Vec::with_capacity(fields.len());
    let mut has_changed = false;
    for field in &fields {
        let present = field.read(&value);
        let (next, answer) = match field.op {
            FieldOp::Get => {
                replies.push(Reply::Integer(present));
                continue;
            }
            FieldOp::Set(number) => {
                let number =
                    if field.is_signed { i128::from(number) } else { i128::from(number as u64) };
                (field.fit(number), Some(present))
            }
            FieldOp::Increment(by) => {
                let sum = field.fit(i128::from(present) + i128::from(by));
                (sum, sum)
            }
        };
        match next {
            None => replies.push(Reply::Nil),
            Some(next) => {
                field.write(&mut value, next);
                has_changed = true;
                replies.push(answer.map_or(Reply::Nil, Reply::Integer));
            }
        }
    }
    if has_changed {
        rewrite(x, key, &before, &value, "setbit")?;
    }
    Ok(Reply::Array(replies))
}
