//! Load that this program makes itself.

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::Result;
use crate::measure::Sample;

/// Runs one task per client of `clients` for `duration`: each repeats `request`, which gets its
/// client and a number unique to it, and measures every one.
pub(crate) async fn closed_loop<C, F, R>(
    clients: Vec<C>,
    duration: Duration,
    request: F,
) -> Result<(Sample, Vec<C>)>
where
    C: Send + 'static,
    F: Fn(C, u64) -> R + Clone + Send + 'static,
    R: Future<Output = (C, Result<()>)> + Send,
{
    let started = Instant::now();
    let mut tasks = Vec::new();
    for client in clients {
        let request = request.clone();
        tasks.push(tokio::spawn(async move {
            let mut client = client;
            let mut latencies = Vec::new();
            while started.elapsed() < duration {
                let begun = Instant::now();
                let (returned, result) = request(client, latencies.len() as u64).await;
                client = returned;
                result?;
                latencies.push(begun.elapsed());
            }
            Ok::<_, String>((client, latencies))
        }));
    }
    let mut clients = Vec::new();
    let mut all = Vec::new();
    for task in tasks {
        let (client, latencies) = task.await.map_err(|error| error.to_string())??;
        clients.push(client);
        all.extend(latencies);
    }
    Ok((Sample::of(all, started.elapsed()), clients))
}

/// Whether a Redis server answers a read there. One that is loading its data does not.
pub(crate) fn answers_redis(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET key:0000000\r\n")?;
        let mut answer = [0; 1];
        stream.read_exact(&mut answer)?;
        Ok(answer == *b"$")
    };
    ask().unwrap_or(false)
}

/// Commands sent before their answers are read.
const PIPELINE: u64 = 1_000;

/// Writes `count` keys of 11 bytes with values of 16.
pub(crate) fn fill_redis(address: SocketAddr, count: u64) -> Result<()> {
    let failed = |error: std::io::Error| format!("cannot write keys to {address}: {error}");
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    let mut answers = Vec::new();
    let mut number = 0;
    while number < count {
        let mut commands = Vec::new();
        let upto = count.min(number + PIPELINE);
        for key in number..upto {
            write!(commands, "*3\r\n$3\r\nSET\r\n$11\r\nkey:{key:07}\r\n$16\r\n{key:016}\r\n")
                .map_err(failed)?;
        }
        stream.write_all(&commands).map_err(failed)?;
        answers.resize((upto - number) as usize * b"+OK\r\n".len(), 0);
        stream.read_exact(&mut answers).map_err(failed)?;
        if answers.chunks(5).any(|answer| answer != b"+OK\r\n") {
            return Err(format!("{address} refused a key"));
        }
        number = upto;
    }
    Ok(())
}
