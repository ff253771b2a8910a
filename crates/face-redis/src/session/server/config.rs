//! CONFIG.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use proteus_kernel_api::cache::{Op, Reply, acl::password_hash, matches};
use proteus_kernel_api::{Minitransaction, Outcome};

use super::{help, unknown, word};
use crate::acl::DEFAULT;
use crate::errors::{of_kernel, wrong_arity};
use crate::reply::text;
use crate::session::Session;
use crate::settings::PREFIX;

const HELP: &[&str] = &[
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
];

/// The parameter that is the default user's password.
const PASSWORD: &[u8] = b"requirepass";

impl Session {
    pub(super) async fn config(&mut self, arguments: &[Bytes]) -> Reply {
        if let Err(error) = self.face.hub.settings.refresh(&*self.face.kernel) {
            return of_kernel(&error);
        }
        match (word(arguments).as_slice(), arguments.len()) {
            (b"GET", count) if count > 2 => {
                let mut pairs = self.face.hub.settings.matching(&arguments[2..]);
                if arguments[2..].iter().any(|pattern| matches(pattern, PASSWORD)) {
                    pairs.push(("requirepass", String::new()));
                }
                Reply::Map(
                    pairs.into_iter().map(|(name, value)| (text(name), text(value))).collect(),
                )
            }
            (b"SET", count) if count > 3 && count % 2 == 0 => self.configure(&arguments[2..]).await,
            (b"RESETSTAT", 2) => {
                let hub = &self.face.hub;
                for number in [&hub.commands, &hub.connections, &hub.expired, &hub.errors] {
                    number.store(0, Ordering::Relaxed);
                }
                hub.forget_errors();
                self.face.hub.evicted.store(0, Ordering::Relaxed);
                self.face.slow.reset_times();
                Reply::OK
            }
            // What was set is durable already.
            (b"REWRITE", 2) => Reply::OK,
            (b"HELP", 2) => help(HELP),
            (b"GET" | b"SET" | b"RESETSTAT" | b"REWRITE" | b"HELP", _) => {
                let word = String::from_utf8_lossy(&word(arguments)).to_lowercase();
                wrong_arity(&format!("config|{word}"))
            }
            _ => unknown("config", arguments),
        }
    }

    async fn configure(&mut self, pairs: &[Bytes]) -> Reply {
        let mut others = Vec::new();
        let mut password = None;
        for pair in pairs.chunks_exact(2) {
            if pair[0].eq_ignore_ascii_case(PASSWORD) {
                password = Some(pair[1].clone());
            } else {
                others.extend_from_slice(pair);
            }
        }
        let changes = match self.face.hub.settings.checked(&others) {
            Ok(changes) => changes,
            Err(error) => return Reply::Error(error.into()),
        };
        if let Some(password) = password {
            let rule = match password.is_empty() {
                true => "nopass".to_owned(),
                false => format!("#{}", password_hash(&password)),
            };
            let reply = self.set_user(DEFAULT, &["resetpass".to_owned(), rule]).await;
            if reply.is_error() {
                return reply;
            }
        }
        let mut minitransaction = Minitransaction::default();
        for (name, value) in changes {
            let (name, value) = (format!("{PREFIX}{name}"), Some(Bytes::from(value)));
            minitransaction = minitransaction.op(Op::PutSetting { name, value });
        }
        if minitransaction.ops.is_empty() {
            return Reply::OK;
        }
        match self.face.kernel.commit(minitransaction).await {
            Ok(Outcome::Committed { .. }) => Reply::OK,
            Ok(outcome) => crate::blocked::reply_of(outcome),
            Err(error) => of_kernel(&error),
        }
    }
}
