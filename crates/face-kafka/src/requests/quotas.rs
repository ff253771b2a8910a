//! DescribeClientQuotas, AlterClientQuotas.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_client_quotas_request::EntryData as Wanted;
use kafka_protocol::messages::alter_client_quotas_response::{
    EntityData as AlteredEntity, EntryData as AlteredEntry,
};
use kafka_protocol::messages::describe_client_quotas_request::ComponentData;
use kafka_protocol::messages::describe_client_quotas_response::{EntityData, EntryData, ValueData};
use kafka_protocol::messages::{
    AlterClientQuotasRequest, AlterClientQuotasResponse, DescribeClientQuotasRequest,
    DescribeClientQuotasResponse,
};
use proteus_kernel_api::topic;
use proteus_kernel_api::topic::quotas::{self, Entity};

use super::{text, topics};
use crate::acl::Operation;
use crate::errors::Failure;
use crate::quota::{CLIENT_ID, CONSUMED, PRODUCED, USER};
use crate::session::Session;

/// How a filter names what it looks for.
const MATCH_EXACT: i8 = 0;
const MATCH_DEFAULT: i8 = 1;
const MATCH_ANY: i8 = 2;
/// Longest name, in bytes.
const NAME_BYTES_MAX: usize = 1024;
/// The quotas that there are.
const NAMES: [&str; 2] = [PRODUCED, CONSUMED];

fn invalid(message: String) -> Failure {
    Failure::new(ResponseError::InvalidRequest, message)
}

fn finds(component: &ComponentData, entity: &Entity) -> Result<bool, Failure> {
    let found = entity.0.get(&*component.entity_type);
    match component.match_type {
        MATCH_EXACT => Ok(found.is_some_and(|name| name.as_deref() == component._match.as_deref())),
        MATCH_DEFAULT => Ok(found.is_some_and(Option::is_none)),
        MATCH_ANY => Ok(found.is_some()),
        other => Err(invalid(format!("a match of type {other}"))),
    }
}

pub(crate) fn describe(
    session: &Session,
    request: &DescribeClientQuotasRequest,
) -> DescribeClientQuotasResponse {
    let response = DescribeClientQuotasResponse::default();
    match find(session, request) {
        Ok(entries) => response.with_entries(Some(entries)),
        Err(failure) => response
            .with_error_code(failure.code())
            .with_error_message(Some(text(failure.message)))
            .with_entries(None),
    }
}

fn find(
    session: &Session,
    request: &DescribeClientQuotasRequest,
) -> Result<Vec<EntryData>, Failure> {
    session.authorize_cluster(Operation::DescribeConfigs)?;
    let all = session.shared.kernel.read(|view| quotas::quotas(view.state))?;
    let mut entries = Vec::new();
    for (entity, values) in all {
        let mut is_wanted = !request.strict || entity.0.len() == request.components.len();
        for component in &request.components {
            is_wanted &= finds(component, &entity)?;
        }
        if !is_wanted {
            continue;
        }
        let parts = entity.0.into_iter().map(|(kind, name)| {
            EntityData::default().with_entity_type(text(kind)).with_entity_name(name.map(text))
        });
        let values = values.into_iter().map(|(name, bits)| {
            ValueData::default().with_key(text(name)).with_value(f64::from_bits(bits))
        });
        entries
            .push(EntryData::default().with_entity(parts.collect()).with_values(values.collect()));
    }
    Ok(entries)
}

pub(crate) async fn alter(
    session: &Arc<Session>,
    request: AlterClientQuotasRequest,
) -> AlterClientQuotasResponse {
    let mut entries = Vec::with_capacity(request.entries.len());
    for wanted in &request.entries {
        let altered = async {
            session.authorize_cluster(Operation::AlterConfigs)?;
            let op = checked(wanted)?;
            if !request.validate_only {
                topics::commit(session, op).await?;
            }
            Ok::<(), Failure>(())
        };
        let entity = wanted.entity.iter().map(|part| {
            AlteredEntity::default()
                .with_entity_type(part.entity_type.clone())
                .with_entity_name(part.entity_name.clone())
        });
        let entry = AlteredEntry::default().with_entity(entity.collect());
        entries.push(match altered.await {
            Ok(()) => entry,
            Err(failure) => entry
                .with_error_code(failure.code())
                .with_error_message(Some(text(failure.message))),
        });
    }
    AlterClientQuotasResponse::default().with_entries(entries)
}

fn checked(wanted: &Wanted) -> Result<topic::Op, Failure> {
    let mut entity = BTreeMap::new();
    for part in &wanted.entity {
        let (kind, name) = (part.entity_type.to_string(), part.entity_name.as_deref());
        if !matches!(kind.as_str(), USER | CLIENT_ID) {
            return Err(invalid(format!("quotas are of user and client-id, not of {kind}")));
        }
        if name.is_some_and(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
            return Err(invalid(format!("a {kind} has 1 to {NAME_BYTES_MAX} bytes")));
        }
        if entity.insert(kind.clone(), name.map(str::to_owned)).is_some() {
            return Err(invalid(format!("{kind} is named twice")));
        }
    }
    if entity.is_empty() {
        return Err(invalid("a quota is of somebody".to_owned()));
    }
    let mut changes = BTreeMap::new();
    for op in &wanted.ops {
        if !NAMES.contains(&&*op.key) {
            return Err(invalid(format!(
                "quota {}; {} are supported",
                &*op.key,
                NAMES.join(" and ")
            )));
        }
        let is_rate = op.value.is_finite() && op.value > 0.0;
        if !op.remove && !is_rate {
            return Err(invalid(format!("{} of {} bytes a second", &*op.key, op.value)));
        }
        changes.insert(op.key.to_string(), (!op.remove).then(|| op.value.to_bits()));
    }
    Ok(topic::Op::SetQuotas { entity: Entity(entity), changes })
}
