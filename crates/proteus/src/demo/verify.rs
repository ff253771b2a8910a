//! Asking every face, and comparing.

use std::collections::BTreeMap;

use rskafka::client::ClientBuilder;
use rskafka::client::partition::{OffsetAt, UnknownTopicHandling};

use super::cluster::{Ports, WorkerProcess};
use super::dataset::{Dataset, Reading};
use super::producer::partition_of;
use super::report::counted;
use super::worker::{connect_postgres, describe};
use super::{GROUP, PARTITION_COUNT, TOPIC, WORKERS_DIRECTORY, offsets};

/// Rows of an answer that people see.
const BUSIEST_SHOWN: usize = 3;

/// Longest claim shown, when what was found is far from what was expected.
const CLAIM_CHARACTERS_MAX: usize = 400;

/// One invariant and what was found.
pub(crate) struct Check {
    pub(crate) face: &'static str,
    pub(crate) claim: String,
    pub(crate) held: bool,
    /// Some of what the face returned, for people.
    pub(crate) answer: Vec<String>,
}

impl Check {
    fn equal<T: PartialEq + std::fmt::Debug>(
        face: &'static str,
        claim: impl Into<String>,
        found: &T,
        expected: &T,
    ) -> Check {
        let held = found == expected;
        let mut claim = claim.into();
        if !held {
            let differs = format!("{claim}: found {found:?}, expected {expected:?}");
            claim = differs.chars().take(CLAIM_CHARACTERS_MAX).collect();
        }
        Check { face, claim, held, answer: Vec::new() }
    }

    fn answering(self, answer: Vec<String>) -> Check {
        Check { answer, ..self }
    }
}

/// What one sensor's readings add up to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct SensorTotal {
    readings: i64,
    total: i64,
}

impl SensorTotal {
    /// The mean in thousandths, rounded: exact enough to compare, coarse enough for a sum of floats.
    fn mean_thousandths(&self) -> i64 {
        (self.total as f64 / self.readings.max(1) as f64 * 1000.0).round() as i64
    }
}

/// What the readings say, computed here without any face.
struct Expected {
    sensors: BTreeMap<i32, SensorTotal>,
    days: BTreeMap<(i32, String), SensorTotal>,
    /// By sensor and hour of the day.
    hours: BTreeMap<(i32, i32), SensorTotal>,
    newest: BTreeMap<i32, Reading>,
    partitions: Vec<i64>,
}

fn expected(dataset: &Dataset, events: usize) -> Expected {
    let mut expected = Expected {
        sensors: BTreeMap::new(),
        days: BTreeMap::new(),
        hours: BTreeMap::new(),
        newest: BTreeMap::new(),
        partitions: vec![0; usize::try_from(PARTITION_COUNT).unwrap_or(0)],
    };
    for number in 0..events {
        let reading = dataset.reading(number);
        let sensor = i32::try_from(reading.sensor).unwrap_or(i32::MAX);
        for total in [
            expected.sensors.entry(sensor).or_default(),
            expected.days.entry((sensor, reading.time.date())).or_default(),
            expected.hours.entry((sensor, reading.time.hour_of_day())).or_default(),
        ] {
            total.readings += 1;
            total.total += reading.value;
        }
        if let Some(count) = expected.partitions.get_mut(partition_of(reading.sensor) as usize) {
            *count += 1;
        }
        expected.newest.insert(sensor, reading);
    }
    expected
}

/// Makes the tables, over the PostgreSQL protocol.
pub(crate) async fn create_tables(dataset: &Dataset, ports: &Ports) -> Result<(), String> {
    let postgres = connect_postgres(ports).await?;
    let names: Vec<String> = dataset
        .sensors
        .iter()
        .enumerate()
        .map(|(sensor, name)| format!("({sensor},'{}')", name.replace('\'', "''")))
        .collect();
    let statements = format!(
        "CREATE TABLE sensors (id int PRIMARY KEY, name text NOT NULL);\n\
         CREATE TABLE readings (sensor int, at timestamp, value bigint NOT NULL, PRIMARY KEY (sensor, at));\n\
         CREATE TABLE daily (sensor int, day date, readings bigint NOT NULL, total bigint NOT NULL, PRIMARY KEY (sensor, day));\n\
         INSERT INTO sensors (id, name) VALUES {};",
        names.join(",")
    );
    postgres
        .batch_execute(&statements)
        .await
        .map_err(|error| format!("cannot create the tables: {}", describe(&error)))
}

/// Rows committed so far. It sums the daily table, which is small.
pub(crate) async fn count_rows(ports: &Ports) -> Result<usize, String> {
    let postgres = connect_postgres(ports).await?;
    let row = postgres
        .query_one("SELECT CAST(COALESCE(SUM(readings), 0) AS BIGINT) FROM daily", &[])
        .await
        .map_err(|error| format!("cannot count the rows: {}", describe(&error)))?;
    usize::try_from(row.get::<_, i64>(0)).map_err(|_| "a negative count of rows".to_owned())
}

/// Asks every face and compares the answers with the readings, and so with each other.
pub(crate) async fn every_face(
    dataset: &Dataset,
    events: usize,
    ports: &Ports,
    worker: &WorkerProcess,
) -> Result<Vec<Check>, String> {
    let expected = expected(dataset, events);
    let mut checks = postgres_checks(ports, &expected).await?;
    checks.push(redis_check(ports, &expected).await?);
    checks.extend(kafka_checks(ports, &expected).await?);
    checks.push(zookeeper_check(ports, worker).await?);
    Ok(checks)
}

async fn postgres_checks(ports: &Ports, expected: &Expected) -> Result<Vec<Check>, String> {
    let postgres = connect_postgres(ports).await?;
    let failed = |error: tokio_postgres::Error| format!("SQL failed: {}", describe(&error));
    let sums = "SELECT sensor, COUNT(*), CAST(SUM(value) AS BIGINT) FROM readings GROUP BY sensor";
    let mut sensors = BTreeMap::new();
    for row in postgres.query(sums, &[]).await.map_err(failed)? {
        let total = SensorTotal { readings: row.get(1), total: row.get(2) };
        sensors.insert(row.get::<_, i32>(0), total);
    }
    let by_day = "SELECT sensor, CAST(day AS TEXT), readings, total FROM daily";
    let mut days = BTreeMap::new();
    for row in postgres.query(by_day, &[]).await.map_err(failed)? {
        let total = SensorTotal { readings: row.get(2), total: row.get(3) };
        days.insert((row.get::<_, i32>(0), row.get::<_, String>(1)), total);
    }
    let differing = "SELECT COUNT(*) FROM (SELECT sensor, CAST(at AS DATE) AS day, COUNT(*) AS n, SUM(value) AS s \
         FROM readings GROUP BY sensor, CAST(at AS DATE)) r FULL JOIN daily d ON r.sensor = d.sensor AND r.day = d.day \
         WHERE d.readings IS NULL OR r.n IS NULL OR r.n <> d.readings OR r.s <> d.total";
    let differing: i64 = postgres.query_one(differing, &[]).await.map_err(failed)?.get(0);
    let (hours, busiest) = hourly_means(&postgres).await?;
    let wanted_hours: BTreeMap<(i32, i32), i64> =
        expected.hours.iter().map(|(hour, total)| (*hour, total.mean_thousandths())).collect();
    let rows: i64 = sensors.values().map(|total| total.readings).sum();
    let rows = counted(usize::try_from(rows).unwrap_or(0), "row");
    let day_count = counted(days.len(), "daily total");
    let hour_count = counted(hours.len(), "hourly mean");
    Ok(vec![
        Check::equal(
            "postgres",
            format!("{rows} in readings; per sensor, count and sum are those of the data"),
            &sensors,
            &expected.sensors,
        ),
        Check::equal(
            "postgres",
            format!("{day_count} in daily, each that of the data"),
            &days,
            &expected.days,
        ),
        Check::equal(
            "postgres",
            format!("{hour_count} by SELECT sensor, hour, AVG(value) ... GROUP BY; the busiest:"),
            &hours,
            &wanted_hours,
        )
        .answering(busiest),
        Check::equal("postgres", "rows and daily totals agree, joined by SQL", &differing, &0),
    ])
}

/// Each sensor's mean of each hour of the day, in thousandths, and the busiest for people.
async fn hourly_means(
    postgres: &tokio_postgres::Client,
) -> Result<(BTreeMap<(i32, i32), i64>, Vec<String>), String> {
    let query = "SELECT r.sensor, CAST(EXTRACT(HOUR FROM r.at) AS int) AS hour, \
         CAST(AVG(r.value) AS double precision) AS mean, s.name \
         FROM readings r JOIN sensors s ON s.id = r.sensor \
         GROUP BY r.sensor, s.name, CAST(EXTRACT(HOUR FROM r.at) AS int) ORDER BY mean DESC, r.sensor";
    let rows = postgres
        .query(query, &[])
        .await
        .map_err(|error| format!("SQL failed: {}", describe(&error)))?;
    let mut means = BTreeMap::new();
    let mut busiest = Vec::new();
    for row in rows {
        let (sensor, hour, mean): (i32, i32, f64) = (row.get(0), row.get(1), row.get(2));
        if busiest.len() < BUSIEST_SHOWN {
            let name: String = row.get(3);
            busiest.push(format!("{name:<28} {hour:02}:00  {mean:>9.1}"));
        }
        means.insert((sensor, hour), (mean * 1000.0).round() as i64);
    }
    Ok((means, busiest))
}

async fn redis_check(ports: &Ports, expected: &Expected) -> Result<Check, String> {
    let failed = |error: redis::RedisError| format!("redis: {error}");
    let client = redis::Client::open(format!("redis://{}/", ports.redis())).map_err(failed)?;
    let mut connection = client.get_multiplexed_async_connection().await.map_err(failed)?;
    let mut found = BTreeMap::new();
    let mut wanted = BTreeMap::new();
    for (sensor, reading) in &expected.newest {
        let hash: BTreeMap<String, String> = redis::cmd("HGETALL")
            .arg(format!("newest:{sensor}"))
            .query_async(&mut connection)
            .await
            .map_err(failed)?;
        found.insert(*sensor, hash);
        let fields = [("at", reading.time.to_string()), ("value", reading.value.to_string())];
        wanted.insert(*sensor, fields.map(|(field, value)| (field.to_owned(), value)).into());
    }
    let claim = format!(
        "{} with each sensor's newest reading, by HGETALL; the first:",
        if found.len() == 1 { "1 hash".to_owned() } else { format!("{} hashes", found.len()) }
    );
    let first = found.iter().next().map(|(sensor, hash)| {
        let fields: Vec<String> =
            hash.iter().map(|(field, value)| format!("{field} \"{value}\"")).collect();
        format!("newest:{sensor}  {}", fields.join("  "))
    });
    let answer = first.into_iter().collect();
    Ok(Check::equal("redis", claim, &found, &wanted).answering(answer))
}

async fn kafka_checks(ports: &Ports, expected: &Expected) -> Result<Vec<Check>, String> {
    let failed = |error: rskafka::client::error::Error| format!("kafka: {error}");
    let client =
        ClientBuilder::new(vec![ports.kafka().to_string()]).build().await.map_err(failed)?;
    let mut ends = Vec::new();
    for partition in 0..PARTITION_COUNT {
        let handling = UnknownTopicHandling::Error;
        let partition =
            client.partition_client(TOPIC, partition, handling).await.map_err(failed)?;
        ends.push(partition.get_offset(OffsetAt::Latest).await.map_err(failed)?);
    }
    let committed = offsets::committed(ports.kafka(), GROUP, TOPIC, PARTITION_COUNT).await?;
    let records: i64 = ends.iter().sum();
    let records = counted(usize::try_from(records).unwrap_or(0), "record");
    // Nothing is committed where nothing was produced.
    let at_ends: Vec<i64> = ends.iter().map(|end| if *end == 0 { -1 } else { *end }).collect();
    Ok(vec![
        Check::equal(
            "kafka",
            format!("{records} in {PARTITION_COUNT} partitions, none lost or duplicated"),
            &ends,
            &expected.partitions,
        ),
        Check::equal(
            "kafka",
            "the group's committed offsets stand at the ends: each reading counted once",
            &committed,
            &at_ends,
        )
        .answering(vec![format!("ends {ends:?}  committed {committed:?}")]),
    ])
}

async fn zookeeper_check(ports: &Ports, worker: &WorkerProcess) -> Result<Check, String> {
    let failed = |error: zookeeper_client::Error| format!("zookeeper: {error}");
    let address = ports.zookeeper().to_string();
    let client = zookeeper_client::Client::connect(&address).await.map_err(failed)?;
    let found = client.list_children(WORKERS_DIRECTORY).await.map_err(failed)?;
    let wanted = vec![format!("worker-{}", worker.id().unwrap_or(0))];
    let claim = "the living worker's ephemeral znode is there, the killed one's is gone";
    let answer = vec![format!("ls {WORKERS_DIRECTORY}  {}", found.join(" "))];
    Ok(Check::equal("zookeeper", claim, &found, &wanted).answering(answer))
}
