"""Chat to tokens, token in and token out.

What the model sampled is never decoded and encoded again: the chat template renders the first prompt and,
after each turn, only the seam (end of the turn, observation, start of the next turn), found once by rendering
a conversation around a sentinel.
"""

from functools import lru_cache
from typing import Any

from palestra.envs.errors import PalestraError

NO_SYSTEM = "palestra: no system turn"
"""A template that says this in a comment gets no instructions: its model knows the protocol."""
_PROMPTS_KEPT = 64
"""All episodes of a group begin with the same prompt, one after the other."""
_TURN = "PalestraTurnSentinel"
_OBSERVATION = "PalestraObservationSentinel"


class ChatCodec:
    """Renders prompts and seams with a tokenizer's chat template.

    Attributes:
        syntax: In which the template writes tool calls (`tool_syntax`).
        stop_ids: Ids that end an assistant turn.
        pad_id: Id to pad batches with.

    Raises:
        PalestraError: The tokenizer has no chat template, or one that does not keep the assistant's text.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise PalestraError(
                f"the tokenizer of '{tokenizer.name_or_path}' has no chat template; "
                "set one (tokenizer.chat_template) and save the tokenizer beside the model"
            )
        self.tokenizer = tokenizer
        self.syntax = tool_syntax(tokenizer.chat_template)
        self._system_ok = self._keeps(_TURN, [{"role": "system", "content": _TURN}, {"role": "user", "content": "x"}])
        self._seams = {role: self._find_seam(role) for role in ("user", "tool")}
        self._no_system = NO_SYSTEM in tokenizer.chat_template
        self._control = [token for token in tokenizer.all_special_tokens if token]
        self.end_id = self._end_of_turn()
        self.stop_ids = frozenset({self.end_id, tokenizer.eos_token_id} - {None})
        pad = tokenizer.pad_token_id
        self.pad_id: int = pad if pad is not None else self.end_id
        self._prompt = lru_cache(_PROMPTS_KEPT)(self._new_prompt)

    def start(self, system: str, observation: str) -> list[int]:
        """Return the prompt ids of a new episode, up to where the first assistant turn begins."""
        return list(self._prompt(system, observation))

    def seam(self, role: str, observation: str, ended: bool) -> list[int]:
        """Return the ids between one assistant turn and the next.

        Args:
            role: `tool` or `user`, who speaks; a template without tool turns gets a user turn.
            observation: What the environment answered.
            ended: Whether the model sampled its end-of-turn token; if not, the seam begins with one.
        """
        before, after = self._seams[role]
        if any(token in observation for token in self._control):
            # A tool's output must not be able to end a turn or begin one.
            ids = [*self._encode(before), *self._encode(observation, literal=True), *self._encode(after)]
        else:
            ids = self._encode(before + observation + after)
        if self.end_id in ids[:3]:  # some templates put a blank before the end of a turn
            ids = ids[ids.index(self.end_id) :]
        else:
            ids.insert(0, self.end_id)
        return ids[1:] if ended else ids

    def decode(self, ids: list[int]) -> str:
        """Return a sampled turn as text, without its end-of-turn token."""
        if ids and ids[-1] in self.stop_ids:
            ids = ids[:-1]
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def encode_turn(self, text: str) -> list[int]:
        """Return the ids of a turn that was written rather than sampled, its end-of-turn token included."""
        return [*self._encode(text), self.end_id]

    def _new_prompt(self, system: str, observation: str) -> list[int]:
        return self._encode(self._render(self._opening(system, observation), generate=True))

    def _opening(self, system: str, observation: str) -> list[dict[str, str]]:
        if not system or self._no_system:
            return [{"role": "user", "content": observation}]
        if self._system_ok:
            return [{"role": "system", "content": system}, {"role": "user", "content": observation}]
        return [{"role": "user", "content": f"{system}\n\n{observation}"}]

    def _role(self, role: str) -> str:
        return "user" if role == "tool" and not self._tool_ok else role

    def _keeps(self, content: str, messages: list[dict[str, str]]) -> bool:
        """Whether the template takes these messages and does not drop the one that says `content`."""
        try:
            return content in self._render(messages, generate=False)
        except Exception:  # templates refuse roles by raising whatever they like
            return False

    def _find_seam(self, role: str) -> tuple[str, str]:
        turn = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _TURN}]
        if role == "tool":
            self._tool_ok = self._keeps(_OBSERVATION, [*turn, {"role": "tool", "content": _OBSERVATION}])
        text = self._render([*turn, {"role": self._role(role), "content": _OBSERVATION}], generate=True)
        _, found, rest = text.partition(_TURN)
        before, also_found, after = rest.partition(_OBSERVATION)
        if not (found and also_found):
            raise PalestraError(
                f"the chat template of '{self.tokenizer.name_or_path}' drops assistant or {role} text; "
                "multi-turn episodes need a template that keeps both"
            )
        return before, after

    def _end_of_turn(self) -> int:
        before, _ = self._seams["user"]
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        for token in self._encode(before):
            if token in special:
                return token
        if self.tokenizer.eos_token_id is None:
            raise PalestraError(
                f"the tokenizer of '{self.tokenizer.name_or_path}' has no end-of-sequence token and its chat template "
                "ends turns with none; set tokenizer.eos_token"
            )
        return int(self.tokenizer.eos_token_id)

    def _render(self, messages: list[dict[str, str]], *, generate: bool) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate))

    def _encode(self, text: str, *, literal: bool = False) -> list[int]:
        """Encode text; `literal` reads the names of special tokens as mere characters."""
        return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=literal))


def tool_syntax(template: str) -> str:
    """Return the syntax in which a chat template writes tool calls, hence its model: see `toolcalls.SYNTAXES`.

    `hermes` also where a template writes none, or in a syntax that is not ours.
    """
    if "<function=" in template and "<parameter=" in template:
        return "qwen-coder"
    return "llama" if "<|start_header_id|>" in template and '"parameters": ' in template else "hermes"
