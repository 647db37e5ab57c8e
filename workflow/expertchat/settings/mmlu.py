"""Settings of stages questions, mmlu and mixture."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from expertchat.settings.questions import Questions
from expertchat.settings.section import Section


class MMLUAsking(Section):
    """How the multiple-choice questions are put (Hendrycks et al. 2021)."""

    formulation: Literal["letter", "cloze"] = "letter"
    """`letter`: the probabilities of A to D after the choices; `cloze`: those of the answers' texts."""
    shots: int = Field(5, ge=0, le=5)
    """Solved questions of the subject before each question."""
    limit: int | None = Field(None, gt=0)
    """Most questions a subject; null: all."""


class MMLU(MMLUAsking):
    """Multiple-choice questions before and after tuning."""

    questions: Questions
    """Where the questions come from."""
