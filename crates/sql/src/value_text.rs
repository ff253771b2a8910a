//! Values from text, in PostgreSQL's formats; to text the table machine writes them.

use proteus_kernel_api::table::{ColumnType, Value};

use crate::error::{SqlError, sqlstate};

pub use proteus_kernel_api::table::format_value;
pub(crate) use proteus_kernel_api::table::scale_of;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// Reads a value of type `column_type` from text.
///
/// # Errors
/// 22P02, 22003 or 22007 if the text is not such a value.
pub fn parse_value(text: &str, column_type: ColumnType) -> Result<Value, SqlError> {
    let invalid = || {
        let message =
            format!("invalid input syntax for type {}: \"{text}\"", type_name(column_type));
        SqlError::new(sqlstate::INVALID_TEXT, message)
    };
    let trimmed = text.trim();
    match column_type {
        ColumnType::Bool => parse_bool(trimmed).map(Value::Bool).ok_or_else(invalid),
        ColumnType::SmallInt | ColumnType::Integer | ColumnType::BigInt => {
            let value: i128 = trimmed.parse().map_err(|_| invalid())?;
            let value = i64::try_from(value).map_err(|_| out_of_range(column_type))?;
            fit_int(value, column_type)
        }
        ColumnType::Real | ColumnType::Double => {
            parse_float(trimmed).map(Value::Float).ok_or_else(invalid)
        }
        ColumnType::Text { .. } => Ok(Value::Text(text.to_owned())),
        ColumnType::Json => {
            serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|_| invalid())?;
            Ok(Value::Text(text.to_owned()))
        }
        ColumnType::Bytea => parse_bytea(text).map(Value::Bytes).ok_or_else(invalid),
        ColumnType::Timestamp | ColumnType::TimestampTz => parse_timestamp(trimmed)
            .map(Value::Timestamp)
            .ok_or_else(|| SqlError { code: sqlstate::INVALID_DATETIME, ..invalid() }),
        ColumnType::Date => parse_timestamp(trimmed)
            .and_then(|micros| i32::try_from(micros.div_euclid(MICROS_PER_DAY)).ok())
            .map(Value::Date)
            .ok_or_else(|| SqlError { code: sqlstate::INVALID_DATETIME, ..invalid() }),
        ColumnType::Numeric { precision, scale } => parse_numeric(trimmed, precision, scale)
            .map_err(|is_overflow| if is_overflow { out_of_range(column_type) } else { invalid() }),
    }
}

/// The value if a column of this integer type holds it.
///
/// # Errors
/// 22003 if not.
pub fn fit_int(value: i64, column_type: ColumnType) -> Result<Value, SqlError> {
    let value = Value::Int(value);
    if value.fits(column_type) { Ok(value) } else { Err(out_of_range(column_type)) }
}

/// 22003 for a type.
pub fn out_of_range(column_type: ColumnType) -> SqlError {
    let message = format!("value out of range for type {}", type_name(column_type));
    SqlError::new(sqlstate::NUMERIC_OUT_OF_RANGE, message)
}

/// The type's name, as `format_type` gives it.
pub fn type_name(column_type: ColumnType) -> String {
    match column_type {
        ColumnType::Bool => "boolean".to_owned(),
        ColumnType::SmallInt => "smallint".to_owned(),
        ColumnType::Integer => "integer".to_owned(),
        ColumnType::BigInt => "bigint".to_owned(),
        ColumnType::Real => "real".to_owned(),
        ColumnType::Double => "double precision".to_owned(),
        ColumnType::Text { length_max: None } => "text".to_owned(),
        ColumnType::Text { length_max: Some(max) } => format!("character varying({max})"),
        ColumnType::Bytea => "bytea".to_owned(),
        ColumnType::Timestamp => "timestamp without time zone".to_owned(),
        ColumnType::TimestampTz => "timestamp with time zone".to_owned(),
        ColumnType::Date => "date".to_owned(),
        ColumnType::Numeric { precision, scale } => format!("numeric({precision},{scale})"),
        ColumnType::Json => "jsonb".to_owned(),
    }
}

fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "t" | "true" | "y" | "yes" | "on" | "1" => Some(true),
        "f" | "false" | "n" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn parse_float(text: &str) -> Option<f64> {
    match text.to_ascii_lowercase().as_str() {
        "nan" => Some(f64::NAN),
        "infinity" | "inf" | "+infinity" => Some(f64::INFINITY),
        "-infinity" | "-inf" => Some(f64::NEG_INFINITY),
        _ => text.parse::<f64>().ok().filter(|value| value.is_finite()),
    }
}

fn parse_bytea(text: &str) -> Option<Vec<u8>> {
    if let Some(hex) = text.strip_prefix("\\x") {
        let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        if !digits.len().is_multiple_of(2) {
            return None;
        }
        return digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    loop {
        match rest {
            [] => return Some(bytes),
            [b'\\', b'\\', after @ ..] => {
                bytes.push(b'\\');
                rest = after;
            }
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
                bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            [b'\\', ..] => return None,
            [byte, after @ ..] => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
}

/// Reads a decimal number with `scale` digits after the point, rounding half away from zero. The
/// error says whether it overflows (or is no number at all).
fn parse_numeric(text: &str, precision: u8, scale: u8) -> Result<Value, bool> {
    let (sign, digits) = match text.as_bytes().first() {
        Some(b'-') => (-1, &text[1..]),
        Some(b'+') => (1, &text[1..]),
        _ => (1, text),
    };
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| false)?),
        None => (digits, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return Err(false);
    }
    if exponent.abs() > 200 {
        return Err(true);
    }
    let mut unscaled: i128 = 0;
    // How many of the digits stand before the point once the exponent and the scale have moved it.
    let kept = whole.len() as i64 + i64::from(exponent) + i64::from(scale);
    let mut place = 0i64;
    let mut round_up = false;
    for digit in whole.bytes().chain(fraction.bytes()) {
        if !digit.is_ascii_digit() {
            return Err(false);
        }
        if place < kept {
            unscaled = unscaled
                .checked_mul(10)
                .and_then(|value| value.checked_add(i128::from(digit - b'0')))
                .ok_or(true)?;
        } else if place == kept {
            round_up = digit >= b'5';
        }
        place += 1;
    }
    for _ in place..kept {
        unscaled = if unscaled == 0 { 0 } else { unscaled.checked_mul(10).ok_or(true)? };
    }
    unscaled += i128::from(round_up);
    let limit = 10i128.checked_pow(u32::from(precision)).unwrap_or(i128::MAX);
    if unscaled >= limit { Err(true) } else { Ok(Value::Numeric(sign * unscaled)) }
}

/// Reads `YYYY-MM-DD[( |T)HH:MM[:SS[.ffffff]]][(+|-)HH[:MM]|Z]` as microseconds since the epoch.
fn parse_timestamp(text: &str) -> Option<i64> {
    match text.to_ascii_lowercase().as_str() {
        "epoch" => return Some(0),
        "infinity" | "-infinity" => return None,
        _ => {}
    }
    let (date, time) = match text.find(['T', ' ', 't']) {
        Some(at) => (&text[..at], text[at + 1..].trim()),
        None => (text, ""),
    };
    let mut parts = date.splitn(3, '-');
    let year: i64 = parts.next()?.parse().ok()?;
    let month: i64 = parts.next()?.parse().ok()?;
    let day: i64 = parts.next()?.parse().ok()?;
    let is_known = (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && (1..=294_000).contains(&year);
    if !is_known {
        return None;
    }
    let days = days_from_civil(year, month, day);
    Some(days * MICROS_PER_DAY + parse_time(time)?)
}

fn parse_time(text: &str) -> Option<i64> {
    if text.is_empty() {
        return Some(0);
    }
    let (clock, zone_seconds) = split_zone(text)?;
    let mut parts = clock.trim().splitn(3, ':');
    let hours: i64 = parts.next()?.parse().ok()?;
    let minutes: i64 = parts.next()?.parse().ok()?;
    let (seconds, micros) = match parts.next() {
        None => (0, 0),
        Some(seconds) => {
            let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
            if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let micros: String = fraction.chars().chain("000000".chars()).take(6).collect();
            (whole.parse::<i64>().ok()?, micros.parse::<i64>().ok()?)
        }
    };
    let is_known =
        (0..=24).contains(&hours) && (0..60).contains(&minutes) && (0..=60).contains(&seconds);
    let total = hours * 3600 + minutes * 60 + seconds - zone_seconds;
    is_known.then_some(total * MICROS_PER_SECOND + micros)
}

fn split_zone(text: &str) -> Option<(&str, i64)> {
    if let Some(clock) = text.strip_suffix(['Z', 'z']).or_else(|| text.strip_suffix("UTC")) {
        return Some((clock, 0));
    }
    let Some(at) = text.find(['+', '-']) else { return Some((text, 0)) };
    let sign = if text.as_bytes().get(at) == Some(&b'-') { -1 } else { 1 };
    let digits: String = text[at + 1..].chars().filter(|c| *c != ':').collect();
    let number: i64 = digits.parse().ok()?;
    let seconds = match digits.len() {
        1 | 2 => number * 3600,
        4 => number / 100 * 3600 + number % 100 * 60,
        _ => return None,
    };
    Some((&text[..at], sign * seconds))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since the epoch of a date of the proleptic Gregorian calendar, whose years of 365.2425 days
/// repeat every 400; counted from 1 March, so that the leap day comes last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn comes_back(text: &str, column_type: ColumnType, expected: &str) {
        let value = parse_value(text, column_type).unwrap();
        assert_eq!(format_value(&value, column_type).as_deref(), Some(expected));
    }

    #[test]
    fn values_read_and_print_as_in_postgresql() {
        let numeric = ColumnType::Numeric { precision: 10, scale: 2 };
        for (text, column_type, expected) in [
            ("yes", ColumnType::Bool, "t"),
            (" -42 ", ColumnType::Integer, "-42"),
            ("0.1", ColumnType::Real, "0.1"),
            ("1e20", ColumnType::Double, "1e+20"),
            ("123456.75", ColumnType::Double, "123456.75"),
            ("1e-5", ColumnType::Double, "1e-05"),
            ("0.00012", ColumnType::Double, "0.00012"),
            ("100", ColumnType::Double, "100"),
            ("1000000", ColumnType::Real, "1e+06"),
            ("123456.7", ColumnType::Real, "123456.7"),
            ("-inf", ColumnType::Double, "-Infinity"),
            ("1.005", numeric, "1.01"),
            ("-0.5", numeric, "-0.50"),
            ("12e1", numeric, "120.00"),
            ("\\x00fF", ColumnType::Bytea, "\\x00ff"),
            ("a\\000b", ColumnType::Bytea, "\\x610062"),
            ("2024-02-29", ColumnType::Date, "2024-02-29"),
            ("1969-12-31T23:59:59.5", ColumnType::Timestamp, "1969-12-31 23:59:59.5"),
            ("2024-06-01 12:00+02", ColumnType::TimestampTz, "2024-06-01 10:00:00+00"),
            ("2024-06-01 12:00:00-05:30", ColumnType::TimestampTz, "2024-06-01 17:30:00+00"),
        ] {
            comes_back(text, column_type, expected);
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for (text, column_type, code) in [
            ("maybe", ColumnType::Bool, "22P02"),
            ("40000", ColumnType::SmallInt, "22003"),
            ("1x", ColumnType::BigInt, "22P02"),
            ("2023-02-29", ColumnType::Date, "22007"),
            ("2023-13-01", ColumnType::Timestamp, "22007"),
            ("100", ColumnType::Numeric { precision: 4, scale: 2 }, "22003"),
            ("{", ColumnType::Json, "22P02"),
            ("\\xabc", ColumnType::Bytea, "22P02"),
        ] {
            assert_eq!(parse_value(text, column_type).unwrap_err().code, code, "{text}");
        }
    }

    #[test]
    fn parsers_survive_any_text() {
        for text in [
            "",
            "-",
            "é",
            "1-é-3",
            "0001-01-01 é",
            "2020-01-01 1:2:3.é",
            "+",
            "e",
            ".",
            "2020-01-01 00:00+é",
        ] {
            for column_type in [
                ColumnType::Date,
                ColumnType::TimestampTz,
                ColumnType::Bytea,
                ColumnType::Numeric { precision: 3, scale: 1 },
            ] {
                let _ = parse_value(text, column_type);
            }
        }
    }
}
