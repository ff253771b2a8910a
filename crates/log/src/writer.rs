//! Who writes: everything that has arrived becomes one write and one flush.
//!
//! There is one writer and a thread that works with it. What need not be flushed, is small and finds the
//! thread idle is written by whoever appends it, since waking the thread costs more than the write.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proteus_env::Clock;
use proteus_types::{Durability, EntryId, LogIndex, ShardId};
use tracing::{error, warn};

use crate::index::{Index, Location, Segment};
use crate::log::{CALLER_BYTES_MAX, Done, LogEntry, Shared};
use crate::pieces::Pieces;
use crate::record::{Record, SEGMENT_HEADER_BYTES, segment_header};
use crate::{MetaKey, recovery};

/// Most bytes in one write: what a small command behind it waits for.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Room that is left in what is reserved for what a caller writes itself.
const CALLER_ROOM_BYTES: u64 = 2 * CALLER_BYTES_MAX as u64;

/// How much later than a flush it is recorded at the latest that there was one.
const HINT_DELAY: Duration = Duration::from_millis(20);

pub(crate) enum Request {
    Append { shard: ShardId, entries: Vec<LogEntry>, durability: Durability, done: Done },
    Meta { shard: ShardId, key: MetaKey, value: Bytes, done: Done },
    Truncate { shard: ShardId, last: LogIndex, done: Done },
    Purge { shard: ShardId, upto: EntryId, done: Done },
    Forget { shard: ShardId, done: Done },
    Flush { done: Done },
}

impl Request {
    pub(crate) fn size_bytes(&self) -> usize {
        match self {
            Request::Append { entries, .. } => {
                entries.iter().map(|entry| entry.payload.len()).sum()
            }
            Request::Meta { value, .. } => value.len(),
            Request::Truncate { .. }
            | Request::Purge { .. }
            | Request::Forget { .. }
            | Request::Flush { .. } => 0,
        }
    }

    /// Whether who asked waits for stable storage.
    pub(crate) fn waits_for_flush(&self) -> bool {
        !matches!(self, Request::Append { durability: Durability::Relaxed, .. })
    }
}

/// Where the last segment ends.
pub(crate) struct Tail {
    pub(crate) segment: Segment,
    pub(crate) end_byte_offset: u64,
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    segment: Segment,
    /// Where the next record goes.
    end_byte_offset: u64,
    /// Bytes before this are on stable storage.
    flushed_byte_offset: u64,
    /// The same, as the segment's newest record of it says.
    recorded_byte_offset: u64,
    /// The file is this long, in zeros from `end_byte_offset` on.
    reserved_byte_offset: u64,
    pieces: Pieces,
    /// When what is written and not flushed, but for hints, has to be.
    flush_due_at: Option<Duration>,
    /// When it is to be recorded how far the log is flushed, if nothing is written before.
    hint_due_at: Option<Duration>,
    /// The earlier of both, as the thread was told.
    told_due_at: Option<Duration>,
    /// Why nothing is written any more.
    failed: Option<io::Error>,
}

/// An entry's place, to be entered in the index once it is written.
struct Place {
    shard: ShardId,
    index: LogIndex,
    byte_offset: u64,
}

impl Writer {
    /// A writer at the tail that recovery found, or in a first segment.
    pub(crate) fn open(shared: Arc<Shared>, tail: Option<Tail>) -> io::Result<Writer> {
        let (tail, fresh) = match tail {
            Some(tail) => (tail, false),
            None => (create_segment(&shared, 1)?, true),
        };
        let mut writer = Writer {
            shared,
            reserved_byte_offset: tail.segment.file.len()?,
            segment: tail.segment,
            end_byte_offset: tail.end_byte_offset,
            flushed_byte_offset: tail.end_byte_offset,
            recorded_byte_offset: 0,
            pieces: Pieces::default(),
            flush_due_at: None,
            hint_due_at: None,
            told_due_at: None,
            failed: None,
        };
        if !fresh {
            // What recovery kept of an unflushed tail was read from the page cache, perhaps; from
            // here on it counts, so it must be on the disk.
            writer.segment.file.flush()?;
            writer.repeat_facts();
        }
        writer.reserve();
        Ok(writer)
    }

    /// A crash may have torn the small facts off the segment's head, which older segments still have;
    /// these may go, so they are written again. Without space for that the older segments remain all
    /// the same until there is some: nothing can be appended, so nothing is purged.
    fn repeat_facts(&mut self) {
        put_facts(&self.shared.index.lock(), |record| self.pieces.push(&record));
        if !self.pieces.is_empty()
            && let Err(failure) = self.write_pieces().and_then(|()| self.flush_data())
        {
            warn!(error = %failure, "cannot repeat the facts of consensus in the newest log segment");
        }
    }

    /// Does what has arrived, and flushes if it is time to.
    pub(crate) fn work(&mut self) {
        loop {
            let requests = take_batch(&self.shared);
            if requests.is_empty() {
                break;
            }
            self.take(requests);
        }
        if self.is_past(self.flush_due_at) {
            self.flush_or_fail();
        }
        if self.is_past(self.hint_due_at) {
            self.write_hint();
        }
        self.tell_due();
    }

    fn is_past(&self, due_at: Option<Duration>) -> bool {
        due_at.is_some_and(|due_at| due_at <= self.shared.clock.elapsed())
    }

    /// Ends the writer's work: nothing more will arrive.
    fn end(&mut self) {
        self.work();
        // Nobody is left to hear of a failure; recovery will tell.
        self.flush_or_fail();
        self.write_hint();
    }

    /// Does what has arrived if none of it, nor what it brings about, waits for the disk. Says whether that
    /// leaves nothing for the thread to do.
    pub(crate) fn work_for_caller(&mut self) -> bool {
        let ahead_bytes = self.reserved_byte_offset.saturating_sub(self.end_byte_offset);
        let has_room = self.end_byte_offset < self.shared.options.segment_bytes
            && ahead_bytes >= self.shared.options.reserve_bytes / 2 + CALLER_ROOM_BYTES;
        if self.failed.is_some() || !has_room {
            return false;
        }
        let requests: Vec<Request> = {
            let mut queue = self.shared.queue.lock();
            if !queue.is_short_and_relaxed() {
                return false;
            }
            queue.requests.drain(..).collect()
        };
        if requests.is_empty() {
            return true;
        }
        self.take(requests);
        !self.tell_due()
    }

    fn take(&mut self, requests: Vec<Request>) {
        if let Some(failure) = &self.failed {
            return refuse(requests, failure);
        }
        if let Err(failure) = self.write(requests) {
            error!(error = %failure, location = %self.shared.disk.location().display(), "the log cannot be written; this node stops accepting writes");
            self.failed = Some(failure);
        }
    }

    fn flush_or_fail(&mut self) {
        if self.failed.is_none()
            && let Err(failure) = self.flush()
        {
            error!(error = %failure, location = %self.shared.disk.location().display(), "the log cannot be flushed; this node stops accepting writes");
            self.failed = Some(failure);
        }
    }

    /// Lets the thread know when there is something to do again that nobody asks for; says whether that is
    /// news to it.
    fn tell_due(&mut self) -> bool {
        let due_at = self.flush_due_at.into_iter().chain(self.hint_due_at).min();
        let due_at = due_at.filter(|_| self.failed.is_none());
        if due_at == self.told_due_at {
            return false;
        }
        self.told_due_at = due_at;
        self.shared.queue.lock().due_at = due_at;
        due_at.is_some()
    }

    fn write(&mut self, requests: Vec<Request>) -> io::Result<()> {
        let rolled = self.maybe_roll();
        self.pieces.clear();
        // Not by itself: on a full disk a flush alone must not fail.
        let writes = requests.iter().any(|request| !matches!(request, Request::Flush { .. }));
        if writes && self.recorded_byte_offset < self.flushed_byte_offset {
            self.record_flush();
        }
        let mut places = Vec::new();
        let mut dones = Vec::with_capacity(requests.len());
        let mut purges = false;
        // What is done is told in order, since who waits takes it for what comes before as well.
        let relaxed = requests.iter().position(Request::waits_for_flush).unwrap_or(requests.len());
        for request in requests {
            purges |= matches!(request, Request::Purge { .. } | Request::Forget { .. });
            dones.push(self.encode(request, &mut places));
        }
        let flushing = dones.split_off(relaxed);
        let written = rolled.and_then(|()| self.write_pieces());
        if written.is_err() {
            tell(dones.into_iter().chain(flushing), &written);
            return written;
        }
        let flush_interval = self.shared.options.flush_interval;
        self.flush_due_at.get_or_insert_with(|| self.shared.clock.elapsed() + flush_interval);
        self.enter(&places);
        tell(dones, &Ok(()));
        if !flushing.is_empty() {
            let flushed = self.flush_data();
            tell(flushing, &flushed);
            flushed?;
        }
        if purges {
            self.remove_unneeded();
        }
        self.plan_hint();
        self.reserve();
        Ok(())
    }

    fn encode(&mut self, request: Request, places: &mut Vec<Place>) -> Done {
        match request {
            Request::Append { shard, entries, done, .. } => {
                for LogEntry { id, payload } in entries {
                    let before = self.pieces.push_entry(shard, id, payload);
                    let byte_offset = self.end_byte_offset + before as u64;
                    places.push(Place { shard, index: id.index, byte_offset });
                }
                done
            }
            Request::Meta { shard, key, value, done } => {
                self.pieces.push(&Record::Meta { shard, key, value });
                done
            }
            Request::Truncate { shard, last, done } => {
                self.pieces.push(&Record::Truncate { shard, last });
                done
            }
            Request::Purge { shard, upto, done } => {
                self.pieces.push(&Record::Purge { shard, upto });
                done
            }
            Request::Forget { shard, done } => {
                self.pieces.push(&Record::Forget { shard });
                done
            }
            Request::Flush { done } => done,
        }
    }

    fn write_pieces(&mut self) -> io::Result<()> {
        if self.pieces.is_empty() {
            return Ok(());
        }
        self.pieces.write(&*self.segment.file, self.end_byte_offset)?;
        self.end_byte_offset += self.pieces.len() as u64;
        self.pieces.clear();
        self.reserved_byte_offset = self.reserved_byte_offset.max(self.end_byte_offset);
        Ok(())
    }

    fn flush_data(&mut self) -> io::Result<()> {
        self.segment.file.flush()?;
        self.flushed_byte_offset = self.end_byte_offset;
        self.flush_due_at = None;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.end_byte_offset > self.flushed_byte_offset {
            self.flush_data()?;
        }
        self.flush_due_at = None;
        Ok(())
    }

    /// Queues a record that all before it is flushed: what recovery may rely on being whole.
    fn record_flush(&mut self) {
        self.recorded_byte_offset = self.flushed_byte_offset;
        self.pieces.push(&Record::Flushed { byte_offset: self.flushed_byte_offset });
    }

    /// With nothing else to do, that record is written by itself, so that damage to the last acknowledged
    /// entry of an idle log is recognised too.
    fn plan_hint(&mut self) {
        if self.recorded_byte_offset >= self.flushed_byte_offset {
            self.hint_due_at = None;
        } else if self.shared.options.is_inline {
            self.write_hint();
        } else {
            self.hint_due_at.get_or_insert_with(|| self.shared.clock.elapsed() + HINT_DELAY);
        }
    }

    fn write_hint(&mut self) {
        self.hint_due_at = None;
        if self.failed.is_none() && self.recorded_byte_offset < self.flushed_byte_offset {
            self.pieces.clear();
            self.record_flush();
            let recorded = self.recorded_byte_offset;
            // It needs no flush of its own, and must not ask for another.
            if self.write_pieces().is_ok() {
                self.recorded_byte_offset = recorded.max(self.flushed_byte_offset);
            }
        }
    }

    fn enter(&self, places: &[Place]) {
        let mut index = self.shared.index.lock();
        for place in places {
            let location =
                Location { segment: self.segment.sequence, byte_offset: place.byte_offset };
            // An entry may have been truncated or purged while it was being written.
            if let Some(shard) = index.shards.get_mut(&place.shard)
                && let Some(position) = shard.position(place.index)
                && let Some(placed) = shard.entries.get_mut(position)
            {
                placed.location = Some(location);
            }
        }
        index.evict_to(self.shared.options.cache_bytes_max);
    }

    fn maybe_roll(&mut self) -> io::Result<()> {
        if self.end_byte_offset < self.shared.options.segment_bytes {
            return Ok(());
        }
        if let Err(failure) = self.roll() {
            warn!(error = %failure, "cannot begin a new log segment; the current one grows instead");
            // A begun successor would say that this segment is whole and never torn again.
            let successor = recovery::file_name(self.segment.sequence + 1);
            return match self.shared.disk.remove(&successor) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        Ok(())
    }

    /// Begins a new segment. It repeats every shard's small facts, so that older segments can go.
    fn roll(&mut self) -> io::Result<()> {
        self.flush()?;
        let end_byte_offset = self.end_byte_offset;
        let next = create_segment(&self.shared, self.segment.sequence + 1)?;
        // The zeros behind the last record are of no more use, and no harm if they stay.
        let _ = self.segment.file.truncate(end_byte_offset);
        self.segment = next.segment;
        self.end_byte_offset = next.end_byte_offset;
        self.flushed_byte_offset = next.end_byte_offset;
        self.recorded_byte_offset = 0;
        self.reserved_byte_offset = self.segment.file.len()?;
        Ok(())
    }

    /// Keeps reserved space ahead of the tail. Failing to is no error yet: [`crate::Log::admit`]
    /// stops new entries before the space in hand is used up.
    fn reserve(&mut self) {
        let ahead_bytes = self.shared.options.reserve_bytes;
        if self.reserved_byte_offset - self.end_byte_offset < ahead_bytes / 2 {
            let wanted = self.end_byte_offset + ahead_bytes;
            if self.segment.file.reserve(wanted).is_ok() {
                self.reserved_byte_offset = wanted;
            }
        }
        let left = self.reserved_byte_offset - self.end_byte_offset;
        // A part of it only: several entries are judged against it before the first is written.
        self.shared.queue.lock().reserved_left_bytes = i64::try_from(left / 4).unwrap_or(i64::MAX);
    }

    fn remove_unneeded(&self) {
        let mut index = self.shared.index.lock();
        let needed =
            index.oldest_needed().unwrap_or(self.segment.sequence).min(self.segment.sequence);
        let unneeded: Vec<Segment> =
            index.segments.iter().filter(|segment| segment.sequence < needed).cloned().collect();
        index.segments.retain(|segment| segment.sequence >= needed);
        drop(index);
        for segment in unneeded {
            // A file that stays is found and removed by a later purge or start.
            if let Err(failure) = self.shared.disk.remove(&recovery::file_name(segment.sequence)) {
                warn!(error = %failure, segment = segment.sequence, "cannot remove a purged log segment");
            }
        }
    }
}

/// The thread's work: until the last handle is dropped.
pub(crate) fn run(shared: &Shared, writer: &Mutex<Writer>) {
    while wait(shared) {
        writer.lock().work();
    }
    writer.lock().end();
}

/// Returns when something has arrived or it is time to flush; false if it is time to end.
fn wait(shared: &Shared) -> bool {
    let mut queue = shared.queue.lock();
    while queue.requests.is_empty() && !queue.closing {
        match queue.due_at {
            None => shared.arrived.wait(&mut queue),
            Some(due_at) => {
                let left = due_at.saturating_sub(shared.clock.elapsed());
                if left.is_zero() || shared.arrived.wait_for(&mut queue, left).timed_out() {
                    break;
                }
            }
        }
    }
    !queue.closing
}

/// Takes what has arrived, up to a batch.
fn take_batch(shared: &Shared) -> Vec<Request> {
    let mut queue = shared.queue.lock();
    let mut requests = Vec::new();
    let mut batch_bytes = 0;
    while let Some(request) = queue.requests.front() {
        batch_bytes += request.size_bytes();
        if batch_bytes > BATCH_BYTES_MAX && !requests.is_empty() {
            break;
        }
        requests.extend(queue.requests.pop_front());
    }
    requests
}

/// Tells what became of their requests.
fn tell(dones: impl IntoIterator<Item = Done>, result: &io::Result<()>) {
    for done in dones {
        let copied = |failure: &io::Error| io::Error::new(failure.kind(), failure.to_string());
        done(result.as_ref().copied().map_err(copied));
    }
}

fn refuse(requests: impl IntoIterator<Item = Request>, failure: &io::Error) {
    for request in requests {
        let (Request::Append { done, .. }
        | Request::Meta { done, .. }
        | Request::Truncate { done, .. }
        | Request::Purge { done, .. }
        | Request::Forget { done, .. }
        | Request::Flush { done }) = request;
        done(Err(io::Error::new(failure.kind(), failure.to_string())));
    }
}

/// A new segment with a header and the small facts of every shard, durable.
fn create_segment(shared: &Shared, sequence: u64) -> io::Result<Tail> {
    let file = shared.disk.open(&recovery::file_name(sequence))?;
    let mut head = segment_header().to_vec();
    let mut index = shared.index.lock();
    put_facts(&index, |record| record.encode(&mut head));
    debug_assert!(head.len() >= SEGMENT_HEADER_BYTES);
    file.truncate(0)?;
    file.write_at(0, &head)?;
    file.flush()?;
    shared.disk.flush_directory()?;
    let segment = Segment { sequence, file };
    index.segments.push(segment.clone());
    Ok(Tail { segment, end_byte_offset: head.len() as u64 })
}

/// Tells the small facts of every shard.
fn put_facts(index: &Index, mut put: impl FnMut(Record)) {
    for (shard, shard_index) in &index.shards {
        for (key, value) in &shard_index.metas {
            put(Record::Meta { shard: *shard, key: *key, value: value.clone() });
        }
        if let Some(upto) = shard_index.purged {
            put(Record::Purge { shard: *shard, upto });
        }
    }
}
