"""SentencePiece's file as a tokenizer, as XLM-RoBERTa's class in transformers reads it (microsoft/trocr-small-*)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from vlm.errors import how_to_install
from vlm.weights import CheckpointError

FILE = "sentencepiece.bpe.model"
# fairseq's special tokens come first; the file's own three, which stand there, are passed over.
_FIRST, _LAST = ("<s>", "<pad>", "</s>", "<unk>"), "<mask>"
_UNIGRAM = 1


def read_pieces(file: Path) -> Backend:
    """A unigram model's pieces under fairseq's numbers. Raises CheckpointError where it is none or cannot be read."""
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError:
        raise CheckpointError(
            f"{file} needs the packages sentencepiece and protobuf; {how_to_install('sentencepiece')}"
        ) from None
    formats: Any = sentencepiece_model_pb2  # whose classes are made as it is loaded
    proto = formats.ModelProto()
    try:
        proto.ParseFromString(file.read_bytes())
    except Exception as error:  # protobuf has an exception of its own for each of its runtimes
        raise CheckpointError(f"{file} cannot be read: {error}") from None
    if proto.trainer_spec.model_type != _UNIGRAM:
        raise CheckpointError(f"{file} is no unigram model, which is the only kind that is read")
    pieces = [(name, 0.0) for name in _FIRST]
    pieces += [(piece.piece, piece.score) for piece in proto.pieces[3:]]
    backend = Backend(models.Unigram([*pieces, (_LAST, 0.0)], unk_id=_FIRST.index("<unk>")))
    if charsmap := proto.normalizer_spec.precompiled_charsmap:
        backend.normalizer = normalizers.Precompiled(charsmap)
    spaces = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), spaces])
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    specials = [AddedToken(name, special=True, normalized=False) for name in (*_FIRST, _LAST)]
    backend.add_special_tokens(specials)
    return backend
