//! One connection: what it has negotiated, queued and watched, and carrying out what it sends.

mod clients;
mod connection;
mod durability;
mod following;
mod messages;
mod migrate;
mod reading;
mod redirect;
mod replica;
mod rights;
mod server;
mod tracking;
mod transactions;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proteus_env::task;
use proteus_face::{Connection, ConnectionError};
use proteus_kernel_api::cache::acl::User;
use proteus_kernel_api::cache::commands::{Flags, Group, Keys, unknown_command};
use proteus_kernel_api::cache::{self, Call, Question, Reply, answer_known};
use proteus_kernel_api::{Durability, KernelError, Minitransaction, Outcome, View};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::RedisFace;
use crate::blocked::reply_of;
use crate::client::{Client, Push};
use crate::codec::{self, Limits};
use crate::errors::{NOAUTH, READONLY, of_kernel, wrong_arity};
use crate::follow::{PrimaryName, Progress};
use crate::hub::Subscription;
use crate::reply::{Resp, encode, encode_push};
use crate::slow::Calls;
use crate::table::{self, Found, OwnCommand};
use reading::ASKED_MAX;
use tracking::TrackingMode;
use transactions::{Element, Queue, Watched};

/// Bytes asked of the socket at once.
const READ_BYTES: usize = 16 * 1024;

/// Buffers larger than this are given back once they are empty.
const BUFFER_KEPT_BYTES_MAX: usize = 64 * 1024;

/// Commands carried out together; a deeper pipeline is answered in pieces.
const BATCH_COMMANDS_MAX: usize = 1024;

/// Room for the slots of a proposal is kept for the next if it is for no more than this.
const SLOTS_KEPT_MAX: usize = 128;

/// Replies are written before the next command once they have grown to this, in bytes.
const OUTPUT_BYTES_MAX: usize = 1024 * 1024;

pub(crate) async fn serve(
    face: Arc<RedisFace>,
    connection: Connection,
) -> Result<(), ConnectionError> {
    let now_ms = face.clock.wall_ms();
    let client = Client::new(connection.connection_id, connection.peer, connection.local, now_ms);
    let client = Arc::new(client);
    face.serve_waiting();
    face.hub.join(&client);
    let mut session = Session::new(face, connection, client);
    let result = session.run().await;
    session.face.hub.leave(&session.client, &session.subscribed);
    result
}

/// Whether replies are sent, as CLIENT REPLY says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReplyMode {
    On,
    Off,
    /// Not this reply, nor the next.
    SkipNext,
    /// Not this one.
    Skip,
}

struct Session {
    face: Arc<RedisFace>,
    connection: Connection,
    client: Arc<Client>,
    output: BytesMut,
    resp: Resp,
    db: u8,
    user: Arc<User>,
    /// Which state of the users that is; 0 before the first look.
    user_generation: u64,
    is_admitted: bool,
    /// Reads and writes of keys count as uses of them.
    touches: bool,
    /// When the receipt under way came, in seconds since the epoch.
    now_s: u32,
    /// Until when the time of what was carried out is accounted for.
    since: Duration,
    /// There is room for what this receipt writes.
    has_room: bool,
    transaction: Option<Queue>,
    watched: Vec<Watched>,
    subscribed: Vec<(Subscription, Bytes)>,
    tracking: TrackingMode,
    reply_mode: ReplyMode,
    /// What this client has chosen.
    durability: Option<Durability>,
    batch: Batch,
    /// The command under way was answered with an error.
    has_failed: bool,
    /// The arguments of the read just answered.
    last_read: Vec<Bytes>,
    is_closing: bool,
    /// What this client has said of itself as a replica, and what it has asked for.
    replica: replica::About,
    wanted: Option<replica::Wanted>,
    /// A read may follow: this node has what was acknowledged anywhere before the last receipt.
    is_current: bool,
    redirecting: redirect::Redirecting,
    /// What all keys take, and how many there are, where this node does not have them all.
    figures: Option<(u64, Vec<(u64, u64)>)>,
    /// The primary that the cluster follows, and how far that is, as this session has learnt last.
    followed: Option<(PrimaryName, Progress)>,
}

/// Commands waiting for one proposal, and replies waiting behind them.
#[derive(Default)]
struct Batch {
    minitransactions: Vec<Minitransaction>,
    /// How many of the slots are asked.
    asked_count: usize,
    slots: Vec<(Option<Found>, bool, Slot)>,
    /// What is to blame if the commit takes long: the first script, or the first command.
    suspect: Option<(Found, Vec<Bytes>)>,
}

impl Batch {
    fn note_suspect(&mut self, found: Found, arguments: &[Bytes]) {
        let is_script = found.group() == Group::Scripting;
        let is_better = match &self.suspect {
            None => true,
            Some((other, _)) => is_script && other.group() != Group::Scripting,
        };
        if is_better {
            self.suspect = Some((found, arguments.to_vec()));
        }
    }
}

enum Slot {
    /// Already known.
    Ready(Reply),
    /// A read whose keys may be on another node, which is asked with those beside it.
    Asked(Question),
    /// The reply of the next minitransaction's only op.
    One,
    /// A message: its reply is how many received it.
    Published { channel: Bytes, is_sharded: bool },
    /// An EXEC: one element per queued command.
    Exec(Vec<Element>),
}

impl Session {
    fn new(face: Arc<RedisFace>, connection: Connection, client: Arc<Client>) -> Session {
        let (user, is_admitted) = face.hub.users.unnamed();
        client.about.lock().user.clone_from(&user.name);
        Session {
            face,
            connection,
            client,
            output: BytesMut::new(),
            resp: Resp::Two,
            db: 0,
            user,
            user_generation: 0,
            is_admitted,
            touches: true,
            now_s: 0,
            since: Duration::ZERO,
            has_room: false,
            transaction: None,
            watched: Vec::new(),
            subscribed: Vec::new(),
            tracking: TrackingMode::default(),
            reply_mode: ReplyMode::On,
            durability: None,
            batch: Batch::default(),
            has_failed: false,
            last_read: Vec::new(),
            is_closing: false,
            replica: replica::About::default(),
            wanted: None,
            is_current: false,
            redirecting: redirect::Redirecting::default(),
            figures: None,
            followed: None,
        }
    }

    async fn run(&mut self) -> Result<(), ConnectionError> {
        let mut input = BytesMut::with_capacity(READ_BYTES);
        loop {
            let malformed = self.carry_out(&mut input).await;
            if let Err(malformed) = &malformed {
                self.encode(&Reply::Error(format!("ERR {malformed}").into()));
            }
            self.take_pushes();
            self.write_output().await?;
            if let Some(wanted) = self.wanted.take() {
                return self.serve_replica(wanted, &mut input).await;
            }
            malformed.map_err(|malformed| ConnectionError::Malformed(malformed.0))?;
            if self.is_closing || self.client.is_killed() {
                self.connection.stream.shutdown().await?;
                return Ok(());
            }
            if input.is_empty() && input.capacity() > BUFFER_KEPT_BYTES_MAX {
                input = BytesMut::new();
            }
            // Room for a long argument at once, once a quarter of it is there: nothing is allocated on a peer's word
            // that it has not backed.
            let missing = codec::missing(&input).min(3 * input.len());
            input.reserve(READ_BYTES.max(missing));
            let client = self.client.clone();
            let idle_s = self.face.hub.settings.idle_s.load(Ordering::Relaxed);
            let idle = async {
                match idle_s {
                    // A subscriber may be silent for as long as it likes.
                    1.. if self.subscribed.is_empty() => {
                        task::sleep(Duration::from_secs(idle_s)).await
                    }
                    _ => std::future::pending().await,
                }
            };
            let read_bytes = tokio::select! {
                read = self.connection.stream.read_buf(&mut input) => read?,
                () = client.wake.notified() => {
                    self.renew_user();
                    continue;
                }
                () = idle => return Ok(()),
                () = self.connection.shutdown.requested() => return Ok(()),
            };
            if read_bytes == 0 {
                return Ok(());
            }
        }
    }

    /// Encodes what the server sends of its own accord.
    fn take_pushes(&mut self) {
        for push in self.client.take_pushes() {
            match push {
                Push::Monitor(line) => {
                    self.encode(&Reply::Status(String::from_utf8_lossy(&line).into_owned().into()))
                }
                // Without RESP3 there is no way to tell; such a client has redirected.
                Push::Invalidate(_) | Push::RedirectBroken(_) if self.resp == Resp::Two => {}
                push => encode_push(&push.parts(), self.resp, &mut self.output),
            }
        }
    }

    async fn write_output(&mut self) -> Result<(), ConnectionError> {
        if !self.output.is_empty() {
            self.connection.stream.write_all(&self.output).await?;
            self.output.clear();
            if self.output.capacity() > BUFFER_KEPT_BYTES_MAX {
                self.output = BytesMut::new();
            }
        }
        Ok(())
    }

    /// Carries out every whole command in `input`.
    async fn carry_out(&mut self, input: &mut BytesMut) -> Result<(), codec::Malformed> {
        let started = self.face.clock.elapsed();
        let mut count = 0;
        let mut last = None;
        self.is_current = false;
        self.on_receipt();
        self.has_room = false;
        self.renew_user();
        self.now_s = (self.face.clock.wall_ms() / 1000) as u32;
        self.since = started;
        let mut calls = Calls::default();
        let mut looked_at = 0;
        while !self.is_closing && self.wanted.is_none() && !self.client.is_killed() {
            if looked_at == 0 {
                looked_at = self.look_ahead(input);
            }
            looked_at -= 1;
            let limits = if self.is_admitted { Limits::ADMITTED } else { Limits::UNAUTHENTICATED };
            let arguments = match codec::decode(input, limits) {
                Ok(Some(arguments)) => arguments,
                Ok(None) => break,
                Err(malformed) => {
                    self.settle().await;
                    return Err(malformed);
                }
            };
            if arguments.is_empty() {
                continue;
            }
            let found = self.request(arguments, input).await;
            if let Some(found) = found {
                self.note_call(found, &mut calls);
                last = Some(found.name());
            }
            count += 1;
            if self.batch.slots.len() >= BATCH_COMMANDS_MAX
                || self.batch.asked_count >= ASKED_MAX
                || self.output.len() > OUTPUT_BYTES_MAX
            {
                self.settle().await;
                // A failed write shows again, and is reported, at the next read.
                if self.write_output().await.is_err() {
                    self.is_closing = true;
                }
            }
        }
        self.settle().await;
        if count > 0 {
            let now = self.face.clock.elapsed();
            self.face.slow.observe(calls, us(now.saturating_sub(self.since)));
            let took = now.saturating_sub(started);
            self.face.batches.observe(took, false);
            self.face.hub.commands.fetch_add(count, Ordering::Relaxed);
            let mut about = self.client.about.lock();
            about.last_ms = self.face.clock.wall_ms();
            if let Some(last) = last {
                last.clone_into(&mut about.last_command);
            }
        }
        Ok(())
    }

    /// Has the processor fetch the keys of the reads at the front of `input`, which are waited for together then;
    /// says how many commands to carry out before looking again, at least one.
    fn look_ahead(&self, input: &[u8]) -> usize {
        let (name, keys) = codec::first_arguments(input);
        if keys.len() > 1
            && let Some(Found::Data(command)) = table::find(name)
            && !command.is_write()
            && matches!(command.keys, Keys::Range(1, ..))
            && !self.face.kernel.is_spread()
        {
            // What fails here fails again where it is answered.
            let _ = self.face.kernel.read(|view| {
                cache::prefetch(view, self.db, &keys);
                Ok(())
            });
        }
        keys.len().max(1)
    }

    /// Carries out one command; says its name.
    async fn request(&mut self, arguments: Vec<Bytes>, input: &mut BytesMut) -> Option<Found> {
        match self.reply_mode {
            ReplyMode::SkipNext => self.reply_mode = ReplyMode::Skip,
            ReplyMode::Skip => self.reply_mode = ReplyMode::On,
            ReplyMode::On | ReplyMode::Off => {}
        }
        let name = arguments.first().map(|name| &name[..]).unwrap_or_default();
        let Some(found) = table::find(name) else {
            let error = if self.is_admitted {
                Reply::Error(unknown_command(&arguments).into())
            } else {
                NOAUTH
            };
            self.spoil();
            self.answer(None, error);
            return None;
        };
        if !found.takes(arguments.len()) {
            self.spoil();
            let error = if self.is_admitted { wrong_arity(found.name()) } else { NOAUTH };
            self.answer(Some(found), error);
            return Some(found);
        }
        if !self.is_admitted && !found.flags().has(Flags::NO_AUTH) {
            self.spoil();
            self.answer(Some(found), NOAUTH);
            return Some(found);
        }
        if !self.user.is_unrestricted
            && let Some(denied) = self.denied(&arguments)
        {
            self.spoil();
            self.face.slow.reject(found.index());
            self.answer(Some(found), denied);
            return Some(found);
        }
        if self.redirects()
            && let Some(redirected) = self.redirected(found, &arguments)
        {
            self.spoil();
            self.face.slow.reject(found.index());
            self.answer(Some(found), redirected);
            return Some(found);
        }
        if self.resp == Resp::Two
            && !self.subscribed.is_empty()
            && !may_come_while_subscribed(found)
        {
            let error = format!(
                "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
                found.name()
            );
            self.answer(Some(found), Reply::Error(error.into()));
            return Some(found);
        }
        if self.face.hub.has_monitors()
            && !found.flags().has(Flags::ADMIN)
            && !may_hold_password(found)
        {
            self.show_monitors(&arguments);
        }
        if self.face.hub.settings.maxmemory.load(Ordering::Relaxed) != 0
            && let Some(refused) = self.refuse_for_memory(found).await
        {
            self.spoil();
            self.face.slow.reject(found.index());
            self.answer(Some(found), refused);
            return Some(found);
        }
        if self.face.hub.settings.refuses_writes() && self.writes(found) {
            self.spoil();
            self.face.slow.reject(found.index());
            self.answer(Some(found), READONLY);
            return Some(found);
        }
        if self.transaction.is_some() && !is_about_transaction(found) {
            self.queue(found, arguments);
            return Some(found);
        }
        let is_write = match found {
            Found::Data(command) => command.is_write(),
            // What a transaction holds is not looked at: it waits like a write.
            Found::Own(own) => matches!(own.command, OwnCommand::Exec | OwnCommand::Migrate),
        };
        if (is_write || matches!(found, Found::Data(_))) && self.face.pause_left(is_write).is_some()
        {
            self.settle().await;
            self.wait_while_paused(is_write).await;
        }
        let is_read = matches!(found, Found::Data(command) if !command.is_write());
        // Who asks where keys are waits for nothing here.
        let asks = is_read && !self.face.kernel.has_all();
        let reads_here = !asks && self.reads_here(found);
        let slots = match is_read && !reads_here {
            true => self.slots_alone(found, &arguments, input),
            false => Vec::new(),
        };
        let waits = !asks && slots.is_empty() && (is_read || may_look_at_state(found));
        let caught_up = match found {
            _ if reads_here => self.be_new_enough(&arguments).await,
            _ if waits => self.catch_up().await,
            _ => Ok(()),
        };
        if let Err(error) = caught_up {
            self.answer(Some(found), of_kernel(&error));
            return Some(found);
        }
        match found {
            Found::Own(own) => self.own_command(own.command, found, arguments).await,
            Found::Data(command) if command.flags.has(Flags::BLOCKING) => {
                self.settle().await;
                let reply = self.blocking(command, arguments, input).await;
                self.answer(Some(found), reply);
            }
            Found::Data(command) if redirect::is_of_node(command) && self.redirects() => {
                self.settle().await;
                let call = self.call(command.flags, arguments);
                let reply = self.of_own_slots(command, call).await;
                self.answer(Some(found), reply.unwrap_or_else(|error| of_kernel(&error)));
            }
            Found::Data(command) => {
                let call = self.call(command.flags, arguments);
                self.before_data(command, &call.arguments);
                let is_restricted =
                    command.group == Group::Scripting && (asks || !self.user.is_unrestricted);
                if command.is_write() || is_restricted || !self.batch.minitransactions.is_empty() {
                    let slot = publish_slot(found, &call.arguments).unwrap_or(Slot::One);
                    let silent = self.is_silent();
                    self.batch.note_suspect(found, &call.arguments);
                    self.batch.minitransactions.push(Minitransaction::of(self.op(found, call)));
                    self.batch.slots.push((Some(found), silent, slot));
                } else {
                    let reply = match self.about_use(command, &call.arguments).await {
                        Some(reply) => Ok(reply),
                        None if asks => {
                            let silent = self.is_silent();
                            self.last_read.clone_from(&call.arguments);
                            let slot = Slot::Asked(Question::Command(call));
                            self.batch.slots.push((Some(found), silent, slot));
                            self.batch.asked_count += 1;
                            return Some(found);
                        }
                        None if !slots.is_empty() => {
                            let read = |view: View<'_>| answer_known(view, command, &call);
                            self.face.kernel.read_slots(&slots, read).await
                        }
                        None => match (command.keys, call.arguments.get(1)) {
                            (Keys::Range(1, 1, _), Some(key)) => {
                                let read = |view: View<'_>| answer_known(view, command, &call);
                                self.face.kernel.read_key(key, read)
                            }
                            _ => self.face.kernel.read(|view| answer_known(view, command, &call)),
                        },
                    };
                    let reply = reply.unwrap_or_else(|error| of_kernel(&error));
                    self.face.hub.note_read(command.keys, &reply);
                    self.answer(Some(found), reply);
                    self.last_read = call.arguments;
                }
            }
        }
        Some(found)
    }

    /// Whether a command, or what is queued for it, changes keys. Of a script nobody knows.
    fn writes(&self, found: Found) -> bool {
        let changes = |found: Found| match found {
            Found::Data(command) => command.is_write() && command.group != Group::PubSub,
            Found::Own(own) => own.command == OwnCommand::Migrate,
        };
        match (found, &self.transaction) {
            (Found::Own(own), Some(queue)) if own.command == OwnCommand::Exec => {
                queue.requests().iter().any(|(found, _)| changes(*found))
            }
            (found, _) => changes(found),
        }
    }

    fn call(&self, flags: Flags, arguments: Vec<Bytes>) -> Call {
        let seed = if flags.has(Flags::RANDOM) { proteus_env::random::random_u64() } else { 0 };
        Call { db: self.db, seed, origin: self.call_origin(), arguments }
    }

    fn call_origin(&self) -> u64 {
        self.client.origin.load(Ordering::Relaxed)
    }

    fn is_silent(&self) -> bool {
        self.reply_mode != ReplyMode::On
    }

    /// Answers, behind whatever waits.
    fn answer(&mut self, found: Option<Found>, reply: Reply) {
        let is_silent = self.is_silent();
        if self.batch.slots.is_empty() {
            self.finish(found, is_silent, &reply);
        } else {
            self.batch.slots.push((found, is_silent, Slot::Ready(reply)));
        }
    }

    fn finish(&mut self, found: Option<Found>, is_silent: bool, reply: &Reply) {
        if let Some(found) = found {
            let is_error = reply.is_error();
            self.face.count(found, is_error);
            if is_error {
                self.has_failed = true;
                self.face.hub.note_error(reply);
            }
        }
        if !is_silent {
            self.encode(reply);
        }
    }

    fn encode(&mut self, reply: &Reply) {
        encode(reply, self.resp, &mut self.output);
    }

    /// Commits the proposal under way and answers all that wait.
    async fn settle(&mut self) {
        if self.batch.slots.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        let started = self.face.clock.elapsed();
        // Before what is proposed: a read must not see what came after it.
        let mut asked = self.ask_all(&mut batch).await.into_iter();
        let result = if batch.minitransactions.is_empty() {
            Ok(Vec::new())
        } else {
            self.face.kernel.propose_at(self.durability(), batch.minitransactions).await
        };
        let mut outcomes = match result {
            Ok(outcomes) => Ok(outcomes.into_iter()),
            Err(error) => Err(of_kernel(&error)),
        };
        // What follows is not to blame for the commit.
        self.since = self.face.clock.elapsed();
        let took = self.since.saturating_sub(started);
        let share_us = us(took) / batch.slots.len().max(1) as u64;
        let mut calls = Calls::default();
        self.note_slow(batch.suspect.take(), us(took));
        for (found, is_silent, slot) in batch.slots.drain(..) {
            let reply = match slot {
                Slot::Ready(reply) => reply,
                Slot::Asked(_) => {
                    let reply = asked.next().unwrap_or_else(|| Err(KernelError::unknown_answer()));
                    let reply = reply.unwrap_or_else(|error| of_kernel(&error));
                    if let Some(Found::Data(command)) = found {
                        self.face.hub.note_read(command.keys, &reply);
                    }
                    reply
                }
                Slot::One => next_outcome(&mut outcomes).map_or_else(|error| error, reply_of),
                Slot::Published { channel, is_sharded } => match next_outcome(&mut outcomes) {
                    Ok(_) => Reply::Integer(self.face.hub.receivers(&channel, is_sharded)),
                    Err(error) => error,
                },
                Slot::Exec(elements) => match next_outcome(&mut outcomes) {
                    Ok(outcome) => self.exec_reply(outcome, elements).await,
                    Err(error) => error,
                },
            };
            if let Some(found) = found {
                if !calls.takes(found.index()) {
                    let all = std::mem::take(&mut calls);
                    self.face.slow.observe(all, share_us * all.count);
                }
                calls.add(found.index(), reply.is_error());
            }
            self.finish(found, is_silent, &reply);
        }
        self.face.slow.observe(calls, share_us * calls.count);
        if self.batch.slots.is_empty() && batch.slots.capacity() <= SLOTS_KEPT_MAX {
            self.batch.slots = batch.slots;
        }
    }

    async fn own_command(&mut self, own: OwnCommand, found: Found, arguments: Vec<Bytes>) {
        let reply = match own {
            OwnCommand::Multi | OwnCommand::Discard | OwnCommand::Unwatch => {
                self.about_transaction(own)
            }
            OwnCommand::Exec => return self.exec(found),
            OwnCommand::Ping if self.resp == Resp::Three || self.subscribed.is_empty() => {
                server::ping(&arguments)
            }
            own => {
                // It may depend on what the commands before it do, or change how replies look.
                self.settle().await;
                let reply = self.alone(own, &arguments).await;
                if !may_hold_password(found) {
                    self.last_read = arguments;
                }
                match reply {
                    Some(reply) => reply,
                    None => return,
                }
            }
        };
        self.answer(Some(found), reply);
    }

    /// Carries out a command that no other waits for; `None` if it has answered by itself.
    async fn alone(&mut self, own: OwnCommand, arguments: &[Bytes]) -> Option<Reply> {
        Some(match own {
            OwnCommand::SubScribe
            | OwnCommand::PsubScribe
            | OwnCommand::SsubScribe
            | OwnCommand::UnsubScribe
            | OwnCommand::PunsubScribe
            | OwnCommand::SunsubScribe => {
                self.change_subscriptions(own, arguments);
                return None;
            }
            OwnCommand::Auth | OwnCommand::Hello | OwnCommand::Select => {
                self.about_connection(own, arguments)
            }
            OwnCommand::Client => return self.client_command(arguments).await,
            OwnCommand::Quit => {
                self.is_closing = true;
                Reply::OK
            }
            OwnCommand::Reset => self.reset(),
            OwnCommand::ReplicaOf | OwnCommand::SlaveOf => self.replicaof(arguments).await,
            OwnCommand::Migrate => self.migrate(arguments).await,
            OwnCommand::Watch if self.transaction.is_some() => crate::errors::WATCH_IN_MULTI,
            OwnCommand::Watch => self.watch(arguments).await,
            OwnCommand::PubSub => self.pubsub(arguments),
            OwnCommand::Monitor => {
                self.face.hub.monitor(&self.client);
                Reply::OK
            }
            OwnCommand::Ping => messages::subscribed_ping(arguments),
            OwnCommand::ReplConf => self.replconf(arguments),
            OwnCommand::Psync => return self.psync(arguments),
            OwnCommand::Wait => self.wait_copies(arguments).await,
            own => self.about_server(own, arguments).await,
        })
    }
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn publish_slot(found: Found, arguments: &[Bytes]) -> Option<Slot> {
    if found.group() != Group::PubSub {
        return None;
    }
    let channel = arguments.get(1)?.clone();
    Some(Slot::Published { channel, is_sharded: found.name() == "spublish" })
}

fn is_about_transaction(found: Found) -> bool {
    let Found::Own(own) = found else { return false };
    matches!(
        own.command,
        OwnCommand::Multi
            | OwnCommand::Exec
            | OwnCommand::Discard
            | OwnCommand::Watch
            | OwnCommand::Quit
            | OwnCommand::Reset
    )
}

/// Whether its arguments are for nobody else to see.
fn may_hold_password(found: Found) -> bool {
    let Found::Own(own) = found else { return false };
    matches!(
        own.command,
        OwnCommand::Auth | OwnCommand::Hello | OwnCommand::Acl | OwnCommand::Config
    )
}

/// Whether a command of the face's own may look at the state; the others answer by themselves.
fn may_look_at_state(found: Found) -> bool {
    let Found::Own(own) = found else { return false };
    !matches!(
        own.command,
        OwnCommand::Asking
            | OwnCommand::Discard
            | OwnCommand::Echo
            | OwnCommand::Multi
            | OwnCommand::Ping
            | OwnCommand::Quit
            | OwnCommand::ReadOnly
            | OwnCommand::ReadWrite
            | OwnCommand::Select
            | OwnCommand::Time
    )
}

fn may_come_while_subscribed(found: Found) -> bool {
    let Found::Own(own) = found else { return false };
    matches!(
        own.command,
        OwnCommand::SubScribe
            | OwnCommand::PsubScribe
            | OwnCommand::SsubScribe
            | OwnCommand::UnsubScribe
            | OwnCommand::PunsubScribe
            | OwnCommand::SunsubScribe
            | OwnCommand::Ping
            | OwnCommand::Quit
            | OwnCommand::Reset
    )
}

fn next_outcome(
    outcomes: &mut Result<std::vec::IntoIter<Outcome>, Reply>,
) -> Result<Outcome, Reply> {
    match outcomes {
        Ok(outcomes) => {
            outcomes.next().ok_or(Reply::error("ERR the node answered without an outcome"))
        }
        Err(error) => Err(error.clone()),
    }
}
