//! AttachVirtualDisk: the image becomes a block device.
//!
//! A disk that is one run of its file gets a loop device straight on the file; any other is
//! served by its worker over FUSE, with the loop device on that one file. When the call returns
//! the nodes of the partitions exist, with the image file's owner and mode. A step that fails
//! takes back the steps before it.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use virtdisk::frame::{AttachReply, AttachRequest, Failure};
use virtdisk::{AccessMask, AttachFlags, Code};
use virtdisk_device::fuse;
use virtdisk_device::loop_device::{self, LoopDevice, LoopOptions, Release};

use crate::attachment::{Attachment, Served, Stage};
use crate::caller::Caller;
use crate::engine::{Engine, HandleId};
use crate::entry::{ImageFile, State};
use crate::failure::{Result, fail, hinted, system};
use crate::handle;
use crate::question::{Answer, Question, Serve};
use crate::security::{self, NodeOwner};
use crate::record;

/// Flags whose meaning Linux has no counterpart for.
const NOT_ON_LINUX: AttachFlags = AttachFlags::NON_PNP
    .union(AttachFlags::SINGLE_PARTITION)
    .union(AttachFlags::REGISTER_VOLUME)
    .union(AttachFlags::AT_BOOT);

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
            let image = writable_image(state, &plan)?;
            let flags = state.handles.get(&id.number).map_or(0, |h| h.flags);
            super::open::refuse_host(&state.file, image.file.as_fd(), flags)?;
            let made = if plan.flags.contains(AttachFlags::NO_LOCAL_HOST) {
                self.attach_without_host(state, &image, &plan, id)
            } else {
                self.attach_to_host(state, &image, &plan, id).map(|a| (a, None))
            };
            let (attachment, raw) = made?;
            let reply = AttachReply {
                device: attachment.path(),
                partitions: attachment.partitions.clone(),
            };
            state.attachment = Some(attachment);
            record::update(&self.dir, state);
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
            let any = handle.rights.intersects(AccessMask::ATTACH_RO | AccessMask::ATTACH_RW);
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
            return Err(fail(code, format!("{name}: already attached by {who} as {}", now.path())));
        }
        if flags.intersects(NOT_ON_LINUX) {
            return Err(fail(
                Code::ERROR_NOT_SUPPORTED,
                format!("{name}: {} have no meaning on Linux", name_flags(flags & NOT_ON_LINUX)),
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
        Ok(Plan { flags, read_only, offset, length, restricted, owner })
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

    /// A loop device, straight on the image or on the FUSE file of its worker.
    fn attach_to_host(
        &self,
        state: &mut State,
        image: &ImageFile,
        plan: &Plan,
        id: HandleId,
    ) -> Result<Attachment> {
        let serial = self.next_number();
        let direct = state.facts.direct;
        let (device, served) = match direct {
            Some(start) => {
                let start = start.checked_add(plan.offset).ok_or_else(|| too_large(state))?;
                (loop_on(state, plan, image.file.as_fd(), start)?, None)
            }
            None => {
                let (served, file) = self.serve(state, plan, serial)?;
                match loop_on(state, plan, file.as_fd(), 0) {
                    Ok(device) => (device, Some(served)),
                    Err(failure) => {
                        drop(file);
                        self.unserve(state, served);
                        return Err(failure);
                    }
                }
            }
        };
        let attachment = blank(serial, Some(device), served, plan, id);
        let mut attachment = attachment;
        match finish_nodes(state, &mut attachment, plan) {
            Ok(()) => Ok(attachment),
            Err(failure) => {
                if let Some(device) = &attachment.device {
                    let _ = device.reset_owner();
                    let freed = device.release(std::time::Duration::from_secs(2));
                    if !matches!(freed, Ok(Release::Gone)) {
                        let _ = device.release_when_free();
                    }
                }
                if let Some(served) = attachment.served {
                    self.unserve(state, served);
                }
                Err(failure)
            }
        }
    }

    /// No device: the disk as a file, for the caller alone (R-ATT-12).
    fn attach_without_host(
        &self,
        state: &mut State,
        _image: &ImageFile,
        plan: &Plan,
        id: HandleId,
    ) -> Result<(Attachment, Option<OwnedFd>)> {
        let serial = self.next_number();
        let (served, file) = self.serve(state, plan, serial)?;
        Ok((blank(serial, None, Some(served), plan, id), Some(file.into())))
    }

    /// Has the worker serve the disk over FUSE; the file is the disk.
    fn serve(&self, state: &mut State, plan: &Plan, serial: u64) -> Result<(Served, File)> {
        let name = state.file.clone();
        let socket = self.dir.join("worker").join(format!("{serial}"));
        let listener = listen(&socket).map_err(|e| system("making a worker's socket", &e))?;
        let (connection, root) = fuse::mount(plan.length, plan.read_only)
            .map_err(|e| system(&format!("{name}: mounting FUSE"), &e))?;
        let asked = Serve {
            offset: plan.offset,
            length: plan.length,
            read_only: plan.read_only,
            resend: false,
        };
        let served = Served { connection, listener, socket, asked: asked.clone() };
        let Some(link) = &state.worker else { return Err(crate::engine::no_handle()) };
        if let Err(error) = link.ask(&Question::Serve(asked), &served.descriptors()) {
            self.unserve(state, served);
            return Err(error.into_failure(&name));
        }
        match fuse::open_root(&root, plan.read_only) {
            Ok(file) => Ok((served, file)),
            Err(error) => {
                drop(root);
                self.unserve(state, served);
                Err(system(&format!("{name}: opening the FUSE file"), &error))
            }
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

/// R-ATT-6.
fn refuse_iso(state: &State, flags: AttachFlags) -> Result<()> {
    if state.facts.format != "iso" {
        return Ok(());
    }
    if !flags.contains(AttachFlags::READ_ONLY) {
        return Err(hinted(
            Code::ERROR_INVALID_PARAMETER,
            format!("{}: an ISO image is attached read-only or not at all", state.file),
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
fn writable_image(state: &mut State, plan: &Plan) -> Result<ImageFile> {
    // Any answer will do: it brings a worker up after an earlier detach.
    state.ask(&Question::Validate)?;
    match &state.image {
        Some(image) if image.writable || plan.read_only => Ok(image.clone()),
        _ => Err(fail(
            Code::ERROR_ACCESS_DENIED,
            format!("{}: the image is not open for writing", state.file),
        )),
    }
}

/// A loop device on `backing`.
fn loop_on(
    state: &State,
    plan: &Plan,
    backing: std::os::fd::BorrowedFd<'_>,
    offset: u64,
) -> Result<LoopDevice> {
    loop_device::attach(&LoopOptions {
        backing,
        offset,
        size_limit: plan.length,
        read_only: plan.read_only,
        block_size: state.facts.sector_size,
        direct_io: true,
        name: &state.file,
    })
    .map_err(|e| system(&format!("{}: making a loop device", state.file), &e))
}

/// A listening packet socket that only this user reaches.
fn listen(path: &Path) -> std::io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 4)?;
    Ok(socket)
}

/// An attachment before its nodes are finished.
fn blank(
    serial: u64,
    device: Option<LoopDevice>,
    served: Option<Served>,
    plan: &Plan,
    id: HandleId,
) -> Attachment {
    Attachment {
        serial,
        device,
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

/// Owner, mode and partition nodes.
fn finish_nodes(
    state: &mut State,
    attachment: &mut Attachment,
    plan: &Plan,
) -> Result<()> {
    let partitions = partitions_to_add(state, plan)?;
    let Some(device) = &attachment.device else { return Ok(()) };
    let done = device.add_partitions(&partitions).and_then(|_| match plan.owner {
        NodeOwner::Default => Ok(()),
        NodeOwner::As(owner) => device.set_owner(owner.uid, owner.gid, owner.mode),
    });
    let paths = done
        .and_then(|()| device.partition_paths())
        .map_err(|e| system(&format!("{}: making the partition nodes", state.file), &e))?;
    attachment.partitions = paths.iter().map(|p| p.display().to_string()).collect();
    Ok(())
}

/// The partitions that the kernel may have missed. Optical discs and restricted ranges have
/// none that mean anything.
fn partitions_to_add(state: &mut State, plan: &Plan) -> Result<Vec<(u32, u64, u64)>> {
    if plan.restricted || state.facts.format == "iso" {
        return Ok(Vec::new());
    }
    match state.ask_while_attaching(&Question::Partitions)? {
        Answer::Partitions(found) => {
            Ok(found.iter().map(|p| (p.number, p.offset, p.length)).collect())
        }
        _ => Ok(Vec::new()),
    }
}

/// Names of flags, for messages.
fn name_flags(flags: AttachFlags) -> String {
    flags.iter_names().map(|(name, _)| name).collect::<Vec<_>>().join(", ")
}

/// An offset that does not fit.
fn too_large(state: &State) -> Failure {
    fail(Code::ERROR_INVALID_PARAMETER, format!("{}: the range does not fit", state.file))
}
