/*
 * What is refused before any service is asked: NULL pointers, dead handles, wrong masks, flags and
 * versions, and what is read of a caller's struct. Argument: an empty folder. No service runs, and
 * none can be started.
 */
#include "check.h"

static const VIRTUAL_STORAGE_TYPE vhd = { VIRTUAL_STORAGE_TYPE_DEVICE_VHD,
                                          { 0xEC984AEC, 0xA0F9, 0x47E9,
                                            { 0x90, 0x1F, 0x71, 0x41, 0x5A, 0x66, 0x34, 0x5B } } };
static const VIRTUAL_STORAGE_TYPE unknown = { VIRTUAL_STORAGE_TYPE_DEVICE_UNKNOWN,
                                              { 0, 0, 0, { 0, 0, 0, 0, 0, 0, 0, 0 } } };

/* A value that no function may write over on failure. */
static HANDLE const untouched = (HANDLE)(uintptr_t)0x5A5A5A5A;

static DWORD open_mask(const char *path, unsigned mask, unsigned flags)
{
    HANDLE handle = untouched;
    DWORD code = OpenVirtualDisk(&vhd, wide(path), (VIRTUAL_DISK_ACCESS_MASK)mask,
                                 (OPEN_VIRTUAL_DISK_FLAG)flags, NULL, &handle);
    CHECK((uintptr_t)handle, (uintptr_t)untouched);
    HANDLE handle_a = untouched;
    CHECK(OpenVirtualDiskA(&vhd, path, (VIRTUAL_DISK_ACCESS_MASK)mask,
                           (OPEN_VIRTUAL_DISK_FLAG)flags, NULL, &handle_a),
          code);
    CHECK((uintptr_t)handle_a, (uintptr_t)untouched);
    return code;
}

static DWORD open_version(const char *path, unsigned mask, unsigned version, size_t size)
{
    OPEN_VIRTUAL_DISK_PARAMETERS parameters;
    memset(&parameters, 0xCC, sizeof(parameters));
    parameters.Version = (OPEN_VIRTUAL_DISK_VERSION)version;
    if (version == 3)
        memset(&parameters.Version3.SnapshotId, 0, sizeof(GUID));
    void *edge = at_the_edge(&parameters, size);
    HANDLE handle = untouched;
    DWORD code = OpenVirtualDisk(&vhd, wide(path), (VIRTUAL_DISK_ACCESS_MASK)mask,
                                 OPEN_VIRTUAL_DISK_FLAG_NONE,
                                 (const OPEN_VIRTUAL_DISK_PARAMETERS *)edge, &handle);
    CHECK((uintptr_t)handle, (uintptr_t)untouched);
    return code;
}

/* R-OPEN-1 to R-OPEN-8, R-OPEN-26, R-HND-2, R-HND-7 */
static void open_arguments(const char *missing)
{
    HANDLE handle = untouched;
    CHECK(OpenVirtualDisk(NULL, wide(missing), VIRTUAL_DISK_ACCESS_NONE,
                          OPEN_VIRTUAL_DISK_FLAG_NONE, NULL, &handle),
          ERROR_INVALID_PARAMETER);
    CHECK(OpenVirtualDisk(&vhd, NULL, VIRTUAL_DISK_ACCESS_NONE, OPEN_VIRTUAL_DISK_FLAG_NONE, NULL,
                          &handle),
          ERROR_INVALID_PARAMETER);
    CHECK(OpenVirtualDiskA(&vhd, NULL, VIRTUAL_DISK_ACCESS_NONE, OPEN_VIRTUAL_DISK_FLAG_NONE, NULL,
                           &handle),
          ERROR_INVALID_PARAMETER);
    CHECK(OpenVirtualDisk(&vhd, wide(missing), VIRTUAL_DISK_ACCESS_NONE,
                          OPEN_VIRTUAL_DISK_FLAG_NONE, NULL, NULL),
          ERROR_INVALID_PARAMETER);
    CHECK((uintptr_t)handle, (uintptr_t)untouched);

    CHECK(open_mask(missing, 0x00FFFFFF, 0), ERROR_INVALID_PARAMETER);
    CHECK(open_mask(missing, VIRTUAL_DISK_ACCESS_READ, 0x1000), ERROR_INVALID_PARAMETER);
    CHECK(open_mask(missing, VIRTUAL_DISK_ACCESS_NONE, 0), ERROR_FILE_NOT_FOUND);
    CHECK(open_mask(missing, VIRTUAL_DISK_ACCESS_ALL, 0), ERROR_FILE_NOT_FOUND);
    CHECK(open_mask("C:\\disk.vhd", VIRTUAL_DISK_ACCESS_READ, 0), ERROR_INVALID_NAME);
    CHECK(open_mask("", VIRTUAL_DISK_ACCESS_READ, 0), ERROR_INVALID_PARAMETER);

    CHECK(open_version(missing, VIRTUAL_DISK_ACCESS_NONE, 0, 4), ERROR_INVALID_PARAMETER);
    CHECK(open_version(missing, VIRTUAL_DISK_ACCESS_NONE, 4, 4), ERROR_INVALID_PARAMETER);
    CHECK(open_version(missing, VIRTUAL_DISK_ACCESS_NONE, 1, 8), ERROR_FILE_NOT_FOUND);
    CHECK(open_version(missing, VIRTUAL_DISK_ACCESS_NONE, 2, 28), ERROR_FILE_NOT_FOUND);
    CHECK(open_version(missing, VIRTUAL_DISK_ACCESS_NONE, 3, 44), ERROR_FILE_NOT_FOUND);
    CHECK(open_version(missing, VIRTUAL_DISK_ACCESS_GET_INFO, 2, 28), ERROR_INVALID_PARAMETER);
    CHECK(open_version(missing, VIRTUAL_DISK_ACCESS_GET_INFO, 3, 44), ERROR_INVALID_PARAMETER);
}

static void open_paths(const char *folder)
{
    static const WCHAR lone_surrogate[] = { '/', 0xD800, 'x', 0 };
    HANDLE handle = untouched;
    CHECK(OpenVirtualDisk(&vhd, lone_surrogate, VIRTUAL_DISK_ACCESS_READ,
                          OPEN_VIRTUAL_DISK_FLAG_NONE, NULL, &handle),
          ERROR_INVALID_NAME);
    CHECK(open_mask(folder, VIRTUAL_DISK_ACCESS_READ, 0), ERROR_ACCESS_DENIED);
    CHECK(open_mask("/dev/null", VIRTUAL_DISK_ACCESS_READ, 0), ERROR_VIRTDISK_NOT_VIRTUAL_DISK);
    CHECK(open_mask(in_folder(folder, "no/a.vhd"), VIRTUAL_DISK_ACCESS_READ, 0),
          ERROR_PATH_NOT_FOUND);

    /* A path that ends where readable memory ends, at an odd address. */
    const char *missing = in_folder(folder, "missing.vhd");
    const char *edge = (const char *)at_the_edge(missing, strlen(missing) + 1);
    CHECK(OpenVirtualDiskA(&vhd, edge, VIRTUAL_DISK_ACCESS_READ, OPEN_VIRTUAL_DISK_FLAG_NONE, NULL,
                           &handle),
          ERROR_FILE_NOT_FOUND);
    const WCHAR *text = wide(missing);
    const void *wide_edge = at_the_edge(text, (strlen(missing) + 1) * sizeof(WCHAR));
    CHECK(OpenVirtualDisk(&vhd, (PCWSTR)wide_edge, VIRTUAL_DISK_ACCESS_READ,
                          OPEN_VIRTUAL_DISK_FLAG_NONE, NULL, &handle),
          ERROR_FILE_NOT_FOUND);

    /* The image is there, the service is not. */
    const char *image = in_folder(folder, "image.vhd");
    fclose(fopen(image, "w"));
    CHECK(open_mask(image, VIRTUAL_DISK_ACCESS_READ, 0), ERROR_SERVICE_NOT_ACTIVE);
    CHECK(remove(image), 0);
}

static DWORD create_with(const char *path, const CREATE_VIRTUAL_DISK_PARAMETERS *parameters,
                         size_t size)
{
    HANDLE handle = untouched;
    const void *edge = at_the_edge(parameters, size);
    DWORD code = CreateVirtualDisk(&vhd, wide(path), VIRTUAL_DISK_ACCESS_NONE, NULL,
                                   CREATE_VIRTUAL_DISK_FLAG_NONE, 0,
                                   (const CREATE_VIRTUAL_DISK_PARAMETERS *)edge, NULL, &handle);
    CHECK((uintptr_t)handle, (uintptr_t)untouched);
    CHECK(access(path, F_OK), -1);
    return code;
}

/* R-CRE-1, R-CRE-2, R-CRE-4, R-CRE-9, R-CRE-19, R-HND-7 */
static void create_arguments(const char *path)
{
    static const size_t sizes[] = { 4, 56, 128, 160, 184, 4 };
    CREATE_VIRTUAL_DISK_PARAMETERS parameters;
    for (unsigned version = 0; version <= 5; version++) {
        memset(&parameters, 0, sizeof(parameters));
        parameters.Version = (CREATE_VIRTUAL_DISK_VERSION)version;
        parameters.Version1.MaximumSize = 3 * 1024 * 1024 - 512;
        CHECK(create_with(path, &parameters, sizes[version]), ERROR_INVALID_PARAMETER);
        parameters.Version1.MaximumSize = 3 * 1024 * 1024;
        DWORD known = version >= 1 && version <= 4;
        CHECK(create_with(path, &parameters, sizes[version]),
              known ? ERROR_SERVICE_NOT_ACTIVE : ERROR_INVALID_PARAMETER);
    }

    parameters.Version = CREATE_VIRTUAL_DISK_VERSION_4;
    parameters.Version4.DataAlignment = 4096;
    CHECK(create_with(path, &parameters, 184), ERROR_NOT_SUPPORTED);
    parameters.Version4.DataAlignment = 0;
    parameters.Version4.PmemAddressAbstractionType.Data1 = 1;
    CHECK(create_with(path, &parameters, 184), ERROR_NOT_SUPPORTED);
    parameters.Version = CREATE_VIRTUAL_DISK_VERSION_3;
    parameters.Version3.SourceLimitPath = wide("/x.vhd");
    CHECK(create_with(path, &parameters, 160), ERROR_NOT_SUPPORTED);
    parameters.Version = CREATE_VIRTUAL_DISK_VERSION_2;
    parameters.Version2.ParentPath = wide("parent.vhd");
    parameters.Version2.MaximumSize = 0;
    CHECK(create_with(path, &parameters, 128), ERROR_INVALID_PARAMETER);
    parameters.Version2.ParentPath = wide("/no/such/parent.vhd");
    CHECK(create_with(path, &parameters, 128), ERROR_PATH_NOT_FOUND);
    static const WCHAR empty[] = { 0 };
    parameters.Version2.ParentPath = empty;
    parameters.Version2.MaximumSize = 4 * 1024 * 1024;

    unsigned char descriptor[40] = { 1 };
    OVERLAPPED overlapped;
    memset(&overlapped, 0, sizeof(overlapped));
    HANDLE handle = untouched;
#define CREATE(type, path, mask, descriptor, parameters, overlapped, handle) \
    CreateVirtualDisk(type, path, (VIRTUAL_DISK_ACCESS_MASK)(mask), descriptor, \
                      CREATE_VIRTUAL_DISK_FLAG_NONE, 0, parameters, overlapped, handle)
    CHECK(CREATE(NULL, wide(path), 0, NULL, &parameters, NULL, &handle), ERROR_INVALID_PARAMETER);
    CHECK(CREATE(&vhd, NULL, 0, NULL, &parameters, NULL, &handle), ERROR_INVALID_PARAMETER);
    CHECK(CREATE(&vhd, wide(path), 0, NULL, NULL, NULL, &handle), ERROR_INVALID_PARAMETER);
    CHECK(CREATE(&vhd, wide(path), 0, NULL, &parameters, NULL, NULL), ERROR_INVALID_PARAMETER);
    CHECK(CREATE(&vhd, wide(path), VIRTUAL_DISK_ACCESS_CREATE, NULL, &parameters, NULL, &handle),
          ERROR_INVALID_PARAMETER);
    CHECK(CREATE(&vhd, wide(path), 0, NULL, &parameters, &overlapped, &handle),
          ERROR_NOT_SUPPORTED);
    CHECK(CREATE(&vhd, wide(path), 0, descriptor, &parameters, NULL, &handle),
          ERROR_SERVICE_NOT_ACTIVE);
    descriptor[2] = 4;
    CHECK(CREATE(&vhd, wide(path), 0, descriptor, &parameters, NULL, &handle),
          ERROR_NOT_SUPPORTED);
    CHECK(CREATE(&unknown, wide("/no/extension"), 0, NULL, &parameters, NULL, &handle),
          ERROR_VIRTDISK_PROVIDER_NOT_FOUND);
    CHECK((uintptr_t)handle, (uintptr_t)untouched);
    CHECK(access(path, F_OK), -1);
}

static void create_arguments_a(const char *path)
{
    CREATE_VIRTUAL_DISK_PARAMETERSA parameters;
    memset(&parameters, 0, sizeof(parameters));
    parameters.Version = CREATE_VIRTUAL_DISK_VERSION_1;
    parameters.Version1.MaximumSize = 4 * 1024 * 1024;
    HANDLE handle = untouched;
#define CREATE_A(descriptor) \
    CreateVirtualDiskA(&vhd, path, VIRTUAL_DISK_ACCESS_ALL, descriptor, \
                       CREATE_VIRTUAL_DISK_FLAG_FULL_PHYSICAL_ALLOCATION, 0, &parameters, NULL, \
                       &handle)
    CHECK(CREATE_A(NULL), ERROR_SERVICE_NOT_ACTIVE);
    CHECK(CREATE_A(""), ERROR_SERVICE_NOT_ACTIVE);
    CHECK(CREATE_A("D:P(A;;GA;;;WD)"), ERROR_NOT_SUPPORTED);
    parameters.Version1.ParentPath = "parent.vhd";
    CHECK(CREATE_A(NULL), ERROR_INVALID_PARAMETER);
    CHECK((uintptr_t)handle, (uintptr_t)untouched);
}

/* R-HND-5, R-ATT-1, R-DET-7 */
static void dead_handles(void)
{
    HANDLE const dead[] = { NULL, INVALID_HANDLE_VALUE, (HANDLE)(uintptr_t)3, untouched,
                            (HANDLE)(uintptr_t)&failures };
    for (size_t index = 0; index < sizeof(dead) / sizeof(dead[0]); index++) {
        HANDLE handle = dead[index];
        ULONG size = 64;
        WCHAR path[32];
        char path_a[64];
        GET_VIRTUAL_DISK_INFO info;
        int file = -1;
        info.Version = GET_VIRTUAL_DISK_INFO_SIZE;
        CHECK(AttachVirtualDisk(handle, NULL, ATTACH_VIRTUAL_DISK_FLAG_NONE, 0, NULL, NULL),
              ERROR_INVALID_PARAMETER);
        CHECK(AttachVirtualDiskA(handle, NULL, ATTACH_VIRTUAL_DISK_FLAG_NONE, 0, NULL, NULL),
              ERROR_INVALID_PARAMETER);
        CHECK(DetachVirtualDisk(handle, DETACH_VIRTUAL_DISK_FLAG_NONE, 0),
              ERROR_INVALID_PARAMETER);
        CHECK(GetVirtualDiskPhysicalPath(handle, &size, path), ERROR_INVALID_PARAMETER);
        CHECK(GetVirtualDiskPhysicalPathA(handle, &size, path_a), ERROR_INVALID_PARAMETER);
        CHECK(GetVirtualDiskInformation(handle, &size, &info, NULL), ERROR_INVALID_PARAMETER);
        CHECK(GetVirtualDiskRawFile(handle, &file), ERROR_INVALID_PARAMETER);
        CHECK(AddVirtualDiskParent(handle, wide("/parent.vhd")), ERROR_INVALID_PARAMETER);
        CHECK(AddVirtualDiskParentA(handle, "/parent.vhd"), ERROR_INVALID_PARAMETER);
        CHECK(AddVirtualDiskParent(handle, NULL), ERROR_INVALID_PARAMETER);
        CHECK(size, 64);
        CHECK(file, -1);
    }
    CHECK(CloseHandle(NULL), TRUE);
    CHECK(CloseHandle(INVALID_HANDLE_VALUE), TRUE);
    CHECK(CloseHandle(untouched), FALSE);
    CHECK(GetAllAttachedVirtualDiskPhysicalPaths(NULL, NULL), ERROR_INVALID_PARAMETER);
    CHECK(GetAllAttachedVirtualDiskPhysicalPathsA(NULL, NULL), ERROR_INVALID_PARAMETER);
}

int main(int count, char **arguments)
{
    if (count != 2)
        return 2;
    const char *folder = arguments[1];
    char missing[4096];
    snprintf(missing, sizeof(missing), "%s/missing.vhd", folder);
    open_arguments(missing);
    open_paths(folder);
    create_arguments(missing);
    create_arguments_a(missing);
    dead_handles();
    return result();
}
