"""Makes the small valid files that the fuzzers start from; tests read them too.

Needs the Python packages gguf, numpy and safetensors. Run in this folder.
"""

import os

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file


def make_safetensors() -> None:
    tensors = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(3, 2),
        "b": np.arange(4, dtype=np.float16),
        "n": np.zeros((0, 3), np.float32),
        "i": np.arange(3, dtype=np.int64),
    }
    save_file(tensors, "safetensors/small.safetensors", metadata={"format": "pt"})
    with open("safetensors/index.json", "w") as out:
        out.write('{"metadata":{"total_size":4},"weight_map":{"a":"a.safetensors","b":"b.safetensors"}}')


def make_gguf(path: str, types: list[Type]) -> None:
    """A file with a tensor `a.weight` of two rows 0..3, 4..7, and one block of random bytes of each type."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "\u0120b", "c"])
    writer.add_token_types([1, 1, 3])
    writer.add_token_scores([0.5, -1.0, 0.0])
    writer.add_add_bos_token(True)
    writer.add_uint64("x.u64", 7)
    writer.add_float64("x.f64", 2.5)
    writer.add_int8("x.i8", -3)
    writer.add_tensor("a.weight", np.arange(8, dtype=np.float32).reshape(2, 4))
    random = np.random.default_rng(1)
    for kind in types:
        _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        block = random.integers(0, 255, (1, block_bytes), dtype=np.uint8)
        writer.add_tensor(f"one.{kind.name}", block, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    os.makedirs("safetensors", exist_ok=True)
    os.makedirs("gguf", exist_ok=True)
    make_safetensors()
    make_gguf("gguf/small.gguf", [])
    make_gguf("gguf/blocks32.gguf", [Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1])
    make_gguf("gguf/blocks256.gguf", [Type.Q4_K, Type.Q5_K, Type.Q6_K])
