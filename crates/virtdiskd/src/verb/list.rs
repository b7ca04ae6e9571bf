//! GetAllAttachedVirtualDiskPhysicalPaths, and all that `vdisk list` shows beside it.
//!
//! A caller sees its own disks; root and those with the privilege see all. A disk that is being
//! worked on keeps the list waiting for a bounded time.

use std::time::Duration;

use virtdisk::frame::{AttachedDisk, ListReply};

use crate::attachment::Stage;
use crate::caller::Caller;
use crate::engine::Engine;
use crate::entry::State;

/// How long a disk that is being worked on may keep a list waiting.
const PATIENCE: Duration = Duration::from_secs(5);

impl Engine {
    /// The attached disks that the caller may see, in order of attachment.
    pub fn list(&self, caller: &Caller) -> ListReply {
        let mut disks = Vec::new();
        for entry in self.all() {
            let Some(state) = entry.state.try_lock_for(PATIENCE) else {
                tracing::warn!("a disk is busy for too long to be listed");
                continue;
            };
            if state.gone || !caller.may_see(state.owner.uid) {
                continue;
            }
            disks.extend(describe(&state));
        }
        disks.sort_by_key(|(serial, _)| *serial);
        ListReply {
            disks: disks.into_iter().map(|(_, disk)| disk).collect(),
        }
    }
}

/// One attached disk, with its order.
fn describe(state: &State) -> Option<(u64, AttachedDisk)> {
    let attachment = state.attachment.as_ref()?;
    if !attachment.is_there() {
        return None;
    }
    let stage = match attachment.stage {
        Stage::Attached => "attached",
        Stage::Detaching => "detaching",
        Stage::Failed => "failed",
    };
    let disk = AttachedDisk {
        file: state.file.clone(),
        device: attachment.path(),
        partitions: attachment.partitions.clone(),
        format: state.facts.format.clone(),
        kind: state.facts.kind.clone(),
        virtual_size: state.facts.virtual_size,
        read_only: attachment.read_only,
        permanent: attachment.permanent,
        state: stage.to_owned(),
        handles: u32::try_from(state.handles.len()).unwrap_or(u32::MAX),
        in_use_by: attachment.holders(),
    };
    Some((attachment.serial, disk))
}
