//! SASL, after a handshake of version 1: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512; and the credentials
//! that administrators give to users for the latter two.
//!
//! An account of the node's configuration may use any of them; a user with a credential only, the
//! mechanism of that credential.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_user_scram_credentials_request::ScramCredentialUpsertion;
use kafka_protocol::messages::alter_user_scram_credentials_response::AlterUserScramCredentialsResult;
use kafka_protocol::messages::describe_user_scram_credentials_response::{
    CredentialInfo, DescribeUserScramCredentialsResult,
};
use kafka_protocol::messages::{
    AlterUserScramCredentialsRequest, AlterUserScramCredentialsResponse,
    DescribeUserScramCredentialsRequest, DescribeUserScramCredentialsResponse, RequestKind,
    SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
};
use parking_lot::Mutex;
use proteus_env::random;
use proteus_face::scram::{ClientFirst, Credential, Exchange, Mechanism as Scram};
use proteus_kernel_api::topic;
use proteus_kernel_api::topic::credentials as stored;

use super::{text, topics};
use crate::acl::Operation;
use crate::errors::Failure;
use crate::session::Session;

const PLAIN: &str = "PLAIN";
/// How often passwords of accounts are hashed, and what a credential must have at least and at most.
const ITERATIONS_MIN: u32 = 4_096;
const ITERATIONS_MAX: u32 = 16_384;
/// Longest name of a user, salt, and salted password, in bytes.
const USER_BYTES_MAX: usize = 256;
const SALT_BYTES_MAX: usize = 1_024;
/// Users that are described at most.
const CREDENTIALS_MAX: usize = 100_000;

/// Where a connection stands in its authentication.
#[derive(Debug, Default)]
pub(crate) enum Authentication {
    /// No mechanism is agreed on.
    #[default]
    None,
    Plain,
    /// The client's first message is awaited.
    Scram(Scram),
    /// The client's last message is awaited.
    Proving(Box<Exchange>),
}

/// Credentials of accounts, each computed when it is asked for first, and the salts of this node.
pub(crate) struct AccountCredentials {
    secret: [u8; 32],
    computed: Mutex<BTreeMap<(String, Scram), Credential>>,
}

impl AccountCredentials {
    pub(crate) fn new() -> AccountCredentials {
        AccountCredentials { secret: random::random_bytes(), computed: Mutex::default() }
    }

    /// The same for one name as long as the node runs, whether there is such a user or not.
    fn salt(&self, mechanism: Scram, user: &str) -> Vec<u8> {
        mechanism.keyed_hash(&self.secret, &[mechanism.name().as_bytes(), user.as_bytes()])
    }

    fn of_account(&self, mechanism: Scram, user: &str, password: &[u8]) -> Credential {
        let key = (user.to_owned(), mechanism);
        if let Some(known) = self.computed.lock().get(&key) {
            return known.clone();
        }
        let salt = self.salt(mechanism, user);
        let credential = Credential::of_password(mechanism, password, &salt, ITERATIONS_MIN);
        self.computed.lock().insert(key, credential.clone());
        credential
    }
}

/// A mechanism's number in the protocol.
fn number_of(mechanism: Scram) -> i8 {
    match mechanism {
        Scram::Sha256 => 1,
        Scram::Sha512 => 2,
    }
}

fn of_number(number: i8) -> Option<Scram> {
    [Scram::Sha256, Scram::Sha512].into_iter().find(|one| number_of(*one) == number)
}

/// Whether a client may send this before it has authenticated.
pub(crate) fn precedes_authentication(body: &RequestKind) -> bool {
    matches!(
        body,
        RequestKind::ApiVersions(_)
            | RequestKind::SaslHandshake(_)
            | RequestKind::SaslAuthenticate(_)
    )
}

pub(crate) fn handshake(
    session: &Session,
    version: i16,
    request: &SaslHandshakeRequest,
) -> SaslHandshakeResponse {
    let wanted = match &*request.mechanism {
        PLAIN => Some(Authentication::Plain),
        name => Scram::parse(name).map(Authentication::Scram),
    };
    let error_code = match wanted {
        // After a handshake of version 0 tokens travel outside of requests; Kafka 1.0 ended that.
        _ if version == 0 => ResponseError::UnsupportedVersion.code(),
        None => ResponseError::UnsupportedSaslMechanism.code(),
        Some(wanted) => {
            *session.authentication.lock() = wanted;
            0
        }
    };
    let mechanisms = [PLAIN, Scram::Sha256.name(), Scram::Sha512.name()].map(text);
    SaslHandshakeResponse::default().with_error_code(error_code).with_mechanisms(mechanisms.into())
}

pub(crate) fn authenticate(
    session: &Arc<Session>,
    request: &SaslAuthenticateRequest,
) -> SaslAuthenticateResponse {
    let response = SaslAuthenticateResponse::default();
    match step(session, &request.auth_bytes) {
        Ok(bytes) => response.with_auth_bytes(bytes.into()),
        Err(message) => response
            .with_error_code(ResponseError::SaslAuthenticationFailed.code())
            .with_error_message(Some(text(message))),
    }
}

/// One message of the client's; the answer to it.
fn step(session: &Session, message: &[u8]) -> Result<Vec<u8>, String> {
    let stands = std::mem::take(&mut *session.authentication.lock());
    match stands {
        // Without a handshake: clients older than that know PLAIN only.
        Authentication::None | Authentication::Plain => {
            *session.authentication.lock() = Authentication::Plain;
            let user = plain(session, message)?;
            session.set_authenticated(&user);
            Ok(Vec::new())
        }
        Authentication::Scram(mechanism) => {
            let first = ClientFirst::parse(message).map_err(|error| error.to_string())?;
            let credential = credential_of(session, mechanism, &first.user)?;
            let salt = session.shared.credentials.salt(mechanism, &first.user);
            let unknown = (salt, ITERATIONS_MIN);
            let (exchange, answer) =
                first.answer(mechanism, credential, unknown, random::random_bytes());
            *session.authentication.lock() = Authentication::Proving(Box::new(exchange));
            Ok(answer)
        }
        Authentication::Proving(exchange) => {
            let (user, answer) = exchange.finish(message).map_err(|error| error.to_string())?;
            session.set_authenticated(&user);
            Ok(answer)
        }
    }
}

/// RFC 4616: authorization identity, user and password, separated by NUL.
fn plain(session: &Session, message: &[u8]) -> Result<String, String> {
    let mut parts = message.split(|byte| *byte == 0);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(user), Some(password), None) => {
            let user =
                std::str::from_utf8(user).map_err(|_| "the user name is not UTF-8".to_owned())?;
            session
                .shared
                .accounts
                .verify(user, password)
                .map(|()| user.to_owned())
                .map_err(|error| error.to_string())
        }
        _ => Err("not a PLAIN message: identity, user and password separated by NUL".to_owned()),
    }
}

/// An account of the configuration comes before a credential of the same name.
fn credential_of(
    session: &Session,
    mechanism: Scram,
    user: &str,
) -> Result<Option<Credential>, String> {
    let shared = &session.shared;
    if let Some(password) = shared.accounts.password(user) {
        return Ok(Some(shared.credentials.of_account(mechanism, user, password)));
    }
    let number = number_of(mechanism);
    let found = shared.kernel.read(|view| stored::credential(view.state, user, number));
    let found = found.map_err(|error| error.to_string())?;
    Ok(found.map(|found| Credential {
        salt: found.salt,
        iterations: found.iterations,
        stored_key: found.stored_key,
        server_key: found.server_key,
    }))
}

pub(crate) async fn alter_credentials(
    session: &Arc<Session>,
    request: AlterUserScramCredentialsRequest,
) -> AlterUserScramCredentialsResponse {
    let mut ops: BTreeMap<String, Vec<Result<topic::Op, Failure>>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let may_alter = session.authorize_cluster(Operation::Alter);
    for deletion in &request.deletions {
        let user = deletion.name.to_string();
        let is_new = seen.insert((user.clone(), deletion.mechanism));
        let op =
            may_alter.clone().and_then(|()| checked(&user, deletion.mechanism, is_new)).map(|_| {
                topic::Op::RemoveCredential { user: user.clone(), mechanism: deletion.mechanism }
            });
        ops.entry(user).or_default().push(op);
    }
    for upsertion in &request.upsertions {
        let user = upsertion.name.to_string();
        let is_new = seen.insert((user.clone(), upsertion.mechanism));
        let op = may_alter
            .clone()
            .and_then(|()| checked(&user, upsertion.mechanism, is_new))
            .and_then(|mechanism| upserted(&user, mechanism, upsertion));
        ops.entry(user).or_default().push(op);
    }
    let mut results = Vec::with_capacity(ops.len());
    for (user, ops) in ops {
        let result = AlterUserScramCredentialsResult::default().with_user(text(user));
        let applied = async {
            for op in ops.into_iter().collect::<Result<Vec<_>, Failure>>()? {
                topics::commit(session, op).await?;
            }
            Ok::<(), Failure>(())
        };
        results.push(match applied.await {
            Ok(()) => result,
            Err(failure) => result
                .with_error_code(failure.code())
                .with_error_message(Some(text(failure.message))),
        });
    }
    AlterUserScramCredentialsResponse::default().with_results(results)
}

fn checked(user: &str, mechanism: i8, is_new: bool) -> Result<Scram, Failure> {
    if user.is_empty() || user.len() > USER_BYTES_MAX {
        let message = format!("a user's name has 1 to {USER_BYTES_MAX} bytes");
        return Err(Failure::new(ResponseError::UnacceptableCredential, message));
    }
    if !is_new {
        let message = "the same credential is altered twice";
        return Err(Failure::new(ResponseError::DuplicateResource, message));
    }
    of_number(mechanism).ok_or_else(|| {
        let message = format!("there is no SCRAM mechanism {mechanism}");
        Failure::new(ResponseError::UnsupportedSaslMechanism, message)
    })
}

fn upserted(
    user: &str,
    mechanism: Scram,
    upsertion: &ScramCredentialUpsertion,
) -> Result<topic::Op, Failure> {
    let unacceptable =
        |message: String| Failure::new(ResponseError::UnacceptableCredential, message);
    let iterations = u32::try_from(upsertion.iterations).unwrap_or(0);
    if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) {
        return Err(unacceptable(format!(
            "{} iterations; {ITERATIONS_MIN} to {ITERATIONS_MAX} are accepted",
            upsertion.iterations
        )));
    }
    let lengths = 1..=SALT_BYTES_MAX;
    if !lengths.contains(&upsertion.salt.len())
        || !lengths.contains(&upsertion.salted_password.len())
    {
        return Err(unacceptable(format!(
            "salt and salted password have 1 to {SALT_BYTES_MAX} bytes"
        )));
    }
    let (salted, salt) = (&upsertion.salted_password, &upsertion.salt);
    let made = Credential::of_salted(mechanism, salted, salt, iterations);
    let credential = stored::Credential {
        mechanism: number_of(mechanism),
        salt: made.salt,
        iterations: made.iterations,
        stored_key: made.stored_key,
        server_key: made.server_key,
    };
    Ok(topic::Op::PutCredential { user: user.to_owned(), credential })
}

pub(crate) fn describe_credentials(
    session: &Session,
    request: DescribeUserScramCredentialsRequest,
) -> DescribeUserScramCredentialsResponse {
    let response = DescribeUserScramCredentialsResponse::default();
    let read = session.shared.kernel.read(|view| stored::credentials(view.state, CREDENTIALS_MAX));
    let mut by_user: BTreeMap<String, Vec<CredentialInfo>> = BTreeMap::new();
    match read {
        Ok(found) => {
            for (user, credential) in found {
                let info = CredentialInfo::default()
                    .with_mechanism(credential.mechanism)
                    .with_iterations(i32::try_from(credential.iterations).unwrap_or(i32::MAX));
                by_user.entry(user).or_default().push(info);
            }
        }
        Err(error) => {
            let failure = Failure::from(error);
            return response
                .with_error_code(failure.code())
                .with_error_message(Some(text(failure.message)));
        }
    }
    let wanted: Vec<String> = match request.users {
        Some(users) if !users.is_empty() => {
            users.iter().map(|user| user.name.to_string()).collect()
        }
        _ => by_user.keys().cloned().collect(),
    };
    let results = wanted.into_iter().map(|user| {
        let result = DescribeUserScramCredentialsResult::default().with_user(text(user.clone()));
        match by_user.get(&user) {
            Some(infos) => result.with_credential_infos(infos.clone()),
            None => result
                .with_error_code(ResponseError::ResourceNotFound.code())
                .with_error_message(Some(text(format!("user '{user}' has no SCRAM credential")))),
        }
    });
    response.with_results(results.collect())
}
