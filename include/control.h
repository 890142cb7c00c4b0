/* The control block: the agent's account of itself, in the agent's own data
 * segment, for processes that hold no end of its socket. `status` and `detach`
 * find the mapping of MP_AGENT_NAME in /proc/PID/maps, find MP_CONTROL_MAGIC at
 * a multiple of 64 bytes in its writable part, and read the block with
 * process_vm_readv. The words that others may write are detach_request,
 * detach_ack and interval_was. */
#ifndef MP_CONTROL_H
#define MP_CONTROL_H

#include <stddef.h>
#include <stdint.h>

#include "boot.h"
#include "limits.h"
#include "options.h"
#include "wire.h"

#define MP_AGENT_NAME "mempulse-agent" /* memfd name: "/memfd:mempulse-agent (deleted)" in maps */
#define MP_ANON_NAME "mempulse"        /* PR_SET_VMA_ANON_NAME of our anonymous mappings (5.17+) */
#define MP_THUNK_NAME "mempulse-thunk"

#define MP_HURRY_US 100u /* the switch interval (CPython's default: 5000 us) while the agent is helped to the GIL */
#define MP_INTERVAL_MAX_US 100000000u /* a word that says more is taken for none */

#define MP_CONTROL_MAGIC 0x4c52544e4f43504dull /* "MPCONTRL" */

enum mp_state {
    MP_STATE_NEW = 0,
    MP_STATE_HOOKING = 1, /* waits for the GIL to install */
    MP_STATE_HOOKED = 2,
    MP_STATE_UNHOOKING = 3, /* hooks are inert; waits for the GIL to uninstall */
    MP_STATE_GONE = 4,      /* nothing of ours is reachable from the interpreter */
    MP_STATE_RESIDUE = 5    /* as GONE, but something named in residue stays mapped */
};

/* CPython 3.6 makes its GIL when it starts its first thread. In a process that never did, the
 * agent has it made while the one thread that runs Python is held still by the launcher
 * (src/inject/standstill.c, payload/agent/gil.c). Who writes which: A agent, L launcher. */
enum mp_standstill {
    MP_STANDSTILL_NONE = 0,
    MP_STANDSTILL_ASKED = 1,   /* A: hold it; or: not there, once more */
    MP_STANDSTILL_COMING = 2,  /* L: be quick */
    MP_STANDSTILL_RUNNING = 3, /* L: it stands, somewhere in its code */
    MP_STANDSTILL_PARKED = 4,  /* L: it stands, within a system call in which it waited */
    MP_STANDSTILL_DONE = 5,    /* A: there is a GIL */
    MP_STANDSTILL_NOT = 6      /* A: none can be made (py_gil_refused) */
};

/* What had to stay (bits). */
#define MP_RESIDUE_THUNK 1u    /* two thunk pages: a frame entered through them has not returned */
#define MP_RESIDUE_CHAINED 2u  /* another eval-frame user sits above us and calls our thunk */
#define MP_RESIDUE_HELD 4u     /* somebody holds a reference to an object of ours */
#define MP_RESIDUE_TRACE 8u    /* two thunk pages: another tracer may have kept our trace function, which is there */
#define MP_RESIDUE_COPY 16u    /* what a fork copied of an agent is still within somebody's reach */

struct mp_control {
    uint64_t magic; /* MP_CONTROL_MAGIC */
    uint32_t abi;   /* MP_ABI */
    uint32_t size;  /* sizeof(struct mp_control) */
    uint64_t region_base; /* of the boot region */
    uint64_t region_len;
    uint64_t thunk_base;  /* 0 where there is none */
    uint64_t thunk_len;
    uint64_t interp;      /* PyInterpreterState of the main interpreter */
    int32_t pid;          /* of the process hooked, in its own namespace; a forked child's differs */
    int32_t agent_tid;
    int32_t launcher_pid; /* as in struct mp_boot */
    uint32_t residue;     /* MP_RESIDUE_* */
    volatile uint32_t state;          /* enum mp_state */
    volatile uint32_t detach_request; /* non-zero: leave now. Written by `detach` */
    volatile uint64_t gil_since_ns; /* since when the agent waits for the GIL, or has had it, CLOCK_MONOTONIC; 0: neither */
    /* A launcher that had the GIL asked for sooner (src/inject/hurry.c) puts here what the switch
     * interval was, in us, before it writes MP_HURRY_US there. Whoever is first takes it back: the
     * agent once it has the GIL, or that launcher a moment later. 0: nothing is to be taken back. */
    volatile uint64_t interval_was;
    uint64_t start_realtime_ns; /* CLOCK_REALTIME when hooked */
    volatile uint64_t heartbeat_ns; /* CLOCK_MONOTONIC, at least every 250 ms while the agent lives */
    volatile uint64_t records; /* put into rings since start */
    volatile uint64_t lost;    /* not put for want of room, all reasons */
    volatile uint64_t hook_ns; /* time spent in hooks and probes, estimated as docs/ARCHITECTURE.md says */
    volatile uint64_t threads; /* threads seen */
    volatile uint64_t codes;   /* functions named */
    struct mp_options options;
    struct mp_govern govern;   /* what is in force, and the last window's measurement */
    struct mp_account account; /* brought up to date at every window's end */
    struct mp_slots slots_before; /* the interpreter's hook slots as they were found */
    struct mp_slots slots_after;  /* as they are after the unhook: valid in state GONE and RESIDUE */
    /* After a detach_request the agent, in state GONE or RESIDUE, lingers until
     * this is non-zero (or MP_ACK_WAIT_MS), so that `detach` can read the above. */
    volatile uint32_t detach_ack;
    /* Descriptors of ours that the target closed or replaced: bits 1 << enum mp_held_slot.
     * The agent then leaves; where it can say no BYE it lingers as after a detach_request. */
    volatile uint32_t cut;
    volatile uint32_t standstill;      /* enum mp_standstill */
    volatile uint32_t standstill_busy; /* non-zero: the agent is using one */
    volatile uint32_t standstill_hold; /* futex: 1 while the thread must stand even if the launcher dies */
    volatile uint32_t starved;         /* non-zero: the agent waits for memory in the target, for a thread state of its own */
    volatile uint64_t standstill_tcb;  /* FS base of the thread that stands: pthread_self() there. Before RUNNING, PARKED */
    volatile uint64_t standstill_until_ns; /* CLOCK_REALTIME, which no time namespace shifts: not begun any more from then on */
    volatile int64_t standstill_wait[2];   /* struct timespec: how long a thread stands whose launcher has died */
} __attribute__((aligned(64)));

#endif
