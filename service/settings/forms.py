"""How settings are typed, and what is said where one is typed wrongly: durations, sizes, names, addresses, files, secrets."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, SecretStr, WrapValidator

from service import timestamps

PREFIX = "ALERTWELL_"


class FileSecret(SecretStr):
    """A secret that was read from a file; `path` says which, for whoever watches it."""

    def __init__(self, value: str, path: Path) -> None:
        super().__init__(value)
        self.path = path


def duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    try:
        return timestamps.duration(str(value))
    except ValueError:
        raise ValueError("must be a duration: seconds, 30s 5m 2h 7d, or ISO 8601 such as PT10M") from None


def between(least: timedelta, most: timedelta) -> AfterValidator:
    def check(value: timedelta) -> timedelta:
        if not least <= value <= most:
            raise ValueError(f"must be from {shown(least)} to {shown(most)}")
        return value

    return AfterValidator(check)


def lowered(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def names(value: object) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(value.split() if isinstance(value, str) else _strings(value)))
    if not names or not all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names):
        raise ValueError("must be names of sources separated by blanks, such as: siem")
    return names


def name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", value.strip()):
        raise ValueError("must be the name of one source, such as: graph_alerts")
    return value.strip()


def _strings(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, (tuple, list)) else []


def app_id(value: object) -> str:
    try:
        return str(UUID(str(value)))
    except ValueError:
        raise ValueError(
            "must be the application (client) id, a GUID; the app's name or secret is not it"
        ) from None


def managed_identity(value: object) -> str:
    text = str(value).lower()
    if text == "system":
        return text
    try:
        return str(UUID(text))
    except ValueError:
        raise ValueError("must be system, or the client id (a GUID) of a user-assigned identity") from None


def moment(value: object) -> datetime:
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        raise ValueError(
            "must be a date or an ISO 8601 time, such as 2027-03-31 or 2027-03-31T12:00:00Z"
        ) from None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def https(value: object) -> str:
    text = str(value).rstrip("/")
    if not re.fullmatch(r"https://[^\s/?#@]+(/[^\s?#]*)?", text) or not _splits(text):
        raise ValueError(
            "must be an address such as https://host or https://host/path, without user or query"
        )
    return text


def _splits(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def resource(value: object) -> str:
    # Kept to the letter, a final slash too: Entra compares audiences as text.
    text = str(value)
    if not re.fullmatch(r"(https|api)://[^\s?#@]+", text):
        raise ValueError("must be a token audience such as https://graph.windows.net")
    return text


def database_url(value: object) -> SecretStr:
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    # Not urlsplit: it takes the ports of several hosts for one. What is inside is the driver's business.
    if not re.fullmatch(r"(postgresql|postgres)://([^\s/?]+\S*|/?\S*[?&]host=\S+)", text):
        raise ValueError(
            "must look like postgresql://user@host:5432/name (hosts separated by commas for failover)"
        )
    return SecretStr(text)


def _secret(value: Any, handler: Callable[[Any], SecretStr]) -> SecretStr:
    # Pydantic would make a plain SecretStr of a FileSecret.
    return value if isinstance(value, SecretStr) else handler(value)


def _file(value: object) -> Path:
    path = Path(str(value)).expanduser()
    try:
        found = path.is_file()
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror}); it must name a readable file") from None
    if not found:
        raise ValueError("is not a file; it must name a readable one")
    return path


def folder(value: object) -> Path:
    return Path(str(value)).expanduser()


SECOND = timedelta(seconds=1)
MIB = 1024 * 1024
Span = Annotated[timedelta, BeforeValidator(duration), between(SECOND, timedelta(days=36_500))]
Size = Annotated[ByteSize, Field(ge=64 * 1024, le=64 * 1024 * MIB)]
Https = Annotated[str, BeforeValidator(https)]
ExistingFile = Annotated[Path, BeforeValidator(_file)]
Secret = Annotated[SecretStr, WrapValidator(_secret)]


def require(holds: bool, name: str, value: timedelta | int, right: str) -> None:
    if not holds:
        raise ValueError(f"{PREFIX}{name}={shown(value)} {right}")


def shown(value: timedelta | int) -> str:
    if not isinstance(value, timedelta):
        return str(int(value))
    units = {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1)}
    unit = next((name for name, length in units.items() if value and not value % length), None)
    return f"{value // units[unit]}{unit}" if unit else f"{value.total_seconds():g}s"
