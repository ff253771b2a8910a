//! From a backup and the log behind it to a data directory.

use std::sync::Arc;

use proteus_backup::{Backup, LogSegment, Repository, chain};
use proteus_env::{SystemClock, task};
use proteus_node::{NodeError, Restore};
use proteus_types::CommitTs;

use super::{RestoreArguments, moment, open, parse_time};
use crate::cli::print;
use crate::progress::progress;

/// Carries `proteus restore` out.
///
/// # Errors
/// Why it could not be.
pub async fn restore(arguments: &RestoreArguments) -> Result<(), String> {
    let at = arguments.at.as_deref().map_or(Ok(CommitTs::MAX), parse_time)?;
    let repository = open(&arguments.place).await?;
    let backup = repository.newest(at).await.map_err(|error| error.to_string())?;
    let (logs, reach) = log_behind(&repository, &backup).await?;
    let until = at.min(reach);
    let clock = Arc::new(SystemClock::default());
    let begun = Restore::begin(&arguments.data_dir, clock, until);
    let mut restore = begun.map_err(|error| error.to_string())?;
    let bar = progress(Some(backup.bytes() >> 20), "MiB restored");
    let mut bytes = 0;
    for (of_shard, segments) in backup.shards.iter().zip(logs) {
        restore.begin_shard(of_shard.shard).map_err(|error| error.to_string())?;
        for piece in &of_shard.pieces {
            let content = repository.piece(piece).await.map_err(|error| error.to_string())?;
            restore = apart(restore, move |restore| restore.take_chunk(&content)).await?.0;
            bytes += piece.bytes;
            bar.set_position(bytes >> 20);
        }
        restore = apart(restore, Restore::begin_log).await?.0;
        let is_needed = until > backup.commit_ts;
        for segment in segments.into_iter().filter(|_| is_needed) {
            let part = repository.log_segment(&segment).await.map_err(|error| error.to_string())?;
            let goes_on;
            (restore, goes_on) = apart(restore, move |restore| restore.take_log(&part)).await?;
            if !goes_on {
                break;
            }
        }
        restore.end_shard().await.map_err(|error| error.to_string())?;
    }
    let last_ts = restore.finish().map_err(|error| error.to_string())?;
    bar.finish_and_clear();
    if last_ts > until || last_ts < backup.commit_ts {
        return Err(format!(
            "what was restored ends with {last_ts}, and not between {} and {until}; do not use {}",
            backup.commit_ts,
            arguments.data_dir.display()
        ));
    }
    if arguments.at.is_some() && until < at {
        print(&format!("The log was followed up to {until} only.\n"))?;
    }
    print(&format!(
        "Restored everything committed up to {until} ({}) into {dir}. Start it with\n  proteus start --data-dir {dir}\n",
        moment(until.physical_ms()),
        dir = arguments.data_dir.display(),
    ))
}

/// Calls `step` where it may block.
async fn apart<R: Send + 'static>(
    mut restore: Restore,
    step: impl FnOnce(&mut Restore) -> Result<R, NodeError> + Send + 'static,
) -> Result<(Restore, R), String> {
    task::spawn_blocking(move || step(&mut restore).map(|result| (restore, result)))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}

/// What is kept of the shards' logs behind a backup, in their order, and up to when all that was committed in any of
/// them is there.
///
/// # Errors
/// If the log cannot be listed.
pub(super) async fn log_behind(
    repository: &Repository,
    backup: &Backup,
) -> Result<(Vec<Vec<LogSegment>>, CommitTs), String> {
    let (mut logs, mut reach) = (Vec::new(), CommitTs::MAX);
    for of_shard in &backup.shards {
        let kept = repository.log_of(of_shard.shard).await.map_err(|error| error.to_string())?;
        let segments = chain(&kept, of_shard.last());
        let through_ts = segments.last().map_or(backup.commit_ts, |segment| segment.through_ts);
        reach = reach.min(through_ts.max(backup.commit_ts));
        logs.push(segments);
    }
    Ok((logs, reach))
}
