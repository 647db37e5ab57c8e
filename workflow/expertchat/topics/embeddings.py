"""Sentence embeddings of short texts by an encoder in the Hugging Face layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from expertchat.errors import UserError

LONGEST = 128  # tokens; the rest of a longer text is ignored


class Encoder:
    """An encoder whose last hidden states are averaged over a text's tokens and scaled to length 1.

    Sentence encoders such as the all-* family of sentence-transformers are trained for this use
    (Reimers and Gurevych 2019). The model runs on the CPU in float32, on one text at a time. Without
    padding, the embedding of a text does not depend on other texts in a batch.
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
            raise UserError(f"topics.embeddings.path: {folder} is not an encoder: {reason}") from None

    @torch.inference_mode()
    def embed(self, text: str) -> np.ndarray:
        """The embedding of a text: [width], float32, of length 1."""
        longest = min(LONGEST, self._tokenizer.model_max_length)
        tokens = self._tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")
        states = self._model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).last_hidden_state
        pooled = states[0].mean(0)
        return torch.nn.functional.normalize(pooled, dim=0).numpy()
