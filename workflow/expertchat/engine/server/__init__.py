"""An engine behind a server of the OpenAI protocol."""
