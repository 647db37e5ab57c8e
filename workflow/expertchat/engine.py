"""Inference: the two things that stages ask of a model.

`generate` continues prompts; `answer_logprobs` tells how likely given answers are after prompts that
share a beginning. The engine knows no stage. What is drawn for a prompt depends on the prompt and its
seed, not on its batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from expertchat.errors import UserError
from expertchat.probes import Probe, SuffixRow, shared_length, suffix_rows
from expertchat.settings.models import Load
from expertchat.settings.sampling import Sampling

IGNORED_POSITION = 0  # position id of padding; masked, so any valid one does
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Completion:
    """A drawn continuation: its tokens without the end token, and why it ended."""

    ids: list[int]
    finish_reason: str  # "stop": the model ended it; "length": the token limit did


def pick_dtype(load: Load, device: torch.device) -> torch.dtype:
    """The weights' type: as set, or the best that the device computes fast."""
    if load.dtype != "auto":
        return DTYPES[load.dtype]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def quantization_config(load: Load, dtype: torch.dtype):
    """The bitsandbytes configuration that `load` asks for, None for none."""
    if load.quantization == "none":
        return None
    from transformers import BitsAndBytesConfig

    if load.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def check_quantizable(config, load: Load) -> None:
    """Stops before the weights of fused experts are read, which would stay as large as they are.

    bitsandbytes replaces linear layers; transformers holds a mixture's experts as 3-D parameters.
    """
    experts = getattr(config.get_text_config(), "num_local_experts", 0)
    if load.quantization != "none" and experts:
        raise UserError(
            f"{config.name_or_path or config.model_type}: quantization {load.quantization} would leave "
            f"its {experts} fused experts as they are; set load.quantization to none for this model"
        )


def load_model(folder: Path, load: Load, auto_class=AutoModelForCausalLM, **kwargs):
    """A model from safetensors in `folder`, in eval mode, on the GPUs where there are some.

    No code of the model's repository is run. Several GPUs share the layers.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = pick_dtype(load, device)
    disable_progress_bar()  # the stages have bars of their own
    check_quantizable(AutoConfig.from_pretrained(folder, local_files_only=True), load)
    if device.type == "cuda":
        kwargs["device_map"] = "auto"
    model = auto_class.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=load.attention,
        quantization_config=quantization_config(load, dtype),
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        **kwargs,
    )
    for module in model.modules():
        # bitsandbytes' fast 4-bit path for such CPUs repacks weights in place at the first forward pass
        # without gradients, after which gradients are wrong without a word
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model.eval()


def load_tokenizer(folder: Path):
    """The tokenizer of the model in `folder`, with a pad token that is not its end token."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        # unk is the usual stand-in; else any special token that never ends a text
        others = [t for t in tokenizer.all_special_ids if t != tokenizer.eos_token_id]
        if not others:
            raise UserError(f"{folder}: the tokenizer has no token that could serve as padding")
        tokenizer.pad_token_id = others[-1]
    return tokenizer


def padded(rows: Sequence[Sequence[int]], pad: int, device, side: str) -> tuple[torch.Tensor, ...]:
    """(ids, mask), both [rows, longest], filled up on the "left" or the "right"."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), longest) if side == "left" else slice(0, len(row))
        ids[i, place] = torch.tensor(row, dtype=torch.long)
        mask[i, place] = 1
    return ids.to(device), mask.to(device)


def position_ids(mask: torch.Tensor) -> torch.Tensor:
    """Positions [rows, tokens] that count real tokens only, from 0."""
    return (mask.cumsum(-1) - 1).clamp(min=IGNORED_POSITION)


def nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """`probabilities` [..., V] without the unlikely tail, renormalised (Holtzman et al. 2020)."""
    if top_p >= 1:
        return probabilities
    ordered, order = probabilities.sort(dim=-1, descending=True)
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0  # keeps the token that crosses top_p
    kept = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    return kept / kept.sum(-1, keepdim=True)


def draw(logits: torch.Tensor, uniform: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Token ids [rows] by inverting the distribution of logits [rows, V] at uniform [rows]."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.float() / sampling.temperature, -1)
    cumulative = nucleus(probabilities, sampling.top_p).cumsum(-1, dtype=torch.float64)
    target = uniform.to(cumulative).unsqueeze(-1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


def answer_sums(logits: torch.Tensor, row: SuffixRow, probe: Probe) -> np.ndarray:
    """Log-probability of each of the row's answers from its logits [tokens, V]."""
    sums = []
    for answer in (probe.answers[k] for k in row.answers):
        places = slice(len(row.ids) - len(answer), len(row.ids))
        tokens = torch.tensor(answer, device=logits.device).unsqueeze(-1)
        sums.append(logits[places].float().log_softmax(-1).gather(-1, tokens).sum())
    return torch.stack(sums).cpu().numpy()


def uniforms(seed: int, count: int) -> np.ndarray:
    """[count] uniform numbers for the draws of one continuation, the same on every machine."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def end_ids(model: PreTrainedModel, tokenizer) -> list[int]:
    """The tokens that end a turn: the tokenizer's end token and those of the generation settings."""
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    return sorted({t for t in [tokenizer.eos_token_id, *configured] if t is not None})


def continue_batch(
    model, prompts, uniform: np.ndarray, sampling: Sampling, pad: int, ends: list[int]
) -> list[Completion]:
    """Continues all prompts together, by a cache, until each has ended. `uniform`: [rows, tokens]."""
    device = model.device
    ids, mask = padded(prompts, pad, device, side="left")
    uniform = torch.from_numpy(uniform).to(device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    end_tensor = torch.tensor(ends, device=device)
    cache, positions, made = None, position_ids(mask), []
    for step in range(sampling.max_new_tokens):
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        tokens = draw(output.logits[:, -1], uniform[:, step], sampling)
        tokens = torch.where(ended, pad, tokens)
        made.append(tokens)
        ended = ended | torch.isin(tokens, end_tensor)
        if bool(ended.all()):
            break
        ids, positions = tokens.unsqueeze(-1), positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], 1)
    return [_completion(row, ends) for row in torch.stack(made, 1).tolist()]


def _completion(row: list[int], ends: list[int]) -> Completion:
    """A row of drawn tokens, cut at its first end token."""
    for i, token in enumerate(row):
        if token in ends:
            return Completion(row[:i], "stop")
    return Completion(row, "length")


class Engine:
    """A model in memory, its tokenizer, and the adapters that were loaded onto it."""

    def __init__(self, folder: Path, load: Load, batch_size: int, adapter: Path | None = None):
        self.tokenizer = load_tokenizer(folder)
        self.model = load_model(folder, load)
        if adapter is not None:
            from peft import PeftModel

            self.model = PeftModel.from_pretrained(self.model, adapter).eval()
        self.batch_size = batch_size
        self.pad = self.tokenizer.pad_token_id
        self.ends = end_ids(self.model, self.tokenizer)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[list[int]],
        seeds: Sequence[int],
        sampling: Sampling,
        on_batch: Callable[[int, float], None] = lambda tokens, seconds: None,
    ) -> list[Completion]:
        """One continuation of each prompt, drawn with its seed. `on_batch`: (tokens made, seconds)."""
        results: list[Completion | None] = [None] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            began = time.perf_counter()
            completions = continue_batch(
                self.model,
                [prompts[i] for i in rows],
                np.stack([uniforms(seeds[i], sampling.max_new_tokens) for i in rows]),
                sampling,
                self.pad,
                self.ends,
            )
            for i, completion in zip(rows, completions, strict=True):
                results[i] = completion
            on_batch(sum(len(c.ids) + 1 for c in completions), time.perf_counter() - began)
        return results

    @torch.inference_mode()
    def answer_logprobs(
        self,
        groups: Sequence[list[Probe]],
        on_batch: Callable[[int], None] = lambda groups: None,
    ) -> list[list[np.ndarray]]:
        """Log-probabilities [answers] for each probe of each group; a group's shared start is read once.

        An answer of several tokens has the sum of their log-probabilities.
        """
        results: list[list[np.ndarray] | None] = [None] * len(groups)
        for group in groups:
            if shared_length(group) < 1:
                raise ValueError("the prompts of a group must begin with the same token")
        order = sorted(range(len(groups)), key=lambda i: len(groups[i][0].prompt))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            for i, found in zip(rows, self._score_batch([groups[i] for i in rows]), strict=True):
                results[i] = found
            on_batch(len(rows))
        return results

    def _score_batch(self, groups: list[list[Probe]]) -> list[list[np.ndarray]]:
        """One forward pass over the groups' shared starts, then one a suffix on top of the cache."""
        shared = [shared_length(group) for group in groups]
        starts = [g[0].prompt[:n] for g, n in zip(groups, shared, strict=True)]
        ids, mask = padded(starts, self.pad, self.model.device, side="left")
        cache = self._forward(ids, mask, None, logits_to_keep=1).past_key_values
        rows = [suffix_rows(group, n) for group, n in zip(groups, shared, strict=True)]
        found = [[np.empty(len(probe.answers)) for probe in group] for group in groups]
        for turn in range(max(map(len, rows))):
            current = [r[min(turn, len(r) - 1)] for r in rows]  # a group that is done repeats its last
            suffixes = [row.ids for row in current]
            ids, suffix_mask = padded(suffixes, self.pad, self.model.device, side="right")
            logits = self._forward(ids, torch.cat([mask, suffix_mask], 1), cache).logits
            for i, row in enumerate(current):
                found[i][row.probe][row.answers] = answer_sums(logits[i], row, groups[i][row.probe])
            cache.crop(-ids.shape[1])  # back to the shared starts
        return found

    def _forward(self, ids, mask, cache, **kwargs):
        positions = position_ids(mask)[:, -ids.shape[1] :]
        return self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **kwargs,
        )
