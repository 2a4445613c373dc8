"""A response names the model that the client asked for, not the one that a rewrite made of it.

Place:   fed by epp.core.stream with every piece of the response to a rewritten request, where the gateway
         leaves the bytes to us.
Ignores: what else is in the response.
Rule:    however the response is cut, the result is that of the whole. Only a beginning of what is looked for
         waits for the next piece. A name in a generated text is never touched: its quotes are escaped there.
Source:  upstream's replacement of ``"model":"X"`` and ``"model": "X"``, wherever they stand.
"""

import re

import msgspec


class Renamer:
    """Puts ``shown`` where the model is called ``target``. ``feed`` every piece, then ``rest``."""

    __slots__ = ("_forms", "_longest", "_pattern", "_pending", "_replacement")

    def __init__(self, target: str, shown: str) -> None:
        old, new = msgspec.json.encode(target), msgspec.json.encode(shown)
        self._forms = (b'"model":' + old, b'"model": ' + old)
        self._longest = len(self._forms[1])
        self._pattern = re.compile(b'"model":( ?)' + re.escape(old))
        self._replacement = b'"model":\\1' + new.replace(b"\\", b"\\\\")
        self._pending = b""

    def feed(self, data: bytes) -> bytes:
        """As much as is certain with this piece; perhaps nothing."""
        data = self._pending + data
        keep = self._beginning(data)
        self._pending = data[len(data) - keep :]
        return self._renamed(data[: len(data) - keep])

    def rest(self) -> bytes:
        """What waited, when nothing comes any more."""
        pending, self._pending = self._pending, b""
        return pending

    def _renamed(self, data: bytes) -> bytes:
        return self._pattern.sub(self._replacement, data) if b'"model"' in data else data

    def _beginning(self, data: bytes) -> int:
        """How many bytes at the end may become what is looked for, not counting what is."""
        found = 0
        for match in self._pattern.finditer(data) if b'"model"' in data else ():
            found = match.end()
        start = max(len(data) - self._longest + 1, found)
        while (start := data.find(b'"', start)) >= 0:
            end = data[start:]
            if any(len(end) < len(form) and form.startswith(end) for form in self._forms):
                return len(end)
            start += 1
        return 0
