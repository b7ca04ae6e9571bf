//! OpenParent, which is AddVirtualDiskParent too: an open goes on with the next parent.
//!
//! An open or a create whose chain is not known yet waits in its connection as a [`Pending`]. Its
//! caller opens and sends one parent after the other; the last one lets the open go on with all of
//! them. A handle with CUSTOM_DIFF_CHAIN is open from the start and gets its chain the same way.

use std::os::fd::{AsFd, OwnedFd};

use virtdisk::Code;
use virtdisk::frame::OpenReply;

use crate::chain::{self, ParentFile, Parents};
use crate::engine::{Engine, HandleId};
use crate::entry::State;
use crate::failure::{Result, fail, hinted};
use crate::handle::Handle;
use crate::resolve::{Progress, Resolving};

use super::create::Creation;
use super::open::{Entrant, Received, complete, opened, receive, refuse_host, same_parents};

/// What an open became.
#[derive(Debug)]
pub enum Opened {
    /// A handle.
    Handle(HandleId, OpenReply),
    /// A wait for the parent that the reply names.
    Pending(Box<Pending>, OpenReply),
}

/// An open that waits for a parent.
#[derive(Debug)]
pub struct Pending {
    /// `None`: a chain that was not begun yet.
    resolving: Option<Box<Resolving>>,
    goal: Goal,
}

/// What happens when all parents are there.
#[derive(Debug)]
pub enum Goal {
    /// A handle enters a disk.
    Open(Box<Entrant>),
    /// A disk is made, with what was resolved as its parent or source.
    Create(Box<Creation>),
    /// A handle that is open gets its chain.
    Complete(HandleId),
}

impl Pending {
    /// A handle whose chain is to be supplied.
    pub fn of(handle: HandleId) -> Self {
        Self {
            resolving: None,
            goal: Goal::Complete(handle),
        }
    }
}

/// Looks at a file that a caller sent as a parent (R-HOST-1).
///
/// # Errors
/// As [`receive`] and [`refuse_host`].
pub fn receive_parent(fd: OwnedFd) -> Result<Received> {
    let received = receive(fd)?;
    refuse_host(&received.name, received.file.as_fd(), 0)?;
    Ok(received)
}

impl Engine {
    /// Goes on with an open, with one file that may be the parent it waits for.
    ///
    /// # Errors
    /// 87 on a handle without CUSTOM_DIFF_CHAIN, 0xC03A001B for a disk without parent, 0xC03A001C
    /// for a chain that is complete (R-PAR-1), and what the open says when it is done.
    pub fn open_parent(&self, pending: Pending, file: Received) -> Result<Opened> {
        let Pending { resolving, goal } = pending;
        let resolving = match (resolving, &goal) {
            (Some(resolving), _) => resolving,
            (None, Goal::Complete(handle)) => self.begin_custom(*handle)?,
            (None, Goal::Open(_) | Goal::Create(_)) => return Err(crate::engine::no_handle()),
        };
        let progress = resolving.offer(file, self.registry())?;
        self.go_on(progress, goal)
    }

    /// Waits for the next parent, or reaches the goal.
    ///
    /// # Errors
    /// What reaching the goal says.
    pub(super) fn go_on(&self, progress: Progress, goal: Goal) -> Result<Opened> {
        let parents = match progress {
            Progress::Needs(resolving) => {
                let reply = self.waiting(&goal, &resolving);
                let pending = Pending {
                    resolving: Some(resolving),
                    goal,
                };
                return Ok(Opened::Pending(Box::new(pending), reply));
            }
            Progress::Complete(parents) => parents,
        };
        self.guard(&parents);
        let (id, reply) = match goal {
            Goal::Open(entrant) => self.enter(&entrant, &parents)?,
            Goal::Create(creation) => self.finish_create(&creation, parents)?,
            Goal::Complete(id) => {
                let reply = self.with(id, |state| give(state, id, parents))?;
                (id, reply)
            }
        };
        Ok(Opened::Handle(id, reply))
    }

    /// The answer that asks for a parent.
    fn waiting(&self, goal: &Goal, resolving: &Resolving) -> OpenReply {
        let open = match goal {
            Goal::Complete(id) => self.with(*id, |state| Ok(opened(state))).ok(),
            Goal::Open(_) | Goal::Create(_) => None,
        };
        OpenReply {
            need_parent: Some(resolving.needed()),
            ..open.unwrap_or_default()
        }
    }

    /// Begins the chain of a handle whose holder supplies it (R-PAR-1).
    fn begin_custom(&self, id: HandleId) -> Result<Box<Resolving>> {
        let (file, open) = self.with(id, |state| {
            let name = &state.file;
            if !state.handles.get(&id.number).is_some_and(|h| h.is_custom()) {
                return Err(hinted(
                    Code::ERROR_INVALID_PARAMETER,
                    format!("{name}: the handle takes no parents"),
                    "open the disk with CUSTOM_DIFF_CHAIN",
                ));
            }
            if !state.is_differencing() {
                return Err(fail(
                    Code::ERROR_VHD_INVALID_TYPE,
                    format!("{name}: has no parent"),
                ));
            }
            let has_some = |handle: &Handle| !handle.parents.is_empty();
            match &state.image {
                Some(image) if !state.handles.get(&id.number).is_some_and(has_some) => {
                    Ok((image.file.clone(), state.open.clone()))
                }
                _ => Err(fail(
                    Code::ERROR_VHD_INVALID_STATE,
                    format!("{name}: its chain is complete"),
                )),
            }
        })?;
        match Resolving::begin(id.disk, &file, &open)? {
            Progress::Needs(resolving) => Ok(resolving),
            Progress::Complete(_) => Err(fail(
                Code::ERROR_VHD_INVALID_TYPE,
                format!("{}: has no parent", open.name),
            )),
        }
    }

    /// R-SHR-7: a parent that a handle of this service has open for writing and has not attached
    /// may be used; [`crate::chain`] keeps the handle from attaching it meanwhile.
    pub(super) fn guard(&self, parents: &Parents) {
        for parent in parents {
            let Some(entry) = self.find(parent.id()) else {
                continue;
            };
            let state = entry.state.lock();
            let attached = state.attachment.as_ref().is_some_and(|a| !a.read_only);
            if !attached && state.image.as_ref().is_some_and(|image| image.writable) {
                ParentFile::guard(parent);
            }
        }
    }
}

/// Gives a handle its chain; the disk gets it too, unless another handle brought it already.
fn give(state: &mut State, id: HandleId, parents: Parents) -> Result<OpenReply> {
    let ids = chain::ids(&parents);
    if state.is_complete() {
        same_parents(state, &parents)?;
    } else {
        complete(state, parents)?;
    }
    if let Some(handle) = state.handles.get_mut(&id.number) {
        handle.parents = ids;
    }
    Ok(opened(state))
}
