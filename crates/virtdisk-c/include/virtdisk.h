/*
 * virtdisk.h - the Windows Virtual Disk API for Linux.
 *
 * Link with -lvirtdisk. Every function answers a Windows error code, ERROR_SUCCESS (0) when it
 * worked; nothing is reported through errno. The service virtdiskd does the work; it is started
 * on demand. Functions may be called from any thread.
 *
 * Strings are UTF-16, or UTF-8 in the functions whose name ends in A. Paths are Linux paths;
 * C:\dir\disk.vhd is refused with ERROR_INVALID_NAME. A wrong argument, a NULL where something
 * is needed and a handle that is not open give ERROR_INVALID_PARAMETER. Results are written on
 * success only, except the sizes that ERROR_INSUFFICIENT_BUFFER answers.
 *
 * OVERLAPPED must be NULL: every call is finished when it returns. Anything else gives
 * ERROR_NOT_SUPPORTED and does nothing.
 *
 * A HANDLE is a number, not a pointer. It belongs to the process and its children by fork; an
 * attachment without ATTACH_VIRTUAL_DISK_FLAG_PERMANENT_LIFETIME ends with the last handle of
 * the disk, also when the process is killed.
 */
#ifndef VIRTDISK_H
#define VIRTDISK_H

#include "virtdisk_base.h"
#include "virtdisk_types.h"
#include "virtdisk_operations.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Opens an image file with the caller's own rights. Parameters NULL means version 1, RWDepth 1.
 *
 * ERROR_INVALID_PARAMETER       mask, flags, version, or a mask with version 2 and 3
 * ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND
 * ERROR_ACCESS_DENIED           no permission, or a directory
 * ERROR_WRITE_PROTECT           to be written, on a read-only file system
 * ERROR_SHARING_VIOLATION       opened or attached by somebody in a way that excludes this
 * ERROR_VIRTDISK_NOT_VIRTUAL_DISK    not a regular file
 * ERROR_VIRTDISK_PROVIDER_NOT_FOUND  no provider for this type
 * ERROR_VHD_...                 what is wrong with the image
 *
 * The parents of a differencing disk are looked for as the disk names them, in its own folder and
 * below, and opened with the caller's own rights for reading. OPEN_VIRTUAL_DISK_FLAG_NO_PARENTS
 * leaves them out, OPEN_VIRTUAL_DISK_FLAG_CUSTOM_DIFF_CHAIN leaves them to AddVirtualDiskParent.
 *
 * ERROR_VHD_PARENT_VHD_NOT_FOUND              no file where the parent should be
 * ERROR_VHD_CHILD_PARENT_ID_MISMATCH          another disk is there
 * ERROR_VHD_PARENT_VHD_ACCESS_DENIED          no permission
 * ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED
 * ERROR_VHD_DIFFERENCING_CHAIN_ERROR_IN_PARENT  a parent is damaged
 */
DWORD WINAPI OpenVirtualDisk(const VIRTUAL_STORAGE_TYPE *VirtualStorageType, PCWSTR Path,
                             VIRTUAL_DISK_ACCESS_MASK VirtualDiskAccessMask,
                             OPEN_VIRTUAL_DISK_FLAG Flags,
                             const OPEN_VIRTUAL_DISK_PARAMETERS *Parameters, HANDLE *Handle);
DWORD WINAPI OpenVirtualDiskA(const VIRTUAL_STORAGE_TYPE *VirtualStorageType, PCSTR Path,
                              VIRTUAL_DISK_ACCESS_MASK VirtualDiskAccessMask,
                              OPEN_VIRTUAL_DISK_FLAG Flags,
                              const OPEN_VIRTUAL_DISK_PARAMETERS *Parameters, HANDLE *Handle);

/*
 * Creates an image file and opens it. The handle can be attached at once. Nothing is overwritten,
 * and no file is left behind on failure.
 *
 * SecurityDescriptor must be NULL or an empty descriptor (SDDL text in the A function: NULL or
 * ""): the file gets the mode that the umask gives.
 *
 * ParentPath makes a differencing disk, SourcePath a copy; both are absolute paths, of files that
 * the caller may read. Errors of their chains are those of OpenVirtualDisk.
 *
 * ERROR_FILE_EXISTS             the name is taken
 * ERROR_INVALID_PARAMETER       mask, flags, version, sizes
 * ERROR_VHD_INVALID_SIZE        larger than the format allows
 * ERROR_DISK_FULL
 * ERROR_VHD_INVALID_TYPE        the parent is of another format
 * ERROR_NOT_SUPPORTED           ISO, VHD Set, a descriptor with contents
 */
DWORD WINAPI CreateVirtualDisk(const VIRTUAL_STORAGE_TYPE *VirtualStorageType, PCWSTR Path,
                               VIRTUAL_DISK_ACCESS_MASK VirtualDiskAccessMask,
                               PSECURITY_DESCRIPTOR SecurityDescriptor,
                               CREATE_VIRTUAL_DISK_FLAG Flags, ULONG ProviderSpecificFlags,
                               const CREATE_VIRTUAL_DISK_PARAMETERS *Parameters,
                               OVERLAPPED *Overlapped, HANDLE *Handle);
DWORD WINAPI CreateVirtualDiskA(const VIRTUAL_STORAGE_TYPE *VirtualStorageType, PCSTR Path,
                                VIRTUAL_DISK_ACCESS_MASK VirtualDiskAccessMask,
                                PCSTR SecurityDescriptor, CREATE_VIRTUAL_DISK_FLAG Flags,
                                ULONG ProviderSpecificFlags,
                                const CREATE_VIRTUAL_DISK_PARAMETERSA *Parameters,
                                OVERLAPPED *Overlapped, HANDLE *Handle);

/*
 * Gives the next parent to a disk that was opened with OPEN_VIRTUAL_DISK_FLAG_CUSTOM_DIFF_CHAIN,
 * child side first, until the disk without parent is reached. Nothing is written. The disk can be
 * attached when its chain is complete. After a refusal another file may be given.
 *
 * ERROR_INVALID_PARAMETER       the handle was opened without that flag
 * ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND, ERROR_ACCESS_DENIED
 * ERROR_VHD_CHILD_PARENT_ID_MISMATCH  the file is another disk
 * ERROR_VHD_INVALID_TYPE        the disk has no parent
 * ERROR_VHD_INVALID_STATE       the chain is complete
 * ERROR_SHARING_VIOLATION       somebody writes to the parent
 */
DWORD WINAPI AddVirtualDiskParent(HANDLE VirtualDiskHandle, PCWSTR ParentPath);
DWORD WINAPI AddVirtualDiskParentA(HANDLE VirtualDiskHandle, PCSTR ParentPath);

/*
 * Attaches the disk: on return its block device and the nodes of its partitions exist. Parameters
 * NULL means version 1.
 *
 * SecurityDescriptor NULL or empty gives the device owner, group and mode of the image file. A
 * binary descriptor with contents is not supported; the A function takes SDDL text instead.
 *
 * ERROR_ACCESS_DENIED           the handle lacks ATTACH_RO or ATTACH_RW
 * ERROR_SHARING_VIOLATION       attached by another handle
 * ERROR_BAD_COMMAND             attached by this handle
 * ERROR_PRIVILEGE_NOT_HELD      neither CAP_SYS_ADMIN nor the group virtdisk
 * ERROR_VIRTUAL_DISK_LIMITATION the image file is compressed or encrypted
 * ERROR_VHD_INVALID_STATE       a parent is missing
 */
DWORD WINAPI AttachVirtualDisk(HANDLE VirtualDiskHandle, PSECURITY_DESCRIPTOR SecurityDescriptor,
                               ATTACH_VIRTUAL_DISK_FLAG Flags, ULONG ProviderSpecificFlags,
                               const ATTACH_VIRTUAL_DISK_PARAMETERS *Parameters,
                               OVERLAPPED *Overlapped);
DWORD WINAPI AttachVirtualDiskA(HANDLE VirtualDiskHandle, PCSTR SecurityDescriptor,
                                ATTACH_VIRTUAL_DISK_FLAG Flags, ULONG ProviderSpecificFlags,
                                const ATTACH_VIRTUAL_DISK_PARAMETERS *Parameters,
                                OVERLAPPED *Overlapped);

/*
 * Detaches the disk, whichever handle attached it. On return the device is gone and all data is in
 * the file, with one exception: a permanent attachment whose attaching handle is closed and whose
 * device is in use stays until the last user lets go, and 0 is answered.
 *
 * ERROR_ACCESS_DENIED           the handle lacks DETACH
 * ERROR_NOT_READY               not attached
 * ERROR_SHARING_VIOLATION       other handles of this disk are open
 * ERROR_BUSY                    the device is in use; nothing changes
 * ERROR_PRIVILEGE_NOT_HELD      neither CAP_SYS_ADMIN nor the group virtdisk
 */
DWORD WINAPI DetachVirtualDisk(HANDLE VirtualDiskHandle, DETACH_VIRTUAL_DISK_FLAG Flags,
                               ULONG ProviderSpecificFlags);

/*
 * The device of the attached disk, such as /dev/loop0. DiskPathSizeInBytes is the size of the
 * buffer in bytes; on return what was written, with the NUL.
 *
 * ERROR_INSUFFICIENT_BUFFER     NULL or too small; the size needed is answered
 * ERROR_DEV_NOT_EXIST           not attached
 */
DWORD WINAPI GetVirtualDiskPhysicalPath(HANDLE VirtualDiskHandle, PULONG DiskPathSizeInBytes,
                                        PWSTR DiskPath);
DWORD WINAPI GetVirtualDiskPhysicalPathA(HANDLE VirtualDiskHandle, PULONG DiskPathSizeInBytes,
                                         PSTR DiskPath);

/*
 * The image files of all attached disks the caller may see, each ended by a NUL, the list by one
 * more. PathsBufferSizeInBytes is the size of the buffer in bytes; on return what was written. The
 * list can grow between two calls: ask again when the answer is ERROR_INSUFFICIENT_BUFFER.
 */
DWORD WINAPI GetAllAttachedVirtualDiskPhysicalPaths(PULONG PathsBufferSizeInBytes,
                                                    PWSTR PathsBuffer);
DWORD WINAPI GetAllAttachedVirtualDiskPhysicalPathsA(PULONG PathsBufferSizeInBytes,
                                                     PSTR PathsBuffer);

/*
 * One class of facts, chosen by VirtualDiskInfo->Version. VirtualDiskInfoSize is the size of the
 * buffer and is changed only by ERROR_INSUFFICIENT_BUFFER, to the size needed; SizeUsed may be
 * NULL. Bytes needed: SIZE 32; IDENTIFIER, PARENT_IDENTIFIER, VIRTUAL_DISK_ID 24;
 * VIRTUAL_STORAGE_TYPE 28; PHYSICAL_DISK 20; SMALLEST_SAFE_VIRTUAL_SIZE 16; CHANGE_TRACKING_STATE
 * 18; PARENT_LOCATION 12 and the text; every other class 12.
 *
 * ERROR_INVALID_PARAMETER       unknown class
 * ERROR_ACCESS_DENIED           the handle lacks GET_INFO
 * ERROR_VHD_INVALID_TYPE        a question that makes no sense for this type of disk
 * ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE  the disk has no partition table
 */
DWORD WINAPI GetVirtualDiskInformation(HANDLE VirtualDiskHandle, PULONG VirtualDiskInfoSize,
                                       GET_VIRTUAL_DISK_INFO *VirtualDiskInfo, PULONG SizeUsed);

/*
 * Not in Windows, where ReadFile and WriteFile take the handle itself: a file descriptor for the
 * contents of a disk that is attached with ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST, to be used with
 * pread and pwrite. The caller closes it, before the disk is detached.
 *
 * ERROR_BAD_COMMAND             not attached with that flag through this handle
 */
DWORD WINAPI GetVirtualDiskRawFile(HANDLE VirtualDiskHandle, int *FileDescriptor);

/*
 * Closes a handle. TRUE when it was open; TRUE for NULL and INVALID_HANDLE_VALUE as well, which
 * stand for no handle; FALSE for any other value.
 */
BOOL WINAPI CloseHandle(HANDLE Handle);

/* Names of Windows 7's first drafts. */
#define SurfaceVirtualDisk AttachVirtualDisk
#define UnsurfaceVirtualDisk DetachVirtualDisk
#define VIRTUAL_DISK_ACCESS_SURFACE_RO VIRTUAL_DISK_ACCESS_ATTACH_RO
#define VIRTUAL_DISK_ACCESS_SURFACE_RW VIRTUAL_DISK_ACCESS_ATTACH_RW
#define VIRTUAL_DISK_ACCESS_UNSURFACE VIRTUAL_DISK_ACCESS_DETACH

#ifdef __cplusplus
}
#endif

#endif /* VIRTDISK_H */
