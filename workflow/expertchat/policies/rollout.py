"""Rollouts: prompts with the replies that were sampled for them, as padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from expertchat.engine.training import Completion, padded


@dataclass(frozen=True)
class Rollout:
    """B prompts of at most Q tokens, each with a reply of at most T tokens, on the model's device."""

    ids: Tensor  # [B, Q + T]: prompts padded on the left, replies padded on the right
    mask: Tensor  # [B, Q + T], 1 for real tokens and 0 for padding
    reply_mask: Tensor  # [B, T] bool, true for reply tokens including the end token
    ended: Tensor  # [B] bool, whether the reply ended by itself
    drawn_logprobs: Tensor  # [B, T], of the reply tokens when they were drawn, 0 for padding

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
        )


def make_rollout(
    prompts: Sequence[list[int]], completions: Sequence[Completion], pad: int, device
) -> Rollout:
    """Prompts (token ids) and their sampled completions, with the end tokens that were drawn, as one
    padded batch."""
    replies = [[*c.ids, *([] if c.end is None else [c.end])] for c in completions]
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
    )
