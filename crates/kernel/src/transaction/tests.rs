//! Several shards of one node, each an account that may not be overdrawn.

use std::path::Path;

use parking_lot::Mutex;
use proteus_env::RuntimeClock;
use proteus_env::disk::RealDisk;
use proteus_log::{Log, LogOptions};
use proteus_machine::{Committed, Position, View};
use proteus_store::{Read, State, StoreError};
use tempfile::TempDir;

use super::*;
use crate::{Alone, ChoreOptions, CommitSink, ShardOptions, Timestamps};

struct Account;

#[derive(Debug, Clone, PartialEq)]
enum Booked {
    Balance(i64),
    Overdrawn,
}

const BALANCE: &[u8] = &[1];

fn balance(state: &dyn Read) -> Result<i64, StoreError> {
    let value = state.get(BALANCE)?;
    Ok(value.and_then(|v| v.first_chunk().map(|v| i64::from_le_bytes(*v))).unwrap_or(0))
}

impl ShardMachine for Account {
    type Command = i64;
    type Outcome = Booked;
    type Change = (ShardId, i64);

    fn encode(command: &i64, into: &mut Vec<u8>) {
        into.extend_from_slice(&command.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<(i64, &[u8]), StoreError> {
        let cut = || StoreError::corrupt(b"", "cut short");
        let (head, rest) = bytes.split_first_chunk::<8>().ok_or_else(cut)?;
        Ok((i64::from_le_bytes(*head), rest))
    }

    fn apply(
        state: &mut dyn State,
        position: Position,
        command: &i64,
        changes: &mut Vec<(ShardId, i64)>,
    ) -> Result<Booked, StoreError> {
        state.savepoint();
        let after = balance(state)? + command;
        if after < 0 {
            return Ok(Booked::Overdrawn);
        }
        state.put(BALANCE.to_vec().into(), after.to_le_bytes().to_vec().into());
        changes.push((position.shard, after));
        Ok(Booked::Balance(after))
    }

    fn has_happened(outcome: &Booked) -> bool {
        *outcome != Booked::Overdrawn
    }

    fn due(_view: View<'_>, _count_max: usize) -> Result<Vec<i64>, StoreError> {
        Ok(Vec::new())
    }

    fn next_due_ms(_state: &dyn Read) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }
}

#[derive(Default)]
struct Bank {
    shards: Mutex<BTreeMap<ShardId, Arc<Shard<Account>>>>,
    told: Mutex<Vec<Committed<(ShardId, i64)>>>,
}

impl Shards<Account> for Bank {
    fn shard(&self, id: ShardId) -> Option<Arc<Shard<Account>>> {
        self.shards.lock().get(&id).cloned()
    }

    fn all(&self) -> Vec<(ShardId, Arc<Shard<Account>>)> {
        self.shards.lock().iter().map(|(id, shard)| (*id, shard.clone())).collect()
    }
}

struct Sink(Arc<Bank>);

impl CommitSink<(ShardId, i64)> for Sink {
    fn on_commit(&self, commit: Committed<(ShardId, i64)>) {
        self.0.told.lock().push(commit);
    }

    fn on_gap(&self, _applied_ts: CommitTs) {}
}

const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);
const C: ShardId = ShardId(2);

async fn open(directory: &Path, run: u32) -> (Arc<Bank>, Arc<Commits<Account>>) {
    open_over(directory, run, true).await
}

/// As [`open`], the log writing inline or on a thread of its own.
async fn open_over(
    directory: &Path,
    run: u32,
    is_inline: bool,
) -> (Arc<Bank>, Arc<Commits<Account>>) {
    let options = LogOptions { disk_reserve_bytes: 0, is_inline, ..LogOptions::default() };
    open_shards(directory, run, options, &[A, B, C]).await
}

async fn open_shards(
    directory: &Path,
    run: u32,
    options: LogOptions,
    shards: &[ShardId],
) -> (Arc<Bank>, Arc<Commits<Account>>) {
    let clock = Arc::new(RuntimeClock::new(1_000_000, 0));
    let disk = Arc::new(RealDisk::open(&directory.join("log")).unwrap());
    let log = Log::open(disk, options).unwrap();
    let bank = Arc::new(Bank::default());
    let timestamps = Arc::new(Timestamps::default());
    for id in shards.iter().copied() {
        let options = ShardOptions {
            timestamps: timestamps.clone(),
            checkpoints: Arc::default(),
            ..ShardOptions::alone(id, run, ChoreOptions::default())
        };
        let sink = Arc::new(Sink(bank.clone()));
        let store = directory.join(format!("store-{}", id.0));
        let shard =
            Shard::open(options, &store, log.clone(), clock.clone(), sink, Arc::new(Alone)).await;
        bank.shards.lock().insert(id, shard.unwrap());
    }
    let commits = Commits::new(NodeId(1), run, clock, bank.clone());
    (bank, commits)
}

fn in_paused_time<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap().block_on(future)
}

fn balances(bank: &Bank) -> Vec<i64> {
    let read = |shard: &Arc<Shard<Account>>| {
        let mut found = 0;
        shard.read(&mut |view| found = balance(view.state).unwrap()).unwrap();
        found
    };
    bank.shards.lock().values().map(read).collect()
}

fn last_told(bank: &Bank, count: usize) -> Vec<(ShardId, i64)> {
    let told = bank.told.lock();
    let last = &told[told.len() - count..];
    assert!(last.iter().all(|commit| commit.commit_ts == last[0].commit_ts), "one timestamp");
    let mut changes: Vec<_> = last.iter().flat_map(|commit| commit.changes.clone()).collect();
    changes.sort_unstable();
    changes
}

#[test]
fn a_commit_over_several_shards_happens_everywhere_or_nowhere() {
    let directory = TempDir::new().unwrap();
    in_paused_time(async {
        let (bank, commits) = open(directory.path(), 1).await;
        commits.propose(B, Durability::Flushed, vec![100]).await.unwrap();
        let spread = commits.propose_over(vec![(A, 10), (B, -30), (C, 20)]).await.unwrap();
        let Spread::Committed { commit_ts, outcomes } = spread else { panic!("{spread:?}") };
        let balance = Booked::Balance;
        assert_eq!(outcomes, [(C, balance(20)), (B, balance(70)), (A, balance(10))]);
        assert_eq!(balances(&bank), [10, 70, 20]);
        assert_eq!(last_told(&bank, 3), [(A, 10), (B, 70), (C, 20)]);
        assert_eq!(bank.told.lock().last().unwrap().commit_ts, commit_ts);
        // By the first that is tried, and by the one that decides.
        for (parts, by) in
            [(vec![(A, 1), (B, 1), (C, -21)], C), (vec![(A, -11), (B, 1), (C, 1)], A)]
        {
            let spread = commits.propose_over(parts).await.unwrap();
            let Spread::Refused { shard, outcome } = spread else { panic!("{spread:?}") };
            assert_eq!((shard, outcome), (by, Booked::Overdrawn));
        }
        // What comes behind sees none of it.
        commits.propose(B, Durability::Flushed, vec![1]).await.unwrap();
        commits.propose(C, Durability::Flushed, vec![1]).await.unwrap();
        assert_eq!(balances(&bank), [10, 71, 21]);
        let a = bank.shard(A).unwrap();
        while !a.decisions().unwrap().is_empty() {
            task::sleep(RETRY).await;
        }
    });
}

#[test]
fn proposals_of_a_node_keep_their_order_in_every_shard() {
    let directory = TempDir::new().unwrap();
    in_paused_time(async {
        let (bank, commits) = open(directory.path(), 1).await;
        // Each is possible only behind the one before.
        let first = commits.propose(C, Durability::Flushed, vec![5]);
        let second = commits.propose_over(vec![(B, 5), (C, -5)]);
        let third = commits.propose_over(vec![(A, 5), (B, -5)]);
        let fourth = commits.propose(B, Durability::Flushed, vec![-1]);
        let fifth = commits.propose(A, Durability::Flushed, vec![-5]);
        assert_eq!(first.await.unwrap(), [Booked::Balance(5)]);
        assert!(matches!(second.await.unwrap(), Spread::Committed { .. }));
        assert!(matches!(third.await.unwrap(), Spread::Committed { .. }));
        assert_eq!(fourth.await.unwrap(), [Booked::Overdrawn]);
        assert_eq!(fifth.await.unwrap(), [Booked::Balance(0)]);
        assert_eq!(balances(&bank), [0, 0, 0]);
    });
}

#[test]
fn what_a_driver_leaves_behind_is_finished_as_the_coordinator_says() {
    let directory = TempDir::new().unwrap();
    in_paused_time(async {
        let (bank, commits) = open(directory.path(), 1).await;
        let (_stop, stopping) = watch::channel(false);
        task::spawn(commits.clone().finish_abandoned(stopping));
        let (a, b, c) = (bank.shard(A).unwrap(), bank.shard(B).unwrap(), bank.shard(C).unwrap());
        let abandoned = |number| TransactionId { node: NodeId(9), number };

        // Tried and never decided.
        let (_, tried_ts) =
            commits.way(C).unwrap().prepare(abandoned(1), A, LEASE, 7).await.unwrap();
        let behind = commits.propose(C, Durability::Flushed, vec![1]);
        assert!(c.read_barrier().is_some(), "readers wait");
        assert_eq!(behind.await.unwrap(), [Booked::Balance(1)]);
        let late = commits
            .way(A)
            .unwrap()
            .decide(abandoned(1), decidable_until(tried_ts, LEASE), vec![C], 7)
            .await
            .unwrap();
        assert_eq!(late, None, "it was told to be aborted");

        // Decided, and one of two shards told.
        commits.way(C).unwrap().prepare(abandoned(2), A, LEASE, 10).await.unwrap();
        commits.way(B).unwrap().prepare(abandoned(2), A, LEASE, 20).await.unwrap();
        let decided =
            commits.way(A).unwrap().decide(abandoned(2), u64::MAX, vec![C, B], 30).await.unwrap();
        let (_, commit_ts) = decided.unwrap();
        c.finish(abandoned(2), Some(commit_ts)).await.unwrap();
        c.finish(abandoned(2), Some(commit_ts)).await.unwrap();
        b.read_barrier().unwrap().await.unwrap().unwrap();
        assert_eq!(balances(&bank), [30, 20, 11]);
        assert_eq!(last_told(&bank, 3), [(A, 30), (B, 20), (C, 11)]);
        while !a.decisions().unwrap().is_empty() {
            task::sleep(RETRY).await;
        }
    });
}

#[test]
fn a_start_finds_what_was_tried_and_decided() {
    let directory = TempDir::new().unwrap();
    let abandoned = TransactionId { node: NodeId(9), number: 1 };
    for (run, is_decided) in [(1, true), (2, false)] {
        in_paused_time(async {
            let (bank, commits) = open(directory.path(), run).await;
            commits.way(C).unwrap().prepare(abandoned, A, LEASE, 5).await.unwrap();
            if is_decided {
                commits
                    .way(A)
                    .unwrap()
                    .decide(abandoned, u64::MAX, vec![C], 5)
                    .await
                    .unwrap()
                    .unwrap();
            }
            for (_, shard) in bank.all() {
                shard.abandon().await;
            }
        });
        in_paused_time(async {
            let (bank, commits) = open(directory.path(), run + 10).await;
            let (_stop, stopping) = watch::channel(false);
            task::spawn(commits.clone().finish_abandoned(stopping));
            let c = bank.shard(C).unwrap();
            assert!(c.undecided().is_some());
            c.read_barrier().unwrap().await.unwrap().unwrap();
            assert_eq!(balances(&bank), [5, 0, 5], "run {run}");
            while run == 1 && !bank.shard(A).unwrap().decisions().unwrap().is_empty() {
                task::sleep(RETRY).await;
            }
            for (_, shard) in bank.all() {
                shard.shutdown().await;
            }
        });
    }
}

#[test]
fn nothing_happens_in_shards_while_they_are_held_still() {
    let directory = TempDir::new().unwrap();
    in_paused_time(async {
        let (bank, commits) = open(directory.path(), 1).await;
        commits.propose(B, Durability::Flushed, vec![5]).await.unwrap();
        let (watched, behind) = (bank.clone(), commits.clone());
        let look = async move {
            let waiting = [(A, 1), (C, 3)]
                .map(|(shard, by)| behind.propose(shard, Durability::Flushed, vec![by]));
            let spread = behind.propose_over(vec![(A, 10), (B, -5)]);
            task::sleep(RETRY * 5).await;
            assert_eq!(balances(&watched), [0, 5, 0]);
            Ok((waiting, spread))
        };
        let held = commits.hold_still(vec![A, C, B], || 0, look).await.unwrap();
        let (last_ts, (waiting, spread)) = held;
        for waiting in waiting {
            waiting.await.unwrap();
        }
        let Spread::Committed { commit_ts, .. } = spread.await.unwrap() else { panic!() };
        assert_eq!(balances(&bank), [11, 0, 3]);
        let told = bank.told.lock();
        let later = told.iter().filter(|commit| commit.commit_ts > last_ts).count();
        assert_eq!((later, told.len()), (4, 5), "all that came later is later");
        assert!(commit_ts > last_ts);
    });
}

#[test]
fn a_shard_that_nobody_lets_go_goes_on_and_is_known_to_have() {
    let directory = TempDir::new().unwrap();
    in_paused_time(async {
        let (bank, commits) = open(directory.path(), 1).await;
        let (_stop, stopping) = watch::channel(false);
        task::spawn(commits.clone().finish_abandoned(stopping));
        let look = async {
            task::sleep(LEASE * 3).await;
            Ok(())
        };
        let held = commits.hold_still(vec![A, B, C], || 0, look).await;
        assert!(matches!(held, Err(KernelError::Unavailable(_))), "{held:?}");
        // As after the end of the node that held it.
        let abandoned = TransactionId { node: NodeId(9), number: 1 };
        commits.way(A).unwrap().prepare(abandoned, A, LEASE, 0).await.unwrap();
        commits.propose(A, Durability::Flushed, vec![1]).await.unwrap();
        assert_eq!(balances(&bank), [1, 0, 0]);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_are_no_commands_open_no_gate() {
    let directory = TempDir::new().unwrap();
    let (bank, commits) = open_over(directory.path(), 1, false).await;
    let c = bank.shard(C).unwrap();
    let group = c.group().clone();
    // Members change while parts are on their way, and what comes behind them is there already.
    let changes = task::spawn(async move {
        for incarnation in 0..200 {
            let member = proteus_types::Member { incarnation, ..Default::default() };
            let changed = group.set_members(BTreeMap::from([(NodeId(1), member)])).await;
            changed.unwrap();
        }
    });
    for _ in 0..200 {
        let spread = commits.propose_over(vec![(A, 1), (C, 1)]);
        let behind = commits.propose(C, Durability::Flushed, vec![1]);
        assert!(matches!(spread.await.unwrap(), Spread::Committed { .. }));
        behind.await.unwrap();
    }
    changes.await.unwrap();
    assert_eq!(c.stop_reason(), None);
    assert_eq!(balances(&bank), [200, 0, 400]);
}

/// Shards of which each takes so long that all, one after the other, would take longer than a commit may.
#[test]
fn a_commit_over_hundreds_of_shards_ends_in_time_on_a_slow_disk() {
    let directory = TempDir::new().unwrap();
    let shards: Vec<ShardId> = (0..200).map(ShardId).collect();
    in_paused_time(async {
        let pause_ms = Arc::new(AtomicU64::new(0));
        let options = LogOptions {
            disk_reserve_bytes: 0,
            is_inline: true,
            inline_pause_ms: pause_ms.clone(),
            ..LogOptions::default()
        };
        let (bank, commits) = open_shards(directory.path(), 1, options, &shards).await;
        pause_ms.store(20, Ordering::Relaxed);
        let parts = || shards.iter().map(|shard| (*shard, 1)).collect::<Vec<_>>();
        // The second of the same node waits for the first.
        let (first, second) = (commits.propose_over(parts()), commits.propose_over(parts()));
        for spread in [first.await, second.await] {
            assert!(matches!(spread, Ok(Spread::Committed { .. })), "{spread:?}");
        }
        assert_eq!(balances(&bank), vec![2; 200]);
        let mut overdrawn = parts();
        overdrawn[100].1 = -3;
        let refused = commits.propose_over(overdrawn).await;
        assert!(matches!(refused, Ok(Spread::Refused { shard: ShardId(100), .. })), "{refused:?}");
        commits.propose(ShardId(199), Durability::Flushed, vec![1]).await.unwrap();
        commits.hold_still(shards.clone(), || 0, async { Ok(()) }).await.unwrap();
        assert_eq!(balances(&bank).iter().sum::<i64>(), 401);
    });
}
