//! ACLs, times to live, deletion of subtrees.

use super::*;

fn who(scheme: &str, id: &str) -> Credentials {
    Credentials::of(&[Identity { scheme: scheme.to_owned(), id: id.to_owned() }])
}

fn only(permissions: i32, scheme: &str, id: &str) -> Acl {
    Acl::new(vec![AclEntry { permissions, scheme: scheme.to_owned(), id: id.to_owned() }])
}

fn guarded(path: &str, acl: Acl, by: Credentials) -> Op {
    Op::Create(NewNode { acl, by, ..NewNode::persistent(path, None) })
}

fn not_permitted(path: &str) -> Refusal {
    Refusal::NotPermitted { path: path.to_owned() }
}

#[test]
fn every_change_needs_its_permission() {
    let mut world = World::new();
    let (ann, bob) = (who("digest", "ann:x"), who("digest", "bob:x"));
    world
        .apply(&guarded("/a", only(permission::ALL, "digest", "ann:x"), bob.clone()))
        .expect("free");
    let path = || "/a".to_owned();
    let set =
        |by: &Credentials| Op::SetData { path: path(), data: None, version: None, by: by.clone() };
    let child = |by: &Credentials| guarded("/a/b", Acl::OPEN, by.clone());
    let check = |by: &Credentials| Op::CheckNode {
        path: path(),
        expected: Expected::default(),
        by: by.clone(),
    };
    for op in [set(&bob), check(&bob)] {
        assert_eq!(world.apply(&op), Err(not_permitted("/a")));
    }
    for op in [set(&ann), check(&ann)] {
        assert!(world.apply(&op).is_ok());
    }
    assert_eq!(world.apply(&child(&bob)), Err(not_permitted("/a/b")));
    world.apply(&child(&ann)).expect("permitted");
    // Who may delete is said by the parent.
    let delete = |path: &str, by: &Credentials| Op::Delete {
        path: path.to_owned(),
        version: None,
        by: by.clone(),
    };
    assert_eq!(world.apply(&delete("/a/b", &bob)), Err(not_permitted("/a/b")));
    world.apply(&delete("/a/b", &ann)).expect("permitted");
    let open = |by: &Credentials| Op::SetAcl {
        path: path(),
        acl: Acl::OPEN,
        version: Some(0),
        by: by.clone(),
    };
    assert_eq!(world.apply(&open(&bob)), Err(not_permitted("/a")));
    world.apply(&open(&ann)).expect("permitted");
    assert_eq!(world.stat("/a").map(|stat| stat.aversion), Some(1));
    world.apply(&set(&bob)).expect("it is open now");
    world.apply(&delete("/a", &bob)).expect("the root is open");
}

#[test]
fn changes_carry_the_acl_of_what_changed() {
    let mut world = World::new();
    let acl = only(permission::READ | permission::CREATE, "ip", "10.0.0.0/8");
    world.apply(&guarded("/a", acl.clone(), TRUSTED)).expect("free");
    assert_eq!(world.changes[0], Change::NodeCreated { path: "/a".to_owned(), acl: acl.clone() });
    world.apply(&guarded("/a/b", Acl::OPEN, who("ip", "10.1.1.1"))).expect("permitted");
    let expected = [
        Change::NodeCreated { path: "/a/b".to_owned(), acl: Acl::OPEN },
        Change::ChildrenChanged { path: "/a".to_owned(), acl },
    ];
    assert_eq!(world.changes, expected);
}

#[test]
fn the_members_of_an_ensemble_are_read_only() {
    let mut world = World::new();
    let path = "/zookeeper/config".to_owned();
    let nobody = Credentials::of(&[]);
    assert_eq!(world.stat(&path).map(|stat| stat.aversion), Some(-1));
    let op = Op::SetData { path: path.clone(), data: None, version: None, by: nobody };
    assert_eq!(world.apply(&op), Err(not_permitted(&path)));
}

fn after(world: &mut World, ms: u64) {
    world.now = CommitTs::from_physical_ms(world.now.physical_ms() + ms);
    for op in world.due() {
        world.apply(&op).expect("due ops do not refuse");
    }
}

#[test]
fn a_znode_goes_when_its_time_to_live_has_passed_since_its_data_was_set() {
    let mut world = World::new();
    world.create("/t", NodeKind::TimeToLive(1_000)).expect("free");
    let node = crate::node(&world.store, "/t").expect("sound state").expect("created");
    assert_eq!((node.kind(), node.stat().ephemeral_owner), (NodeKind::TimeToLive(1_000), 0));
    after(&mut world, 900);
    let set = Op::SetData { path: "/t".to_owned(), data: None, version: None, by: TRUSTED };
    world.apply(&set).expect("there");
    after(&mut world, 900);
    assert!(world.stat("/t").is_some());
    world.create("/t/child", NodeKind::Persistent).expect("it may have children");
    after(&mut world, 900);
    assert!(world.stat("/t").is_some(), "it has a child");
    world.delete("/t/child").expect("there");
    after(&mut world, 0);
    assert_eq!(world.stat("/t"), None);
    assert!(world.due().is_empty());
    for ttl_ms in [0, TTL_MS_MAX + 1] {
        let refused = world.create("/t", NodeKind::TimeToLive(ttl_ms));
        assert!(matches!(refused, Err(Refusal::BadArguments { .. })));
    }
    world.create("/t", NodeKind::TimeToLive(TTL_MS_MAX)).expect("free");
    world.delete("/t").expect("there");
    world.now = CommitTs::from_physical_ms(TTL_MS_MAX * 2);
    assert!(world.due().is_empty(), "nothing stays behind");
}

#[test]
fn a_subtree_is_deleted_whole_or_not_at_all() {
    let mut world = World::new();
    for path in ["/a", "/a/b", "/a/c", "/a/c/d", "/z"] {
        world.create(path, NodeKind::Persistent).expect("free");
    }
    let subtree =
        |path: &str, count_max| Op::DeleteSubtree { path: path.to_owned(), count_max, by: TRUSTED };
    let refusal = Refusal::NotEmpty { path: "/a".to_owned() };
    assert_eq!(world.apply(&subtree("/a", 3)), Err(refusal));
    assert_eq!(world.apply(&subtree("/a", 4)), Ok(Reply::Deleted));
    assert_eq!(world.children("/"), ["z", "zookeeper"]);
    assert_eq!(world.changes.len(), 8);
    assert_eq!(world.apply(&subtree("/a", 4)), Err(no_node("/a")));
    assert!(matches!(world.apply(&subtree("/zookeeper", 4)), Err(Refusal::BadArguments { .. })));
    let delete = Op::DeleteIfPresent { path: "/a".to_owned(), version: None, by: TRUSTED };
    assert_eq!(world.apply(&delete), Ok(Reply::Deleted));
}

#[test]
fn what_exists_is_kept_on_demand_and_absence_can_be_expected() {
    let mut world = World::new();
    world.create("/a", NodeKind::Persistent).expect("free");
    let new_node = NewNode { keep_existing: true, ..NewNode::persistent("/a", None) };
    assert!(matches!(world.apply(&Op::Create(new_node)), Ok(Reply::Created { .. })));
    assert!(world.changes.is_empty());
    let absent =
        |path: &str, version| Op::CheckAbsent { path: path.to_owned(), version, by: TRUSTED };
    assert_eq!(world.apply(&absent("/b", None)), Ok(Reply::Checked));
    assert_eq!(world.apply(&absent("/a", Some(1))), Ok(Reply::Checked));
    for version in [None, Some(0)] {
        assert!(matches!(world.apply(&absent("/a", version)), Err(Refusal::NodeExists { .. })));
    }
}

#[test]
fn members_are_written_once_with_the_zxid_of_the_change_as_their_version() {
    let mut world = World::new();
    let set = |servers: &str| Op::SetMembers { servers: servers.to_owned() };
    for (servers, version, change_count) in [
        ("server.1=a", 1, 1),
        ("server.1=a", 1, 0),
        ("server.1=a\nserver.2=b", 2, 1),
        ("server.1=a", 3, 1),
    ] {
        let Ok(Reply::Changed { stat }) = world.apply(&set(servers)) else { panic!("refused") };
        assert_eq!((stat.version, world.changes.len()), (version, change_count));
        let (text, _) = data(&world.store, crate::CONFIG_PATH).unwrap().unwrap();
        let expected = format!("{servers}\nversion={:x}", stat.mzxid.0);
        assert_eq!(text, Some(Bytes::from(expected)));
    }
}
