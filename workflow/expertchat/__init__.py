"""ExpertChat: language models talk, rate each other, and are tuned on the ratings.

    import expertchat
    run = expertchat.open_experiment("demo", store="results")
    run.turns(round=1)

Three layers, imports one way: rules say what depends on what, scripts parse and publish, and this
library does the work and never imports snakemake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "open_experiment"]

if TYPE_CHECKING:
    from expertchat.results import open_experiment


def __getattr__(name: str) -> Any:
    """Imports `open_experiment` at its first use: planning and jobs do without pandas."""
    if name == "open_experiment":
        from expertchat.results import open_experiment

        return open_experiment
    raise AttributeError(f"module 'expertchat' has no attribute {name!r}")
