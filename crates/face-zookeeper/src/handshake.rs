//! A connection's beginning: a four-letter word, or a new or resumed session.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proteus_env::{random, task};
use proteus_face::{Connection, ConnectionError, Stream};
use proteus_kernel_api::tree::{self, SessionId, SessionPassword, Zxid};
use proteus_kernel_api::{KernelError, Minitransaction, Op, Outcome, Refusal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::debug;

use crate::auth::Access;
use crate::codec::{ConnectRequest, ConnectResponse, take_frame};
use crate::outbox::Outbox;
use crate::session::{Established, run};
use crate::sessions::LiveSession;
use crate::stats::ConnectionRecord;
use crate::{Shared, expiry, words};

/// How long a client may take to say what it wants.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Memory for what a client sends, to begin with.
const RECEIVE_BYTES: usize = 4 * 1024;

/// Draws of a session id before giving up. Two draws of 63 bits are never alike in practice.
const DRAWS_MAX: usize = 3;

/// Most sessions open at once. Each is durable and held in memory, and outlives its connection, so
/// that the connection budget does not bound them.
const SESSIONS_MAX: usize = 500_000;

/// How a connection begins.
enum Greeting {
    /// The client left.
    Gone,
    /// A four-letter word.
    Word(&'static str),
    /// The first frame.
    Frame(Bytes),
}

/// Serves one connection.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    mut connection: Connection,
) -> Result<(), ConnectionError> {
    greet_and_serve(&shared, &mut connection).await
}

async fn greet_and_serve(
    shared: &Arc<Shared>,
    connection: &mut Connection,
) -> Result<(), ConnectionError> {
    let mut received = BytesMut::with_capacity(RECEIVE_BYTES);
    let frame_bytes_max = shared.options.frame_bytes_max;
    let greeting = task::timeout(
        HANDSHAKE_TIMEOUT,
        greeting(&mut connection.stream, &mut received, frame_bytes_max),
    );
    let greeting = tokio::select! {
        greeting = greeting => greeting,
        () = connection.shutdown.requested() => return Ok(()),
    };
    match greeting {
        None => Err(ConnectionError::Limit(format!("no request within {HANDSHAKE_TIMEOUT:?}"))),
        Some(Err(error)) => Err(error),
        Some(Ok(Greeting::Gone)) => Ok(()),
        Some(Ok(Greeting::Word(word))) => {
            let answer = words::answer(word, shared, connection.local);
            connection.stream.write_all(answer.as_bytes()).await?;
            connection.stream.shutdown().await?;
            Ok(())
        }
        Some(Ok(Greeting::Frame(frame))) => {
            let request = ConnectRequest::decode(frame)
                .map_err(|error| ConnectionError::Malformed(error.to_string()))?;
            connect(shared, connection, received, request).await
        }
    }
}

async fn greeting(
    stream: &mut Stream,
    received: &mut BytesMut,
    frame_bytes_max: usize,
) -> Result<Greeting, ConnectionError> {
    loop {
        if let Some(word) = received.get(..4).and_then(words::recognise) {
            return Ok(Greeting::Word(word));
        }
        let frame = take_frame(received, frame_bytes_max)
            .map_err(|error| ConnectionError::Malformed(error.to_string()))?;
        if let Some(frame) = frame {
            return Ok(Greeting::Frame(frame));
        }
        if stream.read_buf(received).await? == 0 {
            return Ok(Greeting::Gone);
        }
    }
}

async fn connect(
    shared: &Arc<Shared>,
    connection: &mut Connection,
    received: BytesMut,
    request: ConnectRequest,
) -> Result<(), ConnectionError> {
    if shared.read_only.is_on() {
        return connect_read_only(shared, connection, received, request).await;
    }
    // A session that was opened on another node must be known here before it is looked for.
    shared.kernel.pass_read_barrier().await.map_err(unavailable)?;
    expiry::load(shared).map_err(unavailable)?;
    refuse_newer_client(shared, &request)?;
    let subject = connection.stream.client_subject();
    let access = Access::of(connection.peer.ip(), subject.as_deref());
    let outbox = Arc::new(Outbox::new(access.credentials().clone()));
    let timeout_ms = negotiated(shared, request.timeout_ms);
    let connection_id = connection.connection_id;
    let session = match request.session_id {
        0 => Some(create(shared, timeout_ms).await?),
        id => resume(shared, SessionId(id), &request.password, timeout_ms).await?,
    };
    let attached = session.filter(|(session, _)| session.attach(connection_id, &outbox));
    let Some((session, password)) = attached else {
        debug!(session = format_args!("{:#x}", request.session_id), "no such session to resume");
        let mut answer = BytesMut::new();
        ConnectResponse::expired(request.read_only.map(|_| false)).encode(&mut answer);
        connection.stream.write_all(&answer).await?;
        connection.stream.shutdown().await?;
        return Ok(());
    };
    let session = Opened { session, password, timeout_ms, is_read_only: false };
    converse(shared, connection, received, &request, session, access, outbox).await
}

/// A session that a connection holds.
struct Opened {
    session: Arc<LiveSession>,
    password: SessionPassword,
    timeout_ms: u32,
    is_read_only: bool,
}

/// Serves who comes while no majority can be reached, from this node's state.
async fn connect_read_only(
    shared: &Arc<Shared>,
    connection: &mut Connection,
    received: BytesMut,
    request: ConnectRequest,
) -> Result<(), ConnectionError> {
    let refused = |why: &str| Err(ConnectionError::Limit(why.to_owned()));
    if request.read_only != Some(true) {
        return refused("no majority can be reached, and the client takes no read-only server");
    }
    expiry::load(shared).map_err(unavailable)?;
    refuse_newer_client(shared, &request)?;
    let access = Access::of(connection.peer.ip(), connection.stream.client_subject().as_deref());
    let outbox = Arc::new(Outbox::new(access.credentials().clone()));
    let timeout_ms = negotiated(shared, request.timeout_ms);
    let is_new = request.session_id == 0;
    let found = if is_new {
        open_local(shared, timeout_ms)
    } else {
        known(shared, SessionId(request.session_id), &request.password)?
    };
    // Whether a session that is not known here has ended, nobody can say now.
    let Some((session, password)) = found else {
        return refused("the session to resume is not known here, and no majority can be asked");
    };
    if !session.attach(connection.connection_id, &outbox) || !shared.read_only.admit(&outbox) {
        return refused("the session ends, or a majority is there again");
    }
    let id = session.id;
    let opened = Opened { session, password, timeout_ms, is_read_only: true };
    let ended = converse(shared, connection, received, &request, opened, access, outbox).await;
    if is_new {
        shared.sessions.on_closed(id);
    }
    ended
}

/// The connection's life with its session.
async fn converse(
    shared: &Arc<Shared>,
    connection: &mut Connection,
    received: BytesMut,
    request: &ConnectRequest,
    opened: Opened,
    access: Access,
    outbox: Arc<Outbox>,
) -> Result<(), ConnectionError> {
    let Opened { session, password, timeout_ms, is_read_only } = opened;
    let connection_id = connection.connection_id;
    session.hear(shared.clock.elapsed());
    let response = ConnectResponse {
        timeout_ms: i32::try_from(timeout_ms).unwrap_or(i32::MAX),
        session_id: session.id.0,
        password,
        read_only: request.read_only.map(|_| is_read_only),
    };
    outbox.push(|into| response.encode(into));
    let record = Arc::new(ConnectionRecord::new(
        connection.peer,
        session.id.0,
        timeout_ms,
        shared.clock.wall_ms(),
        connection.stream.is_encrypted(),
    ));
    shared.connections.opened(connection_id, &record);
    let established = Established {
        session: session.clone(),
        access,
        outbox,
        record,
        received,
        // This node has seen as much.
        last_zxid: request.last_zxid_seen,
        is_read_only,
    };
    let ended = run(shared, connection, established).await;
    shared.connections.closed(connection_id);
    session.detach(connection_id);
    shared.watches.forget(connection_id);
    ended
}

/// A client that has seen more than this node must find one that has seen as much: else it would
/// see time go back. Losing the connection is how ZooKeeper says so.
fn refuse_newer_client(shared: &Shared, request: &ConnectRequest) -> Result<(), ConnectionError> {
    let last_zxid =
        shared.kernel.read(|view| Ok(Zxid::from_commit(view.applied_ts))).map_err(unavailable)?;
    if request.last_zxid_seen > last_zxid.0 {
        return Err(ConnectionError::Limit(format!(
            "the client has seen zxid {:#x}, this node only {:#x}; it must try another server",
            request.last_zxid_seen, last_zxid.0
        )));
    }
    Ok(())
}

fn negotiated(shared: &Shared, asked_ms: i32) -> u32 {
    let (min, max) = (shared.options.session_timeout_ms_min, shared.options.session_timeout_ms_max);
    u32::try_from(asked_ms).unwrap_or(0).min(max).max(min)
}

type Attachable = (Arc<LiveSession>, SessionPassword);

async fn create(shared: &Shared, timeout_ms: u32) -> Result<Attachable, ConnectionError> {
    if shared.sessions.count() >= SESSIONS_MAX {
        let why = format!("{SESSIONS_MAX} sessions are open; close some or let them expire");
        return Err(ConnectionError::Limit(why));
    }
    let drawn = || ConnectionError::Limit("no free session id was drawn".to_owned());
    if shared.options.has_local_sessions {
        return open_local(shared, timeout_ms).ok_or_else(drawn);
    }
    for _ in 0..DRAWS_MAX {
        let (id, password) = draw();
        let op = tree::Op::CreateSession { session: id, password, timeout_ms };
        let outcome = shared.kernel.commit(Minitransaction::of(Op::Tree(op))).await;
        match outcome.map_err(unavailable)? {
            Outcome::Committed { .. } => {
                // Known since its commit, unless it has expired since.
                let session = shared.sessions.get(id).ok_or_else(|| {
                    ConnectionError::Limit(format!("session {id} ended before it began"))
                })?;
                return Ok((session, password));
            }
            Outcome::Refused { refusal, .. } | Outcome::CheckFailed { refusal, .. } => {
                let taken = Refusal::Tree(tree::Refusal::SessionExists { session: id });
                if refusal != taken {
                    return Err(ConnectionError::Io(std::io::Error::other(refusal)));
                }
            }
        }
    }
    Err(drawn())
}

/// Id and password of a new session.
fn draw() -> (SessionId, SessionPassword) {
    // Positive and never 0, which means "no session" to clients.
    let id = SessionId((random::random_u64() >> 1).max(1).cast_signed());
    (id, random::random_bytes())
}

/// A session that is not stored.
fn open_local(shared: &Shared, timeout_ms: u32) -> Option<Attachable> {
    (0..DRAWS_MAX).find_map(|_| {
        let ((id, password), now) = (draw(), shared.clock.elapsed());
        let session = shared.sessions.open_local(id, password, timeout_ms, now)?;
        Some((session, password))
    })
}

/// The session as this node knows it, if the password is its own.
fn known(
    shared: &Shared,
    id: SessionId,
    password: &[u8],
) -> Result<Option<Attachable>, ConnectionError> {
    let stored = shared.kernel.read(|view| tree::session(view.state, id)).map_err(unavailable)?;
    Ok(match (stored, shared.sessions.get(id)) {
        (Some(stored), Some(live)) if is_same(&stored.password, password) => {
            Some((live, stored.password))
        }
        _ => None,
    })
}

/// The session, if it is alive and the password is its own.
async fn resume(
    shared: &Shared,
    id: SessionId,
    password: &[u8],
    timeout_ms: u32,
) -> Result<Option<Attachable>, ConnectionError> {
    if let Some(live) = shared.sessions.get(id)
        && let Some(own) = live.local_password()
    {
        if !is_same(&own, password) {
            return Ok(None);
        }
        live.set_timeout(timeout_ms);
        return Ok(Some((live, own)));
    }
    let stored = shared.kernel.read(|view| tree::session(view.state, id)).map_err(unavailable)?;
    let (Some(stored), Some(live)) = (stored, shared.sessions.get(id)) else {
        return Ok(None);
    };
    if !is_same(&stored.password, password) {
        return Ok(None);
    }
    if stored.timeout_ms != timeout_ms {
        let op = tree::Op::SetSessionTimeout { session: id, timeout_ms };
        let outcome = shared.kernel.commit(Minitransaction::of(Op::Tree(op))).await;
        if !matches!(outcome.map_err(unavailable)?, Outcome::Committed { .. }) {
            return Ok(None);
        }
    }
    let cluster = shared.kernel.cluster();
    if cluster.members.len() > 1 {
        // Whichever node held it lets go; and it is told whom to listen to.
        let op = tree::Op::MoveSession { session: id, to: cluster.node.0 };
        let outcome = shared.kernel.commit(Minitransaction::of(Op::Tree(op))).await;
        if !matches!(outcome.map_err(unavailable)?, Outcome::Committed { .. }) {
            return Ok(None);
        }
    }
    Ok(Some((live, stored.password)))
}

/// Takes the same time wherever the first wrong byte stands.
fn is_same(expected: &SessionPassword, given: &[u8]) -> bool {
    let differing = expected.len() ^ given.len();
    expected.iter().zip(given).fold(differing, |differing, (a, b)| differing | usize::from(a ^ b))
        == 0
}

/// ZooKeeper has no words for a server that cannot open sessions now: the connection is lost, and
/// the client tries again.
fn unavailable(error: KernelError) -> ConnectionError {
    ConnectionError::Io(std::io::Error::other(error))
}
