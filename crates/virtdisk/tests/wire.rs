//! The client against services that misbehave: clear errors, never a hang, never a panic.
//!
//! The service is a thread at the other end of a socket pair. Every call runs under a time limit,
//! which only a hang can reach.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::io::{FdFlags, fcntl_getfd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use virtdisk::frame::MESSAGE_LIMIT_BYTES;
use virtdisk::{AttachFlags, AttachOptions, Code, DetachFlags, Result, VirtualDisk};

const LIMIT: Duration = Duration::from_secs(20);

/// A handle whose service is `service`.
fn handle(service: impl FnOnce(UnixStream) + Send + 'static) -> VirtualDisk {
    let (ours, theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || service(theirs));
    VirtualDisk::from_fd(OwnedFd::from(ours)).unwrap()
}

/// Runs a call under the time limit.
fn limited<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = channel();
    thread::spawn(move || sender.send(call()));
    receiver
        .recv_timeout(LIMIT)
        .expect("the call neither answers nor fails")
}

fn path_of(disk: VirtualDisk) -> (Result<std::path::PathBuf>, VirtualDisk) {
    limited(move || (disk.physical_path(), disk))
}

/// Reads one message with its NUL.
fn read_message(stream: &mut UnixStream) -> Vec<u8> {
    let mut message = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap_or(0) == 1 {
        message.push(byte[0]);
        if byte[0] == 0 {
            break;
        }
    }
    message
}

/// A service that reads a call and then sends these bytes and closes.
fn answering(bytes: impl AsRef<[u8]>) -> VirtualDisk {
    let bytes = bytes.as_ref().to_vec();
    handle(move |mut stream| {
        read_message(&mut stream);
        // The client may stop reading early.
        let _ = stream.write_all(&bytes);
    })
}

const GOOD: &str = "{\"parameters\":{\"path\":\"/dev/loop7\"}}\0";

fn send_fds(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .unwrap();
}

#[test]
fn call_is_a_varlink_call_with_one_parameter() {
    let (sender, receiver) = channel();
    let disk = handle(move |mut stream| {
        sender.send(read_message(&mut stream)).unwrap();
        stream
            .write_all(b"{\"parameters\":{\"gone\":true,\"holders\":[]}}\0")
            .unwrap();
    });
    assert!(
        limited(move || disk.detach(DetachFlags::NONE))
            .unwrap()
            .gone
    );
    let call = String::from_utf8(receiver.recv().unwrap()).unwrap();
    let wanted = "{\"method\":\"io.virtdisk.Detach\",\"parameters\":{\"request\":\
                  {\"flags\":0,\"provider_flags\":0,\"in_use\":\"page\"}}}\0";
    assert_eq!(call, wanted);
}

#[test]
fn garbage_is_no_answer() {
    let deep = format!("{}{}\0", "[".repeat(100_000), "]".repeat(100_000));
    for answer in [
        "hello\0",
        "\0",
        "{}\0",
        "null\0",
        "[1,2]\0",
        "{\"parameters\":5}\0",
        "{\"parameters\":{\"path\":5}}\0",
        "{\"parameters\":{\"path\":\"/x\"}\0",
        "{\"error\":5}\0",
        "{\"error\":\"io.virtdisk.Failed\",\"parameters\":{}}\0",
        "{\"error\":\"io.virtdisk.Failed\"}\0",
        "{\"error\":\"io.virtdisk.Other\",\"parameters\":{}}\0",
        &deep,
    ] {
        let (result, _) = path_of(answering(answer));
        let error = result.unwrap_err();
        assert_eq!(
            error.code(),
            Code::ERROR_INVALID_DATA,
            "{}",
            error.message()
        );
        assert!(!error.message().is_empty());
    }
    let (result, _) = path_of(answering(b"{\"parameters\":{\"path\":\"\xFF\"}}\0"));
    assert_eq!(result.unwrap_err().code(), Code::ERROR_INVALID_DATA);
}

#[test]
fn endless_answer_is_cut_off_at_the_limit() {
    let disk = handle(|mut stream| {
        read_message(&mut stream);
        while stream.write_all(&[b' '; 4096]).is_ok() {}
    });
    let (result, disk) = path_of(disk);
    let error = result.unwrap_err();
    assert_eq!(error.code(), Code::ERROR_INVALID_DATA);
    assert!(error.message().contains("262144"), "{}", error.message());
    drop(disk);
}

#[test]
fn answer_of_exactly_the_limit_is_read() {
    let padded = |length: usize| {
        let tail = "{\"parameters\":{\"path\":\"/dev/loop7\"}}\0";
        format!("{}{tail}", " ".repeat(length - tail.len()))
    };
    let (result, _) = path_of(answering(padded(MESSAGE_LIMIT_BYTES)));
    assert_eq!(result.unwrap().to_str(), Some("/dev/loop7"));
    let (result, _) = path_of(answering(padded(MESSAGE_LIMIT_BYTES + 1)));
    assert_eq!(result.unwrap_err().code(), Code::ERROR_INVALID_DATA);
}

#[test]
fn half_an_answer_is_a_closed_connection() {
    for end in [0, 1, 20, GOOD.len() - 1] {
        let (result, disk) = path_of(answering(&GOOD[..end]));
        assert_eq!(result.unwrap_err().code(), Code::ERROR_BROKEN_PIPE, "{end}");
        let (again, _) = path_of(disk);
        assert_eq!(again.unwrap_err().code(), Code::ERROR_BROKEN_PIPE);
    }
}

#[test]
fn slow_answer_is_put_together() {
    let disk = handle(|mut stream| {
        read_message(&mut stream);
        for byte in GOOD.bytes() {
            stream.write_all(&[byte]).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
    });
    assert_eq!(path_of(disk).0.unwrap().to_str(), Some("/dev/loop7"));
}

#[test]
fn service_that_is_gone_is_a_closed_connection() {
    let (result, _) = path_of(handle(drop));
    assert_eq!(result.unwrap_err().code(), Code::ERROR_BROKEN_PIPE);
}

#[test]
fn service_that_vanishes_inside_a_long_call_is_a_closed_connection() {
    let disk = handle(|mut stream| {
        let mut some = [0; 100];
        stream.read_exact(&mut some).unwrap();
    });
    let security_descriptor = Some("x".repeat(MESSAGE_LIMIT_BYTES - 1000));
    let options = AttachOptions {
        security_descriptor,
        ..AttachOptions::default()
    };
    let error = limited(move || disk.attach(&options)).unwrap_err();
    assert_eq!(error.code(), Code::ERROR_BROKEN_PIPE);
}

#[test]
fn call_above_the_limit_is_not_sent() {
    let disk = answering(GOOD);
    let security_descriptor = Some("x".repeat(MESSAGE_LIMIT_BYTES));
    let options = AttachOptions {
        security_descriptor,
        ..AttachOptions::default()
    };
    assert_eq!(
        disk.attach(&options).unwrap_err().code(),
        Code::ERROR_INVALID_PARAMETER
    );
    assert!(path_of(disk).0.is_ok(), "the connection is as before");
}

#[test]
fn two_answers_end_the_connection() {
    let (result, disk) = path_of(answering(format!("{GOOD}{GOOD}")));
    assert_eq!(result.unwrap_err().code(), Code::ERROR_INVALID_DATA);
    assert_eq!(path_of(disk).0.unwrap_err().code(), Code::ERROR_BROKEN_PIPE);
    let (result, _) = path_of(answering(
        "{\"continues\":true,\"parameters\":{\"path\":\"\"}}\0",
    ));
    assert_eq!(result.unwrap_err().code(), Code::ERROR_INVALID_DATA);
}

#[test]
fn failure_comes_through_word_for_word_and_leaves_the_handle_usable() {
    let disk = handle(|mut stream| {
        read_message(&mut stream);
        let failure = "{\"error\":\"io.virtdisk.Failed\",\"parameters\":{\"code\":170,\
             \"message\":\"/a.vhd: in use\",\"hint\":\"unmount it\",\"holders\":[{\"kind\":\
             \"mount\",\"node\":\"/dev/loop0p1\",\"place\":\
             \"/mnt\",\"pid\":0,\"command\":\"\"}]}}\0";
        stream.write_all(failure.as_bytes()).unwrap();
        read_message(&mut stream);
        stream.write_all(GOOD.as_bytes()).unwrap();
    });
    let (result, disk) = path_of(disk);
    let error = result.unwrap_err();
    assert_eq!(error.code(), Code::ERROR_BUSY);
    assert_eq!(
        (error.message(), error.hint()),
        ("/a.vhd: in use", "unmount it")
    );
    assert_eq!(error.holders()[0].place, "/mnt");
    assert!(path_of(disk).0.is_ok());
}

#[test]
fn errors_of_varlink_itself_have_codes() {
    for (name, code) in [
        ("MethodNotFound", Code::ERROR_CALL_NOT_IMPLEMENTED),
        ("InvalidParameter", Code::ERROR_INVALID_PARAMETER),
        ("PermissionDenied", Code::ERROR_ACCESS_DENIED),
    ] {
        let answer = format!("{{\"error\":\"org.varlink.service.{name}\",\"parameters\":{{}}}}\0");
        let error = path_of(answering(answer)).0.unwrap_err();
        assert_eq!(error.code(), code);
        assert!(error.message().contains(name));
    }
}

/// Attaches with NO_LOCAL_HOST to a service that sends `count` copies of the writing end of a
/// pipe; answers the result and the reading end, which sees end of file once all are closed.
fn attach_with_fds(count: usize) -> (Result<virtdisk::Attached>, std::io::PipeReader) {
    let (reader, writer) = std::io::pipe().unwrap();
    let disk = handle(move |mut stream| {
        read_message(&mut stream);
        let answer = b"{\"parameters\":{\"device\":\"\",\"partitions\":[]}}\0";
        let fds = vec![writer.as_fd(); count];
        if count == 0 {
            stream.write_all(answer).unwrap();
        } else {
            send_fds(&stream, answer, &fds);
        }
    });
    let options = AttachOptions {
        flags: AttachFlags::NO_LOCAL_HOST,
        ..AttachOptions::default()
    };
    (limited(move || disk.attach(&options)), reader)
}

#[test]
fn raw_attachment_brings_one_descriptor_that_children_do_not_get() {
    let (result, _reader) = attach_with_fds(1);
    let file = result.unwrap().raw_file.unwrap();
    assert!(fcntl_getfd(&file).unwrap().contains(FdFlags::CLOEXEC));
}

#[test]
fn wrong_number_of_descriptors_is_no_answer_and_leaks_none() {
    for count in [0, 2, 3, 4, 5, 60] {
        let (result, mut reader) = attach_with_fds(count);
        assert_eq!(
            result.unwrap_err().code(),
            Code::ERROR_INVALID_DATA,
            "{count}"
        );
        let end = limited(move || reader.read(&mut [0]).unwrap());
        assert_eq!(end, 0, "{count}: all copies are closed");
    }
}

#[test]
fn unasked_descriptor_is_closed_and_refused() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let disk = handle(move |mut stream| {
        read_message(&mut stream);
        send_fds(&stream, GOOD.as_bytes(), &[writer.as_fd()]);
    });
    let (result, _disk) = path_of(disk);
    assert_eq!(result.unwrap_err().code(), Code::ERROR_INVALID_DATA);
    assert_eq!(limited(move || reader.read(&mut [0]).unwrap()), 0);
}

#[test]
fn socket_that_was_made_non_blocking_still_waits() {
    let disk = handle(|mut stream| {
        thread::sleep(Duration::from_millis(50));
        read_message(&mut stream);
        thread::sleep(Duration::from_millis(50));
        stream.write_all(GOOD.as_bytes()).unwrap();
    });
    let fd = disk.into_fd();
    rustix::io::ioctl_fionbio(&fd, true).unwrap();
    let disk = VirtualDisk::from_fd(fd).unwrap();
    assert_eq!(path_of(disk).0.unwrap().to_str(), Some("/dev/loop7"));
}

#[test]
fn calls_of_several_threads_take_turns() {
    let disk = Arc::new(handle(|mut stream| {
        while !read_message(&mut stream).is_empty() {
            thread::sleep(Duration::from_millis(2));
            stream.write_all(GOOD.as_bytes()).unwrap();
        }
    }));
    limited(move || {
        thread::scope(|scope| {
            for _ in 0..8 {
                let disk = Arc::clone(&disk);
                scope.spawn(move || {
                    for _ in 0..5 {
                        assert!(disk.physical_path().is_ok());
                    }
                });
            }
        });
    });
}

// R-HND-5
#[test]
fn descriptor_that_is_no_handle_is_refused() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    let datagram = std::os::unix::net::UnixDatagram::unbound().unwrap();
    for fd in [
        OwnedFd::from(reader),
        OwnedFd::from(file),
        OwnedFd::from(datagram),
    ] {
        let error = VirtualDisk::from_fd(fd).unwrap_err();
        assert_eq!(error.code(), Code::ERROR_INVALID_PARAMETER);
    }
}
