//! Sessions of one load generator against both.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::measure::{Sample, Table};
use crate::processes::{Durability, Proteus, Server, ZOOKEEPER, start_zookeeper};
use crate::zookeeper_load::{Request, Session};
use crate::{Options, Result};

/// Sessions, and requests that each keeps under way.
const LOADS: &[(usize, usize)] = &[(1, 1), (64, 16)];

const REQUESTS: &[Request] =
    &[Request::Create, Request::Set, Request::Get, Request::Children, Request::Multi];

/// Znodes that are watched, and sessions that watch each: 100,000 watches.
const WATCHED: usize = 1_000;
const WATCHERS: usize = 100;

/// Sessions that do nothing.
const IDLE: usize = 10_000;

/// Sessions that come all at once.
const STORM: usize = 5_000;

/// How long a session may take to open, and how often it is tried.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
const OPEN_TRIES: usize = 10;

pub(crate) async fn run(options: &Options, proteus: &Path) -> Result<()> {
    let ours = match options.zookeeper_at {
        Some(_) => None,
        None => Some(Proteus::start(proteus, options.temporary()?, Durability::Flushed)?),
    };
    let peer = start_zookeeper(options.temporary()?)?;
    if peer.is_none() {
        println!("ZooKeeper is not installed (package zookeeper): our figures alone\n");
    }
    let ours_at = match (&ours, options.zookeeper_at) {
        (Some(ours), _) => ours.face(ZOOKEEPER),
        (None, Some(address)) => address,
        (None, None) => return Err("there is no server to measure".to_owned()),
    };
    let peer_at = peer.as_ref().map(|(peer, _)| peer.address);
    // A virtual machine that has just started compiles first; that is not what is compared.
    for address in [Some(ours_at), peer_at].into_iter().flatten() {
        for request in REQUESTS {
            measure(address, (16, 8), *request, options.seconds(2.0)).await?;
        }
    }
    let table = Table::begin(
        "ZooKeeper: every write flushed (ZooKeeper: forceSync, its default)",
        Some("zookeeper"),
    );
    for load in LOADS {
        for request in REQUESTS {
            let (sessions, depth) = *load;
            let case = format!("{request:?} · {sessions} sessions, {depth} deep").to_lowercase();
            if !options.wants(&case) {
                continue;
            }
            let (mut ours_samples, mut peer_samples) = (Vec::new(), Vec::new());
            for _ in 0..options.rounds {
                let duration = options.seconds(2.0);
                ours_samples.push(measure(ours_at, *load, *request, duration).await?);
                if let Some(peer_at) = peer_at {
                    peer_samples.push(measure(peer_at, *load, *request, duration).await?);
                }
            }
            table.row(&case, &ours_samples, &peer_samples);
        }
    }
    for (case, measure) in [("watch events", Crowd::Events), ("connect storm", Crowd::Storm)] {
        if options.wants(case) {
            let ours_sample = crowd(ours_at, measure).await?;
            let peer_sample = match peer_at {
                Some(peer_at) => vec![crowd(peer_at, measure).await?],
                None => Vec::new(),
            };
            table.row(case, &[ours_sample], &peer_sample);
        }
    }
    table.end();
    if options.wants("idle") {
        if let Some(ours) = &ours {
            idle("proteus", ours_at, &ours.server).await?;
        }
        if let Some((server, _)) = &peer {
            idle("zookeeper", server.address, server).await?;
        }
    }
    Ok(())
}

/// As a client does: what a server that is overrun drops is tried again.
async fn open_one(address: SocketAddr, number: usize) -> Result<Session> {
    let mut last = "the server answers no session".to_owned();
    for _ in 0..OPEN_TRIES {
        match tokio::time::timeout(OPEN_TIMEOUT, Session::open(address, number)).await {
            Ok(Ok(session)) => return Ok(session),
            Ok(Err(error)) => last = error,
            Err(_) => {}
        }
    }
    Err(last)
}

async fn open(address: SocketAddr, count: usize) -> Result<Vec<Session>> {
    let opening: Vec<_> =
        (0..count).map(|number| tokio::spawn(open_one(address, number))).collect();
    let mut sessions = Vec::with_capacity(count);
    for opened in opening {
        sessions.push(opened.await.map_err(|error| error.to_string())??);
    }
    Ok(sessions)
}

async fn measure(
    address: SocketAddr,
    (count, depth): (usize, usize),
    request: Request,
    duration: Duration,
) -> Result<Sample> {
    let mut sessions = open(address, count).await?;
    for session in &mut sessions {
        session.prepare().await?;
    }
    let started = Instant::now();
    let driving: Vec<_> = sessions
        .into_iter()
        .map(|mut session| {
            tokio::spawn(async move { session.drive(request, depth, duration).await })
        })
        .collect();
    let mut latencies = Vec::new();
    for driven in driving {
        latencies.extend(driven.await.map_err(|error| error.to_string())??);
    }
    Ok(Sample::of(latencies, started.elapsed()))
}

/// What happens to many sessions at once.
#[derive(Debug, Clone, Copy)]
enum Crowd {
    /// Each of 100,000 watches fires.
    Events,
    /// 5,000 sessions are opened.
    Storm,
}

/// Events, or sessions, each second; the latencies are of the whole.
async fn crowd(address: SocketAddr, what: Crowd) -> Result<Sample> {
    let started = Instant::now();
    let (count, took) = match what {
        Crowd::Storm => {
            let sessions = open(address, STORM).await?;
            let took = started.elapsed();
            drop(sessions);
            (STORM, took)
        }
        Crowd::Events => {
            let mut writer = Session::open(address, 0).await?;
            writer.create_watched(WATCHED).await?;
            let mut watchers = open(address, WATCHERS).await?;
            for watcher in &mut watchers {
                watcher.watch_all(WATCHED).await?;
            }
            let started = Instant::now();
            let hearing: Vec<_> = watchers
                .into_iter()
                .map(|mut watcher| tokio::spawn(async move { watcher.hear_all(WATCHED).await }))
                .collect();
            writer.set_watched(WATCHED).await?;
            for heard in hearing {
                heard.await.map_err(|error| error.to_string())??;
            }
            (WATCHED * WATCHERS, started.elapsed())
        }
    };
    let all_ms = took.as_secs_f64() * 1000.0;
    Ok(Sample { per_second: count as f64 / took.as_secs_f64(), p50_ms: all_ms, p99_ms: all_ms })
}

/// What sessions that do nothing cost.
async fn idle(name: &str, address: SocketAddr, server: &Server) -> Result<()> {
    let before = server.resident_mib();
    let sessions = open(address, IDLE).await?;
    let (after, processor_s) = (server.resident_mib(), server.processor_s());
    tokio::time::sleep(Duration::from_secs(5)).await;
    println!(
        "{name}: {IDLE} idle sessions take {:.0} MiB ({before:.0} before, {after:.0} with them) and \
         {:.2} s of processor time in 5 s",
        after - before,
        server.processor_s() - processor_s
    );
    drop(sessions);
    Ok(())
}
