"""A fleet of inference servers in virtual time, chosen from by the very code that ships.

Place:    ``epp bench sim``; docs/benchmarks.md shows how to use it.
Modelled: clients with sessions (bench.workloads); pickers, one or several that know nothing of each other:
          Fleet and Scheduler of epp.core with the plugins of a configuration (play); readings with interval,
          delay and loss (readings); servers with continuous batching, chunked prefill, a prefix cache in
          blocks and preemption (batching, cache), servers with slots (slots), step times of published
          hardware (hardware); deaths, restarts and slow servers (faults).
Not:      networks and gateways (they take no time), tokenizers (lengths are exact, and four bytes of prompt
          stand for a token), the pickers' own CPU time, flow control, clients that give up; and what
          batching, slots and hardware say they leave out.
"""
