use proteus_shard_machine::Composed;

#[test]
fn probe() {
    for seed in 0..4 {
        println!("{:?}", proteus_sim::behaviour::yields::<Composed>(seed));
    }
    let t = std::time::Instant::now();
    for seed in 0..4 {
        if let Err(claim) = proteus_sim::behaviour::check::<Composed>(seed) {
            panic!("seed {seed}: {claim}");
        }
        println!("{:?}", t.elapsed());
    }
}
