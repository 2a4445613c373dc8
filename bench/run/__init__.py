"""``epp bench run``: a workload sent to a real server, or to two in turn.

Place:   what is asked comes from bench.workloads, how it is sent from bench.load, how it is counted from
         bench.sim.statistics: a run and a simulation have the same figures.
Ignores: what lies behind the URL.
Rule:    what is due is sent when it is due, whatever the answers do. A later turn of a conversation is due so
         long after the answer to the one before: it cannot be asked earlier.
"""
