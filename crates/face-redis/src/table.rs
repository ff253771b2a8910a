//! The face's own commands, which touch no data; and both tables as one.

use bytes::Bytes;
use proteus_kernel_api::cache::commands::{self, Command, Flags, Group, Keys, places};

/// What a command of the face's own is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are Redis' own")]
pub(crate) enum OwnCommand {
    Acl,
    Asking,
    Auth,
    BgRewriteAof,
    BgSave,
    Client,
    Cluster,
    CommandInfo,
    Config,
    Debug,
    Discard,
    Echo,
    Exec,
    Hello,
    Info,
    LastSave,
    Latency,
    Lolwut,
    Memory,
    Migrate,
    Module,
    Monitor,
    Multi,
    Ping,
    ProteusCache,
    ProteusDurability,
    ProteusEvents,
    ProteusRedirect,
    Psync,
    PsubScribe,
    PubSub,
    PunsubScribe,
    Quit,
    ReadOnly,
    ReadWrite,
    ReplConf,
    ReplicaOf,
    Reset,
    Role,
    Save,
    Select,
    SlaveOf,
    Slowlog,
    SsubScribe,
    SubScribe,
    SunsubScribe,
    Time,
    UnsubScribe,
    Unwatch,
    Wait,
    WaitAof,
    Watch,
}

/// A command of the face's own.
pub(crate) struct Own {
    /// In lower case.
    pub(crate) name: &'static str,
    pub(crate) arity: i32,
    pub(crate) flags: Flags,
    pub(crate) keys: Keys,
    pub(crate) group: Group,
    pub(crate) command: OwnCommand,
}

const fn own(
    name: &'static str,
    arity: i32,
    flags: Flags,
    group: Group,
    command: OwnCommand,
) -> Own {
    Own { name, arity, flags, keys: Keys::None, group, command }
}

const CONNECTION: Flags = Flags::FAST.and(Flags::LOADING).and(Flags::NO_SCRIPT);
const FIRST: Flags = CONNECTION.and(Flags::NO_AUTH);
const ADMIN: Flags = Flags::ADMIN.and(Flags::NO_SCRIPT).and(Flags::LOADING).and(Flags::DANGEROUS);
const REPLICATION: Flags = Flags::ADMIN.and(Flags::NO_SCRIPT).and(Flags::DANGEROUS);
const ANY: Flags = Flags::LOADING;
const LISTEN: Flags = Flags::PUBSUB.and(Flags::NO_SCRIPT).and(Flags::LOADING);

/// The face's own commands, sorted by name.
pub(crate) static OWN: &[Own] = &[
    own("acl", -2, ADMIN, Group::Server, OwnCommand::Acl),
    own("asking", 1, CONNECTION, Group::Cluster, OwnCommand::Asking),
    own("auth", -2, FIRST, Group::Connection, OwnCommand::Auth),
    own("bgrewriteaof", 1, ADMIN, Group::Server, OwnCommand::BgRewriteAof),
    own("bgsave", -1, ADMIN, Group::Server, OwnCommand::BgSave),
    own("client", -2, CONNECTION, Group::Connection, OwnCommand::Client),
    own("cluster", -2, ANY, Group::Cluster, OwnCommand::Cluster),
    own("command", -1, ANY, Group::Server, OwnCommand::CommandInfo),
    own("config", -2, ADMIN, Group::Server, OwnCommand::Config),
    own("debug", -2, ADMIN, Group::Server, OwnCommand::Debug),
    own("discard", 1, CONNECTION, Group::Transactions, OwnCommand::Discard),
    own("echo", 2, Flags::FAST.and(Flags::LOADING), Group::Connection, OwnCommand::Echo),
    own("exec", 1, CONNECTION, Group::Transactions, OwnCommand::Exec),
    own("hello", -1, FIRST, Group::Connection, OwnCommand::Hello),
    own("info", -1, ANY.and(Flags::DANGEROUS), Group::Server, OwnCommand::Info),
    own("lastsave", 1, ANY.and(Flags::FAST), Group::Server, OwnCommand::LastSave),
    own("latency", -2, ADMIN, Group::Server, OwnCommand::Latency),
    own("lolwut", -1, Flags::FAST, Group::Server, OwnCommand::Lolwut),
    Own {
        name: "memory",
        arity: -2,
        flags: Flags::READ,
        keys: Keys::Range(2, 2, 1),
        group: Group::Server,
        command: OwnCommand::Memory,
    },
    Own {
        name: "migrate",
        arity: -6,
        flags: Flags::WRITE.and(Flags::DANGEROUS),
        keys: Keys::Migrate,
        group: Group::Generic,
        command: OwnCommand::Migrate,
    },
    own("module", -2, ADMIN, Group::Server, OwnCommand::Module),
    own("monitor", 1, ADMIN, Group::Server, OwnCommand::Monitor),
    own("multi", 1, CONNECTION, Group::Transactions, OwnCommand::Multi),
    own("ping", -1, Flags::FAST, Group::Connection, OwnCommand::Ping),
    own("proteus.cache", -2, ADMIN, Group::Server, OwnCommand::ProteusCache),
    own("proteus.durability", -1, CONNECTION, Group::Connection, OwnCommand::ProteusDurability),
    own("proteus.events", -2, ADMIN, Group::Server, OwnCommand::ProteusEvents),
    own("proteus.redirect", -1, CONNECTION, Group::Cluster, OwnCommand::ProteusRedirect),
    own("psubscribe", -2, LISTEN, Group::PubSub, OwnCommand::PsubScribe),
    own("psync", -3, ADMIN.and(Flags::NO_MULTI), Group::Server, OwnCommand::Psync),
    own("pubsub", -2, LISTEN, Group::PubSub, OwnCommand::PubSub),
    own("punsubscribe", -1, LISTEN, Group::PubSub, OwnCommand::PunsubScribe),
    own("quit", -1, FIRST, Group::Connection, OwnCommand::Quit),
    own("readonly", 1, CONNECTION, Group::Cluster, OwnCommand::ReadOnly),
    own("readwrite", 1, CONNECTION, Group::Cluster, OwnCommand::ReadWrite),
    own("replconf", -1, ADMIN, Group::Server, OwnCommand::ReplConf),
    own("replicaof", 3, REPLICATION, Group::Server, OwnCommand::ReplicaOf),
    own("reset", 1, FIRST, Group::Connection, OwnCommand::Reset),
    own("role", 1, ADMIN.and(Flags::FAST), Group::Server, OwnCommand::Role),
    own("save", 1, ADMIN, Group::Server, OwnCommand::Save),
    own("select", 2, CONNECTION, Group::Connection, OwnCommand::Select),
    own("slaveof", 3, REPLICATION, Group::Server, OwnCommand::SlaveOf),
    own("slowlog", -2, ADMIN, Group::Server, OwnCommand::Slowlog),
    own("ssubscribe", -2, LISTEN, Group::PubSub, OwnCommand::SsubScribe),
    own("subscribe", -2, LISTEN, Group::PubSub, OwnCommand::SubScribe),
    own("sunsubscribe", -1, LISTEN, Group::PubSub, OwnCommand::SunsubScribe),
    own("time", 1, ANY.and(Flags::FAST), Group::Server, OwnCommand::Time),
    own("unsubscribe", -1, LISTEN, Group::PubSub, OwnCommand::UnsubScribe),
    own("unwatch", 1, CONNECTION, Group::Transactions, OwnCommand::Unwatch),
    own("wait", 3, Flags::BLOCKING, Group::Generic, OwnCommand::Wait),
    own("waitaof", 4, Flags::BLOCKING.and(Flags::NO_SCRIPT), Group::Generic, OwnCommand::WaitAof),
    Own {
        name: "watch",
        arity: -2,
        flags: CONNECTION,
        keys: Keys::Range(1, -1, 1),
        group: Group::Transactions,
        command: OwnCommand::Watch,
    },
];

/// A command of either table.
#[derive(Clone, Copy)]
pub(crate) enum Found {
    Data(&'static Command),
    Own(&'static Own),
}

impl Found {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Found::Data(command) => command.name,
            Found::Own(own) => own.name,
        }
    }

    pub(crate) fn flags(self) -> Flags {
        match self {
            Found::Data(command) => command.flags,
            Found::Own(own) => own.flags,
        }
    }

    pub(crate) fn keys(self) -> Keys {
        match self {
            Found::Data(command) => command.keys,
            Found::Own(own) => own.keys,
        }
    }

    pub(crate) fn arity(self) -> i32 {
        match self {
            Found::Data(command) => command.arity,
            Found::Own(own) => own.arity,
        }
    }

    pub(crate) fn group(self) -> Group {
        match self {
            Found::Data(command) => command.group,
            Found::Own(own) => own.group,
        }
    }

    /// Its place among all: commands on data first, then the face's own.
    pub(crate) fn index(self) -> usize {
        match self {
            Found::Data(command) => command.index,
            Found::Own(own) => commands::table().len() + own.command as usize,
        }
    }

    pub(crate) fn takes(self, count: usize) -> bool {
        takes(self.arity(), count)
    }

    pub(crate) fn key_places(self, arguments: &[Bytes]) -> Vec<usize> {
        places(self.keys(), arguments)
    }
}

/// Whether a command of this arity takes that many arguments, its name included.
pub(crate) fn takes(arity: i32, count: usize) -> bool {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let arity = i64::from(arity);
    if arity >= 0 { count == arity } else { count >= -arity }
}

/// Longest name of the face's own commands.
const NAME_BYTES_MAX: usize = 24;

/// The command of that name, in any case, and its place among all.
pub(crate) fn find(name: &[u8]) -> Option<Found> {
    if let Some(command) = commands::find(name) {
        return Some(Found::Data(command));
    }
    let mut lower = [0; NAME_BYTES_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let at = OWN.binary_search_by(|own| own.name.as_bytes().cmp(lower)).ok()?;
    OWN.get(at).map(Found::Own)
}

/// All commands in the order of [`Found::index`].
pub(crate) fn in_order() -> impl Iterator<Item = Found> {
    let mut own: Vec<&'static Own> = OWN.iter().collect();
    own.sort_by_key(|own| own.command as usize);
    commands::table().iter().map(Found::Data).chain(own.into_iter().map(Found::Own))
}

/// All commands, sorted by name.
pub(crate) fn all() -> Vec<Found> {
    let mut all: Vec<Found> = commands::table().iter().map(Found::Data).collect();
    all.extend(OWN.iter().map(Found::Own));
    all.sort_by_key(|found| found.name());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_names_fit() {
        assert!(OWN.is_sorted_by(|a, b| a.name < b.name));
        for own in OWN {
            assert!(own.name.len() <= NAME_BYTES_MAX);
            let found = find(own.name.to_uppercase().as_bytes()).unwrap();
            assert_eq!(found.name(), own.name);
            assert!(commands::find(own.name.as_bytes()).is_none(), "{} is in both", own.name);
        }
        assert!(find(b"NOSUCHCOMMANDATALLANYWHERE").is_none());
        for (index, found) in in_order().enumerate() {
            assert_eq!(found.index(), index, "{}", found.name());
        }
    }

    #[test]
    fn acl_and_command_know_every_command() {
        for found in all() {
            let fact = proteus_kernel_api::cache::acl::find_fact(found.name());
            let fact = fact.unwrap_or_else(|| panic!("{} is not known", found.name()));
            assert_eq!(fact.arity, found.arity(), "{}", found.name());
        }
    }

    /// docs/faces/redis.md lists every command of Redis; it must agree with the table.
    #[test]
    fn the_support_table_agrees_with_the_code() {
        let document = include_str!("../../../docs/faces/redis.md");
        let mut listed = Vec::new();
        for line in document.lines() {
            let mut cells = line.split('|').map(str::trim);
            if let (Some(""), Some(name), Some(support)) =
                (cells.next(), cells.next(), cells.next())
                && let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`'))
            {
                let name = name.to_lowercase();
                let is_known = find(name.as_bytes()).is_some();
                let says_known = match support {
                    "supported" | "differs" => true,
                    "refused" => false,
                    other => panic!("{name}: unknown support word {other}"),
                };
                assert_eq!(is_known, says_known, "docs/faces/redis.md about {name}");
                listed.push(name);
            }
        }
        for found in all() {
            let name = found.name();
            assert!(listed.iter().any(|listed| listed == name), "{name} is not listed");
        }
    }
}
