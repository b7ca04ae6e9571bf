//! Where a parent is looked for: order, trees, links, maps, letter case.
#![allow(clippy::unwrap_used, reason = "the set-up of a test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use tempfile::TempDir;
use virtdisk_parent::{Candidate, Finder, Hint, HintKind, Policy, Refusal, Why, candidates};
use virtdisk_testkit::Rng;

/// `vm/child.vhd` in a folder of its own.
struct Place {
    folder: TempDir,
    child: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let child = folder.path().join("vm/child.vhd");
        fs::create_dir(folder.path().join("vm")).unwrap();
        fs::write(&child, "child").unwrap();
        Self { folder, child }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, name).unwrap();
        path
    }

    fn look(&self, hints: &[(HintKind, &str)], policy: &Policy) -> Vec<Candidate> {
        candidates(&self.child, &hints_of(hints), policy)
    }

    fn allowed(&self, hints: &[(HintKind, &str)], policy: &Policy) -> Vec<PathBuf> {
        let ok = |found: Candidate| (found.why == Why::Ok).then_some(found.path);
        self.look(hints, policy)
            .into_iter()
            .filter_map(ok)
            .collect()
    }

    /// What a search that opens the files finds, by what is written in them.
    fn found(&self, hints: &[(HintKind, &str)], policy: &Policy) -> Vec<String> {
        let mut finder = Finder::new(&self.child, &hints_of(hints), policy);
        std::iter::from_fn(|| finder.next_file())
            .map(|(path, _)| fs::read_to_string(path).unwrap())
            .collect()
    }
}

fn hints_of<'a>(hints: &[(HintKind, &'a str)]) -> Vec<Hint<'a>> {
    let hint = |&(kind, text)| Hint { kind, text };
    hints.iter().map(hint).collect()
}

fn refusal(found: &[Candidate], path: &Path) -> Option<Refusal> {
    let found = found.iter().find(|found| found.path == path)?;
    match &found.why {
        Why::Ok => None,
        Why::Refused(refusal) => Some(refusal.clone()),
    }
}

const RELATIVE: HintKind = HintKind::Relative;
const ABSOLUTE: HintKind = HintKind::Absolute;

#[test]
fn relative_comes_first_then_beside_then_map_then_search() {
    // P-2, P-3, P-4
    let place = Place::new();
    for name in [
        "vm/sub/a.vhd",
        "vm/b.vhd",
        "srv/x/b.vhd",
        "old/z.avhd",
        "old/B.VHD",
    ] {
        place.file(name);
    }
    fs::write(place.path("old/note.txt"), "").unwrap();
    let policy = Policy {
        map: vec![
            (r"C:\".into(), place.path("nowhere")),
            (r"c:\VM".into(), place.path("srv")),
        ],
        search: vec![place.path("old")],
        ..Policy::default()
    };
    let hints = [(ABSOLUTE, r"\\?\C:\vm\x\b.vhd"), (RELATIVE, r".\sub\a.vhd")];
    let found = place.found(&hints, &policy);
    let wanted = [
        "vm/sub/a.vhd",
        "vm/b.vhd",
        "srv/x/b.vhd",
        "old/B.VHD",
        "old/z.avhd",
    ];
    assert_eq!(found, wanted);
}

#[test]
fn the_name_of_every_hint_is_looked_for_beside_the_child() {
    // P-3
    let place = Place::new();
    let base = place.file("vm/base.vhd");
    for (kind, text) in [
        (RELATIVE, r"..\elsewhere\base.vhd"),
        (ABSOLUTE, r"D:\base.vhd"),
        (HintKind::Volume, r"\\?\Volume{0}\x\base.vhd"),
        (HintKind::Url, "file://localhost/Users/x/base.vhd"),
        (HintKind::Name, "base.vhd"),
        (ABSOLUTE, r"\\server\share\base.vhd"),
    ] {
        let found = place.allowed(&[(kind, text)], &Policy::default());
        assert!(found.contains(&base.canonicalize().unwrap()), "{text}");
    }
}

#[test]
fn a_place_outside_the_childs_folder_is_refused_unless_allowed() {
    // S-4
    let place = Place::new();
    let base = place.file("base/base.vhd").canonicalize().unwrap();
    let hint = [(RELATIVE, r"..\base\base.vhd")];
    let found = place.look(&hint, &Policy::default());
    assert_eq!(refusal(&found, &base), Some(Refusal::Outside));
    let policy = Policy {
        allow_dirs: vec![place.path("base")],
        ..Policy::default()
    };
    assert_eq!(place.found(&hint, &policy), ["base/base.vhd"]);
    // A path of a system like this one, as VirtualBox writes it.
    let text = base.to_str().unwrap();
    let hint = [(ABSOLUTE, text)];
    let found = place.look(&hint, &Policy::default());
    assert_eq!(refusal(&found, &base), Some(Refusal::Outside));
    assert_eq!(place.found(&hint, &policy), ["base/base.vhd"]);
}

#[test]
fn hostile_paths_lead_nowhere() {
    // S-4
    let place = Place::new();
    let hints = [
        (RELATIVE, r"..\..\..\..\..\..\..\..\etc\shadow"),
        (ABSOLUTE, "/etc/shadow"),
        (ABSOLUTE, "/proc/self/environ"),
        (ABSOLUTE, r"\\server\share\x.vhd"),
        (HintKind::Url, "file:///etc/shadow"),
        (HintKind::Url, "file://server/x.vhd"),
        (RELATIVE, "x\0.vhd"),
        (RELATIVE, ".."),
        (RELATIVE, ""),
    ];
    let child = place.child.canonicalize().unwrap();
    let home = child.parent().unwrap();
    let found = place.look(&hints, &Policy::default());
    assert!(
        found
            .iter()
            .any(|found| found.why == Why::Refused(Refusal::Network))
    );
    for Candidate { path, why } in found {
        assert!(
            why != Why::Ok || path.starts_with(home),
            "{}",
            path.display()
        );
    }
    assert_eq!(place.found(&hints, &Policy::default()), [""; 0]);
}

#[test]
fn a_link_is_followed_inside_the_trees_and_refused_outside() {
    // S-4
    let place = Place::new();
    let inside = place.file("vm/store/real.vhd");
    let outside = place.file("other/real.vhd");
    symlink(&inside, place.path("vm/in.vhd")).unwrap();
    symlink(&outside, place.path("vm/out.vhd")).unwrap();
    symlink(place.path("other"), place.path("vm/folder")).unwrap();
    let policy = Policy::default();
    assert_eq!(
        place.found(&[(RELATIVE, r".\in.vhd")], &policy),
        ["vm/store/real.vhd"]
    );
    let real = outside.canonicalize().unwrap();
    for text in [r".\out.vhd", r".\folder\real.vhd"] {
        assert_eq!(place.found(&[(RELATIVE, text)], &policy), [""; 0]);
        let found = place.look(&[(RELATIVE, text)], &policy);
        assert_eq!(
            found[0].why,
            Why::Refused(Refusal::LeadsOutside(real.clone()))
        );
    }
}

#[test]
fn relative_means_relative_to_where_the_child_really_is() {
    // P-4
    let place = Place::new();
    place.file("vm/base.vhd");
    place.file("links/base.vhd");
    let link = place.path("links/child.vhd");
    symlink(&place.child, &link).unwrap();
    let hints = hints_of(&[(RELATIVE, r".\base.vhd")]);
    let found = candidates(&link, &hints, &Policy::default());
    assert_eq!(
        found[0].path,
        place.path("vm/base.vhd").canonicalize().unwrap()
    );
    assert_eq!(found.len(), 1);
}

#[test]
fn other_letter_case_is_the_last_resort_and_never_a_choice() {
    // P-3
    let place = Place::new();
    place.file("vm/Disks/Base.VHD");
    let hint = [(RELATIVE, r".\disks\base.vhd")];
    assert_eq!(
        place.found(&hint, &Policy::default()),
        ["vm/Disks/Base.VHD"]
    );
    place.file("vm/Disks/BASE.vhd");
    assert_eq!(place.found(&hint, &Policy::default()), [""; 0]);
    let found = place.look(&hint, &Policy::default());
    assert!(
        found
            .iter()
            .any(|found| found.why == Why::Refused(Refusal::Ambiguous))
    );
    // What is there as it is written needs no resort.
    place.file("vm/disks/base.vhd");
    assert_eq!(
        place.found(&hint, &Policy::default()),
        ["vm/disks/base.vhd"]
    );
}

#[test]
fn letter_case_does_not_lead_outside() {
    let place = Place::new();
    place.file("BASE/base.vhd");
    let hint = [(RELATIVE, r"..\base\base.vhd")];
    assert_eq!(place.found(&hint, &Policy::default()), [""; 0]);
}

#[test]
fn the_relative_locator_can_be_ignored() {
    let place = Place::new();
    place.file("vm/a.vhd");
    place.file("vm/b.vhd");
    let policy = Policy {
        ignore_relative: true,
        ..Policy::default()
    };
    let hints = [(RELATIVE, r".\a.vhd"), (ABSOLUTE, r"C:\b.vhd")];
    assert_eq!(place.found(&hints, &policy), ["vm/b.vhd"]);
}

#[test]
fn a_map_may_name_a_share_and_does_not_let_paths_out() {
    let place = Place::new();
    place.file("mnt/d/a.vhd");
    let policy = Policy {
        map: vec![(r"\\SRV\share".into(), place.path("mnt"))],
        ..Policy::default()
    };
    let hint = [(ABSOLUTE, r"\\srv\Share\d\a.vhd")];
    assert_eq!(place.found(&hint, &policy), ["mnt/d/a.vhd"]);
    let up = [(ABSOLUTE, r"\\srv\share\..\..\..\etc\passwd")];
    assert_eq!(place.found(&up, &policy), [""; 0]);
}

#[test]
fn every_candidate_is_named_once_and_what_was_passed_over_is_kept() {
    let place = Place::new();
    let hints = [
        (RELATIVE, r".\gone.vhd"),
        (ABSOLUTE, r"C:\vm\gone.vhd"),
        (RELATIVE, r"..\..\gone.vhd"),
    ];
    let mut finder = Finder::new(&place.child, &hints_of(&hints), &Policy::default());
    assert!(finder.next_file().is_none());
    let passed: Vec<String> = finder
        .passed()
        .iter()
        .map(|passed| passed.reason.clone())
        .collect();
    assert_eq!(passed.len(), 2, "{passed:?}");
    assert!(passed[0].contains("No such file"), "{passed:?}");
    assert!(passed[1].contains("outside"), "{passed:?}");
}

#[test]
fn a_folder_full_of_images_gives_no_endless_list() {
    let place = Place::new();
    for number in 0..1100 {
        place.file(&format!("many/{number}.vhd"));
    }
    let policy = Policy {
        search: vec![place.path("many")],
        ..Policy::default()
    };
    assert_eq!(place.look(&[(RELATIVE, "1099.vhd")], &policy).len(), 1000);
    let found = place.found(&[(RELATIVE, "1099.vhd")], &policy);
    assert_eq!(found[0], "many/1099.vhd");
}

#[test]
fn no_text_whatever_leads_out_of_the_trees() {
    // S-4, S-8
    const PARTS: [&str; 21] = [
        "\\", "/", "..", ".", "C:", "?", "a", "A", "vm", "\0", "%2e%2e", "%5c", "file:", "//",
        "\u{fffd}", "é", "\\\\?\\", "UNC\\", "etc", "out", " ",
    ];
    let mut rng = Rng::announced("no_text_whatever_leads_out_of_the_trees");
    let place = Place::new();
    place.file("vm/a");
    place.file("etc");
    symlink(place.path("etc"), place.path("vm/out")).unwrap();
    symlink(place.path(""), place.path("vm/A")).unwrap();
    let home = place.path("vm").canonicalize().unwrap();
    let kinds = [
        RELATIVE,
        ABSOLUTE,
        HintKind::Volume,
        HintKind::Url,
        HintKind::Name,
    ];
    let mut allowed = 0;
    for _ in 0..20_000 {
        let mut text: String = (0..rng.below(12)).map(|_| *rng.pick(&PARTS)).collect();
        let kind = *rng.pick(&kinds);
        if kind == HintKind::Url && rng.one_in(2) {
            text.insert_str(0, "file://");
        }
        for path in place.allowed(&[(kind, &text)], &Policy::default()) {
            assert!(path.starts_with(&home), "{text:?}: {}", path.display());
            let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
            assert!(path.components().all(plain), "{text:?}: {}", path.display());
            allowed += 1;
        }
    }
    assert!(allowed > 1000, "{allowed}");
}
