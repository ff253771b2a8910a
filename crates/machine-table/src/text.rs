//! Values as text, in PostgreSQL's formats: ISO dates, hex bytea.

use crate::{ColumnType, Value, civil_from_days};

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// Powers of ten from which on PostgreSQL writes a number with an exponent.
const REAL_EXPONENT_END: i32 = 6;
const DOUBLE_EXPONENT_END: i32 = 15;

/// The text of a value of a column of type `column_type`; `None` for null.
pub fn format_value(value: &Value, column_type: ColumnType) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(true) => "t".to_owned(),
        Value::Bool(false) => "f".to_owned(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) if column_type == ColumnType::Real => format_real(*value),
        Value::Float(value) => format_float(*value, &format!("{value:e}"), DOUBLE_EXPONENT_END),
        Value::Text(value) => value.clone(),
        Value::Bytes(value) => {
            let mut text = String::with_capacity(2 + value.len() * 2);
            text.push_str("\\x");
            for byte in value {
                text.push_str(&format!("{byte:02x}"));
            }
            text
        }
        Value::Timestamp(micros) => {
            let zone = if column_type == ColumnType::TimestampTz { "+00" } else { "" };
            format_timestamp(*micros, zone)
        }
        Value::Date(days) => format_date(i64::from(*days)),
        Value::Numeric(unscaled) => format_numeric(*unscaled, usize::from(scale_of(column_type))),
    })
}

/// Digits after the point of values of this type.
pub fn scale_of(column_type: ColumnType) -> u8 {
    match column_type {
        ColumnType::Numeric { scale, .. } => scale,
        _ => 0,
    }
}

fn format_real(value: f64) -> String {
    #[allow(clippy::cast_possible_truncation, reason = "a real column holds 32-bit floats")]
    let real = value as f32;
    format_float(value, &format!("{real:e}"), REAL_EXPONENT_END)
}

/// Shortest digits that read back as the same number; exponents as PostgreSQL writes them.
fn format_float(value: f64, scientific: &str, exponent_end: i32) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific.to_owned();
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..exponent_end).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    let point = exponent + 1;
    if point <= 0 {
        return format!("{sign}0.{}{digits}", "0".repeat(point.unsigned_abs() as usize));
    }
    let point = point as usize;
    if digits.len() <= point {
        return format!("{sign}{digits}{}", "0".repeat(point - digits.len()));
    }
    format!("{sign}{}.{}", &digits[..point], &digits[point..])
}

/// A number of so many digits after the point.
pub fn format_numeric(unscaled: i128, scale: usize) -> String {
    let sign = if unscaled < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

fn format_date(days: i64) -> String {
    let (year, month, day) = civil_from_days(days);
    if year <= 0 {
        format!("{:04}-{month:02}-{day:02} BC", 1 - year)
    } else {
        format!("{year:04}-{month:02}-{day:02}")
    }
}

fn format_timestamp(micros: i64, zone: &str) -> String {
    let days = micros.div_euclid(MICROS_PER_DAY);
    let of_day = micros.rem_euclid(MICROS_PER_DAY);
    let (seconds, fraction) = (of_day / MICROS_PER_SECOND, of_day % MICROS_PER_SECOND);
    let date = format_date(days);
    let (date, era) = date.strip_suffix(" BC").map_or((date.as_str(), ""), |date| (date, " BC"));
    let time = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = if fraction == 0 {
        String::new()
    } else {
        format!(".{}", format!("{fraction:06}").trim_end_matches('0'))
    };
    format!("{date} {time}{fraction}{zone}{era}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As PostgreSQL 15 writes them, with the time zone UTC.
    #[test]
    fn values_read_as_postgresql_writes_them() {
        let numeric = ColumnType::Numeric { precision: 10, scale: 2 };
        let (real, double) = (ColumnType::Real, ColumnType::Double);
        let (plain, zoned) = (ColumnType::Timestamp, ColumnType::TimestampTz);
        for (value, column_type, expected) in [
            (Value::Int(-7), ColumnType::BigInt, "-7"),
            (Value::Bool(true), ColumnType::Bool, "t"),
            (Value::Numeric(-5), numeric, "-0.05"),
            (Value::Numeric(12_345), numeric, "123.45"),
            (Value::Float(0.1_f32.into()), real, "0.1"),
            (Value::Float(100_000.0), real, "100000"),
            (Value::Float(1e6), real, "1e+06"),
            (Value::Float(1e14), double, "100000000000000"),
            (Value::Float(1e15), double, "1e+15"),
            (Value::Float(-1e-5), double, "-1e-05"),
            (Value::Float(0.0001), double, "0.0001"),
            (Value::Float(f64::INFINITY), double, "Infinity"),
            (Value::Float(f64::NAN), double, "NaN"),
            (Value::Date(0), ColumnType::Date, "1970-01-01"),
            (Value::Date(19_782), ColumnType::Date, "2024-02-29"),
            (Value::Date(-719_163), ColumnType::Date, "0001-12-31 BC"),
            (Value::Timestamp(-1), plain, "1969-12-31 23:59:59.999999"),
            (Value::Timestamp(1_500_000), zoned, "1970-01-01 00:00:01.5+00"),
            (
                Value::Timestamp(-719_162 * MICROS_PER_DAY - 500_000),
                zoned,
                "0001-12-31 23:59:59.5+00 BC",
            ),
        ] {
            assert_eq!(format_value(&value, column_type).as_deref(), Some(expected));
        }
        assert_eq!(format_value(&Value::Null, ColumnType::Bool), None);
    }
}
