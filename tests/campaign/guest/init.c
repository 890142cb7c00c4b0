/* The guest's first process (tests/campaign/kernels.py): linked statically, so that an
 * initramfs of this file and a few modules is enough for any kernel.
 *
 *   /modules/NN-*.ko   loaded in the order of their names; one that is built in fails, and may
 *   /dev/vda           the ext4 image with the userland: becomes the root
 *   arguments          the command line's words after "--": what is run there
 *
 * Then it only buries orphans, as a first process must; when the command ends, the machine
 * is reset, which `-no-reboot` makes the end of qemu. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DISK "/dev/vda"
#define DISK_WAIT_MS 20000
#define ROOT "/new"

static void give_up(const char *what)
{
    printf("guest: %s: %s\n", what, strerror(errno));
    reboot(RB_AUTOBOOT);
}

static void load_modules(void)
{
    struct dirent **names;
    char path[512];
    int count = scandir("/modules", &names, NULL, alphasort);

    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof(path), "/modules/%s", names[i]->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);

        if (names[i]->d_name[0] != '.' && syscall(SYS_finit_module, fd, "", 0) != 0)
            printf("guest: %s: %s\n", names[i]->d_name, strerror(errno));
        close(fd);
    }
}

/* The driver finds the disk when it likes; there is nothing to wait for but the file. */
static void wait_for_disk(void)
{
    const struct timespec ms = { 0, 1000000 };

    for (int i = 0; i < DISK_WAIT_MS && access(DISK, R_OK) != 0; i++)
        nanosleep(&ms, NULL);
}

static void enter_root(void)
{
    static const struct {
        const char *type, *where, *options;
    } mounts[] = {
        { "devtmpfs", "/dev", "" },          { "proc", "/proc", "" },
        { "sysfs", "/sys", "" },             { "tmpfs", "/tmp", "mode=1777" },
        { "tmpfs", "/run", "mode=755" },     { "tmpfs", "/dev/shm", "mode=1777" },
        { "devpts", "/dev/pts", "ptmxmode=666" },
    };

    wait_for_disk();
    mkdir(ROOT, 0755);
    if (mount(DISK, ROOT, "ext4", 0, "") != 0)
        give_up(DISK);
    if (chdir(ROOT) != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0 || chdir("/") != 0)
        give_up(ROOT);
    for (size_t i = 0; i < sizeof(mounts) / sizeof(*mounts); i++) {
        mkdir(mounts[i].where, 0755);
        if (mount(mounts[i].type, mounts[i].where, mounts[i].type, 0, mounts[i].options) != 0)
            give_up(mounts[i].where);
    }
}

int main(int argc, char **argv)
{
    pid_t pid;

    mkdir("/dev", 0755);
    mount("devtmpfs", "/dev", "devtmpfs", 0, "");
    load_modules();
    enter_root();
    setenv("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", 1);
    setenv("HOME", "/root", 1);
    pid = fork();
    if (pid == 0) {
        setsid();
        if (argc > 1)
            execv(argv[1], argv + 1);
        give_up("exec");
    }
    while (pid > 0 && wait(NULL) != pid)
        ;
    sync();
    reboot(RB_AUTOBOOT);
    return 1;
}
