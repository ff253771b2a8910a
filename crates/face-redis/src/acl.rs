//! The users of this node: those of its configuration, and over them those that ACL SETUSER has made,
//! which are settings of the cluster. Every node follows the feed, so a change holds on all of them as
//! soon as it is acknowledged.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use proteus_face::Accounts;
use proteus_kernel_api::cache::acl::{Denied, User};
use proteus_kernel_api::cache::settings;
use proteus_kernel_api::{Kernel, KernelError};

/// What a setting's name begins with that holds a user.
pub(crate) const PREFIX: &str = proteus_kernel_api::cache::acl::SETTING_PREFIX;

/// The user that a connection has before it says which.
pub(crate) const DEFAULT: &str = "default";

/// Entries of ACL LOG, as `acllog-max-len`.
const LOG_MAX: usize = 128;

/// Entries of ACL LOG that tell the same within this time are one, in milliseconds.
const LOG_SAME_MS: u64 = 60_000;

/// The users of a node.
pub(crate) struct Users {
    configured: BTreeMap<String, Arc<User>>,
    stored: RwLock<BTreeMap<String, Arc<User>>>,
    /// Changes with every change to a user.
    generation: AtomicU64,
    is_stale: AtomicBool,
    log: Mutex<Log>,
    pub(crate) denied_auth: AtomicU64,
    pub(crate) denied_command: AtomicU64,
    pub(crate) denied_key: AtomicU64,
    pub(crate) denied_channel: AtomicU64,
}

/// What ACL LOG tells.
#[derive(Default)]
pub(crate) struct Log {
    entries: VecDeque<LogEntry>,
    next_id: u64,
}

/// Something that was not allowed.
#[derive(Debug, Clone)]
pub(crate) struct LogEntry {
    pub(crate) id: u64,
    pub(crate) count: u64,
    pub(crate) reason: &'static str,
    pub(crate) context: &'static str,
    pub(crate) object: Bytes,
    pub(crate) user: String,
    pub(crate) client: String,
    pub(crate) created_ms: u64,
    pub(crate) updated_ms: u64,
}

impl Users {
    /// Those of the configuration. Where it has none, everyone may do everything.
    pub(crate) fn new(accounts: &Accounts) -> Users {
        let mut configured = BTreeMap::new();
        for name in accounts.names() {
            let user = User::unrestricted(name, accounts.password(name));
            configured.insert(name.to_owned(), Arc::new(user));
        }
        configured.entry(DEFAULT.to_owned()).or_insert_with(|| {
            Arc::new(match accounts.is_open() {
                true => User::unrestricted(DEFAULT, None),
                false => User::new(DEFAULT),
            })
        });
        Users {
            configured,
            stored: RwLock::default(),
            generation: AtomicU64::new(1),
            is_stale: AtomicBool::new(true),
            log: Mutex::default(),
            denied_auth: AtomicU64::new(0),
            denied_command: AtomicU64::new(0),
            denied_key: AtomicU64::new(0),
            denied_channel: AtomicU64::new(0),
        }
    }

    /// Which state of the users this is.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Makes the next one who looks read all users again.
    pub(crate) fn mark_stale(&self) {
        self.is_stale.store(true, Ordering::Release);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes over what the settings say, if it is not known to be that already.
    pub(crate) fn refresh(&self, kernel: &dyn Kernel) -> Result<(), KernelError> {
        if !self.is_stale.load(Ordering::Acquire) {
            return Ok(());
        }
        kernel.read(|view| {
            let mut users = BTreeMap::new();
            for (name, value) in settings(view.state, PREFIX)? {
                let name = name.strip_prefix(PREFIX).unwrap_or_default();
                users.insert(name.to_owned(), Arc::new(of_setting(name, &value)));
            }
            // Within the read, so that no later change is overwritten.
            *self.stored.write() = users;
            self.is_stale.store(false, Ordering::Release);
            self.generation.fetch_add(1, Ordering::AcqRel);
            Ok(())
        })
    }

    /// Learns of a changed setting.
    pub(crate) fn note(&self, name: &str, value: Option<&Bytes>) {
        let mut stored = self.stored.write();
        match value {
            Some(value) => stored.insert(name.to_owned(), Arc::new(of_setting(name, value))),
            None => stored.remove(name),
        };
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<User>> {
        self.stored.read().get(name).or_else(|| self.configured.get(name)).cloned()
    }

    /// Whether a user is one of the node's configuration, which only that can remove.
    pub(crate) fn is_configured(&self, name: &str) -> bool {
        self.configured.contains_key(name)
    }

    /// All users by their names.
    pub(crate) fn all(&self) -> BTreeMap<String, Arc<User>> {
        let mut all = self.configured.clone();
        all.extend(self.stored.read().iter().map(|(name, user)| (name.clone(), user.clone())));
        all
    }

    /// The user, if the password is its own and it may log in.
    pub(crate) fn admit(&self, name: &str, password: &[u8]) -> Option<Arc<User>> {
        self.get(name).filter(|user| user.admits(password))
    }

    /// The user of a connection that has not said who it is, if it need not.
    pub(crate) fn unnamed(&self) -> (Arc<User>, bool) {
        let user = self.get(DEFAULT).unwrap_or_else(|| Arc::new(User::new(DEFAULT)));
        let is_admitted = user.is_on && user.needs_no_password;
        (user, is_admitted)
    }

    /// Remembers that a user may not do something.
    pub(crate) fn log_denied(
        &self,
        denied: &Denied,
        context: &'static str,
        user: &str,
        client: String,
        now_ms: u64,
    ) {
        let (reason, object) = denied.object();
        self.log(reason, context, object, user, client, now_ms);
    }

    pub(crate) fn log(
        &self,
        reason: &'static str,
        context: &'static str,
        object: Bytes,
        user: &str,
        client: String,
        now_ms: u64,
    ) {
        let counter = match reason {
            "auth" => &self.denied_auth,
            "command" => &self.denied_command,
            "key" => &self.denied_key,
            _ => &self.denied_channel,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut log = self.log.lock();
        let same = log.entries.iter().position(|entry| {
            entry.reason == reason
                && entry.context == context
                && entry.object == object
                && entry.user == user
                && now_ms.saturating_sub(entry.updated_ms) <= LOG_SAME_MS
        });
        if let Some(mut entry) = same.and_then(|at| log.entries.remove(at)) {
            entry.count += 1;
            entry.updated_ms = now_ms;
            entry.client = client;
            log.entries.push_front(entry);
            return;
        }
        let id = log.next_id;
        log.next_id += 1;
        log.entries.push_front(LogEntry {
            id,
            count: 1,
            reason,
            context,
            object,
            user: user.to_owned(),
            client,
            created_ms: now_ms,
            updated_ms: now_ms,
        });
        log.entries.truncate(LOG_MAX);
    }

    /// The newest entries of ACL LOG.
    pub(crate) fn logged(&self, count_max: usize) -> Vec<LogEntry> {
        self.log.lock().entries.iter().take(count_max).cloned().collect()
    }

    pub(crate) fn forget_log(&self) {
        self.log.lock().entries.clear();
    }
}

fn of_setting(name: &str, value: &Bytes) -> User {
    // A line that no rules make allows nothing.
    User::from_rules(name, &String::from_utf8_lossy(value)).unwrap_or_else(|_| User::new(name))
}
