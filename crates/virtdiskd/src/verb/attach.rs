//! AttachVirtualDisk: the image becomes a block device.
//!
//! A disk that is one run of its file gets a loop device straight on the file; any other is
//! served by its worker over FUSE, with the loop device on that one file. When the call returns
//! the nodes of the partitions exist, with the image file's owner and mode. A step that fails
//! takes back the steps before it.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use virtdisk::frame::{AttachReply, AttachRequest, Failure};
use virtdisk::{AccessMask, AttachFlags, Code};
use virtdisk_device::fuse;
use virtdisk_device::loop_device::{self, LoopDevice, LoopOptions, Release};

use crate::attachment::{Attachment, Served, Stage};
use crate::caller::Caller;
use crate::chain;
use crate::engine::{Engine, HandleId};
use crate::entry::{ImageFile, State};
use crate::failure::{Result, fail, hinted, system};
use crate::handle::{self, Handle};
use crate::question::{Answer, Question, Serve};
use crate::security::{self, NodeOwner};
use crate::{packet, record};

/// Flags whose meaning Linux has no counterpart for.
const NOT_ON_LINUX: AttachFlags = AttachFlags::NON_PNP
    .union(AttachFlags::SINGLE_PARTITION)
    .union(AttachFlags::REGISTER_VOLUME)
    .union(AttachFlags::AT_BOOT);

/// How long a half-made device may be held by a passer-by before it is left to drain.
const UNDO_PATIENCE: Duration = Duration::from_secs(2);

/// What an attach works with, once the arguments are checked.
struct Plan {
    flags: AttachFlags,
    read_only: bool,
    offset: u64,
    length: u64,
    restricted: bool,
    owner: NodeOwner,
}

impl Engine {
    /// Attaches the disk of a handle. A NO_LOCAL_HOST attachment answers with the disk as a
    /// file.
    ///
    /// # Errors
    /// Rules R-ATT of the API sheet.
    pub fn attach(
        &self,
        caller: &Caller,
        id: HandleId,
        request: &AttachRequest,
    ) -> Result<(AttachReply, Option<OwnedFd>)> {
        virtdisk::check::attach(request)?;
        self.with(id, |state| {
            let plan = self.plan(state, caller, id, request)?;
            let image = writable_image(state, &plan, id)?;
            let flags = state.handles.get(&id.number).map_or(0, |h| h.flags);
            super::open::refuse_host(&state.file, image.file.as_fd(), flags)?;
            touch(state, &plan)?;
            let made = if plan.flags.contains(AttachFlags::NO_LOCAL_HOST) {
                self.attach_without_host(state, &plan, id)
            } else {
                self.attach_to_host(state, &image, &plan, id).map(|()| None)
            };
            let raw = made.inspect_err(|_| self.undo(state))?;
            let reply = state.attachment.as_ref().map(|attachment| AttachReply {
                device: attachment.path(),
                partitions: attachment.partitions.clone(),
            });
            let reply = reply.ok_or_else(crate::engine::no_handle)?;
            record::update(&self.dir, state);
            announce(state);
            Ok((reply, raw))
        })
    }

    /// Checks what the state and the rights allow, in the order of the API sheet.
    fn plan(
        &self,
        state: &State,
        caller: &Caller,
        id: HandleId,
        request: &AttachRequest,
    ) -> Result<Plan> {
        let flags = AttachFlags::from_bits_truncate(request.flags);
        let read_only = flags.contains(AttachFlags::READ_ONLY);
        let Some(handle) = state.handles.get(&id.number) else {
            return Err(crate::engine::no_handle());
        };
        let name = &state.file;
        refuse_iso(state, flags)?;
        if read_only {
            let any = handle
                .rights
                .intersects(AccessMask::ATTACH_RO | AccessMask::ATTACH_RW);
            if !any {
                handle::need(name, handle, AccessMask::ATTACH_RO, "attach")?;
            }
        } else {
            handle::need(name, handle, AccessMask::ATTACH_RW, "attach for writing")?;
        }
        if let Some(now) = &state.attachment {
            let (code, who) = if now.attaching_handle == Some(id.number) {
                (Code::ERROR_BAD_COMMAND, "this handle")
            } else {
                (Code::ERROR_SHARING_VIOLATION, "another handle")
            };
            return Err(fail(
                code,
                format!("{name}: already attached by {who} as {}", now.path()),
            ));
        }
        self.refuse_chain(state, handle, read_only)?;
        if flags.intersects(NOT_ON_LINUX) {
            return Err(fail(
                Code::ERROR_NOT_SUPPORTED,
                format!(
                    "{name}: {} have no meaning on Linux",
                    name_flags(flags & NOT_ON_LINUX)
                ),
            ));
        }
        if state.facts.read_only && !read_only {
            return Err(hinted(
                Code::ERROR_WRITE_PROTECT,
                format!("{name}: this image can only be attached read-only"),
                "attach it with READ_ONLY",
            ));
        }
        let (offset, length) = range(state, request, flags)?;
        self.refuse_unprivileged(caller, name)?;
        let owner = security::node_owner(&request.security_descriptor, state.owner, flags)
            .map_err(|what| fail(Code::ERROR_NOT_SUPPORTED, format!("{name}: {what}")))?;
        let restricted = flags.contains(AttachFlags::RESTRICTED_RANGE);
        Ok(Plan {
            flags,
            read_only,
            offset,
            length,
            restricted,
            owner,
        })
    }

    /// A chain must be complete (R-OPEN-14, R-PAR-1), and what others build upon may not change
    /// under them.
    fn refuse_chain(&self, state: &State, handle: &Handle, read_only: bool) -> Result<()> {
        let name = &state.file;
        let without = state.is_differencing() && handle.refuses_parents();
        if without || !state.is_complete() {
            return Err(hinted(
                Code::ERROR_VHD_INVALID_STATE,
                format!("{name}: was opened without its parents"),
                "open it with them, or add them with AddVirtualDiskParent",
            ));
        }
        if handle.parents != chain::ids(&state.parents) {
            return Err(hinted(
                Code::ERROR_VHD_PARENT_VHD_ACCESS_DENIED,
                format!("{name}: this handle came without the parents of the disk"),
                "open the disk again, now that it is not attached",
            ));
        }
        if !read_only && self.registry().contains(state.id) {
            return Err(hinted(
                Code::ERROR_SHARING_VIOLATION,
                format!("{name}: is the parent of a disk that is open"),
                "attach it with READ_ONLY, or close the disks that are made of it",
            ));
        }
        Ok(())
    }

    /// R-PRV-1: the caller's privilege, and this service's own.
    pub(super) fn refuse_unprivileged(&self, caller: &Caller, name: &str) -> Result<()> {
        if !caller.privileged {
            return Err(hinted(
                Code::ERROR_PRIVILEGE_NOT_HELD,
                format!("{name}: attaching and detaching need CAP_SYS_ADMIN"),
                "run it as root, or join the group virtdisk",
            ));
        }
        if !self.able {
            return Err(hinted(
                Code::ERROR_PRIVILEGE_NOT_HELD,
                format!("{name}: this service runs without CAP_SYS_ADMIN"),
                "use the system's service: run it as root",
            ));
        }
        Ok(())
    }

    /// A loop device, straight on the image or on the FUSE file of its worker. The attachment
    /// stands in the state from the first step on, so that a worker that dies is replaced.
    fn attach_to_host(
        &self,
        state: &mut State,
        image: &ImageFile,
        plan: &Plan,
        id: HandleId,
    ) -> Result<()> {
        let serial = self.next_number();
        match state.facts.direct {
            Some(start) => {
                let start = start
                    .checked_add(plan.offset)
                    .ok_or_else(|| too_large(state))?;
                state.attachment = Some(blank(serial, None, plan, id));
                self.loop_on(state, plan, Arc::clone(&image.file), start)?;
            }
            None => {
                let file = self.serve(state, plan, serial, id)?;
                self.loop_on(state, plan, Arc::new(file.into()), 0)?;
            }
        }
        self.finish_nodes(state, plan)
    }

    /// No device: the disk as a file, for the caller alone (R-ATT-12).
    fn attach_without_host(
        &self,
        state: &mut State,
        plan: &Plan,
        id: HandleId,
    ) -> Result<Option<OwnedFd>> {
        let serial = self.next_number();
        self.serve(state, plan, serial, id)
            .map(|file| Some(file.into()))
    }

    /// Has the worker serve the disk over FUSE; the file is the disk.
    fn serve(&self, state: &mut State, plan: &Plan, serial: u64, id: HandleId) -> Result<File> {
        let name = state.file.clone();
        let socket = self.dir.join("worker").join(format!("{serial}"));
        let listener =
            packet::listen(&socket).map_err(|e| system("making a worker's socket", &e))?;
        let mounted = fuse::mount(plan.length, plan.read_only);
        let (connection, root) = mounted.map_err(|e| {
            let _ = std::fs::remove_file(&socket);
            system(&format!("{name}: mounting FUSE"), &e)
        })?;
        let asked = Serve {
            offset: plan.offset,
            length: plan.length,
            read_only: plan.read_only,
            resend: false,
        };
        let served = Served {
            connection,
            listener,
            socket,
            asked: asked.clone(),
        };
        let answer = match &state.worker {
            Some(link) => link.ask(&Question::Serve(asked), &served.descriptors()),
            None => return Err(crate::engine::no_handle()),
        };
        state.attachment = Some(blank(serial, Some(served), plan, id));
        answer.map_err(|error| error.into_failure(&name))?;
        let read_only = plan.read_only;
        self.patiently(state, move || fuse::open_root(&root, read_only))
            .map_err(|e| system(&format!("{name}: opening the FUSE file"), &e))
    }

    /// A loop device on `backing`, put into the attachment.
    fn loop_on(
        &self,
        state: &mut State,
        plan: &Plan,
        backing: Arc<OwnedFd>,
        offset: u64,
    ) -> Result<()> {
        let (name, block_size) = (state.file.clone(), state.facts.sector_size);
        let (size_limit, read_only) = (plan.length, plan.read_only);
        let made = self.patiently(state, move || {
            loop_device::attach(&LoopOptions {
                backing: backing.as_fd(),
                offset,
                size_limit,
                read_only,
                block_size,
                direct_io: true,
                name: &name,
            })
        });
        let device =
            made.map_err(|e| system(&format!("{}: making a loop device", state.file), &e))?;
        if let Some(attachment) = &mut state.attachment {
            attachment.device = Some(device);
        }
        Ok(())
    }

    /// Owner, mode and partition nodes.
    fn finish_nodes(&self, state: &mut State, plan: &Plan) -> Result<()> {
        let partitions = partitions_to_add(state, plan)?;
        let device = state.attachment.as_ref().and_then(|a| a.device.clone());
        let Some(device) = device else { return Ok(()) };
        let owner = plan.owner;
        let paths = self.patiently(state, move || {
            device.add_partitions(&partitions)?;
            if let NodeOwner::As(owner) = owner {
                device.set_owner(owner.uid, owner.gid, owner.mode)?;
            }
            device.partition_paths()
        });
        let paths = paths
            .map_err(|e| system(&format!("{}: making the partition nodes", state.file), &e))?;
        if let Some(attachment) = &mut state.attachment {
            attachment.partitions = paths.iter().map(|p| p.display().to_string()).collect();
        }
        Ok(())
    }

    /// Takes back a half-made attachment.
    fn undo(&self, state: &mut State) {
        let device = state.attachment.as_ref().and_then(|a| a.device.clone());
        if let Some(device) = device {
            let freed = self.patiently(state, move || {
                let _ = device.reset_owner();
                match device.release(UNDO_PATIENCE)? {
                    Release::Gone => Ok(Release::Gone),
                    Release::Busy => device.release_when_free(),
                }
            });
            if let Err(error) = freed {
                tracing::error!("{}: {error}", state.file);
            }
        }
        if let Some(served) = state.attachment.take().and_then(|a| a.served) {
            self.unserve(state, served);
        }
    }

    /// Takes back [`Engine::serve`]: the worker ends, a fresh one opens the image when needed.
    pub(super) fn unserve(&self, state: &mut State, served: Served) {
        let _ = std::fs::remove_file(&served.socket);
        if let Some(link) = state.worker.take() {
            link.kill();
            link.wait_end();
        }
        drop(served);
    }
}

/// udev asks for the owner of a node (`virtdiskd node-owner`), which is on record from now on.
fn announce(state: &State) {
    let device = state.attachment.as_ref().and_then(|a| a.device.as_ref());
    if let Some(Err(error)) = device.map(LoopDevice::announce) {
        tracing::warn!("{}: udev is not told of the device: {error}", state.file);
    }
}

/// R-ATT-6.
fn refuse_iso(state: &State, flags: AttachFlags) -> Result<()> {
    if state.facts.format != "iso" {
        return Ok(());
    }
    if !flags.contains(AttachFlags::READ_ONLY) {
        return Err(hinted(
            Code::ERROR_INVALID_PARAMETER,
            format!(
                "{}: an ISO image is attached read-only or not at all",
                state.file
            ),
            "attach it with READ_ONLY (vdisk attach --read-only)",
        ));
    }
    if flags.contains(AttachFlags::NO_LOCAL_HOST) {
        return Err(fail(
            Code::ERROR_INVALID_PARAMETER,
            format!("{}: NO_LOCAL_HOST is not for ISO images", state.file),
        ));
    }
    Ok(())
}

/// The bytes to show (R-ATT-3, R-ATT-14).
fn range(state: &State, request: &AttachRequest, flags: AttachFlags) -> Result<(u64, u64)> {
    let size = state.facts.virtual_size;
    if !flags.contains(AttachFlags::RESTRICTED_RANGE) {
        return Ok((0, size));
    }
    let sector = u64::from(state.facts.sector_size.max(512));
    let (offset, length) = (request.restricted_offset, request.restricted_length);
    let end = offset.checked_add(length);
    let aligned = offset.is_multiple_of(sector) && length.is_multiple_of(sector);
    if length == 0 || !aligned || end.is_none_or(|end| end > size) {
        return Err(fail(
            Code::ERROR_INVALID_PARAMETER,
            format!(
                "{}: the range of {length} bytes at {offset} must be whole sectors of {sector} \
                 bytes inside the disk of {size} bytes",
                state.file
            ),
        ));
    }
    Ok((offset, length))
}

/// The image file, with a worker that may write when the attachment does.
fn writable_image(state: &mut State, plan: &Plan, id: HandleId) -> Result<ImageFile> {
    let enough = |image: &ImageFile| image.writable || plan.read_only;
    if !state.image.as_ref().is_some_and(enough)
        && let Some(handle) = state.handles.get(&id.number)
        && let Some(file) = handle.file.clone().filter(|_| handle.writes)
    {
        // A service that adopted the disk had it read-only; this handle brings more.
        super::open::use_writable(state, file)?;
    }
    // Brings a worker up after an earlier detach.
    state.ask(&Question::Validate)?;
    match state.image.clone().filter(enough) {
        Some(image) => Ok(image),
        None => Err(fail(
            Code::ERROR_ACCESS_DENIED,
            format!("{}: the image is not open for writing", state.file),
        )),
    }
}

/// Writes to a direct attachment go around the worker: whoever compares ids must see that the
/// data are others now.
fn touch(state: &mut State, plan: &Plan) -> Result<()> {
    let host = !plan.flags.contains(AttachFlags::NO_LOCAL_HOST);
    if host && !plan.read_only && state.facts.direct.is_some() {
        state.ask(&Question::Touch)?;
    }
    Ok(())
}

/// An attachment before its nodes are finished.
fn blank(serial: u64, served: Option<Served>, plan: &Plan, id: HandleId) -> Attachment {
    Attachment {
        serial,
        device: None,
        partitions: Vec::new(),
        served,
        read_only: plan.read_only,
        permanent: plan.flags.contains(AttachFlags::PERMANENT_LIFETIME),
        attaching_handle: Some(id.number),
        stage: Stage::Attached,
        node_owner: match plan.owner {
            NodeOwner::Default => None,
            NodeOwner::As(owner) => Some(owner),
        },
        deaths: VecDeque::new(),
    }
}

/// The partitions that the kernel may have missed. Optical discs and restricted ranges have
/// none that mean anything.
fn partitions_to_add(state: &mut State, plan: &Plan) -> Result<Vec<(u32, u64, u64)>> {
    if plan.restricted || state.facts.format == "iso" {
        return Ok(Vec::new());
    }
    match state.ask(&Question::Partitions)? {
        Answer::Partitions(found) => Ok(found
            .iter()
            .map(|p| (p.number, p.offset, p.length))
            .collect()),
        _ => Ok(Vec::new()),
    }
}

/// Names of flags, for messages.
fn name_flags(flags: AttachFlags) -> String {
    flags
        .iter_names()
        .map(|(name, _)| name)
        .collect::<Vec<_>>()
        .join(", ")
}

/// An offset that does not fit.
fn too_large(state: &State) -> Failure {
    fail(
        Code::ERROR_INVALID_PARAMETER,
        format!("{}: the range does not fit", state.file),
    )
}
