//! Values of rows as text: as PostgreSQL writes them, and as JSON.

use std::fmt::Write;

use bytes::Bytes;

use crate::table::{ColumnType, Definition, Row, Value, civil_from_days};

/// The value as PostgreSQL writes it; a `bytea` as it is. `None` of null.
pub(crate) fn text_of(value: &Value, column_type: ColumnType) -> Option<Bytes> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(value) => Bytes::from_static(if *value { b"t" } else { b"f" }),
        Value::Bytes(bytes) => Bytes::copy_from_slice(bytes),
        Value::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
        other => Bytes::from(number_text(other, column_type)),
    })
}

fn number_text(value: &Value, column_type: ColumnType) -> String {
    match value {
        Value::Int(number) => number.to_string(),
        Value::Float(number) => match column_type {
            ColumnType::Real => (*number as f32).to_string(),
            _ => number.to_string(),
        },
        Value::Numeric(number) => {
            let scale = match column_type {
                ColumnType::Numeric { scale, .. } => usize::from(scale),
                _ => 0,
            };
            numeric_text(*number, scale)
        }
        Value::Date(days) => date_text(i64::from(*days)),
        Value::Timestamp(us) => {
            let mut text = timestamp_text(*us);
            if column_type == ColumnType::TimestampTz {
                text.push_str("+00");
            }
            text
        }
        _ => String::new(),
    }
}

/// A number of so many places behind the point.
pub(crate) fn numeric_text(number: i128, scale: usize) -> String {
    let digits = format!("{:0>width$}", number.unsigned_abs(), width = scale + 1);
    let (whole, part) = digits.split_at(digits.len() - scale);
    let sign = if number < 0 { "-" } else { "" };
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part}") }
}

fn date_text(days: i64) -> String {
    let (year, month, day) = civil_from_days(days);
    if year > 0 {
        format!("{year:04}-{month:02}-{day:02}")
    } else {
        format!("{:04}-{month:02}-{day:02} BC", 1 - year)
    }
}

fn timestamp_text(us: i64) -> String {
    const DAY_US: i64 = 86_400_000_000;
    let (days, of_day) = (us.div_euclid(DAY_US), us.rem_euclid(DAY_US));
    let (seconds, part) = (of_day / 1_000_000, of_day % 1_000_000);
    let mut text = format!(
        "{} {:02}:{:02}:{:02}",
        date_text(days),
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    );
    if part > 0 {
        let digits = format!("{part:06}");
        text.push('.');
        text.push_str(digits.trim_end_matches('0'));
    }
    text
}

/// The row as a JSON object: numbers as numbers, `json` as it is, `bytea` in hexadecimal behind `\x`.
pub(crate) fn json_object(definition: &Definition, row: &Row) -> String {
    let mut out = String::from("{");
    for (at, (column, value)) in definition.columns.iter().zip(row).enumerate() {
        if at > 0 {
            out.push(',');
        }
        push_json_string(&mut out, &column.name);
        out.push(':');
        match value {
            Value::Null => out.push_str("null"),
            Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::Text(text) if column.column_type == ColumnType::Json => out.push_str(text),
            Value::Text(text) => push_json_string(&mut out, text),
            Value::Bytes(bytes) => {
                out.push_str("\"\\\\x");
                for byte in bytes {
                    // Writing to a string cannot fail.
                    let _ = write!(out, "{byte:02x}");
                }
                out.push('"');
            }
            // JSON has no infinities.
            Value::Float(number) if !number.is_finite() => {
                push_json_string(&mut out, &number.to_string());
            }
            Value::Int(_) | Value::Float(_) | Value::Numeric(_) => {
                out.push_str(&number_text(value, column.column_type));
            }
            Value::Date(_) | Value::Timestamp(_) => {
                push_json_string(&mut out, &number_text(value, column.column_type));
            }
        }
    }
    out.push('}');
    out
}

/// Appends a JSON string.
pub(crate) fn push_json_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c < ' ' => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_as_postgresql_writes_them() {
        let text = |value: Value, column_type| {
            text_of(&value, column_type).map(|text| String::from_utf8_lossy(&text).into_owned())
        };
        let numeric = ColumnType::Numeric { precision: 10, scale: 2 };
        for (value, column_type, expected) in [
            (Value::Int(-7), ColumnType::BigInt, "-7"),
            (Value::Bool(true), ColumnType::Bool, "t"),
            (Value::Numeric(-5), numeric, "-0.05"),
            (Value::Numeric(12_345), numeric, "123.45"),
            (Value::Float(0.1_f32.into()), ColumnType::Real, "0.1"),
            (Value::Date(0), ColumnType::Date, "1970-01-01"),
            (Value::Date(19_782), ColumnType::Date, "2024-02-29"),
            (Value::Date(-719_163), ColumnType::Date, "0001-12-31 BC"),
            (Value::Timestamp(-1), ColumnType::Timestamp, "1969-12-31 23:59:59.999999"),
            (Value::Timestamp(1_500_000), ColumnType::TimestampTz, "1970-01-01 00:00:01.5+00"),
        ] {
            assert_eq!(text(value, column_type).as_deref(), Some(expected));
        }
        assert_eq!(text(Value::Null, ColumnType::Bool), None);
    }
}
