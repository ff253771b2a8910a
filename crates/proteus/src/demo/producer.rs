//! Readings into the topic, over the Kafka protocol.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::ProgressBar;
use proteus_env::{Clock, SystemClock};
use rskafka::chrono::{DateTime, Utc};
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::record::Record;

use super::cluster::Ports;
use super::dataset::Dataset;
use super::{PARTITION_COUNT, TOPIC};

/// Readings in one record batch.
const BATCH_READINGS: usize = 1_000;

/// What producing took.
pub(crate) struct Produced {
    pub(crate) events: usize,
    pub(crate) took: Duration,
    pub(crate) latencies: Vec<Duration>,
}

/// The partition that holds a sensor's readings.
pub(crate) fn partition_of(sensor: usize) -> i32 {
    i32::try_from(sensor).unwrap_or(0) % PARTITION_COUNT
}

/// Produces `events` readings, each partition's in order of time.
pub(crate) async fn produce(
    dataset: &Dataset,
    events: usize,
    ports: &Ports,
    clock: &SystemClock,
    bar: &ProgressBar,
) -> Result<Produced, String> {
    let failed = |error: rskafka::client::error::Error| format!("producing failed: {error}");
    let client =
        ClientBuilder::new(vec![ports.kafka().to_string()]).build().await.map_err(failed)?;
    let controller = client.controller_client().map_err(failed)?;
    controller.create_topic(TOPIC, PARTITION_COUNT, 1, 5_000).await.map_err(failed)?;
    let mut partitions: Vec<PartitionClient> = Vec::new();
    for partition in 0..PARTITION_COUNT {
        let handling = UnknownTopicHandling::Retry;
        partitions.push(client.partition_client(TOPIC, partition, handling).await.map_err(failed)?);
    }
    let started = clock.elapsed();
    let mut latencies = Vec::new();
    let mut waiting: Vec<Vec<Record>> = vec![Vec::new(); partitions.len()];
    for number in 0..events {
        let partition = partition_of(dataset.reading(number).sensor) as usize;
        waiting[partition].push(record(dataset, number));
        if waiting[partition].len() == BATCH_READINGS {
            let batch = std::mem::take(&mut waiting[partition]);
            bar.inc(batch.len() as u64);
            send(&partitions[partition], batch, clock, &mut latencies).await?;
        }
    }
    let rest = waiting.into_iter().enumerate().filter(|(_, batch)| !batch.is_empty());
    for (partition, batch) in rest {
        bar.inc(batch.len() as u64);
        send(&partitions[partition], batch, clock, &mut latencies).await?;
    }
    Ok(Produced { events, took: clock.elapsed().saturating_sub(started), latencies })
}

async fn send(
    partition: &PartitionClient,
    batch: Vec<Record>,
    clock: &SystemClock,
    latencies: &mut Vec<Duration>,
) -> Result<(), String> {
    let started = clock.elapsed();
    partition
        .produce(batch, Compression::Lz4)
        .await
        .map_err(|error| format!("producing failed: {error}"))?;
    latencies.push(clock.elapsed().saturating_sub(started));
    Ok(())
}

fn record(dataset: &Dataset, number: usize) -> Record {
    let reading = dataset.reading(number);
    let value = serde_json::json!({
        "sensor": reading.sensor,
        "name": dataset.sensors[reading.sensor],
        "at": reading.time.to_string(),
        "value": reading.value,
    });
    Record {
        key: Some(reading.sensor.to_string().into_bytes()),
        value: Some(value.to_string().into_bytes()),
        headers: BTreeMap::new(),
        timestamp: DateTime::<Utc>::UNIX_EPOCH,
    }
}
