"""Model architectures that cannot be run, by the `model_type` of config.json."""

from __future__ import annotations

from expertchat.errors import UserError

# Models without attention: their state is not a cache of keys and values. Models that mix both kinds of
# layers (Jamba, LFM2, Qwen3-Next and others) have such a cache.
RECURRENT = {"falcon_mamba", "mamba", "mamba2", "recurrent_gemma", "rwkv", "xlstm"}


def check_architecture(model_type: object, source: str) -> None:
    """Raises UserError if a model of this type has no cache of keys and values to continue from.

    `source` says in the message which model this is.
    """
    if model_type in RECURRENT:
        raise UserError(
            f"{source}: a {model_type} model has no attention, and thus no cache of keys and values, "
            "from which replies are continued here: choose a model with attention layers, or run this "
            "one behind a server (source: server)"
        )
