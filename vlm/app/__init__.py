"""The browser app."""

from vlm.lean_imports import lean_gradio

with lean_gradio():
    import gradio as gradio
