"""Every setting of Alertwell: one frozen model, read once at the start.

A setting NAME is looked for as ALERTWELL_NAME in the environment, then in the file that ALERTWELL_NAME_FILE
names (not for settings whose own name ends in _FILE), then as /run/secrets/alertwell_name; else it has its
default. An empty value counts as not set. Blanks and line ends around a value are dropped: secrets are often
stored with a line end that is no part of them.

What stands below each field is its text in docs/settings.md, which a test compares with this model. Durations
are `timedelta`s, typed as seconds, 30s 5m 2h 7d or ISO 8601; sizes are bytes, typed as 65536, 32MiB, 64kB.
"""

from service.settings.fields import Settings
from service.settings.forms import PREFIX, FileSecret
from service.settings.reading import SECRETS_DIR, env_name, load, read_file, unknown

__all__ = ["PREFIX", "SECRETS_DIR", "FileSecret", "Settings", "env_name", "load", "read_file", "unknown"]
