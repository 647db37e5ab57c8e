"""Cross-entropy with less memory traffic than torch's, which took a fifth of the time of a step."""

from __future__ import annotations

import torch


class CrossEntropy(torch.autograd.Function):
    """Negative log-likelihood of each target, (targets,) in nats, from logits (targets, vocabulary).

    The gradient is the probabilities minus 1 at the target. The forward pass computes it in place.
    """

    @staticmethod
    def forward(ctx, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of each target in float32."""
        ctx.dtype = logits.dtype
        logits = logits.float()
        rows = torch.arange(len(targets))
        total = logits.logsumexp(dim=1)
        loss = total - logits[rows, targets]
        gradient = logits.sub_(total[:, None]).exp_()
        gradient[rows, targets] -= 1
        ctx.save_for_backward(gradient.to(ctx.dtype))
        return loss

    @staticmethod
    def backward(ctx, upstream: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The gradient with respect to the logits; `upstream` (targets,) is that of the losses."""
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[:, None].to(ctx.dtype), None
