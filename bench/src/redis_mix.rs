//! One write to ten reads over keys of which some are wanted much more often than others, as caches see them and
//! memtier_benchmark does by default.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::measure::Sample;
use crate::{Result, load};

/// All are there before.
const KEYS: u64 = 100_000;

/// Of this many commands one writes.
const WRITES_ONE_IN: u64 = 11;

struct Client {
    stream: TcpStream,
    random: u64,
    commands: Vec<u8>,
    answers: Vec<u8>,
}

impl Client {
    fn random(&mut self) -> u64 {
        // xorshift64: any sequence that two clients do not share will do.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Half of the time one of the first tenth of the keys, and so on.
    fn key(&mut self) -> u64 {
        let random = self.random();
        let mut among = KEYS;
        for bit in 0..3 {
            among /= if random >> bit & 1 == 1 { 10 } else { 1 };
        }
        (random >> 8) % among
    }

    /// Sends so many commands in one go, and takes their answers.
    async fn exchange(&mut self, pipeline: usize) -> Result<()> {
        self.commands.clear();
        let mut answers_bytes = 0;
        for _ in 0..pipeline {
            let key = self.key();
            if self.random().is_multiple_of(WRITES_ONE_IN) {
                let set = format!("*3\r\n$3\r\nSET\r\n$11\r\nkey:{key:07}\r\n$16\r\n{key:016}\r\n");
                self.commands.extend_from_slice(set.as_bytes());
                answers_bytes += b"+OK\r\n".len();
            } else {
                let get = format!("*2\r\n$3\r\nGET\r\n$11\r\nkey:{key:07}\r\n");
                self.commands.extend_from_slice(get.as_bytes());
                answers_bytes += b"$16\r\n0123456789abcdef\r\n".len();
            }
        }
        let failed = |error: std::io::Error| format!("redis: {error}");
        self.stream.write_all(&self.commands).await.map_err(failed)?;
        self.answers.resize(answers_bytes, 0);
        self.stream.read_exact(&mut self.answers).await.map_err(failed)?;
        // Errors are of other lengths, and begin so.
        if self.answers.contains(&b'-') {
            Err("redis refused a command".to_owned())
        } else {
            Ok(())
        }
    }
}

/// Commands a second, and how long it took to be answered those that were sent together.
pub(crate) async fn run(
    address: SocketAddr,
    clients: usize,
    pipeline: usize,
    duration: Duration,
) -> Result<Sample> {
    load::fill_redis(address, KEYS)?;
    let mut opened = Vec::new();
    for number in 0..clients {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let random = (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        opened.push(Client { stream, random, commands: Vec::new(), answers: Vec::new() });
    }
    let request = move |mut client: Client, _| async move {
        let exchanged = client.exchange(pipeline).await;
        (client, exchanged)
    };
    let (sample, _) = load::closed_loop(opened, duration, request).await?;
    Ok(Sample { per_second: sample.per_second * pipeline as f64, ..sample })
}
