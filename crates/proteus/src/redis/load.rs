//! Loading RDB files.

use std::io::Read;
use std::path::Path;

use bytes::{Buf, Bytes, BytesMut};
use proteus_env::{Clock, SystemClock};
use proteus_kernel_api::cache::rdb::file::{Part, Parts};
use proteus_kernel_api::cache::rdb::{Dumped, dump};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cli::print;

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

/// Commands on their way to the node.
pub(super) struct Loader<'a> {
    node: &'a mut MultiplexedConnection,
    pipeline: Pipeline,
    command_count: usize,
    bytes: usize,
    db: u64,
    replaces: bool,
    now_ms: u64,
    pub(super) key_count: u64,
    pub(super) expired_count: u64,
}

impl<'a> Loader<'a> {
    pub(super) fn new(node: &'a mut MultiplexedConnection, replaces: bool) -> Loader<'a> {
        Loader {
            node,
            pipeline: redis::pipe(),
            command_count: 0,
            bytes: 0,
            db: 0,
            replaces,
            now_ms: SystemClock::new().wall_ms(),
            key_count: 0,
            expired_count: 0,
        }
    }

    async fn send(&mut self, command: Cmd, bytes: usize) -> Result<(), String> {
        self.pipeline.add_command(command);
        self.command_count += 1;
        self.bytes += bytes;
        if self.command_count >= BATCH_COMMANDS || self.bytes >= BATCH_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Sends what waits.
    pub(super) async fn flush(&mut self) -> Result<(), String> {
        if self.command_count > 0 {
            let pipeline = std::mem::replace(&mut self.pipeline, redis::pipe());
            (self.command_count, self.bytes) = (0, 0);
            let sent: Result<Vec<Value>, _> = pipeline.query_async(self.node).await;
            sent.map_err(|error| match error.to_string() {
                text if text.contains("BUSYKEY") => KEY_IS_THERE.to_owned(),
                text => text,
            })?;
        }
        Ok(())
    }

    /// Takes over a part of the file.
    pub(super) async fn take(&mut self, part: Part) -> Result<(), String> {
        match part {
            Part::Database(db) => {
                self.db = db;
                let mut select = redis::cmd("SELECT");
                select.arg(db);
                self.send(select, 16).await
            }
            Part::Library(text) => {
                let mut load = redis::cmd("FUNCTION");
                load.arg("LOAD").arg("REPLACE").arg(&text[..]);
                self.send(load, text.len()).await
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
        let mut restore = redis::cmd("RESTORE");
        restore.arg(&key[..]).arg(expire_at_ms.unwrap_or(0)).arg(&payload[..]).arg("ABSTTL");
        if self.replaces {
            restore.arg("REPLACE");
        }
        self.send(restore, key.len() + payload.len()).await
    }

    async fn in_pieces(
        &mut self,
        key: &Bytes,
        word: &str,
        elements: &[Vec<Bytes>],
        expire_at_ms: Option<u64>,
    ) -> Result<(), String> {
        if self.replaces {
            let mut delete = redis::cmd("UNLINK");
            delete.arg(&key[..]);
            self.send(delete, key.len()).await?;
        } else {
            let mut exists = redis::cmd("EXISTS");
            exists.arg(&key[..]);
            self.flush().await?;
            let there: i64 =
                exists.query_async(self.node).await.map_err(|error| error.to_string())?;
            if there > 0 {
                return Err(
                    "a key of the file is there already; --replace replaces such keys".to_owned()
                );
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
            let mut command = redis::cmd(word);
            command.arg(&key[..]);
            for part in piece.iter().flatten() {
                command.arg(&part[..]);
            }
            self.send(command, bytes).await?;
            rest = after;
        }
        if let Some(at_ms) = expire_at_ms {
            let mut expire = redis::cmd("PEXPIREAT");
            expire.arg(&key[..]).arg(at_ms);
            self.send(expire, key.len()).await?;
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
pub(super) enum Source<'a> {
    Disk(std::fs::File),
    /// What a primary sends.
    Socket(Sent<'a>),
}

/// A copy on its way from a primary.
pub(super) struct Sent<'a> {
    /// What was read of it already.
    pub(super) ahead: BytesMut,
    pub(super) socket: &'a mut TcpStream,
    /// So many more bytes, at most.
    pub(super) left: u64,
    /// What stands behind it, and before anything else; nothing if its length is known.
    pub(super) mark: &'a [u8],
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
                let count = socket.read(&mut piece[..wanted]).await?;
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

/// Loads a file; returns what was read behind its end.
pub(super) async fn load(
    loader: &mut Loader<'_>,
    mut source: Source<'_>,
    progress: &mut impl FnMut(u64, u64),
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

/// Loads a file from disk.
pub(super) async fn import(
    node: &mut MultiplexedConnection,
    file: &Path,
    replaces: bool,
) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", file.display());
    let source = Source::Disk(proteus_env::disk::open_to_read(file).map_err(failed)?);
    let mut loader = Loader::new(node, replaces);
    let result = load(&mut loader, source, &mut |_, _| {}).await;
    let (keys, expired) = (loader.key_count, loader.expired_count);
    result.map_err(|error| format!("{}: {error} (after {keys} keys)", file.display()))?;
    print(&format!("{keys} keys loaded, {expired} had expired\n"))
}
