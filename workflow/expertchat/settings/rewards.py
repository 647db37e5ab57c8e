"""Settings of stage rewards."""

from __future__ import annotations

from pydantic import Field

from expertchat.settings.lora import LoRA
from expertchat.settings.section import Section


class LengthHead(Section):
    """A second score head, which is trained to follow the replies' lengths, so that the other one need
    not (ODIN, Chen et al. 2024). It is dropped after training.

    Example: {weight: 1.0, orthogonality: 1.0}
    """

    weight: float = Field(1.0, gt=0, le=1000)
    """Weight of the loss on the correlations of the heads' scores with the lengths."""
    orthogonality: float = Field(1.0, ge=0, le=1000)
    """Weight of the loss on the inner product of the heads' weights."""


class Rewards(Section):
    """The reward model: a LoRA adapter and a score head on the model that PPO then trains.

    Example: {folds: 5, max_length: 2048, lora: {rank: 8}}
    """

    min_margin: float = Field(0.5, ge=0)
    """Smallest difference between two overall ratings, in rating points; a pair of replies with a
    smaller difference is a tie and is dropped."""
    pairs_per_context: int = Field(4, gt=0)
    """Maximum number of pairs per context; those with the largest differences are used."""
    folds: int = Field(4, ge=2, le=100)
    """Number of parts of the training topics for cross-fitting. For each part, a reward model is trained
    on the others and scores the pairs of this part. From these scores the reward scale is estimated, the
    factor from 0 to 1 by which the final reward model's scores are multiplied. Training takes `folds`
    times as long as that of the final model alone."""
    match_lengths: bool = False
    """Whether pairs of rated replies are trained on only as far as each one whose better reply is longer
    is matched by one whose better reply is shorter, so that length predicts nothing."""
    length_head: LengthHead | None = None
    """A second score head that takes length out of the score; null: none. It needs a third more time,
    and a batch_size of several contexts."""
    ensemble: int = Field(1, ge=1, le=100)
    """Number of reward models, which start from different weights and read the pairs in different
    orders. A reply's score is the mean of their scores minus `spread_penalty` times their standard
    deviation (Coste et al. 2024), so that replies that they disagree on are rewarded less."""
    spread_penalty: float = Field(1.0, ge=0, le=1000)
    """How much the disagreement of an `ensemble` lowers the score."""
    learning_rate: float = Field(1e-4, gt=0, le=1)
    """Peak learning rate of AdamW."""
    epochs: float = Field(1, gt=0, le=1000)
    """Number of passes over the contexts."""
    batch_size: int = Field(4, gt=0)
    """Number of contexts per optimizer step, each with all of its pairs. It is read one context at a
    time, so that it does not change the memory needed."""
    max_length: int = Field(1024, gt=0)
    """Maximum length of a context with one reply, in tokens. A longer context loses its beginning, which
    is counted."""
    lora: LoRA = LoRA()
    """The reward model's adapter."""
