//! Opening and creating through a service in a runtime directory: files, rights, start on demand.
//!
//! The service is this test program itself where one must be started: a script runs it again with
//! the name of the test that plays the service.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::env;
use std::fs::{self, File, OpenOptions as HostOptions};
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use rustix::cmsg_space;
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use virtdisk::{
    AccessMask, Code, CreateOptions, CreateParameters, OpenOptions, Service, StorageType,
    VirtualDisk,
};

const OPENED: &str = "{\"parameters\":{\"device_id\":2,\
     \"vendor_id\":\"ec984aec-a0f9-47e9-901f-71415a66345b\",\"attached\":false}}\0";
const FULL: &str = "{\"error\":\"io.virtdisk.Failed\",\"parameters\":{\"code\":112,\
     \"message\":\"full\",\"hint\":\"\",\"holders\":[]}}\0";
const NOTHING_ATTACHED: &str = "{\"parameters\":{\"disks\":[]}}\0";

/// Receives one call and its descriptors.
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

/// A runtime directory whose service gives every call this answer; the calls come out of the
/// channel with their descriptors.
struct Fake {
    directory: tempfile::TempDir,
    calls: std::sync::mpsc::Receiver<(String, Vec<OwnedFd>)>,
}

impl Fake {
    fn new(answer: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        let (sender, calls) = std::sync::mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let sender = sender.clone();
                thread::spawn(move || {
                    let call = receive(&stream);
                    if !call.0.is_empty() {
                        (&stream).write_all(answer.as_bytes()).unwrap();
                        let _ = sender.send(call);
                    }
                    let _ = (&stream).read(&mut [0]);
                });
            }
        });
        Self { directory, calls }
    }

    fn service(&self) -> Service {
        Service::at(self.directory.path())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn image(&self, name: &str) -> PathBuf {
        fs::write(self.file(name), "image").unwrap();
        self.file(name)
    }
}

fn code(result: virtdisk::Result<VirtualDisk>) -> u32 {
    result.unwrap_err().code().0
}

fn read() -> OpenOptions {
    OpenOptions::with_access(AccessMask::READ)
}

#[test]
fn open_sends_the_file_with_the_rights_that_were_asked_for() {
    let fake = Fake::new(OPENED);
    let image = fake.image("a.vhd");
    for (options, mode) in [
        (read(), OFlags::RDONLY),
        (OpenOptions::with_access(AccessMask::ALL), OFlags::RDWR),
        (OpenOptions::v2(false), OFlags::RDWR),
        (OpenOptions::v2(true), OFlags::RDONLY),
    ] {
        let disk = fake.service().open(&image, &options).unwrap();
        assert_eq!(disk.storage_type(), Some(StorageType::VHD));
        let (call, fds) = fake.calls.recv().unwrap();
        assert!(call.contains("io.virtdisk.Open\""), "{call}");
        assert!(call.contains("/a.vhd\""), "{call}");
        let [fd] = fds.as_slice() else {
            panic!("one descriptor goes with an open")
        };
        let flags = fcntl_getfl(fd).unwrap();
        assert_eq!(flags & OFlags::RWMODE, mode);
        assert!(!flags.contains(OFlags::NONBLOCK));
        let ours = File::from(fd.try_clone().unwrap()).metadata().unwrap();
        assert_eq!(ours.ino(), fs::metadata(&image).unwrap().ino());
    }
}

// R-OPEN-3
#[test]
fn open_checks_arguments_before_the_file_and_the_file_before_the_service() {
    let directory = tempfile::tempdir().unwrap();
    let service = Service::at(directory.path());
    let missing = directory.path().join("missing.vhd");
    let bad_mask = OpenOptions::with_access(AccessMask::from_bits_retain(0x00FF_FFFF));
    assert_eq!(code(service.open(&missing, &bad_mask)), 87);
    assert_eq!(code(service.open(&missing, &read())), 2);
}

// R-OPEN-7
#[test]
fn open_of_a_missing_file_or_directory_says_which() {
    let fake = Fake::new(OPENED);
    assert_eq!(
        code(
            fake.service()
                .open(fake.file("no.vhd"), &OpenOptions::default())
        ),
        2
    );
    assert_eq!(
        code(fake.service().open(fake.file("no/no.vhd"), &read())),
        3
    );
    let image = fake.image("a.vhd");
    assert_eq!(code(fake.service().open(image.join("b.vhd"), &read())), 3);
    symlink("nowhere.vhd", fake.file("dangling.vhd")).unwrap();
    assert_eq!(
        code(fake.service().open(fake.file("dangling.vhd"), &read())),
        2
    );
    symlink("loop.vhd", fake.file("loop.vhd")).unwrap();
    assert_eq!(
        code(fake.service().open(fake.file("loop.vhd"), &read())),
        1921
    );
    assert_eq!(
        code(fake.service().open(fake.file(&"x".repeat(300)), &read())),
        123
    );
    assert_eq!(code(fake.service().open(r"C:\a.vhd", &read())), 123);
}

#[test]
fn open_takes_regular_files_only_and_waits_for_none() {
    let fake = Fake::new(OPENED);
    let service = fake.service();
    for options in [read(), OpenOptions::v2(false)] {
        assert_eq!(code(service.open(fake.directory.path(), &options)), 5);
        let fifo = fake.file("fifo");
        if !fifo.exists() {
            assert!(
                Command::new("mkfifo")
                    .arg(&fifo)
                    .status()
                    .unwrap()
                    .success()
            );
        }
        for other in [fifo.as_path(), Path::new("/dev/null"), &fake.file("socket")] {
            assert_eq!(
                code(service.open(other, &options)),
                0xC03A_0015,
                "{}",
                other.display()
            );
        }
    }
    let image = fake.image("a.vhd");
    symlink(&image, fake.file("link.vhd")).unwrap();
    assert!(service.open(fake.file("link.vhd"), &read()).is_ok());
}

// R-OPEN-10
#[test]
fn open_for_writing_needs_write_permission() {
    if rustix::process::geteuid().is_root() {
        let test = "open_for_writing_needs_write_permission";
        // Root may write everything: run as somebody else.
        match run_as_nobody(test) {
            Some(success) => assert!(success),
            None => virtdisk_testkit::skip!("setpriv is not installed"),
        }
        return;
    }
    let fake = Fake::new(OPENED);
    let image = fake.image("a.vhd");
    fs::set_permissions(&image, fs::Permissions::from_mode(0o444)).unwrap();
    assert!(fake.service().open(&image, &read()).is_ok());
    let write = OpenOptions::with_access(AccessMask::ATTACH_RW);
    assert_eq!(code(fake.service().open(&image, &write)), 5);
    let error = fake
        .service()
        .open(&image, &OpenOptions::v2(false))
        .unwrap_err();
    assert_eq!(error.code(), Code::ERROR_ACCESS_DENIED);
    assert!(error.hint().contains("read_only"));
}

/// Runs one test of this program as user 65534; `None` when that can't be done here.
fn run_as_nobody(test: &str) -> Option<bool> {
    let copy = tempfile::Builder::new().tempdir_in("/tmp").unwrap();
    fs::set_permissions(copy.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = copy.path().join("test");
    fs::copy(env::current_exe().unwrap(), &program).unwrap();
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut command = Command::new("setpriv");
    command
        .args(nobody)
        .arg(&program)
        .args(["--exact", test])
        .env("TMPDIR", "/tmp");
    Some(command.current_dir("/").output().ok()?.status.success())
}

fn create() -> CreateOptions {
    let parameters = CreateParameters {
        maximum_size: 64 << 20,
        ..CreateParameters::default()
    };
    CreateOptions {
        storage_type: StorageType::VHD,
        parameters,
        ..CreateOptions::default()
    }
}

#[test]
fn create_sends_a_new_empty_writable_file() {
    let fake = Fake::new(OPENED);
    let path = fake.file("new.vhd");
    let _disk = fake.service().create(&path, &create()).unwrap();
    let (call, fds) = fake.calls.recv().unwrap();
    assert!(
        call.contains("io.virtdisk.Create\"") && call.contains("67108864"),
        "{call}"
    );
    let metadata = File::from(fds[0].try_clone().unwrap()).metadata().unwrap();
    assert_eq!(
        (metadata.ino(), metadata.len()),
        (fs::metadata(&path).unwrap().ino(), 0)
    );
    assert_eq!(fcntl_getfl(&fds[0]).unwrap() & OFlags::RWMODE, OFlags::RDWR);
}

// R-CRE-12
#[test]
fn create_never_touches_what_is_there() {
    let fake = Fake::new(OPENED);
    let image = fake.image("a.vhd");
    assert_eq!(code(fake.service().create(&image, &create())), 80);
    assert_eq!(fs::read(&image).unwrap(), b"image");
    symlink("nowhere.vhd", fake.file("dangling.vhd")).unwrap();
    assert_eq!(
        code(fake.service().create(fake.file("dangling.vhd"), &create())),
        80
    );
    assert!(!fake.file("nowhere.vhd").exists());
    assert_eq!(
        code(fake.service().create(fake.file("no/a.vhd"), &create())),
        3
    );
}

// R-CRE-13
#[test]
fn create_that_fails_leaves_no_file() {
    let fake = Fake::new(FULL);
    assert_eq!(
        code(fake.service().create(fake.file("a.vhd"), &create())),
        112
    );
    assert!(!fake.file("a.vhd").exists());
    let broken = Fake::new("nonsense\0");
    assert_eq!(
        code(broken.service().create(broken.file("a.vhd"), &create())),
        13
    );
    assert!(!broken.file("a.vhd").exists());
    let small = CreateOptions {
        parameters: CreateParameters::default(),
        ..create()
    };
    assert_eq!(code(fake.service().create(fake.file("a.vhd"), &small)), 87);
    assert!(!fake.file("a.vhd").exists());
}

#[test]
fn service_that_ends_as_it_is_called_is_called_again() {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
    let service = thread::spawn(move || {
        drop(listener.accept().unwrap());
        let (mut stream, _) = listener.accept().unwrap();
        receive(&stream);
        stream.write_all(NOTHING_ATTACHED.as_bytes()).unwrap();
        drop(stream);
        for _ in 0..2 {
            drop(listener.accept().unwrap());
        }
    });
    assert!(Service::at(directory.path()).attached().unwrap().is_empty());
    let error = Service::at(directory.path()).attached().unwrap_err();
    assert_eq!(error.code(), Code::ERROR_BROKEN_PIPE);
    service.join().unwrap();
}

/// Folder of a test that runs this program again, in another role.
const FOLDER: &str = "TEST_FOLDER";
/// That role.
const ROLE: &str = "TEST_ROLE";

/// The role this process plays in a test, and the test's folder; `None` for the test itself.
fn role() -> Option<(String, PathBuf)> {
    Some((env::var(ROLE).ok()?, PathBuf::from(env::var_os(FOLDER)?)))
}

/// Writes a script that plays `virtdiskd`: it runs this test again, as "service".
fn script(folder: &Path, test: &str) -> PathBuf {
    let path = folder.join("virtdiskd");
    let program = env::current_exe().unwrap();
    let text = format!(
        "#!/bin/sh\necho \"$*\" >> '{}'\n{ROLE}=service exec '{}' --exact {test}\n",
        folder.join("started").display(),
        program.display(),
    );
    let mut options = HostOptions::new();
    options.write(true).create(true).truncate(true).mode(0o755);
    options
        .open(&path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    path
}

/// Runs this test again as "client", with these variables; it must succeed.
fn run_client(test: &str, folder: &Path, variables: &[(&str, &Path)]) {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", test])
        .env(ROLE, "client")
        .env(FOLDER, folder)
        .current_dir(folder);
    command
        .env_remove("VIRTDISK_RUNTIME_DIR")
        .env_remove("VIRTDISKD");
    let output = command.envs(variables.iter().copied()).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn service_is_started_on_demand_and_once() {
    match role() {
        Some((role, folder)) if role == "service" => return answer_two_lists(&folder.join("run")),
        Some(_) => {
            assert!(virtdisk::attached().unwrap().is_empty());
            assert!(virtdisk::attached().unwrap().is_empty());
            return;
        }
        None => {}
    }
    let folder = tempfile::tempdir().unwrap();
    let test = "service_is_started_on_demand_and_once";
    script(folder.path(), test);
    // Relative names hold where the caller stands, not where the service does.
    let variables = [("VIRTDISKD", "virtdiskd"), ("VIRTDISK_RUNTIME_DIR", "run")];
    let variables = variables.map(|(name, value)| (name, Path::new(value)));
    let runtime = folder.path().join("run");
    run_client(test, folder.path(), &variables);
    let started = fs::read_to_string(folder.path().join("started")).unwrap();
    assert_eq!(started, format!("--runtime-dir {}\n", runtime.display()));
}

/// A service that takes a while to accept.
fn answer_two_lists(runtime: &Path) {
    thread::sleep(std::time::Duration::from_millis(100));
    fs::create_dir(runtime).unwrap();
    let listener = UnixListener::bind(runtime.join("socket")).unwrap();
    for _ in 0..2 {
        let (mut stream, _) = listener.accept().unwrap();
        receive(&stream);
        stream.write_all(NOTHING_ATTACHED.as_bytes()).unwrap();
    }
}

#[test]
fn service_that_ends_at_once_is_named() {
    if role().is_some() {
        let before = std::time::Instant::now();
        let error = virtdisk::attached().unwrap_err();
        assert_eq!(error.code(), Code::ERROR_SERVICE_NOT_ACTIVE);
        let program = env::var("VIRTDISKD").unwrap();
        assert!(error.message().contains(&program), "{}", error.message());
        assert!(before.elapsed().as_secs() < 4);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for program in [
        Path::new("/bin/false"),
        &folder.path().join("no-such-program"),
    ] {
        let variables = [
            ("VIRTDISKD", program),
            ("VIRTDISK_RUNTIME_DIR", folder.path()),
        ];
        run_client(
            "service_that_ends_at_once_is_named",
            folder.path(),
            &variables,
        );
    }
}

#[test]
fn captive_service_gets_a_connection_per_handle_and_ends_with_them() {
    match role() {
        Some((role, folder)) if role == "service" => return serve_two_handles(&folder),
        Some((_, folder)) => return open_two_handles(&folder),
        None => {}
    }
    let folder = tempfile::tempdir().unwrap();
    let test = "captive_service_gets_a_connection_per_handle_and_ends_with_them";
    let program = script(folder.path(), test);
    run_client(test, folder.path(), &[("VIRTDISKD", &program)]);
    let started = fs::read_to_string(folder.path().join("started")).unwrap();
    assert_eq!(started, "--private\n");
}

fn open_two_handles(folder: &Path) {
    fs::write(folder.join("a.vhd"), "image").unwrap();
    let service = Service::private().unwrap();
    let one = service.open(folder.join("a.vhd"), &read()).unwrap();
    let two = service.clone().open(folder.join("a.vhd"), &read()).unwrap();
    drop((one, two, service));
    for _ in 0..500 {
        if folder.join("ended").exists() {
            return;
        }
        thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the captive service outlives its control socket");
}

/// The captive service: its control socket is its standard input.
fn serve_two_handles(folder: &Path) {
    let control = std::os::fd::AsFd::as_fd(&std::io::stdin())
        .try_clone_to_owned()
        .unwrap();
    let control = UnixStream::from(control);
    let mut handles = 0;
    loop {
        let (message, fds) = receive(&control);
        if message.is_empty() {
            break;
        }
        assert_eq!(message, "\0");
        handles += fds.len();
        for fd in fds {
            let stream = UnixStream::from(fd);
            assert_eq!(receive(&stream).1.len(), 1);
            (&stream).write_all(OPENED.as_bytes()).unwrap();
        }
    }
    assert_eq!(handles, 2);
    fs::write(folder.join("ended"), "").unwrap();
}
