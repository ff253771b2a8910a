//! Requests that change nothing.

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use proteus_schemas::compatibility::{Level, conflicts};
use proteus_schemas::state::{Body, Kind, Reference, State as Schemas, Version};
use proteus_schemas::{Problem, SCHEMA_BYTES_MAX};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Json, Shared, answer};

/// What may stand behind the question mark.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Asked {
    #[serde(deserialize_with = "is_true")]
    pub deleted: bool,
    #[serde(deserialize_with = "is_true")]
    pub permanent: bool,
    #[serde(deserialize_with = "is_true")]
    pub verbose: bool,
    #[serde(deserialize_with = "is_true")]
    pub latest_only: bool,
    pub subject_prefix: String,
    #[serde(deserialize_with = "is_true")]
    pub default_to_global: bool,
}

/// As Java reads it: `true` in any case is, anything else is not. Python's client says `False`.
fn is_true<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(String::deserialize(deserializer)?.eq_ignore_ascii_case("true"))
}

/// A schema's id in a path; what is none names nothing.
fn id_of(text: &str) -> Result<i32, Problem> {
    text.parse().map_err(|_| Problem::new(404, "HTTP 404 Not Found"))
}

/// A schema as clients send it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sent {
    schema: String,
    #[serde(default)]
    schema_type: Option<String>,
    #[serde(default)]
    references: Vec<Reference>,
    /// Only where schemas are imported.
    #[serde(default)]
    pub id: Option<i32>,
    /// Only where schemas are imported.
    #[serde(default)]
    pub version: Option<i32>,
}

impl Sent {
    pub(super) fn parse(bytes: &Bytes) -> Result<Sent, Problem> {
        serde_json::from_slice(bytes).map_err(|error| Problem::new(422, format!("{error}")))
    }

    pub(super) fn body(&self) -> Result<Body, Problem> {
        let kind = match self.schema_type.as_deref() {
            None | Some("AVRO") => Kind::Avro,
            Some("JSON") => Kind::Json,
            Some("PROTOBUF") => Kind::Protobuf,
            Some(other) => {
                return Err(Problem::invalid_schema(format!(
                    "type '{other}' is none of AVRO, JSON, PROTOBUF"
                )));
            }
        };
        if self.schema.len() > SCHEMA_BYTES_MAX {
            return Err(Problem::invalid_schema(format!("longer than {SCHEMA_BYTES_MAX} bytes")));
        }
        Ok(Body { kind, references: self.references.clone(), text: self.schema.clone() })
    }
}

/// The parts of a schema that every answer with one has: what is usual is left out.
fn described(body: &Body) -> serde_json::Map<String, Value> {
    let mut described = serde_json::Map::new();
    if body.kind != Kind::Avro {
        described.insert("schemaType".to_owned(), json!(body.kind));
    }
    if !body.references.is_empty() {
        described.insert("references".to_owned(), json!(body.references));
    }
    described.insert("schema".to_owned(), json!(body.text));
    described
}

fn described_version(subject: &str, number: i32, version: &Version) -> Value {
    let mut described = described(&version.body);
    described.insert("subject".to_owned(), json!(subject));
    described.insert("version".to_owned(), json!(number));
    described.insert("id".to_owned(), json!(version.id));
    if version.is_deleted {
        described.insert("deleted".to_owned(), json!(true));
    }
    Value::Object(described)
}

fn text_of(body: &Body) -> Response {
    ([(axum::http::header::CONTENT_TYPE, super::CONTENT_TYPE)], body.text.clone()).into_response()
}

pub(super) async fn root() -> Response {
    answer(Ok(Json(json!({}))))
}

pub(super) async fn contexts() -> Response {
    answer(Ok(Json(json!(["."]))))
}

pub(super) async fn types() -> Response {
    answer(Ok(Json(json!(["JSON", "PROTOBUF", "AVRO"]))))
}

pub(super) async fn schemas(State(shared): State<Shared>, Query(asked): Query<Asked>) -> Response {
    let found = shared.read(|state| {
        let mut found = Vec::new();
        for subject in state.subjects(asked.deleted) {
            if !subject.starts_with(&asked.subject_prefix) {
                continue;
            }
            let versions = state.versions(subject, asked.deleted)?;
            let skipped = if asked.latest_only { versions.len().saturating_sub(1) } else { 0 };
            let versions = versions.into_iter().skip(skipped);
            found.extend(versions.map(|(number, one)| described_version(subject, number, one)));
        }
        Ok(Json(Value::Array(found)))
    });
    answer(found.await)
}

pub(super) async fn schema(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    let found = shared.read(|state| Ok(Json(Value::Object(described(state.schema(id_of(&id)?)?)))));
    answer(found.await)
}

pub(super) async fn schema_text(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    match shared.read(|state| Ok(state.schema(id_of(&id)?)?.clone())).await {
        Ok(body) => text_of(&body),
        Err(problem) => answer(Err(problem)),
    }
}

pub(super) async fn subjects_of_schema(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    Query(asked): Query<Asked>,
) -> Response {
    let found = shared.read(|state| {
        let id = id_of(&id)?;
        state.schema(id)?;
        let mut subjects: Vec<&str> =
            state.uses(id, asked.deleted).into_iter().map(|(subject, _)| subject).collect();
        subjects.dedup();
        Ok(Json(json!(subjects)))
    });
    answer(found.await)
}

pub(super) async fn versions_of_schema(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    Query(asked): Query<Asked>,
) -> Response {
    let found = shared.read(|state| {
        let id = id_of(&id)?;
        state.schema(id)?;
        let uses = state.uses(id, asked.deleted).into_iter();
        let uses = uses.map(|(subject, version)| json!({"subject": subject, "version": version}));
        Ok(Json(Value::Array(uses.collect())))
    });
    answer(found.await)
}

pub(super) async fn subjects(State(shared): State<Shared>, Query(asked): Query<Asked>) -> Response {
    let found = shared.read(|state| {
        let subjects = state.subjects(asked.deleted);
        let subjects = subjects.filter(|subject| subject.starts_with(&asked.subject_prefix));
        Ok(Json(json!(subjects.collect::<Vec<&str>>())))
    });
    answer(found.await)
}

pub(super) async fn versions(
    State(shared): State<Shared>,
    Path(subject): Path<String>,
    Query(asked): Query<Asked>,
) -> Response {
    let found = shared.read(|state| {
        let versions = state.versions(&subject, asked.deleted)?.into_iter();
        Ok(Json(json!(versions.map(|(number, _)| number).collect::<Vec<i32>>())))
    });
    answer(found.await)
}

pub(super) async fn version(
    State(shared): State<Shared>,
    Path((subject, wanted)): Path<(String, String)>,
    Query(asked): Query<Asked>,
) -> Response {
    let found = shared.read(|state| {
        let (number, version) = state.version(&subject, &wanted, asked.deleted)?;
        Ok(Json(described_version(&subject, number, version)))
    });
    answer(found.await)
}

pub(super) async fn version_text(
    State(shared): State<Shared>,
    Path((subject, wanted)): Path<(String, String)>,
    Query(asked): Query<Asked>,
) -> Response {
    let found =
        shared.read(|state| Ok(state.version(&subject, &wanted, asked.deleted)?.1.body.clone()));
    match found.await {
        Ok(body) => text_of(&body),
        Err(problem) => answer(Err(problem)),
    }
}

pub(super) async fn referring(
    State(shared): State<Shared>,
    Path((subject, wanted)): Path<(String, String)>,
) -> Response {
    let found = shared.read(|state| {
        let (number, _) = state.version(&subject, &wanted, true)?;
        Ok(Json(json!(state.referring(&subject, number))))
    });
    answer(found.await)
}

/// Which version of the subject a schema is.
pub(super) async fn look_up(
    State(shared): State<Shared>,
    Path(subject): Path<String>,
    Query(asked): Query<Asked>,
    bytes: Bytes,
) -> Response {
    let found = async {
        let body = Sent::parse(&bytes)?.body()?;
        shared
            .read(|state| {
                state.versions(&subject, asked.deleted)?;
                let found = state.find(&subject, &body, asked.deleted);
                let (number, version) = found.ok_or_else(Problem::schema_not_found)?;
                Ok(Json(described_version(&subject, number, version)))
            })
            .await
    };
    answer(found.await)
}

fn verdict(conflicts: Vec<String>, asked: &Asked) -> Json {
    let mut verdict = json!({"is_compatible": conflicts.is_empty()});
    if asked.verbose {
        verdict["messages"] = json!(conflicts);
    }
    Json(verdict)
}

pub(super) async fn goes_with(
    State(shared): State<Shared>,
    Path((subject, wanted)): Path<(String, String)>,
    Query(asked): Query<Asked>,
    bytes: Bytes,
) -> Response {
    let found = async {
        let body = Sent::parse(&bytes)?.body()?;
        shared
            .read(|state| {
                let (number, version) = state.version(&subject, &wanted, false)?;
                let level = state.level(Some(&subject));
                let found = conflicts(state, level, &body, &[(number, &version.body)])?;
                Ok(verdict(found, &asked))
            })
            .await
    };
    answer(found.await)
}

pub(super) async fn goes_with_all(
    State(shared): State<Shared>,
    Path(subject): Path<String>,
    Query(asked): Query<Asked>,
    bytes: Bytes,
) -> Response {
    let found = async {
        let body = Sent::parse(&bytes)?.body()?;
        shared.read(|state| Ok(verdict(conflicts_in(state, &subject, &body)?, &asked))).await
    };
    answer(found.await)
}

/// What stands against a new version of a subject.
pub(super) fn conflicts_in(
    state: &Schemas,
    subject: &str,
    body: &Body,
) -> Result<Vec<String>, Problem> {
    let versions = state.versions(subject, false).unwrap_or_default();
    let old: Vec<(i32, &Body)> =
        versions.iter().map(|(number, version)| (*number, &*version.body)).collect();
    conflicts(state, state.level(Some(subject)), body, &old)
}

fn told_level(level: Level) -> Answer {
    Ok(Json(json!({"compatibilityLevel": level})))
}

pub(super) async fn level(State(shared): State<Shared>) -> Response {
    answer(shared.read(|state| told_level(state.level(None))).await)
}

pub(super) async fn level_of(
    State(shared): State<Shared>,
    Path(subject): Path<String>,
    Query(asked): Query<Asked>,
) -> Response {
    let found = shared.read(|state| match state.own_level(Some(&subject)) {
        Some(level) => told_level(level),
        None if asked.default_to_global => told_level(state.level(None)),
        None => Err(Problem::new(
            40408,
            format!("Subject '{subject}' does not have subject-level compatibility configured"),
        )),
    });
    answer(found.await)
}

pub(super) async fn mode(State(shared): State<Shared>) -> Response {
    answer(shared.read(|state| Ok(Json(json!({"mode": state.mode(None)})))).await)
}

pub(super) async fn mode_of(
    State(shared): State<Shared>,
    Path(subject): Path<String>,
    Query(asked): Query<Asked>,
) -> Response {
    let found = shared.read(|state| match state.own_mode(Some(&subject)) {
        Some(mode) => Ok(Json(json!({"mode": mode}))),
        None if asked.default_to_global => Ok(Json(json!({"mode": state.mode(None)}))),
        None => Err(Problem::new(
            40409,
            format!("Subject '{subject}' does not have subject-level mode configured"),
        )),
    });
    answer(found.await)
}
