//! The worker: parses and serves one image, with descriptors and nothing else.
//!
//! It answers the broker's questions one by one on its link (standard input), while threads of
//! the device floor serve the disk. When the broker dies, a worker that serves goes on, and
//! waits on its listening socket for the next broker; one that serves nothing ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;

use virtdisk::Code;
use virtdisk_device::fuse::Server;
use virtdisk_disk::{Disk, partition};

use crate::code_map::code_of_kind;
use crate::packet;
use crate::parents::Asked;
use crate::question::{
    Answer, ImageFacts, Introduction, Open, PartitionEntry, PhysicalAnswer, Question, Refusal,
    Serve,
};
use crate::{make, sandbox};

/// Threads that serve one disk.
const SERVING_THREADS: usize = 2;

/// Runs a worker on its link until there is nothing left to do.
///
/// # Errors
/// When rights cannot be given up, or the link breaks in the middle of a message.
pub fn run() -> anyhow::Result<()> {
    let link = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3)?;
    if let Err(error) = virtdisk_device::io_flusher() {
        tracing::debug!("not marked as an I/O flusher: {error}");
    }
    sandbox::enter()?;
    Worker {
        link: Some(link),
        open: None,
        serving: None,
    }
    .run()
}

/// What a worker holds.
struct Worker {
    link: Option<OwnedFd>,
    open: Option<OpenImage>,
    serving: Option<Serving>,
}

/// The open image.
struct OpenImage {
    disk: Disk,
    /// The same open files, to hand to the next broker.
    file: File,
    parents: Vec<OwnedFd>,
    asked: Open,
    facts: ImageFacts,
}

/// The disk being served.
struct Serving {
    /// Ends when the file is gone; a thread that can't go on ends the process.
    threads: JoinHandle<()>,
    connection: OwnedFd,
    listener: OwnedFd,
    asked: Serve,
}

impl Worker {
    /// Answers questions until the link ends and nothing is served.
    fn run(mut self) -> anyhow::Result<()> {
        loop {
            let Some(link) = &self.link else {
                match self.wait_for_broker()? {
                    Some(link) => self.link = Some(link),
                    None => return Ok(()),
                }
                continue;
            };
            let Some((question, fds)) = packet::receive::<Question>(link.as_fd())? else {
                self.link = None;
                continue;
            };
            let last = matches!(question, Question::Close);
            let answer = self.answer(question, fds).unwrap_or_else(Answer::Refused);
            let Some(link) = &self.link else {
                return Ok(());
            };
            // A broker that died meanwhile is noticed by the next receive.
            let _ = packet::send(link.as_fd(), &answer, &[]);
            if last {
                return Ok(());
            }
        }
    }

    /// Waits for the next broker, or for the end of what is served.
    fn wait_for_broker(&mut self) -> io::Result<Option<OwnedFd>> {
        let (Some(serving), Some(image)) = (&self.serving, &self.open) else {
            return Ok(None);
        };
        loop {
            if serving.threads.is_finished() {
                return Ok(None);
            }
            let patience = std::time::Duration::from_millis(500);
            match packet::wait_readable(serving.listener.as_fd(), patience) {
                Err(e) if e.kind() == io::ErrorKind::TimedOut => continue,
                other => other?,
            }
            let link =
                rustix::net::accept_with(&serving.listener, rustix::net::SocketFlags::CLOEXEC)?;
            let own = rustix::process::geteuid();
            let peer = rustix::net::sockopt::socket_peercred(&link)?;
            if peer.uid != own {
                continue;
            }
            let introduction = Introduction {
                open: image.asked.clone(),
                facts: image.facts.clone(),
                serve: serving.asked.clone(),
                pid: std::process::id(),
            };
            let mut fds = vec![
                image.file.as_fd(),
                serving.connection.as_fd(),
                serving.listener.as_fd(),
            ];
            fds.extend(image.parents.iter().map(AsFd::as_fd));
            if packet::send(link.as_fd(), &introduction, &fds).is_ok() {
                return Ok(Some(link));
            }
        }
    }

    /// Answers one question.
    fn answer(&mut self, question: Question, mut fds: Vec<OwnedFd>) -> Result<Answer, Refusal> {
        match question {
            Question::Open(asked) => {
                let file = take(&mut fds)?;
                self.open(asked, file, fds)
            }
            Question::Resolve(asked) => self.resolve(&asked, take(&mut fds)?),
            // Only `resolve` has a use for it.
            Question::Parent(name) => Err(Refusal {
                code: Code::ERROR_BAD_COMMAND.0,
                message: format!("{name}: no parent is asked for"),
            }),
            Question::Create(asked) => make::create(&asked, fds),
            Question::Touch => self
                .image()?
                .disk
                .touch()
                .map_err(|e| refusal(&e))
                .map(done),
            Question::Partitions => self.partitions(),
            Question::Serve(asked) => {
                let connection = take(&mut fds)?;
                let listener = take(&mut fds)?;
                self.serve(asked, connection, listener)
            }
            Question::Validate => self
                .image()?
                .disk
                .validate()
                .map_err(|e| refusal(&e))
                .map(done),
            Question::Flush => self
                .image()?
                .disk
                .flush()
                .map_err(|e| refusal(&e))
                .map(done),
            Question::Physical => self.physical(),
            Question::Close => self.close(),
        }
    }

    /// Opens the image, with its parents.
    fn open(&mut self, asked: Open, fd: OwnedFd, parents: Vec<OwnedFd>) -> Result<Answer, Refusal> {
        let file = File::from(fd);
        let copy = |file: &OwnedFd| file.try_clone();
        let copies: io::Result<Vec<OwnedFd>> = parents.iter().map(copy).collect();
        let copies = copies.map_err(|e| trouble(&asked.name, &e))?;
        let same = file.try_clone().map_err(|e| trouble(&asked.name, &e))?;
        let disk = make::open(&asked, file, parents)?;
        let facts = ImageFacts::new(disk.facts(), disk.direct());
        self.open = Some(OpenImage {
            disk,
            file: same,
            parents: copies,
            asked,
            facts: facts.clone(),
        });
        Ok(Answer::Facts(Box::new(facts)))
    }

    /// Opens the image for reading, asks for its parents one by one, and lets all go again.
    fn resolve(&self, asked: &Open, fd: OwnedFd) -> Result<Answer, Refusal> {
        let link = self.link.as_ref().ok_or_else(|| lacks("broker"))?;
        let mut gate = Asked { link };
        let options = make::options(asked);
        let disk = Disk::open_with(File::from(fd), &asked.name, &options, &mut gate)
            .map_err(|e| refusal(&e))?;
        let facts = ImageFacts::new(disk.facts(), disk.direct());
        Ok(Answer::Facts(Box::new(facts)))
    }

    /// The partition table of the open disk.
    fn partitions(&self) -> Result<Answer, Refusal> {
        let found = partition::read(&self.image()?.disk).map_err(|e| refusal(&e))?;
        let entries = found
            .iter()
            .map(|p| PartitionEntry {
                number: p.number,
                offset: p.offset,
                length: p.len,
            })
            .collect();
        Ok(Answer::Partitions(entries))
    }

    /// Starts serving.
    fn serve(
        &mut self,
        asked: Serve,
        connection: OwnedFd,
        listener: OwnedFd,
    ) -> Result<Answer, Refusal> {
        let image = self.image()?;
        let name = image.asked.name.clone();
        let copy = connection.try_clone().map_err(|e| trouble(&name, &e))?;
        let server = Server::start(
            copy,
            image.disk.clone(),
            (asked.offset, asked.length),
            asked.read_only,
            SERVING_THREADS,
            asked.resend,
        )
        .map_err(|e| trouble(&name, &e))?;
        let threads = std::thread::Builder::new()
            .name("serve-end".to_owned())
            .spawn(move || {
                if let Err(error) = server.wait() {
                    // Requests may be unanswered: the broker starts another worker.
                    tracing::error!("serving: {error}");
                    std::process::exit(1);
                }
            })
            .map_err(|e| trouble(&name, &e))?;
        self.serving = Some(Serving {
            threads,
            connection,
            listener,
            asked,
        });
        Ok(Answer::Done)
    }

    /// What changes while a disk is open.
    fn physical(&self) -> Result<Answer, Refusal> {
        let disk = &self.image()?.disk;
        let facts = disk.physical().map_err(|e| refusal(&e))?;
        Ok(Answer::Physical(PhysicalAnswer {
            file_length: facts.file_length,
            allocated: facts.allocated_bytes,
            fragmentation: facts.fragmentation_percent,
            aligned_4k: facts.data_aligned_4k,
            smallest_safe_size: partition::smallest_safe_size(disk).unwrap_or(None),
        }))
    }

    /// Ends the serving threads, whose connection is gone by now, and closes the image.
    fn close(&mut self) -> Result<Answer, Refusal> {
        if let Some(serving) = self.serving.take() {
            drop(serving.connection);
            // It only ends well, or with the process.
            let _ = serving.threads.join();
        }
        match self.open.take() {
            Some(image) => image.disk.close().map_err(|e| refusal(&e)).map(done),
            None => Ok(Answer::Done),
        }
    }

    /// The open image.
    fn image(&self) -> Result<&OpenImage, Refusal> {
        self.open.as_ref().ok_or_else(|| lacks("image open"))
    }
}

/// What was asked needs something that is not there.
fn lacks(what: &str) -> Refusal {
    Refusal {
        code: Code::ERROR_BAD_COMMAND.0,
        message: format!("the worker has no {what}"),
    }
}

/// The next descriptor.
pub fn take(fds: &mut Vec<OwnedFd>) -> Result<OwnedFd, Refusal> {
    if fds.is_empty() {
        return Err(Refusal {
            code: Code::ERROR_INVALID_PARAMETER.0,
            message: "a descriptor is missing".to_owned(),
        });
    }
    Ok(fds.remove(0))
}

/// Nothing to tell.
fn done((): ()) -> Answer {
    Answer::Done
}

/// A refusal from what the disk says.
pub fn refusal(error: &virtdisk_disk::Error) -> Refusal {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    Refusal {
        code: code_of_kind(error.kind()).0,
        message,
    }
}

/// A refusal from what the operating system says.
pub fn trouble(name: &str, error: &io::Error) -> Refusal {
    Refusal {
        code: crate::code_map::code_of_io(error).0,
        message: format!("{name}: {error}"),
    }
}
