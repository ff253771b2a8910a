//! ACL.

use bytes::Bytes;
use proteus_kernel_api::cache::acl::{self, CATEGORIES, Selector, User};
use proteus_kernel_api::cache::{Check, Op, Reply, parse_integer, setting};
use proteus_kernel_api::{Minitransaction, Outcome};

use super::{help, unknown, word};
use crate::acl::{DEFAULT, LogEntry, PREFIX};
use crate::errors::{NOT_AN_INTEGER, of_kernel, wrong_arity};
use crate::reply::text;
use crate::session::Session;
use crate::table;

/// How often a change to a user is tried again that another came before.
const ATTEMPTS_MAX: usize = 16;

const NO_FILE: Reply = Reply::error(
    "ERR This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL SETUSER command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order to store users in the Redis configuration.",
);

const HELP: &[&str] = &[
    "ACL <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CAT [<category>]",
    "    List all commands that belong to <category>, or all command categories",
    "    when no category is specified.",
    "DELUSER <username> [<username> ...]",
    "    Delete a list of users.",
    "DRYRUN <username> <command> [<arg> ...]",
    "    Returns whether the user can execute the given command without executing the command.",
    "GETUSER <username>",
    "    Get the user's details.",
    "GENPASS [<bits>]",
    "    Generate a secure 256-bit user password. The optional `bits` argument can",
    "    be used to specify a different size.",
    "LIST",
    "    Show users details in config file format.",
    "LOAD",
    "    Reload users from the ACL file.",
    "LOG [<count> | RESET]",
    "    Show the ACL log entries.",
    "SAVE",
    "    Save the current config to the ACL file.",
    "SETUSER <username> <attribute> [<attribute> ...]",
    "    Create or modify a user with the specified attributes.",
    "USERS",
    "    List all the registered usernames.",
    "WHOAMI",
    "    Return the current connection username.",
    "HELP",
    "    Print this help.",
];

impl Session {
    pub(super) async fn acl(&mut self, arguments: &[Bytes]) -> Reply {
        match (word(arguments).as_slice(), arguments.len()) {
            (b"WHOAMI", 2) => text(self.user.name.clone()),
            (b"CAT", 2) => Reply::Array(CATEGORIES.iter().map(|name| text(*name)).collect()),
            (b"CAT", 3) => commands_of(&arguments[2]),
            (b"GENPASS", 2 | 3) => generate(arguments.get(2)),
            (b"USERS", 2) => {
                Reply::Array(self.face.hub.users.all().into_keys().map(text).collect())
            }
            (b"LIST", 2) => {
                let line = |(name, user): (String, std::sync::Arc<User>)| {
                    text(format!("user {name} {}", user.rules()))
                };
                Reply::Array(self.face.hub.users.all().into_iter().map(line).collect())
            }
            (b"GETUSER", 3) => {
                match self.face.hub.users.get(&String::from_utf8_lossy(&arguments[2])) {
                    Some(user) => about(&user),
                    None => Reply::Nil,
                }
            }
            (b"SETUSER", count) if count > 2 => {
                let rules: Vec<String> = arguments[3..]
                    .iter()
                    .map(|rule| String::from_utf8_lossy(rule).into_owned())
                    .collect();
                self.set_user(&String::from_utf8_lossy(&arguments[2]), &rules).await
            }
            (b"DELUSER", count) if count > 2 => self.delete_users(&arguments[2..]).await,
            (b"DRYRUN", count) if count > 3 => self.dry_run(&arguments[2], &arguments[3..]),
            (b"LOG", 2 | 3) => self.acl_log(arguments.get(2)),
            (b"LOAD" | b"SAVE", 2) => NO_FILE,
            (b"HELP", 2) => help(HELP),
            (
                b"WHOAMI" | b"CAT" | b"GENPASS" | b"USERS" | b"LIST" | b"GETUSER" | b"SETUSER"
                | b"DELUSER" | b"DRYRUN" | b"LOG" | b"LOAD" | b"SAVE" | b"HELP",
                _,
            ) => {
                let word = String::from_utf8_lossy(&word(arguments)).to_lowercase();
                wrong_arity(&format!("acl|{word}"))
            }
            _ => unknown("acl", arguments),
        }
    }

    /// Applies rules to a user, who is made if there is none of that name.
    pub(in crate::session) async fn set_user(&self, name: &str, rules: &[String]) -> Reply {
        if name.is_empty() || name.contains([' ', '\0', '\r', '\n']) {
            return Reply::error("ERR Usernames can't contain spaces or null characters");
        }
        let setting_name = format!("{PREFIX}{name}");
        for _ in 0..ATTEMPTS_MAX {
            // The user and the setting that makes it must be of one moment.
            let (stored, user) = match self.face.kernel.read(|view| {
                Ok((setting(view.state, &setting_name)?, self.face.hub.users.get(name)))
            }) {
                Ok(found) => found,
                Err(error) => return of_kernel(&error),
            };
            let user = user.map_or_else(|| User::new(name), |user| (*user).clone());
            let changed = match user.with(rules) {
                Ok(changed) => changed,
                Err(bad) => return Reply::Error(format!("ERR {bad}").into()),
            };
            let check = Check::SettingIs { name: setting_name.clone(), value: stored };
            let value = Some(Bytes::from(changed.rules()));
            let op = Op::PutSetting { name: setting_name.clone(), value };
            match self.face.kernel.commit(Minitransaction::of(op).check(check)).await {
                Ok(Outcome::CheckFailed { .. }) => {}
                Ok(outcome) => return crate::blocked::reply_of(outcome),
                Err(error) => return of_kernel(&error),
            }
        }
        Reply::error("ERR the user is being changed by others; try again")
    }

    async fn delete_users(&mut self, names: &[Bytes]) -> Reply {
        let names: Vec<String> =
            names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        if names.iter().any(|name| name == DEFAULT) {
            return Reply::error("ERR The 'default' user cannot be removed");
        }
        let mut minitransaction = Minitransaction::default();
        let mut count = 0;
        for name in &names {
            if self.face.hub.users.is_configured(name) {
                return Reply::Error(
                    format!("ERR The user '{name}' is one of the node's configuration, which only that can remove; ACL SETUSER {name} off keeps it out").into(),
                );
            }
            if self.face.hub.users.get(name).is_some() {
                count += 1;
                let setting_name = format!("{PREFIX}{name}");
                let op = Op::PutSetting { name: setting_name, value: None };
                minitransaction = minitransaction.op(op);
            }
        }
        if count == 0 {
            return Reply::ZERO;
        }
        match self.face.kernel.commit(minitransaction).await {
            Ok(Outcome::Committed { .. }) => Reply::Integer(count),
            Ok(outcome) => crate::blocked::reply_of(outcome),
            Err(error) => of_kernel(&error),
        }
    }

    fn dry_run(&self, name: &[u8], command: &[Bytes]) -> Reply {
        let name = String::from_utf8_lossy(name);
        let Some(user) = self.face.hub.users.get(&name) else {
            return Reply::Error(format!("ERR User '{name}' not found").into());
        };
        let called = command.first().map(|name| &name[..]).unwrap_or_default();
        let (Some(found), Some(fact)) = (table::find(called), acl::resolve(command)) else {
            let called = String::from_utf8_lossy(called).replace(['\r', '\n'], " ");
            return Reply::Error(format!("ERR Command '{called}' not found").into());
        };
        if !found.takes(command.len()) {
            return wrong_arity(found.name());
        }
        match user.check(fact, command) {
            Ok(()) => Reply::OK,
            Err(denied) => text(denied.text_in_full(&name)),
        }
    }

    fn acl_log(&self, argument: Option<&Bytes>) -> Reply {
        let count = match argument {
            None => 10,
            Some(word) if word.eq_ignore_ascii_case(b"RESET") => {
                self.face.hub.users.forget_log();
                return Reply::OK;
            }
            Some(count) => match parse_integer(count) {
                Some(count) => usize::try_from(count).unwrap_or(0),
                None => return NOT_AN_INTEGER,
            },
        };
        let now_ms = self.face.clock.wall_ms();
        let entries = self.face.hub.users.logged(count);
        Reply::Array(entries.into_iter().map(|entry| log_entry(entry, now_ms)).collect())
    }
}

fn log_entry(entry: LogEntry, now_ms: u64) -> Reply {
    let number = |number: u64| Reply::Integer(i64::try_from(number).unwrap_or(i64::MAX));
    let age_s = now_ms.saturating_sub(entry.created_ms) as f64 / 1000.0;
    Reply::Map(vec![
        (text("count"), number(entry.count)),
        (text("reason"), text(entry.reason)),
        (text("context"), text(entry.context)),
        (text("object"), Reply::Bulk(entry.object)),
        (text("username"), text(entry.user)),
        (text("age-seconds"), Reply::Double(age_s)),
        (text("client-info"), text(entry.client)),
        (text("entry-id"), number(entry.id)),
        (text("timestamp-created"), number(entry.created_ms)),
        (text("timestamp-last-updated"), number(entry.updated_ms)),
    ])
}

fn commands_of(category: &[u8]) -> Reply {
    let wanted = String::from_utf8_lossy(category).to_lowercase();
    let Some(at) = CATEGORIES.iter().position(|name| *name == wanted) else {
        return Reply::Error(format!("ERR Unknown category '{wanted}'").into());
    };
    let is_ours = |fact: &&acl::Fact| {
        let command = fact.name.split('|').next().unwrap_or_default();
        fact.categories >> at & 1 == 1 && table::find(command.as_bytes()).is_some()
    };
    Reply::Array(acl::facts().iter().filter(is_ours).map(|fact| text(fact.name)).collect())
}

fn generate(bits: Option<&Bytes>) -> Reply {
    let bits = match bits.map(|bits| parse_integer(bits)) {
        None => 256,
        Some(Some(bits @ 1..=4096)) => bits.unsigned_abs() as usize,
        Some(_) => {
            return Reply::error(
                "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096",
            );
        }
    };
    let random: [u8; 512] = proteus_env::random::random_bytes();
    let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    text(&digits[..bits.div_ceil(4)])
}

fn about(user: &User) -> Reply {
    let parts = |selector: &Selector| {
        vec![
            (text("commands"), text(selector.commands_text())),
            (text("keys"), text(selector.keys_text())),
            (text("channels"), text(selector.channels_text())),
        ]
    };
    let flags = user.flags().into_iter().map(Reply::status).collect();
    let passwords = user.passwords.iter().map(|hash| text(hash.clone())).collect();
    let mut about =
        vec![(text("flags"), Reply::Set(flags)), (text("passwords"), Reply::Array(passwords))];
    let mut selectors = user.selectors.iter();
    about.extend(selectors.next().map(parts).unwrap_or_default());
    let others = selectors.map(|selector| Reply::Map(parts(selector))).collect();
    about.push((text("selectors"), Reply::Array(others)));
    Reply::Map(about)
}
