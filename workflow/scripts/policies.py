"""Tune a model's adapter by PPO on its reward model."""

from expertchat.jobs import open_job
from expertchat.settings.decoding import Decoding
from expertchat.settings.ppo import PPO


def main() -> None:
    with open_job("policies", __doc__) as job:
        import torch
        from expertchat import chat
        from expertchat.dialogues import DIALOGUES, context_messages, contexts_of
        from expertchat.engine.loading import load_model, load_tokenizer
        from expertchat.learner import Learner
        from expertchat.policies import Tuner, tune
        from expertchat.records import read_all
        from expertchat.rewards import lora_config
        from expertchat.topics import TRAIN

        settings, ppo = job.settings, PPO(**job.settings["section"])
        speaker, folder, before = (
            settings["speaker"],
            job.input("model") / "model",
            job.input("policy"),
        )
        torch.manual_seed(settings["seed"])
        tokenizer = load_tokenizer(folder, job.load(speaker))
        dialogues = read_all(job.inputs("dialogues"), DIALOGUES)
        contexts = contexts_of(dialogues, speaker, TRAIN, settings["turns"])
        learner = Learner(
            load_model(folder, job.load(speaker)),
            before / "adapter" if before else lora_config(ppo.lora, task_type="CAUSAL_LM"),
            job.input("rewards") / "adapter",
        )
        tuner = Tuner(
            learner,
            tokenizer,
            [
                chat.encode(tokenizer, context_messages(context, settings["prompts"]))
                for context in contexts
            ],
            ppo,
            Decoding(**settings["decoding"]),
            settings["seed"],
            job.batch_size(speaker),
        )
        tune(tuner, job.recipe.label, job.checkpoints, job.out)


if __name__ == "__main__":
    main()
