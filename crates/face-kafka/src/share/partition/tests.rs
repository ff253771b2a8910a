use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { lock_ms: 100, delivery_count_max: 3, records_max: 1_000 };

fn fresh() -> SharePartition {
    SharePartition::of(&shares::SharePartition { start_offset: 0, ranges: Vec::new() })
}

fn batch(first: i64, last: i64) -> Offered {
    Offered { first, last, is_delivered: true }
}

fn got(first: i64, last: i64, delivery_count: u16) -> Acquired {
    Acquired { first, last, delivery_count }
}

fn say(first: i64, last: i64, verdicts: &[Verdict]) -> Acknowledgement {
    Acknowledgement { first, last, verdicts: verdicts.to_vec() }
}

#[test]
fn a_record_is_held_by_one_until_its_time_is_up() {
    let (ann, bob): (Arc<str>, Arc<str>) = ("ann".into(), "bob".into());
    let mut partition = fresh();
    let batches = [batch(0, 4), batch(5, 9)];
    let (acquired, changes) = partition.acquire(0, &ann, 0, &batches, 1, LIMITS);
    assert_eq!((acquired, changes), (vec![got(0, 4, 1)], vec![]), "whole batches");
    assert_eq!(partition.first_available(), 5);
    let (acquired, _) = partition.acquire(10, &bob, 0, &batches, 9, LIMITS);
    assert_eq!(acquired, [got(5, 9, 1)]);
    assert_eq!(
        partition.acknowledge("bob", &[say(4, 5, &[Verdict::Accept])], LIMITS),
        Err(ShareError::NotHeld)
    );
    let changes = partition.acknowledge("ann", &[say(1, 2, &[Verdict::Accept])], LIMITS).unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(partition.next_deadline_ms(), Some(100));
    let changes = partition.pass_time(100, LIMITS);
    let available = |first, last| ShareRange {
        first,
        last,
        delivery: Delivery { state: ShareState::Available, count: 1 },
    };
    assert_eq!(changes, [available(0, 0), available(3, 4)]);
    let late = partition.acknowledge("ann", &[say(3, 3, &[Verdict::Accept])], LIMITS);
    assert_eq!(late, Err(ShareError::NotHeld));
    let (acquired, _) = partition.acquire(100, &bob, 0, &batches, 9, LIMITS);
    assert_eq!(acquired, [got(0, 0, 2), got(3, 4, 2)]);
}

#[test]
fn what_is_released_too_often_is_archived() {
    let ann: Arc<str> = "ann".into();
    let mut partition = fresh();
    for count in 1..=3 {
        let (acquired, _) = partition.acquire(0, &ann, 0, &[batch(0, 1)], 9, LIMITS);
        let expected = if count == 1 { vec![got(0, 1, 1)] } else { vec![got(0, 0, count)] };
        assert_eq!(acquired, expected);
        let verdicts: &[Verdict] =
            if count == 1 { &[Verdict::Release, Verdict::Reject] } else { &[Verdict::Release] };
        let last = if count == 1 { 1 } else { 0 };
        partition.acknowledge("ann", &[say(0, last, verdicts)], LIMITS).unwrap();
    }
    assert_eq!(partition.first_available(), 2);
    assert_eq!(partition.start_offset, 2);
}

#[test]
fn who_leaves_gives_back_as_if_nothing_was() {
    let ann: Arc<str> = "ann".into();
    let mut partition = fresh();
    partition.acquire(0, &ann, 0, &[batch(0, 4)], 9, LIMITS);
    partition.release("ann", LIMITS);
    let (acquired, _) = partition.acquire(0, &ann, 0, &[batch(0, 4)], 9, LIMITS);
    assert_eq!(acquired, [got(0, 4, 1)]);
}

#[test]
fn what_is_no_record_is_archived() {
    let ann: Arc<str> = "ann".into();
    let mut partition = fresh();
    let marker = Offered { is_delivered: false, ..batch(5, 5) };
    let (acquired, changes) =
        partition.acquire(0, &ann, 0, &[batch(2, 3), marker, batch(6, 6)], 9, LIMITS);
    assert_eq!(acquired, [got(2, 3, 1), got(6, 6, 1)]);
    let archived = changes.iter().map(|change| (change.first, change.last)).collect::<Vec<_>>();
    assert_eq!(archived, [(0, 1), (4, 4), (5, 5)]);
}

#[test]
fn nonsense_is_refused_and_changes_nothing() {
    let ann: Arc<str> = "ann".into();
    let mut partition = fresh();
    partition.acquire(0, &ann, 0, &[batch(0, 4)], 9, LIMITS);
    let accept = Verdict::Accept;
    let nonsense = [
        vec![say(3, 2, &[accept])],
        vec![say(0, 4, &[accept, accept])],
        vec![say(0, 4, &[])],
        vec![say(2, 3, &[accept]), say(3, 4, &[accept])],
        vec![say(0, i64::MAX, &[accept])],
    ];
    for acknowledgements in nonsense {
        let refused = partition.acknowledge("ann", &acknowledgements, LIMITS);
        assert_eq!(refused, Err(ShareError::Invalid), "{acknowledgements:?}");
    }
    let partly = [say(0, 4, &[accept]), say(5, 5, &[accept])];
    assert_eq!(partition.acknowledge("ann", &partly, LIMITS), Err(ShareError::NotHeld));
    assert_eq!(partition.acknowledge("ann", &[say(0, 4, &[accept])], LIMITS).unwrap().len(), 1);
}

proptest! {
    /// Whatever members do, each record is with one at most, is not delivered too often, and what was
    /// accepted is not delivered again; nor is it after the durable state alone is left.
    #[test]
    fn no_record_is_with_two(steps in prop::collection::vec((0u8..5, 0usize..3, 0i64..20, 0i64..6), 1..60)) {
        let members: [Arc<str>; 3] = ["a".into(), "b".into(), "c".into()];
        let mut partition = fresh();
        let mut durable = shares::SharePartition { start_offset: 0, ranges: Vec::new() };
        let (mut now_ms, mut holder, mut counts, mut accepted) =
            (0, [None; 32], [0u16; 32], [false; 32]);
        let note = |durable: &mut shares::SharePartition, changes: &[ShareRange]| {
            // As the machine does it, without dropping what is before the start.
            let mut ranges = Ranges::default();
            for range in durable.ranges.iter().chain(changes) {
                ranges.set(range.first, range.last, Some(range.delivery));
            }
            durable.ranges = ranges
                .iter()
                .map(|(first, last, delivery)| ShareRange { first, last, delivery: *delivery })
                .collect();
        };
        for (what, who, at, length) in steps {
            let member = &members[who];
            match what {
                0 | 1 => {
                    let from = partition.first_available();
                    let offered = [batch(from, at.max(from)), batch(at.max(from) + 1, at.max(from) + 1 + length)];
                    let offered: Vec<Offered> = offered.into_iter().filter(|b| b.last < 32).collect();
                    let (acquired, changes) = partition.acquire(now_ms, member, from, &offered, 4, LIMITS);
                    note(&mut durable, &changes);
                    for range in acquired {
                        for offset in range.first as usize..=range.last as usize {
                            prop_assert!(holder[offset].is_none_or(|(_, until)| until <= now_ms));
                            prop_assert!(!accepted[offset]);
                            prop_assert!(range.delivery_count <= LIMITS.delivery_count_max);
                            holder[offset] = Some((who, now_ms + LIMITS.lock_ms));
                            counts[offset] = range.delivery_count;
                        }
                    }
                }
                2 => {
                    let verdict = if length % 2 == 0 { Verdict::Accept } else { Verdict::Release };
                    let last = at + length;
                    let held = (at..=last).all(|offset| holder[offset as usize].is_some_and(|(by, _)| by == who));
                    if let Ok(changes) = partition.acknowledge(member, &[say(at, last, &[verdict])], LIMITS) {
                        for change in &changes {
                            for offset in change.first..=change.last {
                                prop_assert!(holder[offset as usize].is_some_and(|(by, _)| by == who));
                                holder[offset as usize] = None;
                                accepted[offset as usize] = verdict == Verdict::Accept;
                            }
                        }
                        note(&mut durable, &changes);
                    } else {
                        prop_assert!(!held || (at..=last).any(|o| holder[o as usize].is_some_and(|(_, until)| until <= now_ms)));
                    }
                }
                3 => {
                    now_ms += 60;
                    note(&mut durable, &partition.pass_time(now_ms, LIMITS));
                    for one in &mut holder {
                        *one = one.filter(|(_, until)| *until > now_ms);
                    }
                }
                _ => {
                    partition = SharePartition::of(&durable);
                    holder = [None; 32];
                }
            }
        }
    }
}
