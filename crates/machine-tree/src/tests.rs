use std::collections::BTreeSet;
use std::ops::ControlFlow;

use bytes::Bytes;
use proptest::prelude::*;
use proteus_machine::{Abort, Ctx, Machine, Position, View};
use proteus_store::{LayeredStore, Read, State};
use proteus_types::{CommitTs, LogIndex, Term};

use crate::record::{self, Lifetime};
use crate::{
    Acl, AclEntry, CONTAINER_LINGER_MS, Change, Check, Credentials, Expected, Identity, NewNode,
    NodeKind, Op, Refusal, Reply, SessionId, Stat, TTL_MS_MAX, Tree, Zxid, acl::permission,
    children, data, ephemerals, node_count, session, sessions, stat,
};

mod access;
mod quotas;

const TRUSTED: Credentials = Credentials::TRUSTED;
const ALICE: SessionId = SessionId(1);
const BOB: SessionId = SessionId(2);

/// One shard with nothing but the tree: each step is a minitransaction of its own.
#[derive(Default)]
struct World {
    store: LayeredStore,
    now: CommitTs,
    changes: Vec<Change>,
}

impl World {
    fn new() -> World {
        World { now: CommitTs::from_physical_ms(1_000), ..World::default() }
    }

    fn with_sessions() -> World {
        let mut world = World::new();
        for session in [ALICE, BOB] {
            let op = Op::CreateSession { session, password: [7; 16], timeout_ms: 4_000 };
            assert_eq!(world.apply(&op), Ok(Reply::SessionOpen));
        }
        world
    }

    fn apply(&mut self, op: &Op) -> Result<Reply, Refusal> {
        self.now = self.now.plus(1);
        let position = Position::new(proteus_types::ShardId::META, Term(1), LogIndex(1), self.now);
        self.changes.clear();
        self.store.savepoint();
        let changes = &mut self.changes;
        let mut emit = |change| changes.push(change);
        match Tree::apply(&mut Ctx::new(&mut self.store, position, &mut emit), op) {
            Ok(reply) => Ok(reply),
            Err(Abort::Fault(fault)) => panic!("the memory store failed: {fault}"),
            Err(Abort::Refused(refusal)) => {
                self.store.rollback();
                self.changes.clear();
                Err(refusal)
            }
        }
    }

    fn check(&mut self, check: &Check) -> Result<(), Refusal> {
        let position = Position::new(proteus_types::ShardId::META, Term(1), LogIndex(1), self.now);
        let mut emit = |_| panic!("a check changes nothing");
        match Tree::check(&mut Ctx::new(&mut self.store, position, &mut emit), check) {
            Ok(()) => Ok(()),
            Err(Abort::Refused(refusal)) => Err(refusal),
            Err(Abort::Fault(fault)) => panic!("the memory store failed: {fault}"),
        }
    }

    fn create(&mut self, path: &str, kind: NodeKind) -> Result<String, Refusal> {
        self.create_with(path, kind, false)
    }

    fn create_with(
        &mut self,
        path: &str,
        kind: NodeKind,
        sequential: bool,
    ) -> Result<String, Refusal> {
        let data = Some(Bytes::from_static(b"data"));
        let op = Op::Create(NewNode { kind, sequential, ..NewNode::persistent(path, data) });
        match self.apply(&op)? {
            Reply::Created { path, .. } => Ok(path),
            reply => panic!("a creation answered {reply:?}"),
        }
    }

    fn delete(&mut self, path: &str) -> Result<Reply, Refusal> {
        self.apply(&Op::Delete { path: path.to_owned(), version: None, by: TRUSTED })
    }

    fn stat(&self, path: &str) -> Option<Stat> {
        stat(&self.store, path).expect("sound state")
    }

    fn children(&self, path: &str) -> Vec<String> {
        children(&self.store, path).expect("sound state").expect("a znode").0
    }

    fn due(&self) -> Vec<Op> {
        let now_ms = self.now.physical_ms();
        let view = View { state: &self.store, now_ms, applied_ts: self.now };
        Tree::due(view, 100).expect("sound state")
    }
}

fn no_node(path: &str) -> Refusal {
    Refusal::NoNode { path: path.to_owned() }
}

#[test]
fn stat_counts_as_zookeeper_does() {
    let mut world = World::new();
    world.create("/a", NodeKind::Persistent).expect("free");
    let created = Zxid::from_commit(world.now);
    let first = world.stat("/a").expect("created");
    let expected = Stat {
        czxid: created,
        mzxid: created,
        pzxid: created,
        ctime_ms: 1_000,
        mtime_ms: 1_000,
        data_length: 4,
        ..Stat::default()
    };
    assert_eq!(first, expected);

    world.create("/a/b", NodeKind::Persistent).expect("free");
    let children_changed = Zxid::from_commit(world.now);
    let stat = world.stat("/a").expect("created");
    assert_eq!((stat.cversion, stat.num_children, stat.pzxid), (1, 1, children_changed));
    assert_eq!((stat.mzxid, stat.version), (created, 0));

    world.delete("/a/b").expect("there");
    let stat = world.stat("/a").expect("created");
    assert_eq!((stat.cversion, stat.num_children), (2, 0));
    assert_eq!(stat.pzxid, Zxid::from_commit(world.now));

    let op = Op::SetData { path: "/a".to_owned(), data: None, version: Some(0), by: TRUSTED };
    assert!(world.apply(&op).is_ok());
    let (null, stat) = data(&world.store, "/a").expect("sound state").expect("a znode");
    assert_eq!((null, stat.version, stat.data_length), (None, 1, 0));
    assert_eq!(stat.mzxid, Zxid::from_commit(world.now));
}

#[test]
fn root_and_zookeepers_own_znodes_are_built_in() {
    let mut world = World::new();
    assert_eq!(world.children("/"), ["zookeeper"]);
    assert_eq!(world.children("/zookeeper"), ["config", "quota"]);
    assert_eq!(world.stat("/").map(|stat| (stat.cversion, stat.num_children)), Some((-1, 1)));
    world.create("/a", NodeKind::Persistent).expect("free");
    assert_eq!(world.children("/"), ["a", "zookeeper"]);
    assert_eq!(world.stat("/").map(|stat| stat.num_children), Some(2));
    assert_eq!(node_count(&world.store).expect("sound state"), 5);
    for path in ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"] {
        assert!(matches!(world.delete(path), Err(Refusal::BadArguments { .. })), "{path}");
        let exists = Refusal::NodeExists { path: path.to_owned() };
        assert_eq!(world.create(path, NodeKind::Persistent), Err(exists));
    }
}

#[test]
fn creation_is_refused_in_zookeepers_words() {
    let mut world = World::with_sessions();
    assert_eq!(world.create("/a/b", NodeKind::Persistent), Err(no_node("/a")));
    world.create("/e", NodeKind::Ephemeral(ALICE)).expect("free");
    let refusal = Refusal::NoChildrenForEphemerals { path: "/e".to_owned() };
    assert_eq!(world.create("/e/child", NodeKind::Persistent), Err(refusal));
    let exists = Refusal::NodeExists { path: "/e".to_owned() };
    assert_eq!(world.create("/e", NodeKind::Persistent), Err(exists));
    let unknown = SessionId(99);
    let expired = Refusal::SessionExpired { session: unknown };
    assert_eq!(world.create("/f", NodeKind::Ephemeral(unknown)), Err(expired));
    for (path, parent) in [("/a/", "/a"), ("/a//b", "/a/")] {
        // The parent is looked for before the path is judged.
        assert_eq!(world.create(path, NodeKind::Persistent), Err(no_node(parent)));
    }
    world.create("/a", NodeKind::Persistent).expect("free");
    for path in ["", "a", "/a/", "/.."] {
        let refused = world.create(path, NodeKind::Persistent);
        assert!(matches!(refused, Err(Refusal::BadArguments { .. })), "{path:?}");
    }
}

#[test]
fn sequential_names_count_all_children_ever_created() {
    let mut world = World::new();
    world.create("/q", NodeKind::Persistent).expect("free");
    let next = |world: &mut World, path: &str| world.create_with(path, NodeKind::Persistent, true);
    assert_eq!(next(&mut world, "/q/n-"), Ok("/q/n-0000000000".to_owned()));
    world.create("/q/plain", NodeKind::Persistent).expect("free");
    world.delete("/q/plain").expect("there");
    assert_eq!(next(&mut world, "/q/n-"), Ok("/q/n-0000000002".to_owned()));
    assert_eq!(next(&mut world, "/q/"), Ok("/q/0000000003".to_owned()));
    assert_eq!(next(&mut world, "/"), Ok("/0000000001".to_owned()));
}

#[test]
fn versions_and_children_guard_changes() {
    let mut world = World::new();
    world.create("/a", NodeKind::Persistent).expect("free");
    world.create("/a/b", NodeKind::Persistent).expect("free");
    let bad = Refusal::BadVersion { path: "/a/b".to_owned(), expected: 3, actual: 0 };
    let path = || "/a/b".to_owned();
    for op in [
        Op::SetData { path: path(), data: None, version: Some(3), by: TRUSTED },
        Op::Delete { path: path(), version: Some(3), by: TRUSTED },
        Op::CheckNode {
            path: path(),
            expected: Expected { version: Some(3), ..Expected::default() },
            by: TRUSTED,
        },
        Op::SetAcl { path: path(), acl: Acl::OPEN, version: Some(3), by: TRUSTED },
    ] {
        assert_eq!(world.apply(&op), Err(bad.clone()), "{op:?}");
    }
    assert_eq!(world.delete("/a"), Err(Refusal::NotEmpty { path: "/a".to_owned() }));
    assert_eq!(world.delete("/a/c"), Err(no_node("/a/c")));
    let op = Op::SetAcl { path: path(), acl: Acl::OPEN, version: Some(0), by: TRUSTED };
    assert!(world.apply(&op).is_ok());
    assert_eq!(world.stat("/a/b").map(|stat| (stat.aversion, stat.version)), Some((1, 0)));
}

#[test]
fn closing_a_session_deletes_its_ephemerals_in_the_same_commit() {
    let mut world = World::with_sessions();
    world.create("/a", NodeKind::Persistent).expect("free");
    world.create("/a/x", NodeKind::Ephemeral(ALICE)).expect("free");
    world.create("/a/y", NodeKind::Ephemeral(BOB)).expect("free");
    world.create("/z", NodeKind::Ephemeral(ALICE)).expect("free");
    assert_eq!(ephemerals(&world.store, ALICE).expect("sound state"), ["/a/x", "/z"]);

    let close = Op::CloseSession { session: ALICE };
    assert_eq!(world.apply(&close), Ok(Reply::SessionClosed { was_open: true }));
    let expected = [
        Change::NodeDeleted { path: "/a/x".to_owned(), acl: Acl::OPEN },
        Change::ChildrenChanged { path: "/a".to_owned(), acl: Acl::OPEN },
        Change::NodeDeleted { path: "/z".to_owned(), acl: Acl::OPEN },
        Change::ChildrenChanged { path: "/".to_owned(), acl: Acl::OPEN },
        Change::SessionClosed { session: ALICE },
    ];
    assert_eq!(world.changes, expected);
    assert_eq!(world.children("/a"), ["y"]);
    assert_eq!(world.stat("/z"), None);
    assert_eq!(session(&world.store, ALICE).expect("sound state"), None);
    assert_eq!(world.apply(&close), Ok(Reply::SessionClosed { was_open: false }));
    assert!(world.changes.is_empty());
}

#[test]
fn checks_fence_by_the_very_znode_and_session() {
    let mut world = World::with_sessions();
    world.create("/lock", NodeKind::Ephemeral(ALICE)).expect("free");
    let czxid = world.stat("/lock").expect("created").czxid;
    let held =
        Check::NodeExists { path: "/lock".to_owned(), czxid: Some(czxid), owner: Some(ALICE) };
    assert_eq!(world.check(&held), Ok(()));
    assert_eq!(world.check(&Check::SessionAlive { session: ALICE }), Ok(()));
    let version = |version| Check::NodeVersion { path: "/lock".to_owned(), version };
    assert_eq!(world.check(&version(0)), Ok(()));
    assert!(matches!(world.check(&version(1)), Err(Refusal::BadVersion { .. })));
    let absent = Check::NodeAbsent { path: "/lock".to_owned() };
    assert!(world.check(&absent).is_err());

    world.apply(&Op::CloseSession { session: ALICE }).expect("idempotent");
    assert_eq!(world.check(&held), Err(no_node("/lock")));
    assert_eq!(world.check(&absent), Ok(()));
    let expired = Refusal::SessionExpired { session: ALICE };
    assert_eq!(world.check(&Check::SessionAlive { session: ALICE }), Err(expired));
    world.create("/lock", NodeKind::Ephemeral(BOB)).expect("free again");
    let replaced = Refusal::NodeReplaced { path: "/lock".to_owned() };
    assert_eq!(world.check(&held), Err(replaced));
}

#[test]
fn sessions_are_listed_page_by_page() {
    let mut world = World::new();
    for id in [3, 1, 2, -5] {
        let op = Op::CreateSession { session: SessionId(id), password: [0; 16], timeout_ms: 1 };
        world.apply(&op).expect("free");
        assert!(matches!(world.apply(&op), Err(Refusal::SessionExists { .. })));
    }
    let page = |after, count_max| -> Vec<i64> {
        let page = sessions(&world.store, after, count_max).expect("sound state");
        page.into_iter().map(|(id, _)| id.0).collect()
    };
    assert_eq!(page(None, 2), [1, 2]);
    assert_eq!(page(Some(SessionId(2)), 2), [3, -5]);
    assert_eq!(page(Some(SessionId(-5)), 2), [0; 0]);
}

#[test]
fn an_emptied_container_goes_after_a_while() {
    let mut world = World::new();
    world.create("/c", NodeKind::Container).expect("free");
    let node = crate::node(&world.store, "/c").expect("sound state").expect("created");
    assert_eq!((node.kind(), node.stat().ephemeral_owner), (NodeKind::Container, 0));
    world.create("/c/x", NodeKind::Persistent).expect("free");
    world.delete("/c/x").expect("there");
    assert!(world.due().is_empty());
    world.now = CommitTs::from_physical_ms(world.now.physical_ms() + CONTAINER_LINGER_MS);
    let due = world.due();
    assert_eq!(due.len(), 1);
    assert_eq!(world.apply(&due[0]), Ok(Reply::OverdueVisited { removed: true }));
    assert_eq!(world.stat("/c"), None);
    assert!(world.due().is_empty());
    assert_eq!(world.apply(&due[0]), Ok(Reply::OverdueVisited { removed: false }));
}

#[test]
fn a_container_with_children_again_stays() {
    let mut world = World::new();
    world.create("/c", NodeKind::Container).expect("free");
    world.create("/c/x", NodeKind::Persistent).expect("free");
    world.delete("/c/x").expect("there");
    world.create("/c/y", NodeKind::Persistent).expect("free");
    world.now = CommitTs::from_physical_ms(world.now.physical_ms() + CONTAINER_LINGER_MS);
    for op in world.due() {
        assert_eq!(world.apply(&op), Ok(Reply::OverdueVisited { removed: false }));
    }
    assert_eq!(world.children("/c"), ["y"]);
    assert!(world.due().is_empty());
}

#[test]
fn a_container_emptied_again_lingers_from_then() {
    let mut world = World::new();
    world.create("/c", NodeKind::Container).expect("free");
    world.create("/c/x", NodeKind::Persistent).expect("free");
    world.delete("/c/x").expect("there");
    world.now = CommitTs::from_physical_ms(world.now.physical_ms() + CONTAINER_LINGER_MS / 2);
    world.create("/c/y", NodeKind::Persistent).expect("free");
    world.delete("/c/y").expect("there");
    world.now = CommitTs::from_physical_ms(world.now.physical_ms() + CONTAINER_LINGER_MS / 2);
    for op in world.due() {
        assert_eq!(world.apply(&op), Ok(Reply::OverdueVisited { removed: false }));
    }
    world.now = CommitTs::from_physical_ms(world.now.physical_ms() + CONTAINER_LINGER_MS / 2);
    for op in world.due() {
        assert_eq!(world.apply(&op), Ok(Reply::OverdueVisited { removed: true }));
    }
    assert_eq!(world.stat("/c"), None);
}

/// What must hold of every state: each index says what the records say.
fn assert_consistent(world: &World) {
    let read: &dyn Read = &world.store;
    let mut stored = BTreeSet::new();
    read.scan_prefix(&[record::SPACE, 1], &mut |key, _| {
        stored.insert(String::from_utf8(key[2..].to_vec()).expect("a path"));
        ControlFlow::Continue(())
    })
    .expect("sound state");
    let totals = record::totals(read).expect("sound state");
    assert_eq!(totals.stored_count, stored.len() as u64);
    assert_due_is_indexed(read, &stored);
    let mut owned = BTreeSet::new();
    for path in &stored {
        let node = record::node(read, path).expect("sound state").expect("scanned");
        let (names, stat) = children(read, path).expect("sound state").expect("scanned");
        assert_eq!(names.len(), node.child_count as usize, "{path}");
        assert_eq!(stat.num_children as usize, names.len(), "{path}");
        for name in names {
            let child = crate::path::join(path, &name);
            assert!(record::node(read, &child).expect("sound state").is_some(), "{child}");
        }
        if let Some((parent, name)) = crate::path::split(path) {
            assert!(world.children(parent).iter().any(|child| child == name), "{path}");
        }
        let (bytes, _) = data(read, path).expect("sound state").expect("scanned");
        let is_built_in = record::built_in_children(path).is_some();
        assert_eq!(bytes.is_some(), node.has_data || is_built_in && node.data_version == 0);
        if let Lifetime::Ephemeral(session) = node.lifetime {
            assert!(record::session(read, session).expect("sound state").is_some(), "{path}");
            assert_eq!(node.child_count, 0);
            owned.insert((session, path.clone()));
        }
    }
    for id in [ALICE, BOB] {
        for path in ephemerals(read, id).expect("sound state") {
            assert!(owned.remove(&(id, path.clone())), "{path} is no ephemeral of {id}");
        }
    }
    assert!(owned.is_empty(), "ephemerals without an index entry: {owned:?}");
}

/// What goes by itself is looked at when it is due.
fn assert_due_is_indexed(read: &dyn Read, stored: &BTreeSet<String>) {
    let mut indexed = BTreeSet::new();
    read.scan_prefix(&[record::SPACE, 6], &mut |key, _| {
        indexed.insert(key.to_vec());
        ControlFlow::Continue(())
    })
    .expect("sound state");
    for path in stored {
        let node = record::node(read, path).expect("sound state").expect("scanned");
        if let (Some(due_ms), 0) = (node.due_ms(), node.child_count) {
            assert!(
                indexed.contains(&record::due_key(due_ms, path)[..]),
                "{path} is never visited"
            );
        }
    }
}

fn any_path() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["/a", "/b", "/a/b", "/a/c", "/a/b/c", "/zookeeper/x", "/", "bad"])
        .prop_map(str::to_owned)
}

fn any_op() -> impl Strategy<Value = Op> {
    let session = prop::sample::select(vec![ALICE, BOB]);
    let kind = prop_oneof![
        3 => Just(NodeKind::Persistent),
        2 => session.clone().prop_map(NodeKind::Ephemeral),
        1 => Just(NodeKind::Container),
        1 => Just(NodeKind::TimeToLive(15_000)),
    ];
    // Short data stands with its znode's record, long data apart.
    let bytes = prop::option::of(prop::sample::select(vec![
        Bytes::from_static(b""),
        Bytes::from_static(b"x"),
        Bytes::from_static(&[7; 256]),
        Bytes::from_static(&[7; 257]),
    ]));
    let version = prop::option::of(0..2i32);
    prop_oneof![
        6 => (any_path(), bytes.clone(), kind, any::<bool>()).prop_map(|(path, data, kind, sequential)| {
            Op::Create(NewNode { kind, sequential, ..NewNode::persistent(path, data) })
        }),
        4 => (any_path(), version.clone()).prop_map(|(path, version)| Op::Delete { path, version, by: TRUSTED }),
        2 => (any_path(), bytes, version).prop_map(|(path, data, version)| {
            Op::SetData { path, data, version, by: TRUSTED }
        }),
        1 => any_path().prop_map(|path| {
            Op::SetAcl { path, acl: Acl::OPEN, version: None, by: TRUSTED }
        }),
        1 => (any_path(), 0..4u32).prop_map(|(path, count_max)| {
            Op::DeleteSubtree { path, count_max, by: TRUSTED }
        }),
        1 => any_path().prop_map(|path| {
            Op::DeleteIfPresent { path, version: None, by: TRUSTED }
        }),
        1 => session.clone().prop_map(|session| Op::CloseSession { session }),
        2 => session.prop_map(|session| {
            Op::CreateSession { session, password: [0; 16], timeout_ms: 4_000 }
        }),
        1 => any_path().prop_map(|path| Op::RemoveOverdue { path, due_ms: 0 }),
        1 => prop::sample::select(vec!["server.1=a", "server.1=b"])
            .prop_map(|servers| Op::SetMembers { servers: servers.to_owned() }),
    ]
}

proptest! {
    #[test]
    fn indexes_agree_with_records_after_any_ops(
        ops in prop::collection::vec(any_op(), 1..60)
    ) {
        let mut world = World::with_sessions();
        for op in &ops {
            let _refused_or_not = world.apply(op);
            for due in world.due() {
                world.apply(&due).expect("due ops do not refuse");
            }
            // Time enough now and then for containers to fall due.
            world.now = CommitTs::from_physical_ms(world.now.physical_ms() + 10_000);
        }
        assert_consistent(&world);
        for session in [ALICE, BOB] {
            world.apply(&Op::CloseSession { session }).expect("closing does not refuse");
            prop_assert!(ephemerals(&world.store, session).expect("sound state").is_empty());
        }
        assert_consistent(&world);
    }
}
