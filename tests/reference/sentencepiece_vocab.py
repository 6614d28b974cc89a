"""Makes tests/fixtures/text/sentencepiece.json: small SentencePiece vocabularies and the ids SentencePiece itself gives.

    pip install sentencepiece protobuf && python tests/reference/sentencepiece_vocab.py

Four vocabularies, as GGUF files keep them (texts, scores, types): BPE with and without the space prefix, unigram with
normalization rules, unigram with byte fallback. Made with sentencepiece 0.2.3.
"""

import io
import json
import random
import tempfile
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

CORPUS = """
A gardener trains a young plant against a frame, and the frame holds while the plant grows.
The espalier is an old art: branches are bent along wires, tied, pruned in winter, and tied again in spring.
Small models learn small things well. A few new weights are trained beside the frozen ones.
In the morning the bees come; in the evening the bats. Nobody waters the pear tree, and still it bears.
Der Gärtner bindet die Zweige an das Spalier, schneidet im Winter und wartet auf den Frühling.
Le jardinier attache les branches, taille en hiver, et attend le printemps; les poires mûrissent en août.
El jardinero ata las ramas, poda en invierno y espera la primavera.
Прививка и обрезка деревьев требуют терпения, говорит садовник весной.
木を育てるには時間がかかる。庭師は枝を支柱に結ぶ。
def grow(plant, days):
    for day in range(days):
        plant.height += 0.5 * day
    return plant.height  # centimetres
1, 2, 3, 10, 12, 20, 100, 128, 256, 512, 1024, 3.14159, 2.71828
the the the and and of of to to in in is is it it that that with with for for on on as as at at by by
training trained trains trainer plant plants planted planting branch branches winter wintering spring springing
"""

CASES = [
    "", " ", "  ", "a", "Hello, world!", "The plant grows.", "  two leading spaces", "trailing spaces  ", "a  b   c",
    "line one\nline two\n\n\tindented", "Gärtner und Frühling", "садовник ждёт", "庭師は枝を結ぶ。", "naïve café – 東京 🙂",
    "def grow(plant):\n    return 1024 + 3.14", "springspringspring", "aaaaaaa", "thethethe and and", "ｆｕｌｌ ｗｉｄｔｈ ﬁne",
    "a▁b", "tab\there", "\u00a0no-break\u2003em", "e\u0301 combining", "1234567890", "x=1;y=2", "é", "\r\n", "￭", "\u200b",
]


def train(**options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.strip().split("\n")), model_writer=model, minloglevel=2, num_threads=1,
        max_sentence_length=4096, **options)
    return model.getvalue()


def describe(kind, model, options):
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    rng = random.Random(0)
    lines = [line for line in CORPUS.split("\n") if line]
    cases = list(CASES)
    for _ in range(60):  # cuts of the corpus, glued together
        parts = []
        for _ in range(rng.randint(1, 3)):
            line = rng.choice(lines)
            start = rng.randrange(len(line))
            parts.append(line[start:start + rng.randint(1, 30)])
        cases.append(rng.choice(["", " ", "\n"]).join(parts))
    return {
        "model": kind,
        "tokens": [p.piece for p in proto.pieces],
        "scores": [p.score for p in proto.pieces],
        "types": [p.type for p in proto.pieces],
        "add_space_prefix": proto.normalizer_spec.add_dummy_prefix,
        "remove_extra_whitespaces": proto.normalizer_spec.remove_extra_whitespaces,
        "precompiled_charsmap": list(proto.normalizer_spec.precompiled_charsmap),
        "cases": [{"text": t, "ids": processor.encode(t), "decoded": processor.decode(processor.encode(t))} for t in cases],
    }


def main():
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", delete=False) as rules:
        for a, b in [("Ａ", "A"), ("ｆ", "f"), ("ｕ", "u"), ("ｌ", "l"), ("ｗ", "w"), ("ｉ", "i"), ("ｄ", "d"), ("ｔ", "t"), ("ｈ", "h"),
                     ("ﬁ", "fi"), ("\u00a0", " "), ("\u2003", " "), ("\t", " "), ("\n", " "), ("\u200b", "")]:
            print(" ".join(f"{ord(c):X}" for c in a), " ".join(f"{ord(c):X}" for c in b), sep="\t", file=rules)
    plain = dict(normalization_rule_name="identity", remove_extra_whitespaces=False)
    kinds = {
        "bpe": ("llama", dict(model_type="bpe", vocab_size=700, byte_fallback=True, character_coverage=0.99, **plain)),
        "bpe_without_prefix": ("llama", dict(model_type="bpe", vocab_size=700, byte_fallback=True, character_coverage=0.99,
                                             add_dummy_prefix=False, **plain)),
        "unigram_with_rules": ("t5", dict(model_type="unigram", vocab_size=210, normalization_rule_tsv=rules.name)),
        "unigram_with_bytes": ("t5", dict(model_type="unigram", vocab_size=450, byte_fallback=True, character_coverage=0.99, **plain)),
    }
    out = {name: describe(kind, train(**options), options) for name, (kind, options) in kinds.items()}
    path = Path(__file__).parent.parent / "fixtures/text/sentencepiece.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, vocabulary in out.items():
        fields = []
        for key, value in vocabulary.items():
            if key == "cases":
                value = "[\n" + ",\n".join("    " + json.dumps(case, ensure_ascii=False) for case in value) + "]"
            else:
                value = json.dumps(value, ensure_ascii=False)
            fields.append(f"  {json.dumps(key)}: {value}")
        lines.append(f"{json.dumps(name)}: {{\n" + ",\n".join(fields) + "}")
    path.write_text("{\n" + ",\n".join(lines) + "}\n")


main()
