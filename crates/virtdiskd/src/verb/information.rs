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
use crate::handle::{self, Handle};
use crate::provider;
use crate::question::{Answer, PhysicalAnswer, Question};

/// 2000-01-01 UTC in seconds since 1970.
const EPOCH_2000: u64 = 946_684_800;
/// Room for the names of parents in an answer, bytes.
const PARENTS_ROOM_BYTES: usize = 32 * 1024;

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
            let refused = state.handles.get(&id.number);
            let refused = refused.is_some_and(Handle::refuses_parents);
            Ok(assemble(state, &physical, &host, !refused))
        })
    }
}

/// Puts the facts together. `resolves`: the handle was not opened to leave the parents out.
fn assemble(
    state: &State,
    physical: &PhysicalAnswer,
    host: &host::HostFile,
    resolves: bool,
) -> Information {
    let facts = &state.facts;
    let link = facts.parent.as_ref();
    let parent_resolved = link.is_some() && resolves && state.is_complete();
    // What a child records is what Windows calls the identifier (R-CRE-10).
    let identifier = match facts.content_id {
        id if id.is_nil() => facts.identifier,
        id => id,
    };
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
        identifier: identifier.to_string(),
        virtual_disk_id: facts.identifier.to_string(),
        subtype: facts.subtype,
        is_4k_aligned: physical.aligned_4k,
        host_logical_sector_size: host.logical_sector,
        host_physical_sector_size: host.physical_sector,
        is_remote: host.remote,
        // The question is not for differencing disks (R-INFO-7).
        fragmentation: physical.fragmentation.filter(|_| link.is_none()),
        smallest_safe_size: physical.smallest_safe_size,
        is_loaded: state.attachment.is_some(),
        device,
        creator: facts.creator.clone(),
        created: facts.created,
        notices: facts.notices.clone(),
        parent_resolved,
        parents: match parent_resolved {
            true => parents(state),
            false => Vec::new(),
        },
        parent_hints: link.map_or_else(Vec::new, |link| {
            link.hints.iter().map(|(_, text)| text.clone()).collect()
        }),
        parent_identifier: link
            .and_then(|link| link.identities.first())
            .map_or_else(String::new, ToString::to_string),
        parent_timestamp: link.and_then(|link| link.modified).map_or(0, since_2000),
    }
}

/// The files of the chain, nearest first, as many as fit into a message.
fn parents(state: &State) -> Vec<String> {
    let mut room = PARENTS_ROOM_BYTES;
    let names = state.parents.iter().map(|parent| parent.name());
    let fitting = names.take_while(|name| {
        let fits = name.len() <= room;
        room = room.saturating_sub(name.len());
        fits
    });
    fitting.map(str::to_owned).collect()
}

/// The time of a VHD: seconds since 2000-01-01 UTC.
fn since_2000(unix: u64) -> u32 {
    u32::try_from(unix.saturating_sub(EPOCH_2000)).unwrap_or(u32::MAX)
}

/// R-INFO-1.
fn need_info(state: &State, id: HandleId) -> Result<()> {
    match state.handles.get(&id.number) {
        Some(handle) => handle::need(&state.file, handle, AccessMask::GET_INFO, "ask"),
        None => Err(crate::engine::no_handle()),
    }
}
