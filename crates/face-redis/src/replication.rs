//! The stream of changes that Redis' own replicas follow.
//!
//! There is one stream a node, made only while somebody follows it. A round takes the keys that commits have
//! touched since the round before, reads them at one commit, and writes what reproduces them: DEL, SET, or
//! RESTORE; so a key that changes often is sent as often as there are rounds, and a large collection is
//! sent whole. Rounds are kept, to a bound, for those who are behind or come back.
//!
//! Sending states instead of changes makes a copy and the stream fit whatever happened between: a copy is
//! read in pieces while commits go on, and the stream from before its first piece brings it to one commit.
//!
//! Where this node does not have all keys it asks for those that have changed elsewhere, once it has been told that they
//! have: a round is of one moment, but what one commit has changed in several shards may come in two rounds. A database
//! that is emptied ends the stream then, since each shard tells of that by itself.
//!
//! Source: Redis' replication (PSYNC), "How Redis replication works" (redis.io).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proteus_env::{random, task};
use proteus_kernel_api::cache::{self, Call, Change, Kind, Parcel, Parceled, Question, Reply};
use proteus_kernel_api::{Change as AnyChange, Commit, Kernel, KernelError, StoreError, View};
use tokio::sync::Notify;

use crate::RedisFace;

/// Bytes of rounds that are kept for those who are behind, as Redis' repl-backlog-size.
const BACKLOG_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Keys that may wait for the next round; beyond it the stream ends, and all copy again.
const KEYS_MAX: usize = 1_000_000;

/// Bytes of messages that may wait for the next round.
const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Keys and bytes that are read at one commit; what is left comes with the next round.
const ROUND_KEYS_MAX: usize = 10_000;
const ROUND_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What is gathered for this long becomes one round.
const ROUND_PAUSE: Duration = Duration::from_millis(2);

/// How often the stream says that it is alive, as Redis' repl-ping-replica-period.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// How long the stream goes on without anybody who follows it.
const IDLE_MS_MAX: u64 = 5 * 60 * 1000;

/// Notes that say which commits a place in the stream covers.
const MARKS_MAX: usize = 4096;

/// What commits have touched since the last round.
#[derive(Default)]
struct Pending {
    cleared: BTreeSet<u8>,
    keys: BTreeSet<(u8, Bytes)>,
    messages: Vec<(Bytes, Bytes, bool)>,
    message_bytes: usize,
}

/// One who follows.
pub(crate) struct Follower {
    /// Its address and port, as it tells them.
    pub(crate) address: String,
    pub(crate) port: u16,
    /// It has its copy.
    pub(crate) is_online: bool,
    /// How much of the stream it says to have.
    pub(crate) acked: u64,
    pub(crate) acked_ms: u64,
}

struct Stream {
    /// Its name: 40 hexadecimal digits.
    id: String,
    /// Where it ends, in bytes.
    offset: u64,
    /// Rounds with the places where they begin.
    rounds: VecDeque<(u64, Bytes)>,
    held_bytes: usize,
    pending: Pending,
    /// Commits noted so far, and up to which place those before are all in the stream.
    noted: u64,
    marks: VecDeque<(u64, u64)>,
    followers: BTreeMap<u64, Follower>,
    /// Somebody waits to hear how far followers are.
    asks: bool,
    idle_since_ms: u64,
}

/// The stream and those who follow it.
pub(crate) struct Replication {
    stream: Mutex<Stream>,
    is_active: AtomicBool,
    /// Some keys are on other nodes only.
    is_apart: AtomicBool,
    /// Wakes the one who makes rounds.
    touched: Notify,
    /// Wakes those who send them.
    pub(crate) grown: Notify,
    /// Wakes who waits for followers.
    pub(crate) acked: Notify,
}

/// What there is to send to one who follows.
pub(crate) enum Next {
    Rounds(Vec<Bytes>, u64),
    /// It is behind what is kept, or the stream has ended.
    Lost,
}

impl Default for Replication {
    fn default() -> Replication {
        let stream = Stream {
            id: new_id(),
            offset: 0,
            rounds: VecDeque::new(),
            held_bytes: 0,
            pending: Pending::default(),
            noted: 0,
            marks: VecDeque::new(),
            followers: BTreeMap::new(),
            asks: false,
            idle_since_ms: 0,
        };
        Replication {
            stream: Mutex::new(stream),
            is_active: AtomicBool::new(false),
            is_apart: AtomicBool::new(false),
            touched: Notify::new(),
            grown: Notify::new(),
            acked: Notify::new(),
        }
    }
}

fn new_id() -> String {
    let number = u128::from_be_bytes(random::random_bytes());
    format!("{number:032x}{:08x}", random::random_u64() >> 32)
}

impl Stream {
    fn push(&mut self, round: Vec<u8>) {
        if round.is_empty() {
            return;
        }
        self.held_bytes += round.len();
        let start = self.offset;
        self.offset += round.len() as u64;
        self.rounds.push_back((start, Bytes::from(round)));
        while self.held_bytes > BACKLOG_BYTES_MAX && self.rounds.len() > 1 {
            let Some((_, oldest)) = self.rounds.pop_front() else { break };
            self.held_bytes -= oldest.len();
        }
    }

    /// Ends the stream: who follows must copy again.
    fn end(&mut self) {
        self.id = new_id();
        self.rounds.clear();
        self.held_bytes = 0;
        self.pending = Pending::default();
        self.marks.clear();
    }

    /// Notes that the stream holds all of the first `noted` commits.
    fn mark(&mut self, noted: u64) {
        if self.marks.back().is_some_and(|(upto, _)| *upto == noted) {
            return;
        }
        if self.marks.len() >= MARKS_MAX {
            self.marks.pop_front();
        }
        self.marks.push_back((noted, self.offset));
    }

    /// Where the oldest round begins.
    fn kept_from(&self) -> u64 {
        self.rounds.front().map_or(self.offset, |(start, _)| *start)
    }
}

impl Replication {
    /// Called for each commit, under the feed's order.
    pub(crate) fn note(&self, commit: &Commit) {
        if !self.is_active.load(Ordering::Acquire) {
            return;
        }
        let mut stream = self.stream.lock();
        stream.noted += 1;
        let is_cleared =
            |change: &AnyChange| matches!(change, AnyChange::Cache(Change::Cleared { .. }));
        if self.is_apart.load(Ordering::Acquire) && commit.changes.iter().any(is_cleared) {
            stream.end();
            self.grown.notify_waiters();
        }
        let pending = &mut stream.pending;
        for change in &commit.changes {
            let AnyChange::Cache(change) = change else { continue };
            match change {
                Change::Key { db, key, .. } => _ = pending.keys.insert((*db, key.clone())),
                Change::Cleared { db } => {
                    pending.keys.retain(|(other, _)| other != db);
                    pending.cleared.insert(*db);
                }
                Change::Published { channel, message, is_sharded } => {
                    pending.message_bytes += channel.len() + message.len();
                    pending.messages.push((channel.clone(), message.clone(), *is_sharded));
                }
                Change::Setting { .. }
                | Change::Slots(_)
                | Change::Replicas
                | Change::Declared(_) => {}
            }
        }
        if pending.keys.len() > KEYS_MAX || pending.message_bytes > MESSAGE_BYTES_MAX {
            stream.end();
            self.grown.notify_waiters();
        }
        drop(stream);
        self.touched.notify_one();
    }

    /// The state has become another by no commits that are told.
    pub(crate) fn note_gap(&self) {
        self.stream.lock().end();
        self.grown.notify_waiters();
    }

    /// Begins to follow from the end of the stream, or from a place in it that is kept: the stream's name,
    /// the place, and whether it goes on there.
    pub(crate) fn join(
        &self,
        client: u64,
        follower: Follower,
        wanted: Option<(&str, u64)>,
    ) -> (String, u64, bool) {
        let mut stream = self.stream.lock();
        self.is_active.store(true, Ordering::Release);
        let goes_on = wanted.filter(|(id, offset)| {
            *id == stream.id && (stream.kept_from()..=stream.offset).contains(offset)
        });
        let from = goes_on.map_or(stream.offset, |(_, offset)| offset);
        let is_online = goes_on.is_some();
        stream.followers.insert(client, Follower { is_online, acked: from, ..follower });
        self.touched.notify_one();
        (stream.id.clone(), from, is_online)
    }

    pub(crate) fn leave(&self, client: u64, now_ms: u64) {
        let mut stream = self.stream.lock();
        stream.followers.remove(&client);
        stream.idle_since_ms = now_ms;
        drop(stream);
        self.acked.notify_waiters();
    }

    /// What follows `offset` in the stream of this name; empty if nothing does yet.
    pub(crate) fn after(&self, id: &str, offset: u64) -> Next {
        let stream = self.stream.lock();
        if stream.id != id || offset < stream.kept_from() {
            return Next::Lost;
        }
        let first = stream.rounds.partition_point(|(start, _)| *start < offset);
        // One who comes back may stand within a round.
        let mut rounds = Vec::new();
        if let Some((start, round)) = first.checked_sub(1).and_then(|at| stream.rounds.get(at)) {
            let within = usize::try_from(offset - start).unwrap_or(usize::MAX);
            if within < round.len() {
                rounds.push(round.slice(within..));
            }
        }
        rounds.extend(stream.rounds.iter().skip(first).map(|(_, round)| round.clone()));
        Next::Rounds(rounds, stream.offset)
    }

    /// Learns whether some keys are on other nodes only; the stream goes on from nowhere if that is new.
    fn note_apart(&self, is_apart: bool) {
        if self.is_apart.swap(is_apart, Ordering::AcqRel) != is_apart {
            self.note_gap();
        }
    }

    /// Adds a key to the next round.
    pub(crate) fn touch(&self, db: u8, key: Bytes) {
        self.stream.lock().pending.keys.insert((db, key));
        self.touched.notify_one();
    }

    /// A follower says how much it has.
    pub(crate) fn note_acked(&self, client: u64, offset: u64, now_ms: u64) {
        let mut stream = self.stream.lock();
        if let Some(follower) = stream.followers.get_mut(&client) {
            follower.is_online = true;
            follower.acked = follower.acked.max(offset);
            follower.acked_ms = now_ms;
        }
        drop(stream);
        self.acked.notify_waiters();
    }

    /// How many commits were noted: what a waiter waits for followers to have.
    pub(crate) fn noted(&self) -> u64 {
        self.stream.lock().noted
    }

    /// How many followers have the first `noted` commits; those who may not are asked how far they are.
    pub(crate) fn count_of(&self, noted: u64, asks: bool) -> usize {
        let mut stream = self.stream.lock();
        // What was written elsewhere may not have been noted yet.
        if stream.followers.is_empty() || self.is_apart.load(Ordering::Acquire) {
            return 0;
        }
        let covered = stream.marks.iter().find(|(upto, _)| *upto >= noted).map(|(_, at)| *at);
        let covered = covered.or_else(|| (noted == 0).then_some(0));
        let has = |follower: &&Follower| {
            follower.is_online && covered.is_some_and(|at| follower.acked >= at)
        };
        let count = stream.followers.values().filter(has).count();
        if asks && count < stream.followers.len() {
            stream.asks = true;
            drop(stream);
            self.touched.notify_one();
        }
        count
    }

    /// Where the stream will be once all that is known is in it; `None` while nobody follows.
    pub(crate) fn offset(&self) -> Option<u64> {
        let stream = self.stream.lock();
        let waiting = stream.pending.keys.len() + stream.pending.cleared.len();
        (!stream.followers.is_empty()).then_some(stream.offset + waiting as u64)
    }

    pub(crate) fn id(&self) -> String {
        self.stream.lock().id.clone()
    }

    /// Calls `visit` with each who follows.
    pub(crate) fn each_follower(&self, mut visit: impl FnMut(&Follower)) {
        self.stream.lock().followers.values().for_each(&mut visit);
    }

    /// Makes rounds until the face is gone.
    pub(crate) async fn make_rounds(face: Weak<RedisFace>) {
        let mut pinged = Duration::ZERO;
        loop {
            let Some(alive) = face.upgrade() else { return };
            let (hub, now) = (alive.hub.clone(), alive.clock.elapsed());
            let replication = &hub.replication;
            let mut has_more = false;
            if replication.is_active.load(Ordering::Acquire) {
                // A kernel that cannot be read now is asked again.
                let is_apart = !alive.kernel.has_all();
                replication.note_apart(is_apart);
                has_more = match is_apart {
                    true => replication.round_apart(&*alive.kernel).await.unwrap_or(true),
                    false => replication.round(&*alive.kernel).unwrap_or(false),
                };
                if now.saturating_sub(pinged) >= PING_INTERVAL {
                    pinged = now;
                    replication.ping(alive.clock.wall_ms());
                }
            }
            drop(alive);
            if has_more {
                task::sleep(ROUND_PAUSE).await;
            } else {
                task::timeout(PING_INTERVAL, replication.touched.notified()).await;
            }
        }
    }

    fn ping(&self, now_ms: u64) {
        let mut stream = self.stream.lock();
        let is_idle = stream.followers.is_empty();
        if is_idle && now_ms.saturating_sub(stream.idle_since_ms) > IDLE_MS_MAX {
            self.is_active.store(false, Ordering::Release);
            stream.end();
            return;
        }
        let mut ping = Vec::new();
        put_command(&mut ping, &[b"PING"]);
        stream.push(ping);
        drop(stream);
        self.grown.notify_waiters();
    }

    /// Makes one round of what is pending; says whether there may be more soon.
    fn round(&self, kernel: &dyn Kernel) -> Result<bool, KernelError> {
        let mut round = Round::default();
        let (mut pending, mut noted, mut id) = (Pending::default(), 0, String::new());
        let mut left = BTreeSet::new();
        let read = kernel.read(|view| {
            // Commits are noted before they can be read, and none is while we read: what is taken here is
            // what all commits in sight have touched.
            {
                let mut stream = self.stream.lock();
                pending = std::mem::take(&mut stream.pending);
                (noted, id) = (stream.noted, stream.id.clone());
            }
            for db in &pending.cleared {
                round.select(*db);
                round.command(&[b"FLUSHDB"]);
            }
            for (count, (db, key)) in pending.keys.iter().enumerate() {
                if count >= ROUND_KEYS_MAX || round.bytes.len() >= ROUND_BYTES_MAX {
                    left = pending.keys.iter().skip(count).cloned().collect();
                    break;
                }
                round.select(*db);
                round.state(view, *db, key)?;
            }
            Ok(())
        });
        if let Err(error) = read {
            self.put_back(pending.keys, pending.cleared);
            return Err(error);
        }
        let had_any = round.count > 0 || !pending.messages.is_empty();
        self.end_round(round, pending.messages, (noted, id), left);
        Ok(had_any)
    }

    /// As [`Replication::round`], where some keys are on other nodes only.
    async fn round_apart(&self, kernel: &dyn Kernel) -> Result<bool, KernelError> {
        let (pending, noted, id) = {
            let mut stream = self.stream.lock();
            (std::mem::take(&mut stream.pending), stream.noted, stream.id.clone())
        };
        let mut round = Round::default();
        let mut left: BTreeSet<(u8, Bytes)> =
            pending.keys.iter().skip(ROUND_KEYS_MAX).cloned().collect();
        let mut of: BTreeMap<u8, Vec<Bytes>> = BTreeMap::new();
        for (db, key) in pending.keys.iter().take(ROUND_KEYS_MAX) {
            of.entry(*db).or_default().push(key.clone());
        }
        for (db, keys) in of {
            round.select(db);
            let question = Question::Parcels { db, keys: keys.clone() };
            let found = kernel.ask(question).await;
            let found = found.map(|answer| answer.into_parcels(keys.len()));
            let Ok(Some(found)) = found else {
                self.put_back(pending.keys, pending.cleared);
                self.stream.lock().pending.messages.splice(..0, pending.messages);
                found?;
                return Err(KernelError::unknown_answer());
            };
            for (key, found) in keys.into_iter().zip(found) {
                match found {
                    Parceled::Absent => round.command(&[b"DEL", &key]),
                    Parceled::There(parcel) => round.parcel(&key, &parcel),
                    Parceled::Left => _ = left.insert((db, key)),
                }
            }
        }
        let had_any = !pending.keys.is_empty() || !pending.messages.is_empty();
        self.end_round(round, pending.messages, (noted, id), left);
        Ok(had_any)
    }

    /// Puts a round into the stream in which all that was noted is, the first `noted` commits, but what is left.
    fn end_round(
        &self,
        mut round: Round,
        messages: Vec<(Bytes, Bytes, bool)>,
        (noted, id): (u64, String),
        left: BTreeSet<(u8, Bytes)>,
    ) {
        // A message comes after what was committed before it.
        for (channel, message, is_sharded) in &messages {
            round.command(&[if *is_sharded { b"SPUBLISH" } else { b"PUBLISH" }, channel, message]);
        }
        let mut stream = self.stream.lock();
        if stream.id != id {
            return;
        }
        stream.push(round.finish());
        if left.is_empty() && noted > 0 {
            stream.mark(noted);
        }
        if std::mem::take(&mut stream.asks) {
            let mut ask = Vec::new();
            put_command(&mut ask, &[b"REPLCONF", b"GETACK", b"*"]);
            stream.push(ask);
        }
        drop(stream);
        if !left.is_empty() {
            self.put_back(left, BTreeSet::new());
        }
        self.grown.notify_waiters();
    }

    fn put_back(&self, keys: BTreeSet<(u8, Bytes)>, cleared: BTreeSet<u8>) {
        let mut stream = self.stream.lock();
        let since = &mut stream.pending;
        // What was cleared since is gone, whatever it was.
        let is_there = |(db, _): &(u8, Bytes)| !since.cleared.contains(db);
        let keys: Vec<(u8, Bytes)> = keys.into_iter().filter(is_there).collect();
        since.keys.extend(keys);
        since.cleared.extend(cleared);
    }
}

/// Commands of one round.
#[derive(Default)]
struct Round {
    bytes: Vec<u8>,
    count: usize,
    db: Option<u8>,
}

pub(crate) fn put_command(into: &mut Vec<u8>, words: &[&[u8]]) {
    into.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        into.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        into.extend_from_slice(word);
        into.extend_from_slice(b"\r\n");
    }
}

fn answer(view: View<'_>, db: u8, name: &'static [u8], key: &Bytes) -> Result<Reply, StoreError> {
    let arguments = vec![Bytes::from_static(name), key.clone()];
    cache::answer(view, &Call { db, seed: 0, origin: 0, arguments })
}

fn expiry(view: View<'_>, db: u8, key: &Bytes) -> Result<Option<u64>, StoreError> {
    Ok(match answer(view, db, b"PEXPIRETIME", key)? {
        Reply::Integer(at_ms) => u64::try_from(at_ms).ok(),
        _ => None,
    })
}

impl Round {
    fn command(&mut self, words: &[&[u8]]) {
        put_command(&mut self.bytes, words);
        self.count += 1;
    }

    /// Each round selects its own: one who follows may begin at any.
    fn select(&mut self, db: u8) {
        if self.db != Some(db) {
            self.db = Some(db);
            self.command(&[b"SELECT", db.to_string().as_bytes()]);
        }
    }

    /// What makes the key what it is.
    fn state(&mut self, view: View<'_>, db: u8, key: &Bytes) -> Result<(), StoreError> {
        match cache::kind_and_count(view, db, key)? {
            None => self.command(&[b"DEL", key]),
            Some((Kind::String, _)) => {
                let Reply::Bulk(value) = answer(view, db, b"GET", key)? else { return Ok(()) };
                match expiry(view, db, key)? {
                    None => self.command(&[b"SET", key, &value]),
                    Some(at_ms) => {
                        self.command(&[b"SET", key, &value, b"PXAT", at_ms.to_string().as_bytes()]);
                    }
                }
            }
            Some(_) => {
                let question = Question::Parcels { db, keys: vec![key.clone()] };
                if let Some([Parceled::There(parcel)]) =
                    question.answer(view)?.into_parcels(1).as_deref()
                {
                    self.parcel(key, parcel);
                }
            }
        }
        Ok(())
    }

    fn parcel(&mut self, key: &[u8], Parcel { payload, expire_at_ms, .. }: &Parcel) {
        let at_ms = expire_at_ms.unwrap_or(0).to_string();
        self.command(&[b"RESTORE", key, at_ms.as_bytes(), payload, b"REPLACE", b"ABSTTL"]);
    }

    /// The commands; several as one transaction.
    fn finish(self) -> Vec<u8> {
        if self.count < 2 {
            return self.bytes;
        }
        let mut whole = Vec::with_capacity(self.bytes.len() + 32);
        put_command(&mut whole, &[b"MULTI"]);
        whole.extend_from_slice(&self.bytes);
        put_command(&mut whole, &[b"EXEC"]);
        whole
    }
}
