"""The same seed and data give the same masks, weights and files in every version.

A change that is meant to change them writes the digests anew, in a commit that says
why: ``python -m tests.golden.scenarios --write``.
"""

import json
import os
import subprocess
import sys

from tests.golden.scenarios import ENVIRONMENT, GOLDEN


def test_masks_weights_and_files_are_those_of_earlier_versions():
    run = subprocess.run(
        [sys.executable, "-m", "tests.golden.scenarios"],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout) == json.loads(GOLDEN.read_text())
