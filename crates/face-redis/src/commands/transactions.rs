//! MULTI, EXEC, WATCH.

use super::{Arguments, Request, SessionRequest};
use crate::errors::RedisError;

type Parsed = Result<Request, RedisError>;

pub(super) fn multi(_arguments: &Arguments<'_>) -> Parsed {
    Ok(Request::Session(SessionRequest::Multi))
}

pub(super) fn exec(_arguments: &Arguments<'_>) -> Parsed {
    Ok(Request::Session(SessionRequest::Exec))
}

pub(super) fn discard(_arguments: &Arguments<'_>) -> Parsed {
    Ok(Request::Session(SessionRequest::Discard))
}

pub(super) fn watch(arguments: &Arguments<'_>) -> Parsed {
    Ok(Request::Session(SessionRequest::Watch(arguments.rest.to_vec())))
}

pub(super) fn unwatch(_arguments: &Arguments<'_>) -> Parsed {
    Ok(Request::Session(SessionRequest::Unwatch))
}
