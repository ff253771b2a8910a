//! Redis' data types and commands: a pure state machine.
//!
//! An op is a command by its arguments, as Redis itself replicates them; a script is one op, whose
//! commands run where it is applied. What a client may not decide travels with the op: the database, and
//! a seed for commands that choose. Time is the commit's.
//!
//! What has expired is invisible at once, to readers by the view's time and to ops by the leader's
//! stamp; its bytes go when an [`Op::Expire`] that the leader proposes is applied.
//!
//! Reading order: [`Op`], [`Reply`], `layout`, `head`, `collection`, `exec`, then any file of
//! `commands`.

pub mod acl;
mod call;
mod collection;
pub mod commands;
mod consequences;
mod declared;
mod exec;
mod gathered;
mod head;
mod layout;
mod leaders;
mod memory;
mod number;
mod pattern;
mod questions;
mod random;
pub mod rdb;
mod replicas;
mod reply;
mod script;
mod settings;
pub mod slots;
pub mod spread;

use bytes::Bytes;
use proteus_machine::key::{first_u64, has_any};
use proteus_machine::{Abort, Ctx, Machine, View};
use proteus_store::{Direction, Read, StoreError};
use proteus_types::{NodeId, ShardId, SlotMap};
use serde::{Deserialize, Serialize};

use std::ops::ControlFlow;

pub use call::Call;
pub use consequences::{Consequence, Effect, KeyEvent};
pub use declared::{
    DECLARATIONS_MAX, Declaration, DeclarationKind, DerivedEntry, EventTarget, INVALIDATED_MS,
    KeyPart, RecordedEvents, Refresh, declarations, declared_kinds, recorded_events,
};
pub use gathered::{Gathered, Place};
pub use head::{Kind, Revision};
pub use leaders::{ChosenLeader, chosen_leaders};
pub use memory::{Candidate, candidates, recount, size_of, soonest, sums, used_bytes};
pub use number::{decimal_float_text, float_text, parse_float, parse_integer};
pub use pattern::matches;
pub use questions::{Answer, PARCELS_BYTES, Parcel, Parceled, Question, ROWS_BYTES_MAX, Rows};
pub use replicas::{Replicas, replicas};
pub use reply::Reply;
pub use settings::{SETTING_BYTES_MAX, setting, settings};

use exec::{Exec, ReadOnly, Stop};
use head::Head;
use slots::OwnSlots;
use spread::Reach;

/// First byte of every key of this machine.
pub(crate) const SPACE: u8 = 0x30;

/// Number of databases, as Redis has by default.
pub const DATABASE_COUNT: u8 = 16;

/// Longest value of a string, in bytes.
pub const STRING_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Longest key, member, field or name, in bytes: the store's limit less what stands around one.
pub const KEY_BYTES_MAX: usize = 60 * 1024;

const _: () = assert!(KEY_BYTES_MAX + 1024 < proteus_store::KEY_BYTES_MAX);

/// The machine: Redis keys.
#[derive(Debug, Clone, Copy)]
pub struct Cache;

/// A predicate on current state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Check {
    /// The key has not changed since it had this revision (WATCH).
    Unchanged {
        /// The database.
        db: u8,
        /// The key.
        key: Bytes,
        /// What [`revision`] said.
        revision: Revision,
    },
    /// A setting has this value, or is not there.
    SettingIs {
        /// Its name.
        name: String,
        /// Its value.
        value: Option<Bytes>,
    },
    /// The map of slots has this version.
    SlotMapIs {
        /// The version.
        version: u64,
    },
    /// What every shard has is as it was.
    SharedIs {
        /// [`slots::digest`] of [`slots::shared_rows`].
        digest: u64,
    },
}

/// A change, or a read in the order of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// A command; an error is its reply.
    Command(Call),
    /// A command whose error refuses the whole minitransaction, as SQL's transactions want.
    OrRefuse(Call),
    /// A command that runs scripts, for a user who may not do everything: each of their commands is held
    /// against the user's rights.
    Restricted {
        /// The command.
        call: Call,
        /// The user's name.
        user: String,
        /// Its rules, as [`acl::User::rules`] gives them.
        rules: String,
    },
    /// Sets or removes what holds for all nodes.
    PutSetting {
        /// Its name.
        name: String,
        /// Its value.
        value: Option<Bytes>,
    },
    /// Declares what follows from other changes.
    Declare {
        /// A name for it.
        name: String,
        /// What.
        declaration: Declaration,
    },
    /// Ends a declaration.
    Revoke {
        /// Its name.
        name: String,
        /// Its kind.
        kind: DeclarationKind,
    },
    /// Takes all entries away whose keys fit a pattern, as the rows that they followed from are gone.
    InvalidateMatching {
        /// The database.
        db: u8,
        /// The pattern.
        pattern: Bytes,
    },
    /// Takes an entry away that follows from a row.
    Invalidate {
        /// The database.
        db: u8,
        /// The key.
        key: Bytes,
    },
    /// Forgets that an entry was taken away; the leader's timer proposes it.
    ForgetInvalidated {
        /// The database.
        db: u8,
        /// The key.
        key: Bytes,
        /// Until when it was to be remembered.
        until_ms: u64,
    },
    /// Removes a key whose time has come; the leader's timer proposes it.
    Expire {
        /// The database.
        db: u8,
        /// The key.
        key: Bytes,
        /// The time it was to expire; if that has changed, nothing happens.
        expire_at_ms: u64,
    },
    /// Removes fields of a hash whose time has come; the leader's timer proposes it.
    ExpireFields {
        /// The database.
        db: u8,
        /// The key.
        key: Bytes,
    },
    /// Removes some elements of a large collection that is gone; the leader's timer proposes it.
    Reclaim {
        /// The collection's id.
        id: u64,
    },
    /// Removes a key to make room.
    Evict {
        /// The database.
        db: u8,
        /// The key.
        key: Bytes,
        /// What it was when it was chosen; if it has changed since, nothing happens.
        revision: Revision,
    },
    /// Tells the first shard which node an operator wants to lead some shard.
    ChooseLeader {
        /// The shard.
        shard: ShardId,
        /// The node.
        node: NodeId,
        /// For how long, in milliseconds; 0 takes an earlier choice back.
        keep_ms: u64,
    },
    /// Tells the first shard how many replicas each other shall have.
    SetReplicaCount {
        /// So many, each on another node; 0: one on every node.
        count: u32,
    },
    /// Tells the first shard which nodes shall have the replicas of some other.
    PlaceReplicas {
        /// The shard.
        shard: ShardId,
        /// What was said before, ascending; nothing happens if it is not.
        was: Vec<NodeId>,
        /// The nodes, ascending; none: every node.
        nodes: Vec<NodeId>,
    },
    /// Tells the shard which shard has which slots.
    SetSlots {
        /// The map.
        map: SlotMap,
    },
    /// Takes the keys of some slots out of the shard, if they have not changed.
    TakeSlots {
        /// The first slot.
        first: u16,
        /// The last.
        last: u16,
        /// [`slots::digest`] of [`slots::rows_of`] these slots.
        digest: u64,
    },
    /// Puts the keys of some slots into the shard.
    GiveSlots {
        /// The first slot.
        first: u16,
        /// The last.
        last: u16,
        /// What [`slots::rows_of`] told of the shard that they come from.
        rows: Bytes,
    },
    /// Puts what every shard has into a new one.
    GiveShared {
        /// What [`slots::shared_rows`] told.
        rows: Bytes,
    },
}

impl Op {
    /// A command in the first database.
    pub fn command<A: AsRef<[u8]>>(arguments: &[A]) -> Op {
        Op::Command(Call::new(arguments))
    }
}

/// Why a check or an op refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The command could not be carried out; of [`Op::OrRefuse`].
    #[error("{0}")]
    Command(String),
    /// A watched key has changed.
    #[error("the key {} has changed since it was watched", .key.escape_ascii())]
    Changed {
        /// The key.
        key: Bytes,
    },
    /// The keys are in another shard.
    #[error("the key is in another shard")]
    Elsewhere,
    /// This follows in other shards, and whoever proposed did not say so.
    #[error("the change concerns other shards, too")]
    Consequences(Vec<Consequence>),
    /// Keys that were to move have changed.
    #[error("the keys have changed meanwhile")]
    RowsChanged,
    /// The map of slots has changed.
    #[error("the slots have moved meanwhile")]
    SlotsMoved,
    /// The replicas of a shard were placed elsewhere.
    #[error("the replicas have been placed elsewhere meanwhile")]
    ReplicasPlaced,
    /// A setting has changed.
    #[error("the setting {name} has changed meanwhile")]
    SettingChanged {
        /// Its name.
        name: String,
    },
}

/// Classes of events, as `notify-keyspace-events` selects them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are Redis' own")]
pub enum Class {
    Generic,
    String,
    List,
    Set,
    Hash,
    SortedSet,
    Stream,
    Expired,
    Evicted,
    New,
}

impl Class {
    /// The letter by which `notify-keyspace-events` selects it.
    pub fn letter(self) -> u8 {
        match self {
            Class::Generic => b'g',
            Class::String => b'$',
            Class::List => b'l',
            Class::Set => b's',
            Class::Hash => b'h',
            Class::SortedSet => b'z',
            Class::Stream => b't',
            Class::Expired => b'x',
            Class::Evicted => b'e',
            Class::New => b'n',
        }
    }
}

/// What followers of the feed learn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Something happened to a key.
    Key {
        /// Its database.
        db: u8,
        /// The key.
        key: Bytes,
        /// Of which class the event is.
        class: Class,
        /// What happened, in Redis' word.
        event: &'static str,
        /// Whose command did it; 0 for nobody's.
        origin: u64,
    },
    /// All keys of a database are gone.
    Cleared {
        /// The database.
        db: u8,
    },
    /// A message was published.
    Published {
        /// To this channel.
        channel: Bytes,
        /// The message.
        message: Bytes,
        /// By SPUBLISH.
        is_sharded: bool,
    },
    /// The shard was told which shard has which slots.
    Slots(Box<SlotMap>),
    /// Which nodes are to have replicas of which shards has changed.
    Replicas,
    /// What is declared has changed; these events are written down from now on.
    Declared(Vec<RecordedEvents>),
    /// A setting has a new value, or is gone.
    Setting {
        /// Its name.
        name: String,
        /// Its value.
        value: Option<Bytes>,
    },
}

/// The revision of `key` at `now_ms`: what [`Check::Unchanged`] compares with.
///
/// # Errors
/// If the store fails.
pub fn revision(state: &dyn Read, now_ms: u64, db: u8, key: &[u8]) -> Result<Revision, StoreError> {
    if key.len() > KEY_BYTES_MAX {
        return Ok(Revision::ABSENT);
    }
    let place = layout::head(db, key);
    let absent = || {
        // Of an entry that follows from rows it counts when it was taken away.
        let invalidated = declared::invalidated(state, db, key)?;
        Ok(invalidated.unwrap_or(Revision::ABSENT))
    };
    let Some(bytes) = state.get(&place)? else { return absent() };
    let head = Head::decode(&place, bytes)?;
    if head.is_expired(now_ms) { absent() } else { Ok(head.revision) }
}

/// Tells the key of the store that applying the op most likely begins by looking up.
pub fn first_key(op: &Op, tell: &mut dyn FnMut(&[u8])) {
    // Of nearly all commands the first argument is a key; for others the hint is useless, and no more.
    if let Op::Command(call) = op
        && let Some(key) = call.arguments.get(1).filter(|key| key.len() <= FIRST_KEY_BYTES_MAX)
    {
        tell(&layout::head(call.db, key));
    }
}

/// Has the processor fetch what reads of these keys will look at: a hint that changes nothing.
pub fn prefetch(view: View<'_>, db: u8, keys: &[&[u8]]) {
    let worth_it = keys.iter().filter(|key| key.len() <= FIRST_KEY_BYTES_MAX);
    view.state.prefetch(&|add| worth_it.clone().for_each(|key| add(&layout::head(db, key))));
}

/// Longest first argument that is worth working its place out for a hint.
const FIRST_KEY_BYTES_MAX: usize = 64;

/// Answers a command that only reads.
///
/// # Errors
/// If the store fails; any other error is an answer.
pub fn answer(view: View<'_>, call: &Call) -> Result<Reply, StoreError> {
    let mut access = ReadOnly(view);
    let mut exec = Exec::new(&mut access, call.db, call.seed);
    settle(commands::run_reader(&mut exec, &call.arguments))
}

/// As [`answer`], of the command that the call names: for those who have looked it up, and seen that the
/// number of arguments is right.
///
/// # Errors
/// As [`answer`].
pub fn answer_known(
    view: View<'_>,
    command: &commands::Command,
    call: &Call,
) -> Result<Reply, StoreError> {
    let mut access = ReadOnly(view);
    let mut exec = Exec::new(&mut access, call.db, call.seed);
    settle(commands::run_known_reader(&mut exec, command, &call.arguments))
}

/// A key's type and how many elements it has, if it is there; what those who wait for one ask.
///
/// # Errors
/// If the store fails.
pub fn kind_and_count(
    view: View<'_>,
    db: u8,
    key: &[u8],
) -> Result<Option<(Kind, u64)>, StoreError> {
    let mut access = ReadOnly(view);
    let exec = Exec::new(&mut access, db, 0);
    let Some(head) = exec.head(key)? else { return Ok(None) };
    let count = match head.kind {
        Kind::String => 1,
        kind => match exec.collection(key, kind) {
            Ok(held) => held.map_or(0, |held| held.count),
            Err(Stop::Fault(fault)) => return Err(fault),
            Err(Stop::Error(_)) => 0,
        },
    };
    Ok(Some((head.kind, count)))
}

/// The arguments of an XREAD that is about to wait, with `$` and `+` replaced by the ids that they mean
/// now; other arguments as they are.
///
/// # Errors
/// If the store fails.
pub fn resolve_read(view: View<'_>, call: &Call) -> Result<Vec<Bytes>, StoreError> {
    let mut access = ReadOnly(view);
    let exec = Exec::new(&mut access, call.db, 0);
    match commands::resolve_read(&exec, &call.arguments) {
        Ok(resolved) => Ok(resolved),
        Err(Stop::Fault(fault)) => Err(fault),
        Err(Stop::Error(_)) => Ok(call.arguments.clone()),
    }
}

/// As [`answer`], of a command that would write, had it something to write to: for those that find
/// nothing, and are asked for their error.
///
/// # Errors
/// If the store fails.
pub fn rehearse(view: View<'_>, call: &Call) -> Result<Reply, StoreError> {
    let mut access = ReadOnly(view);
    let mut exec = Exec::new(&mut access, call.db, call.seed);
    settle(commands::run(&mut exec, &call.arguments))
}

/// The hash slot of a key, by Redis Cluster's rule.
pub fn hash_slot(key: &[u8]) -> u16 {
    proteus_types::Slot::of_key(key).number()
}

/// Keys of the first database in a hash slot, at most `count_max`.
///
/// # Errors
/// If the store fails.
pub fn keys_in_slot(view: View<'_>, slot: u16, count_max: usize) -> Result<Vec<Bytes>, StoreError> {
    let mut access = ReadOnly(view);
    let exec = Exec::new(&mut access, 0, 0);
    let mut found = Vec::new();
    let (start, end) = (u64::from(slot) << 32, (u64::from(slot) + 1) << 32);
    if count_max > 0 {
        exec.scan_keys(start, end, &mut |key, _| {
            if found.len() < count_max {
                found.push(Bytes::copy_from_slice(key));
            }
            if found.len() >= count_max {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
    }
    Ok(found)
}

/// How many keys each database has, and how many of them expire.
///
/// # Errors
/// If the store fails.
pub fn database_counts(view: View<'_>) -> Result<Vec<(u64, u64)>, StoreError> {
    let mut access = ReadOnly(view);
    let exec = Exec::new(&mut access, 0, 0);
    (0..DATABASE_COUNT).map(|db| exec.counts(db)).collect()
}

fn settle(result: exec::Result) -> Result<Reply, StoreError> {
    match result {
        Ok(reply) => Ok(reply),
        Err(Stop::Error(text)) => Ok(Reply::Error(text)),
        Err(Stop::Fault(fault)) => Err(fault),
    }
}

impl Machine for Cache {
    const SPACE: u8 = SPACE;
    type Check = Check;
    type Op = Op;
    type Reply = Reply;
    type Refusal = Refusal;
    type Change = Change;

    fn check(ctx: &mut Ctx<'_, Change>, check: &Check) -> Result<(), Abort<Refusal>> {
        let (db, key, expected) = match check {
            Check::Unchanged { db, key, revision } => (db, key, revision),
            Check::SettingIs { name, value } => {
                return settings::check(ctx, name, value.as_ref());
            }
            Check::SlotMapIs { version } => {
                let is_same = slots::slot_map(ctx)?.version == *version;
                return if is_same { Ok(()) } else { Err(Abort::Refused(Refusal::SlotsMoved)) };
            }
            Check::SharedIs { digest } => {
                let is_same = slots::digest(&slots::shared_rows(ctx)?) == *digest;
                return if is_same { Ok(()) } else { Err(Abort::Refused(Refusal::RowsChanged)) };
            }
        };
        if let Some(own) = OwnSlots::of(ctx)? {
            own.hold(key)?;
        }
        let now_ms = ctx.now_ms();
        if revision(ctx.read(), now_ms, *db, key)? == *expected {
            Ok(())
        } else {
            Err(Abort::Refused(Refusal::Changed { key: key.clone() }))
        }
    }

    fn apply(ctx: &mut Ctx<'_, Change>, op: &Op) -> Result<Reply, Abort<Refusal>> {
        let own = OwnSlots::of(ctx)?;
        if let Some(own) = &own
            && let Reach::Keys(keys) = spread::reach(op)
        {
            keys.into_iter().try_for_each(|key| own.hold(key))?;
        }
        let run = |ctx: &mut Ctx<'_, Change>, call: &Call, user: Option<Box<acl::User>>| {
            let mut exec = Exec::new(ctx, call.db.min(DATABASE_COUNT - 1), call.seed);
            exec.origin = call.origin;
            exec.user = user;
            exec.slots = own;
            settle(commands::run(&mut exec, &call.arguments))
        };
        match op {
            Op::Command(call) => Ok(run(ctx, call, None)?),
            Op::OrRefuse(call) => match run(ctx, call, None)? {
                Reply::Error(text) => Err(Abort::Refused(Refusal::Command(text.into_owned()))),
                reply => Ok(reply),
            },
            Op::Restricted { call, user, rules } => {
                // Rules that nobody could have made allow nothing.
                let user =
                    acl::User::from_rules(user, rules).unwrap_or_else(|_| acl::User::new(user));
                Ok(run(ctx, call, Some(Box::new(user)))?)
            }
            Op::ChooseLeader { shard, node, keep_ms } => {
                leaders::choose(ctx, *shard, *node, *keep_ms)?;
                Ok(Reply::OK)
            }
            Op::SetReplicaCount { count } => {
                replicas::set_count(ctx, *count)?;
                Ok(Reply::OK)
            }
            Op::PlaceReplicas { shard, was, nodes } => {
                replicas::place(ctx, *shard, was, nodes)?;
                Ok(Reply::OK)
            }
            Op::SetSlots { map } => {
                slots::set(ctx, map)?;
                Ok(Reply::OK)
            }
            Op::TakeSlots { first, last, digest } => {
                slots::take(ctx, *first, *last, *digest)?;
                Ok(Reply::OK)
            }
            Op::GiveShared { rows } => {
                slots::put_rows(ctx, rows)?;
                Ok(Reply::OK)
            }
            Op::GiveSlots { first, last, rows } => {
                slots::give(ctx, *first, *last, rows)?;
                Ok(Reply::OK)
            }
            Op::Declare { name, declaration } => declared::declare(ctx, name, declaration),
            Op::Revoke { name, kind } => declared::revoke(ctx, name, *kind),
            Op::InvalidateMatching { db, pattern } => {
                let db = (*db).min(DATABASE_COUNT - 1);
                Ok(declared::invalidate_matching(ctx, db, pattern)?)
            }
            Op::Invalidate { db, key } => {
                Ok(declared::invalidate(ctx, (*db).min(DATABASE_COUNT - 1), key)?)
            }
            Op::ForgetInvalidated { db, key, until_ms } => {
                Ok(declared::forget(ctx, *db, key, *until_ms)?)
            }
            Op::PutSetting { name, value } => Ok(settings::put(ctx, name, value.as_ref())),
            Op::Expire { db, key, expire_at_ms } => Ok(expire(ctx, *db, key, *expire_at_ms)?),
            Op::ExpireFields { db, key } => {
                let mut exec = Exec::new(ctx, *db, 0);
                Ok(settle(commands::expire_fields(&mut exec, key))?)
            }
            Op::Reclaim { id } => {
                let mut exec = Exec::new(ctx, 0, 0);
                if !exec.reclaim(*id)? {
                    ctx.delete(layout::garbage(*id));
                }
                Ok(Reply::OK)
            }
            Op::Evict { db, key, revision } => {
                let mut exec = Exec::new(ctx, *db, 0);
                let before = exec.before(key)?;
                if before.stored.as_ref().is_none_or(|head| head.revision != *revision) {
                    return Ok(Reply::ZERO);
                }
                if exec.remove_known(key, &before, false)? {
                    exec.notify(Class::Evicted, "evicted", key);
                }
                Ok(Reply::OK)
            }
        }
    }

    fn due(view: View<'_>, count_max: usize) -> Result<Vec<Op>, StoreError> {
        let mut ops = Vec::new();
        let mut timed = |kind: u8, make: &dyn Fn(u64, u8, Bytes) -> Op| {
            let start = [SPACE, kind];
            let end = layout::timed_until(kind, view.now_ms.saturating_add(1));
            let mut count = 0;
            view.state.scan(&start, &end, Direction::Ascending, &mut |place, _| {
                if count == count_max {
                    return ControlFlow::Break(());
                }
                if let Some((at_ms, db, key)) = layout::split_timed(place) {
                    ops.push(make(at_ms, db, Bytes::copy_from_slice(key)));
                    count += 1;
                }
                ControlFlow::Continue(())
            })
        };
        timed(layout::KIND_EXPIRY, &|expire_at_ms, db, key| Op::Expire { db, key, expire_at_ms })?;
        timed(layout::KIND_INVALIDATED_UNTIL, &|until_ms, db, key| Op::ForgetInvalidated {
            db,
            key,
            until_ms,
        })?;
        timed(layout::KIND_FIELD_EXPIRY, &|_, db, key| Op::ExpireFields { db, key })?;
        let mut count = 0;
        view.state.scan_prefix(&[SPACE, layout::KIND_GARBAGE], &mut |place, _| {
            if let Some((id, _)) = place.get(2..).and_then(proteus_machine::key::take_u64) {
                ops.push(Op::Reclaim { id });
            }
            count += 1;
            if count >= count_max.min(16) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        Ok(ops)
    }

    fn next_due_ms(state: &dyn Read) -> Result<Option<u64>, StoreError> {
        if has_any(state, SPACE, layout::KIND_GARBAGE)? {
            return Ok(Some(0));
        }
        let first = |kind| first_u64(state, SPACE, kind);
        let expiry = first(layout::KIND_EXPIRY)?;
        let invalidated = first(layout::KIND_INVALIDATED_UNTIL)?;
        let fields = first(layout::KIND_FIELD_EXPIRY)?;
        Ok([expiry, invalidated, fields].into_iter().flatten().min())
    }
}

fn expire(
    ctx: &mut Ctx<'_, Change>,
    db: u8,
    key: &Bytes,
    expire_at_ms: u64,
) -> Result<Reply, StoreError> {
    let now_ms = ctx.now_ms();
    let mut exec = Exec::new(ctx, db, 0);
    let before = exec.before(key)?;
    let is_due = before
        .stored
        .as_ref()
        .is_some_and(|head| head.expire_at_ms == Some(expire_at_ms) && expire_at_ms <= now_ms);
    if is_due {
        // Says that it expired, since it was not there to be seen any more.
        exec.remove_known(key, &before, false)?;
    }
    Ok(Reply::OK)
}

#[cfg(test)]
mod tests;
