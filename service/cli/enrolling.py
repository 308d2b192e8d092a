"""From what a person writes about a tenant to the values that are enrolled. Pure; every error says what would be right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from service import clouds, errors, model
from service.cli import output
from service.settings import Settings, forms
from service.sources import registry

LONGEST: Final = 256
"""Characters of a name, an external reference, a label: more is a wrong column."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for a tenant that says nothing itself, and where tenants can be read from."""

    sources: tuple[str, ...]
    cloud: str
    endpoints: clouds.Endpoints

    @classmethod
    def of(cls, settings: Settings) -> Terms:
        """From the settings. Raises errors.BadSetting for a source in DEFAULT_SOURCES that does not exist."""
        for name in settings.default_sources:
            if name not in registry.SOURCES:
                raise errors.BadSetting(
                    f"ALERTWELL_DEFAULT_SOURCES={' '.join(settings.default_sources)!r}: there is no source {name!r}; "
                    f"there is {' '.join(registry.SOURCES)}"
                )
        hosts = clouds.Endpoints(settings.addresses, settings.siem_resource)
        return cls(settings.default_sources, settings.cloud, hosts)


def tenant_id(text: str) -> UUID:
    """A tenant's id, in any spelling of a GUID."""
    try:
        return UUID(text.strip())
    except ValueError:
        raise errors.BadInput(
            f"{shown(text)} must be the directory (tenant) id, a GUID such as 11111111-1111-1111-1111-111111111111"
        ) from None


def app_id(text: str) -> str:
    """A tenant's own application id. It is not shown in the error: it may be the secret in the wrong place."""
    try:
        return str(UUID(text.strip()))
    except ValueError:
        raise errors.BadInput(
            "must be the application (client) id, a GUID; not the app's name or secret"
        ) from None


def name(text: str) -> str:
    """A tenant's name."""
    found = line(text)
    if found is None:
        raise errors.BadInput("must not be empty")
    return found


def line(text: str) -> str | None:
    """One short line of text, None where it is empty."""
    stripped = text.strip()
    if output.printable(stripped) != stripped:
        raise errors.BadInput(f"{shown(stripped)} must be one line without control characters")
    if len(stripped) > LONGEST:
        raise errors.BadInput(f"{shown(stripped)} is longer than {LONGEST} characters")
    return stripped or None


def end(text: str) -> datetime:
    """When a secret ends: a date or a time to come."""
    try:
        found = forms.moment(text.strip())
    except ValueError as error:
        raise errors.BadInput(f"{shown(text)} {error}") from None
    if found <= datetime.now(UTC):
        raise errors.BadInput(f"{shown(text)} is over: such a secret is of no use any more")
    return found


def labels(items: Sequence[str]) -> dict[str, str]:
    """Labels from `key=value` texts; empty ones add nothing."""
    found: dict[str, str] = {}
    for item in items:
        if not item.strip():
            continue
        key, equals, value = item.partition("=")
        read, written = line(key), line(value)
        if not equals or read is None:
            raise errors.BadInput(f"{shown(item)} must be key=value")
        if read in found:
            raise errors.BadInput(f"{shown(item)} names {read!r} a second time")
        found[read] = written or ""
    return found


def sources(names: Sequence[str], terms: Terms) -> tuple[str, ...]:
    """Names of sources that exist, each once, in the order given; those of the terms where none is named."""
    chosen = tuple(dict.fromkeys(names)) or terms.sources
    for each in chosen:
        registry.get(each)
    return chosen


def cloud(text: str | None, terms: Terms) -> str:
    """The cloud named, else that of the terms. Raises errors.BadInput for one that does not exist."""
    chosen = (text or "").strip().lower() or terms.cloud
    terms.endpoints.authority(chosen)
    return chosen


def region(text: str | None, in_cloud: str, chosen: Sequence[str], terms: Terms) -> str | None:
    """The region, None where the cloud needs none. Raises errors.BadInput where a source could not be read there."""
    found = line((text or "").lower())
    for each in chosen:
        terms.endpoints.check(registry.get(each).service, in_cloud, found)
    return found


def parameters(items: Sequence[str], chosen: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Stream parameters by source, from `NAME=VALUE` or `SOURCE.NAME=VALUE` texts. A name given twice is a list.

    Raises errors.BadInput, for what the source itself refuses as well.
    """
    given: dict[str, dict[str, list[str]]] = {}
    for item in items:
        key, equals, value = item.partition("=")
        prefix, dot, rest = key.strip().partition(".")
        source, parameter = (prefix, rest) if dot else (chosen[0], prefix)
        if not equals or not parameter or not value.strip():
            raise errors.BadInput(f"{shown(item)} must be NAME=VALUE")
        if source not in chosen or (not dot and len(chosen) > 1):
            raise errors.BadInput(
                f"{shown(item)} must be SOURCE.NAME=VALUE, and SOURCE one of: {' '.join(chosen)}"
            )
        given.setdefault(source, {}).setdefault(parameter, []).append(value.strip())
    return {source: _checked(source, values) for source, values in given.items()}


def _checked(source: str, values: Mapping[str, list[str]]) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    check = registry.get(source).check_parameters
    for parameter, texts in values.items():
        try:
            checked |= check({parameter: texts[0] if len(texts) == 1 else texts})
        except errors.BadInput as refused:
            # Only the source knows which parameters are lists: one value may be a list of one.
            try:
                checked |= check({parameter: texts})
            except errors.BadInput:
                raise refused from None
    return checked


def place(tenant: model.Tenant) -> str:
    """`gcc-high/us`, or the cloud alone."""
    return tenant.cloud if tenant.region is None else f"{tenant.cloud}/{tenant.region}"


def shown(text: str) -> str:
    """The text as an error quotes it: short, in one line."""
    cut = re.sub(r"(?s)(.{60}).+", r"\1…", text)
    return repr(cut)
