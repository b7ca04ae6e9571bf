//! `vdisk convert`, `hash`, `diff` and `map`: without root and without the service.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use virtdisk_disk::lock::{self, Level};
use virtdisk_testkit::corpus::{SAMPLES, corpus_of};
use virtdisk_testkit::skip;

use crate::house::{Said, said};

/// A folder to work in.
struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(TempDir::with_prefix("vdisk-test-").unwrap())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vdisk"));
        command.args(arguments).current_dir(self.0.path());
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        said(self.command(arguments).output().unwrap())
    }

    #[track_caller]
    fn good(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert_eq!(said.code, 0, "vdisk {}: {}", arguments.join(" "), said.err);
        assert_eq!(said.err, "");
        said.out
    }

    #[track_caller]
    fn bad(&self, arguments: &[&str], name: &str) -> String {
        let said = self.run(arguments);
        assert_eq!(said.code, 1, "vdisk {}: {said:?}", arguments.join(" "));
        assert_eq!(said.out, "");
        assert!(said.err.starts_with("error: "), "{}", said.err);
        assert!(said.err.contains(name), "{name} wanted: {}", said.err);
        said.err
    }

    /// A raw image of 8 MiB with data at its third megabyte and at its end.
    fn raw(&self, name: &str) -> File {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.0.path().join(name))
            .unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(&[7; 70_000], 3 << 20).unwrap();
        file.write_all_at(b"end", (8 << 20) - 3).unwrap();
        file
    }

    /// Names of all that is there, sorted.
    fn names(&self) -> Vec<String> {
        let entries = self.0.path().read_dir().unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn a_disk_goes_through_the_formats_and_comes_back() {
    let folder = Folder::new();
    folder.raw("a.raw");
    for step in [
        ["convert", "a.raw", "b.vhd"].as_slice(),
        &["convert", "b.vhd", "c.vhd", "--fixed"],
        &["convert", "c.vhd", "d.vhd", "--block-size", "512K"],
        &["convert", "d.vhd", "e.img"],
    ] {
        assert_eq!(folder.good(step), "");
    }
    let same = std::fs::read(folder.0.path().join("a.raw")).unwrap();
    assert!(std::fs::read(folder.0.path().join("e.img")).unwrap() == same);
    let blocks = folder.0.path().join("e.img").metadata().unwrap().blocks();
    assert!(blocks * 512 < 1 << 20, "{blocks} sectors are not sparse");
    let hashes = folder.good(&["hash", "a.raw", "b.vhd", "c.vhd", "d.vhd", "e.img"]);
    let lines: Vec<&str> = hashes.lines().collect();
    assert_eq!(lines.len(), 5);
    assert!(lines[1].ends_with("  b.vhd"), "{hashes}");
    assert!(lines.iter().all(|line| line[..64] == lines[0][..64]));
    assert_eq!(folder.good(&["diff", "b.vhd", "e.img"]), "");
    assert_eq!(folder.names().len(), 5);
}

#[test]
fn a_stream_on_standard_output_is_the_raw_disk() {
    let folder = Folder::new();
    folder.raw("a.raw");
    folder.good(&["convert", "a.raw", "b.vhd"]);
    let streamed = folder.command(&["convert", "b.vhd", "-"]).output().unwrap();
    assert_eq!(streamed.status.code(), Some(0));
    let wanted = std::fs::read(folder.0.path().join("a.raw")).unwrap();
    assert!(streamed.stdout == wanted);
    folder.bad(&["convert", "b.vhd", "-", "--format", "vhd"], "raw");
}

#[test]
fn a_reader_that_goes_away_ends_the_stream_without_a_word() {
    let folder = Folder::new();
    folder.raw("a.raw").set_len(64 << 20).unwrap();
    let mut command = folder.command(&["convert", "a.raw", "-"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let said = said(child.wait_with_output().unwrap());
    assert_eq!((said.code, said.err.as_str()), (0, ""));
}

#[test]
fn nothing_is_overwritten_and_a_failure_leaves_nothing() {
    let folder = Folder::new();
    folder.raw("a.raw");
    std::fs::write(folder.0.path().join("b.vhd"), "precious").unwrap();
    folder.bad(&["convert", "a.raw", "b.vhd"], "ERROR_FILE_EXISTS (80)");
    folder.bad(&["convert", "a.raw", "a.raw"], "ERROR_FILE_EXISTS (80)");
    let precious = std::fs::read(folder.0.path().join("b.vhd")).unwrap();
    assert_eq!(precious, b"precious");
    folder.bad(&["convert", "no.raw", "c.vhd"], "ERROR_FILE_NOT_FOUND (2)");
    folder.bad(
        &["convert", "a.raw", "c.vhd", "--block-size", "3M"],
        "ERROR_VHD_INVALID_BLOCK_SIZE",
    );
    folder.bad(&["convert", "a.raw", "c.bin"], "names no format");
    folder.bad(&["convert", "a.raw", "no/c.vhd"], "ERROR_FILE_NOT_FOUND");
    assert_eq!(folder.names(), ["a.raw", "b.vhd"]);
}

#[test]
fn an_interrupted_conversion_leaves_nothing() {
    let folder = Folder::new();
    let file = folder.raw("a.raw");
    file.set_len(256 << 20).unwrap();
    let dense = vec![1; 1 << 20];
    for megabyte in 0..256 {
        file.write_all_at(&dense, megabyte << 20).unwrap();
    }
    let mut child = folder
        .command(&["convert", "a.raw", "b.vhd"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // As soon as it has begun; one that is quicker than us was not interrupted.
    while folder.names().len() == 1 && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    let process = rustix::process::Pid::from_child(&child);
    // One that has ended already is gone.
    let _ = rustix::process::kill_process(process, rustix::process::Signal::INT);
    let said = said(child.wait_with_output().unwrap());
    if said.code == 0 {
        assert_eq!(folder.names(), ["a.raw", "b.vhd"]);
    } else {
        assert!(said.err.contains("ERROR_OPERATION_ABORTED"), "{said:?}");
        assert_eq!(folder.names(), ["a.raw"]);
    }
}

#[test]
fn an_image_that_somebody_writes_to_is_not_read() {
    let folder = Folder::new();
    let writer = folder.raw("a.raw");
    lock::acquire(&writer, Level::Write).unwrap();
    for verb in [
        ["hash", "a.raw"].as_slice(),
        &["map", "a.raw"],
        &["convert", "a.raw", "b.vhd"],
        &["diff", "a.raw", "a.raw"],
    ] {
        folder.bad(verb, "ERROR_SHARING_VIOLATION (32)");
    }
    lock::change(&writer, Level::Write, Level::Read).unwrap();
    folder.good(&["hash", "a.raw"]);
}

#[test]
fn what_is_no_regular_file_is_no_image() {
    let folder = Folder::new();
    let fifo = folder.0.path().join("fifo.vhd");
    Command::new("mkfifo").arg(&fifo).status().unwrap();
    folder.bad(&["hash", "fifo.vhd"], "ERROR_VIRTDISK_NOT_VIRTUAL_DISK");
    folder.bad(&["hash", "."], "ERROR_ACCESS_DENIED (5)");
}

#[test]
fn differences_are_ranges_and_an_exit_code() {
    let folder = Folder::new();
    folder.raw("a.raw");
    let other = folder.raw("b.raw");
    assert_eq!(folder.good(&["diff", "a.raw", "b.raw", "--json"]), "[]\n");
    other.write_all_at(b"x", 5000).unwrap();
    other.write_all_at(&[0; 512], 3 << 20).unwrap();
    folder.good(&["convert", "a.raw", "a.vhd"]);
    let said = folder.run(&["diff", "a.vhd", "b.raw"]);
    assert_eq!((said.code, said.err.as_str()), (1, ""));
    assert_eq!(said.out, "4608 512\n3145728 512\n");
    let said = folder.run(&["diff", "a.vhd", "b.raw", "--json"]);
    let found: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(found[1]["start"], 3 << 20);
    assert_eq!(found[1]["length"], 512);
}

#[test]
fn a_map_covers_the_disk() {
    let folder = Folder::new();
    folder.raw("a.raw");
    folder.good(&["convert", "a.raw", "b.vhd"]);
    let map: Value = serde_json::from_str(&folder.good(&["map", "b.vhd", "--json"])).unwrap();
    assert_eq!(map["virtual_size"], 8 << 20);
    assert_eq!(map["layers"].as_array().unwrap().len(), 1);
    let mut at = 0;
    let mut data = 0;
    for extent in map["extents"].as_array().unwrap() {
        assert_eq!(extent["start"], at);
        at += extent["length"].as_u64().unwrap();
        if extent["state"] == "data" {
            data += extent["length"].as_u64().unwrap();
            assert!(extent["file_offset"].is_u64());
        } else {
            assert!(extent["file_offset"].is_null());
        }
    }
    assert_eq!((at, data), (8 << 20, 4 << 20));
    let text = folder.good(&["map", "b.vhd"]);
    assert!(text.starts_with("  START   LENGTH  STATE"), "{text}");
    assert!(text.contains("      0  2097152  zero"), "{text}");
    assert!(!text.contains('█'), "{text}");
}

#[test]
fn hashes_of_the_corpus_are_those_of_its_table() {
    let names: Vec<&str> = SAMPLES.iter().map(|sample| sample.name).collect();
    let corpus = match corpus_of(&names) {
        Ok(corpus) => corpus,
        Err(reason) => skip!("{reason}"),
    };
    let folder = Folder::new();
    for sample in SAMPLES {
        // An ISO's hash in the table is the file's, which is shorter than the disk; the largest
        // disks take too long without optimisation and are hashed elsewhere.
        let other = sample.name.ends_with(".iso") || sample.virtual_size > 2 << 30;
        if other || !sample.name.ends_with(".vhd") || sample.name.contains("differential") {
            continue;
        }
        let path = corpus.path(sample.name);
        let said = folder.run(&["hash", path.to_str().unwrap()]);
        assert_eq!(said.code, 0, "{}: {}", sample.name, said.err);
        assert_eq!(
            said.out.split(' ').next(),
            Some(sample.sha256),
            "{}",
            sample.name
        );
    }
}
