r"""The one lenient answer extractor, shared by all environments and models.

No model is marked wrong for another model's format: `<answer>`, `\boxed{}`, a JSON object's
`answer`/`output`/`result` field and a `submit` tool call all count (the last of the first kind found).
"""

import json
import re
from decimal import Decimal
from typing import Any

from palestra.envs.expressions import unwrap
from palestra.envs.syntax.fenced import last_block

_BOXED = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile("[{}]")
_ARGUMENTS = re.compile(r"""["'](?:arguments|parameters)["']\s*:\s*\Z""")
"""What stands before the arguments of a tool call, whose fields are no answers."""
_FIELDS = ("answer", "final_answer", "output", "result")
_MARKED = re.compile(
    r"\\(?:text|mathrm)\s*\{([^{}]*)\}|\*\*([^*\n]+)\*\*|`([^`\n]+)`|```(?:[\w+-]*[ \t]*\r?\n)?([^`]*)```"
)
_PLAIN = re.compile(r"(?!\s*\[)[^<{`]*<answer>\s*+(?![\\*$])([^<`]*)</answer>[^<`]*").fullmatch
"""One answer that is not marked, and nothing that could be a call, thoughts or a block of code."""
MAX_ANSWER = 10_000
"""Longer texts are no answer: graders may assume short input."""


def extract_answer(text: str, *, fenced: bool = False) -> str | None:
    r"""Return the final answer that `text` states, stripped, or None.

    Tried in this order: the last `<answer>...</answer>`, with `fenced` the last fenced block of code, the last
    `\boxed{...}` with balanced braces, the last JSON object with an answer field. An answer longer than 10,000
    characters is none.
    """
    if "<think>" in text or "</think>" in text:  # what a model thinks, to the end or not, is no answer
        text = text.rpartition("</think>")[2].partition("<think>")[0]
    found = _last_tag(text) if "<" in text else None
    if found is not None and len(found) <= MAX_ANSWER:
        return _unwrapped(found.strip())
    if fenced and "```" in text:
        found = last_block(text)
        if found is not None and len(found) <= MAX_ANSWER:
            return found.strip()
    if "{" not in text:
        return None
    for extract in (_last_boxed, _last_json_field):
        found = extract(text)
        if found is not None and len(found) <= MAX_ANSWER:
            return _unwrapped(found.strip())
    return None


def plain_answer(text: str) -> str | None:
    """Return what `extract_answer` does if `text` is, at a glance, words and one answer without a call; else None.

    Most turns that answer are so, and need no closer look.
    """
    if len(text) > MAX_ANSWER:
        return None
    if text[:8] == "<answer>" and text[-9:] == "</answer>" and (word := text[8:-9]).isalnum():
        return word
    found = _PLAIN(text)
    return found[1].strip() if found else None


def answer_of(value: Any) -> str:
    """Return the answer that a value of JSON states: a text unwrapped, a number in full, JSON for the rest."""
    if isinstance(value, float):
        value = format(Decimal(repr(value)), "f")
    elif isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False)
    return _unwrapped(str(value)[:MAX_ANSWER].strip())


def _unwrapped(answer: str) -> str:
    r"""Take off what only marks an answer: `\boxed{}`, `\text{}`, bold or code marks, a fence around all of it."""
    for _ in range(3):
        inside = _whole_box(answer)
        if inside is None and (marked := _MARKED.fullmatch(answer)):
            inside = next(group for group in marked.groups() if group is not None)
        if inside is None:
            break
        answer = inside.strip()
    return answer


def _whole_box(text: str) -> str | None:
    r"""Return what is in a `\boxed{}` that is all there is, but for the marks of formulas and a full stop."""
    if "boxed" not in text:
        return None
    text = unwrap(text)
    opening = _BOXED.match(text)
    return text[opening.end() : -1] if opening and _closing(text, opening.end()) == len(text) - 1 else None


def _last_tag(text: str) -> str | None:
    folded = text.lower() if text.isascii() else "".join(c.lower() if c.isascii() else c for c in text)
    start = folded.rfind("<answer>", 0, max(folded.rfind("</answer>"), 0))
    return text[start + len("<answer>") : folded.find("</answer>", start)] if start >= 0 else None


def _last_boxed(text: str) -> str | None:
    openings = list(_BOXED.finditer(text))
    if not openings:
        return None
    begin = openings[-1].end()
    end = _closing(text, begin)
    return None if end is None else text[begin:end]


def _closing(text: str, begin: int) -> int | None:
    """Return where the brace is that closes the one before `begin`."""
    depth = 0
    for brace in _BRACE.finditer(text, begin):
        if brace[0] == "{":
            depth += 1
        elif depth == 0:
            return brace.start()
        else:
            depth -= 1
    return None


def _last_json_field(text: str) -> str | None:
    decoder = json.JSONDecoder()
    text = text[-3 * MAX_ANSWER :]  # an answer is no longer, and a failed attempt reads all that stands before it
    position = text.rfind("{")
    for _ in range(64):  # a text of nothing but braces must not cost quadratic time
        if position < 0:
            return None
        try:
            value, _ = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict) and not _ARGUMENTS.search(text, max(0, position - 40), position):
            for field in _FIELDS:
                if isinstance(value.get(field), str | int | float) and not isinstance(value[field], bool):
                    return answer_of(value[field])
        position = text.rfind("{", 0, position)
    return None
