//! Three nodes beside three of etcd: small writes, flushed by a majority, and linearizable reads, of clients
//! spread over all nodes.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::etcd_load::Connection;
use crate::measure::{Sample, Table, median};
use crate::processes::{REDIS, Server, start_etcd_cluster, start_proteus_cluster};
use crate::{Options, Result, load};

const CLIENTS: &[usize] = &[1, 64, 512];
const KEYS: u64 = 10_000;
const VALUE: &[u8] = b"0123456789abcdef0123456789abcdef";
const SECONDS: f64 = 4.0;

/// A client of ours: one connection to the Redis face of one node.
struct Ours {
    stream: TcpStream,
    number: u64,
}

impl Ours {
    async fn open(address: SocketAddr, number: u64) -> Result<Ours> {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(Ours { stream, number })
    }

    async fn ask(&mut self, command: &[u8], is_bulk: bool) -> Result<()> {
        let failed = |error: std::io::Error| format!("proteus: {error}");
        self.stream.write_all(command).await.map_err(failed)?;
        let mut answer = Vec::with_capacity(64);
        loop {
            let mut piece = [0; 128];
            let length = self.stream.read(&mut piece).await.map_err(failed)?;
            if length == 0 {
                return Err("proteus closed the connection".to_owned());
            }
            answer.extend_from_slice(&piece[..length]);
            let lines = answer.windows(2).filter(|pair| pair == b"\r\n").count();
            match answer.first() {
                Some(b'+') if lines == 1 => return Ok(()),
                Some(b'$') if is_bulk && (lines == 2 || answer.starts_with(b"$-1")) => {
                    return Ok(());
                }
                Some(b'-') => return Err(String::from_utf8_lossy(&answer).into_owned()),
                _ => {}
            }
        }
    }
}

/// Which key a client's request is of.
fn key_of(client: u64, request: u64) -> Vec<u8> {
    let mixed = (client << 32 | request).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    format!("key:{:07}", mixed % KEYS).into_bytes()
}

fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut command = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        command.extend(format!("${}\r\n", word.len()).into_bytes());
        command.extend_from_slice(word);
        command.extend(b"\r\n");
    }
    command
}

async fn load_ours(
    nodes: &[SocketAddr],
    clients: usize,
    is_write: bool,
    duration: Duration,
) -> Result<Sample> {
    let mut opened = Vec::new();
    for (number, address) in (0..clients).zip(nodes.iter().cycle()) {
        opened.push(Ours::open(*address, number as u64).await?);
    }
    let request = move |mut client: Ours, number: u64| async move {
        let key = key_of(client.number, number);
        let result = if is_write {
            client.ask(&command(&[b"SET", &key, VALUE]), false).await
        } else {
            client.ask(&command(&[b"GET", &key]), true).await
        };
        (client, result)
    };
    Ok(load::closed_loop(opened, duration, request).await?.0)
}

async fn load_etcd(
    nodes: &[SocketAddr],
    clients: usize,
    is_write: bool,
    duration: Duration,
) -> Result<Sample> {
    let mut opened = Vec::new();
    for (number, address) in (0..clients).zip(nodes.iter().cycle()) {
        opened.push((Connection::open(*address).await?, number as u64));
    }
    let request = move |(mut client, client_number): (Connection, u64), number: u64| async move {
        let key = key_of(client_number, number);
        let result = if is_write { client.put(&key, VALUE).await } else { client.get(&key).await };
        ((client, client_number), result)
    };
    Ok(load::closed_loop(opened, duration, request).await?.0)
}

fn processor_s(servers: &[Server]) -> f64 {
    servers.iter().map(Server::processor_s).sum()
}

/// Processor time of one request, in microseconds, of all three nodes together.
fn request_us(before_s: f64, after_s: f64, sample: &Sample, seconds: f64) -> f64 {
    (after_s - before_s) * 1e6 / (sample.per_second * seconds).max(1.0)
}

pub(crate) async fn run(options: &Options, proteus: &Path) -> Result<()> {
    let ours = start_proteus_cluster(proteus, options.temporary()?)?;
    let our_nodes: Vec<SocketAddr> = ours.iter().map(|node| node.face(REDIS)).collect();
    let ours: Vec<Server> = ours.into_iter().map(|node| node.server).collect();
    let etcd = start_etcd_cluster(options.temporary()?)?;
    if etcd.is_none() {
        println!("etcd is not installed (package etcd-server): our figures alone\n");
    }
    let etcd = etcd.unwrap_or_default();
    let etcd_nodes: Vec<SocketAddr> = etcd.iter().map(|server| server.address).collect();
    let table =
        Table::begin("Three nodes: writes flushed by a majority, linearizable reads", Some("etcd"));
    let mut processor = Vec::new();
    let duration = options.seconds(SECONDS);
    for is_write in [true, false] {
        for clients in CLIENTS.iter().copied() {
            let what = if is_write { "write" } else { "read" };
            let case = format!("{what} · {clients} client{}", if clients == 1 { "" } else { "s" });
            if !options.wants(&case) {
                continue;
            }
            let (mut our_samples, mut etcd_samples) = (Vec::new(), Vec::new());
            let (mut our_us, mut etcd_us) = (Vec::new(), Vec::new());
            for _ in 0..options.rounds {
                let before = processor_s(&ours);
                let sample = load_ours(&our_nodes, clients, is_write, duration).await?;
                our_us.push(request_us(
                    before,
                    processor_s(&ours),
                    &sample,
                    duration.as_secs_f64(),
                ));
                our_samples.push(sample);
                if !etcd_nodes.is_empty() {
                    let before = processor_s(&etcd);
                    let sample = load_etcd(&etcd_nodes, clients, is_write, duration).await?;
                    let after = processor_s(&etcd);
                    etcd_us.push(request_us(before, after, &sample, duration.as_secs_f64()));
                    etcd_samples.push(sample);
                }
            }
            table.row(&case, &our_samples, &etcd_samples);
            processor.push((case, median(our_us), median(etcd_us)));
        }
    }
    table.end();
    println!("### Processor time of a request, all three nodes together\n");
    println!("| case | proteus µs | etcd µs |\n| --- | ---: | ---: |");
    for (case, ours, etcd) in processor {
        println!("| {case} | {ours:.0} | {etcd:.0} |");
    }
    println!();
    Ok(())
}
