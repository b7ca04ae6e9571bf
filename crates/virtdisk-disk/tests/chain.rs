//! Chains of real files: what is taken as a parent, what is rejected, and what the errors say.
#![allow(clippy::unwrap_used, reason = "the set-up of a test")]

mod family;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use family::{Found, Shape, bytes_of, file, open, options, quick_folder};
use virtdisk_disk::{Candidate, Disk, Error, ErrorKind, Format, Kind, Need, Result};
use virtdisk_parent::Policy;
use virtdisk_testkit::conformance::{self, must_agree};
use virtdisk_testkit::corpus::{SAMPLES, corpus, sha256_of};
use virtdisk_testkit::vhd_builder::VhdBuilder;
use virtdisk_testkit::{Rng, SectorModel, skip};

const MIB: u64 = 1 << 20;

const BASE: Shape = Shape {
    format: Format::Vhd,
    kind: Kind::Dynamic,
    size: 4 * MIB,
    block: 64 << 10,
    sector: 0,
};
const CHILD: Shape = Shape {
    kind: Kind::Differencing,
    ..BASE
};

/// A base and a child of it in a folder.
fn pair(folder: &Path) -> (PathBuf, PathBuf) {
    let (base, child) = (folder.join("base.vhd"), folder.join("child.vhd"));
    BASE.create(&base, None);
    CHILD.create_child(&child, &base);
    (base, child)
}

/// Opens a child and offers these files, one after the other, for every layer.
fn offered(child: &Path, files: &[&Path]) -> Result<Disk> {
    let mut gate = |need: &Need<'_>| {
        let next = files.get(need.rejected.len());
        Ok(next.map(|path| Candidate {
            file: file(path, false),
            name: path.file_name().unwrap().to_string_lossy().into_owned(),
        }))
    };
    Disk::open_with(file(child, false), "child.vhd", &options(false), &mut gate)
}

fn failure(answer: Result<Disk>) -> Error {
    match answer {
        Ok(disk) => unwanted(&disk),
        Err(error) => error,
    }
}

#[allow(clippy::panic)]
fn unwanted(disk: &Disk) -> ! {
    panic!("{} opened", disk.name())
}

/// A differencing VHD whose own id and parent's id are these.
fn related(path: &Path, id: u8, parent: u8) {
    let mut builder = VhdBuilder::differencing(MIB, 64 << 10, [parent; 16]);
    builder.footer.unique_id = [id; 16];
    builder.copy = Some(builder.footer.clone());
    fs::write(path, builder.build().to_vec()).unwrap();
}

#[test]
fn differencing_images_of_the_corpus_read_as_their_hashes_say() {
    // P-1, P-2, V-8, V-9: as Windows wrote them, with their parents beside them
    let corpus = match corpus() {
        Ok(corpus) => corpus,
        Err(reason) => skip!("{reason}"),
    };
    let before = bytes_of(&[
        corpus.path("fat-parent.vhd"),
        corpus.path("ntfs-parent.vhd"),
    ]);
    let mut read = 0;
    let all = SAMPLES
        .iter()
        .filter(|sample| sample.name.contains("differential"));
    for sample in all {
        let writable = sample.name.ends_with(".vhd");
        let disk = open(&corpus.path(sample.name), writable).unwrap();
        let hash = sha256_of(sample.virtual_size, |buf, offset| disk.read_at(buf, offset));
        assert_eq!(hash.unwrap(), sample.sha256, "{}", sample.name);
        let extents = disk.extents(0, sample.virtual_size).unwrap();
        for layer in [0, 1] {
            assert!(
                extents.iter().any(|extent| extent.layer == layer),
                "{}",
                sample.name
            );
        }
        assert_eq!(disk.layers().len(), 2);
        disk.validate().unwrap();
        disk.close().unwrap();
        read += 1;
    }
    assert_eq!(read, 4);
    let after = bytes_of(&[
        corpus.path("fat-parent.vhd"),
        corpus.path("ntfs-parent.vhd"),
    ]);
    assert!(before == after, "a parent was written to");
}

#[test]
fn a_chain_agrees_with_the_model_through_closes_and_kills() {
    // P-7, P-10: children larger and smaller than their parents, blocks of other sizes (V-19)
    let mut rng = Rng::announced("a_chain_agrees_with_the_model_through_closes_and_kills");
    let folder = quick_folder();
    let base = folder.path().join("0.vhd");
    BASE.create(&base, None);
    let mut model = SectorModel::new(BASE.size);
    let disk = open(&base, true).unwrap();
    conformance::random_verbs(&disk, &mut model, &mut rng, 60);
    disk.close().unwrap();
    let mut paths = vec![base];
    for (number, (size, block)) in [
        (6 * MIB, 4096),
        (3 * MIB + 512, 2 << 20),
        (5 * MIB, 512),
        (4 * MIB, 64 << 10),
    ]
    .into_iter()
    .enumerate()
    {
        let child = folder.path().join(format!("{}.vhd", number + 1));
        let shape = Shape {
            size,
            block,
            ..CHILD
        };
        shape.create_child(&child, paths.last().unwrap());
        let mut wider = SectorModel::new(size);
        wider.write(&model.read(0, size.min(model.size())), 0);
        model = wider;
        let before = bytes_of(&paths);
        for session in 0..3 {
            let disk = open(&child, true).unwrap();
            must_agree(&disk, &model);
            conformance::random_verbs(&disk, &mut model, &mut rng, 40);
            disk.validate().unwrap();
            assert_eq!(disk.layers().len(), number + 2);
            // Every second session ends like a killed process.
            if session % 2 == 0 {
                disk.close().unwrap();
            }
        }
        assert!(bytes_of(&paths) == before, "a parent was written to");
        paths.push(child);
    }
}

#[test]
fn a_child_conforms_over_a_real_parent() {
    let mut rng = Rng::announced("a_child_conforms_over_a_real_parent");
    let folder = quick_folder();
    let (base, child) = pair(folder.path());
    let disk = open(&base, true).unwrap();
    disk.write_at(&rng.bytes(3 * MIB as usize), 0).unwrap();
    disk.close().unwrap();
    let disk = open(&child, true).unwrap();
    conformance::run(&disk, &mut rng);
    disk.validate().unwrap();
    disk.close().unwrap();
}

#[test]
fn the_first_candidate_of_the_right_identity_is_taken() {
    // P-1, P-2: another image of that name, no image at all, then the right one
    let folder = quick_folder();
    let (base, child) = pair(folder.path());
    let other = folder.path().join("other.vhd");
    BASE.create(&other, None);
    let junk = folder.path().join("junk.vhd");
    fs::write(&junk, vec![0x5A; 1 << 20]).unwrap();
    let disk = offered(&child, &[&other, &junk, &child, &base, &other]).unwrap();
    let names: Vec<String> = disk.layers().into_iter().map(|layer| layer.name).collect();
    assert_eq!(names, ["child.vhd", "base.vhd"]);
    assert!(!disk.lacks_parent() && disk.direct().is_none());
}

#[test]
fn the_gate_hears_why_each_candidate_was_rejected() {
    let folder = quick_folder();
    let (base, child) = pair(folder.path());
    let grandchild = folder.path().join("grandchild.vhd");
    CHILD.create_child(&grandchild, &child);
    let sub = folder.path().join("sub");
    fs::create_dir(&sub).unwrap();
    // Beside the child lies another disk of that name; the right one is where the map says.
    fs::rename(&base, sub.join("base.vhd")).unwrap();
    BASE.create(&base, None);
    let policy = Policy {
        map: vec![(r"C:\vm".into(), sub)],
        ..Policy::default()
    };
    let mut gate = Found::new(&grandchild, policy);
    let name = grandchild.to_string_lossy();
    let disk = Disk::open_with(file(&grandchild, true), &name, &options(true), &mut gate);
    assert_eq!(disk.unwrap().layers().len(), 3);
    let asked: Vec<(u32, usize)> = gate
        .asked
        .iter()
        .map(|(_, depth, rejected)| (*depth, rejected.len()))
        .collect();
    assert_eq!(asked, [(1, 0), (2, 0), (2, 1)]);
    assert!(gate.asked[0].0.ends_with("grandchild.vhd"));
    assert!(gate.asked[1].0.ends_with("child.vhd"));
    let rejected = &gate.asked[2].2[0];
    assert_eq!(rejected.kind, ErrorKind::ParentMismatch);
    assert!(
        rejected.reason.starts_with("the image is another one"),
        "{rejected:?}"
    );
}

#[test]
fn a_missing_parent_fails_the_opening_and_names_everything() {
    // P-6, V-8
    let folder = quick_folder();
    let (base, child) = pair(folder.path());
    let junk = folder.path().join("junk\u{1b}.vhd");
    fs::write(&junk, vec![0x5A; 1 << 20]).unwrap();
    let other = folder.path().join("other.vhd");
    BASE.create(&other, None);
    let error = failure(offered(&child, &[&junk, &other]));
    assert_eq!(
        (error.kind(), error.file()),
        (ErrorKind::ParentMissing, "child.vhd")
    );
    let id = Disk::open(file(&base, false), "base", &options(false)).unwrap();
    let id = id.facts().content_id.to_string();
    let text = error.to_string();
    for part in [
        r"junk\u{1b}.vhd (",
        "other.vhd (",
        r"C:\vm\base.vhd",
        r".\base.vhd",
        &id,
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    // Only other disks: that is a mismatch.
    let error = failure(offered(&child, &[&other]));
    assert_eq!(error.kind(), ErrorKind::ParentMismatch);
    // No candidate, and the shut gate.
    let error = failure(offered(&child, &[]));
    assert_eq!(error.kind(), ErrorKind::ParentMissing);
    let error = failure(Disk::open(
        file(&child, false),
        "child.vhd",
        &options(false),
    ));
    assert_eq!(error.kind(), ErrorKind::ParentMissing);
    assert!(error.to_string().contains("tried nothing"), "{error}");
}

#[test]
fn a_child_opens_alone_to_look_at_it() {
    let folder = quick_folder();
    let (base, child) = pair(folder.path());
    fs::remove_file(base).unwrap();
    let disk = Disk::open_alone(file(&child, true), "child.vhd", &options(true)).unwrap();
    assert!(disk.lacks_parent() && disk.facts().parent.is_some());
    disk.write_at(&[7; 512], 512).unwrap();
    let mut bytes = [0; 1024];
    let error = disk.read_at(&mut bytes, 512).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ParentMissing);
    disk.read_at(&mut bytes[..512], 512).unwrap();
    assert_eq!(bytes[..512], [7; 512]);
    disk.close().unwrap();
}

#[test]
fn what_the_gate_says_ends_the_opening() {
    let folder = quick_folder();
    let (_, child) = pair(folder.path());
    let mut gate = |_: &Need<'_>| -> Result<Option<Candidate>> {
        Err(Error::about(
            "x.vhd",
            ErrorKind::Io,
            "parent",
            "may not be read",
        ))
    };
    let answer = Disk::open_with(file(&child, false), "c", &options(false), &mut gate);
    let error = failure(answer);
    assert_eq!((error.kind(), error.file()), (ErrorKind::Io, "x.vhd"));
}

#[test]
fn a_gate_without_end_is_given_up() {
    let folder = quick_folder();
    let (_, child) = pair(folder.path());
    let other = folder.path().join("other.vhd");
    BASE.create(&other, None);
    let mut calls = 0;
    let mut gate = |_: &Need<'_>| {
        calls += 1;
        let file = file(&other, false);
        let name = "other.vhd".to_owned();
        Ok(Some(Candidate { file, name }))
    };
    let answer = Disk::open_with(file(&child, false), "c", &options(false), &mut gate);
    let error = failure(answer);
    assert_eq!(error.kind(), ErrorKind::ParentMismatch);
    assert!(error.to_string().contains(" and 960 more; "), "{error}");
    assert_eq!(calls, 1024);
}

#[test]
fn a_chain_that_comes_back_to_itself_is_refused() {
    // P-5, S-13: its own parent; two files that point at each other; a copy in the chain
    let folder = quick_folder();
    let path = |name: &str| folder.path().join(name);
    related(&path("self.vhd"), 1, 1);
    let error = failure(offered(&path("self.vhd"), &[&path("self.vhd")]));
    assert_eq!(error.kind(), ErrorKind::ChainCycle, "{error}");
    related(&path("a.vhd"), 1, 2);
    related(&path("b.vhd"), 2, 1);
    fs::hard_link(path("a.vhd"), path("link.vhd")).unwrap();
    fs::copy(path("a.vhd"), path("copy.vhd")).unwrap();
    for last in ["a.vhd", "link.vhd", "copy.vhd"] {
        let mut gate = |need: &Need<'_>| {
            let name = if need.depth == 1 { "b.vhd" } else { last };
            let file = file(&path(name), false);
            let more = need.rejected.is_empty();
            let name = name.to_owned();
            Ok(more.then_some(Candidate { file, name }))
        };
        let file = file(&path("a.vhd"), false);
        let answer = Disk::open_with(file, "a.vhd", &options(false), &mut gate);
        let error = failure(answer);
        assert_eq!(error.kind(), ErrorKind::ChainCycle, "{error}");
        assert!(
            error.to_string().contains("comes back to itself"),
            "{error}"
        );
    }
}

#[test]
fn a_chain_is_at_most_250_layers_long() {
    // P-5
    let folder = quick_folder();
    let path = |number: usize| folder.path().join(format!("{number}.vhd"));
    let small = Shape {
        size: 64 << 10,
        block: 4096,
        ..BASE
    };
    small.create(&path(0), None);
    let disk = open(&path(0), true).unwrap();
    disk.write_at(&[9; 4096], 4096).unwrap();
    disk.close().unwrap();
    let child = Shape {
        kind: Kind::Differencing,
        ..small
    };
    for number in 1..=250 {
        child.create_child(&path(number), &path(number - 1));
    }
    let disk = open(&path(249), false).unwrap();
    assert_eq!(disk.layers().len(), 250);
    let mut bytes = [0; 8192];
    disk.read_at(&mut bytes, 0).unwrap();
    assert!(bytes[..4096] == [0; 4096] && bytes[4096..] == [9; 4096]);
    let error = failure(open(&path(250), false));
    assert_eq!(error.kind(), ErrorKind::ChainCycle, "{error}");
}

#[test]
fn a_raw_file_is_never_a_parent() {
    // S-4: what is no image of the child's format is not taken, whatever it is called
    let folder = quick_folder();
    let (_, child) = pair(folder.path());
    let raw = folder.path().join("raw.vhd");
    fs::write(&raw, vec![0; MIB as usize]).unwrap();
    for path in [raw.as_path(), Path::new("/etc/passwd")] {
        let error = failure(offered(&child, &[path]));
        assert_eq!(error.kind(), ErrorKind::ParentMissing, "{error}");
    }
}

#[test]
fn a_parent_that_is_cut_while_open_is_an_error_that_names_it() {
    // R-DET-15
    let folder = quick_folder();
    let (base, child) = pair(folder.path());
    let disk = open(&base, true).unwrap();
    disk.write_at(&vec![7; 4 * MIB as usize], 0).unwrap();
    disk.close().unwrap();
    let disk = open(&child, true).unwrap();
    let len = fs::metadata(&base).unwrap().len();
    file(&base, true).set_len(len / 2).unwrap();
    let error = disk.validate().unwrap_err();
    assert!(error.file().ends_with("base.vhd"), "{error}");
    let error = disk.read_at(&mut [0; 512], 4 * MIB - 512).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidFileSize);
    assert!(error.file().ends_with("base.vhd"), "{error}");
}

#[test]
fn another_time_of_the_parent_is_a_notice() {
    // V-14
    let folder = quick_folder();
    let base = folder.path().join("base.vhd");
    BASE.create(&base, None);
    let id = Disk::open(file(&base, false), "base", &options(false)).unwrap();
    let changed = fs::metadata(&base).unwrap().modified().unwrap();
    let changed = changed
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    for (stamp, notices) in [(0, 0), (changed, 0), (changed - 10, 1)] {
        let child = folder.path().join(format!("{stamp}.vhd"));
        let mut parent = id.as_parent(r".\base.vhd", "").unwrap();
        parent.modified_unix = stamp;
        CHILD.create(&child, Some(parent));
        let layers = open(&child, false).unwrap().layers();
        let told = layers[0].facts.notices.iter();
        let told = told.filter(|notice| notice.contains("only advice")).count();
        assert_eq!(told, notices, "{:?}", layers[0].facts.notices);
    }
}

#[test]
fn a_raw_disk_can_have_no_children() {
    let folder = quick_folder();
    let path = folder.path().join("raw.img");
    fs::write(&path, [0; 512]).unwrap();
    let disk = Disk::open(file(&path, false), "raw", &options(false)).unwrap();
    let error = disk.as_parent("", "").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidParameter);
}

#[test]
fn the_file_of_each_layer_can_be_had() {
    let folder = quick_folder();
    let (base, child) = pair(folder.path());
    let disk = open(&child, true).unwrap();
    for (layer, path) in [(0, &child), (1, &base)] {
        let identity = disk.file(layer).unwrap().identity().unwrap();
        let stat =
            std::os::linux::fs::MetadataExt::st_ino(&File::open(path).unwrap().metadata().unwrap());
        assert_eq!(identity.1, stat);
    }
    assert!(disk.file(2).is_none());
}
