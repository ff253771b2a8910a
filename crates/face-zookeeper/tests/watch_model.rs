//! No watch event is lost, told twice, or out of order: random histories against a model.
//!
//! A writer changes znodes, and ephemerals come and go with a session; watchers set watches of every
//! kind, take them away, lose their connections and send their watches again. After each step every
//! connected watcher must have been told exactly the events that the model foretells, in that order.

mod served;

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, Bytes};
use proteus_face_zookeeper::codec::{
    ConnectRequest, DeleteRequest, ReadKind, Request, WatchSets, WatcherType,
};
use served::{Raw, create, fresh, get, serve, set};

/// Histories tried, and steps of each.
const SEEDS: u64 = 40;
const STEPS: usize = 200;

const PATHS: [&str; 5] = ["/a", "/b", "/a/x", "/a/y", "/a/x/z"];

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn path(&mut self) -> &'static str {
        PATHS[self.below(PATHS.len())]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// On data of a znode that was there when the watch was set.
    Data,
    /// On a znode that was not there.
    Exist,
    Child,
    Persistent,
    Recursive,
}

const ONCE: [Kind; 3] = [Kind::Data, Kind::Exist, Kind::Child];

/// As told over the wire.
const CREATED: i32 = 1;
const DELETED: i32 = 2;
const CHANGED: i32 = 3;
const CHILDREN: i32 = 4;

type Event = (i32, String);

#[derive(Debug, Clone, Copy)]
struct Znode {
    modified: i64,
    children: i64,
    is_ephemeral: bool,
}

struct Watcher {
    raw: Option<Raw>,
    session_id: i64,
    password: Bytes,
    seen: i64,
    watches: BTreeSet<(Kind, String)>,
    expected: Vec<Event>,
}

struct World {
    address: std::net::SocketAddr,
    znodes: BTreeMap<String, Znode>,
    writer: Raw,
    owner: Raw,
    watchers: Vec<Watcher>,
}

fn parent(path: &str) -> String {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/".to_owned(),
        Some((parent, _)) => parent.to_owned(),
    }
}

impl Watcher {
    async fn connect(address: std::net::SocketAddr) -> Watcher {
        let (raw, greeted) = Raw::connect(address, &fresh(40_000)).await;
        let (session_id, password) = (greeted.session_id, greeted.password);
        let raw = Some(raw);
        Watcher {
            raw,
            session_id,
            password,
            seen: 0,
            watches: BTreeSet::new(),
            expected: Vec::new(),
        }
    }

    /// What a change tells this watcher, if it is there to be told.
    fn foretell(&mut self, event: i32, path: &str) {
        if self.raw.is_none() {
            return;
        }
        let mut is_told = false;
        for kind in ONCE {
            let is_due = match kind {
                Kind::Child => event == CHILDREN || event == DELETED,
                _ => event != CHILDREN,
            };
            is_told |= is_due && self.watches.remove(&(kind, path.to_owned()));
        }
        is_told |= self.watches.contains(&(Kind::Persistent, path.to_owned()));
        // Recursive watches are not told of children as such.
        let mut at = (event != CHILDREN).then(|| path.to_owned());
        while let Some(path) = at {
            is_told |= self.watches.contains(&(Kind::Recursive, path.clone()));
            at = (path != "/").then(|| parent(&path));
        }
        if is_told {
            self.expected.push((event, path.to_owned()));
        }
    }

    async fn ask(&mut self, request: Request, told: &mut Vec<Event>) -> i32 {
        let raw = self.raw.as_mut().expect("connected");
        raw.request(5, std::slice::from_ref(&request)).await;
        loop {
            let mut reply = raw.reply().await;
            if reply.xid == -1 {
                let kind = reply.body.get_i32();
                reply.body.advance(8);
                told.push((kind, String::from_utf8(reply.body.to_vec()).expect("text")));
                continue;
            }
            self.seen = self.seen.max(reply.zxid);
            return reply.error;
        }
    }

    /// Asks once more, and compares all that was told.
    async fn settle(&mut self, mut told: Vec<Event>, context: &str) -> usize {
        if self.raw.is_some() {
            self.ask(Request::Ping, &mut told).await;
            assert_eq!(told, std::mem::take(&mut self.expected), "{context}");
        }
        told.len()
    }

    /// What `setWatches2` tells at once of what was missed.
    fn resend(&mut self, znodes: &BTreeMap<String, Znode>) -> WatchSets {
        let of = |watches: &BTreeSet<(Kind, String)>, wanted: Kind| -> Vec<String> {
            let paths = watches.iter().filter(|(kind, _)| *kind == wanted);
            paths.map(|(_, path)| path.clone()).collect()
        };
        let sets = WatchSets {
            relative_zxid: self.seen,
            data: of(&self.watches, Kind::Data),
            exist: of(&self.watches, Kind::Exist),
            child: of(&self.watches, Kind::Child),
            persistent: Some((
                of(&self.watches, Kind::Persistent),
                of(&self.watches, Kind::Recursive),
            )),
        };
        for kind in ONCE {
            for path in of(&self.watches, kind) {
                let event = match (kind, znodes.get(&path)) {
                    (Kind::Exist, Some(_)) => CREATED,
                    (Kind::Data | Kind::Child, None) => DELETED,
                    (Kind::Data, Some(znode)) if znode.modified > self.seen => CHANGED,
                    (Kind::Child, Some(znode)) if znode.children > self.seen => CHILDREN,
                    _ => continue,
                };
                self.watches.remove(&(kind, path.clone()));
                self.expected.push((event, path));
            }
        }
        sets
    }
}

impl World {
    async fn new(address: std::net::SocketAddr) -> World {
        let (writer, _) = Raw::connect(address, &fresh(40_000)).await;
        let (owner, _) = Raw::connect(address, &fresh(40_000)).await;
        let mut watchers = Vec::new();
        for _ in 0..3 {
            watchers.push(Watcher::connect(address).await);
        }
        let root = Znode { modified: 0, children: 0, is_ephemeral: false };
        let znodes = BTreeMap::from([("/".to_owned(), root)]);
        World { address, znodes, writer, owner, watchers }
    }

    fn foretell(&mut self, event: i32, path: &str) {
        self.watchers.iter_mut().for_each(|watcher| watcher.foretell(event, path));
    }

    fn created(&mut self, path: &str, zxid: i64, is_ephemeral: bool) {
        let znode = Znode { modified: zxid, children: zxid, is_ephemeral };
        self.znodes.insert(path.to_owned(), znode);
        self.children_changed(CREATED, path, zxid);
    }

    fn deleted(&mut self, path: &str, zxid: i64) {
        self.znodes.remove(path);
        self.children_changed(DELETED, path, zxid);
    }

    fn children_changed(&mut self, event: i32, path: &str, zxid: i64) {
        let parent = parent(path);
        self.znodes.get_mut(&parent).expect("a parent").children = zxid;
        self.foretell(event, path);
        self.foretell(CHILDREN, &parent);
    }

    async fn change(&mut self, random: &mut Random) {
        let path = random.path();
        match random.below(8) {
            0..=2 => {
                let reply = self.writer.ask(create(path, 0)).await;
                if reply.error == 0 {
                    self.created(path, reply.zxid, false);
                }
            }
            3 => {
                let reply = self.owner.ask(create(path, 1)).await;
                if reply.error == 0 {
                    self.created(path, reply.zxid, true);
                }
            }
            4 | 5 => {
                let reply = self.writer.ask(set(path, "x")).await;
                if reply.error == 0 {
                    self.znodes.get_mut(path).expect("there").modified = reply.zxid;
                    self.foretell(CHANGED, path);
                }
            }
            6 => {
                let path = path.to_owned();
                let delete = DeleteRequest { path: path.clone(), version: -1, is_tolerant: false };
                let reply = self.writer.ask(Request::Delete(delete)).await;
                if reply.error == 0 {
                    self.deleted(&path, reply.zxid);
                }
            }
            _ => {
                // The owner's session ends, and all its ephemerals with it.
                let reply = self.owner.ask(Request::CloseSession).await;
                assert_eq!(reply.error, 0);
                let ephemerals: Vec<String> = self
                    .znodes
                    .iter()
                    .filter(|(_, znode)| znode.is_ephemeral)
                    .map(|(path, _)| path.clone())
                    .collect();
                for path in ephemerals {
                    self.deleted(&path, reply.zxid);
                }
                self.owner = Raw::connect(self.address, &fresh(40_000)).await.0;
            }
        }
    }

    /// One watcher does something about its watches; what it was told meanwhile.
    async fn watch(&mut self, random: &mut Random) -> (usize, Vec<Event>) {
        let number = random.below(self.watchers.len());
        let (address, znodes) = (self.address, &self.znodes);
        let watcher = &mut self.watchers[number];
        let (path, mut told) = (random.path().to_owned(), Vec::new());
        if watcher.raw.is_none() {
            let request = ConnectRequest {
                session_id: watcher.session_id,
                password: watcher.password.clone(),
                last_zxid_seen: watcher.seen,
                ..fresh(40_000)
            };
            let (raw, greeted) = Raw::connect(address, &request).await;
            assert_eq!(greeted.session_id, watcher.session_id, "the session lives");
            watcher.raw = Some(raw);
            let sets = watcher.resend(znodes);
            assert_eq!(watcher.ask(Request::SetWatches(sets), &mut told).await, 0);
            return (number, told);
        }
        let is_there = znodes.contains_key(&path);
        match random.below(9) {
            0 | 1 => {
                let request = Request::read(ReadKind::Exists, &path, true);
                watcher.ask(request, &mut told).await;
                watcher.watch_data(&path, is_there);
            }
            2 => {
                if watcher.ask(get(&path, true), &mut told).await == 0 {
                    watcher.watch_data(&path, true);
                }
            }
            3 | 4 => {
                let request = Request::read(ReadKind::Children, &path, true);
                if watcher.ask(request, &mut told).await == 0 {
                    watcher.watches.insert((Kind::Child, path));
                }
            }
            5 => {
                let is_recursive = random.below(2) == 0;
                let kind = if is_recursive { Kind::Recursive } else { Kind::Persistent };
                let request = Request::AddWatch { path: path.clone(), is_recursive };
                assert_eq!(watcher.ask(request, &mut told).await, 0);
                watcher.watches.insert((kind, path));
            }
            6 => {
                let request =
                    Request::RemoveWatches { path: path.clone(), watcher_type: WatcherType::Any };
                let before = watcher.watches.len();
                watcher.watches.retain(|(_, watched)| *watched != path);
                let expected = if watcher.watches.len() < before { 0 } else { -121 };
                assert_eq!(watcher.ask(request, &mut told).await, expected);
            }
            _ => {
                // The connection breaks; the server has noticed once it closes its side.
                let mut raw = watcher.raw.take().expect("connected");
                raw.stop().await;
                assert!(raw.frame().await.is_none(), "nothing was left to be told");
            }
        }
        (number, told)
    }
}

impl Watcher {
    fn watch_data(&mut self, path: &str, is_there: bool) {
        let (kind, other) =
            if is_there { (Kind::Data, Kind::Exist) } else { (Kind::Exist, Kind::Data) };
        // On the server it is one watch; a client sends it again as what it last knew.
        self.watches.remove(&(other, path.to_owned()));
        self.watches.insert((kind, path.to_owned()));
    }
}

#[tokio::test]
async fn every_event_is_told_once_and_in_order() {
    let mut told_count = 0;
    for seed in 0..SEEDS {
        let served = serve();
        let mut random = Random((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut world = World::new(served.address).await;
        for step in 0..STEPS {
            let watched = match random.below(3) {
                0 => Some(world.watch(&mut random).await),
                _ => {
                    world.change(&mut random).await;
                    None
                }
            };
            for number in 0..world.watchers.len() {
                let told = match &watched {
                    Some((watcher, told)) if *watcher == number => told.clone(),
                    _ => Vec::new(),
                };
                let context = format!("seed {seed}, step {step}, watcher {number}");
                told_count += world.watchers[number].settle(told, &context).await;
            }
        }
    }
    assert!(told_count > 1_000, "the histories tell too little: {told_count}");
}
