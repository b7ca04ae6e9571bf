//! `cargo xtask tidy`: the house rules that a compiler does not check.
//!
//! Reads every manifest and every Rust file of the workspace. Promises: each finding names file,
//! line and rule; a tree without findings is a tree that keeps the rules of `CONTRIBUTING.md`.
//! Assumes formatted sources (`cargo fmt --check` runs before it): a function ends at the brace
//! in its own column.

mod edges;
mod rules;
mod source;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::place;

/// One broken rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Path from the workspace's root.
    pub(crate) file: PathBuf,
    /// Line, from 1; 0 for the file as a whole.
    pub(crate) line: usize,
    /// What is wrong.
    pub(crate) what: String,
}

/// Checks the workspace, prints the findings; true when there are none.
pub(crate) fn run() -> Result<bool> {
    let root = place::workspace();
    let mut findings = edges::check(&root)?;
    let files = rust_files(&root)?;
    for file in &files {
        let text = std::fs::read_to_string(root.join(file))
            .with_context(|| format!("read {}", file.display()))?;
        findings.extend(rules::check(file, &text));
    }
    findings.extend(rules::unreachable_files(&root, &files)?);
    findings.sort();
    for finding in &findings {
        println!(
            "{}:{}: {}",
            finding.file.display(),
            finding.line,
            finding.what
        );
    }
    println!("tidy: {} files, {} findings", files.len(), findings.len());
    Ok(findings.is_empty())
}

/// Rust files below `crates` and `dev`, as paths from `root`, sorted.
fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("crates"), PathBuf::from("dev")];
    while let Some(folder) = folders.pop() {
        let entries = root.join(&folder).read_dir();
        for entry in entries.with_context(|| format!("read the folder {}", folder.display()))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                if entry.file_name() != "target" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_files_are_found() {
        let files = rust_files(&place::workspace()).unwrap();
        assert!(files.contains(&PathBuf::from("dev/xtask/src/tidy/mod.rs")));
        assert!(files.contains(&PathBuf::from("crates/vdisk/src/main.rs")));
    }
}
