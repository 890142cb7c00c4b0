/* An address in the target: a number, never a pointer that could be followed. */
#ifndef MP_RADDR_H
#define MP_RADDR_H

#include <stdint.h>

typedef uint64_t raddr_t;

#endif
