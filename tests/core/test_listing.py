"""Several lists of endpoints as one."""

from hypothesis import given
from hypothesis import strategies as st

from epp.core.fleet import EndpointSpec
from epp.core.listing import merge, named_apart


def spec(name: str, ip: str) -> EndpointSpec:
    return EndpointSpec(name=name, namespace="models", ip=ip, port=8000)


def test_the_first_list_that_has_an_address_counts() -> None:
    whole, twins = merge([[spec("desk", "10.0.0.1")], [spec("mac", "10.0.0.1"), spec("pod", "10.0.0.2")]])
    assert [one.name for one in whole] == ["desk", "pod"]
    assert twins == {"10.0.0.1:8000": "models/desk and models/mac"}


def test_who_is_called_as_another_is_gets_its_address_behind_the_name() -> None:
    apart = named_apart([spec("a", "10.0.0.1"), spec("a", "10.0.0.2"), spec("b", "10.0.0.3")])
    assert [one.name for one in apart] == ["a", "a@10.0.0.2", "b"]


specs = st.lists(
    st.builds(spec, st.sampled_from("ab"), st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"])), max_size=4
)


@given(lists=st.lists(specs, max_size=3))
def test_no_server_is_lost_and_no_name_is_there_twice(lists: list[list[EndpointSpec]]) -> None:
    whole, twins = merge(lists)
    assert {one.address for one in whole} == {one.address for some in lists for one in some}
    names = [(one.namespace, one.name) for one in whole]
    assert len(set(names)) == len(names)
    assert set(twins) <= {one.address for one in whole}
