//! Two nodes of which each leads half of the slots: what clients of Redis Cluster are told.

#[path = "support/lines.rs"]
mod lines;
#[path = "support/wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use lines::{ask, text};
use proteus_env::SystemClock;
use proteus_face::{Accounts, Metrics};
use proteus_face_redis::RedisFace;
use proteus_kernel_api::{
    ClusterView, Durability, Feed, Kernel, KernelError, Listener, Member, Minitransaction, NodeId,
    Proposal, ShardId, Slot, SlotsLed, View,
};
use proteus_testkit::{ServedFace, memory_kernel, serve_face};
use redis::AsyncCommands;
use redis::cluster::ClusterClient;
use wire::{Client, Reply};

const HALF: u16 = 8192;

/// A node over the state that both share.
struct Half {
    kernel: Arc<dyn Kernel>,
    node: NodeId,
    members: Arc<OnceLock<BTreeMap<NodeId, Member>>>,
}

impl Kernel for Half {
    fn propose_at(&self, _: Durability, minitransactions: Vec<Minitransaction>) -> Proposal {
        self.kernel.propose(minitransactions)
    }

    fn cluster(&self) -> ClusterView {
        let members = self.members.get().cloned().unwrap_or_default();
        ClusterView { node: self.node, leader: Some(NodeId(1)), members, ..ClusterView::default() }
    }

    fn slots_led(&self) -> Vec<SlotsLed> {
        let led = |first, last, number| SlotsLed {
            first,
            last,
            shard: ShardId(number),
            leader: Some(NodeId(number.into())),
        };
        vec![led(0, HALF - 1, 1), led(HALF, 16383, 2)]
    }

    fn leads_slot(&self, slot: Slot) -> bool {
        (slot.number() < HALF) == (self.node == NodeId(1))
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

/// The one that leads the lower half, and the other.
fn serve() -> (ServedFace, ServedFace) {
    let (kernel, members) = (memory_kernel(), Arc::new(OnceLock::new()));
    let clock = Arc::new(SystemClock::new());
    let served = [1, 2].map(|node| {
        let half = Half { kernel: kernel.clone(), node: NodeId(node), members: members.clone() };
        let accounts = Accounts::default();
        let face = RedisFace::new(Arc::new(half), clock.clone(), &Metrics::default(), accounts);
        serve_face(Arc::new(face))
    });
    let member = |served: &ServedFace| Member {
        client_host: "127.0.0.1".to_owned(),
        port_offset: served.address.port(),
        ..Member::default()
    };
    let all = [1, 2].map(NodeId).into_iter().zip(served.iter().map(member)).collect();
    members.set(all).unwrap();
    served.into()
}

// Slots: `b` has 3300, `{b}2` too, `a` has 15495.

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_wants_it_is_told_who_leads_and_any_other_is_served() {
    let (lower, upper) = serve();
    let mut plain = Client::connect(lower.address);
    let mut asking = Client::connect(lower.address);
    assert_eq!(text(&mut asking, "PROTEUS.REDIRECT"), "0");
    assert_eq!(text(&mut asking, "PROTEUS.REDIRECT ON"), "OK");
    assert_eq!(text(&mut asking, "PROTEUS.REDIRECT"), "1");
    let moved = format!("MOVED 15495 127.0.0.1:{}", upper.address.port());
    assert_eq!(text(&mut plain, "SET a 1"), "OK");
    assert_eq!(
        text(&mut plain, "MGET a b"),
        format!("{:?}", [Reply::Bulk(b"1".to_vec()), Reply::Nil])
    );
    assert_eq!(text(&mut asking, "GET a"), moved);
    assert_eq!(text(&mut asking, "SET b 1"), "OK");
    assert_eq!(text(&mut asking, "EVAL return{1} 1 a"), moved);
    assert_eq!(text(&mut asking, "SSUBSCRIBE a"), moved);
    assert_eq!(text(&mut asking, "SPUBLISH a message"), moved);
    assert_eq!(text(&mut asking, "BLPOP a 0"), moved);
    assert_eq!(text(&mut asking, "WATCH a"), moved);
    assert_eq!(text(&mut asking, "XREAD STREAMS a 0"), moved);
    let cross = "CROSSSLOT Keys in request don't hash to the same slot";
    assert_eq!(text(&mut asking, "MSET a 1 b 2"), cross);
    assert_eq!(text(&mut asking, "DEL b {b}2"), "1");
    // Clients take a node for a master or a replica; these are both.
    let Reply::Array(rows) = ask(&mut plain, "CLUSTER SLOTS") else { panic!("no slots") };
    assert_eq!(rows.len(), 2);
    for row in &rows {
        let Reply::Array(row) = row else { panic!("no row") };
        assert_eq!(row.len(), 3, "{row:?}");
    }
    assert_eq!(text(&mut plain, "CLUSTER NODES").matches("master").count(), 2);
    // What names no key is for whoever is asked.
    assert_eq!(text(&mut asking, "PING"), "PONG");
    assert_eq!(text(&mut asking, "PUBLISH a message"), "0");
    assert_eq!(text(&mut asking, "SELECT 1"), "ERR SELECT is not allowed in cluster mode");
    // One request only, and only here.
    assert_eq!(text(&mut asking, "ASKING"), "OK");
    assert_eq!(text(&mut asking, "GET a"), "1");
    assert_eq!(text(&mut asking, "GET a"), moved);
    // Reads, once it has said so.
    assert_eq!(text(&mut asking, "READONLY"), "OK");
    assert_eq!(text(&mut asking, "GET a"), "1");
    assert_eq!(text(&mut asking, "SET a 2"), moved);
    assert_eq!(text(&mut asking, "READWRITE"), "OK");
    assert_eq!(text(&mut asking, "GET a"), moved);
    assert!(text(&mut asking, "INFO cluster").contains("cluster_enabled:1"));
    assert!(text(&mut plain, "INFO cluster").contains("cluster_enabled:0"));
    assert_eq!(text(&mut asking, "RESET"), "RESET");
    assert_eq!(text(&mut asking, "GET a"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_of_one_slot_where_redirected() {
    let (lower, upper) = serve();
    let mut client = Client::connect(lower.address);
    let mut other = Client::connect(upper.address);
    assert_eq!(text(&mut client, "CONFIG SET cluster-enabled yes"), "OK");
    let moved = format!("MOVED 15495 127.0.0.1:{}", upper.address.port());
    // A setting of the cluster: both nodes do so, and for whoever is connected already.
    assert_eq!(text(&mut other, "GET b"), format!("MOVED 3300 127.0.0.1:{}", lower.address.port()));
    assert_eq!(text(&mut client, "MULTI"), "OK");
    assert_eq!(text(&mut client, "SET a 1"), moved);
    assert!(text(&mut client, "EXEC").starts_with("EXECABORT"));
    assert_eq!(text(&mut client, "MULTI"), "OK");
    assert_eq!(text(&mut client, "SET b 1"), "QUEUED");
    assert_eq!(text(&mut client, "SET c 1"), "QUEUED");
    assert!(text(&mut client, "EXEC").starts_with("CROSSSLOT"));
    assert_eq!(text(&mut client, "EXEC"), "ERR EXEC without MULTI");
    assert_eq!(text(&mut client, "EXISTS b"), "0");
    assert_eq!(text(&mut client, "MULTI"), "OK");
    assert_eq!(text(&mut client, "SET b 1"), "QUEUED");
    assert_eq!(text(&mut client, "INCR {b}2"), "QUEUED");
    assert!(text(&mut client, "EXEC").contains("Integer(1)"));
    // A connection may be served every key all the same.
    assert_eq!(text(&mut client, "PROTEUS.REDIRECT OFF"), "OK");
    assert_eq!(text(&mut client, "MSET a 1 b 2"), "OK");
    assert_eq!(text(&mut client, "PROTEUS.REDIRECT DEFAULT"), "OK");
    assert_eq!(text(&mut client, "GET a"), moved);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_tells_of_the_keys_that_it_leads() {
    let (lower, upper) = serve();
    let mut plain = Client::connect(lower.address);
    text(&mut plain, "MSET a 1 b 2 c 3 d 4 e 5 f 6 g 7");
    let all = ask(&mut plain, "KEYS *");
    let mut found = Vec::new();
    for served in [&lower, &upper] {
        let mut client = Client::connect(served.address);
        text(&mut client, "PROTEUS.REDIRECT ON");
        let Reply::Array(keys) = ask(&mut client, "KEYS *") else { panic!("no keys") };
        assert!(!keys.is_empty());
        assert_eq!(ask(&mut client, "SCAN 0 COUNT 100"), {
            Reply::Array(vec![Reply::Bulk(b"0".to_vec()), Reply::Array(keys.clone())])
        });
        found.extend(keys);
    }
    assert_eq!(Reply::Array(found), all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_client_finds_every_key_from_any_node() {
    let (lower, upper) = serve();
    let mut plain = Client::connect(lower.address);
    text(&mut plain, "CONFIG SET cluster-enabled yes");
    let client = ClusterClient::new(vec![format!("redis://{}/", upper.address)]).unwrap();
    let mut client = client.get_async_connection().await.unwrap();
    for number in 0..200 {
        let _: () = client.set(format!("key:{number}"), number).await.unwrap();
    }
    for number in 0..200 {
        assert_eq!(client.get::<_, i64>(format!("key:{number}")).await.unwrap(), number);
    }
    let keys: Vec<String> = (0..200).map(|number| format!("key:{number}")).collect();
    let values: Vec<i64> = client.mget(&keys).await.unwrap();
    assert_eq!(values, (0..200).collect::<Vec<_>>());
    let mut pipe = redis::pipe();
    pipe.incr("{t}1", 1).incr("{t}2", 5);
    let counted: (i64, i64) = pipe.query_async(&mut client).await.unwrap();
    assert_eq!(counted, (1, 5));
}
