"""What is done to a house, where a method of House or of its parts is not enough.

Place:   named by rows of bench.failover.scenarios.
Rule:    a fault is a function of the house; it runs on a thread of its own, and the clock that counts is read
         just before it.
"""

import os
import signal

from bench.failover.front import Mode
from bench.failover.house import House

FLAP_SECONDS = 2.0


def terminate(house: House) -> None:
    """SIGTERM; streams that are open are cut, as llama.cpp does it."""
    house.victim.terminate()


def stop(house: House) -> None:
    """It hangs: the kernel takes connections for it, and nobody reads them."""
    os.kill(house.victim.pid, signal.SIGSTOP)


def go_on(house: House) -> None:
    os.kill(house.victim.pid, signal.SIGCONT)


def flap(house: House) -> None:
    """Dead for two seconds, alive for two seconds, and so on while the fault lasts."""
    mode = Mode.GONE
    while not house.over.is_set():
        house.say(mode)
        mode = Mode.PASSING if mode is Mode.GONE else Mode.GONE
        house.over.wait(FLAP_SECONDS)
