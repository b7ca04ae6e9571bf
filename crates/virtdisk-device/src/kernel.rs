//! The system calls that no safe wrapper offers: loop, partition and disk-sequence ioctls, and
//! locking memory.
//!
//! The only module of this crate that may be unsafe. Each function is one call: it takes what
//! Rust can check, gives back what the kernel answered, decides nothing. Opcodes and structures
//! are those of `linux/loop.h`, `linux/blkpg.h` and `linux/fs.h`.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::os::fd::BorrowedFd;

use linux_raw_sys::ioctl::{BLKGETDISKSEQ, BLKPG};
use linux_raw_sys::loop_device::{
    LOOP_CLR_FD, LOOP_CONFIGURE, LOOP_CTL_ADD, LOOP_CTL_GET_FREE, LOOP_GET_STATUS64,
    LOOP_SET_STATUS64, loop_config, loop_info64,
};
use rustix::io::Result;
use rustix::ioctl::{Getter, Ioctl, IoctlOutput, NoArg, Opcode, Setter, ioctl};

/// `struct blkpg_partition`: a partition in bytes; the names are ignored by the kernel.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: i32,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct BlkpgArgument {
    operation: i32,
    flags: i32,
    data_length: i32,
    data: *mut BlkpgPartition,
}

/// `BLKPG_ADD_PARTITION`.
const BLKPG_ADD_PARTITION: i32 = 1;
/// `BLKPG_DEL_PARTITION`.
const BLKPG_DEL_PARTITION: i32 = 2;

/// A loop-control call: a number goes in by value, the return value comes out.
struct ControlCall {
    opcode: Opcode,
    argument: usize,
}

// SAFETY: the loop-control calls take a number in the pointer's place, touch no user memory and
// answer in the return value.
unsafe impl Ioctl for ControlCall {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::without_provenance_mut(self.argument)
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> Result<Self::Output> {
        Ok(out)
    }
}

/// `LOOP_CTL_GET_FREE`: index of a loop device without a file; adds one when all are taken.
pub(crate) fn loop_get_free(control: BorrowedFd<'_>) -> Result<u32> {
    let call = ControlCall {
        opcode: LOOP_CTL_GET_FREE,
        argument: 0,
    };
    // SAFETY: see `ControlCall`; this call ignores its argument.
    unsafe { ioctl(control, call) }.map(i32::unsigned_abs)
}

/// `LOOP_CTL_ADD` with -1: index of a new loop device.
pub(crate) fn loop_add(control: BorrowedFd<'_>) -> Result<u32> {
    let call = ControlCall {
        opcode: LOOP_CTL_ADD,
        argument: usize::MAX,
    };
    // SAFETY: see `ControlCall`; a negative index asks for the lowest unused one.
    unsafe { ioctl(control, call) }.map(i32::unsigned_abs)
}

/// `LOOP_CONFIGURE`: binds a file, with everything about it, in one step.
pub(crate) fn loop_configure(device: BorrowedFd<'_>, config: &loop_config) -> Result<()> {
    // SAFETY: LOOP_CONFIGURE reads one loop_config.
    unsafe { ioctl(device, Setter::<LOOP_CONFIGURE, loop_config>::new(*config)) }
}

/// `LOOP_CLR_FD`: frees at the last close; from now on nobody can open when we are the only opener.
pub(crate) fn loop_clear(device: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: LOOP_CLR_FD takes no argument.
    unsafe { ioctl(device, NoArg::<LOOP_CLR_FD>::new()) }
}

/// `LOOP_GET_STATUS64`; ENXIO when the device is not bound (any more).
pub(crate) fn loop_status(device: BorrowedFd<'_>) -> Result<loop_info64> {
    // SAFETY: LOOP_GET_STATUS64 writes one loop_info64.
    unsafe { ioctl(device, Getter::<LOOP_GET_STATUS64, loop_info64>::new()) }
}

/// `LOOP_SET_STATUS64`.
pub(crate) fn loop_set_status(device: BorrowedFd<'_>, status: &loop_info64) -> Result<()> {
    // SAFETY: LOOP_SET_STATUS64 reads one loop_info64.
    unsafe {
        ioctl(
            device,
            Setter::<LOOP_SET_STATUS64, loop_info64>::new(*status),
        )
    }
}

/// `BLKGETDISKSEQ`: number of this incarnation of the disk, never used twice until reboot.
pub(crate) fn disk_sequence(device: BorrowedFd<'_>) -> Result<u64> {
    // SAFETY: BLKGETDISKSEQ writes one u64.
    unsafe { ioctl(device, Getter::<BLKGETDISKSEQ, u64>::new()) }
}

/// `BLKPG_ADD_PARTITION`: shows `length` bytes from `start` as partition `number`.
pub(crate) fn partition_add(
    device: BorrowedFd<'_>,
    number: i32,
    start: i64,
    length: i64,
) -> Result<()> {
    blkpg(device, BLKPG_ADD_PARTITION, number, start, length)
}

/// `BLKPG_DEL_PARTITION`: removes partition `number`; EBUSY while it is open.
pub(crate) fn partition_delete(device: BorrowedFd<'_>, number: i32) -> Result<()> {
    blkpg(device, BLKPG_DEL_PARTITION, number, 0, 0)
}

/// `BLKPG`.
fn blkpg(
    device: BorrowedFd<'_>,
    operation: i32,
    number: i32,
    start: i64,
    length: i64,
) -> Result<()> {
    let mut partition = BlkpgPartition {
        start,
        length,
        number,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let argument = BlkpgArgument {
        operation,
        flags: 0,
        data_length: 152,
        data: &raw mut partition,
    };
    const { assert!(size_of::<BlkpgPartition>() == 152) };
    // SAFETY: BLKPG reads one blkpg_ioctl_arg and the blkpg_partition it points to, which lives
    // until the call returns.
    unsafe { ioctl(device, Setter::<BLKPG, BlkpgArgument>::new(argument)) }
}

/// `mlock`: the pages of `memory` are there, writable, and stay.
pub(crate) fn lock_memory(memory: &mut [u8]) -> Result<()> {
    // SAFETY: the range is a live, exclusively borrowed slice; locking does not change its bytes.
    unsafe { rustix::mm::mlock(memory.as_mut_ptr().cast(), memory.len()) }
}

/// `munlock`.
pub(crate) fn unlock_memory(memory: &mut [u8]) -> Result<()> {
    // SAFETY: the range is a live, exclusively borrowed slice; unlocking does not change its bytes.
    unsafe { rustix::mm::munlock(memory.as_mut_ptr().cast(), memory.len()) }
}
