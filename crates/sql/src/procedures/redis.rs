//! Procedures over the cache machine: the Redis commands of the same names.
//!
//! A command that Redis would answer with an error (a string's key taken for a hash) refuses the
//! whole transaction here.

use bytes::Bytes;
use proteus_kernel_api::cache::{ExpireCondition, Expiry, Op, SetCondition};

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

fn add(calls: &mut Calls<'_>, name: &str, key: &Bytes, op: Op) {
    let what = format!("{name}('{}')", key.escape_ascii());
    calls.cross_face.op(Op::OrRefuse(Box::new(op)), what);
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

fn set(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let (key, value) = (bytes(arguments)?, bytes(arguments)?);
    let (condition, expiry) = (SetCondition::Always, Expiry::Never);
    add(calls, "redis.set", &key.clone(), Op::Set { key, value, condition, expiry, get: false });
    Ok(())
}

fn hset(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let key = bytes(arguments)?;
    let mut fields = vec![(bytes(arguments)?, bytes(arguments)?)];
    while !arguments.is_empty() {
        fields.push((bytes(arguments)?, bytes(arguments)?));
    }
    add(calls, "redis.hset", &key.clone(), Op::HashSet { key, fields, only_absent: false });
    Ok(())
}

fn hincrby(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let (key, field, by) = (bytes(arguments)?, bytes(arguments)?, arguments.int()?);
    add(calls, "redis.hincrby", &key.clone(), Op::HashIncrement { key, field, by });
    Ok(())
}

fn incrby(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let (key, by) = (bytes(arguments)?, arguments.int()?);
    add(calls, "redis.incrby", &key.clone(), Op::Increment { key, by });
    Ok(())
}

fn del(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let keys = several(arguments)?;
    let first = keys.first().cloned().unwrap_or_default();
    add(calls, "redis.del", &first, Op::Delete { keys });
    Ok(())
}

fn hdel(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let (key, fields) = (bytes(arguments)?, several(arguments)?);
    add(calls, "redis.hdel", &key.clone(), Op::HashDelete { key, fields });
    Ok(())
}

fn expire(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let (key, in_ms) = (bytes(arguments)?, arguments.int()?);
    let in_ms =
        u64::try_from(in_ms).map_err(|_| arguments.mismatch("milliseconds are negative"))?;
    let (expiry, condition) = (Expiry::InMs(in_ms), ExpireCondition::Always);
    add(calls, "redis.expire", &key.clone(), Op::SetExpiry { key, expiry, condition });
    Ok(())
}
