"""Where settings come from: the environment, files that it names, mounted secrets; and one line for what is wrong with one."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from service import errors
from service.settings import fields, forms

SECRETS_DIR = Path("/run/secrets")

_FILE_LIMIT = 64 * 1024
# What may stand in the environment without being a setting: the tests' own, compose's, and the addresses that
# Kubernetes gives every container for a Service named alertwell-something.
_FOREIGN_NAMES = re.compile(
    r"ALERTWELL_(TEST_\w+|IMAGE|(\w+_)?SERVICE_(HOST|PORT(_\w+)?)|(\w+_)?PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)


class Surroundings(PydanticBaseSettingsSource):
    """Environment, files that it names, mounted secrets: the first that has a setting wins."""

    def __init__(self, environ: Mapping[str, str], secrets_dir: Path) -> None:
        super().__init__(fields.Settings)
        self._environ = environ
        self._secrets_dir = secrets_dir

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        name = env_name(field_name)
        if value := self._environ.get(name, "").strip():
            return value, name, False
        pointer = "" if field_name.endswith("_file") else self._environ.get(f"{name}_FILE", "").strip()
        mounted = self._secrets_dir / f"{forms.PREFIX}{field_name}".lower()
        if not pointer and not mounted.is_file():
            return None, name, False
        path = Path(pointer).expanduser() if pointer else mounted
        try:
            value = read_file(path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            source = f"{name}_FILE={str(path)!r}" if pointer else f"{name} from {path}"
            raise errors.BadSetting(
                f"{source} cannot be used: {reason}; it must be a readable text file with the value alone"
            ) from None
        return forms.FileSecret(value, path) if _is_secret(field) else value, name, False

    def __call__(self) -> dict[str, Any]:
        found = {
            key: self.get_field_value(field, key)[0] for key, field in fields.Settings.model_fields.items()
        }
        return {key: value for key, value in found.items() if value is not None}


def load(
    environ: Mapping[str, str] | None = None, *, secrets_dir: Path = SECRETS_DIR, **overrides: Any
) -> fields.Settings:
    """Read the settings from `environ` (default: the process's); `overrides`, by field name, win unless None.

    Raises errors.BadSetting: one line with the setting, its value (never a secret's) and what would be right.
    """
    source = Surroundings(os.environ if environ is None else environ, secrets_dir)
    values = source() | {key: value for key, value in overrides.items() if value is not None}
    try:
        return fields.Settings(**values)
    except ValidationError as error:
        raise errors.BadSetting(_one_line(error, values)) from None


def read_file(path: Path) -> str:
    """The one value in a file, without blanks and line ends around it. Raises OSError, ValueError."""
    with path.open("rb") as file:
        raw = file.read(_FILE_LIMIT + 1)
    if len(raw) > _FILE_LIMIT:
        raise ValueError("it is longer than 64 KiB")
    try:
        # Editors on Windows write a byte order mark.
        text = raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    if not text:
        raise ValueError("it is empty")
    return text


def unknown(environ: Mapping[str, str] | None = None) -> list[str]:
    """One warning for each ALERTWELL_ variable that is no setting: the closest name, never the value."""
    known = {field.upper() for field in fields.Settings.model_fields}
    known |= {f"{name}_FILE" for name in known if not name.endswith("_FILE")}
    warnings = []
    for name, value in sorted((os.environ if environ is None else environ).items()):
        foreign = _FOREIGN_NAMES.fullmatch(name) or (name.endswith("_PORT") and "://" in value)
        if not name.upper().startswith(forms.PREFIX) or name.removeprefix(forms.PREFIX) in known or foreign:
            continue
        short = name.upper().removeprefix(forms.PREFIX)
        closest = difflib.get_close_matches(short, known, n=1)
        warnings.append(
            f"{name} is not a setting" + (f"; did you mean {forms.PREFIX}{closest[0]}?" if closest else "")
        )
    return warnings


def env_name(field: str) -> str:
    """The name of a field as the environment spells it."""
    return f"{forms.PREFIX}{field}".upper()


def _one_line(error: ValidationError, values: Mapping[str, Any]) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    message = re.sub(r"^Value error, |, unable to parse.*$", "", first["msg"]).replace(
        "Input should be", "must be"
    )
    if not first["loc"]:
        return message  # of the whole model: it names the settings itself
    field = str(first["loc"][0])
    if first["type"].startswith("byte_size"):
        message = "must be a number of bytes, or a size such as 32MiB or 64kB"
    # A client id that is no GUID may be the secret in the wrong place.
    hidden = field == "client_id" or (
        field in fields.Settings.model_fields and _is_secret(fields.Settings.model_fields[field])
    )
    text = re.sub(r"//[^/@]*@", "//…@", str(values.get(field, ""))[:100])
    shown = " (not shown)" if hidden else f"={text!r}"
    return f"{env_name(field)}{shown} {message}"


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr.__name__ in str(field.annotation)
