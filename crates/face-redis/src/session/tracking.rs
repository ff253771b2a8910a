//! CLIENT TRACKING: clients that keep copies of what they read.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use proteus_kernel_api::cache::commands::Command;
use proteus_kernel_api::cache::{Reply, parse_integer};

use super::Session;
use crate::errors::SYNTAX;
use crate::reply::text;
use crate::table::Found;

/// How the client wants to learn of changes.
#[derive(Debug, Clone, Default)]
pub(super) struct TrackingMode {
    is_on: bool,
    is_broadcast: bool,
    opts_in: bool,
    opts_out: bool,
    no_loop: bool,
    prefixes: Vec<Bytes>,
    /// What CLIENT CACHING said about the next command.
    caching: Option<bool>,
}

impl Session {
    /// What must be noted before a command on data is carried out: keys that it is about to read.
    pub(super) fn before_data(&mut self, command: &'static Command, arguments: &[Bytes]) {
        self.touch(Found::Data(command), arguments);
        if !self.tracking.is_on {
            return;
        }
        let caching = self.tracking.caching.take();
        let wanted = match (self.tracking.opts_in, self.tracking.opts_out) {
            (true, _) => caching == Some(true),
            (_, true) => caching != Some(false),
            _ => true,
        };
        if command.is_write() || self.tracking.is_broadcast || !wanted {
            return;
        }
        let places = command.key_places(arguments);
        let keys = places.into_iter().filter_map(|at| arguments.get(at).cloned());
        self.face.hub.track_keys(self.client.id, keys);
    }

    pub(super) fn end_tracking(&mut self) {
        if self.tracking.is_on {
            self.face.hub.stop_tracking(self.client.id);
        }
        self.tracking = TrackingMode::default();
        self.client.origin.store(0, Ordering::Relaxed);
        let mut about = self.client.about.lock();
        (about.is_tracking, about.is_broadcast, about.redirect) = (false, false, None);
    }

    /// `CLIENT TRACKING ON|OFF [REDIRECT id] [PREFIX p]… [BCAST] [OPTIN] [OPTOUT] [NOLOOP]`.
    pub(super) fn track(&mut self, arguments: &[Bytes]) -> Reply {
        let word = |at: usize| arguments.get(at).map(|word| word.to_ascii_uppercase());
        let mut mode = TrackingMode { is_on: true, ..TrackingMode::default() };
        let mut redirect = None;
        let mut at = 3;
        while let Some(option) = word(at) {
            let has_value = at + 1 < arguments.len();
            match option.as_slice() {
                b"REDIRECT" if has_value => {
                    if redirect.is_some() {
                        return Reply::error(
                            "ERR A client can only redirect to a single other client",
                        );
                    }
                    let Some(id) = parse_integer(&arguments[at + 1]) else {
                        return crate::errors::NOT_AN_INTEGER;
                    };
                    let Some(id) =
                        u64::try_from(id).ok().filter(|id| self.face.hub.client(*id).is_some())
                    else {
                        return Reply::error(
                            "ERR The client ID you want redirect to does not exist",
                        );
                    };
                    redirect = Some(id);
                    at += 1;
                }
                b"PREFIX" if has_value => {
                    mode.prefixes.push(arguments[at + 1].clone());
                    at += 1;
                }
                b"BCAST" => mode.is_broadcast = true,
                b"OPTIN" => mode.opts_in = true,
                b"OPTOUT" => mode.opts_out = true,
                b"NOLOOP" => mode.no_loop = true,
                _ => return SYNTAX,
            }
            at += 1;
        }
        match word(2).as_deref() {
            Some(b"OFF") => {
                self.end_tracking();
                return Reply::OK;
            }
            Some(b"ON") => {}
            _ => return SYNTAX,
        }
        if !mode.is_broadcast && !mode.prefixes.is_empty() {
            return Reply::error("ERR PREFIX option requires BCAST mode to be enabled");
        }
        if self.tracking.is_on && self.tracking.is_broadcast != mode.is_broadcast {
            return Reply::error(
                "ERR You can't switch BCAST mode on/off before disabling tracking for this client, and then re-enabling it with a different mode.",
            );
        }
        if mode.is_broadcast && (mode.opts_in || mode.opts_out) {
            return Reply::error("ERR OPTIN and OPTOUT are not compatible with BCAST");
        }
        if mode.opts_in && mode.opts_out {
            return Reply::error("ERR You can't use both OPTIN and OPTOUT");
        }
        if self.tracking.is_on
            && ((mode.opts_in && self.tracking.opts_out)
                || (mode.opts_out && self.tracking.opts_in))
        {
            return Reply::error(
                "ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, and then re-enabling it with a different mode.",
            );
        }
        if mode.is_broadcast {
            if mode.prefixes.is_empty() && self.tracking.prefixes.is_empty() {
                mode.prefixes.push(Bytes::new());
            }
            let mut all = self.tracking.prefixes.clone();
            for prefix in &mode.prefixes {
                let clash = all.iter().find(|other| {
                    *other != prefix && (other.starts_with(prefix) || prefix.starts_with(other))
                });
                if let Some(other) = clash {
                    return Reply::Error(
                        format!(
                            "ERR Prefix '{}' overlaps with an existing prefix '{}'. Prefixes for a single client must not overlap.",
                            String::from_utf8_lossy(prefix),
                            String::from_utf8_lossy(other)
                        )
                        .into(),
                    );
                }
                if !all.contains(prefix) {
                    all.push(prefix.clone());
                }
            }
            mode.prefixes = all;
            self.face.hub.track_prefixes(self.client.id, &mode.prefixes);
        }
        if mode.no_loop {
            // Never 0, which stands for nobody.
            let origin = proteus_env::random::random_u64() | 1;
            self.client.origin.store(origin, Ordering::Relaxed);
        }
        let mut about = self.client.about.lock();
        (about.is_tracking, about.is_broadcast) = (true, mode.is_broadcast);
        about.redirect = redirect;
        drop(about);
        self.tracking = mode;
        Reply::OK
    }

    /// `CLIENT CACHING YES|NO`.
    pub(super) fn caching(&mut self, word: &[u8]) -> Reply {
        if !self.tracking.is_on || !(self.tracking.opts_in || self.tracking.opts_out) {
            return Reply::error(
                "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled",
            );
        }
        match word {
            b"YES" if self.tracking.opts_in => self.tracking.caching = Some(true),
            b"NO" if self.tracking.opts_out => self.tracking.caching = Some(false),
            b"YES" => {
                return Reply::error(
                    "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.",
                );
            }
            b"NO" => {
                return Reply::error(
                    "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.",
                );
            }
            _ => return SYNTAX,
        }
        Reply::OK
    }

    pub(super) fn redirect(&self) -> Reply {
        if !self.tracking.is_on {
            return Reply::Integer(-1);
        }
        let redirect = self.client.about.lock().redirect;
        Reply::Integer(redirect.map_or(0, |id| i64::try_from(id).unwrap_or(i64::MAX)))
    }

    pub(super) fn tracking_info(&self) -> Reply {
        let mode = &self.tracking;
        let redirect = self.client.about.lock().redirect;
        let mut flags = Vec::new();
        for (flag, is_set) in [
            ("off", !mode.is_on),
            ("on", mode.is_on),
            ("bcast", mode.is_broadcast),
            ("optin", mode.opts_in),
            ("optout", mode.opts_out),
            ("caching-yes", mode.caching == Some(true)),
            ("caching-no", mode.caching == Some(false)),
            ("noloop", mode.no_loop),
            ("broken_redirect", redirect.is_some_and(|id| self.face.hub.client(id).is_none())),
        ] {
            if is_set {
                flags.push(text(flag));
            }
        }
        Reply::Map(vec![
            (text("flags"), Reply::Set(flags)),
            (text("redirect"), self.redirect()),
            (text("prefixes"), Reply::bulks(mode.prefixes.iter().cloned())),
        ])
    }
}
