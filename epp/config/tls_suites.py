"""Cipher suites by Go's names, as Kubernetes' flags have them, and what OpenSSL calls them.

Place:   read by epp.config.flags for --tls-cipher-suites; epp.runtime.tls tells OpenSSL.
Rule:    a name counts or is refused; an insecure one is refused, whoever asks for it.
Source:  crypto/tls, CipherSuites() and InsecureCipherSuites() of Go 1.26; k8s.io/component-base/cli/flag.
"""

import difflib
from dataclasses import dataclass

TLS12 = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}
TLS13 = frozenset({"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"})
"""All of them are always on, in Go as here."""
INSECURE = frozenset(
    {
        "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
        "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
        "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
        "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
        "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
        "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
        "TLS_RSA_WITH_AES_128_CBC_SHA",
        "TLS_RSA_WITH_AES_128_CBC_SHA256",
        "TLS_RSA_WITH_AES_128_GCM_SHA256",
        "TLS_RSA_WITH_AES_256_CBC_SHA",
        "TLS_RSA_WITH_AES_256_GCM_SHA384",
        "TLS_RSA_WITH_RC4_128_SHA",
    }
)


@dataclass(frozen=True, slots=True)
class Suites:
    """What was chosen. Nothing at all: what OpenSSL chooses."""

    names: tuple[str, ...] = ()
    """Go's, as they were written."""

    @property
    def openssl(self) -> str:
        """For TLS 1.2, as OpenSSL wants to be told; empty: its own choice, or none of TLS 1.2."""
        return ":".join(dict.fromkeys(TLS12[name] for name in self.names if name in TLS12))

    @property
    def only_tls13(self) -> bool:
        """None of those that were chosen is one of TLS 1.2, which cannot be spoken then."""
        return bool(self.names) and not self.openssl


def read(text: str) -> Suites:
    """A comma list; ValueError with the remedy."""
    names = tuple(name.strip() for name in text.split(",")) if text.strip() else ()
    for name in names:
        if name in INSECURE:
            raise ValueError(f"{name} is insecure: leave it out, or name one with ECDHE and GCM instead")
        if name not in TLS12 and name not in TLS13:
            raise ValueError(f"{name!a} is no cipher suite of Go{_meant(name)}")
    return Suites(names)


def _meant(name: str) -> str:
    close = difflib.get_close_matches(name.upper().replace("-", "_"), (*TLS12, *TLS13), n=1)
    openssl = {theirs: ours for ours, theirs in TLS12.items()}.get(name)
    found = openssl or (close[0] if close else "")
    return (
        f", did you mean {found}?" if found else ": write, for example, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
    )
