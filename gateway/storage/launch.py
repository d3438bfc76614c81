"""Start a program that dies with its parent and, when root starts it, under an identity that it accepts.

A script of its own (``python -I -S launch.py ...``), because the steps between fork and exec must not run in a
process that has threads, and because ``setpriv`` and ``unshare`` are not installed everywhere. It uses the standard
library alone. The program runs at a low priority: history gives way to the loop that acknowledges. Exit code 111: the
identity, the working directory or the program cannot be had.

Identities: ``keep`` changes nothing. ``drop`` becomes uid and gid 65534. ``namespace`` becomes uid 1000 inside a user
namespace whose only user is the caller. ``search`` is ``drop`` with the one capability that lets it pass directories
which only root may enter.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

UNPRIVILEGED_ID: Final = 65534
NAMESPACE_ID: Final = 1000
CANNOT: Final = 111
NICENESS: Final = 10

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_KEEPCAPS: Final = 8
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_CLONE_NEWUSER: Final = 0x10000000
_CAPABILITY_VERSION_3: Final = 0x20080522
_CAP_DAC_OVERRIDE: Final = 1
_CAP_DAC_READ_SEARCH: Final = 2


def give_way(niceness: int = NICENESS) -> None:
    """Lower the priority of this process and of what it will start, where that is allowed: a sandbox may refuse it.

    Call it in a session of its own: one is scheduled as a group (autogroup of sched(7)), whatever the niceness within.
    """
    try:
        os.setpriority(os.PRIO_PROCESS, 0, niceness)
        with open("/proc/self/autogroup", "w", encoding="ascii") as file:  # noqa: PTH123 - pathlib is slow to import
            file.write(str(niceness))
    except OSError:  # not allowed, or a kernel without autogroup
        pass


def die_with_parent(signal_number: int, parent_pid: int) -> None:
    """Ask the kernel for ``signal_number`` when the thread that forked this process ends; exit if it already has."""
    _call("prctl", _PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the kernel knew of our wish
        os._exit(CANNOT)


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _drop() -> None:
    os.setgroups([])
    os.setresgid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
    os.setresuid(UNPRIVILEGED_ID, UNPRIVILEGED_ID, UNPRIVILEGED_ID)


def _enter_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    _call("unshare", _CLONE_NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{NAMESPACE_ID} {uid} 1"),
        ("gid_map", f"{NAMESPACE_ID} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123 - pathlib is slow to import
            file.write(text)


def _drop_but_search() -> None:
    """Reading and searching is enough where root has that capability; containers often have only the wider one."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123
        have = int(next(line for line in file if line.startswith("CapEff:")).split()[1], 16)
    capability = _CAP_DAC_READ_SEARCH if have >> _CAP_DAC_READ_SEARCH & 1 else _CAP_DAC_OVERRIDE
    _call("prctl", _PR_SET_KEEPCAPS, 1, 0, 0, 0)
    _drop()
    bits = 1 << capability
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(bits, bits, bits, 0, 0, 0)  # effective, permitted, inheritable: low words, high words
    _call("capset", header, data)
    _call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0)


_IDENTITIES: Final = {
    "keep": lambda: None,
    "drop": _drop,
    "namespace": _enter_namespace,
    "search": _drop_but_search,
}


def main(arguments: list[str]) -> None:
    """``launch.py IDENTITY SIGNAL PARENT_PID DIRECTORY PROGRAM [ARGUMENT...]``; DIRECTORY must be writable."""
    identity, signal_name, parent_pid, directory, *command = arguments
    try:
        give_way()
        _IDENTITIES[identity]()
        os.chdir(directory)
        probe = f".writable-{os.getpid()}"
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        os.unlink(probe)  # noqa: PTH108 - as above
        # Last: the kernel forgets the wish when the identity changes.
        die_with_parent(signal.Signals[signal_name], int(parent_pid))
        os.execv(command[0], command)  # noqa: S606 - the program is the caller's
    except OSError as error:
        print(f"launch: cannot start {command[0]} as {identity}: {error}", file=sys.stderr)  # noqa: T201 - a script
        sys.exit(CANNOT)


if __name__ == "__main__":
    main(sys.argv[1:])
