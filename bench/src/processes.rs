//! Servers: started on free loopback ports and temporary directories, stopped when dropped.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Options, Result, load};

/// What an acknowledged write means, on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Durability {
    /// On stable storage.
    Flushed,
    /// On stable storage within a second.
    Relaxed,
}

impl Durability {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Durability::Flushed => "flushed",
            Durability::Relaxed => "relaxed",
        }
    }
}

/// A child that is killed with its owner.
pub(crate) struct Server {
    child: Child,
    /// Its data; removed with it.
    directory: Option<tempfile::TempDir>,
    /// What that is in, if others are too.
    parent: Option<tempfile::TempDir>,
    pub(crate) address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    /// Ends the process as a power cut would; its data stays.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The data directory, to start another server on it.
    pub(crate) fn into_directory(mut self) -> Option<tempfile::TempDir> {
        self.kill();
        self.directory.take()
    }

    /// Resident memory, in MiB.
    pub(crate) fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let kib = status.unwrap_or_default().lines().find_map(|line| {
            line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok()
        });
        kib.unwrap_or(0.0) / 1024.0
    }

    /// Processor time used so far, in seconds.
    pub(crate) fn processor_s(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.unwrap_or_default();
        // Fields after the name, which stands in parentheses and may hold anything.
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |place: usize| fields.get(place).and_then(|ticks| ticks.parse::<f64>().ok());
        // User and system time, in ticks of 10 ms.
        (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / 100.0
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until `is_ready`, at most a minute.
    fn wait_until(&mut self, what: &str, is_ready: impl Fn(SocketAddr) -> bool) -> Result<()> {
        let started = Instant::now();
        while !is_ready(self.address) {
            if self.has_ended() {
                return Err(format!("{what} ended at its start"));
            }
            if started.elapsed() > Duration::from_secs(60) {
                return Err(format!("{what} does not answer on {}", self.address));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

fn free_port() -> Result<u16> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
    Ok(listener.local_addr().map_err(|error| error.to_string())?.port())
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn spawn(command: &mut Command, log: &Path) -> Result<Child> {
    let name = command.get_program().to_string_lossy().into_owned();
    let log = File::create(log).map_err(|error| error.to_string())?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(|error| error.to_string())?)
        .stderr(log)
        .spawn()
        .map_err(|error| format!("cannot start {name}: {error}"))
}

/// Standard ports of our faces.
pub(crate) const ZOOKEEPER: u16 = 2181;
pub(crate) const KAFKA: u16 = 9092;
pub(crate) const REDIS: u16 = 6379;
pub(crate) const POSTGRES: u16 = 5432;
const HTTP: u16 = 8080;
const SCHEMAS: u16 = 8081;
/// Where nodes speak to each other.
const PEER: u16 = 7000;

/// A node of ours.
pub(crate) struct Proteus {
    pub(crate) server: Server,
    offset: u16,
    /// From starting the process to the first answered request.
    pub(crate) first_answer: Duration,
    binary: PathBuf,
    arguments: Vec<String>,
}

impl Proteus {
    /// Starts a node with all faces and waits for the first answer of the redis face.
    pub(crate) fn start(
        binary: &Path,
        directory: tempfile::TempDir,
        durability: Durability,
    ) -> Result<Proteus> {
        Proteus::start_faces(binary, directory, durability, "all", REDIS, load::answers_redis)
    }

    /// As [`Proteus::start`], over so many shards.
    pub(crate) fn start_shards(
        binary: &Path,
        directory: tempfile::TempDir,
        shards: u32,
    ) -> Result<Proteus> {
        let (flushed, ready) = (Durability::Flushed, load::answers_redis);
        let shards = shards.to_string();
        Proteus::start_with(binary, directory, flushed, "all", REDIS, ready, &["--shards", &shards])
    }

    /// Starts a node with the zookeeper face alone and waits until it answers a session.
    pub(crate) fn start_zookeeper(binary: &Path, directory: tempfile::TempDir) -> Result<Proteus> {
        let flushed = Durability::Flushed;
        Proteus::start_faces(binary, directory, flushed, "zookeeper", ZOOKEEPER, answers_zookeeper)
    }

    fn start_faces(
        binary: &Path,
        directory: tempfile::TempDir,
        durability: Durability,
        faces: &str,
        port: u16,
        is_ready: fn(SocketAddr) -> bool,
    ) -> Result<Proteus> {
        Proteus::start_with(binary, directory, durability, faces, port, is_ready, &[])
    }

    fn start_with(
        binary: &Path,
        directory: tempfile::TempDir,
        durability: Durability,
        faces: &str,
        port: u16,
        is_ready: fn(SocketAddr) -> bool,
        settings: &[&str],
    ) -> Result<Proteus> {
        let is_free = |port: u16| TcpListener::bind(loopback(port)).is_ok();
        let ports = [ZOOKEEPER, KAFKA, REDIS, POSTGRES, HTTP, SCHEMAS, PEER];
        // Below 32,768, from where on Linux gives ports to connections.
        let offset = (9_000..23_600)
            .step_by(131)
            .find(|offset| ports.iter().all(|port| is_free(port + offset)))
            .ok_or("no free ports on this machine")?;
        let data = directory.path().join("data");
        let mut arguments: Vec<String> = [
            "start",
            "--listen",
            "127.0.0.1",
            "--port-offset",
            &offset.to_string(),
            "--durability",
            durability.name(),
            "--log-level",
            "warn",
            "--faces",
            faces,
            "--data-dir",
            &data.to_string_lossy(),
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.extend(settings.iter().map(|setting| (*setting).to_owned()));
        let started = Instant::now();
        let child = spawn(Command::new(binary).args(&arguments), &directory.path().join("output"))?;
        let address = loopback(port + offset);
        let mut server = Server { child, directory: Some(directory), parent: None, address };
        server.wait_until("proteus", is_ready)?;
        let binary = binary.to_owned();
        let first_answer = started.elapsed();
        Ok(Proteus { server, offset, first_answer, binary, arguments })
    }

    /// Starts it again after it was killed, on the same data and ports, and waits until it answers.
    pub(crate) fn restart(&mut self) -> Result<()> {
        let directory = self.server.directory.as_ref().ok_or("the data directory is gone")?;
        let log = directory.path().join("output");
        self.server.child = spawn(Command::new(&self.binary).args(&self.arguments), &log)?;
        self.server.wait_until("proteus", load::answers_redis)
    }

    /// Where the face with this standard port listens.
    pub(crate) fn face(&self, standard_port: u16) -> SocketAddr {
        loopback(standard_port + self.offset)
    }
}

/// The secret of clusters that are measured.
const SECRET: &str = "for this measurement only";

/// What a node says of its cluster, in JSON without blanks.
fn cluster_status(binary: &Path, peer: SocketAddr) -> Result<String> {
    let status = Command::new(binary)
        .args(["cluster", "status", "--json", "--peer", &peer.to_string()])
        .env("PROTEUS_CLUSTER_SECRET", SECRET)
        .output()
        .map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&status.stdout).split_whitespace().collect())
}

/// Which of the nodes leads, once all three vote.
pub(crate) fn leader_of(binary: &Path, nodes: &[Proteus]) -> Result<usize> {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(60) {
        for node in nodes {
            let status = cluster_status(binary, node.face(PEER))?;
            let leader = status.split("\"leader\":").nth(1).unwrap_or_default();
            let digits: String = leader.chars().take_while(char::is_ascii_digit).collect();
            if let Ok(number) = digits.parse::<usize>() {
                return Ok(number.saturating_sub(1));
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err("nobody leads the cluster".to_owned())
}

/// Three nodes in one cluster, of which a majority flushes every write.
pub(crate) fn start_proteus_cluster(
    binary: &Path,
    directory: tempfile::TempDir,
) -> Result<Vec<Proteus>> {
    let mut nodes: Vec<Proteus> = Vec::new();
    for _ in 0..3 {
        let own = tempfile::tempdir_in(directory.path()).map_err(|error| error.to_string())?;
        let join = nodes.first().map(|first| first.face(PEER).to_string());
        let mut settings = vec!["--cluster-secret", SECRET];
        if let Some(join) = &join {
            settings.extend(["--join", join]);
        }
        let flushed = Durability::Flushed;
        let ready = load::answers_redis;
        nodes.push(Proteus::start_with(binary, own, flushed, "redis", REDIS, ready, &settings)?);
    }
    let peer = nodes.first().map(|first| first.face(PEER)).ok_or("there are no nodes")?;
    let started = Instant::now();
    loop {
        let status = cluster_status(binary, peer)?;
        if status.matches("\"is_voter\":true").count() == 3 {
            // The directory of the first goes last; those of the others are within it.
            if let Some(first) = nodes.first_mut() {
                first.server.parent = Some(directory);
            }
            return Ok(nodes);
        }
        if started.elapsed() > Duration::from_secs(60) {
            return Err(format!("the cluster does not form: {status}"));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Three nodes of etcd, as it is by default: every write flushed by a majority; `None` if it is not installed.
pub(crate) fn start_etcd_cluster(directory: tempfile::TempDir) -> Result<Option<Vec<Server>>> {
    if crate::measure::version("etcd", &["--version"]).is_none() {
        return Ok(None);
    }
    let mut ports = Vec::new();
    for _ in 0..3 {
        ports.push((free_port()?, free_port()?));
    }
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let members: Vec<String> = ports
        .iter()
        .enumerate()
        .map(|(place, (_, peer))| format!("n{place}={}", url(*peer)))
        .collect();
    let members = members.join(",");
    let mut servers = Vec::new();
    for (place, (client, peer)) in ports.iter().enumerate() {
        let own = tempfile::tempdir_in(directory.path()).map_err(|error| error.to_string())?;
        let mut command = Command::new("etcd");
        command
            .args(["--name", &format!("n{place}"), "--log-level", "error"])
            .args(["--listen-client-urls", &url(*client), "--advertise-client-urls", &url(*client)])
            .args(["--listen-peer-urls", &url(*peer), "--initial-advertise-peer-urls", &url(*peer)])
            .args(["--initial-cluster", &members, "--initial-cluster-state", "new"])
            .arg("--data-dir")
            .arg(own.path().join("data"));
        let child = spawn(&mut command, &own.path().join("output"))?;
        let address = loopback(*client);
        servers.push(Server { child, directory: Some(own), parent: None, address });
    }
    for server in &mut servers {
        server.wait_until("etcd", answers_health)?;
    }
    if let Some(first) = servers.first_mut() {
        first.parent = Some(directory);
    }
    Ok(Some(servers))
}

/// Whether etcd has a leader.
fn answers_health(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.contains("\"health\":\"true\""))
    };
    ask().unwrap_or(false)
}

/// redis-server with an append-only file; `None` if it is not installed.
pub(crate) fn start_redis(
    directory: tempfile::TempDir,
    durability: Durability,
) -> Result<Option<(Server, Duration)>> {
    if crate::measure::version("redis-server", &["--version"]).is_none() {
        return Ok(None);
    }
    let port = free_port()?;
    let fsync = match durability {
        Durability::Flushed => "always",
        Durability::Relaxed => "everysec",
    };
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .args(["--appendonly", "yes", "--appendfsync", fsync])
        .arg("--dir")
        .arg(directory.path());
    let started = Instant::now();
    let child = spawn(&mut command, &directory.path().join("output"))?;
    let mut server =
        Server { child, directory: Some(directory), parent: None, address: loopback(port) };
    server.wait_until("redis-server", load::answers_redis)?;
    Ok(Some((server, started.elapsed())))
}

/// Where Debian puts ZooKeeper and what it needs.
const ZOOKEEPER_JAR: &str = "/usr/share/java/zookeeper.jar";

/// Whether a server opens a session there, which it does once it has its data.
fn answers_zookeeper(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(&crate::zookeeper_load::handshake())?;
        let mut answer = [0; 20];
        stream.read_exact(&mut answer)?;
        // Length, version, timeout, then the session's id.
        Ok(answer[12..20] != [0; 8])
    };
    ask().unwrap_or(false)
}

/// A standalone ZooKeeper with its defaults; `None` if it is not installed.
pub(crate) fn start_zookeeper(directory: tempfile::TempDir) -> Result<Option<(Server, Duration)>> {
    if !Path::new(ZOOKEEPER_JAR).exists()
        || crate::measure::version("java", &["--version"]).is_none()
    {
        return Ok(None);
    }
    let port = free_port()?;
    let settings = directory.path().join("zoo.cfg");
    let mut file = File::create(&settings).map_err(|error| error.to_string())?;
    // Sessions without bound; everything else, forceSync above all, is the default.
    write!(
        file,
        "tickTime=2000\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\nmaxClientCnxns=0\nadmin.enableServer=false\n",
        directory.path().join("data").display()
    )
    .map_err(|error| error.to_string())?;
    let mut command = Command::new("java");
    command
        .args(["-cp", ZOOKEEPER_JAR, "org.apache.zookeeper.server.quorum.QuorumPeerMain"])
        .arg(&settings);
    let started = Instant::now();
    let child = spawn(&mut command, &directory.path().join("output"))?;
    let mut server =
        Server { child, directory: Some(directory), parent: None, address: loopback(port) };
    server.wait_until("ZooKeeper", answers_zookeeper)?;
    Ok(Some((server, started.elapsed())))
}

/// The newest PostgreSQL that Debian has installed.
fn postgres_programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .filter(|programs| programs.join("postgres").exists())
        .collect();
    found.sort();
    found.pop()
}

/// What PostgreSQL says of its version, if it is installed.
pub(crate) fn postgres_version() -> Option<String> {
    let program = postgres_programs()?.join("postgres");
    crate::measure::version(&program.to_string_lossy(), &["--version"])
}

/// The user and group ids of `name`.
fn account(name: &str) -> Option<(u32, u32)> {
    let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// PostgreSQL with its defaults, or with commits acknowledged before they are flushed; `None` if it
/// is not installed.
pub(crate) fn start_postgres(options: &Options, durability: Durability) -> Result<Option<Server>> {
    let Some(programs) = postgres_programs() else { return Ok(None) };
    let directory = options.temporary()?;
    let data = directory.path().join("data");
    let mut initdb = Command::new(programs.join("initdb"));
    initdb.args(["--auth=trust", "--username=postgres", "--no-sync"]).arg("-D").arg(&data);
    let mut command = Command::new(programs.join("postgres"));
    // It refuses to run as the superuser, and then needs a user that the package has made.
    let is_root = account("root").is_some_and(|(id, _)| {
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").expect("procfs")) == id
    });
    if is_root {
        let Some((user, group)) = account("postgres") else { return Ok(None) };
        std::os::unix::fs::chown(directory.path(), Some(user), Some(group))
            .map_err(|error| error.to_string())?;
        initdb.uid(user).gid(group);
        command.uid(user).gid(group);
    }
    let log = options.temporary()?;
    let mut child = spawn(initdb.current_dir(directory.path()), &log.path().join("initdb"))?;
    if !child.wait().is_ok_and(|status| status.success()) {
        return Err("initdb failed".to_owned());
    }
    let port = free_port()?;
    let commit = match durability {
        Durability::Flushed => "synchronous_commit=on",
        Durability::Relaxed => "synchronous_commit=off",
    };
    command
        .current_dir(directory.path())
        .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", commit])
        .args(["-c", "unix_socket_directories="])
        .arg("-D")
        .arg(&data);
    let child = spawn(&mut command, &log.path().join("output"))?;
    let mut server =
        Server { child, directory: Some(directory), parent: None, address: loopback(port) };
    server.wait_until("PostgreSQL", |address| TcpStream::connect(address).is_ok())?;
    Ok(Some(server))
}
