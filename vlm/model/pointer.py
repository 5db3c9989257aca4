"""A pointer over the tokens of passages: which of them a text copies next, or none.

After See, Liu and Manning (ACL 2017), here in logits, as tied embeddings allow: a name which no text has had before
comes out right. A copy begins where a word does, and goes on where what was said last stands before, as induction heads
do (Olsson et al. 2022), so that no name loses its first or a middle part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from vlm.model.grounding import Grounding

NO_TOKEN = -1  # behind a passage's last token
NO_PASSAGE = -1  # of a slot that is none of a passage's
RUN = 3  # tokens of the text's end that add to a slot's score where they stand before it
LONGEST = 8  # tokens of the text's end that tell which of several places it was copied from
# How many times as much a copy counts that goes on within a word: no name is to change half way.
FIRMNESS = 2.0


class Pointer(nn.Module):
    """Weights on slots of passages, and the embedding of what they point at.

    `inside` `(V,)` is True of tokens that go on within a word: such a slot is copied only where all of the text's last
    word stands before it, and more of the text's end than before all others. `goes_on` `(2, RUN)` is what each further
    token of that adds to a score, the second row inside words. Where the match is at such a slot, copying nothing is
    less likely by `insist`.
    """

    inside: Tensor

    def __init__(self, width: int, channels: int, vocab_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, channels)
        self.key = nn.Linear(width, channels)
        self.key_before = nn.Linear(width, channels, bias=False)
        self.trust = nn.Parameter(torch.ones(()))  # in the match
        self.goes_on = nn.Parameter(torch.tensor([[0.0, 0.5, 0.5], [8.0, 1.0, 1.0]]))
        self.nothing = nn.Parameter(torch.zeros(channels))  # the key of copying nothing
        self.insist = nn.Parameter(torch.tensor(4.0))
        self.reluctance = nn.Parameter(torch.tensor(6.0))  # by how much that comes first
        self.strength = nn.Parameter(torch.ones(()))  # of a copied word's embedding
        self.register_buffer("inside", torch.zeros(vocab_size, dtype=torch.bool))

    def keys(self, slots: Tensor) -> Tensor:
        """Keys `(B, N, T, K)` of the slots of passages, `(B, N, T, D)`.

        What stood before a token is a part of its key: to go on with a span is to find what was said last.
        """
        return self.key(slots) + self.key_before(F.pad(slots, (0, 0, 1, -1)))

    def forward(self, x: Tensor, near: Tensor, said: Tensor, grounding: Grounding) -> Tensor:
        """The embedding of what is pointed at, `(R, T, D)`, shorter the more that is nothing; see `weights`."""
        weights = self.weights(x, near, said, grounding)
        inside = self.inside[grounding.ids.clamp(min=0)][:, None]  # (B, 1, P)
        weights = weights * torch.where(inside, FIRMNESS, 1.0)
        return self.strength * (weights @ grounding.pointer[1][:, 0]).view_as(x)

    def weights(self, x: Tensor, near: Tensor, said: Tensor, grounding: Grounding) -> Tensor:
        """The weights `(B, n * T, P)` on the passages' slots for states `(B * n, T, D)`; up to 1 in sum.

        The match `near` `(B * n, T, P)` is added to their scores. `said` `(B * n, L)` are the text's tokens, of which
        the last T are those of the states.
        """
        keys, ids, numbers = grounding.pointer[0][:, 0], grounding.ids, grounding.numbers
        queries = self.query(self.norm(x)) / keys.shape[-1] ** 0.5
        queries = queries.reshape(len(keys), -1, keys.shape[-1])  # (B, n * T, K)
        near = near.reshape(len(keys), -1, keys.shape[1])
        scores = queries @ keys.transpose(1, 2) + self.trust * near
        there = (numbers != NO_PASSAGE)[:, None]
        inside = self.inside[ids.clamp(min=0)]  # (B, P)
        more = self.goes_on[inside.long()][:, None]  # (B, 1, P, RUN)
        run = torch.zeros_like(scores, dtype=torch.int)
        for back, alike in enumerate(standing_before(said, x.shape[1], ids, numbers)):
            run = run + alike * there
            if back < RUN:
                scores = scores + alike * more[..., back]
        word = self._last_word(said)[:, -x.shape[1] :].reshape(len(keys), -1, 1)  # (B, n * T, 1)
        following = (run >= word) & (run == run.amax(dim=-1, keepdim=True))
        unfinished = inside[:, None] & following
        scores = scores.masked_fill(~there | (inside[:, None] & ~following), float("-inf"))
        close = (near - near.amax(dim=-1, keepdim=True)).exp()
        nothing = self.reluctance + queries @ self.nothing
        nothing = nothing - self.insist * (close * unfinished).amax(dim=-1)
        return torch.cat([scores, nothing[..., None]], dim=-1).softmax(dim=-1)[..., :-1]

    def _last_word(self, said: Tensor) -> Tensor:
        """How many tokens the word has so far that ends with each of a text's `(B * n, L)`, up to LONGEST."""
        places = torch.arange(said.shape[1], device=said.device).expand_as(said)
        begin = places.masked_fill(self.inside[said], 0).cummax(dim=1).values
        return (places - begin + 1).clamp(max=LONGEST)


def standing_before(said: Tensor, length: int, ids: Tensor, numbers: Tensor) -> Iterator[Tensor]:
    """For 1 to LONGEST tokens, whether as many stand before each slot as at the text's end, `(B, n * T, P)`.

    `said` `(B * n, L)` are the text's tokens: each of the last `length` is an end. `ids` and `numbers` `(B, P)` are
    the slots' tokens and passages.
    """
    alike = torch.ones((), dtype=torch.bool, device=ids.device)
    padded = F.pad(said, (LONGEST - 1, 0), value=NO_TOKEN - 1)
    for back in range(1, LONGEST + 1):
        own = F.pad(numbers, (back, 0), value=NO_PASSAGE)[:, :-back] == numbers
        before = F.pad(ids, (back, 0), value=NO_TOKEN)[:, :-back].where(own, NO_TOKEN)  # (B, P)
        stop = padded.shape[1] - back + 1
        last = padded[:, stop - length : stop].reshape(len(ids), -1, 1)  # (B, n * T, 1)
        alike = alike & (last == before[:, None])
        yield alike
