//! INFO, CONFIG, COMMAND, MEMORY, CLUSTER and their relatives.

mod acl;
mod cluster;
mod docs;
mod info;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use proteus_env::task;
use proteus_kernel_api::cache::commands::shortened;
use proteus_kernel_api::cache::{self, Call, Reply, parse_float, parse_integer};

use super::Session;
use crate::errors::{NOT_AN_INTEGER, SYNTAX, of_kernel, unknown_subcommand, wrong_arity};
use crate::reply::text;
use crate::table::OwnCommand;

pub(super) fn ping(arguments: &[Bytes]) -> Reply {
    match arguments {
        [_] => Reply::status("PONG"),
        [_, message] => Reply::Bulk(message.clone()),
        _ => wrong_arity("ping"),
    }
}

/// Lines of help.
pub(super) fn help(lines: &'static [&'static str]) -> Reply {
    Reply::Array(lines.iter().map(|line| Reply::status(line)).collect())
}

/// The second argument in capitals.
fn word(arguments: &[Bytes]) -> Vec<u8> {
    arguments.get(1).map(|word| word.to_ascii_uppercase()).unwrap_or_default()
}

fn unknown(command: &str, arguments: &[Bytes]) -> Reply {
    unknown_subcommand(command, arguments.get(1).map_or(b"", |word| &word[..]))
}

impl Session {
    pub(super) async fn about_server(&mut self, own: OwnCommand, arguments: &[Bytes]) -> Reply {
        match own {
            OwnCommand::Echo => Reply::Bulk(arguments.get(1).cloned().unwrap_or_default()),
            OwnCommand::Acl => self.acl(arguments),
            OwnCommand::Info => self.info(arguments),
            OwnCommand::Config => self.config(arguments),
            OwnCommand::CommandInfo => docs::command(arguments),
            OwnCommand::Time => {
                let now_ms = self.face.clock.wall_ms();
                let parts = [now_ms / 1000, now_ms % 1000 * 1000];
                Reply::Array(parts.iter().map(|part| text(part.to_string())).collect())
            }
            OwnCommand::LastSave => {
                Reply::Integer(i64::try_from(self.face.clock.wall_ms() / 1000).unwrap_or(i64::MAX))
            }
            OwnCommand::Role => {
                Reply::Array(vec![text("master"), Reply::ZERO, Reply::Array(Vec::new())])
            }
            // Whatever was acknowledged is on disk, on all copies that there are.
            OwnCommand::Save => Reply::OK,
            OwnCommand::BgSave => Reply::status("Background saving started"),
            OwnCommand::BgRewriteAof => {
                Reply::status("Background append only file rewriting started")
            }
            OwnCommand::Wait => wait(arguments),
            OwnCommand::WaitAof => wait_aof(arguments),
            OwnCommand::Lolwut => Reply::Verbatim("txt", Bytes::from_static(b"Redis ver. 7.4.0\n")),
            OwnCommand::Memory => self.memory(arguments),
            OwnCommand::Slowlog => slowlog(arguments),
            OwnCommand::Latency => latency(arguments),
            OwnCommand::Module => match (word(arguments).as_slice(), arguments.len()) {
                (b"LIST", 2) => Reply::Array(Vec::new()),
                _ => unknown("module", arguments),
            },
            OwnCommand::Debug => self.debug(arguments).await,
            OwnCommand::Cluster => self.cluster(arguments),
            OwnCommand::Asking | OwnCommand::ReadOnly | OwnCommand::ReadWrite => {
                Reply::error("ERR This instance has cluster support disabled")
            }
            // The others are carried out elsewhere.
            _ => SYNTAX,
        }
    }

    fn config(&mut self, arguments: &[Bytes]) -> Reply {
        let settings = &self.face.settings;
        match (word(arguments).as_slice(), arguments.len()) {
            (b"GET", count) if count > 2 => {
                let pairs = settings.matching(&arguments[2..]);
                Reply::Map(
                    pairs.into_iter().map(|(name, value)| (text(name), text(value))).collect(),
                )
            }
            (b"SET", count) if count > 3 && count % 2 == 0 => {
                match settings.set(&arguments[2..], &self.face.hub) {
                    Ok(()) => Reply::OK,
                    Err(error) => Reply::Error(error.into()),
                }
            }
            (b"RESETSTAT", 2) => {
                self.face.hub.commands.store(0, Ordering::Relaxed);
                self.face.hub.connections.store(0, Ordering::Relaxed);
                Reply::OK
            }
            (b"REWRITE", 2) => Reply::error("ERR The server is running without a config file"),
            (b"HELP", 2) => help(&[
                "CONFIG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "GET <pattern>",
                "    Return parameters matching the glob-like <pattern> and their values.",
                "SET <directive> <value>",
                "    Set the configuration <directive> to <value>.",
                "RESETSTAT",
                "    Reset statistics reported by the INFO command.",
                "REWRITE",
                "    Rewrite the configuration file.",
                "HELP",
                "    Print this help.",
            ]),
            (b"GET" | b"SET" | b"RESETSTAT" | b"REWRITE" | b"HELP", _) => {
                let word = String::from_utf8_lossy(&word(arguments)).to_lowercase();
                wrong_arity(&format!("config|{word}"))
            }
            _ => unknown("config", arguments),
        }
    }

    fn memory(&self, arguments: &[Bytes]) -> Reply {
        match (word(arguments).as_slice(), arguments.len()) {
            (b"USAGE", 3 | 5) => {
                let (db, key) = (self.db, &arguments[2]);
                match self.face.kernel.read(|view| cache::size_of(view, db, key)) {
                    Ok(None) => Reply::Nil,
                    Ok(Some(bytes)) => Reply::count(bytes),
                    Err(error) => of_kernel(&error),
                }
            }
            (b"DOCTOR", 2) => Reply::Verbatim(
                "txt",
                Bytes::from_static(b"Hi Sam, I can't find any memory issue in your instance. I can only account for what occurs on this base.\n"),
            ),
            (b"PURGE", 2) => Reply::OK,
            (b"MALLOC-STATS", 2) => text("Stats not supported for the current allocator"),
            (b"STATS", 2) => {
                let bytes = proteus_env::disk::resident_memory_bytes().unwrap_or(0);
                let bytes = Reply::Integer(i64::try_from(bytes).unwrap_or(i64::MAX));
                Reply::Map(vec![
                    (text("peak.allocated"), bytes.clone()),
                    (text("total.allocated"), bytes),
                    (text("keys.count"), Reply::Integer(self.key_count())),
                ])
            }
            (b"HELP", 2) => help(&[
                "MEMORY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "DOCTOR",
                "    Return memory problems reports.",
                "MALLOC-STATS",
                "    Return internal statistics report from the memory allocator.",
                "PURGE",
                "    Attempt to purge dirty pages for reclamation by the allocator.",
                "STATS",
                "    Return information about the memory usage of the server.",
                "USAGE <key> [SAMPLES <count>]",
                "    Return memory in bytes used by <key> and its value. Nested values are",
                "    sampled up to <count> times (default: 5, 0 means sample all).",
                "HELP",
                "    Print this help.",
            ]),
            _ => unknown("memory", arguments),
        }
    }

    pub(super) fn key_count(&self) -> i64 {
        let counts = self.face.kernel.read(cache::database_counts).unwrap_or_default();
        counts.iter().map(|(keys, _)| i64::try_from(*keys).unwrap_or(i64::MAX)).sum()
    }

    async fn debug(&mut self, arguments: &[Bytes]) -> Reply {
        match (word(arguments).as_slice(), arguments.len()) {
            (b"SLEEP", 3) => {
                let seconds = parse_float(&arguments[2]).unwrap_or(0.0).clamp(0.0, 60.0);
                task::sleep(Duration::from_secs_f64(seconds)).await;
                Reply::OK
            }
            (b"SET-ACTIVE-EXPIRE" | b"JMAP" | b"CHANGE-REPL-ID", _) => Reply::OK,
            (b"OBJECT", 3) => {
                let call = Call {
                    db: self.db,
                    ..Call::new(&[&b"OBJECT"[..], b"ENCODING", &arguments[2]])
                };
                match self.face.kernel.read(|view| cache::answer(view, &call)) {
                    Ok(Reply::Bulk(encoding)) => Reply::Status(
                        format!(
                            "Value at:0x0 refcount:1 encoding:{} serializedlength:0 lru:0 lru_seconds_idle:0",
                            String::from_utf8_lossy(&encoding)
                        )
                        .into(),
                    ),
                    Ok(_) => Reply::error("ERR no such key"),
                    Err(error) => of_kernel(&error),
                }
            }
            _ => Reply::Error(
                format!(
                    "ERR Unknown subcommand or wrong number of arguments for '{}'. Try DEBUG HELP.",
                    shortened(arguments.get(1).map_or(b"", |word| &word[..]), 128)
                )
                .into(),
            ),
        }
    }

    /// Shows a command to those who watch all of them.
    pub(super) fn show_monitors(&self, arguments: &[Bytes]) {
        let now_ms = self.face.clock.wall_ms();
        let mut line = format!(
            "{}.{:06} [{} {}]",
            now_ms / 1000,
            now_ms % 1000 * 1000,
            self.db,
            self.client.peer
        );
        for argument in arguments {
            line.push_str(" \"");
            line.push_str(&argument.escape_ascii().to_string());
            line.push('"');
        }
        self.face.hub.show_monitors(&Bytes::from(line));
    }
}

fn wait(arguments: &[Bytes]) -> Reply {
    for (at, name) in
        [(1, NOT_AN_INTEGER), (2, Reply::error("ERR timeout is not an integer or out of range"))]
    {
        match arguments.get(at).and_then(|text| parse_integer(text)) {
            None => return name,
            Some(number) if number < 0 && at == 2 => {
                return Reply::error("ERR timeout is negative");
            }
            Some(_) => {}
        }
    }
    // No replica speaks this protocol.
    Reply::ZERO
}

fn wait_aof(arguments: &[Bytes]) -> Reply {
    let number = |at: usize| arguments.get(at).and_then(|text| parse_integer(text));
    let (Some(local), Some(_), Some(timeout)) = (number(1), number(2), number(3)) else {
        return NOT_AN_INTEGER;
    };
    if timeout < 0 {
        return Reply::error("ERR timeout is negative");
    }
    if !(0..=1).contains(&local) {
        return Reply::error("ERR value is out of range, must be between 0 and 1");
    }
    // What this client was acknowledged is on stable storage.
    Reply::Array(vec![Reply::Integer(1), Reply::ZERO])
}

fn slowlog(arguments: &[Bytes]) -> Reply {
    match (word(arguments).as_slice(), arguments.len()) {
        (b"GET", 2 | 3) => Reply::Array(Vec::new()),
        (b"LEN", 2) => Reply::ZERO,
        (b"RESET", 2) => Reply::OK,
        _ => unknown("slowlog", arguments),
    }
}

fn latency(arguments: &[Bytes]) -> Reply {
    match word(arguments).as_slice() {
        b"LATEST" | b"HISTORY" => Reply::Array(Vec::new()),
        b"RESET" => Reply::ZERO,
        b"HISTOGRAM" => Reply::Map(Vec::new()),
        b"DOCTOR" => Reply::Verbatim(
            "txt",
            Bytes::from_static(b"Dave, I have observed the system, no worrying latency events, there is nothing to report.\n"),
        ),
        _ => unknown("latency", arguments),
    }
}
