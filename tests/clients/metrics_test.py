"""What the worker serves to monitoring, read by Prometheus's own strict parser."""

import os
import pathlib
import socket
import subprocess
import tempfile
import time
import urllib.request

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

CLUSTER = pathlib.Path(__file__).parent.parent / "bin" / "cluster"

SETUP = """
CREATE EXTENSION pg_crm;
SELECT crm.create_connection(E'odd\\n"name"\\\\', 'stub');
CREATE TABLE t (id int PRIMARY KEY, name text);
SELECT crm.map_object(E'odd\\n"name"\\\\', 't', 'contact', external_id_field => 'external_key', on_insert => 'create');
SELECT crm.map_field(1, 'name', 'last_name', direction => 'outbound');
INSERT INTO t SELECT n, 'name ' || n FROM generate_series(1, 10) n;
"""


@pytest.fixture
def served():
    """The text of /metrics after ten records were written."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="pg_crm-metrics-") as directory:
        os.chmod(directory, 0o755)
        cluster = [str(CLUSTER), "start", directory, f"pg_crm.metrics_listen={address}"]
        subprocess.run(cluster, check=True)
        try:
            psql = [str(CLUSTER), "psql", directory, "-qAt", "-v", "ON_ERROR_STOP=1"]
            subprocess.run(psql, input=SETUP, text=True, check=True, stdout=subprocess.DEVNULL)
            flush = [*psql, "-c", "SELECT crm.flush()"]
            assert subprocess.run(flush, text=True, check=True, capture_output=True).stdout == "t\n"
            yield fetch(f"http://{address}/metrics")
        finally:
            subprocess.run([str(CLUSTER), "drop", directory], check=True)
            os.makedirs(directory, exist_ok=True)


def fetch(url):
    for _ in range(100):
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.read().decode()
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(url)


def test_metrics_are_valid_open_metrics(served):
    families = {family.name: family for family in text_string_to_metric_families(served)}
    records = families["pg_crm_records"]
    assert records.type == "counter"
    written = [s.value for s in records.samples if s.labels["path"] == "batch" and s.labels["result"] == "applied"]
    assert sum(written) == 10
    assert families["pg_crm_worker_up"].samples[0].value == 1
    names = {s.labels["connection"] for s in families["pg_crm_connection_up"].samples}
    assert names == {'odd\n"name"\\'}
    took = families["pg_crm_request_duration_seconds"]
    assert took.type == "histogram"
    whole = [s.value for s in took.samples if s.labels.get("le") == "+Inf"]
    assert whole == [s.value for s in took.samples if s.name.endswith("_count")]
    assert whole[0] >= 1
    for family in families.values():
        assert family.documentation, family.name
