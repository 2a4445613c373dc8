"""Which pools a process serves, each on which port."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.config.cluster.assignments import Assignments, Known, assigned
from epp.config.cluster.objects import (
    Members,
    Meta,
    PickerRef,
    Service,
    ServicePort,
    _PickerPort,
    _PickerServiceSpec,
)
from epp.config.cluster.wishes import PoolName, Wish

QWEN, PHI = PoolName("models", "qwen"), PoolName("models", "phi")


def pool(name: str, port: int | None = 9002, service: str = "fleet-epp", kind: str = "Service") -> Members:
    picker = PickerRef(name=service, kind=kind, port=None if port is None else _PickerPort(number=port))
    return Members(name=name, namespace="models", selector="app=x", ports=(8000,), picker=picker)


def service(*ports: tuple[int, int | str | None], name: str = "fleet-epp") -> Service:
    listed = [ServicePort(port=port, target_port=target) for port, target in ports]
    return Service(metadata=Meta(name=name), spec=_PickerServiceSpec(ports=listed))


def ask(
    *wishes: Wish,
    pools: tuple[Members, ...] = (),
    services: tuple[Service, ...] = (),
    misread: dict[str, str] | None = None,
    taken: dict[int, str] | None = None,
    before: dict[PoolName, int] | None = None,
) -> Assignments:
    known = Known(
        pools={p.name: p for p in pools},
        services={s.metadata.name: s for s in services},
        misread=misread or {},
    )
    return assigned(wishes, {"models": known}, taken=taken or {}, before=before or {})


ALL = Wish(namespace="models", service="fleet-epp")


def test_every_pool_that_names_the_service_is_served_where_it_says() -> None:
    found = ask(ALL, pools=(pool("qwen", 9002), pool("phi", 9012), pool("other", 9022, service="other-epp")))
    assert (found.ports, found.findings) == ({PHI: 9012, QWEN: 9002}, ())


def test_a_pool_whose_picker_is_no_service_is_not_ours() -> None:
    assert ask(ALL, pools=(pool("qwen", kind="Deployment"),)) == Assignments(ports={})


def test_a_pool_of_its_own_is_served_on_the_port_it_is_given_even_if_nobody_knows_it() -> None:
    assert ask(Wish(namespace="models", name="qwen", port=7000)).ports == {QWEN: 7000}


def test_a_pool_without_a_port_has_to_be_there() -> None:
    found = ask(Wish(namespace="models", name="qwen"))
    assert found.ports == {}
    assert found.findings == (
        "InferencePool models/qwen is not there: create it, or give its port as --pool models/qwen=9002",
    )


def test_a_pool_that_cannot_be_read_is_not_called_missing() -> None:
    found = ask(Wish(namespace="models", name="qwen"), misread={"qwen": "Expected `int`, got `str`"})
    assert found.findings == (
        (
            "InferencePool models/qwen is not understood: Expected `int`, got `str`: correct it, or give its"
            " port as --pool models/qwen=9002"
        ),
    )
    before = ask(Wish(namespace="models", name="qwen"), pools=(pool("qwen"),), misread={"qwen": "Expected"})
    assert (before.ports, before.findings) == ({QWEN: 9002}, ()), "what it said before stays"


def test_of_a_namespace_that_nobody_has_told_of_nothing_is_missing() -> None:
    wish = Wish(namespace="others", name="qwen")
    assert assigned([wish], {"models": Known()}, taken={}, before={}) == Assignments(ports={})


def test_a_pool_that_names_no_picker_is_told() -> None:
    bare = Members(name="qwen", namespace="models", selector="app=x", ports=(8000,))
    found = ask(Wish(namespace="models", name="qwen"), pools=(bare,))
    assert found.ports == {}
    assert "does not say on which port its picker is" in found.findings[0]


def test_a_pool_that_names_no_port_is_told() -> None:
    found = ask(ALL, pools=(pool("qwen", None), pool("phi", 9012)))
    assert found.ports == {PHI: 9012}
    assert found.findings == (
        (
            "InferencePool models/qwen does not say on which port its picker is: write"
            " endpointPickerRef.port.number, or give its port as --pool models/qwen=9002"
        ),
    )


@pytest.mark.parametrize(
    "ports, listens",
    [
        pytest.param([(9002, 9102)], 9102, id="where-the-Service-leads"),
        pytest.param([(9002, "grpc")], 9002, id="a-name-leads-nowhere-that-we-know"),
        pytest.param([(9002, None)], 9002, id="the-same"),
        pytest.param([(9003, 9103)], 9002, id="another-port-of-it"),
        pytest.param([(9003, 9103), (9002, 9102)], 9102, id="one-of-several"),
    ],
)
def test_the_port_is_the_pickers_own(ports: list[tuple[int, int | str | None]], listens: int) -> None:
    assert ask(ALL, pools=(pool("qwen"),), services=(service(*ports),)).ports == {QWEN: listens}


def test_of_two_pools_on_one_port_the_one_that_has_it_keeps_it() -> None:
    pools = (pool("qwen"), pool("phi"))  # they come in no order
    first = ask(ALL, pools=pools)
    assert first.ports == {PHI: 9002}
    assert first.findings == (
        (
            "InferencePool models/qwen: its picker is to listen on port 9002, which is for InferencePool"
            " models/phi: give each its own"
        ),
    )
    assert ask(ALL, pools=pools, before={QWEN: 9002}).ports == {QWEN: 9002}


@pytest.mark.parametrize(
    "now, why",
    [
        pytest.param(pool("qwen", 9012), "which is for InferencePool models/phi", id="another-pools"),
        pytest.param(pool("qwen", 9003), "which is for --grpc-health-port", id="the-process'"),
        pytest.param(pool("qwen", None), "does not say on which port its picker is", id="none"),
    ],
)
def test_a_pool_that_is_changed_for_the_worse_stays_where_it_is(now: Members, why: str) -> None:
    taken = {9003: "--grpc-health-port"}
    found = ask(ALL, pools=(now, pool("phi", 9012)), taken=taken, before={QWEN: 9002, PHI: 9012})
    assert found.ports == {QWEN: 9002, PHI: 9012}
    (finding,) = found.findings
    assert why in finding and finding.endswith("; until then it stays on port 9002")


def test_unless_somebody_else_is_to_have_that_port() -> None:
    found = ask(ALL, pools=(pool("qwen", None), pool("phi", 9002)), before={QWEN: 9002, PHI: 9012})
    assert found.ports == {PHI: 9002}


def test_a_pool_that_is_gone_does_not_stay() -> None:
    assert ask(ALL, pools=(pool("phi", 9012),), before={QWEN: 9002, PHI: 9012}).ports == {PHI: 9012}


def test_a_port_of_the_process_is_not_given_away() -> None:
    found = ask(ALL, pools=(pool("qwen", 9003),), taken={9003: "--grpc-health-port"})
    assert found.ports == {}
    assert "which is for --grpc-health-port" in found.findings[0]


def test_what_is_written_wins_over_what_the_pool_says() -> None:
    wish = Wish(namespace="models", name="qwen", port=7000)
    assert ask(wish, ALL, pools=(pool("qwen", 9002),)).ports == {QWEN: 7000}


POOLS = st.lists(
    st.builds(pool, st.sampled_from("abcd"), st.sampled_from([None, 1, 2, 3])),
    unique_by=lambda each: each.name,
)


@given(before=POOLS, now=POOLS)
def test_every_pool_has_a_port_of_its_own_or_is_told(before: list[Members], now: list[Members]) -> None:
    taken = {3: "--metrics-port"}
    ports = ask(ALL, pools=tuple(before), taken=taken).ports
    found = ask(ALL, pools=tuple(now), taken=taken, before=dict(ports))
    assert len({*found.ports.values(), 3}) == len(found.ports) + 1
    stays_put = sum("until then it stays on port" in finding for finding in found.findings)
    assert len(found.ports) + len(found.findings) - stays_put == len(now)
    stays = {name for name, port in ports.items() if pool(name.name, port) in now}
    assert all(found.ports[name] == ports[name] for name in stays)
