//! Transactions, driven directly.

use super::*;
use crate::batch::read_marker;
use crate::read::{AbortedTransaction, aborted_transactions, has_pending_offset, transaction};

fn init(driver: &mut Driver, expected: Option<(i64, i16)>) -> Result<(i64, i16), Refusal> {
    let op =
        Op::InitTransactions { transactional_id: "tx".to_owned(), timeout_ms: 60_000, expected };
    Ok(producer_of(driver.apply(&op)?))
}

fn producer_of(reply: Reply) -> (i64, i16) {
    match reply {
        Reply::Producer { producer_id, epoch } => (producer_id, epoch),
        other => panic!("{other:?}"),
    }
}

fn named((producer_id, epoch): (i64, i16)) -> TransactionalProducer {
    TransactionalProducer { transactional_id: "tx".to_owned(), producer_id, epoch }
}

fn add(driver: &mut Driver, producer: (i64, i16), partition: u32) -> Result<Reply, Refusal> {
    driver.apply(&Op::AddToTransaction {
        producer: named(producer),
        partitions: vec![(ID, partition)],
        groups: vec!["g".to_owned()],
    })
}

fn transactional(producer: (i64, i16), sequence: i32) -> Bytes {
    let mut batch = numbered(2, producer.0, producer.1, sequence).to_vec();
    batch[22] |= 0x10;
    Bytes::from(batch)
}

fn produce(
    driver: &mut Driver,
    producer: (i64, i16),
    sequence: i32,
    joins: bool,
) -> Result<i64, Refusal> {
    let batch = transactional(producer, sequence);
    match driver.apply(&Op::AppendInTransaction { topic_id: ID, partition: 0, batch, joins })? {
        Reply::Appended(appended) => Ok(appended.base_offset),
        other => panic!("{other:?}"),
    }
}

fn end(
    driver: &mut Driver,
    producer: (i64, i16),
    commits: bool,
    bumps_epoch: bool,
) -> Result<(i64, i16), Refusal> {
    let op = Op::EndTransaction { producer: named(producer), commits, bumps_epoch };
    Ok(producer_of(driver.apply(&op)?))
}

fn last_stable(driver: &Driver) -> i64 {
    read::partition(&driver.store, ID, 0).unwrap().unwrap().last_stable_offset
}

fn aborted(driver: &Driver, from: i64, to: i64) -> Vec<AbortedTransaction> {
    aborted_transactions(&driver.store, ID, 0, from, to).unwrap()
}

#[test]
fn what_is_open_holds_the_last_stable_offset() {
    let mut driver = Driver::with_topic(1, &[]);
    let producer = init(&mut driver, None).unwrap();
    driver.append(batch(1, 1)).unwrap();
    add(&mut driver, producer, 0).unwrap();
    assert_eq!(produce(&mut driver, producer, 0, false), Ok(1));
    driver.append(batch(1, 1)).unwrap();
    assert_eq!((driver.bounds(), last_stable(&driver)), ((0, 4), 1));
    assert_eq!(end(&mut driver, producer, true, false), Ok(producer));
    assert_eq!((driver.bounds(), last_stable(&driver)), ((0, 5), 5));
    assert_eq!(aborted(&driver, 0, 5), []);
    let stored =
        read::read_batches(&driver.store, ID, 0, 4, i64::MAX, ALL).unwrap().here().unwrap();
    assert!(read_marker(&stored[0].bytes).unwrap().is_commit);
    // The same answer again, but not the other one.
    assert_eq!(end(&mut driver, producer, true, false), Ok(producer));
    assert!(end(&mut driver, producer, false, false).is_err());
    // Sequences go on in the next transaction of the epoch.
    add(&mut driver, producer, 0).unwrap();
    assert_eq!(produce(&mut driver, producer, 2, false), Ok(5));
    end(&mut driver, producer, false, false).unwrap();
    let expected =
        AbortedTransaction { producer_id: producer.0, first_offset: 5, marker_offset: 7 };
    assert_eq!(aborted(&driver, 0, 8), [expected]);
    assert_eq!(aborted(&driver, 7, 8), [expected]);
    assert_eq!(aborted(&driver, 8, 9), []);
    assert_eq!(aborted(&driver, 0, 5), []);
}

#[test]
fn a_transaction_begins_with_its_first_batch_and_ends_with_a_new_epoch() {
    let mut driver = Driver::with_topic(1, &[]);
    let first = init(&mut driver, None).unwrap();
    let refused = produce(&mut driver, first, 0, false);
    assert_eq!(refused, Err(Refusal::NotInTransaction { producer_id: first.0 }));
    assert_eq!(produce(&mut driver, first, 0, true), Ok(0));
    assert_eq!(produce(&mut driver, first, 0, true), Ok(0), "sent again");
    let outside = driver.append(numbered(1, first.0, first.1, 2));
    assert_eq!(outside, Err(Refusal::NotInTransaction { producer_id: first.0 }));
    let second = end(&mut driver, first, true, true).unwrap();
    assert_eq!(second, (first.0, first.1 + 1));
    assert_eq!(end(&mut driver, first, true, true), Ok(second), "the answer was lost");
    let stale = produce(&mut driver, first, 2, true);
    assert!(matches!(stale, Err(Refusal::StaleProducerEpoch { .. })), "{stale:?}");
    assert_eq!(produce(&mut driver, second, 0, true), Ok(3));
    let third = end(&mut driver, second, false, true).unwrap();
    // Aborting nothing is allowed, and bumps the epoch too; committing nothing is not.
    let fourth = end(&mut driver, third, false, true).unwrap();
    assert_eq!(fourth.1, third.1 + 1);
    assert!(end(&mut driver, fourth, true, true).is_err());
}

#[test]
fn a_new_instance_aborts_and_fences_the_former() {
    let mut driver = Driver::with_topic(2, &[]);
    let zombie = init(&mut driver, None).unwrap();
    add(&mut driver, zombie, 0).unwrap();
    produce(&mut driver, zombie, 0, false).unwrap();
    let new = init(&mut driver, None).unwrap();
    assert_eq!(new, (zombie.0, zombie.1 + 1));
    assert_eq!(last_stable(&driver), 3);
    assert_eq!(aborted(&driver, 0, 3).len(), 1);
    for refused in [
        produce(&mut driver, zombie, 2, true).unwrap_err(),
        add(&mut driver, zombie, 1).unwrap_err(),
        end(&mut driver, zombie, true, false).unwrap_err(),
        init(&mut driver, Some(zombie)).map(|p| assert_eq!(p, new)).map_or_else(
            |refusal| refusal,
            // Who asks for its next epoch again is answered again.
            |()| Refusal::ProducerFenced { transactional_id: String::new(), current: 0, found: 0 },
        ),
    ] {
        let is_fence =
            matches!(refused, Refusal::ProducerFenced { .. } | Refusal::StaleProducerEpoch { .. });
        assert!(is_fence, "{refused:?}");
    }
    let stranger = TransactionalProducer { transactional_id: "other".to_owned(), ..named(new) };
    let op = Op::EndTransaction { producer: stranger, commits: true, bumps_epoch: false };
    let refused = driver.apply(&op);
    assert!(matches!(refused, Err(Refusal::UnknownTransactionalProducer { .. })));
}

#[test]
fn offsets_are_committed_with_their_transaction_or_not_at_all() {
    let mut driver = Driver::with_topic(1, &[]);
    let mut producer = init(&mut driver, None).unwrap();
    for commits in [false, true] {
        let new = NewOffset {
            topic_id: ID,
            partition: 0,
            offset: 7,
            leader_epoch: -1,
            metadata: String::new(),
        };
        let op = Op::CommitOffsetsInTransaction {
            producer: named(producer),
            group: "g".to_owned(),
            offsets: vec![new],
            joins: true,
        };
        driver.apply(&op).unwrap();
        assert!(has_pending_offset(&driver.store, "g", ID, 0).unwrap());
        assert_eq!(read::committed_offset(&driver.store, "g", ID, 0).unwrap(), None);
        producer = end(&mut driver, producer, commits, true).unwrap();
        assert!(!has_pending_offset(&driver.store, "g", ID, 0).unwrap());
        let found = read::committed_offset(&driver.store, "g", ID, 0).unwrap();
        assert_eq!(found.map(|found| found.offset), commits.then_some(7));
    }
}

#[test]
fn a_transaction_that_takes_too_long_is_aborted_and_an_idle_producer_forgotten() {
    let mut driver = Driver::with_topic(1, &[]);
    let before = driver.key_count();
    let producer = init(&mut driver, None).unwrap();
    produce(&mut driver, producer, 0, true).unwrap();
    driver.pass_to(driver.now_ms + 59_999);
    assert_eq!(last_stable(&driver), 0);
    driver.pass_to(driver.now_ms + 1);
    assert_eq!(last_stable(&driver), 3);
    let fenced = end(&mut driver, producer, true, true);
    assert!(matches!(fenced, Err(Refusal::ProducerFenced { .. })), "{fenced:?}");
    let info = transaction(&driver.store, "tx").unwrap().unwrap();
    assert_eq!((info.state, info.epoch), (TransactionState::Aborted, producer.1 + 1));
    driver.apply(&Op::DeleteRecords { topic_id: ID, partition: 0, before_offset: None }).unwrap();
    driver.pass_to(driver.now_ms + timers::TRANSACTIONAL_ID_EXPIRY_MS);
    driver.pass_to(driver.now_ms + timers::TRANSACTIONAL_ID_EXPIRY_MS);
    assert_eq!(transaction(&driver.store, "tx").unwrap(), None);
    // Beside what was there: the counter of producer ids.
    assert_eq!(driver.key_count(), before + 1);
}

#[test]
fn a_deleted_topic_does_not_keep_a_transaction_from_ending() {
    let mut driver = Driver::with_topic(1, &[]);
    let producer = init(&mut driver, None).unwrap();
    produce(&mut driver, producer, 0, true).unwrap();
    driver.apply(&Op::DeleteTopic { topic_id: ID }).unwrap();
    assert!(end(&mut driver, producer, true, true).is_ok());
    driver.pass_to(driver.now_ms + 3 * timers::TRANSACTIONAL_ID_EXPIRY_MS);
    assert_eq!(driver.key_count(), 1);
}

#[test]
fn epochs_run_out_into_a_new_producer_id() {
    let mut driver = Driver::with_topic(1, &[]);
    let mut producer = init(&mut driver, None).unwrap();
    while producer.1 < i16::MAX - 1 {
        producer = init(&mut driver, Some(producer)).unwrap();
    }
    produce(&mut driver, producer, 0, true).unwrap();
    let next = end(&mut driver, producer, true, true).unwrap();
    assert_eq!(next, (producer.0 + 1, 0));
    assert_eq!(end(&mut driver, producer, true, true), Ok(next), "the answer was lost");
    assert!(produce(&mut driver, producer, 2, true).is_err());
    assert_eq!(produce(&mut driver, next, 0, true), Ok(3));
}

proptest! {
    /// Several producers, transactions in any interleaving: what a reader of committed records sees
    /// is exactly what was committed, in the order of the log, and never anything undecided.
    #[test]
    fn readers_of_what_is_committed_see_that_and_nothing_else(
        steps in proptest::collection::vec((0usize..3, 0u8..6), 1..80),
    ) {
        let mut driver = Driver::with_topic(1, &[]);
        let mut producers = Vec::new();
        for name in ["a", "b", "c"] {
            let op = Op::InitTransactions {
                transactional_id: name.to_owned(), timeout_ms: 60_000, expected: None,
            };
            producers.push((name, producer_of(driver.apply(&op).unwrap()), 0, Vec::new()));
        }
        let mut committed: Vec<i64> = Vec::new();
        for (which, step) in steps {
            let (name, producer, sequence, open) = &mut producers[which];
            if step < 4 {
                let batch = transactional(*producer, *sequence);
                *sequence += 2;
                let op = Op::AppendInTransaction { topic_id: ID, partition: 0, batch, joins: true };
                match driver.apply(&op).unwrap() {
                    Reply::Appended(appended) => open.push(appended.base_offset),
                    other => panic!("{other:?}"),
                }
            } else if !open.is_empty() {
                let named = TransactionalProducer {
                    transactional_id: (*name).to_owned(), producer_id: producer.0, epoch: producer.1,
                };
                let commits = step == 4;
                let op = Op::EndTransaction { producer: named, commits, bumps_epoch: true };
                *producer = producer_of(driver.apply(&op).unwrap());
                *sequence = 0;
                let ended = std::mem::take(open);
                if commits {
                    committed.extend(ended);
                }
            }
            let end = last_stable(&driver);
            let first_open = producers.iter().filter_map(|producer| producer.3.first()).min();
            prop_assert_eq!(end, first_open.copied().unwrap_or(driver.bounds().1));
            // From any offset the list of aborted transactions filters the same.
            for from in [0, end / 2] {
                let aborted = aborted(&driver, from, end);
                let stored = read::read_batches(&driver.store, ID, 0, from, end, ALL).unwrap().here().unwrap();
                let seen: Vec<i64> = stored.iter().filter(|stored| {
                    let header = BatchHeader::parse(&stored.bytes).unwrap();
                    !header.is_control()
                        && !aborted.iter().any(|a| a.covers(&header, stored.base_offset))
                }).map(|stored| stored.base_offset).collect();
                let mut expected: Vec<i64> =
                    committed.iter().copied().filter(|at| *at < end && *at + 2 > from).collect();
                expected.sort_unstable();
                prop_assert_eq!(seen, expected);
            }
        }
    }
}
