"""The Textual app; the only place that knows Textual."""
