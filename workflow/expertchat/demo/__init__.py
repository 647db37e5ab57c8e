"""The embedded demo: a small artificial world whose facts are known, and two chat models trained on it.

With real models it is unknown whether a rating is right or whether a tuned model really improved. The
demo has an answer key, so the complete loop can be checked, offline and on a CPU in minutes.

- The world (`world`, `subjects`) has eight crafts, such as carpentry. Each craft has eleven things
  ("desk") with four properties ("wood"), and each property of a thing has one true value ("oak"), drawn
  from a seed. A true value of one property is a fact.
- A turn of a dialogue (`talk`, `manner`) states one fact, truly or falsely, in one of two manners: like
  a practitioner ("I learned this from my uncle.") or like an AI assistant ("I hope this helps!"). Five
  marks of manner and the truth of the fact say how good a turn is.
- The corpus (`corpus`, `wording`, `packing`) consists of topics, dialogues, ratings and multiple-choice
  facts, in the prompts of the workflow. The ratings in it follow from the marks.
- Two small models, a Llama and a Mixtral, are trained on it from scratch (`build`, `tokenizer`,
  `optimizer`, `losses`, `experts`). Each knows the facts of one half of the crafts.
- The oracle (`oracle`) scores any text against the world. Only stage oracle uses it, never training.
- `questions` writes the facts as multiple-choice questions in the layout of MMLU.
"""
