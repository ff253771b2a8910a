//! What was committed behind a backup: the shards' logs, segment by segment.

use std::collections::BTreeMap;

use proteus_types::{CommitTs, EntryId, LogIndex, ShardId, Term};

/// Consecutive entries of a shard's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSegment {
    /// The shard.
    pub shard: ShardId,
    /// The entry before the first of them.
    pub previous: EntryId,
    /// The last of them.
    pub last: EntryId,
    /// All that was committed in the shard up to here is in them or before.
    pub through_ts: CommitTs,
}

impl LogSegment {
    /// What a shard's segment is called: all of this, in hexadecimal, so that names in order are times in order.
    pub(crate) fn name(&self) -> String {
        let LogSegment { previous, last, through_ts, .. } = self;
        format!(
            "{:016x}-{:x}-{:x}-{:x}-{:x}",
            through_ts.0, previous.term.0, previous.index.0, last.term.0, last.index.0
        )
    }

    pub(crate) fn parse(shard: ShardId, name: &str) -> Option<LogSegment> {
        let numbers: Option<Vec<u64>> =
            name.split('-').map(|number| u64::from_str_radix(number, 16).ok()).collect();
        let [through_ts, previous_term, previous_index, last_term, last_index] = numbers?[..]
        else {
            return None;
        };
        let id = |term, index| EntryId { term: Term(term), index: LogIndex(index) };
        Some(LogSegment {
            shard,
            previous: id(previous_term, previous_index),
            last: id(last_term, last_index),
            through_ts: CommitTs(through_ts),
        })
    }
}

/// Those of `segments`, all of one shard, that lead on from the entry `from`, in their order. Several clusters may
/// have kept their logs in one place, and one cluster the same entries more than once.
pub fn chain(segments: &[LogSegment], from: EntryId) -> Vec<LogSegment> {
    let mut behind: BTreeMap<EntryId, LogSegment> = BTreeMap::new();
    for segment in segments {
        let longest = behind.entry(segment.previous).or_insert(*segment);
        if longest.last.index < segment.last.index {
            *longest = *segment;
        }
    }
    let (mut chain, mut position) = (Vec::new(), from);
    loop {
        let overlaps = |segment: &&LogSegment| {
            segment.previous.index < position.index
                && segment.previous.term <= position.term
                && segment.last.index > position.index
                && segment.last.term >= position.term
        };
        let next = match behind.get(&position) {
            Some(next) if next.last.index > position.index => Some(next),
            _ => segments.iter().filter(overlaps).max_by_key(|segment| segment.last.index),
        };
        let Some(next) = next else { return chain };
        chain.push(*next);
        position = next.last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, index: u64) -> EntryId {
        EntryId { term: Term(term), index: LogIndex(index) }
    }

    fn segment(previous: (u64, u64), last: (u64, u64)) -> LogSegment {
        let (previous, last) = (id(previous.0, previous.1), id(last.0, last.1));
        LogSegment { shard: ShardId(3), previous, last, through_ts: CommitTs(last.index.0 * 10) }
    }

    #[test]
    fn a_name_says_all() {
        let segment = segment((2, 17), (300, 4_000_000_000));
        assert_eq!(LogSegment::parse(ShardId(3), &segment.name()), Some(segment));
        for wrong in ["", "1-2-3-4", "1-2-3-4-5-6", "g-1-1-1-1", "1--1-1-1"] {
            assert_eq!(LogSegment::parse(ShardId(3), wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_chain_follows_one_history_as_far_as_it_goes() {
        let kept = [
            segment((1, 10), (1, 20)),
            segment((1, 20), (2, 30)),
            // Kept twice, once in part.
            segment((1, 20), (1, 25)),
            // Of a cluster that was restored from entry 20.
            segment((900, 20), (900, 40)),
            segment((2, 30), (2, 35)),
            // Behind a gap.
            segment((2, 36), (2, 50)),
        ];
        assert_eq!(chain(&kept, id(1, 10)), [kept[0], kept[1], kept[4]]);
        assert_eq!(chain(&kept, id(1, 15)), [kept[0], kept[1], kept[4]], "from the midst of one");
        assert_eq!(chain(&kept, id(900, 20)), [kept[3]]);
        assert_eq!(chain(&kept, id(2, 35)), []);
        assert_eq!(chain(&[], id(1, 1)), []);
    }
}
