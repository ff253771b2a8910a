//! One connection: what it has negotiated, queued and watched, and carrying out what it sends.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use proteus_face::{Connection, ConnectionError};
use proteus_kernel_api::cache::{self, Check, Op, Revision, answer, revision};
use proteus_kernel_api::{KernelError, Minitransaction, Outcome, View};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::codec::{self, Limits};
use crate::commands::{self, Request, SessionRequest, Shape};
use crate::errors::{
    DISCARD_WITHOUT_MULTI, EXEC_WITHOUT_MULTI, EXECABORT, NESTED_MULTI, NO_PASSWORD_SET, NOAUTH,
    NOPROTO, RedisError, WATCH_IN_MULTI, WRONGPASS, fixed,
};
use crate::info::{Figures, render};
use crate::reply::{Reply, Resp};
use crate::{REDIS_VERSION, RedisFace};

/// Bytes asked of the socket at once.
const READ_BYTES: usize = 16 * 1024;

/// Buffers larger than this are given back once they are empty.
const BUFFER_KEPT_BYTES_MAX: usize = 64 * 1024;

/// Commands carried out together; a deeper pipeline is answered in pieces.
const BATCH_COMMANDS_MAX: usize = 1024;

/// Replies are written before the next command once they have grown to this, in bytes.
const OUTPUT_BYTES_MAX: usize = 1024 * 1024;

/// Commands that a MULTI may queue.
const QUEUE_COMMANDS_MAX: usize = 1 << 20;

pub(crate) async fn serve(
    face: Arc<RedisFace>,
    connection: Connection,
) -> Result<(), ConnectionError> {
    face.clients.fetch_add(1, Ordering::Relaxed);
    let result = Session::new(face.clone(), connection).run().await;
    face.clients.fetch_sub(1, Ordering::Relaxed);
    result
}

struct Session {
    face: Arc<RedisFace>,
    connection: Connection,
    output: BytesMut,
    resp: Resp,
    is_admitted: bool,
    name: Bytes,
    transaction: Option<Queue>,
    watched: Vec<(Bytes, Revision)>,
    batch: Batch,
    is_closing: bool,
}

/// What MULTI has queued.
#[derive(Default)]
struct Queue {
    requests: Vec<Request>,
    /// A command was refused while queueing, so EXEC will be too.
    is_spoilt: bool,
}

/// Commands waiting for one proposal, and replies waiting behind them.
#[derive(Default)]
struct Batch {
    minitransactions: Vec<Minitransaction>,
    slots: Vec<(usize, Slot)>,
}

enum Slot {
    /// Already known.
    Ready(Reply),
    /// The reply of the next minitransaction's only op.
    One(Shape),
    /// An EXEC: one element per queued command.
    Exec(Vec<Element>),
}

/// An element of EXEC's array.
enum Element {
    Ready(Reply),
    Op(Shape),
}

impl Session {
    fn new(face: Arc<RedisFace>, connection: Connection) -> Session {
        let is_admitted = face.accounts.is_open();
        Session {
            face,
            connection,
            output: BytesMut::new(),
            resp: Resp::Two,
            is_admitted,
            name: Bytes::new(),
            transaction: None,
            watched: Vec::new(),
            batch: Batch::default(),
            is_closing: false,
        }
    }

    async fn run(mut self) -> Result<(), ConnectionError> {
        let mut input = BytesMut::with_capacity(READ_BYTES);
        loop {
            let malformed = self.carry_out(&mut input).await;
            if let Err(malformed) = &malformed {
                self.encode(&Reply::Error(RedisError(format!("ERR {malformed}").into())));
            }
            self.write_output().await?;
            malformed.map_err(|malformed| ConnectionError::Malformed(malformed.0))?;
            if self.is_closing {
                self.connection.stream.shutdown().await?;
                return Ok(());
            }
            if input.is_empty() && input.capacity() > BUFFER_KEPT_BYTES_MAX {
                input = BytesMut::new();
            }
            input.reserve(READ_BYTES);
            let read_bytes = tokio::select! {
                read = self.connection.stream.read_buf(&mut input) => read?,
                () = self.connection.shutdown.requested() => return Ok(()),
            };
            if read_bytes == 0 {
                return Ok(());
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
        while !self.is_closing {
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
            self.request(&arguments).await;
            count += 1;
            if self.batch.slots.len() >= BATCH_COMMANDS_MAX || self.output.len() > OUTPUT_BYTES_MAX
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
            let took = self.face.clock.elapsed().saturating_sub(started);
            self.face.batches.observe(took, false);
        }
        Ok(())
    }

    async fn request(&mut self, arguments: &[Bytes]) {
        let Some(place) = commands::find(&arguments[0]) else {
            let error = RedisError::unknown_command(&arguments[0], &arguments[1..]);
            self.spoil();
            let error = if self.is_admitted { error } else { NOAUTH };
            return self.answer(usize::MAX, Reply::Error(error));
        };
        let request = match commands::parse(&commands::TABLE[place], arguments) {
            Ok(request) => request,
            Err(error) => {
                self.spoil();
                let error = if self.is_admitted { error } else { NOAUTH };
                return self.answer(place, Reply::Error(error));
            }
        };
        if !self.is_admitted && !may_come_first(&request) {
            return self.answer(place, Reply::Error(NOAUTH));
        }
        match request {
            Request::Session(request) => self.session_request(place, request).await,
            request if self.transaction.is_some() => self.queue(place, request),
            Request::Ready(reply) => self.answer(place, reply),
            Request::Read(query, shape) if self.batch.minitransactions.is_empty() => {
                let reply = self.read(|view| answer(view.state, view.now_ms, &query));
                let reply = reply.map_or_else(|error| Reply::Error(error.into()), Reply::from);
                self.answer(place, shape.apply(reply));
            }
            Request::Read(query, shape) => self.submit(place, Op::Query(query), shape),
            Request::Write(op, shape) => self.submit(place, op, shape),
        }
    }

    /// Adds a command to the proposal under way.
    fn submit(&mut self, place: usize, op: Op, shape: Shape) {
        self.batch.minitransactions.push(Minitransaction::of(op));
        self.batch.slots.push((place, Slot::One(shape)));
    }

    /// Answers, behind whatever waits.
    fn answer(&mut self, place: usize, reply: Reply) {
        if self.batch.slots.is_empty() {
            self.count(place, &reply);
            self.encode(&reply);
        } else {
            self.batch.slots.push((place, Slot::Ready(reply)));
        }
    }

    fn encode(&mut self, reply: &Reply) {
        reply.encode(self.resp, &mut self.output);
    }

    fn count(&self, place: usize, reply: &Reply) {
        if let Some(meter) = self.face.meters.get(place) {
            meter.count(1, matches!(reply, Reply::Error(_)));
        }
    }

    fn read<T>(
        &self,
        reader: impl FnOnce(View<'_>) -> Result<T, proteus_kernel_api::StoreError>,
    ) -> Result<T, KernelError> {
        self.face.kernel.read(reader)
    }

    /// Commits the proposal under way and answers all that wait.
    async fn settle(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let result = if batch.minitransactions.is_empty() {
            Ok(Vec::new())
        } else {
            self.face.kernel.propose(batch.minitransactions).await
        };
        let mut outcomes = match result {
            Ok(outcomes) => Ok(outcomes.into_iter()),
            Err(error) => Err(RedisError::from(error)),
        };
        for (place, slot) in batch.slots {
            let reply = match slot {
                Slot::Ready(reply) => reply,
                Slot::One(shape) => match next_outcome(&mut outcomes) {
                    Ok(outcome) => shape.apply(single(outcome)),
                    Err(error) => Reply::Error(error),
                },
                Slot::Exec(elements) => match next_outcome(&mut outcomes) {
                    Ok(outcome) => exec_reply(outcome, elements),
                    Err(error) => Reply::Error(error),
                },
            };
            self.count(place, &reply);
            self.encode(&reply);
        }
    }

    fn spoil(&mut self) {
        if let Some(queue) = &mut self.transaction {
            queue.is_spoilt = true;
        }
    }

    fn queue(&mut self, place: usize, request: Request) {
        let Some(queue) = &mut self.transaction else { return };
        if queue.requests.len() >= QUEUE_COMMANDS_MAX {
            queue.is_spoilt = true;
            let error = fixed("ERR MULTI has queued as many commands as it may");
            return self.answer(place, Reply::Error(error));
        }
        queue.requests.push(request);
        self.answer(place, Reply::Status("QUEUED"));
    }

    async fn session_request(&mut self, place: usize, request: SessionRequest) {
        let reply = match request {
            SessionRequest::Multi if self.transaction.is_some() => Reply::Error(NESTED_MULTI),
            SessionRequest::Multi => {
                self.transaction = Some(Queue::default());
                Reply::OK
            }
            SessionRequest::Exec => return self.exec(place),
            SessionRequest::Discard => match self.transaction.take() {
                Some(_) => {
                    self.watched.clear();
                    Reply::OK
                }
                None => Reply::Error(DISCARD_WITHOUT_MULTI),
            },
            SessionRequest::Watch(_) if self.transaction.is_some() => Reply::Error(WATCH_IN_MULTI),
            SessionRequest::Unwatch => {
                self.watched.clear();
                Reply::OK
            }
            SessionRequest::Reset | SessionRequest::Quit => {
                self.settle().await;
                self.end_or_reset(&request)
            }
            _ if self.transaction.is_some() => {
                self.spoil();
                Reply::Error(fixed("ERR Command not allowed inside a transaction"))
            }
            request => {
                // It may depend on what the commands before it do, or change how replies look.
                self.settle().await;
                self.about_connection(request)
            }
        };
        self.answer(place, reply);
    }

    fn end_or_reset(&mut self, request: &SessionRequest) -> Reply {
        self.transaction = None;
        self.watched.clear();
        if *request == SessionRequest::Quit {
            self.is_closing = true;
            return Reply::OK;
        }
        self.resp = Resp::Two;
        self.name = Bytes::new();
        self.is_admitted = self.face.accounts.is_open();
        Reply::Status("RESET")
    }

    fn about_connection(&mut self, request: SessionRequest) -> Reply {
        match request {
            SessionRequest::Hello { version, credentials, name } => {
                self.hello(version, credentials, name).into()
            }
            SessionRequest::Auth { user, password, named } => {
                self.auth(&user, &password, named).into()
            }
            SessionRequest::SetName(name) => {
                self.name = name;
                Reply::OK
            }
            SessionRequest::GetName if self.name.is_empty() => Reply::Nil,
            SessionRequest::GetName => Reply::Bulk(self.name.clone()),
            SessionRequest::ClientId => Reply::Integer(self.client_id()),
            SessionRequest::ClientInfo | SessionRequest::ClientList => {
                Reply::Verbatim(self.description())
            }
            SessionRequest::Watch(keys) => self.watch(keys),
            SessionRequest::Info(sections) => self.info(&sections),
            SessionRequest::Time => {
                let now_ms = self.face.clock.wall_ms();
                let parts = [now_ms / 1000, now_ms % 1000 * 1000];
                Reply::Array(parts.iter().map(|part| Reply::text(part.to_string())).collect())
            }
            // Handled before, where they may come inside a transaction.
            SessionRequest::Quit
            | SessionRequest::Reset
            | SessionRequest::Multi
            | SessionRequest::Exec
            | SessionRequest::Discard
            | SessionRequest::Unwatch => Reply::OK,
        }
    }

    fn client_id(&self) -> i64 {
        i64::try_from(self.connection.connection_id).unwrap_or(i64::MAX)
    }

    fn description(&self) -> String {
        format!(
            "id={} addr={} laddr={} name={} db=0 resp={}\n",
            self.connection.connection_id,
            self.connection.peer,
            self.connection.local,
            String::from_utf8_lossy(&self.name),
            if self.resp == Resp::Three { 3 } else { 2 },
        )
    }

    fn hello(
        &mut self,
        version: Option<i64>,
        credentials: Option<(String, Bytes)>,
        name: Option<Bytes>,
    ) -> Result<Reply, RedisError> {
        let resp = match version {
            None => self.resp,
            Some(2) => Resp::Two,
            Some(3) => Resp::Three,
            Some(_) => return Err(NOPROTO),
        };
        if let Some((user, password)) = credentials {
            self.auth(&user, &password, true)?;
        }
        if !self.is_admitted {
            return Err(fixed(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
            ));
        }
        if let Some(name) = name {
            self.name = name;
        }
        self.resp = resp;
        let pair = |key: &str, value: Reply| (Reply::text(key), value);
        Ok(Reply::Map(vec![
            pair("server", Reply::text("redis")),
            pair("version", Reply::text(REDIS_VERSION)),
            pair("proto", Reply::Integer(if resp == Resp::Three { 3 } else { 2 })),
            pair("id", Reply::Integer(self.client_id())),
            pair("mode", Reply::text("standalone")),
            pair("role", Reply::text("master")),
            pair("modules", Reply::Array(Vec::new())),
        ]))
    }

    fn auth(&mut self, user: &str, password: &[u8], named: bool) -> Result<Reply, RedisError> {
        if self.face.accounts.is_open() {
            // As in Redis: the default user has no password, so any is right for it by name.
            return if named && user == "default" {
                Ok(Reply::OK)
            } else if named {
                Err(WRONGPASS)
            } else {
                Err(NO_PASSWORD_SET)
            };
        }
        self.face.accounts.verify(user, password).map_err(|_| WRONGPASS)?;
        self.is_admitted = true;
        Ok(Reply::OK)
    }

    fn watch(&mut self, keys: Vec<Bytes>) -> Reply {
        let watched = self.read(|view| {
            keys.into_iter()
                .map(|key| Ok((key.clone(), revision(view.state, view.now_ms, &key)?)))
                .collect::<Result<Vec<_>, _>>()
        });
        match watched {
            Ok(watched) => {
                self.watched.extend(watched);
                Reply::OK
            }
            Err(error) => Reply::Error(error.into()),
        }
    }

    fn info(&self, sections: &[String]) -> Reply {
        let count = self.read(|view| answer(view.state, view.now_ms, &cache::Query::KeyCount));
        let key_count = match count {
            Ok(cache::Reply::Integer(count)) => count,
            _ => 0,
        };
        let figures = Figures {
            uptime_s: self.face.clock.elapsed().as_secs(),
            connected_clients: self.face.clients.load(Ordering::Relaxed),
            key_count,
            tcp_port: self.connection.local.port(),
        };
        Reply::Verbatim(render(&figures, sections))
    }

    fn exec(&mut self, place: usize) {
        let Some(queue) = self.transaction.take() else {
            return self.answer(place, Reply::Error(EXEC_WITHOUT_MULTI));
        };
        let watched = std::mem::take(&mut self.watched);
        if queue.is_spoilt {
            return self.answer(place, Reply::Error(EXECABORT));
        }
        let mut minitransaction = Minitransaction::default();
        for (key, revision) in watched {
            minitransaction = minitransaction.check(Check::Unchanged { key, revision });
        }
        let mut elements = Vec::with_capacity(queue.requests.len());
        for request in queue.requests {
            let (op, shape) = match request {
                Request::Read(query, shape) => (Op::Query(query), shape),
                Request::Write(op, shape) => (op, shape),
                Request::Ready(reply) => {
                    elements.push(Element::Ready(reply));
                    continue;
                }
                Request::Session(_) => continue,
            };
            minitransaction = minitransaction.op(op);
            elements.push(Element::Op(shape));
        }
        self.batch.minitransactions.push(minitransaction);
        self.batch.slots.push((place, Slot::Exec(elements)));
    }
}

/// Commands that a client may send before it has authenticated.
fn may_come_first(request: &Request) -> bool {
    matches!(
        request,
        Request::Session(
            SessionRequest::Hello { .. }
                | SessionRequest::Auth { .. }
                | SessionRequest::Quit
                | SessionRequest::Reset
        )
    )
}

fn next_outcome(
    outcomes: &mut Result<std::vec::IntoIter<Outcome>, RedisError>,
) -> Result<Outcome, RedisError> {
    match outcomes {
        Ok(outcomes) => outcomes.next().ok_or(fixed("ERR the node answered without an outcome")),
        Err(error) => Err(error.clone()),
    }
}

fn single(outcome: Outcome) -> Reply {
    match outcome {
        Outcome::Committed { replies, .. } => match replies.into_iter().next() {
            Some(proteus_kernel_api::Reply::Cache(reply)) => reply.into(),
            _ => Reply::Nil,
        },
        Outcome::CheckFailed { refusal, .. } | Outcome::Refused { refusal, .. } => {
            Reply::Error(RedisError(format!("ERR {refusal}").into()))
        }
    }
}

fn exec_reply(outcome: Outcome, elements: Vec<Element>) -> Reply {
    let replies = match outcome {
        Outcome::Committed { replies, .. } => replies,
        // A watched key has changed.
        Outcome::CheckFailed { .. } => return Reply::NilArray,
        Outcome::Refused { refusal, .. } => {
            return Reply::Error(RedisError(format!("ERR {refusal}").into()));
        }
    };
    let mut replies = replies.into_iter();
    let element = |element| match element {
        Element::Ready(reply) => reply,
        Element::Op(shape) => match replies.next() {
            Some(proteus_kernel_api::Reply::Cache(reply)) => shape.apply(reply.into()),
            _ => Reply::Nil,
        },
    };
    Reply::Array(elements.into_iter().map(element).collect())
}
