"""Makes tests/fixtures/text/chat.json: the templates of tests/fixtures/text/templates/ as transformers renders them.

    pip install transformers==5.23.0 jinja2 && python tests/reference/chat_templates.py
"""

import json
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

FOLDER = Path(__file__).parent.parent / "fixtures/text"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}

TOOLS = [{"type": "function", "function": {
    "name": "weather", "description": "Today's weather in a \"city\" <here> – é",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer", "default": 1}}}}}]

CHATS = {
    "one_turn": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello! How are you?"}],
    "system_and_two_turns": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "  What is 2+2?  "}, {"role": "assistant", "content": "  4  "},
        {"role": "user", "content": "Sûr? 🙂"}, {"role": "assistant", "content": "Yes.\n\nIt is 4."}],
    "question": [{"role": "user", "content": "Why is the sky blue?"}],
    "thoughts": [
        {"role": "user", "content": "A"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nB"},
        {"role": "user", "content": "C"}, {"role": "assistant", "content": "<think>\nso\n</think>\n\nD"}],
    "not_alternating": [{"role": "user", "content": "A"}, {"role": "user", "content": "B"}],
    "tools": [
        {"role": "user", "content": "Weather in Zürich?"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2}}}]},
        {"role": "tool", "content": "{\"sun\": true}"},
        {"role": "assistant", "content": "Sunny."}],
}


def render(template, chat, tools, prompt):
    case = {"template": template, "chat": chat, "tools": tools, "add_generation_prompt": prompt}
    source = (FOLDER / "templates" / f"{template}.jinja").read_text()
    marked = template == "generation"
    try:
        rendered, spans = render_jinja_template(
            [CHATS[chat]], tools=TOOLS if tools else None, chat_template=source, add_generation_prompt=prompt,
            return_assistant_tokens_mask=marked, **TOKENS)
        case["rendered"] = rendered[0]
        if marked:
            case["spans"] = spans[0]
    except Exception as e:
        case["error"] = str(e)
    return case


def main():
    cases = []
    for path in sorted((FOLDER / "templates").glob("*.jinja")):
        if path.stem == "date":
            continue
        for chat in CHATS:
            for tools in [False, True] if chat == "tools" else [False]:
                for prompt in [False, True]:
                    cases.append(render(path.stem, chat, tools, prompt))
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    head = json.dumps({"tokens": TOKENS, "tools": TOOLS, "chats": CHATS}, ensure_ascii=False)[1:-1]
    (FOLDER / "chat.json").write_text("{" + head + ',\n"cases": [\n' + lines + "\n]}\n")


main()
