/* boot.h's numbers for the assembler; loader.c checks that they are the same. */
#ifndef LOADER_OFFSETS_H
#define LOADER_OFFSETS_H

#define LOADER_BOOT_OFF 0x4000
#define LOADER_REGION_SIZE 0xb6000
#define LOADER_BOOT_EXIT_GADGET 0x1d0
#define LOADER_SYS_MPROTECT 10
#define LOADER_SYS_MUNMAP 11
#define LOADER_SYS_CLONE 56
#define LOADER_SYS_EXIT 60

#endif
