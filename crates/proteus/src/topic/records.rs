//! `proteus topic produce` and `consume`, and what they share with `mirror`.

use std::io::{BufRead, IsTerminal, Write};

use bytes::Bytes;
use indicatif::ProgressBar;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{FetchRequest, ListOffsetsRequest, ProduceRequest, TopicName};
use proteus_env::{Clock, SystemClock};
use proteus_kernel_api::topic::batch::{
    BatchHeader, NewRecord, Record, decode_records, frame_batch, partition_of_key,
};

use super::client::{Cluster, call, check, text};
use crate::progress::progress;

/// Bytes of records that one fetch asks for.
const FETCH_BYTES_MAX: i32 = 8 * 1024 * 1024;
/// How long a fetch waits for records, in milliseconds.
const FETCH_WAIT_MS: i32 = 500;
/// Records and bytes of one produced batch.
const BATCH_RECORDS_MAX: usize = 1_000;
const BATCH_BYTES_MAX: usize = 512 * 1024;
/// How long a produce may take, in milliseconds.
const PRODUCE_TIMEOUT_MS: i32 = 30_000;

/// Special timestamps of ListOffsets.
pub(super) const LATEST: i64 = -1;
pub(super) const EARLIEST: i64 = -2;

/// The offset of a partition at a time, or one of the special ones; -1 if there is none.
pub(super) async fn offset_at(
    cluster: &mut Cluster,
    topic: &str,
    (partition, leader): (i32, i32),
    timestamp: i64,
) -> Result<i64, String> {
    let wanted =
        ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(timestamp);
    let wanted =
        ListOffsetsTopic::default().with_name(TopicName(text(topic))).with_partitions(vec![wanted]);
    let request =
        ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![wanted]);
    let response = call!(cluster, Some(leader), ListOffsets, 2, request)?;
    let found = response.topics.first().and_then(|topic| topic.partitions.first());
    let found = found.ok_or_else(|| format!("no answer about {topic}-{partition}"))?;
    check(found.error_code, &format!("offsets of {topic}-{partition}"))?;
    Ok(found.offset)
}

/// What of a partition stands from an offset on, of what is committed.
pub(super) async fn fetch(
    cluster: &mut Cluster,
    topic: &str,
    (partition, leader): (i32, i32),
    offset: i64,
) -> Result<PartitionData, String> {
    let wanted = FetchPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(offset)
        .with_log_start_offset(-1)
        .with_partition_max_bytes(FETCH_BYTES_MAX);
    let wanted =
        FetchTopic::default().with_topic(TopicName(text(topic))).with_partitions(vec![wanted]);
    let request = FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(FETCH_WAIT_MS)
        .with_min_bytes(1)
        .with_max_bytes(FETCH_BYTES_MAX)
        .with_isolation_level(1)
        .with_session_epoch(-1)
        .with_topics(vec![wanted]);
    let response = call!(cluster, Some(leader), Fetch, 11, request)?;
    check(response.error_code, "fetch")?;
    let found = response.responses.into_iter().next();
    let found = found.and_then(|topic| topic.partitions.into_iter().next());
    let found = found.ok_or_else(|| format!("no answer about {topic}-{partition}"))?;
    check(found.error_code, &format!("{topic}-{partition} at offset {offset}"))?;
    Ok(found)
}

/// The whole batches of a fetch, each with its header, without those of aborted transactions, and
/// without markers unless they are wanted; and the offset after the last. A fetch may end within a
/// batch, which is left out.
pub(super) fn committed_batches(
    data: &PartitionData,
    offset: i64,
    with_markers: bool,
) -> Result<(Vec<(BatchHeader, Bytes)>, i64), String> {
    let mut bytes = data.records.clone().unwrap_or_default();
    let mut next = offset;
    let mut aborted: Vec<(i64, i64)> = Vec::new();
    for one in data.aborted_transactions.iter().flatten() {
        aborted.push((one.producer_id.0, one.first_offset));
    }
    let mut batches = Vec::new();
    while let Some(length) = whole_batch(&bytes) {
        let batch = bytes.split_to(length);
        let header = BatchHeader::parse(&batch).map_err(|error| error.to_string())?;
        let base_offset = header.base_offset;
        next = next.max(header.end_offset(base_offset));
        if header.is_control() {
            // The marker ends the transaction: what its producer wrote later is another one.
            aborted.retain(|(producer, first)| {
                *producer != header.producer_id || *first > base_offset
            });
            if with_markers && base_offset >= offset {
                batches.push((header, batch));
            }
            continue;
        }
        let is_aborted = header.is_transactional()
            && aborted
                .iter()
                .any(|(producer, first)| *producer == header.producer_id && *first <= base_offset);
        if !is_aborted && header.end_offset(base_offset) > offset {
            batches.push((header, batch));
        }
    }
    Ok((batches, next))
}

/// Length of the first batch, if it is there to its end.
fn whole_batch(bytes: &Bytes) -> Option<usize> {
    let length = i32::from_be_bytes(bytes.get(8..12)?.try_into().ok()?);
    let length = usize::try_from(length).ok()?.checked_add(12)?;
    bytes.get(..length).map(|_| length)
}

/// Appends a batch; the offset where it stands.
pub(super) async fn append(
    cluster: &mut Cluster,
    topic: &str,
    (partition, leader): (i32, i32),
    batch: Bytes,
) -> Result<i64, String> {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch));
    let data = TopicProduceData::default()
        .with_name(TopicName(text(topic)))
        .with_partition_data(vec![data]);
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(PRODUCE_TIMEOUT_MS)
        .with_topic_data(vec![data]);
    let response = call!(cluster, Some(leader), Produce, 8, request)?;
    let found = response.responses.first().and_then(|topic| topic.partition_responses.first());
    let found = found.ok_or_else(|| format!("no answer about {topic}-{partition}"))?;
    let why = found.error_message.as_deref().unwrap_or_default();
    check(found.error_code, &format!("{topic}-{partition}: {why}"))?;
    Ok(found.base_offset)
}

/// Sends each line of standard input as a record.
pub(super) async fn produce(
    cluster: &mut Cluster,
    topic: &str,
    partition: Option<i32>,
    key_separator: Option<&str>,
) -> Result<(), String> {
    let leaders = cluster.leaders(topic).await?;
    let count = u32::try_from(leaders.len()).unwrap_or(u32::MAX);
    let bar = progress(None, "records");
    let mut batches: Vec<(Vec<NewRecord>, usize)> = vec![Default::default(); leaders.len()];
    let mut next_without_key = 0;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| format!("standard input: {error}"))?;
        let split = key_separator.and_then(|separator| line.split_once(separator));
        let (key, value) = match split {
            Some((key, value)) => (Some(Bytes::from(key.to_owned())), value.to_owned()),
            None => (None, line),
        };
        let place = match (partition, &key) {
            (Some(partition), _) => leaders.iter().position(|(index, _)| *index == partition),
            (None, Some(key)) => usize::try_from(partition_of_key(Some(key), count)).ok(),
            (None, None) => {
                next_without_key = (next_without_key + 1) % leaders.len().max(1);
                Some(next_without_key)
            }
        };
        let batch = place.and_then(|place| batches.get_mut(place));
        let batch = batch.ok_or_else(|| format!("topic '{topic}' has no such partition"))?;
        batch.1 += value.len() + key.as_ref().map_or(0, Bytes::len);
        let value = Some(Bytes::from(value));
        batch.0.push(NewRecord { key, value, headers: Vec::new() });
        if batch.0.len() >= BATCH_RECORDS_MAX || batch.1 >= BATCH_BYTES_MAX {
            let full = std::mem::take(batch);
            if let Some(leader) = place.and_then(|place| leaders.get(place)) {
                send(cluster, topic, *leader, &full.0, &bar).await?;
            }
        }
    }
    for (leader, (records, _)) in leaders.iter().zip(&batches) {
        send(cluster, topic, *leader, records, &bar).await?;
    }
    let sent = bar.position();
    bar.finish_and_clear();
    crate::cli::print(&format!("{sent} records produced to {topic}\n"))
}

async fn send(
    cluster: &mut Cluster,
    topic: &str,
    leader: (i32, i32),
    records: &[NewRecord],
    bar: &ProgressBar,
) -> Result<(), String> {
    let now_ms = i64::try_from(SystemClock::new().wall_ms()).unwrap_or(i64::MAX);
    if let Some(batch) = frame_batch(records, now_ms) {
        append(cluster, topic, leader, batch).await?;
        bar.inc(records.len() as u64);
    }
    Ok(())
}

/// From where a consumer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    Earliest,
    Latest,
    Offset(i64),
    AtMs(i64),
}

impl std::str::FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<From, String> {
        let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= 0);
        match text {
            "earliest" => Ok(From::Earliest),
            "latest" => Ok(From::Latest),
            _ => match text.strip_prefix('@') {
                Some(at_ms) => number(at_ms).map(From::AtMs),
                None => number(text).map(From::Offset),
            }
            .ok_or_else(|| {
                "earliest, latest, an offset, or @MILLISECONDS since the Unix epoch".to_owned()
            }),
        }
    }
}

impl From {
    /// The offset in a partition; the end where nothing is as late as asked for.
    pub(super) async fn resolve(
        self,
        cluster: &mut Cluster,
        topic: &str,
        leader: (i32, i32),
    ) -> Result<i64, String> {
        let timestamp = match self {
            From::Offset(offset) => return Ok(offset),
            From::Earliest => EARLIEST,
            From::Latest => LATEST,
            From::AtMs(at_ms) => at_ms,
        };
        match offset_at(cluster, topic, leader, timestamp).await? {
            -1 => offset_at(cluster, topic, leader, LATEST).await,
            offset => Ok(offset),
        }
    }
}

/// What `consume` prints.
#[derive(Debug, Clone, Copy)]
pub(super) struct Printing {
    pub with_keys: bool,
    pub with_places: bool,
    pub follows: bool,
    pub count_max: u64,
}

/// Prints records of one partition or all, to the end that was there at the start, or on and on.
pub(super) async fn consume(
    cluster: &mut Cluster,
    topic: &str,
    partition: Option<i32>,
    from: From,
    printing: Printing,
) -> Result<(), String> {
    let mut leaders = cluster.leaders(topic).await?;
    leaders.retain(|(index, _)| partition.is_none_or(|partition| *index == partition));
    if leaders.is_empty() {
        return Err(format!("topic '{topic}' has no such partition"));
    }
    let mut places = Vec::with_capacity(leaders.len());
    for leader in leaders {
        let start = from.resolve(cluster, topic, leader).await?;
        let end = offset_at(cluster, topic, leader, LATEST).await?;
        places.push((leader, start, end));
    }
    // Where records go to the terminal, progress would be in their way.
    let bar = if std::io::stdout().is_terminal() {
        ProgressBar::hidden()
    } else {
        let length =
            places.iter().map(|(_, start, end)| (end - start).max(0).cast_unsigned()).sum();
        progress((!printing.follows).then_some(length), "records")
    };
    let mut left = printing.count_max;
    let mut out = std::io::BufWriter::new(std::io::stdout());
    loop {
        let mut is_done = true;
        for (leader, offset, end) in &mut places {
            if left == 0 || (!printing.follows && *offset >= *end) {
                continue;
            }
            is_done = false;
            let data = fetch(cluster, topic, *leader, *offset).await?;
            let (batches, next) = committed_batches(&data, *offset, false)?;
            if batches.is_empty() && next == *offset && !printing.follows {
                // What is left up to the end is a transaction that is still open, or gone.
                *offset = *end;
            }
            for (header, batch) in batches {
                let records = decode_records(&batch, header.base_offset);
                for record in records.map_err(|error| error.to_string())? {
                    let record = record.map_err(|error| error.to_string())?;
                    if record.offset < *offset || left == 0 {
                        continue;
                    }
                    left -= 1;
                    print_record(&mut out, leader.0, &record, printing)
                        .map_err(|error| error.to_string())?;
                    bar.inc(1);
                }
            }
            *offset = next.max(*offset);
        }
        out.flush().map_err(|error| error.to_string())?;
        if is_done {
            break;
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn print_record(
    out: &mut impl Write,
    partition: i32,
    record: &Record,
    printing: Printing,
) -> std::io::Result<()> {
    if printing.with_places {
        write!(out, "{partition}\t{}\t{}\t", record.offset, record.timestamp_ms)?;
    }
    if printing.with_keys {
        out.write_all(record.key.as_deref().unwrap_or_default())?;
        out.write_all(b"\t")?;
    }
    out.write_all(record.value.as_deref().unwrap_or_default())?;
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        for (text, from) in [
            ("earliest", From::Earliest),
            ("latest", From::Latest),
            ("7", From::Offset(7)),
            ("@1700000000000", From::AtMs(1_700_000_000_000)),
        ] {
            assert_eq!(text.parse(), Ok(from));
        }
        for text in ["", "-1", "@", "@-5", "soon"] {
            assert!(text.parse::<From>().is_err(), "{text}");
        }
    }

    #[test]
    fn half_a_batch_at_the_end_is_left_for_the_next_fetch() {
        let batch = frame_batch(&[NewRecord::default(), NewRecord::default()], 1).unwrap();
        let bytes = [&batch[..], &batch[..40]].concat();
        let data = PartitionData::default().with_records(Some(bytes.into()));
        let (batches, next) = committed_batches(&data, 0, false).unwrap();
        assert_eq!((batches.len(), next), (1, 2));
    }
}
