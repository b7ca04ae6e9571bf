//! GetVirtualDiskInformation and GetVirtualDiskPhysicalPath: what is known of a disk.
//!
//! All facts of the information classes go out in one answer; the client picks the class. What
//! the image says comes from its worker, what the host says of the file from the descriptor.

use std::os::fd::AsFd;

use virtdisk::frame::{Information, PathReply};
use virtdisk::{AccessMask, Code};
use virtdisk_disk::host;

use crate::engine::{Engine, HandleId};
use crate::entry::State;
use crate::failure::{Result, fail, system};
use crate::question::{Answer, PhysicalAnswer, Question};
use crate::{handle, provider};

impl Engine {
    /// The device path of an attached disk.
    ///
    /// # Errors
    /// 55 when it is not attached, or has no device (R-PATH-1), 5 without GET_INFO.
    pub fn physical_path(&self, id: HandleId) -> Result<PathReply> {
        self.with(id, |state| {
            need_info(state, id)?;
            match state.attachment.as_ref().map(|a| a.path()) {
                Some(path) if !path.is_empty() => Ok(PathReply { path }),
                _ => Err(fail(
                    Code::ERROR_DEV_NOT_EXIST,
                    format!("{}: is not attached to a device", state.file),
                )),
            }
        })
    }

    /// Every fact of the information classes.
    ///
    /// # Errors
    /// 5 without GET_INFO, and what the image says.
    pub fn information(&self, id: HandleId) -> Result<Information> {
        self.with(id, |state| {
            need_info(state, id)?;
            let physical = match state.ask(&Question::Physical)? {
                Answer::Physical(physical) => physical,
                _ => PhysicalAnswer::default(),
            };
            let own = state.handles.get(&id.number).and_then(|h| h.file.clone());
            let file = own.or_else(|| state.image.as_ref().map(|i| i.file.clone()));
            let Some(file) = file else {
                return Err(crate::engine::no_handle());
            };
            let host = host::inspect(file.as_fd())
                .map_err(|e| system(&format!("{}: statx", state.file), &e))?;
            Ok(assemble(state, &physical, &host))
        })
    }
}

/// Puts the facts together.
fn assemble(state: &State, physical: &PhysicalAnswer, host: &host::HostFile) -> Information {
    let facts = &state.facts;
    let storage_type = provider::type_of(&facts.format);
    let device = state
        .attachment
        .as_ref()
        .map(|a| a.path())
        .unwrap_or_default();
    Information {
        file: state.file.clone(),
        format: facts.format.clone(),
        kind: facts.kind.clone(),
        device_id: storage_type.device_id,
        vendor_id: storage_type.vendor_id.to_string(),
        virtual_size: facts.virtual_size,
        physical_size: physical.file_length,
        allocated_size: physical.allocated,
        block_size: facts.block_size,
        sector_size: facts.sector_size,
        physical_sector_size: facts.physical_sector_size,
        identifier: facts.identifier.to_string(),
        virtual_disk_id: facts.identifier.to_string(),
        subtype: facts.subtype,
        is_4k_aligned: physical.aligned_4k,
        host_logical_sector_size: host.logical_sector,
        host_physical_sector_size: host.physical_sector,
        is_remote: host.remote,
        fragmentation: physical.fragmentation,
        smallest_safe_size: physical.smallest_safe_size,
        is_loaded: state.attachment.is_some(),
        device,
        creator: facts.creator.clone(),
        created: facts.created,
        notices: facts.notices.clone(),
    }
}

/// R-INFO-1.
fn need_info(state: &State, id: HandleId) -> Result<()> {
    match state.handles.get(&id.number) {
        Some(handle) => handle::need(&state.file, handle, AccessMask::GET_INFO, "ask"),
        None => Err(crate::engine::no_handle()),
    }
}
