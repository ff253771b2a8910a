use kafka_protocol::messages::ApiVersionsRequest;
use proptest::prelude::*;
use proteus_testkit::fuzz;

use super::*;
use crate::api::SERVED;

/// Numbers that decide what a generated request holds.
struct Draws<'a> {
    numbers: &'a [u8],
    place: usize,
}

impl Draws<'_> {
    fn next(&mut self) -> u8 {
        let number = self.numbers.get(self.place % self.numbers.len().max(1)).copied();
        self.place += 1;
        number.unwrap_or(0)
    }
}

/// Bytes of a request body as its shape says.
fn generate(
    fields: &[Field],
    version: i16,
    is_flexible: bool,
    draws: &mut Draws<'_>,
    into: &mut Vec<u8>,
) {
    for field in fields {
        if (field.since..=field.upto).contains(&version) && field.tag.is_none() {
            generate_kind(&field.kind, version, is_flexible, draws, into);
        }
    }
    if is_flexible {
        let is_known = |field: &&Field| field.tag.is_some() && version >= field.since;
        let known: Vec<&Field> = fields.iter().filter(is_known).collect();
        into.push(known.len() as u8 + 1);
        for field in known {
            let mut value = Vec::new();
            generate_kind(&field.kind, version, is_flexible, draws, &mut value);
            into.push(field.tag.unwrap_or(0) as u8);
            into.push(value.len() as u8);
            into.extend(value);
        }
        into.extend([99, 3, 1, 2, 3]);
    }
}

fn generate_kind(
    kind: &Kind,
    version: i16,
    is_flexible: bool,
    draws: &mut Draws<'_>,
    into: &mut Vec<u8>,
) {
    let count = draws.next() % 3;
    match kind {
        Kind::Fixed(bytes) => into.extend((0..*bytes).map(|_| draws.next())),
        Kind::Text | Kind::Blob => {
            match (kind, is_flexible) {
                (_, true) => into.push(count + 1),
                (Kind::Text, _) => into.extend([0, count]),
                _ => into.extend([0, 0, 0, count]),
            }
            into.extend((0..count).map(|_| b'a' + draws.next() % 26));
        }
        Kind::List(_) | Kind::Array(_) => {
            if is_flexible {
                into.push(count + 1);
            } else {
                into.extend([0, 0, 0, count]);
            }
            for _ in 0..count {
                match kind {
                    Kind::List(kind) => generate_kind(kind, version, is_flexible, draws, into),
                    Kind::Array(fields) => generate(fields, version, is_flexible, draws, into),
                    _ => {}
                }
            }
        }
        Kind::Struct(fields) => generate(fields, version, is_flexible, draws, into),
        Kind::Nullable(fields) => match count {
            0 => into.push(0xFF),
            _ => {
                into.push(1);
                generate(fields, version, is_flexible, draws, into);
            }
        },
    }
}

/// A request of one kind and version, from numbers.
fn generated_frame(api_key: ApiKey, version: i16, numbers: &[u8]) -> Vec<u8> {
    let shape = table::shape_of(api_key).expect("a shape for all that is served");
    let is_flexible = version >= shape.flexible_since;
    let mut frame = Vec::new();
    frame.extend((api_key as i16).to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend(7i32.to_be_bytes());
    frame.extend([0, 2, b'm', b'e']);
    if is_flexible {
        frame.push(0);
    }
    generate(shape.fields, version, is_flexible, &mut Draws { numbers, place: 0 }, &mut frame);
    frame
}

fn served_versions() -> impl Iterator<Item = (ApiKey, i16)> {
    SERVED.iter().flat_map(|served| {
        let versions = served.version_min..=served.version_max;
        let decoded = versions.filter(|version| served.decodes(*version));
        decoded.map(|version| (served.api_key, version))
    })
}

proptest! {
    /// The tables say what the codec does: whatever they generate, it reads to the last byte.
    #[test]
    fn tables_agree_with_the_codec(numbers in proptest::collection::vec(any::<u8>(), 1..200)) {
        for (api_key, version) in served_versions() {
            let frame = generated_frame(api_key, version, &numbers);
            let mut rest = Bytes::from(frame.clone());
            let header_version = api_key.request_header_version(version);
            let header = RequestHeader::decode(&mut rest, header_version);
            prop_assert!(header.is_ok(), "{:?} v{}", api_key, version);
            let body = RequestKind::decode(api_key, &mut rest, version);
            prop_assert!(body.is_ok(), "{:?} v{}: {:?}", api_key, version, body);
            prop_assert!(rest.is_empty(), "{:?} v{}: {} bytes left", api_key, version, rest.len());
            let request = decode_request(Bytes::from(frame));
            prop_assert!(request.is_ok(), "{:?} v{}: {:?}", api_key, version, request);
        }
    }

    /// A truncated request is refused wherever it is cut, before the codec sees it.
    #[test]
    fn truncated_requests_are_refused(numbers in proptest::collection::vec(any::<u8>(), 1..50)) {
        for (api_key, version) in served_versions() {
            let frame = generated_frame(api_key, version, &numbers);
            for length in 0..frame.len() {
                let cut = Bytes::copy_from_slice(&frame[..length]);
                prop_assert!(decode_request(cut).is_err(), "{:?} v{} cut at {}", api_key, version, length);
            }
        }
    }
}

#[test]
fn fuzz_requests() {
    let numbers: Vec<u8> = (0..=255).collect();
    let corpus: Vec<Vec<u8>> =
        served_versions().map(|(key, version)| generated_frame(key, version, &numbers)).collect();
    fuzz::run("kafka-request", &corpus, |input| {
        let _ = decode_request(Bytes::copy_from_slice(input));
    });
}

#[test]
fn fuzz_frames() {
    let corpus = [vec![0, 0, 0, 2, 1, 2, 0, 0, 0, 1, 5], vec![0x7F, 0xFF, 0xFF, 0xFF, 0]];
    fuzz::run("kafka-frame", &corpus, |input| {
        let mut buffer = BytesMut::from(input);
        while let Ok(Some(frame)) = take_frame(&mut buffer, FRAME_BYTES_MAX) {
            assert!(!frame.is_empty() && frame.len() <= FRAME_BYTES_MAX);
        }
        assert!(buffer.capacity() <= input.len().max(64), "space for what has not arrived");
    });
}

#[test]
fn counts_that_lie_allocate_nothing() {
    // Metadata v1: an array of 2^31 - 1 topics, of which none is there. Decoded as it stands, it
    // would be some 200 GB.
    let mut frame = vec![0, 3, 0, 1, 0, 0, 0, 7, 0xFF, 0xFF];
    frame.extend(i32::MAX.to_be_bytes());
    frame.extend([0; 100]);
    let refused = decode_request(Bytes::from(frame));
    assert!(matches!(refused, Err(CodecError::Malformed(_))), "{refused:?}");
    // A tag that says it is longer than it is, to hide an array behind it (Fetch v12).
    let mut walk =
        Walk { rest: &[1, 0, 9, 1, 0, 0], version: 12, is_flexible: true, elements_left: 10 };
    assert_eq!(walk.tags(&[tagged(0, 12, Kind::Text)]), None);
}

#[test]
fn frames_are_bounded_before_they_are_there() {
    let length =
        |length: i32| take_frame(&mut BytesMut::from(&length.to_be_bytes()[..]), FRAME_BYTES_MAX);
    assert_eq!(length(FRAME_BYTES_MAX as i32), Ok(None));
    for bad in [0, -1, i32::MIN, FRAME_BYTES_MAX as i32 + 1] {
        assert!(matches!(length(bad), Err(CodecError::FrameLength { .. })), "{bad}");
    }
}

#[test]
fn unknown_requests_and_versions_are_told_apart() {
    let decode = |api_key: i16, version: i16| {
        let mut frame = Vec::new();
        frame.extend(api_key.to_be_bytes());
        frame.extend(version.to_be_bytes());
        frame.extend([0, 0, 0, 9, 0xFF, 0xFF]);
        decode_request(Bytes::from(frame)).map(|request| request.body)
    };
    assert_eq!(decode(999, 0), Err(CodecError::ApiKey(999)));
    assert_eq!(decode(ApiKey::Vote as i16, 0), Err(CodecError::ApiKey(52)));
    let version = |api_key, version| CodecError::Version { api_key, version, correlation_id: 9 };
    assert_eq!(decode(18, 99), Err(version(ApiKey::ApiVersions, 99)));
    assert_eq!(decode(0, 2), Err(version(ApiKey::Produce, 2)));
    assert_eq!(decode(18, 0), Ok(RequestKind::ApiVersions(ApiVersionsRequest::default())));
    assert!(matches!(decode(3, 0), Err(CodecError::Malformed(_))));
}
