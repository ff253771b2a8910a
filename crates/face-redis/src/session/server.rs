//! INFO, CONFIG, COMMAND, MEMORY, CLUSTER and their relatives.

mod acl;
mod cluster;
mod config;
mod declare;
mod docs;
mod info;
mod memory;
mod times;

use std::time::Duration;

use bytes::Bytes;
use proteus_env::task;
use proteus_kernel_api::cache::commands::shortened;
use proteus_kernel_api::cache::{Answer, Call, Question, Reply, parse_float};

use super::Session;
use crate::errors::{SYNTAX, of_kernel, unknown_subcommand, wrong_arity};
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
pub(in crate::session) fn help(lines: &'static [&'static str]) -> Reply {
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
            OwnCommand::Acl => self.acl(arguments).await,
            OwnCommand::Info => {
                self.learn_figures().await;
                self.learn_followed().await;
                self.info(arguments)
            }
            OwnCommand::Config => self.config(arguments).await,
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
                self.learn_followed().await;
                self.role()
            }
            // A snapshot would add nothing to that.
            OwnCommand::Save => self.flush().await.err().unwrap_or(Reply::OK),
            OwnCommand::BgSave => Reply::status("Background saving started"),
            OwnCommand::BgRewriteAof => {
                Reply::status("Background append only file rewriting started")
            }
            OwnCommand::WaitAof => self.wait_aof(arguments).await,
            OwnCommand::Lolwut => Reply::Verbatim("txt", Bytes::from_static(b"Redis ver. 7.4.0\n")),
            OwnCommand::Memory => {
                self.learn_figures().await;
                self.memory(arguments).await
            }
            OwnCommand::Slowlog => self.slowlog(arguments),
            OwnCommand::Latency => self.latency(arguments),
            OwnCommand::Module => match (word(arguments).as_slice(), arguments.len()) {
                (b"LIST", 2) => Reply::Array(Vec::new()),
                _ => unknown("module", arguments),
            },
            OwnCommand::Debug => self.debug(arguments).await,
            OwnCommand::ProteusDurability => self.proteus_durability(arguments),
            OwnCommand::ProteusCache => self.proteus_cache(arguments).await,
            OwnCommand::ProteusEvents => self.proteus_events(arguments).await,
            OwnCommand::Cluster => self.cluster(arguments).await,
            OwnCommand::Asking
            | OwnCommand::ReadOnly
            | OwnCommand::ReadWrite
            | OwnCommand::ProteusRedirect => self.about_redirecting(own, arguments),
            // The others are carried out elsewhere.
            _ => SYNTAX,
        }
    }

    pub(super) fn key_count(&self) -> i64 {
        let (_, counts) = self.figures();
        counts.iter().map(|(keys, _)| i64::try_from(*keys).unwrap_or(i64::MAX)).sum()
    }

    async fn debug(&mut self, arguments: &[Bytes]) -> Reply {
        match (word(arguments).as_slice(), arguments.len()) {
            (b"SLEEP", 3) => {
                let seconds = parse_float(&arguments[2]).unwrap_or(0.0).clamp(0.0, 60.0);
                task::sleep(Duration::from_secs_f64(seconds)).await;
                Reply::OK
            }
            (b"ERROR", 3) => {
                let text = String::from_utf8_lossy(&arguments[2]).replace(['\r', '\n'], " ");
                Reply::Error(text.into())
            }
            // What they make sure of holds already, or has no meaning here.
            (
                b"SET-ACTIVE-EXPIRE"
                | b"JMAP"
                | b"CHANGE-REPL-ID"
                | b"RELOAD"
                | b"LOADAOF"
                | b"QUICKLIST-PACKED-THRESHOLD"
                | b"SET-DISABLE-DENY-SCRIPTS"
                | b"REPLYBUFFER"
                | b"PAUSE-CRON"
                | b"DICT-RESIZING",
                _,
            ) => Reply::OK,
            (b"OBJECT", 3) => {
                let call = Call {
                    db: self.db,
                    ..Call::new(&[&b"OBJECT"[..], b"ENCODING", &arguments[2]])
                };
                let question = Question::Command(call);
                match self.face.kernel.read_or_ask(question, Answer::into_reply).await {
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
