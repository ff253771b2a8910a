use super::*;
use crate::read::{AtTime, StoredBatch, Stretch};
use crate::tiering::{
    NewObject, ObjectId, ObjectInfo, UPLOAD_MS_MAX, garbage_objects, movable_batches, object_at,
};

const FIRST: ObjectId = ObjectId([1; 16]);
const SECOND: ObjectId = ObjectId([2; 16]);

/// A topic of which everything moves, in objects of about three batches.
fn driver_with(more: &[(&str, &str)]) -> Driver {
    let bytes = (3 * batch(10, 1).len()).to_string();
    let mut config = vec![
        ("remote.storage.enable", "true"),
        ("local.retention.ms", "1000"),
        ("segment.bytes", bytes.as_str()),
    ];
    config.extend_from_slice(more);
    Driver::with_topic(1, &config)
}

impl Driver {
    fn movable(&self) -> Vec<StoredBatch> {
        movable_batches(&self.store, ID, 0, self.now_ms).unwrap()
    }

    fn reserve(&mut self, object_id: ObjectId) -> Result<Reply, Refusal> {
        self.apply(&Op::ReserveObject { topic_id: ID, partition: 0, object_id })
    }

    fn move_all(&mut self, object_id: ObjectId) -> Result<Reply, Refusal> {
        let object = NewObject::of(object_id, &self.movable());
        self.apply(&Op::MoveToObject { object })
    }

    fn object(&self, offset: i64) -> Option<ObjectInfo> {
        object_at(&self.store, ID, 0, offset).unwrap()
    }

    fn garbage(&self) -> Vec<ObjectId> {
        let garbage = garbage_objects(&self.store, 10).unwrap();
        garbage.iter().map(|name| name.object_id).collect()
    }
}

#[test]
fn batches_move_once_they_are_old_and_fill_an_object() {
    let mut driver = driver_with(&[]);
    let length = batch(10, 1).len() as u64;
    let start_ms = driver.now_ms as i64;
    for index in 0..5 {
        driver.append(batch(10, start_ms + index)).unwrap();
    }
    assert_eq!(driver.movable(), [], "nothing is old");
    driver.now_ms += 1_002;
    let old = driver.movable();
    assert_eq!(old.iter().map(|batch| batch.base_offset).collect::<Vec<_>>(), [0, 10, 20]);
    driver.reserve(FIRST).unwrap();
    assert_eq!(driver.reserve(FIRST), Err(Refusal::NotMovable), "an id is used once");
    driver.move_all(FIRST).unwrap();
    assert_eq!(driver.move_all(FIRST), Err(Refusal::NotMovable), "and once only");

    let info = read::partition(&driver.store, ID, 0).unwrap().unwrap();
    assert_eq!((info.log_start_offset, info.local_start_offset), (0, 30));
    assert_eq!((info.bytes, info.object_bytes), (2 * length, 3 * length));
    let Stretch::InObject(range) =
        read::read_batches(&driver.store, ID, 0, 15, i64::MAX, ALL).unwrap()
    else {
        panic!("offset 15 has moved");
    };
    assert_eq!((range.name.object_id, range.bytes), (FIRST, 0..3 * length));
    assert_eq!(driver.offsets(30, ALL), [30, 40]);
    let at = read::offset_at_time(&driver.store, ID, 0, start_ms + 1).unwrap();
    assert!(matches!(at, Some(AtTime::InObject(_, wanted_ms)) if wanted_ms == start_ms + 1));
    assert_eq!(driver.at_time(start_ms + 4), Some((40, start_ms + 4)));

    driver.now_ms += 10_000;
    assert_eq!(driver.movable(), [], "two batches would make a short object");
    driver.now_ms += 60_000;
    assert_eq!(driver.movable().len(), 2, "in the end they move all the same");
}

#[test]
fn a_range_is_whole_batches_and_covers_the_offset() {
    let length = batch(1_000, 1).len() as u64;
    let mut driver = driver_with(&[("segment.bytes", "100000000")]);
    for _ in 0..40 {
        driver.append(batch(1_000, 1)).unwrap();
    }
    driver.now_ms += 100_000;
    driver.reserve(FIRST).unwrap();
    driver.move_all(FIRST).unwrap();
    let object = driver.object(0).unwrap();
    assert_eq!(object.bytes, 40 * length);
    for offset in (0..40_000).step_by(777) {
        let place = offset as u64 / 1_000 * length;
        for bytes_max in [0, 1, length, 100_000, 200_000, u64::MAX] {
            let range = object.range_from(offset, bytes_max).bytes;
            assert!(range.start <= place && place + length <= range.end, "{offset}: {range:?}");
            assert_eq!((range.start % length, range.end % length), (0, 0));
            assert!(range.end - range.start <= bytes_max.max(64 * 1024 + length));
        }
    }
}

#[test]
fn what_changed_since_it_was_read_does_not_move() {
    for change in 0..3 {
        let mut driver = driver_with(&[]);
        for _ in 0..4 {
            driver.append(batch(10, 1)).unwrap();
        }
        driver.reserve(FIRST).unwrap();
        driver.reserve(SECOND).unwrap();
        let object = NewObject::of(FIRST, &driver.movable());
        match change {
            0 => drop(driver.move_all(SECOND).unwrap()),
            1 => {
                let before_offset = Some(10);
                driver
                    .apply(&Op::DeleteRecords { topic_id: ID, partition: 0, before_offset })
                    .unwrap();
            }
            _ => {
                let config = BTreeMap::from([("max.message.bytes".to_owned(), None)]);
                driver.apply(&Op::ConfigureTopic { topic_id: ID, config }).unwrap();
            }
        }
        assert_eq!(
            driver.apply(&Op::MoveToObject { object }),
            Err(Refusal::NotMovable),
            "{change}"
        );
    }
}

#[test]
fn a_log_that_starts_within_a_batch_moves_as_a_whole() {
    let mut driver = driver_with(&[]);
    for _ in 0..4 {
        driver.append(batch(10, 1)).unwrap();
    }
    let before_offset = Some(14);
    driver.apply(&Op::DeleteRecords { topic_id: ID, partition: 0, before_offset }).unwrap();
    driver.reserve(FIRST).unwrap();
    driver.move_all(FIRST).unwrap();
    assert_eq!(driver.object(14).unwrap().base_offset, 10);
}

#[test]
fn objects_expire_before_what_is_here_and_their_garbage_is_remembered() {
    let length = batch(10, 1).len() as u64;
    let bytes = (4 * length).to_string();
    let mut driver = driver_with(&[("retention.ms", "-1"), ("retention.bytes", &bytes)]);
    for index in 0..6 {
        driver.append(batch(10, index)).unwrap();
    }
    driver.reserve(FIRST).unwrap();
    driver.move_all(FIRST).unwrap();
    driver.pass_to(driver.now_ms + 10 * 60_000);
    assert_eq!(driver.bounds(), (0, 60), "without the object there would be too little");
    driver.append(batch(10, 7)).unwrap();
    driver.pass_to(driver.now_ms + 10 * 60_000);
    assert_eq!(driver.bounds(), (30, 70));
    assert_eq!(driver.garbage(), [FIRST]);
    assert_eq!(driver.offsets(30, ALL), [30, 40, 50, 60]);
    driver.apply(&Op::ForgetObjects { object_ids: vec![FIRST] }).unwrap();
    assert_eq!(driver.garbage(), []);

    driver.reserve(SECOND).unwrap();
    driver.move_all(SECOND).unwrap();
    let before_offset = Some(65);
    driver.apply(&Op::DeleteRecords { topic_id: ID, partition: 0, before_offset }).unwrap();
    driver.pass_to(driver.now_ms + 1);
    assert_eq!((driver.garbage(), driver.bounds()), (vec![SECOND], (65, 70)));
}

#[test]
fn uploads_that_do_not_end_and_deleted_topics_leave_garbage_only() {
    let mut driver = driver_with(&[]);
    let before = driver.key_count();
    for _ in 0..3 {
        driver.append(batch(10, 1)).unwrap();
    }
    driver.reserve(FIRST).unwrap();
    driver.reserve(SECOND).unwrap();
    driver.move_all(FIRST).unwrap();
    driver.pass_to(driver.now_ms + UPLOAD_MS_MAX + 1);
    assert_eq!(driver.garbage(), [SECOND]);
    assert_eq!(driver.move_all(SECOND), Err(Refusal::NotMovable));
    driver.apply(&Op::DeleteTopic { topic_id: ID }).unwrap();
    driver.pass_to(driver.now_ms + 8 * 24 * 3_600_000);
    assert_eq!(driver.garbage(), [FIRST, SECOND]);
    driver.apply(&Op::ForgetObjects { object_ids: vec![FIRST, SECOND] }).unwrap();
    assert!(driver.key_count() < before, "nothing is left behind");
}

#[test]
fn compacted_topics_have_no_remote_storage() {
    let mut driver = driver_with(&[]);
    let config = BTreeMap::from([("cleanup.policy".to_owned(), Some("compact".to_owned()))]);
    let refused = driver.apply(&Op::ConfigureTopic { topic_id: ID, config });
    assert!(matches!(refused, Err(Refusal::InvalidConfig(_))), "{refused:?}");
}
