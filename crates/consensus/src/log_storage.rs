//! The node's log as the library sees one shard's part of it.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::type_config::alias::VoteOf;
use openraft::{EntryPayload, RaftLogReader};
use proteus_log::{Done, Log, LogEntry, MetaKey};
use proteus_types::{Durability, LogIndex, ShardId};
use tokio::sync::oneshot;

use crate::config::{
    Entry, LogId, TypeConfig, decode_entry, encode_entry, entry_id, from_bytes, log_id, to_bytes,
};

/// Most bytes of entries that are held to be applied or sent at once.
const READ_BYTES_MAX: usize = 16 * 1024 * 1024;

#[derive(Clone)]
pub(crate) struct LogStorage {
    log: Log,
    shard: ShardId,
    /// Whether a membership of several nodes was appended, and none of one since: the figures by which a
    /// proposer thinks that it is the only one may be a little older.
    is_accompanied: bool,
}

impl LogStorage {
    pub(crate) fn new(log: Log, shard: ShardId) -> LogStorage {
        LogStorage { log, shard, is_accompanied: false }
    }

    /// What an entry needs that follows on those before.
    fn durability(&mut self, entry: &Entry) -> Durability {
        match &entry.payload {
            EntryPayload::Normal(payload) if payload.is_relaxed && !self.is_accompanied => {
                return Durability::Relaxed;
            }
            EntryPayload::Membership(membership) => {
                self.is_accompanied = membership.nodes().nth(1).is_some();
            }
            EntryPayload::Normal(_) | EntryPayload::Blank => {}
        }
        Durability::Flushed
    }

    /// Whether this node has had a log that goes further than `last`, before the shard was removed from it. Who asks
    /// for its vote must have what it had: without that a node that was removed, and taken back with an empty log,
    /// could help one to lead that knows nothing of either.
    pub(crate) fn had_more_than(&self, last: Option<&LogId>) -> bool {
        let last = last.map(entry_id).map(|last| (last.term, last.index));
        self.log.floor(self.shard).is_some_and(|floor| Some(floor) > last)
    }

    /// Whether this node has less of the log than it had before the shard was removed from it. Until it has as much it
    /// must neither stand for election nor be given leadership: what it has may name it as a voter of long ago.
    pub(crate) fn is_below_floor(&self) -> bool {
        let (_, last) = self.log.bounds(self.shard);
        let last = last.map(|last| (last.term, last.index));
        self.log.floor(self.shard).is_some_and(|floor| Some(floor) > last)
    }

    /// Returns once everything that was appended before is on stable storage.
    pub(crate) async fn flush(&self) -> io::Result<()> {
        self.wait(|log, done| log.flush(done)).await
    }

    async fn wait(&self, request: impl FnOnce(&Log, Done)) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        request(&self.log, Box::new(move |result| drop(sender.send(result))));
        receiver.await.unwrap_or_else(|_| Err(io::Error::other("the log's writer has ended")))
    }
}

fn half_open(range: &impl RangeBounds<u64>) -> std::ops::Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<TypeConfig> for LogStorage {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let entries = self.log.read(self.shard, half_open(&range), usize::MAX)?;
        entries.iter().map(|entry| decode_entry(entry.id, &entry.payload)).collect()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let entries = self.log.read(self.shard, start..end, READ_BYTES_MAX)?;
        entries.iter().map(|entry| decode_entry(entry.id, &entry.payload)).collect()
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<TypeConfig>>> {
        self.log.meta(self.shard, MetaKey::Vote).map(|bytes| from_bytes(&bytes)).transpose()
    }
}

impl RaftLogStorage<TypeConfig> for LogStorage {
    type LogReader = LogStorage;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let (purged, last) = self.log.bounds(self.shard);
        Ok(LogState { last_purged_log_id: purged.map(log_id), last_log_id: last.map(log_id) })
    }

    async fn get_log_reader(&mut self) -> LogStorage {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<TypeConfig>) -> io::Result<()> {
        let value = to_bytes(vote)?;
        let shard = self.shard;
        self.wait(|log, done| log.set_meta(shard, MetaKey::Vote, value, done)).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut durability = Durability::Relaxed;
        let encoded = entries.into_iter().map(|entry| {
            if self.durability(&entry) == Durability::Flushed {
                durability = Durability::Flushed;
            }
            Ok(LogEntry { id: entry_id(&entry.log_id), payload: encode_entry(&entry)? })
        });
        let encoded: io::Result<Vec<LogEntry>> = encoded.collect();
        let done: Done = Box::new(move |result| callback.io_completed(result));
        self.log.append(self.shard, encoded?, durability, done);
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let last = last.map(|last| LogIndex(last.index));
        let shard = self.shard;
        self.wait(|log, done| log.truncate_after(shard, last, done)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let shard = self.shard;
        self.wait(|log, done| log.purge(shard, entry_id(&upto), done)).await
    }
}
