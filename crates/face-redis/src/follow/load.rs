//! Loading RDB files, from disk or as a primary sends them.

use std::io::Read;

use bytes::{Buf, Bytes, BytesMut};
use proteus_env::{Clock, SystemClock, task};
use proteus_kernel_api::cache::rdb::file::{Part, Parts};
use proteus_kernel_api::cache::rdb::{Dumped, dump};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::primary::{CopyEnd, Primary, SILENCE_MAX};

/// A batch is sent once it has so many commands or bytes.
const BATCH_COMMANDS: usize = 500;
const BATCH_BYTES: usize = 1024 * 1024;

/// Larger values are sent in pieces.
const RESTORE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Elements that one piece has.
const PIECE_ELEMENTS: usize = 1_000;

/// A key with its value, and what is read ahead of it, may take so much of the file.
const ENTRY_BYTES_MAX: usize = 1024 * 1024 * 1024;

const KEY_IS_THERE: &str = "a key of the file is there already; --replace replaces such keys";

const READ_BYTES: usize = 256 * 1024;

/// Where commands go that make keys.
pub trait Sink: Send {
    /// Carries out commands in one database, in their order. The error is the first of theirs.
    fn carry_out(
        &mut self,
        db: u64,
        commands: Vec<Vec<Bytes>>,
    ) -> impl Future<Output = Result<(), String>> + Send;

    /// Whether a key is there.
    fn has(&mut self, db: u64, key: &Bytes) -> impl Future<Output = Result<bool, String>> + Send;
}

/// Commands on their way to a sink.
#[derive(Debug)]
pub struct Loader<'a, S> {
    sink: &'a mut S,
    commands: Vec<Vec<Bytes>>,
    bytes: usize,
    db: u64,
    replaces: bool,
    now_ms: u64,
    /// Keys handed over.
    pub key_count: u64,
    /// Keys that had expired.
    pub expired_count: u64,
}

fn words<const N: usize>(words: [&[u8]; N]) -> Vec<Bytes> {
    words.into_iter().map(Bytes::copy_from_slice).collect()
}

impl<'a, S: Sink> Loader<'a, S> {
    /// A loader; one that replaces takes no offence at keys that are there.
    pub fn new(sink: &'a mut S, replaces: bool) -> Loader<'a, S> {
        Loader {
            sink,
            commands: Vec::new(),
            bytes: 0,
            db: 0,
            replaces,
            now_ms: SystemClock::new().wall_ms(),
            key_count: 0,
            expired_count: 0,
        }
    }

    async fn send(&mut self, command: Vec<Bytes>) -> Result<(), String> {
        self.bytes += command.iter().map(Bytes::len).sum::<usize>();
        self.commands.push(command);
        if self.commands.len() >= BATCH_COMMANDS || self.bytes >= BATCH_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Sends what waits.
    async fn flush(&mut self) -> Result<(), String> {
        self.bytes = 0;
        if self.commands.is_empty() {
            return Ok(());
        }
        let commands = std::mem::take(&mut self.commands);
        let sent = self.sink.carry_out(self.db, commands).await;
        sent.map_err(|error| match error.contains("BUSYKEY") {
            true => KEY_IS_THERE.to_owned(),
            false => error,
        })
    }

    /// Takes over a part of the file.
    async fn take(&mut self, part: Part) -> Result<(), String> {
        match part {
            Part::Database(db) => {
                self.flush().await?;
                self.db = db;
                Ok(())
            }
            Part::Library(text) => {
                self.send(vec![
                    Bytes::from_static(b"FUNCTION"),
                    Bytes::from_static(b"LOAD"),
                    Bytes::from_static(b"REPLACE"),
                    text,
                ])
                .await
            }
            Part::Entry { expire_at_ms: Some(at_ms), .. } if at_ms <= self.now_ms => {
                self.expired_count += 1;
                Ok(())
            }
            Part::Entry { key, value, expire_at_ms } => {
                self.key_count += 1;
                self.entry(&key, value, expire_at_ms).await
            }
            Part::Other | Part::End => Ok(()),
        }
    }

    async fn entry(
        &mut self,
        key: &Bytes,
        value: Dumped,
        expire_at_ms: Option<u64>,
    ) -> Result<(), String> {
        let payload = dump(&value);
        if payload.len() > RESTORE_BYTES_MAX
            && let Some((word, elements)) = elements(&value)
        {
            return self.in_pieces(key, word, &elements, expire_at_ms).await;
        }
        let at_ms = expire_at_ms.unwrap_or(0).to_string();
        let mut restore = words([b"RESTORE", key, at_ms.as_bytes(), &payload, b"ABSTTL"]);
        if self.replaces {
            restore.push(Bytes::from_static(b"REPLACE"));
        }
        self.send(restore).await
    }

    async fn in_pieces(
        &mut self,
        key: &Bytes,
        word: &str,
        elements: &[Vec<Bytes>],
        expire_at_ms: Option<u64>,
    ) -> Result<(), String> {
        if self.replaces {
            self.send(words([b"UNLINK", key])).await?;
        } else {
            self.flush().await?;
            if self.sink.has(self.db, key).await? {
                return Err(KEY_IS_THERE.to_owned());
            }
        }
        let mut rest = elements;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |element: &&Vec<Bytes>| {
                let is_first = bytes == 0;
                bytes += element.iter().map(Bytes::len).sum::<usize>();
                is_first || bytes <= BATCH_BYTES
            };
            let count = rest.iter().take(PIECE_ELEMENTS).take_while(fits).count();
            let (piece, after) = rest.split_at(count.max(1).min(rest.len()));
            let mut command = words([word.as_bytes(), key]);
            command.extend(piece.iter().flatten().cloned());
            self.send(command).await?;
            rest = after;
        }
        if let Some(at_ms) = expire_at_ms {
            self.send(words([b"PEXPIREAT", key, at_ms.to_string().as_bytes()])).await?;
        }
        Ok(())
    }
}

/// The command that adds elements of a value, and what it takes for each.
fn elements(value: &Dumped) -> Option<(&'static str, Vec<Vec<Bytes>>)> {
    Some(match value {
        Dumped::List(items) => ("RPUSH", items.iter().map(|item| vec![item.clone()]).collect()),
        Dumped::Set(items) => ("SADD", items.iter().map(|item| vec![item.clone()]).collect()),
        Dumped::SortedSet(members) => {
            let score = |score: f64| Bytes::from(score.to_string());
            let pair = |(member, number): &(Bytes, f64)| vec![score(*number), member.clone()];
            ("ZADD", members.iter().map(pair).collect())
        }
        // Fields that expire need their times, which only RESTORE carries along.
        Dumped::Hash(fields) if fields.iter().all(|(_, _, at_ms)| at_ms.is_none()) => {
            let pair = |(field, value, _): &(Bytes, Bytes, Option<u64>)| {
                vec![field.clone(), value.clone()]
            };
            ("HSET", fields.iter().map(pair).collect())
        }
        Dumped::String(_) | Dumped::Hash(_) | Dumped::Stream(_) => return None,
    })
}

/// Where a file is read.
#[derive(Debug)]
pub enum Source<'a> {
    /// One on disk.
    Disk(std::fs::File),
    /// What a primary sends.
    Socket(Sent<'a>),
}

/// A copy on its way from a primary.
#[derive(Debug)]
pub struct Sent<'a> {
    /// What was read of it already.
    ahead: BytesMut,
    socket: &'a mut TcpStream,
    /// So many more bytes, at most.
    left: u64,
    /// What stands behind it, and before anything else; nothing if its length is known.
    mark: &'a [u8],
}

impl Source<'_> {
    /// Whether nothing more is to be waited for.
    fn is_whole(&self, buffer: &[u8]) -> bool {
        match self {
            Source::Disk(_) => false,
            Source::Socket(sent) => !sent.mark.is_empty() && buffer.ends_with(sent.mark),
        }
    }

    /// Reads on; says how many bytes, 0 at the end.
    async fn read(&mut self, buffer: &mut BytesMut) -> std::io::Result<usize> {
        let mut piece = vec![0; READ_BYTES];
        let count = match self {
            Source::Disk(file) => file.read(&mut piece)?,
            Source::Socket(Sent { ahead, .. }) if !ahead.is_empty() => {
                buffer.extend_from_slice(&std::mem::take(ahead));
                return Ok(buffer.len());
            }
            Source::Socket(Sent { left: 0, .. }) => 0,
            Source::Socket(Sent { socket, left, .. }) => {
                let wanted = READ_BYTES.min(usize::try_from(*left).unwrap_or(READ_BYTES));
                let reading = task::timeout(SILENCE_MAX, socket.read(&mut piece[..wanted])).await;
                let silent = || std::io::Error::other("the primary says nothing");
                let count = reading.ok_or_else(silent)??;
                *left -= count as u64;
                // A primary gives up on who says nothing for a minute.
                socket.write_all(b"\n").await?;
                count
            }
        };
        buffer.extend_from_slice(&piece[..count]);
        Ok(count)
    }
}

/// Loads a file; returns what was read behind its end. `progress` is told how many keys and bytes there were
/// so far.
///
/// # Errors
/// If the file cannot be read or is none, or the sink refuses a command.
pub async fn load<S: Sink>(
    loader: &mut Loader<'_, S>,
    mut source: Source<'_>,
    progress: &mut (impl FnMut(u64, u64) + Send),
) -> Result<BytesMut, String> {
    let (mut parts, mut buffer) = (Parts::default(), BytesMut::new());
    let (mut read_bytes, mut wanted, mut has_ended) = (0, 0, false);
    loop {
        if buffer.len() >= wanted || has_ended || source.is_whole(&buffer) {
            match parts.next(&buffer).map_err(|error| error.to_string())? {
                Some((Part::End, used)) => {
                    loader.flush().await?;
                    progress(loader.key_count, read_bytes);
                    buffer.advance(used);
                    return Ok(buffer);
                }
                Some((part, used)) => {
                    buffer.advance(used);
                    wanted = 0;
                    loader.take(part).await?;
                    continue;
                }
                None if has_ended => return Err("the file ends early".to_owned()),
                // An entry that is not whole is looked at again once there is half as much more of it.
                None => wanted = buffer.len() + buffer.len() / 2 + 1,
            }
        }
        if buffer.len() > ENTRY_BYTES_MAX {
            return Err(format!("a key with its value takes more than {ENTRY_BYTES_MAX} bytes"));
        }
        let count = source.read(&mut buffer).await.map_err(|error| error.to_string())?;
        has_ended = count == 0;
        read_bytes += count as u64;
        progress(loader.key_count, read_bytes);
    }
}

/// Loads the copy that a primary sends.
///
/// # Errors
/// As [`load`].
pub async fn load_copy<S: Sink>(
    loader: &mut Loader<'_, S>,
    primary: &mut Primary,
    end: &CopyEnd,
    progress: &mut (impl FnMut(u64, u64) + Send),
) -> Result<(), String> {
    let (length, mark) = match end {
        CopyEnd::Bytes(length) => (*length, &[][..]),
        CopyEnd::Mark(mark) => (u64::MAX, &mark[..]),
    };
    let whole = usize::try_from(length).unwrap_or(usize::MAX);
    let ahead = primary.input.split_to(primary.input.len().min(whole));
    let left = length - ahead.len() as u64;
    let sent = Sent { ahead, socket: &mut primary.socket, left, mark };
    let behind = load(loader, Source::Socket(sent), progress).await?;
    primary.input.unsplit(behind);
    while primary.input.len() < mark.len() {
        primary.fill().await?;
    }
    match primary.input.split_to(mark.len()) == mark {
        true => Ok(()),
        false => Err("the primary's copy does not end with its mark".to_owned()),
    }
}
