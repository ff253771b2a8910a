//! The commands: one table, one file per family.

mod bits;
mod dump;
mod geo;
mod hashes;
mod hyperloglog;
mod keys;
mod lists;
mod messages;
mod scan;
mod scripts;
mod sets;
mod sort;
mod sorted_sets;
mod streams;
mod strings;

use std::borrow::Cow;
use std::sync::LazyLock;

use bytes::Bytes;

use crate::KEY_BYTES_MAX;
use crate::exec::{Exec, NOT_A_FLOAT, NOT_AN_INTEGER, Result, SYNTAX, Stop, error};
use crate::number::{parse_float, parse_integer};

pub(crate) use hashes::expire_fields;
pub(crate) use keys::database;
pub(crate) use streams::resolve_read;

/// What is known of a command without looking at its arguments: a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// Changes nothing.
    pub const READ: Flags = Flags(1);
    /// May change something.
    pub const WRITE: Flags = Flags(1 << 1);
    /// May need more memory.
    pub const DENY_OOM: Flags = Flags(1 << 2);
    /// Costs the same whatever it finds, or the logarithm.
    pub const FAST: Flags = Flags(1 << 3);
    /// May wait for something to happen.
    pub const BLOCKING: Flags = Flags(1 << 4);
    /// Draws from the call's seed.
    pub const RANDOM: Flags = Flags(1 << 5);
    /// For operators.
    pub const ADMIN: Flags = Flags(1 << 6);
    /// May not be called from a script.
    pub const NO_SCRIPT: Flags = Flags(1 << 7);
    /// About messages.
    pub const PUBSUB: Flags = Flags(1 << 8);
    /// Before the client has authenticated.
    pub const NO_AUTH: Flags = Flags(1 << 9);
    /// Allowed while data is loaded.
    pub const LOADING: Flags = Flags(1 << 10);
    /// May not be queued by MULTI.
    pub const NO_MULTI: Flags = Flags(1 << 11);
    /// Its keys stand where its arguments say.
    pub const MOVABLE_KEYS: Flags = Flags(1 << 12);
    /// Can do damage.
    pub const DANGEROUS: Flags = Flags(1 << 13);

    /// Whether all bits of `other` are in this.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[must_use]
    pub const fn and(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// Family of a command, as ACL categories and COMMAND DOCS name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are Redis' own")]
pub enum Group {
    Generic,
    String,
    Bitmap,
    List,
    Set,
    SortedSet,
    Hash,
    Stream,
    HyperLogLog,
    Geo,
    PubSub,
    Scripting,
    Connection,
    Transactions,
    Server,
    Cluster,
}

impl Group {
    /// Redis' word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Group::Generic => "generic",
            Group::String => "string",
            Group::Bitmap => "bitmap",
            Group::List => "list",
            Group::Set => "set",
            Group::SortedSet => "sorted-set",
            Group::Hash => "hash",
            Group::Stream => "stream",
            Group::HyperLogLog => "hyperloglog",
            Group::Geo => "geo",
            Group::PubSub => "pubsub",
            Group::Scripting => "scripting",
            Group::Connection => "connection",
            Group::Transactions => "transactions",
            Group::Server => "server",
            Group::Cluster => "cluster",
        }
    }
}

/// Where a command's keys stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// None.
    None,
    /// First, last (negative: from the end), step.
    Range(i32, i32, i32),
    /// As many as the argument at this place says, behind it.
    Counted(usize),
    /// A key at 1, then as many as the argument at 2 says.
    StoreCounted,
    /// Behind the word STREAMS, half of what follows.
    Streams,
    /// The first, and the one behind the word STORE or STOREDIST.
    OneAndStore,
    /// As MIGRATE has them.
    Migrate,
}

type Run = fn(&mut Exec<'_>, &[Bytes]) -> Result;

/// One command.
#[derive(Clone)]
pub struct Command {
    /// In lower case.
    pub name: &'static str,
    /// Number of arguments with the name; negative: at least that many.
    pub arity: i32,
    /// What is known of it.
    pub flags: Flags,
    /// Where its keys stand.
    pub keys: Keys,
    /// Its family.
    pub group: Group,
    /// Its place in the table.
    pub index: usize,
    run: Run,
}

const READ: Flags = Flags::READ;
const READ_FAST: Flags = Flags::READ.and(Flags::FAST);
const WRITE: Flags = Flags::WRITE.and(Flags::DENY_OOM);
const WRITE_FAST: Flags = WRITE.and(Flags::FAST);
const REMOVE: Flags = Flags::WRITE;
const REMOVE_FAST: Flags = Flags::WRITE.and(Flags::FAST);
const NONE: Keys = Keys::None;
const ONE: Keys = Keys::Range(1, 1, 1);
const TWO: Keys = Keys::Range(1, 2, 1);
const ALL: Keys = Keys::Range(1, -1, 1);

const fn command(
    name: &'static str,
    arity: i32,
    flags: Flags,
    keys: Keys,
    group: Group,
    run: Run,
) -> Command {
    Command { name, arity, flags, keys, group, index: 0, run }
}

static TABLE: LazyLock<Vec<Command>> = LazyLock::new(|| {
    let families = [
        bits::TABLE,
        dump::TABLE,
        geo::TABLE,
        hashes::TABLE,
        hyperloglog::TABLE,
        keys::TABLE,
        lists::TABLE,
        messages::TABLE,
        scan::TABLE,
        scripts::TABLE,
        sets::TABLE,
        sort::TABLE,
        sorted_sets::TABLE,
        streams::TABLE,
        strings::TABLE,
    ];
    let mut all: Vec<Command> = families.iter().flat_map(|family| family.iter().cloned()).collect();
    all.sort_by_key(|command| command.name);
    for (index, command) in all.iter_mut().enumerate() {
        command.index = index;
    }
    all
});

/// Longest name in the table; a longer one is unknown without being looked up.
const NAME_BYTES_MAX: usize = 24;

/// Where a name's hash says that its command is, or else behind it: every request asks, some twice.
static PLACES: LazyLock<[Option<u16>; PLACE_COUNT]> = LazyLock::new(|| {
    let mut places = [None; PLACE_COUNT];
    for (index, command) in TABLE.iter().enumerate() {
        let mut place = place_of(command.name.as_bytes());
        while places[place].is_some() {
            place = (place + 1) % PLACE_COUNT;
        }
        places[place] = u16::try_from(index).ok();
    }
    places
});

/// Four times the commands that there are, and more: some places stay empty, and end a search.
const PLACE_COUNT: usize = 1024;

fn place_of(lower: &[u8]) -> usize {
    let hash =
        lower.iter().fold(0u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    (hash ^ hash >> 15) as usize % PLACE_COUNT
}

/// All commands, sorted by name.
pub fn table() -> &'static [Command] {
    &TABLE
}

/// The command of that name, in any case.
pub fn find(name: &[u8]) -> Option<&'static Command> {
    let mut lower = [0; NAME_BYTES_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let (places, table) = (&*PLACES, &*TABLE);
    let mut place = place_of(lower);
    loop {
        let command = table.get(usize::from(places[place]?))?;
        if command.name.as_bytes() == lower {
            return Some(command);
        }
        place = (place + 1) % PLACE_COUNT;
    }
}

impl Command {
    /// Whether that many arguments, with the name, are right.
    pub fn takes(&self, count: usize) -> bool {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let arity = i64::from(self.arity);
        if arity >= 0 { count == arity } else { count >= -arity }
    }

    /// Whether it may change something, and so must go through the log.
    pub fn is_write(&self) -> bool {
        self.flags.has(Flags::WRITE)
    }

    /// Places of the keys among `arguments`; empty if they are not as they should be.
    pub fn key_places(&self, arguments: &[Bytes]) -> Vec<usize> {
        places(self.keys, arguments)
    }
}

/// Places of the keys among `arguments`.
pub fn places(keys: Keys, arguments: &[Bytes]) -> Vec<usize> {
    let count = arguments.len();
    let number = |at: usize| {
        arguments
            .get(at)
            .and_then(|bytes| parse_integer(bytes))
            .and_then(|n| usize::try_from(n).ok())
    };
    let word = |at: usize, word: &str| {
        arguments.get(at).is_some_and(|bytes| bytes.eq_ignore_ascii_case(word.as_bytes()))
    };
    match keys {
        Keys::None => Vec::new(),
        Keys::Range(first, last, step) => {
            let first = usize::try_from(first).unwrap_or(0);
            let last = match usize::try_from(last) {
                Ok(last) => last,
                Err(_) => count.saturating_sub(last.unsigned_abs() as usize),
            };
            (first..=last.min(count.saturating_sub(1)))
                .step_by(usize::try_from(step).unwrap_or(1).max(1))
                .collect()
        }
        Keys::Counted(at) => {
            let keys = number(at).unwrap_or(0);
            if keys > count.saturating_sub(at + 1) {
                Vec::new()
            } else {
                (at + 1..=at + keys).collect()
            }
        }
        Keys::StoreCounted => {
            let keys = number(2).unwrap_or(0);
            if keys > count.saturating_sub(3) {
                return Vec::new();
            }
            std::iter::once(1).chain(3..3 + keys).collect()
        }
        Keys::Streams => {
            let Some(at) = (1..count).find(|at| word(*at, "STREAMS")) else { return Vec::new() };
            (at + 1..at + 1 + (count - at - 1) / 2).collect()
        }
        Keys::OneAndStore => {
            let mut found = vec![1];
            for at in 2..count {
                if (word(at, "STORE") || word(at, "STOREDIST")) && at + 1 < count {
                    found.push(at + 1);
                }
            }
            found
        }
        Keys::Migrate => match arguments.get(3) {
            Some(key) if !key.is_empty() => vec![3],
            _ => match (1..count).find(|at| word(*at, "KEYS")) {
                Some(at) => (at + 1..count).collect(),
                None => Vec::new(),
            },
        },
    }
}

/// What an unknown command is told.
pub fn unknown_command(arguments: &[Bytes]) -> String {
    let name = arguments.first().map(|name| shortened(name, 128)).unwrap_or_default();
    let mut list = String::new();
    for argument in arguments.iter().skip(1) {
        if list.len() >= 128 {
            break;
        }
        list.push('\'');
        list.push_str(&shortened(argument, 128 - list.len()));
        list.push_str("' ");
    }
    format!("ERR unknown command '{name}', with args beginning with: {list}")
}

/// A peer's bytes made fit for an error line: no line breaks, bounded.
pub fn shortened(bytes: &[u8], bytes_max: usize) -> String {
    let text = String::from_utf8_lossy(bytes.get(..bytes_max).unwrap_or(bytes));
    text.chars().map(|c| if c == '\r' || c == '\n' { ' ' } else { c }).collect()
}

/// Runs a command inside an op.
pub(crate) fn run(exec: &mut Exec<'_>, arguments: &[Bytes]) -> Result {
    let command = checked(arguments)?;
    (command.run)(exec, arguments)
}

/// Runs a command that changes nothing.
pub(crate) fn run_reader(exec: &mut Exec<'_>, arguments: &[Bytes]) -> Result {
    let command = known(arguments)?;
    run_known_reader(exec, command, arguments)
}

/// As [`run_reader`], of the command that the arguments name, their number being right.
pub(crate) fn run_known_reader(
    exec: &mut Exec<'_>,
    command: &Command,
    arguments: &[Bytes],
) -> Result {
    check_lengths(command, arguments)?;
    if command.is_write() {
        return error("ERR the command writes, and was asked to read");
    }
    (command.run)(exec, arguments)
}

fn checked(arguments: &[Bytes]) -> Result<&'static Command> {
    let command = known(arguments)?;
    check_lengths(command, arguments)?;
    Ok(command)
}

fn known(arguments: &[Bytes]) -> Result<&'static Command> {
    let name = arguments.first().map(|name| &name[..]).unwrap_or_default();
    let Some(command) = find(name) else {
        return Err(Stop::Error(unknown_command(arguments).into()));
    };
    if !command.takes(arguments.len()) {
        return wrong_arity(command.name);
    }
    Ok(command)
}

/// Longest name of a consumer group or consumer, in bytes: a key of the store has both, escaped.
pub(crate) const GROUP_BYTES_MAX: usize = 8 * 1024;

fn check_lengths(command: &Command, arguments: &[Bytes]) -> Result<()> {
    if arguments.iter().any(|argument| argument.len() > GROUP_BYTES_MAX) {
        check_long(command, arguments)?;
    }
    Ok(())
}

/// Refuses what would be part of a key of the store and is longer than one may be: keys, members,
/// fields, names of groups and functions. Values may be long.
fn check_long(command: &Command, arguments: &[Bytes]) -> Result<()> {
    let is_longer = |at: usize, bytes_max: usize| {
        arguments.get(at).is_some_and(|argument| argument.len() > bytes_max)
    };
    let is_long = |at: usize| is_longer(at, KEY_BYTES_MAX);
    if command.key_places(arguments).into_iter().any(is_long) {
        return error("ERR the key is longer than 60 KiB");
    }
    let mut bounded = match (command.group, command.name) {
        (Group::Set | Group::SortedSet | Group::Geo, _) => 2..arguments.len(),
        // Of values only the fields' names count: they come first of each pair.
        (Group::Hash, "hset" | "hmset" | "hsetnx") => {
            return match (2..arguments.len()).step_by(2).any(is_long) {
                true => error("ERR the field is longer than 60 KiB"),
                false => Ok(()),
            };
        }
        (Group::Hash, _) => 2..arguments.len(),
        (Group::Stream, name) if name != "xadd" => {
            // A key may be among them, of which only its own bound counts.
            let keys = command.key_places(arguments);
            let mut others = (1..arguments.len()).filter(|at| !keys.contains(at));
            return match others.any(|at| is_longer(at, GROUP_BYTES_MAX)) {
                true => error("ERR the name of a group or consumer is longer than 8 KiB"),
                false => Ok(()),
            };
        }
        (Group::Scripting, "evalsha" | "evalsha_ro" | "fcall" | "fcall_ro") => 1..2,
        (Group::Scripting, "script") if !arguments.is(1, "load") => 2..arguments.len(),
        (Group::Scripting, "function") if !arguments.is(1, "load") => 2..arguments.len(),
        _ => 0..0,
    };
    if bounded.any(is_long) { error("ERR a member or name is longer than 60 KiB") } else { Ok(()) }
}

pub(crate) fn wrong_arity<T>(name: &str) -> Result<T> {
    failure(format!("ERR wrong number of arguments for '{name}' command"))
}

/// An error with a text of its own.
pub(crate) fn failure<T>(text: impl Into<Cow<'static, str>>) -> Result<T> {
    Err(Stop::Error(text.into()))
}

/// Reading arguments. Those that the arity promises are there; the others are optional.
pub(crate) trait Arguments {
    /// The argument at `place`, the name being at 0.
    fn at(&self, place: usize) -> Result<&Bytes>;
    /// A 64-bit integer.
    fn integer(&self, place: usize) -> Result<i64>;
    /// A floating point number that is not NaN.
    fn float(&self, place: usize) -> Result<f64>;
    /// The argument in capitals; empty if there is none.
    fn word(&self, place: usize) -> String;
    /// Whether the argument is this word, in any case.
    fn is(&self, place: usize, word: &str) -> bool;
    /// Arguments from `place` on.
    fn from(&self, place: usize) -> &[Bytes];
}

impl Arguments for [Bytes] {
    fn at(&self, place: usize) -> Result<&Bytes> {
        match self.get(place) {
            Some(argument) => Ok(argument),
            None => error(SYNTAX),
        }
    }

    fn integer(&self, place: usize) -> Result<i64> {
        parse_integer(self.at(place)?).ok_or(Stop::Error(Cow::Borrowed(NOT_AN_INTEGER)))
    }

    fn float(&self, place: usize) -> Result<f64> {
        parse_float(self.at(place)?).ok_or(Stop::Error(Cow::Borrowed(NOT_A_FLOAT)))
    }

    fn word(&self, place: usize) -> String {
        let word = self.get(place).map(|word| &word[..word.len().min(32)]).unwrap_or_default();
        String::from_utf8_lossy(word).to_ascii_uppercase()
    }

    fn is(&self, place: usize, word: &str) -> bool {
        self.get(place).is_some_and(|bytes| bytes.eq_ignore_ascii_case(word.as_bytes()))
    }

    fn from(&self, place: usize) -> &[Bytes] {
        self.get(place..).unwrap_or_default()
    }
}

/// An integer that must be positive or zero, with the error that says otherwise.
pub(crate) fn not_negative(arguments: &[Bytes], place: usize, text: &'static str) -> Result<usize> {
    match parse_integer(arguments.at(place)?).map(usize::try_from) {
        Some(Ok(number)) => Ok(number),
        _ => error(text),
    }
}

/// A range of places `first..=last`, either counted from the end if negative, cut to `count`; as
/// start and end (exclusive).
pub(crate) fn index_range(first: i64, last: i64, count: u64) -> Option<(u64, u64)> {
    let count_signed = i64::try_from(count).unwrap_or(i64::MAX);
    let first = if first < 0 { first.saturating_add(count_signed).max(0) } else { first };
    let last = if last < 0 { last.saturating_add(count_signed) } else { last };
    let last = last.min(count_signed - 1);
    if first > last || first >= count_signed || last < 0 {
        return None;
    }
    Some((first.unsigned_abs(), last.unsigned_abs() + 1))
}

#[cfg(test)]
mod table_tests {
    use super::*;

    #[test]
    fn every_name_is_found_once() {
        assert!(table().is_sorted_by(|a, b| a.name < b.name));
        for command in table() {
            assert!(command.name.len() <= NAME_BYTES_MAX);
            let found = find(command.name.to_uppercase().as_bytes()).unwrap();
            assert_eq!(found.name, command.name);
            assert_ne!(
                command.flags.has(Flags::READ),
                command.flags.has(Flags::WRITE),
                "{}",
                command.name
            );
        }
        assert!(find(b"NOSUCHCOMMANDATALLANYWHERE").is_none());
    }

    #[test]
    fn ranges_count_from_both_ends() {
        assert_eq!(index_range(0, -1, 3), Some((0, 3)));
        assert_eq!(index_range(-2, 10, 3), Some((1, 3)));
        assert_eq!(index_range(5, 6, 3), None);
        assert_eq!(index_range(0, -5, 3), None);
        assert_eq!(index_range(0, -1, 0), None);
    }
}
