"""The engine in this process: a transformers model, its tokenizer and its adapters."""

from __future__ import annotations

import gc
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from expertchat import chat
from expertchat.engine.adapters import add_adapter
from expertchat.engine.batches import (
    Batches,
    free_bytes,
    planned_rows,
    planned_tokens,
    questions_per_piece,
)
from expertchat.engine.finite import require_numbers
from expertchat.engine.generate.cache import Sessions, why_not_reusable
from expertchat.engine.generate.contrastive import (
    check_contrastive,
    check_crossing,
    continue_contrastive,
    read_prompts_with_states,
)
from expertchat.engine.generate.generation import continue_batch, read_prompts
from expertchat.engine.generate.sampling import uniforms
from expertchat.engine.generate.stopping import Completion, StoppingRules, before_stop, end_token_ids
from expertchat.engine.interface import (
    Lengths,
    OnQuestions,
    OnReplies,
    Pieces,
    Question,
    Reply,
    Request,
    ignore,
)
from expertchat.engine.loading import context_tokens, load_model, load_tokenizer
from expertchat.engine.rotation import is_long, long_rope_limit, rotate_as
from expertchat.engine.score.encoding import Encoder
from expertchat.engine.score.forest import build_forest
from expertchat.engine.score.forest_attention import CachedNodes
from expertchat.engine.score.scoring import Method, pick_method, score_nodes, score_whole
from expertchat.engine.score.tokenized import (
    AnswerSequence,
    TokenizedQuestion,
    answer_sequences,
    exclusive_logprobs,
)
from expertchat.errors import UserError
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load

SESSION_SHARE = 0.3  # of the free memory after loading that all cached conversations may take


class LocalEngine:
    """An `Engine` on the model in a folder."""

    def __init__(
        self,
        folder: Path,
        load: Load,
        batch_size: int,
        placement: Mapping[str, int] | None = None,
        engines: int = 1,
    ):
        """`batch_size`: largest number of rows in a batch; `placement`: a GPU for each module.

        `engines`: number of engines that take turns on this memory, each of which may fill its part of
        it with cached conversations.
        """
        self.folder = folder
        self.tokenizer = load_tokenizer(folder, load)
        self.model = load_model(folder, load, placement=placement)
        self.batches = Batches(batch_size, self._make_room)
        # a pass over forest nodes is limited by its number of tokens, not of nodes
        self.passes = Batches(sys.maxsize, self._make_room)
        self.pad = self.tokenizer.pad_token_id
        self.end_ids = end_token_ids(self.model, self.tokenizer)
        reason = why_not_reusable(self.model)
        self.reusable = reason is None
        if reason:
            print(f"{folder}: prompts are recomputed for each call, as {reason}", file=sys.stderr)
        self.sessions = Sessions(int(SESSION_SHARE * free_bytes(self.model) / engines))
        self.pieces = Pieces(batch_size, questions_per_piece(self.model))
        self._adapters: dict[Path, str] = {}
        self.encoder = Encoder(self.tokenizer)
        self._method: Method | None = None

    def use(self, adapter: Path | None) -> None:
        """See `Engine.use`. Each adapter has cached conversations of its own, which stay."""
        name = None if adapter is None else self._load_adapter(adapter.resolve())
        if name == self.sessions.adapter:
            return
        if name is None:
            self.model.base_model.disable_adapter_layers()
        else:
            self.model.base_model.enable_adapter_layers()
            self.model.set_adapter(name, inference_mode=True)
        self.sessions.adapter = name

    def _load_adapter(self, folder: Path) -> str:
        """The name of the adapter in this folder, which is loaded if it is new."""
        if folder not in self._adapters:
            name = f"adapter-{len(self._adapters)}"
            self.model = add_adapter(self.model, folder, name)
            if not self._adapters:
                self.model.base_model.disable_adapter_layers()
            self.model.eval()
            self._adapters[folder] = name
        return self._adapters[folder]

    def _make_room(self) -> bool:
        """Clears all cached conversations; returns whether there were any."""
        used = self.sessions.used > 0
        self.sessions.clear()
        return used

    def close(self) -> None:
        """Frees the model's memory."""
        self.sessions.clear()
        self.model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[Request], decoding: Decoding, on_batch: OnReplies = ignore
    ) -> list[Reply]:
        """See `Engine.generate`."""
        if decoding.strategy == "contrastive":
            check_contrastive(self.model, self.reusable)
        stop = [*decoding.stop, *chat.stop_texts(self.tokenizer)]
        decoding = decoding.model_copy(update={"stop": stop})
        prompts = [chat.encode(self.tokenizer, request.messages) for request in requests]
        # equal prompts are neighbours, so that each is read once; the longest come first, so that a
        # batch that is too large for memory fails at the start
        order = sorted(range(len(requests)), key=lambda i: (-len(prompts[i]), prompts[i]))
        session_counts = Counter(request.session for request in requests if request.session)
        longest = max(map(len, prompts), default=0) + decoding.max_new_tokens + decoding.grace_tokens
        self._check_length(longest)
        if decoding.strategy == "contrastive":
            check_crossing(self.model.config, list(map(len, prompts)), decoding)
        replies: dict[int, Reply] = {}

        def complete(part: Sequence[int]) -> list[Completion]:
            return self._complete(
                [prompts[i] for i in part], [requests[i] for i in part], decoding, session_counts
            )

        began = time.perf_counter()
        planned = planned_rows(self.model, longest)
        limit = long_rope_limit(self.model.config) or sys.maxsize
        over = sum(len(prompt) > limit for prompt in prompts)

        def rows(first: int) -> int:  # long texts are rotated otherwise and have batches of their own
            return min(planned, over - first) if first < over else planned

        for part, completions in self.batches.run(order, complete, rows):
            replies |= {i: self._reply(c, decoding.stop) for i, c in zip(part, completions, strict=True)}
            now = time.perf_counter()
            on_batch(len(part), sum(len(c.ids) + 1 for c in completions), now - began)
            began = now
        return [replies[i] for i in range(len(requests))]

    def _reply(self, completion: Completion, stop: list[str]) -> Reply:
        text = self.tokenizer.decode(completion.ids, skip_special_tokens=True)
        before = before_stop(text, stop)
        text = text if before is None else before
        return Reply(text.strip(), len(completion.ids), completion.finish_reason)

    def _complete(
        self,
        prompts: list[list[int]],
        requests: Sequence[Request],
        decoding: Decoding,
        session_counts: Counter,
    ) -> list[Completion]:
        """One batch: reads each different prompt once, then draws a completion for each request.

        All prompts must be rotated alike (`rotation.is_long`). `session_counts`: number of requests of
        each session in the complete call.
        """
        long = is_long(self.model.config, len(prompts[0]))
        with rotate_as(self.model, long):
            return self._complete_alike(prompts, requests, decoding, session_counts, long)

    def _complete_alike(
        self,
        prompts: list[list[int]],
        requests: Sequence[Request],
        decoding: Decoding,
        session_counts: Counter,
        long: bool,
    ) -> list[Completion]:
        """`_complete`; `long`: whether the prompts are rotated by LongRoPE's long factors."""
        unique = list(dict.fromkeys(map(tuple, prompts)))
        row_of = {prompt: i for i, prompt in enumerate(unique)}
        rows = torch.tensor([row_of[tuple(prompt)] for prompt in prompts], device=self.model.device)
        sessions = {row_of[tuple(p)]: r.session for p, r in zip(prompts, requests, strict=True)}
        prefixes = [
            self.sessions.find(sessions[i]) if self.reusable else None for i in range(len(unique))
        ]
        prefixes = [
            prefix if prefix and is_long(self.model.config, len(prefix.ids)) == long else None
            for prefix in prefixes
        ]
        stopping = StoppingRules(decoding, self.end_ids, self.tokenizer)
        contrastive = decoding.strategy == "contrastive"
        distinct = list(map(list, unique))
        if contrastive:
            state = read_prompts_with_states(
                self.model, distinct, self.pad, prefixes, decoding, stopping
            )
        else:
            room = stopping.max_tokens
            state = read_prompts(self.model, distinct, self.pad, prefixes, room, self.reusable)
        if self.reusable:
            for i, session in sessions.items():
                if session and session_counts[session] > 1:  # its replies share only the prompt
                    self.sessions.store(session, state.copy_row(i, distinct[i]))
        keep_cache = [bool(self.reusable and session_counts[r.session] == 1) for r in requests]
        state = state.select(rows)
        if contrastive:
            completions, kept = continue_contrastive(
                self.model, state, prompts, decoding, stopping, keep_cache
            )
        else:
            uniform = np.stack([uniforms(r.seed, stopping.max_tokens) for r in requests])
            completions, kept = continue_batch(
                self.model,
                state,
                prompts,
                uniform,
                decoding,
                stopping,
                self.pad,
                keep_cache,
                None if long else long_rope_limit(self.model.config),
            )
        for request, prefix in zip(requests, kept, strict=True):
            if prefix is not None and request.session is not None:
                self.sessions.store(request.session, prefix)
        return completions

    def _check_length(self, tokens: int) -> None:
        """Raises UserError if a sequence is too long for the model: its output would be meaningless."""
        limit = self.context_tokens
        if limit is not None and tokens > limit:
            raise UserError(
                f"{self.folder}: a sequence has up to {tokens} tokens, but the model reads at most "
                f"{limit}: lower turns, max_new_tokens or max_tokens, or use a model of longer context"
            )

    @torch.inference_mode()
    def answer_logprobs(
        self, groups: Sequence[Sequence[Question]], on_batch: OnQuestions = ignore
    ) -> list[list[np.ndarray]]:
        """See `Engine.answer_logprobs`."""
        encoded = iter(self.encoder.tokenize([question for group in groups for question in group]))
        tokenized = [[next(encoded) for _ in group] for group in groups]
        logprobs = self.score(tokenized, on_batch)
        for g, group in enumerate(groups):
            for i, question in enumerate(group):
                if question.exclusive:
                    logprobs[g][i] = exclusive_logprobs(tokenized[g][i].answers, logprobs[g][i])
        return logprobs

    def lengths(self, questions: Sequence[Question]) -> list[Lengths]:
        """See `Engine.lengths`."""
        return self.encoder.lengths(questions)

    @property
    def context_tokens(self) -> int | None:
        """See `Engine.context_tokens`."""
        return context_tokens(self.model.config)

    @property
    def method(self) -> Method:
        """How answers are scored; found by a trial run at first use."""
        if self._method is None:
            self._method, reason = pick_method(self.model)
            if reason and self.reusable:  # otherwise it was reported when the model was loaded
                how = "on complete prompts" if self._method == "whole" else "with a mask, more slowly"
                print(f"{self.folder}: answers are scored {how}, as {reason}", file=sys.stderr)
        return self._method

    @torch.inference_mode()
    def score(
        self, groups: Sequence[Sequence[TokenizedQuestion]], on_batch: OnQuestions = ignore
    ) -> list[list[np.ndarray]]:
        """`answer_logprobs` of tokenized questions; `exclusive` is not applied."""
        sequences = answer_sequences(groups, self.context_tokens)
        self._check_length(max((len(sequence.ids) for sequence in sequences), default=0))
        remaining = Counter(sequence.index[:2] for sequence in sequences)
        totals = np.zeros(len(sequences))
        began = time.perf_counter()
        for done, tokens in self._score_sequences(sequences, totals):
            before, now = len(remaining), time.perf_counter()
            require_numbers(totals[list(done)], self.folder)
            remaining -= Counter(sequences[r].index[:2] for r in done)
            on_batch(before - len(remaining), tokens, now - began)
            began = now
        logprobs = [[np.zeros(len(question.answers)) for question in group] for group in groups]
        for sequence, total in zip(sequences, totals.tolist(), strict=True):
            g, i, k = sequence.index
            # equal answers may be computed twice, and rounding must not make one of them likelier
            first = groups[g][i].answers.index(sequence.answer)
            logprobs[g][i][k] = logprobs[g][i][first] if first < k else total
        return logprobs

    def _score_sequences(
        self, sequences: Sequence[AnswerSequence], totals: np.ndarray
    ) -> Iterator[tuple[Sequence[int], int]]:
        """Sets `totals` [sequences] to log-probabilities; yields what each pass did.

        That is (the sequences that it finished, the number of tokens that it read). Long texts that
        LongRoPE rotates otherwise have passes of their own.
        """
        limit = long_rope_limit(self.model.config) or sys.maxsize
        for long in (True, False):
            numbers = [i for i, s in enumerate(sequences) if (len(s.ids) > limit) == long]
            if not numbers:
                continue
            own, part = np.zeros(len(numbers)), [sequences[i] for i in numbers]
            score = self._score_whole if self.method == "whole" else self._score_forest
            with rotate_as(self.model, long):
                for done, tokens in score(part, own):
                    finished = [numbers[r] for r in done]
                    totals[finished] = own[done]
                    yield finished, tokens

    def _score_forest(
        self, sequences: Sequence[AnswerSequence], totals: np.ndarray
    ) -> Iterator[tuple[Sequence[int], int]]:
        """Adds log-probabilities to `totals` by passes over the nodes of a prefix forest."""
        max_tokens = planned_tokens(self.model)
        forest = build_forest(sequences, max_tokens)
        starts = forest.starts()
        by_last = np.argsort(forest.last, kind="stable")
        cached: CachedNodes = {}

        def score(part: Sequence[int]) -> tuple[np.ndarray, CachedNodes]:
            return score_nodes(self.model, forest, part[0], part[-1] + 1, cached, self.method)

        def nodes_per_pass(first: int) -> int:
            return int(np.searchsorted(starts, starts[first] + max_tokens, side="right")) - 1 - first

        numbers = range(len(forest.nodes))
        for part, (values, kept) in self.passes.run(numbers, score, nodes_per_pass):
            cached = kept
            first, end = part[0], part[-1] + 1
            begin, stop = np.searchsorted(forest.node, [first, end])
            np.add.at(totals, forest.sequence[begin:stop], values)
            begin, stop = np.searchsorted(forest.last[by_last], [first, end])
            yield by_last[begin:stop].tolist(), int(starts[end] - starts[first])

    def _score_whole(
        self, sequences: Sequence[AnswerSequence], totals: np.ndarray
    ) -> Iterator[tuple[Sequence[int], int]]:
        """Sets `totals` to log-probabilities by batches of complete prompts."""
        order = sorted(range(len(sequences)), key=lambda r: (-len(sequences[r].ids), sequences[r].index))

        def score(part: Sequence[int]) -> list[float]:
            return score_whole(self.model, [sequences[r] for r in part], self.pad)

        longest = len(sequences[order[0]].ids)
        for part, logprobs in self.batches.run(order, score, planned_rows(self.model, longest)):
            totals[part] = logprobs
            read = {ids.tobytes(): len(ids) for ids in (sequences[r].ids for r in part)}
            yield part, sum(read.values())  # answers of one token share their prompt's row
