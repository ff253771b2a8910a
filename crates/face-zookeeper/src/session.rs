//! A connection's life after the handshake.
//!
//! ```text
//!   received ─▶ waiting ─▶ in_flight ─▶ outbox ─▶ sending
//! ```
//! Requests are carried out as if one after the other, in the order sent, and answered in that
//! order. Writes enter the kernel without waiting for each other, as many at once as there are. A
//! read waits until the writes before it are answered, so that it sees them; a write waits until the
//! reads before it are, so that they do not.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use proteus_env::task;
use proteus_face::{Connection, ConnectionError};
use proteus_kernel_api::tree::acl::SUPER;
use proteus_kernel_api::tree::{self, Zxid};
use proteus_kernel_api::{KernelError, Minitransaction, Outcome, Proposal, ReadGate, View};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tracing::debug;

use crate::auth::{self, Access};
use crate::codec::kinds::AUTH;
use crate::codec::reply::{self, EventType};
use crate::codec::{Decoded, Output, Request, RequestHeader, take_frame};
use crate::errors::{self, Answer, ErrorCode};
use crate::members::{self, Configuration};
use crate::outbox::{Closing, Outbox};
use crate::reads::{self, WatchSink};
use crate::sasl::{Sasl, Step};
use crate::sessions::LiveSession;
use crate::stats::ConnectionRecord;
use crate::translate::{self, Client, Plan, WriteShape};
use crate::watches::{TooManyWatches, WATCH_BYTES_PER_CONNECTION_MAX, WatchKind};
use crate::{ReadLevel, Shared};

/// Requests of one connection not yet answered; ZooKeeper's `globalOutstandingLimit`, but for each
/// connection. Reading pauses beyond it.
const UNANSWERED_MAX: usize = 1_000;

/// Bytes of requests of one connection not yet answered, above which reading pauses.
const UNANSWERED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes to be sent, above which no further request is carried out until the client reads.
const UNSENT_BYTES_MAX: usize = 1024 * 1024;

/// Reads carried out at once, while commits wait.
const READ_RUN_MAX: usize = 32;

/// Bytes taken from the socket at once.
const RECEIVE_BYTES_MAX: usize = 16 * 1024;

/// How long a client may take to accept the last bytes before its connection is dropped.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// What the handshake led to.
pub(crate) struct Established {
    pub(crate) session: Arc<LiveSession>,
    pub(crate) access: Access,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) record: Arc<ConnectionRecord>,
    /// What the client sent after the handshake's frame.
    pub(crate) received: BytesMut,
    /// What it has seen: no reply shows it less.
    pub(crate) last_zxid: i64,
    /// Whether this server serves readers only.
    pub(crate) is_read_only: bool,
}

/// A request whose turn has not come.
struct Waiting {
    xid: i32,
    code: i32,
    bytes: usize,
    since: Duration,
    plan: Plan,
}

/// A write the kernel has.
struct Proposed {
    xid: i32,
    code: i32,
    bytes: usize,
    since: Duration,
    shape: WriteShape,
}

/// Writes handed to the kernel at once, or a change of the cluster's members.
struct Batch<'a> {
    writes: Vec<Proposed>,
    doing: Doing<'a>,
}

/// What is under way.
enum Doing<'a> {
    Commit(Proposal),
    Reconfig(Pin<Box<dyn Future<Output = Reconfigured> + Send + 'a>>),
}

/// What became of it.
enum Answers {
    Outcomes(Outcomes),
    Reconfigured(Reconfigured),
}

impl Doing<'_> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Answers> {
        match self {
            Doing::Commit(proposal) => proposal.as_mut().poll(context).map(Answers::Outcomes),
            Doing::Reconfig(change) => change.as_mut().poll(context).map(Answers::Reconfigured),
        }
    }
}

struct Conversation<'a> {
    shared: &'a Shared,
    connection_id: u64,
    session: Arc<LiveSession>,
    access: Access,
    sasl: Sasl,
    outbox: Arc<Outbox>,
    record: Arc<ConnectionRecord>,
    received: BytesMut,
    waiting: VecDeque<Waiting>,
    in_flight: VecDeque<Batch<'a>>,
    gate: ReadGate,
    unanswered_count: usize,
    unanswered_bytes: usize,
    last_zxid: i64,
    is_admitted: bool,
    is_read_only: bool,
    /// The last request was read; the connection ends once all is answered and sent.
    is_ending: bool,
    /// The connection ends at once with this: its outcome must look unknown to the client.
    failure: Option<ConnectionError>,
}

/// Carries on until the client leaves, the session ends or the node stops.
pub(crate) async fn run(
    shared: &Shared,
    connection: &mut Connection,
    established: Established,
) -> Result<(), ConnectionError> {
    let mut conversation = Conversation {
        shared,
        connection_id: connection.connection_id,
        session: established.session,
        access: established.access,
        sasl: Sasl::default(),
        outbox: established.outbox,
        record: established.record,
        received: established.received,
        waiting: VecDeque::new(),
        in_flight: VecDeque::new(),
        gate: ReadGate::default(),
        unanswered_count: 0,
        unanswered_bytes: 0,
        last_zxid: established.last_zxid,
        is_admitted: shared.accounts.is_open(),
        is_read_only: established.is_read_only,
        is_ending: false,
        failure: None,
    };
    let mut sending = BytesMut::new();
    let mut shutdown = connection.shutdown.clone();
    let (mut reader, mut writer) = connection.stream.split();
    loop {
        conversation.proceed()?;
        if sending.is_empty() {
            conversation.outbox.take(&mut sending);
        }
        let closing = conversation.outbox.closing();
        let is_done = conversation.is_ending && conversation.unanswered_count == 0;
        if is_done || closing.is_some() {
            let farewell = async {
                writer.write_all(&sending).await?;
                conversation.outbox.take(&mut sending);
                writer.write_all(&sending).await?;
                writer.shutdown().await
            };
            // The client's share of the farewell is its own affair.
            let _ = task::timeout(FAREWELL_TIMEOUT, farewell).await;
            return match closing {
                Some(Closing::EventsUnread) => Err(ConnectionError::Limit(
                    "the client does not read its watch events".to_owned(),
                )),
                _ => Ok(()),
            };
        }
        let can_read = conversation.can_read();
        let Conversation { received, in_flight, gate, outbox, is_ending, .. } = &mut conversation;
        tokio::select! {
            () = gate.opened(), if gate.is_closed() => {}
            read = receive(&mut reader, received), if can_read => match read? {
                0 => return Ok(()),
                _ => conversation.session.hear(shared.clock.elapsed()),
            },
            answers = first_answers(in_flight), if !in_flight.is_empty() => {
                conversation.answer_batch(answers);
            }
            written = writer.write(&sending), if !sending.is_empty() => match written? {
                0 => return Ok(()),
                count => sending.advance(count),
            },
            () = outbox.grown() => {}
            () = shutdown.requested(), if !*is_ending => *is_ending = true,
        }
    }
}

/// Appends what the client has sent; 0 at its end. Memory is taken for what came, not for what might:
/// most sessions wait most of the time.
async fn receive(
    reader: &mut (impl AsyncRead + Unpin),
    received: &mut BytesMut,
) -> std::io::Result<usize> {
    poll_fn(|context| {
        let mut chunk = [MaybeUninit::uninit(); RECEIVE_BYTES_MAX];
        let mut chunk = ReadBuf::uninit(&mut chunk);
        ready!(Pin::new(&mut *reader).poll_read(context, &mut chunk))?;
        received.extend_from_slice(chunk.filled());
        Poll::Ready(Ok(chunk.filled().len()))
    })
    .await
}

type Outcomes = Result<Vec<Outcome>, KernelError>;
type Reconfigured = Result<Result<Configuration, ErrorCode>, KernelError>;

/// Waits for the oldest batch, which must exist.
async fn first_answers(in_flight: &mut VecDeque<Batch<'_>>) -> Answers {
    poll_fn(|context| match in_flight.front_mut() {
        Some(batch) => batch.doing.poll(context),
        None => Poll::Pending,
    })
    .await
}

impl<'a> Conversation<'a> {
    fn can_read(&self) -> bool {
        !self.is_ending
            && self.unanswered_count < UNANSWERED_MAX
            && self.unanswered_bytes < UNANSWERED_BYTES_MAX
            && self.outbox.len() < UNSENT_BYTES_MAX
            // One frame at most is not yet taken apart.
            && self.received.len() <= self.shared.options.frame_bytes_max + 4
    }

    /// Does all that can be done without waiting.
    fn proceed(&mut self) -> Result<(), ConnectionError> {
        loop {
            let mut is_moving = self.take_requests()?;
            is_moving |= self.propose_writes();
            is_moving |= self.reconfigure();
            if let Some(batch) = self.in_flight.front_mut() {
                let mut context = Context::from_waker(Waker::noop());
                if let Poll::Ready(answers) = batch.doing.poll(&mut context) {
                    self.answer_batch(answers);
                    is_moving = true;
                }
            } else if self.outbox.len() < UNSENT_BYTES_MAX {
                is_moving |= self.carry_out_reads();
            }
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            if !is_moving {
                return Ok(());
            }
        }
    }

    /// Takes apart what was received.
    fn take_requests(&mut self) -> Result<bool, ConnectionError> {
        let malformed =
            |error: crate::codec::Malformed| ConnectionError::Malformed(error.to_string());
        let mut is_moving = false;
        while !self.is_ending
            && self.unanswered_count < UNANSWERED_MAX
            && self.unanswered_bytes < UNANSWERED_BYTES_MAX
        {
            let frame = take_frame(&mut self.received, self.shared.options.frame_bytes_max)
                .map_err(malformed)?;
            let Some(frame) = frame else {
                break;
            };
            is_moving = true;
            self.accept(frame).map_err(malformed)?;
        }
        if self.received.is_empty() {
            // The requests keep what they need of its memory.
            self.received = BytesMut::new();
        }
        Ok(is_moving)
    }

    fn accept(&mut self, frame: Bytes) -> Result<(), crate::codec::Malformed> {
        let bytes = frame.len();
        let Decoded { header, request } = Decoded::decode(frame)?;
        self.shared.traffic.on_received();
        self.record.traffic.on_received();
        let request = match request {
            Ok(request) => request,
            // Who it is stays open; ZooKeeper hangs up here as well.
            Err(malformed) if header.code == AUTH => return Err(malformed),
            Err(malformed) => {
                debug!(session = %self.session.id, %malformed, "a request cannot be understood");
                self.wait(header, bytes, Plan::Refuse(ErrorCode::MARSHALLING_ERROR));
                return Ok(());
            }
        };
        let plan = match request {
            None => Plan::Refuse(ErrorCode::UNIMPLEMENTED),
            Some(Request::Auth { scheme, secret }) => self.authenticate(&scheme, &secret),
            Some(Request::Sasl { token }) => self.authenticate_sasl(&token),
            Some(Request::CloseSession) => {
                self.is_ending = true;
                // What the session's end tells this connection, its own reply tells.
                self.session.detach(self.connection_id);
                match self.session.local_password() {
                    Some(_) => {
                        self.shared.sessions.on_closed(self.session.id);
                        Plan::Read(Request::Ping)
                    }
                    None => self.plan(Request::CloseSession),
                }
            }
            Some(request) if self.is_admitted || request == Request::Ping => self.plan(request),
            Some(_) => Plan::Refuse(ErrorCode::NO_AUTH),
        };
        let plan = if self.is_read_only && translate::changes_something(&plan) {
            Plan::Refuse(ErrorCode::NOT_READ_ONLY)
        } else {
            plan
        };
        self.wait(header, bytes, plan);
        Ok(())
    }

    fn plan(&self, request: Request) -> Plan {
        translate::plan(request, self.client())
    }

    fn client(&self) -> Client<'_> {
        let is_local = self.session.local_password().is_some();
        Client { session: self.session.id, is_local, access: &self.access }
    }

    fn wait(&mut self, header: RequestHeader, bytes: usize, plan: Plan) {
        self.unanswered_count += 1;
        self.unanswered_bytes += bytes;
        self.waiting.push_back(Waiting {
            xid: header.xid,
            code: header.code,
            bytes,
            since: self.shared.clock.elapsed(),
            plan,
        });
    }

    /// Notes who the client is, in its turn: requests after it are planned with what it says.
    fn authenticate(&mut self, scheme: &str, secret: &[u8]) -> Plan {
        let is_noted = match scheme {
            "digest" => self.authenticate_digest(secret),
            // The address is known already.
            "ip" => true,
            // The certificate was judged when the connection was made.
            "x509" => self.access.users().any(|(scheme, _)| scheme == "x509"),
            _ => false,
        };
        if is_noted {
            self.outbox.set_credentials(self.access.credentials().clone());
            Plan::Read(Request::Ping)
        } else {
            self.is_ending = true;
            Plan::Refuse(ErrorCode::AUTH_FAILED)
        }
    }

    /// A wrong answer ends the connection, as in ZooKeeper.
    fn authenticate_sasl(&mut self, token: &[u8]) -> Plan {
        let step = self.sasl.step(token, &self.shared.accounts);
        let answer = match step {
            Some(Step::Challenge(challenge)) => Some(challenge),
            Some(Step::Done { user, proof }) => self.access.add("sasl", user).then(|| {
                self.is_admitted = true;
                self.outbox.set_credentials(self.access.credentials().clone());
                proof
            }),
            None => None,
        };
        match answer {
            Some(answer) => Plan::Sasl(answer),
            None => {
                self.is_ending = true;
                Plan::Refuse(ErrorCode::AUTH_FAILED)
            }
        }
    }

    /// A digest proves nothing but itself: ACLs name the hash. With accounts it must be one's own.
    fn authenticate_digest(&mut self, secret: &[u8]) -> bool {
        let accounts = &self.shared.accounts;
        let is_known = accounts.is_open()
            || std::str::from_utf8(secret)
                .ok()
                .and_then(|text| text.split_once(':'))
                .is_some_and(|(user, password)| accounts.verify(user, password.as_bytes()).is_ok());
        let digest = auth::digest(secret);
        let is_super = self.shared.options.super_digest.as_ref() == Some(&digest);
        if !is_known && !is_super {
            return false;
        }
        self.is_admitted = true;
        (!is_super || self.access.add(SUPER, String::new())) && self.access.add("digest", digest)
    }

    /// Begins to change the cluster's members, if that is next and nothing else is under way.
    fn reconfigure(&mut self) -> bool {
        if !self.in_flight.is_empty() {
            return false;
        }
        if !matches!(self.waiting.front(), Some(Waiting { plan: Plan::Reconfig(_), .. })) {
            return false;
        }
        let Some(Waiting { xid, code, bytes, since, plan: Plan::Reconfig(request) }) =
            self.waiting.pop_front()
        else {
            return false;
        };
        let write = Proposed { xid, code, bytes, since, shape: WriteShape::Empty };
        let by = self.access.credentials().clone();
        let change = Box::pin(members::reconfigure(self.shared, request, by));
        self.in_flight.push_back(Batch { writes: vec![write], doing: Doing::Reconfig(change) });
        true
    }

    fn answer_reconfig(&mut self, write: &Proposed, changed: Result<Configuration, ErrorCode>) {
        let code = match changed {
            Ok(configuration) => {
                self.last_zxid = self.last_zxid.max(configuration.zxid);
                self.outbox.push(|into| {
                    reply::ok(into, write.xid, self.last_zxid, |into| {
                        into.buffer(configuration.text.as_deref());
                        reply::stat(into, &configuration.stat);
                    });
                });
                ErrorCode::OK
            }
            Err(code) => {
                self.outbox.push(|into| reply::error(into, write.xid, self.last_zxid, code));
                code
            }
        };
        self.answered(write.code, write.xid, write.bytes, write.since, code);
    }

    /// Hands the writes at the front to the kernel, all at once.
    fn propose_writes(&mut self) -> bool {
        if matches!(self.in_flight.back(), Some(Batch { doing: Doing::Reconfig(_), .. })) {
            return false;
        }
        let mut writes = Vec::new();
        let mut minitransactions: Vec<Minitransaction> = Vec::new();
        while let Some(waiting) = self.waiting.pop_front() {
            let Waiting { xid, code, bytes, since, plan } = waiting;
            match plan {
                Plan::Write(minitransaction, shape) => {
                    if let Some(upgrade) = self.upgrade(&minitransaction) {
                        minitransactions.push(upgrade);
                        writes.push(Proposed {
                            xid,
                            code,
                            bytes: 0,
                            since,
                            shape: WriteShape::Upgrade,
                        });
                    }
                    minitransactions.push(minitransaction);
                    writes.push(Proposed { xid, code, bytes, since, shape });
                }
                plan => {
                    self.waiting.push_front(Waiting { xid, code, bytes, since, plan });
                    break;
                }
            }
        }
        if writes.is_empty() {
            return false;
        }
        let proposal = self.shared.kernel.propose(minitransactions);
        self.in_flight.push_back(Batch { writes, doing: Doing::Commit(proposal) });
        true
    }

    /// Stores a local session before it owns something. Twice does no harm: the second is refused.
    fn upgrade(&self, minitransaction: &Minitransaction) -> Option<Minitransaction> {
        let password = self.session.local_password()?;
        translate::creates_ephemerals(minitransaction).then(|| {
            let (session, timeout_ms) = (self.session.id, self.session.timeout_ms());
            Minitransaction::of(tree::Op::CreateSession { session, password, timeout_ms })
        })
    }

    /// Answers the oldest batch.
    fn answer_batch(&mut self, answers: Answers) {
        let Some(batch) = self.in_flight.pop_front() else {
            return;
        };
        let outcomes = match answers {
            Answers::Outcomes(outcomes) => outcomes,
            Answers::Reconfigured(Err(error)) => Err(error),
            Answers::Reconfigured(Ok(changed)) => {
                if let Some(write) = batch.writes.first() {
                    self.answer_reconfig(write, changed);
                }
                return;
            }
        };
        let outcomes = match outcomes {
            Ok(outcomes) if outcomes.len() == batch.writes.len() => outcomes,
            Ok(_) => {
                let error = std::io::Error::other("the kernel answered another number of writes");
                self.failure = Some(ConnectionError::Io(error));
                return;
            }
            Err(error) => return self.answer_failed_batch(batch.writes, &error),
        };
        for (write, outcome) in batch.writes.into_iter().zip(outcomes) {
            if write.shape == WriteShape::Upgrade {
                continue;
            }
            let mut told = ErrorCode::OK;
            let last_zxid = &mut self.last_zxid;
            self.outbox.push(|into| {
                told = translate::answer_write(into, write.xid, &write.shape, &outcome, last_zxid);
            });
            if told == ErrorCode::SESSION_EXPIRED {
                self.is_ending = true;
            }
            self.answered(write.code, write.xid, write.bytes, write.since, told);
        }
    }

    fn answer_failed_batch(&mut self, writes: Vec<Proposed>, error: &KernelError) {
        match errors::of_kernel(error) {
            Answer::Disconnect => {
                let error = std::io::Error::other(error.clone());
                self.failure = Some(ConnectionError::Io(error));
            }
            Answer::Reply(code) => {
                for write in writes.into_iter().filter(|write| write.shape != WriteShape::Upgrade) {
                    self.outbox.push(|into| reply::error(into, write.xid, self.last_zxid, code));
                    self.answered(write.code, write.xid, write.bytes, write.since, code);
                }
            }
        }
    }

    /// How many of the first `count` reads may be carried out now.
    fn admitted(&mut self, count: usize) -> Result<usize, KernelError> {
        let is_sync = |waiting: &Waiting| matches!(waiting.plan, Plan::Read(Request::Sync { .. }));
        let Shared { kernel, options, .. } = self.shared;
        let has_sync = self.waiting.iter().take(count).any(is_sync);
        match options.read_level {
            // Nobody can be asked.
            _ if self.is_read_only && !has_sync => Ok(count),
            ReadLevel::Local if !has_sync => {
                self.gate.admit_within(&**kernel, options.staleness_max, count)
            }
            _ => self.gate.admit(&**kernel, count),
        }
    }

    /// Answers the reads and refusals at the front, at one state.
    fn carry_out_reads(&mut self) -> bool {
        let is_write =
            |waiting: &Waiting| matches!(waiting.plan, Plan::Write(..) | Plan::Reconfig(_));
        let run = self.waiting.iter().take(READ_RUN_MAX).take_while(|w| !is_write(w)).count();
        if run == 0 {
            return false;
        }
        let run = match self.admitted(run) {
            Ok(0) => return false,
            Ok(run) => run,
            Err(error) => {
                self.failure = Some(ConnectionError::Io(std::io::Error::other(error)));
                return false;
            }
        };
        let run: Vec<Waiting> = self.waiting.drain(..run).collect();
        let mut watching = Watching {
            shared: self.shared,
            connection_id: self.connection_id,
            client: Client {
                session: self.session.id,
                is_local: self.session.local_password().is_some(),
                access: &self.access,
            },
            outbox: &self.outbox,
            refused: None,
        };
        let mut told = Vec::with_capacity(run.len());
        let mut last_zxid = self.last_zxid;
        let read = self.shared.kernel.read(|view| {
            let zxid = Zxid::from_commit(view.applied_ts).0;
            last_zxid = last_zxid.max(zxid);
            let mut answer = BytesMut::new();
            for waiting in &run {
                answer.clear();
                let code = answer_front(&mut answer, waiting, view, last_zxid, &mut watching);
                // Queued while no commit can happen: an event of a watch set here comes after.
                self.outbox.push(|into| into.extend_from_slice(&answer));
                match code {
                    Ok(code) => told.push(code),
                    Err(error) => return Ok(Err(error)),
                }
            }
            Ok(Ok(()))
        });
        if let Err(error) = read.and_then(|read| read) {
            self.failure = Some(ConnectionError::Io(std::io::Error::other(error)));
        }
        if watching.refused.is_some() {
            self.failure = Some(ConnectionError::Limit(format!(
                "watches of more than {WATCH_BYTES_PER_CONNECTION_MAX} bytes"
            )));
        }
        self.last_zxid = last_zxid;
        for (waiting, code) in run.into_iter().zip(told) {
            self.answered(waiting.code, waiting.xid, waiting.bytes, waiting.since, code);
        }
        true
    }

    fn answered(&mut self, code: i32, xid: i32, bytes: usize, since: Duration, told: ErrorCode) {
        self.unanswered_count -= 1;
        self.unanswered_bytes -= bytes;
        let now = self.shared.clock.elapsed();
        // A client that waits for our answer is not silent, even while nothing is read from it.
        self.session.hear(now);
        let took = now.saturating_sub(since);
        self.shared.meter(code).observe(took, told != ErrorCode::OK);
        self.shared.traffic.on_answered(took);
        self.record.on_answered(code, xid, self.last_zxid, took);
    }
}

fn answer_front(
    into: &mut BytesMut,
    waiting: &Waiting,
    view: View<'_>,
    last_zxid: i64,
    watching: &mut Watching<'_>,
) -> Result<ErrorCode, KernelError> {
    match &waiting.plan {
        Plan::Read(request) => {
            let Client { session, access, .. } = watching.client;
            let child_lists = &watching.shared.child_lists;
            let read = reads::Read { xid: waiting.xid, session, access, request, child_lists };
            reads::answer(into, &read, view, watching)
        }
        Plan::Refuse(code) => {
            reply::error(into, waiting.xid, last_zxid, *code);
            Ok(*code)
        }
        Plan::Sasl(token) => {
            reply::ok(into, waiting.xid, last_zxid, |into| into.buffer(Some(token)));
            Ok(ErrorCode::OK)
        }
        Plan::RefuseMulti { op_index, op_count, code } => {
            let place = (*op_index, *op_count);
            translate::answer_failed_multi(into, waiting.xid, last_zxid, place, *code);
            Ok(*code)
        }
        Plan::Write(..) | Plan::Reconfig(_) => Ok(ErrorCode::SYSTEM_ERROR),
    }
}

/// Registers the watches of one connection.
struct Watching<'a> {
    shared: &'a Shared,
    connection_id: u64,
    client: Client<'a>,
    outbox: &'a Arc<Outbox>,
    refused: Option<TooManyWatches>,
}

impl WatchSink for Watching<'_> {
    fn watch(&mut self, kind: WatchKind, path: &str) {
        let registered = self.shared.watches.register(kind, path, self.connection_id, self.outbox);
        if let Err(refused) = registered {
            self.refused = Some(refused);
        }
    }

    fn is_watching(&self, kind: WatchKind, path: &str) -> bool {
        self.shared.watches.is_watching(kind, path, self.connection_id)
    }

    fn unwatch(&mut self, kind: WatchKind, path: &str) -> bool {
        self.shared.watches.unregister(kind, path, self.connection_id)
    }

    fn fire(&mut self, event: EventType, path: &str) {
        self.outbox.push(|into| reply::event(into, event, path, reply::NO_ZXID));
    }
}
