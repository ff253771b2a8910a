//! What a third-party client sees.

use std::collections::BTreeMap;
use std::time::Duration;

use proteus_env::task;
use rskafka::chrono::{DateTime, Utc};
use rskafka::client::partition::{Compression, OffsetAt, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;

use crate::served;

async fn connect(address: std::net::SocketAddr) -> Client {
    ClientBuilder::new(vec![address.to_string()]).build().await.expect("a client")
}

fn at(timestamp_ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(timestamp_ms).expect("a time")
}

fn record(value: &str, timestamp_ms: i64) -> Record {
    Record {
        key: Some(b"key".to_vec()),
        value: Some(value.as_bytes().to_vec()),
        headers: BTreeMap::from([("header".to_owned(), b"x".to_vec())]),
        timestamp: at(timestamp_ms),
    }
}

#[tokio::test]
async fn produces_and_fetches_with_every_codec() {
    let face = served();
    let client = connect(face.address).await;
    let controller = client.controller_client().unwrap();
    controller.create_topic("readings", 2, 1, 5_000).await.unwrap();
    let partition =
        client.partition_client("readings", 1, UnknownTopicHandling::Error).await.unwrap();
    let codecs = [
        Compression::NoCompression,
        Compression::Gzip,
        Compression::Lz4,
        Compression::Snappy,
        Compression::Zstd,
    ];
    let mut sent = Vec::new();
    for (round, codec) in (0i64..).zip(codecs) {
        let records: Vec<Record> =
            (0..50).map(|n| record(&format!("{codec:?} {n}"), round * 1_000 + n)).collect();
        let offsets = partition.produce(records.clone(), codec).await.unwrap();
        assert_eq!(offsets, (round * 50..round * 50 + 50).collect::<Vec<_>>());
        sent.extend(records);
    }
    let mut fetched = Vec::new();
    while fetched.len() < sent.len() {
        let offset = fetched.len() as i64;
        let (records, high_watermark) =
            partition.fetch_records(offset, 1..1_000_000, 5_000).await.unwrap();
        assert_eq!(high_watermark, 250);
        for found in records {
            assert_eq!(found.offset, fetched.len() as i64);
            fetched.push(found.record);
        }
    }
    assert_eq!(fetched, sent);
    assert_eq!(partition.get_offset(OffsetAt::Earliest).await.unwrap(), 0);
    assert_eq!(partition.get_offset(OffsetAt::Latest).await.unwrap(), 250);
    assert_eq!(partition.get_offset(OffsetAt::Timestamp(at(3_007))).await.unwrap(), 157);
    let topics = client.list_topics().await.unwrap();
    assert_eq!(topics.len(), 1);
    assert_eq!(topics[0].partitions.len(), 2);
    controller.delete_topic("readings", 5_000).await.unwrap();
    assert!(client.list_topics().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_fetch_waits_for_what_comes() {
    let face = served();
    let client = connect(face.address).await;
    client.controller_client().unwrap().create_topic("late", 1, 1, 5_000).await.unwrap();
    let reader = client.partition_client("late", 0, UnknownTopicHandling::Error).await.unwrap();
    let waiting = task::spawn(async move {
        // It waits for minutes if it is not woken.
        reader.fetch_records(0, 1..1_000_000, 200_000).await.unwrap()
    });
    let other = connect(face.address).await;
    let writer = other.partition_client("late", 0, UnknownTopicHandling::Error).await.unwrap();
    writer.produce(vec![record("now", 1)], Compression::NoCompression).await.unwrap();
    let (records, high_watermark) =
        task::timeout(Duration::from_secs(60), waiting).await.expect("it is woken").unwrap();
    assert_eq!((records.len(), high_watermark), (1, 1));
}

#[tokio::test]
async fn records_are_deleted_on_request() {
    let face = served();
    let client = connect(face.address).await;
    client.controller_client().unwrap().create_topic("old", 1, 1, 5_000).await.unwrap();
    let partition = client.partition_client("old", 0, UnknownTopicHandling::Error).await.unwrap();
    for n in 0..10 {
        partition.produce(vec![record("x", n)], Compression::NoCompression).await.unwrap();
    }
    partition.delete_records(4, 5_000).await.unwrap();
    assert_eq!(partition.get_offset(OffsetAt::Earliest).await.unwrap(), 4);
    assert!(partition.fetch_records(3, 1..1_000_000, 0).await.is_err());
    let (records, _) = partition.fetch_records(4, 1..1_000_000, 0).await.unwrap();
    assert_eq!(records.first().map(|record| record.offset), Some(4));
}

#[tokio::test]
async fn passwords_are_proven_by_every_mechanism() {
    use std::collections::BTreeMap;

    use kafka_protocol::messages::alter_user_scram_credentials_request::{
        ScramCredentialDeletion, ScramCredentialUpsertion,
    };
    use kafka_protocol::messages::*;
    use proteus_face::Accounts;
    use proteus_face::scram::Mechanism;
    use proteus_face_kafka::KafkaOptions;
    use rskafka::client::{ClientBuilder, Credentials, SaslConfig};

    use crate::call;
    use crate::client::{Client, text};

    let accounts = Accounts::new(BTreeMap::from([("ann".to_owned(), "secret".to_owned())]));
    let face = crate::served_with(accounts, KafkaOptions::default());
    let lists = |config: SaslConfig| {
        let builder = ClientBuilder::new(vec![face.address.to_string()]).sasl_config(config);
        // It tries again and again, so a refusal is what does not come within a moment.
        let builder = builder.backoff_config(rskafka::BackoffConfig {
            deadline: Some(std::time::Duration::from_millis(1)),
            ..Default::default()
        });
        async move {
            match builder.build().await {
                Ok(client) => client.list_topics().await.is_ok(),
                Err(_) => false,
            }
        }
    };
    let with = |user: &str, password: &str| Credentials::new(user.to_owned(), password.to_owned());
    for (password, admits) in [("secret", true), ("Secret", false)] {
        assert_eq!(lists(SaslConfig::Plain(with("ann", password))).await, admits);
        assert_eq!(lists(SaslConfig::ScramSha256(with("ann", password))).await, admits);
        assert_eq!(lists(SaslConfig::ScramSha512(with("ann", password))).await, admits);
    }
    assert!(!lists(SaslConfig::ScramSha256(with("bob", "hidden"))).await);

    // An administrator gives bob a credential, for one mechanism.
    let mut client = Client::connect(face.address).await;
    let request = SaslHandshakeRequest::default().with_mechanism(text("PLAIN"));
    assert_eq!(call!(client, SaslHandshake, 1, request).error_code, 0);
    let token = bytes::Bytes::from_static(b"\0ann\0secret");
    let request = SaslAuthenticateRequest::default().with_auth_bytes(token);
    assert_eq!(call!(client, SaslAuthenticate, 2, request).error_code, 0);
    let upsertion = |iterations: u32| {
        let salted = Mechanism::Sha512.salted_password(b"hidden", b"salt", iterations);
        ScramCredentialUpsertion::default()
            .with_name(text("bob"))
            .with_mechanism(2)
            .with_iterations(iterations as i32)
            .with_salt(bytes::Bytes::from_static(b"salt"))
            .with_salted_password(salted.into())
    };
    for (iterations, expected) in [(5, 93), (4096, 0)] {
        let request = AlterUserScramCredentialsRequest::default()
            .with_upsertions(vec![upsertion(iterations)]);
        let altered = call!(client, AlterUserScramCredentials, 0, request);
        assert_eq!(altered.results[0].error_code, expected);
    }
    assert!(lists(SaslConfig::ScramSha512(with("bob", "hidden"))).await);
    assert!(!lists(SaslConfig::ScramSha512(with("bob", "Hidden"))).await);
    assert!(!lists(SaslConfig::ScramSha256(with("bob", "hidden"))).await);
    let request = DescribeUserScramCredentialsRequest::default().with_users(None);
    let described = call!(client, DescribeUserScramCredentials, 0, request);
    assert_eq!(&*described.results[0].user, "bob");
    assert_eq!(described.results[0].credential_infos[0].iterations, 4096);
    for expected in [0, 91] {
        let deletion = ScramCredentialDeletion::default().with_name(text("bob")).with_mechanism(2);
        let request = AlterUserScramCredentialsRequest::default().with_deletions(vec![deletion]);
        let altered = call!(client, AlterUserScramCredentials, 0, request);
        assert_eq!(altered.results[0].error_code, expected);
    }
    assert!(!lists(SaslConfig::ScramSha512(with("bob", "hidden"))).await);
}
