"""The listeners of the gateways in these tests: one for each dialect."""

from bench.rig.envoy import DIALECTS, Body, Listener, Route

LISTENERS = {
    **DIALECTS,
    # Envoy 1.40 sends a full duplex body twice when there are both trailers and retries (envoy#45470)
    "override_host_once": Listener(route=Route.OVERRIDE_HOST),
    "buffered": Listener(request_body=Body.BUFFERED, response_body=Body.BUFFERED, buffer_limit=16 << 20),
    "streamed": Listener(request_body=Body.STREAMED, response_body=Body.STREAMED),
    "headers_only": Listener(request_body=Body.NONE, response_body=Body.NONE),
    "request_only": Listener(response_phase=False),
    "response_only": Listener(route=Route.OVERRIDE_HOST, request_phase=False),
}
"""Every dialect of the shared gateway, by the name to give ``gateway.url``."""
HINTED = {
    "hinted": Listener(route=Route.OVERRIDE_HOST, subset_hint=True),
    "hinted_buffered": Listener(
        route=Route.OVERRIDE_HOST, subset_hint=True, request_body=Body.BUFFERED, response_body=Body.BUFFERED
    ),
    "hinted_streamed": Listener(
        route=Route.OVERRIDE_HOST, subset_hint=True, request_body=Body.STREAMED, response_body=Body.STREAMED
    ),
}
"""Those that send a subset hint with the request."""
