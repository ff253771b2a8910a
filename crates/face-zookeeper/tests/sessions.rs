//! Sessions: handshake, resumption, expiry, restart.

mod served;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proteus_env::ManualClock;
use proteus_face::Accounts;
use proteus_face_zookeeper::ZookeeperOptions;
use proteus_face_zookeeper::codec::{ConnectRequest, Request};
use proteus_kernel_api::tree;
use proteus_testkit::memory_kernel;
use served::{
    PATIENCE, Raw, connect, create, fresh, get, open, serve, serve_at, serve_options, serve_with,
};
use zookeeper_client as zk;

#[tokio::test]
async fn both_forms_of_the_handshake_are_answered_in_kind() {
    let served = serve();
    let (_raw, greeted) = Raw::connect(served.address, &fresh(6_000)).await;
    assert_eq!((greeted.frame_bytes, greeted.timeout_ms), (37, 6_000));
    assert_ne!(greeted.session_id, 0);
    let old = ConnectRequest { read_only: None, ..fresh(1) };
    let (_raw, greeted) = Raw::connect(served.address, &old).await;
    assert_eq!((greeted.frame_bytes, greeted.timeout_ms), (36, 100));
    let (_raw, greeted) = Raw::connect(served.address, &fresh(i32::MAX)).await;
    assert_eq!(greeted.timeout_ms, 40_000);
}

#[tokio::test]
async fn a_session_resumes_with_its_password_and_leaves_its_old_connection() {
    let served = serve();
    let (mut first, greeted) = Raw::connect(served.address, &fresh(6_000)).await;
    assert_eq!(first.ask(create("/e", 1)).await.error, 0);
    let resume = ConnectRequest {
        session_id: greeted.session_id,
        password: greeted.password.clone(),
        ..fresh(8_000)
    };
    let wrong = ConnectRequest { password: Bytes::from_static(&[9; 16]), ..resume.clone() };
    let short = ConnectRequest { password: Bytes::new(), ..resume.clone() };
    let unknown = ConnectRequest { session_id: greeted.session_id ^ 1, ..resume.clone() };
    for refused in [wrong, short, unknown] {
        let (mut raw, answer) = Raw::connect(served.address, &refused).await;
        assert_eq!((answer.session_id, answer.timeout_ms), (0, 0));
        assert_eq!(&answer.password[..], [0; 16]);
        assert!(raw.frame().await.is_none(), "the connection ends");
    }
    assert_eq!(first.ask(Request::Ping).await.error, 0, "none of those took the session");

    let (mut second, answer) = Raw::connect(served.address, &resume).await;
    assert_eq!((answer.session_id, answer.timeout_ms), (greeted.session_id, 8_000));
    assert!(first.frame().await.is_none(), "the session has moved");
    assert_eq!(second.ask(get("/e", false)).await.error, 0);
    assert_eq!(second.ask(Request::CloseSession).await.error, 0);
    assert!(second.frame().await.is_none());
    let (_raw, answer) = Raw::connect(served.address, &resume).await;
    assert_eq!(answer.session_id, 0, "a closed session cannot be resumed");
    let (mut third, _) = Raw::connect(served.address, &fresh(6_000)).await;
    assert_eq!(third.ask(get("/e", false)).await.error, -101);
}

#[tokio::test]
async fn pings_keep_a_session_alive_and_silence_ends_it() {
    let clock = Arc::new(ManualClock::at(1_000));
    let served = serve_at(memory_kernel(), Accounts::default(), clock.clone());
    let observer = connect(&served).await;
    let (mut raw, greeted) = Raw::connect(served.address, &fresh(1_000)).await;
    assert_eq!(raw.ask(create("/e", 1)).await.error, 0);
    for _ in 0..5 {
        clock.advance(Duration::from_millis(800));
        raw.request(-2, &[Request::Ping]).await;
        assert_eq!(raw.reply().await.xid, -2);
        // The observer is heard as well, by any request.
        assert!(observer.check_stat("/e").await.expect("a read").is_some());
    }
    let (_, gone) = observer.check_and_watch_stat("/e").await.expect("a read");
    pass_time_until_gone(&clock, &observer, "/e").await;
    assert_eq!(gone.changed().await.event_type, zk::EventType::NodeDeleted);
    assert!(raw.frame().await.is_none(), "its connection ends");
    let resume = ConnectRequest {
        session_id: greeted.session_id,
        password: greeted.password,
        ..fresh(1_000)
    };
    let (_raw, answer) = Raw::connect(served.address, &resume).await;
    assert_eq!((answer.session_id, answer.timeout_ms), (0, 0));
}

#[tokio::test]
async fn a_local_session_is_stored_when_it_creates_an_ephemeral() {
    let kernel = memory_kernel();
    let options = ZookeeperOptions { has_local_sessions: true, ..ZookeeperOptions::default() };
    let served = serve_options(kernel.clone(), options);
    let stored = || {
        let read = kernel.read(|view| tree::sessions(view.state, None, 10));
        read.expect("a kernel in memory").len()
    };
    let (mut raw, greeted) = Raw::connect(served.address, &fresh(6_000)).await;
    assert_eq!(raw.ask(create("/a", 0)).await.error, 0);
    assert_eq!(raw.ask(get("/a", true)).await.error, 0);
    assert_eq!(stored(), 0);
    let resume = |password: &Bytes| ConnectRequest {
        session_id: greeted.session_id,
        password: password.clone(),
        ..fresh(8_000)
    };
    let (_refused, answer) =
        Raw::connect(served.address, &resume(&Bytes::from_static(&[9; 16]))).await;
    assert_eq!(answer.session_id, 0);
    let (mut raw, answer) = Raw::connect(served.address, &resume(&greeted.password)).await;
    assert_eq!((answer.session_id, answer.timeout_ms), (greeted.session_id, 8_000));

    // In one pipeline, so that the second meets a session that is being stored.
    raw.request(1, &[create("/e", 1), create("/f", 1), create("/g", 0), get("/e", false)]).await;
    for xid in 1..=4 {
        let reply = raw.reply().await;
        assert_eq!((reply.xid, reply.error), (xid, 0));
    }
    assert_eq!(stored(), 1);
    let (mut raw, answer) = Raw::connect(served.address, &resume(&greeted.password)).await;
    assert_eq!(answer.session_id, greeted.session_id, "it is stored with its password");
    assert_eq!(raw.ask(Request::CloseSession).await.error, 0);
    assert_eq!(stored(), 0);

    let (mut local, greeted) = Raw::connect(served.address, &fresh(6_000)).await;
    assert_eq!(local.ask(get("/e", false)).await.error, -101, "ephemerals go with their session");
    assert_eq!(local.ask(Request::CloseSession).await.error, 0);
    let (_raw, answer) = Raw::connect(served.address, &resume(&greeted.password)).await;
    assert_eq!(answer.session_id, 0, "a closed session cannot be resumed");
}

/// Moves the clock in steps, while the observer keeps its own session by asking.
async fn pass_time_until_gone(clock: &ManualClock, observer: &zk::Client, path: &str) {
    for _ in 0..1_000 {
        clock.advance(Duration::from_millis(100));
        if observer.check_stat(path).await.expect("a read").is_none() {
            return;
        }
        proteus_env::task::sleep(Duration::from_millis(20)).await;
    }
    panic!("{path} outlives its session");
}

/// A new face over the same kernel is what a restarted process is: znodes and sessions are there,
/// what was soft is gone.
#[tokio::test]
async fn sessions_outlive_a_restart_and_expire_after_it() {
    let (kernel, clock) = (memory_kernel(), Arc::new(ManualClock::at(1_000)));
    let before = serve_at(kernel.clone(), Accounts::default(), clock.clone());
    let cluster = before.address.to_string();
    let connector = zk::Client::connector().with_detached();
    let client = connector.connect(&cluster).await.expect("a served face");
    client.create("/kept", b"", &open(zk::CreateMode::Ephemeral)).await.expect("free");
    let (mut doomed, _) = Raw::connect(before.address, &fresh(1_000)).await;
    assert_eq!(doomed.ask(create("/lost", 1)).await.error, 0);
    let session = client.into_session();
    before.shutdown_handle.request();
    before.serving.stopped().await;

    let after = serve_at(kernel, Accounts::default(), clock.clone());
    let cluster = after.address.to_string();
    let connector = zk::Client::connector().with_session(session.clone());
    let client = connector.connect(&cluster).await.expect("a served face");
    assert_eq!(client.session_id(), session.id());
    let stat = client.check_stat("/kept").await.expect("a read").expect("kept");
    assert_eq!(stat.ephemeral_owner, session.id().0);
    let (stat, lost) = client.check_and_watch_stat("/lost").await.expect("a read");
    assert!(stat.is_some(), "the session has its full timeout again");
    pass_time_until_gone(&clock, &client, "/lost").await;
    assert_eq!(lost.changed().await.event_type, zk::EventType::NodeDeleted);

    let observer = connect(&after).await;
    let (stat, gone) = observer.check_and_watch_stat("/kept").await.expect("a read");
    assert!(stat.is_some());
    drop(client);
    assert_eq!(gone.changed().await.event_type, zk::EventType::NodeDeleted, "it was closed");
}

#[tokio::test]
async fn a_client_from_the_future_is_refused() {
    let served = serve();
    let (mut raw, greeted) = Raw::connect(served.address, &fresh(6_000)).await;
    let zxid = raw.ask(create("/a", 0)).await.zxid;
    let resume = |last_zxid_seen| ConnectRequest {
        last_zxid_seen,
        session_id: greeted.session_id,
        password: greeted.password.clone(),
        ..fresh(6_000)
    };
    let mut refused = Raw::open(served.address).await;
    let mut bytes = bytes::BytesMut::new();
    resume(zxid + (1 << 40)).encode(&mut bytes);
    refused.send(&bytes).await;
    assert!(refused.frame().await.is_none());
    let (mut raw, answer) = Raw::connect(served.address, &resume(zxid)).await;
    assert_eq!(answer.session_id, greeted.session_id);
    // Nor does an error show it less than it has seen.
    let again = raw.ask(create("/a", 0)).await;
    assert!(again.error == -110 && again.zxid >= zxid, "{again:?}, after {zxid:#x}");
}

#[tokio::test]
async fn accounts_admit_by_digest_and_refuse_others() {
    let passwords = BTreeMap::from([("ann".to_owned(), "secret".to_owned())]);
    let served = serve_with(memory_kernel(), Accounts::new(passwords));
    let auth = |secret: &'static str| Request::Auth {
        scheme: "digest".to_owned(),
        secret: Bytes::from_static(secret.as_bytes()),
    };
    let (mut raw, _) = Raw::connect(served.address, &fresh(6_000)).await;
    assert_eq!(raw.ask(create("/a", 0)).await.error, -102);
    assert_eq!(raw.ask(Request::Ping).await.error, 0);
    assert_eq!(raw.ask(auth("ann:secret")).await.error, 0);
    assert_eq!(raw.ask(create("/a", 0)).await.error, 0);
    for wrong in ["ann:Secret", "bob:secret", "ann", ""] {
        let (mut raw, _) = Raw::connect(served.address, &fresh(6_000)).await;
        assert_eq!(raw.ask(auth(wrong)).await.error, -115);
        assert!(raw.frame().await.is_none(), "the connection ends");
    }
    let cluster = served.address.to_string();
    let connector = zk::Client::connector().with_auth("digest", b"ann:secret");
    let client = connector.connect(&cluster).await.expect("the right password");
    assert!(client.check_stat("/a").await.expect("admitted").is_some());
}

#[tokio::test]
async fn stopping_answers_what_was_asked_and_ends_connections() {
    let served = serve();
    let (mut raw, _) = Raw::connect(served.address, &fresh(6_000)).await;
    assert_eq!(raw.ask(create("/a", 0)).await.error, 0);
    served.shutdown_handle.request();
    assert!(raw.frame().await.is_none());
    let stopped = proteus_env::task::timeout(PATIENCE, served.serving.stopped()).await;
    assert!(stopped.is_some());
}
