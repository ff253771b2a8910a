//! As much of the Kafka protocol as a load needs, over blocking sockets: Produce version 7 and Fetch
//! version 11, whose layouts are plain. Batches are made before the clock starts, so that the generator
//! costs little more than the copying of its bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::Result;

const PRODUCE: (i16, i16) = (0, 7);
const FETCH: (i16, i16) = (1, 11);
/// Where the correlation id stands in a frame with its length.
const CORRELATION_ID_AT: usize = 8;
/// Most bytes that one fetch asks for.
const FETCH_BYTES_MAX: i32 = 8 * 1024 * 1024;
const PARTITION_FETCH_BYTES_MAX: i32 = 1024 * 1024;
/// Longest that a fetch waits for records, in milliseconds.
const FETCH_WAIT_MS: i32 = 250;

/// A record batch of `count` equal records, as it stands in a request.
pub(super) fn batch(count: usize, value_bytes: usize) -> Vec<u8> {
    let mut records = Vec::new();
    for index in 0..count {
        let mut record = vec![0u8];
        varint(&mut record, 0);
        varint(&mut record, index as i64);
        varint(&mut record, -1);
        varint(&mut record, value_bytes as i64);
        // Neither all equal nor random: what stands in a value costs nothing here.
        record.extend((0..value_bytes).map(|at| b'a' + ((at * 7 + index) % 26) as u8));
        varint(&mut record, 0);
        varint(&mut records, record.len() as i64);
        records.extend_from_slice(&record);
    }
    let mut batch = Vec::new();
    batch.extend_from_slice(&0i64.to_be_bytes());
    batch.extend_from_slice(&(49 + records.len() as i32).to_be_bytes());
    batch.extend_from_slice(&(-1i32).to_be_bytes());
    batch.push(2);
    batch.extend_from_slice(&[0; 4]);
    batch.extend_from_slice(&0i16.to_be_bytes());
    batch.extend_from_slice(&(count as i32 - 1).to_be_bytes());
    batch.extend_from_slice(&[0; 16]);
    batch.extend_from_slice(&(-1i64).to_be_bytes());
    batch.extend_from_slice(&(-1i16).to_be_bytes());
    batch.extend_from_slice(&(-1i32).to_be_bytes());
    batch.extend_from_slice(&(count as i32).to_be_bytes());
    batch.extend_from_slice(&records);
    set_timestamp(&mut batch, 0);
    batch
}

/// Gives all records of a batch this timestamp, which its checksum covers.
pub(super) fn set_timestamp(batch: &mut [u8], timestamp: i64) {
    batch[27..35].copy_from_slice(&timestamp.to_be_bytes());
    batch[35..43].copy_from_slice(&timestamp.to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn varint(into: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        into.push((rest & 0x7F) as u8 | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}

fn frame((api_key, version): (i16, i16), body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(body.len() + 32);
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&api_key.to_be_bytes());
    frame.extend_from_slice(&version.to_be_bytes());
    frame.extend_from_slice(&0i32.to_be_bytes());
    text(&mut frame, "bench");
    frame.extend_from_slice(body);
    let length = frame.len() as i32 - 4;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

fn text(into: &mut Vec<u8>, text: &str) {
    into.extend_from_slice(&(text.len() as i16).to_be_bytes());
    into.extend_from_slice(text.as_bytes());
}

/// A request that appends `batch` to each of the partitions, with `acks=all`.
pub(super) fn produce_request(topic: &str, partitions: &[i32], batch: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&(-1i16).to_be_bytes());
    body.extend_from_slice(&(-1i16).to_be_bytes());
    body.extend_from_slice(&30_000i32.to_be_bytes());
    body.extend_from_slice(&1i32.to_be_bytes());
    text(&mut body, topic);
    body.extend_from_slice(&(partitions.len() as i32).to_be_bytes());
    for partition in partitions {
        body.extend_from_slice(&partition.to_be_bytes());
        body.extend_from_slice(&(batch.len() as i32).to_be_bytes());
        body.extend_from_slice(batch);
    }
    frame(PRODUCE, &body)
}

/// One connection to a broker.
pub(super) struct Connection {
    stream: TcpStream,
    correlation_id: i32,
    response: Vec<u8>,
}

impl Connection {
    pub(super) fn open(address: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect(address).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(failed)?;
        Ok(Connection { stream, correlation_id: 0, response: Vec::new() })
    }

    pub(super) fn send(&mut self, request: &mut [u8]) -> Result<()> {
        self.correlation_id += 1;
        request[CORRELATION_ID_AT..CORRELATION_ID_AT + 4]
            .copy_from_slice(&self.correlation_id.to_be_bytes());
        self.stream.write_all(request).map_err(failed)
    }

    /// The next response, behind its correlation id.
    fn receive(&mut self) -> Result<Fields<'_>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).map_err(failed)?;
        let length = usize::try_from(i32::from_be_bytes(length)).map_err(|e| e.to_string())?;
        self.response.resize(length, 0);
        self.stream.read_exact(&mut self.response).map_err(failed)?;
        let mut fields = Fields(&self.response);
        fields.i32()?;
        Ok(fields)
    }

    /// Waits for the answer to a Produce that was sent before.
    pub(super) fn produced(&mut self) -> Result<()> {
        let mut fields = self.receive()?;
        for _ in 0..fields.i32()? {
            fields.text()?;
            for _ in 0..fields.i32()? {
                let partition = fields.i32()?;
                let error = fields.i16()?;
                if error != 0 {
                    return Err(format!(
                        "a produce to partition {partition} failed: error {error}"
                    ));
                }
                fields.take(24)?;
            }
        }
        Ok(())
    }

    /// Fetches from all partitions at `offsets`, which move on; calls `visit` with the number of
    /// records, their bytes and the timestamp of each batch.
    pub(super) fn fetch(
        &mut self,
        topic: &str,
        offsets: &mut [i64],
        visit: &mut dyn FnMut(u64, usize, i64),
    ) -> Result<()> {
        let mut body = Vec::new();
        for number in [-1, FETCH_WAIT_MS, 1, FETCH_BYTES_MAX] {
            body.extend_from_slice(&number.to_be_bytes());
        }
        body.push(0);
        for number in [0, -1, 1] {
            body.extend_from_slice(&i32::to_be_bytes(number));
        }
        text(&mut body, topic);
        body.extend_from_slice(&(offsets.len() as i32).to_be_bytes());
        for (partition, offset) in offsets.iter().enumerate() {
            body.extend_from_slice(&(partition as i32).to_be_bytes());
            body.extend_from_slice(&(-1i32).to_be_bytes());
            body.extend_from_slice(&offset.to_be_bytes());
            body.extend_from_slice(&(-1i64).to_be_bytes());
            body.extend_from_slice(&PARTITION_FETCH_BYTES_MAX.to_be_bytes());
        }
        body.extend_from_slice(&0i32.to_be_bytes());
        text(&mut body, "");
        self.send(&mut frame(FETCH, &body))?;
        let mut fields = self.receive()?;
        fields.take(10)?;
        for _ in 0..fields.i32()? {
            fields.text()?;
            for _ in 0..fields.i32()? {
                let partition = fields.i32()?;
                let error = fields.i16()?;
                if error != 0 {
                    return Err(format!("a fetch of partition {partition} failed: error {error}"));
                }
                fields.take(24)?;
                let aborted_count = usize::try_from(fields.i32()?).unwrap_or(0);
                fields.take(16 * aborted_count + 4)?;
                let length = usize::try_from(fields.i32()?).unwrap_or(0);
                let mut records = Fields(fields.take(length)?);
                let offset = offsets.get_mut(partition as usize).ok_or("an unknown partition")?;
                while records.0.len() > 61 {
                    let base_offset = records.i64()?;
                    let length = usize::try_from(records.i32()?).unwrap_or(0);
                    // The last batch may be cut off.
                    let Ok(batch) = records.take(length) else { break };
                    let mut header = Fields(batch.get(11..).unwrap_or_default());
                    let last_delta = header.i32()?;
                    let timestamp = header.i64()?;
                    header.take(22)?;
                    let count = header.i32()?;
                    *offset = base_offset + i64::from(last_delta) + 1;
                    visit(u64::try_from(count).unwrap_or(0), length, timestamp);
                }
            }
        }
        Ok(())
    }
}

fn failed(error: std::io::Error) -> String {
    format!("kafka: {error}")
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count).ok_or("a response is too short")?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| "a response is too short".to_owned())
    }

    fn i16(&mut self) -> Result<i16> {
        self.array().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64> {
        self.array().map(i64::from_be_bytes)
    }

    fn text(&mut self) -> Result<()> {
        let length = usize::try_from(self.i16()?).unwrap_or(0);
        self.take(length).map(drop)
    }
}
