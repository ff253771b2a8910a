//! Strings: GET, SET and their relatives.

use proteus_kernel_api::cache::{Expiry, Op, Query, SetCondition};

use super::{Arguments, Request, Shape, read, write};
use crate::errors::{NOT_AN_INTEGER, RedisError, SYNTAX, fixed};

type Parsed = Result<Request, RedisError>;

pub(super) fn get(arguments: &Arguments<'_>) -> Parsed {
    read(Query::Get(arguments.at(0)?))
}

pub(super) fn strlen(arguments: &Arguments<'_>) -> Parsed {
    read(Query::Length(arguments.at(0)?))
}

pub(super) fn mget(arguments: &Arguments<'_>) -> Parsed {
    read(Query::GetMany(arguments.rest.to_vec()))
}

pub(super) fn append(arguments: &Arguments<'_>) -> Parsed {
    write(Op::Append { key: arguments.at(0)?, value: arguments.at(1)? })
}

pub(super) fn getdel(arguments: &Arguments<'_>) -> Parsed {
    write(Op::GetDelete { key: arguments.at(0)? })
}

pub(super) fn mset(arguments: &Arguments<'_>) -> Parsed {
    write(Op::SetMany { pairs: arguments.pairs(0)?, only_if_all_absent: false })
}

pub(super) fn msetnx(arguments: &Arguments<'_>) -> Parsed {
    write(Op::SetMany { pairs: arguments.pairs(0)?, only_if_all_absent: true })
}

/// `SET key value [NX|XX] [GET] [EX s|PX ms|EXAT s|PXAT ms|KEEPTTL]`.
pub(super) fn set(arguments: &Arguments<'_>) -> Parsed {
    let mut condition = SetCondition::Always;
    let mut expiry = Expiry::Never;
    let mut get = false;
    let mut place = 2;
    while let Some(word) = arguments.word(place) {
        match word.as_slice() {
            b"NX" if condition == SetCondition::Always => condition = SetCondition::IfAbsent,
            b"XX" if condition == SetCondition::Always => condition = SetCondition::IfPresent,
            b"GET" => get = true,
            b"KEEPTTL" if expiry == Expiry::Never => expiry = Expiry::Keep,
            unit @ (b"EX" | b"PX" | b"EXAT" | b"PXAT") if expiry == Expiry::Never => {
                place += 1;
                if arguments.rest.get(place).is_none() {
                    return Err(SYNTAX);
                }
                expiry = positive_expiry(arguments, place, unit)?;
            }
            _ => return Err(SYNTAX),
        }
        place += 1;
    }
    write(Op::Set { key: arguments.at(0)?, value: arguments.at(1)?, condition, expiry, get })
}

/// An expiry that a value is written with, which must lie in the future.
fn positive_expiry(
    arguments: &Arguments<'_>,
    place: usize,
    unit: &[u8],
) -> Result<Expiry, RedisError> {
    let invalid = || RedisError::invalid_expire(arguments.spec.name);
    let number = u64::try_from(arguments.integer(place)?).map_err(|_| invalid())?;
    let ms = if unit.starts_with(b"P") { Some(number) } else { number.checked_mul(1000) };
    match ms.filter(|ms| (1..i64::MAX as u64 / 2).contains(ms)) {
        None => Err(invalid()),
        Some(ms) if unit.ends_with(b"AT") => Ok(Expiry::AtMs(ms)),
        Some(ms) => Ok(Expiry::InMs(ms)),
    }
}

fn set_with_expiry(arguments: &Arguments<'_>, unit: &[u8]) -> Parsed {
    let expiry = positive_expiry(arguments, 1, unit)?;
    let condition = SetCondition::Always;
    write(Op::Set { key: arguments.at(0)?, value: arguments.at(2)?, condition, expiry, get: false })
}

pub(super) fn setex(arguments: &Arguments<'_>) -> Parsed {
    set_with_expiry(arguments, b"EX")
}

pub(super) fn psetex(arguments: &Arguments<'_>) -> Parsed {
    set_with_expiry(arguments, b"PX")
}

pub(super) fn setnx(arguments: &Arguments<'_>) -> Parsed {
    let op = Op::Set {
        key: arguments.at(0)?,
        value: arguments.at(1)?,
        condition: SetCondition::IfAbsent,
        expiry: Expiry::Never,
        get: false,
    };
    Ok(Request::Write(op, Shape::OneOrZero))
}

pub(super) fn getset(arguments: &Arguments<'_>) -> Parsed {
    write(Op::Set {
        key: arguments.at(0)?,
        value: arguments.at(1)?,
        condition: SetCondition::Always,
        expiry: Expiry::Never,
        get: true,
    })
}

fn increment(arguments: &Arguments<'_>, by: i64) -> Parsed {
    write(Op::Increment { key: arguments.at(0)?, by })
}

pub(super) fn incr(arguments: &Arguments<'_>) -> Parsed {
    increment(arguments, 1)
}

pub(super) fn decr(arguments: &Arguments<'_>) -> Parsed {
    increment(arguments, -1)
}

pub(super) fn incrby(arguments: &Arguments<'_>) -> Parsed {
    increment(arguments, arguments.integer(1)?)
}

pub(super) fn decrby(arguments: &Arguments<'_>) -> Parsed {
    let by = arguments.integer(1)?;
    match by.checked_neg() {
        Some(by) => increment(arguments, by),
        None if by == i64::MIN => Err(fixed("ERR decrement would overflow")),
        None => Err(NOT_AN_INTEGER),
    }
}
