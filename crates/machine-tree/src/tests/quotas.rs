//! Quotas.

use super::*;

impl World {
    fn put(&mut self, path: &str, text: &str) -> Result<Reply, Refusal> {
        let data = Some(Bytes::copy_from_slice(text.as_bytes()));
        self.apply(&Op::Create(NewNode::persistent(path, data)))
    }

    fn text(&self, path: &str) -> String {
        let (data, stat) = data(&self.store, path).expect("sound state").expect("a znode");
        let data = data.unwrap_or_default();
        assert_eq!(stat.data_length as usize, data.len());
        String::from_utf8(data.to_vec()).expect("text")
    }

    fn limit(&mut self, path: &str, limits: &str) {
        let quota = format!("/zookeeper/quota{path}");
        let mut at = "/zookeeper/quota".to_owned();
        for name in path.trim_start_matches('/').split('/') {
            at = format!("{at}/{name}");
            let _may_exist = self.put(&at, "");
        }
        self.put(&format!("{quota}/zookeeper_limits"), limits).expect("free");
        self.put(&format!("{quota}/zookeeper_stats"), "").expect("free");
    }
}

#[test]
fn usage_is_counted_from_what_is_there_and_with_each_change() {
    let mut world = World::new();
    world.put("/a", "12").expect("free");
    world.put("/a/b", "345").expect("free");
    world.put("/ab", "not below").expect("free");
    world.limit("/a", "count=10,bytes=100");
    let stats = "/zookeeper/quota/a/zookeeper_stats";
    assert_eq!(world.text(stats), "count=2,bytes=5");
    world.put("/a/b/c", "6").expect("within");
    assert_eq!(world.text(stats), "count=3,bytes=6");
    let set = Op::SetData {
        path: "/a/b".to_owned(),
        data: Some(Bytes::from_static(b"123456")),
        version: None,
        by: TRUSTED,
    };
    world.apply(&set).expect("within");
    assert_eq!(world.text(stats), "count=3,bytes=9");
    world.delete("/a/b/c").expect("there");
    assert_eq!(world.text(stats), "count=2,bytes=8");
    assert_eq!(world.stat(stats).map(|stat| stat.version), Some(0));
    world.delete(&stats.replace("stats", "limits")).expect("there");
    world.put("/a/x", "1").expect("no quota any more");
    assert_eq!(world.text(stats), "count=2,bytes=8");
}

#[test]
fn a_hard_limit_refuses_and_a_soft_one_tells() {
    let mut world = World::new();
    world.put("/a", "").expect("free");
    world.limit("/a", "count=2,bytes=-1=;byteHardLimit=4;countHardLimit=-1");
    world.put("/a/b", "12").expect("within");
    assert!(!world.changes.iter().any(|change| matches!(change, Change::SoftQuotaExceeded { .. })));
    world.put("/a/c", "34").expect("a soft limit does not refuse");
    let told = Change::SoftQuotaExceeded { path: "/a".to_owned() };
    assert!(world.changes.contains(&told));
    let refused = Refusal::QuotaExceeded { path: "/a".to_owned() };
    assert_eq!(world.put("/a/d", "5"), Err(refused.clone()));
    let set = |data: &'static [u8]| Op::SetData {
        path: "/a/b".to_owned(),
        data: Some(Bytes::from_static(data)),
        version: None,
        by: TRUSTED,
    };
    assert_eq!(world.apply(&set(b"123")), Err(refused));
    world.apply(&set(b"1")).expect("it shrinks");
    world.put("/a/e", "5").expect("there is room now");
    world.put("/elsewhere", "12345").expect("no quota");
}

#[test]
fn the_deepest_quota_counts() {
    let mut world = World::new();
    world.put("/a", "").expect("free");
    world.put("/a/b", "").expect("free");
    world.limit("/a/b", "count=-1,bytes=-1=;byteHardLimit=-1;countHardLimit=1");
    world.limit("/a", "count=-1,bytes=-1=;byteHardLimit=-1;countHardLimit=9");
    assert!(matches!(world.put("/a/b/c", ""), Err(Refusal::QuotaExceeded { .. })));
    world.put("/a/c", "").expect("the other quota has room");
}
