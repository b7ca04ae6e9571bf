//! `vdisk convert`, `hash`, `diff` and `map`: without root and without the service.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
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
        &["convert", "d.vhd", "e.vhdx"],
        &["convert", "e.vhdx", "f.vhdx", "--sector-size", "4096"],
        &["convert", "f.vhdx", "g.vhdx", "--fixed"],
        &["convert", "g.vhdx", "h.img"],
    ] {
        assert_eq!(folder.good(step), "");
    }
    let same = std::fs::read(folder.0.path().join("a.raw")).unwrap();
    assert!(std::fs::read(folder.0.path().join("h.img")).unwrap() == same);
    let blocks = folder.0.path().join("h.img").metadata().unwrap().blocks();
    assert!(blocks * 512 < 1 << 20, "{blocks} sectors are not sparse");
    let names = folder.names();
    let words: Vec<&str> = ["hash"]
        .into_iter()
        .chain(names.iter().map(String::as_str))
        .collect();
    let hashes = folder.good(&words);
    let lines: Vec<&str> = hashes.lines().collect();
    assert_eq!(lines.len(), 8);
    assert!(lines[1].ends_with("  b.vhd"), "{hashes}");
    assert!(lines.iter().all(|line| line[..64] == lines[0][..64]));
    assert_eq!(folder.good(&["diff", "b.vhd", "h.img"]), "");
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
        if other {
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

/// A differencing image of the corpus, its parent in the folder `parents`.
const CHAINS: [(&str, &str); 4] = [
    ("fat-differential.vhd", "fat-parent.vhd"),
    ("ntfs-differential.vhd", "ntfs-parent.vhd"),
    ("fat-differential.vhdx", "fat-parent.vhdx"),
    ("ntfs-differential.vhdx", "ntfs-parent.vhdx"),
];

#[test]
fn a_chain_becomes_one_image_with_the_same_disk() {
    let names: Vec<&str> = CHAINS.iter().flat_map(|(a, b)| [*a, *b]).collect();
    let corpus = match corpus_of(&names) {
        Ok(corpus) => corpus,
        Err(reason) => skip!("{reason}"),
    };
    let folder = Folder::new();
    for (child, parent) in CHAINS {
        let (image, base) = (corpus.path(child), corpus.path(parent));
        let (image, base) = (image.to_str().unwrap(), base.to_str().unwrap());
        let whole = format!("whole-{child}");
        folder.good(&["convert", image, &whole]);
        let hash = folder.good(&["hash", &whole]);
        let wanted = SAMPLES.iter().find(|sample| sample.name == child).unwrap();
        assert_eq!(hash.split(' ').next(), Some(wanted.sha256), "{child}");
        assert_eq!(folder.good(&["diff", image, &whole]), "");
        let map: Value = serde_json::from_str(&folder.good(&["map", image, "--json"])).unwrap();
        assert_eq!(map["layers"][0], image);
        let of_layer = |layer: u64| {
            let extents = map["extents"].as_array().unwrap().iter();
            let data = extents.filter(|extent| extent["state"] == "data");
            data.filter(|extent| extent["layer"] == layer).count()
        };
        assert!(of_layer(0) > 0 && of_layer(1) > 0, "{map}");
        // What the child changed is in the child.
        let said = folder.run(&["diff", image, base, "--json"]);
        assert_eq!((said.code, said.err.as_str()), (1, ""));
        let ranges: Value = serde_json::from_str(&said.out).unwrap();
        for range in ranges.as_array().unwrap() {
            let (start, len) = (range["start"].as_u64(), range["length"].as_u64());
            let end = start.unwrap() + len.unwrap();
            let inside = |extent: &&Value| {
                let first = extent["start"].as_u64().unwrap();
                let last = first + extent["length"].as_u64().unwrap();
                first < end && last > start.unwrap()
            };
            let extents = map["extents"].as_array().unwrap().iter();
            let mut covering = extents.filter(inside);
            assert!(
                covering.all(|extent| extent["layer"] == 0),
                "{child} {range}"
            );
        }
    }
}

#[test]
fn a_parent_elsewhere_is_found_where_the_caller_says() {
    let names: Vec<&str> = CHAINS.iter().flat_map(|(a, b)| [*a, *b]).collect();
    let corpus = match corpus_of(&names) {
        Ok(corpus) => corpus,
        Err(reason) => skip!("{reason}"),
    };
    let folder = Folder::new();
    std::fs::create_dir(folder.0.path().join("parents")).unwrap();
    for (child, parent) in CHAINS {
        std::fs::copy(corpus.path(child), folder.0.path().join(child)).unwrap();
        let elsewhere = folder.0.path().join("parents").join(parent);
        std::fs::copy(corpus.path(parent), elsewhere).unwrap();
        // P-6: the error says where was looked and what the image says.
        let words = folder.bad(&["hash", child], "ERROR_VHD_PARENT_VHD_NOT_FOUND");
        assert!(words.contains(&format!("test_data\\{parent}")), "{words}");
        assert!(words.contains("--parent-map"), "{words}");
        let map = "C:\\Projects\\dfvfs\\test_data=parents";
        let by_map = folder.good(&["hash", child, "--parent-map", map]);
        let by_search = folder.good(&["hash", child, "--search", "parents"]);
        assert_eq!(by_map, by_search);
        let wanted = SAMPLES.iter().find(|sample| sample.name == child).unwrap();
        assert_eq!(by_map.split(' ').next(), Some(wanted.sha256));
        // P-1: the other parent of that name is another disk.
        let other = CHAINS.iter().find(|(other, _)| {
            *other != child && Path::new(other).extension() == Path::new(child).extension()
        });
        let (_, other) = other.unwrap();
        std::fs::copy(corpus.path(other), folder.0.path().join(parent)).unwrap();
        folder.bad(&["hash", child], "ERROR_VHD_CHILD_PARENT_ID_MISMATCH");
        std::fs::remove_file(folder.0.path().join(parent)).unwrap();
    }
}
