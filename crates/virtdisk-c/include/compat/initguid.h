/*
 * Source written for Windows includes this to get GUID constants defined. virtdisk.h always
 * defines those it names.
 */
#ifndef VIRTDISK_COMPAT_INITGUID_H
#define VIRTDISK_COMPAT_INITGUID_H
#endif
