"""Large bodies come and go without the system being asked for their pages each time."""

import platform
import subprocess
import sys

import pytest

BODIES = """
import resource, sys
from epp.runtime import memory
if sys.argv[1] == "kept":
    memory.keep_what_is_freed()
def some():
    return [bytes(220_000) for _ in range(4)]
for _ in range(10):
    some()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    some()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", BODIES, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told what to keep")
def test_what_bodies_took_is_kept_for_the_next_ones() -> None:
    assert page_faults("kept") < page_faults("not kept") / 20
