//! What COMMAND DOCS tells of each command, from one table.
//!
//! A line for each command and subcommand, in the order of the ACL's facts; its parts are separated by ` | `:
//! name; since when, `!` and since when deprecated, `+` if only servers send it; group; cost; arguments;
//! what it does; what is better used instead. Arguments are separated by spaces, each
//! `name:type[place][?][*][+][@since][!deprecated][~shown][=TOKEN][(arguments)]`, where `place` numbers the
//! specification of keys, `?` is optional, `*` may be repeated, `+` with its token.

use std::collections::HashMap;
use std::sync::LazyLock;

use proteus_kernel_api::cache::Reply;
use proteus_kernel_api::cache::acl::{self, Fact};

use crate::reply::text;

const LINES: &str = include_str!("documentation.txt");

struct Line {
    since: &'static str,
    deprecated_since: Option<&'static str>,
    is_for_servers: bool,
    group: &'static str,
    complexity: &'static str,
    arguments: &'static str,
    summary: &'static str,
    replaced_by: Option<&'static str>,
}

static BY_NAME: LazyLock<HashMap<&'static str, Line>> =
    LazyLock::new(|| LINES.lines().filter_map(line).collect());

fn line(text: &'static str) -> Option<(&'static str, Line)> {
    let mut parts = text.split(" | ");
    let name = parts.next()?;
    let age = parts.next()?;
    let (age, is_for_servers) = match age.strip_suffix('+') {
        Some(age) => (age, true),
        None => (age, false),
    };
    let (since, deprecated_since) = match age.split_once('!') {
        Some((since, deprecated)) => (since, Some(deprecated)),
        None => (age, None),
    };
    let group = parts.next()?;
    let complexity = parts.next()?;
    let arguments = parts.next().filter(|arguments| *arguments != "-");
    let summary = parts.next()?;
    let line = Line {
        since,
        deprecated_since,
        is_for_servers,
        group,
        complexity,
        arguments: arguments.unwrap_or_default(),
        summary,
        replaced_by: parts.next(),
    };
    Some((name, line))
}

/// The documentation of a command or subcommand, as Redis shapes it.
pub(crate) fn documentation(fact: &Fact) -> Reply {
    let mut about = Vec::new();
    let line = BY_NAME.get(fact.name);
    let mut tell = |name: &'static str, value: Reply| about.push((text(name), value));
    if let Some(line) = line {
        tell("summary", text(line.summary));
        tell("since", text(line.since));
        tell("group", text(line.group));
        tell("complexity", text(line.complexity));
        let mut flags = Vec::new();
        if line.deprecated_since.is_some() {
            flags.push(Reply::status("deprecated"));
        }
        if line.is_for_servers {
            flags.push(Reply::status("syscmd"));
        }
        if !flags.is_empty() {
            tell("doc_flags", Reply::Set(flags));
        }
        if let Some(since) = line.deprecated_since {
            tell("deprecated_since", text(since));
        }
        if let Some(other) = line.replaced_by {
            tell("replaced_by", text(other));
        }
        if !line.arguments.is_empty() {
            tell("arguments", arguments(&mut Rest(line.arguments)));
        }
    }
    let subcommands = acl::facts().get(fact.subcommands.clone()).unwrap_or_default();
    if !subcommands.is_empty() {
        let each = subcommands.iter().map(|sub| (text(sub.name), documentation(sub))).collect();
        tell("subcommands", Reply::Map(each));
    }
    Reply::Map(about)
}

/// What of a line's arguments is not read yet.
struct Rest(&'static str);

impl Rest {
    /// Takes what stands before the first of these characters, which stays.
    fn until(&mut self, ends: &[char]) -> &'static str {
        let (taken, rest) = self.0.split_at(self.0.find(ends).unwrap_or(self.0.len()));
        self.0 = rest;
        taken
    }

    fn takes(&mut self, sign: char) -> bool {
        match self.0.strip_prefix(sign) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn word_behind(&mut self, sign: char, ends: &[char]) -> Option<&'static str> {
        self.takes(sign).then(|| self.until(ends))
    }
}

fn type_name(letter: &str) -> &'static str {
    match letter {
        "k" => "key",
        "i" => "integer",
        "d" => "double",
        "s" => "string",
        "p" => "pattern",
        "u" => "unix-time",
        "t" => "pure-token",
        "o" => "oneof",
        _ => "block",
    }
}

/// The arguments up to the end of the text or of the parenthesis.
fn arguments(rest: &mut Rest) -> Reply {
    let mut all = Vec::new();
    while !rest.0.is_empty() && !rest.takes(')') {
        if !rest.takes(' ') {
            all.push(argument(rest));
        }
    }
    Reply::Array(all)
}

fn argument(rest: &mut Rest) -> Reply {
    let name = rest.until(&[':']);
    rest.takes(':');
    let kind = rest.until(&['?', '*', '+', '@', '!', '~', '=', '(', ')', ' ']);
    let (letter, place) = kind.split_at(1.min(kind.len()));
    let mut flags = Vec::new();
    for (sign, flag) in [('?', "optional"), ('*', "multiple"), ('+', "multiple_token")] {
        if rest.takes(sign) {
            flags.push(Reply::status(flag));
        }
    }
    let since = rest.word_behind('@', &['!', '~', '=', '(', ')', ' ']);
    let deprecated_since = rest.word_behind('!', &['~', '=', '(', ')', ' ']);
    let shown = rest.word_behind('~', &['=', '(', ')', ' ']);
    let token = rest.word_behind('=', &['(', ')', ' ']);
    let mut about = vec![(text("name"), text(name)), (text("type"), text(type_name(letter)))];
    let has_parts = matches!(letter, "o" | "b");
    if !has_parts {
        about.push((text("display_text"), text(shown.unwrap_or(name))));
    }
    if let Ok(place) = place.parse() {
        about.push((text("key_spec_index"), Reply::Integer(place)));
    }
    let words =
        [("token", token), ("since", since), ("deprecated_since", deprecated_since)].into_iter();
    about.extend(words.filter_map(|(name, word)| Some((text(name), text(word?)))));
    if !flags.is_empty() {
        about.push((text("flags"), Reply::Set(flags)));
    }
    if has_parts {
        rest.takes('(');
        about.push((text("arguments"), arguments(rest)));
    }
    Reply::Map(about)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table;

    fn is_served(fact: &Fact) -> bool {
        fact.name.split('|').next().is_some_and(|name| table::find(name.as_bytes()).is_some())
    }

    #[test]
    fn every_command_that_is_served_is_documented_and_no_other() {
        for fact in acl::facts() {
            assert_eq!(is_served(fact), BY_NAME.contains_key(fact.name), "{}", fact.name);
        }
        let known = acl::facts().iter().filter(|fact| is_served(fact)).count();
        assert_eq!(BY_NAME.len(), known);
        assert_eq!(LINES.lines().count(), known);
    }

    #[test]
    fn groups_are_those_of_the_tables() {
        for found in table::all() {
            let line = &BY_NAME[found.name()];
            assert_eq!(line.group, found.group().name(), "{}", found.name());
        }
    }

    fn field<'a>(map: &'a Reply, name: &str) -> Option<&'a Reply> {
        let Reply::Map(pairs) = map else { panic!("{map:?} is no map") };
        pairs.iter().find(|(found, _)| *found == text(name.to_owned())).map(|(_, value)| value)
    }

    fn check_argument(argument: &Reply, command: &str) {
        let Some(Reply::Bulk(kind)) = field(argument, "type") else { panic!("{command}") };
        let has_parts = matches!(&kind[..], b"oneof" | b"block");
        assert_eq!(field(argument, "arguments").is_some(), has_parts, "{command}");
        assert_eq!(field(argument, "display_text").is_none(), has_parts, "{command}");
        let is_token = &kind[..] == b"pure-token";
        assert!(!is_token || field(argument, "token").is_some(), "{command}");
        if let Some(Reply::Array(parts)) = field(argument, "arguments") {
            assert!(!parts.is_empty(), "{command}");
            parts.iter().for_each(|part| check_argument(part, command));
        }
    }

    #[test]
    fn every_argument_is_understood() {
        for fact in acl::facts().iter().filter(|fact| is_served(fact)) {
            let about = documentation(fact);
            if let Some(Reply::Array(all)) = field(&about, "arguments") {
                all.iter().for_each(|argument| check_argument(argument, fact.name));
            }
        }
    }
}
