"""The vendors' npm packages against crm-sim; what is tested stands in the scripts."""

import os
import pathlib
import subprocess

import pytest

HERE = pathlib.Path(__file__).parent


@pytest.mark.parametrize("script", ["hubspot.cjs", "jsforce.cjs"])
def test_package(sim, script):
    environment = os.environ | {name.upper(): address for name, address in vars(sim).items()}
    arguments = ["node", "--test", "--test-reporter=spec", str(HERE / script)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
