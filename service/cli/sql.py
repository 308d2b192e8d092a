"""`alertwell sql`: a look into the database where there is no psql."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from service import errors
from service.cli import database, epilog, output

EPILOG: Final = epilog.lines(
    """
    Examples:
      alertwell sql "SELECT tenant_name, severity, title FROM soc.alerts ORDER BY first_seen_at DESC LIMIT 20"
      alertwell sql "SELECT tenant_name, count(*) FROM soc.alerts GROUP BY 1 ORDER BY 2 DESC"
      alertwell sql "TABLE soc.gaps" --json
      alertwell sql "SELECT * FROM soc.alerts WHERE severity = 'high'" --csv --limit 100000 > high.csv

    Relations for readers: soc.alerts, soc.alerts_merged, soc.incidents, soc.change_feed, soc.feed, soc.coverage,
    soc.gaps, soc.rejects, soc.tenants, soc.invitations, soc.audit, and the function soc.changes(after, limit).
    """
)


def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One statement that only reads.")],
    as_json: Annotated[bool, typer.Option("--json", help="An array of objects.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with a header; NULL is empty.")] = False,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=10_000_000, help="Most rows to show.")] = 1000,
    timeout: Annotated[str, typer.Option(metavar="DURATION", help="Longest time for the query.")] = "60s",
) -> None:
    """Run a read-only query.

    Its rows come as a table on a terminal, elsewhere as tab-separated values with a header.
    """
    from service import settings
    from service.cli.status import duration
    from service.store import reports

    if as_json and as_csv:
        raise errors.BadInput("--json and --csv exclude each other")
    seconds = duration("--timeout", timeout).total_seconds()
    if not query.strip(" \t\r\n;"):
        raise errors.BadInput('the query is empty; try: alertwell sql "TABLE soc.tenants"')
    try:
        query.encode()
    except UnicodeEncodeError:
        raise errors.BadInput("the query is not UTF-8") from None
    columns, rows = database.work(
        settings.load(),
        # One more than is shown tells whether there are more.
        lambda opened: reports.read_only(opened, query, limit=limit + 1, seconds=seconds),
        check=False,
    )
    more = len(rows) > limit
    shown = rows[:limit]
    if as_json:
        output.document([dict(zip(columns, row, strict=True)) for row in shown])
    elif as_csv or not output.on_terminal():
        output.delimited(columns, shown, tabs=not as_csv)
    else:
        output.table(columns, shown)
        output.say(output.many(len(shown), "row"))
    if more:
        output.warn(f"only the first {limit} rows are shown; more with --limit")
