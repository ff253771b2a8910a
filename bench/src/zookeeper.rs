//! Sessions of one load generator against both.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::measure::{Sample, Table, median};
use crate::processes::{Proteus, Server, ZOOKEEPER, start_zookeeper};
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

/// Znodes to recover, and sessions that create them.
const FILLED: u64 = 1_000_000;
const FILLERS: usize = 64;

/// How long a session may take to open, and how often it is tried.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
const OPEN_TRIES: usize = 10;

/// One side of the comparison.
struct Side {
    name: &'static str,
    address: SocketAddr,
    /// `None` for one that somebody else has started.
    server: Option<Server>,
}

impl Side {
    fn processor_s(&self) -> Option<f64> {
        self.server.as_ref().map(Server::processor_s)
    }
}

/// Figures of one case beside its rates.
struct Beside {
    case: String,
    p99_ratio: Option<f64>,
    /// Of each side, in microseconds a request.
    processor_us: Vec<Option<f64>>,
}

pub(crate) async fn run(options: &Options, proteus: &Path) -> Result<()> {
    let ours = match options.zookeeper_at {
        Some(address) => Side { name: "proteus", address, server: None },
        None => {
            let node = Proteus::start_zookeeper(proteus, options.temporary()?)?;
            let address = node.face(ZOOKEEPER);
            Side { name: "proteus", address, server: Some(node.server) }
        }
    };
    let peer = start_zookeeper(options.temporary()?)?.map(|(server, _)| Side {
        name: "zookeeper",
        address: server.address,
        server: Some(server),
    });
    if peer.is_none() {
        println!("ZooKeeper is not installed (package zookeeper): our figures alone\n");
    }
    let sides: Vec<Side> = [Some(ours), peer].into_iter().flatten().collect();
    // A virtual machine that has just started compiles first; that is not what is compared.
    for side in &sides {
        for request in REQUESTS {
            measure(side.address, (16, 8), *request, options.seconds(2.0)).await?;
        }
    }
    let beside = rates(options, &sides).await?;
    print_beside(&beside);
    for side in &sides {
        if let (true, Some(server)) = (options.wants("idle"), &side.server) {
            idle(side.name, side.address, server).await?;
        }
    }
    if options.wants("recovery") {
        for side in sides {
            recovery(options, proteus, side).await?;
        }
    }
    Ok(())
}

async fn rates(options: &Options, sides: &[Side]) -> Result<Vec<Beside>> {
    let table = Table::begin(
        "ZooKeeper: every write flushed (ZooKeeper: forceSync, its default)",
        Some("zookeeper"),
    );
    let mut beside = Vec::new();
    for (load, request) in LOADS.iter().flat_map(|load| REQUESTS.iter().map(move |r| (*load, *r))) {
        let case = format!("{request:?} · {} sessions, {} deep", load.0, load.1).to_lowercase();
        if !options.wants(&case) {
            continue;
        }
        let mut samples = vec![Vec::new(); sides.len()];
        let mut processor_us = vec![Vec::new(); sides.len()];
        for _ in 0..options.rounds {
            for (place, side) in sides.iter().enumerate() {
                let (duration, before) = (options.seconds(2.0), side.processor_s());
                let sample = measure(side.address, load, request, duration).await?;
                let count = sample.per_second * duration.as_secs_f64();
                let used_s = side.processor_s().zip(before).map(|(after, before)| after - before);
                processor_us[place].push(used_s.map(|used_s| used_s * 1e6 / count));
                samples[place].push(sample);
            }
        }
        let peer = samples.get(1).cloned().unwrap_or_default();
        table.row(&case, &samples[0], &peer);
        let p99 = |samples: &[Sample]| Sample::median(samples).p99_ms;
        let middle =
            |used: Vec<Option<f64>>| used.into_iter().collect::<Option<Vec<f64>>>().map(median);
        beside.push(Beside {
            case,
            p99_ratio: (!peer.is_empty()).then(|| p99(&samples[0]) / p99(&peer)),
            processor_us: processor_us.into_iter().map(middle).collect(),
        });
    }
    for (case, what) in [("watch events", Crowd::Events), ("connect storm", Crowd::Storm)] {
        if options.wants(case) {
            let mut samples = Vec::new();
            for side in sides {
                samples.push(vec![crowd(side.address, what).await?]);
            }
            table.row(case, &samples[0], samples.get(1).map_or(&[], Vec::as_slice));
        }
    }
    table.end();
    Ok(beside)
}

fn print_beside(rows: &[Beside]) {
    println!("| case | p99, share of zookeeper's | processor time a request: proteus, zookeeper |");
    println!("| --- | ---: | ---: |");
    for Beside { case, p99_ratio, processor_us } in rows {
        let figure = |figure: &Option<f64>, unit: &str| {
            figure.map_or_else(|| "–".to_owned(), |figure| format!("{figure:.2}{unit}"))
        };
        let used: Vec<String> = processor_us.iter().map(|used| figure(used, " µs")).collect();
        println!("| {case} | {} | {} |", figure(p99_ratio, ""), used.join(", "));
    }
    println!();
}

/// Fills a tree, kills the server as a power cut would, and starts it again.
async fn recovery(options: &Options, proteus: &Path, side: Side) -> Result<()> {
    let Side { name, address, server: Some(server) } = side else { return Ok(()) };
    let count = options.scaled(FILLED) as usize / FILLERS;
    let (before_mib, began) = (server.resident_mib(), Instant::now());
    let filling: Vec<_> = open(address, FILLERS)
        .await?
        .into_iter()
        .map(|mut session| tokio::spawn(async move { session.create_many(count).await }))
        .collect();
    for filled in filling {
        filled.await.map_err(|error| error.to_string())??;
    }
    let (took, after_mib) = (began.elapsed(), server.resident_mib());
    let directory = server.into_directory().ok_or("the data directory is gone")?;
    let recovered = if name == "proteus" {
        let node = Proteus::start_zookeeper(proteus, directory)?;
        (node.first_answer, node.server.resident_mib())
    } else {
        let (server, took) = start_zookeeper(directory)?.ok_or("ZooKeeper is gone")?;
        (took, server.resident_mib())
    };
    println!(
        "{name}: {} znodes created in {:.1} s; {before_mib:.0} MiB before, {after_mib:.0} MiB with \
         them; killed, the first session after {:.2} s, with {:.0} MiB",
        count * FILLERS,
        took.as_secs_f64(),
        recovered.0.as_secs_f64(),
        recovered.1
    );
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
    let per_second = count as f64 / took.as_secs_f64();
    Ok(Sample { per_second, p50_ms: all_ms, p99_ms: all_ms, p999_ms: all_ms })
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
