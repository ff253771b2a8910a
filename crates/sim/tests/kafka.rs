//! Kafka's producers and consumers in a cluster in trouble, held to the claims of `docs/testing.md`.

use proteus_shard_machine::Composed;
use proteus_sim::cluster::{Callers, Planted, run_with};
use proteus_sim::producers::Produced;

#[test]
fn producers_and_consumers_keep_their_promises_in_trouble() {
    let total = parking_lot::Mutex::new(Produced::default());
    let seeds = proteus_sim::seeds(6, |seed| {
        let ran = run_with::<Composed>(seed, Planted::Nothing, Callers::Kafka)?.produced;
        let mut total = total.lock();
        total.acknowledged += ran.acknowledged;
        total.committed += ran.committed;
        total.aborted += ran.aborted;
        total.either += ran.either;
        total.repeated += ran.repeated;
        total.compacted += ran.compacted;
        total.consumed.consumed += ran.consumed.consumed;
        total.consumed.fenced += ran.consumed.fenced;
        total.consumed.settled += ran.consumed.settled;
        Ok(())
    });
    let total = total.into_inner();
    println!("{total:?}");
    // Runs in which nothing happened prove nothing.
    if seeds >= 6 {
        assert!(total.acknowledged > 30 * seeds, "{total:?}");
        assert!(total.committed > seeds && total.aborted > seeds, "{total:?}");
        assert!(total.repeated > 0 && total.compacted > 0, "{total:?}");
        let consumed = total.consumed;
        assert!(consumed.consumed > 10 * seeds && consumed.settled > 10 * seeds, "{total:?}");
        assert!(consumed.fenced > 0, "{total:?}");
    }
}

#[test]
fn disks_that_lie_about_flushing_are_found() {
    let run = |seed| run_with::<Composed>(seed, Planted::LyingDisks, Callers::Kafka);
    assert!((0..20).any(|seed| run(seed).is_err()), "nobody noticed");
}
