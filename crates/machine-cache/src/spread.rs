//! What of this machine is where, when the keys are spread over several shards by their slots.
//!
//! A key is in one shard, with all that belongs to it; `slots` says in which. Settings, functions and
//! scripts that were loaded are in every shard, so that a command finds them wherever it runs. Counts are
//! kept in every shard of its own keys, and added up by readers.

use bytes::Bytes;
use proteus_machine::key::take_u64;
use proteus_types::Slot;

use crate::commands::{self, Command, Group};
use crate::{Check, Op, SPACE, layout};

/// What an op or a check touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach<'a> {
    /// These keys.
    Keys(Vec<&'a Bytes>),
    /// No key.
    Nothing,
    /// What every shard has, or all keys; each shard does its part, and all answer the same.
    Everywhere,
    /// All keys at once, which no shard can answer for: refused with this text.
    Whole(&'static str),
}

/// How the answers to the parts of a divided op become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joining {
    /// The first stands for all.
    First,
    /// Numbers are added up.
    Sum,
}

const WHOLE: &str = "ERR this command needs all keys at once, and they are spread over several shards; send it by itself, outside of MULTI";

/// Refuses SORT where the keys that its patterns name may be in several shards.
pub const SORT_ELSEWHERE: &str =
    "ERR BY or GET of SORT is denied where keys are spread over several shards";

/// What `op` touches.
pub fn reach(op: &Op) -> Reach<'_> {
    match op {
        Op::Command(call) | Op::OrRefuse(call) | Op::Restricted { call, .. } => {
            reach_of_command(&call.arguments)
        }
        Op::PutSetting { .. }
        | Op::Declare { .. }
        | Op::Revoke { .. }
        | Op::InvalidateMatching { .. }
        | Op::SetSlots { .. } => Reach::Everywhere,
        Op::Invalidate { key, .. }
        | Op::ForgetInvalidated { key, .. }
        | Op::Expire { key, .. }
        | Op::ExpireFields { key, .. }
        | Op::Evict { key, .. } => Reach::Keys(vec![key]),
        Op::Reclaim { .. }
        | Op::ChooseLeader { .. }
        | Op::SetReplicaCount { .. }
        | Op::PlaceReplicas { .. }
        | Op::TakeSlots { .. }
        | Op::GiveSlots { .. }
        | Op::GiveShared { .. } => Reach::Nothing,
    }
}

/// The key that `check` looks at; `None` if it looks at what every shard has.
pub fn checked_key(check: &Check) -> Option<&Bytes> {
    match check {
        Check::Unchanged { key, .. } => Some(key),
        Check::SettingIs { .. } | Check::SlotMapIs { .. } | Check::SharedIs { .. } => None,
    }
}

/// What a command touches.
pub fn reach_of_call(call: &crate::Call) -> Reach<'_> {
    reach_of_command(&call.arguments)
}

fn reach_of_command(arguments: &[Bytes]) -> Reach<'_> {
    let name = arguments.first().map(|name| &name[..]).unwrap_or_default();
    let Some(command) = commands::find(name) else { return Reach::Nothing };
    let word = |place: usize, word: &str| {
        arguments.get(place).is_some_and(|bytes| bytes.eq_ignore_ascii_case(word.as_bytes()))
    };
    match command.name {
        "flushall" | "flushdb" | "swapdb" | "script" | "function" => Reach::Everywhere,
        "dbsize" | "keys" | "randomkey" | "scan" => Reach::Whole(WHOLE),
        // A pattern without a star names no key.
        "sort" | "sort_ro"
            if (2..arguments.len()).any(|at| {
                (word(at, "by") || word(at, "get"))
                    && arguments.get(at + 1).is_some_and(|pattern| pattern.contains(&b'*'))
            }) =>
        {
            Reach::Whole(SORT_ELSEWHERE)
        }
        _ => match keys_of(command, arguments) {
            keys if keys.is_empty() => Reach::Nothing,
            keys => Reach::Keys(keys),
        },
    }
}

/// The keys that a command names, which may touch others too.
pub fn named_keys(call: &crate::Call) -> Vec<&Bytes> {
    let name = call.arguments.first().map(|name| &name[..]).unwrap_or_default();
    commands::find(name).map_or_else(Vec::new, |command| keys_of(command, &call.arguments))
}

/// The slots that a command reads which reads the keys it names and nothing else; none if it may read others.
pub fn slots_read(arguments: &[Bytes]) -> Vec<Slot> {
    let name = arguments.first().map(|name| &name[..]).unwrap_or_default();
    let is_script = commands::find(name).is_none_or(|command| command.group == Group::Scripting);
    match reach_of_command(arguments) {
        Reach::Keys(keys) if !is_script => keys.iter().map(|key| Slot::of_key(key)).collect(),
        _ => Vec::new(),
    }
}

/// Whether an op runs scripts, which may change other keys than those that it names.
pub fn is_script(op: &Op) -> bool {
    let (Op::Command(call) | Op::OrRefuse(call) | Op::Restricted { call, .. }) = op else {
        return false;
    };
    let name = call.arguments.first().map(|name| &name[..]).unwrap_or_default();
    commands::find(name).is_some_and(|command| command.group == Group::Scripting)
}

fn keys_of<'a>(command: &Command, arguments: &'a [Bytes]) -> Vec<&'a Bytes> {
    let places = command.key_places(arguments);
    places.into_iter().filter_map(|place| arguments.get(place)).collect()
}

/// The parts of a command whose keys are in several places, with how their answers are joined; `None` if
/// it cannot be divided. `same` says whether two keys are in the same place.
pub fn divide(op: &Op, same: &dyn Fn(&Bytes, &Bytes) -> bool) -> Option<(Joining, Vec<Op>)> {
    let Op::Command(call) = op else { return None };
    let (name, rest) = call.arguments.split_first()?;
    let (width, joining) = match commands::find(name)?.name {
        "del" | "unlink" | "exists" | "touch" => (1, Joining::Sum),
        "mset" if rest.len().is_multiple_of(2) => (2, Joining::First),
        _ => return None,
    };
    let mut parts: Vec<Vec<Bytes>> = Vec::new();
    for piece in rest.chunks(width) {
        let key = piece.first()?;
        let at_home = |part: &&mut Vec<Bytes>| part.get(1).is_some_and(|first| same(first, key));
        match parts.iter_mut().find(at_home) {
            Some(part) => part.extend_from_slice(piece),
            None => parts.push([std::slice::from_ref(name), piece].concat()),
        }
    }
    let part = |arguments| Op::Command(crate::Call { arguments, ..call.clone() });
    Some((joining, parts.into_iter().map(part).collect()))
}

/// Where a key of the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// In the shard of this slot.
    Slot(Slot),
    /// In the first shard, and in the others, if they have it, the same.
    Everywhere,
    /// In every shard; the values are added up by [`add_up`].
    Sums,
    /// In one shard, which the key does not tell.
    Somewhere,
}

/// Where a key of the store is; of this machine's keys.
pub fn home(place: &[u8]) -> Home {
    debug_assert_eq!(place.first(), Some(&SPACE));
    match place.get(1).copied().unwrap_or_default() {
        layout::KIND_HEAD => {
            let slot = layout::split_head(place)
                .and_then(|(position, _)| u16::try_from(position >> 32).ok())
                .and_then(Slot::new);
            slot.map_or(Home::Somewhere, Home::Slot)
        }
        layout::KIND_COUNTS => Home::Sums,
        kind if layout::SHARED_KINDS.contains(&kind) => Home::Everywhere,
        kind if kind == layout::SLOT_MAP[1]
            || kind == layout::KIND_CHOSEN_LEADER
            || kind == layout::KIND_REPLICAS =>
        {
            Home::Everywhere
        }
        layout::KIND_INVALIDATED => {
            layout::split_invalidated(place).map_or(Home::Somewhere, |(slot, _)| Home::Slot(slot))
        }
        _ => Home::Somewhere,
    }
}

/// The sum of counts that several shards keep.
pub fn add_up(values: &[Bytes]) -> Option<Bytes> {
    let (first, others) = values.split_first()?;
    let mut sums = numbers(first);
    for value in others {
        for (sum, number) in sums.iter_mut().zip(numbers(value)) {
            *sum = sum.saturating_add(number);
        }
    }
    let bytes: Vec<u8> = sums.iter().flat_map(|number| number.to_be_bytes()).collect();
    Some(Bytes::from(bytes))
}

fn numbers(mut bytes: &[u8]) -> Vec<u64> {
    let mut numbers = Vec::new();
    while let Some((number, rest)) = take_u64(bytes) {
        numbers.push(number);
        bytes = rest;
    }
    numbers
}

/// Numbers answered by the parts of a divided command, added up.
pub fn sum_replies(replies: &[crate::Reply]) -> Option<crate::Reply> {
    let mut sum = 0i64;
    for reply in replies {
        match reply {
            crate::Reply::Integer(number) => sum = sum.saturating_add(*number),
            crate::Reply::Error(_) => return Some(reply.clone()),
            _ => return None,
        }
    }
    Some(crate::Reply::Integer(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(words: &[&str]) -> Op {
        Op::command(words)
    }

    #[test]
    fn commands_reach_the_keys_that_they_name() {
        let keys = |words: &[&str]| match reach(&op(words)) {
            Reach::Keys(keys) => {
                keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect()
            }
            other => vec![format!("{other:?}")],
        };
        assert_eq!(keys(&["set", "a", "1"]), ["a"]);
        assert_eq!(keys(&["RENAME", "a", "b"]), ["a", "b"]);
        assert_eq!(keys(&["EVAL", "return 1", "2", "a", "b", "c"]), ["a", "b"]);
        assert_eq!(keys(&["PUBLISH", "c", "m"]), ["Nothing"]);
        assert_eq!(keys(&["FLUSHALL"]), ["Everywhere"]);
        assert!(matches!(reach(&op(&["KEYS", "*"])), Reach::Whole(_)));
        assert!(matches!(reach(&op(&["SORT", "a", "BY", "w_*"])), Reach::Whole(_)));
        assert!(matches!(reach(&op(&["SORT", "a", "BY", "no", "GET", "#"])), Reach::Keys(_)));
        assert!(matches!(reach(&op(&["SORT", "a", "GET", "#", "GET", "w*"])), Reach::Whole(_)));
        assert_eq!(keys(&["SORT", "a", "STORE", "b"]), ["a", "b"]);
    }

    #[test]
    fn commands_of_many_keys_are_divided_by_place() {
        let same = |a: &Bytes, b: &Bytes| a.first() == b.first();
        let (joining, parts) = divide(&op(&["DEL", "a1", "b1", "a2"]), &same).unwrap();
        assert_eq!(joining, Joining::Sum);
        assert_eq!(parts, [op(&["DEL", "a1", "a2"]), op(&["DEL", "b1"])]);
        let (_, parts) = divide(&op(&["MSET", "a1", "1", "b1", "2", "a2", "3"]), &same).unwrap();
        assert_eq!(parts, [op(&["MSET", "a1", "1", "a2", "3"]), op(&["MSET", "b1", "2"])]);
        assert_eq!(divide(&op(&["RENAME", "a", "b"]), &same), None);
        let replies = [crate::Reply::Integer(2), crate::Reply::Integer(1)];
        assert_eq!(sum_replies(&replies), Some(crate::Reply::Integer(3)));
    }

    #[test]
    fn heads_are_at_home_in_their_slot() {
        let place = layout::head(3, b"user:{7}");
        assert_eq!(home(&place), Home::Slot(Slot::of_key(b"7")));
        assert_eq!(home(&layout::invalidated(3, b"user:{7}")), Home::Slot(Slot::of_key(b"7")));
        assert_eq!(home(&layout::counts(0)), Home::Sums);
        assert_eq!(home(&layout::element(5, b"x")), Home::Somewhere);
        let counted = |n: u64| Bytes::from([n, 1, n].map(u64::to_be_bytes).concat());
        assert_eq!(
            add_up(&[counted(2), counted(3)]).unwrap(),
            Bytes::from([5, 2, 5u64].map(u64::to_be_bytes).concat())
        );
    }
}
