"""Several lists of endpoints as one."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from epp.core.fleet import EndpointSpec, Fleet, Replaced
from epp.core.listing import merge, named_apart


def spec(name: str, ip: str) -> EndpointSpec:
    return EndpointSpec(name=name, namespace="models", ip=ip, port=8000)


def test_the_first_list_that_has_an_address_counts() -> None:
    whole, twins = merge([[spec("desk", "10.0.0.1")], [spec("mac", "10.0.0.1"), spec("pod", "10.0.0.2")]])
    assert [one.name for one in whole] == ["desk", "pod"]
    assert twins == {"10.0.0.1:8000": "models/desk and models/mac"}


def test_who_is_called_as_another_is_gets_a_number() -> None:
    apart = named_apart([spec(name, f"10.0.0.{n}") for n, name in enumerate(["a", "a", "b", "a"])])
    assert [one.name for one in apart] == ["a", "a@2", "b", "a@3"]


def test_a_number_that_is_a_name_already_is_left_out() -> None:
    apart = named_apart([spec("a@2", "10.0.0.1"), spec("a", "10.0.0.2"), spec("a", "10.0.0.3")])
    assert [one.name for one in apart] == ["a@2", "a", "a@3"]


def test_a_server_with_a_new_address_stays_itself_beside_one_of_the_same_name() -> None:
    fleet, desk = Fleet(), spec("studio", "10.0.0.1")

    def listed(ip: str) -> Replaced:
        mac = replace(spec("studio", ip), identity="studio/http")
        return fleet.replace(merge([[desk], [mac]])[0], 0.0)

    assert [one.address for one in listed("10.0.0.2").added] == ["10.0.0.1:8000", "10.0.0.2:8000"]
    added, changed, removed = listed("10.0.0.9")
    assert ([one.address for one in changed], added, removed) == (["10.0.0.9:8000"], [], [])


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
