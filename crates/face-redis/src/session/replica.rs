//! A connection of a Redis replica: REPLCONF and PSYNC, its copy, and the stream.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proteus_env::{random, task};
use proteus_face::ConnectionError;
use proteus_kernel_api::cache::rdb::file::{VERSION, Writer};
use proteus_kernel_api::cache::{
    self, Answer, Call, DATABASE_COUNT, Parcel, Parceled, Question, Reply, parse_integer,
};
use proteus_kernel_api::{KernelError, StoreError, View};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{READ_BYTES, Session};
use crate::codec::{self, Limits};
use crate::errors::SYNTAX;
use crate::replication::{Follower, Next, Replication};

/// Keys of the copy that are read at once.
const COPY_STEP_KEYS: usize = 200;

/// Who takes nothing and says nothing for so long is gone, as Redis' repl-timeout.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a replica has said of itself before it asks for the stream.
#[derive(Debug, Default)]
pub(super) struct About {
    port: u16,
    address: Option<String>,
    /// It takes a copy whose length is not told.
    takes_marked_copy: bool,
}

/// What a replica has asked for: the stream from a place on, behind a copy unless it has one.
pub(super) struct Wanted {
    id: String,
    offset: u64,
    is_copied: bool,
}

fn word(arguments: &[Bytes], at: usize) -> String {
    String::from_utf8_lossy(arguments.get(at).map(|word| &word[..]).unwrap_or_default())
        .into_owned()
}

impl Session {
    /// `REPLCONF option value ...`: what a replica says of itself.
    pub(super) fn replconf(&mut self, arguments: &[Bytes]) -> Reply {
        if arguments.len().is_multiple_of(2) {
            return SYNTAX;
        }
        for at in (1..arguments.len()).step_by(2) {
            let value = word(arguments, at + 1);
            match word(arguments, at).to_ascii_lowercase().as_str() {
                "listening-port" => match value.parse() {
                    Ok(port) => self.replica.port = port,
                    Err(_) => return crate::errors::NOT_AN_INTEGER,
                },
                "ip-address" => self.replica.address = Some(value.chars().take(256).collect()),
                "capa" => self.replica.takes_marked_copy |= value.eq_ignore_ascii_case("eof"),
                // Of a connection that gets the stream; here they mean nothing.
                "ack" | "fack" | "getack" | "version" => {}
                other => {
                    let other = cache::commands::shortened(other.as_bytes(), 64);
                    let error = format!("ERR Unrecognized REPLCONF option: {other}");
                    return Reply::Error(error.into());
                }
            }
        }
        Reply::OK
    }

    /// `PSYNC id offset`: begins to follow. The connection gets the stream from here on.
    pub(super) fn psync(&mut self, arguments: &[Bytes]) -> Option<Reply> {
        if !self.replica.takes_marked_copy {
            return Some(Reply::error(
                "ERR copies are sent without their length: a replica must announce REPLCONF capa eof",
            ));
        }
        let Some(offset) = arguments.get(2).and_then(|text| parse_integer(text)) else {
            return Some(crate::errors::NOT_AN_INTEGER);
        };
        self.face.serve_replicas();
        let id = word(arguments, 1);
        // A replica asks for the first byte that it does not have, counted from one.
        let place = u64::try_from(offset).ok().and_then(|offset| offset.checked_sub(1));
        let follower = Follower {
            address: self
                .replica
                .address
                .clone()
                .unwrap_or_else(|| self.client.peer.ip().to_string()),
            port: self.replica.port,
            is_online: false,
            acked: 0,
            acked_ms: self.face.clock.wall_ms(),
        };
        let wanted = place.map(|offset| (id.as_str(), offset));
        let (id, offset, is_copied) = self.replication().join(self.client.id, follower, wanted);
        let line = if is_copied {
            format!("+CONTINUE {id}\r\n")
        } else {
            format!("+FULLRESYNC {id} {offset}\r\n")
        };
        self.output.extend_from_slice(line.as_bytes());
        self.wanted = Some(Wanted { id, offset, is_copied });
        None
    }

    fn replication(&self) -> &Replication {
        &self.face.hub.replication
    }

    /// Sends the copy and the stream until the replica goes.
    pub(super) async fn serve_replica(
        &mut self,
        wanted: Wanted,
        input: &mut BytesMut,
    ) -> Result<(), ConnectionError> {
        let served = self.copy_and_stream(wanted, input).await;
        self.replication().leave(self.client.id, self.face.clock.wall_ms());
        served
    }

    async fn copy_and_stream(
        &mut self,
        wanted: Wanted,
        input: &mut BytesMut,
    ) -> Result<(), ConnectionError> {
        self.write_output().await?;
        let Wanted { id, mut offset, is_copied } = wanted;
        // A replica finds the end of its copy only while nothing follows it.
        let mut may_send = is_copied;
        if !is_copied && !self.send_copy().await? {
            return Ok(());
        }
        let face = self.face.clone();
        loop {
            let grown = face.hub.replication.grown.notified();
            tokio::pin!(grown);
            grown.as_mut().enable();
            match face.hub.replication.after(&id, offset) {
                Next::Lost => return Ok(()),
                Next::Rounds(rounds, end) if may_send => {
                    for round in rounds {
                        if !self.send(&round).await? {
                            return Ok(());
                        }
                    }
                    offset = end;
                }
                Next::Rounds(..) => {}
            }
            input.reserve(READ_BYTES);
            tokio::select! {
                () = &mut grown, if may_send => continue,
                read = self.connection.stream.read_buf(input) => {
                    if read? == 0 {
                        return Ok(());
                    }
                }
                () = self.client.wake.notified() => {
                    if self.client.is_killed() {
                        return Ok(());
                    }
                }
                () = self.connection.shutdown.requested() => return Ok(()),
                // It answers our pings' worth of bytes each second.
                () = task::sleep(PATIENCE) => return Ok(()),
            }
            may_send |= self.take_acks(input)?;
        }
    }

    /// Reads how far the replica is; says whether it told.
    fn take_acks(&mut self, input: &mut BytesMut) -> Result<bool, ConnectionError> {
        let mut has_told = false;
        loop {
            let decoded = codec::decode(input, Limits::ADMITTED)
                .map_err(|malformed| ConnectionError::Malformed(malformed.0))?;
            let Some(arguments) = decoded else { return Ok(has_told) };
            let [name, option, offset, ..] = arguments.as_slice() else { continue };
            if name.eq_ignore_ascii_case(b"REPLCONF")
                && option.eq_ignore_ascii_case(b"ACK")
                && let Some(offset) = parse_integer(offset).and_then(|n| u64::try_from(n).ok())
            {
                has_told = true;
                let now_ms = self.face.clock.wall_ms();
                self.replication().note_acked(self.client.id, offset, now_ms);
            }
        }
    }

    /// Sends bytes; false if the replica does not take them.
    async fn send(&mut self, bytes: &[u8]) -> Result<bool, ConnectionError> {
        match task::timeout(PATIENCE, self.connection.stream.write_all(bytes)).await {
            Some(written) => Ok(written.map(|()| true)?),
            None => Ok(false),
        }
    }

    /// Sends every key between two marks, in pieces each of which is of one commit.
    async fn send_copy(&mut self) -> Result<bool, ConnectionError> {
        let number = u128::from_be_bytes(random::random_bytes());
        let mark = format!("{number:032x}{:08x}", random::random_u64() >> 32);
        let mut out = format!("$EOF:{mark}\r\n").into_bytes();
        let mut writer = Writer::begin(VERSION, &mut out);
        // A kernel that cannot be read ends the copy: the replica comes again.
        let Ok(libraries) = self.face.kernel.read_first(libraries) else { return Ok(false) };
        for library in libraries {
            writer.library(&library, &mut out);
        }
        for db in 0..DATABASE_COUNT {
            let mut cursor = Bytes::from_static(b"0");
            loop {
                match self.copy_step(&mut writer, db, &cursor, &mut out).await {
                    Ok(next) => cursor = next,
                    Err(_) => return Ok(false),
                }
                if !self.send(&out).await? {
                    return Ok(false);
                }
                out.clear();
                if &cursor[..] == b"0" {
                    break;
                }
            }
        }
        writer.end(&mut out);
        out.extend_from_slice(mark.as_bytes());
        self.send(&out).await
    }

    /// Writes some keys, wherever they are; says where to go on.
    async fn copy_step(
        &self,
        writer: &mut Writer,
        db: u8,
        cursor: &Bytes,
        out: &mut Vec<u8>,
    ) -> Result<Bytes, KernelError> {
        let kernel = &self.face.kernel;
        let count = Bytes::from(COPY_STEP_KEYS.to_string());
        let word = Bytes::from_static;
        let arguments = vec![word(b"SCAN"), cursor.clone(), word(b"COUNT"), count];
        let question = Question::Command(Call { db, seed: 0, origin: 0, arguments });
        let found = kernel.read_or_ask(question, Answer::into_reply).await?;
        let Reply::Array(parts) = found else { return Err(KernelError::unknown_answer()) };
        let mut parts = parts.into_iter();
        let (Some(Reply::Bulk(next)), Some(Reply::Array(keys))) = (parts.next(), parts.next())
        else {
            return Err(KernelError::unknown_answer());
        };
        let bulk = |key: Reply| match key {
            Reply::Bulk(key) => Some(key),
            _ => None,
        };
        let mut keys: Vec<Bytes> = keys.into_iter().filter_map(bulk).collect();
        while !keys.is_empty() {
            let question = Question::Parcels { db, keys: keys.clone() };
            let all = |answer: Answer| answer.into_parcels(keys.len());
            let found = kernel.read_or_ask(question, all).await?;
            let mut left = Vec::new();
            for (key, found) in std::mem::take(&mut keys).into_iter().zip(found) {
                match found {
                    Parceled::Absent => {}
                    Parceled::Left => left.push(key),
                    Parceled::There(Parcel { payload, expire_at_ms, .. }) => {
                        if !writer.entry(db.into(), &key, &payload, expire_at_ms, out) {
                            // The file's version has no such value: the stream brings it.
                            self.replication().touch(db, key);
                        }
                    }
                }
            }
            keys = left;
        }
        Ok(next)
    }
}

/// Texts of all libraries of functions.
fn libraries(view: View<'_>) -> Result<Vec<Bytes>, StoreError> {
    let call = Call::new(&["FUNCTION", "LIST", "WITHCODE"]);
    let Reply::Array(rows) = cache::rehearse(view, &call)? else { return Ok(Vec::new()) };
    let text = |row: Reply| {
        let Reply::Map(parts) = row else { return None };
        let is_text =
            |(name, _): &(Reply, Reply)| *name == Reply::Bulk(Bytes::from_static(b"library_code"));
        match parts.into_iter().find(is_text) {
            Some((_, Reply::Bulk(text))) => Some(text),
            _ => None,
        }
    };
    Ok(rows.into_iter().filter_map(text).collect())
}
