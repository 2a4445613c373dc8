"""What the compiler makes of the cluster's objects, kept true in the cluster.

Place:   loop.py runs it. watching.py follows what people declare and what is there, where
         discovery.py finds it;
         difference.py says what is to be written, carrying.py has it written by cluster.py, as soon as
         pace.py lets it; statuses.py and events.py tell what came of it.
Ignores: what the objects should be (epp.compiler).
"""
