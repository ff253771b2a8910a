//! Following a Redis primary: a full copy, then every change, as its replicas get them.
//!
//! `REPLICAOF` makes the primary a setting of the cluster. The node that leads follows it, and commits what
//! arrives together with the place in the primary's stream, on the condition that the place is still the one it
//! went on from: so whoever leads next goes on exactly there, and what two nodes get at once is applied once.
//! What it takes to read a primary's stream and copy is also of use to programs that follow one from outside.
//!
//! ```text
//!   REPLICAOF ─▶ setting ─▶ the leader: PSYNC ─▶ copy ─▶ batches, each with its place ─▶ log
//!   REPLICAOF NO ONE ─▶ no setting, no place: writes are taken again
//! ```

mod load;
mod primary;

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proteus_env::{Clock, random, task};
use proteus_kernel_api::cache::commands::Flags;
use proteus_kernel_api::cache::{self, Answer, Call, Check, Op, Question, Reply, Revision, Rows};
use proteus_kernel_api::{Kernel, KernelError, Minitransaction, Outcome, View};
use tracing::{info, warn};

pub use load::{Loader, Sink, Source, load, load_copy};
pub use primary::{Batch, CopyEnd, Cursor, Primary, Sync};

use crate::hub::Hub;
use crate::settings::Settings;
use crate::table::{self, Found};
use primary::SILENCE_MAX;

/// Where the place in the primary's stream is kept: a hash of database 0.
pub const CURSOR_KEY: &str = "proteus:follow";

/// Pause before a primary that was lost is sought again, and the longest between two looks at whether one is to
/// be followed.
const RETRY: Duration = Duration::from_secs(1);

/// How long a primary may take to greet.
const GREETING_PATIENCE: Duration = Duration::from_secs(10);

/// How often the primary is told how far we are.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// How the connection to the primary stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Link {
    /// It is to be sought.
    #[default]
    Connect,
    Connecting,
    /// A copy is on its way.
    Sync,
    Connected,
}

impl Link {
    /// As `ROLE` says it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Link::Connect => "connect",
            Link::Connecting => "connecting",
            Link::Sync => "sync",
            Link::Connected => "connected",
        }
    }
}

/// How far a node is that follows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    pub(crate) link: Link,
    /// Name of the primary's stream, and bytes of it that are taken over.
    pub(crate) replication_id: String,
    pub(crate) offset: u64,
    /// Bytes of a copy that have come, and of those that will if that is known.
    pub(crate) copied_bytes: u64,
    pub(crate) copy_bytes: Option<u64>,
    /// When the primary was heard last, and since when the link has been down, by the node's clock.
    pub(crate) heard_at: Duration,
    pub(crate) down_since: Duration,
}

/// What a node that follows shows of it.
#[derive(Default)]
pub(crate) struct Following {
    progress: Mutex<Progress>,
}

impl Following {
    pub(crate) fn progress(&self) -> Progress {
        self.progress.lock().clone()
    }
}

/// A primary as REPLICAOF names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PrimaryName {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl PrimaryName {
    /// As the setting holds it, and `CONFIG GET replicaof` shows it.
    pub(crate) fn read(text: &str) -> Option<PrimaryName> {
        let (host, port) = text.rsplit_once(' ')?;
        Some(PrimaryName { host: host.to_owned(), port: port.parse().ok()? })
    }

    fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// Follows whatever primary the settings name, while this node leads, for as long as somebody shows it.
pub(crate) async fn keep_following(
    following: Weak<Following>,
    kernel: Arc<dyn Kernel>,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
) {
    while let Some(following) = following.upgrade() {
        // A kernel that cannot be read now is asked again.
        let _ = hub.settings.refresh(&*kernel);
        let changed = hub.settings.primary_changed.notified();
        let Some(primary) = hub.settings.primary().filter(|_| kernel.leads()) else {
            *following.progress.lock() =
                Progress { down_since: clock.elapsed(), ..Progress::default() };
            drop(following);
            task::timeout(RETRY, changed).await;
            continue;
        };
        let (kernel, settings, clock) = (&*kernel, &hub.settings, &*clock);
        let follower = Follower { following: &following, kernel, settings, clock, primary };
        let ended = tokio::select! {
            ended = follower.follow() => ended,
            () = follower.is_dismissed() => continue,
        };
        if let Err(reason) = ended {
            warn!(primary = follower.primary.address(), reason, "the primary is not followed now");
        }
        follower.update(|progress| {
            progress.link = Link::Connect;
            progress.down_since = clock.elapsed();
        });
        drop(follower);
        drop(following);
        task::sleep(RETRY).await;
    }
}

/// That nobody else has gone on from where this one is.
struct Fence(Revision);

impl Fence {
    fn check(&self) -> Check {
        Check::Unchanged { db: 0, key: Bytes::from_static(CURSOR_KEY.as_bytes()), revision: self.0 }
    }
}

struct Follower<'a> {
    following: &'a Arc<Following>,
    kernel: &'a dyn Kernel,
    settings: &'a Settings,
    clock: &'a dyn Clock,
    primary: PrimaryName,
}

impl Follower<'_> {
    fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.following.progress.lock());
    }

    /// Resolves once this primary is not to be followed here any more.
    async fn is_dismissed(&self) {
        loop {
            let changed = self.settings.primary_changed.notified();
            let is_wanted = self.settings.primary().as_ref() == Some(&self.primary);
            let is_shown = Arc::strong_count(self.following) > 1;
            if !is_wanted || !is_shown || !self.kernel.leads() {
                return;
            }
            task::timeout(RETRY, changed).await;
        }
    }

    async fn follow(&self) -> Result<(), String> {
        self.update(|progress| progress.link = Link::Connecting);
        let (user, password) = (self.settings.get("masteruser"), self.settings.get("masterauth"));
        let account = (!password.is_empty()).then_some((user.as_str(), password.as_str()));
        let address = self.primary.address();
        let opening = Primary::open(&address, account, 0);
        let opened = task::timeout(GREETING_PATIENCE, opening).await;
        let mut primary = opened.ok_or_else(|| format!("{address} does not answer"))??;
        let known = self.known().await?;
        let asked = primary.sync(known.as_ref().map(|(cursor, _)| cursor)).await?;
        let (mut cursor, mut fence) = match (asked, known) {
            (Sync::Full(cursor, end), _) => {
                let fence = self.copy(&mut primary, &cursor, &end).await?;
                // The stream comes once the primary knows that the copy was taken.
                primary.acknowledge(cursor.offset).await?;
                (cursor, fence)
            }
            (Sync::Partial(id), Some((mut cursor, fence))) => {
                info!(address, offset = cursor.offset, "going on in the primary's stream");
                cursor.replication_id = id.unwrap_or(cursor.replication_id);
                (cursor, fence)
            }
            (Sync::Partial(_), None) => return Err("the primary goes on from nowhere".to_owned()),
        };
        self.update(|progress| {
            progress.link = Link::Connected;
            progress.replication_id.clone_from(&cursor.replication_id);
            (progress.offset, progress.heard_at) = (cursor.offset, self.clock.elapsed());
        });
        let mut batch = Batch::default();
        let mut heard_at = self.clock.elapsed();
        loop {
            batch.take(&mut primary.input, &mut cursor)?;
            if !batch.is_in_transaction && !batch.commands.is_empty() {
                let commands = std::mem::take(&mut batch.commands);
                fence = self.apply(commands, &cursor, &fence).await?;
            }
            if !batch.is_in_transaction {
                self.update(|progress| progress.offset = cursor.offset);
            }
            if std::mem::take(&mut batch.is_asked) {
                primary.acknowledge(cursor.offset).await?;
            }
            match task::timeout(REPORT_INTERVAL, primary.fill()).await {
                Some(filled) => {
                    filled?;
                    heard_at = self.clock.elapsed();
                    self.update(|progress| progress.heard_at = heard_at);
                }
                None => {
                    // What is behind it in a transaction is not taken over yet.
                    let offset = self.following.progress.lock().offset;
                    primary.acknowledge(offset).await?;
                }
            }
            if self.clock.elapsed().saturating_sub(heard_at) > SILENCE_MAX {
                return Err("the primary says nothing".to_owned());
            }
        }
    }

    /// The place to go on from, if there is one.
    async fn known(&self) -> Result<Option<(Cursor, Fence)>, String> {
        let (fields, fence) = self.place().await?;
        let number = |at: usize| fields.get(at)?.as_deref()?.parse().ok();
        let id = fields.first().cloned().flatten();
        Ok(match (id, number(1), number(2)) {
            (Some(replication_id), Some(offset), Some(db)) => {
                Some((Cursor { replication_id, offset, db }, fence))
            }
            _ => None,
        })
    }

    /// Name, offset, database and owner as they stand, and the fence for what is done next. Wherever the key is: this
    /// node need neither lead its shard nor have it.
    async fn place(&self) -> Result<(Vec<Option<String>>, Fence), String> {
        let key = Bytes::from_static(CURSOR_KEY.as_bytes());
        let question = Question::Rows { db: 0, keys: vec![key.clone()] };
        let answer = self.kernel.ask(question).await.map_err(|error| error.to_string())?;
        let Answer::Rows(rows) = answer else {
            return Err(KernelError::unknown_answer().to_string());
        };
        let state = Rows::state([rows]);
        let read = self.kernel.read_first(|view| {
            let view = View { state: &state, ..view };
            let call = Call::new(&[&b"HMGET"[..], &key, b"id", b"offset", b"db", b"owner"]);
            let revision = cache::revision(view.state, view.now_ms, 0, &key)?;
            Ok((cache::answer(view, &call)?, revision))
        });
        let (reply, revision) = read.map_err(|error| error.to_string())?;
        let Reply::Array(fields) = reply else {
            return Err(format!("{CURSOR_KEY} holds something else; delete it"));
        };
        let text = |field| match field {
            Reply::Bulk(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            _ => None,
        };
        Ok((fields.into_iter().map(text).collect(), Fence(revision)))
    }

    /// Makes this node the one that goes on; says so with the fence.
    async fn commit(
        &self,
        mini: Minitransaction,
        expected: (usize, &str),
    ) -> Result<Fence, String> {
        if let Some(error) = commit(self.kernel, mini).await? {
            warn!(error, "a change of the primary's cannot be made here");
        }
        let (fields, fence) = self.place().await?;
        match fields.get(expected.0).and_then(Option::as_deref) == Some(expected.1) {
            true => Ok(fence),
            false => Err("another node follows as well".to_owned()),
        }
    }

    async fn copy(
        &self,
        primary: &mut Primary,
        cursor: &Cursor,
        end: &CopyEnd,
    ) -> Result<Fence, String> {
        info!(primary = self.primary.address(), "copying the primary");
        self.update(|progress| {
            let heard_at = self.clock.elapsed();
            *progress = Progress { link: Link::Sync, heard_at, ..progress.clone() };
            progress.copied_bytes = 0;
            progress.copy_bytes = match end {
                CopyEnd::Bytes(bytes) => Some(*bytes),
                CopyEnd::Mark(_) => None,
            };
        });
        let owner = format!("{:032x}", u128::from_be_bytes(random::random_bytes()));
        let begin = Minitransaction::default()
            .op(command(0, &[b"FLUSHALL"]))
            .op(command(0, &[b"HSET", CURSOR_KEY.as_bytes(), b"owner", owner.as_bytes()]));
        let fence = self.commit(begin, (3, &owner)).await?;
        let mut sink = FencedSink { kernel: self.kernel, fence: &fence };
        let mut loader = Loader::new(&mut sink, true);
        let mut progress = |_, bytes| {
            let heard_at = self.clock.elapsed();
            self.update(|progress| {
                (progress.copied_bytes, progress.heard_at) = (bytes, heard_at);
            });
        };
        load_copy(&mut loader, primary, end, &mut progress).await?;
        info!(keys = loader.key_count, "the primary is copied");
        self.apply(Vec::new(), cursor, &fence).await
    }

    /// Applies commands of the stream, and where that leaves us, together.
    async fn apply(
        &self,
        commands: Vec<(u64, Vec<Bytes>)>,
        cursor: &Cursor,
        fence: &Fence,
    ) -> Result<Fence, String> {
        let mut mini = Minitransaction::default().check(fence.check());
        for (db, arguments) in commands {
            if let Some(op) = op_of(db, arguments)? {
                mini = mini.op(op);
            }
        }
        let (offset, db) = (cursor.offset.to_string(), cursor.db.to_string());
        let (key, id) = (CURSOR_KEY.as_bytes(), cursor.replication_id.as_bytes());
        let put =
            [&b"HSET"[..], key, b"id", id, b"offset", offset.as_bytes(), b"db", db.as_bytes()];
        self.commit(mini.op(command(0, &put)), (1, &offset)).await
    }
}

/// Commits under a fence; what the first command that failed says.
async fn commit(kernel: &dyn Kernel, mini: Minitransaction) -> Result<Option<String>, String> {
    match kernel.commit(mini).await.map_err(|error| error.to_string())? {
        Outcome::Committed { replies, .. } => {
            Ok(replies.into_iter().find_map(|reply| match reply {
                proteus_kernel_api::Reply::Cache(Reply::Error(text)) => Some(text.to_string()),
                _ => None,
            }))
        }
        Outcome::CheckFailed { .. } => Err("another node follows as well".to_owned()),
        Outcome::Refused { refusal, .. } => Err(refusal.to_string()),
    }
}

fn command(db: u8, words: &[&[u8]]) -> Op {
    Op::Command(Call { db, ..Call::new(words) })
}

/// What a primary's command is here; `None` for one that is not for us.
fn op_of(db: u64, arguments: Vec<Bytes>) -> Result<Option<Op>, String> {
    let name = arguments.first().cloned().unwrap_or_default();
    let db = u8::try_from(db).ok().filter(|db| *db < cache::DATABASE_COUNT);
    let db = db.ok_or("the primary has more databases")?;
    // A place of the primary's own, in somebody else's stream.
    if db == 0 && arguments.get(1).is_some_and(|key| key == CURSOR_KEY) {
        return Ok(None);
    }
    let Some(Found::Data(known)) = table::find(&name) else {
        return Err(format!("the primary sent {}, which is not known here", name.escape_ascii()));
    };
    let seed = if known.flags.has(Flags::RANDOM) { random::random_u64() } else { 0 };
    Ok(Some(Op::Command(Call { db, seed, origin: 0, arguments })))
}

/// The keys of a copy, as long as nobody else makes one.
struct FencedSink<'a> {
    kernel: &'a dyn Kernel,
    fence: &'a Fence,
}

impl Sink for FencedSink<'_> {
    async fn carry_out(&mut self, db: u64, commands: Vec<Vec<Bytes>>) -> Result<(), String> {
        let mut mini = Minitransaction::default().check(self.fence.check());
        for arguments in commands {
            if let Some(op) = op_of(db, arguments)? {
                mini = mini.op(op);
            }
        }
        commit(self.kernel, mini).await?.map_or(Ok(()), Err)
    }

    async fn has(&mut self, _db: u64, _key: &Bytes) -> Result<bool, String> {
        // The copy begins with nothing.
        Ok(false)
    }
}
