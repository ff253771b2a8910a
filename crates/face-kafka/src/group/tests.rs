//! Conversations with a group, as golden scripts: `testdata/groups/*.txt`.
//!
//! A line that begins with `>` is an event; the lines below it are what the group does. Run with
//! `PROTEUS_GOLDEN=update` to rewrite them, then review the difference.
//!
//! ```text
//! > at MS                                                            time passes
//! > join TICKET id=ID new=ID protocols=A,B [instance=I] [session=MS] [known]
//! > sync TICKET id=ID gen=N [give=ID:WORK,ID:WORK]
//! > heartbeat TICKET id=ID gen=N
//! > leave TICKET id=ID [instance=I]
//! > commit id=ID gen=N                                               may it commit offsets?
//! ```

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;

use proptest::prelude::*;

use super::*;

const SESSION_MS: u64 = 10_000;
const REBALANCE_MS: u64 = 5_000;

struct Script {
    group: Group,
    now_ms: u64,
}

impl Script {
    fn new() -> Script {
        Script { group: Group::new(GroupOptions::default()), now_ms: 0 }
    }

    fn run(&mut self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let command = words.next().expect("a command");
        let rest: Vec<&str> = words.collect();
        let ticket = rest.first().and_then(|word| word.parse().ok()).unwrap_or(0);
        let named: HashMap<&str, &str> =
            rest.iter().filter_map(|word| word.split_once('=')).collect();
        let text = |name: &str| named.get(name).copied().unwrap_or_default().to_owned();
        let number = |name: &str| text(name).parse::<i32>().unwrap_or(-1);
        let identity = Identity {
            member_id: text("id"),
            instance_id: named.get("instance").map(|instance| (*instance).to_owned()),
        };
        let event = match command {
            "at" => {
                self.now_ms = ticket;
                Event::Tick
            }
            "join" => {
                let protocols = text("protocols");
                let protocols = protocols.split(',').filter(|name| !name.is_empty());
                let session = named.get("session").map_or(SESSION_MS, |ms| ms.parse().unwrap());
                Event::Join {
                    ticket,
                    join: Join {
                        new_member_id: text("new"),
                        needs_known_id: rest.contains(&"known"),
                        client_id: "client".to_owned(),
                        client_host: "/host".to_owned(),
                        session_timeout_ms: session,
                        rebalance_timeout_ms: REBALANCE_MS,
                        protocol_type: "consumer".to_owned(),
                        protocols: protocols
                            .map(|name| (name.to_owned(), Bytes::from_static(b"meta")))
                            .collect(),
                        identity,
                    },
                }
            }
            "sync" => Event::Sync {
                ticket,
                sync: Sync {
                    identity,
                    generation: number("gen"),
                    protocol_type: Some("consumer".to_owned()),
                    protocol_name: None,
                    assignments: text("give")
                        .split(',')
                        .filter_map(|part| part.split_once(':'))
                        .map(|(id, work)| (id.to_owned(), Bytes::from(work.to_owned())))
                        .collect(),
                },
            },
            "heartbeat" => Event::Heartbeat { ticket, identity, generation: number("gen") },
            "leave" => Event::Leave { ticket, identity },
            "commit" => {
                let may = self.group.may_commit(self.now_ms, &identity, number("gen"));
                return format!("{may:?}\n");
            }
            other => panic!("no such command: {other}"),
        };
        let effects = self.group.step(self.now_ms, event);
        let mut trace: String = effects.iter().map(describe_effect).collect();
        let description = self.group.describe();
        let members: Vec<&str> =
            description.members.iter().map(|member| member.member_id.as_str()).collect();
        let next = self.group.next_deadline_ms().map_or("never".to_owned(), |at| at.to_string());
        let _ = writeln!(trace, "{} [{}], next {next}", description.state, members.join(" "));
        trace
    }
}

fn describe_effect(effect: &Effect) -> String {
    let Effect::Answer { ticket, answer } = effect;
    let answer = match answer {
        Answer::Joined(joined) => {
            let members: Vec<&str> = joined.members.iter().map(|member| &*member.0).collect();
            format!(
                "joined as {} generation {} by {} led by {} members [{}]",
                joined.member_id,
                joined.generation,
                joined.protocol_name,
                joined.leader,
                members.join(" ")
            )
        }
        Answer::NotJoined { error, member_id } => format!("not joined as {member_id}: {error:?}"),
        Answer::Synced { assignment, .. } => format!("synced: {}", assignment.escape_ascii()),
        Answer::Done => "done".to_owned(),
        Answer::Refused(error) => format!("refused: {error:?}"),
    };
    format!("{ticket}: {answer}\n")
}

#[test]
fn golden_conversations() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/groups");
    let updates = std::env::var("PROTEUS_GOLDEN").is_ok_and(|value| value == "update");
    let mut count = 0;
    for entry in directory.read_dir().expect("testdata") {
        let path = entry.expect("an entry").path();
        #[allow(clippy::disallowed_methods, reason = "golden files")]
        let expected = std::fs::read_to_string(&path).expect("a script");
        let mut script = Script::new();
        let mut found = String::new();
        for line in expected.lines() {
            if line.starts_with('#') || line.is_empty() {
                let _ = writeln!(found, "{line}");
            } else if let Some(command) = line.strip_prefix("> ") {
                let _ = write!(found, "{line}\n{}", script.run(command));
            }
        }
        if updates {
            #[allow(clippy::disallowed_methods, reason = "golden files")]
            std::fs::write(&path, &found).expect("a writable script");
        }
        assert_eq!(found, if updates { found.clone() } else { expected }, "{}", path.display());
        count += 1;
    }
    assert!(count >= 7, "scripts are missing");
}

/// Something a few clients may do, well-behaved or not.
fn any_command() -> impl Strategy<Value = String> {
    let member = 0..4u8;
    prop_oneof![
        (0..4000u64).prop_map(|ms| format!("wait {ms}")),
        (member.clone(), any::<bool>()).prop_map(|(member, is_new)| {
            let id = if is_new { String::new() } else { format!("m{member}") };
            format!("join T id={id} new=m{member} protocols=range,sticky")
        }),
        (member.clone(), 0..6).prop_map(|(member, generation)| {
            format!("sync T id=m{member} gen={generation} give=m0:a,m1:b,m2:c,m3:d")
        }),
        (member.clone(), 0..6)
            .prop_map(|(m, generation)| format!("heartbeat T id=m{m} gen={generation}")),
        member.prop_map(|member| format!("leave T id=m{member}")),
    ]
}

proptest! {
    /// Whatever clients do: every request is answered once and in finite time, the generation only
    /// grows, and a stable group's members have been told who leads.
    #[test]
    fn every_request_is_answered_once(commands in proptest::collection::vec(any_command(), 1..60)) {
        let mut script = Script::new();
        let mut unanswered = BTreeSet::new();
        let mut generation = 0;
        let mut next_ticket = 1u64;
        let settle = (0..200).map(|_| "wait 1000".to_owned());
        for command in commands.into_iter().chain(settle) {
            let command = match command.strip_prefix("wait ") {
                Some(ms) => format!("at {}", script.now_ms + ms.parse::<u64>().unwrap()),
                None => {
                    unanswered.insert(next_ticket);
                    next_ticket += 1;
                    let command = command.replace(" T ", &format!(" {} ", next_ticket - 1));
                    // New members' ids are random, so never those of members.
                    let is_taken = |id: &&String| command.contains(&format!("id= new={id} "));
                    match script.group.members.keys().find(is_taken) {
                        Some(id) => command.replace("id= ", &format!("id={id} ")),
                        None => command,
                    }
                }
            };
            for line in script.run(&command).lines() {
                if let Some((ticket, _)) = line.split_once(": ") {
                    let ticket: u64 = ticket.parse().unwrap();
                    prop_assert!(unanswered.remove(&ticket), "answered twice: {}", ticket);
                }
            }
            prop_assert!(script.group.generation >= generation);
            generation = script.group.generation;
            if let Some(at_ms) = script.group.next_deadline_ms() {
                prop_assert!(at_ms > script.now_ms, "a deadline is left behind");
            }
            if script.group.state == State::Stable {
                prop_assert!(script.group.members.contains_key(&script.group.leader));
            }
        }
        prop_assert!(unanswered.is_empty(), "never answered: {:?}", unanswered);
        prop_assert!(script.group.is_empty(), "nobody heartbeats, yet somebody is a member");
    }
}
