//! `proteus backup` and `proteus restore`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::HumanBytes;
use proteus_backup::{Backup, Repository, ShardBackup};
use proteus_env::{Clock, SystemClock, task};
use proteus_node::admin::{AdminAnswer, AdminRequest, ImageStart, ask_through, fetch_image};
use proteus_node::{Dialer, Restore};
use proteus_types::CommitTs;

use crate::cli::print;
use crate::cluster::credentials;
use crate::config::Config;
use crate::progress::progress;

/// How often a piece is asked for that does not arrive.
const FETCH_TRIES: u32 = 5;

/// Pause between such tries.
const FETCH_RETRY: Duration = Duration::from_secs(1);

/// What to back up, and where to.
#[derive(Args)]
pub struct BackupArguments {
    /// Directory, or s3://bucket/path
    place: String,
    /// Any node of the cluster, at its port for other nodes
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7000")]
    peer: String,
    /// MiB a second to read from the node at most; 0 for no bound
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    mib_per_s: u64,
    /// Afterwards remove all but the newest N backups of the place
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    /// Take no backup: list those of the place
    #[arg(long, conflicts_with_all = ["verify", "keep"])]
    list: bool,
    /// Take no backup: read all of those of the place and check every byte
    #[arg(long, conflicts_with = "keep")]
    verify: bool,
}

/// What to restore, and where to.
#[derive(Args)]
pub struct RestoreArguments {
    /// Directory, or s3://bucket/path
    place: String,
    /// Where to make the new node's data; must hold none
    #[arg(long, value_name = "DIR", default_value = "./proteus-data")]
    data_dir: PathBuf,
    /// The newest backup that holds nothing later: a commit timestamp as the list shows it, or
    /// milliseconds of Unix time
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
}

/// Carries `proteus backup` out.
///
/// # Errors
/// Why it could not be.
pub async fn run(arguments: BackupArguments, config: &Config) -> Result<(), String> {
    let mut repository = open(&arguments.place).await?;
    if arguments.list {
        return list(&repository).await;
    }
    if arguments.verify {
        return verify(&repository).await;
    }
    let dialer = Dialer::new(credentials(config)?);
    take(&mut repository, &dialer, &arguments).await?;
    if let Some(keep) = arguments.keep {
        let pruned = repository.prune(keep as usize).await.map_err(|error| error.to_string())?;
        if pruned.backups > 0 {
            print(&format!(
                "Removed {} older, and {} pieces that only they needed.\n",
                pruned.backups, pruned.pieces
            ))?;
        }
    }
    Ok(())
}

async fn open(place: &str) -> Result<Repository, String> {
    Repository::open(place).await.map_err(|error| error.to_string())
}

async fn take(
    repository: &mut Repository,
    dialer: &Dialer,
    arguments: &BackupArguments,
) -> Result<(), String> {
    let clock = SystemClock::default();
    let began = clock.elapsed();
    let start = match ask_through(dialer, &arguments.peer, &AdminRequest::BeginBackup).await? {
        AdminAnswer::Backup(start) => start,
        other => return Err(format!("an answer to another question: {other:?}")),
    };
    let mut backup = Backup::new(start.commit_ts, start.taken_at_ms);
    let mut written_bytes = 0;
    let bar = progress(None, "MiB read,");
    for ImageStart { shard, transfer, term, index } in start.images {
        backup.shards.push(ShardBackup { shard, term, index, pieces: Vec::new() });
        for sequence in 0.. {
            let piece = fetch(dialer, &arguments.peer, transfer, sequence).await?;
            if piece.is_empty() {
                break;
            }
            let added = repository.add_piece(&piece).await.map_err(|error| error.to_string())?;
            written_bytes += added.written_bytes;
            if let Some(last) = backup.shards.last_mut() {
                last.pieces.push(added.piece);
            }
            bar.set_position(backup.bytes() >> 20);
            if arguments.mib_per_s > 0 {
                let rate = (arguments.mib_per_s << 20) as f64;
                let due = began + Duration::from_secs_f64(backup.bytes() as f64 / rate);
                task::sleep(due.saturating_sub(clock.elapsed())).await;
            }
        }
    }
    repository.add_backup(&backup).await.map_err(|error| error.to_string())?;
    bar.finish_and_clear();
    print(&format!(
        "Backed up everything committed up to {} ({}): {} of state, {} written, in {:.1} s.\n",
        backup.commit_ts,
        moment(backup.taken_at_ms),
        HumanBytes(backup.bytes()),
        HumanBytes(written_bytes),
        clock.elapsed().saturating_sub(began).as_secs_f64(),
    ))
}

async fn fetch(
    dialer: &Dialer,
    peer: &str,
    transfer: u64,
    sequence: u64,
) -> Result<bytes::Bytes, String> {
    let mut tries = 1;
    loop {
        match fetch_image(dialer, peer, transfer, sequence).await {
            Ok(piece) => return Ok(piece),
            Err(error) if tries == FETCH_TRIES => {
                return Err(format!("{error}; nothing was changed, take the backup again"));
            }
            Err(_) => task::sleep(FETCH_RETRY).await,
        }
        tries += 1;
    }
}

async fn list(repository: &Repository) -> Result<(), String> {
    let backups = repository.backups().await.map_err(|error| error.to_string())?;
    let mut text = String::from("  commit timestamp        taken at                  state\n");
    for backup in &backups {
        text.push_str(&format!(
            "  {:<23} {:<25} {}\n",
            backup.commit_ts.to_string(),
            moment(backup.taken_at_ms),
            HumanBytes(backup.bytes())
        ));
    }
    print(if backups.is_empty() { "There is no backup in this place.\n" } else { &text })
}

async fn verify(repository: &Repository) -> Result<(), String> {
    let backups = repository.backups().await.map_err(|error| error.to_string())?;
    let pieces: std::collections::BTreeMap<_, _> =
        backups.iter().flat_map(Backup::pieces).map(|p| (&p.sha256, p)).collect();
    let bar = progress(Some(pieces.len() as u64), "pieces");
    let mut damaged = Vec::new();
    for (name, piece) in &pieces {
        if let Err(error) = repository.piece(piece).await {
            damaged.push((*name, error.to_string()));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    for (name, error) in &damaged {
        let hit =
            backups.iter().filter(|backup| backup.pieces().any(|piece| piece.sha256 == **name));
        let hit: Vec<String> = hit.map(|backup| backup.commit_ts.to_string()).collect();
        print(&format!("{error}; it is part of: {}\n", hit.join(", ")))?;
    }
    if !damaged.is_empty() {
        return Err(format!("{} of {} pieces are damaged", damaged.len(), pieces.len()));
    }
    print(&format!("{} backups of {} pieces are whole.\n", backups.len(), pieces.len()))
}

/// Carries `proteus restore` out.
///
/// # Errors
/// Why it could not be.
pub async fn restore(arguments: &RestoreArguments) -> Result<(), String> {
    let at = arguments.at.as_deref().map_or(Ok(CommitTs::MAX), parse_time)?;
    let repository = open(&arguments.place).await?;
    let backup = repository.newest(at).await.map_err(|error| error.to_string())?;
    let mut restore = Restore::begin(&arguments.data_dir).map_err(|error| error.to_string())?;
    let bar = progress(Some(backup.bytes() >> 20), "MiB restored");
    let mut bytes = 0;
    for of_shard in &backup.shards {
        restore.begin_shard(of_shard.shard).map_err(|error| error.to_string())?;
        for piece in &of_shard.pieces {
            let content = repository.piece(piece).await.map_err(|error| error.to_string())?;
            restore = task::spawn_blocking(move || restore.take_chunk(&content).map(|()| restore))
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| error.to_string())?;
            bytes += piece.bytes;
            bar.set_position(bytes >> 20);
        }
    }
    let commit_ts = restore.finish().await.map_err(|error| error.to_string())?;
    bar.finish_and_clear();
    if commit_ts != backup.commit_ts {
        return Err(format!(
            "the backup says that it ends with {}, and its state with {commit_ts}; do not use {}",
            backup.commit_ts,
            arguments.data_dir.display()
        ));
    }
    print(&format!(
        "Restored everything committed up to {commit_ts} ({}) into {dir}. Start it with\n  proteus start --data-dir {dir}\n",
        moment(backup.taken_at_ms),
        dir = arguments.data_dir.display(),
    ))
}

/// A commit timestamp as it is shown, `milliseconds.counter`, or the last one of a millisecond.
fn parse_time(text: &str) -> Result<CommitTs, String> {
    let wrong = || {
        format!(
            "{text} is no commit timestamp, as `proteus backup PLACE --list` shows them, and no milliseconds of Unix time"
        )
    };
    let (ms, logical) = match text.split_once('.') {
        Some((ms, logical)) => (ms, Some(logical.parse::<u64>().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let ms: u64 = ms.parse().map_err(|_| wrong())?;
    if ms >= 1 << (64 - proteus_types::LOGICAL_BITS) {
        return Err(wrong());
    }
    let first = CommitTs::from_physical_ms(ms);
    Ok(first.plus(logical.unwrap_or((1 << proteus_types::LOGICAL_BITS) - 1)))
}

/// A time of day in UTC.
fn moment(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1_000).unwrap_or(i64::MAX);
    chrono::DateTime::from_timestamp(seconds, 0).map_or_else(
        || format!("{unix_ms} ms"),
        |time| time.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_shown() {
        let ts = CommitTs::from_physical_ms(1_700_000_000_123).plus(7);
        assert_eq!(parse_time(&ts.to_string()), Ok(ts));
        assert!(parse_time("1700000000123").unwrap() > ts);
        assert!(parse_time("1700000000122").unwrap() < ts);
        for wrong in ["", "now", "1.2.3", "99999999999999999999", "99999999999999999"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_moment_is_utc() {
        assert_eq!(moment(1_700_000_000_123), "2023-11-14T22:13:20Z");
    }
}
