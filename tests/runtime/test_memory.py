"""Large bodies come and go without the system being asked for their pages each time."""

import platform
import subprocess
import sys
from collections.abc import Callable

import pytest

from epp.runtime import memory

BODIES = """
import resource, sys
from epp.runtime import memory
if sys.argv[1] == "kept":
    memory.keep_what_is_freed()
def some():
    return [b"x" * int(sys.argv[2]) for _ in range(4)]
for _ in range(10):
    some()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    some()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str, size: int) -> int:
    command = [sys.executable, "-c", BODIES, how, str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc",
    reason="this C library is not glibc: that freed memory is kept was not tested",
)
@pytest.mark.parametrize("size", [220_000, 3_000_000])
def test_what_bodies_took_is_kept_for_the_next_ones(size: int) -> None:
    """Neither is the end of the heap given back, nor has a large body a mapping of its own."""
    assert page_faults("kept", size) < page_faults("not kept", size) / 20


def _no_such_function(_: None) -> object:
    return object()


def _no_libraries(_: None) -> object:
    raise OSError("dynamic loading is not supported")


@pytest.mark.parametrize("load", [_no_such_function, _no_libraries])
def test_another_c_library_is_left_as_it_is(
    load: Callable[[None], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As musl is, which has no such setting, or none to be called by name."""
    asked: list[None] = []
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: asked.append(name) or load(name))
    memory.keep_what_is_freed()
    assert asked == [None]
