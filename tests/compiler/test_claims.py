"""Two routers want one model name."""

from typing import Any

from epp.compiler import claims
from epp.compiler.intent import Condition, GatewayRef, Router
from tests.compiler.makers import backend, origin, pool, router, rule

QWEN = backend(pool("qwen"))
OLD, YOUNG = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"


def asking_for(name: str, created: str, *models: str, **more: Any) -> Router:
    return router(
        name, rule(QWEN, of=origin(name, created), models=models, name=name), created=created, **more
    )


def names(routers: tuple[Router, ...]) -> dict[str, tuple[str, ...]]:
    return {one.name: one.rules[0].models for one in routers}


def test_the_oldest_has_it_and_the_other_is_told() -> None:
    kept, (told,) = claims.settle([asking_for("b", YOUNG, "qwen", "phi"), asking_for("a", OLD, "qwen")])
    assert names(kept) == {"a": ("qwen",), "b": ("phi",)}
    assert (told.code, told.origin.name) == ("ModelNameTaken", "b")
    assert "ModelRouter/llm/a" in told.message


def test_whoever_has_no_name_left_has_no_rule() -> None:
    kept, told = claims.settle([asking_for("b", YOUNG, "qwen"), asking_for("a", OLD, "qwen")])
    assert names(kept) == {"a": ("qwen",)}
    assert len(told) == 1


def test_a_file_is_older_than_a_cluster() -> None:
    kept, _ = claims.settle([asking_for("cluster", OLD, "qwen"), asking_for("file", "", "qwen")])
    assert names(kept) == {"file": ("qwen",)}


def test_of_one_second_the_name_decides() -> None:
    kept, _ = claims.settle([asking_for("b", OLD, "qwen"), asking_for("a", OLD, "qwen")])
    assert names(kept) == {"a": ("qwen",)}


def test_at_another_gateway_it_is_another_name() -> None:
    elsewhere = asking_for("b", YOUNG, "qwen")
    elsewhere = Router("b", "llm", GatewayRef("other", "edge"), elsewhere.rules, elsewhere.origin)
    kept, told = claims.settle([asking_for("a", OLD, "qwen"), elsewhere])
    assert len(kept) == 2 and not told


def test_two_hostnames_are_two_places() -> None:
    one = asking_for("a", OLD, "qwen", hostnames=("a.example.com",))
    other = asking_for("b", YOUNG, "qwen", hostnames=("b.example.com",))
    assert len(claims.settle([one, other])[0]) == 2


def test_a_pattern_or_a_condition_claims_nothing() -> None:
    pattern = asking_for("a", OLD, "qw*")
    narrow = router("n", rule(QWEN, models=("qwen",), conditions=(Condition("x", ("y",)),)), created=OLD)
    kept, told = claims.settle([pattern, narrow, asking_for("c", YOUNG, "qwen", "qw*")])
    assert names(kept)["c"] == ("qwen", "qw*") and not told


def test_a_router_may_say_a_name_twice() -> None:
    twice = router(
        "a", rule(QWEN, of=origin("a"), models=("qwen",)), rule(QWEN, of=origin("a"), models=("qwen",))
    )
    assert claims.settle([twice]) == ((twice,), ())
