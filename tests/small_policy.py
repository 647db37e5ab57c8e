"""What the tests of stage policies share: settings, a reward model, a backbone and a trainer."""

import torch
from expertchat.engine.loading import load_model, load_tokenizer
from expertchat.engine.training import lora_config
from expertchat.policies.shared_backbone import SharedBackbone
from expertchat.policies.trainer import PPOTrainer
from expertchat.settings.decoding import Decoding
from expertchat.settings.lora import LoRA
from expertchat.settings.models import Load
from expertchat.settings.ppo import PPO
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

SETTINGS = PPO(
    steps=4,
    batch_size=8,
    minibatch_size=4,
    learning_rate=5e-3,
    checkpoint_every=1,
    no_eos_reward=-1.0,
    lora=LoRA(rank=4),
)

GROUPS = {  # settings of the algorithms
    "ppo": {},
    "rloo": {"algorithm": "rloo", "replies_per_context": 4},
    "grpo": {"algorithm": "grpo", "replies_per_context": 4},
}


def make_reward_model(model_folder, folder):
    """A reward model with a random adapter, as stage rewards saves it: (folder, model)."""
    torch.manual_seed(1)
    base = load_model(model_folder, Load(), AutoModelForSequenceClassification, num_labels=1)
    config = LoraConfig(
        r=4,
        target_modules=["q_proj", "v_proj"],
        init_lora_weights=False,
        task_type="SEQ_CLS",
        modules_to_save=["score"],
    )
    model = get_peft_model(base, config)
    model.save_pretrained(folder)
    return folder, model.eval()


def make_backbone(model_folder, reward_folder, **load):
    torch.manual_seed(0)
    base = load_model(model_folder, Load(**load))
    return SharedBackbone(base, new_adapter(base), [reward_folder[0]])


def new_adapter(base):
    return lora_config(SETTINGS.lora, base, "ppo.lora", "the model", task_type="CAUSAL_LM")


def make_trainer(backbone, model_folder, settings=SETTINGS, max_new_tokens=8, batch_size=4, score=None):
    tokenizer = load_tokenizer(model_folder, Load())
    prompts = [tokenizer.encode(text) for text in ("Topic: bread.", "Rate A", "I bake", "degrees from")]
    decoding = Decoding(max_new_tokens=max_new_tokens)
    return PPOTrainer(backbone, tokenizer, prompts, settings, decoding, 0, batch_size, score)
