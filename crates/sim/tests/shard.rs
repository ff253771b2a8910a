//! The real shard on a failing disk, held to the claims of `docs/testing.md`.

use proteus_shard_machine::Composed;
use proteus_sim::planted::{Bug, Buggy, plant};
use proteus_sim::shard::{DiskHonesty, Summary, run};

#[test]
fn the_shard_keeps_its_claims_on_a_failing_disk() {
    let total = parking_lot::Mutex::new(Summary::default());
    let seeds = proteus_sim::seeds(50, |seed| {
        let ran = run::<Composed>(seed, DiskHonesty::Honest)?;
        let mut total = total.lock();
        total.acknowledged += ran.acknowledged;
        total.replays += ran.replays;
        total.power_cuts += ran.power_cuts;
        total.disk_full += ran.disk_full;
        Ok(())
    });
    let total = total.into_inner();
    println!("{total:?}");
    // Runs in which nothing happened prove nothing.
    assert!(seeds < 50 || total.acknowledged as u64 > 20 * seeds, "{total:?}");
    assert!(seeds < 50 || total.replays > seeds / 2, "{total:?}");
    assert!(seeds < 50 || total.power_cuts > seeds / 4, "{total:?}");
    assert!(seeds < 50 || total.disk_full > 0, "{total:?}");
}

/// What the checkers say of a shard with a bug, in the first of a few seeds that shows it.
fn found(what: &str, attempt: impl Fn(u64) -> Result<Summary, String>) -> String {
    let report = (0..12).find_map(|seed| attempt(seed).err());
    report.unwrap_or_else(|| panic!("nobody noticed {what}"))
}

#[test]
fn a_disk_that_lies_about_flushing_is_found() {
    // Which claim breaks first depends on what else was under way; with an honest disk the same
    // seeds break none.
    found("a lying disk", |seed| run::<Composed>(seed, DiskHonesty::Lying));
}

#[test]
fn a_commit_passed_over_at_replay_is_found() {
    let claim = found("a commit passed over", |seed| {
        plant(Bug::SkipsOneAtReplay);
        run::<Buggy>(seed, DiskHonesty::Honest)
    });
    // The commit passed over may be one that must abort, and is said to have committed.
    let is_report =
        ["was lost", "no beginning", "before the feed announced it", "committed what must abort"];
    assert!(is_report.iter().any(|words| claim.contains(words)), "{claim}");
}

#[test]
fn a_commit_applied_twice_at_replay_is_found() {
    let claim = found("a commit applied twice", |seed| {
        plant(Bug::RepeatsOneAtReplay);
        run::<Buggy>(seed, DiskHonesty::Honest)
    });
    assert!(claim.contains("applied twice"), "{claim}");
}
