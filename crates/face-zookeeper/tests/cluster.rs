//! The face of one node among several: members, a majority that is lost and comes back, local reads.

mod served;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use proteus_env::task;
use proteus_face_zookeeper::codec::{ConnectRequest, ReadKind, ReconfigRequest, Request};
use proteus_face_zookeeper::{ReadLevel, ZookeeperOptions};
use proteus_kernel_api::{
    ClusterView, Durability, Feed, Kernel, KernelError, Listener, Member, MembersChange,
    MembersChanging, Minitransaction, NodeId, Proposal, ReadBarrier, Term, View,
};
use proteus_testkit::memory_kernel;
use served::{PATIENCE, Raw, create, fresh, get, serve_options, set};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A kernel of three nodes, of which this one leads, with a majority or without.
struct ClusterKernel {
    kernel: Arc<dyn Kernel>,
    view: Arc<Mutex<ClusterView>>,
    is_isolated: AtomicBool,
    /// Whether it has lately heard that it lacks nothing.
    is_recent: AtomicBool,
}

impl ClusterKernel {
    fn new() -> Arc<ClusterKernel> {
        let member = |node: u64| {
            let member = Member {
                peer_address: format!("10.0.0.{node}:7000"),
                client_host: format!("10.0.0.{node}"),
                port_offset: 0,
                incarnation: node,
                ..Member::default()
            };
            (NodeId(node), member)
        };
        let view = ClusterView {
            node: NodeId(1),
            leader: Some(NodeId(1)),
            term: Term(1),
            members: (1..=3).map(member).collect(),
            voters: (1..=3).map(NodeId).collect(),
        };
        Arc::new(ClusterKernel {
            kernel: memory_kernel(),
            view: Arc::new(Mutex::new(view)),
            is_isolated: AtomicBool::new(false),
            is_recent: AtomicBool::new(true),
        })
    }
}

impl Kernel for ClusterKernel {
    fn propose_at(&self, _: Durability, minitransactions: Vec<Minitransaction>) -> Proposal {
        if self.is_isolated.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        self.kernel.propose(minitransactions)
    }

    fn read_barrier(&self) -> Option<ReadBarrier> {
        let lost = || KernelError::Unavailable("no leader".to_owned());
        self.is_isolated
            .load(Ordering::SeqCst)
            .then(|| -> ReadBarrier { Box::pin(async move { Err(lost()) }) })
    }

    fn read_barrier_within(&self, staleness_max: Duration) -> Option<ReadBarrier> {
        assert_eq!(staleness_max, Duration::from_millis(1234));
        if self.is_recent.load(Ordering::SeqCst) { None } else { self.read_barrier() }
    }

    fn cluster(&self) -> ClusterView {
        self.view.lock().clone()
    }

    fn change_members(&self, change: MembersChange) -> MembersChanging {
        let view = self.view.clone();
        Box::pin(async move {
            let mut view = view.lock();
            view.voters.extend(&change.voting);
            view.members.retain(|node, _| !change.leaving.contains(node));
            view.voters.retain(|node| !change.leaving.contains(node));
            Ok(())
        })
    }

    fn read_dyn(&self, reader: &mut dyn FnMut(View<'_>)) -> Result<(), KernelError> {
        self.kernel.read_dyn(reader)
    }

    fn follow(&self, listener: Arc<dyn Listener>) {
        self.kernel.follow(listener);
    }

    fn feed(&self) -> &Feed {
        self.kernel.feed()
    }
}

/// `super:test`.
const SUPER: &str = "super:D/InIHSb7yEEbrWz8b9l71RjZJU=";

fn options() -> ZookeeperOptions {
    ZookeeperOptions {
        has_reconfig: true,
        super_digest: Some(SUPER.to_owned()),
        ..ZookeeperOptions::default()
    }
}

fn remove(node: &str, config_id: i64) -> Request {
    let leaving = Some(node.to_owned());
    Request::Reconfig(ReconfigRequest { leaving, config_id, ..ReconfigRequest::default() })
}

fn text(body: &mut Bytes) -> String {
    let length = usize::try_from(body.get_i32()).expect("some text");
    String::from_utf8(body.split_to(length).to_vec()).expect("text")
}

/// The members' znode once it has been written.
async fn written(raw: &mut Raw) -> String {
    let reading = async {
        loop {
            let mut reply = raw.ask(get("/zookeeper/config", false)).await;
            let text = text(&mut reply.body);
            if !text.is_empty() {
                return text;
            }
            task::sleep(Duration::from_millis(10)).await;
        }
    };
    task::timeout(PATIENCE, reading).await.expect("the leader writes the members")
}

#[tokio::test]
async fn members_are_read_watched_and_changed_by_who_may() {
    let kernel = ClusterKernel::new();
    let served = serve_options(kernel.clone(), options());
    let (mut raw, _) = Raw::connect(served.address, &fresh(6_000)).await;
    let before = written(&mut raw).await;
    assert!(before.starts_with("server.1=10.0.0.1:7000:7000:participant;10.0.0.1:2181\n"));
    let version = before.rsplit_once("\nversion=").expect("a version").1;
    let version = i64::from_str_radix(version, 16).expect("a zxid");

    assert_eq!(raw.ask(remove("3", -1)).await.error, -102, "anybody may read");
    let secret = Bytes::from_static(b"super:test");
    let auth = Request::Auth { scheme: "digest".to_owned(), secret };
    assert_eq!(raw.ask(auth).await.error, 0);
    assert_eq!(raw.ask(remove("3", version + 1)).await.error, -103);
    assert_eq!(raw.ask(remove("all", -1)).await.error, -8);
    let joining = Some("server.9=h:1:2;3".to_owned());
    let unknown = ReconfigRequest { joining, config_id: -1, ..ReconfigRequest::default() };
    assert_eq!(raw.ask(Request::Reconfig(unknown)).await.error, -13);

    let (mut watcher, _) = Raw::connect(served.address, &fresh(6_000)).await;
    assert_eq!(watcher.ask(get("/zookeeper/config", true)).await.error, 0);
    // Pipelined: a write after it is carried out after it, a read sees it.
    raw.request(1, &[remove("3", version), create("/a", 0), get("/zookeeper/config", false)]).await;
    let mut changed = raw.reply().await;
    assert_eq!((changed.xid, changed.error), (1, 0));
    let after = text(&mut changed.body);
    assert_eq!(changed.body.len(), 68, "the stat");
    assert!(after.contains("server.2=") && !after.contains("server.3="), "{after}");
    assert_eq!(raw.reply().await.error, 0);
    assert_eq!(text(&mut raw.reply().await.body), after);
    assert_eq!(watcher.reply().await.xid, -1, "the watch fires");
    assert_eq!(kernel.view.lock().voters, BTreeSet::from([NodeId(1), NodeId(2)]));
    // Once more: it is no member, so that nothing changes.
    let mut again = raw.ask(remove("3", -1)).await;
    assert_eq!((again.error, text(&mut again.body)), (0, after));
}

async fn word(served: &proteus_testkit::ServedFace, word: &str) -> String {
    let mut raw = Raw::open(served.address).await;
    raw.stream.write_all(word.as_bytes()).await.expect("open");
    let mut answer = String::new();
    raw.stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}

async fn wait_for_word(served: &proteus_testkit::ServedFace, asked: &str, expected: &str) {
    let waiting = async {
        while word(served, asked).await != expected {
            task::sleep(Duration::from_millis(20)).await;
        }
    };
    task::timeout(PATIENCE, waiting).await.unwrap_or_else(|| panic!("{asked} is never {expected}"));
}

fn reader() -> ConnectRequest {
    ConnectRequest { read_only: Some(true), ..fresh(6_000) }
}

#[tokio::test]
async fn without_a_majority_readers_are_served_and_nobody_else() {
    let kernel = ClusterKernel::new();
    let served = serve_options(kernel.clone(), options());
    let (mut writer, greeted) = Raw::connect(served.address, &fresh(6_000)).await;
    assert_eq!(writer.ask(create("/a", 0)).await.error, 0);
    assert_eq!(word(&served, "isro").await, "rw");
    kernel.is_isolated.store(true, Ordering::SeqCst);
    wait_for_word(&served, "isro", "ro").await;
    assert!(writer.frame().await.is_none(), "its connection is closed");
    assert!(word(&served, "srvr").await.contains("Mode: read-only"));

    let mut refused = Raw::open(served.address).await;
    let mut bytes = bytes::BytesMut::new();
    fresh(6_000).encode(&mut bytes);
    refused.send(&bytes).await;
    assert!(refused.frame().await.is_none(), "who wants to write is turned away");

    let (mut raw, _) = Raw::connect(served.address, &reader()).await;
    assert_eq!(raw.ask(get("/a", true)).await.error, 0);
    for change in [create("/b", 0), set("/a", "x"), Request::Sync { path: "/".to_owned() }] {
        assert_eq!(raw.ask(change).await.error, -119);
    }
    // A session that the node knows is resumed, one that it does not know is not said to have ended.
    let resumed = ConnectRequest {
        session_id: greeted.session_id,
        password: greeted.password.clone(),
        ..reader()
    };
    let (mut same, again) = Raw::connect(served.address, &resumed).await;
    assert_eq!(again.session_id, greeted.session_id);
    assert_eq!(same.ask(Request::read(ReadKind::Exists, "/a", false)).await.error, 0);
    let mut unknown = Raw::open(served.address).await;
    let mut bytes = bytes::BytesMut::new();
    ConnectRequest { session_id: 77, ..reader() }.encode(&mut bytes);
    unknown.send(&bytes).await;
    assert!(unknown.frame().await.is_none());

    kernel.is_isolated.store(false, Ordering::SeqCst);
    wait_for_word(&served, "isro", "rw").await;
    assert!(raw.frame().await.is_none() && same.frame().await.is_none(), "readers come again");
    let resumed = ConnectRequest { read_only: Some(false), ..resumed };
    let (mut writer, again) = Raw::connect(served.address, &resumed).await;
    assert_eq!(again.session_id, greeted.session_id);
    assert_eq!(writer.ask(set("/a", "x")).await.error, 0);
}

#[tokio::test]
async fn local_reads_wait_for_nobody_as_long_as_the_node_is_not_behind_but_a_sync_does() {
    let kernel = ClusterKernel::new();
    let local = ZookeeperOptions {
        read_level: ReadLevel::Local,
        staleness_max: Duration::from_millis(1234),
        serves_read_only: false,
        ..ZookeeperOptions::default()
    };
    let served = serve_options(kernel.clone(), local);
    let (mut one, _) = Raw::connect(served.address, &fresh(6_000)).await;
    let (mut other, _) = Raw::connect(served.address, &fresh(6_000)).await;
    assert_eq!(one.ask(create("/a", 0)).await.error, 0);
    kernel.is_isolated.store(true, Ordering::SeqCst);
    assert_eq!(one.ask(get("/a", false)).await.error, 0);
    assert_eq!(other.ask(get("/a", false)).await.error, 0);
    one.request(1, &[Request::Sync { path: "/a".to_owned() }]).await;
    assert!(one.frame().await.is_none(), "this node cannot catch up: the connection is lost");
    kernel.is_recent.store(false, Ordering::SeqCst);
    other.request(1, &[get("/a", false)]).await;
    assert!(other.frame().await.is_none(), "what it has may be too old");
}
