"""What cross-attention is, on tasks that a core learns in minutes; docs/cross-attention.md is the lesson."""
