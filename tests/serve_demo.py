"""A small OpenAI-compatible server: python tests/serve_demo.py --port 8000 --model FOLDER

It uses transformers' own generate and plain forward passes, and listens on 127.0.0.1. Without a model
its replies are "word SEED". POST /control makes it fail in given ways, GET /control returns the requests
that it received.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from dataclasses import dataclass, field

import uvicorn


@dataclass
class State:
    """The failures that were requested, and the requests that were received."""

    fail: list = field(default_factory=list)  # statuses of the next requests, or "hang", "cut", "die"
    retry_after: str | None = None
    delay: float = 0.0
    logprobs: bool = True
    echo: bool = True
    top: int = 1000
    system: str = "take"  # or "refuse", "drop"
    begun: str = "fields"  # continues a final assistant message: as the fields say, or "always", "never"
    usage: bool = True
    now: int = 0
    most: int = 0
    bodies: list = field(default_factory=list)


class Model:
    """A transformers model, one conversation at a time and without a cache between requests."""

    def __init__(self, folder: str, adapter: str | None):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.torch = torch
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        if adapter:
            from peft import PeftModel

            self.model = PeftModel.from_pretrained(self.model, adapter).eval()

    def logprobs(self, ids: list[int]):
        """[tokens, V]: log-probabilities of the next token after each token."""
        with self.torch.no_grad():
            return self.model(self.torch.tensor([ids])).logits[0].float().log_softmax(-1)

    def listed(self, row, top: int) -> list[tuple[str, float]]:
        """The likeliest tokens with their log-probabilities."""
        best = row.topk(min(top, len(row)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(self.tokenizer.decode([token]), logprob) for token, logprob in pairs]

    def draw(self, ids: list[int], body: dict) -> list[int]:
        """A continuation, including its end token."""
        self.torch.manual_seed(body.get("seed") or 0)
        temperature = body.get("temperature", 1.0)
        sampling = {"do_sample": temperature > 0, "max_new_tokens": body["max_tokens"]}
        if temperature > 0:
            names = ("temperature", "top_p", "min_p", "top_k")
            sampling |= {"top_k": 0} | {n: body[n] for n in names if n in body}
        if "repetition_penalty" in body:
            sampling["repetition_penalty"] = body["repetition_penalty"]
        if body.get("stop"):
            sampling["stopping_criteria"] = [lambda made, _: self.stops(made[0, len(ids) :], body)]
        prompt = self.torch.tensor([ids])
        with self.torch.no_grad():
            made = self.model.generate(
                prompt, attention_mask=self.torch.ones_like(prompt), pad_token_id=0, **sampling
            )
        return made[0, len(ids) :].tolist()

    def stops(self, own, body: dict):
        """[1]: whether the drawn text contains a stop text."""
        text = self.tokenizer.decode(own, skip_special_tokens=True)
        return self.torch.tensor([any(stop in text for stop in body["stop"])])

    def chat(self, body: dict, state: State) -> dict:
        messages, final = body["messages"], body["messages"][-1]["role"] == "assistant"
        asked = body.get("continue_final_message") and state.begun == "fields"
        if final and (asked or state.begun == "always"):
            how = {"continue_final_message": True}
        else:
            how = {"add_generation_prompt": True}
        ids = self.tokenizer.apply_chat_template(messages, return_dict=False, **how)
        own = self.draw(ids, body)
        ended = own[-1] == self.tokenizer.eos_token_id
        text = self.tokenizer.decode(own, skip_special_tokens=True)
        stops = [stop for stop in body.get("stop", []) if stop in text]
        for stop in stops:
            text = text[: text.index(stop)] if stop in text else text
        choice = {"message": {"role": "assistant", "content": text}, "logprobs": None}
        choice["finish_reason"] = "stop" if ended or stops else "length"
        if body.get("logprobs") and state.logprobs:
            rows = self.logprobs(ids + own)[len(ids) - 1 :]
            choice["logprobs"] = {
                "content": [self._entry(t, r, body) for t, r in zip(own, rows, strict=False)]
            }
        return {"choices": [choice], "usage": usage(len(ids), len(own) - ended)}

    def _entry(self, token: int, row, body: dict) -> dict:
        top = [{"token": t, "logprob": p} for t, p in self.listed(row, body.get("top_logprobs") or 0)]
        return {
            "token": self.tokenizer.decode([token]),
            "logprob": row[token].item(),
            "top_logprobs": top,
        }

    def complete(self, body: dict, state: State) -> dict:
        prompt = body["prompt"]
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        if body["max_tokens"] > 1:  # a reply, without token probabilities
            own = self.draw(ids, body)
            ended = own[-1] == self.tokenizer.eos_token_id
            text = self.tokenizer.decode(own, skip_special_tokens=True)
            choice = {"text": text, "finish_reason": "stop" if ended else "length", "logprobs": None}
            return {"choices": [choice], "usage": usage(len(ids), len(own) - ended)}
        rows = self.logprobs(ids)
        drawn = int(rows[-1].argmax())
        tokens, logprobs = [drawn], [rows[-1, drawn].item()]
        if body.get("echo") and state.echo:
            read = [rows[k, token].item() for k, token in enumerate(ids[1:])]
            tokens, logprobs = [*ids, drawn], [None, *read, *logprobs]
        top = dict(self.listed(rows[-1], body["logprobs"]))
        listed = {
            "tokens": [self.tokenizer.decode([t]) for t in tokens],
            "token_logprobs": logprobs,
            "top_logprobs": [top],
        }
        return {"choices": [{"text": "", "logprobs": listed}], "usage": usage(len(ids), 1)}


def usage(prompt: int, completion: int) -> dict:
    return {"prompt_tokens": prompt, "completion_tokens": completion}


def word(body: dict) -> dict:
    """A reply without a model, from the seed."""
    choice = {"message": {"content": f"word {body.get('seed')}"}, "finish_reason": "stop"}
    read = sum(len(message["content"]) for message in body["messages"])
    return {"choices": [choice], "usage": usage(read, 2)}


class App:
    """The ASGI application."""

    def __init__(self, model: Model | None, name: str, key: str | None):
        self.model, self.name, self.key, self.state = model, name, key, State()
        self.turn = asyncio.Lock()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        raw, more = b"", True
        while more:
            event = await receive()
            raw, more = raw + event.get("body", b""), event.get("more_body", False)
        body = json.loads(raw) if raw else {}
        path, headers = scope["path"], dict(scope["headers"])
        if path == "/control":
            return await self.control(send, body)
        if self.key and headers.get(b"authorization") != f"Bearer {self.key}".encode():
            given = headers.get(b"authorization", b"").decode()
            return await reply(
                send, 401, {"error": {"message": f"wrong key {given} for {headers[b'host']}"}}
            )
        if path == "/v1/models":
            return await reply(send, 200, {"data": [{"id": self.name}]})
        self.state.now += 1
        self.state.most = max(self.state.most, self.state.now)
        self.state.bodies.append(body)
        try:
            await self.answer(send, path, body)
        finally:
            self.state.now -= 1

    async def control(self, send, changes: dict) -> None:
        for key, value in changes.items():
            setattr(self.state, key, value)
        seen = {key: getattr(self.state, key) for key in ("most", "bodies", "fail")}
        await reply(send, 200, {**seen, "pid": os.getpid()})

    async def answer(self, send, path: str, body: dict) -> None:
        state = self.state
        await asyncio.sleep(state.delay)
        fault = state.fail.pop(0) if state.fail else None
        if fault == "hang":
            await asyncio.sleep(60)
        if fault in ("cut", "die"):
            start = {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"99")],
            }
            await send(start)
            await send({"type": "http.response.body", "body": b'{"choices": [', "more_body": True})
            await asyncio.sleep(0.05)
            if fault == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ConnectionAbortedError
        if fault:
            return await reply(send, fault, {"error": {"message": "not now"}}, state.retry_after)
        if body.get("model") != self.name:
            return await reply(send, 404, {"error": {"message": f"no model {body.get('model')}"}})
        system = [m for m in body.get("messages", []) if m["role"] == "system"]
        if system and state.system == "refuse":
            return await reply(send, 400, {"error": {"message": "System role not supported"}})
        if state.system == "drop":
            body["messages"] = [m for m in body["messages"] if m["role"] != "system"]
        if (body.get("top_logprobs") or 0) > state.top:
            return await reply(send, 400, {"error": {"message": f"top_logprobs: at most {state.top}"}})
        if self.model is None:
            return await reply(send, 200, word(body))
        if state.begun == "refuse" and "continue_final_message" in body:
            message = "Unrecognized request argument: continue_final_message"
            return await reply(send, 400, {"error": {"message": message}})
        make = self.model.chat if path == "/v1/chat/completions" else self.model.complete
        async with self.turn:
            made = await asyncio.to_thread(make, body, state)
        if not state.usage:
            del made["usage"]
        return await reply(send, 200, made)


async def reply(send, status: int, body: dict, retry_after: str | None = None) -> None:
    headers = [(b"content-type", b"application/json")]
    if retry_after:
        headers.append((b"retry-after", retry_after.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model")
    parser.add_argument("--adapter")
    parser.add_argument("--name", default="demo")
    parser.add_argument("--child", action="store_true", help="start a process that outlives this one")
    parser.add_argument("--die", help="print this text and exit")
    arguments = parser.parse_args()
    if arguments.die:
        print(arguments.die, file=sys.stderr)
        sys.exit(3)
    if arguments.child:
        import subprocess

        child = subprocess.Popen(["sleep", "600"])
        print(f"child {child.pid}", flush=True)
    model = Model(arguments.model, arguments.adapter) if arguments.model else None
    app = App(model, arguments.name, os.environ.get("SERVE_DEMO_KEY"))
    print(f"serving with key {os.environ.get('SERVE_DEMO_KEY')}", flush=True)
    quiet = {"log_level": "critical", "timeout_graceful_shutdown": 1}
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, **quiet)


if __name__ == "__main__":
    main()
