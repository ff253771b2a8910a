//! A client that speaks frames and holds every answer against what it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use proteus_env::net::TcpStream;
use proteus_env::{Clock, RuntimeClock, net, task};
use proteus_face_zookeeper::codec::{
    ConnectRequest, CreateRequest, DeleteRequest, ReadKind, Request, WatchSets, take_frame,
};
use proteus_kernel_api::tree::AclEntry;
use proteus_sim::random::Random;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{PATIENCE, STALENESS_MAX};

/// Znodes that are set and watched.
const KEYS: u64 = 3;

/// The parent of all ephemerals, whose children are watched.
const MEMBERS: &str = "/members";

/// How long a client waits for a reply before it gives its connection up, in simulated time.
const REPLY_PATIENCE: Duration = Duration::from_secs(4);

const TIMEOUT_MS: i32 = 6_000;

const NO_NODE: i32 = -101;

/// What somebody was shown or told: nobody may be shown less from then on.
pub struct Truth {
    clock: RuntimeClock,
    /// The newest change of each znode, of its data or children, and when it became known.
    newest: BTreeMap<String, Vec<(Duration, i64)>>,
    pub events: u64,
    pub replies: u64,
    pub reconnects: u64,
    pub expired: u64,
}

impl Default for Truth {
    fn default() -> Truth {
        Truth {
            clock: RuntimeClock::new(0, 0),
            newest: BTreeMap::new(),
            events: 0,
            replies: 0,
            reconnects: 0,
            expired: 0,
        }
    }
}

impl Truth {
    fn note(&mut self, path: &str, zxid: i64) {
        let newest = self.newest.entry(path.to_owned()).or_default();
        if newest.last().is_none_or(|(_, known)| *known < zxid) {
            newest.push((self.clock.elapsed(), zxid));
        }
    }

    /// The newest change of a znode that was known so long ago.
    fn known(&self, path: &str, ago: Duration) -> i64 {
        let newest = self.newest.get(path).into_iter().flatten();
        let now = self.clock.elapsed();
        let known = newest.take_while(|(since, _)| now - *since >= ago);
        known.last().map_or(0, |(_, zxid)| *zxid)
    }
}

/// What a watch waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Data,
    Child,
}

/// A connection was lost, or a claim is broken.
pub enum Trouble {
    Lost,
    Claim(String),
}

pub type Answered<T> = Result<T, Trouble>;

/// A reply without its frame.
struct Reply {
    error: i32,
    body: Bytes,
}

pub struct Client {
    number: usize,
    random: Random,
    /// Whether nodes answer reads by themselves.
    is_local: bool,
    /// The newest change of each znode that this client was told or shown.
    own: BTreeMap<String, i64>,
    addresses: Arc<Mutex<Vec<SocketAddr>>>,
    truth: Arc<Mutex<Truth>>,
    pub stream: Option<(TcpStream, BytesMut)>,
    session: (i64, Bytes),
    last_zxid: i64,
    next_xid: i32,
    /// Watches that are set, and the newest change of the znode that was shown when they were.
    watches: BTreeMap<(Kind, String), i64>,
    /// Ephemerals of the present session that are there for certain.
    pub sure: BTreeSet<String>,
    /// Paths whose creation or deletion had no reply.
    pub unsure: BTreeSet<String>,
    made: u64,
}

fn key(number: u64) -> String {
    format!("/k{number}")
}

impl Client {
    pub fn new(
        number: usize,
        random: Random,
        is_local: bool,
        addresses: Arc<Mutex<Vec<SocketAddr>>>,
        truth: Arc<Mutex<Truth>>,
    ) -> Client {
        Client {
            number,
            random,
            is_local,
            own: BTreeMap::new(),
            addresses,
            truth,
            stream: None,
            session: (0, Bytes::from_static(&[0; 16])),
            last_zxid: 0,
            next_xid: 1,
            watches: BTreeMap::new(),
            sure: BTreeSet::new(),
            unsure: BTreeSet::new(),
            made: 0,
        }
    }

    fn claim<T>(&self, what: &str) -> Answered<T> {
        Err(Trouble::Claim(format!("client {}: {what}", self.number)))
    }

    /// Until it has a connection and a session, however long that takes.
    async fn come_back(&mut self) -> Result<(), String> {
        let coming = async {
            loop {
                match self.connect().await {
                    Ok(()) => return Ok(()),
                    Err(Trouble::Lost) => task::sleep(Duration::from_millis(200)).await,
                    Err(Trouble::Claim(claim)) => return Err(claim),
                }
            }
        };
        let back = task::timeout(PATIENCE, coming).await;
        back.unwrap_or_else(|| Err(format!("client {} never comes back", self.number)))
    }

    pub async fn prepare(&mut self) -> Result<(), String> {
        self.come_back().await?;
        for path in (0..KEYS).map(key).chain([MEMBERS.to_owned()]) {
            match self.ask(&create(&path, 0)).await {
                Ok(Reply { error: 0, .. }) => {}
                _ => return Err(format!("{path} cannot be created")),
            }
        }
        Ok(())
    }

    /// Some requests, while they are answered.
    pub async fn work(&mut self, steps: u64) -> Result<(), String> {
        for _ in 0..self.random.below(steps) {
            let stepped = match self.stream {
                Some(_) => self.step().await,
                None => self.connect().await,
            };
            match stepped {
                Ok(()) => {}
                Err(Trouble::Lost) => self.stream = None,
                Err(Trouble::Claim(claim)) => return Err(claim),
            }
            if self.random.chance(30) {
                task::sleep(Duration::from_millis(self.random.below(1_500))).await;
            }
        }
        Ok(())
    }

    async fn step(&mut self) -> Answered<()> {
        let path = key(self.random.below(KEYS));
        match self.random.below(12) {
            0..=2 => self.set(&path).await,
            3..=5 => self.look(Kind::Data, &path).await,
            6..=7 => self.look(Kind::Child, MEMBERS).await,
            8 => {
                self.made += 1;
                let path = format!("{MEMBERS}/{}-{}", self.number, self.made);
                self.unsure.insert(path.clone());
                if self.ask(&create(&path, 1)).await?.error == 0 {
                    self.unsure.remove(&path);
                    self.sure.insert(path);
                }
                Ok(())
            }
            9 => {
                let Some(path) = self.sure.pop_first() else { return Ok(()) };
                self.unsure.insert(path.clone());
                let delete = DeleteRequest { path: path.clone(), version: -1, is_tolerant: false };
                match self.ask(&Request::Delete(delete)).await?.error {
                    0 => drop(self.unsure.remove(&path)),
                    error => return self.claim(&format!("its own {path} is not there: {error}")),
                }
                Ok(())
            }
            10 => self.ask(&Request::Ping).await.map(drop),
            _ => Err(Trouble::Lost),
        }
    }

    async fn set(&mut self, path: &str) -> Answered<()> {
        let data = Some(Bytes::from(format!("{}", self.random.number())));
        let request = Request::SetData { path: path.to_owned(), data, version: -1 };
        let reply = self.ask(&request).await?;
        if reply.error == 0 {
            let mut stat = reply.body;
            stat.advance(8);
            self.note(path, stat.get_i64());
        }
        Ok(())
    }

    fn note(&mut self, path: &str, zxid: i64) {
        self.truth.lock().note(path, zxid);
        let own = self.own.entry(path.to_owned()).or_default();
        *own = (*own).max(zxid);
    }

    /// Reads, and watches from then on.
    async fn look(&mut self, kind: Kind, path: &str) -> Answered<()> {
        let lags = self.is_local && !self.random.chance(20);
        let floor = if lags {
            let known = self.truth.lock().known(path, STALENESS_MAX);
            known.max(self.own.get(path).copied().unwrap_or_default())
        } else {
            let known = self.truth.lock().known(path, Duration::ZERO);
            self.sync(path).await?;
            known
        };
        let read = if kind == Kind::Data { ReadKind::Data } else { ReadKind::ChildrenAndStat };
        let reply = self.ask(&Request::read(read, path, true)).await?;
        if reply.error != 0 {
            return self.claim(&format!("{path} cannot be read: {}", reply.error));
        }
        let stat = &reply.body[reply.body.len() - 68..];
        let at = if kind == Kind::Data { 8 } else { 60 };
        let shown = (&stat[at..]).get_i64();
        if shown < floor {
            return self.claim(&format!("{path} is shown at {shown:#x}, after {floor:#x}"));
        }
        self.note(path, shown);
        match self.watches.insert((kind, path.to_owned()), shown) {
            Some(before) if before != shown => self.claim(&format!(
                "{path} is shown at {shown:#x}, and its watch set at {before:#x} has not fired"
            )),
            _ => Ok(()),
        }
    }

    pub async fn look_everywhere(&mut self) -> Result<(), String> {
        self.come_back().await?;
        for (kind, path) in
            (0..KEYS).map(|k| (Kind::Data, key(k))).chain([(Kind::Child, MEMBERS.to_owned())])
        {
            loop {
                match self.look(kind, &path).await {
                    Ok(()) => break,
                    Err(Trouble::Claim(claim)) => return Err(claim),
                    Err(Trouble::Lost) => {
                        self.stream = None;
                        self.come_back().await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Has the node catch up, where it would not by itself.
    async fn sync(&mut self, path: &str) -> Answered<()> {
        if self.is_local {
            self.ask(&Request::Sync { path: path.to_owned() }).await?;
        }
        Ok(())
    }

    pub async fn members(&mut self) -> Answered<BTreeSet<String>> {
        self.sync(MEMBERS).await?;
        let listing = Request::read(ReadKind::Children, MEMBERS, false);
        let mut body = self.ask(&listing).await?.body;
        let mut found = BTreeSet::new();
        for _ in 0..body.get_i32() {
            let length = body.get_i32() as usize;
            let name = body.split_to(length);
            found.insert(format!("{MEMBERS}/{}", String::from_utf8_lossy(&name)));
        }
        Ok(found)
    }

    /// Connects to any node, resumes the session and sets the watches again.
    async fn connect(&mut self) -> Answered<()> {
        if self.stream.is_some() {
            return Ok(());
        }
        let addresses = self.addresses.lock().clone();
        if addresses.is_empty() {
            return Err(Trouble::Lost);
        }
        let address = self.random.pick(&addresses);
        let stream = net::connect(address).await.map_err(|_| Trouble::Lost)?;
        self.stream = Some((stream, BytesMut::new()));
        let connected = self.shake_hands().await;
        if connected.is_err() {
            self.stream = None;
        }
        connected
    }

    async fn shake_hands(&mut self) -> Answered<()> {
        let (session_id, password) = self.session.clone();
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: self.last_zxid,
            timeout_ms: TIMEOUT_MS,
            session_id,
            password,
            read_only: Some(false),
        };
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes);
        self.send(&bytes).await?;
        let mut answer = self.frame().await?;
        answer.advance(8);
        let granted = answer.get_i64();
        answer.advance(4);
        let password = answer.split_to(16);
        if granted == 0 {
            // The session has ended, and with it all that it owned.
            self.truth.lock().expired += 1;
            self.session = (0, Bytes::from_static(&[0; 16]));
            self.watches.clear();
            self.sure.clear();
            return Err(Trouble::Lost);
        }
        if session_id != 0 && granted != session_id {
            return self.claim("another session than the one to resume");
        }
        self.session = (granted, password);
        self.truth.lock().reconnects += 1;
        if !self.watches.is_empty() {
            let paths = |wanted| {
                let of_kind = self.watches.keys().filter(move |(kind, _)| *kind == wanted);
                of_kind.map(|(_, path)| path.clone()).collect()
            };
            let sets = WatchSets {
                relative_zxid: self.last_zxid,
                data: paths(Kind::Data),
                child: paths(Kind::Child),
                ..WatchSets::default()
            };
            self.ask(&Request::SetWatches(sets)).await?;
        }
        Ok(())
    }

    async fn send(&mut self, bytes: &[u8]) -> Answered<()> {
        let Some((stream, _)) = &mut self.stream else { return Err(Trouble::Lost) };
        stream.write_all(bytes).await.map_err(|_| Trouble::Lost)
    }

    async fn frame(&mut self) -> Answered<Bytes> {
        let Some((stream, received)) = &mut self.stream else { return Err(Trouble::Lost) };
        let reading = async {
            loop {
                if let Ok(Some(frame)) = take_frame(received, usize::MAX) {
                    return Ok(frame);
                }
                match stream.read_buf(received).await {
                    Ok(0) | Err(_) => return Err(Trouble::Lost),
                    Ok(_) => {}
                }
            }
        };
        task::timeout(REPLY_PATIENCE, reading).await.unwrap_or(Err(Trouble::Lost))
    }

    async fn ask(&mut self, request: &Request) -> Answered<Reply> {
        let xid = self.next_xid;
        self.next_xid += 1;
        let mut bytes = BytesMut::new();
        request.encode(xid, &mut bytes);
        self.send(&bytes).await?;
        loop {
            let mut frame = self.frame().await?;
            let (found, zxid, error) = (frame.get_i32(), frame.get_i64(), frame.get_i32());
            if found == -1 {
                self.on_event(&mut frame)?;
                continue;
            }
            if found != xid {
                return self.claim(&format!("reply {found} to request {xid}"));
            }
            if zxid < self.last_zxid {
                let last_zxid = self.last_zxid;
                return self.claim(&format!("zxid {zxid:#x} after {last_zxid:#x}"));
            }
            self.last_zxid = zxid;
            self.truth.lock().replies += 1;
            if error == -112 {
                return Err(Trouble::Lost);
            }
            if error != 0 && error != NO_NODE && error != -110 {
                return self.claim(&format!("{request:?} is answered with {error}"));
            }
            return Ok(Reply { error, body: frame });
        }
    }

    fn on_event(&mut self, body: &mut Bytes) -> Answered<()> {
        let (event, _state) = (body.get_i32(), body.get_i32());
        let length = body.get_i32() as usize;
        let path = String::from_utf8_lossy(&body.split_to(length)).into_owned();
        self.truth.lock().events += 1;
        let kind = if event == 4 { Kind::Child } else { Kind::Data };
        match self.watches.remove(&(kind, path.clone())) {
            Some(_) => Ok(()),
            None => self.claim(&format!("event {event} of {path}, which is not watched")),
        }
    }
}

fn create(path: &str, flags: i32) -> Request {
    Request::Create(CreateRequest {
        code: 1,
        path: path.to_owned(),
        data: None,
        acl: vec![AclEntry::open()],
        flags,
        ttl_ms: None,
    })
}
