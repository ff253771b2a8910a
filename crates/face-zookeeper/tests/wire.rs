//! What arrives on the socket: pipelines, garbage, words.

mod served;

use std::sync::Arc;

use bytes::BytesMut;
use proteus_env::task;
use proteus_face_zookeeper::codec::{MultiOp, ReadKind, ReconfigRequest, Request};
use proteus_kernel_api::{
    Durability, Feed, Kernel, KernelError, Listener, Minitransaction, Outcome, Proposal, View,
};
use proteus_testkit::memory_kernel;
use served::{Raw, create, fresh, get, serve, serve_over, set};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, oneshot};

type Queued = (Vec<Minitransaction>, oneshot::Sender<Result<Vec<Outcome>, KernelError>>);

/// A kernel that commits later than it is asked to, as one with a log does.
struct LaterKernel {
    kernel: Arc<dyn Kernel>,
    queue: mpsc::UnboundedSender<Queued>,
}

impl LaterKernel {
    fn start() -> Arc<dyn Kernel> {
        let kernel = memory_kernel();
        let (queue, mut queued) = mpsc::unbounded_channel::<Queued>();
        let committing = kernel.clone();
        task::spawn(async move {
            while let Some((minitransactions, sender)) = queued.recv().await {
                task::sleep(std::time::Duration::from_millis(1)).await;
                // A connection that is gone does not wait for its outcome.
                let _ = sender.send(committing.propose(minitransactions).await);
            }
        });
        Arc::new(LaterKernel { kernel, queue })
    }
}

impl Kernel for LaterKernel {
    fn propose_at(&self, _: Durability, minitransactions: Vec<Minitransaction>) -> Proposal {
        let (sender, receiver) = oneshot::channel();
        self.queue.send((minitransactions, sender)).expect("the committing task");
        Box::pin(async move { receiver.await.expect("the committing task") })
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

#[tokio::test]
async fn a_pipeline_is_carried_out_and_answered_in_order() {
    let served = serve_over(LaterKernel::start());
    let (mut raw, _) = Raw::connect(served.address, &fresh(6_000)).await;
    let mut requests = vec![create("/a", 0)];
    for round in 0..100 {
        requests.push(set("/a", &format!("{round:04}")));
        requests.push(set("/a", &format!("{round:04}")));
        requests.push(get("/a", false));
    }
    raw.request(0, &requests).await;
    let mut zxid = 0;
    for (xid, request) in (0..).zip(&requests) {
        let reply = raw.reply().await;
        assert_eq!((reply.xid, reply.error), (xid, 0));
        assert!(reply.zxid >= zxid, "zxids do not go back");
        zxid = reply.zxid;
        if matches!(request, Request::Read(_)) {
            let expected = format!("{:04}", (xid - 1) / 3);
            assert_eq!(&reply.body[4..8], expected.as_bytes());
        }
    }
}

#[tokio::test]
async fn a_watch_set_in_a_pipeline_sees_the_write_after_it() {
    let served = serve_over(LaterKernel::start());
    let (mut raw, _) = Raw::connect(served.address, &fresh(6_000)).await;
    raw.request(1, &[create("/a", 0), get("/a", true), set("/a", "x"), get("/a", false)]).await;
    let mut xids = Vec::new();
    for _ in 0..5 {
        xids.push(raw.reply().await.xid);
    }
    assert_eq!(xids, [1, 2, -1, 3, 4]);
}

#[tokio::test]
async fn closing_comes_after_what_was_asked_before() {
    let served = serve_over(LaterKernel::start());
    let (mut raw, _) = Raw::connect(served.address, &fresh(6_000)).await;
    let requests = [create("/e", 1), get("/e", false), Request::CloseSession, get("/e", false)];
    raw.request(1, &requests).await;
    for xid in 1..=3 {
        let reply = raw.reply().await;
        assert_eq!((reply.xid, reply.error), (xid, 0));
    }
    assert!(raw.frame().await.is_none(), "nothing is answered after the close");
}

#[tokio::test]
async fn unsupported_requests_are_answered_and_the_connection_goes_on() {
    let served = serve();
    let (mut raw, _) = Raw::connect(served.address, &fresh(6_000)).await;
    for code in [20, -10, 508, 9999] {
        let mut bytes = BytesMut::from(&8i32.to_be_bytes()[..]);
        bytes.extend_from_slice(&5i32.to_be_bytes());
        bytes.extend_from_slice(&i32::to_be_bytes(code));
        raw.send(&bytes).await;
        let reply = raw.reply().await;
        assert_eq!((reply.xid, reply.error), (5, -6), "type {code}");
    }
    // A time to live without one; a mode that there is not.
    for flags in [5, 7] {
        assert_eq!(raw.ask(create("/ttl", flags)).await.error, -8);
    }
    let Request::Create(create) = create("/ttl", 5) else { unreachable!("a creation") };
    let multi = vec![MultiOp::Create(create.clone()), MultiOp::Create(create)];
    let reply = raw.ask(Request::Multi(multi)).await;
    assert_eq!(reply.error, 0, "a failed multi tells its errors in its results");
    assert_eq!(reply.body[5..9], i32::to_be_bytes(-8));
    assert_eq!(raw.ask(Request::Reconfig(ReconfigRequest::default())).await.error, -123);
    // A body that is too short for its type.
    raw.send(&[0, 0, 0, 9, 0, 0, 0, 5, 0, 0, 0, 4, 0]).await;
    let reply = raw.reply().await;
    assert_eq!((reply.xid, reply.error), (5, -5));
    assert_eq!(raw.ask(Request::Ping).await.error, 0);
}

#[tokio::test]
async fn garbage_closes_its_connection_and_no_other() {
    let served = serve();
    let (mut bystander, _) = Raw::connect(served.address, &fresh(6_000)).await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xFF; 64], &[0, 0, 0, 3, 1, 2, 3]] {
        let mut raw = Raw::open(served.address).await;
        raw.send(garbage).await;
        assert!(raw.frame().await.is_none());
        let (mut raw, _) = Raw::connect(served.address, &fresh(6_000)).await;
        raw.send(garbage).await;
        assert!(raw.frame().await.is_none());
    }
    assert_eq!(bystander.ask(Request::Ping).await.error, 0);
}

#[tokio::test]
async fn four_letter_words_are_answered() {
    let served = serve();
    let (_raw, _) = Raw::connect(served.address, &fresh(6_000)).await;
    for (word, expected) in [
        ("ruok", "imok"),
        ("isro", "rw"),
        ("srvr", "Mode: standalone"),
        ("stat", "Connections: "),
        ("mntr", "zk_global_sessions\t1"),
        ("envi", "zookeeper.version=3."),
        ("dump", "not in the whitelist"),
    ] {
        let mut raw = Raw::open(served.address).await;
        raw.send(word.as_bytes()).await;
        let mut answer = String::new();
        raw.stream.read_to_string(&mut answer).await.expect("an answer and the end");
        assert!(answer.contains(expected), "{word}: {answer}");
    }
}

#[tokio::test]
async fn thousands_of_children_are_listed() {
    let served = serve();
    let (mut raw, _) = Raw::connect(served.address, &fresh(6_000)).await;
    let requests: Vec<Request> = (0..5_000).map(|n| create(&format!("/{n:08}"), 0)).collect();
    for some in requests.chunks(500) {
        raw.request(0, some).await;
        for _ in some {
            assert_eq!(raw.reply().await.error, 0);
        }
    }
    let reply = raw.ask(Request::read(ReadKind::ChildrenAndStat, "/", false)).await;
    assert_eq!(reply.body[..4], 5_001i32.to_be_bytes());
}
