"""Settings of stages answers, mmlu, fits and mixture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from expertchat.settings.questions import Questions
from expertchat.settings.section import Section


class Asking(Section):
    """How multiple-choice questions are presented, and how the answers are scored."""

    style: Literal["harness", "hendrycks", "chat"] = "harness"
    """Format of the prompts. `harness`: as mmlu and mmlu_continuation of lm-evaluation-harness 0.4.13;
    `hendrycks`: as Hendrycks et al. (2021), including the double space of their code; `chat`: solved
    questions as turns, through the chat template. Accuracies of different styles are not comparable."""
    formulation: Literal["letter", "cloze"] = "letter"
    """`letter`: the choices are shown, and the letters A to D are scored; `cloze`: the choices are not
    shown, and the text of each answer is scored, which suits small models."""
    normalization: Literal["none", "characters", "tokens", "unconditional"] = "characters"
    """How the log-likelihood of an answer is normalized in `cloze` (OLMES, Gu et al. 2024): not at all,
    by its number of characters, by its number of tokens, or by its log-likelihood after "Answer:"
    alone."""
    shots: int = Field(5, ge=0, le=5)
    """Number of solved questions of the subject in the prompt before each question (few-shot)."""
    limit: int | None = Field(None, gt=0)
    """Maximum number of questions per subject and split; null: all."""
    overflow: Literal["drop", "cut"] = "drop"
    """How a prompt that is too long for the model is shortened. `drop`: by as few solved questions as
    possible; `cut`: by tokens at its beginning, as lm-evaluation-harness does."""

    @model_validator(mode="after")
    def _has_a_cloze(self) -> Asking:
        if self.style == "hendrycks" and self.formulation == "cloze":
            raise ValueError("formulation: 'cloze'; must be 'letter' if style is 'hendrycks'")
        return self

    @staticmethod
    def from_section(section: Mapping[str, Any]) -> Asking:
        """An `Asking` from a dump of it, or of section `mmlu`, whose other keys are ignored."""
        return Asking(**{key: value for key, value in section.items() if key in Asking.model_fields})

    def recipe_settings(self) -> dict:
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
    """Multiple-choice questions such as MMLU, answered by single models and by mixtures of them.

    Example: {style: harness, shots: 5, questions: {source: hub, repository: cais/mmlu, revision: main}}
    """

    questions: Questions
    """Where the questions come from."""
    mixture: bool = True
    """Whether mixtures of the models are evaluated too, if there is more than one model. They are fitted
    on the split val."""
    shards: int = Field(1, gt=0, le=1000)
    """Number of jobs per model and split; each job answers the questions of some subjects."""
    published: dict[str, float] = {}
    """Accuracies in percent that were published elsewhere, by name of a model or mixture; the report
    shows them next to the measured ones."""
