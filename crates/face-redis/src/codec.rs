//! Requests: arrays of bulk strings, or inline commands.
//!
//! ```text
//! *3\r\n  $3\r\nSET\r\n  $1\r\nk\r\n  $5\r\nvalue\r\n
//! SET k "quoted value"\r\n
//! ```
//! Nothing is allocated on a peer's word: an argument is cut out of the bytes once they are there.

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;

/// Most arguments of a command, its name included, as in Redis.
pub const ARGUMENTS_MAX: usize = 1024 * 1024;

/// Longest argument, in bytes: what a log entry can carry.
pub const ARGUMENT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Longest command, in bytes of its frame.
pub const REQUEST_BYTES_MAX: usize = 48 * 1024 * 1024;

/// Longest inline command and longest length line, in bytes, as in Redis.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Before a client has authenticated it may send this many arguments of that many bytes, as in
/// Redis: more is not needed to authenticate.
const UNAUTHENTICATED_ARGUMENTS_MAX: usize = 10;
const UNAUTHENTICATED_ARGUMENT_BYTES_MAX: usize = 16_384;

/// Why bytes are not a request; the text is Redis' own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Protocol error: {0}")]
pub struct Malformed(pub String);

/// Bounds of what a client may send.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    arguments_max: usize,
    argument_bytes_max: usize,
}

impl Limits {
    /// For a client that may use the server.
    pub const ADMITTED: Limits =
        Limits { arguments_max: ARGUMENTS_MAX, argument_bytes_max: ARGUMENT_BYTES_MAX };
    /// For a client that must authenticate first.
    pub const UNAUTHENTICATED: Limits = Limits {
        arguments_max: UNAUTHENTICATED_ARGUMENTS_MAX,
        argument_bytes_max: UNAUTHENTICATED_ARGUMENT_BYTES_MAX,
    };
}

/// A request's arguments, the command's name first. Empty for an empty line, which asks nothing.
pub type Arguments = Vec<Bytes>;

/// Takes the next request from the front of `buffer`; `None` until it is there whole.
///
/// # Errors
/// If the bytes are no request; the connection cannot go on then.
pub fn decode(buffer: &mut BytesMut, limits: Limits) -> Result<Option<Arguments>, Malformed> {
    match buffer.first() {
        None => Ok(None),
        Some(b'*') => decode_array(buffer, limits),
        Some(_) => decode_inline(buffer),
    }
}

/// Where an argument stands in the frame.
struct Span {
    start: usize,
    end: usize,
}

fn decode_array(buffer: &mut BytesMut, limits: Limits) -> Result<Option<Arguments>, Malformed> {
    let Some((count, mut place)) = number_line(buffer, 1, "too big mbulk count string")? else {
        return Ok(None);
    };
    let invalid = || Malformed("invalid multibulk length".to_owned());
    let count = count.ok_or_else(invalid)?;
    if count > limits.arguments_max as i64 {
        return Err(if limits.arguments_max < ARGUMENTS_MAX {
            Malformed("unauthenticated multibulk length".to_owned())
        } else {
            invalid()
        });
    }
    // The count is only a bound so far: spans are added as arguments arrive.
    let mut spans = SmallVec::<[Span; 8]>::new();
    for _ in 0..count.max(0) {
        match buffer.get(place) {
            None => return incomplete(buffer, place),
            Some(b'$') => {}
            Some(other) => {
                return Err(Malformed(format!("expected '$', got '{}'", other.escape_ascii())));
            }
        }
        let Some((length, start)) = number_line(buffer, place + 1, "too big bulk count string")?
        else {
            return incomplete(buffer, place);
        };
        let length = length
            .and_then(|length| usize::try_from(length).ok())
            .ok_or_else(|| Malformed("invalid bulk length".to_owned()))?;
        if length > limits.argument_bytes_max {
            return Err(Malformed(if limits.argument_bytes_max < ARGUMENT_BYTES_MAX {
                "unauthenticated bulk length".to_owned()
            } else {
                "invalid bulk length".to_owned()
            }));
        }
        let end = start + length;
        if end > REQUEST_BYTES_MAX {
            return Err(Malformed("invalid multibulk length".to_owned()));
        }
        if buffer.len() < end + 2 {
            return Ok(None);
        }
        if &buffer[end..end + 2] != b"\r\n" {
            return Err(Malformed("expected CRLF after bulk string".to_owned()));
        }
        spans.push(Span { start, end });
        place = end + 2;
    }
    let mut frame = buffer.split_to(place).freeze();
    let last = spans.pop();
    let mut arguments = Vec::with_capacity(spans.len() + 1);
    arguments.extend(spans.into_iter().map(|span| frame.slice(span.start..span.end)));
    if let Some(span) = last {
        // What is left of the frame is for nobody else.
        frame.truncate(span.end);
        frame.advance(span.start);
        arguments.push(frame);
    }
    Ok(Some(arguments))
}

/// Commands that [`first_arguments`] looks at, at most.
pub const LOOKED_AHEAD_MAX: usize = 32;

/// The name of the command at the front of `buffer`, and the first arguments of the commands there that follow
/// each other under that name, without taking anything; nothing of what does not look like one.
pub fn first_arguments(buffer: &[u8]) -> (&[u8], SmallVec<[&[u8]; LOOKED_AHEAD_MAX]>) {
    let mut found = SmallVec::new();
    let Some((name, first, mut place)) = look_at(buffer, 0) else { return (b"", found) };
    found.push(first);
    while found.len() < LOOKED_AHEAD_MAX
        && let Some((next_name, first, end)) = look_at(buffer, place)
        && next_name == name
    {
        found.push(first);
        place = end;
    }
    (name, found)
}

/// Name and first argument of the command that begins at `start`, and where it ends.
fn look_at(buffer: &[u8], start: usize) -> Option<(&[u8], &[u8], usize)> {
    let (count, mut place) = number_behind(buffer, start, b'*')?;
    let mut argument = || {
        let (length, start) = number_behind(buffer, place, b'$')?;
        let end = start.checked_add(length)?;
        place = end.checked_add(2)?;
        buffer.get(start..end)
    };
    let (name, first) = (argument()?, argument()?);
    for _ in 2..count {
        argument()?;
    }
    (count >= 2 && place <= buffer.len()).then_some((name, first, place))
}

/// The number on the line at `start`, which begins with `mark`, and where that ends.
fn number_behind(buffer: &[u8], start: usize, mark: u8) -> Option<(usize, usize)> {
    if buffer.get(start) != Some(&mark) {
        return None;
    }
    match number_line(buffer, start + 1, "") {
        Ok(Some((Some(number), after))) => Some((usize::try_from(number).ok()?, after)),
        _ => None,
    }
}

/// How many bytes the argument still needs that `buffer` ends with, if it is the beginning of a command; 0 if that
/// cannot be told.
pub fn missing(buffer: &[u8]) -> usize {
    let end_of_last = || {
        let (count, mut place) = number_behind(buffer, 0, b'*')?;
        for _ in 0..count {
            let (length, start) = number_behind(buffer, place, b'$')?;
            place = start.checked_add(length)?.checked_add(2)?;
            if place > buffer.len() {
                return Some(place);
            }
        }
        None
    };
    end_of_last().map_or(0, |end| end - buffer.len())
}

fn incomplete(buffer: &BytesMut, place: usize) -> Result<Option<Arguments>, Malformed> {
    if buffer.len() - place.min(buffer.len()) > LINE_BYTES_MAX || place > REQUEST_BYTES_MAX {
        return Err(Malformed("too big bulk count string".to_owned()));
    }
    Ok(None)
}

/// The number in the line that begins at `start`, and where the next line begins. The number is
/// `None` if the line holds none.
fn number_line(
    buffer: &[u8],
    start: usize,
    too_long: &str,
) -> Result<Option<(Option<i64>, usize)>, Malformed> {
    let rest = buffer.get(start..).unwrap_or_default();
    let window = &rest[..rest.len().min(LINE_BYTES_MAX)];
    let Some(length) = window.iter().position(|byte| *byte == b'\r') else {
        if rest.len() > LINE_BYTES_MAX {
            return Err(Malformed(too_long.to_owned()));
        }
        return Ok(None);
    };
    match rest.get(length + 1) {
        None => Ok(None),
        Some(b'\n') => Ok(Some((parse_number(&rest[..length]), start + length + 2))),
        Some(_) => Ok(Some((None, start + length + 2))),
    }
}

fn parse_number(digits: &[u8]) -> Option<i64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn decode_inline(buffer: &mut BytesMut) -> Result<Option<Arguments>, Malformed> {
    let window = &buffer[..buffer.len().min(LINE_BYTES_MAX)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        if buffer.len() > LINE_BYTES_MAX {
            return Err(Malformed("too big inline request".to_owned()));
        }
        return Ok(None);
    };
    let line = buffer.split_to(end);
    buffer.advance(1);
    let line = line.strip_suffix(b"\r").unwrap_or(&line);
    split_words(line).map(Some).ok_or_else(|| Malformed("unbalanced quotes in request".to_owned()))
}

/// Splits a line into words as Redis' `sdssplitargs` does; `None` if a quote stays open.
fn split_words(line: &[u8]) -> Option<Arguments> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        let Some(first) = rest.first() else { return Some(words) };
        let mut word = Vec::new();
        rest = match first {
            b'"' => double_quoted(&rest[1..], &mut word)?,
            b'\'' => single_quoted(&rest[1..], &mut word)?,
            _ => {
                let end =
                    rest.iter().position(|byte| byte.is_ascii_whitespace()).unwrap_or(rest.len());
                word.extend_from_slice(&rest[..end]);
                &rest[end..]
            }
        };
        // A closing quote must be followed by a space or by nothing.
        if rest.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
            return None;
        }
        words.push(Bytes::from(word));
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [] => return None,
            [b'"', after @ ..] => return Some(after),
            [b'\\', b'x', high, low, after @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or(0) as u8;
                word.push(digit(*high) * 16 + digit(*low));
                rest = after;
            }
            [b'\\', escaped, after @ ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest = after;
            }
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [] => return None,
            [b'\'', after @ ..] => return Some(after),
            [b'\\', b'\'', after @ ..] => {
                word.push(b'\'');
                rest = after;
            }
            [byte, after @ ..] => {
                word.push(*byte);
                rest = after;
            }
        }
    }
}

/// Fuzz target: whatever the bytes and however they are cut, decoding neither panics nor depends on
/// the cuts.
///
/// # Panics
/// If the property does not hold.
pub fn fuzz_decode(input: &[u8]) {
    first_arguments(input);
    missing(input);
    let decode_all = |step: usize| {
        let mut buffer = BytesMut::new();
        let mut requests = Vec::new();
        for piece in input.chunks(step) {
            buffer.extend_from_slice(piece);
            loop {
                match decode(&mut buffer, Limits::ADMITTED) {
                    Ok(Some(request)) => requests.push(request),
                    Ok(None) => break,
                    Err(malformed) => return (requests, Some(malformed)),
                }
            }
        }
        (requests, None)
    };
    assert_eq!(decode_all(input.len().max(1)).0, decode_all(1).0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(arguments: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments {
            bytes.extend(format!("${}\r\n", argument.len()).into_bytes());
            bytes.extend(argument);
            bytes.extend(b"\r\n");
        }
        bytes
    }

    fn decode_one(bytes: &[u8]) -> Result<Option<Vec<Vec<u8>>>, Malformed> {
        let mut buffer = BytesMut::from(bytes);
        let arguments = decode(&mut buffer, Limits::ADMITTED)?;
        Ok(arguments.map(|arguments| arguments.iter().map(|a| a.to_vec()).collect()))
    }

    proptest! {
        #[test]
        fn requests_come_back(arguments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..8), cut in any::<prop::sample::Index>()) {
            let bytes = encode(&arguments);
            prop_assert_eq!(decode_one(&bytes).unwrap(), Some(arguments));
            prop_assert_eq!(decode_one(&bytes[..cut.index(bytes.len())]).unwrap(), None);
        }
    }

    #[test]
    fn commands_of_one_name_are_looked_at_before_they_are_taken() {
        let command = |words: &[&str]| {
            encode(&words.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>())
        };
        let mut bytes = command(&["HGET", "a", "f"]);
        bytes.extend(command(&["HGET", "bc", ""]));
        bytes.extend(command(&["GET", "d"]));
        let (name, found) = first_arguments(&bytes);
        assert_eq!((name, &found[..]), (&b"HGET"[..], &[&b"a"[..], b"bc"][..]));
        for end in 0..bytes.len() {
            assert!(first_arguments(&bytes[..end]).1.len() <= 2);
        }
        assert!(first_arguments(&command(&["PING"])).1.is_empty());
        assert!(first_arguments(b"*2\r\n$-1\r\n$99999999999999999999\r\n").1.is_empty());
        assert!(first_arguments(b"GET d\r\n").1.is_empty());
        let set = command(&["SET", "k", &"v".repeat(1000)]);
        let begun = set.len() - 500;
        assert_eq!(missing(&set[..begun]), 500);
        assert_eq!(
            (missing(&set), missing(b""), missing(b"*3\r\n$"), missing(b"GET")),
            (0, 0, 0, 0)
        );
        let many: Vec<u8> = (0..100).flat_map(|_| command(&["GET", "k"])).collect();
        assert_eq!(first_arguments(&many).1.len(), LOOKED_AHEAD_MAX);
    }

    #[test]
    fn inline_words_and_quotes() {
        let words = |line: &str| decode_one(line.as_bytes());
        assert_eq!(words("PING\r\n").unwrap().unwrap(), [b"PING"]);
        assert_eq!(words("\r\n").unwrap().unwrap(), Vec::<Vec<u8>>::new());
        assert_eq!(
            words("SET k \"a\\x41\\n\" 'it\\'s'\n").unwrap().unwrap(),
            [&b"SET"[..], b"k", b"aA\n", b"it's"]
        );
        assert!(words("GET \"open\n").is_err());
        assert!(words("GET \"a\"b\n").is_err());
    }

    #[test]
    fn lengths_are_bounded_before_anything_is_allocated() {
        for bytes in
            ["*2000000\r\n", "*1\r\n$99999999999\r\n", "*1\r\n$-5\r\n", "*x\r\n", "*1\r\n:1\r\n"]
        {
            assert!(decode_one(bytes.as_bytes()).is_err(), "{bytes}");
        }
        let mut buffer = BytesMut::from(&b"*1\r\n$20000\r\n"[..]);
        assert!(decode(&mut buffer, Limits::UNAUTHENTICATED).is_err());
    }

    #[test]
    fn fuzz() {
        let corpus = vec![
            encode(&[b"SET".to_vec(), b"key".to_vec(), b"value".to_vec()]),
            b"PING \"x\"\r\n".to_vec(),
            b"*1\r\n$4\r\nPING\r\n*0\r\n*-1\r\n".to_vec(),
        ];
        proteus_testkit::fuzz::run("redis request", &corpus, fuzz_decode);
    }
}
