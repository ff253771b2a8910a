//! A simulated world for the kernel: random commands, fault plans, checkers.
//!
//! Three worlds. [`behaviour`] applies random entries to replicas without log and consensus, and
//! compares bytes. [`shard`] runs the real shard, with its log on a simulated disk, and compares what
//! callers, readers and followers of the feed were told over crashes. [`cluster`] runs several nodes on a
//! simulated network, in time that a seed moves. What the checkers claim is in
//! `docs/testing.md`; [`planted`] proves that they see what they claim to see.
//!
//! It knows no face and no protocol. Only its own tests use it.
//!
//! Reading order: [`behaviour`], [`commands`], [`shard`], [`network`], [`cluster`],
//! [`ledger`], [`history`], [`trace`], [`producers`], [`linearizable`],
//! [`objects`], [`transactions`], [`planted`].

mod backups;
pub mod behaviour;
pub mod cluster;
pub mod commands;
pub mod consumers;
pub mod history;
pub mod kernel;
pub mod ledger;
pub mod linearizable;
pub mod network;
pub mod objects;
pub mod planted;
pub mod producers;
pub mod random;
pub mod replica;
pub mod shard;
pub mod trace;
pub mod transactions;
pub mod transfers;

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Seeds that run at a time. A run waits for the disk more than it computes.
const THREADS: usize = 4;

/// Holds `check` against `count_default` seeds from 0 on; `PROTEUS_SIM_SEED` and `PROTEUS_SIM_SEEDS`
/// choose others. Returns how many ran.
///
/// # Panics
/// With the first claim that does not hold, and the command that repeats it.
pub fn seeds(count_default: u64, check: impl Fn(u64) -> Result<(), String> + Sync) -> u64 {
    let variable = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = variable("PROTEUS_SIM_SEED");
    let count = variable("PROTEUS_SIM_SEEDS").unwrap_or(first.map_or(count_default, |_| 1));
    let first = first.unwrap_or(0);
    let next = AtomicU64::new(0);
    let failed = Mutex::new(None);
    let work = || {
        while failed.lock().is_none() {
            let place = next.fetch_add(1, Ordering::Relaxed);
            if place >= count {
                break;
            }
            let seed = first.wrapping_add(place);
            if let Err(claim) = check(seed) {
                failed.lock().get_or_insert((seed, claim));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work);
        }
    });
    if let Some((seed, claim)) = failed.into_inner() {
        panic!("{claim}\nto repeat it: cargo xtask sim --seed {seed}");
    }
    count
}
