//! Garbage on the socket, descriptors that are not what they should be, and crowds.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use support::*;
use virtdisk::{AccessMask, DetachFlags, OpenOptions};

/// A raw connection.
fn connect(host: &Host) -> UnixStream {
    let stream = UnixStream::connect(host.run().join("socket")).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream
}

/// Sends bytes, and gives what comes back until a NUL or the end.
fn say(host: &Host, bytes: &[u8]) -> String {
    let mut stream = connect(host);
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).is_ok_and(|n| n == 1) && byte[0] != 0 {
        answer.push(byte[0]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Descriptors that the broker has open.
fn descriptors(host: &Host) -> usize {
    fs::read_dir(format!("/proc/{}/fd", host.broker_pid()))
        .unwrap()
        .count()
}

#[test]
fn garbage_and_half_messages_end_the_connection_and_nothing_else() {
    let host = host!();
    let before = descriptors(&host);
    for bytes in [
        b"\0".as_slice(),
        b"\0\0\0",
        b"not json\0",
        b"{}\0",
        b"[]\0",
        b"{\"method\":7}\0",
        b"{\"method\":\"io.virtdisk.Open\"}\0",
        b"{\"method\":\"io.virtdisk.Open\",\"parameters\":{\"request\":{}}}\0",
        b"{\"method\":\"io.virtdisk.Nothing\",\"parameters\":{}}\0",
        b"{\"method\":\"io.virtdisk.Detach\",\"parameters\":{\"request\":{\"flags\":-1}}}\0",
        b"\xff\xfe\xfd\0",
        b"{\"half\":",
        &[b'['; 5000],
    ] {
        let mut stream = connect(&host);
        stream.write_all(bytes).unwrap();
        // Vanishes in the middle.
        drop(stream);
    }
    let deep = [vec![b'['; 100_000], vec![0]].concat();
    say(&host, &deep);
    // Well-formed nonsense is answered.
    let answer = say(
        &host,
        b"{\"method\":\"io.virtdisk.GetPhysicalPath\",\"parameters\":{\"request\":{}}}\0",
    );
    assert!(
        answer.contains("io.virtdisk.Failed") && answer.contains("87"),
        "{answer}"
    );
    let answer = say(
        &host,
        b"{\"method\":\"io.virtdisk.Nothing\",\"parameters\":{}}\0",
    );
    assert!(
        answer.is_empty() || answer.contains("MethodNotFound"),
        "{answer}"
    );
    wait_for("descriptors to be closed", || descriptors(&host) <= before);
    drop(host.dynamic("a.vhd", 8 * MIB));
}

#[test]
fn an_endless_message_is_cut_off() {
    let host = host!();
    let mut stream = connect(&host);
    let piece = vec![b'x'; 64 * 1024];
    let mut sent = 0;
    while sent < 64 << 20 && stream.write_all(&piece).is_ok() {
        sent += piece.len();
    }
    assert!(sent < 16 << 20, "{sent} bytes were taken");
    let status = fs::read_to_string(format!("/proc/{}/status", host.broker_pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 64 * 1024, "{kib} KiB");
}

#[test]
fn the_interface_describes_itself() {
    let host = host!();
    let info = say(&host, b"{\"method\":\"org.varlink.service.GetInfo\"}\0");
    assert!(
        info.contains("io.virtdisk") && info.contains("virtdiskd"),
        "{info}"
    );
    let description = say(
        &host,
        b"{\"method\":\"org.varlink.service.GetInterfaceDescription\",\
          \"parameters\":{\"interface\":\"io.virtdisk\"}}\0",
    );
    for word in [
        "method Detach",
        "method Attach",
        "type OpenRequest",
        "error Failed",
    ] {
        assert!(description.contains(word), "{word}: {description}");
    }
}

// A directory, a FIFO, a device node, an unreadable file, odd paths.
#[test]
fn what_is_no_image_file_is_refused_by_name() {
    let host = host!();
    let code = |path: &Path| {
        let options = OpenOptions::with_access(AccessMask::READ);
        host.service().open(path, &options).unwrap_err().code().0
    };
    assert_eq!(code(&host.path("")), 5);
    run("mkfifo", &[host.path("fifo").to_str().unwrap()]);
    assert_eq!(code(&host.path("fifo")), 0xC03A_0015);
    assert_eq!(code(Path::new("/dev/null")), 0xC03A_0015);
    assert_eq!(code(&host.path("missing")), 2);
    assert_eq!(code(&host.path("no/such/dir")), 3);
    let long = format!("/{}", "x/".repeat(2048));
    assert!(
        matches!(code(Path::new(&long)), 2 | 3 | 123),
        "{}",
        code(Path::new(&long))
    );
    fs::write(host.path("empty.vhd"), "").unwrap();
    let empty = code(&host.path("empty.vhd"));
    assert!(
        empty == 0xC03A_0001 || empty == 0xC03A_0013 || empty == 0xC03A_0012,
        "{empty:#x}"
    );
}

// Descriptors that are not what they should be, straight on the wire.
#[test]
fn descriptors_are_checked_on_arrival() {
    let host = host!();
    drop(host.dynamic("a.vhd", 8 * MIB));
    let image = host.path("a.vhd");
    let request = serde_json::json!({
        "method": "io.virtdisk.Open",
        "parameters": { "request": {
            "path": image, "device_id": 0,
            "vendor_id": "00000000-0000-0000-0000-000000000000",
            "access_mask": 0x000D_0000, "flags": 0, "version": 1, "rw_depth": 1,
            "get_info_only": false, "read_only": false,
            "resiliency_guid": "00000000-0000-0000-0000-000000000000",
        }},
    });
    let bytes = [serde_json::to_vec(&request).unwrap(), vec![0]].concat();
    let with = |files: &[&File]| -> String {
        let mut stream = connect(&host);
        let fds: Vec<_> = files.iter().map(std::os::fd::AsFd::as_fd).collect();
        let mut space = vec![std::mem::MaybeUninit::uninit(); 1024];
        let mut ancillary = rustix::net::SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(rustix::net::SendAncillaryMessage::ScmRights(&fds));
        }
        let iov = [std::io::IoSlice::new(&bytes)];
        let flags = rustix::net::SendFlags::empty();
        rustix::net::sendmsg(&stream, &iov, &mut ancillary, flags).unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while stream.read(&mut byte).is_ok_and(|n| n == 1) && byte[0] != 0 {
            answer.push(byte[0]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    };
    let good = File::open(&image).unwrap();
    assert!(with(&[&good]).contains("\"device_id\":2"));
    assert!(with(&[]).contains("exactly one file descriptor"));
    assert!(with(&[&good, &good]).contains("exactly one file descriptor"));
    let write_only = File::options().write(true).open(&image).unwrap();
    assert!(with(&[&write_only]).contains("must be open for reading"));
    let append = File::options()
        .read(true)
        .append(true)
        .open(&image)
        .unwrap();
    assert!(with(&[&append]).contains("not for appending"));
    let socket = File::from(std::os::fd::OwnedFd::from(UnixStream::pair().unwrap().0));
    assert!(with(&[&socket]).contains("no regular file"));
    let folder = File::open(host.path("")).unwrap();
    assert!(with(&[&folder]).contains("directory"));
}

#[test]
fn a_thousand_handles_at_once() {
    let host = host!();
    drop(host.dynamic("a.vhd", 8 * MIB));
    let before = descriptors(&host);
    let access = AccessMask::GET_INFO | AccessMask::DETACH;
    let handles: Vec<_> = (0..1000)
        .map(|_| host.open("a.vhd", access).unwrap())
        .collect();
    assert!(
        handles
            .iter()
            .all(|h| h.information().unwrap().virtual_size == 8 * MIB)
    );
    assert!(host.workers().len() <= 1);
    drop(handles);
    wait_for("descriptors to be closed", || descriptors(&host) <= before);
    wait_for("the worker to end", || host.workers().is_empty());
}

#[test]
fn a_hundred_disks_attached_at_once() {
    let host = host!();
    let disks: Vec<_> = (0..100)
        .map(|i| {
            let disk = host.dynamic(&format!("{i}.vhd"), 8 * MIB);
            let device = attach_permanent(&disk).device;
            write_device(&device, &[u8::try_from(i).unwrap(); 512], MIB);
            (disk, device)
        })
        .collect();
    assert_eq!(host.attached().len(), 100);
    for (i, (disk, device)) in disks.iter().enumerate() {
        assert_eq!(
            read_device(device, 512, MIB),
            vec![u8::try_from(i).unwrap(); 512]
        );
        assert!(disk.detach(DetachFlags::NONE).unwrap().gone);
    }
    assert!(host.workers().is_empty());
    assert!(disks.iter().all(|(_, device)| !is_bound(device)));
}

// A file that shrinks while attached gives errors, never another disk's bytes or a hang.
#[test]
fn a_file_that_shrinks_while_attached_gives_errors() {
    let host = host!();
    let disk = host.dynamic("a.vhd", 16 * MIB);
    let device = attach_permanent(&disk).device;
    write_device(&device, &[4; 8 << 20], 0);
    let file = File::options()
        .write(true)
        .open(host.path("a.vhd"))
        .unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(8192).unwrap();
    let mut bytes = vec![0; 4096];
    use std::os::unix::fs::FileExt;
    let read = File::open(&device)
        .unwrap()
        .read_exact_at(&mut bytes, 6 * MIB);
    assert!(
        read.is_err() || bytes == vec![4; 4096],
        "zeros where data had been"
    );
    let code = disk.detach(DetachFlags::NONE).unwrap_err().code().0;
    assert!(code >= 0xC03A_0001, "{code:#x}");
    assert!(is_bound(&device));
    // With its length back the image is what it was, but for the bytes that were cut off.
    file.set_len(length).unwrap();
    drop(disk);
    wait_for("the handle to close", || host.attached()[0].handles == 0);
    let by_device = host.service().open_attached(&device).unwrap();
    let code = by_device.detach(DetachFlags::NONE).unwrap_err().code().0;
    assert!(code >= 0xC03A_0001, "its footer is gone: {code:#x}");
    assert!(is_bound(&device));
}

/// A connection with a call and its files.
fn send(stream: &UnixStream, method: &str, request: serde_json::Value, files: &[&File]) {
    let call = serde_json::json!({
        "method": format!("io.virtdisk.{method}"), "parameters": { "request": request },
    });
    let bytes = [serde_json::to_vec(&call).unwrap(), vec![0]].concat();
    let fds: Vec<_> = files.iter().map(std::os::fd::AsFd::as_fd).collect();
    let mut space = vec![std::mem::MaybeUninit::uninit(); 1024];
    let mut ancillary = rustix::net::SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(rustix::net::SendAncillaryMessage::ScmRights(&fds));
    }
    let iov = [std::io::IoSlice::new(&bytes)];
    let flags = rustix::net::SendFlags::empty();
    rustix::net::sendmsg(stream, &iov, &mut ancillary, flags).unwrap();
}

/// The next answer on a connection.
fn hear(mut stream: &UnixStream) -> serde_json::Value {
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while stream.read(&mut byte).is_ok_and(|n| n == 1) && byte[0] != 0 {
        answer.push(byte[0]);
    }
    serde_json::from_slice(&answer).unwrap()
}

/// The code of a failure, 0 for an answer.
fn code(answer: &serde_json::Value) -> u64 {
    answer["parameters"]["code"].as_u64().unwrap_or(0)
}

/// A child whose parent lies elsewhere: base, child.
fn child_without_parent(host: &Host) -> (std::path::PathBuf, std::path::PathBuf) {
    drop(host.dynamic("base.vhd", 8 * MIB));
    let parameters = virtdisk::CreateParameters {
        parent_path: Some(host.path("base.vhd")),
        ..virtdisk::CreateParameters::default()
    };
    let options = virtdisk::CreateOptions {
        parameters,
        ..virtdisk::CreateOptions::default()
    };
    let child = host.path("child.vhd");
    drop(host.service().create(&child, &options).unwrap());
    wait_for("the workers to end", || host.workers().is_empty());
    let away = host.path("away");
    fs::rename(host.path("base.vhd"), &away).unwrap();
    (away, child)
}

fn open_request(image: &Path) -> serde_json::Value {
    serde_json::json!({
        "path": image, "device_id": 0,
        "vendor_id": "00000000-0000-0000-0000-000000000000",
        "access_mask": 0x000D_0000, "flags": 0, "version": 1, "rw_depth": 1,
        "get_info_only": false, "read_only": false,
        "resiliency_guid": "00000000-0000-0000-0000-000000000000",
    })
}

// Whatever is sent as a parent, an open goes on until it has the right one, or ends with its
// connection.
#[test]
fn an_open_that_waits_for_a_parent_takes_it_and_nothing_else() {
    let host = host!();
    let (base, child) = child_without_parent(&host);
    let (leaf, base) = (File::open(child).unwrap(), File::open(base).unwrap());
    let null = File::open("/dev/null").unwrap();
    let garbage = host.path("garbage");
    fs::write(&garbage, vec![7; 1 << 20]).unwrap();
    let garbage = File::open(garbage).unwrap();
    let parent = serde_json::json!({ "path": "/anything" });
    let open = open_request(&host.path("child.vhd"));

    let stream = connect(&host);
    let say = |method: &str, request: &serde_json::Value, files: &[&File]| {
        send(&stream, method, request.clone(), files);
        hear(&stream)
    };
    assert_eq!(code(&say("OpenParent", &parent, &[&base])), 87);
    let asked = say("Open", &open, &[&leaf]);
    let need = &asked["parameters"]["need_parent"];
    assert_eq!(
        (need["depth"].as_u64(), need["format"].as_str()),
        (Some(0), Some("vhd"))
    );
    assert_eq!(code(&say("Open", &open, &[&leaf])), 22);
    assert_eq!(
        code(&say("GetInformation", &serde_json::json!({}), &[])),
        87
    );
    assert_eq!(code(&say("OpenParent", &parent, &[])), 87);
    assert_eq!(code(&say("OpenParent", &parent, &[&null])), 0xC03A_0015);
    for (file, wanted) in [
        (&garbage, 0xC03A_0001),
        (&leaf, 0xC03A_0018),
        (&garbage, 0xC03A_0001),
    ] {
        let answer = say("OpenParent", &parent, &[file]);
        let need = &answer["parameters"]["need_parent"];
        assert_eq!(need["depth"].as_u64(), Some(0), "{answer}");
        assert_eq!(need["rejected_code"].as_u64(), Some(wanted), "{answer}");
    }
    let opened = say("OpenParent", &parent, &[&base]);
    assert!(opened["parameters"]["need_parent"].is_null(), "{opened}");
    let facts = say("GetInformation", &serde_json::json!({}), &[]);
    assert_eq!(facts["parameters"]["parent_resolved"].as_bool(), Some(true));
    assert_eq!(code(&say("OpenParent", &parent, &[&base])), 87);
}

#[test]
fn a_caller_who_never_sends_the_parent_leaves_nothing_behind() {
    let host = host!();
    let (base, child) = child_without_parent(&host);
    let leaf = File::open(&child).unwrap();
    let before = descriptors(&host);
    let open = open_request(&child);
    let waiting: Vec<UnixStream> = (0..20)
        .map(|_| {
            let stream = connect(&host);
            send(&stream, "Open", open.clone(), &[&leaf]);
            assert!(hear(&stream)["parameters"]["need_parent"].is_object());
            stream
        })
        .collect();
    // They keep nobody from the disk.
    fs::rename(&base, host.path("base.vhd")).unwrap();
    drop(host.open("child.vhd", AccessMask::ALL).unwrap());
    drop(waiting);
    wait_for("the workers to end", || host.workers().is_empty());
    wait_for("descriptors to be closed", || descriptors(&host) <= before);
}

// R-ASY-7: the source is all holes, which the copy has to read for a very long time.
#[test]
fn a_copy_that_nobody_waits_for_ends() {
    let host = host!();
    let source = File::create_new(host.path("source.img")).unwrap();
    source.set_len(8 << 40).unwrap();
    let source = File::open(host.path("source.img")).unwrap();
    let mut new = File::options();
    let new = new.read(true).write(true).create_new(true);
    let new = new.open(host.path("copy.vhdx")).unwrap();
    let nobody = uuid::Uuid::nil();
    let request = serde_json::json!({
        "path": host.path("copy.vhdx"), "device_id": 0, "vendor_id": nobody,
        "access_mask": 0, "flags": 0, "provider_flags": 0, "version": 2, "unique_id": nobody,
        "maximum_size": 0, "block_size": 0, "sector_size": 0, "physical_sector_size": 0,
        "open_flags": 0, "parent_path": "", "source_path": host.path("source.img"),
        "resiliency_guid": nobody,
    });
    let stream = connect(&host);
    send(&stream, "Create", request, &[&new, &source]);
    let header = || new.metadata().unwrap().len() > 0;
    wait_for("the copy to begin", header);
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(host.workers().len(), 1);
    drop(stream);
    wait_for("the copy to end", || host.workers().is_empty());
}
