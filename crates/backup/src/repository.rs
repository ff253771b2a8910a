//! Reading and writing the files of a place.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use bytes::Bytes;
use proteus_objects::Objects;
use proteus_types::{CommitTs, ShardId};
use sha2::{Digest, Sha256};

use crate::{Backup, BackupError, FORMAT_VERSION, LogSegment, PIECE_BYTES_MAX, Piece};

/// zstd's fastest regular level: a backup is bound by the disk and the network.
const COMPRESSION_LEVEL: i32 = 1;

const PIECES: &str = "pieces";
const BACKUPS: &str = "backups";
const LOG: &str = "log";

/// What became of a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// To be put into the backup.
    pub piece: Piece,
    /// Bytes written for it; 0 if it was there.
    pub written_bytes: u64,
}

/// What pruning removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Backups.
    pub backups: usize,
    /// Pieces that no backup needs any more.
    pub pieces: usize,
    /// Segments of the log before the oldest backup.
    pub segments: usize,
}

/// All backups of one place.
pub struct Repository {
    objects: Objects,
    /// Names of the pieces that are there.
    pieces: BTreeSet<String>,
}

impl Repository {
    /// Opens a place: a directory, created if it is not there, or `s3://bucket/path`.
    ///
    /// # Errors
    /// If it cannot be used.
    pub async fn open(place: &str) -> Result<Repository, BackupError> {
        let objects = Objects::open(place)?;
        let listed = objects.list(PIECES).await?;
        let name = |path: &String| path.rsplit('/').next().map(str::to_owned);
        let pieces = listed.iter().filter_map(name).collect();
        Ok(Repository { objects, pieces })
    }

    /// Keeps a piece, unless it is there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn add_piece(&mut self, piece: &[u8]) -> Result<Added, BackupError> {
        let sha256 = hex(&Sha256::digest(piece));
        let added = Piece { sha256: sha256.clone(), bytes: piece.len() as u64 };
        if self.pieces.contains(&sha256) {
            return Ok(Added { piece: added, written_bytes: 0 });
        }
        let compressed = zstd::bulk::compress(piece, COMPRESSION_LEVEL)
            .map_err(|error| BackupError::Encoding(error.to_string()))?;
        let written_bytes = compressed.len() as u64;
        self.objects.put(&piece_path(&sha256), vec![Bytes::from(compressed)]).await?;
        self.pieces.insert(sha256);
        Ok(Added { piece: added, written_bytes })
    }

    /// Makes a backup of pieces that were all added. It counts, and survives a power cut, once this
    /// returns.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn add_backup(&self, backup: &Backup) -> Result<(), BackupError> {
        let json =
            serde_json::to_vec(backup).map_err(|error| BackupError::Encoding(error.to_string()))?;
        let mut content = format!("{}\n", hex(&Sha256::digest(&json))).into_bytes();
        content.extend_from_slice(&json);
        let path = backup_path(backup.commit_ts);
        Ok(self.objects.put(&path, vec![Bytes::from(content)]).await?)
    }

    /// All backups, oldest first.
    ///
    /// # Errors
    /// If they cannot be read, or one is damaged.
    pub async fn backups(&self) -> Result<Vec<Backup>, BackupError> {
        let mut backups = Vec::new();
        for path in self.objects.list(BACKUPS).await? {
            backups.push(decode(&path, &self.objects.read_whole(&path).await?)?);
        }
        backups.sort_by_key(|backup| backup.commit_ts);
        Ok(backups)
    }

    /// The newest backup of which nothing was committed after `at`.
    ///
    /// # Errors
    /// If there is none, or one is damaged.
    pub async fn newest(&self, at: CommitTs) -> Result<Backup, BackupError> {
        let mut backups = self.backups().await?;
        let all = backups.len();
        backups.retain(|backup| backup.commit_ts <= at);
        backups.pop().ok_or_else(|| {
            BackupError::Missing(match all {
                0 => "there is no backup in this place".to_owned(),
                _ => format!("none of the {all} backups in this place is so old; list them"),
            })
        })
    }

    /// A piece, verified.
    ///
    /// # Errors
    /// If it cannot be read or is damaged.
    pub async fn piece(&self, piece: &Piece) -> Result<Bytes, BackupError> {
        let path = piece_path(&piece.sha256);
        let compressed = self.objects.read_whole(&path).await?;
        let damaged = |reason: String| BackupError::Damaged { what: path.clone(), reason };
        let bytes_max = usize::try_from(piece.bytes).unwrap_or(usize::MAX);
        if bytes_max > PIECE_BYTES_MAX {
            return Err(damaged(format!("no piece has {bytes_max} bytes")));
        }
        let content = zstd::bulk::decompress(&compressed, bytes_max)
            .map_err(|error| damaged(error.to_string()))?;
        let found = hex(&Sha256::digest(&content));
        if found != piece.sha256 {
            return Err(damaged(format!("its SHA-256 is {found}")));
        }
        Ok(Bytes::from(content))
    }

    /// Keeps what a shard committed behind a backup. It counts, and survives a power cut, once this returns.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn add_log(&self, segment: &LogSegment, entries: &[u8]) -> Result<(), BackupError> {
        let compressed = zstd::bulk::compress(entries, COMPRESSION_LEVEL)
            .map_err(|error| BackupError::Encoding(error.to_string()))?;
        let path = segment_path(segment);
        let head = format!("{}\n{}\n", checksum(&path, entries), entries.len());
        Ok(self.objects.put(&path, vec![Bytes::from(head), Bytes::from(compressed)]).await?)
    }

    /// The segments of a shard's log, in the order of their times.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub async fn log_of(&self, shard: ShardId) -> Result<Vec<LogSegment>, BackupError> {
        let listed = self.objects.list(&log_folder(shard)).await?;
        let parse = |path: &String| LogSegment::parse(shard, path.rsplit('/').next()?);
        let mut segments: Vec<LogSegment> = listed.iter().filter_map(parse).collect();
        segments.sort_by_key(|segment| (segment.through_ts, segment.last));
        Ok(segments)
    }

    /// The shards of which any log is kept.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub async fn logs(&self) -> Result<BTreeSet<ShardId>, BackupError> {
        let listed = self.objects.list(LOG).await?;
        let shard = |path: &String| {
            let folder = path.rsplit('/').nth(1)?;
            u32::from_str_radix(folder, 16).ok().map(ShardId)
        };
        Ok(listed.iter().filter_map(shard).collect())
    }

    /// The entries of a segment, verified.
    ///
    /// # Errors
    /// If it cannot be read or is damaged.
    pub async fn log_segment(&self, segment: &LogSegment) -> Result<Bytes, BackupError> {
        let path = segment_path(segment);
        let content = self.objects.read_whole(&path).await?;
        let damaged =
            |reason: &str| BackupError::Damaged { what: path.clone(), reason: reason.to_owned() };
        let mut parts = content.splitn(3, |byte| *byte == b'\n');
        let (Some(sum), Some(length), Some(compressed)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(damaged("its head is missing"));
        };
        let length = std::str::from_utf8(length).ok().and_then(|length| length.parse().ok());
        let bytes_max = length
            .filter(|length| *length <= PIECE_BYTES_MAX)
            .ok_or_else(|| damaged("its head does not say how long it is"))?;
        let entries = zstd::bulk::decompress(compressed, bytes_max)
            .map_err(|error| damaged(&error.to_string()))?;
        if entries.len() != bytes_max || checksum(&path, &entries).as_bytes() != sum {
            return Err(damaged("its checksum is of other bytes"));
        }
        Ok(Bytes::from(entries))
    }

    /// Removes all but the newest `keep` backups, and the pieces that only they needed. Not while a
    /// backup is being taken: its pieces would look unneeded.
    ///
    /// # Errors
    /// If the place cannot be read or written; it is safe to repeat.
    pub async fn prune(&mut self, keep: usize) -> Result<Pruned, BackupError> {
        let backups = self.backups().await?;
        let (old, kept) = backups.split_at(backups.len().saturating_sub(keep));
        for backup in old {
            self.objects.delete(&backup_path(backup.commit_ts)).await?;
        }
        let needed: BTreeSet<&String> =
            kept.iter().flat_map(Backup::pieces).map(|piece| &piece.sha256).collect();
        let unneeded: Vec<String> =
            self.pieces.iter().filter(|name| !needed.contains(name)).cloned().collect();
        for name in &unneeded {
            self.objects.delete(&piece_path(name)).await?;
            self.pieces.remove(name);
        }
        let segments = match (old.last(), kept.first()) {
            (Some(_), Some(oldest)) => self.prune_log(oldest.commit_ts).await?,
            _ => 0,
        };
        Ok(Pruned { backups: old.len(), pieces: unneeded.len(), segments })
    }

    /// Removes what was committed before `before`.
    async fn prune_log(&self, before: CommitTs) -> Result<usize, BackupError> {
        let mut removed = 0;
        for shard in self.logs().await? {
            for segment in self.log_of(shard).await? {
                if segment.through_ts < before {
                    self.objects.delete(&segment_path(&segment)).await?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }
}

fn decode(path: &str, content: &[u8]) -> Result<Backup, BackupError> {
    let damaged =
        |reason: &str| BackupError::Damaged { what: path.to_owned(), reason: reason.to_owned() };
    let split = content.split_at_checked(64).ok_or_else(|| damaged("it is too short"))?;
    let (checksum, Some((b'\n', json))) = (split.0, split.1.split_first()) else {
        return Err(damaged("its first line is no checksum"));
    };
    if hex(&Sha256::digest(json)).as_bytes() != checksum {
        return Err(damaged("its checksum is of other bytes"));
    }
    let backup: Backup = serde_json::from_slice(json)
        .map_err(|_| damaged("it was not written by a version that is known here"))?;
    if backup.format != FORMAT_VERSION {
        return Err(damaged(&format!(
            "it has format version {}, and this binary reads {FORMAT_VERSION}",
            backup.format
        )));
    }
    Ok(backup)
}

fn piece_path(sha256: &str) -> String {
    format!("{PIECES}/{}/{sha256}", sha256.get(..2).unwrap_or_default())
}

fn backup_path(commit_ts: CommitTs) -> String {
    format!("{BACKUPS}/{:016x}.json", commit_ts.0)
}

fn log_folder(shard: ShardId) -> String {
    format!("{LOG}/{:08x}", shard.0)
}

fn segment_path(segment: &LogSegment) -> String {
    format!("{}/{}", log_folder(segment.shard), segment.name())
}

/// Of entries and what their segment's name says of them.
fn checksum(path: &str, entries: &[u8]) -> String {
    hex(&Sha256::new().chain_update(path).chain_update(entries).finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use proteus_types::{EntryId, LogIndex, Term};

    use super::*;
    use crate::ShardBackup;

    async fn repository(directory: &std::path::Path) -> Repository {
        Repository::open(directory.to_str().unwrap()).await.unwrap()
    }

    async fn back_up(repository: &mut Repository, ts: u64, pieces: &[&[u8]]) -> (Backup, usize) {
        let mut backup = Backup::new(CommitTs(ts), 1);
        let mut written = 0;
        // A shard for each piece.
        for (number, piece) in (0..).zip(pieces) {
            let added = repository.add_piece(piece).await.unwrap();
            written += usize::from(added.written_bytes > 0);
            let (shard, pieces) = (ShardId(number), vec![added.piece]);
            backup.shards.push(ShardBackup { shard, term: 2, index: 3, pieces });
        }
        repository.add_backup(&backup).await.unwrap();
        (backup, written)
    }

    #[tokio::test]
    async fn what_backups_share_is_kept_once_and_goes_with_the_last_of_them() {
        let directory = tempfile::tempdir().unwrap();
        let mut written = repository(directory.path()).await;
        let (first, count) = back_up(&mut written, 10, &[b"one", b"two"]).await;
        assert_eq!(count, 2);
        let (second, count) = back_up(&mut written, 20, &[b"one", b"three"]).await;
        assert_eq!(count, 1);
        let mut read = repository(directory.path()).await;
        assert_eq!(read.backups().await.unwrap(), [first.clone(), second.clone()]);
        assert_eq!(read.newest(CommitTs(19)).await.unwrap(), first);
        assert_eq!(read.newest(CommitTs::MAX).await.unwrap(), second);
        assert!(matches!(read.newest(CommitTs(9)).await, Err(BackupError::Missing(_))));
        assert_eq!(read.prune(1).await.unwrap(), Pruned { backups: 1, pieces: 1, segments: 0 });
        assert_eq!(read.prune(1).await.unwrap(), Pruned::default());
        for (piece, content) in second.pieces().zip([&b"one"[..], b"three"]) {
            assert_eq!(read.piece(piece).await.unwrap(), content);
        }
        assert!(read.piece(&first.shards[1].pieces[0]).await.is_err());
    }

    #[tokio::test]
    async fn damage_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let mut written = repository(directory.path()).await;
        let (backup, _) = back_up(&mut written, 10, &[&[7; 10_000]]).await;
        for relative in [piece_path(&backup.shards[0].pieces[0].sha256), backup_path(CommitTs(10))]
        {
            let path = directory.path().join(&relative);
            let whole = proteus_env::disk::read(&path).unwrap();
            for place in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[place] ^= 1;
                written.objects.put(&relative, vec![damaged.into()]).await.unwrap();
                let found = match written.backups().await {
                    Ok(backups) => written.piece(&backups[0].shards[0].pieces[0]).await.map(drop),
                    Err(error) => Err(error),
                };
                assert!(
                    matches!(found, Err(BackupError::Damaged { .. })),
                    "byte {place}: {found:?}"
                );
            }
            written.objects.put(&relative, vec![whole.into()]).await.unwrap();
        }
    }

    fn segment(shard: u32, from: u64, through: u64) -> LogSegment {
        let id = |index| EntryId { term: Term(1), index: LogIndex(index) };
        let (previous, last) = (id(from), id(through));
        LogSegment { shard: ShardId(shard), previous, last, through_ts: CommitTs(through) }
    }

    #[tokio::test]
    async fn the_log_behind_backups_is_kept_and_goes_with_them() {
        let directory = tempfile::tempdir().unwrap();
        let mut written = repository(directory.path()).await;
        back_up(&mut written, 10, &[b"one"]).await;
        let segments = [segment(0, 10, 15), segment(0, 15, 25), segment(7, 3, 12)];
        for segment in &segments {
            written.add_log(segment, segment.name().as_bytes()).await.unwrap();
        }
        let read = repository(directory.path()).await;
        assert_eq!(read.logs().await.unwrap(), [ShardId(0), ShardId(7)].into());
        assert_eq!(read.log_of(ShardId(0)).await.unwrap(), segments[..2]);
        let content = read.log_segment(&segments[1]).await.unwrap();
        assert_eq!(content, segments[1].name().as_bytes());
        back_up(&mut written, 20, &[b"two"]).await;
        assert_eq!(written.prune(1).await.unwrap(), Pruned { backups: 1, pieces: 1, segments: 2 });
        assert_eq!(read.log_of(ShardId(0)).await.unwrap(), segments[1..2]);
        assert_eq!(read.log_of(ShardId(7)).await.unwrap(), []);
    }

    #[tokio::test]
    async fn damage_to_the_log_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let written = repository(directory.path()).await;
        let segment = segment(0, 10, 15);
        written.add_log(&segment, &[7; 1_000]).await.unwrap();
        let whole =
            proteus_env::disk::read(&directory.path().join(segment_path(&segment))).unwrap();
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 1;
            written.objects.put(&segment_path(&segment), vec![damaged.into()]).await.unwrap();
            let found = written.log_segment(&segment).await;
            assert!(matches!(found, Err(BackupError::Damaged { .. })), "byte {place}: {found:?}");
        }
    }
}
