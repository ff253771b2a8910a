use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use proteus_kernel_api::tree::{AclEntry, Stat, Zxid};

use super::kinds::REQUEST_TYPES;
use super::*;

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["(/[a-z]{1,4}){1,3}", any::<String>()]
}

fn data() -> impl Strategy<Value = Option<Bytes>> {
    prop::option::of(prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from))
}

fn acl() -> impl Strategy<Value = Vec<AclEntry>> {
    let entry = (any::<i32>(), text(), text()).prop_map(|(permissions, scheme, id)| AclEntry {
        permissions,
        scheme,
        id,
    });
    prop::collection::vec(entry, 0..3)
}

fn create() -> impl Strategy<Value = CreateRequest> {
    let code = prop::sample::select(vec![1, 15, 19, 21, 502]);
    (code, text(), data(), acl(), any::<i32>(), any::<i64>()).prop_map(
        |(code, path, data, acl, flags, ttl_ms)| {
            let ttl_ms = (code == 21).then_some(ttl_ms);
            CreateRequest { code, path, data, acl, flags, ttl_ms }
        },
    )
}

fn delete() -> impl Strategy<Value = DeleteRequest> {
    (text(), any::<i32>(), any::<bool>()).prop_map(|(path, version, is_tolerant)| DeleteRequest {
        path,
        version,
        is_tolerant,
    })
}

fn filter() -> impl Strategy<Value = ChildFilter> {
    prop::sample::select(vec![ChildFilter::All, ChildFilter::Persistent, ChildFilter::Ephemeral])
}

fn reconfig() -> impl Strategy<Value = ReconfigRequest> {
    let servers = || prop::option::of(text());
    (servers(), servers(), servers(), any::<i64>()).prop_map(
        |(joining, leaving, new_members, config_id)| ReconfigRequest {
            joining,
            leaving,
            new_members,
            config_id,
        },
    )
}

fn multi_op() -> impl Strategy<Value = MultiOp> {
    prop_oneof![
        create().prop_map(MultiOp::Create),
        delete().prop_map(MultiOp::Delete),
        (text(), any::<u32>())
            .prop_map(|(path, count_max)| MultiOp::DeleteSubtree { path, count_max }),
        (text(), any::<i32>()).prop_map(|(path, version)| MultiOp::CheckAbsent { path, version }),
        (text(), data(), any::<i32>()).prop_map(|(path, data, version)| MultiOp::SetData {
            path,
            data,
            version
        }),
        (text(), any::<i32>()).prop_map(|(path, version)| MultiOp::Check { path, version }),
    ]
}

fn watch_sets() -> impl Strategy<Value = WatchSets> {
    let paths = || prop::collection::vec(text(), 0..4);
    let persistent = prop::option::of((paths(), paths()));
    (any::<i64>(), paths(), paths(), paths(), persistent).prop_map(
        |(relative_zxid, data, exist, child, persistent)| WatchSets {
            relative_zxid,
            data,
            exist,
            child,
            persistent,
        },
    )
}

fn watcher_type() -> impl Strategy<Value = WatcherType> {
    prop::sample::select(vec![
        WatcherType::Children,
        WatcherType::Data,
        WatcherType::Any,
        WatcherType::Persistent,
        WatcherType::PersistentRecursive,
    ])
}

fn read_request() -> impl Strategy<Value = ReadRequest> {
    let details =
        (any::<bool>(), any::<bool>()).prop_map(|(stat, data)| ChildDetails { stat, data });
    let kind = prop_oneof![
        Just(ReadKind::Exists),
        Just(ReadKind::Data),
        Just(ReadKind::Children),
        Just(ReadKind::ChildrenAndStat),
        (filter(), prop::option::of(details))
            .prop_map(|(filter, details)| ReadKind::FilteredList(filter, details)),
    ];
    (kind, text(), any::<bool>()).prop_map(|(kind, path, watch)| ReadRequest { kind, path, watch })
}

fn check_stat() -> impl Strategy<Value = CheckStat> {
    (text(), any::<i32>(), any::<[i64; 6]>(), any::<[i32; 5]>()).prop_map(
        |(path, version, longs, ints)| {
            let stat = Stat {
                czxid: Zxid(longs[0]),
                mzxid: Zxid(longs[1]),
                pzxid: Zxid(longs[2]),
                ctime_ms: longs[3],
                mtime_ms: longs[4],
                ephemeral_owner: longs[5],
                version: ints[0],
                cversion: ints[1],
                aversion: ints[2],
                data_length: ints[3],
                num_children: ints[4],
            };
            CheckStat { path, version, stat }
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    let watched = || (text(), any::<bool>());
    let versioned = || (text(), any::<i32>());
    let simple = prop_oneof![
        create().prop_map(Request::Create),
        delete().prop_map(Request::Delete),
        (text(), any::<u32>())
            .prop_map(|(path, count_max)| Request::DeleteSubtree { path, count_max }),
        versioned().prop_map(|(path, version)| Request::CheckAbsent { path, version }),
        versioned().prop_map(|(path, version)| Request::Check { path, version }),
        read_request().prop_map(Request::Read),
        check_stat().prop_map(Request::CheckStat),
        (text(), any::<u32>())
            .prop_map(|(path, count_max)| Request::ListRecursive { path, count_max }),
        (text(), data(), any::<i32>()).prop_map(|(path, data, version)| Request::SetData {
            path,
            data,
            version
        }),
        (text(), acl(), any::<i32>()).prop_map(|(path, acl, version)| Request::SetAcl {
            path,
            acl,
            version
        }),
    ];
    let others = prop_oneof![
        text().prop_map(|path| Request::GetAcl { path }),
        text().prop_map(|path| Request::Sync { path }),
        text().prop_map(|prefix| Request::GetEphemerals { prefix }),
        Just(Request::Ping),
        Just(Request::CloseSession),
        prop::collection::vec(multi_op(), 0..4).prop_map(Request::Multi),
        prop::collection::vec(read_request(), 0..4).prop_map(Request::MultiRead),
        (text(), data()).prop_map(|(scheme, secret)| Request::Auth {
            scheme,
            secret: secret.unwrap_or_default()
        }),
        watched().prop_map(|(path, is_recursive)| Request::AddWatch { path, is_recursive }),
        (text(), watcher_type())
            .prop_map(|(path, watcher_type)| Request::CheckWatches { path, watcher_type }),
        (text(), watcher_type())
            .prop_map(|(path, watcher_type)| Request::RemoveWatches { path, watcher_type }),
        watch_sets().prop_map(Request::SetWatches),
    ];
    let newer = prop_oneof![
        text().prop_map(|path| Request::GetAllChildrenNumber { path }),
        Just(Request::WhoAmI),
        data().prop_map(|token| Request::Sasl { token: token.unwrap_or_default() }),
        reconfig().prop_map(Request::Reconfig),
    ];
    prop_oneof![simple, others, newer]
}

proptest! {
    #[test]
    fn requests_come_back(xid in any::<i32>(), request in request()) {
        let mut bytes = BytesMut::new();
        request.encode(xid, &mut bytes);
        let frame = take_frame(&mut bytes, usize::MAX).expect("sound").expect("complete");
        prop_assert!(bytes.is_empty());
        let decoded = Decoded::decode(frame).expect("sound");
        prop_assert_eq!(decoded.header, RequestHeader { xid, code: request.code() });
        prop_assert_eq!(decoded.request, Ok(Some(request)));
    }

    #[test]
    fn handshakes_come_back(
        last_zxid_seen in any::<i64>(),
        timeout_ms in any::<i32>(),
        session_id in any::<i64>(),
        password in prop::collection::vec(any::<u8>(), 0..20),
        read_only in prop::option::of(any::<bool>()),
    ) {
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen,
            timeout_ms,
            session_id,
            password: Bytes::from(password),
            read_only,
        };
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes);
        let frame = take_frame(&mut bytes, usize::MAX).expect("sound").expect("complete");
        prop_assert_eq!(ConnectRequest::decode(frame), Ok(request));
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let path = || "/a/b".to_owned();
    let open = AclEntry::open();
    let create = CreateRequest {
        code: 15,
        path: path(),
        data: Some(Bytes::from_static(b"data")),
        acl: vec![open],
        flags: 3,
        ttl_ms: None,
    };
    let sets = WatchSets {
        relative_zxid: 7,
        data: vec![path(), path()],
        exist: vec![path()],
        child: vec![],
        persistent: Some((vec![path()], vec![])),
    };
    let requests = [
        Request::Create(create.clone()),
        Request::read(ReadKind::Data, "/a/b", true),
        Request::Multi(vec![MultiOp::Create(create), MultiOp::Check { path: path(), version: 1 }]),
        Request::MultiRead(vec![ReadRequest { kind: ReadKind::Data, path: path(), watch: false }]),
        Request::SetWatches(sets),
        Request::Auth { scheme: "digest".to_owned(), secret: Bytes::from_static(b"u:p") },
        Request::Sasl { token: Bytes::from_static(b"token") },
        Request::WhoAmI,
        Request::GetAllChildrenNumber { path: path() },
        Request::read(ReadKind::FilteredList(ChildFilter::Ephemeral, None), "/a/b", true),
        Request::read(
            ReadKind::FilteredList(ChildFilter::All, Some(ChildDetails { stat: true, data: true })),
            "/a/b",
            false,
        ),
        Request::ListRecursive { path: path(), count_max: 9 },
        Request::CheckStat(CheckStat { path: path(), version: 1, stat: Stat::default() }),
        Request::DeleteSubtree { path: path(), count_max: 9 },
        Request::CheckAbsent { path: path(), version: -1 },
        Request::Delete(DeleteRequest { path: path(), version: 1, is_tolerant: true }),
        Request::Reconfig(ReconfigRequest {
            joining: Some("server.2=h:1:2;3".to_owned()),
            config_id: -1,
            ..ReconfigRequest::default()
        }),
    ];
    let mut corpus: Vec<Vec<u8>> = requests
        .iter()
        .map(|request| {
            let mut bytes = BytesMut::new();
            request.encode(1, &mut bytes);
            bytes.to_vec()
        })
        .collect();
    let mut handshake = BytesMut::new();
    ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: 0,
        timeout_ms: 6_000,
        session_id: 0,
        password: Bytes::from_static(&[0; 16]),
        read_only: Some(false),
    }
    .encode(&mut handshake);
    corpus.push(handshake.to_vec());
    corpus
}

/// Any bytes are frames or malformed; a request that is understood is written as it was read.
fn fuzz(bytes: &[u8]) {
    let mut received = BytesMut::from(bytes);
    while let Ok(Some(frame)) = take_frame(&mut received, FRAME_BYTES_MAX_DEFAULT) {
        let _is_sound_or_malformed = ConnectRequest::decode(frame.clone());
        let Ok(Decoded { header, request: Ok(Some(request)) }) = Decoded::decode(frame.clone())
        else {
            continue;
        };
        let mut again = BytesMut::new();
        request.encode(header.xid, &mut again);
        let again = take_frame(&mut again, usize::MAX).expect("sound").expect("complete");
        assert_eq!(Decoded::decode(again).expect("sound").request, Ok(Some(request)));
    }
}

#[test]
fn any_bytes_are_survived() {
    proteus_testkit::fuzz::run("zookeeper_frames", &corpus(), fuzz);
}

#[test]
fn lengths_are_judged_before_the_bytes_are_there() {
    let oversized = i32::try_from(FRAME_BYTES_MAX_DEFAULT + 1).expect("small");
    for claimed in [-1, i32::MIN, i32::MAX, oversized] {
        let mut received = BytesMut::from(&claimed.to_be_bytes()[..]);
        assert!(take_frame(&mut received, FRAME_BYTES_MAX_DEFAULT).is_err(), "{claimed}");
    }
    // A vector that claims more elements than the frame has bytes for.
    let mut body = BytesMut::new();
    body.extend_from_slice(&1i32.to_be_bytes());
    body.extend_from_slice(&101i32.to_be_bytes());
    body.extend_from_slice(&0i64.to_be_bytes());
    body.extend_from_slice(&i32::MAX.to_be_bytes());
    let decoded = Decoded::decode(body.freeze()).expect("a header");
    assert!(matches!(decoded.request, Err(Malformed::Length { .. })));
}

/// As kazoo sends it: the empty id of `auth` is null.
#[test]
fn an_empty_id_may_be_null() {
    let mut body = BytesMut::new();
    for number in [1i32, 7] {
        body.extend_from_slice(&number.to_be_bytes());
    }
    body.string("/a");
    body.count(1);
    body.extend_from_slice(&31i32.to_be_bytes());
    body.string("auth");
    body.buffer(None);
    body.extend_from_slice(&(-1i32).to_be_bytes());
    let acl = vec![AclEntry { permissions: 31, scheme: "auth".to_owned(), id: String::new() }];
    let expected = Request::SetAcl { path: "/a".to_owned(), acl, version: -1 };
    let decoded = Decoded::decode(body.freeze()).expect("a header");
    assert_eq!(decoded.request, Ok(Some(expected)));
}

/// docs/faces/zookeeper.md names every request type, and says of each what the code does.
#[test]
fn support_table_agrees_with_the_code() {
    let table = include_str!("../../../../docs/faces/zookeeper.md");
    let rows: Vec<(i32, &str, &str)> = table
        .lines()
        .filter_map(|line| {
            let mut cells = line.trim_matches('|').split('|').map(str::trim);
            let (code, name, support) = (cells.next()?, cells.next()?, cells.next()?);
            Some((code.parse().ok()?, name, support))
        })
        .collect();
    let codes: Vec<i32> = rows.iter().map(|(code, ..)| *code).collect();
    let expected: Vec<i32> = REQUEST_TYPES.iter().map(|known| known.code).collect();
    assert_eq!(codes, expected);
    for ((code, name, support), known) in rows.iter().zip(REQUEST_TYPES) {
        assert_eq!(*name, known.name);
        let is_supported = match *support {
            "supported" | "differs" => true,
            "refused" => false,
            other => panic!("{name} is {other}, which is not a word of the table"),
        };
        assert_eq!(is_supported, known.is_supported, "{name}");
        if !known.is_supported {
            let mut frame = BytesMut::new();
            frame.extend_from_slice(&1i32.to_be_bytes());
            frame.extend_from_slice(&code.to_be_bytes());
            let decoded = Decoded::decode(frame.freeze()).expect("a header is enough");
            assert_eq!(decoded.request, Ok(None), "{name} is decoded, but said to be refused");
        }
    }
}
