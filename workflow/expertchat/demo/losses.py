"""Cross-entropy with less memory traffic than the general one, which took a fifth of a step."""

from __future__ import annotations

import torch


class CrossEntropy(torch.autograd.Function):
    """Negative log-likelihood of each target, (targets,), from logits (targets, vocabulary).

    The gradient, the probabilities less the targets' indicator, is formed in the forward pass.
    """

    @staticmethod
    def forward(ctx, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Per-target loss in 32 bit."""
        ctx.dtype = logits.dtype
        logits = logits.float()
        each = torch.arange(len(targets))
        total = logits.logsumexp(dim=1)
        loss = total - logits[each, targets]
        gradient = logits.sub_(total[:, None]).exp_()
        gradient[each, targets] -= 1
        ctx.save_for_backward(gradient.to(ctx.dtype))
        return loss

    @staticmethod
    def backward(ctx, upstream: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The gradient of the logits, scaled by each loss's own."""
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[:, None].to(ctx.dtype), None
