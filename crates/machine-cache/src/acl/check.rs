//! Whether a user may carry out a command.

use bytes::Bytes;

use super::catalog::Fact;
use super::rules::{Selector, User};
use crate::pattern::matches;

/// Why a command is not allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// The command, by its full name.
    Command(&'static str),
    /// A key.
    Key(Bytes),
    /// A channel.
    Channel(Bytes),
    /// An option that may look at any key.
    Option(&'static str),
}

impl Denied {
    /// The refusal of a request, without the code before it.
    pub fn text(&self, user: &str) -> String {
        match self {
            Denied::Command(name) => {
                format!("User {user} has no permissions to run the '{name}' command")
            }
            Denied::Key(_) => "No permissions to access a key".to_owned(),
            Denied::Channel(_) => "No permissions to access a channel".to_owned(),
            Denied::Option(text) => (*text).to_owned(),
        }
    }

    /// What ACL DRYRUN says: the same with the key or channel.
    pub fn text_in_full(&self, user: &str) -> String {
        let named = |kind: &str, name: &Bytes| {
            let name = String::from_utf8_lossy(name);
            format!("User {user} has no permissions to access the '{name}' {kind}")
        };
        match self {
            Denied::Key(key) => named("key", key),
            Denied::Channel(channel) => named("channel", channel),
            other => other.text(user),
        }
    }

    /// What ACL LOG says it was about, and of which kind.
    pub fn object(&self) -> (&'static str, Bytes) {
        match self {
            Denied::Command(name) => ("command", Bytes::from_static(name.as_bytes())),
            Denied::Key(key) => ("key", key.clone()),
            Denied::Channel(channel) => ("channel", channel.clone()),
            Denied::Option(_) => ("key", Bytes::new()),
        }
    }

    /// How far a selector got, of which the furthest is told.
    fn rank(&self) -> u8 {
        match self {
            Denied::Command(_) => 0,
            Denied::Key(_) | Denied::Option(_) => 1,
            Denied::Channel(_) => 2,
        }
    }
}

/// A key among the arguments, and what the command does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyUse {
    /// Its place.
    pub place: usize,
    /// Whether its value is returned or copied.
    pub reads: bool,
    /// Whether it is changed.
    pub writes: bool,
}

/// All keys of a command, and what it does with each.
pub fn key_uses(fact: &Fact, arguments: &[Bytes]) -> Vec<KeyUse> {
    let mut uses = Vec::new();
    let is_word = |at: usize, word: &str| {
        arguments.get(at).is_some_and(|found| found.eq_ignore_ascii_case(word.as_bytes()))
    };
    for spec in &fact.keys {
        if spec.flags.contains(&"not_key") {
            continue;
        }
        let (mut reads, mut writes) = (spec.reads(), spec.writes());
        if spec.flags.contains(&"variable_flags") {
            match fact.name {
                // Without GET it returns nothing.
                "set" => reads = (3..arguments.len()).any(|at| is_word(at, "GET")),
                // With nothing but GET it changes nothing.
                "bitfield" => {
                    writes =
                        (2..arguments.len()).any(|at| is_word(at, "SET") || is_word(at, "INCRBY"));
                }
                _ => {}
            }
        }
        uses.extend(spec.places(arguments).into_iter().map(|place| KeyUse {
            place,
            reads,
            writes,
        }));
    }
    if fact.name == "sort" {
        for at in 2..arguments.len().saturating_sub(1) {
            if is_word(at, "STORE") {
                uses.push(KeyUse { place: at + 1, reads: false, writes: true });
            }
        }
    }
    uses
}

/// Channels of a command: their places, and whether they are patterns.
fn channels(fact: &Fact, count: usize) -> (std::ops::Range<usize>, bool) {
    match fact.name {
        "publish" | "spublish" => (1..2, false),
        "subscribe" | "ssubscribe" => (1..count, false),
        "psubscribe" => (1..count, true),
        _ => (0..0, false),
    }
}

impl Selector {
    fn allows_command(&self, fact: &Fact, arguments: &[Bytes]) -> bool {
        if self.allows_all_commands || self.has_bit(fact.index) {
            return true;
        }
        let Some(words) = self.first_words.get(&fact.index) else { return false };
        let place = if fact.is_subcommand() { 2 } else { 1 };
        arguments
            .get(place)
            .is_some_and(|argument| words.iter().any(|word| argument.eq_ignore_ascii_case(word)))
    }

    fn allows_key(&self, key: &[u8], reads: bool, writes: bool) -> bool {
        self.allows_all_keys
            || self.keys.iter().any(|pattern| {
                (!reads || pattern.reads)
                    && (!writes || pattern.writes)
                    && matches(&pattern.glob, key)
            })
    }

    /// Whether messages of a channel, or of all channels that a pattern means, may be had or sent.
    pub fn allows_channel(&self, channel: &[u8], is_pattern: bool) -> bool {
        self.allows_all_channels
            || self.channels.iter().any(|allowed| {
                // A pattern is allowed word by word only.
                if is_pattern { allowed == channel } else { matches(allowed, channel) }
            })
    }

    fn check(&self, fact: &'static Fact, arguments: &[Bytes]) -> Result<(), Denied> {
        if !fact.flags.contains(&"no_auth") && !self.allows_command(fact, arguments) {
            return Err(Denied::Command(fact.name));
        }
        if !self.allows_all_keys {
            for KeyUse { place, reads, writes } in key_uses(fact, arguments) {
                let key = arguments.get(place).cloned().unwrap_or_default();
                if !self.allows_key(&key, reads, writes) {
                    return Err(Denied::Key(key));
                }
            }
            if matches!(fact.name, "sort" | "sort_ro") && !self.reads_all_keys() {
                self.check_sort(arguments)?;
            }
        }
        let (places, is_pattern) = channels(fact, arguments.len());
        for channel in arguments.get(places).unwrap_or_default() {
            if !self.allows_channel(channel, is_pattern) {
                return Err(Denied::Channel(channel.clone()));
            }
        }
        Ok(())
    }

    fn reads_all_keys(&self) -> bool {
        self.allows_all_keys
            || self.keys.iter().any(|pattern| pattern.reads && pattern.glob[..] == *b"*")
    }

    /// BY and GET look at keys that no one has named.
    fn check_sort(&self, arguments: &[Bytes]) -> Result<(), Denied> {
        for pair in arguments.windows(2).skip(2) {
            if pair[0].eq_ignore_ascii_case(b"BY") && pair[1].contains(&b'*') {
                return Err(Denied::Option(
                    "BY option of SORT denied due to insufficient ACL permissions",
                ));
            }
            if pair[0].eq_ignore_ascii_case(b"GET") && pair[1][..] != *b"#" {
                return Err(Denied::Option(
                    "GET option of SORT denied due to insufficient ACL permissions",
                ));
            }
        }
        Ok(())
    }
}

impl User {
    /// Whether the user may carry out the command that `arguments` call.
    ///
    /// # Errors
    /// What it may not do.
    pub fn check(&self, fact: &'static Fact, arguments: &[Bytes]) -> Result<(), Denied> {
        let mut furthest = Denied::Command(fact.name);
        for selector in &self.selectors {
            match selector.check(fact, arguments) {
                Ok(()) => return Ok(()),
                Err(denied) if denied.rank() > furthest.rank() => furthest = denied,
                Err(_) => {}
            }
        }
        Err(furthest)
    }

    /// Whether messages of a channel may be had; see [`Selector::allows_channel`].
    pub fn allows_channel(&self, channel: &[u8], is_pattern: bool) -> bool {
        self.selectors.iter().any(|selector| selector.allows_channel(channel, is_pattern))
    }
}
