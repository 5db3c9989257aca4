"""The browser app."""

import matplotlib

from vlm.lean_imports import without_stubs

# Gradio asks at each event for what draws plots; where nobody has chosen that, pyplot is imported to find out.
matplotlib.use("agg")

with without_stubs():
    import gradio as gradio
