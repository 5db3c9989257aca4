"""The browser app."""

import matplotlib

from vlm.lean_imports import lean_gradio

# Gradio asks at each event for what draws plots; where nobody has chosen that, pyplot is imported to find out.
matplotlib.use("agg")

with lean_gradio():
    import gradio as gradio
