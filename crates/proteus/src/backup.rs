//! `proteus backup` and `proteus restore`.

mod follow;
mod restore;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::HumanBytes;
use proteus_backup::{Backup, Repository, ShardBackup};
use proteus_env::{Clock, SystemClock, task};
use proteus_node::Dialer;
use proteus_node::admin::{AdminAnswer, AdminRequest, ImageStart, ask_through, fetch_image};
use proteus_types::CommitTs;
pub use restore::restore;

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
    /// Afterwards go on with what is committed, until stopped, so that one can restore to any moment
    #[arg(long)]
    follow: bool,
    /// Seconds between two looks at what was committed
    #[arg(long, value_name = "SECONDS", default_value_t = 5, requires = "follow", value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Hours after which another backup is taken, so that a restore has less to apply
    #[arg(long, value_name = "HOURS", default_value_t = 24, requires = "follow", value_parser = clap::value_parser!(u64).range(1..))]
    again: u64,
    /// Take no backup: list those of the place
    #[arg(long, conflicts_with_all = ["verify", "keep", "follow"])]
    list: bool,
    /// Take no backup: read all of those of the place and check every byte
    #[arg(long, conflicts_with_all = ["keep", "follow"])]
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
    /// What was committed up to then and nothing later, as far as the log was followed; otherwise the newest backup
    /// before: a commit timestamp as the list shows it, or milliseconds of Unix time
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
    if arguments.follow {
        return follow::follow(&mut repository, &dialer, &arguments).await;
    }
    take(&mut repository, &dialer, &arguments).await?;
    prune(&mut repository, &arguments).await
}

async fn prune(repository: &mut Repository, arguments: &BackupArguments) -> Result<(), String> {
    if let Some(keep) = arguments.keep {
        let pruned = repository.prune(keep as usize).await.map_err(|error| error.to_string())?;
        if pruned.backups > 0 {
            print(&format!(
                "Removed {} older, and {} pieces and {} segments of the log that only they needed.\n",
                pruned.backups, pruned.pieces, pruned.segments
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
) -> Result<Backup, String> {
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
    ))?;
    Ok(backup)
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
    if let Some(newest) = backups.last() {
        let (_, through_ts) = restore::log_behind(repository, newest).await?;
        if through_ts > newest.commit_ts {
            text.push_str(&format!(
                "  {:<23} {:<25} the log reaches to here\n",
                through_ts.to_string(),
                moment(through_ts.physical_ms())
            ));
        }
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
    let (segments, damaged_segments) = verify_log(repository).await?;
    if !damaged.is_empty() || damaged_segments > 0 {
        return Err(format!(
            "{} of {} pieces and {damaged_segments} of {segments} segments of the log are damaged",
            damaged.len(),
            pieces.len()
        ));
    }
    print(&format!(
        "{} backups of {} pieces and {segments} segments of the log are whole.\n",
        backups.len(),
        pieces.len()
    ))
}

/// Reads all that is kept of the log; how many segments there are, and how many are damaged.
async fn verify_log(repository: &Repository) -> Result<(usize, usize), String> {
    let (mut segments, mut damaged) = (0, 0);
    for shard in repository.logs().await.map_err(|error| error.to_string())? {
        for segment in repository.log_of(shard).await.map_err(|error| error.to_string())? {
            segments += 1;
            if let Err(error) = repository.log_segment(&segment).await {
                damaged += 1;
                print(&format!("{error}\n"))?;
            }
        }
    }
    Ok((segments, damaged))
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
