//! Time to the first answer, memory and processor time at rest.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::measure::{count, median, version};
use crate::processes::{Durability, POSTGRES, Proteus, Server, start_redis, start_zookeeper};
use crate::{Options, Result, load, postgres};

/// Small keys written before the node is killed.
const KEYS: u64 = 1_000_000;

/// Rows of a table, likewise.
const ROWS: u64 = 1_000_000;

/// Over how long processor time at rest is observed.
const REST: Duration = Duration::from_secs(5);

/// Medians of one server.
#[derive(Default)]
struct Figures {
    start_empty_ms: Vec<f64>,
    resident_mib: Vec<f64>,
    processor_percent: Vec<f64>,
    fill_s: Vec<f64>,
    filled_resident_mib: Vec<f64>,
    start_filled_ms: Vec<f64>,
    start_with_rows_ms: Vec<f64>,
}

pub(crate) async fn run(options: &Options, proteus: &Path) -> Result<()> {
    let keys = options.scaled(KEYS);
    let (mut ours, mut redis) = (Figures::default(), Figures::default());
    let mut zookeeper = Figures::default();
    for _ in 0..options.rounds {
        measure_ours(options, proteus, keys, &mut ours)?;
        measure_rows(options, proteus, options.scaled(ROWS), &mut ours).await?;
        measure_redis(options, keys, &mut redis)?;
        if let Some((server, took)) = start_zookeeper(options.temporary()?)? {
            zookeeper.start_empty_ms.push(milliseconds(took));
            rest(&server, &mut zookeeper);
        }
    }
    println!("### Start and rest\n");
    if let Some(version) = version("redis-server", &["--version"]) {
        println!("redis is {version}\n");
    }
    println!("| figure | proteus (all faces) | redis | zookeeper |");
    println!("| --- | ---: | ---: | ---: |");
    let row = |name: &str, figure: fn(&Figures) -> &Vec<f64>, unit: &str| {
        let cell = |figures: &Figures| match figure(figures).as_slice() {
            [] => "–".to_owned(),
            all => format!("{:.1} {unit}", median(all.to_vec())),
        };
        println!("| {name} | {} | {} | {} |", cell(&ours), cell(&redis), cell(&zookeeper));
    };
    let keys = count(keys as f64);
    row("empty directory: start to first answer", |f| &f.start_empty_ms, "ms");
    row("at rest: resident memory", |f| &f.resident_mib, "MiB");
    row("at rest: processor time", |f| &f.processor_percent, "% of a core");
    row(&format!("writing {keys} small keys, every batch flushed"), |f| &f.fill_s, "s");
    row(&format!("with {keys} keys: resident memory"), |f| &f.filled_resident_mib, "MiB");
    row("killed with kill -9: start to first answer", |f| &f.start_filled_ms, "ms");
    let rows = count(options.scaled(ROWS) as f64);
    row(
        &format!("killed with {rows} rows of a table: start to first SELECT answered"),
        |f| &f.start_with_rows_ms,
        "ms",
    );
    println!();
    Ok(())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Memory and processor time of a server that nobody asks anything.
fn rest(server: &Server, figures: &mut Figures) {
    // What the start leaves behind settles first.
    std::thread::sleep(Duration::from_secs(1));
    let before_s = server.processor_s();
    std::thread::sleep(REST);
    let used_s = server.processor_s() - before_s;
    figures.processor_percent.push(used_s / REST.as_secs_f64() * 100.0);
    figures.resident_mib.push(server.resident_mib());
}

fn fill(server: &Server, keys: u64, figures: &mut Figures) -> Result<()> {
    let started = Instant::now();
    load::fill_redis(server.address, keys)?;
    figures.fill_s.push(started.elapsed().as_secs_f64());
    figures.filled_resident_mib.push(server.resident_mib());
    Ok(())
}

fn measure_ours(options: &Options, binary: &Path, keys: u64, figures: &mut Figures) -> Result<()> {
    let node = Proteus::start(binary, options.temporary()?, Durability::Flushed)?;
    figures.start_empty_ms.push(milliseconds(node.first_answer));
    rest(&node.server, figures);
    fill(&node.server, keys, figures)?;
    let directory = node.server.into_directory().ok_or("the data directory is gone")?;
    let node = Proteus::start(binary, directory, Durability::Flushed)?;
    figures.start_filled_ms.push(milliseconds(node.first_answer));
    Ok(())
}

async fn measure_rows(
    options: &Options,
    binary: &Path,
    rows: u64,
    figures: &mut Figures,
) -> Result<()> {
    let node = Proteus::start(binary, options.temporary()?, Durability::Flushed)?;
    postgres::fill(node.face(POSTGRES), i64::try_from(rows).unwrap_or(i64::MAX)).await?;
    let directory = node.server.into_directory().ok_or("the data directory is gone")?;
    let started = Instant::now();
    let node = Proteus::start(binary, directory, Durability::Flushed)?;
    postgres::read_one(node.face(POSTGRES)).await?;
    figures.start_with_rows_ms.push(milliseconds(started.elapsed()));
    Ok(())
}

fn measure_redis(options: &Options, keys: u64, figures: &mut Figures) -> Result<()> {
    let Some((server, took)) = start_redis(options.temporary()?, Durability::Flushed)? else {
        return Ok(());
    };
    figures.start_empty_ms.push(milliseconds(took));
    rest(&server, figures);
    fill(&server, keys, figures)?;
    let directory = server.into_directory().ok_or("the data directory is gone")?;
    if let Some((_server, took)) = start_redis(directory, Durability::Flushed)? {
        figures.start_filled_ms.push(milliseconds(took));
    }
    Ok(())
}
