"""The planner: turns an experiment's settings, and the files that they name, into its plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from expertchat.judgements.artifact import BASE, SFT, TUNED
from expertchat.pipeline import preference_recipes, speed_recipes
from expertchat.pipeline.plan import LISTED, Plan
from expertchat.pipeline.stage_recipes import Answers, StageRecipes, Tuned, required, shard_place
from expertchat.settings.experiment import Experiment
from expertchat.settings.preferences import REWARD_MODEL


@dataclass(frozen=True)
class Talk:
    """The dialogues of one pair in one round, or one shard of them."""

    reference: str
    pair: tuple[str, ...]  # empty for transcripts
    place: str  # readable name, empty if there is only one


@dataclass(frozen=True)
class Rating:
    """One rater's ratings of a `Talk`."""

    reference: str
    rater: str
    talk: Talk

    def rates(self, name: str) -> bool:
        """Whether turns of `name` are rated: by its partner, or by itself if it talks with itself."""
        return self.rater != name or set(self.talk.pair) == {name}


def make_plan(experiment: Experiment, root: Path) -> Plan:
    """The plan of a validated experiment. Relative paths in its settings are relative to `root`."""
    planner = _Planner(experiment, root)
    if experiment.dialogues.transcripts is not None:
        planner.rate_transcripts()
    elif experiment.preferences is not None:
        planner.learn_from_preferences()
    elif experiment.talkers:
        planner.play_rounds()
    else:
        planner.ask_only()
    return planner.make.plan


class _Planner:
    """Goes through the experiment once and adds the recipe of each job."""

    def __init__(self, experiment: Experiment, root: Path):
        self.experiment = experiment
        self.make = StageRecipes(experiment, root)
        self.names = experiment.main_models
        self.base: dict[str, str] = {}  # model -> its reference before any tuning
        self.instructions: str | None = None
        self.preferences: str | None = None
        self.questions: str | None = None
        self.base_answers: Answers = []  # to split test
        self.anchors: dict[tuple[str, str | None], str | None] = {}  # (rater, policy) -> its anchors
        self.results: dict[str, list[str]] = {stage: [] for stage in LISTED}  # inputs of the report

    def play_rounds(self) -> None:
        """The complete loop, from models to report."""
        make, results, rounds = self.make, self.results, self.experiment.rounds
        self.add_models([*self.names, *self.experiment.ratings.third_party])
        topics = make.topics(self.names, self.questions)
        base: Tuned = dict.fromkeys(self.names)
        self.ask(base, None)
        first = talks = self.talk(topics, base, 1)
        tuned = base
        if rounds:
            results["replies"] += [make.replies(n, None, _of(first, n), None) for n in self.names]
        for round in range(1, rounds + 1):
            ratings = self.rate(talks, tuned, round)
            policies = {n: self.tune(n, talks, ratings, tuned[n], round) for n in self.names}
            results["policies"] += policies.values()
            tuned = policies
            results["replies"] += [make.replies(n, tuned[n], _of(first, n), round) for n in self.names]
            self.ask(tuned, round)
            # the tuned models talk again; the next round, if there is one, trains on this
            talks = self.talk(topics, tuned, round + 1)
        self.rate(talks, tuned, rounds + 1)
        self.report(topics)

    def rate_transcripts(self) -> None:
        """Existing conversations, their ratings by all models, and the report."""
        shards, results = self.experiment.dialogues.shards, self.results
        self.add_models(self.names)
        for shard in range(shards):
            place = shard_place(shard, shards)
            talk = Talk(self.make.transcripts(place, shard), (), place)
            results["dialogues"].append(talk.reference)
            results["ratings"] += [self.rating(r, talk, {}, None).reference for r in self.names]
        results["reliability"].append(self.make.reliability(results["ratings"], None))
        self.report(None)

    def learn_from_preferences(self) -> None:
        """Reward models and PPO on human preferences, each model by itself, and who wins."""
        make, results = self.make, self.results
        judges = self.experiment.judgements.judges
        self.add_models([*self.names, *(judge for judge in judges if judge != REWARD_MODEL)])
        self.preferences = preferences = preference_recipes.preferences(make)
        self.ask(dict.fromkeys(self.names), None)
        tuned: dict[str, str | None] = {}
        for name in self.names:
            rewards = preference_recipes.rewards(make, name, preferences)
            results["rewards"].append(rewards)
            if self.experiment.rounds:
                policy = preference_recipes.policies(make, name, rewards, preferences)
                results["policies"].append(policy)
                tuned[name] = policy
        for name in self.names:
            replies = self._contestants(name, tuned.get(name), preferences)
            results["replies"] += replies.values()
            for judge in judges if len(replies) > 1 else ():
                self._judge(judge, name, replies, preferences)
        if tuned:
            self.ask(tuned, 1)
        self.report(None)

    def _contestants(self, name: str, policy: str | None, preferences: str) -> dict[str, str]:
        """The replies to the held-out conversations by the base model and by what became of it."""
        base, model = self.base[name], self.make.models[name]
        contestants: dict[str, tuple[str, str | None]] = {BASE: (base, None)}
        if model != base:
            contestants[SFT] = (model, None)
        if policy is not None:
            contestants[TUNED] = (model, policy)
        return {
            contestant: preference_recipes.replies(self.make, name, contestant, *made, preferences)
            for contestant, made in contestants.items()
        }

    def _judge(self, judge: str, name: str, replies: dict[str, str], preferences: str) -> None:
        """What one judge says of the replies of `name`."""
        model, rewards = self.base[name if judge == REWARD_MODEL else judge], None
        if judge == REWARD_MODEL:
            rewards = preference_recipes.judges_rewards(self.make, name, model, preferences)
            if rewards not in self.results["rewards"]:
                self.results["rewards"].append(rewards)
        self.results["judgements"].append(
            preference_recipes.judgements(self.make, name, judge, replies, model, rewards, preferences)
        )

    def ask_only(self) -> None:
        """All models answer questions and are measured, without dialogues."""
        self.add_models(self.names)
        self.ask(dict.fromkeys(self.names), None)
        if self.experiment.speeds is not None:
            for name in self.names:
                found = speed_recipes.speeds(self.make, name, self.base[name])
                self.results["speeds"] += [r for r in found if r not in self.results["speeds"]]
        self.report(None)

    def add_models(self, names: Sequence[str]) -> None:
        """The models, tuned on instructions if the experiment has any, and its questions."""
        for name in names:
            self.base[name] = self.make.model(name)
        tuned = [name for name in names if name in self.experiment.tuned_by_sft]
        if tuned:
            self.instructions = self.make.instructions()
            for name in tuned:
                reference = self.make.sft(name, self.instructions)
                if reference not in self.results["sft"]:
                    self.results["sft"].append(reference)
        if self.experiment.mmlu is not None:
            self.questions = self.make.questions()

    def talk(self, topics: str, tuned: Tuned, round: int) -> list[Talk]:
        """The dialogues of a round, by pair and shard. After the last round: on held-out topics only."""
        shards, pairs = self.experiment.dialogues.shards, self.experiment.talking_pairs
        held_out_only = round > self.experiment.rounds > 0
        talks = []
        for pair in pairs:
            for shard in range(shards):
                pair_name = "-".join(pair) if len(pairs) > 1 else ""
                place = "/".join(filter(None, (pair_name, shard_place(shard, shards))))
                reference = self.make.dialogues(pair, place, shard, topics, tuned, round, held_out_only)
                talks.append(Talk(reference, pair, place))
        self.results["dialogues"] += [talk.reference for talk in talks]
        return talks

    def rate(self, talks: Sequence[Talk], tuned: Tuned, round: int) -> list[Rating]:
        """The partners' ratings of the dialogues of a round, and the reliability of all ratings.

        The ratings by third parties are used by stage reliability only.
        """
        ratings = [
            self.rating(r, talk, tuned, round) for talk in talks for r in dict.fromkeys(talk.pair)
        ]
        others = [
            self.rating(rater, talk, {}, round)
            for rater in self.experiment.ratings.third_party
            for talk in talks
        ]
        references = [rating.reference for rating in ratings]
        self.results["ratings"] += references
        all_ratings = [*references, *(rating.reference for rating in others)]
        self.results["reliability"].append(self.make.reliability(all_ratings, round))
        return ratings

    def rating(self, rater: str, talk: Talk, tuned: Tuned, round: int | None) -> Rating:
        """One rater's ratings of one shard of dialogues."""
        policy = tuned.get(rater) if self.experiment.ratings.tuned_raters else None
        if (rater, policy) not in self.anchors:
            made = self.make.anchors(rater, policy, round if policy else None)
            self.anchors[rater, policy] = made
            if made and made not in self.results["anchors"]:
                self.results["anchors"].append(made)
        anchors = self.anchors[rater, policy]
        name = "/".join(filter(None, (rater, talk.place)))
        reference = self.make.ratings(rater, name, talk.reference, anchors, policy, round)
        return Rating(reference, rater, talk)

    def tune(
        self,
        name: str,
        talks: Sequence[Talk],
        ratings: Sequence[Rating],
        before: str | None,
        round: int,
    ) -> str:
        """The policy of `name` after a round, and the reward model that it is tuned with."""
        partners = [r.reference for r in ratings if name in r.talk.pair and r.rates(name)]
        rewards = self.make.rewards(name, _of(talks, name), partners, round)
        self.results["rewards"].append(rewards)
        return self.make.policies(name, _of(talks, name), rewards, before, round)

    def ask(self, tuned: Tuned, round: int | None) -> None:
        """Each model's answers to the questions, the accuracies, and the mixtures of the models."""
        mmlu, make, results = self.experiment.mmlu, self.make, self.results
        if mmlu is None or self.questions is None:
            return
        tests = self.answers(tuned, "test", round)
        if round is None:
            self.base_answers = tests
        before = self.base_answers if round else []
        results["answers"] += [reference for reference, _ in tests]
        results["mmlu"].append(make.mmlu(tests, before, self.questions, self.names, round))
        if mmlu.mixture and len(self.names) > 1:
            fits = make.fits(self.answers(tuned, "val", round), self.names, round)
            results["fits"].append(fits)
            results["mixture"].append(make.mixture(fits, tests, self.names, round))

    def answers(self, tuned: Tuned, split: str, round: int | None) -> Answers:
        """(reference, model) of all models' answers in all shards, in order."""
        questions, shards = required(self.questions), range(required(self.experiment.mmlu).shards)
        return [
            (self.make.answers(name, split, shard, questions, tuned[name], round), name)
            for name in self.names
            for shard in shards
        ]

    def report(self, topics: str | None) -> None:
        """The report, and the comparison with the oracle if there is a demo world."""
        inputs: dict[str, str | list[str] | None] = {
            "models": [self.base[name] for name in self.names],
            "instructions": self.instructions,
            "preferences": self.preferences,
            "questions": self.questions,
            "topics": topics,
            **self.results,
        }
        if self.experiment.world is not None and self.experiment.rounds:
            read = {stage: self.results[stage] for stage in ("dialogues", "ratings", "replies")}
            inputs["oracle"] = self.make.oracle(self.names, read)
        self.make.report(self.names, inputs)


def _of(talks: Sequence[Talk], name: str) -> list[str]:
    """The references of the dialogues in which a model talks."""
    return [talk.reference for talk in talks if name in talk.pair]
