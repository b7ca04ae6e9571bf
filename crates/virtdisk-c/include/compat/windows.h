/*
 * What source written for Windows expects of windows.h, as far as the Virtual Disk API needs it.
 *
 * Compile such source with -fshort-wchar, so that L"..." is UTF-16, and with this folder in the
 * include path. The C library's own functions for wchar_t (wprintf, wcslen, ...) don't work on
 * such text.
 */
#ifndef VIRTDISK_COMPAT_WINDOWS_H
#define VIRTDISK_COMPAT_WINDOWS_H

#include <string.h>

#include "../virtdisk_base.h"

typedef int32_t INT;
typedef int32_t LONG;
typedef int64_t LONGLONG;
typedef uint32_t UINT;
typedef uint32_t UINT32;
typedef uint64_t UINT64;
typedef uint16_t USHORT;
typedef uint16_t WORD;
typedef uint8_t BYTE;
typedef size_t SIZE_T;
typedef DWORD *LPDWORD;
typedef void *LPVOID;
typedef const void *LPCVOID;
typedef const CHAR *LPCSTR;
typedef CHAR *LPSTR;

#define CONST const
#define __cdecl
#define __stdcall
#define CALLBACK
#define APIENTRY WINAPI

#define ZeroMemory(destination, length) memset((destination), 0, (length))
#define CopyMemory(destination, source, length) memcpy((destination), (source), (length))
#define IsEqualGUID(one, other) (memcmp((one), (other), sizeof(GUID)) == 0)
#define UNREFERENCED_PARAMETER(parameter) ((void)(parameter))

/* The annotations of the SDK's headers say nothing to the compiler. */
#define _In_
#define _In_opt_
#define _In_z_
#define _Inout_
#define _Inout_opt_
#define _Out_
#define _Out_opt_
#define _Outptr_

#endif /* VIRTDISK_COMPAT_WINDOWS_H */
