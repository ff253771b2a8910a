//! The only door to clock, randomness, disk, network and tasks.
//!
//! Everything outside this crate takes these as arguments or calls them here; `clippy.toml` closes
//! the operating system's own functions elsewhere. So a simulator can stand in for the world, and a
//! state machine cannot read the time by accident.
//!
//! Reading order: [`Clock`], [`disk::Disk`], [`net`], [`task`], [`random`], [`simulation`].
#![allow(clippy::disallowed_methods, reason = "this crate is the door")]

pub mod clock;
pub mod disk;
pub mod net;
pub mod random;
pub mod sim_disk;
pub mod simulation;
pub mod task;

pub use clock::{Clock, ManualClock, RuntimeClock, SystemClock};
