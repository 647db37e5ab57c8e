"""Mixture-of-experts layers on a CPU: all experts at once, in two matrix products.

All experts are computed for every token, and those that the router did not choose get weight 0. The
result is the same as computing only the chosen experts. It takes more arithmetic, but no gathering of
tokens by expert, which takes most of the time at this size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

NAME = "dense"


def dense_experts(
    module, states: torch.Tensor, chosen: torch.Tensor, routing: torch.Tensor
) -> torch.Tensor:
    """The output of the experts of `module`, (tokens, hidden), for `states` (tokens, hidden).

    `chosen` and `routing`, both (tokens, k), are the numbers of each token's experts and their weights.
    """
    count, width = module.num_experts, module.intermediate_dim
    shares = torch.zeros(len(states), count, dtype=routing.dtype).scatter(1, chosen, routing)
    both = F.linear(states, module.gate_up_proj.flatten(0, 1)).view(-1, count, 2, width)
    inner = module.act_fn(both[:, :, 0]) * both[:, :, 1] * shares[:, :, None].to(both.dtype)
    outward = module.down_proj.permute(1, 0, 2).flatten(1)  # (hidden, experts * width)
    return F.linear(inner.flatten(1), outward).to(states.dtype)


def use_dense_experts(model) -> None:
    """Makes the mixture of experts `model` use `dense_experts`. Its weights do not change."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(NAME, dense_experts)
    model.config._experts_implementation = NAME
