//! Compaction, driven directly.

use std::collections::BTreeMap;

use super::*;
use crate::batch::{Record, decode_records};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

fn compacted(extra: &[(&str, &str)]) -> Driver {
    let mut config = vec![("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.1")];
    config.extend_from_slice(extra);
    Driver::with_topic(1, &config)
}

/// A batch of keys with values; `None` is a tombstone.
fn keyed(records: &[(u8, Option<u8>)], timestamp_ms: i64) -> Bytes {
    let record = |(key, value): &(u8, Option<u8>)| NewRecord {
        key: Some(Bytes::copy_from_slice(&[*key])),
        value: value.map(|value| Bytes::copy_from_slice(&[value])),
        headers: vec![("h".into(), None)],
    };
    frame_batch(&records.iter().map(record).collect::<Vec<_>>(), timestamp_ms).unwrap()
}

fn records(driver: &Driver) -> Vec<Record> {
    let (start, end) = driver.bounds();
    let stored = read::read_batches(&driver.store, ID, 0, start, end, ALL).unwrap().here().unwrap();
    let mut records = Vec::new();
    for batch in stored {
        let header = BatchHeader::parse(&batch.bytes).unwrap();
        assert_eq!(crc32c::crc32c(&batch.bytes[21..]), header.crc);
        records
            .extend(decode_records(&batch.bytes, batch.base_offset).unwrap().map(Result::unwrap));
    }
    records
}

fn seen(driver: &Driver) -> Vec<(i64, u8, Option<u8>)> {
    let seen = |record: Record| {
        let key = record.key.unwrap()[0];
        (record.offset, key, record.value.map(|value| value[0]))
    };
    records(driver).into_iter().map(seen).collect()
}

#[test]
fn of_each_key_the_newest_record_stays_where_it_was() {
    let mut driver = compacted(&[]);
    driver.append(keyed(&[(1, Some(1)), (2, Some(2)), (1, Some(3))], 50)).unwrap();
    driver.append(keyed(&[(2, Some(4)), (3, Some(5))], 60)).unwrap();
    driver.append(keyed(&[(1, Some(9))], 70)).unwrap();
    driver.pass_to(driver.now_ms + 15_000);
    // The last batch is left alone, and does not count yet.
    assert_eq!(seen(&driver), [(2, 1, Some(3)), (3, 2, Some(4)), (4, 3, Some(5)), (5, 1, Some(9))]);
    assert_eq!(records(&driver)[0].timestamp_ms, 50);
    assert_eq!(records(&driver)[0].headers.len(), 1);
    assert_eq!(driver.offsets(0, ALL), [0, 3, 5]);
    driver.append(keyed(&[(3, Some(6))], 80)).unwrap();
    driver.pass_to(driver.now_ms + 15_000);
    assert_eq!(seen(&driver), [(3, 2, Some(4)), (4, 3, Some(5)), (5, 1, Some(9)), (6, 3, Some(6))]);
    assert_eq!(driver.bounds(), (0, 7));
    // By time: what went away is passed over.
    let at = |timestamp_ms| driver.at_time(timestamp_ms);
    assert_eq!(at(0), Some((3, 60)));
    assert_eq!(at(65), Some((5, 70)));
}

#[test]
fn tombstones_go_when_they_have_done_their_work() {
    let mut driver = compacted(&[("delete.retention.ms", "1000")]);
    driver.append(keyed(&[(1, Some(1)), (1, None)], 50)).unwrap();
    driver.append(keyed(&[(2, Some(1))], 60)).unwrap();
    driver.pass_to(driver.now_ms + 15_000);
    assert_eq!(seen(&driver), [(1, 1, None), (2, 2, Some(1))]);
    assert_eq!(records(&driver)[0].timestamp_ms, 50, "though its batch has a horizon");
    driver.append(keyed(&[(3, Some(1))], 70)).unwrap();
    driver.pass_to(driver.now_ms + 16_000);
    assert_eq!(seen(&driver), [(2, 2, Some(1)), (3, 3, Some(1))]);
    assert_eq!(driver.offsets(0, ALL), [2, 3]);
}

#[test]
fn a_key_that_changes_for_ever_takes_no_more_room() {
    let mut driver = compacted(&[]);
    let mut counts = Vec::new();
    for value in 0..400u32 {
        driver.append(keyed(&[(1, Some(value as u8))], 100 + i64::from(value))).unwrap();
        if value % 100 == 99 {
            driver.pass_to(driver.now_ms + 15_000);
            counts.push(driver.key_count());
        }
    }
    assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
    let at = |timestamp_ms| driver.at_time(timestamp_ms);
    assert_eq!(at(0), Some((398, 498)));
    assert_eq!(at(499), Some((399, 499)));
    assert_eq!(at(500), None);
}

#[test]
fn lags_and_ratio_decide_when() {
    let mut driver = compacted(&[("min.compaction.lag.ms", "100000")]);
    let now_ms = driver.now_ms as i64;
    driver.append(keyed(&[(1, Some(1)), (1, Some(2))], now_ms)).unwrap();
    driver.append(keyed(&[(2, Some(1))], now_ms)).unwrap();
    driver.pass_to(driver.now_ms + 90_000);
    assert_eq!(seen(&driver).len(), 3);
    driver.pass_to(driver.now_ms + 120_000);
    assert_eq!(seen(&driver).len(), 2);

    let lazy = [("min.cleanable.dirty.ratio", "1"), ("max.compaction.lag.ms", "500000")];
    let mut driver = compacted(&lazy);
    for value in 0..3 {
        driver.append(keyed(&[(1, Some(value))], 1)).unwrap();
    }
    driver.pass_to(driver.now_ms + 20_000);
    driver.append(keyed(&[(1, Some(7))], 1)).unwrap();
    let before = seen(&driver).len();
    driver.pass_to(driver.now_ms + 400_000);
    assert_eq!(seen(&driver).len(), before);
    driver.pass_to(driver.now_ms + 200_000);
    assert_eq!(seen(&driver).len(), 2);
}

#[test]
fn a_topic_that_is_compacted_no_longer_is_left_alone_and_nothing_remains() {
    let mut driver = compacted(&[]);
    let empty = driver.key_count();
    driver.append(keyed(&[(1, Some(1)), (1, Some(2))], 1)).unwrap();
    driver.append(keyed(&[(1, Some(3))], 1)).unwrap();
    // In the midst of a pass: after the first step.
    driver.now_ms += 15_000;
    let applied_ts = CommitTs::from_physical_ms(driver.now_ms);
    let view = View { state: &driver.store, now_ms: driver.now_ms, applied_ts };
    for op in Topic::due(view, 16).unwrap() {
        driver.apply(&op).unwrap();
    }
    let config = BTreeMap::from([("cleanup.policy".to_owned(), Some("delete".to_owned()))]);
    driver.apply(&Op::ConfigureTopic { topic_id: ID, config }).unwrap();
    driver.pass_to(driver.now_ms + 15_000);
    driver.pass_to(driver.now_ms + 8 * DAY_MS);
    assert_eq!(driver.bounds(), (3, 3), "retention has its way");
    assert_eq!(driver.key_count(), empty);
}

#[test]
fn timestamps_of_the_append_replace_the_producers() {
    let mut driver = Driver::with_topic(1, &[("message.timestamp.type", "LogAppendTime")]);
    let now_ms = driver.now_ms as i64;
    let appended = driver.append(batch(3, 5)).unwrap();
    assert_eq!(appended.append_time_ms, Some(now_ms));
    assert!(records(&driver).iter().all(|record| record.timestamp_ms == now_ms));
    assert_eq!(driver.at_time(6), Some((0, now_ms)));
}

proptest! {
    /// Whatever is appended, in and out of transactions, and however often it is compacted: readers
    /// of what is committed find the newest committed record of every key, in the order of the log,
    /// and nothing that was not written; only tombstones may be gone.
    #[test]
    fn the_newest_of_every_key_stays(
        steps in proptest::collection::vec(
            (0u8..12, proptest::collection::vec((0u8..5, proptest::option::of(any::<u8>())), 1..4)),
            1..60,
        ),
        codec in 0i16..5,
    ) {
        let mut driver = compacted(&[("delete.retention.ms", "30000")]);
        let op = Op::InitTransactions {
            transactional_id: "tx".to_owned(), timeout_ms: 600_000, expected: None,
        };
        let Reply::Producer { producer_id, mut epoch } = driver.apply(&op).unwrap() else {
            panic!("another reply");
        };
        let (mut sequence, mut open) = (0i32, Vec::new());
        let mut written: Vec<(i64, u8, Option<u8>)> = Vec::new();
        for (step, drawn) in steps {
            let framed = compress_as(codec, &keyed(&drawn, 5));
            match step {
                0..6 => {
                    let at = driver.append(framed).unwrap().base_offset;
                    written.extend((at..).zip(&drawn).map(|(at, (key, value))| (at, *key, *value)));
                }
                6..9 => {
                    let mut batch = framed.to_vec();
                    batch[22] |= 0x10;
                    batch[43..51].copy_from_slice(&producer_id.to_be_bytes());
                    batch[51..53].copy_from_slice(&epoch.to_be_bytes());
                    batch[53..57].copy_from_slice(&sequence.to_be_bytes());
                    sequence += drawn.len() as i32;
                    let batch = Bytes::from(batch);
                    let op = Op::AppendInTransaction { topic_id: ID, partition: 0, batch, joins: true };
                    let Reply::Appended(appended) = driver.apply(&op).unwrap() else {
                        panic!("another reply");
                    };
                    let at = appended.base_offset;
                    open.extend((at..).zip(&drawn).map(|(at, (key, value))| (at, *key, *value)));
                }
                9 => {
                    let commits = drawn[0].0 % 2 == 0;
                    let producer = TransactionalProducer {
                        transactional_id: "tx".to_owned(), producer_id, epoch,
                    };
                    let op = Op::EndTransaction { producer, commits, bumps_epoch: true };
                    if let Ok(Reply::Producer { epoch: next, .. }) = driver.apply(&op) {
                        (epoch, sequence) = (next, 0);
                        let ended = std::mem::take(&mut open);
                        written.extend(ended.into_iter().filter(|_| commits));
                    }
                }
                // Not so long that an open transaction times out.
                _ => driver.pass_to(driver.now_ms + 16_000),
            }
        }
        driver.pass_to(driver.now_ms + 16_000);
        written.sort_unstable();
        let info = read::partition(&driver.store, ID, 0).unwrap().unwrap();
        let end = info.last_stable_offset;
        written.retain(|(at, ..)| *at < end);
        let aborted = read::aborted_transactions(&driver.store, ID, 0, 0, end).unwrap();
        let mut found = Vec::new();
        let mut bytes = 0;
        for stored in read::read_batches(&driver.store, ID, 0, 0, i64::MAX, ALL).unwrap().here().unwrap() {
            bytes += stored.bytes.len() as u64;
            let header = BatchHeader::parse(&stored.bytes).unwrap();
            let covers = aborted.iter().any(|one| one.covers(&header, stored.base_offset));
            if header.is_control() || covers || stored.base_offset >= end {
                continue;
            }
            for record in decode_records(&stored.bytes, stored.base_offset).unwrap() {
                let record = record.unwrap();
                prop_assert_eq!(record.timestamp_ms, 5);
                let value = record.value.map(|value| value[0]);
                found.push((record.offset, record.key.unwrap()[0], value));
            }
        }
        prop_assert_eq!(bytes, info.bytes);
        prop_assert!(found.is_sorted());
        prop_assert!(found.iter().all(|one| written.contains(one)));
        let mut newest = BTreeMap::new();
        for (at, key, value) in written {
            newest.insert(key, (at, value));
        }
        for (key, (at, value)) in newest {
            let is_there = found.contains(&(at, key, value));
            prop_assert!(is_there || value.is_none(), "key {} at {}", key, at);
        }
    }
}

/// The batch with its records compressed; the machine leaves checksums to those who propose.
fn compress_as(codec: i16, batch: &Bytes) -> Bytes {
    let header = BatchHeader { attributes: codec, ..BatchHeader::parse(batch).unwrap() };
    let records: Vec<Record> = decode_records(batch, 0).unwrap().map(Result::unwrap).collect();
    crate::batch::rebuild_batch(&header, 0, &records, None).unwrap()
}
