/*
 * A differencing disk through the service: made, asked, opened with and without its parents, given
 * its parents by hand, attached, read. Argument: an empty folder. Needs root and loop devices.
 */
#include "check.h"

#include <fcntl.h>
#include <unistd.h>

#define MIB (1024 * 1024)
#define ALONE OPEN_VIRTUAL_DISK_FLAG_NO_PARENTS
#define CUSTOM OPEN_VIRTUAL_DISK_FLAG_CUSTOM_DIFF_CHAIN

static const VIRTUAL_STORAGE_TYPE unknown = { VIRTUAL_STORAGE_TYPE_DEVICE_UNKNOWN,
                                              { 0, 0, 0, { 0, 0, 0, 0, 0, 0, 0, 0 } } };

/* A new disk; with a parent where there is one. */
static void create(const char *path, const char *parent)
{
    CREATE_VIRTUAL_DISK_PARAMETERS parameters;
    memset(&parameters, 0, sizeof(parameters));
    parameters.Version = CREATE_VIRTUAL_DISK_VERSION_2;
    parameters.Version2.MaximumSize = parent == NULL ? 8 * MIB : 0;
    parameters.Version2.ParentPath = parent == NULL ? NULL : wide(parent);
    HANDLE handle = NULL;
    CHECK(CreateVirtualDisk(&unknown, wide(path), VIRTUAL_DISK_ACCESS_NONE, NULL,
                            CREATE_VIRTUAL_DISK_FLAG_NONE, 0, &parameters, NULL, &handle),
          ERROR_SUCCESS);
    CHECK(CloseHandle(handle), TRUE);
}

/* A read-only handle of version 2; a handle that closes may still be in its way. */
static DWORD open_disk(const char *path, int flags, HANDLE *handle)
{
    OPEN_VIRTUAL_DISK_PARAMETERS parameters;
    memset(&parameters, 0, sizeof(parameters));
    parameters.Version = OPEN_VIRTUAL_DISK_VERSION_2;
    parameters.Version2.ReadOnly = TRUE;
    DWORD code = ERROR_SHARING_VIOLATION;
    for (int tries = 0; tries < 100 && code == ERROR_SHARING_VIOLATION; tries++) {
        code = OpenVirtualDisk(&unknown, wide(path), VIRTUAL_DISK_ACCESS_NONE,
                               (OPEN_VIRTUAL_DISK_FLAG)flags, &parameters, handle);
        if (code == ERROR_SHARING_VIOLATION)
            usleep(50 * 1000);
    }
    return code;
}

/* Bytes at 1 MiB of the attached disk. */
static void read_back(HANDLE handle, const char *wanted)
{
    CHECK(AttachVirtualDisk(handle, NULL, ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY, 0, NULL, NULL),
          ERROR_SUCCESS);
    char device[64] = "", bytes[16] = "";
    ULONG size = sizeof(device);
    CHECK(GetVirtualDiskPhysicalPathA(handle, &size, device), ERROR_SUCCESS);
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    CHECK(pread(fd, bytes, strlen(wanted), MIB), strlen(wanted));
    CHECK(strcmp(bytes, wanted), 0);
    CHECK(close(fd), 0);
    CHECK(DetachVirtualDisk(handle, DETACH_VIRTUAL_DISK_FLAG_NONE, 0), ERROR_SUCCESS);
}

static void write_to(const char *path, const char *text)
{
    HANDLE handle = NULL;
    CHECK(OpenVirtualDiskA(&unknown, path, VIRTUAL_DISK_ACCESS_ALL, OPEN_VIRTUAL_DISK_FLAG_NONE,
                           NULL, &handle),
          ERROR_SUCCESS);
    CHECK(AttachVirtualDisk(handle, NULL, ATTACH_VIRTUAL_DISK_FLAG_NONE, 0, NULL, NULL),
          ERROR_SUCCESS);
    char device[64] = "";
    ULONG size = sizeof(device);
    CHECK(GetVirtualDiskPhysicalPathA(handle, &size, device), ERROR_SUCCESS);
    int fd = open(device, O_RDWR | O_CLOEXEC);
    CHECK(pwrite(fd, text, strlen(text), MIB), strlen(text));
    CHECK(close(fd), 0);
    CHECK(DetachVirtualDisk(handle, DETACH_VIRTUAL_DISK_FLAG_NONE, 0), ERROR_SUCCESS);
    CHECK(CloseHandle(handle), TRUE);
}

/* R-INFO-6: the parent's path when it is open, what the disk says of it otherwise. */
static void location(HANDLE handle, BOOL resolved, const char *parent)
{
    char buffer[4096];
    GET_VIRTUAL_DISK_INFO *info = (GET_VIRTUAL_DISK_INFO *)buffer;
    ULONG size = sizeof(buffer), used = 0;
    memset(buffer, 0, sizeof(buffer));
    info->Version = GET_VIRTUAL_DISK_INFO_PARENT_LOCATION;
    CHECK(GetVirtualDiskInformation(handle, &size, info, &used), ERROR_SUCCESS);
    CHECK(info->ParentLocation.ParentResolved, resolved);
    if (resolved) {
        CHECK(memcmp(info->ParentLocation.ParentLocationBuffer, wide(parent),
                     2 * strlen(parent) + 2),
              0);
        CHECK(used, 12 + 2 * strlen(parent) + 2);
    } else {
        CHECK(info->ParentLocation.ParentLocationBuffer[0] != 0, TRUE);
    }
}

/* R-PAR-1, R-PAR-2 */
static void chain_by_hand(const char *child, const char *base, const char *other)
{
    HANDLE handle = NULL;
    CHECK(open_disk(child, OPEN_VIRTUAL_DISK_FLAG_NONE, &handle), ERROR_SUCCESS);
    CHECK(AddVirtualDiskParentA(handle, base), ERROR_INVALID_PARAMETER);
    CHECK(CloseHandle(handle), TRUE);
    CHECK(open_disk(child, CUSTOM, &handle), ERROR_SUCCESS);
    CHECK(AttachVirtualDisk(handle, NULL, ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY, 0, NULL, NULL),
          ERROR_VHD_INVALID_STATE);
    CHECK(AddVirtualDiskParentA(handle, "/no/such/file.vhd"), ERROR_PATH_NOT_FOUND);
    CHECK(AddVirtualDiskParentA(handle, other), ERROR_VHD_CHILD_PARENT_ID_MISMATCH);
    CHECK(AddVirtualDiskParent(handle, wide(base)), ERROR_SUCCESS);
    CHECK(AddVirtualDiskParentA(handle, base), ERROR_VHD_INVALID_STATE);
    read_back(handle, "base");
    CHECK(CloseHandle(handle), TRUE);
    CHECK(open_disk(base, CUSTOM, &handle), ERROR_SUCCESS);
    CHECK(AddVirtualDiskParentA(handle, other), ERROR_VHD_INVALID_TYPE);
    CHECK(CloseHandle(handle), TRUE);
}

int main(int count, char **arguments)
{
    if (count != 2)
        return 2;
    char base[4096], child[4096], other[4096], folder[4096];
    if (realpath(arguments[1], folder) == NULL)
        return 2;
    snprintf(base, sizeof(base), "%.4000s/base.vhd", folder);
    snprintf(other, sizeof(other), "%.4000s/other.vhd", folder);
    snprintf(child, sizeof(child), "%.4000s/child.vhd", folder);
    create(base, NULL);
    create(other, NULL);
    write_to(base, "base");
    create(child, base);

    HANDLE handle = NULL;
    CHECK(open_disk(child, OPEN_VIRTUAL_DISK_FLAG_NONE, &handle), ERROR_SUCCESS);
    location(handle, TRUE, base);
    read_back(handle, "base");
    CHECK(CloseHandle(handle), TRUE);
    CHECK(open_disk(child, ALONE, &handle), ERROR_SUCCESS);
    location(handle, FALSE, base);
    CHECK(AttachVirtualDisk(handle, NULL, ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY, 0, NULL, NULL),
          ERROR_VHD_INVALID_STATE);
    CHECK(CloseHandle(handle), TRUE);

    chain_by_hand(child, base, other);
    write_to(child, "child");
    CHECK(open_disk(child, OPEN_VIRTUAL_DISK_FLAG_NONE, &handle), ERROR_SUCCESS);
    read_back(handle, "child");
    CHECK(CloseHandle(handle), TRUE);
    CHECK(open_disk(base, OPEN_VIRTUAL_DISK_FLAG_NONE, &handle), ERROR_SUCCESS);
    read_back(handle, "base");
    CHECK(CloseHandle(handle), TRUE);
    return result();
}
