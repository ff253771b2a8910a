//! A node that does not have every key asks for those that it lacks: how it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proteus_env::{SystemClock, task};
use proteus_face::{Accounts, Metrics};
use proteus_face_redis::RedisFace;
use proteus_kernel_api::cache::Question;
use proteus_kernel_api::{
    Asking, ClusterView, Durability, Feed, Kernel, KernelError, Listener, Minitransaction,
    Proposal, View,
};
use proteus_testkit::{memory_kernel, serve_face};
use redis::Value;
use tokio::sync::Semaphore;

/// A node that lacks all keys, and is answered once so many questions have come.
struct Lacking {
    kernel: Arc<dyn Kernel>,
    wanted: AtomicUsize,
    asked: AtomicUsize,
    answering: Arc<Semaphore>,
}

impl Kernel for Lacking {
    fn propose_at(&self, _: Durability, minitransactions: Vec<Minitransaction>) -> Proposal {
        self.kernel.propose(minitransactions)
    }

    fn cluster(&self) -> ClusterView {
        self.kernel.cluster()
    }

    fn has_all(&self) -> bool {
        false
    }

    fn ask(&self, question: Question) -> Asking {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        if asked == self.wanted.load(Ordering::SeqCst) {
            self.answering.add_permits(asked);
        }
        let (kernel, answering) = (self.kernel.clone(), self.answering.clone());
        Box::pin(async move {
            let turn = task::timeout(Duration::from_secs(60), answering.acquire()).await;
            turn.expect("more questions come meanwhile").unwrap().forget();
            kernel.ask(question).await
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

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_came_together_are_asked_for_together_and_before_what_is_written() {
    let kernel = Arc::new(Lacking {
        kernel: memory_kernel(),
        wanted: AtomicUsize::new(10),
        asked: AtomicUsize::new(0),
        answering: Arc::new(Semaphore::new(0)),
    });
    let (clock, accounts) = (Arc::new(SystemClock::new()), Accounts::default());
    let face = RedisFace::new(kernel.clone(), clock, &Metrics::default(), accounts);
    let served = serve_face(Arc::new(face));
    let client = redis::Client::open(format!("redis://{}/", served.address)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut pipeline = redis::pipe();
    (0..10).for_each(|number| _ = pipeline.cmd("GET").arg(format!("k{number}")));
    pipeline.cmd("PING").cmd("SET").arg("k3").arg("v").cmd("GET").arg("k3");
    let answers: Vec<Value> = pipeline.query_async(&mut connection).await.unwrap();
    assert!(answers[..10].iter().all(|answer| *answer == Value::Nil), "{answers:?}");
    let pong = Value::SimpleString("PONG".to_owned());
    assert_eq!(answers[10..], [pong, Value::Okay, Value::BulkString(b"v".to_vec())]);
    // More than are asked for at once.
    kernel.answering.add_permits(1_000);
    let mut pipeline = redis::pipe();
    for number in 0..300 {
        pipeline.cmd("GET").arg(format!("k{number}")).cmd("ECHO").arg(number);
    }
    let answers: Vec<Value> = pipeline.query_async(&mut connection).await.unwrap();
    for (number, answers) in answers.chunks(2).enumerate() {
        let echo = Value::BulkString(number.to_string().into_bytes());
        assert_eq!(answers[1], echo);
        assert_eq!(answers[0] == Value::Nil, number != 3);
    }
}
