use proptest::prelude::*;

use super::*;

fn bytes_option() -> impl Strategy<Value = Option<Bytes>> {
    proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from))
}

fn record() -> impl Strategy<Value = NewRecord> {
    let headers = proptest::collection::vec(
        (proptest::collection::vec(any::<u8>(), 0..8).prop_map(Bytes::from), bytes_option()),
        0..3,
    );
    (bytes_option(), bytes_option(), headers).prop_map(|(key, value, headers)| NewRecord {
        key,
        value,
        headers,
    })
}

proptest! {
    #[test]
    fn framed_records_come_back(
        records in proptest::collection::vec(record(), 1..20),
        timestamp_ms in 0..i64::MAX / 2,
        base_offset in 0..i64::MAX / 2,
    ) {
        let batch = frame_batch(&records, timestamp_ms).unwrap();
        let header = BatchHeader::parse_checked(&batch).unwrap();
        prop_assert_eq!(header.record_count as usize, records.len());
        let decoded: Result<Vec<Record>, BatchError> =
            decode_records(&batch, base_offset).unwrap().collect();
        let decoded = decoded.unwrap();
        prop_assert_eq!(decoded.len(), records.len());
        for ((offset, new), record) in (base_offset..).zip(&records).zip(&decoded) {
            prop_assert_eq!(record.offset, offset);
            prop_assert_eq!(record.timestamp_ms, timestamp_ms);
            prop_assert_eq!(&record.key, &new.key);
            prop_assert_eq!(&record.value, &new.value);
            prop_assert_eq!(&record.headers, &new.headers);
        }
    }

    #[test]
    fn any_bytes_are_refused_or_decoded(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let _ = BatchHeader::parse_checked(&bytes);
        let _ = split_batches(&bytes);
        let _ = decode_records(&bytes, 0).map(Iterator::count);
    }

    #[test]
    fn damaged_batches_are_refused(place in 0usize..200, bit in 0u32..8) {
        let batch = batch_of(&["one", "two", "three"]);
        let place = place % batch.len();
        let mut damaged = batch.to_vec();
        damaged[place] ^= 1 << bit;
        // What the broker assigns is outside the checksum.
        let is_assigned = place < 8 || (12..16).contains(&place);
        prop_assert_eq!(BatchHeader::parse_checked(&damaged).is_ok(), is_assigned);
        let _ = decode_records(&Bytes::from(damaged), 0).map(Iterator::count);
    }
}

/// The batch with its records compressed.
fn compressed(codec: i16, batch: &Bytes) -> Bytes {
    use std::io::Write;
    let records = &batch[BATCH_HEADER_BYTES..];
    let body = match codec {
        1 => {
            let level = flate2::Compression::default();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(records).unwrap();
            encoder.finish().unwrap()
        }
        2 => snap::raw::Encoder::new().compress_vec(records).unwrap(),
        3 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(records).unwrap();
            encoder.finish().unwrap()
        }
        _ => zstd::stream::encode_all(records, 1).unwrap(),
    };
    let mut bytes = [&batch[..BATCH_HEADER_BYTES], &body].concat();
    let length = bytes.len() as i32 - 12;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[21..23].copy_from_slice(&codec.to_be_bytes());
    Bytes::from(bytes)
}

proptest! {
    /// Bodies that do not decompress, or to nonsense, are errors and never a panic.
    #[test]
    fn damaged_compressed_batches_are_refused_or_decoded(
        codec in 1i16..5,
        flips in proptest::collection::vec((any::<usize>(), 0u32..8), 0..4),
    ) {
        let values: Vec<String> = (0..50).map(|n| format!("value {n}")).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let mut bytes = compressed(codec, &batch_of(&values)).to_vec();
        for (place, bit) in &flips {
            let body = bytes.len() - BATCH_HEADER_BYTES;
            bytes[BATCH_HEADER_BYTES + place % body] ^= 1 << bit;
        }
        let decoded = decode_records(&Bytes::from(bytes), 0).map(Iterator::count);
        prop_assert!(!flips.is_empty() || decoded == Ok(50));
    }
}

fn batch_of(values: &[&str]) -> Bytes {
    let records: Vec<NewRecord> = values
        .iter()
        .map(|value| NewRecord {
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            ..NewRecord::default()
        })
        .collect();
    frame_batch(&records, 7).unwrap()
}

#[test]
fn old_formats_are_named() {
    let mut batch = batch_of(&["x"]).to_vec();
    batch[16] = 1;
    assert_eq!(BatchHeader::parse(&batch), Err(BatchError::Magic(1)));
}

#[test]
fn concatenated_batches_are_split() {
    let (one, two) = (batch_of(&["a"]), batch_of(&["b", "c"]));
    let both = Bytes::from([&one[..], &two[..]].concat());
    assert_eq!(split_batches(&both), Ok(vec![one, two]));
    assert!(split_batches(&both.slice(..both.len() - 1)).is_err());
    assert!(split_batches(&both.slice(..5)).is_err());
}

#[test]
fn what_the_broker_assigns_is_outside_the_checksum() {
    let mut bytes = BytesMut::new();
    put_batch(&mut bytes, 1234, 5, &batch_of(&["a"]));
    assert_eq!(BatchHeader::parse_checked(&bytes).unwrap().base_offset, 1234);
}

#[test]
fn nothing_makes_no_batch() {
    assert_eq!(frame_batch(&[], 0), None);
}

/// Whatever a producer sends: reading it neither panics nor allocates on its word, and a batch of
/// ours comes back.
#[test]
fn fuzz_records() {
    let record = |value: &'static [u8]| NewRecord {
        key: Some(Bytes::from_static(b"key")),
        value: Some(Bytes::from_static(value)),
        headers: vec![("h".into(), Some(Bytes::from_static(b"v")))],
    };
    let framed = frame_batch(&[record(b"one"), record(b"two")], 1_700_000_000_000).unwrap();
    let mut corpus = vec![framed.to_vec()];
    for codec in 1..=4 {
        // The codec's number without its compression: what a confused producer might send.
        let mut batch = framed.to_vec();
        batch[22] = codec;
        corpus.push(batch);
    }
    proteus_testkit::fuzz::run("record batch", &corpus, |input| {
        let input = Bytes::copy_from_slice(input);
        let _ = BatchHeader::parse(&input);
        if let Ok(records) = decode_records(&input, 0) {
            for record in records.take(10_000) {
                if record.is_err() {
                    break;
                }
            }
        }
    });
}
