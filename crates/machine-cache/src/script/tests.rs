//! Scripts through the machine.

use proteus_machine::{Ctx, Machine, Position};
use proteus_store::LayeredStore;
use proteus_types::{CommitTs, LogIndex, Term};

use super::*;
use crate::{Cache, Call, Op};

struct Bench {
    store: LayeredStore,
    ts: CommitTs,
}

impl Bench {
    fn new() -> Bench {
        Bench { store: LayeredStore::in_memory(), ts: CommitTs::from_physical_ms(1_000_000) }
    }

    fn run(&mut self, words: &[&str]) -> Reply {
        self.ts = self.ts.plus(1);
        let position = Position::new(proteus_types::ShardId::META, Term(1), LogIndex(1), self.ts);
        let mut emit = |_| {};
        let call = Call { seed: 7, ..Call::new(words) };
        Cache::apply(&mut Ctx::new(&mut self.store, position, &mut emit), &Op::Command(call))
            .unwrap()
    }

    fn eval(&mut self, text: &str) -> Reply {
        self.run(&["EVAL", text, "1", "key", "argument"])
    }

    fn failure(&mut self, text: &str) -> String {
        match self.eval(text) {
            Reply::Error(text) => text.into_owned(),
            other => panic!("no error: {other:?}"),
        }
    }
}

#[test]
fn values_go_both_ways_by_the_rules_of_redis() {
    let mut bench = Bench::new();
    assert_eq!(bench.eval("return 3.99"), Reply::Integer(3));
    assert_eq!(bench.eval("return false"), Reply::Nil);
    assert_eq!(
        bench.eval("return {1,2,nil,4}"),
        Reply::Array(vec![Reply::Integer(1), Reply::Integer(2)])
    );
    assert_eq!(bench.eval("return {ok='fine'}"), Reply::Status("fine".into()));
    assert_eq!(bench.eval("return {err='MY error'}"), Reply::Error("MY error".into()));
    assert_eq!(bench.eval("return KEYS[1] .. ARGV[1]"), Reply::text("keyargument"));
    assert_eq!(bench.eval("return redis.call('SET', KEYS[1], ARGV[1])"), Reply::OK);
    assert_eq!(bench.eval("return redis.call('GET', KEYS[1])"), Reply::text("argument"));
    assert_eq!(bench.eval("return redis.call('GET', 'absent') == false"), Reply::Integer(1));
    assert_eq!(bench.eval("return redis.call('INCRBY', 'n', 5)"), Reply::Integer(5));
    assert_eq!(
        bench.eval("return redis.sha1hex('')"),
        Reply::text("da39a3ee5e6b4b0d3255bfef95601890afd80709")
    );
}

#[test]
fn failures_say_where() {
    let mut bench = Bench::new();
    bench.run(&["SET", "s", "text"]);
    let text = bench.failure("\nreturn redis.call('LPUSH', 's', 1)");
    assert!(
        text.starts_with(
            "WRONGTYPE Operation against a key holding the wrong kind of value script: "
        ),
        "{text}"
    );
    assert!(text.ends_with(", on @user_script:2."), "{text}");
    let text = bench.failure("return nosuch");
    assert!(
        text.contains("Script attempted to access nonexistent global variable 'nosuch'"),
        "{text}"
    );
    assert!(text.starts_with("ERR user_script:1: "), "{text}");
    assert!(
        bench
            .failure("return 1 +")
            .starts_with("ERR Error compiling script (new function): user_script:1:")
    );
    assert!(
        bench
            .failure("return redis.call('NOSUCH')")
            .starts_with("ERR Unknown Redis command called from script")
    );
    let caught = bench.eval("local e = redis.pcall('LPUSH', 's', 1) return e.err");
    assert_eq!(
        caught,
        Reply::text("WRONGTYPE Operation against a key holding the wrong kind of value")
    );
    let caught = bench.eval("local ok, e = pcall(redis.call, 'LPUSH', 's', 1) return type(e)");
    assert_eq!(caught, Reply::text("table"));
}

#[test]
fn a_script_cannot_run_for_ever_nor_take_all_memory() {
    let mut bench = Bench::new();
    for text in ["while true do end", "while true do pcall(function() while true do end end) end"] {
        assert!(bench.failure(text).contains("too many instructions"), "{text}");
    }
    let text =
        bench.failure("local t = {} for i = 1, 1e9 do t[i] = string.rep('x', 100000) .. i end");
    assert!(text.contains("memory"), "{text}");
    assert_eq!(bench.eval("return 1"), Reply::Integer(1));
}

#[test]
fn nothing_of_a_run_is_left_to_the_next() {
    let mut bench = Bench::new();
    for text in [
        "x = 1",
        "string.x = 1",
        "redis.call = 1",
        "_G.x = 1",
        "getmetatable('').__index.x = 1",
        "setmetatable(string, {})",
        "loadstring('y = 1')()",
    ] {
        assert!(bench.eval(text).is_error(), "{text}");
    }
    bench.eval("rawset(string, 'x', 1) rawset(_G, 'z', 1) table.insert(redis, 1) return 1");
    assert_eq!(bench.eval("return rawget(string, 'x') == nil and rawget(_G, 'z') == nil and rawget(redis, 1) == nil"), Reply::Integer(1));
    for text in [
        "return io",
        "return os.execute",
        "return dofile",
        "return require",
        "return debug",
        "return string.dump",
    ] {
        let reply = bench.eval(text);
        assert!(reply.is_error() || reply == Reply::Nil, "{text}: {reply:?}");
    }
}

#[test]
fn what_differs_between_replicas_cannot_be_seen() {
    let mut bench = Bench::new();
    assert_eq!(bench.eval("return tostring({})"), Reply::text("table: 0x0"));
    assert!(bench.failure("for k in pairs({[{}] = 1}) do end").contains("cannot be gone through"));
    assert_eq!(
        bench.eval("return tostring(math.random())"),
        bench.eval("return tostring(math.random())")
    );
    assert_eq!(bench.eval("return redis.call('TIME')[1]"), Reply::text("1000"));
}

#[test]
fn the_libraries_are_there() {
    let mut bench = Bench::new();
    let json = r#"return cjson.encode(cjson.decode('{"a":[1,2.5,"x\\u00e9",null,true]}'))"#;
    assert_eq!(bench.eval(json), Reply::text("{\"a\":[1,2.5,\"xé\",null,true]}"));
    let packed = "local t = cmsgpack.unpack(cmsgpack.pack({1, 'two', {a = false}})) return {t[1], t[2], t[3].a == false}";
    let expected = vec![Reply::Integer(1), Reply::text("two"), Reply::Integer(1)];
    assert_eq!(bench.eval(packed), Reply::Array(expected));
    assert_eq!(
        bench.eval("return {struct.unpack('>HBs', struct.pack('>HBs', 258, 3, 'hi'))}"),
        Reply::Array(vec![
            Reply::Integer(258),
            Reply::Integer(3),
            Reply::text("hi"),
            Reply::Integer(7)
        ])
    );
    assert_eq!(
        bench.eval("return bit.tohex(bit.bxor(0xFF, bit.lshift(1, 31)))"),
        Reply::text("800000ff")
    );
}

#[test]
fn scripts_and_functions_are_kept_in_the_store() {
    let mut bench = Bench::new();
    let Reply::Bulk(sha1) = bench.run(&["SCRIPT", "LOAD", "return ARGV[1]"]) else {
        panic!("no name")
    };
    let sha1 = String::from_utf8(sha1.to_vec()).unwrap();
    assert_eq!(bench.run(&["EVALSHA", &sha1, "0", "x"]), Reply::text("x"));
    bench.run(&["SCRIPT", "FLUSH"]);
    assert_eq!(
        bench.run(&["EVALSHA", &sha1, "0", "x"]),
        Reply::Error("NOSCRIPT No matching script. Please use EVAL.".into())
    );
    let library = "#!lua name=lib\nredis.register_function('put', function(keys, args) return redis.call('SET', keys[1], args[1]) end)\nredis.register_function{function_name='look', callback=function(keys) return redis.call('GET', keys[1]) end, flags={'no-writes'}}";
    assert_eq!(bench.run(&["FUNCTION", "LOAD", library]), Reply::text("lib"));
    assert!(bench.run(&["FUNCTION", "LOAD", library]).is_error());
    assert_eq!(bench.run(&["FCALL", "put", "1", "k", "v"]), Reply::OK);
    assert_eq!(bench.run(&["FCALL_RO", "look", "1", "k"]), Reply::text("v"));
    assert!(bench.run(&["FCALL_RO", "put", "1", "k", "v"]).is_error());
    assert!(bench.run(&["FCALL", "nosuch", "0"]).is_error());
    assert_eq!(bench.run(&["FUNCTION", "DELETE", "lib"]), Reply::OK);
    assert!(bench.run(&["FCALL", "put", "1", "k", "v"]).is_error());
}

#[test]
fn depth_is_bounded() {
    let mut bench = Bench::new();
    let nested = |depth: usize| {
        format!(
            "return cjson.encode(cjson.decode(string.rep('[', {depth}) .. string.rep(']', {depth})))"
        )
    };
    assert!(!bench.eval(&nested(250)).is_error());
    assert!(bench.failure(&nested(100_000)).contains("too many nested data structures"));
    for text in [
        "local t = {} for i = 1, 100000 do t = {t} end return t",
        "local t = {} for i = 1, 100000 do t = {t} end return cjson.encode(t)",
        "return cmsgpack.unpack(string.rep('\\145', 100000))",
        "local function f() return f() + 1 end return f()",
        "local function f(n) return pcall(f, n) end return tostring(f(1))",
        "local s = string.rep('a', 100) return string.gsub(s, string.rep('a?', 5000), '')",
    ] {
        bench.eval(text);
    }
    assert_eq!(bench.eval("return 1"), Reply::Integer(1));
}
