//! The table of disks and handles: finds the disk a call is about, and lets disks come and go.
//!
//! The verbs (`verb/`) are methods of [`Engine`], one file each. Locks are taken in one order:
//! the table first and briefly, then one disk.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::attachment::Stage;
use crate::caller;
use crate::chain::Registry;
use crate::entry::{Ended, Entry, FileId, State};
use crate::failure::{Result, fail};
use crate::record;

/// Names one open handle: the disk and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandleId {
    /// The disk.
    pub disk: FileId,
    /// The handle's number, never used twice.
    pub number: u64,
}

/// The service, without its sockets.
pub struct Engine {
    table: Mutex<HashMap<FileId, Arc<Entry>>>,
    counter: AtomicU64,
    /// Where sockets of workers and records of attachments lie.
    pub dir: PathBuf,
    /// This process may make devices.
    pub able: bool,
    registry: Arc<Registry>,
    ended: Ended,
}

impl Engine {
    /// A service without disks.
    pub fn new(dir: &Path) -> Arc<Self> {
        Arc::new_cyclic(|weak: &std::sync::Weak<Self>| {
            let weak = weak.clone();
            Self {
                table: Mutex::new(HashMap::new()),
                counter: AtomicU64::new(1),
                dir: dir.to_owned(),
                able: caller::service_is_able(),
                registry: Arc::default(),
                ended: Arc::new(move |id, generation| {
                    if let Some(engine) = weak.upgrade() {
                        engine.worker_ended(id, generation);
                    }
                }),
            }
        })
    }

    /// Whom to tell that a worker ended.
    pub fn ended(&self) -> Ended {
        Arc::clone(&self.ended)
    }

    /// Which files are parents of something open.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The next number for a handle or an attachment.
    pub fn next_number(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// Numbers start above those of an earlier service's attachments.
    pub fn skip_numbers(&self, used: u64) {
        self.counter
            .fetch_max(used.saturating_add(1), Ordering::Relaxed);
    }

    /// Finds the disk, or puts in what `make` gives.
    pub fn find_or_insert(&self, id: FileId, make: impl FnOnce() -> State) -> Arc<Entry> {
        let mut table = self.table.lock();
        Arc::clone(table.entry(id).or_insert_with(|| {
            Arc::new(Entry {
                id,
                state: Mutex::new(make()),
            })
        }))
    }

    /// Finds a disk.
    pub fn find(&self, id: FileId) -> Option<Arc<Entry>> {
        self.table.lock().get(&id).cloned()
    }

    /// All disks.
    pub fn all(&self) -> Vec<Arc<Entry>> {
        self.table.lock().values().cloned().collect()
    }

    /// Runs `work` on the disk that a handle names.
    ///
    /// # Errors
    /// 87 for a handle that is not open, and what `work` says.
    pub fn with<T>(
        &self,
        handle: HandleId,
        work: impl FnOnce(&mut State) -> Result<T>,
    ) -> Result<T> {
        let entry = self.find(handle.disk);
        let Some(entry) = entry else {
            return Err(no_handle());
        };
        let mut state = entry.state.lock();
        if state.gone || !state.handles.contains_key(&handle.number) {
            return Err(no_handle());
        }
        self.notice(&mut state);
        let answer = work(&mut state);
        self.tidy(&entry, state);
        answer
    }

    /// Forgets an attachment whose device is gone: drained, or freed behind our back.
    pub fn notice(&self, state: &mut State) {
        if state
            .attachment
            .as_ref()
            .is_none_or(crate::attachment::Attachment::is_there)
        {
            return;
        }
        if state.stage() != Some(Stage::Detaching) {
            tracing::warn!("{}: the device was freed by somebody else", state.file);
        }
        if let Err(failure) = self.finish(state) {
            tracing::error!("{}: {}", state.file, failure.message);
        }
    }

    /// Gives up what a disk does not need any more, and the disk itself when nothing does.
    pub fn tidy(&self, entry: &Entry, mut state: MutexGuard<'_, State>) {
        if state.gone {
            return;
        }
        state.settle_lock();
        if state.handles.is_empty()
            && !state.is_served()
            && let Err(failure) = state.close_worker()
        {
            tracing::error!("{}: closing the image: {}", state.file, failure.message);
        }
        if state.is_idle() {
            state.gone = true;
            drop(state);
            self.table.lock().remove(&entry.id);
        }
    }

    /// A handle's last descriptor was closed (R-LIFE-1, R-LIFE-2).
    pub fn close_handle(&self, handle: HandleId) {
        let Some(entry) = self.find(handle.disk) else {
            return;
        };
        let mut state = entry.state.lock();
        if state.handles.remove(&handle.number).is_none() {
            return;
        }
        let last = state.handles.is_empty();
        if let Some(attachment) = &mut state.attachment {
            if attachment.attaching_handle == Some(handle.number) {
                attachment.attaching_handle = None;
            }
            if last && !attachment.permanent && attachment.stage != Stage::Detaching {
                self.end_lifetime(&mut state);
            }
        }
        self.tidy(&entry, state);
    }

    /// Ends all permanent lifetimes: a private service ends with the one who started it.
    pub fn end_all_lifetimes(&self) {
        for entry in self.all() {
            let mut state = entry.state.lock();
            if state.attachment.is_some() && state.handles.is_empty() {
                self.end_lifetime(&mut state);
            }
            self.tidy(&entry, state);
        }
    }

    /// Is anything open or attached?
    pub fn is_idle(&self) -> bool {
        self.table.lock().is_empty()
    }

    /// Looks after attachments that nobody tells about: those that drain, and devices that
    /// somebody freed behind the service's back. Runs until the process ends.
    pub fn watch(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        let run = move || {
            let mut round = 0_u32;
            loop {
                std::thread::sleep(Duration::from_millis(50));
                let Some(engine) = weak.upgrade() else { return };
                round = round.wrapping_add(1);
                engine.look_around(round.is_multiple_of(20));
            }
        };
        if let Err(error) = std::thread::Builder::new().name("watch".into()).spawn(run) {
            tracing::error!("nobody looks after draining disks: {error}");
        }
    }

    /// One look: draining disks each time, all disks when `all`.
    fn look_around(&self, all: bool) {
        for entry in self.all() {
            // A disk that is being worked on is looked at the next time.
            let Some(mut state) = entry.state.try_lock() else {
                continue;
            };
            if all || state.stage() == Some(Stage::Detaching) {
                self.notice(&mut state);
                self.tidy(&entry, state);
            }
        }
    }

    /// A worker ended: replace it when it served a disk that is still there (design 2.4).
    fn worker_ended(&self, id: FileId, generation: u64) {
        let Some(entry) = self.find(id) else { return };
        let mut state = entry.state.lock();
        let current = state
            .worker
            .as_ref()
            .map(crate::worker_link::WorkerLink::generation);
        if state.gone || current.is_some_and(|now| now != generation) || !state.is_served() {
            if current == Some(generation) {
                state.worker = None;
            }
            return;
        }
        state.worker = None;
        self.revive(&mut state);
        self.tidy(&entry, state);
    }

    /// Brings a served disk's worker back, or gives the disk up.
    pub(crate) fn revive(&self, state: &mut State) {
        loop {
            let Some(attachment) = &mut state.attachment else {
                return;
            };
            if !attachment.is_there() || attachment.stage == Stage::Failed {
                if let Err(failure) = self.finish(state) {
                    tracing::error!("{}: {}", state.file, failure.message);
                }
                return;
            }
            if attachment.count_death() {
                self.give_up(state, "its workers die again and again");
                return;
            }
            tracing::warn!("{}: the worker died, starting another", state.file);
            match state.replace_worker() {
                Ok(()) => return,
                Err(failure) => {
                    tracing::error!("{}: {}", state.file, failure.message);
                    state.worker = None;
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }

    /// Does something that waits for the device, which waits for the disk's worker. A worker that
    /// dies meanwhile is replaced here, since nobody else gets at the disk.
    ///
    /// # Errors
    /// What `work` says; out of threads.
    pub fn patiently<T: Send + 'static>(
        &self,
        state: &mut State,
        work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> std::io::Result<T> {
        if !state.is_served() {
            return work();
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("patient".into())
            .spawn(move || {
                // Nobody waits any more when the broker ends.
                let _ = sender.send(work());
            });
        thread?;
        loop {
            match receiver.recv_timeout(Duration::from_millis(20)) {
                Ok(done) => return done,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(std::io::Error::other("the work on the device broke"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let dead = state
                .worker
                .as_ref()
                .is_none_or(crate::worker_link::WorkerLink::has_ended);
            if dead && state.stage() != Some(Stage::Failed) {
                self.revive(state);
            }
        }
    }

    /// Ends the connection of a disk that can't be served: an error is better than a process
    /// that can't be killed.
    fn give_up(&self, state: &mut State, why: &str) {
        tracing::error!(
            "{}: {why}; its device answers with errors from now on",
            state.file
        );
        if let Some(attachment) = &mut state.attachment {
            attachment.stage = Stage::Failed;
            if let Some(served) = &mut attachment.served
                && let Ok(null) = std::fs::File::open("/dev/null")
            {
                // The last descriptor of the connection: closing it ends all requests.
                served.connection = null.into();
            }
        }
        record::update(&self.dir, state);
    }
}

/// The caller's connection is no handle (R-HND-5).
pub fn no_handle() -> virtdisk::frame::Failure {
    fail(
        virtdisk::Code::ERROR_INVALID_PARAMETER,
        "this connection has no virtual disk open",
    )
}
