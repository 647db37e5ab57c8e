"""Makes a script fail that Snakemake starts. Python imports this file if its folder is in PYTHONPATH.

The environment variable EXPERTCHAT_FAULT is "SCRIPT:KIND:NUMBER", such as "topics.py:both:12", with
kinds and numbers as in `inject.py`.
"""

import os
import sys
from pathlib import Path

script, _, fault = os.environ.get("EXPERTCHAT_FAULT", "").partition(":")
if script and sys.orig_argv[1:] and sys.orig_argv[1].endswith(f"/{script}"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import inject

    kind, number = fault.split(":")
    inject.install(inject.Faults(kind, int(number)))
