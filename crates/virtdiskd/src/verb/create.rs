//! CreateVirtualDisk: a caller's new, empty file becomes an image and a handle on it.
//!
//! The caller made the file with its own rights and removes it when this fails; a worker writes
//! the format into it. With a parent or a source the caller sends that file too, and its own
//! parents when they are asked for: nothing is written before the whole chain is known.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};
use std::sync::Arc;

use virtdisk::frame::{CreateRequest, OpenRequest};
use virtdisk::{Code, CreateFlags, OpenFlags};

use crate::caller::Peer;
use crate::chain::{self, ParentFile, Parents};
use crate::engine::{Engine, HandleId};
use crate::entry::start_worker;
use crate::failure::{Result, fail, system};
use crate::handle::{self, Handle};
use crate::provider;
use crate::question::{Base, Create, Open, Question, UseAs};
use crate::resolve::{Progress, Resolving};

use super::open::{Entrant, Received, extension, receive, refuse_host};
use super::parent::{Goal, Opened, receive_parent};

/// A disk on its way to be made.
#[derive(Debug)]
pub struct Creation {
    request: CreateRequest,
    /// The new, empty file.
    received: Received,
    /// The parent or the source, and how it is opened.
    base: Option<(Received, Open)>,
    format: &'static str,
    /// Who waits for it: a copy that nobody waits for ends (R-ASY-7).
    peer: Peer,
}

impl Engine {
    /// Creates an image in the empty file that is the first of `fds`, and opens a handle on it
    /// (R-HND-3). The second is the parent or the source, where there is one.
    ///
    /// # Errors
    /// Rules R-CRE of the API sheet.
    pub fn create(&self, request: &CreateRequest, fds: Vec<OwnedFd>, peer: Peer) -> Result<Opened> {
        virtdisk::check::create(request)?;
        let mut fds = fds.into_iter();
        let has_base = !request.parent_path.is_empty() || !request.source_path.is_empty();
        let (received, base) = match (fds.next(), fds.next(), fds.next()) {
            (Some(new), base, None) if base.is_some() == has_base => (receive(new)?, base),
            _ => {
                return Err(fail(
                    Code::ERROR_INVALID_PARAMETER,
                    "a create takes the new file, and the parent or the source where there is one",
                ));
            }
        };
        let storage_type = provider::storage_type(request.device_id, &request.vendor_id)?;
        let format = provider::format_to_create(storage_type, &request.path)?;
        refuse_not_made(request, &received.name, format)?;
        self.refuse_used(&received)?;
        let flags = CreateFlags::from_bits_truncate(request.flags);
        refuse_host(&received.name, received.file.as_fd(), host_flags(flags))?;
        let base = base.map(|fd| base_of(request, fd, format)).transpose()?;
        let creation = Creation {
            request: request.clone(),
            received,
            base,
            format,
            peer,
        };
        let progress = match &creation.base {
            Some((base, open)) if !open.alone => Resolving::begin(base.id, &base.file, open)?,
            _ => Progress::Complete(Parents::new()),
        };
        self.go_on(progress, Goal::Create(Box::new(creation)))
    }

    /// The new image must be an empty file that nobody has open as a disk.
    fn refuse_used(&self, received: &Received) -> Result<()> {
        let name = &received.name;
        let empty = rustix::fs::fstat(&received.file)
            .map_err(|e| system(&format!("{name}: fstat"), &e.into()))?
            .st_size
            == 0;
        if received.writable && empty && self.find(received.id).is_none() {
            return Ok(());
        }
        Err(fail(
            Code::ERROR_INVALID_PARAMETER,
            format!("{name}: the new image must be an empty file, open for writing"),
        ))
    }

    /// Makes the image, with the parents of its parent or source, and lets a handle in.
    ///
    /// # Errors
    /// 32 when somebody writes to the parent or the source, and what the formats say.
    pub(super) fn finish_create(
        &self,
        creation: &Creation,
        parents: Parents,
    ) -> Result<(HandleId, virtdisk::frame::OpenReply)> {
        let Creation {
            request,
            received,
            base,
            format,
            peer,
        } = creation;
        let name = &received.name;
        let mut chain = Parents::new();
        if let Some((base, _)) = base {
            chain.push(ParentFile::new(base.clone(), self.registry()));
            self.guard(&chain);
            chain.extend(parents);
        }
        chain::lock_all(&chain)?;
        let asked = question(creation, &chain)?;
        let worker = start_worker(received.id, &self.ended())
            .map_err(|e| system("starting a worker", &e))?;
        let mut files = vec![received.file.as_fd()];
        files.extend(chain.iter().map(|parent| parent.file()));
        worker
            .ask_while(&Question::Create(asked), &files, || peer.is_there())
            .map_err(|e| e.into_failure(name))?;
        let _ = worker.ask(&Question::Close, &[]);
        if request.parent_path.is_empty() {
            chain.clear();
        }
        let entrant = Entrant {
            received: received.clone(),
            open: Open {
                name: name.clone(),
                extension: extension(&request.path),
                format: Some((*format).to_owned()),
                writable: true,
                alone: false,
                parents: Vec::new(),
            },
            handle: new_handle(request, &received.file),
        };
        self.enter(&entrant, &chain)
    }
}

/// The parent or the source that a caller sent. A parent has the format of its child; with
/// NO_PARENTS its own parents are left alone.
fn base_of(request: &CreateRequest, fd: OwnedFd, format: &str) -> Result<(Received, Open)> {
    let received = receive_parent(fd)?;
    let is_parent = !request.parent_path.is_empty();
    let path = if is_parent {
        &request.parent_path
    } else {
        &request.source_path
    };
    let flags = OpenFlags::from_bits_truncate(request.open_flags);
    let open = Open {
        name: received.name.clone(),
        extension: extension(path),
        format: is_parent.then(|| format.to_owned()),
        writable: false,
        alone: is_parent && flags.contains(OpenFlags::NO_PARENTS),
        parents: Vec::new(),
    };
    Ok((received, open))
}

/// What this version does not make.
fn refuse_not_made(request: &CreateRequest, name: &str, format: &str) -> Result<()> {
    let refused = if format == "iso" {
        "ISO images are not made"
    } else if request.version > 3 {
        "persistent-memory images are not made"
    } else {
        return Ok(());
    };
    Err(fail(
        Code::ERROR_NOT_SUPPORTED,
        format!("{name}: {refused}"),
    ))
}

/// The handle that a create returns: the mask with version 1, everything with later ones.
fn new_handle(request: &CreateRequest, file: &Arc<OwnedFd>) -> Handle {
    let as_open = OpenRequest {
        access_mask: request.access_mask,
        version: request.version.min(2),
        rw_depth: 1,
        ..OpenRequest::default()
    };
    Handle {
        rights: handle::rights(&as_open),
        first_version: request.version <= 1,
        resiliency_guid: request.resiliency_guid.clone(),
        flags: request.open_flags,
        file: Some(Arc::clone(file)),
        writes: handle::writes(&as_open),
        parents: Vec::new(),
    }
}

/// What the worker is asked. `chain` begins with the parent or the source.
fn question(creation: &Creation, chain: &Parents) -> Result<Create> {
    let Creation {
        request,
        received,
        base,
        format,
        ..
    } = creation;
    let name = &received.name;
    let identifier = uuid::Uuid::parse_str(&request.unique_id).map_err(|_| {
        fail(
            Code::ERROR_INVALID_PARAMETER,
            format!("{name}: the unique id is no GUID"),
        )
    })?;
    let flags = CreateFlags::from_bits_truncate(request.flags);
    let sparse = flags.contains(CreateFlags::SPARSE_FILE);
    let fixed = flags.contains(CreateFlags::FULL_PHYSICAL_ALLOCATION);
    let base = match base {
        None => None,
        Some((_, open)) if request.parent_path.is_empty() => Some(Base {
            open: Open {
                parents: chain::names(&chain.iter().skip(1).cloned().collect()),
                ..open.clone()
            },
            use_as: UseAs::Source,
        }),
        Some((parent, open)) => Some(Base {
            // Only its facts are asked for.
            open: Open {
                alone: true,
                ..open.clone()
            },
            use_as: UseAs::Parent {
                relative_path: relative_path(name, &parent.name)?,
                inherit: !flags.contains(CreateFlags::DO_NOT_COPY_METADATA_FROM_PARENT),
            },
        }),
    };
    Ok(Create {
        name: name.clone(),
        format: (*format).to_owned(),
        // A raw image is one run by nature; without the flag its space is not reserved.
        fixed: fixed || *format == "raw",
        sparse: sparse || !fixed,
        virtual_size: request.maximum_size,
        block_size: request.block_size,
        sector_size: request.sector_size,
        physical_sector_size: request.physical_sector_size,
        identifier,
        base,
    })
}

/// The way from the folder of `child` to `parent` as Windows writes it: `.\base.vhd`,
/// `..\base\base.vhd`. Both are real paths.
///
/// # Errors
/// 123 when a name can't be written so.
fn relative_path(child: &str, parent: &str) -> Result<String> {
    let folder = Path::new(child).parent().unwrap_or(Path::new("/"));
    let (from, to) = (folder.components(), Path::new(parent).components());
    let (from, to): (Vec<_>, Vec<_>) = (from.collect(), to.collect());
    let same = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let ups = from.len() - same;
    let mut path = match ups {
        0 => ".\\".to_owned(),
        ups => "..\\".repeat(ups),
    };
    for (index, component) in to.iter().skip(same).enumerate() {
        let Component::Normal(name) = component else {
            return Err(no_windows_path(parent));
        };
        let name = name.to_str().filter(|name| !name.contains('\\'));
        if index > 0 {
            path.push('\\');
        }
        path.push_str(name.ok_or_else(|| no_windows_path(parent))?);
    }
    Ok(path)
}

fn no_windows_path(parent: &str) -> virtdisk::frame::Failure {
    fail(
        Code::ERROR_INVALID_NAME,
        format!("{parent}: no path of Windows can be made of this name"),
    )
}

/// The open flags that lift the same refusals.
fn host_flags(flags: CreateFlags) -> u32 {
    if flags.contains(CreateFlags::SUPPORT_COMPRESSED_VOLUMES) {
        virtdisk::OpenFlags::SUPPORT_COMPRESSED_VOLUMES.bits()
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::relative_path;

    // R-CRE-10
    #[test]
    fn the_way_to_the_parent_is_written_as_windows_does() {
        for (child, parent, path) in [
            ("/vm/child.vhd", "/vm/base.vhd", r".\base.vhd"),
            ("/vm/child.vhd", "/vm/old/base.vhd", r".\old\base.vhd"),
            ("/vm/a/b/child.vhd", "/vm/base.vhd", r"..\..\base.vhd"),
            ("/vm/a/child.vhd", "/vm/b/base.vhd", r"..\b\base.vhd"),
            ("/child.vhd", "/base.vhd", r".\base.vhd"),
        ] {
            assert_eq!(relative_path(child, parent).unwrap(), path);
        }
        let odd = relative_path("/vm/child.vhd", "/vm/a\\b.vhd");
        assert_eq!(odd.unwrap_err().code, 123);
    }
}
