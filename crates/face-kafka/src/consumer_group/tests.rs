use super::*;

const TOPIC: TopicId = TopicId([1; 16]);
const TIMEOUT_MS: u64 = 30_000;

struct World {
    group: ConsumerGroup,
    topics: Topics,
    now_ms: u64,
}

fn world(partition_count: u32) -> World {
    let topics = Topics::from([("t".to_owned(), (TOPIC, partition_count))]);
    World { group: ConsumerGroup::new(GroupOptions::default()), topics, now_ms: 1_000 }
}

fn join(member_id: &str) -> Heartbeat {
    Heartbeat {
        session_timeout_ms: GroupOptions::default().consumer_session_timeout_ms,
        member_id: member_id.to_owned(),
        epoch: JOINING,
        instance_id: None,
        rack_id: None,
        client_id: "c".to_owned(),
        client_host: "h".to_owned(),
        rebalance_timeout_ms: Some(TIMEOUT_MS),
        topics: Some(BTreeSet::from(["t".to_owned()])),
        pattern: None,
        assignor: None,
        owned: Some(BTreeSet::new()),
    }
}

fn stay(member_id: &str, epoch: i32, owned: Option<&[u32]>) -> Heartbeat {
    let owned = owned.map(|numbers| numbers.iter().map(|number| (TOPIC, *number)).collect());
    Heartbeat { epoch, topics: None, rebalance_timeout_ms: None, owned, ..join(member_id) }
}

impl World {
    fn beat(&mut self, beat: Heartbeat) -> Result<Beat, GroupError> {
        let topics = self.topics.clone();
        self.group.pass_time(self.now_ms);
        self.group.heartbeat(self.now_ms, beat, |names, patterns| {
            let is_wanted = |name: &String| {
                names.contains(name) || patterns.iter().any(|pattern| pattern.matches(name))
            };
            Ok(topics.into_iter().filter(|(name, _)| is_wanted(name)).collect())
        })
    }

    /// Epoch, and the partitions that the answer tells.
    fn told(&mut self, beat: Heartbeat) -> (i32, Option<Vec<u32>>) {
        let beat = self.beat(beat).unwrap();
        let numbers =
            |assigned: BTreeSet<Partition>| assigned.into_iter().map(|one| one.1).collect();
        (beat.epoch, beat.assignment.map(numbers))
    }
}

#[test]
fn partitions_move_from_owner_to_owner_without_stopping_the_rest() {
    let mut world = world(4);
    assert_eq!(world.told(join("a")), (1, Some(vec![0, 1, 2, 3])));
    assert_eq!(world.told(stay("a", 1, None)), (1, None));
    assert_eq!(world.told(join("b")), (2, Some(vec![])), "all partitions are taken");
    assert_eq!(world.told(stay("a", 1, None)), (1, Some(vec![0, 1])));
    assert_eq!(world.told(stay("b", 2, None)), (2, None), "a has not dropped them yet");
    assert_eq!(world.told(stay("a", 1, Some(&[0, 1, 2]))), (1, None));
    assert_eq!(world.group.describe().state, "Reconciling");
    assert_eq!(world.told(stay("a", 1, Some(&[0, 1]))), (2, None));
    assert_eq!(world.told(stay("b", 2, Some(&[]))), (2, Some(vec![2, 3])));
    assert_eq!(world.group.describe().state, "Stable");
    // One leaves, and the other gets its part at once.
    let leave = Heartbeat { epoch: LEAVING, ..stay("a", 2, None) };
    assert_eq!(world.told(leave), (-1, None));
    assert_eq!(world.told(stay("b", 2, None)), (3, Some(vec![0, 1, 2, 3])));
}

#[test]
fn epochs_fence_and_a_lost_answer_is_given_again() {
    let mut world = world(2);
    let refused = world.beat(stay("a", 1, None));
    assert_eq!(refused, Err(GroupError::UnknownMemberId));
    world.beat(join("a")).unwrap();
    world.topics.insert("t".to_owned(), (TOPIC, 3));
    assert_eq!(world.told(stay("a", 1, None)), (2, Some(vec![0, 1, 2])));
    assert_eq!(world.told(stay("a", 1, Some(&[0, 1]))).0, 2, "it lost the answer");
    assert_eq!(world.beat(stay("a", 9, None)), Err(GroupError::FencedMemberEpoch));
    assert_eq!(world.group.may_commit("a", 2), Ok(()));
    assert_eq!(world.group.may_commit("a", 1), Err(GroupError::StaleMemberEpoch));
    assert_eq!(world.group.may_commit("x", 1), Err(GroupError::UnknownMemberId));
    assert_eq!(world.told(join("a")).1, Some(vec![0, 1, 2]), "it begins anew");
}

#[test]
fn who_is_silent_or_does_not_let_go_is_dropped() {
    let mut world = world(2);
    world.beat(join("a")).unwrap();
    world.beat(join("b")).unwrap();
    world.beat(stay("a", 1, None)).unwrap();
    world.now_ms += TIMEOUT_MS;
    // a beats, but still has both.
    assert_eq!(world.beat(stay("a", 1, Some(&[0, 1]))), Err(GroupError::UnknownMemberId));
    assert_eq!(world.told(stay("b", 2, None)).1, Some(vec![0, 1]));
    world.now_ms += GroupOptions::default().consumer_session_timeout_ms;
    assert_eq!(world.beat(stay("b", 3, None)), Err(GroupError::UnknownMemberId));
    assert!(world.group.is_empty());
    assert_eq!(world.group.next_deadline_ms(), None);
}

#[test]
fn a_static_member_comes_back_to_what_it_had() {
    let mut world = world(2);
    let fixed =
        |member_id: &str| Heartbeat { instance_id: Some("i".to_owned()), ..join(member_id) };
    world.beat(fixed("a")).unwrap();
    world.beat(join("b")).unwrap();
    world.beat(stay("a", 1, None)).unwrap();
    assert_eq!(world.told(stay("a", 1, Some(&[0]))), (2, None));
    assert_eq!(world.told(stay("b", 2, None)), (2, Some(vec![1])));
    assert_eq!(world.beat(fixed("c")), Err(GroupError::UnreleasedInstanceId));
    let pause = Heartbeat {
        epoch: LEAVING_FOR_A_WHILE,
        instance_id: Some("i".to_owned()),
        ..stay("a", 2, None)
    };
    assert_eq!(world.told(pause).0, LEAVING_FOR_A_WHILE);
    assert_eq!(world.told(stay("b", 2, None)), (2, None), "its part is kept for it");
    assert_eq!(world.told(fixed("c")), (2, Some(vec![0])));
    let former = Heartbeat { instance_id: Some("i".to_owned()), ..stay("a", 2, None) };
    assert_eq!(world.beat(former), Err(GroupError::FencedInstanceId));
}

#[test]
fn topics_that_match_a_pattern_are_followed_as_they_come() {
    let mut world = world(1);
    let pattern = Some(("t.*".to_owned(), Some(Pattern::parse("t.*").unwrap())));
    let by_pattern = Heartbeat { topics: Some(BTreeSet::new()), pattern, ..join("a") };
    assert_eq!(world.told(by_pattern).1, Some(vec![0]));
    world.topics.insert("tt".to_owned(), (TopicId([2; 16]), 2));
    let beat = world.beat(stay("a", 1, None)).unwrap();
    assert_eq!((beat.epoch, beat.assignment.map(|assigned| assigned.len())), (2, Some(3)));
}
