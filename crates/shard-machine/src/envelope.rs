//! A changed row as Debezium's connectors for PostgreSQL write it, in JSON without schemas.
//!
//! ```text
//!   key    {"id":1}
//!   value  {"before":null,"after":{"id":1,…},"source":{…},"op":"c","ts_ms":…,"transaction":null}
//! ```
//! `op` is r (read: it was there when the feed began), c (created), u (updated) or d (deleted); after a deletion comes a tombstone, so that the topic
//! may be compacted. A table without a primary key has null keys.
//!
//! Values are in Debezium's adaptive mode for times, with `decimal.handling.mode=string`,
//! `binary.handling.mode=base64`: a timestamp without time zone is microseconds since the Unix epoch, one
//! with it ISO 8601 text in UTC, a date days since the Unix epoch, a json column text.
//!
//! Source: Debezium's documentation, "Change event values" and "Data type mappings" of PostgreSQL.

use std::fmt::Write;

use bytes::Bytes;
use proteus_machine::Position;

use crate::table::{Beginning, Column, ColumnType, FedRow, Row, Value, civil_from_days};
use crate::text::{numeric_text, push_json_string};
use crate::topic::batch::NewRecord;

/// `source.connector` of every record.
const CONNECTOR: &str = "proteus";

/// The record of a change, and the tombstone after it if the row is gone. An update that moves a row to
/// another key is two changes already.
pub(crate) fn records(row: &FedRow, position: Position) -> Vec<NewRecord> {
    let definition = &row.table.definition;
    let op = match (&row.before, &row.after) {
        _ if row.stood_at.is_some() => 'r',
        (None, _) => 'c',
        (Some(_), Some(_)) => 'u',
        (Some(_), None) => 'd',
    };
    let now = Beginning { commit_ts: position.commit_ts, index: position.index };
    let source = row.stood_at.unwrap_or(now);
    let named = row.after.as_ref().or(row.before.as_ref());
    let key = named.filter(|_| !definition.primary_key.is_empty()).map(|named| {
        let columns = definition.primary_key.iter().filter_map(|index| {
            let index = *index as usize;
            Some((definition.columns.get(index)?, named.get(index)?))
        });
        let mut text = String::new();
        put_object(&mut text, columns);
        Bytes::from(text)
    });
    let ts_ms = position.commit_ts.physical_ms();
    let mut text = String::from("{\"before\":");
    put_row(&mut text, &definition.columns, row.before.as_ref());
    text.push_str(",\"after\":");
    put_row(&mut text, &definition.columns, row.after.as_ref());
    text.push_str(",\"source\":{\"version\":");
    push_json_string(&mut text, env!("CARGO_PKG_VERSION"));
    text.push_str(",\"connector\":");
    push_json_string(&mut text, CONNECTOR);
    text.push_str(",\"name\":\"proteus\",\"ts_ms\":");
    put(&mut text, source.commit_ts.physical_ms());
    text.push_str(",\"snapshot\":");
    push_json_string(&mut text, if op == 'r' { "true" } else { "false" });
    text.push_str(",\"db\":\"proteus\",\"sequence\":null,\"schema\":");
    push_json_string(&mut text, &definition.schema);
    text.push_str(",\"table\":");
    push_json_string(&mut text, &definition.name);
    text.push_str(",\"txId\":");
    put(&mut text, source.commit_ts.0);
    text.push_str(",\"lsn\":");
    put(&mut text, source.index.0);
    text.push_str(",\"xmin\":null},\"transaction\":null,\"op\":\"");
    text.push(op);
    text.push_str("\",\"ts_ms\":");
    put(&mut text, ts_ms);
    text.push('}');
    let headers = Vec::new();
    let mut records = vec![NewRecord { key: key.clone(), value: Some(Bytes::from(text)), headers }];
    if op == 'd' && key.is_some() {
        records.push(NewRecord { key, value: None, headers: Vec::new() });
    }
    records
}

fn put(into: &mut String, value: impl std::fmt::Display) {
    // Writing to a string has no way to fail.
    let _ = write!(into, "{value}");
}

fn put_row(into: &mut String, columns: &[Column], row: Option<&Row>) {
    match row {
        Some(row) => put_object(into, columns.iter().zip(row)),
        None => into.push_str("null"),
    }
}

fn put_object<'a>(into: &mut String, fields: impl Iterator<Item = (&'a Column, &'a Value)>) {
    into.push('{');
    for (place, (column, value)) in fields.enumerate() {
        if place > 0 {
            into.push(',');
        }
        push_json_string(into, &column.name);
        into.push(':');
        put_value(into, column.column_type, value);
    }
    into.push('}');
}

fn put_value(into: &mut String, column_type: ColumnType, value: &Value) {
    match value {
        Value::Null => into.push_str("null"),
        Value::Bool(value) => put(into, value),
        Value::Int(value) => put(into, value),
        // JSON has no such numbers; Debezium writes them as text, too.
        Value::Float(value) if value.is_nan() => push_json_string(into, "NaN"),
        Value::Float(f64::INFINITY) => push_json_string(into, "Infinity"),
        Value::Float(f64::NEG_INFINITY) => push_json_string(into, "-Infinity"),
        Value::Float(value) if column_type == ColumnType::Real => put_float(into, *value as f32),
        Value::Float(value) => put_float(into, *value),
        Value::Text(value) => push_json_string(into, value),
        Value::Bytes(value) => {
            into.push('"');
            put_base64(into, value);
            into.push('"');
        }
        Value::Timestamp(micros) if column_type == ColumnType::TimestampTz => {
            into.push('"');
            put_iso_8601(into, *micros);
            into.push('"');
        }
        Value::Timestamp(micros) => put(into, micros),
        Value::Date(days) => put(into, days),
        Value::Numeric(unscaled) => {
            let scale = match column_type {
                ColumnType::Numeric { scale, .. } => scale,
                _ => 0,
            };
            into.push('"');
            into.push_str(&numeric_text(*unscaled, usize::from(scale)));
            into.push('"');
        }
    }
}

/// The shortest text that reads back as the same number, with a point or exponent.
fn put_float(into: &mut String, value: impl std::fmt::Debug) {
    let _ = write!(into, "{value:?}");
}

/// As in `2024-02-29T12:00:00.000001Z`; whole seconds have no fraction.
fn put_iso_8601(into: &mut String, micros: i64) {
    const DAY_MICROS: i64 = 86_400_000_000;
    let (days, rest) = (micros.div_euclid(DAY_MICROS), micros.rem_euclid(DAY_MICROS));
    let (year, month, day) = civil_from_days(days);
    let (seconds, fraction) = (rest / 1_000_000, rest % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let _ = write!(into, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if fraction > 0 {
        let _ = write!(into, ".{fraction:06}");
    }
    into.push('Z');
}

fn put_base64(into: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let byte = |place: usize| u32::from(chunk.get(place).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * place) & 63) as usize];
            into.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
}

#[cfg(test)]
mod tests {
    use proteus_types::{CommitTs, LogIndex, Term};
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::table::{Definition, FeedTarget, Source, TableId, TableInfo};

    const TYPES: &[ColumnType] = &[
        ColumnType::Integer,
        ColumnType::Text { length_max: None },
        ColumnType::Double,
        ColumnType::Real,
        ColumnType::Bool,
        ColumnType::Bytea,
        ColumnType::Timestamp,
        ColumnType::TimestampTz,
        ColumnType::Date,
        ColumnType::Numeric { precision: 10, scale: 2 },
    ];

    fn table() -> TableInfo {
        let columns = TYPES.iter().enumerate().map(|(place, column_type)| Column {
            name: format!("c{place}"),
            column_type: *column_type,
            not_null: place == 0,
            default: None,
        });
        let definition = Definition {
            schema: "public".to_owned(),
            name: "t\"x".to_owned(),
            columns: columns.collect(),
            primary_key: vec![0],
            source: Source::Rows,
        };
        TableInfo { id: TableId(1), definition, feed: None, tells_rows: false }
    }

    fn row(text: &str) -> Row {
        vec![
            Value::Int(7),
            Value::Text(text.to_owned()),
            Value::Float(0.1),
            Value::Float(f64::from(0.1f32)),
            Value::Bool(true),
            Value::Bytes(b"hello".to_vec()),
            Value::Timestamp(1_704_067_200_000_001),
            Value::Timestamp(1_709_208_000_000_001),
            Value::Date(-1),
            Value::Numeric(-5),
        ]
    }

    fn position() -> Position {
        let commit_ts = CommitTs::from_physical_ms(1_700_000_000_000);
        Position::new(proteus_types::ShardId::META, Term(1), LogIndex(9), commit_ts)
    }

    fn read(bytes: &Option<Bytes>) -> Json {
        serde_json::from_slice(bytes.as_ref().expect("a value")).expect("JSON")
    }

    #[test]
    fn every_type_is_as_debezium_writes_it() {
        let text = "a \"quote\", a \\ and\u{1}\n";
        let fed = |before: Option<Row>, after: Option<Row>| {
            let (target, table) = (FeedTarget([1; 16]), table());
            let fed = FedRow { target, table, before, after, stood_at: None };
            records(&fed, position())
        };
        let created = fed(None, Some(row(text)));
        assert_eq!(created.len(), 1);
        assert_eq!(read(&created[0].key), json!({"c0": 7}));
        let value = read(&created[0].value);
        let expected = json!({
            "c0": 7, "c1": text, "c2": 0.1, "c3": 0.1, "c4": true, "c5": "aGVsbG8=",
            "c6": 1_704_067_200_000_001i64, "c7": "2024-02-29T12:00:00.000001Z", "c8": -1,
            "c9": "-0.05",
        });
        assert_eq!((&value["before"], &value["after"]), (&Json::Null, &expected));
        assert_eq!((&value["op"], &value["ts_ms"]), (&json!("c"), &json!(1_700_000_000_000u64)));
        let source = &value["source"];
        assert_eq!((&source["schema"], &source["table"]), (&json!("public"), &json!("t\"x")));

        let updated = fed(Some(row("a")), Some(row("b")));
        let value = read(&updated[0].value);
        assert_eq!(value["op"], "u");
        assert_eq!((&value["before"]["c1"], &value["after"]["c1"]), (&json!("a"), &json!("b")));

        let deleted = fed(Some(row("a")), None);
        assert_eq!(read(&deleted[0].value)["op"], "d");
        assert_eq!(deleted[1].key, deleted[0].key);
        assert_eq!(deleted[1].value, None, "a tombstone follows");
    }

    #[test]
    fn numbers_that_json_does_not_have_are_text() {
        let mut text = String::new();
        put_value(&mut text, ColumnType::Double, &Value::Float(f64::NAN));
        put_value(&mut text, ColumnType::Double, &Value::Float(f64::NEG_INFINITY));
        put_value(&mut text, ColumnType::Double, &Value::Float(1e300));
        assert_eq!(text, "\"NaN\"\"-Infinity\"1e300");
    }

    #[test]
    fn days_are_dates() {
        assert_eq!(civil_from_days(0), (1970, 1, 1));
        assert_eq!(civil_from_days(-1), (1969, 12, 31));
        assert_eq!(civil_from_days(19_782), (2024, 2, 29));
        assert_eq!(civil_from_days(-719_528), (0, 1, 1));
    }

    #[test]
    fn base64_has_its_padding() {
        let encoded = |bytes: &[u8]| {
            let mut text = String::new();
            put_base64(&mut text, bytes);
            text
        };
        assert_eq!(
            ["", "f", "fo", "foo"].map(|t| encoded(t.as_bytes())),
            ["", "Zg==", "Zm8=", "Zm9v"]
        );
    }
}
