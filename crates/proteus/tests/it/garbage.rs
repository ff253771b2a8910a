//! Garbage on any port closes that connection and disturbs no other.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::node::{NodeProcess, PATIENCE, runtime};

#[test]
fn garbage_on_every_port_disturbs_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let node = NodeProcess::start(directory.path());
    let runtime = runtime();
    let mut client = runtime.block_on(async {
        let client = redis::Client::open(node.redis_url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    });
    let mut random: u64 = 0x5EED;
    for round in 0..12 {
        for port in [2181, 9092, 6379, 5432, 8080] {
            let mut bytes = vec![0u8; 64 + round * 300];
            for byte in &mut bytes {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                *byte = random as u8;
            }
            if round % 3 == 0 {
                bytes[..4].copy_from_slice(&[0x7F, 0xFF, 0xFF, 0xFF]);
            }
            let mut stream = TcpStream::connect(node.address(port)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            // The node may close before it has read all, and reset the connection.
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            if let Err(error) = stream.read_to_end(&mut answer) {
                assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "port {port} stays open");
            }
        }
        let pong: String = runtime.block_on(redis::cmd("PING").query_async(&mut client)).unwrap();
        assert_eq!(pong, "PONG");
    }
}
