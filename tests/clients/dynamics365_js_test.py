"""npm dynamics-web-api against crm-sim; what is tested stands in dynamics365.cjs."""

import os
import pathlib
import subprocess

HERE = pathlib.Path(__file__).parent


def test_dynamics_web_api(sim):
    environment = os.environ | {"DYNAMICS": sim.dynamics365, "ADMIN": sim.admin}
    arguments = ["node", "--test", "--test-reporter=spec", str(HERE / "dynamics365.cjs")]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
