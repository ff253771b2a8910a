//! How long writes fail after the leader of three nodes was killed: from the kill to the next acknowledged
//! write of a client that tries every node in turn.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::measure::count;
use crate::processes::{Proteus, REDIS, leader_of, start_proteus_cluster};
use crate::{Options, Result};

const KILLS: u64 = 60;

/// Longest wait for one answer, and for a write after a kill.
const ANSWER: Duration = Duration::from_millis(500);
const GIVE_UP: Duration = Duration::from_secs(60);

fn connect(address: SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, ANSWER).ok()?;
    stream.set_read_timeout(Some(ANSWER)).ok()?;
    stream.set_nodelay(true).ok()?;
    Some(stream)
}

/// Whether a write through this connection was acknowledged.
fn writes(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 5];
    stream.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && &answer == b"+OK\r\n"
}

/// Writes until one is acknowledged by any of these, and says how long that took.
fn until_written(nodes: &[SocketAddr], since: Instant) -> Result<Duration> {
    for address in nodes.iter().cycle() {
        if let Some(mut stream) = connect(*address)
            && writes(&mut stream)
        {
            return Ok(since.elapsed());
        }
        if since.elapsed() > GIVE_UP {
            return Err("no write succeeds after the leader was killed".to_owned());
        }
    }
    Err("there are no nodes".to_owned())
}

pub(crate) fn run(options: &Options, proteus: &Path) -> Result<()> {
    let mut nodes = start_proteus_cluster(proteus, options.temporary()?)?;
    let addresses: Vec<SocketAddr> = nodes.iter().map(|node| node.face(REDIS)).collect();
    let mut gaps = Vec::new();
    for _ in 0..options.scaled(KILLS) {
        let leader = leader_of(proteus, &nodes)?;
        let others: Vec<SocketAddr> = addresses
            .iter()
            .enumerate()
            .filter(|(place, _)| *place != leader)
            .map(|(_, at)| *at)
            .collect();
        until_written(&others, Instant::now())?;
        let killed = Instant::now();
        if let Some(node) = nodes.get_mut(leader) {
            node.server.kill();
        }
        gaps.push(until_written(&others, killed)?);
        nodes.get_mut(leader).map_or(Ok(()), Proteus::restart)?;
    }
    gaps.sort_unstable();
    let percentile = |share: f64| {
        let place = ((gaps.len() as f64 * share) as usize).min(gaps.len().saturating_sub(1));
        gaps.get(place).map_or(0.0, |gap| gap.as_secs_f64() * 1000.0)
    };
    println!("### Without writes after the leader is killed\n");
    println!(
        "| kills | p50 ms | p90 ms | p99 ms | longest ms |\n| ---: | ---: | ---: | ---: | ---: |"
    );
    println!(
        "| {} | {:.0} | {:.0} | {:.0} | {:.0} |\n",
        count(gaps.len() as f64),
        percentile(0.50),
        percentile(0.90),
        percentile(0.99),
        percentile(1.0),
    );
    Ok(())
}
