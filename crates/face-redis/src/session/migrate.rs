//! MIGRATE: keys that go to another server, Redis or Proteus.
//!
//! ```text
//!   read here ──▶ RESTORE there ──▶ DEL here, if it is still what was read ──▶ the next
//!       ▲                                       │ it has changed
//!       └───────────────────────────────────────┘ and goes again, or is deleted there too
//! ```
//! Redis does nothing else meanwhile; here others may change the key. It is deleted only as it was sent, so no
//! change is lost.
//!
//! Source: Redis 7.0, `migrateCommand`.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proteus_env::net::TcpStream;
use proteus_env::{net, task};
use proteus_kernel_api::cache::{
    Answer, Call, Check, Op, Parcel, Parceled, Question, Reply, parse_integer,
};
use proteus_kernel_api::{Minitransaction, Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Session;
use crate::errors::{NOT_AN_INTEGER, SYNTAX, of_kernel};
use crate::replication::put_command;

/// Keys that are on their way at once.
const BATCH_KEYS_MAX: usize = 256;

/// How often a key is sent that changes meanwhile.
const TRIES_MAX: usize = 16;

/// A longer line is no reply.
const LINE_BYTES_MAX: usize = 1024;

/// What holds when the client says 0 or less.
const TIMEOUT_MS: u64 = 1000;

const READING: Reply = Reply::error("IOERR error or timeout reading to target instance");
const WRITING: Reply = Reply::error("IOERR error or timeout writing to target instance");

/// What is asked for.
struct Plan {
    host: String,
    port: String,
    db: i64,
    timeout: Duration,
    copies: bool,
    replaces: bool,
    /// User, if one is named, and password.
    account: Option<(Option<Bytes>, Bytes)>,
    keys: Vec<Bytes>,
}

/// A key on its way.
type Sent = (Bytes, Parcel);

impl Plan {
    fn read(arguments: &[Bytes]) -> Result<Plan, Reply> {
        let [_, host, port, key, db, timeout, options @ ..] = arguments else { return Err(SYNTAX) };
        let (mut copies, mut replaces, mut account, mut keys) = (false, false, None, None);
        let mut options = options.iter();
        while let Some(option) = options.next() {
            match option.to_ascii_uppercase().as_slice() {
                b"COPY" => copies = true,
                b"REPLACE" => replaces = true,
                b"AUTH" => account = Some((None, options.next().ok_or(SYNTAX)?.clone())),
                b"AUTH2" => {
                    let (Some(user), Some(password)) = (options.next(), options.next()) else {
                        return Err(SYNTAX);
                    };
                    account = Some((Some(user.clone()), password.clone()));
                }
                b"KEYS" if key.is_empty() => keys = Some(options.by_ref().cloned().collect()),
                b"KEYS" => {
                    return Err(Reply::error(
                        "ERR When using MIGRATE KEYS option, the key argument must be set to the empty string",
                    ));
                }
                _ => return Err(SYNTAX),
            }
        }
        let number = |text: &Bytes| parse_integer(text).ok_or(NOT_AN_INTEGER);
        let timeout_ms = u64::try_from(number(timeout)?).ok().filter(|ms| *ms > 0);
        Ok(Plan {
            host: String::from_utf8_lossy(host).into_owned(),
            port: String::from_utf8_lossy(port).into_owned(),
            db: number(db)?,
            timeout: Duration::from_millis(timeout_ms.unwrap_or(TIMEOUT_MS)),
            copies,
            replaces,
            account,
            keys: keys.unwrap_or_else(|| vec![key.clone()]),
        })
    }
}

/// The server that gets the keys.
struct Target {
    stream: TcpStream,
    input: BytesMut,
    timeout: Duration,
    restore: &'static [u8],
}

impl Target {
    async fn connect(plan: &Plan, restore: &'static [u8]) -> Result<Target, Reply> {
        let address = match plan.host.contains(':') {
            true => format!("[{}]:{}", plan.host, plan.port),
            false => format!("{}:{}", plan.host, plan.port),
        };
        let connecting = task::timeout(plan.timeout, net::connect_to_host(&address)).await;
        let stream = match connecting {
            Some(Ok(stream)) => stream,
            // Redis learns of it when it writes.
            Some(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
                return Err(WRITING);
            }
            _ => return Err(Reply::error("IOERR error or timeout connecting to the client")),
        };
        Ok(Target { stream, input: BytesMut::new(), timeout: plan.timeout, restore })
    }

    async fn send(&mut self, commands: &[u8]) -> Result<(), Reply> {
        let sending = task::timeout(self.timeout, self.stream.write_all(commands)).await;
        sending.and_then(Result::ok).ok_or(WRITING)
    }

    /// A reply, which is a line; one that is an error as what the client is told of it.
    async fn reply(&mut self) -> Result<Result<(), Reply>, Reply> {
        let end = loop {
            if let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                break end;
            }
            if self.input.len() > LINE_BYTES_MAX {
                return Err(READING);
            }
            match task::timeout(self.timeout, self.stream.read_buf(&mut self.input)).await {
                Some(Ok(count)) if count > 0 => {}
                _ => return Err(READING),
            }
        };
        let line = self.input.split_to(end + 1);
        let line = String::from_utf8_lossy(&line);
        Ok(match line.trim_end().strip_prefix('-') {
            None => Ok(()),
            Some(error) => {
                let text = format!("ERR Target instance replied with error: {error}");
                Err(Reply::Error(text.replace(['\r', '\n'], " ").into()))
            }
        })
    }

    /// Says who is there and which database is meant.
    async fn greet(&mut self, plan: &Plan) -> Result<(), Reply> {
        let mut commands = Vec::new();
        match &plan.account {
            Some((Some(user), password)) => put_command(&mut commands, &[b"AUTH", user, password]),
            Some((None, password)) => put_command(&mut commands, &[b"AUTH", password]),
            None => {}
        }
        put_command(&mut commands, &[b"SELECT", plan.db.to_string().as_bytes()]);
        self.send(&commands).await?;
        if plan.account.is_some() {
            self.reply().await??;
        }
        self.reply().await?
    }

    /// Hands parcels over; says of each whether it was taken.
    async fn take(
        &mut self,
        parcels: &[Sent],
        replaces: bool,
        now_ms: u64,
    ) -> Result<Vec<Result<(), Reply>>, Reply> {
        let mut commands = Vec::new();
        for (key, Parcel { payload, expire_at_ms, .. }) in parcels {
            let ttl_ms = expire_at_ms.map_or(0, |at_ms| at_ms.saturating_sub(now_ms).max(1));
            let ttl_ms = ttl_ms.to_string();
            let words = [self.restore, key, ttl_ms.as_bytes(), payload, b"REPLACE"];
            put_command(&mut commands, words.get(..4 + usize::from(replaces)).unwrap_or(&words));
        }
        self.send(&commands).await?;
        let mut replies = Vec::with_capacity(parcels.len());
        for _ in parcels {
            replies.push(self.reply().await?);
        }
        Ok(replies)
    }

    async fn delete(&mut self, key: &Bytes) -> Result<(), Reply> {
        let mut command = Vec::new();
        put_command(&mut command, &[b"DEL", key]);
        self.send(&command).await?;
        self.reply().await?
    }
}

impl Session {
    pub(super) async fn migrate(&mut self, arguments: &[Bytes]) -> Reply {
        let plan = match Plan::read(arguments) {
            Ok(plan) => plan,
            Err(refused) => return refused,
        };
        match self.carry_over(plan).await {
            Ok(reply) | Err(reply) => reply,
        }
    }

    async fn carry_over(&mut self, mut plan: Plan) -> Result<Reply, Reply> {
        let restore: &[u8] = if self.redirects() { b"RESTORE-ASKING" } else { b"RESTORE" };
        let mut keys = std::mem::take(&mut plan.keys);
        let (mut target, mut refused) = (None, None);
        while !keys.is_empty() {
            let count = keys.len().min(BATCH_KEYS_MAX);
            let (parcels, left) = self.parcels(&keys[..count]).await?;
            keys.splice(..count, left);
            if parcels.is_empty() {
                continue;
            }
            // Nobody is troubled for keys that are not there.
            let target = match &mut target {
                Some(target) => target,
                None => {
                    let mut new = Target::connect(&plan, restore).await?;
                    new.greet(&plan).await?;
                    target.insert(new)
                }
            };
            let now_ms = self.face.clock.wall_ms();
            let taken = target.take(&parcels, plan.replaces, now_ms).await?;
            let mut gone = Vec::with_capacity(parcels.len());
            for (parcel, taken) in parcels.into_iter().zip(taken) {
                match taken {
                    Ok(()) => gone.push(parcel),
                    // The first is told; the others go all the same.
                    Err(error) => _ = refused.get_or_insert(error),
                }
            }
            if !plan.copies {
                self.let_go(target, gone).await?;
            }
        }
        match target {
            Some(_) => Ok(refused.unwrap_or(Reply::OK)),
            None => Ok(Reply::status("NOKEY")),
        }
    }

    /// Reads those of these keys that are there, wherever they are; says which are left for another time. The first
    /// is none of them.
    async fn parcels(&self, keys: &[Bytes]) -> Result<(Vec<Sent>, Vec<Bytes>), Reply> {
        let question = Question::Parcels { db: self.db, keys: keys.to_vec() };
        let all = |answer: Answer| answer.into_parcels(keys.len());
        let found = self.face.kernel.read_or_ask(question, all).await;
        let (mut parcels, mut left) = (Vec::new(), Vec::new());
        for (key, found) in keys.iter().zip(found.map_err(|error| of_kernel(&error))?) {
            match found {
                // One that has gone meanwhile need not go.
                Parceled::Absent => {}
                Parceled::There(parcel) => parcels.push((key.clone(), parcel)),
                Parceled::Left => left.push(key.clone()),
            }
        }
        Ok((parcels, left))
    }

    /// Deletes here what is there, if it is what was sent; sends again what is not.
    async fn let_go(&mut self, target: &mut Target, mut parcels: Vec<Sent>) -> Result<(), Reply> {
        let (db, origin) = (self.db, self.call_origin());
        for _ in 0..TRIES_MAX {
            if parcels.is_empty() {
                return Ok(());
            }
            let delete = |(key, Parcel { revision, .. }): &Sent| {
                let arguments = vec![Bytes::from_static(b"DEL"), key.clone()];
                let check = Check::Unchanged { db, key: key.clone(), revision: *revision };
                let op = Op::Command(Call { db, seed: 0, origin, arguments });
                Minitransaction::default().check(check).op(op)
            };
            let deletions = parcels.iter().map(delete).collect();
            let outcomes = self.face.kernel.propose_at(self.durability(), deletions).await;
            let outcomes = outcomes.map_err(|error| of_kernel(&error))?;
            let mut changed = Vec::new();
            for (parcel, outcome) in parcels.into_iter().zip(outcomes) {
                match outcome {
                    Outcome::Committed { .. } => {}
                    Outcome::CheckFailed { .. } => changed.push(parcel.0),
                    Outcome::Refused { refusal, .. } => {
                        return Err(Reply::Error(format!("ERR {refusal}").into()));
                    }
                }
            }
            parcels = Vec::new();
            for key in changed {
                let (mut again, _) = self.parcels(std::slice::from_ref(&key)).await?;
                if again.is_empty() {
                    target.delete(&key).await?;
                    continue;
                }
                for taken in target.take(&again, true, self.face.clock.wall_ms()).await? {
                    taken?;
                }
                parcels.append(&mut again);
            }
        }
        match parcels.is_empty() {
            true => Ok(()),
            false => Err(Reply::error(
                "ERR the key changes too often to be moved: it is there as well as here",
            )),
        }
    }
}
