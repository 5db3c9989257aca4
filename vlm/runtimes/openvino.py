"""A model compiled by OpenVINO for the CPU, with weights in float32 or int8."""

from __future__ import annotations

import functools
import gc
import mmap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlm.errors import UserError, how_to_install
from vlm.model.decoder import Cache, Decoded, Decoder, Projected, place
from vlm.model.joint_reader import JointReader
from vlm.model.memory import Memory
from vlm.model.model import VisionLanguageModel
from vlm.model.vision import VisionEncoder
from vlm.runtimes.layers import quantise
from vlm.runtimes.twin import fused, twin


class BackendError(UserError):
    """A way of running a model that is not to be had here; the message says why."""


def compiled(model: VisionLanguageModel, int8: bool = False) -> VisionLanguageModel:
    """A model's twin whose encoder, reader and decoder OpenVINO runs; it has no gradients.

    With `int8` their matrices are stored in 8 bits with a scale for each output, and multiplied in float32. Raises
    BackendError where OpenVINO is not installed, or lacks an operation, and for an encoder of images of any size.
    """
    if model.config.vision.preprocess.fit == "patches":
        raise BackendError(
            "OpenVINO runs encoders of one input size here, and this model gives each image a size of its own; "
            "run it without OpenVINO and int8"
        )
    try:
        import openvino  # noqa: F401
        import threadpoolctl  # noqa: F401
    except ImportError:
        raise BackendError(f"OpenVINO is not installed; {how_to_install('openvino')}") from None
    same = twin(model)
    with torch.no_grad():
        # They answer to what the twin asks of them, see `vlm.runtimes`, and are no layers with weights.
        parts: dict[str, Any] = {
            "vision": CompiledVision(model.vision, int8),
            "decoder": CompiledDecoder(model.decoder, int8),
        }
        if isinstance(model.reader, JointReader):
            parts["reader"] = CompiledJointReader(model.reader, int8)
        elif model.reader is not None:
            parts["reader"] = CompiledDecoder(model.reader, int8)
    if model.tagger is not None:
        ids, words = model.tagger.tokens.clamp(min=0), model.decoder.token_embedding
        parts["decoder"].token_embedding = _RowsOf(words, ids)
    same._modules.update(parts)
    gc.collect()  # what traced the modules holds them, and their weights, in a cycle
    return same


class Compiled:
    """A function of tensors with the weights of a module, safe to call from several threads."""

    def __init__(
        self,
        owner: nn.Module,
        function: Callable[..., Tensor | list[Tensor]],
        example: Sequence[Tensor],
        shapes: Sequence[Sequence[int]],
        int8: bool,
    ) -> None:
        """`shapes` are those of the inputs, with -1 for a size that each call is free to choose."""
        graph = _traced(_Function(owner, function), example)
        graph.reshape(dict(enumerate(shapes)))
        self.store = _store_in_8_bits(graph) if int8 else None
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",  # activations stay in float32
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        self.compiled = _core().compile_model(graph, "CPU", settings)
        self.idle: list[Any] = []  # a request holds the buffers of one call at a time

    def __call__(self, inputs: Sequence[Tensor], outputs: int | None = None) -> list[Tensor]:
        """The first `outputs` of what the module gives, or all."""
        from openvino import Tensor as Shared

        try:
            request = self.idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        arrays = [tensor.contiguous().numpy() for tensor in inputs]  # to be kept until it is done
        for i, array in enumerate(arrays):  # `infer` itself takes a millisecond for them
            request.set_input_tensor(i, Shared(array, shared_memory=True))
        results = request.infer(share_outputs=True)
        # Copies, for the request's own buffers are written anew by its next call.
        copies = [torch.from_numpy(result.copy()) for result in results.to_tuple()[:outputs]]
        if self.store is not None and hasattr(self.store, "madvise"):  # Windows has none
            self.store.madvise(mmap.MADV_DONTNEED)
        self.idle.append(request)
        return copies

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        return self  # it has no state between calls


class CompiledVision(nn.Module):
    """An encoder for images of its model's own size."""

    def __init__(self, encoder: VisionEncoder, int8: bool) -> None:
        super().__init__()
        self.config, self.width = encoder.config, encoder.width
        # Two images, so that nothing takes the batch for a constant.
        pixels = torch.zeros(2, 3, *encoder.config.preprocess.size)
        self.grid = encoder(pixels)[1]
        shapes = [[-1, *pixels.shape[1:]]]
        self.patches = Compiled(encoder, lambda x: encoder(x)[0], [pixels], shapes, int8)

    def forward(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return self.patches([pixels])[0], self.grid


class CompiledDecoder(nn.Module):
    """A decoder whose passes, projections and logits are graphs."""

    def __init__(self, decoder: Decoder, int8: bool) -> None:
        from threadpoolctl import ThreadpoolController

        super().__init__()
        decoder = fused(decoder)
        config = self.config = decoder.config
        self.self_layers = config.sublayers.count("s")
        # No size is 1 or the same as another, so that nothing takes it for a constant.
        tokens = torch.zeros(2, 7, config.memory_width)
        projected = decoder.project(Memory(tokens, ()))
        past = decoder(torch.zeros(6, 5, dtype=torch.long), projected)
        inputs = [
            torch.zeros(6, 3, dtype=torch.long),
            torch.arange(5, 8)[None],
            torch.ones(6, 1, 3, 8, dtype=torch.bool),
            torch.ones(2, 1, 1, 7, dtype=torch.bool),
            *_flat(projected.layers),
            *_flat(past.cache),
        ]
        text, row = [-1, -1], [-1, 1, -1, -1]
        key_value = [-1, config.heads, -1, config.width // config.heads]
        shapes = [text, text, row, row] + [key_value] * (len(inputs) - 4)
        cross_count = len(projected.layers)

        def passes(
            ids: Tensor, positions: Tensor, self_mask: Tensor, cross_mask: Tensor, *flat: Tensor
        ) -> list[Tensor]:
            pairs = _paired(flat)
            cross, cache = pairs[:cross_count], pairs[cross_count:]
            # With probabilities: to OpenVINO they cost no more than fused attention.
            decoded = decoder.run(ids, positions, cross, cache, self_mask, cross_mask, True)
            return [decoded.hidden, *_flat(decoded.cache), *decoded.cross_attention]

        def project(tokens: Tensor) -> list[Tensor]:
            return _flat(decoder.project(Memory(tokens, ())).layers)

        self.passes = Compiled(decoder, passes, inputs, shapes, int8)
        shapes = [[-1, -1, config.memory_width]]
        self.projection = Compiled(decoder, project, [tokens], shapes, int8)
        hidden, shapes = past.hidden[:, -1], [[-1, config.width]]
        self.head_logits = Compiled(decoder, decoder.logits, [hidden], shapes, int8)
        self.torch_threads = ThreadpoolController().select(user_api="openmp")

    @contextmanager
    def inference(self) -> Iterator[None]:
        """No graph, and one thread for torch: a second would wait for more work, busily, where OpenVINO's run next."""
        with torch.inference_mode(), self.torch_threads.limit(limits=1):
            yield

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def project(self, memory: Memory) -> Projected:
        return Projected(_paired(self.projection([memory.tokens])), memory.mask)

    def forward(
        self,
        ids: Tensor,
        projected: Projected,
        cache: Cache | None = None,
        valid: Tensor | None = None,
        explicit: bool = False,
    ) -> Decoded:
        """As `vlm.model.decoder.Decoder`."""
        rows, length = ids.shape
        positions, self_mask = place(self.config, ids, cache, valid)
        if not cache:
            heads = self.config.heads
            empty = torch.empty(rows, heads, 0, self.config.width // heads)
            cache = ((empty, empty),) * self.self_layers
        if self_mask is None:
            self_mask = torch.ones(1, 1, length, cache[0][0].shape[2] + length, dtype=torch.bool)
        slots = projected.mask
        if slots is None:
            slots = torch.ones(1, projected.layers[0][0].shape[2], dtype=torch.bool)
        masks = [self_mask.view(-1, 1, *self_mask.shape[-2:]), slots[:, None, None, :]]
        inputs = [ids, positions.view(-1, length), *masks, *_flat(projected.layers), *_flat(cache)]
        kept = 1 + 2 * self.self_layers
        hidden, *rest = self.passes(inputs, None if explicit else kept)
        return Decoded(hidden, _paired(rest[: kept - 1]), tuple(rest[kept - 1 :]))

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledDecoder:
        return self  # as its graphs

    def logits(self, hidden: Tensor) -> Tensor:
        rows = hidden.flatten(0, -2)
        return self.head_logits([rows])[0].unflatten(0, hidden.shape[:-1])


class CompiledJointReader(JointReader):
    """A joint reader whose layers are a graph; where slots and tokens stand it says itself."""

    def __init__(self, reader: JointReader, int8: bool) -> None:
        nn.Module.__init__(self)
        self.config = config = reader.config
        self.slot_embedding = reader.slot_embedding
        # Two rows of three tokens, so that nothing takes them for constants.
        slots, ids = torch.zeros(2, config.slots, config.width), torch.zeros(2, 3, dtype=torch.long)
        real = torch.ones(2, config.slots + 3, dtype=torch.bool)
        inputs = [slots, ids, torch.arange(3).expand(2, -1), real]
        shapes = [[-1, config.slots, config.width], [-1, -1], [-1, -1], [-1, -1]]

        def layers(slots: Tensor, ids: Tensor, positions: Tensor, real: Tensor) -> list[Tensor]:
            hidden, attention = reader.run(slots, ids, positions, real, True)
            return [hidden, *attention]

        self.layers = Compiled(reader, layers, inputs, shapes, int8)

    def run(
        self, slots: Tensor, ids: Tensor, positions: Tensor, real: Tensor | None, explicit: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """As `JointReader`."""
        if real is None:
            real = torch.ones(len(ids), slots.shape[1] + ids.shape[1], dtype=torch.bool)
        inputs = [slots, ids, positions.expand(len(ids), -1), real]
        hidden, *attention = self.layers(inputs, None if explicit else 1)
        return hidden, attention

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledJointReader:
        return self  # as its graph


@functools.cache
def _core() -> Any:
    """The process's one handle on OpenVINO.

    Each gives its thread a stack for signals, and puts its predecessor's back when it goes, unmapped or not: with
    several of them, the next signal that Python handles kills the process, such as that of a loader's worker ending.
    """
    import openvino

    return openvino.Core()


class _RowsOf(nn.Module):
    """An embedding of some ids alone, without the rest of its table: tags are words in the memory."""

    def __init__(self, embedding: nn.Embedding, ids: Tensor) -> None:
        super().__init__()
        self.ids = ids.unique()  # in ascending order
        self.rows = embedding.weight[self.ids]

    def forward(self, ids: Tensor) -> Tensor:
        return self.rows[torch.searchsorted(self.ids, ids)]


def _flat(cache: Cache) -> list[Tensor]:
    return [tensor for key_value in cache for tensor in key_value]


def _paired(tensors: Sequence[Tensor]) -> Cache:
    return tuple(zip(tensors[::2], tensors[1::2], strict=True))


class _Function(nn.Module):
    """A function of a module's as a module, to be traced."""

    def __init__(self, owner: nn.Module, function: Callable[..., Tensor | list[Tensor]]) -> None:
        super().__init__()
        self.owner = owner
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        results = self.function(*inputs)
        return results if isinstance(results, Tensor) else tuple(results)


def _traced(module: nn.Module, example: Sequence[Tensor]) -> Any:
    """A module as OpenVINO's graph, with all sizes free.

    `openvino.convert_model` makes the same calls, but also reports its use to its makers over the network.
    """
    from openvino.frontend import FrontEndManager, OpConversionFailure
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # that Python's values are constants to a trace, as is meant
        decoder = TorchScriptPythonDecoder(module.eval(), example_input=tuple(example))
        try:
            return frontend.convert(frontend.load(decoder))
        except OpConversionFailure as error:
            reason = " ".join(str(error).split("Summary:")[-1].split())
            raise BackendError(f"OpenVINO cannot run this model: {reason}") from None


def _store_in_8_bits(graph: Any) -> mmap.mmap | None:
    """Replace each matrix by int8 rows times a scale each, which OpenVINO multiplies by without unpacking it first.

    It lays the rows out anew, but also keeps them as they were: they lie in the file that is returned, so that the
    system can do without them. None where there is no matrix.
    """
    from openvino import Type
    from openvino import opset13 as ops

    constants = [node for node in graph.get_ops() if node.get_type_name() == "Constant"]
    matrices = [
        constant
        for constant in constants
        if len(constant.shape) == 2 and constant.get_element_type() == Type.f32
    ]
    size = sum(matrix.data.size for matrix in matrices)
    if size == 0:
        return None
    with TemporaryFile() as file:
        file.truncate(size)
        store = mmap.mmap(file.fileno(), size)
    start = 0
    for matrix in matrices:
        quantised, scale = quantise(torch.from_numpy(matrix.data.copy()))
        rows = np.frombuffer(store, np.int8, quantised.numel(), start).reshape(quantised.shape)
        rows[...] = quantised.numpy()
        start += rows.size
        shared, scales = ops.constant(rows, shared_memory=True), scale[:, None].numpy()
        for user in matrix.output(0).get_target_inputs():
            node = user.get_node()
            if node.get_type_name() == "MatMul":
                product = ops.multiply(ops.convert(shared, "f32"), scales)
                user.replace_source_output(product.output(0))
            elif node.get_type_name() == "Gather":  # of embeddings
                ids, axis = node.input_value(1), node.input_value(2)
                gathered = ops.convert(ops.gather(shared, ids, axis), "f32")
                found = ops.multiply(gathered, ops.gather(scales, ids, axis))
                node.output(0).replace(found.output(0))
    return store
