from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from vlm.captioner import Captioner
    from vlm.model.model import VisionLanguageModel

os.environ["HF_HUB_OFFLINE"] = "1"

REPOSITORY = Path(__file__).resolve().parent.parent


BROWSER_SECONDS = 400  # a test with a browser; closing a page or a browser that hangs has no time limit of its own


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let no hanging browser hold up all others."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()) or item.path.stem.endswith("browser"):
            item.add_marker(pytest.mark.timeout(BROWSER_SECONDS), append=False)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of public datasets: VLM_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("VLM_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        reason = f"no data in {folder}; set VLM_DATA"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def tiny() -> Captioner:
    """A whole model of random weights, in a fraction of a second; what it says is noise, but the same each time."""
    import torch

    from vlm.captioner import Captioner
    from vlm.model.config import DecoderConfig, ModelConfig, VisionConfig
    from vlm.model.model import VisionLanguageModel
    from vlm.model.vision import default_preprocess
    from vlm.tokenizer import Tokenizer

    sentences = [
        "a brown dog runs through the grass",
        "two men play football in the park",
        "a girl in a red dress sits on a bench",
        "a child jumps into a swimming pool",
        "a black cat sleeps on the sofa",
        "people walk along a busy street",
        "a man rides a bicycle down a hill",
        "what colour is the shape?",
        "how many people are there?",
        "is there a dog in the picture?",
        "yes",
        "no",
    ]
    tokenizer = Tokenizer.train(sentences, vocab_size=420)
    encoder = "test_efficientnet"
    config = ModelConfig(
        vision=VisionConfig(encoder, default_preprocess(encoder, (96, 96))),
        decoder=DecoderConfig(
            vocab_size=tokenizer.vocab_size,
            width=32,
            depth=2,
            heads=4,
            max_length=48,
            memory_width=32,
        ),
        licence="none: random weights",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VisionLanguageModel(config)
        # Larger than the initial weights, so that the words depend on the image and on each other.
        for weight in model.decoder.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.3)
        # The single bytes, which every vocabulary has, are left to what has no other token.
        model.decoder.token_embedding.weight.data[5:261] = 0
    return Captioner(model, tokenizer)


@pytest.fixture(scope="session")
def tiny_tagged(tiny: Captioner) -> VisionLanguageModel:
    """`tiny`'s model with words for what a classifier of random weights is sure of."""
    import torch

    from vlm.model.config import TagsConfig
    from vlm.model.model import VisionLanguageModel

    names = ("dog", "red cat", "tree")
    config = replace(tiny.model.config, tags=TagsConfig(9, names, length=2, top=2))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VisionLanguageModel(config)
        model.load_state_dict(tiny.model.state_dict(), strict=False)
        assert model.tagger is not None
        torch.nn.init.normal_(model.tagger.classifier)
    model.tagger.name_of_class.copy_(torch.arange(9) % (len(names) + 1))
    model.tagger.tokens.copy_(torch.tensor([[300, -1], [290, 310], [261, -1]]))
    return model.eval()


@pytest.fixture(scope="session")
def reading(tiny: Captioner) -> Captioner:
    """`tiny` with layers for passages, of random weights that matter; without passages it says the same."""
    import torch

    from vlm.captioner import Captioner
    from vlm.model.config import DocumentsConfig
    from vlm.model.model import VisionLanguageModel

    config = replace(tiny.model.config, documents=DocumentsConfig(length=12, most=4))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = VisionLanguageModel(config)
        model.load_state_dict({**model.state_dict(), **tiny.model.state_dict()})
        assert model.documents is not None
        for weight in model.documents.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.3)
    return Captioner(model, tiny.tokenizer)


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny: Captioner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny` as a checkpoint folder."""
    import torch

    from vlm.weights.store import save_checkpoint

    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    save_checkpoint(folder, tiny.model, tiny.tokenizer, torch.float32)
    return folder


@pytest.fixture(scope="session")
def trusted_checkpoint(reading: Captioner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`reading` as a checkpoint that is sure of every caption, and not sure of any answer."""
    import torch

    from training.evaluation.trust_report import store
    from vlm.model.config import CalibrationConfig, VerdictConfig
    from vlm.weights.store import save_checkpoint

    folder = tmp_path_factory.mktemp("checkpoints") / "trusted"
    save_checkpoint(folder, reading.model, reading.tokenizer, torch.float32)
    verdict = VerdictConfig(
        photo=-1e6, sure_answer=2.0, guess_answer=0.0, sure_caption=0.0, guess_caption=0.0
    )
    store(folder, CalibrationConfig(), verdict, torch.ones(32))
    return folder


@pytest.fixture(scope="session")
def app_address(trusted_checkpoint: Path) -> Iterator[str]:
    """Where the app of `tiny`, which reads documents there, is served."""
    from app_server import serving

    with serving(trusted_checkpoint) as (address, _):
        yield address


# Of a module: while Playwright runs, nothing else of its process may run a loop of asyncio.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from app_server import browsing

    with browsing() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Browser, app_address: str) -> Iterator[Callable[..., Page]]:
    """Open a page of the app; keywords are those of a browser's context. See `app_server.visiting`."""
    from app_server import visiting

    with visiting(browser, app_address) as open_one:
        yield open_one


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    return open_page()
