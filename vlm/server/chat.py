"""`/v1/chat/completions`: a caption or an answer in OpenAI's form, whole or as a stream of events."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from vlm.answers import Answer
from vlm.citations import sources
from vlm.documents.sentence_encoder import SharedEncoder
from vlm.encoded_image import EncodedImage
from vlm.engine import Engine, Job
from vlm.errors import UserError
from vlm.prompts import text_ids
from vlm.server.chat_documents import beside_documents
from vlm.server.chat_request import ChatRequest, read_request
from vlm.server.door import too_long
from vlm.server.measures import Measures
from vlm.server.media import Media
from vlm.server.refusals import Refusal, defect, error_body
from vlm.server.settings import Settings
from vlm.server.token_logprobs import token_logprobs
from vlm.server.turns import done, encoded, in_turn

T = TypeVar("T")

log = logging.getLogger(__name__)


class Chat:
    """The endpoint of one engine."""

    def __init__(
        self, engine: Engine, settings: Settings, media: Media, measures: Measures
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.media = media
        self.measures = measures
        self.encoder = SharedEncoder()

    async def complete(self, request: Request) -> Response:
        """What is wrong with a request is said by a status; a stream that has begun can only say it in an event."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # which a page of another site may not send unasked
            raise Refusal("the request must be JSON: send Content-Type: application/json", 415)
        body = await request.body()
        asked = await asyncio.to_thread(read_request, body, self.settings.model)
        del body  # up to tens of megabytes, which need not wait with the request
        owner = request.state.owner
        self.engine.captioner.prompt(asked.question)
        if asked.image_url is None:
            captioner = self.engine.captioner
            image = await in_turn(self.engine, owner, lambda: captioner.without_photo)
        else:
            data = await self.media.read(asked.image_url)
            image = await encoded(self.engine, owner, data, self.settings.max_pixels)
        if (question := asked.question) is not None and asked.documents:
            alone = image
            image = await in_turn(
                self.engine,
                owner,
                lambda: beside_documents(alone, asked.documents, question, self.encoder),
            )
        reply = Reply(self.engine, owner, image, asked, self.settings.model)
        job = reply.search()
        if not asked.stream:
            answer = await done(job)
            completion = await reply.completion(answer)
            self.measures.tokens.inc(completion["usage"]["completion_tokens"])
            return JSONResponse(completion)
        events = self._events(reply, job, request.state.deadline)
        return StreamingResponse(
            events,
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    async def _events(self, reply: Reply, job: Job[Answer], deadline: float) -> AsyncIterator[str]:
        try:
            async with asyncio.timeout_at(deadline):
                async for chunk in reply.chunks(job):
                    yield f"data: {json.dumps(chunk)}\n\n"
            self.measures.tokens.inc(len(job.result().ids))
        except TimeoutError:
            yield _error_event(too_long(self.settings.seconds))
        except UserError as error:
            yield _error_event(error)
        except Exception:
            log.exception("a stream broke off")
            yield _error_event(defect())
        finally:
            job.cancel()
        yield "data: [DONE]\n\n"


def _error_event(error: UserError) -> str:
    return f"data: {json.dumps(error_body(error))}\n\n"


class Reply:
    """One chat completion in the making."""

    def __init__(
        self, engine: Engine, owner: Hashable, image: EncodedImage, asked: ChatRequest, model: str
    ) -> None:
        self.engine = engine
        self.owner = owner
        self.image = image
        self.asked = asked
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": None,
        }

    def search(self) -> Job[Answer]:
        """Ask the engine for the caption or the answer."""
        options = vars(self.asked.options)
        if self.asked.question is None:
            return self.engine.caption(self.owner, self.image, **options)
        return self.engine.ask(self.owner, self.image, self.asked.question, **options)

    async def completion(self, answer: Answer) -> dict[str, Any]:
        """The whole reply at once."""
        texts = self._texts(answer)
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": await self._logprobs(answer, text),
                "finish_reason": _finish_reason(answer),
            }
            for index, text in enumerate(texts)
        ]
        return {
            **self._head,
            "object": "chat.completion",
            "choices": choices,
            "usage": self._usage(answer, texts),
            "vlm": await self._extension(answer),
        }

    async def chunks(self, job: Job[Answer]) -> AsyncIterator[dict[str, Any]]:
        """The reply as it comes: words as soon as the search is sure of them, or with probabilities token by token.

        Probabilities of what else might stand there take a pass over the finished text, so tokens wait for its end.
        Further choices follow the first, since their order is known last.
        """
        yield self._chunk(0, {"role": "assistant", "content": ""})
        shown = ""
        # Beside documents an answer is spelled as they spell it, which is known at its end.
        if self.asked.tops is None and not self.image.passages:
            async for text in _growing(job):
                yield self._chunk(0, {"content": text[len(shown) :]})
                shown = text
        answer = await done(job)
        texts = self._texts(answer)
        for index, text in enumerate(texts):
            if index > 0:
                yield self._chunk(index, {"role": "assistant", "content": ""})
            if (logprobs := await self._logprobs(answer, text)) is not None:
                for entry in logprobs["content"]:
                    chance = {"content": [entry], "refusal": None}
                    yield self._chunk(index, {"content": entry["token"]}, logprobs=chance)
            elif rest := text[len(shown) if index == 0 else 0 :]:
                yield self._chunk(index, {"content": rest})
        extension = {"vlm": await self._extension(answer)}
        for index in range(len(texts)):
            chunk = self._chunk(index, {}, finish_reason=_finish_reason(answer))
            yield chunk | (extension if index == 0 else {})
        if self.asked.include_usage:
            yield self._chunk(0, {}) | {"choices": [], "usage": self._usage(answer, texts)}

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def _texts(self, answer: Answer) -> list[str]:
        return [answer.text, *(other.text for other in answer.alternatives)][: self.asked.choices]

    def _ids(self, answer: Answer, text: str) -> tuple[int, ...]:
        if text == answer.text:
            return answer.ids
        return tuple(text_ids(self.engine.captioner.tokenizer, text))

    async def _logprobs(self, answer: Answer, text: str) -> dict[str, Any] | None:
        tops = self.asked.tops
        if tops is None:
            return None
        ids = self._ids(answer, text)
        content = await self._turn(lambda: token_logprobs(self.image, answer.question, ids, tops))
        return {"content": content, "refusal": None}

    def _usage(self, answer: Answer, texts: list[str]) -> dict[str, int]:
        """Tokens read, each place of the image's memory counting as one, and written."""
        prompt = self.engine.captioner.prompt(answer.question)
        read = self.image.memory.tokens.shape[1] + len(prompt.ids)
        written = sum(len(self._ids(answer, text)) for text in texts)
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        }

    async def _extension(self, answer: Answer) -> dict[str, Any]:
        """What OpenAI's form has no place for: how far to trust the text, its words, and where each looked."""
        said: dict[str, Any] = {
            "task": "caption" if answer.question is None else "answer",
            "question": answer.question,
            "verdict": answer.verdict,
            "confidence": answer.confidence,
            "words": [vars(word) for word in answer.words],
            "alternatives": [
                {"text": other.text, "confidence": other.confidence}
                for other in answer.alternatives
            ],
            "ignored": list(self.asked.ignored),
        }
        if self.image.passages:
            found = await self._turn(lambda: answer.evidence)
            assert found is not None
            said |= {"citation": answer.citation, "sources": sources(found)}
        if self.asked.image_effect:
            effect = await self._turn(lambda: answer.image_effect)
            said["image_effect"] = vars(effect)
        if self.asked.maps is not None:
            method = self.asked.maps
            maps = await self._turn(lambda: answer.maps(method=method))
            said["maps"] = [word_map.to_dict() for word_map in maps]
            said["seen"] = _seen(answer)
        return said

    def _turn(self, function: Callable[[], T]) -> Awaitable[T]:
        return in_turn(self.engine, self.owner, function)


async def _growing(job: Job[Answer]) -> AsyncIterator[str]:
    """The text that a search is sure of, each time that there is more of it, until it is done."""
    loop, news = asyncio.get_running_loop(), asyncio.Event()
    job.watch(lambda: loop.call_soon_threadsafe(news.set))
    shown = ""
    while not job.done:
        await news.wait()
        news.clear()
        text = job.text
        if len(text) > len(shown):
            yield text
            shown = text


def _finish_reason(answer: Answer) -> str:
    return "stop" if answer.finished else "length"


def _seen(answer: Answer) -> list[float]:
    """The box `(left, top, right, bottom)` that maps cover, in shares of the image's width and height."""
    assert answer.image
    frame = answer.image.frame
    left, top, right, bottom = frame.box
    return [left / frame.width, top / frame.height, right / frame.width, bottom / frame.height]
