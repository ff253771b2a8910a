//! Procedures over the cache machine.

use super::Procedure;

pub(super) fn procedures() -> Vec<Box<dyn Procedure>> {
    Vec::new()
}
