"""``epp``, killed right after its n-th write: ``python -m tests.system.kill_after N controller ...``.

Writes of the Lease are not counted.
"""

import os
import sys
from collections.abc import Mapping
from typing import Any

from epp.main import main
from epp.runtime.kubernetes.api import KubernetesApi

_left = int(sys.argv[1])
_write = KubernetesApi.write


async def _counted(
    self: KubernetesApi, method: str, path: str, document: Mapping[str, Any], **how: Any
) -> bytes:
    global _left  # noqa: PLW0603
    answer = await _write(self, method, path, document, **how)
    if "/leases" not in path:
        _left -= 1
        if _left == 0:
            os._exit(9)
    return answer


KubernetesApi.write = _counted  # type: ignore[method-assign]
sys.exit(main(sys.argv[2:]))
