//! The words of the command: help, completions, man pages, and what is no valid command line.
//!
//! Needs no root and no service.

use assert_cmd::Command;

use crate::house::{Said, said};

const VERBS: &[&str] = &[
    "create",
    "info",
    "check",
    "attach",
    "detach",
    "list",
    "with",
    "convert",
    "hash",
    "diff",
    "map",
    "completions",
    "man",
];

fn vdisk(arguments: &[&str]) -> Said {
    said(
        Command::new(env!("CARGO_BIN_EXE_vdisk"))
            .args(arguments)
            .output()
            .unwrap(),
    )
}

#[test]
fn help_of_every_verb_has_examples() {
    for verb in VERBS {
        for words in [
            vec![*verb, "--help"],
            vec!["help", *verb],
            vec![*verb, "-h"],
        ] {
            let help = vdisk(&words);
            assert_eq!(help.code, 0, "{help:?}");
            assert!(help.out.contains("Example"), "{}", help.out);
            assert!(
                help.out.contains(&format!("  vdisk {verb} ")),
                "{}",
                help.out
            );
        }
    }
}

#[test]
fn help_has_no_colours_when_it_goes_to_a_pipe() {
    assert!(!vdisk(&["--help"]).out.contains('\u{1b}'));
    assert!(!vdisk(&["info", "/no/such/file.vhd"]).err.contains('\u{1b}'));
}

#[test]
fn wrong_usage_exits_with_2_and_prints_nothing_on_stdout() {
    let wrong: &[&[&str]] = &[
        &[],
        &["frobnicate"],
        &["create", "a.vhd"],
        &["create", "a.vhd", "--size", "10GB"],
        &["create", "a.vhd", "--size", "-1"],
        &["create", "a.vhd", "--size", "20000000T"],
        &[
            "create",
            "a.vhd",
            "--size",
            "1G",
            "--fixed",
            "--block-size",
            "2M",
        ],
        &["info"],
        &["attach"],
        &["attach", "a.vhd", "--create", "1G", "--read-only"],
        &["detach"],
        &["detach", "a.vhd", "--all"],
        &["detach", "a.vhd", "--wait", "tomorrow"],
        &["detach", "a.vhd", "--wait", "1s", "--when-free"],
        &["list", "a.vhd"],
        &["with", "a.vhd"],
        &["with", "a.vhd", "true"],
        &["create", "a.vhd", "--size", "1G", "--parent", "b.vhd"],
        &["create", "a.vhd", "--fixed", "--parent", "b.vhd"],
        &["convert", "a.vhd"],
        &["convert", "a.vhd", "b.vhd", "--format", "qcow2"],
        &["convert", "a.vhd", "b.vhd", "--fixed", "--block-size", "1M"],
        &["convert", "a.vhd", "b.vhd", "--parent-map", "C:"],
        &["hash"],
        &["diff", "a.vhd"],
        &["map"],
        &["completions", "cmd.exe"],
        &["man"],
    ];
    for words in wrong {
        let said = vdisk(words);
        assert_eq!(said.code, 2, "vdisk {}: {said:?}", words.join(" "));
        assert_eq!(said.out, "", "vdisk {}", words.join(" "));
        assert!(!said.err.is_empty());
    }
}

#[test]
fn a_missing_image_is_one_sentence_with_the_codes_name() {
    let said = vdisk(&["info", "/no/such/file.vhd"]);
    assert_eq!(said.code, 1);
    assert_eq!(said.out, "");
    let first = said.err.lines().next().unwrap();
    assert!(
        first.starts_with("error: ") && first.contains("/no/such/file.vhd"),
        "{first}"
    );
    assert!(first.ends_with("ERROR_PATH_NOT_FOUND (3)"), "{first}");
    let said = vdisk(&["attach", "/no-such-file.vhd"]);
    assert!(
        said.err.contains("ERROR_FILE_NOT_FOUND (2)"),
        "{}",
        said.err
    );
}

#[test]
fn a_directory_and_a_windows_path_are_no_images() {
    assert!(
        vdisk(&["info", "/tmp"])
            .err
            .contains("ERROR_ACCESS_DENIED (5)")
    );
    assert!(
        vdisk(&["info", "C:\\disk.vhd"])
            .err
            .contains("ERROR_INVALID_NAME (123)")
    );
}

#[test]
fn completions_know_every_verb() {
    for shell in ["bash", "zsh", "fish"] {
        let script = vdisk(&["completions", shell]);
        assert_eq!(script.code, 0);
        for verb in VERBS {
            assert!(script.out.contains(verb), "{shell} does not know {verb}");
        }
        assert!(script.out.contains("when-free"), "{shell}");
    }
}

#[test]
fn bash_takes_its_completions() {
    let script = vdisk(&["completions", "bash"]).out;
    let bash = Command::new("bash")
        .args(["--norc", "-n"])
        .write_stdin(script)
        .output()
        .unwrap();
    assert!(
        bash.status.success(),
        "{}",
        String::from_utf8_lossy(&bash.stderr)
    );
}

#[test]
fn there_is_a_man_page_for_every_verb() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(vdisk(&["man", folder.path().to_str().unwrap()]).code, 0);
    let page = std::fs::read_to_string(folder.path().join("vdisk.1")).unwrap();
    assert!(page.contains(".TH"), "{page}");
    for verb in VERBS {
        let page = folder.path().join(format!("vdisk-{verb}.1"));
        let page = std::fs::read_to_string(page).unwrap();
        assert!(page.contains("Example"), "{page}");
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), VERBS.len() + 1);
}

#[test]
fn man_pages_that_can_not_be_written_are_an_error() {
    let said = vdisk(&["man", "/no/such/place"]);
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert!(said.err.contains("/no/such/place"), "{}", said.err);
}
