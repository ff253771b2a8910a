//! Redis data types with expiry: a pure state machine.
//!
//! Values are strings and hashes so far. A key's entry carries its type, the time it expires and its
//! revision: the commit timestamp of its last change, which is what WATCH compares. What has expired
//! is invisible at once, to readers by the view's time and to ops by the leader's stamp; its bytes go
//! when an [`Op::Expire`] that the leader proposes is applied.
//!
//! Reading order: [`Op`], [`Query`], [`Reply`], `entry`, `apply`, `query`.

mod apply;
mod entry;
mod query;

use bytes::Bytes;
use proteus_machine::{Abort, Ctx, Machine, View};
use proteus_store::{Read, StoreError};
use serde::{Deserialize, Serialize};

pub use entry::Revision;
pub use query::answer;

/// The machine: Redis keys.
#[derive(Debug, Clone, Copy)]
pub struct Cache;

/// Whether a SET applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetCondition {
    /// Always.
    Always,
    /// Only if the key is absent (NX).
    IfAbsent,
    /// Only if the key is present (XX).
    IfPresent,
}

/// When a key expires after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expiry {
    /// Never.
    Never,
    /// As it was before (KEEPTTL).
    Keep,
    /// This many milliseconds after the commit.
    InMs(u64),
    /// At this Unix time in milliseconds.
    AtMs(u64),
}

/// Whether an EXPIRE applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpireCondition {
    /// Always.
    Always,
    /// Only if the key has no expiry (NX).
    IfNone,
    /// Only if the key has one (XX).
    IfSome,
    /// Only if the new one is later (GT); a key without expiry counts as never.
    IfLater,
    /// Only if the new one is earlier (LT).
    IfEarlier,
}

/// A predicate on current state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Check {
    /// The key has not changed since it had this revision (WATCH).
    Unchanged {
        /// The key.
        key: Bytes,
        /// What [`revision`] said.
        revision: Revision,
    },
}

/// A change. Its reply is what the Redis command of the same name answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// SET and its relatives.
    Set {
        /// The key.
        key: Bytes,
        /// The new value.
        value: Bytes,
        /// Whether it applies.
        condition: SetCondition,
        /// When it expires.
        expiry: Expiry,
        /// Answer with the old value.
        get: bool,
    },
    /// MSET, and MSETNX if `only_if_all_absent`.
    SetMany {
        /// Keys and values.
        pairs: Vec<(Bytes, Bytes)>,
        /// Set none if any is present.
        only_if_all_absent: bool,
    },
    /// APPEND.
    Append {
        /// The key.
        key: Bytes,
        /// Bytes to add.
        value: Bytes,
    },
    /// INCRBY, DECRBY.
    Increment {
        /// The key.
        key: Bytes,
        /// Added to the number under it.
        by: i64,
    },
    /// DEL, UNLINK, GETDEL (which asks for the value).
    Delete {
        /// The keys.
        keys: Vec<Bytes>,
    },
    /// GETDEL.
    GetDelete {
        /// The key.
        key: Bytes,
    },
    /// EXPIRE and its relatives; [`Expiry::Never`] is PERSIST.
    SetExpiry {
        /// The key.
        key: Bytes,
        /// When it shall expire.
        expiry: Expiry,
        /// Whether it applies.
        condition: ExpireCondition,
    },
    /// HSET; HMSET answers OK instead.
    HashSet {
        /// The key.
        key: Bytes,
        /// Fields and values.
        fields: Vec<(Bytes, Bytes)>,
        /// Leave a field that is present (HSETNX).
        only_absent: bool,
    },
    /// HDEL.
    HashDelete {
        /// The key.
        key: Bytes,
        /// The fields.
        fields: Vec<Bytes>,
    },
    /// HINCRBY.
    HashIncrement {
        /// The key.
        key: Bytes,
        /// The field.
        field: Bytes,
        /// Added to the number under it.
        by: i64,
    },
    /// The op, but an error is a refusal of the whole minitransaction, as SQL's transactions want.
    OrRefuse(Box<Op>),
    /// FLUSHDB, FLUSHALL.
    Clear,
    /// A read in the order of the log, as inside EXEC.
    Query(Query),
    /// Removes a key whose time has come; the leader's timer proposes it.
    Expire {
        /// The key.
        key: Bytes,
        /// The time it was to expire; if that has changed, nothing happens.
        expire_at_ms: u64,
    },
}

/// A read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// GET.
    Get(Bytes),
    /// MGET: nil for what is absent or no string.
    GetMany(Vec<Bytes>),
    /// STRLEN.
    Length(Bytes),
    /// EXISTS: how many, counting repeats.
    Exists(Vec<Bytes>),
    /// TYPE.
    Type(Bytes),
    /// PTTL: -2 absent, -1 without expiry.
    TimeToLiveMs(Bytes),
    /// EXPIRETIME family: Unix time in milliseconds, -2 absent, -1 without expiry.
    ExpireAtMs(Bytes),
    /// HGET.
    HashGet(Bytes, Bytes),
    /// HMGET.
    HashGetMany(Bytes, Vec<Bytes>),
    /// HGETALL.
    HashGetAll(Bytes),
    /// HKEYS.
    HashKeys(Bytes),
    /// HVALS.
    HashValues(Bytes),
    /// HLEN.
    HashLength(Bytes),
    /// HEXISTS.
    HashExists(Bytes, Bytes),
    /// DBSIZE.
    KeyCount,
}

/// What an op or query answers. An error is an answer: in EXEC it undoes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// "OK".
    Done,
    /// No value.
    Nil,
    /// A number.
    Integer(i64),
    /// A value.
    Bulk(Bytes),
    /// A type's name.
    Status(&'static str),
    /// Values, some absent.
    Array(Vec<Option<Bytes>>),
    /// Fields and values, in order of the fields.
    Map(Vec<(Bytes, Bytes)>),
    /// The command could not be carried out and changed nothing.
    Error(CommandError),
}

/// Why a command could not be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The key holds another type.
    #[error("the key holds a value of another type")]
    WrongType,
    /// The value is no 64-bit number.
    #[error("the value is not a 64-bit integer")]
    NotAnInteger,
    /// The hash field's value is no 64-bit number.
    #[error("the hash field's value is not a 64-bit integer")]
    HashValueNotAnInteger,
    /// The sum does not fit in 64 bits.
    #[error("the sum does not fit in 64 bits")]
    Overflow,
    /// The string would exceed its limit.
    #[error("the string would be too long")]
    TooLong,
}

/// Longest string value, in bytes.
pub const STRING_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Why a check refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The command could not be carried out; of [`Op::OrRefuse`].
    #[error("{0}")]
    Command(CommandError),
    /// A watched key has changed.
    #[error("the key {} has changed since it was watched", .key.escape_ascii())]
    Changed {
        /// The key.
        key: Bytes,
    },
}

/// What followers of the feed learn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key has a new value or expiry.
    KeyWritten {
        /// The key.
        key: Bytes,
    },
    /// The key is gone.
    KeyRemoved {
        /// The key.
        key: Bytes,
        /// Because its time had come.
        expired: bool,
    },
    /// All keys are gone.
    Cleared,
}

/// The revision of `key` at `now_ms`: what [`Check::Unchanged`] compares with.
///
/// # Errors
/// If the store fails.
pub fn revision(state: &dyn Read, now_ms: u64, key: &[u8]) -> Result<Revision, StoreError> {
    Ok(entry::load(state, now_ms, key)?.map_or(Revision::ABSENT, |entry| entry.revision))
}

impl Machine for Cache {
    const SPACE: u8 = 0x30;
    type Check = Check;
    type Op = Op;
    type Reply = Reply;
    type Refusal = Refusal;
    type Change = Change;

    fn check(ctx: &mut Ctx<'_, Change>, check: &Check) -> Result<(), Abort<Refusal>> {
        let Check::Unchanged { key, revision: expected } = check;
        let now_ms = ctx.now_ms();
        if revision(ctx.read(), now_ms, key)? == *expected {
            Ok(())
        } else {
            Err(Abort::Refused(Refusal::Changed { key: key.clone() }))
        }
    }

    fn apply(ctx: &mut Ctx<'_, Change>, op: &Op) -> Result<Reply, Abort<Refusal>> {
        match (op, apply::apply(ctx, op)?) {
            (Op::OrRefuse(_), Reply::Error(error)) => Err(Abort::Refused(Refusal::Command(error))),
            (_, reply) => Ok(reply),
        }
    }

    fn due(view: View<'_>, count_max: usize) -> Result<Vec<Op>, StoreError> {
        let due = entry::due(view.state, view.now_ms, count_max)?;
        Ok(due.into_iter().map(|(key, expire_at_ms)| Op::Expire { key, expire_at_ms }).collect())
    }
}

#[cfg(test)]
mod tests;
