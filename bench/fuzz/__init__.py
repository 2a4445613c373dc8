"""`make fuzz`: real conversations, changed at every level, into our own driver, in process.

``moves`` is an input as text, ``room`` plays one and judges it, ``mutate`` makes others out of it, ``record``
took the first ones from real gateways and clients (``seeds/``), ``child`` runs under libFuzzer, ``__main__``
starts it and keeps what it finds as a test.
"""
