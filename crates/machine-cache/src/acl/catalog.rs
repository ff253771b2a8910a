//! What Redis' COMMAND tells of each command: arity, flags, categories, and where keys stand.

use std::collections::HashMap;
use std::sync::LazyLock;

use bytes::Bytes;

use crate::number::parse_integer;

/// All categories, in the order in which Redis lists them.
pub const CATEGORIES: &[&str] = &[
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// One line for each command and subcommand: name, arity, flags, first key, last key and step, categories,
/// tips, and a word for each place where keys stand.
const LINES: &str = include_str!("commands.txt");

/// Where the first key of a specification stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyBegin {
    /// At this argument.
    Index(usize),
    /// Behind this word, looked for from this argument on; from the end if negative.
    Keyword(&'static str, i64),
    /// The arguments must be understood.
    Unknown,
}

/// How the keys behind the first are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FindKeys {
    /// Last key counted from the first (negative: from the end), step, and a divisor of what follows.
    Range(i64, usize, usize),
    /// Where the number of keys stands, where the first, and the step.
    Number(usize, usize, usize),
    /// The arguments must be understood.
    Unknown,
}

/// Some of a command's keys and what is done with them.
#[derive(Debug, Clone)]
pub struct KeySpec {
    /// Redis' words for it, such as `RW`, `access`, `update`.
    pub flags: Vec<&'static str>,
    /// Where they begin.
    pub begin: KeyBegin,
    /// How many there are.
    pub find: FindKeys,
}

impl KeySpec {
    /// Whether the value is returned or copied.
    pub fn reads(&self) -> bool {
        self.flags.contains(&"access")
    }

    /// Whether the key is changed.
    pub fn writes(&self) -> bool {
        ["insert", "delete", "update"].iter().any(|flag| self.flags.contains(flag))
    }

    /// Places of these keys among `arguments`.
    pub fn places(&self, arguments: &[Bytes]) -> Vec<usize> {
        let count = arguments.len();
        let first = match self.begin {
            KeyBegin::Index(at) => at,
            KeyBegin::Keyword(word, from) => {
                let fits = |at: &usize| {
                    arguments
                        .get(*at)
                        .is_some_and(|found| found.eq_ignore_ascii_case(word.as_bytes()))
                };
                let found = match usize::try_from(from) {
                    Ok(from) => (from..count).find(fits),
                    Err(_) => {
                        let from = count.saturating_sub(from.unsigned_abs() as usize);
                        (1..=from).rev().find(fits)
                    }
                };
                match found {
                    Some(at) => at + 1,
                    None => return Vec::new(),
                }
            }
            KeyBegin::Unknown => return Vec::new(),
        };
        if first >= count {
            return Vec::new();
        }
        match self.find {
            FindKeys::Unknown => Vec::new(),
            FindKeys::Range(last, step, limit) => {
                let last = match usize::try_from(last) {
                    Ok(last) => first + last,
                    Err(_) if limit > 1 => first + (count - first) / limit - 1,
                    Err(_) => count.saturating_sub(last.unsigned_abs() as usize),
                };
                (first..=last.min(count - 1)).step_by(step.max(1)).collect()
            }
            FindKeys::Number(number_at, first_key, step) => {
                let number = arguments.get(first + number_at).and_then(|text| parse_integer(text));
                let Some(number) = number.and_then(|number| usize::try_from(number).ok()) else {
                    return Vec::new();
                };
                let from = first + first_key;
                if number > count.saturating_sub(from) {
                    return Vec::new();
                }
                (from..count).step_by(step.max(1)).take(number).collect()
            }
        }
    }
}

/// What is known of a command or a subcommand.
#[derive(Debug, Clone)]
pub struct Fact {
    /// Its place among all, which is its bit in a selector.
    pub index: usize,
    /// In lower case; a subcommand's with its command's before it: `config|get`.
    pub name: &'static str,
    /// Number of arguments with the name; negative: at least that many.
    pub arity: i32,
    /// Redis' words for it.
    pub flags: Vec<&'static str>,
    /// First key, last key, step; for clients that know nothing newer.
    pub key_range: (i32, i32, i32),
    /// Categories, a bit for each of [`CATEGORIES`].
    pub categories: u32,
    /// Hints to clients of a cluster.
    pub tips: Vec<&'static str>,
    /// Where keys stand.
    pub keys: Vec<KeySpec>,
    /// Subcommands, as places among all.
    pub subcommands: std::ops::Range<usize>,
}

impl Fact {
    /// Names of its categories.
    pub fn category_names(&self) -> impl Iterator<Item = &'static str> + '_ {
        CATEGORIES
            .iter()
            .enumerate()
            .filter(|(at, _)| self.categories >> at & 1 == 1)
            .map(|(_, name)| *name)
    }

    /// Whether it is a part of another command.
    pub fn is_subcommand(&self) -> bool {
        self.name.contains('|')
    }

    /// Whether it changes data.
    pub fn is_write(&self) -> bool {
        self.flags.contains(&"write")
    }
}

struct Catalog {
    facts: Vec<Fact>,
    by_name: HashMap<&'static str, usize>,
}

fn words(text: &'static str) -> Vec<&'static str> {
    if text == "-" { Vec::new() } else { text.split(',').collect() }
}

fn key_spec(text: &'static str) -> Option<KeySpec> {
    let mut parts = text.split('@');
    let flags = words(parts.next()?);
    let begin = parts.next()?;
    let begin = match begin.split_at_checked(1)? {
        ("i", at) => KeyBegin::Index(at.parse().ok()?),
        ("w", rest) => {
            let (word, from) = rest.split_once(':')?;
            KeyBegin::Keyword(word, from.parse().ok()?)
        }
        _ => KeyBegin::Unknown,
    };
    let find = parts.next()?;
    let numbers: Vec<i64> =
        find.get(1..).unwrap_or_default().split(':').filter_map(|part| part.parse().ok()).collect();
    let number = |at: usize| numbers.get(at).copied().unwrap_or(0);
    let size = |at: usize| usize::try_from(number(at)).unwrap_or(0);
    let find = match find.as_bytes().first() {
        Some(b'r') => FindKeys::Range(number(0), size(1), size(2)),
        Some(b'n') => FindKeys::Number(size(0), size(1), size(2)),
        _ => FindKeys::Unknown,
    };
    Some(KeySpec { flags, begin, find })
}

fn fact(index: usize, line: &'static str) -> Option<Fact> {
    let mut parts = line.split(' ');
    let name = parts.next()?;
    let arity = parts.next()?.parse().ok()?;
    let flags = words(parts.next()?);
    let range: Vec<i32> = parts.next()?.split(',').filter_map(|part| part.parse().ok()).collect();
    let &[first, last, step] = range.as_slice() else { return None };
    let categories = words(parts.next()?)
        .into_iter()
        .filter_map(|name| CATEGORIES.iter().position(|other| *other == name))
        .fold(0, |bits, at| bits | 1 << at);
    let tips = words(parts.next()?);
    let keys = parts.filter_map(key_spec).collect();
    Some(Fact {
        index,
        name,
        arity,
        flags,
        key_range: (first, last, step),
        categories,
        tips,
        keys,
        subcommands: 0..0,
    })
}

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let mut facts: Vec<Fact> =
        LINES.lines().enumerate().filter_map(|(index, line)| fact(index, line)).collect();
    let by_name: HashMap<&'static str, usize> =
        facts.iter().map(|fact| (fact.name, fact.index)).collect();
    // The lines are sorted, so that a command's subcommands stand right behind it, but for commands
    // whose names go on with something smaller than the bar.
    for index in 0..facts.len() {
        let name = facts[index].name;
        let is_part =
            |other: &&Fact| other.name.split_once('|').is_some_and(|(command, _)| command == name);
        let first = facts.iter().position(|other| is_part(&other));
        if let Some(first) = first {
            let count = facts[first..].iter().take_while(is_part).count();
            facts[index].subcommands = first..first + count;
        }
    }
    Catalog { facts, by_name }
});

/// All commands and subcommands that Redis has.
pub fn facts() -> &'static [Fact] {
    &CATALOG.facts
}

/// The command or subcommand (`config|get`) of this name, in lower case.
pub fn find_fact(name: &str) -> Option<&'static Fact> {
    CATALOG.facts.get(*CATALOG.by_name.get(name)?)
}

/// Longest name of a command.
const NAME_BYTES_MAX: usize = 32;

/// The command, or the subcommand if there is one, that arguments call.
pub fn resolve(arguments: &[Bytes]) -> Option<&'static Fact> {
    let lower = |word: &Bytes| {
        (word.len() <= NAME_BYTES_MAX).then(|| String::from_utf8_lossy(word).to_ascii_lowercase())
    };
    let fact = find_fact(&lower(arguments.first()?)?)?;
    let subcommand = arguments.get(1).filter(|_| !fact.subcommands.is_empty()).and_then(lower);
    let inner = subcommand.and_then(|word| {
        facts()
            .get(fact.subcommands.clone())?
            .iter()
            .find(|sub| sub.name.get(fact.name.len() + 1..).is_some_and(|name| name == word))
    });
    Some(inner.unwrap_or(fact))
}
