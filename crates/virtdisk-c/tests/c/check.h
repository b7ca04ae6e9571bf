/*
 * Checks for the C programs of this folder: a failed one is printed with its line, and the
 * program's exit status says that there was one.
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <virtdisk.h>

static int failures;

/* The expression must have this value. */
#define CHECK(expression, wanted) check(#expression, __LINE__, (unsigned long long)(expression), \
                                        (unsigned long long)(wanted))

static inline void check(const char *text, int line, unsigned long long got,
                         unsigned long long wanted)
{
    if (got != wanted) {
        fprintf(stderr, "line %d: %s is %llu (0x%llX), not %llu (0x%llX)\n", line, text, got, got,
                wanted, wanted);
        failures++;
    }
}

/* A copy of these bytes whose end is the end of readable memory: one byte more is a fault. */
static inline void *at_the_edge(const void *bytes, size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t pages = (size + page - 1) / page * page;
    char *memory = (char *)mmap(NULL, pages + page, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + pages, page, PROT_NONE) != 0) {
        perror("mmap");
        exit(2);
    }
    return memcpy(memory + pages - size, bytes, size);
}

/* UTF-16 from ASCII, in one of four buffers taken in turn. */
static inline WCHAR *wide(const char *text)
{
    static WCHAR buffers[4][4096];
    static unsigned turn;
    WCHAR *buffer = buffers[turn++ % 4];
    size_t index = 0;
    do {
        buffer[index] = (WCHAR)(unsigned char)text[index];
    } while (text[index++] != '\0');
    return buffer;
}

/* A path in the folder that the program was given, in one of four buffers taken in turn. */
static inline const char *in_folder(const char *folder, const char *name)
{
    static char buffers[4][4096];
    static unsigned turn;
    char *buffer = buffers[turn++ % 4];
    snprintf(buffer, sizeof(buffers[0]), "%s/%s", folder, name);
    return buffer;
}

static inline int result(void)
{
    if (failures != 0)
        fprintf(stderr, "%d checks failed\n", failures);
    return failures == 0 ? 0 : 1;
}

#endif
