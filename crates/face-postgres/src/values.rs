//! Values in the protocol's formats: text, and binary (PostgreSQL's `*_send` and `*_recv`).

use bytes::{Buf, BufMut, BytesMut};
use proteus_kernel_api::table::{ColumnType, Value};
use proteus_sql::{SqlError, format_value, parse_value, sqlstate};

/// Microseconds from the Unix epoch to 2000-01-01, where PostgreSQL's binary timestamps begin.
const EPOCH_2000_MICROS: i64 = 946_684_800_000_000;
/// The same in days.
const EPOCH_2000_DAYS: i32 = 10_957;

/// `numeric` of parameters whose precision nobody says.
const NUMERIC: ColumnType = ColumnType::Numeric { precision: 38, scale: 10 };

/// A format of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text.
    Text,
    /// Binary.
    Binary,
}

/// The format of the value at `index`, from a list of format codes: none means text, one is for all.
///
/// # Errors
/// 08P01 for codes that are not 0 or 1.
pub fn format_at(codes: &[i16], index: usize) -> Result<Format, SqlError> {
    let code = match codes {
        [] => 0,
        [one] => *one,
        many => many.get(index).copied().unwrap_or(0),
    };
    match code {
        0 => Ok(Format::Text),
        1 => Ok(Format::Binary),
        _ => {
            Err(SqlError::new(sqlstate::PROTOCOL_VIOLATION, format!("unknown format code {code}")))
        }
    }
}

/// The column type of a parameter that a client declares by object id; `None` if it leaves it to us.
///
/// # Errors
/// 0A000 for types that there are not.
pub fn type_of_oid(oid: u32) -> Result<Option<ColumnType>, SqlError> {
    Ok(Some(match oid {
        0 | 705 => return Ok(None),
        16 => ColumnType::Bool,
        17 => ColumnType::Bytea,
        20 | 26 => ColumnType::BigInt,
        21 => ColumnType::SmallInt,
        23 => ColumnType::Integer,
        18 | 19 | 25 | 1042 | 1043 | 2950 => ColumnType::Text { length_max: None },
        700 => ColumnType::Real,
        701 => ColumnType::Double,
        1082 => ColumnType::Date,
        1114 => ColumnType::Timestamp,
        1184 => ColumnType::TimestampTz,
        1700 => NUMERIC,
        114 | 3802 => ColumnType::Json,
        _ => return Err(SqlError::unsupported(format!("a parameter of the type with oid {oid}"))),
    }))
}

/// Reads a parameter.
///
/// # Errors
/// 22P02 or 22P03 if the bytes are not such a value.
pub fn decode(
    bytes: &[u8],
    format: Format,
    oid: u32,
    column_type: ColumnType,
) -> Result<Value, SqlError> {
    match format {
        Format::Text => {
            let text = std::str::from_utf8(bytes).map_err(|_| {
                SqlError::new("22021", "invalid byte sequence for encoding \"UTF8\"")
            })?;
            if text.contains('\0') {
                return Err(SqlError::new("22021", "text with a zero byte"));
            }
            parse_value(text, column_type)
        }
        Format::Binary => decode_binary(bytes, oid, column_type).ok_or_else(|| {
            SqlError::new(
                sqlstate::INVALID_BINARY,
                format!("incorrect binary data for type oid {oid}"),
            )
        }),
    }
}

fn decode_binary(bytes: &[u8], oid: u32, column_type: ColumnType) -> Option<Value> {
    let text = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))?;
        parse_value(text, column_type).ok()
    };
    Some(match column_type {
        ColumnType::Bool => Value::Bool(*<&[u8; 1]>::try_from(bytes).ok()?.first()? != 0),
        ColumnType::SmallInt => Value::Int(i16::from_be_bytes(bytes.try_into().ok()?).into()),
        ColumnType::Integer => Value::Int(i32::from_be_bytes(bytes.try_into().ok()?).into()),
        ColumnType::BigInt if oid == 26 => {
            Value::Int(u32::from_be_bytes(bytes.try_into().ok()?).into())
        }
        ColumnType::BigInt => Value::Int(i64::from_be_bytes(bytes.try_into().ok()?)),
        ColumnType::Real => Value::Float(f32::from_be_bytes(bytes.try_into().ok()?).into()),
        ColumnType::Double => Value::Float(f64::from_be_bytes(bytes.try_into().ok()?)),
        ColumnType::Text { .. } if oid == 2950 => Value::Text(uuid_text(bytes)?),
        ColumnType::Text { .. } => text(bytes)?,
        ColumnType::Json => text(match bytes {
            [1, rest @ ..] if oid == 3802 => rest,
            other => other,
        })?,
        ColumnType::Bytea => Value::Bytes(bytes.to_vec()),
        ColumnType::Timestamp | ColumnType::TimestampTz => {
            let micros = i64::from_be_bytes(bytes.try_into().ok()?);
            Value::Timestamp(micros.checked_add(EPOCH_2000_MICROS)?)
        }
        ColumnType::Date => {
            let days = i32::from_be_bytes(bytes.try_into().ok()?);
            Value::Date(days.checked_add(EPOCH_2000_DAYS)?)
        }
        ColumnType::Numeric { .. } => parse_value(&numeric_text(bytes)?, column_type).ok()?,
    })
}

fn uuid_text(bytes: &[u8]) -> Option<String> {
    let number = u128::from_be_bytes(bytes.try_into().ok()?);
    let hex = format!("{number:032x}");
    Some(format!(
        "{}-{}-{}-{}-{}",
        hex.get(..8)?,
        hex.get(8..12)?,
        hex.get(12..16)?,
        hex.get(16..20)?,
        hex.get(20..)?
    ))
}

/// Digits of base 10000: count, weight of the first, sign, scale, digits.
fn numeric_text(mut bytes: &[u8]) -> Option<String> {
    if bytes.len() < 8 {
        return None;
    }
    let count = usize::from(bytes.get_u16());
    let weight = bytes.get_i16();
    let sign = bytes.get_u16();
    let _scale = bytes.get_u16();
    if bytes.len() != count * 2 || count > 64 || !(-64..64).contains(&weight) {
        return None;
    }
    let mut digits = String::new();
    for _ in 0..count {
        let digit = bytes.get_u16();
        if digit > 9999 {
            return None;
        }
        digits.push_str(&format!("{digit:04}"));
    }
    let exponent = 4 * (i32::from(weight) + 1) - 4 * i32::try_from(count).ok()?;
    let digits = if digits.is_empty() { "0".to_owned() } else { digits };
    match sign {
        0 => Some(format!("{digits}e{exponent}")),
        0x4000 => Some(format!("-{digits}e{exponent}")),
        _ => None,
    }
}

/// Appends a value of a result's column with its length; null is the length -1.
pub fn put_value(into: &mut BytesMut, value: &Value, column_type: ColumnType, format: Format) {
    if value.is_null() {
        into.put_i32(-1);
        return;
    }
    let start = into.len();
    into.put_u32(0);
    match format {
        Format::Text => match value {
            // The common kinds without a string of their own between.
            Value::Text(text) => into.put_slice(text.as_bytes()),
            other => {
                into.put_slice(format_value(other, column_type).unwrap_or_default().as_bytes())
            }
        },
        Format::Binary => put_binary(into, value, column_type),
    }
    let length = u32::try_from(into.len() - start - 4).unwrap_or(u32::MAX);
    if let Some(place) = into.get_mut(start..start + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "a value fits its column's type: the machine and the query engine see to it"
)]
fn put_binary(into: &mut BytesMut, value: &Value, column_type: ColumnType) {
    match (value, column_type) {
        (Value::Null, _) => {}
        (Value::Bool(value), _) => into.put_u8(u8::from(*value)),
        (Value::Int(value), ColumnType::SmallInt) => into.put_i16(*value as i16),
        (Value::Int(value), ColumnType::Integer) => into.put_i32(*value as i32),
        (Value::Int(value), _) => into.put_i64(*value),
        (Value::Float(value), ColumnType::Real) => into.put_f32(*value as f32),
        (Value::Float(value), _) => into.put_f64(*value),
        (Value::Text(value), ColumnType::Json) => {
            into.put_u8(1);
            into.put_slice(value.as_bytes());
        }
        (Value::Text(value), _) => into.put_slice(value.as_bytes()),
        (Value::Bytes(value), _) => into.put_slice(value),
        (Value::Timestamp(micros), _) => into.put_i64(micros.saturating_sub(EPOCH_2000_MICROS)),
        (Value::Date(days), _) => into.put_i32(days.saturating_sub(EPOCH_2000_DAYS)),
        (Value::Numeric(unscaled), ColumnType::Numeric { scale, .. }) => {
            put_numeric(into, *unscaled, scale);
        }
        (Value::Numeric(unscaled), _) => put_numeric(into, *unscaled, 0),
    }
}

fn put_numeric(into: &mut BytesMut, unscaled: i128, scale: u8) {
    // Digits in fours around the point: pad the fraction to whole fours.
    let padding = (4 - scale % 4) % 4;
    let fraction_fours = usize::from(scale.div_ceil(4));
    let mut text = unscaled.unsigned_abs().to_string();
    text.push_str(&"0".repeat(usize::from(padding)));
    let lead = (4 - text.len() % 4) % 4;
    let text = "0".repeat(lead) + &text;
    let mut digits: Vec<u16> = text
        .as_bytes()
        .chunks(4)
        .map(|four| four.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0')))
        .collect();
    let mut weight = digits.len() as i64 - fraction_fours as i64 - 1;
    while digits.first() == Some(&0) {
        digits.remove(0);
        weight -= 1;
    }
    while digits.last() == Some(&0) {
        digits.pop();
    }
    if digits.is_empty() {
        weight = 0;
    }
    into.put_u16(u16::try_from(digits.len()).unwrap_or(u16::MAX));
    into.put_i16(i16::try_from(weight).unwrap_or(0));
    into.put_u16(if unscaled < 0 { 0x4000 } else { 0 });
    into.put_u16(u16::from(scale));
    for digit in digits {
        into.put_u16(digit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn comes_back(value: &Value, column_type: ColumnType, oid: u32) {
        for format in [Format::Text, Format::Binary] {
            let mut bytes = BytesMut::new();
            put_value(&mut bytes, value, column_type, format);
            let decoded = decode(&bytes[4..], format, oid, column_type).unwrap();
            assert_eq!(&decoded, value, "{format:?}");
        }
    }

    #[test]
    fn values_come_back_in_both_formats() {
        comes_back(&Value::Bool(true), ColumnType::Bool, 16);
        comes_back(&Value::Int(-3), ColumnType::SmallInt, 21);
        comes_back(&Value::Int(1 << 40), ColumnType::BigInt, 20);
        comes_back(&Value::Float(1.5), ColumnType::Real, 700);
        comes_back(&Value::Float(-1e300), ColumnType::Double, 701);
        comes_back(&Value::Text("é".to_owned()), ColumnType::Text { length_max: None }, 25);
        comes_back(&Value::Bytes(vec![0, 255]), ColumnType::Bytea, 17);
        comes_back(&Value::Timestamp(1_700_000_000_123_456), ColumnType::Timestamp, 1114);
        comes_back(&Value::Date(-5), ColumnType::Date, 1082);
        comes_back(&Value::Text("{\"a\":1}".to_owned()), ColumnType::Json, 3802);
        let numeric = ColumnType::Numeric { precision: 20, scale: 5 };
        for unscaled in [0, 1, -1, 12_345, 100_000, -987_654_321, 10_000_000_000_000] {
            comes_back(&Value::Numeric(unscaled), numeric, 1700);
        }
    }

    #[test]
    fn wrong_bytes_are_refused() {
        for (bytes, oid, column_type) in [
            (&b"123"[..], 23, ColumnType::Integer),
            (b"", 16, ColumnType::Bool),
            (b"\xFF", 25, ColumnType::Text { length_max: None }),
            (b"\0\x01\0\0\0\0\0\0", 1700, NUMERIC),
        ] {
            assert!(decode(bytes, Format::Binary, oid, column_type).is_err());
        }
    }
}
