"""Giving up what a process never needs: internet sockets, secrets, other people's files. For good, children included.

Two unprivileged means of the kernel, by their system calls since Python has no names for them: a seccomp filter
(`man 2 seccomp`) refuses sockets, Landlock (`man 7 landlock`) closes the file system but for what is granted. Both are
for the calling thread and what it starts, so they come before anything that makes threads.
"""

import ctypes
import errno
import os
import platform
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

PR_SET_SECCOMP: Final = 22
PR_SET_NO_NEW_PRIVS: Final = 38
SECCOMP_MODE_FILTER: Final = 2

# <linux/audit.h> and the system call tables: machine → (architecture, number of socket).
_MACHINES: Final = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
_IO_URING_SETUP: Final = 425
# Numbers from here on are x86-64's x32 interface, a second way to the same calls.
_X32: Final = 0x40000000
_AF_UNIX, _AF_NETLINK = 1, 16
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | 1  # EPERM
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH: Final = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
LOOK: Final = EXECUTE | READ_FILE | READ_DIR
# Everything that Landlock knows, by the version of its interface from which on it does.
_RIGHTS_BY_VERSION: Final = {1: (1 << 13) - 1, 2: 1 << 13, 3: _TRUNCATE, 5: _IOCTL}
USE: Final = sum(_RIGHTS_BY_VERSION.values())
_FOR_FILES: Final = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL
# From version 4: binding and connecting TCP. From version 6: signals to, and abstract sockets of, processes outside.
_TCP, _SCOPES = 0b11, 0b11

_libc = ctypes.CDLL(None, use_errno=True)


def refuse_internet() -> None:
    """From here on `socket` makes local and kernel sockets only; any other kind is EPERM. Raises OSError."""
    if platform.machine() not in _MACHINES:
        raise OSError(errno.ENOSYS, f"no socket filter is known for {platform.machine()}")
    _give_up_new_privileges()
    program = _socket_filter(*_MACHINES[platform.machine()])
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    if _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(header), 0, 0) != 0:
        raise _error("seccomp")


def _socket_filter(architecture: int, socket: int) -> bytes:
    """The filter as classic BPF. io_uring goes too: it can make sockets that no filter sees."""
    refuse, allow = 9, 10
    program = [
        (_LOAD, None, None, _ARCHITECTURE),
        (_EQUAL, 2, refuse, architecture),
        (_LOAD, None, None, _NUMBER),
        (_AT_LEAST, refuse, 4, _X32),
        (_EQUAL, refuse, 5, _IO_URING_SETUP),
        (_EQUAL, 6, allow, socket),
        (_LOAD, None, None, _FIRST_ARGUMENT),
        (_EQUAL, allow, 8, _AF_UNIX),
        (_EQUAL, allow, refuse, _AF_NETLINK),
        (_RETURN, None, None, _REFUSE),
        (_RETURN, None, None, _ALLOW),
    ]
    return b"".join(_instruction(line, *words) for line, words in enumerate(program))


def _instruction(line: int, code: int, then: int | None, otherwise: int | None, value: int) -> bytes:
    """One line of BPF. Jumps name the line to go to; the kernel counts from the next one on."""
    jumps = [0 if target is None else target - line - 1 for target in (then, otherwise)]
    return struct.pack("HBBI", code, *jumps, value)


def landlock_version() -> int:
    """The version of the kernel's Landlock; 0 where there is none."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))))


def close_file_system(*, readable: Iterable[Path], usable: Iterable[Path]) -> bool:
    """From here on only what lies below these paths can be read and run, or used in any way.

    Nor can the memory of processes outside be read, or a signal be sent to them. False, and nothing done, on a kernel
    without Landlock. Raises OSError.
    """
    version = landlock_version()
    if version == 0:
        return False
    _give_up_new_privileges()
    rights = sum(bits for since, bits in _RIGHTS_BY_VERSION.items() if since <= version)
    ruleset = _create_ruleset(rights, version)
    try:
        for path in readable:
            _grant(ruleset, path, LOOK & rights)
        for path in usable:
            _grant(ruleset, path, USE & rights)
        if _libc.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
            raise _error("landlock_restrict_self")
    finally:
        os.close(ruleset)
    return True


def visible(folder: Path, hidden: set[Path]) -> Iterator[Path]:
    """The fewest paths that together hold all there is below `folder`, but not what is hidden."""
    if folder in hidden:
        return
    if not any(path.is_relative_to(folder) for path in hidden):
        yield folder
        return
    with suppress(OSError), os.scandir(folder) as found:
        for entry in found:
            # What a link points to is granted where it lies.
            if not entry.is_symlink():
                yield from visible(folder / entry.name, hidden)


def _create_ruleset(rights: int, version: int) -> int:
    attributes = struct.pack("QQQ", rights, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    # Older kernels know fewer fields, and refuse longer structures even where the rest is zero.
    known = attributes[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = _libc.syscall(_CREATE_RULESET, ctypes.c_char_p(known), ctypes.c_size_t(len(known)), 0)
    if ruleset < 0:
        raise _error("landlock_create_ruleset")
    return int(ruleset)


def _grant(ruleset: int, path: Path, rights: int) -> None:
    """Allow `rights` on a path and all below it. One that is not there, or cannot be looked at, needs no grant."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _FOR_FILES
        rule = struct.pack("=Qi", rights, descriptor)
        if _libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.c_char_p(rule), 0) != 0:
            raise _error(f"landlock_add_rule {path}")
    finally:
        os.close(descriptor)


def _give_up_new_privileges() -> None:
    """No setuid program gives anything back. The kernel asks for this before it takes a filter from a normal user."""
    if _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise _error("no_new_privs")


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
