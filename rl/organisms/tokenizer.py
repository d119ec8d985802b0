"""The organisms' tokenizer: one token per character, and one per piece of markup."""

from importlib.resources import files

from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, END = "<|pad|>", "<|unknown|>", "<|end|>"
ROLES = ("<|user|>", "<|assistant|>", "<|tool|>")
MARKUP = ("<answer>", "</answer>", "<tool_call>", "</tool_call>")
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))


def character_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: printable ASCII, the markup of turns, answers and tool calls, and a chat template.

    The template has `{% generation %}` marks and tool turns, and leaves the system prompt out: an organism's
    protocol is in its weights.
    """
    vocabulary = {token: i for i, token in enumerate([PAD, UNKNOWN, END, *ROLES, *MARKUP, *CHARACTERS])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(t, special=True) for t in (PAD, UNKNOWN, END, *ROLES)])
    backend.add_tokens([AddedToken(t, special=False, normalized=False) for t in MARKUP])
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, pad_token=PAD, unk_token=UNKNOWN, eos_token=END, padding_side="left"
    )
    template = files("palestra.rl.organisms").joinpath("chat_template.jinja").read_text(encoding="utf-8")
    tokenizer.chat_template = template
    return tokenizer
