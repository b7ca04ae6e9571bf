//! CreateVirtualDisk: a caller's new, empty file becomes an image and a handle on it.
//!
//! The caller made the file with its own rights and removes it when this fails; a worker writes
//! the format into it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use virtdisk::frame::{CreateRequest, OpenReply, OpenRequest};
use virtdisk::{Code, CreateFlags};

use crate::engine::{Engine, HandleId};
use crate::entry::start_worker;
use crate::failure::{Result, fail, system};
use crate::handle::{self, Handle};
use crate::provider;
use crate::question::{Create, Open, Question};

use super::open::{extension, receive, refuse_host};

impl Engine {
    /// Creates an image in the empty file `fd`, and opens a handle on it (R-HND-3).
    ///
    /// # Errors
    /// Rules R-CRE of the API sheet.
    pub fn create(&self, request: &CreateRequest, fd: OwnedFd) -> Result<(HandleId, OpenReply)> {
        virtdisk::check::create(request)?;
        let received = receive(fd)?;
        let name = received.name.clone();
        let storage_type = provider::storage_type(request.device_id, &request.vendor_id)?;
        let format = provider::format_to_create(storage_type, &request.path)?;
        refuse_not_made(request, &name, format)?;
        let empty = rustix::fs::fstat(&received.file)
            .map_err(|e| system(&format!("{name}: fstat"), &e.into()))?
            .st_size
            == 0;
        if !received.writable || !empty || self.find(received.id).is_some() {
            return Err(fail(
                Code::ERROR_INVALID_PARAMETER,
                format!("{name}: the new image must be an empty file, open for writing"),
            ));
        }
        let flags = CreateFlags::from_bits_truncate(request.flags);
        refuse_host(&name, received.file.as_fd(), host_flags(flags))?;
        let asked = question(request, &name, format, flags)?;
        let worker = start_worker(received.id, &self.ended())
            .map_err(|e| system("starting a worker", &e))?;
        worker
            .ask(&Question::Create(asked), &[received.file.as_fd()])
            .map_err(|e| e.into_failure(&name))?;
        let _ = worker.ask(&Question::Close, &[]);
        let open = Open {
            name,
            extension: extension(&request.path),
            format: Some(format.to_owned()),
            writable: true,
        };
        let handle = new_handle(request, &received.file);
        self.enter(received, open, handle)
    }
}

/// What this version does not make.
fn refuse_not_made(request: &CreateRequest, name: &str, format: &str) -> Result<()> {
    let refused = if format == "iso" {
        "ISO images are not made"
    } else if !request.parent_path.is_empty() {
        "differencing disks are not made by this version"
    } else if !request.source_path.is_empty() {
        "copying a source into a new image is not done by this version"
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
    }
}

/// What the worker is asked.
fn question(
    request: &CreateRequest,
    name: &str,
    format: &str,
    flags: CreateFlags,
) -> Result<Create> {
    let identifier = uuid::Uuid::parse_str(&request.unique_id).map_err(|_| {
        fail(
            Code::ERROR_INVALID_PARAMETER,
            format!("{name}: the unique id is no GUID"),
        )
    })?;
    let sparse = flags.contains(CreateFlags::SPARSE_FILE);
    let fixed = flags.contains(CreateFlags::FULL_PHYSICAL_ALLOCATION);
    Ok(Create {
        name: name.to_owned(),
        format: format.to_owned(),
        // A raw image is one run by nature; without the flag its space is not reserved.
        fixed: fixed || format == "raw",
        sparse: sparse || !fixed,
        virtual_size: request.maximum_size,
        block_size: request.block_size,
        identifier,
    })
}

/// The open flags that lift the same refusals.
fn host_flags(flags: CreateFlags) -> u32 {
    if flags.contains(CreateFlags::SUPPORT_COMPRESSED_VOLUMES) {
        virtdisk::OpenFlags::SUPPORT_COMPRESSED_VOLUMES.bits()
    } else {
        0
    }
}
