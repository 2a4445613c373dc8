"""What stops the process from starting, said in one line that names the remedy."""


class StartError(Exception):
    """Printed by main as it is, without a traceback; exit status 1."""
