//! Examining a data directory on which no node runs: what is whole, what is damaged, what to do.

use std::path::Path;
use std::sync::Arc;

use proteus_env::disk::{Disk, RealDisk, exists, is_directory, read_text};
use proteus_kernel::{StoreReport, examine_store};
use proteus_log::{LogReport, inspect};
use proteus_types::{EntryId, ShardId};

use crate::identity::Identity;
use crate::restore::RESTORING_FILE;
use crate::retire;
use crate::shards::store_directory;
use crate::{FORMAT_FILE, FORMAT_VERSION, NodeError, take_lock};

/// How a part of the directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Whole,
    /// As a crash may leave it; the next start mends it without loss.
    Unfinished,
    /// A node will not start on it.
    Damaged,
}

/// What was found of one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The part.
    pub part: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What is there, and if it is not whole, what to do.
    pub what: String,
}

/// What to do about damage that a backup or another replica can mend.
const MEND: &str = "keep a copy of the directory; then restore a backup with `proteus restore`, or, if other nodes of \
the cluster have the data, take this node out with `proteus cluster remove` and let a new one join";

/// Examines `directory`. What a crash left unfinished is left so, but the store's own files, which cannot
/// be read without being opened.
///
/// # Errors
/// If a node runs on the directory, or there is none.
pub fn examine(directory: &Path) -> Result<Vec<Finding>, NodeError> {
    if !is_directory(directory) {
        return Err(NodeError::Io {
            path: directory.to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        });
    }
    let _lock = take_lock(directory)?;
    let mut findings = vec![format(directory), identity(directory)];
    if exists(&directory.join(RESTORING_FILE)) {
        let what = "a restore was interrupted; run `proteus restore` again with this directory";
        findings.push(damaged("restore", what.to_owned()));
        return Ok(findings);
    }
    let log = examine_log(directory, &mut findings);
    let mut shards: Vec<ShardId> =
        log.iter().flat_map(|log| log.shards.iter().map(|shard| shard.0)).collect();
    if let Some(retired) = retire::retiring(directory) {
        let what = format!(
            "shard {retired}, of which this node has no replica any more, is being removed; the next start ends that"
        );
        findings.push(finding("store", Verdict::Unfinished, what));
        shards.retain(|shard| *shard != retired);
    }
    if !shards.contains(&ShardId::META) {
        shards.insert(0, ShardId::META);
    }
    for shard in shards {
        let store = store(&store_directory(directory, shard), &mut findings);
        if let (Some(log), Some(store)) = (&log, store) {
            findings.push(fit(log, shard, &store));
        }
    }
    Ok(findings)
}

fn finding(part: &'static str, verdict: Verdict, what: String) -> Finding {
    Finding { part, verdict, what }
}

fn damaged(part: &'static str, what: String) -> Finding {
    finding(part, Verdict::Damaged, what)
}

fn format(directory: &Path) -> Finding {
    match read_text(&directory.join(FORMAT_FILE)) {
        Ok(text) if text == FORMAT_VERSION => {
            finding("format", Verdict::Whole, text.trim().to_owned())
        }
        Ok(text) if text.is_empty() => {
            finding("format", Verdict::Unfinished, "the node never started here".to_owned())
        }
        Ok(text) => damaged(
            "format",
            format!(
                "{FORMAT_FILE} says {text:?}, which this binary does not read; start the version that wrote it"
            ),
        ),
        Err(error) => {
            damaged("format", format!("{FORMAT_FILE}: {error}; this is no data directory"))
        }
    }
}

fn identity(directory: &Path) -> Finding {
    match Identity::load(directory) {
        Ok(Some(Identity { node, is_founder, .. })) => {
            let founder = if is_founder { ", which founded its cluster" } else { "" };
            finding("identity", Verdict::Whole, format!("{node}{founder}"))
        }
        Ok(None) => finding("identity", Verdict::Unfinished, "none was taken yet".to_owned()),
        Err(error) => damaged("identity", format!("{error}; {MEND}")),
    }
}

fn examine_log(directory: &Path, findings: &mut Vec<Finding>) -> Option<LogReport> {
    let location = directory.join("log");
    if !is_directory(&location) {
        findings.push(finding(
            "log",
            Verdict::Unfinished,
            "the node never started here".to_owned(),
        ));
        return None;
    }
    let report = RealDisk::open(&location)
        .map_err(|error| error.to_string())
        .and_then(|disk| inspect(&(Arc::new(disk) as Arc<dyn Disk>)).map_err(|e| e.to_string()));
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            findings.push(damaged("log", format!("{error}. Or {MEND}")));
            return None;
        }
    };
    let entries = |(_, purged, last): &(_, Option<EntryId>, Option<EntryId>)| {
        let first = purged.map_or(0, |purged| purged.index.0 + 1);
        let end = last.map_or(0, |last| last.index.0 + 1);
        if first < end { format!("entries {first} to {}", end - 1) } else { "no entry".to_owned() }
    };
    let shards: Vec<String> =
        report.shards.iter().map(|shard| format!("{}: {}", shard.0, entries(shard))).collect();
    let what = format!(
        "{} segments of {} KiB; {}",
        report.segment_count,
        report.bytes >> 10,
        shards.join(", ")
    );
    findings.push(finding("log", Verdict::Whole, what));
    if let Some((file, byte_offset)) = &report.torn_tail {
        let what = format!(
            "{file} ends at byte {byte_offset} with what a crash left unfinished and nobody was told is done; the next start cuts it"
        );
        findings.push(finding("log", Verdict::Unfinished, what));
    }
    for file in &report.headless {
        let what = format!("{file} was only begun; the next start removes it");
        findings.push(finding("log", Verdict::Unfinished, what));
    }
    Some(report)
}

fn store(location: &Path, findings: &mut Vec<Finding>) -> Option<StoreReport> {
    let (old, incoming) = (location.with_extension("old"), location.with_extension("incoming"));
    if exists(&old) || exists(&incoming) {
        let what = "another state was about to take this one's place; the next start ends that";
        findings.push(finding("store", Verdict::Unfinished, what.to_owned()));
        // Opening would end it here.
        return None;
    }
    if !is_directory(location) {
        // It is made with the first checkpoint.
        findings.push(finding("store", Verdict::Whole, "no checkpoint yet".to_owned()));
        return Some(StoreReport { applied: None, keys: 0, bytes: 0 });
    }
    match examine_store(location) {
        Ok(report) => {
            let upto = match report.applied {
                Some((id, ts)) => format!("checkpoint up to entry {}, commit {ts}", id.index),
                None => "no checkpoint yet".to_owned(),
            };
            let StoreReport { keys, bytes, .. } = report;
            let what = format!("{upto}; {keys} keys, {} KiB", bytes >> 10);
            findings.push(finding("store", Verdict::Whole, what));
            Some(report)
        }
        Err(error) => {
            findings.push(damaged("store", format!("{error}. Or {MEND}")));
            None
        }
    }
}

/// Whether the log goes on where the checkpoint ends.
fn fit(log: &LogReport, shard: ShardId, store: &StoreReport) -> Finding {
    let own = log.shards.iter().find(|own| own.0 == shard);
    let (purged, last) = own.map_or((None, None), |own| (own.1, own.2));
    let purged = purged.map_or(0, |purged| purged.index.0);
    let applied = store.applied.map_or(0, |(id, _)| id.index.0);
    if purged > applied {
        let what = format!(
            "entries {} to {purged} are in neither the checkpoint nor the log; {MEND}",
            applied + 1
        );
        return damaged("both", what);
    }
    let replayed = last.map_or(0, |last| last.index.0).saturating_sub(applied);
    finding("both", Verdict::Whole, format!("the next start replays {replayed} entries"))
}
