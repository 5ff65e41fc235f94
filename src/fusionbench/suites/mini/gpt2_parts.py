"""What `mini/gpt2` is built of: generated texts, a byte-pair tokenizer, a GPT-2 trained as a language model on them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fusionbench.suites.images.streams import stream
from fusionbench.suites.mini.assembly import Parts
from fusionbench.suites.mini.saving import save_quietly
from fusionbench.suites.mini.text_data import Text, describe, digests, notes, training_texts, write_texts
from fusionbench.suites.mini.text_recipe import MiniTextRecipe, TextPretraining, Transformer

if TYPE_CHECKING:
    from torch import Tensor

    from fusionbench.training import Loop

END = "<|endoftext|>"


def make_base(place: Path, data: Path, recipe: MiniTextRecipe, seed: int, loop: "Loop") -> None:
    """Train tokenizer and language model on the tasks' training texts; write both in Hugging Face form."""
    texts = training_texts(data)
    tokenizer = make_tokenizer([" ".join(text) for text in texts], recipe.transformer)
    module = new_gpt2(recipe.transformer, len(tokenizer), tokenizer.eos_token_id, seed)
    pretrain(module, tokenizer, texts, recipe.training, seed, loop)
    save_quietly(module.transformer, place)
    tokenizer.save_pretrained(place)


def make_tokenizer(texts: Sequence[str], transformer: Transformer) -> Any:
    """Return a byte-pair tokenizer of GPT-2's form: its one special token ends, pads and stands for the unknown."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=transformer.vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), END)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=transformer.positions,
        model_input_names=["input_ids", "attention_mask"],
        **special,
    )


def new_gpt2(transformer: Transformer, words: int, end: int, seed: int) -> Any:
    """Return a language model with random weights of a seed."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=words,
        n_positions=transformer.positions,
        n_embd=transformer.width,
        n_layer=transformer.depth,
        n_head=transformer.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config)


def pretrain(
    module: Any, tokenizer: Any, texts: Sequence[Text], training: TextPretraining, seed: int, loop: "Loop"
) -> None:
    """Train the module in place; the texts of a pair follow each other as in a task, and a special token ends them."""
    tokens = [[*ids, tokenizer.eos_token_id] for ids in tokenizer([" ".join(text) for text in texts])["input_ids"]]
    train_language_model(module, tokens, module.config.n_positions, training, seed, loop)


def train_language_model(
    module: Any, tokens: Sequence[Sequence[int]], width: int, training: TextPretraining, seed: int, loop: "Loop"
) -> None:
    """Train a module in place to tell each next token; texts are strung together and cut into full rows, as GPT-2's.

    Args:
        module: any language model of transformers; ends in eval mode.
        tokens: of each text.
        width: tokens a row.
        training: rates, steps, batch.
        seed: of the rows.
        loop: keeps the state of an unfinished training.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from fusionbench.training import step_of, tensors_of

    def batches(start: int) -> Iterator["Tensor"]:
        position = start
        while True:
            rng = stream(seed, "pretraining", position)
            yield torch.from_numpy(packed_rows(tokens, rng, training.batch, width))
            position += 1

    def loss(rows: "Tensor") -> "Tensor":
        logits = module(input_ids=rows[:, :-1], attention_mask=torch.ones_like(rows[:, :-1]), use_cache=False).logits
        return cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    optimizer = torch.optim.AdamW(
        module.parameters(), training.learning_rate, (0.9, 0.98), weight_decay=training.weight_decay, fused=True
    )
    module.train()
    loop.run("pretraining", training.course(seed), step_of(loss), batches, tensors_of(module), optimizer)
    module.eval()


def packed_rows(tokens: Sequence[Sequence[int]], rng: np.random.Generator, rows: int, width: int) -> NDArray[np.int64]:
    """Return `(rows, width)` tokens; each row begins with the beginning of a text, and the last text in it is cut."""
    packed = []
    for _ in range(rows):
        row: list[int] = []
        while len(row) < width:
            row += tokens[int(rng.integers(len(tokens)))]
        packed.append(row[:width])
    return np.array(packed, dtype=np.int64)


PARTS = Parts(write_texts, describe, make_base, digests, notes, family="gpt2", trained_heads=True)
