//! The composed machine, held to the claims of `docs/testing.md`.

use proteus_shard_machine::Composed;
use proteus_sim::behaviour::{check, yields};
use proteus_sim::planted::{Bug, Buggy, plant};

#[test]
fn machines_keep_their_claims() {
    proteus_sim::seeds(12, check::<Composed>);
}

/// Commands that never commit prove nothing; neither do commands that never abort.
#[test]
fn random_commands_commit_and_abort_on_every_machine() {
    let mut counts = std::collections::BTreeMap::new();
    for seed in 0..4 {
        for (kind, count) in yields::<Composed>(seed).unwrap() {
            *counts.entry(kind).or_insert(0) += count;
        }
    }
    for machine in 1..=4 {
        for is_committed in [true, false] {
            let count = counts.get(&(machine, is_committed)).copied().unwrap_or(0);
            assert!(count >= 20, "machine {machine}, committed {is_committed}: {counts:?}");
        }
    }
}

fn found(bug: Bug) -> String {
    let reports = (0..5).find_map(|seed| {
        plant(bug);
        check::<Buggy>(seed).err()
    });
    reports.unwrap_or_else(|| panic!("nobody noticed that the machine {bug:?}"))
}

#[test]
fn what_an_abort_leaves_behind_is_found() {
    let claim = found(Bug::KeepsWhatAborted);
    assert!(claim.contains("an aborted commit left"), "{claim}");
    let entry_count = claim.matches("Entry {").count();
    assert!(entry_count <= 3, "a failure is cut down to what it needs: {claim}");
}

#[test]
fn a_machine_that_is_no_pure_function_is_found() {
    let claim = found(Bug::CountsItsOwnCalls);
    assert!(claim.contains("different bytes"), "{claim}");
}
