"""The experiment: all sections of the settings."""

from __future__ import annotations

from itertools import combinations
from typing import Annotated, Literal

from pydantic import Field

from expertchat.settings.dialogues import Dialogues
from expertchat.settings.mmlu import MMLU
from expertchat.settings.models import Model
from expertchat.settings.ppo import PPO
from expertchat.settings.preferences import Judgements, Preferences
from expertchat.settings.ratings import Ratings
from expertchat.settings.replies import Replies
from expertchat.settings.rewards import Rewards
from expertchat.settings.section import NAME, FilePath, Section
from expertchat.settings.sft import SFT
from expertchat.settings.speeds import Speeds
from expertchat.settings.topics import Topics


class World(Section):
    """The demo world: made-up facts, so that it is known which statements are true.

    Example: {seed: 0}
    """

    seed: int = 0
    """Random seed of the facts."""


class Experiment(Section):
    """The top level of the YAML file: the models, who talks to whom, and one section per stage."""

    name: str = Field(pattern=NAME)
    """Name of the experiment: letters, digits, '_', '.' and '-'. Its results are linked in
    `results/experiments/<name>/`."""
    seed: int = 0
    """Random seed of the experiment. The same seed gives the same results."""
    rounds: int = Field(1, ge=0, le=100)
    """Number of rounds of dialogues, ratings and tuning. Each round starts from the adapters of the
    previous round. 0: the models talk and rate, and are not tuned."""
    control: Literal["none", "shuffled"] = "none"
    """`shuffled`: a control run. Ratings are shuffled within each context before the reward model is
    trained, so that it cannot learn from them; remaining changes are not due to the ratings."""
    shrink: bool = False
    """`true`: a rehearsal, which ends in minutes on a laptop without network (docs/running.md). Models
    become tiny ones of the same architecture that know nothing, data sets of the hub made-up records,
    and amounts small; everything else stays as it is. The name gets the ending -shrunk. It shows that
    these settings run to the end; its figures mean nothing."""
    threads: int = Field(1, ge=1, le=1024)
    """Number of CPU threads per model of a job."""
    processes: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"
    """Number of processes that train a model together, on each node of the job, each with a copy of the
    model and a GPU. Each computes the gradients of its share of a batch. `auto`: one for each GPU of the
    node if the model fits on one, else one, with the model's layers on all GPUs. It changes results by
    rounding only."""
    prompts: FilePath = "config/prompts"
    """Folder of the prompt templates: topic.jinja, opening.jinja, rating.jinja and one file per role."""
    models: dict[str, Model] = Field(min_length=1)
    """The models by name. The key `source` of a model says where it comes from."""
    pairs: list[tuple[str, str]] | Literal["round_robin"] = []
    """Who talks to whom: pairs of model names, such as [[llama, mixtral]]. A model may talk to itself.
    `round_robin`: every model talks to every other. Empty: no dialogues are generated, and all models
    rate transcripts, answer the questions of `mmlu` or are measured (`speeds`)."""
    world: World | None = None
    """The demo world, which demo models and demo questions need. Stage oracle compares the results with
    its facts. Null: no demo world."""
    sft: SFT | None = None
    """Settings of stages instructions and sft: supervised fine-tuning of models before all other stages;
    null: none."""
    preferences: Preferences | None = None
    """Settings of stage preferences: human preferences in place of dialogues and ratings; null: none."""
    judgements: Judgements = Judgements()
    """Settings of stage judgements, which compares replies if there are `preferences`."""
    topics: Topics | None = None
    """Settings of stage topics. Required if there are pairs, unless `dialogues.transcripts` is set."""
    dialogues: Dialogues = Dialogues()
    """Settings of stage dialogues."""
    ratings: Ratings = Ratings()
    """Settings of stage ratings."""
    rewards: Rewards = Rewards()
    """Settings of stage rewards."""
    ppo: PPO = PPO()
    """Settings of stage policies."""
    replies: Replies = Replies()
    """Settings of stage replies."""
    mmlu: MMLU | None = None
    """Settings of stages questions, answers, mmlu, fits and mixture; null: the models answer no
    questions."""
    speeds: Speeds | None = None
    """Settings of stage speeds, which measures time and memory of all models, for an experiment without
    dialogues and tuning; null: nothing is measured."""

    @property
    def training_threads(self) -> int:
        """Number of CPU threads of a job that trains a model."""
        return self.threads * (1 if self.processes == "auto" else self.processes)

    @property
    def tuned_by_sft(self) -> list[str]:
        """The names of the models that are tuned on instructions."""
        if self.sft is None:
            return []
        with_weights = [name for name, model in self.models.items() if model.source != "server"]
        return self.sft.models or with_weights

    @property
    def tuned_by_preferences(self) -> list[str]:
        """The names of the models that are tuned on human preferences."""
        if self.preferences is None:
            return []
        judges = set(self.judgements.judges)
        with_weights = [n for n, m in self.models.items() if m.source != "server" and n not in judges]
        return self.preferences.models or with_weights

    @property
    def tuned_by_ppo(self) -> list[str]:
        """The names of the models that PPO tunes."""
        return (self.talkers or self.tuned_by_preferences) if self.rounds else []

    @property
    def main_models(self) -> list[str]:
        """The names of the models that the experiment is about: those that talk or learn from
        preferences, or else all."""
        return self.talkers or self.tuned_by_preferences or list(self.models)

    @property
    def talking_pairs(self) -> list[tuple[str, str]]:
        """The pairs of model names, with `round_robin` spelled out."""
        return list(combinations(self.models, 2)) if self.pairs == "round_robin" else list(self.pairs)

    @property
    def talkers(self) -> list[str]:
        """Names of the models that talk and are tuned, in the order of the pairs."""
        return list(dict.fromkeys(name for pair in self.talking_pairs for name in pair))

    @property
    def uses_chat(self) -> bool:
        """Whether the models read and write chats, for which they need a chat template."""
        talks = bool(self.talkers) or self.dialogues.transcripts is not None
        learns = self.sft is not None or self.preferences is not None
        return talks or learns or (self.mmlu is not None and self.mmlu.style == "chat")

    def needs_own_template(self, name: str) -> bool:
        """Whether the model needs a chat template of its own, because its `load` names none."""
        return self.uses_chat and self.models[name].load.chat_template is None
