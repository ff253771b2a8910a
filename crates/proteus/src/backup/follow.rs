//! Following the log behind a backup.

use std::collections::BTreeMap;
use std::time::Duration;

use proteus_backup::{Backup, LogSegment, Repository, ShardBackup};
use proteus_env::{Clock, SystemClock, task};
use proteus_node::Dialer;
use proteus_node::admin::{AdminAnswer, AdminRequest, LogBehind, LogPart, ask_through, fetch_log};
use proteus_types::{CommitTs, EntryId, ShardId};

use super::{BackupArguments, prune, take};
use crate::cli::print;

/// Pause after a look that failed.
const RETRY: Duration = Duration::from_secs(2);

/// How far a shard's log is kept.
#[derive(Clone, Copy)]
struct Position {
    last: EntryId,
    through_ts: CommitTs,
}

/// What a look came to.
enum Looked {
    /// All that was committed before it is kept.
    Kept,
    /// Another backup has to be taken, because of this.
    Lost(String),
}

/// Takes a backup and keeps what is committed behind it, over and over.
///
/// # Errors
/// If the first backup cannot be taken, or nothing can be written.
pub(super) async fn follow(
    repository: &mut Repository,
    dialer: &Dialer,
    arguments: &BackupArguments,
) -> Result<(), String> {
    let clock = SystemClock::default();
    loop {
        let backup = take(repository, dialer, arguments).await?;
        prune(repository, arguments).await?;
        let mut positions = positions(&backup);
        let again_at = clock.elapsed() + Duration::from_secs(arguments.again * 3600);
        let mut has_failed = false;
        while clock.elapsed() < again_at {
            match look(repository, dialer, &arguments.peer, &mut positions).await {
                Ok(Looked::Kept) => {
                    if std::mem::take(&mut has_failed) {
                        print("Following the log again.\n")?;
                    }
                    task::sleep(Duration::from_secs(arguments.every)).await;
                }
                Ok(Looked::Lost(reason)) => {
                    print(&format!("Another backup is taken: {reason}.\n"))?;
                    break;
                }
                Err(error) => {
                    if !std::mem::replace(&mut has_failed, true) {
                        print(&format!(
                            "The log cannot be followed now, and is tried again: {error}\n"
                        ))?;
                    }
                    task::sleep(RETRY).await;
                }
            }
        }
    }
}

fn positions(backup: &Backup) -> BTreeMap<ShardId, Position> {
    let position =
        |shard: &ShardBackup| Position { last: shard.last(), through_ts: backup.commit_ts };
    backup.shards.iter().map(|shard| (shard.shard, position(shard))).collect()
}

async fn look(
    repository: &Repository,
    dialer: &Dialer,
    peer: &str,
    positions: &mut BTreeMap<ShardId, Position>,
) -> Result<Looked, String> {
    let seen = positions.iter().map(|(shard, position)| (*shard, position.last.index)).collect();
    let marked = match ask_through(dialer, peer, &AdminRequest::MarkLogs { seen }).await? {
        AdminAnswer::Logs(marked) => marked,
        other => return Err(format!("an answer to another question: {other:?}")),
    };
    if !marked.iter().map(|(shard, _)| shard).eq(positions.keys()) {
        return Ok(Looked::Lost("the cluster has other shards now".to_owned()));
    }
    for (shard, upto) in marked {
        let Some(position) = positions.get_mut(&shard) else { continue };
        while position.last.index < upto {
            match fetch_log(dialer, peer, shard, position.last.index).await? {
                // The node that was asked before may have been ahead of this one.
                LogBehind::Nothing => break,
                LogBehind::Purged => {
                    return Ok(Looked::Lost(format!(
                        "shard {shard} has let go of what follows entry {}",
                        position.last.index
                    )));
                }
                LogBehind::Part(part) if part.previous != position.last => {
                    return Ok(Looked::Lost("the node is of another cluster now".to_owned()));
                }
                LogBehind::Part(part) => {
                    *position = keep(repository, shard, *position, part).await?
                }
            }
        }
    }
    Ok(Looked::Kept)
}

async fn keep(
    repository: &Repository,
    shard: ShardId,
    position: Position,
    part: LogPart,
) -> Result<Position, String> {
    let through_ts = position.through_ts.max(part.through_ts);
    let segment = LogSegment { shard, previous: part.previous, last: part.last, through_ts };
    repository.add_log(&segment, &part.entries).await.map_err(|error| error.to_string())?;
    Ok(Position { last: part.last, through_ts })
}
