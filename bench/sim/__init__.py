"""A fleet of inference servers in virtual time, chosen from by the very code that ships.

Place:   ``epp bench sim``; docs/benchmarks.md says what is modelled and what is not.
"""
