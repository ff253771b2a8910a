//! Requests that register, delete and set.

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use proteus_schemas::Problem;
use proteus_schemas::compatibility::Level;
use proteus_schemas::state::{Body, Mode, Record, State as Schemas};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::answers::{Asked, Sent, conflicts_in};
use super::{Json, Shared, answer};

/// A schema of a subject; the same again is no change.
pub(super) async fn register(
    State(shared): State<Shared>,
    Path(subject): Path<String>,
    bytes: Bytes,
) -> Response {
    let registered = async {
        let sent = Sent::parse(&bytes)?;
        let body = sent.body()?;
        if subject.is_empty() || subject.len() > 512 {
            return Err(Problem::new(42208, "a subject's name has 1 to 512 bytes"));
        }
        let decide = |state: &Schemas| registration(state, &subject, &body, &sent);
        let id = shared.registry.change(decide).await?;
        Ok(Json(json!({"id": id})))
    };
    answer(registered.await)
}

fn registration(
    state: &Schemas,
    subject: &str,
    body: &Body,
    sent: &Sent,
) -> Result<(Vec<Record>, i32), Problem> {
    let put = |version: i32, id: i32| Record::Put {
        subject: subject.to_owned(),
        version,
        id,
        body: body.clone(),
        is_deleted: false,
    };
    if let Some((_, found)) = state.find(subject, body, false)
        && sent.id.is_none_or(|id| id == found.id)
    {
        return Ok((Vec::new(), found.id));
    }
    let mode = state.mode(Some(subject));
    match (mode, sent.id) {
        (Mode::ReadOnly, _) => {
            Err(Problem::new(42205, format!("Subject {subject} is in read-only mode")))
        }
        (Mode::ReadWrite, Some(_)) => {
            Err(Problem::new(42205, format!("Subject {subject} is not in import mode")))
        }
        (Mode::Import, None) => Err(Problem::new(
            42205,
            format!("Subject {subject} is in import mode, in which a schema has an id"),
        )),
        (Mode::Import, Some(id)) => {
            proteus_schemas::compatibility::check_schema(state, body)?;
            if id <= 0 || state.schema(id).is_ok_and(|found| **found != *body) {
                return Err(Problem::new(42205, format!("id {id} is that of another schema")));
            }
            let version = sent.version.filter(|version| *version > 0);
            Ok((vec![put(version.unwrap_or_else(|| state.next_version(subject)), id)], id))
        }
        (Mode::ReadWrite, None) => {
            let conflicts = conflicts_in(state, subject, body)?;
            if !conflicts.is_empty() {
                let message = format!(
                    "Schema being registered is incompatible with an earlier schema for subject \"{subject}\", details: {}",
                    conflicts.join("; ")
                );
                return Err(Problem::new(409, message));
            }
            let id = state.id_of(body).unwrap_or_else(|| state.next_id.max(1));
            Ok((vec![put(state.next_version(subject), id)], id))
        }
    }
}

/// Marks versions as deleted, or forgets those that are.
fn deletion(
    state: &Schemas,
    subject: &str,
    wanted: Option<&str>,
    is_permanent: bool,
) -> Result<(Vec<Record>, Vec<i32>), Problem> {
    if state.mode(Some(subject)) == Mode::ReadOnly {
        return Err(Problem::new(42205, format!("Subject {subject} is in read-only mode")));
    }
    let versions = match wanted {
        Some(wanted) => vec![state.version(subject, wanted, is_permanent)?],
        None => match state.versions(subject, is_permanent) {
            Ok(versions) => versions,
            Err(_) if state.versions(subject, true).is_ok() => {
                return Err(Problem::new(
                    40404,
                    format!(
                        "Subject '{subject}' was soft deleted. Set permanent=true to delete permanently"
                    ),
                ));
            }
            Err(problem) => return Err(problem),
        },
    };
    let mut changes = Vec::new();
    for (number, version) in &versions {
        let referring = state.referring(subject, *number);
        if !referring.is_empty() {
            let message =
                format!("One or more references exist to the schema {subject} version {number}");
            return Err(Problem::new(42206, message));
        }
        changes.push(match (is_permanent, version.is_deleted) {
            (false, _) => Record::Put {
                subject: subject.to_owned(),
                version: *number,
                id: version.id,
                body: (*version.body).clone(),
                is_deleted: true,
            },
            (true, true) => Record::Forget { subject: subject.to_owned(), version: *number },
            (true, false) if wanted.is_some() => {
                return Err(Problem::new(
                    40407,
                    format!("Subject '{subject}' Version {number} was not deleted first before being permanently deleted"),
                ));
            }
            (true, false) => {
                return Err(Problem::new(
                    40405,
                    format!("Subject '{subject}' was not deleted first before being permanently deleted"),
                ));
            }
        });
    }
    Ok((changes, versions.into_iter().map(|(number, _)| number).collect()))
}

pub(super) async fn delete_subject(
    State(shared): State<Shared>,
    Path(subject): Path<String>,
    Query(asked): Query<Asked>,
) -> Response {
    let decide = |state: &Schemas| deletion(state, &subject, None, asked.permanent);
    answer(shared.registry.change(decide).await.map(|deleted| Json(json!(deleted))))
}

pub(super) async fn delete_version(
    State(shared): State<Shared>,
    Path((subject, wanted)): Path<(String, String)>,
    Query(asked): Query<Asked>,
) -> Response {
    let decide = |state: &Schemas| deletion(state, &subject, Some(&wanted), asked.permanent);
    let deleted = shared.registry.change(decide).await;
    answer(deleted.map(|deleted| Json(json!(deleted.first()))))
}

/// The value of the only field of a request, which must be one of few words.
fn word<T: DeserializeOwned>(bytes: &Bytes, field: &str, problem: Problem) -> Result<T, Problem> {
    let json: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| Problem::new(422, error.to_string()))?;
    let value = json.get(field).and_then(serde_json::Value::as_str).unwrap_or_default();
    serde_json::from_value(json!(value.to_ascii_uppercase())).map_err(|_| problem)
}

async fn put_level(shared: Shared, subject: Option<String>, bytes: Bytes) -> Response {
    let set = async {
        let problem = Problem::new(
            42203,
            "Invalid compatibility level. Valid values are none, backward, forward, full, backward_transitive, forward_transitive, and full_transitive",
        );
        let level: Level = word(&bytes, "compatibility", problem)?;
        let change = Record::SetLevel { subject, level: Some(level) };
        shared.registry.change(|_| Ok((vec![change.clone()], ()))).await?;
        Ok(Json(json!({"compatibility": level})))
    };
    answer(set.await)
}

async fn remove_level(shared: Shared, subject: Option<String>) -> Response {
    let removed = shared.registry.change(|state| {
        let before = state.own_level(subject.as_deref());
        let Some(before) = before else {
            return match &subject {
                Some(subject) => Err(Problem::subject_not_found(subject)),
                None => Ok((Vec::new(), state.level(None))),
            };
        };
        Ok((vec![Record::SetLevel { subject: subject.clone(), level: None }], before))
    });
    answer(removed.await.map(|level| Json(json!({"compatibilityLevel": level}))))
}

async fn put_mode(shared: Shared, subject: Option<String>, bytes: Bytes) -> Response {
    let set = async {
        let problem =
            Problem::new(42204, "Invalid mode. Valid values are READWRITE, READONLY, IMPORT");
        let mode: Mode = word(&bytes, "mode", problem)?;
        let change = Record::SetMode { subject, mode: Some(mode) };
        shared.registry.change(|_| Ok((vec![change.clone()], ()))).await?;
        Ok(Json(json!({"mode": mode})))
    };
    answer(set.await)
}

pub(super) async fn set_level(State(shared): State<Shared>, bytes: Bytes) -> Response {
    put_level(shared, None, bytes).await
}

pub(super) async fn set_level_of(
    State(shared): State<Shared>,
    Path(subject): Path<String>,
    bytes: Bytes,
) -> Response {
    put_level(shared, Some(subject), bytes).await
}

pub(super) async fn delete_level(State(shared): State<Shared>) -> Response {
    remove_level(shared, None).await
}

pub(super) async fn delete_level_of(
    State(shared): State<Shared>,
    Path(subject): Path<String>,
) -> Response {
    remove_level(shared, Some(subject)).await
}

pub(super) async fn set_mode(State(shared): State<Shared>, bytes: Bytes) -> Response {
    put_mode(shared, None, bytes).await
}

pub(super) async fn set_mode_of(
    State(shared): State<Shared>,
    Path(subject): Path<String>,
    bytes: Bytes,
) -> Response {
    put_mode(shared, Some(subject), bytes).await
}

pub(super) async fn delete_mode_of(
    State(shared): State<Shared>,
    Path(subject): Path<String>,
) -> Response {
    let removed = shared.registry.change(|state| {
        let before = state.own_mode(Some(&subject));
        let before = before.ok_or_else(|| Problem::subject_not_found(&subject))?;
        Ok((vec![Record::SetMode { subject: Some(subject.clone()), mode: None }], before))
    });
    answer(removed.await.map(|mode| Json(json!({"mode": mode}))))
}
