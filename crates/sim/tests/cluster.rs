//! Several nodes in trouble, held to the claims of `docs/testing.md`.

use proteus_shard_machine::Composed;
use proteus_sim::cluster::{Callers, Planted, Summary, run, run_with, run_with_deviation};

#[test]
fn a_cluster_keeps_its_claims_in_trouble() {
    let total = parking_lot::Mutex::new(Summary::default());
    let seeds = proteus_sim::seeds(50, |seed| {
        let ran = run::<Composed>(seed, Planted::Nothing)?;
        let mut total = total.lock();
        total.acknowledged += ran.acknowledged;
        total.reads += ran.reads;
        total.unanswered += ran.unanswered;
        total.crashes += ran.crashes;
        total.cuts += ran.cuts;
        total.gaps += ran.gaps;
        total.terms += ran.terms;
        total.changes_asked += ran.changes_asked;
        total.changes_done += ran.changes_done;
        total.slow_disks += ran.slow_disks;
        total.flipped_bits += ran.flipped_bits;
        total.damaged += ran.damaged;
        total.traffic.sent += ran.traffic.sent;
        total.traffic.lost += ran.traffic.lost;
        total.traffic.repeated += ran.traffic.repeated;
        Ok(())
    });
    let total = total.into_inner();
    println!("{total:?}");
    // Runs in which nothing happened prove nothing.
    assert!(seeds < 50 || total.acknowledged as u64 > 50 * seeds, "{total:?}");
    assert!(seeds < 50 || total.crashes > seeds, "{total:?}");
    assert!(seeds < 50 || total.gaps > 0, "{total:?}");
    assert!(seeds < 50 || total.changes_done > seeds, "{total:?}");
}

#[test]
fn a_replica_that_computes_otherwise_is_taken_out_of_service_and_the_others_go_on() {
    let total = parking_lot::Mutex::new((0, 0));
    let seeds = proteus_sim::seeds(6, |seed| {
        let ran = run_with_deviation(seed)?;
        let mut total = total.lock();
        total.0 += ran.condemned;
        total.1 += ran.condemned_leading;
        Ok(())
    });
    let (condemned, leading) = total.into_inner();
    println!("{condemned} taken out of service, of which {leading} led");
    assert!(condemned >= seeds, "{condemned}");
    assert!(seeds < 6 || (leading > 0 && leading < condemned), "{leading} of {condemned}");
}

/// What the checkers say of a cluster with a bug, in the first of a few seeds that shows it.
fn found(planted: Planted) -> String {
    let report = (0..20).find_map(|seed| run::<Composed>(seed, planted).err());
    report.unwrap_or_else(|| panic!("nobody noticed {planted:?}"))
}

#[test]
fn reads_without_a_barrier_are_found() {
    let claim = found(Planted::UnguardedReads);
    assert!(claim.contains("does not show commit") || claim.contains("after another"), "{claim}");
}

#[test]
fn disks_that_lie_about_flushing_are_found() {
    found(Planted::LyingDisks);
}

#[test]
fn the_same_seed_is_the_same_run() {
    proteus_sim::seeds(2, |seed| {
        let twice = |what: &str, run: &dyn Fn() -> Result<Summary, String>| {
            let digests = (run()?.digest, run()?.digest);
            if digests.0 == digests.1 {
                Ok(())
            } else {
                Err(format!("two runs of seed {seed} {what} had the digests {digests:x?}"))
            }
        };
        twice("in trouble", &|| run::<Composed>(seed, Planted::Nothing))?;
        twice("with Kafka's clients", &|| {
            run_with::<Composed>(seed, Planted::Nothing, Callers::Kafka)
        })?;
        twice("with deviating replicas", &|| run_with_deviation(seed))
    });
}
