//! Types of columns, values of rows, and their order-preserving key encoding.

use proteus_machine::key::push_string;
use serde::{Deserialize, Serialize};

/// Most decimal digits of a `numeric`: what 128 bits hold.
pub const NUMERIC_PRECISION_MAX: u8 = 38;

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ColumnType {
    /// `boolean`.
    Bool,
    /// `smallint`: 16 bits.
    SmallInt,
    /// `integer`: 32 bits.
    Integer,
    /// `bigint`: 64 bits.
    BigInt,
    /// `real`: 32-bit floating point.
    Real,
    /// `double precision`: 64-bit floating point.
    Double,
    /// `text` and `varchar`; `length_max` in characters, for `varchar(n)`.
    Text {
        /// Longest value, in characters.
        length_max: Option<u32>,
    },
    /// `bytea`.
    Bytea,
    /// `timestamp`: microseconds since the Unix epoch, without a time zone.
    Timestamp,
    /// `timestamp with time zone`: microseconds since the Unix epoch, in UTC.
    TimestampTz,
    /// `date`: days since the Unix epoch.
    Date,
    /// `numeric(precision, scale)`.
    Numeric {
        /// Decimal digits in all.
        precision: u8,
        /// Decimal digits after the point.
        scale: u8,
    },
    /// `json` and `jsonb`, kept as text.
    Json,
}

/// A value of a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// SQL's null.
    Null,
    /// Of a `boolean` column.
    Bool(bool),
    /// Of a `smallint`, `integer` or `bigint` column.
    Int(i64),
    /// Of a `real` or `double precision` column.
    Float(f64),
    /// Of a `text`, `varchar` or `json` column.
    Text(String),
    /// Of a `bytea` column.
    Bytes(Vec<u8>),
    /// Of a `timestamp` column, with or without time zone: microseconds since the Unix epoch.
    Timestamp(i64),
    /// Of a `date` column: days since the Unix epoch.
    Date(i32),
    /// Of a `numeric` column: the number without its point, which stands where the column's scale says.
    Numeric(i128),
}

/// The values of one row, in the order of the table's columns.
pub type Row = Vec<Value>;

impl Value {
    /// Whether this is SQL's null.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// Whether a column of type `column_type` can hold this value. Null fits every type.
    pub fn fits(&self, column_type: ColumnType) -> bool {
        match (self, column_type) {
            (Value::Null, _)
            | (Value::Bool(_), ColumnType::Bool)
            | (Value::Int(_), ColumnType::BigInt)
            | (Value::Float(_), ColumnType::Double | ColumnType::Real)
            | (Value::Text(_), ColumnType::Json)
            | (Value::Bytes(_), ColumnType::Bytea)
            | (Value::Timestamp(_), ColumnType::Timestamp | ColumnType::TimestampTz)
            | (Value::Date(_), ColumnType::Date)
            | (Value::Numeric(_), ColumnType::Numeric { .. }) => true,
            (Value::Int(value), ColumnType::SmallInt) => i16::try_from(*value).is_ok(),
            (Value::Int(value), ColumnType::Integer) => i32::try_from(*value).is_ok(),
            (Value::Text(value), ColumnType::Text { length_max }) => length_max.is_none_or(|max| {
                value.len() <= max as usize || value.chars().count() <= max as usize
            }),
            _ => false,
        }
    }

    /// Appends the value's order-preserving encoding: for two values of one column, the order of the
    /// encodings is the order of the values. Null, which no key column holds, sorts first.
    pub fn encode_key(&self, into: &mut Vec<u8>) {
        match self {
            Value::Null => {}
            Value::Bool(value) => into.push(u8::from(*value)),
            Value::Int(value) | Value::Timestamp(value) => {
                into.extend_from_slice(&flip_i64(*value).to_be_bytes());
            }
            Value::Float(value) => into.extend_from_slice(&float_key(*value).to_be_bytes()),
            Value::Text(value) => push_string(into, value.as_bytes()),
            Value::Bytes(value) => push_string(into, value),
            Value::Date(value) => {
                into.extend_from_slice(&(value.cast_unsigned() ^ (1 << 31)).to_be_bytes())
            }
            Value::Numeric(value) => {
                into.extend_from_slice(&(value.cast_unsigned() ^ (1 << 127)).to_be_bytes());
            }
        }
    }
}

fn flip_i64(value: i64) -> u64 {
    value.cast_unsigned() ^ (1 << 63)
}

/// Negative numbers sort by descending magnitude, so all their bits are flipped; of the others only
/// the sign. Both zeros are one key, all NaNs are one key above everything, as in PostgreSQL.
fn float_key(value: f64) -> u64 {
    let value = if value.is_nan() { f64::NAN } else { value + 0.0 };
    let bits = if value == 0.0 { 0 } else { value.to_bits() };
    if bits >> 63 == 1 { !bits } else { bits | (1 << 63) }
}

/// Year, month and day of a number of days since the Unix epoch, in the Gregorian calendar extended to
/// all times. Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
pub fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use proptest::prelude::*;

    use super::*;

    fn key(value: &Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        value.encode_key(&mut bytes);
        bytes
    }

    fn same_order<T>(a: &T, b: &T, wrap: impl Fn(T) -> Value, order: Ordering)
    where
        T: Clone,
    {
        assert_eq!(key(&wrap(a.clone())).cmp(&key(&wrap(b.clone()))), order);
    }

    proptest! {
        #[test]
        fn keys_sort_as_values(
            ints in any::<(i64, i64)>(), dates in any::<(i32, i32)>(), numbers in any::<(i128, i128)>(),
            texts in any::<(String, String)>(), bytes in any::<(Vec<u8>, Vec<u8>)>(), bools in any::<(bool, bool)>(),
        ) {
            same_order(&ints.0, &ints.1, Value::Int, ints.0.cmp(&ints.1));
            same_order(&dates.0, &dates.1, Value::Date, dates.0.cmp(&dates.1));
            same_order(&numbers.0, &numbers.1, Value::Numeric, numbers.0.cmp(&numbers.1));
            same_order(&texts.0, &texts.1, Value::Text, texts.0.as_bytes().cmp(texts.1.as_bytes()));
            same_order(&bytes.0, &bytes.1, Value::Bytes, bytes.0.cmp(&bytes.1));
            same_order(&bools.0, &bools.1, Value::Bool, bools.0.cmp(&bools.1));
        }

        #[test]
        fn float_keys_sort_as_floats(a in any::<f64>(), b in any::<f64>()) {
            if let Some(order) = a.partial_cmp(&b) {
                same_order(&a, &b, Value::Float, order);
            }
        }
    }

    #[test]
    fn zeros_are_one_key_and_nan_is_last() {
        assert_eq!(key(&Value::Float(0.0)), key(&Value::Float(-0.0)));
        assert_eq!(key(&Value::Float(f64::NAN)), key(&Value::Float(-f64::NAN)));
        assert!(key(&Value::Float(f64::NAN)) > key(&Value::Float(f64::INFINITY)));
    }
}
