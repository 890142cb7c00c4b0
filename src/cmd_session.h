/* One session with an agent: inject, shake hands, read, take leave, look. The
 * place where inject/ meets stream/. */
#ifndef MP_CMD_SESSION_H
#define MP_CMD_SESSION_H

#include <stdbool.h>

#include "cmd.h"
#include "inject/inject.h"
#include "stream/stream.h"

struct session {
    pid_t pid;
    struct inject_plan *plan;         /* owned */
    const struct inject_facts *facts; /* the plan's */
    struct inject_snapshot *before;   /* owned: the target as it was */
    struct inject_result inj;         /* inj.fd and inj.out are owned */
    struct stream *stream;            /* owned */
    struct mp_hello hello;
    struct mp_selftest selftest;
    struct mp_slots slots; /* before the hook */
    struct mp_bye bye;
    bool hooked, have_bye, detach_sent;
    bool image_known;
    uint8_t image[16];  /* proc_image_id, before the injection */
    uint64_t hooked_ns; /* CLOCK_MONOTONIC at HOOKED */
    struct inject_agent agent; /* as session_hurry found it; control_addr 0 before */
    FILE *log;                 /* as session_plan was given it */
    uint64_t agent_seen_ns;    /* CLOCK_MONOTONIC: when that was */
    uint64_t hurry_ns;         /* CLOCK_MONOTONIC: no more of it before then */
};

/* How a wait for the agent ended. */
enum session_wait {
    SESSION_EVENT, /* *ret_event is filled */
    SESSION_NONE,  /* deadline, nothing came */
    SESSION_WAKE,  /* wake_fd is readable */
    SESSION_EOF    /* the agent's end is closed */
};

/* To be called when the agent has been silent for a while: if it waits for the GIL, helps it
 * there (inject_hurry, inject_standstill), for which the launcher waits up to 150 ms. */
void session_hurry(struct session *s);

/* Plans: what is known before the target is touched. On failure nothing is held. */
int session_plan(struct session *s, pid_t pid, FILE *log, struct mp_failure *f) MP_MUST_CHECK;

/* Injects and waits until the agent has hooked (or, with MP_OPT_CURE, has said
 * BYE), at most until deadline_ns. wake_fd readable ends the wait: MP_E_INTERRUPTED, or
 * MP_E_RESIDUE where the agent could not leave at once. On failure the agent was told to
 * leave; f->changed_target says whether it has. */
int session_open(struct session *s, const struct mp_options *o, uint64_t deadline_ns, int wake_fd,
                 const struct talk *t, struct mp_failure *f) MP_MUST_CHECK;

/* The next event, waiting at most until deadline_ns; extra_fd (-1: none) is also
 * watched for errors (a reader that left): then SESSION_WAKE. Negative: -enum
 * mp_err with f filled (the peer broke the protocol). */
int session_next(struct session *s, uint64_t deadline_ns, int wake_fd, int extra_fd,
                 struct stream_event *ret_event, struct mp_failure *f) MP_MUST_CHECK;

/* The process that was injected still runs: same pid, same start. A leader that has
 * exited is a zombie while its threads live on. */
bool session_target_runs(const struct session *s);

/* The target closed or replaced descriptors of the session's agent, which is there
 * still, in *ret_agent, and lingers until residue_detach has read its account. */
bool session_cut(const struct session *s, struct inject_agent *ret_agent);

/* 1 the process still runs the program that was injected, 0 another one (exec), -1 can't be told. */
int session_same_image(const struct session *s);

/* What an agent that has not left yet waits for, in words. a may be NULL: not known. */
const char *session_waits_for(const struct inject_agent *a);

/* Waits until nothing of this session is left in the target, at most timeout_ms. 1;
 * SESSION_SUCCEEDED when the session has gone and another one, of a mempulse that came
 * after it, is there: what else of ours is found belongs to that; SESSION_STRAY when the
 * session has gone, and a region without an agent is there: of a mempulse that is at work
 * now, or was killed at work; 0 something stays (*ret_diff says what, as with
 * SESSION_STRAY); negative enum mp_err as inject_wait_clean. */
#define SESSION_SUCCEEDED 2
#define SESSION_STRAY 3
int session_wait_clean(struct session *s, unsigned timeout_ms, struct inject_diff *ret_diff, struct mp_failure *f)
    MP_MUST_CHECK;

/* Asks the agent to leave; harmless when it has gone. */
void session_detach(struct session *s);

void session_release(struct session *s);

#endif
