//! Writes.

use bytes::Bytes;
use proteus_machine::Ctx;
use proteus_store::StoreError;

use crate::entry::{self, Slot, Value};
use crate::{
    Change, CommandError, ExpireCondition, Expiry, Op, Reply, STRING_BYTES_MAX, SetCondition, query,
};

type Context<'a> = Ctx<'a, Change>;

pub(crate) fn apply(ctx: &mut Context<'_>, op: &Op) -> Result<Reply, StoreError> {
    match op {
        Op::Set { key, value, condition, expiry, get } => {
            set(ctx, key, value, *condition, *expiry, *get)
        }
        Op::SetMany { pairs, only_if_all_absent } => set_many(ctx, pairs, *only_if_all_absent),
        Op::Append { key, value } => append(ctx, key, value),
        Op::Increment { key, by } => increment(ctx, key, *by),
        Op::Delete { keys } => {
            let mut count = 0;
            for key in keys {
                count += i64::from(Slot::open(ctx, key)?.remove(ctx)?);
            }
            Ok(Reply::Integer(count))
        }
        Op::GetDelete { key } => {
            let slot = Slot::open(ctx, key)?;
            match slot.entry().map(|entry| entry.value.clone()) {
                None => Ok(Reply::Nil),
                Some(Value::Hash { .. }) => Ok(Reply::Error(CommandError::WrongType)),
                Some(Value::String(value)) => {
                    slot.remove(ctx)?;
                    Ok(Reply::Bulk(value))
                }
            }
        }
        Op::SetExpiry { key, expiry, condition } => set_expiry(ctx, key, *expiry, *condition),
        Op::HashSet { key, fields, only_absent } => hash_set(ctx, key, fields, *only_absent),
        Op::HashDelete { key, fields } => hash_delete(ctx, key, fields),
        Op::HashIncrement { key, field, by } => hash_increment(ctx, key, field, *by),
        Op::OrRefuse(op) => apply(ctx, op),
        Op::Clear => {
            entry::clear(ctx)?;
            Ok(Reply::Done)
        }
        Op::Query(query) => query::answer(ctx.read(), ctx.now_ms(), query),
        Op::Expire { key, expire_at_ms } => expire(ctx, key, *expire_at_ms),
    }
}

/// The time a write makes its key expire, given the present one.
fn resolve(ctx: &Context<'_>, expiry: Expiry, present_ms: Option<u64>) -> Option<u64> {
    match expiry {
        Expiry::Never => None,
        Expiry::Keep => present_ms,
        Expiry::InMs(in_ms) => Some(ctx.now_ms().saturating_add(in_ms)),
        Expiry::AtMs(at_ms) => Some(at_ms),
    }
}

fn set(
    ctx: &mut Context<'_>,
    key: &Bytes,
    value: &Bytes,
    condition: SetCondition,
    expiry: Expiry,
    get: bool,
) -> Result<Reply, StoreError> {
    let slot = Slot::open(ctx, key)?;
    let before = slot.entry().map(|entry| entry.value.clone());
    if get && matches!(before, Some(Value::Hash { .. })) {
        return Ok(Reply::Error(CommandError::WrongType));
    }
    let holds = match condition {
        SetCondition::Always => true,
        SetCondition::IfAbsent => before.is_none(),
        SetCondition::IfPresent => before.is_some(),
    };
    if holds {
        let expire_at_ms = resolve(ctx, expiry, slot.expire_at_ms());
        if expire_at_ms.is_some_and(|at_ms| at_ms <= ctx.now_ms()) {
            slot.remove(ctx)?;
        } else {
            slot.write(ctx, Value::String(value.clone()), expire_at_ms)?;
        }
    }
    Ok(match before {
        Some(Value::String(before)) if get => Reply::Bulk(before),
        _ if get || !holds => Reply::Nil,
        _ => Reply::Done,
    })
}

fn set_many(
    ctx: &mut Context<'_>,
    pairs: &[(Bytes, Bytes)],
    only_if_all_absent: bool,
) -> Result<Reply, StoreError> {
    if only_if_all_absent {
        for (key, _) in pairs {
            if Slot::open(ctx, key)?.entry().is_some() {
                return Ok(Reply::Integer(0));
            }
        }
    }
    for (key, value) in pairs {
        Slot::open(ctx, key)?.write(ctx, Value::String(value.clone()), None)?;
    }
    Ok(if only_if_all_absent { Reply::Integer(1) } else { Reply::Done })
}

fn append(ctx: &mut Context<'_>, key: &Bytes, added: &Bytes) -> Result<Reply, StoreError> {
    let slot = Slot::open(ctx, key)?;
    let mut value = match slot.entry().map(|entry| &entry.value) {
        None => Vec::new(),
        Some(Value::String(value)) => value.to_vec(),
        Some(Value::Hash { .. }) => return Ok(Reply::Error(CommandError::WrongType)),
    };
    if value.len() + added.len() > STRING_BYTES_MAX {
        return Ok(Reply::Error(CommandError::TooLong));
    }
    value.extend_from_slice(added);
    let length = i64::try_from(value.len()).unwrap_or(i64::MAX);
    let expire_at_ms = slot.expire_at_ms();
    slot.write(ctx, Value::String(Bytes::from(value)), expire_at_ms)?;
    Ok(Reply::Integer(length))
}

/// The number that `bytes` spell, in the one form that Redis accepts: no sign but a minus, no
/// leading zero, no space.
fn parse_integer(bytes: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == bytes).then_some(number)
}

fn increment(ctx: &mut Context<'_>, key: &Bytes, by: i64) -> Result<Reply, StoreError> {
    let slot = Slot::open(ctx, key)?;
    let before = match slot.entry().map(|entry| &entry.value) {
        None => 0,
        Some(Value::Hash { .. }) => return Ok(Reply::Error(CommandError::WrongType)),
        Some(Value::String(value)) => match parse_integer(value) {
            Some(number) => number,
            None => return Ok(Reply::Error(CommandError::NotAnInteger)),
        },
    };
    let Some(after) = before.checked_add(by) else {
        return Ok(Reply::Error(CommandError::Overflow));
    };
    let expire_at_ms = slot.expire_at_ms();
    slot.write(ctx, Value::String(Bytes::from(after.to_string())), expire_at_ms)?;
    Ok(Reply::Integer(after))
}

fn set_expiry(
    ctx: &mut Context<'_>,
    key: &Bytes,
    expiry: Expiry,
    condition: ExpireCondition,
) -> Result<Reply, StoreError> {
    let slot = Slot::open(ctx, key)?;
    let Some(entry) = slot.entry() else { return Ok(Reply::Integer(0)) };
    let present_ms = entry.expire_at_ms;
    let value = entry.value.clone();
    let new_ms = resolve(ctx, expiry, present_ms);
    let later = match (new_ms, present_ms) {
        (Some(new_ms), Some(present_ms)) => new_ms > present_ms,
        (_, None) => false,
        (None, Some(_)) => true,
    };
    let earlier = match (new_ms, present_ms) {
        (Some(new_ms), Some(present_ms)) => new_ms < present_ms,
        (Some(_), None) => true,
        (None, _) => false,
    };
    let holds = match condition {
        ExpireCondition::Always => true,
        ExpireCondition::IfNone => present_ms.is_none(),
        ExpireCondition::IfSome => present_ms.is_some(),
        ExpireCondition::IfLater => later,
        ExpireCondition::IfEarlier => earlier,
    };
    if !holds || (new_ms.is_none() && present_ms.is_none()) {
        return Ok(Reply::Integer(0));
    }
    if new_ms.is_some_and(|at_ms| at_ms <= ctx.now_ms()) {
        slot.remove(ctx)?;
    } else {
        slot.write(ctx, value, new_ms)?;
    }
    Ok(Reply::Integer(1))
}

/// The number of fields under the slot, or the error for another type.
fn field_count(slot: &Slot<'_>) -> Result<u64, Reply> {
    match slot.entry().map(|entry| &entry.value) {
        None => Ok(0),
        Some(Value::Hash { field_count }) => Ok(*field_count),
        Some(Value::String(_)) => Err(Reply::Error(CommandError::WrongType)),
    }
}

fn hash_set(
    ctx: &mut Context<'_>,
    key: &Bytes,
    fields: &[(Bytes, Bytes)],
    only_absent: bool,
) -> Result<Reply, StoreError> {
    let slot = Slot::open(ctx, key)?;
    let mut field_count = match field_count(&slot) {
        Ok(count) => count,
        Err(error) => return Ok(error),
    };
    slot.clear_remains(ctx)?;
    let mut added = 0;
    for (field, value) in fields {
        let is_new = entry::field(ctx.read(), key, field)?.is_none();
        if is_new {
            added += 1;
            field_count += 1;
        } else if only_absent {
            continue;
        }
        entry::put_field(ctx, key, field, value.clone());
    }
    if added > 0 || !only_absent {
        write_hash(ctx, slot, field_count)?;
    }
    Ok(Reply::Integer(added))
}

fn hash_delete(ctx: &mut Context<'_>, key: &Bytes, fields: &[Bytes]) -> Result<Reply, StoreError> {
    let slot = Slot::open(ctx, key)?;
    let mut field_count = match field_count(&slot) {
        Ok(0) => return Ok(Reply::Integer(0)),
        Ok(count) => count,
        Err(error) => return Ok(error),
    };
    let mut removed = 0;
    for field in fields {
        if entry::field(ctx.read(), key, field)?.is_some() {
            entry::delete_field(ctx, key, field);
            removed += 1;
            field_count -= 1;
        }
    }
    if removed > 0 && field_count == 0 {
        slot.remove(ctx)?;
    } else if removed > 0 {
        write_hash(ctx, slot, field_count)?;
    }
    Ok(Reply::Integer(removed))
}

fn hash_increment(
    ctx: &mut Context<'_>,
    key: &Bytes,
    field: &Bytes,
    by: i64,
) -> Result<Reply, StoreError> {
    let slot = Slot::open(ctx, key)?;
    let field_count = match field_count(&slot) {
        Ok(count) => count,
        Err(error) => return Ok(error),
    };
    slot.clear_remains(ctx)?;
    let present = entry::field(ctx.read(), key, field)?;
    let before = match &present {
        None => 0,
        Some(value) => match parse_integer(value) {
            Some(number) => number,
            None => return Ok(Reply::Error(CommandError::HashValueNotAnInteger)),
        },
    };
    let Some(after) = before.checked_add(by) else {
        return Ok(Reply::Error(CommandError::Overflow));
    };
    entry::put_field(ctx, key, field, Bytes::from(after.to_string()));
    write_hash(ctx, slot, field_count + u64::from(present.is_none()))?;
    Ok(Reply::Integer(after))
}

fn write_hash(ctx: &mut Context<'_>, slot: Slot<'_>, field_count: u64) -> Result<(), StoreError> {
    let expire_at_ms = slot.expire_at_ms();
    slot.write_head(ctx, field_count, expire_at_ms)
}

fn expire(ctx: &mut Context<'_>, key: &Bytes, expire_at_ms: u64) -> Result<Reply, StoreError> {
    let slot = Slot::open(ctx, key)?;
    if slot.entry().is_none() && slot.stored_expiry_ms() == Some(expire_at_ms) {
        slot.remove(ctx)?;
    }
    Ok(Reply::Done)
}
