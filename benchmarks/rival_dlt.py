"""The same alerts by dlt's rest_api source into the same PostgreSQL: what a team would build without Alertwell.

Runs in an environment of its own (benchmarks/rivals.lock); `bench.py` calls it with a file that says where simulator and
database are. `upsert` writes parquet files and merges by upsert, `default` is dlt's own choice (delete and insert).
Prints one JSON object: records loaded, and the peak of its memory in MiB.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
os.environ["RUNTIME__LOG_LEVEL"] = "ERROR"

import dlt
import requests
from dlt.destinations import postgres
from dlt.sources.rest_api import rest_api_resources

SCOPE = "https://graph.windows.net/.default"


def token(said: dict, tenant: str) -> str:
    """A bearer token of the tenant, as any script would ask for it."""
    answer = requests.post(
        f"{said['authority']}/{tenant}/oauth2/v2.0/token",
        data={
            "grant_type": "client_credentials",
            "client_id": said["app"],
            "client_secret": said["secret"],
            "scope": SCOPE,
        },
        timeout=30,
    )
    answer.raise_for_status()
    return answer.json()["access_token"]


def of_customer(tenant: str) -> Callable[[dict], dict]:
    """Says in each record whose it is: it has no field of its own for that."""
    return lambda record: {**record, "customer": tenant}


def resources(said: dict, disposition: object) -> list:
    """One resource a tenant, all into one table whose key is (customer, FullId)."""
    made = []
    for tenant, _, _ in said["tenants"]:
        [resource] = rest_api_resources(
            {
                "client": {
                    "base_url": said["siem"],
                    "auth": {"type": "bearer", "token": token(said, tenant)},
                    "paginator": "single_page",
                },
                "resources": [
                    {
                        "name": f"alerts_{tenant}",
                        "table_name": "alerts",
                        "primary_key": ["customer", "FullId"],
                        "write_disposition": disposition,
                        "endpoint": {
                            "path": "api/alerts",
                            "data_selector": "$",
                            "params": {"sinceTimeUtc": said["since"]},
                        },
                    }
                ],
            }
        )
        made.append(resource.add_map(of_customer(tenant)))
    return made


def main() -> None:
    said = json.loads(Path(sys.argv[1]).read_text())
    upsert = sys.argv[2] == "upsert"
    os.environ["REQUESTS_CA_BUNDLE"] = said["ca"]
    with tempfile.TemporaryDirectory() as folder:
        pipeline = dlt.pipeline(
            pipeline_name=f"rival_{sys.argv[2]}",
            pipelines_dir=folder,
            destination=postgres(credentials=said["dsn"]),
            dataset_name=f"dlt_{sys.argv[2]}",
        )
        disposition = {"disposition": "merge", "strategy": "upsert"} if upsert else "merge"
        pipeline.run(
            resources(said, disposition), loader_file_format="parquet" if upsert else None
        ).raise_on_failed_jobs()
        with pipeline.sql_client() as client, client.execute_query("SELECT count(*) FROM alerts") as found:
            status = Path("/proc/self/status").read_text()
            peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
            print(json.dumps({"records": found.fetchone()[0], "peak_mib": peak}))


if __name__ == "__main__":
    main()
