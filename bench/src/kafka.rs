//! Produce and consume over the Kafka protocol, beside what the disk alone does.

mod wire;

use std::fs::File;
use std::io::{Seek, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rskafka::client::ClientBuilder;

use crate::measure::{Sample, Table, count};
use crate::processes::{KAFKA, Proteus};
use crate::{Options, Result};
use wire::Connection;

/// Requests that a producer has under way, as most clients do.
const IN_FLIGHT: usize = 5;
/// Bytes of all batches in a request of large ones, as the largest that clients send by default.
const REQUEST_BYTES: usize = 1_000_000;
/// Records of a small batch.
const SMALL_BATCH: usize = 10;

/// What is produced.
#[derive(Clone, Copy)]
struct Load {
    record_bytes: usize,
    /// Or such as fill a request.
    has_small_batches: bool,
    partitions: usize,
}

impl Load {
    fn all() -> impl Iterator<Item = Load> {
        [100, 1_000].into_iter().flat_map(|record_bytes| {
            [false, true].into_iter().flat_map(move |has_small_batches| {
                [1, 100].into_iter().map(move |partitions| Load {
                    record_bytes,
                    has_small_batches,
                    partitions,
                })
            })
        })
    }

    /// Records in a batch.
    fn batch_records(&self) -> usize {
        if self.has_small_batches {
            return SMALL_BATCH;
        }
        (REQUEST_BYTES / self.partitions / (self.record_bytes + 8)).max(1)
    }

    fn name(&self) -> String {
        let Load { record_bytes, partitions, .. } = self;
        format!("{record_bytes} B · batches of {} · {partitions} partitions", self.batch_records())
    }
}

fn failed(error: rskafka::client::error::Error) -> String {
    format!("kafka: {error}")
}

async fn create_topic(address: SocketAddr, name: &str, partitions: usize) -> Result<()> {
    let client = ClientBuilder::new(vec![address.to_string()]).build().await.map_err(failed)?;
    let controller = client.controller_client().map_err(failed)?;
    let partitions = i32::try_from(partitions).unwrap_or(1);
    controller.create_topic(name, partitions, 1, 5_000).await.map_err(failed)
}

pub(crate) async fn run(options: &Options, proteus: &Path) -> Result<()> {
    println!("Kafka: there is no package of the real one here to measure beside.\n");
    for durability in options.durabilities() {
        throughput(options, proteus, durability).await?;
        latency(options, proteus, durability).await?;
    }
    memory(options, proteus).await?;
    disk_limit(options)
}

/// One producer, with and without a consumer that follows it; then one that reads all from the start.
async fn throughput(
    options: &Options,
    proteus: &Path,
    durability: crate::processes::Durability,
) -> Result<()> {
    println!(
        "### Kafka: one producer, {IN_FLIGHT} requests under way, durability {}\n",
        durability.name()
    );
    println!(
        "| case | produced /s | MiB/s | node's processor, µs a MiB | ns a record | beside a tailing consumer /s | µs a MiB | read from the start MiB/s | µs a MiB |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for (number, load) in Load::all().enumerate() {
        if !options.wants(&load.name()) {
            continue;
        }
        let ours = Proteus::start(proteus, options.temporary()?, durability)?;
        let address = ours.face(KAFKA);
        let mut alone = Vec::new();
        let mut beside = Vec::new();
        let mut reread = Vec::new();
        for round in 0..options.rounds {
            let topic = format!("bench-{number}-{round}");
            create_topic(address, &topic, load.partitions).await?;
            let duration = options.seconds(3.0);
            let processor = || ours.server.processor_s();
            alone.push(Rate::of(load, processor, || produce(address, &topic, load, duration))?);
            reread.push(Rate::of(load, processor, || read_all(address, &topic, load))?);
            let topic = format!("bench-{number}-{round}-tailed");
            create_topic(address, &topic, load.partitions).await?;
            let tail = Tail::start(address, &topic, load.partitions)?;
            beside.push(Rate::of(load, processor, || produce(address, &topic, load, duration))?);
            tail.stop()?;
        }
        let (alone, beside, reread) =
            (Rate::median(alone), Rate::median(beside), Rate::median(reread));
        println!(
            "| {} | {} | {:.0} | {:.0} | {:.0} | {} | {:.0} | {:.0} | {:.0} |",
            load.name(),
            count(alone.records_per_second),
            alone.mib_per_second,
            alone.processor_us_per_mib,
            alone.processor_us_per_mib * load.record_bytes as f64 * 1000.0 / f64::from(1 << 20),
            count(beside.records_per_second),
            beside.processor_us_per_mib,
            reread.mib_per_second,
            reread.processor_us_per_mib,
        );
    }
    println!();
    Ok(())
}

#[derive(Clone, Copy)]
struct Rate {
    records_per_second: f64,
    mib_per_second: f64,
    processor_us_per_mib: f64,
}

impl Rate {
    /// Of what `work` does, which returns the number of records.
    fn of(
        load: Load,
        processor_s: impl Fn() -> f64,
        work: impl FnOnce() -> Result<u64>,
    ) -> Result<Rate> {
        let (started, before_s) = (Instant::now(), processor_s());
        let records = work()? as f64;
        let (elapsed_s, used_s) = (started.elapsed().as_secs_f64(), processor_s() - before_s);
        let mib = records * load.record_bytes as f64 / f64::from(1 << 20);
        Ok(Rate {
            records_per_second: records / elapsed_s,
            mib_per_second: mib / elapsed_s,
            processor_us_per_mib: used_s * 1e6 / mib,
        })
    }

    fn median(rates: Vec<Rate>) -> Rate {
        let of =
            |figure: fn(&Rate) -> f64| crate::measure::median(rates.iter().map(figure).collect());
        Rate {
            records_per_second: of(|rate| rate.records_per_second),
            mib_per_second: of(|rate| rate.mib_per_second),
            processor_us_per_mib: of(|rate| rate.processor_us_per_mib),
        }
    }
}

/// Appends as fast as it is answered: the number of records. A request has a batch for every partition
/// if batches are large, and goes to one partition after the other if they are small.
fn produce(address: SocketAddr, topic: &str, load: Load, duration: Duration) -> Result<u64> {
    let batch = wire::batch(load.batch_records(), load.record_bytes);
    let partitions: Vec<i32> = (0..load.partitions as i32).collect();
    let partitions_of_request = if load.has_small_batches { 1 } else { load.partitions };
    let mut requests: Vec<Vec<u8>> = partitions
        .chunks(partitions_of_request)
        .map(|partitions| wire::produce_request(topic, partitions, &batch))
        .collect();
    let mut connection = Connection::open(address)?;
    let started = Instant::now();
    let (mut sent, mut answered) = (0, 0);
    while started.elapsed() < duration || answered < sent {
        if sent - answered < IN_FLIGHT && started.elapsed() < duration {
            let place = sent % requests.len();
            connection.send(&mut requests[place])?;
            sent += 1;
        } else {
            connection.produced()?;
            answered += 1;
        }
    }
    Ok((answered * partitions_of_request * load.batch_records()) as u64)
}

/// Reads all partitions from their start to their end: the number of records.
fn read_all(address: SocketAddr, topic: &str, load: Load) -> Result<u64> {
    let mut connection = Connection::open(address)?;
    let mut offsets = vec![0; load.partitions];
    let mut records = 0;
    loop {
        let before = records;
        connection.fetch(topic, &mut offsets, &mut |count, _, _| records += count)?;
        if records == before {
            return Ok(records);
        }
    }
}

/// A consumer that follows the end of a topic.
struct Tail {
    is_stopping: Arc<AtomicBool>,
    consumed: Arc<AtomicU64>,
    /// When each batch arrived after the time that it bears, in microseconds since `epoch`.
    thread: JoinHandle<Result<Vec<Duration>>>,
}

impl Tail {
    fn start(address: SocketAddr, topic: &str, partitions: usize) -> Result<Tail> {
        Tail::since(Instant::now(), address, topic, partitions)
    }

    fn since(epoch: Instant, address: SocketAddr, topic: &str, partitions: usize) -> Result<Tail> {
        let is_stopping = Arc::new(AtomicBool::new(false));
        let consumed = Arc::new(AtomicU64::new(0));
        let mut connection = Connection::open(address)?;
        let topic = topic.to_owned();
        let (stopping, counter) = (is_stopping.clone(), consumed.clone());
        let thread = thread::spawn(move || {
            let mut offsets = vec![0; partitions];
            let mut latencies = Vec::new();
            while !stopping.load(Ordering::Acquire) {
                connection.fetch(&topic, &mut offsets, &mut |count, _, timestamp| {
                    counter.fetch_add(count, Ordering::AcqRel);
                    if let Ok(sent_us @ 1..) = u64::try_from(timestamp) {
                        let sent = Duration::from_micros(sent_us);
                        latencies.push(epoch.elapsed().saturating_sub(sent));
                    }
                })?;
            }
            Ok(latencies)
        });
        Ok(Tail { is_stopping, consumed, thread })
    }

    fn stop(self) -> Result<Vec<Duration>> {
        self.is_stopping.store(true, Ordering::Release);
        self.thread.join().map_err(|_| "the consumer panicked".to_owned())?
    }
}

/// Batches of 1 KB records that the latency is measured with, and how many a second.
const LATENCY_LOADS: &[(usize, u32)] = &[(1, 100), (1, 1_000), (10, 1_000), (100, 500)];

/// From before a batch is sent to when a consumer has it, at fixed rates.
async fn latency(
    options: &Options,
    proteus: &Path,
    durability: crate::processes::Durability,
) -> Result<()> {
    let title =
        format!("Kafka: from producer to tailing consumer, durability {}", durability.name());
    let ours = Proteus::start(proteus, options.temporary()?, durability)?;
    let address = ours.face(KAFKA);
    let table = Table::begin(&title, None);
    for (number, (records, per_second)) in LATENCY_LOADS.iter().enumerate() {
        let case = format!("{per_second} batches/s of {records} records of 1000 B");
        if !options.wants(&case) {
            continue;
        }
        let mut samples = Vec::new();
        for round in 0..options.rounds {
            let topic = format!("latency-{number}-{round}");
            create_topic(address, &topic, 1).await?;
            let epoch = Instant::now();
            let tail = Tail::since(epoch, address, &topic, 1)?;
            let sent =
                produce_at(epoch, address, &topic, (*records, *per_second), options.seconds(5.0))?;
            while tail.consumed.load(Ordering::Acquire) < sent {
                thread::sleep(Duration::from_millis(1));
            }
            samples.push(Sample::of(tail.stop()?, epoch.elapsed()));
        }
        table.row(&case, &samples, &[]);
    }
    table.end();
    Ok(())
}

/// Sends a batch whenever it is time, whether or not those before were answered: the number of records.
/// Batches bear the time at which they were to be sent.
fn produce_at(
    epoch: Instant,
    address: SocketAddr,
    topic: &str,
    (records, per_second): (usize, u32),
    duration: Duration,
) -> Result<u64> {
    let mut batch = wire::batch(records, 1_000);
    let mut connection = Connection::open(address)?;
    let interval = Duration::from_secs(1) / per_second;
    let mut at = epoch.elapsed() + interval;
    let (mut sent, mut answered) = (0, 0);
    while epoch.elapsed() < duration {
        thread::sleep(at.saturating_sub(epoch.elapsed()));
        wire::set_timestamp(&mut batch, i64::try_from(at.as_micros()).unwrap_or(i64::MAX));
        connection.send(&mut wire::produce_request(topic, &[0], &batch))?;
        sent += 1;
        at += interval;
        // What the socket holds of answers is little; the rest is read while there is time.
        while sent - answered > 32 {
            connection.produced()?;
            answered += 1;
        }
    }
    while answered < sent {
        connection.produced()?;
        answered += 1;
    }
    Ok((sent * records) as u64)
}

/// Resident memory, after more and more is stored.
async fn memory(options: &Options, proteus: &Path) -> Result<()> {
    println!("### Kafka: resident memory by what is stored\n");
    println!("| stored MiB | resident MiB |\n| ---: | ---: |");
    let load = Load { record_bytes: 1_000, has_small_batches: false, partitions: 1 };
    let ours =
        Proteus::start(proteus, options.temporary()?, crate::processes::Durability::Relaxed)?;
    let address = ours.face(KAFKA);
    create_topic(address, "memory", 1).await?;
    let mut stored = 0.0;
    println!("| 0 | {:.0} |", ours.server.resident_mib());
    for _ in 0..5 {
        let records = produce(address, "memory", load, options.seconds(4.0))?;
        stored += records as f64 * load.record_bytes as f64 / f64::from(1 << 20);
        println!("| {stored:.0} | {:.0} |", ours.server.resident_mib());
    }
    println!();
    Ok(())
}

/// What the disk gives to one writer that flushes every write: the ceiling of anything durable. A
/// file that grows takes the file system's journal with it; space that is already there does not.
fn disk_limit(options: &Options) -> Result<()> {
    let table = Table::begin("The disk alone: sequential write and fdatasync", None);
    for write_bytes in [256, 4 * 1024, 128 * 1024, 1024 * 1024] {
        for reserve in [false, true] {
            let mut samples = Vec::new();
            for _ in 0..options.rounds {
                samples.push(flush_writes(options, write_bytes, reserve)?);
            }
            let per_second = Sample::median(&samples).per_second;
            let mib = per_second * write_bytes as f64 / f64::from(1 << 20);
            let file = if reserve { "into zeros written before" } else { "growing file" };
            table.row(&format!("{write_bytes} B · {file} ({mib:.1} MiB/s)"), &samples, &[]);
        }
    }
    table.end();
    Ok(())
}

/// Zeros that stand in the file before it is written.
const RESERVED_BYTES: usize = 64 << 20;

fn flush_writes(options: &Options, write_bytes: usize, reserve: bool) -> Result<Sample> {
    let io = |error: std::io::Error| format!("the disk: {error}");
    let directory = options.temporary()?;
    let mut file = File::create(directory.path().join("written")).map_err(io)?;
    if reserve {
        file.write_all(&vec![0; RESERVED_BYTES]).and_then(|()| file.sync_all()).map_err(io)?;
        file.rewind().map_err(io)?;
    }
    let bytes = vec![b'x'; write_bytes];
    let mut latencies = Vec::new();
    let started = Instant::now();
    while started.elapsed() < options.seconds(1.0) {
        if reserve && (latencies.len() + 1) * write_bytes > RESERVED_BYTES {
            break;
        }
        let begun = Instant::now();
        file.write_all(&bytes).and_then(|()| file.sync_data()).map_err(io)?;
        latencies.push(begun.elapsed());
    }
    Ok(Sample::of(latencies, started.elapsed()))
}
