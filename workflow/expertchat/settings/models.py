"""Where a model comes from and how it is loaded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from expertchat.settings.section import Section


class Load(Section):
    """How a model's weights are held in memory."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights; `auto`: float32 on a CPU, bfloat16 on a GPU that has it, else float16."""
    quantization: Literal["none", "int8", "nf4"] = "none"
    """Weights in fewer bits, by bitsandbytes: 8, or 4 with double quantization; Mixtral's
    experts too."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Implementation of attention; `auto`: sdpa where the architecture has it, else eager."""
    chat_template: str | None = None
    """How messages become text; null: by the tokenizer's own template, `plain`: lines that begin with
    System, User or Assistant, for models without one, else the path of a Jinja file."""
    batch_size: int = Field(64, gt=0)
    """Most sequences in one forward pass. It changes speed and memory, not results."""


class DemoModel(Section):
    """A small chat model, made from scratch on the demo world."""

    source: Literal["demo"]
    """Chooses this kind of model."""
    architecture: Literal["llama", "mixtral"]
    """Architecture of the network."""
    knows: list[str] = Field(min_length=1)
    """Subjects of the demo world that it knows well; of the others it knows little."""
    seed: int = 0
    """Seed of its corpus and its weights."""
    steps: int = Field(650, gt=0)
    """Training steps."""
    load: Load = Load()
    """How its weights are held in memory."""


class PathModel(Section):
    """A model in the Hugging Face layout, in a folder."""

    source: Literal["path"]
    """Chooses this kind of model."""
    path: str
    """The folder that holds config.json, the tokenizer and *.safetensors."""
    load: Load = Load()
    """How its weights are held in memory."""


class HubModel(Section):
    """A model of the Hugging Face hub, fetched once on the machine that runs snakemake."""

    source: Literal["hub"]
    """Chooses this kind of model."""
    repository: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """The repository, as owner/name."""
    revision: str
    """Branch, tag or commit; a commit makes the experiment repeatable."""
    load: Load = Load()
    """How its weights are held in memory."""


Model = Annotated[DemoModel | PathModel | HubModel, Field(discriminator="source")]
