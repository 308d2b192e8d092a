"""CSV files of tenants: what is read, and every way in which a line can be wrong."""

from __future__ import annotations

import json
import re

import pytest

from service import clouds, errors
from service.cli import enrolling, importing

A = "11111111-1111-1111-1111-111111111111"
B = "22222222-2222-2222-2222-222222222222"
APP = "55555555-5555-5555-5555-555555555555"
TERMS = enrolling.Terms(("siem",), "public", clouds.Endpoints())


def problems(text: str) -> list[str]:
    return [str(problem) for problem in importing.read(text, TERMS).problems]


def test_every_column_is_read():
    """All columns, in any order and casing, with blanks around, quoted where they hold a comma."""
    text = (
        "Name, TENANT_ID ,labels,external_ref,region,cloud,secret_file,client_id,sources\n"
        f'"Fabrikam, Inc.", {B.upper()} ,tier=gold; team = blue ;,C-0815,US,GCC,f/secret,{APP},siem siem\n'
    )
    [row] = importing.read(text, TERMS).rows
    assert (row.line, str(row.tenant.tenant_id), row.tenant.name) == (2, B, "Fabrikam, Inc.")
    assert (row.tenant.cloud, row.tenant.region, row.tenant.state) == ("gcc", "us", "active")
    assert (row.tenant.labels, row.tenant.external_ref) == ({"tier": "gold", "team": "blue"}, "C-0815")
    assert (row.sources, row.app_id, row.secret_file) == (("siem",), APP, "f/secret")


def test_empty_cells_get_the_defaults():
    """What is empty or left out is the default of the settings."""
    terms = enrolling.Terms(("siem",), "gcc", clouds.Endpoints())
    [row] = importing.read(f"tenant_id,name,sources,labels\n{A},Contoso,,\n", terms).rows
    assert (row.tenant.cloud, row.tenant.region, row.sources) == ("gcc", None, ("siem",))
    assert (row.tenant.labels, row.tenant.external_ref, row.app_id) == ({}, None, None)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_and_mark_of_any_editor(end):
    """BOM, CRLF, CR, blank lines, no end of line at the end."""
    text = end.join(["tenant_id,name,region", "", f"{A},Contoso,eu", ",,", f"{B},Fabrikam,uk"])
    sheet = importing.read(importing.text_of(b"\xef\xbb\xbf" + text.encode()), TERMS)
    assert [(row.line, row.tenant.name) for row in sheet.rows] == [(3, "Contoso"), (5, "Fabrikam")]
    assert sheet.problems == ()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "contoso.com,Contoso,eu",
            ["line 2, tenant_id: 'contoso.com' must be the directory (tenant) id, a GUID"],
        ),
        (",Contoso,eu", ["line 2, tenant_id: '' must be"]),
        (f"{A},,eu", ["line 2, name: must not be empty"]),
        (f"{A},Con\0toso,eu", ["line 2, name: 'Con\\x00toso' must be one line"]),
        (f'{A},"Con\ntoso",eu', ["line 2, name: 'Con\\ntoso' must be one line"]),
        (f"{A},{'x' * 257},eu", ["line 2, name: ", "longer than 256"]),
        (
            f"{A},Contoso,",
            ["line 2, region: the siem API of the public cloud needs the tenant's region: eu us uk"],
        ),
        (f"{A},Contoso,mars", ["line 2, region: 'mars': the siem API of the public cloud has eu us uk"]),
        (f"{A},Contoso", ["line 2: has 2 cells, the header has 3 columns"]),
        (f"{A},Contoso,eu,x", ["line 2: has 4 cells, the header has 3 columns"]),
        (f'{A},"Contoso,eu', ["line 2: is not CSV"]),
        (f'{A},"Con"toso,eu', ["line 2: is not CSV"]),
    ],
)
def test_a_bad_line_is_named(line, says):
    """The problem names line and column, and says what would be right."""
    [found] = problems(f"tenant_id,name,region\n{line}\n")
    for part in says:
        assert part in found


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("sources", "siem mail", "sources: source 'mail': must be siem"),
        ("cloud", "azure", "cloud: 'azure': must be public gcc gcc-high dod china"),
        ("cloud", "china", "region: the china cloud has no siem API"),
        ("labels", "gold", "labels: 'gold' must be key=value"),
        ("labels", "=gold", "labels: '=gold' must be key=value"),
        ("labels", "a=1;a=2", "labels: 'a=2' names 'a' a second time"),
        ("external_ref", "x" * 300, "external_ref: "),
        ("client_id", APP, "secret_file: must name the file with the secret of client_id"),
        ("secret_file", "s", "client_id: must name the app"),
        ("certificate_file", "s", "client_id: must name the app that certificate_file proves"),
        ("federated", "yes", "client_id: must name the app"),
        ("federated", "maybe", "federated: 'maybe' must be yes, or empty"),
        ("certificate_password_file", "p", "certificate_password_file: needs certificate_file"),
        ("secret_expires_at", "2031-01-01", "secret_expires_at: needs secret_file"),
    ],
)
def test_a_bad_optional_cell_is_named(column, value, says):
    """Each optional column is checked too."""
    [found] = problems(f"tenant_id,name,region,{column}\n{A},Contoso,eu,{value}\n")
    assert found.startswith(f"line 2, {says}")


def test_each_way_of_an_app_is_read():
    """A secret with its end, a certificate with its password, a federated token; two of them at once are refused."""
    header = "tenant_id,name,region,client_id,secret_file,secret_expires_at,certificate_file,certificate_password_file,federated"
    ways = {"s,2031-01-01,,,": "s", ",,c,p,no": "c", ",,,,yes": True}
    lines = [f"{A[:-1]}{number},Contoso,eu,{APP},{way}" for number, way in enumerate(ways)]
    found = importing.read("\n".join([header, *lines]), TERMS).rows
    assert [row.secret_file or row.certificate_file or row.federated for row in found] == ["s", "c", True]
    assert (f"{found[0].secret_expires_at:%Y-%m-%d}", found[1].password_file) == ("2031-01-01", "p")
    assert problems(f"{header}\n{A},Contoso,eu,{APP},s,,c,,") == [
        "line 2, certificate_file: and secret_file: one of them proves the app"
    ]


def test_client_id_that_may_be_a_secret_is_not_shown_in_a_problem():
    """A secret in the wrong column does not come back."""
    found = problems(f"tenant_id,name,region,client_id,secret_file\n{A},Contoso,eu,very~secret,s\n")
    assert found == [
        "line 2, client_id: must be the application (client) id, a GUID; not the app's name or secret"
    ]


def test_duplicates_name_both_lines():
    """A tenant that is there twice, in any spelling, is an error that names both lines, even where the line has others."""
    text = f"tenant_id,name,region\n{A},Contoso,eu\n\n{A.replace('-', '')},,eu\n"
    assert problems(text) == [
        f"line 4, tenant_id: {A} is on line 2 already",
        "line 4, name: must not be empty",
    ]


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (
            "tenant_id,name,color",
            "line 1: unknown column 'color'; known are: tenant_id name sources client_id",
        ),
        ("tenant_id", "line 1: column name is missing; required are: tenant_id name"),
        ("tenant_id,name,name", "line 1: column name is there twice"),
        ("tenant_id;name;region", "line 1: columns are to be separated by commas"),
        ("", "the file: is empty; it needs a header with tenant_id name"),
        (f"{A},Contoso", "line 1: unknown column "),
    ],
)
def test_a_bad_header_is_the_only_problem(header, says):
    """Without a good header no line is judged."""
    found = problems(f"{header}\n")
    assert found[0].startswith(says)
    assert all("line 1" in problem or "the file" in problem for problem in found)


def test_all_problems_are_found_at_once():
    """Every line and every column of a line is judged; good lines in between are kept apart."""
    sheet = importing.read(f"tenant_id,name,region\nx,,mars\n{A},Contoso,eu\ny,Fabrikam,eu\n", TERMS)
    assert [(p.line, p.column) for p in sheet.problems] == [
        (2, "tenant_id"), (2, "name"), (2, "region"), (4, "tenant_id"),
    ]  # fmt: skip
    assert [row.line for row in sheet.rows] == [3]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"tenant_id,name\r\nx,Caf\xe9\r\n", "line 2 is not UTF-8"),
        ("tenant_id,name\n".encode("utf-16"), "is UTF-16: save it as CSV UTF-8"),
        (b"x" * (importing.LARGEST + 1), "larger than 64 MiB"),
    ],
    ids=["latin-1", "utf-16", "large"],
)
def test_a_file_that_is_no_text_is_refused(content, says):
    """Another encoding is named with its first line."""
    with pytest.raises(errors.BadInput, match=re.escape(says)):
        importing.text_of(content)


def test_import_stores_all_and_twice_changes_nothing(alertwell, listed, keys, fetch, tmp_path):
    """A file goes in whole, secrets from beside it, and again without any change."""
    folder = tmp_path / "customers"
    folder.mkdir()
    (folder / "secret").write_text("s3cret~value\n")
    (folder / "all.csv").write_text(
        f"tenant_id,name,region,client_id,secret_file,labels\n{A},Contoso,eu,{APP},secret,tier=gold\n{B},Fabrikam,us,,,\n"
    )
    rehearsed = alertwell("tenants", "import", "customers/all.csv", "--dry-run")
    assert rehearsed.stdout == "2 would be added, 0 would be changed, 0 unchanged\n"
    assert listed() == {}
    assert alertwell("tenants", "import", "customers/all.csv").stdout == "2 added, 0 changed, 0 unchanged\n"
    assert {name: row["state"] for name, row in listed().items()} == {
        "Contoso": "active",
        "Fabrikam": "active",
    }
    [credential] = fetch("SELECT sealed FROM alertwell.credential")
    assert keys.unseal(credential["sealed"]) == "s3cret~value"
    assert alertwell("tenants", "import", "customers/all.csv").stdout == "0 added, 0 changed, 2 unchanged\n"
    assert fetch("SELECT sealed FROM alertwell.credential") == [credential]
    (folder / "secret").write_text("new value")
    assert alertwell("tenants", "import", "customers/all.csv").stdout == "0 added, 1 changed, 1 unchanged\n"


def test_import_keeps_parameters_set_by_hand(alertwell, fetch, tmp_path):
    """A file says nothing of parameters: those of a stream stay, and with them what is proven."""
    alertwell("tenants", "add", A, "Contoso", "--region", "eu", "--parameter", "machinegroups=Servers")
    (tmp_path / "all.csv").write_text(f"tenant_id,name,region\n{A},Contoso,eu\n")
    assert alertwell("tenants", "import", "all.csv").stdout == "0 added, 0 changed, 1 unchanged\n"
    [row] = fetch("SELECT parameters FROM alertwell.stream")
    assert json.loads(row["parameters"]) == {"machinegroups": ["Servers"]}


@pytest.mark.usefixtures("keys")
def test_one_bad_line_stores_nothing(alertwell, listed, tmp_path):
    """Bad lines and unreadable secrets are all named, in order, with exit code 2, and no good line is stored."""
    (tmp_path / "all.csv").write_text(
        f"tenant_id,name,region,client_id,secret_file\n{A},Contoso,eu,{APP},missing\n{B},Fabrikam,us,,\nx,Adatum,eu,,\n"
    )
    result = alertwell("tenants", "import", "all.csv", exit_code=2)
    first, second, last = result.stderr.splitlines()
    assert first.startswith("alertwell: all.csv: line 2, secret_file: missing: cannot be read")
    assert second.startswith("alertwell: all.csv: line 4, tenant_id: 'x' must be")
    assert last == "alertwell: all.csv: nothing was imported; 2 to be put right"
    assert listed() == {}


def test_many_problems_are_cut(alertwell, tmp_path):
    """Of a wrong file the first fifty problems are shown, and how many more there are."""
    (tmp_path / "all.csv").write_text("tenant_id,name,region\n" + "x,Contoso,eu\n" * 80)
    said = alertwell("tenants", "import", "all.csv", exit_code=2).stderr.splitlines()
    assert len(said) == 52
    assert said[50] == "alertwell: all.csv: … and 30 more"


@pytest.mark.parametrize("name", ["none.csv", "."])
def test_a_file_that_cannot_be_read_is_named(alertwell, name):
    """A missing file or a folder is one line."""
    said = alertwell("tenants", "import", name, exit_code=2).stderr
    assert said.startswith(f"alertwell: {name}: cannot be read (")
    assert said.count("\n") == 1


def test_thousands_of_rows_in_one_transaction(alertwell, fetch, tmp_path):
    """5,000 tenants go in at once, and again without a change."""
    rows = "".join(f"{n:08x}-1111-4111-8111-111111111111,Customer {n},eu,tier={n % 3}\n" for n in range(5000))
    (tmp_path / "all.csv").write_text(f"tenant_id,name,region,labels\n{rows}")
    assert alertwell("tenants", "import", "all.csv").stdout == "5000 added, 0 changed, 0 unchanged\n"
    assert fetch(
        "SELECT count(*) AS n, count(DISTINCT xmin::text) AS transactions FROM alertwell.stream"
    ) == [{"n": 5000, "transactions": 1}]
    assert alertwell("tenants", "import", "all.csv").stdout == "0 added, 0 changed, 5000 unchanged\n"
