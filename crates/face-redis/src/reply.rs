//! Replies as bytes, in the client's version of the protocol.

use bytes::{BufMut, BytesMut};
use proteus_kernel_api::cache;

use crate::errors::RedisError;

/// Version of RESP that a client has chosen with HELLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resp {
    Two,
    Three,
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reply {
    Status(&'static str),
    Error(RedisError),
    Integer(i64),
    Bulk(bytes::Bytes),
    /// Text with a format, as INFO gives; a bulk string in RESP2.
    Verbatim(String),
    Nil,
    /// The nil that stands for an array, as EXEC gives when a watched key has changed.
    NilArray,
    Array(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
    Set(Vec<Reply>),
}

impl Reply {
    pub(crate) const OK: Reply = Reply::Status("OK");

    pub(crate) fn text(text: impl Into<String>) -> Reply {
        Reply::Bulk(bytes::Bytes::from(text.into()))
    }

    /// Appends the reply's bytes.
    pub(crate) fn encode(&self, resp: Resp, out: &mut BytesMut) {
        match self {
            Reply::Status(text) => line(out, b'+', text.as_bytes()),
            Reply::Error(RedisError(text)) => line(out, b'-', text.as_bytes()),
            Reply::Integer(number) => number_line(out, b':', *number),
            Reply::Bulk(value) => bulk(out, value),
            Reply::Verbatim(text) => match resp {
                Resp::Two => bulk(out, text.as_bytes()),
                Resp::Three => {
                    number_line(out, b'=', length(text.len() + 4));
                    out.put_slice(b"txt:");
                    out.put_slice(text.as_bytes());
                    out.put_slice(b"\r\n");
                }
            },
            Reply::Nil => out.put_slice(match resp {
                Resp::Two => b"$-1\r\n",
                Resp::Three => b"_\r\n",
            }),
            Reply::NilArray => out.put_slice(match resp {
                Resp::Two => b"*-1\r\n",
                Resp::Three => b"_\r\n",
            }),
            Reply::Array(items) => sequence(out, b'*', items, resp),
            Reply::Set(items) => match resp {
                Resp::Two => sequence(out, b'*', items, resp),
                Resp::Three => sequence(out, b'~', items, resp),
            },
            Reply::Map(pairs) => {
                match resp {
                    Resp::Two => number_line(out, b'*', length(pairs.len() * 2)),
                    Resp::Three => number_line(out, b'%', length(pairs.len())),
                }
                for (key, value) in pairs {
                    key.encode(resp, out);
                    value.encode(resp, out);
                }
            }
        }
    }
}

impl From<cache::Reply> for Reply {
    fn from(reply: cache::Reply) -> Reply {
        let optional = |value: Option<bytes::Bytes>| value.map_or(Reply::Nil, Reply::Bulk);
        match reply {
            cache::Reply::Done => Reply::OK,
            cache::Reply::Nil => Reply::Nil,
            cache::Reply::Integer(number) => Reply::Integer(number),
            cache::Reply::Bulk(value) => Reply::Bulk(value),
            cache::Reply::Status(text) => Reply::Status(text),
            cache::Reply::Array(values) => Reply::Array(values.into_iter().map(optional).collect()),
            cache::Reply::Map(pairs) => Reply::Map(
                pairs
                    .into_iter()
                    .map(|(key, value)| (Reply::Bulk(key), Reply::Bulk(value)))
                    .collect(),
            ),
            cache::Reply::Error(error) => Reply::Error(error.into()),
        }
    }
}

impl From<Result<Reply, RedisError>> for Reply {
    fn from(result: Result<Reply, RedisError>) -> Reply {
        result.unwrap_or_else(Reply::Error)
    }
}

fn length(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn sequence(out: &mut BytesMut, kind: u8, items: &[Reply], resp: Resp) {
    number_line(out, kind, length(items.len()));
    for item in items {
        item.encode(resp, out);
    }
}

fn bulk(out: &mut BytesMut, value: &[u8]) {
    number_line(out, b'$', length(value.len()));
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

fn line(out: &mut BytesMut, kind: u8, text: &[u8]) {
    out.put_u8(kind);
    out.put_slice(text);
    out.put_slice(b"\r\n");
}

/// A number with its kind, without going through a formatter: it heads every reply.
fn number_line(out: &mut BytesMut, kind: u8, number: i64) {
    let mut digits = [0u8; 20];
    let mut place = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        place -= 1;
        digits[place] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.put_u8(kind);
    if number < 0 {
        out.put_u8(b'-');
    }
    out.put_slice(&digits[place..]);
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(reply: &Reply, resp: Resp) -> String {
        let mut out = BytesMut::new();
        reply.encode(resp, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn shapes_of_both_versions() {
        let map = Reply::Map(vec![(Reply::text("a"), Reply::Integer(-12))]);
        assert_eq!(encoded(&map, Resp::Two), "*2\r\n$1\r\na\r\n:-12\r\n");
        assert_eq!(encoded(&map, Resp::Three), "%1\r\n$1\r\na\r\n:-12\r\n");
        assert_eq!(encoded(&Reply::Nil, Resp::Two), "$-1\r\n");
        assert_eq!(encoded(&Reply::NilArray, Resp::Two), "*-1\r\n");
        assert_eq!(encoded(&Reply::Nil, Resp::Three), "_\r\n");
        assert_eq!(encoded(&Reply::Verbatim("x".to_owned()), Resp::Three), "=5\r\ntxt:x\r\n");
        assert_eq!(encoded(&Reply::Integer(i64::MIN), Resp::Two), ":-9223372036854775808\r\n");
        assert_eq!(encoded(&Reply::Integer(0), Resp::Two), ":0\r\n");
    }
}
