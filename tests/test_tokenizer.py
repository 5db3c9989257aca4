from __future__ import annotations

import copy
import pickle
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models

from vlm.tokenizer import TextConfig, Tokenizer

TEXTS = ["a dog and a dog run", "two men in red shirts", "what is the dog doing?"] * 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, vocab_size=320)


CHARACTERS = st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]))
SPECIALS = st.sampled_from(["<pad>", "<end>", "<caption>", "<question>", "<answer>"])


@given(text=st.lists(CHARACTERS | SPECIALS, max_size=6).map("".join))
def test_any_text_survives(tokenizer, text):
    # NFKC and lower-casing are the tokeniser's normalisation; it keeps everything else.
    expected = unicodedata.normalize("NFKC", text.strip()).lower().strip()
    assert unicodedata.normalize("NFKC", tokenizer.decode(tokenizer.encode(text))) == (
        unicodedata.normalize("NFKC", expected)
    )


def test_words_that_occur_twice_have_tokens_of_their_own(tokenizer):
    ids = tokenizer.encode("a dog and a dog")
    first, second = (w for w in tokenizer.words(ids) if w.text == "dog")
    assert set(first.tokens).isdisjoint(second.tokens)
    assert tokenizer.decode([ids[i] for i in second.tokens]) == "dog"


@given(text=st.from_regex(r"[a-zé]{1,8}( [a-z日]{1,8}){0,6}[?.]?", fullmatch=True))
def test_every_token_belongs_to_a_word_and_words_are_in_order(tokenizer, text):
    ids = tokenizer.encode(text)
    spans = tokenizer.words(ids)
    decoded = tokenizer.decode(ids)
    assert [decoded[s.start : s.stop] for s in spans] == [s.text for s in spans]
    assert " ".join(s.text for s in spans).replace(" ?", "?").replace(" .", ".") == decoded
    assert sorted(token for span in spans for token in span.tokens) == list(range(len(ids)))


def test_punctuation_is_a_word_of_its_own(tokenizer):
    ids = tokenizer.encode("what is it?")
    assert [w.text for w in tokenizer.words(ids)] == ["what", "is", "it", "?"]


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json", TextConfig())
    assert loaded.encode("two dogs") == tokenizer.encode("two dogs")
    assert loaded.vocab_size == tokenizer.vocab_size


def test_a_missing_special_token_is_named(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="<start>"):
        Tokenizer.load(tmp_path / "tokenizer.json", TextConfig(caption="<start>"))


def word_piece() -> Tokenizer:
    """As BERT's, whose decoder joins marks to their neighbours."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, pre_tokenizers

    pieces = [
        "[PAD]",
        "[END]",
        "[CAP]",
        "[UNK]",
        "dog",
        "do",
        "not",
        "n",
        "'",
        "t",
        "s",
        "-",
        "##s",
    ]
    pieces += ["##y", ".", ",", "?", "!", "'s", "n't", "don", "red"]
    backend = Backend(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(["[PAD]", "[END]", "[CAP]"])
    return Tokenizer(backend, TextConfig("[PAD]", "[END]", "[CAP]", "", ""))


def pruned() -> Tokenizer:
    """As a text encoder's, whose decoder joins what BERT splits."""
    from training.recipe.word_pieces import prune

    backend = word_piece().backend
    pieces = backend.get_vocab()
    more = ["##clock", "o", "clock", "##0", "0", "5", "000", ":", "/", "$", "#", "%", "(", ")", ";"]
    pieces |= {piece: len(pieces) + i for i, piece in enumerate(more)}
    backend.model = models.WordPiece(pieces, unk_token="[UNK]")
    words = ["dog's", "do not", "n't", "don't", "o'clock", "5.0", "10,000", "$#5%:/()-", "re'd."]
    return prune(backend, [*words, *"yotsn!?", "red dogs"], 100)


@pytest.fixture(scope="module", params=["bundled", "trained", "word pieces", "pruned"])
def any_tokenizer(request, tokenizer) -> Tokenizer:
    if request.param == "bundled":
        from vlm.weights.hub import bundled_folder

        return Tokenizer.load(bundled_folder() / "small" / "tokenizer.json", TextConfig())
    return {"trained": lambda: tokenizer, "word pieces": word_piece, "pruned": pruned}[
        request.param
    ]()


@pytest.mark.parametrize(
    "copied", [lambda t: t, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))]
)
def test_special_tokens_in_a_text_are_plain_text(any_tokenizer, copied):
    tokenizer, config = copied(any_tokenizer), any_tokenizer.config
    specials = [t for t in (config.pad, config.end, config.question, config.answer) if t]
    ids = tokenizer.encode(f"red dog {' '.join(specials)} dog")
    assert not {tokenizer.backend.token_to_id(token) for token in specials} & set(ids)
    spelt = [w.text for w in tokenizer.words(ids)]
    assert spelt[:2] == ["red", "dog"]
    assert spelt[-1] == "dog"
    if isinstance(tokenizer.backend.model, models.BPE):  # that of single bytes can spell any word
        assert {"end", "answer"} <= set(spelt)


@given(data=st.data())
def test_settled_words_are_those_of_every_continuation(any_tokenizer, data):
    token = st.integers(0, any_tokenizer.vocab_size - 1)
    ids = data.draw(st.lists(st.one_of(token, st.integers(0, 270)), min_size=1, max_size=14))
    ids = [min(i, any_tokenizer.vocab_size - 1) for i in ids]
    words = any_tokenizer.words(ids)
    for length in range(len(ids) + 1):
        settled = any_tokenizer.settled(ids[:length])
        assert [(w.text, w.tokens) for w in settled] == [
            (w.text, w.tokens) for w in words[: len(settled)]
        ]


def test_all_but_the_last_word_are_settled(tokenizer):
    ids = tokenizer.encode("a red t-shirt and a dog")
    assert [w.text for w in tokenizer.settled(ids)] == ["a", "red", "t-shirt", "and", "a"]
