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

impl Ports {
    /// An offset at which every face's port is free.
    pub(crate) fn free() -> Result<Ports, String> {
        (21_000..50_000)
            .step_by(137)
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

    fn all(&self) -> [SocketAddr; 5] {
        [ZOOKEEPER, KAFKA, REDIS, POSTGRES, HTTP].map(|port| self.address(port))
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

/// A node in a process of its own.
pub(crate) struct NodeProcess {
    directory: PathBuf,
    ports: Ports,
    child: Child,
    ready_after: Duration,
    is_left: bool,
}

impl NodeProcess {
    /// Starts a node and waits until it answers a client.
    pub(crate) async fn start(directory: &Path, ports: &Ports) -> Result<NodeProcess, String> {
        let (child, ready_after) = spawn_node(directory, ports).await?;
        let directory = directory.to_owned();
        Ok(NodeProcess { directory, ports: ports.clone(), child, ready_after, is_left: false })
    }

    /// Starts it again after [`NodeProcess::kill`].
    pub(crate) async fn restart(&mut self) -> Result<(), String> {
        (self.child, self.ready_after) = spawn_node(&self.directory, &self.ports).await?;
        Ok(())
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

    /// Lets it run on after the demo.
    pub(crate) fn leave_running(&mut self) {
        self.is_left = true;
    }

    pub(crate) async fn stop(mut self) {
        self.kill().await;
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if !self.is_left {
            let _ = self.child.start_kill();
        }
    }
}

async fn spawn_node(directory: &Path, ports: &Ports) -> Result<(Child, Duration), String> {
    let clock = SystemClock::new();
    let mut child = Command::new(own_binary()?)
        .arg("start")
        .arg("--data-dir")
        .arg(directory)
        .args(["--port-offset", &ports.offset().to_string(), "--log-level", "warn"])
        .stdout(Stdio::null())
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot start the node: {error}"))?;
    let client = redis::Client::open(format!("redis://{}/", ports.redis()))
        .map_err(|error| error.to_string())?;
    loop {
        if let Ok(mut connection) = client.get_multiplexed_async_connection().await {
            let answer: Result<String, _> = redis::cmd("PING").query_async(&mut connection).await;
            if answer.is_ok() {
                return Ok((child, clock.elapsed()));
            }
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("the node ended with {status}"));
        }
        if clock.elapsed() > STEP_TIMEOUT {
            return Err("the node does not answer".to_owned());
        }
        task::sleep(Duration::from_millis(2)).await;
    }
}

/// A worker in a process of its own; it prints a line per commit.
pub(crate) struct WorkerProcess {
    child: Child,
    progress: Arc<Mutex<Progress>>,
}

#[derive(Default)]
struct Progress {
    rows: u64,
    latencies: Vec<Duration>,
}

impl WorkerProcess {
    pub(crate) fn start(ports: &Ports) -> Result<WorkerProcess, String> {
        let mut child = Command::new(own_binary()?)
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
