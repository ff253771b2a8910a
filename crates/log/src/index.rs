//! Where each entry is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use proteus_env::disk::DiskFile;
use proteus_types::{EntryId, LogIndex, ShardId, Term};

use crate::MetaKey;

/// One segment file.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) sequence: u64,
    pub(crate) file: Arc<dyn DiskFile>,
}

/// Where an entry's payload stands on disk.
#[derive(Clone)]
pub(crate) struct Location {
    pub(crate) segment: u64,
    /// Offset of the payload, from the start of the file.
    pub(crate) byte_offset: u64,
}

/// An entry that has not been purged.
pub(crate) struct Placed {
    pub(crate) term: Term,
    pub(crate) payload_bytes: u32,
    /// The payload, while it is young.
    pub(crate) payload: Option<Bytes>,
    /// Where it was written, once it was.
    pub(crate) location: Option<Location>,
}

/// One shard's log: entries `first .. first + entries.len()`.
#[derive(Default)]
pub(crate) struct ShardIndex {
    pub(crate) purged: Option<EntryId>,
    pub(crate) entries: VecDeque<Placed>,
    pub(crate) metas: BTreeMap<MetaKey, Bytes>,
    /// Entries before this place in `entries` hold no payload in memory.
    pub(crate) evicted_count: usize,
}

impl ShardIndex {
    /// Whether nothing is left of a shard but what this node has promised while it had it.
    pub(crate) fn is_forgotten(&self) -> bool {
        self.purged.is_none()
            && self.entries.is_empty()
            && self.metas.contains_key(&MetaKey::Floor)
            && self.metas.keys().all(|key| key.outlives_shard())
    }

    /// Index of the first entry present, or of the next to come.
    pub(crate) fn first(&self) -> LogIndex {
        self.purged.map_or(LogIndex(0), |purged| purged.index.next())
    }

    /// Index of the next entry to come.
    pub(crate) fn next(&self) -> LogIndex {
        LogIndex(self.first().0 + self.entries.len() as u64)
    }

    pub(crate) fn last(&self) -> Option<EntryId> {
        match self.entries.back() {
            Some(placed) => Some(EntryId { term: placed.term, index: LogIndex(self.next().0 - 1) }),
            None => self.purged,
        }
    }

    pub(crate) fn position(&self, index: LogIndex) -> Option<usize> {
        let position = usize::try_from(index.0.checked_sub(self.first().0)?).ok()?;
        (position < self.entries.len()).then_some(position)
    }

    pub(crate) fn push(&mut self, placed: Placed) {
        self.entries.push_back(placed);
    }

    /// Forgets entries after `last`; it stays. Returns the payload bytes this frees in memory.
    fn truncate_after(&mut self, last: Option<LogIndex>) -> usize {
        let keep = match last {
            Some(last) => last.0.saturating_add(1).saturating_sub(self.first().0),
            None => 0,
        };
        let keep = usize::try_from(keep).unwrap_or(usize::MAX).min(self.entries.len());
        self.evicted_count = self.evicted_count.min(keep);
        in_memory_bytes(self.entries.drain(keep..))
    }

    /// Forgets entries up to and including `upto`, which need not be present. Returns the payload
    /// bytes this frees in memory.
    fn purge(&mut self, upto: EntryId) -> usize {
        let gone = (upto.index.0 + 1).saturating_sub(self.first().0);
        let gone = usize::try_from(gone).unwrap_or(usize::MAX).min(self.entries.len());
        self.evicted_count = self.evicted_count.saturating_sub(gone);
        let freed_bytes = in_memory_bytes(self.entries.drain(..gone));
        if self.purged.is_none_or(|purged| purged.index < upto.index) {
            self.purged = Some(upto);
        }
        freed_bytes
    }

    /// Drops the oldest payload that is both in memory and on disk; says how many bytes that freed.
    pub(crate) fn evict_oldest(&mut self) -> Option<usize> {
        let placed = self.entries.get_mut(self.evicted_count)?;
        if placed.payload.is_some() && placed.location.is_none() {
            return None;
        }
        self.evicted_count += 1;
        Some(placed.payload.take().map_or(0, |payload| payload.len()))
    }
}

fn in_memory_bytes(entries: impl Iterator<Item = Placed>) -> usize {
    entries.filter_map(|placed| placed.payload).map(|payload| payload.len()).sum()
}

/// All shards and segments of a node's log.
#[derive(Default)]
pub(crate) struct Index {
    pub(crate) shards: BTreeMap<ShardId, ShardIndex>,
    pub(crate) segments: Vec<Segment>,
    /// Bytes of payloads in memory.
    pub(crate) cached_bytes: usize,
}

impl Index {
    pub(crate) fn segment(&self, sequence: u64) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.sequence == sequence)
    }

    pub(crate) fn truncate_after(&mut self, shard: ShardId, last: Option<LogIndex>) {
        let freed_bytes = self.shards.entry(shard).or_default().truncate_after(last);
        self.cached_bytes -= freed_bytes;
    }

    pub(crate) fn purge(&mut self, shard: ShardId, upto: EntryId) {
        let freed_bytes = self.shards.entry(shard).or_default().purge(upto);
        self.cached_bytes -= freed_bytes;
    }

    pub(crate) fn forget(&mut self, shard: ShardId) {
        if let Some(mut gone) = self.shards.remove(&shard) {
            self.cached_bytes -= in_memory_bytes(gone.entries.drain(..));
            gone.metas.retain(|key, _| key.outlives_shard());
            if !gone.metas.is_empty() {
                self.shards
                    .insert(shard, ShardIndex { metas: gone.metas, ..ShardIndex::default() });
            }
        }
    }

    /// The oldest segment that still holds an entry present in some shard.
    pub(crate) fn oldest_needed(&self) -> Option<u64> {
        self.shards
            .values()
            .filter_map(|shard| shard.entries.front()?.location.as_ref())
            .map(|location| location.segment)
            .min()
    }

    pub(crate) fn evict_to(&mut self, bytes_max: usize) {
        for shard in self.shards.values_mut() {
            while self.cached_bytes > bytes_max
                && let Some(freed) = shard.evict_oldest()
            {
                self.cached_bytes -= freed;
            }
        }
    }
}
