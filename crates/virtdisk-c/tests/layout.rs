//! `virtdisk.h` against Microsoft's metadata: every constant, every size, every offset.
//!
//! One list of names drives both sides: windows-sys gives Rust's numbers, a C program that is
//! generated here and compiled with the header prints C's. Error codes, flags and GUIDs are
//! compared with the crate `virtdisk` as well.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod library;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::mem::offset_of;

use api::{AccessMask, AttachFlags, Code, CreateFlags, DetachFlags, OpenFlags, StorageType};
use bitflags::Flags;
use windows_sys::Win32::Storage::Vhd::*;

use library::{Language, compile, run};

macro_rules! constants {
    ($($name:ident,)*) => { &[$((stringify!($name), $name as i64),)*] };
}

macro_rules! layouts {
    ($($ty:ident { $($($part:ident).+,)* })*) => {
        &[$(Layout {
            name: stringify!($ty),
            size: size_of::<$ty>(),
            alignment: align_of::<$ty>(),
            offsets: &[$((concat!($(".", stringify!($part)),+), offset_of!($ty, $($part).+)),)*],
        },)*]
    };
}

/// A struct as windows-sys has it.
struct Layout {
    name: &'static str,
    size: usize,
    alignment: usize,
    offsets: &'static [(&'static str, usize)],
}

/// Every constant of windows-sys that is a number.
const CONSTANTS: &[(&str, i64)] = constants! {
    APPLY_SNAPSHOT_VHDSET_FLAG_NONE, APPLY_SNAPSHOT_VHDSET_FLAG_WRITEABLE,
    APPLY_SNAPSHOT_VHDSET_VERSION_UNSPECIFIED, APPLY_SNAPSHOT_VHDSET_VERSION_1,
    ATTACH_VIRTUAL_DISK_FLAG_NONE, ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY,
    ATTACH_VIRTUAL_DISK_FLAG_NO_DRIVE_LETTER, ATTACH_VIRTUAL_DISK_FLAG_PERMANENT_LIFETIME,
    ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST, ATTACH_VIRTUAL_DISK_FLAG_NO_SECURITY_DESCRIPTOR,
    ATTACH_VIRTUAL_DISK_FLAG_BYPASS_DEFAULT_ENCRYPTION_POLICY, ATTACH_VIRTUAL_DISK_FLAG_NON_PNP,
    ATTACH_VIRTUAL_DISK_FLAG_RESTRICTED_RANGE, ATTACH_VIRTUAL_DISK_FLAG_SINGLE_PARTITION,
    ATTACH_VIRTUAL_DISK_FLAG_REGISTER_VOLUME, ATTACH_VIRTUAL_DISK_FLAG_AT_BOOT,
    ATTACH_VIRTUAL_DISK_VERSION_UNSPECIFIED, ATTACH_VIRTUAL_DISK_VERSION_1,
    ATTACH_VIRTUAL_DISK_VERSION_2, COMPACT_VIRTUAL_DISK_FLAG_NONE,
    COMPACT_VIRTUAL_DISK_FLAG_NO_ZERO_SCAN, COMPACT_VIRTUAL_DISK_FLAG_NO_BLOCK_MOVES,
    COMPACT_VIRTUAL_DISK_VERSION_UNSPECIFIED, COMPACT_VIRTUAL_DISK_VERSION_1,
    CREATE_VIRTUAL_DISK_FLAG_NONE, CREATE_VIRTUAL_DISK_FLAG_FULL_PHYSICAL_ALLOCATION,
    CREATE_VIRTUAL_DISK_FLAG_PREVENT_WRITES_TO_SOURCE_DISK,
    CREATE_VIRTUAL_DISK_FLAG_DO_NOT_COPY_METADATA_FROM_PARENT,
    CREATE_VIRTUAL_DISK_FLAG_CREATE_BACKING_STORAGE,
    CREATE_VIRTUAL_DISK_FLAG_USE_CHANGE_TRACKING_SOURCE_LIMIT,
    CREATE_VIRTUAL_DISK_FLAG_PRESERVE_PARENT_CHANGE_TRACKING_STATE,
    CREATE_VIRTUAL_DISK_FLAG_VHD_SET_USE_ORIGINAL_BACKING_STORAGE,
    CREATE_VIRTUAL_DISK_FLAG_SPARSE_FILE, CREATE_VIRTUAL_DISK_FLAG_PMEM_COMPATIBLE,
    CREATE_VIRTUAL_DISK_FLAG_SUPPORT_COMPRESSED_VOLUMES,
    CREATE_VIRTUAL_DISK_FLAG_SUPPORT_SPARSE_FILES_ANY_FS,
    CREATE_VIRTUAL_DISK_VERSION_UNSPECIFIED, CREATE_VIRTUAL_DISK_VERSION_1,
    CREATE_VIRTUAL_DISK_VERSION_2, CREATE_VIRTUAL_DISK_VERSION_3, CREATE_VIRTUAL_DISK_VERSION_4,
    DELETE_SNAPSHOT_VHDSET_FLAG_NONE, DELETE_SNAPSHOT_VHDSET_FLAG_PERSIST_RCT,
    DELETE_SNAPSHOT_VHDSET_VERSION_UNSPECIFIED, DELETE_SNAPSHOT_VHDSET_VERSION_1,
    DEPENDENT_DISK_FLAG_NONE, DEPENDENT_DISK_FLAG_MULT_BACKING_FILES,
    DEPENDENT_DISK_FLAG_FULLY_ALLOCATED, DEPENDENT_DISK_FLAG_READ_ONLY,
    DEPENDENT_DISK_FLAG_REMOTE, DEPENDENT_DISK_FLAG_SYSTEM_VOLUME,
    DEPENDENT_DISK_FLAG_SYSTEM_VOLUME_PARENT, DEPENDENT_DISK_FLAG_REMOVABLE,
    DEPENDENT_DISK_FLAG_NO_DRIVE_LETTER, DEPENDENT_DISK_FLAG_PARENT,
    DEPENDENT_DISK_FLAG_NO_HOST_DISK, DEPENDENT_DISK_FLAG_PERMANENT_LIFETIME,
    DEPENDENT_DISK_FLAG_SUPPORT_COMPRESSED_VOLUMES, DEPENDENT_DISK_FLAG_ALWAYS_ALLOW_SPARSE,
    DEPENDENT_DISK_FLAG_SUPPORT_ENCRYPTED_FILES, DETACH_VIRTUAL_DISK_FLAG_NONE,
    EXPAND_VIRTUAL_DISK_FLAG_NONE, EXPAND_VIRTUAL_DISK_FLAG_NOTIFY_CHANGE,
    EXPAND_VIRTUAL_DISK_VERSION_UNSPECIFIED, EXPAND_VIRTUAL_DISK_VERSION_1,
    FORK_VIRTUAL_DISK_FLAG_NONE, FORK_VIRTUAL_DISK_FLAG_EXISTING_FILE,
    FORK_VIRTUAL_DISK_VERSION_UNSPECIFIED, FORK_VIRTUAL_DISK_VERSION_1,
    GET_STORAGE_DEPENDENCY_FLAG_NONE, GET_STORAGE_DEPENDENCY_FLAG_HOST_VOLUMES,
    GET_STORAGE_DEPENDENCY_FLAG_DISK_HANDLE, GET_VIRTUAL_DISK_INFO_UNSPECIFIED,
    GET_VIRTUAL_DISK_INFO_SIZE, GET_VIRTUAL_DISK_INFO_IDENTIFIER,
    GET_VIRTUAL_DISK_INFO_PARENT_LOCATION, GET_VIRTUAL_DISK_INFO_PARENT_IDENTIFIER,
    GET_VIRTUAL_DISK_INFO_PARENT_TIMESTAMP, GET_VIRTUAL_DISK_INFO_VIRTUAL_STORAGE_TYPE,
    GET_VIRTUAL_DISK_INFO_PROVIDER_SUBTYPE, GET_VIRTUAL_DISK_INFO_IS_4K_ALIGNED,
    GET_VIRTUAL_DISK_INFO_PHYSICAL_DISK, GET_VIRTUAL_DISK_INFO_VHD_PHYSICAL_SECTOR_SIZE,
    GET_VIRTUAL_DISK_INFO_SMALLEST_SAFE_VIRTUAL_SIZE, GET_VIRTUAL_DISK_INFO_FRAGMENTATION,
    GET_VIRTUAL_DISK_INFO_IS_LOADED, GET_VIRTUAL_DISK_INFO_VIRTUAL_DISK_ID,
    GET_VIRTUAL_DISK_INFO_CHANGE_TRACKING_STATE, MERGE_VIRTUAL_DISK_FLAG_NONE,
    MERGE_VIRTUAL_DISK_VERSION_UNSPECIFIED, MERGE_VIRTUAL_DISK_VERSION_1,
    MERGE_VIRTUAL_DISK_VERSION_2, MIRROR_VIRTUAL_DISK_FLAG_NONE,
    MIRROR_VIRTUAL_DISK_FLAG_EXISTING_FILE, MIRROR_VIRTUAL_DISK_FLAG_SKIP_MIRROR_ACTIVATION,
    MIRROR_VIRTUAL_DISK_FLAG_ENABLE_SMB_COMPRESSION, MIRROR_VIRTUAL_DISK_FLAG_IS_LIVE_MIGRATION,
    MIRROR_VIRTUAL_DISK_VERSION_UNSPECIFIED, MIRROR_VIRTUAL_DISK_VERSION_1,
    MODIFY_VHDSET_FLAG_NONE, MODIFY_VHDSET_FLAG_WRITEABLE_SNAPSHOT, MODIFY_VHDSET_UNSPECIFIED,
    MODIFY_VHDSET_SNAPSHOT_PATH, MODIFY_VHDSET_REMOVE_SNAPSHOT,
    MODIFY_VHDSET_DEFAULT_SNAPSHOT_PATH, OPEN_VIRTUAL_DISK_FLAG_NONE,
    OPEN_VIRTUAL_DISK_FLAG_NO_PARENTS, OPEN_VIRTUAL_DISK_FLAG_BLANK_FILE,
    OPEN_VIRTUAL_DISK_FLAG_BOOT_DRIVE, OPEN_VIRTUAL_DISK_FLAG_CACHED_IO,
    OPEN_VIRTUAL_DISK_FLAG_CUSTOM_DIFF_CHAIN, OPEN_VIRTUAL_DISK_FLAG_PARENT_CACHED_IO,
    OPEN_VIRTUAL_DISK_FLAG_VHDSET_FILE_ONLY,
    OPEN_VIRTUAL_DISK_FLAG_IGNORE_RELATIVE_PARENT_LOCATOR,
    OPEN_VIRTUAL_DISK_FLAG_NO_WRITE_HARDENING, OPEN_VIRTUAL_DISK_FLAG_SUPPORT_COMPRESSED_VOLUMES,
    OPEN_VIRTUAL_DISK_FLAG_SUPPORT_SPARSE_FILES_ANY_FS,
    OPEN_VIRTUAL_DISK_FLAG_SUPPORT_ENCRYPTED_FILES, OPEN_VIRTUAL_DISK_VERSION_UNSPECIFIED,
    OPEN_VIRTUAL_DISK_VERSION_1, OPEN_VIRTUAL_DISK_VERSION_2, OPEN_VIRTUAL_DISK_VERSION_3,
    QUERY_CHANGES_VIRTUAL_DISK_FLAG_NONE, RAW_SCSI_VIRTUAL_DISK_FLAG_NONE,
    RAW_SCSI_VIRTUAL_DISK_VERSION_UNSPECIFIED, RAW_SCSI_VIRTUAL_DISK_VERSION_1,
    RESIZE_VIRTUAL_DISK_FLAG_NONE, RESIZE_VIRTUAL_DISK_FLAG_ALLOW_UNSAFE_VIRTUAL_SIZE,
    RESIZE_VIRTUAL_DISK_FLAG_RESIZE_TO_SMALLEST_SAFE_VIRTUAL_SIZE,
    RESIZE_VIRTUAL_DISK_VERSION_UNSPECIFIED, RESIZE_VIRTUAL_DISK_VERSION_1,
    SET_VIRTUAL_DISK_INFO_UNSPECIFIED, SET_VIRTUAL_DISK_INFO_PARENT_PATH,
    SET_VIRTUAL_DISK_INFO_IDENTIFIER, SET_VIRTUAL_DISK_INFO_PARENT_PATH_WITH_DEPTH,
    SET_VIRTUAL_DISK_INFO_PHYSICAL_SECTOR_SIZE, SET_VIRTUAL_DISK_INFO_VIRTUAL_DISK_ID,
    SET_VIRTUAL_DISK_INFO_CHANGE_TRACKING_STATE, SET_VIRTUAL_DISK_INFO_PARENT_LOCATOR,
    STORAGE_DEPENDENCY_INFO_VERSION_UNSPECIFIED, STORAGE_DEPENDENCY_INFO_VERSION_1,
    STORAGE_DEPENDENCY_INFO_VERSION_2, TAKE_SNAPSHOT_VHDSET_FLAG_NONE,
    TAKE_SNAPSHOT_VHDSET_FLAG_WRITEABLE, TAKE_SNAPSHOT_VHDSET_VERSION_UNSPECIFIED,
    TAKE_SNAPSHOT_VHDSET_VERSION_1, VIRTUAL_DISK_ACCESS_NONE, VIRTUAL_DISK_ACCESS_ATTACH_RO,
    VIRTUAL_DISK_ACCESS_ATTACH_RW, VIRTUAL_DISK_ACCESS_DETACH, VIRTUAL_DISK_ACCESS_GET_INFO,
    VIRTUAL_DISK_ACCESS_READ, VIRTUAL_DISK_ACCESS_CREATE, VIRTUAL_DISK_ACCESS_METAOPS,
    VIRTUAL_DISK_ACCESS_WRITABLE, VIRTUAL_DISK_ACCESS_ALL,
    CREATE_VIRTUAL_DISK_PARAMETERS_DEFAULT_BLOCK_SIZE,
    CREATE_VIRTUAL_DISK_PARAMETERS_DEFAULT_SECTOR_SIZE, VIRTUAL_STORAGE_TYPE_DEVICE_UNKNOWN,
    MERGE_VIRTUAL_DISK_DEFAULT_MERGE_DEPTH, OPEN_VIRTUAL_DISK_RW_DEPTH_DEFAULT,
    VIRTUAL_STORAGE_TYPE_DEVICE_ISO, VIRTUAL_STORAGE_TYPE_DEVICE_VHD,
    VIRTUAL_STORAGE_TYPE_DEVICE_VHDX, VIRTUAL_STORAGE_TYPE_DEVICE_VHDSET,
    VIRTUAL_DISK_MAXIMUM_CHANGE_TRACKING_ID_LENGTH,
};

/// Every struct of windows-sys with every field.
const LAYOUTS: &[Layout] = layouts! {
    APPLY_SNAPSHOT_VHDSET_PARAMETERS {
        Version, Anonymous.Version1, Anonymous.Version1.SnapshotId,
        Anonymous.Version1.LeafSnapshotId,
    }
    ATTACH_VIRTUAL_DISK_PARAMETERS {
        Version, Anonymous.Version1, Anonymous.Version1.Reserved, Anonymous.Version2,
        Anonymous.Version2.RestrictedOffset, Anonymous.Version2.RestrictedLength,
    }
    COMPACT_VIRTUAL_DISK_PARAMETERS {
        Version, Anonymous.Version1, Anonymous.Version1.Reserved,
    }
    CREATE_VIRTUAL_DISK_PARAMETERS {
        Version, Anonymous.Version1, Anonymous.Version1.UniqueId, Anonymous.Version1.MaximumSize,
        Anonymous.Version1.BlockSizeInBytes, Anonymous.Version1.SectorSizeInBytes,
        Anonymous.Version1.ParentPath, Anonymous.Version1.SourcePath, Anonymous.Version2,
        Anonymous.Version2.UniqueId, Anonymous.Version2.MaximumSize,
        Anonymous.Version2.BlockSizeInBytes, Anonymous.Version2.SectorSizeInBytes,
        Anonymous.Version2.PhysicalSectorSizeInBytes, Anonymous.Version2.ParentPath,
        Anonymous.Version2.SourcePath, Anonymous.Version2.OpenFlags,
        Anonymous.Version2.ParentVirtualStorageType, Anonymous.Version2.SourceVirtualStorageType,
        Anonymous.Version2.ResiliencyGuid, Anonymous.Version3, Anonymous.Version3.UniqueId,
        Anonymous.Version3.MaximumSize, Anonymous.Version3.BlockSizeInBytes,
        Anonymous.Version3.SectorSizeInBytes, Anonymous.Version3.PhysicalSectorSizeInBytes,
        Anonymous.Version3.ParentPath, Anonymous.Version3.SourcePath,
        Anonymous.Version3.OpenFlags, Anonymous.Version3.ParentVirtualStorageType,
        Anonymous.Version3.SourceVirtualStorageType, Anonymous.Version3.ResiliencyGuid,
        Anonymous.Version3.SourceLimitPath, Anonymous.Version3.BackingStorageType,
        Anonymous.Version4, Anonymous.Version4.UniqueId, Anonymous.Version4.MaximumSize,
        Anonymous.Version4.BlockSizeInBytes, Anonymous.Version4.SectorSizeInBytes,
        Anonymous.Version4.PhysicalSectorSizeInBytes, Anonymous.Version4.ParentPath,
        Anonymous.Version4.SourcePath, Anonymous.Version4.OpenFlags,
        Anonymous.Version4.ParentVirtualStorageType, Anonymous.Version4.SourceVirtualStorageType,
        Anonymous.Version4.ResiliencyGuid, Anonymous.Version4.SourceLimitPath,
        Anonymous.Version4.BackingStorageType, Anonymous.Version4.PmemAddressAbstractionType,
        Anonymous.Version4.DataAlignment,
    }
    DELETE_SNAPSHOT_VHDSET_PARAMETERS {
        Version, Anonymous.Version1, Anonymous.Version1.SnapshotId,
    }
    EXPAND_VIRTUAL_DISK_PARAMETERS {
        Version, Anonymous.Version1, Anonymous.Version1.NewSize,
    }
    FORK_VIRTUAL_DISK_PARAMETERS {
        Version, Anonymous.Version1, Anonymous.Version1.ForkedVirtualDiskPath,
    }
    GET_VIRTUAL_DISK_INFO {
        Version, Anonymous.Size, Anonymous.Size.VirtualSize, Anonymous.Size.PhysicalSize,
        Anonymous.Size.BlockSize, Anonymous.Size.SectorSize, Anonymous.Identifier,
        Anonymous.ParentLocation, Anonymous.ParentLocation.ParentResolved,
        Anonymous.ParentLocation.ParentLocationBuffer, Anonymous.ParentIdentifier,
        Anonymous.ParentTimestamp, Anonymous.VirtualStorageType, Anonymous.ProviderSubtype,
        Anonymous.Is4kAligned, Anonymous.IsLoaded, Anonymous.PhysicalDisk,
        Anonymous.PhysicalDisk.LogicalSectorSize, Anonymous.PhysicalDisk.PhysicalSectorSize,
        Anonymous.PhysicalDisk.IsRemote, Anonymous.VhdPhysicalSectorSize,
        Anonymous.SmallestSafeVirtualSize, Anonymous.FragmentationPercentage,
        Anonymous.VirtualDiskId, Anonymous.ChangeTrackingState,
        Anonymous.ChangeTrackingState.Enabled, Anonymous.ChangeTrackingState.NewerChanges,
        Anonymous.ChangeTrackingState.MostRecentId,
    }
    MERGE_VIRTUAL_DISK_PARAMETERS {
        Version, Anonymous.Version1, Anonymous.Version1.MergeDepth, Anonymous.Version2,
        Anonymous.Version2.MergeSourceDepth, Anonymous.Version2.MergeTargetDepth,
    }
    MIRROR_VIRTUAL_DISK_PARAMETERS {
        Version, Anonymous.Version1, Anonymous.Version1.MirrorVirtualDiskPath,
    }
    MODIFY_VHDSET_PARAMETERS {
        Version, Anonymous.SnapshotPath, Anonymous.SnapshotPath.SnapshotId,
        Anonymous.SnapshotPath.SnapshotFilePath, Anonymous.SnapshotId, Anonymous.DefaultFilePath,
    }
    OPEN_VIRTUAL_DISK_PARAMETERS {
        Version, Anonymous.Version1, Anonymous.Version1.RWDepth, Anonymous.Version2,
        Anonymous.Version2.GetInfoOnly, Anonymous.Version2.ReadOnly,
        Anonymous.Version2.ResiliencyGuid, Anonymous.Version3, Anonymous.Version3.GetInfoOnly,
        Anonymous.Version3.ReadOnly, Anonymous.Version3.ResiliencyGuid,
        Anonymous.Version3.SnapshotId,
    }
    QUERY_CHANGES_VIRTUAL_DISK_RANGE {
        ByteOffset, ByteLength, Reserved,
    }
    RAW_SCSI_VIRTUAL_DISK_PARAMETERS {
        Version, Anonymous.Version1, Anonymous.Version1.RSVDHandle, Anonymous.Version1.DataIn,
        Anonymous.Version1.CdbLength, Anonymous.Version1.SenseInfoLength,
        Anonymous.Version1.SrbFlags, Anonymous.Version1.DataTransferLength,
        Anonymous.Version1.DataBuffer, Anonymous.Version1.SenseInfo, Anonymous.Version1.Cdb,
    }
    RAW_SCSI_VIRTUAL_DISK_RESPONSE {
        Version, Anonymous.Version1, Anonymous.Version1.ScsiStatus,
        Anonymous.Version1.SenseInfoLength, Anonymous.Version1.DataTransferLength,
    }
    RESIZE_VIRTUAL_DISK_PARAMETERS {
        Version, Anonymous.Version1, Anonymous.Version1.NewSize,
    }
    SET_VIRTUAL_DISK_INFO {
        Version, Anonymous.ParentFilePath, Anonymous.UniqueIdentifier,
        Anonymous.ParentPathWithDepthInfo, Anonymous.ParentPathWithDepthInfo.ChildDepth,
        Anonymous.ParentPathWithDepthInfo.ParentFilePath, Anonymous.VhdPhysicalSectorSize,
        Anonymous.VirtualDiskId, Anonymous.ChangeTrackingEnabled, Anonymous.ParentLocator,
        Anonymous.ParentLocator.LinkageId, Anonymous.ParentLocator.ParentFilePath,
    }
    STORAGE_DEPENDENCY_INFO {
        Version, NumberEntries, Anonymous.Version1Entries, Anonymous.Version2Entries,
    }
    STORAGE_DEPENDENCY_INFO_TYPE_1 {
        DependencyTypeFlags, ProviderSpecificFlags, VirtualStorageType,
    }
    STORAGE_DEPENDENCY_INFO_TYPE_2 {
        DependencyTypeFlags, ProviderSpecificFlags, VirtualStorageType, AncestorLevel,
        DependencyDeviceName, HostVolumeName, DependentVolumeName, DependentVolumeRelativePath,
    }
    TAKE_SNAPSHOT_VHDSET_PARAMETERS {
        Version, Anonymous.Version1, Anonymous.Version1.SnapshotId,
    }
    VIRTUAL_DISK_PROGRESS {
        OperationStatus, CurrentValue, CompletionValue,
    }
    VIRTUAL_STORAGE_TYPE {
        DeviceId, VendorId,
    }
};

/// Compiles a program with these statements, in C or C++, and answers the lines it prints as
/// words before a number.
fn numbers(name: &str, language: Language, statements: &str) -> Option<BTreeMap<String, i64>> {
    let source = format!(
        "#include <stdio.h>\n#include <virtdisk.h>\n\
         #define CONSTANT(x) printf(\"%s %lld\\n\", #x, (long long)(x))\n\
         #define SIZE(x) printf(\"%s %zu\\n\", #x, sizeof(x))\n\
         #define OFFSET(x, y) printf(\"%s.%s %zu\\n\", #x, #y, offsetof(x, y))\n\
         int main(void) {{\n{statements}return 0;\n}}\n"
    );
    let program = compile(name, &source, language, &[])?;
    let parse = |line: &str| {
        let (word, number) = line.rsplit_once(' ').unwrap();
        (word.to_owned(), number.parse().unwrap())
    };
    Some(run(program.command()).lines().map(parse).collect())
}

/// The program must print exactly these numbers.
fn same(name: &str, language: Language, statements: &str, wanted: &BTreeMap<String, i64>) {
    let Some(found) = numbers(name, language, statements) else {
        virtdisk_testkit::skip!("no {language:?} compiler");
    };
    for (word, number) in wanted {
        assert_eq!(found.get(word), Some(number), "{word}");
    }
    assert_eq!(found.len(), wanted.len());
}

fn constants_in(name: &str, language: Language) {
    let mut statements = String::new();
    for (name, _) in CONSTANTS {
        writeln!(statements, "CONSTANT({name});").unwrap();
    }
    let wanted = CONSTANTS
        .iter()
        .map(|(name, value)| ((*name).to_owned(), *value))
        .collect();
    same(name, language, &statements, &wanted);
}

#[test]
fn constants_of_the_c_header_are_those_of_windows() {
    constants_in("constants.c", Language::C);
}

#[test]
fn constants_of_the_cpp_header_are_those_of_windows() {
    constants_in("constants.cpp", Language::Cpp);
}

/// The size that C has: windows-sys counts one entry of what is a flexible array in the SDK, where
/// sizeof is 16 (API sheet 1.23).
fn c_size(layout: &Layout) -> usize {
    if layout.name == "STORAGE_DEPENDENCY_INFO" {
        16
    } else {
        layout.size
    }
}

fn layouts_in(name: &str, language: Language) {
    let (mut statements, mut wanted) = (String::new(), BTreeMap::new());
    for layout in LAYOUTS {
        let ty = layout.name;
        writeln!(statements, "SIZE({ty});").unwrap();
        wanted.insert(ty.to_owned(), i64::try_from(c_size(layout)).unwrap());
        writeln!(statements, "CONSTANT(__alignof__({ty}));").unwrap();
        let alignment = i64::try_from(layout.alignment).unwrap();
        wanted.insert(format!("__alignof__({ty})"), alignment);
        for (path, offset) in layout.offsets {
            let field = path.replace(".Anonymous", "");
            let field = field.strip_prefix('.').unwrap();
            writeln!(statements, "OFFSET({ty}, {field});").unwrap();
            wanted.insert(format!("{ty}.{field}"), i64::try_from(*offset).unwrap());
        }
    }
    same(name, language, &statements, &wanted);
}

#[test]
fn structs_of_the_c_header_have_the_layout_of_windows() {
    layouts_in("layouts.c", Language::C);
}

#[test]
fn structs_of_the_cpp_header_have_the_layout_of_windows() {
    layouts_in("layouts.cpp", Language::Cpp);
}

#[test]
fn base_types_have_the_widths_of_windows() {
    let wanted = [
        ("DWORD", 4),
        ("ULONG", 4),
        ("ULONGLONG", 8),
        ("BOOL", 4),
        ("UCHAR", 1),
        ("WCHAR", 2),
        ("HANDLE", 8),
        ("GUID", 16),
        ("OVERLAPPED", 32),
    ];
    let mut statements = String::new();
    for (name, _) in wanted {
        writeln!(statements, "SIZE({name});").unwrap();
    }
    let wanted = wanted
        .iter()
        .map(|(name, size)| ((*name).to_owned(), *size))
        .collect();
    same("widths.c", Language::C, &statements, &wanted);
}

#[test]
fn error_codes_of_the_header_are_those_of_the_library() {
    let (mut statements, mut wanted) = (String::new(), BTreeMap::new());
    for (name, code) in Code::TABLE {
        writeln!(statements, "CONSTANT({name});").unwrap();
        wanted.insert((*name).to_owned(), i64::from(code.0));
    }
    same("codes.c", Language::C, &statements, &wanted);
    let header = include_str!("../include/virtdisk_base.h");
    let defined: BTreeSet<_> = header
        .lines()
        .filter_map(|line| line.strip_prefix("#define ERROR_")?.split(' ').next())
        .map(|rest| format!("ERROR_{rest}"))
        .collect();
    assert_eq!(defined, wanted.into_keys().collect(), "no more and no less");
}

/// Every flag of the crate under its Windows name.
fn flags<F: Flags<Bits = u32>>(prefix: &str) {
    let windows: BTreeMap<_, _> = CONSTANTS.iter().copied().collect();
    for flag in F::FLAGS {
        let name = format!("{prefix}{}", flag.name());
        if name == "CREATE_VIRTUAL_DISK_FLAG_USE_RCT_SOURCE_LIMIT" {
            continue;
        }
        let value = i64::from(flag.value().bits());
        assert_eq!(windows.get(name.as_str()), Some(&value), "{name}");
    }
    let count = windows
        .keys()
        .filter(|name| name.starts_with(prefix))
        .count();
    let aliases = usize::from(prefix.starts_with("CREATE"));
    assert_eq!(F::FLAGS.len(), count + aliases, "{prefix}");
}

#[test]
fn flags_of_the_library_are_those_of_windows() {
    flags::<AccessMask>("VIRTUAL_DISK_ACCESS_");
    flags::<OpenFlags>("OPEN_VIRTUAL_DISK_FLAG_");
    flags::<CreateFlags>("CREATE_VIRTUAL_DISK_FLAG_");
    flags::<AttachFlags>("ATTACH_VIRTUAL_DISK_FLAG_");
    flags::<DetachFlags>("DETACH_VIRTUAL_DISK_FLAG_");
}

#[test]
fn vendors_of_the_header_are_those_of_the_library() {
    let vendors = [
        (
            "VIRTUAL_STORAGE_TYPE_VENDOR_UNKNOWN",
            StorageType::VENDOR_UNKNOWN,
        ),
        (
            "VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT",
            StorageType::VENDOR_MICROSOFT,
        ),
        (
            "VIRTUAL_STORAGE_TYPE_VENDOR_VIRTDISK",
            StorageType::VENDOR_VIRTDISK,
        ),
    ];
    let (mut statements, mut wanted) = (String::new(), BTreeMap::new());
    for (name, guid) in vendors {
        for (index, byte) in guid.to_bytes_le().iter().enumerate() {
            let access = format!("((const UCHAR *)&{name})[{index}]");
            writeln!(statements, "CONSTANT({access});").unwrap();
            wanted.insert(access, i64::from(*byte));
        }
    }
    writeln!(statements, "CONSTANT(VIRTUAL_STORAGE_TYPE_DEVICE_RAW);").unwrap();
    let raw = i64::from(StorageType::DEVICE_RAW);
    wanted.insert("VIRTUAL_STORAGE_TYPE_DEVICE_RAW".to_owned(), raw);
    same("vendors.c", Language::C, &statements, &wanted);
}
