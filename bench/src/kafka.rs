//! Produce and consume over the Kafka protocol, beside what the disk alone does.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rskafka::chrono::{DateTime, Utc};
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::record::Record;

use crate::measure::{Sample, Table, count};
use crate::processes::{KAFKA, Proteus};
use crate::{Options, Result, load};

const RECORD_BYTES: usize = 100;

/// Records in a request, and requests under way at once, each to a partition of its own.
const LOADS: &[(usize, usize)] = &[(1, 1), (1, 16), (1_000, 1), (1_000, 8)];

const FETCH_BYTES: std::ops::Range<i32> = 1..4 * 1024 * 1024;

fn failed(error: rskafka::client::error::Error) -> String {
    format!("kafka: {error}")
}

pub(crate) async fn run(options: &Options, proteus: &Path) -> Result<()> {
    println!("Kafka: there is no package of the real one here to measure beside.\n");
    for durability in options.durabilities() {
        let ours = Proteus::start(proteus, options.temporary()?, durability)?;
        let client = ClientBuilder::new(vec![ours.face(KAFKA).to_string()]);
        let client = client.build().await.map_err(failed)?;
        let table = Table::begin(
            &format!("Kafka: requests per second, durability {}", durability.name()),
            None,
        );
        let mut consumed_mib = Vec::new();
        for (number, (records, in_flight)) in LOADS.iter().enumerate() {
            let case =
                format!("produce · {records} records of {RECORD_BYTES} B · {in_flight} in flight");
            if !options.wants(&case) {
                continue;
            }
            let topic = format!("bench-{number}");
            let partition_count = i32::try_from(*in_flight).unwrap_or(1);
            let controller = client.controller_client().map_err(failed)?;
            controller.create_topic(&topic, partition_count, 1, 5_000).await.map_err(failed)?;
            let mut partitions = Vec::new();
            for partition in 0..partition_count {
                let handling = UnknownTopicHandling::Retry;
                let partition = client.partition_client(&topic, partition, handling).await;
                partitions.push(Arc::new(partition.map_err(failed)?));
            }
            let mut samples = Vec::new();
            for _ in 0..options.rounds {
                let duration = options.seconds(2.0);
                samples.push(produce(&partitions, *records, duration).await?);
            }
            let mib = Sample::median(&samples).per_second * (records * RECORD_BYTES) as f64
                / f64::from(1 << 20);
            table.row(&format!("{case} ({mib:.1} MiB/s)"), &samples, &[]);
            if *records > 1 {
                consumed_mib.push(consume(partitions, options.seconds(2.0)).await?);
            }
        }
        table.end();
        for (mib_per_second, records_per_second) in consumed_mib {
            println!(
                "consume, all partitions from the start: {mib_per_second:.0} MiB/s, {} records/s",
                count(records_per_second)
            );
        }
        println!();
    }
    disk_limit(options)
}

async fn produce(
    partitions: &[Arc<PartitionClient>],
    records: usize,
    duration: Duration,
) -> Result<Sample> {
    let record = Record {
        key: None,
        value: Some(vec![b'x'; RECORD_BYTES]),
        headers: BTreeMap::new(),
        timestamp: DateTime::<Utc>::UNIX_EPOCH,
    };
    let batch = vec![record; records];
    let (sample, _) = load::closed_loop(
        partitions.to_vec(),
        duration,
        move |partition: Arc<PartitionClient>, _| {
            let batch = batch.clone();
            async move {
                let result = partition.produce(batch, Compression::NoCompression).await;
                (partition, result.map(drop).map_err(failed))
            }
        },
    )
    .await?;
    Ok(sample)
}

/// Reads partitions from their start, all at once, to their end or for `duration`: MiB and records
/// per second.
async fn consume(partitions: Vec<Arc<PartitionClient>>, duration: Duration) -> Result<(f64, f64)> {
    let started = Instant::now();
    let mut tasks = Vec::new();
    for partition in partitions {
        tasks.push(tokio::spawn(async move {
            let mut offset = 0;
            while started.elapsed() < duration {
                let (records, high_watermark) =
                    partition.fetch_records(offset, FETCH_BYTES, 100).await.map_err(failed)?;
                let Some(last) = records.last() else { break };
                offset = last.offset + 1;
                if offset >= high_watermark {
                    break;
                }
            }
            Ok::<_, String>(offset)
        }));
    }
    let mut record_count = 0.0;
    for task in tasks {
        record_count += task.await.map_err(|error| error.to_string())?? as f64;
    }
    let per_second = record_count / started.elapsed().as_secs_f64();
    Ok((per_second * RECORD_BYTES as f64 / f64::from(1 << 20), per_second))
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
