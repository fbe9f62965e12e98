"""Takes from a process what decoding a file does not need: files, network, other processes, privileges.

For a process that has loaded its code and opened its file: afterwards it can read and write what is open, compute, and end.
Three means, of which each holds without the others: another user where the process was root's; landlock (no path can be
opened, no TCP, no signals and abstract sockets of others); a seccomp filter (no sockets, no programs, no processes, no way to
another one's memory). Where the kernel lacks one, the others are used. Imports nothing of Butai.

`python -m butai.assets.contents.readers.confinement` prints, as JSON, the means that are lacking here.

Sources: landlock(7), seccomp(2); system call numbers from `arch/x86/entry/syscalls/syscall_64.tbl` and
`include/uapi/asm-generic/unistd.h` of Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import platform
import resource
import struct
import sys
from pathlib import Path

NOBODY = 65534
"""The user and group that a process of root's becomes: the kernel's own overflow id, which owns nothing."""

OPEN_FILES = 64

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2

_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
_LANDLOCK_VERSION = 1
# By version of the interface: all rights on files, TCP bind and connect, abstract sockets and signals.
_FILE_RIGHTS = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF}
_ALL_FILE_RIGHTS = 0xFFFF
_NET_SINCE, _SCOPES_SINCE = 4, 6
_NET_RIGHTS = _SCOPES = 3

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""By machine: the column of `_DENIED`, and the architecture as seccomp names it."""

_DENIED: dict[str, tuple[int, int]] = {
    # Network.
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "sendto": (44, 206), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    # Programs and processes.
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, -1), "vfork": (58, -1), "kill": (62, 129),
    "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "setpriority": (141, 140),
    # Privileges and namespaces.
    "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145), "setregid": (114, 143),
    "setresuid": (117, 147), "setresgid": (119, 149), "setgroups": (116, 159), "capset": (126, 91),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    # Attributes of files, which landlock leaves open.
    "chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, -1),
    "fchown": (93, 55), "lchown": (94, -1), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "utimensat": (280, 88), "utime": (132, -1), "utimes": (235, -1), "futimesat": (261, -1),
    # Memory and queues shared by name.
    "shmget": (29, 194), "shmat": (30, 196), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    # Large parts of the kernel that no decoder needs.
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "open_by_handle_at": (304, 265), "syslog": (103, 116),
}  # fmt: skip
_CLONE, _CLONE3, _PRLIMIT = (56, 220), (435, 435), (302, 261)
_CLONE_THREAD = 0x10000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_X32 = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def confine() -> list[str]:
    """Confines this process, for good; call it before there is a second thread. Returns the means that could not be used:
    `user`, `landlock`, `seccomp`."""
    # The first to go when memory is short.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    lacking = [] if _become_nobody() else ["user"]
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return [*lacking, "landlock", "seccomp"]
    lacking += [] if _landlock() else ["landlock"]
    lacking += [] if _seccomp() else ["seccomp"]
    return lacking


def _become_nobody() -> bool:
    """Returns whether this process is not root's, or is so no longer."""
    if os.geteuid() != 0:
        return True
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError:
        return False
    return True


def _landlock() -> bool:
    version = _libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    if version < 1:
        return False
    rights = struct.pack("Q", _FILE_RIGHTS.get(version, _ALL_FILE_RIGHTS))
    if version >= _NET_SINCE:
        rights += struct.pack("Q", _NET_RIGHTS)
    if version >= _SCOPES_SINCE:
        rights += struct.pack("Q", _SCOPES)
    # A set of rules without any rule: each of these rights is denied everywhere.
    rules = _libc.syscall(_LANDLOCK_CREATE, rights, ctypes.c_size_t(len(rights)), 0)
    if rules < 0:
        return False
    try:
        return _libc.syscall(_LANDLOCK_RESTRICT, rules, 0) == 0
    finally:
        os.close(rules)


def _seccomp() -> bool:
    if platform.machine() not in _ARCHITECTURES or sys.maxsize < 2**32:
        return False
    column, architecture = _ARCHITECTURES[platform.machine()]
    program = _program(column, architecture)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    wanted = Program(len(program) // 8, program)
    return _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(wanted), 0, 0) == 0


def _program(column: int, architecture: int) -> bytes:
    """The filter: each denied call returns EPERM, `clone3` ENOSYS, so that the C library falls back to `clone`."""

    def step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
        return struct.pack("HBBI", code, then, otherwise, value)

    refuse = step(_RETURN, _REFUSE | errno.EPERM)
    program = step(_LOAD, _ARCHITECTURE) + step(_EQUAL, architecture, 1, 0) + refuse + step(_LOAD, _NUMBER)
    # The calls of x32, which have numbers of their own.
    program += step(_AT_LEAST, _X32, 0, 1) + refuse
    for numbers in _DENIED.values():
        if numbers[column] >= 0:
            program += step(_EQUAL, numbers[column], 0, 1) + refuse
    program += step(_EQUAL, _CLONE3[column], 0, 1) + step(_RETURN, _REFUSE | errno.ENOSYS)
    # Threads, no processes; limits of this process, of no other.
    allow = step(_RETURN, _ALLOW)
    first = step(_LOAD, _FIRST_ARGUMENT)
    program += step(_EQUAL, _CLONE[column], 0, 4) + first + step(_ANY_BIT, _CLONE_THREAD, 0, 1) + allow + refuse
    program += step(_EQUAL, _PRLIMIT[column], 0, 4) + first + step(_EQUAL, 0, 0, 1) + allow + refuse
    return program + allow


def address_space() -> int:
    """Bytes of address space that this process uses."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(confine()) + "\n")
