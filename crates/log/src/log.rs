//! The handle that consensus holds.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use proteus_env::SystemClock;
use proteus_env::disk::Disk;
use proteus_env::task::{self, spawn_thread};
use proteus_types::{Durability, EntryId, LogIndex, ShardId, Term};

use crate::index::{Index, Placed, ShardIndex};
use crate::writer::{Request, Writer, run};
use crate::{LogError, recovery};

/// An entry as consensus gives and takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its name.
    pub id: EntryId,
    /// Its bytes.
    pub payload: Bytes,
}

/// Small facts that consensus keeps beside a shard's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MetaKey {
    /// The vote of the current term.
    Vote,
    /// The last committed position.
    Committed,
    /// The full name of the last purged entry.
    Purged,
    /// The last entry that the shard had here before it was forgotten.
    Floor,
}

impl MetaKey {
    pub(crate) fn code(self) -> u8 {
        match self {
            MetaKey::Vote => 1,
            MetaKey::Committed => 2,
            MetaKey::Purged => 3,
            MetaKey::Floor => 4,
        }
    }

    /// Whether it is kept of a shard that is forgotten: what this node has promised to others.
    pub(crate) fn outlives_shard(self) -> bool {
        matches!(self, MetaKey::Vote | MetaKey::Floor)
    }

    pub(crate) fn of_code(code: u8) -> Option<MetaKey> {
        [MetaKey::Vote, MetaKey::Committed, MetaKey::Purged, MetaKey::Floor]
            .into_iter()
            .find(|key| key.code() == code)
    }
}

/// Sizes and durability of a log.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// A new segment is begun when one has grown to this, in bytes.
    pub segment_bytes: u64,
    /// Space taken from the file system at once. Writing into reserved space changes no file size,
    /// so that a flush writes data only.
    pub reserve_bytes: u64,
    /// Space that writes leave free on the disk, so that checkpoints can still be written.
    pub disk_reserve_bytes: u64,
    /// [`Durability::Relaxed`] entries are flushed within this time; a crash of the machine may lose that
    /// much of them.
    pub flush_interval: Duration,
    /// Payloads kept in memory for readers that follow closely, in bytes.
    pub cache_bytes_max: usize,
    /// Writes within each call instead of on a thread of the log's own. Slow; for simulations, whose
    /// runs must not depend on when a thread gets its turn.
    pub is_inline: bool,
    /// Milliseconds that an inline writer lets pass before each write, as a slow disk does.
    pub inline_pause_ms: Arc<AtomicU64>,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            segment_bytes: 32 * 1024 * 1024,
            reserve_bytes: 4 * 1024 * 1024,
            disk_reserve_bytes: 128 * 1024 * 1024,
            flush_interval: Duration::from_secs(1),
            cache_bytes_max: 8 * 1024 * 1024,
            is_inline: false,
            inline_pause_ms: Arc::default(),
        }
    }
}

/// Called once when a request is as durable as was asked for, or has failed; after a failure the log accepts nothing.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A node's log. Clones share it; when the last is dropped the writer flushes and ends.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    closer: Arc<Closer>,
}

/// What the handle and the writer thread share.
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: LogOptions,
    pub(crate) index: Mutex<Index>,
    pub(crate) queue: Mutex<Queue>,
    pub(crate) arrived: Condvar,
    pub(crate) clock: SystemClock,
}

#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) requests: VecDeque<Request>,
    pub(crate) closing: bool,
    /// Space reserved in the current segment beyond what is queued; negative once overdrawn.
    pub(crate) reserved_left_bytes: i64,
    /// When, by the log's clock, the thread has something to do that nobody asks for.
    pub(crate) due_at: Option<Duration>,
}

impl Queue {
    /// Whether nothing that waits has to wait for the disk, and all of it is small.
    pub(crate) fn is_short_and_relaxed(&self) -> bool {
        let mut bytes = 0;
        self.requests.iter().all(|request| {
            bytes += request.size_bytes();
            !request.waits_for_flush() && bytes <= CALLER_BYTES_MAX
        })
    }
}

/// What a caller writes itself, in bytes, rather than wake a thread for it.
pub(crate) const CALLER_BYTES_MAX: usize = 64 * 1024;

struct Closer {
    shared: Arc<Shared>,
    writer: Arc<Mutex<Writer>>,
    /// `None` if whoever calls does the work, or the thread was waited for.
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.shared.queue.lock().closing = true;
        self.shared.arrived.notify_all();
        match self.thread.lock().take() {
            Some(thread) => {
                // A writer that panicked has already failed every request it had.
                let _ = thread.join();
            }
            None => self.writer.lock().work(),
        }
    }
}

impl Log {
    /// Opens the log on `disk`, recovering what was durable: a torn tail is cut and reported.
    ///
    /// # Errors
    /// [`LogError::Damaged`] if bytes that were flushed are not whole; nothing is changed then.
    pub fn open(disk: Arc<dyn Disk>, options: LogOptions) -> Result<Log, LogError> {
        let io = |source| LogError::Io { location: disk.location().display().to_string(), source };
        let recovered = recovery::recover(&disk)?;
        let shared = Arc::new(Shared {
            disk: disk.clone(),
            options,
            index: Mutex::new(recovered.index),
            queue: Mutex::default(),
            arrived: Condvar::new(),
            clock: SystemClock::new(),
        });
        let writer = Writer::open(shared.clone(), recovered.tail).map_err(io)?;
        let writer = Arc::new(Mutex::new(writer));
        let thread = if shared.options.is_inline {
            None
        } else {
            let (shared, writer) = (shared.clone(), writer.clone());
            Some(spawn_thread("proteus-log", move || run(&shared, &writer)).map_err(io)?)
        };
        let closer = Closer { shared: shared.clone(), writer, thread: Mutex::new(thread) };
        Ok(Log { shared, closer: Arc::new(closer) })
    }

    /// Appends consecutive entries. They are readable when this returns. `done` waits for stable storage if
    /// they are to be flushed, and else for the operating system.
    ///
    /// # Panics
    /// If the entries do not follow the last one: a hole in the log loses data, so nobody may go on.
    pub fn append(
        &self,
        shard: ShardId,
        entries: Vec<LogEntry>,
        durability: Durability,
        done: Done,
    ) {
        let mut index = self.shared.index.lock();
        let shard_index = index.shards.entry(shard).or_default();
        let mut added_bytes = 0;
        for entry in &entries {
            assert_eq!(entry.id.index, shard_index.next(), "entries of a shard are consecutive");
            added_bytes += entry.payload.len();
            shard_index.push(Placed {
                term: entry.id.term,
                payload_bytes: u32::try_from(entry.payload.len()).unwrap_or(u32::MAX),
                payload: Some(entry.payload.clone()),
                location: None,
            });
        }
        index.cached_bytes += added_bytes;
        // The queue is filled under the index's lock, so that both have one order.
        self.submit(Request::Append { shard, entries, durability, done });
        drop(index);
        self.wake_writer();
    }

    /// Sets a small fact.
    pub fn set_meta(&self, shard: ShardId, key: MetaKey, value: Bytes, done: Done) {
        let mut index = self.shared.index.lock();
        index.shards.entry(shard).or_default().metas.insert(key, value.clone());
        self.submit(Request::Meta { shard, key, value, done });
        drop(index);
        self.wake_writer();
    }

    /// The shards that have anything in the log, ascending.
    pub fn shards(&self) -> Vec<ShardId> {
        let index = self.shared.index.lock();
        let is_there = |(_, shard): &(&ShardId, &ShardIndex)| !shard.is_forgotten();
        index.shards.iter().filter(is_there).map(|(id, _)| *id).collect()
    }

    /// Term and index of the last entry that a shard had here before it was forgotten, if it was.
    pub fn floor(&self, shard: ShardId) -> Option<(Term, LogIndex)> {
        self.floor_in(&self.shared.index.lock(), shard)
    }

    fn floor_in(&self, index: &Index, shard: ShardId) -> Option<(Term, LogIndex)> {
        let bytes = index.shards.get(&shard)?.metas.get(&MetaKey::Floor)?;
        let (term, index) = bytes.split_first_chunk()?;
        let (term, index) = (u64::from_le_bytes(*term), u64::from_le_bytes(*index.first_chunk()?));
        Some((Term(term), LogIndex(index)))
    }

    /// A small fact.
    pub fn meta(&self, shard: ShardId, key: MetaKey) -> Option<Bytes> {
        self.shared.index.lock().shards.get(&shard)?.metas.get(&key).cloned()
    }

    /// Removes entries after `last`, which stays; all of them if `None`.
    pub fn truncate_after(&self, shard: ShardId, last: Option<LogIndex>, done: Done) {
        let mut index = self.shared.index.lock();
        index.truncate_after(shard, last);
        let last = match index.shards.get(&shard).and_then(|shard| shard.last()) {
            Some(last) => last.index,
            None => {
                drop(index);
                return done(Ok(()));
            }
        };
        self.submit(Request::Truncate { shard, last, done });
        drop(index);
        self.wake_writer();
    }

    /// Removes entries up to and including `upto`, and the segments that nobody needs any more.
    pub fn purge(&self, shard: ShardId, upto: EntryId, done: Done) {
        let mut index = self.shared.index.lock();
        index.purge(shard, upto);
        self.submit(Request::Purge { shard, upto, done });
        drop(index);
        self.wake_writer();
    }

    /// Removes all that the log has of a shard, of which this node has no replica any more, but what it has promised to
    /// others: its vote, and up to where it had the shard's log. Nobody may use the shard meanwhile; it may begin anew
    /// afterwards.
    pub fn forget(&self, shard: ShardId, done: Done) {
        let mut index = self.shared.index.lock();
        let last = index.shards.get(&shard).and_then(|shard| shard.last());
        let floor = self.floor_in(&index, shard).max(last.map(|last| (last.term, last.index)));
        index.forget(shard);
        if let Some((term, last)) = floor {
            let mut value = term.0.to_le_bytes().to_vec();
            value.extend_from_slice(&last.0.to_le_bytes());
            let (key, value) = (MetaKey::Floor, Bytes::from(value));
            index.shards.entry(shard).or_default().metas.insert(key, value.clone());
            // Before it is forgotten, so that one is not without the other.
            self.submit(Request::Meta { shard, key, value, done: Box::new(|_| ()) });
        }
        self.submit(Request::Forget { shard, done });
        drop(index);
        self.wake_writer();
    }

    /// Flushes what was appended before, also what need not be yet.
    pub fn flush(&self, done: Done) {
        self.submit(Request::Flush { done });
        self.wake_writer();
    }

    /// As [`Log::flush`]; blocks until it is done.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn flush_now(&self) -> io::Result<()> {
        let (sender, receiver) = mpsc::channel();
        self.submit(Request::Flush { done: Box::new(move |result| drop(sender.send(result))) });
        // A slow inline writer would wait for whoever blocks here.
        if self.shared.options.is_inline {
            self.closer.writer.lock().work();
        } else {
            self.shared.arrived.notify_one();
        }
        receiver.recv().unwrap_or_else(|_| Err(io::Error::other("the log's writer has ended")))
    }

    /// The last purged and the last present entry; the latter equals the former when none is
    /// present.
    pub fn bounds(&self, shard: ShardId) -> (Option<EntryId>, Option<EntryId>) {
        let index = self.shared.index.lock();
        match index.shards.get(&shard) {
            Some(shard) => (shard.purged, shard.last()),
            None => (None, None),
        }
    }

    /// Entries of `range` (half-open) that are present, in order, stopping before the answer exceeds
    /// `bytes_max` unless the first alone does.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn read(
        &self,
        shard: ShardId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> io::Result<Vec<LogEntry>> {
        let mut entries: Vec<LogEntry> = Vec::new();
        let mut read_bytes = 0;
        for index in range {
            let index = LogIndex(index);
            let Some((id, source)) = self.source(shard, index) else { break };
            read_bytes += source.payload_bytes();
            if read_bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(LogEntry { id, payload: source.load()? });
        }
        Ok(entries)
    }

    /// Whether `bytes` more can be appended and leave the disk's reserve untouched.
    ///
    /// # Errors
    /// `StorageFull`, with how much is missing; or those of the file system.
    pub fn admit(&self, bytes: usize) -> io::Result<()> {
        let reserved_bytes =
            u64::try_from(self.shared.queue.lock().reserved_left_bytes).unwrap_or(0);
        // Taken from the disk already, which need not be asked then.
        if bytes as u64 <= reserved_bytes {
            return Ok(());
        }
        let available_bytes = self.shared.disk.available_bytes()?;
        let usable_bytes =
            reserved_bytes + available_bytes.saturating_sub(self.shared.options.disk_reserve_bytes);
        if bytes as u64 <= usable_bytes {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::StorageFull,
            format!(
                "{} has {} MiB free, and {} MiB are kept in reserve",
                self.shared.disk.location().display(),
                available_bytes >> 20,
                self.shared.options.disk_reserve_bytes >> 20,
            ),
        ))
    }

    /// Bytes of all segments.
    pub fn disk_bytes(&self) -> u64 {
        let segments = self.shared.index.lock().segments.clone();
        segments.iter().filter_map(|segment| segment.file.len().ok()).sum()
    }

    fn wake_writer(&self) {
        if !self.shared.options.is_inline {
            if !self.write_here() {
                self.shared.arrived.notify_one();
            }
            return;
        }
        let pause_ms = self.shared.options.inline_pause_ms.load(Ordering::Relaxed);
        if pause_ms == 0 {
            return self.closer.writer.lock().work();
        }
        // Whoever comes first does what all before have asked for, so the order stays.
        let closer = Arc::downgrade(&self.closer);
        task::spawn(async move {
            task::sleep(Duration::from_millis(pause_ms)).await;
            if let Some(closer) = closer.upgrade() {
                closer.writer.lock().work();
            }
        });
    }

    /// Writes what waits, if that takes no longer than to wake the writer's thread for it: nobody waits for
    /// the disk, it is small, and the thread is idle. Says whether there is nothing left for the thread to do.
    fn write_here(&self) -> bool {
        if !self.shared.queue.lock().is_short_and_relaxed() {
            return false;
        }
        self.closer.writer.try_lock().is_some_and(|mut writer| writer.work_for_caller())
    }

    fn submit(&self, request: Request) {
        self.shared.queue.lock().requests.push_back(request);
    }

    fn source(&self, shard: ShardId, index: LogIndex) -> Option<(EntryId, Source)> {
        let log_index = self.shared.index.lock();
        let shard_index = log_index.shards.get(&shard)?;
        let placed = shard_index.entries.get(shard_index.position(index)?)?;
        let id = EntryId { term: placed.term, index };
        if let Some(payload) = &placed.payload {
            return Some((id, Source::Memory(payload.clone())));
        }
        let location = placed.location.clone()?;
        let file = log_index.segment(location.segment)?.file.clone();
        let payload_bytes = placed.payload_bytes as usize;
        Some((id, Source::Disk { file, byte_offset: location.byte_offset, payload_bytes }))
    }
}

/// Where a payload comes from; a file stays readable while its handle lives, even once purged.
enum Source {
    Memory(Bytes),
    Disk { file: Arc<dyn proteus_env::disk::DiskFile>, byte_offset: u64, payload_bytes: usize },
}

impl Source {
    fn payload_bytes(&self) -> usize {
        match self {
            Source::Memory(payload) => payload.len(),
            Source::Disk { payload_bytes, .. } => *payload_bytes,
        }
    }

    fn load(self) -> io::Result<Bytes> {
        match self {
            Source::Memory(payload) => Ok(payload),
            Source::Disk { file, byte_offset, payload_bytes } => {
                let mut payload = vec![0; payload_bytes];
                file.read_at(byte_offset, &mut payload)?;
                Ok(Bytes::from(payload))
            }
        }
    }
}

#[cfg(test)]
mod tests;
