// SPDX-License-Identifier: Apache-2.0
// What the program may do with the network: unix sockets among its own processes, and TCP on the ports of its task (ADR 19).
//
// A NetworkPolicy is about a pod, and this pod's agent must reach relays. Without more, the program could speak to a relay itself and
// carry anything to an accomplice behind it. Two parts of the kernel together take that away, for the program and everything it starts:
//
//     seccomp    which sockets exist at all: AF_UNIX; TCP over IPv4 and IPv6 if the task has ports. It sees numbers, not addresses.
//     Landlock   which TCP ports are connected to and bound: the task's. And no unix socket of the agent's, and no signal to it.
//
// Landlock looks at connect() of TCP sockets only, so seccomp takes away every other way to make a connection: protocols beside TCP
// (MPTCP, SMC, UDP, raw, netlink, vsock), data in the SYN (MSG_FASTOPEN), ULPs that replace a socket's protocol, io_uring, and the system
// calls of other ABIs. Without ports no TCP socket exists, and Landlock is not needed: that works on every kernel, gVisor's too.
// With ports, a kernel without Landlock's half does only for an agent that says so: its sandbox states that the program was not confined.

#ifndef VEILPOD_CONFINE_H
#define VEILPOD_CONFINE_H

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define NATIVE_ARCH AUDIT_ARCH_X86_64
#define FOREIGN_CALLS 0x40000000u  // x32: the same architecture, other numbers
#elif defined(__aarch64__) && defined(__AARCH64EL__)
#define NATIVE_ARCH AUDIT_ARCH_AARCH64
#define FOREIGN_CALLS 0xffffffffu  // there are none
#else
#error "the program cannot be confined on this architecture: add its audit architecture, and check that arguments are little endian"
#endif

// Newer than the headers of the systems that this is built on (linux/landlock.h of 6.12).
enum { LANDLOCK_CREATE = 444, LANDLOCK_ADD_RULE = 445, LANDLOCK_RESTRICT = 446 };
enum { ABI_QUERY = 1, RULE_NET_PORT = 2, NET_BIND_TCP = 1, NET_CONNECT_TCP = 2, SCOPE_ABSTRACT_UNIX = 1, SCOPE_SIGNAL = 2 };
enum { ABI_NETWORK = 4, ABI_SCOPES = 6 };  // Linux 6.7, Linux 6.12
enum { IO_URING_SETUP = 425, IO_URING_ENTER = 426, IO_URING_REGISTER = 427, FASTOPEN = 0x20000000, LEVEL_TCP = 6, OPTION_ULP = 31, TYPE_MASK = 0xf };

struct net_rules {
    uint64_t filesystem, network, scoped;
};
struct net_port {
    uint64_t access, port;
};

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(what) BPF_STMT(BPF_RET | BPF_K, what)
#define REFUSE(error) (SECCOMP_RET_ERRNO | (error))
#define EQUAL(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)  // over so many instructions, when equal and when not
#define CALL(number, action) LOAD(nr), EQUAL(number, 0, 1), RETURN(action)
#define MASKED(number, argument, mask) LOAD(nr), EQUAL(number, 0, 4), LOAD(args[argument]), BPF_STMT(BPF_ALU | BPF_AND | BPF_K, mask)
#define IF(number, argument, mask, value, action) MASKED(number, argument, mask), EQUAL(value, 0, 1), RETURN(action)
#define UNLESS(number, argument, mask, value, action) MASKED(number, argument, mask), EQUAL(value, 1, 0), RETURN(action)

// The first rule that fits decides. Arguments here are ints to the kernel, too: their upper halves mean nothing.
static int filter_calls(int tcp) {
    const uint32_t every = 0xffffffff, no_socket = REFUSE(EAFNOSUPPORT), if_tcp = tcp ? SECCOMP_RET_ALLOW : no_socket;
    struct sock_filter filter[] = {
        LOAD(arch), EQUAL(NATIVE_ARCH, 1, 0), RETURN(SECCOMP_RET_KILL_PROCESS),
        LOAD(nr), BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, FOREIGN_CALLS, 0, 1), RETURN(SECCOMP_RET_KILL_PROCESS),

        // socket(family, type, protocol): a protocol of 0 means the type's own.
        IF(__NR_socket, 0, every, AF_UNIX, SECCOMP_RET_ALLOW),
        UNLESS(__NR_socket, 1, TYPE_MASK, SOCK_STREAM, no_socket),
        UNLESS(__NR_socket, 2, ~LEVEL_TCP, 0, no_socket),  // a subset of the bits of 6, of which 2 and 4 are no
        IF(__NR_socket, 2, every, 2, no_socket),
        IF(__NR_socket, 2, every, 4, no_socket),
        IF(__NR_socket, 0, every, AF_INET, if_tcp),
        IF(__NR_socket, 0, every, AF_INET6, if_tcp),
        CALL(__NR_socket, no_socket),
        UNLESS(__NR_socketpair, 0, every, AF_UNIX, no_socket),

        // A connection that nobody calls connect() for.
        IF(__NR_sendto, 3, FASTOPEN, FASTOPEN, REFUSE(EOPNOTSUPP)),
        IF(__NR_sendmsg, 2, FASTOPEN, FASTOPEN, REFUSE(EOPNOTSUPP)),
        IF(__NR_sendmmsg, 3, FASTOPEN, FASTOPEN, REFUSE(EOPNOTSUPP)),
        IF(__NR_setsockopt, 2, every, OPTION_ULP, REFUSE(ENOPROTOOPT)),
        CALL(IO_URING_SETUP, REFUSE(ENOSYS)),
        CALL(IO_URING_ENTER, REFUSE(ENOSYS)),
        CALL(IO_URING_REGISTER, REFUSE(ENOSYS)),
        RETURN(SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int allow_ports(const uint16_t *ports, int count, int required) {
    int abi = (int)syscall(LANDLOCK_CREATE, NULL, 0, ABI_QUERY);
    if (abi < ABI_NETWORK) return count && required ? -1 : 0;  // without ports there are no TCP sockets to look after
    struct net_rules rules = {.network = NET_BIND_TCP | NET_CONNECT_TCP, .scoped = abi < ABI_SCOPES ? 0 : SCOPE_ABSTRACT_UNIX | SCOPE_SIGNAL};
    int ruleset = (int)syscall(LANDLOCK_CREATE, &rules, sizeof rules, 0);
    if (ruleset < 0) return -1;
    for (int i = 0; i < count; i++) {
        struct net_port port = {.access = NET_BIND_TCP | NET_CONNECT_TCP, .port = ports[i]};
        if (syscall(LANDLOCK_ADD_RULE, ruleset, RULE_NET_PORT, &port, 0)) return -1;
    }
    if (syscall(LANDLOCK_RESTRICT, ruleset, 0)) return -1;
    return close(ruleset);
}

// Confines this process and all it will start, for good. Returns -1 when the kernel cannot; then nothing must be started.
static int confine(const uint16_t *ports, int count, int required) {
    return allow_ports(ports, count, required) || filter_calls(count > 0) ? -1 : 0;
}
#endif
