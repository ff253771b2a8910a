//! Whether a new version of a subject goes with those before.
//!
//! Of Avro it is known what readers of one schema make of what another wrote. JSON Schema and Protobuf are not
//! judged: another text is a conflict that says so, rather than a promise that nobody has checked.

use apache_avro::schema_compatibility::SchemaCompatibility;
use serde::{Deserialize, Serialize};

use crate::state::{Body, Kind, State};
use crate::{Problem, avro};

/// How far a new version must go with old ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Level {
    /// Not at all.
    None,
    /// It reads what the last one wrote.
    Backward,
    /// It reads what all others wrote.
    BackwardTransitive,
    /// The last one reads what it writes.
    Forward,
    /// All others read what it writes.
    ForwardTransitive,
    /// Both.
    Full,
    /// Both, with all others.
    FullTransitive,
}

impl Level {
    fn is_transitive(self) -> bool {
        matches!(self, Level::BackwardTransitive | Level::ForwardTransitive | Level::FullTransitive)
    }

    fn reads_old(self) -> bool {
        !matches!(self, Level::None | Level::Forward | Level::ForwardTransitive)
    }

    fn is_read_by_old(self) -> bool {
        !matches!(self, Level::None | Level::Backward | Level::BackwardTransitive)
    }
}

/// Whether a schema is one.
///
/// # Errors
/// If it is none.
pub fn check_schema(state: &State, body: &Body) -> Result<(), Problem> {
    if body.text.len() > crate::SCHEMA_BYTES_MAX {
        let reason = format!("longer than {} bytes", crate::SCHEMA_BYTES_MAX);
        return Err(Problem::invalid_schema(reason));
    }
    let referred = state.referred(body)?;
    match body.kind {
        Kind::Avro => avro::parse(&body.text, &referred).map(drop).map_err(Problem::invalid_schema),
        Kind::Json => serde_json::from_str::<serde_json::Value>(&body.text)
            .map(drop)
            .map_err(Problem::invalid_schema),
        Kind::Protobuf if body.text.trim().is_empty() => {
            Err(Problem::invalid_schema("it is empty"))
        }
        Kind::Protobuf => Ok(()),
    }
}

/// What stands against a new version after `old`, oldest first; nothing, if it goes with them.
///
/// # Errors
/// If the new schema is none.
pub fn conflicts(
    state: &State,
    level: Level,
    new: &Body,
    old: &[(i32, &Body)],
) -> Result<Vec<String>, Problem> {
    check_schema(state, new)?;
    if level == Level::None {
        return Ok(Vec::new());
    }
    let compared = if level.is_transitive() { old } else { &old[old.len().saturating_sub(1)..] };
    let mut conflicts = Vec::new();
    for (version, before) in compared.iter().rev() {
        if before.kind != new.kind {
            conflicts.push(format!(
                "version {version} is {:?}, the new one {:?}",
                before.kind, new.kind
            ));
            continue;
        }
        if new.kind != Kind::Avro {
            if before.identity() != new.identity() {
                conflicts.push(format!(
                    "whether {:?} schemas go together is not judged here, and this is not the text of version {version}; set the compatibility of the subject to NONE to register it",
                    new.kind
                ));
            }
            continue;
        }
        let parsed = |body: &Body| {
            avro::parse(&body.text, &state.referred(body)?).map_err(Problem::invalid_schema)
        };
        let (before, after) = (parsed(before)?, parsed(new)?);
        if level.reads_old()
            && let Err(problem) = SchemaCompatibility::can_read(&before, &after)
        {
            conflicts.push(format!("it does not read what version {version} wrote: {problem}"));
        }
        if level.is_read_by_old()
            && let Err(problem) = SchemaCompatibility::can_read(&after, &before)
        {
            conflicts.push(format!("version {version} does not read what it writes: {problem}"));
        }
    }
    Ok(conflicts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Record, Reference};

    fn record(fields: &str) -> Body {
        let text = format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#);
        Body { kind: Kind::Avro, references: Vec::new(), text }
    }

    const A: &str = r#"{"name":"a","type":"int"}"#;
    const B: &str = r#"{"name":"b","type":"string"}"#;
    const B_DEFAULT: &str = r#"{"name":"b","type":"string","default":""}"#;

    #[test]
    fn fields_come_and_go_as_the_level_says() {
        let state = State::default();
        let (one, two) = (record(A), record(&format!("{A},{B}")));
        let two_default = record(&format!("{A},{B_DEFAULT}"));
        let goes = |level, old: &Body, new: &Body| {
            conflicts(&state, level, new, &[(1, old)]).unwrap().is_empty()
        };
        assert!(!goes(Level::Backward, &one, &two), "a field without default was not written");
        assert!(goes(Level::Backward, &one, &two_default));
        assert!(goes(Level::Backward, &two, &one));
        assert!(goes(Level::Forward, &one, &two));
        assert!(!goes(Level::Forward, &two, &one));
        assert!(!goes(Level::Full, &two, &one));
        assert!(goes(Level::Full, &one, &two_default));
        assert!(goes(Level::None, &one, &record(B)));
    }

    #[test]
    fn transitive_levels_look_at_all_versions() {
        let state = State::default();
        let (first, second, third) =
            (record(A), record(&format!("{A},{B_DEFAULT}")), record(&format!("{A},{B}")));
        let old = [(1, &first), (2, &second)];
        assert!(conflicts(&state, Level::Backward, &third, &old).unwrap().is_empty());
        assert_eq!(conflicts(&state, Level::BackwardTransitive, &third, &old).unwrap().len(), 1);
    }

    #[test]
    fn what_is_referred_to_counts() {
        let mut state = State::default();
        let inner = |version: i32, fields: &str| Record::Put {
            subject: "inner".to_owned(),
            version,
            id: version,
            body: Body {
                kind: Kind::Avro,
                references: Vec::new(),
                text: format!(
                    r#"{{"type":"record","name":"Inner","namespace":"x","fields":[{fields}]}}"#
                ),
            },
            is_deleted: false,
        };
        state.apply(inner(1, A));
        state.apply(inner(2, &format!("{A},{B}")));
        let outer = |version| {
            Body {
            kind: Kind::Avro,
            references: vec![Reference {
                name: "x.Inner".to_owned(),
                subject: "inner".to_owned(),
                version,
            }],
            text: r#"{"type":"record","name":"Outer","namespace":"x","fields":[
                {"name":"one","type":"Inner"},{"name":"many","type":{"type":"array","items":"x.Inner"}}]}"#
                .to_owned(),
        }
        };
        assert_eq!(check_schema(&state, &outer(1)), Ok(()));
        assert!(check_schema(&state, &outer(9)).is_err(), "no such version");
        let found = conflicts(&state, Level::Backward, &outer(2), &[(1, &outer(1))]).unwrap();
        assert_eq!(found.len(), 1, "the new inner one has a field without default");
        assert!(
            conflicts(&state, Level::Forward, &outer(2), &[(1, &outer(1))]).unwrap().is_empty()
        );
    }

    #[test]
    fn languages_do_not_mix_and_nonsense_is_refused() {
        let state = State::default();
        let json = Body { kind: Kind::Json, references: Vec::new(), text: "{}".to_owned() };
        assert_eq!(conflicts(&state, Level::Backward, &json, &[(1, &record(A))]).unwrap().len(), 1);
        // What is not judged is not said to be well, unless nobody asks for that.
        let goes = |level, text: &str| {
            let new = Body { text: text.to_owned(), ..json.clone() };
            conflicts(&state, level, &new, &[(1, &json)]).unwrap().is_empty()
        };
        assert!(goes(Level::Backward, " { } "), "the same but for white space");
        assert!(!goes(Level::Backward, r#"{"type":"string"}"#));
        assert!(goes(Level::None, r#"{"type":"string"}"#));
        let nonsense = Body { text: "{".to_owned(), ..json };
        assert!(check_schema(&state, &nonsense).is_err());
        assert!(check_schema(&state, &record(r#"{"name":"a"}"#)).is_err());
    }
}
