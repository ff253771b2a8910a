//! Numbers as Redis reads and writes them.

use bytes::Bytes;

/// The integer that `bytes` spell in the one form that Redis accepts: no sign but a minus, no
/// leading zero, no space.
pub fn parse_integer(bytes: &[u8]) -> Option<i64> {
    let (digits, is_negative) = match bytes {
        [b'-', rest @ ..] => (rest, true),
        rest => (rest, false),
    };
    match digits {
        [] => return None,
        [b'0'] if !is_negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut number: i64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        let digit = i64::from(digit - b'0');
        number = number.checked_mul(10)?;
        number =
            if is_negative { number.checked_sub(digit)? } else { number.checked_add(digit)? };
    }
    Some(number)
}

/// An integer as text.
pub(crate) fn integer_text(number: i64) -> Bytes {
    Bytes::copy_from_slice(integer_digits(number, &mut [0; 20]))
}

/// An integer as text, written at the end of a buffer that takes the longest.
pub(crate) fn integer_digits(number: i64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut place = buffer.len();
    let mut rest = number.unsigned_abs();
    loop {
        place -= 1;
        buffer[place] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        place -= 1;
        buffer[place] = b'-';
    }
    &buffer[place..]
}

/// The floating point number that `bytes` spell, as C's `strtod` reads it; NaN is none.
pub fn parse_float(bytes: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(bytes).ok()?;
    if text.is_empty() || text.starts_with(|c: char| c.is_ascii_whitespace()) {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    let (sign, unsigned) = match lower.as_bytes().first() {
        Some(b'-') => (-1.0, &lower[1..]),
        Some(b'+') => (1.0, &lower[1..]),
        _ => (1.0, lower.as_str()),
    };
    let number = match unsigned {
        "inf" | "infinity" => f64::INFINITY,
        _ if unsigned.starts_with("0x") => parse_hexadecimal(unsigned)?,
        _ if unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') => {
            unsigned.parse().ok()?
        }
        _ => return None,
    };
    Some(sign * number)
}

fn parse_hexadecimal(text: &str) -> Option<f64> {
    let digits = text.get(2..)?;
    u64::from_str_radix(digits, 16).ok().map(|number| number as f64)
}

/// A floating point number as Redis 7.4 writes a score.
pub fn float_text(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if number == 0.0 {
        return if number.is_sign_negative() { "-0" } else { "0" }.to_owned();
    }
    let half = (i64::MAX / 2) as f64;
    if number > -half && number < half && number.trunc() == number {
        return (number as i64).to_string();
    }
    // The shortest digits that read back as the number, as `d.ddd…e±x`.
    let scientific = format!("{:e}", number.abs());
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    let count = digits.len() as i32;
    let power = exponent - count + 1;
    let sign = if number < 0.0 { "-" } else { "" };
    let magnitude = exponent.abs();
    if power >= 0 && magnitude < count + 7 {
        return format!("{sign}{digits}{}", "0".repeat(power as usize));
    }
    if power < 0 && (power > -7 || magnitude < 4) {
        let point = count + power;
        return if point <= 0 {
            format!("{sign}0.{}{digits}", "0".repeat((-point) as usize))
        } else {
            let (whole, part) = digits.split_at(point as usize);
            format!("{sign}{whole}.{part}")
        };
    }
    let (first, rest) = digits.split_at(1);
    let point = if rest.is_empty() { "" } else { "." };
    let exponent_sign = if exponent < 0 { '-' } else { '+' };
    format!("{sign}{first}{point}{rest}e{exponent_sign}{magnitude}")
}

/// A floating point number with up to 17 digits behind the point.
pub fn decimal_float_text(number: f64) -> String {
    let text = format!("{number:.17}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Digits behind the point that INCRBYFLOAT keeps.
const DECIMAL_DIGITS: i32 = 17;

/// A decimal number times 10^17.
fn parse_decimal(bytes: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        None => (text, 0),
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
    };
    let (is_negative, mantissa) = match mantissa.as_bytes().first()? {
        b'-' => (true, &mantissa[1..]),
        b'+' => (false, &mantissa[1..]),
        _ => (false, mantissa),
    };
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + part.len() == 0 || !all_digits(whole) || !all_digits(part) {
        return None;
    }
    let mut scale =
        DECIMAL_DIGITS.checked_add(exponent)?.checked_sub(i32::try_from(part.len()).ok()?)?;
    let mut number: i128 = 0;
    for digit in whole.bytes().chain(part.bytes()) {
        number = number.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
    }
    while scale > 0 && number != 0 {
        number = number.checked_mul(10)?;
        scale -= 1;
    }
    while scale < 0 && number != 0 {
        // Rounded at the last step only.
        number = if scale == -1 { (number + 5) / 10 } else { number / 10 };
        scale += 1;
    }
    Some(if is_negative { -number } else { number })
}

fn decimal_text(number: i128) -> String {
    let unit = 10i128.pow(DECIMAL_DIGITS as u32);
    let sign = if number < 0 { "-" } else { "" };
    let (whole, part) =
        (number.unsigned_abs() / unit.unsigned_abs(), number.unsigned_abs() % unit.unsigned_abs());
    if part == 0 {
        return format!("{sign}{whole}");
    }
    let part = format!("{part:017}");
    format!("{sign}{whole}.{}", part.trim_end_matches('0'))
}

/// Why two numbers have no sum that can be kept.
pub(crate) enum NoSum {
    /// A summand is no number.
    NotAFloat,
    /// The sum is infinite or not a number.
    NotFinite,
}

/// The sum as INCRBYFLOAT answers it. Redis computes in 80-bit floating point and shows 17 decimals;
/// here decimals are added exactly, which agrees where its precision suffices.
pub(crate) fn add_floats(before: &[u8], by: &[u8]) -> Result<String, NoSum> {
    if let (Some(before), Some(by)) = (parse_decimal(before), parse_decimal(by))
        && let Some(sum) = before.checked_add(by)
    {
        return Ok(decimal_text(sum));
    }
    let before = parse_float(before).ok_or(NoSum::NotAFloat)?;
    let by = parse_float(by).ok_or(NoSum::NotAFloat)?;
    let sum = before + by;
    if !sum.is_finite() {
        return Err(NoSum::NotFinite);
    }
    let text = format!("{sum:.17}");
    Ok(if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    })
}

/// Bytes that sort as the numbers do; the number is not NaN.
pub(crate) fn ordered_float(number: f64) -> [u8; 8] {
    // Both zeros are one score.
    let bits = if number == 0.0 { 0 } else { number.to_bits() };
    let ordered = if bits >> 63 == 0 { bits | (1 << 63) } else { !bits };
    ordered.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_one_form() {
        for (text, number) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("-0", None),
            ("+1", None),
            ("01", None),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("", None),
            ("-", None),
            (" 1", None),
        ] {
            assert_eq!(parse_integer(text.as_bytes()), number, "{text}");
            if let Some(number) = number {
                assert_eq!(integer_text(number), text);
            }
        }
    }

    #[test]
    fn floats_are_written_as_redis_writes_them() {
        for (number, text) in [
            (3.0, "3"),
            (0.1, "0.1"),
            (1e20, "1e+20"),
            (1.5e-9, "1.5e-9"),
            (123456.789, "123456.789"),
            (-0.001, "-0.001"),
            (1e100, "1e+100"),
            (3e18, "3000000000000000000"),
        ] {
            assert_eq!(float_text(number), text);
        }
    }

    #[test]
    fn sums_of_decimals_are_exact() {
        let sum = |a: &str, b: &str| add_floats(a.as_bytes(), b.as_bytes()).ok();
        assert_eq!(sum("10.50", "0.1").as_deref(), Some("10.6"));
        assert_eq!(sum("5.0e3", "2.0e2").as_deref(), Some("5200"));
        assert_eq!(sum("0.1", "0.2").as_deref(), Some("0.3"));
        assert_eq!(sum("3", "-3.5").as_deref(), Some("-0.5"));
        assert_eq!(sum("x", "1"), None);
    }

    #[test]
    fn ordered_floats_sort() {
        let numbers = [f64::NEG_INFINITY, -2.5, -1e-300, 0.0, 1e-300, 1.0, f64::INFINITY];
        assert!(numbers.windows(2).all(|pair| ordered_float(pair[0]) < ordered_float(pair[1])));
        assert_eq!(ordered_float(0.0), ordered_float(-0.0));
    }
}
