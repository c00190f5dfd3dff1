"""Starts one crm-sim for the session, on free ports, and empties it before every test."""

import os
import subprocess
import sys
import types

import pytest
import requests

sys.dont_write_bytecode = True


class Sim(types.SimpleNamespace):
    """Addresses of a running simulator, and its admin API."""

    def get(self, path, **params):
        return self._call("GET", path, params=params)

    def post(self, path, **body):
        return self._call("POST", path, json=body)

    def patch(self, path, **body):
        return self._call("PATCH", path, json=body)

    def _call(self, method, path, **arguments):
        answer = requests.request(method, self.admin + path, timeout=10, **arguments)
        answer.raise_for_status()
        return answer.json()


@pytest.fixture(scope="session")
def running_sim():
    arguments = [os.environ["CRM_SIM"]]
    for name in ("salesforce", "hubspot", "pipedrive", "zoho", "dynamics365", "composio", "admin"):
        arguments += [f"--{name}", "127.0.0.1:0"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        addresses = {}
        for line in process.stdout:
            if line.strip() == "ready":
                break
            name, address = line.split()
            addresses[name] = address
        yield Sim(**addresses)
        process.terminate()
        assert process.wait(timeout=10) == 0


@pytest.fixture
def sim(running_sim):
    running_sim.post("/reset")
    return running_sim
