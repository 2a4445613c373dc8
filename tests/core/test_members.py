"""Several pools over one fleet."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.core.fleet import Endpoint, EndpointSpec, Fleet, Load, Reservation
from epp.core.members import Members, Pools


def spec(name: str, ip: str = "10.0.0.1", port: int = 8000) -> EndpointSpec:
    return EndpointSpec(name=name, namespace="models", ip=ip, port=port)


@dataclass(frozen=True, slots=True, eq=False)
class Remembering:
    """A plugin with an object under which it remembers."""

    index: object = field(default_factory=object)


@dataclass(frozen=True, slots=True, eq=False)
class Heir(Remembering):
    """The same, by inheritance."""


class House:
    """A fleet with two pools, "a" the older."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.pools = Pools(self.fleet)
        self.a, self.b = self.pools.add(), self.pools.add()

    def lists(self, members: Members, *specs: EndpointSpec) -> tuple[list[str], list[str], list[str]]:
        """The names of those added, changed and removed."""
        added, changed, removed = self.pools.replace(members, specs, 0.0)
        return [e.name for e in added], [e.name for e in changed], [e.name for e in removed]


@pytest.fixture
def house() -> House:
    return House()


def test_a_server_of_two_pools_is_one_endpoint(house: House) -> None:
    assert house.lists(house.a, spec("pod")) == (["pod"], [], [])
    assert house.lists(house.b, spec("pod"), spec("other", "10.0.0.2")) == (["other"], [], [])
    (shared,) = house.a.endpoints
    assert house.b.endpoints[0] is shared and len(house.fleet.endpoints) == 2
    Reservation(shared, 10)
    assert house.b.endpoints[0].requests_in_flight == 1, "what one sends there the other sees"
    assert house.pools.of(shared) == [house.a, house.b]


def test_it_stays_until_the_last_pool_lets_it_go(house: House) -> None:
    house.lists(house.a, spec("pod"))
    house.lists(house.b, spec("pod"))
    assert house.lists(house.a) == ([], [], [])
    assert (house.a.endpoints, len(house.b.endpoints)) == ((), 1)
    assert house.lists(house.b) == ([], [], ["pod"])


def test_what_the_older_pool_says_of_it_counts(house: House) -> None:
    house.lists(house.b, replace(spec("pod"), tier=2))
    assert house.lists(house.a, replace(spec("pod"), tier=1)) == ([], ["pod"], [])
    (shared,) = house.b.endpoints
    assert shared.spec.tier == 1
    house.pools.remove(house.a, (), 0.0)
    assert house.b.endpoints == (shared,) and shared.spec.tier == 2


def test_a_rank_that_is_another_port_in_another_pool_is_another_server(house: House) -> None:
    house.lists(house.a, spec("pod-rank-0", port=8000))
    house.lists(house.b, spec("pod-rank-0", port=9000))
    assert [each.name for each in house.fleet.endpoints] == ["pod-rank-0", "pod-rank-0@2"]
    second = house.b.endpoints[0]
    house.pools.remove(house.a, (), 0.0)
    assert house.b.endpoints == (second,) and second.name == "pod-rank-0@2", (
        "it keeps its name, and its state"
    )


def test_a_server_keeps_its_name_when_the_pool_that_named_it_goes(house: House) -> None:
    house.lists(house.a, spec("pod-rank-0"))
    house.lists(house.b, spec("pod-rank-1"))
    (shared,) = house.b.endpoints
    house.pools.remove(house.a, (), 0.0)
    assert house.b.endpoints == (shared,) and shared.name == "pod-rank-0"


def test_another_pod_with_the_same_address_is_another_server(house: House) -> None:
    house.lists(house.a, spec("pod-x"))
    assert house.lists(house.a, spec("pod-y")) == (["pod-y"], [], ["pod-x"])


def test_plugins_of_a_pool_that_goes_leave_nothing_behind(house: House) -> None:
    house.lists(house.a, spec("pod"))
    house.lists(house.b, spec("pod"))
    (shared,) = house.b.endpoints
    of_a, heir, of_b = Remembering(), Heir(), Remembering()
    shared.memory |= {of_a: "itself", of_a.index: "prefixes", of_b.index: "prefixes of b"}
    shared.memory[heir.index] = "prefixes as well"
    house.pools.remove(house.a, [of_a, heir], 0.0)
    assert shared.memory == {of_b.index: "prefixes of b"}


def test_news_go_to_the_pools_of_the_endpoint(house: House) -> None:
    house.lists(house.a, spec("pod"))
    house.lists(house.b, spec("pod"), spec("other", "10.0.0.2"))
    heard: list[str] = []
    house.a.on_news = lambda: heard.append("a")
    house.b.on_news = lambda: heard.append("b")
    shared, other = house.b.endpoints
    house.fleet.answered(shared, 1.0)
    house.fleet.answered(other, 1.0)
    assert heard == ["a", "b", "b"]


def test_who_is_at_an_address_is_asked_of_each_pool(house: House) -> None:
    house.lists(house.a, spec("pod"))
    assert house.a.endpoint_at("10.0.0.1:8000") is house.fleet.endpoints[0]
    assert house.b.endpoint_at("10.0.0.1:8000") is None


def test_of_two_at_one_address_the_first_is_who_is_there(house: House) -> None:
    assert house.lists(house.a, spec("pod"), spec("other")) == (["pod", "other"], [], [])
    assert house.a.endpoint_at("10.0.0.1:8000") is house.a.endpoints[0]


def test_one_address_in_two_namespaces_is_two_servers(house: House) -> None:
    house.lists(house.a, spec("pod"))
    assert house.lists(house.b, replace(spec("pod"), namespace="others")) == (["pod"], [], [])
    assert house.a.endpoints != house.b.endpoints


def test_a_pool_that_goes_has_nobody_any_more(house: House) -> None:
    house.lists(house.a, spec("pod"))
    house.pools.remove(house.a, (), 0.0)
    assert (house.a.endpoints, house.a.endpoint_at("10.0.0.1:8000")) == ((), None)


def test_what_a_pick_depends_on_has_a_version_and_an_age(house: House) -> None:
    versions = [house.a.version]
    house.lists(house.a, spec("pod"))
    versions.append(house.a.version)
    (endpoint,) = house.a.endpoints
    house.fleet.reading(endpoint, Load(waiting=1), 0.0)
    versions.append(house.a.version)
    house.a.expire(house.fleet.stale_after + 1.0)
    versions.append(house.a.version)
    assert endpoint.load.waiting is None, "it is too old to be known"
    assert versions == sorted(set(versions))


def test_a_server_that_has_moved_is_found_where_it_is_now(house: House) -> None:
    mac = replace(spec("mac"), identity="studio")
    house.lists(house.a, mac)
    (endpoint,) = house.a.endpoints
    assert house.lists(house.a, replace(mac, ip="10.0.0.99")) == ([], ["mac"], [])
    assert house.a.endpoint_at("10.0.0.99:8000") is endpoint
    assert house.a.endpoint_at("10.0.0.1:8000") is None


LISTS = st.lists(
    st.builds(
        EndpointSpec,
        name=st.sampled_from("xyz"),
        namespace=st.sampled_from(["models", "others"]),
        ip=st.just("10.0.0.1"),
        port=st.sampled_from([1, 2]),
    ),
    max_size=4,
)
"""Names clash, and one address may be there twice."""
MOVES = st.lists(st.tuples(st.integers(0, 2), st.none() | LISTS), max_size=12)


def servers(specs: Sequence[EndpointSpec]) -> list[tuple[str, str, int]]:
    """Which each is: the first, second, … at its address in its namespace."""
    places = [(each.namespace, each.address) for each in specs]
    return [(*place, places[:number].count(place)) for number, place in enumerate(places)]


@given(MOVES)
def test_every_pool_has_what_it_lists_and_the_fleet_nothing_else(
    moves: list[tuple[int, list[EndpointSpec] | None]],
) -> None:
    """Whatever is listed, and whoever comes and goes (None)."""
    fleet = Fleet()
    pools = Pools(fleet)
    there: dict[int, tuple[Members, list[EndpointSpec]]] = {}
    called: dict[tuple[str, str, int], tuple[Endpoint, str, set[str]]] = {}
    for which, specs in moves:
        before: set[Endpoint] = set(fleet.endpoints)
        if specs is None:
            if which not in there:
                continue
            changed = pools.remove(there.pop(which)[0], (), 0.0)
        else:
            members = there[which][0] if which in there else pools.add()
            there[which] = members, specs
            changed = pools.replace(members, specs, 0.0)
        calling: dict[tuple[str, str, int], tuple[Endpoint, str, set[str]]] = {}
        for members, listed in there.values():
            who = list(zip(servers(listed), members.endpoints, listed, strict=True))
            for server, endpoint, said in who:
                assert (endpoint.spec.namespace, endpoint.address) == (said.namespace, said.address)
                first = next(each for each in members.endpoints if each.address == said.address)
                assert members.endpoint_at(said.address) is first
                assert members in pools.of(endpoint)
                found, _, names = calling.setdefault(server, (endpoint, endpoint.name, set()))
                assert found is endpoint, "one server is one endpoint"
                names.add(said.name)
        of_pools = {endpoint for endpoint, _, _ in calling.values()}
        assert len(of_pools) == len(calling), "and one endpoint is one server"
        assert of_pools == set(fleet.endpoints)
        assert set(changed.added) == of_pools - before and set(changed.removed) == before - of_pools
        assert len({(each.spec.namespace, each.name) for each in of_pools}) == len(of_pools)
        for server in called.keys() & calling.keys():
            endpoint, name, names = called[server]
            if names & calling[server][2]:
                assert calling[server][:2] == (endpoint, name), "as long as some list calls it as before"
        called = calling
