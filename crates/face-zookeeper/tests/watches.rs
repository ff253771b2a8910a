//! Watches through the `zookeeper-client` crate and by hand.

mod served;

use proteus_face_zookeeper::codec::{Request, WatchSets};
use served::{Raw, connect, create, fresh, get, open, serve, set};
use zookeeper_client as zk;

#[tokio::test]
async fn each_kind_of_watch_tells_its_change() {
    let served = serve();
    let (watcher, writer) = (connect(&served).await, connect(&served).await);
    let persistent = open(zk::CreateMode::Persistent);
    let (absent, created) = watcher.check_and_watch_stat("/a").await.expect("a read");
    assert_eq!(absent, None);
    let (_, _, root_changed) = watcher.get_and_watch_children("/").await.expect("the root");
    writer.create("/a", b"1", &persistent).await.expect("free");
    let event = created.changed().await;
    assert_eq!((event.event_type, event.path.as_str()), (zk::EventType::NodeCreated, "/a"));
    let event = root_changed.changed().await;
    assert_eq!((event.event_type, event.path.as_str()), (zk::EventType::NodeChildrenChanged, "/"));

    let (_, _, changed) = watcher.get_and_watch_data("/a").await.expect("there");
    writer.set_data("/a", b"2", None).await.expect("there");
    assert_eq!(changed.changed().await.event_type, zk::EventType::NodeDataChanged);

    let (_, _, data_gone) = watcher.get_and_watch_data("/a").await.expect("there");
    let (_, _, children_gone) = watcher.get_and_watch_children("/a").await.expect("there");
    writer.delete("/a", None).await.expect("there");
    assert_eq!(data_gone.changed().await.event_type, zk::EventType::NodeDeleted);
    assert_eq!(children_gone.changed().await.event_type, zk::EventType::NodeDeleted);
}

#[tokio::test]
async fn persistent_watches_tell_every_change() {
    let served = serve();
    let (watcher, writer) = (connect(&served).await, connect(&served).await);
    let persistent = open(zk::CreateMode::Persistent);
    writer.create("/a", b"", &persistent).await.expect("free");
    let mode = zk::AddWatchMode::PersistentRecursive;
    let mut watch = watcher.watch("/a", mode).await.expect("a watch");
    for _ in 0..2 {
        writer.create("/a/b", b"", &persistent).await.expect("free");
        writer.set_data("/a/b", b"x", None).await.expect("there");
        writer.delete("/a/b", None).await.expect("there");
        for expected in
            [zk::EventType::NodeCreated, zk::EventType::NodeDataChanged, zk::EventType::NodeDeleted]
        {
            let event = watch.changed().await;
            assert_eq!((event.event_type, event.path.as_str()), (expected, "/a/b"));
        }
    }
}

#[tokio::test]
async fn a_removed_watch_is_silent() {
    let served = serve();
    let client = connect(&served).await;
    client.create("/a", b"", &open(zk::CreateMode::Persistent)).await.expect("free");
    let (mut raw, _) = Raw::connect(served.address, &fresh(6_000)).await;
    let watcher_type = proteus_face_zookeeper::codec::WatcherType::Any;
    let none = Request::RemoveWatches { path: "/a".to_owned(), watcher_type };
    assert_eq!(raw.ask(none.clone()).await.error, -121);
    assert_eq!(raw.ask(get("/a", true)).await.error, 0);
    let check = Request::CheckWatches { path: "/a".to_owned(), watcher_type };
    assert_eq!(raw.ask(check.clone()).await.error, 0);
    assert_eq!(raw.ask(none).await.error, 0);
    assert_eq!(raw.ask(check).await.error, -121);
    client.set_data("/a", b"x", None).await.expect("there");
    assert_eq!(raw.ask(Request::Ping).await.error, 0, "a reply, not an event");
}

/// The event of a watch set by a pipelined read comes after that read's reply and before the reply
/// to the write that caused it.
#[tokio::test]
async fn an_event_stands_between_the_read_and_the_write_that_caused_it() {
    let served = serve();
    let (mut raw, _) = Raw::connect(served.address, &fresh(6_000)).await;
    raw.request(1, &[create("/a", 0), get("/a", true), set("/a", "x"), get("/a", false)]).await;
    let mut xids = Vec::new();
    for _ in 0..5 {
        xids.push(raw.reply().await.xid);
    }
    assert_eq!(xids, [1, 2, -1, 3, 4]);
}

#[tokio::test]
async fn no_reader_sees_a_change_before_its_event() {
    let served = serve();
    let writer = connect(&served).await;
    writer.create("/a", b"0", &open(zk::CreateMode::Persistent)).await.expect("free");
    let writing = async {
        for round in 1..=200u32 {
            let data = round.to_string();
            writer.set_data("/a", data.as_bytes(), None).await.expect("there");
        }
    };
    let reading = async {
        let (mut raw, _) = Raw::connect(served.address, &fresh(6_000)).await;
        let mut is_watching = false;
        let mut seen = 0;
        while seen < 200 {
            raw.request(1, &[get("/a", !is_watching)]).await;
            let mut reply = raw.reply().await;
            let mut is_told = false;
            if reply.xid == -1 {
                is_told = true;
                reply = raw.reply().await;
            }
            assert_eq!(reply.xid, 1);
            let length = i32::from_be_bytes(*reply.body.first_chunk().expect("a buffer"));
            let data = &reply.body[4..4 + usize::try_from(length).expect("not null")];
            let data: u32 = std::str::from_utf8(data).expect("digits").parse().expect("a number");
            assert!(data == seen || !is_watching || is_told, "{data} without an event");
            // A watch that has fired is set again by the next read.
            is_watching = !is_told;
            seen = data;
        }
    };
    tokio::join!(writing, reading);
}

#[tokio::test]
async fn watches_sent_again_fire_for_what_was_missed() {
    let served = serve();
    let writer = connect(&served).await;
    let persistent = open(zk::CreateMode::Persistent);
    for path in ["/same", "/changed", "/gone", "/parent"] {
        writer.create(path, b"", &persistent).await.expect("free");
    }
    let (stat, _) = writer.create("/mark", b"", &persistent).await.expect("free");
    writer.set_data("/changed", b"x", None).await.expect("there");
    writer.delete("/gone", None).await.expect("there");
    writer.create("/parent/child", b"", &persistent).await.expect("free");
    writer.create("/born", b"", &persistent).await.expect("free");

    let paths = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    let sets = WatchSets {
        relative_zxid: stat.czxid,
        data: paths(&["/same", "/changed", "/gone"]),
        exist: paths(&["/born", "/unborn"]),
        child: paths(&["/parent", "/same"]),
        persistent: Some((paths(&["/p"]), paths(&["/r"]))),
    };
    let (mut raw, _) = Raw::connect(served.address, &fresh(6_000)).await;
    raw.request(-8, &[Request::SetWatches(sets)]).await;
    let mut events = Vec::new();
    loop {
        let reply = raw.reply().await;
        if reply.xid == -8 {
            assert_eq!(reply.error, 0);
            break;
        }
        events.push(event(&reply.body));
    }
    let expected = [(3, "/changed"), (2, "/gone"), (1, "/born"), (4, "/parent")]
        .map(|(kind, path)| (kind, path.to_owned()));
    assert_eq!(events, expected);

    writer.set_data("/same", b"x", None).await.expect("there");
    writer.create("/unborn", b"", &persistent).await.expect("free");
    writer.create("/r", b"", &persistent).await.expect("free");
    for expected in [(3, "/same"), (1, "/unborn"), (1, "/r")] {
        assert_eq!(event(&raw.reply().await.body), (expected.0, expected.1.to_owned()));
    }
}

fn event(body: &[u8]) -> (i32, String) {
    let kind = i32::from_be_bytes(*body.first_chunk().expect("an event"));
    (kind, String::from_utf8(body[12..].to_vec()).expect("a path"))
}
