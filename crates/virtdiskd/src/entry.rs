//! One disk of the service: its image file, its worker, its handles, its attachment.
//!
//! Everything in [`State`] changes under one lock per disk, so two verbs on one disk never
//! overlap and two disks never wait for each other. The broker holds descriptors and facts; it
//! never reads an image byte.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use virtdisk_disk::lock::{self, Level};

use crate::attachment::{Attachment, Stage};
use crate::chain::{self, Parents};
use crate::failure::{Result, system};
use crate::handle::Handle;
use crate::question::{Answer, ImageFacts, Open, Question};
use crate::worker_link::{NoAnswer, WorkerLink};

/// Identity of a disk: device and inode of its leaf file (design 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileId {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
}

/// Who owns the image file, for the device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// Called when a worker ends: which disk, which worker.
pub type Ended = Arc<dyn Fn(FileId, u64) + Send + Sync>;

/// One disk.
pub struct Entry {
    /// Its identity.
    pub id: FileId,
    /// What changes.
    pub state: Mutex<State>,
}

/// The image file as the worker has it.
#[derive(Debug, Clone)]
pub struct ImageFile {
    /// The caller's open file; its locks are tied to it.
    pub file: Arc<OwnedFd>,
    /// Opened for writing.
    pub writable: bool,
    /// The lock that is held.
    pub level: Level,
}

/// What changes about a disk.
pub struct State {
    /// Identity, for news about the worker.
    pub id: FileId,
    /// Whom to tell that a worker ended.
    pub ended: Ended,
    /// Taken out of the table: look again.
    pub gone: bool,
    /// Real path of the image file.
    pub file: String,
    /// How the image is opened.
    pub open: Open,
    /// Owner of the image file.
    pub owner: Owner,
    /// The image file; `None` after a broker's death until somebody opens the image again.
    pub image: Option<ImageFile>,
    /// Its parents, nearest first; empty while a differencing image is open alone.
    pub parents: Parents,
    /// What the image says of itself.
    pub facts: ImageFacts,
    /// The worker that has the image open.
    pub worker: Option<WorkerLink>,
    /// Open handles.
    pub handles: BTreeMap<u64, Handle>,
    /// The attachment.
    pub attachment: Option<Attachment>,
}

/// Starts a worker and a thread that waits for its end.
///
/// # Errors
/// What the kernel says.
pub fn start_worker(id: FileId, ended: &Ended) -> std::io::Result<WorkerLink> {
    let (link, child) = WorkerLink::start()?;
    watch_worker(id, link, Some(child), ended)
}

/// Has somebody told when a worker ends; an adopted one is not this broker's child.
///
/// # Errors
/// What the kernel says.
pub fn watch_worker(
    id: FileId,
    mut link: WorkerLink,
    child: Option<std::process::Child>,
    ended: &Ended,
) -> std::io::Result<WorkerLink> {
    let (generation, ended) = (link.generation(), Arc::clone(ended));
    link.watch(child, move || ended(id, generation))?;
    Ok(link)
}

impl State {
    /// Opens the image, with the parents that are known, in a fresh worker; the old one, if any,
    /// is closed first.
    ///
    /// # Errors
    /// The format's own code, 0xC03A000D when a parent is not known, or what went wrong with the
    /// worker.
    pub fn open_image(&mut self, image: &ImageFile) -> Result<()> {
        if let Some(old) = self.worker.take() {
            // An image opened read-only has nothing to give back.
            let _ = old.ask(&Question::Close, &[]);
        }
        let link =
            start_worker(self.id, &self.ended).map_err(|e| system("starting a worker", &e))?;
        let mut open = self.open.clone();
        open.writable = image.writable;
        open.parents = chain::names(&self.parents);
        let mut files = vec![image.file.as_fd()];
        files.extend(self.parents.iter().map(|parent| parent.file()));
        let facts = link
            .ask_facts(&Question::Open(open.clone()), &files)
            .map_err(|e| e.into_failure(&self.file))?;
        self.open = open;
        self.facts = facts;
        self.worker = Some(link);
        Ok(())
    }

    /// Makes sure that a worker has the image open.
    fn ensure_worker(&mut self) -> Result<()> {
        if self.worker.is_some() {
            return Ok(());
        }
        match self.image.clone() {
            Some(image) => self.open_image(&image),
            None => Err(crate::failure::hinted(
                virtdisk::Code::ERROR_NOT_READY,
                format!(
                    "{}: no open file of this image is left in the service",
                    self.file
                ),
                "open the image file by its path",
            )),
        }
    }

    /// Asks the disk's worker, starting or replacing it where needed.
    ///
    /// # Errors
    /// The format's own code, or what went wrong with the worker.
    pub fn ask(&mut self, question: &Question) -> Result<Answer> {
        for attempt in 0..2 {
            if self.worker.is_none() && self.is_served() {
                self.replace_worker()?;
            }
            self.ensure_worker()?;
            let Some(link) = &self.worker else { continue };
            match link.ask(question, &[]) {
                Ok(answer) => return Ok(answer),
                Err(NoAnswer::Refused(refusal)) => {
                    return Err(crate::failure::refused(refusal));
                }
                Err(dead @ NoAnswer::Dead(_)) => {
                    self.worker = None;
                    if attempt == 1 {
                        return Err(dead.into_failure(&self.file));
                    }
                }
            }
        }
        Err(NoAnswer::Dead(std::io::ErrorKind::BrokenPipe.into()).into_failure(&self.file))
    }

    /// Is the disk served by a worker over FUSE?
    pub fn is_served(&self) -> bool {
        self.attachment.as_ref().is_some_and(|a| a.served.is_some())
    }

    /// Starts a worker that takes over a live FUSE connection (design 2.4).
    ///
    /// # Errors
    /// When the image does not open any more, or the worker does not come up.
    pub fn replace_worker(&mut self) -> Result<()> {
        self.worker = None;
        let Some(image) = self.image.clone() else {
            return self.ensure_worker();
        };
        self.open_image(&image)?;
        let (Some(link), Some(served)) = (
            &self.worker,
            self.attachment.as_ref().and_then(|a| a.served.as_ref()),
        ) else {
            return Ok(());
        };
        let mut serve = served.asked.clone();
        serve.resend = true;
        let fds = [served.connection.as_fd(), served.listener.as_fd()];
        link.ask(&Question::Serve(serve), &fds)
            .map(drop)
            .map_err(|e| e.into_failure(&self.file))
    }

    /// Closes the worker: slack given back, all durable. Without a worker there is nothing.
    ///
    /// # Errors
    /// What the format says while closing; the worker is gone in any case.
    pub fn close_worker(&mut self) -> Result<()> {
        let Some(link) = self.worker.take() else {
            return Ok(());
        };
        let closed = link.ask(&Question::Close, &[]).map(drop);
        if closed.is_err() {
            link.kill();
        }
        link.wait_end();
        closed.map_err(|error| error.into_failure(&self.file))
    }

    /// Takes or gives back locks, so that the file carries what the handles and the attachment
    /// need.
    pub fn settle_lock(&mut self) {
        let attached = self.attachment.as_ref().map_or(Level::None, |a| {
            if a.read_only {
                Level::Read
            } else {
                Level::Write
            }
        });
        let wanted = self
            .handles
            .values()
            .map(Handle::level)
            .chain([attached])
            .max()
            .unwrap_or(Level::None);
        if let Some(image) = &mut self.image
            && wanted < image.level
            && lock::change(image.file.as_fd(), image.level, wanted).is_ok()
        {
            image.level = wanted;
        }
        if wanted > Level::None {
            // A parent that a handle of this service guarded may be free by now.
            let _ = chain::lock_all(&self.parents);
        }
    }

    /// Is every byte of the disk at hand? Not those of a differencing image that is open alone.
    pub fn is_complete(&self) -> bool {
        !self.is_differencing() || !self.open.alone
    }

    /// Is it a differencing image?
    pub fn is_differencing(&self) -> bool {
        self.facts.parent.is_some()
    }

    /// Is nothing left that needs this disk?
    pub fn is_idle(&self) -> bool {
        self.handles.is_empty() && self.attachment.is_none()
    }

    /// The attachment's stage.
    pub fn stage(&self) -> Option<Stage> {
        self.attachment.as_ref().map(|a| a.stage)
    }
}
