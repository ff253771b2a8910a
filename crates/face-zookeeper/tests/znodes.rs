//! Znodes through the `zookeeper-client` crate, over a socket.

mod served;

use served::{connect, open, serve};
use zookeeper_client as zk;

#[tokio::test]
async fn create_get_set_delete() {
    let served = serve();
    let client = connect(&served).await;
    let (created, _) =
        client.create("/a", b"one", &open(zk::CreateMode::Persistent)).await.expect("free");
    let (data, stat) = client.get_data("/a").await.expect("there");
    assert_eq!((data.as_slice(), stat), (&b"one"[..], created));
    assert_eq!((stat.czxid, stat.mzxid, stat.version), (stat.mzxid, stat.pzxid, 0));

    let changed = client.set_data("/a", b"two", Some(0)).await.expect("at version 0");
    assert_eq!(changed.version, 1);
    assert!(changed.mzxid > changed.czxid && changed.data_length == 3);
    assert_eq!(client.set_data("/a", b"x", Some(0)).await, Err(zk::Error::BadVersion));
    assert_eq!(client.delete("/a", Some(0)).await, Err(zk::Error::BadVersion));
    client.delete("/a", Some(1)).await.expect("at version 1");
    assert_eq!(client.delete("/a", None).await, Err(zk::Error::NoNode));
    assert_eq!(client.check_stat("/a").await, Ok(None));
}

#[tokio::test]
async fn refusals_have_zookeepers_codes() {
    let served = serve();
    let client = connect(&served).await;
    let persistent = open(zk::CreateMode::Persistent);
    client.create("/a", b"", &persistent).await.expect("free");
    client.create("/a/b", b"", &persistent).await.expect("free");
    client.create("/e", b"", &open(zk::CreateMode::Ephemeral)).await.expect("free");
    let error = |result: Result<_, zk::Error>| match result {
        Err(error) => error,
        Ok((_, _)) => panic!("it was not refused"),
    };
    assert_eq!(error(client.create("/a", b"", &persistent).await), zk::Error::NodeExists);
    assert_eq!(error(client.create("/x/y", b"", &persistent).await), zk::Error::NoNode);
    let under_ephemeral = client.create("/e/x", b"", &persistent).await;
    assert_eq!(error(under_ephemeral), zk::Error::NoChildrenForEphemerals);
    assert_eq!(client.delete("/a", None).await, Err(zk::Error::NotEmpty));
    let unproven = zk::CreateMode::Persistent.with_acls(zk::Acls::creator_all());
    assert_eq!(error(client.create("/p", b"", &unproven).await), zk::Error::InvalidAcl);
    let mortal = open(zk::CreateMode::Persistent).with_ttl(std::time::Duration::from_secs(5));
    let (stat, _) = client.create("/t", b"", &mortal).await.expect("free");
    assert_eq!(stat.ephemeral_owner, 0);
    // What was created here, and ZooKeeper's own three.
    assert_eq!(client.count_descendants_number("/").await, Ok(7));
    assert_eq!(client.count_descendants_number("/zookeeper").await, Ok(2));
    assert_eq!(client.count_descendants_number("/a").await, Ok(1));
}

#[tokio::test]
async fn children_sequence_and_ephemerals() {
    let served = serve();
    let client = connect(&served).await;
    client.create("/q", b"", &open(zk::CreateMode::Persistent)).await.expect("free");
    for expected in 0..3 {
        let sequential = open(zk::CreateMode::EphemeralSequential);
        let (stat, sequence) = client.create("/q/n-", b"", &sequential).await.expect("free");
        assert_eq!(sequence.into_i64(), expected);
        assert_eq!(stat.ephemeral_owner, client.session_id().0);
    }
    let (mut names, stat) = client.get_children("/q").await.expect("there");
    names.sort();
    assert_eq!(names, ["n-0000000000", "n-0000000001", "n-0000000002"]);
    assert_eq!((stat.num_children, stat.cversion), (3, 3));
    let mut owned = client.list_ephemerals("/q").await.expect("a session");
    owned.sort();
    assert_eq!(owned.first().map(String::as_str), Some("/q/n-0000000000"));
    assert_eq!(client.list_children("/").await.expect("the root"), ["q", "zookeeper"]);
    let container = open(zk::CreateMode::Container);
    let (stat, _) = client.create("/c", b"", &container).await.expect("free");
    assert_eq!(stat.ephemeral_owner, 0);
    let (_, stat) = client.get_acl("/c").await.expect("there");
    let acls = [zk::Acl::new(zk::Permission::ALL, zk::AuthId::anyone())];
    let stat = client.set_acl("/c", &acls, Some(stat.aversion)).await.expect("the open ACL");
    assert_eq!(stat.aversion, 1);
}

#[tokio::test]
async fn multi_happens_entirely_or_not_at_all() {
    let served = serve();
    let client = connect(&served).await;
    let persistent = open(zk::CreateMode::Persistent);
    let mut writer = client.new_multi_writer();
    writer.add_create("/a", b"1", &persistent).expect("a path");
    // Held after the creation before it.
    writer.add_check_version("/a", 0).expect("a path");
    writer.add_set_data("/a", b"2", Some(0)).expect("a path");
    writer.add_create("/a/b", b"", &persistent).expect("a path");
    let results = writer.commit().await.expect("all hold");
    assert_eq!(results.len(), 4);
    let zxids: Vec<i64> = results
        .iter()
        .filter_map(|result| match result {
            zk::MultiWriteResult::Create { stat, .. } => Some(stat.czxid),
            zk::MultiWriteResult::SetData { stat } => Some(stat.mzxid),
            _ => None,
        })
        .collect();
    assert!(zxids.windows(2).all(|pair| pair[0] == pair[1]), "one commit, one zxid: {zxids:?}");

    let mut writer = client.new_multi_writer();
    writer.add_set_data("/a", b"3", None).expect("a path");
    writer.add_delete("/a/missing", None).expect("a path");
    writer.add_delete("/a/b", None).expect("a path");
    let failed = zk::MultiWriteError::OperationFailed { index: 1, source: zk::Error::NoNode };
    assert_eq!(writer.commit().await, Err(failed));
    assert_eq!(client.get_data("/a").await.expect("there").0, b"2");
    assert!(client.check_stat("/a/b").await.expect("a read").is_some());

    let mut reader = client.new_multi_reader();
    reader.add_get_data("/a").expect("a path");
    reader.add_get_children("/a").expect("a path");
    reader.add_get_data("/missing").expect("a path");
    let results = reader.commit().await.expect("independent reads");
    assert!(matches!(&results[0], zk::MultiReadResult::Data { data, .. } if data == b"2"));
    assert!(
        matches!(&results[1], zk::MultiReadResult::Children { children } if children == &["b"])
    );
    assert!(matches!(&results[2], zk::MultiReadResult::Error { err: zk::Error::NoNode }));
}

#[tokio::test]
async fn lock_recipe_admits_one_at_a_time() {
    let served = serve();
    let (first, second) = (connect(&served).await, connect(&served).await);
    first.create("/locks", b"", &open(zk::CreateMode::Persistent)).await.expect("free");
    let prefix = || zk::LockPrefix::new_curator("/locks", "lock-").expect("a path");
    let options = || zk::LockOptions::new(zk::Acls::anyone_all());
    let held = first.lock(prefix(), b"", options()).await.expect("uncontended");
    let contender = second.lock(prefix(), b"", options());
    tokio::pin!(contender);
    // The contender's place in the queue shows that it has asked.
    while second.list_children("/locks").await.expect("there").len() < 2 {
        tokio::select! {
            _ = &mut contender => panic!("two hold the lock"),
            () = proteus_env::task::sleep(std::time::Duration::from_millis(1)) => {}
        }
    }
    drop(held);
    contender.await.expect("the lock is free");
}
