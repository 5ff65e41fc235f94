"""The Flan-T5 suites on stand-ins of the hub: whole experts and LoRA adapters, prompts, generation, both metrics."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr

from fusionbench.suites import Suite
from fusionbench.suites.paper import describe, suite_of
from fusionbench.suites.tasks import task_spec
from fusionbench.tasks.prompts import PROMPTS, columns_of
from hub_stand_in import COMMIT, HubCache
from paper_stand_ins import answered

GLUE = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb")
SIZES = ("base", "large")
WORDS = ("good", "bad", "film", "day", "a", "the", "was", "is")
SCORES = (0.0, 2.5, 3.8, 5.0)
COUNT = 12


def rows_of(task: str) -> list[dict[str, Any]]:
    """Examples in GLUE's columns, of words that the stand-in's tokenizer has."""
    prompt, drawn = PROMPTS[f"glue/{task}"], np.random.default_rng(len(task))
    rows = []
    for number in range(COUNT):
        row = {column: " ".join(drawn.choice(WORDS, 4)) for column in columns_of((prompt.template,))}
        label: Any = number % len(prompt.targets) if prompt.targets else SCORES[number % 4]
        rows.append(row | {"label": label, "idx": number})
    return rows


def make_flan(folder: Path) -> None:
    """Write a tiny Flan-T5 that answers each question by one word and then stops: which word, the question decides."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration
    from transformers.utils import logging

    logging.disable_progress_bar()
    answers = dict.fromkeys(word for prompt in PROMPTS.values() for word in prompt.targets or map(str, SCORES))
    read = dict.fromkeys(word for task in GLUE for row in rows_of(task) for word in
                         PROMPTS[f"glue/{task}"].question(row).split())  # fmt: skip
    names = ["<pad>", "</s>", "<unk>", *answers, *(word for word in read if word not in answers)]
    core = Tokenizer(models.WordLevel({name: place for place, name in enumerate(names)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
    config = T5Config(
        vocab_size=len(names), decoder_start_token_id=0, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        **sizes,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(config)
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape) if parameter.dim() > 1 else torch.ones_like(parameter))
        # One direction says "at the start", another "a word was written": the first leads to answers, the second stops.
        model.shared.weight[:, 0], model.shared.weight[:, 1] = 0.0, 6.0
        model.shared.weight[0] = 0.0
        model.shared.weight[0, 0] = 6.0
        # What is read weighs more than what was written, and of that the words that differ.
        model.decoder.block[0].layer[1].EncDecAttention.o.weight *= 10
        for name, parameter in model.decoder.named_parameters():
            if name.endswith((".o.weight", ".wo.weight")):
                parameter[:2] = 0.0
        model.shared.weight[[names.index(word) for word in WORDS], 2:] *= 8
        # Flan-T5's head is no copy of its embedding.
        model.lm_head.weight = torch.nn.Parameter(0.4 * torch.randn(model.lm_head.weight.shape))
        model.lm_head.weight[:, :2] = 0.0
        model.lm_head.weight[3 : 3 + len(answers)] *= 8
        model.lm_head.weight[3 : 3 + len(answers), 0] = 40.0
        model.lm_head.weight[1, 1] = 200.0
    model.save_pretrained(folder)


def write_expert(base: Path, place: Path, seed: int) -> None:
    shutil.copytree(base, place, dirs_exist_ok=True)
    drawn = torch.Generator().manual_seed(seed)
    held = load_file(base / "model.safetensors")
    own = {name: tensor + 0.05 * torch.randn(tensor.shape, generator=drawn) for name, tensor in held.items()}
    save_file(own, place / "model.safetensors", metadata={"format": "pt"})


def write_lora(base: Path, place: Path, seed: int) -> None:
    """Write an adapter of rank 16 as PEFT saves it, on queries and values as the published ones."""
    from peft import LoraConfig, get_peft_model
    from transformers import T5ForConditionalGeneration

    settings = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.1, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = get_peft_model(T5ForConditionalGeneration.from_pretrained(base), settings)
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=drawn))
    model.save_pretrained(place)


def read(name: str) -> Suite:
    return suite_of(name, describe(name))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> HubCache:
    import datasets

    root = tmp_path_factory.mktemp("flan")
    hub = HubCache(root)
    with pytest.MonkeyPatch.context() as patch:
        hub.use(patch)
        make_flan(root / "flan")
        for size in SIZES:
            shutil.copytree(root / "flan", hub.model(f"google/flan-t5-{size}"), dirs_exist_ok=True)
        for number, expert in enumerate(read("flan-t5-base/glue8").pool.experts.values(), start=1):
            write_expert(root / "flan", hub.model(expert.model), number)
        for size in SIZES:
            for number, expert in enumerate(read(f"flan-t5-{size}/glue8-lora").pool.experts.values(), start=1):
                write_lora(root / "flan", hub.model(str(expert.adapter)), number)
        for task in GLUE:
            spec = task_spec(read("flan-t5-base/glue8"), task)
            held = datasets.Dataset.from_list(rows_of(task))
            assert spec.splits is not None
            hub.dataset(spec.dataset, {"train": held, spec.splits["test"]: held}, str(spec.config))
    return hub


def expected(folder: Path) -> dict[str, float]:
    """Scores by transformers' own generation, one question at a time, so that there is no padding."""
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    model, tokenizer = T5ForConditionalGeneration.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    found = {}
    for task in GLUE:
        prompt, answers = PROMPTS[f"glue/{task}"], []
        for row in rows_of(task):
            asked = tokenizer(prompt.question(row), return_tensors="pt")
            said = model.generate(**asked, max_new_tokens=10, do_sample=False)
            answers.append(tokenizer.decode(said[0], skip_special_tokens=True))
        labels = [row["label"] for row in rows_of(task)]
        if prompt.targets:
            found[task] = float(np.mean([a == prompt.targets[n] for a, n in zip(answers, labels, strict=True)]))
        else:
            numbers = [float(a) if a.replace(".", "").isdigit() else 0.0 for a in answers]
            found[task] = float(spearmanr(numbers, labels).statistic) if len(set(numbers)) > 1 else 0.0
    return found


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


@pytest.mark.parametrize("name", ["flan-t5-base/glue8", "flan-t5-base/glue8-lora", "flan-t5-large/glue8-lora"])
def test_eight_experts_are_merged_asked_and_scored_as_transformers_says(
    name, filled, fusionbench, tmp_path, monkeypatch
):
    filled.use(monkeypatch)
    done = fusionbench("run", f"suite={name}", "method=simple_average", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    tasks = report(tmp_path / "out")["tasks"]
    assert list(tasks) == list(GLUE)
    values = {task: score["spearman" if task == "stsb" else "accuracy"]["value"] for task, score in tasks.items()}
    wanted = expected(tmp_path / "out" / "model")
    assert values == pytest.approx(wanted)
    # The stand-in answers some questions rightly and some wrongly, or the comparison would say little.
    assert sum(0 < value < 1 for value in wanted.values()) >= 2
    assert report(tmp_path / "out")["primary_average"]["value"] == pytest.approx(np.mean(list(values.values())))


def test_a_lora_pool_is_merged_as_base_and_the_mean_of_its_updates(filled, fusionbench, tmp_path, monkeypatch):
    filled.use(monkeypatch)
    asked = ("suite=flan-t5-base/glue8-lora", "suite.experts=[cola,rte]", "tasks.seen=[rte]", "method=simple_average")
    done = fusionbench("run", *asked, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    merged = load_file(tmp_path / "out" / "model" / "model.safetensors")
    snapshots = filled.models / "models--google--flan-t5-base" / "snapshots" / COMMIT
    base = load_file(snapshots / "model.safetensors")
    name = "encoder.block.0.layer.0.SelfAttention.q.weight"
    update = torch.zeros_like(base[name])
    for task in ("cola", "rte"):
        place = filled.models / f"models--tanganke--flan-t5-base_glue-{task}_lora-16" / "snapshots" / COMMIT
        held = load_file(place / "adapter_model.safetensors")
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        # α / r = 32 / 16, half of each of two.
        update += held[f"{prefix}.lora_B.weight"] @ held[f"{prefix}.lora_A.weight"]
    torch.testing.assert_close(merged[name], base[name] + update, rtol=1e-5, atol=1e-6)
    assert torch.equal(merged["lm_head.weight"], base["lm_head.weight"])


def test_adaptation_takes_the_suites_rates(filled, fusionbench, tmp_path, monkeypatch):
    filled.use(monkeypatch)
    asked = ("suite=flan-t5-base/glue8-lora", "suite.experts=[cola,rte]", "method=adamerging", "method.steps=1")
    done = fusionbench("run", *asked, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    params = report(tmp_path / "out")["method"]["params"]
    assert (params["learning_rate"], params["batch"]) == (1e-4, 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["multi-task-flan-t5-base-lora", "concrete-flan-t5-large-lora", "transfer-flan-t5-base-lora"]
)
def test_the_papers_tables_are_answered_under_the_published_ids(name, filled, fusionbench, tmp_path, monkeypatch):
    filled.use(monkeypatch)
    answer = answered(name, tmp_path / "runs")
    for folder in (path.parent for path in (tmp_path / "runs").glob("*adamerging-*/report.json")):
        # The hub's validation split, which is scored: the suites' test split.
        assert report(folder)["adapted_on"]["split"] == "test"
    assert all("cola" in line.values for line in answer.lines)
