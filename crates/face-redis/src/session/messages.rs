//! Subscriptions.

use bytes::Bytes;
use proteus_kernel_api::cache::Reply;

use super::Session;
use crate::errors::{unknown_subcommand, wrong_arity};
use crate::hub::Subscription;
use crate::reply::{encode_push, text};
use crate::table::OwnCommand;

/// PING of a RESP2 client that has subscribed.
pub(super) fn subscribed_ping(arguments: &[Bytes]) -> Reply {
    let message = arguments.get(1).cloned().unwrap_or_default();
    Reply::Array(vec![text("pong"), Reply::Bulk(message)])
}

impl Session {
    /// How many channels and patterns, or sharded channels, the client listens to.
    fn subscription_count(&self, kind: Subscription) -> usize {
        let is_sharded = kind == Subscription::Shard;
        let counts =
            |(other, _): &&(Subscription, Bytes)| (*other == Subscription::Shard) == is_sharded;
        self.subscribed.iter().filter(counts).count()
    }

    fn confirm(&mut self, word: &'static str, name: Option<Bytes>, kind: Subscription) {
        let count = Reply::count(self.subscription_count(kind));
        let parts = [text(word), Reply::optional(name), count];
        encode_push(&parts, self.resp, &mut self.output);
    }

    pub(super) fn change_subscriptions(&mut self, own: OwnCommand, arguments: &[Bytes]) {
        let (kind, word, adds) = match own {
            OwnCommand::SubScribe => (Subscription::Channel, "subscribe", true),
            OwnCommand::PsubScribe => (Subscription::Pattern, "psubscribe", true),
            OwnCommand::SsubScribe => (Subscription::Shard, "ssubscribe", true),
            OwnCommand::UnsubScribe => (Subscription::Channel, "unsubscribe", false),
            OwnCommand::PunsubScribe => (Subscription::Pattern, "punsubscribe", false),
            _ => (Subscription::Shard, "sunsubscribe", false),
        };
        let mut names = arguments.get(1..).unwrap_or_default().to_vec();
        if !adds && names.is_empty() {
            let own = self.subscribed.iter().filter(|(other, _)| *other == kind);
            names = own.map(|(_, name)| name.clone()).collect();
            if names.is_empty() {
                self.confirm(word, None, kind);
            }
        }
        for name in names {
            let place =
                self.subscribed.iter().position(|(other, held)| *other == kind && *held == name);
            match (adds, place) {
                (true, None) => {
                    self.face.hub.subscribe(&self.client, kind, &name);
                    self.subscribed.push((kind, name.clone()));
                }
                (false, Some(place)) => {
                    self.face.hub.unsubscribe(&self.client, kind, &name);
                    self.subscribed.remove(place);
                }
                _ => {}
            }
            self.confirm(word, Some(name), kind);
        }
        let count = |kind| self.subscribed.iter().filter(|(other, _)| *other == kind).count();
        let mut about = self.client.about.lock();
        about.channels = count(Subscription::Channel);
        about.patterns = count(Subscription::Pattern);
        about.sharded = count(Subscription::Shard);
    }

    pub(super) fn unsubscribe_all(&mut self) {
        for (kind, name) in std::mem::take(&mut self.subscribed) {
            self.face.hub.unsubscribe(&self.client, kind, &name);
        }
        let mut about = self.client.about.lock();
        (about.channels, about.patterns, about.sharded) = (0, 0, 0);
    }

    pub(super) fn pubsub(&self, arguments: &[Bytes]) -> Reply {
        let hub = &self.face.hub;
        let word = arguments.get(1).map(|word| word.to_ascii_uppercase()).unwrap_or_default();
        let names = arguments.get(2..).unwrap_or_default();
        let counts = |kind| {
            let pair = |name: &Bytes| {
                [Reply::Bulk(name.clone()), Reply::count(hub.subscriber_count(kind, name))]
            };
            Reply::Array(names.iter().flat_map(pair).collect())
        };
        match (word.as_slice(), names.len()) {
            (b"CHANNELS", 0 | 1) => {
                Reply::bulks(hub.channels(Subscription::Channel, names.first()))
            }
            (b"SHARDCHANNELS", 0 | 1) => {
                Reply::bulks(hub.channels(Subscription::Shard, names.first()))
            }
            (b"NUMSUB", _) => counts(Subscription::Channel),
            (b"SHARDNUMSUB", _) => counts(Subscription::Shard),
            (b"NUMPAT", 0) => Reply::count(hub.pattern_count()),
            (b"HELP", 0) => super::server::help(&[
                "PUBSUB <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "CHANNELS [<pattern>]",
                "    Return the currently active channels matching a <pattern> (default: '*').",
                "NUMPAT",
                "    Return number of subscriptions to patterns.",
                "NUMSUB [<channel> ...]",
                "    Return the number of subscribers for the specified channels, excluding",
                "    pattern subscriptions(default: no channels).",
                "SHARDCHANNELS [<pattern>]",
                "    Return the currently active shard level channels matching a <pattern> (default: '*').",
                "SHARDNUMSUB [<shardchannel> ...]",
                "    Return the number of subscribers for the specified shard level channel(s)",
                "HELP",
                "    Print this help.",
            ]),
            (b"CHANNELS" | b"SHARDCHANNELS" | b"NUMPAT" | b"HELP", _) => {
                let word = String::from_utf8_lossy(&word).to_lowercase();
                wrong_arity(&format!("pubsub|{word}"))
            }
            _ => unknown_subcommand("pubsub", arguments.get(1).map_or(b"", |word| &word[..])),
        }
    }
}
