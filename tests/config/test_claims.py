"""Two machines that take one endpoint from each other, told from one that moves."""

from hypothesis import given
from hypothesis import strategies as st

from epp.config.claims import Claims
from epp.core.fleet import EndpointSpec


def at(ip: str, identity: str = "phi/phi/http") -> tuple[EndpointSpec, ...]:
    return (EndpointSpec(name="phi", namespace="models", ip=ip, port=50123, identity=identity),)


def test_two_macs_that_claim_one_slice_in_turn_are_said() -> None:
    claims = Claims()
    assert claims.look(at("192.168.1.20"), 0.0) == ()
    assert claims.look(at("192.168.1.30"), 1000.0) == ()
    (said,) = claims.look(at("192.168.1.20"), 1030.0)
    assert said == (
        "EndpointSlice of phi: 192.168.1.30:50123 and 192.168.1.20:50123 claim it in turn:"
        " let one agent serve it (--inference-service-allowlist)"
    )
    assert claims.look(at("192.168.1.20"), 1031.0) == (said,)
    assert claims.look(at("192.168.1.20"), 1330.0) == (), "settled"


def test_one_that_moves_is_not_contested() -> None:
    claims = Claims()
    for now, ip in ((0.0, "192.168.1.20"), (30.0, "192.168.1.30"), (60.0, "192.168.1.40")):
        assert claims.look(at(ip), now) == ()
    assert claims.look(at("192.168.1.20"), 1000.0) == (), "its first lease again, much later"


def test_what_leaves_the_list_is_forgotten() -> None:
    claims = Claims()
    claims.look(at("192.168.1.20"), 0.0)
    claims.look(at("192.168.1.30"), 1.0)
    claims.look(at("192.168.1.20"), 2.0)
    assert claims.look((), 3.0) == ()
    assert claims.look(at("192.168.1.30"), 4.0) == ()


def test_who_is_its_address_claims_none() -> None:
    """A pod of a StatefulSet that comes back with an address that it had is nobody's rival."""
    claims = Claims()
    for now, ip in enumerate(("10.0.0.1", "10.0.0.2", "10.0.0.1")):
        assert claims.look(at(ip, identity=""), float(now)) == ()


@given(ips=st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"]), min_size=1, max_size=12))
def test_only_an_address_that_comes_back_is_contested(ips: list[str]) -> None:
    claims = Claims()
    said = [claims.look(at(ip), float(now)) for now, ip in enumerate(ips)]
    changes = [ip for before, ip in zip([None, *ips], ips, strict=False) if ip != before]
    assert any(said) == (len(changes) != len(set(changes)))
