//! ACLs, identities, quotas, through a client and frame by frame.

mod served;

use std::collections::BTreeMap;

use bytes::{Buf, Bytes};
use proteus_face::Accounts;
use proteus_face_zookeeper::ZookeeperOptions;
use proteus_face_zookeeper::codec::{
    CheckStat, ChildDetails, ChildFilter, DeleteRequest, MultiOp, ReadKind, ReadRequest, Request,
};
use proteus_kernel_api::tree::{AclEntry, Stat, Zxid};
use proteus_testkit::memory_kernel;
use served::{
    Raw, connect, create, create_guarded, fresh, get, serve, serve_options, serve_with, set,
};
use zookeeper_client as zk;

fn entry(permissions: i32, scheme: &str, id: &str) -> AclEntry {
    AclEntry { permissions, scheme: scheme.to_owned(), id: id.to_owned() }
}

fn digest_auth(secret: &'static str) -> Request {
    Request::Auth { scheme: "digest".to_owned(), secret: Bytes::from_static(secret.as_bytes()) }
}

#[tokio::test]
async fn what_its_creator_guards_others_cannot_touch() {
    let served = serve();
    let (ann, bob) = (connect(&served).await, connect(&served).await);
    ann.auth("digest", b"ann:secret").await.expect("any password will do");
    bob.auth("digest", b"bob:secret").await.expect("any password will do");
    let guarded = zk::CreateMode::Persistent.with_acls(zk::Acls::creator_all());
    ann.create("/a", b"mine", &guarded).await.expect("free");
    let denied = zk::Error::NoAuth;
    assert_eq!(bob.get_data("/a").await.map(|_| ()), Err(denied.clone()));
    assert_eq!(bob.check_stat("/a").await.map(|_| ()), Err(denied.clone()));
    assert_eq!(bob.set_data("/a", b"", None).await.map(|_| ()), Err(denied.clone()));
    assert_eq!(bob.list_children("/a").await.map(|_| ()), Err(denied.clone()));
    assert_eq!(bob.get_acl("/a").await.map(|_| ()), Err(denied.clone()));
    let open = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
    assert_eq!(bob.create("/a/b", b"", &open).await.map(|_| ()), Err(denied.clone()));
    ann.create("/a/b", b"", &open).await.expect("permitted");
    assert_eq!(bob.delete("/a/b", None).await, Err(denied));
    let users: Vec<_> = ann.list_auth_users().await.expect("a session");
    let users: Vec<_> = users.iter().map(|user| (user.scheme(), user.user())).collect();
    assert_eq!(users, [("ip", "127.0.0.1"), ("digest", "ann")]);

    let (acl, stat) = ann.get_acl("/a").await.expect("its own");
    assert_eq!(acl.len(), 1);
    assert_eq!(acl[0].id(), "ann:7RJfAeIvrl4zdj6sS2fXrQHDvHM=");
    assert_eq!(stat.aversion, 0);
    let readable = [zk::Acl::new(zk::Permission::READ, zk::AuthId::anyone()), acl[0].clone()];
    let stat = ann.set_acl("/a", &readable, Some(0)).await.expect("its own");
    assert_eq!(stat.aversion, 1);
    assert_eq!(bob.get_data("/a").await.expect("readable now").0, b"mine");
    let (acl, _) = bob.get_acl("/a").await.expect("readable now");
    assert_eq!(acl[1].id(), "ann:x", "the hash is not shown");
}

#[tokio::test]
async fn a_watch_tells_nothing_of_what_may_not_be_read() {
    let served = serve();
    let (mut ann, _) = Raw::connect(served.address, &fresh(6_000)).await;
    let (mut bob, _) = Raw::connect(served.address, &fresh(6_000)).await;
    let everything = Request::AddWatch { path: "/".to_owned(), is_recursive: true };
    assert_eq!(bob.ask(everything).await.error, 0);
    assert_eq!(ann.ask(digest_auth("ann:x")).await.error, 0);
    assert_eq!(ann.ask(create_guarded("/a", 0, entry(31, "auth", ""))).await.error, 0);
    assert_eq!(ann.ask(set("/a", "x")).await.error, 0);
    assert_eq!(ann.ask(create("/b", 0)).await.error, 0);
    let event = bob.reply().await;
    assert_eq!((event.xid, event.body.slice(12..)), (-1, Bytes::from_static(b"/b")));
}

#[tokio::test]
async fn addresses_and_superusers_are_recognised() {
    let options = ZookeeperOptions {
        // Of "super:test".
        super_digest: Some("super:D/InIHSb7yEEbrWz8b9l71RjZJU=".to_owned()),
        ..ZookeeperOptions::default()
    };
    let served = serve_options(memory_kernel(), options);
    let (mut raw, _) = Raw::connect(served.address, &fresh(6_000)).await;
    let of_network = create_guarded("/here", 0, entry(31, "ip", "127.0.0.0/8"));
    assert_eq!(raw.ask(of_network).await.error, 0);
    assert_eq!(raw.ask(get("/here", false)).await.error, 0);
    let of_another = create_guarded("/there", 0, entry(31, "ip", "10.0.0.1"));
    assert_eq!(raw.ask(of_another).await.error, 0);
    assert_eq!(raw.ask(get("/there", false)).await.error, -102);
    for invalid in [entry(31, "ip", "nowhere"), entry(31, "host", "a"), entry(31, "world", "b")] {
        assert_eq!(raw.ask(create_guarded("/invalid", 0, invalid)).await.error, -114);
    }
    assert_eq!(raw.ask(digest_auth("super:wrong")).await.error, 0);
    assert_eq!(raw.ask(get("/there", false)).await.error, -102);
    assert_eq!(raw.ask(digest_auth("super:test")).await.error, 0);
    assert_eq!(raw.ask(get("/there", false)).await.error, 0);
    let other = Request::Auth { scheme: "kerberos".to_owned(), secret: Bytes::new() };
    assert_eq!(raw.ask(other).await.error, -115);
    assert!(raw.frame().await.is_none(), "the connection ends");
}

#[tokio::test]
async fn an_account_is_an_identity() {
    let passwords = BTreeMap::from([("ann".to_owned(), "secret".to_owned())]);
    let served = serve_with(memory_kernel(), Accounts::new(passwords));
    let (mut raw, _) = Raw::connect(served.address, &fresh(6_000)).await;
    assert_eq!(raw.ask(digest_auth("ann:secret")).await.error, 0);
    assert_eq!(raw.ask(create_guarded("/a", 0, entry(31, "auth", ""))).await.error, 0);
    assert_eq!(raw.ask(get("/a", false)).await.error, 0);
}

#[tokio::test]
async fn an_account_is_proven_without_sending_its_password() {
    let passwords = BTreeMap::from([("ann".to_owned(), "secret".to_owned())]);
    let served = serve_with(memory_kernel(), Accounts::new(passwords));
    let cluster = served.address.to_string();
    let sasl = |password: &'static str| zk::SaslOptions::digest_md5("ann", password);
    let connector = zk::Client::connector().with_sasl(sasl("secret"));
    let ann = connector.connect(&cluster).await.expect("the right password");
    let guarded = zk::CreateMode::Persistent.with_acls(zk::Acls::creator_all());
    ann.create("/a", b"", &guarded).await.expect("free");
    let (acl, _) = ann.get_acl("/a").await.expect("its own");
    assert_eq!((acl[0].scheme(), acl[0].id()), ("sasl", "ann"));
    let connector = zk::Client::connector().with_sasl(sasl("wrong")).with_fail_eagerly();
    assert!(connector.connect(&cluster).await.is_err());
}

#[tokio::test]
async fn one_op_of_a_multi_that_is_not_permitted_fails_all() {
    let served = serve();
    let (mut raw, _) = Raw::connect(served.address, &fresh(6_000)).await;
    assert_eq!(raw.ask(create_guarded("/p", 0, entry(1, "world", "anyone"))).await.error, 0);
    let Request::Create(new_node) = create("/q", 0) else { unreachable!("a creation") };
    let path = "/p".to_owned();
    let multi = vec![MultiOp::Create(new_node), MultiOp::SetData { path, data: None, version: -1 }];
    let reply = raw.ask(Request::Multi(multi)).await;
    // Each result: type -1, done 0, error, error again.
    let errors: Vec<i32> = (0..2).map(|at| (&reply.body[at * 13 + 5..]).get_i32()).collect();
    assert_eq!(errors, [0, -102]);
    assert_eq!(raw.ask(get("/q", false)).await.error, -101);
    let reads = ["/p", "/q"].map(|path| ReadRequest {
        kind: ReadKind::Data,
        path: path.to_owned(),
        watch: false,
    });
    assert_eq!(raw.ask(Request::MultiRead(reads.to_vec())).await.error, 0);
}

#[tokio::test]
async fn quotas_hold_and_are_counted() {
    let served = serve();
    let (mut raw, _) = Raw::connect(served.address, &fresh(6_000)).await;
    for path in ["/a", "/zookeeper/quota/a"] {
        assert_eq!(raw.ask(create(path, 0)).await.error, 0);
    }
    let limits = "/zookeeper/quota/a/zookeeper_limits";
    for path in [limits, "/zookeeper/quota/a/zookeeper_stats"] {
        assert_eq!(raw.ask(create(path, 0)).await.error, 0);
    }
    assert_eq!(raw.ask(set(limits, "count=-1,bytes=-1=;countHardLimit=2")).await.error, 0);
    assert_eq!(raw.ask(create("/a/b", 0)).await.error, 0);
    assert_eq!(raw.ask(create("/a/c", 0)).await.error, -125);
    let stats = raw.ask(get("/zookeeper/quota/a/zookeeper_stats", false)).await;
    assert_eq!(&stats.body[4..19], b"count=2,bytes=8");
}

#[tokio::test]
async fn what_clickhouse_asks_for_is_there() {
    let served = serve();
    let (mut raw, _) = Raw::connect(served.address, &fresh(6_000)).await;
    let flags = raw.ask(get("/keeper/feature_flags", false)).await;
    assert_eq!((flags.error, &flags.body[..6]), (0, &[0, 0, 0, 2, 0xFF, 0xE0][..]));
    for (path, flags) in [("/t", 0), ("/t/p", 0), ("/t/e", 1)] {
        assert_eq!(raw.ask(create(path, flags)).await.error, 0);
    }
    for (filter, expected) in [
        (ChildFilter::All, &b"\0\0\0\x02\0\0\0\x01e\0\0\0\x01p"[..]),
        (ChildFilter::Ephemeral, b"\0\0\0\x01\0\0\0\x01e"),
        (ChildFilter::Persistent, b"\0\0\0\x01\0\0\0\x01p"),
    ] {
        let list = Request::read(ReadKind::FilteredList(filter, None), "/t", false);
        let reply = raw.ask(list).await;
        assert_eq!(&reply.body[..expected.len()], expected);
    }
    let absent = |path: &str| Request::CheckAbsent { path: path.to_owned(), version: -1 };
    assert_eq!(raw.ask(absent("/t")).await.error, -110);
    assert_eq!(raw.ask(absent("/u")).await.error, 0);
    let Request::Create(mut again) = create("/t", 0) else { unreachable!("a creation") };
    again.code = 502;
    let reply = raw.ask(Request::Create(again)).await;
    assert_eq!((reply.error, &reply.body[..]), (0, &b"\0\0\0\x02/t"[..]));
    let subtree = |count_max| Request::DeleteSubtree { path: "/t".to_owned(), count_max };
    assert_eq!(raw.ask(subtree(2)).await.error, -111);
    assert_eq!(raw.ask(subtree(3)).await.error, 0);
    for (is_tolerant, expected) in [(true, 0), (false, -101)] {
        let delete = DeleteRequest { path: "/t".to_owned(), version: -1, is_tolerant };
        assert_eq!(raw.ask(Request::Delete(delete)).await.error, expected);
    }
}

#[tokio::test]
async fn keepers_listings_tell_stats_data_and_all_below() {
    let served = serve();
    let (mut raw, greeted) = Raw::connect(served.address, &fresh(6_000)).await;
    for (path, flags) in [("/t", 0), ("/t/e", 1), ("/t/p", 0), ("/t/p/q", 0)] {
        assert_eq!(raw.ask(create(path, flags)).await.error, 0);
    }
    let details = |stat, data| Some(ChildDetails { stat, data });
    let list = |details| {
        let kind = ReadKind::FilteredList(ChildFilter::All, details);
        Request::read(kind, "/t", false)
    };
    let names = &b"\0\0\0\x02\0\0\0\x01e\0\0\0\x01p"[..];
    // Names, the znode's stat, then a vector of stats and one of data: 68 bytes each stat.
    for (details, tail_bytes) in [
        (None, 0),
        (details(false, false), 8),
        (details(true, false), 8 + 2 * 68),
        (details(true, true), 8 + 2 * 68 + 2 * 8),
    ] {
        let reply = raw.ask(list(details)).await;
        assert_eq!((reply.error, &reply.body[..names.len()]), (0, names));
        assert_eq!(reply.body.len(), names.len() + 68 + tail_bytes, "{details:?}");
    }
    let reply = raw.ask(list(details(true, true))).await;
    let ephemeral_owner = &reply.body[names.len() + 68 + 4 + 44..][..8];
    assert_eq!(ephemeral_owner, greeted.session_id.to_be_bytes());

    let below = |count_max| Request::ListRecursive { path: "/t".to_owned(), count_max };
    let reply = raw.ask(below(10)).await;
    let all = b"\0\0\0\x03\0\0\0\x04/t/e\0\0\0\x04/t/p\0\0\0\x06/t/p/q";
    assert_eq!((reply.error, &reply.body[..]), (0, &all[..]));
    assert_eq!(raw.ask(below(2)).await.body[..4], [0, 0, 0, 2]);
    let path = "/none".to_owned();
    assert_eq!(raw.ask(Request::ListRecursive { path, count_max: 9 }).await.error, -101);

    let any = Stat {
        czxid: Zxid(-1),
        mzxid: Zxid(-1),
        pzxid: Zxid(-1),
        ctime_ms: -1,
        mtime_ms: -1,
        version: -1,
        cversion: -1,
        aversion: -1,
        ephemeral_owner: -1,
        data_length: -1,
        num_children: -1,
    };
    for (version, stat, expected) in [
        (-1, any, 0),
        (0, Stat { cversion: 2, num_children: 2, data_length: 4, ..any }, 0),
        (1, any, -103),
        (-1, Stat { cversion: 3, ..any }, -103),
        (-1, Stat { ephemeral_owner: 7, ..any }, -103),
    ] {
        let check = CheckStat { path: "/t".to_owned(), version, stat };
        assert_eq!(raw.ask(Request::CheckStat(check.clone())).await.error, expected, "{stat:?}");
        let multi = raw.ask(Request::Multi(vec![MultiOp::CheckStat(check)])).await;
        assert_eq!((&multi.body[5..]).get_i32(), expected);
    }

    let watched = ["/t", "/u"].map(|path| ReadRequest {
        kind: ReadKind::Exists,
        path: path.to_owned(),
        watch: true,
    });
    assert_eq!(raw.ask(Request::MultiRead(watched.to_vec())).await.error, 0);
    for change in [set("/t", "x"), create("/u", 0)] {
        raw.request(1, &[change]).await;
        let (event, reply) = (raw.reply().await, raw.reply().await);
        assert_eq!((event.xid, reply.xid), (-1, 1), "the watch's event, then the reply");
        assert_eq!(event.zxid, reply.zxid, "the event names its change, as from release 3.9 on");
    }
}
