//! Hashes.

use proteus_kernel_api::cache::{Op, Query};

use super::{Arguments, Request, Shape, read, write};
use crate::errors::RedisError;

type Parsed = Result<Request, RedisError>;

pub(super) fn hget(arguments: &Arguments<'_>) -> Parsed {
    read(Query::HashGet(arguments.at(0)?, arguments.at(1)?))
}

pub(super) fn hmget(arguments: &Arguments<'_>) -> Parsed {
    read(Query::HashGetMany(arguments.at(0)?, arguments.rest[1..].to_vec()))
}

pub(super) fn hgetall(arguments: &Arguments<'_>) -> Parsed {
    read(Query::HashGetAll(arguments.at(0)?))
}

pub(super) fn hkeys(arguments: &Arguments<'_>) -> Parsed {
    read(Query::HashKeys(arguments.at(0)?))
}

pub(super) fn hvals(arguments: &Arguments<'_>) -> Parsed {
    read(Query::HashValues(arguments.at(0)?))
}

pub(super) fn hlen(arguments: &Arguments<'_>) -> Parsed {
    read(Query::HashLength(arguments.at(0)?))
}

pub(super) fn hexists(arguments: &Arguments<'_>) -> Parsed {
    read(Query::HashExists(arguments.at(0)?, arguments.at(1)?))
}

fn set(arguments: &Arguments<'_>, only_absent: bool, shape: Shape) -> Parsed {
    let op = Op::HashSet { key: arguments.at(0)?, fields: arguments.pairs(1)?, only_absent };
    Ok(Request::Write(op, shape))
}

pub(super) fn hset(arguments: &Arguments<'_>) -> Parsed {
    set(arguments, false, Shape::Plain)
}

pub(super) fn hsetnx(arguments: &Arguments<'_>) -> Parsed {
    set(arguments, true, Shape::Plain)
}

pub(super) fn hmset(arguments: &Arguments<'_>) -> Parsed {
    set(arguments, false, Shape::Ok)
}

pub(super) fn hdel(arguments: &Arguments<'_>) -> Parsed {
    write(Op::HashDelete { key: arguments.at(0)?, fields: arguments.rest[1..].to_vec() })
}

pub(super) fn hincrby(arguments: &Arguments<'_>) -> Parsed {
    let by = arguments.integer(2)?;
    write(Op::HashIncrement { key: arguments.at(0)?, field: arguments.at(1)?, by })
}
