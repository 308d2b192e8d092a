"""A browser of few words: opens an address of the simulated Entra, and takes the answer to where it leads.

As a program (`BROWSER="python -m tests.browsing %s"`) it trusts what REQUESTS_CA_BUNDLE names.
"""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Callable

import requests


def browse(
    address: str,
    *,
    ca_file: str | bool = True,
    alter: Callable[[dict[str, str]], dict[str, str]] = lambda values: values,
) -> requests.Response:
    """The page at the end; `alter` changes what Entra's page posts on its way back."""
    with requests.Session() as session:
        session.trust_env = ca_file is True
        session.verify = ca_file
        answer = session.get(address, timeout=10)
        form = re.search(r'<form method="POST" action="([^"]+)"', answer.text)
        if form is None:
            return answer
        fields = re.findall(r'name="([^"]+)" value="([^"]*)"', answer.text)
        values = {name: html.unescape(value) for name, value in fields}
        return session.post(html.unescape(form[1]), data=alter(values), timeout=10)


if __name__ == "__main__":
    sys.exit(0 if browse(sys.argv[1]).ok else 1)
