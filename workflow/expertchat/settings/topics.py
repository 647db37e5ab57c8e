"""Settings of stage topics."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from expertchat.settings.decoding import Decoding
from expertchat.settings.section import FilePath, Section


class TopicFile(Section):
    """The user's own topics.

    Example: {path: my-topics.jsonl, mode: replace, max_subjects: 12, max_per_subject: 2}
    """

    path: FilePath
    """The file: .txt with one topic per line, or .csv with a header line or .jsonl with the column
    `topic` and, optionally, `subject`, `audience`, `kind`, `note` (one sentence of what an expert would
    know, which the speakers are told) and `split` (train or held_out)."""
    mode: Literal["extend", "replace"] = "extend"
    """`extend`: the models write topics in addition to these; `replace`: only these topics are used."""
    subject: str = Field("this field", min_length=1)
    """Subject of topics that name none. The prompts contain it: with the default, a speaker is an expert
    "with years of practice in this field"."""
    max_subjects: int | None = Field(None, gt=0)
    """Largest number of subjects of the file that are used. They are drawn with the seed; of those
    without a split of their own, the last `held_out_subjects` are held out. null: all."""
    max_per_subject: int | None = Field(None, gt=0)
    """Largest number of topics of each subject of the file that are used, drawn with the seed; null:
    all."""
    held_out_share: float = Field(0.25, gt=0, lt=1)
    """Fraction of the topics without a subject and a split that is held out, at regular intervals."""


class Embeddings(Section):
    """Detection of near-duplicate topics by the cosine of their mean-pooled embeddings.

    Example: {path: models/all-MiniLM-L6-v2, max_cosine: 0.85}
    """

    path: FilePath
    """Folder of an encoder model in the Hugging Face layout, with *.safetensors."""
    max_cosine: float = Field(0.9, gt=0, le=1)
    """A topic whose cosine with another topic is above this is a near-duplicate and is rejected."""


class Examples(Section):
    """Topics of other subjects that a model is shown before it is asked for one.

    Small models need them: they are shown as earlier exchanges of the same chat. Topics of the subject
    that is asked for and of held-out subjects are never shown, and copies are rejected as
    near-duplicates.

    Example: {path: config/topics/working-life.jsonl, shown: 4}
    """

    path: FilePath
    """A file of topics, as in topics.file; topics without a subject cannot be examples."""
    shown: int = Field(4, gt=0)
    """Number of examples in a prompt, drawn with the seed for each try, from different subjects."""


class Gate(Section):
    """A judgement of the models that decides whether a text is a topic of its subject.

    All models that write topics judge all texts. What counts is the contrast between a text's own
    subject and other subjects. Its probability is 0.5 if the models see no difference.

    Example: {score: likelihood, threshold: 0.6, best_of: 16}
    """

    score: Literal["likelihood", "answer"] = "likelihood"
    """`likelihood`: how likely the text is as a reply to the prompt for topics of this subject, which
    also small models can judge; `answer`: the models' own yes or no to the question in
    topic_gate.jinja, for large models."""
    threshold: float = Field(0.6, ge=0, le=1)
    """Least probability of a topic that is kept."""
    best_of: int = Field(1, gt=0, le=256)
    """Number of texts that are written for each topic that is missing, with the same examples. Of those
    that pass all tests, the one with the highest sum of score and contrast is kept, where a likelihood
    counts per different word. Small models need several."""


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
    per_subject: int = Field(8, gt=0, le=10_000)
    """Number of topics per subject, spread evenly over audiences and kinds."""
    tries_per_topic: int = Field(8, gt=0, le=10_000)
    """Maximum number of attempts per topic, on average over a subject; the job stops with an error if
    these do not yield enough good topics. With `gate.best_of`, an attempt is that number of texts."""
    min_words: int = Field(3, gt=0)
    """Least number of words of a topic that a model writes."""
    max_words: int = Field(30, gt=0)
    """Largest number of words of a topic that a model writes."""
    max_taken: int = Field(30, ge=0)
    """Largest number of the subject's accepted topics that a prompt lists as taken, the newest ones. Set
    it to 0 for small models: they copy what is listed."""
    examples: Examples | None = None
    """Topics of other subjects that a model is shown before it is asked for one; null: none."""
    gate: Gate | None = None
    """A judgement of the models that decides whether a text is a topic of its subject; null: all texts
    that pass the other tests are topics."""
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
