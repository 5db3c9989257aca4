"""The vocabulary of a pretrained text encoder, cut down to what the training texts use."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from vlm.tokenizer import TextConfig, Tokenizer

from .recipe import RecipeError

UNKNOWN, INSIDE = "[UNK]", "##"  # BERT's: what no piece spells, and what continues a word
CHARACTERS = sorted(set(string.printable.lower()) - set(string.whitespace))

# BERT splits words at marks. What of it is written as one word again, as a regular expression and what replaces it.
_JOINED = (
    (r"(?<=\w) - (?=\w)", "-"),  # t-shirt
    (r"(?<=\w) / (?=\w)", "/"),
    (r"(?<=\w) ' (?=(?:s|t|d|m|re|ve|ll|clock)\b)", "'"),  # dog's, don't
    (r" (?=[;:)])", ""),
    (r"(?<=\() ", ""),
    (r"(?<=\d): (?=\d)", ":"),  # 10:30
    (r"(?<=\d)\. (?=\d)", "."),  # 3.5; the decoder itself has taken the space before the mark
    (r"(?<=\d), (?=\d{3}\b)", ","),
    (r"(?<=[$#]) (?=\d)", ""),
    (r"(?<=\d) (?=%)", ""),
)


def prune(
    original: Backend,
    texts: Iterable[str],
    vocab_size: int,
    names: Sequence[str] = (),
    config: TextConfig | None = None,
) -> Tokenizer:
    """A tokeniser of the `vocab_size` pieces that `texts` use most, under new ids, and our special tokens.

    The pieces of `names` and the single characters of English are always among them, so that such words can be
    spelled; what no piece spells is `UNKNOWN`, which is never shown. Give it training texts only. Raises RecipeError
    where `vocab_size` is too small.
    """
    config = config or TextConfig()
    known = original.get_vocab()
    original.encode_special_tokens = True  # "[SEP]" in a text is text, as Tokenizer reads it
    used: Counter[str] = Counter()
    for text in texts:
        used.update(original.encode(text, add_special_tokens=False).tokens)
    spelling = [piece for c in CHARACTERS for piece in (c, INSIDE + c) if piece in known]
    named = [p for name in names for p in original.encode(name, add_special_tokens=False).tokens]
    specials = [config.pad, config.end, config.caption, config.question, config.answer, UNKNOWN]

    kept = set(spelling) | set(named)
    room = vocab_size - len(specials)
    if len(kept) > room:
        raise RecipeError(
            f"decoder.vocab_size must be at least {len(specials) + len(kept)}, which single characters and the names "
            f"of tags take, not {vocab_size}"
        )
    for piece, _ in used.most_common():
        if len(kept) == room:
            break
        kept.add(piece)
    kept.discard(UNKNOWN)

    pieces = [*specials, *sorted(kept, key=known.__getitem__)]
    backend = Backend(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token=UNKNOWN))
    backend.normalizer = original.normalizer
    # A sign that nothing spells, such as an emoji, leaves the word that it is written to alone.
    signs = pre_tokenizers.Split(Regex(r"\p{S}"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([original.pre_tokenizer, signs])
    joined = [decoders.Replace(Regex(pattern), content) for pattern, content in _JOINED]
    backend.decoder = decoders.Sequence([decoders.WordPiece(INSIDE), decoders.Fuse(), *joined])
    backend.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    return Tokenizer(backend, config)
