/*
 * The life of a disk through the service: created, asked, attached, written, detached, opened
 * again, read. Argument: an empty folder. Needs root and loop devices.
 */
#include "check.h"

#include <fcntl.h>
#include <unistd.h>

#define MIB (1024 * 1024)
/* No whole number of blocks and of no geometry: must be kept exactly (R-CRE-6). */
#define VIRTUAL_SIZE 0x00810400

static const VIRTUAL_STORAGE_TYPE vhd = { VIRTUAL_STORAGE_TYPE_DEVICE_VHD,
                                          { 0xEC984AEC, 0xA0F9, 0x47E9,
                                            { 0x90, 0x1F, 0x71, 0x41, 0x5A, 0x66, 0x34, 0x5B } } };
static const VIRTUAL_STORAGE_TYPE unknown = { VIRTUAL_STORAGE_TYPE_DEVICE_UNKNOWN,
                                              { 0, 0, 0, { 0, 0, 0, 0, 0, 0, 0, 0 } } };
static const GUID id = { 0x01020304, 0x0506, 0x0708, { 9, 10, 11, 12, 13, 14, 15, 16 } };

/* One class in a buffer of exactly this size at the end of readable memory. */
static DWORD ask(HANDLE handle, unsigned version, ULONG size, void *facts, ULONG *answered)
{
    GET_VIRTUAL_DISK_INFO info;
    memset(&info, 0xAA, sizeof(info));
    info.Version = (GET_VIRTUAL_DISK_INFO_VERSION)version;
    GET_VIRTUAL_DISK_INFO *edge = (GET_VIRTUAL_DISK_INFO *)at_the_edge(&info, size);
    ULONG used = 0xAAAAAAAA;
    *answered = size;
    DWORD code = GetVirtualDiskInformation(handle, answered, edge, &used);
    memcpy(facts, edge, size);
    if (code == ERROR_SUCCESS) {
        CHECK(*answered, size);
        CHECK(used <= size, TRUE);
    } else {
        CHECK(used, 0xAAAAAAAA);
        CHECK(memcmp(&info, edge, size), 0);
    }
    return code;
}

/* A class of this length: exact, one byte less, more. R-INFO-3, R-INFO-4 */
static void class_has_length(HANDLE handle, unsigned version, ULONG length, DWORD wanted)
{
    GET_VIRTUAL_DISK_INFO info;
    ULONG answered;
    CHECK(ask(handle, version, length, &info, &answered), wanted);
    CHECK(ask(handle, version, 32, &info, &answered), wanted);
    if (wanted != ERROR_SUCCESS)
        return;
    CHECK(ask(handle, version, length - 1, &info, &answered), ERROR_INSUFFICIENT_BUFFER);
    CHECK(answered, length);
    CHECK(ask(handle, version, 4, &info, &answered), ERROR_INSUFFICIENT_BUFFER);
    CHECK(answered, length);
}

/* R-INFO-2, R-INFO-5, R-INFO-7 */
static void information_of_a_fresh_vhd(HANDLE handle)
{
    class_has_length(handle, GET_VIRTUAL_DISK_INFO_SIZE, 32, ERROR_SUCCESS);
    class_has_length(handle, GET_VIRTUAL_DISK_INFO_IDENTIFIER, 24, ERROR_SUCCESS);
    class_has_length(handle, GET_VIRTUAL_DISK_INFO_PARENT_LOCATION, 14, ERROR_VHD_INVALID_TYPE);
    class_has_length(handle, GET_VIRTUAL_DISK_INFO_PARENT_IDENTIFIER, 24, ERROR_VHD_INVALID_TYPE);
    class_has_length(handle, GET_VIRTUAL_DISK_INFO_PARENT_TIMESTAMP, 12, ERROR_VHD_INVALID_TYPE);
    class_has_length(handle, GET_VIRTUAL_DISK_INFO_VIRTUAL_STORAGE_TYPE, 28, ERROR_SUCCESS);
    class_has_length(handle, GET_VIRTUAL_DISK_INFO_PROVIDER_SUBTYPE, 12, ERROR_SUCCESS);
    class_has_length(handle, GET_VIRTUAL_DISK_INFO_IS_4K_ALIGNED, 12, ERROR_SUCCESS);
    class_has_length(handle, GET_VIRTUAL_DISK_INFO_PHYSICAL_DISK, 20, ERROR_SUCCESS);
    class_has_length(handle, GET_VIRTUAL_DISK_INFO_VHD_PHYSICAL_SECTOR_SIZE, 12, ERROR_SUCCESS);
    class_has_length(handle, GET_VIRTUAL_DISK_INFO_SMALLEST_SAFE_VIRTUAL_SIZE, 16,
                     ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE);
    class_has_length(handle, GET_VIRTUAL_DISK_INFO_FRAGMENTATION, 12, ERROR_SUCCESS);
    class_has_length(handle, GET_VIRTUAL_DISK_INFO_IS_LOADED, 12, ERROR_SUCCESS);
    class_has_length(handle, GET_VIRTUAL_DISK_INFO_VIRTUAL_DISK_ID, 24, ERROR_SUCCESS);
    class_has_length(handle, GET_VIRTUAL_DISK_INFO_CHANGE_TRACKING_STATE, 18, ERROR_SUCCESS);
    class_has_length(handle, 0, 32, ERROR_INVALID_PARAMETER);
    class_has_length(handle, 16, 32, ERROR_INVALID_PARAMETER);

    GET_VIRTUAL_DISK_INFO info;
    ULONG size;
    CHECK(ask(handle, GET_VIRTUAL_DISK_INFO_SIZE, 32, &info, &size), ERROR_SUCCESS);
    CHECK(info.Size.VirtualSize, VIRTUAL_SIZE);
    CHECK(info.Size.PhysicalSize < VIRTUAL_SIZE, TRUE);
    CHECK(info.Size.BlockSize, 2 * MIB);
    CHECK(info.Size.SectorSize, 512);
    CHECK(ask(handle, GET_VIRTUAL_DISK_INFO_IDENTIFIER, 24, &info, &size), ERROR_SUCCESS);
    CHECK(memcmp(&info.Identifier, &id, sizeof(id)), 0);
    CHECK(ask(handle, GET_VIRTUAL_DISK_INFO_VIRTUAL_STORAGE_TYPE, 28, &info, &size),
          ERROR_SUCCESS);
    CHECK(memcmp(&info.VirtualStorageType, &vhd, sizeof(vhd)), 0);
    CHECK(ask(handle, GET_VIRTUAL_DISK_INFO_PROVIDER_SUBTYPE, 12, &info, &size), ERROR_SUCCESS);
    CHECK(info.ProviderSubtype, 3);
    CHECK(ask(handle, GET_VIRTUAL_DISK_INFO_IS_4K_ALIGNED, 12, &info, &size), ERROR_SUCCESS);
    CHECK(info.Is4kAligned, TRUE);
    CHECK(ask(handle, GET_VIRTUAL_DISK_INFO_PHYSICAL_DISK, 20, &info, &size), ERROR_SUCCESS);
    CHECK(info.PhysicalDisk.LogicalSectorSize >= 512, TRUE);
    CHECK(info.PhysicalDisk.PhysicalSectorSize >= info.PhysicalDisk.LogicalSectorSize, TRUE);
    CHECK(info.PhysicalDisk.IsRemote, FALSE);
    CHECK(ask(handle, GET_VIRTUAL_DISK_INFO_VHD_PHYSICAL_SECTOR_SIZE, 12, &info, &size),
          ERROR_SUCCESS);
    CHECK(info.VhdPhysicalSectorSize, 512);
    CHECK(ask(handle, GET_VIRTUAL_DISK_INFO_FRAGMENTATION, 12, &info, &size), ERROR_SUCCESS);
    CHECK(info.FragmentationPercentage, 0);
    CHECK(ask(handle, GET_VIRTUAL_DISK_INFO_CHANGE_TRACKING_STATE, 18, &info, &size),
          ERROR_SUCCESS);
    CHECK(info.ChangeTrackingState.Enabled, FALSE);
    CHECK(info.ChangeTrackingState.MostRecentId[0], 0);
}

static BOOL is_loaded(HANDLE handle)
{
    GET_VIRTUAL_DISK_INFO info;
    ULONG size;
    CHECK(ask(handle, GET_VIRTUAL_DISK_INFO_IS_LOADED, 12, &info, &size), ERROR_SUCCESS);
    return info.IsLoaded;
}

/* R-PATH-2, R-PATH-3, R-PATH-4: the device's path, as both functions answer it. */
static void device_path(HANDLE handle, char *path, ULONG capacity)
{
    ULONG size = 0, wide_size = 0;
    WCHAR wide_path[64];
    CHECK(GetVirtualDiskPhysicalPathA(handle, &size, NULL), ERROR_INSUFFICIENT_BUFFER);
    CHECK(size > strlen("/dev/") && size <= capacity, TRUE);
    CHECK(GetVirtualDiskPhysicalPath(handle, &wide_size, NULL), ERROR_INSUFFICIENT_BUFFER);
    CHECK(wide_size, 2 * size);
    ULONG less = wide_size - 1;
    CHECK(GetVirtualDiskPhysicalPath(handle, &less, wide_path), ERROR_INSUFFICIENT_BUFFER);
    CHECK(less, wide_size);
    CHECK(GetVirtualDiskPhysicalPath(handle, &wide_size, wide_path), ERROR_SUCCESS);
    CHECK(wide_size, 2 * size);
    CHECK(GetVirtualDiskPhysicalPathA(handle, &size, path), ERROR_SUCCESS);
    CHECK(strlen(path) + 1, size);
    CHECK(strncmp(path, "/dev/", 5), 0);
    for (size_t index = 0; index < size; index++)
        CHECK(wide_path[index], path[index]);
    char last = path[strlen(path) - 1];
    CHECK(last >= '0' && last <= '9', TRUE);
}

/* R-PATH-5, R-PATH-6: is this image in the list? */
static BOOL is_listed(const char *image)
{
    ULONG size = 0, wide_size = 0;
    DWORD code = GetAllAttachedVirtualDiskPhysicalPathsA(&size, NULL);
    if (code == ERROR_SUCCESS)
        return FALSE;
    CHECK(code, ERROR_INSUFFICIENT_BUFFER);
    CHECK(GetAllAttachedVirtualDiskPhysicalPaths(&wide_size, NULL), ERROR_INSUFFICIENT_BUFFER);
    CHECK(wide_size, 2 * size);
    char *list = (char *)malloc(size);
    CHECK(GetAllAttachedVirtualDiskPhysicalPathsA(&size, list), ERROR_SUCCESS);
    CHECK(list[size - 1] == '\0' && list[size - 2] == '\0', TRUE);
    BOOL found = FALSE;
    for (const char *entry = list; *entry != '\0'; entry += strlen(entry) + 1)
        found = found || strcmp(entry, image) == 0;
    free(list);
    return found;
}

static HANDLE create(const char *image)
{
    CREATE_VIRTUAL_DISK_PARAMETERS parameters;
    memset(&parameters, 0, sizeof(parameters));
    parameters.Version = CREATE_VIRTUAL_DISK_VERSION_2;
    parameters.Version2.UniqueId = id;
    parameters.Version2.MaximumSize = VIRTUAL_SIZE;
    HANDLE handle = NULL;
    CHECK(CreateVirtualDisk(&unknown, wide(image), VIRTUAL_DISK_ACCESS_NONE, NULL,
                            CREATE_VIRTUAL_DISK_FLAG_NONE, 0, &parameters, NULL, &handle),
          ERROR_SUCCESS);
    CHECK(handle != NULL, TRUE);
    HANDLE again = NULL;
    CHECK(CreateVirtualDisk(&vhd, wide(image), VIRTUAL_DISK_ACCESS_NONE, NULL,
                            CREATE_VIRTUAL_DISK_FLAG_NONE, 0, &parameters, NULL, &again),
          ERROR_FILE_EXISTS);
    CHECK(again == NULL, TRUE);
    return handle;
}

static DWORD attach(HANDLE handle, unsigned flags)
{
    /* Version 1 owns its number alone, version 2 all 24 bytes (R-ATT-2, R-ATT-3). */
    ATTACH_VIRTUAL_DISK_PARAMETERS parameters;
    memset(&parameters, 0, sizeof(parameters));
    parameters.Version = ATTACH_VIRTUAL_DISK_VERSION_1;
    return AttachVirtualDisk(
        handle, NULL, (ATTACH_VIRTUAL_DISK_FLAG)flags, 0,
        (const ATTACH_VIRTUAL_DISK_PARAMETERS *)at_the_edge(&parameters, 4), NULL);
}

static void attach_arguments(HANDLE handle)
{
    OVERLAPPED overlapped;
    ATTACH_VIRTUAL_DISK_PARAMETERS parameters;
    memset(&overlapped, 0, sizeof(overlapped));
    memset(&parameters, 0, sizeof(parameters));
    CHECK(AttachVirtualDisk(handle, NULL, ATTACH_VIRTUAL_DISK_FLAG_NONE, 0, NULL, &overlapped),
          ERROR_NOT_SUPPORTED);
    CHECK(AttachVirtualDisk(handle, NULL, ATTACH_VIRTUAL_DISK_FLAG_NONE, 0, &parameters, NULL),
          ERROR_INVALID_PARAMETER);
    CHECK(AttachVirtualDisk(handle, NULL, (ATTACH_VIRTUAL_DISK_FLAG)0x800, 0, NULL, NULL),
          ERROR_INVALID_PARAMETER);
    CHECK(AttachVirtualDisk(handle, NULL, ATTACH_VIRTUAL_DISK_FLAG_NONE, 1, NULL, NULL),
          ERROR_INVALID_PARAMETER);
    CHECK(DetachVirtualDisk(handle, (DETACH_VIRTUAL_DISK_FLAG)1, 0), ERROR_INVALID_PARAMETER);
    CHECK(DetachVirtualDisk(handle, DETACH_VIRTUAL_DISK_FLAG_NONE, 1), ERROR_INVALID_PARAMETER);
    CHECK(DetachVirtualDisk(handle, DETACH_VIRTUAL_DISK_FLAG_NONE, 0), ERROR_NOT_READY);
    ULONG size = 0;
    CHECK(GetVirtualDiskPhysicalPath(handle, &size, NULL), ERROR_DEV_NOT_EXIST);
    int file = -1;
    CHECK(GetVirtualDiskRawFile(handle, &file), ERROR_BAD_COMMAND);
}

/* Created, attached, written, detached; the handle of CreateVirtualDisk does it all. */
static void write_through_a_device(const char *image)
{
    HANDLE handle = create(image);
    information_of_a_fresh_vhd(handle);
    attach_arguments(handle);
    CHECK(is_loaded(handle), FALSE);
    CHECK(is_listed(image), FALSE);

    CHECK(attach(handle, ATTACH_VIRTUAL_DISK_FLAG_NONE), ERROR_SUCCESS);
    CHECK(attach(handle, ATTACH_VIRTUAL_DISK_FLAG_NONE), ERROR_BAD_COMMAND);
    char device[64] = "";
    device_path(handle, device, sizeof(device));
    CHECK(is_loaded(handle), TRUE);
    CHECK(is_listed(image), TRUE);

    int fd = open(device, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0, TRUE);
    CHECK(lseek(fd, 0, SEEK_END), VIRTUAL_SIZE);
    CHECK(pwrite(fd, "written by C", 12, 5 * MIB), 12);
    CHECK(DetachVirtualDisk(handle, DETACH_VIRTUAL_DISK_FLAG_NONE, 0), ERROR_BUSY);
    CHECK(close(fd), 0);
    CHECK(DetachVirtualDisk(handle, DETACH_VIRTUAL_DISK_FLAG_NONE, 0), ERROR_SUCCESS);
    CHECK(DetachVirtualDisk(handle, DETACH_VIRTUAL_DISK_FLAG_NONE, 0), ERROR_NOT_READY);
    CHECK(is_loaded(handle), FALSE);
    CHECK(is_listed(image), FALSE);
    CHECK(CloseHandle(handle), TRUE);
    CHECK(CloseHandle(handle), FALSE);
    CHECK(DetachVirtualDisk(handle, DETACH_VIRTUAL_DISK_FLAG_NONE, 0), ERROR_INVALID_PARAMETER);
}

/* Permanent: outlives its handle, and a fresh handle ends it (R-ATT-10, R-DET-23). */
static void detach_through_another_handle(const char *image)
{
    HANDLE handle = NULL;
    CHECK(OpenVirtualDiskA(&unknown, image, VIRTUAL_DISK_ACCESS_READ, OPEN_VIRTUAL_DISK_FLAG_NONE,
                           NULL, &handle),
          ERROR_SUCCESS);
    CHECK(attach(handle, ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY |
                             ATTACH_VIRTUAL_DISK_FLAG_PERMANENT_LIFETIME),
          ERROR_SUCCESS);
    char device[64] = "", read_back[12];
    device_path(handle, device, sizeof(device));
    CHECK(CloseHandle(handle), TRUE);

    int fd = open(device, O_RDONLY | O_CLOEXEC);
    CHECK(pread(fd, read_back, 12, 5 * MIB), 12);
    CHECK(memcmp(read_back, "written by C", 12), 0);
    CHECK(close(fd), 0);

    OPEN_VIRTUAL_DISK_PARAMETERS parameters;
    memset(&parameters, 0, sizeof(parameters));
    parameters.Version = OPEN_VIRTUAL_DISK_VERSION_2;
    parameters.Version2.ReadOnly = 7;
    CHECK(OpenVirtualDisk(&vhd, wide(image), VIRTUAL_DISK_ACCESS_NONE, OPEN_VIRTUAL_DISK_FLAG_NONE,
                          &parameters, &handle),
          ERROR_SUCCESS);
    CHECK(is_loaded(handle), TRUE);
    CHECK(DetachVirtualDisk(handle, DETACH_VIRTUAL_DISK_FLAG_NONE, 0), ERROR_SUCCESS);
    CHECK(is_loaded(handle), FALSE);
    CHECK(CloseHandle(handle), TRUE);
}

/* Without a device, the disk is a file (R-ATT-12). */
static void read_without_a_device(const char *image)
{
    HANDLE handle = NULL;
    CHECK(OpenVirtualDiskA(&vhd, image, VIRTUAL_DISK_ACCESS_ALL, OPEN_VIRTUAL_DISK_FLAG_NONE, NULL,
                           &handle),
          ERROR_SUCCESS);
    CHECK(AttachVirtualDiskA(handle, NULL, ATTACH_VIRTUAL_DISK_FLAG_NO_LOCAL_HOST, 0, NULL, NULL),
          ERROR_SUCCESS);
    int file = -1;
    char read_back[12];
    CHECK(GetVirtualDiskRawFile(handle, &file), ERROR_SUCCESS);
    CHECK(pread(file, read_back, 12, 5 * MIB), 12);
    CHECK(memcmp(read_back, "written by C", 12), 0);
    CHECK(close(file), 0);
    CHECK(DetachVirtualDisk(handle, DETACH_VIRTUAL_DISK_FLAG_NONE, 0), ERROR_SUCCESS);
    CHECK(GetVirtualDiskRawFile(handle, &file), ERROR_BAD_COMMAND);
    CHECK(CloseHandle(handle), TRUE);
}

/* A handle of version 1 has the rights of its mask (R-DET-2, R-INFO-1, R-ATT-4). */
static void rights(const char *image)
{
    HANDLE handle = NULL;
    CHECK(OpenVirtualDiskA(&vhd, image, VIRTUAL_DISK_ACCESS_GET_INFO, OPEN_VIRTUAL_DISK_FLAG_NONE,
                           NULL, &handle),
          ERROR_SUCCESS);
    CHECK(attach(handle, ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY), ERROR_ACCESS_DENIED);
    CHECK(DetachVirtualDisk(handle, DETACH_VIRTUAL_DISK_FLAG_NONE, 0), ERROR_ACCESS_DENIED);
    CHECK(CloseHandle(handle), TRUE);
    CHECK(OpenVirtualDiskA(&vhd, image, VIRTUAL_DISK_ACCESS_DETACH, OPEN_VIRTUAL_DISK_FLAG_NONE,
                           NULL, &handle),
          ERROR_SUCCESS);
    GET_VIRTUAL_DISK_INFO info;
    ULONG size;
    CHECK(ask(handle, GET_VIRTUAL_DISK_INFO_SIZE, 32, &info, &size), ERROR_ACCESS_DENIED);
    CHECK(CloseHandle(handle), TRUE);
}

int main(int count, char **arguments)
{
    if (count != 2)
        return 2;
    char image[4096];
    snprintf(image, sizeof(image), "%s/disk.vhd", arguments[1]);
    write_through_a_device(image);
    rights(image);
    detach_through_another_handle(image);
    read_without_a_device(image);
    return result();
}
