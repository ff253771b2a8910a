//! A node in a process of its own, on ports of its own.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for anything a test waits for. Nothing is asserted about shorter times.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct NodeProcess {
    child: Child,
    pub port_offset: u16,
    host: Ipv4Addr,
    directory: PathBuf,
    arguments: Vec<String>,
    /// What it printed before it was ready.
    pub table: String,
}

/// A port offset that no other test of this process uses and that is free now. All ports are below 32,768, from
/// where on Linux gives them to connections; offsets 13 apart make no two services meet on a port.
pub fn free_port_offset() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 200) as u16 * 100;
    loop {
        let offset = 9_000 + (start + NEXT.fetch_add(1, Ordering::SeqCst) * 13) % 14_599;
        let is_free = [2181, 9092, 6379, 5432, 8080, 8081, 7000]
            .into_iter()
            .all(|port| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port + offset)).is_ok());
        if is_free {
            return offset;
        }
    }
}

pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_proteus"));
    command.stdin(Stdio::null());
    // Settings of whoever runs the tests must not reach the node.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PROTEUS_")) {
        command.env_remove(name);
    }
    command
}

impl NodeProcess {
    pub fn start(directory: &Path) -> NodeProcess {
        NodeProcess::start_with(directory, &[])
    }

    pub fn start_with(directory: &Path, arguments: &[&str]) -> NodeProcess {
        NodeProcess::start_from(command, directory, arguments)
    }

    /// A node from a command that knows more than [`command`].
    pub fn start_from(
        command: impl Fn() -> Command,
        directory: &Path,
        arguments: &[&str],
    ) -> NodeProcess {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        loop {
            let port_offset = free_port_offset();
            let (child, table) = match try_spawn(command(), directory, port_offset, &arguments) {
                Ok(started) => started,
                // Somebody's connection has taken one of the ports since they were found free.
                Err(errors) if errors.contains("Address already in use") => continue,
                Err(errors) => panic!("the node ended before it was ready: {errors}"),
            };
            let (host, directory) = (Ipv4Addr::LOCALHOST, directory.to_owned());
            return NodeProcess { child, port_offset, host, directory, arguments, table };
        }
    }

    /// A node in a network namespace, on the standard ports of its own address there.
    pub fn start_in(
        namespace: &str,
        host: Ipv4Addr,
        directory: &Path,
        arguments: &[&str],
    ) -> NodeProcess {
        let mut arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        arguments.extend(["--listen".to_owned(), host.to_string()]);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, env!("CARGO_BIN_EXE_proteus")]);
        command.stdin(Stdio::null());
        let (child, table) = spawn(command, directory, 0, &arguments);
        NodeProcess {
            child,
            port_offset: 0,
            host,
            directory: directory.to_owned(),
            arguments,
            table,
        }
    }

    pub fn address(&self, standard_port: u16) -> SocketAddr {
        SocketAddr::from((self.host, standard_port + self.port_offset))
    }

    pub fn redis_url(&self) -> String {
        format!("redis://{}/", self.address(6379))
    }

    /// SIGKILL, then start again on the same directory and ports.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        let started = spawn(command(), &self.directory, self.port_offset, &self.arguments);
        (self.child, self.table) = started;
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.child.id().to_string())
            .status()
            .unwrap();
        assert!(status.success());
    }

    pub fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "the node does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a node and returns once it has printed its table.
fn spawn(
    command: Command,
    directory: &Path,
    port_offset: u16,
    arguments: &[String],
) -> (Child, String) {
    let started = try_spawn(command, directory, port_offset, arguments);
    started.unwrap_or_else(|errors| panic!("the node ended before it was ready: {errors}"))
}

/// As [`spawn`]; or what the node said when it ended before that.
fn try_spawn(
    mut command: Command,
    directory: &Path,
    port_offset: u16,
    arguments: &[String],
) -> Result<(Child, String), String> {
    let mut child = command
        .arg("start")
        .arg("--data-dir")
        .arg(directory)
        .args(["--port-offset", &port_offset.to_string(), "--disk-reserve-mib", "8"])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut table = String::new();
    loop {
        let mut line = String::new();
        if out.read_line(&mut line).unwrap() == 0 {
            let mut errors = String::new();
            child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
            child.wait().unwrap();
            return Err(errors);
        }
        table.push_str(&line);
        if line.contains("Ctrl-C stops it") {
            break;
        }
    }
    // Logs are read away, so that the node never waits for a reader.
    let mut errors = child.stderr.take().unwrap();
    std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
    Ok((child, table))
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
