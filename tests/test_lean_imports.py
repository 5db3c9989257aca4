"""What is left out of imports at the start is there as soon as somebody uses it. Each case is a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

CAPTION = """
import sys, torch, vlm
disable = torch.compiler.disable
vlm.load().encode("assets/examples/dog.jpg").caption()
assert torch.compiler.disable is disable
assert "torch._dynamo" not in sys.modules and "torch._dynamo.utils" not in sys.modules
"""
LAYERS_FIRST = """
import sys
import vlm.runtimes.blocks, vlm.runtimes.packed
assert "torch._dynamo" not in sys.modules
"""
COMPILE = """
import sys, torch
import vlm.model.vision
from timm.layers import disable_compiler
from timm.models.naflexvit import NaFlexRopeIterator
assert NaFlexRopeIterator.__next__._torchdynamo_disable
assert "torch._dynamo" not in sys.modules
layer = torch.compile(torch.nn.Linear(2, 2), backend="eager")
layer(torch.ones(1, 2))
from torch._dynamo.utils import counters, is_compile_supported
from torchvision.ops.roi_align import is_compile_supported as asked
assert asked("cpu") == is_compile_supported("cpu") and counters
"""
MARKED = """
import sys, torch
from vlm.lean_imports import lean_timm
with lean_timm():
    @torch.compiler.disable
    def twice(x):
        "Two."
        return torch.compiler.is_compiling(), x + x
    @torch.compiler.disable(recursive=False)
    def same(x):
        return x
    context = torch.compiler.disable(reason="as it is")
assert twice.__doc__ == "Two." and twice(torch.ones(1))[1] == 2 and same(3) == 3
graphs = []
def backend(graph, inputs):
    graphs.append(graph)
    return graph.forward
compiled = torch.compile(lambda x: twice(x * 3)[1] * 5 if not twice(x)[0] else None, backend=backend)
assert compiled(torch.ones(1)) == 30
assert len(graphs) == 2, "what is marked breaks the graph"
"""
WITHIN = """
import sys
from vlm.lean_imports import lean_timm
with lean_timm():
    import torch._dynamo
    from torch._dynamo.utils import counters
    real = sys.modules["torch._dynamo.utils"]
assert sys.modules["torch._dynamo.utils"] is real and real.__file__
with lean_timm():
    assert sys.modules["torch._dynamo.utils"] is real
"""
FAILED = """
import sys
from vlm.lean_imports import lean_timm
import torch
disable = torch.compiler.disable
try:
    with lean_timm():
        raise ImportError
except ImportError:
    assert torch.compiler.disable is disable and "torch._dynamo.utils" not in sys.modules
"""
STUBS = """
import ast, inspect, sys, torch
read, find = [], inspect.getfile
source = ast.get_source_segment
ast.get_source_segment = lambda *args: read.append(args) or source(*args)
import vlm.app
import gradio
assert not read, "a component's source was read"
assert "mcp" not in sys.modules
import vlm.server.mcp_tools
assert inspect.getfile is find
assert callable(gradio.Image.upload) and gradio.Image.EVENTS
assert inspect.getfile(gradio.Image).endswith("image.py")
"""


@pytest.mark.parametrize(
    "code", [CAPTION, LAYERS_FIRST, COMPILE, MARKED, WITHIN, FAILED, STUBS],
    ids=["caption", "layers first", "compile", "marked", "within", "failed", "stubs"],
)  # fmt: skip
def test_left_out_until_it_is_used(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
