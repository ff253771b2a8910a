//! The shard with a toy machine: what was acknowledged is there after any end, exactly once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proteus_env::disk::{Disk, RealDisk};
use proteus_env::sim_disk::SimDisk;
use proteus_env::{Clock, ManualClock};
use proteus_kernel::{
    Alone, ChoreOptions, CommitSink, LogBehind, LogPart, Replay, RestoredState, Shard, ShardOptions,
};
use proteus_log::{Log, LogOptions};
use proteus_machine::{Committed, KernelError, Position, ShardMachine, View};
use proteus_store::{DiskStore, LayeredStore, Read, State, StoreError};
use proteus_types::{CommitTs, Durability, Member, NodeId, ShardId};

/// Adds numbers to one sum, and answers with it. A zero changes nothing.
struct Adder;

const SUM_KEY: &[u8] = &[1];

/// A command that breaks an invariant of the machine.
const BROKEN: u64 = u64::MAX;

fn sum(view: View<'_>) -> u64 {
    let value = view.state.get(SUM_KEY).unwrap();
    value.map_or(0, |value| u64::from_le_bytes(value[..].try_into().unwrap()))
}

impl ShardMachine for Adder {
    type Command = u64;
    type Outcome = (u64, CommitTs);
    type Change = u64;

    fn encode(command: &u64, into: &mut Vec<u8>) {
        into.extend_from_slice(&command.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<(u64, &[u8]), StoreError> {
        let (head, rest) = bytes.split_first_chunk::<8>().unwrap();
        Ok((u64::from_le_bytes(*head), rest))
    }

    fn apply(
        state: &mut dyn State,
        position: Position,
        command: &u64,
        changes: &mut Vec<u64>,
    ) -> Result<(u64, CommitTs), StoreError> {
        let value = state.get(SUM_KEY)?;
        let before = value.map_or(0, |value| u64::from_le_bytes(value[..].try_into().unwrap()));
        assert_ne!(*command, BROKEN, "an invariant that does not hold");
        let after = before + command;
        if *command > 0 {
            state.put(SUM_KEY.to_vec().into(), after.to_le_bytes().to_vec().into());
            changes.push(after);
        }
        Ok((after, position.commit_ts))
    }

    fn has_happened(_outcome: &(u64, CommitTs)) -> bool {
        true
    }

    fn due(_view: View<'_>, _count_max: usize) -> Result<Vec<u64>, StoreError> {
        Ok(Vec::new())
    }

    fn next_due_ms(_state: &dyn Read) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }
}

#[derive(Default)]
struct Recorder(Mutex<Vec<Committed<u64>>>);

impl CommitSink<u64> for Recorder {
    fn on_commit(&self, commit: Committed<u64>) {
        self.0.lock().push(commit);
    }

    fn on_gap(&self, _applied_ts: CommitTs) {}
}

async fn open(directory: &Path, clock: Arc<dyn Clock>, sink: Arc<Recorder>) -> Arc<Shard<Adder>> {
    let disk = Arc::new(RealDisk::open(&directory.join("log")).unwrap());
    open_on(disk, directory, clock, sink).await
}

async fn open_on(
    disk: Arc<dyn Disk>,
    directory: &Path,
    clock: Arc<dyn Clock>,
    sink: Arc<Recorder>,
) -> Arc<Shard<Adder>> {
    let options = LogOptions { disk_reserve_bytes: 0, ..LogOptions::default() };
    let log = Log::open(disk, options).unwrap();
    let chores =
        ChoreOptions { checkpoint_interval: Duration::from_millis(50), ..ChoreOptions::default() };
    let options =
        ShardOptions::alone(ShardId::META, proteus_env::random::random_u64() as u32, chores);
    Shard::open(options, &directory.join("store"), log, clock, sink, Arc::new(Alone)).await.unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn read_sum(shard: &Shard<Adder>) -> u64 {
    let mut found = 0;
    shard.read(&mut |view| found = sum(view)).unwrap();
    found
}

#[test]
fn acknowledged_commits_survive_an_abrupt_end_exactly_once() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_000_000));
    let mut expected = 0;
    let mut last_ts = CommitTs::ZERO;
    for round in 0..6u64 {
        let runtime = runtime();
        runtime.block_on(async {
            let sink = Arc::new(Recorder::default());
            let shard = open(directory.path(), clock.clone(), sink.clone()).await;
            assert_eq!(read_sum(&shard), expected, "round {round}");
            let mut waiting = Vec::new();
            for caller in 0..40 {
                waiting.push(shard.propose(&[1, 2, caller]));
                expected += 3 + caller;
            }
            for proposal in waiting {
                for (_, ts) in proposal.await.unwrap() {
                    assert!(ts > last_ts, "commit timestamps only grow");
                    last_ts = ts;
                }
            }
            assert_eq!(read_sum(&shard), expected);
            // Checkpoints are taken by the (manual) clock: in some rounds before the end, in some
            // not, and the wall clock jumps back.
            if round % 2 == 0 {
                clock.advance(Duration::from_millis(100));
                task_pause().await;
            } else {
                clock.set_ms(1_000_000 - round * 1_000);
            }
            if round == 3 {
                shard.shutdown().await;
            }
        });
        // Every task is dropped where it stands, as at a crash.
        // Waits until nobody is left who would write behind the next start's back.
        drop(runtime);
    }
}

/// Of relaxed commits the newest may go with the power; no flushed one, nothing before one, and nothing that
/// a checkpoint contains.
#[test]
fn relaxed_commits_are_lost_from_the_end_or_not_at_all() {
    for seed in 1..=12u64 {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(1_000_000));
        let disk = SimDisk::new(seed);
        let (mut flushed, mut sent) = (0, 0);
        for round in 0..4 {
            let runtime = runtime();
            runtime.block_on(async {
                let sink = Arc::new(Recorder::default());
                let disk = Arc::new(disk.clone());
                let shard = open_on(disk, directory.path(), clock.clone(), sink).await;
                let found = read_sum(&shard);
                assert!((flushed..=sent).contains(&found), "seed {seed}: {found} of {sent}");
                sent = found;
                for commit in 0..15 {
                    let is_flushed = (commit + round) % 4 == seed % 4;
                    let durability =
                        if is_flushed { Durability::Flushed } else { Durability::Relaxed };
                    sent += 1;
                    let outcomes = shard.propose_at(durability, &[1]).await.unwrap();
                    assert_eq!(outcomes[0].0, sent);
                    flushed = if is_flushed { sent } else { flushed };
                }
                if round % 2 == 0 {
                    clock.advance(Duration::from_millis(100));
                    task_pause().await;
                }
            });
            disk.cut_power_after(0);
            // As above.
            drop(runtime);
            disk.crash();
        }
    }
}

/// Lets the chores run once or twice. Nothing is asserted about what they did.
async fn task_pause() {
    proteus_env::task::sleep(Duration::from_millis(250)).await;
}

#[test]
fn outcomes_and_feed_keep_the_order_of_proposals() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let sink = Arc::new(Recorder::default());
        let clock = Arc::new(ManualClock::at(5));
        let shard = open(directory.path(), clock, sink.clone()).await;
        let proposals: Vec<_> = (1..=100).map(|_| shard.propose(&[1, 0, 1])).collect();
        let mut expected = 0;
        for proposal in proposals {
            let sums: Vec<u64> = proposal.await.unwrap().into_iter().map(|(sum, _)| sum).collect();
            assert_eq!(sums, [expected + 1, expected + 1, expected + 2]);
            expected += 2;
        }
        let (outcomes, proposed) =
            shard.propose_returning(Durability::Flushed, &[0, 0]).await.unwrap();
        assert_eq!(outcomes.len(), 2);
        assert_eq!(proposed.commands::<Adder>().unwrap(), [0, 0]);
        let published = sink.0.lock();
        let changes: Vec<u64> =
            published.iter().flat_map(|commit| commit.changes.clone()).collect();
        assert_eq!(changes, (1..=200).collect::<Vec<_>>());
        assert!(published.is_sorted_by(|a, b| a.commit_ts < b.commit_ts));
    });
}

#[test]
fn too_large_a_proposal_is_refused_and_harms_nothing() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let sink = Arc::new(Recorder::default());
        let shard = open(directory.path(), Arc::new(ManualClock::at(5)), sink).await;
        let commands = vec![1; proteus_kernel::PROPOSAL_BYTES_MAX / 8 + 1];
        let refused = shard.propose(&commands).await.unwrap_err();
        assert!(refused.to_string().contains("split it"), "{refused}");
        assert_eq!(shard.propose(&[5]).await.unwrap()[0].0, 5);
    });
}

#[test]
fn leadership_is_not_handed_to_one_who_does_not_vote() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let sink = Arc::new(Recorder::default());
        let shard = open(directory.path(), Arc::new(ManualClock::at(5)), sink).await;
        let refused = shard.group().hand_over(NodeId(7)).await.unwrap_err();
        assert!(refused.to_string().contains("does not vote"), "{refused}");
        let members = BTreeMap::from([(NodeId(7), Member::default())]);
        // As it is now for who only follows: the shard would be led by nobody.
        shard.group().set_members(members).await.unwrap();
        assert!(shard.group().hand_over(NodeId(7)).await.is_err());
        assert_eq!(shard.propose(&[5]).await.unwrap()[0].0, 5);
    });
}

#[test]
fn a_broken_invariant_stops_the_shard_and_shows_nobody_a_half_applied_entry() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let sink = Arc::new(Recorder::default());
        let shard = open(directory.path(), Arc::new(ManualClock::at(5)), sink).await;
        assert_eq!(shard.propose(&[5]).await.unwrap()[0].0, 5);
        let stopped = shard.propose(&[1, BROKEN]).await.unwrap_err();
        assert!(stopped.to_string().contains("broken invariant"), "{stopped}");
        assert!(shard.read(&mut |_| panic!("a half applied entry was shown")).is_err());
        assert!(shard.propose(&[1]).await.is_err());
        shard.shutdown().await;
    });
    // The next start replays that entry, so no checkpoint may hold half of it.
    let store = LayeredStore::over(DiskStore::open(&directory.path().join("store")).unwrap());
    let value = store.get(SUM_KEY).unwrap();
    let sum = value.map_or(5, |value| u64::from_le_bytes(value[..].try_into().unwrap()));
    assert_eq!(sum, 5, "half of the broken entry is in a checkpoint");
}

/// From an image and the log behind it to every moment there was, and to none that there was not.
#[test]
fn the_log_behind_an_image_leads_to_any_moment() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_000_000));
    let source = directory.path().join("source");
    // The sum after each commit, by its timestamp.
    let mut history = Vec::new();
    let (mut chunks, mut parts) = (Vec::new(), Vec::new());
    runtime().block_on(async {
        let sink = Arc::new(Recorder::default());
        let shard = open(&source, clock.clone(), sink).await;
        shard.propose(&[5]).await.unwrap();
        let mut image = shard.image().await.unwrap();
        while let Some(chunk) = image.next_chunk().unwrap() {
            chunks.push(chunk);
        }
        history.push((5, image.commit_ts));
        let mut position = image.id;
        for round in 0..6 {
            clock.advance(Duration::from_millis(3));
            // Entries of several commits, and of one.
            let both: Vec<_> = (1..=round % 3 + 1).map(|n| shard.propose(&[n, n + 1])).collect();
            for proposal in both {
                history.extend(proposal.await.unwrap());
            }
            while let LogBehind::Part(part) = shard.log_behind(position.index).unwrap() {
                assert_eq!(part.previous, position);
                position = part.last;
                assert_eq!(
                    LogBehind::decode(LogBehind::Part(part.clone()).encode()),
                    Some(LogBehind::Part(part.clone()))
                );
                parts.push(part);
            }
            assert_eq!(parts.last().unwrap().through_ts, history.last().unwrap().1);
        }
    });
    let restore = |name: &str, parts: &[LogPart], until: CommitTs| {
        let place = directory.path().join(name);
        let store = place.join("store");
        let mut state = RestoredState::begin(&store).unwrap();
        for chunk in &chunks {
            state.take_chunk(chunk).unwrap();
        }
        state.install().unwrap();
        let disk = Arc::new(RealDisk::open(&place.join("log")).unwrap());
        let log =
            Log::open(disk, LogOptions { disk_reserve_bytes: 0, ..LogOptions::default() }).unwrap();
        let mut replay = Replay::<Adder>::open(ShardId::META, &store, log, clock.clone(), until)?;
        for part in parts {
            if !replay.take(&part.entries)? {
                break;
            }
        }
        runtime().block_on(replay.finish(NodeId(1), Member::default()))?;
        Ok::<_, KernelError>(place)
    };
    for (place, (_, ts)) in history.iter().enumerate() {
        // At it, and right before the next.
        let next = history.get(place + 1).map_or(ts.plus(1), |(_, next)| *next);
        for (way, until) in [("at", *ts), ("before", CommitTs(next.0 - 1))] {
            let restored = restore(&format!("{way} {place}"), &parts, until).unwrap();
            runtime().block_on(async {
                let shard = open(&restored, clock.clone(), Arc::default()).await;
                assert_eq!(read_sum(&shard), history[place].0, "at {until}");
                let (sum, later) = shard.propose(&[100]).await.unwrap()[0];
                assert!(sum == history[place].0 + 100 && later > *ts);
            });
        }
    }
    let whole = CommitTs::MAX;
    assert!(restore("with a gap", &parts[1..], whole).is_err());
    let mut torn = parts.clone();
    let short = torn[2].entries.len() - 1;
    torn[2].entries.truncate(short);
    assert!(restore("torn", &torn, whole).is_err());
    // Another command: the entry behind it says what it had led to.
    let mut other = parts.clone();
    let mut bytes = other[0].entries.to_vec();
    let command = bytes.windows(8).position(|bytes| bytes == 2u64.to_le_bytes()).unwrap();
    bytes[command] = 3;
    other[0].entries = bytes.into();
    assert!(restore("changed", &other, whole).is_err());
}
