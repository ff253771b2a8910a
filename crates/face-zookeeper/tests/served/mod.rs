//! What the end-to-end tests share: a served face, and a client that speaks frames by hand.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use proteus_env::net::TcpStream;
use proteus_env::{Clock, SystemClock, net, task};
use proteus_face::{Accounts, Metrics};
use proteus_face_zookeeper::codec::{ConnectRequest, CreateRequest, ReadKind, Request, take_frame};
use proteus_face_zookeeper::{ZookeeperFace, ZookeeperOptions};
use proteus_kernel_api::Kernel;
use proteus_kernel_api::tree::AclEntry;
use proteus_testkit::{ServedFace, memory_kernel, serve_face};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zookeeper_client as zk;

/// Longer than anything here takes; what does not happen within it does not happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn serve() -> ServedFace {
    serve_over(memory_kernel())
}

pub fn serve_over(kernel: Arc<dyn Kernel>) -> ServedFace {
    serve_with(kernel, Accounts::default())
}

pub fn serve_with(kernel: Arc<dyn Kernel>, accounts: Accounts) -> ServedFace {
    serve_at(kernel, accounts, Arc::new(SystemClock::new()))
}

/// Sessions expire by `clock`. It may be moved by up to a second at once: what is more looks as if
/// the process had stood still, which does not count.
pub fn serve_at(kernel: Arc<dyn Kernel>, accounts: Accounts, clock: Arc<dyn Clock>) -> ServedFace {
    // Short sessions, so that expiry can be seen.
    let options = ZookeeperOptions { session_timeout_ms_min: 100, ..ZookeeperOptions::default() };
    let metrics = Metrics::default();
    serve_face(Arc::new(ZookeeperFace::new(kernel, clock, &metrics, accounts, options)))
}

pub fn serve_options(kernel: Arc<dyn Kernel>, options: ZookeeperOptions) -> ServedFace {
    let (clock, metrics) = (Arc::new(SystemClock::new()), Metrics::default());
    let accounts = Accounts::default();
    serve_face(Arc::new(ZookeeperFace::new(kernel, clock, &metrics, accounts, options)))
}

pub async fn connect(served: &ServedFace) -> zk::Client {
    zk::Client::connect(&served.address.to_string()).await.expect("a served face")
}

pub fn open(mode: zk::CreateMode) -> zk::CreateOptions<'static> {
    mode.with_acls(zk::Acls::anyone_all())
}

/// A client that sends and receives frames as told, and no pings.
pub struct Raw {
    pub stream: TcpStream,
    received: BytesMut,
}

/// A reply's header and what follows.
#[derive(Debug)]
pub struct RawReply {
    pub xid: i32,
    pub zxid: i64,
    pub error: i32,
    pub body: Bytes,
}

/// What a handshake was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeted {
    pub frame_bytes: usize,
    pub timeout_ms: i32,
    pub session_id: i64,
    pub password: Bytes,
}

pub fn fresh(timeout_ms: i32) -> ConnectRequest {
    ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: 0,
        timeout_ms,
        session_id: 0,
        password: Bytes::from_static(&[0; 16]),
        read_only: Some(false),
    }
}

impl Raw {
    pub async fn open(address: SocketAddr) -> Raw {
        let stream = net::connect(address).await.expect("a served face");
        Raw { stream, received: BytesMut::new() }
    }

    pub async fn connect(address: SocketAddr, request: &ConnectRequest) -> (Raw, Greeted) {
        let mut raw = Raw::open(address).await;
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes);
        raw.send(&bytes).await;
        let mut frame = raw.frame().await.expect("an answer to the handshake");
        let frame_bytes = frame.len();
        frame.advance(4);
        let timeout_ms = frame.get_i32();
        let session_id = frame.get_i64();
        assert_eq!(frame.get_i32(), 16);
        let password = frame.split_to(16);
        (raw, Greeted { frame_bytes, timeout_ms, session_id, password })
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("an open connection");
    }

    /// Breaks the connection.
    pub async fn stop(&mut self) {
        self.stream.shutdown().await.expect("an open connection");
    }

    /// Sends requests in one write, numbered from `xid`.
    pub async fn request(&mut self, xid: i32, requests: &[Request]) {
        let mut bytes = BytesMut::new();
        for (offset, request) in (0..).zip(requests) {
            request.encode(xid + offset, &mut bytes);
        }
        self.send(&bytes).await;
    }

    /// The next frame; `None` once the server has closed.
    pub async fn frame(&mut self) -> Option<Bytes> {
        let read = async {
            loop {
                let frame = take_frame(&mut self.received, usize::MAX).expect("sound frames");
                if frame.is_some() {
                    return frame;
                }
                match self.stream.read_buf(&mut self.received).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        };
        task::timeout(PATIENCE, read).await.expect("a frame or the end")
    }

    pub async fn reply(&mut self) -> RawReply {
        let mut body = self.frame().await.expect("a reply");
        RawReply { xid: body.get_i32(), zxid: body.get_i64(), error: body.get_i32(), body }
    }

    /// One request and its reply.
    pub async fn ask(&mut self, request: Request) -> RawReply {
        self.request(77, std::slice::from_ref(&request)).await;
        let reply = self.reply().await;
        assert_eq!(reply.xid, 77);
        reply
    }
}

pub fn create(path: &str, flags: i32) -> Request {
    create_guarded(path, flags, AclEntry::open())
}

/// A creation with another ACL.
pub fn create_guarded(path: &str, flags: i32, acl: AclEntry) -> Request {
    Request::Create(CreateRequest {
        code: 1,
        path: path.to_owned(),
        data: Some(Bytes::from_static(b"data")),
        acl: vec![acl],
        flags,
        ttl_ms: None,
    })
}

pub fn set(path: &str, data: &str) -> Request {
    let data = Some(Bytes::copy_from_slice(data.as_bytes()));
    Request::SetData { path: path.to_owned(), data, version: -1 }
}

pub fn get(path: &str, watch: bool) -> Request {
    Request::read(ReadKind::Data, path, watch)
}
