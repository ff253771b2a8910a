//! Messages to subscribers. A message is a change without a trace in the state; subscribers on any node
//! learn of it from the feed, in the order of commits. Who receives it no state machine knows: the face
//! that publishes counts its own subscribers and answers with that.

use bytes::Bytes;

use super::{Arguments, Command, Flags, Group, NONE, ONE, command};
use crate::Change;
use crate::exec::{Exec, Result};
use crate::reply::Reply;

const FLAGS: Flags = Flags::WRITE.and(Flags::FAST).and(Flags::PUBSUB).and(Flags::LOADING);

pub(super) const TABLE: &[Command] = &[
    command("publish", 3, FLAGS, NONE, Group::PubSub, |x, a| publish(x, a, false)),
    command("spublish", 3, FLAGS, ONE, Group::PubSub, |x, a| publish(x, a, true)),
];

fn publish(x: &mut Exec<'_>, a: &[Bytes], is_sharded: bool) -> Result {
    let (channel, message) = (a.at(1)?.clone(), a.at(2)?.clone());
    x.access.emit(Change::Published { channel, message, is_sharded });
    Ok(Reply::ZERO)
}
