#!/usr/bin/env python3
"""Makes `lora_qv_grad_at_final_f64.safetensors` in tests/fixtures/smollm2: the gradients of `golden/lora_qv_grad_at_final` in f64.

usage: python tests/reference/smollm2_f64.py MODEL_FOLDER     needs torch, transformers, peft (see README.md beside this file)

The golden gradients were made in f32, where torch's cross-entropy reads low: they are themselves up to 2.9e-4 from these.
"""

import json
import pathlib
import sys

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "smollm2"
GOLDEN = FIXTURES / "golden"

ids = torch.tensor(json.loads((GOLDEN / "base.json").read_text())["input_ids"])
golden = load_file(GOLDEN / "lora_qv_grad_at_final.safetensors")
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32, attn_implementation="eager").double()
model = PeftModel.from_pretrained(model, GOLDEN / "peft_lora_qv_final", is_trainable=True).double()
logits = model(input_ids=ids, use_cache=False).logits
loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
loss.backward()
print("loss", loss.item())
exact = {}
for name, parameter in model.named_parameters():
    key = f"grad_at_final.{name}"
    if key in golden:
        exact[key] = parameter.grad
        error = (golden[key].double() - parameter.grad).norm() / parameter.grad.norm()
        print(f"{name}: golden f32 is off by {error.item():.2e}")
save_file({k: v.float().contiguous() for k, v in exact.items()}, FIXTURES / "lora_qv_grad_at_final_f64.safetensors")
