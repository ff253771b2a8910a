//! A real ZooKeeper, from Debian's package.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use proteus_env::disk::{Disk, RealDisk};
use proteus_env::{net, task};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Where Debian installs the libraries.
const LIBRARIES: &str = "/usr/share/java";

/// How often to look whether it has started.
const STARTS_MAX: usize = 600;

/// How long a server that listens may take to answer before it is asked again.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

pub struct Server {
    pub address: SocketAddr,
    process: Child,
    _directory: tempfile::TempDir,
}

impl Server {
    /// Starts one with everything switched on that is on here; `None` if it is not installed.
    pub async fn start(super_digest: &str) -> Option<Server> {
        if !Path::new(LIBRARIES).join("zookeeper.jar").exists() {
            return None;
        }
        let directory = tempfile::tempdir().ok()?;
        // Free now, and most likely a moment later.
        let listener = net::listen(SocketAddr::from(([127, 0, 0, 1], 0))).ok()?;
        let address = listener.local_addr().ok()?;
        drop(listener);
        let data_directory = directory.path().join("data");
        let configuration = format!(
            "tickTime=2000\ndataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\n",
            data_directory.display(),
            address.port()
        );
        let disk = RealDisk::open(directory.path()).ok()?;
        disk.open("zoo.cfg").ok()?.write_at(0, configuration.as_bytes()).ok()?;
        let process = Command::new("java")
            .args(["-Xmx256m", "-cp", &format!("{LIBRARIES}/*")])
            .arg("-Dzookeeper.admin.enableServer=false")
            .arg("-Dzookeeper.extendedTypesEnabled=true")
            .arg("-Dzookeeper.enforceQuota=true")
            .arg("-Dznode.container.checkIntervalMs=200")
            .arg(format!("-Dzookeeper.DigestAuthenticationProvider.superDigest={super_digest}"))
            .arg("org.apache.zookeeper.server.ZooKeeperServerMain")
            .arg(directory.path().join("zoo.cfg"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut server = Server { address, process, _directory: directory };
        for _ in 0..STARTS_MAX {
            let asked = task::timeout(ANSWER_PATIENCE, is_serving(address)).await;
            if asked == Some(true) {
                return Some(server);
            }
            if let Ok(Some(status)) = server.process.try_wait() {
                panic!("ZooKeeper is installed, but does not start: {status}");
            }
            task::sleep(Duration::from_millis(50)).await;
        }
        panic!("ZooKeeper is installed, but does not start");
    }
}

/// Whether it serves, which it does some time after it listens.
async fn is_serving(address: SocketAddr) -> bool {
    let Ok(mut stream) = net::connect(address).await else {
        return false;
    };
    let mut answer = String::new();
    stream.write_all(b"srvr").await.is_ok()
        && stream.read_to_string(&mut answer).await.is_ok()
        && answer.contains("Mode:")
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is gone either way.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
