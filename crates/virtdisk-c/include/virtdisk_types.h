/*
 * Types and constants of opening, creating, attaching, detaching and asking, under their Windows
 * names and with the layout of the 64-bit Windows compilers. Included by virtdisk.h.
 */
#ifndef VIRTDISK_TYPES_H
#define VIRTDISK_TYPES_H

#include "virtdisk_base.h"

#define VIRTUAL_STORAGE_TYPE_DEVICE_UNKNOWN 0
#define VIRTUAL_STORAGE_TYPE_DEVICE_ISO 1
#define VIRTUAL_STORAGE_TYPE_DEVICE_VHD 2
#define VIRTUAL_STORAGE_TYPE_DEVICE_VHDX 3
#define VIRTUAL_STORAGE_TYPE_DEVICE_VHDSET 4
/* Raw images, only together with VIRTUAL_STORAGE_TYPE_VENDOR_VIRTDISK. */
#define VIRTUAL_STORAGE_TYPE_DEVICE_RAW 0x7265

/* Find out: by content when opening, by extension when creating. */
VIRTDISK_GUID(VIRTUAL_STORAGE_TYPE_VENDOR_UNKNOWN, 0x00000000, 0x0000, 0x0000, 0x00, 0x00, 0x00,
              0x00, 0x00, 0x00, 0x00, 0x00);
/* VHD, VHDX, VHD Set, ISO. */
VIRTDISK_GUID(VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT, 0xEC984AEC, 0xA0F9, 0x47E9, 0x90, 0x1F, 0x71,
              0x41, 0x5A, 0x66, 0x34, 0x5B);
/* Raw images; not a vendor of Windows. */
VIRTDISK_GUID(VIRTUAL_STORAGE_TYPE_VENDOR_VIRTDISK, 0x0270623C, 0x6B75, 0x4DEF, 0x93, 0xA4, 0xE3,
              0xB7, 0xEF, 0x39, 0x76, 0xF8);

/* Which provider reads an image. 20 bytes. */
typedef struct _VIRTUAL_STORAGE_TYPE {
    DWORD DeviceId;
    GUID VendorId;
} VIRTUAL_STORAGE_TYPE, *PVIRTUAL_STORAGE_TYPE;

/* Rights of a handle opened with version 1 parameters; NONE with later versions. */
typedef enum _VIRTUAL_DISK_ACCESS_MASK {
    VIRTUAL_DISK_ACCESS_NONE = 0x00000000,
    VIRTUAL_DISK_ACCESS_ATTACH_RO = 0x00010000,
    VIRTUAL_DISK_ACCESS_ATTACH_RW = 0x00020000,
    VIRTUAL_DISK_ACCESS_DETACH = 0x00040000,
    VIRTUAL_DISK_ACCESS_GET_INFO = 0x00080000,
    VIRTUAL_DISK_ACCESS_READ = 0x000d0000,
    VIRTUAL_DISK_ACCESS_CREATE = 0x00100000,
    VIRTUAL_DISK_ACCESS_METAOPS = 0x00200000,
    VIRTUAL_DISK_ACCESS_WRITABLE = 0x00320000,
    VIRTUAL_DISK_ACCESS_ALL = 0x003f0000
} VIRTUAL_DISK_ACCESS_MASK;
VIRTDISK_FLAGS(VIRTUAL_DISK_ACCESS_MASK)

/* Flags of OpenVirtualDisk. */
typedef enum _OPEN_VIRTUAL_DISK_FLAG {
    OPEN_VIRTUAL_DISK_FLAG_NONE = 0,
    OPEN_VIRTUAL_DISK_FLAG_NO_PARENTS = 1,
    OPEN_VIRTUAL_DISK_FLAG_BLANK_FILE = 2,
    OPEN_VIRTUAL_DISK_FLAG_BOOT_DRIVE = 4,
    OPEN_VIRTUAL_DISK_FLAG_CACHED_IO = 8,
    OPEN_VIRTUAL_DISK_FLAG_CUSTOM_DIFF_CHAIN = 0x10,
    OPEN_VIRTUAL_DISK_FLAG_PARENT_CACHED_IO = 0x20,
    OPEN_VIRTUAL_DISK_FLAG_VHDSET_FILE_ONLY = 0x40,
    OPEN_VIRTUAL_DISK_FLAG_IGNORE_RELATIVE_PARENT_LOCATOR = 0x80,
    OPEN_VIRTUAL_DISK_FLAG_NO_WRITE_HARDENING = 0x100,
    OPEN_VIRTUAL_DISK_FLAG_SUPPORT_COMPRESSED_VOLUMES = 0x200,
    OPEN_VIRTUAL_DISK_FLAG_SUPPORT_SPARSE_FILES_ANY_FS = 0x400,
    OPEN_VIRTUAL_DISK_FLAG_SUPPORT_ENCRYPTED_FILES = 0x800
} OPEN_VIRTUAL_DISK_FLAG;
VIRTDISK_FLAGS(OPEN_VIRTUAL_DISK_FLAG)

/* Versions of OPEN_VIRTUAL_DISK_PARAMETERS. */
typedef enum _OPEN_VIRTUAL_DISK_VERSION {
    OPEN_VIRTUAL_DISK_VERSION_UNSPECIFIED = 0,
    OPEN_VIRTUAL_DISK_VERSION_1 = 1,
    OPEN_VIRTUAL_DISK_VERSION_2 = 2,
    OPEN_VIRTUAL_DISK_VERSION_3 = 3
} OPEN_VIRTUAL_DISK_VERSION;

#define OPEN_VIRTUAL_DISK_RW_DEPTH_DEFAULT 1

/* 8 bytes of version 1, 28 of version 2, 44 of version 3 are read. */
typedef struct _OPEN_VIRTUAL_DISK_PARAMETERS {
    OPEN_VIRTUAL_DISK_VERSION Version;
    union {
        struct {
            DWORD RWDepth;
        } Version1;
        struct {
            BOOL GetInfoOnly;
            BOOL ReadOnly;
            GUID ResiliencyGuid;
        } Version2;
        struct {
            BOOL GetInfoOnly;
            BOOL ReadOnly;
            GUID ResiliencyGuid;
            GUID SnapshotId;
        } Version3;
    };
} OPEN_VIRTUAL_DISK_PARAMETERS, *POPEN_VIRTUAL_DISK_PARAMETERS;

/* Flags of CreateVirtualDisk. */
typedef enum _CREATE_VIRTUAL_DISK_FLAG {
    CREATE_VIRTUAL_DISK_FLAG_NONE = 0,
    CREATE_VIRTUAL_DISK_FLAG_FULL_PHYSICAL_ALLOCATION = 1,
    CREATE_VIRTUAL_DISK_FLAG_PREVENT_WRITES_TO_SOURCE_DISK = 2,
    CREATE_VIRTUAL_DISK_FLAG_DO_NOT_COPY_METADATA_FROM_PARENT = 4,
    CREATE_VIRTUAL_DISK_FLAG_CREATE_BACKING_STORAGE = 8,
    CREATE_VIRTUAL_DISK_FLAG_USE_CHANGE_TRACKING_SOURCE_LIMIT = 0x10,
    CREATE_VIRTUAL_DISK_FLAG_USE_RCT_SOURCE_LIMIT = 0x10,
    CREATE_VIRTUAL_DISK_FLAG_PRESERVE_PARENT_CHANGE_TRACKING_STATE = 0x20,
    CREATE_VIRTUAL_DISK_FLAG_VHD_SET_USE_ORIGINAL_BACKING_STORAGE = 0x40,
    CREATE_VIRTUAL_DISK_FLAG_SPARSE_FILE = 0x80,
    CREATE_VIRTUAL_DISK_FLAG_PMEM_COMPATIBLE = 0x100,
    CREATE_VIRTUAL_DISK_FLAG_SUPPORT_COMPRESSED_VOLUMES = 0x200,
    CREATE_VIRTUAL_DISK_FLAG_SUPPORT_SPARSE_FILES_ANY_FS = 0x400
} CREATE_VIRTUAL_DISK_FLAG;
VIRTDISK_FLAGS(CREATE_VIRTUAL_DISK_FLAG)

/* Versions of CREATE_VIRTUAL_DISK_PARAMETERS. */
typedef enum _CREATE_VIRTUAL_DISK_VERSION {
    CREATE_VIRTUAL_DISK_VERSION_UNSPECIFIED = 0,
    CREATE_VIRTUAL_DISK_VERSION_1 = 1,
    CREATE_VIRTUAL_DISK_VERSION_2 = 2,
    CREATE_VIRTUAL_DISK_VERSION_3 = 3,
    CREATE_VIRTUAL_DISK_VERSION_4 = 4
} CREATE_VIRTUAL_DISK_VERSION;

#define CREATE_VIRTUAL_DISK_PARAMETERS_DEFAULT_BLOCK_SIZE 0
#define CREATE_VIRTUAL_DISK_PARAMETERS_DEFAULT_SECTOR_SIZE 0

/* Sizes in bytes. Of version 1, 56 bytes are read, of version 2, 128, of version 3, 160, of
 * version 4, 184: a caller built with an older header passes a shorter block. */
typedef struct _CREATE_VIRTUAL_DISK_PARAMETERS {
    CREATE_VIRTUAL_DISK_VERSION Version;
    union {
        struct {
            GUID UniqueId;
            ULONGLONG MaximumSize;
            DWORD BlockSizeInBytes;
            DWORD SectorSizeInBytes;
            PCWSTR ParentPath;
            PCWSTR SourcePath;
        } Version1;
        struct {
            GUID UniqueId;
            ULONGLONG MaximumSize;
            DWORD BlockSizeInBytes;
            DWORD SectorSizeInBytes;
            DWORD PhysicalSectorSizeInBytes;
            PCWSTR ParentPath;
            PCWSTR SourcePath;
            OPEN_VIRTUAL_DISK_FLAG OpenFlags;
            VIRTUAL_STORAGE_TYPE ParentVirtualStorageType;
            VIRTUAL_STORAGE_TYPE SourceVirtualStorageType;
            GUID ResiliencyGuid;
        } Version2;
        struct {
            GUID UniqueId;
            ULONGLONG MaximumSize;
            DWORD BlockSizeInBytes;
            DWORD SectorSizeInBytes;
            DWORD PhysicalSectorSizeInBytes;
            PCWSTR ParentPath;
            PCWSTR SourcePath;
            OPEN_VIRTUAL_DISK_FLAG OpenFlags;
            VIRTUAL_STORAGE_TYPE ParentVirtualStorageType;
            VIRTUAL_STORAGE_TYPE SourceVirtualStorageType;
            GUID ResiliencyGuid;
            PCWSTR SourceLimitPath;
            VIRTUAL_STORAGE_TYPE BackingStorageType;
        } Version3;
        struct {
            GUID UniqueId;
            ULONGLONG MaximumSize;
            DWORD BlockSizeInBytes;
            DWORD SectorSizeInBytes;
            DWORD PhysicalSectorSizeInBytes;
            PCWSTR ParentPath;
            PCWSTR SourcePath;
            OPEN_VIRTUAL_DISK_FLAG OpenFlags;
            VIRTUAL_STORAGE_TYPE ParentVirtualStorageType;
            VIRTUAL_STORAGE_TYPE SourceVirtualStorageType;
            GUID ResiliencyGuid;
            PCWSTR SourceLimitPath;
            VIRTUAL_STORAGE_TYPE BackingStorageType;
            GUID PmemAddressAbstractionType;
            ULONGLONG DataAlignment;
        } Version4;
    };
} CREATE_VIRTUAL_DISK_PARAMETERS, *PCREATE_VIRTUAL_DISK_PARAMETERS;

/* The same with UTF-8 paths, for CreateVirtualDiskA. */
typedef struct _CREATE_VIRTUAL_DISK_PARAMETERSA {
    CREATE_VIRTUAL_DISK_VERSION Version;
    union {
        struct {
            GUID UniqueId;
            ULONGLONG MaximumSize;
            DWORD BlockSizeInBytes;
            DWORD SectorSizeInBytes;
            PCSTR ParentPath;
            PCSTR SourcePath;
        } Version1;
        struct {
            GUID UniqueId;
            ULONGLONG MaximumSize;
            DWORD BlockSizeInBytes;
            DWORD SectorSizeInBytes;
            DWORD PhysicalSectorSizeInBytes;
            PCSTR ParentPath;
            PCSTR SourcePath;
            OPEN_VIRTUAL_DISK_FLAG OpenFlags;
            VIRTUAL_STORAGE_TYPE ParentVirtualStorageType;
            VIRTUAL_STORAGE_TYPE SourceVirtualStorageType;
            GUID ResiliencyGuid;
        } Version2;
        struct {
            GUID UniqueId;
            ULONGLONG MaximumSize;
            DWORD BlockSizeInBytes;
            DWORD SectorSizeInBytes;
            DWORD PhysicalSectorSizeInBytes;
            PCSTR ParentPath;
            PCSTR SourcePath;
            OPEN_VIRTUAL_DISK_FLAG OpenFlags;
            VIRTUAL_STORAGE_TYPE ParentVirtualStorageType;
            VIRTUAL_STORAGE_TYPE SourceVirtualStorageType;
            GUID ResiliencyGuid;
            PCSTR SourceLimitPath;
            VIRTUAL_STORAGE_TYPE BackingStorageType;
        } Version3;
        struct {
            GUID UniqueId;
            ULONGLONG MaximumSize;
            DWORD BlockSizeInBytes;
            DWORD SectorSizeInBytes;
            DWORD PhysicalSectorSizeInBytes;
            PCSTR ParentPath;
            PCSTR SourcePath;
            OPEN_VIRTUAL_DISK_FLAG OpenFlags;
            VIRTUAL_STORAGE_TYPE ParentVirtualStorageType;
            VIRTUAL_STORAGE_TYPE SourceVirtualStorageType;
            GUID ResiliencyGuid;
            PCSTR SourceLimitPath;
            VIRTUAL_STORAGE_TYPE BackingStorageType;
            GUID PmemAddressAbstractionType;
            ULONGLONG DataAlignment;
        } Version4;
    };
} CREATE_VIRTUAL_DISK_PARAMETERSA, *PCREATE_VIRTUAL_DISK_PARAMETERSA;

/* Flags of AttachVirtualDisk. */
typedef enum _ATTACH_VIRTUAL_DISK_FLAG {
    ATTACH_VIRTUAL_DISK_FLAG_NONE = 0,
    ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY = 1,
    ATTACH_VIRTUAL_DISK_FLAG_NO_DRIVE_LETTER = 2,
    ATTACH_VIRTUAL_DISK_FLAG_PERMANENT_LIFETIME = 4,
    ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST = 8,
    ATTACH_VIRTUAL_DISK_FLAG_NO_SECURITY_DESCRIPTOR = 0x10,
    ATTACH_VIRTUAL_DISK_FLAG_BYPASS_DEFAULT_ENCRYPTION_POLICY = 0x20,
    ATTACH_VIRTUAL_DISK_FLAG_NON_PNP = 0x40,
    ATTACH_VIRTUAL_DISK_FLAG_RESTRICTED_RANGE = 0x80,
    ATTACH_VIRTUAL_DISK_FLAG_SINGLE_PARTITION = 0x100,
    ATTACH_VIRTUAL_DISK_FLAG_REGISTER_VOLUME = 0x200,
    ATTACH_VIRTUAL_DISK_FLAG_AT_BOOT = 0x400
} ATTACH_VIRTUAL_DISK_FLAG;
VIRTDISK_FLAGS(ATTACH_VIRTUAL_DISK_FLAG)

/* Versions of ATTACH_VIRTUAL_DISK_PARAMETERS. */
typedef enum _ATTACH_VIRTUAL_DISK_VERSION {
    ATTACH_VIRTUAL_DISK_VERSION_UNSPECIFIED = 0,
    ATTACH_VIRTUAL_DISK_VERSION_1 = 1,
    ATTACH_VIRTUAL_DISK_VERSION_2 = 2
} ATTACH_VIRTUAL_DISK_VERSION;

/* Of version 1 only Version is read. */
typedef struct _ATTACH_VIRTUAL_DISK_PARAMETERS {
    ATTACH_VIRTUAL_DISK_VERSION Version;
    union {
        struct {
            DWORD Reserved;
        } Version1;
        struct {
            ULONGLONG RestrictedOffset;
            ULONGLONG RestrictedLength;
        } Version2;
    };
} ATTACH_VIRTUAL_DISK_PARAMETERS, *PATTACH_VIRTUAL_DISK_PARAMETERS;

/* Flags of DetachVirtualDisk: none was ever defined. */
typedef enum _DETACH_VIRTUAL_DISK_FLAG {
    DETACH_VIRTUAL_DISK_FLAG_NONE = 0
} DETACH_VIRTUAL_DISK_FLAG;
VIRTDISK_FLAGS(DETACH_VIRTUAL_DISK_FLAG)

/* Information classes. */
typedef enum _GET_VIRTUAL_DISK_INFO_VERSION {
    GET_VIRTUAL_DISK_INFO_UNSPECIFIED = 0,
    GET_VIRTUAL_DISK_INFO_SIZE = 1,
    GET_VIRTUAL_DISK_INFO_IDENTIFIER = 2,
    GET_VIRTUAL_DISK_INFO_PARENT_LOCATION = 3,
    GET_VIRTUAL_DISK_INFO_PARENT_IDENTIFIER = 4,
    GET_VIRTUAL_DISK_INFO_PARENT_TIMESTAMP = 5,
    GET_VIRTUAL_DISK_INFO_VIRTUAL_STORAGE_TYPE = 6,
    GET_VIRTUAL_DISK_INFO_PROVIDER_SUBTYPE = 7,
    GET_VIRTUAL_DISK_INFO_IS_4K_ALIGNED = 8,
    GET_VIRTUAL_DISK_INFO_PHYSICAL_DISK = 9,
    GET_VIRTUAL_DISK_INFO_VHD_PHYSICAL_SECTOR_SIZE = 10,
    GET_VIRTUAL_DISK_INFO_SMALLEST_SAFE_VIRTUAL_SIZE = 11,
    GET_VIRTUAL_DISK_INFO_FRAGMENTATION = 12,
    GET_VIRTUAL_DISK_INFO_IS_LOADED = 13,
    GET_VIRTUAL_DISK_INFO_VIRTUAL_DISK_ID = 14,
    GET_VIRTUAL_DISK_INFO_CHANGE_TRACKING_STATE = 15
} GET_VIRTUAL_DISK_INFO_VERSION;

#define VIRTUAL_DISK_MAXIMUM_CHANGE_TRACKING_ID_LENGTH 256

/* Sizes in bytes. Every class has its own length, see GetVirtualDiskInformation. */
typedef struct _GET_VIRTUAL_DISK_INFO {
    GET_VIRTUAL_DISK_INFO_VERSION Version;
    union {
        struct {
            ULONGLONG VirtualSize;
            ULONGLONG PhysicalSize;
            DWORD BlockSize;
            DWORD SectorSize;
        } Size;
        GUID Identifier;
        struct {
            BOOL ParentResolved;
            WCHAR ParentLocationBuffer[1];
        } ParentLocation;
        GUID ParentIdentifier;
        DWORD ParentTimestamp;
        VIRTUAL_STORAGE_TYPE VirtualStorageType;
        DWORD ProviderSubtype;
        BOOL Is4kAligned;
        BOOL IsLoaded;
        struct {
            DWORD LogicalSectorSize;
            DWORD PhysicalSectorSize;
            BOOL IsRemote;
        } PhysicalDisk;
        DWORD VhdPhysicalSectorSize;
        ULONGLONG SmallestSafeVirtualSize;
        DWORD FragmentationPercentage;
        GUID VirtualDiskId;
        struct {
            BOOL Enabled;
            BOOL NewerChanges;
            WCHAR MostRecentId[1];
        } ChangeTrackingState;
    };
} GET_VIRTUAL_DISK_INFO, *PGET_VIRTUAL_DISK_INFO;

#endif /* VIRTDISK_TYPES_H */
