//! A handle to a virtual disk: open, create, attach, detach, ask.
//!
//! The handle is the connection. Whoever holds a copy of its descriptor holds the handle; the last
//! copy that closes closes it. Calls from several threads wait for each other; two processes that
//! share one descriptor must take turns themselves, since answers carry no address.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::check;
use crate::code::Code;
use crate::error::{Error, Result};
use crate::flags::{AttachFlags, DetachFlags, OpenFlags};
use crate::frame::{
    AttachReply, AttachedDisk, DetachReply, EmptyRequest, Holder, Information, OpenAttachedRequest,
    OpenParentRequest, OpenReply, PathReply, method,
};
use crate::image_file::{NewFile, must_not_exist, open_image, open_to_read};
use crate::parameters::{AttachOptions, CreateOptions, DetachOptions, OpenOptions, OpenParameters};
use crate::parent::Search;
use crate::path::{absolute, escaped};
use crate::service::{Service, real_device};
use crate::storage_type::StorageType;
use crate::wire::Wire;

/// A handle to a virtual disk. Dropping it closes the handle, and with the last handle of a disk
/// ends an attachment that is not permanent (R-LIFE-1).
#[derive(Debug)]
pub struct VirtualDisk {
    wire: Wire,
    opened: Option<OpenReply>,
}

/// What an attach made.
#[derive(Debug)]
pub struct Attached {
    /// The block device; empty for [`AttachFlags::NO_LOCAL_HOST`].
    pub device: PathBuf,
    /// Its partition nodes, in order of their numbers. They exist already.
    pub partitions: Vec<PathBuf>,
    /// The disk as a file, only for [`AttachFlags::NO_LOCAL_HOST`].
    pub raw_file: Option<File>,
}

/// What a detach did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detached {
    /// True: the device is gone and all data is in the file. False: it goes when the last holder
    /// lets go.
    pub gone: bool,
    /// Who holds it, when it is not gone.
    pub holders: Vec<Holder>,
}

/// Every attached disk the caller may see, by [`Service::find`].
///
/// # Errors
/// When the service can't be reached.
pub fn attached() -> Result<Vec<AttachedDisk>> {
    Service::find().attached()
}

impl Service {
    /// Opens an image. See [`VirtualDisk::open`].
    ///
    /// # Errors
    /// As [`VirtualDisk::open`].
    pub fn open(&self, path: impl AsRef<Path>, options: &OpenOptions) -> Result<VirtualDisk> {
        let path = absolute(path.as_ref())?;
        let request = options.request(path.to_string_lossy().into_owned());
        check::open(&request)?;
        if let OpenParameters::V3 { snapshot_id, .. } = options.parameters
            && snapshot_id != Uuid::nil()
        {
            let message = format!("{}: snapshots can't be opened", escaped(&path));
            return Err(Error::new(Code::ERROR_NOT_SUPPORTED, message));
        }
        let file = open_image(&path, &request)?;
        let fds = [file.as_fd()];
        let (wire, opened) = self.begin(self.connect()?, method::OPEN, &request, &fds, || true)?;
        let opened = match options.flags.contains(OpenFlags::CUSTOM_DIFF_CHAIN) {
            // Its parents are added one by one.
            true => opened,
            false => Search::new(&path, self.parents(), options.flags).complete(&wire, opened)?,
        };
        Ok(VirtualDisk {
            wire,
            opened: Some(opened),
        })
    }

    /// Creates an image. See [`VirtualDisk::create`].
    ///
    /// # Errors
    /// As [`VirtualDisk::create`].
    pub fn create(&self, path: impl AsRef<Path>, options: &CreateOptions) -> Result<VirtualDisk> {
        let path = absolute(path.as_ref())?;
        let request = options.request(path.to_string_lossy().into_owned());
        check::create(&request)?;
        must_not_exist(&path)?;
        let parameters = &options.parameters;
        let base = parameters.parent_path.as_ref();
        let base = match base.or(parameters.source_path.as_ref()) {
            Some(base) => Some((absolute(base)?, open_to_read(base)?)),
            None => None,
        };
        // Started before there is a file, so that a service that can't start costs none.
        let wire = self.connect()?;
        let new = NewFile::create(&path)?;
        let mut fds = vec![new.file().as_fd()];
        fds.extend(base.as_ref().map(|(_, file)| file.as_fd()));
        let begun = self.begin(wire, method::CREATE, &request, &fds, || new.is_empty());
        let done = begun.and_then(|(wire, opened)| match &base {
            Some((base, _)) => {
                let mut search = Search::new(base, self.parents(), parameters.open_flags);
                Ok((search.complete(&wire, opened)?, wire))
            }
            None => Ok((opened, wire)),
        });
        match done {
            Ok((opened, wire)) => Ok(VirtualDisk {
                wire,
                opened: Some(opened),
            }),
            Err(error) => {
                new.remove();
                Err(error)
            }
        }
    }

    /// Opens an attached disk by its device. See [`VirtualDisk::open_attached`].
    ///
    /// # Errors
    /// As [`VirtualDisk::open_attached`].
    pub fn open_attached(&self, device: impl AsRef<Path>) -> Result<VirtualDisk> {
        let device = real_device(&absolute(device.as_ref())?);
        let request = OpenAttachedRequest {
            device: device.to_string_lossy().into_owned(),
        };
        let (wire, opened) = self.begin(
            self.connect()?,
            method::OPEN_ATTACHED,
            &request,
            &[],
            || true,
        )?;
        Ok(VirtualDisk {
            wire,
            opened: Some(opened),
        })
    }
}

impl VirtualDisk {
    /// Opens an image with the caller's own rights and makes a handle of it.
    ///
    /// What is wrong with the arguments or the file is said before the service is asked:
    ///
    /// ```
    /// use virtdisk::{AccessMask, Code, OpenOptions, VirtualDisk};
    ///
    /// let options = OpenOptions::with_access(AccessMask::READ);
    /// let error = VirtualDisk::open("/no-such-disk.vhd", &options).unwrap_err();
    /// assert_eq!(error.code(), Code::ERROR_FILE_NOT_FOUND);
    /// ```
    ///
    /// # Errors
    /// 87 and the other codes of [`check::open`]; then those of the file: 2 or 3 missing, 5 no
    /// permission or a directory, 19 read-only file system, 123 Windows path, 0xC03A0015 not a
    /// regular file; then the service's: what the image is not, 32 in use by another handle; and
    /// of a chain 0xC03A000D parent missing, 0xC03A000E another disk lies in its place,
    /// 0xC03A0016 parent not accessible, 0xC03A0018 a cycle, 0xC03A0019 a parent is damaged.
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        Service::find().open(path, options)
    }

    /// Creates an image; the handle can be attached at once (R-HND-3). On failure no file is left
    /// behind.
    ///
    /// ```no_run
    /// use virtdisk::{CreateOptions, CreateParameters, VirtualDisk};
    ///
    /// # fn main() -> virtdisk::Result<()> {
    /// let parameters = CreateParameters { maximum_size: 10 << 30, ..Default::default() };
    /// let options = CreateOptions { parameters, ..CreateOptions::default() };
    /// let disk = VirtualDisk::create("/images/disk.vhd", &options)?;
    /// assert_eq!(disk.information()?.virtual_size, 10 << 30);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// 87 and the other codes of [`check::create`]; 80 when the name is taken; those of the
    /// directory as in [`VirtualDisk::open`]; 112 no space.
    pub fn create(path: impl AsRef<Path>, options: &CreateOptions) -> Result<Self> {
        Service::find().create(path, options)
    }

    /// A handle, with the rights to ask and to detach, to the disk behind a device or one of its
    /// partitions.
    ///
    /// # Errors
    /// 2 when the device is no attached disk, 5 for another user's disk, 1314 without the
    /// privilege.
    pub fn open_attached(device: impl AsRef<Path>) -> Result<Self> {
        Service::find().open_attached(device)
    }

    /// Gives the next parent to a handle that was opened with [`OpenFlags::CUSTOM_DIFF_CHAIN`],
    /// child side first; nothing is written. True: the chain is complete, the disk can be attached
    /// (R-PAR-1).
    ///
    /// # Errors
    /// 87 for any other handle; 0xC03A001B for a disk without parent, 0xC03A001C when the chain is
    /// complete already; 0xC03A000E when the file is another disk (R-PAR-2), 0xC03A0019 when it is
    /// damaged; after these another file may be given. Those of a file as in
    /// [`VirtualDisk::open`].
    pub fn add_parent(&self, path: impl AsRef<Path>) -> Result<bool> {
        let path = absolute(path.as_ref())?;
        let file = open_to_read(&path)?;
        let request = OpenParentRequest {
            path: path.to_string_lossy().into_owned(),
        };
        let (reply, _) =
            self.wire
                .call::<_, OpenReply>(method::OPEN_PARENT, &request, &[file.as_fd()], 0)?;
        match reply.need_parent {
            Some(need) if need.rejected_code != 0 => {
                Err(Error::new(Code(need.rejected_code), need.rejected))
            }
            need => Ok(need.is_none()),
        }
    }

    /// Attaches the disk. The device and its partition nodes exist on return.
    ///
    /// # Errors
    /// 87 wrong arguments, 5 the handle lacks the right, 32 or 22 attached already, 1314 no
    /// privilege, 0xC03A001A the image file is compressed or encrypted.
    pub fn attach(&self, options: &AttachOptions) -> Result<Attached> {
        let request = options.request();
        check::attach(&request)?;
        let raw = options.flags.contains(AttachFlags::NO_LOCAL_HOST);
        let (reply, mut fds) =
            self.call::<_, AttachReply>(method::ATTACH, &request, usize::from(raw))?;
        Ok(Attached {
            device: PathBuf::from(reply.device),
            partitions: reply.partitions.into_iter().map(PathBuf::from).collect(),
            raw_file: fds.pop().map(File::from),
        })
    }

    /// Detaches the disk, whichever handle attached it. See [`VirtualDisk::detach_with`].
    ///
    /// # Errors
    /// As [`VirtualDisk::detach_with`].
    pub fn detach(&self, flags: DetachFlags) -> Result<Detached> {
        self.detach_with(&DetachOptions {
            flags,
            ..DetachOptions::default()
        })
    }

    /// Detaches the disk: when [`Detached::gone`] the device is gone and all data is in the file.
    ///
    /// # Errors
    /// 87 wrong arguments, 5 the handle lacks the right, 21 not attached, 32 other handles are
    /// open, 170 the device is in use ([`Error::holders`] says by whom), 1314 no privilege.
    pub fn detach_with(&self, options: &DetachOptions) -> Result<Detached> {
        let request = options.request();
        check::detach(&request)?;
        let (reply, _) = self.call::<_, DetachReply>(method::DETACH, &request, 0)?;
        Ok(Detached {
            gone: reply.gone,
            holders: reply.holders,
        })
    }

    /// The device of the attached disk.
    ///
    /// # Errors
    /// 55 not attached, 5 the handle lacks GET_INFO.
    pub fn physical_path(&self) -> Result<PathBuf> {
        let request = EmptyRequest::default();
        let (reply, _) = self.call::<_, PathReply>(method::GET_PHYSICAL_PATH, &request, 0)?;
        Ok(PathBuf::from(reply.path))
    }

    /// Every fact about the disk, attached or not.
    ///
    /// # Errors
    /// 5 the handle lacks GET_INFO.
    pub fn information(&self) -> Result<Information> {
        let request = EmptyRequest::default();
        Ok(self.call(method::GET_INFORMATION, &request, 0)?.0)
    }

    /// The real type of the image, also when it was opened as UNKNOWN. `None` for a handle that
    /// came from [`VirtualDisk::from_fd`].
    #[must_use]
    pub fn storage_type(&self) -> Option<StorageType> {
        let opened = self.opened.as_ref()?;
        let vendor_id = Uuid::try_parse(&opened.vendor_id).ok()?;
        Some(StorageType::new(opened.device_id, vendor_id))
    }

    /// True when the disk was attached already as this handle was opened.
    #[must_use]
    pub fn was_attached(&self) -> bool {
        self.opened.as_ref().is_some_and(|opened| opened.attached)
    }

    /// The handle as a descriptor, to be kept, inherited or passed on.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        OwnedFd::from(self.wire.into_stream())
    }

    /// A handle that was passed on as a descriptor.
    ///
    /// # Errors
    /// 87 when it is no stream socket of the Unix family.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        let unix = socket_domain(&fd) == Ok(AddressFamily::UNIX);
        if !unix || socket_type(&fd) != Ok(SocketType::STREAM) {
            let message = "the descriptor is no handle to a virtual disk";
            return Err(Error::new(Code::ERROR_INVALID_PARAMETER, message));
        }
        Ok(Self {
            wire: Wire::new(UnixStream::from(fd)),
            opened: None,
        })
    }

    fn call<Q: Serialize, R: DeserializeOwned>(
        &self,
        method: &str,
        request: &Q,
        fds_expected: usize,
    ) -> Result<(R, Vec<OwnedFd>)> {
        self.wire.call(method, request, &[], fds_expected)
    }
}

impl AsFd for VirtualDisk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wire.stream().as_fd()
    }
}

impl From<VirtualDisk> for OwnedFd {
    fn from(disk: VirtualDisk) -> Self {
        disk.into_fd()
    }
}
