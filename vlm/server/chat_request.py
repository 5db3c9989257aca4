"""The body of a chat completion as what it asks of the model: a caption of an image, or the answer to a question."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, Literal

from vlm.explain.maps import find_method
from vlm.follow_ups import Turn, follow_up
from vlm.options import ANSWER, CAPTION, Options, choose
from vlm.server.chat_documents import Document, check_size
from vlm.server.refusals import Refusal
from vlm.typed import Count, FieldError, Limit, build

EARLIER_TURNS = "earlier turns"
MOST_CHOICES = 16  # and beams: each is a row of every pass
MOST_TOKENS = 256  # far more than a caption has
Tops = Annotated[int, Limit("from 0 to 20", lambda value: 0 <= value <= 20)]
Choices = Annotated[
    int, Limit(f"from 1 to {MOST_CHOICES}", lambda value: 1 <= value <= MOST_CHOICES)
]

# An instruction to describe the image, which is no question about it: "Describe this image in detail."
_NOUN = r"(an? |the |my )?(\S+ ){0,4}?(captions?|descriptions?|alt[- ]texts?)"
_DESCRIBE = re.compile(
    r"(please )?((can|could|would|will) you )?(please )?"
    r"((describe|caption)( (this|the|that|my|an?))?( attached)?( (image|photo|picture|photograph|it))?( .*)?"
    rf"|(write|generate|give|provide|create|make|compose|produce)( me| us)? {_NOUN}( .*)?)",
    re.IGNORECASE | re.DOTALL,
)


class RequestError(FieldError):
    """A request that is not as it must be; the message names the field."""


@dataclass(frozen=True)
class Extension:
    """What this server takes beside OpenAI's fields, under "vlm".

    `task` says whether a text is a question or an instruction to describe, where the server would guess wrong. `maps`
    is the method of the maps to send; `image_effect` asks how much likelier the image made each word; `search` has
    fields of `vlm.Options`; a question is also answered from the `documents`.
    """

    task: Literal["caption", "answer"] | None = None
    maps: str | None = None
    image_effect: bool = False
    search: dict[str, Any] = field(default_factory=dict)
    documents: tuple[Document, ...] = ()


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `content` is a text or a list of parts."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Any = None
    name: Any = None
    refusal: Any = None
    tool_calls: Any = None
    tool_call_id: Any = None
    annotations: Any = None


@dataclass(frozen=True)
class StreamOptions:
    """How a stream ends, and whether events are padded, which they are not here."""

    include_usage: bool = False
    include_obfuscation: bool = False


@dataclass(frozen=True)
class Body:
    """OpenAI's fields. The last two groups are refused but for values that ask for nothing, and change nothing here."""

    model: str
    messages: tuple[Message, ...]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: Choices | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    logprobs: bool | None = None
    top_logprobs: Tops | None = None
    vlm: Extension | None = None

    audio: Any = None
    frequency_penalty: Any = None
    function_call: Any = None
    functions: Any = None
    logit_bias: Any = None
    prediction: Any = None
    presence_penalty: Any = None
    response_format: Any = None
    stop: Any = None
    tool_choice: Any = None
    tools: Any = None
    web_search_options: Any = None

    metadata: Any = None
    modalities: Any = None
    moderation: Any = None
    parallel_tool_calls: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    user: Any = None
    verbosity: Any = None


# Each with what a captioner cannot do, but for values that ask for nothing.
_NOTHING: tuple[Any, ...] = (None, [], {}, "")
_REFUSED: dict[str, tuple[Any, ...]] = {
    "audio": _NOTHING,
    "frequency_penalty": (None, 0),
    "function_call": (None, "none", "auto"),
    "functions": _NOTHING,
    "logit_bias": _NOTHING,
    "prediction": _NOTHING,
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "stop": _NOTHING,
    "tool_choice": (None, "none", "auto"),
    "tools": _NOTHING,
    "web_search_options": (None,),
}


@dataclass(frozen=True)
class ChatRequest:
    """What a chat completion asks for: a caption of the image (`question` None), or the answer to a question.

    `image_url` is None where a question is answered from documents alone. `choices` is how many texts are sent, at
    most. `tops` is how many alternatives each token comes with, None without probabilities; `ignored` names what the
    model does not look at.
    """

    image_url: str | None
    question: str | None
    options: Options
    choices: int
    stream: bool
    include_usage: bool
    tops: int | None
    maps: str | None
    image_effect: bool
    documents: tuple[Document, ...]
    ignored: tuple[str, ...]


def read_request(body: bytes, model: str) -> ChatRequest:
    """What a request's body asks of the model of a name. Raises Refusal or UserError for what cannot be."""
    try:
        values = json.loads(body)
    except ValueError as error:  # of JSON, or of its encoding
        raise Refusal(f"the request is not JSON: {error}") from None
    except RecursionError:
        raise Refusal("the request is not JSON that can be read: it is nested too deep") from None
    asked: Body = build(Body, values, RequestError, "the request")
    if asked.model != model:
        raise Refusal(
            f"there is no model {asked.model!r} here; there is {model}", 404, "model_not_found"
        )
    for name, harmless in _REFUSED.items():
        if getattr(asked, name) not in harmless:
            raise RequestError(
                f"{name} is nothing that a model of captions and answers can do; leave it out"
            )
    extension = asked.vlm or Extension()
    if extension.maps is not None:
        find_method(extension.maps)
    image_url, text, ignored = _conversation(asked.messages)
    question = None if _wants_caption(text, extension.task) else text
    if question is not None:
        put = follow_up(question, _turns(asked.messages))
        if put != question:  # that is what the earlier turns were looked at for
            ignored = tuple(name for name in ignored if name != EARLIER_TURNS)
        question = put
    check_size(extension.documents)
    if extension.documents and question is None:
        raise RequestError(
            "vlm.documents go with a question; ask one, or leave them out for a caption"
        )
    if image_url is None and not extension.documents:
        raise RequestError(
            "messages has no image; send one as a part of the content, "
            '{"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,…"}}'
        )
    stream_options = asked.stream_options or StreamOptions()
    wants_tops = asked.logprobs or False
    if asked.top_logprobs is not None and not wants_tops:
        raise RequestError("top_logprobs goes with logprobs; set that to true, too")
    return ChatRequest(
        image_url,
        question,
        _options(asked, extension, CAPTION if question is None else ANSWER),
        asked.n or 1,
        asked.stream or False,
        stream_options.include_usage,
        (asked.top_logprobs or 0) if wants_tops else None,
        extension.maps,
        extension.image_effect,
        extension.documents,
        ignored,
    )


def _conversation(messages: Sequence[Message]) -> tuple[str | None, str, tuple[str, ...]]:
    """The image that a conversation is about, its last text, and what else is in it, in words.

    The image is the last user's message's, or the latest before it; None where there is none.
    """
    users = [i for i, message in enumerate(messages) if message.role == "user"]
    if not users:
        raise RequestError('messages has no message of the role "user"; send the image in one')
    last = users[-1]
    if last != len(messages) - 1:
        raise RequestError(
            'messages must end with one of the role "user": this model goes on with nothing'
        )
    image, text, ignored = None, "", []
    for i in users[::-1]:
        texts, images = _parts(messages[i].content, f"messages[{i}].content")
        if i == last:
            text = " ".join(texts).strip()
        if image is None and images:
            if len(images) > 1:
                raise RequestError(
                    f"messages[{i}] has {len(images)} images, and this model sees one at a time; "
                    "send a request for each"
                )
            image = images[0]
        elif images:
            ignored.append("earlier images")
    if any(message.role in ("system", "developer") for message in messages):
        ignored.append("system messages")
    if len(messages) > 1 and any(m.role not in ("system", "developer") for m in messages[:-1]):
        ignored.append(EARLIER_TURNS)
    return image, text, tuple(dict.fromkeys(ignored))


def _turns(messages: Sequence[Message]) -> list[Turn]:
    """The questions before the last message that have an answer behind them."""
    return [
        Turn(_text(own.content), _text(reply.content))
        for own, reply in pairwise(messages)
        if own.role == "user" and reply.role == "assistant"
    ]


def _text(content: Any) -> str:
    """The words of an earlier message, whatever else it has."""
    parts = [content] if isinstance(content, str) else content if isinstance(content, list) else []
    texts = (part.get("text") if isinstance(part, Mapping) else part for part in parts)
    return " ".join(text for text in texts if isinstance(text, str))


def _parts(content: Any, where: str) -> tuple[list[str], list[str]]:
    """The texts and the images' addresses of a message."""
    if isinstance(content, str):
        return [content], []
    if not isinstance(content, list) or not content:
        raise RequestError(f"{where} must be a text or a list of parts")
    texts, images = [], []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        value = part.get(kind) if isinstance(part, Mapping) and isinstance(kind, str) else None
        if kind == "text" and isinstance(value, str):
            texts.append(value)
        elif (
            kind == "image_url" and isinstance(value, Mapping) and isinstance(value.get("url"), str)
        ):
            images.append(value["url"])
        elif kind in ("text", "image_url"):
            raise RequestError(
                f'{where}[{number}] must be {{"type": "text", "text": "…"}} or '
                '{"type": "image_url", "image_url": {"url": "…"}}'
            )
        else:
            raise RequestError(
                f"{where}[{number}] must be a part of the type text or image_url: "
                "this model sees images and reads questions, and takes nothing else"
            )
    return texts, images


def _wants_caption(text: str, task: str | None) -> bool:
    if task is not None:
        return task == "caption"
    return not text or _DESCRIBE.fullmatch(text.strip(" .!?")) is not None


def _options(asked: Body, extension: Extension, defaults: Options) -> Options:
    """How words are chosen: by the task's own search, or where a temperature or top_p is given by chance."""
    given: dict[str, Any] = dict(extension.search)
    temperature = asked.temperature
    if temperature is not None and not 0 <= temperature <= 2:
        raise RequestError(f"temperature must be from 0 to 2, not {temperature}")
    if (temperature or 0) > 0 or (temperature is None and (asked.top_p or 1) < 1):
        given |= {"sample": True}
        given |= {} if temperature is None else {"temperature": temperature}
        given |= {} if asked.top_p is None else {"top_p": asked.top_p}
        given |= {} if asked.seed is None else {"seed": asked.seed}
    if (asked.n or 1) > (1 if given.get("sample") else defaults.candidates):
        given["candidates"] = asked.n
    most = asked.max_completion_tokens or asked.max_tokens
    if most is not None:
        given["max_tokens"] = min(most, MOST_TOKENS)
    options = choose(defaults, given)
    for name, limit in (
        ("beams", MOST_CHOICES),
        ("candidates", MOST_CHOICES),
        ("max_tokens", MOST_TOKENS),
    ):
        if getattr(options, name) > limit:
            raise RequestError(f"vlm.search.{name} must be at most {limit} here")
    return options
