"""What pages beside an engine's metrics say: how busy the GPUs are, and which models there are.

Place:   called by epp.runtime.side_scrape with the body of an answer.
Ignores: who was asked, and when.
Rule:    nothing in a page raises; what cannot be read is unknown.
Source:  NVIDIA's dcgm-exporter; the list of models of OpenAI's API.
"""

import re
from collections.abc import Mapping

import msgspec

from epp.core.exposition import samples

GPU_UTILIZATION = b"DCGM_FI_DEV_GPU_UTIL"
MAX_MODELS = 1000
_RANK = re.compile(r"-rank-\d+\Z")


def gpu_utilization(page: bytes, *, name: str, namespace: str) -> float | None:
    """How busy the busiest GPU of an endpoint is, 0 to 1. Samples without a label ``pod`` are anybody's."""
    pod = _RANK.sub("", name)
    values = [
        sample.value / 100.0
        for sample in samples(page, GPU_UTILIZATION)
        if 0.0 <= sample.value <= 100.0
        and sample.labels.get("pod", "") in ("", pod, name)
        and (not sample.labels.get("pod") or sample.labels.get("namespace", "") in ("", namespace))
    ]
    return max(values, default=None)


class _Model(msgspec.Struct, gc=False):
    id: str = ""
    parent: str | None = None


class _Listing(msgspec.Struct, gc=False):
    data: list[_Model]


_LISTING = msgspec.json.Decoder(_Listing)


def listed_models(page: bytes) -> Mapping[str, str] | None:
    """Models by ``id``, each with its parent, or empty; None: this is no such list."""
    try:
        listing = _LISTING.decode(page)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return {model.id: model.parent or "" for model in listing.data[:MAX_MODELS] if model.id}
