//! Callers of single objects, and transactions, in a cluster in trouble, held to the claims of
//! `docs/testing.md`.

use proteus_shard_machine::Composed;
use proteus_sim::cluster::{Callers, Planted, run_with};
use proteus_sim::objects::Called;
use proteus_sim::transactions::Transacted;

#[test]
fn objects_are_linearizable_and_transactions_isolated_by_these_claims() {
    let total = parking_lot::Mutex::new((Called::default(), Transacted::default()));
    let seeds = proteus_sim::seeds(10, |seed| {
        let ran = run_with::<Composed>(seed, Planted::Nothing, Callers::Objects)?;
        let mut total = total.lock();
        total.0.answered += ran.called.answered;
        total.0.unanswered += ran.called.unanswered;
        total.0.undecided += ran.called.undecided;
        total.1.committed += ran.transacted.committed;
        total.1.conflicts += ran.transacted.conflicts;
        total.1.unknown += ran.transacted.unknown;
        total.1.snapshots += ran.transacted.snapshots;
        Ok(())
    });
    let total = total.into_inner();
    println!("{total:?}");
    // Runs in which nothing happened prove nothing, nor do histories that nobody looked at.
    if seeds >= 10 {
        assert!(total.0.answered > 50 * seeds && total.0.unanswered > 0, "{total:?}");
        assert!(total.0.undecided * 10 < seeds, "{total:?}");
        assert!(total.1.committed > 20 * seeds && total.1.conflicts > 0, "{total:?}");
    }
}

/// What the checkers say in the first of a few seeds that shows it.
fn found(planted: Planted) -> String {
    let run = |seed| run_with::<Composed>(seed, planted, Callers::Objects).err();
    (0..40).find_map(run).unwrap_or_else(|| panic!("nobody noticed {planted:?}"))
}

#[test]
fn write_skew_is_found() {
    let claim = found(Planted::WriteSkew);
    assert!(claim.contains("nobody is on duty"), "{claim}");
}

#[test]
fn disks_that_lie_about_flushing_are_found() {
    found(Planted::LyingDisks);
}
