//! The rules for one Rust file: lengths, names, heads, unsafe code, nothing left unfinished.
//!
//! Each rule is one function from the file to its findings. Where a number stands here it is
//! the one of `CONTRIBUTING.md`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Finding;
use super::source::Source;

/// Lines of a file without its tests.
const FILE_LINES: usize = 600;
/// The same for a file whose head says why it is long: "Long because …".
const FILE_LINES_WITH_REASON: usize = 800;
/// Lines of a test module inside a file.
const TEST_LINES: usize = 100;
/// Lines of a function.
const FUNCTION_LINES: usize = 70;
/// Characters of a line.
const LINE_COLUMNS: usize = 100;
/// Lines of a module's head; a crate's head may be longer.
const HEAD_LINES: std::ops::RangeInclusive<usize> = 3..=10;
/// Drawers for everything.
const BANNED_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc"];
/// The crates that may hold unsafe code.
const UNSAFE_CRATES: &[&str] = &["crates/virtdisk-device", "crates/virtdisk-c"];
/// Lines above an unsafe block in which its reason must stand.
const REASON_WITHIN: usize = 8;

/// Checks one file, `file` being its path from the workspace's root.
pub(super) fn check(file: &Path, text: &str) -> Vec<Finding> {
    let source = Source::new(text);
    let mut found = Vec::new();
    let mut say = |line: usize, what: String| {
        found.push(Finding {
            file: PathBuf::from(file),
            line,
            what,
        });
    };
    names(file, &mut say);
    lines(&source, &mut say);
    unfinished(&source, &mut say);
    lengths(file, &source, &mut say);
    unsafe_code(file, &source, &mut say);
    if !in_tests(file) {
        head(file, &source, &mut say);
    }
    found
}

/// Files that no `mod` names are compiled by nobody.
pub(super) fn unreachable_files(root: &Path, files: &[PathBuf]) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for file in files
        .iter()
        .filter(|file| !is_root(file) && !in_tests(file))
    {
        let (name, parents) = module(file);
        let mut named = false;
        for parent in parents
            .iter()
            .map(|parent| root.join(parent))
            .filter(|p| p.is_file())
        {
            let text = std::fs::read_to_string(&parent)
                .with_context(|| format!("read {}", parent.display()))?;
            let wanted = format!("mod {name};");
            named |= Source::new(&text)
                .code
                .iter()
                .any(|line| line.trim_end().ends_with(&wanted));
        }
        if !named {
            let what = format!("no module names this file (`mod {name};`)");
            found.push(Finding {
                file: file.clone(),
                line: 0,
                what,
            });
        }
    }
    Ok(found)
}

/// A file's module name, and the files that could name it.
fn module(file: &Path) -> (String, Vec<PathBuf>) {
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().display().to_string();
    let mut folder = file.parent().unwrap_or(Path::new("")).to_path_buf();
    let mut name = text(file.file_stem());
    if name == "mod" {
        name = text(folder.file_name());
        folder.pop();
    }
    let beside = ["mod.rs", "lib.rs", "main.rs"].map(|parent| folder.join(parent));
    let above = folder.with_extension("rs");
    (name, beside.into_iter().chain([above]).collect())
}

fn is_root(file: &Path) -> bool {
    let folder = file.parent().and_then(Path::file_name).unwrap_or_default();
    file.ends_with("src/lib.rs")
        || file.ends_with("src/main.rs")
        || file.ends_with("build.rs")
        || folder == "bin"
}

fn in_tests(file: &Path) -> bool {
    let folders = ["tests", "benches", "examples", "fuzz"];
    file.iter()
        .any(|part| folders.iter().any(|folder| part == *folder))
}

fn names(file: &Path, say: &mut impl FnMut(usize, String)) {
    for part in file.with_extension("").iter() {
        if BANNED_NAMES.iter().any(|banned| part == *banned) {
            say(
                0,
                format!(
                    "`{}` says nothing: name the thing or the verb",
                    part.display()
                ),
            );
        }
    }
}

fn lines(source: &Source, say: &mut impl FnMut(usize, String)) {
    for (number, line) in source.lines.iter().enumerate() {
        let columns = line.chars().count();
        if columns > LINE_COLUMNS {
            say(
                number + 1,
                format!("line of {columns} columns, at most {LINE_COLUMNS}"),
            );
        }
    }
}

fn unfinished(source: &Source, say: &mut impl FnMut(usize, String)) {
    let unfinished = ["todo!(", "unimplemented!(", "#[ignore", "dbg!("];
    let marks = ["TODO", "FIXME", "XXX"].map(|mark| format!("{mark}:"));
    for (number, (code, line)) in source.code.iter().zip(&source.lines).enumerate() {
        for word in unfinished.iter().filter(|word| code.contains(**word)) {
            say(number + 1, format!("`{word}` is unfinished work"));
        }
        let comment = line.trim_start().starts_with("//") || line.contains(" // ");
        for mark in marks
            .iter()
            .filter(|mark| comment && line.contains(mark.as_str()))
        {
            say(number + 1, format!("`{mark}` belongs in an issue"));
        }
    }
}

fn lengths(file: &Path, source: &Source, say: &mut impl FnMut(usize, String)) {
    for (first, last) in source.functions() {
        let length = last - first + 1;
        if length > FUNCTION_LINES {
            say(
                first + 1,
                format!("function of {length} lines, at most {FUNCTION_LINES}"),
            );
        }
    }
    if in_tests(file) {
        return;
    }
    let mut length = source.lines.len();
    for (first, last) in source.test_modules() {
        let tests = last - first + 1;
        length -= tests;
        if tests > TEST_LINES {
            say(
                first + 1,
                format!("{tests} lines of tests, over {TEST_LINES} go to tests/"),
            );
        }
    }
    let reason = source
        .lines
        .iter()
        .take(12)
        .any(|line| line.starts_with("//!") && line.contains("Long because"));
    let limit = if reason {
        FILE_LINES_WITH_REASON
    } else {
        FILE_LINES
    };
    if length > limit {
        say(
            0,
            format!("file of {length} lines without tests, at most {limit}"),
        );
    }
}

fn unsafe_code(file: &Path, source: &Source, say: &mut impl FnMut(usize, String)) {
    let may = UNSAFE_CRATES.iter().any(|folder| file.starts_with(folder));
    let forbids = source
        .code
        .iter()
        .any(|line| line.trim() == "#![forbid(unsafe_code)]");
    if !may && is_root(file) && !file.ends_with("build.rs") && !forbids {
        say(
            1,
            "a crate root without `#![forbid(unsafe_code)]`".to_string(),
        );
    }
    for (number, line) in source.code.iter().enumerate() {
        let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        if !words.clone().any(|word| word == "unsafe") {
            continue;
        }
        if !may {
            say(
                number + 1,
                format!("unsafe code outside {}", UNSAFE_CRATES.join(" and ")),
            );
        }
        let block = line.contains("unsafe {") || line.contains("unsafe impl");
        let above = &source.lines[number.saturating_sub(REASON_WITHIN)..=number];
        if may && block && !above.iter().any(|line| line.contains("SAFETY:")) {
            say(
                number + 1,
                "an unsafe block without `// SAFETY:` above it".to_string(),
            );
        }
    }
}

fn head(file: &Path, source: &Source, say: &mut impl FnMut(usize, String)) {
    let length = source
        .lines
        .iter()
        .take_while(|line| line.starts_with("//!"))
        .count();
    let enough = if is_root(file) {
        length >= *HEAD_LINES.start()
    } else {
        HEAD_LINES.contains(&length)
    };
    if !enough {
        let (least, most) = (HEAD_LINES.start(), HEAD_LINES.end());
        say(
            1,
            format!("module head of {length} `//!` lines, wanted {least} to {most}"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "//! one\n//! two\n//! three\n";

    fn found(file: &str, text: &str) -> Vec<String> {
        check(Path::new(file), text)
            .into_iter()
            .map(|finding| finding.what)
            .collect()
    }

    /// The only finding of `text`, as a file of a crate without unsafe code.
    fn only(text: &str) -> String {
        let mut found = found("crates/vdisk/src/x.rs", &format!("{HEAD}{text}"));
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    #[test]
    fn a_tidy_file_has_no_findings() {
        let text = format!("{HEAD}fn f() {{\n    g(\"todo!() unsafe\");\n}}\n");
        assert!(found("crates/vdisk/src/x.rs", &text).is_empty());
    }

    #[test]
    fn long_things_are_found() {
        assert!(only(&format!("// {}\n", "x".repeat(98))).contains("columns"));
        let body = "    f();\n".repeat(FUNCTION_LINES - 1);
        assert!(only(&format!("fn f() {{\n{body}}}\n")).contains("function of 71 lines"));
        assert!(only(&"fn f() {}\n".repeat(FILE_LINES)).contains("file of 603 lines"));
    }

    #[test]
    fn a_reason_makes_a_file_longer_but_not_endless() {
        let head = format!("{HEAD}//! Long because it is a table.\n");
        let file = "crates/vdisk/src/x.rs";
        assert!(found(file, &format!("{head}{}", "fn f() {}\n".repeat(700))).is_empty());
        assert_eq!(
            found(file, &format!("{head}{}", "fn f() {}\n".repeat(800))).len(),
            1
        );
    }

    #[test]
    fn tests_do_not_lengthen_a_file_but_have_a_limit() {
        let code = "fn f() {}\n".repeat(FILE_LINES - 3);
        let tests = "    fn t() {}\n".repeat(TEST_LINES - 3);
        assert!(
            found(
                "crates/vdisk/src/x.rs",
                &format!("{HEAD}{code}#[cfg(test)]\nmod t {{\n{tests}}}\n")
            )
            .is_empty()
        );
        let tests = "    fn t() {}\n".repeat(TEST_LINES);
        assert!(only(&format!("#[cfg(test)]\nmod t {{\n{tests}}}\n")).contains("lines of tests"));
    }

    #[test]
    fn drawers_heads_and_unfinished_work_are_found() {
        assert_eq!(found("crates/vdisk/src/utils.rs", HEAD).len(), 1);
        assert_eq!(found("crates/vdisk/tests/common/mod.rs", "").len(), 1);
        assert_eq!(found("crates/vdisk/src/x.rs", "fn f() {}\n").len(), 1);
        assert!(only(&format!("fn f() {{\n    {}!()\n}}\n", "todo")).contains("unfinished"));
        assert!(only(&format!("#[{}]\nfn f() {{}}\n", "ignore")).contains("unfinished"));
        assert!(only(&format!("// {}: later\n", "TODO")).contains("issue"));
    }

    #[test]
    fn unsafe_code_is_found_where_it_may_not_be() {
        assert!(only("fn f() {\n    unsafe { g() }\n}\n").contains("outside"));
        assert_eq!(found("crates/vdisk/src/main.rs", HEAD).len(), 1);
        let bare = format!("{HEAD}fn f() {{\n    unsafe {{ g() }}\n}}\n");
        assert_eq!(found("crates/virtdisk-device/src/x.rs", &bare).len(), 1);
        let with = bare.replace("    unsafe", "    // SAFETY: g has no demands.\n    unsafe");
        assert!(found("crates/virtdisk-device/src/x.rs", &with).is_empty());
    }

    #[test]
    fn files_are_named_by_the_module_beside_them() {
        let (name, parents) = module(Path::new("crates/a/src/verb/open.rs"));
        assert_eq!(name, "open");
        assert!(parents.contains(&PathBuf::from("crates/a/src/verb/mod.rs")));
        assert!(parents.contains(&PathBuf::from("crates/a/src/verb.rs")));
        let (name, parents) = module(Path::new("crates/a/src/verb/mod.rs"));
        assert_eq!(name, "verb");
        assert!(parents.contains(&PathBuf::from("crates/a/src/main.rs")));
    }
}
