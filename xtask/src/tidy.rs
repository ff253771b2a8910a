//! Rules that can be checked, each with its remedy.

use std::fs;
use std::path::{Path, PathBuf};

/// A file longer than this holds two concepts, most likely.
const FILE_LINES_MAX: usize = 800;

/// What breaks a rule.
pub fn problems(root: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    crates_are_described(root, &mut problems);
    files_are_short(root, &mut problems);
    links_lead_somewhere(root, &mut problems);
    problems
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn folders(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("Cargo.toml").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Every crate has a sentence in ARCHITECTURE.md, and none is described that is not there.
fn crates_are_described(root: &Path, problems: &mut Vec<String>) {
    let architecture = read(&root.join("ARCHITECTURE.md"));
    let described: Vec<&str> = architecture
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let present = folders(&root.join("crates"));
    for name in &present {
        if !described.contains(&name.as_str()) {
            problems.push(format!("crates/{name} has no row in the code map of ARCHITECTURE.md"));
        }
    }
    for name in described {
        if !name.contains('/') && !present.iter().any(|present| present == name) {
            problems.push(format!("ARCHITECTURE.md describes `{name}`, which is no crate"));
        }
    }
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn files_are_short(root: &Path, problems: &mut Vec<String>) {
    let mut found = Vec::new();
    for directory in ["crates", "bench", "xtask"] {
        sources(&root.join(directory), &mut found);
    }
    for path in found {
        let lines = read(&path).lines().count();
        if lines > FILE_LINES_MAX {
            let path = path.strip_prefix(root).unwrap_or(&path).display();
            problems.push(format!(
                "{path} has {lines} lines; does it hold two concepts? (at most {FILE_LINES_MAX})"
            ));
        }
    }
}

/// Relative links of the documents point at files that exist.
fn links_lead_somewhere(root: &Path, problems: &mut Vec<String>) {
    let mut documents = Vec::new();
    collect_documents(root, &mut documents);
    for document in documents {
        let text = read(&document);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let base = document.parent().unwrap_or(root);
            if !base.join(target).exists() {
                let document = document.strip_prefix(root).unwrap_or(&document).display();
                problems.push(format!("{document} links to {target}, which is not there"));
            }
        }
    }
}

fn collect_documents(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != ".git" {
            collect_documents(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        let problems = problems(&crate::root());
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }
}
