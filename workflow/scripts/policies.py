"""Tune a model's adapter by PPO on its reward model."""

from expertchat.pipeline.jobs import open_job
from expertchat.settings.decoding import Decoding
from expertchat.settings.ppo import PPO


def main() -> None:
    with open_job("policies", __doc__) as job:
        import torch
        from expertchat import chat
        from expertchat.dialogues.artifact import DIALOGUES
        from expertchat.dialogues.contexts import context_messages, contexts_of
        from expertchat.engine.training import load_model, load_tokenizer, lora_config
        from expertchat.policies.shared_backbone import SharedBackbone
        from expertchat.policies.trainer import PPOTrainer, train
        from expertchat.records import read_all
        from expertchat.splits import TRAIN

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
        backbone = SharedBackbone(
            load_model(folder, job.load(speaker)),
            before / "adapter" if before else lora_config(ppo.lora, task_type="CAUSAL_LM"),
            job.input("rewards") / "adapter",
        )
        trainer = PPOTrainer(
            backbone,
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
        train(trainer, job.recipe.label, job.checkpoints, job.out)


if __name__ == "__main__":
    main()
