//! One partition of a share group: which records are free, held, or done with. A pure state machine.

use std::collections::BTreeSet;
use std::sync::Arc;

use proteus_kernel_api::topic::ranges::Ranges;
use proteus_kernel_api::topic::shares::{self, Delivery, ShareRange, ShareState};

/// How records are handed out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How long a member holds a record (`group.share.record.lock.duration.ms`).
    pub lock_ms: u64,
    /// How often a record is delivered at most (`group.share.delivery.count.limit`).
    pub delivery_count_max: u16,
    /// Records from the first that is not done with, beyond which none is handed out
    /// (`group.share.partition.max.record.locks`).
    pub records_max: i64,
}

/// What a member says of records it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is no such record.
    Gap,
    /// It was worked on.
    Accept,
    /// Somebody may try again.
    Release,
    /// Nobody should.
    Reject,
}

/// Verdicts on the records from `first` to `last`, one for all or one for each.
#[derive(Debug, Clone)]
pub(crate) struct Acknowledgement {
    pub first: i64,
    pub last: i64,
    pub verdicts: Vec<Verdict>,
}

/// A batch that could be handed out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offered {
    pub first: i64,
    pub last: i64,
    /// Whether it has records that are to be seen: it is no marker, and was not aborted.
    pub is_delivered: bool,
}

/// Records that a member holds from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acquired {
    pub first: i64,
    pub last: i64,
    pub delivery_count: u16,
}

/// Why an acknowledgement does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShareError {
    /// The request makes no sense.
    Invalid,
    /// The member does not hold the records, or not any more.
    NotHeld,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Available,
    Held { by: Arc<str>, until_ms: u64 },
    Acknowledged,
    Archived,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Fate {
    state: State,
    delivery_count: u16,
}

/// A group's partition. An offset without a fate is available, and was never delivered.
#[derive(Debug)]
pub(crate) struct SharePartition {
    start_offset: i64,
    fates: Ranges<Fate>,
    /// Whose records must be looked at when time passes.
    deadlines_ms: BTreeSet<u64>,
}

impl SharePartition {
    /// What is durable, with nothing held.
    pub(crate) fn of(stored: &shares::SharePartition) -> SharePartition {
        let mut fates = Ranges::default();
        for ShareRange { first, last, delivery } in &stored.ranges {
            let state = match delivery.state {
                ShareState::Available => State::Available,
                ShareState::Acknowledged => State::Acknowledged,
                ShareState::Archived => State::Archived,
            };
            fates.set(*first, *last, Some(Fate { state, delivery_count: delivery.count }));
        }
        let start_offset = stored.start_offset;
        SharePartition { start_offset, fates, deadlines_ms: BTreeSet::new() }
    }

    /// Whether any record may be held.
    pub(crate) fn is_held(&self) -> bool {
        !self.deadlines_ms.is_empty()
    }

    /// When [`SharePartition::pass_time`] has something to do at the earliest.
    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines_ms.first().copied()
    }

    /// Forgets what is before the partition's first record.
    pub(crate) fn begin_at(&mut self, log_start_offset: i64) {
        if log_start_offset > self.start_offset {
            self.start_offset = log_start_offset;
            self.fates.remove_before(log_start_offset);
        }
    }

    /// Takes records back from those who have held them too long.
    pub(crate) fn pass_time(&mut self, now_ms: u64, limits: Limits) -> Vec<ShareRange> {
        if self.next_deadline_ms().is_none_or(|at| at > now_ms) {
            return Vec::new();
        }
        self.deadlines_ms = self.deadlines_ms.split_off(&(now_ms + 1));
        self.take_back(|_, until_ms| until_ms <= now_ms, |count| count, limits)
    }

    /// Takes back what a member was given and, being gone, has not looked at: that delivery does not count.
    pub(crate) fn release(&mut self, member: &str, limits: Limits) -> Vec<ShareRange> {
        self.take_back(|by, _| by == member, |count| count.saturating_sub(1), limits)
    }

    fn take_back(
        &mut self,
        is_meant: impl Fn(&str, u64) -> bool,
        count_after: impl Fn(u16) -> u16,
        limits: Limits,
    ) -> Vec<ShareRange> {
        let held = self.fates.iter().filter_map(|(first, last, fate)| match &fate.state {
            State::Held { by, until_ms } if is_meant(by, *until_ms) => {
                Some((first, last, fate.delivery_count))
            }
            _ => None,
        });
        let held: Vec<(i64, i64, u16)> = held.collect();
        let mut changes = Vec::with_capacity(held.len());
        for (first, last, delivery_count) in held {
            let verdict = Verdict::Release;
            changes.push(self.settle(first, last, verdict, count_after(delivery_count), limits));
        }
        self.advance();
        changes
    }

    /// First offset that can be handed out, if the partition has a record there.
    pub(crate) fn first_available(&self) -> i64 {
        let mut next = self.start_offset;
        for (first, last, fate) in self.fates.iter() {
            if first > next || fate.state == State::Available {
                break;
            }
            next = last + 1;
        }
        next
    }

    /// Whether so much is handed out and not done with that no more is.
    pub(crate) fn is_full(&self, limits: Limits) -> bool {
        self.first_available() - self.start_offset >= limits.records_max
    }

    /// Hands out what is free of `offered`, batch by batch until there are `records_max`. Those were read
    /// from offset `from` on: what is in none of them are no records. The second result is what became of
    /// records that nobody gets.
    pub(crate) fn acquire(
        &mut self,
        now_ms: u64,
        member: &Arc<str>,
        from: i64,
        offered: &[Offered],
        records_max: i64,
        limits: Limits,
    ) -> (Vec<Acquired>, Vec<ShareRange>) {
        let mut acquired: Vec<Acquired> = Vec::new();
        let mut changes = Vec::new();
        let until_ms = now_ms + limits.lock_ms;
        let mut next = from.max(self.start_offset);
        let mut count = 0;
        for batch in offered {
            if count >= records_max || next - self.start_offset >= limits.records_max {
                break;
            }
            self.archive(next, batch.first - 1, limits, &mut changes);
            let first = batch.first.max(self.start_offset);
            if !batch.is_delivered {
                self.archive(first, batch.last, limits, &mut changes);
            } else {
                for (first, last, delivered) in self.free(first, batch.last) {
                    let delivery_count = delivered.saturating_add(1);
                    let state = State::Held { by: member.clone(), until_ms };
                    self.fates.set(first, last, Some(Fate { state, delivery_count }));
                    count += last - first + 1;
                    match acquired.last_mut() {
                        Some(before)
                            if before.last + 1 == first
                                && before.delivery_count == delivery_count =>
                        {
                            before.last = last;
                        }
                        _ => acquired.push(Acquired { first, last, delivery_count }),
                    }
                }
            }
            next = next.max(batch.last + 1);
        }
        if !acquired.is_empty() {
            self.deadlines_ms.insert(until_ms);
        }
        self.advance();
        (acquired, changes)
    }

    /// Stretches of `first..=last` that nobody holds, and how often each was delivered.
    fn free(&self, first: i64, last: i64) -> Vec<(i64, i64, u16)> {
        let pieces = self.fates.pieces(first, last).into_iter();
        let free = pieces.filter_map(|(first, last, fate)| match fate {
            None => Some((first, last, 0)),
            Some(Fate { state: State::Available, delivery_count }) => {
                Some((first, last, delivery_count))
            }
            Some(_) => None,
        });
        free.collect()
    }

    fn archive(&mut self, first: i64, last: i64, limits: Limits, changes: &mut Vec<ShareRange>) {
        for (first, last, delivered) in self.free(first, last) {
            changes.push(self.settle(first, last, Verdict::Gap, delivered, limits));
        }
    }

    /// What a member says of records it holds; all of it counts, or nothing. The result is what must
    /// become durable.
    pub(crate) fn acknowledge(
        &mut self,
        member: &str,
        acknowledgements: &[Acknowledgement],
        limits: Limits,
    ) -> Result<Vec<ShareRange>, ShareError> {
        let mut verdicts = Vec::new();
        let mut next = i64::MIN;
        for one in acknowledgements {
            if one.first < next || one.last < one.first || one.first < 0 || one.last == i64::MAX {
                return Err(ShareError::Invalid);
            }
            next = one.last + 1;
            verdicts.extend(runs(one)?);
        }
        let mut settled = Vec::new();
        for (first, last, verdict) in verdicts {
            // What is before the start is done with, whatever is said of it.
            for (first, last, fate) in self.fates.pieces(first.max(self.start_offset), last) {
                match fate {
                    Some(Fate { state: State::Held { by, .. }, delivery_count })
                        if *by == *member =>
                    {
                        settled.push((first, last, verdict, delivery_count));
                    }
                    _ => return Err(ShareError::NotHeld),
                }
            }
        }
        let changes = settled.into_iter().map(|(first, last, verdict, delivery_count)| {
            self.settle(first, last, verdict, delivery_count, limits)
        });
        let changes = changes.collect();
        self.advance();
        Ok(changes)
    }

    fn settle(
        &mut self,
        first: i64,
        last: i64,
        verdict: Verdict,
        count: u16,
        limits: Limits,
    ) -> ShareRange {
        let (state, durable) = match verdict {
            Verdict::Accept => (State::Acknowledged, ShareState::Acknowledged),
            Verdict::Release if count < limits.delivery_count_max => {
                (State::Available, ShareState::Available)
            }
            Verdict::Gap | Verdict::Release | Verdict::Reject => {
                (State::Archived, ShareState::Archived)
            }
        };
        let is_as_new = state == State::Available && count == 0;
        let fate = (!is_as_new).then_some(Fate { state, delivery_count: count });
        self.fates.set(first, last, fate);
        ShareRange { first, last, delivery: Delivery { state: durable, count } }
    }

    fn advance(&mut self) {
        let mut start_offset = self.start_offset;
        for (first, last, fate) in self.fates.iter() {
            let is_final = matches!(fate.state, State::Acknowledged | State::Archived);
            if first > start_offset || !is_final {
                break;
            }
            start_offset = last + 1;
        }
        self.begin_at(start_offset);
    }
}

/// Stretches with one verdict.
fn runs(one: &Acknowledgement) -> Result<Vec<(i64, i64, Verdict)>, ShareError> {
    let length = usize::try_from(one.last - one.first + 1).map_err(|_| ShareError::Invalid)?;
    match one.verdicts[..] {
        [verdict] => Ok(vec![(one.first, one.last, verdict)]),
        [..] if one.verdicts.len() == length => {
            let mut runs: Vec<(i64, i64, Verdict)> = Vec::new();
            for (offset, verdict) in (one.first..).zip(&one.verdicts) {
                match runs.last_mut() {
                    Some((_, last, before)) if before == verdict => *last = offset,
                    _ => runs.push((offset, offset, *verdict)),
                }
            }
            Ok(runs)
        }
        _ => Err(ShareError::Invalid),
    }
}

#[cfg(test)]
mod tests;
