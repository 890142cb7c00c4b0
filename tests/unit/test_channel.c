/* Fetching descriptors: what is taken from a target and, above all, what is not. The
 * test is its own target. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "inject/channel.h"
#include "skip.h"

static struct mp_boot boot_of(enum mp_channel way)
{
    return (struct mp_boot){.channel = way, .launcher_fd = -1, .agent_fd = -1, .agent_out = -1, .memfd = -1};
}

static char folder[] = "/tmp/mp-channel-XXXXXX", path[64];

static void folder_make(void)
{
    strcpy(folder + strlen(folder) - 6, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/file", folder);
}

static void folder_remove(void)
{
    unlink(path);
    ck_assert_int_eq(rmdir(folder), 0);
}

/* --- the choice ------------------------------------------------------------------ */

static const struct {
    int err, judged;
} answers[] = {
    {EBADF, 0}, {ENOSYS, -ENOSYS}, {EPERM, -EPERM}, {EACCES, -EACCES}, {ESRCH, -ESRCH}, {EINVAL, -EINVAL},
    {0, -EPROTO}, /* a descriptor -1 was copied: not the system call that we know */
};

START_TEST(test_judge)
{
    ck_assert_int_eq(channel_judge(answers[_i].err), answers[_i].judged);
}
END_TEST

START_TEST(test_probe)
{
    ck_assert_int_eq(channel_probe(getpid(), getpid(), -ENOSYS), -ENOSYS);
    ck_assert_int_eq(channel_probe(getpid(), getpid(), -EPERM), -EPERM);
}
END_TEST

/* --- the socket -------------------------------------------------------------------- */

/* What the loader noted is compared with what is found under the number. */
START_TEST(test_socket_identity)
{
    struct mp_boot b = boot_of(MP_CHANNEL_SOCKET);
    struct channel c = {-7, -7};
    struct stat st;
    int sv[2], pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (pidfd < 0) {
        skip("test_socket_identity", "no pidfd before 5.3");
        return;
    }
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
    ck_assert_int_eq(fstat(sv[0], &st), 0);
    b.launcher_fd = b.memfd = sv[0];
    b.held[MP_HELD_LAUNCHER] = b.held[MP_HELD_MEMFD] = (struct mp_held){.fd = sv[0], .dev = st.st_dev, .ino = st.st_ino};
    ck_assert_int_eq(channel_take(&c, getpid(), pidfd, &b), 0);
    channel_close(&c);
    ck_assert_int_eq(dup2(sv[1], sv[0]), sv[0]); /* the target puts another one there */
    c.in = c.out = -7;
    ck_assert_int_eq(channel_take(&c, getpid(), pidfd, &b), -EPROTO);
    ck_assert(c.in == -7 && c.out == -7);
    ck_assert_int_eq(channel_memfd(getpid(), pidfd, &b), -EPROTO);
    close(sv[0]);
    close(sv[1]);
    close(pidfd);
}
END_TEST

enum stand_in { IN_FIFO, IN_FILE, IN_SOCKET, IN_MEMFD, IN_DEVICE, STAND_INS };
static int stand_in_make(enum stand_in kind);

/* The target writes the note too: what it names truthfully must still be of the right kind,
 * or we would wait for a FIFO, or give orders to a device. */
START_TEST(test_socket_kind)
{
    enum stand_in kind = (enum stand_in)_i;
    struct mp_boot b = boot_of(MP_CHANNEL_SOCKET);
    struct channel c = {-7, -7};
    struct stat st;
    int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0), fd, got;
    if (pidfd < 0) {
        skip("test_socket_kind", "no pidfd before 5.3");
        return;
    }
    folder_make();
    fd = stand_in_make(kind);
    ck_assert_int_eq(fstat(fd, &st), 0);
    b.launcher_fd = b.memfd = fd;
    b.held[MP_HELD_LAUNCHER] = b.held[MP_HELD_MEMFD] = (struct mp_held){.fd = fd, .dev = st.st_dev, .ino = st.st_ino};
    ck_assert_int_eq(channel_take(&c, getpid(), pidfd, &b), kind == IN_SOCKET ? 0 : -EPROTO);
    if (kind == IN_SOCKET)
        channel_close(&c);
    else
        ck_assert(c.in == -7 && c.out == -7);
    got = channel_memfd(getpid(), pidfd, &b);
    ck_assert_int_eq(got < 0 ? got : 0, kind == IN_MEMFD ? 0 : -EPROTO);
    close(got);
    close(fd);
    close(pidfd);
    folder_remove();
}
END_TEST

/* Any other socket: its peer would be a stranger, or there is none. */
START_TEST(test_socket_others)
{
    static const int kinds[][2] = {{AF_UNIX, SOCK_DGRAM}, {AF_UNIX, SOCK_SEQPACKET}, {AF_INET, SOCK_STREAM}, {AF_INET, SOCK_DGRAM}};
    struct mp_boot b = boot_of(MP_CHANNEL_SOCKET);
    struct channel c;
    int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (pidfd < 0)
        return;
    b.launcher_fd = socket(kinds[_i][0], kinds[_i][1] | SOCK_CLOEXEC, 0);
    if (b.launcher_fd >= 0)
        ck_assert_int_eq(channel_take(&c, getpid(), pidfd, &b), -EPROTO);
    close(b.launcher_fd);
    close(pidfd);
}
END_TEST

/* A socket that takes nothing, and whose flags say that one waits. */
START_TEST(test_go)
{
    struct channel c;
    char room[1 << 16] = "", byte = 0;
    int sv[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
    c = (struct channel){sv[0], sv[0]};
    ck_assert_int_eq(channel_go(&c), 0);
    ck_assert_int_eq(read(sv[1], &byte, 1), 1);
    ck_assert_int_eq(byte, 'G');
    while (send(sv[0], room, sizeof room, MSG_DONTWAIT) > 0)
        ;
    ck_assert_int_eq(channel_go(&c), -EAGAIN);
    close(sv[1]);
    ck_assert_int_eq(channel_go(&c), -EPIPE);
    close(sv[0]);
}
END_TEST

/* --- the pipes --------------------------------------------------------------------- */

/* As the loader leaves them: one end of each. */
static void pipes_make(struct mp_boot *b)
{
    int in[2], out[2];
    *b = boot_of(MP_CHANNEL_PIPES);
    ck_assert_int_eq(pipe2(in, O_CLOEXEC | O_NONBLOCK), 0);
    ck_assert_int_eq(pipe2(out, O_CLOEXEC | O_NONBLOCK), 0);
    close(in[1]);
    close(out[0]);
    b->agent_fd = in[0];
    b->agent_out = out[1];
}

START_TEST(test_pipes)
{
    struct mp_boot b;
    struct channel c;
    char byte = 0;
    pipes_make(&b);
    ck_assert_int_eq(channel_take(&c, getpid(), -1, &b), 0);
    ck_assert_int_ne(c.in, c.out);
    ck_assert_int_eq(fcntl(c.in, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    ck_assert_int_eq(fcntl(c.out, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    ck_assert_int_eq(read(c.in, &byte, 1), -1);
    ck_assert_int_eq(errno, EAGAIN);
    ck_assert_int_eq(write(c.out, "G", 1), 1);
    ck_assert_int_eq(read(b.agent_fd, &byte, 1), 1);
    ck_assert_int_eq(byte, 'G');
    ck_assert_int_eq(write(b.agent_out, "H", 1), 1);
    ck_assert_int_eq(read(c.in, &byte, 1), 1);
    ck_assert_int_eq(byte, 'H');
    channel_close(&c);
    ck_assert(c.in == -1 && c.out == -1);
    ck_assert_int_eq(read(b.agent_fd, &byte, 1), 0); /* the lease: no writer is left */
    close(b.agent_fd);
    close(b.agent_out);
}
END_TEST

/* Another pipe of the target's under the number of ours: nothing of it is read, or written into it. */
START_TEST(test_pipe_identity)
{
    struct mp_boot b, other;
    struct channel c = {-7, -7};
    struct stat st;
    pipes_make(&b);
    pipes_make(&other);
    ck_assert_int_eq(fstat(b.agent_fd, &st), 0);
    b.held[MP_HELD_IN] = (struct mp_held){.dev = st.st_dev, .ino = st.st_ino};
    ck_assert_int_eq(fstat(b.agent_out, &st), 0);
    b.held[MP_HELD_OUT] = (struct mp_held){.dev = st.st_dev, .ino = st.st_ino};
    ck_assert_int_eq(channel_take(&c, getpid(), -1, &b), 0);
    channel_close(&c);
    ck_assert_int_eq(dup2(_i ? other.agent_fd : other.agent_out, _i ? b.agent_fd : b.agent_out) < 0, 0);
    c = (struct channel){-7, -7};
    ck_assert_int_eq(channel_take(&c, getpid(), -1, &b), -EPROTO);
    ck_assert(c.in == -7 && c.out == -7);
    close(b.agent_fd);
    close(b.agent_out);
    close(other.agent_fd);
    close(other.agent_out);
}
END_TEST

static int stand_in_make(enum stand_in kind)
{
    int sv[2];
    switch (kind) {
    case IN_FIFO:
        ck_assert_int_eq(mkfifo(path, 0666), 0);
        return open(path, O_RDWR | O_CLOEXEC);
    case IN_FILE:
        return open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    case IN_SOCKET:
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
        close(sv[1]);
        return sv[0];
    case IN_MEMFD:
        return memfd_create("x", MFD_CLOEXEC);
    default:
        return open("/dev/null", O_RDWR | O_CLOEXEC);
    }
}

/* Whatever a thread of the target puts under the number instead of the pipe. */
START_TEST(test_no_pipe)
{
    struct mp_boot good, b;
    struct channel c = {-7, -7};
    folder_make();
    pipes_make(&good);
    int fd = stand_in_make((enum stand_in)_i);
    ck_assert_int_ge(fd, 0);
    b = good;
    b.agent_out = fd;
    ck_assert_int_eq(channel_take(&c, getpid(), -1, &b), -EPROTO);
    b = good;
    b.agent_fd = fd;
    ck_assert_int_eq(channel_take(&c, getpid(), -1, &b), -EPROTO);
    b.agent_fd = 1 << 20;
    ck_assert_int_eq(channel_take(&c, getpid(), -1, &b), -ENOENT);
    ck_assert(c.in == -7 && c.out == -7); /* untouched on failure */
    close(fd);
    close(good.agent_fd);
    close(good.agent_out);
    folder_remove();
}
END_TEST

/* --- the memfd ---------------------------------------------------------------------- */

START_TEST(test_memfd)
{
    struct mp_boot b = boot_of(MP_CHANNEL_PIPES);
    char text[4] = "";
    b.memfd = memfd_create("x", MFD_CLOEXEC);
    int fd = channel_memfd(getpid(), -1, &b);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, "ELF", 3), 3);
    ck_assert_int_eq(pread(b.memfd, text, 3, 0), 3);
    ck_assert_str_eq(text, "ELF");
    close(fd);
    ck_assert_int_eq(channel_memfd(getpid(), -1, &b), -EPROTO); /* not empty any more */
    close(b.memfd);
}
END_TEST

enum no_memfd { NO_FILE, NO_UNLINKED, NO_SHM, NO_PIPE, NO_MEMFDS };

static int no_memfd_make(enum no_memfd kind)
{
    int ends[2], fd;
    if (kind == NO_PIPE) {
        ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
        close(ends[1]);
        return ends[0];
    }
    if (kind == NO_SHM) {
        char name[] = "/dev/shm/mp-channel-XXXXXX";
        fd = mkostemp(name, O_CLOEXEC);
        unlink(name);
        return fd;
    }
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (kind == NO_UNLINKED)
        unlink(path);
    return fd;
}

/* A file that the target may only read is not for us to write. */
START_TEST(test_no_memfd)
{
    struct mp_boot b = boot_of(MP_CHANNEL_PIPES);
    folder_make();
    b.memfd = no_memfd_make((enum no_memfd)_i);
    if (b.memfd >= 0) /* no /dev/shm: nothing to be tried */
        ck_assert_int_eq(channel_memfd(getpid(), -1, &b), -EPROTO);
    close(b.memfd);
    folder_remove();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("channel");
    TCase *t = tcase_create("channel");
    tcase_add_loop_test(t, test_judge, 0, (int)(sizeof answers / sizeof *answers));
    tcase_add_test(t, test_probe);
    tcase_add_test(t, test_socket_identity);
    tcase_add_loop_test(t, test_socket_kind, 0, STAND_INS);
    tcase_add_loop_test(t, test_socket_others, 0, 4);
    tcase_add_test(t, test_go);
    tcase_add_test(t, test_pipes);
    tcase_add_loop_test(t, test_pipe_identity, 0, 2);
    tcase_add_loop_test(t, test_no_pipe, 0, STAND_INS);
    tcase_add_test(t, test_memfd);
    tcase_add_loop_test(t, test_no_memfd, 0, NO_MEMFDS);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
