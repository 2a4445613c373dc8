"""What clients ask: sessions of turns with lengths, shared beginnings and pauses.

Place:   bench.sim plays them in virtual time, ``epp bench run`` sends them to a real server.
Ignores: servers and pickers.
"""
