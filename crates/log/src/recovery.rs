//! Reading the segments back.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use proteus_env::disk::{Disk, DiskFile};
use proteus_types::{EntryId, LogIndex, ShardId};
use tracing::warn;

use crate::index::{Index, Location, Placed, Segment, ShardIndex};
use crate::record::{
    Decoded, ENTRY_HEADER_BYTES, FORMAT_VERSION, RECORD_HEADER_BYTES, Record, SEGMENT_HEADER_BYTES,
    segment_version,
};
use crate::writer::Tail;
use crate::{LogError, MetaKey};

const SUFFIX: &str = ".log";

/// Name of the segment's file.
pub(crate) fn file_name(sequence: u64) -> String {
    format!("{sequence:016}{SUFFIX}")
}

fn sequence_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    (digits.len() == 16).then(|| digits.parse().ok())?
}

pub(crate) struct Recovered {
    pub(crate) index: Index,
    pub(crate) tail: Option<Tail>,
}

#[derive(Default)]
struct ShardFound {
    purged: Option<EntryId>,
    entries: BTreeMap<LogIndex, Placed>,
    metas: BTreeMap<MetaKey, Bytes>,
}

/// What the segments hold, with nothing changed yet.
struct Scanned {
    shards: BTreeMap<ShardId, ShardFound>,
    segments: Vec<Segment>,
    /// Where the next record goes in the last segment.
    end_byte_offset: u64,
    /// Whether bytes follow there that no record is made of.
    has_torn_tail: bool,
    /// Segments that a crash left without a header.
    headless: Vec<u64>,
}

/// Reads all segments in order. Refuses damage before the tail.
fn scan(disk: &Arc<dyn Disk>) -> Result<Scanned, LogError> {
    let io = |source| LogError::Io { location: disk.location().display().to_string(), source };
    let mut sequences: Vec<u64> =
        disk.list().map_err(io)?.iter().filter_map(|name| sequence_of(name)).collect();
    sequences.sort_unstable();
    let mut scanned = Scanned {
        shards: BTreeMap::new(),
        segments: Vec::new(),
        end_byte_offset: 0,
        has_torn_tail: false,
        headless: Vec::new(),
    };
    // What never began counts for nothing: the segment before it is the last, which a crash may tear.
    while let Some(sequence) = sequences.last() {
        let file = disk.open(&file_name(*sequence)).map_err(io)?;
        if !never_began(file.as_ref()).map_err(io)? {
            break;
        }
        scanned.headless.push(*sequence);
        sequences.pop();
    }
    for (position, sequence) in sequences.iter().enumerate() {
        let is_last = position + 1 == sequences.len();
        let file = disk.open(&file_name(*sequence)).map_err(io)?;
        let mut bytes = vec![0; usize::try_from(file.len().map_err(io)?).unwrap_or(usize::MAX)];
        file.read_at(0, &mut bytes).map_err(io)?;
        let path = path_of(disk, *sequence);
        let end = replay(&bytes, &path, *sequence, is_last, &mut scanned.shards)?;
        scanned.segments.push(Segment { sequence: *sequence, file });
        scanned.end_byte_offset = end;
        let rest = bytes.get(end as usize..).unwrap_or_default();
        scanned.has_torn_tail = is_last && rest.iter().any(|byte| *byte != 0);
    }
    Ok(scanned)
}

fn path_of(disk: &Arc<dyn Disk>, sequence: u64) -> String {
    disk.location().join(file_name(sequence)).display().to_string()
}

/// Reads all segments in order. Cuts a torn tail; refuses damage before it.
pub(crate) fn recover(disk: &Arc<dyn Disk>) -> Result<Recovered, LogError> {
    let io = |source| LogError::Io { location: disk.location().display().to_string(), source };
    let scanned = scan(disk)?;
    for sequence in scanned.headless {
        let file = path_of(disk, sequence);
        warn!(file, "removing a log segment that a crash left without a header");
        disk.remove(&file_name(sequence)).map_err(io)?;
    }
    let end_byte_offset = scanned.end_byte_offset;
    let tail = scanned.segments.last().cloned();
    if scanned.has_torn_tail
        && let Some(segment) = &tail
    {
        warn!(
            file = path_of(disk, segment.sequence),
            byte_offset = end_byte_offset,
            "cutting a torn tail: what a crash left unfinished was never acknowledged"
        );
        segment.file.truncate(end_byte_offset).map_err(io)?;
        segment.file.flush().map_err(io)?;
    }
    let mut index = Index { segments: scanned.segments, ..Index::default() };
    for (shard, found) in scanned.shards {
        index.shards.insert(shard, found.close(disk)?);
    }
    let tail = tail.map(|segment| Tail { segment, end_byte_offset });
    Ok(Recovered { index, tail })
}

/// What a log on disk holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogReport {
    /// Files.
    pub segment_count: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Where the next start will cut what a crash left unfinished, if it did.
    pub torn_tail: Option<(String, u64)>,
    /// Files that a crash left without a header, and the next start will remove.
    pub headless: Vec<String>,
    /// Of each shard, the last purged and the last present entry.
    pub shards: Vec<(ShardId, Option<EntryId>, Option<EntryId>)>,
}

/// Reads the log on `disk` and changes nothing. No node may be running on it.
///
/// # Errors
/// As [`crate::Log::open`].
pub fn inspect(disk: &Arc<dyn Disk>) -> Result<LogReport, LogError> {
    let io = |source| LogError::Io { location: disk.location().display().to_string(), source };
    let scanned = scan(disk)?;
    let mut bytes = 0;
    for segment in &scanned.segments {
        bytes += segment.file.len().map_err(io)?;
    }
    let last = scanned.segments.last().filter(|_| scanned.has_torn_tail);
    let torn_tail = last.map(|last| (path_of(disk, last.sequence), scanned.end_byte_offset));
    let mut shards = Vec::new();
    for (shard, found) in scanned.shards {
        let index = found.close(disk)?;
        if !index.is_forgotten() {
            shards.push((shard, index.purged, index.last()));
        }
    }
    Ok(LogReport {
        segment_count: scanned.segments.len(),
        bytes,
        torn_tail,
        headless: scanned.headless.iter().map(|sequence| path_of(disk, *sequence)).collect(),
        shards,
    })
}

/// Whether the segment's header is not whole, and nothing behind it was ever flushed.
fn never_began(file: &dyn DiskFile) -> io::Result<bool> {
    let length_bytes = file.len()?;
    if length_bytes < SEGMENT_HEADER_BYTES as u64 {
        return Ok(true);
    }
    let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
    file.read_at(0, &mut bytes)?;
    if segment_version(&bytes).is_some() {
        return Ok(false);
    }
    bytes.resize(usize::try_from(length_bytes).unwrap_or(usize::MAX), 0);
    file.read_at(0, &mut bytes)?;
    Ok(flushed_upto(&bytes, 0).is_none())
}

/// Reads one segment's records; says where the next one goes.
fn replay(
    bytes: &[u8],
    path: &str,
    sequence: u64,
    is_last: bool,
    shards: &mut BTreeMap<ShardId, ShardFound>,
) -> Result<u64, LogError> {
    let damaged = |byte_offset: usize, what: String| LogError::Damaged {
        file: path.to_owned(),
        byte_offset: byte_offset as u64,
        what,
    };
    match segment_version(bytes) {
        Some(FORMAT_VERSION) => {}
        Some(version) => {
            return Err(LogError::UnknownVersion {
                file: path.to_owned(),
                version,
                known: FORMAT_VERSION,
            });
        }
        None => return Err(damaged(0, "the header of this segment is not whole".to_owned())),
    }
    let mut place = SEGMENT_HEADER_BYTES;
    loop {
        let broken = match Record::decode(&bytes[place..]) {
            Decoded::Record(record, used) => {
                take(record, sequence, place as u64, shards);
                place += used;
                continue;
            }
            Decoded::End => "space was reserved here, and records follow it".to_owned(),
            Decoded::Broken(what) => what,
        };
        let rest = &bytes[place..];
        let clean_end = rest.iter().all(|byte| *byte == 0);
        if clean_end {
            return Ok(place as u64);
        }
        if !is_last {
            return Err(damaged(place, broken));
        }
        return match flushed_upto(bytes, place) {
            Some(flushed) if flushed > place as u64 => Err(damaged(place, broken)),
            _ => Ok(place as u64),
        };
    }
}

/// The furthest flush recorded after `place`, found by looking for its records at every byte.
///
/// Damage behind that flush is damage to acknowledged entries, whatever it did to lengths.
fn flushed_upto(bytes: &[u8], place: usize) -> Option<u64> {
    /// Length field of a flush record: kind and offset.
    const FLUSH_LENGTH: [u8; 4] = 9u32.to_le_bytes();
    let mut furthest = None;
    for at in place..bytes.len().saturating_sub(FLUSH_LENGTH.len()) {
        if bytes[at..at + FLUSH_LENGTH.len()] == FLUSH_LENGTH
            && let Decoded::Record(Record::Flushed { byte_offset }, _) = Record::decode(&bytes[at..])
            // One that an entry merely carries, or of an older use of the space, cannot be ahead
            // of its own place.
            && byte_offset <= at as u64
        {
            furthest = furthest.max(Some(byte_offset));
        }
    }
    furthest
}

fn take(record: Record, sequence: u64, place: u64, shards: &mut BTreeMap<ShardId, ShardFound>) {
    match record {
        Record::Entry { shard, id, payload } => {
            let byte_offset = place + (RECORD_HEADER_BYTES + ENTRY_HEADER_BYTES) as u64;
            let placed = Placed {
                term: id.term,
                payload_bytes: u32::try_from(payload.len()).unwrap_or(u32::MAX),
                payload: None,
                location: Some(Location { segment: sequence, byte_offset }),
            };
            shards.entry(shard).or_default().entries.insert(id.index, placed);
        }
        Record::Meta { shard, key, value } => {
            shards.entry(shard).or_default().metas.insert(key, value);
        }
        Record::Truncate { shard, last } => {
            shards.entry(shard).or_default().entries.split_off(&last.next());
        }
        Record::Purge { shard, upto } => {
            let found = shards.entry(shard).or_default();
            found.entries = found.entries.split_off(&upto.index.next());
            if found.purged.is_none_or(|purged| purged.index < upto.index) {
                found.purged = Some(upto);
            }
        }
        Record::Forget { shard } => {
            if let Some(gone) = shards.remove(&shard) {
                let mut metas = gone.metas;
                metas.retain(|key, _| key.outlives_shard());
                shards.insert(shard, ShardFound { metas, ..ShardFound::default() });
            }
        }
        Record::Flushed { .. } => {}
    }
}

impl ShardFound {
    /// The shard's index, if no entry is missing.
    fn close(self, disk: &Arc<dyn Disk>) -> Result<ShardIndex, LogError> {
        let first = self.purged.map_or(LogIndex(0), |purged| purged.index.next());
        let mut next = first;
        for index in self.entries.keys() {
            if *index != next {
                return Err(LogError::Damaged {
                    file: disk.location().display().to_string(),
                    byte_offset: 0,
                    what: format!("entries {next} to {} are missing", index.0.saturating_sub(1)),
                });
            }
            next = next.next();
        }
        let entries: VecDeque<Placed> = self.entries.into_values().collect();
        Ok(ShardIndex { purged: self.purged, entries, metas: self.metas, evicted_count: 0 })
    }
}
