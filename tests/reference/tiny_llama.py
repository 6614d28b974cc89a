#!/usr/bin/env python3
"""Makes `tests/fixtures/tiny_llama/`: tiny random Llama models and what PyTorch, transformers and PEFT compute with them.

usage: python tests/reference/tiny_llama.py [OUT_DIR]
needs: torch transformers peft bitsandbytes safetensors, on the CPU (see README.md beside this file for the versions)

Everything is f32 with fixed seeds. Each training run is made a second time in f64, so that a test can tell how far rounding alone
carries a loss: `*_f64` in expected.json. What each file holds is written in the README.md that this script puts beside them.
"""

import copy
import json
import math
import pathlib
import shutil
import sys

import bitsandbytes.functional as bnb
import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, get_scheduler
from transformers.models.llama import modeling_llama
from transformers.trainer import Trainer

LAYERS = 2
COMMON = dict(num_hidden_layers=LAYERS, vocab_size=131, max_position_embeddings=64, rms_norm_eps=1e-5,
              bos_token_id=1, eos_token_id=2, pad_token_id=None,
              rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
MODELS = {
    # No size is a multiple of a usual tile, so that every edge is met.
    "tied": dict(hidden_size=48, num_attention_heads=6, num_key_value_heads=2, head_dim=8, intermediate_size=80,
                 tie_word_embeddings=True),
    "untied": dict(hidden_size=48, num_attention_heads=6, num_key_value_heads=2, head_dim=8, intermediate_size=80,
                   tie_word_embeddings=False),
    # Multiples of 64, so that NF4 blocks tile the rows of every matrix.
    "blocks64": dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16, intermediate_size=128,
                     tie_word_embeddings=True),
}
# Row length, and how many of its first tokens are not supervised.
ROWS = [(17, 5), (9, 3), (13, 0)]
ADAMW = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
LORA_ADAMW = dict(ADAMW, lr=5e-3)
MAX_GRAD_NORM = 1.0
STEPS = 10
RANK, ALPHA = 4, 8


def generator(seed, purpose):
    return torch.Generator().manual_seed(1000 * seed + purpose)


def normal(shape, std, g):
    return torch.randn(shape, generator=g) * std


def new_model(sizes, seed):
    """Weights with the spread of a trained model: with transformers' own 0.02 the layers would hardly act."""
    model = LlamaForCausalLM(LlamaConfig(**COMMON, **sizes))
    g = generator(seed, 1)
    for name, p in model.named_parameters():
        if "norm" in name:
            p.data = 1 + normal(p.shape, 0.2, g)
        elif "embed_tokens" in name or "lm_head" in name:
            p.data = normal(p.shape, 0.15, g)
        else:
            p.data = normal(p.shape, p.shape[1] ** -0.5, g)
    return model.eval()


def new_batch(rows, seed):
    """Rows of random tokens, padded on the right with 0; the prompt, the padding and one hole in mid-row are not supervised."""
    g, width = generator(seed, 2), max(length for length, _ in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, (length, prompt) in enumerate(rows):
        ids[i, :length] = torch.randint(3, COMMON["vocab_size"], (length,), generator=g)
        mask[i, :length] = 1
        labels[i, prompt:length] = ids[i, prompt:length]
    labels[0, 11] = -100
    return dict(input_ids=ids, attention_mask=mask, labels=labels)


def as_lists(batch):
    return {k: v.tolist() for k, v in batch.items()}


def supervised(batches):
    """Targets of a step: the first token of a row predicts nothing that came before it, so its label never counts."""
    return sum(int((b["labels"][:, 1:] != -100).sum()) for b in batches)


def logits_of(model, batch):
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits


def mean_loss(model, batches):
    """Mean over the supervised tokens of all micro-batches, as Trainer computes it with `num_items_in_batch`."""
    total = 0
    for b in batches:
        logits, labels = logits_of(model, b)[:, :-1], b["labels"][:, 1:]
        total = total + cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
    return total / supervised(batches)


def valid(tensor, batch):
    """Zero where there is only padding: nothing is promised there."""
    return (tensor * batch["attention_mask"][..., None]).contiguous()


def decayed_names(model):
    return set(Trainer.get_decay_parameter_names(None, model))


def train(model, batches, optimizer):
    """Losses before each step and after the last, and the gradient norm before clipping at each step."""
    model = copy.deepcopy(model)
    decayed = decayed_names(model)
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [dict(params=[p for n, p in trained if n in decayed]),
              dict(params=[p for n, p in trained if n not in decayed], weight_decay=0.0)]
    adamw = torch.optim.AdamW([g for g in groups if g["params"]], **optimizer)
    losses, norms = [], []
    for _ in range(STEPS):
        adamw.zero_grad()
        loss = mean_loss(model, batches)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_([p for _, p in trained], MAX_GRAD_NORM).item())
        losses.append(loss.item())
        adamw.step()
    with torch.no_grad():
        losses.append(mean_loss(model, batches).item())
    return losses, norms


def training(model, batches, optimizer):
    losses, norms = train(model, batches, optimizer)
    losses_f64, norms_f64 = train(copy.deepcopy(model).double(), batches, optimizer)
    decayed = decayed_names(model)
    return dict(
        optimizer=dict(optimizer, max_grad_norm=MAX_GRAD_NORM),
        not_decayed=[n for n, p in model.named_parameters() if p.requires_grad and n not in decayed],
        supervised_tokens=supervised(batches),
        losses=losses, losses_f64=losses_f64, grad_norms=norms, grad_norms_f64=norms_f64,
    )


def gradients(model, batches):
    model = copy.deepcopy(model)
    mean_loss(model, batches).backward()
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


def gradients_and_error(model, batches):
    """Gradients in f32, and the largest distance of one of them from its f64 twin, relative by norm."""
    single, double = gradients(model, batches), gradients(copy.deepcopy(model).double(), batches)
    error = max(((single[n].double() - g).norm() / g.norm()).item() for n, g in double.items())
    return {n: g.contiguous() for n, g in single.items()}, error


def hidden_states(model, batch):
    """The residual stream after the embedding and after each layer, and the output of the final norm."""
    seen, hooks = {}, []
    places = {"embed": model.model.embed_tokens, "norm": model.model.norm}
    places |= {f"layer.{i}": layer for i, layer in enumerate(model.model.layers)}
    for place, module in places.items():
        hooks.append(module.register_forward_hook(lambda _m, _i, out, place=place: seen.update({place: out})))
    logits_of(model, batch)
    for h in hooks:
        h.remove()
    return {f"hidden.{place}": valid(h, batch) for place, h in seen.items()}


def greedy(model, prompt, count):
    ids, margins = list(prompt), []
    for _ in range(count):
        top = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2)
        margins.append((top.values[0] - top.values[1]).item())
        ids.append(top.indices[0].item())
    return dict(prompt=list(prompt), tokens=ids[len(prompt):], smallest_margin=min(margins))


def firm_answer(model):
    """The most varied of the greedy answers that no rounding can change."""
    answers = [greedy(model, [1, first, 40, 77, 5], 20) for first in range(3, COMMON["vocab_size"])]
    firm = [a for a in answers if a["smallest_margin"] > 0.01]
    return max(firm, key=lambda a: len(set(a["tokens"])))


def lora(model, seed, use_rslora=False):
    """An adapter on every linear layer whose B is not zero, so that no gradient is zero either."""
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", lora_dropout=0.0, bias="none",
                        task_type="CAUSAL_LM", use_rslora=use_rslora)
    tuned = get_peft_model(copy.deepcopy(model), config)
    g = generator(seed, 3)
    for name, p in tuned.named_parameters():
        if p.requires_grad:
            p.data = normal(p.shape, 0.1 if "lora_B" in name else p.shape[1] ** -0.5, g)
    return tuned.eval()


def save_adapter(tuned, folder):
    tuned.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"] = sorted(config["target_modules"])  # PEFT writes a set: keep the file the same from run to run
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def in_peft_file(name):
    return name.replace(".default.", ".")


def nf4(model, double_quant):
    """Every linear layer of the decoder through bitsandbytes' NF4 and back; embedding, head and norms untouched."""
    model = copy.deepcopy(model)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name:
            # Flat: bitsandbytes 0.50 on the CPU decodes matrices wrongly whose rows are no whole number of blocks.
            codes, state = bnb.quantize_4bit(module.weight.data.flatten(), blocksize=64, quant_type="nf4",
                                             compress_statistics=double_quant)
            module.weight.data = bnb.dequantize_4bit(codes, state).reshape(module.weight.shape)
    return model


def make(name, sizes, seed, out):
    folder = out / name
    folder.mkdir(parents=True)
    model, batch = new_model(sizes, seed), new_batch(ROWS, seed)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tensors, expected = {}, dict(batch=as_lists(batch), supervised_tokens=supervised([batch]))

    # The base model.
    loss = mean_loss(model, [batch])
    assert torch.allclose(loss, model(**batch, use_cache=False).loss, rtol=1e-6), "the loss is not that of transformers"
    tensors["logits"] = valid(logits_of(model, batch), batch)
    tensors |= hidden_states(model, batch)
    grads, error = gradients_and_error(model, [batch])
    tensors |= {f"grad.{n}": g for n, g in grads.items()}
    expected["loss"] = loss.item()
    expected["full"] = dict(grad_error_f32=error, **training(model, [batch], ADAMW))
    expected["generate"] = firm_answer(model)

    # LoRA, one batch a step.
    tuned = lora(model, seed)
    save_adapter(tuned, folder / "lora")
    grads, error = gradients_and_error(tuned, [batch])
    tensors["lora.logits"] = valid(logits_of(tuned, batch), batch)
    tensors |= {f"lora.grad.{in_peft_file(n)}": g for n, g in grads.items()}
    expected["lora"] = dict(r=RANK, lora_alpha=ALPHA, scaling=ALPHA / RANK, loss=mean_loss(tuned, [batch]).item(),
                            grad_error_f32=error, **training(tuned, [batch], LORA_ADAMW))
    tensors["merged.logits"] = valid(logits_of(copy.deepcopy(tuned).merge_and_unload(), batch), batch)

    # LoRA, a step of two micro-batches with different numbers of targets.
    micro = [new_batch([(12, 8), (14, 11)], seed + 50), new_batch([(16, 1)], seed + 51)]
    expected["lora_accumulation"] = dict(micro_batches=[as_lists(b) for b in micro], **training(tuned, micro, LORA_ADAMW))

    # The same adapter with rsLoRA's scaling.
    scaled = lora(model, seed, use_rslora=True)
    save_adapter(scaled, folder / "rslora")
    tensors["rslora.logits"] = valid(logits_of(scaled, batch), batch)
    expected["rslora"] = dict(scaling=ALPHA / math.sqrt(RANK), loss=mean_loss(scaled, [batch]).item())

    # The same adapter over NF4 weights.
    for case, double_quant in [("nf4", False), ("nf4_dq", True)]:
        base = nf4(model, double_quant)
        tuned = PeftModel.from_pretrained(copy.deepcopy(base), folder / "lora", is_trainable=True).eval()
        grads, error = gradients_and_error(tuned, [batch])
        tensors[f"{case}.logits"] = valid(logits_of(base, batch), batch)
        tensors |= {f"{case}.lora.grad.{in_peft_file(n)}": g for n, g in grads.items()}
        expected[case] = dict(loss=mean_loss(base, [batch]).item(), lora_loss=mean_loss(tuned, [batch]).item(),
                              grad_error_f32=error, **training(tuned, [batch], LORA_ADAMW))

    save_file({n: t.detach().float().contiguous() for n, t in tensors.items()}, folder / "expected.safetensors")
    (folder / "expected.json").write_text(one_line_a_list(expected))
    return expected


def schedules():
    """The share of the peak rate at each of 20 steps, for transformers' schedules, and its rule for a warm-up given as a share."""
    def rates(name, warmup):
        sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = get_scheduler(name, sgd, num_warmup_steps=warmup, num_training_steps=20)
        out = []
        for _ in range(20):
            out.append(sgd.param_groups[0]["lr"])
            sgd.step()
            scheduler.step()
        return out

    names = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
    return dict(
        steps=20,
        rates=[dict(schedule=ours, warmup_steps=w, lr=rates(theirs, w)) for ours, theirs in names.items() for w in (0, 1, 3)],
        warmup_share=[dict(share=s, steps=n, warmup_steps=math.ceil(n * s)) for s in (0.03, 0.05, 0.1) for n in (7, 20, 100)],
    )


def one_line_a_list(value, indent=""):
    """JSON with one line for each innermost list: readable, and small in a diff."""
    def nested(v):
        return isinstance(v, (dict, list)) and len(json.dumps(v)) > 100 and (
            isinstance(v, dict) or any(isinstance(x, (dict, list)) for x in v))

    if not nested(value):
        return json.dumps(value)
    inner = indent + "  "
    if isinstance(value, dict):
        body = [f"{inner}{json.dumps(k)}: {one_line_a_list(v, inner)}" for k, v in value.items()]
        brackets = "{}"
    else:
        body = [inner + one_line_a_list(v, inner) for v in value]
        brackets = "[]"
    text = brackets[0] + "\n" + ",\n".join(body) + "\n" + indent + brackets[1]
    return text if indent else text + "\n"


def rms_norm(self, x):
    """LlamaRMSNorm without its cast to f32, which would keep the f64 twin from being one."""
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def main(out):
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    modeling_llama.LlamaRMSNorm.forward = rms_norm
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for seed, (name, sizes) in enumerate(MODELS.items()):
        expected = make(name, sizes, seed, out)
        print(f"{name}: loss {expected['loss']:.4f}")
        for case in ("full", "lora", "lora_accumulation", "nf4", "nf4_dq"):
            run = expected[case]
            drift = max(abs(a - b) / b for a, b in zip(run["losses"], run["losses_f64"]))
            print(f"  {case}: loss {run['losses'][0]:.4f} -> {run['losses'][-1]:.4f}, norm {run['grad_norms'][0]:.3f} -> "
                  f"{run['grad_norms'][-1]:.3f}, f32 against f64: loss {drift:.1e}, gradient {run.get('grad_error_f32', 0):.1e}")
        print(f"  generate: smallest margin {expected['generate']['smallest_margin']:.3f}")
    (out / "schedules.json").write_text(one_line_a_list(schedules()))
    shutil.copy(pathlib.Path(__file__).with_name("tiny_llama.md"), out / "README.md")
    print("torch", torch.__version__, "transformers", transformers.__version__, "peft", peft.__version__)


if __name__ == "__main__":
    here = pathlib.Path(__file__).resolve().parent
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here.parent / "fixtures" / "tiny_llama")
