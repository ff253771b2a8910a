//! Users and the rules that make them.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::catalog::{CATEGORIES, Fact, facts, find_fact};

/// Selectors, patterns, passwords or command rules that a user may have each.
const PARTS_MAX: usize = 4096;

/// A pattern of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// Which keys.
    pub glob: Bytes,
    /// Their values may be read.
    pub reads: bool,
    /// They may be changed.
    pub writes: bool,
}

impl Pattern {
    fn text(&self) -> String {
        let glob = String::from_utf8_lossy(&self.glob);
        match (self.reads, self.writes) {
            (true, true) => format!("~{glob}"),
            (true, false) => format!("%R~{glob}"),
            _ => format!("%W~{glob}"),
        }
    }
}

/// Commands with the keys and channels that they may be used with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// All commands, without exception.
    pub allows_all_commands: bool,
    /// Whether commands that no rule names are allowed.
    begins_with_all: bool,
    /// A bit for each command and subcommand.
    bits: Vec<u64>,
    /// Words that may follow a command which is not allowed otherwise.
    pub(super) first_words: BTreeMap<usize, Vec<Bytes>>,
    /// The rules about commands behind the first, in their order.
    command_rules: Vec<String>,
    /// All keys.
    pub allows_all_keys: bool,
    /// Keys that may be used.
    pub keys: Vec<Pattern>,
    /// All channels.
    pub allows_all_channels: bool,
    /// Channels that may be used, as patterns.
    pub channels: Vec<Bytes>,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// May log in.
    pub is_on: bool,
    /// Any password is right.
    pub needs_no_password: bool,
    /// SHA-256 of passwords, in hexadecimal.
    pub passwords: Vec<String>,
    /// RESTORE looks at what it is given; kept for those who ask, since here it always does.
    pub sanitizes: bool,
    /// What it may do; the first is the one that rules without parentheses are about.
    pub selectors: Vec<Selector>,
    /// Everything is allowed, so that nothing need be checked.
    pub is_unrestricted: bool,
}

/// Why a rule is refused, in Redis' words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadRule(pub String);

const UNKNOWN: &str = "Unknown command or category name in ACL";
const SYNTAX: &str = "Syntax error";

/// SHA-256 of a password, in hexadecimal.
pub fn password_hash(password: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(password) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn bad<T>(why: &str) -> Result<T, String> {
    Err(why.to_owned())
}

impl Selector {
    pub(super) fn has_bit(&self, index: usize) -> bool {
        self.bits.get(index / 64).is_some_and(|bits| bits >> (index % 64) & 1 == 1)
    }

    fn set_bit(&mut self, index: usize, is_set: bool) {
        if self.bits.len() <= index / 64 {
            self.bits.resize(facts().len().div_ceil(64), 0);
        }
        if let Some(bits) = self.bits.get_mut(index / 64) {
            *bits = if is_set { *bits | 1 << (index % 64) } else { *bits & !(1 << (index % 64)) };
        }
    }

    fn set_command(&mut self, fact: &Fact, is_allowed: bool) {
        for index in std::iter::once(fact.index).chain(fact.subcommands.clone()) {
            self.set_bit(index, is_allowed);
            self.first_words.remove(&index);
        }
        if !is_allowed {
            self.allows_all_commands = false;
        }
    }

    /// Keeps a rule about commands for those who ask, in place of what it makes void.
    fn note_rule(&mut self, rule: &str, is_allowed: bool) -> Result<(), String> {
        let parts = format!("{rule}|");
        self.command_rules.retain(|old| old[1..] != *rule && !old[1..].starts_with(&parts));
        if self.command_rules.len() >= PARTS_MAX {
            return bad("a user has as many rules as it may");
        }
        self.command_rules.push(format!("{}{rule}", if is_allowed { '+' } else { '-' }));
        Ok(())
    }

    fn set_all_commands(&mut self, is_allowed: bool) {
        self.bits = vec![if is_allowed { u64::MAX } else { 0 }; facts().len().div_ceil(64)];
        self.first_words.clear();
        self.command_rules.clear();
        (self.allows_all_commands, self.begins_with_all) = (is_allowed, is_allowed);
    }

    fn apply_command(&mut self, rule: &str, is_allowed: bool) -> Result<(), String> {
        let rule = rule.to_ascii_lowercase();
        if let Some(category) = rule.strip_prefix('@') {
            if category == "all" {
                self.set_all_commands(is_allowed);
                return Ok(());
            }
            let Some(at) = CATEGORIES.iter().position(|name| *name == category) else {
                return bad(UNKNOWN);
            };
            for fact in facts().iter().filter(|fact| fact.categories >> at & 1 == 1) {
                self.set_bit(fact.index, is_allowed);
                self.first_words.remove(&fact.index);
            }
            if !is_allowed {
                self.allows_all_commands = false;
            }
            return self.note_rule(&rule, is_allowed);
        }
        if let Some(fact) = find_fact(&rule) {
            self.set_command(fact, is_allowed);
            return self.note_rule(&rule, is_allowed);
        }
        // A word behind a command.
        let Some((command, word)) = rule.rsplit_once('|') else { return bad(UNKNOWN) };
        let Some(fact) = find_fact(command) else {
            let known = rule.split('|').next().and_then(find_fact);
            return bad(if known.is_some() && rule.matches('|').count() > 1 {
                "Allowing first-arg of a subcommand is not supported"
            } else {
                UNKNOWN
            });
        };
        if fact.is_subcommand() {
            return bad("Allowing first-arg of a subcommand is not supported");
        }
        if !is_allowed || !fact.subcommands.is_empty() {
            return bad(UNKNOWN);
        }
        if word.is_empty() {
            return bad(SYNTAX);
        }
        if !self.has_bit(fact.index) {
            let words = self.first_words.entry(fact.index).or_default();
            words.push(Bytes::copy_from_slice(word.as_bytes()));
            words.dedup();
        }
        self.note_rule(&rule, true)
    }

    fn add_key_pattern(&mut self, glob: &str, reads: bool, writes: bool) -> Result<(), String> {
        if glob.contains([' ', '\0']) {
            return bad(SYNTAX);
        }
        if self.allows_all_keys {
            return bad(
                "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. Try 'resetkeys' to start with an empty list of patterns",
            );
        }
        if glob == "*" && reads && writes {
            self.allows_all_keys = true;
            self.keys.clear();
            return Ok(());
        }
        let glob = Bytes::copy_from_slice(glob.as_bytes());
        if let Some(known) = self.keys.iter_mut().find(|known| known.glob == glob) {
            known.reads |= reads;
            known.writes |= writes;
        } else if self.keys.len() >= PARTS_MAX {
            return bad("a user has as many patterns as it may");
        } else {
            self.keys.push(Pattern { glob, reads, writes });
        }
        Ok(())
    }

    fn apply(&mut self, rule: &str) -> Result<(), String> {
        match rule.to_ascii_lowercase().as_str() {
            "allkeys" => {
                self.allows_all_keys = true;
                self.keys.clear();
                return Ok(());
            }
            "resetkeys" => {
                self.allows_all_keys = false;
                self.keys.clear();
                return Ok(());
            }
            "allchannels" => {
                self.allows_all_channels = true;
                self.channels.clear();
                return Ok(());
            }
            "resetchannels" => {
                self.allows_all_channels = false;
                self.channels.clear();
                return Ok(());
            }
            "allcommands" => {
                self.set_all_commands(true);
                return Ok(());
            }
            "nocommands" => {
                self.set_all_commands(false);
                return Ok(());
            }
            _ => {}
        }
        if let Some(glob) = rule.strip_prefix('~') {
            return self.add_key_pattern(glob, true, true);
        }
        if let Some(rest) = rule.strip_prefix('%') {
            let Some((flags, glob)) = rest.split_once('~') else { return bad(SYNTAX) };
            let (mut reads, mut writes) = (false, false);
            for flag in flags.chars() {
                match flag.to_ascii_uppercase() {
                    'R' if !reads => reads = true,
                    'W' if !writes => writes = true,
                    _ => return bad(SYNTAX),
                }
            }
            if !reads && !writes {
                return bad(SYNTAX);
            }
            return self.add_key_pattern(glob, reads, writes);
        }
        if let Some(glob) = rule.strip_prefix('&') {
            if glob.contains([' ', '\0']) {
                return bad(SYNTAX);
            }
            if self.allows_all_channels {
                return bad(
                    "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any effect. Try 'resetchannels' to start with an empty list of channels",
                );
            }
            if glob == "*" {
                return self.apply("allchannels");
            }
            let glob = Bytes::copy_from_slice(glob.as_bytes());
            if !self.channels.contains(&glob) {
                if self.channels.len() >= PARTS_MAX {
                    return bad("a user has as many patterns as it may");
                }
                self.channels.push(glob);
            }
            return Ok(());
        }
        match (rule.strip_prefix('+'), rule.strip_prefix('-')) {
            (Some(rest), _) if !rest.is_empty() => self.apply_command(rest, true),
            (_, Some(rest)) if !rest.is_empty() => self.apply_command(rest, false),
            _ => bad(SYNTAX),
        }
    }

    /// Rules about commands, as GETUSER shows them.
    pub fn commands_text(&self) -> String {
        let mut text = String::from(if self.begins_with_all { "+@all" } else { "-@all" });
        for rule in &self.command_rules {
            text.push(' ');
            text.push_str(rule);
        }
        text
    }

    /// Patterns of keys, as GETUSER shows them.
    pub fn keys_text(&self) -> String {
        if self.allows_all_keys {
            return "~*".to_owned();
        }
        self.keys.iter().map(Pattern::text).collect::<Vec<_>>().join(" ")
    }

    /// Patterns of channels, as GETUSER shows them.
    pub fn channels_text(&self) -> String {
        if self.allows_all_channels {
            return "&*".to_owned();
        }
        let text = |glob: &Bytes| format!("&{}", String::from_utf8_lossy(glob));
        self.channels.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    fn describe(&self, into: &mut String) {
        let keys = self.keys_text();
        if !keys.is_empty() {
            into.push_str(&keys);
            into.push(' ');
        }
        if !self.allows_all_channels {
            into.push_str("resetchannels ");
        }
        let channels = self.channels_text();
        if !channels.is_empty() {
            into.push_str(&channels);
            into.push(' ');
        }
        into.push_str(&self.commands_text());
    }
}

impl User {
    /// A user that may do nothing, not even log in.
    pub fn new(name: &str) -> User {
        let mut selector = Selector::default();
        selector.set_all_commands(false);
        User {
            name: name.to_owned(),
            is_on: false,
            needs_no_password: false,
            passwords: Vec::new(),
            sanitizes: true,
            selectors: vec![selector],
            is_unrestricted: false,
        }
    }

    /// A user that may do everything: with this password, or any if there is none.
    pub fn unrestricted(name: &str, password: Option<&[u8]>) -> User {
        let mut user = User::new(name);
        user.is_on = true;
        user.needs_no_password = password.is_none();
        user.passwords.extend(password.map(password_hash));
        if let Some(selector) = user.selectors.first_mut() {
            selector.set_all_commands(true);
            selector.allows_all_keys = true;
            selector.allows_all_channels = true;
        }
        user.is_unrestricted = true;
        user
    }

    /// A user by the rules of a line that [`User::rules`] gave.
    ///
    /// # Errors
    /// If it is no such line.
    pub fn from_rules(name: &str, rules: &str) -> Result<User, BadRule> {
        let words: Vec<String> = rules.split(' ').map(str::to_owned).collect();
        User::new(name).with(&words)
    }

    /// The user with rules applied to it, all or none.
    ///
    /// # Errors
    /// If one of them is wrong.
    pub fn with(mut self, rules: &[String]) -> Result<User, BadRule> {
        for rule in joined(rules)? {
            self.apply(&rule)
                .map_err(|why| BadRule(format!("Error in ACL SETUSER modifier '{rule}': {why}")))?;
        }
        self.is_unrestricted = self.selectors.iter().any(|selector| {
            selector.allows_all_commands && selector.allows_all_keys && selector.allows_all_channels
        });
        Ok(self)
    }

    fn apply(&mut self, rule: &str) -> Result<(), String> {
        match rule.to_ascii_lowercase().as_str() {
            "" => return Ok(()),
            "on" => self.is_on = true,
            "off" => self.is_on = false,
            "nopass" => {
                self.needs_no_password = true;
                self.passwords.clear();
            }
            "resetpass" => {
                self.needs_no_password = false;
                self.passwords.clear();
            }
            "sanitize-payload" => self.sanitizes = true,
            "skip-sanitize-payload" => self.sanitizes = false,
            "clearselectors" => self.selectors.truncate(1),
            "reset" => *self = User::new(&self.name),
            _ => return self.apply_other(rule),
        }
        Ok(())
    }

    fn apply_other(&mut self, rule: &str) -> Result<(), String> {
        if let Some(password) = rule.strip_prefix('>') {
            return self.add_password(password_hash(password.as_bytes()));
        }
        if let Some(hash) = rule.strip_prefix('#') {
            if !is_hash(hash) {
                return bad(
                    "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters",
                );
            }
            return self.add_password(hash.to_owned());
        }
        let removed = match (rule.strip_prefix('<'), rule.strip_prefix('!')) {
            (Some(password), _) => Some(password_hash(password.as_bytes())),
            (_, Some(hash)) if is_hash(hash) => Some(hash.to_owned()),
            (_, Some(_)) => {
                return bad(
                    "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters",
                );
            }
            _ => None,
        };
        if let Some(hash) = removed {
            let Some(at) = self.passwords.iter().position(|known| *known == hash) else {
                return bad("The password you are trying to remove from the user does not exist");
            };
            self.passwords.remove(at);
            return Ok(());
        }
        if let Some(inner) = rule.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
            if self.selectors.len() >= PARTS_MAX {
                return bad("a user has as many selectors as it may");
            }
            let mut selector = Selector::default();
            selector.set_all_commands(false);
            for part in inner.split(' ').filter(|part| !part.is_empty()) {
                selector.apply(part)?;
            }
            self.selectors.push(selector);
            return Ok(());
        }
        match self.selectors.first_mut() {
            Some(root) => root.apply(rule),
            None => bad(SYNTAX),
        }
    }

    fn add_password(&mut self, hash: String) -> Result<(), String> {
        if self.passwords.len() >= PARTS_MAX {
            return bad("a user has as many passwords as it may");
        }
        if !self.passwords.contains(&hash) {
            self.passwords.push(hash);
        }
        self.needs_no_password = false;
        Ok(())
    }

    /// Whether the password is the user's and it may log in.
    pub fn admits(&self, password: &[u8]) -> bool {
        self.is_on && (self.needs_no_password || self.passwords.contains(&password_hash(password)))
    }

    /// Words for what holds of it, as GETUSER shows them.
    pub fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec![if self.is_on { "on" } else { "off" }];
        if self.needs_no_password {
            flags.push("nopass");
        }
        flags.push(if self.sanitizes { "sanitize-payload" } else { "skip-sanitize-payload" });
        flags
    }

    /// All its rules in one line, which makes the same user again.
    pub fn rules(&self) -> String {
        let mut line = self.flags().join(" ");
        line.push(' ');
        for hash in &self.passwords {
            // Writing to a string cannot fail.
            let _ = write!(line, "#{hash} ");
        }
        for (at, selector) in self.selectors.iter().enumerate() {
            if at == 0 {
                selector.describe(&mut line);
            } else {
                line.push_str(" (");
                selector.describe(&mut line);
                line.push(')');
            }
        }
        line
    }
}

/// Rules with those of one selector, which may come in several words, put together.
fn joined(rules: &[String]) -> Result<Vec<String>, BadRule> {
    let mut all = Vec::with_capacity(rules.len());
    let mut open: Option<String> = None;
    for rule in rules {
        match &mut open {
            None if rule.starts_with('(') && !rule.ends_with(')') => open = Some(rule.clone()),
            None => all.push(rule.clone()),
            Some(selector) => {
                selector.push(' ');
                selector.push_str(rule);
                if rule.ends_with(')') {
                    all.extend(open.take());
                }
            }
        }
    }
    match open {
        Some(selector) => Err(BadRule(format!(
            "Unmatched parenthesis in acl selector starting at '{}'.",
            selector.split(' ').next().unwrap_or_default()
        ))),
        None => Ok(all),
    }
}
