"""Settings of stages answers, mmlu, fits and mixture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from expertchat.settings.questions import Questions
from expertchat.settings.section import Section


class Asking(Section):
    """How the multiple-choice questions are put, and how answers to them count."""

    style: Literal["harness", "hendrycks", "chat"] = "harness"
    """Form of the prompts. `harness`: as lm-evaluation-harness 0.4.13's mmlu and mmlu_continuation;
    `hendrycks`: as Hendrycks et al. (2021), with the double space of their code; `chat`: solved
    questions as turns, through the chat template. Accuracies of different styles do not compare."""
    formulation: Literal["letter", "cloze"] = "letter"
    """`letter`: the probabilities of A to D after the choices; `cloze`: those of the answers' texts,
    with no choices shown, by which small models show what they know."""
    normalization: Literal["none", "characters", "tokens", "unconditional"] = "characters"
    """What an answer's log-likelihood is set against in `cloze` (OLMES, Gu et al. 2024): nothing, its
    number of characters or of tokens, or its log-likelihood after "Answer:" alone."""
    shots: int = Field(5, ge=0, le=5)
    """Solved questions of the subject before each question."""
    limit: int | None = Field(None, gt=0)
    """Most questions a subject and split; null: all."""
    overflow: Literal["drop", "cut"] = "drop"
    """What a prompt that is too long for the model loses. `drop`: solved questions, as many as it takes;
    `cut`: tokens at its beginning, as the harness does."""

    @model_validator(mode="after")
    def _has_a_cloze(self) -> Asking:
        if self.style == "hendrycks" and self.formulation == "cloze":
            raise ValueError("formulation: cloze; style hendrycks has letters only")
        return self

    @staticmethod
    def from_section(section: Mapping[str, Any]) -> Asking:
        """An `Asking` from a dump of it, or of section `mmlu`, whose other keys are ignored."""
        return Asking(**{key: value for key, value in section.items() if key in Asking.model_fields})

    def asked(self) -> dict:
        """The part of the settings that changes what the models are asked, for stage answers.

        Answers are stored as raw log-likelihoods, so `normalization` belongs to it only if it needs a
        further pass of the model: `unconditional`, in cloze.
        """
        pass_of_its_own = self.formulation == "cloze" and self.normalization == "unconditional"
        ignored = set() if pass_of_its_own else {"normalization"}
        return self.model_dump(include=set(Asking.model_fields) - ignored)

    def scored(self) -> dict:
        """The part of the settings that changes how stored answers are scored, for stages that read
        them: `normalization` has an effect in cloze only."""
        keys = {"formulation", "normalization"} if self.formulation == "cloze" else {"formulation"}
        return self.model_dump(include=keys)


class MMLU(Asking):
    """Multiple-choice questions, to single models and to their mixtures."""

    questions: Questions
    """Where the questions come from."""
    mixture: bool = True
    """Whether the models are mixed, where they are several; mixtures are fitted on the split val."""
    shards: int = Field(1, gt=0)
    """Jobs a model and split; each has some of the subjects."""
    published: dict[str, float] = {}
    """Accuracies in percent that were published elsewhere, by model or mixture, shown beside ours."""
