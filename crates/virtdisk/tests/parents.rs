//! Finding parents: a service that asks for them, and a client that opens and sends what it may.
//!
//! The service is a thread that plays it, so no image is needed: what it asks for and how it judges
//! the files is decided by each test.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::{self, File};
use std::io::{IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use rustix::cmsg_space;
use rustix::fs::{Mode, OFlags, fcntl_getfl};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use virtdisk::frame::{NeededParent, OpenReply, ParentHint};
use virtdisk::{
    AccessMask, CreateOptions, CreateParameters, OpenFlags, OpenOptions, ParentPolicy, Service,
    VirtualDisk,
};

const MISMATCH: u32 = 0xC03A_000E;
const NOT_FOUND: u32 = 0xC03A_000D;

/// What the service answers to a file: its inode says which one it is.
type Judge = Box<dyn Fn(u32, u64) -> Verdict + Send>;

enum Verdict {
    /// The parent; the next one is asked for.
    Next,
    /// The last parent.
    Complete,
    /// Another file.
    No(u32),
}

/// A folder with a service that asks for parents by these hints, and judges them.
struct Fake {
    folder: tempfile::TempDir,
}

impl Fake {
    fn new(hints: &[(&str, &str)], judge: Judge) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("vm")).unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let hints: Vec<ParentHint> = hints
            .iter()
            .map(|(kind, text)| ParentHint {
                kind: (*kind).to_owned(),
                text: (*text).to_owned(),
            })
            .collect();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                serve(&stream, &hints, &judge);
            }
        });
        Self { folder }
    }

    fn service(&self) -> Service {
        Service::at(self.folder.path())
    }

    /// A file with this text, in the folder for images.
    fn file(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join("vm").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, name).unwrap();
        path
    }

    fn open(&self, child: &Path) -> virtdisk::Result<VirtualDisk> {
        self.service()
            .open(child, &OpenOptions::with_access(AccessMask::READ))
    }
}

/// Plays the service on one connection.
fn serve(stream: &UnixStream, hints: &[ParentHint], judge: &Judge) {
    let mut need = NeededParent {
        hints: hints.to_vec(),
        format: "vhd".to_owned(),
        ..NeededParent::default()
    };
    loop {
        let (call, mut fds) = receive(stream);
        let Some(fd) = fds.pop().filter(|_| !call.is_empty()) else {
            return;
        };
        let mut reply = OpenReply {
            device_id: 2,
            vendor_id: "ec984aec-a0f9-47e9-901f-71415a66345b".to_owned(),
            ..OpenReply::default()
        };
        if call.contains("io.virtdisk.OpenParent") {
            let flags = fcntl_getfl(&fd).unwrap();
            assert_eq!(flags & OFlags::RWMODE, OFlags::RDONLY);
            let inode = File::from(fd).metadata().unwrap().ino();
            match judge(need.depth, inode) {
                Verdict::Complete => {
                    answer(stream, &reply);
                    continue;
                }
                Verdict::Next => {
                    need.depth += 1;
                    need.rejected_code = 0;
                }
                Verdict::No(code) => {
                    need.rejected_code = code;
                    need.rejected = "is another one".to_owned();
                }
            }
        }
        reply.need_parent = Some(need.clone());
        answer(stream, &reply);
    }
}

fn answer(mut stream: &UnixStream, reply: &OpenReply) {
    let text = serde_json::to_string(reply).unwrap();
    let message = format!("{{\"parameters\":{text}}}\0");
    stream.write_all(message.as_bytes()).unwrap();
}

fn receive(stream: &UnixStream) -> (String, Vec<OwnedFd>) {
    let (mut bytes, mut fds) = (vec![0; 64 * 1024], Vec::new());
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let iov = &mut [IoSliceMut::new(&mut bytes)];
    let got = recvmsg(stream, iov, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    bytes.truncate(got.bytes);
    (String::from_utf8(bytes).unwrap(), fds)
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

fn nobody_is_it() -> Judge {
    Box::new(|_, _| Verdict::No(MISMATCH))
}

/// A service that must never be sent a file.
fn never(hints: &[(&str, &str)]) -> Fake {
    Fake::new(hints, Box::new(|_, _| panic!("a file was sent")))
}

// P-2: the first whose identity is right, not the first that exists.
#[test]
fn places_are_tried_in_order_until_the_service_takes_one() {
    let vm = tempfile::tempdir().unwrap();
    let right = vm.path().join("right.vhd");
    fs::write(&right, "").unwrap();
    let wanted = inode(&right);
    let hints = [
        ("relative", r".\wrong.vhd"),
        ("absolute", r"C:\vm\right.vhd"),
    ];
    let judge: Judge = Box::new(move |_, found| match found == wanted {
        true => Verdict::Complete,
        false => Verdict::No(MISMATCH),
    });
    let fake = Fake::new(&hints, judge);
    let child = fake.file("child.vhd");
    fake.file("wrong.vhd");
    fs::hard_link(&right, fake.folder.path().join("vm/right.vhd")).unwrap_or_else(|_| {
        panic!("the temporary folder takes hard links");
    });
    fake.open(&child).unwrap();
}

#[test]
fn a_parents_parent_is_looked_for_beside_the_parent() {
    let judge: Judge = Box::new(|depth, _| match depth {
        0 => Verdict::Next,
        _ => Verdict::Complete,
    });
    let fake = Fake::new(&[("relative", r".\below\base.vhd")], judge);
    let child = fake.file("child.vhd");
    fake.file("below/base.vhd");
    fake.file("below/below/base.vhd");
    fake.open(&child).unwrap();
}

// S-4: the tree is that of the disk that the caller named, for all of its chain.
#[test]
fn a_parents_parent_may_lie_in_the_folder_of_the_leaf() {
    let judge: Judge = Box::new(|depth, _| match depth {
        0 => Verdict::Next,
        _ => Verdict::Complete,
    });
    let hints = [
        ("relative", r".\below\base.vhd"),
        ("relative", r"..\top.vhd"),
    ];
    let fake = Fake::new(&hints, judge);
    let child = fake.file("child.vhd");
    fake.file("below/base.vhd");
    fake.file("top.vhd");
    fake.open(&child).unwrap();
}

// P-6
#[test]
fn what_is_not_found_names_every_place_and_every_hint() {
    let fake = Fake::new(
        &[
            ("relative", r".\base.vhd"),
            ("absolute", r"D:\old\gone.vhd"),
        ],
        nobody_is_it(),
    );
    let child = fake.file("child.vhd");
    let error = fake.open(&child).unwrap_err();
    assert_eq!(error.code().0, NOT_FOUND);
    let text = error.to_string();
    for part in [
        "child.vhd",
        "vm/base.vhd",
        "vm/gone.vhd",
        r"D:\old\gone.vhd",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    fake.file("base.vhd");
    let error = fake.open(&child).unwrap_err();
    assert_eq!(error.code().0, MISMATCH);
    assert!(error.to_string().contains("is another one"), "{error}");
}

#[test]
fn what_the_service_has_against_a_file_decides_the_code() {
    for (said, wanted) in [
        (MISMATCH, 0xC03A_000E),
        (0xC03A_0018, 0xC03A_0018),
        (0xC03A_0003, 0xC03A_0019),
    ] {
        let fake = Fake::new(
            &[("name", "base.vhd")],
            Box::new(move |_, _| Verdict::No(said)),
        );
        let child = fake.file("child.vhd");
        fake.file("base.vhd");
        assert_eq!(fake.open(&child).unwrap_err().code().0, wanted);
    }
}

// S-4
#[test]
fn hostile_hints_send_nothing() {
    let fake = never(&[
        ("relative", r"..\..\..\..\..\..\etc\shadow"),
        ("absolute", "/etc/shadow"),
        ("absolute", r"\\server\share\base.vhd"),
        ("url", "file:///etc/passwd"),
        ("relative", r".\fifo"),
        ("relative", r".\link.vhd"),
        ("relative", r".\folder"),
        ("relative", "."),
        ("name", ""),
        ("nonsense", "base.vhd"),
    ]);
    let child = fake.file("child.vhd");
    let vm = child.parent().unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, vm.join("fifo"), Mode::from_raw_mode(0o600)).unwrap();
    symlink("/etc/hostname", vm.join("link.vhd")).unwrap();
    fs::create_dir(vm.join("folder")).unwrap();
    let error = fake.open(&child).unwrap_err();
    assert!(
        [NOT_FOUND, 0xC03A_0016].contains(&error.code().0),
        "{error}"
    );
}

// R-OPEN-11: a parent is read with the caller's own rights, and with those of nobody else.
#[test]
fn a_parent_that_may_not_be_read_is_access_denied() {
    if rustix::process::geteuid().is_root() {
        match run_as_nobody("a_parent_that_may_not_be_read_is_access_denied") {
            Some(success) => assert!(success),
            None => virtdisk_testkit::skip!("setpriv is not installed"),
        }
        return;
    }
    let fake = never(&[("relative", r".\base.vhd")]);
    let child = fake.file("child.vhd");
    let base = fake.file("base.vhd");
    fs::set_permissions(&base, fs::Permissions::from_mode(0o000)).unwrap();
    let error = fake.open(&child).unwrap_err();
    assert_eq!(error.code().0, 0xC03A_0016);
    assert!(error.to_string().contains("base.vhd"), "{error}");
}

/// Runs one test of this program as user 65534; `None` when that can't be done here.
fn run_as_nobody(test: &str) -> Option<bool> {
    let copy = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
    fs::set_permissions(copy.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = copy.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["--exact", test])
        .env("TMPDIR", "/tmp");
    Some(command.current_dir("/").output().ok()?.status.success())
}

// S-4: outside the child's tree only where the caller says so.
#[test]
fn a_parent_in_another_folder_must_be_allowed() {
    let elsewhere = tempfile::tempdir().unwrap();
    let base = elsewhere.path().join("base.vhd");
    fs::write(&base, "").unwrap();
    let real = fs::canonicalize(&base).unwrap();
    let hint = real.to_string_lossy().into_owned();
    let fake = Fake::new(&[("absolute", &hint)], Box::new(|_, _| Verdict::Complete));
    let child = fake.file("child.vhd");
    let error = fake.open(&child).unwrap_err();
    assert_eq!(error.code().0, NOT_FOUND);
    assert!(error.to_string().contains(&hint), "{error}");
    let policy = ParentPolicy {
        allow_dirs: vec![elsewhere.path().to_owned()],
        ..ParentPolicy::default()
    };
    let service = fake.service().with_parents(policy);
    service
        .open(&child, &OpenOptions::with_access(AccessMask::READ))
        .unwrap();
}

// R-OPEN-24
#[test]
fn relative_locators_are_ignored_where_asked() {
    let fake = Fake::new(
        &[("relative", r".\base.vhd")],
        Box::new(|_, _| Verdict::Complete),
    );
    let child = fake.file("child.vhd");
    fake.file("base.vhd");
    fake.open(&child).unwrap();
    let options = OpenOptions {
        flags: OpenFlags::IGNORE_RELATIVE_PARENT_LOCATOR,
        ..OpenOptions::with_access(AccessMask::READ)
    };
    let error = fake.service().open(&child, &options).unwrap_err();
    assert_eq!(error.code().0, NOT_FOUND);
}

// P-4
#[test]
fn a_child_that_is_a_link_has_its_parent_beside_the_real_file() {
    let fake = Fake::new(
        &[("relative", r".\base.vhd")],
        Box::new(|_, _| Verdict::Complete),
    );
    let child = fake.file("deep/child.vhd");
    fake.file("deep/base.vhd");
    let link = fake.folder.path().join("vm/link.vhd");
    symlink(&child, &link).unwrap();
    fake.open(&link).unwrap();
}

// R-PAR-1, R-PAR-2
#[test]
fn parents_are_added_by_hand_until_the_chain_is_complete() {
    let judge: Judge = Box::new(|depth, _| match depth {
        0 => Verdict::Next,
        1 => Verdict::Complete,
        _ => Verdict::No(MISMATCH),
    });
    let fake = Fake::new(&[("relative", r".\base.vhd")], judge);
    let (child, base) = (fake.file("child.vhd"), fake.file("any/base.vhd"));
    let options = OpenOptions {
        flags: OpenFlags::CUSTOM_DIFF_CHAIN,
        ..OpenOptions::with_access(AccessMask::READ)
    };
    let disk = fake.service().open(&child, &options).unwrap();
    assert!(!disk.add_parent(&base).unwrap());
    assert!(disk.add_parent(&base).unwrap());
    let missing = disk.add_parent(base.with_extension("gone")).unwrap_err();
    assert_eq!(missing.code().0, 2);
}

#[test]
fn a_parent_that_is_refused_by_hand_has_the_services_code() {
    let fake = Fake::new(&[], nobody_is_it());
    let child = fake.file("child.vhd");
    let options = OpenOptions {
        flags: OpenFlags::CUSTOM_DIFF_CHAIN,
        ..OpenOptions::with_access(AccessMask::READ)
    };
    let disk = fake.service().open(&child, &options).unwrap();
    for _ in 0..2 {
        let error = disk.add_parent(&child).unwrap_err();
        assert_eq!(error.code().0, MISMATCH);
        assert_eq!(error.message(), "is another one");
    }
}

// R-CRE-13
#[test]
fn a_create_whose_chain_is_not_found_leaves_no_file() {
    let fake = Fake::new(&[("relative", r".\gone.vhd")], nobody_is_it());
    let base = fake.file("base.vhd");
    let new = base.with_file_name("new.vhd");
    let parameters = CreateParameters {
        parent_path: Some(base),
        ..CreateParameters::default()
    };
    let options = CreateOptions {
        parameters,
        ..CreateOptions::default()
    };
    let error = fake.service().create(&new, &options).unwrap_err();
    assert_eq!(error.code().0, NOT_FOUND);
    assert!(!new.exists());
    let missing = CreateOptions {
        parameters: CreateParameters {
            parent_path: Some(new.with_file_name("nothing.vhd")),
            ..CreateParameters::default()
        },
        ..CreateOptions::default()
    };
    let error = fake.service().create(&new, &missing).unwrap_err();
    assert_eq!(error.code().0, 2);
    assert!(!new.exists());
}

#[test]
fn a_service_that_jumps_about_in_the_chain_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
    thread::spawn(move || {
        let stream = listener.accept().unwrap().0;
        receive(&stream);
        let need_parent = Some(NeededParent {
            depth: 7,
            ..NeededParent::default()
        });
        answer(
            &stream,
            &OpenReply {
                need_parent,
                ..OpenReply::default()
            },
        );
        receive(&stream);
    });
    let child = folder.path().join("child.vhd");
    fs::write(&child, "").unwrap();
    let opened = Service::at(folder.path()).open(&child, &OpenOptions::v2(true));
    assert_eq!(opened.unwrap_err().code().0, 13);
}
