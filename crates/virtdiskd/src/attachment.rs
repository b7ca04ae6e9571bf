//! One attachment: a loop device straight on the image file, or on the FUSE file of a worker.
//!
//! Making one undoes itself when a step fails. Freeing one is the loop device's own atomic
//! test: either nobody else had it open and it is gone, or nothing changed.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use virtdisk::frame::Holder;
use virtdisk_device::holders::{self, HolderKind};
use virtdisk_device::loop_device::LoopDevice;

use crate::entry::Owner;
use crate::question::Serve;

/// Where in its life an attachment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Stage {
    /// In use, or free to use.
    Attached,
    /// Goes by itself when the last holder lets go.
    Detaching,
    /// Its worker can't serve it any more.
    Failed,
}

/// How a served disk is served.
#[derive(Debug)]
pub struct Served {
    /// The FUSE connection.
    pub connection: OwnedFd,
    /// Where a later broker finds the worker.
    pub listener: OwnedFd,
    /// The listener's path, removed with the attachment.
    pub socket: PathBuf,
    /// What the worker was asked.
    pub asked: Serve,
}

/// One attachment.
#[derive(Debug)]
pub struct Attachment {
    /// Order of attachment.
    pub serial: u64,
    /// The loop device; `None` for NO_LOCAL_HOST.
    pub device: Option<LoopDevice>,
    /// Partition nodes.
    pub partitions: Vec<String>,
    /// Served over FUSE; `None` when the loop device lies straight on the image file.
    pub served: Option<Served>,
    /// Read-only.
    pub read_only: bool,
    /// PERMANENT_LIFETIME, not ended yet.
    pub permanent: bool,
    /// The handle that attached, while it is open.
    pub attaching_handle: Option<u64>,
    /// Where in its life it is.
    pub stage: Stage,
    /// Owner given to the nodes.
    pub node_owner: Option<Owner>,
    /// When workers of this attachment died lately.
    pub deaths: VecDeque<Instant>,
}

/// How many deaths within [`DEATH_WINDOW`] mean that a worker can't be kept alive.
const DEATH_LIMIT: usize = 20;
/// See [`DEATH_LIMIT`].
const DEATH_WINDOW: Duration = Duration::from_secs(2);
/// How long a passer-by (udev, blkid) may hold the device before it counts as in use.
pub const PASSER_BY: Duration = Duration::from_millis(300);

impl Attachment {
    /// Device path, empty for NO_LOCAL_HOST.
    pub fn path(&self) -> String {
        self.device
            .as_ref()
            .map(|d| d.path().display().to_string())
            .unwrap_or_default()
    }

    /// Is the loop device still the one that this attachment made?
    pub fn is_there(&self) -> bool {
        self.device.as_ref().is_none_or(LoopDevice::is_ours)
    }

    /// Who holds the device.
    pub fn holders(&self) -> Vec<Holder> {
        let Some(device) = &self.device else {
            return Vec::new();
        };
        holders::find(device.index).into_iter().map(word).collect()
    }

    /// Has a worker died too often lately to try again?
    pub fn count_death(&mut self) -> bool {
        let now = Instant::now();
        self.deaths.push_back(now);
        while self
            .deaths
            .front()
            .is_some_and(|t| now.duration_since(*t) > DEATH_WINDOW)
        {
            self.deaths.pop_front();
        }
        self.deaths.len() > DEATH_LIMIT
    }
}

impl Served {
    /// Descriptors that a worker needs to serve.
    pub fn descriptors(&self) -> [std::os::fd::BorrowedFd<'_>; 2] {
        [self.connection.as_fd(), self.listener.as_fd()]
    }
}

/// A holder in the words of the interface.
fn word(holder: holders::Holder) -> Holder {
    let kind = match holder.kind {
        HolderKind::Mount => "mount",
        HolderKind::Process => "process",
        HolderKind::Swap => "swap",
        HolderKind::Device => "device",
    };
    Holder {
        kind: kind.to_owned(),
        node: holder.node,
        place: holder.place,
        pid: holder.pid,
        command: holder.command,
    }
}
