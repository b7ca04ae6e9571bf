//! The image file, opened or created by the caller with the caller's own rights.
//!
//! The service opens no path for anybody, so this is where file permissions decide. Only regular
//! files are opened at all: looking first keeps the open from waiting on a FIFO or from waking a
//! device. A created file that is not kept is removed again, and only that very file.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fcntl_getfl, fcntl_setfl, fstat, open, openat, stat,
    statat, unlinkat,
};
use rustix::io::Errno;

use crate::code::Code;
use crate::error::{Error, Result};
use crate::flags::AccessMask;
use crate::frame::OpenRequest;
use crate::path::escaped;
use crate::storage_type::StorageType;

/// True when the request needs a writable image: a version 1 mask with a right that writes and a
/// depth above 0 (R-OPEN-9, R-OPEN-10), a later version that is neither read-only nor for queries
/// (R-OPEN-17, R-OPEN-18). An ISO image by name never does.
pub(crate) fn wants_write(request: &OpenRequest) -> bool {
    let microsoft = request.vendor_id == StorageType::VENDOR_MICROSOFT.to_string();
    if microsoft && request.device_id == StorageType::DEVICE_ISO {
        return false;
    }
    match request.version {
        1 => request.access_mask & AccessMask::WRITABLE.bits() != 0 && request.rw_depth > 0,
        _ => !request.read_only && !request.get_info_only,
    }
}

/// Opens the image of `request` at `path`.
///
/// # Errors
/// 2 no such file, 3 no such directory, 5 no permission or a directory, 19 read-only file system,
/// 123 impossible name, 0xC03A0015 not a regular file, other host errors by their table.
pub(crate) fn open_image(path: &Path, request: &OpenRequest) -> Result<OwnedFd> {
    let write = wants_write(request);
    open_regular(path, write, write && request.version > 1)
}

/// Opens a parent or a source that the caller names, for reading.
///
/// # Errors
/// As [`open_image`].
pub(crate) fn open_to_read(path: &Path) -> Result<OwnedFd> {
    open_regular(path, false, false)
}

fn open_regular(path: &Path, write: bool, read_only_helps: bool) -> Result<OwnedFd> {
    let failed = |errno| open_error(path, errno, read_only_helps);
    regular(path, &stat(path).map_err(failed)?)?;
    let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
    let flags = access | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = open(path, flags, Mode::empty()).map_err(failed)?;
    regular(path, &fstat(&file).map_err(failed)?)?;
    let status = fcntl_getfl(&file).map_err(failed)?;
    fcntl_setfl(&file, status & !OFlags::NONBLOCK).map_err(failed)?;
    Ok(file)
}

fn regular(path: &Path, found: &Stat) -> Result<()> {
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => {
            let message = format!("{}: this is a directory", escaped(path));
            Err(Error::new(Code::ERROR_ACCESS_DENIED, message))
        }
        _ => {
            let message = format!("{}: not a regular file", escaped(path));
            Err(Error::new(Code::ERROR_VIRTDISK_NOT_VIRTUAL_DISK, message))
        }
    }
}

/// The error of an open that the host refused.
fn open_error(path: &Path, errno: Errno, read_only_helps: bool) -> Error {
    let name = escaped(path);
    let error = match errno {
        Errno::NOENT if directory_missing(path) => Error::new(
            Code::ERROR_PATH_NOT_FOUND,
            format!("{name}: no such directory"),
        ),
        Errno::NOENT => Error::new(Code::ERROR_FILE_NOT_FOUND, format!("{name}: no such file")),
        Errno::NOTDIR => {
            let message = format!("{name}: a part of the path is not a directory");
            Error::new(Code::ERROR_PATH_NOT_FOUND, message)
        }
        Errno::ACCESS | Errno::PERM => Error::new(
            Code::ERROR_ACCESS_DENIED,
            format!("{name}: permission denied"),
        ),
        Errno::ROFS => Error::new(
            Code::ERROR_WRITE_PROTECT,
            format!("{name}: the file system is read-only"),
        ),
        Errno::INVAL | Errno::NAMETOOLONG => Error::new(
            Code::ERROR_INVALID_NAME,
            format!("{name}: no valid file name"),
        ),
        _ => Error::from_io(format!("{name}: can't be opened"), io::Error::from(errno)),
    };
    let denied = matches!(errno, Errno::ACCESS | Errno::PERM | Errno::ROFS);
    if denied && read_only_helps {
        error.with_hint("open it read-only (read_only)")
    } else {
        error
    }
}

fn directory_missing(path: &Path) -> bool {
    path.parent().is_some_and(|parent| stat(parent).is_err())
}

/// A file that was just created, and how to take it back.
#[derive(Debug)]
pub(crate) struct NewFile {
    file: File,
    directory: OwnedFd,
    path: PathBuf,
}

impl NewFile {
    /// Creates an empty file that did not exist, mode 0666 less the umask.
    ///
    /// # Errors
    /// 80 when anything has that name already (R-CRE-12); otherwise as [`open_image`].
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let failed = |errno| match errno {
            Errno::EXIST => exists_error(path),
            _ => open_error(path, errno, false),
        };
        let name = path.file_name().ok_or_else(|| exists_error(path))?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(parent, flags, Mode::empty()).map_err(failed)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = openat(&directory, name, flags, Mode::from_raw_mode(0o666)).map_err(failed)?;
        Ok(Self {
            file: File::from(file),
            directory,
            path: path.to_owned(),
        })
    }

    /// The file, read-write.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// True while nothing was written to it.
    pub(crate) fn is_empty(&self) -> bool {
        fstat(&self.file).is_ok_and(|found| found.st_size == 0)
    }

    /// Removes the file, if its name still stands for it (R-CRE-13).
    pub(crate) fn remove(self) {
        let Some(name) = self.path.file_name() else {
            return;
        };
        let named = statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW);
        if let (Ok(named), Ok(ours)) = (named, fstat(&self.file))
            && (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)
        {
            // The create failed already; a second error would only hide the first.
            let _ = unlinkat(&self.directory, name, AtFlags::empty());
        }
    }
}

/// Refuses a create whose target is there already, before anything is started for it (R-CRE-12).
pub(crate) fn must_not_exist(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(_) => Err(exists_error(path)),
        Err(_) => Ok(()),
    }
}

fn exists_error(path: &Path) -> Error {
    Error::new(
        Code::ERROR_FILE_EXISTS,
        format!("{}: exists already", escaped(path)),
    )
    .with_hint("nothing is ever overwritten: choose another name or remove the file")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::{OpenOptions, OpenParameters};

    fn writes(options: &OpenOptions) -> bool {
        wants_write(&options.request("/a.vhd".to_owned()))
    }

    // R-OPEN-10, R-OPEN-9
    #[test]
    fn only_rights_that_write_open_the_image_writable() {
        for mask in [
            AccessMask::ATTACH_RW,
            AccessMask::CREATE,
            AccessMask::METAOPS,
        ] {
            assert!(writes(&OpenOptions::with_access(mask)));
            let depth_0 = OpenOptions {
                parameters: OpenParameters::V1 { rw_depth: 0 },
                ..OpenOptions::with_access(mask)
            };
            assert!(!writes(&depth_0));
        }
        assert!(!writes(&OpenOptions::with_access(AccessMask::READ)));
        assert!(!writes(&OpenOptions::with_access(AccessMask::NONE)));
    }

    // R-OPEN-17, R-OPEN-18
    #[test]
    fn version_2_writes_unless_it_says_otherwise() {
        assert!(writes(&OpenOptions::v2(false)));
        assert!(!writes(&OpenOptions::v2(true)));
        let resiliency_guid = uuid::Uuid::nil();
        let parameters = OpenParameters::V2 {
            get_info_only: true,
            read_only: false,
            resiliency_guid,
        };
        assert!(!writes(&OpenOptions {
            parameters,
            ..OpenOptions::default()
        }));
        let iso = OpenOptions {
            storage_type: StorageType::ISO,
            ..OpenOptions::v2(false)
        };
        assert!(!writes(&iso));
    }

    #[test]
    fn removing_leaves_a_file_that_took_the_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.vhd");
        let new = NewFile::create(&path).unwrap();
        std::fs::rename(&path, directory.path().join("b.vhd")).unwrap();
        std::fs::write(&path, "somebody else's").unwrap();
        new.remove();
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody else's");

        let path = directory.path().join("c.vhd");
        NewFile::create(&path).unwrap().remove();
        assert!(!path.exists());
    }
}
