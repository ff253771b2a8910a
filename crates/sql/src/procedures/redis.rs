//! Procedures over the cache machine: the Redis commands of the same names.
//!
//! A command that Redis would answer with an error (a string's key taken for a hash) refuses the
//! whole transaction here.

use bytes::Bytes;
use proteus_kernel_api::cache::{Call, Op};

use super::{Arguments, Calls, Function, Procedure};
use crate::error::SqlError;

pub(super) fn procedures() -> Vec<Box<dyn Procedure>> {
    let all = [
        Function { name: "redis.set", parameters: "key, value", body: set },
        Function {
            name: "redis.hset",
            parameters: "key, field, value [, field, value …]",
            body: hset,
        },
        Function { name: "redis.hincrby", parameters: "key, field, increment", body: hincrby },
        Function { name: "redis.incrby", parameters: "key, increment", body: incrby },
        Function { name: "redis.del", parameters: "key [, key …]", body: del },
        Function { name: "redis.hdel", parameters: "key, field [, field …]", body: hdel },
        Function { name: "redis.expire", parameters: "key, milliseconds", body: expire },
    ];
    all.into_iter().map(|function| -> Box<dyn Procedure> { Box::new(function) }).collect()
}

/// Adds the command `word` to the transaction.
fn add(calls: &mut Calls<'_>, word: &'static str, arguments: Vec<Bytes>) {
    let key = arguments.first().map(|key| key.escape_ascii().to_string()).unwrap_or_default();
    let what = format!("redis.{word}('{key}')");
    let mut all = vec![Bytes::from_static(word.as_bytes())];
    all.extend(arguments);
    let call = Call { db: 0, seed: 0, origin: 0, arguments: all };
    calls.cross_face.op(Op::OrRefuse(call), what);
}

fn bytes(arguments: &mut Arguments<'_>) -> Result<Bytes, SqlError> {
    arguments.bytes().map(Bytes::from)
}

/// One or more of the remaining arguments.
fn several(arguments: &mut Arguments<'_>) -> Result<Vec<Bytes>, SqlError> {
    let mut all = vec![bytes(arguments)?];
    while !arguments.is_empty() {
        all.push(bytes(arguments)?);
    }
    Ok(all)
}

fn number(number: i64) -> Bytes {
    Bytes::from(number.to_string())
}

fn set(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let all = vec![bytes(arguments)?, bytes(arguments)?];
    add(calls, "set", all);
    Ok(())
}

fn hset(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let mut all = vec![bytes(arguments)?, bytes(arguments)?, bytes(arguments)?];
    while !arguments.is_empty() {
        all.extend([bytes(arguments)?, bytes(arguments)?]);
    }
    add(calls, "hset", all);
    Ok(())
}

fn hincrby(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let all = vec![bytes(arguments)?, bytes(arguments)?, number(arguments.int()?)];
    add(calls, "hincrby", all);
    Ok(())
}

fn incrby(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let all = vec![bytes(arguments)?, number(arguments.int()?)];
    add(calls, "incrby", all);
    Ok(())
}

fn del(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let keys = several(arguments)?;
    add(calls, "del", keys);
    Ok(())
}

fn hdel(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let mut all = vec![bytes(arguments)?];
    all.extend(several(arguments)?);
    add(calls, "hdel", all);
    Ok(())
}

fn expire(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let (key, in_ms) = (bytes(arguments)?, arguments.int()?);
    if in_ms < 0 {
        return Err(arguments.mismatch("milliseconds are negative"));
    }
    add(calls, "pexpire", vec![key, number(in_ms)]);
    Ok(())
}
