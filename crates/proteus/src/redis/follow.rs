//! Following a Redis primary: a full copy, then every change, as its replicas get them.
//!
//! What arrives is applied in transactions, and with each goes the place in the primary's stream: so one that
//! is interrupted goes on exactly there, and applies nothing twice.
//!
//! Source: Redis' replication (PSYNC), "How Redis replication works" (redis.io).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proteus_env::{net, task};
use proteus_face_redis::codec::{self, Limits};
use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::connect;
use super::load::{Loader, Sent, Source, load};
use crate::cli::print;

/// Where the place in the primary's stream is kept: a hash of database 0.
const CURSOR: &str = "proteus:follow";

/// Commands that one transaction takes over at most, unless the primary's own is larger.
const BATCH_COMMANDS: usize = 1_000;

/// A line of the primary's may be so long.
const LINE_BYTES_MAX: usize = 64 * 1024;

const READ_BYTES: usize = 64 * 1024;

/// How often the copy's progress is shown, in bytes of it.
const SHOWN_BYTES: u64 = 64 * 1024 * 1024;

/// How often the primary is told how far we are, and progress is shown.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// What to follow.
pub(super) struct Plan {
    pub(super) primary: String,
    pub(super) account: Option<(String, String)>,
    pub(super) flush: bool,
    pub(super) until_caught_up: bool,
}

/// A place in a primary's stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Cursor {
    replication_id: String,
    offset: u64,
    /// The database that the stream's next command is for.
    db: u64,
}

/// What came of asking for the stream.
enum Sync {
    /// From here on, behind a copy.
    Full(Cursor, CopyEnd),
    /// Where we were, perhaps by a new name of the stream.
    Partial(Option<String>),
}

/// Where a copy ends.
enum CopyEnd {
    /// After so many bytes.
    Bytes(u64),
    /// Before these bytes.
    Mark(Vec<u8>),
}

/// Length of a mark.
const MARK_BYTES: usize = 40;

struct Primary {
    socket: TcpStream,
    input: BytesMut,
}

fn failed(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Primary {
    async fn send(&mut self, words: &[&str]) -> Result<(), String> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.socket.write_all(request.as_bytes()).await.map_err(failed)
    }

    async fn fill(&mut self) -> Result<(), String> {
        self.input.reserve(READ_BYTES);
        match self.socket.read_buf(&mut self.input).await.map_err(failed)? {
            0 => Err("the primary closed the connection".to_owned()),
            _ => Ok(()),
        }
    }

    /// A line, without its end; empty ones only keep the connection alive.
    async fn line(&mut self) -> Result<String, String> {
        loop {
            if let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                let line = self.input.split_to(end + 1);
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                if !line.is_empty() {
                    return Ok(line);
                }
                continue;
            }
            if self.input.len() > LINE_BYTES_MAX {
                return Err("the primary sent a line that does not end".to_owned());
            }
            self.fill().await?;
        }
    }

    async fn ask(&mut self, words: &[&str]) -> Result<String, String> {
        self.send(words).await?;
        let line = self.line().await?;
        match line.strip_prefix('-') {
            Some(error) => Err(format!("the primary refused {}: {error}", words[0])),
            None => Ok(line),
        }
    }

    async fn open(plan: &Plan) -> Result<Primary, String> {
        let socket = net::connect_to_host(&plan.primary)
            .await
            .map_err(|error| format!("{}: {error}", plan.primary))?;
        let mut primary = Primary { socket, input: BytesMut::new() };
        if let Some((user, password)) = &plan.account {
            match user.as_str() {
                "" => primary.ask(&["AUTH", password]).await?,
                user => primary.ask(&["AUTH", user, password]).await?,
            };
        }
        primary.ask(&["PING"]).await?;
        primary.ask(&["REPLCONF", "listening-port", "0"]).await?;
        primary.ask(&["REPLCONF", "capa", "eof", "capa", "psync2"]).await?;
        Ok(primary)
    }

    async fn sync(&mut self, cursor: Option<&Cursor>) -> Result<Sync, String> {
        let answer = match cursor {
            Some(cursor) => {
                let offset = (cursor.offset + 1).to_string();
                self.ask(&["PSYNC", &cursor.replication_id, &offset]).await?
            }
            None => self.ask(&["PSYNC", "?", "-1"]).await?,
        };
        let words: Vec<&str> = answer.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["+CONTINUE", rest @ ..] => Ok(Sync::Partial(rest.first().map(|id| (*id).to_owned()))),
            ["+FULLRESYNC", id, offset] => {
                let offset = offset.parse().map_err(|_| format!("no offset in '{answer}'"))?;
                let cursor = Cursor { replication_id: (*id).to_owned(), offset, db: 0 };
                let head = self.line().await?;
                let end = match head.strip_prefix("$EOF:") {
                    Some(mark) if mark.len() == MARK_BYTES => Some(CopyEnd::Mark(mark.into())),
                    _ => head
                        .strip_prefix('$')
                        .and_then(|text| text.parse().ok())
                        .map(CopyEnd::Bytes),
                };
                let end = end.ok_or_else(|| format!("no length of the copy in '{head}'"))?;
                Ok(Sync::Full(cursor, end))
            }
            _ => Err(format!("the primary answered PSYNC with '{answer}'")),
        }
    }
}

async fn read_cursor(node: &mut MultiplexedConnection) -> Result<Option<Cursor>, String> {
    redis::cmd("SELECT").arg(0).query_async::<()>(node).await.map_err(failed)?;
    let mut ask = redis::cmd("HMGET");
    ask.arg(CURSOR).arg("id").arg("offset").arg("db");
    let (id, offset, db): (Option<String>, Option<u64>, Option<u64>) =
        ask.query_async(node).await.map_err(failed)?;
    Ok(match (id, offset, db) {
        (Some(replication_id), Some(offset), Some(db)) => {
            Some(Cursor { replication_id, offset, db })
        }
        _ => None,
    })
}

fn put_cursor(pipeline: &mut redis::Pipeline, cursor: &Cursor) {
    pipeline.cmd("SELECT").arg(0);
    let put = pipeline.cmd("HSET").arg(CURSOR);
    put.arg("id").arg(&cursor.replication_id);
    put.arg("offset").arg(cursor.offset).arg("db").arg(cursor.db);
}

/// Copies what the primary has.
async fn copy(
    node: &mut MultiplexedConnection,
    primary: &mut Primary,
    plan: &Plan,
    (cursor, end): (&Cursor, &CopyEnd),
) -> Result<(), String> {
    if plan.flush {
        redis::cmd("FLUSHALL").query_async::<()>(node).await.map_err(failed)?;
    } else {
        for db in 0..proteus_kernel_api::cache::DATABASE_COUNT {
            redis::cmd("SELECT").arg(db).query_async::<()>(node).await.map_err(failed)?;
            let keys: u64 = redis::cmd("DBSIZE").query_async(node).await.map_err(failed)?;
            if keys > 0 {
                return Err(format!(
                    "a full copy is needed, and database {db} holds {keys} keys; --flush removes all keys first"
                ));
            }
        }
        redis::cmd("SELECT").arg(0).query_async::<()>(node).await.map_err(failed)?;
    }
    let (length, mark) = match end {
        CopyEnd::Bytes(length) => (*length, &[][..]),
        CopyEnd::Mark(mark) => (u64::MAX, &mark[..]),
    };
    print("copying\n")?;
    let ahead = primary
        .input
        .split_to(primary.input.len().min(usize::try_from(length).unwrap_or(usize::MAX)));
    let left = length - ahead.len() as u64;
    let mut loader = Loader::new(node, true);
    let mut shown = 0;
    let mut progress = |keys: u64, bytes: u64| {
        if bytes - shown > SHOWN_BYTES {
            shown = bytes;
            let _ = print(&format!("{keys} keys, {bytes} bytes\n"));
        }
    };
    let sent = Sent { ahead, socket: &mut primary.socket, left, mark };
    let behind = load(&mut loader, Source::Socket(sent), &mut progress).await?;
    let keys = loader.key_count;
    primary.input.unsplit(behind);
    while primary.input.len() < mark.len() {
        primary.fill().await?;
    }
    if primary.input.split_to(mark.len()) != mark {
        return Err("the primary's copy does not end with its mark".to_owned());
    }
    let mut pipeline = redis::pipe();
    pipeline.atomic();
    put_cursor(&mut pipeline, cursor);
    pipeline.query_async::<Vec<Value>>(node).await.map_err(failed)?;
    print(&format!("{keys} keys copied\n"))
}

/// Commands taken from the stream and not yet applied here.
#[derive(Default)]
struct Batch {
    commands: Vec<Vec<Bytes>>,
    /// Within a transaction of the primary's, which must not be cut.
    is_in_transaction: bool,
    /// The primary asks how far we are.
    is_asked: bool,
}

impl Batch {
    /// Takes whatever whole commands have arrived.
    fn take(&mut self, input: &mut BytesMut, cursor: &mut Cursor) -> Result<(), String> {
        while self.is_in_transaction || self.commands.len() < BATCH_COMMANDS {
            let before = input.len();
            let Some(arguments) = codec::decode(input, Limits::ADMITTED).map_err(failed)? else {
                return Ok(());
            };
            cursor.offset += (before - input.len()) as u64;
            let Some(name) = arguments.first() else { continue };
            match name.to_ascii_uppercase().as_slice() {
                b"PING" => {}
                b"REPLCONF" => self.is_asked = true,
                b"MULTI" => self.is_in_transaction = true,
                b"EXEC" => self.is_in_transaction = false,
                word => {
                    if word == b"SELECT"
                        && let Some(db) = arguments.get(1)
                    {
                        let db = std::str::from_utf8(db).ok().and_then(|text| text.parse().ok());
                        cursor.db = db.ok_or("the primary selected no database")?;
                    }
                    self.commands.push(arguments);
                }
            }
        }
        Ok(())
    }

    /// Applies what was taken, and where that leaves us, together.
    async fn apply(
        &mut self,
        node: &mut MultiplexedConnection,
        first_db: u64,
        cursor: &Cursor,
    ) -> Result<usize, String> {
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        pipeline.cmd("SELECT").arg(first_db);
        let commands = std::mem::take(&mut self.commands);
        for arguments in &commands {
            let mut words = arguments.iter();
            let name = words.next().map(|name| String::from_utf8_lossy(name).into_owned());
            let command = pipeline.cmd(&name.unwrap_or_default());
            for word in words {
                command.arg(&word[..]);
            }
        }
        put_cursor(&mut pipeline, cursor);
        let applied: Result<Vec<Value>, _> = pipeline.query_async(node).await;
        applied.map_err(|error| format!("the primary's changes cannot be applied: {error}"))?;
        Ok(commands.len())
    }
}

/// How far the primary is.
async fn primary_offset(connection: &mut MultiplexedConnection) -> Result<u64, String> {
    let info: String =
        redis::cmd("INFO").arg("replication").query_async(connection).await.map_err(failed)?;
    let line = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:"));
    line.and_then(|text| text.trim().parse().ok()).ok_or("the primary tells no offset".to_owned())
}

/// Copies and follows.
pub(super) async fn run(node: &mut MultiplexedConnection, plan: &Plan) -> Result<(), String> {
    let mut primary = Primary::open(plan).await?;
    let known = read_cursor(node).await?;
    let mut cursor = match primary.sync(known.as_ref()).await? {
        Sync::Full(cursor, end) => {
            copy(node, &mut primary, plan, (&cursor, &end)).await?;
            // The stream comes once the primary knows that the copy was taken.
            primary.send(&["REPLCONF", "ACK", &cursor.offset.to_string()]).await?;
            cursor
        }
        Sync::Partial(id) => {
            let mut cursor = known.unwrap_or_default();
            if let Some(id) = id {
                cursor.replication_id = id;
            }
            print(&format!("going on at offset {}\n", cursor.offset))?;
            cursor
        }
    };
    let mut side = connect(&plan.primary, plan.account.clone()).await?;
    let mut batch = Batch::default();
    let mut applied = 0;
    let mut first_db = cursor.db;
    let mut report = Box::pin(task::sleep(REPORT_INTERVAL));
    loop {
        batch.take(&mut primary.input, &mut cursor)?;
        if !batch.is_in_transaction && !batch.commands.is_empty() {
            applied += batch.apply(node, first_db, &cursor).await?;
            first_db = cursor.db;
            continue;
        }
        if std::mem::take(&mut batch.is_asked) {
            primary.send(&["REPLCONF", "ACK", &cursor.offset.to_string()]).await?;
        }
        let is_due = tokio::select! {
            filled = primary.fill() => {
                filled?;
                false
            }
            () = &mut report => {
                report = Box::pin(task::sleep(REPORT_INTERVAL));
                true
            }
        };
        if is_due {
            primary.send(&["REPLCONF", "ACK", &cursor.offset.to_string()]).await?;
            let behind = primary_offset(&mut side).await?.saturating_sub(cursor.offset);
            print(&format!(
                "offset {}, {applied} commands applied, {behind} bytes behind\n",
                cursor.offset
            ))?;
            if plan.until_caught_up && behind == 0 && !batch.is_in_transaction {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_taken_whole_and_transactions_uncut() {
        let mut cursor = Cursor::default();
        let mut batch = Batch::default();
        let stream = b"*1\r\n$4\r\nPING\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n";
        let mut input = BytesMut::from(&stream[..]);
        input.extend_from_slice(b"*1\r\n$4\r\nEX");
        batch.take(&mut input, &mut cursor).unwrap();
        assert!(batch.is_in_transaction);
        assert_eq!((batch.commands.len(), cursor.db), (2, 3));
        assert_eq!(cursor.offset, stream.len() as u64);
        input.extend_from_slice(b"EC\r\n*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n");
        batch.take(&mut input, &mut cursor).unwrap();
        assert!(!batch.is_in_transaction && batch.is_asked && input.is_empty());
        assert_eq!(batch.commands.len(), 2);
    }
}
