//! The connection: HELLO, AUTH, PING, CLIENT and their relatives.

use super::{Arguments, Request, SessionRequest};
use crate::errors::{DB_OUT_OF_RANGE, NOT_AN_INTEGER, RedisError, SYNTAX, fixed};
use crate::reply::Reply;

type Parsed = Result<Request, RedisError>;

fn session(request: SessionRequest) -> Parsed {
    Ok(Request::Session(request))
}

pub(super) fn ping(arguments: &Arguments<'_>) -> Parsed {
    match arguments.rest {
        [] => Ok(Request::Ready(Reply::Status("PONG"))),
        [message] => Ok(Request::Ready(Reply::Bulk(message.clone()))),
        _ => Err(arguments.wrong_arity()),
    }
}

pub(super) fn echo(arguments: &Arguments<'_>) -> Parsed {
    Ok(Request::Ready(Reply::Bulk(arguments.at(0)?)))
}

pub(super) fn quit(_arguments: &Arguments<'_>) -> Parsed {
    session(SessionRequest::Quit)
}

pub(super) fn reset(_arguments: &Arguments<'_>) -> Parsed {
    session(SessionRequest::Reset)
}

/// There is one database so far.
pub(super) fn select(arguments: &Arguments<'_>) -> Parsed {
    match arguments.integer(0) {
        Ok(0) => Ok(Request::Ready(Reply::OK)),
        Ok(_) => Err(DB_OUT_OF_RANGE),
        Err(_) => Err(NOT_AN_INTEGER),
    }
}

pub(super) fn auth(arguments: &Arguments<'_>) -> Parsed {
    match arguments.rest {
        [password] => session(SessionRequest::Auth {
            user: "default".to_owned(),
            password: password.clone(),
            named: false,
        }),
        [_, password] => session(SessionRequest::Auth {
            user: arguments.text(0)?,
            password: password.clone(),
            named: true,
        }),
        _ => Err(SYNTAX),
    }
}

/// `HELLO [version [AUTH user password] [SETNAME name]]`.
pub(super) fn hello(arguments: &Arguments<'_>) -> Parsed {
    let version = match arguments.rest.first() {
        None => None,
        Some(_) => Some(
            arguments
                .integer(0)
                .map_err(|_| fixed("ERR Protocol version is not an integer or out of range"))?,
        ),
    };
    let mut credentials = None;
    let mut name = None;
    let mut place = 1;
    while let Some(word) = arguments.word(place) {
        match word.as_slice() {
            b"AUTH" if arguments.rest.len() > place + 2 => {
                credentials = Some((arguments.text(place + 1)?, arguments.at(place + 2)?));
                place += 3;
            }
            b"SETNAME" if arguments.rest.len() > place + 1 => {
                name = Some(checked_name(arguments, place + 1)?);
                place += 2;
            }
            _ => {
                let text =
                    String::from_utf8_lossy(&arguments.at(place)?).replace(['\r', '\n'], " ");
                return Err(RedisError(
                    format!("ERR Syntax error in HELLO option '{text}'").into(),
                ));
            }
        }
    }
    session(SessionRequest::Hello { version, credentials, name })
}

fn checked_name(arguments: &Arguments<'_>, place: usize) -> Result<bytes::Bytes, RedisError> {
    let name = arguments.at(place)?;
    if name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        Ok(name)
    } else {
        Err(fixed("ERR Client names cannot contain spaces, newlines or special characters."))
    }
}

pub(super) fn client(arguments: &Arguments<'_>) -> Parsed {
    let word = arguments.word(0).unwrap_or_default();
    match (word.as_slice(), arguments.rest.len()) {
        (b"SETNAME", 2) => session(SessionRequest::SetName(checked_name(arguments, 1)?)),
        (b"GETNAME", 1) => session(SessionRequest::GetName),
        (b"ID", 1) => session(SessionRequest::ClientId),
        (b"INFO", 1) => session(SessionRequest::ClientInfo),
        (b"LIST", 1) => session(SessionRequest::ClientList),
        (b"SETINFO", 3) => match arguments.word(1).unwrap_or_default().as_slice() {
            b"LIB-NAME" | b"LIB-VER" => Ok(Request::Ready(Reply::OK)),
            _ => Err(fixed("ERR Unrecognized option 'SETINFO'")),
        },
        (b"NO-EVICT" | b"NO-TOUCH", 2) => match arguments.word(1).unwrap_or_default().as_slice() {
            b"ON" | b"OFF" => Ok(Request::Ready(Reply::OK)),
            _ => Err(SYNTAX),
        },
        (b"SETNAME" | b"GETNAME" | b"ID" | b"INFO" | b"LIST" | b"SETINFO" | b"NO-EVICT", _) => {
            let name = String::from_utf8_lossy(&word).to_lowercase();
            Err(RedisError::arity(&format!("client|{name}")))
        }
        _ => Err(RedisError::unknown_subcommand("client", &arguments.at(0)?)),
    }
}
