"""The engine in this process: a model of transformers, its tokenizer, and adapters that are switched."""

from __future__ import annotations

import gc
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from expertchat import chat
from expertchat.engine.batches import Batches, free_bytes, planned_rows, planned_tokens
from expertchat.engine.generate.cache import Sessions, why_unshared
from expertchat.engine.generate.contrastive import check_contrastive, continue_contrastive, read_states
from expertchat.engine.generate.generation import continue_read, expand, read_prompts
from expertchat.engine.generate.sampling import uniforms
from expertchat.engine.generate.stopping import Completion, Endings, cut, end_ids
from expertchat.engine.interface import Lengths, Question, Reply, Request, ignore
from expertchat.engine.loading import context_tokens, load_model, load_tokenizer
from expertchat.engine.score.encoding import Encoder
from expertchat.engine.score.forest import plant
from expertchat.engine.score.forest_attention import HeldNodes
from expertchat.engine.score.scoring import Way, pick_way, score_nodes, score_whole
from expertchat.engine.score.tokenized import (
    AnswerSequence,
    TokenizedQuestion,
    answer_sequences,
    exclusive_logprobs,
)
from expertchat.errors import UserError
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load

SESSION_SHARE = 0.3  # of the free memory after loading: what conversations may hold between calls


class LocalEngine:
    """An `Engine` on the model in a folder."""

    def __init__(
        self, folder: Path, load: Load, batch_size: int, placement: Mapping[str, int] | None = None
    ):
        """`batch_size`: most rows at once; `placement`: a GPU for each module."""
        self.folder = folder
        self.tokenizer = load_tokenizer(folder, load)
        self.model = load_model(folder, load, placement=placement)
        self.batches = Batches(batch_size, self._make_room)
        # a pass over a forest is limited by its tokens
        self.passes = Batches(sys.maxsize, self._make_room)
        self.pad = self.tokenizer.pad_token_id
        self.ends = end_ids(self.model, self.tokenizer)
        unshared = why_unshared(self.model)
        self.share = unshared is None
        if unshared:
            print(f"{folder}: each prompt is read anew, as {unshared}", file=sys.stderr)
        self.sessions = Sessions(int(SESSION_SHARE * free_bytes(self.model)))
        self._adapters: dict[Path, str] = {}
        self.encoder = Encoder(self.tokenizer)
        self._way: Way | None = None

    def use(self, adapter: Path | None) -> None:
        """Switches to the adapter in this folder, reading it where it is new; None: to none."""
        self.sessions.clear()
        if adapter is None:
            if self._adapters:
                self.model.base_model.disable_adapter_layers()
            return
        adapter = adapter.resolve()
        if adapter not in self._adapters:
            from peft import PeftModel

            name = f"adapter-{len(self._adapters)}"
            if self._adapters:
                self.model.load_adapter(adapter, name)
            else:
                self.model = PeftModel.from_pretrained(self.model, adapter, name)
            self._adapters[adapter] = name
        self.model.base_model.enable_adapter_layers()
        self.model.set_adapter(self._adapters[adapter])
        self.model.eval()

    def _make_room(self) -> bool:
        """Forgets what was read of conversations; whether there was any."""
        held = self.sessions.used > 0
        self.sessions.clear()
        return held

    def close(self) -> None:
        """Frees the model's memory."""
        self.sessions.clear()
        del self.model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[Request],
        decoding: Decoding,
        on_batch: Callable[[int, int, float], None] = ignore,
    ) -> list[Reply]:
        """One reply to each request, drawn with its seed. `on_batch`: (replies, tokens, seconds)."""
        if decoding.strategy == "contrastive":
            check_contrastive(self.model, self.share)
        stop = [*decoding.stop, *chat.stop_texts(self.tokenizer)]
        decoding = decoding.model_copy(update={"stop": stop})
        prompts = [chat.encode(self.tokenizer, request.messages) for request in requests]
        # equal prompts stand together, to be read once; the longest come first, so that a batch that
        # memory cannot hold shows at once
        order = sorted(range(len(requests)), key=lambda i: (-len(prompts[i]), prompts[i]))
        often = Counter(request.session for request in requests if request.session)
        longest = max(map(len, prompts), default=0) + decoding.max_new_tokens + decoding.grace_tokens
        self._check_length(longest)
        found: dict[int, Reply] = {}

        def reply_to(places: Sequence[int]) -> list[Completion]:
            return self._continue(
                [prompts[i] for i in places], [requests[i] for i in places], decoding, often
            )

        began = time.perf_counter()
        for places, completions in self.batches.run(order, reply_to, planned_rows(self.model, longest)):
            found |= {i: self._reply(c, decoding.stop) for i, c in zip(places, completions, strict=True)}
            now = time.perf_counter()
            on_batch(len(places), sum(len(c.ids) + 1 for c in completions), now - began)
            began = now
        return [found[i] for i in range(len(requests))]

    def _reply(self, completion: Completion, stop: list[str]) -> Reply:
        text = self.tokenizer.decode(completion.ids, skip_special_tokens=True)
        before = cut(text, stop)
        text = text if before is None else before
        return Reply(text.strip(), len(completion.ids), completion.finish_reason)

    def _continue(
        self, prompts: list[list[int]], requests: Sequence[Request], decoding: Decoding, often: Counter
    ) -> list[Completion]:
        """One batch: reads each different prompt once, then draws."""
        unique = list(dict.fromkeys(map(tuple, prompts)))
        place = {prompt: i for i, prompt in enumerate(unique)}
        rows = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=self.model.device)
        sessions = {place[tuple(p)]: r.session for p, r in zip(prompts, requests, strict=True)}
        held = [self.sessions.find(sessions[i]) if self.share else None for i in range(len(unique))]
        endings = Endings(decoding, self.ends, self.tokenizer)
        contrastive = decoding.strategy == "contrastive"
        distinct = list(map(list, unique))
        if contrastive:
            read = read_states(self.model, distinct, self.pad, held, decoding, endings)
        else:
            read = read_prompts(self.model, distinct, self.pad, held, endings.last, self.share)
        if self.share:
            for i, session in sessions.items():
                if session and often[session] > 1:  # what its replies share is the prompt
                    self.sessions.keep(session, read.hold(i, distinct[i]))
        hold = [bool(self.share and r.session and often[r.session] == 1) for r in requests]
        read = expand(read, rows)
        if contrastive:
            completions, kept = continue_contrastive(self.model, read, prompts, decoding, endings, hold)
        else:
            uniform = np.stack([uniforms(r.seed, endings.last) for r in requests])
            completions, kept = continue_read(
                self.model, read, prompts, uniform, decoding, endings, self.pad, hold
            )
        for request, row in zip(requests, kept, strict=True):
            if row is not None:
                self.sessions.keep(request.session, row)
        return completions

    def _check_length(self, tokens: int) -> None:
        """Stops where a sequence is longer than the model was made for: its answers would be noise."""
        limit = self.context_tokens
        if limit is not None and tokens > limit:
            raise UserError(
                f"{self.folder}: {tokens} tokens are asked for, and the model takes {limit}: "
                "lower turns, max_new_tokens or max_tokens, or take a model of longer context"
            )

    @torch.inference_mode()
    def answer_logprobs(
        self, groups: Sequence[Sequence[Question]], on_batch: Callable[[int], None] = ignore
    ) -> list[list[np.ndarray]]:
        """Log-probabilities [answers] for each question of each group."""
        encoded = iter(self.encoder.tokenize([question for group in groups for question in group]))
        tokenized = [[next(encoded) for _ in group] for group in groups]
        found = self.score(tokenized, on_batch)
        for g, group in enumerate(groups):
            for i, question in enumerate(group):
                if question.exclusive:
                    found[g][i] = exclusive_logprobs(tokenized[g][i].answers, found[g][i])
        return found

    def lengths(self, questions: Sequence[Question]) -> list[Lengths]:
        """Tokens of each question before any cut."""
        return self.encoder.lengths(questions)

    @property
    def context_tokens(self) -> int | None:
        """Most tokens that the model was made for, None where its configuration does not say."""
        return context_tokens(self.model.config)

    @property
    def way(self) -> Way:
        """How answers are asked: tried at first use."""
        if self._way is None:
            self._way, why = pick_way(self.model)
            if why and self.share:  # else it was said at the start
                how = "by whole prompts" if self._way == "whole" else "through a mask, more slowly"
                print(f"{self.folder}: answers are asked {how}, as {why}", file=sys.stderr)
        return self._way

    @torch.inference_mode()
    def score(
        self, groups: Sequence[Sequence[TokenizedQuestion]], on_batch: Callable[[int], None] = ignore
    ) -> list[list[np.ndarray]]:
        """`answer_logprobs` on token ids."""
        sequences = answer_sequences(groups, self.context_tokens)
        self._check_length(max((len(sequence.ids) for sequence in sequences), default=0))
        left = Counter(sequence.place[0] for sequence in sequences)
        if sequences:
            ask = self._score_whole if self.way == "whole" else self._score_forest
        totals = np.zeros(len(sequences))
        for done in ask(sequences, totals) if sequences else ():
            before = len(left)
            left -= Counter(sequences[r].place[0] for r in done)
            on_batch(before - len(left))
        found = [[np.zeros(len(question.answers)) for question in group] for group in groups]
        for sequence, total in zip(sequences, totals.tolist(), strict=True):
            g, i, k = sequence.place
            # equal answers may be read twice, and rounding must not make one the likelier
            first = groups[g][i].answers.index(sequence.answer)
            found[g][i][k] = found[g][i][first] if first < k else total
        return found

    def _score_forest(
        self, sequences: Sequence[AnswerSequence], totals: np.ndarray
    ) -> Iterator[Sequence[int]]:
        """Adds log-probabilities to `totals` [sequences]; yields the sequences that each pass ends."""
        most = planned_tokens(self.model)
        forest = plant(sequences, most)
        starts = forest.starts()
        by_last = np.argsort(forest.last, kind="stable")
        held: HeldNodes = {}

        def score(part: range) -> tuple[np.ndarray, HeldNodes]:
            return score_nodes(self.model, forest, part[0], part[-1] + 1, held, self.way)

        def fit(first: int) -> int:
            return int(np.searchsorted(starts, starts[first] + most, side="right")) - 1 - first

        for part, (values, kept) in self.passes.run(range(len(forest.nodes)), score, fit):
            held = kept
            first, end = part[0], part[-1] + 1
            begin, stop = np.searchsorted(forest.node, [first, end])
            np.add.at(totals, forest.sequence[begin:stop], values)
            begin, stop = np.searchsorted(forest.last[by_last], [first, end])
            yield by_last[begin:stop].tolist()

    def _score_whole(
        self, sequences: Sequence[AnswerSequence], totals: np.ndarray
    ) -> Iterator[Sequence[int]]:
        """`_score_forest` by whole prompts."""
        order = sorted(range(len(sequences)), key=lambda r: (-len(sequences[r].ids), sequences[r].place))

        def score(part: Sequence[int]) -> list[float]:
            return score_whole(self.model, [sequences[r] for r in part], self.pad)

        longest = len(sequences[order[0]].ids)
        for part, scored in self.batches.run(order, score, planned_rows(self.model, longest)):
            totals[part] = scored
            yield part
