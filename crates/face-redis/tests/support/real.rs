//! A real Redis, where one is installed.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub struct RealRedis {
    pub address: SocketAddr,
    process: Child,
    _directory: tempfile::TempDir,
}

impl RealRedis {
    /// Starts one on a free port; `None` if none is installed.
    pub fn start() -> Option<RealRedis> {
        let directory = tempfile::tempdir().ok()?;
        #[allow(clippy::disallowed_methods, reason = "a free port for a process of its own")]
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?.local_addr().ok()?.port();
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--save", "", "--appendonly", "no", "--dir"])
            .arg(directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let started = RealRedis { address, process, _directory: directory };
        for _ in 0..200 {
            if TcpStream::connect_timeout(&address, Duration::from_millis(50)).is_ok() {
                return Some(started);
            }
            #[allow(clippy::disallowed_methods, reason = "waits for a process of its own")]
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }
}

impl Drop for RealRedis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
