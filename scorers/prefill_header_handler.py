"""``prefill-header-handler``: the former name of ``disagg-headers-handler``."""

from dataclasses import dataclass

from scorers.disagg_headers_handler import DisaggHeadersHandler


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillHeaderHandler(DisaggHeadersHandler):
    """Accepted and without effect: ``disagg-profile-handler`` sets the header itself.

    Source: upstream ``prefill-header-handler``, deprecated in v0.9.
    """
