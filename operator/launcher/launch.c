// SPDX-License-Identifier: Apache-2.0
// Starts the user's program inside a sandbox (docs/protocol/task.md, "The launcher's socket").
//
// It is copied into the program's container by the agent, static, because the user's image needs nothing of ours. It keeps the
// program's output out of the container's log, which the kubelet writes to the node's disk: stdout and stderr are pipes, forwarded
// to the agent over a unix socket, and the container's log holds one fixed line. It ends the program's process group at the
// deadline, on SIGTERM and when the agent is gone: nothing runs that nobody watches.
//
// The pod has one network namespace, in which the agent must reach relays and the program must not: confine.h takes every socket
// from the program but unix sockets and TCP on the ports that the agent names (ADR 19).
//
//     launch --socket PATH|@NAME -- COMMAND [ARG]...
//
//     frame          u8 type | u32 length (big endian) | body
//     to the agent   0 hello, 1 stdout, 2 stderr, 3 exit (u8 how, u32 code)
//     from the agent 8 go (u32 seconds to live, u16 each TCP port of the program), 9 stop, 10 seen,
//                    11 go, also where this kernel cannot keep the program to its ports
//
// Exit status: 0 once the agent has seen the exit report (whatever the program's status was: the agent must outlive a program that
// failed, to settle its channels); otherwise 10 failed, 11 killed by a signal, 12 deadline, 13 not started, 14 stopped, 15 not
// confined, 16 no agent.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "confine.h"

enum { HELLO = 0, OUT = 1, ERR = 2, EXIT = 3, GO = 8, STOP = 9, SEEN = 10, GO_ANYWAY = 11 };
enum { EXITED = 0, SIGNALED = 1, DEADLINE = 2, NOT_STARTED = 3, STOPPED = 4, NOT_CONFINED = 5 };
enum { CHUNK = 16384, GRACE_MS = 5000, DRAIN_MS = 1000, REPORT_MS = 5000, NO_AGENT = 16 };
enum { MAX_PORTS = 16, MAX_BODY = 4 + 2 * MAX_PORTS };

static int agent = -1;

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int write_all(const void *data, size_t size) {
    for (const char *at = data; size > 0;) {
        ssize_t n = send(agent, at, size, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return -1;
        at += n, size -= (size_t)n;
    }
    return 0;
}

static void put32(unsigned char *at, uint32_t value) {
    at[0] = (unsigned char)(value >> 24), at[1] = (unsigned char)(value >> 16), at[2] = (unsigned char)(value >> 8), at[3] = (unsigned char)value;
}

static int send_frame(unsigned char type, const void *body, uint32_t size) {
    unsigned char head[5] = {type};
    put32(head + 1, size);
    return write_all(head, sizeof head) || write_all(body, size) ? -1 : 0;
}

// Waits for one frame of at most MAX_BODY bytes. Returns its type, or -1 when the agent is gone or says something else.
static int read_frame(unsigned char body[MAX_BODY], size_t *size, int timeout_ms) {
    unsigned char frame[5 + MAX_BODY];
    size_t have = 0, want = 5;
    int64_t until = now_ms() + timeout_ms;
    while (have < want) {
        struct pollfd ready = {.fd = agent, .events = POLLIN};
        int64_t left = until - now_ms();
        if (left <= 0 || (poll(&ready, 1, (int)left) < 0 && errno != EINTR)) return -1;
        if (!ready.revents) continue;
        ssize_t n = recv(agent, frame + have, want - have, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return -1;
        have += (size_t)n;
        if (have == 5) {
            if (frame[1] || frame[2] || frame[3] || frame[4] > MAX_BODY) return -1;
            want += frame[4];
        }
    }
    *size = want - 5;
    memcpy(body, frame + 5, *size);
    return frame[0];
}

// What the agent lets the program do.
struct leave {
    uint32_t seconds;
    uint16_t ports[MAX_PORTS];
    int count, confined;
};

// Waits for the agent's go. Returns -1 when it says something else, or nothing.
static int read_go(struct leave *leave) {
    unsigned char body[MAX_BODY];
    size_t size;
    int word = read_frame(body, &size, 10000);
    if ((word != GO && word != GO_ANYWAY) || size < 4 || size % 2) return -1;
    leave->confined = word == GO;
    leave->seconds = (uint32_t)body[0] << 24 | (uint32_t)body[1] << 16 | (uint32_t)body[2] << 8 | body[3];
    leave->count = (int)(size - 4) / 2;
    for (int i = 0; i < leave->count; i++) leave->ports[i] = (uint16_t)(body[4 + 2 * i] << 8 | body[5 + 2 * i]);
    return 0;
}

static int connect_agent(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if (length >= sizeof address.sun_path) return -1;
    memcpy(address.sun_path, path, length);
    if (path[0] == '@') address.sun_path[0] = 0;  // an abstract name: known to the pod's network namespace and nowhere else
    agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    // An agent that does not read is an agent that is gone: a blocked write must not outlive the deadline.
    struct timeval patience = {.tv_sec = 10};
    if (agent < 0 || setsockopt(agent, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience)) return -1;
    return connect(agent, (struct sockaddr *)&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + (path[0] != '@')));
}

// What Kubernetes puts into every container says where the cluster's API is; the program has no use for it.
static void clean_environment(void) {
    extern char **environ;
    char **keep = environ;
    for (char **at = environ; *at; at++)
        if (strncmp(*at, "KUBERNETES_", 11) && strncmp(*at, "HOSTNAME=", 9)) *keep++ = *at;
    *keep = NULL;
}

static void become_program(char **command, const struct leave *leave, int out, int err, int failed) {
    int reason = -1;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    setsid();
    int null = open("/dev/null", O_RDONLY);
    if (null < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0) goto fail;
    if (null > 2) close(null);
    clean_environment();
    // Nothing of the program runs before it is confined, and nothing at all when it cannot be.
    if (confine(leave->ports, leave->count, leave->confined)) goto report;
    execvp(command[0], command);
fail:
    reason = errno;
report:
    if (write(failed, &reason, sizeof reason) < 0) _exit(126);
    _exit(127);
}

// Returns the program's process, or 0 and why there is none in *how.
static pid_t start(char **command, const struct leave *leave, int *out, int *err, int *how) {
    int o[2], e[2], failed[2], reason;
    *how = NOT_STARTED;
    if (pipe2(o, O_CLOEXEC) || pipe2(e, O_CLOEXEC) || pipe2(failed, O_CLOEXEC)) return 0;
    pid_t child = fork();
    if (child == 0) become_program(command, leave, o[1], e[1], failed[1]);
    close(o[1]), close(e[1]), close(failed[1]);
    *out = o[0], *err = e[0];
    // The pipe closes by itself when exec succeeds.
    if (child > 0 && read(failed[0], &reason, sizeof reason) == sizeof reason) {
        waitpid(child, NULL, 0);
        if (reason < 0) *how = NOT_CONFINED;
        child = -1;
    }
    close(failed[0]);
    return child > 0 ? child : 0;
}

// Ends whatever the program left behind, also what left its process group: as process 1 of the container everything else is the program's.
static void end_all(pid_t group) {
    kill(-group, SIGKILL);
    if (getpid() == 1) kill(-1, SIGKILL);
}

// Moves what is there from a pipe to the agent. Returns 0 at the end of the pipe, -1 when the agent is gone.
static int forward(int *pipe_end, unsigned char type) {
    char data[CHUNK];
    ssize_t n = read(*pipe_end, data, sizeof data);
    if (n > 0) return send_frame(type, data, (uint32_t)n) ? -1 : 1;
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return 1;
    close(*pipe_end);
    *pipe_end = -1;
    return 0;
}

// Runs until the program and its output have ended. Returns how; its wait status is in *status.
static int watch(pid_t child, int out, int err, int signals, int64_t deadline, int *status) {
    int how = EXITED, alive = 1, agent_gone = 0;
    int64_t kill_at = deadline, drain_until = 0;
    while (alive || ((out >= 0 || err >= 0) && now_ms() < drain_until && !agent_gone)) {
        struct pollfd ready[4] = {{.fd = signals, .events = POLLIN}, {.fd = agent_gone ? -1 : agent, .events = POLLIN},
                                  {.fd = agent_gone ? -1 : out, .events = POLLIN}, {.fd = agent_gone ? -1 : err, .events = POLLIN}};
        int64_t left = (alive ? kill_at : drain_until) - now_ms();
        if (poll(ready, 4, left < 0 ? 0 : left > 60000 ? 60000 : (int)left) < 0 && errno != EINTR) return NOT_STARTED;
        int stop = 0;
        if (ready[0].revents) {
            struct signalfd_siginfo info;
            if (read(signals, &info, sizeof info) == sizeof info && info.ssi_signo != SIGCHLD) stop = STOPPED;
        }
        if (ready[1].revents) {
            // The only thing the agent says while the program runs is stop; anything else, or nothing, is the same.
            char words[64];
            if (recv(agent, words, sizeof words, MSG_DONTWAIT) <= 0) agent_gone = 1;
            stop = STOPPED;
        }
        if (ready[2].revents && forward(&out, OUT) < 0) agent_gone = 1, stop = STOPPED;
        if (ready[3].revents && forward(&err, ERR) < 0) agent_gone = 1, stop = STOPPED;
        if (alive && now_ms() >= kill_at) {
            if (how == EXITED) how = DEADLINE;
            end_all(child);
            kill_at = now_ms() + 1000;
        } else if (alive && stop && how == EXITED) {
            how = stop;
            kill(-child, SIGTERM);
            if (kill_at > now_ms() + GRACE_MS) kill_at = now_ms() + GRACE_MS;
        }
        int code;
        for (pid_t dead; (dead = waitpid(-1, &code, WNOHANG)) > 0;) {
            if (dead != child) continue;
            alive = 0, *status = code;
            end_all(child);
            drain_until = now_ms() + DRAIN_MS;
        }
    }
    return agent_gone ? NO_AGENT : how;
}

int main(int argc, char **argv) {
    const char *path = argc > 4 && !strcmp(argv[1], "--socket") && !strcmp(argv[3], "--") ? argv[2] : NULL;
    if (!path) {
        fputs("usage: launch --socket PATH -- COMMAND [ARG]...\n", stderr);
        return 13;
    }

    // The program must not look into this process: it runs as the same user, and our stdout is the container's log.
    prctl(PR_SET_DUMPABLE, 0);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0})) return 13;
    signal(SIGPIPE, SIG_IGN);
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM), sigaddset(&mask, SIGINT), sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    int signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);

    struct leave leave;
    if (signals < 0 || connect_agent(path) || send_frame(HELLO, "", 0) || read_go(&leave)) {
        puts("veilpod: the agent does not answer");
        return NO_AGENT;
    }
    puts("veilpod: the program runs; its output is sealed into the result");
    fclose(stdout), fclose(stderr);
    // Descriptors 1 and 2 stay taken, or the next pipe would land there.
    if (open("/dev/null", O_WRONLY) < 0 || open("/dev/null", O_WRONLY) < 0) return 13;

    int out = -1, err = -1, status = 0, how;
    pid_t child = start(argv + 4, &leave, &out, &err, &how);
    if (child > 0) how = watch(child, out, err, signals, now_ms() + (int64_t)leave.seconds * 1000, &status);
    if (how == EXITED && WIFSIGNALED(status)) how = SIGNALED;

    unsigned char report[5] = {(unsigned char)how};
    put32(report + 1, (uint32_t)(how == SIGNALED ? WTERMSIG(status) : how == EXITED ? WEXITSTATUS(status) : 0));
    unsigned char unused[MAX_BODY];
    size_t size;
    int seen = how != NO_AGENT && !send_frame(EXIT, report, sizeof report);
    while (seen) {
        int type = read_frame(unused, &size, REPORT_MS);
        if (type == SEEN) return 0;
        seen = type == STOP;
    }
    if (how == NO_AGENT) return NO_AGENT;
    return how == EXITED && WEXITSTATUS(status) == 0 ? NO_AGENT : 10 + how;
}
