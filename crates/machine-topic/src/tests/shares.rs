//! What share groups have consumed.

use super::*;
use crate::shares::{Delivery, SharePartition, ShareRange, ShareState, share_partition};

fn range(first: i64, last: i64, state: ShareState, count: u16) -> ShareRange {
    ShareRange { first, last, delivery: Delivery { state, count } }
}

impl Driver {
    fn update_share(&mut self, ranges: Vec<ShareRange>) -> Result<Reply, Refusal> {
        self.apply(&Op::UpdateShare { group: "g".to_owned(), topic_id: ID, partition: 0, ranges })
    }

    fn append_records(&mut self, count: usize) {
        let record = NewRecord { key: None, value: Some("v".into()), headers: Vec::new() };
        let batch = frame_batch(&vec![record; count], 1_000_000).unwrap();
        self.apply(&Op::Append { topic_id: ID, partition: 0, batch }).unwrap();
    }

    fn share(&self) -> Option<SharePartition> {
        share_partition(&self.store, "g", ID, 0).unwrap()
    }
}

fn with_records(count: usize) -> Driver {
    let mut driver = Driver::with_topic(1, &[]);
    for _ in 0..count {
        driver.append_records(1);
    }
    let begin =
        Op::BeginShare { group: "g".to_owned(), topic_id: ID, partition: 0, start_offset: 0 };
    driver.apply(&begin).unwrap();
    driver
}

#[test]
fn the_start_moves_over_what_is_done_with() {
    use ShareState::{Acknowledged, Archived, Available};
    let mut driver = with_records(10);
    driver.update_share(vec![range(3, 4, Acknowledged, 1)]).unwrap();
    driver.update_share(vec![range(5, 5, Available, 2)]).unwrap();
    assert_eq!(driver.share().unwrap().start_offset, 0);
    driver.update_share(vec![range(0, 1, Acknowledged, 1), range(2, 2, Archived, 5)]).unwrap();
    let share = driver.share().unwrap();
    assert_eq!(share, SharePartition { start_offset: 5, ranges: vec![range(5, 5, Available, 2)] });
}

#[test]
fn what_is_done_with_stays_so() {
    use ShareState::{Acknowledged, Archived, Available};
    let mut driver = with_records(4);
    driver.update_share(vec![range(1, 2, Acknowledged, 1)]).unwrap();
    let late = vec![range(1, 1, Available, 1), range(2, 2, Archived, 5), range(3, 9, Available, 1)];
    driver.update_share(late).unwrap();
    let expected = vec![range(1, 2, Acknowledged, 1), range(3, 3, Available, 1)];
    assert_eq!(driver.share().unwrap(), SharePartition { start_offset: 0, ranges: expected });
}

#[test]
fn begun_once_reset_at_will_and_gone_with_the_topic() {
    let mut driver = with_records(4);
    let begin = |start_offset| Op::BeginShare {
        group: "g".to_owned(),
        topic_id: ID,
        partition: 0,
        start_offset,
    };
    driver.apply(&begin(3)).unwrap();
    assert_eq!(driver.share().unwrap().start_offset, 0, "it has begun already");
    driver.update_share(vec![range(1, 1, ShareState::Acknowledged, 1)]).unwrap();
    let reset = |offset| Op::ResetShares { group: "g".to_owned(), offsets: vec![(ID, 0, offset)] };
    driver.apply(&reset(99)).unwrap();
    assert_eq!(driver.share().unwrap(), SharePartition { start_offset: 4, ranges: vec![] });
    let remove = Op::RemoveShares { group: "g".to_owned(), topics: None };
    assert_eq!(driver.apply(&remove), Ok(Reply::Removed(1)));
    let refusal = Refusal::UnknownShare { group: "g".to_owned() };
    assert_eq!(driver.update_share(vec![]), Err(refusal));
    driver.apply(&begin(3)).unwrap();
    driver.apply(&Op::DeleteTopic { topic_id: ID }).unwrap();
    assert_eq!(driver.share(), None);
}

#[test]
fn a_group_that_leaves_holes_everywhere_is_refused() {
    let mut driver = with_records(0);
    driver.append_records(25_000);
    let holes = |from: i64, upto: i64| {
        (from..upto).map(|n| range(2 * n + 1, 2 * n + 1, ShareState::Acknowledged, 1)).collect()
    };
    driver.update_share(holes(0, 10_000)).unwrap();
    assert_eq!(driver.update_share(holes(10_000, 10_001)), Err(Refusal::TooManyShareRanges));
}

#[test]
fn groups_keep_settings() {
    let mut driver = Driver::new();
    let configure = |value: Option<&str>| Op::ConfigureGroup {
        group: "g".to_owned(),
        config: [("share.auto.offset.reset".to_owned(), value.map(str::to_owned))].into(),
    };
    driver.apply(&configure(Some("earliest"))).unwrap();
    assert_eq!(groups::settings(&driver.store, "g").unwrap().len(), 1);
    assert_eq!(groups::configured(&driver.store, 9).unwrap(), ["g"]);
    driver.apply(&configure(None)).unwrap();
    assert_eq!(groups::configured(&driver.store, 9).unwrap(), [""; 0]);
}
