//! One connection: requests in, responses out, in the same order.
//!
//! ```text
//!   read ──▶ decode ──▶ queue of answers to come ──▶ write
//!                │ (bounded in requests and bytes)     │ awaits each in turn
//!                └──▶ Produce is proposed at once, so a pipeline of them shares commits
//! ```
//!
//! Kafka answers a connection's requests one after the other. Here only a Produce may start before
//! its turn, and only when nothing but such Produces is before it: then nobody can tell the
//! difference.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use kafka_protocol::messages::{ApiKey, RequestKind, ResponseKind};
use parking_lot::Mutex;
use proteus_env::net;
use proteus_env::task;
use proteus_face::{Connection, ConnectionError, ReadHalf, Shutdown, WriteHalf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::codec::{self, CodecError, FRAME_BYTES_MAX, Request, STRANGERS_FRAME_BYTES_MAX};
use crate::requests::sasl::Authentication;
use crate::requests::{FetchSession, Followed, ShareSessions};
use crate::{Shared, api, requests};

/// Requests of one connection that wait for their answers.
const PIPELINE_MAX: usize = 64;
/// Bytes of them; one request of the largest size always fits.
const PIPELINE_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;
const _: () = assert!(PIPELINE_BYTES_MAX >= FRAME_BYTES_MAX);
/// How long a client may take to read [`WRITE_CHUNK_BYTES`] before it is disconnected.
const WRITE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);
/// How long requests under way may take once the node stops.
const DRAIN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);
/// Bytes of a response that are written, and timed, as one.
const WRITE_CHUNK_BYTES: usize = 256 * 1024;
/// First size of a connection's buffer; idle ones are many.
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// Most bytes that an idle connection keeps.
const READ_BUFFER_BYTES_MAX: usize = 256 * 1024;
/// Bytes that are reserved for a frame before any of them has arrived: what most producers send at most.
const READ_AHEAD_BYTES_MAX: usize = 1024 * 1024 + 64 * 1024;

/// What the requests of one connection share.
pub(crate) struct Session {
    pub(crate) shared: Arc<Shared>,
    /// Where the client is.
    pub(crate) peer: SocketAddr,
    /// Where it reached us: what it is told to connect to.
    pub(crate) local: SocketAddr,
    is_authenticated: AtomicBool,
    /// Until when nothing more is read, because the client has exceeded a quota.
    muted_until: Mutex<Duration>,
    /// Who the client is, once it has authenticated.
    user: Mutex<Option<String>>,
    /// Where authentication stands, until it is done.
    pub(crate) authentication: Mutex<Authentication>,
    /// What a consumer on this connection follows.
    pub(crate) fetch_session: Mutex<Option<FetchSession>>,
    /// What is known of the partitions that it fetches.
    pub(crate) followed: Mutex<Followed>,
    /// What members of share groups on this connection follow.
    pub(crate) share_sessions: Mutex<ShareSessions>,
    /// Requests that have not started before their turn, and whose answers are still to come.
    waiting: AtomicUsize,
}

/// The frame to send, or none for a request that has no answer.
type Answer = BoxFuture<'static, Result<Option<Bytes>, ConnectionError>>;

struct Pending {
    answer: Answer,
    /// Whether it is one of [`Session::waiting`].
    is_counted: bool,
    /// Held until the answer is sent.
    _bytes: OwnedSemaphorePermit,
}

impl Session {
    pub(crate) fn is_authenticated(&self) -> bool {
        self.is_authenticated.load(Ordering::Acquire)
    }

    fn frame_bytes_max(&self) -> usize {
        if self.is_authenticated() { FRAME_BYTES_MAX } else { STRANGERS_FRAME_BYTES_MAX }
    }

    /// Counts bytes against the client's quotas: for how long it is throttled, in milliseconds.
    pub(crate) fn throttle(&self, client_id: &str, what: &'static str, bytes: usize) -> i32 {
        let shared = &self.shared;
        if !shared.quotas.has_any(&*shared.kernel) {
            return 0;
        }
        let now = shared.clock.elapsed();
        let user = self.user.lock().clone().unwrap_or_else(|| "ANONYMOUS".to_owned());
        let whose = (user.as_str(), client_id);
        let wait = shared.quotas.charge(&*shared.kernel, now, whose, what, bytes);
        if !wait.is_zero() {
            let mut muted_until = self.muted_until.lock();
            *muted_until = (*muted_until).max(now + wait);
        }
        i32::try_from(wait.as_millis()).unwrap_or(i32::MAX)
    }

    /// The client in the words of ACLs.
    pub(crate) fn principal(&self) -> String {
        format!("User:{}", self.user.lock().as_deref().unwrap_or("ANONYMOUS"))
    }

    pub(crate) fn set_authenticated(&self, user: &str) {
        *self.user.lock() = Some(user.to_owned());
        self.is_authenticated.store(true, Ordering::Release);
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    connection: Connection,
) -> Result<(), ConnectionError> {
    let Connection { stream, peer, local, shutdown, .. } = connection;
    let followed = Mutex::new(Followed::new(&shared.topics));
    let session = Arc::new(Session {
        is_authenticated: AtomicBool::new(shared.accounts.is_open()),
        shared,
        peer,
        local,
        muted_until: Mutex::default(),
        user: Mutex::default(),
        authentication: Mutex::default(),
        fetch_session: Mutex::new(None),
        followed,
        share_sessions: Mutex::default(),
        waiting: AtomicUsize::new(0),
    });
    let ended = converse(session.clone(), stream.into_split(), shutdown).await;
    requests::share_fetch::disconnected(&session);
    ended
}

/// Reads requests and writes their answers, until the client goes or the node stops.
async fn converse(
    session: Arc<Session>,
    (read_half, write_half): (ReadHalf, WriteHalf),
    mut shutdown: Shutdown,
) -> Result<(), ConnectionError> {
    let (sender, receiver) = mpsc::channel(PIPELINE_MAX);
    let writing = write(session.clone(), write_half, receiver);
    tokio::pin!(writing);
    {
        let reading = read(session, read_half, sender);
        tokio::select! {
            // The client is gone: nobody waits for what is pending.
            ended = reading => return ended,
            ended = &mut writing => return ended,
            () = shutdown.requested() => {}
        }
    }
    // The sender went with the reader, so the writer ends after what is pending, unless that waits
    // for something that may not come: a long poll, a rebalance.
    task::timeout(DRAIN_TIMEOUT, writing).await.unwrap_or(Ok(()))
}

async fn read(
    session: Arc<Session>,
    mut stream: ReadHalf,
    queue: mpsc::Sender<Pending>,
) -> Result<(), ConnectionError> {
    let mut buffer = BytesMut::with_capacity(READ_BUFFER_BYTES);
    let bytes_budget = Arc::new(Semaphore::new(PIPELINE_BYTES_MAX));
    loop {
        while let Some(frame) =
            codec::take_frame(&mut buffer, session.frame_bytes_max()).map_err(malformed)?
        {
            let muted_for =
                session.muted_until.lock().saturating_sub(session.shared.clock.elapsed());
            if !muted_for.is_zero() {
                task::sleep(muted_for).await;
            }
            let permits = u32::try_from(frame.len()).unwrap_or(u32::MAX);
            let Ok(permit) = bytes_budget.clone().acquire_many_owned(permits).await else {
                return Ok(());
            };
            let pending = dispatch(&session, frame, permit)?;
            if queue.send(pending).await.is_err() {
                return Ok(());
            }
        }
        if !buffer.is_empty()
            && let Some(socket) = stream.socket()
        {
            net::acknowledge_at_once(socket);
        }
        make_room(&mut buffer, session.frame_bytes_max());
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// Space for the rest of a frame is taken as one piece up to [`READ_AHEAD_BYTES_MAX`], beyond that it
/// doubles with what has arrived: whoever announces much and sends nothing has cost an address range
/// that no memory stands behind. It is given back when a connection falls idle after a large request.
fn make_room(buffer: &mut BytesMut, frame_bytes_max: usize) {
    if !buffer.is_empty() {
        let missing = codec::missing_bytes(buffer).min(frame_bytes_max);
        let ahead = missing.min(buffer.len().max(READ_AHEAD_BYTES_MAX));
        buffer.reserve(ahead.max(READ_BUFFER_BYTES));
    } else if buffer.capacity() < READ_BUFFER_BYTES || buffer.capacity() > READ_BUFFER_BYTES_MAX {
        *buffer = BytesMut::with_capacity(READ_BUFFER_BYTES);
    }
}

fn malformed(error: CodecError) -> ConnectionError {
    ConnectionError::Malformed(error.to_string())
}

/// What will answer the frame.
fn dispatch(
    session: &Arc<Session>,
    frame: Bytes,
    permit: OwnedSemaphorePermit,
) -> Result<Pending, ConnectionError> {
    let request = match codec::decode_request(frame) {
        Ok(request) => request,
        // The one request that a client may send in a version we have never heard of.
        Err(CodecError::Version { api_key: ApiKey::ApiVersions, correlation_id, .. }) => {
            let refusal = ResponseKind::ApiVersions(requests::api_versions::unsupported_version());
            let frame = codec::encode_response(ApiKey::ApiVersions, 0, correlation_id, &refusal)
                .map_err(malformed)?;
            let answer: Answer = Box::pin(async move { Ok(Some(frame)) });
            return Ok(Pending { answer, is_counted: false, _bytes: permit });
        }
        Err(error) => return Err(malformed(error)),
    };
    let Request { api_key, version, correlation_id, client_id, body } = request;
    let started = session.shared.clock.elapsed();
    let is_eager = api_key == ApiKey::Produce
        && session.is_authenticated()
        && session.waiting.load(Ordering::Acquire) == 0;
    let session = session.clone();
    let answering: BoxFuture<'static, Result<Option<ResponseKind>, ConnectionError>> = match body {
        RequestKind::Produce(body) if is_eager => {
            Box::pin(requests::produce::start(&session, version, &client_id, body))
        }
        body => {
            session.waiting.fetch_add(1, Ordering::AcqRel);
            let session = session.clone();
            Box::pin(async move {
                let current = session.shared.kernel.pass_read_barrier().await;
                // The client tries another broker.
                current.map_err(|error| ConnectionError::Io(io::Error::other(error)))?;
                requests::answer(&session, version, &client_id, body).await
            })
        }
    };
    let answer: Answer = Box::pin(async move {
        let response = answering.await?;
        let meter = api::served_index(api_key).and_then(|index| session.shared.meters.get(index));
        if let Some(meter) = meter {
            let is_error = response.as_ref().is_some_and(requests::is_error);
            let took = session.shared.clock.elapsed().saturating_sub(started);
            meter.observe(took, is_error);
        }
        response
            .map(|response| codec::encode_response(api_key, version, correlation_id, &response))
            .transpose()
            .map_err(malformed)
    });
    Ok(Pending { answer, is_counted: !is_eager, _bytes: permit })
}

async fn write(
    session: Arc<Session>,
    mut stream: WriteHalf,
    mut queue: mpsc::Receiver<Pending>,
) -> Result<(), ConnectionError> {
    while let Some(pending) = queue.recv().await {
        let answer = pending.answer.await?;
        if pending.is_counted {
            session.waiting.fetch_sub(1, Ordering::AcqRel);
        }
        let Some(frame) = answer else {
            continue;
        };
        for chunk in frame.chunks(WRITE_CHUNK_BYTES) {
            match task::timeout(WRITE_TIMEOUT, stream.write_all(chunk)).await {
                Some(written) => written?,
                None => return Err(unread()),
            }
        }
    }
    stream.shutdown().await?;
    Ok(())
}

fn unread() -> ConnectionError {
    ConnectionError::Limit(format!(
        "the client has not read {WRITE_CHUNK_BYTES} bytes of a response for {} s",
        WRITE_TIMEOUT.as_secs()
    ))
}
