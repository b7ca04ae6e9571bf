//! Who is calling: the peer of a connection, and what it may do.
//!
//! Taken once, from the kernel, when the connection is accepted. Attaching and detaching need
//! CAP_SYS_ADMIN or membership in the group `virtdisk`, the counterpart of the privilege
//! SE_MANAGE_VOLUME_NAME (R-PRV-1, R-PRV-3).

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::unistd::Group;
use rustix::event::{PollFd, PollFlags};

/// Group whose members may attach and detach.
pub const GROUP: &str = "virtdisk";
/// Bit of CAP_SYS_ADMIN in `CapEff`.
const CAP_SYS_ADMIN_BIT: u64 = 1 << 21;

/// The peer of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// May attach and detach.
    pub privileged: bool,
}

impl Caller {
    /// From what the kernel says of the peer. `alive` tells whether the process that `pid`
    /// names is still the peer, so that a reused number is not believed.
    pub fn new(uid: u32, gids: &[u32], pid: i32, alive: impl Fn() -> bool) -> Self {
        let member = Group::from_name(GROUP)
            .ok()
            .flatten()
            .is_some_and(|group| gids.contains(&group.gid.as_raw()));
        let capable = capability(pid) && alive();
        Self {
            uid,
            privileged: member || capable,
        }
    }

    /// May this caller see and name an attachment of an image that `owner` owns?
    pub fn may_see(&self, owner: u32) -> bool {
        self.uid == 0 || self.uid == owner || self.privileged
    }
}

/// A caller's connection, to see whether he still waits for an answer.
#[derive(Debug, Clone)]
pub struct Peer(Arc<OwnedFd>);

impl Peer {
    /// A copy of the connection's socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self(Arc::new(socket))
    }

    /// False once the caller has closed his end, or his process has ended.
    pub fn is_there(&self) -> bool {
        let mut fds = [PollFd::new(&*self.0, PollFlags::RDHUP)];
        let now = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(0))
    }
}

/// Does the process hold CAP_SYS_ADMIN in this user namespace?
fn capability(pid: i32) -> bool {
    let same_space = match (
        fs::read_link(format!("/proc/{pid}/ns/user")),
        fs::read_link("/proc/self/ns/user"),
    ) {
        (Ok(theirs), Ok(ours)) => theirs == ours,
        _ => false,
    };
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    same_space && effective(&status) & CAP_SYS_ADMIN_BIT != 0
}

/// The effective capabilities in a `status` file.
fn effective(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

/// May this process itself make devices?
pub fn service_is_able() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective(&status) & CAP_SYS_ADMIN_BIT != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    // R-PRV-3
    #[test]
    fn only_the_effective_set_counts() {
        assert_eq!(
            effective("CapPrm:\t000001ffffffffff\nCapEff:\t0000000000200000\n"),
            1 << 21
        );
        assert_eq!(
            effective("CapPrm:\t000001ffffffffff\nCapEff:\t0000000000000000\n"),
            0
        );
        assert_eq!(effective("garbage"), 0);
    }

    #[test]
    fn a_process_that_is_gone_is_not_believed() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!Caller::new(1000, &[1000], own, || false).privileged);
        assert!(!Caller::new(1000, &[1000], i32::MAX, || true).privileged);
    }

    #[test]
    fn others_do_not_see_a_users_disk() {
        let user = Caller {
            uid: 1000,
            privileged: false,
        };
        assert!(user.may_see(1000));
        assert!(!user.may_see(1001));
    }
}
