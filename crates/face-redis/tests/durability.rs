//! Who chooses how durable writes are before they are acknowledged.

#[path = "support/wire.rs"]
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proteus_env::SystemClock;
use proteus_face::{Accounts, Metrics};
use proteus_face_redis::RedisFace;
use proteus_kernel_api::{
    Durability, Feed, Kernel, KernelError, Listener, Minitransaction, Proposal, View,
};
use proteus_testkit::{ServedFace, memory_kernel, serve_face};
use wire::{Client, Reply};

/// Counts what was proposed how.
struct Counting {
    kernel: Arc<dyn Kernel>,
    durability: Durability,
    flushed: AtomicUsize,
    relaxed: AtomicUsize,
}

impl Kernel for Counting {
    fn propose_at(
        &self,
        durability: Durability,
        minitransactions: Vec<Minitransaction>,
    ) -> Proposal {
        let count = match durability {
            Durability::Flushed => &self.flushed,
            Durability::Relaxed => &self.relaxed,
        };
        count.fetch_add(1, Ordering::SeqCst);
        self.kernel.propose_at(durability, minitransactions)
    }

    fn durability(&self) -> Durability {
        self.durability
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

impl Counting {
    /// Proposals since the last call: flushed and relaxed ones.
    fn take(&self) -> (usize, usize) {
        (self.flushed.swap(0, Ordering::SeqCst), self.relaxed.swap(0, Ordering::SeqCst))
    }
}

fn serve(durability: Durability) -> (Arc<Counting>, ServedFace) {
    let kernel = memory_kernel();
    let (flushed, relaxed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let kernel = Arc::new(Counting { kernel, durability, flushed, relaxed });
    let clock = Arc::new(SystemClock::new());
    let accounts = Accounts::default();
    let face = RedisFace::new(kernel.clone(), clock, &Metrics::default(), accounts);
    (kernel, serve_face(Arc::new(face)))
}

fn text(client: &mut Client, line: &str) -> String {
    let words: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    match client.ask(&words) {
        Reply::Status(text) | Reply::Error(text) => text,
        Reply::Bulk(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        other => format!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_and_the_cluster_choose_how_durable_writes_are() {
    let (kernel, served) = serve(Durability::Flushed);
    let (mut one, mut other) = (Client::connect(served.address), Client::connect(served.address));
    assert_eq!(
        text(&mut one, "CONFIG GET appendfsync"),
        text(&mut other, "CONFIG GET appendfsync")
    );
    assert_eq!(text(&mut one, "PROTEUS.DURABILITY"), "always");
    kernel.take();

    assert_eq!(text(&mut one, "PROTEUS.DURABILITY everysec"), "OK");
    assert_eq!(text(&mut one, "SET a 1"), "OK");
    assert_eq!(text(&mut other, "SET b 1"), "OK");
    assert_eq!(kernel.take(), (1, 1), "the choice is of one connection");
    text(&mut one, "WAITAOF 1 0 0");
    assert_eq!(kernel.take(), (1, 0), "who asks for stable storage gets it");

    assert_eq!(text(&mut other, "CONFIG SET appendfsync everysec"), "OK");
    kernel.take();
    assert_eq!(text(&mut one, "PROTEUS.DURABILITY ALWAYS"), "OK");
    assert_eq!(text(&mut one, "SET a 2"), "OK");
    assert_eq!(text(&mut other, "SET b 2"), "OK");
    assert_eq!(kernel.take(), (1, 1), "a connection's choice is before the cluster's");
    assert_eq!(text(&mut one, "RESET"), "RESET");
    assert_eq!(text(&mut one, "PROTEUS.DURABILITY"), "everysec");

    assert!(text(&mut one, "PROTEUS.DURABILITY sometimes").starts_with("ERR"));
    assert!(text(&mut one, "CONFIG SET appendfsync sometimes").contains("always, everysec, no"));
    assert_eq!(text(&mut other, "CONFIG SET appendfsync always"), "OK");
    kernel.take();
    assert_eq!(text(&mut one, "SET a 3"), "OK");
    assert_eq!(kernel.take(), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_started_relaxed_says_so() {
    let (kernel, served) = serve(Durability::Relaxed);
    let mut client = Client::connect(served.address);
    assert!(text(&mut client, "CONFIG GET appendfsync").contains("101, 118, 101, 114, 121"));
    assert_eq!(text(&mut client, "SET a 1"), "OK");
    assert_eq!(kernel.take(), (0, 1));
    assert_eq!(text(&mut client, "PROTEUS.DURABILITY ALWAYS"), "OK");
    assert_eq!(text(&mut client, "SET a 2"), "OK");
    assert_eq!(kernel.take(), (1, 0));
}
