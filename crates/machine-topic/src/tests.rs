use proptest::prelude::*;
use proteus_machine::Position;
use proteus_store::{LayeredStore, Read, State};
use proteus_types::{CommitTs, LogIndex, Term};

use super::batch::{BatchHeader, NewRecord, frame_batch};
use super::read::ReadLimit;
use super::*;

const ID: TopicId = TopicId([7; 16]);

/// The machine over a store in memory, as a shard drives it.
struct Driver {
    store: LayeredStore,
    now_ms: u64,
    index: u64,
    term: Term,
    changes: Vec<Change>,
}

impl Driver {
    fn new() -> Driver {
        Driver {
            store: LayeredStore::in_memory(),
            now_ms: 1_000_000,
            index: 0,
            term: Term(1),
            changes: vec![],
        }
    }

    fn with_topic(partition_count: u32, config: &[(&str, &str)]) -> Driver {
        let mut driver = Driver::new();
        let config = config.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = config.collect();
        let create =
            Op::CreateTopic { name: "t".to_owned(), topic_id: ID, partition_count, config };
        driver.apply(&create).unwrap();
        driver
    }

    fn position(&mut self) -> Position {
        self.index += 1;
        let commit_ts = CommitTs::from_physical_ms(self.now_ms);
        Position::new(proteus_types::ShardId::META, self.term, LogIndex(self.index), commit_ts)
    }

    fn apply(&mut self, op: &Op) -> Result<Reply, Refusal> {
        let position = self.position();
        self.store.savepoint();
        let mut emit = |change| self.changes.push(change);
        let result = Topic::apply(&mut Ctx::new(&mut self.store, position, &mut emit), op);
        match result {
            Ok(reply) => Ok(reply),
            Err(Abort::Refused(refusal)) => {
                self.store.rollback();
                Err(refusal)
            }
            Err(Abort::Fault(error)) => panic!("{error}"),
        }
    }

    fn check(&mut self, check: &Check) -> Result<(), Refusal> {
        let position = self.position();
        let mut emit = |_| {};
        match Topic::check(&mut Ctx::new(&mut self.store, position, &mut emit), check) {
            Ok(()) => Ok(()),
            Err(Abort::Refused(refusal)) => Err(refusal),
            Err(Abort::Fault(error)) => panic!("{error}"),
        }
    }

    fn append(&mut self, batch: Bytes) -> Result<Appended, Refusal> {
        match self.apply(&Op::Append { topic_id: ID, partition: 0, batch })? {
            Reply::Appended(appended) => Ok(appended),
            other => panic!("{other:?}"),
        }
    }

    /// Proposes what is due until nothing is.
    fn pass_to(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        for _ in 0..1_000 {
            let applied_ts = CommitTs::from_physical_ms(self.now_ms);
            let view = View { state: &self.store, now_ms: self.now_ms, applied_ts };
            let due = Topic::due(view, 16).unwrap();
            if due.is_empty() {
                return;
            }
            for op in due {
                self.apply(&op).unwrap();
            }
        }
        panic!("something is due for ever");
    }

    fn offsets(&self, offset: i64, limit: ReadLimit) -> Vec<i64> {
        let batches = read::read_batches(&self.store, ID, 0, offset, i64::MAX, limit)
            .unwrap()
            .here()
            .unwrap();
        batches.iter().map(|batch| batch.base_offset).collect()
    }

    fn at_time(&self, timestamp_ms: i64) -> Option<(i64, i64)> {
        match read::offset_at_time(&self.store, ID, 0, timestamp_ms).unwrap() {
            Some(read::AtTime::Record(offset, at_ms)) => Some((offset, at_ms)),
            None => None,
            Some(other) => panic!("{other:?}"),
        }
    }

    fn bounds(&self) -> (i64, i64) {
        let info = read::partition(&self.store, ID, 0).unwrap().unwrap();
        (info.log_start_offset, info.high_watermark)
    }

    fn key_count(&self) -> usize {
        let mut count = 0;
        self.store
            .scan_prefix(&[Topic::SPACE], &mut |_, _| {
                count += 1;
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        count
    }
}

fn batch(count: usize, timestamp_ms: i64) -> Bytes {
    let record = NewRecord { value: Some(Bytes::from_static(b"value")), ..NewRecord::default() };
    frame_batch(&vec![record; count], timestamp_ms).unwrap()
}

fn numbered(count: usize, producer_id: i64, epoch: i16, sequence: i32) -> Bytes {
    let mut bytes = batch(count, 5).to_vec();
    bytes[43..51].copy_from_slice(&producer_id.to_be_bytes());
    bytes[51..53].copy_from_slice(&epoch.to_be_bytes());
    bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
    Bytes::from(bytes)
}

mod compaction;
mod shares;
mod tiering;
mod transactions;

const ALL: ReadLimit = ReadLimit::Bytes(usize::MAX);

#[test]
fn batches_stand_one_after_the_other_and_stay_as_they_were() {
    let mut driver = Driver::with_topic(1, &[]);
    let sent = [batch(3, 1), batch(1, 2), batch(5, 3)];
    let offsets: Vec<i64> =
        sent.iter().map(|batch| driver.append(batch.clone()).unwrap().base_offset).collect();
    assert_eq!(offsets, [0, 3, 4]);
    assert_eq!(driver.bounds(), (0, 9));
    let stored =
        read::read_batches(&driver.store, ID, 0, 0, i64::MAX, ALL).unwrap().here().unwrap();
    assert!(stored.iter().map(|batch| &batch.bytes).eq(&sent));
    let appended = Change::Appended {
        topic_id: ID,
        partition: 0,
        high_watermark: 9,
        bytes: sent[2].len() as u64,
    };
    assert_eq!(driver.changes.last(), Some(&appended));
}

#[test]
fn a_read_begins_with_the_batch_that_holds_the_offset() {
    let mut driver = Driver::with_topic(1, &[]);
    for _ in 0..4 {
        driver.append(batch(3, 1)).unwrap();
    }
    let length = batch(3, 1).len();
    assert_eq!(driver.offsets(0, ALL), [0, 3, 6, 9]);
    assert_eq!(driver.offsets(5, ALL), [3, 6, 9]);
    assert_eq!(driver.offsets(6, ReadLimit::Bytes(2 * length)), [6, 9]);
    assert_eq!(driver.offsets(3, ReadLimit::Bytes(2 * length - 1)), [3]);
    assert_eq!(driver.offsets(3, ReadLimit::Bytes(1)), [0; 0]);
    assert_eq!(driver.offsets(3, ReadLimit::BytesOrFirst(1)), [3]);
    assert_eq!(driver.offsets(12, ReadLimit::BytesOrFirst(1)), [0; 0]);
}

#[test]
fn a_producers_batches_are_written_once_and_in_order() {
    let mut driver = Driver::with_topic(1, &[]);
    let at = |base_offset, is_duplicate| {
        Ok(Appended { base_offset, log_start_offset: 0, append_time_ms: None, is_duplicate })
    };
    assert_eq!(driver.append(numbered(2, 9, 0, 0)), at(0, false));
    assert_eq!(driver.append(numbered(1, 9, 0, 2)), at(2, false));
    assert_eq!(driver.append(numbered(2, 9, 0, 0)), at(0, true));
    let gap = driver.append(numbered(1, 9, 0, 4)).unwrap_err();
    assert!(matches!(gap, Refusal::OutOfOrderSequence { expected: 3, found: 4, .. }));
    assert_eq!(driver.append(numbered(1, 8, 0, 100)), at(3, false));
    let gap = driver.append(numbered(1, 9, 1, 3)).unwrap_err();
    assert!(matches!(gap, Refusal::OutOfOrderSequence { expected: 0, .. }));
    assert_eq!(driver.append(numbered(1, 9, 1, 0)), at(4, false));
    let stale = driver.append(numbered(1, 9, 0, 3)).unwrap_err();
    assert!(matches!(stale, Refusal::StaleProducerEpoch { current: 1, found: 0, .. }));
    assert_eq!(driver.bounds(), (0, 5));
}

#[test]
fn sequences_wrap_and_only_the_last_five_batches_are_recognised() {
    let mut driver = Driver::with_topic(1, &[]);
    driver.append(numbered(2, 9, 0, i32::MAX - 1)).unwrap();
    for sequence in 0..5 {
        driver.append(numbered(1, 9, 0, sequence)).unwrap();
    }
    assert!(driver.append(numbered(1, 9, 0, 0)).unwrap().is_duplicate);
    assert!(driver.append(numbered(2, 9, 0, i32::MAX - 1)).is_err());
    let header = BatchHeader::parse(&numbered(3, 9, 0, i32::MAX)).unwrap();
    assert_eq!(header.last_sequence(), 1);
}

#[test]
fn producer_ids_are_given_once_and_idle_producers_are_forgotten() {
    let mut driver = Driver::with_topic(1, &[]);
    assert_eq!(driver.apply(&Op::AllocateProducerId), Ok(Reply::ProducerId(0)));
    assert_eq!(driver.apply(&Op::AllocateProducerId), Ok(Reply::ProducerId(1)));
    driver.append(numbered(1, 1, 0, 0)).unwrap();
    let day_ms = timers::PRODUCER_EXPIRY_MS;
    driver.pass_to(driver.now_ms + day_ms / 2);
    driver.append(numbered(1, 1, 0, 1)).unwrap();
    driver.pass_to(driver.now_ms + day_ms / 2 + 1);
    assert!(driver.append(numbered(1, 1, 0, 1)).unwrap().is_duplicate);
    driver.pass_to(driver.now_ms + day_ms + 1);
    assert!(!driver.append(numbered(1, 1, 0, 1)).unwrap().is_duplicate);
}

#[test]
fn what_is_not_a_batch_or_too_long_is_refused() {
    let mut driver = Driver::with_topic(1, &[("max.message.bytes", "100")]);
    let refused = driver.append(batch(1, 1).slice(..30));
    assert!(matches!(refused, Err(Refusal::InvalidBatch(_))));
    assert!(matches!(
        driver.append(batch(9, 1)),
        Err(Refusal::BatchTooLarge { bytes_max: 100, .. })
    ));
    let elsewhere = Op::Append { topic_id: ID, partition: 1, batch: batch(1, 1) };
    let refused = driver.apply(&elsewhere).unwrap_err();
    assert_eq!(refused, Refusal::UnknownPartition { partition: 1, partition_count: 1 });
    let nowhere = Op::Append { topic_id: TopicId([1; 16]), partition: 0, batch: batch(1, 1) };
    assert_eq!(driver.apply(&nowhere), Err(Refusal::UnknownTopic(TopicId([1; 16]))));
}

#[test]
fn offsets_are_found_by_time() {
    let mut driver = Driver::with_topic(1, &[]);
    for timestamp_ms in [100, 50, 300, 200, 400] {
        driver.append(batch(2, timestamp_ms)).unwrap();
    }
    let at = |timestamp_ms| driver.at_time(timestamp_ms);
    assert_eq!(at(0), Some((0, 100)));
    assert_eq!(at(100), Some((0, 100)));
    assert_eq!(at(101), Some((4, 300)));
    assert_eq!(at(301), Some((8, 400)));
    assert_eq!(at(401), None);
    assert_eq!(
        read::offset_of_newest(&driver.store, ID, 0).unwrap(),
        Some(read::AtTime::Record(8, 400))
    );
}

#[test]
fn retention_deletes_by_age_and_by_size() {
    let mut driver = Driver::with_topic(1, &[("retention.ms", "60000")]);
    for age_ms in [50_000, 30_000, 10_000] {
        driver.append(batch(2, driver.now_ms as i64 - age_ms)).unwrap();
    }
    driver.pass_to(driver.now_ms + 60_000);
    assert_eq!(driver.bounds(), (6, 6));
    driver.append(batch(2, driver.now_ms as i64)).unwrap();
    assert_eq!(driver.offsets(0, ALL), [6]);
    driver.pass_to(driver.now_ms + 59_000);
    assert_eq!(driver.bounds(), (6, 8));

    let length = batch(2, 1).len();
    let bytes_max = (2 * length).to_string();
    let mut driver = Driver::with_topic(1, &[("retention.bytes", &bytes_max)]);
    for _ in 0..1_200 {
        driver.append(batch(2, 1)).unwrap();
    }
    driver.pass_to(driver.now_ms + 5 * 60_000);
    assert_eq!(driver.bounds(), (2_396, 2_400));
    assert_eq!(driver.offsets(0, ALL), [2_396, 2_398]);
    let moved = Change::LogStartMoved { topic_id: ID, partition: 0, log_start_offset: 2_396 };
    assert_eq!(driver.changes.last(), Some(&moved));
}

#[test]
fn without_retention_nothing_is_ever_due() {
    let mut driver = Driver::with_topic(1, &[("retention.ms", "-1"), ("retention.bytes", "-1")]);
    driver.append(batch(1, 1)).unwrap();
    driver.pass_to(u64::from(u32::MAX) * 1_000);
    assert_eq!(driver.bounds(), (0, 1));
    let compact = ("cleanup.policy", "compact");
    let mut driver = Driver::with_topic(1, &[("retention.ms", "1"), compact]);
    driver.append(batch(1, 1)).unwrap();
    driver.pass_to(driver.now_ms + 1_000_000);
    assert_eq!(driver.bounds(), (0, 1));
}

#[test]
fn deleted_records_are_unreadable_at_once_and_gone_soon() {
    let mut driver = Driver::with_topic(1, &[]);
    for _ in 0..4 {
        driver.append(batch(3, 1)).unwrap();
    }
    let delete = |before_offset| Op::DeleteRecords { topic_id: ID, partition: 0, before_offset };
    assert_eq!(driver.apply(&delete(Some(7))), Ok(Reply::LogStart(7)));
    assert_eq!(driver.apply(&delete(Some(2))), Ok(Reply::LogStart(7)));
    assert!(driver.apply(&delete(Some(13))).is_err());
    driver.pass_to(driver.now_ms + 1);
    assert_eq!(driver.offsets(0, ALL), [6, 9]);
    assert_eq!(driver.apply(&delete(None)), Ok(Reply::LogStart(12)));
    driver.pass_to(driver.now_ms + 1);
    assert_eq!(driver.offsets(0, ALL), [0; 0]);
    assert_eq!(driver.append(batch(1, 1)).unwrap().base_offset, 12);
}

#[test]
fn a_deleted_topic_leaves_nothing() {
    let mut driver = Driver::new();
    let before = driver.key_count();
    driver = Driver::with_topic(3, &[("retention.ms", "1000000")]);
    for _ in 0..2_500 {
        driver.append(numbered(1, -1, -1, -1)).unwrap();
    }
    driver.append(numbered(1, 4, 0, 0)).unwrap();
    commit(&mut driver, 5).unwrap();
    driver.apply(&Op::DeleteTopic { topic_id: ID }).unwrap();
    assert_eq!(read::topic_by_name(&driver.store, "t").unwrap(), None);
    assert_eq!(read::partition(&driver.store, ID, 0).unwrap(), None);
    assert_eq!(read::groups_after(&driver.store, None, 10).unwrap(), Vec::<String>::new());
    let again = Op::CreateTopic {
        name: "t".to_owned(),
        topic_id: TopicId([8; 16]),
        partition_count: 1,
        config: BTreeMap::new(),
    };
    driver.apply(&again).unwrap();
    driver.apply(&Op::DeleteTopic { topic_id: TopicId([8; 16]) }).unwrap();
    driver.pass_to(driver.now_ms + 2 * timers::PRODUCER_EXPIRY_MS);
    assert_eq!(driver.key_count(), before);
}

#[test]
fn topics_are_listed_configured_and_grown() {
    let mut driver = Driver::with_topic(2, &[]);
    let name = |name: &str| Op::CreateTopic {
        name: name.to_owned(),
        topic_id: TopicId([9; 16]),
        partition_count: 1,
        config: BTreeMap::new(),
    };
    assert!(matches!(driver.apply(&name("t")), Err(Refusal::TopicExists(_))));
    for bad in ["", ".", "..", "a b", "ä", &"x".repeat(250)] {
        assert!(matches!(driver.apply(&name(bad)), Err(Refusal::InvalidName(_))), "{bad}");
    }
    driver.apply(&name("a")).unwrap();
    let names: Vec<String> =
        read::topics(&driver.store).unwrap().into_iter().map(|topic| topic.name).collect();
    assert_eq!(names, ["a", "t"]);
    let after = read::topics_after(&driver.store, Some("a"), 5).unwrap();
    assert_eq!(after.iter().map(|topic| &*topic.name).collect::<Vec<_>>(), ["t"]);
    assert_eq!(read::topics_after(&driver.store, None, 1).unwrap().len(), 1);
    driver.apply(&Op::GrowTopic { topic_id: ID, partition_count: 4 }).unwrap();
    assert!(driver.apply(&Op::GrowTopic { topic_id: ID, partition_count: 4 }).is_err());
    assert!(read::partition(&driver.store, ID, 3).unwrap().is_some());
    let configure = |value: &str| Op::ConfigureTopic {
        topic_id: ID,
        config: BTreeMap::from([("retention.ms".to_owned(), Some(value.to_owned()))]),
    };
    driver.apply(&configure("5")).unwrap();
    assert!(matches!(driver.apply(&configure("soon")), Err(Refusal::InvalidConfig(_))));
    let config = read::topic(&driver.store, ID).unwrap().unwrap().config;
    assert_eq!(config.get("retention.ms").map(String::as_str), Some("5"));
}

#[test]
fn a_mirror_keeps_the_offsets_of_the_original() {
    let mut driver = Driver::with_topic(1, &[("proteus.mirror", "true")]);
    let at = |base_offset: i64, count: usize| {
        let mut bytes = batch(count, 5).to_vec();
        bytes[0..8].copy_from_slice(&base_offset.to_be_bytes());
        Bytes::from(bytes)
    };
    assert_eq!(driver.append(at(100, 2)).unwrap().base_offset, 100);
    assert_eq!(driver.append(at(110, 3)).unwrap().base_offset, 110);
    assert_eq!(driver.bounds(), (100, 113));
    assert_eq!(driver.offsets(103, ALL), [110]);
    for offset in [0, 112] {
        let refused = driver.append(at(offset, 1));
        assert_eq!(refused, Err(Refusal::NotNextInMirror { offset, next_offset: 113 }));
    }
    assert!(driver.append(at(i64::MAX, 1)).is_err());
    assert!(driver.append(numbered(1, 9, 0, 0)).is_err());
    let config = BTreeMap::from([("proteus.mirror".to_owned(), None)]);
    driver.apply(&Op::ConfigureTopic { topic_id: ID, config }).unwrap();
    assert_eq!(driver.append(at(0, 1)).unwrap().base_offset, 113);
}

fn commit(driver: &mut Driver, offset: i64) -> Result<Reply, Refusal> {
    let new = NewOffset {
        topic_id: ID,
        partition: 0,
        offset,
        leader_epoch: 0,
        metadata: "note".to_owned(),
    };
    driver.apply(&Op::CommitOffsets { group: "g".to_owned(), offsets: vec![new] })
}

#[test]
fn a_committed_offset_is_a_fence() {
    let mut driver = Driver::with_topic(1, &[]);
    let is = |expected| Check::CommittedOffset {
        group: "g".to_owned(),
        topic_id: ID,
        partition: 0,
        expected,
    };
    assert_eq!(driver.check(&is(None)), Ok(()));
    commit(&mut driver, 5).unwrap();
    assert_eq!(driver.check(&is(Some(5))), Ok(()));
    let differs = Refusal::CommittedOffsetDiffers { expected: None, found: Some(5) };
    assert_eq!(driver.check(&is(None)), Err(differs));
    assert_eq!(read::committed_partitions(&driver.store, "g").unwrap(), [(ID, 0)]);
    assert_eq!(read::groups_after(&driver.store, None, 9).unwrap(), ["g"]);
    assert_eq!(read::groups_after(&driver.store, Some("f"), 9).unwrap(), ["g"]);
    assert!(read::groups_after(&driver.store, Some("g"), 9).unwrap().is_empty());
    let remove = Op::RemoveOffsets { group: "g".to_owned(), partitions: None };
    assert_eq!(driver.apply(&remove), Ok(Reply::Removed(1)));
    assert_eq!(driver.check(&is(None)), Ok(()));
    let too_long = NewOffset {
        topic_id: ID,
        partition: 0,
        offset: 1,
        leader_epoch: 0,
        metadata: "x".repeat(OFFSET_METADATA_BYTES_MAX + 1),
    };
    let op = Op::CommitOffsets { group: "g".to_owned(), offsets: vec![too_long] };
    assert!(matches!(driver.apply(&op), Err(Refusal::MetadataTooLarge { .. })));
}

proptest! {
    /// Whatever is appended, read, deleted and awaited: offsets have no gap between batches, and a
    /// read from any offset finds exactly what stands from there on.
    #[test]
    fn a_partition_is_a_sequence(steps in proptest::collection::vec((0u8..5, 1usize..6), 1..60)) {
        let mut driver = Driver::with_topic(1, &[("retention.bytes", "600")]);
        let mut model: Vec<(i64, usize)> = Vec::new();
        for (step, number) in steps {
            match step {
                0..3 => {
                    let (_, end) = driver.bounds();
                    let appended = driver.append(batch(number, number as i64)).unwrap();
                    prop_assert_eq!(appended.base_offset, end);
                    model.push((end, number));
                }
                3 => {
                    let (start, end) = driver.bounds();
                    let before = (start + number as i64).min(end);
                    let op = Op::DeleteRecords {
                        topic_id: ID, partition: 0, before_offset: Some(before),
                    };
                    prop_assert_eq!(driver.apply(&op), Ok(Reply::LogStart(before)));
                }
                _ => driver.pass_to(driver.now_ms + 100_000 * number as u64),
            }
            let (start, end) = driver.bounds();
            prop_assert!(start <= end);
            let expected: Vec<i64> = model
                .iter()
                .filter(|(base, count)| base + *count as i64 > start)
                .map(|(base, _)| *base)
                .collect();
            prop_assert_eq!(driver.offsets(start, ALL), expected);
        }
    }
}

#[test]
fn a_leader_epoch_ends_where_the_next_one_begins() {
    let mut driver = Driver::with_topic(1, &[]);
    for term in [2, 2, 5, 9] {
        driver.term = Term(term);
        driver.append(batch(10, 1)).unwrap();
    }
    let stored =
        read::read_batches(&driver.store, ID, 0, 0, i64::MAX, ALL).unwrap().here().unwrap();
    let epochs: Vec<i32> = stored.iter().map(|batch| batch.leader_epoch).collect();
    assert_eq!(epochs, [2, 2, 5, 9]);
    let end = |epoch| read::end_of_epoch(&driver.store, ID, 0, epoch, 11).unwrap();
    assert_eq!(end(1), Some((1, 0)), "older than all there is");
    assert_eq!(end(2), Some((2, 20)));
    assert_eq!(end(4), Some((2, 20)), "one that has appended nothing");
    assert_eq!(end(5), Some((5, 30)));
    assert_eq!(end(9), Some((9, 40)));
    assert_eq!(end(10), Some((9, 40)));
    assert_eq!(end(11), Some((11, 40)), "the one that goes on");
    assert_eq!((end(12), end(-1)), (None, None));
    for term in 10..200 {
        driver.term = Term(term);
        driver.append(batch(10, 1)).unwrap();
    }
    let end = |epoch| read::end_of_epoch(&driver.store, ID, 0, epoch, 200).unwrap();
    assert_eq!(end(198), Some((198, 1930)));
    assert_eq!(end(2), Some((2, 0)), "the oldest are told apart no more");
}
