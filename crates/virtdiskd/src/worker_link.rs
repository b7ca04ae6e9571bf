//! The broker's end of a worker: start it, ask it, notice its end.
//!
//! A worker is this same program, started again as `virtdiskd worker` with the link as its
//! standard input. The broker believes nothing that a worker says about rights: answers are
//! facts about an image, and a worker that does not answer in time is killed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use virtdisk::Code;
use virtdisk::frame::Failure;

use crate::failure::{fail, refused};
use crate::packet;
use crate::question::{Answer, ImageFacts, Introduction, Question, Refusal};

/// Longest time a question about an image's structures may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest time making data durable, or writing a fixed image, may take.
const LONG_PATIENCE: Duration = Duration::from_secs(3600);
/// Longest time a copy may take.
const COPY_PATIENCE: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often it is looked whether an answer is still wanted.
const LOOK: Duration = Duration::from_millis(250);

/// Longest time a worker may take to end.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// Numbers workers, so that news of an old one is not taken for news of its successor.
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// One worker.
#[derive(Debug)]
pub struct WorkerLink {
    link: OwnedFd,
    pid: u32,
    generation: u64,
    /// Disconnected once the worker has ended and is reaped.
    end: (Option<Sender<()>>, Receiver<()>),
}

/// Why a question got no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// The worker said no.
    Refused(Refusal),
    /// The worker is dead, or was killed because it said nothing or nonsense.
    Dead(io::Error),
}

impl WorkerLink {
    /// Starts a worker. The child is for the one who waits for its end.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn start() -> io::Result<(Self, Child)> {
        let (ours, theirs) = packet::pair()?;
        let child = Command::new("/proc/self/exe")
            .arg0("virtdiskd")
            .arg("worker")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(crate::log::for_worker())
            .current_dir("/")
            .spawn()?;
        Ok((Self::over(ours, child.id()), child))
    }

    /// Takes over a worker that lost its broker.
    ///
    /// # Errors
    /// What the socket says; `InvalidData` when it introduces itself wrongly.
    pub fn adopt(link: OwnedFd) -> io::Result<(Self, Introduction, Vec<OwnedFd>)> {
        packet::wait_readable(link.as_fd(), PATIENCE)?;
        match packet::receive::<Introduction>(link.as_fd())? {
            Some((introduction, fds)) if fds.len() >= 3 => {
                Ok((Self::over(link, introduction.pid), introduction, fds))
            }
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "no introduction",
            )),
        }
    }

    /// A link over a connected socket.
    fn over(link: OwnedFd, pid: u32) -> Self {
        let (sender, receiver) = channel();
        let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
        Self {
            link,
            pid,
            generation,
            end: (Some(sender), receiver),
        }
    }

    /// Which worker this is.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Waits for the worker's end in a thread of its own, reaps it, and then tells.
    ///
    /// # Errors
    /// Out of descriptors or threads.
    pub fn watch(
        &mut self,
        child: Option<Child>,
        tell: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let (link, sender) = (self.link.try_clone()?, self.end.0.take());
        let wait = move || {
            packet::wait_closed(link.as_fd());
            if let Some(mut child) = child {
                let _ = child.wait();
            }
            drop(sender);
            tell();
        };
        let thread = std::thread::Builder::new().name("worker-watch".into());
        thread.stack_size(128 * 1024).spawn(wait).map(drop)
    }

    /// Has the worker ended, and is it reaped?
    pub fn has_ended(&self) -> bool {
        self.end.1.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Waits until the worker, which was closed or killed, has ended.
    pub fn wait_end(&self) {
        if self.end.1.recv_timeout(END_PATIENCE) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("worker {} does not end", self.pid);
        }
    }

    /// Asks one question.
    ///
    /// # Errors
    /// See [`NoAnswer`].
    pub fn ask(&self, question: &Question, fds: &[BorrowedFd<'_>]) -> Result<Answer, NoAnswer> {
        self.ask_while(question, fds, || true)
    }

    /// Asks one question, as long as somebody wants the answer.
    ///
    /// # Errors
    /// See [`NoAnswer`]; a worker whose answer nobody wants any more is killed.
    pub fn ask_while(
        &self,
        question: &Question,
        fds: &[BorrowedFd<'_>],
        wanted: impl Fn() -> bool,
    ) -> Result<Answer, NoAnswer> {
        let deadline = Instant::now() + patience(question);
        let answer = packet::send(self.link.as_fd(), question, fds)
            .and_then(|()| self.wait_answer(deadline, wanted))
            .and_then(|()| packet::receive::<Answer>(self.link.as_fd()));
        match answer {
            Ok(Some((Answer::Refused(refusal), _))) => Err(NoAnswer::Refused(refusal)),
            Ok(Some((answer, _))) => Ok(answer),
            Ok(None) => Err(NoAnswer::Dead(io::ErrorKind::BrokenPipe.into())),
            Err(error) => {
                self.kill();
                Err(NoAnswer::Dead(error))
            }
        }
    }

    /// Waits until there is an answer, looking now and then whether it is still wanted.
    fn wait_answer(&self, deadline: Instant, wanted: impl Fn() -> bool) -> io::Result<()> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match packet::wait_readable(self.link.as_fd(), left.min(LOOK)) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    if left.is_zero() || !wanted() {
                        return Err(error);
                    }
                }
                done => return done,
            }
        }
    }

    /// Asks a question whose answer is facts.
    ///
    /// # Errors
    /// See [`NoAnswer`].
    pub fn ask_facts(
        &self,
        question: &Question,
        files: &[BorrowedFd<'_>],
    ) -> Result<ImageFacts, NoAnswer> {
        match self.ask(question, files)? {
            Answer::Facts(facts) => Ok(*facts),
            other => Err(self.nonsense(&other)),
        }
    }

    /// Kills a worker that gives the wrong kind of answer.
    pub fn nonsense(&self, answer: &Answer) -> NoAnswer {
        self.kill();
        NoAnswer::Dead(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the worker's answer makes no sense: {answer:?}"),
        ))
    }

    /// Kills the worker.
    pub fn kill(&self) {
        let pid = i32::try_from(self.pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Longest time a question may take.
fn patience(question: &Question) -> Duration {
    match question {
        Question::Flush | Question::Close => LONG_PATIENCE,
        // A copy takes as long as it takes.
        Question::Create(create) if create.base.is_some() => COPY_PATIENCE,
        Question::Create(_) => LONG_PATIENCE,
        _ => PATIENCE,
    }
}

impl Drop for WorkerLink {
    fn drop(&mut self) {
        // The thread that waits for the worker's end holds a copy of this descriptor: only a
        // shutdown tells the worker that nobody asks any more.
        let _ = rustix::net::shutdown(&self.link, rustix::net::Shutdown::Both);
    }
}

impl NoAnswer {
    /// As the caller hears it.
    pub fn into_failure(self, name: &str) -> Failure {
        match self {
            Self::Refused(refusal) => refused(refusal),
            Self::Dead(error) => fail(
                Code::ERROR_VHD_METADATA_READ_FAILURE,
                format!("{name}: the worker that reads this image ended unexpectedly ({error})"),
            ),
        }
    }
}
