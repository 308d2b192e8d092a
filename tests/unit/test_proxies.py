"""Which addresses a proxy is for, and what is taken for one."""

from __future__ import annotations

import pytest

from service import errors, proxies, settings


@pytest.mark.parametrize(
    ("bypass", "url", "through"),
    [
        ("", "https://login.microsoftonline.com/x", True),
        ("*", "https://login.microsoftonline.com/x", False),
        ("graph.microsoft.com", "https://graph.microsoft.com", False),
        ("graph.microsoft.com", "https://GRAPH.microsoft.com.", False),
        ("graph.microsoft.com", "https://notgraph.microsoft.com", True),
        ("microsoft.com", "https://graph.microsoft.com", False),
        ("microsoft.com", "https://evilmicrosoft.com", True),
        (".microsoft.com", "https://graph.microsoft.com", False),
        (".microsoft.com", "https://microsoft.com", False),
        ("localhost:8443", "https://localhost:8443", False),
        ("localhost:8443", "https://localhost", True),
        ("a.example, localhost:443", "https://localhost", False),
        ("10.0.0.0/8", "https://10.1.2.3", False),
        ("10.0.0.0/8", "https://11.1.2.3", True),
        ("10.0.0.0/8", "https://ten.example", True),
        ("10.1.2.3", "https://10.1.2.3:8443", False),
        ("[fd00::1]:443", "https://[fd00::1]", False),
        ("fd00::1", "https://[fd00:0::1]:8443", False),
        ("", "https://169.254.169.254/metadata", False),
        ("", "http://localhost:40342/metadata/identity", False),
    ],
)
def test_for_url(bypass: str, url: str, through: bool):
    """NO_PROXY's entries as documented; plain http and link-local addresses never go through."""
    made = proxies.parse("http://proxy.example:3128", "", proxies.bypasses(bypass))
    assert made.for_url(url) is through


@pytest.mark.parametrize("entry", ["a b/99", "http://x", "host:0", "host:port", "-", "10.0.0.0/64", "ho$t"])
def test_bad_entries(entry: str):
    """What is no entry is named."""
    with pytest.raises(ValueError, match="entry"):
        proxies.bypasses(entry)


@pytest.mark.parametrize(
    "url",
    [
        "proxy.example:3128",
        "socks5://p:1",
        "http://",
        "http://p:0",
        "http://p:99999",
        "http://p/x",
        "http://p?x",
        "http://p x",
    ],
)
def test_bad_urls(url: str):
    """What is no proxy's address is refused with what would be right."""
    with pytest.raises(errors.BadSetting, match=r"ALERTWELL_PROXY_URL.*must be the address of a proxy"):
        settings.load({"ALERTWELL_PROXY_URL": url})


@pytest.mark.parametrize("url", ["http://u:hidden@p:1", "http://u:hid/hidden@p:1", "ftp://u:hidden@p"])
def test_a_password_in_the_address_is_refused_and_not_shown(url: str):
    """It names the setting that it belongs into, where it can be told."""
    with pytest.raises(errors.BadSetting, match="ALERTWELL_PROXY_URL") as refused:
        settings.load({"ALERTWELL_PROXY_URL": url})
    assert "hidden" not in str(refused.value)


def test_a_password_without_a_user_is_refused():
    """Nobody would send it."""
    with pytest.raises(errors.BadSetting, match="names no user"):
        settings.load({"ALERTWELL_PROXY_URL": "http://p:1", "ALERTWELL_PROXY_PASSWORD": "x"})


def test_credentials_travel_in_the_header_alone():
    """Neither address, name nor repr hold the password; percent-encoded users are decoded."""
    made = proxies.parse("http://corp%5Calice@proxy.example:3128", "s3cret")
    assert made.user == "corp\\alice"
    assert (made.url, made.name) == ("http://proxy.example:3128", "proxy.example:3128")
    assert made.headers == {"Proxy-Authorization": "Basic Y29ycFxhbGljZTpzM2NyZXQ="}
    assert "s3cret" not in repr(made)
    assert proxies.parse("https://proxy.example").url == "https://proxy.example:443"
