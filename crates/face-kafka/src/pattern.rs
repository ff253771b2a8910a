//! Patterns that clients send: of topics that a consumer subscribes, of transactional ids.

use regex::{Regex, RegexBuilder};

/// Longest pattern, in bytes, and most memory that it may take compiled.
const PATTERN_BYTES_MAX: usize = 4096;
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// A pattern in the syntax of RE2, as Kafka's, which must match a whole name. Matching takes time
/// linear in the name's length.
#[derive(Debug, Clone)]
pub(crate) struct Pattern(Regex);

impl Pattern {
    /// The pattern, or what is wrong with it.
    pub(crate) fn parse(pattern: &str) -> Result<Pattern, String> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(format!("{} bytes are more than {PATTERN_BYTES_MAX}", pattern.len()));
        }
        RegexBuilder::new(&format!(r"\A(?:{pattern})\z"))
            .size_limit(COMPILED_BYTES_MAX)
            .dfa_size_limit(COMPILED_BYTES_MAX)
            .build()
            .map(Pattern)
            .map_err(|error| error.to_string())
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_names() {
        let pattern = Pattern::parse("a|b+").unwrap();
        for (name, matches) in [("a", true), ("bb", true), ("ab", false), ("xa", false)] {
            assert_eq!(pattern.matches(name), matches, "{name}");
        }
        assert!(Pattern::parse("(").is_err());
        assert!(Pattern::parse("(((a{1000}){1000}){1000}").is_err());
        assert!(Pattern::parse(&"a".repeat(PATTERN_BYTES_MAX + 1)).is_err());
    }
}
