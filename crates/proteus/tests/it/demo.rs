//! The main job, small: every face must tell the same story after kill -9.

use crate::node::command;

#[test]
fn the_demo_holds_its_invariants() {
    let output = command().args(["demo", "--events", "12000"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(said.contains("nothing lost, nothing counted twice"), "{said}");
}
