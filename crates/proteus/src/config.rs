//! Configuration: one definition per key, four places it may come from.
//!
//! A flag overrides an environment variable, which overrides the configuration file, which overrides
//! the built-in default. Every value remembers where it came from; an unusable one is refused with
//! its key, itself and what is accepted.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proteus_face::{Accounts, ClientCertificate};
use proteus_face_zookeeper::{ReadLevel, WordWhitelist};
use proteus_kernel_api::Durability;

/// One key.
pub struct Key {
    /// As in the file and in `proteus config`; the flag has dashes, the variable capitals.
    pub name: &'static str,
    /// Its value when nobody says otherwise.
    pub default: &'static str,
    /// What is accepted, for error messages and help.
    pub accepts: &'static str,
    /// What it does.
    pub help: &'static str,
}

/// All keys, in the order in which `proteus config` prints them.
pub const KEYS: &[Key] = &[
    Key {
        name: "data_dir",
        default: "./proteus-data",
        accepts: "a directory",
        help: "Where the node keeps its data",
    },
    Key {
        name: "listen",
        default: "127.0.0.1",
        accepts: "an IP address, such as 127.0.0.1, 0.0.0.0 or ::1",
        help: "Address that every face listens on",
    },
    Key {
        name: "port_offset",
        default: "0",
        accepts: "a number from 0 to 50000",
        help: "Added to every face's standard port",
    },
    Key {
        name: "faces",
        default: "all",
        accepts: "all, or a comma-separated list of zookeeper, kafka, redis, postgres, http",
        help: "Faces to open",
    },
    Key {
        name: "durability",
        default: "flushed",
        accepts: "flushed (acknowledged means on stable storage) or relaxed (flushed within a second)",
        help: "What an acknowledged write means",
    },
    Key {
        name: "disk_reserve_mib",
        default: "128",
        accepts: "a number of MiB from 0 to 1000000",
        help: "Disk space that writes leave free; below it they are refused and reads go on",
    },
    Key {
        name: "shards",
        default: "1",
        accepts: "a number from 1 to 256",
        help: "Shards that a new cluster spreads the cache's keys over; later `proteus cluster add-shard`",
    },
    Key {
        name: "replicas",
        default: "all",
        accepts: "all or a number from 1 to 7",
        help: "Nodes that have a replica of each further shard of a new cluster; later `proteus cluster replicas`",
    },
    Key {
        name: "workers",
        default: "0",
        accepts: "a number from 0 to 1024",
        help: "Threads that serve clients and apply commits; 0: one less than processors, which SQL queries and the log need too",
    },
    Key {
        name: "rows_mib",
        default: "0",
        accepts: "a number of MiB from 1 to 100000000, or 0",
        help: "Memory for rows that are used, beside the newest; 0: an eighth of the machine's or container's, but no less than 64 MiB",
    },
    Key {
        name: "connections_max",
        default: "20000",
        accepts: "a number from 1 to 1000000",
        help: "Connections that each face holds at once",
    },
    Key {
        name: "join",
        default: "",
        accepts: "nothing, or host:port of any node of the cluster to join",
        help: "Cluster to join, at the first start on an empty data directory",
    },
    Key {
        name: "cluster_secret",
        default: "",
        accepts: "nothing, or at least 16 characters that all nodes of the cluster have in common",
        help: "What admits a node to the cluster; without it, the one in ~/.proteus/cluster-secret",
    },
    Key {
        name: "cluster_ca",
        default: "",
        accepts: "nothing, or a PEM file",
        help: "Authorities whose certificates nodes show each other; encrypts what they say",
    },
    Key {
        name: "advertise_host",
        default: "",
        accepts: "nothing, or the host name or IP address at which other nodes reach this one",
        help: "Host told to other nodes; without it, the address that is listened on",
    },
    Key {
        name: "voters",
        default: "3",
        accepts: "1, 3, 5 or 7",
        help: "Nodes that vote on what is committed; the others follow, and step in",
    },
    Key {
        name: "dead_after_s",
        default: "300",
        accepts: "a number of seconds from 5 to 1000000",
        help: "Silence after which a voter is replaced by a node that follows",
    },
    Key {
        name: "snapshot_mib_per_s",
        default: "64",
        accepts: "a number of MiB from 1 to 100000, or 0 for no bound",
        help: "How fast whole states go to other nodes; `proteus cluster snapshot-rate` changes it live",
    },
    Key {
        name: "users",
        default: "",
        accepts: "nothing, or user:password pairs separated by commas",
        help: "Accounts; without any, everyone is admitted",
    },
    Key {
        name: "super_users",
        default: "",
        accepts: "nothing, or names of accounts separated by commas",
        help: "Accounts that may do everything over the Kafka protocol, whatever an ACL says; super.users",
    },
    Key {
        name: "object_store",
        default: "",
        accepts: "nothing, a directory, or s3://bucket/prefix in a build that has it",
        help: "Where old records of topics go; one that all nodes reach. Without it, a directory of the node's own",
    },
    Key {
        name: "tls_certificate",
        default: "",
        accepts: "nothing, or a PEM file",
        help: "Certificate chain that the node shows; opens the faces' encrypted ports",
    },
    Key {
        name: "tls_key",
        default: "",
        accepts: "nothing, or a PEM file",
        help: "Private key of the certificate",
    },
    Key {
        name: "tls_client_ca",
        default: "",
        accepts: "nothing, or a PEM file",
        help: "Authorities whose certificates clients show",
    },
    Key {
        name: "tls_client_auth",
        default: "required",
        accepts: "required (every encrypted client shows a certificate) or optional",
        help: "Whether clients must show one, with tls_client_ca",
    },
    Key {
        name: "tls_only",
        default: "",
        accepts: "nothing, all, or a comma-separated list of zookeeper, kafka, redis, postgres, http",
        help: "Faces that are not served without encryption",
    },
    Key {
        name: "zookeeper_frame_bytes_max",
        default: "1048575",
        accepts: "a number of bytes from 1024 to 134217728",
        help: "Longest request over the ZooKeeper protocol; jute.maxbuffer",
    },
    Key {
        name: "zookeeper_super_digest",
        default: "",
        accepts: "nothing, or user:hash as ZooKeeper's superDigest",
        help: "Whose ZooKeeper clients may do everything, whatever an ACL says",
    },
    Key {
        name: "zookeeper_words",
        default: WordWhitelist::DEFAULT,
        accepts: "* for all, or four-letter words separated by commas",
        help: "Four-letter words that are carried out; 4lw.commands.whitelist",
    },
    Key {
        name: "zookeeper_local_sessions",
        default: "false",
        accepts: "true or false",
        help: "Store a ZooKeeper session only once it creates an ephemeral; localSessionsEnabled",
    },
    Key {
        name: "zookeeper_session_timeout_ms_min",
        default: "4000",
        accepts: "a number of milliseconds from 100 to 3600000",
        help: "Shortest session timeout granted to ZooKeeper clients; minSessionTimeout",
    },
    Key {
        name: "zookeeper_session_timeout_ms_max",
        default: "40000",
        accepts: "a number of milliseconds from 100 to 3600000",
        help: "Longest session timeout granted to ZooKeeper clients; maxSessionTimeout",
    },
    Key {
        name: "zookeeper_reconfig",
        default: "false",
        accepts: "true or false",
        help: "Let ZooKeeper's reconfig change the cluster's members; reconfigEnabled",
    },
    Key {
        name: "zookeeper_read_only",
        default: "true",
        accepts: "true or false",
        help: "Serve ZooKeeper clients that take a read-only server while no majority can be reached",
    },
    Key {
        name: "zookeeper_reads",
        default: "linearizable",
        accepts: "linearizable, or local (what a node has applied, as ZooKeeper)",
        help: "What ZooKeeper reads see; sync catches up where they are local",
    },
    Key {
        name: "staleness_ms_max",
        default: "1000",
        accepts: "a number of milliseconds from 10 to 3600000",
        help: "How far behind a node may be that reads without asking: for Redis' READONLY, and zookeeper_reads = local",
    },
    Key {
        name: "log_level",
        default: "info",
        accepts: "error, warn, info, debug or trace",
        help: "How much is logged to stderr",
    },
    Key { name: "log_format", default: "text", accepts: "text or json", help: "How it is logged" },
];

/// Prefix of environment variables.
const VARIABLE_PREFIX: &str = "PROTEUS_";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody said otherwise.
    Default,
    /// This file.
    File(PathBuf),
    /// This environment variable.
    Variable(String),
    /// This flag.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => write!(f, "default"),
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::Variable(name) => write!(f, "environment {name}"),
            Source::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value cannot be used.
    #[error("{key} = {value:?} (from {origin}) cannot be used; accepted is {accepts}")]
    Unusable {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// Where that came from.
        origin: Source,
        /// What would be accepted.
        accepts: &'static str,
    },
    /// The file names a key that is not there.
    #[error("{file} sets {key:?}, which is no key; there are {known}")]
    UnknownKey {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// All keys.
        known: String,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration file {file}: {message}")]
    File {
        /// The file.
        file: PathBuf,
        /// Why not.
        message: String,
    },
}

/// A key's value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// As text.
    pub value: String,
    /// Where from.
    pub source: Source,
}

/// The effective configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Every key's value, as text, and its origin.
    pub settings: BTreeMap<&'static str, Setting>,
    /// Where the node keeps its data.
    pub data_directory: PathBuf,
    /// Address that every face listens on.
    pub listen: IpAddr,
    /// Added to every standard port.
    pub port_offset: u16,
    /// Names of the faces to open; `None` for all.
    pub faces: Option<Vec<String>>,
    /// What acknowledged means to clients that do not say.
    pub durability: Durability,
    /// Disk space that writes leave free, in bytes.
    pub disk_reserve_bytes: u64,
    /// Shards that a new cluster spreads its slots over.
    pub shard_count: u32,
    /// Nodes that have a replica of each further shard of a new cluster; 0: all.
    pub replica_count: u32,
    /// Threads that serve clients; 0: one less than processors.
    pub workers: usize,
    /// Memory for rows that are used, in bytes; 0: by the machine's.
    pub rows_bytes_max: u64,
    /// Connections that each face holds at once.
    pub connections_max: usize,
    /// A node of the cluster to join.
    pub join: Option<String>,
    /// What admits a node to the cluster, if it is configured.
    pub cluster_secret: Option<String>,
    /// Host told to other nodes, if it is configured.
    pub advertise_host: Option<String>,
    /// Authorities that sign the certificates of nodes, which then encrypt what they say to each other.
    pub cluster_ca: Option<PathBuf>,
    /// Nodes that vote, at most.
    pub voters_max: usize,
    /// Silence after which a voter is replaced.
    pub dead_after: Duration,
    /// How fast whole states go to other nodes, in bytes a second; 0 is no bound.
    pub snapshot_bytes_per_second_max: u64,
    /// Who may connect.
    pub accounts: Accounts,
    /// Accounts that may do everything over the Kafka protocol.
    pub super_users: Vec<String>,
    /// Where old records go, if it is not the node's own directory.
    pub object_store: Option<String>,
    /// Files for encryption; `None` for none.
    pub tls: Option<TlsFiles>,
    /// Names of the faces that are not served without encryption; `None` for all.
    pub tls_only: Option<Vec<String>>,
    /// Longest request over the ZooKeeper protocol, in bytes.
    pub zookeeper_frame_bytes_max: usize,
    /// Whose ZooKeeper clients may do everything.
    pub zookeeper_super_digest: Option<String>,
    /// Four-letter words that the ZooKeeper face carries out.
    pub zookeeper_words: WordWhitelist,
    /// Whether a ZooKeeper session is stored only once it creates an ephemeral.
    pub zookeeper_local_sessions: bool,
    /// Shortest and longest session timeout granted to ZooKeeper clients, in milliseconds.
    pub zookeeper_session_timeouts_ms: (u32, u32),
    /// Whether ZooKeeper's reconfig may change the cluster's members.
    pub zookeeper_reconfig: bool,
    /// Whether ZooKeeper clients are served read-only while no majority can be reached.
    pub zookeeper_read_only: bool,
    /// What ZooKeeper reads see.
    pub zookeeper_reads: ReadLevel,
    /// How far behind a node may be that reads without asking.
    pub staleness_max: Duration,
    /// Log level.
    pub log_level: String,
    /// Whether logs are JSON.
    pub log_json: bool,
}

/// Files, in PEM, that the node encrypts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities that sign clients' certificates, and whether clients must show one.
    pub client_authorities: Option<(PathBuf, ClientCertificate)>,
}

/// Faces there are, in the order in which they are shown.
pub const FACES: &[&str] = &["zookeeper", "kafka", "redis", "postgres", "http", "registry"];

impl Config {
    /// The effective configuration from `flags` (by key), `environment`, and the file, if any.
    ///
    /// # Errors
    /// If the file cannot be read or a value cannot be used.
    pub fn resolve(
        flags: &BTreeMap<&'static str, String>,
        environment: &dyn Fn(&str) -> Option<String>,
        file: Option<&Path>,
    ) -> Result<Config, ConfigError> {
        let from_file = match file {
            Some(file) => read_file(file)?,
            None => BTreeMap::new(),
        };
        let mut settings = BTreeMap::new();
        for key in KEYS {
            let variable = format!("{VARIABLE_PREFIX}{}", key.name.to_uppercase());
            let setting = if let Some(value) = flags.get(key.name) {
                let flag = format!("--{}", key.name.replace('_', "-"));
                Setting { value: value.clone(), source: Source::Flag(flag) }
            } else if let Some(value) = environment(&variable) {
                Setting { value, source: Source::Variable(variable) }
            } else if let (Some(value), Some(file)) = (from_file.get(key.name), file) {
                Setting { value: value.clone(), source: Source::File(file.to_owned()) }
            } else {
                Setting { value: key.default.to_owned(), source: Source::Default }
            };
            settings.insert(key.name, setting);
        }
        Config::interpret(settings)
    }

    fn interpret(settings: BTreeMap<&'static str, Setting>) -> Result<Config, ConfigError> {
        let reader = Reader { settings: &settings };
        Ok(Config {
            data_directory: reader
                .parse("data_dir", |value| (!value.is_empty()).then(|| PathBuf::from(value)))?,
            listen: reader.parse("listen", |value| value.parse().ok())?,
            port_offset: reader.parse("port_offset", |value| {
                value.parse().ok().filter(|offset| *offset <= 50_000)
            })?,
            faces: reader.parse("faces", parse_faces)?,
            durability: reader.parse("durability", |value| match value {
                "flushed" => Some(Durability::Flushed),
                "relaxed" => Some(Durability::Relaxed),
                _ => None,
            })?,
            disk_reserve_bytes: reader.parse("disk_reserve_mib", |value| {
                let mib: u64 = value.parse().ok()?;
                (mib <= 1_000_000).then_some(mib << 20)
            })?,
            shard_count: reader.parse("shards", |value| {
                value.parse().ok().filter(|count| (1..=256).contains(count))
            })?,
            replica_count: reader.parse("replicas", parse_replicas)?,
            workers: reader
                .parse("workers", |value| value.parse().ok().filter(|count| *count <= 1024))?,
            rows_bytes_max: reader.parse("rows_mib", |value| {
                let mib: u64 = value.parse().ok()?;
                (mib <= 100_000_000).then_some(mib << 20)
            })?,
            connections_max: reader.parse("connections_max", |value| {
                value.parse().ok().filter(|count| (1..=1_000_000).contains(count))
            })?,
            join: reader.parse("join", |value| match value {
                "" => Some(None),
                _ => value.contains(':').then(|| Some(value.to_owned())),
            })?,
            cluster_secret: reader.parse("cluster_secret", |value| match value.len() {
                0 => Some(None),
                1..16 => None,
                _ => Some(Some(value.to_owned())),
            })?,
            cluster_ca: reader.parse("cluster_ca", |value| {
                Some((!value.is_empty()).then(|| PathBuf::from(value)))
            })?,
            advertise_host: reader.parse("advertise_host", |value| {
                Some((!value.is_empty()).then(|| value.to_owned()))
            })?,
            voters_max: reader.parse("voters", |value| {
                value.parse().ok().filter(|count| [1, 3, 5, 7].contains(count))
            })?,
            dead_after: reader.parse("dead_after_s", |value| {
                let seconds = value.parse().ok().filter(|s| (5..=1_000_000).contains(s))?;
                Some(Duration::from_secs(seconds))
            })?,
            snapshot_bytes_per_second_max: reader.parse("snapshot_mib_per_s", |value| {
                let mib: u64 = value.parse().ok()?;
                (mib <= 100_000).then_some(mib << 20)
            })?,
            accounts: reader.parse("users", parse_users)?,
            super_users: reader.parse("super_users", |value| {
                let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
                // As Kafka's broker writes them.
                Some(names.map(|name| name.trim_start_matches("User:").to_owned()).collect())
            })?,
            object_store: reader.parse("object_store", |value| {
                Some((!value.is_empty()).then(|| value.to_owned()))
            })?,
            tls: interpret_tls(&reader)?,
            tls_only: reader.parse("tls_only", |value| match value {
                "" => Some(Some(Vec::new())),
                value => parse_faces(value),
            })?,
            zookeeper_frame_bytes_max: reader.parse("zookeeper_frame_bytes_max", |value| {
                value.parse().ok().filter(|bytes| (1024..=134_217_728).contains(bytes))
            })?,
            zookeeper_super_digest: reader.parse("zookeeper_super_digest", |value| match value
                .split_once(':')
            {
                Some((user, hash)) if !user.is_empty() && !hash.is_empty() => {
                    Some(Some(value.to_owned()))
                }
                Some(_) => None,
                None => value.is_empty().then_some(None),
            })?,
            zookeeper_words: reader.parse("zookeeper_words", WordWhitelist::parse)?,
            zookeeper_local_sessions: reader
                .parse("zookeeper_local_sessions", |value| value.parse().ok())?,
            zookeeper_session_timeouts_ms: (
                reader.parse("zookeeper_session_timeout_ms_min", session_timeout_ms)?,
                reader.parse("zookeeper_session_timeout_ms_max", session_timeout_ms)?,
            ),
            zookeeper_reconfig: reader.parse("zookeeper_reconfig", |value| value.parse().ok())?,
            zookeeper_read_only: reader.parse("zookeeper_read_only", |value| value.parse().ok())?,
            zookeeper_reads: reader.parse("zookeeper_reads", |value| match value {
                "linearizable" => Some(ReadLevel::Linearizable),
                "local" => Some(ReadLevel::Local),
                _ => None,
            })?,
            staleness_max: reader.parse("staleness_ms_max", |value| {
                let ms = value.parse().ok().filter(|ms| (10..=3_600_000).contains(ms));
                ms.map(Duration::from_millis)
            })?,
            log_level: reader.parse("log_level", |value| {
                let levels = ["error", "warn", "info", "debug", "trace"];
                levels.contains(&value).then(|| value.to_owned())
            })?,
            log_json: reader.parse("log_format", |value| match value {
                "text" => Some(false),
                "json" => Some(true),
                _ => None,
            })?,
            settings,
        })
    }

    /// A table of every key, its value and where that came from. Passwords are not shown.
    pub fn render(&self) -> String {
        let mut lines = Vec::new();
        for key in KEYS {
            let setting = &self.settings[key.name];
            let value = match key.name {
                name if is_secret(name) && !setting.value.is_empty() => "(set)",
                _ => &setting.value,
            };
            lines.push(format!("{:<27}{:<24}{}", key.name, value, setting.source));
        }
        lines.join("\n")
    }
}

/// Whether a key's value is to be seen by nobody.
fn is_secret(name: &str) -> bool {
    ["users", "cluster_secret", "zookeeper_super_digest"].contains(&name)
}

struct Reader<'a> {
    settings: &'a BTreeMap<&'static str, Setting>,
}

impl Reader<'_> {
    fn parse<T>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let setting = &self.settings[name];
        parse(setting.value.trim()).ok_or_else(|| ConfigError::Unusable {
            key: name,
            // A password in an error message would end up in a log.
            value: if is_secret(name) { "(not shown)".to_owned() } else { setting.value.clone() },
            origin: setting.source.clone(),
            accepts: KEYS.iter().find(|key| key.name == name).map_or("", |key| key.accepts),
        })
    }
}

fn interpret_tls(reader: &Reader<'_>) -> Result<Option<TlsFiles>, ConfigError> {
    let file =
        |name| reader.parse(name, |value| Some((!value.is_empty()).then(|| PathBuf::from(value))));
    let authorities = file("tls_client_ca")?;
    let client_certificate = reader.parse("tls_client_auth", |value| match value {
        "required" => Some(ClientCertificate::Required),
        "optional" => Some(ClientCertificate::Optional),
        _ => None,
    })?;
    match (file("tls_certificate")?, file("tls_key")?) {
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles {
            certificate,
            key,
            client_authorities: authorities.map(|file| (file, client_certificate)),
        })),
        (None, None) if authorities.is_none() && reader.settings["tls_only"].value.is_empty() => {
            Ok(None)
        }
        // One without the other encrypts nothing, which nobody means.
        (certificate, _) => {
            let missing = if certificate.is_none() { "tls_certificate" } else { "tls_key" };
            reader.parse(missing, |_| None)
        }
    }
}

/// How many replicas each further shard shall have; `all` is 0.
pub(crate) fn parse_replicas(value: &str) -> Option<u32> {
    match value {
        "all" => Some(0),
        count => count.parse().ok().filter(|count| (1..=7).contains(count)),
    }
}

fn parse_faces(value: &str) -> Option<Option<Vec<String>>> {
    if value == "all" {
        return Some(None);
    }
    let names: Vec<String> = value.split(',').map(|name| name.trim().to_owned()).collect();
    names.iter().all(|name| FACES.contains(&name.as_str())).then_some(Some(names))
}

fn parse_users(value: &str) -> Option<Accounts> {
    let mut passwords = BTreeMap::new();
    for pair in value.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (user, password) = pair.split_once(':')?;
        if user.is_empty() || password.is_empty() {
            return None;
        }
        passwords.insert(user.to_owned(), password.to_owned());
    }
    Some(Accounts::new(passwords))
}

fn read_file(file: &Path) -> Result<BTreeMap<String, String>, ConfigError> {
    let failed = |message: String| ConfigError::File { file: file.to_owned(), message };
    let text = proteus_env::disk::read_text(file).map_err(|error| failed(error.to_string()))?;
    let table: toml::Table =
        text.parse().map_err(|error: toml::de::Error| failed(error.to_string()))?;
    let mut values = BTreeMap::new();
    for (key, value) in table {
        if !KEYS.iter().any(|known| known.name == key) {
            let known: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
            return Err(ConfigError::UnknownKey {
                file: file.to_owned(),
                key,
                known: known.join(", "),
            });
        }
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Array(items) => {
                let items: Vec<String> = items
                    .iter()
                    .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
                    .collect();
                items.join(",")
            }
            other => other.to_string(),
        };
        values.insert(key, text);
    }
    Ok(values)
}

fn session_timeout_ms(value: &str) -> Option<u32> {
    value.parse().ok().filter(|ms| (100..=3_600_000).contains(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(
        flags: &[(&'static str, &str)],
        environment: &[(&str, &str)],
        file: Option<&str>,
    ) -> Result<Config, ConfigError> {
        let flags = flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        let environment: BTreeMap<String, String> = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("proteus.toml");
        if let Some(text) = file {
            let disk = proteus_env::disk::RealDisk::open(directory.path()).unwrap();
            let written = proteus_env::disk::Disk::open(&disk, "proteus.toml").unwrap();
            written.write_at(0, text.as_bytes()).unwrap();
        }
        Config::resolve(
            &flags,
            &|name| environment.get(name).cloned(),
            file.map(|_| path.as_path()),
        )
    }

    #[test]
    fn flag_over_variable_over_file_over_default() {
        let file = Some("port_offset = 1\nlisten = \"::1\"\nfaces = [\"redis\", \"http\"]\n");
        let variables = [("PROTEUS_PORT_OFFSET", "2"), ("PROTEUS_LOG_LEVEL", "debug")];
        let config = resolve(&[("port_offset", "3")], &variables, file).unwrap();
        assert_eq!(config.port_offset, 3);
        assert_eq!(config.settings["port_offset"].source, Source::Flag("--port-offset".to_owned()));
        assert_eq!(config.listen, "::1".parse::<IpAddr>().unwrap());
        assert!(matches!(config.settings["listen"].source, Source::File(_)));
        assert_eq!(config.log_level, "debug");
        assert_eq!(config.faces, Some(vec!["redis".to_owned(), "http".to_owned()]));
        assert_eq!(config.settings["durability"].source, Source::Default);
        assert_eq!(resolve(&[], &variables, file).unwrap().port_offset, 2);
    }

    #[test]
    fn an_unusable_value_names_key_value_origin_and_what_is_accepted() {
        let refused =
            resolve(&[], &[("PROTEUS_PORT_OFFSET", "many")], None).unwrap_err().to_string();
        for part in ["port_offset", "many", "PROTEUS_PORT_OFFSET", "0 to 50000"] {
            assert!(refused.contains(part), "{refused}");
        }
        let unknown = resolve(&[], &[], Some("prot_offset = 1")).unwrap_err().to_string();
        assert!(unknown.contains("prot_offset") && unknown.contains("port_offset"), "{unknown}");
    }

    #[test]
    fn passwords_are_never_shown() {
        for (key, value) in
            [("users", "ann:hunter2"), ("cluster_secret", "hunter2 hunter2 hunter2")]
        {
            let config = resolve(&[(key, value)], &[], None).unwrap();
            assert!(!config.render().contains("hunter2"));
        }
        let refused = resolve(&[("cluster_secret", "hunter2")], &[], None).unwrap_err().to_string();
        assert!(!refused.contains("hunter2"));
        let refused = resolve(&[("users", "ann-secret")], &[], None).unwrap_err().to_string();
        assert!(!refused.contains("ann-secret"));
    }

    #[test]
    fn encryption_needs_certificate_and_key() {
        let both = [("tls_certificate", "c.pem"), ("tls_key", "k.pem")];
        let config = resolve(&both, &[], None).unwrap();
        let files =
            TlsFiles { certificate: "c.pem".into(), key: "k.pem".into(), client_authorities: None };
        assert_eq!(config.tls, Some(files));
        for half in [&both[..1], &both[1..], &[("tls_client_ca", "a.pem")], &[("tls_only", "all")]]
        {
            assert!(resolve(half, &[], None).is_err(), "{half:?}");
        }
    }

    #[test]
    fn every_default_is_usable() {
        resolve(&[], &[], None).unwrap();
    }
}
