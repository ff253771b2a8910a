//! The durable log of a node: one sequence of segments, shared by all its shards.
//!
//! ```text
//!   append(shard, entries, done) ─┐
//!   set_meta / truncate / purge ──┼─▶ writer thread: one write, one flush ─▶ done(Ok)
//!   append(shard, entries, done) ─┘   for all that has arrived (group commit)
//! ```
//!
//! An entry is readable once `append` returns and durable once its `done` is called. The log knows
//! positions and bytes; what an entry means is its reader's affair. The bytes on disk are in
//! `docs/data-format.md`.
//!
//! # Invariants
//! - Entries of a shard are consecutive: purged index < first ≤ … ≤ last, without holes.
//! - `done` is called in the order of the calls, and never before a flush that covers it.
//! - Bytes before a segment's last recorded flush are whole; damage there is refused, never skipped.
//!   What follows it and is broken was never acknowledged, and is cut.
//!
//! Reading order: [`Log`], [`record`], [`recovery`], [`writer`].

mod index;
mod log;
mod pieces;
mod record;
mod recovery;
mod writer;

pub use log::{Done, Log, LogEntry, LogOptions, MetaKey};
pub use record::{SEGMENT_HEADER_BYTES, fuzz_decode};
pub use recovery::{LogReport, inspect};

/// Largest entry, in bytes: a bulk append with its envelope. The kernel accepts less.
pub const ENTRY_BYTES_MAX: usize = 80 * 1024 * 1024;

/// Why the log cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk or file system failed.
    #[error("the log in {location} failed: {source}")]
    Io {
        /// Directory of the log.
        location: String,
        /// What the file system said.
        source: std::io::Error,
    },
    /// Bytes that were flushed are not what was written.
    #[error(
        "the log is damaged: {file} at byte {byte_offset}: {what}. Nothing was changed. Restore this file from a copy, \
         or restore the data directory from a backup; do not delete the file, as it holds acknowledged writes"
    )]
    Damaged {
        /// The segment's path.
        file: String,
        /// Where the damaged record starts, in bytes from the start of the file.
        byte_offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A segment was written by a version of the format that is not known here.
    #[error(
        "{file} has format version {version}, and this binary reads {known}; start the version that wrote it"
    )]
    UnknownVersion {
        /// The segment's path.
        file: String,
        /// The version it carries.
        version: u32,
        /// The version that this binary reads.
        known: u32,
    },
}
