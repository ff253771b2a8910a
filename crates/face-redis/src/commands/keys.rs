//! Keys of any type: DEL, EXISTS, EXPIRE and their relatives.

use proteus_kernel_api::cache::{ExpireCondition, Expiry, Op, Query};

use super::{Arguments, Request, Shape, read, write};
use crate::errors::{RedisError, fixed};

type Parsed = Result<Request, RedisError>;

pub(super) fn del(arguments: &Arguments<'_>) -> Parsed {
    write(Op::Delete { keys: arguments.rest.to_vec() })
}

pub(super) fn exists(arguments: &Arguments<'_>) -> Parsed {
    read(Query::Exists(arguments.rest.to_vec()))
}

pub(super) fn kind(arguments: &Arguments<'_>) -> Parsed {
    read(Query::Type(arguments.at(0)?))
}

pub(super) fn pttl(arguments: &Arguments<'_>) -> Parsed {
    read(Query::TimeToLiveMs(arguments.at(0)?))
}

pub(super) fn ttl(arguments: &Arguments<'_>) -> Parsed {
    Ok(Request::Read(Query::TimeToLiveMs(arguments.at(0)?), Shape::Seconds))
}

pub(super) fn pexpiretime(arguments: &Arguments<'_>) -> Parsed {
    read(Query::ExpireAtMs(arguments.at(0)?))
}

pub(super) fn expiretime(arguments: &Arguments<'_>) -> Parsed {
    Ok(Request::Read(Query::ExpireAtMs(arguments.at(0)?), Shape::Seconds))
}

pub(super) fn persist(arguments: &Arguments<'_>) -> Parsed {
    let condition = ExpireCondition::Always;
    write(Op::SetExpiry { key: arguments.at(0)?, expiry: Expiry::Never, condition })
}

/// `EXPIRE key time [NX|XX|GT|LT]`; a time in the past removes the key.
fn set_expiry(arguments: &Arguments<'_>, unit_ms: i64, of_ms: fn(u64) -> Expiry) -> Parsed {
    let ms = arguments
        .integer(1)?
        .checked_mul(unit_ms)
        .filter(|ms| ms.unsigned_abs() < i64::MAX as u64 / 2)
        .ok_or_else(|| RedisError::invalid_expire(arguments.spec.name))?;
    // What lies in the past, however far, is over at once.
    let expiry = u64::try_from(ms).map_or(Expiry::AtMs(0), of_ms);
    let condition = condition(arguments)?;
    write(Op::SetExpiry { key: arguments.at(0)?, expiry, condition })
}

fn condition(arguments: &Arguments<'_>) -> Result<ExpireCondition, RedisError> {
    let mut condition = ExpireCondition::Always;
    let mut place = 2;
    while let Some(word) = arguments.word(place) {
        let next = match word.as_slice() {
            b"NX" => ExpireCondition::IfNone,
            b"XX" => ExpireCondition::IfSome,
            b"GT" => ExpireCondition::IfLater,
            b"LT" => ExpireCondition::IfEarlier,
            _ => {
                let word =
                    String::from_utf8_lossy(&arguments.at(place)?).replace(['\r', '\n'], " ");
                return Err(RedisError(format!("ERR Unsupported option {word}").into()));
            }
        };
        condition = match (condition, next) {
            (ExpireCondition::Always, next) => next,
            (before, next) if before == next => next,
            // XX adds nothing to GT, which already needs an expiry to be later than.
            (ExpireCondition::IfSome, ExpireCondition::IfLater)
            | (ExpireCondition::IfLater, ExpireCondition::IfSome) => ExpireCondition::IfLater,
            (ExpireCondition::IfNone, _) | (_, ExpireCondition::IfNone) => {
                return Err(fixed(
                    "ERR NX and XX, GT or LT options at the same time are not compatible",
                ));
            }
            _ => return Err(fixed("ERR GT and LT options at the same time are not compatible")),
        };
        place += 1;
    }
    Ok(condition)
}

pub(super) fn expire(arguments: &Arguments<'_>) -> Parsed {
    set_expiry(arguments, 1000, Expiry::InMs)
}

pub(super) fn pexpire(arguments: &Arguments<'_>) -> Parsed {
    set_expiry(arguments, 1, Expiry::InMs)
}

pub(super) fn expireat(arguments: &Arguments<'_>) -> Parsed {
    set_expiry(arguments, 1000, Expiry::AtMs)
}

pub(super) fn pexpireat(arguments: &Arguments<'_>) -> Parsed {
    set_expiry(arguments, 1, Expiry::AtMs)
}
