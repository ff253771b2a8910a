//! Commits over several shards in trouble, held to the claims of `docs/testing.md`.

use proteus_sim::transfers::{Reading, Summary, run};

/// Runs so many seeds, or as many as were asked for, and adds up how they went.
fn sum_of(seeds: u64, reading: Reading) -> (u64, Summary) {
    let total = parking_lot::Mutex::new(Summary::default());
    let seeds = proteus_sim::seeds(seeds, |seed| {
        let ran = run(seed, reading)?;
        let mut total = total.lock();
        total.acknowledged += ran.acknowledged;
        total.refused += ran.refused;
        total.unanswered += ran.unanswered;
        total.reads += ran.reads;
        total.crashes += ran.crashes;
        total.cuts += ran.cuts;
        total.moves += ran.moves;
        total.backups += ran.backups;
        total.replicas_moved += ran.replicas_moved;
        total.retired += ran.retired;
        total.followed.changes += ran.followed.changes;
        total.followed.looks += ran.followed.looks;
        total.followed.kept += ran.followed.kept;
        total.followed.late += ran.followed.late;
        total.called.answered += ran.called.answered;
        total.called.undecided += ran.called.undecided;
        Ok(())
    });
    (seeds, total.into_inner())
}

#[test]
fn commits_over_several_shards_keep_their_claims_in_trouble() {
    let (seeds, total) = sum_of(50, Reading::Whole);
    println!("{total:?}");
    // Runs in which nothing happened prove nothing.
    assert!(seeds < 50 || total.acknowledged > 20 * seeds, "{total:?}");
    assert!(seeds < 50 || total.crashes > seeds && total.refused > 0, "{total:?}");
    assert!(seeds < 50 || total.backups > seeds / 2, "{total:?}");
    let followed = total.followed;
    assert!(seeds < 50 || followed.changes > 20 * seeds && followed.looks > 5 * seeds, "{total:?}");
    assert!(seeds < 50 || followed.kept > seeds && followed.late > 0, "{total:?}");
    assert!(seeds < 50 || total.moves > seeds && total.called.answered > 10 * seeds, "{total:?}");
}

#[test]
fn a_reader_of_each_shard_by_itself_is_found_out() {
    let found = (0..40).find_map(|seed| run(seed, Reading::Apart).err());
    let is_noticed = found.as_ref().is_some_and(|claim| claim.contains("all accounts hold"));
    assert!(is_noticed, "nobody noticed, but {found:?}");
}

#[test]
fn a_reader_of_each_shard_by_itself_sees_what_follows_without_its_cause_and_is_found_out() {
    let found = (0..40).find_map(|seed| run(seed, Reading::FollowsApart).err());
    let is_noticed = found
        .as_ref()
        .is_some_and(|claim| claim.contains("of row") || claim.contains("was counted"));
    assert!(is_noticed, "nobody noticed, but {found:?}");
}

#[test]
fn a_backup_of_each_shard_by_itself_is_found_out() {
    let found = (0..40).find_map(|seed| run(seed, Reading::BackedUpApart).err());
    let is_noticed = found.as_ref().is_some_and(|claim| claim.contains("a backup, restored"));
    assert!(is_noticed, "nobody noticed, but {found:?}");
}

#[test]
fn the_claims_hold_where_each_shard_is_on_some_nodes_only_and_replicas_move() {
    let (seeds, total) = sum_of(12, Reading::WithRoom);
    println!("{total:?}");
    assert!(seeds < 12 || total.acknowledged > 10 * seeds && total.reads > 5 * seeds, "{total:?}");
    assert!(seeds < 12 || total.crashes > seeds && total.replicas_moved > 4 * seeds, "{total:?}");
    assert!(seeds < 12 || total.retired > 2 * seeds, "{total:?}");
}
