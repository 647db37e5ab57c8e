"""Settings of stage topics."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from expertchat.settings.decoding import Decoding
from expertchat.settings.section import Section


class TopicFile(Section):
    """Topics of the user's own, from a file."""

    path: str
    """The file: .txt with a topic a line, or .csv with a header or .jsonl with a column `topic`, and
    where wanted `subject`, `audience`, `kind` and `split` (train or held_out)."""
    mode: Literal["extend", "replace"] = "extend"
    """`extend`: the models write theirs beside these; `replace`: these are all, no model is asked."""
    subject: str = Field("this field", min_length=1)
    """Subject of topics that name none, as the prompts then say it."""
    held_out_share: float = Field(0.25, gt=0, lt=1)
    """Share held out, at even distances, of the topics that name neither subject nor split."""


class Embeddings(Section):
    """Near-duplicates by meaning: mean-pooled embeddings of topics, compared by their cosine."""

    path: str
    """Folder of an encoder in the Hugging Face layout, with *.safetensors."""
    max_cosine: float = Field(0.9, gt=0, le=1)
    """Cosine with another topic above which a topic counts as a near-duplicate."""


class Topics(Section):
    """What is talked about: written by the models, taking turns, subject by subject."""

    subjects: list[str] | str = []
    """Subjects that seed the topics: a list, a name in config/taxonomies (such as mmlu) or the path of
    such a file. Needed unless a file replaces all topics."""
    audiences: list[str] = []
    """Whom topics are for; empty: what the taxonomy's file says, or no audience is named."""
    kinds: list[str] = []
    """Kinds of question that topics raise; empty: what the taxonomy's file says, or none is named."""
    held_out_subjects: int = Field(2, ge=1)
    """How many subjects are kept from all training: the last ones of the list; where the taxonomy has
    groups, the last of each group in turn."""
    per_subject: int = Field(8, gt=0)
    """Topics kept a subject, spread evenly over audiences and kinds."""
    tries_per_topic: int = Field(8, gt=0)
    """Most topics asked for, a topic kept; too few good ones in that many stop the job."""
    max_similarity: float = Field(0.7, gt=0, le=1)
    """ROUGE-L F-measure with another topic above which a topic counts as a near-duplicate, and with a
    question of MMLU above which it counts as contaminated."""
    embeddings: Embeddings | None = None
    """A second test for near-duplicates, by an encoder."""
    decontaminate: bool = True
    """Rejects topics that give away one of the questions that the models are tested on, if there are."""
    contamination_words: int = Field(8, ge=5)
    """Consecutive words shared with a question and its right answer that make a topic contaminated."""
    file: TopicFile | None = None
    """Topics of the user's own."""
    decoding: Decoding = Decoding(max_new_tokens=48)
    """How topics are drawn."""
