//! `proteus doctor`.

use std::path::Path;

use proteus_node::doctor::{Verdict, examine};

use crate::cli::print;

/// Examines a data directory and prints what was found.
///
/// # Errors
/// If it cannot be examined, or something is damaged.
pub fn run(directory: &Path) -> Result<(), String> {
    let findings = examine(directory).map_err(|error| error.to_string())?;
    let mut text = String::new();
    for finding in &findings {
        let verdict = match finding.verdict {
            Verdict::Whole => "whole",
            Verdict::Unfinished => "unfinished",
            Verdict::Damaged => "DAMAGED",
        };
        text.push_str(&format!("  {:<9} {verdict:<10} {}\n", finding.part, finding.what));
    }
    print(&text)?;
    let count = findings.iter().filter(|finding| finding.verdict == Verdict::Damaged).count();
    match count {
        0 => print("Nothing is damaged.\n"),
        _ => Err(format!("{} is damaged", directory.display())),
    }
}
