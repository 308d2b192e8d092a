from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pydantic import ByteSize
from pydantic.fields import FieldInfo

from service import settings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def shown(field: FieldInfo) -> str:
    value = field.get_default()
    if value is None:
        return "–"
    if isinstance(value, timedelta):
        units = {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1)}
        unit = next((name for name, length in units.items() if value % length == timedelta(0)), None)
        value = f"{value // units[unit]}{unit}" if unit else f"{value.seconds}s"
    elif isinstance(value, ByteSize):
        value = value.human_readable(separator="").replace(".0", "")
    elif isinstance(value, tuple):
        value = " ".join(value)
    return f"`{value}`"


def expected() -> list[str]:
    return [
        f"| `{name.upper()}` | {shown(field)} | {' '.join((field.description or '').split())} |"
        for name, field in settings.Settings.model_fields.items()
    ]


def test_every_setting_says_what_it_is():
    """Each field has a description, which is one or two sentences."""
    short = [
        name for name, field in settings.Settings.model_fields.items() if len(field.description or "") < 30
    ]

    assert short == []


def test_the_page_is_the_model():
    """docs/settings.md has each setting once, in order, with its default and meaning."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]

    assert rows == expected(), "docs/settings.md should hold:\n" + "\n".join(expected())


def test_the_page_names_every_way_to_set_something():
    """The page says how names, files and mounted secrets belong together."""
    text = PAGE.read_text(encoding="utf-8")

    assert [
        word for word in (settings.PREFIX, "_FILE", f"{settings.SECRETS_DIR}/alertwell_") if word not in text
    ] == []
