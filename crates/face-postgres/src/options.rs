//! The startup parameter `options`: settings as a server's command line has them, which clients pass on from
//! `PGOPTIONS` or a connection string.
//!
//! Source: PostgreSQL 15, `pg_split_opts`, `process_postgres_switches`.

/// The settings that are named, in their order; what is no setting is passed over.
pub(crate) fn settings(options: &str) -> Vec<(String, String)> {
    let mut words = words(options).into_iter();
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let assignment = match word.strip_prefix("--") {
            Some(long) => Some(long.to_owned()),
            None => match word.strip_prefix("-c") {
                Some("") => words.next(),
                short => short.map(str::to_owned),
            },
        };
        if let Some((name, value)) = assignment.as_deref().and_then(|text| text.split_once('=')) {
            settings.push((name.replace('-', "_"), value.to_owned()));
        }
    }
    settings
}

/// What stands between spaces; one behind a backslash belongs to its word.
fn words(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = None::<String>;
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => word.get_or_insert_default().extend(characters.next()),
            space if space.is_ascii_whitespace() => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_from_a_command_line() {
        let pairs = |options: &str| -> Vec<String> {
            settings(options).into_iter().map(|(name, value)| format!("{name}={value}")).collect()
        };
        assert_eq!(
            pairs(r"-c proteus.max_staleness=1s  --statement-timeout=5min -cdatestyle=ISO,\ MDY"),
            ["proteus.max_staleness=1s", "statement_timeout=5min", "datestyle=ISO, MDY"]
        );
        assert_eq!(pairs(r"-c a=b=c\\"), [r"a=b=c\"]);
        for nothing in ["", "  ", "-c", "-c a", "--a", "-x y=z", "\\"] {
            assert!(pairs(nothing).is_empty(), "{nothing}");
        }
    }
}
