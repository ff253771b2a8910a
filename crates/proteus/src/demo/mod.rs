//! The main job: what six systems do today, through real clients over real sockets.
//!
//! ```text
//!  readings ─Kafka─▶ topic ─Kafka─▶ worker ─PostgreSQL: one commit─▶ rows, daily totals,
//!                                     │                              newest reading in Redis,
//!                      lock, liveness │                              consumer's offset
//!                                 ZooKeeper
//! ```
//! Half-way the worker and the node are killed with SIGKILL and started again. At the end every face
//! is asked, and all must tell the same story, to the row.

mod cluster;
mod dataset;
mod offsets;
mod producer;
mod report;
mod verify;
mod worker;

use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use proteus_env::random::random_u64;
use proteus_env::{Clock, SystemClock, task};

use crate::cli::{print, stop_signal};
use cluster::{Lifetime, NodeProcess, Ports, WorkerProcess};
use dataset::Dataset;
use report::Report;
pub use worker::{WorkerOptions, run_worker};

/// The topic that readings are produced to.
pub(crate) const TOPIC: &str = "pedestrians";
/// Its partitions; a sensor's readings are all in one.
pub(crate) const PARTITION_COUNT: i32 = 4;
/// The consumer group whose offsets the commits advance.
pub(crate) const GROUP: &str = "daily-totals";
/// The directory of the worker's lock.
pub(crate) const LOCK_DIRECTORY: &str = "/locks/daily-totals";
/// The directory of workers' ephemeral znodes.
pub(crate) const WORKERS_DIRECTORY: &str = "/workers";

/// Longest wait for any one step before the demo gives up.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);

/// What to run.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// Readings to send; beyond a year's the year repeats.
    pub events: Option<usize>,
    /// Keep the data directory and leave the node running at the end.
    pub keep: bool,
}

/// Runs the demo and says whether every invariant held.
///
/// # Errors
/// If a step could not be carried out.
pub async fn run(options: &DemoOptions) -> Result<bool, String> {
    let dataset = Dataset::load()?;
    let events = options.events.unwrap_or(dataset.len());
    let ports = Ports::free()?;
    let directory = std::env::temp_dir().join(format!("proteus-demo-{:016x}", random_u64()));
    let mut report = Report::new(events, dataset.sensors.len().min(events));
    print(&report.opening(&directory))?;

    let lifetime = if options.keep { Lifetime::Kept } else { Lifetime::WithDemo };
    let mut node = match NodeProcess::start(&directory, &ports, lifetime) {
        Ok(node) => node,
        Err(error) => {
            remove(directory).await;
            return Err(error);
        }
    };
    let signal = stop_signal().map_err(|error| error.to_string())?;
    let outcome = tokio::select! {
        outcome = job(&dataset, events, &ports, &mut node, &mut report) => outcome,
        signal = signal => Err(format!("stopped by {signal}; its processes and data are removed")),
    };
    let told = match &outcome {
        Ok(checks) => print(&report.closing(checks)),
        Err(_) => Ok(()),
    };
    if options.keep && outcome.is_ok() {
        let process = node.leave_running();
        print(&report.left_running(&ports, process, &directory))?;
    } else {
        node.kill().await;
        remove(directory).await;
    }
    told?;
    Ok(outcome?.iter().all(|check| check.held))
}

async fn job(
    dataset: &Dataset,
    events: usize,
    ports: &Ports,
    node: &mut NodeProcess,
    report: &mut Report,
) -> Result<Vec<verify::Check>, String> {
    let clock = SystemClock::new();
    node.ready().await?;
    print(&report.started(node.ready_after()))?;
    let bar = progress_bar(events, "produce");
    let produced = producer::produce(dataset, events, ports, &clock, &bar).await?;
    bar.finish_and_clear();
    print(&report.produced(&produced))?;

    verify::create_tables(dataset, ports).await?;
    let bar = progress_bar(events, "commit");
    let started = clock.elapsed();
    let mut worker = WorkerProcess::start(ports)?;
    worker.holds_lock().await?;
    wait_for_rows(ports, &mut worker, events / 2, &bar).await?;

    report.peak_memory(node.peak_memory_bytes());
    worker.kill().await;
    node.kill().await;
    let acknowledged_rows = worker.committed_rows();
    bar.suspend(|| print(&report.killed(acknowledged_rows)))?;
    node.restart()?;
    node.ready().await?;
    let found_rows = verify::count_rows(ports).await?;
    bar.suspend(|| print(&report.recovered(node.ready_after(), found_rows)))?;
    if (found_rows as u64) < acknowledged_rows {
        return Err(format!(
            "lost acknowledged rows: {acknowledged_rows} were committed, {found_rows} are there"
        ));
    }
    let mut latencies = worker.commit_latencies();
    let mut worker = WorkerProcess::start(ports)?;
    worker.holds_lock().await?;
    wait_for_rows(ports, &mut worker, events, &bar).await?;
    bar.finish_and_clear();
    latencies.extend(worker.commit_latencies());
    print(&report.consumed(clock.elapsed().saturating_sub(started), latencies))?;

    let checks = verify::every_face(dataset, events, ports, &worker).await?;
    report.peak_memory(node.peak_memory_bytes());
    worker.kill().await;
    Ok(checks)
}

/// Waits until the worker has committed `rows` rows in all, as SQL tells.
async fn wait_for_rows(
    ports: &Ports,
    worker: &mut WorkerProcess,
    rows: usize,
    bar: &ProgressBar,
) -> Result<(), String> {
    let clock = SystemClock::new();
    let mut last_change = (clock.elapsed(), 0);
    loop {
        let found = verify::count_rows(ports).await?;
        bar.set_position(found as u64);
        if found >= rows {
            return Ok(());
        }
        if found != last_change.1 {
            last_change = (clock.elapsed(), found);
        }
        if clock.elapsed().saturating_sub(last_change.0) > STEP_TIMEOUT {
            return Err(format!(
                "the worker has made no progress for {STEP_TIMEOUT:?}, at {found} rows"
            ));
        }
        worker.check_alive()?;
        task::sleep(Duration::from_millis(20)).await;
    }
}

fn progress_bar(events: usize, doing: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(events as u64);
    let style = ProgressStyle::with_template(
        "  {msg:8} {bar:40} {human_pos}/{human_len}  {per_sec}  {eta} left",
    );
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.set_message(doing);
    bar
}

async fn remove(directory: PathBuf) {
    let removed =
        task::spawn_blocking(move || proteus_env::disk::remove_directory(&directory)).await;
    if !matches!(removed, Ok(Ok(()))) {
        eprintln!("the demo's data directory could not be removed");
    }
}
