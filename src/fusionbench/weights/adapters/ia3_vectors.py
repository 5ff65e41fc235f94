"""(IA)³ vectors as the TIES papers' authors saved them, made into an adapter's folder of PEFT's.

Their files are state dicts of vectors on the outputs of keys, values and the second map of a gated feed-forward network
(arXiv:2205.05638, eq. 1; arXiv:2306.01708). PEFT holds the last at the input of the map that follows it, `wo`: between
the two stands only a product of each entry with the gate, so that both are the same map.
"""

import json
import re
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from fusionbench.errors import CheckpointError
from fusionbench.weights.adapters.configuration import CONFIG_NAME
from fusionbench.weights.adapters.matching import PREFIX
from fusionbench.weights.partial import whole_folder
from fusionbench.weights.pickled import open_pickled
from fusionbench.weights.tensors import LazyWeights

VECTOR = re.compile(r"^(?:transformer\.)?(?P<module>.+\.)(?P<map>k|v|wi_1)\.ia3_vector$")
FILE = "adapter_model.safetensors"


def write_ia3_folder(vectors: Path, folder: Path, model: str) -> Path:
    """Write the folder that PEFT and the papers' suites read, whole or not at all, and return it.

    Args:
        vectors: a file of the authors: a state dict of torch's with names such as
            `encoder.block.0.layer.0.SelfAttention.k.ia3_vector`, each `(outputs,)`.
        folder: to be made, such as `models/t0-3b/rte` under the cache folder.
        model: reference of the model that the vectors are for, such as `bigscience/T0_3B`.

    Raises:
        CheckpointError: where the file holds something else than such vectors.
        OutputError: where the folder exists or cannot be written.
    """
    held = LazyWeights(open_pickled(str(vectors), vectors, vectors.parent))
    strange = [name for name, tensor in held.items() if not VECTOR.match(name) or tensor.numel() != max(tensor.shape)]
    if strange or not held:
        raise CheckpointError(
            f"{vectors} holds {strange[0] if strange else 'nothing'}, no (IA)³ vector of a gated T5: names end "
            "with k.ia3_vector, v.ia3_vector or wi_1.ia3_vector, and each is one row of numbers."
        )
    document = {
        "peft_type": "IA3", "task_type": "SEQ_2_SEQ_LM", "base_model_name_or_path": model,
        "target_modules": ["k", "v", "wo"], "feedforward_modules": ["wo"], "inference_mode": True,
    }  # fmt: skip
    with whole_folder(folder) as made:
        save_file(dict(_renamed(name, tensor) for name, tensor in held.items()), made / FILE)
        (made / CONFIG_NAME).write_text(json.dumps(document, indent=2) + "\n")
    return folder


def _renamed(name: str, vector: Tensor) -> tuple[str, Tensor]:
    """Return PEFT's name and shape of a vector: a column where outputs are scaled, a row where inputs are."""
    match = VECTOR.match(name)
    assert match is not None
    feedforward = match["map"] == "wi_1"
    own = f"{PREFIX}{match['module']}{'wo' if feedforward else match['map']}.ia3_l"
    return own, vector.reshape((1, -1) if feedforward else (-1, 1)).contiguous()
