"""Hosts, ports and URLs as people write them: what is read, what is said, and that the rest can be used."""

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from epp.core.addresses import MetricsUrl, read_host, read_metrics_url, read_target


@pytest.mark.parametrize(
    "text, read",
    [
        ("http://10.0.0.1:9400/metrics", MetricsUrl("http", "10.0.0.1", 9400, "/metrics")),
        ("http://Studio.Local.", MetricsUrl("http", "studio.local", 80, "/metrics")),
        ("https://h", MetricsUrl("https", "h", 443, "/metrics")),
        ("https://[2001:db8::0:1]/", MetricsUrl("https", "2001:db8::1", 443, "/")),
        ("http://[::1]:9/m?x=%2F&y=@:/?", MetricsUrl("http", "::1", 9, "/m?x=%2F&y=@:/?")),
    ],
)
def test_metrics_urls(text: str, read: MetricsUrl) -> None:
    assert read_metrics_url(text) == read


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "a whole URL"),
        ("nonsense", "a whole URL"),
        ("ftp://a/b", "a whole URL"),
        ("HTTP://a", "a whole URL"),
        ("http://a?x=1", "a whole URL"),
        ("http://[::1/metrics", "a whole URL"),
        ("http://a]:9/m", "a whole URL"),
        ("http://", "neither an IP address nor a host name"),
        ("http:///m", "neither an IP address nor a host name"),
        ("http://a b/", "neither an IP address nor a host name"),
        ("http://a\n/", "neither an IP address nor a host name"),
        ("http://münchen:9/m", "neither an IP address nor a host name"),
        ("http://a℀b:9/m", "neither an IP address nor a host name"),
        (f"http://{'h' * 64}/m", "neither an IP address nor a host name"),
        ("http://10.0.0.256/", "no IPv4 address"),
        ("http://[fe80::1%25eth0]/m", "zones"),
        ("http://me:secret@h:9/m", "no user name or password"),
        ("http://me@h/m", "no user name or password"),
        ("http://h:/m", "its port must be from 1 to 65535"),
        ("http://h:x/m", "its port must be from 1 to 65535"),
        ("http://h:0/m", "its port must be from 1 to 65535"),
        ("http://h:99999/m", "its port must be from 1 to 65535"),
        ("http://h:٣/m", "its port must be from 1 to 65535"),
        ("http://h:9/→", "its path has characters that no request may have"),
        ("http://h:9/a b", "its path has characters that no request may have"),
        ("http://h:9/a\r\nEvil: yes", "its path has characters that no request may have"),
        ("http://h:9/a#b", "its path has characters that no request may have"),
    ],
)
def test_what_is_no_metrics_url(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_metrics_url(text)
    assert "secret" not in str(caught.value)


TEXTS = st.text(st.sampled_from("aB0-_.:/[]@%#?→ü℀ \n\0\ud800") | st.characters(), max_size=80)


@given(begin=st.sampled_from(["", "http://", "https://[", "http://h:", "http://h/"]), text=TEXTS)
@example(begin="http://", text="h" * 63 + ".")
def test_what_is_accepted_can_be_resolved_and_requested(begin: str, text: str) -> None:
    try:
        url = read_metrics_url(begin + text)
    except ValueError:
        return
    url.host.encode("idna")  # as a resolver and TLS do
    assert url.host and 1 <= url.port <= 65535
    assert f"GET {url.target} HTTP/1.1".encode("ascii").split() == [b"GET", url.target.encode(), b"HTTP/1.1"]


@given(text=TEXTS)
def test_a_host_is_a_literal_address_or_a_name(text: str) -> None:
    try:
        host, is_literal = read_host(text)
    except ValueError:
        return
    assert read_host(host) == (host, is_literal), "the usual form is itself"
    assert host.encode("idna")
    assert not is_literal or str(ipaddress.ip_address(host)) == host


@given(text=TEXTS)
def test_a_target_is_as_it_was_written(text: str) -> None:
    try:
        assert read_target(text) == text
    except ValueError:
        return
    assert text.isascii() and text.isprintable() and " " not in text
