r"""The one lenient answer extractor, shared by all environments and models.

No model is marked wrong for another model's format: `<answer>`, `\boxed{}`, a JSON object's
`answer`/`output`/`result` field and a `submit` tool call all count (the last of the first kind found).
"""

import json
import re

from palestra.envs.syntax.fenced import last_block

_BOXED = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile("[{}]")
_ARGUMENTS = re.compile(r"""["'](?:arguments|parameters)["']\s*:\s*\Z""")
"""What stands before the arguments of a tool call, whose fields are no answers."""
_FIELDS = ("answer", "final_answer", "output", "result")
_MARKED = re.compile(
    r"\\(?:boxed|text|mathrm)\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}|\*\*([^*\n]+)\*\*|`([^`\n]+)`", re.DOTALL
)
_PLAIN = re.compile(r"(?!\s*\[)[^<{`]*<answer>\s*+(?![\\*])([^<`]*)</answer>[^<`]*").fullmatch
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
    found = _PLAIN(text) if len(text) <= MAX_ANSWER else None
    return found[1].strip() if found else None


def _unwrapped(answer: str) -> str:
    r"""Take off what only marks an answer: `\boxed{}`, `\text{}`, bold and code marks around the whole of it."""
    for _ in range(3):
        marked = _MARKED.fullmatch(answer)
        if marked is None:
            break
        answer = next(group for group in marked.groups() if group is not None).strip()
    return answer


def _last_tag(text: str) -> str | None:
    folded = text.lower() if text.isascii() else "".join(c.lower() if c.isascii() else c for c in text)
    end = folded.rfind("</answer>")
    start = folded.rfind("<answer>", 0, max(end, 0))
    return text[start + len("<answer>") : end] if start >= 0 else None


def _last_boxed(text: str) -> str | None:
    openings = list(_BOXED.finditer(text))
    if not openings:
        return None
    depth = 0
    begin = openings[-1].end()
    for brace in _BRACE.finditer(text, begin):
        if brace[0] == "{":
            depth += 1
        elif depth == 0:
            return text[begin : brace.start()]
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
                    return str(value[field])
        position = text.rfind("{", 0, position)
    return None
