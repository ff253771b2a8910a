//! Replies as bytes, in the client's version of the protocol.

use bytes::{BufMut, Bytes, BytesMut};
use proteus_kernel_api::cache::{Reply, decimal_float_text, float_text};

/// Version of RESP that a client has chosen with HELLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resp {
    Two,
    Three,
}

/// Appends a reply's bytes.
pub(crate) fn encode(reply: &Reply, resp: Resp, out: &mut BytesMut) {
    match reply {
        Reply::Status(text) => line(out, b'+', text.as_bytes()),
        Reply::Error(text) => line(out, b'-', text.as_bytes()),
        Reply::Integer(number) => number_line(out, b':', *number),
        Reply::Bulk(value) => bulk(out, value),
        Reply::Double(number) => match resp {
            Resp::Two => bulk(out, float_text(*number).as_bytes()),
            Resp::Three => line(out, b',', float_text(*number).as_bytes()),
        },
        Reply::Decimal(number) => match resp {
            Resp::Two => bulk(out, decimal_float_text(*number).as_bytes()),
            Resp::Three => line(out, b',', decimal_float_text(*number).as_bytes()),
        },
        Reply::Boolean(is_true) => match resp {
            Resp::Two => number_line(out, b':', i64::from(*is_true)),
            Resp::Three => out.put_slice(if *is_true { b"#t\r\n" } else { b"#f\r\n" }),
        },
        Reply::BigNumber(text) => match resp {
            Resp::Two => bulk(out, text),
            Resp::Three => line(out, b'(', text),
        },
        Reply::Verbatim(format, text) => match resp {
            Resp::Two => bulk(out, text),
            Resp::Three => {
                number_line(out, b'=', length(text.len() + 4));
                out.put_slice(format.as_bytes());
                out.put_u8(b':');
                out.put_slice(text);
                out.put_slice(b"\r\n");
            }
        },
        Reply::Nil | Reply::Blocked => out.put_slice(match resp {
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
        Reply::Map(pairs) => map(out, pairs, resp),
        Reply::PairedMap(pairs) => match resp {
            Resp::Two => nested_pairs(out, pairs, resp),
            Resp::Three => map(out, pairs, resp),
        },
        Reply::Pairs(pairs) => match resp {
            Resp::Two => {
                number_line(out, b'*', length(pairs.len() * 2));
                for (first, second) in pairs {
                    encode(first, resp, out);
                    encode(second, resp, out);
                }
            }
            Resp::Three => nested_pairs(out, pairs, resp),
        },
    }
}

/// Appends what the server sends of its own accord: out of band in RESP3, an array in RESP2.
pub(crate) fn encode_push(items: &[Reply], resp: Resp, out: &mut BytesMut) {
    let kind = if resp == Resp::Three { b'>' } else { b'*' };
    sequence(out, kind, items, resp);
}

fn map(out: &mut BytesMut, pairs: &[(Reply, Reply)], resp: Resp) {
    match resp {
        Resp::Two => number_line(out, b'*', length(pairs.len() * 2)),
        Resp::Three => number_line(out, b'%', length(pairs.len())),
    }
    for (key, value) in pairs {
        encode(key, resp, out);
        encode(value, resp, out);
    }
}

fn nested_pairs(out: &mut BytesMut, pairs: &[(Reply, Reply)], resp: Resp) {
    number_line(out, b'*', length(pairs.len()));
    for (first, second) in pairs {
        number_line(out, b'*', 2);
        encode(first, resp, out);
        encode(second, resp, out);
    }
}

fn length(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn sequence(out: &mut BytesMut, kind: u8, items: &[Reply], resp: Resp) {
    number_line(out, kind, length(items.len()));
    for item in items {
        encode(item, resp, out);
    }
}

fn bulk(out: &mut BytesMut, value: &[u8]) {
    number_line(out, b'$', length(value.len()));
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// A line; what would end it early is replaced.
fn line(out: &mut BytesMut, kind: u8, text: &[u8]) {
    out.put_u8(kind);
    if text.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        let clean =
            text.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte });
        out.extend(clean);
    } else {
        out.put_slice(text);
    }
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

/// A text as a value.
pub(crate) fn text(text: impl Into<String>) -> Reply {
    Reply::Bulk(Bytes::from(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(reply: &Reply, resp: Resp) -> String {
        let mut out = BytesMut::new();
        encode(reply, resp, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn shapes_of_both_versions() {
        let pairs = vec![(text("a"), Reply::Double(1.5))];
        let map = Reply::Map(vec![(text("a"), Reply::Integer(-12))]);
        assert_eq!(encoded(&map, Resp::Two), "*2\r\n$1\r\na\r\n:-12\r\n");
        assert_eq!(encoded(&map, Resp::Three), "%1\r\n$1\r\na\r\n:-12\r\n");
        assert_eq!(encoded(&Reply::Nil, Resp::Two), "$-1\r\n");
        assert_eq!(encoded(&Reply::NilArray, Resp::Two), "*-1\r\n");
        assert_eq!(encoded(&Reply::Nil, Resp::Three), "_\r\n");
        let verbatim = Reply::Verbatim("txt", Bytes::from_static(b"x"));
        assert_eq!(encoded(&verbatim, Resp::Three), "=5\r\ntxt:x\r\n");
        assert_eq!(encoded(&Reply::Integer(i64::MIN), Resp::Two), ":-9223372036854775808\r\n");
        let flat = Reply::Pairs(pairs.clone());
        assert_eq!(encoded(&flat, Resp::Two), "*2\r\n$1\r\na\r\n$3\r\n1.5\r\n");
        assert_eq!(encoded(&flat, Resp::Three), "*1\r\n*2\r\n$1\r\na\r\n,1.5\r\n");
        let paired = Reply::PairedMap(pairs);
        assert_eq!(encoded(&paired, Resp::Two), "*1\r\n*2\r\n$1\r\na\r\n$3\r\n1.5\r\n");
        assert_eq!(encoded(&paired, Resp::Three), "%1\r\n$1\r\na\r\n,1.5\r\n");
    }

    #[test]
    fn an_error_stays_one_line() {
        assert_eq!(encoded(&Reply::Error("ERR a\r\nb".into()), Resp::Two), "-ERR a  b\r\n");
    }
}
