"""Filter of system calls (seccomp): the kernel refuses each call that decoding does not need.

The filter is a list of allowed calls. A call of a future kernel is therefore refused too. The program is classic BPF:
`linux/filter.h` and `linux/seccomp.h` define the instructions and the constants.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from itertools import chain
from typing import Final, NamedTuple

# Name of each allowed call, its number on x86_64, and its number on aarch64 ("-": no such call).
_ALLOWED: Final = """
    read 0 63           write 1 64          readv 19 65         writev 20 66        pread64 17 67
    pwrite64 18 68      lseek 8 62          open 2 -            openat 257 56       close 3 57
    close_range 436 436 dup 32 23           dup3 292 24         stat 4 -            fstat 5 80
    lstat 6 -           newfstatat 262 79   statx 332 291       access 21 -         faccessat 269 48
    faccessat2 439 439  readlink 89 -       readlinkat 267 78   getdents64 217 61   getcwd 79 17
    fsync 74 82         fdatasync 75 83
    brk 12 214          mmap 9 222          munmap 11 215       mremap 25 216       mprotect 10 226
    madvise 28 233      msync 26 227        membarrier 324 283
    futex 202 98        set_robust_list 273 99   get_robust_list 274 100            rseq 334 293
    sched_yield 24 124  sched_getaffinity 204 123   getcpu 309 168                  exit 60 93
    exit_group 231 94
    rt_sigaction 13 134 rt_sigprocmask 14 135    rt_sigreturn 15 139   sigaltstack 131 132   restart_syscall 219 128
    clock_gettime 228 113   clock_getres 229 114    clock_nanosleep 230 115   nanosleep 35 101
    gettimeofday 96 169     time 201 -              times 100 153
    poll 7 -            ppoll 271 73        select 23 -         pselect6 270 72
    getpid 39 172       getppid 110 173     gettid 186 178      getuid 102 174      geteuid 107 175
    getgid 104 176      getegid 108 177     getrandom 318 278   getrusage 98 165    getrlimit 97 163
    setrlimit 160 164   sysinfo 99 179      uname 63 160
"""


class _Machine(NamedTuple):
    """Numbers of one processor architecture."""

    audit: int
    """AUDIT_ARCH_…, which the kernel passes to the filter."""
    column: int
    """Column of the numbers in `_ALLOWED`."""
    seccomp: int
    clone: int
    fcntl: int
    ioctl: int
    tgkill: int
    prlimit64: int


_MACHINES: Final = {
    "x86_64": _Machine(0xC000003E, 1, seccomp=317, clone=56, fcntl=72, ioctl=16, tgkill=234, prlimit64=302),
    "aarch64": _Machine(0xC00000B7, 2, seccomp=277, clone=220, fcntl=25, ioctl=29, tgkill=131, prlimit64=261),
}
_CLONE3: Final = 435
_NEWEST: Final = 480
"""Calls above this number are newer than this list."""
_X32: Final = 0x40000000
"""Bit of the numbers of x86's other calling convention."""

_FILTER, _ALL_THREADS = 1, 1  # SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_CLONE_THREAD: Final = 0x10000
# F_SETOWN and F_SETSIG are missing: they would let the kernel send a signal to another process.
_FCNTL: Final = (0, 1, 2, 3, 4, 1030, 1034)  # F_DUPFD, F_{GET,SET}FD, F_{GET,SET}FL, F_DUPFD_CLOEXEC, F_GET_SEALS


def filter_calls(libc: ctypes.CDLL) -> bool:
    """Refuse all other system calls in this process, permanently. Returns whether the kernel enforces the filter.

    The process must have given up new privileges (PR_SET_NO_NEW_PRIVS).
    """
    machine = _MACHINES.get(os.uname().machine)
    if machine is None:
        return False
    program = b"".join(_program(machine, os.getpid()))
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HP", len(program) // 8, ctypes.addressof(buffer))  # struct sock_fprog
    return int(libc.syscall(machine.seccomp, _FILTER, _ALL_THREADS, header)) == 0


def _program(machine: _Machine, pid: int) -> Iterator[bytes]:
    """The instructions. `pid` is this process's id: abort() sends a signal to its own process."""
    yield _instruction(_LOAD, _ARCHITECTURE)
    yield from _if(_EQUAL, machine.audit, otherwise=[_result(_KILL)])
    yield _instruction(_LOAD, _NUMBER)
    yield from _if(_AT_LEAST, _X32, [_error(errno.EPERM)])
    for number in _numbers(machine):
        yield from _if(_EQUAL, number, [_result(_ALLOW)])
    # With ENOSYS, libc uses clone, whose flags the filter can read. With ENOTTY, Python uses fcntl.
    yield from _if(_EQUAL, _CLONE3, [_error(errno.ENOSYS)])
    yield from _if(_EQUAL, machine.ioctl, [_error(errno.ENOTTY)])
    yield from _if(_EQUAL, machine.clone, _allowed_if(0, _ANY_BIT, [_CLONE_THREAD]))
    yield from _if(_EQUAL, machine.fcntl, _allowed_if(1, _EQUAL, _FCNTL))
    yield from _if(_EQUAL, machine.tgkill, _allowed_if(0, _EQUAL, [pid]))
    yield from _if(_EQUAL, machine.prlimit64, _allowed_if(0, _EQUAL, [0, pid]))
    yield from _if(_AT_LEAST, _NEWEST, [_error(errno.ENOSYS)])  # libc then does without the call
    yield _error(errno.EPERM)


def _numbers(machine: _Machine) -> Iterator[int]:
    words = _ALLOWED.split()
    return (int(number) for number in words[machine.column :: 3] if number != "-")


def _if(
    test: int, value: int, then: list[bytes] | None = None, *, otherwise: list[bytes] | None = None
) -> Iterator[bytes]:
    """Run `then` or `otherwise`, and go on."""
    yield (
        _instruction(test, value, len(otherwise or ()), 0)
        if otherwise
        else _instruction(test, value, 0, len(then or ()))
    )
    yield from chain(then or (), otherwise or ())


def _allowed_if(argument: int, test: int, values: list[int] | tuple[int, ...]) -> list[bytes]:
    """End the filter: allow the call if the lower half of an argument passes the test with one of `values`."""
    tests = (_if(test, value, [_result(_ALLOW)]) for value in values)
    return [_instruction(_LOAD, _ARGUMENTS + 8 * argument), *chain.from_iterable(tests), _error(errno.EPERM)]


def _result(action: int) -> bytes:
    return _instruction(_RETURN, action)


def _error(number: int) -> bytes:
    return _result(_ERROR | number)


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction (struct sock_filter)."""
    return struct.pack("HBBI", code, if_true, if_false, value)
