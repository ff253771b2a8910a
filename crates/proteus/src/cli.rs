//! The command line.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use proteus_env::task;
use tracing::{error, info, warn};

use crate::cluster::ClusterCommand;
use crate::config::{Config, ConfigError};
use crate::demo::{DemoOptions, WorkerOptions, run_worker};
use crate::server::{OpenFace, Server};
use crate::topic::{TopicCommand, Where};

const ABOUT: &str =
    "One process that speaks ZooKeeper, Kafka, Redis and PostgreSQL over one replicated log";

/// Most readings that one demo sends: more than five hundred years.
const DEMO_EVENTS_MAX: i64 = 100_000_000;

/// How often a server is started again in the same process, before that is given up.
const START_AGAIN_TRIES: u32 = 20;

/// Pause between such tries.
const START_AGAIN_PAUSE: Duration = Duration::from_millis(250);

const EXAMPLES: &str = "\
Examples:
  proteus start                          run a node on ./proteus-data, loopback, standard ports
  proteus start --port-offset 20000      the same, every port 20000 higher
  proteus demo                           run the main job on real data and check what every face says
  proteus start --data-dir b --join 127.0.0.1:7000 --port-offset 100
                                         run a second node and join the first one's cluster
  proteus cluster status                 nodes of the cluster, who leads, who is behind
  proteus backup backups                 back a node on this machine up into ./backups
  proteus restore backups --data-dir c   make a new node's data from the newest backup there
  proteus zk ls /                        list znodes; see also get, set, create, watch, export, copy
  proteus topic list                     list the topics of a node on this machine
  proteus config --port-offset 7         show the effective configuration and where each value comes from

Every setting can come from a flag, an environment variable PROTEUS_<KEY>, or a TOML file given with
--config; a flag wins over a variable, a variable over the file.";

/// The command and its subcommands.
#[derive(Parser)]
#[command(name = "proteus", version, about = ABOUT, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node until Ctrl-C or SIGTERM.
    ///
    /// Prints a table of the open faces, each with its address and a line to try it with. Stops
    /// cleanly on Ctrl-C and SIGTERM; what was acknowledged survives any other end, too.
    Start {
        #[command(flatten)]
        settings: Settings,
        /// Stop when standard input is closed: for programs whose node must not outlive them.
        #[arg(long, hide = true)]
        until_stdin_closes: bool,
    },
    /// Run the main job on real data, kill it half-way, and check what every face says.
    ///
    /// Starts a node of its own on free ports and a temporary directory, produces a year of
    /// Auckland's pedestrian counts over the Kafka protocol, and lets a worker that holds a
    /// ZooKeeper lock commit each batch across faces at once: rows, daily totals, the newest reading
    /// in a Redis hash, and the consumer's offset. Half-way worker and node are killed with SIGKILL.
    /// In the end SQL, Redis, Kafka and ZooKeeper are asked, and must agree to the row; the exit
    /// status says whether they do.
    Demo {
        /// Readings to send; the year repeats beyond its 183,801
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=DEMO_EVENTS_MAX))]
        events: Option<u32>,
        /// Keep the data, and leave the node running at the end
        #[arg(long)]
        keep: bool,
    },
    /// The demo's worker, which the demo starts and kills.
    #[command(hide = true)]
    DemoWorker {
        #[arg(long)]
        port_offset: u16,
    },
    /// Read and change znodes, of Proteus or of a ZooKeeper ensemble; copy them from one to the other.
    Zk(crate::zk::ZkArguments),
    /// Take a backup of a running cluster, list the backups of a place, or check them.
    ///
    /// The place is a directory or s3://bucket/path. A backup holds everything that was acknowledged before
    /// it began, at one commit timestamp over all protocols. What backups share is kept once, so that each
    /// after the first costs what has changed; an interrupted one can simply be taken again. For S3,
    /// credentials, region and endpoint come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and
    /// AWS_ENDPOINT.
    Backup(crate::backup::BackupArguments),
    /// Make a data directory from a backup: the first node of a new cluster.
    Restore(crate::backup::RestoreArguments),
    /// Examine a data directory on which no node runs: what is whole, what is damaged, what to do.
    ///
    /// Reads every byte of log and checkpoint against its checksum. Exits with failure if something is
    /// damaged.
    Doctor {
        /// The directory
        #[arg(long, value_name = "DIR", default_value = "./proteus-data")]
        data_dir: PathBuf,
    },
    /// Print the effective configuration and where each value comes from.
    Config(Settings),
    /// Show and change the cluster that a node belongs to.
    ///
    /// A node joins with `proteus start --join HOST:PORT` on an empty data directory. Every command can
    /// be repeated safely, and asks the leader through any node.
    Cluster {
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// Move data from Redis and to it: RDB files, and following a primary.
    Redis {
        #[command(flatten)]
        place: crate::redis::Where,
        #[command(subcommand)]
        command: crate::redis::RedisCommand,
    },
    /// Work with topics and consumer groups, of a node or of any Kafka cluster.
    Topic {
        #[command(flatten)]
        place: Where,
        #[command(subcommand)]
        command: TopicCommand,
    },
}

/// Settings that override the file and the environment.
#[derive(Args, Default)]
struct Settings {
    /// TOML file with settings [env: PROTEUS_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the node keeps its data [default: ./proteus-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Address that every face listens on [default: 127.0.0.1]
    #[arg(long, value_name = "IP")]
    listen: Option<String>,
    /// Added to every face's standard port [default: 0]
    #[arg(long, value_name = "N")]
    port_offset: Option<String>,
    /// Faces to open, separated by commas [default: all]
    #[arg(long, value_name = "NAMES")]
    faces: Option<String>,
    /// flushed: acknowledged means on stable storage; relaxed: flushed within a second [default: flushed]
    #[arg(long, value_name = "MODE")]
    durability: Option<String>,
    /// Disk space that writes leave free, in MiB [default: 128]
    #[arg(long, value_name = "MIB")]
    disk_reserve_mib: Option<String>,
    /// Shards that a new cluster spreads the cache's keys over [default: 1]
    #[arg(long, value_name = "N")]
    shards: Option<String>,
    /// Nodes that have a replica of each further shard of a new cluster [default: all]
    #[arg(long, value_name = "N")]
    replicas: Option<String>,
    /// Threads that serve clients and apply commits [default: one less than processors]
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// Memory for rows that are used, beside the newest, in MiB [default: an eighth of the machine's]
    #[arg(long, value_name = "MIB")]
    rows_mib: Option<String>,
    /// Connections that each face holds at once [default: 20000]
    #[arg(long, value_name = "N")]
    connections_max: Option<String>,
    /// Node of the cluster to join, as host:port; for a node without data [default: none]
    #[arg(long, value_name = "HOST:PORT")]
    join: Option<String>,
    /// What admits nodes to the cluster; better set in the file or environment [default: ~/.proteus/cluster-secret]
    #[arg(long, value_name = "SECRET")]
    cluster_secret: Option<String>,
    /// Authorities whose certificates nodes show each other, PEM; encrypts what they say
    #[arg(long, value_name = "FILE")]
    cluster_ca: Option<String>,
    /// Host at which other nodes reach this one [default: the address listened on]
    #[arg(long, value_name = "HOST")]
    advertise_host: Option<String>,
    /// Nodes that vote; the others follow, and step in [default: 3]
    #[arg(long, value_name = "N")]
    voters: Option<String>,
    /// Seconds of silence after which a voter is replaced by a node that follows [default: 300]
    #[arg(long, value_name = "S")]
    dead_after_s: Option<String>,
    /// MiB a second at which whole states go to other nodes; 0 for no bound [default: 64]
    #[arg(long, value_name = "MIB")]
    snapshot_mib_per_s: Option<String>,
    /// Accounts as user:password, separated by commas; better set in the file or environment
    #[arg(long, value_name = "LIST")]
    users: Option<String>,
    /// Accounts for which no Kafka ACL counts, separated by commas [default: none]
    #[arg(long, value_name = "NAMES")]
    super_users: Option<String>,
    /// Where old records of topics go, as a directory or s3://bucket/prefix [default: in the data directory]
    #[arg(long, value_name = "PLACE")]
    object_store: Option<String>,
    /// Certificate chain, PEM: opens the faces' encrypted ports
    #[arg(long, value_name = "FILE")]
    tls_certificate: Option<String>,
    /// Private key of the certificate, PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// Authorities whose certificates clients show, PEM
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<String>,
    /// required or optional: whether clients must show one [default: required]
    #[arg(long, value_name = "WHEN")]
    tls_client_auth: Option<String>,
    /// Faces that are not served without encryption, separated by commas, or all
    #[arg(long, value_name = "NAMES")]
    tls_only: Option<String>,
    /// Longest request over the ZooKeeper protocol, jute.maxbuffer [default: 1048575]
    #[arg(long, value_name = "BYTES")]
    zookeeper_frame_bytes_max: Option<String>,
    /// Whose ZooKeeper clients may do everything, as user:hash; ZooKeeper's superDigest
    #[arg(long, value_name = "DIGEST")]
    zookeeper_super_digest: Option<String>,
    /// Four-letter words that are carried out, or * [default: envi,isro,mntr,ruok,srvr,stat]
    #[arg(long, value_name = "WORDS")]
    zookeeper_words: Option<String>,
    /// true: store a ZooKeeper session only once it creates an ephemeral [default: false]
    #[arg(long, value_name = "BOOL")]
    zookeeper_local_sessions: Option<String>,
    /// Shortest session timeout of ZooKeeper clients, minSessionTimeout [default: 4000]
    #[arg(long, value_name = "MS")]
    zookeeper_session_timeout_ms_min: Option<String>,
    /// Longest session timeout of ZooKeeper clients, maxSessionTimeout [default: 40000]
    #[arg(long, value_name = "MS")]
    zookeeper_session_timeout_ms_max: Option<String>,
    /// true: let ZooKeeper's reconfig change the cluster's members [default: false]
    #[arg(long, value_name = "BOOL")]
    zookeeper_reconfig: Option<String>,
    /// false: serve no ZooKeeper client while no majority can be reached [default: true]
    #[arg(long, value_name = "BOOL")]
    zookeeper_read_only: Option<String>,
    /// What ZooKeeper reads see: linearizable or local [default: linearizable]
    #[arg(long, value_name = "LEVEL")]
    zookeeper_reads: Option<String>,
    /// How far behind a node may be that reads without asking, where a protocol allows that [default: 1000]
    #[arg(long, value_name = "MILLISECONDS")]
    staleness_ms_max: Option<String>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

impl Settings {
    fn resolve(&self) -> Result<Config, ConfigError> {
        let given = [
            ("data_dir", &self.data_dir),
            ("listen", &self.listen),
            ("port_offset", &self.port_offset),
            ("faces", &self.faces),
            ("durability", &self.durability),
            ("disk_reserve_mib", &self.disk_reserve_mib),
            ("shards", &self.shards),
            ("replicas", &self.replicas),
            ("workers", &self.workers),
            ("rows_mib", &self.rows_mib),
            ("connections_max", &self.connections_max),
            ("join", &self.join),
            ("cluster_secret", &self.cluster_secret),
            ("cluster_ca", &self.cluster_ca),
            ("advertise_host", &self.advertise_host),
            ("voters", &self.voters),
            ("dead_after_s", &self.dead_after_s),
            ("snapshot_mib_per_s", &self.snapshot_mib_per_s),
            ("users", &self.users),
            ("super_users", &self.super_users),
            ("object_store", &self.object_store),
            ("tls_certificate", &self.tls_certificate),
            ("tls_key", &self.tls_key),
            ("tls_client_ca", &self.tls_client_ca),
            ("tls_client_auth", &self.tls_client_auth),
            ("tls_only", &self.tls_only),
            ("zookeeper_frame_bytes_max", &self.zookeeper_frame_bytes_max),
            ("zookeeper_super_digest", &self.zookeeper_super_digest),
            ("zookeeper_words", &self.zookeeper_words),
            ("zookeeper_local_sessions", &self.zookeeper_local_sessions),
            ("zookeeper_session_timeout_ms_min", &self.zookeeper_session_timeout_ms_min),
            ("zookeeper_session_timeout_ms_max", &self.zookeeper_session_timeout_ms_max),
            ("zookeeper_reconfig", &self.zookeeper_reconfig),
            ("zookeeper_read_only", &self.zookeeper_read_only),
            ("zookeeper_reads", &self.zookeeper_reads),
            ("staleness_ms_max", &self.staleness_ms_max),
            ("log_level", &self.log_level),
            ("log_format", &self.log_format),
        ];
        let flags: BTreeMap<&'static str, String> =
            given.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect();
        let environment = |name: &str| std::env::var(name).ok();
        let file = self.config.clone().or_else(|| environment("PROTEUS_CONFIG").map(PathBuf::from));
        Config::resolve(&flags, &environment, file.as_deref())
    }
}

/// Runs the command line and says how it ended.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Config(settings) => settings
            .resolve()
            .map_err(|error| error.to_string())
            .and_then(|config| print(&format!("{}\n", config.render()))),
        Command::Cluster { command } => cluster(command),
        Command::Backup(arguments) => backup(arguments),
        Command::Doctor { data_dir } => crate::doctor::run(&data_dir),
        Command::Restore(arguments) => {
            block_on(crate::backup::restore(&arguments)).and_then(|result| result)
        }
        Command::Start { settings, until_stdin_closes } => start(&settings, until_stdin_closes),
        Command::Zk(arguments) => block_on(crate::zk::run(&arguments)).and_then(|result| result),
        Command::Demo { events, keep } => {
            demo(DemoOptions { events: events.map(|events| events as usize), keep })
        }
        Command::Redis { place, command } => {
            block_on(crate::redis::run(&place, command)).and_then(|result| result)
        }
        Command::Topic { place, command } => {
            block_on(crate::topic::run(&place, command)).and_then(|result| result)
        }
        Command::DemoWorker { port_offset } => {
            block_on(run_worker(&WorkerOptions { port_offset })).and_then(|result| result)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Whether anybody reads stderr is not ours to know.
            let _ = writeln!(std::io::stderr(), "proteus: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Writes to stdout; a reader that has gone away is no reason to panic.
pub(crate) fn print(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| error.to_string())
}

fn start(settings: &Settings, until_stdin_closes: bool) -> Result<(), String> {
    let config = settings.resolve().map_err(|error| error.to_string())?;
    start_logging(&config);
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let workers = match config.workers {
        0 => processors.saturating_sub(1).max(1),
        workers => workers,
    };
    block_on_workers(Some(workers), run(&config, until_stdin_closes)).and_then(|result| result)
}

fn cluster(command: ClusterCommand) -> Result<(), String> {
    let config = Settings::default().resolve().map_err(|error| error.to_string())?;
    let text = block_on(crate::cluster::run(command, &config)).and_then(|result| result)?;
    print(&format!("{}\n", text.trim_end()))
}

fn backup(arguments: crate::backup::BackupArguments) -> Result<(), String> {
    let config = Settings::default().resolve().map_err(|error| error.to_string())?;
    block_on(crate::backup::run(arguments, &config)).and_then(|result| result)
}

fn demo(options: DemoOptions) -> Result<(), String> {
    match block_on(crate::demo::run(&options)).and_then(|result| result)? {
        true => Ok(()),
        false => Err("the demo's invariants did not hold".to_owned()),
    }
}

fn block_on<F: Future>(future: F) -> Result<F::Output, String> {
    block_on_workers(None, future)
}

fn block_on_workers<F: Future>(workers: Option<usize>, future: F) -> Result<F::Output, String> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(workers) = workers {
        runtime.worker_threads(workers);
    }
    let runtime = runtime.enable_all().build();
    Ok(runtime.map_err(|error| format!("cannot start: {error}"))?.block_on(future))
}

async fn run(config: &Config, until_stdin_closes: bool) -> Result<(), String> {
    let mut server = Server::start(config).await.map_err(|error| error.to_string())?;
    // Before anybody can read that the node is up, and stop it.
    let signal = stop_signal().map_err(|error| error.to_string())?;
    print(&table(&server, config))?;
    let (stdin, mut signal) = (stdin_closed(), std::pin::pin!(signal));
    let mut stdin = std::pin::pin!(stdin);
    loop {
        let stop = tokio::select! {
            signal = &mut signal => Ok(signal),
            () = &mut stdin, if until_stdin_closes => Ok("closed standard input"),
            reason = server.failed() => Err(format!("the node stopped: {reason}")),
        };
        match &stop {
            Ok(signal) => info!(signal, "stopping"),
            Err(reason) => error!(reason, "stopping"),
        }
        let starts_again = stop.is_err() && server.must_rebuild();
        server.stop().await;
        if !starts_again {
            return stop.map(|_| ());
        }
        server = tokio::select! {
            _ = &mut signal => return Ok(()),
            started = start_again(config) => started?,
        };
    }
}

/// Starts a server after another in the same process, whose sockets may take a moment to be free.
async fn start_again(config: &Config) -> Result<Server, String> {
    let mut tries = 1;
    loop {
        match Server::start(config).await {
            Ok(server) => return Ok(server),
            Err(error) if tries == START_AGAIN_TRIES => return Err(error.to_string()),
            Err(error) => warn!(%error, "not started again yet"),
        }
        tries += 1;
        task::sleep(START_AGAIN_PAUSE).await;
    }
}

/// Waits until whoever holds the other end of standard input has closed it or ended.
async fn stdin_closed() {
    let (closed, wait) = tokio::sync::oneshot::channel::<()>();
    // A thread of its own: the runtime would wait for a blocking task when it ends.
    let reader = task::spawn_thread("stdin", move || {
        // An error says as much as the end: nobody is there.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop(closed);
    });
    match reader {
        // The sender is only ever dropped.
        Ok(_) => drop(wait.await),
        Err(error) => warn!(%error, "cannot watch standard input"),
    }
}

/// Catches the signals that stop a program from now on, and resolves with the first to arrive.
pub(crate) fn stop_signal() -> std::io::Result<impl Future<Output = &'static str>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "Ctrl-C",
        }
    })
}

/// What is open and how to try it.
fn table(server: &Server, config: &Config) -> String {
    let mut text =
        format!("Proteus {} on {}\n\n", env!("CARGO_PKG_VERSION"), config.data_directory.display());
    text.push_str("  face       address                try it\n");
    for OpenFace { name, address, tls_address, try_it } in &server.faces {
        let shown = address.map_or_else(|| "TLS only".to_owned(), |address| address.to_string());
        text.push_str(&format!("  {name:<10} {shown:<22} {try_it}\n"));
        if let Some(tls_address) = tls_address {
            text.push_str(&format!("  {:<10} {:<22} with TLS\n", "", tls_address.to_string()));
        }
    }
    for (name, why) in &server.closed {
        text.push_str(&format!("  {name:<10} {:<22} {why}\n", "not open"));
    }
    if let Some(address) = server.peer_address() {
        let join = format!("proteus start --data-dir DIR --join {address} --port-offset N");
        text.push_str(&format!("  {:<10} {:<22} {join}\n", "nodes", address.to_string()));
    }
    text.push_str("\nCtrl-C stops it.\n");
    text
}

/// Logs go to stderr: readable on a terminal, JSON on request.
fn start_logging(config: &Config) {
    let filter = tracing_subscriber::EnvFilter::new(format!(
        "{},openraft=error,lsm_tree=warn",
        config.log_level
    ));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second call, as in tests, keeps the first logger.
    let _ = if config.log_json {
        builder.json().try_init()
    } else {
        builder.with_target(false).try_init()
    };
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::KEYS;

    #[test]
    fn the_command_line_is_well_formed_and_offers_every_key() {
        let command = Cli::command();
        command.clone().debug_assert();
        let start = command.find_subcommand("start").unwrap();
        for key in KEYS {
            let flag = key.name.replace('_', "-");
            let offered = start.get_arguments().any(|argument| argument.get_long() == Some(&flag));
            assert!(offered, "no flag for {}", key.name);
        }
    }
}
