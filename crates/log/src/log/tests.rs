use std::sync::mpsc;

use proteus_env::sim_disk::SimDisk;
use proteus_types::Term;

use super::*;

const SHARD: ShardId = ShardId(0);

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 2_000,
        reserve_bytes: 1_500,
        disk_reserve_bytes: 0,
        cache_bytes_max: 500,
        ..LogOptions::default()
    }
}

fn open(disk: &SimDisk) -> Result<Log, LogError> {
    Log::open(Arc::new(disk.clone()), options())
}

/// With room for callers to write what need not be flushed.
fn open_roomy(disk: &SimDisk) -> Result<Log, LogError> {
    let (segment_bytes, reserve_bytes) = (800_000, 500_000);
    Log::open(Arc::new(disk.clone()), LogOptions { segment_bytes, reserve_bytes, ..options() })
}

fn id(term: u64, index: u64) -> EntryId {
    EntryId { term: Term(term), index: LogIndex(index) }
}

fn payload(term: u64, index: u64) -> Bytes {
    Bytes::from(format!("{term}/{index}:{}", "x".repeat((index * 37 % 300) as usize)))
}

fn entry(term: u64, index: u64) -> LogEntry {
    LogEntry { id: id(term, index), payload: payload(term, index) }
}

fn wait(request: impl FnOnce(Done)) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel();
    request(Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap()
}

fn append(log: &Log, entries: Vec<LogEntry>) -> io::Result<()> {
    wait(|done| log.append(SHARD, entries, Durability::Flushed, done))
}

fn read_all(log: &Log) -> Vec<LogEntry> {
    let (purged, last) = log.bounds(SHARD);
    let first = purged.map_or(0, |purged| purged.index.0 + 1);
    let end = last.map_or(0, |last| last.index.0 + 1);
    let entries = log.read(SHARD, first..end, usize::MAX).unwrap();
    assert_eq!(entries.len() as u64, end - first.min(end));
    entries
}

#[test]
fn entries_survive_reopening_across_segments() {
    let disk = SimDisk::new(1);
    let log = open(&disk).unwrap();
    for index in 0..100 {
        append(&log, vec![entry(1, index)]).unwrap();
    }
    assert!(disk.list().unwrap().len() > 3, "segments are rolled");
    wait(|done| log.set_meta(SHARD, MetaKey::Vote, Bytes::from_static(b"me"), done)).unwrap();
    wait(|done| log.truncate_after(SHARD, Some(LogIndex(89)), done)).unwrap();
    append(&log, vec![entry(2, 90), entry(2, 91)]).unwrap();
    wait(|done| log.purge(SHARD, id(1, 59), done)).unwrap();
    let before = read_all(&log);
    assert_eq!(before.len(), 32);
    drop(log);
    let log = open(&disk).unwrap();
    assert_eq!(read_all(&log), before);
    assert_eq!(log.bounds(SHARD), (Some(id(1, 59)), Some(id(2, 91))));
    assert_eq!(log.meta(SHARD, MetaKey::Vote).unwrap(), "me");
    append(&log, vec![entry(2, 92)]).unwrap();
    assert_eq!(read_all(&log).len(), 33);
}

#[test]
fn purging_gives_back_the_disk() {
    let disk = SimDisk::new(1);
    let log = open(&disk).unwrap();
    for index in 0..200 {
        append(&log, vec![entry(1, index)]).unwrap();
    }
    let before = disk.list().unwrap().len();
    wait(|done| log.purge(SHARD, id(1, 198), done)).unwrap();
    // Requests are answered before files are removed; the next answer comes after.
    append(&log, vec![entry(1, 200)]).unwrap();
    assert!(disk.list().unwrap().len() < before / 2);
    assert_eq!(read_all(&log), vec![entry(1, 199), entry(1, 200)]);
}

/// Whatever write the power is cut at, everything acknowledged is there afterwards, and what is
/// there is a prefix of what was sent.
#[test]
fn a_shard_that_was_forgotten_may_begin_anew() {
    let disk = SimDisk::new(3);
    let log = open(&disk).unwrap();
    let other = ShardId(7);
    wait(|done| log.set_meta(SHARD, MetaKey::Vote, Bytes::from_static(b"vote"), done)).unwrap();
    append(&log, (0..40).map(|index| entry(1, index)).collect()).unwrap();
    wait(|done| log.append(other, vec![entry(1, 0)], Durability::Flushed, done)).unwrap();
    wait(|done| log.forget(SHARD, done)).unwrap();
    assert_eq!((log.shards(), log.bounds(SHARD)), (vec![other], (None, None)));
    drop(log);
    let log = open(&disk).unwrap();
    let vote = Bytes::from_static(b"vote");
    assert_eq!((log.shards(), log.meta(SHARD, MetaKey::Vote)), (vec![other], Some(vote)));
    assert_eq!(log.floor(SHARD), Some((Term(1), LogIndex(39))), "what it had is not forgotten");
    append(&log, (0..3).map(|index| entry(2, index)).collect()).unwrap();
    drop(log);
    let log = open(&disk).unwrap();
    assert_eq!(read_all(&log), (0..3).map(|index| entry(2, index)).collect::<Vec<_>>());
    assert_eq!(
        (log.shards(), log.floor(SHARD)),
        (vec![SHARD, other], Some((Term(1), LogIndex(39))))
    );
    assert_eq!(log.read(other, 0..1, 9).unwrap(), [entry(1, 0)]);
}

#[test]
fn acknowledged_entries_survive_a_power_cut_at_every_write() {
    for seed in 1..=400 {
        let disk = SimDisk::new(seed);
        let mut sent = 0;
        let mut acknowledged = 0;
        for round in 0..3 {
            let Ok(log) = open(&disk) else { panic!("seed {seed}: does not open after a crash") };
            let (_, last) = log.bounds(SHARD);
            let present = last.map_or(0, |last| last.index.0 + 1);
            assert!(present >= acknowledged, "seed {seed}: lost an acknowledged entry");
            assert!(present <= sent, "seed {seed}: holds an entry that nobody sent");
            for (index, found) in read_all(&log).iter().enumerate() {
                assert_eq!(*found, entry(1, index as u64), "seed {seed}");
            }
            sent = present;
            acknowledged = present;
            disk.cut_power_after(seed % 97 + round);
            while sent < present + 40 {
                let count = sent % 3 + 1;
                let entries = (sent..sent + count).map(|index| entry(1, index)).collect();
                sent += count;
                if append(&log, entries).is_err() {
                    break;
                }
                acknowledged = sent;
            }
            drop(log);
            disk.crash();
        }
    }
}

/// A bit flipped anywhere in acknowledged entries is reported with its file, and never skipped.
#[test]
fn damage_to_acknowledged_entries_is_refused() {
    let build = || {
        let disk = SimDisk::new(7);
        let log = open(&disk).unwrap();
        for index in 0..30 {
            append(&log, vec![entry(1, index)]).unwrap();
        }
        // The hint that the last flush is over is written once the writer is idle.
        drop(log);
        disk
    };
    // Where the last record ends depends on when the writer was idle, so on the build.
    let end_of = |disk: &SimDisk, name: &str| {
        let file = disk.open(name).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        // The last record of the last segment is only the hint itself.
        let is_last = disk.list().unwrap().last().is_some_and(|last| last == name);
        if is_last { end.saturating_sub(18) } else { end }
    };
    let disk = build();
    let names = disk.list().unwrap();
    assert!(names.len() >= 2);
    for name in &names {
        for place in (0..end_of(&disk, name)).step_by(7) {
            let disk = build();
            if place >= end_of(&disk, name) {
                continue;
            }
            disk.flip_bit(name, place, (place % 8) as u8);
            match open(&disk) {
                Err(LogError::Damaged { file, .. }) => {
                    assert!(file.contains("simulated"), "{file}")
                }
                Err(other) => panic!("{name} at {place}: {other}"),
                Ok(_) => panic!("{name}: bit at {place} went unnoticed"),
            }
        }
    }
}

#[test]
fn a_full_disk_refuses_admission_and_accepts_again() {
    let disk = SimDisk::new(3);
    let log = Log::open(
        Arc::new(disk.clone()),
        LogOptions { disk_reserve_bytes: 1_000_000, ..options() },
    )
    .unwrap();
    append(&log, vec![entry(1, 0)]).unwrap();
    disk.set_capacity(Some(4_500_000));
    let refused = log.admit(4_000_000).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    log.admit(1_000).unwrap();
    disk.set_capacity(None);
    log.admit(4_000_000).unwrap();
}

#[test]
fn a_flush_on_a_full_disk_is_no_failure() {
    let disk = SimDisk::new(9);
    let unreserved = LogOptions { reserve_bytes: 0, ..options() };
    let log = Log::open(Arc::new(disk.clone()), unreserved).unwrap();
    append(&log, vec![entry(1, 0)]).unwrap();
    let bytes: usize = disk.lengths().iter().map(|(_, bytes)| bytes).sum();
    disk.set_capacity(Some(bytes as u64));
    wait(|done| log.flush(done)).unwrap();
    disk.set_capacity(None);
    append(&log, vec![entry(1, 1)]).unwrap();
}

#[test]
fn group_commit_answers_in_order() {
    let disk = SimDisk::new(5);
    let log = open(&disk).unwrap();
    let (sender, receiver) = mpsc::channel();
    for index in 0..500 {
        let sender = sender.clone();
        // Whoever hears of one takes it for those before as well.
        let relaxed = index % 3 == 0;
        let durability = if relaxed { Durability::Relaxed } else { Durability::Flushed };
        let done: Done = Box::new(move |result| sender.send((index, result.is_ok())).unwrap());
        log.append(SHARD, vec![entry(1, index)], durability, done);
    }
    for index in 0..500 {
        assert_eq!(receiver.recv().unwrap(), (index, true));
    }
}

/// What need not be flushed may go with the power, from the end; what was flushed stays, and all before it.
#[test]
fn relaxed_entries_are_as_safe_as_the_flushed_one_behind_them() {
    let mut lost = 0;
    for seed in 1..=200 {
        let disk = SimDisk::new(seed);
        let log = if seed % 3 == 0 { open(&disk) } else { open_roomy(&disk) }.unwrap();
        let (mut sent, mut flushed) = (0, 0);
        while sent < 20 + seed % 7 {
            let is_flushed = (sent * seed) % 5 == 0;
            let durability = if is_flushed { Durability::Flushed } else { Durability::Relaxed };
            wait(|done| log.append(SHARD, vec![entry(1, sent)], durability, done)).unwrap();
            sent += 1;
            flushed = if is_flushed { sent } else { flushed };
        }
        if seed % 2 == 0 {
            wait(|done| log.flush(done)).unwrap();
            flushed = sent;
        }
        // Ending flushes, which a power cut does not let it.
        disk.cut_power_after(0);
        drop(log);
        disk.crash();
        let found = read_all(&open(&disk).unwrap());
        let expected: Vec<LogEntry> = (0..found.len() as u64).map(|i| entry(1, i)).collect();
        assert_eq!(found, expected, "seed {seed}");
        assert!(found.len() as u64 >= flushed, "seed {seed}: {} of {flushed}", found.len());
        lost += sent - found.len() as u64;
    }
    assert!(lost > 0, "a relaxed entry was flushed before it was acknowledged, each time");
}

#[test]
fn what_need_not_be_flushed_is_written_by_whoever_appends_it() {
    let disk = SimDisk::new(1);
    let log = open_roomy(&disk).unwrap();
    let (sender, receiver) = mpsc::channel();
    let done: Done = Box::new(move |result| {
        sender.send((std::thread::current().id(), result.is_ok())).unwrap();
    });
    log.append(SHARD, vec![entry(1, 0)], Durability::Relaxed, done);
    assert_eq!(receiver.try_recv().unwrap(), (std::thread::current().id(), true));
    assert!(!disk.is_flushed());
    // The thread flushes it, in time.
    while !disk.is_flushed() {
        std::thread::yield_now();
    }
}

#[test]
fn callers_and_the_thread_write_one_log() {
    const ENTRIES: u64 = 2_000;
    let disk = SimDisk::new(7);
    let log = open_roomy(&disk).unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for shard in 0..3 {
            let (log, sender) = (log.clone(), sender.clone());
            scope.spawn(move || {
                for index in 0..ENTRIES {
                    let is_flushed = index % (7 + u64::from(shard)) == 0;
                    let durability =
                        if is_flushed { Durability::Flushed } else { Durability::Relaxed };
                    let sender = sender.clone();
                    let done: Done = Box::new(move |result| {
                        sender.send((shard, index, result.is_ok())).unwrap()
                    });
                    log.append(ShardId(shard), vec![entry(1, index)], durability, done);
                }
            });
        }
    });
    let mut next = [0; 3];
    for _ in 0..3 * ENTRIES {
        let (shard, index, is_done) = receiver.recv().unwrap();
        assert_eq!((next[shard as usize], true), (index, is_done), "told in order");
        next[shard as usize] += 1;
    }
    drop(log);
    let log = open_roomy(&disk).unwrap();
    for shard in 0..3 {
        let found = log.read(ShardId(shard), 0..ENTRIES, usize::MAX).unwrap();
        assert!(found == (0..ENTRIES).map(|index| entry(1, index)).collect::<Vec<_>>());
    }
}

/// With no space for a new segment the current one grows. What a crash then tears is its tail, although
/// a file of the next number may have been left behind.
#[test]
fn a_crash_after_a_segment_that_could_not_begin_is_no_damage() {
    for seed in 1..=200 {
        let disk = SimDisk::new(seed);
        let options = LogOptions { segment_bytes: 1_000, reserve_bytes: 8_000, ..options() };
        let open = || Log::open(Arc::new(disk.clone()), options.clone());
        let log = open().unwrap();
        append(&log, vec![entry(1, 0)]).unwrap();
        let used_bytes = u64::MAX - disk.available_bytes().unwrap();
        disk.set_capacity(Some(used_bytes + seed % 40));
        let mut acknowledged = 1;
        while append(&log, vec![entry(1, acknowledged)]).is_ok() {
            acknowledged += 1;
            if acknowledged == 10 + seed % 12 {
                disk.cut_power_after(1 + seed % 7);
            }
        }
        drop(log);
        disk.set_capacity(None);
        disk.crash();
        let log = open().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let present = read_all(&log).len() as u64;
        assert!(present >= acknowledged, "seed {seed}: {present} of {acknowledged}");
        append(&log, vec![entry(1, present)]).unwrap();
        drop(log);
        assert_eq!(read_all(&open().unwrap()).len() as u64, present + 1, "seed {seed}");
    }
}

/// A header is written and then flushed; a crash between the two leaves any part of it.
#[test]
fn a_segment_whose_header_was_torn_never_began() {
    for header_bytes in 0..crate::SEGMENT_HEADER_BYTES {
        let disk = SimDisk::new(1);
        let log = open(&disk).unwrap();
        append(&log, vec![entry(1, 0)]).unwrap();
        drop(log);
        let torn = disk.open("0000000000000002.log").unwrap();
        torn.write_at(0, &crate::record::segment_header()[..header_bytes]).unwrap();
        let log = open(&disk).unwrap_or_else(|error| panic!("{header_bytes} bytes: {error}"));
        append(&log, vec![entry(1, 1)]).unwrap();
        assert_eq!(read_all(&log).len(), 2);
    }
}

/// What is left of a torn header may have lost a bit as well; it is then of no version at all.
#[test]
fn a_torn_header_with_a_flipped_bit_is_not_of_an_unknown_version() {
    for header_bytes in 1..crate::SEGMENT_HEADER_BYTES {
        for bit in 0..header_bytes * 8 {
            let disk = SimDisk::new(1);
            let log = open(&disk).unwrap();
            append(&log, vec![entry(1, 0)]).unwrap();
            drop(log);
            let torn = disk.open("0000000000000002.log").unwrap();
            let mut header = [0; crate::SEGMENT_HEADER_BYTES];
            header[..header_bytes]
                .copy_from_slice(&crate::record::segment_header()[..header_bytes]);
            header[bit / 8] ^= 1 << (bit % 8);
            torn.write_at(0, &header).unwrap();
            let log = open(&disk).unwrap_or_else(|error| panic!("bit {bit}: {error}"));
            assert_eq!(read_all(&log).len(), 1, "bit {bit} of {header_bytes} bytes");
        }
    }
}

/// A header that is whole and of another version is no damage: another binary wrote it.
#[test]
fn a_segment_of_an_unknown_version_is_refused_as_such() {
    let disk = SimDisk::new(1);
    let log = open(&disk).unwrap();
    append(&log, vec![entry(1, 0)]).unwrap();
    drop(log);
    let next = disk.open("0000000000000002.log").unwrap();
    next.write_at(0, &crate::record::segment_header_of(9)).unwrap();
    let refused = open(&disk);
    assert!(matches!(refused, Err(LogError::UnknownVersion { version: 9, .. })));
}

/// A segment repeats the small facts at its head, so that older ones can go. A crash may tear them off
/// when the header before them is whole.
#[test]
fn facts_torn_off_a_segments_head_are_not_lost_with_the_older_segments() {
    let disk = SimDisk::new(1);
    let log = open(&disk).unwrap();
    wait(|done| log.set_meta(SHARD, MetaKey::Vote, Bytes::from_static(b"me"), done)).unwrap();
    append(&log, vec![entry(1, 0)]).unwrap();
    drop(log);
    let torn = disk.open("0000000000000002.log").unwrap();
    torn.write_at(0, &crate::record::segment_header()).unwrap();
    let log = open(&disk).unwrap();
    append(&log, vec![entry(1, 1)]).unwrap();
    wait(|done| log.purge(SHARD, id(1, 0), done)).unwrap();
    append(&log, vec![entry(1, 2)]).unwrap();
    assert_eq!(disk.list().unwrap(), ["0000000000000002.log"]);
    drop(log);
    let log = open(&disk).unwrap();
    assert_eq!(log.meta(SHARD, MetaKey::Vote).unwrap(), "me");
    assert_eq!(read_all(&log), vec![entry(1, 1), entry(1, 2)]);
}
