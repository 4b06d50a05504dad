"""A page for the browser: drop a picture, say what happened to it, see it restored.

It needs gradio, the extra ``app``, which is imported where a page is made.
"""
