//! OpenVirtualDisk: a caller's open file becomes a handle.
//!
//! The service opens no path. It checks that the descriptor is what an image can be, which disk
//! it is (device and inode), whether the open may stand beside the others, takes the lock that
//! the rights need, and has a worker read the image. An image whose parents are not known yet
//! makes a pending open, see `parent.rs`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FileType, OFlags};
use virtdisk::frame::{OpenAttachedRequest, OpenReply, OpenRequest};
use virtdisk::{AccessMask, Code, OpenFlags};
use virtdisk_disk::host::{self, HostFile};
use virtdisk_disk::lock::{self, Level};

use crate::caller::Caller;
use crate::chain::{self, Parents};
use crate::engine::{Engine, HandleId};
use crate::entry::{FileId, ImageFile, Owner, State};
use crate::failure::{Result, fail, hinted, system};
use crate::handle::{self, AttachedNow, Handle};
use crate::provider;
use crate::question::{ImageFacts, Open};
use crate::resolve::Resolving;

use super::parent::{Goal, Opened};

/// What a descriptor turned out to be.
#[derive(Debug, Clone)]
pub struct Received {
    /// The open file.
    pub file: Arc<OwnedFd>,
    /// Which file.
    pub id: FileId,
    /// Real path.
    pub name: String,
    /// Owner of the file.
    pub owner: Owner,
    /// Opened for writing.
    pub writable: bool,
}

/// A handle on its way to a disk.
#[derive(Debug)]
pub struct Entrant {
    /// The image.
    pub received: Received,
    /// How it is opened, where nobody has it open yet.
    pub open: Open,
    /// The handle.
    pub handle: Handle,
}

impl Engine {
    /// Opens a handle on the image that `fd` is.
    ///
    /// # Errors
    /// Rules R-OPEN of the API sheet.
    pub fn open(&self, request: &OpenRequest, fd: OwnedFd) -> Result<Opened> {
        virtdisk::check::open(request)?;
        let received = receive(fd)?;
        let storage_type = provider::storage_type(request.device_id, &request.vendor_id)?;
        let format = provider::format_to_open(storage_type, &received.name)?;
        let handle = Handle {
            rights: handle::rights(request),
            first_version: request.version <= 1,
            resiliency_guid: request.resiliency_guid.clone(),
            flags: request.flags,
            file: Some(Arc::clone(&received.file)),
            writes: handle::writes(request),
            parents: Vec::new(),
        };
        if handle.writes && !received.writable {
            return Err(fail(
                Code::ERROR_ACCESS_DENIED,
                format!(
                    "{}: opened read-only, but the access asks to write",
                    received.name
                ),
            ));
        }
        refuse_host(&received.name, received.file.as_fd(), request.flags)?;
        let open = Open {
            name: received.name.clone(),
            extension: extension(&request.path),
            format: format.map(str::to_owned),
            writable: false,
            alone: false,
            parents: Vec::new(),
        };
        let entrant = Entrant {
            received,
            open,
            handle,
        };
        match self.enter(&entrant, &Parents::new()) {
            Err(failure) if failure.code == Code::ERROR_VHD_PARENT_VHD_NOT_FOUND.0 => {
                let Entrant { received, open, .. } = &entrant;
                let progress = Resolving::begin(received.id, &received.file, open)?;
                self.go_on(progress, Goal::Open(Box::new(entrant)))
            }
            entered => entered.map(|(id, reply)| Opened::Handle(id, reply)),
        }
    }

    /// Puts a handle on a disk, which is opened first when it is not, with these parents.
    pub(super) fn enter(
        &self,
        entrant: &Entrant,
        parents: &Parents,
    ) -> Result<(HandleId, OpenReply)> {
        let Entrant {
            received,
            open,
            handle,
        } = entrant;
        loop {
            let entry = self.find_or_insert(received.id, || self.blank(received, open));
            let mut state = entry.state.lock();
            if state.gone {
                continue;
            }
            self.notice(&mut state);
            let answer = admit(&mut state, entrant, parents);
            let answer = answer.map(|()| {
                let number = self.next_number();
                let shown = match handle.is_alone() {
                    true => Vec::new(),
                    false => chain::ids(parents),
                };
                let handle = Handle {
                    parents: shown,
                    ..handle.clone()
                };
                state.handles.insert(number, handle);
                let reply = opened(&state);
                (
                    HandleId {
                        disk: received.id,
                        number,
                    },
                    reply,
                )
            });
            self.tidy(&entry, state);
            return answer;
        }
    }

    /// A handle by device, for an image whose file can't be named any more.
    ///
    /// # Errors
    /// 2 when no attached disk has that device, 5 for somebody else's, 1314 without privilege.
    pub fn open_attached(
        &self,
        caller: &Caller,
        request: &OpenAttachedRequest,
    ) -> Result<(HandleId, OpenReply)> {
        for entry in self.all() {
            let mut state = entry.state.lock();
            let Some(attachment) = &state.attachment else {
                continue;
            };
            let named = attachment.path() == request.device
                || attachment.partitions.contains(&request.device);
            if state.gone || request.device.is_empty() || !named {
                continue;
            }
            if caller.uid != 0 && caller.uid != state.owner.uid {
                return Err(fail(
                    Code::ERROR_ACCESS_DENIED,
                    format!("{}: the image belongs to somebody else", request.device),
                ));
            }
            let number = self.next_number();
            let handle = Handle {
                rights: AccessMask::DETACH | AccessMask::GET_INFO,
                first_version: true,
                resiliency_guid: String::new(),
                flags: 0,
                file: None,
                writes: false,
                parents: Vec::new(),
            };
            state.handles.insert(number, handle);
            let reply = opened(&state);
            return Ok((
                HandleId {
                    disk: entry.id,
                    number,
                },
                reply,
            ));
        }
        Err(hinted(
            Code::ERROR_FILE_NOT_FOUND,
            format!(
                "{}: no attached virtual disk has this device",
                request.device
            ),
            "vdisk list shows what is attached",
        ))
    }

    /// A disk that nobody has opened yet.
    fn blank(&self, received: &Received, open: &Open) -> State {
        State {
            id: received.id,
            ended: self.ended(),
            gone: false,
            file: received.name.clone(),
            open: open.clone(),
            owner: received.owner,
            image: None,
            parents: Parents::new(),
            facts: ImageFacts::blank(),
            worker: None,
            handles: std::collections::BTreeMap::new(),
            attachment: None,
        }
    }
}

/// Lets a handle in: sharing, locks, and the image open as the handle needs it.
fn admit(state: &mut State, entrant: &Entrant, parents: &Parents) -> Result<()> {
    let Entrant {
        received,
        open,
        handle,
    } = entrant;
    let now = state.attachment.as_ref().map(|a| AttachedNow {
        read_only: a.read_only,
        permanent: a.permanent,
    });
    handle::may_open(&received.name, handle, state.handles.values(), now)?;
    same_format(state, open)?;
    // The name in messages follows the file when it was moved.
    state.file.clone_from(&received.name);
    state.open.name.clone_from(&received.name);
    if state.attachment.is_some() {
        return admit_beside_attachment(state, received);
    }
    let level = handle.level();
    let alone = handle.is_alone();
    if !alone && handle.reads() && state.image.is_some() && state.is_complete() {
        same_parents(state, parents)?;
        chain::guard_as(&state.parents, parents);
    }
    if let Some(image) = &state.image
        && (image.writable || !handle.writes)
        && level <= image.level
        && state.worker.is_some()
        && (alone || state.is_complete())
    {
        return Ok(());
    }
    let writable = handle.writes || state.image.as_ref().is_some_and(|i| i.writable);
    let same = state.image.clone().filter(|_| !handle.writes);
    let image = same.unwrap_or(ImageFile {
        file: Arc::clone(&received.file),
        writable,
        level: Level::None,
    });
    // What is complete stays so, whoever comes.
    let complete = state.image.is_some() && state.is_complete();
    let chain = match (complete, alone) {
        (true, _) => None,
        (false, true) => Some((true, Parents::new())),
        (false, false) => Some((false, parents.clone())),
    };
    with_chain(state, chain, |state, again| {
        move_lock(state, image, level, open, again)
    })
}

/// Who wants the bytes of a chain that is open must be able to read all of its files himself.
///
/// # Errors
/// 0xC03A000D while none were shown, 32 when they are others.
pub fn same_parents(state: &State, parents: &Parents) -> Result<()> {
    if chain::ids(parents) == chain::ids(&state.parents) {
        return Ok(());
    }
    let name = &state.file;
    Err(match parents.is_empty() {
        true => fail(
            Code::ERROR_VHD_PARENT_VHD_NOT_FOUND,
            format!("{name}: its parents were not shown"),
        ),
        false => fail(
            Code::ERROR_SHARING_VIOLATION,
            format!("{name}: is open with other files as its parents"),
        ),
    })
}

/// Does `work` with other parents, whether alone and which; takes them back when it fails. `work`
/// is told whether the image has to be opened again for them.
fn with_chain(
    state: &mut State,
    chain: Option<(bool, Parents)>,
    work: impl FnOnce(&mut State, bool) -> Result<()>,
) -> Result<()> {
    let Some((alone, parents)) = chain else {
        return work(state, false);
    };
    let again = state.open.alone != alone;
    let before = (
        std::mem::replace(&mut state.open.alone, alone),
        std::mem::replace(&mut state.parents, parents),
    );
    work(state, again).inspect_err(|_| (state.open.alone, state.parents) = before)
}

/// Gives a disk that is open alone its parents.
///
/// # Errors
/// 32 when somebody writes to one of them, and what the format says.
pub fn complete(state: &mut State, parents: Parents) -> Result<()> {
    let Some(image) = state.image.clone() else {
        return Err(crate::engine::no_handle());
    };
    let (open, level) = (state.open.clone(), image.level);
    with_chain(state, Some((false, parents)), |state, again| {
        move_lock(state, image, level, &open, again)
    })
}

/// Has the image served from `file`, which is open for writing.
///
/// # Errors
/// 32 when another program has the image open, and what the format says.
pub fn use_writable(state: &mut State, file: Arc<OwnedFd>) -> Result<()> {
    let image = ImageFile {
        file,
        writable: true,
        level: Level::None,
    };
    let open = state.open.clone();
    move_lock(state, image, Level::Write, &open, false)
}

/// Moves the lock to the file that serves from now on, and opens the image there.
fn move_lock(
    state: &mut State,
    mut image: ImageFile,
    level: Level,
    open: &Open,
    again: bool,
) -> Result<()> {
    let old = state.image.clone();
    let level = old.as_ref().map_or(level, |o| level.max(o.level));
    let same = old
        .as_ref()
        .is_some_and(|o| Arc::ptr_eq(&o.file, &image.file));
    let held = if same { image.level } else { Level::None };
    if let Some(old) = old.as_ref().filter(|_| !same) {
        let _ = lock::release(old.file.as_fd());
    }
    let done = lock_and_open(state, &mut image, (held, level), open, again);
    match done {
        Ok(()) => state.image = Some(image),
        Err(_) => {
            if let Some(old) = old.as_ref().filter(|_| !same) {
                let _ = lock::acquire(old.file.as_fd(), old.level);
            }
        }
    }
    done
}

/// Changes the locks of `image` and its parents from one level to another, and opens it where the
/// worker has not, or has it with other parents.
fn lock_and_open(
    state: &mut State,
    image: &mut ImageFile,
    (held, level): (Level, Level),
    open: &Open,
    again: bool,
) -> Result<()> {
    lock::change(image.file.as_fd(), held, level).map_err(|conflict| {
        hinted(
            Code::ERROR_SHARING_VIOLATION,
            format!("{}: {conflict}", state.file),
            "stop the virtual machine or program that uses the image",
        )
    })?;
    image.level = level;
    let give_back = |image: &ImageFile| {
        let _ = lock::change(image.file.as_fd(), level, held);
    };
    if level > Level::None {
        chain::lock_all(&state.parents).inspect_err(|_| give_back(image))?;
    }
    let open_elsewhere = state
        .image
        .as_ref()
        .is_none_or(|i| !Arc::ptr_eq(&i.file, &image.file));
    if state.worker.is_some() && !open_elsewhere && !again {
        return Ok(());
    }
    if state.image.is_none() {
        state.open = Open {
            alone: state.open.alone,
            ..open.clone()
        };
    }
    state.open_image(image).inspect_err(|_| give_back(image))
}

/// An attached disk keeps its image file; a service that adopted it may lack one.
fn admit_beside_attachment(state: &mut State, received: &Received) -> Result<()> {
    if state.image.is_none() {
        state.image = Some(ImageFile {
            file: Arc::clone(&received.file),
            writable: false,
            level: Level::None,
        });
    }
    Ok(())
}

/// A disk that is open as one format can't be opened as another.
fn same_format(state: &State, open: &Open) -> Result<()> {
    match &open.format {
        Some(format) if !state.facts.format.is_empty() && *format != state.facts.format => {
            Err(fail(
                Code::ERROR_VIRTDISK_PROVIDER_NOT_FOUND,
                format!("{}: is {}, not {format}", state.file, state.facts.format),
            ))
        }
        _ => Ok(()),
    }
}

/// The answer to an open.
pub(super) fn opened(state: &State) -> OpenReply {
    let storage_type = provider::type_of(&state.facts.format);
    OpenReply {
        device_id: storage_type.device_id,
        vendor_id: storage_type.vendor_id.to_string(),
        attached: state.attachment.is_some(),
        need_parent: None,
    }
}

/// The extension of a path, lower case.
pub fn extension(path: &str) -> Option<String> {
    Path::new(path)
        .extension()
        .and_then(|e| e.to_str())
        .map(str::to_ascii_lowercase)
}

/// Looks at a descriptor that a caller sent.
///
/// # Errors
/// 5 for a directory, 0xC03A0015 for what is no regular file, 87 for a descriptor that can't be
/// read or that appends.
pub fn receive(fd: OwnedFd) -> Result<Received> {
    let flags =
        rustix::fs::fcntl_getfl(&fd).map_err(|e| system("looking at the descriptor", &e.into()))?;
    let name = std::fs::read_link(format!("/proc/self/fd/{}", fd_number(&fd)))
        .map(|p| p.to_string_lossy().into_owned())
        .unwrap_or_default();
    if flags.intersects(OFlags::PATH | OFlags::APPEND)
        || (flags & OFlags::ACCMODE) == OFlags::WRONLY
    {
        return Err(fail(
            Code::ERROR_INVALID_PARAMETER,
            format!("{name}: the descriptor must be open for reading, and not for appending"),
        ));
    }
    let stat = rustix::fs::fstat(&fd).map_err(|e| system(&format!("{name}: fstat"), &e.into()))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => {
            return Err(fail(
                Code::ERROR_ACCESS_DENIED,
                format!("{name}: is a directory"),
            ));
        }
        _ => {
            return Err(fail(
                Code::ERROR_VIRTDISK_NOT_VIRTUAL_DISK,
                format!("{name}: is no regular file"),
            ));
        }
    }
    let owner = Owner {
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode & 0o777,
    };
    Ok(Received {
        id: FileId {
            device: stat.st_dev,
            inode: stat.st_ino,
        },
        name,
        owner,
        writable: (flags & OFlags::ACCMODE) == OFlags::RDWR,
        file: Arc::new(fd),
    })
}

/// A descriptor's number, for /proc.
fn fd_number(fd: &OwnedFd) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

/// Refuses compressed and encrypted host files unless the open supports them (R-HOST-1,
/// R-HOST-2, R-OPEN-23). Sparse files are normal on Linux (R-HOST-3).
///
/// # Errors
/// 0xC03A001A.
pub fn refuse_host(name: &str, file: BorrowedFd<'_>, flags: u32) -> Result<HostFile> {
    let host = host::inspect(file).map_err(|e| system(&format!("{name}: statx"), &e))?;
    let flags = OpenFlags::from_bits_truncate(flags);
    let (what, hint) = if host.compressed && !flags.contains(OpenFlags::SUPPORT_COMPRESSED_VOLUMES)
    {
        (
            "compressed",
            "copy it to a file without compression (chattr -c before writing)",
        )
    } else if host.encrypted && !flags.contains(OpenFlags::SUPPORT_ENCRYPTED_FILES) {
        ("encrypted", "copy it to a directory without encryption")
    } else {
        return Ok(host);
    };
    Err(hinted(
        Code::ERROR_VIRTUAL_DISK_LIMITATION,
        format!("{name}: the image file is {what} by its file system"),
        hint,
    ))
}
