//! Lua 5.1 scripts, run where they are applied.
//!
//! A script is one op: it sees the state of its place in the log and nobody comes between its commands.
//! So it must do the same on every replica. It has no clock but the commit's, no randomness but from the
//! op's seed, no address of a table to look at, and no order of a table's keys that depends on one. Each
//! run gets an environment and copies of the libraries of its own, so that no run leaves anything to the
//! next. It is bounded in instructions and in memory.
//!
//! The interpreter and compiled scripts are kept for each thread; they hold nothing that a run could see.

mod convert;
mod json;
mod message_pack;
mod sha1;
mod structs;
mod words;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use mlua::{Function, HookTriggers, Lua, LuaOptions, StdLib, Table, Value, Variadic, VmState};

use crate::acl;
use crate::commands::{self, Flags};
use crate::exec::{Exec, Result, Stop, error};
use crate::random::Random;
use crate::reply::Reply;

pub(crate) use sha1::sha1_hex;

/// Instructions that a script may take: about a second.
const INSTRUCTIONS_MAX: u64 = 100_000_000;

/// The bound is looked at once in so many instructions.
const INSTRUCTIONS_STEP: u32 = 10_000;

/// Memory that a script may take beyond what the interpreter has, in bytes.
const MEMORY_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Compiled scripts kept for each thread.
const COMPILED_MAX: usize = 512;

/// What a run begins with, in Lua: it wraps what Rust provides.
const PRELUDE: &str = include_str!("prelude.lua");

struct Engine {
    lua: Lua,
    /// Makes the environment of a run.
    make_environment: Function,
    /// Calls a function and says whether it failed, and with what.
    guard: Function,
    compiled: BTreeMap<String, Function>,
}

thread_local! {
    static ENGINE: RefCell<Option<Engine>> = const { RefCell::new(None) };
}

/// What to run.
pub(crate) enum Source<'a> {
    /// A script by its text and the SHA-1 of that.
    Script { text: &'a [u8], sha1: &'a str },
    /// A function of a library.
    Library { text: &'a [u8], name: &'a str, function: &'a str },
}

/// A function that a library registers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registered {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) flags: Vec<String>,
}

fn engine() -> mlua::Result<Engine> {
    let libraries = StdLib::STRING | StdLib::TABLE | StdLib::MATH;
    let lua = Lua::new_with(libraries, LuaOptions::default())?;
    let natives = lua.create_table()?;
    natives.set("cjson", json::library(&lua)?)?;
    natives.set("cmsgpack", message_pack::library(&lua)?)?;
    natives.set("struct", structs::library(&lua)?)?;
    natives.set("bit", words::library(&lua)?)?;
    let sha1 = |lua: &Lua, text: mlua::LuaString| lua.create_string(sha1_hex(&text.as_bytes()));
    natives.set("sha1hex", lua.create_function(sha1)?)?;
    natives.set("unwrap", lua.create_function(unwrap)?)?;
    let (make_environment, guard): (Function, Function) =
        lua.load(PRELUDE).set_name("=prelude").call(natives)?;
    Ok(Engine { lua, make_environment, guard, compiled: BTreeMap::new() })
}

impl Engine {
    fn compile(&mut self, source: &Source<'_>) -> mlua::Result<Function> {
        let (text, name, key) = match source {
            Source::Script { text, sha1 } => (*text, "@user_script", (*sha1).to_owned()),
            Source::Library { text, name, .. } => {
                (*text, "@user_function", format!("{name} {}", sha1_hex(text)))
            }
        };
        if let Some(compiled) = self.compiled.get(&key) {
            return Ok(compiled.clone());
        }
        let compiled = self
            .lua
            .load(text)
            .set_name(name)
            .set_mode(mlua::chunk::ChunkMode::Text)
            .into_function()?;
        if self.compiled.len() >= COMPILED_MAX {
            self.compiled.clear();
        }
        self.compiled.insert(key, compiled.clone());
        Ok(compiled)
    }
}

/// Whether the text is Lua.
pub(crate) fn check_syntax(text: &[u8], name: &'static str) -> Result<()> {
    with_engine(|engine| {
        let chunk = engine.lua.load(text).set_name(name).set_mode(mlua::chunk::ChunkMode::Text);
        match chunk.into_function() {
            Ok(_) => Ok(()),
            Err(fault) => Err(compile_error(&fault)),
        }
    })
}

fn compile_error(fault: &mlua::Error) -> Stop {
    let text = first_line(&fault.to_string());
    let text = text.strip_prefix("syntax error: ").unwrap_or(&text).to_owned();
    Stop::Error(format!("ERR Error compiling script (new function): {text}").into())
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn with_engine<T>(body: impl FnOnce(&mut Engine) -> Result<T>) -> Result<T> {
    ENGINE.with(|slot| {
        // A script that calls a script is refused before it comes here.
        let Ok(mut slot) = slot.try_borrow_mut() else {
            return error("ERR a script cannot be run from a script");
        };
        if slot.is_none() {
            match engine() {
                Ok(made) => *slot = Some(made),
                Err(fault) => {
                    return Err(Stop::Error(
                        format!("ERR Lua: {}", first_line(&fault.to_string())).into(),
                    ));
                }
            }
        }
        match &mut *slot {
            Some(engine) => body(engine),
            None => error("ERR Lua could not be started"),
        }
    })
}

/// A command that failed, on its way through Lua to whoever catches it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
struct CommandFailure {
    text: String,
    /// The line of the script that called.
    line: Option<usize>,
}

/// What a handler of errors sees of one that Rust raised: a table for a command's, a text for others.
fn unwrap(lua: &Lua, value: Value) -> mlua::Result<Value> {
    let Value::Error(fault) = &value else { return Ok(value) };
    let mut fault = &**fault;
    while let mlua::Error::CallbackError { cause, .. } = fault {
        fault = cause;
    }
    if let Some(failure) = fault.downcast_ref::<CommandFailure>() {
        return error_table(lua, failure);
    }
    let text = first_line(&fault.to_string());
    let text = text.strip_prefix("runtime error: ").unwrap_or(&text);
    Ok(Value::String(lua.create_string(text)?))
}

/// What the commands of a run share.
struct Run {
    reads_only: bool,
    is_resp3: Cell<bool>,
    fault: RefCell<Option<Stop>>,
}

/// Runs a script over the database.
pub(crate) fn run(
    x: &mut Exec<'_>,
    source: &Source<'_>,
    keys: &[Bytes],
    arguments: &[Bytes],
    reads_only: bool,
) -> Result {
    let db = x.db;
    let result = with_engine(|engine| {
        let main = match engine.compile(source) {
            Ok(main) => main,
            Err(fault) => return Err(compile_error(&fault)),
        };
        let run = Run { reads_only, is_resp3: Cell::new(false), fault: RefCell::new(None) };
        let outcome = execute(engine, x, source, &main, keys, arguments, &run);
        engine.lua.remove_hook();
        if let Some(fault) = run.fault.take() {
            return Err(fault);
        }
        outcome.unwrap_or_else(|fault| {
            Err(Stop::Error(format!("ERR {}", first_line(&fault.to_string())).into()))
        })
    });
    x.db = db;
    result
}

fn bound(lua: &Lua) -> mlua::Result<()> {
    lua.gc_collect()?;
    // An interpreter that cannot be bounded is not used: the call fails then.
    lua.set_memory_limit(lua.used_memory() + MEMORY_BYTES_MAX)?;
    let taken = Cell::new(0u64);
    lua.set_hook(HookTriggers::new().every_nth_instruction(INSTRUCTIONS_STEP), move |lua, _| {
        taken.set(taken.get() + u64::from(INSTRUCTIONS_STEP));
        if taken.get() < INSTRUCTIONS_MAX {
            return Ok(VmState::Continue);
        }
        // From here on every instruction fails, so that no handler of errors can go on.
        lua.set_hook(HookTriggers::new().every_nth_instruction(1), |_, _| Err(too_long()))?;
        Err(too_long())
    })
}

fn too_long() -> mlua::Error {
    mlua::Error::runtime("the script takes too many instructions")
}

fn execute(
    engine: &Engine,
    x: &mut Exec<'_>,
    source: &Source<'_>,
    main: &Function,
    keys: &[Bytes],
    arguments: &[Bytes],
    run: &Run,
) -> mlua::Result<Result> {
    let lua = &engine.lua;
    bound(lua)?;
    let now_ms = x.now_ms();
    let seed = Cell::new(x.random.next());
    let exec = RefCell::new(x);
    let registered: Rc<RefCell<Vec<(Registered, Function)>>> = Rc::default();
    let run_command = |lua: &Lua, words: &[Value]| {
        // The frame above this function is the script's.
        let line = lua.inspect_stack(1, |frame| frame.current_line()).flatten();
        let mut exec = exec.borrow_mut();
        match call_command(&mut exec, run, words) {
            Ok(Reply::Error(text)) => Ok(Err(CommandFailure { text: text.into_owned(), line })),
            Ok(reply) => Ok(Ok(convert::to_lua(lua, reply, run.is_resp3.get())?)),
            Err(Stop::Error(text)) => Ok(Err(CommandFailure { text: text.into_owned(), line })),
            Err(fault) => {
                *run.fault.borrow_mut() = Some(fault);
                Err(mlua::Error::runtime("the replica cannot go on"))
            }
        }
    };
    lua.scope(|scope| {
        let natives = lua.create_table()?;
        let call = scope.create_function(|lua, words: Variadic<Value>| {
            run_command(lua, &words)?.map_err(mlua::Error::external)
        })?;
        natives.set("call", call)?;
        let protected_call =
            scope.create_function(|lua, words: Variadic<Value>| {
                match run_command(lua, &words)? {
                    Ok(value) => Ok(value),
                    Err(failure) => error_table(lua, &failure),
                }
            })?;
        natives.set("pcall", protected_call)?;
        let set_resp = scope.create_function(|_, version: Value| match version.as_f64() {
            Some(2.0) => {
                run.is_resp3.set(false);
                Ok(())
            }
            Some(3.0) => {
                run.is_resp3.set(true);
                Ok(())
            }
            _ => Err(mlua::Error::runtime("RESP version must be 2 or 3.")),
        })?;
        natives.set("setresp", set_resp)?;
        let random = scope.create_function(|_, ()| {
            let mut random = Random::new(seed.get());
            let drawn = random.next();
            seed.set(drawn);
            Ok((drawn >> 11) as f64 / (1u64 << 53) as f64)
        })?;
        natives.set("random", random)?;
        let seed_random = scope.create_function(|_, number: f64| {
            seed.set(number as i64 as u64);
            Ok(())
        })?;
        natives.set("randomseed", seed_random)?;
        natives.set("clock", now_ms as f64 / 1000.0)?;
        let register = {
            let registered = registered.clone();
            scope.create_function(move |_, (about, callback): (Value, Option<Function>)| {
                let made = registered_function(&about, callback)?;
                registered.borrow_mut().push(made);
                Ok(())
            })?
        };
        natives.set("register_function", register)?;
        let strings = |all: &[Bytes]| {
            let table = lua.create_table()?;
            for value in all {
                table.raw_push(lua.create_string(value)?)?;
            }
            Ok::<Table, mlua::Error>(table)
        };
        let (keys, arguments) = (strings(keys)?, strings(arguments)?);
        let is_library = matches!(source, Source::Library { .. });
        let environment: Table =
            engine.make_environment.call((natives, is_library, keys.clone(), arguments.clone()))?;
        main.set_environment(environment)?;
        let outcome: (bool, Value) = match source {
            Source::Script { .. } => engine.guard.call(main.clone())?,
            Source::Library { function, .. } => {
                let loaded: (bool, Value) = engine.guard.call(main.clone())?;
                if loaded.0 && !function.is_empty() {
                    let found =
                        registered.borrow().iter().find(|(r, _)| r.name == **function).cloned();
                    match found {
                        Some((_, callback)) => engine.guard.call((callback, keys, arguments))?,
                        None => return Ok(error("ERR Function not found")),
                    }
                } else {
                    loaded
                }
            }
        };
        Ok(match outcome {
            (true, value) => convert::to_reply(value, run.is_resp3.get(), 0),
            (false, value) => Err(Stop::Error(failure_text(source, value).into())),
        })
    })
}

/// What a library registers, without running any of it.
pub(crate) fn registered_functions(
    x: &mut Exec<'_>,
    text: &[u8],
    name: &str,
) -> Result<Vec<Registered>> {
    check_syntax(text, "@user_function")?;
    let source = Source::Library { text, name, function: "" };
    with_engine(|engine| {
        let main = match engine.compile(&source) {
            Ok(main) => main,
            Err(fault) => return Err(compile_error(&fault)),
        };
        let found = collect(engine, x, &main);
        engine.lua.remove_hook();
        match found {
            Ok(found) => found,
            Err(fault) => Err(Stop::Error(
                format!("ERR Error registering functions: {}", first_line(&fault.to_string()))
                    .into(),
            )),
        }
    })
}

fn collect(
    engine: &Engine,
    x: &mut Exec<'_>,
    main: &Function,
) -> mlua::Result<Result<Vec<Registered>>> {
    let lua = &engine.lua;
    bound(lua)?;
    let registered: Rc<RefCell<Vec<(Registered, Function)>>> = Rc::default();
    let natives = lua.create_table()?;
    let refuse = |_: &Lua, _: Variadic<Value>| -> mlua::Result<()> {
        Err(mlua::Error::runtime("redis.call can only be called from a function"))
    };
    for name in ["call", "pcall", "setresp"] {
        natives.set(name, lua.create_function(refuse)?)?;
    }
    natives.set("random", lua.create_function(|_, ()| Ok(0.5))?)?;
    natives.set("randomseed", lua.create_function(|_, _: f64| Ok(()))?)?;
    natives.set("clock", x.now_ms() as f64 / 1000.0)?;
    let sink = registered.clone();
    let register = move |_: &Lua, (about, callback): (Value, Option<Function>)| {
        let made = registered_function(&about, callback)?;
        if sink.borrow().iter().any(|(other, _)| other.name == made.0.name) {
            return Err(mlua::Error::runtime("Function already exists in the library"));
        }
        sink.borrow_mut().push(made);
        Ok(())
    };
    natives.set("register_function", lua.create_function(register)?)?;
    let empty = lua.create_table()?;
    let environment: Table = engine.make_environment.call((natives, true, empty.clone(), empty))?;
    main.set_environment(environment)?;
    let (is_done, value): (bool, Value) = engine.guard.call(main.clone())?;
    if !is_done {
        let text = match &value {
            Value::Table(table) => table.get::<String>("err").unwrap_or_default(),
            value => value.to_string().unwrap_or_default(),
        };
        return Ok(Err(Stop::Error(
            format!("ERR Error registering functions: {}", first_line(&text)).into(),
        )));
    }
    let found: Vec<Registered> = registered.borrow().iter().map(|(made, _)| made.clone()).collect();
    if found.is_empty() {
        return Ok(error("ERR No functions registered"));
    }
    Ok(Ok(found))
}

fn registered_function(
    about: &Value,
    callback: Option<Function>,
) -> mlua::Result<(Registered, Function)> {
    let wrong = || mlua::Error::runtime("wrong arguments to redis.register_function");
    let mut made = Registered::default();
    let callback = match (about, callback) {
        (Value::String(name), Some(callback)) => {
            made.name = name.to_string_lossy();
            callback
        }
        (Value::Table(table), None) => {
            made.name = table.get::<String>("function_name")?;
            made.description = table.get::<Option<String>>("description")?;
            if let Some(flags) = table.get::<Option<Table>>("flags")? {
                for flag in flags.sequence_values::<String>() {
                    made.flags.push(flag?);
                }
            }
            table.get::<Function>("callback")?
        }
        _ => return Err(wrong()),
    };
    let is_name = |name: &str| {
        (1..=256).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if is_name(&made.name) {
        Ok((made, callback))
    } else {
        Err(mlua::Error::runtime(
            "Library names can only contain letters, numbers, or underscores(_) and must be at least one character long",
        ))
    }
}

/// A failure of a command as scripts see it.
fn error_table(lua: &Lua, failure: &CommandFailure) -> mlua::Result<Value> {
    let table = lua.create_table()?;
    table.raw_set("err", lua.create_string(&failure.text)?)?;
    if let Some(line) = failure.line {
        table.raw_set("source", "@user_script")?;
        table.raw_set("line", line.to_string())?;
    }
    Ok(Value::Table(table))
}

/// The error reply of a script that failed.
fn failure_text(source: &Source<'_>, value: Value) -> String {
    let (name, chunk) = match source {
        Source::Script { sha1, .. } => (*sha1, "user_script"),
        Source::Library { function, .. } => (*function, "user_function"),
    };
    let (text, line) = match &value {
        Value::Table(table) => {
            let text = table.raw_get::<Option<mlua::LuaString>>("err").ok().flatten();
            let text = text.map(|text| text.to_string_lossy()).unwrap_or_default();
            let line = table.raw_get::<Value>("line").ok();
            (text, line.as_ref().and_then(convert::number_of).map(|line| line as i64))
        }
        value => {
            let text = first_line(&value.to_string().unwrap_or_default());
            let text = text.strip_prefix("runtime error: ").unwrap_or(&text).to_owned();
            let line = text.strip_prefix(chunk).and_then(|rest| {
                rest.trim_start_matches(':').split(':').next()?.parse::<i64>().ok()
            });
            (format!("ERR {text}"), line)
        }
    };
    let text = if text.is_empty() { "ERR unknown error".to_owned() } else { text };
    match line {
        Some(line) => format!("{text} script: {name}, on @{chunk}:{line}."),
        None => text,
    }
}

/// Runs a command for a script.
fn call_command(x: &mut Exec<'_>, run: &Run, words: &[Value]) -> Result {
    if words.is_empty() {
        return error("ERR Please specify at least one argument for this redis.call() call");
    }
    let mut arguments = Vec::with_capacity(words.len());
    for word in words {
        match convert::argument(word) {
            Some(argument) => arguments.push(argument),
            None => {
                return error("ERR Lua redis lib command arguments must be strings or integers");
            }
        }
    }
    let name = arguments[0].to_ascii_lowercase();
    let Some(command) = commands::find(&name) else {
        return without_data(x, &name, &arguments);
    };
    if command.flags.has(Flags::NO_SCRIPT) {
        return error("ERR This Redis command is not allowed from script");
    }
    if !command.takes(arguments.len()) {
        return error("ERR Wrong number of args calling Redis command from script");
    }
    if let Some(user) = &x.user
        && let Some(fact) = acl::resolve(&arguments)
        && let Err(denied) = user.check(fact, &arguments)
    {
        let text = format!("ERR ACL failure in script: {}", denied.text(&user.name));
        return Err(Stop::Error(text.into()));
    }
    if let Some(slots) = &x.slots {
        let places = command.key_places(&arguments);
        let mut keys = places.into_iter().filter_map(|place| arguments.get(place));
        if !keys.all(|key| slots.have(key)) {
            return error("ERR Script attempted to access a non local key in a cluster node");
        }
    }
    if run.reads_only && command.is_write() {
        return error("ERR Write commands are not allowed from read-only scripts.");
    }
    match commands::run(x, &arguments)? {
        Reply::Blocked => Ok(Reply::NilArray),
        reply => Ok(reply),
    }
}

/// Commands that touch no data and that scripts use all the same.
fn without_data(x: &mut Exec<'_>, name: &[u8], arguments: &[Bytes]) -> Result {
    match (name, arguments.len()) {
        (b"ping", 1) => Ok(Reply::status("PONG")),
        (b"ping" | b"echo", 2) => Ok(Reply::Bulk(arguments[1].clone())),
        (b"time", 1) => {
            let now_ms = x.now_ms();
            let parts = [now_ms / 1000, now_ms % 1000 * 1000];
            Ok(Reply::bulks(parts.map(|part| Bytes::from(part.to_string()))))
        }
        (b"select", 2) => match commands::database(crate::parse_integer(&arguments[1])) {
            Some(db) => {
                x.db = db;
                Ok(Reply::OK)
            }
            None => error("ERR DB index is out of range"),
        },
        _ => error("ERR Unknown Redis command called from script"),
    }
}

#[cfg(test)]
mod tests;
