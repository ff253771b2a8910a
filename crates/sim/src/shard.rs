//! A real shard in a world that fails: its log on a disk that loses power, its clock jumping, its
//! callers many, its process gone at any moment.
//!
//! ```text
//!   callers ─▶ Shard ─▶ consensus ─▶ Log ─▶ SimDisk      power cut, full, torn writes
//!   reader  ◀─ state ─▶ checkpoints ─▶ DiskStore          in a temporary directory
//!   History ◀─ acknowledgements, reads, feed              outlives every crash
//! ```
//! What is simulated: the log's disk and the clock. What is not: the store's files, which survive
//! every crash whole, and the scheduling of threads, so a seed repeats the plan and not every
//! interleaving.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{join, join_all};
use proteus_env::disk::Disk;
use proteus_env::sim_disk::SimDisk;
use proteus_env::{Clock, ManualClock, task};
use proteus_kernel::{Alone, ChoreOptions, Shard, ShardOptions};
use proteus_log::{Log, LogError, LogOptions};
use proteus_machine::KernelError;
use proteus_shard_machine::{Minitransaction, Outcome};
use proteus_types::ShardId;
use tempfile::TempDir;

use crate::commands::Generator;
use crate::history::{CommitId, History};
use crate::ledger;
use crate::planted::LyingDisk;
use crate::random::Random;
use crate::replica::Machine;

/// Starts of the node in one run.
const ROUNDS: u64 = 3;

/// The first time that the clock shows, in milliseconds since the Unix epoch.
const START_MS: u64 = 1_700_000_000_000;

/// Nothing takes this long but what will never end.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is wrong with the world on purpose; a machine's bugs are planted in its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskHonesty {
    /// What it says it flushed is flushed.
    Honest,
    /// From the second start on it says so without having done it.
    Lying,
}

/// How one run went, for whoever wants to know that something happened at all.
#[derive(Debug, Default, Clone, Copy)]
pub struct Summary {
    /// Commits acknowledged.
    pub acknowledged: usize,
    /// Starts that found a state behind the log and replayed it.
    pub replays: u64,
    /// Rounds whose shard stopped because the power was cut.
    pub power_cuts: u64,
    /// Proposals refused because the disk was full.
    pub disk_full: u64,
}

/// How a round ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The disk answers nothing after so many writes and flushes.
    PowerCut { writes: u64, while_opening: bool },
    /// All tasks are dropped where they stand, with proposals under way.
    Killed,
    /// The shard is asked to stop.
    Stopped,
}

/// Runs the plan of `seed`.
///
/// # Errors
/// What cannot be true of a correct shard.
///
/// # Panics
/// If the machine has no temporary directory or runtime.
pub fn run<M: Machine>(seed: u64, honesty: DiskHonesty) -> Result<Summary, String> {
    let mut random = Random::new(seed);
    let sim_disk = SimDisk::new(random.number());
    let mut world = World {
        disk: LyingDisk::new(sim_disk.clone()),
        sim_disk,
        directory: tempfile::tempdir().expect("a temporary directory"),
        clock: Arc::new(ManualClock::at(START_MS)),
        history: Arc::default(),
        was_stopped: false,
        summary: Summary::default(),
    };
    for round in 0..=ROUNDS {
        let end = match random.below(6) {
            _ if round == ROUNDS => End::Stopped,
            0..=2 => End::PowerCut { writes: random.below(120), while_opening: random.chance(25) },
            3..=4 => End::Killed,
            _ => End::Stopped,
        };
        if honesty == DiskHonesty::Lying && round > 0 {
            world.disk.lie();
        }
        let jump_ms = random.pick(&[0, 1_000, 100_000, 10_000_000]);
        world.clock.set_ms(START_MS - jump_ms / 2 + random.below(jump_ms + 1));
        world
            .round::<M>(end, &mut random.fork())
            .map_err(|claim| format!("round {round}, which ends {end:?}: {claim}"))?;
    }
    world.summary.acknowledged = world.history.acknowledged_count();
    Ok(world.summary)
}

struct World {
    disk: LyingDisk<SimDisk>,
    sim_disk: SimDisk,
    directory: TempDir,
    clock: Arc<ManualClock>,
    history: Arc<History>,
    /// The last round ended with a checkpoint of everything.
    was_stopped: bool,
    summary: Summary,
}

impl World {
    fn round<M: Machine>(&mut self, end: End, random: &mut Random) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime for a run");
        self.history.restarted();
        if let End::PowerCut { writes, while_opening: true } = end {
            self.sim_disk.cut_power_after(writes / 10);
        }
        let result = runtime.block_on(self.live::<M>(end, random));
        // Nothing that still runs may reach the disk after the crash.
        self.sim_disk.cut_power_after(0);
        drop(runtime);
        self.sim_disk.set_capacity(None);
        self.sim_disk.crash();
        result
    }

    async fn live<M: Machine>(&mut self, end: End, random: &mut Random) -> Result<(), String> {
        let opened = task::timeout(PATIENCE, self.open::<M>(random)).await;
        let shard = match opened.ok_or("opening never ends")? {
            Ok(shard) => shard,
            // Power went while the shard was opened; the next round will tell.
            Err(OpenError::Failed(_))
                if matches!(end, End::PowerCut { while_opening: true, .. }) =>
            {
                self.summary.power_cuts += 1;
                self.was_stopped = false;
                return Ok(());
            }
            Err(OpenError::Failed(why) | OpenError::Damaged(why)) => {
                return Err(format!("does not open: {why}"));
            }
        };
        let replayed = shard.status().applied_count;
        if self.was_stopped && replayed > 0 {
            return Err(format!("{replayed} commands were replayed after a clean stop"));
        }
        self.summary.replays += u64::from(replayed > 0);
        self.was_stopped = false;
        if let End::PowerCut { writes, while_opening: false } = end {
            self.sim_disk.cut_power_after(writes);
        }
        let world = Worked { shard: &shard, world: self };
        let (disk_full, worked) = world.work(end, random).await;
        self.summary.disk_full += disk_full;
        let is_cut = self.judge_stop(&shard, end)?;
        worked?;
        if is_cut {
            self.summary.power_cuts += 1;
            return Ok(());
        }
        if end == End::Stopped {
            shard.shutdown().await;
            self.was_stopped = true;
        }
        Ok(())
    }

    /// Whether the shard has stopped because its disk did.
    fn judge_stop<M: Machine>(&self, shard: &Shard<M>, end: End) -> Result<bool, String> {
        match shard.stop_reason() {
            None => Ok(false),
            Some(reason) if reason.contains("simulated power cut") => match end {
                End::PowerCut { .. } => Ok(true),
                _ => Err(format!("stopped without a cause: {reason}")),
            },
            Some(reason) => Err(format!("the shard stopped by itself: {reason}")),
        }
    }

    async fn open<M: Machine>(&self, random: &mut Random) -> Result<Arc<Shard<M>>, OpenError> {
        let log_options = LogOptions {
            segment_bytes: 16 * 1024,
            reserve_bytes: 16 * 1024,
            disk_reserve_bytes: 64 * 1024,
            cache_bytes_max: 4 * 1024,
            ..LogOptions::default()
        };
        let log =
            Log::open(Arc::new(self.disk.clone()), log_options).map_err(|error| match error {
                LogError::Io { .. } => OpenError::Failed(error.to_string()),
                LogError::Damaged { .. } | LogError::UnknownVersion { .. } => {
                    OpenError::Damaged(error.to_string())
                }
            })?;
        let chores = ChoreOptions {
            look_interval: Duration::from_millis(1 + random.below(8)),
            checkpoint_bytes: random.pick(&[1_000, 20_000, 10_000_000]),
            replay_bytes_max: random.pick(&[30_000, 10_000_000]),
            checkpoint_interval: Duration::from_secs(60),
        };
        let options = ShardOptions::alone(ShardId::META, random.number() as u32, chores);
        let store = self.directory.path().join("store");
        Shard::open(options, &store, log, self.clock.clone(), self.history.clone(), Arc::new(Alone))
            .await
            .map_err(|error| OpenError::Failed(error.to_string()))
    }
}

enum OpenError {
    /// The disk did not answer.
    Failed(String),
    /// The disk answered, and what it holds cannot be used.
    Damaged(String),
}

/// A shard at work.
#[derive(Clone, Copy)]
struct Worked<'a, M: Machine> {
    shard: &'a Arc<Shard<M>>,
    world: &'a World,
}

impl<M: Machine> Worked<'_, M> {
    /// Callers and a reader, until the callers are done or the shard has stopped. Tells how often the
    /// disk was full.
    async fn work(&self, end: End, random: &mut Random) -> (u64, Result<(), String>) {
        let mut disk_full = 0;
        if let Err(claim) = self.create_ledger().await {
            return (0, Err(claim));
        }
        let callers = 1 + random.below(4);
        let proposals = if matches!(end, End::PowerCut { .. }) { 60 } else { 1 + random.below(15) };
        let is_done = std::cell::Cell::new(false);
        let calls = async {
            let calls = (0..callers).map(|_| self.call(random.fork(), proposals));
            let results = join_all(calls.collect::<Vec<_>>()).await;
            is_done.set(true);
            results
        };
        let (called, read) = join(calls, self.read_until(&is_done)).await;
        for result in called {
            match result {
                Ok(count) => disk_full += count,
                Err(claim) => return (disk_full, Err(claim)),
            }
        }
        if let Err(claim) = read {
            return (disk_full, Err(claim));
        }
        self.world.sim_disk.set_capacity(None);
        if !matches!(end, End::PowerCut { .. })
            && let Err(claim) = self.recovers(random).await
        {
            return (disk_full, Err(claim));
        }
        if end == End::Killed {
            // These are under way, nobody waits for them, and the process ends.
            for _ in 0..random.below(6) {
                let id = self.world.history.proposed();
                drop(self.shard.propose(&[entry(id)]));
                tokio::task::yield_now().await;
            }
        }
        (disk_full, self.read())
    }

    async fn create_ledger(&self) -> Result<(), String> {
        let mut ledger = Ok(None);
        if self.shard.read(&mut |view| ledger = ledger::read(view)).is_err() || ledger?.is_some() {
            return Ok(());
        }
        match self.answer(&[ledger::creation()]).await? {
            Ok(outcomes) => match outcomes.first() {
                Some(Outcome::Committed { .. }) => Ok(()),
                other => Err(format!("the ledger cannot be created: {other:?}")),
            },
            Err(_) => Ok(()),
        }
    }

    async fn answer(
        &self,
        commands: &[Minitransaction],
    ) -> Result<Result<Vec<Outcome>, KernelError>, String> {
        let answer = task::timeout(PATIENCE, self.shard.propose(commands)).await;
        answer.ok_or_else(|| "a proposal was never answered".to_owned())
    }

    async fn call(&self, mut random: Random, proposals: u64) -> Result<u64, String> {
        let mut generator = Generator::beside_others(random.fork());
        let mut disk_full = 0;
        for _ in 0..proposals {
            let drawn = self.draw(&mut random, &mut generator)?;
            let commands: Vec<Minitransaction> =
                drawn.iter().map(|(command, _, _)| command.clone()).collect();
            if random.chance(5) {
                // The caller goes away; what it proposed may happen.
                drop(self.shard.propose(&commands));
                tokio::task::yield_now().await;
                continue;
            }
            match self.answer(&commands).await? {
                Ok(outcomes) => self.judge(&drawn, &outcomes)?,
                Err(
                    error @ (KernelError::DiskFull(_)
                    | KernelError::Overloaded(_)
                    | KernelError::TooLarge { .. }),
                ) => {
                    disk_full += u64::from(matches!(error, KernelError::DiskFull(_)));
                    drawn.iter().filter_map(|(_, id, _)| *id).for_each(|id| {
                        self.world.history.refused(id);
                    });
                }
                Err(KernelError::Unavailable(_) | KernelError::Stopped(_)) => return Ok(disk_full),
            }
            self.trouble(&mut random);
        }
        Ok(disk_full)
    }

    /// Commands of one proposal; of each its id in the ledger, and whether it must abort.
    fn draw(
        &self,
        random: &mut Random,
        generator: &mut Generator,
    ) -> Result<Vec<(Minitransaction, Option<CommitId>, bool)>, String> {
        let mut drawn = Vec::new();
        for _ in 0..=random.below(3) {
            if random.chance(25) {
                let mut noise = Ok(Minitransaction::default());
                let read = self.shard.read(&mut |view| noise = generator.minitransaction(view));
                if read.is_ok() {
                    drawn.push((noise.map_err(|fault| fault.to_string())?, None, false));
                }
                continue;
            }
            let id = self.world.history.proposed();
            let mut command = entry(id);
            if random.chance(25) {
                let place = random.below(command.ops.len() as u64 + 1) as usize;
                command.ops.insert(place, generator.op());
            }
            let is_doomed = random.chance(20);
            if is_doomed {
                generator.doom(&mut command);
            }
            drawn.push((command, Some(id), is_doomed));
        }
        Ok(drawn)
    }

    fn judge(
        &self,
        drawn: &[(Minitransaction, Option<CommitId>, bool)],
        outcomes: &[Outcome],
    ) -> Result<(), String> {
        if drawn.len() != outcomes.len() {
            return Err(format!("{} commands had {} outcomes", drawn.len(), outcomes.len()));
        }
        for ((command, id, is_doomed), outcome) in drawn.iter().zip(outcomes) {
            match (outcome, id) {
                (Outcome::Committed { .. }, _) if *is_doomed => {
                    return Err(format!("committed what must abort: {command:?}"));
                }
                (Outcome::Committed { commit_ts, .. }, Some(id)) => {
                    self.world.history.acknowledged(*id, *commit_ts)?;
                }
                (_, Some(id)) => self.world.history.refused(*id),
                (_, None) => {}
            }
        }
        // Whoever was answered sees what was answered.
        self.read()
    }

    fn trouble(&self, random: &mut Random) {
        let World { clock, sim_disk, .. } = self.world;
        match random.below(12) {
            0..=2 => clock.advance(Duration::from_millis(random.below(5_000))),
            3 => clock.set_ms(clock.wall_ms().saturating_sub(random.below(100_000))),
            4 => {
                let available_bytes = sim_disk.available_bytes().unwrap_or(0);
                // Bounded already, unless this is most of what can be counted.
                if available_bytes > u64::MAX / 2 {
                    let more_bytes = random.pick(&[0, 10_000, 70_000]);
                    sim_disk.set_capacity(Some(u64::MAX - available_bytes + more_bytes));
                }
            }
            5 if random.chance(40) => sim_disk.set_capacity(None),
            _ => {}
        }
    }

    fn read(&self) -> Result<(), String> {
        let mut result = Ok(());
        // A shard that has stopped shows nothing.
        let _ = self.shard.read(&mut |view| {
            result = ledger::read(view).and_then(|ledger| match ledger {
                Some(ledger) => self.world.history.shown(&ledger, view.applied_ts),
                None => self.world.history.shown(&[], view.applied_ts),
            });
        });
        result
    }

    async fn read_until(&self, is_done: &std::cell::Cell<bool>) -> Result<(), String> {
        while !is_done.get() {
            self.read()?;
            task::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// With power and space there are writes again; and what is due is done, however late.
    async fn recovers(&self, random: &mut Random) -> Result<(), String> {
        let id = self.world.history.proposed();
        match self.answer(&[entry(id)]).await? {
            Ok(outcomes) => self.judge(&[(entry(id), Some(id), false)], &outcomes)?,
            Err(error) => return Err(format!("no writes although nothing is wrong: {error}")),
        }
        if !random.chance(30) {
            return Ok(());
        }
        self.world.clock.advance(Duration::from_secs(3 * 24 * 60 * 60));
        for _ in 0..PATIENCE.as_millis() {
            let mut due = Ok(Vec::new());
            if self.shard.read(&mut |view| due = M::due(view, 1)).is_err() {
                return Ok(());
            }
            if due.map_err(|fault| fault.to_string())?.is_empty() {
                return Ok(());
            }
            task::sleep(Duration::from_millis(1)).await;
        }
        Err("what is overdue is never done".to_owned())
    }
}

/// A commit that leaves `id` in the ledger.
fn entry(id: CommitId) -> Minitransaction {
    Minitransaction { ops: ledger::ops(id), ..Minitransaction::default() }
}
