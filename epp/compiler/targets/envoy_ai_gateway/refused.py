"""What cannot be expressed ends the work on its object, with the finding that says why."""

from epp.compiler.findings import Finding, Origin, error


class Refused(Exception):
    """``finding``: an error."""

    def __init__(self, code: str, origin: Origin, message: str, fix: str) -> None:
        super().__init__(message)
        self.finding: Finding = error(code, origin, message, fix)
