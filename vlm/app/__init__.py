"""The browser app."""

from vlm.lean_imports import without_stubs

with without_stubs():
    import gradio as gradio
