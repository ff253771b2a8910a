//! Values that come back, and bytes that must not be believed.

use super::*;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[test]
fn values_come_back() {
    let stream = DumpedStream {
        entries: (0..250)
            .map(|n| ((5, n), vec![bytes("f"), bytes(&"x".repeat(n as usize))]))
            .collect(),
        last_id: (5, 300),
        max_deleted_id: (1, 1),
        entries_added: 400,
        groups: vec![DumpedGroup {
            name: bytes("g"),
            last_id: (5, 2),
            entries_read: None,
            pending: vec![((5, 1), 77, 2)],
            consumers: vec![DumpedConsumer {
                name: bytes("c"),
                seen_ms: 9,
                active_ms: Some(9),
                pending: vec![(5, 1)],
            }],
        }],
    };
    for value in [
        Dumped::String(bytes("text")),
        Dumped::List(vec![bytes("a"), bytes(&"b".repeat(20_000))]),
        Dumped::Set(vec![bytes("1")]),
        Dumped::SortedSet(vec![(bytes("m"), -1.5), (bytes("n"), f64::INFINITY)]),
        Dumped::Hash(vec![(bytes("f"), bytes("v"), None)]),
        Dumped::Hash(vec![(bytes("f"), bytes("v"), Some(1000)), (bytes("g"), bytes("w"), None)]),
        Dumped::Stream(stream),
    ] {
        assert_eq!(restore(&dump(&value)), Ok(value));
    }
}

#[test]
fn payloads_of_redis_are_read_and_damaged_ones_refused() {
    // SET k 10; DUMP k of Redis 7.0.
    let payload = b"\x00\xc0\n\n\x00n\x9fWE\x0e\xaec\xbb";
    assert_eq!(restore(payload), Ok(Dumped::String(bytes("10"))));
    assert_eq!(restore(&payload[2..]), Err(BadDump::Frame));
    // RPUSH l a b 3; DUMP l.
    let payload = b"\x12\x01\x02\x0f\x0f\x00\x00\x00\x03\x00\x81a\x02\x81b\x02\x03\x01\xff\n\x00\xdc\xa1\xe6}P\x05PH";
    assert_eq!(restore(payload), Ok(Dumped::List(vec![bytes("a"), bytes("b"), bytes("3")])));
    assert_eq!(restore(b""), Err(BadDump::Frame));
    assert_eq!(checksum(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
}

#[test]
fn compressed_strings_are_read() {
    assert_eq!(decompress(b"\x00a\xe0\x01\x00", 11).as_deref(), Some(&b"aaaaaaaaaaa"[..]));
    assert_eq!(decompress(b"\x20\x05", 9), None);
}

#[test]
fn fuzz() {
    let values = [
        dump(&Dumped::List(vec![bytes("a"), bytes("b")])),
        dump(&Dumped::SortedSet(vec![(bytes("m"), 1.0)])),
        dump(&Dumped::Stream(DumpedStream { last_id: (1, 1), ..DumpedStream::default() })),
    ];
    proteus_testkit::fuzz::run("dump", &values, fuzz_restore);
}
