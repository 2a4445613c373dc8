"""``dcgm-extractor``: how busy an endpoint's GPUs are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from epp.core.scoring import Kind

ATTRIBUTE = "GPUUtilization"


@dataclass(frozen=True, slots=True)
class DcgmExtractor:
    """Find out how busy the busiest GPU of an endpoint is; without parameters.

    In:     the page that a ``dcgm-data-source`` reads.
    Out:    the figure ``GPUUtilization``, for ``endpoint-attribute-scorer`` and
            ``endpoint-attribute-filter``: the most of ``DCGM_FI_DEV_GPU_UTIL`` / 100, over the samples whose
            label ``pod`` is the endpoint's pod, and those without that label. Unknown where there is none,
            where the exporter does not answer, and three intervals after it last did.
    Better: a figure that grows too old is unknown.
    Source: upstream ``dcgm-extractor``, whose last figure counts for ever.
    """

    is_experimental: ClassVar[bool] = True
    kind: ClassVar[Kind] = Kind.SIDE_EXTRACTOR
    figures: ClassVar[Sequence[str]] = (ATTRIBUTE,)
