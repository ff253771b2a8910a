//! CLIENT.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proteus_env::task;
use proteus_kernel_api::cache::{Reply, parse_integer};

use super::connection::{BAD_NAME, is_name};
use super::{ReplyMode, Session};
use crate::client::{Client, Unblock};
use crate::errors::{NOT_AN_INTEGER, SYNTAX, unknown_subcommand, wrong_arity};

const HELP: &[&str] = &[
    "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CACHING (YES|NO)",
    "    Enable/disable tracking of the keys for next command in OPTIN/OPTOUT modes.",
    "GETREDIR",
    "    Return the client ID we are redirecting to when tracking is enabled.",
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "KILL <ip:port>",
    "    Kill connection made from <ip:port>.",
    "KILL <option> <value> [<option> <value> [...]]",
    "    Kill connections. Options are:",
    "    * ADDR (<ip:port>|<unixsocket>:0)",
    "      Kill connections made from the specified address",
    "    * LADDR (<ip:port>|<unixsocket>:0)",
    "      Kill connections made to specified local address",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
    "      Kill connections by type.",
    "    * USER <username>",
    "      Kill connections authenticated by <username>.",
    "    * SKIPME (YES|NO)",
    "      Skip killing current connection (default: yes).",
    "    * ID <client-id>",
    "      Kill connections by client id.",
    "    * MAXAGE <maxage>",
    "      Kill connections older than the specified age.",
    "LIST [options ...]",
    "    Return information about client connections. Options:",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
    "      Return clients of specified type.",
    "UNPAUSE",
    "    Stop the current client pause, resuming traffic.",
    "PAUSE <timeout> [WRITE|ALL]",
    "    Suspend all, or just write, clients for <timeout> milliseconds.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
    "SETINFO <option> <value>",
    "    Set client meta attr. Options are:",
    "    * LIB-NAME: the client lib name.",
    "    * LIB-VER: the client lib version.",
    "UNBLOCK <clientid> [TIMEOUT|ERROR]",
    "    Unblock the specified blocked client.",
    "TRACKING (ON|OFF) [REDIRECT <id>] [BCAST] [PREFIX <prefix> [...]]",
    "         [OPTIN] [OPTOUT] [NOLOOP]",
    "    Control server assisted client side caching.",
    "TRACKINGINFO",
    "    Report tracking status for the current connection.",
    "NO-EVICT (ON|OFF)",
    "    Protect current client connection from eviction.",
    "NO-TOUCH (ON|OFF)",
    "    Will not touch LRU/LFU stats when this mode is on.",
    "HELP",
    "    Print this help.",
];

fn kind_of(client: &Client) -> &'static str {
    let about = client.about.lock();
    if about.channels + about.patterns + about.sharded > 0 { "pubsub" } else { "normal" }
}

fn known_kind(word: &[u8]) -> Result<String, Reply> {
    let word = String::from_utf8_lossy(word).to_lowercase();
    match word.as_str() {
        "normal" | "pubsub" | "master" | "replica" | "slave" => Ok(word),
        _ => Err(Reply::Error(format!("ERR Unknown client type '{word}'").into())),
    }
}

impl Session {
    /// Carries out CLIENT; `None` if it answers nothing.
    pub(super) async fn client_command(&mut self, arguments: &[Bytes]) -> Option<Reply> {
        let word = arguments.get(1).map(|word| word.to_ascii_uppercase()).unwrap_or_default();
        let upper =
            |at: usize| arguments.get(at).map(|word| word.to_ascii_uppercase()).unwrap_or_default();
        let is_on = || match upper(2).as_slice() {
            b"ON" => Ok(true),
            b"OFF" => Ok(false),
            _ => Err(SYNTAX),
        };
        Some(match (word.as_slice(), arguments.len()) {
            (b"REPLY", 3) => match upper(2).as_slice() {
                b"ON" => {
                    self.reply_mode = ReplyMode::On;
                    Reply::OK
                }
                b"OFF" => {
                    self.reply_mode = ReplyMode::Off;
                    return None;
                }
                b"SKIP" => {
                    if self.reply_mode != ReplyMode::Off {
                        self.reply_mode = ReplyMode::SkipNext;
                    }
                    return None;
                }
                _ => SYNTAX,
            },
            (b"SETNAME", 3) if is_name(&arguments[2]) => {
                self.client.about.lock().name = arguments[2].clone();
                Reply::OK
            }
            (b"SETNAME", 3) => BAD_NAME,
            (b"GETNAME", 2) => {
                let name = self.client.about.lock().name.clone();
                if name.is_empty() { Reply::Nil } else { Reply::Bulk(name) }
            }
            (b"ID", 2) => self.client_id(),
            (b"INFO", 2) => self.lines(std::slice::from_ref(&self.client)),
            (b"LIST", _) => self.list(arguments),
            (b"KILL", count) if count > 2 => self.kill(arguments),
            (b"UNBLOCK", 3 | 4) => self.unblock(arguments),
            (b"PAUSE", 3 | 4) => self.pause(arguments),
            (b"UNPAUSE", 2) => {
                self.face.resume();
                Reply::OK
            }
            (b"SETINFO", 4) => self.set_info(&upper(2), &arguments[3]),
            (b"NO-EVICT", 3) => match is_on() {
                Ok(is_on) => {
                    self.client.about.lock().no_evict = is_on;
                    Reply::OK
                }
                Err(error) => error,
            },
            (b"NO-TOUCH", 3) => match is_on() {
                Ok(is_on) => {
                    self.client.about.lock().no_touch = is_on;
                    self.touches = !is_on;
                    Reply::OK
                }
                Err(error) => error,
            },
            (b"TRACKING", count) if count > 2 => self.track(arguments),
            (b"CACHING", 3) => self.caching(&upper(2)),
            (b"GETREDIR", 2) => self.redirect(),
            (b"TRACKINGINFO", 2) => self.tracking_info(),
            (b"HELP", 2) => super::server::help(HELP),
            (
                b"REPLY" | b"SETNAME" | b"GETNAME" | b"ID" | b"INFO" | b"KILL" | b"UNBLOCK"
                | b"PAUSE" | b"UNPAUSE" | b"SETINFO" | b"NO-EVICT" | b"NO-TOUCH" | b"TRACKING"
                | b"CACHING" | b"GETREDIR" | b"TRACKINGINFO" | b"HELP",
                _,
            ) => {
                let word = String::from_utf8_lossy(&word).to_lowercase();
                wrong_arity(&format!("client|{word}"))
            }
            _ => unknown_subcommand("client", arguments.get(1).map_or(b"", |word| &word[..])),
        })
    }

    fn set_info(&self, option: &[u8], value: &Bytes) -> Reply {
        let is_plain = value.iter().all(|byte| (b'!'..=b'~').contains(byte));
        let mut about = self.client.about.lock();
        match option {
            b"LIB-NAME" if is_plain => about.library_name = value.clone(),
            b"LIB-VER" if is_plain => about.library_version = value.clone(),
            b"LIB-NAME" | b"LIB-VER" => {
                let option = String::from_utf8_lossy(option).to_lowercase();
                return Reply::Error(
                    format!("ERR {option} cannot contain spaces, newlines or special characters.")
                        .into(),
                );
            }
            _ => {
                let option = proteus_kernel_api::cache::commands::shortened(option, 128);
                return Reply::Error(format!("ERR Unrecognized option '{option}'").into());
            }
        }
        Reply::OK
    }

    fn lines(&self, clients: &[Arc<Client>]) -> Reply {
        let now_ms = self.face.clock.wall_ms();
        let mut text = String::new();
        for client in clients {
            text.push_str(&client.line(now_ms));
            text.push('\n');
        }
        Reply::Verbatim("txt", Bytes::from(text))
    }

    fn list(&self, arguments: &[Bytes]) -> Reply {
        let mut clients = self.face.hub.clients();
        match arguments.get(2).map(|word| word.to_ascii_uppercase()).as_deref() {
            None => {}
            Some(b"TYPE") if arguments.len() == 4 => match known_kind(&arguments[3]) {
                Ok(kind) => clients.retain(|client| kind_of(client) == kind),
                Err(error) => return error,
            },
            Some(b"ID") if arguments.len() > 3 => {
                let mut ids = Vec::new();
                for text in &arguments[3..] {
                    match parse_integer(text).and_then(|id| u64::try_from(id).ok()) {
                        Some(id) if id > 0 => ids.push(id),
                        _ => return Reply::error("ERR Invalid client ID"),
                    }
                }
                clients.retain(|client| ids.contains(&client.id));
            }
            Some(_) => return SYNTAX,
        }
        self.lines(&clients)
    }

    fn kill(&mut self, arguments: &[Bytes]) -> Reply {
        let clients = self.face.hub.clients();
        if let [_, _, address] = arguments {
            let address = String::from_utf8_lossy(address);
            let found = clients.iter().find(|client| client.peer.to_string() == address);
            return match found {
                None => Reply::error("ERR No such client"),
                Some(client) => {
                    self.kill_one(client);
                    Reply::OK
                }
            };
        }
        if !arguments.len().is_multiple_of(2) {
            return SYNTAX;
        }
        let mut skips_me = true;
        let mut chosen = clients;
        let now_ms = self.face.clock.wall_ms();
        for pair in arguments[2..].chunks_exact(2) {
            let value = String::from_utf8_lossy(&pair[1]).into_owned();
            let number = || parse_integer(&pair[1]).and_then(|id| u64::try_from(id).ok());
            match pair[0].to_ascii_uppercase().as_slice() {
                b"ID" => match number() {
                    Some(id) if id > 0 => chosen.retain(|client| client.id == id),
                    _ => return Reply::error("ERR client-id should be greater than 0"),
                },
                b"ADDR" => chosen.retain(|client| client.peer.to_string() == value),
                b"LADDR" => chosen.retain(|client| client.local.to_string() == value),
                b"USER" => chosen.retain(|client| client.about.lock().user == value),
                b"TYPE" => match known_kind(&pair[1]) {
                    Ok(kind) => chosen.retain(|client| kind_of(client) == kind),
                    Err(error) => return error,
                },
                b"MAXAGE" => match number() {
                    Some(age) if age > 0 => {
                        chosen.retain(|client| now_ms.saturating_sub(client.since_ms) / 1000 >= age)
                    }
                    _ => return Reply::error("ERR maxage is not an integer or out of range"),
                },
                b"SKIPME" => match pair[1].to_ascii_lowercase().as_slice() {
                    b"yes" => skips_me = true,
                    b"no" => skips_me = false,
                    _ => return SYNTAX,
                },
                _ => return SYNTAX,
            }
        }
        let mut count = 0;
        for client in chosen {
            if skips_me && client.id == self.client.id {
                continue;
            }
            self.kill_one(&client);
            count += 1;
        }
        Reply::Integer(count)
    }

    fn kill_one(&mut self, client: &Client) {
        if client.id == self.client.id {
            // The reply still goes out.
            self.is_closing = true;
        } else {
            client.kill();
        }
    }

    fn unblock(&self, arguments: &[Bytes]) -> Reply {
        let how = match arguments.get(3).map(|word| word.to_ascii_uppercase()).as_deref() {
            None | Some(b"TIMEOUT") => Unblock::Timeout,
            Some(b"ERROR") => Unblock::Error,
            Some(_) => {
                return Reply::error("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
            }
        };
        let Some(id) = parse_integer(&arguments[2]) else { return NOT_AN_INTEGER };
        let client = u64::try_from(id).ok().and_then(|id| self.face.hub.client(id));
        Reply::Integer(i64::from(client.is_some_and(|client| client.unblock(how))))
    }

    fn pause(&self, arguments: &[Bytes]) -> Reply {
        let only_writes = match arguments.get(3).map(|word| word.to_ascii_uppercase()).as_deref() {
            None | Some(b"ALL") => false,
            Some(b"WRITE") => true,
            Some(_) => return Reply::error("ERR CLIENT PAUSE mode must be WRITE or ALL"),
        };
        match parse_integer(&arguments[2]) {
            None => Reply::error("ERR timeout is not an integer or out of range"),
            Some(ms) if ms < 0 => Reply::error("ERR timeout is negative"),
            Some(ms) => {
                self.face.pause(Duration::from_millis(ms.unsigned_abs()), only_writes);
                Reply::OK
            }
        }
    }

    /// Waits while CLIENT PAUSE holds commands like this one.
    pub(super) async fn wait_while_paused(&self, is_write: bool) {
        while let Some(left) = self.face.pause_left(is_write) {
            let resumed = self.face.resumed.notified();
            tokio::select! {
                () = task::sleep(left) => {}
                () = resumed => {}
            }
        }
    }
}
