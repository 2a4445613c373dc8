"""``python -m epp``: the same as the ``epp`` command."""

from epp.main import run

run()
