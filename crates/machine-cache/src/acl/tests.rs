use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::commands;

fn user(rules: &str) -> User {
    User::from_rules("ann", rules).unwrap()
}

fn check(user: &User, command: &str) -> Result<(), Denied> {
    let arguments: Vec<Bytes> =
        command.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
    user.check(resolve(&arguments).unwrap(), &arguments)
}

fn refusal(rules: &str) -> String {
    User::from_rules("ann", rules).unwrap_err().0
}

#[test]
fn every_command_of_the_machine_is_in_the_catalog_with_its_arity() {
    for command in commands::table() {
        let fact = find_fact(command.name).unwrap_or_else(|| panic!("{}", command.name));
        assert_eq!(fact.arity, command.arity, "{}", command.name);
        assert_ne!(fact.categories, 0, "{}", command.name);
    }
    for (index, fact) in facts().iter().enumerate() {
        assert_eq!(fact.index, index);
        for inner in fact.subcommands.clone() {
            assert!(facts()[inner].name.starts_with(&format!("{}|", fact.name)));
        }
    }
    let subs = |name| find_fact(name).unwrap().subcommands.len();
    assert!(subs("config") > 4 && subs("client") > 15 && subs("get") == 0);
}

#[test]
fn commands_are_allowed_by_name_category_and_first_word() {
    let ann = user("on ~* +@read +set -hgetall +config|get +select|3");
    for allowed in ["get k", "set k v", "CONFIG GET x", "select 3", "auth x"] {
        assert_eq!(check(&ann, allowed), Ok(()), "{allowed}");
    }
    for (denied, name) in [
        ("hgetall k", "hgetall"),
        ("config set a b", "config|set"),
        ("select 2", "select"),
        ("del k", "del"),
    ] {
        assert_eq!(check(&ann, denied), Err(Denied::Command(name)));
    }
    assert_eq!(
        Denied::Command("config|set").text("ann"),
        "User ann has no permissions to run the 'config|set' command"
    );
}

#[test]
fn keys_are_allowed_by_what_is_done_with_them() {
    let ann = user("on +@all %R~r:* %W~w:* ~rw:*");
    for allowed in [
        "get r:1",
        "set w:1 v",
        "copy r:1 w:1",
        "set rw:1 v GET",
        "sort r:1 STORE w:1",
        "zunionstore w:1 2 r:1 r:2",
        "bitfield r:1 GET u8 0",
        "xread STREAMS r:1 r:2 0 0",
        "eval x 1 rw:1",
        "lmove rw:a w:b LEFT LEFT",
        "mget r:1 r:2 rw:3",
        "strlen w:1",
    ] {
        assert_eq!(check(&ann, allowed), Ok(()), "{allowed}");
    }
    for (denied, key) in [
        ("get w:1", "w:1"),
        ("set r:1 v", "r:1"),
        ("set w:1 v GET", "w:1"),
        ("copy w:1 w:2", "w:1"),
        ("bitfield r:1 SET u8 0 1", "r:1"),
        ("mget r:1 x", "x"),
        ("sort r:1 STORE r:2", "r:2"),
        ("eval x 1 r:1", "r:1"),
        ("rename r:1 w:1", "r:1"),
        ("xread STREAMS r:1 w:2 0 0", "w:2"),
    ] {
        assert_eq!(check(&ann, denied), Err(Denied::Key(Bytes::from(key.to_owned()))), "{denied}");
    }
    assert!(matches!(check(&ann, "sort r:1 BY w_*"), Err(Denied::Option(_))));
}

#[test]
fn channels_are_allowed_by_pattern_and_patterns_word_by_word() {
    let ann = user("on +@all ~* resetchannels &news.*");
    assert_eq!(check(&ann, "publish news.a x"), Ok(()));
    assert_eq!(check(&ann, "psubscribe news.*"), Ok(()));
    assert!(matches!(check(&ann, "subscribe news.a other"), Err(Denied::Channel(_))));
    assert!(matches!(check(&ann, "psubscribe news.a*"), Err(Denied::Channel(_))));
}

#[test]
fn a_selector_allows_as_a_whole() {
    let ann = user("on +get ~a* (+set ~b*)");
    assert_eq!(check(&ann, "get a1"), Ok(()));
    assert_eq!(check(&ann, "set b1 v"), Ok(()));
    assert_eq!(check(&ann, "set a1 v"), Err(Denied::Key(Bytes::from("a1"))));
    assert_eq!(check(&ann, "del a1"), Err(Denied::Command("del")));
    assert!(!ann.is_unrestricted);
    assert!(user("on nopass +@all (allkeys allchannels +@all)").is_unrestricted);
    assert!(!user("on nopass ~* &* +@all -flushall").is_unrestricted);
}

#[test]
fn lines_read_as_in_redis_and_make_the_same_user() {
    for (rules, line) in [
        (
            "on >p +get -@string ~a* %R~b* &c* (+set ~x*)",
            "on sanitize-payload #148de9c5a7a44d19e56cd9ae1a554bf67847afb0c58f6e12fa29ac7ddfca9940 ~a* %R~b* resetchannels &c* -@all +get -@string (~x* resetchannels -@all +set)",
        ),
        ("on nopass allkeys allchannels +@all", "on nopass sanitize-payload ~* &* +@all"),
        ("+@all -get +config|get +config", "off sanitize-payload resetchannels +@all -get +config"),
        ("%RW~a %R~b %W~b", "off sanitize-payload ~a ~b resetchannels -@all"),
        ("~a on nopass reset", "off sanitize-payload resetchannels -@all"),
    ] {
        let made = user(rules);
        assert_eq!(made.rules(), line);
        assert_eq!(User::from_rules("ann", line).unwrap(), made);
    }
}

#[test]
fn bad_rules_are_refused_in_redis_words() {
    for (rule, why) in [
        ("+foo", "Error in ACL SETUSER modifier '+foo': Unknown command or category name in ACL"),
        ("-@foo", "Error in ACL SETUSER modifier '-@foo': Unknown command or category name in ACL"),
        ("nonsense", "Error in ACL SETUSER modifier 'nonsense': Syntax error"),
        ("%X~a", "Error in ACL SETUSER modifier '%X~a': Syntax error"),
        (
            "<zz",
            "Error in ACL SETUSER modifier '<zz': The password you are trying to remove from the user does not exist",
        ),
        ("(+get", "Unmatched parenthesis in acl selector starting at '(+get'."),
        (
            "+config|get|x",
            "Error in ACL SETUSER modifier '+config|get|x': Allowing first-arg of a subcommand is not supported",
        ),
    ] {
        assert_eq!(refusal(rule), why);
    }
    assert!(refusal("~* ~a").contains("resetkeys"));
    assert!(refusal("#12").contains("64 characters"));
}

#[test]
fn passwords_admit_while_the_user_is_on() {
    let ann = user("on >one >two <one");
    assert!(ann.admits(b"two") && !ann.admits(b"one"));
    assert!(!user("off >two").admits(b"two"));
    assert!(user("on nopass").admits(b"anything"));
}

proptest! {
    #[test]
    fn any_rules_are_taken_or_refused_and_what_is_taken_comes_back(
        rules in proptest::collection::vec("[-+~&%@()|a-z*#<>!RW ]{0,12}|on|nopass|[+]@read|-get|[+]set|~[a-c]*|[(][+]get ~x[)]", 0..8)
    ) {
        if let Ok(made) = User::new("ann").with(&rules) {
            prop_assert_eq!(User::from_rules("ann", &made.rules()).unwrap(), made);
        }
    }
}
