"""`alertwell sql`: reading, and nothing but reading."""

from __future__ import annotations

import csv
import io
import json

import pytest

TYPES = """
SELECT NULL AS nothing, true AS yes, 1 AS small, 123456789012345678901234567890::numeric AS large, 'NaN'::float8 AS nan,
       '2026-01-31 12:00:00.123456+00'::timestamptz AS at, '{"a": [1, null]}'::jsonb AS nested, ARRAY['x', NULL] AS list,
       tstzrange('2026-01-01 00:00+00', NULL) AS span, '{[2026-01-01,2026-01-02)}'::datemultirange AS spans,
       '\\x00ff'::bytea AS bytes, '11111111-1111-1111-1111-111111111111'::uuid AS id, '1 day'::interval AS long,
       '10.0.0.1'::inet AS address, ROW(1, 'a') AS pair, E'tab\\tline\\nend' AS text
"""


def test_tab_separated_off_a_terminal(alertwell):
    """A header and one line a row; tabs and line ends inside are escaped, NULL is empty."""
    said = alertwell(
        "sql", "SELECT 1 AS a, E'x\\ty\\nz\\\\' AS b, NULL AS c UNION ALL SELECT 2, 'é', 'n' ORDER BY 1"
    ).stdout
    assert said == "a\tb\tc\n1\tx\\ty\\nz\\\\\t\n2\té\tn\n"


def test_json_of_every_type(alertwell):
    """What JSON does not know is text; NaN does not make it invalid."""
    [row] = json.loads(alertwell("sql", TYPES, "--json").stdout, parse_constant=pytest.fail)
    assert row["nothing"] is None
    assert row["yes"] is True
    assert row["large"] == "123456789012345678901234567890"
    assert row["nan"] == "nan"
    assert row["at"] == "2026-01-31T12:00:00.123456Z"
    assert row["nested"] == {"a": [1, None]}
    assert row["list"] == ["x", None]
    assert row["span"].startswith("[2026-01-01 00:00:00")
    assert row["text"] == "tab\tline\nend"
    assert row["address"] == "10.0.0.1"


def test_csv(alertwell):
    """CSV that a reader of CSV reads back."""
    said = alertwell("sql", "SELECT 'a,b' AS \"x,y\", E'1\\n2' AS z, NULL AS n", "--csv").stdout
    assert list(csv.reader(io.StringIO(said))) == [["x,y", "z", "n"], ["a,b", "1\n2", ""]]


@pytest.mark.parametrize("options", [[], ["--json"], ["--csv"]])
def test_every_type_in_every_format(alertwell, options):
    """No type of a column breaks any of the formats."""
    alertwell("sql", TYPES, *options)


def test_limit_says_that_there_is_more(alertwell):
    """Rows beyond the limit are not shown, and that is said on stderr."""
    cut = alertwell("sql", "SELECT generate_series(1, 5) AS n", "--limit", "3")
    assert cut.stdout == "n\n1\n2\n3\n"
    assert cut.stderr == "alertwell: only the first 3 rows are shown; more with --limit\n"
    whole = alertwell("sql", "SELECT generate_series(1, 3) AS n", "--limit", "3")
    assert whole.stderr == ""


@pytest.mark.parametrize(
    "query",
    ["SHOW server_version_num", "TABLE soc.tenants;", "EXPLAIN SELECT 1", "VALUES (1)", "/* none */"],
)
def test_other_statements_that_read(alertwell, query):
    """Whatever only reads is run."""
    alertwell("sql", query)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "the query is empty"),
        (" ;\n", "the query is empty"),
        ("SELEC 1", "syntax error"),
        ("SELECT 1; SELECT 2", "multiple commands"),
        ("SELECT * FROM nowhere", 'relation "nowhere" does not exist'),
        ("SELECT $1::int", "parameters"),
        ("DELETE FROM alertwell.alert", "read-only transaction"),
        ("CREATE TABLE t (x int)", "read-only transaction"),
        ("SELECT set_config('transaction_read_only', 'off', false)", "read-write mode"),
        ("SELECT nextval('alertwell.change_batch')", "read-only transaction"),
        ("SELECT 1/0", "division by zero"),
        ("SELECT \udcff", "not UTF-8"),
    ],
)
def test_bad_query_is_one_line(alertwell, query, says):
    """A mistake in the query, or a wish to write, is exit code 2 and PostgreSQL's own words."""
    result = alertwell("sql", query, exit_code=2)
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_long_query_is_ended(alertwell):
    """A query over --timeout is ended by the server, and said so."""
    said = alertwell("sql", "SELECT pg_sleep(60)", "--timeout", "0.1", exit_code=2).stderr
    assert said == "alertwell: the query took longer than 0.1 s\n"


def test_formats_exclude_each_other(alertwell):
    """Two formats at once are a mistake, and so is a limit below one."""
    assert "exclude each other" in alertwell("sql", "SELECT 1", "--json", "--csv", exit_code=2).stderr
    alertwell("sql", "SELECT 1", "--limit", "0", exit_code=2)
