//! What is declared to follow from changes, over the shards: entries from rows of the first shard, and events of
//! all keys in one stream. Clients on any node write rows and keys, keep what they read of a row in an entry, and
//! look at all of it at one moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proteus_env::task;
use proteus_kernel_api::Kernel;
use proteus_machine::{KernelError, View};
use proteus_shard_machine::{Minitransaction, Outcome, Reply, SpreadState, cache, table};
use proteus_store::StoreError;
use proteus_types::{ShardId, SlotMap};

use super::{MOVE_PATIENCE, Reading, Running, apart, command, key};
use crate::cluster::PATIENCE;
use crate::commands::FIRST_TABLE;
use crate::random::Random;

const TABLE: table::TableId = table::TableId(FIRST_TABLE);

/// Rows; as many keys have events, and as many that expire.
const ROWS: u64 = 3;

const STREAM: &str = "events";

/// How often it is tried to declare what follows.
const DECLARING_TRIES: usize = 100;

/// How much of each happened.
#[derive(Debug, Default, Clone, Copy)]
pub struct Followed {
    /// Changes acknowledged from which something follows.
    pub changes: u64,
    /// Looks at all of it.
    pub looks: u64,
    /// Entries that were kept by who had read the row.
    pub kept: u64,
    /// And not, because the row had changed.
    pub late: u64,
}

impl Followed {
    pub(super) fn add(&mut self, other: Followed) {
        self.changes += other.changes;
        self.looks += other.looks;
        self.kept += other.kept;
        self.late += other.late;
    }
}

/// How often each key was counted up: as acknowledged, and as it may have been.
pub(super) type Counted = Arc<Mutex<BTreeMap<u64, (i64, i64)>>>;

fn put_row(id: u64, value: i64) -> table::Op {
    let row = vec![table::Value::Int(id.cast_signed()), table::Value::Int(value)];
    let (key, mode) = (table::RowKey::FromColumns, table::PutMode::Upsert);
    table::Op::PutRow { table: TABLE, key, row, mode }
}

fn creation() -> Minitransaction {
    let column = |name: &str| table::Column {
        name: name.to_owned(),
        column_type: table::ColumnType::BigInt,
        not_null: true,
        default: None,
    };
    let definition = table::Definition {
        schema: "public".to_owned(),
        name: "followed".to_owned(),
        columns: vec![column("id"), column("value")],
        primary_key: vec![0],
        source: table::Source::Rows,
    };
    let create = table::Op::CreateTable { id: None, definition, if_not_exists: true };
    (0..ROWS).fold(Minitransaction::of(create), |creation, id| creation.op(put_row(id, 0)))
}

fn entry(name: &str, refresh: cache::Refresh) -> cache::Op {
    let prefix = cache::KeyPart::Text(format!("{name}:").into_bytes());
    let declaration = cache::Declaration::Entry(cache::DerivedEntry {
        schema: "public".to_owned(),
        table: "followed".to_owned(),
        db: 0,
        key: vec![prefix, cache::KeyPart::Column("id".to_owned())],
        refresh,
        expire_ms: None,
    });
    cache::Op::Declare { name: name.to_owned(), declaration }
}

fn events(name: &str) -> cache::Op {
    let key = STREAM.as_bytes().to_vec();
    let declaration = cache::Declaration::Events(cache::RecordedEvents {
        pattern: format!("{name}:*").into_bytes(),
        db: None,
        classes: b"$x".to_vec(),
        target: cache::EventTarget::Stream { key, db: 0, length_max: None },
    });
    cache::Op::Declare { name: name.to_owned(), declaration }
}

/// Declares what follows, through a node.
pub(super) async fn declare(kernel: &dyn Kernel) -> Result<(), String> {
    let value = cache::Refresh::Column("value".to_owned());
    let all = [
        Minitransaction::of(entry("row", value)),
        Minitransaction::of(entry("page", cache::Refresh::Invalidate)),
        Minitransaction::of(events("tally")),
        Minitransaction::of(events("mortal")),
        creation(),
    ];
    for mini in all {
        let mut tries = 0;
        // Declared twice it answers so, and is declared.
        while !matches!(
            task::timeout(PATIENCE, kernel.commit(mini.clone())).await,
            Some(Ok(Outcome::Committed { .. }))
        ) {
            tries += 1;
            if tries > DECLARING_TRIES {
                return Err("what follows cannot be declared".to_owned());
            }
            task::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// All that follows and that it follows from, at one moment.
struct Seen {
    rows: Vec<Option<i64>>,
    entries: Vec<Option<i64>>,
    pages: Vec<Option<i64>>,
    tallies: Vec<Option<i64>>,
    /// Each an event's name and key.
    events: Vec<(String, String)>,
}

fn keys_of(kind: &str) -> Vec<String> {
    (0..ROWS).map(|id| key(kind, id)).collect()
}

fn mget(keys: &[String]) -> cache::Call {
    let words = ["MGET"].into_iter().chain(keys.iter().map(String::as_str));
    cache::Call::new(&words.collect::<Vec<_>>())
}

fn text(reply: &cache::Reply) -> Option<String> {
    match reply {
        cache::Reply::Bulk(text) => Some(String::from_utf8_lossy(text).into_owned()),
        _ => None,
    }
}

fn numbers(reply: &cache::Reply) -> Vec<Option<i64>> {
    let cache::Reply::Array(found) = reply else { return Vec::new() };
    found.iter().map(|reply| text(reply).map(|text| text.parse().unwrap_or(i64::MIN))).collect()
}

fn recorded(reply: &cache::Reply) -> Vec<(String, String)> {
    let cache::Reply::Array(entries) = reply else { return Vec::new() };
    let event = |entry: &cache::Reply| {
        let cache::Reply::Array(entry) = entry else { return None };
        let Some(cache::Reply::Array(fields)) = entry.get(1) else { return None };
        Some((text(fields.get(1)?)?, text(fields.get(3)?)?))
    };
    entries.iter().filter_map(event).collect()
}

fn range() -> cache::Call {
    cache::Call::new(&["XRANGE", STREAM, "-", "+"])
}

fn row(view: View<'_>, id: u64) -> Result<Option<i64>, StoreError> {
    let mut key = Vec::new();
    table::Value::Int(id.cast_signed()).encode_key(&mut key);
    let row = table::rows::get(view.state, TABLE, &key, view.applied_ts)?;
    Ok(row.and_then(|row| match row.get(1) {
        Some(table::Value::Int(value)) => Some(*value),
        _ => None,
    }))
}

impl Seen {
    fn of(view: View<'_>) -> Result<Seen, StoreError> {
        let several = |kind| Ok(numbers(&cache::answer(view, &mget(&keys_of(kind)))?));
        Ok(Seen {
            rows: (0..ROWS).map(|id| row(view, id)).collect::<Result<_, StoreError>>()?,
            entries: several("row")?,
            pages: several("page")?,
            tallies: several("tally")?,
            events: recorded(&cache::answer(view, &range())?),
        })
    }

    /// As of now, of shards that are anywhere.
    async fn asked(kernel: &dyn Kernel) -> Result<Seen, KernelError> {
        let ask = async |call| {
            let answer = kernel.ask(cache::Question::Command(call)).await?;
            answer.into_reply().ok_or_else(KernelError::unknown_answer)
        };
        let mut rows = Ok(Vec::new());
        kernel.read_first_dyn(&mut |view| rows = (0..ROWS).map(|id| row(view, id)).collect())?;
        Ok(Seen {
            rows: rows?,
            entries: numbers(&ask(mget(&keys_of("row"))).await?),
            pages: numbers(&ask(mget(&keys_of("page"))).await?),
            tallies: numbers(&ask(mget(&keys_of("tally"))).await?),
            events: recorded(&ask(range()).await?),
        })
    }

    fn hold(&self, counted: &BTreeMap<u64, (i64, i64)>) -> Result<(), String> {
        for (id, row) in (0..ROWS).zip(&self.rows) {
            let at = id as usize;
            if self.entries.get(at) != Some(row) {
                let entries = &self.entries;
                return Err(format!("of row {id}, {row:?}, an entry is among {entries:?}"));
            }
            if self.pages.get(at).is_none_or(|page| page.is_some() && page != row) {
                let pages = &self.pages;
                return Err(format!("of row {id}, {row:?}, a page is among {pages:?}"));
            }
            let tally = self.tallies.get(at).copied().flatten().unwrap_or_default();
            let own = (String::from("incrby"), key("tally", id));
            let events = self.events.iter().filter(|event| **event == own).count();
            if usize::try_from(tally) != Ok(events) {
                return Err(format!("{tally} was counted, and of that {events} events are kept"));
            }
            let (acknowledged, _) = counted.get(&id).copied().unwrap_or_default();
            if tally < acknowledged {
                return Err(format!("{tally} was counted, and {acknowledged} acknowledged"));
            }
            let mortal = key("mortal", id);
            let of_mortal = self.events.iter().filter(|(_, key)| *key == mortal);
            for (place, (event, _)) in of_mortal.enumerate() {
                if event != ["set", "expired"][place % 2] {
                    return Err(format!("the event {place} of {mortal} is {event}"));
                }
            }
        }
        Ok(())
    }

    /// Whether everything that was to expire has.
    fn has_expired(&self) -> bool {
        let count = |name: &str| self.events.iter().filter(|(event, _)| event == name).count();
        count("set") == count("expired")
    }
}

/// Somebody who changes what something follows from, and looks at that.
pub(super) struct Follower {
    pub(super) nodes: Vec<Running>,
    pub(super) random: Random,
    pub(super) counted: Counted,
    pub(super) reading: Reading,
    pub(super) map: SlotMap,
}

impl Follower {
    pub(super) async fn work(mut self) -> Result<Followed, String> {
        let mut followed = Followed::default();
        for _ in 0..1 + self.random.below(8) {
            let node = self.random.pick(&self.nodes);
            let id = self.random.below(ROWS);
            match self.random.below(10) {
                0..=2 => {
                    let value = self.random.below(1_000).cast_signed();
                    let mini = Minitransaction::of(put_row(id, value));
                    followed.changes += u64::from(happens(&node, mini).await?.is_some());
                }
                3..=4 => followed.changes += u64::from(self.count(&node, id).await?),
                5 => {
                    let expire_ms = (1 + self.random.below(300)).to_string();
                    let mortal = key("mortal", id);
                    let set = command(&["SET", &mortal, "x", "NX", "PX", &expire_ms]);
                    let done = happens(&node, Minitransaction::of(set)).await?;
                    followed.changes += u64::from(done.is_some());
                }
                6..=7 => match self.keep(&node, id).await? {
                    Some(true) => followed.kept += 1,
                    Some(false) => followed.late += 1,
                    None => {}
                },
                _ => followed.looks += u64::from(self.look(&node).await?),
            }
            if self.random.chance(30) {
                task::sleep(Duration::from_millis(self.random.below(300))).await;
            }
        }
        Ok(followed)
    }

    /// Counts a key up, now and then with another and a row in one commit.
    async fn count(&mut self, node: &Running, id: u64) -> Result<bool, String> {
        let mut mini = Minitransaction::of(command(&["INCR", &key("tally", id)]));
        let other = self.random.below(ROWS);
        let mut ids = vec![id];
        if other != id && self.random.chance(50) {
            mini = mini.op(command(&["INCR", &key("tally", other)])).op(put_row(other, 7));
            ids.push(other);
        }
        let add = |acknowledged, perhaps| {
            let mut counted = self.counted.lock();
            for id in &ids {
                let of = counted.entry(*id).or_default();
                *of = (of.0 + acknowledged, of.1 + perhaps);
            }
        };
        add(0, 1);
        let done = happens(node, mini).await?.is_some();
        add(i64::from(done), 0);
        Ok(done)
    }

    /// Keeps what it reads of a row in an entry, unless the row has changed meanwhile: as a web application does,
    /// with WATCH. Says whether it was kept.
    async fn keep(&mut self, node: &Running, id: u64) -> Result<Option<bool>, String> {
        let page = key("page", id);
        let bytes = bytes::Bytes::from(page.clone());
        if !node.kernel.has_all() || !barrier_passed(node).await? {
            return Ok(None);
        }
        let watch = |view: View<'_>| cache::revision(view.state, view.now_ms, 0, &bytes);
        let Ok(revision) = node.kernel.read(watch) else { return Ok(None) };
        task::sleep(Duration::from_millis(self.random.below(50))).await;
        if !barrier_passed(node).await? {
            return Ok(None);
        }
        let Ok(Some(value)) = node.kernel.read(|view| row(view, id)) else { return Ok(None) };
        task::sleep(Duration::from_millis(self.random.below(50))).await;
        let check = cache::Check::Unchanged { db: 0, key: bytes, revision };
        let set = command(&["SET", &page, &value.to_string()]);
        let mini = Minitransaction::of(set).check(check);
        match task::timeout(PATIENCE, node.kernel.commit(mini)).await {
            None => Err("what is kept is never answered".to_owned()),
            Some(Ok(Outcome::Committed { .. })) => Ok(Some(true)),
            Some(Ok(Outcome::CheckFailed { .. })) => Ok(Some(false)),
            Some(Ok(other)) => Err(format!("what was to be kept came to {other:?}")),
            Some(Err(_)) => Ok(None),
        }
    }

    async fn look(&self, node: &Running) -> Result<bool, String> {
        let counted = self.counted.lock().clone();
        if !node.kernel.has_all() || !barrier_passed(node).await? {
            return Ok(false);
        }
        let seen = match self.reading {
            Reading::FollowsApart => {
                let mut found = None;
                let mut read = |views: &[(ShardId, View<'_>)]| {
                    found = SpreadState::new(views, &self.map).view().map(Seen::of);
                };
                let read = apart(&node.shards(), &[], &mut read);
                let missing = || KernelError::Unavailable("no shards".to_owned());
                read.and_then(|()| found.ok_or_else(missing)?.map_err(KernelError::from))
            }
            _ => node.kernel.read(Seen::of),
        };
        let Ok(seen) = seen else { return Ok(false) };
        seen.hold(&counted).map_err(|claim| format!("{}: {claim}", node.node))?;
        Ok(true)
    }
}

async fn barrier_passed(node: &Running) -> Result<bool, String> {
    let barrier = task::timeout(PATIENCE, node.kernel.pass_read_barrier()).await;
    Ok(barrier.ok_or("a read barrier never ends")?.is_ok())
}

/// Commits, and says what came of it if that is known.
async fn happens(node: &Running, mini: Minitransaction) -> Result<Option<Vec<Reply>>, String> {
    match task::timeout(PATIENCE, node.kernel.commit(mini)).await {
        None => Err("a change is never answered".to_owned()),
        Some(Ok(Outcome::Committed { replies, .. })) => Ok(Some(replies)),
        Some(Ok(other)) => Err(format!("a change came to {other:?}")),
        Some(Err(_)) => Ok(None),
    }
}

/// With all well everything that is to follow has, on every node, and what was to expire has.
pub(super) async fn settle(nodes: &[Running], counted: &Counted) -> Result<(), String> {
    let counted = counted.lock().clone();
    for node in nodes {
        let settling = async {
            loop {
                let asked = task::timeout(MOVE_PATIENCE, Seen::asked(&*node.kernel)).await;
                if let Some(Ok(seen)) = asked
                    && seen.has_expired()
                {
                    return seen;
                }
                task::sleep(Duration::from_millis(100)).await;
            }
        };
        let settled = task::timeout(PATIENCE, settling).await;
        let seen = settled.ok_or_else(|| format!("{}: keys never expire", node.node))?;
        seen.hold(&counted)?;
        for (id, tally) in (0..ROWS).zip(&seen.tallies) {
            let (_, perhaps) = counted.get(&id).copied().unwrap_or_default();
            if tally.unwrap_or_default() > perhaps {
                return Err(format!("{tally:?} was counted, and {perhaps} at most was asked for"));
            }
        }
    }
    Ok(())
}
