/*
 * Source as it is written for Windows, unchanged: its includes, its L"..." text, its style of
 * calls. Argument: an empty folder. No service runs.
 */
#include <windows.h>
#include <initguid.h>
#include <virtdisk.h>

DWORD OpenDisk(_In_ PCWSTR VirtualDiskPath, _In_ BOOL ReadOnly, _Out_ HANDLE *Handle)
{
    VIRTUAL_STORAGE_TYPE storageType;
    OPEN_VIRTUAL_DISK_PARAMETERS openParameters;
    VIRTUAL_DISK_ACCESS_MASK accessMask;

    storageType.DeviceId = VIRTUAL_STORAGE_TYPE_DEVICE_UNKNOWN;
    storageType.VendorId = VIRTUAL_STORAGE_TYPE_VENDOR_UNKNOWN;

    ZeroMemory(&openParameters, sizeof(openParameters));
    openParameters.Version = OPEN_VIRTUAL_DISK_VERSION_2;
    openParameters.Version2.GetInfoOnly = FALSE;
    openParameters.Version2.ReadOnly = ReadOnly;
    accessMask = VIRTUAL_DISK_ACCESS_NONE;

    return OpenVirtualDisk(&storageType, VirtualDiskPath, accessMask, OPEN_VIRTUAL_DISK_FLAG_NONE,
                           &openParameters, Handle);
}

DWORD CreateDisk(_In_ LPCWSTR VirtualDiskPath, _In_ ULONGLONG FileSize, _Out_ HANDLE *Handle)
{
    VIRTUAL_STORAGE_TYPE storageType = { VIRTUAL_STORAGE_TYPE_DEVICE_VHD,
                                         VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT };
    CREATE_VIRTUAL_DISK_PARAMETERS parameters = { CREATE_VIRTUAL_DISK_VERSION_1, {} };

    parameters.Version1.MaximumSize = FileSize;
    parameters.Version1.BlockSizeInBytes = CREATE_VIRTUAL_DISK_PARAMETERS_DEFAULT_BLOCK_SIZE;
    parameters.Version1.SectorSizeInBytes = CREATE_VIRTUAL_DISK_PARAMETERS_DEFAULT_SECTOR_SIZE;
    parameters.Version1.SourcePath = NULL;
    parameters.Version1.ParentPath = NULL;

    return CreateVirtualDisk(&storageType, VirtualDiskPath,
                             VIRTUAL_DISK_ACCESS_ATTACH_RO | VIRTUAL_DISK_ACCESS_GET_INFO |
                                 VIRTUAL_DISK_ACCESS_DETACH,
                             NULL, CREATE_VIRTUAL_DISK_FLAG_FULL_PHYSICAL_ALLOCATION, 0,
                             &parameters, NULL, Handle);
}

int main(void)
{
    HANDLE vhdHandle = INVALID_HANDLE_VALUE;
    DWORD opStatus = OpenDisk(L"/no-such-file.vhd", TRUE, &vhdHandle);
    if (opStatus != ERROR_FILE_NOT_FOUND)
        return 1;
    opStatus = OpenDisk(L"C:\\no-such-file.vhd", TRUE, &vhdHandle);
    if (opStatus != ERROR_INVALID_NAME)
        return 2;
    opStatus = CreateDisk(L"/no-such-folder/disk.vhd", 3 * 1024 * 1024 - 512, &vhdHandle);
    if (opStatus != ERROR_INVALID_PARAMETER)
        return 3;
    opStatus = SurfaceVirtualDisk(vhdHandle, NULL,
                                  ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY |
                                      ATTACH_VIRTUAL_DISK_FLAG_NO_DRIVE_LETTER,
                                  0, NULL, NULL);
    if (opStatus != ERROR_INVALID_PARAMETER)
        return 4;
    if (vhdHandle != INVALID_HANDLE_VALUE)
        return 5;
    return CloseHandle(vhdHandle) ? 0 : 6;
}
