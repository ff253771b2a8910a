//! HELLO, AUTH, SELECT, RESET.

use bytes::Bytes;
use proteus_kernel_api::cache::{DATABASE_COUNT, Reply, parse_integer};

use super::{ReplyMode, Session};
use crate::REDIS_VERSION;
use crate::errors::{DB_OUT_OF_RANGE, NO_PASSWORD_SET, NOPROTO, NOT_AN_INTEGER, SYNTAX, WRONGPASS};
use crate::reply::{Resp, text};
use crate::table::OwnCommand;

/// Whether a client may have that name.
pub(super) fn is_name(name: &[u8]) -> bool {
    name.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

pub(super) const BAD_NAME: Reply =
    Reply::error("ERR Client names cannot contain spaces, newlines or special characters.");

impl Session {
    pub(super) fn about_connection(&mut self, own: OwnCommand, arguments: &[Bytes]) -> Reply {
        let result = match own {
            OwnCommand::Hello => self.hello(arguments),
            OwnCommand::Select => Ok(self.select(arguments)),
            _ => match arguments {
                [_, password] => self.auth("default", password, false),
                [_, user, password] => self.auth(&String::from_utf8_lossy(user), password, true),
                _ => Err(SYNTAX),
            },
        };
        result.unwrap_or_else(|error| error)
    }

    pub(super) fn select(&mut self, arguments: &[Bytes]) -> Reply {
        match arguments.get(1).and_then(|text| parse_integer(text)) {
            None => NOT_AN_INTEGER,
            Some(number) => match u8::try_from(number) {
                Ok(1..) if self.redirects() => {
                    Reply::error("ERR SELECT is not allowed in cluster mode")
                }
                Ok(db) if db < DATABASE_COUNT => {
                    self.db = db;
                    self.client.about.lock().db = db;
                    Reply::OK
                }
                _ => DB_OUT_OF_RANGE,
            },
        }
    }

    fn auth(&mut self, user: &str, password: &[u8], is_named: bool) -> Result<Reply, Reply> {
        let users = &self.face.hub.users;
        if !is_named && users.unnamed().0.needs_no_password {
            return Err(NO_PASSWORD_SET);
        }
        let Some(admitted) = users.admit(user, password) else {
            let now_ms = self.face.clock.wall_ms();
            let object = Bytes::copy_from_slice(b"AUTH");
            users.log("auth", "toplevel", object, user, self.client.line(now_ms), now_ms);
            return Err(WRONGPASS);
        };
        self.become_user(admitted);
        Ok(Reply::OK)
    }

    /// `HELLO [version [AUTH user password] [SETNAME name]]`.
    fn hello(&mut self, arguments: &[Bytes]) -> Result<Reply, Reply> {
        let resp = match arguments.get(1) {
            None => self.resp,
            Some(version) => match parse_integer(version) {
                Some(2) => Resp::Two,
                Some(3) => Resp::Three,
                Some(_) => return Err(NOPROTO),
                None => {
                    return Err(Reply::error(
                        "ERR Protocol version is not an integer or out of range",
                    ));
                }
            },
        };
        let (mut credentials, mut name) = (None, None);
        let mut at = 2;
        while let Some(option) = arguments.get(at) {
            match option.to_ascii_uppercase().as_slice() {
                b"AUTH" if at + 2 < arguments.len() => {
                    credentials = Some((&arguments[at + 1], &arguments[at + 2]));
                    at += 3;
                }
                b"SETNAME" if at + 1 < arguments.len() => {
                    if !is_name(&arguments[at + 1]) {
                        return Err(BAD_NAME);
                    }
                    name = Some(arguments[at + 1].clone());
                    at += 2;
                }
                _ => {
                    let option = String::from_utf8_lossy(option).replace(['\r', '\n'], " ");
                    let error = format!("ERR Syntax error in HELLO option '{option}'");
                    return Err(Reply::Error(error.into()));
                }
            }
        }
        if let Some((user, password)) = credentials {
            self.auth(&String::from_utf8_lossy(user), password, true)?;
        }
        if !self.is_admitted {
            return Err(Reply::error(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
            ));
        }
        if let Some(name) = name {
            self.client.about.lock().name = name;
        }
        self.resp = resp;
        let is_resp3 = resp == Resp::Three;
        self.client.about.lock().is_resp3 = is_resp3;
        let role = if self.face.hub.settings.primary().is_some() { "replica" } else { "master" };
        Ok(Reply::Map(vec![
            (text("server"), text("redis")),
            (text("version"), text(REDIS_VERSION)),
            (text("proto"), Reply::Integer(if is_resp3 { 3 } else { 2 })),
            (text("id"), self.client_id()),
            (text("mode"), text(self.mode())),
            (text("role"), text(role)),
            (text("modules"), Reply::Array(Vec::new())),
        ]))
    }

    pub(super) fn client_id(&self) -> Reply {
        Reply::Integer(i64::try_from(self.client.id).unwrap_or(i64::MAX))
    }

    pub(super) fn reset(&mut self) -> Reply {
        self.transaction = None;
        self.forget_watched();
        self.unsubscribe_all();
        self.end_tracking();
        self.resp = Resp::Two;
        self.db = 0;
        self.reply_mode = ReplyMode::On;
        (self.user, self.is_admitted) = self.face.hub.users.unnamed();
        self.touches = true;
        self.durability = None;
        self.redirecting = super::redirect::Redirecting::default();
        let mut about = self.client.about.lock();
        *about = crate::client::About {
            user: self.user.name.clone(),
            queued: -1,
            last_ms: about.last_ms,
            library_name: about.library_name.clone(),
            library_version: about.library_version.clone(),
            ..crate::client::About::default()
        };
        Reply::status("RESET")
    }
}
