/* A look at a process by a child. It is asked and it answers over a socketpair, one message
 * each; it is killed when it does not answer. */
#include "cmd_look.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cmd_watch.h"

#define TICK_MS 100 /* counted one by one: when we are stopped, time stands still but for one of them */
#define PATIENCE_MS ((int)(CMD_WATCH_LOOK_NS / 1000000))
#define PATIENCE_MIN_MS 250

struct answer {
    int n; /* of inject_find_agent */
    struct inject_agent agent;
    struct mp_failure failure;
};

static struct {
    pid_t child; /* 0: none */
    int fd;
    int patience_ms;
} look = {.fd = -1, .patience_ms = PATIENCE_MS};

static __attribute__((noreturn)) void look_serve(int fd, pid_t parent)
{
    pid_t pid;

    /* Who waits for a page sees no end of file. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
        _exit(1);
    while (recv(fd, &pid, sizeof(pid), 0) == (ssize_t)sizeof(pid)) {
        struct answer a = {0};

        a.n = inject_find_agent(pid, &a.agent, &a.failure);
        if (send(fd, &a, sizeof(a), MSG_NOSIGNAL) != (ssize_t)sizeof(a))
            break;
    }
    _exit(1); /* nothing of our parent's output is flushed */
}

static int look_start(void)
{
    pid_t parent = getpid();
    int fds[2], err;

    if (look.child)
        return 0;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
        return -errno;
    look.child = fork();
    if (look.child == 0)
        look_serve(fds[1], parent);
    err = errno;
    close(fds[1]);
    if (look.child > 0) {
        look.fd = fds[0];
        return 0;
    }
    look.child = 0;
    close(fds[0]);
    return -err;
}

/* Not waited for: a wait that no signal ends, in a file system's server, would become ours. */
static void look_give_up(void)
{
    kill(look.child, SIGKILL);
    close(look.fd);
    look.fd = -1;
    look.child = 0;
}

/* 1 something has come, or the end; 0 the time is over. */
static int look_wait(void)
{
    struct pollfd p = {.fd = look.fd, .events = POLLIN};

    for (int left = look.patience_ms; left > 0; left -= TICK_MS)
        if (poll(&p, 1, left < TICK_MS ? left : TICK_MS) > 0)
            return 1;
    return 0;
}

int cmd_look(pid_t pid, struct inject_agent *ret, struct mp_failure *f)
{
    struct answer a;
    int r = look_start();

    if (r < 0)
        return mp_fail(f, MP_E_INTERNAL, -r, "no child can be made to look at process %d", (int)pid);
    if (send(look.fd, &pid, sizeof(pid), MSG_NOSIGNAL) == (ssize_t)sizeof(pid) && !look_wait()) {
        look_give_up();
        look.patience_ms = look.patience_ms / 2 > PATIENCE_MIN_MS ? look.patience_ms / 2 : PATIENCE_MIN_MS;
        return cmd_watch_stalled(pid, f);
    }
    if (recv(look.fd, &a, sizeof(a), MSG_DONTWAIT) != (ssize_t)sizeof(a)) {
        look_give_up();
        return mp_fail(f, MP_E_INTERNAL, 0, "process %d cannot be looked at: our child that did has died", (int)pid);
    }
    if (a.n > 0)
        *ret = a.agent;
    else if (a.n < 0 && f)
        *f = a.failure;
    return a.n;
}
