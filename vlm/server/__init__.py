"""Endpoints for programs and agents: OpenAI's chat completions, MCP, health and metrics, as one ASGI application."""
