//! What the next service needs to know when this one dies: one small file per attachment.
//!
//! A served disk's worker keeps the descriptors and is found through its socket; a direct
//! attachment needs nothing but this record, since the kernel keeps the loop device. Records lie
//! in the runtime directory, which only the service's user can write, and are gone with a boot.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use virtdisk_device::loop_device::LoopDevice;

use crate::attachment::{Attachment, Stage};
use crate::entry::{FileId, Owner, State};
use crate::question::{ImageFacts, Open};

/// One attachment, as it lies in a file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// Order of attachment.
    pub serial: u64,
    /// The disk.
    pub id: FileId,
    /// Real path of the image file.
    pub file: String,
    /// How it was opened.
    pub open: Open,
    /// Owner of the image file.
    pub owner: Owner,
    /// What the image says of itself.
    pub facts: ImageFacts,
    /// The loop device.
    pub device: Option<LoopDevice>,
    /// Partition nodes.
    pub partitions: Vec<String>,
    /// Served by a worker with this socket.
    pub socket: Option<PathBuf>,
    /// Read-only.
    pub read_only: bool,
    /// PERMANENT_LIFETIME.
    pub permanent: bool,
    /// Where in its life it was.
    pub stage: Stage,
    /// Owner given to the nodes.
    pub node_owner: Option<Owner>,
}

/// Directory of the records.
fn directory(dir: &Path) -> PathBuf {
    dir.join("attachment")
}

/// Writes the record of the disk's attachment anew. A service that can't is one that the next
/// can't follow; the attachment itself is not harmed.
pub fn update(dir: &Path, state: &State) {
    let Some(attachment) = &state.attachment else {
        return;
    };
    let record = of(state, attachment);
    let path = directory(dir).join(format!("{}.json", attachment.serial));
    let temporary = path.with_extension("new");
    let written = serde_json::to_vec(&record)
        .map_err(io::Error::from)
        .and_then(|bytes| fs::write(&temporary, bytes))
        .and_then(|()| fs::rename(&temporary, &path));
    if let Err(error) = written {
        tracing::error!("{}: {error}", path.display());
    }
}

/// Removes a record.
pub fn remove(dir: &Path, serial: u64) {
    let _ = fs::remove_file(directory(dir).join(format!("{serial}.json")));
}

/// All records that a service before this one left.
pub fn all(dir: &Path) -> Vec<Record> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory(dir)).into_iter().flatten().flatten() {
        let path = entry.path();
        let record = fs::read(&path)
            .map_err(|e| e.to_string())
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|e| e.to_string()));
        match record {
            Ok(record) => found.push(record),
            Err(error) => {
                tracing::error!("{}: {error}", path.display());
                let _ = fs::remove_file(&path);
            }
        }
    }
    found.sort_by_key(|r: &Record| r.serial);
    found
}

/// The owner that an attachment gave its nodes, for the device of that name; `None` for a device
/// that no attachment has, or that was left to root. What udev's rule asks.
pub fn node_owner(dir: &Path, node: &str) -> Option<Owner> {
    let node = Path::new("/dev").join(node);
    let partition = node.display().to_string();
    all(dir)
        .into_iter()
        .find(|record| {
            record.device.as_ref().is_some_and(|device| {
                device.is_ours()
                    && (device.path() == node || record.partitions.contains(&partition))
            })
        })
        .and_then(|record| record.node_owner)
}

/// The record of an attachment.
fn of(state: &State, attachment: &Attachment) -> Record {
    Record {
        serial: attachment.serial,
        id: state.id,
        file: state.file.clone(),
        open: state.open.clone(),
        owner: state.owner,
        facts: state.facts.clone(),
        device: attachment.device.clone(),
        partitions: attachment.partitions.clone(),
        socket: attachment.served.as_ref().map(|s| s.socket.clone()),
        read_only: attachment.read_only,
        permanent: attachment.permanent,
        stage: attachment.stage,
        node_owner: attachment.node_owner,
    }
}
