"""Make the tiny base model that ships with the package: `python -m appliance.stages.training.make_demo_model`.

A Llama of 4.2 million parameters with its own byte-level BPE tokenizer, trained from nothing on the conversations of
`demo_text`. Everything is seeded. A nominal minute is a fixed number of steps, so that a slow machine takes longer but
makes the same model; two cores with AVX512-BF16 and nothing else to do need 12 minutes for the nominal 20.
"""

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from appliance.stages.training import demo_words
from appliance.stages.training.demo_talk import Random, Talk
from appliance.stages.training.demo_text import conversations

OUT = Path(__file__).parents[2] / "demo" / "model"
TEMPLATE = Path(__file__).with_name("demo_chat_template.jinja")
VOCABULARY = 4096
POSITIONS = 8192
PAD, TURN, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
# Digits stand alone, so that a number is copied figure by figure; a word takes the space before it along.
PIECES = r"\p{N}| ?\p{L}+|\s+(?!\S)|\s+| ?[^\s\p{L}\p{N}]+"

STEPS_PER_MINUTE = 100
TOKENS_PER_BATCH = 4096
LONGEST = 320
PROMPT_SHARE = 0.15
MATRIX_RATE, OTHER_RATE = 0.01, 0.003

Row = tuple[list[int], list[int]]
Batch = tuple[torch.Tensor, torch.Tensor]


def main() -> None:
    """Make the tokenizer, train the model, save both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--minutes", type=float, default=20, help="nominal: each is a fixed number of steps")
    parser.add_argument("--seed", type=int, default=3407)
    arguments = parser.parse_args()
    tokenizer = make_tokenizer(arguments.seed)
    model = make_model(tokenizer, arguments.seed)
    train(model, batches(tokenizer, arguments.seed), steps=round(arguments.minutes * STEPS_PER_MINUTE))
    save(model, tokenizer, arguments.out)


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the chat template. It adds no BOS token: a turn starts with its own mark."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, TURN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(tokenizer_text(seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[TURN],
        chat_template=TEMPLATE.read_text(),
        model_max_length=POSITIONS,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def tokenizer_text(seed: int) -> Iterator[str]:
    """Conversations, and the common words of English often enough to become tokens of their own."""
    for talk in itertools.islice(conversations(seed + 1), 20_000):
        yield from (message["content"] for message in talk)
    for _ in range(40):
        yield " " + " ".join(demo_words.COMMON)


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained Llama; every linear layer is a multiple of 64 wide, which is bitsandbytes' NF4 block."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    # Faster on a CPU than SDPA's backward pass as long as rows are short; not saved with the model.
    model.set_attn_implementation("eager")
    return model


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[Batch]:
    """Token ids and labels, conversations of like length together, without end."""
    talks = conversations(seed)
    rng = Random(seed)
    while True:
        rows = [encode(tokenizer, talk, rng) for talk in itertools.islice(talks, 4096)]
        groups = list(grouped(sorted((row for row in rows if len(row[0]) <= LONGEST), key=lambda row: len(row[0]))))
        rng.shuffle(groups)
        yield from (padded(group, tokenizer.pad_token_id) for group in groups)


def encode(tokenizer: PreTrainedTokenizerFast, talk: Talk, rng: Random) -> Row:
    """A conversation as the template renders it. All the assistant says is trained, and a sample of the rest."""
    rendered: Any = tokenizer.apply_chat_template(talk, return_dict=True, return_assistant_tokens_mask=True)
    ids = rendered["input_ids"]
    said = rendered["assistant_masks"]
    return ids, [token if mine or rng.random() < PROMPT_SHARE else -100 for token, mine in zip(ids, said, strict=True)]


def grouped(rows: list[Row]) -> Iterator[list[Row]]:
    """Neighbours that fill a batch when padded to the longest of them."""
    group: list[Row] = []
    for row in rows:
        if group and len(row[0]) * (len(group) + 1) > TOKENS_PER_BATCH:
            yield group
            group = []
        group.append(row)
    yield group


def padded(group: list[Row], pad: int) -> Batch:
    """One tensor of ids and one of labels; padding is not trained."""
    length = max(len(ids) for ids, _ in group)
    ids = torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in group])
    return ids, torch.tensor([labels + [-100] * (length - len(labels)) for _, labels in group])


def train(model: LlamaForCausalLM, data: Iterator[Batch], *, steps: int) -> None:
    """Muon for the matrices, AdamW for embeddings and norms, both warmed up and cooled down by a cosine."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = (
        torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.01),
        torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    )
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: rate(step, steps)) for o in optimizers]
    started, seen, mean = time.monotonic(), 0, 0.0
    for step, (ids, labels) in enumerate(itertools.islice(data, steps), start=1):
        loss = loss_of(model, ids, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for each in (*optimizers, *schedules):
            each.step()
        model.zero_grad(set_to_none=True)
        seen, mean = seen + ids.numel(), loss.item() if step == 1 else 0.95 * mean + 0.05 * loss.item()
        if step % 50 == 0 or step == steps:
            speed = seen / (time.monotonic() - started)
            print(f"step {step}/{steps}, loss {mean:.3f}, {speed:.0f} tokens/s", flush=True)  # noqa: T201


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean loss over the trained tokens; logits are made for these alone."""
    trained = labels[:, 1:] != -100
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[trained])
    return torch.nn.functional.cross_entropy(logits.float(), labels[:, 1:][trained])


def rate(step: int, steps: int) -> float:
    """The learning rate at a step, as a fraction of its peak."""
    warm = max(1, min(100, steps // 10))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) * 0.98 + 0.02


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write weights in bf16, tokenizer, template and generation defaults."""
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)


if __name__ == "__main__":
    main()
