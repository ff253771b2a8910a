//! What the records of the topic come to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Problem;
use crate::compatibility::Level;

/// Schemas that one refers to, directly or not.
const REFERENCES_MAX: usize = 200;

/// The language of a schema.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Kind {
    /// Avro.
    #[default]
    Avro,
    /// JSON Schema.
    Json,
    /// Protocol Buffers.
    Protobuf,
}

/// A schema that another refers to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Reference {
    /// How it is referred to.
    pub name: String,
    /// Where it stands.
    pub subject: String,
    /// Which of its versions.
    pub version: i32,
}

/// A schema as it was registered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Body {
    /// Its language.
    pub kind: Kind,
    /// What it refers to.
    pub references: Vec<Reference>,
    /// It.
    pub text: String,
}

impl Body {
    /// The same for schemas that differ in white space only.
    pub(crate) fn identity(&self) -> Body {
        let text = match self.kind {
            Kind::Avro | Kind::Json => serde_json::from_str::<serde_json::Value>(&self.text)
                .map_or_else(|_| self.text.clone(), |json| json.to_string()),
            Kind::Protobuf => self.text.trim().to_owned(),
        };
        Body { text, ..self.clone() }
    }
}

/// A version of a subject.
#[derive(Debug, Clone)]
pub struct Version {
    /// The id of its schema.
    pub id: i32,
    /// Its schema.
    pub body: Arc<Body>,
    /// Whether it was deleted, so that only who asks for deleted ones sees it.
    pub is_deleted: bool,
}

/// Whether schemas may be registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mode {
    /// They may.
    ReadWrite,
    /// They may not.
    ReadOnly,
    /// With their ids and versions, as they are elsewhere.
    Import,
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A version of a subject is this.
    Put {
        /// The subject.
        subject: String,
        /// The version.
        version: i32,
        /// The id of its schema.
        id: i32,
        /// Its schema.
        body: Body,
        /// Whether it is deleted.
        is_deleted: bool,
    },
    /// A version of a subject never was.
    Forget {
        /// The subject.
        subject: String,
        /// The version.
        version: i32,
    },
    /// How far new versions must go with old ones; of all subjects that have no level of their own if
    /// `subject` is `None`.
    SetLevel {
        /// The subject.
        subject: Option<String>,
        /// The level; `None`: none of its own.
        level: Option<Level>,
    },
    /// Whether schemas may be registered.
    SetMode {
        /// The subject, or all others.
        subject: Option<String>,
        /// The mode; `None`: none of its own.
        mode: Option<Mode>,
    },
    /// Confluent's registry writes this where all versions of a subject up to one were deleted.
    DeleteSubject {
        /// The subject.
        subject: String,
        /// The last version deleted.
        upto: i32,
    },
}

/// All that is registered.
#[derive(Debug, Clone, Default)]
pub struct State {
    subjects: BTreeMap<String, BTreeMap<i32, Version>>,
    by_id: BTreeMap<i32, Arc<Body>>,
    ids: BTreeMap<Body, i32>,
    levels: BTreeMap<Option<String>, Level>,
    modes: BTreeMap<Option<String>, Mode>,
    /// No schema has had this id, nor a greater one.
    pub next_id: i32,
}

impl State {
    /// Applies one change.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Put { subject, version, id, body, is_deleted } => {
                self.ids.entry(body.identity()).or_insert(id);
                let body = self.by_id.entry(id).or_insert_with(|| Arc::new(body)).clone();
                self.next_id = self.next_id.max(id.saturating_add(1));
                let versions = self.subjects.entry(subject).or_default();
                versions.insert(version, Version { id, body, is_deleted });
            }
            Record::Forget { subject, version } => {
                if let Some(versions) = self.subjects.get_mut(&subject) {
                    versions.remove(&version);
                    if versions.is_empty() {
                        self.subjects.remove(&subject);
                    }
                }
            }
            Record::SetLevel { subject, level } => set(&mut self.levels, subject, level),
            Record::SetMode { subject, mode } => set(&mut self.modes, subject, mode),
            Record::DeleteSubject { subject, upto } => {
                let versions = self.subjects.get_mut(&subject).into_iter().flatten();
                for (_, version) in versions.filter(|(number, _)| **number <= upto) {
                    version.is_deleted = true;
                }
            }
        }
    }

    /// Subjects with versions, deleted ones too if asked for.
    pub fn subjects(&self, with_deleted: bool) -> impl Iterator<Item = &str> {
        let is_seen = move |versions: &BTreeMap<i32, Version>| {
            versions.values().any(|version| with_deleted || !version.is_deleted)
        };
        self.subjects.iter().filter(move |(_, found)| is_seen(found)).map(|(name, _)| &**name)
    }

    /// Versions of a subject by their numbers; none is a problem.
    ///
    /// # Errors
    /// If there is no such subject.
    pub fn versions(
        &self,
        subject: &str,
        with_deleted: bool,
    ) -> Result<Vec<(i32, &Version)>, Problem> {
        let all = self.subjects.get(subject).into_iter().flatten();
        let seen = all.filter(|(_, version)| with_deleted || !version.is_deleted);
        let seen: Vec<(i32, &Version)> = seen.map(|(number, version)| (*number, version)).collect();
        if seen.is_empty() { Err(Problem::subject_not_found(subject)) } else { Ok(seen) }
    }

    /// A version of a subject: its number, `latest`, or -1 for that.
    ///
    /// # Errors
    /// If there is no such subject or version.
    pub fn version(
        &self,
        subject: &str,
        wanted: &str,
        with_deleted: bool,
    ) -> Result<(i32, &Version), Problem> {
        let versions = self.versions(subject, with_deleted)?;
        let found = match wanted {
            "latest" | "-1" => versions.last(),
            number => {
                let number = number.parse::<i32>().ok().filter(|number| *number > 0);
                let number = number.ok_or_else(|| {
                    Problem::new(
                        42202,
                        format!(
                            "The specified version '{wanted}' is not a valid version id. Allowed values are between [1, 2^31-1] and the string \"latest\""
                        ),
                    )
                })?;
                versions.iter().find(|(found, _)| *found == number)
            }
        };
        found.copied().ok_or_else(|| Problem::version_not_found(wanted))
    }

    /// The schema with this id.
    ///
    /// # Errors
    /// If there is none.
    pub fn schema(&self, id: i32) -> Result<&Arc<Body>, Problem> {
        self.by_id.get(&id).ok_or_else(Problem::schema_not_found)
    }

    /// The id of a schema that is registered under any subject.
    pub fn id_of(&self, body: &Body) -> Option<i32> {
        self.ids.get(&body.identity()).copied()
    }

    /// The version of a subject that is this schema.
    pub fn find(&self, subject: &str, body: &Body, with_deleted: bool) -> Option<(i32, &Version)> {
        let identity = body.identity();
        let versions = self.versions(subject, with_deleted).ok()?;
        versions.into_iter().find(|(_, version)| version.body.identity() == identity)
    }

    /// First version that a subject has not had.
    pub fn next_version(&self, subject: &str) -> i32 {
        let last = self.subjects.get(subject).and_then(|found| found.last_key_value());
        last.map_or(1, |(number, _)| number.saturating_add(1))
    }

    /// The level set for a subject, or for all others.
    pub fn own_level(&self, subject: Option<&str>) -> Option<Level> {
        self.levels.get(&subject.map(str::to_owned)).copied()
    }

    /// The level in force.
    pub fn level(&self, subject: Option<&str>) -> Level {
        self.own_level(subject).or_else(|| self.own_level(None)).unwrap_or(Level::Backward)
    }

    /// The mode set for a subject, or for all others.
    pub fn own_mode(&self, subject: Option<&str>) -> Option<Mode> {
        self.modes.get(&subject.map(str::to_owned)).copied()
    }

    /// The mode in force.
    pub fn mode(&self, subject: Option<&str>) -> Mode {
        self.own_mode(subject).or_else(|| self.own_mode(None)).unwrap_or(Mode::ReadWrite)
    }

    /// Subject and version of all that have the schema with this id.
    pub fn uses(&self, id: i32, with_deleted: bool) -> Vec<(&str, i32)> {
        let all = self.subjects.iter().flat_map(|(subject, versions)| {
            versions.iter().map(move |(number, version)| (&**subject, *number, version))
        });
        let used =
            all.filter(|(_, _, version)| version.id == id && (with_deleted || !version.is_deleted));
        used.map(|(subject, number, _)| (subject, number)).collect()
    }

    /// Ids of the schemas that refer to a version.
    pub fn referring(&self, subject: &str, version: i32) -> Vec<i32> {
        let is_meant = |one: &Reference| one.subject == subject && one.version == version;
        let all = self.subjects.values().flat_map(BTreeMap::values);
        let referring =
            all.filter(|one| !one.is_deleted && one.body.references.iter().any(is_meant));
        referring.map(|one| one.id).collect::<BTreeSet<i32>>().into_iter().collect()
    }

    /// The texts of all that a schema refers to, what they refer to before them.
    ///
    /// # Errors
    /// If something is not there, or there is too much.
    pub fn referred(&self, body: &Body) -> Result<Vec<String>, Problem> {
        let mut seen = BTreeSet::new();
        let mut texts = Vec::new();
        // What is opened is pushed again, closed, below what it refers to.
        let mut open: Vec<(Reference, bool)> =
            body.references.iter().rev().map(|one| (one.clone(), false)).collect();
        while let Some((one, is_closed)) = open.pop() {
            let found = self.version(&one.subject, &one.version.to_string(), true);
            let (_, version) = found.map_err(|problem| {
                Problem::invalid_schema(format!("reference '{}': {problem}", one.name))
            })?;
            if is_closed {
                texts.push(version.body.text.clone());
                continue;
            }
            if !seen.insert((one.subject.clone(), one.version)) {
                continue;
            }
            if seen.len() > REFERENCES_MAX {
                let reason = format!("more than {REFERENCES_MAX} references");
                return Err(Problem::invalid_schema(reason));
            }
            open.push((one, true));
            open.extend(version.body.references.iter().rev().map(|one| (one.clone(), false)));
        }
        Ok(texts)
    }
}

fn set<T>(settings: &mut BTreeMap<Option<String>, T>, subject: Option<String>, value: Option<T>) {
    match value {
        Some(value) => settings.insert(subject, value),
        None => settings.remove(&subject),
    };
}
