"""Rollouts: prompts with the replies that were sampled for them, as padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from expertchat import chat
from expertchat.engine.training import Completion, before_stop, padded


@dataclass(frozen=True)
class Rollout:
    """B prompts of at most Q tokens, each with a reply of at most T tokens, on the model's device."""

    ids: Tensor  # [B, Q + T]: prompts padded on the left, replies padded on the right
    mask: Tensor  # [B, Q + T], 1 for real tokens and 0 for padding
    reply_mask: Tensor  # [B, T] bool, true for reply tokens including the end token
    ended: Tensor  # [B] bool, whether the reply ended by itself
    drawn_logprobs: Tensor  # [B, T], of the reply tokens when they were drawn, 0 for padding
    spoken: Sequence[list[int]]  # of each reply, the ids that the reward reads (`spoken_ids`)

    @property
    def replies(self) -> Tensor:
        """Reply tokens [B, T]."""
        return self.ids[:, -self.reply_mask.shape[1] :]

    def prompt_ids(self) -> list[list[int]]:
        """The token ids of each prompt."""
        count = self.ids.shape[1] - self.reply_mask.shape[1]
        return [
            ids[mask > 0].tolist()
            for ids, mask in zip(self.ids[:, :count], self.mask[:, :count], strict=True)
        ]

    def reply_ids(self) -> list[list[int]]:
        """The token ids of each reply, end tokens included."""
        return [ids[mask].tolist() for ids, mask in zip(self.replies, self.reply_mask, strict=True)]

    def rows(self, index: Tensor) -> Rollout:
        """The rollout of the rows in `index`, without columns that are padding in all of them.

        So its replies have at most as many columns as those of the complete rollout.
        """
        first = int(self.mask[index].any(0).byte().argmax())
        replies = self.reply_mask[index]
        length = int(replies.any(0).sum())
        end = self.ids.shape[1] - replies.shape[1] + length
        return Rollout(
            self.ids[index, first:end],
            self.mask[index, first:end],
            replies[:, :length],
            self.ended[index],
            self.drawn_logprobs[index, :length],
            [self.spoken[i] for i in index.tolist()],
        )


def drawn_ids(completion: Completion) -> list[int]:
    """The ids of a reply as it was drawn, with its end token if there is one."""
    return [*completion.ids, *([] if completion.end is None else [completion.end])]


def spoken_ids(completion: Completion, stops: Sequence[str], tokenizer) -> list[int]:
    """The ids of a reply as dialogues have it, and as the reward model was trained to read it.

    That is as it was drawn; if one of the texts `stops` ended it, then without that text, and with an
    end token.
    """
    if completion.end is None and completion.finish_reason == "stop":
        before = before_stop(tokenizer.decode(completion.ids, skip_special_tokens=True), stops)
        if before is not None:
            ids = tokenizer.encode(before.rstrip(), add_special_tokens=False)
            return [*ids, chat.reply_end(tokenizer)]
    return drawn_ids(completion)


def make_rollout(
    prompts: Sequence[list[int]],
    completions: Sequence[Completion],
    pad: int,
    device,
    spoken: Sequence[list[int]] | None = None,
) -> Rollout:
    """Prompts (token ids) and their sampled completions, with the end tokens that were drawn, as one
    padded batch. `spoken`: see `Rollout`; None: as drawn."""
    replies = [drawn_ids(completion) for completion in completions]
    prompt_ids, prompt_mask = padded(prompts, pad, device, side="left")
    reply_ids, reply_mask = padded(replies, pad, device, side="right")
    return Rollout(
        ids=torch.cat([prompt_ids, reply_ids], 1),
        mask=torch.cat([prompt_mask, reply_mask], 1),
        reply_mask=reply_mask.bool(),
        ended=torch.tensor([c.finish_reason == "stop" for c in completions], device=device),
        drawn_logprobs=torch.tensor(
            [[*c.logprobs, *[0.0] * (reply_ids.shape[1] - len(c.logprobs))] for c in completions],
            device=device,
        ),
        spoken=replies if spoken is None else spoken,
    )
