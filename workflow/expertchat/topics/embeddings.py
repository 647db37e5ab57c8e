"""Sentence embeddings of short texts, by any encoder in the Hugging Face layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from expertchat.errors import UserError

LONGEST = 128  # tokens read of a text


class Encoder:
    """An encoder whose last hidden states are averaged over a text's tokens and scaled to length 1.

    That is how sentence encoders such as the all-* family of sentence-transformers are trained to be
    used (Reimers and Gurevych 2019). It runs on the CPU in float32, one text at a time: no padding,
    so that a text's embedding never depends on its neighbours.
    """

    def __init__(self, folder: Path) -> None:
        disable_progress_bar()
        local = {"trust_remote_code": False, "local_files_only": True}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, **local)
            self._model = AutoModel.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, **local
            ).eval()
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise UserError(f"topics.embeddings.path: {folder} is no encoder: {reason}") from None

    @torch.inference_mode()
    def embed(self, text: str) -> np.ndarray:
        """The text's embedding, [width], float32, of length 1."""
        longest = min(LONGEST, self._tokenizer.model_max_length)
        tokens = self._tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")
        states = self._model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).last_hidden_state
        pooled = states[0].mean(0)
        return torch.nn.functional.normalize(pooled, dim=0).numpy()
