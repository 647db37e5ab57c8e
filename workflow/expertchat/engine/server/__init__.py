"""Engines behind a server with an OpenAI-compatible API, such as vLLM or SGLang."""
