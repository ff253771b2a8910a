//! Glob patterns as Redis matches them.

/// Whether `text` fits `pattern`: `*` any bytes, `?` one, `[a-c]` and `[^a]` a set, `\x` the byte
/// itself.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // Where to go on after the last star if what follows does not fit: the pattern behind it, and the
    // text it has not swallowed yet. Going back to the last star only keeps the cost quadratic.
    let mut retry: Option<(&[u8], &[u8])> = None;
    let (mut pattern, mut text) = (pattern, text);
    loop {
        let fits = match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => {
                retry = Some((rest, text));
                pattern = rest;
                continue;
            }
            _ => match text.split_first() {
                None => false,
                Some((byte, text_rest)) => match one(pattern, *byte) {
                    Some(pattern_rest) => {
                        pattern = pattern_rest;
                        text = text_rest;
                        continue;
                    }
                    None => false,
                },
            },
        };
        if fits {
            return true;
        }
        match retry {
            Some((behind, [_, rest @ ..])) => {
                retry = Some((behind, rest));
                (pattern, text) = (behind, rest);
            }
            _ => return false,
        }
    }
}

/// Matches one byte against the front of `pattern`; what follows it if the byte fits.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [b'?', rest @ ..] => Some(rest),
        [b'\\', escaped, rest @ ..] => (*escaped == byte).then_some(rest),
        [b'[', rest @ ..] => set(rest, byte),
        [plain, rest @ ..] => (*plain == byte).then_some(rest),
        [] => None,
    }
}

fn set(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (is_negated, mut rest) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut is_in = false;
    loop {
        match rest {
            // A set that is not closed ends with the pattern.
            [] => break,
            [b'\\', escaped, after @ ..] => {
                is_in |= *escaped == byte;
                rest = after;
            }
            [b']', after @ ..] => {
                rest = after;
                break;
            }
            [first, b'-', last, after @ ..] => {
                let (low, high) = (first.min(last), first.max(last));
                is_in |= (*low..=*high).contains(&byte);
                rest = after;
            }
            [plain, after @ ..] => {
                is_in |= *plain == byte;
                rest = after;
            }
        }
    }
    (is_in != is_negated).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn globs() {
        let fits = |pattern: &str, text: &str| matches(pattern.as_bytes(), text.as_bytes());
        assert!(fits("*", "") && fits("h?llo", "hello") && fits("h[^e]llo", "hallo"));
        assert!(fits("h[a-e]l*", "hello") && fits("a\\*b", "a*b") && fits("*a*b*", "xxaxxbxx"));
        assert!(!fits("h[^e]llo", "hello") && !fits("a", "ab") && !fits("*ab", "abc"));
        assert!(fits("[abc", "c") && !fits("", "x"));
        let many = "a".repeat(2000);
        assert!(!fits(&"a*".repeat(500), "b") && !fits(&format!("{}b", "a*".repeat(50)), &many));
    }
}
