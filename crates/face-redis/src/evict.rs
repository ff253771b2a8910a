//! Keeping to `maxmemory`: which keys go when there is too much.
//!
//! What all keys take is part of the state; when they were used last is not, and every node knows it of the
//! requests that it has served itself. The node that leads chooses: when there is too much it looks at keys
//! behind random places, as Redis does, and proposes that the least useful of them go; each goes only if
//! it is still what it was. So one node's view of uses decides, and no two remove twice as much as needed.
//! Another node that is about to write waits until the leader has made room.
//!
//! Where not every node has all keys, nobody can choose among them all. There each node asks now and then what all
//! keys take, and whoever leads a shard removes of its keys what is its share of what there is too much: as great a
//! part as these keys are of all. If some shards have nothing that may go the others take more, round after round.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use proteus_env::{Clock, random, task};
use proteus_kernel_api::cache::{self, Answer, Candidate, DATABASE_COUNT, Op, Question};
use proteus_kernel_api::{Kernel, KernelError, Minitransaction, ShardId, Slot, StoreError, View};

use crate::hub::Hub;
use crate::settings::Settings;

/// What `maxmemory-policy` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are Redis' own")]
pub(crate) enum Policy {
    VolatileLru,
    VolatileLfu,
    VolatileRandom,
    VolatileTtl,
    AllKeysLru,
    AllKeysLfu,
    AllKeysRandom,
    NoEviction,
}

const POLICIES: [(Policy, &str); 8] = [
    (Policy::VolatileLru, "volatile-lru"),
    (Policy::VolatileLfu, "volatile-lfu"),
    (Policy::VolatileRandom, "volatile-random"),
    (Policy::VolatileTtl, "volatile-ttl"),
    (Policy::AllKeysLru, "allkeys-lru"),
    (Policy::AllKeysLfu, "allkeys-lfu"),
    (Policy::AllKeysRandom, "allkeys-random"),
    (Policy::NoEviction, "noeviction"),
];

impl Policy {
    pub(crate) fn from_name(name: &str) -> Policy {
        let found = POLICIES.iter().find(|(_, other)| *other == name);
        found.map_or(Policy::NoEviction, |(policy, _)| *policy)
    }

    pub(crate) fn from_number(number: u8) -> Policy {
        let found = POLICIES.iter().find(|(policy, _)| *policy as u8 == number);
        found.map_or(Policy::NoEviction, |(policy, _)| *policy)
    }

    pub(crate) fn is_lfu(self) -> bool {
        matches!(self, Policy::AllKeysLfu | Policy::VolatileLfu)
    }

    fn is_lru(self) -> bool {
        matches!(self, Policy::AllKeysLru | Policy::VolatileLru)
    }

    fn only_expiring(self) -> bool {
        matches!(
            self,
            Policy::VolatileLru
                | Policy::VolatileLfu
                | Policy::VolatileRandom
                | Policy::VolatileTtl
        )
    }
}

/// Entries of the table of uses, of eight bytes each, in pieces that take memory once they are used.
const USES: usize = 1 << 21;
const PIECE_USES: usize = 512;

/// A frequency that a new key begins with, so that it is not the first to go.
const LFU_FIRST: u8 = 5;

/// When and how often keys were used, as far as this node has seen it: one entry for each hash of a key.
/// Keys whose hashes meet in one entry take each other's place.
pub(crate) struct Uses {
    /// What the growth of frequencies is drawn from.
    count: AtomicU64,
    pieces: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

/// What is known of a key's use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Use {
    /// Seconds of the node's clock.
    at_s: u32,
    frequency: u8,
}

fn hash(db: u8, key: &[u8]) -> u64 {
    let seeded = key.iter().fold(0xcbf2_9ce4_8422_2325 ^ u64::from(db), |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    seeded ^ seeded >> 29
}

impl Uses {
    pub(crate) fn new() -> Uses {
        Uses {
            count: AtomicU64::new(0),
            pieces: (0..USES / PIECE_USES).map(|_| OnceLock::new()).collect(),
        }
    }

    fn place(&self, db: u8, key: &[u8]) -> Option<(&AtomicU64, u64)> {
        let hash = hash(db, key);
        let tag = hash >> 40 | 1;
        let at = hash as usize % USES;
        let piece = self.pieces.get(at / PIECE_USES)?;
        let piece = piece.get_or_init(|| (0..PIECE_USES).map(|_| AtomicU64::new(0)).collect());
        piece.get(at % PIECE_USES).map(|entry| (entry, tag))
    }

    /// What is known of the key. An entry is a tag of 24 bits, a frequency of 8, and seconds of 32.
    pub(crate) fn of(&self, db: u8, key: &[u8]) -> Option<Use> {
        let (entry, tag) = self.place(db, key)?;
        let value = entry.load(Ordering::Relaxed);
        (value >> 40 == tag).then_some(Use { at_s: value as u32, frequency: (value >> 32) as u8 })
    }

    /// Notes that a key is used now.
    pub(crate) fn note(&self, db: u8, key: &[u8], now_s: u32, settings: &Settings) {
        let Some((entry, tag)) = self.place(db, key) else { return };
        let value = entry.load(Ordering::Relaxed);
        let is_known = value >> 40 == tag;
        let known = Use { at_s: value as u32, frequency: (value >> 32) as u8 };
        let frequency = match (is_known, settings.policy().is_lfu()) {
            (false, _) => LFU_FIRST,
            (true, false) if known.at_s == now_s => return,
            (true, false) => known.frequency,
            (true, true) => {
                let count = self.count.fetch_add(1, Ordering::Relaxed);
                grown(known.decayed(now_s, settings), mixed(value ^ count), settings)
            }
        };
        let value = tag << 40 | u64::from(frequency) << 32 | u64::from(now_s);
        entry.store(value, Ordering::Relaxed);
    }
}

/// A number whose bits depend on all bits of another (SplitMix64).
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ number >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ number >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ number >> 31
}

/// A frequency after one more use: the greater it is, the less likely it grows.
fn grown(frequency: u8, random: u64, settings: &Settings) -> u8 {
    if frequency == u8::MAX {
        return frequency;
    }
    let factor = settings.lfu_log_factor.load(Ordering::Relaxed);
    let base = f64::from(frequency.saturating_sub(LFU_FIRST));
    let chance = 1.0 / (base * f64::from(factor) + 1.0);
    let drawn = random as f64 / u64::MAX as f64;
    if drawn < chance { frequency + 1 } else { frequency }
}

impl Use {
    /// Seconds since the last use.
    pub(crate) fn idle_s(self, now_s: u32) -> u32 {
        now_s.saturating_sub(self.at_s)
    }

    /// The frequency, less what the time without a use has taken.
    pub(crate) fn decayed(self, now_s: u32, settings: &Settings) -> u8 {
        let minutes = settings.lfu_decay_minutes.load(Ordering::Relaxed);
        let periods = (self.idle_s(now_s) / 60).checked_div(minutes).unwrap_or(0);
        self.frequency.saturating_sub(u8::try_from(periods).unwrap_or(u8::MAX))
    }
}

/// Keys that one proposal removes at most.
const EVICTIONS_MAX: usize = 64;

/// Proposals that make room for one batch of writes at most.
const ROUNDS_MAX: usize = 64;

/// How long a write waits for the leader to make room before it is refused.
const ROOM_PATIENCE: Duration = Duration::from_secs(2);

/// How often the leader looks whether there is too much without having been told of a change.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How old may be what is known of all keys where some are on other nodes only, and how often leaders look then: so
/// much time goes by between two shares of one leader's, in which the others remove theirs.
const FIGURE_AGE_MAX: Duration = Duration::from_millis(100);
const LOOK_INTERVAL_APART: Duration = Duration::from_millis(250);

/// What there is to evict with.
pub(crate) struct Evictor {
    pub(crate) uses: Uses,
    /// One at a time on a node.
    turn: tokio::sync::Mutex<()>,
    /// What all keys take where some are on other nodes only, and when they were asked.
    figure: tokio::sync::Mutex<Option<(Duration, u64)>>,
}

/// Of which keys some are to go.
#[derive(Clone, Copy)]
enum Scope<'a> {
    /// Of all: they are all here.
    All,
    /// Of those in one shard's slots, which are bounds, inclusive.
    Shard(&'a [(u16, u16)]),
}

impl Scope<'_> {
    fn read<T>(
        self,
        kernel: &dyn Kernel,
        reader: impl FnOnce(View<'_>) -> Result<T, StoreError>,
    ) -> Result<T, KernelError> {
        let first = match self {
            Scope::All => return kernel.read(reader),
            Scope::Shard(slots) => slots.first().and_then(|(first, _)| Slot::new(*first)),
        };
        let slot = first.ok_or_else(KernelError::unknown_answer)?;
        kernel.read_slot(slot, reader)
    }

    /// A random place among the keys.
    fn draw(self) -> u64 {
        let drawn = random::random_u64();
        let Scope::Shard(slots) = self else { return drawn };
        let count = |(first, last): &(u16, u16)| u64::from(*last - *first) + 1;
        let total: u64 = slots.iter().map(count).sum();
        let mut place = (drawn >> 32) % total.max(1);
        for bounds in slots {
            if place < count(bounds) {
                return (u64::from(bounds.0) + place) << 32 | drawn & u64::from(u32::MAX);
            }
            place -= count(bounds);
        }
        drawn
    }
}

/// Whether not every node is to have all keys.
fn is_apart(kernel: &dyn Kernel) -> bool {
    let placed = || kernel.read_first(|view| cache::replicas(view.state));
    kernel.is_spread() && placed().is_ok_and(|replicas| !replicas.are_everywhere())
}

/// The part of what there is too much that is to go from keys that take `own` of `total` bytes.
fn share(excess: u64, own: u64, total: u64) -> u64 {
    let share = u128::from(excess) * u128::from(own);
    u64::try_from(share.div_ceil(u128::from(total.max(1)))).unwrap_or(u64::MAX).min(own)
}

/// Makes room on the node that leads for what other nodes write; ends when the face is gone.
pub(crate) async fn keep_room(
    evictor: Weak<Evictor>,
    kernel: Arc<dyn Kernel>,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
) {
    loop {
        let changed = hub.memory_changed.notified();
        tokio::pin!(changed);
        // From here on no change is missed.
        changed.as_mut().enable();
        let Some(evictor) = evictor.upgrade() else { return };
        let is_known = hub.settings.refresh(&*kernel).is_ok();
        let is_bounded = hub.settings.maxmemory.load(Ordering::Relaxed) != 0;
        let is_apart = is_bounded && is_apart(&*kernel);
        // A kernel that cannot now is asked again.
        if is_known && is_apart {
            let _ = evictor.evict_own(&*kernel, &hub.settings, &*clock).await;
        } else if is_known && is_bounded && kernel.leads() {
            let _ = evictor.make_room(&*kernel, &hub, &*clock).await;
        }
        drop(evictor);
        let pause = if is_apart { LOOK_INTERVAL_APART } else { LOOK_INTERVAL };
        task::timeout(pause, changed).await;
    }
}

impl Evictor {
    pub(crate) fn new() -> Evictor {
        Evictor {
            uses: Uses::new(),
            turn: tokio::sync::Mutex::default(),
            figure: tokio::sync::Mutex::default(),
        }
    }

    /// Makes room where there is too much, or waits until the leader has; says whether there is room now.
    pub(crate) async fn make_room(
        &self,
        kernel: &dyn Kernel,
        hub: &Hub,
        clock: &dyn Clock,
    ) -> Result<bool, KernelError> {
        let settings = &hub.settings;
        if self.excess(kernel, settings, clock).await? == 0 {
            return Ok(true);
        }
        if settings.policy() == Policy::NoEviction {
            return Ok(false);
        }
        let is_apart = is_apart(kernel);
        if !is_apart && kernel.leads() {
            let used_max = settings.maxmemory.load(Ordering::Relaxed);
            return self.evict(kernel, settings, Scope::All, used_max, clock.wall_ms()).await;
        }
        let waiting = async {
            loop {
                let changed = hub.memory_changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if is_apart {
                    self.evict_own(kernel, settings, clock).await?;
                }
                if self.excess(kernel, settings, clock).await? == 0 {
                    return Ok(true);
                }
                task::timeout(FIGURE_AGE_MAX, changed).await;
            }
        };
        task::timeout(ROOM_PATIENCE, waiting).await.unwrap_or(Ok(false))
    }

    /// By how many bytes the keys exceed what they may take.
    async fn excess(
        &self,
        kernel: &dyn Kernel,
        settings: &Settings,
        clock: &dyn Clock,
    ) -> Result<u64, KernelError> {
        let maxmemory = settings.maxmemory.load(Ordering::Relaxed);
        if maxmemory == 0 {
            return Ok(0);
        }
        Ok(self.used(kernel, clock).await?.saturating_sub(maxmemory))
    }

    /// What all keys take; where some are on other nodes only, a moment ago.
    async fn used(&self, kernel: &dyn Kernel, clock: &dyn Clock) -> Result<u64, KernelError> {
        if kernel.has_all() && !is_apart(kernel) {
            return kernel.read(cache::used_bytes);
        }
        let mut figure = self.figure.lock().await;
        if let Some((asked_at, used)) = *figure
            && clock.elapsed().saturating_sub(asked_at) < FIGURE_AGE_MAX
        {
            return Ok(used);
        }
        let answer = kernel.ask(Question::Figures).await?;
        let Answer::Figures { used_bytes, .. } = answer else {
            return Err(KernelError::unknown_answer());
        };
        *figure = Some((clock.elapsed(), used_bytes));
        Ok(used_bytes)
    }

    /// Proposes that keys of the shards that this node leads go, until their share of what there is too much is gone.
    async fn evict_own(
        &self,
        kernel: &dyn Kernel,
        settings: &Settings,
        clock: &dyn Clock,
    ) -> Result<(), KernelError> {
        if settings.policy() == Policy::NoEviction {
            return Ok(());
        }
        let total = self.used(kernel, clock).await?;
        let excess = total.saturating_sub(settings.maxmemory.load(Ordering::Relaxed));
        if excess == 0 {
            return Ok(());
        }
        let own_node = kernel.cluster().node;
        let mut led: BTreeMap<ShardId, Vec<(u16, u16)>> = BTreeMap::new();
        for range in kernel.slots_led() {
            if range.leader == Some(own_node) {
                led.entry(range.shard).or_default().push((range.first, range.last));
            }
        }
        let mut gone = 0;
        for slots in led.values() {
            let scope = Scope::Shard(slots);
            let own = scope.read(kernel, cache::used_bytes)?;
            let used_max = own - share(excess, own, total);
            self.evict(kernel, settings, scope, used_max, clock.wall_ms()).await?;
            gone += own.saturating_sub(scope.read(kernel, cache::used_bytes)?);
        }
        // Until all are asked again: what went here must not go twice.
        if let Some((_, used)) = &mut *self.figure.lock().await {
            *used = used.saturating_sub(gone);
        }
        Ok(())
    }

    /// Proposes that keys go until they take no more than `used_max`; says whether they do.
    async fn evict(
        &self,
        kernel: &dyn Kernel,
        settings: &Settings,
        scope: Scope<'_>,
        used_max: u64,
        now_ms: u64,
    ) -> Result<bool, KernelError> {
        let _turn = self.turn.lock().await;
        let excess = || -> Result<u64, KernelError> {
            Ok(scope.read(kernel, cache::used_bytes)?.saturating_sub(used_max))
        };
        for _ in 0..ROUNDS_MAX {
            let too_much = excess()?;
            if too_much == 0 {
                return Ok(true);
            }
            let chosen = self.choose(kernel, settings, scope, too_much, now_ms)?;
            if chosen.is_empty() {
                return Ok(false);
            }
            let evict = |Candidate { db, key, revision, .. }| {
                Minitransaction::of(Op::Evict { db, key, revision })
            };
            kernel.propose(chosen.into_iter().map(evict).collect()).await?;
        }
        Ok(excess()? == 0)
    }

    /// The keys that should go first of those behind random places.
    fn choose(
        &self,
        kernel: &dyn Kernel,
        settings: &Settings,
        scope: Scope<'_>,
        too_much: u64,
        now_ms: u64,
    ) -> Result<Vec<Candidate>, KernelError> {
        let policy = settings.policy();
        let now_s = (now_ms / 1000) as u32;
        let samples = settings.samples.load(Ordering::Relaxed) as usize;
        let mut chosen: Vec<Candidate> = Vec::new();
        let mut bytes = 0;
        scope.read(kernel, |view| {
            if policy == Policy::VolatileTtl {
                chosen = cache::soonest(view, EVICTIONS_MAX)?;
                return Ok(());
            }
            let counts = cache::database_counts(view)?;
            let filled: Vec<u8> = (0..DATABASE_COUNT)
                .filter(|db| {
                    let (keys, expiring) = counts.get(usize::from(*db)).copied().unwrap_or((0, 0));
                    if policy.only_expiring() { expiring > 0 } else { keys > 0 }
                })
                .collect();
            let mut misses = 0;
            while bytes < too_much && chosen.len() < EVICTIONS_MAX && misses < 8 {
                let Some(db) = filled.get(random::random_u64() as usize % filled.len().max(1))
                else {
                    break;
                };
                // Redis draws every key by itself; a few that stand together are as good as any.
                let drawn = scope.draw();
                let found = cache::candidates(view, *db, drawn, samples, policy.only_expiring())?;
                let best = found
                    .into_iter()
                    .filter(|candidate| !chosen.contains(candidate))
                    .max_by_key(|candidate| self.worth(candidate, policy, settings, now_s, drawn));
                match best {
                    Some(candidate) => {
                        bytes += candidate.bytes;
                        chosen.push(candidate);
                    }
                    None => misses += 1,
                }
            }
            if chosen.is_empty() && policy.only_expiring() {
                // Few keys expire, and none of them was met.
                chosen = cache::soonest(view, 1)?;
            }
            Ok(())
        })?;
        let mut bytes = 0;
        chosen.retain(|candidate| {
            let is_needed = bytes < too_much;
            bytes += candidate.bytes;
            is_needed
        });
        Ok(chosen)
    }

    /// How readily a key goes: the greater, the sooner.
    fn worth(
        &self,
        candidate: &Candidate,
        policy: Policy,
        settings: &Settings,
        now_s: u32,
        drawn: u64,
    ) -> u64 {
        let used = self.uses.of(candidate.db, &candidate.key);
        // A key that this node has not seen used was used at least when it was written.
        let written_s = (candidate.revision.0.physical_ms() / 1000) as u32;
        let used = used.map_or(Use { at_s: written_s, frequency: LFU_FIRST }, |used| Use {
            at_s: used.at_s.max(written_s),
            ..used
        });
        if policy.is_lru() {
            u64::from(used.idle_s(now_s))
        } else if policy.is_lfu() {
            let rarity = u64::from(u8::MAX - used.decayed(now_s, settings));
            rarity << 32 | u64::from(used.idle_s(now_s))
        } else {
            hash(candidate.db, &candidate.key) ^ drawn
        }
    }
}

#[cfg(test)]
mod tests {
    use proteus_kernel_api::Durability;

    use super::*;

    #[test]
    fn uses_are_remembered_by_key_and_database() {
        let (uses, settings) = (Uses::new(), Settings::new(Durability::Flushed));
        assert_eq!(uses.of(0, b"k"), None);
        uses.note(0, b"k", 100, &settings);
        assert_eq!(uses.of(0, b"k").unwrap().idle_s(130), 30);
        assert_eq!(uses.of(1, b"k"), None);
        let policy = bytes::Bytes::from_static(b"allkeys-lfu");
        settings.note("maxmemory-policy", Some(&policy));
        for _ in 0..100 {
            uses.note(0, b"k", 100, &settings);
        }
        let used = uses.of(0, b"k").unwrap();
        let often = used.decayed(100, &settings);
        assert!(often > LFU_FIRST);
        assert_eq!(used.decayed(100 + 120, &settings), often - 2);
    }

    #[test]
    fn shares_of_all_shards_are_what_there_is_too_much_and_places_are_in_their_slots() {
        let all = [7u64, 0, 1_000, 123_456];
        let total: u64 = all.iter().sum();
        for excess in [1, 5_000, total] {
            let shares: Vec<u64> = all.iter().map(|own| share(excess, *own, total)).collect();
            let sum: u64 = shares.iter().sum();
            assert!(sum >= excess && sum <= excess + all.len() as u64, "{shares:?}");
            assert!(shares.iter().zip(all).all(|(share, own)| *share <= own));
        }
        let scope = Scope::Shard(&[(3, 5), (9, 9), (100, 16_383)]);
        for _ in 0..100 {
            let slot = scope.draw() >> 32;
            assert!(matches!(slot, 3..=5 | 9 | 100..=16_383), "{slot}");
        }
    }

    #[test]
    fn policies_have_redis_names() {
        for (policy, name) in POLICIES {
            assert_eq!(Policy::from_name(name), policy);
            assert_eq!(Policy::from_number(policy as u8), policy);
        }
    }
}
