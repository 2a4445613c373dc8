"""Objects that an older version has made, of kinds that this one does not know."""

from epp.controller.difference import Verb
from tests.controller.model_api import ModelApi
from tests.controller.objects import emitted
from tests.controller.test_difference import compared, steps, written

DELETE = Verb.DELETE


def test_a_kind_that_we_make_no_more_goes_first() -> None:
    """As an older version has left it: it may name anything, and nothing of ours names it."""
    api = written(ModelApi(), *(emitted(kind, "old") for kind in ("Service", "HTTPRoute")))
    api.put({**emitted("HTTPRouteFilter", "old").document})
    assert steps(compared(api)) == [
        (DELETE, "HTTPRouteFilter", "old"),
        (DELETE, "HTTPRoute", "old"),
        (DELETE, "Service", "old"),
    ]
