//! The connection to a primary: asking for its stream, and taking commands from it.
//!
//! Source: Redis' replication (PSYNC), "How Redis replication works" (redis.io).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proteus_env::{net, task};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::codec::{self, Limits};
use crate::replication::put_command;

/// Commands that one transaction takes over at most, unless the primary's own is larger.
const BATCH_COMMANDS: usize = 1_000;

/// A line of the primary's may be so long.
const LINE_BYTES_MAX: usize = 64 * 1024;

const READ_BYTES: usize = 64 * 1024;

/// A primary that says nothing for so long is gone, as Redis' repl-timeout.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Bytes of one transaction of the primary's, which must be applied at once.
const TRANSACTION_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Length of a mark.
const MARK_BYTES: usize = 40;

/// A place in a primary's stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The stream's name.
    pub replication_id: String,
    /// Bytes of it that are taken over.
    pub offset: u64,
    /// The database that the stream's next command is for.
    pub db: u64,
}

/// What came of asking for the stream.
#[derive(Debug)]
pub enum Sync {
    /// From here on, behind a copy.
    Full(Cursor, CopyEnd),
    /// Where we were, perhaps by a new name of the stream.
    Partial(Option<String>),
}

/// Where a copy ends.
#[derive(Debug)]
pub enum CopyEnd {
    /// After so many bytes.
    Bytes(u64),
    /// Before these bytes.
    Mark(Vec<u8>),
}

/// A connection to a primary.
#[derive(Debug)]
pub struct Primary {
    pub(super) socket: TcpStream,
    /// What was received and not taken yet.
    pub input: BytesMut,
}

fn failed(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Primary {
    /// Connects to `host:port` and says that a replica is there, listening at `port`; with an account as user, which
    /// may be empty, and password.
    ///
    /// # Errors
    /// If there is nobody, or one who refuses.
    pub async fn open(
        address: &str,
        account: Option<(&str, &str)>,
        port: u16,
    ) -> Result<Primary, String> {
        let socket =
            net::connect_to_host(address).await.map_err(|error| format!("{address}: {error}"))?;
        let mut primary = Primary { socket, input: BytesMut::new() };
        match account {
            Some(("", password)) => _ = primary.ask(&["AUTH", password]).await?,
            Some((user, password)) => _ = primary.ask(&["AUTH", user, password]).await?,
            None => {}
        }
        primary.ask(&["PING"]).await?;
        primary.ask(&["REPLCONF", "listening-port", &port.to_string()]).await?;
        primary.ask(&["REPLCONF", "capa", "eof", "capa", "psync2"]).await?;
        Ok(primary)
    }

    async fn send(&mut self, words: &[&str]) -> Result<(), String> {
        let mut request = Vec::new();
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        put_command(&mut request, &words);
        self.socket.write_all(&request).await.map_err(failed)
    }

    /// Tells how far this one is.
    ///
    /// # Errors
    /// If the primary is gone.
    pub async fn acknowledge(&mut self, offset: u64) -> Result<(), String> {
        self.send(&["REPLCONF", "ACK", &offset.to_string()]).await
    }

    /// Receives more.
    ///
    /// # Errors
    /// If the primary is gone.
    pub async fn fill(&mut self) -> Result<(), String> {
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
            let filling = task::timeout(SILENCE_MAX, self.fill()).await;
            filling.ok_or("the primary says nothing")??;
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

    /// Asks for the stream, from a place on or with a copy.
    ///
    /// # Errors
    /// If the primary refuses or answers something else.
    pub async fn sync(&mut self, cursor: Option<&Cursor>) -> Result<Sync, String> {
        let answer = match cursor {
            Some(cursor) => {
                let offset = cursor.offset.saturating_add(1).to_string();
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

/// Commands taken from the stream and not yet applied here.
#[derive(Debug, Default)]
pub struct Batch {
    /// Each with the database that it is for.
    pub commands: Vec<(u64, Vec<Bytes>)>,
    /// Within a transaction of the primary's, which must not be cut.
    pub is_in_transaction: bool,
    /// The primary asks how far we are.
    pub is_asked: bool,
    /// Bytes of the transaction so far.
    bytes: usize,
}

impl Batch {
    /// Takes whatever whole commands have arrived.
    ///
    /// # Errors
    /// If what came is no command.
    pub fn take(&mut self, input: &mut BytesMut, cursor: &mut Cursor) -> Result<(), String> {
        while self.is_in_transaction || self.commands.len() < BATCH_COMMANDS {
            let before = input.len();
            let Some(arguments) =
                codec::decode(input, Limits::ADMITTED).map_err(|malformed| malformed.0)?
            else {
                return Ok(());
            };
            cursor.offset += (before - input.len()) as u64;
            self.bytes = if self.is_in_transaction { self.bytes + before - input.len() } else { 0 };
            if self.bytes > TRANSACTION_BYTES_MAX {
                return Err(format!("a transaction has more than {TRANSACTION_BYTES_MAX} bytes"));
            }
            let Some(name) = arguments.first() else { continue };
            match name.to_ascii_uppercase().as_slice() {
                b"PING" => {}
                b"REPLCONF" => self.is_asked = true,
                b"MULTI" => self.is_in_transaction = true,
                b"EXEC" => self.is_in_transaction = false,
                b"SELECT" => {
                    let db = arguments.get(1).and_then(|db| std::str::from_utf8(db).ok());
                    let db = db.and_then(|text| text.parse().ok());
                    cursor.db = db.ok_or("the primary selected no database")?;
                }
                _ => self.commands.push((cursor.db, arguments)),
            }
        }
        Ok(())
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
        assert_eq!((batch.commands.len(), cursor.db), (1, 3));
        assert_eq!((batch.commands[0].0, cursor.offset), (3, stream.len() as u64));
        input.extend_from_slice(b"EC\r\n*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n");
        batch.take(&mut input, &mut cursor).unwrap();
        assert!(!batch.is_in_transaction && batch.is_asked && input.is_empty());
        assert_eq!(batch.commands.len(), 1);
    }
}
