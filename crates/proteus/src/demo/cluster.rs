//! The demo's processes: a node and a worker, started, killed and started again.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proteus_env::{Clock, SystemClock, disk, net, task};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::STEP_TIMEOUT;
use crate::cluster::PEER_PORT;

/// What a worker prints once it holds the lock.
pub(crate) const HOLDS_LOCK: &str = "holds the lock";

/// Where the demo's node listens.
#[derive(Debug, Clone)]
pub(crate) struct Ports {
    offset: u16,
}

/// Standard ports, as the faces have them.
const ZOOKEEPER: u16 = 2181;
const KAFKA: u16 = 9092;
const REDIS: u16 = 6379;
const POSTGRES: u16 = 5432;
const HTTP: u16 = 8080;
const SCHEMAS: u16 = 8081;

/// Offsets to choose from, 67 apart from 9,000: no two make two faces meet on a port, and all ports are below
/// 32,768, from where on Linux gives them to connections.
const OFFSET_COUNT: u32 = 217;

impl Ports {
    /// An offset at which every face's port is free. Two demos at once begin their search at
    /// different places, so that they do not take each other's.
    pub(crate) fn free() -> Result<Ports, String> {
        let first = std::process::id() % OFFSET_COUNT;
        (0..OFFSET_COUNT)
            .map(|place| (first + place) % OFFSET_COUNT)
            .filter_map(|place| u16::try_from(9_000 + place * 67).ok())
            .map(Ports::at)
            .find(|ports| ports.all().into_iter().all(|address| net::listen(address).is_ok()))
            .ok_or_else(|| "no free ports on this machine".to_owned())
    }

    pub(crate) fn at(offset: u16) -> Ports {
        Ports { offset }
    }

    pub(crate) fn offset(&self) -> u16 {
        self.offset
    }

    fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port + self.offset))
    }

    fn all(&self) -> [SocketAddr; 7] {
        [ZOOKEEPER, KAFKA, REDIS, POSTGRES, HTTP, SCHEMAS, PEER_PORT].map(|port| self.address(port))
    }

    pub(crate) fn zookeeper(&self) -> SocketAddr {
        self.address(ZOOKEEPER)
    }

    pub(crate) fn kafka(&self) -> SocketAddr {
        self.address(KAFKA)
    }

    pub(crate) fn redis(&self) -> SocketAddr {
        self.address(REDIS)
    }

    pub(crate) fn postgres(&self) -> SocketAddr {
        self.address(POSTGRES)
    }

    pub(crate) fn summary(&self) -> String {
        format!(
            "zookeeper {}, kafka {}, redis {}, postgres {}, http {}",
            self.zookeeper(),
            self.kafka(),
            self.redis(),
            self.postgres(),
            self.address(HTTP)
        )
    }
}

fn own_binary() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("cannot find this binary: {error}"))
}

/// A command that runs this binary as the demo wants it: no setting of whoever runs the demo reaches
/// it, and the terminal's Ctrl-C reaches the demo alone, which then ends it.
fn own_command() -> Result<Command, String> {
    let mut command = Command::new(own_binary()?);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PROTEUS_") {
            command.env_remove(name);
        }
    }
    command.process_group(0);
    Ok(command)
}

/// A node in a process of its own.
pub(crate) struct NodeProcess {
    directory: PathBuf,
    ports: Ports,
    child: Child,
    ready_after: Duration,
    lifetime: Lifetime,
}

/// How long a demo's node lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// With the demo, however that ends: the node stops when its standard input is closed.
    WithDemo,
    /// Beyond the demo's good end.
    Kept,
}

impl NodeProcess {
    /// Starts a node; see [`NodeProcess::ready`].
    pub(crate) fn start(
        directory: &Path,
        ports: &Ports,
        lifetime: Lifetime,
    ) -> Result<NodeProcess, String> {
        let child = spawn_node(directory, ports, lifetime)?;
        let (directory, ports) = (directory.to_owned(), ports.clone());
        Ok(NodeProcess { directory, ports, child, ready_after: Duration::ZERO, lifetime })
    }

    /// Starts it again after [`NodeProcess::kill`].
    pub(crate) fn restart(&mut self) -> Result<(), String> {
        self.child = spawn_node(&self.directory, &self.ports, self.lifetime)?;
        Ok(())
    }

    /// Waits for the first answer to a client.
    pub(crate) async fn ready(&mut self) -> Result<(), String> {
        let clock = SystemClock::new();
        let client = redis::Client::open(format!("redis://{}/", self.ports.redis()))
            .map_err(|error| error.to_string())?;
        // Whoever else may have taken the port answers with another number.
        let own = format!("process_id:{}\r\n", self.child.id().unwrap_or(0));
        loop {
            if let Ok(mut connection) = client.get_multiplexed_async_connection().await {
                let answer: Result<String, _> =
                    redis::cmd("INFO").arg("server").query_async(&mut connection).await;
                if answer.is_ok_and(|answer| answer.contains(&own)) {
                    self.ready_after = clock.elapsed();
                    return Ok(());
                }
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("the node ended before it answered: {status}"));
            }
            if clock.elapsed() > STEP_TIMEOUT {
                return Err("the node does not answer".to_owned());
            }
            task::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Time from starting the process to its first answer.
    pub(crate) fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Highest resident memory so far.
    pub(crate) fn peak_memory_bytes(&self) -> Option<u64> {
        disk::peak_memory_bytes(self.child.id()?)
    }

    /// SIGKILL: the process gets no chance to finish anything.
    pub(crate) async fn kill(&mut self) {
        // It may have ended by itself, which the next step then reports.
        let _ = self.child.kill().await;
    }

    /// Lets it run on after the demo, and says as which process.
    pub(crate) fn leave_running(mut self) -> Option<u32> {
        // Dropping a child neither ends nor awaits it.
        self.child.id().filter(|_| matches!(self.child.try_wait(), Ok(None)))
    }
}

/// A child that is dropped is left alone; so the demo ends its node in every case but one, through
/// [`NodeProcess::kill`], and the closed standard input does so where the demo itself was killed.
fn spawn_node(directory: &Path, ports: &Ports, lifetime: Lifetime) -> Result<Child, String> {
    let mut command = own_command()?;
    command
        .arg("start")
        .arg("--data-dir")
        .arg(directory)
        .args(["--port-offset", &ports.offset().to_string(), "--log-level", "warn"])
        .stdout(Stdio::null());
    match lifetime {
        Lifetime::WithDemo => command.arg("--until-stdin-closes").stdin(Stdio::piped()),
        Lifetime::Kept => command.stdin(Stdio::null()),
    };
    command.spawn().map_err(|error| format!("cannot start the node: {error}"))
}

/// A worker in a process of its own; it prints a line when it holds the lock, and one per commit.
pub(crate) struct WorkerProcess {
    child: Child,
    progress: Arc<Mutex<Progress>>,
}

#[derive(Default)]
struct Progress {
    holds_lock: bool,
    rows: u64,
    latencies: Vec<Duration>,
}

impl WorkerProcess {
    pub(crate) fn start(ports: &Ports) -> Result<WorkerProcess, String> {
        let mut child = own_command()?
            .args(["demo-worker", "--port-offset", &ports.offset().to_string()])
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start the worker: {error}"))?;
        let progress = Arc::new(Mutex::new(Progress::default()));
        let output = child.stdout.take().ok_or("the worker has no output")?;
        let noted = progress.clone();
        task::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if line == HOLDS_LOCK {
                    noted.lock().holds_lock = true;
                    continue;
                }
                let mut numbers = line.split(' ').map(str::parse::<u64>);
                if let (Some(Ok(rows)), Some(Ok(micros))) = (numbers.next(), numbers.next()) {
                    let mut progress = noted.lock();
                    progress.rows += rows;
                    progress.latencies.push(Duration::from_micros(micros));
                }
            }
        });
        Ok(WorkerProcess { child, progress })
    }

    /// Its process id, which names its znode.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until it holds the lock, and so until the worker before it is known to be gone.
    pub(crate) async fn holds_lock(&mut self) -> Result<(), String> {
        let clock = SystemClock::new();
        while !self.progress.lock().holds_lock {
            self.check_alive()?;
            if clock.elapsed() > STEP_TIMEOUT {
                return Err(format!("the worker got no lock in {STEP_TIMEOUT:?}"));
            }
            task::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Rows whose commit it has seen acknowledged.
    pub(crate) fn committed_rows(&self) -> u64 {
        self.progress.lock().rows
    }

    /// How long each of its commits took.
    pub(crate) fn commit_latencies(&self) -> Vec<Duration> {
        self.progress.lock().latencies.clone()
    }

    pub(crate) fn check_alive(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("the worker ended with {status}")),
            Err(error) => Err(format!("the worker cannot be watched: {error}")),
        }
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) {
        let _ = self.child.kill().await;
    }
}
