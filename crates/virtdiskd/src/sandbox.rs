//! What a worker gives up before it reads the first image byte.
//!
//! No new privileges, no capabilities, no path (Landlock without any rule), and only the system
//! calls that moving bytes between descriptors takes (seccomp). Whatever the kernel does not
//! know is left out and told to the log; the rest still holds.

use std::collections::BTreeMap;

use anyhow::Context;
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// Gives up everything. Must run while the process has one thread.
///
/// # Errors
/// When rights cannot be given up: the worker must not go on then.
pub fn enter() -> anyhow::Result<()> {
    rustix::thread::set_no_new_privs(true).context("no new privileges")?;
    drop_capabilities().context("dropping capabilities")?;
    forbid_paths();
    forbid_calls().context("system call filter")
}

/// Empties the bounding set as far as it may, then the thread's own sets.
fn drop_capabilities() -> rustix::io::Result<()> {
    for capability in CapabilitySet::all().iter() {
        // Without CAP_SETPCAP the bounding set stays; no new privileges makes it harmless.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )
}

/// Landlock: every kind of access handled, no path allowed.
fn forbid_paths() {
    use landlock::{
        ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr,
    };
    let abi = ABI::V5;
    let result = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .and_then(|r| r.handle_access(AccessNet::from_all(abi)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self);
    if let Err(error) = result {
        tracing::warn!("Landlock is not available: {error}");
    }
}

/// The calls a worker needs. Opening answers ENOENT, so that a library that looks for a file
/// goes on without it; everything else that is not listed answers EPERM.
fn forbid_calls() -> anyhow::Result<()> {
    let arch = std::env::consts::ARCH.try_into().context("architecture")?;
    let mut allowed = rules(ALLOWED);
    allowed.insert(nr::__NR_sched_setaffinity as i64, vec![on_oneself()?]);
    let allowed = SeccompFilter::new(
        allowed,
        SeccompAction::Errno(rustix::io::Errno::PERM.raw_os_error().unsigned_abs()),
        SeccompAction::Allow,
        arch,
    )?;
    let opens = SeccompFilter::new(
        rules(OPENS),
        SeccompAction::Allow,
        SeccompAction::Errno(rustix::io::Errno::NOENT.raw_os_error().unsigned_abs()),
        arch,
    )?;
    let allowed: BpfProgram = allowed.try_into()?;
    let opens: BpfProgram = opens.try_into()?;
    // The kernel takes the strictest answer of all filters; of two errors, that of the filter
    // installed last. The first filter has to allow the second to be installed.
    seccompiler::apply_filter(&allowed)?;
    seccompiler::apply_filter(&opens)?;
    Ok(())
}

/// Rules that match the calls without looking at their arguments.
fn rules(calls: &[i64]) -> BTreeMap<i64, Vec<SeccompRule>> {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

/// The first argument, a process id, is 0: the caller.
fn on_oneself() -> seccompiler::Result<SeccompRule> {
    let zero = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, 0)?;
    Ok(SeccompRule::new(vec![zero])?)
}

use linux_raw_sys::general as nr;

/// Calls that open, or look at, a path.
const OPENS: &[i64] = &[nr::__NR_openat as i64, nr::__NR_openat2 as i64];

/// Calls that a worker makes: its link, its image, its FUSE connection, memory and threads.
const ALLOWED: &[i64] = &[
    nr::__NR_read as i64,
    nr::__NR_write as i64,
    nr::__NR_readv as i64,
    nr::__NR_writev as i64,
    nr::__NR_pread64 as i64,
    nr::__NR_pwrite64 as i64,
    nr::__NR_preadv as i64,
    nr::__NR_pwritev as i64,
    nr::__NR_preadv2 as i64,
    nr::__NR_pwritev2 as i64,
    nr::__NR_fsync as i64,
    nr::__NR_fdatasync as i64,
    nr::__NR_fallocate as i64,
    nr::__NR_ftruncate as i64,
    nr::__NR_fstat as i64,
    nr::__NR_statx as i64,
    nr::__NR_fstatfs as i64,
    nr::__NR_lseek as i64,
    nr::__NR_fcntl as i64,
    nr::__NR_close as i64,
    nr::__NR_sendmsg as i64,
    nr::__NR_recvmsg as i64,
    nr::__NR_accept4 as i64,
    nr::__NR_getsockopt as i64,
    nr::__NR_poll as i64,
    nr::__NR_ppoll as i64,
    nr::__NR_futex as i64,
    nr::__NR_mmap as i64,
    nr::__NR_munmap as i64,
    nr::__NR_mprotect as i64,
    nr::__NR_madvise as i64,
    nr::__NR_mlock as i64,
    nr::__NR_munlock as i64,
    nr::__NR_mremap as i64,
    nr::__NR_brk as i64,
    nr::__NR_clone as i64,
    nr::__NR_clone3 as i64,
    nr::__NR_rseq as i64,
    nr::__NR_set_robust_list as i64,
    nr::__NR_sigaltstack as i64,
    nr::__NR_rt_sigprocmask as i64,
    nr::__NR_rt_sigaction as i64,
    nr::__NR_rt_sigreturn as i64,
    nr::__NR_restart_syscall as i64,
    nr::__NR_exit as i64,
    nr::__NR_exit_group as i64,
    nr::__NR_getrandom as i64,
    nr::__NR_clock_gettime as i64,
    nr::__NR_clock_nanosleep as i64,
    nr::__NR_nanosleep as i64,
    nr::__NR_sched_yield as i64,
    nr::__NR_sched_getaffinity as i64,
    nr::__NR_gettid as i64,
    nr::__NR_getpid as i64,
    nr::__NR_geteuid as i64,
    nr::__NR_tgkill as i64,
    nr::__NR_prctl as i64,
    nr::__NR_seccomp as i64,
    nr::__NR_openat as i64,
    nr::__NR_openat2 as i64,
];
