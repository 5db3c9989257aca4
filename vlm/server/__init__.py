"""Endpoints for programs: OpenAI's chat completions, health, metrics and MCP, as one ASGI application."""
