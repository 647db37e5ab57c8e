"""The engine: runs language models for the stages.

Stages see only `interface.py` (the types of requests and questions, and the protocol `Engine`), the
functions of `opening.py` that open an engine, and `training.py` for stages that train weights. An engine
does two things: it continues conversations (`generate`) and it computes how likely given answers are
(`answer_logprobs`).

Which engine serves a model (`opening.py`)::

    LocalEngine    local.py           a transformers model in this process
    ProcessEngine  process.py         the same in a process of its own
    Replicas       replicas.py        several copies of one model, each on GPUs of its own
    ServerEngine   server/engine.py   a model behind an OpenAI-compatible server
    AdapterEngine  sharing.py         one of these for several names, each with an adapter of its own

Names whose models have the same weights, loaded in the same way, get one engine (`open_engines`). With
equal adapters it is the same object, and `interface.names_by_engine` tells a stage so.

How a request becomes a reply, in `LocalEngine.generate`::

    Request: messages, seed, session      interface.py
      |  chat template, token ids         expertchat/chat.py: encode
      |  batches that fit in memory       batches.py: Batches, planned_rows
      |  cached prefix of the session     generate/cache.py: Sessions, CachedPrefix
      v
    BatchState: cache, mask, logits       generate/generation.py: read_prompts (prefill)
      |  repeated for each token:         generate/generation.py: continue_batch
      |    draw                           generate/sampling.py: draw
      |    end token, stop text, budget   generate/stopping.py: StoppingRules
      |    read the new token             generate/generation.py: forward_pass
      |  (contrastive search instead:     generate/contrastive.py, generate/grouped_attention.py)
      v
    Completion: token ids, finish reason  generate/stopping.py
      |  decode, cut at the stop text     local.py: LocalEngine._reply
      v
    Reply: text, tokens, finish reason    interface.py

How a question becomes probabilities, in `LocalEngine.answer_logprobs`::

    Question: prompt, answers             interface.py
      |  chat template, token ids         score/encoding.py: Encoder.tokenize
      v
    TokenizedQuestion                     score/tokenized.py
      |  one per answer, cut to context   score/tokenized.py: answer_sequences
      v
    AnswerSequence                        score/tokenized.py
      |  shared tokens become one node    score/forest.py: build_forest
      v
    Forest: nodes and lookups             score/forest.py
      |  passes that fit in memory        batches.py: Batches, planned_tokens
      |  one pass over some nodes         score/scoring.py: score_nodes, score/forest_attention.py
      |  sums over an answer's tokens     local.py: LocalEngine.score
      |  `exclusive` answers              score/tokenized.py: exclusive_logprobs
      v
    log-probabilities [answers]

Behind a server the same two paths are `server/replies.py` (replies) and `server/answers.py`
(probabilities). `server/client.py` sends the requests, and `server/process.py` starts and ends a server,
with `server/guard.py` in case the job is killed.

Loading: `loading.py` (weights and tokenizers), `quantization.py` (4 and 8 bit), `memory.py` (planned and
measured bytes), `placement.py` (which GPUs a model gets). `backbone.py` runs a model without its output
head, for both paths. `linear.py` multiplies matrices faster on some CPUs. `rotation.py` keeps the texts
of one batch apart from those that LongRoPE rotates otherwise.

Words:

session
    Name of a conversation. Its tokens' keys and values stay cached between requests of this name, for
    each adapter separately.
cached prefix
    Token ids of a conversation with their keys and values. What a new prompt has in common with
    them is not computed again.
tokenized question
    A question as token ids: of its prompt and of each answer.
answer sequence
    What the model reads for one answer: the prompt and all but the answer's last token.
node
    Consecutive tokens with which one or several answer sequences continue a common prefix. The nodes
    of all sequences form a prefix forest. Each is read once.
lookup
    One token of an answer: its probability is looked up after a certain token of a certain node.
pass
    One forward pass of the model: over the new tokens of a batch of prompts, or over several nodes.
method
    How a model scores answers (`score/scoring.py: Method`): "forest" with our own attention, "mask" with
    the model's own attention and a mask, "whole" on complete prompts. `pick_method` tests which works.
"""
