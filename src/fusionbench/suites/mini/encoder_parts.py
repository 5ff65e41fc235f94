"""What `mini/encoder` is built of: generated texts, a word-piece tokenizer, and a BERT pretrained on them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fusionbench.families.tokens import pad_together
from fusionbench.suites.images.streams import stream
from fusionbench.suites.mini.assembly import Parts
from fusionbench.suites.mini.packaged import PACKAGED, package_folder
from fusionbench.suites.mini.saving import save_quietly
from fusionbench.suites.mini.text_data import Text, describe, digests, notes, training_texts, write_texts
from fusionbench.suites.mini.text_recipe import MiniTextRecipe, TextPretraining, Transformer

if TYPE_CHECKING:
    from torch import Tensor

    from fusionbench.training import Loop

PAD, UNKNOWN, FIRST, END, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL = {"pad_token": PAD, "unk_token": UNKNOWN, "cls_token": FIRST, "sep_token": END, "mask_token": MASK}
IGNORED = -100
KEPT, EXCHANGED = 0.1, 0.1
"""Of the tokens to be guessed, the shares that stay as they are and that become others (arXiv:1810.04805, §3.1)."""


def make_base(place: Path, data: Path, recipe: MiniTextRecipe, seed: int, loop: "Loop") -> None:
    """Write tokenizer and encoder in Hugging Face form: trained on the tasks' training texts, or out of a package.

    Raises:
        MissingExtra: where that package is not installed.
    """
    if recipe.package is not None:
        write_packaged(place, recipe.package)
        return
    texts = training_texts(data)
    tokenizer = make_tokenizer([" ".join(text) for text in texts], recipe.transformer)
    module = new_bert(recipe.transformer, len(tokenizer), seed)
    pretrain(module, tokenizer, texts, recipe.training, seed, loop)
    save_quietly(module.bert, place)
    tokenizer.save_pretrained(place)


def write_packaged(place: Path, package: str) -> None:
    """Write the encoder and the tokenizer that lie in the folder `model` of an installed package.

    Raises:
        MissingExtra: where it is not installed.
    """
    from transformers import AutoModel, AutoTokenizer

    folder = package_folder(package) / PACKAGED
    save_quietly(AutoModel.from_pretrained(folder), place)
    AutoTokenizer.from_pretrained(folder).save_pretrained(place)


def make_tokenizer(texts: Sequence[str], transformer: Transformer) -> Any:
    """Return a word-piece tokenizer of BERT's form, `[CLS] text [SEP] other text [SEP]`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=transformer.vocabulary, special_tokens=list(SPECIAL.values()), show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    core.post_processor = processors.TemplateProcessing(
        single=f"{FIRST} $A {END}",
        pair=f"{FIRST} $A {END} $B:1 {END}:1",
        special_tokens=[(word, core.token_to_id(word)) for word in (FIRST, END)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=transformer.positions,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **SPECIAL,
    )


def new_bert(transformer: Transformer, words: int, seed: int) -> Any:
    """Return an encoder with BERT's two heads of pretraining and random weights of a seed."""
    import torch
    from transformers import BertConfig, BertForPreTraining

    config = BertConfig(
        vocab_size=words,
        max_position_embeddings=transformer.positions,
        hidden_size=transformer.width,
        num_hidden_layers=transformer.depth,
        num_attention_heads=transformer.heads,
        intermediate_size=4 * transformer.width,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertForPreTraining(config)


def pretrain(
    module: Any, tokenizer: Any, texts: Sequence[Text], training: TextPretraining, seed: int, loop: "Loop"
) -> None:
    """Train the module in place to guess hidden tokens, and whether the texts of a pair belong together.

    The second task is BERT's own (arXiv:1810.04805, §3.1); it is asked of pairs alone, half of which are broken up.
    """
    import torch

    from fusionbench.training import step_of, tensors_of

    batcher = Batcher(texts, tokenizer, training.batch, training.masked)

    def batches(start: int) -> Iterator[dict[str, "Tensor"]]:
        position = start
        while True:
            yield batcher.draw(stream(seed, "pretraining", position))
            position += 1

    def loss(batch: dict[str, "Tensor"]) -> "Tensor":
        found: Tensor = module(**batch).loss
        return found

    optimizer = torch.optim.AdamW(
        module.parameters(), training.learning_rate, (0.9, 0.98), weight_decay=training.weight_decay, fused=True
    )
    module.train()
    loop.run("pretraining", training.course(seed), step_of(loss), batches, tensors_of(module), optimizer)
    module.eval()


class Batcher:
    """Makes the batches of BERT's pretraining, each from a generator of its own."""

    def __init__(self, texts: Sequence[Text], tokenizer: Any, size: int, masked: float) -> None:
        """Turn all texts into tokens once.

        Args:
            texts: single ones and pairs.
            tokenizer: with a mask token.
            size: texts a batch.
            masked: share of the tokens that are to be guessed.
        """
        self.tokenizer, self.size, self.masked = tokenizer, size, masked
        plain = [tokenizer([text[part] for text in texts if len(text) > part], add_special_tokens=False)["input_ids"]
                 for part in (0, 1)]  # fmt: skip
        self.firsts, self.seconds = plain
        rank = np.cumsum([len(text) > 1 for text in texts]) - 1
        self.second_of = [int(rank[number]) if len(text) > 1 else None for number, text in enumerate(texts)]

    def draw(self, rng: np.random.Generator) -> dict[str, "Tensor"]:
        """Return inputs, "labels" (the hidden tokens) and "next_sentence_label" (1: the second text is another's)."""
        import torch

        examples, answers = [], []
        for number in rng.integers(0, len(self.firsts), self.size):
            own, broken = self.second_of[int(number)], bool(rng.random() < 0.5)
            other = int(rng.integers(len(self.seconds))) if own is not None and broken else own
            examples.append(self._frame(self.firsts[int(number)], None if other is None else self.seconds[other]))
            answers.append(IGNORED if own is None else int(other != own))
        batch = pad_together(examples, self.tokenizer.pad_token_id)
        ids = batch["input_ids"].numpy()
        labels = self._hide(ids, rng)
        return batch | {"labels": torch.from_numpy(labels), "next_sentence_label": torch.tensor(answers)}

    def _frame(self, first: list[int], second: list[int] | None) -> dict[str, list[int]]:
        start, end = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        head, tail = [start, *first, end], [] if second is None else [*second, end]
        return {"input_ids": head + tail, "token_type_ids": [0] * len(head) + [1] * len(tail)}

    def _hide(self, ids: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Hide tokens in place, and return what they were; `IGNORED` where nothing is asked."""
        ordinary = ids >= len(SPECIAL)
        asked = ordinary & (rng.random(ids.shape) < self.masked)
        labels = np.where(asked, ids, IGNORED)
        fate = rng.random(ids.shape)
        random = rng.integers(len(SPECIAL), len(self.tokenizer), ids.shape)
        ids[asked & (fate >= KEPT)] = self.tokenizer.mask_token_id
        exchanged = asked & (fate >= KEPT) & (fate < KEPT + EXCHANGED)
        ids[exchanged] = random[exchanged]
        return labels


PARTS = Parts(write_texts, describe, make_base, digests, notes, family="encoder", trained_heads=True)
