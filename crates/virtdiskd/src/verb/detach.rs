//! DetachVirtualDisk, as its page says it.
//!
//! Order of the checks: arguments, right, attached, other handles, valid image, host file,
//! privilege, device in use. Until the last one nothing changes. Success means that the device
//! is gone and the data are in the file, or, for a permanent attachment whose attaching handle
//! is closed, that the lifetime has ended and the disk goes when its last holder lets go.

use std::os::fd::AsFd;

use virtdisk::frame::{DetachReply, DetachRequest};
use virtdisk::{AccessMask, Code};
use virtdisk_device::loop_device::Release;

use crate::attachment::{Attachment, PASSER_BY, Stage};
use crate::caller::Caller;
use crate::engine::{Engine, HandleId};
use crate::entry::State;
use crate::failure::{Result, busy, fail, hinted, system};
use crate::question::Question;
use crate::{handle, record};

impl Engine {
    /// Detaches the disk of a handle.
    ///
    /// # Errors
    /// Rules R-DET of the API sheet.
    pub fn detach(
        &self,
        caller: &Caller,
        id: HandleId,
        request: &DetachRequest,
    ) -> Result<DetachReply> {
        virtdisk::check::detach(request)?;
        self.with(id, |state| {
            refuse_detach(state, id)?;
            valid_image(state)?;
            host_file(state, id)?;
            self.refuse_unprivileged(caller, &state.file)?;
            self.free(state, &request.in_use)
        })
    }

    /// Frees the device, or does what a device in use asks for.
    fn free(&self, state: &mut State, in_use: &str) -> Result<DetachReply> {
        self.make_durable(state)?;
        let Some(attachment) = &state.attachment else {
            return Err(not_attached(state));
        };
        let released = match attachment.device.clone() {
            None => Ok(Release::Gone),
            Some(device) => {
                // The node goes back to the system's owner before anybody else can get it.
                let _ = device.reset_owner();
                self.patiently(state, move || device.release(PASSER_BY))
            }
        };
        let name = state.file.clone();
        match released.map_err(|e| system(&format!("{name}: freeing the device"), &e))? {
            Release::Gone => {
                self.finish(state)?;
                Ok(DetachReply {
                    gone: true,
                    holders: Vec::new(),
                })
            }
            Release::Busy => self.in_use(state, in_use),
        }
    }

    /// A device in use (design 3).
    fn in_use(&self, state: &mut State, in_use: &str) -> Result<DetachReply> {
        let Some(attachment) = &mut state.attachment else {
            return Err(not_attached(state));
        };
        let holders = attachment.holders();
        let drains = match in_use {
            "when-free" => true,
            "page" => {
                let free_running = attachment.attaching_handle.is_none();
                (attachment.permanent && free_running) || attachment.stage == Stage::Detaching
            }
            _ => false,
        };
        if !drains {
            restore_owner(state);
            let device = state
                .attachment
                .as_ref()
                .map(|a| a.path())
                .unwrap_or_default();
            return Err(busy(&state.file, &device, holders));
        }
        self.end_lifetime(state);
        let gone = state.attachment.is_none();
        Ok(DetachReply {
            gone,
            holders: if gone { Vec::new() } else { holders },
        })
    }

    /// The lifetime is over: the disk goes now, or when the last holder lets go (R-DET-13).
    pub fn end_lifetime(&self, state: &mut State) {
        let there = state.attachment.as_ref().is_some_and(Attachment::is_there);
        if there && let Err(failure) = self.make_durable(state) {
            tracing::error!("{}: {}", state.file, failure.message);
        }
        let Some(attachment) = &mut state.attachment else {
            return;
        };
        attachment.permanent = false;
        attachment.stage = match attachment.stage {
            Stage::Failed => Stage::Failed,
            Stage::Attached | Stage::Detaching => Stage::Detaching,
        };
        if let Some(device) = attachment.device.clone() {
            let _ = device.reset_owner();
            if let Err(error) = self.patiently(state, move || device.release_when_free()) {
                tracing::error!("{}: {error}", state.file);
            }
        }
        let drained = state.attachment.as_ref().is_some_and(|a| match a.device {
            None => true,
            Some(_) => !a.is_there(),
        });
        if !drained {
            record::update(&self.dir, state);
        } else if let Err(failure) = self.finish(state) {
            tracing::error!("{}: {}", state.file, failure.message);
        }
    }

    /// Everything written so far goes into the file, while nothing has changed yet.
    fn make_durable(&self, state: &mut State) -> Result<()> {
        let Some(attachment) = &state.attachment else {
            return Ok(());
        };
        if attachment.read_only || attachment.stage == Stage::Failed {
            return Ok(());
        }
        let synced = match attachment.device.clone() {
            Some(device) => self
                .patiently(state, move || device.sync())
                .map_err(|e| system(&format!("{}: writing back the device", state.file), &e)),
            None => Ok(()),
        };
        let durable = synced.and_then(|()| match state.is_served() {
            true => state.ask(&Question::Flush).map(drop),
            false => Ok(()),
        });
        durable.inspect_err(|_| self.renew(state))
    }

    /// After a failed write-back an image takes no more writes until it is opened anew. The caller
    /// was told; a fresh worker opens it anew, so that the disk can be used and detached when the
    /// file works again.
    fn renew(&self, state: &mut State) {
        if let (true, Some(link)) = (state.is_served(), &state.worker) {
            link.kill();
            link.wait_end();
            self.revive(state);
        }
    }

    /// The device is gone: ends the worker, makes the file durable, forgets the attachment.
    ///
    /// # Errors
    /// When the data could not be made durable, although the device is gone.
    pub fn finish(&self, state: &mut State) -> Result<()> {
        let Some(attachment) = state.attachment.take() else {
            return Ok(());
        };
        record::remove(&self.dir, attachment.serial);
        let closed = match attachment.served {
            Some(served) if attachment.device.is_none() || attachment.stage == Stage::Failed => {
                // The caller may still hold the file: its connection ends here.
                self.unserve(state, served);
                Ok(())
            }
            Some(served) => {
                let _ = std::fs::remove_file(&served.socket);
                drop(served.connection);
                state.close_worker()
            }
            None => durable_file(state, attachment.read_only).and(state.close_worker()),
        };
        state.settle_lock();
        closed
    }
}

/// Right and state (R-DET-2, R-DET-10, R-DET-16).
fn refuse_detach(state: &State, id: HandleId) -> Result<()> {
    let Some(handle) = state.handles.get(&id.number) else {
        return Err(crate::engine::no_handle());
    };
    handle::need(&state.file, handle, AccessMask::DETACH, "detach")?;
    if state.attachment.is_none() {
        return Err(not_attached(state));
    }
    if state.handles.len() > 1 {
        let others = state.handles.len() - 1;
        return Err(hinted(
            Code::ERROR_SHARING_VIOLATION,
            format!(
                "{}: {others} other handle(s) of this disk are open",
                state.file
            ),
            "close the other handles first",
        ));
    }
    Ok(())
}

/// R-DET-16, R-DET-24.
fn not_attached(state: &State) -> virtdisk::frame::Failure {
    fail(
        Code::ERROR_NOT_READY,
        format!("{}: is not attached", state.file),
    )
}

/// R-DET-15. A disk whose workers can't be kept alive may always be detached.
fn valid_image(state: &mut State) -> Result<()> {
    let unreachable = state.image.is_none() && state.worker.is_none();
    if state.stage() == Some(Stage::Failed) || unreachable {
        return Ok(());
    }
    state.ask(&Question::Validate).map(drop)
}

/// R-DET-9.
fn host_file(state: &State, id: HandleId) -> Result<()> {
    let flags = state.handles.get(&id.number).map_or(0, |h| h.flags);
    let own = state.handles.get(&id.number).and_then(|h| h.file.clone());
    match own.or_else(|| state.image.as_ref().map(|i| i.file.clone())) {
        Some(file) => super::open::refuse_host(&state.file, file.as_fd(), flags).map(drop),
        None => Ok(()),
    }
}

/// Makes a directly attached image file durable.
fn durable_file(state: &State, read_only: bool) -> Result<()> {
    match &state.image {
        Some(image) if !read_only => rustix::fs::fdatasync(&image.file)
            .map_err(|e| system(&format!("{}: fdatasync", state.file), &e.into())),
        _ => Ok(()),
    }
}

/// The node gets the image's owner again when the device stays.
fn restore_owner(state: &State) {
    if let Some(attachment) = &state.attachment
        && let Some(device) = &attachment.device
        && let Some(owner) = attachment.node_owner
    {
        let _ = device.set_owner(owner.uid, owner.gid, owner.mode);
    }
}
