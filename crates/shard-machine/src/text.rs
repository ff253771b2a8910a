//! Values of rows as text: as PostgreSQL writes them, and as JSON.

use std::fmt::Write;

use bytes::Bytes;

use crate::table::{ColumnType, Definition, Row, Value, format_value};

pub(crate) use crate::table::format_numeric as numeric_text;

/// The value as PostgreSQL writes it; a `bytea` as it is. `None` of null.
pub(crate) fn text_of(value: &Value, column_type: ColumnType) -> Option<Bytes> {
    match value {
        Value::Bytes(bytes) => Some(Bytes::copy_from_slice(bytes)),
        other => format_value(other, column_type).map(Bytes::from),
    }
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
        let text = format_value(value, column.column_type);
        let text = text.as_deref().unwrap_or("null");
        match value {
            Value::Null | Value::Int(_) | Value::Numeric(_) => out.push_str(text),
            Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::Text(_) if column.column_type == ColumnType::Json => out.push_str(text),
            // JSON has no infinities.
            Value::Float(number) if number.is_finite() => out.push_str(text),
            _ => push_json_string(&mut out, text),
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
    use crate::table::{Column, Source};

    #[test]
    fn values_read_as_postgresql_writes_them_and_bytes_as_they_are() {
        let text = |value: Value, column_type| {
            text_of(&value, column_type).map(|text| String::from_utf8_lossy(&text).into_owned())
        };
        let before_christ = Value::Timestamp(-719_163 * 86_400_000_000);
        for (value, column_type, expected) in [
            (Value::Float(1e20), ColumnType::Double, "1e+20"),
            (Value::Float(f64::NEG_INFINITY), ColumnType::Double, "-Infinity"),
            (before_christ, ColumnType::TimestampTz, "0001-12-31 00:00:00+00 BC"),
            (Value::Bytes(b"a\\b".to_vec()), ColumnType::Bytea, "a\\b"),
            (Value::Text("a".to_owned()), ColumnType::Text { length_max: None }, "a"),
        ] {
            assert_eq!(text(value, column_type).as_deref(), Some(expected));
        }
        assert_eq!(text(Value::Null, ColumnType::Bool), None);
    }

    #[test]
    fn a_row_is_a_json_object() {
        let column = |name: &str, column_type| Column {
            name: name.to_owned(),
            column_type,
            not_null: false,
            default: None,
        };
        let columns = vec![
            column("a\"", ColumnType::Double),
            column("b", ColumnType::Double),
            column("c", ColumnType::Json),
            column("d", ColumnType::Bytea),
            column("e", ColumnType::Bool),
            column("f", ColumnType::Date),
            column("g", ColumnType::Integer),
        ];
        let definition = Definition {
            schema: "public".to_owned(),
            name: "t".to_owned(),
            columns,
            primary_key: Vec::new(),
            source: Source::Rows,
        };
        let row = vec![
            Value::Float(1e20),
            Value::Float(f64::INFINITY),
            Value::Text("{\"x\":[]}".to_owned()),
            Value::Bytes(vec![0, 255]),
            Value::Bool(false),
            Value::Date(0),
            Value::Null,
        ];
        assert_eq!(
            json_object(&definition, &row),
            r#"{"a\"":1e+20,"b":"Infinity","c":{"x":[]},"d":"\\x00ff","e":false,"f":"1970-01-01","g":null}"#
        );
    }
}
