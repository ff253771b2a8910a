//! Values as Redis' RDB format holds them: what DUMP gives and RESTORE takes.
//!
//! Written in forms that every Redis since 7.0 reads; read in all forms that Redis writes, packed and
//! compressed ones too. Whatever the bytes say, nothing is allocated before it is there.
//!
//! Source: the RDB format, version 12.

use bytes::Bytes;

pub mod file;

/// Most bytes that a compressed string may become.
const STRING_BYTES_MAX: usize = crate::STRING_BYTES_MAX;

/// The version written, and the greatest read.
const VERSION: u16 = 10;
const VERSION_FIELD_EXPIRY: u16 = 12;
const VERSION_MAX: u16 = 12;

/// A value apart from any store.
#[derive(Debug, Clone, PartialEq)]
pub enum Dumped {
    /// A string.
    String(Bytes),
    /// A list.
    List(Vec<Bytes>),
    /// A set.
    Set(Vec<Bytes>),
    /// Members and scores.
    SortedSet(Vec<(Bytes, f64)>),
    /// Fields, values and when they expire.
    Hash(Vec<(Bytes, Bytes, Option<u64>)>),
    /// A stream.
    Stream(DumpedStream),
}

/// A stream apart from any store; ids are milliseconds and sequence number.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DumpedStream {
    /// Entries in their order.
    pub entries: Vec<((u64, u64), Vec<Bytes>)>,
    /// The last id ever given.
    pub last_id: (u64, u64),
    /// The greatest id deleted.
    pub max_deleted_id: (u64, u64),
    /// Entries ever added.
    pub entries_added: u64,
    /// Consumer groups.
    pub groups: Vec<DumpedGroup>,
}

/// A consumer group apart from any store.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DumpedGroup {
    /// Its name.
    pub name: Bytes,
    /// Last id delivered.
    pub last_id: (u64, u64),
    /// Entries read, where known.
    pub entries_read: Option<u64>,
    /// Pending entries: id, when delivered, how often.
    pub pending: Vec<((u64, u64), u64, u64)>,
    /// Consumers: name, when seen, when active, ids of their pending entries.
    pub consumers: Vec<DumpedConsumer>,
}

/// A consumer apart from any store.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DumpedConsumer {
    /// Its name.
    pub name: Bytes,
    /// When it was seen last.
    pub seen_ms: u64,
    /// When it last got an entry.
    pub active_ms: Option<u64>,
    /// Ids of its pending entries.
    pub pending: Vec<(u64, u64)>,
}

fn checksum(bytes: &[u8]) -> u64 {
    const CRC: crc::Crc<u64> = crc::Crc::<u64>::new(&crc::CRC_64_REDIS);
    CRC.checksum(bytes)
}

/// What DUMP answers.
pub fn dump(value: &Dumped) -> Vec<u8> {
    let mut out = Vec::new();
    let mut version = VERSION;
    match value {
        Dumped::String(text) => {
            out.push(0);
            put_string(&mut out, text);
        }
        Dumped::List(items) => {
            out.push(1);
            put_strings(&mut out, items);
        }
        Dumped::Set(items) => {
            out.push(2);
            put_strings(&mut out, items);
        }
        Dumped::SortedSet(members) => {
            out.push(5);
            put_length(&mut out, members.len() as u64);
            for (member, score) in members {
                put_string(&mut out, member);
                out.extend_from_slice(&score.to_le_bytes());
            }
        }
        Dumped::Hash(fields) => {
            let earliest = fields.iter().filter_map(|(_, _, at_ms)| *at_ms).min();
            if let Some(earliest) = earliest {
                version = VERSION_FIELD_EXPIRY;
                out.push(24);
                out.extend_from_slice(&earliest.to_le_bytes());
            } else {
                out.push(4);
            }
            put_length(&mut out, fields.len() as u64);
            for (field, value, at_ms) in fields {
                if let Some(earliest) = earliest {
                    put_length(&mut out, at_ms.map_or(0, |at_ms| at_ms - earliest + 1));
                }
                put_string(&mut out, field);
                put_string(&mut out, value);
            }
        }
        Dumped::Stream(stream) => put_stream(&mut out, stream),
    }
    out.extend_from_slice(&version.to_le_bytes());
    let crc = checksum(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn put_length(out: &mut Vec<u8>, length: u64) {
    match length {
        0..64 => out.push(length as u8),
        64..16_384 => out.extend_from_slice(&[0x40 | (length >> 8) as u8, length as u8]),
        16_384..=0xFFFF_FFFF => {
            out.push(0x80);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    put_length(out, text.len() as u64);
    out.extend_from_slice(text);
}

fn put_strings(out: &mut Vec<u8>, items: &[Bytes]) {
    put_length(out, items.len() as u64);
    for item in items {
        put_string(out, item);
    }
}

fn id_bytes((ms, sequence): (u64, u64)) -> [u8; 16] {
    (u128::from(ms) << 64 | u128::from(sequence)).to_be_bytes()
}

/// A listpack under construction.
struct Listpack {
    bytes: Vec<u8>,
    count: usize,
}

impl Listpack {
    fn new() -> Listpack {
        Listpack { bytes: vec![0; 6], count: 0 }
    }

    fn entry(&mut self, head: &[u8], body: &[u8]) {
        self.bytes.extend_from_slice(head);
        self.bytes.extend_from_slice(body);
        let length = head.len() + body.len();
        // The length once more, to be read from behind: seven bits a byte, the last byte first.
        let groups = (0..5).take_while(|at| *at == 0 || length >> (7 * at) > 0).count();
        for at in (0..groups).rev() {
            let more = if at + 1 < groups { 0x80 } else { 0 };
            self.bytes.push((length >> (7 * at) & 0x7F) as u8 | more);
        }
        self.count += 1;
    }

    fn integer(&mut self, number: u64) {
        if number < 128 {
            self.entry(&[number as u8], &[]);
        } else {
            self.entry(&[0xF4], &number.to_le_bytes());
        }
    }

    fn string(&mut self, text: &[u8]) {
        match text.len() {
            length @ 0..64 => self.entry(&[0x80 | length as u8], text),
            length @ 64..4096 => self.entry(&[0xE0 | (length >> 8) as u8, length as u8], text),
            length => {
                let mut head = vec![0xF0];
                head.extend_from_slice(&(length as u32).to_le_bytes());
                self.entry(&head, text);
            }
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.bytes.push(0xFF);
        let total = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&total.to_le_bytes());
        let count = u16::try_from(self.count).unwrap_or(u16::MAX);
        self.bytes[4..6].copy_from_slice(&count.to_le_bytes());
        self.bytes
    }
}

/// Entries of a stream that one listpack holds.
const NODE_ENTRIES: usize = 100;

fn put_stream(out: &mut Vec<u8>, stream: &DumpedStream) {
    out.push(19);
    let nodes: Vec<_> = stream.entries.chunks(NODE_ENTRIES).collect();
    put_length(out, nodes.len() as u64);
    for node in nodes {
        let Some((master, fields)) = node.first() else { continue };
        let mut pack = Listpack::new();
        pack.integer(node.len() as u64);
        pack.integer(0);
        pack.integer(fields.len() as u64 / 2);
        for field in fields.iter().step_by(2) {
            pack.string(field);
        }
        pack.integer(0);
        for ((ms, sequence), fields) in node {
            pack.integer(0);
            pack.integer(ms.wrapping_sub(master.0));
            pack.integer(sequence.wrapping_sub(master.1));
            pack.integer(fields.len() as u64 / 2);
            for part in fields {
                pack.string(part);
            }
            pack.integer(fields.len() as u64 + 4);
        }
        put_string(out, &id_bytes(*master));
        put_string(out, &pack.finish());
    }
    let first = stream.entries.first().map_or((0, 0), |(id, _)| *id);
    put_length(out, stream.entries.len() as u64);
    for (ms, sequence) in [stream.last_id, first, stream.max_deleted_id] {
        put_length(out, ms);
        put_length(out, sequence);
    }
    put_length(out, stream.entries_added);
    put_length(out, stream.groups.len() as u64);
    for group in &stream.groups {
        put_string(out, &group.name);
        put_length(out, group.last_id.0);
        put_length(out, group.last_id.1);
        put_length(out, group.entries_read.unwrap_or(u64::MAX));
        put_length(out, group.pending.len() as u64);
        for (id, delivered_ms, deliveries) in &group.pending {
            out.extend_from_slice(&id_bytes(*id));
            out.extend_from_slice(&delivered_ms.to_le_bytes());
            put_length(out, *deliveries);
        }
        put_length(out, group.consumers.len() as u64);
        for consumer in &group.consumers {
            put_string(out, &consumer.name);
            out.extend_from_slice(&consumer.seen_ms.to_le_bytes());
            put_length(out, consumer.pending.len() as u64);
            for id in &consumer.pending {
                out.extend_from_slice(&id_bytes(*id));
            }
        }
    }
}

/// Why bytes are not a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadDump {
    /// Version or checksum.
    #[error("DUMP payload version or checksum are wrong")]
    Frame,
    /// What is within.
    #[error("Bad data format")]
    Data,
}

/// Reads what DUMP gave.
///
/// # Errors
/// If the bytes are damaged, or of a version or type unknown here.
pub fn restore(payload: &[u8]) -> Result<Dumped, BadDump> {
    let (&kind, rest) = framed(payload)?.split_first().ok_or(BadDump::Data)?;
    let mut reader = Reader::of(rest);
    let value = reader.value(kind).ok_or(BadDump::Data)?;
    let is_empty = match &value {
        Dumped::String(_) | Dumped::Stream(_) => false,
        Dumped::List(items) | Dumped::Set(items) => items.is_empty(),
        Dumped::SortedSet(items) => items.is_empty(),
        Dumped::Hash(items) => items.is_empty(),
    };
    if reader.rest.is_empty() && !is_empty { Ok(value) } else { Err(BadDump::Data) }
}

/// What FUNCTION DUMP answers: the texts of libraries.
pub fn dump_libraries(texts: &[Bytes]) -> Vec<u8> {
    let mut out = Vec::new();
    for text in texts {
        out.push(0xF5);
        put_string(&mut out, text);
    }
    out.extend_from_slice(&VERSION.to_le_bytes());
    let crc = checksum(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// Reads what FUNCTION DUMP gave.
///
/// # Errors
/// As [`restore`].
pub fn restore_libraries(payload: &[u8]) -> Result<Vec<Bytes>, BadDump> {
    let mut reader = Reader::of(framed(payload)?);
    let mut texts = Vec::new();
    while let Some(opcode) = reader.byte() {
        if opcode != 0xF5 {
            return Err(BadDump::Data);
        }
        texts.push(reader.string().ok_or(BadDump::Data)?);
    }
    Ok(texts)
}

/// The bytes within, if version and checksum are right.
fn framed(payload: &[u8]) -> Result<&[u8], BadDump> {
    let (body, crc) = payload.split_last_chunk::<8>().ok_or(BadDump::Frame)?;
    let (value, version) = body.split_last_chunk::<2>().ok_or(BadDump::Frame)?;
    let crc = u64::from_le_bytes(*crc);
    if u16::from_le_bytes(*version) > VERSION_MAX || (crc != 0 && crc != checksum(body)) {
        return Err(BadDump::Frame);
    }
    Ok(value)
}

enum Length {
    Plain(u64),
    /// A string in an encoding of its own.
    Encoded(u8),
}

/// Reads values; `None` wherever the bytes end early or mean nothing.
struct Reader<'a> {
    rest: &'a [u8],
    /// More was wanted than there is.
    is_short: bool,
}

impl<'a> Reader<'a> {
    fn of(rest: &'a [u8]) -> Reader<'a> {
        Reader { rest, is_short: false }
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let Some((part, rest)) = self.rest.split_at_checked(count) else {
            self.is_short = true;
            return None;
        };
        self.rest = rest;
        Some(part)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn length_or_encoding(&mut self) -> Option<Length> {
        let first = self.byte()?;
        Some(match first >> 6 {
            0 => Length::Plain(u64::from(first & 0x3F)),
            1 => Length::Plain(u64::from(first & 0x3F) << 8 | u64::from(self.byte()?)),
            2 if first == 0x80 => Length::Plain(u32::from_be_bytes(self.array()?).into()),
            2 if first == 0x81 => Length::Plain(u64::from_be_bytes(self.array()?)),
            2 => return None,
            _ => Length::Encoded(first & 0x3F),
        })
    }

    fn length(&mut self) -> Option<u64> {
        match self.length_or_encoding()? {
            Length::Plain(length) => Some(length),
            Length::Encoded(_) => None,
        }
    }

    fn count(&mut self) -> Option<usize> {
        usize::try_from(self.length()?).ok()
    }

    fn string(&mut self) -> Option<Bytes> {
        let number = |number: i64| Bytes::from(number.to_string());
        Some(match self.length_or_encoding()? {
            Length::Plain(length) => {
                Bytes::copy_from_slice(self.take(usize::try_from(length).ok()?)?)
            }
            Length::Encoded(0) => number(i8::from_le_bytes(self.array()?).into()),
            Length::Encoded(1) => number(i16::from_le_bytes(self.array()?).into()),
            Length::Encoded(2) => number(i32::from_le_bytes(self.array()?).into()),
            Length::Encoded(3) => {
                let (packed, whole) = (self.count()?, self.count()?);
                Bytes::from(decompress(self.take(packed)?, whole)?)
            }
            Length::Encoded(_) => return None,
        })
    }

    fn strings(&mut self, per_item: usize) -> Option<Vec<Bytes>> {
        let count = self.count()?.checked_mul(per_item)?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(self.string()?);
        }
        Some(items)
    }

    fn value(&mut self, kind: u8) -> Option<Dumped> {
        Some(match kind {
            0 => Dumped::String(self.string()?),
            1 => Dumped::List(self.strings(1)?),
            2 => Dumped::Set(distinct(self.strings(1)?)?),
            3 | 5 => {
                let mut members = Vec::new();
                for _ in 0..self.count()? {
                    let member = self.string()?;
                    let score = if kind == 5 {
                        f64::from_le_bytes(self.array()?)
                    } else {
                        self.old_score()?
                    };
                    members.push((member, score));
                }
                sorted_set(members)?
            }
            4 => Dumped::Hash(hash(self.strings(2)?)?),
            10 => Dumped::List(ziplist(&self.string()?)?),
            11 => Dumped::Set(distinct(intset(&self.string()?)?)?),
            12 => scored(ziplist(&self.string()?)?)?,
            13 => Dumped::Hash(hash(ziplist(&self.string()?)?)?),
            14 => {
                let mut items = Vec::new();
                for node in self.strings(1)? {
                    items.extend(ziplist(&node)?);
                }
                Dumped::List(items)
            }
            16 => Dumped::Hash(hash(listpack(&self.string()?)?)?),
            17 => scored(listpack(&self.string()?)?)?,
            18 => {
                let mut items = Vec::new();
                for _ in 0..self.count()? {
                    let form = self.length()?;
                    let node = self.string()?;
                    match form {
                        1 => items.push(node),
                        2 => items.extend(listpack(&node)?),
                        _ => return None,
                    }
                }
                Dumped::List(items)
            }
            20 => Dumped::Set(distinct(listpack(&self.string()?)?)?),
            15 | 19 | 21 => Dumped::Stream(self.stream(kind)?),
            24 => {
                let earliest = u64::from_le_bytes(self.array()?);
                let mut fields = Vec::new();
                for _ in 0..self.count()? {
                    let offset = self.length()?;
                    let at_ms = match offset {
                        0 => None,
                        offset => Some(earliest.checked_add(offset - 1)?),
                    };
                    fields.push((self.string()?, self.string()?, at_ms));
                }
                distinct(fields.iter().map(|(field, _, _)| field.clone()).collect())?;
                Dumped::Hash(fields)
            }
            25 => {
                self.array::<8>()?;
                let parts = listpack(&self.string()?)?;
                let mut fields = Vec::new();
                for part in parts.chunks(3) {
                    let [field, value, at_ms] = part else { return None };
                    let at_ms =
                        crate::parse_integer(at_ms).and_then(|ms| u64::try_from(ms).ok())?;
                    fields.push((field.clone(), value.clone(), (at_ms > 0).then_some(at_ms)));
                }
                distinct(fields.iter().map(|(field, _, _)| field.clone()).collect())?;
                Dumped::Hash(fields)
            }
            _ => return None,
        })
    }

    fn old_score(&mut self) -> Option<f64> {
        match self.byte()? {
            253 => None,
            254 => Some(f64::INFINITY),
            255 => Some(f64::NEG_INFINITY),
            length => crate::parse_float(self.take(length.into())?),
        }
    }

    fn id(&mut self) -> Option<(u64, u64)> {
        Some((self.length()?, self.length()?))
    }

    fn raw_id(&mut self) -> Option<(u64, u64)> {
        Some((u64::from_be_bytes(self.array()?), u64::from_be_bytes(self.array()?)))
    }

    fn stream(&mut self, kind: u8) -> Option<DumpedStream> {
        let mut stream = DumpedStream::default();
        for _ in 0..self.count()? {
            let master = self.string()?;
            let master = Reader::of(&master).raw_id()?;
            stream_node(master, &listpack(&self.string()?)?, &mut stream.entries)?;
        }
        let length = self.length()?;
        stream.last_id = self.id()?;
        stream.entries_added = length;
        if kind >= 19 {
            self.id()?;
            stream.max_deleted_id = self.id()?;
            stream.entries_added = self.length()?;
        }
        for _ in 0..self.count()? {
            let mut group = DumpedGroup { name: self.string()?, ..DumpedGroup::default() };
            group.last_id = self.id()?;
            if kind >= 19 {
                group.entries_read = Some(self.length()?).filter(|read| *read != u64::MAX);
            }
            for _ in 0..self.count()? {
                let id = self.raw_id()?;
                let delivered_ms = u64::from_le_bytes(self.array()?);
                group.pending.push((id, delivered_ms, self.length()?));
            }
            for _ in 0..self.count()? {
                let name = self.string()?;
                let seen_ms = u64::from_le_bytes(self.array()?);
                let mut active_ms = Some(seen_ms);
                if kind >= 21 {
                    let stored = i64::from_le_bytes(self.array()?);
                    active_ms = u64::try_from(stored).ok();
                }
                let mut pending = Vec::new();
                for _ in 0..self.count()? {
                    pending.push(self.raw_id()?);
                }
                group.consumers.push(DumpedConsumer { name, seen_ms, active_ms, pending });
            }
            stream.groups.push(group);
        }
        let is_ordered = stream.entries.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let last = stream.entries.last().map_or((0, 0), |(id, _)| *id);
        (is_ordered && last <= stream.last_id && length == stream.entries.len() as u64)
            .then_some(stream)
    }
}

/// Entries of one node of a stream; deleted ones are passed over.
fn stream_node(
    master: (u64, u64),
    parts: &[Bytes],
    into: &mut Vec<((u64, u64), Vec<Bytes>)>,
) -> Option<()> {
    let number = |part: &Bytes| crate::parse_integer(part);
    let mut parts = parts.iter();
    let live = number(parts.next()?)?;
    let deleted = number(parts.next()?)?;
    let field_count = usize::try_from(number(parts.next()?)?).ok()?;
    let mut master_fields = Vec::new();
    for _ in 0..field_count {
        master_fields.push(parts.next()?.clone());
    }
    parts.next()?;
    for _ in 0..live.checked_add(deleted)? {
        let flags = number(parts.next()?)?;
        let ms = master.0.wrapping_add(number(parts.next()?)? as u64);
        let sequence = master.1.wrapping_add(number(parts.next()?)? as u64);
        let mut fields = Vec::new();
        if flags & 2 != 0 {
            for field in &master_fields {
                fields.extend([field.clone(), parts.next()?.clone()]);
            }
        } else {
            for _ in 0..number(parts.next()?)? {
                fields.extend([parts.next()?.clone(), parts.next()?.clone()]);
            }
        }
        parts.next()?;
        if flags & 1 == 0 {
            into.push(((ms, sequence), fields));
        }
    }
    Some(())
}

fn distinct(items: Vec<Bytes>) -> Option<Vec<Bytes>> {
    let mut sorted: Vec<&Bytes> = items.iter().collect();
    sorted.sort_unstable();
    sorted.windows(2).all(|pair| pair[0] != pair[1]).then_some(items)
}

fn hash(parts: Vec<Bytes>) -> Option<Vec<(Bytes, Bytes, Option<u64>)>> {
    if !parts.len().is_multiple_of(2) {
        return None;
    }
    let fields: Vec<_> =
        parts.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone(), None)).collect();
    distinct(fields.iter().map(|(field, _, _)| field.clone()).collect())?;
    Some(fields)
}

fn sorted_set(members: Vec<(Bytes, f64)>) -> Option<Dumped> {
    distinct(members.iter().map(|(member, _)| member.clone()).collect())?;
    members.iter().all(|(_, score)| !score.is_nan()).then_some(Dumped::SortedSet(members))
}

fn scored(parts: Vec<Bytes>) -> Option<Dumped> {
    if !parts.len().is_multiple_of(2) {
        return None;
    }
    let pair = |pair: &[Bytes]| Some((pair[0].clone(), crate::parse_float(&pair[1])?));
    sorted_set(parts.chunks_exact(2).map(pair).collect::<Option<_>>()?)
}

fn signed(bytes: &[u8]) -> i64 {
    let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xFF } else { 0 };
    let mut wide = [fill; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    i64::from_le_bytes(wide)
}

fn number(number: i64) -> Bytes {
    Bytes::from(number.to_string())
}

fn intset(bytes: &[u8]) -> Option<Vec<Bytes>> {
    let mut reader = Reader::of(bytes);
    let width = u32::from_le_bytes(reader.array()?) as usize;
    let count = u32::from_le_bytes(reader.array()?) as usize;
    if !matches!(width, 2 | 4 | 8) || reader.rest.len() != count.checked_mul(width)? {
        return None;
    }
    Some(reader.rest.chunks_exact(width).map(|part| number(signed(part))).collect())
}

fn listpack(bytes: &[u8]) -> Option<Vec<Bytes>> {
    let mut reader = Reader::of(bytes);
    if u32::from_le_bytes(reader.array()?) as usize != bytes.len() {
        return None;
    }
    reader.array::<2>()?;
    let mut items = Vec::new();
    loop {
        let before = reader.rest.len();
        let first = reader.byte()?;
        let item = match first {
            0xFF => return reader.rest.is_empty().then_some(items),
            0..=0x7F => number(first.into()),
            0x80..=0xBF => Bytes::copy_from_slice(reader.take(usize::from(first & 0x3F))?),
            0xC0..=0xDF => {
                let raw = u16::from(first & 0x1F) << 8 | u16::from(reader.byte()?);
                number(i64::from(raw) - if raw >= 1 << 12 { 1 << 13 } else { 0 })
            }
            0xE0..=0xEF => {
                let length = usize::from(first & 0x0F) << 8 | usize::from(reader.byte()?);
                Bytes::copy_from_slice(reader.take(length)?)
            }
            0xF0 => {
                let length = u32::from_le_bytes(reader.array()?) as usize;
                Bytes::copy_from_slice(reader.take(length)?)
            }
            0xF1..=0xF4 => {
                let width = [2, 3, 4, 8][usize::from(first - 0xF1)];
                number(signed(reader.take(width)?))
            }
            _ => return None,
        };
        let length = before - reader.rest.len();
        let groups = (0..5).take_while(|at| *at == 0 || length >> (7 * at) > 0).count();
        reader.take(groups)?;
        items.push(item);
    }
}

fn ziplist(bytes: &[u8]) -> Option<Vec<Bytes>> {
    let mut reader = Reader::of(bytes);
    if u32::from_le_bytes(reader.array()?) as usize != bytes.len() {
        return None;
    }
    reader.array::<6>()?;
    let mut items = Vec::new();
    loop {
        match reader.byte()? {
            0xFF => return reader.rest.is_empty().then_some(items),
            0xFE => {
                reader.array::<4>()?;
            }
            _ => {}
        }
        let first = reader.byte()?;
        items.push(match first {
            0..=0x3F => Bytes::copy_from_slice(reader.take(first.into())?),
            0x40..=0x7F => {
                let length = usize::from(first & 0x3F) << 8 | usize::from(reader.byte()?);
                Bytes::copy_from_slice(reader.take(length)?)
            }
            0x80 => {
                let length = u32::from_be_bytes(reader.array()?) as usize;
                Bytes::copy_from_slice(reader.take(length)?)
            }
            0xC0 => number(signed(reader.take(2)?)),
            0xD0 => number(signed(reader.take(4)?)),
            0xE0 => number(signed(reader.take(8)?)),
            0xF0 => number(signed(reader.take(3)?)),
            0xFE => number(signed(reader.take(1)?)),
            0xF1..=0xFD => number(i64::from(first & 0x0F) - 1),
            _ => return None,
        });
    }
}

/// LZF.
fn decompress(packed: &[u8], whole: usize) -> Option<Vec<u8>> {
    if whole > STRING_BYTES_MAX {
        return None;
    }
    let mut reader = Reader::of(packed);
    let mut out: Vec<u8> = Vec::new();
    while !reader.rest.is_empty() {
        let control = usize::from(reader.byte()?);
        if control < 32 {
            out.extend_from_slice(reader.take(control + 1)?);
        } else {
            let mut length = control >> 5;
            if length == 7 {
                length += usize::from(reader.byte()?);
            }
            let back = ((control & 0x1F) << 8 | usize::from(reader.byte()?)) + 1;
            let from = out.len().checked_sub(back)?;
            // One by one: what is copied may reach into what the copy adds.
            for at in from..from + length + 2 {
                out.push(*out.get(at)?);
            }
        }
        if out.len() > whole {
            return None;
        }
    }
    (out.len() == whole).then_some(out)
}

/// Fuzz target: whatever the bytes, reading neither panics nor gives a value that does not come back.
///
/// # Panics
/// If the property does not hold.
pub fn fuzz_restore(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    let mut reader = Reader::of(rest);
    if let Some(value) = reader.value(*kind)
        && !matches!(value, Dumped::Hash(_))
    {
        let again = restore(&dump(&value));
        assert!(again.is_err() || again == Ok(value));
    }
}

#[cfg(test)]
mod tests;
