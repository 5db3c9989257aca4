"""Prompts and a projected memory to words: greedy, beam search and sampling, one token at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlm.model.decoder import Cache, Decoder, Projected
from vlm.nudges import Nudge, nudged
from vlm.options import Options
from vlm.sampling import allowed, draw, seeded_chances

_NEVER = -1e9  # a score no hypothesis reaches; finite, so that sums of it stay numbers

# A search for several prompts: yields their hypotheses, and is sent the positions of those that go on, None for all.
Search = Generator[list[list["Hypothesis"]], Sequence[int] | None, None]


@dataclass(frozen=True)
class Hypothesis:
    """Words in the making: ids without the end token, and log-probabilities (natural) with the end's when finished.

    `score` is what candidates are ranked by, of the model's own probabilities; `logprobs` are calibrated, of logits
    that were divided by the `calibration` of the search, before its temperature and penalties.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    score: float
    finished: bool


def stream(
    decoder: Decoder,
    projected: Projected,
    prompts: Sequence[Sequence[int]],
    end: int,
    pad: int,
    options: Options,
    seeds: Sequence[int] | None = None,
    wanted: Callable[[int], bool] = lambda prompt: True,
    calibration: float = 1.0,
    nudges: Sequence[Nudge] = (),
) -> Iterator[list[list[Hypothesis]]]:
    """Yield, after each token, every prompt's hypotheses that may still win, best first; the last yield is the result.

    Prompts of one image follow each other, and every image has as many: `len(prompts)` is a multiple of the
    projection's batch. `seeds`, one a prompt, stand in for `options.seed`, which all prompts share. The words of a
    single candidate, greedy or sampled, never change once yielded; of beams those stay on which all agree.
    `calibration` changes the probabilities that words are given, and no word; `nudges`, one a prompt, change what is
    chosen, and no probability that is told.
    A prompt that is not `wanted`, asked by its number after each token, leaves the batch with the hypotheses it has. So
    do prompts that are done, as soon as they are a quarter of it: leaving costs the others a copy of their memory.
    Runs without a graph. Raises ValueError when a prompt leaves no room for a word.
    """
    room = decoder.config.max_length - max(len(prompt) for prompt in prompts)
    if room < 1:
        raise ValueError(
            f"the question is too long: {max(map(len, prompts))} tokens, and the decoder has room for "
            f"{decoder.config.max_length - 1}"
        )
    options = replace(
        options,
        max_tokens=min(options.max_tokens, room),
        min_tokens=min(options.min_tokens, room),
    )
    nudges = list(nudges) or [Nudge()] * len(prompts)
    if options.beams > 1:
        steps = _beam(decoder, projected, prompts, end, pad, options, calibration, nudges)
    else:
        chances = [options.seed] * len(prompts) if seeds is None else seeds
        steps = _ancestral(
            decoder, projected, prompts, end, pad, options, chances, calibration, nudges
        )
    results: list[list[Hypothesis]] = [[] for _ in prompts]
    active = list(range(len(prompts)))
    going: list[int] | None = None
    while active:
        # Entered for each step, so that it does not leak to the caller between yields.
        with decoder.inference():
            try:
                step = steps.send(going)
            except StopIteration:
                return
        for prompt, hypotheses in zip(active, step):
            results[prompt] = hypotheses
        yield list(results)
        done = [all(hypothesis.finished for hypothesis in results[prompt]) for prompt in active]
        if 4 * sum(done) < len(active):
            done = [False] * len(active)
        places = [i for i, prompt in enumerate(active) if not done[i] and wanted(prompt)]
        going = None if len(places) == len(active) else places
        active = [active[place] for place in places]


def generate(
    decoder: Decoder,
    projected: Projected,
    prompts: Sequence[Sequence[int]],
    end: int,
    pad: int,
    options: Options,
    seeds: Sequence[int] | None = None,
    calibration: float = 1.0,
    nudges: Sequence[Nudge] = (),
) -> list[list[Hypothesis]]:
    """Every prompt's finished hypotheses, best first: `stream`, drained."""
    steps = stream(
        decoder,
        projected,
        prompts,
        end,
        pad,
        options,
        seeds,
        calibration=calibration,
        nudges=nudges,
    )
    return deque(steps, maxlen=1).pop()


def _ancestral(
    decoder: Decoder,
    projected: Projected,
    prompts: Sequence[Sequence[int]],
    end: int,
    pad: int,
    options: Options,
    seeds: Sequence[int | None],
    calibration: float,
    nudges: Sequence[Nudge],
) -> Search:
    """Greedy decoding, or independent samples of each prompt."""
    state = _State.start(decoder, projected, prompts, pad, options.candidates)
    count = len(prompts) * options.candidates
    device = state.logits.device
    if options.sample:
        # A generator of its own for each row: a prompt's samples do not depend on what else is in the batch.
        chances = [
            seeded_chances(seed, candidate, options.max_tokens)
            for seed in seeds
            for candidate in range(options.candidates)
        ]
        drawn = torch.stack(chances).to(device)  # (R, max_tokens)
    tokens = torch.empty(count, 0, dtype=torch.long, device=device)
    chosen_logprobs = torch.empty(count, 0, device=device)
    totals = torch.zeros(count, device=device)  # of the model's own log-probabilities
    finished = torch.zeros(count, dtype=torch.bool, device=device)
    for length in range(1, options.max_tokens + 1):
        scores = nudged(state.logits, tokens, nudges, options.candidates)
        scores = allowed(scores, tokens, length, end, options)
        chance = drawn[:, length - 1] if options.sample else None
        chosen = scores.argmax(dim=-1) if chance is None else draw(scores, chance, options)
        chosen = chosen.masked_fill(finished, pad)
        own, calibrated = _logprobs(state.logits, calibration)  # (R, V)
        totals = totals + own.gather(1, chosen[:, None])[:, 0].masked_fill(finished, 0.0)
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)
        chosen_logprobs = torch.cat([chosen_logprobs, calibrated.gather(1, chosen[:, None])], dim=1)
        finished = finished | (chosen == end)
        going = yield _grouped(
            [
                _hypothesis(ids, logs, total, end, done, options)
                for ids, logs, total, done in zip(
                    tokens.tolist(), chosen_logprobs.tolist(), totals.tolist(), finished.tolist()
                )
            ],
            options.candidates,
        )
        if going is not None:
            rows = _rows(going, options.candidates, device)
            state = state.select(going, options.candidates)
            tokens, chosen_logprobs, finished = tokens[rows], chosen_logprobs[rows], finished[rows]
            totals = totals[rows]
            nudges = [nudges[i] for i in going]
            if options.sample:
                drawn = drawn[rows]
        if length == options.max_tokens or bool(finished.all()):
            return
        state = state.step(decoder, tokens[:, -1])


def _beam(
    decoder: Decoder,
    projected: Projected,
    prompts: Sequence[Sequence[int]],
    end: int,
    pad: int,
    options: Options,
    calibration: float,
    nudges: Sequence[Nudge],
) -> Search:
    """Beam search; a prompt stops when its best running beam, ended now, would not beat its worst finished one."""
    beams, count = options.beams, len(prompts)
    state = _State.start(decoder, projected, prompts, pad, beams)
    device, vocab_size = state.logits.device, state.logits.shape[-1]
    tokens = torch.empty(count * beams, 0, dtype=torch.long, device=device)
    token_logprobs = torch.empty(count * beams, 0, device=device)
    running = torch.full((count, beams), _NEVER, device=device)
    running[:, 0] = 0.0  # the beams start equal: only one may branch
    finished: list[list[Hypothesis]] = [[] for _ in prompts]
    open_prompts = [True] * count
    for length in range(1, options.max_tokens + 1):
        own, calibrated = _logprobs(state.logits, calibration)  # (R, V)
        controlled = nudged(state.logits, tokens, nudges, beams)
        controlled = allowed(controlled, tokens, length, end, options)
        ranked = own if controlled is state.logits else controlled.log_softmax(dim=-1)
        # Of twice as many continuations at most half end, so enough are left to go on.
        likely, likely_tokens = ranked.topk(min(2 * beams, vocab_size), dim=1)  # (R, k)
        totals = (running.view(-1, 1) + likely).view(count, -1)  # (P, n * k)
        best, flat = totals.topk(min(2 * beams, totals.shape[1]), dim=1)
        parents = flat // likely.shape[1] + torch.arange(count, device=device)[:, None] * beams
        chosen = likely_tokens.view(count, -1).gather(1, flat)
        grown_tokens = torch.cat([tokens[parents], chosen[..., None]], dim=-1)  # (P, 2 * n, T)
        grown_logprobs = torch.cat(
            [token_logprobs[parents], calibrated[parents, chosen][..., None]], dim=-1
        )
        ends = (chosen == end) | (length == options.max_tokens)
        for prompt in [i for i in range(count) if open_prompts[i]]:
            for rank in ends[prompt, :beams].nonzero().flatten().tolist():
                total = best[prompt, rank].item()
                if total <= _NEVER / 2:
                    continue
                ids = grown_tokens[prompt, rank].tolist()
                logs = grown_logprobs[prompt, rank].tolist()
                score = total / length**options.length_penalty
                done = ids[-1] == end
                finished[prompt].append(
                    Hypothesis(tuple(ids[:-1] if done else ids), tuple(logs), score, done)
                )
            finished[prompt] = sorted(finished[prompt], key=lambda h: -h.score)[:beams]

        running, kept = best.masked_fill(ends, _NEVER * 2).topk(beams, dim=1)
        rows = parents.gather(1, kept).flatten()
        tokens = grown_tokens.gather(1, kept[..., None].expand(-1, -1, length)).flatten(0, 1)
        token_logprobs = grown_logprobs.gather(1, kept[..., None].expand(-1, -1, length)).flatten(
            0, 1
        )
        for prompt in range(count):
            if len(finished[prompt]) == beams:
                hope = running[prompt, 0].item() / length**options.length_penalty
                open_prompts[prompt] = open_prompts[prompt] and hope > finished[prompt][-1].score
        last = length == options.max_tokens or not any(open_prompts)
        if last:
            yield [hypotheses[: options.candidates] for hypotheses in finished]
            return
        going = yield _leading(finished, open_prompts, running, tokens, token_logprobs, options)
        if going is not None:
            own = _rows(going, beams, device)
            tokens, token_logprobs, running = tokens[own], token_logprobs[own], running[going]
            finished, open_prompts = [finished[i] for i in going], [open_prompts[i] for i in going]
            nudges = [nudges[i] for i in going]
            if not any(open_prompts):
                return
            rows = rows[own] - own + torch.arange(len(own), device=device)
            state, count = state.select(going, beams), len(going)
        state = state.step(decoder, tokens[:, -1], rows)


def _leading(
    finished: list[list[Hypothesis]],
    open_prompts: list[bool],
    running: Tensor,
    tokens: Tensor,
    token_logprobs: Tensor,
    options: Options,
) -> list[list[Hypothesis]]:
    """The hypotheses of each prompt that may still win while the search goes on."""
    beams, length = options.beams, tokens.shape[1]
    result = []
    for prompt, done in enumerate(finished):
        if not open_prompts[prompt]:
            result.append(done[: options.candidates])
            continue
        rows = slice(prompt * beams, (prompt + 1) * beams)
        going = [
            Hypothesis(tuple(ids), tuple(logs), total / length**options.length_penalty, False)
            for ids, logs, total in zip(
                tokens[rows].tolist(), token_logprobs[rows].tolist(), running[prompt].tolist()
            )
            if total > _NEVER / 2
        ]
        result.append(sorted([*done, *going], key=lambda h: -h.score))
    return result


@dataclass(frozen=True)
class _State:
    """Where decoding stands: logits `(R, V)` of the next token, and what the pass before it left."""

    logits: Tensor
    cache: Cache
    projected: Projected
    valid: (
        Tensor | None
    )  # (R, T) False on prompts' left padding; None when all prompts are equally long

    @classmethod
    def start(
        cls,
        decoder: Decoder,
        projected: Projected,
        prompts: Sequence[Sequence[int]],
        pad: int,
        copies: int,
    ) -> _State:
        """Read each prompt once, then repeat its row for every beam or sample."""
        device = decoder.device
        longest = max(len(prompt) for prompt in prompts)
        padded = [[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        ids = torch.tensor(padded, device=device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        valid = None
        if bool((lengths < longest).any()):
            valid = torch.arange(longest, device=device) >= longest - lengths[:, None]
        decoded = decoder(ids, projected, valid=valid)
        logits = decoder.logits(decoded.hidden[:, -1])
        cache = decoded.cache
        if copies > 1:
            logits = logits.repeat_interleave(copies, dim=0)
            cache = tuple(
                (k.repeat_interleave(copies, dim=0), v.repeat_interleave(copies, dim=0))
                for k, v in cache
            )
            valid = None if valid is None else valid.repeat_interleave(copies, dim=0)
        return cls(logits, cache, projected, valid)

    def select(self, prompts: Sequence[int], copies: int) -> _State:
        """The state of some prompts, each of which has `copies` rows."""
        rows = _rows(prompts, copies, self.logits.device)
        cache = tuple((k.index_select(0, rows), v.index_select(0, rows)) for k, v in self.cache)
        images = self.projected.images
        prompts_per_image = len(self.logits) // copies // images
        projected = self.projected.select(rows[::copies] // copies // prompts_per_image)
        valid = None if self.valid is None else self.valid[rows]
        return _State(self.logits[rows], cache, projected, valid)

    def step(self, decoder: Decoder, tokens: Tensor, rows: Tensor | None = None) -> _State:
        """Append one token to each row; `rows` says which row each one continues (None: itself)."""
        cache, valid = self.cache, self.valid
        if rows is not None:  # a prompt's beams share its padding, so `valid` stays
            cache = tuple((k.index_select(0, rows), v.index_select(0, rows)) for k, v in cache)
        if valid is not None:
            valid = torch.cat([valid, valid.new_ones(len(tokens), 1)], dim=1)
        decoded = decoder(tokens[:, None], self.projected, cache, valid)
        return _State(decoder.logits(decoded.hidden[:, -1]), decoded.cache, self.projected, valid)


def _rows(prompts: Sequence[int], copies: int, device: torch.device) -> Tensor:
    """The rows of some prompts of a batch in which each has `copies`."""
    first = torch.tensor(prompts, dtype=torch.long, device=device)[:, None] * copies
    return (first + torch.arange(copies, device=device)).flatten()


def _logprobs(logits: Tensor, calibration: float) -> tuple[Tensor, Tensor]:
    """The model's own log-probabilities of logits `(..., V)`, and the calibrated ones."""
    own = logits.log_softmax(dim=-1)
    return own, own if calibration == 1 else (logits / calibration).log_softmax(dim=-1)


def _hypothesis(
    ids: list[int], logprobs: list[float], total: float, end: int, done: bool, options: Options
) -> Hypothesis:
    """A row up to its end token; what follows the end is padding."""
    length = ids.index(end) + 1 if done else len(ids)
    words = ids[: length - 1] if done else ids
    score = total / length**options.length_penalty
    return Hypothesis(tuple(words), tuple(logprobs[:length]), score, done)


def _grouped(hypotheses: list[Hypothesis], size: int) -> list[list[Hypothesis]]:
    """Each prompt's hypotheses, best first."""
    groups = [hypotheses[i : i + size] for i in range(0, len(hypotheses), size)]
    return [sorted(group, key=lambda h: -h.score) for group in groups]
