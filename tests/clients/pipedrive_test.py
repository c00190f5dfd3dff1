"""npm pipedrive against crm-sim; what is tested stands in pipedrive.cjs."""

import os
import pathlib
import subprocess

HERE = pathlib.Path(__file__).parent


def test_pipedrive(sim):
    environment = os.environ | {"PIPEDRIVE": sim.pipedrive, "ADMIN": sim.admin}
    arguments = ["node", "--test", "--test-reporter=spec", str(HERE / "pipedrive.cjs")]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
