"""What a job prints: progress bars, and libraries' notices kept out."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from tqdm import tqdm


class _Lines:
    """A text stream that turns a bar's carriage returns into whole lines."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text: str) -> None:
        text = text.replace("\r", "").strip("\n ")
        if text:
            self._stream.write(text + "\n")

    def flush(self) -> None:
        self._stream.flush()


def progress_bar(total: int, label: str, unit: str) -> tqdm:
    """A tqdm bar for `total` steps of `unit`; `set_postfix_str` takes what else is worth seeing."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=label,
        unit=unit,
        file=sys.stderr if terminal else _Lines(sys.stderr),
        mininterval=0.2 if terminal else 5.0,
        miniters=1,
        ncols=None if terminal else 100,
        dynamic_ncols=terminal,
        bar_format="{desc} {percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} {unit}"
        " [{elapsed}<{remaining}{postfix}]",
    )


def rate(count: float, seconds: float, unit: str) -> str:
    """ "12,345 tokens/s", for a bar's postfix."""
    return f"{count / max(seconds, 1e-9):,.0f} {unit}/s"


def silence_libraries() -> None:
    """Keeps libraries' notices that no user can act on out of the logs."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
