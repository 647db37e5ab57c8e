"""Settings of stages instructions and sft."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from expertchat.settings.data_files import HubFile, LocalFile, MadeUpFile
from expertchat.settings.lora import LoRA
from expertchat.settings.section import Section

Format = Literal["alpaca", "dolly", "hc3", "evol-instruct", "messages"]


class _Instructions(Section):
    format: Format
    """Format of the records. `alpaca`: {instruction, input, output}; `dolly`: {instruction, context,
    response}; `hc3`: {question, human_answers, chatgpt_answers}; `evol-instruct`: {instruction, output}
    or {conversations}; `messages`: {messages}, each {role, content}."""
    answers: Literal["human", "chatgpt", "both"] = "human"
    """Whose answers of HC3 are used."""
    limit: int | None = Field(None, gt=0)
    """Largest number of conversations that are used, drawn at random; null: all."""


class FileInstructions(_Instructions, LocalFile):
    """Instructions in a local file.

    Example: {source: file, path: data/alpaca.json, format: alpaca}
    """


class HubInstructions(_Instructions, HubFile):
    """Instructions of the Hugging Face hub, downloaded by the Snakemake process.

    Example: {source: hub, repository: databricks/databricks-dolly-15k, revision: main,
    file: databricks-dolly-15k.jsonl, format: dolly}
    """


class MadeUpInstructions(_Instructions, MadeUpFile):
    """Made-up instructions, which `shrink` puts in place of those of the hub.

    Example: {source: made-up, format: alpaca}
    """


Instructions = Annotated[
    FileInstructions | HubInstructions | MadeUpInstructions, Field(discriminator="source")
]


class Tuning(Section):
    """How a model is tuned on conversations.

    Example: {method: lora, learning_rate: 2.0e-4, lora: {rank: 8}}
    """

    method: Literal["lora", "full"] = "lora"
    """What is trained. `lora`: an adapter, which is merged into the weights at the end, with
    `load.quantization` of a quantized base (QLoRA, Dettmers et al. 2023); `full`: all weights."""
    loss_on: Literal["assistant", "all"] = "assistant"
    """Tokens that the loss counts. `assistant`: the assistant's messages with their end tokens; `all`:
    every token."""
    packing: bool = False
    """Whether several conversations are read as one row, without seeing each other."""
    epochs: float = Field(1, gt=0, le=1000)
    """Number of passes over the conversations."""
    batch_size: int = Field(16, gt=0, le=100_000)
    """Number of rows per optimizer step."""
    learning_rate: float = Field(1e-4, gt=0, le=1)
    """Peak learning rate of AdamW; full fine-tuning needs a smaller one, about 1e-5."""
    max_length: int = Field(1024, gt=0)
    """Maximum length of a row, in tokens. Longer conversations are cut at their end, and left out if
    nothing of a reply is left; both are counted."""
    lora: LoRA = LoRA()
    """The adapter, with `method: lora`."""


class SFT(Tuning):
    """Supervised fine-tuning on instructions, before all other stages: what is tuned takes the model's
    place.

    Example: {instructions: [{source: file, path: data/alpaca.json, format: alpaca}], method: lora}
    """

    instructions: list[Instructions] = Field(min_length=1)
    """The data sets, which are mixed. Conversations that occur twice are used once."""
    models: list[str] = []
    """Names of the models that are tuned; empty: all that have weights."""
    held_out_share: float = Field(0.05, gt=0, lt=1)
    """Share of the prompts that are not trained on; the loss on them is measured before and after."""
