"""What code that took the decoder over tries from inside the jail: the kernel refuses each attempt."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from media import jail
from media.errors import MediaError, NoJail
from media.jail import LAYERS, missing_layers
from media.limits import DEFAULT_LIMITS
from media.sandbox import process
from media.sandbox.process import Sandbox
from media.sandbox.protocol import JailRequest

pytestmark = [
    pytest.mark.usefixtures("nothing_left_behind"),
    pytest.mark.skipif(sys.platform != "linux", reason="seccomp and Landlock are parts of Linux"),
]

# Runs instead of the service of a request, in the real child, after the real lock-down.
_CHILD = """
import ctypes, errno, fcntl, json, os, signal, socket, subprocess, sys, threading
import media.jailed.child as child
from media.sandbox.protocol import Failed
job, other, unix, abstract, parent = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
def clone():
    child = libc.syscall(CLONE, signal.SIGCHLD, 0, 0, 0, 0)
    if child < 0:
        raise OSError(ctypes.get_errno(), "")
    if child == 0:
        os._exit(0)
def connect(address):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)
def fork():
    if os.fork() == 0:
        os._exit(0)
def attempt(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    except RuntimeError as error:
        return str(error)
    return "allowed"
def first(act, paths):
    for path in paths:
        try:
            return act(path, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            continue
        except OSError as error:
            refused = error
    raise refused
def thread():
    one = threading.Thread(target=int)
    one.start()
    one.join()
def attack(missing):
    assert missing == (), missing
    open_now = [fd for fd in range(3, 64) if attempt(lambda: os.fstat(fd)) == "allowed"]
    results = {name: attempt(action) for name, action in ATTEMPTS.items()}
    results["descriptors"] = open_now
    results["environment"] = sorted(os.environ)
    yield Failed("MediaError", json.dumps(results))
ATTEMPTS = {
    "read its own file": lambda: open(f"{job}/input", "rb").read(),
    "write its own result": lambda: open(f"{job}/result.mp4", "wb").write(b"x"),
    "start a thread": thread,
    "connect to a Unix socket": lambda: connect(unix),
    "connect to an abstract socket": lambda: connect(chr(0) + abstract),
    "create a pair of sockets": socket.socketpair,
    "create a TCP socket": lambda: socket.socket().close(),
    "create a pipe": os.pipe,
    "execute a program": lambda: os.execv("/bin/true", ["true"]),
    "execute a program by descriptor": lambda: os.execve(os.open(sys.executable, os.O_RDONLY), ["x"], {}),
    "start a program": lambda: subprocess.run(["/bin/true"]),
    "fork": fork,
    "clone": clone,
    "signal the parent": lambda: os.kill(int(parent), 0),
    "signal the parent's thread": lambda: call(TGKILL, int(parent), int(parent), 0),
    "signal all processes": lambda: os.kill(-1, 0),
    "let a descriptor signal the parent": lambda: fcntl.fcntl(0, fcntl.F_SETOWN, int(parent)),
    "limit the parent": lambda: call(PRLIMIT, int(parent), 7, None, None),
    "change a mode": lambda: os.chmod(f"{job}/input", 0o4777),
    "change an owner": lambda: os.chown(f"{job}/input", 0, 0),
    "change times": lambda: os.utime(f"{job}/input"),
    "leave a symbolic link": lambda: os.symlink("/etc/passwd", f"{job}/link.mp4"),
    "leave a hard link": lambda: os.link(f"{job}/input", f"{job}/link.mp4"),
    "replace its result": lambda: os.rename(f"{job}/input", f"{job}/result.mp4"),
    "remove its result": lambda: os.unlink(f"{job}/result.mp4"),
    "create a file": lambda: open(f"{job}/new", "wb"),
    "create a folder": lambda: os.mkdir(f"{job}/new"),
    "create a pipe with a name": lambda: os.mkfifo(f"{job}/new"),
    "overwrite its input": lambda: open(f"{job}/input", "r+b"),
    "read another job's file": lambda: open(f"{other}/input", "rb"),
    "read another job's file through a folder": lambda: open(f"{job}/../other/input", "rb"),
    "list another job's files": lambda: os.listdir(other),
    "write another job's file": lambda: open(f"{other}/input", "wb"),
    "read the user list": lambda: open("/etc/passwd"),
    "read the settings of the repository": lambda: open("pyproject.toml"),
    "read the parent's environment": lambda: open(f"/proc/{parent}/environ", "rb").read(),
    "read the parent's memory": lambda: open(f"/proc/{parent}/mem", "rb"),
    "read through the parent's root": lambda: open(f"/proc/{parent}/root{other}/input"),
    "read through the parent's folder": lambda: os.listdir(f"/proc/{parent}/cwd"),
    "write the parent's memory through its thread": lambda: open(f"/proc/{parent}/task/{parent}/mem", "r+b"),
    "read through its own root": lambda: open(f"/proc/self/root{other}/input"),
    "read through its thread's root": lambda: open(f"/proc/thread-self/root{other}/input"),
    "open its input again for writing": lambda: os.open(f"/proc/self/fd/{os.open(f'{job}/input', 0)}", os.O_RDWR),
    "open the parent's pipes": lambda: first(os.open, [f"/proc/{parent}/fd/{fd}" for fd in range(64)]),
    "write to shared memory": lambda: open("/dev/shm/jail", "wb"),
    "write to the terminal": lambda: open("/dev/tty", "wb"),
    "open the parent's descriptors": lambda: os.listdir(f"/proc/{parent}/fd"),
    "read its own memory map": lambda: open("/proc/self/maps"),
    "create a namespace": lambda: call(UNSHARE, 0x10000000),
    "make memory executable by name": lambda: os.memfd_create("x"),
    "outlive the parent": lambda: call(PRCTL, 1, 0, 0, 0, 0),
} | {name: (lambda number: lambda: call(number, 0, 0, 0, 0, 0, 0))(number) for name, number in CALLS.items()}
child._service = lambda request, limits: attack
child.main()
"""
_CALLS = {
    "x86_64": {
        "CLONE": 56, "TGKILL": 234, "PRLIMIT": 302, "UNSHARE": 272, "PRCTL": 157,
        "CALLS": {
            "vfork": 58, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "mount": 165, "bpf": 321,
            "userfaultfd": 323, "keyctl": 250, "io_uring_setup": 425, "pidfd_open": 434, "pidfd_getfd": 438,
            "setns": 308, "sendmsg": 46, "recvmsg": 47, "perf_event_open": 298, "open_by_handle_at": 304,
            "sendmmsg": 307, "add_key": 248, "shmget": 29, "msgget": 68, "semget": 64, "mq_open": 240, "splice": 275,
            "fanotify_init": 300, "inotify_init1": 294, "kcmp": 312, "personality": 135, "chroot": 161,
            "pivot_root": 155, "open_tree": 428, "process_madvise": 440, "mount_setattr": 442, "memfd_secret": 447,
            "landlock_create_ruleset": 444, "futex_waitv": 449, "vmsplice": 278,
            "modify_ldt": 154, "execveat": 322, "tkill": 200, "rt_sigqueueinfo": 129, "timer_create": 222,
            "the x32 form of socket": 0x40000000 | 41, "an unknown call": 9999,
        },
    },
    "aarch64": {
        "CLONE": 220, "TGKILL": 131, "PRLIMIT": 261, "UNSHARE": 97, "PRCTL": 167,
        "CALLS": {
            "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "mount": 40, "bpf": 280,
            "userfaultfd": 282, "keyctl": 219, "io_uring_setup": 425, "pidfd_open": 434, "pidfd_getfd": 438,
            "setns": 268, "sendmsg": 211, "recvmsg": 212, "perf_event_open": 241, "open_by_handle_at": 265,
            "sendmmsg": 269, "add_key": 217, "shmget": 194, "msgget": 186, "semget": 190, "mq_open": 180, "splice": 76,
            "fanotify_init": 262, "inotify_init1": 26, "personality": 92, "chroot": 51, "pivot_root": 41,
            "open_tree": 428, "process_madvise": 440, "mount_setattr": 442, "memfd_secret": 447,
            "landlock_create_ruleset": 444, "futex_waitv": 449, "vmsplice": 75, "kcmp": 272,
            "execveat": 281, "tkill": 130, "rt_sigqueueinfo": 138, "timer_create": 107, "an unknown call": 9999,
        },
    },
}  # fmt: skip
_ALLOWED = {"read its own file", "write its own result", "start a thread"}


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for the name of a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="jail") as folder:
        yield Path(folder)


def test_nothing_works_from_inside(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing := missing_layers():
        pytest.skip(f"the kernel does not enforce: {', '.join(missing)}")
    job, other = short / "job", short / "other"
    for folder in (job, other):
        folder.mkdir()
        (folder / "input").write_bytes(b"video")
    (job / "result.mp4").touch()
    monkeypatch.setenv("SKIPVSR_API_KEY", "sesame")
    with socket.socket(socket.AF_UNIX) as by_path, socket.socket(socket.AF_UNIX) as by_name:
        by_path.bind(str(short / "redis.sock"))
        by_name.bind(f"\0{short}")
        connected, peer = socket.socketpair()
        with connected, peer:
            for one in (by_path, by_name):
                one.listen()
            connected.set_inheritable(True)
            results = _attack(monkeypatch, job, other, short / "redis.sock", str(short))
    assert results.pop("descriptors") == []
    assert "SKIPVSR_API_KEY" not in results["environment"]
    assert set(results.pop("environment")) <= {"PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "PYTHONPATH"}
    assert {name for name, result in results.items() if result == "allowed"} == _ALLOWED
    assert {result for name, result in results.items() if name not in _ALLOWED} <= {
        "EPERM", "EACCES", "ENOSYS", "can't start new thread",
    }  # fmt: skip
    assert sorted(path.name for path in job.iterdir()) == ["input", "result.mp4"]
    assert (other / "input").read_bytes() == b"video"


def _attack(
    monkeypatch: pytest.MonkeyPatch, job: Path, other: Path, unix: Path, abstract: str
) -> dict[str, str | list[str]]:
    machine = platform.machine()
    numbers = "".join(f"{name} = {value!r}\n" for name, value in _CALLS[machine].items())
    arguments = (str(job), str(other), str(unix), abstract, str(os.getpid()))
    monkeypatch.setattr(process, "_CHILD", ("-c", numbers + _CHILD, *arguments))
    reads, writes = (job / "input",), job / "result.mp4"
    with (
        Sandbox(JailRequest(), DEFAULT_LIMITS, reads=reads, writes=writes) as child,
        pytest.raises(MediaError) as answer,
    ):
        list(child.messages())
    return dict(json.loads(str(answer.value)))


def test_this_kernel_enforces_what_it_can() -> None:
    """The answer of the child agrees with the kernel's own."""
    import ctypes

    landlock = ctypes.CDLL(None).syscall(444, None, 0, 1) > 0
    assert ("files" not in missing_layers()) == landlock
    if "seccomp" in Path("/proc/self/status").read_text().lower():
        assert "system calls" not in missing_layers()


def test_a_child_without_an_answer_counts_as_no_jail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_CHILD", ("-c", "pass"))
    assert missing_layers() == LAYERS


@pytest.mark.parametrize("calls", [_CALLS[name]["CALLS"] for name in _CALLS])
def test_the_list_names_each_call_once(calls: dict[str, int]) -> None:
    assert len(set(calls.values())) == len(calls)


def test_the_numbers_agree_with_the_headers_of_linux() -> None:
    """Where the headers are installed: names and numbers of the list are those of Linux."""
    header = Path("/usr/include/asm-generic/unistd.h")
    if platform.machine() != "x86_64" or not header.exists() or not shutil.which("cc"):
        pytest.skip("no headers of Linux")
    code = "from media.jailed.seccomp import _ALLOWED; print(_ALLOWED)"
    words = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    rows = list(zip(words[::3], words[1::3], words[2::3], strict=True))
    assert len({name for name, _, _ in rows}) == len(rows)
    for column, name in ((1, "asm/unistd.h"), (2, "asm-generic/unistd.h")):
        assert {row[0]: row[column] for row in rows if row[column] != "-"} == _in_header(name, rows, column)


def _in_header(header: str, rows: list[tuple[str, str, str]], column: int) -> dict[str, str]:
    """The preprocessor's number of each name that the list gives a number."""
    names = [row[0] for row in rows if row[column] != "-"]
    text = f"#include <{header}>\n" + "".join(f"@{name} __NR_{name}\n" for name in names)
    flags = ["-D__BITS_PER_LONG=64", "-D__ARCH_WANT_NEW_STAT", "-D__ARCH_WANT_SET_GET_RLIMIT"]
    out = subprocess.run(["cc", "-E", "-P", *flags, "-"], input=text, capture_output=True, text=True, check=True).stdout
    return dict(line[1:].split() for line in out.splitlines() if line.startswith("@"))


# A container's profile of system calls that forbids seccomp and Landlock, and then a command of the product.
_PROFILE = """
import ctypes, os, struct, sys
from media.jailed import seccomp
libc = ctypes.CDLL(None)
machine = seccomp._MACHINES[os.uname().machine]
program = seccomp._instruction(seccomp._LOAD, seccomp._NUMBER)
for number in (machine.seccomp, 444):
    program += b"".join(seccomp._if(seccomp._EQUAL, number, [seccomp._error(1)]))
program += seccomp._result(seccomp._ALLOW)
buffer = ctypes.create_string_buffer(program, len(program))
assert libc.prctl(38, 1, 0, 0, 0) == 0
header = struct.pack("HP", len(program) // 8, ctypes.addressof(buffer))
assert libc.syscall(machine.seccomp, 1, 0, header) == 0
os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])
"""


@pytest.mark.parametrize("command", ["api", "worker", "grpc"])
def test_a_service_without_a_jail_refuses_to_start(command: str, tmp_path: Path) -> None:
    if missing_layers():
        pytest.skip("this kernel enforces no filter of system calls")
    environment = {
        **os.environ,
        "SKIPVSR_REQUIRE_JAIL": "true",
        "SKIPVSR_REDIS_URL": "redis://127.0.0.1:1/0",
        "SKIPVSR_DATA_DIR": str(tmp_path),
        "SKIPVSR_HTTP_PORT": "0",
    }
    run = subprocess.run(
        [sys.executable, "-c", _PROFILE, "cli", command], env=environment, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 1
    assert "SKIPVSR_REQUIRE_JAIL demands all" in run.stderr
    assert "system calls" in run.stderr
    assert "files" in run.stderr


@pytest.fixture
def _no_jail(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(process, "_CHILD", ("-c", "pass"))
    jail._logged_layers.cache_clear()
    yield
    jail._logged_layers.cache_clear()


@pytest.mark.usefixtures("_no_jail")
def test_an_incomplete_jail_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    assert jail.checked_jail(required=False) == jail.checked_jail(required=False) == LAYERS
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    with pytest.raises(NoJail, match="SKIPVSR_REQUIRE_JAIL"):
        jail.checked_jail(required=True)
