//! Scripts and functions: EVAL, SCRIPT, FCALL, FUNCTION. How they run is in `script`.
//!
//! Scripts and libraries are kept in the store: an EVALSHA means the same on every replica, and after a
//! restart. The text of a function's library runs whenever one of its functions is called, and registers
//! them anew; nothing of it lives on.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::keys::unknown_subcommand;
use super::{
    Arguments, Command, Flags, Group, Keys, NONE, command, failure, shortened, wrong_arity,
};
use crate::exec::{Exec, NOT_AN_INTEGER, Result, error};
use crate::layout;
use crate::number::parse_integer;
use crate::pattern;
use crate::rdb;
use crate::reply::Reply;
use crate::script::{self, Registered, Source, sha1_hex};

const G: Group = Group::Scripting;
const RUN: Flags = Flags::WRITE.and(Flags::RANDOM).and(Flags::NO_SCRIPT).and(Flags::MOVABLE_KEYS);
const RUN_READER: Flags =
    Flags::READ.and(Flags::RANDOM).and(Flags::NO_SCRIPT).and(Flags::MOVABLE_KEYS);
const MANAGE: Flags = Flags::WRITE.and(Flags::NO_SCRIPT);
const KEYS: Keys = Keys::Counted(2);

pub(super) const TABLE: &[Command] = &[
    command("eval", -3, RUN, KEYS, G, |x, a| eval(x, a, false)),
    command("eval_ro", -3, RUN_READER, KEYS, G, |x, a| eval(x, a, true)),
    command("evalsha", -3, RUN, KEYS, G, |x, a| evalsha(x, a, false)),
    command("evalsha_ro", -3, RUN_READER, KEYS, G, |x, a| evalsha(x, a, true)),
    command("fcall", -3, RUN, KEYS, G, |x, a| fcall(x, a, false)),
    command("fcall_ro", -3, RUN_READER, KEYS, G, |x, a| fcall(x, a, true)),
    command("function", -2, MANAGE, NONE, G, function),
    command("script", -2, MANAGE, NONE, G, script),
];

/// Keys and arguments behind `numkeys` at 2.
fn split(a: &[Bytes]) -> Result<(&[Bytes], &[Bytes])> {
    let count = match parse_integer(a.at(2)?) {
        None => return error(NOT_AN_INTEGER),
        Some(count) if count < 0 => return error("ERR Number of keys can't be negative"),
        Some(count) => usize::try_from(count).unwrap_or(usize::MAX),
    };
    match a.from(3).split_at_checked(count) {
        Some(parts) => Ok(parts),
        None => error("ERR Number of keys can't be greater than number of args"),
    }
}

/// What a first line `#!lua …` says, and the text with that line made empty.
struct Shebang {
    text: Vec<u8>,
    name: Option<String>,
    flags: Vec<String>,
}

fn shebang(text: &[u8]) -> Result<Option<Shebang>> {
    if !text.starts_with(b"#!") {
        return Ok(None);
    }
    let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    let line = String::from_utf8_lossy(&text[2..end]).trim_end().to_owned();
    let mut words = line.split_ascii_whitespace();
    let engine = words.next().unwrap_or_default();
    if !engine.eq_ignore_ascii_case("lua") {
        return failure(format!("ERR Unexpected engine in script shebang: {engine}"));
    }
    let mut found = Shebang { text: text[end..].to_vec(), name: None, flags: Vec::new() };
    for word in words {
        if let Some(flags) = word.strip_prefix("flags=") {
            for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
                let known = [
                    "no-writes",
                    "allow-oom",
                    "allow-stale",
                    "no-cluster",
                    "allow-cross-slot-keys",
                ];
                if !known.contains(&flag) {
                    return failure(format!("ERR Unexpected flag in script shebang: {flag}"));
                }
                found.flags.push(flag.to_owned());
            }
        } else if let Some(name) = word.strip_prefix("name=") {
            found.name = Some(name.to_owned());
        } else {
            return failure(format!("ERR Unknown lua shebang option: {word}"));
        }
    }
    Ok(Some(found))
}

fn eval(x: &mut Exec<'_>, a: &[Bytes], reads_only: bool) -> Result {
    let (keys, arguments) = split(a)?;
    let text = a.at(1)?;
    let sha1 = sha1_hex(text);
    if !reads_only {
        keep_script(x, text, &sha1)?;
    }
    run_script(x, text, &sha1, keys, arguments, reads_only)
}

fn keep_script(x: &mut Exec<'_>, text: &Bytes, sha1: &str) -> Result<()> {
    let place = layout::named(layout::KIND_SCRIPT, sha1.as_bytes());
    if x.read().get(&place)?.is_none() {
        x.access.put(place, text.clone());
    }
    Ok(())
}

fn run_script(
    x: &mut Exec<'_>,
    text: &[u8],
    sha1: &str,
    keys: &[Bytes],
    arguments: &[Bytes],
    reads_only: bool,
) -> Result {
    match shebang(text)? {
        None => {
            let source = Source::Script { text, sha1 };
            script::run(x, &source, keys, arguments, reads_only)
        }
        Some(found) => {
            let never_writes = found.flags.iter().any(|flag| flag == "no-writes");
            if reads_only && !never_writes {
                return error("ERR Can not execute a script with write flag using *_ro command.");
            }
            let source = Source::Script { text: &found.text, sha1 };
            script::run(x, &source, keys, arguments, never_writes)
        }
    }
}

fn evalsha(x: &mut Exec<'_>, a: &[Bytes], reads_only: bool) -> Result {
    let (keys, arguments) = split(a)?;
    let sha1 = String::from_utf8_lossy(a.at(1)?).to_ascii_lowercase();
    let place = layout::named(layout::KIND_SCRIPT, sha1.as_bytes());
    match x.read().get(&place)? {
        Some(text) => run_script(x, &text, &sha1, keys, arguments, reads_only),
        None => error("NOSCRIPT No matching script. Please use EVAL."),
    }
}

fn script(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let word = a.word(1);
    match (word.as_str(), a.len()) {
        ("LOAD", 3) => {
            let text = a.at(2)?;
            let plain = shebang(text)?.map_or(text.to_vec(), |found| found.text);
            script::check_syntax(&plain, "@user_script")?;
            let sha1 = sha1_hex(text);
            keep_script(x, text, &sha1)?;
            Ok(Reply::text(sha1))
        }
        ("EXISTS", count) if count > 2 => {
            let mut found = Vec::new();
            for sha1 in a.from(2) {
                let place = layout::named(layout::KIND_SCRIPT, &sha1.to_ascii_lowercase());
                found.push(Reply::Integer(i64::from(x.read().get(&place)?.is_some())));
            }
            Ok(Reply::Array(found))
        }
        ("FLUSH", 2 | 3) => {
            if a.len() == 3 && !a.is(2, "sync") && !a.is(2, "async") {
                return error("ERR SCRIPT FLUSH only support SYNC|ASYNC option");
            }
            for (place, _) in all_named(x, layout::KIND_SCRIPT)? {
                x.access.delete(layout::named(layout::KIND_SCRIPT, &place));
            }
            Ok(Reply::OK)
        }
        ("KILL", 2) => error("NOTBUSY No scripts in execution right now."),
        ("DEBUG", 3) => error("ERR the debugger of scripts is not supported"),
        ("HELP", 2) => Ok(Reply::Array(
            [
                "SCRIPT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "DEBUG (YES|SYNC|NO)",
                "    Set the debug mode for subsequent scripts executed.",
                "EXISTS <sha1> [<sha1> ...]",
                "    Return information about the existence of the scripts in the script cache.",
                "FLUSH [ASYNC|SYNC]",
                "    Flush the Lua scripts cache. Very dangerous on replicas.",
                "KILL",
                "    Kill the currently executing Lua script.",
                "LOAD <script>",
                "    Load a script into the scripts cache without executing it.",
                "HELP",
                "    Print this help.",
            ]
            .into_iter()
            .map(Reply::status)
            .collect(),
        )),
        ("LOAD" | "EXISTS" | "FLUSH" | "KILL" | "DEBUG" | "HELP", _) => {
            wrong_arity(&format!("script|{}", word.to_lowercase()))
        }
        _ => unknown_subcommand("SCRIPT", a.at(1)?),
    }
}

fn all_named(x: &Exec<'_>, kind: u8) -> Result<Vec<(Bytes, Bytes)>> {
    let prefix = layout::named(kind, b"");
    let mut found = Vec::new();
    x.read().scan_prefix(&prefix, &mut |place, value| {
        found.push((Bytes::copy_from_slice(&place[prefix.len()..]), value.clone()));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// A function as it is stored under its name: whether it never writes, and its library's name.
fn stored_function(never_writes: bool, library: &str) -> Bytes {
    Bytes::from([&[u8::from(never_writes)][..], library.as_bytes()].concat())
}

fn fcall(x: &mut Exec<'_>, a: &[Bytes], reads_only: bool) -> Result {
    let name = String::from_utf8_lossy(a.at(1)?).into_owned();
    let stored = x.read().get(&layout::named(layout::KIND_FUNCTION, name.as_bytes()))?;
    let Some((never_writes, library)) = stored.as_ref().and_then(|stored| stored.split_first())
    else {
        return error("ERR Function not found");
    };
    let never_writes = *never_writes == 1;
    let (keys, arguments) = split(a)?;
    if reads_only && !never_writes {
        return error("ERR Can not execute a script with write flag using *_ro command.");
    }
    let library = String::from_utf8_lossy(library).into_owned();
    let Some(text) = x.read().get(&layout::named(layout::KIND_LIBRARY, library.as_bytes()))? else {
        return error("ERR Function not found");
    };
    let plain = shebang(&text)?.map_or(text.to_vec(), |found| found.text);
    let source = Source::Library { text: &plain, name: &library, function: &name };
    script::run(x, &source, keys, arguments, never_writes)
}

fn load(x: &mut Exec<'_>, text: &Bytes, replaces: bool) -> Result {
    let Some(found) = shebang(text)? else { return error("ERR Missing library metadata") };
    let Some(name) = found.name else { return error("ERR Library name was not given") };
    let is_name = |name: &str| {
        (1..=256).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if !is_name(&name) {
        return error(
            "ERR Library names can only contain letters, numbers, or underscores(_) and must be at least one character long",
        );
    }
    let place = layout::named(layout::KIND_LIBRARY, name.as_bytes());
    let present = x.read().get(&place)?;
    if present.is_some() && !replaces {
        return failure(format!("ERR Library '{name}' already exists"));
    }
    let functions = script::registered_functions(x, &found.text, &name)?;
    for made in &functions {
        let stored = x.read().get(&layout::named(layout::KIND_FUNCTION, made.name.as_bytes()))?;
        let owner = stored.as_ref().and_then(|stored| stored.get(1..));
        if owner.is_some_and(|owner| owner != name.as_bytes()) {
            return failure(format!("ERR Function {} already exists", made.name));
        }
    }
    remove_functions(x, &name)?;
    x.access.put(place, text.clone());
    for Registered { name: function, flags, .. } in functions {
        let never_writes = flags.iter().any(|flag| flag == "no-writes");
        let place = layout::named(layout::KIND_FUNCTION, function.as_bytes());
        x.access.put(place, stored_function(never_writes, &name));
    }
    Ok(Reply::text(name))
}

fn remove_functions(x: &mut Exec<'_>, library: &str) -> Result<()> {
    for (function, stored) in all_named(x, layout::KIND_FUNCTION)? {
        if stored.get(1..) == Some(library.as_bytes()) {
            x.access.delete(layout::named(layout::KIND_FUNCTION, &function));
        }
    }
    Ok(())
}

fn list(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let (mut wanted, mut with_code) = (None, false);
    let mut place = 2;
    while place < a.len() {
        match a.word(place).as_str() {
            "WITHCODE" => with_code = true,
            "LIBRARYNAME" if place + 1 < a.len() => {
                wanted = Some(a.at(place + 1)?);
                place += 1;
            }
            _ => {
                let word = shortened(a.at(place)?, 128);
                return failure(format!("ERR Unknown argument {word}"));
            }
        }
        place += 1;
    }
    let mut rows = Vec::new();
    for (name, text) in all_named(x, layout::KIND_LIBRARY)? {
        if wanted.is_some_and(|wanted| !pattern::matches(wanted, &name)) {
            continue;
        }
        let plain = shebang(&text)?.map_or(text.to_vec(), |found| found.text);
        let functions = script::registered_functions(x, &plain, &String::from_utf8_lossy(&name))?;
        let row = |made: Registered| {
            let flags = made.flags.into_iter().map(|flag| Reply::Status(flag.into())).collect();
            Reply::Map(vec![
                (Reply::text("name"), Reply::text(made.name)),
                (Reply::text("description"), made.description.map_or(Reply::Nil, Reply::text)),
                (Reply::text("flags"), Reply::Set(flags)),
            ])
        };
        let mut library = vec![
            (Reply::text("library_name"), Reply::Bulk(name)),
            (Reply::text("engine"), Reply::text("LUA")),
            (Reply::text("functions"), Reply::Array(functions.into_iter().map(row).collect())),
        ];
        if with_code {
            library.push((Reply::text("library_code"), Reply::Bulk(text)));
        }
        rows.push(Reply::Map(library));
    }
    Ok(Reply::Array(rows))
}

/// Loads what FUNCTION DUMP gave: all libraries or none.
fn restore(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let policy = if a.len() == 4 { a.word(3) } else { "APPEND".to_owned() };
    if !matches!(policy.as_str(), "APPEND" | "REPLACE" | "FLUSH") {
        return error(
            "ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.",
        );
    }
    let texts = match rdb::restore_libraries(a.at(2)?) {
        Ok(texts) => texts,
        Err(bad) => return failure(format!("ERR {bad}")),
    };
    let before = [layout::KIND_LIBRARY, layout::KIND_FUNCTION]
        .into_iter()
        .map(|kind| Ok((kind, all_named(x, kind)?)))
        .collect::<Result<Vec<_>>>()?;
    if policy == "FLUSH" {
        remove_all(x)?;
    }
    for text in texts {
        if let Err(stop) = load(x, &text, policy == "REPLACE") {
            // An error is a reply and undoes nothing by itself.
            remove_all(x)?;
            for (kind, all) in before {
                for (name, value) in all {
                    x.access.put(layout::named(kind, &name), value);
                }
            }
            return Err(stop);
        }
    }
    Ok(Reply::OK)
}

fn remove_all(x: &mut Exec<'_>) -> Result<()> {
    for kind in [layout::KIND_LIBRARY, layout::KIND_FUNCTION] {
        for (name, _) in all_named(x, kind)? {
            x.access.delete(layout::named(kind, &name));
        }
    }
    Ok(())
}

fn function(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let word = a.word(1);
    match (word.as_str(), a.len()) {
        ("LOAD", 3) => load(x, a.at(2)?, false),
        ("LOAD", 4) if a.is(2, "replace") => load(x, a.at(3)?, true),
        ("LOAD", count) if count > 3 => {
            let word = shortened(a.at(2)?, 128);
            failure(format!("ERR Unknown option given: {word}"))
        }
        ("DELETE", 3) => {
            let place = layout::named(layout::KIND_LIBRARY, a.at(2)?);
            if x.read().get(&place)?.is_none() {
                return error("ERR Library not found");
            }
            remove_functions(x, &String::from_utf8_lossy(a.at(2)?))?;
            x.access.delete(place);
            Ok(Reply::OK)
        }
        ("FLUSH", 2 | 3) => {
            if a.len() == 3 && !a.is(2, "sync") && !a.is(2, "async") {
                return error("ERR FUNCTION FLUSH only supports SYNC|ASYNC option");
            }
            remove_all(x)?;
            Ok(Reply::OK)
        }
        ("LIST", _) => list(x, a),
        ("STATS", 2) => {
            let (libraries, functions) = (
                all_named(x, layout::KIND_LIBRARY)?.len(),
                all_named(x, layout::KIND_FUNCTION)?.len(),
            );
            let counts = Reply::Map(vec![
                (Reply::text("libraries_count"), Reply::count(libraries)),
                (Reply::text("functions_count"), Reply::count(functions)),
            ]);
            Ok(Reply::Map(vec![
                (Reply::text("running_script"), Reply::Nil),
                (Reply::text("engines"), Reply::Map(vec![(Reply::text("LUA"), counts)])),
            ]))
        }
        ("KILL", 2) => error("NOTBUSY No scripts in execution right now."),
        ("DUMP", 2) => {
            let libraries = all_named(x, layout::KIND_LIBRARY)?;
            let texts: Vec<Bytes> = libraries.into_iter().map(|(_, text)| text).collect();
            Ok(Reply::Bulk(Bytes::from(rdb::dump_libraries(&texts))))
        }
        ("RESTORE", 3 | 4) => restore(x, a),
        ("LOAD" | "DELETE" | "FLUSH" | "STATS" | "KILL" | "DUMP" | "RESTORE", _) => {
            wrong_arity(&format!("function|{}", word.to_lowercase()))
        }
        _ => unknown_subcommand("FUNCTION", a.at(1)?),
    }
}
