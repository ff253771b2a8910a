//! Changes as records of the topic, in the JSON of Confluent's registry.

use bytes::Bytes;
use proteus_kernel_api::topic::batch::NewRecord;
use serde::{Deserialize, Serialize};

use crate::compatibility::Level;
use crate::state::{Body, Kind, Mode, Record, Reference};

const SCHEMA: &str = "SCHEMA";
const CONFIG: &str = "CONFIG";
const MODE: &str = "MODE";
const DELETE_SUBJECT: &str = "DELETE_SUBJECT";

#[derive(Serialize, Deserialize)]
struct Key {
    keytype: String,
    #[serde(default)]
    subject: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<i32>,
    magic: i32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SchemaValue {
    subject: String,
    version: i32,
    id: i32,
    #[serde(default)]
    schema_type: Kind,
    #[serde(default)]
    references: Vec<Reference>,
    schema: String,
    #[serde(default)]
    deleted: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigValue {
    compatibility_level: Level,
}

#[derive(Serialize, Deserialize)]
struct ModeValue {
    mode: Mode,
}

#[derive(Serialize, Deserialize)]
struct DeleteSubjectValue {
    version: i32,
}

fn json(value: &impl Serialize) -> Bytes {
    // Plain data has no way to fail.
    Bytes::from(serde_json::to_vec(value).unwrap_or_default())
}

/// The change as it is written.
pub(crate) fn encode(record: &Record) -> NewRecord {
    let key = |keytype: &str, subject: Option<&String>, version: Option<i32>| Key {
        keytype: keytype.to_owned(),
        subject: subject.cloned(),
        version,
        magic: i32::from(keytype == SCHEMA),
    };
    let (key, value) = match record {
        Record::Put { subject, version, id, body, is_deleted } => (
            key(SCHEMA, Some(subject), Some(*version)),
            Some(json(&SchemaValue {
                subject: subject.clone(),
                version: *version,
                id: *id,
                schema_type: body.kind,
                references: body.references.clone(),
                schema: body.text.clone(),
                deleted: *is_deleted,
            })),
        ),
        Record::Forget { subject, version } => (key(SCHEMA, Some(subject), Some(*version)), None),
        Record::SetLevel { subject, level } => (
            key(CONFIG, subject.as_ref(), None),
            level.map(|level| json(&ConfigValue { compatibility_level: level })),
        ),
        Record::SetMode { subject, mode } => {
            (key(MODE, subject.as_ref(), None), mode.map(|mode| json(&ModeValue { mode })))
        }
        Record::DeleteSubject { subject, upto } => (
            key(DELETE_SUBJECT, Some(subject), None),
            Some(json(&DeleteSubjectValue { version: *upto })),
        ),
    };
    NewRecord { key: Some(json(&key)), value, headers: Vec::new() }
}

/// The change that a record says; `None` if it says none.
pub(crate) fn decode(key: &[u8], value: Option<&[u8]>) -> Option<Record> {
    let key: Key = serde_json::from_slice(key).ok()?;
    match (&*key.keytype, value) {
        (SCHEMA, Some(value)) => {
            let value: SchemaValue = serde_json::from_slice(value).ok()?;
            let body =
                Body { kind: value.schema_type, references: value.references, text: value.schema };
            Some(Record::Put {
                subject: value.subject,
                version: value.version,
                id: value.id,
                body,
                is_deleted: value.deleted,
            })
        }
        (SCHEMA, None) => Some(Record::Forget { subject: key.subject?, version: key.version? }),
        (CONFIG, value) => {
            let level = value.map(serde_json::from_slice::<ConfigValue>);
            let level = level.transpose().ok()?.map(|value| value.compatibility_level);
            Some(Record::SetLevel { subject: key.subject, level })
        }
        (MODE, value) => {
            let mode = value.map(serde_json::from_slice::<ModeValue>);
            let mode = mode.transpose().ok()?.map(|value| value.mode);
            Some(Record::SetMode { subject: key.subject, mode })
        }
        (DELETE_SUBJECT, Some(value)) => {
            let value: DeleteSubjectValue = serde_json::from_slice(value).ok()?;
            Some(Record::DeleteSubject { subject: key.subject?, upto: value.version })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_comes_back_as_it_was() {
        let body = Body {
            kind: Kind::Json,
            references: vec![Reference { name: "n".into(), subject: "s".into(), version: 1 }],
            text: "{\"type\": \"object\"}".into(),
        };
        let subject = || "s".to_owned();
        for record in [
            Record::Put { subject: subject(), version: 2, id: 7, body, is_deleted: true },
            Record::Forget { subject: subject(), version: 2 },
            Record::SetLevel { subject: None, level: Some(Level::FullTransitive) },
            Record::SetLevel { subject: Some(subject()), level: None },
            Record::SetMode { subject: Some(subject()), mode: Some(Mode::ReadOnly) },
            Record::DeleteSubject { subject: subject(), upto: 3 },
        ] {
            let NewRecord { key, value, .. } = encode(&record);
            assert_eq!(decode(&key.unwrap(), value.as_deref()), Some(record));
        }
    }

    #[test]
    fn confluents_own_records_are_read() {
        let key = br#"{"keytype":"SCHEMA","subject":"s","version":1,"magic":1}"#;
        let value = br#"{"subject":"s","version":1,"id":1,"schema":"\"string\"","deleted":false}"#;
        let Some(Record::Put { id, body, .. }) = decode(key, Some(value)) else {
            panic!("not read");
        };
        assert_eq!((id, body.kind, &*body.text), (1, Kind::Avro, "\"string\""));
        let noop = br#"{"keytype":"NOOP","magic":0}"#;
        assert_eq!(decode(noop, None), None);
        let level = br#"{"keytype":"CONFIG","subject":null,"magic":0}"#;
        let value = br#"{"compatibilityLevel":"FULL"}"#;
        let expected = Record::SetLevel { subject: None, level: Some(Level::Full) };
        assert_eq!(decode(level, Some(value)), Some(expected));
    }

    #[test]
    fn fuzz() {
        let corpus = [br#"{"keytype":"SCHEMA","subject":"s","version":1,"magic":1}{"subject":"s","version":1,"id":1,"schema":"{}"}"#];
        let corpus = corpus.map(|bytes| bytes.to_vec());
        proteus_testkit::fuzz::run("schemas", &corpus, |bytes| {
            let middle = bytes.len() / 2;
            let (key, value) = bytes.split_at(middle);
            let _ = decode(key, Some(value));
        });
    }
}
