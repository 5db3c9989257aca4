"""Words of a classifier in the memory: which names are given, how sure, and that the decoder reads them."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from small_runs import draw_photos, small_recipe
from torch import Tensor, nn

from training.loop.examples import Batch, Example, collate
from training.loop.inputs import Pixels
from training.loop.objectives import SURE_OF_TOLD, Likelihood, without_patches
from training.loop.optimisers import freeze, make_optimiser
from training.loop.steps import EpochSteps
from training.recipe import everyday_names as lexicon
from training.recipe.everyday_names import NAMES, everyday_names, tags_config
from training.recipe.models import start_model
from training.recipe.recipe import Augment, RecipeError
from training.recipe.sources import read_data
from vlm.captioner import Captioner
from vlm.model.config import ConfigError, ModelConfig, TagsConfig
from vlm.model.memory import Memory, Segment
from vlm.model.model import VisionLanguageModel
from vlm.model.tags import Tagger
from vlm.weights.store import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES_OF_ALL = everyday_names()[0]
NAMES_OF_FIVE = ("cat", "dog", "cup of coffee")
# Classes 0 to 3 are breeds of dogs, 4 is a cat, 5 a cup and 6 has no name.
OF_CLASS = [1, 1, 1, 1, 0, 2, 3]


@pytest.fixture
def tagger() -> Tagger:
    """Its classifier reads class i off channel i of the mean patch."""
    torch.manual_seed(0)
    tagger = Tagger(TagsConfig(7, NAMES_OF_FIVE, length=3, top=2, least=0.1), 7, 8, 12, 0.5)
    tagger.classifier.copy_(torch.eye(7))
    tagger.name_of_class.copy_(torch.tensor(OF_CLASS))
    tagger.tokens.copy_(torch.tensor([[1, -1, -1], [2, -1, -1], [3, 4, 5]]))
    return tagger.eval()


def patches(**probabilities: float) -> Tensor:
    """Two patches whose mean has these probabilities of classes, e.g. `c4=0.9`; the rest is shared by the others."""
    share = (1 - sum(probabilities.values())) / (7 - len(probabilities))
    given = [probabilities.get(f"c{i}", share) for i in range(7)]
    logits = torch.tensor(given).clamp(min=1e-9).log()
    return torch.stack([logits + 1, logits - 1])[None]  # (1, 2, 7)


def test_breeds_add_up_to_one_name(tagger: Tagger) -> None:
    tags = tagger.classify(patches(c0=0.24, c1=0.24, c2=0.24, c3=0.24))
    assert tags.names[0, 0] == 1
    assert tags.probabilities[0, 0] > 0.9


def test_many_breeds_do_not_make_a_dog_of_what_is_like_nothing(tagger: Tagger) -> None:
    """All classes alike: four breeds together have 4/7, yet the name is no surer than twice another's."""
    tags = tagger.classify(torch.zeros(1, 2, 7))
    torch.testing.assert_close(tags.probabilities[0, 0], torch.tensor(0.5))


def test_unsure_names_and_classes_without_a_name_are_masked(tagger: Tagger) -> None:
    memory = tagger(patches(c4=0.97), nn.Embedding(9, 8))
    assert memory.real[0].tolist() == [True, False, False, False, False, False]
    assert memory.segments[0].words == (("cat", "", "", "", "", ""),)
    nameless = tagger(patches(c6=0.97, c4=0.005, c5=0.005), nn.Embedding(9, 8))
    assert "" in nameless.segments[0].words[0]


def test_only_sure_names_are_phrases_to_favour_and_only_while_they_are_shown(
    tagger: Tagger,
) -> None:
    memory = tagger(torch.cat([patches(c5=0.97), patches(c5=0.5)]), nn.Embedding(9, 8))
    assert memory.sure == [((3, 4, 5),), ()]
    assert memory.select([1, 0]).sure == [(), ((3, 4, 5),)]
    assert replace(memory, mask=torch.zeros_like(memory.real)).sure == [(), ()]


def test_a_name_of_several_tokens_has_a_slot_for_each(tagger: Tagger) -> None:
    words = nn.Embedding(9, 8)
    memory = tagger(patches(c5=0.97), words)
    assert memory.segments[0].words == (("cup of coffee",) * 3 + ("",) * 3,)
    swapped = nn.Embedding.from_pretrained(words.weight.detach().clone())
    swapped.weight.data[5] += 1
    changed = (tagger(patches(c5=0.97), swapped).tokens != memory.tokens).any(dim=-1)[0]
    assert changed.tolist()[:3] == [False, False, True]


def test_how_sure_a_name_is_reaches_the_slot(tagger: Tagger) -> None:
    words = nn.Embedding(9, 8)
    sure, unsure = (tagger(patches(c4=p), words).tokens[0, 0] for p in (0.95, 0.4))
    assert not torch.allclose(sure, unsure)


def test_tags_are_dropped_in_training_alone(tagger: Tagger) -> None:
    seen = patches(c4=0.97).expand(200, -1, -1)
    words = nn.Embedding(9, 8)
    assert tagger(seen, words).real[:, 0].all()
    share = tagger.train()(seen, words).real[:, 0].float().mean()
    assert 0.3 < share < 0.7


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A package of weights whose classifier reads features of a width."""

    def ship(width: int) -> None:
        generator = torch.Generator().manual_seed(0)
        weights = {"w": torch.randn(1000, width, generator=generator), "b": torch.zeros(1000)}
        monkeypatch.setattr(lexicon, "package_weights", lambda name: weights)

    return ship


def test_a_checkpoint_learns_to_read_tags(
    package: Callable[[int], None], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    start, tokenizer = load_checkpoint(tiny_checkpoint)
    package(start.vision.width)
    recipe = small_recipe(init=str(tiny_checkpoint), tags="some-package")
    model, _ = start_model(recipe, [], tmp_path / "unused.json")
    assert model.tagger is not None
    assert torch.equal(model.decoder.final_norm.weight, start.decoder.final_norm.weight)
    names, of_class = everyday_names()
    dog = model.tagger.tokens[names.index("dog")]
    assert tokenizer.decode([i for i in dog.tolist() if i >= 0]) == "dog"
    assert names[of_class[207]] == "dog"  # a golden retriever

    save_checkpoint(tmp_path / "tagged", model, tokenizer, torch.float32)
    again, _ = load_checkpoint(tmp_path / "tagged")
    assert again.config.tags == tags_config(tokenizer)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_the_tagger_learns_with_the_adapter_and_its_classifier_never(
    package: Callable[[int], None], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    package(load_checkpoint(tiny_checkpoint)[0].vision.width)
    recipe = small_recipe(init=str(tiny_checkpoint), tags="some-package")
    model, _ = start_model(recipe, [], tmp_path / "unused.json")
    assert freeze(model, recipe.optimiser) == ["adapter", "decoder", "tagger"]
    learnt = {
        id(p) for g in make_optimiser(model, recipe.optimiser).param_groups for p in g["params"]
    }
    names = {name for name, p in model.named_parameters() if id(p) in learnt}
    assert "tagger.project.weight" in names
    assert "tagger.classifier" not in names


def test_a_classifier_of_another_encoder_is_refused(
    package: Callable[[int], None], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    package(17)
    recipe = small_recipe(init=str(tiny_checkpoint), tags="some-package")
    with pytest.raises(RecipeError, match=r"classifier of some-package is \(1000, 17\)"):
        start_model(recipe, [], tmp_path / "unused.json")


@pytest.fixture
def tagged(
    tiny: Captioner,
    package: Callable[[int], None],
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> Captioner:
    package(tiny.model.vision.width)
    recipe = small_recipe(init=str(tiny_checkpoint), tags="some-package")
    model, tokenizer = start_model(recipe, [], tmp_path / "unused.json")
    tagger = model.tagger
    assert tagger is not None
    tagger.classifier.mul_(1e4)  # random classes, and sure of them
    for weight in (tagger.project.weight, tagger.place_embedding.weight):
        nn.init.normal_(weight, std=0.5)
    return Captioner(model, tokenizer)


def one_caption(tagged: Captioner) -> Batch:
    pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    rows = [[Example((2,), (300, 301, 302))], [Example((2,), (350, 351, 352))]]
    return Batch(("a", "b"), pixels, None, collate(rows, tagged.tokenizer.pad))


def test_an_encoder_that_learns_pays_for_classes_that_it_forgets(tagged: Captioner) -> None:
    batch = one_caption(tagged)
    kept, alone = Likelihood(tagged.model, keep_classes=3.0), Likelihood(tagged.model)
    tagger, first = tagged.model.tagger, kept.first
    assert tagger is not None
    assert first is not None
    assert kept(batch).item() == pytest.approx(
        alone(batch).item(), rel=1e-5
    )  # nothing forgotten yet
    with torch.no_grad():
        for parameter in tagged.model.vision.parameters():
            parameter.mul_(0.9)
    now, before = (
        tagger.logits(encoder(batch.images)[0]).log_softmax(dim=-1)
        for encoder in (tagged.model.vision, first)
    )
    divergence = (before.exp() * (before - now)).sum().item()
    assert divergence > 0.01
    paid = kept(batch).item() - alone(batch).item()
    assert paid == pytest.approx(3 * divergence, rel=1e-3)
    assert not any(p.requires_grad for p in first.parameters())


def test_patches_are_hidden_where_there_are_tags_alone() -> None:
    real = torch.tensor([[True, True, True, True, False], [True, True, True, False, False]])
    segments = (Segment("image", 0, 3, (1, 3)), Segment("tags", 3, 5))
    memory = Memory(torch.zeros(2, 5, 4), segments, real)
    hidden = without_patches(memory, 1.0).real
    assert hidden.tolist() == [[False, False, False, True, False], [True, True, True, False, False]]
    assert torch.equal(without_patches(memory, 0.0).real, real)
    torch.manual_seed(0)
    share = [without_patches(memory, 0.25).real[0, 0].item() for _ in range(400)].count(False) / 400
    assert share == pytest.approx(0.25, abs=0.07)


def test_patches_are_hidden_while_learning_alone(tagged: Captioner) -> None:
    batch = one_caption(tagged)
    patches = torch.randn(2, 9, tagged.model.vision.width)
    batch = replace(batch, images=patches, grid=(3, 3))
    hiding, plain = Likelihood(tagged.model, hide_patches=1.0), Likelihood(tagged.model)
    tagger = tagged.model.tagger
    assert tagger is not None
    for weight in tagged.model.adapter.parameters():  # so that patches matter
        nn.init.normal_(weight)
    with torch.no_grad():
        assert hiding.eval()(batch).item() == plain.eval()(batch).item()
        hiding.training = True  # and not its model, whose dropout would draw
        others = replace(batch, images=batch.images.flip(0))
        tagger.classifier.zero_()
        tagger.bias[:4] = 30.0  # the same tags for all
        assert hiding(batch).item() == hiding(others).item()
        assert plain(batch).item() != plain(others).item()


def test_a_name_that_is_told_is_the_surest_tag_of_its_image_alone(tagged: Captioner) -> None:
    batch = one_caption(tagged)
    patches = torch.randn(2, 9, tagged.model.vision.width)
    learning = Likelihood(tagged.model)
    tagger = tagged.model.tagger
    assert tagger is not None
    tagger.dropout = 0.0
    own = tagger.classify(patches)
    assert learning._told(replace(batch, told=None), patches) is None
    assert learning._told(replace(batch, told=torch.tensor([-1, -1])), patches) is None
    tags = learning._told(replace(batch, told=torch.tensor([-1, 3])), patches)
    assert tags is not None
    torch.testing.assert_close(tags.probabilities[0], own.probabilities[0])
    assert torch.equal(tags.names[0], own.names[0])
    assert tags.names[1, 0] == 3
    low, high = SURE_OF_TOLD
    assert low <= tags.probabilities[1, 0] <= high
    assert tags.probabilities[1].sum() <= 1.001


def test_a_captioned_image_is_told_names_by_the_recipes_share(
    tagged: Captioner, tmp_path: Path
) -> None:
    recipe = small_recipe(draw_photos(tmp_path, 30), tell_names=0.999)
    groups = read_data(recipe, tmp_path).train
    captions = [
        [replace(g, records=(replace(g.records[0], texts=("a dog on a bus",)),)) for g in source]
        for source in groups
    ]
    inputs = Pixels(tagged.preprocess, Augment())
    (batch,) = EpochSteps(captions, inputs, tagged.tokenizer, 24, recipe, 0)[0].batches
    assert batch.told is not None
    assert (batch.told >= 0).all()
    for chunk in batch.chunks:
        for ids, image in zip(chunk.ids.tolist(), chunk.image.tolist()):
            name = NAMES_OF_ALL[int(batch.told[image])]
            assert name[:-1] in tagged.tokenizer.decode([i for i in ids if i > 2])
    plain = EpochSteps(captions, inputs, tagged.tokenizer, 24, replace(recipe, tell_names=0.0), 0)
    told = plain[0].batches[0].told
    assert told is not None
    assert (told < 0).all()


def test_what_is_written_depends_on_the_tags(tagged: Captioner) -> None:
    photo = Path(__file__).parent / "fixtures/kaggle/Images/100_k.jpg"
    before = tagged.encode(photo).caption(max_tokens=8)
    other = copy.deepcopy(tagged.model)
    assert other.tagger is not None
    other.tagger.tokens.copy_(other.tagger.tokens.flip(0))  # every name is another's
    after = Captioner(other, tagged.tokenizer).encode(photo).caption(max_tokens=8)
    assert (before.text, before.score) != (after.text, after.score)


def test_maps_leave_out_what_fell_on_tags(tagged: Captioner) -> None:
    image = tagged.encode(Path(__file__).parent / "fixtures/kaggle/Images/100_k.jpg")
    assert [segment.name for segment in image.memory.segments] == ["image", "tags"]
    maps = image.caption(max_tokens=8).maps()
    assert all(0 < word.mass < 1 for word in maps)


def test_a_batch_says_what_single_images_say(tagged: Captioner) -> None:
    folder = Path(__file__).parent / "fixtures/daquar/images"
    photos = sorted(folder.glob("*.png"))[:4]
    together = tagged.caption(photos, max_tokens=8)
    assert [a.text for a in together] == [
        tagged.encode(photo).caption(max_tokens=8).text for photo in photos
    ]


def test_openvino_reads_them_alike(tagged: Captioner) -> None:
    pytest.importorskip("openvino")
    from vlm.runtimes.openvino import compiled

    photo = Path(__file__).parent / "fixtures/kaggle/Images/100_k.jpg"
    expected = tagged.encode(photo).caption(max_tokens=8)
    actual = Captioner(compiled(tagged.model), tagged.tokenizer).encode(photo)
    assert actual.memory.segments == tagged.encode(photo).memory.segments
    caption = actual.caption(max_tokens=8)
    assert caption.text == expected.text
    assert caption.score == pytest.approx(expected.score, abs=1e-3)


def test_every_class_of_the_lexicon_has_its_line() -> None:
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    lines = NAMES.read_text(encoding="utf-8").splitlines()
    own = [line.split("\t")[0] for line in lines]
    assert own == [info.index_to_description(i).split(",")[0] for i in range(1000)]
    assert all(name == name.lower().strip() for name in everyday_names()[0])


def test_tags_stand_beside_no_reader(tiny: Captioner) -> None:
    config = tiny.model.config
    tags = TagsConfig(2, ("a", "b"), length=1, top=1)
    with pytest.raises(ConfigError, match="tags are words for a decoder"):
        replace(config, tags=tags, reader=config.decoder)
    with pytest.raises(ConfigError, match="top 4 is more than there are names, 2"):
        TagsConfig(2, ("a", "b"), length=1)


def test_a_configuration_without_tags_is_read_as_before(tiny: Captioner) -> None:
    values = tiny.model.config.to_dict()
    del values["tags"]
    config = ModelConfig.from_dict(values)
    assert config == tiny.model.config
    assert VisionLanguageModel(config, initialise=False).tagger is None
