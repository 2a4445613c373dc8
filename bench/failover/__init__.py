"""`epp bench failover`: servers die, hang, load, drain and lie under load; what does a request notice?

A scenario is a row of data (bench.failover.scenarios): what is done to one of two servers at a known
moment, how that is undone, and what is expected. Everything else is common: a House of real parts, an open
loop of streamed completions, one account of every request, a table and a picture. To add a scenario:

    Scenario(
        "slow-metrics",
        "its metrics take 3 s, inference is as always",
        strike=lambda house: house.say(Mode.SLOW_METRICS),
        heal=lambda house: house.say(Mode.PASSING),
        expect=(NOTHING_FAILS, KEEPS_SERVING),
        stand=Stand.FRONT,
    )

and, where a front's new misbehaviour is needed as here, a Mode in bench.failover.front.
"""
