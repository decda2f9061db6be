"""The configuration as pydantic models: one file for each part, `root.Config` for the whole.

Each field carries its default and, as the string below it, its description; the schema, the reference file and the
messages about unknown keys come from here. What needs more than one field or any I/O is in `relay.config.checks`.
"""

from relay.config.models.root import Config

__all__ = ["Config"]
