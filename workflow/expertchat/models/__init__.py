"""Stage models: brings each model into the store.

An artifact has a folder `model` in the Hugging Face layout and, if the settings name an adapter, a
folder `adapter` in peft's layout. Demo models are trained here, and GGUF files are converted; other
models and adapters are symbolic links to their folder or to the cache of the Hugging Face hub.
"""
