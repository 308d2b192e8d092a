"""`alertwell login`: a user signs in, and alerts are read on that user's behalf."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from service.cli import database, epilog, options, output

if TYPE_CHECKING:
    from service.auth import sign_in
    from service.cli import signing

EPILOG: Final = epilog.lines(
    """
    Examples:
      alertwell login Contoso
      alertwell login Contoso --client-id 22222222-2222-2222-2222-222222222222 --source graph_alerts
      alertwell login Contoso --browser

    The app registration needs "Allow public client flows", its delegated permissions, and for --browser the redirect URI
    http://localhost of the platform Mobile and desktop applications. Exit code 0 where the sign-in was stored, 1 where not.
    """
)


def login(
    who: Annotated[
        str, typer.Argument(metavar="TENANT", help="The tenant's id, or its name where only one has it.")
    ],
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="What the user reads; may be repeated.  [default: all that has no app of its own]",
        ),
    ] = None,
    client_id: Annotated[
        str | None,
        typer.Option(
            metavar="GUID", help="The app to sign in to.  [default: that of before, else ALERTWELL_CLIENT_ID]"
        ),
    ] = None,
    browser: Annotated[
        bool,
        typer.Option("--browser", help="In a browser on this machine, in place of a code for any device."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON on stdout, for programs; what to open is on stderr.")
    ] = False,
) -> None:
    """Sign a user in, and collect on that user's behalf.

    Prints an address and a code; whoever may read the tenant's alerts opens the one and enters the other, on any device. The
    sign-in is tried with a real call for each source, then stored, sealed, and renewed by the service. When it ends (revoked,
    expired, a second factor asked for) the tenant waits for the next login.
    """
    from service import log, settings
    from service.cli import enrolling, signing

    loaded = settings.load()
    terms = enrolling.Terms.of(loaded)
    log.configure("error", loaded.log_format)
    wish = signing.Wish(
        who,
        options.of("--source", lambda: enrolling.sources(source, terms)) if source else (),
        options.of("--client-id", lambda: enrolling.app_id(client_id)) if client_id is not None else None,
        browser,
    )
    voice = _Voice(aside=as_json)
    try:
        done = database.work(
            loaded,
            lambda opened: signing.login(
                opened, loaded, wish, signing.Voice(voice.device, voice.visit, voice.waits)
            ),
        )
    except KeyboardInterrupt:
        output.warn("ended before the sign-in was complete")
        raise typer.Exit(130) from None
    if as_json:
        output.document(_plain(done))
    else:
        _print(done)
    if not done.kept:
        raise typer.Exit(1)


class _Voice:
    """On stdout, or aside on stderr where stdout is for programs."""

    def __init__(self, *, aside: bool) -> None:
        self._aside = aside
        self._until = 0.0
        self._said = 0

    def device(self, subject: signing.Subject, device: sign_in.Device) -> None:
        self._until = time.monotonic() + device.seconds
        self._said = math.ceil(device.seconds / 60)
        self._say(f"{subject.named}: sign in as a user who may read its alerts")
        self._say(f"  open   {device.address}")
        self._say(f"  enter  {device.code}")
        self._say(
            f"waiting, at most {output.many(self._said, 'minute')} (Ctrl-C ends it, and nothing is stored)"
        )

    def visit(self, subject: signing.Subject, visit: sign_in.Visit) -> None:
        import webbrowser

        self._say(
            f"{subject.named}: sign in as a user who may read its alerts, in the browser that opens now, or open"
        )
        self._say(f"  {visit.address}")
        self._say("waiting, at most 5 minutes (Ctrl-C ends it, and nothing is stored)")
        # a daemon: some ways to open a browser last as long as the browser does
        threading.Thread(target=webbrowser.open, args=(visit.address,), daemon=True).start()

    async def waits(self, seconds: float) -> None:
        """Sleep, and say once a minute how much time is left."""
        import asyncio

        await asyncio.sleep(seconds)
        left = math.ceil((self._until - time.monotonic()) / 60)
        if 0 < left < self._said:
            self._said = left
            self._say(f"waiting, {output.many(left, 'minute')} left")

    def _say(self, text: str) -> None:
        typer.echo(output.printable(text), err=self._aside)


def _print(done: signing.Done) -> None:
    output.say(f"signed in: {output.printable(done.user)} ({done.object_id or 'without an id'})")
    for step in done.proof.steps:
        mark = "ok    " if step.ok else "FAILED"
        output.say(f"  {mark}  {step.source:<16} {output.printable(step.said)}")
    if not done.kept:
        output.say("nothing was stored: mend what failed, or name with --source what this user can read")
        return
    what = " ".join(done.subject.readings)
    state = done.subject.tenant.state
    when = "active now" if state == "pending" else "polled at once" if state == "active" else f"it is {state}"
    output.say(f"stored: {what} of {output.printable(done.subject.named)} is read as this user; {when}")


def _plain(done: signing.Done) -> dict[str, Any]:
    return {
        "tenant_id": done.subject.tenant.tenant_id,
        "name": done.subject.tenant.name,
        "app_id": done.subject.app_id,
        "user": done.user,
        "object_id": done.object_id,
        "sources": list(done.subject.readings),
        "stored": done.kept,
        "steps": [
            {"source": s.source, "what": s.what, "ok": s.ok, "said": s.said, "code": s.code, "items": s.items}
            for s in done.proof.steps
        ],
    }
