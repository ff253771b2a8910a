//! The worker: consumes the topic under a lock and commits each batch across four faces at once.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Write as _;
use std::time::Duration;

use proteus_env::{Clock, SystemClock, task};
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{PartitionClient, UnknownTopicHandling};
use rskafka::record::RecordAndOffset;
use serde::Deserialize;
use tokio_postgres::NoTls;
use zookeeper_client as zk;

use super::cluster::{HOLDS_LOCK, Ports};
use super::{GROUP, LOCK_DIRECTORY, PARTITION_COUNT, TOPIC, WORKERS_DIRECTORY, offsets};

/// How long a dead worker's lock outlives it.
const SESSION_TIMEOUT: Duration = Duration::from_secs(4);

/// Bytes asked of a partition at once: some thousand readings, as batches are compressed.
const FETCH_BYTES: std::ops::Range<i32> = 1..64 * 1024;

/// Readings in one commit: small enough that a commit is quick and a crash repeats little.
const COMMIT_READINGS_MAX: usize = 1_000;

/// How long the broker may wait for more.
const FETCH_WAIT_MS: i32 = 200;

/// Where the worker finds its node.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Added to every face's standard port.
    pub port_offset: u16,
}

#[derive(Deserialize)]
struct Reading {
    sensor: usize,
    at: String,
    value: i64,
}

/// Runs until it is killed or something fails.
///
/// # Errors
/// If a face refuses or the node is gone.
pub async fn run_worker(options: &WorkerOptions) -> Result<(), String> {
    let ports = Ports::at(options.port_offset);
    let zookeeper = connect_zookeeper(&ports).await?;
    let acls = zk::Acls::anyone_all();
    let parents = zk::CreateMode::Persistent.with_acls(acls);
    let failed = |error: zk::Error| format!("zookeeper: {error}");
    zookeeper.mkdir(WORKERS_DIRECTORY, &parents).await.map_err(failed)?;
    let znode = format!("{WORKERS_DIRECTORY}/worker-{}", std::process::id());
    let ephemeral = zk::CreateMode::Ephemeral.with_acls(acls);
    zookeeper.create(&znode, b"consuming", &ephemeral).await.map_err(failed)?;
    let prefix = zk::LockPrefix::new_curator(LOCK_DIRECTORY, "lock-").map_err(failed)?;
    let lock_options = zk::LockOptions::new(acls).with_ancestor_options(parents).map_err(failed)?;
    // A worker that died holds the lock until its session expires; this waits for that.
    let lock = zookeeper.lock(prefix, znode.as_bytes(), lock_options).await.map_err(failed)?;
    tell(HOLDS_LOCK)?;
    consume(&ports, lock.lock_path()).await
}

async fn connect_zookeeper(ports: &Ports) -> Result<zk::Client, String> {
    zk::Client::connector()
        .with_session_timeout(SESSION_TIMEOUT)
        .connect(&ports.zookeeper().to_string())
        .await
        .map_err(|error| format!("zookeeper: {error}"))
}

async fn consume(ports: &Ports, lock_path: &str) -> Result<(), String> {
    let failed = |error: rskafka::client::error::Error| format!("kafka: {error}");
    let kafka =
        ClientBuilder::new(vec![ports.kafka().to_string()]).build().await.map_err(failed)?;
    let postgres = connect_postgres(ports).await?;
    let clock = SystemClock::new();
    let committed = offsets::committed(ports.kafka(), GROUP, TOPIC, PARTITION_COUNT).await?;
    let mut partitions: Vec<(PartitionClient, i64)> = Vec::new();
    for (partition, offset) in (0..PARTITION_COUNT).zip(committed) {
        let handling = UnknownTopicHandling::Retry;
        let client = kafka.partition_client(TOPIC, partition, handling).await.map_err(failed)?;
        partitions.push((client, offset));
    }
    loop {
        let mut is_idle = true;
        for (client, committed) in &mut partitions {
            let (records, _) = client
                .fetch_records((*committed).max(0), FETCH_BYTES, FETCH_WAIT_MS)
                .await
                .map_err(failed)?;
            for batch in records.chunks(COMMIT_READINGS_MAX) {
                let Some(last) = batch.last() else { continue };
                is_idle = false;
                let next = last.offset + 1;
                let statements =
                    commit_statements(lock_path, client.partition(), *committed, next, batch)?;
                let started = clock.elapsed();
                postgres
                    .batch_execute(&statements)
                    .await
                    .map_err(|error| format!("the commit was refused: {}", describe(&error)))?;
                let took = clock.elapsed().saturating_sub(started);
                tell(&format!("{} {}", batch.len(), took.as_micros()))?;
                *committed = next;
            }
        }
        if is_idle {
            task::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// One transaction: rows, daily totals, newest readings and the consumer's offset, fenced by the
/// lock and by the offset that the last commit left.
fn commit_statements(
    lock_path: &str,
    partition: i32,
    committed: i64,
    next: i64,
    records: &[RecordAndOffset],
) -> Result<String, String> {
    let mut rows = String::new();
    let mut days: BTreeMap<(usize, String), (i64, i64)> = BTreeMap::new();
    let mut newest: BTreeMap<usize, Reading> = BTreeMap::new();
    for record in records {
        let value = record.record.value.as_deref().unwrap_or_default();
        let reading: Reading = serde_json::from_slice(value)
            .map_err(|error| format!("offset {} holds no reading: {error}", record.offset))?;
        let comma = if rows.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(rows, "{comma}({},'{}',{})", reading.sensor, reading.at, reading.value);
        let day = reading.at.split(' ').next().unwrap_or_default().to_owned();
        let total = days.entry((reading.sensor, day)).or_default();
        *total = (total.0 + 1, total.1 + reading.value);
        newest.insert(reading.sensor, reading);
    }
    let totals: Vec<String> = days
        .iter()
        .map(|((sensor, day), (count, total))| format!("({sensor},'{day}',{count},{total})"))
        .collect();
    // Kafka says -1 where nothing was committed; in SQL that is NULL.
    let expected = if committed < 0 { "NULL".to_owned() } else { committed.to_string() };
    let mut statements = format!(
        "BEGIN;\n\
         CALL zookeeper.check_exists('{lock_path}');\n\
         CALL kafka.check_offset('{GROUP}', '{TOPIC}', {partition}, {expected});\n\
         INSERT INTO readings (sensor, at, value) VALUES {rows};\n\
         INSERT INTO daily (sensor, day, readings, total) VALUES {} \
         ON CONFLICT (sensor, day) DO UPDATE SET readings = daily.readings + excluded.readings, total = daily.total + excluded.total;\n",
        totals.join(",")
    );
    for (sensor, Reading { at, value, .. }) in newest {
        let _ = writeln!(
            statements,
            "CALL redis.hset('newest:{sensor}', 'at', '{at}', 'value', '{value}');"
        );
    }
    let _ = write!(
        statements,
        "CALL kafka.commit_offset('{GROUP}', '{TOPIC}', {partition}, {next});\nCOMMIT;"
    );
    Ok(statements)
}

/// A connection to the PostgreSQL face.
pub(super) async fn connect_postgres(ports: &Ports) -> Result<tokio_postgres::Client, String> {
    let address = ports.postgres();
    let parameters =
        format!("host={} port={} user=demo dbname=proteus", address.ip(), address.port());
    let (client, connection) = tokio_postgres::connect(&parameters, NoTls)
        .await
        .map_err(|error| format!("postgres: {}", describe(&error)))?;
    task::spawn(async move {
        // When it ends, every call of the client says so.
        let _ = connection.await;
    });
    Ok(client)
}

/// What the server said, rather than that it said something.
pub(super) fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => format!("{} ({})", said.message(), said.code().code()),
        None => error.to_string(),
    }
}

/// Tells the demo: [`HOLDS_LOCK`], or of a commit its rows and microseconds.
fn tell(line: &str) -> Result<(), String> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| format!("nobody listens: {error}"))
}
