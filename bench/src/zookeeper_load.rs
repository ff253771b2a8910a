//! Many ZooKeeper sessions from one process, frame by frame.
//!
//! A client library measures itself as much as the server. Here a session is a socket and a queue of
//! what was sent when; requests are built once and their answers only counted.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Result;

/// What a session asks, again and again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Request {
    Create,
    Set,
    Get,
    Children,
    Multi,
}

/// Data of the znodes.
const VALUE: &[u8] = b"0123456789abcdef0123456789abcdef";

/// Creations under way at once while a tree is filled.
const FILL_DEPTH: usize = 200;

/// Ops of a transaction.
const MULTI_OPS: usize = 10;

/// Session timeout asked for, in milliseconds: longer than a pause of this program.
const TIMEOUT_MS: i32 = 40_000;

/// A session.
pub(crate) struct Session {
    stream: TcpStream,
    received: Vec<u8>,
    path: String,
}

fn failed(error: &dyn std::fmt::Display) -> String {
    format!("zookeeper session: {error}")
}

fn string(into: &mut Vec<u8>, text: &[u8]) {
    into.extend((text.len() as i32).to_be_bytes());
    into.extend(text);
}

fn open_acl(into: &mut Vec<u8>) {
    into.extend(1i32.to_be_bytes());
    into.extend(31i32.to_be_bytes());
    string(into, b"world");
    string(into, b"anyone");
}

fn create_body(into: &mut Vec<u8>, path: &str, flags: i32) {
    string(into, path.as_bytes());
    string(into, VALUE);
    open_acl(into);
    into.extend(flags.to_be_bytes());
}

fn set_body(into: &mut Vec<u8>, path: &str) {
    string(into, path.as_bytes());
    string(into, VALUE);
    into.extend((-1i32).to_be_bytes());
}

/// Appends a frame.
fn frame(into: &mut Vec<u8>, code: i32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = into.len();
    into.extend([0; 4]);
    into.extend(7i32.to_be_bytes());
    into.extend(code.to_be_bytes());
    body(into);
    let length = (into.len() - start - 4) as i32;
    into[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn put(into: &mut Vec<u8>, request: Request, path: &str) {
    match request {
        // Sequential, so that names need no counting here.
        Request::Create => frame(into, 1, |into| create_body(into, &format!("{path}/n-"), 2)),
        Request::Set => frame(into, 5, |into| set_body(into, path)),
        Request::Get => frame(into, 4, |into| {
            string(into, path.as_bytes());
            into.push(0);
        }),
        Request::Children => frame(into, 12, |into| {
            string(into, format!("{path}/listed").as_bytes());
            into.push(0);
        }),
        Request::Multi => frame(into, 14, |into| {
            for _ in 0..MULTI_OPS {
                into.extend(5i32.to_be_bytes());
                into.push(0);
                into.extend((-1i32).to_be_bytes());
                set_body(into, path);
            }
            into.extend((-1i32).to_be_bytes());
            into.push(1);
            into.extend((-1i32).to_be_bytes());
        }),
    }
}

/// What opens a new session.
pub(crate) fn handshake() -> Vec<u8> {
    let mut hello = Vec::new();
    hello.extend(45i32.to_be_bytes());
    hello.extend([0; 12]);
    hello.extend(TIMEOUT_MS.to_be_bytes());
    hello.extend([0; 8]);
    string(&mut hello, &[0; 16]);
    hello.push(0);
    hello
}

impl Session {
    /// Connects and opens a session.
    pub(crate) async fn open(address: SocketAddr, number: usize) -> Result<Session> {
        let mut stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        stream.write_all(&handshake()).await.map_err(|error| failed(&error))?;
        let path = format!("/bench-{number}-{}", std::process::id());
        let mut session = Session { stream, received: Vec::new(), path };
        let reply = session.next_frame().await?;
        if reply.get(8..16) == Some(&[0; 8][..]) {
            return Err("the server opened no session".to_owned());
        }
        Ok(session)
    }

    async fn fill(&mut self) -> Result<()> {
        let read = self.stream.read_buf(&mut self.received).await;
        match read.map_err(|error| failed(&error))? {
            0 => Err("the server closed a session".to_owned()),
            _ => Ok(()),
        }
    }

    /// Length of the first frame with its prefix, if it is all there.
    fn first_frame(&self, from: usize) -> Option<usize> {
        let prefix = self.received.get(from..)?.first_chunk::<4>()?;
        let length = 4 + i32::from_be_bytes(*prefix) as usize;
        (self.received.len() >= from + length).then_some(length)
    }

    async fn next_frame(&mut self) -> Result<Vec<u8>> {
        loop {
            if let Some(length) = self.first_frame(0) {
                let frame = self.received[4..length].to_vec();
                self.received.drain(..length);
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    async fn ask(&mut self, code: i32, body: impl FnOnce(&mut Vec<u8>)) -> Result<i32> {
        let mut bytes = Vec::new();
        frame(&mut bytes, code, body);
        self.stream.write_all(&bytes).await.map_err(|error| failed(&error))?;
        let reply = self.next_frame().await?;
        let error = reply.get(12..16).and_then(|bytes| bytes.first_chunk::<4>());
        error.map(|bytes| i32::from_be_bytes(*bytes)).ok_or_else(|| "a short reply".to_owned())
    }

    /// Creates what the requests work on.
    pub(crate) async fn prepare(&mut self) -> Result<()> {
        let path = self.path.clone();
        self.ask(1, |into| create_body(into, &path, 0)).await?;
        self.ask(1, |into| create_body(into, &format!("{path}/listed"), 0)).await?;
        for number in 0..10 {
            self.ask(1, |into| create_body(into, &format!("{path}/listed/{number}"), 0)).await?;
        }
        Ok(())
    }

    /// Keeps `depth` requests under way for `duration`; the time of each.
    pub(crate) async fn drive(
        &mut self,
        request: Request,
        depth: usize,
        duration: Duration,
    ) -> Result<Vec<Duration>> {
        let mut one = Vec::new();
        put(&mut one, request, &self.path);
        let (mut sent, mut latencies) = (VecDeque::new(), Vec::new());
        let (started, mut sending) = (Instant::now(), Vec::new());
        let mut wanted = depth;
        loop {
            sending.clear();
            let now = Instant::now();
            let is_over = now.duration_since(started) >= duration;
            for _ in 0..if is_over { 0 } else { wanted } {
                sending.extend_from_slice(&one);
                sent.push_back(now);
            }
            wanted = 0;
            self.stream.write_all(&sending).await.map_err(|error| failed(&error))?;
            if sent.is_empty() {
                return Ok(latencies);
            }
            self.fill().await?;
            let (now, mut start) = (Instant::now(), 0);
            while let Some(length) = self.first_frame(start) {
                let error = self.received.get(start + 16..start + 20);
                if error != Some(&[0; 4][..]) {
                    return Err(format!("{request:?} was refused: {error:?}"));
                }
                start += length;
                wanted += 1;
                if let Some(begun) = sent.pop_front() {
                    latencies.push(now.duration_since(begun));
                }
            }
            self.received.drain(..start);
        }
    }

    /// Creates so many znodes under one of its own.
    pub(crate) async fn create_many(&mut self, count: usize) -> Result<()> {
        let parent = format!("{}-filled", self.path);
        self.ask(1, |into| create_body(into, &parent, 0)).await?;
        for start in (0..count).step_by(FILL_DEPTH) {
            let (mut bytes, end) = (Vec::new(), count.min(start + FILL_DEPTH));
            for number in start..end {
                frame(&mut bytes, 1, |into| create_body(into, &format!("{parent}/{number}"), 0));
            }
            let (mut reader, mut writer) = self.stream.split();
            let writing = async { writer.write_all(&bytes).await.map_err(|error| failed(&error)) };
            tokio::try_join!(writing, count_frames(&mut reader, end - start))?;
        }
        Ok(())
    }

    /// Creates znodes for [`Session::watch_all`].
    pub(crate) async fn create_watched(&mut self, count: usize) -> Result<()> {
        for number in 0..count {
            self.ask(1, |into| create_body(into, &watched(number), 0)).await?;
        }
        Ok(())
    }

    /// Watches all of them.
    pub(crate) async fn watch_all(&mut self, count: usize) -> Result<()> {
        let mut bytes = Vec::new();
        for number in 0..count {
            frame(&mut bytes, 4, |into| {
                string(into, watched(number).as_bytes());
                into.push(1);
            });
        }
        let (mut reader, mut writer) = self.stream.split();
        let writing = async { writer.write_all(&bytes).await.map_err(|error| failed(&error)) };
        let reading = count_frames(&mut reader, count);
        tokio::try_join!(writing, reading).map(drop)
    }

    /// Waits for an event of each.
    pub(crate) async fn hear_all(&mut self, count: usize) -> Result<()> {
        count_frames(&mut self.stream.split().0, count).await
    }

    /// Sets all of them, without waiting for each.
    pub(crate) async fn set_watched(&mut self, count: usize) -> Result<()> {
        let mut bytes = Vec::new();
        for number in 0..count {
            frame(&mut bytes, 5, |into| set_body(into, &watched(number)));
        }
        let (mut reader, mut writer) = self.stream.split();
        let writing = async { writer.write_all(&bytes).await.map_err(|error| failed(&error)) };
        tokio::try_join!(writing, count_frames(&mut reader, count)).map(drop)
    }
}

fn watched(number: usize) -> String {
    format!("/watched-{}-{number}", std::process::id())
}

/// Reads so many frames and nothing more.
async fn count_frames(reader: &mut (impl AsyncReadExt + Unpin), count: usize) -> Result<()> {
    let (mut received, mut start) = (Vec::new(), 0);
    for _ in 0..count {
        loop {
            let prefix = received.get(start..).and_then(|rest: &[u8]| rest.first_chunk::<4>());
            let length = prefix.map(|prefix| 4 + i32::from_be_bytes(*prefix) as usize);
            if let Some(length) = length.filter(|length| received.len() >= start + length) {
                start += length;
                break;
            }
            received.drain(..start);
            start = 0;
            if reader.read_buf(&mut received).await.map_err(|error| failed(&error))? == 0 {
                return Err("the server closed a session".to_owned());
            }
        }
    }
    Ok(())
}
