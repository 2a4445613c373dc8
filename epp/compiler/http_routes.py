"""What an HTTPRoute can hold, and so whatever becomes one.

Place:   asked by targets/, of what people declare, and by epp.lint of AIGatewayRoutes.
Source:  Gateway API v1.5.1, the CRD of HTTPRoute; Envoy AI Gateway 0.7 and 1.1, what it makes of its routes.
"""

import re

MOST_RULES, MOST_MATCHES, MOST_IN_ROUTE = 16, 64, 128
"""Rules of a route; matches of a rule, and of a route."""
MOST_HEADERS, MOST_BACKENDS = 16, 16
"""Headers of a match; backends of a rule."""
MOST_HOSTNAMES = 16
MOST_WEIGHT = 1_000_000
"""Of a backend."""
MOST_AI_RULES, MOST_IN_AI_ROUTE = MOST_RULES - 1, MOST_IN_ROUTE - 1
"""Of an AIGatewayRoute: one rule with one match is its controller's own."""
_VALUE = re.compile(r"[!-~]+(?:[\t ]?[!-~]+)*", re.ASCII)
_LONGEST_VALUE = 4096


def is_value(text: str) -> bool:
    """Whether a header of a match can be asked for this value."""
    return len(text) <= _LONGEST_VALUE and _VALUE.fullmatch(text) is not None
