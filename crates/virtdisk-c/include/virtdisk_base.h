/*
 * Windows base types in the widths of 64-bit Linux, and error codes. Included by virtdisk.h.
 *
 * A program that has them from elsewhere defines VIRTDISK_NO_WINDOWS_TYPES or
 * VIRTDISK_NO_ERROR_CODES first; the headers of Wine and MinGW are recognised.
 *
 * WCHAR is a 16-bit UTF-16 code unit: write u"..." for it. With the compiler option -fshort-wchar
 * it is wchar_t, and L"..." fits, so that source written for Windows compiles unchanged.
 */
#ifndef VIRTDISK_BASE_H
#define VIRTDISK_BASE_H

#ifdef _WIN32
#error "On Windows, use the virtdisk.h of the Windows SDK."
#endif

#include <stddef.h>
#include <stdint.h>
#ifndef __cplusplus
#include <uchar.h>
#endif

#if !defined(VIRTDISK_NO_WINDOWS_TYPES) && !defined(_WINDEF_) && !defined(_WINDEF_H) && \
    !defined(__WINE_WINDEF_H)

typedef uint32_t DWORD;
typedef uint32_t ULONG;
typedef uint64_t ULONGLONG;
typedef uint64_t ULONG64;
typedef uintptr_t ULONG_PTR;
typedef uint8_t UCHAR;
typedef int32_t BOOL;
typedef char CHAR;
#if defined(__SIZEOF_WCHAR_T__) && __SIZEOF_WCHAR_T__ == 2
typedef wchar_t WCHAR;
#else
typedef char16_t WCHAR;
#endif
typedef void VOID;
typedef void *PVOID;
typedef void *HANDLE;
typedef HANDLE *PHANDLE;
typedef ULONG *PULONG;
typedef const CHAR *PCSTR;
typedef CHAR *PSTR;
typedef const WCHAR *PCWSTR;
typedef const WCHAR *LPCWSTR;
typedef WCHAR *PWSTR;
typedef WCHAR *LPWSTR;
typedef void *PSECURITY_DESCRIPTOR;

typedef struct _GUID {
    uint32_t Data1;
    uint16_t Data2;
    uint16_t Data3;
    uint8_t Data4[8];
} GUID;

/* 32 bytes. */
typedef struct _OVERLAPPED {
    ULONG_PTR Internal;
    ULONG_PTR InternalHigh;
    union {
        struct {
            DWORD Offset;
            DWORD OffsetHigh;
        };
        PVOID Pointer;
    };
    HANDLE hEvent;
} OVERLAPPED, *LPOVERLAPPED;

#endif /* VIRTDISK_NO_WINDOWS_TYPES */

#ifndef WINAPI
#define WINAPI
#endif
#ifndef TRUE
#define TRUE 1
#endif
#ifndef FALSE
#define FALSE 0
#endif
#ifndef INVALID_HANDLE_VALUE
#define INVALID_HANDLE_VALUE ((HANDLE)(intptr_t)-1)
#endif

/* A GUID constant that every file which includes this header has for itself. */
#define VIRTDISK_GUID(name, a, b, c, d0, d1, d2, d3, d4, d5, d6, d7) \
    static const GUID name __attribute__((unused)) = { \
        a, b, c, { d0, d1, d2, d3, d4, d5, d6, d7 } \
    }

/* Flags of one enumeration stay of that type when they are combined in C++. */
#ifdef __cplusplus
#define VIRTDISK_FLAGS(type) \
    extern "C++" { \
    inline type operator|(type a, type b) { return (type)((uint32_t)a | (uint32_t)b); } \
    inline type operator&(type a, type b) { return (type)((uint32_t)a & (uint32_t)b); } \
    inline type operator^(type a, type b) { return (type)((uint32_t)a ^ (uint32_t)b); } \
    inline type operator~(type a) { return (type)~(uint32_t)a; } \
    inline type &operator|=(type &a, type b) { return a = a | b; } \
    inline type &operator&=(type &a, type b) { return a = a & b; } \
    inline type &operator^=(type &a, type b) { return a = a ^ b; } \
    }
#else
#define VIRTDISK_FLAGS(type)
#endif

#if !defined(VIRTDISK_NO_ERROR_CODES) && !defined(_WINERROR_) && !defined(__WINE_WINERROR_H)

#define ERROR_SUCCESS 0
#define ERROR_FILE_NOT_FOUND 2
#define ERROR_PATH_NOT_FOUND 3
#define ERROR_TOO_MANY_OPEN_FILES 4
#define ERROR_ACCESS_DENIED 5
#define ERROR_INVALID_HANDLE 6
#define ERROR_NOT_ENOUGH_MEMORY 8
#define ERROR_INVALID_DATA 13
#define ERROR_OUTOFMEMORY 14
#define ERROR_WRITE_PROTECT 19
#define ERROR_NOT_READY 21
#define ERROR_BAD_COMMAND 22
#define ERROR_GEN_FAILURE 31
#define ERROR_SHARING_VIOLATION 32
#define ERROR_LOCK_VIOLATION 33
#define ERROR_HANDLE_EOF 38
#define ERROR_NOT_SUPPORTED 50
#define ERROR_DEV_NOT_EXIST 55
#define ERROR_FILE_EXISTS 80
#define ERROR_INVALID_PARAMETER 87
#define ERROR_BROKEN_PIPE 109
#define ERROR_DISK_FULL 112
#define ERROR_CALL_NOT_IMPLEMENTED 120
#define ERROR_INSUFFICIENT_BUFFER 122
#define ERROR_INVALID_NAME 123
#define ERROR_INVALID_LEVEL 124
#define ERROR_BUSY 170
#define ERROR_ALREADY_EXISTS 183
#define ERROR_FILE_TOO_LARGE 223
#define ERROR_MORE_DATA 234
#define ERROR_UNSUPPORTED_COMPRESSION 618
#define ERROR_FILE_SYSTEM_LIMITATION 665
#define ERROR_OPERATION_ABORTED 995
#define ERROR_IO_INCOMPLETE 996
#define ERROR_IO_PENDING 997
#define ERROR_SERVICE_DOES_NOT_EXIST 1060
#define ERROR_SERVICE_NOT_ACTIVE 1062
#define ERROR_IO_DEVICE 1117
#define ERROR_NOT_FOUND 1168
#define ERROR_CANCELLED 1223
#define ERROR_PRIVILEGE_NOT_HELD 1314
#define ERROR_FILE_CORRUPT 1392
#define ERROR_CANT_RESOLVE_FILENAME 1921
#define ERROR_FILE_ENCRYPTED 6002
#define ERROR_QUERY_STORAGE_ERROR ((DWORD)0x803A0001)
#define ERROR_VHD_DRIVE_FOOTER_MISSING ((DWORD)0xC03A0001)
#define ERROR_VHD_DRIVE_FOOTER_CHECKSUM_MISMATCH ((DWORD)0xC03A0002)
#define ERROR_VHD_DRIVE_FOOTER_CORRUPT ((DWORD)0xC03A0003)
#define ERROR_VHD_FORMAT_UNKNOWN ((DWORD)0xC03A0004)
#define ERROR_VHD_FORMAT_UNSUPPORTED_VERSION ((DWORD)0xC03A0005)
#define ERROR_VHD_SPARSE_HEADER_CHECKSUM_MISMATCH ((DWORD)0xC03A0006)
#define ERROR_VHD_SPARSE_HEADER_UNSUPPORTED_VERSION ((DWORD)0xC03A0007)
#define ERROR_VHD_SPARSE_HEADER_CORRUPT ((DWORD)0xC03A0008)
#define ERROR_VHD_BLOCK_ALLOCATION_FAILURE ((DWORD)0xC03A0009)
#define ERROR_VHD_BLOCK_ALLOCATION_TABLE_CORRUPT ((DWORD)0xC03A000A)
#define ERROR_VHD_INVALID_BLOCK_SIZE ((DWORD)0xC03A000B)
#define ERROR_VHD_BITMAP_MISMATCH ((DWORD)0xC03A000C)
#define ERROR_VHD_PARENT_VHD_NOT_FOUND ((DWORD)0xC03A000D)
#define ERROR_VHD_CHILD_PARENT_ID_MISMATCH ((DWORD)0xC03A000E)
#define ERROR_VHD_CHILD_PARENT_TIMESTAMP_MISMATCH ((DWORD)0xC03A000F)
#define ERROR_VHD_METADATA_READ_FAILURE ((DWORD)0xC03A0010)
#define ERROR_VHD_METADATA_WRITE_FAILURE ((DWORD)0xC03A0011)
#define ERROR_VHD_INVALID_SIZE ((DWORD)0xC03A0012)
#define ERROR_VHD_INVALID_FILE_SIZE ((DWORD)0xC03A0013)
#define ERROR_VIRTDISK_PROVIDER_NOT_FOUND ((DWORD)0xC03A0014)
#define ERROR_VIRTDISK_NOT_VIRTUAL_DISK ((DWORD)0xC03A0015)
#define ERROR_VHD_PARENT_VHD_ACCESS_DENIED ((DWORD)0xC03A0016)
#define ERROR_VHD_CHILD_PARENT_SIZE_MISMATCH ((DWORD)0xC03A0017)
#define ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED ((DWORD)0xC03A0018)
#define ERROR_VHD_DIFFERENCING_CHAIN_ERROR_IN_PARENT ((DWORD)0xC03A0019)
#define ERROR_VIRTUAL_DISK_LIMITATION ((DWORD)0xC03A001A)
#define ERROR_VHD_INVALID_TYPE ((DWORD)0xC03A001B)
#define ERROR_VHD_INVALID_STATE ((DWORD)0xC03A001C)
#define ERROR_VIRTDISK_UNSUPPORTED_DISK_SECTOR_SIZE ((DWORD)0xC03A001D)
#define ERROR_VIRTDISK_DISK_ALREADY_OWNED ((DWORD)0xC03A001E)
#define ERROR_VIRTDISK_DISK_ONLINE_AND_WRITABLE ((DWORD)0xC03A001F)
#define ERROR_CTLOG_TRACKING_NOT_INITIALIZED ((DWORD)0xC03A0020)
#define ERROR_CTLOG_LOGFILE_SIZE_EXCEEDED_MAXSIZE ((DWORD)0xC03A0021)
#define ERROR_CTLOG_VHD_CHANGED_OFFLINE ((DWORD)0xC03A0022)
#define ERROR_CTLOG_INVALID_TRACKING_STATE ((DWORD)0xC03A0023)
#define ERROR_CTLOG_INCONSISTENT_TRACKING_FILE ((DWORD)0xC03A0024)
#define ERROR_VHD_RESIZE_WOULD_TRUNCATE_DATA ((DWORD)0xC03A0025)
#define ERROR_VHD_COULD_NOT_COMPUTE_MINIMUM_VIRTUAL_SIZE ((DWORD)0xC03A0026)
#define ERROR_VHD_ALREADY_AT_OR_BELOW_MINIMUM_VIRTUAL_SIZE ((DWORD)0xC03A0027)
#define ERROR_VHD_METADATA_FULL ((DWORD)0xC03A0028)
#define ERROR_VHD_INVALID_CHANGE_TRACKING_ID ((DWORD)0xC03A0029)
#define ERROR_VHD_CHANGE_TRACKING_DISABLED ((DWORD)0xC03A002A)
#define ERROR_VHD_MISSING_CHANGE_TRACKING_INFORMATION ((DWORD)0xC03A0030)
#define ERROR_VHD_UNEXPECTED_ID ((DWORD)0xC03A0034)

#endif /* VIRTDISK_NO_ERROR_CODES */

#endif /* VIRTDISK_BASE_H */
