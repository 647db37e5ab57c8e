"""Settings of stage topics."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from expertchat.settings.decoding import Decoding
from expertchat.settings.section import Section


class TopicFile(Section):
    """The user's own topics.

    Example: {path: my-topics.txt, mode: replace, subject: geology}
    """

    path: str
    """The file: .txt with one topic per line, or .csv with a header line or .jsonl with the column
    `topic` and, optionally, `subject`, `audience`, `kind` and `split` (train or held_out)."""
    mode: Literal["extend", "replace"] = "extend"
    """`extend`: the models write topics in addition to these; `replace`: only these topics are used."""
    subject: str = Field("this field", min_length=1)
    """Subject of topics that name none. The prompts contain it: with the default, a speaker is an expert
    "with years of practice in this field"."""
    held_out_share: float = Field(0.25, gt=0, lt=1)
    """Fraction of the topics without a subject and a split that is held out, at regular intervals."""


class Embeddings(Section):
    """Detection of near-duplicate topics by the cosine of their mean-pooled embeddings.

    Example: {path: models/all-MiniLM-L6-v2, max_cosine: 0.85}
    """

    path: str
    """Folder of an encoder model in the Hugging Face layout, with *.safetensors."""
    max_cosine: float = Field(0.9, gt=0, le=1)
    """A topic whose cosine with another topic is above this is a near-duplicate and is rejected."""


class Topics(Section):
    """The topics of the dialogues, which the models write in turn for each subject.

    Example: {subjects: mmlu, per_subject: 10, held_out_subjects: 4}
    """

    subjects: list[str] | str = []
    """Subjects of the topics: a list, the name of a taxonomy in config/taxonomies (such as mmlu), or the
    path of a taxonomy file. Required unless topics.file replaces all topics."""
    audiences: list[str] = []
    """Audiences that the topics address; empty: those of the taxonomy file, if it has any."""
    kinds: list[str] = []
    """Kinds of question that the topics raise; empty: those of the taxonomy file, if it has any."""
    held_out_subjects: int = Field(2, ge=1)
    """Number of subjects that are held out from all training: the last ones of the list or, if the
    taxonomy has groups, the last one of each group in turn."""
    per_subject: int = Field(8, gt=0)
    """Number of topics per subject, spread evenly over audiences and kinds."""
    tries_per_topic: int = Field(8, gt=0)
    """Maximum number of attempts per topic, on average over a subject; the job stops with an error if
    these do not yield enough good topics."""
    max_similarity: float = Field(0.7, gt=0, le=1)
    """Largest ROUGE-L F-measure. A topic that is more similar to another topic is a near-duplicate, and
    one that is more similar to a question of `mmlu` is contaminated; both are rejected."""
    embeddings: Embeddings | None = None
    """A second test for near-duplicates, by the embeddings of an encoder model; null: no such test."""
    decontaminate: bool = True
    """Whether to reject topics that leak questions on which the models are tested (see `mmlu`)."""
    contamination_words: int = Field(8, ge=5)
    """A topic is contaminated if it shares this number of consecutive words with a question and its
    right answer."""
    file: TopicFile | None = None
    """The user's own topics; null: the models write all topics."""
    decoding: Decoding = Decoding(max_new_tokens=48)
    """How topics are generated."""
